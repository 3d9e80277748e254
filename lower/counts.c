/* lower/counts.c: NonZero of data has a size that depends on the data, which no plan can have. But
 * often it is only counted (how PyTorch exports the size of a[mask]): Shape(NonZero(x)), maybe
 * through a Transpose. The count is a sum over x != 0, whose shape is known. */
#include "lower/lowering.h"

static mtbal_status track(lowering *l, mtbal_node *node, mtbal_value *of, bool turned)
{
    place *p = node->out[0] ? lower_place(l, node->out[0]) : NULL;
    if (!p)
        return node->out[0] ? mtbal_no_memory(l->diag) : MTBAL_OK;
    p->counted = of;
    p->counted_turned = turned;
    p->why = "the number of its results depends on data";
    node->out[0]->type.rank = -1;
    node->out[0]->type.dtype = MTBAL_INT64;
    return MTBAL_OK;
}

/* How many elements of x are not 0: int64 [1]. */
static mtbal_value *count_of(lowering *l, mtbal_builder *b, mtbal_value *x)
{
    const int64_t all = -1;
    mtbal_value *truth = x->type.dtype == MTBAL_BOOL ? x : mtbal_emit_cast(b, x, MTBAL_BOOL);
    mtbal_value *ones = truth ? mtbal_emit_cast(b, truth, MTBAL_INT64) : NULL;
    mtbal_value *shape = lower_new_constant(l, b->graph, MTBAL_INT64, 1, (int64_t[]){1}, &all);
    mtbal_value *flat = ones && shape ? mtbal_emit_reshape(b, ones, shape) : NULL;
    return flat ? mtbal_emit_reduce(b, "ReduceSum", flat, 0, NULL, true) : NULL;
}

/* [rank, count], or [count, rank] when turned; Size: their product. */
static mtbal_status replace_shape(lowering *l, mtbal_node *node, const place *p, lower_walk *walk)
{
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    int64_t rank = p->counted->type.rank, one = 1;
    bool turned = p->counted_turned, size = mtbal_node_is(node, "Size");
    mtbal_value *count = count_of(l, &b, p->counted), *result;
    mtbal_value *r = lower_new_constant(l, node->graph, MTBAL_INT64, 1, &one, &rank);
    if (!count || !r)
        return b.status != MTBAL_OK ? b.status : mtbal_no_memory(l->diag);
    if (size) {
        mtbal_value *scalar =
            lower_new_constant(l, node->graph, MTBAL_INT64, 1, (int64_t[]){0}, NULL);
        result = scalar ? mtbal_emit_reshape(&b, mtbal_emit(&b, "Mul", count, r), scalar) : NULL;
    } else {
        mtbal_value *pair[2] = {turned ? count : r, turned ? r : count};
        result = mtbal_emit_attrs(&b, "Concat", 2, pair, "axis=i", (int64_t)0);
        const mtbal_attr *start = mtbal_attr_find(node, "start"),
                         *end = mtbal_attr_find(node, "end");
        if (result && (start || end)) {
            int64_t from = start ? start->i : 0, to = end ? end->i : 2;
            mtbal_value *s = lower_new_constant(l, node->graph, MTBAL_INT64, 1, &one, &from);
            mtbal_value *e = lower_new_constant(l, node->graph, MTBAL_INT64, 1, &one, &to);
            result = s && e ? mtbal_emit(&b, "Slice", result, s, e) : NULL;
        }
    }
    if (!result)
        return b.status != MTBAL_OK ? b.status : mtbal_no_memory(l->diag);
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, 1, &result);
}

mtbal_status lower_counts(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    mtbal_value *x = node->nin ? node->in[0] : NULL;
    const place *p = x ? lower_place(l, x) : NULL;
    if (!p)
        return MTBAL_OK;
    *done = true;
    if (mtbal_node_is(node, "NonZero") && !lower_is_constant(x) && mtbal_shape_known(&x->type))
        return track(l, node, x, false);
    if (p->counted && (mtbal_node_is(node, "Shape") || mtbal_node_is(node, "Size")))
        return replace_shape(l, node, p, walk);
    if (p->counted && mtbal_node_is(node, "Transpose")) {
        const int64_t *perm;
        bool turns = mtbal_attr_ints(node, "perm", &perm) != 2 || perm[0] == 1;
        return track(l, node, p->counted, p->counted_turned != turns);
    }
    *done = false;
    return MTBAL_OK;
}
