/* runtime/kernels/recurrent.c: LSTM, GRU and RNN, step by step, forwards and backwards. What the
 * gates get from X is computed before, for all steps; here is one product a step, with the state.
 * S steps, B sequences, H hidden; A (S, B, G H) is what goes into the G gates. */
#include "runtime/gemm.h"
#include "runtime/kernels/gates.h"
#include "runtime/kernels/kernels.h"

#include <string.h>

typedef struct recurrence {
    const rt_tensor *in, *out;
    const int32_t *act;
    int64_t step, steps, batch, hidden;
    int linear;
    void *u, *v; /* scratch */
} recurrence;

/* Rows of the batch, in float and in double: `macro` is the body, T the type. */
#define ON_ROWS(name, macro)                                                    \
    static void name##_float(const recurrence *s, int64_t first, int64_t last)  \
    {                                                                           \
        macro(float)                                                            \
    }                                                                           \
    static void name##_double(const recurrence *s, int64_t first, int64_t last) \
    {                                                                           \
        macro(double)                                                           \
    }                                                                           \
    static void name(void *context, int64_t first, int64_t last, int thread)    \
    {                                                                           \
        const recurrence *s = (const recurrence *)context;                      \
        (void)thread;                                                           \
        if (RT_USES_TYPE(RT_F64) && s->out[0].dtype == RT_F64)                  \
            name##_double(s, first, last);                                      \
        else                                                                    \
            name##_float(s, first, last);                                       \
    }

static void each_row(const rt_env *env, recurrence *s, rt_range_fn *rows)
{
    rt_parallel(env, s->batch, 2048 / (s->hidden + 1) + 1, rows, s);
}

/* to (B, n) = x (B, k) w (k, n) + beta to; x and `to` with rows of ldx and ldc elements. */
static void product(const rt_env *env, const recurrence *s, int64_t n, int64_t k, const void *x,
                    int64_t ldx, const void *w, int64_t row, int64_t col, double beta, void *to,
                    int64_t ldc)
{
    rt_matrix a = {x, ldx, 1}, b = {w, row, col};
    rt_gemm(env, s->out[0].dtype, s->batch, n, k, 1, a, b, beta, to, ldc);
}

static void *element_at(const rt_tensor *t, int64_t i)
{
    return (char *)t->data + (size_t)i * rt_dtype_size(t->dtype);
}

static void copy_all(const rt_tensor *to, const rt_tensor *from)
{
    memcpy(to->data, from->data, (size_t)rt_count(from) * rt_dtype_size(from->dtype));
}

/* Whether step `step` of a sequence lies before its end. */
static int is_before_end(const rt_tensor *lengths, int64_t step, int64_t sequence)
{
    return !lengths->data || step < rt_get_i64(lengths, sequence);
}

static int is_unmasked(const rt_tensor *mask, int64_t row)
{
    return !mask->data || rt_get_f64(mask, row) != 0;
}

static recurrence start_walk(const rt_tensor *in, const rt_tensor *out, const rt_tensor *y,
                             const int32_t *act)
{
    recurrence s = {in, out, act, 0, y->dims[0], y->dims[1], y->dims[2], 0, NULL, NULL};
    return s;
}

/* ------------------------------------------------------------------ LSTM: gates i, o, f, g */

