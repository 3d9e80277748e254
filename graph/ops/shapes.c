/* graph/ops/shapes.c: what shape functions lean on. */
#include "graph/ops/shapes.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ operands */

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
    return v && v->type.rank <= SHAPE_MAX_RANK ? &v->type : &none;
}

const char *shape_name(const mtbal_infer *s, int i)
{
    const mtbal_value *v = shape_in(s, i);
    return v ? v->name : "an omitted operand";
}

/* ------------------------------------------------------------------ results */

mtbal_status shape_error(mtbal_infer *s, const char *format, ...)
{
    char where[256], what[1024];
    const mtbal_node *node = s->node;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    const char *name = node->name && *node->name    ? node->name
                       : node->nout && node->out[0] ? node->out[0]->name
                                                    : "?";
    snprintf(where, sizeof where, "node %s (%s)", name, node->op);
    return mtbal_fail(s->diag, MTBAL_INVALID, where,
                      "correct the shapes of the model's inputs or weights, or export it again",
                      "%s", what);
}

/* A dimension as inferred, or as it was declared where that says more. */
static mtbal_dim refined(mtbal_dim computed, mtbal_dim declared)
{
    if (computed.size >= 0 || shape_is_unknown(declared))
        return computed;
    return declared.size >= 0 || !computed.symbol ? declared : computed;
}

mtbal_status shape_set(mtbal_infer *s, int i, mtbal_dtype dtype, int rank, const mtbal_dim *dims)
{
    mtbal_value *v = shape_out(s, i);
    if (!v)
        return MTBAL_OK;
    mtbal_type *old = &v->type;
    bool same = old->rank == rank && old->kind == MTBAL_TENSOR;
    if (dtype != MTBAL_UNDEFINED)
        old->dtype = dtype;
    if (rank < 0 || rank > SHAPE_MAX_RANK)
        return MTBAL_OK;
    mtbal_dim merged[SHAPE_MAX_RANK];
    bool changed = !same;
    for (int d = 0; d < rank; d++) {
        merged[d] = same ? refined(dims[d], old->dims[d]) : dims[d];
        changed = changed || merged[d].size != old->dims[d].size ||
                  merged[d].symbol != old->dims[d].symbol;
    }
    if (!changed)
        return MTBAL_OK;
    mtbal_dim *copy = mtbal_arena_copy(s->model->arena, merged, (size_t)rank * sizeof *copy);
    if (!copy)
        return mtbal_no_memory(s->diag);
    *old = (mtbal_type){MTBAL_TENSOR, old->dtype, rank, copy};
    return MTBAL_OK;
}

mtbal_status shape_set_kind(mtbal_infer *s, int i, mtbal_kind kind, const mtbal_type *element)
{
    mtbal_value *v = shape_out(s, i);
    if (!v)
        return MTBAL_OK;
    MTBAL_TRY(shape_set(s, i, element->dtype, element->rank, element->dims));
    if (element->rank < 0)
        v->type.rank = -1;
    v->type.kind = kind;
    return MTBAL_OK;
}

mtbal_status shape_set_type(mtbal_infer *s, int i, const mtbal_type *type)
{
    return type->kind == MTBAL_TENSOR ? shape_set(s, i, type->dtype, type->rank, type->dims)
                                      : shape_set_kind(s, i, type->kind, type);
}

static bool counts(const mtbal_type *type)
{
    return type->kind == MTBAL_TENSOR && (type->rank == 0 || type->rank == 1) &&
           (type->dtype == MTBAL_INT64 || type->dtype == MTBAL_INT32 || type->dtype == MTBAL_BOOL);
}

mtbal_status shape_set_content(mtbal_infer *s, int i, int n, const mtbal_dim *content)
{
    mtbal_value *v = shape_out(s, i);
    bool any = n == 0;
    for (int k = 0; k < n; k++)
        any = any || !shape_is_unknown(content[k]);
    if (!v || n < 0 || n > SHAPE_MAX_CONTENT || !counts(&v->type) || !any)
        return MTBAL_OK;
    if (v->type.rank == 0 ? n != 1 : v->type.dims[0].size != n)
        return MTBAL_OK;
    v->content = mtbal_arena_copy(s->model->arena, content, (size_t)n * sizeof *content);
    v->ncontent = n;
    return v->content ? MTBAL_OK : mtbal_no_memory(s->diag);
}

