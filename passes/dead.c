/* passes/dead.c: nodes whose outputs nobody uses, and functions that nobody calls. */
#include "passes/internal.h"

#include <string.h>

typedef struct marker {
    bool *live; /* by value id */
} marker;

static mtbal_status mark_operands(mtbal_node *node, void *context)
{
    marker *m = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i])
            m->live[node->in[i]->id] = true;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g) {
            for (int i = 0; i < a->g->noutputs; i++)
                m->live[a->g->outputs[i]->id] = true;
        }
    return MTBAL_OK;
}

void mtbal_mark_read(mtbal_node *node, bool *marked)
{
    marker m = {marked};
    mark_operands(node, &m);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            mtbal_graph_walk(a->g, mark_operands, &m);
}

static void sweep(mtbal_graph *graph, marker *m)
{
    for (int i = 0; i < graph->noutputs; i++)
        m->live[graph->outputs[i]->id] = true;
    for (mtbal_node *node = graph->last, *prev; node; node = prev) {
        bool used = false;
        prev = node->prev;
        for (int i = 0; i < node->nout; i++)
            used = used || (node->out[i] && m->live[node->out[i]->id]);
        if (!used) {
            mtbal_node_remove(node);
            continue;
        }
        mtbal_mark_read(node, m->live);
    }
}

/* Functions that are called from the main graph, or from one that is. */
typedef struct callers {
    mtbal_model *model;
    bool *called; /* by function */
} callers;

static mtbal_status mark_function(mtbal_node *node, void *context)
{
    callers *s = context;
    int f = node->opcode >= 0 && !*node->domain
                ? -1
                : mtbal_function_index(s->model, node->domain, node->op, node->overload);
    if (f < 0 || s->called[f])
        return MTBAL_OK;
    s->called[f] = true;
    return mtbal_graph_walk(s->model->functions[f]->body, mark_function, s);
}

static bool drop_functions(mtbal_model *model, mtbal_arena *scratch)
{
    callers s = {model, mtbal_arena_alloc(scratch, (size_t)model->nfunctions + 1)};
    if (!s.called)
        return false;
    mtbal_graph_walk(model->graph, mark_function, &s);
    for (int i = 0; i < model->ntrainings; i++)
        if (model->trainings[i]->algorithm)
            mtbal_graph_walk(model->trainings[i]->algorithm, mark_function, &s);
    return mtbal_functions_keep(model, s.called) == MTBAL_OK;
}

mtbal_status mtbal_remove_dead(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_arena *scratch = mtbal_arena_new();
    marker m = {scratch ? mtbal_arena_array(scratch, (size_t)model->nvalues + 1, sizeof(bool))
                        : NULL};
    for (int i = 0; m.live && i < model->ntrainings; i++) /* they read what the main graph gives */
        if (model->trainings[i]->algorithm)
            sweep(model->trainings[i]->algorithm, &m);
    if (m.live)
        sweep(model->graph, &m);
    bool ok = m.live && drop_functions(model, scratch);
    mtbal_arena_free(scratch);
    return ok ? MTBAL_OK : mtbal_no_memory(diag);
}
