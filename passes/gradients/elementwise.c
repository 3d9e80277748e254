/* passes/gradients/elementwise.c: operators of one, two or more operands, element by element. At
 * kinks: PyTorch's convention. */
#include "passes/gradients/rules.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ one operand: dx = dy * f'(x)
 */

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)
#define OPEN                                                \
    mtbal_builder *b = g->b;                                \
    mtbal_value *x = g->x[0], *y = g->y[0], *dy = g->dy[0]; \
    (void)x, (void)y, (void)b
#define CONST(v) rule_scalar(b, x, (v))
#define CLOSE(value)    \
    g->dx[0] = (value); \
    return MTBAL_OK

RULE(identity)
{
    CLOSE(g->dy[0]);
}
RULE(neg)
{
    OPEN;
    CLOSE(NEG(dy));
}
RULE(abs)
{
    OPEN;
    CLOSE(MUL(dy, UNARY("Sign", x)));
}
RULE(exp)
{
    OPEN;
    CLOSE(MUL(dy, y));
}
RULE(log)
{
    OPEN;
    CLOSE(DIV(dy, x));
}
RULE(sqrt)
{
    OPEN;
    CLOSE(DIV(dy, ADD(y, y)));
}
RULE(reciprocal)
{
    OPEN;
    CLOSE(NEG(MUL(dy, MUL(y, y))));
}
RULE(sin)
{
    OPEN;
    CLOSE(MUL(dy, UNARY("Cos", x)));
}
RULE(cos)
{
    OPEN;
    CLOSE(NEG(MUL(dy, UNARY("Sin", x))));
}
RULE(tan)
{
    OPEN;
    CLOSE(MUL(dy, ADD(CONST(1), MUL(y, y))));
}
RULE(asin)
{
    OPEN;
    CLOSE(DIV(dy, UNARY("Sqrt", SUB(CONST(1), MUL(x, x)))));
}
RULE(acos)
{
    OPEN;
    CLOSE(NEG(DIV(dy, UNARY("Sqrt", SUB(CONST(1), MUL(x, x))))));
}
RULE(atan)
{
    OPEN;
    CLOSE(DIV(dy, ADD(CONST(1), MUL(x, x))));
}
RULE(sinh)
{
    OPEN;
    CLOSE(MUL(dy, UNARY("Cosh", x)));
}
RULE(cosh)
{
    OPEN;
    CLOSE(MUL(dy, UNARY("Sinh", x)));
}
RULE(asinh)
{
    OPEN;
    CLOSE(DIV(dy, UNARY("Sqrt", ADD(MUL(x, x), CONST(1)))));
}
RULE(acosh)
{
    OPEN;
    CLOSE(DIV(dy, UNARY("Sqrt", SUB(MUL(x, x), CONST(1)))));
}
RULE(atanh)
{
    OPEN;
    CLOSE(DIV(dy, SUB(CONST(1), MUL(x, x))));
}
RULE(tanh)
{
    OPEN;
    CLOSE(MUL(dy, SUB(CONST(1), MUL(y, y))));
}
RULE(sigmoid)
{
    OPEN;
    CLOSE(MUL(dy, MUL(y, SUB(CONST(1), y))));
}
RULE(erf) /* 2/sqrt(pi) exp(-x^2) */
{
    OPEN;
    CLOSE(MUL(dy, MUL(CONST(1.12837916709551257390), UNARY("Exp", NEG(MUL(x, x))))));
}
RULE(relu)
{
    OPEN;
    CLOSE(rule_select(b, BINARY("Greater", y, CONST(0)), dy));
}
RULE(leaky_relu)
{
    OPEN;
    double alpha = mtbal_attr_f(g->node, "alpha", 0.01);
    CLOSE(WHERE(BINARY("Greater", x, CONST(0)), dy, MUL(dy, CONST(alpha))));
}
RULE(thresholded_relu)
{
    OPEN;
    CLOSE(rule_select(b, BINARY("Greater", x, CONST(mtbal_attr_f(g->node, "alpha", 1))), dy));
}
RULE(elu) /* for x <= 0, y = alpha (e^x - 1): y' = y + alpha */
{
    OPEN;
    double alpha = mtbal_attr_f(g->node, "alpha", 1);
    CLOSE(MUL(dy, WHERE(BINARY("Greater", x, CONST(0)), CONST(1), ADD(y, CONST(alpha)))));
}
RULE(celu) /* for x <= 0, y = alpha (e^(x/alpha) - 1): y' = y/alpha + 1 */
{
    OPEN;
    double alpha = mtbal_attr_f(g->node, "alpha", 1);
    CLOSE(MUL(
        dy, WHERE(BINARY("Greater", x, CONST(0)), CONST(1), ADD(DIV(y, CONST(alpha)), CONST(1)))));
}
RULE(selu) /* gamma x, or gamma alpha (e^x - 1): y' = y + gamma alpha */
{
    OPEN;
    double alpha = mtbal_attr_f(g->node, "alpha", 1.67326319217681884765625);
    double gamma = mtbal_attr_f(g->node, "gamma", 1.05070102214813232421875);
    CLOSE(
        MUL(dy, WHERE(BINARY("Greater", x, CONST(0)), CONST(gamma), ADD(y, CONST(alpha * gamma)))));
}
RULE(softplus)
{
    OPEN;
    CLOSE(MUL(dy, UNARY("Sigmoid", x)));
}
RULE(softsign)
{
    OPEN;
    mtbal_value *d = ADD(CONST(1), UNARY("Abs", x));
    CLOSE(DIV(dy, MUL(d, d)));
}
RULE(hard_sigmoid)
{
    OPEN;
    mtbal_value *inside =
        BINARY("And", BINARY("Greater", y, CONST(0)), BINARY("Less", y, CONST(1)));
    CLOSE(rule_select(b, inside, MUL(dy, CONST(mtbal_attr_f(g->node, "alpha", 0.2)))));
}
RULE(hard_swish) /* x clip(x/6 + 1/2, 0, 1): 0 below -3, 1 from 3 on, x/3 + 1/2 between */
{
    OPEN;
    mtbal_value *slope = ADD(DIV(x, CONST(3)), CONST(0.5));
    mtbal_value *low = BINARY("Less", x, CONST(-3)), *high = BINARY("Greater", x, CONST(3));
    CLOSE(MUL(dy, WHERE(low, CONST(0), WHERE(high, CONST(1), slope))));
}
RULE(swish) /* x s(ax): s + a x s (1 - s) */
{
    OPEN;
    double alpha = mtbal_attr_f(g->node, "alpha", 1);
    mtbal_value *s = UNARY("Sigmoid", MUL(x, CONST(alpha)));
    CLOSE(MUL(dy, ADD(s, MUL(MUL(y, CONST(alpha)), SUB(CONST(1), s)))));
}
RULE(mish) /* x tanh(sp), sp = softplus(x): t + x (1 - t^2) sigmoid(x) */
{
    OPEN;
    mtbal_value *t = UNARY("Tanh", UNARY("Softplus", x));
    CLOSE(MUL(dy, ADD(t, MUL(x, MUL(SUB(CONST(1), MUL(t, t)), UNARY("Sigmoid", x))))));
}
RULE(gelu)
{
    OPEN;
    const char *how = mtbal_attr_s(g->node, "approximate", "none");
    if (!strcmp(how, "tanh")) { /* 0.5 x (1 + tanh u), u = k (x + 0.044715 x^3) */
        const double k = 0.79788456080286535588, c = 0.044715;
        mtbal_value *xx = MUL(x, x);
        mtbal_value *t = UNARY("Tanh", MUL(CONST(k), MUL(x, ADD(CONST(1), MUL(CONST(c), xx)))));
        mtbal_value *du = MUL(CONST(k), ADD(CONST(1), MUL(CONST(3 * c), xx)));
        mtbal_value *slope = ADD(ADD(CONST(1), t), MUL(x, MUL(SUB(CONST(1), MUL(t, t)), du)));
        CLOSE(MUL(dy, MUL(CONST(0.5), slope)));
    }
    /* Phi(x) + x phi(x) */
    mtbal_value *cdf = MUL(CONST(0.5), ADD(CONST(1), UNARY("Erf", MUL(x, CONST(M_SQRT1_2)))));
    mtbal_value *pdf =
        MUL(CONST(0.39894228040143267794), UNARY("Exp", MUL(CONST(-0.5), MUL(x, x))));
    CLOSE(MUL(dy, ADD(cdf, MUL(x, pdf))));
}
RULE(shrink)
{
    OPEN;
    double lambda = mtbal_attr_f(g->node, "lambd", 0.5);
    CLOSE(rule_select(b, BINARY("Greater", UNARY("Abs", x), CONST(lambda)), dy));
}
RULE(clip) /* the mask is inclusive; what lies outside belongs to the bound */
{
    OPEN;
    mtbal_value *inside = NULL;
    for (int i = 1; i < g->nx; i++)
        if (g->x[i]) {
            mtbal_value *ok = BINARY(i == 1 ? "GreaterOrEqual" : "LessOrEqual", x, g->x[i]);
            inside = inside ? BINARY("And", inside, ok) : ok;
        }
    mtbal_value *low = g->nx > 1 ? g->x[1] : NULL, *high = g->nx > 2 ? g->x[2] : NULL;
    if (low && g->need[1]) {
        mtbal_value *below = BINARY("Less", x, low);
        if (high)
            below = BINARY("And", below, BINARY("Less", low, high));
        g->dx[1] = rule_select(b, below, dy);
    }
    if (high && g->need[2]) {
        mtbal_value *above = BINARY("Greater", x, high);
        if (low)
            above = BINARY("Or", above, BINARY("Less", high, low));
        g->dx[2] = rule_select(b, above, dy);
    }
    CLOSE(inside ? rule_select(b, inside, dy) : dy);
}
RULE(cast)
{
    OPEN;
    CLOSE(mtbal_dtype_is_float(x->type.dtype) ? mtbal_emit_cast(b, dy, x->type.dtype) : NULL);
}