#define LSTM_ROWS(T)                                                                          \
    int64_t h = s->hidden;                                                                    \
    const T *peep = (const T *)s->in[4].data;                                                 \
    for (int64_t b = first; b < last; b++) {                                                  \
        const T *a = (const T *)s->in[0].data + (s->step * s->batch + b) * 4 * h;             \
        const T *u = (const T *)s->u + b * 4 * h;                                             \
        T *y = (T *)s->out[0].data + (s->step * s->batch + b) * h;                            \
        T *hn = (T *)s->out[1].data + b * h, *cn = (T *)s->out[2].data + b * h;               \
        int on = is_before_end(&s->in[5], s->step, b);                                        \
        for (int64_t j = 0; j < h; j++) {                                                     \
            T ai = a[j] + u[j], ao = a[h + j] + u[h + j], af = a[2 * h + j] + u[2 * h + j];   \
            if (peep)                                                                         \
                ai += peep[j] * cn[j], af += peep[2 * h + j] * cn[j];                         \
            T c = RT_ACTIVATION(T)(s->act[0], af) * cn[j] +                                   \
                  RT_ACTIVATION(T)(s->act[0], ai) *                                           \
                      RT_ACTIVATION(T)(s->act[1], a[3 * h + j] + u[3 * h + j]);               \
            if (peep)                                                                         \
                ao += peep[h + j] * c;                                                        \
            y[j] = on ? RT_ACTIVATION(T)(s->act[0], ao) * RT_ACTIVATION(T)(s->act[2], c) : 0; \
            hn[j] = on ? y[j] : hn[j];                                                        \
            cn[j] = on ? c : cn[j];                                                           \
        }                                                                                     \
    }
ON_ROWS(lstm_rows, LSTM_ROWS)

size_t rt_scratch_lstm(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)attr, (void)in;
    return (size_t)(out[0].dims[1] * out[0].dims[2] * 4) * rt_dtype_size(out[0].dtype);
}

/* lstm: A, R (4 H, H), H0, C0 (B, H), P (3 H) and lengths (B) or left out -> Y (S, B, H), Hn, Cn;
 * then scratch. */
void rt_lstm(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    recurrence s = start_walk(in, out, &out[0], ((const rt_lstm_attr *)attr)->act);
    if (!rt_lengths_fit(env, &in[5], s.steps))
        return;
    s.u = out[3].data;
    copy_all(&out[1], &in[2]);
    copy_all(&out[2], &in[3]);
    for (s.step = 0; s.step < s.steps; s.step++) {
        product(env, &s, 4 * s.hidden, s.hidden, out[1].data, s.hidden, in[1].data, 1, s.hidden, 0,
                s.u, 4 * s.hidden);
        each_row(env, &s, lstm_rows);
    }
}

/* Gates of all steps in the place of dA, cells in Cp and C. */
#define LSTM_GATES(T)                                                                      \
    int64_t h = s->hidden;                                                                 \
    const T *peep = (const T *)s->in[6].data;                                              \
    for (int64_t b = first; b < last; b++)                                                 \
        for (int64_t t = 0; t < s->steps; t++) {                                           \
            int64_t row = t * s->batch + b;                                                \
            const T *a = (const T *)s->in[3].data + row * 4 * h;                           \
            T *d = (T *)s->out[0].data + row * 4 * h, *cp = (T *)s->out[3].data + row * h; \
            T *c = (T *)s->out[4].data + row * h;                                          \
            for (int64_t j = 0; j < h; j++) {                                              \
                T p = t ? c[j - s->batch * h] : ((const T *)s->in[5].data)[b * h + j];     \
                T pi = peep ? peep[j] : 0, po = peep ? peep[h + j] : 0,                    \
                  pf = peep ? peep[2 * h + j] : 0;                                         \
                cp[j] = p;                                                                 \
                d[j] = RT_ACTIVATION(T)(s->act[0], a[j] + pi * p);                         \
                d[2 * h + j] = RT_ACTIVATION(T)(s->act[0], a[2 * h + j] + pf * p);         \
                d[3 * h + j] = RT_ACTIVATION(T)(s->act[1], a[3 * h + j]);                  \
                c[j] = d[2 * h + j] * p + d[j] * d[3 * h + j];                             \
                d[h + j] = RT_ACTIVATION(T)(s->act[0], a[h + j] + po * c[j]);              \
            }                                                                              \
        }
ON_ROWS(lstm_gates, LSTM_GATES)

