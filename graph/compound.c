/* graph/compound.c: operators that are written out in simpler ones: so they are differentiated
 * (passes/gradients) and, where the runtime has no kernel, executed (lower). One function an
 * operator; sizes may be known or not. */
#include "graph/compound.h"
#include "graph/internal.h"

#include <string.h>

enum { MAX_RANK = 32 };

mtbal_value *compound_scalar(mtbal_builder *b, const mtbal_value *x, double number)
{
    return x ? mtbal_const_scalar(b, x->type.dtype, number) : NULL;
}

mtbal_value *compound_size(mtbal_builder *b, mtbal_value *x, int axis)
{
    const int64_t at = axis;
    if (x && x->type.rank > axis && x->type.dims[axis].size >= 0)
        return mtbal_const_i64s(b, 1, &x->type.dims[axis].size);
    return mtbal_emit(b, "Gather", mtbal_emit(b, "Shape", x), mtbal_const_i64s(b, 1, &at));
}

mtbal_value *compound_reshape(mtbal_builder *b, mtbal_value *x, int n, const int64_t *dims)
{
    return mtbal_emit_reshape(b, x, mtbal_const_i64s(b, n, dims));
}

mtbal_value *compound_concat(mtbal_builder *b, int n, mtbal_value *const *x, int64_t axis)
{
    return mtbal_emit_attrs(b, "Concat", n, x, "axis=i", axis);
}

mtbal_value *compound_slice(mtbal_builder *b, mtbal_value *x, int64_t axis, int64_t from,
                            int64_t to)
{
    return mtbal_emit(b, "Slice", x, mtbal_const_i64s(b, 1, &from), mtbal_const_i64s(b, 1, &to),
                      mtbal_const_i64s(b, 1, &axis));
}

bool compound_sane(const int64_t *values, int n, int64_t least)
{
    for (int i = 0; i < n; i++)
        if (values[i] < least || values[i] > 1 << 24)
            return false;
    return true;
}

int compound_ints(const mtbal_value *x, int64_t *values, int limit)
{
    const mtbal_tensor *t = x ? x->tensor : NULL;
    if (!t || !t->data || t->count > limit)
        return -1;
    for (int64_t i = 0; i < t->count; i++)
        values[i] = mtbal_tensor_i64(t, i);
    return (int)t->count;
}

/* ------------------------------------------------------------------ normalisations */

/* The computing type of normalisations: stash_type, float by default. */
static mtbal_value *stashed(const compound *c)
{
    mtbal_dtype asked = (mtbal_dtype)mtbal_attr_i(c->node, "stash_type", MTBAL_FLOAT);
    return mtbal_emit_cast(c->b, c->x[0],
                           c->x[0]->type.dtype == MTBAL_DOUBLE ? MTBAL_DOUBLE : asked);
}

/* (x - mean) / (sqrt(E[x^2] - mean^2) + 1e-9) */
BODY(mean_variance_normalization)
{
    static const int64_t usual[] = {0, 2, 3};
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0];
    const int64_t *axes;
    int n = mtbal_attr_ints(c->node, "axes", &axes);
    if (n < 0) {
        n = 3;
        axes = usual;
    }
    mtbal_value *mean = mtbal_emit_reduce(b, "ReduceMean", x, n, axes, true);
    mtbal_value *squares = mtbal_emit_reduce(b, "ReduceMean", MUL(x, x), n, axes, true);
    mtbal_value *sd = UNARY("Sqrt", SUB(squares, MUL(mean, mean)));
    c->y[0] = DIV(SUB(x, mean), ADD(sd, LIKE(x, 1e-9)));
    return NULL;
}

