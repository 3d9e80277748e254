/* passes/gradients/network.c: normalisations, class losses, resizing. */
#include "passes/gradients/rules.h"

#include <stdio.h>
#include <string.h>

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)

/* ------------------------------------------------------------------ BatchNormalization */

/* With the batch's own statistics (training): xhat = (x - mean) / sqrt(var + eps) over all axes but
 * the channels', dx = scale / sd * (dy - mean(dy) - xhat mean(dy xhat)). */
static const char batch_norm_grad[] =
    "BatchNormGrad <epsilon: float = 0.00001> (dY, X, scale, axes, shape) => (dX, dscale, dB) {\n"
    "  one = Constant <value = float {1}> ()\n"
    "  unit = CastLike (one, X)\n"
    "  count = Size (X)\n"
    "  channels = Size (scale)\n"
    "  per = Div (count, channels)\n"
    "  n = CastLike (per, X)\n"
    "  sx = ReduceSum <keepdims = 1> (X, axes)\n"
    "  mean = Div (sx, n)\n"
    "  c = Sub (X, mean)\n"
    "  cc = Mul (c, c)\n"
    "  scc = ReduceSum <keepdims = 1> (cc, axes)\n"
    "  var = Div (scc, n)\n"
    "  e0 = Constant <value_float: float = @epsilon> ()\n"
    "  e = CastLike (e0, X)\n"
    "  ve = Add (var, e)\n"
    "  sd = Sqrt (ve)\n"
    "  xhat = Div (c, sd)\n"
    "  dyx = Mul (dY, xhat)\n"
    "  sdy = ReduceSum <keepdims = 1> (dY, axes)\n"
    "  sdyx = ReduceSum <keepdims = 1> (dyx, axes)\n"
    "  flat = Constant <value = int64[1] {-1}> ()\n"
    "  dB = Reshape (sdy, flat)\n"
    "  dscale = Reshape (sdyx, flat)\n"
    "  m1 = Div (sdy, n)\n"
    "  m2 = Div (sdyx, n)\n"
    "  p = Mul (xhat, m2)\n"
    "  q = Sub (dY, m1)\n"
    "  r = Sub (q, p)\n"
    "  s = Reshape (scale, shape)\n"
    "  f = Div (s, sd)\n"
    "  dX = Mul (r, f)\n"
    "}";

/* Axes 0, 2, 3, .. and the shape (1, C, 1, ..) of a tensor of that rank. */
static void channel_view(int rank, int64_t *axes, int64_t *shape)
{
    for (int i = 0, n = 0; i < rank; i++) {
        shape[i] = i == 1 ? -1 : 1;
        if (i != 1)
            axes[n++] = i;
    }
}

