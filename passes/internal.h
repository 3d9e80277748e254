/* passes/internal.h: the passes of the pipeline, for its table; what they share beyond the context.
 */
#ifndef MTBAL_PASSES_INTERNAL_H
#define MTBAL_PASSES_INTERNAL_H

#include "passes/passes.h"

/* ------------------------------------------------------------------ discover.c, reach.c */

bool mtbal_glob(const char *pattern, const char *text); /* `*` any run, `?` any one character */

/* Names for a message: as many as have room, then dots. */
typedef struct mtbal_names {
    int count;
    bool full;
    char text[400];
} mtbal_names;
void mtbal_names_add(mtbal_names *names, const char *name);

/* Operands that are settings (a ratio, a size): they carry no gradient. A bit each. */
unsigned mtbal_settings_of(const mtbal_node *node);
/* Role of a node that passes a state's next value to a later optimizer step of one iteration. No
 * gradient flows through it. */
extern const char mtbal_role_updated[];
mtbal_status mtbal_spread_reach(mtbal_context *c);      /* fills reach, nreach */
mtbal_status mtbal_spread_dependence(mtbal_context *c); /* fills depends, from params */

/* ------------------------------------------------------------------ sets.c: see passes.h */

mtbal_sets *mtbal_sets_new(mtbal_arena *arena, int ntasks); /* NULL: out of memory */
/* Both are -1 when out of memory, the union also of a set that is -1. */
mtbal_set mtbal_set_union(mtbal_sets *sets, mtbal_set a, mtbal_set b);
mtbal_set mtbal_set_of_flags(mtbal_sets *sets, const bool *flags); /* [ntasks] */
int mtbal_sets_count(const mtbal_sets *sets);                      /* numbers are below it */
static inline mtbal_set mtbal_set_of_task(int task)
{
    return 1 + task;
}
/* The one task of a set; -1: there is none, or more. */
static inline int mtbal_only_task(const mtbal_context *c, mtbal_set set)
{
    return set > MTBAL_NO_TASK && set <= c->ntasks ? set - 1 : -1;
}
static inline bool mtbal_is_shared(const mtbal_context *c, mtbal_set set) /* two tasks or more */
{
    return set > c->ntasks;
}

/* ------------------------------------------------------------------ text.c */

/* Text that grows; all zeros: empty. Sticky when out of memory. Free `bytes` with mtbal_free. */
typedef struct mtbal_text {
    char *bytes;
    size_t used, capacity;
    bool failed;
} mtbal_text;
void mtbal_text_put(mtbal_text *text, const char *s, size_t n);
void mtbal_text_add(mtbal_text *text, const char *format, ...) MTBAL_PRINTF(2, 3);
/* Adds the function that the text is, unless the model has it, and emits a call; frees the text. */
void mtbal_emit_function(mtbal_builder *b, mtbal_text *text, const char *name, int nin,
                         mtbal_value *const *in, int nout, mtbal_value **out);

/* ------------------------------------------------------------------ outputs.c, states.c */

/* A builder at the end of the graph; nodes are named PREFIX[TASK/]Op and carry role and task. */
void mtbal_pass_builder(const mtbal_context *c, mtbal_builder *b, const char *prefix,
                        const char *role, const char *task);
/* PREFIX NAME, interned, for a value of ours. Fails when the model has a value of that name. */
mtbal_status mtbal_own_name(mtbal_context *c, const char *prefix, const char *name,
                            const char **result);
bool mtbal_is_ours(const char *name); /* begins with mtbal/ */
bool mtbal_is_listed(const char *const *names, int n, const char *name);
/* Metadata entry `key`: a JSON object of these entries, or an array of their keys. */
mtbal_status mtbal_set_entries(mtbal_model *model, const char *key, bool object, int n,
                               const mtbal_property *entries, mtbal_diag *diag);
/* value as graph output PREFIX NAME: an Identity node. */
mtbal_status mtbal_output_as(mtbal_context *c, mtbal_value *value, const char *prefix,
                             const char *name);
/* A scalar input mtbal/NAME with a default. */
mtbal_value *mtbal_hyper(mtbal_context *c, const char *name, double value);
/* A state PREFIX NAME of the given type and shape: an initializer that is also an input. dims must
 * live as long as the model; the bytes of a state of zeros must not be written to. */
mtbal_value *mtbal_state_new(mtbal_context *c, const char *prefix, const char *name,
                             mtbal_dtype dtype, int rank, const int64_t *dims, double fill);
/* Enters a state and its next value. */
mtbal_status mtbal_state_bind(mtbal_context *c, mtbal_value *state, mtbal_value *next);
/* The float type of weights, norms and hyper-parameters: double where a loss is, else float. */
mtbal_dtype mtbal_float_type(const mtbal_context *c);

/* ------------------------------------------------------------------ weigh.c, balance/ */

/* w x, in x's type; 0, not NaN, where the task is switched off. NULL where the weight is known to
 * be 0, and for x NULL. */
mtbal_value *mtbal_weigh(mtbal_builder *b, mtbal_value *w, mtbal_value *x);

