/* train/fit.h: one training from the stored states until it has converged. Private to train/. */
#ifndef MTBAL_FIT_H
#define MTBAL_FIT_H

#include "train/calibrate.h"

/* Whether a loss goes down still: its smoothed value against the best so far. */
typedef struct mtbal_plateau {
    double smooth, best;
    int64_t stale; /* epochs since the last improvement */
} mtbal_plateau;

/* A training of one task (task >= 0; the gradient is measured at every step) or of all together
 * (task -1; only losses are looked at). */
typedef struct mtbal_fit {
    const mtbal_calibrate_options *options;
    int task, ntasks;
    int part;              /* of a checkpoint */
    const char *name;      /* of the task, or of what is trained: for messages */
    const double *weights; /* [ntasks] of the losses in the total that is watched */
    mtbal_session *session;
    mtbal_data *data, *valid;  /* valid: NULL without validation data */
    mtbal_calibration *result; /* of the training; its numbers of gradients when task >= 0 */
    void *best_states;         /* where the validation loss was lowest; NULL: never */
    mtbal_on_epoch *on_epoch;
    void *context;
    /* for losses on other data: [ntasks], [batch], [session->nfeeds] */
    double *losses;
    int64_t *order;
    mtbal_bind *binds;
    /* of the run: this, the result, the states and the best ones are what a checkpoint holds */
    double *window; /* [options->window] squared norms, a ring */
    double sum;     /* of the squared norms */
    double norm;    /* the last one */
    double epoch_loss;
    int64_t steps, epoch, epoch_steps;
    mtbal_plateau plateau;
    double saved; /* when: mtbal_snapshot_due */
} mtbal_fit;

/* Opens the session (with these options) and the data, and checks that they can be trained on.
 * Close it whatever the status. */
mtbal_status mtbal_fit_open(mtbal_fit *fit, const mtbal_session_options *options, mtbal_diag *diag);
void mtbal_fit_close(mtbal_fit *fit);
/* Trains, or goes on where the checkpoint of an interrupted training ended. Fills rms_run, rms_end,
 * the losses, epochs, steps, converged of the result. MTBAL_CHECK when it diverges. */
mtbal_status mtbal_fit_run(mtbal_fit *fit, mtbal_diag *diag);
/* Whether a checkpoint holds a part of this training. */
bool mtbal_fit_has_begun(const mtbal_fit *fit);
/* Each task's metric, or mean loss where it has none, at the present states, into scores [ntasks]:
 * on the validation data, else on the training data. */
mtbal_status mtbal_fit_judge(mtbal_fit *fit, double *scores, mtbal_diag *diag);
/* A probe of the fit's session: `window` batches of the training data. */
mtbal_probe mtbal_fit_probe(const mtbal_fit *fit);

#endif
