/* lower/ops/quantize.c: quantised operators in terms of others: integers are computed with as
 * double, which holds their products and sums exactly. */
#include "lower/ops/expand.h"

#include <string.h>

/* Limits of an 8- or 16-bit integer type; false for other types. */
static bool limits(mtbal_dtype dtype, double *low, double *high)
{
    static const struct {
        mtbal_dtype dtype;
        double low, high;
    } rows[] = {{MTBAL_UINT8, 0, 255},
                {MTBAL_INT8, -128, 127},
                {MTBAL_UINT16, 0, 65535},
                {MTBAL_INT16, -32768, 32767}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].dtype == dtype) {
            *low = rows[i].low;
            *high = rows[i].high;
            return true;
        }
    return false;
}

/* A scale or zero point as broadcast to x: one number; a row along the axis; or blocks along it. */
static mtbal_value *along(expansion *e, mtbal_value *p, const mtbal_value *x)
{
    mtbal_builder *b = e->b;
    int64_t axis = mtbal_attr_i(e->node, "axis", 1), block = mtbal_attr_i(e->node, "block_size", 0);
    int64_t dims[RT_MAX_RANK + 1];
    int rank = x->type.rank;
    axis += axis < 0 ? rank : 0;
    if (!p || p->type.rank == 0 || mtbal_shape_count(&p->type) == 1)
        return p ? expand_reshape(b, p, 0, NULL) : NULL;
    if (axis < 0 || axis >= rank || rank > RT_MAX_RANK)
        return NULL;
    if (p->type.rank == 1) {
        for (int d = 0; d < rank; d++)
            dims[d] = d == axis ? expand_dim(p, 0) : 1;
        return expand_reshape(b, p, rank, dims);
    }
    if (p->type.rank != rank || block < 1)
        return NULL;
    for (int d = 0; d <= rank; d++)
        dims[d] = d == axis + 1 ? 1 : expand_dim(p, d > axis ? d - 1 : d);
    mtbal_value *wide = expand_reshape(b, p, rank + 1, dims);
    dims[axis + 1] = block;
    wide = expand_broadcast(b, wide, rank + 1, dims);
    for (int d = 0; d < rank; d++)
        dims[d] = d == axis ? expand_dim(p, d) * block : expand_dim(p, d);
    wide = expand_reshape(b, wide, rank, dims);
    return expand_dim(wide, (int)axis) == expand_dim(x, (int)axis)
               ? wide
               : expand_slice(b, wide, axis, 0, expand_dim(x, (int)axis));
}

/* saturate(round(x / scale) + zero), in the type `to`; all operands double. */
static mtbal_value *quantize(mtbal_builder *b, mtbal_value *x, mtbal_value *scale,
                             mtbal_value *zero, mtbal_dtype to)
{
    double low, high;
    if (!limits(to, &low, &high))
        return NULL;
    mtbal_value *q = UNARY("Round", DIV(x, scale));
    q = zero ? ADD(q, zero) : q;
    q = mtbal_emit(b, "Clip", q, LIKE(q, low), LIKE(q, high));
    return q ? mtbal_emit_cast(b, q, to) : NULL;
}

static mtbal_value *as_double(mtbal_builder *b, mtbal_value *x)
{
    return x ? mtbal_emit_cast(b, x, MTBAL_DOUBLE) : NULL;
}

EXPAND(quantize_linear)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *scale = expand_in(e, 1), *zero = expand_in(e, 2);
    mtbal_dtype to =
        zero ? zero->type.dtype : (mtbal_dtype)mtbal_attr_i(e->node, "output_dtype", MTBAL_UINT8);
    double low, high;
    if (!x || !scale || !limits(to ? to : MTBAL_UINT8, &low, &high))
        return MTBAL_OK;
    mtbal_value *s = along(e, scale, x), *z = zero ? along(e, zero, x) : NULL;
    if (!s || (zero && !z))
        return b->status;
    /* the quotient is rounded in the type of x, as the standard has it */
    mtbal_value *q = mtbal_emit_cast(b, x, MTBAL_FLOAT);
    s = mtbal_emit_cast(b, s, MTBAL_FLOAT);
    e->out[0] =
        quantize(b, q, s, z ? mtbal_emit_cast(b, z, MTBAL_FLOAT) : NULL, to ? to : MTBAL_UINT8);
    return MTBAL_OK;
}

EXPAND(dequantize_linear)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *scale = expand_in(e, 1), *zero = expand_in(e, 2);
    if (!x || !scale || x->type.dtype > MTBAL_BFLOAT16)
        return MTBAL_OK;
    mtbal_value *s = along(e, scale, x), *z = zero ? along(e, zero, x) : NULL;
    if (!s || (zero && !z))
        return b->status;
    mtbal_value *d = as_double(b, x);
    d = z ? SUB(d, as_double(b, z)) : d;
    d = MUL(d, as_double(b, s));
    e->out[0] = d ? mtbal_emit_cast(b, d, scale->type.dtype) : NULL;
    return MTBAL_OK;
}

