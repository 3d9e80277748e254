/* passes/gradients/gradients.h: what a gradient rule gets and gives. One file per op family.
 *
 * A rule computes cotangents of a node's inputs from cotangents of its outputs, as ONNX nodes
 * through the sticky builder (graph.h). It does not check errors of the builder, does not care for
 * broadcasting (the pass sums each dx to the shape of its x afterwards), and emits nothing for
 * inputs that are not needed. A rule that cannot do a variant returns MTBAL_UNSUPPORTED with the
 * reason in the diagnostic. */
#ifndef MTBAL_GRADIENTS_H
#define MTBAL_GRADIENTS_H

#include "passes/passes.h"

typedef struct mtbal_gradient {
    mtbal_sweep *sweep; /* that the rule is part of */
    mtbal_builder *b;
    mtbal_node *node;
    int nx, ny;
    mtbal_value **x;  /* inputs, NULL where left out */
    mtbal_value **y;  /* outputs, NULL where left out */
    mtbal_value **dy; /* cotangents of the outputs; NULL: zero */
    const bool *need; /* [nx] which dx are wanted */
    mtbal_value **dx; /* [nx] the rule's result; left NULL: zero */
    mtbal_diag *diag;
} mtbal_gradient;
typedef mtbal_status mtbal_gradient_fn(mtbal_gradient *g);

/* A node that makes or reads a sequence of known length becomes one of tensors, where it can. */
typedef void mtbal_resolve_fn(mtbal_builder *b, mtbal_node *node);

/* Rule of an opcode: NULL with *stop false: none; NULL with *stop true: zero by definition. */
mtbal_gradient_fn *mtbal_gradient_rule(int opcode, bool *stop);
mtbal_resolve_fn *mtbal_gradient_resolve(int opcode); /* NULL: none */
const char *mtbal_gradient_how(int opcode);           /* "yes", "zero", "no", or of what */

#endif
