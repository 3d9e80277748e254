/* runtime/kernels/conv.c: convolution by im2col and the packed matrix product, and its two
 * gradients. Up to three spatial axes; fewer are padded with ones in front: a picture is (N, C, 1,
 * H, W). */
#include "runtime/gemm.h"
#include "runtime/kernels/kernels.h"

#include <string.h>

/* All kernels here share one geometry. */
typedef rt_conv_attr geometry;

typedef struct shape {
    int64_t n, c, m, in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
    int64_t group, in_size, out_size, kernel_size, cg, mg; /* cg, mg: channels of one group */
    size_t elem;
    int dtype;
} shape;

/* x (N, C, in..), y (N, M, out..). */
static shape read_shape(const geometry *a, const rt_tensor *x, const rt_tensor *y)
{
    shape s;
    int lead = 3 - (x->rank - 2);
    s.n = x->dims[0];
    s.c = x->dims[1];
    s.m = y->dims[1];
    s.group = a->group;
    s.cg = s.c / s.group;
    s.mg = s.m / s.group;
    s.in_size = s.out_size = s.kernel_size = 1;
    for (int i = 0; i < 3; i++) {
        int real = i >= lead;
        s.in[i] = real ? x->dims[i - lead + 2] : 1;
        s.out[i] = real ? y->dims[i - lead + 2] : 1;
        s.kernel[i] = real ? a->kernel[i - lead] : 1;
        s.stride[i] = real ? a->stride[i - lead] : 1;
        s.dilation[i] = real ? a->dilation[i - lead] : 1;
        s.pad[i] = real ? a->pad[i - lead] : 0;
        s.in_size *= s.in[i];
        s.out_size *= s.out[i];
        s.kernel_size *= s.kernel[i];
    }
    s.dtype = x->dtype;
    s.elem = rt_dtype_size(x->dtype);
    return s;
}

static int is_pointwise(const shape *s)
{
    int plain = s->kernel_size == 1;
    for (int i = 0; i < 3; i++)
        plain = plain && s->stride[i] == 1 && s->pad[i] == 0 && s->in[i] == s->out[i];
    return plain;
}

static size_t column_bytes(const shape *s)
{
    return is_pointwise(s) ? 64 : (size_t)(s->cg * s->kernel_size * s->out_size) * s->elem;
}

/* First and last output position whose window element lies inside: position * stride + shift in [0,
 * size). */
static void valid_range(int64_t size, int64_t out, int64_t stride, int64_t shift, int64_t *first,
                        int64_t *last)
{
    *first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
    *last = size - 1 - shift < 0 ? 0 : (size - 1 - shift) / stride + 1;
    *last = *last > out ? out : *last;
    *first = *first > *last ? *last : *first;
}

/* col (cg * kernel, out): element (c, k), position o is x(c, o * stride + k * dilation - pad), 0
 * outside. back: the other way, adding col into x. */
#define COLUMNS(T)                                                                          \
    static void columns_##T(const shape *s, T *x, T *col, int back)                         \
    {                                                                                       \
        for (int64_t c = 0; c < s->cg; c++, x += s->in_size)                                \
            for (int64_t k = 0; k < s->kernel_size; k++) {                                  \
                int64_t kw = k % s->kernel[2], kh = k / s->kernel[2] % s->kernel[1];        \
                int64_t kd = k / s->kernel[2] / s->kernel[1], w0, w1;                       \
                int64_t sd = kd * s->dilation[0] - s->pad[0],                               \
                        sh = kh * s->dilation[1] - s->pad[1];                               \
                int64_t sw = kw * s->dilation[2] - s->pad[2];                               \
                valid_range(s->in[2], s->out[2], s->stride[2], sw, &w0, &w1);               \
                for (int64_t d = 0; d < s->out[0]; d++)                                     \
                    for (int64_t h = 0; h < s->out[1]; h++, col += s->out[2]) {             \
                        int64_t id = d * s->stride[0] + sd, ih = h * s->stride[1] + sh;     \
                        int in = id >= 0 && id < s->in[0] && ih >= 0 && ih < s->in[1];      \
                        T *row = x + (in ? (id * s->in[1] + ih) * s->in[2] : 0);            \
                        int64_t st = s->stride[2];                                          \
                        if (back) {                                                         \
                            for (int64_t w = w0; w < w1 && in; w++)                         \
                                row[w * st + sw] += col[w];                                 \
                            continue;                                                       \
                        }                                                                   \
                        for (int64_t w = 0; w < (in ? w0 : s->out[2]); w++)                 \
                            col[w] = 0;                                                     \
                        if (!in)                                                            \
                            continue;                                                       \
                        if (st == 1)                                                        \
                            memcpy(col + w0, row + w0 + sw, (size_t)(w1 - w0) * sizeof(T)); \
                        else                                                                \
                            for (int64_t w = w0; w < w1; w++)                               \
                                col[w] = row[w * st + sw];                                  \
                        for (int64_t w = w1; w < s->out[2]; w++)                            \
                            col[w] = 0;                                                     \
                    }                                                                       \
            }                                                                               \
    }
