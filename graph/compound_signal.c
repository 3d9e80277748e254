/* graph/compound_signal.c: Fourier transforms written out as products with a matrix, and windows.
 */
#include "graph/compound.h"

#include <math.h>
#include <string.h>

/* Up to SHORT one product with a matrix is fastest. */
enum { MAX_RANK = 32, MAX_MATRIX = 1 << 22, SHORT = 64, LONGEST = 1 << 26 };
static const double two_pi = 6.283185307179586476925;

/* n inputs of `parts` (1: real, 2: real and imaginary) each to m outputs of `made` parts; `length`
 * is the transform's own. */
typedef struct fourier {
    int64_t n, parts, m, made, length;
    bool inverse;
} fourier;

/* (n parts, m made): cos and sin of 2 pi k t / length. An inverse to real numbers reads one half of
 * the frequencies: all but the first, and the middle one, count twice. */
static mtbal_value *fourier_matrix(mtbal_builder *b, const fourier *f, mtbal_dtype dtype)
{
    const int64_t dims[2] = {f->n * f->parts, f->m * f->made};
    mtbal_tensor *matrix = mtbal_tensor_new(b->graph->model, dtype, 2, dims, NULL);
    double sign = f->inverse ? -1 : 1, length = (double)f->length;
    for (int64_t t = 0; matrix && t < f->n; t++)
        for (int64_t k = 0; k < f->m; k++) {
            bool twice = f->inverse && f->made == 1 && t > 0 && 2 * t != f->length;
            double angle = two_pi * (double)(t * k % f->length) / length,
                   size = (f->inverse ? 1 / length : 1) * (twice ? 2 : 1);
            for (int64_t from = 0; from < f->parts; from++)
                for (int64_t to = 0; to < f->made; to++) {
                    double s = from == to  ? cos(angle)
                               : from == 1 ? sign * sin(angle)
                                           : -sign * sin(angle);
                    mtbal_tensor_set_f64(matrix, (t * f->parts + from) * dims[1] + k * f->made + to,
                                         size * s);
                }
        }
    return mtbal_const_tensor(b, matrix);
}

static bool too_large(const fourier *f)
{
    return f->length < 1 || f->n < 0 || f->parts < 1 || f->parts > 2 || f->n > MAX_MATRIX ||
           f->m > MAX_MATRIX || f->n * f->parts > MAX_MATRIX / (f->m * f->made + 1);
}

/* The same for a long axis. An inverse to real numbers takes the real part, the frequencies
 * weighted as above. */
static mtbal_value *transformed_fast(mtbal_builder *b, mtbal_value *x, const fourier *f)
{
    int rank = x ? x->type.rank : 0;
    int64_t out[MAX_RANK] = {0}, three[3] = {-1, f->n, f->parts},
            pads[6] = {0, 0, 0, 0, f->length - f->n, 2 - f->parts};
    if (rank < 2 || rank > MAX_RANK)
        return NULL;
    out[rank - 2] = f->m;
    out[rank - 1] = f->made;
    mtbal_value *v = compound_reshape(b, x, 3, three);
    const int64_t dims[2] = {f->n, 1};
    mtbal_tensor *size = mtbal_tensor_new(b->graph->model, x->type.dtype, 2, dims, NULL);
    for (int64_t t = 0; size && t < f->n; t++) {
        bool twice = f->made == 1 && t > 0 && 2 * t != f->length;
        mtbal_tensor_set_f64(size, t, (twice ? 2 : 1) / (double)f->length);
    }
    if (f->inverse)
        v = size ? mtbal_emit(b, "Mul", v, mtbal_const_tensor(b, size)) : NULL;
    v = mtbal_emit(b, "Pad", v, mtbal_const_i64s(b, 6, pads));
    v = compound_fft(b, v, f->length, f->inverse);
    if (f->m < f->length)
        v = compound_slice(b, v, 1, 0, f->m);
    if (f->made == 1)
        v = compound_slice(b, v, 2, 0, 1);
    return compound_reshape(b, v, rank, out);
}

/* x (.., n, parts) -> (.., m, made), of which the leading sizes are x's. */
static mtbal_value *transformed(mtbal_builder *b, mtbal_value *x, const fourier *f)
{
    int rank = x ? x->type.rank : 0;
    int64_t in[MAX_RANK] = {0}, out[MAX_RANK] = {0};
    if (rank < 2 || rank > MAX_RANK)
        return NULL;
    in[rank - 2] = f->n * f->parts;
    out[rank - 2] = f->m;
    out[rank - 1] = f->made;
    mtbal_value *y = mtbal_emit(b, "MatMul", compound_reshape(b, x, rank - 1, in),
                                fourier_matrix(b, f, x->type.dtype));
    return compound_reshape(b, y, rank, out);
}

static int64_t known_int(const mtbal_value *x, int64_t otherwise)
{
    int64_t value;
    return !x ? otherwise : compound_ints(x, &value, 1) == 1 ? value : -1;
}

