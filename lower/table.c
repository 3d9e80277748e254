/* lower/table.c: how each op runs: the `kernel` column of the op list. */
#include "lower/lowering.h"

#include <string.h>

#define lower_unary(...)                                   lower_unary
#define lower_binary(formula)                              lower_binary
#define lower_variadic(formula)                            lower_variadic
#define lower_reduce(formula)                              lower_reduce
#define lower_expand(name)                                 lower_none
#define lower_elaborate(name)                              lower_none
#define OP(id, name, domain, shape, gradient, kernel, ...) lower_fn lower_##kernel;
#include "graph/ops.def"
#undef OP
#define lower_none       NULL
#define lower_decomposed NULL

static lower_fn *const ops[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) lower_##kernel,
#include "graph/ops.def"
#undef OP
};

lower_fn *lower_rule(const mtbal_node *node)
{
    return node->opcode >= 0 ? ops[node->opcode] : NULL;
}

bool lower_is_elementwise(const mtbal_node *node)
{
    lower_fn *rule = lower_rule(node);
    return rule == lower_unary || rule == lower_binary || rule == lower_variadic;
}

bool mtbal_lowers(int opcode)
{
    static const char *const elaborated[] = {"Constant", "If", "Loop", "Scan", "Shape", "Size"};
    const mtbal_op *op = &mtbal_ops[opcode];
    bool found = ops[opcode] || lower_is_expanded(op);
    for (size_t i = 0; i < sizeof elaborated / sizeof *elaborated; i++)
        found = found || (!*op->domain && !strcmp(op->name, elaborated[i]));
    return found;
}
