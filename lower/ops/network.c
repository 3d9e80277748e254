/* lower/ops/network.c: convolutions, pooling. */
#include "lower/ops/ops.h"

#include <string.h>

typedef struct window {
    int n; /* spatial axes, at most 3 */
    int64_t kernel[3], stride[3], dilation[3], begin[3], end[3];
} window;

static bool fill(lowering *l, const mtbal_node *node, const char *name, int n, int64_t otherwise,
                 int64_t *values)
{
    int64_t given[8];
    int count = op_ints(l, node, name, -1, given, 8);
    for (int i = 0; i < n; i++)
        values[i] = count < 0 ? otherwise : i < count ? given[i] : otherwise;
    return count == -1 || count == n;
}

/* Geometry from attributes; what they leave out, from x (in), y (out) and the kernel's own sizes
 * (NULL: none). Padding of auto_pad follows from the sizes. */
static const char *read_window(lowering *l, const mtbal_node *node, operand x, operand y,
                               const int64_t *kernel, window *w)
{
    int64_t pads[6];
    const char *pad = mtbal_attr_s(node, "auto_pad", "NOTSET");
    w->n = x.rank - 2;
    if (w->n < 1 || w->n > 3)
        return "only 1 to 3 spatial axes";
    if (!fill(l, node, "strides", w->n, 1, w->stride) ||
        !fill(l, node, "dilations", w->n, 1, w->dilation) ||
        !fill(l, node, "kernel_shape", w->n, 1, w->kernel) ||
        !fill(l, node, "pads", 2 * w->n, 0, pads))
        return "attributes that do not match its rank";
    for (int i = 0; i < w->n; i++) {
        if (kernel)
            w->kernel[i] = kernel[i];
        if (w->stride[i] < 1 || w->dilation[i] < 1 || w->kernel[i] < 1 ||
            w->stride[i] > INT32_MAX || w->dilation[i] > INT32_MAX || w->kernel[i] > INT32_MAX)
            return "a size, step or dilation out of range";
        int64_t reach = (w->kernel[i] - 1) * w->dilation[i] + 1;
        int64_t total = (y.dims[i + 2] - 1) * w->stride[i] + reach - x.dims[i + 2];
        total = total < 0 ? 0 : total;
        bool same = !strncmp(pad, "SAME", 4), lower = !strcmp(pad, "SAME_LOWER");
        w->begin[i] =
            same ? (lower ? total - total / 2 : total / 2) : (strcmp(pad, "VALID") ? pads[i] : 0);
        w->end[i] = same ? total - w->begin[i] : strcmp(pad, "VALID") ? pads[w->n + i] : 0;
        if (w->begin[i] > INT32_MAX || w->begin[i] < INT32_MIN)
            return "a padding out of range";
    }
    return NULL;
}

static void set_geometry(const window *w, int32_t *kernel, int32_t *stride, int32_t *dilation,
                         int32_t *pad)
{
    for (int i = 0; i < w->n; i++) {
        kernel[i] = (int32_t)w->kernel[i];
        stride[i] = (int32_t)w->stride[i];
        dilation[i] = (int32_t)w->dilation[i];
        pad[i] = (int32_t)w->begin[i];
    }
}

/* The three convolution kernels share their attributes. */
static rt_conv_attr conv_attr(const mtbal_node *node, const window *w)
{
    rt_conv_attr a = {.group = (int32_t)mtbal_attr_i(node, "group", 1)};
    set_geometry(w, a.kernel, a.stride, a.dilation, a.pad);
    return a;
}

static bool groups_fit(const mtbal_node *node, operand x, operand w)
{
    int64_t group = mtbal_attr_i(node, "group", 1);
    return group >= 1 && group <= INT32_MAX && x.dims[1] == w.dims[1] * group &&
           w.dims[0] % group == 0;
}

