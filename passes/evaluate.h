/* passes/evaluate.h: integers and booleans known before the run. */
#ifndef MTBAL_PASSES_EVALUATE_H
#define MTBAL_PASSES_EVALUATE_H

#include "graph/graph.h"

enum { EVALUATE_MAX_RANK = 8, EVALUATE_MAX_COUNT = 4096, EVALUATE_MAX_OPERANDS = 64 };

/* A small tensor of int64, int32 or bool. */
typedef struct mtbal_ints {
    mtbal_dtype dtype;
    int rank;
    int64_t dims[EVALUATE_MAX_RANK];
    int64_t count;
    int64_t *x; /* [count], in the evaluation's arena */
} mtbal_ints;

/* One node being evaluated. */
typedef struct mtbal_evaluation {
    mtbal_arena *arena;
    const mtbal_node *node;
    int nin;
    mtbal_ints in[EVALUATE_MAX_OPERANDS]; /* x NULL: left out */
    mtbal_ints out;
} mtbal_evaluation;

/* What the node's only output is: from inference, or from operands that are known. false: not
 * known, too large, or not of these types. arena and node are set by the caller. */
bool mtbal_evaluate(mtbal_evaluation *f);

#endif
