/* graph/compound_attention.c: Attention and RotaryEmbedding (opset 23) written out. */
#include "graph/compound.h"

#include <math.h>

typedef struct attention {
    const compound *c;
    mtbal_builder *b;
    mtbal_value *q, *k, *v; /* (B, heads, length, size) */
    mtbal_value *bias;      /* broadcasts to (B, heads, lq, lk); NULL: none */
    bool flat;              /* operands came as (B, length, heads * size) */
    int64_t hq, hk, size;
} attention;

static int64_t known(const mtbal_value *x, int axis)
{
    return x && x->type.rank > axis ? x->type.dims[axis].size : -1;
}

/* (B, L, H * D) -> (B, H, L, D) */
static mtbal_value *split_heads(mtbal_builder *b, mtbal_value *x, int64_t heads)
{
    const int64_t dims[4] = {0, 0, heads, -1};
    return mtbal_emit_transpose(b, compound_reshape(b, x, 4, dims), 4, (int64_t[]){0, 2, 1, 3});
}

/* (B, H, L, D) -> (B, L, H * D) */
static mtbal_value *join_heads(mtbal_builder *b, mtbal_value *x)
{
    const int64_t dims[3] = {0, 0, -1};
    return compound_reshape(b, mtbal_emit_transpose(b, x, 4, (int64_t[]){0, 2, 1, 3}), 3, dims);
}

/* Heads of keys and values that several query heads share: each is repeated next to itself. */
static mtbal_value *repeat_heads(const attention *a, mtbal_value *x)
{
    mtbal_builder *b = a->b;
    const int64_t times[5] = {1, 1, a->hq / a->hk, 1, 1}, two = 2;
    if (times[2] == 1)
        return x;
    mtbal_value *many =
        mtbal_emit(b, "Expand", mtbal_emit(b, "Unsqueeze", x, mtbal_const_i64s(b, 1, &two)),
                   mtbal_const_i64s(b, 5, times));
    mtbal_value *shape[4] = {compound_size(b, x, 0), mtbal_const_i64s(b, 1, &a->hq),
                             compound_size(b, x, 2), compound_size(b, x, 3)};
    return mtbal_emit_reshape(b, many, compound_concat(b, 4, shape, 0));
}

static const char *read_operands(attention *a)
{
    const compound *c = a->c;
    mtbal_builder *b = a->b;
    a->q = c->x[0];
    a->k = c->x[1];
    a->v = c->x[2];
    a->flat = a->q->type.rank == 3;
    if (!a->flat && a->q->type.rank != 4)
        return "an operand of unknown rank";
    a->hq = a->flat ? mtbal_attr_i(c->node, "q_num_heads", 0) : known(a->q, 1);
    a->hk = a->flat ? mtbal_attr_i(c->node, "kv_num_heads", 0) : known(a->k, 1);
    if (a->hq < 1 || a->hk < 1 || a->hq % a->hk)
        return "a number of heads that is not known";
    if (a->flat) {
        a->size = known(a->q, 2) / a->hq;
        a->q = split_heads(b, a->q, a->hq);
        a->k = split_heads(b, a->k, a->hk);
        a->v = split_heads(b, a->v, a->hk);
    } else {
        a->size = known(a->q, 3);
    }
    if (c->x[4] && c->x[5]) {
        a->k = compound_concat(b, 2, (mtbal_value *[]){c->x[4], a->k}, 2);
        a->v = compound_concat(b, 2, (mtbal_value *[]){c->x[5], a->v}, 2);
    }
    return a->size < 1 ? "heads of unknown size" : NULL;
}

static void add_bias(attention *a, mtbal_value *more)
{
    mtbal_builder *b = a->b;
    a->bias = a->bias ? ADD(a->bias, more) : more;
}

/* 0 where `allowed`, else -inf. */
static mtbal_value *minus_infinity_unless(const attention *a, mtbal_value *allowed)
{
    mtbal_builder *b = a->b;
    return WHERE(allowed, LIKE(a->q, 0), LIKE(a->q, -INFINITY));
}

/* 0, 1, .. as many as x is long, in that shape. */
static mtbal_value *count_up(mtbal_builder *b, mtbal_value *x, const int64_t *shape)
{
    const int64_t zero = 0;
    mtbal_value *n =
        mtbal_emit(b, "Squeeze", compound_size(b, x, 2), mtbal_const_i64s(b, 1, &zero));
    return compound_reshape(
        b, mtbal_emit(b, "Range", mtbal_const_i64(b, 0), n, mtbal_const_i64(b, 1)), 4, shape);
}

