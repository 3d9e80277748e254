/* graph/ops/linear.c: matrix products, Einsum, Det. */
#include "graph/ops/shapes.h"

#include <string.h>

/* Numpy's rules, of inputs ia and ib. */
static mtbal_status matmul(mtbal_infer *s, int ia, int ib, mtbal_dtype dtype)
{
    const mtbal_type *a = shape_type(s, ia), *b = shape_type(s, ib);
    mtbal_dim dims[SHAPE_MAX_RANK + 2];
    int rank;
    if (a->rank == 0 || b->rank == 0)
        return shape_error(s, "%s is a scalar", shape_name(s, a->rank ? ib : ia));
    if (a->rank < 0 || b->rank < 0)
        return shape_set(s, 0, dtype, -1, NULL);
    mtbal_dim ka = a->dims[a->rank - 1], kb = b->dims[b->rank > 1 ? b->rank - 2 : 0];
    if (ka.size >= 0 && kb.size >= 0 && ka.size != kb.size)
        return shape_error(
            s, "the inner sizes %lld of %s and %lld of %s differ: they must be equal",
            (long long)ka.size, shape_name(s, ia), (long long)kb.size, shape_name(s, ib));
    int batch_a = a->rank > 2 ? a->rank - 2 : 0, batch_b = b->rank > 2 ? b->rank - 2 : 0;
    MTBAL_TRY(shape_broadcast(s, batch_a, a->dims, batch_b, b->dims, &rank, dims));
    if (a->rank > 1)
        dims[rank++] = a->dims[a->rank - 2];
    if (b->rank > 1)
        dims[rank++] = b->dims[b->rank - 1];
    return shape_set(s, 0, dtype, rank, dims);
}

mtbal_status mtbal_shape_matmul(mtbal_infer *s)
{
    return matmul(s, 0, 1, shape_type(s, 0)->dtype);
}

mtbal_status mtbal_shape_matmul_integer(mtbal_infer *s)
{
    return matmul(s, 0, 1, MTBAL_INT32);
}

/* a, its scale and zero point, b, its scale and zero point, scale and zero point of the result */
mtbal_status mtbal_shape_qlinear_matmul(mtbal_infer *s)
{
    return matmul(s, 0, 3, shape_type(s, 7)->dtype);
}

mtbal_status mtbal_shape_gemm(mtbal_infer *s)
{
    const mtbal_type *a = shape_type(s, 0), *b = shape_type(s, 1);
    bool ta = mtbal_attr_i(s->node, "transA", 0), tb = mtbal_attr_i(s->node, "transB", 0);
    for (int i = 0; i < 2; i++)
        if (shape_type(s, i)->rank >= 0 && shape_type(s, i)->rank != 2)
            return shape_error(s, "%s has rank %d, not 2", shape_name(s, i),
                               shape_type(s, i)->rank);
    mtbal_dim ka = a->rank < 0 ? shape_unknown() : a->dims[!ta],
              kb = b->rank < 0 ? shape_unknown() : b->dims[tb];
    if (ka.size >= 0 && kb.size >= 0 && ka.size != kb.size)
        return shape_error(
            s, "the inner sizes %lld of %s and %lld of %s differ: they must be equal",
            (long long)ka.size, shape_name(s, 0), (long long)kb.size, shape_name(s, 1));
    const mtbal_dim dims[2] = {a->rank < 0 ? shape_unknown() : a->dims[ta],
                               b->rank < 0 ? shape_unknown() : b->dims[!tb]};
    const mtbal_type y = {MTBAL_TENSOR, a->dtype, 2, (mtbal_dim *)(uintptr_t)dims};
    if (s->opset >= 7 && !shape_broadcasts(shape_type(s, 2), &y))
        return shape_error(s, "%s does not broadcast to the product of %s and %s", shape_name(s, 2),
                           shape_name(s, 0), shape_name(s, 1));
    return shape_set(s, 0, a->dtype, 2, dims);
}

/* ------------------------------------------------------------------ Einsum */

