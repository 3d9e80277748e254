/* lower/ops/einsum.c: Einsum as transposes, sums and one matrix product per operand pair. */
#include "lower/ops/expand.h"

#include <ctype.h>
#include <string.h>

enum { MAX_LABELS = 24 };

/* An operand whose axes carry labels; '.' and up stand for the axes of an ellipsis. */
typedef struct labelled {
    mtbal_value *x;
    int n;
    char labels[MAX_LABELS];
} labelled;

static int position(const labelled *t, char label)
{
    for (int i = 0; i < t->n; i++)
        if (t->labels[i] == label)
            return i;
    return -1;
}

/* Reads one term "ij..k" for a tensor of that rank (-1: the result's, whose ellipsis has
 * `ellipsis` axes). Axes of an ellipsis get the labels 1, 2, .. from the right. */
static bool read_term(const char **p, labelled *t, int rank, int *ellipsis)
{
    int letters = 0;
    bool dots = false;
    for (const char *q = *p; *q && *q != ',' && *q != '-'; q++) {
        letters += isalpha((unsigned char)*q) != 0;
        dots = dots || *q == '.';
    }
    int wide = !dots ? 0 : rank < 0 ? *ellipsis : rank - letters;
    if (wide < 0 || letters + wide > MAX_LABELS || (rank >= 0 && letters + wide != rank))
        return false;
    *ellipsis = wide > *ellipsis ? wide : *ellipsis;
    t->n = 0;
    bool spread = false;
    for (; **p && **p != ',' && **p != '-'; ++*p) {
        if (isalpha((unsigned char)**p))
            t->labels[t->n++] = **p;
        for (int i = wide; **p == '.' && !spread && i > 0; i--)
            t->labels[t->n++] = (char)i;
        spread = spread || **p == '.';
    }
    return true;
}

/* Axes i and j behind the others, seen as one of n n elements: the diagonal is each (n + 1)th of
 * them. */
static void take_diagonal(expansion *e, labelled *t, int i, int j, int64_t n)
{
    mtbal_builder *b = e->b;
    int64_t perm[MAX_LABELS], dims[MAX_LABELS];
    char label = t->labels[i];
    int k = 0;
    for (int d = 0; d < t->n; d++)
        if (d != i && d != j) {
            t->labels[k] = t->labels[d];
            dims[k] = expand_dim(t->x, d);
            perm[k++] = d;
        }
    perm[k] = i;
    perm[k + 1] = j;
    dims[k] = n * n;
    t->labels[k] = label;
    t->n = k + 1;
    const int64_t from = 0, to = n * n, axis = k, step = n + 1;
    mtbal_value *flat = expand_reshape(b, mtbal_emit_transpose(b, t->x, k + 2, perm), k + 1, dims);
    t->x = mtbal_emit(b, "Slice", flat, mtbal_const_i64s(b, 1, &from), mtbal_const_i64s(b, 1, &to),
                      mtbal_const_i64s(b, 1, &axis), mtbal_const_i64s(b, 1, &step));
}

/* A label that comes twice in one term. */
static bool take_diagonals(expansion *e, labelled *t)
{
    for (int i = 0; i < t->n; i++)
        for (int j = i + 1; j < t->n; j++)
            if (t->labels[i] == t->labels[j]) {
                int64_t n = expand_dim(t->x, i);
                if (expand_dim(t->x, j) != n)
                    return false;
                take_diagonal(e, t, i, j, n);
                i = -1; /* the order of the labels is another now */
                break;
            }
    return true;
}

static bool needed(const labelled *terms, int from, int n, const labelled *out, char label)
{
    for (int i = from; i < n; i++)
        if (position(&terms[i], label) >= 0)
            return true;
    return position(out, label) >= 0;
}

/* Sums over the labels of t that neither `other` nor anything later needs. */
static void sum_out(mtbal_builder *b, labelled *t, const labelled *other, const labelled *terms,
                    int from, int n, const labelled *out)
{
    for (int i = t->n - 1; i >= 0; i--) {
        int64_t axis = i;
        if ((other && position(other, t->labels[i]) >= 0) ||
            needed(terms, from, n, out, t->labels[i]))
            continue;
        t->x = t->x ? mtbal_emit_reduce(b, "ReduceSum", t->x, 1, &axis, false) : NULL;
        memmove(&t->labels[i], &t->labels[i + 1], (size_t)(t->n - i - 1));
        t->n--;
    }
}

/* t with its axes in the order of `labels`; missing ones have size 1. */
static mtbal_value *arrange(mtbal_builder *b, const labelled *t, const char *labels, int n)
{
    int64_t perm[MAX_LABELS], shape[MAX_LABELS];
    int used = 0;
    for (int i = 0; i < n; i++) {
        int at = position(t, labels[i]);
        shape[i] = at < 0 ? 1 : expand_dim(t->x, at);
        if (at >= 0)
            perm[used++] = at;
    }
    mtbal_value *turned = t->x ? mtbal_emit_transpose(b, t->x, used, perm) : NULL;
    return used == n ? turned : expand_reshape(b, turned, n, shape);
}

/* p and q over batch labels (in both, kept), rows (p only), columns (q only), inner (in both, not
 * kept): one MatMul (batch, rows, inner) x (batch, inner, columns). */
