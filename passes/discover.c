/* passes/discover.c: weights, tasks, parameters, and what norms are taken over. */
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

void mtbal_names_add(mtbal_names *names, const char *name)
{
    size_t used = strlen(names->text), room = sizeof names->text - used;
    names->count++;
    if (names->full)
        return;
    names->full = strlen(name) + 8 > room;
    snprintf(names->text + used, room, "%s%s", used ? ", " : "", names->full ? "..." : name);
}

/* ------------------------------------------------------------------ weights in Constant nodes */

static bool used_as_weight(const mtbal_uses *uses, const mtbal_value *v, bool one)
{
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        const mtbal_node *node = uses->node[v->id][i];
        unsigned weights = mtbal_op_weights(node->opcode, one);
        for (int k = 0; k < node->nin && k < 32; k++)
            if (node->in[k] == v && (weights >> k & 1))
                return true;
    }
    return false;
}

/* The float tensor of a Constant, NULL when it is none. */
static mtbal_tensor *float_constant(const mtbal_node *node)
{
    const mtbal_attr *a = mtbal_node_is(node, MTBAL_OP_constant) && node->nout == 1 && node->out[0]
                              ? mtbal_attr_find(node, "value")
                              : NULL;
    return a && a->kind == MTBAL_ATTR_TENSOR && a->t && mtbal_dtype_is_float(a->t->dtype) ? a->t
                                                                                          : NULL;
}

/* Where initializers hold the weights, a Constant is a constant: a mask, a table of positions, the
 * scale of one that an exporter needs. */
static bool initializers_hold_weights(const mtbal_graph *graph)
{
    for (int i = 0; i < graph->ninitializers; i++) {
        const mtbal_tensor *t = graph->initializers[i]->tensor;
        if (t && mtbal_dtype_is_float(t->dtype) && t->count > 1)
            return true;
    }
    return false;
}

/* A float Constant becomes an initializer of the same name where --train names it, or where it is
 * used as a weight in a model that has all of its weights in Constants. */
mtbal_status mtbal_pass_hoist(mtbal_context *c)
{
    const mtbal_options *o = c->options;
    bool plain = initializers_hold_weights(c->graph);
    mtbal_names names = {0};
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (mtbal_node *node = c->graph->first, *next; node; node = next) {
        mtbal_tensor *t = float_constant(node);
        next = node->next;
        if (!t || t->rank < 1 || node->out[0]->is_output)
            continue;
        if (!(o->ntrain && any_glob(o->train, o->ntrain, node->out[0]->name)) &&
            (plain || !used_as_weight(uses, node->out[0], t->count == 1)))
            continue;
        mtbal_value *v = node->out[0];
        MTBAL_TRY(mtbal_tensor_load(c->model, t, c->diag));
        mtbal_tensor *own = mtbal_tensor_new(c->model, t->dtype, t->rank, t->dims, t->data);
        if (!own)
            return mtbal_no_memory(c->diag);
        mtbal_node_remove(node);
        if (mtbal_add_initializer(c->graph, v, own) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
        mtbal_names_add(&names, v->name);
    }
    return names.count ? mtbal_notice_add(c, MTBAL_NOTE,
                                          "%d weight%s in Constant nodes: %s (initializers now)",
                                          names.count, names.count > 1 ? "s" : "", names.text)
                       : MTBAL_OK;
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
    if (c->ntasks == MTBAL_MOST_TASKS)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path,
                          "choose from them with --task NAME=OUTPUT", "more than %d tasks",
                          MTBAL_MOST_TASKS);
    const char *own = mtbal_intern(c->model->arena, name);
    if (!own)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->ntasks; i++)
        if (c->tasks[i].name == own)
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                              "give every task a name of its own", "two tasks are named %s", name);
    c->tasks[c->ntasks++] = (mtbal_task){.name = own, .loss = loss};
    return MTBAL_OK;
}

mtbal_status mtbal_pass_tasks(mtbal_context *c)
{
    const mtbal_options *o = c->options;
    size_t most = (size_t)(o->ntasks > 0 ? o->ntasks : c->graph->noutputs) + 1;
    c->tasks = mtbal_arena_array(c->model->arena, most, sizeof *c->tasks);
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
    if (c->ntasks > 0)
        return MTBAL_OK;
    char hint[512];
    mtbal_suggest_losses(c, hint, sizeof hint);
    return mtbal_fail(c->diag, MTBAL_INVALID, c->model->path, hint,
                      "no task: none of the outputs is a float with one element");
}

/* ------------------------------------------------------------------ parameters */

static bool is_running_statistic(const mtbal_uses *uses, const mtbal_value *v)
{
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        const mtbal_node *node = uses->node[v->id][i];
        if (mtbal_node_is(node, MTBAL_OP_batch_normalization) &&
            ((node->nin > 3 && node->in[3] == v) || (node->nin > 4 && node->in[4] == v)))
            return true;
    }
    return false;
}

/* What --train and --freeze leave out, or what they name in vain. */
typedef struct left_out {
    mtbal_names scalars, unreached;
} left_out;

static bool chosen(const mtbal_context *c, const mtbal_uses *uses, const mtbal_value *v,
                   left_out *left)
{
    const mtbal_options *o = c->options;
    bool asked = o->ntrain && any_glob(o->train, o->ntrain, v->name);
    if (!v->tensor || !mtbal_dtype_is_float(v->tensor->dtype) || (o->ntrain && !asked) ||
        any_glob(o->freeze, o->nfreeze, v->name))
        return false;
    if (!c->reach[v->id]) {
        if (asked)
            mtbal_names_add(&left->unreached, v->name);
        return false;
    }
    if (asked)
        return true;
    if (is_running_statistic(uses, v))
        return false;
    if (v->tensor->rank == 0)
        mtbal_names_add(&left->scalars, v->name);
    return v->tensor->rank > 0;
}

