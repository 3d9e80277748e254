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

/* A function of ours has one row for all variants of its body: the name counts up to the first
 * underscore. */
static bool same_name(const char *row, const char *name, bool ours)
{
    size_t n = ours ? strcspn(name, "_") : strlen(name);
    return !strncmp(row, name, n) && !row[n];
}

/* A linear search over a few hundred rows, most of which differ in the first letter; called once a
 * node. */
int mtbal_opcode(const char *domain, const char *name)
{
    bool ours = !strcmp(domain, "mtbal");
    for (int i = 0; i < MTBAL_NOPS; i++)
        if (mtbal_ops[i].name[0] == name[0] && same_name(mtbal_ops[i].name, name, ours) &&
            !strcmp(mtbal_ops[i].domain, domain))
            return i;
    return -1;
}
