/* train/trace.h: what trainings show, for people to look at: numbers over steps in bounded memory,
 * metrics on data, and the tasks together against each alone. */
#ifndef MTBAL_TRACE_H
#define MTBAL_TRACE_H

#include "train/calibrate.h"

/* ------------------------------------------------------------------ trace.c */

/* What is traced of K tasks. The pull of a task is w_i |g_i|, its weight times its gradient norm.
 */
typedef enum mtbal_channel {
    MTBAL_TRACE_LOSS,    /* K of each down to the leads */
    MTBAL_TRACE_NORM,    /* |g_i| */
    MTBAL_TRACE_WEIGHT,  /* w_i */
    MTBAL_TRACE_SHARE,   /* of the pull: w_i |g_i| / sum_j w_j |g_j| */
    MTBAL_TRACE_LEADS,   /* 1 in a step where no other pulls harder, else 0 */
    MTBAL_TRACE_RATIO,   /* one: log10 of the largest pull over the smallest, of w_i > 0 */
    MTBAL_TRACE_COSINE,  /* K (K - 1) / 2, see mtbal_trace_pair */
    MTBAL_TRACE_NEGATIVE /* as many: 1 in a step with a negative cosine, else 0 */
} mtbal_channel;

/* The values of a channel in a span of steps; count 0: none was measured there. */
typedef struct mtbal_point {
    double sum, low, high;
    int64_t count;
} mtbal_point;

/* Point p stands for the steps p * stride .. (p + 1) * stride - 1. When the points are full, two
 * become one and the stride doubles: sums stay exact however long the run. */
typedef struct mtbal_trace {
    int ntasks, nchannels, npoints;
    int64_t steps, stride;
    mtbal_point *points; /* [npoints][nchannels] */
} mtbal_trace;

mtbal_trace *mtbal_trace_new(int ntasks); /* NULL: no memory */
void mtbal_trace_free(mtbal_trace *trace);
/* The tasks first .. first + ntasks - 1 of a step. */
void mtbal_trace_step(mtbal_trace *trace, int first, const mtbal_record *record);
/* Cosine of the gradients of tasks i and j in a step; NAN when it was not measured. */
double mtbal_record_cosine(const mtbal_record *record, int i, int j);
/* A trace as pieces of a checkpoint. */
enum { MTBAL_TRACE_PIECES = 4 };
void mtbal_trace_pieces(mtbal_trace *trace, mtbal_piece pieces[MTBAL_TRACE_PIECES]);
/* Where channel i of its kind lies in a row of points. */
int mtbal_trace_at(const mtbal_trace *trace, mtbal_channel channel, int i);
int mtbal_trace_pair(const mtbal_trace *trace, int i, int j); /* i of a pair of tasks, i != j */
/* Mean over the steps between two fractions of the run, as exactly as the points are; at least over
 * one point. NAN when nothing was measured there. */
double mtbal_trace_mean(const mtbal_trace *trace, int at, double from, double to);
#define MTBAL_TRACE_START 0.0, 0.1 /* the first tenth */
#define MTBAL_TRACE_END   0.9, 1.0
#define MTBAL_TRACE_RUN   0.0, 1.0

/* What the cosines of two tasks say. */
typedef enum mtbal_relation {
    MTBAL_NEUTRAL,
    MTBAL_SHARE, /* mean cosine >= 0.02, negative in at most 2 of 5 steps */
    MTBAL_FIGHT  /* mean cosine <= -0.02, negative in at least 3 of 5 steps */
} mtbal_relation;
mtbal_relation mtbal_trace_relation(const mtbal_trace *trace, int i, int j);

/* ------------------------------------------------------------------ metric.c */

/* A number that people understand, from an output of the graph and an array of the data.
 *   accuracy  %; scores [N,C] against classes [N], the largest counts; or as many logits as
 *             targets, where a logit above 0 stands for a target above 0.5
 *   rmse      root mean squared error
 *   nrmse     the same over the target's standard deviation
 *   mae       mean absolute error */
typedef struct mtbal_metric_kind {
    const char *name, *unit;
    bool higher; /* is better */
} mtbal_metric_kind;
typedef struct mtbal_metric {
    const char *task; /* whose it is; NULL: no task's */
    const mtbal_metric_kind *kind;
    const char *prediction, *target;
} mtbal_metric;
/* Sums over batches; start from zeros. */
typedef struct mtbal_metric_sum {
    double right, squares, absolute, target, target_squares, count;
} mtbal_metric_sum;

/* From KIND:PREDICTION,TARGET; strings in `arena`. MTBAL_USAGE when it is none. */
mtbal_status mtbal_metric_parse(const char *text, mtbal_arena *arena, mtbal_metric *metric,
                                mtbal_diag *diag);
/* Adds a batch: samples order[0..n) of the data, which the program has just run on. */
mtbal_status mtbal_metric_add(const mtbal_metric *metric, const mtbal_program *program,
                              const mtbal_data *data, const int64_t *order, int64_t n,
                              mtbal_metric_sum *sum, mtbal_diag *diag);
double mtbal_metric_value(const mtbal_metric *metric, const mtbal_metric_sum *sum);
/* The metric of a task; NULL: it has none, its loss counts. */
const mtbal_metric *mtbal_metric_of(const mtbal_calibrate_options *options, const char *task);
/* All tasks together against each alone: change of each score in percent, positive is worse, into
 * changes [count]; returns their mean,
 *   delta_m = 100/K sum_k (-1)^[higher is better] (together_k - alone_k) / |alone_k|
 * (Vandenhende et al. 2021 with the sign turned: lower is better). */
double mtbal_delta_m(const mtbal_calibrate_options *options, int count,
                     const mtbal_calibration *results, double *changes);

#endif
