/* passes/gradients/reduce.c: reductions, softmax, cumulative sums. */
#include "passes/gradients/rules.h"

#include <string.h>

enum { MAX_RANK = 32 };

/* The node's axes: n and list; all: every axis. Returns false when they are not known before the
 * run. */
static bool reduced_axes(const mtbal_gradient *g, int64_t *axes, int *n, bool *all)
{
    const int64_t *given;
    const mtbal_value *input = g->nx > 1 ? g->x[1] : NULL;
    int rank = g->x[0]->type.rank;
    *n = mtbal_attr_ints(g->node, "axes", &given);
    if (*n < 0 && input) {
        if (!input->tensor || !input->tensor->data || input->tensor->count > MAX_RANK)
            return false;
        *n = (int)input->tensor->count;
        for (int i = 0; i < *n; i++)
            axes[i] = mtbal_tensor_i64(input->tensor, i);
    } else if (*n > MAX_RANK) {
        return false;
    } else if (*n > 0) {
        memcpy(axes, given, (size_t)*n * sizeof *axes);
    }
    *all = *n <= 0;
    *n = *n < 0 ? 0 : *n;
    for (int i = 0; i < *n; i++)
        axes[i] += axes[i] < 0 && rank >= 0 ? rank : 0;
    return true;
}

/* A reduced value (y or dy) with the reduced axes kept as ones. */
static mtbal_value *keep(mtbal_gradient *g, mtbal_value *v)
{
    mtbal_builder *b = g->b;
    int64_t axes[MAX_RANK], ones[MAX_RANK];
    int n;
    bool all;
    if (mtbal_attr_i(g->node, "keepdims", 1))
        return v;
    if (!reduced_axes(g, axes, &n, &all))
        return mtbal_emit(b, "Unsqueeze", v, g->x[1]);
    int rank = g->x[0]->type.rank;
    if (all && rank < 0)
        return v; /* a scalar broadcasts */
    if (all) {
        for (int i = 0; i < rank; i++)
            ones[i] = 1;
        return rank == 0 ? v : mtbal_emit_reshape(b, v, mtbal_const_i64s(b, rank, ones));
    }
    return mtbal_emit(b, "Unsqueeze", v, mtbal_const_i64s(b, n, axes));
}

/* dy with kept axes, in x's shape. */
static mtbal_value *spread(mtbal_gradient *g, mtbal_value *dy)
{
    return mtbal_emit(g->b, "Expand", dy, mtbal_emit_shape(g->b, g->x[0]));
}

static bool is_noop(const mtbal_gradient *g)
{
    int64_t axes[MAX_RANK];
    int n;
    bool all;
    return reduced_axes(g, axes, &n, &all) && all &&
           mtbal_attr_i(g->node, "noop_with_empty_axes", 0);
}

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)
#define OPEN                                                    \
    mtbal_builder *b = g->b;                                    \
    mtbal_value *x = g->x[0];                                   \
    if (is_noop(g))                                             \
        return rule_unsupported(g, "a reduction over no axis"); \
    mtbal_value *dy = keep(g, g->dy[0]);                        \
    (void)b, (void)x

RULE(reduce_sum)
{
    if (is_noop(g)) {
        g->dx[0] = g->dy[0];
        return MTBAL_OK;
    }
    OPEN;
    g->dx[0] = spread(g, dy);
    return MTBAL_OK;
}

/* Elements that went into one result, as a scalar of x's type. */
static mtbal_value *reduced_count(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    int64_t nx = mtbal_shape_count(&x->type), ny = mtbal_shape_count(&g->y[0]->type);
    if (nx >= 0 && ny > 0)
        return rule_scalar(b, x, (double)nx / (double)ny);
    mtbal_value *count =
        mtbal_emit(b, "Div", mtbal_emit(b, "Size", x), mtbal_emit(b, "Size", g->y[0]));
    return mtbal_emit_cast(b, count, x->type.dtype);
}

