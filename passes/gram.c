/* passes/gram.c: what is measured: norms, Gram matrix and cosines of the task gradients, and those
 * gradients themselves. Everything hangs on its outputs: a runtime that is not asked for them drops
 * the sweeps of single tasks with them. */
#include "passes/internal.h"

#include <stdio.h>
#include <string.h>

/* Above this many tasks no products of rows are taken: they are taken pair by pair. */
enum { MAX_PAIRWISE = 8 };

/* X W in the trunk, W a parameter in scope that nothing else reads: its gradient is X^T dY, so
 * <G_i, G_j> = sum((X X^T) * (dY_i dY_j^T)), and G_i need not be made. alpha: Gemm's factor. */
typedef struct product {
    mtbal_value *x, *y;
    int64_t rows, in, out;
    double alpha;
    mtbal_value *xx; /* X X^T [rows, rows], once emitted */
} product;

/* What the inner products are taken over. */
typedef struct scope {
    int n;
    mtbal_value **vectors; /* [ntasks * n] gradients, NULL: zero; unless: */
    product *products;     /* [n] x NULL: from the vectors */
} scope;

/* ------------------------------------------------------------------ the scope */

/* Activations that heads read from the trunk: where norms over features are taken. */
static mtbal_status feature_scope(mtbal_context *c, scope *sc)
{
    const mtbal_cotangents *s = c->scratch;
    mtbal_arena *arena = c->model->arena;
    int *ids = mtbal_arena_array(arena, (size_t)s->n, sizeof *ids);
    bool *is_param = mtbal_arena_array(arena, (size_t)s->n, sizeof *is_param);
    if (!ids || !is_param)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++)
        is_param[c->params[p].value->id] = true;
    for (int id = 0; id < s->n; id++) {
        bool frontier = false;
        for (int t = 0; t < c->ntasks; t++)
            frontier = frontier || s->own[t][id];
        if (frontier && !is_param[id] && !mtbal_is_single(c->reach[id]))
            ids[sc->n++] = id;
    }
    size_t total;
    if (!mtbal_mul_size((size_t)c->ntasks, (size_t)sc->n, &total))
        return mtbal_no_memory(c->diag);
    sc->vectors = mtbal_arena_array(arena, total, sizeof *sc->vectors);
    sc->products = mtbal_arena_array(arena, (size_t)sc->n, sizeof *sc->products);
    if (!sc->vectors || !sc->products)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++)
        for (int k = 0; k < sc->n; k++)
            sc->vectors[t * sc->n + k] = s->own[t][ids[k]];
    return sc->n ? MTBAL_OK
                 : mtbal_notice_add(c, MTBAL_WARNING,
                                    "no head leaves a trunk: norms over features are 0");
}

static mtbal_status parameter_scope(mtbal_context *c, scope *sc)
{
    mtbal_arena *arena = c->model->arena;
    sc->n = c->nparams;
    sc->vectors =
        mtbal_arena_array(arena, (size_t)c->ntasks * (size_t)c->nparams, sizeof *sc->vectors);
    sc->products = mtbal_arena_array(arena, (size_t)sc->n, sizeof *sc->products);
    if (!sc->vectors || !sc->products)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++)
        for (int p = 0; p < c->nparams; p++)
            if (c->params[p].in_scope)
                sc->vectors[t * sc->n + p] = c->task_gradients[t * c->nparams + p];
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ products with a parameter */

/* The one node of the forward that reads v; NULL when there are none or more. */
static mtbal_node *only_user(const mtbal_context *c, const mtbal_uses *uses, const mtbal_value *v)
{
    mtbal_node *only = NULL;
    int readers = 0;
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        mtbal_node *node = uses->node[v->id][i];
        bool forward =
            node->graph != c->graph || !node->nout || !node->out[0] || node->out[0]->id < c->nreach;
        only = forward ? node : only;
        readers += forward;
    }
    return readers == 1 && only->graph == c->graph ? only : NULL;
}

static int64_t rows_of(const mtbal_type *type)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < type->rank; i++)
        if (type->dims[i].size < 0 || !mtbal_mul_i64(rows, type->dims[i].size, &rows))
            return -1;
    return type->rank < 2 ? -1 : rows;
}

