/* lower/select_rules.c: what each op does with operands that a mask selects from and that stand at
 * full size (select.c): which axis of its results is selected, and which operands have to be filled
 * where the mask is false. */
#include "lower/select.h"

#include <math.h>
#include <string.h>

static const mtbal_type *type_of(const selecting *w, int i)
{
    return &w->node->in[i]->type;
}

/* An axis attribute, from 0. */
static int axis_of(const selecting *w, int64_t otherwise, int rank)
{
    int64_t axis = mtbal_attr_i(w->node, "axis", otherwise);
    return (int)(axis < 0 ? axis + rank : axis);
}

/* ------------------------------------------------------------------ element by element */

/* The selected axes meet, and whatever is not selected is broadcast along them. */
static bool elementwise(selecting *w)
{
    int right = -1, rank = 0; /* counted from the last axis, as broadcasting does */
    for (int i = 0; i < w->node->nin; i++) {
        int axis = select_axis(w, i), here = axis < 0 ? -1 : type_of(w, i)->rank - axis;
        if (!select_given(w, i))
            continue;
        rank = type_of(w, i)->rank > rank ? type_of(w, i)->rank : rank;
        if (here >= 0 && right >= 0 && here != right)
            return false;
        right = here >= 0 ? here : right;
    }
    for (int i = 0; i < w->node->nin && right >= 0; i++)
        if (select_given(w, i) && select_axis(w, i) < 0 && type_of(w, i)->rank >= right &&
            type_of(w, i)->dims[type_of(w, i)->rank - right].size != 1)
            return false;
    w->axis = rank - right;
    return right >= 0;
}

/* The second operand only says a type. */
static bool cast_like(selecting *w)
{
    w->axis = select_axis(w, 0);
    return true;
}

/* Along another axis than the selected one, which the first n operands have at the same place. */
static bool along_axis(selecting *w, int64_t otherwise, int n)
{
    for (int i = 0; i < n && i < w->node->nin; i++) {
        int axis = select_axis(w, i);
        if (axis < 0 || axis == axis_of(w, otherwise, type_of(w, i)->rank) ||
            (i && axis != w->axis))
            return false;
        w->axis = axis;
    }
    return true;
}

static bool softmax(selecting *w)
{
    return along_axis(w, -1, 1);
}

static bool softmax_grad(selecting *w) /* (dY, Y, ...) */
{
    return along_axis(w, -1, 2);
}

static bool concat(selecting *w)
{
    return along_axis(w, 0, w->node->nin);
}

/* A new axis of classes. */
static bool one_hot(selecting *w)
{
    int axis = axis_of(w, -1, type_of(w, 0)->rank + 1), at = select_axis(w, 0);
    w->axis = at + (axis <= at);
    return at >= 0;
}

static bool split(selecting *w)
{
    w->axis = select_axis(w, 0);
    return w->axis >= 0 && w->axis != axis_of(w, 0, type_of(w, 0)->rank);
}

/* ------------------------------------------------------------------ sizes */

static bool size(selecting *w)
{
    int64_t axes[64];
    int n = 0;
    for (; n < type_of(w, 0)->rank && n < 64; n++)
        axes[n] = n;
    w->instead = select_size(w, 0, n, axes);
    return true;
}

static bool shape(selecting *w)
{
    const mtbal_type *x = type_of(w, 0);
    mtbal_value *parts[64];
    int64_t from = mtbal_attr_i(w->node, "start", 0), to = mtbal_attr_i(w->node, "end", x->rank);
    if (x->rank > 64)
        return false;
    for (int d = 0; d < x->rank; d++)
        parts[d] =
            d == select_axis(w, 0) ? w->s->count : mtbal_const_i64s(&w->b, 1, &x->dims[d].size);
    mtbal_value *all = mtbal_emit_attrs(&w->b, "Concat", x->rank, parts, "axis=i", (int64_t)0);
    w->instead = mtbal_emit(&w->b, "Slice", all, mtbal_const_i64s(&w->b, 1, &from),
                            mtbal_const_i64s(&w->b, 1, &to));
    return true;
}

/* A shape operand as it is at full size. *at: the place of the count in it, or -1. Its length, or
 * -1: not known. */
static int full_shape(const selecting *w, int i, int64_t dims[64], int *at)
{
    const mtbal_value *v = w->node->in[i];
    bool given;
    *at = -1;
    if (lower_is_constant(v) || !v->content)
        return select_ints(w, NULL, i, dims, &given);
    for (int d = 0; d < v->ncontent && d < 64; d++) {
        const char *symbol = v->content[d].symbol;
        bool counts = symbol == w->s->symbol, rest = symbol && !strcmp(symbol, "-1");
        if (v->content[d].size < 0 && !rest && (!counts || *at >= 0))
            return -1;
        dims[d] = counts ? w->s->n : rest ? -1 : v->content[d].size;
        *at = counts ? d : *at;
    }
    return v->ncontent <= 64 ? v->ncontent : -1;
}