mtbal_status mtbal_find_method(mtbal_context *c); /* of --balance, into c->method */
/* --scale of weights [K] that a method gives up to a factor (balance/scale.c). */
mtbal_value *mtbal_emit_scaled(const mtbal_context *c, mtbal_builder *b, mtbal_value *weights);

/* Bodies and values of the methods of balance/table.c. */
mtbal_status mtbal_balance_equal(const mtbal_context *c, double *weights);
mtbal_status mtbal_balance_given(const mtbal_context *c, double *weights);
void mtbal_balance_calibrated(mtbal_text *body, int ntasks);
void mtbal_balance_imtl_g(mtbal_text *body, int ntasks);
void mtbal_balance_nash(mtbal_text *body, int ntasks);
/* Text of bodies that read norms and cosines (balance/solve.c). The first: in double precision n
 * [K], safe_n (1 where n is 0), C [K,K] (1 on the diagonal), eye [K,K], on1 [K] and on [K,1] (1
 * where n is above 0), off = 1 - on; count [1], K: the number of tasks; zero, one, ridge, yes,
 * minus1. The second: Gauss and Jordan's steps on `from` [K, K + any]; reads axis0 and tiny. */
void mtbal_text_cosines(mtbal_text *body);
void mtbal_text_eliminate(mtbal_text *body, const char *indent, const char *to, const char *from);

/* ------------------------------------------------------------------ blockers.c */

/* Nodes that cannot be differentiated, each once, a line each with what it blocks. */
typedef struct mtbal_blockers {
    int count;
    char text[2900];
} mtbal_blockers;
void mtbal_blockers_clear(mtbal_graph *graph); /* before the first: resets the nodes' marks */
void mtbal_blockers_add(mtbal_blockers *blockers, mtbal_node *node, const char *why,
                        const char *blocked);
/* Does the node stand on a path of active values (a table by value id, of size n), without a rule?
 */
bool mtbal_lacks_rule(mtbal_node *node, const bool *active, int n);

/* ------------------------------------------------------------------ the stages of a step: what
 * sweep.c, measure.c, weigh.c and combine.c hand on to each other */

/* The cotangent of a task's unweighted loss at a value of the trunk where the task's head leaves
 * it. */
typedef struct mtbal_leaving {
    int task, value; /* the value's id */
    mtbal_value *cotangent;
} mtbal_leaving;

/* What the sweep of the heads gives. */
typedef struct mtbal_swept {
    int n;              /* values before the sweep: size of the tables by value id */
    bool *active;       /* [n] depends on a parameter and reaches a task */
    mtbal_value **main; /* [n] cotangents: in a head of its task's unweighted loss, in the trunk of
                           the balanced total, once combine.c has them */
    int nleaving, ntrunk;
    mtbal_leaving *leaving; /* from [first[t]] on those of task t, by value */
    int *first;             /* [ntasks + 1] */
    mtbal_node **trunk;     /* [ntrunk] nodes that reach two tasks or more, last first */
    mtbal_blockers blocked; /* what could not be crossed so far */
} mtbal_swept;
/* Cotangents, a table by value id as `main`, from where heads leave the trunk on through it. */
mtbal_status mtbal_sweep_trunk(mtbal_context *c, mtbal_value **cotangent, mtbal_builder *b);
/* The sweep of one task goes on through the trunk, unweighted; the table is empty before. */
mtbal_status mtbal_continue_task(mtbal_context *c, int task, mtbal_value **cotangent);
/* After all sweeps: fails where something blocks them, with all of it in the diagnostic. */
mtbal_status mtbal_check_blocked(mtbal_context *c);

/* y = X W in the trunk, W a parameter in scope that nothing else reads: its gradient is X^T dY, so
 * <G_i, G_j> = sum((X X^T) * (dY_i dY_j^T)), and G_i need not be made. */
typedef struct mtbal_product {
    mtbal_value *x, *y; /* NULL: the parameter is no such factor, or G_i is cheaper */
    int64_t rows, in, out;
    double alpha;     /* Gemm's factor */
    mtbal_value *xx;  /* X X^T [rows, rows], once emitted */
    mtbal_value **dy; /* [ntasks] NULL: zero */
} mtbal_product;

/* What inner products are taken over. */
typedef struct mtbal_scope {
    int n;
    mtbal_value **vectors;   /* [ntasks * n] gradients; NULL: zero, or given as a product */
    mtbal_product *products; /* [n] */
} mtbal_scope;
/* gram.c: fills the products of parameters [n] where that is cheaper; `combined`: the gradients are
 * added up afterwards, too. */
mtbal_status mtbal_find_products(mtbal_context *c, mtbal_scope *scope, bool combined);
mtbal_value *mtbal_gram(mtbal_context *c, mtbal_builder *b, const mtbal_scope *scope); /* [K,K] */

/* What measuring gives; NULL what nobody asks for. */
typedef struct mtbal_measured {
    mtbal_value *gram, *norms, *cosines; /* [K,K], [K], [K,K] */
    mtbal_value **task_gradients;        /* [ntasks * nparams] unweighted; NULL: zero */
    mtbal_scope scope;
    bool *in_scope; /* [ntasks] whether the task has a gradient in the scope */
    bool decides;   /* weights hang on it */
} mtbal_measured;