/* Fills `p` when the parameter's only use is the right factor of a MatMul or Gemm, perhaps
 * transposed first. */
static bool is_product(const mtbal_context *c, const mtbal_uses *uses, const mtbal_value *w,
                       product *p)
{
    mtbal_node *node = only_user(c, uses, w);
    if (w->type.rank != 2 || !mtbal_shape_known(&w->type))
        return false;
    if (node && mtbal_node_is(node, MTBAL_OP_transpose) && node->out[0] &&
        !node->out[0]->is_output) {
        w = node->out[0];
        node = only_user(c, uses, w);
    }
    bool gemm = node && mtbal_node_is(node, MTBAL_OP_gemm) && !mtbal_attr_i(node, "transA", 0);
    if (!node || !(gemm || mtbal_node_is(node, MTBAL_OP_mat_mul)) || node->in[1] != w ||
        node->in[0] == w || !node->out[0] || node->out[0]->id >= c->nreach)
        return false;
    bool turned = gemm && mtbal_attr_i(node, "transB", 0);
    *p = (product){.x = node->in[0],
                   .y = node->out[0],
                   .rows = rows_of(&node->in[0]->type),
                   .in = w->type.rank == 2 ? w->type.dims[turned].size : -1,
                   .out = w->type.rank == 2 ? w->type.dims[!turned].size : -1,
                   .alpha = gemm ? mtbal_attr_f(node, "alpha", 1) : 1};
    return p->rows > 0 && p->in > 0 && p->out > 0;
}

/* Multiplications for all pairs, with the gradients made and without. */
static bool is_cheaper(const product *p, double tasks)
{
    double rows = (double)p->rows, in = (double)p->in, out = (double)p->out;
    double pairs = tasks * (tasks + 1) / 2;
    return rows * rows * (in + pairs * out) < tasks * rows * in * out + pairs * in * out;
}

static mtbal_status find_products(const mtbal_context *c, scope *sc)
{
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        product found;
        if (c->params[p].in_scope && !mtbal_is_single(c->params[p].reach) &&
            is_product(c, uses, c->params[p].value, &found) && is_cheaper(&found, c->ntasks))
            sc->products[p] = found;
    }
    return MTBAL_OK;
}

/* x [..., width] as [rows, width]. */
static mtbal_value *as_rows(mtbal_builder *b, mtbal_value *x, int64_t rows, int64_t width)
{
    const int64_t dims[2] = {rows, width};
    return x && x->type.rank == 2 ? x : mtbal_emit_reshape(b, x, mtbal_const_i64s(b, 2, dims));
}

static mtbal_value *outer(mtbal_builder *b, mtbal_value *x, mtbal_value *y)
{
    const int64_t turn[2] = {1, 0};
    return mtbal_emit(b, "MatMul", x, mtbal_emit_transpose(b, y, 2, turn));
}

static mtbal_value *product_inner(mtbal_context *c, mtbal_builder *b, product *p, int i, int j)
{
    const mtbal_cotangents *s = c->scratch;
    mtbal_value *dyi = s->own[i][p->y->id], *dyj = s->own[j][p->y->id];
    if (!dyi || !dyj)
        return NULL;
    if (!p->xx) {
        mtbal_value *x = as_rows(b, p->x, p->rows, p->in);
        p->xx = outer(b, x, x);
        if (p->alpha != 1)
            p->xx = mtbal_emit(b, "Mul", p->xx,
                               mtbal_const_scalar(b, p->x->type.dtype, p->alpha * p->alpha));
    }
    mtbal_value *dd = outer(b, as_rows(b, dyi, p->rows, p->out), as_rows(b, dyj, p->rows, p->out));
    return mtbal_emit_reduce(b, "ReduceSum", mtbal_emit(b, "Mul", p->xx, dd), 0, NULL, false);
}

/* ------------------------------------------------------------------ inner products */

