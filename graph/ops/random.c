/* graph/ops/random.c: random tensors, and Dropout. */
#include "graph/ops/shapes.h"

/* Like operand 0, of the type that the attribute `dtype` names. */
mtbal_status mtbal_shape_random_like(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, (mtbal_dtype)mtbal_attr_i(s->node, "dtype", x->dtype), x->rank, x->dims);
}

/* Of the attribute `shape`. */
mtbal_status mtbal_shape_random(mtbal_infer *s)
{
    const int64_t *shape;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = mtbal_attr_ints(s->node, "shape", &shape);
    for (int i = 0; i < rank && i < SHAPE_MAX_RANK; i++)
        dims[i] = shape[i] < 0 ? shape_unknown() : mtbal_dim_const(shape[i]);
    return shape_set(s, 0, (mtbal_dtype)mtbal_attr_i(s->node, "dtype", MTBAL_FLOAT), rank, dims);
}

/* (batch, classes) -> (batch, sample_size) */
mtbal_status mtbal_shape_multinomial(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim dims[2] = {x->rank == 2 ? x->dims[0] : shape_unknown(),
                               mtbal_dim_const(mtbal_attr_i(s->node, "sample_size", 1))};
    return shape_set(s, 0, (mtbal_dtype)mtbal_attr_i(s->node, "dtype", MTBAL_INT32), 2, dims);
}

/* Output and mask: bool since opset 10. */
mtbal_status mtbal_shape_dropout(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    MTBAL_TRY(shape_set_type(s, 0, x));
    return shape_set(s, 1, s->opset >= 10 ? MTBAL_BOOL : x->dtype, x->rank, x->dims);
}
