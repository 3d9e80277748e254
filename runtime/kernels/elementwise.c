/* runtime/kernels/elementwise.c: operators that work element by element, with numpy's broadcasting.
 */
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/loops.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ one operand */

typedef struct unary_job {
    const rt_unary_attr *at;
    const rt_tensor *x, *y;
} unary_job;

static void unary_float(const unary_job *j, int64_t first, int64_t last)
{
    const float a = (float)j->at->alpha, b = (float)j->at->beta;
    const rt_view v[3] = {{(const float *)j->x->data + first, 1}, {&a, 0}, {&b, 0}};
    rt_loop_f32(RT_CHAIN_UNARY + j->at->op, v, (float *)j->y->data + first, last - first);
}

static void unary_double(const unary_job *j, int64_t first, int64_t last)
{
    const rt_view v[3] = {
        {(const double *)j->x->data + first, 1}, {&j->at->alpha, 0}, {&j->at->beta, 0}};
    rt_loop_f64(RT_CHAIN_UNARY + j->at->op, v, (double *)j->y->data + first, last - first);
}

/* Predicates give bools, some at a time by way of numbers. */
#define TRUTHS(name, T, loop)                                                         \
    static void name(const unary_job *j, int64_t first, int64_t last)                 \
    {                                                                                 \
        enum { BLOCK = 256 };                                                         \
        const T a = (T)j->at->alpha, b = (T)j->at->beta;                              \
        for (int64_t at = first; at < last; at += BLOCK) {                            \
            T truth[BLOCK];                                                           \
            int64_t m = last - at > BLOCK ? (int64_t)BLOCK : last - at;               \
            const rt_view v[3] = {{(const T *)j->x->data + at, 1}, {&a, 0}, {&b, 0}}; \
            loop(RT_CHAIN_UNARY + j->at->op, v, truth, m);                            \
            for (int64_t i = 0; i < m; i++)                                           \
                ((unsigned char *)j->y->data)[at + i] = truth[i] != 0;                \
        }                                                                             \
    }
TRUTHS(truths_f32, float, rt_loop_f32)
TRUTHS(truths_f64, double, rt_loop_f64)

/* Integers: through int64; what is too large wraps. */
static int64_t int_unary(int op, int64_t x)
{
    const uint64_t u = (uint64_t)x;
    switch (op) {
#define INTEGER_UNARY(name, value) \
    case RT_UNARY_##name:          \
        return (int64_t)(value);
#include "runtime/elementwise.def"
    default:
        return 0;
    }
}

static void unary_int(const unary_job *j, int64_t first, int64_t last)
{
    for (int64_t i = first; i < last; i++)
        rt_set_i64(j->y, i, int_unary(j->at->op, rt_get_i64(j->x, i)));
}

static void unary_range(void *context, int64_t first, int64_t last, int thread)
{
    const unary_job *j = (const unary_job *)context;
    int truths = j->y->dtype == RT_BOOL;
    (void)thread;
    if (j->x->dtype == RT_F32)
        (truths ? truths_f32 : unary_float)(j, first, last);
    else if (RT_USES_TYPE(RT_F64) && j->x->dtype == RT_F64)
        (truths ? truths_f64 : unary_double)(j, first, last);
    else if (RT_USES_INTEGERS)
        unary_int(j, first, last);
}

/* unary: X -> Y of the same shape. op: rt_unary_op. */
void rt_unary(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    unary_job j = {(const rt_unary_attr *)attr, &in[0], &out[0]};
    rt_parallel(env, rt_count(&out[0]), 16384, unary_range, &j);
}

/* ------------------------------------------------------------------ broadcasting */

/* Up to three operands seen from the output: strides in elements, 0 along broadcast axes; axes that
 * run together are joined. */
typedef struct broadcast {
    int rank, n;
    int64_t dims[RT_MAX_RANK], stride[3][RT_MAX_RANK];
} broadcast;

static void plan_broadcast(broadcast *b, const rt_tensor *y, const rt_tensor *x, int n)
{
    int64_t step[3] = {1, 1, 1};
    b->rank = y->rank;
    b->n = n;
    for (int d = y->rank - 1; d >= 0; d--) {
        b->dims[d] = y->dims[d];
        for (int k = 0; k < n; k++) {
            int at = d - (y->rank - x[k].rank);
            int64_t size = at < 0 ? 1 : x[k].dims[at];
            b->stride[k][d] = size == 1 ? 0 : step[k];
            step[k] *= size;
        }
    }
    /* join axis d with d+1 where every operand runs on */
    int rank = 0;
    for (int d = 0; d < b->rank; d++) {
        int joins = rank > 0;
        for (int k = 0; k < n && joins; k++)
            joins = b->stride[k][rank - 1] == b->stride[k][d] * b->dims[d];
        if (b->dims[d] == 1 && rank > 0)
            continue;
        if (rank > 0 && b->dims[rank - 1] == 1)
            rank--, joins = 0;
        if (joins) {
            b->dims[rank - 1] *= b->dims[d];
            for (int k = 0; k < n; k++)
                b->stride[k][rank - 1] = b->stride[k][d];
        } else {
            b->dims[rank] = b->dims[d];
            for (int k = 0; k < n; k++)
                b->stride[k][rank] = b->stride[k][d];
            rank++;
        }
    }
    b->rank = rank;
}

