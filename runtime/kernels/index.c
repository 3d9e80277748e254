/* runtime/kernels/index.c: gathers, scatters, selections. An index outside of its axis fails the
 * run. */
#include "runtime/kernels/kernels.h"

#include <math.h>
#include <string.h>

/* gather: X, indices -> Y along `axis`. */
void rt_gather(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_tensor *x = &in[0];
    int axis = ((const rt_gather_attr *)attr)->axis;
    int64_t outer = rt_product(x->dims, 0, axis), size = x->dims[axis], n = rt_count(&in[1]);
    size_t row = (size_t)rt_product(x->dims, axis + 1, x->rank) * rt_dtype_size(x->dtype);
    if (!rt_indices_fit(env, &in[1], size))
        return;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n; i++)
            memcpy((char *)out[0].data + (size_t)(o * n + i) * row,
                   (const char *)x->data + (size_t)(o * size + rt_index(&in[1], i, size)) * row,
                   row);
}

/* Element of `data` that index element i of gather_elements and scatter_elements means. */
static int64_t element_at(const rt_tensor *data, const rt_tensor *index, int64_t i, int axis)
{
    int64_t at = 0, step = 1, rest = i;
    for (int d = index->rank - 1; d >= 0; d--) {
        int64_t x = rest % index->dims[d];
        rest /= index->dims[d];
        at += step * (d == axis ? rt_index(index, i, data->dims[d]) : x);
        step *= data->dims[d];
    }
    return at;
}

/* gather_elements: X, indices -> Y of the indices' shape. */
void rt_gather_elements(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    int axis = ((const rt_gather_elements_attr *)attr)->axis;
    int64_t n = rt_count(&in[1]);
    size_t size = rt_dtype_size(in[0].dtype);
    if (!rt_indices_fit(env, &in[1], in[0].dims[axis]))
        return;
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)out[0].data + (size_t)i * size,
               (const char *)in[0].data + (size_t)element_at(&in[0], &in[1], i, axis) * size, size);
}

/* Offset of slice i of a gather_nd or scatter_nd, in slices. */
static int64_t slice_at(const rt_tensor *data, const rt_tensor *index, int64_t i, int batch_dims,
                        int64_t slices_a_batch)
{
    int64_t depth = index->dims[index->rank - 1], at = 0;
    for (int64_t k = 0; k < depth; k++) {
        int64_t size = data->dims[batch_dims + k];
        at = at * size + rt_index(index, i * depth + k, size);
    }
    if (batch_dims) {
        int64_t a_batch = rt_product(index->dims, batch_dims, index->rank - 1);
        at += i / a_batch * slices_a_batch;
    }
    return at;
}

/* Whether the indices of a gather_nd or scatter_nd fit, each of its axis. */
static int indices_nd_fit(const rt_env *env, const rt_tensor *data, const rt_tensor *index,
                          int batch_dims)
{
    int64_t depth = index->dims[index->rank - 1];
    int fit = 1;
    for (int64_t k = 0; k < depth; k++) {
        int64_t size = data->dims[batch_dims + k];
        fit &= rt_within(env, index, k, depth, -size, size, RT_BAD_INDEX);
    }
    return fit;
}

/* gather_nd: X, indices (.., depth) -> Y. */
void rt_gather_nd(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int batch = ((const rt_gather_nd_attr *)attr)->batch_dims;
    const rt_tensor *x = &in[0], *index = &in[1];
    int depth = (int)index->dims[index->rank - 1];
    int64_t n = rt_product(index->dims, 0, index->rank - 1),
            slices = rt_product(x->dims, batch, batch + depth);
    size_t size = (size_t)rt_product(x->dims, batch + depth, x->rank) * rt_dtype_size(x->dtype);
    if (!indices_nd_fit(env, x, index, batch))
        return;
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)out[0].data + (size_t)i * size,
               (const char *)x->data + (size_t)slice_at(x, index, i, batch, slices) * size, size);
}

