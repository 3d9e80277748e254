/* runtime/kernels/reduce.c: reductions. Sums of floats run in double, each result in one thread:
 * the same bits for any thread count. */
#include "runtime/kernels/kernels.h"

#include <math.h>
#include <string.h>

typedef struct reduce_job {
    int op, nkeep, nred;
    const rt_tensor *x, *y;
    int64_t keep_dims[RT_MAX_RANK], keep_stride[RT_MAX_RANK], red_dims[RT_MAX_RANK],
        red_stride[RT_MAX_RANK];
    int64_t count; /* elements per result */
} reduce_job;

/* Adjacent axes of one kind that run together become one. */
static void add_axis(int64_t *dims, int64_t *stride, int *n, int64_t size, int64_t step)
{
    if (size == 1)
        return;
    if (*n && stride[*n - 1] == step * size) {
        dims[*n - 1] *= size;
        stride[*n - 1] = step;
        return;
    }
    dims[*n] = size;
    stride[(*n)++] = step;
}

static double start_of(int op)
{
    return op == RT_REDUCE_max || op == RT_REDUCE_log_sum_exp ? -INFINITY
           : op == RT_REDUCE_min                              ? INFINITY
           : op == RT_REDUCE_prod                             ? 1
                                                              : 0;
}

static double step_of(int op, double acc, double x)
{
    switch (op) {
    case RT_REDUCE_max:
    case RT_REDUCE_log_sum_exp:
        return x > acc || x != x ? x : acc;
    case RT_REDUCE_min:
        return x < acc || x != x ? x : acc;
    case RT_REDUCE_prod:
        return acc * x;
    case RT_REDUCE_l1:
        return acc + fabs(x);
    case RT_REDUCE_l2:
    case RT_REDUCE_sum_square:
        return acc + x * x;
    default:
        return acc + x;
    }
}

static double finish(const reduce_job *j, double acc)
{
    switch (j->op) {
    case RT_REDUCE_mean:
        return acc / (double)j->count;
    case RT_REDUCE_l2:
        return sqrt(acc);
    case RT_REDUCE_log_sum:
        return log(acc);
    default:
        return acc;
    }
}

/* A run of floats in sequence: eight sums, so that it vectorises. */
static double run_f32(int op, double acc, const float *p, int64_t n)
{
    double lane[8] = {0};
    int64_t i = 0;
    if (op != RT_REDUCE_sum && op != RT_REDUCE_mean && op != RT_REDUCE_sum_square &&
        op != RT_REDUCE_l2) {
        for (; i < n; i++)
            acc = step_of(op, acc, (double)p[i]);
        return acc;
    }
    if (op == RT_REDUCE_sum || op == RT_REDUCE_mean)
        for (; i + 8 <= n; i += 8)
            for (int k = 0; k < 8; k++)
                lane[k] += (double)p[i + k];
    else
        for (; i + 8 <= n; i += 8)
            for (int k = 0; k < 8; k++)
                lane[k] += (double)p[i + k] * (double)p[i + k];
    for (; i < n; i++)
        acc = step_of(op, acc, (double)p[i]);
    for (int k = 0; k < 8; k++)
        acc += lane[k];
    return acc;
}

/* shift: sum of exp(x - *shift) instead, where it is given. */
static double reduce_one(const reduce_job *j, int64_t base, int op, const double *shift)
{
    double acc = start_of(op);
    int last = j->nred - 1;
    int64_t n = j->nred ? j->red_dims[last] : 1, step = j->nred ? j->red_stride[last] : 1,
            index[RT_MAX_RANK] = {0};
    int64_t at = base, rows = n ? j->count / n : 0;
    for (int64_t row = 0; row < rows; row++) {
        if (j->x->dtype == RT_F32 && step == 1 && !shift) {
            acc = run_f32(op, acc, (const float *)j->x->data + at, n);
        } else {
            for (int64_t i = 0; i < n; i++) {
                double x = rt_get_f64(j->x, at + i * step);
                acc = step_of(op, acc, shift ? exp(x - *shift) : x);
            }
        }
        for (int d = last - 1; d >= 0; d--) {
            at += j->red_stride[d];
            if (++index[d] < j->red_dims[d])
                break;
            at -= j->red_stride[d] * j->red_dims[d];
            index[d] = 0;
        }
    }
    return acc;
}

/* log(sum e^x), by the largest. */
static double log_sum_exp(const reduce_job *j, int64_t base)
{
    double most = reduce_one(j, base, RT_REDUCE_max, NULL);
    return isinf(most) ? most : most + log(reduce_one(j, base, RT_REDUCE_sum, &most));
}

static int64_t int_step(int op, int64_t acc, int64_t x)
{
    uint64_t u = (uint64_t)acc, v = (uint64_t)x;
    switch (op) {
    case RT_REDUCE_max:
        return x > acc ? x : acc;
    case RT_REDUCE_min:
        return x < acc ? x : acc;
    case RT_REDUCE_prod:
        return (int64_t)(u * v);
    case RT_REDUCE_l1:
        return (int64_t)(u + (x < 0 ? 0 - v : v));
    case RT_REDUCE_sum_square:
        return (int64_t)(u + v * v);
    default:
        return (int64_t)(u + v);
    }
}

static int64_t reduce_int(const reduce_job *j, int64_t base)
{
    int64_t acc = j->op == RT_REDUCE_max   ? INT64_MIN
                  : j->op == RT_REDUCE_min ? INT64_MAX
                                           : j->op == RT_REDUCE_prod;
    for (int64_t i = 0; i < j->count; i++) {
        int64_t rest = i, at = base;
        for (int d = j->nred - 1; d >= 0; d--) {
            at += rest % j->red_dims[d] * j->red_stride[d];
            rest /= j->red_dims[d];
        }
        acc = int_step(j->op, acc, rt_get_i64(j->x, at));
    }
    return j->op == RT_REDUCE_mean && j->count ? acc / j->count : acc;
}

