/* passes/balance/calibrated.c: weights c/G_i, where G_i is the size of task i's gradient at the end
 * of its own training. The G_i are states that mtbal-calibrate stores; a step leaves them alone. */
#include "passes/internal.h"

#include <string.h>

/* The calibration, as a vector: r [K] of 1/G_i, on [K] whether the task is active (G_i finite). */
typedef struct rates {
    mtbal_context *c;
    mtbal_builder *b;
    mtbal_dtype dtype;
    mtbal_value *r, *on, *zero, *one;
} rates;

static mtbal_value *sum(const rates *s, mtbal_value *x)
{
    return mtbal_emit_reduce(s->b, "ReduceSum", x, 0, NULL, false);
}

/* n / d, 0 where d is 0. */
static mtbal_value *divide(const rates *s, mtbal_value *n, mtbal_value *d)
{
    mtbal_value *none = mtbal_emit(s->b, "Equal", d, s->zero);
    mtbal_value *quotient = mtbal_emit(s->b, "Div", n, mtbal_emit(s->b, "Where", none, s->one, d));
    return mtbal_emit(s->b, "Where", none, s->zero, quotient);
}

/* c / mean(r), the mean over the active tasks: their weights average c = 1. */
static mtbal_value *scale_mean(const rates *s)
{
    return divide(s, sum(s, mtbal_emit_cast(s->b, s->on, s->dtype)), sum(s, s->r));
}

/* K / sum(r): weights sum to the number of all tasks, active or not. */
static mtbal_value *scale_sum(const rates *s)
{
    return divide(s, mtbal_const_scalar(s->b, s->dtype, s->c->ntasks), sum(s, s->r));
}

/* 1: w_i G_i = 1. */
static mtbal_value *scale_unit(const rates *s)
{
    return s->one;
}

/* 1 / geometric mean of the active r: weights have the product 1. */
static mtbal_value *scale_geo(const rates *s)
{
    mtbal_value *logs = mtbal_emit(s->b, "Log", mtbal_emit(s->b, "Where", s->on, s->r, s->one));
    mtbal_value *mean = divide(s, sum(s, logs), sum(s, mtbal_emit_cast(s->b, s->on, s->dtype)));
    return mtbal_emit(s->b, "Exp", mtbal_emit(s->b, "Neg", mean));
}

/* 1 / r_T: w_T = 1. As scale_mean while T is switched off. */
static mtbal_value *scale_ref(const rates *s, int task)
{
    mtbal_value *r = mtbal_emit(s->b, "Gather", s->r, mtbal_const_i64(s->b, task));
    mtbal_value *off = mtbal_emit(s->b, "Equal", r, s->zero);
    return mtbal_emit(s->b, "Where", off, scale_mean(s), divide(s, s->one, r));
}

static const struct scale {
    const char *name;
    mtbal_value *(*emit)(const rates *s);
} scales[] = {{"mean", scale_mean}, {"sum", scale_sum}, {"unit", scale_unit}, {"geo", scale_geo}};

static mtbal_value *emit_scale(const rates *s)
{
    const char *how = s->c->options->scale;
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (!strcmp(scales[i].name, how))
            return scales[i].emit(s);
    for (int i = 0; i < s->c->ntasks && !strncmp(how, "ref:", 4); i++)
        if (!strcmp(s->c->tasks[i].name, how + 4))
            return scale_ref(s, i);
    s->b->status =
        mtbal_fail(s->c->diag, MTBAL_USAGE, "--scale", "choose from mean, sum, unit, geo, ref:TASK",
                   "there is no scale '%s'", how);
    return NULL;
}

mtbal_status mtbal_balance_calibrated(mtbal_context *c, mtbal_builder *b)
{
    mtbal_value *parts[MTBAL_MAX_TASKS];
    rates s = {.c = c, .b = b, .dtype = mtbal_float_type(c)};
    const int64_t one = 1;
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_value *g =
            mtbal_state_new(c, "mtbal/calibration/", c->tasks[i].name, s.dtype, 0, NULL, 1);
        MTBAL_TRY(mtbal_state_bind(c, g, g));
        parts[i] = mtbal_emit_reshape(b, g, mtbal_const_i64s(b, 1, &one));
    }
    s.zero = mtbal_const_scalar(b, s.dtype, 0);
    s.one = mtbal_const_scalar(b, s.dtype, 1);
    s.r = mtbal_emit(b, "Reciprocal",
                     mtbal_emit_attrs(b, "Concat", c->ntasks, parts, "axis=i", (int64_t)0));
    s.on = mtbal_emit(b, "Greater", s.r, s.zero);
    mtbal_value *w = mtbal_emit(b, "Mul", s.r, emit_scale(&s));
    for (int i = 0; i < c->ntasks; i++)
        c->weights[i] = mtbal_emit(b, "Gather", w, mtbal_const_i64(b, i));
    return b->status;
}
