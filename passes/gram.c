/* passes/gram.c: the Gram matrix of the task gradients over a scope. */
#include "passes/internal.h"

#include <string.h>

/* Up to this many tasks, inner products may be taken pair by pair from products of rows. */
enum { MAX_PAIRWISE = 8 };

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
                       mtbal_product *p)
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
    *p = (mtbal_product){.x = node->in[0],
                         .y = node->out[0],
                         .rows = rows_of(&node->in[0]->type),
                         .in = w->type.rank == 2 ? w->type.dims[turned].size : -1,
                         .out = w->type.rank == 2 ? w->type.dims[!turned].size : -1,
                         .alpha = gemm ? mtbal_attr_f(node, "alpha", 1) : 1};
    return p->rows > 0 && p->in > 0 && p->out > 0;
}

/* Multiplications for all pairs, with the gradients made and without; and for their weighted sum.
 */
static bool is_cheaper(const mtbal_product *p, double tasks, bool combined)
{
    double rows = (double)p->rows, in = (double)p->in, out = (double)p->out;
    double pairs = tasks * (tasks + 1) / 2;
    double with = tasks * rows * in * out + pairs * in * out;
    double without = rows * rows * (in + pairs * out);
    if (combined) {
        with += tasks * in * out;
        without += tasks * rows * out + rows * in * out;
    }
    return without < with;
}

mtbal_status mtbal_find_products(mtbal_context *c, mtbal_scope *sc, bool combined)
{
    if (c->ntasks > MAX_PAIRWISE)
        return MTBAL_OK;
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        mtbal_product found;
        if (!c->params[p].in_scope || !mtbal_is_shared(c, c->params[p].reach) ||
            !is_product(c, uses, c->params[p].value, &found) ||
            !is_cheaper(&found, c->ntasks, combined))
            continue;
        found.dy = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *found.dy);
        if (!found.dy)
            return mtbal_no_memory(c->diag);
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

static mtbal_value *product_inner(mtbal_builder *b, mtbal_product *p, int i, int j)
{
    mtbal_value *dyi = p->dy[i], *dyj = p->dy[j];
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
static void print_gram(mtbal_text *t, const char *name, int n)
{
    mtbal_text_add(t, "%s (", name);
    for (int i = 1; i <= n; i++)
        mtbal_text_add(t, "%sg%d", i > 1 ? ", " : "", i);
    mtbal_text_add(t, ") => (G) {\n  row = Constant <value = int64[2] {1, -1}> ()\n");
    for (int i = 1; i <= n; i++)
        mtbal_text_add(t, "  r%d = Reshape (g%d, row)\n", i, i);
    mtbal_text_add(t, "  S = Concat <axis = 0> (");
    for (int i = 1; i <= n; i++)
        mtbal_text_add(t, "%sr%d", i > 1 ? ", " : "", i);
    mtbal_text_add(t, ")\n  G = Gemm <transB = 1> (S, S)\n}");
}

/* Gram matrix of vector k of those tasks that have it. */
static mtbal_value *vector_gram(mtbal_context *c, mtbal_builder *b, const mtbal_scope *sc, int k)
{
    mtbal_value *gram = NULL;
    mtbal_value **in = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *in);
    mtbal_text t = {0};
    char name[24];
    int n = 0;
    if (!in) {
        b->status = mtbal_no_memory(c->diag);
        return NULL;
    }
    for (size_t task = 0; task < (size_t)c->ntasks; task++)
        if (sc->vectors[task * (size_t)sc->n + (size_t)k])
            in[n++] = widen(b, sc->vectors[task * (size_t)sc->n + (size_t)k]);
    snprintf(name, sizeof name, "Gram_%d", n);
    print_gram(&t, name, n);
    mtbal_emit_function(b, &t, name, n, in, 1, &gram);
    return mtbal_emit_cast(b, gram, mtbal_float_type(c));
}

/* [n,n] of the tasks of a set -> [K,K], 0 for the others. */
static mtbal_value *spread(mtbal_context *c, mtbal_builder *b, mtbal_set tasks, mtbal_value *gram)
{
    const int64_t k = c->ntasks, n = mtbal_set_size(c->sets, tasks), one = 1;
    const int64_t square[2] = {k, k};
    if (n == k)
        return gram;
    mtbal_tensor *index = mtbal_tensor_new(c->model, MTBAL_INT64, 2, square, NULL);
    int64_t *at = mtbal_arena_array(c->model->arena, (size_t)k, sizeof *at), found = 0;
    if (!index || !at) {
        b->status = mtbal_no_memory(c->diag);
        return NULL;
    }
    for (int t = 0; t < k; t++)
        at[t] = mtbal_set_has(c->sets, tasks, t) ? found++ : -1;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            ((int64_t *)index->data)[i * k + j] =
                at[i] < 0 || at[j] < 0 ? n * n : at[i] * n + at[j];
    mtbal_value *zero = mtbal_const_scalar(b, mtbal_float_type(c), 0);
    mtbal_value *parts[2] = {flatten(b, gram),
                             mtbal_emit_reshape(b, zero, mtbal_const_i64s(b, 1, &one))};
    mtbal_value *flat = mtbal_emit_attrs(b, "Concat", 2, parts, "axis=i", (int64_t)0);
    return mtbal_emit(b, "Gather", flat, mtbal_const_tensor(b, index));
}

