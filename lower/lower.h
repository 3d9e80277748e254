/* lower/lower.h: the face of lower/: graph + concrete shapes -> program. Stands on graph and
 * runtime.
 *
 * Lowering binds all sizes, folds everything that depends on shapes only, keeps only what the
 * requested outputs and the states need, picks kernels, fuses, and plans memory once: running a
 * plan allocates nothing. */
#ifndef MTBAL_LOWER_H
#define MTBAL_LOWER_H

#include "graph/graph.h"
#include "runtime/runtime.h"

/* A graph input's shape, or a fixed value of a scalar or state that lowering may fold. */
typedef struct mtbal_bind {
    const char *name;
    int rank;
    int64_t dims[RT_MAX_RANK];
} mtbal_bind;

typedef struct mtbal_lower_options {
    int nbinds;
    const mtbal_bind *binds; /* shapes of graph inputs */
    int noutputs;            /* which graph outputs to compute; -1: all */
    const char *const *outputs;
    bool states; /* compute the next states and apply them (mtbal.state in the metadata) */
    int nfixed;  /* states that keep their values: inputs with a default */
    const char *const *fixed;
    bool all_states; /* every state of the model is a state of the plan, changed or not, so that
                        instances of plans for other outputs or shapes can share their memory */
    bool no_fuse; /* run function bodies instead of fused kernels, no elementwise fusion: for tests
                   */
    bool no_inplace; /* for tests */
} mtbal_lower_options;

/* A named tensor of a plan: an input to fill, an output to read, a state to load and save. Its
 * `tensor.data` is set by mtbal_instance_new. */
typedef struct mtbal_port {
    const char *name;
    rt_tensor tensor;
    size_t offset;   /* in its region */
    int region;      /* internal */
    bool is_default; /* input with a default value (initializer) */
} mtbal_port;

typedef struct mtbal_plan mtbal_plan;         /* compiled: shapes, calls, offsets; immutable */
typedef struct mtbal_instance mtbal_instance; /* memory of one running copy */

typedef struct mtbal_plan_info {
    size_t arena_bytes;       /* activations and temporaries */
    size_t arena_lower_bound; /* largest sum of simultaneously live values */
    size_t state_bytes, constant_bytes;
    int ncalls;
    double flops; /* of MatMul, Gemm, Conv and their gradients, multiply and add counted as 2 */
} mtbal_plan_info;

/* All nodes that cannot run are listed at once in the diagnostic (MTBAL_UNSUPPORTED). The model
 * must outlive the plan; it is changed by lowering (bound, folded): lower a fresh copy for other
 * shapes. */
mtbal_status mtbal_lower(mtbal_model *model, const mtbal_lower_options *options, mtbal_plan **plan,
                         mtbal_diag *diag);
/* Whether our runtime executes the operator of this row: "yes", "no", or of what. */
const char *mtbal_lowers(int opcode);
void mtbal_plan_free(mtbal_plan *plan);
void mtbal_plan_describe(const mtbal_plan *plan, mtbal_plan_info *info);
void mtbal_plan_print(FILE *to, const mtbal_plan *plan); /* one line a call */

/* Memory for one copy: inputs hold their defaults, states their stored values. threads >= 1. */
mtbal_status mtbal_instance_new(const mtbal_plan *plan, int threads, mtbal_instance **instance,
                                mtbal_diag *diag);
/* The same with the memory of the states of `owner`, which outlives it: both plans were lowered
 * with `all_states`. */
mtbal_status mtbal_instance_beside(mtbal_instance *owner, const mtbal_plan *plan, int threads,
                                   mtbal_instance **instance, mtbal_diag *diag);
void mtbal_instance_free(mtbal_instance *instance);
/* Ports; NULL when there is none of that name. */
rt_tensor *mtbal_instance_input(mtbal_instance *instance, const char *name);
rt_tensor *mtbal_instance_output(mtbal_instance *instance, const char *name);
rt_tensor *mtbal_instance_state(mtbal_instance *instance, const char *name);
int mtbal_plan_ports(const mtbal_plan *plan, const mtbal_port **inputs, int *ninputs,
                     const mtbal_port **outputs, int *noutputs, const mtbal_port **states,
                     int *nstates);
/* One step: runs all calls; states hold their next values afterwards. Allocates nothing. When it
 * fails, outputs and states hold anything: MTBAL_INVALID: a kernel met data that it cannot work
 * with, mtbal_instance_fault says which; MTBAL_INTERRUPTED: by env->stop. */
mtbal_status mtbal_instance_run(mtbal_instance *instance, uint64_t seed);
/* The same with a message. path: of the model. */
mtbal_status mtbal_instance_run_alone(mtbal_instance *instance, uint64_t seed, const char *path,
                                      mtbal_diag *diag);
/* Of the last run: what was wrong, and the label of the node. */
const rt_fault *mtbal_instance_fault(const mtbal_instance *instance, const char **label);
/* The same as text: "node N (OP): index 700 of an axis of 512". */
void mtbal_fault_text(const rt_fault *fault, const char *label, char *to, size_t size);
rt_env *mtbal_instance_env(mtbal_instance *instance);

#endif
