/* graph/internal.h: what the files of the graph core share and nobody else sees. */
#ifndef MTBAL_INTERNAL_H
#define MTBAL_INTERNAL_H

#include "graph/graph.h"

/* mtbal_fresh_name of a formatted base, however long. NULL: out of memory. */
const char *graph_fresh(mtbal_model *model, const char *format, ...) MTBAL_PRINTF(2, 3);

/* graph.c: for values of one model. */
void graph_swap_names(mtbal_value *a, mtbal_value *b);

/* operands.c: whether the node has as many operands as its op takes and, with `types`, those of one
 * type that must be. MTBAL_OK for an op that is not in the list. */
mtbal_status graph_check_operands(const mtbal_node *node, bool types, mtbal_diag *diag);

/* fit.c: whether the operands' shapes fit each other, as far as they are known. */
mtbal_status graph_check_shapes(const mtbal_node *node, mtbal_diag *diag);
/* attributes.c: whether the node's attributes are such as its operator takes: names, kinds and
 * values. opset: of the operator's domain; 0: any, for a node whose version is not known. */
mtbal_status graph_check_attributes(const mtbal_node *node, int64_t opset, mtbal_diag *diag);
/* The same by the opset that the function (NULL: the model) imports; and that the operator exists
 * there. */
mtbal_status graph_check_known(const mtbal_node *node, const mtbal_function *function,
                               mtbal_diag *diag);
/* Whether the imported opsets are ones that the operator table knows. */
mtbal_status graph_check_opsets(const mtbal_model *model, int n, const mtbal_opset *opsets,
                                mtbal_diag *diag);
/* infer.c: the opset of the domain that the function (NULL: the model) imports; 0: none. */
int64_t graph_opset_in(const mtbal_model *model, const mtbal_function *f, const char *domain);

#endif