/* --train and --freeze globs must match something. */
static mtbal_status check_globs(const mtbal_context *c, const char *const *globs, int n,
                                const char *option)
{
    for (int i = 0; i < n; i++) {
        bool found = false;
        for (int k = 0; k < c->graph->ninitializers && !found; k++) {
            const mtbal_value *v = c->graph->initializers[k];
            found = v->tensor && mtbal_dtype_is_float(v->tensor->dtype) &&
                    mtbal_glob(globs[i], v->name);
        }
        if (!found)
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                              "quote the pattern; mtbal-rewrite -v lists the parameters",
                              "%s '%s' matches no float initializer", option, globs[i]);
    }
    return MTBAL_OK;
}

static mtbal_status report_left_out(mtbal_context *c, const left_out *left)
{
    if (left->scalars.count)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_NOTE,
            "%d scalar initializer%s not trained: %s (--train GLOB chooses otherwise)",
            left->scalars.count, left->scalars.count > 1 ? "s are" : " is", left->scalars.text));
    if (left->unreached.count)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_WARNING, "--train names %d initializer%s that no task reaches: %s",
            left->unreached.count, left->unreached.count > 1 ? "s" : "", left->unreached.text));
    return MTBAL_OK;
}

mtbal_status mtbal_pass_params(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    const mtbal_options *o = c->options;
    left_out left = {0};
    c->params = mtbal_arena_array(arena, (size_t)c->graph->ninitializers + 1, sizeof *c->params);
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, arena);
    if (!c->params || !uses)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(check_globs(c, o->train, o->ntrain, "--train"));
    MTBAL_TRY(check_globs(c, o->freeze, o->nfreeze, "--freeze"));
    MTBAL_TRY(mtbal_spread_reach(c));
    for (int i = 0; i < c->graph->ninitializers; i++) {
        mtbal_value *v = c->graph->initializers[i];
        if (!chosen(c, uses, v, &left))
            continue;
        c->params[c->nparams++] = (mtbal_param){.value = v, .reach = c->reach[v->id]};
        for (int t = 0; t < c->ntasks; t++)
            c->tasks[t].nparams += mtbal_set_has(c->sets, c->reach[v->id], t);
    }
    MTBAL_TRY(report_left_out(c, &left));
    if (c->nparams == 0)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path,
                          "is the model exported with its weights? see --train",
                          "no parameter lies on a differentiable path to a task");
    return mtbal_spread_dependence(c);
}

/* ------------------------------------------------------------------ the scope of the norm */

/* The parameter that an operand is, perhaps turned or cast first; -1: none. */
static int param_behind(const int *param_of, const mtbal_context *c, const mtbal_value *v)
{
    while (v && v->id < c->nreach && param_of[v->id] == 0 && v->def)
        v = mtbal_node_has(v->def, MTBAL_LAYOUT) ? v->def->in[0] : NULL;
    return v && v->id < c->nreach ? param_of[v->id] - 1 : -1;
}

/* Marks the shared parameters of the last node of the trunk that has a shared weight (two or more
 * axes), as GradNorm's "last shared layer"; of the last that has any where there is no weight. */
static mtbal_status last_shared(mtbal_context *c)
{
    int *param_of = mtbal_arena_array(c->model->arena, (size_t)c->nreach, sizeof *param_of);
    if (!param_of)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++)
        param_of[c->params[p].value->id] = p + 1;
    for (int least = 2; least >= 0; least -= 2)
        for (mtbal_node *node = c->graph->last; node; node = node->prev) {
            bool found = false;
            for (int i = 0; i < node->nin; i++) {
                int p = param_behind(param_of, c, node->in[i]);
                found = found || (p >= 0 && mtbal_is_shared(c, c->params[p].reach) &&
                                  c->params[p].value->type.rank >= least);
            }
            for (int i = 0; i < node->nin && found; i++) {
                int p = param_behind(param_of, c, node->in[i]);
                if (p >= 0 && mtbal_is_shared(c, c->params[p].reach))
                    c->params[p].in_scope = true;
            }
            if (found)
                return MTBAL_OK;
        }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_scope(mtbal_context *c)
{
    const char *scope = c->options->norm_over;
    int in_scope = 0;
    bool features = !strcmp(scope, "features"), all = !strcmp(scope, "all");
    bool shared = !strcmp(scope, "shared"), last = !strcmp(scope, "last-shared");
    bool glob = !features && !all && !shared && !last;
    for (int i = 0; i < c->nparams; i++) {
        mtbal_param *p = &c->params[i];
        p->in_scope = all || (shared && mtbal_is_shared(c, p->reach)) ||
                      (glob && mtbal_glob(scope, p->value->name));
    }
    if (last)
        MTBAL_TRY(last_shared(c));
    for (int i = 0; i < c->nparams; i++)
        in_scope += c->params[i].in_scope;
    if (in_scope || features)
        return MTBAL_OK;
    if (glob)
        return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                          "shared, last-shared, features, all, or a pattern of names",
                          "--norm-over %s matches no parameter", scope);
    for (int i = 0; i < c->nparams; i++)
        c->params[i].in_scope = true;
    return c->ntasks > 1
               ? mtbal_notice_add(
                     c, MTBAL_WARNING,
                     "no parameter is shared by two tasks: norms are taken over all parameters")
               : MTBAL_OK;
}
