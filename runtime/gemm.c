/* runtime/gemm.c: blocking and packing (Goto and van de Geijn 2008). C is cut into tiles; a tile's
 * strips of A and B are packed into a thread's scratch, so that the inner kernel reads both in
 * order, whatever the layout of the operands. */
#include "runtime/gemm.h"

#include <string.h>

enum { KC = RT_KC, MC = RT_MC, NC = RT_NC };

static const struct {
    rt_micro_f32 *run;
    int mr, nr;
} micros[] = {{rt_micro_portable, 4, 8}, {rt_micro_avx2, 6, 16}, {rt_micro_avx512, 12, 32}};

typedef struct job {
    const rt_env *env;
    int64_t m, n, k, ldc;
    rt_matrix a, b;
    float alpha, beta;
    float *c;
    int64_t tiles_n;
} job;

#ifdef __SSE2__
#include <xmmintrin.h>
/* As below, four rows at a time; the rows that were done. */
static int turn_fours(const float *from, int64_t row, int strip, float *to)
{
    int r = 0;
    for (; r + 4 <= strip; r += 4)
        for (int q = 0; q < 16; q += 4) {
            __m128 x[4];
            for (int i = 0; i < 4; i++)
                x[i] = _mm_loadu_ps(from + (r + i) * row + q);
            _MM_TRANSPOSE4_PS(x[0], x[1], x[2], x[3]);
            for (int i = 0; i < 4; i++)
                _mm_storeu_ps(to + (q + i) * strip + r, x[i]);
        }
    return r;
}
#else
static int turn_fours(const float *from, int64_t row, int strip, float *to)
{
    (void)from, (void)row, (void)strip, (void)to;
    return 0;
}
#endif

/* to[q * strip + r] = from[r * row + q], r < strip, q < 16: a cache line of each row. */
static void turn(const float *from, int64_t row, int strip, float *to)
{
    for (int r = turn_fours(from, row, strip, to); r < strip; r++)
        for (int q = 0; q < 16; q++)
            to[q * strip + r] = from[r * row + q];
}

/* (rows, k) in strips of `strip` rows, k running fastest outside the strip; what is missing is 0.
 */
static void pack(const float *from, int64_t row, int64_t col, int64_t rows, int64_t k, int strip,
                 float *to)
{
    for (int64_t i = 0; i < rows; i += strip) {
        int full = rows - i >= strip;
        const float *base = from + i * row;
        if (full && row == 1) {
            for (int64_t p = 0; p < k; p++, to += strip)
                for (int r = 0; r < strip; r++)
                    to[r] = base[p * col + r];
        } else if (full && col == 1) {
            int64_t p = 0;
            for (; p + 16 <= k; p += 16, to += 16 * strip)
                turn(base + p, row, strip, to);
            for (; p < k; p++, to += strip)
                for (int r = 0; r < strip; r++)
                    to[r] = base[r * row + p];
        } else {
            int left = full ? strip : (int)(rows - i);
            memset(to, 0, (size_t)(full ? 0 : k * strip) * sizeof *to);
            for (int r = 0; r < left; r++)
                for (int64_t p = 0; p < k; p++)
                    to[p * strip + r] = base[r * row + p * col];
            to += k * strip;
        }
    }
}

/* Adds a block of accumulators to C. */
static void store(const job *j, const float *acc, int nr, int64_t rows, int64_t cols, float *c,
                  float beta)
{
    for (int64_t i = 0; i < rows; i++, acc += nr, c += j->ldc) {
        if (beta == 0)
            for (int64_t q = 0; q < cols; q++)
                c[q] = j->alpha * acc[q];
        else if (beta == 1)
            for (int64_t q = 0; q < cols; q++)
                c[q] += j->alpha * acc[q];
        else
            for (int64_t q = 0; q < cols; q++)
                c[q] = j->alpha * acc[q] + beta * c[q];
    }
}