/* ------------------------------------------------------------------ two and more operands */

RULE(add)
{
    g->dx[0] = g->dx[1] = g->dy[0];
    return MTBAL_OK;
}
RULE(sub)
{
    mtbal_builder *b = g->b;
    g->dx[0] = g->dy[0];
    if (g->need[1])
        g->dx[1] = NEG(g->dy[0]);
    return MTBAL_OK;
}
RULE(mul)
{
    mtbal_builder *b = g->b;
    for (int i = 0; i < 2; i++)
        if (g->need[i])
            g->dx[i] = MUL(g->dy[0], g->x[1 - i]);
    return MTBAL_OK;
}
RULE(div)
{
    mtbal_builder *b = g->b;
    if (g->need[0])
        g->dx[0] = DIV(g->dy[0], g->x[1]);
    if (g->need[1])
        g->dx[1] = NEG(DIV(MUL(g->dy[0], g->y[0]), g->x[1]));
    return MTBAL_OK;
}

/* The exponent as a number when it is a constant scalar. */
static bool constant_exponent(const mtbal_gradient *g, double *p)
{
    const mtbal_value *e = g->x[1];
    if (!e->tensor || e->is_input || e->tensor->count != 1 || !e->tensor->data)
        return false;
    *p = mtbal_tensor_f64(e->tensor, 0);
    return true;
}

