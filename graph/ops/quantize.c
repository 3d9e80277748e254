/* graph/ops/quantize.c: to small integers and back. */
#include "graph/ops/shapes.h"

/* The type: the attribute's, the zero point's, or uint8. */
mtbal_status mtbal_shape_quantize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype zero = shape_in(s, 2) ? shape_type(s, 2)->dtype : MTBAL_UINT8;
    int64_t to = mtbal_attr_i(s->node, "output_dtype", 0);
    return shape_set(s, 0, to ? (mtbal_dtype)to : zero, x->rank, x->dims);
}

/* The type: the attribute's, or the scale's. */
mtbal_status mtbal_shape_dequantize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t to = mtbal_attr_i(s->node, "output_dtype", 0);
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
