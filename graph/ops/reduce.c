/* graph/ops/reduce.c: reductions, arg reductions, and matrix products. */
#include "graph/ops/shapes.h"

#include <string.h>

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

mtbal_status mtbal_shape_reduce(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axes[SHAPE_MAX_CONTENT];
    bool all;
    mtbal_status status;
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    int n = shape_axes(s, 1, x->rank, axes, &all, &status);
    MTBAL_TRY(status);
    bool keep = mtbal_attr_i(s->node, "keepdims", 1);
    if (n < 0) {
        mtbal_dim unknown[SHAPE_MAX_RANK];
        for (int i = 0; i < x->rank; i++)
            unknown[i] = shape_unknown();
        return shape_set(s, 0, x->dtype, keep ? x->rank : -1, unknown);
    }
    if (all && mtbal_attr_i(s->node, "noop_with_empty_axes", 0))
        return shape_set_type(s, 0, x);
    MTBAL_TRY(drop_axes(s, n, axes, all, keep, x->dtype));
    const mtbal_dim *content;
    int count = shape_content(s, 0, &content);
    bool sum = mtbal_node_is(s->node, "ReduceSum");
    if (count < 0 || (!mtbal_node_is(s->node, "ReduceProd") && !sum))
        return MTBAL_OK;
    mtbal_dim total = mtbal_dim_const(!sum);
    for (int i = 0; i < count; i++)
        total = sum ? mtbal_dim_add(s->model, total, content[i])
                    : mtbal_dim_mul(s->model, total, content[i]);
    return shape_set_content(s, 1, &total);
}

mtbal_status mtbal_shape_arg(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axis = shape_axis(s, "axis", 0, x->rank);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, MTBAL_INT64, -1, NULL);
    return drop_axes(s, 1, &axis, false, mtbal_attr_i(s->node, "keepdims", 1), MTBAL_INT64);
}

/* MatMul: numpy's rules. */
mtbal_status mtbal_shape_matmul(mtbal_infer *s)
{
    const mtbal_type *a = shape_type(s, 0), *b = shape_type(s, 1);
    mtbal_dtype dtype = mtbal_node_is(s->node, "MatMulInteger") ? MTBAL_INT32 : a->dtype;
    mtbal_dim dims[SHAPE_MAX_RANK + 2];
    int rank;
    if (a->rank < 1 || b->rank < 1 || a->rank > SHAPE_MAX_RANK || b->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, dtype, -1, NULL);
    mtbal_dim inner_a = a->dims[a->rank - 1], inner_b = b->dims[b->rank > 1 ? b->rank - 2 : 0];
    if (inner_a.size >= 0 && inner_b.size >= 0 && inner_a.size != inner_b.size)
        return shape_error(s, "inner sizes %lld of %s and %lld of %s differ",
                           (long long)inner_a.size, shape_in(s, 0)->name, (long long)inner_b.size,
                           shape_in(s, 1)->name);
    int batch_a = a->rank > 2 ? a->rank - 2 : 0, batch_b = b->rank > 2 ? b->rank - 2 : 0;
    MTBAL_TRY(shape_broadcast(s, batch_a, a->dims, batch_b, b->dims, &rank, dims));
    if (a->rank > 1)
        dims[rank++] = a->dims[a->rank - 2];
    if (b->rank > 1)
        dims[rank++] = b->dims[b->rank - 1];
    return shape_set(s, 0, dtype, rank, dims);
}

mtbal_status mtbal_shape_gemm(mtbal_infer *s)
{
    const mtbal_type *a = shape_type(s, 0), *b = shape_type(s, 1);
    bool ta = mtbal_attr_i(s->node, "transA", 0), tb = mtbal_attr_i(s->node, "transB", 0);
    if (a->rank != 2 || b->rank != 2)
        return a->rank < 0 || b->rank < 0
                   ? shape_set(s, 0, a->dtype, -1, NULL)
                   : shape_error(s, "operands have ranks %d and %d, not 2", a->rank, b->rank);
    mtbal_dim ka = a->dims[!ta], kb = b->dims[tb];
    if (ka.size >= 0 && kb.size >= 0 && ka.size != kb.size)
        return shape_error(s, "inner sizes %lld of %s and %lld of %s differ", (long long)ka.size,
                           shape_in(s, 0)->name, (long long)kb.size, shape_in(s, 1)->name);
    const mtbal_dim dims[2] = {a->dims[ta], b->dims[!tb]};
    return shape_set(s, 0, a->dtype, 2, dims);
}

/* Einsum: a size per letter; an ellipsis makes the rank unknown unless the equation is explicit
 * about it. */
mtbal_status mtbal_shape_einsum(mtbal_infer *s)
{
    mtbal_dim size[128];
    bool seen[128] = {false};
    int uses[128] = {0};
    const char *equation = mtbal_attr_s(s->node, "equation", "");
    const char *arrow = strstr(equation, "->");
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = 0, operand = 0, axis = 0;
    if (strchr(equation, '.'))
        return shape_set(s, 0, shape_type(s, 0)->dtype, -1, NULL);
    for (const char *p = equation; *p && p != arrow; p++) {
        const mtbal_type *t = shape_type(s, operand);
        unsigned char c = (unsigned char)*p;
        if (c == ',') {
            operand++;
            axis = 0;
        } else if (c > ' ' && c < 128) {
            mtbal_dim d = axis < t->rank ? t->dims[axis] : shape_unknown();
            if (!seen[c] || size[c].size == 1 || (size[c].size < 0 && !size[c].symbol))
                size[c] = d;
            seen[c] = true;
            uses[c]++;
            axis++;
        }
    }
    if (arrow) {
        for (const char *p = arrow + 2; *p && rank < SHAPE_MAX_RANK; p++)
            if (*p > ' ' && seen[(unsigned char)*p])
                dims[rank++] = size[(unsigned char)*p];
    } else { /* letters used once, in alphabetical order */
        for (int c = 0; c < 128 && rank < SHAPE_MAX_RANK; c++)
            if (uses[c] == 1)
                dims[rank++] = size[c];
    }
    return shape_set(s, 0, shape_type(s, 0)->dtype, rank, dims);
}

mtbal_status mtbal_shape_det(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, x->dtype, x->rank < 2 ? -1 : x->rank - 2, x->dims);
}