/* x / sqrt(mean(x^2) + epsilon) * scale, over the axes from `axis` on */
BODY(rms_normalization)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0], *scale = c->x[1];
    int rank = x->type.rank, n = 0;
    int64_t axis = mtbal_attr_i(c->node, "axis", -1), axes[MAX_RANK];
    if (rank < 0 || rank > MAX_RANK)
        return "an operand of unknown rank";
    for (int64_t d = axis < 0 ? axis + rank : axis; d >= 0 && d < rank; d++)
        axes[n++] = d;
    mtbal_value *u = stashed(c);
    mtbal_value *squares = mtbal_emit_reduce(b, "ReduceMean", MUL(u, u), n, axes, true);
    mtbal_value *epsilon = LIKE(u, mtbal_attr_f(c->node, "epsilon", 1e-5));
    mtbal_value *normal = DIV(u, UNARY("Sqrt", ADD(squares, epsilon)));
    c->y[0] = MUL(mtbal_emit_cast(b, normal, scale->type.dtype), scale);
    return NULL;
}

/* Groups of channels are normalised together; scale and bias are per channel since opset 21, per
 * group before. */
BODY(group_normalization)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0], *scale = c->x[1], *bias = c->x[2];
    int64_t groups = mtbal_attr_i(c->node, "num_groups", 1), last = -1;
    const int64_t grouped[3] = {0, groups, -1}, column[3] = {1, -1, 1};
    int64_t per_scale = scale->type.rank == 1 ? scale->type.dims[0].size : -1;
    if (groups < 1)
        return "num_groups below 1";
    mtbal_value *u = compound_reshape(b, stashed(c), 3, grouped);
    mtbal_value *centred = SUB(u, mtbal_emit_reduce(b, "ReduceMean", u, 1, &last, true));
    mtbal_value *var = mtbal_emit_reduce(b, "ReduceMean", MUL(centred, centred), 1, &last, true);
    mtbal_value *epsilon = LIKE(u, mtbal_attr_f(c->node, "epsilon", 1e-5));
    mtbal_value *normal =
        mtbal_emit_cast(b, DIV(centred, UNARY("Sqrt", ADD(var, epsilon))), x->type.dtype);
    if (mtbal_builder_opset(b) >= 21 || (per_scale >= 0 && per_scale != groups)) {
        mtbal_value *parts[3] = {compound_size(b, x, 0), compound_size(b, x, 1),
                                 mtbal_const_i64s(b, 1, &last)};
        normal = mtbal_emit_reshape(b, normal, compound_concat(b, 3, parts, 0));
    }
    mtbal_value *y = ADD(MUL(normal, compound_reshape(b, scale, 3, column)),
                         compound_reshape(b, bias, 3, column));
    c->y[0] = mtbal_emit_reshape_like(b, y, x);
    return NULL;
}

/* x / (bias + alpha/size * the sum of x^2 over size channels around)^beta: the mean over a window
 * of channels, (N, C, ..) seen as a picture (N, 1, C, rest). */
BODY(lrn)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0];
    const int64_t size = mtbal_attr_i(c->node, "size", 1), one = 1, minus = -1;
    const int64_t kernel[2] = {size, 1}, pads[4] = {(size - 1) / 2, 0, size / 2, 0};
    mtbal_value *parts[4] = {compound_size(b, x, 0), mtbal_const_i64s(b, 1, &one),
                             compound_size(b, x, 1), mtbal_const_i64s(b, 1, &minus)};
    mtbal_value *squares = mtbal_emit_reshape(b, MUL(x, x), compound_concat(b, 4, parts, 0));
    mtbal_value *mean =
        mtbal_emit_attrs(b, "AveragePool", 1, &squares, "kernel_shape=I pads=I count_include_pad=i",
                         2, kernel, 4, pads, one);
    mtbal_value *s = ADD(LIKE(x, mtbal_attr_f(c->node, "bias", 1)),
                         MUL(LIKE(x, mtbal_attr_f(c->node, "alpha", 1e-4)), mean));
    mtbal_value *power = OP2("Pow", s, LIKE(x, -mtbal_attr_f(c->node, "beta", 0.75)));
    c->y[0] = MUL(x, mtbal_emit_reshape_like(b, power, x));
    return NULL;
}

/* ------------------------------------------------------------------ pools */

