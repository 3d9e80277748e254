/* graph/ops/elementwise.c: operators that work element by element. */
#include "graph/ops/shapes.h"

#include <string.h>

/* One operand, same type and shape. */
mtbal_status mtbal_shape_same(mtbal_infer *s)
{
    const mtbal_value *x = shape_in(s, 0);
    MTBAL_TRY(shape_set_type(s, 0, shape_type(s, 0)));
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    if (n >= 0 && mtbal_node_is(s->node, "Identity"))
        MTBAL_TRY(shape_set_content(s, n, content));
    if (x && mtbal_node_is(s->node, "Identity") && shape_out(s, 0) && !x->is_input)
        shape_out(s, 0)->tensor = x->tensor;
    return MTBAL_OK;
}

/* Arithmetic on small integer contents. */
static mtbal_status fold_content(mtbal_infer *s)
{
    static const struct {
        const char *op;
        mtbal_dim (*fold)(mtbal_model *, mtbal_dim, mtbal_dim);
    } folds[] = {{"Add", mtbal_dim_add},
                 {"Sub", mtbal_dim_sub},
                 {"Mul", mtbal_dim_mul},
                 {"Div", mtbal_dim_div}};
    const mtbal_dim *a, *b;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int na = shape_content(s, 0, &a), nb = shape_content(s, 1, &b);
    if (na < 0 || nb < 0 || s->node->nin != 2 || (na != nb && na != 1 && nb != 1))
        return MTBAL_OK;
    int n = na > nb ? na : nb;
    for (size_t f = 0; f < sizeof folds / sizeof *folds; f++)
        if (mtbal_node_is(s->node, folds[f].op)) {
            for (int i = 0; i < n; i++)
                result[i] = folds[f].fold(s->model, a[na == 1 ? 0 : i], b[nb == 1 ? 0 : i]);
            return shape_set_content(s, n, result);
        }
    return MTBAL_OK;
}

static mtbal_status broadcast_all(mtbal_infer *s, int first, mtbal_dtype dtype)
{
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_type *t = shape_type(s, first);
    int rank = t->rank > SHAPE_MAX_RANK ? -1 : t->rank;
    for (int i = 0; i < rank; i++)
        dims[i] = t->dims[i];
    for (int i = first + 1; i < s->node->nin && rank >= 0; i++) {
        mtbal_dim joint[SHAPE_MAX_RANK];
        const mtbal_type *u = shape_type(s, i);
        MTBAL_TRY(shape_broadcast(s, rank, dims, u->rank, u->dims, &rank, joint));
        if (rank > 0)
            memcpy(dims, joint, (size_t)rank * sizeof *dims);
    }
    return shape_set(s, 0, dtype, rank, dims);
}

/* Operands broadcast together; the type of the first. */
mtbal_status mtbal_shape_broadcast(mtbal_infer *s)
{
    MTBAL_TRY(broadcast_all(s, 0, shape_type(s, 0)->dtype));
    return fold_content(s);
}

/* Operands broadcast together; bool. */
mtbal_status mtbal_shape_compare(mtbal_infer *s)
{
    return broadcast_all(s, 0, MTBAL_BOOL);
}

/* One operand, same shape, bool. */
mtbal_status mtbal_shape_predicate(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, MTBAL_BOOL, x->rank, x->dims);
}

/* Condition, then two branches of one type. */
mtbal_status mtbal_shape_where(mtbal_infer *s)
{
    const mtbal_dim *a, *b;
    int na = shape_content(s, 1, &a), nb = shape_content(s, 2, &b);
    const mtbal_value *condition = shape_in(s, 0);
    MTBAL_TRY(broadcast_all(s, 0, shape_type(s, 1)->dtype));
    if (na >= 0 && na == nb && condition && condition->tensor && condition->tensor->data &&
        condition->tensor->count == na) {
        mtbal_dim result[SHAPE_MAX_CONTENT];
        for (int i = 0; i < na; i++)
            result[i] = mtbal_tensor_i64(condition->tensor, i) ? a[i] : b[i];
        return shape_set_content(s, na, result);
    }
    if (na >= 0 && na == nb) { /* where both branches agree, the condition does not matter */
        mtbal_dim result[SHAPE_MAX_CONTENT];
        for (int i = 0; i < na; i++)
            result[i] = mtbal_dim_equal(a[i], b[i]) ? a[i] : shape_unknown();
        return shape_set_content(s, na, result);
    }
    return MTBAL_OK;
}

/* Shape of operand 0, type by the attribute `to`. */
mtbal_status mtbal_shape_cast(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dtype to = (mtbal_dtype)mtbal_attr_i(s->node, "to", MTBAL_UNDEFINED);
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    MTBAL_TRY(shape_set(s, 0, to, x->rank, x->dims));
    return n >= 0 && (to == MTBAL_INT64 || to == MTBAL_INT32) ? shape_set_content(s, n, content)
                                                              : MTBAL_OK;
}

/* Shape of operand 0, type of operand 1. */
mtbal_status mtbal_shape_cast_like(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, shape_type(s, 1)->dtype, x->rank, x->dims);
}

/* Dropout: output and mask. */
mtbal_status mtbal_shape_dropout(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    MTBAL_TRY(shape_set_type(s, 0, x));
    return shape_set(s, 1, s->opset >= 10 || s->opset == 0 ? MTBAL_BOOL : x->dtype, x->rank,
                     x->dims);
}

/* Random tensors like operand 0 (attribute dtype), and of the attribute `shape`. */
mtbal_status mtbal_shape_random_like(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, (mtbal_dtype)mtbal_attr_i(s->node, "dtype", x->dtype), x->rank, x->dims);
}

mtbal_status mtbal_shape_random(mtbal_infer *s)
{
    const int64_t *shape;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = mtbal_attr_ints(s->node, "shape", &shape);
    for (int i = 0; i < rank && rank <= SHAPE_MAX_RANK; i++)
        dims[i] = mtbal_dim_const(shape[i]);
    return shape_set(s, 0, (mtbal_dtype)mtbal_attr_i(s->node, "dtype", MTBAL_FLOAT), rank, dims);
}