RULE(batch_norm)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0], *out[3];
    int64_t axes[32], shape[32];
    int rank = x->type.rank;
    if (rank < 2 || rank > 32)
        return rule_unsupported(g, "an operand of unknown rank");
    if (!dy)
        return MTBAL_OK;
    channel_view(rank, axes, shape);
    mtbal_value *view = mtbal_const_i64s(b, rank, shape),
                *over = mtbal_const_i64s(b, rank - 1, axes);
    double epsilon = mtbal_attr_f(g->node, "epsilon", 1e-5);
    if (mtbal_attr_i(g->node, "training_mode", 0)) {
        mtbal_value *in[5] = {dy, x, g->x[1], over, view};
        mtbal_node *node = rule_call(g, batch_norm_grad, "BatchNormGrad", 5, in, 3, out);
        if (node && mtbal_set_f(node, "epsilon", epsilon) != MTBAL_OK)
            return mtbal_no_memory(g->diag);
        mtbal_emit_done(b, node);
        for (int i = 0; i < 3; i++) {
            g->dx[i] = out[i];
            rule_like(out[i], g->x[i]);
        }
        return MTBAL_OK;
    }
    /* fixed statistics: an affine map per channel */
    mtbal_value *sd = UNARY("Sqrt", ADD(g->x[4], rule_scalar(b, x, epsilon)));
    if (g->need[0])
        g->dx[0] = MUL(dy, mtbal_emit_reshape(b, DIV(g->x[1], sd), view));
    if (g->need[1]) {
        mtbal_value *xhat =
            DIV(SUB(x, mtbal_emit_reshape(b, g->x[3], view)), mtbal_emit_reshape(b, sd, view));
        g->dx[1] = mtbal_emit_reduce(b, "ReduceSum", MUL(dy, xhat), rank - 1, axes, false);
    }
    if (g->need[2])
        g->dx[2] = mtbal_emit_reduce(b, "ReduceSum", dy, rank - 1, axes, false);
    /* statistics that the graph computed: dmean = -scale sum(dy) / sd,
     * dvar = -scale sum(dy (x - mean)) / (2 sd^3) */
    mtbal_value *slope = g->need[3] || g->need[4] ? DIV(g->x[1], sd) : NULL;
    if (g->need[3])
        g->dx[3] = NEG(MUL(slope, mtbal_emit_reduce(b, "ReduceSum", dy, rank - 1, axes, false)));
    if (g->need[4]) {
        mtbal_value *centred = SUB(x, mtbal_emit_reshape(b, g->x[3], view));
        mtbal_value *sum =
            mtbal_emit_reduce(b, "ReduceSum", MUL(dy, centred), rank - 1, axes, false);
        g->dx[4] = MUL(MUL(slope, sum), DIV(rule_scalar(b, x, -0.5), MUL(sd, sd)));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ LayerNormalization */

/* dx = (h - mean(h) - xhat mean(h xhat)) / sd, h = dy scale; the scale's own gradient is summed to
 * its shape outside. */
static const char layer_norm_grad[] = "LayerNormGrad <axis: int = -1, epsilon: float = 0.00001> "
                                      "(dY, X, scale, axes) => (dX, dXhat) {\n"
                                      "  nx = Size (X)\n"
                                      "  sx = ReduceSum <keepdims = 1> (X, axes)\n"
                                      "  ns = Size (sx)\n"
                                      "  per = Div (nx, ns)\n"
                                      "  n = CastLike (per, X)\n"
                                      "  mean = Div (sx, n)\n"
                                      "  c = Sub (X, mean)\n"
                                      "  cc = Mul (c, c)\n"
                                      "  scc = ReduceSum <keepdims = 1> (cc, axes)\n"
                                      "  var = Div (scc, n)\n"
                                      "  e0 = Constant <value_float: float = @epsilon> ()\n"
                                      "  e = CastLike (e0, X)\n"
                                      "  ve = Add (var, e)\n"
                                      "  sd = Sqrt (ve)\n"
                                      "  xhat = Div (c, sd)\n"
                                      "  h = Mul (dY, scale)\n"
                                      "  hx = Mul (h, xhat)\n"
                                      "  sh = ReduceSum <keepdims = 1> (h, axes)\n"
                                      "  shx = ReduceSum <keepdims = 1> (hx, axes)\n"
                                      "  m1 = Div (sh, n)\n"
                                      "  m2 = Div (shx, n)\n"
                                      "  p = Mul (xhat, m2)\n"
                                      "  q = Sub (h, m1)\n"
                                      "  r = Sub (q, p)\n"
                                      "  dX = Div (r, sd)\n"
                                      "  dXhat = Mul (dY, xhat)\n"
                                      "}";

RULE(layer_norm)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0], *out[2];
    int rank = x->type.rank;
    int64_t axis = rule_axis(g, -1), axes[32];
    int n = 0;
    if (rank < 1 || rank > 32 || axis < 0 || axis >= rank)
        return rule_unsupported(g, "an operand of unknown rank");
    if ((g->ny > 1 && g->dy[1]) || (g->ny > 2 && g->dy[2]))
        return rule_unsupported(
            g, "a gradient through the mean or the deviation of LayerNormalization");
    if (!dy)
        return MTBAL_OK;
    for (int64_t i = axis; i < rank; i++)
        axes[n++] = i;
    mtbal_value *in[4] = {dy, x, g->x[1], mtbal_const_i64s(b, n, axes)};
    mtbal_node *node = rule_call(g, layer_norm_grad, "LayerNormGrad", 4, in, 2, out);
    if (node && mtbal_set_attrs(node, "axis=i epsilon=f", axis,
                                mtbal_attr_f(g->node, "epsilon", 1e-5)) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(b, node);
    rule_like(out[0], x);
    rule_like(out[1], x);
    g->dx[0] = out[0];
    g->dx[1] = out[1]; /* the pass sums it over the leading axes */
    if (g->nx > 2)
        g->dx[2] = dy;
    return MTBAL_OK;
}