/* y op x. reduction: 0 none, 1 add, 2 mul, 3 max, 4 min. */
static void combine(const rt_tensor *y, int64_t at, const rt_tensor *x, int64_t i, int reduction)
{
    if (reduction == 1 && y->dtype == RT_F32) {
        ((float *)y->data)[at] += ((const float *)x->data)[i];
    } else if (reduction == 0) {
        size_t size = rt_dtype_size(y->dtype);
        memcpy((char *)y->data + (size_t)at * size, (const char *)x->data + (size_t)i * size, size);
    } else if (rt_is_float(y->dtype)) {
        double a = rt_get_f64(y, at), b = rt_get_f64(x, i);
        rt_set_f64(y, at,
                   reduction == 1                ? a + b
                   : reduction == 2              ? a * b
                   : (reduction == 3) == (a > b) ? a
                                                 : b);
    } else {
        int64_t a = rt_get_i64(y, at), b = rt_get_i64(x, i);
        uint64_t u = (uint64_t)a, v = (uint64_t)b;
        rt_set_i64(y, at,
                   reduction == 1                ? (int64_t)(u + v)
                   : reduction == 2              ? (int64_t)(u * v)
                   : (reduction == 3) == (a > b) ? a
                                                 : b);
    }
}

static void copy_data(const rt_tensor *x, const rt_tensor *y)
{
    if (x->data != y->data)
        memcpy(y->data, x->data, (size_t)rt_count(y) * rt_dtype_size(y->dtype));
}

/* scatter_elements: X, indices, updates -> Y. In place allowed. */
void rt_scatter_elements(const rt_env *env, const void *attr, const rt_tensor *in,
                         const rt_tensor *out)
{
    const rt_scatter_elements_attr *a = (const rt_scatter_elements_attr *)attr;
    int64_t n = rt_count(&in[1]);
    if (!rt_indices_fit(env, &in[1], out[0].dims[a->axis]))
        return;
    copy_data(&in[0], &out[0]);
    for (int64_t i = 0; i < n; i++)
        combine(&out[0], element_at(&out[0], &in[1], i, a->axis), &in[2], i, a->reduction);
}

/* scatter_nd: X, indices (.., depth), updates -> Y. In place allowed. */
void rt_scatter_nd(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_tensor *index = &in[1], *y = &out[0];
    int depth = (int)index->dims[index->rank - 1];
    int64_t n = rt_product(index->dims, 0, index->rank - 1),
            size = rt_product(y->dims, depth, y->rank);
    int reduction = ((const rt_scatter_nd_attr *)attr)->reduction;
    if (!indices_nd_fit(env, y, index, 0))
        return;
    copy_data(&in[0], y);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = slice_at(y, index, i, 0, 0) * size;
        for (int64_t k = 0; k < size; k++)
            combine(y, at + k, &in[2], i * size + k, reduction);
    }
}

/* gather_grad: dY (indices.., row), indices -> dX (rows, row): rows of dY added up where they were
 * taken from axis 0. */
void rt_gather_grad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_tensor *dx = &out[0];
    int64_t n = rt_count(&in[1]), rows = dx->dims[0], row = rt_product(dx->dims, 1, dx->rank);
    (void)attr;
    if (!rt_indices_fit(env, &in[1], rows))
        return;
    memset(dx->data, 0, (size_t)rt_count(dx) * rt_dtype_size(dx->dtype));
    for (int64_t i = 0; i < n; i++) {
        int64_t to = rt_index(&in[1], i, rows) * row;
        for (int64_t k = 0; k < row; k++)
            combine(dx, to + k, &in[0], i * row + k, 1);
    }
}

/* one_hot: indices, depth, values [off, on] -> Y with a new axis. An index outside [-depth, depth)
 * gives a row of off. */
void rt_one_hot(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int axis = ((const rt_one_hot_attr *)attr)->axis;
    const rt_tensor *y = &out[0];
    int64_t depth = y->dims[axis], inner = rt_product(y->dims, axis + 1, y->rank), n = rt_count(y);
    size_t size = rt_dtype_size(y->dtype);
    (void)env;
    for (int64_t i = 0; i < n; i++) {
        int64_t from = i / (inner * depth) * inner + i % inner, k = i / inner % depth;
        /* of a float too: a whole number, or the one below it in size */
        double at = rt_is_float(in[0].dtype) ? trunc(rt_get_f64(&in[0], from))
                                             : (double)rt_get_i64(&in[0], from);
        int hit = at == (double)k || at + (double)depth == (double)k;
        memcpy((char *)y->data + (size_t)i * size, (const char *)in[2].data + (hit ? size : 0),
               size);
    }
}
