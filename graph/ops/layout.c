/* graph/ops/layout.c: operators that move elements or read shapes. */
#include "graph/ops/shapes.h"

#include <string.h>

mtbal_status mtbal_shape_constant(mtbal_infer *s)
{
    mtbal_value *out = shape_out(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_attr *a = s->node->attrs;
    mtbal_tensor *t = out ? out->tensor : NULL;
    if (!t && out && a && !a->ref) {
        const int64_t n = a->n;
        if (a->kind == MTBAL_ATTR_TENSOR)
            t = a->t;
        else if (a->kind == MTBAL_ATTR_INT)
            t = mtbal_tensor_new(s->model, MTBAL_INT64, 0, NULL, &a->i);
        else if (a->kind == MTBAL_ATTR_FLOAT)
            t = mtbal_tensor_new(s->model, MTBAL_FLOAT, 0, NULL, &a->f);
        else if (a->kind == MTBAL_ATTR_INTS)
            t = mtbal_tensor_new(s->model, MTBAL_INT64, 1, &n, a->ints);
        else if (a->kind == MTBAL_ATTR_FLOATS)
            t = mtbal_tensor_new(s->model, MTBAL_FLOAT, 1, &n, a->floats);
        out->tensor = t;
    }
    if (!t || t->rank > SHAPE_MAX_RANK)
        return MTBAL_OK;
    for (int i = 0; i < t->rank; i++)
        dims[i] = mtbal_dim_const(t->dims[i]);
    return shape_set(s, 0, t->dtype, t->rank, dims);
}

mtbal_status mtbal_shape_shape(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim length = shape_unknown();
    int64_t start = mtbal_attr_i(s->node, "start", 0), end = mtbal_attr_i(s->node, "end", x->rank);
    if (x->rank >= 0) {
        start = start < 0 ? start + x->rank : start;
        end = end < 0 ? end + x->rank : end;
        start = start < 0 ? 0 : start > x->rank ? x->rank : start;
        end = end < start ? start : end > x->rank ? x->rank : end;
        length = mtbal_dim_const(end - start);
        MTBAL_TRY(shape_set_content(s, (int)(end - start), x->dims + start));
    }
    return shape_set(s, 0, MTBAL_INT64, 1, &length);
}

mtbal_status mtbal_shape_size(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim count = mtbal_dim_const(1);
    for (int i = 0; i < x->rank; i++)
        count = mtbal_dim_mul(s->model, count, x->dims[i]);
    if (x->rank >= 0)
        MTBAL_TRY(shape_set_content(s, 1, &count));
    return shape_set(s, 0, MTBAL_INT64, 0, NULL);
}

/* Contents pass through Squeeze, Unsqueeze and Reshape. */
static mtbal_status pass_content(mtbal_infer *s)
{
    const mtbal_dim *content;
    int n = shape_content(s, 0, &content);
    return n >= 0 ? shape_set_content(s, n, content) : MTBAL_OK;
}

static bool is_minus_one(mtbal_dim d)
{
    return d.size < 0 && d.symbol && !strcmp(d.symbol, "-1");
}

mtbal_status mtbal_shape_reshape(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_CONTENT], rest = mtbal_dim_const(1), total = mtbal_dim_const(1);
    const int64_t *attr;
    int n = shape_content(s, 1, &want), infer = -1;
    int nattr = s->opset < 5 ? mtbal_attr_ints(s->node, "shape", &attr) : -1;
    (void)nattr;
    if (n < 0) {
        const mtbal_type *shape = shape_type(s, 1);
        int64_t rank = shape->rank == 1 ? shape->dims[0].size : -1;
        for (int i = 0; i < rank && rank <= SHAPE_MAX_RANK; i++)
            dims[i] = shape_unknown();
        return shape_set(s, 0, x->dtype, rank <= SHAPE_MAX_RANK ? (int)rank : -1, dims);
    }
    bool zero_copies = !mtbal_attr_i(s->node, "allowzero", 0);
    for (int i = 0; i < n; i++) {
        dims[i] = want[i];
        if (is_minus_one(want[i])) {
            infer = i;
            continue;
        }
        if (want[i].size == 0 && zero_copies)
            dims[i] = i < x->rank ? x->dims[i] : shape_unknown();
        rest = mtbal_dim_mul(s->model, rest, dims[i]);
    }
    for (int i = 0; i < x->rank; i++)
        total = mtbal_dim_mul(s->model, total, x->dims[i]);
    if (infer >= 0)
        dims[infer] = x->rank < 0 ? shape_unknown() : mtbal_dim_div(s->model, total, rest);
    else if (x->rank >= 0 && total.size >= 0 && rest.size >= 0 && total.size != rest.size)
        return shape_error(s, "%lld elements of %s cannot become %lld", (long long)total.size,
                           shape_in(s, 0)->name, (long long)rest.size);
    MTBAL_TRY(shape_set(s, 0, x->dtype, n, dims));
    return pass_content(s);
}