/* InstanceNormalization (N, C, S..): every instance and channel on its own. */
RULE(instance_norm)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0];
    int64_t axes[32], shape[32], space[32];
    int rank = x->type.rank;
    if (rank < 3 || rank > 32)
        return rule_unsupported(g, "an operand of unknown rank");
    channel_view(rank, axes, shape);
    for (int i = 2; i < rank; i++)
        space[i - 2] = i;
    mtbal_value *n = mtbal_emit_cast(
        b,
        mtbal_emit(
            b, "Div", mtbal_emit(b, "Size", x),
            mtbal_emit(b, "Size", mtbal_emit_reduce(b, "ReduceSum", x, rank - 2, space, true))),
        x->type.dtype);
#define MEAN(v) DIV(mtbal_emit_reduce(b, "ReduceSum", (v), rank - 2, space, true), n)
    mtbal_value *c = SUB(x, MEAN(x));
    mtbal_value *sd = UNARY(
        "Sqrt", ADD(MEAN(MUL(c, c)), rule_scalar(b, x, mtbal_attr_f(g->node, "epsilon", 1e-5))));
    mtbal_value *xhat = DIV(c, sd);
    if (g->need[0]) {
        mtbal_value *h = MUL(dy, mtbal_emit_reshape(b, g->x[1], mtbal_const_i64s(b, rank, shape)));
        g->dx[0] = DIV(SUB(SUB(h, MEAN(h)), MUL(xhat, MEAN(MUL(h, xhat)))), sd);
    }
#undef MEAN
    if (g->need[1])
        g->dx[1] = mtbal_emit_reduce(b, "ReduceSum", MUL(dy, xhat), rank - 1, axes, false);
    if (g->need[2])
        g->dx[2] = mtbal_emit_reduce(b, "ReduceSum", dy, rank - 1, axes, false);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ class losses */

/* Logits (N, C, D..) as (N, C, D), labels as (N, D). The weight of an element is its class's, 0
 * where it is ignored; a mean divides by the sum of weights. dlogits = (softmax - onehot) * weight
 * * dY. For NLL: -onehot * weight * dY. Labels that are ignored may lie outside the classes: they
 * are replaced by 0 before they index anything. */