/* ------------------------------------------------------------------ contents */

/* The constant that a value holds, loaded; NULL when it holds none or one of more than `most`
 * elements. Before IR 4 every initializer had to be listed as an input. */
static const mtbal_tensor *constant(const mtbal_infer *s, const mtbal_value *v, int most)
{
    bool fixed = v && (!v->is_input || s->model->ir_version < 4);
    mtbal_tensor *t = fixed ? v->tensor : NULL;
    if (!t || t->count > most || mtbal_tensor_load(s->model, t, NULL) != MTBAL_OK)
        return NULL;
    return t->data || t->count == 0 ? t : NULL;
}

int shape_content(const mtbal_infer *s, int i, const mtbal_dim **content)
{
    mtbal_value *v = shape_in(s, i);
    if (!v)
        return -1;
    const mtbal_tensor *t = v->content ? NULL : constant(s, v, SHAPE_MAX_CONTENT);
    bool small = t && t->rank <= 1 &&
                 (t->dtype == MTBAL_INT64 || t->dtype == MTBAL_INT32 || t->dtype == MTBAL_BOOL);
    if (small) {
        mtbal_dim *dims = mtbal_arena_array(s->model->arena, (size_t)t->count, sizeof *dims);
        for (int64_t k = 0; dims && k < t->count; k++)
            dims[k] = shape_number(s->model, mtbal_tensor_i64(t, k));
        v->content = dims;
        v->ncontent = (int)t->count;
    }
    *content = v->content;
    return v->content ? v->ncontent : -1;
}

int shape_ints(const mtbal_infer *s, int i, int64_t *values)
{
    const mtbal_dim *content;
    const mtbal_tensor *t = constant(s, shape_in(s, i), SHAPE_MAX_CONTENT);
    if (t && t->rank <= 1 && !mtbal_dtype_is_float(t->dtype) && mtbal_dtype_size(t->dtype)) {
        for (int64_t k = 0; k < t->count; k++)
            values[k] = mtbal_tensor_i64(t, k);
        return (int)t->count;
    }
    int n = shape_content(s, i, &content);
    for (int k = 0; k < n; k++)
        if (!shape_is_number(content[k], &values[k]))
            return -1;
    return n;
}

mtbal_dim shape_scalar(const mtbal_infer *s, int i)
{
    const mtbal_dim *content;
    return shape_content(s, i, &content) == 1 ? content[0] : shape_unknown();
}

bool shape_scalar_int(const mtbal_infer *s, int i, int64_t *value)
{
    int64_t values[SHAPE_MAX_CONTENT];
    bool known = shape_ints(s, i, values) == 1;
    if (known)
        *value = values[0];
    return known;
}

/* Exporters give the scales of Resize as a Concat of constants. */
static int reals_of(const mtbal_infer *s, const mtbal_value *v, double *values, int room, int depth)
{
    const mtbal_tensor *t = constant(s, v, room);
    const mtbal_node *def = v ? v->def : NULL;
    int n = 0;
    if (t && mtbal_dtype_size(t->dtype)) {
        for (int64_t k = 0; k < t->count; k++)
            values[k] = mtbal_tensor_f64(t, k);
        return (int)t->count;
    }
    if (!def || depth == 4 ||
        !(mtbal_node_is(def, MTBAL_OP_concat) || mtbal_node_is(def, MTBAL_OP_identity)))
        return -1;
    for (int i = 0; i < def->nin; i++) {
        int part = reals_of(s, def->in[i], values + n, room - n, depth + 1);
        if (part < 0)
            return -1;
        n += part;
    }
    return n;
}

int shape_reals(const mtbal_infer *s, int i, double *values)
{
    return reals_of(s, shape_in(s, i), values, SHAPE_MAX_CONTENT, 0);
}

