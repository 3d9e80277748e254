/* lower/lists.c: sequences and optionals. A plan knows tensors only; but how many elements a
 * sequence has is mostly known when it is lowered, so it is kept here as a list of values, and
 * disappears. */
#include "lower/lowering.h"

#include <string.h>

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

/* Each function: *done stays false when the node is left as it is (and will be refused). */
typedef mtbal_status list_fn(lowering *l, mtbal_node *node, lower_walk *walk, bool *done);

static mtbal_status construct(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    (void)walk;
    *done = true;
    return set_list(l, node, node->nin, node->in);
}

static mtbal_status empty(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    (void)walk;
    *done = true;
    return set_list(l, node, 0, NULL);
}

static mtbal_status insert(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
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

static mtbal_status erase(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
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

static mtbal_status element(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    const place *p = list_of(l, node, 0);
    int64_t at = 0;
    bool optional = mtbal_node_is(node, MTBAL_OP_optional_get_element);
    if (optional && !p) { /* of a plain tensor: the tensor */
        *done = true;
        *walk = LOWER_RENEWED;
        return lower_replace_node(l, node, 1, node->in);
    }
    if (!p || (!optional && !index_of(l, node, 1, p->nitems, &at)) || at >= p->nitems)
        return MTBAL_OK;
    *done = true;
    *walk = LOWER_RENEWED;
    mtbal_value *item = p->items[at];
    return lower_replace_node(l, node, 1, &item);
}

static mtbal_status length(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    const place *p = list_of(l, node, 0);
    int64_t n = p ? p->nitems : 0;
    if (!p)
        return MTBAL_OK;
    *done = true;
    *walk = LOWER_RENEWED;
    return replace_by_constant(l, node, MTBAL_INT64, &n);
}

static mtbal_status has_element(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    const place *p = list_of(l, node, 0);
    bool has = op_given(node, 0) && (!p || p->nitems > 0 || !p->is_optional);
    *done = true;
    *walk = LOWER_RENEWED;
    return replace_by_constant(l, node, MTBAL_BOOL, &has);
}

static mtbal_status optional(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    MTBAL_TRY(construct(l, node, walk, done));
    if (node->out[0])
        lower_place(l, node->out[0])->is_optional = true;
    return MTBAL_OK;
}

static mtbal_status same(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    if (!list_of(l, node, 0))
        return MTBAL_OK;
    *done = true;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, 1, node->in);
}

static mtbal_status concat(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    const place *p = list_of(l, node, 0);
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    int64_t axis = mtbal_attr_i(node, "axis", 0);
    bool widen = mtbal_attr_i(node, "new_axis", 0) != 0;
    if (!p || !p->nitems || p->nitems > 256)
        return MTBAL_OK;
    mtbal_value *parts[256], *out;
    for (int i = 0; i < p->nitems; i++) {
        mtbal_value *axes =
            lower_new_constant(l, node->graph, MTBAL_INT64, 1, (int64_t[]){1}, &axis);
        parts[i] = p->items[i];
        if (!axes)
            return mtbal_no_memory(l->diag);
        if (widen && mtbal_opset_of(l->model, "") < 13)
            parts[i] = mtbal_emit_attrs(&b, "Unsqueeze", 1, &p->items[i], "axes=I", 1, &axis);
        else if (widen)
            parts[i] = mtbal_emit(&b, "Unsqueeze", p->items[i], axes);
    }
    out = mtbal_emit_attrs(&b, "Concat", p->nitems, parts, "axis=i", axis);
    if (!out)
        return b.status;
    *done = true;
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, 1, &out);
}

/* How many pieces, and how long each is: `split` may be a scalar (all but the last), a list, or
 * left out (ones). */
static int piece_lengths(lowering *l, const mtbal_node *node, int64_t size, int64_t *lengths,
                         int limit)
{
    const mtbal_tensor *t = op_given(node, 1) ? lower_constant(l, node->in[1]) : NULL;
    int n = 0;
    if (op_given(node, 1) && !t)
        return -1;
    if (t && t->rank == 1) {
        for (; n < t->count && n < limit; n++)
            lengths[n] = mtbal_tensor_i64(t, n);
        return t->count > limit ? -1 : n;
    }
    int64_t each = t ? mtbal_tensor_i64(t, 0) : 1;
    if (each < 1)
        return -1;
    for (int64_t left = size; left > 0; left -= each) {
        if (n == limit)
            return -1;
        lengths[n++] = left < each ? left : each;
    }
    return n;
}

static mtbal_status split(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    int64_t lengths[256];
    mtbal_value *items[256];
    const mtbal_type *t = &node->in[0]->type;
    int64_t axis = mtbal_attr_i(node, "axis", 0);
    axis += axis < 0 ? t->rank : 0;
    if (!mtbal_shape_known(t) || axis < 0 || axis >= t->rank)
        return MTBAL_OK;
    int n = piece_lengths(l, node, t->dims[axis].size, lengths, 256);
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
static mtbal_status map(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
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

mtbal_status lower_lists(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    static const struct {
        const char *op;
        list_fn *lower;
    } table[] = {{"SequenceConstruct", construct},
                 {"SequenceEmpty", empty},
                 {"SequenceInsert", insert},
                 {"SequenceErase", erase},
                 {"SequenceAt", element},
                 {"SequenceLength", length},
                 {"ConcatFromSequence", concat},
                 {"SplitToSequence", split},
                 {"SequenceMap", map},
                 {"Optional", optional},
                 {"OptionalGetElement", element},
                 {"OptionalHasElement", has_element},
                 {"Identity", same}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (mtbal_node_is_named(node, table[i].op))
            return table[i].lower(l, node, walk, done);
    return MTBAL_OK;
}
