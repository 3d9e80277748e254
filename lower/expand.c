/* lower/expand.c: operators in terms of others, where the operator table says so, and what such
 * rules share. */
#include "lower/ops/expand.h"

#include <string.h>

/* Rules compute with sizes: all operands must have theirs. */
static bool operands_known(lowering *l, const mtbal_node *node)
{
    for (int i = 0; i < node->nin; i++) {
        const mtbal_value *v = node->in[i];
        if (v && (!mtbal_shape_known(&v->type) || v->type.rank < 0 || lower_place(l, v)->why))
            return false;
    }
    return true;
}

mtbal_status lower_expand_node(lowering *l, mtbal_node *node, lower_walk *walk)
{
    expand_fn *rule = lower_expansion(node);
    mtbal_builder b;
    expansion e = {.l = l, .b = &b, .node = node};
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && !lower_place(l, node->in[i]))
            return mtbal_no_memory(l->diag);
    if (!rule || !operands_known(l, node) || node->nout > 16)
        return MTBAL_OK;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    b.prefix = mtbal_arena_printf(l->arena, "%.100s/", lower_label(node));
    l->opset = lower_opset(l, node);
    MTBAL_TRY(rule(&e));
    MTBAL_TRY(b.status);
    if (!e.out[0] && !e.out[1])
        return MTBAL_OK;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, node->nout, e.out);
}

/* ------------------------------------------------------------------ for rules */

mtbal_value *expand_in(const expansion *e, int i)
{
    return op_given(e->node, i) ? e->node->in[i] : NULL;
}

mtbal_value *expand_scalar(mtbal_builder *b, const mtbal_value *x, double number)
{
    return x ? mtbal_const_scalar(b, x->type.dtype, number) : NULL;
}

int64_t expand_dim(const mtbal_value *x, int axis)
{
    axis += axis < 0 && x ? x->type.rank : 0;
    return x && axis >= 0 && axis < x->type.rank ? x->type.dims[axis].size : 1;
}

mtbal_value *expand_reshape(mtbal_builder *b, mtbal_value *x, int rank, const int64_t *dims)
{
    return x ? mtbal_emit_attrs(b, "Reshape", 2,
                                (mtbal_value *[]){x, mtbal_const_i64s(b, rank, dims)},
                                "allowzero=i", (int64_t)1)
             : NULL;
}

mtbal_value *expand_slice(mtbal_builder *b, mtbal_value *x, int64_t axis, int64_t from, int64_t to)
{
    return mtbal_emit(b, "Slice", x, mtbal_const_i64s(b, 1, &from), mtbal_const_i64s(b, 1, &to),
                      mtbal_const_i64s(b, 1, &axis));
}

mtbal_value *expand_concat(mtbal_builder *b, int n, mtbal_value *const *x, int64_t axis)
{
    return mtbal_emit_attrs(b, "Concat", n, x, "axis=i", axis);
}

mtbal_value *expand_reduce(mtbal_builder *b, const char *op, mtbal_value *x, int64_t axis)
{
    return x ? mtbal_emit_reduce(b, op, x, 1, &axis, true) : NULL;
}

mtbal_value *expand_broadcast(mtbal_builder *b, mtbal_value *x, int rank, const int64_t *dims)
{
    return mtbal_emit(b, "Expand", x, mtbal_const_i64s(b, rank, dims));
}

int expand_ints(const expansion *e, int i, int64_t *values, int limit)
{
    const mtbal_tensor *t = op_given(e->node, i) ? lower_constant(e->l, e->node->in[i]) : NULL;
    if (!t || t->count > limit)
        return -1;
    for (int64_t k = 0; k < t->count; k++)
        values[k] = mtbal_tensor_i64(t, k);
    return (int)t->count;
}