RULE(pow)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *e = g->x[1], *dy = g->dy[0];
    double p;
    if (g->need[0]) {
        bool constant = constant_exponent(g, &p);
        if (constant && p == 2)
            g->dx[0] = MUL(dy, ADD(x, x));
        else if (constant && p == 1)
            g->dx[0] = dy;
        else if (constant && p == 0)
            g->dx[0] = NULL;
        else if (constant && (p < 0 || p > 1))
            g->dx[0] =
                MUL(dy, MUL(rule_scalar(b, x, p), BINARY("Pow", x, rule_scalar(b, x, p - 1))));
        else { /* e x^(e-1), and 0 where e is 0, or at the infinite slope of a root at 0 */
            mtbal_value *ef = mtbal_emit_cast(b, e, x->type.dtype), *zero = rule_scalar(b, x, 0);
            mtbal_value *slope = MUL(ef, BINARY("Pow", x, SUB(ef, rule_scalar(b, x, 1))));
            mtbal_value *steep =
                BINARY("And", BINARY("Equal", x, zero), BINARY("Less", ef, rule_scalar(b, x, 1)));
            mtbal_value *flat = BINARY("Or", BINARY("Equal", ef, zero), steep);
            g->dx[0] = MUL(dy, WHERE(flat, zero, slope));
        }
    }
    if (g->need[1]) { /* x^e ln x, and 0 where x is 0 (for e >= 0) */
        mtbal_value *zero = BINARY("Equal", x, rule_scalar(b, x, 0));
        mtbal_value *safe = WHERE(zero, rule_scalar(b, x, 1), x);
        g->dx[1] = mtbal_emit_cast(b, MUL(dy, MUL(g->y[0], UNARY("Log", safe))), e->type.dtype);
    }
    return MTBAL_OK;
}

