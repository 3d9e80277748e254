/* passes/evaluate.c: operators on small tensors of integers and booleans: shape arithmetic,
 * conditions, counts. */
#include "passes/evaluate.h"

#include <string.h>

enum { MAX_RANK = EVALUATE_MAX_RANK, MAX_COUNT = EVALUATE_MAX_COUNT };

typedef mtbal_ints ints;
typedef mtbal_evaluation folding;

static bool is_foldable(mtbal_dtype dtype)
{
    return dtype == MTBAL_INT64 || dtype == MTBAL_INT32 || dtype == MTBAL_BOOL;
}

/* Room for the output: false when it is too large. */
static bool make(folding *f, mtbal_dtype dtype, int rank, const int64_t *dims)
{
    ints *out = &f->out;
    if (rank < 0 || rank > MAX_RANK || !is_foldable(dtype))
        return false;
    *out = (ints){.dtype = dtype, .rank = rank, .count = 1};
    for (int i = 0; i < rank; i++) {
        out->dims[i] = dims[i];
        if (dims[i] < 0 || !mtbal_mul_i64(out->count, dims[i], &out->count) ||
            out->count > MAX_COUNT)
            return false;
    }
    out->x = mtbal_arena_array(f->arena, (size_t)out->count + 1, sizeof *out->x);
    return out->x != NULL;
}

static bool read_tensor(folding *f, mtbal_value *v, ints *to)
{
    mtbal_tensor *t = v->tensor;
    if (t->rank > MAX_RANK || t->count > MAX_COUNT || !is_foldable(t->dtype) ||
        mtbal_tensor_load(v->graph->model, t, NULL) != MTBAL_OK || (t->count && !t->data))
        return false;
    *to = (ints){.dtype = t->dtype, .rank = t->rank, .count = t->count};
    if (t->rank)
        memcpy(to->dims, t->dims, (size_t)t->rank * sizeof *t->dims);
    to->x = mtbal_arena_array(f->arena, (size_t)t->count + 1, sizeof *to->x);
    for (int64_t i = 0; to->x && i < t->count; i++)
        to->x[i] = mtbal_tensor_i64(t, i);
    return to->x != NULL;
}

/* What inference knows of the value. */
static bool read_content(folding *f, const mtbal_value *v, ints *to)
{
    if (!v->content || v->type.rank < 0 || v->type.rank > 1 || !is_foldable(v->type.dtype) ||
        v->ncontent > MAX_COUNT || (v->type.rank == 0 && v->ncontent != 1))
        return false;
    *to = (ints){
        .dtype = v->type.dtype, .rank = v->type.rank, .dims = {v->ncontent}, .count = v->ncontent};
    to->x = mtbal_arena_array(f->arena, (size_t)v->ncontent + 1, sizeof *to->x);
    for (int i = 0; to->x && i < v->ncontent; i++) {
        if (v->content[i].size < 0)
            return false;
        to->x[i] = v->content[i].size;
    }
    return to->x != NULL;
}

static bool read_known(folding *f, mtbal_value *v, ints *to)
{
    bool constant = v->tensor && !v->is_input;
    return constant ? read_tensor(f, v, to) : read_content(f, v, to);
}

/* ------------------------------------------------------------------ elementwise */

/* Wraps around as the runtimes do; false: undefined (division by zero). */
typedef bool binary(int64_t a, int64_t b, int64_t *y);

#define BINARY(name, condition, value)                 \
    static bool name(int64_t a, int64_t b, int64_t *y) \
    {                                                  \
        if (!(condition))                              \
            return false;                              \
        *y = (int64_t)(value);                         \
        return true;                                   \
    }
BINARY(add, true, (uint64_t)a + (uint64_t)b)
BINARY(sub, true, (uint64_t)a - (uint64_t)b)
BINARY(mul, true, (uint64_t)a *(uint64_t)b)
BINARY(divide, b != 0 && !(b == -1 && a == INT64_MIN), a / b)
BINARY(mod, b > 0, a % b < 0 ? a % b + b : a % b) /* the sign of the divisor */
BINARY(least, true, a < b ? a : b)
BINARY(most, true, a > b ? a : b)
BINARY(equal, true, a == b)
BINARY(less, true, a < b)
BINARY(greater, true, a > b)
BINARY(less_or_equal, true, a <= b)
BINARY(greater_or_equal, true, a >= b)
BINARY(both, true, a &&b)
BINARY(either, true, a || b)
BINARY(one_of, true, !a != !b)