/* Where the operands stand at output element i: row of the last axis. */
static void offsets_of_row(const broadcast *b, int64_t row, int64_t *offset)
{
    for (int k = 0; k < b->n; k++)
        offset[k] = 0;
    for (int d = b->rank - 2; d >= 0; d--) {
        int64_t x = row % b->dims[d];
        row /= b->dims[d];
        for (int k = 0; k < b->n; k++)
            offset[k] += x * b->stride[k][d];
    }
}

typedef struct binary_job {
    int op;
    broadcast b;
    const rt_tensor *x, *y;
} binary_job;

/* An operator on a row; operands stand still (step 0) or run. Comparisons give bools, some at a
 * time by way of numbers. */
#define ROW(name, T, loop)                                                                     \
    static void name(const binary_job *j, const int64_t *o, int64_t to, int64_t n, int64_t sa, \
                     int64_t sb)                                                               \
    {                                                                                          \
        enum { BLOCK = 256 };                                                                  \
        const T *p = (const T *)j->x[0].data + o[0], *q = (const T *)j->x[1].data + o[1];      \
        int block = j->y->dtype == RT_BOOL;                                                    \
        for (int64_t at = 0; at < n;) {                                                        \
            T truth[BLOCK];                                                                    \
            int64_t m = block && n - at > BLOCK ? (int64_t)BLOCK : n - at;                     \
            const rt_view v[3] = {{p + at * sa, sa}, {q + at * sb, sb}, {0, 0}};               \
            loop(RT_CHAIN_BINARY + j->op, v, block ? truth : (T *)j->y->data + to + at, m);    \
            for (int64_t i = 0; i < m && block; i++)                                           \
                ((unsigned char *)j->y->data)[to + at + i] = truth[i] != 0;                    \
            at += m;                                                                           \
        }                                                                                      \
    }
ROW(row_f32, float, rt_loop_f32)
ROW(row_f64, double, rt_loop_f64)

/* The integers of elementwise.def (inline: an emitted program may have none of them). x^y by
 * squaring; wraps. A negative power of an integer is 0, but for +-1. */
static inline uint64_t int_pow(int64_t x, int64_t y)
{
    uint64_t base = (uint64_t)x, result = 1;
    if (y < 0)
        return x == 1 ? 1 : x == -1 ? (y % 2 ? (uint64_t)-1 : 1) : 0;
    for (; y; y >>= 1, base *= base)
        if (y & 1)
            result *= base;
    return result;
}

/* Division by 0 has failed before (divisors_fit); the smallest number over -1 wraps. */
static inline int64_t int_div(int64_t x, int64_t y)
{
    return y == -1 ? (int64_t)(0 - (uint64_t)x) : x / y;
}

static inline int64_t int_mod(int64_t x, int64_t y, int like_c)
{
    int64_t r = y == -1 ? 0 : x % y;
    return !like_c && r && (r < 0) != (y < 0) ? r + y : r;
}

static int64_t int_binary(int op, int64_t x, int64_t y, int bits)
{
    const uint64_t u = (uint64_t)x, v = (uint64_t)y;
    switch (op) {
#define INTEGER_BINARY(name, value) \
    case RT_BINARY_##name:          \
        return (int64_t)(value);
#include "runtime/elementwise.def"
    default:
        return 0;
    }
}

static void row_int(const binary_job *j, const int64_t *o, int64_t to, int64_t n, int64_t sa,
                    int64_t sb)
{
    int bits = 8 * (int)rt_dtype_size(j->x[0].dtype);
    for (int64_t i = 0; i < n; i++)
        rt_set_i64(j->y, to + i,
                   int_binary(j->op, rt_get_i64(&j->x[0], o[0] + i * sa),
                              rt_get_i64(&j->x[1], o[1] + i * sb), bits));
}

/* A power with operands of two types: through double. */
static void row_mixed(const binary_job *j, const int64_t *o, int64_t to, int64_t n, int64_t sa,
                      int64_t sb)
{
    for (int64_t i = 0; i < n; i++)
        rt_set_f64(j->y, to + i,
                   pow(rt_get_f64(&j->x[0], o[0] + i * sa), rt_get_f64(&j->x[1], o[1] + i * sb)));
}

