/* graph/ops/elementwise.c: operators that work element by element. */
#include "graph/ops/shapes.h"

#include <string.h>

/* The content of input 0 as that of output 0. */
static mtbal_status pass_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    return n >= 0 ? shape_set_content(s, 0, n, content) : MTBAL_OK;
}

/* One operand, same type and shape. */
mtbal_status mtbal_shape_same(mtbal_infer *s)
{
    return shape_set_type(s, 0, shape_type(s, 0));
}

/* The same along an axis. */
mtbal_status mtbal_shape_same_axis(mtbal_infer *s)
{
    int64_t axis;
    if (shape_type(s, 0)->rank > 0)
        MTBAL_TRY(shape_axis(s, "axis", -1, shape_type(s, 0)->rank, 0, &axis));
    return mtbal_shape_same(s);
}

/* The same along the axis that operand 1 says. */
mtbal_status mtbal_shape_cumulate(mtbal_infer *s)
{
    int rank = shape_type(s, 0)->rank;
    int64_t axis;
    if (rank >= 0 && shape_scalar_int(s, 1, &axis) && (axis < -rank || axis >= rank))
        return shape_error(s, "its axis is %lld, but %s has rank %d", (long long)axis,
                           shape_name(s, 0), rank);
    return mtbal_shape_same(s);
}

/* The slope broadcasts to operand 0; before opset 7 it had one element, or one a channel. */
mtbal_status mtbal_shape_p_relu(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *slope = shape_type(s, 1);
    bool channels = s->opset < 7 && slope->rank == 1 && x->rank > 1 &&
                    !shape_differs(slope->dims[0], x->dims[1]);
    if (!channels && !shape_broadcasts(slope, x))
        return shape_error(s, "its slope %s does not broadcast to %s", shape_name(s, 1),
                           shape_name(s, 0));
    return shape_set_type(s, 0, x);
}

mtbal_status mtbal_shape_identity(mtbal_infer *s)
{
    const mtbal_value *x = shape_in(s, 0);
    MTBAL_TRY(shape_set_type(s, 0, shape_type(s, 0)));
    if (x && shape_out(s, 0))
        shape_out(s, 0)->tensor = x->is_input ? NULL : x->tensor;
    return pass_content(s);
}

/* Operands broadcast together; the type of the first. */
mtbal_status mtbal_shape_broadcast(mtbal_infer *s)
{
    MTBAL_TRY(shape_broadcast_all(s, 0, shape_type(s, 0)->dtype));
    return shape_fold(s);
}

/* Operands broadcast together; bool. */
mtbal_status mtbal_shape_compare(mtbal_infer *s)
{
    MTBAL_TRY(shape_broadcast_all(s, 0, MTBAL_BOOL));
    return shape_fold(s);
}

/* One operand, same shape, bool. */
mtbal_status mtbal_shape_predicate(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, MTBAL_BOOL, x->rank, x->dims);
}

mtbal_status mtbal_shape_not(mtbal_infer *s)
{
    const mtbal_dim *content;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &content);
    MTBAL_TRY(mtbal_shape_predicate(s));
    for (int i = 0; i < n; i++)
        result[i] = content[i].size < 0 ? shape_unknown() : mtbal_dim_const(!content[i].size);
    return shape_set_content(s, 0, n, result);
}

mtbal_status mtbal_shape_neg(mtbal_infer *s)
{
    const mtbal_dim *content;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &content);
    MTBAL_TRY(mtbal_shape_same(s));
    for (int i = 0; i < n; i++)
        result[i] = mtbal_dim_sub(s->model, mtbal_dim_const(0), content[i]);
    return shape_set_content(s, 0, n, result);
}

/* Condition, then two branches of one type. Where both branches agree, the condition does not
 * matter. */
mtbal_status mtbal_shape_where(mtbal_infer *s)
{
    const mtbal_dim *part[3];
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int n[3], count = 1;
    MTBAL_TRY(shape_broadcast_all(s, 0, shape_type(s, 1)->dtype));
    for (int i = 0; i < 3; i++) {
        n[i] = shape_content(s, i, &part[i]);
        if (n[i] < 0 && i > 0)
            return MTBAL_OK;
        count = n[i] >= 0 && n[i] != 1 ? n[i] : count;
    }
    for (int k = 0; k < count; k++) {
        for (int i = 0; i < 3; i++)
            if (n[i] >= 0 && n[i] != 1 && n[i] != count)
                return MTBAL_OK;
        mtbal_dim c = n[0] < 0 ? shape_unknown() : part[0][n[0] == 1 ? 0 : k];
        mtbal_dim a = part[1][n[1] == 1 ? 0 : k], b = part[2][n[2] == 1 ? 0 : k];
        bool same = shape_same_dim(s->model, a, b);
        result[k] = c.size >= 0 ? (c.size ? a : b) : same ? a : shape_unknown();
    }
    return shape_set_content(s, 0, count, result);
}

/* Shape of operand 0, type by the attribute `to`. */
mtbal_status mtbal_shape_cast(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype to = (mtbal_dtype)mtbal_attr_i(s->node, "to", MTBAL_UNDEFINED);
    MTBAL_TRY(shape_set(s, 0, to, x->rank, x->dims));
    return to == MTBAL_BOOL && x->dtype != MTBAL_BOOL ? MTBAL_OK : pass_content(s);
}

/* Shape of operand 0, type of operand 1. */
mtbal_status mtbal_shape_cast_like(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype to = shape_type(s, 1)->dtype;
    MTBAL_TRY(shape_set(s, 0, to, x->rank, x->dims));
    return to == MTBAL_BOOL && x->dtype != MTBAL_BOOL ? MTBAL_OK : pass_content(s);
}

/* The bits of operand 0 as another type of the same size. */
mtbal_status mtbal_shape_bit_cast(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype to = (mtbal_dtype)mtbal_attr_i(s->node, "to", MTBAL_UNDEFINED);
    return shape_set(s, 0, to, x->rank, x->dims);
}
