/* graph/ops/signal.c: Fourier transforms, windows, mel weights. */
#include "graph/ops/shapes.h"

/* Windows of `size` elements. */
mtbal_status mtbal_shape_window(mtbal_infer *s)
{
    mtbal_dim size = shape_scalar(s, 0);
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(s->node, "output_datatype", MTBAL_FLOAT);
    return shape_set(s, 0, dtype, 1, &size);
}

/* Frequencies that a real signal of n samples has: n / 2 + 1. */
static mtbal_dim one_side(mtbal_model *model, mtbal_dim n)
{
    return shape_plus(model, mtbal_dim_div(model, n, mtbal_dim_const(2)), 1);
}

/* (frequencies of a transform of dft_length, number of bins) */
mtbal_status mtbal_shape_mel(mtbal_infer *s)
{
    const mtbal_dim dims[2] = {one_side(s->model, shape_scalar(s, 1)), shape_scalar(s, 0)};
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(s->node, "output_datatype", MTBAL_FLOAT);
    return shape_set(s, 0, dtype, 2, dims);
}

/* (batch, ..., axis, ..., 1 or 2): the last axis holds real and imaginary parts. The axis is an
 * attribute before opset 20 and an input since. */
mtbal_status mtbal_shape_dft(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis = s->opset < 20 ? mtbal_attr_i(s->node, "axis", 1) : -2;
    bool half = mtbal_attr_i(s->node, "onesided", 0), back = mtbal_attr_i(s->node, "inverse", 0);
    bool known = s->opset < 20 || !shape_in(s, 2) || shape_scalar_int(s, 2, &axis);
    if (x->rank < 2)
        return shape_set(s, 0, x->dtype, -1, NULL);
    axis += axis < 0 ? x->rank : 0;
    if (known && (axis < 0 || axis >= x->rank - 1))
        return shape_error(s, "it transforms axis %lld of %s, which has rank %d", (long long)axis,
                           shape_name(s, 0), x->rank);
    for (int i = 0; i < x->rank; i++)
        dims[i] = known ? x->dims[i] : shape_unknown();
    if (known) {
        mtbal_dim n = dims[axis];
        if (half && back) /* from one side to the whole */
            n = mtbal_dim_mul(s->model, shape_plus(s->model, n, -1), mtbal_dim_const(2));
        if (shape_in(s, 1))
            n = shape_scalar(s, 1);
        dims[axis] = half && !back ? one_side(s->model, n) : n;
    }
    dims[x->rank - 1] = mtbal_dim_const(half && back ? 1 : 2);
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* (batch, length, 1 or 2) -> (batch, frames, frequencies, 2) */
mtbal_status mtbal_shape_stft(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *window = shape_type(s, 2);
    mtbal_dim step = shape_scalar(s, 1), frame = shape_scalar(s, 3);
    if (shape_is_unknown(frame) && window->rank == 1)
        frame = window->dims[0];
    int64_t number;
    if (window->rank == 1 && shape_differs(frame, window->dims[0]))
        return shape_error(s, "the window %s has %lld elements, but a frame %lld", shape_name(s, 2),
                           (long long)window->dims[0].size, (long long)frame.size);
    if ((shape_is_number(step, &number) && number < 1) ||
        (shape_is_number(frame, &number) && number < 1))
        return shape_error(s, "its frame or its step is %lld", (long long)number);
    mtbal_dim length = x->rank == 3 ? x->dims[1] : shape_unknown();
    if (length.size >= 0 && frame.size > length.size)
        return shape_error(s, "a frame has %lld elements, but %s has %lld", (long long)frame.size,
                           shape_name(s, 0), (long long)length.size);
    mtbal_dim frames = mtbal_dim_div(s->model, mtbal_dim_sub(s->model, length, frame), step);
    const mtbal_dim dims[4] = {
        x->rank == 3 ? x->dims[0] : shape_unknown(), shape_plus(s->model, frames, 1),
        mtbal_attr_i(s->node, "onesided", 1) ? one_side(s->model, frame) : frame,
        mtbal_dim_const(2)};
    return shape_set(s, 0, x->dtype, 4, dims);
}