static mtbal_value *power(mtbal_builder *b, mtbal_value *x, int64_t p)
{
    return p == 1   ? UNARY("Abs", x)
           : p == 2 ? MUL(x, x)
                    : OP2("Pow", UNARY("Abs", x), LIKE(x, (double)p));
}

/* s^(1/p), s >= 0; its slope at 0 is taken as 0. */
static mtbal_value *root(mtbal_builder *b, mtbal_value *s, int64_t p)
{
    mtbal_value *none = OP2("Equal", s, LIKE(s, 0)), *safe = WHERE(none, LIKE(s, 1), s);
    if (p == 1)
        return s;
    return WHERE(none, LIKE(s, 0),
                 p == 2 ? UNARY("Sqrt", safe) : OP2("Pow", safe, LIKE(s, 1 / (double)p)));
}

BODY(lp_pool)
{
    mtbal_builder *b = c->b;
    int64_t p = mtbal_attr_i(c->node, "p", 2);
    const int64_t *kernel;
    int n = mtbal_attr_ints(c->node, "kernel_shape", &kernel);
    double area = 1;
    if (p < 1 || mtbal_attr_i(c->node, "ceil_mode", 0))
        return "ceil_mode, or a p below 1";
    for (int i = 0; i < n; i++)
        area *= (double)kernel[i];
    mtbal_value *in = power(b, c->x[0], p), *mean = NULL;
    mtbal_node *pool = mtbal_emit_node(b, "", "AveragePool", 1, &in, 1, &mean);
    if (!pool)
        return NULL;
    static const char *const lists[] = {"kernel_shape", "strides", "pads", "dilations"};
    for (int i = 0; i < 4; i++) {
        const int64_t *values;
        int count = mtbal_attr_ints(c->node, lists[i], &values);
        char format[32];
        snprintf(format, sizeof format, "%s=I", lists[i]);
        if (count >= 0 && mtbal_set_attrs(pool, format, count, values) != MTBAL_OK)
            b->status = MTBAL_NOMEM;
    }
    if (mtbal_set_attrs(pool, "auto_pad=s count_include_pad=i",
                        mtbal_attr_s(c->node, "auto_pad", "NOTSET"), (int64_t)1) != MTBAL_OK)
        b->status = MTBAL_NOMEM;
    mtbal_emit_done(b, pool);
    c->y[0] = root(b, MUL(mean, LIKE(mean, area)), p);
    return NULL;
}

BODY(global_lp_pool)
{
    mtbal_builder *b = c->b;
    int64_t p = mtbal_attr_i(c->node, "p", 2), axes[MAX_RANK];
    int n = c->x[0]->type.rank - 2;
    if (n < 1 || n > MAX_RANK || p < 1)
        return "an operand of unknown rank, or a p below 1";
    for (int i = 0; i < n; i++)
        axes[i] = i + 2;
    c->y[0] = root(b, mtbal_emit_reduce(b, "ReduceSum", power(b, c->x[0], p), n, axes, true), p);
    return NULL;
}

/* x written at flat positions of zeros (N, C, ..). */
BODY(max_unpool)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0];
    const int64_t *kernel, *strides, *pads, flat = -1;
    int n = mtbal_attr_ints(c->node, "kernel_shape", &kernel),
        nstrides = mtbal_attr_ints(c->node, "strides", &strides),
        npads = mtbal_attr_ints(c->node, "pads", &pads);
    mtbal_value *parts[MAX_RANK];
    if (c->x[2] || n < 1 || n + 2 > MAX_RANK || x->type.rank != n + 2)
        return "an output_shape, or an operand of unknown rank";
    if (!compound_sane(kernel, n, 1) || !compound_sane(strides, nstrides, 1) ||
        !compound_sane(pads, npads, 0))
        return "kernel_shape, strides or pads out of range";
    parts[0] = compound_size(b, x, 0);
    parts[1] = compound_size(b, x, 1);
    for (int i = 0; i < n; i++) {
        int64_t stride = nstrides > i ? strides[i] : 1;
        int64_t rest = kernel[i] - stride - (npads > i + n ? pads[i] + pads[i + n] : 0);
        parts[i + 2] = ADD(MUL(compound_size(b, x, i + 2), mtbal_const_i64s(b, 1, &stride)),
                           mtbal_const_i64s(b, 1, &rest));
    }
    mtbal_value *shape = compound_concat(b, n + 2, parts, 0), *zeros;
    zeros = mtbal_emit(b, "Expand", LIKE(x, 0), UNARY("ReduceProd", shape));
    mtbal_value *y = mtbal_emit(b, "ScatterElements", zeros, compound_reshape(b, c->x[1], 1, &flat),
                                compound_reshape(b, x, 1, &flat));
    c->y[0] = mtbal_emit_reshape(b, y, shape);
    return NULL;
}

