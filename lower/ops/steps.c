/* lower/ops/steps.c: recurrent layers as kernels: LSTMSteps, GRUSteps and RNNSteps, which
 * recurrent.c writes, and the functions of their gradients. */
#include "lower/ops/ops.h"

#include <string.h>

static int32_t activation_code(const char *name, size_t length)
{
    static const struct {
        const char *name;
        int32_t code;
    } codes[] = {{"Sigmoid", RT_UNARY_sigmoid}, {"Tanh", RT_UNARY_tanh}, {"Relu", RT_UNARY_relu}};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strlen(codes[i].name) == length && !memcmp(codes[i].name, name, length))
            return codes[i].code;
    return RT_UNARY_relu; /* none: fewer activations than three */
}

/* Codes of the activations, from their names in one string. */
static void set_activations(const mtbal_node *node, int32_t act[3])
{
    const char *at = mtbal_attr_s(node, "activations", "");
    for (int i = 0; i < 3; i++) {
        size_t length = strcspn(at, " ");
        act[i] = activation_code(at, length);
        at += length;
        at += *at == ' ';
    }
}

static int32_t is_linear(const mtbal_node *node)
{
    return mtbal_attr_i(node, "linear_before_reset", 0) != 0;
}

/* A call with n operands and nout results, each of them in memory. like: which operand a result
 * has the shape of. */
static mtbal_status run(lowering *l, mtbal_node *node, int kernel, const void *attr, int n,
                        const operand *in, int nout, const int *like)
{
    operand out[5];
    for (int i = 0; i < nout; i++) {
        const operand *x = &in[like[i]];
        out[i] = op_wants(node, i) ? op_out(l, node, i) : op_temp(l, x->dtype, x->rank, x->dims);
    }
    op_call_n(l, kernel, attr, n, in, nout, out);
    return MTBAL_OK;
}

static void read_operands(lowering *l, const mtbal_node *node, int n, operand *in)
{
    for (int i = 0; i < n; i++)
        in[i] = op_in(l, node, i);
}

/* Y (S, B, H) is always wanted; its shape is in its type. */
static mtbal_status run_steps(lowering *l, mtbal_node *node, int kernel, const void *attr, int n,
                              int nout)
{
    operand in[6], out[3];
    read_operands(l, node, n, in);
    for (int i = 0; i < nout; i++)
        out[i] = op_wants(node, i) ? op_out(l, node, i)
                                   : op_temp(l, in[2].dtype, in[2].rank, in[2].dims);
    op_call_n(l, kernel, attr, n, in, nout, out);
    return MTBAL_OK;
}

/* LSTMSteps (A, R, H0, C0, P, lengths) => (Y, Hn, Cn) */
mtbal_status lower_lstm_steps(lowering *l, mtbal_node *node)
{
    rt_lstm_attr a;
    set_activations(node, a.act);
    return run_steps(l, node, RT_KERNEL_lstm, &a, 6, 3);
}

/* GRUSteps (A, R, H0, bias, lengths) => (Y, Hn) */
mtbal_status lower_gru_steps(lowering *l, mtbal_node *node)
{
    rt_gru_attr a = {.linear = is_linear(node)};
    set_activations(node, a.act);
    return run_steps(l, node, RT_KERNEL_gru, &a, 5, 2);
}

/* RNNSteps (A, R, H0, lengths) => (Y, Hn) */
mtbal_status lower_rnn_steps(lowering *l, mtbal_node *node)
{
    rt_rnn_attr a;
    set_activations(node, a.act);
    return run_steps(l, node, RT_KERNEL_rnn, &a, 4, 2);
}

/* LSTMGrad_.. (dY, dHn, dCn, A, R, C0 [, P] [, M]) => (dA, dH0, dC0, Cp, C) */
mtbal_status lower_lstm_grad(lowering *l, mtbal_node *node)
{
    rt_lstm_grad_attr a;
    operand in[8], more[2];
    set_activations(node, a.act);
    read_operands(l, node, 6, in);
    more[0] = op_in(l, node, 6);
    more[1] = op_in(l, node, 7);
    bool peep = more[0].cell >= 0 && more[0].rank == 1;
    in[6] = peep ? more[0] : op_none();
    in[7] = more[peep];
    return run(l, node, RT_KERNEL_lstm_grad, &a, 8, in, 5, (int[]){3, 1, 1, 0, 0});
}

/* GRUGrad_.. (dY, dHn, A [, Q], Hp, R [, M]) => (dA, dH0, dN, N) */
mtbal_status lower_gru_grad(lowering *l, mtbal_node *node)
{
    rt_gru_grad_attr a = {.linear = is_linear(node)};
    operand in[7];
    set_activations(node, a.act);
    read_operands(l, node, 3, in);
    in[3] = a.linear ? op_in(l, node, 3) : op_none();
    for (int i = 4; i < 7; i++)
        in[i] = op_in(l, node, a.linear ? i : i - 1);
    return run(l, node, RT_KERNEL_gru_grad, &a, 7, in, 4, (int[]){2, 1, 0, 0});
}

/* RNNGrad_.. (dY, dHn, Y, R [, M]) => (dA, dH0) */
mtbal_status lower_rnn_grad(lowering *l, mtbal_node *node)
{
    rt_rnn_grad_attr a;
    operand in[5];
    set_activations(node, a.act);
    read_operands(l, node, 5, in);
    return run(l, node, RT_KERNEL_rnn_grad, &a, 5, in, 2, (int[]){0, 1});
}
