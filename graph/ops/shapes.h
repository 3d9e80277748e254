/* graph/ops/shapes.h: what shape functions lean on. A shape function reads the types and contents
 * of a node's inputs and sets those of its outputs. Unknown inputs give unknown outputs; only a
 * contradiction is an error. */
#ifndef MTBAL_SHAPES_H
#define MTBAL_SHAPES_H

#include "graph/graph.h"

enum { SHAPE_MAX_RANK = 32, SHAPE_MAX_CONTENT = 64 };

/* Input i, or NULL when it is left out. Output i likewise. */
mtbal_value *shape_in(const mtbal_infer *s, int i);
mtbal_value *shape_out(const mtbal_infer *s, int i);
/* Type of input i; of unknown rank when it is left out. */
const mtbal_type *shape_type(const mtbal_infer *s, int i);
/* Sets output i (nothing when it is left out). rank -1: unknown, dims are ignored. Where a
 * dimension is unknown here but was declared, the declaration is kept. */
mtbal_status shape_set(mtbal_infer *s, int i, mtbal_dtype dtype, int rank, const mtbal_dim *dims);
mtbal_status shape_set_type(mtbal_infer *s, int i, const mtbal_type *type);
/* Sets the symbolic content of output 0: n dims. */
mtbal_status shape_set_content(mtbal_infer *s, int n, const mtbal_dim *content);
mtbal_status shape_error(mtbal_infer *s, const char *format, ...) MTBAL_PRINTF(2, 3);
/* The integers of input i when they are known numbers: count, into values [SHAPE_MAX_CONTENT]; -1
 * when not. */
int shape_ints(const mtbal_infer *s, int i, int64_t *values);
/* The same symbolically: count, or -1. */
int shape_content(const mtbal_infer *s, int i, const mtbal_dim **content);
/* Axes from the attribute `axes` or input i, normalised; n, -1 when unknown, 0 with *all when not
 * given. */
int shape_axes(mtbal_infer *s, int input, int rank, int64_t *axes, bool *all, mtbal_status *status);
int64_t shape_axis(const mtbal_infer *s, const char *name, int64_t otherwise, int rank);
mtbal_dim shape_unknown(void);
/* Broadcast of two shapes; rank -1 when one is unknown. dims [SHAPE_MAX_RANK]. */
mtbal_status shape_broadcast(mtbal_infer *s, int ra, const mtbal_dim *a, int rb, const mtbal_dim *b,
                             int *rank, mtbal_dim *dims);

#endif
