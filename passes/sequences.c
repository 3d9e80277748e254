/* passes/sequences.c: sequences of known length become tensors. PyTorch's exporters write chunk,
 * split, stack and cat of lists with them. SplitToSequence becomes Split and SequenceConstruct;
 * what reads a SequenceConstruct reads its operands. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

enum { MAX_PARTS = 4096 };
#define RESOLVE(name) void mtbal_resolve_##name(mtbal_builder *b, mtbal_node *node)

/* The node that lists the sequence's elements; NULL when none does. */
static const mtbal_node *listing(const mtbal_value *sequence)
{
    while (sequence && sequence->def && mtbal_node_is(sequence->def, MTBAL_OP_identity))
        sequence = sequence->def->in[0];
    const mtbal_node *def = sequence ? sequence->def : NULL;
    return def && (mtbal_node_is(def, MTBAL_OP_sequence_construct) ||
                   mtbal_node_is(def, MTBAL_OP_sequence_empty))
               ? def
               : NULL;
}

static bool position(const mtbal_value *at, int64_t count, int64_t *index)
{
    if (!at || !at->tensor || !at->tensor->data || at->tensor->count != 1)
        return false;
    *index = mtbal_tensor_i64(at->tensor, 0);
    *index += *index < 0 ? count : 0;
    return *index >= 0 && *index < count;
}

static void becomes(mtbal_node *node, mtbal_value *value, mtbal_builder *b)
{
    if (!value || b->status != MTBAL_OK)
        return;
    mtbal_node *copy = mtbal_node_new(node->graph, node, "", "Identity", 1, &value, 0);
    mtbal_value *out = node->out[0];
    if (!copy || mtbal_node_set_output(copy, 0, out) != MTBAL_OK) {
        b->status = mtbal_no_memory(b->diag);
        return;
    }
    copy->name = out->name;
    node->out[0] = NULL;
    mtbal_node_remove(node);
    b->status = mtbal_infer_node(copy, b->diag);
}

RESOLVE(sequence_at)
{
    const mtbal_node *list = listing(node->in[0]);
    int64_t index;
    if (list && position(node->in[1], list->nin, &index))
        becomes(node, list->in[index], b);
}

RESOLVE(sequence_length)
{
    const mtbal_node *list = listing(node->in[0]);
    if (list)
        becomes(node, mtbal_const_i64(b, list->nin), b);
}

RESOLVE(concat_from_sequence)
{
    const mtbal_node *list = listing(node->in[0]);
    int64_t axis = mtbal_attr_i(node, "axis", 0);
    if (!list || list->nin < 1)
        return;
    mtbal_value **parts =
        mtbal_arena_array(b->graph->model->arena, (size_t)list->nin, sizeof *parts);
    for (int i = 0; parts && i < list->nin; i++)
        parts[i] = mtbal_attr_i(node, "new_axis", 0)
                       ? mtbal_emit(b, "Unsqueeze", list->in[i], mtbal_const_i64s(b, 1, &axis))
                       : list->in[i];
    if (!parts)
        b->status = mtbal_no_memory(b->diag);
    else
        becomes(node, mtbal_emit_attrs(b, "Concat", list->nin, parts, "axis=i", axis), b);
}

/* The sequence with one element more: before `at`, or at the end. */
RESOLVE(sequence_insert)
{
    const mtbal_node *list = listing(node->in[0]);
    int64_t at = list ? list->nin : 0;
    if (!list || list->nin >= MAX_PARTS ||
        (node->nin > 2 && node->in[2] && !position(node->in[2], list->nin + 1, &at)))
        return;
    mtbal_value **in = mtbal_arena_array(b->graph->model->arena, (size_t)list->nin + 1, sizeof *in);
    if (!in) {
        b->status = mtbal_no_memory(b->diag);
        return;
    }
    for (int i = 0; i <= list->nin; i++)
        in[i] = i < at ? list->in[i] : i == at ? node->in[1] : list->in[i - 1];
    b->status = mtbal_node_set_op(node, "", "SequenceConstruct");
    if (b->status == MTBAL_OK)
        b->status = mtbal_node_set_inputs(node, list->nin + 1, in);
}

/* Sizes of the parts along the axis; their count, or -1. */
static int part_sizes(const mtbal_node *node, int64_t size, int64_t *parts)
{
    const mtbal_tensor *t = node->nin > 1 && node->in[1] ? node->in[1]->tensor : NULL;
    bool given = node->nin > 1 && node->in[1];
    if ((given && (!t || !t->data || t->count < 1)) || (given && t->rank > 1))
        return -1;
    if (given && t->rank == 1) {
        for (int64_t i = 0; i < t->count && i < MAX_PARTS; i++)
            parts[i] = mtbal_tensor_i64(t, i);
        return t->count <= MAX_PARTS ? (int)t->count : -1;
    }
    int64_t each = given ? mtbal_tensor_i64(t, 0) : 1;
    if (size < 1 || each < 1 || (size + each - 1) / each > MAX_PARTS)
        return -1;
    int n = (int)((size + each - 1) / each);
    for (int i = 0; i < n; i++)
        parts[i] = i < n - 1 ? each : size - each * (n - 1);
    return n;
}

RESOLVE(split_to_sequence)
{
    mtbal_value *x = node->in[0];
    int64_t axis = mtbal_attr_i(node, "axis", 0), sizes[MAX_PARTS];
    axis += axis < 0 ? x->type.rank : 0;
    if (axis < 0 || axis >= x->type.rank)
        return;
    int n = part_sizes(node, x->type.dims[axis].size, sizes);
    bool squeezes = !(node->nin > 1 && node->in[1]) && !mtbal_attr_i(node, "keepdims", 1);
    if (n < 1)
        return;
    mtbal_value **parts = mtbal_arena_array(b->graph->model->arena, (size_t)n, sizeof *parts);
    if (!parts) {
        b->status = mtbal_no_memory(b->diag);
        return;
    }
    mtbal_value *in[2] = {x, mtbal_const_i64s(b, n, sizes)};
    mtbal_node *split = mtbal_emit_node(b, "", "Split", 2, in, n, parts);
    if (split && mtbal_set_i(split, "axis", axis) != MTBAL_OK)
        b->status = mtbal_no_memory(b->diag);
    mtbal_emit_done(b, split);
    for (int i = 0; squeezes && i < n; i++)
        parts[i] = mtbal_emit(b, "Squeeze", parts[i], mtbal_const_i64s(b, 1, &axis));
    node->attrs = NULL;
    if (b->status == MTBAL_OK)
        b->status = mtbal_node_set_op(node, "", "SequenceConstruct");
    if (b->status == MTBAL_OK)
        b->status = mtbal_node_set_inputs(node, n, parts);
}

mtbal_status mtbal_resolve_sequence(mtbal_node *node, mtbal_diag *diag)
{
    mtbal_resolve_fn *resolve = mtbal_gradient_resolve(node->opcode);
    mtbal_builder b;
    if (!resolve || !node->out[0])
        return MTBAL_OK;
    mtbal_builder_init(&b, node->graph, node, diag);
    b.prefix = mtbal_arena_printf(node->graph->model->arena, "mtbal/%s/",
                                  *node->name ? node->name : node->op);
    if (!b.prefix)
        return mtbal_no_memory(diag);
    resolve(&b, node);
    return b.status;
}
