/* passes/balance/scale.c: --scale. A method gives weights up to a factor; this is the factor. */
#include "passes/internal.h"

#include <math.h>
#include <string.h>

/* Over weights r [K], of which those that are not 0 are active: as numbers. */
typedef struct sums {
    double tasks, active, r, log_r;
} sums;

static double mean_of(const sums *s)
{
    return s->active / s->r;
}

static double sum_of(const sums *s)
{
    return s->tasks / s->r;
}

static double unit_of(const sums *s)
{
    (void)s;
    return 1;
}

static double geo_of(const sums *s)
{
    return exp(-s->log_r / s->active);
}

/* The factor `c` as nodes, of a [K] = |r|, on [K]: what is active, n: how many; d: sum of a; one,
 * zero, all (K). `quotient` stands for n / d, and 0 where d is 0. */
static const struct scale {
    const char *name, *function, *body;
    double (*of)(const sums *s);
} scales[] = {
    /* weights of the active tasks average 1 */
    {"mean", "ScaleMean",
     "  none = Equal (d, zero)\n"
     "  safe = Where (none, one, d)\n"
     "  quotient = Div (n, safe)\n"
     "  c = Where (none, zero, quotient)\n",
     mean_of},
    /* they sum to the number of all tasks, active or not */
    {"sum", "ScaleSum",
     "  none = Equal (d, zero)\n"
     "  safe = Where (none, one, d)\n"
     "  quotient = Div (all, safe)\n"
     "  c = Where (none, zero, quotient)\n",
     sum_of},
    /* as the method gives them: w_i G_i = 1 of calibrated weights */
    {"unit", "ScaleUnit", "  c = Identity (one)\n", unit_of},
    /* the product of the active ones is 1 */
    {"geo", "ScaleGeo",
     "  positive = Where (on, a, one)\n"
     "  logs = Log (positive)\n"
     "  log = ReduceSum <keepdims = 0> (logs)\n"
     "  none = Equal (n, zero)\n"
     "  safe = Where (none, one, n)\n"
     "  quotient = Div (log, safe)\n"
     "  mean = Where (none, zero, quotient)\n"
     "  minus = Neg (mean)\n"
     "  c = Exp (minus)\n",
     geo_of}};
enum { NSCALES = sizeof scales / sizeof *scales };

/* 1 / a_T: w_T = 1. The mean while T is switched off. */
static const char reference_body[] = "  none = Equal (d, zero)\n"
                                     "  safe = Where (none, one, d)\n"
                                     "  quotient = Div (n, safe)\n"
                                     "  mean = Where (none, zero, quotient)\n"
                                     "  a_t = Gather (a, index)\n"
                                     "  off = Equal (a_t, zero)\n"
                                     "  safe_t = Where (off, one, a_t)\n"
                                     "  factor = Div (one, safe_t)\n"
                                     "  c = Where (off, mean, factor)\n";

static void print_scale(mtbal_text *t, const char *function, const char *body, int reference,
                        int ntasks, mtbal_dtype dtype)
{
    const char *type = mtbal_dtype_name(dtype);
    mtbal_text_add(t,
                   "%s (r) => (w) {\n"
                   "  zero = Constant <value = %s {0}> ()\n"
                   "  one = Constant <value = %s {1}> ()\n"
                   "  all = Constant <value = %s {%d}> ()\n",
                   function, type, type, type, ntasks);
    if (reference >= 0)
        mtbal_text_add(t, "  index = Constant <value = int64 {%d}> ()\n", reference);
    mtbal_text_add(t,
                   "  a = Abs (r)\n"
                   "  on = Greater (a, zero)\n"
                   "  active = Cast <to = %d> (on)\n"
                   "  n = ReduceSum <keepdims = 0> (active)\n"
                   "  d = ReduceSum <keepdims = 0> (a)\n"
                   "%s"
                   "  w = Mul (r, c)\n"
                   "}",
                   (int)dtype, body);
}

mtbal_value *mtbal_emit_scaled(const mtbal_context *c, mtbal_builder *b, mtbal_value *r)
{
    const char *how = c->options->scale, *function = NULL, *body = NULL;
    int reference = -1;
    mtbal_text t = {0};
    mtbal_value *w = NULL;
    for (int i = 0; i < NSCALES; i++)
        if (!strcmp(scales[i].name, how))
            function = scales[i].function, body = scales[i].body;
    for (int i = 0; i < c->ntasks && !strncmp(how, "ref:", 4); i++)
        if (!strcmp(c->tasks[i].name, how + 4))
            function = "ScaleReference", body = reference_body, reference = i;
    if (!function) {
        b->status =
            mtbal_fail(c->diag, MTBAL_USAGE, "--scale",
                       "choose from mean, sum, unit, geo, ref:TASK", "there is no scale '%s'", how);
        return NULL;
    }
    print_scale(&t, function, body, reference, c->ntasks, mtbal_float_type(c));
    mtbal_emit_function(b, &t, function, 1, &r, 1, &w);
    return w;
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
