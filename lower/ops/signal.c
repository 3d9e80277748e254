/* lower/ops/signal.c: windows and Fourier transforms. Sizes are known when this runs, so a window
 * is a constant, and a transform a product with a constant matrix, in double: a float's rounding
 * would show wherever a frequency is all but absent. */
#include "lower/ops/expand.h"

#include <math.h>

#define PI 3.14159265358979323846

enum { MOST = 1 << 24 }; /* elements of a matrix: 128 MB */

/* Integer of a constant scalar operand; `otherwise` where it is left out. False: not known. */
static bool scalar_of(const expansion *e, int i, int64_t otherwise, int64_t *value)
{
    *value = otherwise;
    return !expand_in(e, i) || expand_ints(e, i, value, 1) == 1;
}

/* ------------------------------------------------------------------ windows */

/* a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N); N: the size, or one less (periodic = 0). */
static mtbal_status window(expansion *e, double a0, double a1, double a2)
{
    int64_t size;
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(e->node, "output_datatype", MTBAL_FLOAT);
    if (!scalar_of(e, 0, -1, &size) || size < 0 || size > MOST || !mtbal_dtype_size(dtype))
        return MTBAL_OK;
    int64_t period = mtbal_attr_i(e->node, "periodic", 1) ? size : size - 1;
    mtbal_tensor *t = mtbal_tensor_new(e->l->model, dtype, 1, &size, NULL);
    for (int64_t n = 0; t && n < size; n++) {
        double angle = 2 * PI * (double)n / (double)(period > 0 ? period : 1);
        mtbal_tensor_set_f64(t, n, a0 - a1 * cos(angle) + a2 * cos(2 * angle));
    }
    e->out[0] = mtbal_const_tensor(e->b, t);
    return MTBAL_OK;
}

EXPAND(hann_window)
{
    return window(e, 0.5, 0.5, 0);
}

EXPAND(hamming_window)
{
    return window(e, 25.0 / 46, 21.0 / 46, 0);
}

EXPAND(blackman_window)
{
    return window(e, 0.42, 0.5, 0.08);
}

/* ------------------------------------------------------------------ transforms */

/* A transform of `length` points, of which the signal has `given`; parts: 1 real, 2 complex. */
typedef struct transform {
    int64_t given, length, bins;
    int in_parts, out_parts;
    bool inverse, onesided;
} transform;

/* What sample n, part p, adds to bin k, part q: of e^(-2 pi i k n / length), or its conjugate over
 * the length. Back from one side, a bin stands for its mirror image too. */
static double weight_of(const transform *t, int64_t n, int p, int64_t k, int q)
{
    double angle = 2 * PI * (double)(k * n % t->length) / (double)t->length;
    double real = cos(angle), imaginary = t->inverse ? sin(angle) : -sin(angle);
    double scale = t->inverse ? 1 / (double)t->length : 1;
    if (t->inverse && t->onesided)
        scale *= n == 0 || 2 * n == t->length ? 1 : 2;
    return scale * (p == q ? real : p == 0 ? imaginary : -imaginary);
}

/* [given * in_parts, bins * out_parts] */
static mtbal_value *matrix_of(const expansion *e, const transform *t)
{
    int64_t dims[2] = {t->given * t->in_parts, t->bins * t->out_parts}, at = 0;
    if (t->given < 1 || t->bins < 1 || dims[0] > MOST / dims[1])
        return NULL;
    mtbal_tensor *matrix = mtbal_tensor_new(e->l->model, MTBAL_DOUBLE, 2, dims, NULL);
    for (int64_t n = 0; matrix && n < t->given; n++)
        for (int p = 0; p < t->in_parts; p++)
            for (int64_t k = 0; k < t->bins; k++)
                for (int q = 0; q < t->out_parts; q++)
                    mtbal_tensor_set_f64(matrix, at++, weight_of(t, n, p, k, q));
    return mtbal_const_tensor(e->b, matrix);
}

