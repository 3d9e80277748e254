/* passes/gradients/layout.c: operators that move elements. Their gradients move them back. */
#include "passes/gradients/rules.h"

#include <string.h>

enum { MAX_RANK = 32 };
#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)

/* Reshape, Squeeze, Unsqueeze, Flatten: the same elements in x's shape. */
RULE(reshape)
{
    g->dx[0] = mtbal_emit_reshape_like(g->b, g->dy[0], g->x[0]);
    return MTBAL_OK;
}

RULE(transpose)
{
    const int64_t *perm;
    int64_t inverse[MAX_RANK];
    int rank = g->dy[0]->type.rank, n = mtbal_attr_ints(g->node, "perm", &perm);
    if (n < 0) {
        g->dx[0] = mtbal_emit(g->b, "Transpose", g->dy[0]);
        return MTBAL_OK;
    }
    if (n > MAX_RANK || (rank >= 0 && rank != n))
        return rule_unsupported(g, "a permutation of another rank");
    for (int i = 0; i < n; i++)
        inverse[perm[i]] = i;
    g->dx[0] = mtbal_emit_transpose(g->b, g->dy[0], n, inverse);
    return MTBAL_OK;
}

/* The pass sums over the broadcast axes. */
RULE(expand)
{
    g->dx[0] = g->dy[0];
    return MTBAL_OK;
}

/* Each axis of size n repeated r times: seen as (r, n), summed over r. */
RULE(tile)
{
    mtbal_builder *b = g->b;
    const mtbal_value *x = g->x[0];
    int rank = x->type.rank;
    int64_t axes[MAX_RANK];
    if (rank < 0 || rank > MAX_RANK)
        return rule_unsupported(g, "an operand of unknown rank");
    if (rank == 0) {
        g->dx[0] = g->dy[0];
        return MTBAL_OK;
    }
    const int64_t one = 1, column[2] = {-1, 1}, flat = -1;
    mtbal_value *shape = mtbal_emit(b, "Shape", g->x[0]);
    mtbal_value *pair[2] = {mtbal_emit_reshape(b, g->x[1], mtbal_const_i64s(b, 2, column)),
                            mtbal_emit_reshape(b, shape, mtbal_const_i64s(b, 2, column))};
    mtbal_value *both = mtbal_emit_attrs(b, "Concat", 2, pair, "axis=i", one);
    mtbal_value *split =
        mtbal_emit_reshape(b, g->dy[0], mtbal_emit_reshape(b, both, mtbal_const_i64s(b, 1, &flat)));
    for (int i = 0; i < rank; i++)
        axes[i] = 2 * i;
    if (split && split->type.rank < 0) { /* the shape is not known before the run, the rank is */
        mtbal_dim *dims = mtbal_arena_array(b->graph->model->arena, 2 * (size_t)rank, sizeof *dims);
        for (int i = 0; dims && i < 2 * rank; i++)
            dims[i] = (mtbal_dim){-1, NULL};
        split->type.rank = dims ? 2 * rank : -1;
        split->type.dims = dims;
    }
    g->dx[0] = mtbal_emit_reduce(b, "ReduceSum", split, rank, axes, false);
    g->dx[0] = mtbal_emit_reshape_like(b, g->dx[0], g->x[0]);
    return MTBAL_OK;
}

/* Sizes of the parts along the axis as one int64 vector: constants where they are known. */
static mtbal_value *part_sizes(mtbal_gradient *g, int64_t axis)
{
    mtbal_builder *b = g->b;
    mtbal_arena *arena = b->graph->model->arena;
    mtbal_value **parts = mtbal_arena_array(arena, (size_t)g->nx, sizeof *parts);
    int64_t *sizes = mtbal_arena_array(arena, (size_t)g->nx, sizeof *sizes);
    bool known = true;
    if (!parts || !sizes)
        return NULL;
    for (int i = 0; i < g->nx; i++) {
        sizes[i] = g->x[i]->type.rank > axis ? g->x[i]->type.dims[axis].size : -1;
        known = known && sizes[i] >= 0;
    }
    if (known)
        return mtbal_const_i64s(b, g->nx, sizes);
    for (int i = 0; i < g->nx; i++) {
        mtbal_value *shape = mtbal_emit(b, "Shape", g->x[i]);
        parts[i] = mtbal_emit(b, "Gather", shape, mtbal_const_i64s(b, 1, &axis));
    }
    return mtbal_emit_attrs(b, "Concat", g->nx, parts, "axis=i", (int64_t)0);
}