COLUMNS(float)
COLUMNS(double)

static void columns(const shape *s, void *x, void *col, int back)
{
    if (RT_USES_TYPE(RT_F64) && s->dtype == RT_F64)
        columns_double(s, (double *)x, (double *)col, back);
    else
        columns_float(s, (float *)x, (float *)col, back);
}

static rt_matrix matrix(const void *base, int64_t offset, size_t elem, int64_t row, int64_t col)
{
    rt_matrix m = {(const char *)base + (size_t)offset * elem, row, col};
    return m;
}

size_t rt_scratch_conv(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    shape s = read_shape((const geometry *)attr, &in[0], &out[0]);
    return column_bytes(&s);
}

static void add_bias(const shape *s, const rt_tensor *bias, void *y)
{
    for (int64_t i = 0; i < s->n * s->m; i++)
        for (int64_t k = 0; k < s->out_size; k++) {
            if (RT_USES_TYPE(RT_F64) && s->dtype == RT_F64)
                ((double *)y)[i * s->out_size + k] += ((const double *)bias->data)[i % s->m];
            else
                ((float *)y)[i * s->out_size + k] += ((const float *)bias->data)[i % s->m];
        }
}

/* conv: X (N,C,..), W (M,C/G,..), B (M) or left out -> Y; then scratch. */
void rt_conv(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    shape s = read_shape((const geometry *)attr, &in[0], &out[0]);
    int64_t k = s.cg * s.kernel_size;
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t g = 0; g < s.group; g++) {
            void *x = (char *)in[0].data + (size_t)((n * s.c + g * s.cg) * s.in_size) * s.elem;
            void *y = (char *)out[0].data + (size_t)((n * s.m + g * s.mg) * s.out_size) * s.elem;
            void *col = x;
            if (!is_pointwise(&s)) {
                col = out[1].data;
                columns(&s, x, col, 0);
            }
            rt_gemm(env, s.dtype, s.mg, s.out_size, k, 1,
                    matrix(in[1].data, g * s.mg * k, s.elem, k, 1),
                    matrix(col, 0, s.elem, s.out_size, 1), 0, y, s.out_size);
        }
    if (in[2].data)
        add_bias(&s, &in[2], out[0].data);
}

size_t rt_scratch_conv_grad_x(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    shape s = read_shape((const geometry *)attr, &out[0], &in[0]);
    return column_bytes(&s);
}

/* conv_grad_x: dY (N,M,..), W (M,C/G,..), B (C) or left out -> dX (N,C,..); then scratch.
 * ConvTranspose is the same with X for dY. */
void rt_conv_grad_x(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    shape s = read_shape((const geometry *)attr, &out[0], &in[0]);
    int64_t k = s.cg * s.kernel_size;
    if (!is_pointwise(&s))
        memset(out[0].data, 0, (size_t)(s.n * s.c * s.in_size) * s.elem);
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t g = 0; g < s.group; g++) {
            void *dx = (char *)out[0].data + (size_t)((n * s.c + g * s.cg) * s.in_size) * s.elem;
            void *col = is_pointwise(&s) ? dx : out[1].data;
            rt_gemm(env, s.dtype, k, s.out_size, s.mg, 1,
                    matrix(in[1].data, g * s.mg * k, s.elem, 1, k),
                    matrix(in[0].data, (n * s.m + g * s.mg) * s.out_size, s.elem, s.out_size, 1), 0,
                    col, s.out_size);
            if (!is_pointwise(&s))
                columns(&s, dx, col, 1);
        }
    if (in[2].data) {
        shape t = s;
        t.m = s.c;
        t.out_size = s.in_size;
        add_bias(&t, &in[2], out[0].data);
    }
}

size_t rt_scratch_conv_grad_w(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)out;
    shape s = read_shape((const geometry *)attr, &in[0], &in[1]);
    return column_bytes(&s);
}

/* conv_grad_w: X (N,C,..), dY (N,M,..) -> dW (M,C/G,..), summed over the batch in order; then
 * scratch. */
void rt_conv_grad_w(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    shape s = read_shape((const geometry *)attr, &in[0], &in[1]);
    int64_t k = s.cg * s.kernel_size;
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t g = 0; g < s.group; g++) {
            void *x = (char *)in[0].data + (size_t)((n * s.c + g * s.cg) * s.in_size) * s.elem;
            void *col = x;
            if (!is_pointwise(&s)) {
                col = out[1].data;
                columns(&s, x, col, 0);
            }
            rt_gemm(env, s.dtype, s.mg, k, s.out_size, 1,
                    matrix(in[1].data, (n * s.m + g * s.mg) * s.out_size, s.elem, s.out_size, 1),
                    matrix(col, 0, s.elem, 1, s.out_size), n ? 1 : 0,
                    (char *)out[0].data + (size_t)(g * s.mg * k) * s.elem, k);
        }
}