static bool set_shape(selecting *w, int i, int n, const int64_t *dims)
{
    const int64_t length = n;
    mtbal_value *v =
        n < 0 ? NULL : lower_new_constant(w->l, w->node->graph, MTBAL_INT64, 1, &length, dims);
    w->node->in[i] = v ? v : w->node->in[i];
    return v;
}

static bool constant_of_shape(selecting *w)
{
    int64_t dims[64];
    int n = full_shape(w, 0, dims, &w->axis);
    return set_shape(w, 0, n, dims);
}

static bool expand(selecting *w)
{
    int64_t dims[64];
    int at, n = full_shape(w, 1, dims, &at), axis = select_axis(w, 0);
    const mtbal_type *x = type_of(w, 0);
    int right = axis >= 0 ? x->rank - axis : n - at; /* the selected axis, from the last */
    if (n < 0 || (axis < 0 && at < 0))
        return false;
    int rank = x->rank > n ? x->rank : n;
    bool meets = axis < 0 ? x->rank < right || x->dims[x->rank - right].size == 1
                          : n < right || dims[n - right] == 1 || n - at == right;
    w->axis = rank - right;
    return meets && set_shape(w, 1, n, dims);
}

/* The axis stays where the same number of elements lies before it. */
static bool reshape(selecting *w)
{
    const mtbal_type *x = type_of(w, 0);
    int64_t dims[64], before = 1, all = 1, known = 1;
    int at, n = full_shape(w, 1, dims, &at), axis = select_axis(w, 0), free = -1;
    for (int d = 0; d < x->rank; d++) {
        before *= d < axis ? x->dims[d].size : 1;
        all *= x->dims[d].size;
    }
    for (int d = 0; d < n; d++) {
        if (dims[d] == 0 && !mtbal_attr_i(w->node, "allowzero", 0) && d < x->rank) {
            dims[d] = x->dims[d].size;
            at = d == axis ? d : at;
        }
        free = dims[d] < 0 ? d : free;
        known *= dims[d] < 0 ? 1 : dims[d];
    }
    if (free >= 0)
        dims[free] = known ? all / known : 0;
    if (n < 0 || (axis < 0 && at < 0))
        return false;
    if (at < 0 && lower_place(w->l, w->node->in[0])->filled)
        return true; /* select.h's own: back to the shape that the mask was applied to */
    at = at < 0 ? free : at;
    for (int d = 0; d < at; d++)
        before = dims[d] && before % dims[d] == 0 ? before / dims[d] : 0;
    w->axis = at;
    return axis >= 0 && at >= 0 && before == 1 && dims[at] == w->s->n && set_shape(w, 1, n, dims);
}

/* Whether the gradient of a broadcast has to be summed along an axis: Equal(Shape(dy), the shape of
 * the operand with ones put before it by Pad). Where an axis of dy is selected and the operand's is
 * 1, the sum is right even when the mask selects one element. */
static bool equal(selecting *w)
{
    int64_t have[64], want[64];
    bool same[64];
    const mtbal_node *pad = w->node->in[1]->def;
    if (select_axis(w, 0) >= 0 || select_axis(w, 1) >= 0)
        return elementwise(w);
    if (!pad || !mtbal_node_is(pad, MTBAL_OP_pad) || type_of(w, 0)->rank != 1)
        return true; /* of numbers made in the step, like any other */
    selecting padded = *w;
    padded.node = w->node->in[1]->def;
    int at[2], n = full_shape(w, 0, have, &at[0]), m = full_shape(&padded, 0, want, &at[1]);
    int64_t length = n;
    for (int d = 0; d < n && n >= m && m >= 0; d++) {
        int from = d - (n - m);
        same[d] = from < 0 ? have[d] == 1 && at[0] != d
                           : have[d] == want[from] && (at[0] == d) == (at[1] == from);
    }
    if (n >= m && m >= 0)
        w->instead = lower_new_constant(w->l, w->node->graph, MTBAL_BOOL, 1, &length, same);
    return w->instead;
}

/* ------------------------------------------------------------------ reductions */

