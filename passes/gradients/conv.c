/* passes/gradients/conv.c: convolution and its transpose.
 *
 * With x (N, C, S..), w (M, C/G, K..), y (N, M, O..):
 *   dx = the transposed convolution of dy, cut or filled up to x's size;
 *   dw = the convolution of x with dy as its kernel, batch and channels changing places, strides
 * and dilations too. */
#include "passes/gradients/rules.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SPATIAL = 6 };

/* All attributes of a convolution made explicit. */
typedef struct window {
    int n; /* spatial axes */
    int64_t kernel[MAX_SPATIAL], stride[MAX_SPATIAL], dilation[MAX_SPATIAL], pad[2 * MAX_SPATIAL],
        group;
} window;

static void fill(const mtbal_node *node, const char *name, int n, int64_t otherwise, int64_t *to)
{
    const int64_t *given;
    int count = mtbal_attr_ints(node, name, &given);
    for (int i = 0; i < n; i++)
        to[i] = i < count ? given[i] : otherwise;
}

/* auto_pad SAME: as much as makes the output ceil(size/stride), the odd one at the end (UPPER) or
 * the beginning. */
static bool same_pads(window *w, const mtbal_type *x, bool lower)
{
    for (int i = 0; i < w->n; i++) {
        int64_t size = x->rank > i + 2 ? x->dims[i + 2].size : -1,
                extent = (w->kernel[i] - 1) * w->dilation[i] + 1;
        if (size < 0 && w->stride[i] != 1)
            return false;
        int64_t out = size < 0 ? 0 : (size + w->stride[i] - 1) / w->stride[i];
        int64_t total = size < 0 ? extent - 1 : (out - 1) * w->stride[i] + extent - size;
        total = total < 0 ? 0 : total;
        w->pad[i] = lower ? (total + 1) / 2 : total / 2;
        w->pad[i + w->n] = total - w->pad[i];
    }
    return true;
}

static bool read_window(const mtbal_node *node, const mtbal_type *x, const mtbal_type *w,
                        window *to)
{
    const char *pad = mtbal_attr_s(node, "auto_pad", "NOTSET");
    const int64_t *kernel;
    int nkernel = mtbal_attr_ints(node, "kernel_shape", &kernel);
    to->n = nkernel >= 0 ? nkernel : w ? w->rank - 2 : -1;
    if (to->n < 1 || to->n > MAX_SPATIAL)
        return false;
    for (int i = 0; i < to->n; i++) {
        to->kernel[i] = nkernel >= 0 ? kernel[i] : w->dims[i + 2].size;
        if (to->kernel[i] < 1)
            return false;
    }
    to->group = mtbal_attr_i(node, "group", 1);
    fill(node, "strides", to->n, 1, to->stride);
    fill(node, "dilations", to->n, 1, to->dilation);
    fill(node, "pads", 2 * to->n, 0, to->pad);
    if (!strcmp(pad, "VALID"))
        memset(to->pad, 0, sizeof to->pad);
    return strncmp(pad, "SAME", 4) || same_pads(to, x, !strcmp(pad, "SAME_LOWER"));
}

static mtbal_status set_window(mtbal_node *node, const window *w)
{
    return mtbal_set_attrs(node, "kernel_shape=I strides=I dilations=I pads=I group=i", w->n,
                           w->kernel, w->n, w->stride, w->n, w->dilation, 2 * w->n, w->pad,
                           w->group);
}

/* The attributes of the inner operator are literals of the body: one function per geometry, named
 * after it. */
