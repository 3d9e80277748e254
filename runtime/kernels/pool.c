/* runtime/kernels/pool.c: pooling over windows, and the gradient of the maximum. Up to three
 * spatial axes. */
#include "runtime/kernels/kernels.h"

#include <math.h>
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

/* The window of an output: where it begins, and its elements [first, last) that lie inside, along
 * each axis. */
typedef struct window {
    int64_t out[3], begin[3], first[3], last[3];
} window;

/* ceil(a / b), a >= 0 */
static int64_t steps(int64_t a, int64_t b)
{
    return b == 1 ? a : (a + b - 1) / b;
}

static void place(const windows *w, window *v, int d)
{
    int64_t begin = v->out[d] * w->stride[d] - w->pad[d], room = w->in[d] - begin;
    v->begin[d] = begin;
    v->first[d] = begin < 0 ? steps(-begin, w->dilation[d]) : 0;
    v->last[d] = room <= 0 ? 0 : steps(room, w->dilation[d]);
    v->last[d] = v->last[d] < w->kernel[d] ? v->last[d] : w->kernel[d];
}

static window first_window(const windows *w)
{
    window v;
    for (int d = 0; d < 3; d++) {
        v.out[d] = 0;
        place(w, &v, d);
    }
    return v;
}

static void next_window(const windows *w, window *v)
{
    for (int d = 2; d >= 0; d--) {
        int more = ++v->out[d] < w->out[d];
        v->out[d] = more ? v->out[d] : 0;
        place(w, v, d);
        if (more)
            return;
    }
}

/* Runs BODY for each element `at` of the plane that lies in the window. */
#define EACH(BODY)                                                                                \
    for (int64_t a = v->first[0]; a < v->last[0]; a++)                                            \
        for (int64_t b = v->first[1]; b < v->last[1]; b++) {                                      \
            int64_t row =                                                                         \
                (v->begin[0] + a * w->dilation[0]) * w->in[1] + v->begin[1] + b * w->dilation[1]; \
            int64_t at = row * w->in[2] + v->begin[2] + v->first[2] * w->dilation[2];             \
            for (int64_t c = v->first[2]; c < v->last[2]; c++, at += w->dilation[2])              \
                BODY                                                                              \
        }

/* Where the window has `most`, or its first NaN; -1: it is empty. */
static int64_t place_f32(const windows *w, const window *v, const float *p, float most)
{
    EACH(if (p[at] == most || (p[at] != p[at] && most != most)) return at;)
    return -1;
}

/* The largest elements of the windows of n outputs of a row, from output `from` on; a NaN is the
 * largest. Row by row of the input, without branches, for which data are no rule. */
static void largest_f32(const windows *w, const window *v, const float *p, int64_t from, int64_t n,
                        float *most)
{
    for (int64_t i = 0; i < n; i++)
        most[i] = -INFINITY;
    for (int64_t a = v->first[0]; a < v->last[0]; a++)
        for (int64_t b = v->first[1]; b < v->last[1]; b++)
            for (int64_t c = 0; c < w->kernel[2]; c++) {
                int64_t row = (v->begin[0] + a * w->dilation[0]) * w->in[1] + v->begin[1] +
                              b * w->dilation[1];
                int64_t shift = c * w->dilation[2] - w->pad[2], step = w->stride[2];
                int64_t low = shift < 0 ? steps(-shift, step) : 0;
                int64_t high = w->in[2] > shift ? steps(w->in[2] - shift, step) : 0;
                const float *x = p + row * w->in[2] + shift;
                low = low > from ? low : from;
                high = high < from + n ? high : from + n;
                for (int64_t o = low; o < high; o++) {
                    float e = x[o * step], m = most[o - from];
                    most[o - from] = e > m || e != e ? e : m;
                }
            }
}

/* The first largest element of a window; a NaN is the largest. -1: the window is empty. */
static int64_t largest(const windows *w, const window *v, const rt_tensor *x, int64_t plane)
{
    int64_t best = -1;
    double most = 0;
    EACH({
        double y = rt_get_f64(x, plane * w->in_size + at);
        if (best < 0 || y > most || (y != y && most == most)) {
            best = at;
            most = y;
        }
    })
    return best;
}

static double sum_of(const windows *w, const window *v, const rt_tensor *x, int64_t plane)
{
    double sum = 0;
    if (x->dtype == RT_F32) {
        const float *p = (const float *)x->data + plane * w->in_size;
        EACH(sum += (double)p[at];)
    } else {
        EACH(sum += rt_get_f64(x, plane * w->in_size + at);)
    }
    return sum;
}

typedef struct pool_job {
    windows w;
    const rt_tensor *in, *out;
    const rt_average_pool_attr *average;
    int lead; /* axes that the tensors lack */
} pool_job;

static int64_t grain(const windows *w)
{
    int64_t work = w->out_size * w->kernel[0] * w->kernel[1] * w->kernel[2];
    return 8192 / (work + 1) + 1;
}

/* Values only, of floats. */
static void max_plane_f32(const pool_job *j, int64_t p)
{
    const windows *w = &j->w;
    const float *x = (const float *)j->in[0].data + p * w->in_size;
    float *y = (float *)j->out[0].data + p * w->out_size;
    window v = first_window(w);
    for (int64_t row = 0; row < w->out_size; row += w->out[2]) {
        largest_f32(w, &v, x, 0, w->out[2], y + row);
        v.out[2] = w->out[2] - 1;
        next_window(w, &v);
    }
}

