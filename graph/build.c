/* graph/build.c: emitting nodes. */
#include "graph/graph.h"

#include <string.h>

static mtbal_value omitted;
mtbal_value *const MTBAL_OMIT = &omitted;

void mtbal_builder_init(mtbal_builder *b, mtbal_graph *graph, mtbal_node *before, mtbal_diag *diag)
{
    *b = (mtbal_builder){.graph = graph, .before = before, .prefix = "mtbal/", .diag = diag};
}

int64_t mtbal_builder_opset(const mtbal_builder *b)
{
    return mtbal_opset_of(b->graph->model, "");
}

static void *fail(mtbal_builder *b, mtbal_status status)
{
    if (b->status == MTBAL_OK) {
        b->status = status;
        if (status == MTBAL_NOMEM)
            mtbal_no_memory(b->diag);
    }
    return NULL;
}

mtbal_node *mtbal_emit_node(mtbal_builder *b, const char *domain, const char *op, int n,
                            mtbal_value *const *in, int nout, mtbal_value **out)
{
    mtbal_model *model = b->graph->model;
    mtbal_value *operands[256];
    for (int i = 0; i < nout; i++)
        out[i] = NULL;
    if (b->status != MTBAL_OK)
        return NULL;
    if (n > 256)
        return fail(b, MTBAL_UNSUPPORTED);
    for (int i = 0; i < n; i++) {
        if (!in[i])
            return fail(b, MTBAL_NOMEM);
        operands[i] = in[i] == MTBAL_OMIT ? NULL : in[i];
    }
    while (n > 0 && !operands[n - 1])
        n--;
    mtbal_node *node = mtbal_node_new(b->graph, b->before, domain, op, n, operands, 0);
    if (!node)
        return fail(b, MTBAL_NOMEM);
    char text[256];
    snprintf(text, sizeof text, "%s%s", b->prefix ? b->prefix : "", op);
    const char *base = mtbal_fresh_name(model, text);
    if (!base)
        return fail(b, MTBAL_NOMEM);
    node->name = base;
    node->role = b->role;
    node->task = b->task;
    for (int i = 0; i < nout; i++) {
        if (i)
            snprintf(text, sizeof text, "%.200s:%d", base, i);
        const char *name = i ? mtbal_fresh_name(model, text) : base;
        out[i] = name ? mtbal_value_new(b->graph, name) : NULL;
        if (!out[i] || mtbal_node_set_output(node, i, out[i]) != MTBAL_OK)
            return fail(b, MTBAL_NOMEM);
    }
    return node;
}

void mtbal_emit_done(mtbal_builder *b, mtbal_node *node)
{
    if (b->status == MTBAL_OK && node) {
        mtbal_status status = mtbal_infer_node(node, b->diag);
        if (status != MTBAL_OK)
            fail(b, status);
    }
}

mtbal_value *mtbal_emit_n(mtbal_builder *b, const char *op, int n, mtbal_value *const *in)
{
    mtbal_value *out;
    mtbal_emit_done(b, mtbal_emit_node(b, "", op, n, in, 1, &out));
    return b->status == MTBAL_OK ? out : NULL;
}

/* One "name=kind" of the format; its value comes from the arguments. */
static mtbal_status set_attr(mtbal_node *node, const char *name, char kind, va_list *args)
{
    switch (kind) {
    case 'i':
        return mtbal_set_i(node, name, va_arg(*args, int64_t));
    case 'f':
        return mtbal_set_f(node, name, va_arg(*args, double));
    case 's':
        return mtbal_set_s(node, name, va_arg(*args, const char *));
    case 'I': {
        int n = va_arg(*args, int);
        return mtbal_set_ints(node, name, n, va_arg(*args, const int64_t *));
    }
    case 't':
        return mtbal_set_tensor(node, name, va_arg(*args, mtbal_tensor *));
    default:
        return MTBAL_INVALID;
    }
}

mtbal_status mtbal_set_attrs_v(mtbal_node *node, const char *format, va_list *args)
{
    for (const char *p = format; *p;) {
        char name[64];
        size_t n = strcspn(p, "=");
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        MTBAL_TRY(set_attr(node, name, p[n + 1], args));
        p += n + 2;
        p += *p == ' ';
    }
    return MTBAL_OK;
}

mtbal_status mtbal_set_attrs(mtbal_node *node, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    mtbal_status status = mtbal_set_attrs_v(node, format, &args);
    va_end(args);
    return status;
}

