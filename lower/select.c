/* lower/select.c: a[mask]. How much a mask selects depends on data, and a plan has fixed sizes. So
 * what is selected stays at full size beside its mask: an axis of `count` elements becomes one of
 * all n, and those where the mask is false are never looked at. Elementwise nodes need nothing
 * else; a node that mixes the elements of that axis reads them filled with what does not change its
 * result (0 for a sum); and the shape of such a value says the true count, made in each step.
 * select_rules.c says what each op needs. */
#include "lower/select.h"

#include <string.h>

static mtbal_status mark(lowering *l, const mtbal_value *v, selection *s, int axis)
{
    place *p = v ? lower_place(l, v) : NULL;
    if (!p)
        return v ? mtbal_no_memory(l->diag) : MTBAL_OK;
    p->selected = s;
    p->selected_axis = axis;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ for rules */

int select_axis(const selecting *w, int i)
{
    const mtbal_value *v = i < w->node->nin ? w->node->in[i] : NULL;
    return v && lower_place(w->l, v)->selected ? lower_place(w->l, v)->selected_axis : -1;
}

bool select_given(const selecting *w, int i)
{
    return i < w->node->nin && w->node->in[i];
}

mtbal_value *select_where(selecting *w, mtbal_value *x, int axis, mtbal_value *otherwise)
{
    int64_t dims[64] = {-1};
    int n = x ? x->type.rank - axis : 0;
    for (int d = 1; d < n; d++)
        dims[d] = 1;
    mtbal_value *m = mtbal_emit_reshape(&w->b, w->s->chosen, mtbal_const_i64s(&w->b, n, dims));
    w->renewed = true;
    return mtbal_emit(&w->b, "Where", m, x, otherwise);
}

mtbal_value *select_flat(selecting *w, mtbal_value *x)
{
    int64_t dims[64] = {w->s->n};
    int covered = w->s->mask->type.rank, n = 1;
    for (int d = covered; d < x->type.rank && n < 64; d++)
        dims[n++] = x->type.dims[d].size;
    mtbal_value *flat = mtbal_emit_reshape(&w->b, x, mtbal_const_i64s(&w->b, n, dims));
    if (flat && mark(w->l, flat, w->s, 0) != MTBAL_OK)
        w->b.status = MTBAL_NOMEM;
    return flat;
}

mtbal_value *select_unflat(selecting *w, mtbal_value *flat, const mtbal_value *like)
{
    int64_t dims[64];
    for (int d = 0; d < like->type.rank && d < 64; d++)
        dims[d] = like->type.dims[d].size;
    place *p = flat ? lower_place(w->l, flat) : NULL;
    if (p)
        p->filled = true;
    return mtbal_emit_reshape(&w->b, flat, mtbal_const_i64s(&w->b, like->type.rank, dims));
}

bool select_is_grid(lowering *l, const selection *s, const mtbal_value *x, const mtbal_value *index)
{
    const mtbal_type *mask = &s->mask->type;
    bool same = lower_place(l, index)->grid == SELECT_TURNED && x->type.rank >= mask->rank;
    for (int d = 0; same && d < mask->rank; d++)
        same = x->type.dims[d].size == mask->dims[d].size;
    return same;
}

void select_turn_grid(selecting *w)
{
    place *out = lower_place(w->l, w->node->out[0]);
    if (!out)
        return;
    const place *in = lower_place(w->l, w->node->in[0]);
    out->grid = in->grid == SELECT_GRID ? SELECT_TURNED : SELECT_GRID;
    out->why = in->why;
}

void select_fill(selecting *w, int i, double otherwise)
{
    int axis = select_axis(w, i);
    if (axis < 0 || lower_place(w->l, w->node->in[i])->filled)
        return;
    mtbal_value *x = w->node->in[i];
    mtbal_value *y = select_where(w, x, axis, mtbal_const_scalar(&w->b, x->type.dtype, otherwise));
    place *p = y ? lower_place(w->l, y) : NULL;
    if (!p) {
        w->b.status = w->b.status == MTBAL_OK ? MTBAL_NOMEM : w->b.status;
        return;
    }
    p->filled = true;
    w->node->in[i] = y;
}

int select_ints(const selecting *w, const char *attr, int input, int64_t values[64], bool *given)
{
    const int64_t *ints;
    int n = attr ? mtbal_attr_ints(w->node, attr, &ints) : -1;
    *given = n >= 0 || (input >= 0 && select_given(w, input));
    if (n >= 0 && n <= 64)
        memcpy(values, ints, (size_t)n * sizeof *values);
    if (n >= 0 || !*given)
        return n > 64 ? -1 : n < 0 ? 0 : n;
    const mtbal_tensor *t = lower_constant(w->l, w->node->in[input]);
    for (int64_t i = 0; t && t->count <= 64 && i < t->count; i++)
        values[i] = mtbal_tensor_i64(t, i);
    return t && t->count <= 64 ? (int)t->count : -1;
}

mtbal_value *select_size(selecting *w, int i, int n, const int64_t *axes)
{
    int64_t rest = 1;
    for (int d = 0; d < n; d++)
        rest *= axes[d] == select_axis(w, i) ? 1 : w->node->in[i]->type.dims[axes[d]].size;
    mtbal_value *size = mtbal_emit(&w->b, "Mul", w->s->count, mtbal_const_i64(&w->b, rest));
    w->renewed = true;
    return mtbal_emit_reshape(&w->b, size, mtbal_const_i64s(&w->b, 0, NULL));
}

/* ------------------------------------------------------------------ selections */

static bool same_constant(const mtbal_tensor *a, const mtbal_tensor *b)
{
    return a && b && a->dtype == b->dtype && a->rank == b->rank && a->bytes == b->bytes &&
           (!a->rank || !memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims)) &&
           (!a->bytes || !memcmp(a->data, b->data, a->bytes));
}