static void max_plane(const pool_job *j, int64_t p)
{
    size_t size = rt_dtype_size(j->in[0].dtype);
    window v = first_window(&j->w);
    for (int64_t o = 0; o < j->w.out_size; o++, next_window(&j->w, &v)) {
        int64_t at = largest(&j->w, &v, &j->in[0], p), to = p * j->w.out_size + o;
        if (at < 0) /* nothing but padding */
            rt_set_f64(&j->out[0], to, -INFINITY);
        else
            memcpy((char *)j->out[0].data + (size_t)to * size,
                   (const char *)j->in[0].data + (size_t)(at + p * j->w.in_size) * size, size);
        if (j->out[1].data)
            ((int64_t *)j->out[1].data)[to] = (at < 0 ? 0 : at) + p * j->w.in_size;
    }
}

static void max_planes(void *context, int64_t first, int64_t last, int thread)
{
    const pool_job *j = (const pool_job *)context;
    (void)thread;
    for (int64_t p = first; p < last; p++)
        (j->in[0].dtype == RT_F32 && !j->out[1].data ? max_plane_f32 : max_plane)(j, p);
}

/* max_pool: X -> Y, Indices (int64, flat in X) or left out. */
void rt_max_pool(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    pool_job j = {read_windows((const rt_max_pool_attr *)attr, &in[0], &out[0]), in, out, 0, 0};
    rt_parallel(env, j.w.planes, grain(&j.w), max_planes, &j);
}

static void max_grad_plane_f32(const pool_job *j, int64_t p)
{
    enum { BLOCK = 128 };
    const windows *w = &j->w;
    const float *x = (const float *)j->in[0].data + p * w->in_size;
    const float *dy = (const float *)j->in[1].data + p * w->out_size;
    float *dx = (float *)j->out[0].data + p * w->in_size, most[BLOCK];
    window v = first_window(w);
    for (int64_t o = 0; o < w->out_size; o++, next_window(w, &v)) {
        int64_t in_row = v.out[2], left = w->out[2] - in_row;
        if (in_row % BLOCK == 0)
            largest_f32(w, &v, x, in_row, left < BLOCK ? left : (int64_t)BLOCK, most);
        int64_t at = place_f32(w, &v, x, most[in_row % BLOCK]);
        if (at >= 0)
            dx[at] += dy[o];
    }
}

static void max_grad_plane(const pool_job *j, int64_t p)
{
    window v = first_window(&j->w);
    for (int64_t o = 0; o < j->w.out_size; o++, next_window(&j->w, &v)) {
        int64_t at = largest(&j->w, &v, &j->in[0], p), to = p * j->w.in_size + at;
        if (at >= 0)
            rt_set_f64(&j->out[0], to,
                       rt_get_f64(&j->out[0], to) + rt_get_f64(&j->in[1], p * j->w.out_size + o));
    }
}

static void max_grad_planes(void *context, int64_t first, int64_t last, int thread)
{
    const pool_job *j = (const pool_job *)context;
    (void)thread;
    for (int64_t p = first; p < last; p++)
        (j->in[0].dtype == RT_F32 ? max_grad_plane_f32 : max_grad_plane)(j, p);
}

/* max_pool_grad: X, dY -> dX. */
void rt_max_pool_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                      const rt_tensor *out)
{
    pool_job j = {read_windows((const rt_max_pool_attr *)attr, &in[0], &in[1]), in, out, 0, 0};
    memset(out[0].data, 0, (size_t)rt_count(&out[0]) * rt_dtype_size(out[0].dtype));
    rt_parallel(env, j.w.planes, grain(&j.w), max_grad_planes, &j);
}

/* Elements that an average is taken over. */
static int64_t count_of(const pool_job *j, const window *v)
{
    int64_t count = 1;
    for (int d = 0; d < 3; d++) {
        int64_t pad = d >= j->lead ? j->average->pad_end[d - j->lead] : 0;
        int64_t room = j->w.in[d] + pad - v->begin[d];
        int64_t padded = room <= 0 ? 0 : steps(room, j->w.dilation[d]);
        padded = padded < j->w.kernel[d] ? padded : j->w.kernel[d];
        int64_t inside = v->last[d] > v->first[d] ? v->last[d] - v->first[d] : 0;
        count *= j->average->count_pad ? padded : inside;
    }
    return count;
}

static void average_planes(void *context, int64_t first, int64_t last, int thread)
{
    const pool_job *j = (const pool_job *)context;
    (void)thread;
    for (int64_t p = first; p < last; p++) {
        window v = first_window(&j->w);
        for (int64_t o = 0; o < j->w.out_size; o++, next_window(&j->w, &v)) {
            int64_t count = count_of(j, &v);
            rt_set_f64(&j->out[0], p * j->w.out_size + o,
                       count ? sum_of(&j->w, &v, &j->in[0], p) / (double)count : 0);
        }
    }
}

/* average_pool: X -> Y. Elements outside X count 0, and count as elements where count_pad is set
 * (but never beyond the padding, where ceil_mode lets a window hang over). */
void rt_average_pool(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    pool_job j = {read_windows((const rt_max_pool_attr *)attr, &in[0], &out[0]), in, out,
                  (const rt_average_pool_attr *)attr, 3 - (in[0].rank - 2)};
    rt_parallel(env, j.w.planes, grain(&j.w), average_planes, &j);
}
