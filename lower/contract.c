/* lower/contract.c: what each kernel takes for granted of its operands. Checked for every call,
 * whichever node, rule or fusion makes it: a kernel reads and writes what its attributes and these
 * shapes say, and nothing checks it there. */
#include "lower/lowering.h"

typedef struct fit {
    const void *attr;
    int nin, nout;
    const operand *in, *out;
} fit;

/* ------------------------------------------------------------------ words of the contracts */

static operand in(const fit *f, int i)
{
    return i < f->nin ? f->in[i] : op_none();
}

static operand out(const fit *f, int i)
{
    return i < f->nout ? f->out[i] : op_none();
}

static bool given(operand x)
{
    return x.cell >= 0;
}

/* Operands `first` to `last` are given. */
static bool has_inputs(const fit *f, int first, int last)
{
    for (int i = first; i <= last; i++)
        if (!given(in(f, i)))
            return false;
    return true;
}

static bool has_outputs(const fit *f, int first, int last)
{
    for (int i = first; i <= last; i++)
        if (!given(out(f, i)))
            return false;
    return true;
}

/* Of those that follow, what is left out fits always. */
static bool has_dims(operand x, int rank, const int64_t *dims)
{
    if (!given(x))
        return true;
    for (int d = 0; d < rank && x.rank == rank; d++)
        if (x.dims[d] != dims[d])
            return false;
    return x.rank == rank;
}
#define DIMS(x, ...)                                                         \
    has_dims((x), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
             (int64_t[]){__VA_ARGS__})

static bool same_dims(operand x, operand like)
{
    return has_dims(x, like.rank, like.dims);
}

static bool has_count(operand x, int64_t count)
{
    return !given(x) || op_count(x) == count;
}

static bool same_count(operand x, operand like)
{
    return has_count(x, op_count(like));
}

static bool same_type(operand x, operand like)
{
    return !given(x) || x.dtype == like.dtype;
}

static bool broadcasts(operand x, operand to)
{
    if (!given(x))
        return true;
    for (int d = 1; d <= x.rank; d++)
        if (x.dims[x.rank - d] != 1 && (d > to.rank || x.dims[x.rank - d] != to.dims[to.rank - d]))
            return false;
    return true;
}

/* Axes [from, to), multiplied. */
static int64_t product(operand x, int from, int to)
{
    int64_t n = 1;
    for (int d = from; d < to; d++)
        n *= x.dims[d];
    return n;
}

static bool is_axis(operand x, int64_t axis)
{
    return axis >= 0 && axis < x.rank;
}

/* Equal but for one axis. */
static bool same_but(operand x, operand y, int64_t axis)
{
    if (x.rank != y.rank)
        return false;
    for (int d = 0; d < x.rank; d++)
        if (d != axis && x.dims[d] != y.dims[d])
            return false;
    return true;
}

static bool is_float(operand x)
{
    return !given(x) || x.dtype == RT_F32 || x.dtype == RT_F64;
}

/* float or double, inputs [from, to) and all outputs alike. */
static bool floats(const fit *f, int from, int to, int nout)
{
    operand like = given(in(f, from)) ? in(f, from) : out(f, 0);
    bool fits = given(like) && is_float(like);
    for (int i = from; i < to; i++)
        fits = fits && same_type(in(f, i), like);
    for (int i = 0; i < nout; i++)
        fits = fits && same_type(out(f, i), like);
    return fits;
}

#define FITS(name) static bool fits_##name(const fit *f)
#define ATTR(name) const rt_##name##_attr *a = f->attr

/* ------------------------------------------------------------------ element by element */

/* One result per element, of any type: unary, cast, dropout. */
static bool elementwise(const fit *f)
{
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && same_count(in(f, 0), out(f, 0));
}

/* Floats give floats of their type, or bool; integers no floats. */
static bool typed_as(operand x, operand y)
{
    return y.dtype == RT_BOOL || (is_float(x) ? same_type(x, y) : !is_float(y));
}

FITS(unary)
{
    return elementwise(f) && typed_as(in(f, 0), out(f, 0));
}

FITS(binary)
{
    ATTR(binary);
    operand x = in(f, 0), y = out(f, 0);
    bool mixed = x.dtype != in(f, 1).dtype;
    return has_inputs(f, 0, 1) && has_outputs(f, 0, 0) && (!mixed || a->op == RT_BINARY_pow) &&
           typed_as(x, y) && broadcasts(x, y) && broadcasts(in(f, 1), y);
}

