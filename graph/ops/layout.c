/* graph/ops/layout.c: operators that move elements: transpose, tile, concat, split, slice, pad. */
#include "graph/ops/shapes.h"

#include <string.h>

/* perm [n] holds each of 0 to n - 1 once. */
static bool is_permutation(const int64_t *perm, int n)
{
    bool used[SHAPE_MAX_RANK] = {false};
    for (int i = 0; i < n; i++) {
        if (n > SHAPE_MAX_RANK || perm[i] < 0 || perm[i] >= n || used[perm[i]])
            return false;
        used[perm[i]] = true;
    }
    return true;
}

mtbal_status mtbal_shape_transpose(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const int64_t *perm;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = mtbal_attr_ints(s->node, "perm", &perm);
    if (n >= 0 && x->rank >= 0 && n != x->rank)
        return shape_error(s, "perm has %d entries, but %s has rank %d", n, shape_name(s, 0),
                           x->rank);
    if (n >= 0 && !is_permutation(perm, n))
        return shape_error(s, "perm is not a permutation of %d axes", n);
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[n < 0 ? x->rank - 1 - i : perm[i]];
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_tile(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim *repeats;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = shape_content(s, 1, &repeats);
    int64_t number;
    for (int i = 0; i < n; i++)
        if (shape_is_number(repeats[i], &number) && number < 0)
            return shape_error(s, "repeat %d is %lld", i, (long long)number);
    const mtbal_type *list = shape_type(s, 1);
    int64_t count = n >= 0 ? n : list->rank == 1 ? list->dims[0].size : -1;
    if (count >= 0 && x->rank >= 0 && count != x->rank)
        return shape_error(s, "there are %lld repeats, but %s has rank %d", (long long)count,
                           shape_name(s, 0), x->rank);
    for (int i = 0; i < x->rank; i++)
        dims[i] = n < 0 ? shape_unknown() : mtbal_dim_mul(s->model, x->dims[i], repeats[i]);
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* Lengths, one a sequence of the batch. */
mtbal_status mtbal_shape_reverse_sequence(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *lengths = shape_type(s, 1);
    int64_t batch = mtbal_attr_i(s->node, "batch_axis", 1),
            time = mtbal_attr_i(s->node, "time_axis", 0);
    if (batch < 0 || batch > 1 || time != !batch)
        return shape_error(s,
                           "batch_axis is %lld and time_axis %lld, but one must be 0 and the "
                           "other 1",
                           (long long)batch, (long long)time);
    if (x->rank > 1 && lengths->rank == 1 && shape_differs(x->dims[batch], lengths->dims[0]))
        return shape_error(s, "%s has %lld lengths, but axis %lld of %s has %lld sequences",
                           shape_name(s, 1), (long long)lengths->dims[0].size, (long long)batch,
                           shape_name(s, 0), (long long)x->dims[batch].size);
    return shape_set_type(s, 0, x);
}

/* DepthToSpace and SpaceToDepth, (N,C,H,W). */
mtbal_status mtbal_shape_depth_to_space(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t block = mtbal_attr_i(s->node, "blocksize", 1);
    bool up = mtbal_node_is(s->node, MTBAL_OP_depth_to_space);
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (x->rank != 4 || block < 1 || block > INT32_MAX)
        return shape_error(s, "%s has rank %d (4 is wanted) and the block size is %lld",
                           shape_name(s, 0), x->rank, (long long)block);
    for (int i = up ? 1 : 2; i < (up ? 2 : 4); i++)
        if (x->dims[i].size >= 0 &&
            (block > 46340 || x->dims[i].size % (up ? block * block : block)))
            return shape_error(s,
                               "axis %d of %s has %lld elements, which blocks of %lld x %lld do "
                               "not divide",
                               i, shape_name(s, 0), (long long)x->dims[i].size, (long long)block,
                               (long long)block);
    mtbal_dim b = mtbal_dim_const(block), bb = mtbal_dim_const(block * block);
    mtbal_dim dims[4] = {x->dims[0]};
    dims[1] =
        up ? mtbal_dim_div(s->model, x->dims[1], bb) : mtbal_dim_mul(s->model, x->dims[1], bb);
    for (int i = 2; i < 4; i++)
        dims[i] =
            up ? mtbal_dim_mul(s->model, x->dims[i], b) : mtbal_dim_div(s->model, x->dims[i], b);
    return shape_set(s, 0, x->dtype, 4, dims);
}

/* ------------------------------------------------------------------ Concat and Split */

/* Scalars cannot be concatenated: every part is a vector. A part of unknown content but known
 * length leaves its elements unknown. */
static mtbal_status concat_content(mtbal_infer *s)
{
    mtbal_dim content[SHAPE_MAX_CONTENT];
    int count = 0;
    for (int i = 0; i < s->node->nin; i++) {
        const mtbal_type *t = shape_type(s, i);
        const mtbal_dim *part;
        int n = shape_content(s, i, &part);
        int64_t length = n >= 0 ? n : t->rank == 1 ? t->dims[0].size : -1;
        if (length < 0 || count + length > SHAPE_MAX_CONTENT)
            return MTBAL_OK;
        for (int k = 0; k < length; k++)
            content[count++] = n >= 0 ? part[k] : shape_unknown();
    }
    return shape_set_content(s, 0, count, content);
}

mtbal_status mtbal_shape_concat(mtbal_infer *s)
{
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = -1, known = 0;
    int64_t axis;
    mtbal_dtype dtype = shape_type(s, 0)->dtype;
    for (int i = 0; i < s->node->nin; i++) {
        const mtbal_type *t = shape_type(s, i);
        if (t->rank < 0)
            continue;
        if (rank >= 0 && t->rank != rank)
            return shape_error(s, "%s has rank %d and %s rank %d", shape_name(s, known), rank,
                               shape_name(s, i), t->rank);
        known = i;
        rank = t->rank;
    }
    if (rank < 0)
        return shape_set(s, 0, dtype, -1, NULL);
    if (rank == 0)
        return shape_error(s, "%s is a scalar: only tensors with axes can be concatenated",
                           shape_name(s, known));
    MTBAL_TRY(shape_axis(s, "axis", 1, rank, 0, &axis));
    for (int d = 0; d < rank; d++) {
        dims[d] = d == axis ? mtbal_dim_const(0) : shape_unknown();
        for (int i = 0; i < s->node->nin; i++) {
            const mtbal_type *t = shape_type(s, i);
            mtbal_dim part = t->rank < 0 ? shape_unknown() : t->dims[d];
            if (d == axis)
                dims[d] = mtbal_dim_add(s->model, dims[d], part);
            else
                MTBAL_TRY(shape_unify(s, d, &dims[d], part));
        }
    }
    MTBAL_TRY(shape_set(s, 0, dtype, rank, dims));
    return concat_content(s);
}

/* Contents of a vector in parts of known length. */
static mtbal_status split_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    int64_t at = 0;
    for (int i = 0; i < s->node->nout && n >= 0; i++) {
        const mtbal_value *out = shape_out(s, i);
        int64_t length = out && out->type.rank == 1 ? out->type.dims[0].size : -1;
        if (length < 0 || at + length > n)
            return MTBAL_OK;
        MTBAL_TRY(shape_set_content(s, i, (int)length, content + at));
        at += length;
    }
    return MTBAL_OK;
}

/* Part i of n equal ones; the last may be smaller. */
static mtbal_dim equal_part(mtbal_infer *s, mtbal_dim whole, int i, int n)
{
    if (whole.size < 0)
        return mtbal_dim_div(s->model, whole, mtbal_dim_const(n));
    int64_t part = whole.size / n + (whole.size % n != 0), left = whole.size - i * part;
    return mtbal_dim_const(left < 0 ? 0 : left < part ? left : part);
}

mtbal_status mtbal_shape_split(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis, few[SHAPE_MAX_CONTENT];
    const int64_t *sizes;
    bool given = mtbal_attr_find(s->node, "split") || shape_in(s, 1);
    int n = shape_many_ints(s, "split", 1, few, &sizes), parts = s->node->nout;
    const mtbal_dim *symbols = NULL;
    int nsymbols = n < 0 ? shape_content(s, 1, &symbols) : -1;
    if (x->rank < 0) {
        for (int i = 0; i < parts; i++)
            MTBAL_TRY(shape_set(s, i, x->dtype, -1, NULL));
        return MTBAL_OK;
    }
    MTBAL_TRY(shape_axis(s, "axis", 0, x->rank, 0, &axis));
    if (s->opset >= 18 && s->opset < INT32_MAX &&
        !given == !mtbal_attr_find(s->node, "num_outputs"))
        return shape_error(s, "it takes either sizes or num_outputs");
    if (mtbal_attr_i(s->node, "num_outputs", parts) != parts)
        return shape_error(s, "num_outputs is %lld, but there are %d outputs",
                           (long long)mtbal_attr_i(s->node, "num_outputs", parts), parts);
    int64_t whole = x->dims[axis].size, part = whole / parts + (whole % parts != 0);
    if (!given && whole >= 0 && (s->opset < 18 ? whole % parts != 0 : part * (parts - 1) > whole))
        return shape_error(s,
                           "axis %lld of %s has %lld elements, which are not split into %d parts",
                           (long long)axis, shape_name(s, 0), (long long)whole, parts);
    if (n >= 0 && n != parts)
        return shape_error(s, "there are %d sizes for %d outputs", n, parts);
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[i];
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        if (sizes[i] < 0 || __builtin_add_overflow(sum, sizes[i], &sum))
            return shape_error(s, "size %d of the parts is %lld", i, (long long)sizes[i]);
    if (n >= 0 && x->dims[axis].size >= 0 && sum != x->dims[axis].size)
        return shape_error(s, "the parts have %lld elements, but axis %lld of %s has %lld",
                           (long long)sum, (long long)axis, shape_name(s, 0),
                           (long long)x->dims[axis].size);
    for (int i = 0; i < parts; i++) {
        dims[axis] = n >= 0              ? mtbal_dim_const(sizes[i])
                     : nsymbols == parts ? symbols[i]
                     : given             ? shape_unknown()
                                         : equal_part(s, x->dims[axis], i, parts);
        MTBAL_TRY(shape_set(s, i, x->dtype, x->rank, dims));
    }
    return split_content(s);
}

/* ------------------------------------------------------------------ Slice */

/* Where a slice goes along one axis of a given size. */
typedef struct range {
    int64_t first, count, step;
} range;

static range slice_range(int64_t size, int64_t start, int64_t end, int64_t step)
{
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    start = start < 0 ? start + size : start;
    end = end < 0 ? end + size : end;
    start = start < 0 ? 0 : start > high ? high : start;
    end = end < low ? low : end > high ? high : end;
    uint64_t span = step > 0 ? (end > start ? (uint64_t)(end - start) : 0)
                             : (start > end ? (uint64_t)(start - end) : 0);
    uint64_t by = step > 0 ? (uint64_t)step : -(uint64_t)step;
    return (range){start, (int64_t)(span / by + (span % by != 0)), step};
}

/* A bound of a slice as a place in [0, size]. Bounds are taken to lie inside, as exporters mean
 * them; *known is false where that is in doubt: at a number as the end of an axis that may be
 * shorter. */
static mtbal_dim place(mtbal_model *model, mtbal_dim size, mtbal_dim bound, bool is_end,
                       bool *known)
{
    int64_t n, low;
    *known = !shape_is_unknown(size) && !shape_is_unknown(bound);
    if (!*known)
        return bound;
    if (!shape_is_number(bound, &n)) { /* "-n": from the end */
        mtbal_dim opposite = mtbal_dim_sub(model, mtbal_dim_const(0), bound);
        bool negative = shape_low(model, opposite, &low) && low > 0;
        return negative ? mtbal_dim_add(model, size, bound) : bound;
    }
    if (n >= INT32_MAX)
        return size;
    if (n < 0)
        return n <= -INT32_MAX ? mtbal_dim_const(0) : shape_plus(model, size, n);
    *known = !is_end || (shape_low(model, size, &low) && low >= n);
    return bound;
}

static mtbal_dim slice_dim(mtbal_model *model, mtbal_dim size, mtbal_dim start, mtbal_dim end,
                           mtbal_dim step)
{
    int64_t a, b, by;
    bool first, last;
    if (!shape_is_number(step, &by) || by == 0)
        return shape_unknown();
    bool numbers = shape_is_number(start, &a) && shape_is_number(end, &b);
    if (size.size >= 0 && numbers)
        return mtbal_dim_const(slice_range(size.size, a, b, by).count);
    if (by == -1 && numbers && (a == -1 || a >= INT32_MAX) && b <= -INT32_MAX)
        return size; /* reversed */
    if (by < 0 || by > INT32_MAX)
        return shape_unknown();
    mtbal_dim from = place(model, size, start, false, &first),
              to = place(model, size, end, true, &last);
    if (!first || !last)
        return shape_unknown();
    mtbal_dim span = shape_plus(model, mtbal_dim_sub(model, to, from), by - 1);
    mtbal_dim count = mtbal_dim_div(model, span, mtbal_dim_const(by));
    return shape_is_number(count, &a) && a < 0 ? mtbal_dim_const(0) : count;
}

static mtbal_status slice_content(mtbal_infer *s, mtbal_dim start, mtbal_dim end, mtbal_dim step)
{
    const mtbal_dim *content;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &content);
    int64_t a, b, by;
    if (n < 0 || !shape_is_number(start, &a) || !shape_is_number(end, &b) ||
        !shape_is_number(step, &by) || by == 0)
        return MTBAL_OK;
    range r = slice_range(n, a, b, by);
    for (int64_t i = 0; i < r.count; i++)
        result[i] = content[r.first + i * r.step];
    return shape_set_content(s, 0, (int)r.count, result);
}

