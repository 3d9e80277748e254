/* lower/control.c: If, Loop and Scan. What is decided by constants is copied in; the rest stays and
 * becomes jumps (jumps.c). */
#include "lower/lowering.h"

#include <string.h>

/* Written out, a loop may become this many nodes; a longer one stays a loop. */
enum { MAX_UNROLLED = 10000 };

static mtbal_graph *body_of(const mtbal_node *node, const char *name)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    return a && a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
}

/* 1 or 0 when the value is a constant with one element; -1 when it is not known. */
static int truth(lowering *l, const mtbal_value *value)
{
    const mtbal_tensor *t = lower_constant(l, value);
    return t && t->count == 1 ? mtbal_tensor_f64(t, 0) != 0 : -1;
}

static mtbal_status not_known(lowering *l, mtbal_node *node, const char *why)
{
    for (int i = 0; i < node->nout; i++) {
        place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (node->out[i] && !p)
            return mtbal_no_memory(l->diag);
        if (!p)
            continue;
        p->why = why;
        node->out[i]->type.rank = -1;
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ If */

static mtbal_status both_branches(lowering *l, mtbal_node *node, mtbal_graph *yes, mtbal_graph *no)
{
    MTBAL_TRY(lower_elaborate(l, yes));
    MTBAL_TRY(lower_elaborate(l, no));
    for (int i = 0; i < node->nout; i++) {
        const mtbal_type *a = &yes->outputs[i]->type, *b = &no->outputs[i]->type;
        if (!node->out[i])
            continue;
        if (a->dtype != b->dtype || !mtbal_shape_known(a) || !mtbal_shape_equal(a, b))
            return not_known(l, node,
                             "its branches give different shapes, and the condition "
                             "depends on data");
        node->out[i]->type = *a;
    }
    return MTBAL_OK;
}

ELABORATE(if)
{
    mtbal_graph *yes = body_of(node, "then_branch"), *no = body_of(node, "else_branch");
    *done = true;
    if (!yes || !no || node->nin < 1 || yes->noutputs < node->nout || no->noutputs < node->nout)
        return mtbal_fail(l->diag, MTBAL_INVALID, lower_label(node), "export the model again",
                          "this If lacks a branch, or one has too few outputs");
    int condition = truth(l, node->in[0]);
    if (condition < 0)
        return both_branches(l, node, yes, no);
    mtbal_graph *body = condition ? yes : no;
    mtbal_value **out = mtbal_arena_array(l->arena, (size_t)body->noutputs + 1, sizeof *out);
    if (!out)
        return mtbal_no_memory(l->diag);
    MTBAL_TRY(lower_copy_body(l, body, node, 0, NULL, out));
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, node->nout, out);
}

/* ------------------------------------------------------------------ Loop */

/* A loop being written out: one iteration at a time is copied before it, and walked; then the walk
 * comes back to the loop with the next values. */
struct unrolling {
    unrolling *next;
    const mtbal_node *node;
    int64_t done; /* iterations so far */
    int ncarried, nscans;
    mtbal_value **pieces; /* [iterations][nscans] */
    int npieces, capacity;
};

static unrolling *find_unrolling(const lowering *l, const mtbal_node *node)
{
    unrolling *u = l->unrollings;
    while (u && u->node != node)
        u = u->next;
    return u;
}

static unrolling *start_unrolling(lowering *l, const mtbal_node *node, int ncarried, int nscans)
{
    unrolling *u = mtbal_arena_alloc(l->arena, sizeof *u);
    if (!u)
        return NULL;
    *u = (unrolling){.next = l->unrollings, .node = node, .ncarried = ncarried, .nscans = nscans};
    l->unrollings = u;
    return u;
}

static bool keep_piece(lowering *l, unrolling *u, mtbal_value *piece)
{
    if (u->npieces == u->capacity) {
        int more = u->capacity ? 2 * u->capacity : 64;
        mtbal_value **bigger = mtbal_arena_array(l->arena, (size_t)more, sizeof *bigger);
        if (!bigger)
            return false;
        if (u->npieces)
            memcpy(bigger, u->pieces, (size_t)u->npieces * sizeof *bigger);
        u->pieces = bigger;
        u->capacity = more;
    }
    u->pieces[u->npieces++] = piece;
    return true;
}

static int count_nodes(const mtbal_graph *graph)
{
    int n = 0;
    for (const mtbal_node *node = graph->first; node; node = node->next) {
        n++;
        for (const mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                n += count_nodes(a->g);
    }
    return n;
}

/* The pieces of one scan output, each with a new axis, side by side along it. */
static mtbal_value *join_pieces(lowering *l, mtbal_node *node, const unrolling *u, int scan,
                                int64_t axis, bool reverse)
{
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, l->diag);
    int n = (int)u->done;
    mtbal_value **parts = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *parts);
    mtbal_value *axes = lower_new_constant(l, node->graph, MTBAL_INT64, 1, (int64_t[]){1}, &axis);
    if (!parts || !axes || n == 0)
        return NULL;
    for (int i = 0; i < n; i++) {
        mtbal_value *piece = u->pieces[(reverse ? n - 1 - i : i) * u->nscans + scan];
        piece = lower_resolve(l, piece);
        mtbal_value *in[2] = {piece, axes};
        mtbal_node *widen;
        if (mtbal_opset_of(l->model, "") < 13) {
            widen = mtbal_emit_node(&b, "", "Unsqueeze", 1, in, 1, &parts[i]);
            if (widen && mtbal_set_ints(widen, "axes", 1, &axis) != MTBAL_OK)
                return NULL;
        } else {
            widen = mtbal_emit_node(&b, "", "Unsqueeze", 2, in, 1, &parts[i]);
        }
        if (!widen)
            return NULL;
    }
    mtbal_value *out = NULL;
    mtbal_node *join = mtbal_emit_node(&b, "", "Concat", n, parts, 1, &out);
    return join && mtbal_set_i(join, "axis", axis) == MTBAL_OK ? out : NULL;
}