static void class_loss_text(bool cross_entropy, const char *reduction, bool weighted, bool ignores,
                            const char *name, char *text, size_t size)
{
    bool mean = !strcmp(reduction, "mean"), none = !strcmp(reduction, "none");
    size_t n = (size_t)snprintf(
        text, size,
        "%s <reduction: string = \"mean\", ignore_index: int = -1> (dY, X, labels%s) => (dX) {\n"
        "  shape = Shape (X)\n"
        "  two = Constant <value = int64[1] {2}> ()\n"
        "  nil = Constant <value = int64[1] {0}> ()\n"
        "  last = Constant <value = int64[1] {-1}> ()\n"
        "  one = Constant <value = int64[1] {1}> ()\n"
        "  nc = Slice (shape, nil, two)\n"
        "  s3 = Concat <axis = 0> (nc, last)\n"
        "  x = Reshape (X, s3)\n"
        "  batch = Slice (shape, nil, one)\n"
        "  s2 = Concat <axis = 0> (batch, last)\n"
        "  l0 = Reshape (labels, s2)\n"
        "  l = Cast <to = 7> (l0)\n"
        "  onef = Constant <value = float {1}> ()\n"
        "  unit = CastLike (onef, X)\n"
        "  zero = Sub (unit, unit)\n",
        name, weighted ? ", weights" : "");
    if (ignores)
        n += (size_t)snprintf(text + n, size - n,
                              "  ignored = Constant <value_int: int = @ignore_index> ()\n"
                              "  drop = Equal (l, ignored)\n"
                              "  zeroi = Constant <value = int64 {0}> ()\n"
                              "  at = Where (drop, zeroi, l)\n");
    else
        n += (size_t)snprintf(text + n, size - n, "  at = Identity (l)\n");
    if (weighted)
        n += (size_t)snprintf(text + n, size - n, "  wc = Gather <axis = 0> (weights, at)\n");
    else
        n += (size_t)snprintf(text + n, size - n, "  sl = Shape (l)\n  wc = Expand (unit, sl)\n");
    n += (size_t)snprintf(text + n, size - n,
                          ignores ? "  w = Where (drop, zero, wc)\n" : "  w = Identity (wc)\n");
    if (mean)
        n += (size_t)snprintf(text + n, size - n,
                              "  total = ReduceSum <keepdims = 0> (w)\n"
                              "  f0 = Div (w, total)\n"
                              "  f = Mul (f0, dY)\n");
    else if (none)
        n += (size_t)snprintf(text + n, size - n, "  d = Reshape (dY, s2)\n  f = Mul (w, d)\n");
    else
        n += (size_t)snprintf(text + n, size - n, "  f = Mul (w, dY)\n");
    snprintf(text + n, size - n,
             "  classes = Slice (shape, one, two)\n"
             "  c0 = Squeeze (classes, nil)\n"
             "  starti = Constant <value = int64 {0}> ()\n"
             "  stepi = Constant <value = int64 {1}> ()\n"
             "  range = Range (starti, c0, stepi)\n"
             "  column = Constant <value = int64[3] {1, -1, 1}> ()\n"
             "  ids = Reshape (range, column)\n"
             "  at3 = Unsqueeze (at, one)\n"
             "  hit = Equal (ids, at3)\n"
             "  onehot = CastLike (hit, X)\n"
             "%s"
             "  f3 = Unsqueeze (f, one)\n"
             "  dx = Mul (e, f3)\n"
             "  dX = Reshape (dx, shape)\n"
             "}",
             cross_entropy ? "  p = Softmax <axis = 1> (x)\n  e = Sub (p, onehot)\n"
                           : "  e = Neg (onehot)\n");
}

static mtbal_status class_loss(mtbal_gradient *g, bool cross_entropy)
{
    char text[4000], name[128];
    const char *reduction = mtbal_attr_s(g->node, "reduction", "mean");
    bool weighted = g->nx > 2 && g->x[2];
    const mtbal_attr *ignore = mtbal_attr_find(g->node, "ignore_index");
    if (g->ny > 1 && g->dy[1])
        return rule_unsupported(g, "a gradient through log_prob");
    if (!g->dy[0] || !g->need[0])
        return MTBAL_OK;
    snprintf(name, sizeof name, "%sGrad_%s%s%s",
             cross_entropy ? "SoftmaxCrossEntropyLoss" : "NegativeLogLikelihoodLoss", reduction,
             weighted ? "_weighted" : "", ignore ? "_ignore" : "");
    class_loss_text(cross_entropy, reduction, weighted, ignore != NULL, name, text, sizeof text);
    mtbal_value *in[4] = {g->dy[0], g->x[0], g->x[1], weighted ? g->x[2] : MTBAL_OMIT};
    mtbal_node *node = rule_call(g, text, name, 4, in, 1, &g->dx[0]);
    if (node && (mtbal_set_s(node, "reduction", reduction) != MTBAL_OK ||
                 (ignore && mtbal_set_i(node, "ignore_index", ignore->i) != MTBAL_OK)))
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(g->b, node);
    rule_like(g->dx[0], g->x[0]);
    return MTBAL_OK;
}
RULE(softmax_cross_entropy_loss)
{
    return class_loss(g, true);
}
RULE(nll_loss)
{
    return class_loss(g, false);
}
