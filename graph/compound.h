/* graph/compound.h: the shorthand that compound operators are written out in. */
#ifndef MTBAL_COMPOUND_H
#define MTBAL_COMPOUND_H

#include "graph/graph.h"

/* What is written out: the node's operands (NULL where left out), and its results. */
typedef struct compound {
    mtbal_builder *b;
    const mtbal_node *node;
    mtbal_value *x[8], **y;
} compound;
/* Sets y. Returns NULL, or why this form of the operator cannot be written out. */
typedef const char *compound_fn(compound *c);
/* The body of an operator whose kernel column says `decomposed`. */
#define BODY(id) const char *mtbal_body_##id(compound *c)

/* Formulas read as formulas: b is the builder. */
#define ADD(p, q)       mtbal_emit(b, "Add", (p), (q))
#define SUB(p, q)       mtbal_emit(b, "Sub", (p), (q))
#define MUL(p, q)       mtbal_emit(b, "Mul", (p), (q))
#define DIV(p, q)       mtbal_emit(b, "Div", (p), (q))
#define WHERE(c, p, q)  mtbal_emit(b, "Where", (c), (p), (q))
#define UNARY(op, p)    mtbal_emit(b, (op), (p))
#define OP2(op, p, q)   mtbal_emit(b, (op), (p), (q))
#define LIKE(x, number) compound_scalar(b, (x), (number))

/* A scalar of x's type. */
mtbal_value *compound_scalar(mtbal_builder *b, const mtbal_value *x, double number);
/* x's size along an axis, as int64 [1]: a Constant when it is known. */
mtbal_value *compound_size(mtbal_builder *b, mtbal_value *x, int axis);
/* x in a shape of which 0 stands for x's own size on that axis, -1 for what is left. */
mtbal_value *compound_reshape(mtbal_builder *b, mtbal_value *x, int n, const int64_t *dims);
/* int64 vectors and tensors behind each other, along the axis. */
mtbal_value *compound_concat(mtbal_builder *b, int n, mtbal_value *const *x, int64_t axis);
mtbal_value *compound_slice(mtbal_builder *b, mtbal_value *x, int64_t axis, int64_t from,
                            int64_t to);
/* Whether all of them lie between `least` and 2^24, a limit far above any real model. */
bool compound_sane(const int64_t *values, int n, int64_t least);
/* Integers of an operand that is a constant: their count, or -1. */
int compound_ints(const mtbal_value *x, int64_t *values, int limit);

/* compound_fft.c: the complex transform of x (B, n, 2) along its second axis; inverse: without 1/n.
 * n >= 1, any. */
mtbal_value *compound_fft(mtbal_builder *b, mtbal_value *x, int64_t n, bool inverse);

#endif