/* Half precision overflows at the square of 256. */
static mtbal_value *widen(mtbal_builder *b, mtbal_value *x)
{
    bool half = x->type.dtype == MTBAL_FLOAT16 || x->type.dtype == MTBAL_BFLOAT16;
    return half ? mtbal_emit_cast(b, x, MTBAL_FLOAT) : x;
}

static mtbal_value *flatten(mtbal_builder *b, mtbal_value *x)
{
    const int64_t all = -1;
    return mtbal_emit_reshape(b, x, mtbal_const_i64s(b, 1, &all));
}

/* Gram_N (g1, .., gN) -> [N,N] of <g_i, g_j>: the vectors as rows of S, S S^T. */
static mtbal_status add_function(mtbal_builder *b, int n, char *name, size_t size)
{
    char operands[MTBAL_MAX_TASKS * 5 + 1], rows[MTBAL_MAX_TASKS * 5 + 1],
        reshapes[MTBAL_MAX_TASKS * 32 + 1],
        text[sizeof operands + sizeof rows + sizeof reshapes + 200];
    size_t o = 0, r = 0, s = 0;
    for (int i = 1; i <= n; i++) {
        const char *comma = i > 1 ? ", " : "";
        o += (size_t)snprintf(operands + o, sizeof operands - o, "%sg%d", comma, i);
        r += (size_t)snprintf(rows + r, sizeof rows - r, "%sr%d", comma, i);
        s += (size_t)snprintf(reshapes + s, sizeof reshapes - s, "  r%d = Reshape (g%d, row)\n", i,
                              i);
    }
    snprintf(name, size, "Gram_%d", n);
    snprintf(text, sizeof text,
             "%s (%s) => (G) {\n"
             "  row = Constant <value = int64[2] {1, -1}> ()\n"
             "%s"
             "  S = Concat <axis = 0> (%s)\n"
             "  G = Gemm <transB = 1> (S, S)\n"
             "}",
             name, operands, reshapes, rows);
    return mtbal_builder_function(b, text);
}

/* Gram matrix of vector k of those tasks that have it. */
static mtbal_value *vector_gram(mtbal_context *c, mtbal_builder *b, const scope *sc, int k)
{
    mtbal_value *in[MTBAL_MAX_TASKS], *gram = NULL;
    char name[24];
    int n = 0;
    for (int t = 0; t < c->ntasks; t++)
        if (sc->vectors[t * sc->n + k])
            in[n++] = widen(b, sc->vectors[t * sc->n + k]);
    if (b->status != MTBAL_OK || add_function(b, n, name, sizeof name) != MTBAL_OK)
        return NULL;
    mtbal_emit_done(b, mtbal_emit_node(b, "mtbal", name, n, in, 1, &gram));
    return mtbal_emit_cast(b, gram, mtbal_float_type(c));
}

/* [n,n] of the given tasks -> [K,K], 0 for the others. */
static mtbal_value *spread(mtbal_context *c, mtbal_builder *b, uint64_t tasks, mtbal_value *gram)
{
    int n = 0, at[MTBAL_MAX_TASKS], k = c->ntasks;
    const int64_t square[2] = {k, k}, one = 1;
    for (int t = 0; t < k; t++)
        at[t] = tasks >> t & 1 ? n++ : -1;
    if (n == k)
        return gram;
    mtbal_tensor *index = mtbal_tensor_new(c->model, MTBAL_INT64, 2, square, NULL);
    if (!index) {
        b->status = mtbal_no_memory(c->diag);
        return NULL;
    }
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++)
            ((int64_t *)index->data)[i * k + j] =
                at[i] < 0 || at[j] < 0 ? n * n : at[i] * n + at[j];
    mtbal_value *zero = mtbal_const_scalar(b, mtbal_float_type(c), 0);
    mtbal_value *parts[2] = {flatten(b, gram),
                             mtbal_emit_reshape(b, zero, mtbal_const_i64s(b, 1, &one))};
    mtbal_value *flat = mtbal_emit_attrs(b, "Concat", 2, parts, "axis=i", (int64_t)0);
    return mtbal_emit(b, "Gather", flat, mtbal_const_tensor(b, index));
}