mtbal_value *mtbal_emit_attrs(mtbal_builder *b, const char *op, int n, mtbal_value *const *in,
                              const char *format, ...)
{
    mtbal_value *out;
    mtbal_node *node = mtbal_emit_node(b, "", op, n, in, 1, &out);
    if (!node)
        return NULL;
    va_list args;
    va_start(args, format);
    mtbal_status status = mtbal_set_attrs_v(node, format, &args);
    va_end(args);
    if (status != MTBAL_OK)
        return fail(b, status);
    mtbal_emit_done(b, node);
    return b->status == MTBAL_OK ? out : NULL;
}

/* ------------------------------------------------------------------ constants */

mtbal_value *mtbal_const_tensor(mtbal_builder *b, mtbal_tensor *tensor)
{
    if (!tensor)
        return fail(b, MTBAL_NOMEM);
    mtbal_value *out = mtbal_emit_attrs(b, "Constant", 0, NULL, "value=t", tensor);
    if (out)
        out->tensor = tensor;
    return out;
}

mtbal_value *mtbal_const_scalar(mtbal_builder *b, mtbal_dtype dtype, double x)
{
    mtbal_tensor *t = mtbal_tensor_new(b->graph->model, dtype, 0, NULL, NULL);
    if (t)
        mtbal_tensor_set_f64(t, 0, x);
    return mtbal_const_tensor(b, t);
}

mtbal_value *mtbal_const_i64(mtbal_builder *b, int64_t x)
{
    return mtbal_const_tensor(b, mtbal_tensor_new(b->graph->model, MTBAL_INT64, 0, NULL, &x));
}

mtbal_value *mtbal_const_i64s(mtbal_builder *b, int n, const int64_t *xs)
{
    const int64_t dims[1] = {n};
    return mtbal_const_tensor(b, mtbal_tensor_new(b->graph->model, MTBAL_INT64, 1, dims, xs));
}

/* ------------------------------------------------------------------ idioms */

mtbal_value *mtbal_emit_reduce(mtbal_builder *b, const char *op, mtbal_value *x, int n,
                               const int64_t *axes, bool keepdims)
{
    int64_t since = strcmp(op, "ReduceSum") ? 18 : 13;
    mtbal_value *in[2] = {x, MTBAL_OMIT};
    if (n == 0)
        return mtbal_emit_attrs(b, op, 1, in, "keepdims=i", (int64_t)keepdims);
    if (mtbal_builder_opset(b) < since)
        return mtbal_emit_attrs(b, op, 1, in, "axes=I keepdims=i", n, axes, (int64_t)keepdims);
    in[1] = mtbal_const_i64s(b, n, axes);
    return mtbal_emit_attrs(b, op, 2, in, "keepdims=i", (int64_t)keepdims);
}

mtbal_value *mtbal_emit_cast(mtbal_builder *b, mtbal_value *x, mtbal_dtype to)
{
    if (!x || x->type.dtype == to)
        return x;
    return mtbal_emit_attrs(b, "Cast", 1, &x, "to=i", (int64_t)to);
}

mtbal_value *mtbal_emit_transpose(mtbal_builder *b, mtbal_value *x, int n, const int64_t *perm)
{
    bool identity = true;
    for (int i = 0; i < n; i++)
        identity = identity && perm[i] == i;
    return identity ? x : mtbal_emit_attrs(b, "Transpose", 1, &x, "perm=I", n, perm);
}

mtbal_value *mtbal_emit_reshape(mtbal_builder *b, mtbal_value *x, mtbal_value *shape)
{
    return mtbal_emit(b, "Reshape", x, shape);
}

mtbal_value *mtbal_emit_shape(mtbal_builder *b, mtbal_value *x)
{
    int64_t dims[64];
    if (!x || !mtbal_shape_known(&x->type) || x->type.rank > 64)
        return mtbal_emit(b, "Shape", x);
    for (int i = 0; i < x->type.rank; i++)
        dims[i] = x->type.dims[i].size;
    return mtbal_const_i64s(b, x->type.rank, dims);
}

mtbal_value *mtbal_emit_reshape_like(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    if (!x || !like || mtbal_shape_equal(&x->type, &like->type))
        return x;
    return mtbal_emit_reshape(b, x, mtbal_emit_shape(b, like));
}

mtbal_value *mtbal_emit_fill_like(mtbal_builder *b, mtbal_value *like, double x)
{
    const int64_t one = 1;
    mtbal_value *shape = mtbal_emit_shape(b, like);
    if (!shape)
        return NULL;
    mtbal_tensor *t = mtbal_tensor_new(b->graph->model, like->type.dtype, 1, &one, NULL);
    if (!t)
        return fail(b, MTBAL_NOMEM);
    mtbal_tensor_set_f64(t, 0, x);
    return mtbal_emit_attrs(b, "ConstantOfShape", 1, &shape, "value=t", t);
}

