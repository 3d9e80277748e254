/* lower/c/scratch.c: how much of env->scratch a call needs: matrix products pack their operands
 * there, chains keep their intermediate values. */
#include "lower/c/c.h"
#include "runtime/gemm.h"

static int64_t product(const plan_operand *x, int from, int to)
{
    int64_t n = 1;
    for (int i = from; i < to; i++)
        n *= x->dims[i];
    return n;
}

static int64_t count(const plan_operand *x)
{
    return product(x, 0, x->rank);
}

/* The products of a convolution: kernel size x channels, output positions, output channels, in
 * whatever order the call multiplies them. */
static size_t conv_scratch(const plan_operand *w, const plan_operand *y)
{
    int64_t k = product(w, 1, w->rank), m = w->dims[0], positions = product(y, 2, y->rank);
    size_t a = rt_gemm_scratch(m, positions, k), b = rt_gemm_scratch(k, positions, m),
           c = rt_gemm_scratch(m, k, positions);
    return a > b ? (a > c ? a : c) : b > c ? b : c;
}

static size_t chain_scratch(const rt_chain_attr *at)
{
    return (size_t)(at->is_double ? 8 : 4) * RT_CHAIN_BLOCK * (size_t)(at->nin + at->ncode);
}

size_t c_scratch(const plan_call *call)
{
    const plan_operand *a = call->in, *y = call->out;
    switch (call->kernel) {
    case RT_KERNEL_matmul: {
        int t = ((const rt_matmul_attr *)call->attr)->trans_a;
        int64_t k = a->dims[a->rank - (t ? 2 : 1)], n = y->dims[y->rank - 1];
        return rt_gemm_scratch(n ? count(y) / n : 0, n, k);
    }
    case RT_KERNEL_gemm_op: {
        int t = ((const rt_gemm_op_attr *)call->attr)->trans_a;
        return rt_gemm_scratch(y->dims[0], y->dims[1], a->dims[t ? 0 : 1]);
    }
    case RT_KERNEL_conv:
        return conv_scratch(&a[1], y);
    case RT_KERNEL_conv_grad_x:
        return conv_scratch(&a[1], &a[0]);
    case RT_KERNEL_conv_grad_w:
        return conv_scratch(y, &a[1]);
    case RT_KERNEL_chain:
        return chain_scratch(call->attr);
    default:
        return 0;
    }
}
