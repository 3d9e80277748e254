/* train/metric.c: numbers that people understand, from predictions and targets. */
#include "train/trace.h"

#include <math.h>
#include <string.h>

enum { ACCURACY, RMSE, NRMSE, MAE };

static const mtbal_metric_kind kinds[] = {
    [ACCURACY] = {"accuracy", "%", true},
    [RMSE] = {"rmse", "", false},
    [NRMSE] = {"nrmse", "", false},
    [MAE] = {"mae", "", false},
};
enum { NKINDS = sizeof kinds / sizeof *kinds };

static const char *word(mtbal_arena *arena, const char *text, size_t length)
{
    return mtbal_arena_printf(arena, "%.*s", (int)length, text);
}

mtbal_status mtbal_metric_parse(const char *text, mtbal_arena *arena, mtbal_metric *metric,
                                mtbal_diag *diag)
{
    const char *colon = strchr(text, ':'), *comma = colon ? strchr(colon, ',') : NULL;
    int kind = 0;
    while (colon && kind < NKINDS &&
           (strlen(kinds[kind].name) != (size_t)(colon - text) ||
            strncmp(kinds[kind].name, text, (size_t)(colon - text))))
        kind++;
    if (!comma || kind == NKINDS || comma == colon + 1 || !comma[1])
        return mtbal_fail(diag, MTBAL_USAGE, "--metric",
                          "write KIND:PREDICTION,TARGET; kinds are accuracy, rmse, nrmse, mae",
                          "'%s' is no metric", text);
    *metric = (mtbal_metric){.kind = &kinds[kind],
                             .prediction = word(arena, colon + 1, (size_t)(comma - colon - 1)),
                             .target = word(arena, comma + 1, strlen(comma + 1))};
    return metric->prediction && metric->target ? MTBAL_OK : mtbal_no_memory(diag);
}

/* A batch: predictions [rows, width] beside rows of targets [rows, columns]. */
typedef struct batch {
    mtbal_tensor prediction, target;
    int64_t rows, width, columns;
    const int64_t *order; /* rows of the target; NULL: 0, 1, .. */
} batch;

static double target_at(const batch *b, int64_t row, int64_t column)
{
    int64_t at = b->order ? b->order[row] : row;
    return mtbal_tensor_f64(&b->target, at * b->columns + column);
}

static bool is_right(const batch *b, int64_t row)
{
    int64_t best = 0;
    for (int64_t k = 1; k < b->width; k++)
        if (mtbal_tensor_f64(&b->prediction, row * b->width + k) >
            mtbal_tensor_f64(&b->prediction, row * b->width + best))
            best = k;
    return (double)best == target_at(b, row, 0);
}

static void add_classes(const batch *b, mtbal_metric_sum *sum)
{
    for (int64_t i = 0; i < b->rows; i++)
        sum->right += is_right(b, i);
    sum->count += (double)b->rows;
}

static void add_numbers(const batch *b, mtbal_metric_sum *sum)
{
    for (int64_t i = 0; i < b->rows; i++)
        for (int64_t k = 0; k < b->columns; k++) {
            double x = mtbal_tensor_f64(&b->prediction, i * b->width + k), y = target_at(b, i, k);
            sum->right += (x > 0) == (y > 0.5);
            sum->squares += (x - y) * (x - y);
            sum->absolute += fabs(x - y);
            sum->target += y;
            sum->target_squares += y * y;
            sum->count++;
        }
}

mtbal_status mtbal_metric_add(const mtbal_metric *metric, const mtbal_program *program,
                              const mtbal_data *data, const int64_t *order, int64_t n,
                              mtbal_metric_sum *sum, mtbal_diag *diag)
{
    const rt_tensor *p = mtbal_instance_output(program->instance, metric->prediction);
    const mtbal_array *y = data->npz ? mtbal_npz_find(data->npz, metric->target) : NULL;
    if (!p || !p->data)
        return mtbal_fail(diag, MTBAL_USAGE, "--metric", "name an output of the graph",
                          "the graph has no output '%s'", metric->prediction);
    if (!y || !y->data)
        return mtbal_fail(diag, MTBAL_USAGE, data->path, "name an array of the data",
                          "--metric: there is no array '%s' in it", metric->target);
    int64_t samples = y->rank ? y->dims[0] : 1, count = rt_count(p);
    batch b = {.prediction = {.dtype = (mtbal_dtype)p->dtype, .data = p->data},
               .target = {.dtype = y->dtype, .data = y->data},
               .rows = data->whole ? samples : n,
               .order = data->whole ? NULL : order};
    bool fits = samples > 0 && b.rows > 0 && count % b.rows == 0 && y->count % samples == 0 &&
                (data->whole || samples == data->samples);
    b.width = fits ? count / b.rows : 0;
    b.columns = fits ? y->count / samples : 0;
    bool numbers = fits && b.width == b.columns;
    bool classes = fits && metric->kind == &kinds[ACCURACY] && b.columns == 1 && b.width > 1;
    if (!numbers && !classes)
        return mtbal_fail(diag, MTBAL_INVALID, data->path, "do they belong together?",
                          "--metric: output %s has %lld elements where array %s has %lld",
                          metric->prediction, (long long)count, metric->target,
                          (long long)(samples ? y->count / samples * b.rows : 0));
    (classes ? add_classes : add_numbers)(&b, sum);
    return MTBAL_OK;
}

double mtbal_metric_value(const mtbal_metric *metric, const mtbal_metric_sum *s)
{
    double n = s->count, mean = s->target / n;
    double values[NKINDS] = {[ACCURACY] = 100 * s->right / n,
                             [RMSE] = sqrt(s->squares / n),
                             [NRMSE] = sqrt(s->squares / (s->target_squares - n * mean * mean)),
                             [MAE] = s->absolute / n};
    return values[metric->kind - kinds];
}

const mtbal_metric *mtbal_metric_of(const mtbal_calibrate_options *options, const char *task)
{
    for (int m = options->nmetrics - 1; m >= 0; m--)
        if (!strcmp(options->metrics[m].task, task))
            return &options->metrics[m];
    return NULL;
}

double mtbal_delta_m(const mtbal_calibrate_options *options, int count,
                     const mtbal_calibration *results, double *changes)
{
    double sum = 0;
    for (int i = 0; i < count; i++) {
        const mtbal_calibration *r = &results[i];
        const mtbal_metric *m = mtbal_metric_of(options, r->task);
        double change = 100 * (r->joint_score - r->score) / fabs(r->score);
        changes[i] = m && m->kind->higher ? -change : change;
        sum += changes[i] / count;
    }
    return sum;
}
