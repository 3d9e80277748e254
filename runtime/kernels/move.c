/* runtime/kernels/move.c: operators that move elements, or make them from positions. */
#include "runtime/kernels/kernels.h"

#include <string.h>

/* copy: X -> Y, as many bytes as Y has. */
void rt_copy(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)env, (void)attr;
    memmove(out[0].data, in[0].data, (size_t)rt_count(&out[0]) * rt_dtype_size(out[0].dtype));
}

/* fill: Y = value. */
void rt_fill(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    double value = ((const rt_fill_attr *)attr)->value;
    int64_t n = rt_count(&out[0]);
    (void)env, (void)in;
    if (value == 0) {
        memset(out[0].data, 0, (size_t)n * rt_dtype_size(out[0].dtype));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        rt_set_f64(&out[0], i, value);
}

/* One row of `n` elements of `size` bytes, `from` apart and `to` apart. */
static void copy_row(char *y, int64_t to, const char *x, int64_t from, int64_t n, size_t size)
{
    if (to == 1 && from == 1) {
        memcpy(y, x, (size_t)n * size);
        return;
    }
#define ROW(T)                      \
    for (int64_t i = 0; i < n; i++) \
        ((T *)(void *)y)[i * to] = ((const T *)(const void *)x)[i * from];
    if (size == 4) {
        ROW(uint32_t)
    } else if (size == 8) {
        ROW(uint64_t)
    } else if (size == 2) {
        ROW(uint16_t)
    } else {
        ROW(uint8_t)
    }
#undef ROW
}

/* Walks the rows of `dims`; one side is dense, the other lies at offset + sum of index x stride. */
static void walk(const rt_tensor *dense, const rt_tensor *spread, int64_t offset,
                 const int32_t *stride, int put)
{
    int r = dense->rank;
    int64_t n = r ? dense->dims[r - 1] : 1, count = rt_count(dense), index[RT_MAX_RANK] = {0},
            at = offset;
    size_t size = rt_dtype_size(dense->dtype);
    int64_t step = r ? stride[r - 1] : 1;
    if (count == 0)
        return;
    for (int64_t done = 0; done < count; done += n) {
        char *d = (char *)dense->data + (size_t)done * size,
             *s = (char *)spread->data + at * (int64_t)size;
        if (put)
            copy_row(s, step, d, 1, n, size);
        else
            copy_row(d, 1, s, step, n, size);
        for (int k = r - 2; k >= 0; k--) {
            at += stride[k];
            if (++index[k] < dense->dims[k])
                break;
            at -= stride[k] * dense->dims[k];
            index[k] = 0;
        }
    }
}

/* strided: Y[i..] = X[offset + sum i_d stride_d]: slices, transposes, expansions, parts. Strides in
 * elements, one per axis of Y. */
void rt_strided(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_strided_attr *a = (const rt_strided_attr *)attr;
    (void)env;
    walk(&out[0], &in[0], a->offset, a->stride, 0);
}

/* strided_put: Y[offset + sum i_d stride_d] = X[i..]; the rest of Y stays as it is. Strides per
 * axis of X. Y is also in[1], so that it is known to be live. */
void rt_strided_put(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_strided_put_attr *a = (const rt_strided_put_attr *)attr;
    (void)env;
    walk(&in[0], &out[0], a->offset, a->stride, 1);
}

/* range: start, limit, delta (scalars) -> Y; only start and delta are read. */
void rt_range(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int64_t n = rt_count(&out[0]);
    (void)env, (void)attr;
    for (int64_t i = 0; i < n; i++) {
        if (rt_is_float(out[0].dtype))
            rt_set_f64(&out[0], i, rt_get_f64(&in[0], 0) + (double)i * rt_get_f64(&in[2], 0));
        else
            rt_set_i64(&out[0], i,
                       (int64_t)((uint64_t)rt_get_i64(&in[0], 0) +
                                 (uint64_t)i * (uint64_t)rt_get_i64(&in[2], 0)));
    }
}

/* trilu: X (.., R, C) -> Y: the upper (or lower) triangle from diagonal k on; 0 elsewhere. */
void rt_trilu(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_trilu_attr *a = (const rt_trilu_attr *)attr;
    int r = out[0].rank;
    int64_t rows = out[0].dims[r - 2], cols = out[0].dims[r - 1], n = rt_count(&out[0]);
    size_t size = rt_dtype_size(out[0].dtype);
    (void)env;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = i / cols % rows, col = i % cols;
        int keep = a->upper ? col - row >= a->k : col - row <= a->k;
        char *to = (char *)out[0].data + (size_t)i * size;
        if (keep)
            memcpy(to, (const char *)in[0].data + (size_t)i * size, size);
        else
            memset(to, 0, size);
    }
}