/* x (.., n, .., parts), transformed along an axis. NULL: too large. */
static mtbal_value *transformed(const expansion *e, mtbal_value *x, int64_t axis,
                                const transform *t)
{
    mtbal_builder *b = e->b;
    int rank = x->type.rank, m = 0;
    int64_t there[RT_MAX_RANK], back[RT_MAX_RANK], dims[RT_MAX_RANK];
    if (t->given < expand_dim(x, (int)axis))
        x = expand_slice(b, x, axis, 0, t->given);
    for (int i = 0; i < rank - 1; i++)
        if (i != axis) {
            dims[m] = expand_dim(x, i);
            there[m++] = i;
        }
    there[rank - 2] = axis;
    there[rank - 1] = rank - 1;
    for (int i = 0; i < rank; i++)
        back[there[i]] = i;
    mtbal_value *matrix = matrix_of(e, t);
    if (!matrix || !x)
        return NULL;
    mtbal_dtype dtype = x->type.dtype;
    dims[m] = t->given * t->in_parts;
    mtbal_value *rows = expand_reshape(b, mtbal_emit_transpose(b, x, rank, there), m + 1, dims);
    mtbal_value *y = OP2("MatMul", mtbal_emit_cast(b, rows, MTBAL_DOUBLE), matrix);
    dims[m] = t->bins;
    dims[m + 1] = t->out_parts;
    y = expand_reshape(b, mtbal_emit_cast(b, y, dtype), rank, dims);
    return mtbal_emit_transpose(b, y, rank, back);
}

/* dft_length: operand 1. The axis is an attribute before opset 20, operand 2 since. */
EXPAND(dft)
{
    mtbal_value *x = expand_in(e, 0);
    bool old = e->l->opset < 20;
    int64_t axis = mtbal_attr_i(e->node, "axis", 1);
    int rank = x ? x->type.rank : 0;
    transform t = {.inverse = mtbal_attr_i(e->node, "inverse", 0) != 0,
                   .onesided = mtbal_attr_i(e->node, "onesided", 0) != 0};
    if (rank < 2 || (!old && !scalar_of(e, 2, -2, &axis)))
        return MTBAL_OK;
    axis += axis < 0 ? rank : 0;
    if (axis < 0 || axis >= rank - 1)
        return MTBAL_OK;
    bool widens = t.inverse && t.onesided; /* one side comes in */
    t.given = expand_dim(x, (int)axis);
    if (!scalar_of(e, 1, widens ? 2 * (t.given - 1) : t.given, &t.length) || t.length < 1 ||
        t.length > MOST)
        return MTBAL_OK;
    int64_t side = t.length / 2 + 1, most = widens ? side : t.length;
    t.given = t.given < most ? t.given : most;
    t.bins = t.onesided && !t.inverse ? side : t.length;
    t.in_parts = (int)expand_dim(x, rank - 1);
    t.out_parts = widens ? 1 : 2;
    if (t.in_parts == 1 || t.in_parts == 2)
        e->out[0] = transformed(e, x, axis, &t);
    return MTBAL_OK;
}

/* Frames (frame, sample) of a signal (batch, length, parts): indices for Gather along axis 1. */
static mtbal_value *frames_of(const expansion *e, mtbal_value *signal, int64_t frames,
                              int64_t length, int64_t step)
{
    const int64_t dims[2] = {frames, length};
    mtbal_tensor *t = mtbal_tensor_new(e->l->model, MTBAL_INT64, 2, dims, NULL);
    int64_t *index = t ? mtbal_tensor_bytes(t) : NULL;
    for (int64_t i = 0; index && i < frames * length; i++)
        index[i] = i / length * step + i % length;
    return mtbal_emit_attrs(e->b, "Gather", 2,
                            (mtbal_value *[]){signal, mtbal_const_tensor(e->b, t)}, "axis=i",
                            (int64_t)1);
}

