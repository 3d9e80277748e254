/* graph/ops.c: the op list as a table, and its index by name. */
#include "graph/graph.h"

#include <string.h>

#define OP(id, name, domain, shape, gradient, kernel) mtbal_shape_fn mtbal_shape_##shape;
#include "graph/ops.def"
#undef OP
#define mtbal_shape_none NULL

const mtbal_op mtbal_ops[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel) {name, domain, mtbal_shape_##shape},
#include "graph/ops.def"
#undef OP
};

/* The list is sorted by name within a domain, but for the order of domains: a linear search over a
 * few hundred rows of a handful of first characters is fast enough for reading, where it is called
 * once a node. */
int mtbal_opcode(const char *domain, const char *name)
{
    for (int i = 0; i < MTBAL_NOPS; i++)
        if (mtbal_ops[i].name[0] == name[0] && !strcmp(mtbal_ops[i].name, name) &&
            !strcmp(mtbal_ops[i].domain, domain))
            return i;
    return -1;
}
