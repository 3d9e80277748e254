/* lower/widen.c: 16-bit floats are computed with as float, and rounded once at the end; matrix
 * products and windows over integers as double, which is exact up to 2^53. */
#include "lower/lowering.h"

static bool is_half(int dtype)
{
    return dtype == RT_F16 || dtype == RT_BF16;
}

void lower_choose_width(lowering *l, const mtbal_node *node)
{
    l->wide = l->narrow = l->npending = 0;
    if (mtbal_node_has(node, MTBAL_MOVES))
        return;
    const mtbal_type *x = op_given(node, 0) ? &node->in[0]->type : NULL;
    if (x && !mtbal_dtype_is_float(x->dtype) && mtbal_node_has(node, MTBAL_FLOATS)) {
        l->wide = RT_F64;
        l->narrow = (int)x->dtype;
        return;
    }
    for (int i = 0; i < node->nin + node->nout && !l->wide; i++) {
        const mtbal_value *v = i < node->nin ? node->in[i] : node->out[i - node->nin];
        if (v && is_half((int)v->type.dtype))
            l->wide = RT_F32;
    }
}

bool lower_widens(const lowering *l, int dtype)
{
    return l->wide && (l->narrow ? dtype == l->narrow : is_half(dtype));
}

operand lower_widen(lowering *l, operand x)
{
    operand y = op_temp(l, l->wide, x.rank, x.dims);
    op_call1(l, RT_KERNEL_cast, NULL, x, y);
    return y;
}

void lower_narrow_later(lowering *l, mtbal_value *value)
{
    for (int i = 0; i < l->npending; i++)
        if (l->pending[i] == value)
            return;
    if (l->npending < 16)
        l->pending[l->npending++] = value;
    else
        l->status = MTBAL_UNSUPPORTED;
}

mtbal_status lower_narrow(lowering *l)
{
    int n = l->npending;
    l->wide = l->npending = 0;
    for (int i = 0; i < n && l->status == MTBAL_OK; i++) {
        operand x = op_of_value(l, l->pending[i]);
        if (x.dtype == (int)l->pending[i]->type.dtype)
            continue;
        operand y = op_of_type(l, &l->pending[i]->type);
        op_call1(l, RT_KERNEL_cast, NULL, x, op_view(y, x.rank, x.dims));
        op_set_value(l, l->pending[i], y);
    }
    return l->status;
}