static const struct binary_op {
    int op;
    binary *f;
    bool to_bool;
} binaries[] = {
    {MTBAL_OP_add, add, false},   {MTBAL_OP_sub, sub, false},
    {MTBAL_OP_mul, mul, false},   {MTBAL_OP_div, divide, false},
    {MTBAL_OP_mod, mod, false},   {MTBAL_OP_min, least, false},
    {MTBAL_OP_max, most, false},  {MTBAL_OP_equal, equal, true},
    {MTBAL_OP_less, less, true},  {MTBAL_OP_greater, greater, true},
    {MTBAL_OP_and, both, true},   {MTBAL_OP_less_or_equal, less_or_equal, true},
    {MTBAL_OP_or, either, true},  {MTBAL_OP_greater_or_equal, greater_or_equal, true},
    {MTBAL_OP_xor, one_of, true},
};

static bool broadcast_dims(const ints *a, const ints *b, int *rank, int64_t *dims)
{
    *rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 0; i < *rank; i++) {
        int ia = i - (*rank - a->rank), ib = i - (*rank - b->rank);
        int64_t x = ia < 0 ? 1 : a->dims[ia], y = ib < 0 ? 1 : b->dims[ib];
        if (x != y && x != 1 && y != 1)
            return false;
        dims[i] = x == 1 ? y : x;
    }
    return true;
}

/* The element of x that element i of the output reads. */
static int64_t broadcast_at(const ints *out, const ints *x, int64_t i)
{
    int64_t at = 0, stride = 1;
    for (int d = out->rank - 1, k = x->rank - 1; d >= 0; d--, k--) {
        int64_t index = out->dims[d] ? i % out->dims[d] : 0;
        i = out->dims[d] ? i / out->dims[d] : 0;
        if (k >= 0 && x->dims[k] != 1)
            at += index * stride;
        stride *= k >= 0 ? x->dims[k] : 1;
    }
    return x->x[at];
}

static bool fold_binary(folding *f, const struct binary_op *op)
{
    int64_t dims[MAX_RANK];
    int rank;
    if (f->nin != 2 || !f->in[0].x || !f->in[1].x ||
        !broadcast_dims(&f->in[0], &f->in[1], &rank, dims) ||
        !make(f, op->to_bool ? MTBAL_BOOL : f->in[0].dtype, rank, dims))
        return false;
    for (int64_t i = 0; i < f->out.count; i++)
        if (!op->f(broadcast_at(&f->out, &f->in[0], i), broadcast_at(&f->out, &f->in[1], i),
                   &f->out.x[i]))
            return false;
    return true;
}

static bool where(folding *f)
{
    int64_t dims[MAX_RANK];
    int rank;
    ints branch = {0};
    if (!broadcast_dims(&f->in[1], &f->in[2], &branch.rank, branch.dims) ||
        !broadcast_dims(&f->in[0], &branch, &rank, dims) || !make(f, f->in[1].dtype, rank, dims))
        return false;
    for (int64_t i = 0; i < f->out.count; i++)
        f->out.x[i] = broadcast_at(&f->out, &f->in[broadcast_at(&f->out, &f->in[0], i) ? 1 : 2], i);
    return true;
}

static bool unary(folding *f)
{
    const char *op = f->node->op;
    const ints *in = &f->in[0];
    mtbal_dtype dtype = in->dtype;
    if (!strcmp(op, "Cast"))
        dtype = (mtbal_dtype)mtbal_attr_i(f->node, "to", 0);
    if (!make(f, dtype, in->rank, in->dims))
        return false;
    for (int64_t i = 0; i < in->count; i++) {
        int64_t x = in->x[i];
        int64_t narrow = dtype == MTBAL_BOOL ? x != 0 : dtype == MTBAL_INT32 ? (int32_t)x : x;
        bool flips = !strcmp(op, "Neg") || (!strcmp(op, "Abs") && x < 0);
        f->out.x[i] = !strcmp(op, "Not") ? !x : flips ? (int64_t)(0 - (uint64_t)x) : narrow;
    }
    return true;
}

/* ------------------------------------------------------------------ layout */