/* An output of no iteration: nothing of the body's type. */
static mtbal_value *empty_scan(lowering *l, mtbal_node *node, const mtbal_type *type)
{
    int64_t dims[RT_MAX_RANK + 1] = {0};
    if (type->rank < 0 || type->rank + 1 > RT_MAX_RANK || !mtbal_dtype_size(type->dtype))
        return NULL;
    for (int d = 0; d < type->rank; d++)
        dims[d + 1] = type->dims[d].size < 0 ? 0 : type->dims[d].size;
    return lower_new_constant(l, node->graph, type->dtype, type->rank + 1, dims, NULL);
}

static mtbal_status finish_unrolling(lowering *l, mtbal_node *node, const unrolling *u,
                                     const mtbal_graph *body)
{
    mtbal_value **to = mtbal_arena_array(l->arena, (size_t)node->nout + 1, sizeof *to);
    if (!to)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < node->nout; i++) {
        if (!node->out[i])
            continue;
        int scan = i - u->ncarried;
        if (scan < 0)
            to[i] = node->in[2 + i];
        else if (u->done)
            to[i] = join_pieces(l, node, u, scan, 0, false);
        else
            to[i] = empty_scan(l, node, &body->outputs[1 + i]->type);
        if (!to[i])
            return l->diag && l->diag->status ? l->diag->status : mtbal_no_memory(l->diag);
    }
    return lower_replace_node(l, node, node->nout, to);
}

static mtbal_status unroll_once(lowering *l, mtbal_node *node, unrolling *u,
                                const mtbal_graph *body)
{
    int nin = 2 + u->ncarried;
    const bool yes = true;
    mtbal_value **in = mtbal_arena_array(l->arena, (size_t)nin, sizeof *in);
    mtbal_value **out = mtbal_arena_array(l->arena, (size_t)body->noutputs + 1, sizeof *out);
    if (!in || !out)
        return mtbal_no_memory(l->diag);
    in[0] = lower_new_constant(l, node->graph, MTBAL_INT64, 0, NULL, &u->done);
    in[1] = lower_new_constant(l, node->graph, MTBAL_BOOL, 0, NULL, &yes);
    if (!in[0] || !in[1])
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < u->ncarried; i++)
        in[2 + i] = node->in[2 + i];
    MTBAL_TRY(lower_copy_body(l, body, node, nin, in, out));
    node->in[1] = out[0];
    for (int i = 0; i < u->ncarried; i++)
        node->in[2 + i] = out[1 + i];
    for (int i = 0; i < u->nscans; i++)
        if (!keep_piece(l, u, out[1 + u->ncarried + i]))
            return mtbal_no_memory(l->diag);
    u->done++;
    return MTBAL_OK;
}

