/* train/train.h: the face of train/: running a lowered graph over a user's data. Stands on graph,
 * onnxio and lower; cli stands on it. It knows files, batches and steps, and nothing of terminals.
 */
#ifndef MTBAL_TRAIN_H
#define MTBAL_TRAIN_H

#include "graph/graph.h"
#include "lower/lower.h"
#include "onnxio/onnxio.h"

/* ------------------------------------------------------------------ session.c */

/* A value given by name from outside: `--set NAME=VALUE`, a calibration, a restored state. Scalar:
 * fills the tensor. */
typedef struct mtbal_setting {
    const char *name;
    double value;
} mtbal_setting;

int mtbal_processors(void); /* at least 1 */

typedef struct mtbal_session_options {
    int threads; /* >= 1; 0: as many as processors */
    int nset;
    const mtbal_setting *set;
    const char *scale; /* of calibrated weights, instead of the graph's own; NULL: that */
    bool all_outputs;  /* compute every output of the graph, not only losses, weights, norms */
    int nwatched;      /* further outputs to compute while a step graph trains */
    const char *const *watched;
    bool freeze_shared; /* parameters that two or more tasks reach keep their values */
    bool initialize;    /* begin as the model's initialization says, not with stored values */
    uint64_t initialize_seed;
    const char *only_task; /* measure this task's norm only; NULL: all norms and cosines */
} mtbal_session_options;

/* What a program computes of a step graph. */
typedef enum mtbal_mode {
    MTBAL_TRAIN,        /* losses, weights; applies the states */
    MTBAL_MEASURE,      /* norms and cosines too */
    MTBAL_EVALUATE,     /* the network's own outputs only; leaves the states alone */
    MTBAL_PROBE,        /* norms too; leaves the states alone */
    MTBAL_PROBE_TENSORS /* mtbal/task_grad/... of only_task; leaves the states alone */
} mtbal_mode;

/* An input that data must fill: no default, not set. dims[0] is the batch axis if `batched`. */
typedef struct mtbal_feed {
    const char *name;
    mtbal_dtype dtype;
    int rank;
    mtbal_dim dims[RT_MAX_RANK];
} mtbal_feed;

/* One model file, lowered for as many shapes as were met, with one set of states: all programs have
 * theirs in the same memory. */
typedef struct mtbal_session {
    const char *path;
    mtbal_arena *arena;
    mtbal_session_options options;
    int ntasks, nstates, nfeeds, noutputs;
    const char **tasks;   /* names */
    const char **losses;  /* output that holds the task's loss */
    const char **norms;   /* mtbal/grad_norm/T */
    const char **weights; /* mtbal/weight/T */
    const char **states;  /* names */
    const char **nexts;   /* output that holds the state's next value */
    const char **outputs; /* all graph outputs, in order */
    mtbal_feed *feeds;
    bool is_step;       /* a step graph: has states */
    bool trains;        /* parameters are among them */
    bool is_calibrated; /* and so is mtbal/calibration/T for every task */
    bool weighs;        /* a step computes the weights of what it measures */
    int nshared;
    const char **shared; /* parameters that two or more tasks reach */
    const char *scale;   /* of calibrated weights */
    bool has_weights, has_norms, has_cosine, has_tensors;
    mtbal_map state_of, loss_of, shared_of, watched_of; /* name, interned -> place in the list */
    struct mtbal_program *programs;                     /* list, the newest first */
    struct mtbal_program *first;                        /* whose memory holds the states */
} mtbal_session;

/* A session lowered for one set of input shapes. */
typedef struct mtbal_program {
    struct mtbal_program *next;
    mtbal_mode mode;
    int nbinds;
    mtbal_bind *binds;
    mtbal_model *model;
    mtbal_plan *plan;
    mtbal_instance *instance;
    double lr; /* as the model or --set gives it; NAN without */
} mtbal_program;

/* Opens a model: a step graph, or any other. Free with mtbal_session_close (NULL is fine). */
mtbal_status mtbal_session_open(const char *path, const mtbal_session_options *options,
                                mtbal_session **session, mtbal_diag *diag);
void mtbal_session_close(mtbal_session *session);
bool mtbal_session_batch_is_fixed(const mtbal_session *session); /* by some feed's first axis */
/* The program for these shapes (lowered at the first call), holding the session's states. */
mtbal_status mtbal_session_program(mtbal_session *session, int nbinds, const mtbal_bind *binds,
                                   mtbal_mode mode, mtbal_program **program, mtbal_diag *diag);
/* A state's tensor; NULL when there is none of that name, or nothing was lowered yet. */
rt_tensor *mtbal_session_state(mtbal_session *session, const char *name);
/* An output after a step of `program`, by name, as a number; NAN when it is not computed. */
double mtbal_program_scalar(const mtbal_program *program, const char *output);
/* All states, into or from a buffer of mtbal_session_state_bytes() bytes. */
size_t mtbal_session_state_bytes(const mtbal_session *session);
void mtbal_session_save_states(mtbal_session *session, void *buffer);
void mtbal_session_load_states(mtbal_session *session, const void *buffer);
/* Writes the model with the session's present states. */
mtbal_status mtbal_session_save(mtbal_session *session, const char *path, mtbal_diag *diag);

/* ------------------------------------------------------------------ data.c */

