/* passes/balance/calibrated.c: weights c/G_i, where G_i is the size of task i's gradient at the end
 * of its own training. The G_i are states that mtbal-calibrate stores; a step leaves them alone. */
#include "passes/internal.h"

#include <math.h>
#include <string.h>

/* The calibration, as a vector: r [K] of 1/G_i, on [K] whether the task is active (G_i finite). */
typedef struct rates {
    mtbal_context *c;
    mtbal_builder *b;
    mtbal_dtype dtype;
    mtbal_value *r, *on, *zero, *one;
} rates;

/* The same as numbers: how many tasks, how many are active, and sums over those. */
typedef struct sums {
    double tasks, active, r, log_r;
} sums;

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

static double mean_of(const sums *s)
{
    return s->active / s->r;
}

/* K / sum(r): weights sum to the number of all tasks, active or not. */
static mtbal_value *scale_sum(const rates *s)
{
    return divide(s, mtbal_const_scalar(s->b, s->dtype, s->c->ntasks), sum(s, s->r));
}

static double sum_of(const sums *s)
{
    return s->tasks / s->r;
}

/* 1: w_i G_i = 1. */
static mtbal_value *scale_unit(const rates *s)
{
    return s->one;
}

static double unit_of(const sums *s)
{
    (void)s;
    return 1;
}

/* 1 / geometric mean of the active r: weights have the product 1. */
static mtbal_value *scale_geo(const rates *s)
{
    mtbal_value *logs = mtbal_emit(s->b, "Log", mtbal_emit(s->b, "Where", s->on, s->r, s->one));
    mtbal_value *mean = divide(s, sum(s, logs), sum(s, mtbal_emit_cast(s->b, s->on, s->dtype)));
    return mtbal_emit(s->b, "Exp", mtbal_emit(s->b, "Neg", mean));
}

static double geo_of(const sums *s)
{
    return exp(-s->log_r / s->active);
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
    double (*of)(const sums *s);
} scales[] = {{"mean", scale_mean, mean_of},
              {"sum", scale_sum, sum_of},
              {"unit", scale_unit, unit_of},
              {"geo", scale_geo, geo_of}};
enum { NSCALES = sizeof scales / sizeof *scales };

static mtbal_value *emit_scale(const rates *s)
{
    const char *how = s->c->options->scale;
    for (int i = 0; i < NSCALES; i++)
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
    mtbal_value **parts = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *parts);
    rates s = {.c = c, .b = b, .dtype = mtbal_float_type(c)};
    const int64_t one = 1;
    if (!parts)
        return mtbal_no_memory(c->diag);
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

double mtbal_calibrated_weight(const char *scale, int count, const char *const *tasks,
                               const double *g, int task)
{
    sums s = {.tasks = count};
    const char *reference = strncmp(scale, "ref:", 4) ? NULL : scale + 4;
    for (int i = 0; i < count; i++)
        if (1 / g[i] > 0) {
            s.active++;
            s.r += 1 / g[i];
            s.log_r += log(1 / g[i]);
        }
    for (int i = 0; i < count && reference; i++)
        if (!strcmp(tasks[i], reference) && 1 / g[i] > 0)
            return g[i] / g[task];
    for (int i = 0; i < NSCALES; i++)
        if (!strcmp(scales[i].name, reference ? "mean" : scale))
            return s.active > 0 ? scales[i].of(&s) / g[task] : 0;
    return NAN;
}

/* ------------------------------------------------------------------ another scalar later */

static mtbal_node *maker(const mtbal_value *v, const char *op)
{
    return v && v->def && mtbal_node_is_named(v->def, op) ? v->def : NULL;
}

/* r * scale, from which the weights are gathered; NULL: the graph has no such weights. */
static mtbal_node *weights_product(const mtbal_context *c)
{
    const char *name =
        mtbal_arena_printf(c->model->arena, "mtbal/weight/%s", c->tasks ? c->tasks[0].name : "");
    const mtbal_value *w = name ? mtbal_value_find(c->graph, name) : NULL;
    const mtbal_node *same = maker(w, "Identity");
    const mtbal_node *gather = maker(same ? same->in[0] : w, "Gather");
    mtbal_node *product = gather ? maker(gather->in[0], "Mul") : NULL;
    return product && maker(product->in[0], "Reciprocal") ? product : NULL;
}

static mtbal_status read_tasks(mtbal_context *c)
{
    mtbal_list names;
    MTBAL_TRY(mtbal_property_list(c->model, "mtbal.tasks", c->model->arena, &names, c->diag));
    if (names.count == 0)
        return MTBAL_OK;
    c->tasks = mtbal_arena_array(c->model->arena, (size_t)names.count, sizeof *c->tasks);
    if (!c->tasks)
        return mtbal_no_memory(c->diag);
    c->ntasks = names.count;
    for (int i = 0; i < names.count; i++)
        c->tasks[i].name = names.names[i];
    return MTBAL_OK;
}

mtbal_status mtbal_rescale(mtbal_model *model, const char *scale, mtbal_diag *diag)
{
    mtbal_options options = {.scale = scale};
    mtbal_context c = {.model = model, .graph = model->graph, .options = &options, .diag = diag};
    mtbal_builder b;
    MTBAL_TRY(read_tasks(&c));
    mtbal_node *product = weights_product(&c);
    if (!product)
        return mtbal_fail(diag, MTBAL_INVALID, model->path,
                          "rewrite the model with --balance calibrated",
                          "there are no calibrated weights to scale");
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag));
    mtbal_builder_init(&b, c.graph, product, diag);
    b.role = "weight";
    b.prefix = "mtbal/balance/";
    mtbal_value *r = product->in[0];
    rates s = {.c = &c, .b = &b, .dtype = r->type.dtype, .r = r};
    s.zero = mtbal_const_scalar(&b, s.dtype, 0);
    s.one = mtbal_const_scalar(&b, s.dtype, 1);
    s.on = mtbal_emit(&b, "Greater", r, s.zero);
    mtbal_value *in[2] = {r, emit_scale(&s)};
    MTBAL_TRY(b.status);
    if (mtbal_node_set_inputs(product, 2, in) != MTBAL_OK ||
        mtbal_property_set(model, "mtbal.scale", scale) != MTBAL_OK)
        return mtbal_no_memory(diag);
    return mtbal_remove_dead(model, diag);
}
