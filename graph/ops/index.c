/* graph/ops/index.c: gathers, scatters, selections. */
#include "graph/ops/shapes.h"

#include <string.h>

/* ------------------------------------------------------------------ constant indices */

/* Indices that are constants, k-th of each `columns` of them along an axis of the data: within it,
 * negative ones from its end. What is computed is checked by the kernels. */
static mtbal_status constants_fit(mtbal_infer *s, int64_t columns, const mtbal_dim *axes)
{
    const mtbal_value *v = shape_in(s, 1);
    const mtbal_tensor *t = v && !v->is_input ? v->tensor : NULL;
    if (!t || !t->data || (t->dtype != MTBAL_INT64 && t->dtype != MTBAL_INT32))
        return MTBAL_OK;
    for (int64_t i = 0; i < t->count; i++) {
        int64_t at = mtbal_tensor_i64(t, i), size = axes[i % columns].size;
        if (size >= 0 && (at < -size || at >= size))
            return shape_error(s, "index %lld of an axis of %lld: element %lld of %s",
                               (long long)at, (long long)size, (long long)i, shape_name(s, 1));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ gathers */

static mtbal_status gather_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int64_t index[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &content), k = shape_ints(s, 1, index);
    if (n < 0 || k < 0)
        return MTBAL_OK;
    for (int i = 0; i < k; i++) {
        int64_t at = index[i] < 0 ? index[i] + n : index[i];
        if (at < 0 || at >= n)
            return shape_error(s, "it takes element %lld of %s, which has %d", (long long)index[i],
                               shape_name(s, 0), n);
        result[i] = content[at];
    }
    return shape_set_content(s, 0, k, result);
}

mtbal_status mtbal_shape_gather(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    mtbal_dim dims[2 * SHAPE_MAX_RANK];
    int64_t axis;
    int rank = 0;
    if (x->rank < 0 || index->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
    for (int i = 0; i < x->rank; i++) {
        if (i != axis)
            dims[rank++] = x->dims[i];
        for (int k = 0; k < index->rank && i == axis; k++)
            dims[rank++] = index->dims[k];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, rank, dims));
    MTBAL_TRY(gather_content(s));
    return constants_fit(s, 1, &x->dims[axis]);
}

/* Indices along an axis of the data: one for each element of the result or of the updates. */
static mtbal_status check_index(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    int64_t axis;
    if (x->rank < 0)
        return MTBAL_OK;
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
    if (index->rank >= 0 && index->rank != x->rank)
        return shape_error(s, "%s has rank %d, but its indices %s rank %d", shape_name(s, 0),
                           x->rank, shape_name(s, 1), index->rank);
    for (int d = 0; d < index->rank; d++)
        if (d != axis && x->dims[d].size >= 0 && index->dims[d].size > x->dims[d].size)
            return shape_error(s, "axis %d of the indices %s has %lld elements, but %s %lld", d,
                               shape_name(s, 1), (long long)index->dims[d].size, shape_name(s, 0),
                               (long long)x->dims[d].size);
    return constants_fit(s, 1, &x->dims[axis]);
}

mtbal_status mtbal_shape_gather_elements(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    MTBAL_TRY(check_index(s));
    return shape_set(s, 0, x->dtype, index->rank, index->dims);
}

mtbal_status mtbal_shape_scatter_elements(mtbal_infer *s)
{
    MTBAL_TRY(check_index(s));
    return shape_set_type(s, 0, shape_type(s, 0));
}

/* Updates: (places of the indices, what a tuple of the last axis leaves of the data's axes). */
mtbal_status mtbal_shape_scatter_nd(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1), *u = shape_type(s, 2);
    int places = index->rank - 1;
    if (x->rank == 0 || index->rank == 0)
        return shape_error(s, "%s is a scalar", shape_name(s, x->rank ? 1 : 0));
    int64_t depth = index->rank > 0 ? index->dims[places].size : -1;
    if (x->rank >= 0 && depth > x->rank)
        return shape_error(s, "%lld indices a place are too many for %s of rank %d",
                           (long long)depth, shape_name(s, 0), x->rank);
    MTBAL_TRY(shape_set_type(s, 0, x));
    if (x->rank > 0 && depth > 0)
        MTBAL_TRY(constants_fit(s, depth, x->dims));
    if (x->rank < 0 || depth < 0 || u->rank < 0)
        return MTBAL_OK;
    bool fits = u->rank == places + x->rank - (int)depth;
    for (int d = 0; d < u->rank && fits; d++)
        fits = !shape_differs(u->dims[d],
                              d < places ? index->dims[d] : x->dims[d - places + (int)depth]);
    if (!fits)
        return shape_error(s, "the updates %s do not have the shape that the indices %s and %s say",
                           shape_name(s, 2), shape_name(s, 1), shape_name(s, 0));
    return MTBAL_OK;
}