mtbal_status mtbal_shape_flatten(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axis = shape_axis(s, "axis", 1, x->rank);
    mtbal_dim dims[2] = {mtbal_dim_const(1), mtbal_dim_const(1)};
    for (int i = 0; i < x->rank; i++)
        dims[i >= axis] = mtbal_dim_mul(s->model, dims[i >= axis], x->dims[i]);
    return shape_set(s, 0, x->dtype, x->rank < 0 ? -1 : 2, dims);
}

mtbal_status mtbal_shape_squeeze(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axes[SHAPE_MAX_CONTENT];
    mtbal_dim dims[SHAPE_MAX_RANK];
    bool all;
    mtbal_status status;
    int rank = 0;
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    int n = shape_axes(s, 1, x->rank, axes, &all, &status);
    MTBAL_TRY(status);
    for (int i = 0; i < x->rank && (n >= 0 || all); i++) {
        bool gone = all && x->dims[i].size == 1;
        if (all && x->dims[i].size < 0)
            return shape_set(s, 0, x->dtype, -1, NULL);
        for (int k = 0; k < n; k++)
            gone = gone || axes[k] == i;
        if (gone && x->dims[i].size > 1)
            return shape_error(s, "axis %d of %s is %lld, not 1", i, shape_in(s, 0)->name,
                               (long long)x->dims[i].size);
        if (!gone)
            dims[rank++] = x->dims[i];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, n < 0 ? -1 : rank, dims));
    return pass_content(s);
}

mtbal_status mtbal_shape_unsqueeze(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axes[SHAPE_MAX_CONTENT];
    mtbal_dim dims[SHAPE_MAX_RANK];
    const int64_t *given;
    int n = mtbal_attr_ints(s->node, "axes", &given), from = 0;
    if (n > SHAPE_MAX_CONTENT)
        n = -1;
    if (n >= 0)
        memcpy(axes, given, (size_t)n * sizeof *axes);
    else
        n = shape_ints(s, 1, axes);
    if (n < 0 || x->rank < 0 || x->rank + n > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank + n; i++) {
        bool added = false;
        for (int k = 0; k < n; k++)
            added = added || (axes[k] < 0 ? axes[k] + x->rank + n : axes[k]) == i;
        if (!added && from == x->rank)
            return shape_error(s, "axes are repeated or out of range");
        dims[i] = added ? mtbal_dim_const(1) : x->dims[from++];
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank + n, dims));
    return pass_content(s);
}

