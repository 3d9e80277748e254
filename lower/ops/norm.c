/* lower/ops/norm.c: softmax, normalisations, class losses, random numbers. */
#include "lower/ops/ops.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ softmax */

/* Before opset 13 the operand is seen as a matrix, the axis between its rows and columns. */
mtbal_status lower_softmax(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), y = op_out(l, node, 0);
    bool flat = l->opset < 13;
    int axis;
    rt_softmax_attr a = {.log = mtbal_node_is(node, MTBAL_OP_log_softmax)};
    if (!op_axis(l, node, "axis", flat ? 1 : -1, x.rank, &axis))
        return MTBAL_OK;
    a.axis = axis;
    if (flat) {
        int64_t dims[2] = {1, 1};
        for (int d = 0; d < x.rank; d++)
            dims[d >= axis] *= x.dims[d];
        x = op_view(x, 2, dims);
        y = op_view(y, 2, dims);
        a.axis = 1;
    }
    op_call1(l, RT_KERNEL_softmax, &a, x, y);
    return MTBAL_OK;
}

/* SoftmaxGrad and LogSoftmaxGrad (dY, Y, axes) */
mtbal_status lower_softmax_grad(lowering *l, mtbal_node *node)
{
    operand in[2] = {op_in(l, node, 0), op_in(l, node, 1)}, dx = op_out(l, node, 0);
    int axis;
    if (!op_axis(l, node, "axis", -1, dx.rank, &axis))
        return MTBAL_OK;
    rt_softmax_grad_attr a = {.axis = axis, .log = mtbal_node_is(node, MTBAL_OP_log_softmax_grad)};
    op_call_n(l, RT_KERNEL_softmax_grad, &a, 2, in, 1, &dx);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ normalisations */

/* scale or bias in the full shape of the normalised axes, where it is neither that nor a scalar. */
static operand over_axes(lowering *l, operand s, operand x, int axis)
{
    int64_t dims[RT_MAX_RANK], stride[RT_MAX_RANK], dense[RT_MAX_RANK], count = 1;
    int rank = x.rank - axis;
    if (s.cell < 0 || op_count(s) == 1)
        return s;
    op_dense_strides(s, dense);
    for (int d = 0; d < rank; d++) {
        int at = d - (rank - s.rank);
        dims[d] = x.dims[axis + d];
        count *= dims[d];
        stride[d] = at < 0 || s.dims[at] == 1 ? 0 : dense[at];
    }
    return count == op_count(s) || s.rank > rank ? s : op_strided(l, s, 0, rank, dims, stride);
}

mtbal_status lower_layer_normalization(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), out[3];
    int axis;
    if (!op_axis(l, node, "axis", -1, x.rank, &axis))
        return MTBAL_OK;
    rt_layer_norm_attr a = {.axis = axis, .epsilon = mtbal_attr_f(node, "epsilon", 1e-5)};
    operand in[3] = {x, over_axes(l, op_in(l, node, 1), x, axis),
                     over_axes(l, op_in(l, node, 2), x, axis)};
    for (int i = 0; i < 3; i++)
        out[i] = op_out(l, node, i);
    op_call_n(l, RT_KERNEL_layer_norm, &a, 3, in, 3, out);
    return MTBAL_OK;
}

/* LayerNormGrad (dY, X, scale, axes) => (dX, dY xhat) */
mtbal_status lower_layer_norm_grad(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 1), out[2] = {op_out(l, node, 0), op_out(l, node, 1)};
    int axis;
    if (!op_axis(l, node, "axis", -1, x.rank, &axis))
        return MTBAL_OK;
    rt_layer_norm_grad_attr a = {.axis = axis, .epsilon = mtbal_attr_f(node, "epsilon", 1e-5)};
    operand in[3] = {op_in(l, node, 0), x, over_axes(l, op_in(l, node, 2), x, axis)};
    op_call_n(l, RT_KERNEL_layer_norm_grad, &a, 3, in, 2, out);
    return MTBAL_OK;
}

/* In training (training_mode, or before opset 14 more than one output) the batch's own statistics,
 * which also move the running ones. */
mtbal_status lower_batch_normalization(lowering *l, mtbal_node *node)
{
    operand in[5], out[3];
    bool training = l->opset >= 14 && mtbal_attr_i(node, "training_mode", 0) != 0;
    for (int i = 1; i < node->nout && l->opset < 14; i++)
        training = training || op_wants(node, i);
    rt_batch_norm_attr a = {.training = training,
                            .epsilon = mtbal_attr_f(node, "epsilon", 1e-5),
                            .momentum = mtbal_attr_f(node, "momentum", 0.9)};
    for (int i = 0; i < 5; i++) {
        in[i] = op_in(l, node, i);
        if (in[i].cell < 0)
            return lower_refuse(l, node, "an operand is missing");
    }
    for (int i = 0; i < 3; i++)
        out[i] = op_out(l, node, i);
    op_call_n(l, RT_KERNEL_batch_norm, &a, 5, in, 3, out);
    for (int i = 3; i < node->nout; i++) /* saved statistics, which nothing can use */
        if (op_wants(node, i)) {
            rt_fill_attr zero = {.value = 0};
            operand saved = op_out(l, node, i);
            op_call_n(l, RT_KERNEL_fill, &zero, 0, NULL, 1, &saved);
        }
    return MTBAL_OK;
}

