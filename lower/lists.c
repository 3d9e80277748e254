/* lower/lists.c: sequences and optionals. A plan knows tensors only; but how many elements a
 * sequence has is mostly known when it is lowered, so it is kept here as a list of values, and
 * disappears. */
#include "lower/lowering.h"

#include <string.h>

enum { MOST_PIECES = 100000 }; /* of one tensor: each is a node */

static place *list_of(lowering *l, const mtbal_node *node, int i)
{
    place *p = op_given(node, i) ? lower_place(l, node->in[i]) : NULL;
    return p && p->is_list ? p : NULL;
}

static mtbal_status set_list(lowering *l, const mtbal_node *node, int n, mtbal_value *const *items)
{
    mtbal_value **copy = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *copy);
    place *p = node->out[0] ? lower_place(l, node->out[0]) : NULL;
    if (!copy || (node->out[0] && !p))
        return mtbal_no_memory(l->diag);
    if (n)
        memcpy(copy, items, (size_t)n * sizeof *copy);
    if (p) {
        p->is_list = true;
        p->items = copy;
        p->nitems = n;
    }
    return MTBAL_OK;
}

/* A constant index into a list of n; false when it is not one. */
static bool index_of(lowering *l, const mtbal_node *node, int i, int n, int64_t *index)
{
    const mtbal_tensor *t = op_given(node, i) ? lower_constant(l, node->in[i]) : NULL;
    if (!t || t->count != 1)
        return false;
    *index = mtbal_tensor_i64(t, 0);
    *index += *index < 0 ? n : 0;
    return *index >= 0 && *index <= n;
}

static mtbal_status replace_by_constant(lowering *l, mtbal_node *node, mtbal_dtype dtype,
                                        const void *data)
{
    mtbal_value *v = lower_new_constant(l, node->graph, dtype, 0, NULL, data);
    return v ? lower_replace_node(l, node, 1, &v) : mtbal_no_memory(l->diag);
}

ELABORATE(sequence_construct)
{
    (void)walk;
    *done = true;
    return set_list(l, node, node->nin, node->in);
}

ELABORATE(sequence_empty)
{
    (void)walk;
    *done = true;
    return set_list(l, node, 0, NULL);
}

ELABORATE(sequence_insert)
{
    (void)walk;
    const place *p = list_of(l, node, 0);
    int64_t at = p ? p->nitems : 0;
    if (!p || !op_given(node, 1) || (op_given(node, 2) && !index_of(l, node, 2, p->nitems, &at)))
        return MTBAL_OK;
    mtbal_value **items = mtbal_arena_array(l->arena, (size_t)p->nitems + 1, sizeof *items);
    if (!items)
        return mtbal_no_memory(l->diag);
    for (int i = 0, from = 0; i <= p->nitems; i++)
        items[i] = i == at ? node->in[1] : p->items[from++];
    *done = true;
    return set_list(l, node, p->nitems + 1, items);
}

ELABORATE(sequence_erase)
{
    (void)walk;
    const place *p = list_of(l, node, 0);
    int64_t at = p ? p->nitems - 1 : 0;
    if (!p || !p->nitems || (op_given(node, 1) && !index_of(l, node, 1, p->nitems, &at)) ||
        at == p->nitems)
        return MTBAL_OK;
    mtbal_value **items = mtbal_arena_array(l->arena, (size_t)p->nitems, sizeof *items);
    if (!items)
        return mtbal_no_memory(l->diag);
    for (int i = 0, to = 0; i < p->nitems; i++)
        if (i != at)
            items[to++] = p->items[i];
    *done = true;
    return set_list(l, node, p->nitems - 1, items);
}

static mtbal_status become(lowering *l, mtbal_node *node, mtbal_value *item, lower_walk *walk,
                           bool *done)
{
    *done = true;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, 1, &item);
}

ELABORATE(sequence_at)
{
    const place *p = list_of(l, node, 0);
    int64_t at = 0;
    if (!p || !index_of(l, node, 1, p->nitems, &at) || at >= p->nitems)
        return MTBAL_OK;
    return become(l, node, p->items[at], walk, done);
}

/* Of a plain tensor: the tensor. */
ELABORATE(optional_get_element)
{
    const place *p = list_of(l, node, 0);
    if (p && !p->nitems)
        return MTBAL_OK;
    return become(l, node, p ? p->items[0] : node->in[0], walk, done);
}

ELABORATE(sequence_length)
{
    const place *p = list_of(l, node, 0);
    int64_t n = p ? p->nitems : 0;
    if (!p)
        return MTBAL_OK;
    *done = true;
    *walk = LOWER_RENEWED;
    return replace_by_constant(l, node, MTBAL_INT64, &n);
}

ELABORATE(optional_has_element)
{
    const place *p = list_of(l, node, 0);
    bool has = op_given(node, 0) && (!p || p->nitems > 0 || !p->is_optional);
    *done = true;
    *walk = LOWER_RENEWED;
    return replace_by_constant(l, node, MTBAL_BOOL, &has);
}

ELABORATE(optional)
{
    MTBAL_TRY(elaborate_sequence_construct(l, node, walk, done));
    if (node->out[0])
        lower_place(l, node->out[0])->is_optional = true;
    return MTBAL_OK;
}

mtbal_status lower_same_list(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    return list_of(l, node, 0) ? become(l, node, node->in[0], walk, done) : MTBAL_OK;
}

