/* runtime/kernels/norm.c: softmax and normalisations, and their gradients. */
#include "runtime/kernels/kernels.h"

#include <math.h>

/* Rows along an axis: element k of row (o, i) at (o * n + k) * inner + i. */
typedef struct rows {
    const rt_tensor *a, *b, *c, *y, *z;
    int64_t n, inner, count;
    int log;
    double epsilon;
} rows;

static rows rows_along(const rt_tensor *x, int from, int to)
{
    rows r = {0, 0, 0, 0, 0, rt_product(x->dims, from, to), rt_product(x->dims, to, x->rank),
              0, 0, 0};
    r.count = rt_product(x->dims, 0, from) * r.inner;
    return r;
}

static int64_t grain(const rows *r)
{
    return r->n > 8192 ? 1 : 8192 / (r->n + 1) + 1;
}

#define BASE(row) ((row) / r->inner * r->n * r->inner + (row) % r->inner)

/* Each body is written once for float and double: T the type, M the function of math.h. */
#define SOFTMAX(T, M)                                                                        \
    const T *x = (const T *)r->a->data;                                                      \
    T *y = (T *)r->y->data;                                                                  \
    for (int64_t row = first; row < last; row++) {                                           \
        int64_t base = BASE(row), st = r->inner;                                             \
        T most = x[base];                                                                    \
        double sum = 0;                                                                      \
        for (int64_t k = 1; k < r->n; k++)                                                   \
            most = x[base + k * st] > most ? x[base + k * st] : most;                        \
        for (int64_t k = 0; k < r->n; k++) {                                                 \
            T e = M(exp)(x[base + k * st] - most);                                           \
            sum += (double)e;                                                                \
            y[base + k * st] = r->log ? x[base + k * st] - most : e;                         \
        }                                                                                    \
        T scale = (T)(1 / sum), shift = (T)log(sum);                                         \
        for (int64_t k = 0; k < r->n; k++)                                                   \
            y[base + k * st] = r->log ? y[base + k * st] - shift : y[base + k * st] * scale; \
    }

#define SOFTMAX_GRAD(T, M)                                                                 \
    const T *dy = (const T *)r->a->data, *y = (const T *)r->b->data;                       \
    T *dx = (T *)r->y->data;                                                               \
    for (int64_t row = first; row < last; row++) {                                         \
        int64_t base = BASE(row), st = r->inner;                                           \
        double sum = 0;                                                                    \
        for (int64_t k = 0; k < r->n; k++)                                                 \
            sum += (double)dy[base + k * st] * (r->log ? 1 : (double)y[base + k * st]);    \
        for (int64_t k = 0; k < r->n; k++) {                                               \
            int64_t at = base + k * st;                                                    \
            dx[at] = r->log ? dy[at] - M(exp)(y[at]) * (T)sum : (dy[at] - (T)sum) * y[at]; \
        }                                                                                  \
    }

/* sum += TERM(0) + .. + TERM(n - 1): eight sums, so that it vectorises. */
#define ADD_UP(sum, n, TERM)            \
    {                                   \
        double lane[8] = {0};           \
        int64_t e = 0;                  \
        for (; e + 8 <= (n); e += 8)    \
            for (int l = 0; l < 8; l++) \
                lane[l] += TERM(e + l); \
        for (; e < (n); e++)            \
            lane[0] += TERM(e);         \
        for (int l = 0; l < 8; l++)     \
            (sum) += lane[l];           \
    }

/* Mean and 1/deviation of a row. */
#define ROW_X(k)      (double)x[base + (k)]
#define ROW_SQUARE(k) (((double)x[base + (k)] - mean) * ((double)x[base + (k)] - mean))
#define MOMENTS(T)                \
    double mean = 0, var = 0;     \
    ADD_UP(mean, r->n, ROW_X)     \
    mean /= (double)r->n;         \
    ADD_UP(var, r->n, ROW_SQUARE) \
    double inv = 1 / sqrt(var / (double)r->n + r->epsilon);

