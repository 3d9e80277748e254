/* lower/ops/common.c: helpers of op functions. */
#include "lower/ops/ops.h"

#include <string.h>

bool op_axis(lowering *l, mtbal_node *node, const char *name, int64_t otherwise, int rank,
             int *axis)
{
    int64_t a = mtbal_attr_i(node, name, otherwise);
    a += a < 0 ? rank : 0;
    if (a < 0 || a >= rank) {
        lower_refuse(l, node, "axis %lld of a tensor of rank %d", (long long)a, rank);
        return false;
    }
    *axis = (int)a;
    return true;
}

int op_ints(lowering *l, const mtbal_node *node, const char *name, int i, int64_t *values,
            int limit)
{
    const int64_t *ints;
    int n = name ? mtbal_attr_ints(node, name, &ints) : -1;
    if (n > limit)
        return -2;
    if (n >= 0) {
        if (n)
            memcpy(values, ints, (size_t)n * sizeof *values);
        return n;
    }
    if (!op_given(node, i))
        return -1;
    const mtbal_tensor *t = lower_constant(l, node->in[i]);
    if (!t || t->count > limit)
        return -2;
    for (int64_t k = 0; k < t->count; k++)
        values[k] = mtbal_tensor_i64(t, k);
    return (int)t->count;
}

bool op_number(lowering *l, const mtbal_node *node, int i, double *number)
{
    const mtbal_tensor *t = op_given(node, i) ? lower_constant(l, node->in[i]) : NULL;
    if (!t || t->count != 1)
        return false;
    *number = mtbal_tensor_f64(t, 0);
    return true;
}

void op_dense_strides(operand x, int64_t *stride)
{
    int64_t step = 1;
    for (int d = x.rank - 1; d >= 0; d--) {
        stride[d] = step;
        step *= x.dims[d];
    }
}

/* Whether elements lie one after another. */
static bool is_dense(int rank, const int64_t *dims, const int64_t *stride)
{
    int64_t step = 1;
    for (int d = rank - 1; d >= 0; d--) {
        if (dims[d] != 1 && stride[d] != step)
            return false;
        step *= dims[d];
    }
    return true;
}

operand op_strided(lowering *l, operand x, int64_t offset, int rank, const int64_t *dims,
                   const int64_t *stride)
{
    rt_strided_attr a = {.offset = offset};
    int64_t count = 1;
    for (int d = 0; d < rank; d++)
        count *= dims[d];
    if (l->status != MTBAL_OK)
        return op_none();
    if (is_dense(rank, dims, stride) && count) {
        operand y = op_view(x, rank, dims);
        y.offset += (size_t)offset * rt_dtype_size(x.dtype);
        return y;
    }
    for (int d = 0; d < rank; d++) {
        a.stride[d] = (int32_t)stride[d];
        if (a.stride[d] != stride[d] && dims[d] > 1) {
            l->status = mtbal_fail(l->diag, MTBAL_UNSUPPORTED, l->label, "a smaller batch?",
                                   "an axis step of more than 2^31 elements");
            return op_none();
        }
    }
    operand y = op_temp(l, x.dtype, rank, dims);
    op_call1(l, RT_KERNEL_strided, &a, x, y);
    return y;
}

operand op_transpose(lowering *l, operand x, const int64_t *perm)
{
    int64_t dense[RT_MAX_RANK], dims[RT_MAX_RANK], stride[RT_MAX_RANK];
    op_dense_strides(x, dense);
    for (int d = 0; d < x.rank; d++) {
        dims[d] = x.dims[perm[d]];
        stride[d] = dense[perm[d]];
    }
    return op_strided(l, x, 0, x.rank, dims, stride);
}

operand op_cast_to(lowering *l, operand x, int dtype)
{
    if (x.dtype == dtype || x.cell < 0)
        return x;
    operand y = op_temp(l, dtype, x.rank, x.dims);
    op_call1(l, RT_KERNEL_cast, NULL, x, y);
    return y;
}

static bool gives_bool(int op)
{
    return (op >= RT_BINARY_equal && op <= RT_BINARY_greater_or_equal) ||
           (op >= RT_BINARY_logical_and && op <= RT_BINARY_logical_xor);
}

operand op_binary(lowering *l, int op, operand a, operand b)
{
    int64_t dims[RT_MAX_RANK];
    int rank = a.rank > b.rank ? a.rank : b.rank;
    for (int d = 0; d < rank; d++) {
        int64_t p = d < rank - a.rank ? 1 : a.dims[d - (rank - a.rank)],
                q = d < rank - b.rank ? 1 : b.dims[d - (rank - b.rank)];
        dims[d] = p == 1 ? q : p;
    }
    rt_binary_attr at = {.op = op};
    operand y = op_temp(l, gives_bool(op) ? RT_BOOL : a.dtype, rank, dims);
    op_call_n(l, RT_KERNEL_binary, &at, 2, (operand[]){a, b}, 1, &y);
    return y;
}

operand op_unary(lowering *l, int op, operand x)
{
    rt_unary_attr at = {.op = op};
    operand y = op_temp(l, x.dtype, x.rank, x.dims);
    op_call1(l, RT_KERNEL_unary, &at, x, y);
    return y;
}

operand op_reduce(lowering *l, int op, operand x, uint32_t mask, bool keepdims)
{
    int64_t dims[RT_MAX_RANK];
    int rank = 0;
    for (int d = 0; d < x.rank; d++)
        if (!(mask >> d & 1) || keepdims)
            dims[rank++] = mask >> d & 1 ? 1 : x.dims[d];
    rt_reduce_attr at = {.op = op, .mask = (int32_t)mask};
    operand y = op_temp(l, x.dtype, rank, dims);
    op_call1(l, RT_KERNEL_reduce, &at, x, y);
    return y;
}

void op_give(lowering *l, const mtbal_node *node, int i, operand x)
{
    op_alias(l, node, i, x);
}