RULE(reduce_mean)
{
    OPEN;
    g->dx[0] = spread(g, DIV(dy, reduced_count(g)));
    return MTBAL_OK;
}
RULE(reduce_l1)
{
    OPEN;
    g->dx[0] = MUL(dy, UNARY("Sign", x));
    return MTBAL_OK;
}
RULE(reduce_l2) /* x / y, and 0 where y is 0 */
{
    OPEN;
    mtbal_value *y = keep(g, g->y[0]);
    mtbal_value *zero = BINARY("Equal", y, rule_scalar(b, x, 0));
    mtbal_value *safe = WHERE(zero, rule_scalar(b, x, 1), y);
    g->dx[0] = MUL(x, WHERE(zero, rule_scalar(b, x, 0), DIV(dy, safe)));
    return MTBAL_OK;
}
RULE(reduce_sum_square)
{
    OPEN;
    g->dx[0] = MUL(dy, ADD(x, x));
    return MTBAL_OK;
}
RULE(reduce_log_sum) /* y = log(sum x): 1 / e^y */
{
    OPEN;
    g->dx[0] = spread(g, DIV(dy, UNARY("Exp", keep(g, g->y[0]))));
    return MTBAL_OK;
}
RULE(reduce_log_sum_exp) /* e^(x - y); a row of all -inf gets 0 */
{
    OPEN;
    mtbal_value *y = keep(g, g->y[0]);
    mtbal_value *lost = BINARY("Equal", y, rule_scalar(b, x, -__builtin_inf()));
    mtbal_value *safe = WHERE(lost, rule_scalar(b, x, 0), y);
    g->dx[0] = MUL(dy, UNARY("Exp", SUB(x, safe)));
    return MTBAL_OK;
}

/* ReduceMax and ReduceMin: ties share evenly. */
RULE(reduce_extremum)
{
    OPEN;
    int64_t axes[MAX_RANK];
    int n;
    bool all;
    mtbal_value *mask = rule_mask(b, BINARY("Equal", x, keep(g, g->y[0])), x), *count;
    if (reduced_axes(g, axes, &n, &all))
        count = mtbal_emit_reduce(b, "ReduceSum", mask, n, axes, true);
    else
        count = mtbal_emit(b, "ReduceSum", mask, g->x[1]);
    g->dx[0] = MUL(mask, DIV(dy, count));
    return MTBAL_OK;
}

/* ReduceProd, right with zeros: with none, y/x; with one, the product of the others at its place;
 * with more, 0. */
