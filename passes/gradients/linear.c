/* passes/gradients/linear.c: matrix products and sums over axes. */
#include "passes/gradients/rules.h"

#include <string.h>

mtbal_status rule_unsupported(mtbal_gradient *g, const char *why)
{
    return mtbal_fail(g->diag, MTBAL_UNSUPPORTED, g->node->name, NULL, "%s", why);
}

int64_t rule_axis(const mtbal_gradient *g, int64_t otherwise)
{
    int64_t axis = mtbal_attr_i(g->node, "axis", otherwise);
    int rank = g->x[0]->type.rank;
    return axis < 0 && rank >= 0 ? axis + rank : axis;
}

mtbal_node *rule_call(mtbal_gradient *g, const char *text, const char *op, int n,
                      mtbal_value *const *in, int nout, mtbal_value **out)
{
    for (int i = 0; i < nout; i++)
        out[i] = NULL;
    if (mtbal_builder_function(g->b, text) != MTBAL_OK)
        return NULL;
    return mtbal_emit_node(g->b, "mtbal", op, n, in, nout, out);
}

/* Swaps the last two axes. */
static mtbal_value *swap_last(mtbal_builder *b, mtbal_value *x)
{
    int64_t perm[32];
    int rank = x ? x->type.rank : -1;
    if (rank < 2 || rank > 32)
        return NULL;
    for (int i = 0; i < rank; i++)
        perm[i] = i;
    perm[rank - 1] = rank - 2;
    perm[rank - 2] = rank - 1;
    return mtbal_emit_transpose(b, x, rank, perm);
}

/* X (..., N, K), W (K, M): dW sums over all leading axes: one product of flattened matrices. */
static mtbal_value *weight_gradient(mtbal_builder *b, mtbal_value *x, mtbal_value *dy)
{
    const int64_t flat[2] = {-1, 0};
    const mtbal_dim k = x->type.dims[x->type.rank - 1], m = dy->type.dims[dy->type.rank - 1];
    if (x->type.rank == 2)
        return mtbal_emit(b, "MatMul", swap_last(b, x), dy);
    int64_t to_x[2] = {flat[0], k.size}, to_y[2] = {flat[0], m.size};
    mtbal_value *x2 = mtbal_emit_reshape(b, x, mtbal_const_i64s(b, 2, to_x));
    mtbal_value *y2 = mtbal_emit_reshape(b, dy, mtbal_const_i64s(b, 2, to_y));
    return mtbal_emit(b, "MatMul", swap_last(b, x2), y2);
}

/* numpy's product: vectors are matrices with an axis of one; batch axes broadcast (the pass sums
 * over those). */
mtbal_status mtbal_rule_matmul(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *w = g->x[1], *dy = g->dy[0];
    int rx = x->type.rank, rw = w->type.rank;
    if (rx < 1 || rw < 1)
        return rule_unsupported(g, "the rank of an operand is not known");
    mtbal_value *x2 = rx == 1 ? rule_unsqueeze(b, x, 0) : x,
                *w2 = rw == 1 ? rule_unsqueeze(b, w, 1) : w;
    if (rw == 1)
        dy = rule_unsqueeze(b, dy, -1);
    if (rx == 1)
        dy = rule_unsqueeze(b, dy, -2);
    if (g->need[0]) {
        mtbal_value *dx = mtbal_emit(b, "MatMul", dy, swap_last(b, w2));
        g->dx[0] = rx == 1 ? mtbal_emit_sum_to(b, dx, x2) : dx;
        if (rx == 1)
            g->dx[0] = mtbal_emit_reshape_like(b, g->dx[0], x);
    }
    if (g->need[1]) {
        bool known = rx >= 2 && x->type.dims[rx - 1].size > 0 && w->type.rank == 2 &&
                     w->type.dims[1].size > 0;
        mtbal_value *dw = known && rw == 2 ? weight_gradient(b, x2, dy)
                                           : mtbal_emit(b, "MatMul", swap_last(b, x2), dy);
        g->dx[1] = rw == 1 ? mtbal_emit_reshape_like(b, mtbal_emit_sum_to(b, dw, w2), w) : dw;
    }
    return MTBAL_OK;
}

