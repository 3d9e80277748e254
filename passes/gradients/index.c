/* passes/gradients/index.c: gathers and scatters. */
#include "passes/gradients/rules.h"

#include <string.h>

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)

/* Rows of dY added up at their indices: with the axis in front, a scatter of rows. */
static const char gather_grad[] = "GatherGrad <axis: int = 0> (dY, indices, shape) => (dX) {\n"
                                  "  zero = Constant <value = float {0}> ()\n"
                                  "  nil = CastLike (zero, dY)\n"
                                  "  zeros = Expand (nil, shape)\n"
                                  "  last = Constant <value = int64[1] {-1}> ()\n"
                                  "  at = Unsqueeze (indices, last)\n"
                                  "  dX = ScatterND <reduction = \"add\"> (zeros, at, dY)\n"
                                  "}";

/* Axes [0, n) with `axis` first. */
static mtbal_value *axis_first(mtbal_builder *b, mtbal_value *x, int rank, int64_t axis, int width)
{
    int64_t perm[64];
    int n = 0;
    for (int i = 0; i < width; i++)
        perm[n++] = axis + i;
    for (int i = 0; i < rank; i++)
        if (i < axis || i >= axis + width)
            perm[n++] = i;
    return mtbal_emit_transpose(b, x, rank, perm);
}

RULE(gather)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *index = g->x[1], *dy = g->dy[0];
    int64_t axis = rule_axis(g, 0);
    int rank = x->type.rank, width = index->type.rank;
    if (rank < 0 || width < 0 || axis < 0 || rank + width > 32)
        return rule_unsupported(g, "an operand of unknown rank");
    mtbal_value *shape = mtbal_emit_shape(b, axis ? axis_first(b, x, rank, axis, 1) : x);
    if (axis && mtbal_shape_known(&x->type)) {
        int64_t dims[32] = {x->type.dims[axis].size};
        for (int i = 0, n = 1; i < rank; i++)
            if (i != axis)
                dims[n++] = x->type.dims[i].size;
        shape = mtbal_const_i64s(b, rank, dims);
    }
    mtbal_value *in[3] = {axis ? axis_first(b, dy, rank - 1 + width, axis, width) : dy, index,
                          shape},
                *rows;
    mtbal_node *node = rule_call(g, gather_grad, "GatherGrad", 3, in, 1, &rows);
    if (node && mtbal_set_i(node, "axis", 0) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    mtbal_emit_done(b, node);
    int64_t back[32];
    for (int i = 0; i < rank; i++)
        back[i] = i < axis ? i + 1 : i == axis ? 0 : i;
    if (rows && rows->type.rank < 0)
        rows->type = axis ? rows->type : x->type;
    g->dx[0] = axis ? mtbal_emit_transpose(b, rows, rank, back) : rows;
    return MTBAL_OK;
}

static mtbal_value *scatter(mtbal_gradient *g, const char *op, mtbal_value *data,
                            mtbal_value *index, mtbal_value *updates, bool axis, bool add)
{
    mtbal_value *in[3] = {data, index, updates};
    if (axis && add)
        return mtbal_emit_attrs(g->b, op, 3, in, "axis=i reduction=s", rule_axis(g, 0), "add");
    if (axis)
        return mtbal_emit_attrs(g->b, op, 3, in, "axis=i", rule_axis(g, 0));
    return add ? mtbal_emit_attrs(g->b, op, 3, in, "reduction=s", "add")
               : mtbal_emit_attrs(g->b, op, 3, in, "");
}

RULE(gather_elements)
{
    g->dx[0] = scatter(g, "ScatterElements", mtbal_emit_fill_like(g->b, g->x[0], 0), g->x[1],
                       g->dy[0], true, true);
    return MTBAL_OK;
}

RULE(gather_nd)
{
    if (mtbal_attr_i(g->node, "batch_dims", 0))
        return rule_by_positions(g);
    g->dx[0] = scatter(g, "ScatterND", mtbal_emit_fill_like(g->b, g->x[0], 0), g->x[1], g->dy[0],
                       false, true);
    return MTBAL_OK;
}

/* (0, 1, 2, ..) in x's shape. */
static mtbal_value *positions(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_reshape(b,
                              mtbal_emit(b, "Range", mtbal_const_i64(b, 0),
                                         mtbal_emit(b, "Size", x), mtbal_const_i64(b, 1)),
                              mtbal_emit_shape(b, x));
}

static mtbal_value *flat(mtbal_builder *b, mtbal_value *x)
{
    const int64_t all = -1;
    return mtbal_emit_reshape(b, x, mtbal_const_i64s(b, 1, &all));
}