mtbal_status mtbal_shape_transpose(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const int64_t *perm;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = mtbal_attr_ints(s->node, "perm", &perm);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (n >= 0 && n != x->rank)
        return shape_error(s, "perm has %d entries, the operand rank %d", n, x->rank);
    for (int i = 0; i < x->rank; i++) {
        int64_t from = n < 0 ? x->rank - 1 - i : perm[i];
        if (from < 0 || from >= x->rank)
            return shape_error(s, "perm entry %lld of a tensor of rank %d", (long long)from,
                               x->rank);
        dims[i] = x->dims[from];
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_expand(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_CONTENT];
    int rank, n = shape_content(s, 1, &want);
    if (n < 0 || n > SHAPE_MAX_RANK || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    MTBAL_TRY(shape_broadcast(s, x->rank, x->dims, n, want, &rank, dims));
    return shape_set(s, 0, x->dtype, rank, dims);
}

mtbal_status mtbal_shape_constant_of_shape(mtbal_infer *s)
{
    const mtbal_attr *value = mtbal_attr_find(s->node, "value");
    const mtbal_tensor *t = value && value->kind == MTBAL_ATTR_TENSOR ? value->t : NULL;
    const mtbal_dim *want;
    int n = shape_content(s, 0, &want);
    MTBAL_TRY(shape_set(s, 0, t ? t->dtype : MTBAL_FLOAT, n > SHAPE_MAX_RANK ? -1 : n, want));
    if (t && n == 1 && t->dtype == MTBAL_INT64 && t->data && want[0].size >= 0 &&
        want[0].size <= SHAPE_MAX_CONTENT) {
        mtbal_dim content[SHAPE_MAX_CONTENT];
        int64_t x = mtbal_tensor_i64(t, 0);
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)x);
        for (int64_t i = 0; i < want[0].size; i++)
            content[i] =
                x < 0 ? (mtbal_dim){-1, mtbal_intern(s->model->arena, text)} : mtbal_dim_const(x);
        return shape_set_content(s, (int)want[0].size, content);
    }
    return MTBAL_OK;
}

mtbal_status mtbal_shape_tile(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim *repeats;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = shape_content(s, 1, &repeats);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank; i++)
        dims[i] = n == x->rank ? mtbal_dim_mul(s->model, x->dims[i], repeats[i]) : shape_unknown();
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

static mtbal_status concat_content(mtbal_infer *s)
{
    mtbal_dim content[SHAPE_MAX_CONTENT];
    int count = 0;
    for (int i = 0; i < s->node->nin; i++) {
        const mtbal_dim *part;
        int n = shape_content(s, i, &part);
        if (n < 0 || count + n > SHAPE_MAX_CONTENT)
            return MTBAL_OK;
        memcpy(content + count, part, (size_t)n * sizeof *part);
        count += n;
    }
    return shape_set_content(s, count, content);
}

mtbal_status mtbal_shape_concat(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis = shape_axis(s, "axis", 1, x->rank);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK || axis < 0 || axis >= x->rank)
        return shape_set(s, 0, x->dtype, -1, NULL);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    for (int i = 1; i < s->node->nin; i++) {
        const mtbal_type *t = shape_type(s, i);
        for (int d = 0; d < x->rank; d++) {
            mtbal_dim other = t->rank == x->rank ? t->dims[d] : shape_unknown();
            if (d == axis)
                dims[d] = mtbal_dim_add(s->model, dims[d], other);
            else if (dims[d].size >= 0 && other.size >= 0 && dims[d].size != other.size)
                return shape_error(s, "axis %d is %lld and %lld", d, (long long)dims[d].size,
                                   (long long)other.size);
            else if (dims[d].size < 0 && other.size >= 0)
                dims[d] = other;
        }
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    return concat_content(s);
}

mtbal_status mtbal_shape_split(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis = shape_axis(s, "axis", 0, x->rank), sizes[SHAPE_MAX_CONTENT];
    const int64_t *attr;
    int n = mtbal_attr_ints(s->node, "split", &attr);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK || axis < 0 || axis >= x->rank)
        return MTBAL_OK;
    if (n < 0)
        n = shape_ints(s, 1, sizes);
    else
        memcpy(sizes, attr,
               (size_t)(n > SHAPE_MAX_CONTENT ? SHAPE_MAX_CONTENT : n) * sizeof *sizes);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    int parts = s->node->nout;
    int64_t whole = x->dims[axis].size, part = whole < 0 ? -1 : (whole + parts - 1) / parts;
    for (int i = 0; i < parts; i++) {
        if (i < n && i < SHAPE_MAX_CONTENT)
            dims[axis] = mtbal_dim_const(sizes[i]);
        else if (part >= 0 && !shape_in(s, 1))
            dims[axis] = mtbal_dim_const(
                whole - i * part < part ? (whole > i * part ? whole - i * part : 0) : part);
        else
            dims[axis] = shape_in(s, 1)
                             ? shape_unknown()
                             : mtbal_dim_div(s->model, x->dims[axis], mtbal_dim_const(parts));
        MTBAL_TRY(shape_set(s, i, x->dtype, x->rank, dims));
    }
    return MTBAL_OK;
}

