/* graph/ops/content.c: arithmetic on the contents of small integer tensors: exporters compute
 * shapes with it. What is not certain is unknown. */
#include "graph/ops/shapes.h"

#include <string.h>

/* Rounds towards zero, as integer Div does; expressions of sizes are taken not to be negative. */
static mtbal_dim divide(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t x, y;
    bool numbers = shape_is_number(a, &x) && shape_is_number(b, &y);
    if (numbers && (x < 0 || y < 0) && y != 0)
        return y == -1 ? mtbal_dim_sub(model, mtbal_dim_const(0), a) : shape_number(model, x / y);
    return mtbal_dim_div(model, a, b);
}

static mtbal_dim modulo(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t x, y;
    if (shape_is_number(a, &x) && x < 0)
        return shape_unknown();
    if (shape_is_number(b, &y) && y < 1)
        return shape_unknown();
    mtbal_dim whole = mtbal_dim_mul(model, mtbal_dim_div(model, a, b), b);
    return mtbal_dim_sub(model, a, whole);
}

/* -1, 0 or 1 when a is certainly below, equal to or above b; 2 when that depends, 3 when it is only
 * certain that a >= b, -3 that a <= b. */
static int compare(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t x, y;
    if (shape_is_unknown(a) || shape_is_unknown(b))
        return 2;
    if (shape_is_number(a, &x) && shape_is_number(b, &y))
        return x < y ? -1 : x > y;
    if (shape_same_dim(model, a, b))
        return 0;
    if (shape_low(model, mtbal_dim_sub(model, a, b), &x) && x >= 0)
        return x > 0 ? 1 : 3;
    if (shape_low(model, mtbal_dim_sub(model, b, a), &x) && x >= 0)
        return x > 0 ? -1 : -3;
    return 2;
}

static mtbal_dim maximum(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int c = compare(model, a, b);
    return c == 2 ? shape_unknown() : c == 0 || c == 1 || c == 3 ? a : b;
}

static mtbal_dim minimum(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int c = compare(model, a, b);
    return c == 2 ? shape_unknown() : c == 0 || c == 1 || c == 3 ? b : a;
}

static mtbal_dim truth(bool certain, bool value)
{
    return certain ? mtbal_dim_const(value) : shape_unknown();
}

static mtbal_dim equal(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int c = compare(model, a, b);
    return truth(c >= -1 && c <= 1, c == 0);
}

static mtbal_dim less(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int c = compare(model, a, b);
    return truth(c != 2 && c != -3, c == -1);
}

static mtbal_dim greater(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    return less(model, b, a);
}

static mtbal_dim negated(mtbal_dim d)
{
    return d.size < 0 ? d : mtbal_dim_const(!d.size);
}

static mtbal_dim less_or_equal(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    return negated(less(model, b, a));
}

static mtbal_dim greater_or_equal(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    return negated(less(model, a, b));
}

static mtbal_dim both(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    (void)model;
    return a.size == 0 || b.size == 0 ? mtbal_dim_const(0) : truth(a.size > 0 && b.size > 0, true);
}

static mtbal_dim either(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    (void)model;
    return a.size > 0 || b.size > 0 ? mtbal_dim_const(1) : truth(a.size == 0 && b.size == 0, false);
}

mtbal_status shape_fold(mtbal_infer *s)
{
    static const struct {
        int op;
        mtbal_dim (*fold)(mtbal_model *, mtbal_dim, mtbal_dim);
    } folds[] = {{MTBAL_OP_add, mtbal_dim_add},
                 {MTBAL_OP_sub, mtbal_dim_sub},
                 {MTBAL_OP_mul, mtbal_dim_mul},
                 {MTBAL_OP_div, divide},
                 {MTBAL_OP_mod, modulo},
                 {MTBAL_OP_max, maximum},
                 {MTBAL_OP_min, minimum},
                 {MTBAL_OP_equal, equal},
                 {MTBAL_OP_less, less},
                 {MTBAL_OP_greater, greater},
                 {MTBAL_OP_less_or_equal, less_or_equal},
                 {MTBAL_OP_greater_or_equal, greater_or_equal},
                 {MTBAL_OP_and, both},
                 {MTBAL_OP_or, either}};
    const mtbal_dim *a, *b;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int na = shape_content(s, 0, &a), nb = na < 0 ? -1 : shape_content(s, 1, &b);
    if (nb < 0 || s->node->nin != 2 || (na != nb && na != 1 && nb != 1))
        return MTBAL_OK;
    int n = na == 1 ? nb : na;
    for (size_t f = 0; f < sizeof folds / sizeof *folds; f++)
        if (mtbal_node_is(s->node, folds[f].op)) {
            for (int i = 0; i < n; i++)
                result[i] = folds[f].fold(s->model, a[na == 1 ? 0 : i], b[nb == 1 ? 0 : i]);
            return shape_set_content(s, 0, n, result);
        }
    return MTBAL_OK;
}