/* BatchNormGrad (dY, X, scale, axes, shape) => (dX, dscale, dB) */
mtbal_status lower_batch_norm_grad(lowering *l, mtbal_node *node)
{
    rt_batch_norm_grad_attr a = {.epsilon = mtbal_attr_f(node, "epsilon", 1e-5)};
    operand in[3], out[3];
    for (int i = 0; i < 3; i++) {
        in[i] = op_in(l, node, i);
        out[i] = op_out(l, node, i);
    }
    op_call_n(l, RT_KERNEL_batch_norm_grad, &a, 3, in, 3, out);
    return MTBAL_OK;
}

/* Instances become channels of one batch: (1, N C, S). */
mtbal_status lower_instance_normalization(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), y = op_out(l, node, 0), s[2];
    if (x.rank < 2)
        return lower_refuse(l, node, "its operand has fewer than 2 axes");
    int64_t n = x.dims[0], c = x.dims[1], planes = n * c;
    int64_t view[3] = {1, planes, planes ? op_count(x) / planes : 0}, stride[2] = {0, 1};
    for (int i = 0; i < 2; i++)
        s[i] = op_view(op_strided(l, op_in(l, node, 1 + i), 0, 2, (int64_t[]){n, c}, stride), 1,
                       &planes);
    rt_batch_norm_attr a = {.training = 1, .epsilon = mtbal_attr_f(node, "epsilon", 1e-5)};
    operand in[5] = {op_view(x, 3, view), s[0], s[1], s[0], s[0]};
    operand out[3] = {op_view(y, 3, view), op_none(), op_none()};
    op_call_n(l, RT_KERNEL_batch_norm, &a, 5, in, 3, out);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ class losses */

static int reduction_of(const mtbal_node *node)
{
    const char *name = mtbal_attr_s(node, "reduction", "mean");
    return !strcmp(name, "none") ? 0 : !strcmp(name, "sum") ? 2 : 1;
}

mtbal_status lower_class_loss(lowering *l, mtbal_node *node)
{
    rt_class_loss_attr a = {.reduction = reduction_of(node),
                            .ignores = mtbal_attr_find(node, "ignore_index") != NULL,
                            .ignore_index = mtbal_attr_i(node, "ignore_index", 0),
                            .cross_entropy =
                                mtbal_node_is(node, MTBAL_OP_softmax_cross_entropy_loss)};
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)}, out[2];
    if (in[0].rank < 2)
        return lower_refuse(l, node, "its operand has fewer than 2 axes");
    out[0] = op_out(l, node, 0);
    out[1] = op_out(l, node, 1);
    if (out[0].cell < 0) /* only log_prob is used */
        out[0] = op_temp(l, in[0].dtype, a.reduction ? 0 : in[1].rank, in[1].dims);
    op_call_n(l, RT_KERNEL_class_loss, &a, 3, in, 2, out);
    return MTBAL_OK;
}

/* SoftmaxCrossEntropyLossGrad_.. and NegativeLogLikelihoodLossGrad_.. (dY, X, labels [, weights])
 */