/* signal (batch, length, parts), frame_step, window (frame), frame_length */
EXPAND(stft)
{
    mtbal_builder *b = e->b;
    mtbal_value *x = expand_in(e, 0), *w = expand_in(e, 2);
    int64_t step, length, total = x && x->type.rank == 3 ? expand_dim(x, 1) : 0;
    if (!scalar_of(e, 1, 0, &step) || !scalar_of(e, 3, w ? expand_dim(w, 0) : total, &length) ||
        step < 1 || length < 1 || length > total ||
        (w && (w->type.rank != 1 || expand_dim(w, 0) != length)))
        return MTBAL_OK;
    int64_t frames = (total - length) / step + 1, column[2] = {length, 1};
    transform t = {.given = length,
                   .length = length,
                   .in_parts = (int)expand_dim(x, 2),
                   .out_parts = 2,
                   .onesided = mtbal_attr_i(e->node, "onesided", 1) != 0};
    t.bins = t.onesided ? length / 2 + 1 : length;
    if (frames > MOST / length || (t.in_parts != 1 && t.in_parts != 2))
        return MTBAL_OK;
    mtbal_value *pieces = frames_of(e, x, frames, length, step);
    if (w)
        pieces = MUL(pieces, expand_reshape(b, w, 2, column));
    e->out[0] = pieces ? transformed(e, pieces, 2, &t) : NULL;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ mel weights */

static double mel(double hertz)
{
    return 2595 * log10(1 + hertz / 700);
}

/* (frequencies, bins): triangles whose corners lie evenly on the mel scale, rounded down to
 * frequencies of the transform. */
EXPAND(mel_weight_matrix)
{
    int64_t bins, length, rate;
    const mtbal_tensor *edges[2];
    for (int i = 0; i < 2; i++) {
        mtbal_value *v = expand_in(e, 3 + i);
        edges[i] = v ? lower_constant(e->l, v) : NULL;
    }
    if (!scalar_of(e, 0, 0, &bins) || !scalar_of(e, 1, 0, &length) || !scalar_of(e, 2, 0, &rate) ||
        !edges[0] || !edges[1] || edges[0]->count != 1 || edges[1]->count != 1 || bins < 1 ||
        rate < 1 || length < 1 || length > MOST / bins)
        return MTBAL_OK;
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(e->node, "output_datatype", MTBAL_FLOAT);
    int64_t dims[2] = {length / 2 + 1, bins};
    mtbal_tensor *t =
        mtbal_dtype_size(dtype) ? mtbal_tensor_new(e->l->model, dtype, 2, dims, NULL) : NULL;
    double low = mel(mtbal_tensor_f64(edges[0], 0)), high = mel(mtbal_tensor_f64(edges[1], 0));
    double step = (high - low) / (double)(bins + 2);
    for (int64_t i = 0; t && i < bins; i++) {
        int64_t corner[3];
        for (int k = 0; k < 3; k++) {
            double hertz = 700 * (pow(10, (low + step * (double)(i + k)) / 2595) - 1);
            double at = floor((double)(length + 1) * hertz / (double)rate);
            corner[k] = at >= 0 && at < (double)dims[0] ? (int64_t)at : at < 0 ? 0 : dims[0] - 1;
        }
        for (int64_t j = corner[0]; j < corner[1]; j++)
            mtbal_tensor_set_f64(t, j * bins + i,
                                 (double)(j - corner[0]) / (double)(corner[1] - corner[0]));
        mtbal_tensor_set_f64(t, corner[1] * bins + i, 1);
        for (int64_t j = corner[1] + 1; j < corner[2]; j++)
            mtbal_tensor_set_f64(t, j * bins + i,
                                 (double)(corner[2] - j) / (double)(corner[2] - corner[1]));
    }
    e->out[0] = t ? mtbal_const_tensor(e->b, t) : NULL;
    return MTBAL_OK;
}