/* The same elements in the shape that inference found. */
static bool reshape(folding *f)
{
    const mtbal_type *type = &f->node->out[0]->type;
    int64_t dims[MAX_RANK];
    if (!mtbal_shape_known(type) || type->rank > MAX_RANK ||
        mtbal_shape_count(type) != f->in[0].count)
        return false;
    for (int i = 0; i < type->rank; i++)
        dims[i] = type->dims[i].size;
    if (!make(f, f->in[0].dtype, type->rank, dims))
        return false;
    memcpy(f->out.x, f->in[0].x, (size_t)f->in[0].count * sizeof *f->out.x);
    return true;
}

static void strides_of(const ints *x, int64_t *strides)
{
    int64_t stride = 1;
    for (int d = x->rank - 1; d >= 0; d--) {
        strides[d] = stride;
        stride *= x->dims[d];
    }
}

/* out[i0, i1, ..] = x[base + i0 s0 + i1 s1 + ..] */
static void copy_strided(folding *f, const ints *x, int64_t base, const int64_t *strides)
{
    for (int64_t i = 0; i < f->out.count; i++) {
        int64_t at = base, rest = i;
        for (int d = f->out.rank - 1; d >= 0; d--) {
            at += rest % f->out.dims[d] * strides[d];
            rest /= f->out.dims[d];
        }
        f->out.x[i] = x->x[at];
    }
}

static bool transpose(folding *f)
{
    const ints *x = &f->in[0];
    const int64_t *perm;
    int64_t dims[MAX_RANK], strides[MAX_RANK], turned[MAX_RANK];
    int n = mtbal_attr_ints(f->node, "perm", &perm);
    strides_of(x, strides);
    for (int d = 0; d < x->rank; d++) {
        int64_t from = n == x->rank ? perm[d] : x->rank - 1 - d;
        if (from < 0 || from >= x->rank)
            return false;
        dims[d] = x->dims[from];
        turned[d] = strides[from];
    }
    if (!make(f, x->dtype, x->rank, dims))
        return false;
    copy_strided(f, x, 0, turned);
    return true;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* Numpy's rules: negative numbers count from the end, then both ends are clamped. */
static int64_t slice_length(int64_t size, int64_t *start, int64_t end, int64_t step)
{
    if (size == 0)
        return 0;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
    *start = clamp(*start < 0 ? *start + size : *start, step < 0 ? 0 : low, high);
    if (end < 0)
        end = end < -size ? -1 : end + size;
    end = clamp(end, low, size);
    int64_t n = step < 0 ? (*start - end - step - 1) / -step : (end - *start + step - 1) / step;
    return n < 0 ? 0 : n;
}

static bool slice(folding *f)
{
    const ints *x = &f->in[0], *starts = &f->in[1], *ends = &f->in[2];
    const ints *axes = f->nin > 3 ? &f->in[3] : NULL, *steps = f->nin > 4 ? &f->in[4] : NULL;
    int64_t dims[MAX_RANK], strides[MAX_RANK], base = 0;
    if (starts->count != ends->count || (axes && axes->x && axes->count != starts->count) ||
        (steps && steps->x && steps->count != starts->count) || starts->count > x->rank)
        return false;
    strides_of(x, strides);
    memcpy(dims, x->dims, sizeof dims);
    for (int64_t i = 0; i < starts->count; i++) {
        int64_t axis = axes && axes->x ? axes->x[i] : i, start = starts->x[i], end = ends->x[i];
        int64_t step = steps && steps->x ? steps->x[i] : 1;
        axis += axis < 0 ? x->rank : 0;
        if (axis < 0 || axis >= x->rank || step == 0 || step < -MAX_COUNT || step > MAX_COUNT)
            return false;
        dims[axis] = slice_length(x->dims[axis], &start, end, step);
        base += dims[axis] ? start * strides[axis] : 0;
        strides[axis] *= step;
    }
    if (!make(f, x->dtype, x->rank, dims))
        return false;
    copy_strided(f, x, base, strides);
    return true;
}

static bool expand(folding *f)
{
    ints want = {.rank = (int)f->in[1].count};
    int64_t dims[MAX_RANK];
    int rank;
    if (f->in[1].count > MAX_RANK)
        return false;
    memcpy(want.dims, f->in[1].x, (size_t)f->in[1].count * sizeof *want.dims);
    if (!broadcast_dims(&f->in[0], &want, &rank, dims) || !make(f, f->in[0].dtype, rank, dims))
        return false;
    for (int64_t i = 0; i < f->out.count; i++)
        f->out.x[i] = broadcast_at(&f->out, &f->in[0], i);
    return true;
}

/* Elements before, along and behind an axis. */
static int64_t span(const ints *x, int from, int to)
{
    int64_t n = 1;
    for (int d = from; d < to; d++)
        n *= x->dims[d];
    return n;
}

static bool concat(folding *f)
{
    int64_t dims[MAX_RANK], axis = mtbal_attr_i(f->node, "axis", 0), done = 0;
    const ints *first = &f->in[0];
    axis += axis < 0 ? first->rank : 0;
    if (axis < 0 || axis >= first->rank)
        return false;
    memcpy(dims, first->dims, sizeof dims);
    dims[axis] = 0;
    for (int i = 0; i < f->nin; i++) {
        if (f->in[i].rank != first->rank)
            return false;
        dims[axis] += f->in[i].dims[axis];
    }
    if (!make(f, first->dtype, first->rank, dims))
        return false;
    int64_t outer = span(&f->out, 0, (int)axis), block = span(&f->out, (int)axis, f->out.rank);
    for (int i = 0; i < f->nin; i++) {
        int64_t part = span(&f->in[i], (int)axis, f->in[i].rank);
        if (part * outer != f->in[i].count || (part && !f->in[i].x))
            return false;
        for (int64_t o = 0; o < outer && part; o++)
            memcpy(f->out.x + o * block + done, f->in[i].x + o * part,
                   (size_t)part * sizeof *f->out.x);
        done += part;
    }
    return true;
}

static bool gather(folding *f)
{
    const ints *x = &f->in[0], *index = &f->in[1];
    int64_t dims[2 * MAX_RANK], axis = mtbal_attr_i(f->node, "axis", 0);
    int rank = 0;
    axis += axis < 0 ? x->rank : 0;
    if (axis < 0 || axis >= x->rank || x->rank - 1 + index->rank > MAX_RANK)
        return false;
    for (int d = 0; d < axis; d++)
        dims[rank++] = x->dims[d];
    for (int d = 0; d < index->rank; d++)
        dims[rank++] = index->dims[d];
    for (int d = (int)axis + 1; d < x->rank; d++)
        dims[rank++] = x->dims[d];
    if (!make(f, x->dtype, rank, dims))
        return false;
    int64_t outer = span(x, 0, (int)axis), inner = span(x, (int)axis + 1, x->rank),
            size = x->dims[axis];
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < index->count; k++) {
            int64_t i = index->x[k] < 0 ? index->x[k] + size : index->x[k];
            if (i < 0 || i >= size)
                return false;
            memcpy(f->out.x + (o * index->count + k) * inner, x->x + (o * size + i) * inner,
                   (size_t)inner * sizeof *x->x);
        }
    return true;
}

