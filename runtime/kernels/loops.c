/* runtime/kernels/loops.c: operators that work element by element, in float and in double. Loops
 * over operands that are dense, or one element for all, vectorise. */
#include "runtime/kernels/loops.h"

#include <math.h>

#define UNARY_CASE(name, value)              \
    case RT_CHAIN_UNARY + RT_UNARY_##name:   \
        if (!RT_USES_UNARY(RT_UNARY_##name)) \
            break;                           \
        for (int64_t i = 0; i < n; i++) {    \
            const T x = p[i];                \
            r[i] = (T)(value);               \
        }                                    \
        break;

/* Operands of any steps. */
#define ANY_STEPS(name, value)                  \
    case RT_CHAIN_BINARY + RT_BINARY_##name:    \
        if (!RT_USES_BINARY(RT_BINARY_##name))  \
            break;                              \
        for (int64_t i = 0; i < n; i++) {       \
            const T x = p[i * s], y = q[i * t]; \
            r[i] = (T)(value);                  \
        }                                       \
        break;

/* Loops that vectorise where either operand is one element for all. */
#define EACH_STEP(name, value)                      \
    case RT_CHAIN_BINARY + RT_BINARY_##name:        \
        if (!RT_USES_BINARY(RT_BINARY_##name))      \
            break;                                  \
        if (s == 1 && t == 1)                       \
            for (int64_t i = 0; i < n; i++) {       \
                const T x = p[i], y = q[i];         \
                r[i] = (T)(value);                  \
            }                                       \
        else if (s == 1 && t == 0) {                \
            const T y = q[0];                       \
            for (int64_t i = 0; i < n; i++) {       \
                const T x = p[i];                   \
                r[i] = (T)(value);                  \
            }                                       \
        } else if (s == 0 && t == 1) {              \
            const T x = p[0];                       \
            for (int64_t i = 0; i < n; i++) {       \
                const T y = q[i];                   \
                r[i] = (T)(value);                  \
            }                                       \
        } else                                      \
            for (int64_t i = 0; i < n; i++) {       \
                const T x = p[i * s], y = q[i * t]; \
                r[i] = (T)(value);                  \
            }                                       \
        break;

/* Both operands are read first: compilers do not vectorise a read that depends on a condition. */
#define CHOOSE(q_i, w_i)              \
    for (int64_t i = 0; i < n; i++) { \
        const T yes = q_i, no = w_i;  \
        r[i] = p[i] != 0 ? yes : no;  \
    }
/* a ? b : c */
#define WHERE_EACH_STEP                      \
    case RT_CHAIN_WHERE:                     \
        if (s == 1 && t == 1 && u == 1)      \
            CHOOSE(q[i], w[i])               \
        else if (s == 1 && t == 1 && u == 0) \
            CHOOSE(q[i], b)                  \
        else if (s == 1 && t == 0 && u == 1) \
            CHOOSE(a, w[i])                  \
        else                                 \
            WHERE_ANY                        \
        break;
#define WHERE_ANY                   \
    for (int64_t i = 0; i < n; i++) \
        r[i] = p[i * s] != 0 ? q[i * t] : w[i * u];
#define PRODUCT_AND(p_i, q_i, w_i)       \
    for (int64_t i = 0; i < n; i++) {    \
        const T product = (p_i) * (q_i); \
        r[i] = product + (w_i);          \
    }
/* a b + c, rounded twice; a or b may be one for all. */
#define MULADD_EACH_STEP                                  \
    case RT_CHAIN_MULADD:                                 \
        if (s == 1 && t == 1 && u == 1)                   \
            PRODUCT_AND(p[i], q[i], w[i])                 \
        else if (s + t == 1 && s * t == 0 && u == 1) {    \
            const T *each = s ? p : q, all = s ? *q : *p; \
            PRODUCT_AND(all, each[i], w[i])               \
        } else                                            \
            PRODUCT_AND(p[i * s], q[i * t], w[i * u])     \
        break;
/* a, b: the attributes of a unary operator. */
#define OPERANDS                                                                    \
    const T *p = (const T *)v[0].p, *q = (const T *)v[1].p, *w = (const T *)v[2].p; \
    const T a = q ? q[0] : 0, b = w ? w[0] : 0;                                     \
    const int64_t s = v[0].step, t = v[1].step, u = v[2].step;                      \
    (void)a, (void)b, (void)t, (void)u;

#define T     float
#define M(fn) fn##f
void rt_loop_f32(int op, const rt_view *v, float *r, int64_t n)
{
    OPERANDS
    switch (op) {
#define REAL_UNARY(name, value)  UNARY_CASE(name, value)
#define REAL_BINARY(name, value) EACH_STEP(name, value)
#include "runtime/elementwise.def"
        WHERE_EACH_STEP
        MULADD_EACH_STEP
    default:
        break;
    }
}
#undef T
#undef M

/* For double one loop does for all steps: a third of the code. */
#define T     double
#define M(fn) fn
void rt_loop_f64(int op, const rt_view *v, double *r, int64_t n)
{
    OPERANDS
    switch (op) {
#define REAL_UNARY(name, value)  UNARY_CASE(name, value)
#define REAL_BINARY(name, value) ANY_STEPS(name, value)
#include "runtime/elementwise.def"
    case RT_CHAIN_WHERE:
        WHERE_ANY
        break;
    case RT_CHAIN_MULADD:
        PRODUCT_AND(p[i * s], q[i * t], w[i * u])
        break;
    default:
        break;
    }
}
