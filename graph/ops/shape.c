/* graph/ops/shape.c: operators about shapes: constants and what is made of a shape, reading a
 * shape, and giving the same elements another one. */
#include "graph/ops/shapes.h"

#include <string.h>

/* ------------------------------------------------------------------ constants */

/* A string, or strings: of known type and shape, without contents. */
static mtbal_status constant_strings(mtbal_infer *s, const mtbal_attr *a)
{
    mtbal_dim count = mtbal_dim_const(a->n);
    return shape_set(s, 0, MTBAL_STRING, a->kind == MTBAL_ATTR_STRINGS, &count);
}

static mtbal_tensor *tensor_of(mtbal_infer *s, const mtbal_attr *a)
{
    const int64_t n = a->n;
    switch (a->kind) {
    case MTBAL_ATTR_TENSOR:
        return a->t;
    case MTBAL_ATTR_INT:
        return mtbal_tensor_new(s->model, MTBAL_INT64, 0, NULL, &a->i);
    case MTBAL_ATTR_FLOAT:
        return mtbal_tensor_new(s->model, MTBAL_FLOAT, 0, NULL, &a->f);
    case MTBAL_ATTR_INTS:
        return mtbal_tensor_new(s->model, MTBAL_INT64, 1, &n, a->ints);
    case MTBAL_ATTR_FLOATS:
        return mtbal_tensor_new(s->model, MTBAL_FLOAT, 1, &n, a->floats);
    default:
        return NULL;
    }
}

mtbal_status mtbal_shape_constant(mtbal_infer *s)
{
    mtbal_value *out = shape_out(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_attr *a = s->node->attrs;
    if (!out || (!out->tensor && (!a || a->ref)))
        return MTBAL_OK;
    if (!out->tensor && (a->kind == MTBAL_ATTR_STRING || a->kind == MTBAL_ATTR_STRINGS))
        return constant_strings(s, a);
    if (!out->tensor)
        out->tensor = tensor_of(s, a);
    const mtbal_tensor *t = out->tensor;
    if (!t && a->kind != MTBAL_ATTR_OTHER)
        return mtbal_no_memory(s->diag);
    if (!t || t->rank > SHAPE_MAX_RANK)
        return MTBAL_OK;
    for (int i = 0; i < t->rank; i++)
        dims[i] = mtbal_dim_const(t->dims[i]);
    return shape_set(s, 0, t->dtype, t->rank, dims);
}

mtbal_status mtbal_shape_constant_of_shape(mtbal_infer *s)
{
    const mtbal_attr *value = mtbal_attr_find(s->node, "value");
    mtbal_tensor *t = value && value->kind == MTBAL_ATTR_TENSOR ? value->t : NULL;
    mtbal_dtype dtype = t ? t->dtype : MTBAL_FLOAT;
    const mtbal_type *shape = shape_type(s, 0);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &want);
    int64_t rank = n >= 0 ? n : shape->rank == 1 ? shape->dims[0].size : -1;
    if (rank > SHAPE_MAX_RANK)
        return MTBAL_OK;
    for (int i = 0; i < rank; i++)
        dims[i] = n >= 0 ? want[i] : shape_unknown();
    MTBAL_TRY(shape_set(s, 0, dtype, (int)rank, dims));
    if (!t || n != 1 || want[0].size < 0 || want[0].size > SHAPE_MAX_CONTENT || t->count != 1 ||
        mtbal_dtype_is_float(dtype) || mtbal_tensor_load(s->model, t, NULL) != MTBAL_OK || !t->data)
        return MTBAL_OK;
    for (int64_t i = 0; i < want[0].size; i++)
        dims[i] = shape_number(s->model, mtbal_tensor_i64(t, 0));
    return shape_set_content(s, 0, (int)want[0].size, dims);
}

/* ceil((limit - start) / delta) elements. */
mtbal_status mtbal_shape_range(mtbal_infer *s)
{
    mtbal_dim start = shape_scalar(s, 0), limit = shape_scalar(s, 1), count = shape_unknown();
    mtbal_dim content[SHAPE_MAX_CONTENT];
    int64_t delta, first;
    bool step = shape_scalar_int(s, 2, &delta) && delta != 0;
    double r[SHAPE_MAX_CONTENT], x[3] = {0, 0, 0};
    bool reals = shape_is_unknown(start);
    for (int i = 0; i < 3 && reals; i++) {
        reals = shape_reals(s, i, r) == 1;
        x[i] = reals ? r[0] : 0;
    }
    if (step && delta > 0 && delta < INT32_MAX) {
        mtbal_dim span = mtbal_dim_sub(s->model, limit, start);
        count =
            mtbal_dim_div(s->model, shape_plus(s->model, span, delta - 1), mtbal_dim_const(delta));
    } else if (step && delta < 0 && delta > INT32_MIN) {
        mtbal_dim span = mtbal_dim_sub(s->model, start, limit);
        count = mtbal_dim_div(s->model, shape_plus(s->model, span, -delta - 1),
                              mtbal_dim_const(-delta));
    } else if (reals && x[2] != 0 && (x[1] - x[0]) / x[2] < INT32_MAX) {
        double n = (x[1] - x[0]) / x[2];
        count = mtbal_dim_const(n > 0 ? (int64_t)n + (n > (double)(int64_t)n) : 0);
    }
    if (count.symbol && shape_is_number(count, &first))
        count = mtbal_dim_const(0);
    MTBAL_TRY(shape_set(s, 0, shape_type(s, 0)->dtype, 1, &count));
    if (!step || count.size < 0 || count.size > SHAPE_MAX_CONTENT ||
        !shape_is_number(start, &first))
        return MTBAL_OK;
    for (int64_t i = 0; i < count.size; i++)
        content[i] = shape_number(s->model, first + i * delta);
    return shape_set_content(s, 0, (int)count.size, content);
}