/* ------------------------------------------------------------------ others */

BODY(swi_glu)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0], *a = LIKE(x, mtbal_attr_f(c->node, "alpha", 1));
    c->y[0] = MUL(MUL(x, UNARY("Sigmoid", MUL(x, a))), c->x[1]);
    return NULL;
}

/* Where the samples along an axis stand in [-1, 1], in a tensor of k axes: their centres, or from
 * corner to corner. */
static mtbal_value *grid_positions(compound *c, mtbal_value *size, int axis, int k)
{
    mtbal_builder *b = c->b;
    mtbal_dtype dtype = c->x[0]->type.dtype == MTBAL_DOUBLE ? MTBAL_DOUBLE : MTBAL_FLOAT;
    int64_t first = axis, zero = 0, along[3] = {1, 1, 1};
    bool align = mtbal_attr_i(c->node, "align_corners", 0);
    along[axis] = -1;
    mtbal_value *n = compound_slice(b, size, 0, first, first + 1);
    mtbal_value *count = mtbal_emit(b, "Squeeze", n, mtbal_const_i64s(b, 1, &zero));
    mtbal_value *i = mtbal_emit_cast(
        b, mtbal_emit(b, "Range", mtbal_const_i64(b, 0), count, mtbal_const_i64(b, 1)), dtype);
    mtbal_value *steps =
        align ? OP2("Max", SUB(n, mtbal_const_i64(b, 1)), mtbal_const_i64(b, 1)) : n;
    mtbal_value *twice = align ? ADD(i, i) : ADD(ADD(i, i), LIKE(i, 1));
    mtbal_value *at = SUB(DIV(twice, mtbal_emit_cast(b, steps, dtype)), LIKE(i, 1));
    return mtbal_emit(b, "Expand", compound_reshape(b, at, k, along), size);
}

/* The homogeneous positions (points, k+1), x first, times the transpose of theta (N, k, k+1). */
BODY(affine_grid)
{
    mtbal_builder *b = c->b;
    mtbal_value *theta = c->x[0], *parts[4];
    int64_t k = theta->type.rank == 3 ? theta->type.dims[1].size : -1;
    const int64_t end = 8, last = k, rows[2] = {-1, k + 1};
    if (k != 2 && k != 3)
        return "a theta of unknown shape";
    mtbal_value *size = compound_slice(b, c->x[1], 0, 2, end);
    for (int d = 0; d < k; d++)
        parts[k - 1 - d] = grid_positions(c, size, d, (int)k);
    parts[k] = mtbal_emit_fill_like(b, parts[0], 1);
    for (int d = 0; d <= k; d++)
        parts[d] = mtbal_emit(b, "Unsqueeze", parts[d], mtbal_const_i64s(b, 1, &last));
    mtbal_value *positions =
        compound_reshape(b, compound_concat(b, (int)k + 1, parts, last), 2, rows);
    mtbal_value *grid = mtbal_emit(b, "MatMul", mtbal_emit_cast(b, positions, theta->type.dtype),
                                   mtbal_emit_transpose(b, theta, 3, (int64_t[]){0, 2, 1}));
    mtbal_value *shape[3] = {compound_slice(b, c->x[1], 0, 0, 1), size, mtbal_const_i64s(b, 1, &k)};
    c->y[0] = mtbal_emit_reshape(b, grid, compound_concat(b, 3, shape, 0));
    return NULL;
}

