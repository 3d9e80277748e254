/* lower/elaborate.c: the walk that leaves a flat graph of concrete shapes: every node is inferred
 * with the shapes at hand; what is constant is evaluated; functions, branches and loop bodies are
 * copied in, and walked in their turn. */
#include "lower/lowering.h"

#include <string.h>

mtbal_value *lower_new_constant(lowering *l, mtbal_graph *graph, mtbal_dtype dtype, int rank,
                                const int64_t *dims, const void *data)
{
    mtbal_tensor *tensor = mtbal_tensor_new(l->model, dtype, rank, dims, data);
    mtbal_value *value = tensor ? mtbal_value_new(graph, NULL) : NULL;
    if (!value || lower_set_constant(l, value, tensor) != MTBAL_OK)
        return NULL;
    return value;
}

mtbal_status lower_set_constant(lowering *l, mtbal_value *value, mtbal_tensor *tensor)
{
    mtbal_dim *dims = mtbal_arena_array(l->model->arena, (size_t)tensor->rank + 1, sizeof *dims);
    if (!dims)
        return mtbal_no_memory(l->diag);
    for (int d = 0; d < tensor->rank; d++)
        dims[d] = mtbal_dim_const(tensor->dims[d]);
    value->tensor = tensor;
    value->content = NULL;
    value->type = (mtbal_type){MTBAL_TENSOR, tensor->dtype, tensor->rank, dims};
    return MTBAL_OK;
}

mtbal_status lower_replace_node(lowering *l, mtbal_node *node, int n, mtbal_value *const *to)
{
    for (int i = 0; i < node->nout; i++) {
        if (!node->out[i] || i >= n || !to[i])
            continue;
        place *p = lower_place(l, node->out[i]);
        if (!p)
            return mtbal_no_memory(l->diag);
        p->instead = to[i];
    }
    mtbal_node_remove(node);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ constants */

/* Contents of a Constant node, whichever attribute holds them; *other: one that we do not know
 * (strings, sparse). NULL without *other: out of memory. */
static mtbal_tensor *constant_of(lowering *l, const mtbal_node *node, bool *other)
{
    const mtbal_attr *a;
    const int64_t *ints;
    int64_t count = mtbal_attr_ints(node, "value_ints", &ints);
    if ((a = mtbal_attr_find(node, "value")) && a->t)
        return a->t;
    if ((a = mtbal_attr_find(node, "value_float")))
        return mtbal_tensor_new(l->model, MTBAL_FLOAT, 0, NULL, &a->f);
    if ((a = mtbal_attr_find(node, "value_int")))
        return mtbal_tensor_new(l->model, MTBAL_INT64, 0, NULL, &a->i);
    if (count >= 0)
        return mtbal_tensor_new(l->model, MTBAL_INT64, 1, &count, ints);
    if ((a = mtbal_attr_find(node, "value_floats"))) {
        count = a->n;
        return mtbal_tensor_new(l->model, MTBAL_FLOAT, 1, &count, a->floats);
    }
    *other = true;
    return NULL;
}

/* ------------------------------------------------------------------ inference */

/* Where inference knows less than the file declares, the declaration counts. */
static void keep_declared(mtbal_type *type, const mtbal_type *declared)
{
    if (type->dtype == MTBAL_UNDEFINED)
        type->dtype = declared->dtype;
    if (type->rank < 0 && mtbal_shape_known(declared)) {
        type->rank = declared->rank;
        type->dims = declared->dims;
    }
    for (int d = 0; type->rank == declared->rank && d < type->rank; d++)
        if (type->dims[d].size < 0 && declared->dims[d].size >= 0)
            type->dims[d] = declared->dims[d];
}

mtbal_status lower_infer(lowering *l, mtbal_node *node)
{
    mtbal_type declared[16];
    int n = node->nout < 16 ? node->nout : 16;
    for (int i = 0; i < node->nout; i++) {
        if (!node->out[i])
            continue;
        if (i < n)
            declared[i] = node->out[i]->type;
        node->out[i]->type.rank = -1;
        node->out[i]->content = NULL;
    }
    MTBAL_TRY(mtbal_infer_node(node, l->diag));
    for (int i = 0; i < n; i++)
        if (node->out[i] && node->out[i]->type.kind == MTBAL_TENSOR)
            keep_declared(&node->out[i]->type, &declared[i]);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the walk */

static bool runs_as_kernel(const lowering *l, const mtbal_node *node)
{
    if (!lower_rule(node))
        return false;
    return !*node->domain || !l->options->no_fuse;
}

ELABORATE(constant)
{
    bool other = false;
    mtbal_tensor *tensor = constant_of(l, node, &other);
    (void)walk;
    *done = true;
    if (!tensor)
        return other ? MTBAL_OK : mtbal_no_memory(l->diag);
    return op_wants(node, 0) ? lower_set_constant(l, node->out[0], tensor) : MTBAL_OK;
}

static mtbal_status elaborate_node(lowering *l, mtbal_node *node, lower_walk *walk)
{
    elaborate_fn *rule = lower_elaboration(node);
    bool done = false;
    for (int i = 0; i < node->nin; i++)
        node->in[i] = lower_resolve(l, node->in[i]);
    if (!rule && !runs_as_kernel(l, node)) {
        const mtbal_function *f =
            mtbal_function_find(l->model, node->domain, node->op, node->overload);
        if (f) {
            *walk = LOWER_RENEWED;
            return lower_inline(l, node, f);
        }
    }
    if (rule)
        MTBAL_TRY(rule(l, node, walk, &done));
    else if (mtbal_node_is(node, MTBAL_OP_identity))
        MTBAL_TRY(lower_same_list(l, node, walk, &done));
    if (!done)
        MTBAL_TRY(lower_select(l, node, walk, &done));
    if (done)
        return MTBAL_OK;
    MTBAL_TRY(lower_infer(l, node));
    MTBAL_TRY(lower_fold(l, node, &done));
    return done ? MTBAL_OK : lower_expand_node(l, node, walk);
}

mtbal_status lower_elaborate(lowering *l, mtbal_graph *graph)
{
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        mtbal_node *before = node->prev;
        lower_walk walk = LOWER_KEPT;
        next = node->next;
        MTBAL_TRY(elaborate_node(l, node, &walk));
        if (walk == LOWER_RENEWED)
            next = before ? before->next : graph->first;
    }
    for (int i = 0; i < graph->noutputs; i++)
        graph->outputs[i] = lower_resolve(l, graph->outputs[i]);
    return MTBAL_OK;
}