/* scale and bias have the row's trailing axes: they repeat along it. A single element stands for
 * all. Runs BODY for each element `at` of the row, which belongs to scale[k * step]. */
#define EACH_OF_ROW(ns, BODY)                                                                     \
    for (int64_t at = base, width = (ns) == 1 ? r->n : (ns), step = (ns) != 1; at < base + r->n;) \
        for (int64_t k = 0; k < width; k++, at++)                                                 \
    BODY

#define LAYER_NORM(T, M)                                                               \
    const T *x = (const T *)r->a->data, *scale = (const T *)r->b->data,                \
            *bias = (const T *)r->c->data;                                             \
    T *y = (T *)r->y->data;                                                            \
    int64_t ns = rt_count(r->b), nb = bias ? rt_count(r->c) : 1;                       \
    for (int64_t row = first; row < last; row++) {                                     \
        int64_t base = row * r->n;                                                     \
        MOMENTS(T)                                                                     \
        EACH_OF_ROW(ns, y[at] = (T)((double)x[at] - mean) * (T)inv * scale[k * step];) \
        if (bias)                                                                      \
            EACH_OF_ROW(nb, y[at] += bias[k * step];)                                  \
        if (r->z[0].data)                                                              \
            rt_set_f64(&r->z[0], row, mean);                                           \
        if (r->z[1].data)                                                              \
            rt_set_f64(&r->z[1], row, inv);                                            \
    }

#define LAYER_NORM_GRAD(T, M)                                               \
    const T *dy = (const T *)r->a->data, *x = (const T *)r->b->data,        \
            *scale = (const T *)r->c->data;                                 \
    T *dx = (T *)r->y->data, *dh = (T *)r->z->data;                         \
    int64_t ns = rt_count(r->c);                                            \
    for (int64_t row = first; row < last; row++) {                          \
        int64_t base = row * r->n;                                          \
        double s1 = 0, s2 = 0;                                              \
        MOMENTS(T)                                                          \
        EACH_OF_ROW(ns, {                                                   \
            double h = (double)dy[at] * (double)scale[k * step];            \
            s1 += h;                                                        \
            s2 += h * ((double)x[at] - mean);                               \
        })                                                                  \
        s1 /= (double)r->n;                                                 \
        s2 *= inv * inv / (double)r->n;                                     \
        if (dh)                                                             \
            for (int64_t k = base; k < base + r->n; k++)                    \
                dh[k] = (T)((double)dy[k] * (((double)x[k] - mean) * inv)); \
        if (dx)                                                             \
            EACH_OF_ROW(ns, {                                               \
                double h = (double)dy[at] * (double)scale[k * step];        \
                dx[at] = (T)((h - s1 - ((double)x[at] - mean) * s2) * inv); \
            })                                                              \
    }

#define F32(fn) fn##f
#define F64(fn) fn
#define BODY(name, macro)                                                                          \
    static void name##_f32(const rows *r, int64_t first, int64_t last)                             \
    {                                                                                              \
        macro(float, F32)                                                                          \
    }                                                                                              \
    static void name##_f64(const rows *r, int64_t first, int64_t last)                             \
    {                                                                                              \
        macro(double, F64)                                                                         \
    }                                                                                              \
    static void name(void *context, int64_t first, int64_t last, int thread)                       \
    {                                                                                              \
        const rows *r = (const rows *)context;                                                     \
        (void)thread;                                                                              \
        (RT_USES_TYPE(RT_F64) && r->a->dtype == RT_F64 ? name##_f64 : name##_f32)(r, first, last); \
    }

BODY(softmax, SOFTMAX)

BODY(softmax_grad, SOFTMAX_GRAD)

BODY(layer_norm, LAYER_NORM)

BODY(layer_norm_grad, LAYER_NORM_GRAD)

/* softmax: X -> Y along `axis`; log: its logarithm. */
void rt_softmax(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_softmax_attr *a = (const rt_softmax_attr *)attr;
    rows r = rows_along(&in[0], a->axis, a->axis + 1);
    r.a = &in[0], r.y = &out[0], r.log = a->log;
    if (r.n)
        rt_parallel(env, r.count, grain(&r), softmax, &r);
}

/* softmax_grad: dY, Y -> dX. */
void rt_softmax_grad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_softmax_grad_attr *a = (const rt_softmax_grad_attr *)attr;
    rows r = rows_along(&in[0], a->axis, a->axis + 1);
    r.a = &in[0], r.b = &in[1], r.y = &out[0], r.log = a->log;
    rt_parallel(env, r.count, grain(&r), softmax_grad, &r);
}