/* What leaves the result as it is. */
static double neutral_of(const mtbal_node *node)
{
    switch (node->opcode) {
    case MTBAL_OP_reduce_prod:
        return 1;
    case MTBAL_OP_reduce_max:
    case MTBAL_OP_reduce_log_sum_exp:
        return -INFINITY;
    case MTBAL_OP_reduce_min:
        return INFINITY;
    default:
        return 0;
    }
}

/* The sum over the true count; of nothing 0, as ONNX Runtime has it. */
static mtbal_value *mean(selecting *w, int n, const int64_t *axes, mtbal_value *count)
{
    mtbal_builder *b = &w->b;
    mtbal_value *x = w->node->in[0];
    bool keep = mtbal_attr_i(w->node, "keepdims", 1);
    return mtbal_emit(
        b, "Div", mtbal_emit_reduce(b, "ReduceSum", x, n, axes, keep),
        mtbal_emit_cast(b, mtbal_emit(b, "Max", count, mtbal_const_i64(b, 1)), x->type.dtype));
}

static bool reduce(selecting *w)
{
    bool given, keep = mtbal_attr_i(w->node, "keepdims", 1), over = false;
    int64_t axes[64];
    int axis = select_axis(w, 0), rank = type_of(w, 0)->rank, before = 0;
    int n = select_ints(w, "axes", 1, axes, &given);
    double neutral = neutral_of(w->node);
    if (n < 0 || axis < 0 || rank > 64)
        return false;
    if (n == 0 && !mtbal_attr_i(w->node, "noop_with_empty_axes", 0))
        for (; n < rank; n++)
            axes[n] = n;
    for (int i = 0; i < n; i++) {
        axes[i] += axes[i] < 0 ? rank : 0;
        over = over || axes[i] == axis;
        before += axes[i] < axis;
    }
    if (!over) {
        w->axis = axis - (keep ? 0 : before);
        return true;
    }
    if (isinf(neutral) && !mtbal_dtype_is_float(type_of(w, 0)->dtype))
        return false;
    bool divides = mtbal_node_is(w->node, MTBAL_OP_reduce_mean);
    mtbal_value *count = divides ? select_size(w, 0, n, axes) : NULL;
    select_fill(w, 0, neutral);
    if (divides)
        w->instead = mean(w, n, axes, count);
    return true;
}

/* ------------------------------------------------------------------ layout */

static bool transpose(selecting *w)
{
    const int64_t *perm;
    int axis = select_axis(w, 0), rank = type_of(w, 0)->rank;
    int n = mtbal_attr_ints(w->node, "perm", &perm);
    place *p = lower_place(w->l, w->node->in[0]);
    w->axis = n == rank ? -1 : rank - 1 - axis;
    for (int d = 0; d < n && n == rank; d++)
        w->axis = perm[d] == axis ? d : w->axis;
    if (p->grid && w->axis == axis)
        w->instead = w->node->in[0];
    else if (p->grid)
        select_turn_grid(w);
    return w->axis >= 0;
}

static bool squeeze(selecting *w)
{
    int64_t axes[64];
    bool given;
    int axis = select_axis(w, 0), n = select_ints(w, "axes", 1, axes, &given);
    w->axis = axis;
    for (int i = 0; i < n; i++) {
        axes[i] += axes[i] < 0 ? type_of(w, 0)->rank : 0;
        w->axis -= axes[i] < axis;
        if (axes[i] == axis)
            return false;
    }
    return n > 0 && axis >= 0;
}

static bool unsqueeze(selecting *w)
{
    int64_t axes[64];
    bool given, put[128] = {false};
    int axis = select_axis(w, 0), n = select_ints(w, "axes", 1, axes, &given);
    int rank = type_of(w, 0)->rank + n;
    for (int i = 0; i < n; i++) {
        axes[i] += axes[i] < 0 ? rank : 0;
        if (axes[i] < 0 || axes[i] >= 128)
            return false;
        put[axes[i]] = true;
    }
    int seen = -1;
    for (int d = 0; d < rank && d < 128 && seen < axis; d++) {
        seen += !put[d];
        w->axis = d;
    }
    return n > 0 && axis >= 0 && seen == axis;
}

static bool slice(selecting *w)
{
    int64_t axes[64];
    bool given;
    int n = select_ints(w, "axes", 3, axes, &given);
    w->axis = select_axis(w, 0);
    for (int i = 0; i < n; i++)
        if (axes[i] + (axes[i] < 0 ? type_of(w, 0)->rank : 0) == w->axis)
            return false;
    return n > 0 && w->axis >= 0;
}

/* ------------------------------------------------------------------ gathers and scatters */

