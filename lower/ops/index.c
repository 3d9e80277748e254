/* lower/ops/index.c: gathers, scatters, selections. */
#include "lower/ops/ops.h"

#include <string.h>

/* Indices as int64 or int32 stay; other integers are widened. */
static operand indices(lowering *l, operand x)
{
    return x.dtype == RT_I64 || x.dtype == RT_I32 ? x : op_cast_to(l, x, RT_I64);
}

/* A constant index into an axis is a slice of it. */
mtbal_status lower_gather(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int axis;
    double at;
    if (!op_axis(l, node, "axis", 0, x.rank, &axis))
        return MTBAL_OK;
    if (op_number(l, node, 1, &at)) {
        int64_t stride[RT_MAX_RANK], dims[RT_MAX_RANK];
        at += at < 0 ? (double)x.dims[axis] : 0;
        if (at >= 0 && at < (double)x.dims[axis]) {
            op_dense_strides(x, stride);
            memcpy(dims, x.dims, sizeof dims);
            dims[axis] = 1;
            op_give(l, node, 0, op_strided(l, x, (int64_t)at * stride[axis], x.rank, dims, stride));
            return MTBAL_OK;
        }
    }
    rt_gather_attr a = {.axis = axis};
    operand in[2] = {x, indices(l, op_in(l, node, 1))}, y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_gather, &a, 2, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_gather_elements(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int axis;
    if (!op_axis(l, node, "axis", 0, x.rank, &axis))
        return MTBAL_OK;
    rt_gather_elements_attr a = {.axis = axis};
    operand in[2] = {x, indices(l, op_in(l, node, 1))}, y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_gather_elements, &a, 2, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_gather_nd(lowering *l, mtbal_node *node)
{
    rt_gather_nd_attr a = {.batch_dims = (int32_t)mtbal_attr_i(node, "batch_dims", 0)};
    operand in[2] = {op_in(l, node, 0), indices(l, op_in(l, node, 1))}, y = op_out(l, node, 0);
    if (in[1].rank < 1 || in[1].dims[in[1].rank - 1] + a.batch_dims > in[0].rank)
        return lower_refuse(l, node, "its indices do not match the operand");
    op_call_n(l, RT_KERNEL_gather_nd, &a, 2, in, 1, &y);
    return MTBAL_OK;
}

/* The reduction by its number in index.c of the runtime; -1: unknown. */
static int reduction_of(const mtbal_node *node)
{
    static const char *const names[] = {"none", "add", "mul", "max", "min"};
    const char *name = mtbal_attr_s(node, "reduction", "none");
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i]))
            return i;
    return -1;
}

mtbal_status lower_scatter_elements(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int axis;
    if (!op_axis(l, node, "axis", 0, x.rank, &axis))
        return MTBAL_OK;
    rt_scatter_elements_attr a = {.axis = axis, .reduction = reduction_of(node)};
    operand in[3] = {x, indices(l, op_in(l, node, 1)), op_in(l, node, 2)}, y = op_out(l, node, 0);
    if (a.reduction < 0)
        return lower_refuse(l, node, "an unknown reduction");
    op_call_n(l, RT_KERNEL_scatter_elements, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_scatter_nd(lowering *l, mtbal_node *node)
{
    rt_scatter_nd_attr a = {.reduction = reduction_of(node)};
    operand in[3] = {op_in(l, node, 0), indices(l, op_in(l, node, 1)), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    if (a.reduction < 0 || in[1].rank < 1 || in[1].dims[in[1].rank - 1] > in[0].rank)
        return lower_refuse(l, node, "an unknown reduction, or indices that do not match");
    op_call_n(l, RT_KERNEL_scatter_nd, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_one_hot(lowering *l, mtbal_node *node)
{
    int axis;
    if (!op_axis(l, node, "axis", -1, node->out[0]->type.rank, &axis))
        return MTBAL_OK;
    rt_one_hot_attr a = {.axis = axis};
    operand in[3] = {op_cast_to(l, op_in(l, node, 0), RT_I64), op_in(l, node, 1),
                     op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_one_hot, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

/* Outputs that are left out need memory all the same. */
static operand out_or_temp(lowering *l, const mtbal_node *node, int i, int dtype, operand like)
{
    return op_wants(node, i) ? op_out(l, node, i) : op_temp(l, dtype, like.rank, like.dims);
}

mtbal_status lower_top_k(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), k;
    int axis;
    if (!op_axis(l, node, "axis", -1, x.rank, &axis))
        return MTBAL_OK;
    const mtbal_value *shown = op_wants(node, 0) ? node->out[0] : node->out[1];
    rt_top_k_attr a = {.axis = axis, .largest = (int32_t)mtbal_attr_i(node, "largest", 1)};
    k = x;
    k.dims[axis] = shown->type.dims[axis].size;
    operand out[2] = {out_or_temp(l, node, 0, x.dtype, k), out_or_temp(l, node, 1, RT_I64, k)};
    op_call_n(l, RT_KERNEL_top_k, &a, 1, &x, 2, out);
    return MTBAL_OK;
}

mtbal_status lower_arg(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int axis;
    if (!op_axis(l, node, "axis", 0, x.rank, &axis))
        return MTBAL_OK;
    rt_arg_attr a = {.axis = axis,
                     .largest = mtbal_node_is(node, MTBAL_OP_arg_max),
                     .last = (int32_t)mtbal_attr_i(node, "select_last_index", 0)};
    op_call1(l, RT_KERNEL_arg, &a, x, op_out(l, node, 0));
    return MTBAL_OK;
}
