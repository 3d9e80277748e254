/* lower/table.c: how each operator runs: the kernel column of the operator table. */
#include "lower/lowering.h"

/* The forms that name a kernel with what it is to compute (ops/elementwise.c, ops/linear.c). */
#define lower_unary(...)        lower_unary
#define lower_binary(formula)   lower_binary
#define lower_variadic(formula) lower_variadic
#define lower_reduce(formula)   lower_reduce
/* The forms that are no kernels; `none`, which they are declared as here, is none. */
#define lower_expand(name)                                 lower_none
#define lower_elaborate(name)                              lower_none
#define OP(id, name, domain, shape, gradient, kernel, ...) lower_fn lower_##kernel;
#include "graph/ops.def"
#undef OP

#define EXPANSION_expand(name)      ~, expand_fn expand_##name;
#define EXPANSION_decomposed        ~, expand_fn expand_decomposed;
#define ELABORATION_elaborate(name) ~, elaborate_fn elaborate_##name;
#define OP(id, name, domain, shape, gradient, kernel, ...) \
    MTBAL_PICK(EXPANSION_##kernel, ) MTBAL_PICK(ELABORATION_##kernel, )
#include "graph/ops.def"
#undef OP
#undef EXPANSION_expand
#undef EXPANSION_decomposed
#undef ELABORATION_elaborate

#define lower_none                  NULL
#define lower_decomposed            NULL
#define EXPANSION_expand(name)      ~, expand_##name
#define EXPANSION_decomposed        ~, expand_decomposed
#define ELABORATION_elaborate(name) ~, elaborate_##name

static const struct row {
    lower_fn *rule;
    expand_fn *expansion;
    elaborate_fn *elaboration;
} rows[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) \
    {lower_##kernel, MTBAL_PICK(EXPANSION_##kernel, NULL), MTBAL_PICK(ELABORATION_##kernel, NULL)},
#include "graph/ops.def"
#undef OP
};

lower_fn *lower_rule(const mtbal_node *node)
{
    return node->opcode >= 0 ? rows[node->opcode].rule : NULL;
}

expand_fn *lower_expansion(const mtbal_node *node)
{
    return node->opcode >= 0 ? rows[node->opcode].expansion : NULL;
}

elaborate_fn *lower_elaboration(const mtbal_node *node)
{
    return node->opcode >= 0 ? rows[node->opcode].elaboration : NULL;
}

bool lower_is_elementwise(const mtbal_node *node)
{
    lower_fn *rule = lower_rule(node);
    return rule == lower_unary || rule == lower_binary || rule == lower_variadic;
}

const char *mtbal_lowers(int opcode)
{
    const struct row *row = &rows[opcode];
    unsigned flags = mtbal_ops[opcode].flags;
    if (row->rule || row->expansion)
        return "yes";
    if (!row->elaboration)
        return "no";
    return flags & MTBAL_SEQUENCES   ? "of known length"
           : flags & MTBAL_OPTIONALS ? "of known content"
           : flags & MTBAL_COUNTED   ? "of a mask"
                                     : "yes";
}