static void binary_range(void *context, int64_t first, int64_t last, int thread)
{
    const binary_job *j = (const binary_job *)context;
    const broadcast *b = &j->b;
    int64_t n = b->rank ? b->dims[b->rank - 1] : 1, o[3];
    int64_t sa = b->rank ? b->stride[0][b->rank - 1] : 0,
            sb = b->rank ? b->stride[1][b->rank - 1] : 0;
    int mixed = j->x[0].dtype != j->x[1].dtype;
    (void)thread;
    /* [first, last) in elements: whole rows, and parts of long ones */
    for (int64_t at = first; at < last;) {
        int64_t row = at / n, skip = at % n, part = n - skip < last - at ? n - skip : last - at;
        offsets_of_row(b, row, o);
        o[0] += skip * sa;
        o[1] += skip * sb;
        if (RT_USES_INTEGERS && mixed)
            row_mixed(j, o, at, part, sa, sb);
        else if (j->x[0].dtype == RT_F32)
            row_f32(j, o, at, part, sa, sb);
        else if (RT_USES_TYPE(RT_F64) && j->x[0].dtype == RT_F64)
            row_f64(j, o, at, part, sa, sb);
        else if (RT_USES_INTEGERS)
            row_int(j, o, at, part, sa, sb);
        at += part;
    }
}

/* Whether integers are divided by no 0. */
static int divisors_fit(const rt_env *env, int op, const rt_tensor *y)
{
    int64_t n = rt_count(y);
    if (rt_is_float(y->dtype) ||
        (op != RT_BINARY_div && op != RT_BINARY_mod && op != RT_BINARY_fmod))
        return 1;
    for (int64_t i = 0; i < n; i++)
        if (rt_get_i64(y, i) == 0) {
            rt_fail(env, "an integer divided by %lld", 0, 0, y, i);
            return 0;
        }
    return 1;
}

/* binary: A, B broadcast -> Y. op: rt_binary_op; comparisons give bool. Pow may have operands of
 * two types. */
void rt_binary(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    binary_job j = {((const rt_binary_attr *)attr)->op, {0, 0, {0}, {{0}}}, in, &out[0]};
    if (RT_USES_INTEGERS && rt_count(&out[0]) && !divisors_fit(env, j.op, &in[1]))
        return;
    plan_broadcast(&j.b, &out[0], in, 2);
    rt_parallel(env, rt_count(&out[0]), 32768, binary_range, &j);
}

/* where: C (bool), A, B broadcast -> Y, of any type. */
void rt_where(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    broadcast b;
    int64_t count = rt_count(&out[0]);
    size_t size = rt_dtype_size(out[0].dtype);
    (void)env, (void)attr;
    plan_broadcast(&b, &out[0], in, 3);
    int64_t n = b.rank ? b.dims[b.rank - 1] : 1;
    for (int64_t at = 0; at < count; at += n) {
        int64_t o[3], s[3];
        offsets_of_row(&b, at / n, o);
        for (int k = 0; k < 3; k++)
            s[k] = b.rank ? b.stride[k][b.rank - 1] : 0;
        const unsigned char *c = (const unsigned char *)in[0].data + o[0];
#define TAKE(T)                                                                       \
    {                                                                                 \
        const T *p = (const T *)in[1].data + o[1], *q = (const T *)in[2].data + o[2]; \
        T *r = (T *)out[0].data + at;                                                 \
        for (int64_t i = 0; i < n; i++)                                               \
            r[i] = c[i * s[0]] ? p[i * s[1]] : q[i * s[2]];                           \
    }
        if (size == 4)
            TAKE(uint32_t)
        else if (size == 8)
            TAKE(uint64_t)
        else if (size == 2)
            TAKE(uint16_t)
        else
            TAKE(uint8_t)
#undef TAKE
    }
}

/* cast: X -> Y of the same shape and another type. Float to integer truncates; what does not fit
 * wraps at 64 bits. */
void rt_cast(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int64_t n = rt_count(&out[0]);
    int from_float = rt_is_float(in[0].dtype), to_float = rt_is_float(out[0].dtype);
    (void)env, (void)attr;
    if (in[0].dtype == out[0].dtype) {
        memmove(out[0].data, in[0].data, (size_t)n * rt_dtype_size(out[0].dtype));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (out[0].dtype == RT_BOOL)
            ((unsigned char *)out[0].data)[i] =
                from_float ? rt_get_f64(&in[0], i) != 0 : rt_get_i64(&in[0], i) != 0;
        else if (from_float || to_float)
            rt_set_f64(&out[0], i, from_float ? rt_get_f64(&in[0], i) : rt_int_as_f64(&in[0], i));
        else
            rt_set_i64(&out[0], i, rt_get_i64(&in[0], i));
    }
}
