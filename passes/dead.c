/* passes/dead.c: nodes whose outputs nobody uses, and functions that nobody calls. */
#include "passes/passes.h"

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
        mark_operands(node, m);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                mtbal_graph_walk(a->g, mark_operands, m);
    }
}

static mtbal_status mark_function(mtbal_node *node, void *context)
{
    mtbal_model *model = context;
    mtbal_function *f = mtbal_function_find(model, node->domain, node->op, node->overload);
    if (f && f->body->nnodes >= 0)
        f->body->owner = node; /* called */
    return MTBAL_OK;
}

/* Functions reached from the main graph, through functions too. */
static void drop_functions(mtbal_model *model)
{
    for (int i = 0; i < model->nfunctions; i++)
        model->functions[i]->body->owner = NULL;
    mtbal_graph_walk(model->graph, mark_function, model);
    for (int round = 0; round < model->nfunctions; round++)
        for (int i = 0; i < model->nfunctions; i++)
            if (model->functions[i]->body->owner)
                mtbal_graph_walk(model->functions[i]->body, mark_function, model);
    int kept = 0;
    for (int i = 0; i < model->nfunctions; i++)
        if (model->functions[i]->body->owner)
            model->functions[kept++] = model->functions[i];
    model->nfunctions = kept;
    for (int i = 0; i < kept; i++)
        model->functions[i]->body->owner = NULL;
}

mtbal_status mtbal_remove_dead(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_arena *scratch = mtbal_arena_new();
    marker m = {scratch ? mtbal_arena_array(scratch, (size_t)model->nvalues + 1, sizeof(bool))
                        : NULL};
    if (m.live) {
        sweep(model->graph, &m);
        drop_functions(model);
    }
    mtbal_arena_free(scratch);
    return m.live ? MTBAL_OK : mtbal_no_memory(diag);
}
