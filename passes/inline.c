/* passes/inline.c: calls of model-local functions replaced by their bodies, innermost first: when a
 * body is copied, it holds no calls itself. */
#include "passes/internal.h"

#include <string.h>

enum { MAX_DEPTH = 64, MAX_NODES = 200000 };

typedef struct inliner {
    mtbal_model *model;
    mtbal_diag *diag;
    bool keep_mtbal;
    int64_t made;            /* nodes so far */
    unsigned char *expanded; /* by function: 1 on the path of calls, 2 its body holds no calls */
    mtbal_value **map;       /* by value id, all NULL between expansions */
    int capacity;
} inliner;

static int function_index(const inliner *s, const mtbal_node *node)
{
    if (s->keep_mtbal && !strcmp(node->domain, "mtbal"))
        return -1;
    return mtbal_function_index(s->model, node->domain, node->op, node->overload);
}

/* ------------------------------------------------------------------ attributes */

typedef struct binding {
    const mtbal_function *f;
    const mtbal_node *call;
} binding;

static mtbal_status bind_attrs(mtbal_node *node, void *context)
{
    const binding *b = context;
    mtbal_bind_attrs(node, b->call, b->f);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ one call */

/* Operands that the call leaves out are left out in the copies, too; copies for mtbal's own nodes
 * are mtbal's. */
typedef struct finishing {
    inliner *s;
    const mtbal_graph *body;
    const mtbal_node *call;
    binding binding;
} finishing;

static mtbal_status finish_copy(mtbal_node *node, void *context)
{
    finishing *f = context;
    if (++f->s->made > MAX_NODES)
        return mtbal_fail(f->s->diag, MTBAL_INVALID, f->s->model->path,
                          "functions that call functions grow without bound",
                          "inlining makes more than %d nodes", MAX_NODES);
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && node->in[i]->graph == f->body && node->in[i]->is_input)
            node->in[i] = NULL;
    if (f->call->role && !node->role) {
        node->role = f->call->role;
        node->task = f->call->task;
    }
    return bind_attrs(node, &f->binding);
}

static mtbal_status clear_outputs(mtbal_node *node, void *context)
{
    const inliner *s = context;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && node->out[i]->id < s->capacity)
            s->map[node->out[i]->id] = NULL;
    for (mtbal_attr *a = node->attrs; a; a = a->next) {
        mtbal_graph *g = a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
        for (int i = 0; g && i < g->ninputs; i++)
            if (g->inputs[i]->id < s->capacity)
                s->map[g->inputs[i]->id] = NULL;
        for (int i = 0; g && i < g->ninitializers; i++)
            if (g->initializers[i]->id < s->capacity)
                s->map[g->initializers[i]->id] = NULL;
    }
    return MTBAL_OK;
}

static mtbal_status grow_map(inliner *s)
{
    int n = s->model->nvalues;
    if (n <= s->capacity)
        return MTBAL_OK;
    mtbal_value **bigger = mtbal_realloc(s->map, 2 * (size_t)n * sizeof *bigger);
    if (!bigger)
        return mtbal_no_memory(s->diag);
    memset(bigger + s->capacity, 0, (2 * (size_t)n - (size_t)s->capacity) * sizeof *bigger);
    s->map = bigger;
    s->capacity = 2 * n;
    return MTBAL_OK;
}

/* The results of the call where the body gives out one value twice, or an input as it came in. */
static mtbal_status pass_through(inliner *s, const mtbal_function *f, mtbal_node *call)
{
    for (int i = 0; i < f->body->noutputs && i < call->nout; i++) {
        mtbal_value *made = s->map[f->body->outputs[i]->id];
        char text[256];
        if (!call->out[i] || made == call->out[i])
            continue;
        if (!made)
            return mtbal_fail(s->diag, MTBAL_INVALID, mtbal_node_label(call, text),
                              "the function passes that operand on: the call must give it",
                              "output %s has no value", call->out[i]->name);
        mtbal_node *copy = mtbal_node_new(call->graph, call, "", "Identity", 1, &made, 0);
        if (!copy || mtbal_node_set_output(copy, 0, call->out[i]) != MTBAL_OK)
            return mtbal_no_memory(s->diag);
        copy->role = call->role;
        copy->task = call->task;
    }
    return MTBAL_OK;
}

