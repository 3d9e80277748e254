/* passes/discover.c: tasks, parameters, and who reaches whom. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <stdlib.h>
#include <string.h>

/* `*` any run, `?` any one character. */
bool mtbal_glob(const char *pattern, const char *text)
{
    const char *star = NULL, *back = NULL;
    while (*text) {
        if (*pattern == '*') {
            star = ++pattern;
            back = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star;
            text = ++back;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

static bool any_glob(const char *const *globs, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (mtbal_glob(globs[i], name))
            return true;
    return false;
}

mtbal_status mtbal_notice_add(mtbal_context *c, mtbal_level level, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mtbal_arena *arena = c->model->arena;
    mtbal_notice *longer = mtbal_arena_array(arena, (size_t)c->nnotices + 1, sizeof *longer);
    const char *copy = mtbal_arena_copy(arena, text, strlen(text) + 1);
    if (!longer || !copy)
        return mtbal_no_memory(c->diag);
    if (c->nnotices)
        memcpy(longer, c->notices, (size_t)c->nnotices * sizeof *longer);
    longer[c->nnotices] = (mtbal_notice){level, copy};
    c->notices = longer;
    c->nnotices++;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ weights in Constant nodes */

/* A float Constant that is used as a weight (more than one element) becomes an initializer of the
 * same name. */
mtbal_status mtbal_pass_hoist(mtbal_context *c)
{
    for (mtbal_node *node = c->graph->first, *next; node; node = next) {
        next = node->next;
        if (!mtbal_node_is(node, "Constant") || node->nout != 1 || !node->out[0])
            continue;
        mtbal_value *v = node->out[0];
        mtbal_attr *a = mtbal_attr_find(node, "value");
        if (!a || a->kind != MTBAL_ATTR_TENSOR || !a->t || a->t->rank < 1 || a->t->count < 2 ||
            !mtbal_dtype_is_float(a->t->dtype) || v->is_output)
            continue;
        mtbal_tensor *t = a->t;
        MTBAL_TRY(mtbal_tensor_load(c->model, t, c->diag));
        mtbal_tensor *own = mtbal_tensor_new(c->model, t->dtype, t->rank, t->dims, t->data);
        if (!own)
            return mtbal_no_memory(c->diag);
        mtbal_node_remove(node);
        if (mtbal_add_initializer(c->graph, v, own) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ tasks */

static bool is_scalar_float(const mtbal_value *v)
{
    return v->type.kind == MTBAL_TENSOR && mtbal_dtype_is_float(v->type.dtype) &&
           mtbal_shape_count(&v->type) == 1;
}

static mtbal_value *output_named(const mtbal_graph *graph, const char *name)
{
    for (int i = 0; i < graph->noutputs; i++)
        if (!strcmp(graph->outputs[i]->name, name))
            return graph->outputs[i];
    return NULL;
}

static mtbal_status add_task(mtbal_context *c, const char *name, mtbal_value *loss)
{
    if (c->ntasks == MTBAL_MAX_TASKS)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path, NULL, "more than %d tasks",
                          MTBAL_MAX_TASKS);
    for (int i = 0; i < c->ntasks; i++)
        if (!strcmp(c->tasks[i].name, name))
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                              "give every task a name of its own", "two tasks are named %s", name);
    c->tasks[c->ntasks] =
        (mtbal_task){.name = mtbal_intern(c->model->arena, name), .loss = loss, .index = c->ntasks};
    c->ntasks++;
    return MTBAL_OK;
}

/* Ready-to-paste --loss lines for the outputs of a graph without a loss. */
static void suggest_losses(const mtbal_graph *graph, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "give the heads losses:");
    for (int i = 0; i < graph->noutputs && n < size; i++) {
        const mtbal_value *v = graph->outputs[i];
        int64_t width = v->type.rank > 1 ? v->type.dims[1].size : 1;
        if (mtbal_dtype_is_float(v->type.dtype) && !v->is_input)
            n += (size_t)snprintf(text + n, size - n, " --loss %s=%s:%s,%s_label", v->name,
                                  width > 2 ? "cross-entropy" : "mse", v->name, v->name);
    }
}

mtbal_status mtbal_pass_tasks(mtbal_context *c)
{
    const mtbal_options *o = c->options;
    c->tasks = mtbal_arena_array(c->model->arena, MTBAL_MAX_TASKS, sizeof *c->tasks);
    if (!c->tasks)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < o->ntasks; i++) {
        mtbal_value *loss = output_named(c->graph, o->tasks[i].value);
        if (!loss)
            return mtbal_fail(
                c->diag, MTBAL_USAGE, c->model->path, "name one of the graph's outputs",
                "--task %s=%s: there is no such output", o->tasks[i].name, o->tasks[i].value);
        if (!is_scalar_float(loss))
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                              "a task is one float; reduce it, or use --loss",
                              "--task %s=%s: the output is not a scalar", o->tasks[i].name,
                              o->tasks[i].value);
        MTBAL_TRY(add_task(c, o->tasks[i].name, loss));
    }
    for (int i = 0; i < c->graph->noutputs && o->ntasks == 0; i++) {
        mtbal_value *v = c->graph->outputs[i];
        static const char ours[] = "mtbal/loss/";
        if (is_scalar_float(v))
            MTBAL_TRY(add_task(
                c, !strncmp(v->name, ours, sizeof ours - 1) ? v->name + sizeof ours - 1 : v->name,
                v));
    }
    char hint[512];
    suggest_losses(c->graph, hint, sizeof hint);
    if (c->ntasks == 0)
        return mtbal_fail(c->diag, MTBAL_INVALID, c->model->path, hint,
                          "no task: none of the outputs is a float with one element");
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ reach and dependence */

typedef struct reacher {
    mtbal_context *c;
    uint64_t mask;
} reacher;

static mtbal_status reach_operands(mtbal_node *node, void *context)
{
    reacher *r = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i])
            r->c->reach[node->in[i]->id] |= r->mask;
    return MTBAL_OK;
}

/* Which operands carry gradients: those that a stop node reads do not. */
static bool is_stop(const mtbal_node *node)
{
    bool stop;
    mtbal_gradient_rule(node->opcode, &stop);
    return stop || (mtbal_node_is(node, "Cast") && node->out[0] &&
                    !mtbal_dtype_is_float(node->out[0]->type.dtype));
}

static void spread_reach(mtbal_context *c)
{
    for (int i = 0; i < c->ntasks; i++)
        c->reach[c->tasks[i].loss->id] |= (uint64_t)1 << i;
    for (mtbal_node *node = c->graph->last; node; node = node->prev) {
        uint64_t mask = 0;
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                mask |= c->reach[node->out[i]->id];
        if (!mask || is_stop(node))
            continue;
        reacher r = {c, mask};
        reach_operands(node, &r);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g) {
                mtbal_graph_walk(a->g, reach_operands, &r);
                for (int i = 0; i < a->g->noutputs; i++)
                    c->reach[a->g->outputs[i]->id] |= mask;
            }
    }
}

