/* graph/ops/index.c: gathers, scatters, selections. */
#include "graph/ops/shapes.h"

#include <string.h>

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
            return shape_error(s, "index %lld into %d elements", (long long)index[i], n);
        result[i] = content[at];
    }
    return shape_set_content(s, k, result);
}

mtbal_status mtbal_shape_gather(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    int64_t axis = shape_axis(s, "axis", 0, x->rank);
    mtbal_dim dims[2 * SHAPE_MAX_RANK];
    int rank = 0;
    if (x->rank < 1 || index->rank < 0 || x->rank + index->rank > SHAPE_MAX_RANK || axis < 0 ||
        axis >= x->rank)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank; i++) {
        if (i != axis)
            dims[rank++] = x->dims[i];
        else
            for (int k = 0; k < index->rank; k++)
                dims[rank++] = index->dims[k];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, rank, dims));
    return gather_content(s);
}

mtbal_status mtbal_shape_gather_elements(mtbal_infer *s)
{
    const mtbal_type *index = shape_type(s, 1);
    return shape_set(s, 0, shape_type(s, 0)->dtype, index->rank, index->dims);
}

mtbal_status mtbal_shape_gather_nd(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *index = shape_type(s, 1);
    int64_t batch = mtbal_attr_i(s->node, "batch_dims", 0);
    mtbal_dim dims[2 * SHAPE_MAX_RANK];
    int rank = 0;
    int64_t depth = index->rank > 0 ? index->dims[index->rank - 1].size : -1;
    if (x->rank < 0 || depth < 0 || batch < 0 || batch + depth > x->rank ||
        x->rank + index->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i + 1 < index->rank; i++)
        dims[rank++] = index->dims[i];
    for (int64_t i = batch + depth; i < x->rank; i++)
        dims[rank++] = x->dims[i];
    return shape_set(s, 0, x->dtype, rank, dims);
}

/* NonZero: (rank, count), the count unknown. */
mtbal_status mtbal_shape_non_zero(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[2] = {x->rank < 0 ? shape_unknown() : mtbal_dim_const(x->rank), shape_unknown()};
    return shape_set(s, 0, MTBAL_INT64, 2, dims);
}

mtbal_status mtbal_shape_compress(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK] = {shape_unknown()};
    if (!mtbal_attr_find(s->node, "axis"))
        return shape_set(s, 0, x->dtype, 1, dims);
    int64_t axis = shape_axis(s, "axis", 0, x->rank);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK || axis < 0 || axis >= x->rank)
        return shape_set(s, 0, x->dtype, -1, NULL);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    dims[axis] = shape_unknown();
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_one_hot(mtbal_infer *s)
{
    const mtbal_type *index = shape_type(s, 0);
    const mtbal_dim *depth;
    mtbal_dim dims[SHAPE_MAX_RANK + 1];
    int64_t axis = mtbal_attr_i(s->node, "axis", -1);
    if (index->rank < 0 || index->rank >= SHAPE_MAX_RANK)
        return shape_set(s, 0, shape_type(s, 2)->dtype, -1, NULL);
    axis += axis < 0 ? index->rank + 1 : 0;
    for (int i = 0, from = 0; i <= index->rank; i++)
        dims[i] = i != axis                          ? index->dims[from++]
                  : shape_content(s, 1, &depth) == 1 ? depth[0]
                                                     : shape_unknown();
    return shape_set(s, 0, shape_type(s, 2)->dtype, index->rank + 1, dims);
}

mtbal_status mtbal_shape_top_k(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_dim *k;
    int64_t axis = shape_axis(s, "axis", -1, x->rank);
    if (x->rank < 1 || x->rank > SHAPE_MAX_RANK || axis < 0 || axis >= x->rank)
        return shape_set(s, 0, x->dtype, -1, NULL);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    dims[axis] = mtbal_attr_find(s->node, "k")  ? mtbal_dim_const(mtbal_attr_i(s->node, "k", 1))
                 : shape_content(s, 1, &k) == 1 ? k[0]
                                                : shape_unknown();
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    return shape_set(s, 1, MTBAL_INT64, x->rank, dims);
}
