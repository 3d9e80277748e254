/* passes/gradients/table.c: how each operator differentiates: the gradient column of the operator
 * table. */
#include "passes/gradients/gradients.h"

/* Words and forms that are no rules; `none`, which they are declared as here, is none. */
#define mtbal_rule_resolve(name)                           mtbal_rule_none
#define OP(id, name, domain, shape, gradient, kernel, ...) mtbal_gradient_fn mtbal_rule_##gradient;
#include "graph/ops.def"
#undef OP
#undef mtbal_rule_resolve

#define RESOLVE_resolve(name)                              ~, mtbal_resolve_fn mtbal_resolve_##name;
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(RESOLVE_##gradient, )
#include "graph/ops.def"
#undef OP
#undef RESOLVE_resolve

#define mtbal_rule_resolve(name) NULL
#define mtbal_rule_elements      NULL
#define mtbal_rule_unrolled      NULL
#define mtbal_rule_stop          NULL
#define mtbal_rule_none          NULL
#define RESOLVE_resolve(name)    ~, mtbal_resolve_##name
#define HOW_resolve(name)        ~, "of known length"
#define HOW_elements             ~, "of known length"
#define HOW_unrolled             ~, "of known count"
#define HOW_stop                 ~, "zero"
#define HOW_none                 ~, "no"
#define STOPS_stop               ~, true

static const struct row {
    mtbal_gradient_fn *rule;
    mtbal_resolve_fn *resolve;
    const char *how;
    bool stops;
} rows[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...)        \
    {mtbal_rule_##gradient, MTBAL_PICK(RESOLVE_##gradient, NULL), \
     MTBAL_PICK(HOW_##gradient, "yes"), MTBAL_PICK(STOPS_##gradient, false)},
#include "graph/ops.def"
#undef OP
};

mtbal_gradient_fn *mtbal_gradient_rule(int opcode, bool *stop)
{
    *stop = opcode >= 0 && rows[opcode].stops;
    return opcode >= 0 ? rows[opcode].rule : NULL;
}

mtbal_resolve_fn *mtbal_gradient_resolve(int opcode)
{
    return opcode >= 0 ? rows[opcode].resolve : NULL;
}

const char *mtbal_gradient_how(int opcode)
{
    return rows[opcode].how;
}
