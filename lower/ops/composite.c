/* lower/ops/composite.c: normalisations, activations and layouts in terms of other ops. */
#include "lower/ops/expand.h"

#include <string.h>

/* By the body in graph/, which gradients are made of too. */
EXPAND(decomposed)
{
    mtbal_decompose(e->b, e->node, e->out);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ normalisations */

EXPAND(lp_normalization)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0);
    int64_t axis = mtbal_attr_i(e->node, "axis", -1), p = mtbal_attr_i(e->node, "p", 2);
    if (!x || (p != 1 && p != 2))
        return MTBAL_OK;
    mtbal_value *norm = expand_reduce(b, p == 1 ? "ReduceL1" : "ReduceL2", x, axis);
    if (!norm)
        return MTBAL_OK;
    /* a norm of 0 gives 0, as ONNX's reference does */
    mtbal_value *none = OP2("Equal", norm, LIKE(x, 0));
    e->out[0] = DIV(x, WHERE(none, LIKE(x, 1), norm));
    return MTBAL_OK;
}

/* 1 at the first largest element along the axis. Before opset 13: of the tensor seen as a matrix.
 */
EXPAND(hardmax)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0);
    bool flat = e->l->opset < 13;
    int64_t axis = mtbal_attr_i(e->node, "axis", flat ? 1 : -1), dims[64], left = 1;
    if (!x || x->type.rank < 1 || x->type.rank > 64)
        return MTBAL_OK;
    int rank = x->type.rank;
    axis += axis < 0 ? rank : 0;
    for (int d = 0; d < rank; d++) {
        dims[d] = expand_dim(x, d);
        left *= d < axis ? dims[d] : 1;
    }
    int64_t count = mtbal_shape_count(&x->type);
    mtbal_value *u = flat ? expand_reshape(b, x, 2, (int64_t[]){left, left ? count / left : 0}) : x;
    if (flat)
        axis = 1;
    int64_t depth = expand_dim(u, (int)axis), two = 2;
    mtbal_value *at = mtbal_emit_attrs(b, "ArgMax", 1, &u, "axis=i keepdims=i", axis, (int64_t)0);
    mtbal_tensor *pair = mtbal_tensor_new(e->l->model, x->type.dtype, 1, &two, NULL);
    if (!pair)
        return mtbal_no_memory(e->l->diag);
    mtbal_tensor_set_f64(pair, 1, 1);
    mtbal_value *in[3] = {at, mtbal_const_i64(b, depth), mtbal_const_tensor(b, pair)};
    mtbal_value *y = mtbal_emit_attrs(b, "OneHot", 3, in, "axis=i", axis);
    e->out[0] = flat ? expand_reshape(b, y, rank, dims) : y;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ older names */

EXPAND(scatter)
{
    e->out[0] = mtbal_emit_attrs(e->b, "ScatterElements", 3, e->node->in, "axis=i",
                                 mtbal_attr_i(e->node, "axis", 0));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ layouts */

/* The kept positions are known when the condition is a constant. */
EXPAND(compress)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0);
    const mtbal_tensor *keep = op_given(e->node, 1) ? lower_constant(e->l, e->node->in[1]) : NULL;
    const mtbal_attr *axis = mtbal_attr_find(e->node, "axis");
    int64_t kept = 0, count = keep ? keep->count : 0;
    if (!keep || !x)
        return MTBAL_OK;
    int64_t *at = mtbal_arena_array(e->l->arena, (size_t)count + 1, sizeof *at);
    if (!at)
        return mtbal_no_memory(e->l->diag);
    if (!axis)
        x = expand_reshape(b, x, 1, (int64_t[]){mtbal_shape_count(&x->type)});
    int64_t along = axis ? axis->i : 0, size = expand_dim(x, (int)along);
    for (int64_t i = 0; i < count && i < size; i++)
        if (mtbal_tensor_f64(keep, i) != 0)
            at[kept++] = i;
    mtbal_value *in[2] = {x, mtbal_const_i64s(b, (int)kept, at)};
    e->out[0] = mtbal_emit_attrs(b, "Gather", 2, in, "axis=i", along);
    return MTBAL_OK;
}

EXPAND(center_crop_pad)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0);
    int64_t want[64], every[64], pads[128] = {0};
    const int64_t *axes;
    int n = expand_ints(e, 1, want, 64), rank = x ? x->type.rank : 0;
    int naxes = mtbal_attr_ints(e->node, "axes", &axes);
    for (int d = 0; d < 64; d++)
        every[d] = d;
    if (naxes < 0) {
        axes = every;
        naxes = rank;
    }
    if (!x || n != naxes || rank > 64)
        return MTBAL_OK;
    bool padded = false;
    for (int i = 0; i < n; i++) {
        int64_t axis = axes[i] < 0 ? axes[i] + rank : axes[i], have = expand_dim(x, (int)axis);
        if (axis < 0 || axis >= rank)
            return MTBAL_OK;
        if (have > want[i]) {
            int64_t from = (have - want[i]) / 2;
            x = expand_slice(b, x, axis, from, from + want[i]);
        } else if (have < want[i]) {
            pads[axis] = (want[i] - have) / 2;
            pads[rank + axis] = want[i] - have - pads[axis];
            padded = true;
        }
    }
    e->out[0] = padded ? mtbal_emit(b, "Pad", x, mtbal_const_i64s(b, 2 * rank, pads))
                       : UNARY("Identity", x);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ shapes */

EXPAND(shape)
{
    const mtbal_type *x = &expand_in(e, 0)->type;
    int64_t dims[64], rank = x->rank;
    int64_t start = mtbal_attr_i(e->node, "start", 0), end = mtbal_attr_i(e->node, "end", rank);
    if (rank > 64)
        return MTBAL_OK;
    start = start < 0 ? start + rank : start;
    end = end < 0 ? end + rank : end;
    start = start < 0 ? 0 : start > rank ? rank : start;
    end = end < start ? start : end > rank ? rank : end;
    for (int64_t d = start; d < end; d++)
        dims[d - start] = x->dims[d].size;
    e->out[0] = mtbal_const_i64s(e->b, (int)(end - start), dims);
    return MTBAL_OK;
}

EXPAND(size)
{
    e->out[0] = mtbal_const_i64(e->b, mtbal_shape_count(&expand_in(e, 0)->type));
    return MTBAL_OK;
}