/* The range of x, with 0 in it, on 0..255. */
EXPAND(dynamic_quantize_linear)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *nil = LIKE(x, 0);
    if (!x)
        return MTBAL_OK;
    mtbal_value *most = OP2("Max", mtbal_emit_reduce(b, "ReduceMax", x, 0, NULL, false), nil);
    mtbal_value *least = OP2("Min", mtbal_emit_reduce(b, "ReduceMin", x, 0, NULL, false), nil);
    mtbal_value *scale = DIV(SUB(most, least), LIKE(x, 255));
    mtbal_value *zero =
        UNARY("Round", mtbal_emit(b, "Clip", SUB(nil, DIV(least, scale)), nil, LIKE(x, 255)));
    e->out[0] = quantize(b, x, scale, zero, MTBAL_UINT8);
    e->out[1] = scale;
    e->out[2] = zero ? mtbal_emit_cast(b, zero, MTBAL_UINT8) : NULL;
    return MTBAL_OK;
}

/* x minus its zero point, as double; a row of zero points stands along the given axis. */
static mtbal_value *centred(mtbal_builder *b, mtbal_value *x, mtbal_value *zero, int axis)
{
    int64_t dims[RT_MAX_RANK];
    mtbal_value *z = as_double(b, zero), *d = as_double(b, x);
    int rank = x ? x->type.rank : 0;
    if (!zero)
        return d;
    if (zero->type.rank == 1 && expand_dim(zero, 0) != 1 && rank <= RT_MAX_RANK) {
        for (int i = 0; i < rank; i++)
            dims[i] = i == axis ? expand_dim(zero, 0) : 1;
        z = expand_reshape(b, z, rank, dims);
    } else if (mtbal_shape_count(&zero->type) == 1) {
        z = expand_reshape(b, z, 0, NULL);
    }
    return SUB(d, z);
}

EXPAND(mat_mul_integer)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *w = expand_in(e, 1);
    if (!x || !w)
        return MTBAL_OK;
    mtbal_value *y = mtbal_emit(b, "MatMul", centred(b, x, expand_in(e, 2), x->type.rank - 2),
                                centred(b, w, expand_in(e, 3), w->type.rank - 1));
    e->out[0] = y ? mtbal_emit_cast(b, y, MTBAL_INT32) : NULL;
    return MTBAL_OK;
}

/* A convolution of doubles with the node's own geometry. */
static mtbal_value *convolve(expansion *e, int n, mtbal_value *const *in)
{
    mtbal_value *y;
    for (int i = 0; i < n; i++)
        if (!in[i])
            return NULL;
    mtbal_node *conv = mtbal_emit_node(e->b, "", "Conv", n, in, 1, &y);
    if (!conv || mtbal_copy_attrs(conv, e->node) != MTBAL_OK)
        return NULL;
    mtbal_emit_done(e->b, conv);
    return e->b->status == MTBAL_OK ? y : NULL;
}

EXPAND(conv_integer)
{
    mtbal_builder *b = e->b;
    mtbal_value *in[2] = {centred(b, expand_in(e, 0), expand_in(e, 2), 0),
                          centred(b, expand_in(e, 1), expand_in(e, 3), 0)};
    mtbal_value *y = convolve(e, 2, in);
    e->out[0] = y ? mtbal_emit_cast(b, y, MTBAL_INT32) : NULL;
    return MTBAL_OK;
}

/* (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero) */
EXPAND(q_linear_mat_mul)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *w = expand_in(e, 3), *zero = expand_in(e, 7);
    if (!x || !w || !zero || !expand_in(e, 1) || !expand_in(e, 4) || !expand_in(e, 6))
        return MTBAL_OK;
    mtbal_value *y = mtbal_emit(b, "MatMul", centred(b, x, expand_in(e, 2), x->type.rank - 2),
                                centred(b, w, expand_in(e, 5), w->type.rank - 1));
    mtbal_value *scale = MUL(as_double(b, expand_in(e, 1)), as_double(b, expand_in(e, 4)));
    e->out[0] = quantize(b, MUL(y, scale), as_double(b, expand_in(e, 6)), as_double(b, zero),
                         zero->type.dtype);
    return MTBAL_OK;
}

/* (x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero [, bias, in units of x_scale w_scale])
 */
EXPAND(q_linear_conv)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *w = expand_in(e, 3), *ws = expand_in(e, 4);
    mtbal_value *zero = expand_in(e, 7), *in[3];
    int64_t dims[RT_MAX_RANK];
    if (!x || !w || !ws || !zero || !expand_in(e, 1) || !expand_in(e, 6) ||
        x->type.rank > RT_MAX_RANK)
        return MTBAL_OK;
    in[0] = centred(b, x, expand_in(e, 2), 1);
    in[1] = centred(b, w, expand_in(e, 5), 0);
    in[2] = as_double(b, expand_in(e, 8));
    mtbal_value *y = convolve(e, expand_in(e, 8) ? 3 : 2, in), *scale = as_double(b, ws);
    if (ws->type.rank == 1 && expand_dim(ws, 0) != 1) { /* one scale a channel of the output */
        for (int d = 0; d < x->type.rank; d++)
            dims[d] = d == 1 ? expand_dim(ws, 0) : 1;
        scale = expand_reshape(b, scale, x->type.rank, dims);
    }
    y = MUL(y, MUL(scale, as_double(b, expand_in(e, 1))));
    e->out[0] = quantize(b, y, as_double(b, expand_in(e, 6)), as_double(b, zero), zero->type.dtype);
    return MTBAL_OK;
}