static bool same_attrs(const mtbal_attr *a, const mtbal_attr *b)
{
    for (; a && b; a = a->next, b = b->next)
        if (a->kind != MTBAL_ATTR_INT || b->kind != MTBAL_ATTR_INT || strcmp(a->name, b->name) ||
            a->i != b->i)
            return false;
    return !a && !b;
}

/* Whether two masks are computed alike: exporters write the mask anew for each a[mask]. alike: a
 * value -> the id of the one that it has been found to be like; so that each is looked at once. */
static bool same_value(lowering *l, mtbal_map *alike, const mtbal_value *a, const mtbal_value *b,
                       int depth)
{
    enum { DEEPEST = 6 };
    if (a && b && mtbal_map_get(alike, a) == b->id)
        return true;
    if (!a || !b || a == b || lower_is_constant(a) || lower_is_constant(b))
        return a == b || (a && b && same_constant(lower_constant(l, a), lower_constant(l, b)));
    const mtbal_node *p = a->def, *q = b->def;
    if (!p || !q || depth > DEEPEST || p->opcode != q->opcode || p->opcode < 0 ||
        p->nin != q->nin || a->def_index != b->def_index || mtbal_node_has(p, MTBAL_RANDOM) ||
        !same_attrs(p->attrs, q->attrs))
        return false;
    for (int i = 0; i < p->nin; i++)
        if (!same_value(l, alike, p->in[i], q->in[i], depth + 1))
            return false;
    if (!mtbal_map_set(alike, l->arena, a, b->id))
        l->status = mtbal_no_memory(l->diag);
    return true;
}

static selection *find_selection(lowering *l, const mtbal_value *mask, const mtbal_graph *graph)
{
    for (selection *s = l->selections; s; s = s->next) {
        mtbal_map alike = {0};
        if (s->graph == graph && same_value(l, &alike, s->mask, mask, 0))
            return s;
    }
    return NULL;
}

static mtbal_status new_selection(lowering *l, mtbal_node *node, mtbal_value *mask)
{
    const int64_t all = -1;
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    selection *s = mtbal_arena_alloc(l->arena, sizeof *s);
    const char *symbol = mtbal_arena_printf(l->arena, "#%d", l->nselections++);
    if (!s || !symbol)
        return mtbal_no_memory(l->diag);
    *s = (selection){.next = l->selections,
                     .mask = mask,
                     .graph = node->graph,
                     .symbol = mtbal_intern(l->model->arena, symbol),
                     .n = mtbal_shape_count(&mask->type)};
    s->chosen = mtbal_emit_reshape(&b, mtbal_emit_cast(&b, mask, MTBAL_BOOL),
                                   mtbal_const_i64s(&b, 1, &all));
    mtbal_value *ones = mtbal_emit_cast(&b, s->chosen, MTBAL_INT64);
    s->count = mtbal_emit_reduce(&b, "ReduceSum", ones, 0, NULL, true);
    MTBAL_TRY(b.status);
    if (!s->symbol)
        return mtbal_no_memory(l->diag);
    l->selections = s;
    return MTBAL_OK;
}

