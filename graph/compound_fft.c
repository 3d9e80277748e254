/* graph/compound_fft.c: the Fourier transform of a long axis in simpler operators, N log N of them
 * by factors of the length (Cooley and Tukey 1965); a length with a large prime factor by way of a
 * convolution (Bluestein 1970). */
#include "graph/compound.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

/* Longer transforms than this are taken apart; larger primes than this have no matrix of their own.
 */
enum { DENSE = 32, LARGE_PRIME = 61 };

typedef struct transform {
    mtbal_builder *b;
    mtbal_dtype dtype;
    double sign; /* -1: forward, 1: inverse, without 1/N */
} transform;

static mtbal_value *fft(const transform *t, mtbal_value *x, int64_t n);

/* A constant (count, 2) of complex numbers e^(i angle(k)). */
static mtbal_tensor *new_numbers(const transform *t, int rank, const int64_t *dims)
{
    return mtbal_tensor_new(t->b->graph->model, t->dtype, rank, dims, NULL);
}

static void set_number(mtbal_tensor *to, int64_t i, double re, double im)
{
    mtbal_tensor_set_f64(to, 2 * i, re);
    mtbal_tensor_set_f64(to, 2 * i + 1, im);
}

/* x (.., 2) times the constant w (.., 2), as complex numbers: x Re w + i x Im w. */
static mtbal_value *multiply(const transform *t, mtbal_value *x, const mtbal_tensor *w)
{
    mtbal_builder *b = t->b;
    int64_t dims[8], last = w ? w->rank - 1 : 0;
    if (!x || !w || w->rank > 8)
        return NULL;
    for (int d = 0; d < w->rank; d++)
        dims[d] = w->dims[d];
    mtbal_tensor *turn = new_numbers(t, w->rank, dims);
    dims[last] = 1;
    mtbal_tensor *keep = new_numbers(t, w->rank, dims);
    for (int64_t i = 0; turn && keep && i < keep->count; i++) {
        double im = mtbal_tensor_f64(w, 2 * i + 1);
        mtbal_tensor_set_f64(keep, i, mtbal_tensor_f64(w, 2 * i));
        set_number(turn, i, -im, im);
    }
    if (!turn || !keep)
        return NULL;
    int axis = x->type.rank - 1;
    mtbal_value *parts[2] = {compound_slice(b, x, axis, 1, 2), compound_slice(b, x, axis, 0, 1)};
    mtbal_value *swapped = mtbal_emit_attrs(b, "Concat", 2, parts, "axis=i", (int64_t)axis);
    return mtbal_emit(b, "Add", mtbal_emit(b, "Mul", x, mtbal_const_tensor(b, keep)),
                      mtbal_emit(b, "Mul", swapped, mtbal_const_tensor(b, turn)));
}

/* x (B, n, 2) times the matrix of the transform, as real numbers (B, 2 n) (2 n, 2 n). */
static mtbal_value *dense(const transform *t, mtbal_value *x, int64_t n)
{
    mtbal_builder *b = t->b;
    const int64_t dims[2] = {2 * n, 2 * n}, flat[2] = {-1, 2 * n}, back[3] = {-1, n, 2};
    mtbal_tensor *m = mtbal_tensor_new(b->graph->model, t->dtype, 2, dims, NULL);
    for (int64_t from = 0; m && from < n; from++)
        for (int64_t to = 0; to < n; to++) {
            double angle = t->sign * 2 * pi * (double)(from * to % n) / (double)n;
            set_number(m, 2 * from * n + to, cos(angle), sin(angle));
            set_number(m, (2 * from + 1) * n + to, -sin(angle), cos(angle));
        }
    if (!m)
        return NULL;
    mtbal_value *y =
        mtbal_emit(b, "MatMul", compound_reshape(b, x, 2, flat), mtbal_const_tensor(b, m));
    return compound_reshape(b, y, 3, back);
}

/* n = r m. The elements t = r t2 + t1: m of them transformed for each t1, turned by t1 k2, and r of
 * them transformed for each k2; the result k = k2 + m k1. */
static mtbal_value *by_factor(const transform *t, mtbal_value *x, int64_t n, int64_t r)
{
    mtbal_builder *b = t->b;
    int64_t m = n / r;
    const int64_t swap[4] = {0, 2, 1, 3}, apart[4] = {-1, m, r, 2}, inner[3] = {-1, m, 2},
                  turned[4] = {-1, r, m, 2}, outer[3] = {-1, r, 2}, all[3] = {-1, n, 2},
                  dims[3] = {r, m, 2};
    mtbal_tensor *w = new_numbers(t, 3, dims);
    for (int64_t i = 0; w && i < n; i++) {
        double angle = t->sign * 2 * pi * (double)(i / m * (i % m) % n) / (double)n;
        set_number(w, i, cos(angle), sin(angle));
    }
    mtbal_value *v = mtbal_emit_transpose(b, compound_reshape(b, x, 4, apart), 4, swap);
    v = compound_reshape(b, fft(t, compound_reshape(b, v, 3, inner), m), 4, turned);
    v = mtbal_emit_transpose(b, multiply(t, v, w), 4, swap);
    v = compound_reshape(b, dense(t, compound_reshape(b, v, 3, outer), r), 4, apart);
    return compound_reshape(b, mtbal_emit_transpose(b, v, 4, swap), 3, all);
}