static void tile(const job *j, int64_t i0, int64_t j0, int thread)
{
    int cpu = j->env->cpu < 0 ? 0 : j->env->cpu > 2 ? 2 : j->env->cpu;
    int mr = micros[cpu].mr, nr = micros[cpu].nr;
    float *pa = (float *)(void *)(j->env->scratch + (size_t)thread * j->env->scratch_size);
    float *pb = pa + rt_gemm_scratch_a(j->m, j->k) / sizeof(float), acc[RT_MAX_MR * RT_MAX_NR];
    int64_t m = rt_least(MC, j->m - i0), n = rt_least(NC, j->n - j0);
    const float *a = (const float *)j->a.data, *b = (const float *)j->b.data;
    for (int64_t p = 0; p < j->k || p == 0; p += KC) {
        int64_t k = rt_least(KC, j->k - p);
        float beta = p ? 1 : j->beta;
        int plain = beta == 0 && j->alpha == 1; /* what the inner kernel gives is C */
        pack(a + i0 * j->a.row + p * j->a.col, j->a.row, j->a.col, m, k, mr, pa);
        pack(b + p * j->b.row + j0 * j->b.col, j->b.col, j->b.row, n, k, nr, pb);
        for (int64_t q = 0; q < n; q += nr)
            for (int64_t i = 0; i < m; i += mr) {
                float *c = j->c + (i0 + i) * j->ldc + j0 + q;
                if (plain && m - i >= mr && n - q >= nr) {
                    micros[cpu].run(k, pa + i * k, pb + q * k, c, j->ldc);
                    continue;
                }
                micros[cpu].run(k, pa + i * k, pb + q * k, acc, nr);
                store(j, acc, nr, rt_least(mr, m - i), rt_least(nr, n - q), c, beta);
            }
    }
}

static void tiles(void *context, int64_t first, int64_t last, int thread)
{
    const job *j = (const job *)context;
    for (int64_t t = first; t < last; t++)
        tile(j, t / j->tiles_n * MC, t % j->tiles_n * NC, thread);
}

/* One row: a sum of scaled rows, or dot products; nothing is packed. */
static int narrow(const job *j)
{
    const float *a = (const float *)j->a.data, *b = (const float *)j->b.data;
    if (j->m != 1 || j->b.col != 1 || j->n < 8)
        return 0;
    for (int64_t q = 0; q < j->n; q++)
        j->c[q] = j->beta == 0 ? 0 : j->beta * j->c[q];
    for (int64_t p = 0; p < j->k; p++) {
        float x = j->alpha * a[p * j->a.col];
        const float *row = b + p * j->b.row;
        for (int64_t q = 0; q < j->n; q++)
            j->c[q] += x * row[q];
    }
    return 1;
}

/* The plain product, for double. */
typedef struct job_f64 {
    int64_t n, k, ldc;
    rt_matrix a, b;
    double alpha, beta, *c;
} job_f64;

static void rows_f64(void *context, int64_t first, int64_t last, int thread)
{
    const job_f64 *j = (const job_f64 *)context;
    const double *a = (const double *)j->a.data, *b = (const double *)j->b.data;
    (void)thread;
    for (int64_t i = first; i < last; i++) {
        double *c = j->c + i * j->ldc;
        for (int64_t q = 0; q < j->n; q++)
            c[q] = j->beta == 0 ? 0 : j->beta * c[q];
        for (int64_t p = 0; p < j->k; p++) {
            double x = j->alpha * a[i * j->a.row + p * j->a.col];
            for (int64_t q = 0; q < j->n; q++)
                c[q] += x * b[p * j->b.row + q * j->b.col];
        }
    }
}

void rt_gemm(const rt_env *env, int dtype, int64_t m, int64_t n, int64_t k, double alpha,
             rt_matrix a, rt_matrix b, double beta, void *c, int64_t ldc)
{
    if (m <= 0 || n <= 0)
        return;
    if (RT_USES_TYPE(RT_F64) && dtype == RT_F64) {
        job_f64 d = {n, k, ldc, a, b, alpha, beta, (double *)c};
        rt_parallel(env, m, 16, rows_f64, &d);
        return;
    }
    job j = {env, m, n, k, ldc, a, b, (float)alpha, (float)beta, (float *)c, (n + NC - 1) / NC};
    if (!narrow(&j))
        rt_parallel(env, (m + MC - 1) / MC * j.tiles_n, 1, tiles, &j);
}

void rt_gemm_on(const rt_env *env, int thread, int dtype, int64_t m, int64_t n, int64_t k,
                double alpha, rt_matrix a, rt_matrix b, double beta, void *c, int64_t ldc)
{
    if (m <= 0 || n <= 0)
        return;
    if (RT_USES_TYPE(RT_F64) && dtype == RT_F64) {
        job_f64 d = {n, k, ldc, a, b, alpha, beta, (double *)c};
        rows_f64(&d, 0, m, thread);
        return;
    }
    job j = {env, m, n, k, ldc, a, b, (float)alpha, (float)beta, (float *)c, (n + NC - 1) / NC};
    if (!narrow(&j))
        tiles(&j, 0, (m + MC - 1) / MC * j.tiles_n, thread);
}