static void product(mtbal_builder *b, labelled *p, const labelled *q, const labelled *terms,
                    int from, int n, const labelled *out)
{
    char batch[MAX_LABELS], rows[MAX_LABELS], inner[MAX_LABELS], columns[MAX_LABELS];
    int nb = 0, nr = 0, ni = 0, nc = 0;
    int64_t sizes[4] = {1, 1, 1, 1}, whole[MAX_LABELS], k = 0;
    char order[3 * MAX_LABELS];
    for (int i = 0; i < p->n; i++) {
        char label = p->labels[i];
        int other = position(q, label);
        bool stretched = other >= 0 && expand_dim(p->x, i) != expand_dim(q->x, other);
        if (other < 0)
            rows[nr++] = label;
        else if (stretched || needed(terms, from, n, out, label))
            batch[nb++] = label;
        else
            inner[ni++] = label;
    }
    for (int i = 0; i < q->n; i++)
        if (position(p, q->labels[i]) < 0)
            columns[nc++] = q->labels[i];
    for (int i = 0; i < nb; i++) {
        int64_t m = expand_dim(p->x, position(p, batch[i])),
                o = expand_dim(q->x, position(q, batch[i]));
        whole[k++] = m == 1 ? o : m;
    }
    for (int i = 0; i < nr; i++)
        sizes[1] *= whole[k++] = expand_dim(p->x, position(p, rows[i]));
    for (int i = 0; i < ni; i++)
        sizes[2] *= expand_dim(p->x, position(p, inner[i]));
    for (int i = 0; i < nc; i++)
        sizes[3] *= whole[k++] = expand_dim(q->x, position(q, columns[i]));
    memcpy(order, batch, (size_t)nb);
    memcpy(order + nb, rows, (size_t)nr);
    memcpy(order + nb + nr, inner, (size_t)ni);
    mtbal_value *left = arrange(b, p, order, nb + nr + ni);
    memcpy(order + nb, inner, (size_t)ni);
    memcpy(order + nb + ni, columns, (size_t)nc);
    mtbal_value *right = arrange(b, q, order, nb + ni + nc);
    int64_t ls[MAX_LABELS + 2], rs[MAX_LABELS + 2];
    for (int i = 0; i < nb; i++) {
        ls[i] = left ? expand_dim(left, i) : 1;
        rs[i] = right ? expand_dim(right, i) : 1;
    }
    ls[nb] = sizes[1];
    ls[nb + 1] = rs[nb] = sizes[2];
    rs[nb + 1] = sizes[3];
    mtbal_value *y = mtbal_emit(b, "MatMul", expand_reshape(b, left, nb + 2, ls),
                                expand_reshape(b, right, nb + 2, rs));
    memcpy(p->labels, batch, (size_t)nb);
    memcpy(p->labels + nb, rows, (size_t)nr);
    memcpy(p->labels + nb + nr, columns, (size_t)nc);
    p->n = nb + nr + nc;
    p->x = expand_reshape(b, y, p->n, whole);
}

/* Without "->": the labels that come once, in alphabetical order, behind the ellipsis. */
static void implicit_output(const labelled *terms, int n, int ellipsis, labelled *out)
{
    out->n = 0;
    for (int i = ellipsis; i > 0; i--)
        out->labels[out->n++] = (char)i;
    for (char c = 'A'; c <= 'z'; c++) {
        int count = 0;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < terms[i].n; k++)
                count += terms[i].labels[k] == c;
        if (isalpha((unsigned char)c) && count == 1 && out->n < MAX_LABELS)
            out->labels[out->n++] = c;
    }
}

EXPAND(einsum)
{
    mtbal_builder *b = e->b;
    labelled terms[16], out = {0};
    const char *equation = mtbal_attr_s(e->node, "equation", "");
    char text[256];
    size_t length = 0;
    int n = e->node->nin, ellipsis = 0;
    for (; *equation && length < sizeof text - 1; equation++)
        if (*equation != ' ')
            text[length++] = *equation;
    text[length] = 0;
    const char *p = text;
    if (n < 1 || n > 16)
        return MTBAL_OK;
    for (int i = 0; i < n; i++) {
        terms[i].x = expand_in(e, i);
        if (!terms[i].x || !read_term(&p, &terms[i], terms[i].x->type.rank, &ellipsis))
            return MTBAL_OK;
        p += *p == ',';
    }
    if (p[0] == '-' && p[1] == '>') {
        p += 2;
        if (!read_term(&p, &out, -1, &ellipsis))
            return MTBAL_OK;
    } else {
        implicit_output(terms, n, ellipsis, &out);
    }
    for (int i = 0; i < n; i++)
        if (!take_diagonals(e, &terms[i]))
            return MTBAL_OK;
    labelled *sum = &terms[0];
    for (int i = 1; i < n; i++) {
        sum_out(b, sum, &terms[i], terms, i + 1, n, &out);
        sum_out(b, &terms[i], sum, terms, i + 1, n, &out);
        if (!sum->x || !terms[i].x || sum->n + terms[i].n > MAX_LABELS)
            return MTBAL_OK;
        product(b, sum, &terms[i], terms, i + 1, n, &out);
    }
    sum_out(b, sum, NULL, terms, n, n, &out);
    mtbal_value *y = sum->x ? arrange(b, sum, out.labels, out.n) : NULL;
    e->out[0] = y == expand_in(e, 0) ? UNARY("Identity", y) : y;
    return MTBAL_OK;
}
