/* graph/ops.c: the op list as a table, and its index by name. */
#include "graph/graph.h"

#include <limits.h>
#include <string.h>
#include <threads.h>

#define OP(id, name, domain, shape, gradient, kernel, ...) mtbal_shape_fn mtbal_shape_##shape;
#include "graph/ops.def"
#undef OP
#define mtbal_shape_none NULL
#define MANY             INT_MAX

enum {
    RANDOM = MTBAL_RANDOM,
    LAYOUT = MTBAL_LAYOUT,
    MOVES = MTBAL_MOVES,
    FLOATS = MTBAL_FLOATS,
    CONTROL = MTBAL_CONTROL,
    SEQUENCES = MTBAL_SEQUENCES,
    OPTIONALS = MTBAL_OPTIONALS,
    COUNTED = MTBAL_COUNTED,
    SCALE = MTBAL_SCALE
};
const mtbal_op mtbal_ops[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) \
    {name, domain, mtbal_shape_##shape, __VA_ARGS__},
#include "graph/ops.def"
#undef OP
};

enum { SLOTS = 1024 };
_Static_assert(2 * MTBAL_NOPS <= SLOTS, "the index of the op list is at most half full");

static int16_t slots[SLOTS]; /* row + 1; 0: free */
static once_flag indexed = ONCE_FLAG_INIT;

/* The slot of the op, or the free one where it belongs. */
static int16_t *slot_of(const char *domain, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a (Fowler, Noll, Vo) */
    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    for (h ^= h >> 16;; h++) {
        int16_t *slot = &slots[h % SLOTS];
        if (!*slot || (!strcmp(mtbal_ops[*slot - 1].name, name) &&
                       !strcmp(mtbal_ops[*slot - 1].domain, domain)))
            return slot;
    }
}

static void make_index(void)
{
    for (int i = 0; i < MTBAL_NOPS; i++) {
        int16_t *slot = slot_of(mtbal_ops[i].domain, mtbal_ops[i].name);
        if (!*slot)
            *slot = (int16_t)(i + 1);
    }
}

int mtbal_opcode(const char *domain, const char *name)
{
    char base[64];
    size_t n = strcspn(name, "_");
    call_once(&indexed, make_index);
    if (strcmp(domain, "mtbal") || n >= sizeof base)
        return *slot_of(domain, name) - 1;
    /* a function of ours has one row for all variants of its body */
    memcpy(base, name, n);
    base[n] = 0;
    return *slot_of(domain, base) - 1;
}

bool mtbal_node_has(const mtbal_node *node, unsigned flag)
{
    return node->opcode >= 0 && (mtbal_ops[node->opcode].flags & flag) != 0;
}
