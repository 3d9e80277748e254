/* runtime/kernels/pool.c: pooling over windows, and the gradient of the maximum. Up to three
 * spatial axes. */
#include "runtime/kernels/kernels.h"

#include <string.h>

typedef struct windows {
    int64_t planes, in[3], out[3], in_size, out_size, kernel[3], stride[3], dilation[3], pad[3];
} windows;

static windows read_windows(const rt_max_pool_attr *a, const rt_tensor *x, const rt_tensor *y)
{
    windows w;
    int lead = 3 - (x->rank - 2);
    w.planes = x->dims[0] * x->dims[1];
    w.in_size = w.out_size = 1;
    for (int i = 0; i < 3; i++) {
        int real = i >= lead;
        w.in[i] = real ? x->dims[i - lead + 2] : 1;
        w.out[i] = real ? y->dims[i - lead + 2] : 1;
        w.kernel[i] = real ? a->kernel[i - lead] : 1;
        w.stride[i] = real ? a->stride[i - lead] : 1;
        w.dilation[i] = real ? a->dilation[i - lead] : 1;
        w.pad[i] = real ? a->pad[i - lead] : 0;
        w.in_size *= w.in[i];
        w.out_size *= w.out[i];
    }
    return w;
}

/* Where the window of output o begins, per axis. */
static void begin_of(const windows *w, int64_t o, int64_t *begin)
{
    for (int d = 2; d >= 0; d--) {
        begin[d] = o % w->out[d] * w->stride[d] - w->pad[d];
        o /= w->out[d];
    }
}

/* Flat position of window element k, or -1 outside. */
static int64_t position(const windows *w, const int64_t *begin, int64_t k)
{
    int64_t at = 0, step = 1;
    for (int d = 2; d >= 0; d--) {
        int64_t x = begin[d] + k % w->kernel[d] * w->dilation[d];
        k /= w->kernel[d];
        if (x < 0 || x >= w->in[d])
            return -1;
        at += x * step;
        step *= w->in[d];
    }
    return at;
}

/* The window elements k in [first, last) of axis d that lie inside. */
static void inside_of(const windows *w, int d, int64_t begin, int64_t *first, int64_t *last)
{
    int64_t step = w->dilation[d], room = w->in[d] - begin;
    *first = begin < 0 ? (step - 1 - begin) / step : 0;
    *last = room <= 0 ? 0 : (room + step - 1) / step;
    *last = *last < w->kernel[d] ? *last : w->kernel[d];
}

/* The first largest element of a window; a NaN is the largest. -1: the window is empty. */
static int64_t largest(const windows *w, const rt_tensor *x, int64_t plane, int64_t o)
{
    int64_t begin[3], first[3], last[3], best = -1;
    double most = 0;
    begin_of(w, o, begin);
    for (int d = 0; d < 3; d++)
        inside_of(w, d, begin[d], &first[d], &last[d]);
    for (int64_t a = first[0]; a < last[0]; a++)
        for (int64_t b = first[1]; b < last[1]; b++) {
            int64_t row =
                (begin[0] + a * w->dilation[0]) * w->in[1] + begin[1] + b * w->dilation[1];
            for (int64_t c = first[2]; c < last[2]; c++) {
                int64_t at = row * w->in[2] + begin[2] + c * w->dilation[2];
                int64_t from = plane * w->in_size + at;
                double v = x->dtype == RT_F32 ? (double)((const float *)x->data)[from]
                                              : rt_get_f64(x, from);
                if (best < 0 || v > most || (v != v && most == most)) {
                    best = at;
                    most = v;
                }
            }
        }
    return best;
}

/* max_pool: X -> Y, Indices (int64, flat in X) or left out. */
void rt_max_pool(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    windows w = read_windows((const rt_max_pool_attr *)attr, &in[0], &out[0]);
    size_t size = rt_dtype_size(in[0].dtype);
    (void)env;
    for (int64_t p = 0; p < w.planes; p++)
        for (int64_t o = 0; o < w.out_size; o++) {
            int64_t at = largest(&w, &in[0], p, o), to = p * w.out_size + o;
            at = (at < 0 ? 0 : at) + p * w.in_size;
            memcpy((char *)out[0].data + (size_t)to * size,
                   (const char *)in[0].data + (size_t)at * size, size);
            if (out[1].data)
                ((int64_t *)out[1].data)[to] = at;
        }
}

/* max_pool_grad: X, dY -> dX. */
void rt_max_pool_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                      const rt_tensor *out)
{
    windows w = read_windows((const rt_max_pool_attr *)attr, &in[0], &in[1]);
    (void)env;
    memset(out[0].data, 0, (size_t)rt_count(&out[0]) * rt_dtype_size(out[0].dtype));
    for (int64_t p = 0; p < w.planes; p++)
        for (int64_t o = 0; o < w.out_size; o++) {
            int64_t at = largest(&w, &in[0], p, o);
            if (at < 0)
                continue;
            at += p * w.in_size;
            if (in[1].dtype == RT_F32)
                ((float *)out[0].data)[at] += ((const float *)in[1].data)[p * w.out_size + o];
            else
                rt_set_f64(&out[0], at,
                           rt_get_f64(&out[0], at) + rt_get_f64(&in[1], p * w.out_size + o));
        }
}

/* average_pool: X -> Y. Elements outside X count 0, and count as elements where count_pad is set
 * (but never beyond the padding, where ceil_mode lets a window hang over). */
void rt_average_pool(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_average_pool_attr *a = (const rt_average_pool_attr *)attr;
    windows w = read_windows((const rt_max_pool_attr *)attr, &in[0], &out[0]);
    int lead = 3 - (in[0].rank - 2);
    (void)env;
    for (int64_t p = 0; p < w.planes; p++)
        for (int64_t o = 0; o < w.out_size; o++) {
            int64_t begin[3], size = w.kernel[0] * w.kernel[1] * w.kernel[2], count = 0, padded = 1;
            double sum = 0;
            begin_of(&w, o, begin);
            for (int64_t k = 0; k < size; k++) {
                int64_t at = position(&w, begin, k);
                count += at >= 0;
                sum += at >= 0 ? rt_get_f64(&in[0], p * w.in_size + at) : 0;
            }
            for (int d = 0; d < 3; d++) {
                int64_t inside = 0, end = w.in[d] + (d >= lead ? a->pad_end[d - lead] : 0);
                for (int64_t k = 0; k < w.kernel[d]; k++)
                    inside += begin[d] + k * w.dilation[d] < end;
                padded *= inside;
            }
            count = a->count_pad ? padded : count;
            rt_set_f64(&out[0], p * w.out_size + o, count ? sum / (double)count : 0);
        }
}