/* Updates (B, .., L, ..) written into the cache (B, .., S, ..) from a place of each sequence on. */
BODY(tensor_scatter)
{
    mtbal_builder *b = c->b;
    mtbal_value *cache = c->x[0], *update = c->x[1], *from = c->x[2];
    int64_t axis = mtbal_attr_i(c->node, "axis", -2), zero = 0, first[MAX_RANK], along[MAX_RANK];
    int rank = cache->type.rank;
    if (rank < 2 || rank > MAX_RANK)
        return "an operand of unknown rank";
    axis += axis < 0 ? rank : 0;
    if (axis < 0 || axis >= rank)
        return "an axis out of the range of its operand";
    for (int d = 0; d < rank; d++) {
        first[d] = d == 0 ? -1 : 1;
        along[d] = d == axis ? -1 : 1;
    }
    mtbal_value *n = mtbal_emit(b, "Squeeze", compound_size(b, update, (int)axis),
                                mtbal_const_i64s(b, 1, &zero));
    mtbal_value *at = compound_reshape(
        b, mtbal_emit(b, "Range", mtbal_const_i64(b, 0), n, mtbal_const_i64(b, 1)), rank, along);
    if (from)
        at = ADD(at, compound_reshape(b, from, rank, first));
    if (!strcmp(mtbal_attr_s(c->node, "mode", "linear"), "circular"))
        at = OP2("Mod", at, compound_size(b, cache, (int)axis));
    mtbal_value *in[3] = {cache, mtbal_emit(b, "Expand", at, mtbal_emit_shape(b, update)), update};
    c->y[0] = mtbal_emit_attrs(b, "ScatterElements", 3, in, "axis=i", axis);
    return NULL;
}

/* Nearest takes the sample to the left; linear samples at i / scale. */
BODY(upsample)
{
    mtbal_builder *b = c->b;
    const mtbal_attr *listed = mtbal_attr_find(c->node, "scales");
    const char *mode = mtbal_attr_s(c->node, "mode", "nearest");
    mtbal_value *scales = c->x[1];
    if (!scales && listed && listed->kind == MTBAL_ATTR_FLOATS) {
        int64_t n = listed->n;
        scales = mtbal_const_tensor(
            b, mtbal_tensor_new(b->graph->model, MTBAL_FLOAT, 1, &n, listed->floats));
    }
    mtbal_value *in[3] = {c->x[0], MTBAL_OMIT, scales};
    c->y[0] = mtbal_emit_attrs(b, "Resize", 3, in,
                               "mode=s coordinate_transformation_mode=s nearest_mode=s",
                               strcmp(mode, "bilinear") ? mode : "linear", "asymmetric", "floor");
    return NULL;
}

/* ------------------------------------------------------------------ the table */

#define BODY_decomposed(id)                                ~, mtbal_body_##id
#define DECLARE_decomposed(id)                             ~, compound_fn mtbal_body_##id;
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(DECLARE_##kernel(id), )
#include "graph/ops.def"
#undef OP

static compound_fn *const bodies[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(BODY_##kernel(id), NULL),
#include "graph/ops.def"
#undef OP
};

const char *mtbal_decompose(mtbal_builder *b, const mtbal_node *node, mtbal_value **y)
{
    compound c = {.b = b, .node = node, .y = y};
    if (node->opcode < 0 || !bodies[node->opcode])
        return "it is not decomposed into other operators";
    if (graph_check_operands(node, false, NULL) != MTBAL_OK)
        return "operands are missing";
    for (int i = 0; i < node->nin && i < 8; i++)
        c.x[i] = node->in[i];
    return bodies[node->opcode](&c);
}
