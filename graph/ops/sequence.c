/* graph/ops/sequence.c: sequences of tensors, and optional ones. The type of a sequence holds what
 * its elements have in common. */
#include "graph/ops/shapes.h"

mtbal_status mtbal_shape_sequence_empty(mtbal_infer *s)
{
    const mtbal_type element = {MTBAL_TENSOR,
                                (mtbal_dtype)mtbal_attr_i(s->node, "dtype", MTBAL_FLOAT), -1, NULL};
    return shape_set_kind(s, 0, MTBAL_SEQUENCE, &element);
}

mtbal_status mtbal_shape_sequence_construct(mtbal_infer *s)
{
    mtbal_type element = *shape_type(s, 0);
    mtbal_dim dims[2][SHAPE_MAX_RANK];
    for (int i = 1; i < s->node->nin; i++)
        element = shape_common(s, &element, shape_type(s, i), dims[i % 2]);
    return shape_set_kind(s, 0, MTBAL_SEQUENCE, &element);
}

mtbal_status mtbal_shape_sequence_insert(mtbal_infer *s)
{
    mtbal_type element = *shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    element.kind = MTBAL_TENSOR;
    if (element.dtype == MTBAL_UNDEFINED)
        element.dtype = shape_type(s, 1)->dtype;
    element = shape_common(s, &element, shape_type(s, 1), dims);
    return shape_set_kind(s, 0, MTBAL_SEQUENCE, &element);
}

/* An element as a tensor: SequenceAt, and OptionalGetElement of a tensor. */
mtbal_status mtbal_shape_element(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, x->dtype, x->rank, x->dims);
}

mtbal_status mtbal_shape_sequence_length(mtbal_infer *s)
{
    return shape_set(s, 0, MTBAL_INT64, 0, NULL);
}

/* The axis that is joined is unknown: nobody counts a sequence. */
mtbal_status mtbal_shape_concat_from_sequence(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    bool added = mtbal_attr_i(s->node, "new_axis", 0);
    mtbal_dim dims[SHAPE_MAX_RANK + 1];
    int64_t axis;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, added, &axis));
    for (int d = 0, from = 0; d < x->rank + added; d++) {
        dims[d] = d == axis ? shape_unknown() : x->dims[from];
        from += !(d == axis && added);
    }
    return shape_set(s, 0, x->dtype, x->rank + added, dims);
}

/* The size of every part where all are equal: 1 without sizes, the scalar, or the sizes. */
static mtbal_dim part_size(mtbal_infer *s, mtbal_dim whole)
{
    int64_t sizes[SHAPE_MAX_CONTENT];
    int n = shape_ints(s, 1, sizes);
    if (!shape_in(s, 1))
        return mtbal_dim_const(1);
    for (int i = 1; i < n; i++)
        if (sizes[i] != sizes[0])
            return shape_unknown();
    if (n < 1 || sizes[0] < 1)
        return shape_unknown();
    bool even = shape_type(s, 1)->rank == 1 || (whole.size >= 0 && whole.size % sizes[0] == 0);
    return even ? mtbal_dim_const(sizes[0]) : shape_unknown();
}

mtbal_status mtbal_shape_split_to_sequence(mtbal_infer *s)
{
    mtbal_type element = *shape_type(s, 0);
    bool keep = shape_in(s, 1) || mtbal_attr_i(s->node, "keepdims", 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis;
    int n = 0;
    if (element.rank < 0)
        return shape_set_kind(s, 0, MTBAL_SEQUENCE, &element);
    MTBAL_TRY(shape_axis(s, "axis", 0, element.rank, 0, &axis));
    for (int d = 0; d < element.rank; d++) {
        if (d != axis)
            dims[n++] = element.dims[d];
        else if (keep)
            dims[n++] = part_size(s, element.dims[d]);
    }
    element.rank = n;
    element.dims = dims;
    return shape_set_kind(s, 0, MTBAL_SEQUENCE, &element);
}

/* ------------------------------------------------------------------ optional values */

/* Of an optional sequence only that it is optional is kept. */
mtbal_status mtbal_shape_optional(mtbal_infer *s)
{
    static const mtbal_type other = {MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    const mtbal_type *x = shape_type(s, 0);
    if (!shape_in(s, 0))
        return MTBAL_OK;
    return shape_set_kind(s, 0, MTBAL_OPTIONAL, x->kind == MTBAL_TENSOR ? x : &other);
}

/* Since opset 18 also of what is not optional. */
mtbal_status mtbal_shape_optional_get(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    if (x->kind != MTBAL_OPTIONAL)
        return shape_set_type(s, 0, x);
    return x->dtype == MTBAL_UNDEFINED ? MTBAL_OK : mtbal_shape_element(s);
}

mtbal_status mtbal_shape_optional_has(mtbal_infer *s)
{
    return shape_set(s, 0, MTBAL_BOOL, 0, NULL);
}