static int64_t base_of(const reduce_job *j, int64_t i)
{
    int64_t at = 0;
    for (int d = j->nkeep - 1; d >= 0; d--) {
        at += i % j->keep_dims[d] * j->keep_stride[d];
        i /= j->keep_dims[d];
    }
    return at;
}

static void reduce_range(void *context, int64_t first, int64_t last, int thread)
{
    const reduce_job *j = (const reduce_job *)context;
    (void)thread;
    for (int64_t i = first; i < last; i++) {
        int64_t base = base_of(j, i);
        if (!rt_is_float(j->x->dtype) && j->op != RT_REDUCE_l2 && j->op != RT_REDUCE_log_sum &&
            j->op != RT_REDUCE_log_sum_exp)
            rt_set_i64(j->y, i, reduce_int(j, base));
        else if (j->op == RT_REDUCE_log_sum_exp)
            rt_set_f64(j->y, i, log_sum_exp(j, base));
        else
            rt_set_f64(j->y, i, finish(j, reduce_one(j, base, j->op, NULL)));
    }
}

/* Sums down the columns of (rows, cols): rows are added one after another, in blocks of columns
 * held as double. */
static void column_sums(void *context, int64_t first, int64_t last, int thread)
{
    const reduce_job *j = (const reduce_job *)context;
    int64_t cols = j->keep_dims[0], rows = j->red_dims[0];
    double acc[64];
    (void)thread;
    for (int64_t at = first; at < last; at += 64) {
        int64_t n = last - at < 64 ? last - at : 64;
        memset(acc, 0, sizeof acc);
        for (int64_t r = 0; r < rows; r++) {
            const float *p = (const float *)j->x->data + r * cols + at;
            for (int64_t i = 0; i < n; i++)
                acc[i] += (double)p[i];
        }
        for (int64_t i = 0; i < n; i++)
            ((float *)j->y->data)[at + i] =
                (float)(j->op == RT_REDUCE_mean ? acc[i] / (double)rows : acc[i]);
    }
}

/* reduce: X -> Y; mask: bit d for each reduced axis d. op: rt_reduce_op. */
void rt_reduce(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_reduce_attr *a = (const rt_reduce_attr *)attr;
    const rt_tensor *x = &in[0];
    reduce_job j = {a->op, 0, 0, x, &out[0], {0}, {0}, {0}, {0}, 1};
    int64_t step[RT_MAX_RANK + 1] = {0};
    step[x->rank] = 1;
    for (int d = x->rank - 1; d >= 0; d--)
        step[d] = step[d + 1] * x->dims[d];
    for (int d = 0; d < x->rank; d++) {
        int reduced = a->mask >> d & 1;
        j.count *= reduced ? x->dims[d] : 1;
        if (reduced)
            add_axis(j.red_dims, j.red_stride, &j.nred, x->dims[d], step[d + 1]);
        else
            add_axis(j.keep_dims, j.keep_stride, &j.nkeep, x->dims[d], step[d + 1]);
    }
    int64_t results = rt_count(&out[0]);
    int columns = x->dtype == RT_F32 && (a->op == RT_REDUCE_sum || a->op == RT_REDUCE_mean) &&
                  j.nkeep == 1 && j.nred == 1 && j.keep_stride[0] == 1;
    if (columns && j.count)
        rt_parallel(env, results, 256, column_sums, &j);
    else
        rt_parallel(env, results, j.count > 4096 ? 1 : 4096 / (j.count + 1) + 1, reduce_range, &j);
}

/* arg: X -> Y (int64): position of the largest (or smallest) along an axis; of equals the first, or
 * the last. */
void rt_arg(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_arg_attr *a = (const rt_arg_attr *)attr;
    const rt_tensor *x = &in[0];
    int64_t n = x->dims[a->axis], inner = rt_product(x->dims, a->axis + 1, x->rank),
            outer = rt_product(x->dims, 0, a->axis);
    (void)env;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t best = 0;
            for (int64_t k = 1; k < n; k++) {
                double v = rt_get_f64(x, (o * n + k) * inner + i),
                       w = rt_get_f64(x, (o * n + best) * inner + i);
                if ((a->largest ? v > w : v < w) || (a->last && v == w))
                    best = k;
            }
            ((int64_t *)out[0].data)[o * inner + i] = best;
        }
}

/* det: X (.., n, n) -> Y (..), n <= 16, by elimination with pivoting in double. */
void rt_det(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int64_t n = in[0].dims[in[0].rank - 1], count = rt_count(&out[0]);
    double m[16][16];
    (void)env, (void)attr;
    for (int64_t b = 0; b < count && n <= 16; b++) {
        double det = 1;
        for (int64_t i = 0; i < n * n; i++)
            m[i / n][i % n] = rt_get_f64(&in[0], b * n * n + i);
        for (int64_t c = 0; c < n && det != 0; c++) {
            int64_t pivot = c;
            for (int64_t r = c + 1; r < n; r++)
                pivot = fabs(m[r][c]) > fabs(m[pivot][c]) ? r : pivot;
            if (pivot != c) {
                double swap[16];
                memcpy(swap, m[c], sizeof swap);
                memcpy(m[c], m[pivot], sizeof swap);
                memcpy(m[pivot], swap, sizeof swap);
                det = -det;
            }
            det *= m[c][c];
            for (int64_t r = c + 1; r < n && det != 0; r++) {
                double f = m[r][c] / m[c][c];
                for (int64_t k = c; k < n; k++)
                    m[r][k] -= f * m[c][k];
            }
        }
        rt_set_f64(&out[0], b, det);
    }
}