/* An operand of Slice as symbolic numbers: an attribute before opset 10, an input since. */
static int slice_operand(mtbal_infer *s, const char *attr, int input, mtbal_dim *values)
{
    const int64_t *given;
    const mtbal_dim *content;
    int n = mtbal_attr_ints(s->node, attr, &given);
    if (n >= 0) {
        for (int i = 0; i < n && i < SHAPE_MAX_CONTENT; i++)
            values[i] = shape_number(s->model, given[i]);
        return n > SHAPE_MAX_CONTENT ? -1 : n;
    }
    n = shape_content(s, input, &content);
    if (n > 0)
        memcpy(values, content, (size_t)n * sizeof *values);
    return n;
}

/* Nobody knows how many axes are sliced, or which. */
static mtbal_status slice_unknown(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int i = 0; i < x->rank; i++)
        dims[i] = shape_unknown();
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_slice(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim part[4][SHAPE_MAX_CONTENT], dims[SHAPE_MAX_RANK];
    const mtbal_dim one = mtbal_dim_const(1);
    bool sliced[SHAPE_MAX_RANK] = {false};
    int ns = slice_operand(s, "starts", 1, part[0]), ne = slice_operand(s, "ends", 2, part[1]),
        na = slice_operand(s, "axes", 3, part[2]), nt = slice_operand(s, "steps", 4, part[3]);
    bool has_axes = na >= 0 || shape_in(s, 3), has_steps = shape_in(s, 4);
    int n = has_axes ? na : ns >= 0 ? ns : ne;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (n < 0)
        return slice_unknown(s);
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[i];
    for (int i = 0; i < n; i++) {
        int64_t axis = i;
        if (has_axes && !shape_is_number(part[2][i], &axis))
            return slice_unknown(s);
        axis += axis < 0 ? x->rank : 0;
        if (axis < 0 || axis >= x->rank)
            return shape_error(s, "it slices axis %lld of %s, which has rank %d", (long long)axis,
                               shape_name(s, 0), x->rank);
        int64_t step;
        if (sliced[axis])
            return shape_error(s, "it slices axis %lld of %s twice", (long long)axis,
                               shape_name(s, 0));
        sliced[axis] = true;
        if (has_steps && i < nt && shape_is_number(part[3][i], &step) && step == 0)
            return shape_error(s, "its step along axis %lld is 0", (long long)axis);
        bool known = i < ns && i < ne && (!has_steps || i < nt);
        dims[axis] = known ? slice_dim(s->model, x->dims[axis], part[0][i], part[1][i],
                                       has_steps ? part[3][i] : one)
                           : shape_unknown();
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    if (n == 1 && x->rank == 1 && ns == 1 && ne == 1 && (!has_steps || nt == 1))
        return slice_content(s, part[0][0], part[1][0], has_steps ? part[3][0] : one);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Pad */

mtbal_status mtbal_shape_pad(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim pads[SHAPE_MAX_CONTENT], dims[SHAPE_MAX_RANK];
    int64_t axes[SHAPE_MAX_CONTENT], number;
    int n = slice_operand(s, mtbal_attr_find(s->node, "paddings") ? "paddings" : "pads", 1, pads);
    int na = shape_ints(s, 3, axes), half = n / 2;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (n < 0 || (shape_in(s, 3) && na < 0))
        return slice_unknown(s);
    if (n != 2 * (shape_in(s, 3) ? na : x->rank))
        return shape_error(s, "there are %d pads, but %s has rank %d", n, shape_name(s, 0),
                           x->rank);
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[i];
    bool padded[SHAPE_MAX_RANK] = {false};
    for (int i = 0; i < half; i++) {
        int64_t axis = na < 0 ? i : axes[i] < 0 ? axes[i] + x->rank : axes[i];
        if (axis < 0 || axis >= x->rank || padded[axis])
            return shape_error(s, "it pads axis %lld of %s, which has rank %d%s", (long long)axis,
                               shape_name(s, 0), x->rank,
                               axis >= 0 && axis < x->rank ? ", twice" : "");
        padded[axis] = true;
        mtbal_dim both = mtbal_dim_add(s->model, pads[i], pads[half + i]);
        dims[axis] = mtbal_dim_add(s->model, dims[axis], both);
        if (shape_is_number(dims[axis], &number) && number < 0)
            return shape_error(s, "axis %lld of %s is padded to %lld", (long long)axis,
                               shape_name(s, 0), (long long)number);
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}
