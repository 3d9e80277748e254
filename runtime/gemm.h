/* runtime/gemm.h: the matrix product that everything dense stands on. */
#ifndef MTBAL_RT_GEMM_H
#define MTBAL_RT_GEMM_H

#include "runtime/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix anywhere in memory: element (i, j) at data[i * row + j * col]. */
typedef struct rt_matrix {
    const void *data;
    int64_t row, col;
} rt_matrix;

/* Blocks that are packed: of C (MC x NC), and of the sum (KC). */
enum { RT_KC = 256, RT_MC = 96, RT_NC = 256, RT_MAX_MR = 12, RT_MAX_NR = 32 };

static inline int64_t rt_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Bytes of scratch that a thread packs A and B into. */
static inline size_t rt_gemm_scratch_a(int64_t m, int64_t k)
{
    return (size_t)((rt_least(RT_MC, m) + RT_MAX_MR) * rt_least(RT_KC, k)) * sizeof(float);
}
static inline size_t rt_gemm_scratch(int64_t m, int64_t n, int64_t k)
{
    return rt_gemm_scratch_a(m, k) +
           (size_t)((rt_least(RT_NC, n) + RT_MAX_NR) * rt_least(RT_KC, k)) * sizeof(float);
}

/* C (m,n; rows ldc apart) = alpha A (m,k) B (k,n) + beta C. beta 0: C is not read. The bits depend
 * on the sizes and on env->cpu, not on the threads. dtype: RT_F32 or RT_F64. */
void rt_gemm(const rt_env *env, int dtype, int64_t m, int64_t n, int64_t k, double alpha,
             rt_matrix a, rt_matrix b, double beta, void *c, int64_t ldc);
/* The same on one thread, with that thread's scratch: for kernels that are parallel themselves. */
void rt_gemm_on(const rt_env *env, int thread, int dtype, int64_t m, int64_t n, int64_t k,
                double alpha, rt_matrix a, rt_matrix b, double beta, void *c, int64_t ldc);

/* c (mr x nr, rows ld apart) = sum over k of packed A (k, mr) and packed B (k, nr). */
typedef void rt_micro_f32(int64_t k, const float *a, const float *b, float *c, int64_t ld);
void rt_micro_portable(int64_t k, const float *a, const float *b, float *c, int64_t ld);
void rt_micro_avx2(int64_t k, const float *a, const float *b, float *c, int64_t ld);
void rt_micro_avx512(int64_t k, const float *a, const float *b, float *c, int64_t ld);

#ifdef __cplusplus
}
#endif
#endif