/* Where a slice of an axis of `size` starts and ends, and how many elements it has. */
static int64_t slice_length(int64_t size, int64_t start, int64_t end, int64_t step)
{
    if (step == 0)
        return 0;
    start = start < 0 ? start + size : start;
    end = end < 0 ? end + size : end;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    start = start < (step > 0 ? 0 : 0) ? 0 : start > high ? high : start;
    end = end < low ? low : end > high ? high : end;
    int64_t length = step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step;
    return length > 0 ? length : 0;
}

static int slice_operand(mtbal_infer *s, const char *attr, int input, int64_t *values)
{
    const int64_t *given;
    int n = mtbal_attr_ints(s->node, attr, &given);
    if (n < 0)
        return shape_ints(s, input, values);
    n = n > SHAPE_MAX_CONTENT ? SHAPE_MAX_CONTENT : n;
    memcpy(values, given, (size_t)n * sizeof *values);
    return n;
}

/* One sliced axis: exact for numbers; from 0 to a symbolic end; else unknown. */
static mtbal_dim slice_dim(mtbal_infer *s, mtbal_dim size, bool known, int64_t start, int64_t end,
                           int64_t step, const mtbal_dim *end_symbol)
{
    if (known && size.size >= 0)
        return mtbal_dim_const(slice_length(size.size, start, end, step));
    if (known && step == 1 && start >= 0 && end > INT32_MAX)
        return mtbal_dim_sub(s->model, size, mtbal_dim_const(start));
    if (known && step == 1 && start >= 0 && end < 0)
        return mtbal_dim_sub(s->model, size, mtbal_dim_const(start - end));
    if (end_symbol && end_symbol->symbol && end_symbol->symbol == size.symbol && start == 0 &&
        step == 1)
        return size;
    if (end_symbol && end_symbol->symbol && end_symbol->symbol[0] != '-' && size.size >= 0 &&
        start == 0 && step == 1)
        return *end_symbol; /* a prefix of known length: the end lies inside, or the model is wrong
                             */
    return shape_unknown();
}

static mtbal_status slice_content(mtbal_infer *s, int64_t start, int64_t end, int64_t step)
{
    const mtbal_dim *content;
    mtbal_dim result[SHAPE_MAX_CONTENT];
    int n = shape_content(s, 0, &content);
    if (n < 0)
        return MTBAL_OK;
    int64_t count = slice_length(n, start, end, step);
    start = start < 0 ? start + n : start;
    start = start < 0 ? 0 : start > n - (step < 0) ? n - (step < 0) : start;
    for (int64_t i = 0; i < count; i++)
        result[i] = content[start + i * step];
    return shape_set_content(s, (int)count, result);
}