mtbal_status lower_class_loss_grad(lowering *l, mtbal_node *node)
{
    rt_class_loss_grad_attr a = {.reduction = reduction_of(node),
                                 .ignores = mtbal_attr_find(node, "ignore_index") != NULL,
                                 .ignore_index = mtbal_attr_i(node, "ignore_index", 0),
                                 .cross_entropy =
                                     mtbal_node_is(node, MTBAL_OP_softmax_cross_entropy_loss_grad)};
    operand in[4], dx = op_out(l, node, 0);
    for (int i = 0; i < 4; i++)
        in[i] = op_in(l, node, i);
    op_call_n(l, RT_KERNEL_class_loss_grad, &a, 4, in, 1, &dx);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ optimizers and gathers: mtbal
 * functions */

static mtbal_status update(lowering *l, mtbal_node *node, int kernel, const void *attr, int nin,
                           int nout)
{
    operand in[12], out[3];
    for (int i = 0; i < nin; i++) {
        in[i] = op_in(l, node, i);
        if (in[i].cell < 0)
            return lower_refuse(l, node, "an operand is missing");
    }
    for (int i = 0; i < nout; i++) /* every result is written */
        out[i] = op_wants(node, i) ? op_out(l, node, i)
                                   : op_temp(l, in[0].dtype, in[0].rank, in[0].dims);
    op_call_n(l, kernel, attr, nin, in, nout, out);
    return MTBAL_OK;
}

mtbal_status lower_sgd_update(lowering *l, mtbal_node *node)
{
    return update(l, node, RT_KERNEL_sgd_update, NULL, 3, 1);
}

mtbal_status lower_momentum_update(lowering *l, mtbal_node *node)
{
    return update(l, node, RT_KERNEL_momentum_update, NULL, 5, 2);
}

mtbal_status lower_adam_update(lowering *l, mtbal_node *node)
{
    rt_adam_update_attr a = {.decoupled = mtbal_node_is(node, MTBAL_OP_adamw_update)};
    int own = a.decoupled ? 11 : 10;
    a.weighted = op_given(node, own); /* fuse.c */
    return update(l, node, RT_KERNEL_adam_update, &a, own + a.weighted, 3);
}

/* GatherGrad (dY, indices, shape) */
mtbal_status lower_gather_grad(lowering *l, mtbal_node *node)
{
    operand in[2] = {op_in(l, node, 0), op_in(l, node, 1)}, dx = op_out(l, node, 0);
    if (dx.rank < 1)
        return lower_refuse(l, node, "its result is a scalar");
    op_call_n(l, RT_KERNEL_gather_grad, NULL, 2, in, 1, &dx);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ random numbers */

static int64_t next_seed(lowering *l, const mtbal_node *node)
{
    const mtbal_attr *seed = mtbal_attr_find(node, "seed");
    uint64_t own = 0;
    if (seed && seed->kind == MTBAL_ATTR_FLOAT)
        own = fabs((double)seed->f) < 0x1p62 ? (uint64_t)(int64_t)seed->f : 0;
    else if (seed)
        own = (uint64_t)seed->i;
    return (int64_t)(own + UINT64_C(0x9E3779B9) * (uint64_t)++l->nseeds);
}

/* RandomNormal[Like], RandomUniform[Like] */
mtbal_status lower_random(lowering *l, mtbal_node *node)
{
    bool normal = mtbal_node_is(node, MTBAL_OP_random_normal) ||
                  mtbal_node_is(node, MTBAL_OP_random_normal_like);
    rt_random_fill_attr a = {.seed = next_seed(l, node),
                             .normal = normal,
                             .a = mtbal_attr_f(node, normal ? "mean" : "low", 0),
                             .b = mtbal_attr_f(node, normal ? "scale" : "high", 1)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_random_fill, &a, 0, NULL, 1, &y);
    return MTBAL_OK;
}

/* 1 with the probability x. */
mtbal_status lower_bernoulli(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), u = op_temp(l, x.dtype, x.rank, x.dims), y = op_out(l, node, 0);
    rt_random_fill_attr a = {.seed = next_seed(l, node), .b = 1};
    op_call_n(l, RT_KERNEL_random_fill, &a, 0, NULL, 1, &u);
    operand hit = op_binary(l, RT_BINARY_less, u, x);
    op_call1(l, y.dtype == RT_BOOL ? RT_KERNEL_copy : RT_KERNEL_cast, NULL, hit, y);
    return MTBAL_OK;
}

mtbal_status lower_dropout(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), y, mode = op_in(l, node, 2);
    const unsigned char yes = 1;
    double ratio = mtbal_attr_f(node, "ratio", 0.5), training = 0;
    bool known = !op_given(node, 1) || op_number(l, node, 1, &ratio);
    bool decided = !op_given(node, 2) || op_number(l, node, 2, &training);
    if (l->opset < 7 && !mtbal_attr_i(node, "is_test", 0))
        training = 1;
    if ((decided && training == 0) || (known && ratio == 0)) {
        op_alias(l, node, 0, x);
        rt_fill_attr one = {.value = 1};
        operand mask = op_out(l, node, 1);
        if (mask.cell >= 0)
            op_call_n(l, RT_KERNEL_fill, &one, 0, NULL, 1, &mask);
        return MTBAL_OK;
    }
    if (mode.cell < 0)
        mode = op_constant(l, RT_BOOL, 0, NULL, &yes);
    operand in[3] = {x, op_in(l, node, 1), mode}, mask;
    if (in[1].cell < 0)
        in[1] = op_scalar(l, RT_F32, ratio);
    y = op_out(l, node, 0);
    mask = op_out(l, node, 1);
    rt_dropout_attr a = {.seed = next_seed(l, node)};
    if (y.cell < 0)
        y = op_temp(l, x.dtype, x.rank, x.dims);
    if (mask.cell >= 0 && mask.dtype != RT_BOOL) /* before opset 12: of x's type */
        return lower_refuse(l, node, "a mask that is not bool");
    op_call_n(l, RT_KERNEL_dropout, &a, 3, in, 2, (operand[]){y, mask});
    return MTBAL_OK;
}