/* Axes to sum, decided at run time: those where like's shape, padded with leading ones, is not x's.
 */
static mtbal_value *sum_to_dynamic(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    const int64_t zero = 0;
    mtbal_value *have = mtbal_emit(b, "Shape", x), *want = mtbal_emit(b, "Shape", like);
    mtbal_value *missing =
        mtbal_emit(b, "Sub", mtbal_emit(b, "Shape", have), mtbal_emit(b, "Shape", want));
    mtbal_value *pads =
        mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){missing, mtbal_const_i64s(b, 1, &zero)},
                         "axis=i", (int64_t)0);
    mtbal_value *padded = mtbal_emit(b, "Pad", want, pads, mtbal_const_i64(b, 1));
    mtbal_value *differ = mtbal_emit(b, "Not", mtbal_emit(b, "Equal", have, padded));
    mtbal_value *axes = mtbal_emit_attrs(
        b, "Squeeze", 2,
        (mtbal_value *[]){mtbal_emit(b, "NonZero", differ), mtbal_const_i64s(b, 1, &zero)}, "");
    mtbal_value *sum =
        mtbal_emit_attrs(b, "ReduceSum", 2, (mtbal_value *[]){x, axes},
                         "keepdims=i noop_with_empty_axes=i", (int64_t)1, (int64_t)1);
    return mtbal_emit_reshape(b, sum, want);
}

mtbal_value *mtbal_emit_sum_to(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    int64_t axes[64];
    int n = 0;
    if (!x || !like || mtbal_shape_equal(&x->type, &like->type))
        return x;
    int rank = x->type.rank, lead = rank - like->type.rank;
    if (rank < 0 || like->type.rank < 0 || rank > 64 || lead < 0)
        return sum_to_dynamic(b, x, like);
    for (int i = 0; i < rank; i++) {
        bool extra = i < lead;
        if (extra || like->type.dims[i - lead].size == 1) {
            if (extra || x->type.dims[i].size != 1)
                axes[n++] = i;
        } else if (!mtbal_dim_equal(x->type.dims[i], like->type.dims[i - lead]) &&
                   like->type.dims[i - lead].size < 0) {
            return sum_to_dynamic(b, x, like);
        }
    }
    if (n == 0)
        return x;
    bool only_lead = n == lead;
    mtbal_value *sum = mtbal_emit_reduce(b, "ReduceSum", x, n, axes, !only_lead);
    return only_lead || lead == 0 ? sum : mtbal_emit_reshape_like(b, sum, like);
}

/* ------------------------------------------------------------------ functions */

/* The function's name in its text: the identifier before the first '(' or '<' that follows the
 * header `<...>`. */
static bool function_name(const char *text, char name[128])
{
    const char *p = text + strspn(text, " \t\r\n");
    if (*p == '<') {
        p = strchr(p, '>');
        if (!p)
            return false;
        p++;
    }
    p += strspn(p, " \t\r\n");
    size_t n = strcspn(p, " \t\r\n<(");
    snprintf(name, 128, "%.*s", (int)n, p);
    return n > 0 && n < 128;
}

mtbal_status mtbal_builder_function(mtbal_builder *b, const char *text)
{
    mtbal_model *model = b->graph->model;
    char name[128];
    if (b->status != MTBAL_OK)
        return b->status;
    if (function_name(text, name) && mtbal_function_find(model, "mtbal", name, ""))
        return MTBAL_OK;
    mtbal_function *f = mtbal_parse_function(model, text, b->diag);
    if (!f) {
        fail(b, b->diag && b->diag->status ? b->diag->status : MTBAL_NOMEM);
        return b->status;
    }
    mtbal_opset *opset = mtbal_arena_alloc(model->arena, sizeof *opset);
    f->domain = mtbal_intern(model->arena, "mtbal");
    if (!opset || !f->domain) {
        fail(b, MTBAL_NOMEM);
        return b->status;
    }
    *opset = (mtbal_opset){mtbal_intern(model->arena, ""), mtbal_builder_opset(b)};
    f->opsets = opset;
    f->nopsets = 1;
    mtbal_status status = mtbal_function_add(model, f);
    if (status == MTBAL_OK)
        status = mtbal_set_opset(model, "mtbal", 1);
    if (model->ir_version < 8)
        model->ir_version = 8;
    if (status != MTBAL_OK)
        fail(b, status);
    return b->status;
}