RULE(where)
{
    mtbal_builder *b = g->b;
    mtbal_value *zero = rule_scalar(b, g->dy[0], 0);
    if (g->need[1])
        g->dx[1] = WHERE(g->x[0], g->dy[0], zero);
    if (g->need[2])
        g->dx[2] = WHERE(g->x[0], zero, g->dy[0]);
    return MTBAL_OK;
}

RULE(sum)
{
    for (int i = 0; i < g->nx; i++)
        g->dx[i] = g->dy[0];
    return MTBAL_OK;
}
RULE(mean)
{
    mtbal_builder *b = g->b;
    mtbal_value *part = DIV(g->dy[0], rule_scalar(b, g->dy[0], g->nx));
    for (int i = 0; i < g->nx; i++)
        g->dx[i] = part;
    return MTBAL_OK;
}

/* Max and Min: ties share evenly. */
RULE(extremum)
{
    mtbal_builder *b = g->b;
    mtbal_value *count = NULL;
    mtbal_value **masks = mtbal_arena_array(b->graph->model->arena, (size_t)g->nx, sizeof *masks);
    if (!masks)
        return mtbal_no_memory(g->diag);
    for (int i = 0; i < g->nx; i++) {
        masks[i] = rule_mask(b, BINARY("Equal", g->x[i], g->y[0]), g->dy[0]);
        count = count ? ADD(count, masks[i]) : masks[i];
    }
    mtbal_value *share = g->nx > 1 ? DIV(g->dy[0], count) : g->dy[0];
    for (int i = 0; i < g->nx; i++)
        if (g->need[i])
            g->dx[i] = MUL(share, masks[i]);
    return MTBAL_OK;
}

/* fmod and mod: x - floor(x/m) m, or truncated: d/dx = 1, d/dm = -quotient. */
RULE(mod)
{
    mtbal_builder *b = g->b;
    g->dx[0] = g->dy[0];
    if (g->need[1])
        g->dx[1] = NEG(MUL(g->dy[0], UNARY("Round", DIV(SUB(g->x[0], g->y[0]), g->x[1]))));
    return MTBAL_OK;
}

RULE(prelu)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0];
    mtbal_value *positive = BINARY("Greater", x, rule_scalar(b, x, 0));
    if (g->need[0])
        g->dx[0] = WHERE(positive, dy, MUL(dy, g->x[1]));
    if (g->need[1])
        g->dx[1] = WHERE(positive, rule_scalar(b, x, 0), MUL(dy, x));
    return MTBAL_OK;
}

/* The mask is needed: it is added to the forward node where it is missing. Not in training, or with
 * ratio 0: identity. */
RULE(dropout)
{
    mtbal_builder *b = g->b;
    const mtbal_value *ratio = g->nx > 1 ? g->x[1] : NULL, *training = g->nx > 2 ? g->x[2] : NULL;
    bool off = !training || (training->tensor && training->tensor->data &&
                             !mtbal_tensor_i64(training->tensor, 0));
    double p = !ratio                                 ? 0.5
               : ratio->tensor && ratio->tensor->data ? mtbal_tensor_f64(ratio->tensor, 0)
                                                      : -1;
    if (off || p == 0) {
        g->dx[0] = g->dy[0];
        return MTBAL_OK;
    }
    mtbal_value *mask = g->ny > 1 ? g->y[1] : NULL;
    if (!mask) {
        const char *name = mtbal_fresh_name(b->graph->model, "mtbal/dropout_mask");
        mask = name ? mtbal_value_new(g->node->graph, name) : NULL;
        if (!mask || mtbal_node_set_output(g->node, 1, mask) != MTBAL_OK)
            return mtbal_no_memory(g->diag);
        mask->type = g->y[0]->type;
        mask->type.dtype = MTBAL_BOOL;
    }
    mtbal_value *scale = p >= 0 ? rule_scalar(b, g->dy[0], 1 / (1 - p))
                                : DIV(rule_scalar(b, g->dy[0], 1),
                                      SUB(rule_scalar(b, g->dy[0], 1),
                                          mtbal_emit_cast(b, g->x[1], g->dy[0]->type.dtype)));
    mtbal_value *scaled = MUL(g->dy[0], scale);
    if (training->tensor)
        g->dx[0] = rule_select(b, mask, scaled);
    else /* the switch is an input: the mask is all true when it is off */
        g->dx[0] = WHERE(g->x[2], rule_select(b, mask, scaled), g->dy[0]);
    return MTBAL_OK;
}
