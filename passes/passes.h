/* passes/passes.h: the face of passes/: graph -> graph. Stands on graph. */
#ifndef MTBAL_PASSES_H
#define MTBAL_PASSES_H

#include "graph/graph.h"

/* ------------------------------------------------------------------ what a rewrite is asked for */

typedef struct mtbal_pair {
    const char *name, *value; /* --task NAME=OUTPUT, --weights T=w, --loss NAME=KIND:PRED,LABEL,
                                 --set NAME=VALUE */
} mtbal_pair;

typedef enum mtbal_measures { /* --outputs */
                              MTBAL_OUT_NONE = 0,
                              MTBAL_OUT_NORMS = 1, /* mtbal/grad_norm/T and mtbal/cosine */
                              MTBAL_OUT_GRAM = 2,
                              MTBAL_OUT_GRADS = 4,
                              MTBAL_OUT_TASK_GRADS = 8
} mtbal_measures;

typedef struct mtbal_options {
    int ntasks, nlosses, nweights, ntrain, nfreeze, nset;
    const mtbal_pair *tasks, *losses, *weights,
        *set;                                 /* set: hyper-parameters lr, momentum, beta1, ... */
    const char *const *train, *const *freeze; /* globs */
    const char *balance;   /* "calibrated" (default), or another name of mtbal_methods */
    const char *scale;     /* "mean" (default; c = 1), "sum", "unit", "geo", "ref:T" */
    const char *apply;     /* "loss" (default), "shared" */
    const char *norm_over; /* "shared" (default), "last-shared", "features", "all", a glob */
    const char *optimizer; /* "sgd" (default), "momentum", "adam", "adamw", "none" */
    double clip;           /* global norm; 0: none */
    double clip_task;      /* norm of each task's gradient before it is weighted; 0: none */
    unsigned outputs;      /* mtbal_measures */
    const char *target;    /* NULL: a step graph; see mtbal_is_ort_target */
    bool inline_functions, untie;
    const char *keep_outputs; /* of mtbal_inference: comma list; NULL: the network's own */
    const char *dump_after;   /* pass name: prints the graph to `dump_to` after it */
    FILE *dump_to;
    FILE *time_to; /* --time-passes: a line per pass */
    bool verify_between;
} mtbal_options;
void mtbal_options_default(mtbal_options *options);

/* ------------------------------------------------------------------ what a rewrite finds and makes
 */

typedef struct mtbal_task {
    const char *name;
    mtbal_value *loss;
    int nparams; /* that it reaches */
} mtbal_task;

/* Sets of tasks (sets.c), each known by a number: equal sets have equal numbers. 0 is the empty
 * one, 1 + t that of task t alone, larger numbers are sets of two tasks or more. */
typedef int mtbal_set;
typedef struct mtbal_sets mtbal_sets;
enum { MTBAL_NO_TASK = 0, MTBAL_MOST_TASKS = 16384 };
bool mtbal_set_has(const mtbal_sets *sets, mtbal_set set, int task);
int mtbal_set_size(const mtbal_sets *sets, mtbal_set set); /* number of its tasks */

typedef struct mtbal_param {
    mtbal_value *value;
    mtbal_set reach; /* tasks whose loss depends on it */
    bool in_scope;   /* of the norm */
} mtbal_param;

/* A state: an initializer that is also an input; the value that replaces it after a step; the graph
 * output mtbal/next/... that gives it. */
typedef struct mtbal_state {
    mtbal_value *value, *next, *output;
} mtbal_state;

typedef enum mtbal_level { MTBAL_NOTE, MTBAL_WARNING } mtbal_level;
typedef struct mtbal_notice {
    mtbal_level level;
    const char *text;
} mtbal_notice;

/* Everything that passes share during one rewrite. Lists live in the model's arena. */
typedef struct mtbal_context {
    mtbal_model *model;
    mtbal_graph *graph;
    const mtbal_options *options;
    mtbal_diag *diag;
    int ntasks, nparams, nstates, nnotices;
    mtbal_task *tasks;
    mtbal_param *params;
    mtbal_state *states;
    mtbal_notice *notices;
    int ninputs, noutputs; /* names of the graph's inputs and outputs before the rewrite */
    const char **inputs, **outputs;
    /* by value id (sized nreach): tasks that a value reaches / whether it depends on a parameter */
    int nreach;
    mtbal_sets *sets;
    mtbal_set *reach;
    bool *depends;
    const struct mtbal_method *method; /* --balance */
    /* What the stages of a step hand on; see internal.h. */
    struct mtbal_swept *swept;       /* sweep -> measure, combine */
    struct mtbal_measured *measured; /* measure -> weigh, combine */
    mtbal_value **weights;           /* weigh: [ntasks] scalar weight of each task */
    mtbal_value **factors;           /* weigh -> combine: [ntasks] what multiplies its gradient */
    mtbal_value *total;              /* the balanced total: sum of weight x loss */
    mtbal_value **gradients;         /* combine -> update: [nparams] of the balanced total */
    void *zeros;                     /* [nzeros] bytes that new states share */
    size_t nzeros;
} mtbal_context;

