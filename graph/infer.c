/* graph/infer.c: shape inference: the walk over a graph, and what shape functions lean on. */
#include "graph/ops/shapes.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ for shape functions */

mtbal_value *shape_in(const mtbal_infer *s, int i)
{
    return i < s->node->nin ? s->node->in[i] : NULL;
}

mtbal_value *shape_out(const mtbal_infer *s, int i)
{
    return i < s->node->nout ? s->node->out[i] : NULL;
}

const mtbal_type *shape_type(const mtbal_infer *s, int i)
{
    static const mtbal_type none = {MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    const mtbal_value *v = shape_in(s, i);
    return v ? &v->type : &none;
}

mtbal_dim shape_unknown(void)
{
    return (mtbal_dim){-1, NULL};
}

mtbal_status shape_error(mtbal_infer *s, const char *format, ...)
{
    char where[256], what[1024];
    const mtbal_node *node = s->node;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(where, sizeof where, "node %s (%s)",
             *node->name                  ? node->name
             : node->nout && node->out[0] ? node->out[0]->name
                                          : "?",
             node->op);
    return mtbal_fail(s->diag, MTBAL_INVALID, where,
                      "the model's shapes contradict each other: export it again", "%s", what);
}

mtbal_status shape_set(mtbal_infer *s, int i, mtbal_dtype dtype, int rank, const mtbal_dim *dims)
{
    mtbal_value *v = shape_out(s, i);
    if (!v)
        return MTBAL_OK;
    mtbal_type *old = &v->type;
    if (dtype != MTBAL_UNDEFINED)
        old->dtype = dtype;
    if (rank < 0 || rank > SHAPE_MAX_RANK)
        return MTBAL_OK;
    mtbal_dim *copy = mtbal_arena_copy(s->model->arena, dims, (size_t)rank * sizeof *dims);
    if (!copy)
        return mtbal_no_memory(s->diag);
    for (int d = 0; d < rank && old->rank == rank; d++)
        if (copy[d].size < 0 && (!copy[d].symbol || old->dims[d].size >= 0) &&
            (old->dims[d].size >= 0 || old->dims[d].symbol))
            copy[d] = old->dims[d];
    *old = (mtbal_type){MTBAL_TENSOR, old->dtype, rank, copy};
    return MTBAL_OK;
}

mtbal_status shape_set_type(mtbal_infer *s, int i, const mtbal_type *type)
{
    if (type->kind != MTBAL_TENSOR) {
        if (shape_out(s, i))
            shape_out(s, i)->type = *type;
        return MTBAL_OK;
    }
    return shape_set(s, i, type->dtype, type->rank, type->dims);
}

mtbal_status shape_set_content(mtbal_infer *s, int n, const mtbal_dim *content)
{
    mtbal_value *v = shape_out(s, 0);
    if (!v || n > SHAPE_MAX_CONTENT)
        return MTBAL_OK;
    v->content = mtbal_arena_copy(s->model->arena, content, (size_t)n * sizeof *content);
    v->ncontent = n;
    return v->content ? MTBAL_OK : mtbal_no_memory(s->diag);
}

int shape_content(const mtbal_infer *s, int i, const mtbal_dim **content)
{
    mtbal_value *v = shape_in(s, i);
    if (!v)
        return -1;
    if (!v->content && v->tensor && !v->is_input && v->tensor->count <= SHAPE_MAX_CONTENT &&
        (v->tensor->dtype == MTBAL_INT64 || v->tensor->dtype == MTBAL_INT32) &&
        v->tensor->rank <= 1 && mtbal_tensor_load(s->model, v->tensor, NULL) == MTBAL_OK &&
        (v->tensor->data || !v->tensor->count)) {
        mtbal_dim *dims =
            mtbal_arena_array(s->model->arena, (size_t)v->tensor->count, sizeof *dims);
        for (int64_t k = 0; dims && k < v->tensor->count; k++) {
            int64_t x = mtbal_tensor_i64(v->tensor, k);
            char text[32];
            snprintf(text, sizeof text, "%lld", (long long)x);
            dims[k] =
                x < 0 ? (mtbal_dim){-1, mtbal_intern(s->model->arena, text)} : mtbal_dim_const(x);
        }
        v->content = dims;
        v->ncontent = (int)v->tensor->count;
    }
    *content = v->content;
    return v->content ? v->ncontent : -1;
}

/* A negative number in a content has size below -1, or is -1 with the symbol of no text: contents
 * of constants are read here from the tensor itself. */
int shape_ints(const mtbal_infer *s, int i, int64_t *values)
{
    const mtbal_value *v = shape_in(s, i);
    const mtbal_dim *content;
    if (!v)
        return -1;
    if (v->tensor && !v->is_input && v->tensor->count <= SHAPE_MAX_CONTENT &&
        v->tensor->rank <= 1 && mtbal_tensor_load(s->model, v->tensor, NULL) == MTBAL_OK &&
        (v->tensor->data || !v->tensor->count)) {
        for (int64_t k = 0; k < v->tensor->count; k++)
            values[k] = mtbal_tensor_i64(v->tensor, k);
        return (int)v->tensor->count;
    }
    int n = shape_content(s, i, &content);
    for (int k = 0; k < n; k++) {
        bool negative =
            content[k].size < 0 && content[k].symbol && content[k].symbol[0] == '-' &&
            strspn(content[k].symbol + 1, "0123456789") == strlen(content[k].symbol + 1);
        if (content[k].size < 0 && !negative)
            return -1;
        values[k] = negative ? strtoll(content[k].symbol, NULL, 10) : content[k].size;
    }
    return n;
}

int64_t shape_axis(const mtbal_infer *s, const char *name, int64_t otherwise, int rank)
{
    int64_t axis = mtbal_attr_i(s->node, name, otherwise);
    return axis < 0 && rank >= 0 ? axis + rank : axis;
}

int shape_axes(mtbal_infer *s, int input, int rank, int64_t *axes, bool *all, mtbal_status *status)
{
    const int64_t *given;
    int n = mtbal_attr_ints(s->node, "axes", &given);
    *status = MTBAL_OK;
    *all = false;
    if (n > SHAPE_MAX_RANK)
        return -1;
    if (n >= 0) {
        memcpy(axes, given, (size_t)n * sizeof *axes);
    } else if (!shape_in(s, input)) {
        *all = true;
        return 0;
    } else {
        n = shape_ints(s, input, axes);
        *all = n == 0;
    }
    for (int i = 0; i < n; i++) {
        axes[i] += axes[i] < 0 ? rank : 0;
        if (axes[i] < 0 || axes[i] >= rank) {
            *status = shape_error(s, "axis %lld of a tensor of rank %d", (long long)axes[i], rank);
            return -1;
        }
    }
    return n;
}

mtbal_status shape_broadcast(mtbal_infer *s, int ra, const mtbal_dim *a, int rb, const mtbal_dim *b,
                             int *rank, mtbal_dim *dims)
{
    *rank = ra < 0 || rb < 0 ? -1 : ra > rb ? ra : rb;
    for (int i = 0; i < *rank; i++) {
        int ia = i - (*rank - ra), ib = i - (*rank - rb);
        mtbal_dim x = ia < 0 ? mtbal_dim_const(1) : a[ia], y = ib < 0 ? mtbal_dim_const(1) : b[ib];
        if (x.size == 1 || mtbal_dim_equal(x, y))
            dims[i] = y;
        else if (y.size == 1)
            dims[i] = x;
        else if (x.size >= 0 && y.size >= 0)
            return shape_error(s, "%s and %s cannot be broadcast: axis %d is %lld and %lld",
                               shape_in(s, 0) ? shape_in(s, 0)->name : "?",
                               shape_in(s, 1) ? shape_in(s, 1)->name : "?", i, (long long)x.size,
                               (long long)y.size);
        else /* a number above 1 decides; two different symbols may be 1 or equal */
            dims[i] = x.size > 1 ? x : y.size > 1 ? y : shape_unknown();
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the walk */

enum { MAX_DEPTH = 64 };

static mtbal_status infer_at(mtbal_node *node, int depth, mtbal_diag *diag);

/* The node's attributes with references replaced by what the call gives (or the function's
 * default). */
static mtbal_status bind_attrs(const mtbal_infer *s, const mtbal_function *f, mtbal_node *node)
{
    mtbal_attr *list = NULL, **link = &list;
    bool refers = false;
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        refers = refers || a->ref;
    for (const mtbal_attr *a = node->attrs; a && refers; a = a->next) {
        const mtbal_attr *given = a->ref ? mtbal_attr_find(s->node, a->ref) : a;
        for (const mtbal_attr *d = f->defaults; d && !given; d = d->next)
            given = strcmp(d->name, a->ref) ? NULL : d;
        if (!given)
            continue;
        *link = mtbal_arena_copy(s->model->arena, given, sizeof *given);
        if (!*link)
            return mtbal_no_memory(s->diag);
        (*link)->name = a->name;
        (*link)->next = NULL;
        link = &(*link)->next;
    }
    if (refers)
        node->attrs = list;
    return MTBAL_OK;
}

/* Shape function `function`: a model-local function's outputs through its body, with the call's
 * types. */
static mtbal_status infer_call(mtbal_infer *s, const mtbal_function *f, int depth)
{
    mtbal_graph *body = f->body;
    if (depth > MAX_DEPTH)
        return shape_error(s, "functions call each other more than %d deep", MAX_DEPTH);
    for (int i = 0; i < body->ninputs; i++) {
        mtbal_value *from = shape_in(s, i), *to = body->inputs[i];
        to->type = from ? from->type : (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
        to->content = from ? from->content : NULL;
        to->ncontent = from ? from->ncontent : 0;
        to->tensor = from && !from->is_input ? from->tensor : NULL;
    }
    for (mtbal_node *node = body->first; node; node = node->next) {
        for (int i = 0; i < node->nout; i++)
            if (node->out[i]) {
                node->out[i]->type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
                node->out[i]->content = NULL;
            }
        mtbal_attr *own = node->attrs;
        MTBAL_TRY(bind_attrs(s, f, node));
        mtbal_status status = infer_at(node, depth + 1, s->diag);
        node->attrs = own;
        MTBAL_TRY(status);
    }
    for (int i = 0; i < body->noutputs; i++)
        MTBAL_TRY(shape_set_type(s, i, &body->outputs[i]->type));
    return MTBAL_OK;
}

static mtbal_status infer_at(mtbal_node *node, int depth, mtbal_diag *diag)
{
    mtbal_model *model = node->graph->model;
    mtbal_infer s = {model, node, mtbal_opset_of(model, node->domain), diag};
    if (node->opcode >= 0 && mtbal_ops[node->opcode].shape)
        return mtbal_ops[node->opcode].shape(&s);
    const mtbal_function *f = mtbal_function_find(model, node->domain, node->op, node->overload);
    return f ? infer_call(&s, f, depth) : MTBAL_OK;
}

mtbal_status mtbal_infer_node(mtbal_node *node, mtbal_diag *diag)
{
    return infer_at(node, 0, diag);
}

mtbal_status mtbal_infer_graph(mtbal_graph *graph, mtbal_diag *diag)
{
    for (mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(infer_at(node, 0, diag));
    return MTBAL_OK;
}
