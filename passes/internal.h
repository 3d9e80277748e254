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

/* Operands of a node that say how it works, not what it works on: a bit each. */
unsigned mtbal_settings_of(const mtbal_node *node);
/* Role of a node that hands a state's next value to a later step of the same iteration: there it is
 * a value of its own, so gradients stop. */
extern const char mtbal_role_updated[];
mtbal_status mtbal_spread_reach(mtbal_context *c);      /* fills reach, nreach */
mtbal_status mtbal_spread_dependence(mtbal_context *c); /* fills depends, from params */
static inline bool mtbal_is_single(uint64_t reach)      /* exactly one task */
{
    return reach && !(reach & (reach - 1));
}

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

/* ------------------------------------------------------------------ weights.c, balance/ */

/* w x, in x's type; 0, not NaN, where the task is switched off. NULL where the weight is known to
 * be 0, and for x NULL. */
mtbal_value *mtbal_weigh(const mtbal_context *c, mtbal_builder *b, int task, mtbal_value *x);

/* A balancing method: weights of all tasks, written into c->weights. One row a method. */
typedef struct mtbal_method {
    const char *name, *what;
    mtbal_status (*weights)(mtbal_context *c, mtbal_builder *b);
} mtbal_method;
extern const mtbal_method mtbal_methods[]; /* balance/table.c; ends with name NULL */
mtbal_status mtbal_balance_equal(mtbal_context *c, mtbal_builder *b);
mtbal_status mtbal_balance_given(mtbal_context *c, mtbal_builder *b);
mtbal_status mtbal_balance_calibrated(mtbal_context *c, mtbal_builder *b);

/* ------------------------------------------------------------------ backward.c -> gram.c */

/* Cotangents by value id, kept in context->scratch from the backward pass to the measuring one. */
typedef struct mtbal_cotangents {
    int n;        /* values before the backward: size of the tables */
    bool *active; /* depends on a parameter and reaches a task */
    /* main: of the balanced total in the trunk, of the unweighted loss in the heads.
     * own[task]: of the task's unweighted loss, in its head and where that leaves the trunk; after
     * mtbal_continue_task in the trunk too. */
    mtbal_value **main, ***own;
} mtbal_cotangents;
/* The sweep of one task goes on through the trunk, unweighted. */
mtbal_status mtbal_continue_task(mtbal_context *c, int task);

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
    mtbal_pass_weights, mtbal_pass_backward, mtbal_pass_measure, mtbal_pass_optimizer,
    mtbal_pass_states, mtbal_pass_fold, mtbal_pass_merge, mtbal_pass_dead, mtbal_pass_metadata,
    mtbal_pass_expand;

#endif
