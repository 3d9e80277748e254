/* runtime/kernels/matmul.c: MatMul and Gemm. */
#include "runtime/gemm.h"

#include <string.h>

/* matmul: A (.., M, K), B (.., K, N), Y (.., M, N) of one rank >= 2; batch axes broadcast. trans_a:
 * A is (.., K, M); trans_b: B is
 * (.., N, K). When B is one matrix and A is not transposed, the batch joins the rows. */
void rt_matmul(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_matmul_attr *at = (const rt_matmul_attr *)attr;
    const rt_tensor *a = &in[0], *b = &in[1], *y = &out[0];
    int r = y->rank;
    size_t size = rt_dtype_size(y->dtype);
    int64_t m = y->dims[r - 2], n = y->dims[r - 1], k = a->dims[r - (at->trans_a ? 2 : 1)],
            batch = 1, batch_b = 1;
    for (int i = 0; i < r - 2; i++) {
        batch *= y->dims[i];
        batch_b *= b->dims[i];
    }
    int64_t lda = a->dims[r - 1], ldb = b->dims[r - 1], rows_a = a->dims[r - 2],
            rows_b = b->dims[r - 2];
    int64_t count_a = 1;
    for (int i = 0; i < r - 2; i++)
        count_a *= a->dims[i];
    if (batch_b == 1 && !at->trans_a && count_a == batch) {
        m *= batch;
        batch = 1;
    }
    for (int64_t i = 0; i < batch && m && n; i++) {
        int64_t ia = 0, ib = 0, rest = i, step_a = 1, step_b = 1;
        for (int d = r - 3; d >= 0; d--) {
            int64_t x = rest % y->dims[d];
            rest /= y->dims[d];
            ia += a->dims[d] == 1 ? 0 : x * step_a;
            ib += b->dims[d] == 1 ? 0 : x * step_b;
            step_a *= a->dims[d];
            step_b *= b->dims[d];
        }
        rt_matrix ma = {(const char *)a->data + (size_t)(ia * rows_a * lda) * size,
                        at->trans_a ? 1 : lda, at->trans_a ? lda : 1};
        rt_matrix mb = {(const char *)b->data + (size_t)(ib * rows_b * ldb) * size,
                        at->trans_b ? 1 : ldb, at->trans_b ? ldb : 1};
        rt_gemm(env, y->dtype, m, n, k, 1, ma, mb, 0, (char *)y->data + (size_t)(i * m * n) * size,
                n);
    }
}

/* Y = C, broadcast: a row for all (row 0), a column for all (col 0), one number, or all of it. */
#define FILL(T)                                                            \
    {                                                                      \
        const T *from = (const T *)c->data;                                \
        T *to = (T *)y->data;                                              \
        for (int64_t i = 0; i < m; i++)                                    \
            if (col)                                                       \
                memcpy(to + i * n, from + i * row, (size_t)n * sizeof(T)); \
            else                                                           \
                for (int64_t j = 0; j < n; j++)                            \
                    to[i * n + j] = from[i * row];                         \
    }
/* Not a number stays what it is. */
#define RELU(T)                             \
    {                                       \
        T *to = (T *)y->data;               \
        for (int64_t i = 0; i < m * n; i++) \
            to[i] = to[i] < 0 ? 0 : to[i];  \
    }

/* gemm: A, B (2-D), C (left out, or broadcast to (M,N)); Y = alpha op(A) op(B) + beta C, then Relu
 * where `relu` is set. */
void rt_gemm_op(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_gemm_op_attr *at = (const rt_gemm_op_attr *)attr;
    const rt_tensor *a = &in[0], *b = &in[1], *c = &in[2], *y = &out[0];
    int64_t m = y->dims[0], n = y->dims[1], k = a->dims[at->trans_a ? 0 : 1];
    int has_c = c->data && at->beta != 0;
    if (has_c) {
        int64_t rows = c->rank == 2 ? c->dims[0] : 1, cols = c->rank ? c->dims[c->rank - 1] : 1;
        int64_t row = rows == 1 ? 0 : cols, col = cols == 1 ? 0 : 1;
        if (RT_USES_TYPE(RT_F64) && y->dtype == RT_F64)
            FILL(double)
        else
            FILL(float)
    }
    rt_matrix ma = {a->data, at->trans_a ? 1 : a->dims[1], at->trans_a ? a->dims[1] : 1};
    rt_matrix mb = {b->data, at->trans_b ? 1 : b->dims[1], at->trans_b ? b->dims[1] : 1};
    rt_gemm(env, y->dtype, m, n, k, at->alpha, ma, mb, has_c ? at->beta : 0, y->data, n);
    if (at->relu) {
        if (RT_USES_TYPE(RT_F64) && y->dtype == RT_F64)
            RELU(double)
        else
            RELU(float)
    }
}
