/* graph/ops/shapes.h: what shape functions lean on. A shape function reads the types and contents
 * of a node's inputs and sets those of its outputs. Unknown inputs give unknown outputs; only a
 * contradiction is an error. */
#ifndef MTBAL_SHAPES_H
#define MTBAL_SHAPES_H

#include "graph/graph.h"

enum { SHAPE_MAX_RANK = 32, SHAPE_MAX_CONTENT = 64 };

/* ------------------------------------------------------------------ operands */

/* Input i, or NULL when it is left out. Output i likewise. */
mtbal_value *shape_in(const mtbal_infer *s, int i);
mtbal_value *shape_out(const mtbal_infer *s, int i);
/* Type of input i; of unknown rank when it is left out, or has more than SHAPE_MAX_RANK axes. */
const mtbal_type *shape_type(const mtbal_infer *s, int i);
/* Its name, for messages. */
const char *shape_name(const mtbal_infer *s, int i);

/* ------------------------------------------------------------------ results */

/* Sets output i (nothing when it is left out). rank -1: unknown, dims are ignored. Where a
 * dimension is unknown here but was declared, the declaration is kept. */
mtbal_status shape_set(mtbal_infer *s, int i, mtbal_dtype dtype, int rank, const mtbal_dim *dims);
mtbal_status shape_set_type(mtbal_infer *s, int i, const mtbal_type *type);
/* The same of another kind: a sequence or optional of such tensors. */
mtbal_status shape_set_kind(mtbal_infer *s, int i, mtbal_kind kind, const mtbal_type *element);
/* Sets the symbolic content of output i (an integer or bool tensor of rank 0 or 1; nothing
 * otherwise): n dims. */
mtbal_status shape_set_content(mtbal_infer *s, int i, int n, const mtbal_dim *content);
mtbal_status shape_error(mtbal_infer *s, const char *format, ...) MTBAL_PRINTF(2, 3);

/* ------------------------------------------------------------------ contents */

/* The integers of input i when they are known numbers: count, into values [SHAPE_MAX_CONTENT]; -1
 * when not. */
int shape_ints(const mtbal_infer *s, int i, int64_t *values);
/* The same symbolically: count, or -1. Single elements may be unknown. */
int shape_content(const mtbal_infer *s, int i, const mtbal_dim **content);
/* The one element of input i; unknown when it is not one or not known. */
mtbal_dim shape_scalar(const mtbal_infer *s, int i);
bool shape_scalar_int(const mtbal_infer *s, int i, int64_t *value);
/* The constant reals of input i, also through Concat and Identity of constants: count, or -1. */
int shape_reals(const mtbal_infer *s, int i, double *values);
/* The ints of an attribute, or else of an input: count, or -1. */
int shape_attr_or_ints(const mtbal_infer *s, const char *attr, int input, int64_t *values);
/* The same of any count: *values is `few` [SHAPE_MAX_CONTENT] or memory that lasts. */
int shape_many_ints(const mtbal_infer *s, const char *attr, int input, int64_t *few,
                    const int64_t **values);

/* ------------------------------------------------------------------ dimensions */

mtbal_dim shape_unknown(void);
bool shape_is_unknown(mtbal_dim d);
/* A number that may be negative, as an element of a content; and back. */
mtbal_dim shape_number(mtbal_model *model, int64_t x);
bool shape_is_number(mtbal_dim d, int64_t *x);
/* Certainly equal, also when written otherwise ("past + 1", "past+1"). */
bool shape_same_dim(mtbal_model *model, mtbal_dim a, mtbal_dim b);
/* A bound from below: the least that d can be when every named dimension is at least 1. false when
 * there is none. */
bool shape_low(mtbal_model *model, mtbal_dim d, int64_t *low);
/* d + by, by of any sign. */
mtbal_dim shape_plus(mtbal_model *model, mtbal_dim d, int64_t by);
/* The product of dims [n]. */
mtbal_dim shape_product(mtbal_model *model, int n, const mtbal_dim *dims);
/* One size where two are known to be equal; the one that says more. A contradiction is the error
 * "axis `axis` is ... and ...". */
mtbal_status shape_unify(mtbal_infer *s, int axis, mtbal_dim *d, mtbal_dim other);

/* ------------------------------------------------------------------ axes, broadcasting */

/* Axes from the attribute `axes` or input i, normalised; n, -1 when unknown, 0 with *all when not
 * given. */
int shape_axes(mtbal_infer *s, int input, int rank, int64_t *axes, bool *all, mtbal_status *status);
/* An axis attribute, normalised. The error when it is out of range [-rank, rank + beyond). */
mtbal_status shape_axis(mtbal_infer *s, const char *name, int64_t otherwise, int rank, int beyond,
                        int64_t *axis);
/* Broadcast of two shapes; rank -1 when one is unknown. dims [SHAPE_MAX_RANK]. */
mtbal_status shape_broadcast(mtbal_infer *s, int ra, const mtbal_dim *a, int rb, const mtbal_dim *b,
                             int *rank, mtbal_dim *dims);
/* Whether x broadcasts to `to`, as far as sizes are known. */
bool shape_broadcasts(const mtbal_type *x, const mtbal_type *to);
/* Whether the sizes are known, and different. */
bool shape_differs(mtbal_dim a, mtbal_dim b);
/* All inputs from `first` on, broadcast together, into output 0. */
mtbal_status shape_broadcast_all(mtbal_infer *s, int first, mtbal_dtype dtype);

/* ------------------------------------------------------------------ content.c */

/* Contents of Add, Sub, Mul, Div, Mod, Min, Max, and of comparisons and logic where certain. */
mtbal_status shape_fold(mtbal_infer *s);

/* ------------------------------------------------------------------ control.c */

/* What two types have in common: a dimension on which they differ is unknown. dims
 * [SHAPE_MAX_RANK] holds the result's. */
mtbal_type shape_common(mtbal_infer *s, const mtbal_type *a, const mtbal_type *b, mtbal_dim *dims);
/* Gives input i of a subgraph a type; its declaration stays where this says nothing. */
mtbal_status shape_enter(mtbal_infer *s, mtbal_graph *body, int i, const mtbal_type *type);
/* The graph that an attribute holds; NULL (and the error) when there is none. */
mtbal_graph *shape_body(mtbal_infer *s, const char *attr);

/* ------------------------------------------------------------------ subgraphs */

/* Infers a subgraph of the node; the types of its inputs are set. */
mtbal_status shape_subgraph(mtbal_infer *s, mtbal_graph *graph);
/* Forgets the types and contents of all values computed in the graph: before it is inferred for
 * other inputs. */
void shape_forget(mtbal_graph *graph);

#endif
