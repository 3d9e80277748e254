/* graph/ops/control.c: If, Loop, Scan, SequenceMap. */
#include "graph/ops/shapes.h"

#include <string.h>

/* ------------------------------------------------------------------ for subgraphs */

mtbal_graph *shape_body(mtbal_infer *s, const char *attr)
{
    const mtbal_attr *a = mtbal_attr_find(s->node, attr);
    if (a && a->g)
        return a->g;
    shape_error(s, "the attribute %s, a graph, is missing", attr);
    return NULL;
}

mtbal_status shape_enter(mtbal_infer *s, mtbal_graph *body, int i, const mtbal_type *type)
{
    mtbal_value *v = i < body->ninputs ? body->inputs[i] : NULL;
    if (!v)
        return MTBAL_OK;
    v->content = NULL;
    v->type.kind = type->kind;
    if (type->dtype != MTBAL_UNDEFINED)
        v->type.dtype = type->dtype;
    if (type->rank < 0)
        return MTBAL_OK;
    mtbal_dim *dims =
        mtbal_arena_copy(s->model->arena, type->dims, (size_t)type->rank * sizeof *dims);
    if (!dims)
        return mtbal_no_memory(s->diag);
    for (int d = 0; d < type->rank && v->type.rank == type->rank; d++)
        if (shape_is_unknown(dims[d]))
            dims[d] = v->type.dims[d];
    v->type.rank = type->rank;
    v->type.dims = dims;
    return MTBAL_OK;
}

mtbal_type shape_common(mtbal_infer *s, const mtbal_type *a, const mtbal_type *b, mtbal_dim *dims)
{
    mtbal_type both = *a;
    both.dtype = a->dtype ? a->dtype : b->dtype;
    both.dims = dims;
    if (a->kind != b->kind || (a->dtype != b->dtype && a->dtype && b->dtype))
        return (mtbal_type){MTBAL_OTHER, MTBAL_UNDEFINED, -1, NULL};
    if (a->rank != b->rank || a->rank > SHAPE_MAX_RANK)
        both.rank = -1;
    for (int d = 0; d < both.rank; d++)
        dims[d] = shape_same_dim(s->model, a->dims[d], b->dims[d]) ? a->dims[d] : shape_unknown();
    return both;
}

/* ------------------------------------------------------------------ If */

static mtbal_status pass_output(mtbal_infer *s, int i, const mtbal_value *from)
{
    MTBAL_TRY(shape_set_type(s, i, &from->type));
    return from->content ? shape_set_content(s, i, from->ncontent, from->content) : MTBAL_OK;
}

/* A branch that contradicts itself is never taken (exporters write one that squeezes an axis and
 * one that does not): *good is false. */
static mtbal_status infer_branch(mtbal_infer *s, mtbal_graph *branch, bool *good)
{
    mtbal_diag own = {0}, *outer = s->diag;
    s->diag = &own;
    mtbal_status status = shape_subgraph(s, branch);
    s->diag = outer;
    *good = status != MTBAL_INVALID;
    return *good ? status : MTBAL_OK;
}

