/* graph/uses.c: walking over the nodes of a graph, users of values, replacing a value. */
#include "graph/internal.h"

mtbal_status mtbal_graph_walk(mtbal_graph *graph, mtbal_visit *visit, void *context)
{
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        MTBAL_TRY(visit(node, context));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, visit, context));
    }
    return MTBAL_OK;
}

static void count_outputs(mtbal_graph *graph, mtbal_uses *uses)
{
    for (int i = 0; i < graph->noutputs; i++)
        uses->count[graph->outputs[i]->id]++;
}

static mtbal_status count_node(mtbal_node *node, void *context)
{
    mtbal_uses *uses = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i]) {
            uses->count[node->in[i]->id]++;
            uses->nnodes[node->in[i]->id]++;
        }
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            count_outputs(a->g, uses);
    return MTBAL_OK;
}

static mtbal_status enter_node(mtbal_node *node, void *context)
{
    mtbal_uses *uses = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i]) {
            int id = node->in[i]->id;
            uses->node[id][uses->nnodes[id]++] = node;
        }
    return MTBAL_OK;
}

mtbal_uses *mtbal_uses_new(mtbal_model *model, mtbal_graph *graph, mtbal_arena *arena)
{
    size_t n = (size_t)model->nvalues, total = 0;
    mtbal_uses *uses = mtbal_arena_alloc(arena, sizeof *uses);
    if (!uses)
        return NULL;
    uses->nvalues = model->nvalues;
    uses->count = mtbal_arena_array(arena, n, sizeof *uses->count);
    uses->nnodes = mtbal_arena_array(arena, n, sizeof *uses->nnodes);
    uses->node = mtbal_arena_array(arena, n, sizeof *uses->node);
    if (!uses->count || !uses->nnodes || !uses->node)
        return NULL;
    count_outputs(graph, uses);
    mtbal_graph_walk(graph, count_node, uses);
    for (size_t i = 0; i < n; i++)
        total += (size_t)uses->nnodes[i];
    mtbal_node **pool = mtbal_arena_array(arena, total, sizeof *pool);
    if (!pool)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        uses->node[i] = pool;
        pool += uses->nnodes[i];
        uses->nnodes[i] = 0;
    }
    mtbal_graph_walk(graph, enter_node, uses);
    return uses;
}

/* ------------------------------------------------------------------ replacing */

typedef struct swap {
    mtbal_value *from, *to;
} swap;

/* Identity(to) at the end of `graph`: what stands for `to` in the list of outputs where it cannot
 * take another's name, or belongs to a graph further out. */
static mtbal_value *identity_of(mtbal_graph *graph, mtbal_value *to)
{
    mtbal_node *node = mtbal_node_new(graph, NULL, "", "Identity", 1, &to, 1);
    if (!node)
        return NULL;
    node->name = node->out[0]->name;
    node->out[0]->type = to->type;
    node->out[0]->content = to->content;
    node->out[0]->ncontent = to->ncontent;
    return node->out[0];
}

/* An output's name, and what the file says of it, goes over to its successor. */
static void swap_names(mtbal_value *a, mtbal_value *b)
{
    void *origin = a->origin;
    a->origin = b->origin;
    b->origin = origin;
    graph_swap_names(a, b);
}

static mtbal_status replace_outputs(mtbal_graph *graph, const swap *s)
{
    int listed = 0;
    for (int i = 0; i < graph->noutputs; i++)
        listed += graph->outputs[i] == s->from;
    if (!listed)
        return MTBAL_OK;
    const mtbal_value *to = s->to;
    bool movable = to->def && to->graph == graph && !to->is_output;
    mtbal_value *with = movable ? s->to : identity_of(graph, s->to);
    if (!with)
        return MTBAL_NOMEM;
    for (int i = 0; i < graph->noutputs; i++)
        if (graph->outputs[i] == s->from)
            graph->outputs[i] = with;
    swap_names(s->from, with);
    with->is_output = true;
    s->from->is_output = false;
    return MTBAL_OK;
}

static mtbal_status replace_in_node(mtbal_node *node, void *context)
{
    const swap *s = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] == s->from)
            node->in[i] = s->to;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            MTBAL_TRY(replace_outputs(a->g, s));
    return MTBAL_OK;
}

mtbal_status mtbal_replace(mtbal_graph *graph, mtbal_value *from, mtbal_value *to)
{
    swap s = {from, to};
    if (from == to)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_graph_walk(graph, replace_in_node, &s));
    return replace_outputs(graph, &s);
}

typedef struct remapping {
    mtbal_value *const *map;
    int n;
} remapping;

static mtbal_value *remapped(const remapping *r, mtbal_value *v)
{
    return v && v->id < r->n && r->map[v->id] ? r->map[v->id] : v;
}

static mtbal_status remap(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nin; i++)
        node->in[i] = remapped(context, node->in[i]);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            a->g->outputs[i] = remapped(context, a->g->outputs[i]);
    return MTBAL_OK;
}

void mtbal_node_remap(mtbal_node *node, mtbal_value *const *map, int n)
{
    remapping r = {map, n};
    remap(node, &r);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            mtbal_graph_walk(a->g, remap, &r);
}