/* ------------------------------------------------------------------ reading a shape */

mtbal_status mtbal_shape_shape(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim length = shape_unknown();
    int64_t start = mtbal_attr_i(s->node, "start", 0), end = mtbal_attr_i(s->node, "end", x->rank);
    if (x->rank < 0)
        return shape_set(s, 0, MTBAL_INT64, 1, &length);
    start = start < 0 ? start + x->rank : start;
    end = end < 0 ? end + x->rank : end;
    start = start < 0 ? 0 : start > x->rank ? x->rank : start;
    end = end < start ? start : end > x->rank ? x->rank : end;
    length = mtbal_dim_const(end - start);
    MTBAL_TRY(shape_set(s, 0, MTBAL_INT64, 1, &length));
    return shape_set_content(s, 0, (int)(end - start), x->dims ? x->dims + start : NULL);
}

mtbal_status mtbal_shape_size(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim count = x->rank < 0 ? shape_unknown() : shape_product(s->model, x->rank, x->dims);
    MTBAL_TRY(shape_set(s, 0, MTBAL_INT64, 0, NULL));
    return shape_set_content(s, 0, 1, &count);
}

/* ------------------------------------------------------------------ another shape */

/* Contents pass through Squeeze, Unsqueeze and Reshape. */
static mtbal_status pass_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    return n >= 0 ? shape_set_content(s, 0, n, content) : MTBAL_OK;
}

/* What is left for the one axis that the others do not say: total / rest. */
static mtbal_status solve(mtbal_infer *s, mtbal_dim total, mtbal_dim rest, mtbal_dim *d)
{
    if (total.size >= 0 && rest.size > 0 && total.size % rest.size)
        return shape_error(s, "the %lld elements of %s cannot be divided by %lld",
                           (long long)total.size, shape_name(s, 0), (long long)rest.size);
    *d = mtbal_dim_div(s->model, total, rest);
    return MTBAL_OK;
}

/* 0 stands for the axis of x, -1 (or, when there is no -1, the one unknown size) for what is left.
 * An unknown axis that is copied cancels. */
static mtbal_status reshape_to(mtbal_infer *s, int n, const mtbal_dim *want)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_CONTENT], rest = mtbal_dim_const(1), total = rest;
    bool copies = !mtbal_attr_i(s->node, "allowzero", 0);
    int open = -1, nopen = 0, ninferred = 0;
    int64_t number;
    for (int i = 0; i < n; i++) {
        bool negative = shape_is_number(want[i], &number) && number < 0;
        bool copied = copies && want[i].size == 0;
        if (negative && number != -1)
            return shape_error(s, "the new shape has an axis of %lld", (long long)number);
        if (negative && ninferred++)
            return shape_error(s, "two axes of the new shape are -1");
        if (copied && x->rank >= 0 && i >= x->rank)
            return shape_error(s, "axis %d is to be copied from %s, which has rank %d", i,
                               shape_name(s, 0), x->rank);
        dims[i] = negative || (copied && x->rank < 0) ? shape_unknown()
                  : copied                            ? x->dims[i]
                                                      : want[i];
        if (!shape_is_unknown(dims[i]))
            rest = mtbal_dim_mul(s->model, rest, dims[i]);
        else if (!copied || x->rank < 0)
            open = nopen++ ? open : i;
    }
    for (int i = 0; i < x->rank; i++)
        if (!(i < n && copies && want[i].size == 0 && shape_is_unknown(x->dims[i])))
            total = mtbal_dim_mul(s->model, total, x->dims[i]);
    if (x->rank < 0)
        total = shape_unknown();
    if (nopen == 1 && !shape_is_unknown(total))
        MTBAL_TRY(solve(s, total, rest, &dims[open]));
    else if (nopen == 0 && total.size >= 0 && rest.size >= 0 && total.size != rest.size)
        return shape_error(s, "the %lld elements of %s cannot become %lld", (long long)total.size,
                           shape_name(s, 0), (long long)rest.size);
    return shape_set(s, 0, x->dtype, n, dims);
}

