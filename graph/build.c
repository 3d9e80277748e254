/* graph/build.c: emitting nodes. */
#include "graph/internal.h"

#include <assert.h>
#include <string.h>

enum { MAX_RANK = 64 };

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

/* A NULL operand while all is well: whoever made it was out of memory, or a rule asks for a value
 * that is not there. */
static void *fail_operand(mtbal_builder *b, const char *op, int i)
{
    if (mtbal_arena_failed(b->graph->model->arena))
        return fail(b, MTBAL_NOMEM);
    mtbal_fail(b->diag, MTBAL_UNSUPPORTED, b->prefix, "please report this, with the model",
               "operand %d of a new %s node is missing", i, op);
    return fail(b, MTBAL_UNSUPPORTED);
}

/* The outputs of a new node: the first is named like the node, others with their number. */
static bool name_outputs(mtbal_builder *b, mtbal_node *node, int nout, mtbal_value **out)
{
    mtbal_model *model = b->graph->model;
    node->name = graph_fresh(model, "%s%s", b->prefix ? b->prefix : "", node->op);
    if (nout > 0 && mtbal_node_set_output(node, nout - 1, NULL) != MTBAL_OK) /* room for all */
        return false;
    for (int i = 0; i < nout && node->name; i++) {
        const char *name = i ? graph_fresh(model, "%s:%d", node->name, i) : node->name;
        out[i] = name ? mtbal_value_new(b->graph, name) : NULL;
        if (!out[i] || mtbal_node_set_output(node, i, out[i]) != MTBAL_OK)
            return false;
    }
    return node->name != NULL;
}

mtbal_node *mtbal_emit_node(mtbal_builder *b, const char *domain, const char *op, int n,
                            mtbal_value *const *in, int nout, mtbal_value **out)
{
    mtbal_value *few[8], **operands = few;
    for (int i = 0; i < nout; i++)
        out[i] = NULL;
    if (b->status != MTBAL_OK)
        return NULL;
    if (n > (int)(sizeof few / sizeof *few))
        operands = mtbal_arena_array(b->graph->model->arena, (size_t)n, sizeof *operands);
    if (!operands)
        return fail(b, MTBAL_NOMEM);
    for (int i = 0; i < n; i++) {
        if (!in[i])
            return fail_operand(b, op, i);
        operands[i] = in[i] == MTBAL_OMIT ? NULL : in[i];
    }
    while (n > 0 && !operands[n - 1])
        n--;
    mtbal_node *node = mtbal_node_new(b->graph, b->before, domain, op, n, operands, 0);
    if (!node || !name_outputs(b, node, nout, out))
        return fail(b, MTBAL_NOMEM);
    node->role = b->role;
    node->task = b->task;
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
        assert(!"an attribute format has the kinds i f s I t");
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
    if (b->status != MTBAL_OK)
        return NULL;
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
    int64_t dims[MAX_RANK];
    if (!x || !mtbal_shape_known(&x->type) || x->type.rank > MAX_RANK)
        return mtbal_emit(b, "Shape", x);
    for (int i = 0; i < x->type.rank; i++)
        dims[i] = x->type.dims[i].size;
    return mtbal_const_i64s(b, x->type.rank, dims);
}

/* What a value made to have like's shape is known to have: the shape that is known of `like`. */
static mtbal_value *of_shape(mtbal_value *x, const mtbal_value *like)
{
    if (x && like->type.rank >= 0) {
        x->type.rank = like->type.rank;
        x->type.dims = like->type.dims;
    }
    return x;
}

mtbal_value *mtbal_emit_reshape_like(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    if (!x || !like || mtbal_shape_equal(&x->type, &like->type))
        return x && like ? x : NULL;
    mtbal_value *in[2] = {x, mtbal_emit_shape(b, like)};
    bool empty = mtbal_shape_count(&like->type) == 0; /* else 0 takes a size over from x */
    return of_shape(empty ? mtbal_emit_attrs(b, "Reshape", 2, in, "allowzero=i", (int64_t)1)
                          : mtbal_emit_reshape(b, x, in[1]),
                    like);
}

/* CastLike takes the type over from `like`: inside a function body no types are known. */
static mtbal_value *fill_like_of_unknown_type(mtbal_builder *b, mtbal_value *shape,
                                              mtbal_value *like, double x)
{
    const int64_t one = 1;
    mtbal_tensor *t = mtbal_tensor_new(b->graph->model, MTBAL_FLOAT, 1, &one, NULL);
    if (!t)
        return fail(b, MTBAL_NOMEM);
    mtbal_tensor_set_f64(t, 0, x);
    mtbal_value *filled = mtbal_emit_attrs(b, "ConstantOfShape", 1, &shape, "value=t", t);
    return of_shape(mtbal_emit(b, "CastLike", filled, like), like);
}

mtbal_value *mtbal_emit_fill_like(mtbal_builder *b, mtbal_value *like, double x)
{
    const int64_t one = 1;
    mtbal_value *shape = mtbal_emit_shape(b, like);
    if (!shape)
        return NULL;
    if (like->type.dtype == MTBAL_UNDEFINED)
        return fill_like_of_unknown_type(b, shape, like, x);
    mtbal_tensor *t = mtbal_tensor_new(b->graph->model, like->type.dtype, 1, &one, NULL);
    if (!t)
        return fail(b, MTBAL_NOMEM);
    mtbal_tensor_set_f64(t, 0, x);
    return of_shape(mtbal_emit_attrs(b, "ConstantOfShape", 1, &shape, "value=t", t), like);
}

