/* graph/internal.h: what the files of the graph core share and nobody else sees. */
#ifndef MTBAL_INTERNAL_H
#define MTBAL_INTERNAL_H

#include "graph/graph.h"

/* mtbal_fresh_name of a formatted base, however long. NULL: out of memory. */
const char *graph_fresh(mtbal_model *model, const char *format, ...) MTBAL_PRINTF(2, 3);

/* operands.c: whether the node has as many operands as its op takes and, with `types`, those of one
 * type that must be. MTBAL_OK for an op that is not in the list. */
mtbal_status graph_check_operands(const mtbal_node *node, bool types, mtbal_diag *diag);

#endif
