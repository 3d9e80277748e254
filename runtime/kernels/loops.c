/* runtime/kernels/loops.c: operators that work element by element, in float and in double. Loops
 * over operands that are dense, or one element for all, vectorise. */
#include "runtime/kernels/loops.h"

#include <math.h>

static double celu(double x, double alpha)
{
    return x > 0 ? x : alpha * expm1(x / alpha);
}

/* x, and the attributes a and b. M: the function of math.h for the type. */
#define UNARY_OPS(M)                                                                         \
    U(RT_ABS, M(fabs)(x))                                                                    \
    U(RT_NEG, -x)                                                                            \
    U(RT_SIGN, (T)((x > 0) - (x < 0)))                                                       \
    U(RT_FLOOR, M(floor)(x))                                                                 \
    U(RT_CEIL, M(ceil)(x))                                                                   \
    U(RT_ROUND, M(nearbyint)(x))                                                             \
    U(RT_SQRT, M(sqrt)(x))                                                                   \
    U(RT_RECIPROCAL, 1 / x)                                                                  \
    U(RT_EXP, M(exp)(x))                                                                     \
    U(RT_LOG, M(log)(x))                                                                     \
    U(RT_SIN, M(sin)(x))                                                                     \
    U(RT_COS, M(cos)(x))                                                                     \
    U(RT_TAN, M(tan)(x))                                                                     \
    U(RT_ASIN, M(asin)(x))                                                                   \
    U(RT_ACOS, M(acos)(x))                                                                   \
    U(RT_ATAN, M(atan)(x))                                                                   \
    U(RT_SINH, M(sinh)(x))                                                                   \
    U(RT_COSH, M(cosh)(x))                                                                   \
    U(RT_TANH, M(tanh)(x))                                                                   \
    U(RT_ASINH, M(asinh)(x))                                                                 \
    U(RT_ACOSH, M(acosh)(x))                                                                 \
    U(RT_ATANH, M(atanh)(x))                                                                 \
    U(RT_ERF, M(erf)(x))                                                                     \
    U(RT_SIGMOID, x >= 0 ? 1 / (1 + M(exp)(-x)) : M(exp)(x) / (1 + M(exp)(x)))               \
    U(RT_RELU, x > 0 ? x : (x != x ? x : 0))                                                 \
    U(RT_LEAKY_RELU, x >= 0 ? x : a * x)                                                     \
    U(RT_ELU, x >= 0 ? x : a * M(expm1)(x))                                                  \
    U(RT_CELU, (T)celu((double)x, (double)a))                                                \
    U(RT_SELU, x > 0 ? b * x : b * a * M(expm1)(x))                                          \
    U(RT_SOFTPLUS, (x > 0 ? x : 0) + M(log1p)(M(exp)(-M(fabs)(x))))                          \
    U(RT_SOFTSIGN, x / (1 + M(fabs)(x)))                                                     \
    U(RT_HARD_SIGMOID, M(fmax)(0, M(fmin)(1, a * x + b)))                                    \
    U(RT_HARD_SWISH, x *M(fmax)(0, M(fmin)(1, x / 6 + (T)0.5)))                              \
    U(RT_MISH, x *M(tanh)((x > 0 ? x : 0) + M(log1p)(M(exp)(-M(fabs)(x)))))                  \
    U(RT_GELU, (T)0.5 * x * (1 + M(erf)(x * (T)0.70710678118654752440)))                     \
    U(RT_GELU_TANH,                                                                          \
      (T)0.5 * x * (1 + M(tanh)((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x)))) \
    U(RT_SWISH, x / (1 + M(exp)(-a * x)))                                                    \
    U(RT_THRESHOLDED_RELU, x > a ? x : 0)                                                    \
    U(RT_SHRINK, x<-a ? x + b : x> a ? x - b : 0)                                            \
    U(RT_NOT, x == 0)                                                                        \
    U(RT_IS_NAN, x != x)

#define BINARY_OPS(M)                          \
    B(RT_ADD, x + y)                           \
    B(RT_SUB, x - y)                           \
    B(RT_MUL, x *y)                            \
    B(RT_DIV, x / y)                           \
    B(RT_MAX, x != x || x > y ? x : y)         \
    B(RT_MIN, x != x || x < y ? x : y)         \
    B(RT_PRELU, x >= 0 ? x : x * y)            \
    B(RT_EQUAL, x == y)                        \
    B(RT_LESS, x < y)                          \
    B(RT_LESS_EQUAL, x <= y)                   \
    B(RT_GREATER, x > y)                       \
    B(RT_GREATER_EQUAL, x >= y)                \
    ANY(RT_POW, y == 2 ? x * x : M(pow)(x, y)) \
    ANY(RT_MOD, x - M(floor)(x / y) * y)       \
    ANY(RT_FMOD, M(fmod)(x, y))                \
    ANY(RT_AND, x != 0 && y != 0)              \
    ANY(RT_OR, x != 0 || y != 0)               \
    ANY(RT_XOR, (x != 0) != (y != 0))