/* eye: Y (R, C): ones on diagonal k. */
void rt_eye(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int64_t cols = out[0].dims[1], n = rt_count(&out[0]), k = ((const rt_eye_attr *)attr)->k;
    (void)env, (void)in;
    for (int64_t i = 0; i < n; i++)
        rt_set_f64(&out[0], i, i % cols - i / cols == k);
}

/* cum_sum: X -> Y along an axis. */
void rt_cum_sum(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_cum_sum_attr *a = (const rt_cum_sum_attr *)attr;
    const rt_tensor *y = &out[0];
    int64_t n = y->dims[a->axis], inner = rt_product(y->dims, a->axis + 1, y->rank),
            outer = rt_product(y->dims, 0, a->axis);
    int is_float = rt_is_float(y->dtype);
    (void)env;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            double sum = 0;
            uint64_t whole = 0;
            for (int64_t k = 0; k < n; k++) {
                int64_t at = (o * n + (a->reverse ? n - 1 - k : k)) * inner + i;
                double x = is_float ? rt_get_f64(&in[0], at) : 0;
                uint64_t u = is_float ? 0 : (uint64_t)rt_get_i64(&in[0], at);
                if (!a->exclusive)
                    sum += x, whole += u;
                if (is_float)
                    rt_set_f64(y, at, sum);
                else
                    rt_set_i64(y, at, (int64_t)whole);
                if (a->exclusive)
                    sum += x, whole += u;
            }
        }
}

/* The lines along the axis of cum_prod: line l is elements base, base + step, .. */
typedef struct line_walk {
    int64_t n, step, count;
    int back; /* from the last to the first */
} line_walk;

static line_walk lines_along(const rt_cum_prod_attr *a, const rt_tensor *y)
{
    line_walk w = {y->dims[a->axis], rt_product(y->dims, a->axis + 1, y->rank), 0, a->reverse};
    w.count = rt_product(y->dims, 0, a->axis) * w.step;
    return w;
}

/* Element k of line l. */
static int64_t on_line(const line_walk *w, int64_t l, int64_t k)
{
    return (l / w->step * w->n + (w->back ? w->n - 1 - k : k)) * w->step + l % w->step;
}

/* cum_prod: X -> Y along an axis. */
void rt_cum_prod(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_cum_prod_attr *a = (const rt_cum_prod_attr *)attr;
    line_walk w = lines_along(a, &out[0]);
    int is_float = rt_is_float(out[0].dtype);
    (void)env;
    for (int64_t l = 0; l < w.count; l++) {
        double product = 1;
        uint64_t whole = 1;
        for (int64_t k = 0; k < w.n; k++) {
            int64_t at = on_line(&w, l, k);
            double x = is_float ? rt_get_f64(&in[0], at) : 1;
            uint64_t u = is_float ? 1 : (uint64_t)rt_get_i64(&in[0], at);
            if (!a->exclusive)
                product *= x, whole *= u;
            if (is_float)
                rt_set_f64(&out[0], at, product);
            else
                rt_set_i64(&out[0], at, (int64_t)whole);
            if (a->exclusive)
                product *= x, whole *= u;
        }
    }
}

/* cum_prod_grad: dY, X -> dX. dX_i is the product of all x before i, times the sum over what comes
 * from i on (behind i: exclusive) of dY_j and the x between: a sum that grows backwards. Nothing is
 * divided by x, which may be 0. */
