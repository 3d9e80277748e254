/* passes/control.c: control flow that is decided before the run: an If with a constant condition is
 * its branch; a Loop with a constant count and condition is its body, so many times. */
#include "passes/internal.h"

#include <string.h>

enum { MAX_TRIPS = 4096 };

/* A value that is known before the run, as an integer. */
static bool constant(const mtbal_value *v, int64_t *x)
{
    for (int depth = 0; v && depth < 8; depth++) {
        if (v->tensor && !v->is_input && v->tensor->data && v->tensor->count == 1) {
            *x = mtbal_tensor_i64(v->tensor, 0);
            return true;
        }
        if (v->content && v->ncontent == 1 && v->content[0].size >= 0) {
            *x = v->content[0].size;
            return true;
        }
        bool passes =
            v->def && (mtbal_node_is(v->def, "Identity") || mtbal_node_is(v->def, "Cast"));
        if (v->def && mtbal_node_is(v->def, "Equal")) {
            int64_t a, b;
            if (!constant(v->def->in[0], &a) || !constant(v->def->in[1], &b))
                return false;
            *x = a == b;
            return true;
        }
        v = passes ? v->def->in[0] : NULL;
    }
    return false;
}

/* Copies a subgraph's nodes before `node`; its outputs from `first` on stand in for the node's
 * outputs. */
static mtbal_status paste(mtbal_context *c, mtbal_node *node, mtbal_graph *body, mtbal_value **map,
                          int nmap, const char *prefix)
{
    for (int i = 0; i < body->ninitializers; i++) {
        mtbal_value *from = body->initializers[i];
        mtbal_builder b;
        mtbal_builder_init(&b, node->graph, node, c->diag);
        if (!from->is_input && !(map[from->id] = mtbal_const_tensor(&b, from->tensor)))
            return mtbal_no_memory(c->diag);
    }
    return mtbal_graph_copy_nodes(body, node->graph, node, map, nmap, prefix) == MTBAL_OK
               ? MTBAL_OK
               : mtbal_no_memory(c->diag);
}

static mtbal_value *resolve(mtbal_value **map, int nmap, mtbal_value *v)
{
    return v->id < nmap && map[v->id] ? map[v->id] : v;
}

/* The node's output i becomes `value`. */
static mtbal_status settle(mtbal_context *c, mtbal_node *node, int i, mtbal_value *value)
{
    if (!node->out[i])
        return MTBAL_OK;
    mtbal_node *copy = mtbal_node_new(node->graph, node, "", "Identity", 1, &value, 0);
    mtbal_value *out = node->out[i];
    if (!copy || mtbal_node_set_output(copy, 0, out) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    node->out[i] = NULL;
    return mtbal_infer_node(copy, c->diag);
}

static mtbal_status take_branch(mtbal_context *c, mtbal_node *node, bool yes, mtbal_value **map,
                                int nmap)
{
    mtbal_attr *a = mtbal_attr_find(node, yes ? "then_branch" : "else_branch");
    if (!a || !a->g)
        return MTBAL_OK;
    MTBAL_TRY(paste(c, node, a->g, map, nmap, NULL));
    for (int i = 0; i < node->nout && i < a->g->noutputs; i++)
        MTBAL_TRY(settle(c, node, i, resolve(map, nmap, a->g->outputs[i])));
    mtbal_node_remove(node);
    return MTBAL_OK;
}

/* The body's condition output must be constant true, or the condition that came in. */
static bool goes_on(const mtbal_graph *body)
{
    int64_t x;
    const mtbal_value *v = body->outputs[0];
    while (v->def && mtbal_node_is(v->def, "Identity"))
        v = v->def->in[0];
    return v == body->inputs[1] || (constant(v, &x) && x);
}

static mtbal_status unroll(mtbal_context *c, mtbal_node *node, int64_t trips, mtbal_value **map,
                           int nmap)
{
    mtbal_graph *body = mtbal_attr_find(node, "body")->g;
    int carried = node->nin - 2;
    mtbal_value *state[64], *scans[16][256];
    mtbal_builder b;
    const int64_t zero = 0;
    mtbal_builder_init(&b, node->graph, node, c->diag);
    int nscan = node->nout - carried;
    if (carried > 64 || nscan > 16 || (nscan > 0 && trips > 256))
        return MTBAL_OK;
    for (int i = 0; i < carried; i++)
        state[i] = node->in[2 + i];
    for (int64_t trip = 0; trip < trips; trip++) {
        char prefix[64];
        memset(map, 0, (size_t)nmap * sizeof *map);
        snprintf(prefix, sizeof prefix, "trip%lld/", (long long)trip);
        map[body->inputs[0]->id] = mtbal_const_i64(&b, trip);
        map[body->inputs[1]->id] = mtbal_const_scalar(&b, MTBAL_BOOL, 1);
        for (int i = 0; i < carried; i++)
            map[body->inputs[2 + i]->id] = state[i];
        MTBAL_TRY(paste(c, node, body, map, nmap, prefix));
        for (int i = 0; i < carried; i++)
            state[i] = resolve(map, nmap, body->outputs[1 + i]);
        for (int i = 0; i < nscan; i++)
            scans[i][trip] =
                mtbal_emit(&b, "Unsqueeze", resolve(map, nmap, body->outputs[1 + carried + i]),
                           mtbal_const_i64s(&b, 1, &zero));
    }
    for (int i = 0; i < node->nout; i++)
        MTBAL_TRY(settle(c, node, i,
                         i < carried ? state[i]
                                     : mtbal_emit_attrs(&b, "Concat", (int)trips,
                                                        scans[i - carried], "axis=i", zero)));
    MTBAL_TRY(b.status);
    mtbal_node_remove(node);
    return MTBAL_OK;
}

mtbal_status mtbal_pass_unroll(mtbal_context *c)
{
    bool changed = false;
    for (mtbal_node *node = c->graph->first, *next; node; node = next) {
        int64_t x;
        next = node->next;
        bool is_if = mtbal_node_is(node, "If"), is_loop = mtbal_node_is(node, "Loop");
        if (!is_if && !is_loop)
            continue;
        int nmap = c->model->nvalues;
        mtbal_value **map = mtbal_arena_array(c->model->arena, (size_t)nmap, sizeof *map);
        mtbal_node *before = node->prev;
        int nodes = c->graph->nnodes;
        if (!map)
            return mtbal_no_memory(c->diag);
        if (is_if && constant(node->in[0], &x)) {
            MTBAL_TRY(take_branch(c, node, x != 0, map, nmap));
        } else if (is_loop && node->in[0] && constant(node->in[0], &x) && x > 0 && x <= MAX_TRIPS &&
                   goes_on(mtbal_attr_find(node, "body")->g)) {
            int64_t first = 1;
            if (node->in[1] && (!constant(node->in[1], &first) || !first))
                continue;
            MTBAL_TRY(unroll(c, node, x, map, nmap));
        }
        if (c->graph->nnodes != nodes) { /* what was pasted may hold control flow too */
            next = before ? before->next : c->graph->first;
            changed = true;
        }
    }
    return changed ? mtbal_infer_graph(c->graph, c->diag) : MTBAL_OK;
}