/* NonZero: where each element of the mask stands, whether it is selected or not. Mostly nobody
 * reads that: only then the numbers are made. */
static mtbal_status non_zero(lowering *l, mtbal_node *node, selection *s)
{
    mtbal_dim *content = mtbal_arena_alloc(l->model->arena, sizeof *content);
    mtbal_dim *dims = mtbal_arena_array(l->model->arena, 2, sizeof *dims);
    if (!content || !dims)
        return mtbal_no_memory(l->diag);
    *content = (mtbal_dim){-1, s->symbol};
    s->count->content = content;
    s->count->ncontent = 1;
    MTBAL_TRY(mark(l, s->chosen, s, 0));
    if (!node->out[0])
        return MTBAL_OK;
    MTBAL_TRY(mark(l, node->out[0], s, 1));
    place *p = lower_place(l, node->out[0]);
    dims[0] = mtbal_dim_const(s->mask->type.rank);
    dims[1] = mtbal_dim_const(s->n);
    node->out[0]->type = (mtbal_type){MTBAL_TENSOR, MTBAL_INT64, 2, dims};
    p->grid = SELECT_GRID;
    p->why = "the number of its results depends on data";
    return MTBAL_OK;
}

/* The numbers of NonZero, or of its transpose, for all n, in the place of v. */
static mtbal_status make_grid(lowering *l, mtbal_value *v)
{
    const place *p = lower_place(l, v);
    const mtbal_type *mask = &p->selected->mask->type;
    int64_t n = p->selected->n, rank = mask->rank;
    int64_t each = p->grid == SELECT_GRID ? 1 : rank, step = p->grid == SELECT_GRID ? n : 1;
    int64_t dims[2] = {v->type.dims[0].size, v->type.dims[1].size};
    mtbal_tensor *t = mtbal_tensor_new(l->model, MTBAL_INT64, 2, dims, NULL);
    mtbal_value *made = mtbal_value_new(v->graph, NULL);
    int64_t *index = t && made ? mtbal_tensor_bytes(t) : NULL;
    if (!index)
        return mtbal_no_memory(l->diag);
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = rank - 1, rest = i; d >= 0; d--) {
            index[i * each + d * step] = rest % mask->dims[d].size;
            rest /= mask->dims[d].size;
        }
    MTBAL_TRY(lower_set_constant(l, made, t));
    MTBAL_TRY(mark(l, made, p->selected, p->selected_axis));
    lower_place(l, v)->instead = made;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ one node */

static mtbal_status misfit(lowering *l, mtbal_node *node, const char *why)
{
    for (int i = 0; i < node->nout; i++) {
        place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (node->out[i] && !p)
            return mtbal_no_memory(l->diag);
        if (p) {
            p->why = why;
            node->out[i]->type.rank = -1;
        }
    }
    return MTBAL_OK;
}

static selection *of_content(const lowering *l, const mtbal_value *v)
{
    for (int i = 0; v->content && i < v->ncontent; i++)
        for (selection *s = l->selections; s; s = s->next)
            if (v->content[i].symbol == s->symbol)
                return s;
    return NULL;
}

/* Whether operand i is a shape, or compared with one. */
static bool reads_shape(const mtbal_node *node, int i)
{
    if (mtbal_node_is(node, MTBAL_OP_expand) || mtbal_node_is(node, MTBAL_OP_reshape))
        return i == 1;
    return mtbal_node_is(node, MTBAL_OP_constant_of_shape) || mtbal_node_is(node, MTBAL_OP_equal);
}

/* The selection that the node is about; *many: several. */
static selection *of_node(lowering *l, const mtbal_node *node, bool *many)
{
    selection *found = NULL;
    for (int i = 0; i < node->nin; i++) {
        const mtbal_value *v = node->in[i];
        selection *s = v ? lower_place(l, v)->selected : NULL;
        if (v && !s && reads_shape(node, i))
            s = of_content(l, v);
        *many = *many || (s && found && s != found);
        found = s ? s : found;
    }
    return found;
}

