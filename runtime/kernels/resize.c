/* runtime/kernels/resize.c: interpolation along one axis (ONNX Resize is separable: one call an
 * axis). */
#include "runtime/kernels/kernels.h"

#include <math.h>

enum { NEAREST, LINEAR, CUBIC };
enum { HALF_PIXEL, ASYMMETRIC, ALIGN_CORNERS, PYTORCH_HALF_PIXEL, HALF_PIXEL_SYMMETRIC, CROP };

/* Position in the input that output o looks at. */
static double source(const rt_resize_axis_attr *a, int64_t o, int64_t in, int64_t out)
{
    double x = (double)o, s = a->scale;
    switch (a->transform) {
    case ASYMMETRIC:
        return x / s;
    case ALIGN_CORNERS:
        return out == 1 ? 0 : x * (double)(in - 1) / (double)(out - 1);
    case PYTORCH_HALF_PIXEL:
        return out > 1 ? (x + 0.5) / s - 0.5 : 0;
    case HALF_PIXEL_SYMMETRIC: {
        double adjust = (double)out / (s * (double)in), centre = (double)in / 2;
        return centre * (1 - adjust) + (x + 0.5) / s - 0.5;
    }
    case CROP:
        return out > 1 ? a->roi_start * (double)(in - 1) +
                             x * (a->roi_end - a->roi_start) * (double)(in - 1) / (double)(out - 1)
                       : 0.5 * (a->roi_start + a->roi_end) * (double)(in - 1);
    default:
        return (x + 0.5) / s - 0.5;
    }
}

/* Far beyond any axis, but a number that converts: scales come from files. */
static double within(double x)
{
    return x > -1e15 && x < 1e15 ? x : x > 0 ? 1e15 : -1e15;
}