#define LSTM_BACK(T)                                                                         \
    int64_t h = s->hidden;                                                                   \
    const T *peep = (const T *)s->in[6].data;                                                \
    for (int64_t b = first; b < last; b++) {                                                 \
        int64_t row = s->step * s->batch + b;                                                \
        const T *dy = (const T *)s->in[0].data + row * h,                                    \
                *cp = (const T *)s->out[3].data + row * h;                                   \
        const T *c = (const T *)s->out[4].data + row * h;                                    \
        T *d = (T *)s->out[0].data + row * 4 * h, *dh = (T *)s->out[1].data + b * h;         \
        T *dc = (T *)s->out[2].data + b * h;                                                 \
        int on = is_unmasked(&s->in[7], row);                                                \
        for (int64_t j = 0; j < 4 * h && !on; j++)                                           \
            d[j] = 0;                                                                        \
        for (int64_t j = 0; j < h && on; j++) {                                              \
            T i = d[j], o = d[h + j], f = d[2 * h + j], g = d[3 * h + j], e = dh[j] + dy[j]; \
            T pi = peep ? peep[j] : 0, po = peep ? peep[h + j] : 0,                          \
              pf = peep ? peep[2 * h + j] : 0;                                               \
            T t = RT_ACTIVATION(T)(s->act[2], c[j]);                                         \
            d[h + j] = e * t * RT_SLOPE(T)(s->act[0], o);                                    \
            T x = dc[j] + e * o * RT_SLOPE(T)(s->act[2], t) + d[h + j] * po;                 \
            d[j] = x * g * RT_SLOPE(T)(s->act[0], i);                                        \
            d[2 * h + j] = x * cp[j] * RT_SLOPE(T)(s->act[0], f);                            \
            d[3 * h + j] = x * i * RT_SLOPE(T)(s->act[1], g);                                \
            dc[j] = x * f + d[j] * pi + d[2 * h + j] * pf;                                   \
            dh[j] = 0;                                                                       \
        }                                                                                    \
    }
ON_ROWS(lstm_back, LSTM_BACK)

/* lstm_grad: dY (S, B, H), dHn, dCn (B, H), A, R, C0, P and mask (S, B, 1) or left out -> dA, dH0,
 * dC0, Cp, C (S, B, H). */
void rt_lstm_grad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    recurrence s = start_walk(in, out, &in[0], ((const rt_lstm_grad_attr *)attr)->act);
    int64_t n = 4 * s.hidden;
    copy_all(&out[1], &in[1]);
    copy_all(&out[2], &in[2]);
    each_row(env, &s, lstm_gates);
    for (s.step = s.steps - 1; s.step >= 0; s.step--) {
        each_row(env, &s, lstm_back);
        product(env, &s, s.hidden, n, element_at(&out[0], s.step * s.batch * n), n, in[4].data,
                s.hidden, 1, 1, out[1].data, s.hidden);
    }
}

/* ------------------------------------------------------------------ GRU: gates z, r, n */

/* u: what z and r (and n, if linear) get from the state; v: r h', else. */
#define GRU_RESET(T)                                                              \
    int64_t h = s->hidden;                                                        \
    for (int64_t b = first; b < last; b++) {                                      \
        const T *a = (const T *)s->in[0].data + (s->step * s->batch + b) * 3 * h; \
        const T *u = (const T *)s->u + b * 3 * h;                                 \
        const T *hn = (const T *)s->out[1].data + b * h;                          \
        T *v = (T *)s->v + b * h;                                                 \
        for (int64_t j = 0; j < h; j++)                                           \
            v[j] = RT_ACTIVATION(T)(s->act[0], a[h + j] + u[h + j]) * hn[j];      \
    }
ON_ROWS(gru_reset, GRU_RESET)