/* ------------------------------------------------------------------ made from sizes */

static bool shape(folding *f)
{
    const mtbal_type *type = &f->node->in[0]->type;
    int64_t dims[1], start = mtbal_attr_i(f->node, "start", 0),
                     end = mtbal_attr_i(f->node, "end", type->rank);
    if (!mtbal_shape_known(type))
        return false;
    start = clamp(start < 0 ? start + type->rank : start, 0, type->rank);
    end = clamp(end < 0 ? end + type->rank : end, start, type->rank);
    dims[0] = end - start;
    if (!make(f, MTBAL_INT64, 1, dims))
        return false;
    for (int64_t i = start; i < end; i++)
        f->out.x[i - start] = type->dims[i].size;
    return true;
}

static bool size(folding *f)
{
    int64_t count = mtbal_shape_count(&f->node->in[0]->type);
    if (count < 0 || !make(f, MTBAL_INT64, 0, NULL))
        return false;
    f->out.x[0] = count;
    return true;
}

static bool constant_of_shape(folding *f)
{
    const mtbal_attr *a = mtbal_attr_find(f->node, "value");
    const mtbal_tensor *t = a && a->kind == MTBAL_ATTR_TENSOR ? a->t : NULL;
    if (!t || !t->data || t->count != 1 || f->in[0].count > MAX_RANK ||
        !make(f, t->dtype, (int)f->in[0].count, f->in[0].x))
        return false;
    for (int64_t i = 0; i < f->out.count; i++)
        f->out.x[i] = mtbal_tensor_i64(t, 0);
    return true;
}

