/* graph/ops/gradients.c: functions of ours and operators of ONNX that compute gradients and
 * updates: their results have the shape of what they differentiate or replace. */
#include "graph/graph.h"

#include <string.h>

static mtbal_status give(mtbal_infer *s, int output, const mtbal_type *type)
{
    mtbal_value *out = output < s->node->nout ? s->node->out[output] : NULL;
    if (out && type->rank >= 0)
        out->type = *type;
    else if (out)
        out->type.dtype = type->dtype;
    return MTBAL_OK;
}

static mtbal_status all_as(mtbal_infer *s, int input)
{
    for (int i = 0; i < s->node->nout && input < s->node->nin && s->node->in[input]; i++)
        give(s, i, &s->node->in[input]->type);
    return MTBAL_OK;
}

mtbal_status mtbal_shape_as_first(mtbal_infer *s)
{
    return all_as(s, 0);
}

mtbal_status mtbal_shape_as_second(mtbal_infer *s)
{
    return all_as(s, 1);
}

/* (dY, X, scale ..) -> dX, dscale, dB */
mtbal_status mtbal_shape_batch_norm_grad(mtbal_infer *s)
{
    all_as(s, 2);
    return give(s, 0, &s->node->in[1]->type);
}

/* (dY, dHn, ..) of LSTMGrad, GRUGrad, RNNGrad -> dA (as A), dH0, and what goes with the steps (as
 * dY); of LSTMGrad a cotangent of the cell before that. */
mtbal_status mtbal_shape_recurrent_grad(mtbal_infer *s)
{
    const char kind = *s->node->op;
    int a = kind == 'L' ? 3 : kind == 'G' ? 2 : 0;
    if (s->node->nin < 4)
        return MTBAL_OK;
    all_as(s, 0);
    give(s, 0, &s->node->in[a]->type);
    give(s, 1, &s->node->in[1]->type);
    return kind == 'L' ? give(s, 2, &s->node->in[1]->type) : MTBAL_OK;
}

/* The third operand holds the shape; the first has the type. */
mtbal_status mtbal_shape_as_told(mtbal_infer *s)
{
    const mtbal_value *told = s->node->nin > 2 ? s->node->in[2] : NULL;
    mtbal_type type = {MTBAL_TENSOR, s->node->in[0] ? s->node->in[0]->type.dtype : MTBAL_UNDEFINED,
                       -1, NULL};
    int n = !told                             ? -1
            : told->tensor && !told->is_input ? (int)told->tensor->count
            : told->content                   ? told->ncontent
                                              : -1;
    if (n < 0 || n > 32)
        return give(s, 0, &type);
    mtbal_dim *dims = mtbal_arena_array(s->model->arena, (size_t)n, sizeof *dims);
    if (!dims)
        return mtbal_no_memory(s->diag);
    for (int i = 0; i < n; i++)
        dims[i] = told->tensor && !told->is_input
                      ? mtbal_dim_const(mtbal_tensor_i64(told->tensor, i))
                      : told->content[i];
    type.rank = n;
    type.dims = dims;
    return give(s, 0, &type);
}

/* (g_1, .., g_n) -> (n, n) */
mtbal_status mtbal_shape_gram(mtbal_infer *s)
{
    mtbal_dim *dims = mtbal_arena_array(s->model->arena, 2, sizeof *dims);
    if (!dims)
        return mtbal_no_memory(s->diag);
    dims[0] = dims[1] = mtbal_dim_const(s->node->nin);
    mtbal_type type = {
        MTBAL_TENSOR, s->node->nin && s->node->in[0] ? s->node->in[0]->type.dtype : MTBAL_UNDEFINED,
        2, dims};
    return give(s, 0, &type);
}

/* Gradient: dy/dx_i has the shape of the i-th operand. */
mtbal_status mtbal_shape_gradient(mtbal_infer *s)
{
    for (int i = 0; i < s->node->nout && i < s->node->nin; i++)
        if (s->node->in[i])
            give(s, i, &s->node->in[i]->type);
    return MTBAL_OK;
}

/* Adam, Adagrad, Momentum: R, T, X_1 .. X_n, G_1 .. G_n, then the states, n each -> the new X_1 ..
 * X_n and states. */
mtbal_status mtbal_shape_optimizer(mtbal_infer *s)
{
    int groups = mtbal_node_is(s->node, MTBAL_OP_adam) ? 4 : 3, n = (s->node->nin - 2) / groups;
    for (int i = 0; i < s->node->nout && n > 0; i++)
        if (s->node->in[2 + i % n])
            give(s, i, &s->node->in[2 + i % n]->type);
    return MTBAL_OK;
}