/* Indices that come from data may be anything where they are not selected: 0 is in every range. */
static void safe_index(selecting *w, int i)
{
    if (!lower_is_constant(w->node->in[i]))
        select_fill(w, i, 0);
}

static bool gather(selecting *w)
{
    int x = select_axis(w, 0), index = select_axis(w, 1);
    int axis = axis_of(w, 0, type_of(w, 0)->rank);
    if ((x >= 0 && index >= 0) || x == axis)
        return false;
    if (index >= 0)
        safe_index(w, 1);
    w->axis = index >= 0 ? axis + index : x < axis ? x : x + type_of(w, 1)->rank - 1;
    return true;
}

/* With all operands selected alike and the axis another: row by row. */
static bool gather_elements(selecting *w)
{
    bool fits = along_axis(w, 0, w->node->nin);
    if (fits)
        safe_index(w, 1);
    return fits;
}

static bool gather_nd(selecting *w)
{
    mtbal_value *x = w->node->in[0], *index = w->node->in[1];
    if (select_axis(w, 0) >= 0 || select_axis(w, 1) != 0 || index->type.rank < 2 ||
        mtbal_attr_i(w->node, "batch_dims", 0))
        return false;
    w->axis = 0;
    if (select_is_grid(w->l, w->s, x, index))
        w->instead = select_flat(w, x);
    else
        safe_index(w, 1);
    return true;
}

static bool adds(const selecting *w)
{
    return !strcmp(mtbal_attr_s(w->node, "reduction", "none"), "add");
}

/* What is added where the mask is false is 0. */
static bool scatter_nd(selecting *w)
{
    mtbal_value *x = w->node->in[0], *index = w->node->in[1];
    if (select_axis(w, 0) >= 0 || select_axis(w, 1) != 0 || select_axis(w, 2) != 0 ||
        index->type.rank < 2)
        return false;
    if (!adds(w) && !select_is_grid(w->l, w->s, x, index))
        return false;
    if (select_is_grid(w->l, w->s, x, index)) {
        mtbal_value *base = select_flat(w, x), *updates = w->node->in[2];
        mtbal_value *sum = adds(w) ? mtbal_emit(&w->b, "Add", base, updates) : updates;
        w->instead = select_unflat(w, select_where(w, sum, 0, base), x);
        return true;
    }
    safe_index(w, 1);
    select_fill(w, 2, 0);
    return true;
}

/* The same along one axis: with everything selected alike and another axis, row by row. */
static bool scatter_elements(selecting *w)
{
    if (gather_elements(w))
        return true;
    w->axis = -1;
    if (select_axis(w, 0) >= 0 || select_axis(w, 1) < 0 || select_axis(w, 2) < 0 || !adds(w))
        return false;
    safe_index(w, 1);
    select_fill(w, 2, 0);
    return true;
}

/* GatherGrad (dY, indices, shape) */
static bool gather_grad(selecting *w)
{
    if (select_axis(w, 0) != 0 || select_axis(w, 1) != 0 || type_of(w, 1)->rank != 1)
        return false;
    safe_index(w, 1);
    select_fill(w, 0, 0);
    return true;
}

/* ------------------------------------------------------------------ losses over classes */

/* A label that is ignored, where the mask is false. */
static bool class_loss_of(selecting *w, int logits, int labels, bool rows)
{
    const bool ignores = mtbal_attr_find(w->node, "ignore_index");
    if (select_axis(w, logits) != 0 || select_axis(w, labels) != 0)
        return false;
    if (!ignores && mtbal_set_i(w->node, "ignore_index", -1) != MTBAL_OK)
        return false;
    select_fill(w, labels, (double)mtbal_attr_i(w->node, "ignore_index", -1));
    w->axis = rows ? 0 : -1;
    return true;
}

static bool class_loss(selecting *w)
{
    bool none = !strcmp(mtbal_attr_s(w->node, "reduction", "mean"), "none");
    bool log_prob = w->node->nout > 1 && w->node->out[1]; /* selected, where the loss is not */
    return (none || !log_prob) && class_loss_of(w, 0, 1, none);
}

static bool class_loss_grad(selecting *w)
{
    return class_loss_of(w, 1, 2, true);
}

/* ------------------------------------------------------------------ matrix products */

