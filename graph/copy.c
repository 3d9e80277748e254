/* graph/copy.c: copies of nodes, with the subgraphs in them. */
#include "graph/internal.h"

typedef struct copier {
    mtbal_value **map; /* by id of the original */
    int nmap;
    const char *prefix;
    mtbal_model *model;
} copier;

static mtbal_value *mapped(const copier *c, mtbal_value *value)
{
    return value && value->id < c->nmap && c->map[value->id] ? c->map[value->id] : value;
}

/* A value of the copy: the original's name behind the prefix, made fresh. */
static mtbal_value *copy_value(copier *c, mtbal_value *value, mtbal_graph *into)
{
    const char *name = graph_fresh(c->model, "%s%s", c->prefix ? c->prefix : "", value->name);
    mtbal_value *copy = name ? mtbal_value_new(into, name) : NULL;
    if (!copy)
        return NULL;
    copy->type = value->type;
    copy->tensor = value->tensor;
    copy->content = value->content;
    copy->ncontent = value->ncontent;
    if (value->id < c->nmap)
        c->map[value->id] = copy;
    return copy;
}

static mtbal_status copy_nodes(copier *c, const mtbal_graph *graph, mtbal_graph *into,
                               mtbal_node *before);

static mtbal_status copy_list(copier *c, mtbal_value **list, int count, mtbal_graph *into,
                              mtbal_status (*add)(mtbal_graph *, mtbal_value *), bool fresh)
{
    for (int i = 0; i < count; i++) {
        mtbal_value *v = fresh ? copy_value(c, list[i], into) : mapped(c, list[i]);
        if (!v)
            return MTBAL_NOMEM;
        MTBAL_TRY(add(into, v));
    }
    return MTBAL_OK;
}

static mtbal_status copy_subgraph(copier *c, const mtbal_graph *graph, mtbal_graph *parent,
                                  mtbal_graph **result)
{
    mtbal_graph *copy = mtbal_graph_new(c->model, parent, graph->name);
    if (!copy)
        return MTBAL_NOMEM;
    copy->origin = graph->origin;
    MTBAL_TRY(copy_list(c, graph->inputs, graph->ninputs, copy, mtbal_add_input, true));
    for (int i = 0; i < graph->ninitializers; i++) {
        mtbal_value *v = graph->initializers[i]->is_input
                             ? mapped(c, graph->initializers[i])
                             : copy_value(c, graph->initializers[i], copy);
        if (!v)
            return MTBAL_NOMEM;
        MTBAL_TRY(mtbal_add_initializer(copy, v, graph->initializers[i]->tensor));
    }
    MTBAL_TRY(copy_nodes(c, graph, copy, NULL));
    MTBAL_TRY(copy_list(c, graph->outputs, graph->noutputs, copy, mtbal_add_output, false));
    *result = copy;
    return MTBAL_OK;
}

static mtbal_status copy_node(copier *c, const mtbal_node *node, mtbal_graph *into,
                              mtbal_node *before)
{
    mtbal_arena *arena = c->model->arena;
    mtbal_value **in = mtbal_arena_array(arena, (size_t)node->nin, sizeof *in);
    if (!in)
        return MTBAL_NOMEM;
    for (int i = 0; i < node->nin; i++)
        in[i] = mapped(c, node->in[i]);
    mtbal_node *copy = mtbal_node_new(into, before, node->domain, node->op, node->nin, in, 0);
    if (!copy)
        return MTBAL_NOMEM;
    copy->name = c->prefix && *node->name ? mtbal_arena_printf(arena, "%s%s", c->prefix, node->name)
                                          : node->name;
    copy->overload = node->overload;
    copy->role = node->role;
    copy->task = node->task;
    MTBAL_TRY(mtbal_copy_attrs(copy, node));
    for (mtbal_attr *a = copy->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g) {
            MTBAL_TRY(copy_subgraph(c, a->g, into, &a->g));
            a->g->owner = copy;
            a->origin = NULL; /* names inside have changed */
        }
    for (int i = 0; i < node->nout; i++) {
        mtbal_value *out = NULL;
        if (node->out[i]) {
            bool given = node->out[i]->id < c->nmap && c->map[node->out[i]->id];
            out = given ? c->map[node->out[i]->id] : copy_value(c, node->out[i], into);
            if (!out)
                return MTBAL_NOMEM;
        }
        MTBAL_TRY(mtbal_node_set_output(copy, i, out));
    }
    return copy->name ? MTBAL_OK : MTBAL_NOMEM;
}

/* The nodes to copy are listed first: a graph may be copied into itself. */
static mtbal_status copy_nodes(copier *c, const mtbal_graph *graph, mtbal_graph *into,
                               mtbal_node *before)
{
    int n = 0;
    const mtbal_node **nodes = mtbal_malloc(((size_t)graph->nnodes + 1) * sizeof *nodes);
    if (!nodes)
        return MTBAL_NOMEM;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        nodes[n++] = node;
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < n && status == MTBAL_OK; i++)
        status = copy_node(c, nodes[i], into, before);
    mtbal_free(nodes);
    return status;
}

mtbal_status mtbal_graph_copy_nodes(const mtbal_graph *graph, mtbal_graph *into, mtbal_node *before,
                                    mtbal_value **map, int nmap, const char *prefix)
{
    copier c = {map, nmap, prefix, into->model};
    return copy_nodes(&c, graph, into, before);
}

mtbal_status mtbal_node_copy(const mtbal_node *node, mtbal_graph *into, mtbal_node *before,
                             mtbal_value **map, int nmap, const char *prefix)
{
    copier c = {map, nmap, prefix, into->model};
    return copy_node(&c, node, into, before);
}