/* The loop stays: its body is walked with the types of the carried values, which must not change
 * from turn to turn. */
static mtbal_status keep_loop(lowering *l, mtbal_node *node, mtbal_graph *body, const unrolling *u)
{
    if (u->nscans)
        return not_known(l, node,
                         "it stacks outputs, and the number of iterations depends on data "
                         "or is too large");
    MTBAL_TRY(mtbal_set_i(node, "mtbal_first", u->done));
    for (int i = 0; i < body->ninputs; i++) {
        mtbal_value *v = body->inputs[i];
        v->tensor = NULL;
        v->content = NULL;
        if (i >= 2)
            v->type = node->in[i]->type;
        else
            v->type = (mtbal_type){MTBAL_TENSOR, i ? MTBAL_BOOL : MTBAL_INT64, 0, NULL};
    }
    MTBAL_TRY(lower_elaborate(l, body));
    for (int i = 0; i < u->ncarried; i++) {
        const mtbal_type *in = &node->in[2 + i]->type, *out = &body->outputs[1 + i]->type;
        if (in->dtype != out->dtype || !mtbal_shape_known(in) || !mtbal_shape_equal(in, out))
            return not_known(l, node,
                             "a carried value changes its shape, and the number of "
                             "iterations depends on data");
        if (i < node->nout && node->out[i])
            node->out[i]->type = *in;
    }
    return MTBAL_OK;
}

ELABORATE(loop)
{
    mtbal_graph *body = body_of(node, "body");
    int ncarried = node->nin - 2;
    *done = true;
    if (!body || ncarried < 0 || body->ninputs != node->nin || body->noutputs < 1 + ncarried ||
        node->nout > body->noutputs - 1)
        return mtbal_fail(l->diag, MTBAL_INVALID, lower_label(node), "export the model again",
                          "the operands of this Loop do not match its body");
    const mtbal_tensor *count = lower_constant(l, node->in[0]);
    int64_t trips = !node->in[0]                 ? INT64_MAX
                    : count && count->count == 1 ? mtbal_tensor_i64(count, 0)
                                                 : -1;
    int go = node->in[1] ? truth(l, node->in[1]) : 1;
    unrolling *u = find_unrolling(l, node);
    bool first = !u;
    if (!u && !(u = start_unrolling(l, node, ncarried, body->noutputs - 1 - ncarried)))
        return mtbal_no_memory(l->diag);
    int64_t size = count_nodes(body) + 1, limit = MAX_UNROLLED / size;
    if (go == 0 || (trips >= 0 && u->done >= trips)) {
        *walk = LOWER_RENEWED;
        return finish_unrolling(l, node, u, body);
    }
    bool counted = trips >= 0 && trips < INT64_MAX;
    if (go < 0 || trips < 0 || (counted && trips > limit && first) || u->done > limit)
        return keep_loop(l, node, body, u);
    *walk = LOWER_RENEWED;
    return unroll_once(l, node, u, body);
}

/* ------------------------------------------------------------------ Scan (opset 9 and later) */

typedef struct scan {
    mtbal_graph *body;
    int nstates, nin, nout; /* scanned inputs and outputs */
    int64_t length;
    const int64_t *in_axes, *out_axes, *in_back, *out_back; /* or NULL */
    int n_in_axes, n_out_axes, n_in_back, n_out_back;
} scan;

static int64_t listed(const int64_t *list, int n, int i)
{
    return i < n ? list[i] : 0;
}

