/* lower/flops.c: floating-point operations of a call: of products and convolutions only, a multiply
 * and an add counted as two. */
#include "lower/lowering.h"

static double count(const operand *x)
{
    return (double)op_count(*x);
}

double lower_flops(const call *c)
{
    const operand *a = c->in, *y = c->out;
    switch (c->kernel) {
    case RT_KERNEL_matmul: {
        const rt_matmul_attr *at = c->attr;
        return 2 * count(y) * (double)a[0].dims[a[0].rank - (at->trans_a ? 2 : 1)];
    }
    case RT_KERNEL_gemm_op: {
        const rt_gemm_op_attr *at = c->attr;
        return 2 * count(y) * (double)a[0].dims[at->trans_a ? 0 : 1];
    }
    case RT_KERNEL_conv: /* y (N,M,..), W (M,C/G,K..) */
        return a[1].dims[0] ? 2 * count(y) * count(&a[1]) / (double)a[1].dims[0] : 0;
    case RT_KERNEL_conv_grad_x: /* dY, W -> dX: the same products as forward */
        return a[1].dims[0] ? 2 * count(&a[0]) * count(&a[1]) / (double)a[1].dims[0] : 0;
    case RT_KERNEL_conv_grad_w: /* X, dY -> dW */
        return y[0].dims[0] ? 2 * count(&a[1]) * count(y) / (double)y[0].dims[0] : 0;
    default:
        return 0;
    }
}