typedef struct labels {
    mtbal_dim size[128];
    int uses[128];
    mtbal_dim extra[SHAPE_MAX_RANK]; /* the axes of "...", broadcast */
    int nextra;                      /* -1: unknown */
} labels;

/* The letters of one operand [p, end): its axes, "..." standing for what they leave over. */
static mtbal_status read_operand(mtbal_infer *s, labels *l, int operand, const char *p,
                                 const char *end)
{
    const mtbal_type *t = shape_type(s, operand);
    int letters = 0, axis = 0;
    for (const char *q = p; q < end; q++)
        letters += *q != ' ' && *q != '.';
    bool dots = memchr(p, '.', (size_t)(end - p)) != NULL;
    if (t->rank >= 0 && (dots ? t->rank < letters : t->rank != letters))
        return shape_error(s, "%s has rank %d, which is not what the equation says",
                           shape_name(s, operand), t->rank);
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '.') {
            int n = t->rank < 0 ? -1 : t->rank - letters;
            mtbal_dim joint[SHAPE_MAX_RANK];
            MTBAL_TRY(shape_broadcast(s, l->nextra, l->extra, n, n < 0 ? NULL : t->dims + axis,
                                      &l->nextra, joint));
            if (l->nextra > 0)
                memcpy(l->extra, joint, (size_t)l->nextra * sizeof *joint);
            axis += n > 0 ? n : 0;
            while (p + 1 < end && p[1] == '.')
                p++;
        } else if (c != ' ' && c < 128) {
            mtbal_dim d = t->rank < 0 ? shape_unknown() : t->dims[axis];
            if (!l->uses[c] || l->size[c].size == 1)
                l->size[c] = d;
            else if (d.size != 1)
                MTBAL_TRY(shape_unify(s, axis, &l->size[c], d));
            l->uses[c]++;
            axis++;
        }
    }
    return MTBAL_OK;
}

/* "bij,bjk->bik": a size per letter. Without an arrow the result has the letters that come once,
 * in alphabetical order, behind the axes of "...". */
mtbal_status mtbal_shape_einsum(mtbal_infer *s)
{
    labels l = {.nextra = 0};
    const char *equation = mtbal_attr_s(s->node, "equation", "");
    const char *arrow = strstr(equation, "->"), *p = equation;
    const char *end = arrow ? arrow : equation + strlen(equation);
    mtbal_dim dims[2 * SHAPE_MAX_RANK];
    char implied[160] = "...";
    int rank = 0, n = 3, terms = 1;
    for (p = equation; p < end; p++)
        terms += *p == ',';
    if (terms != s->node->nin)
        return shape_error(s, "it has %d operands, but its equation %.100s has %d", s->node->nin,
                           equation, terms);
    p = equation;
    for (int operand = 0;; operand++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        MTBAL_TRY(read_operand(s, &l, operand, p, comma ? comma : end));
        if (!comma)
            break;
        p = comma + 1;
    }
    for (int c = 0; c < 128; c++)
        if (l.uses[c] == 1)
            implied[n++] = (char)c;
    if (l.nextra < 0)
        return shape_set(s, 0, shape_type(s, 0)->dtype, -1, NULL);
    for (p = arrow ? arrow + 2 : implied; *p && rank < SHAPE_MAX_RANK; p++) {
        if (*p == '.') {
            if (l.nextra)
                memcpy(dims + rank, l.extra, (size_t)l.nextra * sizeof *dims);
            rank += l.nextra;
            p += p[1] == '.' ? 1 : 0;
            p += p[1] == '.' ? 1 : 0;
        } else if (*p > ' ' && l.uses[(unsigned char)*p & 127]) {
            dims[rank++] = l.size[(unsigned char)*p & 127];
        }
    }
    return shape_set(s, 0, shape_type(s, 0)->dtype, rank, dims);
}

mtbal_status mtbal_shape_det(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    return shape_set(s, 0, x->dtype, x->rank < 2 ? -1 : x->rank - 2, x->dims);
}
