/* graph/node.c: nodes. */
#include "graph/graph.h"

#include <string.h>

static void link_node(mtbal_graph *graph, mtbal_node *node, mtbal_node *before)
{
    node->graph = graph;
    node->next = before;
    node->prev = before ? before->prev : graph->last;
    *(node->prev ? &node->prev->next : &graph->first) = node;
    *(before ? &before->prev : &graph->last) = node;
    graph->nnodes++;
}

static void unlink_node(mtbal_node *node)
{
    mtbal_graph *graph = node->graph;
    *(node->prev ? &node->prev->next : &graph->first) = node->next;
    *(node->next ? &node->next->prev : &graph->last) = node->prev;
    graph->nnodes--;
}

mtbal_node *mtbal_node_new(mtbal_graph *graph, mtbal_node *before, const char *domain,
                           const char *op, int nin, mtbal_value *const *in, int nout)
{
    mtbal_arena *arena = graph->model->arena;
    mtbal_node *node = mtbal_arena_alloc(arena, sizeof *node);
    if (!node)
        return NULL;
    node->graph = graph;
    node->name = node->overload = mtbal_intern(arena, "");
    node->out = mtbal_arena_array(arena, (size_t)nout, sizeof *node->out);
    if (!node->name || !node->out || mtbal_node_set_op(node, domain, op) != MTBAL_OK ||
        mtbal_node_set_inputs(node, nin, in) != MTBAL_OK)
        return NULL;
    node->nout = nout;
    for (int i = 0; i < nout; i++) {
        const char *name = mtbal_fresh_name(graph->model, op);
        mtbal_value *value = name ? mtbal_value_new(graph, name) : NULL;
        if (!value || mtbal_node_set_output(node, i, value) != MTBAL_OK)
            return NULL;
    }
    link_node(graph, node, before);
    return node;
}

mtbal_status mtbal_node_set_inputs(mtbal_node *node, int nin, mtbal_value *const *in)
{
    mtbal_value **copy =
        mtbal_arena_copy(node->graph->model->arena, in, (size_t)nin * sizeof *copy);
    if (!copy)
        return MTBAL_NOMEM;
    node->in = copy;
    node->nin = nin;
    return MTBAL_OK;
}

mtbal_status mtbal_node_set_output(mtbal_node *node, int index, mtbal_value *value)
{
    if (index >= node->nout) {
        mtbal_value **longer =
            mtbal_arena_array(node->graph->model->arena, (size_t)index + 1, sizeof *longer);
        if (!longer)
            return MTBAL_NOMEM;
        if (node->nout)
            memcpy(longer, node->out, (size_t)node->nout * sizeof *longer);
        node->out = longer;
        node->nout = index + 1;
    }
    node->out[index] = value;
    if (value) {
        value->def = node;
        value->def_index = index;
    }
    return MTBAL_OK;
}

void mtbal_node_remove(mtbal_node *node)
{
    unlink_node(node);
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && node->out[i]->def == node)
            node->out[i]->def = NULL;
}

void mtbal_node_move(mtbal_node *node, mtbal_node *before)
{
    if (before == node || before == node->next)
        return;
    unlink_node(node);
    link_node(node->graph, node, before);
}

void mtbal_node_transfer(mtbal_node *node, mtbal_graph *into)
{
    unlink_node(node);
    link_node(into, node, NULL);
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            node->out[i]->graph = into;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            a->g->parent = into;
}

bool mtbal_node_is(const mtbal_node *node, int opcode)
{
    return node->opcode == opcode;
}

mtbal_status mtbal_node_set_op(mtbal_node *node, const char *domain, const char *op)
{
    domain = mtbal_intern(node->graph->model->arena, domain);
    op = mtbal_intern(node->graph->model->arena, op);
    if (!domain || !op)
        return MTBAL_NOMEM;
    node->domain = domain;
    node->op = op;
    node->opcode = mtbal_opcode(domain, op);
    return MTBAL_OK;
}

const char *mtbal_node_label(const mtbal_node *node, char text[256])
{
    const char *name = node->name;
    for (int i = 0; i < node->nout && !*name; i++)
        name = node->out[i] ? node->out[i]->name : name;
    snprintf(text, 256, "node %.160s (%s%s%.60s)", *name ? name : "without a name", node->domain,
             *node->domain ? "." : "", node->op);
    return text;
}