/* layer_norm: X, scale, bias (or left out) -> Y, mean, 1/deviation (or left out), over the axes
 * from `axis` on. */
void rt_layer_norm(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_layer_norm_attr *a = (const rt_layer_norm_attr *)attr;
    rows r = rows_along(&in[0], a->axis, in[0].rank);
    r.a = &in[0], r.b = &in[1], r.c = &in[2], r.y = &out[0], r.z = &out[1], r.epsilon = a->epsilon;
    rt_parallel(env, r.count, grain(&r), layer_norm, &r);
}

/* layer_norm_grad: dY, X, scale -> dX, dY * xhat (either may be left out). */
void rt_layer_norm_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    const rt_layer_norm_grad_attr *a = (const rt_layer_norm_grad_attr *)attr;
    rows r = rows_along(&in[1], a->axis, in[1].rank);
    r.a = &in[0], r.b = &in[1], r.c = &in[2], r.y = &out[0], r.z = &out[1], r.epsilon = a->epsilon;
    rt_parallel(env, r.count, grain(&r), layer_norm_grad, &r);
}

/* ------------------------------------------------------------------ BatchNormalization, X (N, C,
 * S..) */

typedef struct batch {
    const rt_env *env;
    const rt_tensor *in, *out;
    int64_t n, c, size;
    double epsilon, momentum;
    int training;
} batch;

/* Both bodies once for float and double; X and DY of a stretch of a channel. */
#define X(i)       (double)x[i]
#define SQUARE(i)  (((double)x[i] - mean) * ((double)x[i] - mean))
#define DY(i)      (double)dy[i]
#define DY_X(i)    ((double)dy[i] * ((double)x[i] - mean))
#define STRETCH(k) (((k)*b->c + c) * b->size)

/* Population mean and variance of a channel. */
#define CHANNEL_MOMENTS(T, from)                           \
    for (int64_t k = 0; k < b->n; k++) {                   \
        const T *x = (const T *)(from)->data + STRETCH(k); \
        ADD_UP(mean, b->size, X)                           \
    }                                                      \
    mean /= count;                                         \
    for (int64_t k = 0; k < b->n; k++) {                   \
        const T *x = (const T *)(from)->data + STRETCH(k); \
        ADD_UP(var, b->size, SQUARE)                       \
    }                                                      \
    var /= count;

#define NORMALISE(name, T)                                                                    \
    static void name(const batch *b, int64_t c)                                               \
    {                                                                                         \
        double mean = 0, var = 0, count = (double)(b->n * b->size);                           \
        double old_mean = rt_get_f64(&b->in[3], c), old_var = rt_get_f64(&b->in[4], c);       \
        if (b->training) {                                                                    \
            CHANNEL_MOMENTS(T, &b->in[0])                                                     \
            if (b->out[1].data)                                                               \
                rt_set_f64(&b->out[1], c, old_mean * b->momentum + mean * (1 - b->momentum)); \
            if (b->out[2].data)                                                               \
                rt_set_f64(&b->out[2], c, old_var * b->momentum + var * (1 - b->momentum));   \
        } else {                                                                              \
            mean = old_mean;                                                                  \
            var = old_var;                                                                    \
        }                                                                                     \
        double f = rt_get_f64(&b->in[1], c) / sqrt(var + b->epsilon),                         \
               shift = rt_get_f64(&b->in[2], c);                                              \
        for (int64_t k = 0; k < b->n; k++) {                                                  \
            const T *x = (const T *)b->in[0].data + STRETCH(k);                               \
            T *y = (T *)b->out[0].data + STRETCH(k);                                          \
            for (int64_t i = 0; i < b->size; i++)                                             \
                y[i] = (T)(((double)x[i] - mean) * f + shift);                                \
        }                                                                                     \
    }
