/* graph/ops/quantize.c: to small integers and back. */
#include "graph/ops/shapes.h"

/* A scale for all, one for each element of an axis, or one for each block along it; the zero point
 * has the scale's shape. */
static mtbal_status check_scale(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *scale = shape_type(s, 1), *zero = shape_type(s, 2);
    int64_t axis = 0, block = mtbal_attr_i(s->node, "block_size", 0);
    bool one = scale->rank == 0 || (scale->rank == 1 && scale->dims[0].size == 1);
    bool fits = zero->rank < 0 || scale->rank < 0 || one || zero->rank == scale->rank;
    if (x->rank < 0 || scale->rank < 0)
        return MTBAL_OK;
    if (!one)
        MTBAL_TRY(shape_axis(s, "axis", 1, x->rank, 0, &axis));
    if (scale->rank == 1 && !one && !block)
        fits = fits && !shape_differs(scale->dims[0], x->dims[axis]);
    else if (!one)
        fits = fits && scale->rank == x->rank;
    for (int d = 0; d < x->rank && scale->rank == x->rank && scale->rank > 1 && fits; d++)
        fits = d == axis || !shape_differs(scale->dims[d], x->dims[d]);
    for (int d = 0; d < zero->rank && zero->rank == scale->rank && fits; d++)
        fits = !shape_differs(zero->dims[d], scale->dims[d]);
    return fits ? MTBAL_OK
                : shape_error(s, "the scale %s or its zero point does not fit axis %lld of %s",
                              shape_name(s, 1), (long long)axis, shape_name(s, 0));
}

/* The type: the attribute's, the zero point's, or uint8. */
mtbal_status mtbal_shape_quantize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype zero = shape_in(s, 2) ? shape_type(s, 2)->dtype : MTBAL_UINT8;
    int64_t to = mtbal_attr_i(s->node, "output_dtype", 0);
    MTBAL_TRY(check_scale(s));
    return shape_set(s, 0, to ? (mtbal_dtype)to : zero, x->rank, x->dims);
}

/* The type: the attribute's, or the scale's. */
mtbal_status mtbal_shape_dequantize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t to = mtbal_attr_i(s->node, "output_dtype", 0);
    MTBAL_TRY(check_scale(s));
    return shape_set(s, 0, to ? (mtbal_dtype)to : shape_type(s, 1)->dtype, x->rank, x->dims);
}

/* y, its scale and its zero point. */
mtbal_status mtbal_shape_dynamic_quantize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    MTBAL_TRY(shape_set(s, 0, MTBAL_UINT8, x->rank, x->dims));
    MTBAL_TRY(shape_set(s, 1, MTBAL_FLOAT, 0, NULL));
    return shape_set(s, 2, MTBAL_UINT8, 0, NULL);
}