int shape_attr_or_ints(const mtbal_infer *s, const char *attr, int input, int64_t *values)
{
    const int64_t *given;
    int n = mtbal_attr_ints(s->node, attr, &given);
    if (n < 0)
        return shape_ints(s, input, values);
    if (n > SHAPE_MAX_CONTENT)
        return -1;
    if (n)
        memcpy(values, given, (size_t)n * sizeof *values);
    return n;
}

int shape_many_ints(const mtbal_infer *s, const char *attr, int input, int64_t *few,
                    const int64_t **values)
{
    int n = mtbal_attr_ints(s->node, attr, values);
    if (n >= 0)
        return n;
    *values = few;
    const mtbal_tensor *t = constant(s, shape_in(s, input), INT_MAX);
    if (!t || t->count <= SHAPE_MAX_CONTENT || t->rank != 1 || mtbal_dtype_is_float(t->dtype) ||
        !mtbal_dtype_size(t->dtype))
        return shape_ints(s, input, few);
    int64_t *all = mtbal_arena_array(s->model->arena, (size_t)t->count, sizeof *all);
    for (int64_t k = 0; all && k < t->count; k++)
        all[k] = mtbal_tensor_i64(t, k);
    *values = all;
    return all ? (int)t->count : -1;
}

/* ------------------------------------------------------------------ dimensions */

mtbal_dim shape_unknown(void)
{
    return (mtbal_dim){-1, NULL};
}

bool shape_is_unknown(mtbal_dim d)
{
    return d.size < 0 && !d.symbol;
}

mtbal_dim shape_number(mtbal_model *model, int64_t x)
{
    char text[32];
    if (x >= 0)
        return mtbal_dim_const(x);
    snprintf(text, sizeof text, "%lld", (long long)x);
    return (mtbal_dim){-1, mtbal_intern(model->arena, text)};
}

bool shape_is_number(mtbal_dim d, int64_t *x)
{
    *x = d.size;
    if (d.size >= 0)
        return true;
    if (!d.symbol || *d.symbol != '-' || !d.symbol[1] ||
        d.symbol[1 + strspn(d.symbol + 1, "0123456789")])
        return false;
    *x = strtoll(d.symbol, NULL, 10);
    return true;
}

bool shape_same_dim(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    if (mtbal_dim_equal(a, b))
        return true;
    if (a.size >= 0 || b.size >= 0 || !a.symbol || !b.symbol)
        return false;
    /* two names are different; only expressions may be written in two ways */
    if (!a.symbol[strcspn(a.symbol, "+-*/( ")] && !b.symbol[strcspn(b.symbol, "+-*/( ")])
        return false;
    return mtbal_dim_sub(model, a, b).size == 0;
}

mtbal_dim shape_plus(mtbal_model *model, mtbal_dim d, int64_t by)
{
    if (by == INT64_MIN)
        return shape_unknown();
    return by >= 0 ? mtbal_dim_add(model, d, mtbal_dim_const(by))
                   : mtbal_dim_sub(model, d, mtbal_dim_const(-by));
}

mtbal_dim shape_product(mtbal_model *model, int n, const mtbal_dim *dims)
{
    mtbal_dim product = mtbal_dim_const(1);
    for (int i = 0; i < n; i++)
        product = mtbal_dim_mul(model, product, dims[i]);
    return product;
}