static void geometry(const window *w, char *text, size_t size)
{
    size_t n = 0;
    const struct {
        char letter;
        int count;
        const int64_t *values;
    } parts[] = {{'k', w->n, w->kernel},
                 {'s', w->n, w->stride},
                 {'d', w->n, w->dilation},
                 {'p', 2 * w->n, w->pad}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (int k = 0; k < parts[i].count && n < size; k++)
            n += (size_t)snprintf(text + n, size - n, "%s%lld",
                                  k ? "x" : (char[]){'_', parts[i].letter, 0},
                                  (long long)parts[i].values[k]);
    if (w->group != 1 && n < size)
        snprintf(text + n, size - n, "_g%lld", (long long)w->group);
}

static const char *list(const int64_t *values, int n, char text[128])
{
    size_t used = (size_t)snprintf(text, 128, "[");
    for (int i = 0; i < n && used < 128; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%lld", i ? ", " : "",
                                 (long long)values[i]);
    if (used < 128)
        snprintf(text + used, 128 - used, "]");
    return text;
}

/* full = ConvTranspose without pads; then Pad by (-begin, size + begin - full) moves to x's frame:
 * negative amounts cut. */
static void conv_grad_x_text(const window *w, char *text, size_t size)
{
    char name[256], strides[128], dilations[128], kernel[128], begin[128];
    int64_t minus[MAX_SPATIAL];
    geometry(w, name, sizeof name);
    for (int i = 0; i < w->n; i++)
        minus[i] = -w->pad[i];
    snprintf(text, size,
             "ConvGradX%s <kernel_shape: ints = %s, strides: ints = %s, dilations: ints = %s, "
             "pads: ints = [0], group: int = 1>"
             " (dY, W, shape) => (dX) {\n"
             "  full = ConvTranspose <kernel_shape = %s, strides = %s, dilations = %s, group = "
             "%lld> (dY, W)\n"
             "  two = Constant <value = int64[1] {2}> ()\n"
             "  many = Constant <value = int64[1] {%d}> ()\n"
             "  nil = Constant <value = int64[2] {0, 0}> ()\n"
             "  minus = Constant <value_ints = %s> ()\n"
             "  have = Shape (full)\n"
             "  have_s = Slice (have, two, many)\n"
             "  want_s = Slice (shape, two, many)\n"
             "  more = Sub (want_s, have_s)\n"
             "  end = Sub (more, minus)\n"
             "  pads = Concat <axis = 0> (nil, minus, nil, end)\n"
             "  dX = Pad (full, pads)\n"
             "}",
             name, list(w->kernel, w->n, kernel), list(w->stride, w->n, strides),
             list(w->dilation, w->n, dilations), kernel, strides, dilations, (long long)w->group,
             w->n + 2, list(minus, w->n, begin));
}

/* x (N, G Cg, S) -> (Cg, G N, S); dy (N, G Mg, O) -> (G Mg, N, O): a convolution of G groups with
 * dy as kernel gives (Cg, G Mg, K'), whose first K positions are dw, once the first two axes change
 * places. */
static void conv_grad_w_text(const window *w, char *text, size_t size)
{
    char name[256], strides[128], dilations[128], pads[128], kernel[128], perm[128], perm5[128];
    int64_t swap[MAX_SPATIAL + 2], group_swap[MAX_SPATIAL + 3], p[2 * MAX_SPATIAL];
    geometry(w, name, sizeof name);
    for (int i = 0; i < w->n + 2; i++)
        swap[i] = i < 2 ? 1 - i : i;
    for (int i = 0; i < w->n + 3; i++)
        group_swap[i] = i;
    group_swap[0] = 2; /* (N, G, Cg, ..) -> (Cg, G, N, ..) */
    group_swap[2] = 0;
    memcpy(p, w->pad, sizeof p);
    list(swap, w->n + 2, perm);
    list(group_swap, w->n + 3, perm5);
    size_t used = (size_t)snprintf(
        text, size,
        "ConvGradW%s <kernel_shape: ints = %s, strides: ints = %s, dilations: ints = %s, pads: "
        "ints = %s, group: int = 1>"
        " (X, dY, shape) => (dW) {\n"
        "  nil = Constant <value = int64[1] {0}> ()\n"
        "  two = Constant <value = int64[1] {2}> ()\n"
        "  many = Constant <value = int64[1] {%d}> ()\n"
        "  dYt = Transpose <perm = %s> (dY)\n",
        name, list(w->kernel, w->n, kernel), list(w->stride, w->n, strides),
        list(w->dilation, w->n, dilations), list(p, 2 * w->n, pads), w->n + 2, perm);
    if (w->group == 1)
        used +=
            (size_t)snprintf(text + used, size - used, "  Xt = Transpose <perm = %s> (X)\n", perm);
    else
        used += (size_t)snprintf(text + used, size - used,
                                 "  one = Constant <value = int64[1] {1}> ()\n"
                                 "  groups = Constant <value = int64[1] {%lld}> ()\n"
                                 "  rest = Constant <value = int64[1] {-1}> ()\n"
                                 "  sx = Shape (X)\n"
                                 "  batch = Slice (sx, nil, one)\n"
                                 "  space = Slice (sx, two, many)\n"
                                 "  s5 = Concat <axis = 0> (batch, groups, rest, space)\n"
                                 "  X5 = Reshape (X, s5)\n"
                                 "  Xp = Transpose <perm = %s> (X5)\n"
                                 "  gn = Mul (groups, batch)\n"
                                 "  s4 = Concat <axis = 0> (rest, gn, space)\n"
                                 "  Xt = Reshape (Xp, s4)\n",
                                 (long long)w->group, perm5);
    snprintf(text + used, size - used,
             "  full = Conv <strides = %s, dilations = %s, pads = %s, group = %lld> (Xt, dYt)\n"
             "  moved = Transpose <perm = %s> (full)\n"
             "  ends = Slice (shape, two, many)\n"
             "  starts = Sub (ends, ends)\n"
             "  i0 = Constant <value = int64 {2}> ()\n"
             "  i1 = Constant <value = int64 {%d}> ()\n"
             "  step = Constant <value = int64 {1}> ()\n"
             "  axes = Range (i0, i1, step)\n"
             "  dW = Slice (moved, starts, ends, axes)\n"
             "}",
             dilations, strides, pads, (long long)w->group, perm, w->n + 2);
}

/* Calls the function of this geometry; the call carries the attributes, by which our runtime knows
 * what to run. */
static mtbal_value *call(mtbal_gradient *g, const window *w, bool grad_x, mtbal_value *p,
                         mtbal_value *q, mtbal_value *shape)
{
    char text[6000], name[300];
    size_t n = (size_t)snprintf(name, sizeof name, grad_x ? "ConvGradX" : "ConvGradW");
    (grad_x ? conv_grad_x_text : conv_grad_w_text)(w, text, sizeof text);
    geometry(w, name + n, sizeof name - n);
    mtbal_value *in[3] = {p, q, shape}, *out;
    mtbal_node *node = rule_call(g, text, name, 3, in, 1, &out);
    if (node && set_window(node, w) != MTBAL_OK) {
        mtbal_no_memory(g->diag);
        return NULL;
    }
    mtbal_emit_done(g->b, node);
    return out;
}

static mtbal_value *bias_gradient(mtbal_gradient *g, int n)
{
    int64_t axes[MAX_SPATIAL + 1] = {0};
    for (int i = 0; i < n; i++)
        axes[i + 1] = i + 2;
    return mtbal_emit_reduce(g->b, "ReduceSum", g->dy[0], n + 1, axes, false);
}

mtbal_status mtbal_rule_conv(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    window w;
    if (!read_window(g->node, &g->x[0]->type, &g->x[1]->type, &w))
        return rule_unsupported(
            g, "a convolution whose kernel, or SAME padding, is not known before the run");
    if (g->need[0]) {
        g->dx[0] = call(g, &w, true, g->dy[0], g->x[1], mtbal_emit_shape(b, g->x[0]));
        rule_like(g->dx[0], g->x[0]);
    }
    if (g->need[1]) {
        g->dx[1] = call(g, &w, false, g->x[0], g->dy[0], mtbal_emit_shape(b, g->x[1]));
        rule_like(g->dx[1], g->x[1]);
    }
    if (g->nx > 2 && g->need[2])
        g->dx[2] = bias_gradient(g, w.n);
    return MTBAL_OK;
}

/* y = ConvTranspose(x, w): dx is the convolution of dy with w; dw that of the same with x and dy
 * changing roles. */
mtbal_status mtbal_rule_conv_transpose(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    window w;
    const char *pad = mtbal_attr_s(g->node, "auto_pad", "NOTSET");
    const int64_t *shape;
    if (strcmp(pad, "NOTSET") || mtbal_attr_ints(g->node, "output_shape", &shape) >= 0 ||
        !read_window(g->node, &g->x[0]->type, &g->x[1]->type, &w))
        return rule_unsupported(
            g, "a ConvTranspose with output_shape, auto_pad or a kernel of unknown size");
    if (g->need[0]) {
        mtbal_value *in[2] = {g->dy[0], g->x[1]}, *out;
        mtbal_node *node = mtbal_emit_node(b, "", "Conv", 2, in, 1, &out);
        if (node && set_window(node, &w) != MTBAL_OK)
            return mtbal_no_memory(g->diag);
        mtbal_emit_done(b, node);
        g->dx[0] = out;
        rule_like(out, g->x[0]);
    }
    if (g->need[1]) {
        g->dx[1] = call(g, &w, false, g->dy[0], g->x[0], mtbal_emit_shape(b, g->x[1]));
        rule_like(g->dx[1], g->x[1]);
    }
    if (g->nx > 2 && g->need[2])
        g->dx[2] = bias_gradient(g, w.n);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ pooling */

/* Indices of a second MaxPool are flat positions in x: dy is added there. */
static void max_pool_text(const window *w, bool ceil_mode, const char *name, char *text,
                          size_t size)
{
    char kernel[128], strides[128], dilations[128], pads[128];
    snprintf(text, size,
             "%s <kernel_shape: ints = %s, strides: ints = %s, dilations: ints = %s, pads: ints = "
             "%s, ceil_mode: int = 0>"
             " (X, dY) => (dX) {\n"
             "  Y, at = MaxPool <kernel_shape = %s, strides = %s, dilations = %s, pads = %s, "
             "ceil_mode = %d> (X)\n"
             "  flat = Constant <value = int64[1] {-1}> ()\n"
             "  i = Reshape (at, flat)\n"
             "  d = Reshape (dY, flat)\n"
             "  x = Reshape (X, flat)\n"
             "  zeros = Sub (x, x)\n"
             "  s = Shape (X)\n"
             "  sum = ScatterElements <axis = 0, reduction = \"add\"> (zeros, i, d)\n"
             "  dX = Reshape (sum, s)\n"
             "}",
             name, list(w->kernel, w->n, kernel), list(w->stride, w->n, strides),
             list(w->dilation, w->n, dilations), list(w->pad, 2 * w->n, pads), kernel, strides,
             dilations, pads, ceil_mode);
}

mtbal_status mtbal_rule_max_pool(mtbal_gradient *g)
{
    window w;
    char text[3000], name[300];
    bool ceil_mode = mtbal_attr_i(g->node, "ceil_mode", 0);
    if (!read_window(g->node, &g->x[0]->type, NULL, &w))
        return rule_unsupported(g, "SAME padding of a size that is not known before the run");
    size_t n = (size_t)snprintf(name, sizeof name, "MaxPoolGrad%s", ceil_mode ? "_ceil" : "");
    geometry(&w, name + n, sizeof name - n);
    max_pool_text(&w, ceil_mode, name, text, sizeof text);
    mtbal_value *in[2] = {g->x[0], g->dy[0]};
    mtbal_node *node = rule_call(g, text, name, 2, in, 1, &g->dx[0]);
    if (node && mtbal_set_attrs(node, "kernel_shape=I strides=I dilations=I pads=I ceil_mode=i",
                                w.n, w.kernel, w.n, w.stride, w.n, w.dilation, 2 * w.n, w.pad,
                                (int64_t)ceil_mode) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(g->b, node);
    rule_like(g->dx[0], g->x[0]);
    return MTBAL_OK;
}

/* The share of a window that counts in each mean, as a pool of ones (N, C, O..): padding counts
 * with count_include_pad, what hangs over the padding's end (ceil_mode) never. A frame that is
 * widened by one stride gives a floor-mode pool all windows of ceil_mode, and perhaps one more,
 * which is cut. */
static mtbal_value *counted_share(mtbal_gradient *g, const window *w, bool ceil_mode)
{
    mtbal_builder *b = g->b;
    int64_t pads[2 * (MAX_SPATIAL + 2)] = {0}, hang[2 * (MAX_SPATIAL + 2)] = {0}, axes[MAX_SPATIAL],
                                    zeros[MAX_SPATIAL] = {0}, two = 2;
    int rank = w->n + 2;
    for (int i = 0; i < w->n; i++) {
        pads[i + 2] = w->pad[i];
        pads[rank + i + 2] = w->pad[i + w->n];
        hang[rank + i + 2] = ceil_mode ? w->stride[i] - 1 : 0;
        axes[i] = i + 2;
    }
    double padding = mtbal_attr_i(g->node, "count_include_pad", 0) ? 1 : 0;
    mtbal_value *ones = mtbal_emit_fill_like(b, g->x[0], 1);
    ones = mtbal_emit(b, "Pad", ones, mtbal_const_i64s(b, 2 * rank, pads),
                      rule_scalar(b, g->x[0], padding));
    if (ceil_mode)
        ones = mtbal_emit(b, "Pad", ones, mtbal_const_i64s(b, 2 * rank, hang));
    mtbal_value *share;
    mtbal_node *pool = mtbal_emit_node(b, "", "AveragePool", 1, &ones, 1, &share);
    if (pool && mtbal_set_attrs(pool, "kernel_shape=I strides=I", w->n, w->kernel, w->n,
                                w->stride) != MTBAL_OK)
        return NULL;
    for (int i = 0; pool && i < w->n; i++)
        if (w->dilation[i] != 1) { /* an attribute since opset 19 */
            if (mtbal_set_attrs(pool, "dilations=I", w->n, w->dilation) != MTBAL_OK)
                return NULL;
            break;
        }
    mtbal_emit_done(b, pool);
    if (!ceil_mode)
        return share;
    return mtbal_emit(b, "Slice", share, mtbal_const_i64s(b, w->n, zeros),
                      mtbal_emit_attrs(b, "Shape", 1, &g->y[0], "start=i", two),
                      mtbal_const_i64s(b, w->n, axes));
}

/* Each window's mean spreads evenly over it: a transposed convolution, channel by channel, with a
 * kernel of ones, of dy divided by the number of elements that counted. */
mtbal_status mtbal_rule_average_pool(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0];
    window w;
    const int64_t flat[2] = {-1, 1};
    if (!read_window(g->node, &x->type, NULL, &w))
        return rule_unsupported(g, "SAME padding of a size that is not known before the run");
    bool padded = false, ceil_mode = mtbal_attr_i(g->node, "ceil_mode", 0);
    double area = 1;
    for (int i = 0; i < w.n; i++) {
        padded = padded || w.pad[i] || w.pad[i + w.n];
        area *= (double)w.kernel[i];
    }
    mtbal_value *share = rule_scalar(b, x, 1 / area);
    if (ceil_mode || (padded && !mtbal_attr_i(g->node, "count_include_pad", 0)))
        share = DIV(share, counted_share(g, &w, ceil_mode));
    /* channels join the batch: one convolution of one channel for all */
    mtbal_value *scaled = MUL(dy, share);
    mtbal_value *space = mtbal_emit_attrs(b, "Shape", 1, &g->y[0], "start=i", (int64_t)2);
    mtbal_value *head = mtbal_const_i64s(b, 2, flat);
    mtbal_value *to =
        mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){head, space}, "axis=i", (int64_t)0);
    mtbal_value *joined = mtbal_emit_reshape(b, scaled, to);
    mtbal_value *in_space = mtbal_emit_attrs(b, "Shape", 1, &g->x[0], "start=i", (int64_t)2);
    mtbal_value *count = mtbal_emit_attrs(b, "Shape", 1, &joined, "end=i", (int64_t)2);
    mtbal_value *want =
        mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){count, in_space}, "axis=i", (int64_t)0);
    int64_t kernel_dims[MAX_SPATIAL + 2] = {1, 1};
    memcpy(kernel_dims + 2, w.kernel, sizeof w.kernel);
    mtbal_tensor *kernel =
        mtbal_tensor_new(b->graph->model, x->type.dtype, w.n + 2, kernel_dims, NULL);
    for (int64_t i = 0; kernel && i < kernel->count; i++)
        mtbal_tensor_set_f64(kernel, i, 1);
    w.group = 1;
    mtbal_value *wide = call(g, &w, true, joined, mtbal_const_tensor(b, kernel), want);
    g->dx[0] = mtbal_emit_reshape(b, wide, mtbal_emit_shape(b, x));
    rule_like(g->dx[0], x);
    return MTBAL_OK;
}

static mtbal_value *spatial_count(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *n =
        mtbal_emit(b, "Div", mtbal_emit(b, "Size", g->x[0]), mtbal_emit(b, "Size", g->y[0]));
    return mtbal_emit_cast(b, n, g->x[0]->type.dtype);
}

mtbal_status mtbal_rule_global_average_pool(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    g->dx[0] =
        mtbal_emit(b, "Expand", DIV(g->dy[0], spatial_count(g)), mtbal_emit_shape(b, g->x[0]));
    return MTBAL_OK;
}

/* Ties share evenly. */
mtbal_status mtbal_rule_global_max_pool(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    int64_t axes[MAX_SPATIAL];
    int n = g->x[0]->type.rank - 2;
    if (n < 1 || n > MAX_SPATIAL)
        return rule_unsupported(g, "an operand of unknown rank");
    for (int i = 0; i < n; i++)
        axes[i] = i + 2;
    mtbal_value *mask = rule_mask(b, BINARY("Equal", g->x[0], g->y[0]), g->x[0]);
    g->dx[0] = MUL(mask, DIV(g->dy[0], mtbal_emit_reduce(b, "ReduceSum", mask, n, axes, true)));
    return MTBAL_OK;
}