/* ------------------------------------------------------------------ tables.c */

/* Two tables by value id, all zero when taken. */
typedef struct mtbal_tables {
    struct mtbal_tables *next;
    int capacity;
    bool *marked;
    mtbal_value **value;
} mtbal_tables;
/* For ids below n. NULL: out of memory. */
mtbal_tables *mtbal_tables_take(mtbal_tables **pool, int n);
/* To be called, before they are given back, for each value that has an entry. */
void mtbal_tables_clear(mtbal_tables *tables, const mtbal_value *value);
/* The same for all that a graph and its subgraphs define. */
void mtbal_tables_clear_graph(mtbal_tables *tables, mtbal_graph *graph);
/* The ids in [from, to) are cleared, too. */
void mtbal_tables_give(mtbal_tables **pool, mtbal_tables *tables, int from, int to);
void mtbal_tables_free(mtbal_tables *pool);

/* ------------------------------------------------------------------ branches.c */

/* Does the node, or one of its subgraphs, read a value that `marked` [n], by value id, marks? */
bool mtbal_reads(mtbal_node *node, const bool *marked, int n);

/* ------------------------------------------------------------------ sequences.c */

/* A node that makes or reads a sequence of known length becomes one of tensors. */
mtbal_status mtbal_resolve_sequence(mtbal_node *node, mtbal_diag *diag);

/* ------------------------------------------------------------------ index.c */

/* Values by name: of a list, or all that a graph itself defines. In `arena`. */
typedef struct mtbal_index {
    int count;
    mtbal_value **values;
    mtbal_map at; /* name -> place in values */
} mtbal_index;
mtbal_status mtbal_index_values(mtbal_index *index, mtbal_arena *arena, int count,
                                mtbal_value *const *values, mtbal_diag *diag);
mtbal_status mtbal_index_graph(mtbal_index *index, mtbal_arena *arena, const mtbal_graph *graph,
                               mtbal_diag *diag);
mtbal_value *mtbal_index_find(const mtbal_index *index, const char *name); /* name: interned */

/* ------------------------------------------------------------------ dead.c */

/* Marks, by value id, what the node and its subgraphs read. */
void mtbal_mark_read(mtbal_node *node, bool *marked);

/* ------------------------------------------------------------------ training_ops.c,
 * training_gradient.c, training_optimizers.c */

/* Value as output `index` of the node, whose place it takes: an Identity node in front of it. */
mtbal_status mtbal_give_output(mtbal_builder *b, mtbal_node *node, int index, mtbal_value *value);
/* A node of ai.onnx.preview.training as standard ones, in front of it. */
typedef mtbal_status mtbal_training_fn(mtbal_builder *b, mtbal_node *node,
                                       mtbal_blockers *blockers);
mtbal_training_fn mtbal_training_gradient, mtbal_training_adam, mtbal_training_adagrad,
    mtbal_training_momentum;
/* The tensors that the attributes of a Gradient node name become its operands: values of its graph
 * or of the one around it. */
mtbal_status mtbal_gradient_operands(mtbal_node *node, const mtbal_index *own,
                                     const mtbal_index *around, mtbal_diag *diag);
/* The same for all Gradient nodes of a graph, those in its subgraphs not. */
mtbal_status mtbal_named_operands(mtbal_graph *graph, mtbal_diag *diag);

/* ------------------------------------------------------------------ fold.c */

typedef struct mtbal_folder mtbal_folder; /* memory for folding nodes one by one */
mtbal_folder *mtbal_folder_new(void);
void mtbal_folder_free(mtbal_folder *folder);
/* Makes the node a Constant when its output is known. MTBAL_NOMEM is the only error. */
mtbal_status mtbal_fold_node(mtbal_folder *folder, mtbal_node *node);

/* ------------------------------------------------------------------ losses.c, ties.c */

/* Ready-to-paste --loss lines for the float outputs of a graph without a task. */
void mtbal_suggest_losses(const mtbal_context *c, char *text, size_t size);
/* A warning of parameters that the exporter made one. */
mtbal_status mtbal_warn_of_ties(mtbal_context *c);

/* ------------------------------------------------------------------ the passes, in the order of
 * pipeline.c's table */

mtbal_pass_fn mtbal_pass_sort, mtbal_pass_named, mtbal_pass_upgrade, mtbal_pass_inline,
    mtbal_pass_types, mtbal_pass_control, mtbal_pass_training, mtbal_pass_hoist, mtbal_pass_losses,
    mtbal_pass_untie, mtbal_pass_tasks, mtbal_pass_params, mtbal_pass_scope, mtbal_pass_diagnose,
    mtbal_pass_sweep, mtbal_pass_measure, mtbal_pass_weigh, mtbal_pass_combine, mtbal_pass_outputs,
    mtbal_pass_optimizer, mtbal_pass_states, mtbal_pass_fold, mtbal_pass_merge, mtbal_pass_dead,
    mtbal_pass_metadata, mtbal_pass_expand;

#endif