/* The branch that is certainly taken, or what both have in common. */
mtbal_status mtbal_shape_if(mtbal_infer *s)
{
    mtbal_graph *yes = shape_body(s, "then_branch"), *no = shape_body(s, "else_branch");
    int64_t condition = -1;
    mtbal_dim dims[SHAPE_MAX_RANK];
    bool good[2];
    if (!yes || !no)
        return MTBAL_INVALID;
    if (s->node->nout > yes->noutputs || s->node->nout > no->noutputs)
        return shape_error(s, "it has %d outputs, but its branches %d and %d", s->node->nout,
                           yes->noutputs, no->noutputs);
    MTBAL_TRY(infer_branch(s, yes, &good[0]));
    MTBAL_TRY(infer_branch(s, no, &good[1]));
    bool known = shape_scalar_int(s, 0, &condition);
    if ((known && !good[!condition]) || (!good[0] && !good[1])) /* once more, for the message */
        return shape_subgraph(s, known && !condition ? no : yes);
    for (int i = 0; i < s->node->nout; i++) {
        if (known || !good[0] || !good[1]) {
            bool first = known ? condition : good[0];
            MTBAL_TRY(pass_output(s, i, first ? yes->outputs[i] : no->outputs[i]));
            continue;
        }
        mtbal_type both = shape_common(s, &yes->outputs[i]->type, &no->outputs[i]->type, dims);
        MTBAL_TRY(shape_set_type(s, i, &both));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Loop */

/* Does the body's condition stay what it is, true? */
static bool runs_through(const mtbal_infer *s, const mtbal_graph *body)
{
    const mtbal_value *out = body->noutputs ? body->outputs[0] : NULL;
    int64_t first = 1;
    if (shape_in(s, 1) && !(shape_scalar_int(s, 1, &first) && first))
        return false;
    while (out && out->def && mtbal_node_is(out->def, MTBAL_OP_identity) && out->def->nin == 1)
        out = out->def->in[0];
    if (!out)
        return false;
    if (out == body->inputs[1] || out == shape_in(s, 1))
        return true;
    const mtbal_tensor *t = out->is_input ? NULL : out->tensor;
    return t && t->data && t->count == 1 && mtbal_tensor_i64(t, 0);
}

/* Carried values keep the type that they enter with in so far as the body gives it back: it is
 * inferred again with what differs made unknown, until nothing differs. */
static mtbal_status settle(mtbal_infer *s, mtbal_graph *body, int carried, int first_in,
                           int first_body, int first_out)
{
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int round = 0;; round++) {
        bool changed = false;
        MTBAL_TRY(shape_subgraph(s, body));
        for (int i = 0; i < carried; i++) {
            if (i + first_body >= body->ninputs || i + first_out >= body->noutputs)
                return shape_error(s, "its body has %d inputs and %d outputs: too few",
                                   body->ninputs, body->noutputs);
            mtbal_type *in = &body->inputs[i + first_body]->type;
            const mtbal_type *out = &body->outputs[i + first_out]->type;
            if (in->rank < 0 || in->kind != out->kind ||
                (out->rank == in->rank && mtbal_shape_equal(in, out)))
                continue;
            mtbal_type both = shape_common(s, in, out, dims);
            bool worse = both.rank != in->rank;
            for (int d = 0; d < both.rank; d++)
                worse = worse || (shape_is_unknown(dims[d]) && !shape_is_unknown(in->dims[d]));
            if (!worse)
                continue;
            changed = true;
            in->rank = -1;
            MTBAL_TRY(shape_enter(s, body, i + first_body, &both));
        }
        if (!changed || round == SHAPE_MAX_RANK)
            break;
        shape_forget(body);
    }
    for (int i = 0; i < carried; i++) {
        mtbal_type both =
            shape_common(s, shape_type(s, i + first_in), &body->outputs[i + first_out]->type, dims);
        MTBAL_TRY(shape_set_type(s, i, &both));
    }
    return MTBAL_OK;
}

/* Trip count, condition, carried values -> carried values, then scan outputs: what the body gives,
 * with a new first axis. The body has the iteration and the condition before the carried values,
 * and the condition before its outputs. */
mtbal_status mtbal_shape_loop(mtbal_infer *s)
{
    mtbal_graph *body = shape_body(s, "body");
    const mtbal_type trip = {MTBAL_TENSOR, MTBAL_INT64, 0, NULL},
                     condition = {MTBAL_TENSOR, MTBAL_BOOL, 0, NULL};
    int carried = s->node->nin > 2 ? s->node->nin - 2 : 0;
    if (!body)
        return MTBAL_INVALID;
    if (body->ninputs < carried + 2 || body->noutputs < carried + 1)
        return shape_error(s, "its body has %d inputs and %d outputs: too few", body->ninputs,
                           body->noutputs);
    MTBAL_TRY(shape_enter(s, body, 0, &trip));
    MTBAL_TRY(shape_enter(s, body, 1, &condition));
    for (int i = 0; i < carried; i++)
        MTBAL_TRY(shape_enter(s, body, i + 2, shape_type(s, i + 2)));
    MTBAL_TRY(settle(s, body, carried, 2, 2, 1));
    mtbal_dim trips = runs_through(s, body) ? shape_scalar(s, 0) : shape_unknown();
    for (int i = carried; i < s->node->nout && i + 1 < body->noutputs; i++) {
        const mtbal_type *t = &body->outputs[i + 1]->type;
        mtbal_dim dims[SHAPE_MAX_RANK + 1] = {trips};
        for (int d = 0; d < t->rank && d < SHAPE_MAX_RANK; d++)
            dims[d + 1] = t->dims[d];
        MTBAL_TRY(shape_set(s, i, t->dtype, t->rank < 0 ? -1 : t->rank + 1, dims));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Scan */

/* An entry of one of Scan's lists of axes, normalised; -1 when it is out of range. */
static int64_t scan_axis(const mtbal_infer *s, const char *name, int i, int rank)
{
    const int64_t *axes;
    int n = mtbal_attr_ints(s->node, name, &axes);
    int64_t axis = i >= 0 && i < n ? axes[i] : 0;
    axis += axis < 0 ? rank : 0;
    return axis < rank ? axis : -1;
}

/* States and sequences -> states and sequences. Opset 8 has the lengths of the sequences first,
 * and a batch axis (before the axis that is scanned) everywhere. */
mtbal_status mtbal_shape_scan(mtbal_infer *s)
{
    mtbal_graph *body = shape_body(s, "body");
    int lead = s->opset < 9, nscan = (int)mtbal_attr_i(s->node, "num_scan_inputs", 0);
    int nstates = s->node->nin - lead - nscan;
    mtbal_dim length = shape_unknown(), batch = shape_unknown(), dims[SHAPE_MAX_RANK + 2];
    if (!body)
        return MTBAL_INVALID;
    if (nscan < 1 || nstates < 0 || body->ninputs < nstates + nscan || body->noutputs < nstates)
        return shape_error(s, "it has %d inputs, %d of them sequences, but its body %d",
                           s->node->nin, nscan, body->ninputs);
    for (int i = 0; i < nstates + nscan; i++) {
        mtbal_type t = *shape_type(s, i + lead);
        int n = 0;
        int64_t axis = lead ? 1 : scan_axis(s, "scan_input_axes", i - nstates, t.rank);
        for (int d = 0; d < t.rank; d++) {
            if (lead && d == 0)
                batch = shape_is_unknown(batch) ? t.dims[d] : batch;
            else if (i >= nstates && d == axis)
                length = shape_is_unknown(length) ? t.dims[d] : length;
            else
                dims[n++] = t.dims[d];
        }
        t.rank = t.rank < 0 ? -1 : n;
        t.dims = dims;
        MTBAL_TRY(shape_enter(s, body, i, &t));
    }
    if (!lead)
        MTBAL_TRY(settle(s, body, nstates, 0, 0, 0));
    else
        MTBAL_TRY(shape_subgraph(s, body));
    for (int i = lead ? 0 : nstates; i < s->node->nout && i < body->noutputs; i++) {
        const mtbal_type *t = &body->outputs[i]->type;
        int rank = t->rank + (i >= nstates), n = 0;
        int64_t axis = lead ? 0 : scan_axis(s, "scan_output_axes", i - nstates, rank);
        if (t->rank < 0 || rank + lead > SHAPE_MAX_RANK || axis < 0) {
            MTBAL_TRY(shape_set(s, i, t->dtype, -1, NULL));
            continue;
        }
        if (lead)
            dims[n++] = batch;
        for (int d = 0, from = 0; d < rank; d++)
            dims[n++] = i >= nstates && d == axis ? length : t->dims[from++];
        MTBAL_TRY(shape_set(s, i, t->dtype, n, dims));
    }
    return MTBAL_OK;
}

/* The body once for each element of the sequences. */
mtbal_status mtbal_shape_sequence_map(mtbal_infer *s)
{
    mtbal_graph *body = shape_body(s, "body");
    if (!body)
        return MTBAL_INVALID;
    for (int i = 0; i < s->node->nin; i++) {
        mtbal_type element = *shape_type(s, i);
        element.kind = MTBAL_TENSOR;
        MTBAL_TRY(shape_enter(s, body, i, &element));
    }
    MTBAL_TRY(shape_subgraph(s, body));
    for (int i = 0; i < s->node->nout && i < body->noutputs; i++)
        MTBAL_TRY(shape_set_kind(s, i, MTBAL_SEQUENCE, &body->outputs[i]->type));
    return MTBAL_OK;
}