/* alpha op(A) op(B) as one Gemm without C. */
static mtbal_value *product(mtbal_builder *b, mtbal_value *p, bool tp, mtbal_value *q, bool tq,
                            double alpha)
{
    mtbal_value *in[2] = {p, q};
    return mtbal_emit_attrs(b, "Gemm", 2, in, "alpha=f transA=i transB=i", alpha, (int64_t)tp,
                            (int64_t)tq);
}

/* Y = alpha op(A) op(B) + beta C */
mtbal_status mtbal_rule_gemm(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    bool ta = mtbal_attr_i(g->node, "transA", 0), tb = mtbal_attr_i(g->node, "transB", 0);
    double alpha = mtbal_attr_f(g->node, "alpha", 1), beta = mtbal_attr_f(g->node, "beta", 1);
    mtbal_value *dy = g->dy[0];
    if (g->need[0])
        g->dx[0] = ta ? product(b, g->x[1], tb, dy, true, alpha)
                      : product(b, dy, false, g->x[1], !tb, alpha);
    if (g->need[1])
        g->dx[1] = tb ? product(b, dy, true, g->x[0], ta, alpha)
                      : product(b, g->x[0], !ta, dy, false, alpha);
    if (g->nx > 2 && g->need[2])
        g->dx[2] = beta == 1 ? dy : MUL(dy, rule_scalar(b, dy, beta));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Einsum */

/* Does a term's letter run over all of `size`? Not when it is missing, or of size 1 and broadcast.
 */
static bool runs_over(const char *term, const mtbal_value *x, char letter, int64_t size)
{
    const char *at = strchr(term, letter);
    if (!at)
        return false;
    int64_t own = x->type.rank > at - term ? x->type.dims[at - term].size : -1;
    return own != 1 || size == 1;
}

/* The operand's letters from the others' and the result's: letters that only it has are summed
 * over: broadcast back. */
mtbal_status mtbal_rule_einsum(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    char plain[256], out[64] = "";
    const char *terms[16];
    const char *equation = mtbal_attr_s(g->node, "equation", "");
    int n = 0;
    size_t length = 0;
    for (const char *p = equation; *p && length < sizeof plain - 1; p++)
        if (*p > ' ')
            plain[length++] = *p;
    plain[length] = 0;
    char *arrow = strstr(plain, "->");
    if (!arrow || strchr(plain, '.') || strlen(arrow) > 60 || g->nx > 16)
        return rule_unsupported(g, "an Einsum without an explicit result, or with an ellipsis");
    strcpy(out, arrow + 2);
    *arrow = 0;
    for (char *p = strtok(plain, ","); p && n < 16; p = strtok(NULL, ","))
        terms[n++] = p;
    if (n == 1 && strspn(terms[0], out) == strlen(terms[0]) && strlen(out) < strlen(terms[0]))
        return rule_by_positions(g); /* a diagonal: no letter is summed over */
    for (int i = 0; i < n; i++) {
        mtbal_value *in[17] = {g->dy[0]};
        char text[512];
        int k = 1;
        if (!g->need[i])
            continue;
        size_t used = (size_t)snprintf(text, sizeof text, "%s", out);
        for (int j = 0; j < n; j++)
            if (j != i) {
                used += (size_t)snprintf(text + used, sizeof text - used, ",%s", terms[j]);
                in[k++] = g->x[j];
            }
        for (const char *c = terms[i]; *c; c++) {
            if (strchr(c + 1, *c))
                return rule_unsupported(g, "an Einsum operand with a repeated letter");
            int64_t size =
                g->x[i]->type.rank > c - terms[i] ? g->x[i]->type.dims[c - terms[i]].size : -1;
            bool found = runs_over(out, g->dy[0], *c, size);
            for (int j = 0; j < n; j++)
                found = found || (j != i && runs_over(terms[j], g->x[j], *c, size));
            if (!found) { /* only here: ones of the operand's shape bring it back */
                used += (size_t)snprintf(text + used, sizeof text - used, ",%s", terms[i]);
                in[k++] = mtbal_emit_fill_like(b, g->x[i], 1);
                break;
            }
        }
        snprintf(text + used, sizeof text - used, "->%s", terms[i]);
        g->dx[i] = mtbal_emit_attrs(b, "Einsum", k, in, "equation=s", text);
    }
    return MTBAL_OK;
}