/* ------------------------------------------------------------------ summing over broadcast axes */

/* Axes to sum, decided at run time: those where like's shape, padded with leading ones, is not x's.
 */
static mtbal_value *sum_to_dynamic(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    const int64_t zero = 0;
    mtbal_value *have = mtbal_emit(b, "Shape", x), *want = mtbal_emit(b, "Shape", like);
    mtbal_value *missing =
        mtbal_emit(b, "Sub", mtbal_emit(b, "Shape", have), mtbal_emit(b, "Shape", want));
    mtbal_value *none = mtbal_const_i64s(b, 1, &zero);
    mtbal_value *pads =
        mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){missing, none}, "axis=i", (int64_t)0);
    mtbal_value *padded = mtbal_emit(b, "Pad", want, pads, mtbal_const_i64(b, 1));
    mtbal_value *differ = mtbal_emit(b, "Not", mtbal_emit(b, "Equal", have, padded));
    mtbal_value *axes = mtbal_emit(b, "Squeeze", mtbal_emit(b, "NonZero", differ), none);
    mtbal_value *sum =
        mtbal_emit_attrs(b, "ReduceSum", 2, (mtbal_value *[]){x, axes},
                         "keepdims=i noop_with_empty_axes=i", (int64_t)1, (int64_t)1);
    return of_shape(mtbal_emit_reshape(b, sum, want), like);
}

/* Whether an axis of x, where `like` has the dimension `want`, was broadcast: 1, 0, or -1 when that
 * depends on the run. want is 1 or equal to have. */
static int was_broadcast(mtbal_dim have, mtbal_dim want)
{
    if (have.size == 1 || want.size > 1 || want.size == 0 || mtbal_dim_equal(have, want))
        return 0;
    return want.size == 1 ? 1 : -1; /* where have turns out to be 1, the sum changes nothing */
}

/* Drops the first `n` axes, which have size 1. */
static mtbal_value *drop_leading(mtbal_builder *b, mtbal_value *x, int n)
{
    int64_t axes[MAX_RANK];
    for (int i = 0; i < n; i++)
        axes[i] = i;
    if (mtbal_builder_opset(b) < 13)
        return mtbal_emit_attrs(b, "Squeeze", 1, &x, "axes=I", n, axes);
    return mtbal_emit(b, "Squeeze", x, mtbal_const_i64s(b, n, axes));
}

mtbal_value *mtbal_emit_sum_to(mtbal_builder *b, mtbal_value *x, mtbal_value *like)
{
    int64_t axes[MAX_RANK];
    int n = 0;
    if (!x || !like || mtbal_shape_equal(&x->type, &like->type))
        return x && like ? x : NULL;
    int rank = x->type.rank, lead = rank - like->type.rank;
    if (rank < 0 || like->type.rank < 0 || rank > MAX_RANK || lead < 0)
        return sum_to_dynamic(b, x, like);
    for (int i = 0; i < rank; i++) {
        int sum = i < lead ? 1 : was_broadcast(x->type.dims[i], like->type.dims[i - lead]);
        if (sum < 0)
            return sum_to_dynamic(b, x, like);
        if (sum)
            axes[n++] = i;
    }
    if (n == 0)
        return x;
    bool only_lead = n == lead;
    mtbal_value *sum = mtbal_emit_reduce(b, "ReduceSum", x, n, axes, !only_lead);
    return of_shape(only_lead || lead == 0 ? sum : drop_leading(b, sum, lead), like);
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

/* The function's opset imports: the model's own, of the domains that its body uses. */
static mtbal_status import_opsets(mtbal_model *model, mtbal_function *f)
{
    f->nopsets = 0;
    f->opsets = mtbal_arena_array(model->arena, (size_t)model->nopsets, sizeof *f->opsets);
    if (!f->opsets)
        return MTBAL_NOMEM;
    for (int i = 0; i < model->nopsets; i++) {
        bool used = !*model->opsets[i].domain;
        for (const mtbal_node *node = f->body->first; node && !used; node = node->next)
            used = !strcmp(node->domain, model->opsets[i].domain);
        if (used)
            f->opsets[f->nopsets++] = model->opsets[i];
    }
    return MTBAL_OK;
}

static mtbal_status add_function(mtbal_model *model, const char *text, mtbal_diag *diag)
{
    mtbal_function *f = mtbal_parse_function(model, text, diag);
    if (!f)
        return diag->status;
    f->domain = mtbal_intern(model->arena, "mtbal");
    if (!f->domain)
        return MTBAL_NOMEM;
    MTBAL_TRY(mtbal_set_opset(model, f->domain, 1));
    MTBAL_TRY(import_opsets(model, f));
    if (model->ir_version < 8) /* the first with model-local functions */
        model->ir_version = 8;
    return mtbal_function_add(model, f);
}

mtbal_status mtbal_builder_function(mtbal_builder *b, const char *text)
{
    mtbal_model *model = b->graph->model;
    mtbal_diag own = {0};
    char name[128];
    if (b->status != MTBAL_OK ||
        (function_name(text, name) && mtbal_function_find(model, "mtbal", name, "")))
        return b->status;
    mtbal_status status = add_function(model, text, &own);
    if (status != MTBAL_OK && own.status != MTBAL_OK)
        mtbal_fail(b->diag, own.status, own.where, own.hint, "%s", own.what);
    if (status != MTBAL_OK)
        fail(b, status);
    return b->status;
}