static bool range(folding *f)
{
    int64_t start = f->in[0].x[0], limit = f->in[1].x[0], step = f->in[2].x[0];
    int64_t far = (int64_t)1 << 40, n = 0;
    if (f->in[0].count != 1 || f->in[1].count != 1 || f->in[2].count != 1 || step == 0 ||
        clamp(start, -far, far) != start || clamp(limit, -far, far) != limit ||
        clamp(step, -far, far) != step)
        return false;
    if (step > 0 ? limit > start : limit < start)
        n = (limit - start + step - (step > 0 ? 1 : -1)) / step;
    if (!make(f, f->in[0].dtype, 1, &n))
        return false;
    for (int64_t i = 0; i < n; i++)
        f->out.x[i] = start + i * step;
    return true;
}

/* Over all axes. */
static bool reduce(folding *f)
{
    int op = f->node->opcode;
    binary *with = op == MTBAL_OP_reduce_prod  ? mul
                   : op == MTBAL_OP_reduce_sum ? add
                   : op == MTBAL_OP_reduce_min ? least
                                               : most;
    const int64_t *axes;
    int64_t dims[MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
    int n = mtbal_attr_ints(f->node, "axes", &axes);
    if (f->nin > 1 && f->in[1].x)
        n = (int)f->in[1].count;
    if (f->in[0].count == 0 || (n >= 0 && n != f->in[0].rank) ||
        !make(f, f->in[0].dtype, mtbal_attr_i(f->node, "keepdims", 1) ? f->in[0].rank : 0, dims))
        return false;
    f->out.x[0] = f->in[0].x[0];
    for (int64_t i = 1; i < f->in[0].count; i++)
        with(f->out.x[0], f->in[0].x[i], &f->out.x[0]);
    return true;
}

/* ------------------------------------------------------------------ the walk */

static const struct evaluator {
    int op;
    int least; /* operands that must be known */
    bool (*run)(folding *);
} evaluators[] = {
    {MTBAL_OP_shape, 0, shape},       {MTBAL_OP_size, 0, size},
    {MTBAL_OP_gather, 2, gather},     {MTBAL_OP_concat, 1, concat},
    {MTBAL_OP_unsqueeze, 1, reshape}, {MTBAL_OP_squeeze, 1, reshape},
    {MTBAL_OP_reshape, 1, reshape},   {MTBAL_OP_flatten, 1, reshape},
    {MTBAL_OP_identity, 1, reshape},  {MTBAL_OP_slice, 3, slice},
    {MTBAL_OP_cast, 1, unary},        {MTBAL_OP_neg, 1, unary},
    {MTBAL_OP_abs, 1, unary},         {MTBAL_OP_not, 1, unary},
    {MTBAL_OP_where, 3, where},       {MTBAL_OP_transpose, 1, transpose},
    {MTBAL_OP_expand, 2, expand},     {MTBAL_OP_constant_of_shape, 1, constant_of_shape},
    {MTBAL_OP_range, 3, range},       {MTBAL_OP_reduce_prod, 1, reduce},
    {MTBAL_OP_reduce_sum, 1, reduce}, {MTBAL_OP_reduce_min, 1, reduce},
    {MTBAL_OP_reduce_max, 1, reduce},
};

static bool is_known_op(int op)
{
    for (size_t i = 0; i < sizeof evaluators / sizeof *evaluators; i++)
        if (op == evaluators[i].op)
            return true;
    for (size_t i = 0; i < sizeof binaries / sizeof *binaries; i++)
        if (op == binaries[i].op)
            return true;
    return false;
}

bool mtbal_evaluate(mtbal_evaluation *f)
{
    const mtbal_node *node = f->node;
    int known = 0;
    if (read_content(f, node->out[0], &f->out))
        return true;
    if (node->nin > EVALUATE_MAX_OPERANDS || !is_known_op(node->opcode))
        return false;
    f->nin = node->nin;
    for (size_t i = 0; i < sizeof evaluators / sizeof *evaluators; i++)
        if (node->opcode == evaluators[i].op && evaluators[i].least == 0)
            return node->nin == 1 && node->in[0] && evaluators[i].run(f);
    for (int i = 0; i < node->nin; i++) {
        f->in[i].x = NULL;
        if (node->in[i] && !read_known(f, node->in[i], &f->in[i]))
            return false;
        known += i == known && node->in[i];
    }
    for (size_t i = 0; i < sizeof evaluators / sizeof *evaluators; i++)
        if (node->opcode == evaluators[i].op)
            return known >= evaluators[i].least && evaluators[i].run(f);
    for (size_t i = 0; i < sizeof binaries / sizeof *binaries; i++)
        if (node->opcode == binaries[i].op)
            return fold_binary(f, &binaries[i]);
    return false;
}
