/* runtime/kernels/gram.c: the inner products of some vectors. Floats are added up in float over a
 * block, blocks in double: the same bits for any thread count. */
#include "runtime/kernels/kernels.h"

#include <string.h>

enum { BLOCK = 1024, LANES = 32, GROUP = 64 };

typedef struct gram_job {
    const rt_env *env;
    const rt_tensor *x, *y;
    int64_t n, size; /* vectors, their elements */
} gram_job;

/* Thirty-two sums, so that it vectorises without waiting for the one before. */
#define DOT                                     \
    float lane[LANES] = {0};                    \
    int64_t i = 0;                              \
    for (; i + LANES <= n; i += LANES)          \
        for (int k = 0; k < LANES; k++)         \
            lane[k] += x[i + k] * y[i + k];     \
    for (int k = 0; i < n; i++, k++)            \
        lane[k] += x[i] * y[i];                 \
    for (int half = LANES / 2; half; half /= 2) \
        for (int k = 0; k < half; k++)          \
            lane[k] += lane[k + half];          \
    return (double)lane[0];

static double dot_portable(const float *x, const float *y, int64_t n)
{
    DOT
}

/* The same operations, eight at a time. */
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static double dot_avx2(const float *x, const float *y, int64_t n)
{
    DOT
}
#else
#define dot_avx2 dot_portable
#endif

static double dot(const gram_job *g, int64_t row, int64_t column, int64_t first, int64_t last)
{
    const rt_tensor *x = &g->x[row], *y = &g->x[column];
    double sum = 0;
    if (x->dtype == RT_F32)
        return (g->env->cpu == RT_CPU_PORTABLE ? dot_portable : dot_avx2)(
            (const float *)x->data + first, (const float *)y->data + first, last - first);
    for (int64_t i = first; i < last; i++)
        sum += rt_get_f64(x, i) * rt_get_f64(y, i);
    return sum;
}

/* Pairs (i, j), j <= i, in the order (0,0) (1,0) (1,1) (2,0) ..., some at a time: block by block,
 * so that each vector is read from memory once. */
static void gram_range(void *context, int64_t first, int64_t last, int thread)
{
    const gram_job *g = (const gram_job *)context;
    int64_t i = 0, j = first;
    double sums[GROUP];
    (void)thread;
    while (j > i)
        j -= ++i;
    while (first < last) {
        int64_t left = last - first, count = left < GROUP ? left : (int64_t)GROUP;
        memset(sums, 0, sizeof sums);
        for (int64_t at = 0; at < g->size; at += BLOCK) {
            int64_t end = at + (int64_t)BLOCK < g->size ? at + (int64_t)BLOCK : g->size;
            int64_t row = i, column = j;
            for (int64_t p = 0; p < count; p++) {
                sums[p] += dot(g, row, column, at, end);
                if (++column > row)
                    row++, column = 0;
            }
        }
        for (int64_t p = 0; p < count; p++) {
            rt_set_f64(g->y, i * g->n + j, sums[p]);
            rt_set_f64(g->y, j * g->n + i, sums[p]);
            if (++j > i)
                i++, j = 0;
        }
        first += count;
    }
}

/* gram: X_1 .. X_n of the same size -> Y (n, n) of <x_i, x_j>. */
void rt_gram(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    int64_t n = out[0].dims[0];
    gram_job g = {env, in, &out[0], n, rt_count(&in[0])};
    (void)attr;
    rt_parallel(env, n * (n + 1) / 2, 65536 / (g.size + 1) + 1, gram_range, &g);
}