#define GRU_ROWS(T)                                                                              \
    int64_t h = s->hidden;                                                                       \
    const T *bias = (const T *)s->in[3].data;                                                    \
    for (int64_t b = first; b < last; b++) {                                                     \
        const T *a = (const T *)s->in[0].data + (s->step * s->batch + b) * 3 * h;                \
        const T *u = (const T *)s->u + b * 3 * h;                                                \
        T *y = (T *)s->out[0].data + (s->step * s->batch + b) * h;                               \
        T *hn = (T *)s->out[1].data + b * h;                                                     \
        int on = is_before_end(&s->in[4], s->step, b);                                           \
        for (int64_t j = 0; j < h; j++) {                                                        \
            T z = RT_ACTIVATION(T)(s->act[0], a[j] + u[j]), q = u[2 * h + j];                    \
            if (s->linear)                                                                       \
                q = RT_ACTIVATION(T)(s->act[0], a[h + j] + u[h + j]) * (bias ? q + bias[j] : q); \
            T n = RT_ACTIVATION(T)(s->act[1], a[2 * h + j] + q);                                 \
            T next = (1 - z) * n + z * hn[j];                                                    \
            y[j] = on ? next : 0;                                                                \
            hn[j] = on ? next : hn[j];                                                           \
        }                                                                                        \
    }
ON_ROWS(gru_rows, GRU_ROWS)

size_t rt_scratch_gru(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)attr, (void)in;
    return (size_t)(out[0].dims[1] * out[0].dims[2] * 4) * rt_dtype_size(out[0].dtype);
}

/* gru: A, R (3 H, H), H0 (B, H), bias of n's recurrent part (H; linear only) and lengths (B) or
 * left out -> Y (S, B, H), Hn; then scratch. */
void rt_gru(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_gru_attr *at = (const rt_gru_attr *)attr;
    recurrence s = start_walk(in, out, &out[0], at->act);
    int64_t h = s.hidden;
    s.linear = at->linear;
    if (!rt_lengths_fit(env, &in[4], s.steps))
        return;
    s.u = out[2].data;
    s.v = (char *)s.u + (size_t)(3 * s.batch * h) * rt_dtype_size(out[0].dtype);
    copy_all(&out[1], &in[2]);
    for (s.step = 0; s.step < s.steps; s.step++) {
        product(env, &s, s.linear ? 3 * h : 2 * h, h, out[1].data, h, in[1].data, 1, h, 0, s.u,
                3 * h);
        if (!s.linear) {
            each_row(env, &s, gru_reset);
            product(env, &s, h, h, s.v, h, element_at(&in[1], 2 * h * h), 1, h, 0,
                    (char *)s.u + (size_t)(2 * h) * rt_dtype_size(out[0].dtype), 3 * h);
        }
        each_row(env, &s, gru_rows);
    }
}

/* Gates z and r of all steps in the place of dA, and what R_n is multiplied with in N. */
#define GRU_GATES(T)                                                                      \
    int64_t h = s->hidden;                                                                \
    for (int64_t b = first; b < last; b++)                                                \
        for (int64_t t = 0; t < s->steps; t++) {                                          \
            int64_t row = t * s->batch + b;                                               \
            const T *a = (const T *)s->in[2].data + row * 3 * h;                          \
            const T *hp = (const T *)s->in[4].data + row * h;                             \
            T *d = (T *)s->out[0].data + row * 3 * h, *n = (T *)s->out[3].data + row * h; \
            for (int64_t j = 0; j < h; j++) {                                             \
                d[j] = RT_ACTIVATION(T)(s->act[0], a[j]);                                 \
                d[h + j] = RT_ACTIVATION(T)(s->act[0], a[h + j]);                         \
                n[j] = s->linear ? hp[j] : d[h + j] * hp[j];                              \
            }                                                                             \
        }
ON_ROWS(gru_gates, GRU_GATES)