static bool is_running_statistic(const mtbal_uses *uses, const mtbal_value *v)
{
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        const mtbal_node *node = uses->node[v->id][i];
        if (mtbal_node_is(node, "BatchNormalization") &&
            ((node->nin > 3 && node->in[3] == v) || (node->nin > 4 && node->in[4] == v)))
            return true;
    }
    return false;
}

static bool chosen(const mtbal_context *c, const mtbal_uses *uses, mtbal_value *v, int *scalars,
                   char *left, size_t size)
{
    const mtbal_options *o = c->options;
    if (!v->tensor || !mtbal_dtype_is_float(v->tensor->dtype) || !c->reach[v->id])
        return false;
    if (any_glob(o->freeze, o->nfreeze, v->name))
        return false;
    if (o->ntrain)
        return any_glob(o->train, o->ntrain, v->name);
    if (is_running_statistic(uses, v))
        return false;
    if (v->tensor->count == 1 && v->tensor->rank == 0) {
        size_t n = strlen(left);
        snprintf(left + n, size - n, "%s%s", n ? ", " : "", v->name);
        ++*scalars;
        return false;
    }
    return true;
}

static void spread_dependence(mtbal_context *c)
{
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        bool depends = false;
        if (is_stop(node))
            continue;
        for (int i = 0; i < node->nin; i++)
            depends = depends || (node->in[i] && c->depends[node->in[i]->id]);
        for (mtbal_attr *a = node->attrs; a && !depends; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                for (mtbal_node *inner = a->g->first; inner && !depends; inner = inner->next)
                    for (int i = 0; i < inner->nin; i++)
                        depends = depends || (inner->in[i] && c->depends[inner->in[i]->id]);
        for (int i = 0; i < node->nout && depends; i++)
            if (node->out[i] && (mtbal_dtype_is_float(node->out[i]->type.dtype) ||
                                 node->out[i]->type.dtype == MTBAL_UNDEFINED))
                c->depends[node->out[i]->id] = true;
    }
}

