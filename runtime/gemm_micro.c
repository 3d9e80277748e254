/* runtime/gemm_micro.c: the inner kernels of the matrix product: a block of C in registers. */
#include "runtime/gemm.h"

/* 4 x 8 */
void rt_micro_portable(int64_t k, const float *a, const float *b, float *c, int64_t ld)
{
    float acc[4][8] = {{0}};
    for (int64_t p = 0; p < k; p++, a += 4, b += 8)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 8; j++)
                acc[i][j] += a[i] * b[j];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++)
            c[i * ld + j] = acc[i][j];
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* 6 x 16: twelve accumulators of eight lanes. */
__attribute__((target("avx2,fma"))) void rt_micro_avx2(int64_t k, const float *a, const float *b,
                                                       float *c, int64_t ld)
{
    __m256 acc[6][2];
    for (int i = 0; i < 6; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (int64_t p = 0; p < k; p++, a += 6, b += 16) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#define ROW(i)                                         \
    {                                                  \
        __m256 x = _mm256_broadcast_ss(a + i);         \
        acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]); \
        acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]); \
    }
        ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5)
#undef ROW
    }
    for (int i = 0; i < 6; i++) {
        _mm256_storeu_ps(c + i * ld, acc[i][0]);
        _mm256_storeu_ps(c + i * ld + 8, acc[i][1]);
    }
}

/* 12 x 32: twenty-four accumulators of sixteen lanes. */
__attribute__((target("avx512f"))) void rt_micro_avx512(int64_t k, const float *a, const float *b,
                                                        float *c, int64_t ld)
{
    __m512 acc[12][2];
    for (int i = 0; i < 12; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (int64_t p = 0; p < k; p++, a += 12, b += 32) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#define ROW(i)                                         \
    {                                                  \
        __m512 x = _mm512_set1_ps(a[i]);               \
        acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]); \
        acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]); \
    }
        ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7) ROW(8) ROW(9) ROW(10) ROW(11)
#undef ROW
    }
    for (int i = 0; i < 12; i++) {
        _mm512_storeu_ps(c + i * ld, acc[i][0]);
        _mm512_storeu_ps(c + i * ld + 16, acc[i][1]);
    }
}
#else
void rt_micro_avx2(int64_t k, const float *a, const float *b, float *c, int64_t ld)
{
    rt_micro_portable(k, a, b, c, ld);
}
void rt_micro_avx512(int64_t k, const float *a, const float *b, float *c, int64_t ld)
{
    rt_micro_portable(k, a, b, c, ld);
}
#endif