/* The axis is an attribute before opset 20 and an operand since. */
BODY(dft)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0];
    int rank = x->type.rank;
    bool old = mtbal_attr_find(c->node, "axis") || mtbal_builder_opset(b) < 20;
    bool half = mtbal_attr_i(c->node, "onesided", 0) != 0;
    int64_t axis = old ? mtbal_attr_i(c->node, "axis", 1) : -2, perm[MAX_RANK];
    if (!old && c->x[2] && compound_ints(c->x[2], &axis, 1) != 1)
        return "an axis that is not known before the run";
    axis += axis < 0 ? rank : 0;
    if (rank < 2 || rank > MAX_RANK || axis < 0 || axis > rank - 2)
        return "an operand of unknown rank";
    fourier f = {.n = x->type.dims[axis].size,
                 .parts = x->type.dims[rank - 1].size,
                 .made = 2,
                 .inverse = mtbal_attr_i(c->node, "inverse", 0) != 0};
    f.length = known_int(c->x[1], half && f.inverse ? 2 * (f.n - 1) : f.n);
    f.m = half && !f.inverse ? f.length / 2 + 1 : f.length;
    f.made = half && f.inverse ? 1 : 2;
    int64_t read = half && f.inverse ? f.length / 2 + 1 : f.length;
    if (f.n > read) {
        x = compound_slice(b, x, axis, 0, read);
        f.n = read;
    }
    bool fast = f.length > SHORT;
    if (f.length < 1 || f.n < 0 || f.parts < 1 || f.parts > 2 || f.length > LONGEST ||
        (!fast && too_large(&f)))
        return "a length that is not known before the run, or too large";
    for (int d = 0; d < rank; d++)
        perm[d] = d == axis ? rank - 2 : d == rank - 2 ? axis : d;
    x = mtbal_emit_transpose(b, x, rank, perm);
    x = fast ? transformed_fast(b, x, &f) : transformed(b, x, &f);
    c->y[0] = mtbal_emit_transpose(b, x, rank, perm);
    return NULL;
}

/* (B, length, parts) -> (B, frames, frequencies, 2) */
BODY(stft)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0], *window = c->x[2];
    int64_t step = known_int(c->x[1], -1), size = known_int(c->x[3], -1), column[2] = {-1, 1};
    if (size < 0 && window && window->type.rank == 1)
        size = window->type.dims[0].size;
    int64_t length = x->type.rank == 3 ? x->type.dims[1].size : -1;
    if (step < 1 || size < 1 || length < size)
        return "a step, a frame or a signal whose length is not known before the run";
    bool half = mtbal_attr_i(c->node, "onesided", 1) != 0;
    fourier f = {.n = size,
                 .parts = x->type.dims[2].size,
                 .m = half ? size / 2 + 1 : size,
                 .made = 2,
                 .length = size};
    const int64_t dims[2] = {(length - size) / step + 1, size};
    if (too_large(&f) || dims[0] > MAX_MATRIX / size)
        return "frames that are too large";
    mtbal_tensor *at = mtbal_tensor_new(b->graph->model, MTBAL_INT64, 2, dims, NULL);
    if (!at) {
        b->status = MTBAL_NOMEM;
        return NULL;
    }
    for (int64_t i = 0; i < dims[0] * size; i++)
        ((int64_t *)mtbal_tensor_bytes(at))[i] = i / size * step + i % size;
    mtbal_value *in[2] = {x, mtbal_const_tensor(b, at)};
    mtbal_value *frames = mtbal_emit_attrs(b, "Gather", 2, in, "axis=i", (int64_t)1);
    if (window)
        frames = MUL(frames, compound_reshape(b, window, 2, column));
    c->y[0] = transformed(b, frames, &f);
    return NULL;
}

/* first - second cos(2 pi n / N) + third cos(4 pi n / N); N: the size, or one less when the window
 * is not to be repeated. */
static const char *cosine_window(compound *c, double first, double second, double third)
{
    mtbal_builder *b = c->b;
    mtbal_value *size = mtbal_emit_cast(b, c->x[0], MTBAL_INT64);
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(c->node, "output_datatype", MTBAL_FLOAT);
    const int64_t none = 0;
    if (size && size->type.rank == 1)
        size = mtbal_emit(b, "Squeeze", size, mtbal_const_i64s(b, 1, &none));
    mtbal_value *n = mtbal_emit_cast(
        b, mtbal_emit(b, "Range", mtbal_const_i64(b, 0), size, mtbal_const_i64(b, 1)),
        MTBAL_DOUBLE);
    if (!mtbal_attr_i(c->node, "periodic", 1))
        size = SUB(size, mtbal_const_i64(b, 1));
    mtbal_value *turn =
        n && size ? DIV(MUL(n, LIKE(n, two_pi)), mtbal_emit_cast(b, size, MTBAL_DOUBLE)) : NULL;
    mtbal_value *y = SUB(LIKE(n, first), MUL(LIKE(n, second), UNARY("Cos", turn)));
    if (third != 0)
        y = ADD(y, MUL(LIKE(n, third), UNARY("Cos", ADD(turn, turn))));
    c->y[0] = y ? mtbal_emit_cast(b, y, dtype) : NULL;
    return NULL;
}

BODY(hann_window)
{
    return cosine_window(c, 0.5, 0.5, 0);
}

BODY(hamming_window)
{
    return cosine_window(c, 25.0 / 46, 21.0 / 46, 0);
}

BODY(blackman_window)
{
    return cosine_window(c, 0.42, 0.5, 0.08);
}
