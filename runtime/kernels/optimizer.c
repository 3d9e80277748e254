/* runtime/kernels/optimizer.c: updates of one parameter; scalars are tensors of one element. In
 * place allowed. */
#include "runtime/kernels/kernels.h"

#include <math.h>
#include <string.h>

typedef struct update {
    const rt_tensor *in, *out;
    double lr, a, b, epsilon, c1, c2, keep, weight;
} update;

#define P(T, i) ((const T *)u->in[i].data)
#define Q(T, i) ((T *)u->out[i].data)
/* One loop per optimizer, for float and double. */
#define UPDATE(name, BODY)                                                                       \
    static void name##_f32(void *context, int64_t first, int64_t last, int thread)               \
    {                                                                                            \
        const update *u = (const update *)context;                                               \
        (void)thread;                                                                            \
        BODY(float, sqrtf)                                                                       \
    }                                                                                            \
    static void name##_f64(void *context, int64_t first, int64_t last, int thread)               \
    {                                                                                            \
        const update *u = (const update *)context;                                               \
        (void)thread;                                                                            \
        BODY(double, sqrt)                                                                       \
    }                                                                                            \
    static void name(const rt_env *env, update *u)                                               \
    {                                                                                            \
        rt_parallel(env, rt_count(&u->out[0]), 32768,                                            \
                    RT_USES_TYPE(RT_F64) && u->out[0].dtype == RT_F64 ? name##_f64 : name##_f32, \
                    u);                                                                          \
    }

#define SGD(T, ROOT)                                   \
    const T *p = P(T, 0), *g = P(T, 1), lr = (T)u->lr; \
    T *q = Q(T, 0);                                    \
    for (int64_t i = first; i < last; i++)             \
        q[i] = p[i] - lr * g[i];
UPDATE(sgd, SGD)

#define MOMENTUM(T, ROOT)                                                          \
    const T *p = P(T, 0), *g = P(T, 1), *m = P(T, 2), lr = (T)u->lr, mu = (T)u->a; \
    T *q = Q(T, 0), *n = Q(T, 1);                                                  \
    for (int64_t i = first; i < last; i++) {                                       \
        T next = mu * m[i] + g[i];                                                 \
        n[i] = next;                                                               \
        q[i] = p[i] - lr * next;                                                   \
    }
UPDATE(momentum, MOMENTUM)

/* Some elements at a time, by way of arrays that nothing else points to: then the loop vectorises,
 * though the results may lie over the operands. */
enum { ADAM_BLOCK = 64 };
#define ADAM(T, ROOT)                                                                          \
    const T b1 = (T)u->a, b2 = (T)u->b, e = (T)u->epsilon, rate = (T)u->lr / (T)u->c1;         \
    const T c2 = (T)u->c2, keep = (T)u->keep, a1 = 1 - b1, a2 = 1 - b2, weight = (T)u->weight; \
    T g[ADAM_BLOCK], q[ADAM_BLOCK], n[ADAM_BLOCK], w[ADAM_BLOCK];                              \
    for (int64_t at = first; at < last; at += ADAM_BLOCK) {                                    \
        const T *p = P(T, 0) + at, *x = P(T, 1) + at, *m = P(T, 2) + at, *v = P(T, 3) + at;    \
        int count = last - at < ADAM_BLOCK ? (int)(last - at) : ADAM_BLOCK;                    \
        for (int i = 0; i < count; i++)                                                        \
            g[i] = weight * x[i];                                                              \
        for (int i = 0; i < count && weight == 0; i++)                                         \
            g[i] = 0;                                                                          \
        for (int i = 0; i < count; i++) {                                                      \
            n[i] = b1 * m[i] + a1 * g[i];                                                      \
            w[i] = b2 * v[i] + a2 * (g[i] * g[i]);                                             \
            q[i] = keep * p[i] - rate * n[i] / (ROOT(w[i] / c2) + e);                          \
        }                                                                                      \
        memcpy(Q(T, 0) + at, q, (size_t)count * sizeof *q);                                    \
        memcpy(Q(T, 1) + at, n, (size_t)count * sizeof *n);                                    \
        memcpy(Q(T, 2) + at, w, (size_t)count * sizeof *w);                                    \
    }
UPDATE(adam, ADAM)

/* sgd_update: p, g, lr -> p'. */
void rt_sgd_update(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    update u = {in, out, rt_get_f64(&in[2], 0), 0, 0, 0, 0, 0, 0, 1};
    (void)attr;
    sgd(env, &u);
}

/* momentum_update: p, g, m, lr, mu -> p', m'. */
void rt_momentum_update(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    update u = {in, out, rt_get_f64(&in[3], 0), rt_get_f64(&in[4], 0), 0, 0, 0, 0, 0, 1};
    (void)attr;
    momentum(env, &u);
}

/* adam_update: p, g, m, v, lr, beta1, beta2, eps, c1, c2 [, decay] [, weight] -> p', m', v'.
 * decoupled: p is first scaled by 1 - lr decay. weighted: of the gradient weight * g; a weight of 0
 * gives 0 whatever g is. */
void rt_adam_update(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    update u = {in,
                out,
                rt_get_f64(&in[4], 0),
                rt_get_f64(&in[5], 0),
                rt_get_f64(&in[6], 0),
                rt_get_f64(&in[7], 0),
                rt_get_f64(&in[8], 0),
                rt_get_f64(&in[9], 0),
                1,
                1};
    const rt_adam_update_attr *a = (const rt_adam_update_attr *)attr;
    if (a->weighted)
        u.weight = rt_get_f64(&in[a->decoupled ? 11 : 10], 0);
    if (a->decoupled)
        u.keep = 1 - u.lr * rt_get_f64(&in[10], 0);
    adam(env, &u);
}
