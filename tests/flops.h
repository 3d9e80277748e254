/* tests/flops.h: what a training step of transformer_glue with K tasks multiplies. */
#ifndef MTBAL_TESTS_FLOPS_H
#define MTBAL_TESTS_FLOPS_H

#include "passes/passes.h"

/* How tasks are balanced, and what is measured at every step. */
typedef struct flops_kind {
    const char *name, *balance, *norm_over;
    unsigned outputs;
} flops_kind;
enum { FLOPS_KINDS = 8 };
enum {
    FLOPS_PLAIN,
    FLOPS_CALIBRATED,
    FLOPS_FEATURES,
    FLOPS_NORMS,
    FLOPS_GRAM_FEATURES,
    FLOPS_GRAM_TRUNK,
    FLOPS_GRAM_LAST,
    FLOPS_GRADIENTS
};
extern const flops_kind flops_kinds[FLOPS_KINDS];

/* Multiplications and additions of MatMul, Gemm and Conv in a step (SGD, batch 4, 16 tokens) of
 * transformer_glue with `tasks` tasks: the three of the file, then more heads like the first, each
 * with weights of its own. kind NULL: the forward pass alone. -1 with a diagnostic on failure. */
double flops_of_step(int tasks, const flops_kind *kind, mtbal_diag *diag);

#endif
