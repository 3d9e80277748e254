/* passes/balance/methods.c: fixed weights: equal, given, and from the calibration. */
#include "passes/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mtbal_status equal(mtbal_context *c, mtbal_builder *b)
{
    for (int i = 0; i < c->ntasks; i++)
        c->weights[i] = mtbal_const_scalar(b, mtbal_float_type(c), 1);
    return b->status;
}

static mtbal_status given(mtbal_context *c, mtbal_builder *b)
{
    const mtbal_options *o = c->options;
    for (int k = 0; k < o->nweights; k++) {
        bool found = false;
        for (int i = 0; i < c->ntasks; i++)
            found = found || !strcmp(c->tasks[i].name, o->weights[k].name);
        if (!found)
            return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path, "name a task of this model",
                              "--weights: there is no task %s", o->weights[k].name);
    }
    for (int i = 0; i < c->ntasks; i++) {
        double weight = 1;
        for (int k = 0; k < o->nweights; k++) {
            char *end;
            if (strcmp(c->tasks[i].name, o->weights[k].name))
                continue;
            weight = strtod(o->weights[k].value, &end);
            if (*end || !isfinite(weight))
                return mtbal_fail(c->diag, MTBAL_USAGE, "--weights", NULL, "%s=%s is no number",
                                  o->weights[k].name, o->weights[k].value);
        }
        c->weights[i] = mtbal_const_scalar(b, mtbal_float_type(c), weight);
    }
    return b->status;
}

/* The scalar in front of 1/G_i; r holds the 1/G_i [K], of which those above 0 are active.
 *   mean  c/mean(r)      weights of the active tasks average c = 1
 *   sum   K/sum(r)       weights sum to the number of all tasks
 *   unit  1              w_i G_i = 1
 *   geo   1/geometric mean of the active r
 *   ref:T 1/r_T */
static mtbal_value *scale(mtbal_context *c, mtbal_builder *b, mtbal_value *r, mtbal_value *active)
{
    const char *how = c->options->scale;
    mtbal_dtype dtype = mtbal_float_type(c);
    mtbal_value *count = mtbal_emit_reduce(b, "ReduceSum", active, 0, NULL, false);
    mtbal_value *sum = mtbal_emit_reduce(b, "ReduceSum", r, 0, NULL, false);
    if (!strcmp(how, "mean"))
        return mtbal_emit(b, "Div", count, sum);
    if (!strcmp(how, "sum"))
        return mtbal_emit(b, "Div", mtbal_const_scalar(b, dtype, c->ntasks), sum);
    if (!strcmp(how, "unit"))
        return mtbal_const_scalar(b, dtype, 1);
    if (!strcmp(how, "geo")) {
        mtbal_value *on = mtbal_emit(b, "Greater", r, mtbal_const_scalar(b, dtype, 0));
        mtbal_value *logs =
            mtbal_emit(b, "Log", mtbal_emit(b, "Where", on, r, mtbal_const_scalar(b, dtype, 1)));
        mtbal_value *mean =
            mtbal_emit(b, "Div", mtbal_emit_reduce(b, "ReduceSum", logs, 0, NULL, false), count);
        return mtbal_emit(b, "Exp", mtbal_emit(b, "Neg", mean));
    }
    for (int i = 0; i < c->ntasks && !strncmp(how, "ref:", 4); i++)
        if (!strcmp(c->tasks[i].name, how + 4))
            return mtbal_emit(b, "Reciprocal", mtbal_emit(b, "Gather", r, mtbal_const_i64(b, i)));
    b->status =
        mtbal_fail(c->diag, MTBAL_USAGE, "--scale", "choose from mean, sum, unit, geo, ref:TASK",
                   "there is no scale '%s'", how);
    return NULL;
}

/* w_i = c (1/G_i) / mean_j(1/G_j), the mean over tasks with finite G: a G of +inf switches its task
 * off. */
static mtbal_status calibrated(mtbal_context *c, mtbal_builder *b)
{
    mtbal_value *parts[MTBAL_MAX_TASKS];
    mtbal_dtype dtype = mtbal_float_type(c);
    const int64_t one = 1;
    for (int i = 0; i < c->ntasks; i++) {
        char name[256];
        snprintf(name, sizeof name, "mtbal/calibration/%s", c->tasks[i].name);
        mtbal_value *g = mtbal_state_new(c, name, dtype, 0, NULL, 1);
        if (!g)
            return mtbal_no_memory(c->diag);
        MTBAL_TRY(mtbal_state_bind(c, g, g));
        parts[i] = mtbal_emit_reshape(b, g, mtbal_const_i64s(b, 1, &one));
    }
    mtbal_value *g = mtbal_emit_attrs(b, "Concat", c->ntasks, parts, "axis=i", (int64_t)0);
    mtbal_value *r = mtbal_emit(b, "Reciprocal", g);
    mtbal_value *active =
        mtbal_emit_cast(b, mtbal_emit(b, "Greater", r, mtbal_const_scalar(b, dtype, 0)), dtype);
    mtbal_value *w = mtbal_emit(b, "Mul", r, scale(c, b, r, active));
    for (int i = 0; i < c->ntasks; i++)
        c->weights[i] = mtbal_emit(b, "Gather", w, mtbal_const_i64(b, i));
    return b->status;
}

const mtbal_method mtbal_methods[] = {
    {"calibrated", "c/G_i, G_i measured by mtbal-calibrate", calibrated},
    {"equal", "all 1", equal},
    {"weights", "as given by --weights", given},
    {NULL, NULL, NULL},
};
