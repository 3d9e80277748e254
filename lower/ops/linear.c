/* lower/ops/linear.c: MatMul, Gemm, reductions, Det. */
#include "lower/ops/ops.h"

#include <string.h>

/* x with leading ones, up to the rank. */
static operand widen(operand x, int rank)
{
    int64_t dims[RT_MAX_RANK];
    for (int d = 0; d < rank; d++)
        dims[d] = d < rank - x.rank ? 1 : x.dims[d - (rank - x.rank)];
    return op_view(x, rank, dims);
}

/* A (.., M, K) times one matrix, plus a row: all rows of A at once. fuse.c put the row there. */
static mtbal_status with_bias(lowering *l, mtbal_node *node)
{
    operand a = op_in(l, node, 0), b = op_in(l, node, 1), c = op_in(l, node, 2);
    operand y = op_out(l, node, 0);
    int64_t k = a.dims[a.rank - 1], n = y.dims[y.rank - 1], rows = 1;
    for (int d = 0; d < a.rank - 1; d++)
        rows *= a.dims[d];
    rt_gemm_op_attr at = {.alpha = 1,
                          .beta = 1,
                          .trans_b = mtbal_attr_i(node, "transB", 0) != 0,
                          .relu = mtbal_attr_i(node, "relu", 0) != 0};
    operand in[3] = {op_view(a, 2, (int64_t[]){rows, k}), b, op_view(c, 1, &n)};
    operand out = op_view(y, 2, (int64_t[]){rows, n});
    op_call_n(l, RT_KERNEL_gemm_op, &at, 3, in, 1, &out);
    return MTBAL_OK;
}

mtbal_status lower_mat_mul(lowering *l, mtbal_node *node)
{
    if (op_given(node, 2))
        return with_bias(l, node);
    operand a = op_in(l, node, 0), b = op_in(l, node, 1), y = op_out(l, node, 0);
    if (a.rank < 1 || b.rank < 1)
        return lower_refuse(l, node, "an operand is a scalar");
    rt_matmul_attr at = {.trans_a = mtbal_attr_i(node, "transA", 0) != 0,
                         .trans_b = mtbal_attr_i(node, "transB", 0) != 0};
    if (b.rank == 1)
        b = op_view(b, 2, (int64_t[]){b.dims[0], 1});
    a = a.rank == 1 ? widen(a, 2) : a;
    int rank = a.rank > b.rank ? a.rank : b.rank;
    int64_t dims[RT_MAX_RANK];
    a = widen(a, rank);
    b = widen(b, rank);
    for (int d = 0; d < rank - 2; d++)
        dims[d] = a.dims[d] == 1 ? b.dims[d] : a.dims[d];
    dims[rank - 2] = a.dims[rank - (at.trans_a ? 1 : 2)];
    dims[rank - 1] = b.dims[rank - (at.trans_b ? 2 : 1)];
    operand in[2] = {a, b}, out = op_view(y, rank, dims);
    op_call_n(l, RT_KERNEL_matmul, &at, 2, in, 1, &out);
    return MTBAL_OK;
}

mtbal_status lower_gemm(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    rt_gemm_op_attr a = {.alpha = mtbal_attr_f(node, "alpha", 1),
                         .beta = mtbal_attr_f(node, "beta", 1),
                         .trans_a = mtbal_attr_i(node, "transA", 0) != 0,
                         .trans_b = mtbal_attr_i(node, "transB", 0) != 0,
                         .relu = mtbal_attr_i(node, "relu", 0) != 0};
    if (in[0].rank != 2 || in[1].rank != 2)
        return lower_refuse(l, node, "an operand is no matrix");
    op_call_n(l, RT_KERNEL_gemm_op, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ reductions */

#define REDUCE_reduce(name) ~, RT_REDUCE_##name
static const signed char reductions[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(REDUCE_##kernel, -1),
#include "graph/ops.def"
#undef OP
};

mtbal_status lower_reduce(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int64_t axes[RT_MAX_RANK];
    int n = op_ints(l, node, "axes", 1, axes, RT_MAX_RANK), op = reductions[node->opcode];
    uint32_t mask = 0, all = (uint32_t)((1u << x.rank) - 1);
    if (n == -2)
        return lower_refuse(l, node, "its axes depend on data");
    for (int i = 0; i < n; i++) {
        int64_t axis = axes[i] + (axes[i] < 0 ? x.rank : 0);
        if (axis < 0 || axis >= x.rank)
            return lower_refuse(l, node, "a wrong axis");
        mask |= 1u << axis;
    }
    bool none = n <= 0 && mtbal_attr_i(node, "noop_with_empty_axes", 0);
    if (n <= 0)
        mask = none ? 0 : all;
    bool plain = op == RT_REDUCE_sum || op == RT_REDUCE_mean || op == RT_REDUCE_max ||
                 op == RT_REDUCE_min || op == RT_REDUCE_prod;
    int64_t folded = 1;
    for (int d = 0; d < x.rank; d++)
        folded *= mask >> d & 1 ? x.dims[d] : 1;
    if (plain && folded == 1) { /* nothing to add up */
        op_alias(l, node, 0, x);
        return MTBAL_OK;
    }
    rt_reduce_attr a = {.op = op, .mask = (int32_t)mask};
    op_call1(l, RT_KERNEL_reduce, &a, x, op_out(l, node, 0));
    return MTBAL_OK;
}

mtbal_status lower_det(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    if (x.rank < 2 || x.dims[x.rank - 1] != x.dims[x.rank - 2] || x.dims[x.rank - 1] > 16)
        return lower_refuse(l, node, "its operand is not square, or larger than 16");
    op_call1(l, RT_KERNEL_det, NULL, x, op_out(l, node, 0));
    return MTBAL_OK;
}

/* Gram_N (g1, .., gN), of the same number of elements */
mtbal_status lower_gram(lowering *l, mtbal_node *node)
{
    operand *in = mtbal_arena_array(l->arena, (size_t)node->nin + 1, sizeof *in), y;
    if (!in)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < node->nin; i++) {
        in[i] = op_in(l, node, i);
        if (in[i].cell < 0 || op_count(in[i]) != op_count(in[0]))
            return lower_refuse(l, node, "its operands differ in size");
    }
    y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_gram, NULL, node->nin, in, 1, &y);
    return MTBAL_OK;
}