mtbal_status mtbal_notice_add(mtbal_context *context, mtbal_level level, const char *format, ...)
    MTBAL_PRINTF(3, 4);

/* ------------------------------------------------------------------ balance/: the methods */

/* What a method reads of a step. */
enum {
    MTBAL_READS_LOSSES = 1, /* [K] */
    MTBAL_READS_NORMS = 2,  /* [K] of the task gradients, over --norm-over */
    MTBAL_READS_COSINES = 4 /* [K,K] between them; 0 where a gradient is 0 */
};

typedef enum mtbal_state_shape {
    MTBAL_EACH_TASK, /* a scalar for each task, PREFIX TASK: [K] in the function */
    MTBAL_ONE,       /* [] */
    MTBAL_BY_TASK,   /* [K] */
    MTBAL_BY_PAIR    /* [K,K] */
} mtbal_state_shape;

/* A state of a method: named mtbal/balance/..., and by `operand` in the function's text. */
typedef struct mtbal_method_state {
    const char *name, *operand; /* name NULL: the list's end */
    mtbal_state_shape shape;
    double initial;
    bool stays; /* a step leaves it as it is: the function gives no next_OPERAND */
} mtbal_method_state;

/* A scalar input mtbal/NAME, an operand of the same name, with a default. */
typedef struct mtbal_method_setting {
    const char *name; /* NULL: the list's end */
    double value;
} mtbal_method_setting;

/* A balancing method: (losses, norms, cosines, states, settings) -> (weights [K], next states) of
 * those that it names, in this order. Either `fixed` fills in weights [ntasks] that are known when
 * rewriting, or `body` writes the nodes of an ONNX function, for a number of tasks, from operands
 * `losses`, `norms`, `cosines`, those of the states and settings, to `weights` and the
 * `next_OPERAND`s. All of these have one type, float or double: a constant needs a CastLike.
 * `scaled`: --scale chooses the factor of the weights. */
struct mtbal_text;
typedef struct mtbal_method {
    const char *name, *what, *source; /* name NULL: the table's end */
    unsigned reads;
    bool scaled;
    mtbal_status (*fixed)(const mtbal_context *context, double *weights);
    const char *function;
    void (*body)(struct mtbal_text *text, int ntasks);
    mtbal_method_state states[4];
    mtbal_method_setting settings[4];
} mtbal_method;
extern const mtbal_method mtbal_methods[]; /* balance/table.c */

/* ------------------------------------------------------------------ pipeline.c: the pass table */

typedef mtbal_status mtbal_pass_fn(mtbal_context *context);
typedef struct mtbal_pass {
    const char *name;
    const char *needs,
        *breaks; /* names of properties ("types", "tasks", "sorted" ...), space-separated */
    const char *what;
    mtbal_pass_fn *run;
} mtbal_pass;
extern const mtbal_pass mtbal_passes[]; /* ends with name NULL; in pipeline order */

/* Rewrites model in place into a step graph. The context (in the model's arena) tells what was
 * found. On MTBAL_UNSUPPORTED the diagnostic lists all nodes that block, with the tasks that they
 * block. */
mtbal_status mtbal_rewrite(mtbal_model *model, const mtbal_options *options,
                           mtbal_context **context, mtbal_diag *diag);
/* Gives the calibrated weights of a step graph another scalar (mean, sum, unit, geo, ref:TASK).
 * MTBAL_USAGE: there is none of that name; MTBAL_INVALID: the graph has no calibrated weights. */
mtbal_status mtbal_rescale(mtbal_model *model, const char *scale, mtbal_diag *diag);
/* The calibrated weight that a step graph computes of g [count] (+inf: switched off): c/G_task.
 * NAN: no such scale. */
double mtbal_calibrated_weight(const char *scale, int count, const char *const *tasks,
                               const double *g, int task);
/* A step graph (or any model) back into an inference model: mtbal's nodes, inputs and outputs
 * removed, states plain initializers again, BatchNormalization and Dropout in inference mode. */
mtbal_status mtbal_inference(mtbal_model *model, const mtbal_options *options, mtbal_diag *diag);
/* A step graph back into the network that it was made from, in training mode still. Losses that
 * --loss added are gone. */
mtbal_status mtbal_original(mtbal_model *model, mtbal_diag *diag);
/* BatchNormalization normalises by its running statistics, Dropout passes on. */
mtbal_status mtbal_inference_mode(mtbal_model *model, mtbal_diag *diag);

/* ------------------------------------------------------------------ ort/: the step graph in the
 * form of ONNX Runtime's training sessions */

/* A parameter or another state, as the checkpoint holds it. */
typedef struct mtbal_ort_state {
    const char *name;
    mtbal_tensor *tensor;
} mtbal_ort_state;

