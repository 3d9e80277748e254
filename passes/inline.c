/* passes/inline.c: calls of model-local functions replaced by their bodies. */
#include "passes/passes.h"

#include <string.h>

enum { MAX_DEPTH = 100, MAX_NODES = 1000000 };

typedef struct inliner {
    mtbal_model *model;
    mtbal_diag *diag;
    bool keep_mtbal;
    int64_t made; /* nodes so far */
} inliner;

/* Attributes of copied nodes that refer to the function's become the call's, or the default; else
 * they go. */
static mtbal_status bind_attrs(inliner *s, const mtbal_function *f, const mtbal_node *call,
                               mtbal_node *node);

static mtbal_status bind_graph(inliner *s, const mtbal_function *f, const mtbal_node *call,
                               mtbal_graph *graph)
{
    for (mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(bind_attrs(s, f, call, node));
    return MTBAL_OK;
}

static mtbal_status bind_attrs(inliner *s, const mtbal_function *f, const mtbal_node *call,
                               mtbal_node *node)
{
    for (mtbal_attr **link = &node->attrs; *link;) {
        mtbal_attr *a = *link;
        const mtbal_attr *given = a->ref ? mtbal_attr_find(call, a->ref) : NULL;
        for (const mtbal_attr *d = f->defaults; d && a->ref && !given; d = d->next)
            given = strcmp(d->name, a->ref) ? NULL : d;
        if (given) {
            const char *name = a->name;
            mtbal_attr *next = a->next;
            *a = *given;
            a->name = name;
            a->next = next;
            a->origin = NULL;
        }
        if (a->ref) {
            *link = a->next;
            continue;
        }
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            MTBAL_TRY(bind_graph(s, f, call, a->g));
        link = &a->next;
    }
    return MTBAL_OK;
}

/* The body in front of the call; the call's operands and results stand in for the body's. */
static mtbal_status expand(inliner *s, const mtbal_function *f, mtbal_node *call)
{
    mtbal_graph *body = f->body, *graph = call->graph;
    int nmap = s->model->nvalues;
    mtbal_arena *scratch = mtbal_arena_new();
    mtbal_value **map = scratch ? mtbal_arena_array(scratch, (size_t)nmap, sizeof *map) : NULL;
    char prefix[256];
    mtbal_node *before_first = call->prev;
    mtbal_status status = map ? MTBAL_OK : mtbal_no_memory(s->diag);
    snprintf(prefix, sizeof prefix, "%s/", *call->name ? call->name : call->op);
    s->made += body->nnodes;
    if (s->made > MAX_NODES && status == MTBAL_OK)
        status = mtbal_fail(s->diag, MTBAL_INVALID, s->model->path,
                            "functions that call each other grow without bound",
                            "inlining makes more than %d nodes", MAX_NODES);
    for (int i = 0; i < body->ninputs && status == MTBAL_OK; i++)
        map[body->inputs[i]->id] = i < call->nin ? call->in[i] : NULL;
    /* an optional operand that is left out: nothing stands in; its uses are cut below */
    for (int i = 0; i < body->noutputs && i < call->nout && status == MTBAL_OK; i++)
        if (call->out[i] && !map[body->outputs[i]->id])
            map[body->outputs[i]->id] = call->out[i];
    if (status == MTBAL_OK)
        status = mtbal_graph_copy_nodes(body, graph, call, map, nmap, prefix);
    for (int i = 0; i < body->noutputs && i < call->nout && status == MTBAL_OK; i++) {
        mtbal_value *made = map[body->outputs[i]->id];
        if (call->out[i] &&
            made != call->out[i]) { /* the same value twice, or an input passed through */
            mtbal_node *copy =
                made ? mtbal_node_new(graph, call, "", "Identity", 1, &made, 0) : NULL;
            status = copy ? mtbal_node_set_output(copy, 0, call->out[i]) : mtbal_no_memory(s->diag);
        }
    }
    mtbal_node *node = before_first ? before_first->next : graph->first;
    for (; node && node != call && status == MTBAL_OK; node = node->next) {
        status = bind_attrs(s, f, call, node);
        for (int i = 0; i < node->nin; i++)
            for (int k = 0; k < body->ninputs; k++)
                if (node->in[i] == body->inputs[k])
                    node->in[i] = NULL;
        if (call->role && !node->role) {
            node->role = call->role;
            node->task = call->task;
        }
    }
    mtbal_arena_free(scratch);
    if (status == MTBAL_OK) {
        for (int i = 0; i < call->nout; i++)
            call->out[i] = NULL;
        mtbal_node_remove(call);
    }
    return status;
}

static mtbal_status inline_graph(inliner *s, mtbal_graph *graph, int depth)
{
    if (depth > MAX_DEPTH)
        return mtbal_fail(s->diag, MTBAL_INVALID, s->model->path, "a function may not call itself",
                          "functions call each other more than %d deep", MAX_DEPTH);
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(inline_graph(s, a->g, depth));
        const mtbal_function *f =
            mtbal_function_find(s->model, node->domain, node->op, node->overload);
        if (!f || (s->keep_mtbal && !strcmp(node->domain, "mtbal")))
            continue;
        /* what was inlined may hold calls itself: go on at its first node */
        mtbal_node *before = node->prev;
        if (f->body->first)
            node->mark = 0;
        MTBAL_TRY(expand(s, f, node));
        next = before ? before->next : graph->first;
        if (s->made > MAX_NODES)
            return MTBAL_INVALID;
    }
    return MTBAL_OK;
}

mtbal_status mtbal_inline_functions(mtbal_model *model, bool keep_mtbal, mtbal_diag *diag)
{
    inliner s = {.model = model, .diag = diag, .keep_mtbal = keep_mtbal};
    if (model->nfunctions == 0)
        return MTBAL_OK;
    MTBAL_TRY(inline_graph(&s, model->graph, 0));
    int kept = 0;
    for (int i = 0; i < model->nfunctions; i++)
        if (keep_mtbal && !strcmp(model->functions[i]->domain, "mtbal"))
            model->functions[kept++] = model->functions[i];
    model->nfunctions = kept;
    return MTBAL_OK;
}