/* The tasks that have vector k; 0 where the vector is not needed. */
static uint64_t tasks_of(const mtbal_context *c, const scope *sc, int k)
{
    uint64_t tasks = 0;
    for (int t = 0; t < c->ntasks && !sc->products[k].x; t++)
        tasks |= (uint64_t)(sc->vectors[t * sc->n + k] != NULL) << t;
    return tasks;
}

static mtbal_value *add(mtbal_builder *b, mtbal_value *sum, mtbal_value *x)
{
    return sum ? mtbal_emit(b, "Add", sum, x) : x;
}

/* [K,K] over the vectors, NULL: there are none. Those of the same tasks are added up first. */
static mtbal_value *vectors_gram(mtbal_context *c, mtbal_builder *b, const scope *sc)
{
    mtbal_value *total = NULL;
    uint64_t *tasks = mtbal_arena_array(c->model->arena, (size_t)sc->n, sizeof *tasks);
    if (!tasks)
        b->status = mtbal_no_memory(c->diag);
    for (int k = 0; k < sc->n && tasks; k++)
        tasks[k] = tasks_of(c, sc, k);
    for (int k = 0; k < sc->n && tasks; k++) {
        uint64_t these = tasks[k];
        mtbal_value *sum = NULL;
        for (int same = k; same < sc->n && these; same++)
            if (tasks[same] == these) {
                sum = add(b, sum, vector_gram(c, b, sc, same));
                tasks[same] = 0;
            }
        if (sum)
            total = add(b, total, spread(c, b, these, sum));
    }
    return total;
}

/* [K,K] over the products, NULL: there are none. Each pair is computed once. */
static mtbal_value *products_gram(mtbal_context *c, mtbal_builder *b, const scope *sc)
{
    mtbal_value *g[MAX_PAIRWISE * MAX_PAIRWISE];
    int n = c->ntasks, found = 0;
    const int64_t one = 1, square[2] = {n, n};
    for (int p = 0; p < sc->n; p++)
        found += sc->products[p].x != NULL;
    for (int i = 0; i < n && found; i++)
        for (int j = 0; j <= i; j++) {
            mtbal_value *sum = NULL;
            for (int p = 0; p < sc->n; p++) {
                mtbal_value *dot =
                    sc->products[p].x ? product_inner(c, b, &sc->products[p], i, j) : NULL;
                sum = dot ? add(b, sum, mtbal_emit_cast(b, dot, mtbal_float_type(c))) : sum;
            }
            sum = sum ? sum : mtbal_const_scalar(b, mtbal_float_type(c), 0);
            g[i * n + j] = g[j * n + i] = mtbal_emit_reshape(b, sum, mtbal_const_i64s(b, 1, &one));
        }
    if (!found)
        return NULL;
    mtbal_value *flat = mtbal_emit_attrs(b, "Concat", n * n, g, "axis=i", (int64_t)0);
    return mtbal_emit_reshape(b, flat, mtbal_const_i64s(b, 2, square));
}

static mtbal_value *gram_matrix(mtbal_context *c, mtbal_builder *b, const scope *sc)
{
    const int64_t square[2] = {c->ntasks, c->ntasks};
    mtbal_value *vectors = vectors_gram(c, b, sc), *products = products_gram(c, b, sc);
    if (vectors || products)
        return vectors && products ? add(b, vectors, products) : vectors ? vectors : products;
    return mtbal_const_tensor(b, mtbal_tensor_new(c->model, mtbal_float_type(c), 2, square, NULL));
}

/* Roots of the diagonal [K]. */
static mtbal_value *norms_of(mtbal_context *c, mtbal_builder *b)
{
    int64_t diagonal[MTBAL_MAX_TASKS];
    for (int i = 0; i < c->ntasks; i++)
        diagonal[i] = i * (c->ntasks + 1);
    return mtbal_emit(
        b, "Sqrt",
        mtbal_emit(b, "Gather", flatten(b, c->gram), mtbal_const_i64s(b, c->ntasks, diagonal)));
}