static mtbal_status apply(selecting *w, lower_walk *walk, bool *done)
{
    lowering *l = w->l;
    select_rule *rule = lower_select_rule(w->node);
    bool fits = rule && rule(w);
    MTBAL_TRY(w->b.status);
    MTBAL_TRY(l->status);
    *done = !fits || w->instead || w->renewed;
    if (!fits)
        return misfit(l, w->node,
                      "it needs to know how much a mask selects, which depends on data");
    if (w->instead) {
        *walk = LOWER_RENEWED;
        if (w->axis >= 0)
            MTBAL_TRY(mark(l, w->instead, w->s, w->axis));
        return lower_replace_node(l, w->node, 1, &w->instead);
    }
    *walk = w->renewed ? LOWER_RENEWED : LOWER_KEPT;
    for (int i = 0; i < w->node->nout && w->axis >= 0; i++)
        if (w->node->out[i])
            MTBAL_TRY(mark(l, w->node->out[i], w->s, w->axis));
    return MTBAL_OK;
}

/* Whether the node does with where the grid is, without its numbers. */
static bool reads_grid(lowering *l, const selection *s, const mtbal_node *node, int i)
{
    if (mtbal_node_is(node, MTBAL_OP_shape) || mtbal_node_is(node, MTBAL_OP_size) ||
        mtbal_node_is(node, MTBAL_OP_transpose))
        return true;
    return i == 1 &&
           (mtbal_node_is(node, MTBAL_OP_gather_nd) || mtbal_node_is(node, MTBAL_OP_scatter_nd)) &&
           select_is_grid(l, s, node->in[0], node->in[1]);
}

static mtbal_status select_by(lowering *l, mtbal_node *node, lower_walk *walk)
{
    mtbal_value *mask = node->in[0];
    selection *s = find_selection(l, mask, node->graph);
    if (lower_place(l, mask)->selected)
        return misfit(l, node, "it selects from what a mask has selected");
    if (s)
        return non_zero(l, node, s);
    *walk = LOWER_RENEWED;
    return new_selection(l, node, mask);
}

ELABORATE(non_zero)
{
    const mtbal_value *x = node->in[0];
    if (!lower_place(l, x))
        return mtbal_no_memory(l->diag);
    if (lower_is_constant(x)) {
        *done = lower_constant(l, x) && node->out[0];
        return *done ? lower_fold_non_zero(l, node) : l->status;
    }
    *done = mtbal_shape_known(&x->type) && x->type.rank > 0 && mtbal_shape_count(&x->type) > 0;
    return *done ? select_by(l, node, walk) : MTBAL_OK;
}

mtbal_status lower_select(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
{
    bool many = false;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && !lower_place(l, node->in[i]))
            return mtbal_no_memory(l->diag);
    selecting w = {.l = l, .node = node, .s = of_node(l, node, &many), .axis = -1};
    if (!w.s || (lower_expansion(node) && !lower_select_rule(node)))
        return MTBAL_OK;
    *done = many;
    if (many)
        return misfit(l, node, "it mixes what several masks select");
    mtbal_builder_init(&w.b, node->graph, node, l->diag);
    for (int i = 0; i < node->nin; i++) {
        place *p = node->in[i] ? lower_place(l, node->in[i]) : NULL;
        if (p && (node->in[i]->type.rank < 0 || node->in[i]->type.rank > SELECT_MAX_RANK ||
                  (p->why && !p->grid)))
            return MTBAL_OK;
        if (p && p->grid && !reads_grid(l, w.s, node, i))
            MTBAL_TRY(make_grid(l, node->in[i]));
        node->in[i] = lower_resolve(l, node->in[i]);
    }
    return apply(&w, walk, done);
}

/* What is asked for must have a size. */
mtbal_status lower_select_outputs(lowering *l)
{
    for (int i = 0; i < l->noutputs; i++) {
        const mtbal_value *v = lower_resolve(l, l->outputs[i]);
        const place *p = lower_place(l, v);
        if (!p)
            return mtbal_no_memory(l->diag);
        if (p->selected && v->def)
            MTBAL_TRY(lower_refuse(l, v->def, "the size of its result depends on data"));
    }
    return MTBAL_OK;
}