FITS(where)
{
    bool fits = has_inputs(f, 0, 2) && has_outputs(f, 0, 0) && in(f, 0).dtype == RT_BOOL;
    for (int i = 0; i < 3; i++)
        fits = fits && broadcasts(in(f, i), out(f, 0)) && (!i || same_type(in(f, i), out(f, 0)));
    return fits;
}

FITS(chain)
{
    ATTR(chain);
    bool fits = has_outputs(f, 0, 0) && a->nin <= f->nin && a->nout <= f->nout;
    for (int i = 0; i < a->nin && fits; i++)
        fits = given(in(f, i)) && broadcasts(in(f, i), out(f, 0));
    for (int i = 0; i < a->nout && fits; i++)
        fits = given(out(f, i)) && same_count(out(f, i), out(f, 0));
    return fits;
}

FITS(cast)
{
    return elementwise(f);
}

FITS(dropout)
{
    return elementwise(f) && has_count(in(f, 1), 1) && has_count(in(f, 2), 1) &&
           (!given(in(f, 2)) || in(f, 2).dtype == RT_BOOL) && same_count(out(f, 1), out(f, 0)) &&
           (!given(out(f, 1)) || out(f, 1).dtype == RT_BOOL);
}

FITS(random_fill)
{
    return has_outputs(f, 0, 0);
}

/* ------------------------------------------------------------------ moves */

FITS(copy)
{
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && op_bytes(in(f, 0)) >= op_bytes(out(f, 0));
}

FITS(fill)
{
    return has_outputs(f, 0, 0);
}