typedef struct mtbal_ort {
    const mtbal_options *given; /* the user's */
    mtbal_options rewrite;      /* mtbal_rewrite's: the optimizer is a model of its own */
    int ntrainable, nfrozen, nfed;
    mtbal_ort_state *trainable, *frozen;
    const char **fed; /* --set NAME=input: scalars mtbal/NAME that are fed */
    double lr, beta1, beta2, epsilon, weight_decay; /* lr below 0: the session's */
    bool lr_is_input;
    int fed_lr_rank; /* of the parameter that carries it */
    int checkpoint_version;
    struct ort_step *step; /* what a step graph brought along, or NULL */
} mtbal_ort;

/* Before mtbal_rewrite: refuses what these sessions cannot load, splits the options. The model may
 * be a step graph: it becomes its network again; calibration and all other balancing state return
 * in mtbal_ort_training. */
mtbal_status mtbal_ort_begin(mtbal_model *model, const mtbal_options *given, mtbal_ort *ort,
                             mtbal_diag *diag);
/* After it: the step graph becomes the training model. Its parameters and states are inputs now;
 * ort has their values. */
mtbal_status mtbal_ort_training(mtbal_context *context, mtbal_ort *ort);
/* A copy of the training model becomes the evaluation model. */
mtbal_status mtbal_ort_eval(mtbal_model *model, mtbal_diag *diag);
/* The optimizer model; NULL without an error for --optimizer none. */
mtbal_status mtbal_ort_optimizer(const mtbal_ort *ort, mtbal_model **model, mtbal_diag *diag);
bool mtbal_is_ort_target(const char *target);           /* ort-training, ort-training-1.17 */
bool mtbal_is_training_model(const mtbal_model *model); /* made by mtbal_ort_training */
/* On the way back: a parameter's value out of a checkpoint becomes an initializer again. At the end
 * of all, nothing that was trained may be missing. */
mtbal_status mtbal_ort_restore(mtbal_model *model, const char *name, mtbal_tensor *tensor,
                               mtbal_diag *diag);
mtbal_status mtbal_ort_restored(mtbal_model *model, mtbal_diag *diag);

/* ------------------------------------------------------------------ training_info.c,
 * training_ops.c: ONNX's own words for training */

/* What everything here executes: a model with training_info becomes a step graph (main graph and
 * algorithms in one, states as in the bindings); Gradient, Adam, Adagrad and Momentum of
 * ai.onnx.preview.training become standard operators, opset 17 or above. Any other model is
 * verified, and stays as it is. MTBAL_INVALID: a binding of what is not there; MTBAL_UNSUPPORTED: a
 * Gradient of what cannot be differentiated, all such nodes in the diagnostic. */
mtbal_status mtbal_standard_form(mtbal_model *model, mtbal_diag *diag);
mtbal_status mtbal_lower_training_ops(mtbal_model *model, mtbal_diag *diag); /* the latter alone */

/* ------------------------------------------------------------------ target_training_info.c */

/* After mtbal_rewrite: the network for inference becomes the main graph, the step the algorithm of
 * a TrainingInfoProto. */
mtbal_status mtbal_training_info(mtbal_context *context);

/* Single passes that others (lowering, tests) use on any graph. */
mtbal_status mtbal_upgrade(mtbal_model *model, int64_t opset, mtbal_diag *diag); /* upgrade.c */
mtbal_status mtbal_inline_functions(mtbal_model *model, bool keep_mtbal,
                                    mtbal_diag *diag);                   /* inline.c */
mtbal_status mtbal_fold_constants(mtbal_model *model, mtbal_diag *diag); /* fold.c */
mtbal_status mtbal_merge_common(mtbal_model *model, mtbal_diag *diag);   /* cse.c */
mtbal_status mtbal_remove_dead(mtbal_model *model, mtbal_diag *diag);    /* dead.c */

/* ------------------------------------------------------------------ differentiate.c */

/* Reverse mode over a range of the graph. `cotangent` is a table by value id (size ncotangent >=
 * model->nvalues at the call; values made later need no entry): on entry the seeds, on return the
 * cotangent of every value that `wanted` marks (NULL: zero). */
typedef struct mtbal_sweep {
    mtbal_graph *graph;
    mtbal_builder *b;
    int nvalues;
    mtbal_value **cotangent;
    const bool *active; /* by value id: lies between a wanted value and a seed */
    int nnodes;
    mtbal_node *const *nodes; /* [nnodes] those to cross, last first; NULL: all of the graph */
    /* Told of every node that cannot be crossed, and why (NULL: it has no rule); the sweep then
     * goes on without it and succeeds. NULL: the sweep fails, with all of them in the diagnostic.
     */
    mtbal_status (*refuse)(mtbal_node *node, const char *why, void *context);
    void *context;
    struct mtbal_tables **tables; /* a pool that others share; NULL: one of its own */
} mtbal_sweep;
mtbal_status mtbal_differentiate(mtbal_sweep *sweep);

/* losses.c: the names of --loss, with commas between. */
void mtbal_loss_kinds(char *text, size_t size);

#endif