RULE(reduce_prod)
{
    OPEN;
    int64_t axes[MAX_RANK];
    int n;
    bool all;
    if (!reduced_axes(g, axes, &n, &all))
        return rule_unsupported(g, "axes that are not known before the run");
    mtbal_value *one = rule_scalar(b, x, 1), *nil = rule_scalar(b, x, 0);
    mtbal_value *is_zero = BINARY("Equal", x, nil);
    mtbal_value *zeros = mtbal_emit_reduce(b, "ReduceSum", rule_mask(b, is_zero, x), n, axes, true);
    mtbal_value *safe = WHERE(is_zero, one, x);
    mtbal_value *product =
        mtbal_emit_reduce(b, "ReduceProd", safe, n, axes, true); /* of what is not 0 */
    mtbal_value *none = WHERE(BINARY("Equal", zeros, nil), DIV(product, safe), nil);
    mtbal_value *only = BINARY("And", BINARY("Equal", zeros, one), is_zero);
    g->dx[0] = MUL(dy, WHERE(only, product, none));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ softmax and its kin */

static const char softmax_grad[] = "SoftmaxGrad <axis: int = -1> (dY, Y, axes) => (dX) {\n"
                                   "  p = Mul (dY, Y)\n"
                                   "  s = ReduceSum <keepdims = 1> (p, axes)\n"
                                   "  d = Sub (dY, s)\n"
                                   "  dX = Mul (d, Y)\n"
                                   "}";
static const char log_softmax_grad[] = "LogSoftmaxGrad <axis: int = -1> (dY, Y, axes) => (dX) {\n"
                                       "  s = ReduceSum <keepdims = 1> (dY, axes)\n"
                                       "  e = Exp (Y)\n"
                                       "  p = Mul (e, s)\n"
                                       "  dX = Sub (dY, p)\n"
                                       "}";

static mtbal_status softmax_like(mtbal_gradient *g, const char *text, const char *op)
{
    mtbal_builder *b = g->b;
    int64_t axis = rule_axis(g, -1);
    mtbal_value *in[3] = {g->dy[0], g->y[0], mtbal_const_i64s(b, 1, &axis)};
    mtbal_node *node = rule_call(g, text, op, 3, in, 1, &g->dx[0]);
    if (node && mtbal_set_i(node, "axis", axis) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(b, node);
    return MTBAL_OK;
}
RULE(softmax)
{
    return softmax_like(g, softmax_grad, "SoftmaxGrad");
}
RULE(log_softmax)
{
    return softmax_like(g, log_softmax_grad, "LogSoftmaxGrad");
}

RULE(cum_sum)
{
    mtbal_value *in[2] = {g->dy[0], g->x[1]};
    g->dx[0] = mtbal_emit_attrs(g->b, "CumSum", 2, in, "exclusive=i reverse=i",
                                mtbal_attr_i(g->node, "exclusive", 0),
                                (int64_t)!mtbal_attr_i(g->node, "reverse", 0));
    return MTBAL_OK;
}

/* LpNormalization: y = x/n. p = 2: (dy - y sum(dy y)) / n; p = 1: (dy - sign(x) sum(dy y)) / n. */
RULE(lp_normalization)
{
    mtbal_builder *b = g->b;
    int64_t axis = rule_axis(g, -1), p = mtbal_attr_i(g->node, "p", 2);
    mtbal_value *x = g->x[0], *y = g->y[0], *dy = g->dy[0];
    mtbal_value *norm = mtbal_emit_reduce(b, p == 1 ? "ReduceL1" : "ReduceL2", x, 1, &axis, true);
    mtbal_value *dot = mtbal_emit_reduce(b, "ReduceSum", MUL(dy, y), 1, &axis, true);
    g->dx[0] = DIV(SUB(dy, MUL(p == 1 ? UNARY("Sign", x) : y, dot)), norm);
    return MTBAL_OK;
}

/* Determinant: det(X) X^-T. The inverse is built by cofactors, up to 16x16. */
static mtbal_value *entry(mtbal_builder *b, mtbal_value *m, int64_t row, int64_t column)
{
    mtbal_value *r = mtbal_emit_attrs(b, "Gather", 2, (mtbal_value *[]){m, mtbal_const_i64(b, row)},
                                      "axis=i", (int64_t)-2);
    return mtbal_emit_attrs(b, "Gather", 2, (mtbal_value *[]){r, mtbal_const_i64(b, column)},
                            "axis=i", (int64_t)-1);
}

static mtbal_value *minor(mtbal_builder *b, mtbal_value *m, int64_t size, int64_t row,
                          int64_t column)
{
    int64_t rows[16], columns[16];
    int n = 0;
    for (int64_t i = 0; i < size; i++)
        if (i != row)
            rows[n++] = i;
    n = 0;
    for (int64_t i = 0; i < size; i++)
        if (i != column)
            columns[n++] = i;
    mtbal_value *r = mtbal_emit_attrs(
        b, "Gather", 2, (mtbal_value *[]){m, mtbal_const_i64s(b, n, rows)}, "axis=i", (int64_t)-2);
    mtbal_value *s =
        mtbal_emit_attrs(b, "Gather", 2, (mtbal_value *[]){r, mtbal_const_i64s(b, n, columns)},
                         "axis=i", (int64_t)-1);
    return n == 1 ? entry(b, s, 0, 0) : mtbal_emit(b, "Det", s);
}

/* The cofactor matrix: right for singular matrices too. */
RULE(det)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *rows[16];
    int64_t size = x->type.rank >= 2 ? x->type.dims[x->type.rank - 1].size : -1;
    const int64_t last = -1, before = -2;
    if (size < 1 || size > 16)
        return rule_unsupported(g, "a determinant of a matrix of unknown size, or larger than 16");
    for (int64_t i = 0; i < size; i++) {
        mtbal_value *cells[16];
        for (int64_t j = 0; j < size; j++) {
            mtbal_value *c =
                size == 1 ? mtbal_emit_fill_like(b, g->y[0], 1) : minor(b, x, size, i, j);
            c = (i + j) % 2 ? NEG(c) : c;
            cells[j] = mtbal_emit(b, "Unsqueeze", c, mtbal_const_i64s(b, 1, &last));
        }
        mtbal_value *row =
            size == 1 ? cells[0]
                      : mtbal_emit_attrs(b, "Concat", (int)size, cells, "axis=i", (int64_t)-1);
        rows[i] = mtbal_emit(b, "Unsqueeze", row, mtbal_const_i64s(b, 1, &before));
    }
    mtbal_value *cofactors =
        size == 1 ? rows[0] : mtbal_emit_attrs(b, "Concat", (int)size, rows, "axis=i", (int64_t)-2);
    const int64_t two[2] = {-2, -1};
    g->dx[0] = MUL(cofactors, mtbal_emit(b, "Unsqueeze", g->dy[0], mtbal_const_i64s(b, 2, two)));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ CumProd */

/* CumProdGrad_.. (dY, X) -> dX: the product P of what comes before an element, times the sum S over
 * what comes from it on of dY and the x between. Both are recurrences along the axis; nothing is
 * divided by x, which may be 0. */
static void cum_prod_text(const char *name, int axis, bool back, bool open, char *text, size_t size)
{
    snprintf(text, size,
             "%s (dY, X) => (dX) {\n"
             "  zero = Constant <value = int64 {0}> ()\n"
             "  first = Gather <axis = %d> (X, zero)\n"
             "  shape = Shape (first)\n"
             "  zeros0 = ConstantOfShape (shape)\n"
             "  zeros = CastLike (zeros0, X)\n"
             "  ones = Exp (zeros)\n"
             "  last_p, P = Scan <num_scan_inputs = 1, scan_input_axes = [%d], scan_output_axes = "
             "[%d],\n"
             "    scan_input_directions = [%d], scan_output_directions = [%d],\n"
             "    body = before (p, x) => (next_p, kept_p) {\n"
             "      next_p = Mul (p, x)\n"
             "      kept_p = Identity (p)\n"
             "    }> (ones, X)\n"
             "  last_c, S = Scan <num_scan_inputs = 2, scan_input_axes = [%d, %d],\n"
             "    scan_output_axes = [%d], scan_input_directions = [%d, %d],\n"
             "    scan_output_directions = [%d], body = behind (c, dy, x2) => (next_c, s) {\n"
             "%s"
             "    }> (zeros, dY, X)\n"
             "  dX = Mul (P, S)\n"
             "}",
             name, axis, axis, axis, back, back, axis, axis, axis, !back, !back, !back,
             open ? "      s = Identity (c)\n      t = Mul (x2, c)\n      next_c = Add (dy, t)\n"
                  : "      s = Add (c, dy)\n      next_c = Mul (x2, s)\n");
}

RULE(cum_prod)
{
    char text[2000], name[80];
    const mtbal_tensor *t = g->nx > 1 && g->x[1] ? g->x[1]->tensor : NULL;
    int rank = g->x[0]->type.rank;
    int64_t axis = t && t->data && t->count == 1 ? mtbal_tensor_i64(t, 0) : rank,
            back = mtbal_attr_i(g->node, "reverse", 0),
            open = mtbal_attr_i(g->node, "exclusive", 0);
    axis += axis < 0 ? rank : 0;
    if (rank < 1 || axis < 0 || axis >= rank)
        return rule_unsupported(g, "an axis or a rank that is not known before the run");
    snprintf(name, sizeof name, "CumProdGrad_a%d%s%s", (int)axis, back ? "_reverse" : "",
             open ? "_exclusive" : "");
    cum_prod_text(name, (int)axis, back != 0, open != 0, text, sizeof text);
    mtbal_value *in[2] = {g->dy[0], g->x[0]};
    mtbal_node *node = rule_call(g, text, name, 2, in, 1, &g->dx[0]);
    if (node && mtbal_set_attrs(node, "axis=i exclusive=i reverse=i", axis, open, back) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(g->b, node);
    rule_like(g->dx[0], g->x[0]);
    return MTBAL_OK;
}