mtbal_status mtbal_shape_gather_nd(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    int64_t batch = mtbal_attr_i(s->node, "batch_dims", 0);
    mtbal_dim dims[2 * SHAPE_MAX_RANK];
    int rank = 0;
    if (index->rank == 0)
        return shape_error(s, "the indices %s are a scalar", shape_name(s, 1));
    int64_t depth = index->rank > 0 ? index->dims[index->rank - 1].size : -1;
    if (batch < 0 || (index->rank > 0 && batch >= index->rank) ||
        (x->rank >= 0 && batch >= x->rank))
        return shape_error(s, "batch_dims is %lld, which is not below the ranks of its operands",
                           (long long)batch);
    if (x->rank < 0 || depth < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (depth < 1 || depth > x->rank - batch)
        return shape_error(s, "%lld indices a place are too many for %s of rank %d",
                           (long long)depth, shape_name(s, 0), x->rank);
    for (int i = 0; i < batch; i++)
        if (shape_differs(x->dims[i], index->dims[i]))
            return shape_error(s, "axis %d is a batch axis, but has %lld and %lld elements", i,
                               (long long)x->dims[i].size, (long long)index->dims[i].size);
    MTBAL_TRY(constants_fit(s, depth, x->dims + batch));
    for (int i = 0; i + 1 < index->rank; i++)
        dims[rank++] = index->dims[i];
    for (int64_t i = batch + depth; i < x->rank; i++)
        dims[rank++] = x->dims[i];
    return shape_set(s, 0, x->dtype, rank, dims);
}

/* ------------------------------------------------------------------ selections */

/* NonZero: (rank, count), the count unknown. */
mtbal_status mtbal_shape_non_zero(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim dims[2] = {x->rank < 0 ? shape_unknown() : mtbal_dim_const(x->rank),
                               shape_unknown()};
    return shape_set(s, 0, MTBAL_INT64, 2, dims);
}

/* Compress: as many as the condition is true; without axis of the flattened operand. */
mtbal_status mtbal_shape_compress(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t condition[SHAPE_MAX_CONTENT], axis, count = 0;
    int n = shape_ints(s, 1, condition);
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int i = 0; i < n; i++)
        count += condition[i] != 0;
    mtbal_dim kept = n < 0 ? shape_unknown() : mtbal_dim_const(count);
    if (!mtbal_attr_find(s->node, "axis"))
        return shape_set(s, 0, x->dtype, 1, &kept);
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
    if (x->dims[axis].size >= 0 && n > x->dims[axis].size)
        return shape_error(s, "the condition %s has %d elements, but axis %lld of %s %lld",
                           shape_name(s, 1), n, (long long)axis, shape_name(s, 0),
                           (long long)x->dims[axis].size);
    for (int i = 0; i < x->rank; i++)
        dims[i] = i == axis ? kept : x->dims[i];
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* The depth may come as any number, as a scalar or a vector of one. */
mtbal_status mtbal_shape_one_hot(mtbal_infer *s)
{
    const mtbal_type *index = shape_type(s, 0);
    mtbal_dtype dtype = shape_type(s, 2)->dtype;
    mtbal_dim dims[SHAPE_MAX_RANK + 1], depth = shape_scalar(s, 1);
    double real[SHAPE_MAX_CONTENT];
    int64_t axis;
    if (index->rank < 0)
        return shape_set(s, 0, dtype, -1, NULL);
    if (shape_is_unknown(depth) && shape_reals(s, 1, real) == 1 && real[0] >= 0 && real[0] < 1e15)
        depth = mtbal_dim_const((int64_t)real[0]);
    MTBAL_TRY(shape_axis(s, "axis", -1, index->rank, 1, &axis));
    for (int i = 0, from = 0; i <= index->rank; i++)
        dims[i] = i == axis ? depth : index->dims[from++];
    return shape_set(s, 0, dtype, index->rank + 1, dims);
}

/* TopK: values and indices. */
mtbal_status mtbal_shape_top_k(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_attr *k = mtbal_attr_find(s->node, "k");
    mtbal_dim count = k ? shape_number(s->model, k->i) : shape_scalar(s, 1);
    int64_t axis, number;
    if (shape_is_number(count, &number) && number < 0)
        return shape_error(s, "it wants the first %lld elements", (long long)number);
    if (x->rank < 0) {
        MTBAL_TRY(shape_set(s, 0, x->dtype, -1, NULL));
        return shape_set(s, 1, MTBAL_INT64, -1, NULL);
    }
    MTBAL_TRY(shape_axis(s, "axis", -1, x->rank, 0, &axis));
    if (x->dims[axis].size >= 0 && count.size > x->dims[axis].size)
        return shape_error(s, "it wants the first %lld of %lld elements", (long long)count.size,
                           (long long)x->dims[axis].size);
    for (int i = 0; i < x->rank; i++)
        dims[i] = i == axis ? count : x->dims[i];
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    return shape_set(s, 1, MTBAL_INT64, x->rank, dims);
}

/* Unique: values, first places, where each went, counts. */
mtbal_status mtbal_shape_unique(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK], all = shape_unknown();
    const mtbal_dim unknown = shape_unknown();
    int64_t axis;
    if (x->rank >= 0 && mtbal_attr_find(s->node, "axis")) {
        MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
        for (int i = 0; i < x->rank; i++)
            dims[i] = i == axis ? unknown : x->dims[i];
        all = x->dims[axis];
        MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    } else if (!mtbal_attr_find(s->node, "axis")) {
        all = x->rank < 0 ? unknown : shape_product(s->model, x->rank, x->dims);
        MTBAL_TRY(shape_set(s, 0, x->dtype, 1, &unknown));
    } else {
        MTBAL_TRY(shape_set(s, 0, x->dtype, -1, NULL));
    }
    MTBAL_TRY(shape_set(s, 1, MTBAL_INT64, 1, &unknown));
    MTBAL_TRY(shape_set(s, 2, MTBAL_INT64, 1, &all));
    return shape_set(s, 3, MTBAL_INT64, 1, &unknown);
}
