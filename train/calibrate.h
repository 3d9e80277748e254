/* train/calibrate.h: measuring the G_i. Each task is trained alone to convergence with the same
 * step graph, and the size of its mini-batch gradient there is noted. */
#ifndef MTBAL_CALIBRATE_H
#define MTBAL_CALIBRATE_H

#include "train/snapshot.h"

#include <stdatomic.h>

/* ------------------------------------------------------------------ calibrate.c */

enum { MTBAL_MORE = 8 };
typedef struct mtbal_calibrate_options {
    const char *model, *data, *valid; /* valid may be NULL */
    int64_t batch, max_epochs, patience, window;
    uint64_t seed;
    int threads;
    int nset;
    const mtbal_setting *set;
    const char *measure; /* a row of mtbal_measure_table; floor is the default */
    double kappa;        /* of floor: 0.3 */
    const char *scale;   /* of the weights c/G: another than the step graph has; NULL: that */
    double min_delta;    /* relative improvement that counts as one: 1e-3 */
    bool cosine;         /* the learning rate falls to 0 over max_epochs, which are all trained */
    int64_t warmup;      /* steps over which the learning rate rises */
    /* Told of each training at its end, while it holds its states: task 0.., or -1 for one of all
     * tasks together. May be NULL. */
    mtbal_status (*on_trained)(void *context, mtbal_session *session, int task, mtbal_diag *diag);
    /* Told of each step; step and epoch count through the training. May be NULL. With it a joint
     * training measures norms and cosines too. */
    mtbal_status (*on_step)(void *context, int task, const mtbal_record *record, mtbal_diag *diag);
    /* What else a checkpoint holds of a training: gives at most MTBAL_MORE pieces, to be saved, or
     * filled when the training goes on. May be NULL. */
    mtbal_status (*more)(void *context, int task, mtbal_piece *pieces, int *count,
                         mtbal_diag *diag);
    void *context; /* of on_trained, on_step and more */
    int nmetrics;
    const struct mtbal_metric *metrics; /* trace.h: what `score` is, of the tasks that have one */
    int jobs;                 /* tasks that are trained at a time; 0: 1. Does not change results */
    const atomic_int *failed; /* of jobs.c: the first task that failed so far, NULL: none can; the
                               * training of a later one ends with MTBAL_INTERRUPTED */
    mtbal_snapshot *snapshot; /* checkpoints: borrowed; NULL: none */
} mtbal_calibrate_options;
void mtbal_calibrate_default(mtbal_calibrate_options *options);

/* What one task's training showed. RMS: root mean square over mini-batches of the norm of the
 * task's unweighted gradient. NAN: not measured. */
typedef struct mtbal_calibration {
    const char *task;
    double g;           /* what is stored: see `measure` */
    double rms_start;   /* RMS at the starting states */
    double rms_run;     /* RMS over the whole training */
    double rms_end;     /* RMS over its last `window` steps */
    double rms_heldout; /* RMS on validation data at the best validation loss */
    double rel;         /* at the end: sqrt of the mean over batches of sum_P |P|^2 |g_P|^2 */
    double rms_heads;   /* at the starting trunk, with heads trained on it */
    double rms_joint;   /* where the joint training with 1/G ended */
    double snr;         /* |mean gradient|^2 / mean |mini-batch gradient|^2: mtbal_probe_snr */
    double start_loss, first_loss, loss; /* of the first step; means of the first, last epoch */
    double best_valid;                   /* NAN without validation data */
    double score, joint_score; /* metric, or loss, where this training and the joint one ended: on
                                  validation data, else on the training data */
    int64_t epochs, steps, batches; /* batches: in an epoch */
    bool converged;
    bool floored; /* rms_end lies below the floor: the task interpolates its data */
} mtbal_calibration;

/* What is going on, for a progress line. task -1: all tasks together. */
typedef struct mtbal_calibrate_progress {
    int task, ntasks;
    const char *name;
    int64_t epoch, max_epochs;
    double loss, grad_norm, best;
    int64_t stale; /* epochs since the last improvement */
    int64_t step;
    bool converged;
} mtbal_calibrate_progress;
typedef void mtbal_on_epoch(void *context, const mtbal_calibrate_progress *progress);