/* dy added to zeros of x's shape at these positions. */
static mtbal_value *add_at(mtbal_gradient *g, mtbal_value *at)
{
    mtbal_builder *b = g->b;
    mtbal_value *in[3] = {flat(b, mtbal_emit_fill_like(b, g->x[0], 0)), flat(b, at),
                          flat(b, g->dy[0])};
    mtbal_value *sum =
        mtbal_emit_attrs(b, "ScatterElements", 3, in, "axis=i reduction=s", (int64_t)0, "add");
    return mtbal_emit_reshape(b, sum, mtbal_emit_shape(b, g->x[0]));
}

mtbal_status rule_by_positions(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *in[8] = {positions(b, g->x[0])}, *at;
    if (g->nx > 8)
        return rule_unsupported(g, "more operands than the operator has");
    for (int i = 1; i < g->nx; i++) /* the value that Pad fills with has another type */
        in[i] = g->x[i] && !mtbal_dtype_is_float(g->x[i]->type.dtype) ? g->x[i] : MTBAL_OMIT;
    mtbal_node *node = mtbal_emit_node(b, "", g->node->op, g->nx, in, 1, &at);
    if (node)
        node->attrs = g->node->attrs;
    mtbal_emit_done(b, node);
    g->dx[0] = add_at(g, at);
    return MTBAL_OK;
}

/* The largest or smallest of x and the updates at each place: those that are it share dy evenly,
 * as in PyTorch. */
static mtbal_status scatter_extreme(mtbal_gradient *g, bool elements)
{
    mtbal_builder *b = g->b;
    const char *op = elements ? "ScatterElements" : "ScatterND",
               *gather = elements ? "GatherElements" : "GatherND";
#define AT(v)                                                                             \
    (elements ? mtbal_emit_attrs(b, gather, 2, (mtbal_value *[]){(v), g->x[1]}, "axis=i", \
                                 rule_axis(g, 0))                                         \
              : mtbal_emit(b, gather, (v), g->x[1]))
    mtbal_value *kept = rule_mask(b, BINARY("Equal", g->x[0], g->y[0]), g->x[0]);
    mtbal_value *taken = rule_mask(b, BINARY("Equal", g->x[2], AT(g->y[0])), g->x[0]);
    mtbal_value *share = DIV(g->dy[0], scatter(g, op, kept, g->x[1], taken, elements, true));
    g->dx[0] = MUL(kept, share);
    g->dx[2] = MUL(taken, AT(share));
#undef AT
    return MTBAL_OK;
}

/* y = x with updates written (or added) at the indices. */
static mtbal_status scatter_rule(mtbal_gradient *g, bool elements)
{
    mtbal_builder *b = g->b;
    const char *op = elements ? "ScatterElements" : "ScatterND",
               *how = mtbal_attr_s(g->node, "reduction", "none");
    bool add = !strcmp(how, "add");
    if (!strcmp(how, "max") || !strcmp(how, "min"))
        return scatter_extreme(g, elements);
    if (!add && strcmp(how, "none"))
        return rule_unsupported(g, "a scatter that multiplies");
    if (g->need[0]) {
        mtbal_value *zeros = g->x[2];
        if (!add)
            zeros = mtbal_emit_fill_like(b, g->x[2], 0);
        g->dx[0] = add ? g->dy[0] : scatter(g, op, g->dy[0], g->x[1], zeros, elements, false);
    }
    if (g->need[2]) {
        mtbal_value *in[2] = {g->dy[0], g->x[1]};
        g->dx[2] = elements
                       ? mtbal_emit_attrs(b, "GatherElements", 2, in, "axis=i", rule_axis(g, 0))
                       : mtbal_emit_attrs(b, "GatherND", 2, in, "");
    }
    return MTBAL_OK;
}
RULE(scatter_elements)
{
    return scatter_rule(g, true);
}
RULE(scatter_nd)
{
    return scatter_rule(g, false);
}

RULE(compress)
{
    return rule_by_positions(g);
}

/* TopK: dy goes back to where the values came from. */
RULE(top_k)
{
    mtbal_builder *b = g->b;
    if (!g->dy[0])
        return MTBAL_OK;
    mtbal_value *in[3] = {mtbal_emit_fill_like(b, g->x[0], 0), g->y[1], g->dy[0]};
    g->dx[0] = mtbal_emit_attrs(b, "ScatterElements", 3, in, "axis=i", rule_axis(g, -1));
    return MTBAL_OK;
}
