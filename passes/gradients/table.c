/* passes/gradients/table.c: the gradient column of the op list. */
#include "passes/gradients/gradients.h"

#define mtbal_rule_resolve(name)                           mtbal_rule_none
#define OP(id, name, domain, shape, gradient, kernel, ...) mtbal_gradient_fn mtbal_rule_##gradient;
#include "graph/ops.def"
#undef OP
#undef mtbal_rule_resolve

#define mtbal_rule_if            NULL
#define mtbal_rule_resolve(name) NULL
#define mtbal_rule_elements      NULL
#define mtbal_rule_unrolled      NULL
#define mtbal_rule_none          NULL
#define mtbal_rule_stop          NULL

static mtbal_gradient_fn *const rules[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) mtbal_rule_##gradient,
#include "graph/ops.def"
#undef OP
};

static const char *const columns[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) #gradient,
#include "graph/ops.def"
#undef OP
};

mtbal_gradient_fn *mtbal_gradient_rule(int opcode, bool *stop)
{
    *stop = opcode >= 0 && columns[opcode][0] == 's' && columns[opcode][1] == 't' &&
            columns[opcode][2] == 'o';
    return opcode >= 0 ? rules[opcode] : NULL;
}