mtbal_status lower_conv(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    window w;
    if (in[1].rank != in[0].rank || in[0].rank < 3 || !groups_fit(node, in[0], in[1]))
        return lower_refuse(l, node, "its weights do not match its input");
    const char *why = read_window(l, node, in[0], y, in[1].dims + 2, &w);
    if (why)
        return lower_refuse(l, node, "%s", why);
    rt_conv_attr a = conv_attr(node, &w);
    op_call_n(l, RT_KERNEL_conv, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

/* x (N,C,..), w (C,M/G,..) -> y (N,M,..): the gradient of the convolution from y to x. Where the
 * output's size is asked for, the padding follows from it. */
mtbal_status lower_conv_transpose(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    window w;
    int64_t wanted[3], extra[3] = {0};
    if (in[1].rank != in[0].rank || in[0].rank < 3 || !groups_fit(node, y, in[1]) ||
        in[0].dims[1] != in[1].dims[0])
        return lower_refuse(l, node, "its weights do not match its input");
    const char *why = read_window(l, node, in[0], y, in[1].dims + 2, &w);
    const char *pad = mtbal_attr_s(node, "auto_pad", "NOTSET");
    bool sized = op_ints(l, node, "output_shape", -1, wanted, 3) >= 0 || !strncmp(pad, "SAME", 4);
    if (why || !fill(l, node, "output_padding", w.n, 0, extra))
        return lower_refuse(l, node, "%s", why ? why : "output_padding does not match its rank");
    for (int i = 0; i < w.n && sized; i++) {
        int64_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
        int64_t total = w.stride[i] * (in[0].dims[i + 2] - 1) + extra[i] + reach - y.dims[i + 2];
        if (total < 0) /* what is missing is added at the end */
            total = 0;
        w.begin[i] = !strcmp(pad, "SAME_UPPER") ? total / 2 : total - total / 2;
    }
    rt_conv_attr a = conv_attr(node, &w);
    op_call_n(l, RT_KERNEL_conv_grad_x, &a, 3, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_max_pool(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), out[2] = {op_out(l, node, 0), op_out(l, node, 1)};
    rt_max_pool_attr a = {.unused_ = 0};
    window w;
    const char *why = read_window(l, node, x, out[0], NULL, &w);
    if (why || (out[1].cell >= 0 && mtbal_attr_i(node, "storage_order", 0)))
        return lower_refuse(l, node, "%s", why ? why : "indices in column-major order");
    set_geometry(&w, a.kernel, a.stride, a.dilation, a.pad);
    op_call_n(l, RT_KERNEL_max_pool, &a, 1, &x, 2, out);
    return MTBAL_OK;
}

mtbal_status lower_average_pool(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), y = op_out(l, node, 0);
    rt_average_pool_attr a = {.count_pad = mtbal_attr_i(node, "count_include_pad", 0) != 0};
    window w;
    const char *why = read_window(l, node, x, y, NULL, &w);
    if (why)
        return lower_refuse(l, node, "%s", why);
    set_geometry(&w, a.kernel, a.stride, a.dilation, a.pad);
    for (int i = 0; i < w.n; i++)
        a.pad_end[i] = (int32_t)w.end[i];
    op_call1(l, RT_KERNEL_average_pool, &a, x, y);
    return MTBAL_OK;
}

/* Over all spatial axes. */
mtbal_status lower_global_pool(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    rt_reduce_attr a = {.op = mtbal_node_is(node, MTBAL_OP_global_max_pool) ? RT_REDUCE_max
                                                                            : RT_REDUCE_mean};
    for (int d = 2; d < x.rank; d++)
        a.mask |= 1 << d;
    op_call1(l, RT_KERNEL_reduce, &a, x, op_out(l, node, 0));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ gradients: mtbal functions */

/* ConvGradX (dY, W, shape of X), ConvGradW (X, dY, shape of W), MaxPoolGrad (X, dY). */
mtbal_status lower_conv_grad_x(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_none()}, dx = op_out(l, node, 0);
    window w;
    const char *why = dx.rank < 3 || in[1].rank != dx.rank || in[0].rank != dx.rank
                          ? "operands of different rank"
                          : read_window(l, node, dx, in[0], in[1].dims + 2, &w);
    if (why || !groups_fit(node, dx, in[1]))
        return lower_refuse(l, node, "%s", why ? why : "its weights do not match its operand");
    rt_conv_attr a = conv_attr(node, &w);
    op_call_n(l, RT_KERNEL_conv_grad_x, &a, 3, in, 1, &dx);
    return MTBAL_OK;
}

mtbal_status lower_conv_grad_w(lowering *l, mtbal_node *node)
{
    operand in[2] = {op_in(l, node, 0), op_in(l, node, 1)}, dw = op_out(l, node, 0);
    window w;
    const char *why = dw.rank < 3 || in[0].rank != dw.rank || in[1].rank != dw.rank
                          ? "operands of different rank"
                          : read_window(l, node, in[0], in[1], dw.dims + 2, &w);
    if (why || !groups_fit(node, in[0], dw))
        return lower_refuse(l, node, "%s", why ? why : "its weights do not match its operand");
    rt_conv_attr a = conv_attr(node, &w);
    op_call_n(l, RT_KERNEL_conv_grad_w, &a, 2, in, 1, &dw);
    return MTBAL_OK;
}

mtbal_status lower_max_pool_grad(lowering *l, mtbal_node *node)
{
    operand in[2] = {op_in(l, node, 0), op_in(l, node, 1)}, dx = op_out(l, node, 0);
    rt_max_pool_grad_attr a = {.unused_ = 0};
    window w;
    const char *why = read_window(l, node, in[0], in[1], NULL, &w);
    if (why)
        return lower_refuse(l, node, "%s", why);
    set_geometry(&w, a.kernel, a.stride, a.dilation, a.pad);
    op_call_n(l, RT_KERNEL_max_pool_grad, &a, 2, in, 1, &dx);
    return MTBAL_OK;
}