/* --train and --freeze globs must match something. */
static mtbal_status check_globs(const mtbal_context *c, const char *const *globs, int n,
                                const char *option)
{
    for (int i = 0; i < n; i++) {
        bool found = false;
        for (int k = 0; k < c->graph->ninitializers && !found; k++)
            found = mtbal_glob(globs[i], c->graph->initializers[k]->name);
        if (!found)
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                              "quote the pattern; mtbal-rewrite -v lists the parameters",
                              "%s '%s' matches no initializer", option, globs[i]);
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_params(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    const mtbal_options *o = c->options;
    char left[512] = "";
    int scalars = 0;
    c->nreach = c->model->nvalues;
    c->reach = mtbal_arena_array(arena, (size_t)c->nreach, sizeof *c->reach);
    c->depends = mtbal_arena_array(arena, (size_t)c->nreach, sizeof *c->depends);
    c->params = mtbal_arena_array(arena, (size_t)c->graph->ninitializers + 1, sizeof *c->params);
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, arena);
    if (!c->reach || !c->depends || !c->params || !uses)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(check_globs(c, o->train, o->ntrain, "--train"));
    MTBAL_TRY(check_globs(c, o->freeze, o->nfreeze, "--freeze"));
    spread_reach(c);
    for (int i = 0; i < c->graph->ninitializers; i++) {
        mtbal_value *v = c->graph->initializers[i];
        if (!chosen(c, uses, v, &scalars, left, sizeof left))
            continue;
        c->params[c->nparams++] = (mtbal_param){.value = v, .reach = c->reach[v->id]};
        c->depends[v->id] = true;
        for (int t = 0; t < c->ntasks; t++)
            c->tasks[t].nparams += c->reach[v->id] >> t & 1;
    }
    if (scalars)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_NOTE,
            "%d scalar initializer%s not trained: %s (--train GLOB chooses otherwise)", scalars,
            scalars > 1 ? "s are" : " is", left));
    if (c->nparams == 0)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path,
                          "is the model exported with its weights? see --train",
                          "no parameter lies on a differentiable path to a task");
    spread_dependence(c);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the scope of the norm */

static bool is_shared(const mtbal_param *p)
{
    return p->reach & (p->reach - 1);
}

mtbal_status mtbal_pass_scope(mtbal_context *c)
{
    const char *scope = c->options->norm_over;
    int in_scope = 0;
    bool features = !strcmp(scope, "features"), all = !strcmp(scope, "all");
    bool shared = !strcmp(scope, "shared"), last = !strcmp(scope, "last-shared");
    for (int i = 0; i < c->nparams; i++) {
        mtbal_param *p = &c->params[i];
        p->in_scope = all || ((shared || last) && is_shared(p)) ||
                      (!all && !shared && !last && !features && mtbal_glob(scope, p->value->name));
        in_scope += p->in_scope;
    }
    if (last) { /* the parameter of the last node of the trunk, and those of the same node */
        mtbal_node *found = NULL;
        for (mtbal_node *node = c->graph->last; node && !found; node = node->prev)
            for (int i = 0; i < node->nin; i++)
                for (int k = 0; k < c->nparams; k++)
                    if (node->in[i] == c->params[k].value && is_shared(&c->params[k]))
                        found = node;
        in_scope = 0;
        for (int k = 0; k < c->nparams; k++) {
            c->params[k].in_scope = false;
            for (int i = 0; found && i < found->nin; i++)
                c->params[k].in_scope = c->params[k].in_scope || found->in[i] == c->params[k].value;
            in_scope += c->params[k].in_scope;
        }
    }
    if (in_scope == 0 && !features && (shared || last)) {
        for (int i = 0; i < c->nparams; i++)
            c->params[i].in_scope = true;
        return mtbal_notice_add(
            c, MTBAL_WARNING,
            "no parameter is shared by two tasks: norms are taken over all parameters");
    }
    if (in_scope == 0 && !features)
        return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                          "shared, last-shared, features, all, or a pattern of names",
                          "--norm-over %s matches no parameter", scope);
    return MTBAL_OK;
}