ELABORATE(concat_from_sequence)
{
    const place *p = list_of(l, node, 0);
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    int64_t axis = mtbal_attr_i(node, "axis", 0);
    bool widen = mtbal_attr_i(node, "new_axis", 0) != 0;
    if (!p || !p->nitems)
        return MTBAL_OK;
    int n = p->nitems;
    mtbal_value *const *items = p->items; /* new values move the table of places */
    mtbal_value **parts = mtbal_arena_array(l->arena, (size_t)n, sizeof *parts), *out;
    mtbal_value *axes = lower_new_constant(l, node->graph, MTBAL_INT64, 1, (int64_t[]){1}, &axis);
    if (!parts || !axes)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < n; i++) {
        parts[i] = items[i];
        if (widen && mtbal_opset_of(l->model, "") < 13)
            parts[i] = mtbal_emit_attrs(&b, "Unsqueeze", 1, &parts[i], "axes=I", 1, &axis);
        else if (widen)
            parts[i] = mtbal_emit(&b, "Unsqueeze", parts[i], axes);
    }
    out = mtbal_emit_attrs(&b, "Concat", n, parts, "axis=i", axis);
    if (!out)
        return b.status;
    *done = true;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, 1, &out);
}

/* How many pieces, and how long each is: `split` may be a scalar (all but the last), a list, or
 * left out (ones). */
static int piece_lengths(lowering *l, const mtbal_node *node, int64_t size, int64_t **list)
{
    const mtbal_tensor *t = op_given(node, 1) ? lower_constant(l, node->in[1]) : NULL;
    int n = 0;
    if (op_given(node, 1) && !t)
        return -1;
    int64_t each = t && t->count ? mtbal_tensor_i64(t, 0) : 1;
    if (each < 1 && !(t && t->rank == 1))
        return -1;
    int64_t count = t && t->rank == 1 ? t->count : (size + each - 1) / each;
    if (count > MOST_PIECES)
        return -1;
    int64_t *lengths = *list = mtbal_arena_array(l->arena, (size_t)count + 1, sizeof *lengths);
    for (; lengths && n < count; n++) {
        int64_t left = size - n * each;
        lengths[n] = t && t->rank == 1 ? mtbal_tensor_i64(t, n) : left < each ? left : each;
    }
    return n;
}

ELABORATE(split_to_sequence)
{
    int64_t *lengths = NULL;
    const mtbal_type *t = &node->in[0]->type;
    int64_t axis = mtbal_attr_i(node, "axis", 0);
    axis += axis < 0 ? t->rank : 0;
    if (!mtbal_shape_known(t) || axis < 0 || axis >= t->rank)
        return MTBAL_OK;
    int n = piece_lengths(l, node, t->dims[axis].size, &lengths);
    mtbal_value **items = mtbal_arena_array(l->arena, n < 0 ? 1 : (size_t)n + 1, sizeof *items);
    if (!items || (n >= 0 && !lengths))
        return mtbal_no_memory(l->diag);
    bool squeeze = !op_given(node, 1) && mtbal_attr_i(node, "keepdims", 1) == 0;
    int64_t start = 0;
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    for (int i = 0; i < n; i++) {
        int64_t one = 1, end = start + lengths[i];
        mtbal_value *from =
            lower_new_constant(l, node->graph, MTBAL_INT64, squeeze ? 0 : 1, &one, &start);
        mtbal_value *to = lower_new_constant(l, node->graph, MTBAL_INT64, 1, &one, &end);
        mtbal_value *along = lower_new_constant(l, node->graph, MTBAL_INT64, 1, &one, &axis);
        if (!from || !to || !along)
            return mtbal_no_memory(l->diag);
        mtbal_value *pair[2] = {node->in[0], from};
        items[i] = squeeze ? mtbal_emit_attrs(&b, "Gather", 2, pair, "axis=i", axis)
                           : mtbal_emit(&b, "Slice", node->in[0], from, to, along);
        start = end;
        if (!items[i])
            return b.status;
    }
    if (n < 0)
        return MTBAL_OK;
    *done = true;
    *walk = LOWER_RENEWED; /* the pieces are walked, then this node again: by then it is a list */
    mtbal_status status = mtbal_node_set_op(node, "", "SequenceConstruct");
    return status == MTBAL_OK ? mtbal_node_set_inputs(node, n, items) : status;
}

/* The body once for each element. Lists give their element, tensors are the same each time. */
ELABORATE(sequence_map)
{
    const mtbal_attr *a = mtbal_attr_find(node, "body");
    const place *first = list_of(l, node, 0);
    mtbal_value *in[64], *out[64];
    if (!a || !a->g || !first || node->nin > 64 || a->g->noutputs > 64)
        return MTBAL_OK;
    int n = first->nitems;
    mtbal_value **items = mtbal_arena_array(l->arena, ((size_t)n + 1) * 64, sizeof *items);
    if (!items)
        return mtbal_no_memory(l->diag);
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < node->nin; i++) {
            const place *p = list_of(l, node, i);
            if (p && p->nitems <= k)
                return MTBAL_OK;
            in[i] = p ? p->items[k] : node->in[i];
        }
        MTBAL_TRY(lower_copy_body(l, a->g, node, node->nin, in, out));
        for (int i = 0; i < a->g->noutputs; i++)
            items[i * n + k] = out[i];
    }
    mtbal_value *results[64];
    for (int i = 0; i < node->nout; i++) {
        mtbal_node *make = mtbal_node_new(node->graph, node, "", "SequenceConstruct", n,
                                          items + (size_t)i * (size_t)n, 1);
        if (!make)
            return mtbal_no_memory(l->diag);
        results[i] = make->out[0];
    }
    *done = true;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, node->nout, results);
}