#define F32(fn) fn##f
#define F64(fn) fn
#define U(op, value)                      \
    case RT_CHAIN_UNARY + op:             \
        if (!RT_USES_UNARY(op))           \
            break;                        \
        for (int64_t i = 0; i < n; i++) { \
            T x = p[i];                   \
            r[i] = (T)(value);            \
        }                                 \
        break;
/* A loop over operands of any steps. */
#define ANY(op, value)                    \
    case RT_CHAIN_BINARY + op:            \
        if (!RT_USES_BINARY(op))          \
            break;                        \
        for (int64_t i = 0; i < n; i++) { \
            T x = p[i * s], y = q[i * t]; \
            r[i] = (T)(value);            \
        }                                 \
        break;
/* Loops that vectorise where either operand is one element for all. */
#define B(op, value)                          \
    case RT_CHAIN_BINARY + op:                \
        if (!RT_USES_BINARY(op))              \
            break;                            \
        if (s == 1 && t == 1)                 \
            for (int64_t i = 0; i < n; i++) { \
                T x = p[i], y = q[i];         \
                r[i] = (T)(value);            \
            }                                 \
        else if (s == 1 && t == 0) {          \
            T y = q[0];                       \
            for (int64_t i = 0; i < n; i++) { \
                T x = p[i];                   \
                r[i] = (T)(value);            \
            }                                 \
        } else if (s == 0 && t == 1) {        \
            T x = p[0];                       \
            for (int64_t i = 0; i < n; i++) { \
                T y = q[i];                   \
                r[i] = (T)(value);            \
            }                                 \
        } else                                \
            for (int64_t i = 0; i < n; i++) { \
                T x = p[i * s], y = q[i * t]; \
                r[i] = (T)(value);            \
            }                                 \
        break;
/* Both operands are read first: compilers do not vectorise a read that depends on a condition. */
#define CHOOSE(q_i, w_i)              \
    for (int64_t i = 0; i < n; i++) { \
        const T yes = q_i, no = w_i;  \
        r[i] = p[i] != 0 ? yes : no;  \
    }
/* a ? b : c */
#define WHERE                                \
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
#define MULADD                                            \
    case RT_CHAIN_MULADD:                                 \
        if (s == 1 && t == 1 && u == 1)                   \
            PRODUCT_AND(p[i], q[i], w[i])                 \
        else if (s + t == 1 && s * t == 0 && u == 1) {    \
            const T *each = s ? p : q, all = s ? *q : *p; \
            PRODUCT_AND(all, each[i], w[i])               \
        } else                                            \
            PRODUCT_AND(p[i * s], q[i * t], w[i * u])     \
        break;
#define LOOPS(OPS)                                                                  \
    const T *p = (const T *)v[0].p, *q = (const T *)v[1].p, *w = (const T *)v[2].p; \
    const T a = q ? q[0] : 0, b = w ? w[0] : 0;                                     \
    const int64_t s = v[0].step, t = v[1].step, u = v[2].step;                      \
    (void)a, (void)b, (void)t, (void)u;                                             \
    switch (op) {                                                                   \
        OPS WHERE MULADD default : break;                                           \
    }

#define T float
void rt_loop_f32(int op, const rt_view *v, float *r, int64_t n)
{
    LOOPS(UNARY_OPS(F32) BINARY_OPS(F32))
}

#undef T
#undef B
#undef WHERE
#undef MULADD
/* For double one loop does for all steps: a third of the code. */
#define B ANY
#define WHERE            \
    case RT_CHAIN_WHERE: \
        WHERE_ANY        \
        break;
#define MULADD                                    \
    case RT_CHAIN_MULADD:                         \
        PRODUCT_AND(p[i * s], q[i * t], w[i * u]) \
        break;
#define T double
void rt_loop_f64(int op, const rt_view *v, double *r, int64_t n)
{
    LOOPS(UNARY_OPS(F64) BINARY_OPS(F64))
}