/* The mask as something to add; keys beyond it are not seen. */
static mtbal_value *mask_bias(attention *a, mtbal_value *mask)
{
    mtbal_builder *b = a->b;
    int rank = mask->type.rank;
    int64_t width = rank > 0 ? known(mask, rank - 1) : -1, keys = known(a->k, 2);
    int64_t pads[16] = {0};
    if (mask->type.dtype == MTBAL_BOOL)
        mask = minus_infinity_unless(a, mask);
    if (rank < 1 || rank > 8 || width < 0 || width == 1 || keys < 0 || width >= keys)
        return mask;
    pads[2 * rank - 1] = keys - width;
    return mtbal_emit(b, "Pad", mask, mtbal_const_i64s(b, 2 * rank, pads), LIKE(a->q, -INFINITY));
}

static void read_mask(attention *a)
{
    static const int64_t down[4] = {1, 1, -1, 1}, across[4] = {1, 1, 1, -1},
                         first[4] = {-1, 1, 1, 1};
    mtbal_builder *b = a->b;
    const compound *c = a->c;
    bool causal = mtbal_attr_i(c->node, "is_causal", 0) != 0;
    if (c->x[3])
        add_bias(a, mask_bias(a, c->x[3]));
    if (!causal && !c->x[6])
        return;
    mtbal_value *rows = count_up(b, a->q, down), *columns = count_up(b, a->k, across);
    mtbal_value *lengths = c->x[6] ? compound_reshape(b, c->x[6], 4, first) : NULL;
    if (causal) { /* key j is seen by query i when j <= i + offset */
        mtbal_value *offset = lengths   ? SUB(lengths, compound_size(b, a->q, 2))
                              : c->x[4] ? compound_size(b, c->x[4], 2)
                                        : mtbal_const_i64(b, 0);
        mtbal_value *beyond = OP2("Less", ADD(rows, offset), columns);
        add_bias(a, minus_infinity_unless(a, UNARY("Not", beyond)));
    }
    if (lengths)
        add_bias(a, minus_infinity_unless(a, OP2("Less", columns, lengths)));
}

/* Softmax over the keys; a query that may see none gets zeros. */
static mtbal_value *weigh(const attention *a, mtbal_value *scores)
{
    mtbal_builder *b = a->b;
    mtbal_dtype own = a->q->type.dtype;
    mtbal_dtype precision = (mtbal_dtype)mtbal_attr_i(a->c->node, "softmax_precision", own);
    const int64_t last = -1;
    mtbal_value *blind = NULL;
    if (a->bias) {
        mtbal_value *most = mtbal_emit_reduce(b, "ReduceMax", a->bias, 1, &last, true);
        blind = OP2("Equal", most, LIKE(a->bias, -INFINITY));
        scores = ADD(scores, WHERE(blind, LIKE(a->bias, 0), a->bias));
    }
    mtbal_value *s = scores ? mtbal_emit_cast(b, scores, precision) : NULL;
    mtbal_value *p = s ? mtbal_emit_attrs(b, "Softmax", 1, &s, "axis=i", last) : NULL;
    p = p ? mtbal_emit_cast(b, p, own) : NULL;
    return blind ? WHERE(blind, LIKE(p, 0), p) : p;
}

BODY(attention)
{
    mtbal_builder *b = c->b;
    attention a = {.c = c, .b = b};
    const char *why = read_operands(&a);
    if (why)
        return why;
    read_mask(&a);
    double half = sqrt(mtbal_attr_f(c->node, "scale", 1 / sqrt((double)a.size)));
    double cap = mtbal_attr_f(c->node, "softcap", 0);
    int64_t mode = mtbal_attr_i(c->node, "qk_matmul_output_mode", 0);
    mtbal_value *stages[4];
    mtbal_value *turned =
        mtbal_emit_transpose(b, repeat_heads(&a, a.k), 4, (int64_t[]){0, 1, 3, 2});
    stages[0] = mtbal_emit(b, "MatMul", MUL(a.q, LIKE(a.q, half)), MUL(turned, LIKE(a.q, half)));
    stages[1] =
        cap > 0 ? MUL(UNARY("Tanh", DIV(stages[0], LIKE(a.q, cap))), LIKE(a.q, cap)) : stages[0];
    stages[2] = a.bias ? ADD(stages[1], a.bias) : stages[1];
    stages[3] = weigh(&a, stages[1]);
    mtbal_value *y = mtbal_emit(b, "MatMul", stages[3], repeat_heads(&a, a.v));
    mtbal_value *results[4] = {a.flat ? join_heads(b, y) : y, UNARY("Identity", a.k),
                               UNARY("Identity", a.v),
                               mode >= 0 && mode < 4 ? UNARY("Identity", stages[mode]) : NULL};
    for (int i = 0; i < c->node->nout && i < 4; i++)
        c->y[i] = results[i];
    return NULL;
}