RULE(concat)
{
    mtbal_builder *b = g->b;
    int64_t axis = rule_axis(g, 0);
    if (axis < 0)
        return rule_unsupported(g, "operands of unknown rank");
    if (g->nx == 1) {
        g->dx[0] = g->dy[0];
        return MTBAL_OK;
    }
    mtbal_value *in[2] = {g->dy[0], part_sizes(g, axis)};
    mtbal_value **out = mtbal_arena_array(b->graph->model->arena, (size_t)g->nx, sizeof *out);
    if (!in[1] || !out)
        return b->status != MTBAL_OK ? b->status : mtbal_no_memory(g->diag);
    mtbal_node *node = mtbal_emit_node(b, "", "Split", 2, in, g->nx, out);
    if (node && mtbal_set_i(node, "axis", axis) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(b, node);
    for (int i = 0; i < g->nx; i++)
        g->dx[i] = out[i];
    return MTBAL_OK;
}

RULE(split)
{
    mtbal_builder *b = g->b;
    mtbal_value **parts = mtbal_arena_array(b->graph->model->arena, (size_t)g->ny, sizeof *parts);
    if (!parts)
        return mtbal_no_memory(g->diag);
    for (int i = 0; i < g->ny; i++)
        parts[i] = g->dy[i] ? g->dy[i] : mtbal_emit_fill_like(b, g->y[i], 0);
    g->dx[0] = g->ny == 1 ? parts[0]
                          : mtbal_emit_attrs(b, "Concat", g->ny, parts, "axis=i", rule_axis(g, 0));
    return MTBAL_OK;
}

/* Number k of a Slice's starts, ends or steps, as [1]. A lone one may be a scalar. */
static mtbal_value *bound(mtbal_gradient *g, int operand, int64_t k)
{
    mtbal_builder *b = g->b;
    mtbal_value *all = g->x[operand];
    const int64_t one = 1;
    if (all->type.rank == 0)
        return mtbal_emit_reshape(b, all, mtbal_const_i64s(b, 1, &one));
    return mtbal_emit(b, "Gather", all, mtbal_const_i64s(b, 1, &k));
}

/* Zeros with dy written where the slice was taken: by indices along each sliced axis, which any
 * start, end and step give: the positions are the same slice of a range. */
RULE(slice)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dy = g->dy[0];
    const mtbal_value *axes = g->nx > 3 ? g->x[3] : NULL, *starts = g->nx > 1 ? g->x[1] : NULL;
    int rank = x->type.rank;
    if (g->nx < 3 || !g->x[1] || !g->x[2])
        return rule_unsupported(g, "a Slice without starts or ends");
    int64_t count = axes && axes->tensor               ? axes->tensor->count
                    : starts && starts->tensor         ? starts->tensor->count
                    : starts && starts->type.rank == 1 ? starts->type.dims[0].size
                                                       : -1;
    if (rank < 1 || count < 0 || (axes && !axes->tensor))
        return rule_unsupported(g, "axes that are not known before the run");
    /* the last sliced axis first: each step undoes one axis */
    for (int64_t k = count - 1; k >= 0; k--) {
        int64_t axis = axes ? mtbal_tensor_i64(axes->tensor, k) : k;
        axis += axis < 0 ? rank : 0;
        mtbal_value *size =
            mtbal_emit(b, "Gather", mtbal_emit(b, "Shape", x), mtbal_const_i64s(b, 1, &axis));
        const int64_t zero = 0;
        mtbal_value *scalar = mtbal_emit(b, "Squeeze", size, mtbal_const_i64s(b, 1, &zero));
        mtbal_value *range =
            mtbal_emit(b, "Range", mtbal_const_i64(b, 0), scalar, mtbal_const_i64(b, 1));
        mtbal_value *step = g->nx > 4 && g->x[4] ? bound(g, 4, k) : MTBAL_OMIT;
        mtbal_value *taken = mtbal_emit(b, "Slice", range, bound(g, 1, k), bound(g, 2, k),
                                        mtbal_const_i64s(b, 1, &zero), step);
        /* shape of the result along this axis: dy's shape with x's size in place */
        mtbal_value *before = mtbal_emit(b, "Shape", dy);
        mtbal_value *shape =
            mtbal_emit(b, "ScatterElements", before, mtbal_const_i64s(b, 1, &axis), size);
        if (mtbal_shape_known(&dy->type) && x->type.dims[axis].size >= 0 && rank <= MAX_RANK) {
            int64_t dims[MAX_RANK];
            for (int d = 0; d < rank; d++)
                dims[d] = d == axis ? x->type.dims[axis].size : dy->type.dims[d].size;
            shape = mtbal_const_i64s(b, rank, dims);
        }
        mtbal_value *zeros = mtbal_emit_attrs(
            b, "ConstantOfShape", 1, &shape, "value=t",
            mtbal_tensor_new(b->graph->model, dy->type.dtype, 1, (int64_t[]){1}, NULL));
        int64_t ones[MAX_RANK];
        for (int d = 0; d < rank; d++)
            ones[d] = d == axis ? -1 : 1;
        mtbal_value *index =
            mtbal_emit(b, "Expand", mtbal_emit_reshape(b, taken, mtbal_const_i64s(b, rank, ones)),
                       mtbal_emit_shape(b, dy));
        mtbal_dim *known = mtbal_arena_array(b->graph->model->arena, (size_t)rank, sizeof *known);
        for (int d = 0; known && d < rank; d++)
            known[d] = d == axis               ? x->type.dims[d]
                       : dy->type.rank == rank ? dy->type.dims[d]
                                               : (mtbal_dim){-1, NULL};
        dy = mtbal_emit_attrs(b, "ScatterElements", 3, (mtbal_value *[]){zeros, index, dy},
                              "axis=i", axis);
        if (!dy || !known)
            return dy ? MTBAL_NOMEM : MTBAL_OK;
        dy->type = (mtbal_type){MTBAL_TENSOR, x->type.dtype, rank, known};
    }
    g->dx[0] = dy;
    return MTBAL_OK;
}

