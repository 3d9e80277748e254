/* passes/ort/ort.h: --target ort-training: the step graph in the form of ONNX Runtime's training
 * sessions (1.17 to 1.19.2). What such a session knows of a model it knows by names:
 *
 *   P                             an input that the checkpoint has: a parameter, or a frozen one
 *   P_grad.accumulation.buffer    an input: where the gradients of P are summed
 *   lazy_reset_grad               an input: overwrite the sums instead
 *   P_grad, ...accumulation.out   outputs that it keeps for itself
 *
 * All other inputs and outputs are the user's. */
#ifndef MTBAL_PASSES_ORT_H
#define MTBAL_PASSES_ORT_H

#include "passes/internal.h"

#define ORT_DOMAIN "com.microsoft"
#define ORT_RESET  "lazy_reset_grad"
#define ORT_GRAD   "_grad"
#define ORT_BUFFER "_grad.accumulation.buffer"
#define ORT_OUT    "_grad.accumulation.out"
/* --set lr=input: the input, and the parameter that carries it into the optimizer model. */
#define ORT_LR     "mtbal/lr"
#define ORT_FED_LR "mtbal/fed_lr"

/* versions.c: refuses a model that is newer than these runtimes, or lowers its versions where that
 * changes nothing. */
mtbal_status ort_fit_versions(mtbal_model *model, mtbal_ort *ort, mtbal_diag *diag);

/* step.c: a step graph as the model. First it becomes its network again; after the rewrite the
 * balancing states get the values that they had in it, where the user has set no other. */
mtbal_status ort_unwind(mtbal_model *model, mtbal_ort *ort, mtbal_diag *diag);
mtbal_status ort_carry_over(mtbal_context *c, const mtbal_ort *ort);

/* names.c */
bool ort_is_gradient(const char *name);               /* a session takes it for one */
mtbal_status ort_check_names(const mtbal_context *c); /* none of the user's is */
/* A new value of this very name. Fails when the model has one. */
mtbal_status ort_value(const mtbal_context *c, const char *name, const char *end,
                       const mtbal_type *type, mtbal_value **value);
/* Names for nodes that have none, in functions too: a session's optimizer (GatherSliceToSplitFusion
 * of 1.18 to 1.19.2) makes names out of them, and fails when two are equal. */
mtbal_status ort_name_nodes(mtbal_context *c);

/* accumulate.c */
mtbal_status ort_add_function(mtbal_context *c); /* for runtimes without the kernel */
/* For each of n parameters: an input to sum into, P_grad as an output, the node that adds it. */
mtbal_status ort_accumulate_gradients(mtbal_context *c, int n, mtbal_value *const *params,
                                      mtbal_value *const *gradients);
/* state = next, once all have read the state. `label` names the outputs that say so. */
mtbal_status ort_overwrite(mtbal_context *c, mtbal_value *state, mtbal_value *next,
                           const char *label);

#endif