static mtbal_status read_scan(lowering *l, const mtbal_node *node, scan *s)
{
    s->body = body_of(node, "body");
    s->nin = (int)mtbal_attr_i(node, "num_scan_inputs", 0);
    s->nstates = node->nin - s->nin;
    if (!s->body || s->nin < 1 || s->nstates < 0 || s->body->ninputs != node->nin ||
        s->body->noutputs < node->nout || s->body->noutputs < s->nstates)
        return mtbal_fail(l->diag, MTBAL_INVALID, lower_label(node), "export the model again",
                          "the operands of this Scan do not match its body");
    s->nout = s->body->noutputs - s->nstates;
    s->n_in_axes = mtbal_attr_ints(node, "scan_input_axes", &s->in_axes);
    s->n_out_axes = mtbal_attr_ints(node, "scan_output_axes", &s->out_axes);
    s->n_in_back = mtbal_attr_ints(node, "scan_input_directions", &s->in_back);
    s->n_out_back = mtbal_attr_ints(node, "scan_output_directions", &s->out_back);
    s->length = -1;
    const mtbal_type *t = &node->in[s->nstates]->type;
    int64_t axis = listed(s->in_axes, s->n_in_axes, 0);
    axis += axis < 0 ? t->rank : 0;
    if (t->rank > 0 && axis >= 0 && axis < t->rank)
        s->length = t->dims[axis].size;
    return MTBAL_OK;
}

static mtbal_status scan_step(lowering *l, mtbal_node *node, const scan *s, unrolling *u,
                              mtbal_value **states)
{
    mtbal_builder b;
    mtbal_value **in = mtbal_arena_array(l->arena, (size_t)node->nin, sizeof *in);
    mtbal_value **out = mtbal_arena_array(l->arena, (size_t)s->body->noutputs + 1, sizeof *out);
    if (!in || !out)
        return mtbal_no_memory(l->diag);
    mtbal_builder_init(&b, node->graph, node, l->diag);
    for (int i = 0; i < node->nin; i++) {
        int k = i - s->nstates;
        if (k < 0) {
            in[i] = states[i];
            continue;
        }
        int64_t axis = listed(s->in_axes, s->n_in_axes, k);
        int64_t at = listed(s->in_back, s->n_in_back, k) ? s->length - 1 - u->done : u->done;
        mtbal_value *operands[2] = {node->in[i],
                                    lower_new_constant(l, node->graph, MTBAL_INT64, 0, NULL, &at)};
        mtbal_node *gather = mtbal_emit_node(&b, "", "Gather", 2, operands, 1, &in[i]);
        if (!gather || mtbal_set_i(gather, "axis", axis) != MTBAL_OK)
            return mtbal_no_memory(l->diag);
    }
    MTBAL_TRY(lower_copy_body(l, s->body, node, node->nin, in, out));
    for (int i = 0; i < s->nstates; i++)
        states[i] = out[i];
    for (int i = 0; i < s->nout; i++)
        if (!keep_piece(l, u, out[s->nstates + i]))
            return mtbal_no_memory(l->diag);
    u->done++;
    return MTBAL_OK;
}

ELABORATE(scan)
{
    scan s;
    *done = true;
    if (lower_opset(l, node) < 9)
        return not_known(l, node, "a Scan of opset 8, over batches");
    MTBAL_TRY(read_scan(l, node, &s));
    if (s.length < 0)
        return not_known(l, node, "the length of what it scans is not known");
    if (s.length * (count_nodes(s.body) + 1) > 4 * MAX_UNROLLED)
        return not_known(l, node, "it is too long to be written out");
    unrolling *u = start_unrolling(l, node, s.nstates, s.nout);
    mtbal_value **to =
        mtbal_arena_array(l->arena, (size_t)(s.nstates + node->nout) + 1, sizeof *to);
    if (!u || !to)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < s.nstates; i++)
        to[i] = node->in[i];
    while (u->done < s.length)
        MTBAL_TRY(scan_step(l, node, &s, u, to));
    for (int i = s.nstates; i < node->nout; i++) {
        int k = i - s.nstates;
        int64_t axis = listed(s.out_axes, s.n_out_axes, k);
        bool back = listed(s.out_back, s.n_out_back, k) != 0;
        if (!node->out[i])
            continue;
        to[i] = s.length ? join_pieces(l, node, u, k, axis, back)
                         : empty_scan(l, node, &s.body->outputs[i]->type);
        if (!to[i])
            return mtbal_no_memory(l->diag);
    }
    *walk = LOWER_RENEWED;
    return lower_replace_node(l, node, node->nout, to);
}