/* What `dense` reaches in the other operand, by the strides of its axes. */
static bool strides_fit(operand dense, operand spread, int64_t offset, const int32_t *stride)
{
    int64_t low = offset, high = offset;
    for (int d = 0; d < dense.rank; d++) {
        int64_t reach;
        if (dense.dims[d] == 0)
            return true;
        if (!mtbal_mul_i64(dense.dims[d] - 1, stride[d], &reach))
            return false;
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    return low >= 0 && high < op_count(spread);
}

FITS(strided)
{
    ATTR(strided);
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && same_type(in(f, 0), out(f, 0)) &&
           strides_fit(out(f, 0), in(f, 0), a->offset, a->stride);
}

FITS(strided_put)
{
    ATTR(strided_put);
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && same_type(in(f, 0), out(f, 0)) &&
           strides_fit(in(f, 0), out(f, 0), a->offset, a->stride);
}

FITS(range)
{
    bool fits = has_inputs(f, 0, 0) && has_inputs(f, 2, 2) && has_outputs(f, 0, 0);
    for (int i = 0; i < 3; i++)
        fits = fits && has_count(in(f, i), 1) && same_type(in(f, i), out(f, 0));
    return fits;
}

FITS(trilu)
{
    return elementwise(f) && out(f, 0).rank >= 2 && same_type(in(f, 0), out(f, 0));
}

FITS(eye)
{
    return has_outputs(f, 0, 0) && out(f, 0).rank == 2;
}

FITS(cum_sum)
{
    ATTR(cum_sum);
    return elementwise(f) && same_type(in(f, 0), out(f, 0)) && is_axis(out(f, 0), a->axis);
}

FITS(cum_prod)
{
    return fits_cum_sum(f);
}

FITS(cum_prod_grad)
{
    return fits_cum_sum(f) && has_inputs(f, 1, 1) && floats(f, 0, 2, 1) &&
           same_count(in(f, 1), out(f, 0));
}

FITS(pad)
{
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && in(f, 0).rank == out(f, 0).rank &&
           same_type(in(f, 0), out(f, 0)) && has_count(in(f, 1), 1) &&
           same_type(in(f, 1), out(f, 0));
}

FITS(reverse_sequence)
{
    ATTR(reverse_sequence);
    operand y = out(f, 0);
    return elementwise(f) && has_inputs(f, 1, 1) && y.rank >= 2 &&
           a->time_axis + a->batch_axis == 1 && a->time_axis >= 0 && a->batch_axis >= 0 &&
           same_type(in(f, 0), y) && has_count(in(f, 1), y.dims[a->batch_axis]);
}

/* ------------------------------------------------------------------ indices */

static bool is_index(operand x)
{
    return given(x) && x.dtype != RT_F32 && x.dtype != RT_F64;
}

FITS(gather)
{
    ATTR(gather);
    operand x = in(f, 0), y = out(f, 0);
    return has_inputs(f, 0, 0) && is_index(in(f, 1)) && given(y) && is_axis(x, a->axis) &&
           same_type(x, y) &&
           has_count(y,
                     product(x, 0, a->axis) * op_count(in(f, 1)) * product(x, a->axis + 1, x.rank));
}

/* Indices of gather_elements and scatter_elements: no axis but `axis` is longer than the data's. */
static bool indices_inside(operand x, operand index, int axis)
{
    bool fits = x.rank == index.rank && is_axis(x, axis);
    for (int d = 0; d < x.rank && fits; d++)
        fits = d == axis || index.dims[d] <= x.dims[d];
    return fits;
}

FITS(gather_elements)
{
    ATTR(gather_elements);
    return has_inputs(f, 0, 0) && is_index(in(f, 1)) && given(out(f, 0)) &&
           indices_inside(in(f, 0), in(f, 1), a->axis) && same_count(out(f, 0), in(f, 1)) &&
           same_type(in(f, 0), out(f, 0));
}

FITS(gather_nd)
{
    ATTR(gather_nd);
    operand x = in(f, 0), index = in(f, 1);
    if (!given(x) || !is_index(index) || !given(out(f, 0)) || index.rank < 1 || a->batch_dims < 0 ||
        a->batch_dims >= index.rank)
        return false;
    int64_t depth = index.dims[index.rank - 1];
    bool fits = depth >= 0 && a->batch_dims + depth <= x.rank && same_type(x, out(f, 0));
    for (int d = 0; d < a->batch_dims && fits; d++)
        fits = index.dims[d] == x.dims[d];
    return fits && has_count(out(f, 0), product(index, 0, index.rank - 1) *
                                            product(x, a->batch_dims + (int)depth, x.rank));
}

FITS(scatter_elements)
{
    ATTR(scatter_elements);
    return has_inputs(f, 0, 2) && is_index(in(f, 1)) && given(out(f, 0)) &&
           same_dims(in(f, 0), out(f, 0)) && indices_inside(out(f, 0), in(f, 1), a->axis) &&
           same_count(in(f, 2), in(f, 1)) && same_type(in(f, 0), out(f, 0)) &&
           same_type(in(f, 2), out(f, 0));
}

FITS(scatter_nd)
{
    operand y = out(f, 0), index = in(f, 1);
    if (!has_inputs(f, 0, 2) || !is_index(index) || !given(y) || index.rank < 1 ||
        index.dims[index.rank - 1] > y.rank)
        return false;
    int64_t n =
        product(index, 0, index.rank - 1) * product(y, (int)index.dims[index.rank - 1], y.rank);
    return same_dims(in(f, 0), y) && has_count(in(f, 2), n) && same_type(in(f, 0), y) &&
           same_type(in(f, 2), y);
}

FITS(gather_grad)
{
    operand dx = out(f, 0);
    return has_inputs(f, 0, 1) && is_index(in(f, 1)) && given(dx) && dx.rank >= 1 &&
           same_type(in(f, 0), dx) &&
           has_count(in(f, 0), op_count(in(f, 1)) * product(dx, 1, dx.rank));
}

FITS(one_hot)
{
    ATTR(one_hot);
    operand y = out(f, 0);
    return has_inputs(f, 0, 0) && has_inputs(f, 2, 2) && given(y) && is_axis(y, a->axis) &&
           has_count(in(f, 2), 2) && same_type(in(f, 2), y) &&
           has_count(in(f, 0), product(y, 0, a->axis) * product(y, a->axis + 1, y.rank));
}

FITS(top_k)
{
    ATTR(top_k);
    operand x = in(f, 0);
    return given(x) && has_outputs(f, 0, 1) && is_axis(x, a->axis) &&
           same_but(x, out(f, 0), a->axis) && same_dims(out(f, 1), out(f, 0)) &&
           out(f, 0).dims[a->axis] <= x.dims[a->axis] && out(f, 1).dtype == RT_I64 &&
           same_type(x, out(f, 0));
}

/* ------------------------------------------------------------------ reductions */

FITS(reduce)
{
    ATTR(reduce);
    operand x = in(f, 0);
    int64_t kept = 1;
    for (int d = 0; d < x.rank; d++)
        kept *= a->mask >> d & 1 ? 1 : x.dims[d];
    return given(x) && given(out(f, 0)) && has_count(out(f, 0), kept) && same_type(x, out(f, 0));
}

FITS(arg)
{
    ATTR(arg);
    operand x = in(f, 0);
    return given(x) && given(out(f, 0)) && is_axis(x, a->axis) && out(f, 0).dtype == RT_I64 &&
           has_count(out(f, 0), product(x, 0, a->axis) * product(x, a->axis + 1, x.rank));
}

FITS(det)
{
    operand x = in(f, 0);
    return given(x) && given(out(f, 0)) && x.rank >= 2 && x.dims[x.rank - 1] <= 16 &&
           x.dims[x.rank - 1] == x.dims[x.rank - 2] &&
           has_count(out(f, 0), product(x, 0, x.rank - 2));
}

FITS(gram)
{
    bool fits = f->nin >= 1 && DIMS(out(f, 0), f->nin, f->nin) && given(out(f, 0));
    for (int i = 0; i < f->nin && fits; i++)
        fits = given(in(f, i)) && is_float(in(f, i)) && same_type(in(f, i), in(f, 0)) &&
               same_count(in(f, i), in(f, 0));
    return fits;
}

/* ------------------------------------------------------------------ products */

FITS(matmul)
{
    ATTR(matmul);
    operand p = in(f, 0), q = in(f, 1), y = out(f, 0);
    int r = y.rank;
    if (!has_inputs(f, 0, 1) || !given(y) || r < 2 || p.rank != r || q.rank != r ||
        !floats(f, 0, 2, 1))
        return false;
    for (int d = 0; d < r - 2; d++)
        if ((p.dims[d] != 1 && p.dims[d] != y.dims[d]) ||
            (q.dims[d] != 1 && q.dims[d] != y.dims[d]))
            return false;
    return p.dims[r - 2 + a->trans_a] == y.dims[r - 2] &&
           q.dims[r - 1 - a->trans_b] == y.dims[r - 1] &&
           p.dims[r - 1 - a->trans_a] == q.dims[r - 2 + a->trans_b];
}

FITS(gemm_op)
{
    ATTR(gemm_op);
    operand p = in(f, 0), q = in(f, 1), y = out(f, 0);
    return has_inputs(f, 0, 1) && given(y) && floats(f, 0, 3, 1) && p.rank == 2 && q.rank == 2 &&
           y.rank == 2 && p.dims[a->trans_a != 0] == y.dims[0] &&
           q.dims[a->trans_b == 0] == y.dims[1] &&
           p.dims[a->trans_a == 0] == q.dims[a->trans_b != 0] && broadcasts(in(f, 2), y) &&
           in(f, 2).rank <= 2;
}

/* ------------------------------------------------------------------ windows: (N, C, S..) */

/* x (N, C, S..), w (M, C/group, K..), y (N, M, S'..), the window as in the attributes. */
static bool convolves(const fit *f, operand x, operand w, operand y)
{
    ATTR(conv);
    int n = x.rank - 2;
    if (!given(x) || !given(w) || !given(y) || n < 1 || n > 3 || w.rank != x.rank ||
        y.rank != x.rank || a->group < 1 || x.dims[0] != y.dims[0] || w.dims[0] != y.dims[1] ||
        w.dims[0] % a->group || x.dims[1] != w.dims[1] * a->group)
        return false;
    for (int d = 0; d < n; d++)
        if (a->kernel[d] != w.dims[d + 2] || a->stride[d] < 1 || a->dilation[d] < 1)
            return false;
    return true;
}

FITS(conv)
{
    operand y = out(f, 0);
    return floats(f, 0, 3, 1) && convolves(f, in(f, 0), in(f, 1), y) && DIMS(in(f, 2), y.dims[1]);
}

FITS(conv_grad_x)
{
    operand dx = out(f, 0);
    return floats(f, 0, 3, 1) && convolves(f, dx, in(f, 1), in(f, 0)) && DIMS(in(f, 2), dx.dims[1]);
}

FITS(conv_grad_w)
{
    return floats(f, 0, 2, 1) && convolves(f, in(f, 0), out(f, 0), in(f, 1));
}

static bool pools(const fit *f, operand x, operand y)
{
    ATTR(max_pool);
    int n = x.rank - 2;
    if (!given(x) || !given(y) || n < 1 || n > 3 || y.rank != x.rank || x.dims[0] != y.dims[0] ||
        x.dims[1] != y.dims[1])
        return false;
    for (int d = 0; d < n; d++)
        if (a->kernel[d] < 1 || a->stride[d] < 1 || a->dilation[d] < 1)
            return false;
    return true;
}

FITS(max_pool)
{
    return pools(f, in(f, 0), out(f, 0)) && same_type(in(f, 0), out(f, 0)) &&
           same_dims(out(f, 1), out(f, 0)) && (!given(out(f, 1)) || out(f, 1).dtype == RT_I64);
}

FITS(max_pool_grad)
{
    return pools(f, in(f, 0), in(f, 1)) && given(out(f, 0)) && same_dims(out(f, 0), in(f, 0)) &&
           same_type(in(f, 1), in(f, 0)) && same_type(out(f, 0), in(f, 0));
}

FITS(average_pool)
{
    return pools(f, in(f, 0), out(f, 0)) && same_type(in(f, 0), out(f, 0));
}

FITS(resize_axis)
{
    ATTR(resize_axis);
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && is_axis(in(f, 0), a->axis) &&
           same_but(in(f, 0), out(f, 0), a->axis) && in(f, 0).dims[a->axis] > 0 &&
           same_type(in(f, 0), out(f, 0));
}

FITS(resize_axis_grad)
{
    ATTR(resize_axis);
    return has_inputs(f, 0, 0) && has_outputs(f, 0, 0) && is_axis(out(f, 0), a->axis) &&
           same_but(in(f, 0), out(f, 0), a->axis) && out(f, 0).dims[a->axis] > 0 &&
           floats(f, 0, 1, 1);
}

/* ------------------------------------------------------------------ normalisations */

FITS(softmax)
{
    ATTR(softmax);
    return elementwise(f) && floats(f, 0, 1, 1) && is_axis(in(f, 0), a->axis);
}

FITS(softmax_grad)
{
    return fits_softmax(f) && floats(f, 0, 2, 1) && has_inputs(f, 1, 1) &&
           same_count(in(f, 1), in(f, 0));
}

/* Statistics and scales of `x`, normalised over the axes from `axis` on. */
static bool normalises(operand x, int axis, operand scale, operand bias)
{
    return given(x) && axis >= 0 && axis <= x.rank && has_count(scale, product(x, axis, x.rank)) &&
           has_count(bias, product(x, axis, x.rank));
}

FITS(layer_norm)
{
    ATTR(layer_norm);
    operand x = in(f, 0);
    bool fits = floats(f, 0, 3, 1) && has_outputs(f, 0, 0) && same_count(out(f, 0), x) &&
                normalises(x, a->axis, in(f, 1), in(f, 2));
    for (int i = 1; i < 3; i++)
        fits = fits && has_count(out(f, i), product(x, 0, a->axis));
    return fits;
}

FITS(layer_norm_grad)
{
    ATTR(layer_norm_grad);
    return has_inputs(f, 0, 1) && floats(f, 0, 3, 2) && same_count(in(f, 0), in(f, 1)) &&
           normalises(in(f, 1), a->axis, in(f, 2), op_none()) && same_count(out(f, 0), in(f, 1)) &&
           same_count(out(f, 1), in(f, 1));
}

static int64_t channels(operand x)
{
    return x.rank > 1 ? x.dims[1] : 1;
}

FITS(batch_norm)
{
    operand x = in(f, 0);
    bool fits = has_inputs(f, 0, 4) && given(out(f, 0)) && is_float(x) && x.rank >= 1 &&
                same_type(out(f, 0), x) && same_count(out(f, 0), x);
    for (int i = 1; i < 5; i++)
        fits = fits && has_count(in(f, i), channels(x));
    return fits && has_count(out(f, 1), channels(x)) && has_count(out(f, 2), channels(x));
}

FITS(batch_norm_grad)
{
    operand x = in(f, 1);
    return has_inputs(f, 0, 2) && is_float(x) && x.rank >= 2 && same_type(in(f, 0), x) &&
           same_type(out(f, 0), x) && same_count(in(f, 0), x) && same_count(out(f, 0), x) &&
           has_count(in(f, 2), channels(x)) && has_count(out(f, 1), channels(x)) &&
           has_count(out(f, 2), channels(x));
}

/* ------------------------------------------------------------------ losses: x (N, C, D..), labels
 * (N, D..), weights (C) */

static bool classifies(operand x, operand labels, operand weights)
{
    return given(x) && is_float(x) && x.rank >= 2 && is_index(labels) &&
           has_count(labels, x.dims[0] * product(x, 2, x.rank)) && has_count(weights, x.dims[1]);
}

FITS(class_loss)
{
    ATTR(class_loss);
    operand x = in(f, 0);
    return classifies(x, in(f, 1), in(f, 2)) && given(out(f, 0)) &&
           has_count(out(f, 0), a->reduction ? 1 : op_count(in(f, 1))) && same_count(out(f, 1), x);
}

FITS(class_loss_grad)
{
    ATTR(class_loss_grad);
    operand x = in(f, 1), dx = out(f, 0);
    return classifies(x, in(f, 2), in(f, 3)) && has_inputs(f, 0, 0) && given(dx) &&
           has_count(in(f, 0), a->reduction ? 1 : op_count(in(f, 2))) && same_count(dx, x) &&
           same_type(dx, x);
}

/* ------------------------------------------------------------------ recurrent layers: S steps, B
 * sequences, H hidden */

static bool is_sequence(operand y)
{
    return given(y) && y.rank == 3;
}

/* A, R, H0 and, for an LSTM, C0 of a layer with `gates` gates whose results are y (S, B, H). */
static bool recurs(const fit *f, operand y, int gates)
{
    if (!is_sequence(y))
        return false;
    int64_t s = y.dims[0], b = y.dims[1], h = y.dims[2];
    return has_inputs(f, 0, 2) && has_count(in(f, 0), s * b * gates * h) &&
           has_count(in(f, 1), gates * h * h) && has_count(in(f, 2), b * h) && given(out(f, 1)) &&
           has_count(out(f, 1), b * h);
}

FITS(lstm)
{
    operand y = out(f, 0);
    return recurs(f, y, 4) && floats(f, 0, 5, 3) && has_inputs(f, 3, 3) && given(out(f, 2)) &&
           has_count(in(f, 3), y.dims[1] * y.dims[2]) &&
           has_count(out(f, 2), y.dims[1] * y.dims[2]) && has_count(in(f, 4), 3 * y.dims[2]) &&
           has_count(in(f, 5), y.dims[1]);
}

FITS(gru)
{
    ATTR(gru);
    operand y = out(f, 0);
    return recurs(f, y, 3) && floats(f, 0, 4, 2) && has_count(in(f, 3), y.dims[2]) &&
           (a->linear || !given(in(f, 3))) && has_count(in(f, 4), y.dims[1]);
}

FITS(rnn)
{
    operand y = out(f, 0);
    return recurs(f, y, 1) && floats(f, 0, 3, 2) && has_count(in(f, 3), y.dims[1]);
}

/* Counts of inputs [from, to) and outputs: multiples of S B H, B H, H H or S B as listed. */
static bool counts(const fit *f, bool inputs, int n, const int64_t *wanted)
{
    for (int i = 0; i < n; i++)
        if (wanted[i] >= 0 && !has_count(inputs ? in(f, i) : out(f, i), wanted[i]))
            return false;
    return true;
}
#define COUNTS(inputs, ...)                                                        \
    counts(f, (inputs), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
           (int64_t[]){__VA_ARGS__})

FITS(lstm_grad)
{
    operand dy = in(f, 0);
    if (!is_sequence(dy) || !has_inputs(f, 1, 5) || !has_outputs(f, 0, 4))
        return false;
    int64_t s = dy.dims[0], b = dy.dims[1], h = dy.dims[2], all = s * b * h;
    return floats(f, 0, 7, 5) &&
           COUNTS(true, all, b * h, b * h, 4 * all, 4 * h * h, b * h, 3 * h) &&
           has_count(in(f, 7), s * b) && COUNTS(false, 4 * all, b * h, b * h, all, all);
}

FITS(gru_grad)
{
    ATTR(gru_grad);
    operand dy = in(f, 0);
    if (!is_sequence(dy) || !has_inputs(f, 1, 2) || !has_inputs(f, 4, 5) || !has_outputs(f, 0, 3) ||
        (a->linear && !given(in(f, 3))))
        return false;
    int64_t s = dy.dims[0], b = dy.dims[1], h = dy.dims[2], all = s * b * h;
    return floats(f, 0, 6, 4) && COUNTS(true, all, b * h, 3 * all, all, all, 3 * h * h, s * b) &&
           COUNTS(false, 3 * all, b * h, all, all);
}

FITS(rnn_grad)
{
    operand dy = in(f, 0);
    if (!is_sequence(dy) || !has_inputs(f, 1, 3) || !has_outputs(f, 0, 1))
        return false;
    int64_t s = dy.dims[0], b = dy.dims[1], h = dy.dims[2], all = s * b * h;
    return floats(f, 0, 4, 2) && COUNTS(true, all, b * h, all, h * h, s * b) &&
           COUNTS(false, all, b * h);
}

/* ------------------------------------------------------------------ updates: p, g, moments, then
 * scalars */

static bool updates(const fit *f, int moments, int scalars)
{
    int tensors = 2 + moments;
    bool fits = has_inputs(f, 0, tensors + scalars - 1) && has_outputs(f, 0, moments) &&
                floats(f, 0, tensors, 1 + moments);
    for (int i = 0; i < f->nin && fits; i++)
        fits = i < tensors ? same_count(in(f, i), in(f, 0)) : has_count(in(f, i), 1);
    for (int i = 0; i < f->nout && fits; i++)
        fits = same_count(out(f, i), in(f, 0));
    return fits;
}

FITS(sgd_update)
{
    return updates(f, 0, 1);
}

FITS(momentum_update)
{
    return updates(f, 1, 2);
}

FITS(adam_update)
{
    ATTR(adam_update);
    return updates(f, 2, 6 + (a->decoupled != 0) + (a->weighted != 0));
}

/* ------------------------------------------------------------------ the table */

static bool (*const contracts[])(const fit *) = {
#define KERNEL(name, ...) [RT_KERNEL_##name] = fits_##name,
#include "runtime/kernels.def"
#undef KERNEL
};

/* Every operand lies within its cell, whatever view of it is given. */
static bool within_cells(const lowering *l, int n, const operand *x)
{
    for (int i = 0; i < n; i++)
        if (x[i].cell >= 0) {
            size_t bytes = rt_dtype_size(x[i].dtype), have = l->cells[x[i].cell].bytes;
            for (int d = 0; d < x[i].rank; d++)
                if (x[i].dims[d] < 0 || !mtbal_mul_size(bytes, (size_t)x[i].dims[d], &bytes))
                    return false;
            if (x[i].rank < 0 || x[i].rank > RT_MAX_RANK || x[i].offset > have ||
                bytes > have - x[i].offset)
                return false;
        }
    return true;
}

/* float[2,3], left out, .. */
static void print_operands(int n, const operand *x, char *text, size_t size)
{
    size_t used = 0;
    *text = 0;
    for (int i = 0; i < n && used + 100 < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s", i ? ", " : "");
        if (x[i].cell < 0) {
            used += (size_t)snprintf(text + used, size - used, "none");
            continue;
        }
        used += (size_t)snprintf(text + used, size - used, "%s[",
                                 mtbal_dtype_name((mtbal_dtype)x[i].dtype));
        for (int d = 0; d < x[i].rank && used + 40 < size; d++)
            used += (size_t)snprintf(text + used, size - used, "%s%lld", d ? "," : "",
                                     (long long)x[i].dims[d]);
        used += (size_t)snprintf(text + used, size - used, "]");
    }
}

mtbal_status lower_check_call(const lowering *l, int kernel, const void *attr, int nin,
                              const operand *ins, int nout, const operand *outs)
{
    const fit f = {attr, nin, nout, ins, outs};
    char from[400], to[300];
    if (within_cells(l, nin, ins) && within_cells(l, nout, outs) && contracts[kernel](&f))
        return MTBAL_OK;
    print_operands(nin, ins, from, sizeof from);
    print_operands(nout, outs, to, sizeof to);
    return mtbal_fail(l->diag, MTBAL_INVALID, l->label,
                      "see the operator in ONNX's specification; export the model again",
                      "its operands do not fit each other: %s -> %s (kernel %s)", from, to,
                      rt_kernels[kernel].name);
}