/* Arrays for a session's feeds. */
typedef struct mtbal_data {
    const char *path;
    mtbal_npz *npz;
    int64_t samples;            /* along the first axis; 1 when `whole` */
    int64_t batch;              /* samples a step */
    bool whole;                 /* the arrays are the inputs as they are: one batch */
    const mtbal_array **arrays; /* [session->nfeeds] */
} mtbal_data;

/* Reads an npz and checks it against the session: every feed there, right type, right shape, same
 * number of samples. batch 0: the model's
 * own where it is fixed, else 32 (or all samples, when there are fewer). */
mtbal_status mtbal_data_open(const mtbal_session *session, const char *path, bool whole,
                             int64_t batch, mtbal_data **data, mtbal_diag *diag);
void mtbal_data_close(mtbal_data *data);
/* The input shapes of a batch of n samples, into binds [session->nfeeds]. */
void mtbal_data_binds(const mtbal_session *session, const mtbal_data *data, int64_t n,
                      mtbal_bind *binds);
/* Copies samples order[0..n) into the program's inputs (order NULL: 0..n). */
void mtbal_data_load(const mtbal_session *session, const mtbal_data *data, const int64_t *order,
                     int64_t n, mtbal_program *program);
/* Loads samples order[0..n) and runs the program. MTBAL_INVALID when a kernel meets data that it
 * cannot work with (an index outside of its axis, a label that is no class): the message says node,
 * value, limit and sample. MTBAL_INTERRUPTED inside of the step. Either way outputs and states hold
 * anything. run.c */
mtbal_status mtbal_program_run(const mtbal_session *session, const mtbal_data *data,
                               const int64_t *order, int64_t n, uint64_t seed,
                               mtbal_program *program, mtbal_diag *diag);
/* Fills order [samples] for an epoch: a permutation that depends on seed and epoch only; the
 * identity when !shuffle. */
void mtbal_data_order(const mtbal_data *data, bool shuffle, uint64_t seed, int64_t epoch,
                      int64_t *order);

/* n samples drawn with replacement, into order [n]: they depend on seed and draw only. */
void mtbal_data_draw(const mtbal_data *data, uint64_t seed, int64_t draw, int64_t n,
                     int64_t *order);

/* ------------------------------------------------------------------ loop.c */

/* What the learning rate is multiplied by over a training: a linear rise over the first `warmup`
 * steps; half a cosine from 1 down to 0 over `total` steps (0: stays 1; MTBAL_WHOLE_RUN: the steps
 * of the call of mtbal_loop_run). */
typedef struct mtbal_schedule {
    int64_t warmup, total;
} mtbal_schedule;
#define MTBAL_WHOLE_RUN (-1)

typedef struct mtbal_loop_options {
    int64_t epochs;     /* 0: one, or as many as `limit` needs */
    int64_t limit;      /* steps; 0: none */
    int64_t norm_every; /* measure on every n-th step; 0: never */
    bool shuffle;
    uint64_t seed;
    mtbal_schedule schedule; /* zeros: the learning rate stays */
    int64_t before;          /* steps of the schedule that were taken before this call */
    int64_t first;           /* step to begin with, of a run that was interrupted */
    /* Called between a step that went well and step `next`, as the place where states may be saved.
     * May be NULL. Any status but MTBAL_OK ends the run with it. */
    mtbal_status (*between)(void *context, int64_t next, mtbal_diag *diag);
    bool saves; /* between() writes checkpoints: a long step that is interrupted is undone first */
} mtbal_loop_options;

/* What a step showed. Arrays are [session->ntasks]; NAN where not measured. */
typedef struct mtbal_record {
    int64_t step, epoch;       /* from 0 */
    int64_t steps_total;       /* of the whole run, 0 when unknown */
    double lr, total, seconds; /* seconds: of this step */
    const double *loss, *grad_norm, *weight;
    bool measured;
    const mtbal_program *program;
    int64_t samples;      /* in this batch */
    const int64_t *order; /* [samples] which of the data's */
} mtbal_record;
/* Called after each step; any status but MTBAL_OK ends the run with it. */
typedef mtbal_status mtbal_on_step(void *context, const mtbal_record *record, mtbal_diag *diag);

/* Runs the session over the data. A loss that is not finite ends a training with MTBAL_CHECK. */
mtbal_status mtbal_loop_run(mtbal_session *session, const mtbal_data *data,
                            const mtbal_loop_options *options, mtbal_on_step *on_step,
                            void *context, mtbal_diag *diag);
/* Puts states back that mtbal_session_save_states gave after a step, before any step of this
 * session. MTBAL_INVALID when there are more or less of them. */
mtbal_status mtbal_loop_restore(mtbal_session *session, const mtbal_data *data, bool measure,
                                const void *states, size_t size, mtbal_diag *diag);

/* ------------------------------------------------------------------ collect.c */

/* Gathers a run's outputs, to be written as npz. Outputs whose first axis is the batch are joined
 * along it; others are stacked along a new first axis when there is more than one step; next states
 * are kept from the last step only. */
typedef struct mtbal_collect mtbal_collect;
mtbal_collect *mtbal_collect_new(const mtbal_session *session);
void mtbal_collect_free(mtbal_collect *collect);
mtbal_status mtbal_collect_step(mtbal_collect *collect, const mtbal_record *record,
                                mtbal_diag *diag);
mtbal_status mtbal_collect_write(mtbal_collect *collect, const char *path, mtbal_diag *diag);

#endif