/* Rows times a matrix; or a sum over the selected axis, as in the gradient of a weight. */
static bool matrix_product(selecting *w, bool turn_a, bool turn_b)
{
    int a = select_axis(w, 0), b = select_axis(w, 1);
    int ra = type_of(w, 0)->rank, rb = type_of(w, 1)->rank;
    int row = ra - (turn_a ? 1 : 2), inner = ra - (turn_a ? 2 : 1);
    int inner_b = rb - (turn_b ? 1 : 2), column = rb - (turn_b ? 2 : 1);
    if (ra < 2 || rb < 2)
        return false;
    if (a == inner && b == inner_b) {
        select_fill(w, 0, 0);
        select_fill(w, 1, 0);
        return true;
    }
    if (a >= 0 && b < 0 && a != inner && rb == 2)
        w->axis = a == row ? ra - 2 : a;
    else if (b == column && a < 0 && rb == 2)
        w->axis = ra - 1;
    return w->axis >= 0;
}

static bool mat_mul(selecting *w)
{
    return matrix_product(w, false, false);
}

/* What is added must not be selected, and must not vary along the selected axis. */
static bool gemm(selecting *w)
{
    bool fits = matrix_product(w, mtbal_attr_i(w->node, "transA", 0) != 0,
                               mtbal_attr_i(w->node, "transB", 0) != 0);
    if (!fits || !select_given(w, 2) || w->axis < 0)
        return fits && (!select_given(w, 2) || select_axis(w, 2) < 0);
    int rank = type_of(w, 2)->rank, along = rank - 2 + w->axis;
    return select_axis(w, 2) < 0 && (along < 0 || type_of(w, 2)->dims[along].size == 1);
}

/* Vectors selected alike: what is not counts 0. */
static bool gram(selecting *w)
{
    for (int i = 0; i < w->node->nin; i++) {
        if (select_axis(w, i) != select_axis(w, 0))
            return false;
        select_fill(w, i, 0);
    }
    return true;
}

/* ------------------------------------------------------------------ the table */

select_rule *lower_select_rule(const mtbal_node *node)
{
    static select_rule *const table[MTBAL_NOPS] = {
        [MTBAL_OP_cast] = elementwise,
        [MTBAL_OP_cast_like] = cast_like,
        [MTBAL_OP_clip] = elementwise,
        [MTBAL_OP_concat] = concat,
        [MTBAL_OP_constant_of_shape] = constant_of_shape,
        [MTBAL_OP_equal] = equal,
        [MTBAL_OP_expand] = expand,
        [MTBAL_OP_gather] = gather,
        [MTBAL_OP_gather_elements] = gather_elements,
        [MTBAL_OP_gather_nd] = gather_nd,
        [MTBAL_OP_gemm] = gemm,
        [MTBAL_OP_identity] = elementwise,
        [MTBAL_OP_log_softmax] = softmax,
        [MTBAL_OP_mat_mul] = mat_mul,
        [MTBAL_OP_negative_log_likelihood_loss] = class_loss,
        [MTBAL_OP_one_hot] = one_hot,
        [MTBAL_OP_reduce_l1] = reduce,
        [MTBAL_OP_reduce_l2] = reduce,
        [MTBAL_OP_reduce_log_sum] = reduce,
        [MTBAL_OP_reduce_log_sum_exp] = reduce,
        [MTBAL_OP_reduce_max] = reduce,
        [MTBAL_OP_reduce_mean] = reduce,
        [MTBAL_OP_reduce_min] = reduce,
        [MTBAL_OP_reduce_prod] = reduce,
        [MTBAL_OP_reduce_sum] = reduce,
        [MTBAL_OP_reduce_sum_square] = reduce,
        [MTBAL_OP_reshape] = reshape,
        [MTBAL_OP_scatter_elements] = scatter_elements,
        [MTBAL_OP_scatter_nd] = scatter_nd,
        [MTBAL_OP_shape] = shape,
        [MTBAL_OP_size] = size,
        [MTBAL_OP_slice] = slice,
        [MTBAL_OP_softmax] = softmax,
        [MTBAL_OP_softmax_cross_entropy_loss] = class_loss,
        [MTBAL_OP_split] = split,
        [MTBAL_OP_squeeze] = squeeze,
        [MTBAL_OP_transpose] = transpose,
        [MTBAL_OP_unsqueeze] = unsqueeze,
        [MTBAL_OP_where] = elementwise,
        [MTBAL_OP_gather_grad] = gather_grad,
        [MTBAL_OP_log_softmax_grad] = softmax_grad,
        [MTBAL_OP_softmax_grad] = softmax_grad,
        [MTBAL_OP_softmax_cross_entropy_loss_grad] = class_loss_grad,
        [MTBAL_OP_nll_loss_grad] = class_loss_grad,
        [MTBAL_OP_gram] = gram,
    };
    select_rule *rule = node->opcode >= 0 ? table[node->opcode] : NULL;
    return rule ? rule : lower_is_elementwise(node) ? elementwise : NULL;
}
