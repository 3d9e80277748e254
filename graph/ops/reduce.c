/* graph/ops/reduce.c: reductions and arg reductions. */
#include "graph/ops/shapes.h"

static mtbal_status drop_axes(mtbal_infer *s, int n, const int64_t *axes, bool all, bool keepdims,
                              mtbal_dtype dtype)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < x->rank; i++) {
        bool reduced = all;
        for (int k = 0; k < n; k++)
            reduced = reduced || axes[k] == i;
        if (!reduced)
            dims[rank++] = x->dims[i];
        else if (keepdims)
            dims[rank++] = mtbal_dim_const(1);
    }
    return shape_set(s, 0, dtype, rank, dims);
}

/* Axes that nobody knows: with keepdims the rank stays, without it falls by their number. */
static mtbal_status unknown_axes(mtbal_infer *s, bool keepdims)
{
    const mtbal_type *x = shape_type(s, 0), *axes = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t count = axes->rank == 1 ? axes->dims[0].size : -1;
    int rank = keepdims ? x->rank : count > 0 && count <= x->rank ? x->rank - (int)count : -1;
    for (int i = 0; i < rank; i++)
        dims[i] = keepdims && x->dims[i].size == 1 ? x->dims[i] : shape_unknown();
    return shape_set(s, 0, x->dtype, rank, dims);
}

/* Sum or product of a content. */
static mtbal_status reduce_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    int count = shape_content(s, 0, &content);
    bool sum = mtbal_node_is(s->node, MTBAL_OP_reduce_sum);
    if (count < 0 || (!mtbal_node_is(s->node, MTBAL_OP_reduce_prod) && !sum))
        return MTBAL_OK;
    mtbal_dim total = mtbal_dim_const(!sum);
    for (int i = 0; i < count; i++)
        total = sum ? mtbal_dim_add(s->model, total, content[i])
                    : mtbal_dim_mul(s->model, total, content[i]);
    return shape_set_content(s, 0, 1, &total);
}

mtbal_status mtbal_shape_reduce(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axes[SHAPE_MAX_CONTENT];
    bool all;
    mtbal_status status;
    bool keep = mtbal_attr_i(s->node, "keepdims", 1);
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    int n = shape_axes(s, 1, x->rank, axes, &all, &status);
    MTBAL_TRY(status);
    if (n < 0)
        return unknown_axes(s, keep);
    if (all && mtbal_attr_i(s->node, "noop_with_empty_axes", 0))
        return shape_set_type(s, 0, x);
    MTBAL_TRY(drop_axes(s, n, axes, all, keep, x->dtype));
    return reduce_content(s);
}

mtbal_status mtbal_shape_arg(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axis;
    if (x->rank < 0)
        return shape_set(s, 0, MTBAL_INT64, -1, NULL);
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
    return drop_axes(s, 1, &axis, false, mtbal_attr_i(s->node, "keepdims", 1), MTBAL_INT64);
}
