/* lower/ops/expand.h: rules that write a node in terms of others while the graph is elaborated. All
 * shapes are known numbers then, so a rule may compute with them. Emitted nodes are walked in their
 * turn: folded, expanded, fused. */
#ifndef MTBAL_EXPAND_H
#define MTBAL_EXPAND_H

#include "lower/lowering.h"

struct expansion {
    lowering *l;
    mtbal_builder *b;
    mtbal_node *node;
    mtbal_value *out[16]; /* what stands for the node's outputs; out[0] NULL: left as it is */
};

/* Formulas read as formulas: `b` is the builder. */
#define ADD(p, q)       mtbal_emit(b, "Add", (p), (q))
#define SUB(p, q)       mtbal_emit(b, "Sub", (p), (q))
#define MUL(p, q)       mtbal_emit(b, "Mul", (p), (q))
#define DIV(p, q)       mtbal_emit(b, "Div", (p), (q))
#define WHERE(c, p, q)  mtbal_emit(b, "Where", (c), (p), (q))
#define UNARY(op, p)    mtbal_emit(b, (op), (p))
#define OP2(op, p, q)   mtbal_emit(b, (op), (p), (q))
#define LIKE(x, number) expand_scalar(b, (x), (number))

mtbal_value *expand_in(const expansion *e, int i); /* NULL when left out */
/* A scalar of x's type. */
mtbal_value *expand_scalar(mtbal_builder *b, const mtbal_value *x, double number);
int64_t expand_dim(const mtbal_value *x, int axis); /* negative axes count from the end */
mtbal_value *expand_reshape(mtbal_builder *b, mtbal_value *x, int rank, const int64_t *dims);
mtbal_value *expand_slice(mtbal_builder *b, mtbal_value *x, int64_t axis, int64_t from, int64_t to);
mtbal_value *expand_concat(mtbal_builder *b, int n, mtbal_value *const *x, int64_t axis);
mtbal_value *expand_reduce(mtbal_builder *b, const char *op, mtbal_value *x, int64_t axis);
mtbal_value *expand_broadcast(mtbal_builder *b, mtbal_value *x, int rank, const int64_t *dims);
/* Integers of a constant input: count, or -1. */
int expand_ints(const expansion *e, int i, int64_t *values, int limit);

#define EXPAND(name) mtbal_status expand_##name(expansion *e)

#endif