mtbal_status mtbal_shape_slice(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t starts[SHAPE_MAX_CONTENT], ends[SHAPE_MAX_CONTENT], axes[SHAPE_MAX_CONTENT],
        steps[SHAPE_MAX_CONTENT];
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_dim *end_symbols = NULL;
    int ns = slice_operand(s, "starts", 1, starts), ne = slice_operand(s, "ends", 2, ends);
    int na = slice_operand(s, "axes", 3, axes), nt = shape_ints(s, 4, steps);
    int nd = shape_content(s, 2, &end_symbols);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    bool has_axes = shape_in(s, 3) || na >= 0;
    int n = has_axes ? na : ns >= 0 ? ns : ne;
    for (int d = 0; d < x->rank && n < 0; d++)
        dims[d] = shape_unknown();
    for (int i = 0; i < n; i++) {
        int64_t axis = has_axes ? axes[i] + (axes[i] < 0 ? x->rank : 0) : i;
        bool known = i < ns && i < ne && (!shape_in(s, 4) || i < nt);
        int64_t step = i < nt ? steps[i] : 1;
        if (axis < 0 || axis >= x->rank)
            return shape_error(s, "axis %lld of a tensor of rank %d", (long long)axis, x->rank);
        bool start_zero = i < ns && starts[i] == 0;
        dims[axis] = slice_dim(s, x->dims[axis], known,
                               i < ns       ? starts[i]
                               : start_zero ? 0
                                            : -1,
                               i < ne ? ends[i] : 0, shape_in(s, 4) && i >= nt ? 0 : step,
                               i < nd ? &end_symbols[i] : NULL);
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    if (n == 1 && x->rank == 1 && ns == 1 && ne == 1)
        return slice_content(s, starts[0], ends[0], nt == 1 ? steps[0] : 1);
    return MTBAL_OK;
}

mtbal_status mtbal_shape_pad(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t pads[SHAPE_MAX_CONTENT], axes[SHAPE_MAX_CONTENT];
    const mtbal_dim *symbols = NULL;
    mtbal_dim dims[SHAPE_MAX_RANK];
    const int64_t *attr;
    int n = mtbal_attr_ints(s->node, "pads", &attr), na = shape_ints(s, 3, axes), nsym = -1;
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (n >= 0 && n <= SHAPE_MAX_CONTENT)
        memcpy(pads, attr, (size_t)n * sizeof *pads);
    else
        n = shape_ints(s, 1, pads);
    if (n < 0)
        nsym = shape_content(s, 1, &symbols);
    int half = (n >= 0 ? n : nsym) / 2;
    for (int d = 0; d < x->rank; d++)
        dims[d] = n < 0 && nsym < 0 ? shape_unknown() : x->dims[d];
    for (int i = 0; i < half && (!shape_in(s, 3) || na == half); i++) {
        int64_t axis = na == half ? axes[i] + (axes[i] < 0 ? x->rank : 0) : i;
        if (axis < 0 || axis >= x->rank)
            return shape_error(s, "axis %lld of a tensor of rank %d", (long long)axis, x->rank);
        if (n >= 0 && dims[axis].size >= 0) {
            int64_t size = dims[axis].size + pads[i] + pads[half + i];
            dims[axis] = size >= 0 ? mtbal_dim_const(size) : shape_unknown();
        } else if (n >= 0) {
            int64_t by = pads[i] + pads[half + i];
            dims[axis] = by >= 0 ? mtbal_dim_add(s->model, dims[axis], mtbal_dim_const(by))
                                 : mtbal_dim_sub(s->model, dims[axis], mtbal_dim_const(-by));
        } else {
            dims[axis] = mtbal_dim_add(s->model, mtbal_dim_add(s->model, dims[axis], symbols[i]),
                                       symbols[half + i]);
        }
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_range(mtbal_infer *s)
{
    int64_t start, limit, delta;
    mtbal_dim dim = shape_unknown();
    const mtbal_dim *symbol;
    int a = shape_ints(s, 0, &start), b = shape_ints(s, 1, &limit), c = shape_ints(s, 2, &delta);
    if (a == 1 && b == 1 && c == 1 && delta != 0) {
        int64_t n =
            delta > 0 ? (limit - start + delta - 1) / delta : (start - limit - delta - 1) / -delta;
        dim = mtbal_dim_const(n > 0 ? n : 0);
    } else if (a == 1 && start == 0 && c == 1 && delta == 1 && shape_content(s, 1, &symbol) == 1) {
        dim = symbol[0];
    }
    return shape_set(s, 0, shape_type(s, 0)->dtype, 1, &dim);
}

/* DepthToSpace and SpaceToDepth, (N,C,H,W). */
mtbal_status mtbal_shape_depth_to_space(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t block = mtbal_attr_i(s->node, "blocksize", 1);
    mtbal_dim b = mtbal_dim_const(block), bb = mtbal_dim_const(block * block);
    bool up = mtbal_node_is(s->node, "DepthToSpace");
    if (x->rank != 4 || block < 1)
        return shape_set(s, 0, x->dtype, -1, NULL);
    mtbal_dim dims[4] = {x->dims[0]};
    dims[1] =
        up ? mtbal_dim_div(s->model, x->dims[1], bb) : mtbal_dim_mul(s->model, x->dims[1], bb);
    for (int i = 2; i < 4; i++)
        dims[i] =
            up ? mtbal_dim_mul(s->model, x->dims[i], b) : mtbal_dim_div(s->model, x->dims[i], b);
    return shape_set(s, 0, x->dtype, 4, dims);
}