static mtbal_value *pad_to(mtbal_builder *b, mtbal_value *x, int64_t add)
{
    const int64_t pads[6] = {0, 0, 0, 0, add, 0};
    return add && x ? mtbal_emit(b, "Pad", x, mtbal_const_i64s(b, 6, pads)) : x;
}

/* In place, radix 2: n a power of 2; x [2 n]. For a constant only. */
static void transform_numbers(double *x, int64_t n, double sign)
{
    for (int64_t i = 1, j = 0; i < n; i++) {
        int64_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        for (int p = 0; p < 2 && i < j; p++) {
            double v = x[2 * i + p];
            x[2 * i + p] = x[2 * j + p];
            x[2 * j + p] = v;
        }
    }
    for (int64_t size = 2; size <= n; size *= 2)
        for (int64_t k = 0; k < size / 2; k++) {
            double angle = sign * 2 * pi * (double)k / (double)size, c = cos(angle), s = sin(angle);
            for (int64_t i = k; i < n; i += size) {
                double *p = x + 2 * i, *q = x + 2 * (i + size / 2);
                double re = q[0] * c - q[1] * s, im = q[0] * s + q[1] * c;
                q[0] = p[0] - re, q[1] = p[1] - im;
                p[0] += re, p[1] += im;
            }
        }
}

/* With w_t = e^(sign i pi t^2 / n): X_k = w_k sum_t x_t w_t conj(w_(k-t)), a convolution. */
static mtbal_value *by_convolution(const transform *t, mtbal_value *x, int64_t n)
{
    mtbal_builder *b = t->b;
    int64_t m = 1;
    while (m < 2 * n - 1)
        m *= 2;
    const int64_t chirp_dims[2] = {n, 2}, kernel_dims[2] = {m, 2};
    mtbal_tensor *chirp = new_numbers(t, 2, chirp_dims), *kernel = new_numbers(t, 2, kernel_dims);
    double *numbers = mtbal_arena_array(b->graph->model->arena, (size_t)m, 2 * sizeof *numbers);
    if (!chirp || !kernel || !numbers)
        return NULL;
    for (int64_t i = 0; i < n; i++) {
        double angle = t->sign * pi * (double)(i * i % (2 * n)) / (double)n;
        set_number(chirp, i, cos(angle), sin(angle));
        for (int side = 0; side < 2; side++) {
            int64_t at = side && i ? m - i : i;
            numbers[2 * at] = cos(angle);
            numbers[2 * at + 1] = -sin(angle);
        }
    }
    transform_numbers(numbers, m, -1);
    for (int64_t i = 0; i < m; i++)
        set_number(kernel, i, numbers[2 * i] / (double)m, numbers[2 * i + 1] / (double)m);
    const transform there = {b, t->dtype, -1}, back = {b, t->dtype, 1};
    mtbal_value *a = fft(&there, pad_to(b, multiply(t, x, chirp), m - n), m);
    mtbal_value *c = fft(&back, multiply(t, a, kernel), m);
    return multiply(t, compound_slice(b, c, 1, 0, n), chirp);
}

/* The factor to split off; 0: n has a prime factor that is too large for its own matrix. */
static int64_t factor_of(int64_t n)
{
    for (int64_t r = 8; r >= 2; r -= r == 8 ? 4 : r == 4 ? 2 : 3) /* 8, 4, 2 */
        if (n % r == 0)
            return r;
    for (int64_t r = 3; r <= LARGE_PRIME; r += 2)
        if (n % r == 0)
            return r;
    return 0;
}

static mtbal_value *fft(const transform *t, mtbal_value *x, int64_t n)
{
    int64_t r = factor_of(n);
    if (n <= DENSE || r == n)
        return dense(t, x, n);
    return r ? by_factor(t, x, n, r) : by_convolution(t, x, n);
}

mtbal_value *compound_fft(mtbal_builder *b, mtbal_value *x, int64_t n, bool inverse)
{
    const transform t = {b, x ? x->type.dtype : MTBAL_FLOAT, inverse ? 1 : -1};
    return x ? fft(&t, x, n) : NULL;
}
