/* graph/ops/strings.c: tensors of strings. */
#include "graph/ops/shapes.h"

mtbal_status mtbal_shape_string_concat(mtbal_infer *s)
{
    return shape_broadcast_all(s, 0, MTBAL_STRING);
}

/* Stop words are dropped from the last axis: nobody knows how many. */
mtbal_status mtbal_shape_string_normalizer(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_attr *stop = mtbal_attr_find(s->node, "stopwords");
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int i = 0; i < x->rank; i++)
        dims[i] = stop && stop->n && i == x->rank - 1 ? shape_unknown() : x->dims[i];
    return shape_set(s, 0, MTBAL_STRING, x->rank, dims);
}

/* The parts, on a new last axis, and their numbers. */
mtbal_status mtbal_shape_string_split(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK + 1];
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[i];
    dims[x->rank < 0 ? 0 : x->rank] = shape_unknown();
    MTBAL_TRY(shape_set(s, 0, MTBAL_STRING, x->rank < 0 ? -1 : x->rank + 1, dims));
    return shape_set(s, 1, MTBAL_INT64, x->rank, x->dims);
}

/* (C) or (N, C) -> (largest index + 1) or (N, largest index + 1) */
mtbal_status mtbal_shape_tf_idf(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const int64_t *index;
    int n = mtbal_attr_ints(s->node, "ngram_indexes", &index);
    int64_t most = -1;
    for (int i = 0; i < n; i++)
        most = index[i] > most && index[i] < INT64_MAX ? index[i] : most;
    const mtbal_dim dims[2] = {x->rank == 2 ? x->dims[0] : mtbal_dim_const(most + 1),
                               mtbal_dim_const(most + 1)};
    return shape_set(s, 0, MTBAL_FLOAT, x->rank == 1 || x->rank == 2 ? x->rank : -1, dims);
}