/* Of a step: dz and dn; if linear dr and dN too. Else R_n (r h') of all steps is in dN's place. */
#define GRU_BACK(T)                                                                  \
    int64_t h = s->hidden;                                                           \
    for (int64_t b = first; b < last; b++) {                                         \
        int64_t row = s->step * s->batch + b;                                        \
        const T *dy = (const T *)s->in[0].data + row * h;                            \
        const T *an = (const T *)s->in[2].data + row * 3 * h + 2 * h;                \
        const T *hp = (const T *)s->in[4].data + row * h;                            \
        const T *q = s->linear ? (const T *)s->in[3].data + row * h : NULL;          \
        T *d = (T *)s->out[0].data + row * 3 * h, *dh = (T *)s->out[1].data + b * h; \
        T *dn = (T *)s->out[2].data + row * h, *held = (T *)s->v + b * h;            \
        int on = is_unmasked(&s->in[6], row);                                        \
        for (int64_t j = 0; j < h; j++) {                                            \
            T z = d[j], r = d[h + j], e = on ? dh[j] + dy[j] : 0;                    \
            T n = RT_ACTIVATION(T)(s->act[1], an[j] + (q ? r * q[j] : dn[j]));       \
            held[j] = r;                                                             \
            d[j] = e * (hp[j] - n) * RT_SLOPE(T)(s->act[0], z);                      \
            d[2 * h + j] = e * (1 - z) * RT_SLOPE(T)(s->act[1], n);                  \
            dn[j] = q ? d[2 * h + j] * r : d[2 * h + j];                             \
            d[h + j] = q ? d[2 * h + j] * q[j] * RT_SLOPE(T)(s->act[0], r) : 0;      \
            dh[j] = on ? z * e : dh[j];                                              \
        }                                                                            \
    }
ON_ROWS(gru_back, GRU_BACK)

/* Not linear: u is the cotangent of r h', v is r. */
#define GRU_BACK_RESET(T)                                                                  \
    int64_t h = s->hidden;                                                                 \
    for (int64_t b = first; b < last; b++) {                                               \
        int64_t row = s->step * s->batch + b;                                              \
        const T *hp = (const T *)s->in[4].data + row * h, *back = (const T *)s->u + b * h; \
        const T *r = (const T *)s->v + b * h;                                              \
        T *d = (T *)s->out[0].data + row * 3 * h, *dh = (T *)s->out[1].data + b * h;       \
        for (int64_t j = 0; j < h; j++) {                                                  \
            d[h + j] = back[j] * hp[j] * RT_SLOPE(T)(s->act[0], r[j]);                     \
            dh[j] += back[j] * r[j];                                                       \
        }                                                                                  \
    }
ON_ROWS(gru_back_reset, GRU_BACK_RESET)

size_t rt_scratch_gru_grad(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)attr, (void)out;
    return (size_t)(in[0].dims[1] * in[0].dims[2] * 2) * rt_dtype_size(in[0].dtype);
}

/* gru_grad: dY (S, B, H), dHn (B, H), A, Q (S, B, H; linear only), Hp (S, B, H), R, mask (S, B, 1)
 * or left out -> dA, dH0, dN, N (S, B, H); then scratch. */
void rt_gru_grad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_gru_grad_attr *at = (const rt_gru_grad_attr *)attr;
    recurrence s = start_walk(in, out, &in[0], at->act);
    int64_t h = s.hidden, n = 3 * h;
    const void *rn = element_at(&in[5], 2 * h * h);
    s.linear = at->linear;
    s.u = out[4].data;
    s.v = (char *)s.u + (size_t)(s.batch * h) * rt_dtype_size(in[0].dtype);
    copy_all(&out[1], &in[1]);
    each_row(env, &s, gru_gates);
    if (!s.linear) {
        rt_matrix a = {out[3].data, h, 1}, b = {rn, 1, h};
        rt_gemm(env, in[0].dtype, s.steps * s.batch, h, h, 1, a, b, 0, out[2].data, h);
    }
    for (s.step = s.steps - 1; s.step >= 0; s.step--) {
        const void *da = element_at(&out[0], s.step * s.batch * n),
                   *dn = element_at(&out[2], s.step * s.batch * h);
        each_row(env, &s, gru_back);
        if (s.linear) {
            product(env, &s, h, h, dn, h, rn, h, 1, 1, out[1].data, h);
        } else {
            product(env, &s, h, h, dn, h, rn, h, 1, 0, s.u, h);
            each_row(env, &s, gru_back_reset);
        }
        product(env, &s, h, 2 * h, da, n, in[5].data, h, 1, 1, out[1].data, h);
    }
}

