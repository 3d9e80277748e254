/* passes/gradients/rules.h: the shorthand that rules are written in. */
#ifndef MTBAL_RULES_H
#define MTBAL_RULES_H

#include "passes/gradients/gradients.h"

/* Formulas read as formulas: b is the builder, operands are values. */
#define ADD(p, q)        mtbal_emit(b, "Add", (p), (q))
#define SUB(p, q)        mtbal_emit(b, "Sub", (p), (q))
#define MUL(p, q)        mtbal_emit(b, "Mul", (p), (q))
#define DIV(p, q)        mtbal_emit(b, "Div", (p), (q))
#define NEG(p)           mtbal_emit(b, "Neg", (p))
#define WHERE(c, p, q)   mtbal_emit(b, "Where", (c), (p), (q))
#define UNARY(op, p)     mtbal_emit(b, (op), (p))
#define BINARY(op, p, q) mtbal_emit(b, (op), (p), (q))

/* A scalar of x's type. */
static inline mtbal_value *rule_scalar(mtbal_builder *b, const mtbal_value *x, double value)
{
    return x ? mtbal_const_scalar(b, x->type.dtype, value) : NULL;
}

/* 1 where the condition holds, else 0, in x's type. */
static inline mtbal_value *rule_mask(mtbal_builder *b, mtbal_value *condition, const mtbal_value *x)
{
    return x ? mtbal_emit_cast(b, condition, x->type.dtype) : NULL;
}

/* dy where the condition holds, else 0: no NaN comes through the branch that is not taken. */
static inline mtbal_value *rule_select(mtbal_builder *b, mtbal_value *condition, mtbal_value *dy)
{
    return mtbal_emit(b, "Where", condition, dy, rule_scalar(b, dy, 0));
}

/* What a function's call gives has the type of x. */
static inline void rule_like(mtbal_value *gradient, const mtbal_value *x)
{
    if (gradient && x)
        gradient->type = x->type;
}

static inline mtbal_value *rule_unsqueeze(mtbal_builder *b, mtbal_value *x, int64_t axis)
{
    return mtbal_emit(b, "Unsqueeze", x, mtbal_const_i64s(b, 1, &axis));
}

mtbal_status rule_unsupported(mtbal_gradient *g, const char *why);
/* A call of the model-local function given by its text, with n operands and nout outputs;
 * attributes are set by the caller before mtbal_emit_done. The function's name is `op`. */
mtbal_node *rule_call(mtbal_gradient *g, const char *text, const char *op, int n,
                      mtbal_value *const *in, int nout, mtbal_value **out);
/* Attribute axis of the node, normalised by x's rank; -1 when the rank is unknown and the axis
 * negative. */
int64_t rule_axis(const mtbal_gradient *g, int64_t otherwise);
/* The gradient of a node that only moves, copies or drops elements of its first operand: the node
 * once more, of their positions, says where each element of dy is added. */
mtbal_status rule_by_positions(mtbal_gradient *g);

#endif