static mtbal_value *add(mtbal_builder *b, mtbal_value *sum, mtbal_value *x)
{
    return sum ? mtbal_emit(b, "Add", sum, x) : x;
}

/* Vectors by the set of tasks that have them. */
typedef struct groups {
    int nsets;         /* sets that exist */
    int *first, *next; /* by set, by vector: a list of vectors, 1 more than their numbers; 0 ends */
    mtbal_set *tasks;  /* of each vector; none where a product replaces it */
} groups;

static bool group_vectors(const mtbal_context *c, const mtbal_scope *sc, groups *g)
{
    mtbal_arena *arena = c->model->arena;
    size_t n = (size_t)sc->n;
    bool *has = mtbal_arena_array(arena, (size_t)c->ntasks, sizeof *has);
    g->tasks = mtbal_arena_array(arena, n, sizeof *g->tasks);
    g->next = mtbal_arena_array(arena, n, sizeof *g->next);
    for (size_t k = 0; has && g->tasks && k < n; k++) {
        for (int t = 0; t < c->ntasks; t++)
            has[t] = !sc->products[k].x && sc->vectors[(size_t)t * n + k];
        if ((g->tasks[k] = mtbal_set_of_flags(c->sets, has)) < 0)
            return false;
    }
    g->nsets = mtbal_sets_count(c->sets);
    g->first = mtbal_arena_array(arena, (size_t)g->nsets, sizeof *g->first);
    if (!has || !g->tasks || !g->next || !g->first)
        return false;
    for (int k = sc->n - 1; k >= 0; k--) {
        g->next[k] = g->first[g->tasks[k]];
        g->first[g->tasks[k]] = k + 1;
    }
    g->first[MTBAL_NO_TASK] = 0;
    return true;
}

/* [K,K] over the vectors, NULL: there are none. Those of the same tasks are added up first. */
static mtbal_value *vectors_gram(mtbal_context *c, mtbal_builder *b, const mtbal_scope *sc)
{
    mtbal_value *total = NULL;
    groups g = {0};
    if (!group_vectors(c, sc, &g)) {
        b->status = mtbal_no_memory(c->diag);
        return NULL;
    }
    for (int k = 0; k < sc->n; k++) {
        mtbal_set tasks = g.tasks[k];
        mtbal_value *sum = NULL;
        for (int same = g.first[tasks]; same; same = g.next[same - 1])
            sum = add(b, sum, vector_gram(c, b, sc, same - 1));
        g.first[tasks] = 0;
        if (sum)
            total = add(b, total, spread(c, b, tasks, sum));
    }
    return total;
}

/* [K,K] over the products, NULL: there are none. Each pair is computed once. */
static mtbal_value *products_gram(mtbal_context *c, mtbal_builder *b, const mtbal_scope *sc)
{
    mtbal_value *g[MAX_PAIRWISE * MAX_PAIRWISE];
    int n = c->ntasks, found = 0;
    const int64_t one = 1, square[2] = {n, n};
    for (int p = 0; p < sc->n && n <= MAX_PAIRWISE; p++)
        found += sc->products[p].x != NULL;
    for (int i = 0; i < n && found; i++)
        for (int j = 0; j <= i; j++) {
            mtbal_value *sum = NULL;
            for (int p = 0; p < sc->n; p++) {
                mtbal_value *dot =
                    sc->products[p].x ? product_inner(b, &sc->products[p], i, j) : NULL;
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

mtbal_value *mtbal_gram(mtbal_context *c, mtbal_builder *b, const mtbal_scope *sc)
{
    const int64_t square[2] = {c->ntasks, c->ntasks};
    mtbal_value *vectors = vectors_gram(c, b, sc), *products = products_gram(c, b, sc);
    if (vectors || products)
        return vectors && products ? add(b, vectors, products) : vectors ? vectors : products;
    return mtbal_const_tensor(b, mtbal_tensor_new(c->model, mtbal_float_type(c), 2, square, NULL));
}
