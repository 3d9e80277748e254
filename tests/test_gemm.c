/* tests/test_gemm.c: the matrix product against a double loop in double precision: odd sizes, all
 * layouts, in each microkernel that this processor has. */
#include "runtime/gemm.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Around the edges of microkernels (4 x 8, 6 x 16, 12 x 32) and of blocks (96, 256, 256). */
static const int64_t sizes[][3] = {
    {1, 1, 1},    {1, 5, 3},     {3, 1, 7},     {4, 8, 1},      {5, 9, 2},     {7, 17, 33},
    {12, 32, 16}, {13, 33, 17},  {11, 31, 15},  {96, 256, 256}, {97, 257, 3},  {95, 255, 257},
    {2, 300, 40}, {200, 3, 300}, {64, 10, 512}, {1, 64, 600},   {101, 67, 513}};
enum { NSIZES = sizeof sizes / sizeof *sizes, LEVELS = 3 };

static uint64_t state = 1;

static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-52 - 1;
}

static void *numbers(int dtype, int64_t n)
{
    void *data = malloc((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        if (dtype == RT_F32)
            ((float *)data)[i] = (float)uniform();
        else
            ((double *)data)[i] = uniform();
    return data;
}

static double at(int dtype, const void *data, int64_t i)
{
    return dtype == RT_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

/* A (m,k) and B (k,n) row by row or column by column; C with a gap between its rows, which must
 * stay as it is. */
static void check_product(const rt_env *env, int dtype, const int64_t size[3], int layout,
                          double alpha, double beta)
{
    const int64_t m = size[0], n = size[1], k = size[2], gap = 3, ldc = n + gap;
    const double epsilon = dtype == RT_F32 ? 1.2e-7 : 2.3e-16;
    void *a = numbers(dtype, m * k), *b = numbers(dtype, k * n), *c = numbers(dtype, m * ldc);
    double *before = malloc((size_t)(m * ldc) * sizeof *before);
    for (int64_t i = 0; i < m * ldc; i++)
        before[i] = at(dtype, c, i);
    rt_matrix left = {a, k, 1}, right = {b, n, 1};
    if (layout & 1)
        left = (rt_matrix){a, 1, m};
    if (layout & 2)
        right = (rt_matrix){b, 1, k};
    rt_gemm(env, dtype, m, n, k, alpha, left, right, beta, c, ldc);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            double sum = 0, size_of_terms = 0, found = at(dtype, c, i * ldc + j);
            for (int64_t p = 0; j < n && p < k; p++) {
                double term = at(dtype, a, i * left.row + p * left.col) *
                              at(dtype, b, p * right.row + j * right.col);
                sum += term;
                size_of_terms += fabs(term);
            }
            double old = before[i * ldc + j];
            double wanted = j < n ? alpha * sum + (beta == 0 ? 0 : beta * old) : old;
            double room =
                j < n
                    ? 4 * epsilon *
                          (fabs(alpha) * size_of_terms * sqrt((double)k) + fabs(beta * old) + 1e-30)
                    : 0;
            ck_assert_msg(
                fabs(found - wanted) <= room,
                "level %d, type %d, %lld x %lld x %lld, layout %d: C[%lld,%lld] is %.17g, "
                "not %.17g",
                env->cpu, dtype, (long long)m, (long long)n, (long long)k, layout, (long long)i,
                (long long)j, found, wanted);
        }
    free(a);
    free(b);
    free(c);
    free(before);
}

/* The loop's index: a size and a level. */
START_TEST(test_product)
{
    static const double factors[][2] = {{1, 0}, {1, 1}, {0.5, -2}};
    int level = _i % LEVELS;
    if (level > rt_cpu_detect())
        return; /* this processor does not have it */
    rt_env env = {.nthreads = 1, .scratch_size = RT_SCRATCH_BYTES, .cpu = level};
    env.scratch = aligned_alloc(64, RT_SCRATCH_BYTES);
    ck_assert(env.scratch != NULL);
    for (int layout = 0; layout < 4; layout++)
        for (int f = 0; f < 3; f++) {
            check_product(&env, RT_F32, sizes[_i / LEVELS], layout, factors[f][0], factors[f][1]);
            check_product(&env, RT_F64, sizes[_i / LEVELS], layout, factors[f][0], factors[f][1]);
        }
    free(env.scratch);
}
END_TEST

/* C that is not read (beta 0) may hold anything. */
START_TEST(test_nothing_is_read)
{
    rt_env env = {.nthreads = 1, .scratch_size = RT_SCRATCH_BYTES};
    env.scratch = aligned_alloc(64, RT_SCRATCH_BYTES);
    for (env.cpu = 0; env.cpu <= rt_cpu_detect(); env.cpu++) {
        const float a[2] = {1, 2}, b[2] = {3, 4};
        float c = NAN;
        rt_gemm(&env, RT_F32, 1, 1, 2, 1, (rt_matrix){a, 2, 1}, (rt_matrix){b, 1, 1}, 0, &c, 1);
        ck_assert_float_eq(c, 11);
    }
    free(env.scratch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gemm");
    TCase *tests = tcase_create("product");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_product, 0, NSIZES * LEVELS);
    tcase_add_test(tests, test_nothing_is_read);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
