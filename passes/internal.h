/* passes/internal.h: the passes of the pipeline, for its table; what they share beyond the context.
 */
#ifndef MTBAL_PASSES_INTERNAL_H
#define MTBAL_PASSES_INTERNAL_H

#include "passes/passes.h"

bool mtbal_glob(const char *pattern, const char *text);
/* A builder at the end of the graph whose nodes are named mtbal/ROLE/... and carry that role. */
void mtbal_pass_builder(const mtbal_context *c, mtbal_builder *b, const char *prefix,
                        const char *role, const char *task);
/* A scalar input with a default, mtbal/NAME; --set NAME=VALUE gives another default. */
mtbal_value *mtbal_hyper(mtbal_context *c, const char *name, double otherwise);
/* A state of the given type and shape: an initializer that is also an input. */
mtbal_value *mtbal_state_new(mtbal_context *c, const char *name, mtbal_dtype dtype, int rank,
                             const int64_t *dims, double fill);
/* Enters a state and its next value. */
mtbal_status mtbal_state_bind(mtbal_context *c, mtbal_value *state, mtbal_value *next);
/* The float type that losses and weights have: that of the first task's loss. */
mtbal_dtype mtbal_float_type(const mtbal_context *c);
/* value under a name of ours: an Identity whose output has exactly this name, listed as graph
 * output. */
mtbal_status mtbal_output_as(mtbal_context *c, mtbal_value *value, const char *name);
/* Is the weight of each task known to be finite and non-zero (equal, --weights)? Then nothing needs
 * guarding. */
bool mtbal_weights_guarded(const mtbal_context *c);

mtbal_pass_fn mtbal_pass_inline, mtbal_pass_upgrade, mtbal_pass_verify, mtbal_pass_hoist,
    mtbal_pass_types, mtbal_pass_losses, mtbal_pass_unroll, mtbal_pass_untie, mtbal_pass_tasks,
    mtbal_pass_params, mtbal_pass_scope, mtbal_pass_diagnose, mtbal_pass_weights,
    mtbal_pass_backward, mtbal_pass_measure, mtbal_pass_optimizer, mtbal_pass_states,
    mtbal_pass_outputs, mtbal_pass_fold, mtbal_pass_merge, mtbal_pass_dead, mtbal_pass_metadata,
    mtbal_pass_finish;

/* balance/: weights of all tasks, written into c->weights. One row per method in balance/table.c.
 */
typedef struct mtbal_method {
    const char *name, *what;
    mtbal_status (*weights)(mtbal_context *c, mtbal_builder *b);
} mtbal_method;
extern const mtbal_method mtbal_methods[]; /* ends with name NULL */

#endif