/* ------------------------------------------------------------------ RNN */

#define RNN_ROWS(T)                                                               \
    int64_t h = s->hidden;                                                        \
    for (int64_t b = first; b < last; b++) {                                      \
        int64_t at = (s->step * s->batch + b) * h;                                \
        const T *a = (const T *)s->in[0].data + at, *u = (const T *)s->u + b * h; \
        T *y = (T *)s->out[0].data + at, *hn = (T *)s->out[1].data + b * h;       \
        int on = is_before_end(&s->in[3], s->step, b);                            \
        for (int64_t j = 0; j < h; j++) {                                         \
            y[j] = on ? RT_ACTIVATION(T)(s->act[0], a[j] + u[j]) : 0;             \
            hn[j] = on ? y[j] : hn[j];                                            \
        }                                                                         \
    }
ON_ROWS(rnn_rows, RNN_ROWS)

size_t rt_scratch_rnn(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)attr, (void)in;
    return (size_t)(out[0].dims[1] * out[0].dims[2]) * rt_dtype_size(out[0].dtype);
}

/* rnn: A, R (H, H), H0 (B, H), lengths (B) or left out -> Y (S, B, H), Hn; then scratch. */
void rt_rnn(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    recurrence s = start_walk(in, out, &out[0], ((const rt_rnn_attr *)attr)->act);
    if (!rt_lengths_fit(env, &in[3], s.steps))
        return;
    s.u = out[2].data;
    copy_all(&out[1], &in[2]);
    for (s.step = 0; s.step < s.steps; s.step++) {
        product(env, &s, s.hidden, s.hidden, out[1].data, s.hidden, in[1].data, 1, s.hidden, 0, s.u,
                s.hidden);
        each_row(env, &s, rnn_rows);
    }
}

#define RNN_BACK(T)                                                                                \
    int64_t h = s->hidden;                                                                         \
    for (int64_t b = first; b < last; b++) {                                                       \
        int64_t row = s->step * s->batch + b;                                                      \
        const T *dy = (const T *)s->in[0].data + row * h, *y = (const T *)s->in[2].data + row * h; \
        T *d = (T *)s->out[0].data + row * h, *dh = (T *)s->out[1].data + b * h;                   \
        int on = is_unmasked(&s->in[4], row);                                                      \
        for (int64_t j = 0; j < h; j++) {                                                          \
            d[j] = on ? (dh[j] + dy[j]) * RT_SLOPE(T)(s->act[0], y[j]) : 0;                        \
            dh[j] = on ? 0 : dh[j];                                                                \
        }                                                                                          \
    }
ON_ROWS(rnn_back, RNN_BACK)

/* rnn_grad: dY (S, B, H), dHn (B, H), Y, R, mask (S, B, 1) or left out -> dA, dH0. */
void rt_rnn_grad(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    recurrence s = start_walk(in, out, &in[0], ((const rt_rnn_grad_attr *)attr)->act);
    copy_all(&out[1], &in[1]);
    for (s.step = s.steps - 1; s.step >= 0; s.step--) {
        each_row(env, &s, rnn_back);
        product(env, &s, s.hidden, s.hidden, element_at(&out[0], s.step * s.batch * s.hidden),
                s.hidden, in[3].data, s.hidden, 1, 1, out[1].data, s.hidden);
    }
}