mtbal_status mtbal_shape_reshape(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *shape = shape_type(s, 1);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_CONTENT];
    const int64_t *attr;
    int n = shape_content(s, 1, &want), nattr = mtbal_attr_ints(s->node, "shape", &attr);
    if (n < 0 && nattr >= 0 && nattr <= SHAPE_MAX_RANK && !shape_in(s, 1)) { /* before opset 5 */
        for (int i = 0; i < nattr; i++)
            dims[i] = shape_number(s->model, attr[i]);
        return reshape_to(s, nattr, dims);
    }
    if (n >= 0 && n <= SHAPE_MAX_RANK) {
        MTBAL_TRY(reshape_to(s, n, want));
        return pass_content(s);
    }
    int64_t rank = shape->rank == 1 ? shape->dims[0].size : -1;
    for (int i = 0; i < rank && rank <= SHAPE_MAX_RANK; i++)
        dims[i] = shape_unknown();
    return shape_set(s, 0, x->dtype, rank <= SHAPE_MAX_RANK ? (int)rank : -1, dims);
}

mtbal_status mtbal_shape_flatten(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[2] = {shape_unknown(), shape_unknown()};
    int64_t axis;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, 2, dims);
    int64_t given = mtbal_attr_i(s->node, "axis", 1);
    axis = given < 0 ? given + x->rank : given;
    if (axis < 0 || axis > x->rank)
        return shape_error(s, "axis is %lld, but %s has rank %d", (long long)given,
                           shape_name(s, 0), x->rank);
    dims[0] = shape_product(s->model, (int)axis, x->dims);
    dims[1] = shape_product(s->model, x->rank - (int)axis, x->dims ? x->dims + axis : NULL);
    return shape_set(s, 0, x->dtype, 2, dims);
}

mtbal_status mtbal_shape_squeeze(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axes[SHAPE_MAX_CONTENT];
    mtbal_dim dims[SHAPE_MAX_RANK];
    bool all;
    mtbal_status status;
    int rank = 0;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    int n = shape_axes(s, 1, x->rank, axes, &all, &status);
    MTBAL_TRY(status);
    if (n < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank; i++) {
        bool gone = all && x->dims[i].size == 1;
        if (all && x->dims[i].size < 0) /* it may be 1 */
            return shape_set(s, 0, x->dtype, -1, NULL);
        for (int k = 0; k < n; k++)
            gone = gone || axes[k] == i;
        if (gone && x->dims[i].size >= 0 && x->dims[i].size != 1)
            return shape_error(s, "axis %d of %s is %lld, not 1: it cannot go", i, shape_name(s, 0),
                               (long long)x->dims[i].size);
        if (!gone)
            dims[rank++] = x->dims[i];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, rank, dims));
    return pass_content(s);
}

mtbal_status mtbal_shape_unsqueeze(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *given = shape_type(s, 1);
    int64_t axes[SHAPE_MAX_CONTENT];
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = shape_attr_or_ints(s, "axes", 1, axes), from = 0;
    if (n < 0 && x->rank >= 0 && given->rank == 1 && given->dims[0].size >= 0 &&
        given->dims[0].size + x->rank <= SHAPE_MAX_RANK) { /* the rank at least */
        int rank = x->rank + (int)given->dims[0].size;
        for (int i = 0; i < rank; i++)
            dims[i] = shape_unknown();
        return shape_set(s, 0, x->dtype, rank, dims);
    }
    if (n < 0 || x->rank < 0 || x->rank + n > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank + n; i++) {
        bool added = false;
        for (int k = 0; k < n; k++)
            added = added || (axes[k] < 0 ? axes[k] + x->rank + n : axes[k]) == i;
        if (!added && from == x->rank)
            return shape_error(s, "axes are repeated, or out of the range of rank %d", x->rank + n);
        dims[i] = added ? mtbal_dim_const(1) : x->dims[from++];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank + n, dims));
    return pass_content(s);
}

/* Expand: x and the shape, broadcast together. */
mtbal_status mtbal_shape_expand(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *shape = shape_type(s, 1);
    const mtbal_dim *want, *content;
    mtbal_dim dims[SHAPE_MAX_CONTENT], unknown[SHAPE_MAX_RANK];
    int rank, n = shape_content(s, 1, &want);
    int64_t number;
    if (n < 0 && shape->rank == 1 && shape->dims[0].size >= 0 &&
        shape->dims[0].size <= SHAPE_MAX_RANK) {
        n = (int)shape->dims[0].size;
        for (int i = 0; i < n; i++)
            unknown[i] = shape_unknown();
        want = unknown;
    }
    if (n < 0 || n > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < n; i++)
        if (shape_is_number(want[i], &number) && number < 0)
            return shape_error(s, "entry %d of the shape %s is %lld", i, shape_name(s, 1),
                               (long long)number);
    MTBAL_TRY(shape_broadcast(s, x->rank, x->dims, n, want, &rank, dims));
    MTBAL_TRY(shape_set(s, 0, x->dtype, rank, dims));
    int64_t count = rank == 1 ? dims[0].size : -1;
    if (count < 0 || count > SHAPE_MAX_CONTENT || shape_content(s, 0, &content) != 1)
        return pass_content(s);
    for (int64_t i = 0; i < count; i++)
        dims[i] = content[0];
    return shape_set_content(s, 0, (int)count, dims);
}
