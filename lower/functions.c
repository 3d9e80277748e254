/* lower/functions.c: copies of bodies: functions at their calls, branches, iterations. */
#include "lower/lowering.h"

#include <string.h>

/* Calls may nest so that a short file has billions of nodes; this many are enough for any real
 * model. */
enum { MAX_CREATED = 500000 };

/* What is set right in a copied node. */
typedef struct copied {
    lowering *l;
    const mtbal_graph *body;
    const mtbal_node *call;
    const mtbal_function *f; /* NULL: a subgraph's body */
    int opset;
} copied;

static mtbal_status set_right(mtbal_node *node, void *context)
{
    const copied *c = context;
    if (++c->l->created > MAX_CREATED)
        return mtbal_fail(c->l->diag, MTBAL_INVALID, c->l->model->path,
                          "functions that call each other without end?",
                          "with all functions and loops written out the model has more than %d "
                          "nodes",
                          MAX_CREATED);
    if (c->f) {
        node->mark = c->opset;
        mtbal_bind_attrs(node, c->call, c->f);
    }
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && node->in[i]->graph == c->body && node->in[i]->is_input)
            node->in[i] = NULL; /* an operand that the call leaves out */
    for (int i = 0; i < node->nout; i++)
        if (node->out[i]) {
            node->out[i]->tensor = NULL;
            node->out[i]->content = NULL;
        }
    return MTBAL_OK;
}

static mtbal_status set_right_all(copied *c, mtbal_node *first, mtbal_node *end)
{
    for (mtbal_node *node = first; node != end; node = node->next) {
        MTBAL_TRY(set_right(node, c));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, set_right, c));
    }
    return MTBAL_OK;
}

static mtbal_status copy_with(copied *c, mtbal_node *node, int nin, mtbal_value *const *in,
                              mtbal_value **out)
{
    lowering *l = c->l;
    int nmap = l->model->nvalues;
    mtbal_value **map = mtbal_malloc(((size_t)nmap + 1) * sizeof *map);
    if (!map)
        return mtbal_no_memory(l->diag);
    memset(map, 0, ((size_t)nmap + 1) * sizeof *map);
    for (int i = 0; i < c->body->ninputs && i < nin; i++)
        map[c->body->inputs[i]->id] = in[i];
    mtbal_node *before = node->prev;
    const char *prefix = mtbal_arena_printf(l->arena, "%.100s/", lower_label(node));
    mtbal_status status =
        prefix ? mtbal_graph_copy_nodes(c->body, node->graph, node, map, nmap, prefix)
               : MTBAL_NOMEM;
    for (int i = 0; i < c->body->noutputs; i++) {
        mtbal_value *v = c->body->outputs[i];
        out[i] = v->id < nmap && map[v->id] ? map[v->id] : v;
    }
    mtbal_free(map);
    MTBAL_TRY(status);
    return set_right_all(c, before ? before->next : node->graph->first, node);
}

mtbal_status lower_copy_body(lowering *l, const mtbal_graph *body, mtbal_node *node, int nin,
                             mtbal_value *const *in, mtbal_value **out)
{
    copied c = {.l = l, .body = body, .call = node};
    return copy_with(&c, node, nin, in, out);
}

/* The opset that the function's body is written for. */
static int opset_of(const lowering *l, const mtbal_function *f)
{
    for (int i = 0; i < f->nopsets; i++)
        if (!*f->opsets[i].domain)
            return (int)f->opsets[i].version;
    return (int)mtbal_opset_of(l->model, "");
}

mtbal_status lower_inline(lowering *l, mtbal_node *node, const mtbal_function *f)
{
    copied c = {.l = l, .body = f->body, .call = node, .f = f, .opset = opset_of(l, f)};
    mtbal_value **out = mtbal_arena_array(l->arena, (size_t)f->body->noutputs + 1, sizeof *out);
    if (!out)
        return mtbal_no_memory(l->diag);
    MTBAL_TRY(copy_with(&c, node, node->nin, node->in, out));
    return lower_replace_node(l, node, f->body->noutputs, out);
}