RULE(pad)
{
    mtbal_builder *b = g->b;
    const char *mode = mtbal_attr_s(g->node, "mode", "constant");
    if (strcmp(mode, "constant")) /* each border element is a copy of an inner one */
        return rule_by_positions(g);
    /* Pad again, by the negative amounts: what was cut off comes back as zeros. */
    mtbal_value *back = NEG(g->x[1]);
    mtbal_value *axes = g->nx > 3 && g->x[3] ? g->x[3] : MTBAL_OMIT;
    g->dx[0] = mtbal_emit(b, "Pad", g->dy[0], back, rule_scalar(b, g->dy[0], 0), axes);
    return MTBAL_OK;
}

RULE(depth_to_space)
{
    mtbal_builder *b = g->b;
    int64_t block = mtbal_attr_i(g->node, "blocksize", 1);
    bool crd = !strcmp(mtbal_attr_s(g->node, "mode", "DCR"), "CRD");
    if (!crd) {
        g->dx[0] = mtbal_emit_attrs(b, "SpaceToDepth", 1, &g->dy[0], "blocksize=i", block);
        return MTBAL_OK;
    }
    /* y (N, C, H b, W b) seen as (N, C, H, b, W, b), moved to (N, C, b, b, H, W) */
    mtbal_value *in = mtbal_emit(b, "Shape", g->x[0]);
    const int64_t zero = 0, hw[1] = {2}, w[1] = {3}, bb[1] = {block}, minus[1] = {-1},
                  perm[6] = {0, 1, 3, 5, 2, 4};
    mtbal_value *parts[6] = {
        mtbal_emit(b, "Gather", in, mtbal_const_i64s(b, 1, &zero)), mtbal_const_i64s(b, 1, minus),
        mtbal_emit(b, "Gather", in, mtbal_const_i64s(b, 1, hw)),    mtbal_const_i64s(b, 1, bb),
        mtbal_emit(b, "Gather", in, mtbal_const_i64s(b, 1, w)),     mtbal_const_i64s(b, 1, bb)};
    mtbal_value *six =
        mtbal_emit_reshape(b, g->dy[0], mtbal_emit_attrs(b, "Concat", 6, parts, "axis=i", zero));
    g->dx[0] = mtbal_emit_reshape_like(
        b, mtbal_emit_attrs(b, "Transpose", 1, &six, "perm=I", 6, perm), g->x[0]);
    return MTBAL_OK;
}

RULE(space_to_depth)
{
    g->dx[0] = mtbal_emit_attrs(g->b, "DepthToSpace", 1, &g->dy[0], "blocksize=i mode=s",
                                mtbal_attr_i(g->node, "blocksize", 1),
                                mtbal_attr_s(g->node, "mode", "DCR"));
    return MTBAL_OK;
}

RULE(trilu)
{
    mtbal_value *in[2] = {g->dy[0], g->nx > 1 && g->x[1] ? g->x[1] : MTBAL_OMIT};
    g->dx[0] = mtbal_emit_attrs(g->b, "Trilu", 2, in, "upper=i", mtbal_attr_i(g->node, "upper", 1));
    return MTBAL_OK;
}

RULE(reverse_sequence)
{
    mtbal_value *in[2] = {g->dy[0], g->x[1]};
    g->dx[0] = mtbal_emit_attrs(g->b, "ReverseSequence", 2, in, "batch_axis=i time_axis=i",
                                mtbal_attr_i(g->node, "batch_axis", 1),
                                mtbal_attr_i(g->node, "time_axis", 0));
    return MTBAL_OK;
}

/* What was cut off comes back as zeros, and the other way round. */
RULE(center_crop_pad)
{
    mtbal_builder *b = g->b;
    const int64_t *axes;
    int n = mtbal_attr_ints(g->node, "axes", &axes);
    mtbal_value *shape = mtbal_emit_shape(b, g->x[0]);
    if (n >= 0)
        shape = mtbal_emit(b, "Gather", shape, mtbal_const_i64s(b, n, axes));
    mtbal_value *in[2] = {g->dy[0], shape};
    g->dx[0] = n < 0 ? mtbal_emit_n(b, "CenterCropPad", 2, in)
                     : mtbal_emit_attrs(b, "CenterCropPad", 2, in, "axes=I", n, axes);
    return MTBAL_OK;
}