static mtbal_status expand(inliner *s, const mtbal_function *f, mtbal_node *call)
{
    mtbal_graph *body = f->body;
    mtbal_node *before = call->prev;
    finishing finish = {s, body, call, {f, call}};
    const char *prefix =
        mtbal_arena_printf(s->model->arena, "%s/", *call->name ? call->name : call->op);
    MTBAL_TRY(grow_map(s));
    for (int i = 0; i < body->ninputs && i < call->nin; i++)
        s->map[body->inputs[i]->id] = call->in[i];
    for (int i = 0; i < body->noutputs && i < call->nout; i++)
        if (call->out[i] && body->outputs[i]->def && !s->map[body->outputs[i]->id])
            s->map[body->outputs[i]->id] = call->out[i];
    if (!prefix ||
        mtbal_graph_copy_nodes(body, call->graph, call, s->map, s->capacity, prefix) != MTBAL_OK)
        return mtbal_no_memory(s->diag);
    for (mtbal_node *node = before ? before->next : call->graph->first; node != call;
         node = node->next) {
        MTBAL_TRY(finish_copy(node, &finish));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, finish_copy, &finish));
    }
    MTBAL_TRY(pass_through(s, f, call));
    for (int i = 0; i < body->ninputs; i++)
        s->map[body->inputs[i]->id] = NULL;
    MTBAL_TRY(mtbal_graph_walk(body, clear_outputs, s));
    for (int i = 0; i < call->nout; i++)
        call->out[i] = NULL;
    mtbal_node_remove(call);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ innermost first */

static int64_t opset_of(const mtbal_function *f)
{
    for (int i = 0; i < f->nopsets; i++)
        if (!*f->opsets[i].domain)
            return f->opsets[i].version;
    return 0;
}

/* The body's nodes become the model's: they must mean the same there. */
static mtbal_status check_opsets(inliner *s, const mtbal_function *f)
{
    int64_t own = opset_of(f), models = mtbal_opset_of(s->model, "");
    if (own && own != models)
        return mtbal_fail(s->diag, MTBAL_UNSUPPORTED, s->model->path,
                          "export model and functions with one opset",
                          "function %s.%s is written for opset %lld, the model for %lld", f->domain,
                          f->name, (long long)own, (long long)models);
    for (int i = 0; i < f->nopsets; i++)
        if (mtbal_opset_of(s->model, f->opsets[i].domain) == 0 &&
            mtbal_set_opset(s->model, f->opsets[i].domain, f->opsets[i].version) != MTBAL_OK)
            return mtbal_no_memory(s->diag);
    return MTBAL_OK;
}

static mtbal_status inline_graph(inliner *s, mtbal_graph *graph, int depth);

static mtbal_status inline_call(inliner *s, mtbal_node *node, int index, int depth)
{
    mtbal_function *f = s->model->functions[index];
    if (s->expanded[index] == 1 || depth > MAX_DEPTH)
        return mtbal_fail(s->diag, MTBAL_INVALID, s->model->path, "a function may not call itself",
                          depth > MAX_DEPTH ? "functions call each other too deep, at %s.%s"
                                            : "function %s.%s calls itself",
                          f->domain, f->name);
    if (s->expanded[index] == 0) {
        MTBAL_TRY(check_opsets(s, f));
        s->expanded[index] = 1;
        MTBAL_TRY(inline_graph(s, f->body, depth + 1));
        s->expanded[index] = 2;
    }
    return expand(s, f, node);
}

static mtbal_status inline_graph(inliner *s, mtbal_graph *graph, int depth)
{
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(inline_graph(s, a->g, depth));
        int index = node->opcode < 0 || *node->domain ? function_index(s, node) : -1;
        if (index >= 0)
            MTBAL_TRY(inline_call(s, node, index, depth));
    }
    return MTBAL_OK;
}

mtbal_status mtbal_inline_functions(mtbal_model *model, bool keep_mtbal, mtbal_diag *diag)
{
    inliner s = {.model = model, .diag = diag, .keep_mtbal = keep_mtbal};
    if (model->nfunctions == 0)
        return MTBAL_OK;
    s.expanded = mtbal_arena_alloc(model->arena, (size_t)model->nfunctions);
    mtbal_status status = s.expanded ? inline_graph(&s, model->graph, 0) : mtbal_no_memory(diag);
    mtbal_free(s.map);
    if (status != MTBAL_OK)
        return status;
    bool *keep = mtbal_arena_alloc(model->arena, (size_t)model->nfunctions);
    if (!keep)
        return mtbal_no_memory(diag);
    for (int i = 0; i < model->nfunctions; i++)
        keep[i] = keep_mtbal && !strcmp(model->functions[i]->domain, "mtbal");
    return mtbal_functions_keep(model, keep) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}
