/* train/calibrate.h: measuring the G_i. Each task is trained alone to convergence with the same
 * step graph, and the size of its mini-batch gradient there is noted. */
#ifndef MTBAL_CALIBRATE_H
#define MTBAL_CALIBRATE_H

#include "train/train.h"

typedef struct mtbal_calibrate_options {
    const char *model, *data, *valid; /* valid may be NULL */
    int64_t batch, max_epochs, patience, window;
    uint64_t seed;
    int threads;
    int nset;
    const mtbal_setting *set;
    const char *measure; /* floor (default), rms, heldout, traj, loss, init */
    double kappa;        /* of floor: 0.3 */
    double min_delta;    /* relative improvement that counts as one: 1e-3 */
} mtbal_calibrate_options;
void mtbal_calibrate_default(mtbal_calibrate_options *options);

typedef struct mtbal_calibration {
    const char *task;
    double g; /* what is stored */
    double
        rms_end; /* root mean square of the mini-batch gradient norm over the last `window` steps */
    double rms_run;   /* ... over the whole run */
    double rms_start; /* ... over the first `window` steps at the starting point: the norm at
                         initialisation */
    double snr; /* |mean gradient|^2 / mean |mini-batch gradient|^2, unbiased; NAN when it cannot be
                   had */
    double first_loss, loss; /* mean over the first and the last epoch */
    double best_valid;       /* NAN without validation data */
    int64_t epochs, steps;
    bool converged;
    bool floored; /* the floor decided: the task interpolates its data */
} mtbal_calibration;

/* What is going on, for a progress line. */
typedef struct mtbal_calibrate_progress {
    int task, ntasks;
    const char *name;
    int64_t epoch, max_epochs;
    double loss, grad_norm, best;
    int64_t stale; /* epochs since the last improvement */
} mtbal_calibrate_progress;
typedef void mtbal_on_epoch(void *context, const mtbal_calibrate_progress *progress);

/* Calibrates all tasks; results [session ntasks] in `arena`. MTBAL_CHECK when a task diverges, has
 * a zero gradient or one that is not finite: nothing can be stored then. */
mtbal_status mtbal_calibrate(const mtbal_calibrate_options *options, mtbal_arena *arena,
                             mtbal_calibration **results, int *count, mtbal_on_epoch *on_epoch,
                             void *context, mtbal_diag *diag);
/* Writes the model at `from`, with the results as its calibration states, to `to` (which may be the
 * same file). */
mtbal_status mtbal_calibration_store(const char *from, const char *to, int count,
                                     const mtbal_calibration *results, mtbal_diag *diag);

#endif