mtbal_status shape_unify(mtbal_infer *s, int axis, mtbal_dim *d, mtbal_dim other)
{
    if (d->size >= 0 && other.size >= 0 && d->size != other.size)
        return shape_error(s, "axis %d is %lld of one operand and %lld of another", axis,
                           (long long)d->size, (long long)other.size);
    if (other.size >= 0 || shape_is_unknown(*d))
        *d = other;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ axes, broadcasting */

mtbal_status shape_axis(mtbal_infer *s, const char *name, int64_t otherwise, int rank, int beyond,
                        int64_t *axis)
{
    int64_t given = mtbal_attr_i(s->node, name, otherwise), end = (int64_t)rank + beyond;
    *axis = given < 0 ? given + end : given;
    if (*axis < 0 || *axis >= end)
        return shape_error(s, "%s is %lld, but %s has rank %d", name, (long long)given,
                           shape_name(s, 0), rank);
    return MTBAL_OK;
}

int shape_axes(mtbal_infer *s, int input, int rank, int64_t *axes, bool *all, mtbal_status *status)
{
    bool given = mtbal_attr_find(s->node, "axes") || shape_in(s, input);
    int n = given ? shape_attr_or_ints(s, "axes", input, axes) : 0;
    *status = MTBAL_OK;
    *all = n == 0;
    if (n > SHAPE_MAX_RANK)
        return -1;
    for (int i = 0; i < n; i++) {
        int64_t axis = axes[i];
        axes[i] += axis < 0 ? rank : 0;
        if (axes[i] < 0 || axes[i] >= rank) {
            *status = shape_error(s, "axis %lld of %s, which has rank %d", (long long)axis,
                                  shape_name(s, 0), rank);
            return -1;
        }
    }
    return n;
}

/* [2,batch,?] for a message. */
static void shape_text(char *text, size_t size, int rank, const mtbal_dim *dims)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && n < size; i++) {
        if (dims[i].size >= 0)
            n += (size_t)snprintf(text + n, size - n, "%s%lld", i ? "," : "",
                                  (long long)dims[i].size);
        else
            n += (size_t)snprintf(text + n, size - n, "%s%s", i ? "," : "",
                                  dims[i].symbol ? dims[i].symbol : "?");
    }
    if (n < size)
        snprintf(text + n, size - n, "]");
}

/* Or 0. */
static bool above_one(mtbal_model *model, mtbal_dim d)
{
    int64_t low;
    return d.size >= 0 ? d.size != 1 : shape_low(model, d, &low) && low > 1;
}

mtbal_status shape_broadcast(mtbal_infer *s, int ra, const mtbal_dim *a, int rb, const mtbal_dim *b,
                             int *rank, mtbal_dim *dims)
{
    *rank = ra < 0 || rb < 0 ? -1 : ra > rb ? ra : rb;
    for (int i = 0; i < *rank; i++) {
        int ia = i - (*rank - ra), ib = i - (*rank - rb);
        mtbal_dim x = ia < 0 ? mtbal_dim_const(1) : a[ia], y = ib < 0 ? mtbal_dim_const(1) : b[ib];
        if (x.size == 1 || shape_same_dim(s->model, x, y)) {
            dims[i] = x.size == 1 ? y : x;
        } else if (y.size == 1) {
            dims[i] = x;
        } else if (x.size >= 0 && y.size >= 0) {
            char left[200], right[200];
            shape_text(left, sizeof left, ra, a);
            shape_text(right, sizeof right, rb, b);
            return shape_error(s, "the shapes %s and %s of its operands cannot be broadcast", left,
                               right);
        } else { /* what cannot be 1 decides; two different names may be 1 or equal */
            dims[i] = above_one(s->model, x) ? x : above_one(s->model, y) ? y : shape_unknown();
        }
    }
    return MTBAL_OK;
}

bool shape_differs(mtbal_dim a, mtbal_dim b)
{
    return a.size >= 0 && b.size >= 0 && a.size != b.size;
}

bool shape_broadcasts(const mtbal_type *x, const mtbal_type *to)
{
    int more = to->rank - x->rank;
    if (x->rank < 0 || to->rank < 0)
        return true;
    for (int d = 0; d < x->rank && more >= 0; d++)
        if (x->dims[d].size != 1 && shape_differs(x->dims[d], to->dims[d + more]))
            return false;
    return more >= 0;
}

mtbal_status shape_broadcast_all(mtbal_infer *s, int first, mtbal_dtype dtype)
{
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_type *t = shape_type(s, first);
    int rank = t->rank;
    if (rank > 0)
        memcpy(dims, t->dims, (size_t)rank * sizeof *dims);
    for (int i = first + 1; i < s->node->nin && rank >= 0; i++) {
        mtbal_dim joint[SHAPE_MAX_RANK];
        const mtbal_type *u = shape_type(s, i);
        MTBAL_TRY(shape_broadcast(s, rank, dims, u->rank, u->dims, &rank, joint));
        if (rank > 0)
            memcpy(dims, joint, (size_t)rank * sizeof *dims);
    }
    return shape_set(s, 0, dtype, rank, dims);
}