/* gram / (norms norms^T); 0 where a gradient is 0. */
static mtbal_value *cosines(mtbal_context *c, mtbal_builder *b, mtbal_value *norms)
{
    mtbal_dtype dtype = mtbal_float_type(c);
    const int64_t column[2] = {c->ntasks, 1};
    mtbal_value *products =
        mtbal_emit(b, "Mul", mtbal_emit_reshape(b, norms, mtbal_const_i64s(b, 2, column)), norms);
    mtbal_value *zero = mtbal_const_scalar(b, dtype, 0);
    mtbal_value *none = mtbal_emit(b, "Equal", products, zero);
    mtbal_value *safe = mtbal_emit(b, "Where", none, mtbal_const_scalar(b, dtype, 1), products);
    return mtbal_emit(b, "Where", none, zero, mtbal_emit(b, "Div", c->gram, safe));
}

/* ------------------------------------------------------------------ the pass */

static mtbal_status output_norms(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", NULL);
    mtbal_value *norms = norms_of(c, &b), *cosine = cosines(c, &b, norms);
    MTBAL_TRY(b.status);
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", c->tasks[i].name);
        mtbal_value *norm = mtbal_emit(&b, "Gather", norms, mtbal_const_i64(&b, i));
        MTBAL_TRY(b.status);
        MTBAL_TRY(mtbal_output_as(c, norm, "mtbal/grad_norm/", c->tasks[i].name));
    }
    return mtbal_output_as(c, cosine, "mtbal/", "cosine");
}

static mtbal_status measure_scope(mtbal_context *c, const scope *sc)
{
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "gram", NULL);
    c->gram = gram_matrix(c, &b, sc);
    MTBAL_TRY(b.status);
    if (c->options->outputs & MTBAL_OUT_NORMS)
        MTBAL_TRY(output_norms(c));
    return c->options->outputs & MTBAL_OUT_GRAM ? mtbal_output_as(c, c->gram, "mtbal/", "gram")
                                                : MTBAL_OK;
}

static mtbal_status output_task_gradients(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "gradient", NULL);
    for (int t = 0; t < c->ntasks; t++)
        for (int p = 0; p < c->nparams; p++) {
            mtbal_value *g = c->task_gradients[t * c->nparams + p], *v = c->params[p].value;
            const char *prefix =
                mtbal_arena_printf(c->model->arena, "mtbal/task_grad/%s/", c->tasks[t].name);
            g = g ? g : mtbal_emit_fill_like(&b, v, 0);
            if (!prefix)
                return mtbal_no_memory(c->diag);
            MTBAL_TRY(b.status);
            MTBAL_TRY(mtbal_output_as(c, g, prefix, v->name));
        }
    return MTBAL_OK;
}

/* The gradients of single tasks: the sweeps of all tasks, continued through the trunk. */
static mtbal_status task_gradients(mtbal_context *c)
{
    const mtbal_cotangents *s = c->scratch;
    c->task_gradients = mtbal_arena_array(c->model->arena, (size_t)c->ntasks * (size_t)c->nparams,
                                          sizeof *c->task_gradients);
    if (!c->task_gradients)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++) {
        MTBAL_TRY(mtbal_continue_task(c, t));
        for (int p = 0; p < c->nparams; p++)
            c->task_gradients[t * c->nparams + p] = s->own[t][c->params[p].value->id];
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_measure(mtbal_context *c)
{
    unsigned want = c->options->outputs;
    bool inner_products = want & (MTBAL_OUT_NORMS | MTBAL_OUT_GRAM),
         gradients = want & MTBAL_OUT_TASK_GRADS,
         features = !strcmp(c->options->norm_over, "features");
    scope sc = {0};
    if (inner_products && features) /* before the sweeps go on: the heads' part alone */
        MTBAL_TRY(feature_scope(c, &sc));
    if ((inner_products && !features) || gradients)
        MTBAL_TRY(task_gradients(c));
    if (inner_products && !features) {
        MTBAL_TRY(parameter_scope(c, &sc));
        if (c->ntasks <= MAX_PAIRWISE)
            MTBAL_TRY(find_products(c, &sc));
    }
    if (inner_products)
        MTBAL_TRY(measure_scope(c, &sc));
    return gradients ? output_task_gradients(c) : MTBAL_OK;
}