/* Calibrates all tasks; results [session ntasks] in `arena`. MTBAL_CHECK when a task diverges, has
 * a zero gradient or one that is not finite: nothing can be stored then. With a snapshot that was
 * read it goes on from there, and on_trained is not told of trainings that were complete. */
mtbal_status mtbal_calibrate(const mtbal_calibrate_options *options, mtbal_arena *arena,
                             mtbal_calibration **results, int *count, mtbal_on_epoch *on_epoch,
                             void *context, mtbal_diag *diag);
/* One task, trained alone from the model's stored states. Fills all of `result` but g, rms_heads
 * and rms_joint. `tasks` [ntasks]: all names. */
mtbal_status mtbal_calibrate_task(const mtbal_calibrate_options *options, int ntasks,
                                  const char *const *tasks, int task, mtbal_calibration *result,
                                  mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag);
/* One training of all heads on the starting trunk: fills rms_heads of all results. */
mtbal_status mtbal_calibrate_heads(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag);
/* One joint training with weights from the results' g: fills rms_joint and joint_score. */
mtbal_status mtbal_calibrate_joint(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag);

/* ------------------------------------------------------------------ jobs.c */

/* mtbal_calibrate_task for every task, into results [ntasks], options->jobs at a time. on_epoch and
 * on_trained are called from one thread at a time. The error is that of the first task that failed,
 * as if they had been trained one after another. */
mtbal_status mtbal_calibrate_tasks(const mtbal_calibrate_options *options, int ntasks,
                                   const char *const *tasks, mtbal_calibration *results,
                                   mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag);

/* ------------------------------------------------------------------ store.c */

/* Writes the model at `from`, with the results as its calibration states and with options->scale,
 * to `to` (which may be the same file). */
mtbal_status mtbal_calibration_store(const char *from, const char *to,
                                     const mtbal_calibrate_options *options, int count,
                                     const mtbal_calibration *results, mtbal_diag *diag);
/* Calibrates a step graph that lies in memory (options->model is not looked at) and writes it to
 * `to`, or nothing at all. */
mtbal_status mtbal_calibrate_model(mtbal_model *model, const char *to,
                                   const mtbal_calibrate_options *options, mtbal_arena *arena,
                                   mtbal_calibration **results, int *count,
                                   mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag);

/* ------------------------------------------------------------------ measure.c */

/* What G can be: rows in the order of the help text, the last has name NULL. */
typedef struct mtbal_measure {
    const char *name, *what;
    double (*of)(const mtbal_calibration *result, double kappa);
    bool needs_valid, needs_tensors, needs_shared; /* validation data; task-grads; mtbal.shared */
} mtbal_measure;
extern const mtbal_measure mtbal_measure_table[];
const mtbal_measure *mtbal_measure_find(const char *name); /* NULL: there is none */
/* Sets g of a result. MTBAL_CHECK when it is zero or not finite. */
mtbal_status mtbal_measure_apply(const mtbal_measure *measure, double kappa,
                                 mtbal_calibration *result, mtbal_diag *diag);

/* Probing: gradients at the session's present states, which stay as they are. Batches are drawn
 * with replacement and depend on `seed` only. */
typedef struct mtbal_probe {
    mtbal_session *session;
    const mtbal_data *data;
    int64_t batch; /* samples */
    int64_t count; /* batches */
    uint64_t seed;
} mtbal_probe;
/* RMS of the gradient norm of every task whose norm the session measures, into rms [ntasks]; NAN
 * for others. */
mtbal_status mtbal_probe_rms(const mtbal_probe *probe, double *rms, mtbal_diag *diag);
/* Signal to noise of the session's only task (its options): |E g|^2 / E|g_b|^2, both without bias.
 * The mean gradient comes from unions of k <= 20 batches: over the batches of a union,
 *   |E g|^2 = |g_u|^2 - (mean|g_b|^2 - |g_u|^2) / (k - 1),
 * where g_u, the gradient on the union, is the mean of the k gradients g_b. So the value may be a
 * little below 0 when there is no signal. NAN when the model fixes the batch, or its loss is
 * neither a mean nor a sum over samples. */
mtbal_status mtbal_probe_snr(const mtbal_probe *probe, int task, double *snr, mtbal_diag *diag);
/* The measure `rel` of the session's only task; NAN when the graph gives no task gradients. */
mtbal_status mtbal_probe_rel(const mtbal_probe *probe, double *rel, mtbal_diag *diag);

#endif