NORMALISE(normalise_f32, float)
NORMALISE(normalise_f64, double)

static void normalise(void *context, int64_t first, int64_t last, int thread)
{
    const batch *b = (const batch *)context;
    (void)thread;
    for (int64_t c = first; c < last; c++)
        (RT_USES_TYPE(RT_F64) && b->in[0].dtype == RT_F64 ? normalise_f64 : normalise_f32)(b, c);
}

/* batch_norm: X, scale, B, mean, var -> Y, and in training the next mean and var (or left out). */
void rt_batch_norm(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_batch_norm_attr *a = (const rt_batch_norm_attr *)attr;
    const rt_tensor *x = &in[0];
    batch b = {env,
               in,
               out,
               x->dims[0],
               x->rank > 1 ? x->dims[1] : 1,
               rt_product(x->dims, 2, x->rank),
               a->epsilon,
               a->momentum,
               a->training};
    rt_parallel(env, b.c, 4, normalise, &b);
}

#define NORMALISE_GRAD(name, T)                                                            \
    static void name(const batch *b, int64_t c)                                            \
    {                                                                                      \
        double mean = 0, var = 0, s1 = 0, s2 = 0, count = (double)(b->n * b->size);        \
        CHANNEL_MOMENTS(T, &b->in[1])                                                      \
        double inv = 1 / sqrt(var + b->epsilon);                                           \
        for (int64_t k = 0; k < b->n; k++) {                                               \
            const T *dy = (const T *)b->in[0].data + STRETCH(k);                           \
            const T *x = (const T *)b->in[1].data + STRETCH(k);                            \
            ADD_UP(s1, b->size, DY)                                                        \
            ADD_UP(s2, b->size, DY_X)                                                      \
        }                                                                                  \
        s2 *= inv;                                                                         \
        if (b->out[1].data)                                                                \
            rt_set_f64(&b->out[1], c, s2);                                                 \
        if (b->out[2].data)                                                                \
            rt_set_f64(&b->out[2], c, s1);                                                 \
        double f = rt_get_f64(&b->in[2], c) * inv, m1 = s1 / count, m2 = s2 / count * inv; \
        for (int64_t k = 0; k < b->n && b->out[0].data; k++) {                             \
            const T *dy = (const T *)b->in[0].data + STRETCH(k);                           \
            const T *x = (const T *)b->in[1].data + STRETCH(k);                            \
            T *dx = (T *)b->out[0].data + STRETCH(k);                                      \
            for (int64_t i = 0; i < b->size; i++)                                          \
                dx[i] = (T)(f * ((double)dy[i] - m1 - ((double)x[i] - mean) * m2));        \
        }                                                                                  \
    }
NORMALISE_GRAD(normalise_grad_f32, float)
NORMALISE_GRAD(normalise_grad_f64, double)

static void normalise_grad(void *context, int64_t first, int64_t last, int thread)
{
    const batch *b = (const batch *)context;
    (void)thread;
    for (int64_t c = first; c < last; c++)
        (RT_USES_TYPE(RT_F64) && b->in[1].dtype == RT_F64 ? normalise_grad_f64
                                                          : normalise_grad_f32)(b, c);
}

/* batch_norm_grad: dY, X, scale -> dX, dscale, dB (each may be left out); the batch's own
 * statistics. */
void rt_batch_norm_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    const rt_tensor *x = &in[1];
    batch b = {env,
               in,
               out,
               x->dims[0],
               x->dims[1],
               rt_product(x->dims, 2, x->rank),
               ((const rt_batch_norm_grad_attr *)attr)->epsilon,
               0,
               1};
    rt_parallel(env, b.c, 4, normalise_grad, &b);
}