void rt_cum_prod_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                      const rt_tensor *out)
{
    const rt_cum_prod_attr *a = (const rt_cum_prod_attr *)attr;
    line_walk w = lines_along(a, &out[0]);
    (void)env;
    for (int64_t l = 0; l < w.count; l++) {
        double sum = 0, product = 1;
        for (int64_t k = w.n - 1; k >= 0; k--) {
            int64_t at = on_line(&w, l, k);
            double dy = rt_get_f64(&in[0], at), x = rt_get_f64(&in[1], at);
            double here = a->exclusive ? sum : sum + dy;
            rt_set_f64(&out[0], at, here);
            sum = a->exclusive ? dy + x * sum : x * here;
        }
        for (int64_t k = 0; k < w.n; k++) {
            int64_t at = on_line(&w, l, k);
            rt_set_f64(&out[0], at, rt_get_f64(&out[0], at) * product);
            product *= rt_get_f64(&in[1], at);
        }
    }
}

/* Where a position in the padded axis comes from; -1: from nowhere. mode 0 constant, 1 reflect, 2
 * edge, 3 wrap. */
static int64_t pad_source(int64_t i, int64_t size, int mode)
{
    if ((i >= 0 && i < size) || mode == 0)
        return i >= 0 && i < size ? i : -1;
    if (size == 1 || mode == 2)
        return i < 0 ? 0 : size - 1;
    int64_t period = mode == 1 ? 2 * (size - 1) : size;
    int64_t at = i % period;
    at += at < 0 ? period : 0;
    return at < size ? at : period - at;
}

/* pad: X, value (a scalar; left out: the attribute) -> Y; begin: elements before X on each axis,
 * negative: cut off. */
void rt_pad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_pad_attr *a = (const rt_pad_attr *)attr;
    const rt_tensor *x = &in[0], *y = &out[0];
    int64_t n = rt_count(y), index[RT_MAX_RANK] = {0};
    size_t size = rt_dtype_size(y->dtype);
    (void)env;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = 0;
        for (int d = 0; d < y->rank && at >= 0; d++) {
            int64_t have = x->dims[d], end = y->dims[d] - have - a->begin[d];
            int64_t low = a->begin[d] < 0 ? -a->begin[d] : 0, high = end < 0 ? have + end : have;
            /* cut first: what is padded with comes from what is left */
            int64_t from =
                high > low ? pad_source(index[d] - a->begin[d] - low, high - low, a->mode) : -1;
            from = from < 0 ? -1 : from + low;
            at = from < 0 ? -1 : at * x->dims[d] + from;
        }
        if (at >= 0)
            memcpy((char *)y->data + (size_t)i * size, (const char *)x->data + (size_t)at * size,
                   size);
        else if (in[1].data)
            memcpy((char *)y->data + (size_t)i * size, in[1].data, size);
        else
            rt_set_f64(y, i, a->value);
        for (int d = y->rank - 1; d >= 0 && ++index[d] == y->dims[d]; d--)
            index[d] = 0;
    }
}

/* reverse_sequence: X, lengths -> Y: the first lengths[b] steps of each sequence, backwards. */
void rt_reverse_sequence(const rt_env *env, const void *attr, const rt_tensor *in,
                         const rt_tensor *out)
{
    const rt_reverse_sequence_attr *a = (const rt_reverse_sequence_attr *)attr;
    const rt_tensor *y = &out[0];
    int64_t steps = y->dims[a->time_axis], inner = rt_product(y->dims, 2, y->rank), n1 = y->dims[1];
    size_t size = rt_dtype_size(y->dtype) * (size_t)inner;
    if (!rt_lengths_fit(env, &in[1], steps))
        return;
    for (int64_t t = 0; t < steps; t++)
        for (int64_t b = 0; b < y->dims[a->batch_axis]; b++) {
            int64_t length = rt_get_i64(&in[1], b), from = t < length ? length - 1 - t : t;
            int64_t to_row = a->time_axis == 0 ? t * n1 + b : b * n1 + t;
            int64_t from_row = a->time_axis == 0 ? from * n1 + b : b * n1 + from;
            memcpy((char *)y->data + (size_t)to_row * size,
                   (const char *)in[0].data + (size_t)from_row * size, size);
        }
}