/* ------------------------------------------------------------------ RotaryEmbedding */

/* The pairs (x1, x2) that are turned together: halves of the n rotated ones, or neighbours. */
static void take_pairs(mtbal_builder *b, mtbal_value *x, int64_t n, bool interleaved,
                       mtbal_value **x1, mtbal_value **x2)
{
    const int64_t pairs[5] = {0, 0, 0, n / 2, 2}, flat[4] = {0, 0, 0, n / 2};
    if (!interleaved) {
        *x1 = compound_slice(b, x, 3, 0, n / 2);
        *x2 = compound_slice(b, x, 3, n / 2, n);
        return;
    }
    mtbal_value *two = compound_reshape(b, x, 5, pairs);
    *x1 = compound_reshape(b, compound_slice(b, two, 4, 0, 1), 4, flat);
    *x2 = compound_reshape(b, compound_slice(b, two, 4, 1, 2), 4, flat);
}

static mtbal_value *put_pairs(mtbal_builder *b, mtbal_value *x1, mtbal_value *x2, bool interleaved)
{
    const int64_t last = -1, dims[4] = {0, 0, 0, -1};
    if (!interleaved)
        return compound_concat(b, 2, (mtbal_value *[]){x1, x2}, 3);
    mtbal_value *axis = mtbal_const_i64s(b, 1, &last);
    mtbal_value *both[2] = {mtbal_emit(b, "Unsqueeze", x1, axis),
                            mtbal_emit(b, "Unsqueeze", x2, axis)};
    return compound_reshape(b, compound_concat(b, 2, both, 4), 4, dims);
}

/* cos or sin as (B, L, 1, n). */
static mtbal_value *angles(mtbal_builder *b, mtbal_value *cache, mtbal_value *positions, int64_t n)
{
    const int64_t two = 2;
    mtbal_value *in[2] = {cache, positions};
    mtbal_value *at =
        positions ? mtbal_emit_attrs(b, "Gather", 2, in, "axis=i", (int64_t)0) : cache;
    if (known(at, 2) > n)
        at = compound_slice(b, at, 2, 0, n);
    return mtbal_emit(b, "Unsqueeze", at, mtbal_const_i64s(b, 1, &two));
}

BODY(rotary_embedding)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0], *x1, *x2;
    bool flat = x->type.rank == 3, interleaved = mtbal_attr_i(c->node, "interleaved", 0) != 0;
    int64_t heads = mtbal_attr_i(c->node, "num_heads", 0);
    const int64_t split[4] = {0, 0, heads, -1}, join[3] = {0, 0, -1};
    if ((!flat && x->type.rank != 4) || (flat && heads < 1))
        return "an operand of unknown rank, or no num_heads";
    int64_t size = flat ? known(x, 2) / heads : known(x, 3),
            turned = mtbal_attr_i(c->node, "rotary_embedding_dim", 0);
    if (size < 1)
        return "heads of unknown size";
    turned = turned > 0 && turned < size ? turned : size;
    x = flat ? compound_reshape(b, x, 4, split)
             : mtbal_emit_transpose(b, x, 4, (int64_t[]){0, 2, 1, 3}); /* (B, L, H, D) */
    mtbal_value *rest = turned < size ? compound_slice(b, x, 3, turned, size) : NULL;
    take_pairs(b, rest ? compound_slice(b, x, 3, 0, turned) : x, turned, interleaved, &x1, &x2);
    mtbal_value *cos = angles(b, c->x[1], c->x[3], turned / 2),
                *sin = angles(b, c->x[2], c->x[3], turned / 2);
    mtbal_value *y =
        put_pairs(b, SUB(MUL(cos, x1), MUL(sin, x2)), ADD(MUL(sin, x1), MUL(cos, x2)), interleaved);
    if (rest)
        y = compound_concat(b, 2, (mtbal_value *[]){y, rest}, 3);
    c->y[0] = flat ? compound_reshape(b, y, 3, join)
                   : mtbal_emit_transpose(b, y, 4, (int64_t[]){0, 2, 1, 3});
    return NULL;
}
