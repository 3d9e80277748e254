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
    case RT_KERNEL_lstm: /* A, R (G H, H) -> Y: what each sequence's steps multiply R with */
    case RT_KERNEL_gru:
    case RT_KERNEL_rnn:
        return 2 * count(y) * (double)a[1].dims[0];
    case RT_KERNEL_lstm_grad: /* dY (S, B, H), .. */
        return 2 * count(&a[0]) * (double)a[4].dims[0];
    case RT_KERNEL_gru_grad: /* where r comes before the product, R_n (r h') once more */
        return 2 * count(&a[0]) * (double)a[5].dims[0] * (a[3].cell < 0 ? 4.0 / 3 : 1);
    case RT_KERNEL_rnn_grad:
        return 2 * count(&a[0]) * (double)a[3].dims[0];
    default:
        return 0;
    }
}