static int64_t clamp(int64_t i, int64_t n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* 0 round_prefer_floor, 1 round_prefer_ceil, 2 floor, 3 ceil. */
static int64_t nearest(double x, int mode)
{
    double f = floor(x);
    switch (mode) {
    case 1:
        return (int64_t)(x - f >= 0.5 ? f + 1 : f);
    case 2:
        return (int64_t)f;
    case 3:
        return (int64_t)ceil(x);
    default:
        return (int64_t)(x - f > 0.5 ? f + 1 : f);
    }
}

/* What an element at distance d gets: linear, or cubic (Keys 1981). */
static double share(const rt_resize_axis_attr *a, double d)
{
    double c = a->cubic;
    d = fabs(d);
    if (a->mode == LINEAR)
        return d < 1 ? 1 - d : 0;
    if (d <= 1)
        return ((c + 2) * d - (c + 3)) * d * d + 1;
    return d < 2 ? ((c * d - 5 * c) * d + 8 * c) * d - 4 * c : 0;
}

/* Inputs first .. first+n-1 (before clamping) and their weights. Antialiasing widens what is looked
 * at as far as the output is smaller. */
static int taps(const rt_resize_axis_attr *a, double x, int64_t in, int64_t *first, double *weight)
{
    double narrow = a->antialias && a->scale < 1 ? a->scale : 1, sum = 0;
    int reach = a->mode == LINEAR ? 1 : 2, most = RT_RESIZE_TAPS;
    if (a->mode == NEAREST) {
        *first = nearest(x, a->nearest);
        weight[0] = 1;
        return 1;
    }
    int before = (int)floor(-reach / narrow) + 1, n = 2 - 2 * before;
    n = n < most ? n : most;
    *first = (int64_t)floor(x) + before;
    for (int i = 0; i < n; i++) {
        weight[i] = share(a, (x - (double)(*first + i)) * narrow);
        if (a->exclude && (*first + i < 0 || *first + i >= in))
            weight[i] = 0;
        sum += weight[i];
    }
    for (int i = 0; i < n && (a->exclude || narrow < 1) && sum != 0; i++)
        weight[i] /= sum;
    return n;
}

typedef struct resize_job {
    const rt_resize_axis_attr *at;
    const rt_tensor *x, *y;
    int64_t in, out, inner;
} resize_job;

/* Output o of the rows [begin, end): a weighted sum of n inputs. */
static void mix(const resize_job *j, int64_t begin, int64_t end, int64_t o, int n,
                const int64_t *from, const double *weight)
{
    int is_float = rt_is_float(j->y->dtype), is_f32 = j->x->dtype == RT_F32;
    for (int64_t b = begin; b < end; b++) {
        int64_t to = (b * j->out + o) * j->inner, base = b * j->in * j->inner;
        const float *x = is_f32 ? (const float *)j->x->data + base : NULL;
        float *y = is_f32 ? (float *)j->y->data + to : NULL;
        for (int64_t i = 0; i < j->inner && is_f32; i++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += weight[k] * (double)x[from[k] + i];
            y[i] = (float)sum;
        }
        for (int64_t i = 0; i < j->inner && !is_f32; i++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += weight[k] * rt_get_f64(j->x, base + from[k] + i);
            rt_set_f64(j->y, to + i, is_float ? sum : nearbyint(sum));
        }
    }
}

static void outside(const resize_job *j, int64_t begin, int64_t end, int64_t o)
{
    for (int64_t b = begin; b < end; b++)
        for (int64_t i = 0; i < j->inner; i++)
            rt_set_f64(j->y, (b * j->out + o) * j->inner + i, j->at->extrapolation);
}

static void resize_rows(void *context, int64_t begin, int64_t end, int thread)
{
    const resize_job *j = (const resize_job *)context;
    (void)thread;
    for (int64_t o = 0; o < j->out; o++) {
        double weight[RT_RESIZE_TAPS], at = within(source(j->at, o, j->in, j->out));
        int64_t first, from[RT_RESIZE_TAPS];
        int n = taps(j->at, at, j->in, &first, weight);
        for (int k = 0; k < n; k++)
            from[k] = clamp(first + k, j->in) * j->inner;
        if (j->at->transform == CROP && (at < 0 || at > (double)(j->in - 1)))
            outside(j, begin, end, o);
        else
            mix(j, begin, end, o, n, from, weight);
    }
}

/* resize_axis: X -> Y, of other size along `axis` only. mode, transform, nearest: as numbered
 * above. */
void rt_resize_axis(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_resize_axis_attr *a = (const rt_resize_axis_attr *)attr;
    const rt_tensor *y = &out[0];
    resize_job j = {a,
                    &in[0],
                    y,
                    in[0].dims[a->axis],
                    y->dims[a->axis],
                    rt_product(y->dims, a->axis + 1, y->rank)};
    rt_parallel(env, rt_product(y->dims, 0, a->axis), 4096 / (j.out * j.inner + 1) + 1, resize_rows,
                &j);
}

/* What output gradients give back: each to the inputs that its output looked at. */
static void resize_grad_rows(void *context, int64_t begin, int64_t end, int thread)
{
    const resize_job *j = (const resize_job *)context; /* x: dY, y: dX */
    int is_f32 = j->x->dtype == RT_F32;
    (void)thread;
    for (int64_t b = begin; b < end; b++)
        for (int64_t i = 0; i < j->in * j->inner; i++)
            rt_set_f64(j->y, b * j->in * j->inner + i, 0);
    for (int64_t o = 0; o < j->out; o++) {
        double weight[RT_RESIZE_TAPS], at = within(source(j->at, o, j->in, j->out));
        int64_t first;
        int n = taps(j->at, at, j->in, &first, weight);
        for (int64_t b = begin; b < end; b++)
            for (int k = 0; k < n; k++) {
                int64_t to = (b * j->in + clamp(first + k, j->in)) * j->inner,
                        from = (b * j->out + o) * j->inner;
                if (is_f32) {
                    float *dx = (float *)j->y->data + to, w = (float)weight[k];
                    const float *dy = (const float *)j->x->data + from;
                    for (int64_t i = 0; i < j->inner; i++)
                        dx[i] += w * dy[i];
                } else {
                    for (int64_t i = 0; i < j->inner; i++)
                        rt_set_f64(j->y, to + i,
                                   rt_get_f64(j->y, to + i) +
                                       weight[k] * rt_get_f64(j->x, from + i));
                }
            }
    }
}

/* resize_axis_grad: dY -> dX, of other size along `axis` only; attributes as of resize_axis,
 * without a region. */
void rt_resize_axis_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                         const rt_tensor *out)
{
    const rt_resize_axis_attr *a = (const rt_resize_axis_attr *)attr;
    const rt_tensor *dx = &out[0];
    resize_job j = {a,
                    &in[0],
                    dx,
                    dx->dims[a->axis],
                    in[0].dims[a->axis],
                    rt_product(dx->dims, a->axis + 1, dx->rank)};
    rt_parallel(env, rt_product(dx->dims, 0, a->axis), 4096 / (j.out * j.inner + 1) + 1,
                resize_grad_rows, &j);
}
