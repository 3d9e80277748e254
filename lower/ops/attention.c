/* lower/ops/attention.c: Attention (opset 23) and RotaryEmbedding in terms of other ops. */
#include "lower/ops/expand.h"

#include <math.h>
#include <string.h>

typedef struct attention {
    expansion *e;
    mtbal_builder *b;
    mtbal_value *q, *k, *v; /* (B, heads, length, size) */
    mtbal_value *bias;      /* broadcasts to (B, heads, lq, lk); NULL: none */
    bool flat;              /* operands came as (B, length, heads * size) */
    int64_t batch, hq, hk, lq, lk, size, vsize, past;
} attention;

/* (B, L, H * D) -> (B, H, L, D) */
static mtbal_value *split_heads(mtbal_builder *b, mtbal_value *x, int64_t heads)
{
    int64_t batch = expand_dim(x, 0), length = expand_dim(x, 1), width = expand_dim(x, 2);
    mtbal_value *x4 =
        expand_reshape(b, x, 4, (int64_t[]){batch, length, heads, heads ? width / heads : 0});
    return x4 ? mtbal_emit_transpose(b, x4, 4, (int64_t[]){0, 2, 1, 3}) : NULL;
}

/* (B, H, L, D) -> (B, L, H * D) */
static mtbal_value *join_heads(mtbal_builder *b, mtbal_value *x)
{
    int64_t dims[3] = {expand_dim(x, 0), expand_dim(x, 2), expand_dim(x, 1) * expand_dim(x, 3)};
    mtbal_value *turned = x ? mtbal_emit_transpose(b, x, 4, (int64_t[]){0, 2, 1, 3}) : NULL;
    return expand_reshape(b, turned, 3, dims);
}

/* Heads of keys and values that several query heads share: each is repeated next to itself. */
static mtbal_value *repeat_heads(const attention *a, mtbal_value *x)
{
    int64_t times = a->hk ? a->hq / a->hk : 1, length = expand_dim(x, 2), size = expand_dim(x, 3);
    if (times == 1)
        return x;
    mtbal_value *x5 = expand_reshape(a->b, x, 5, (int64_t[]){a->batch, a->hk, 1, length, size});
    mtbal_value *many =
        expand_broadcast(a->b, x5, 5, (int64_t[]){a->batch, a->hk, times, length, size});
    return expand_reshape(a->b, many, 4, (int64_t[]){a->batch, a->hq, length, size});
}

static bool read_operands(attention *a)
{
    const expansion *e = a->e;
    mtbal_builder *b = a->b;
    a->q = expand_in(e, 0);
    a->k = expand_in(e, 1);
    a->v = expand_in(e, 2);
    if (!a->q || !a->k || !a->v || (a->q->type.rank != 3 && a->q->type.rank != 4))
        return false;
    a->flat = a->q->type.rank == 3;
    if (a->flat) {
        int64_t hq = mtbal_attr_i(e->node, "q_num_heads", 0),
                hk = mtbal_attr_i(e->node, "kv_num_heads", 0);
        if (hq < 1 || hk < 1)
            return false;
        a->q = split_heads(b, a->q, hq);
        a->k = split_heads(b, a->k, hk);
        a->v = split_heads(b, a->v, hk);
    }
    if (expand_in(e, 4) && expand_in(e, 5)) {
        a->past = expand_dim(expand_in(e, 4), 2);
        a->k = expand_concat(b, 2, (mtbal_value *[]){expand_in(e, 4), a->k}, 2);
        a->v = expand_concat(b, 2, (mtbal_value *[]){expand_in(e, 5), a->v}, 2);
    }
    a->batch = expand_dim(a->q, 0);
    a->hq = expand_dim(a->q, 1);
    a->lq = expand_dim(a->q, 2);
    a->size = expand_dim(a->q, 3);
    a->hk = expand_dim(a->k, 1);
    a->lk = expand_dim(a->k, 2);
    a->vsize = expand_dim(a->v, 3);
    return a->hk > 0 && a->hq % a->hk == 0;
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

static mtbal_value *count_up(const attention *a, int64_t n, int rank, const int64_t *dims)
{
    mtbal_tensor *t = mtbal_tensor_new(a->e->l->model, MTBAL_INT64, rank, dims, NULL);
    for (int64_t i = 0; t && i < n; i++)
        ((int64_t *)mtbal_tensor_bytes(t))[i] = i;
    return mtbal_const_tensor(a->b, t);
}

static void read_mask(attention *a)
{
    mtbal_builder *b = a->b;
    mtbal_value *mask = expand_in(a->e, 3), *valid = expand_in(a->e, 6);
    bool causal = mtbal_attr_i(a->e->node, "is_causal", 0) != 0;
    if (mask) {
        if (mask->type.dtype == MTBAL_BOOL)
            mask = minus_infinity_unless(a, mask);
        int64_t width = expand_dim(mask, -1);
        if (mask && width < a->lk && width != 1) { /* keys beyond the mask are not seen */
            int64_t pads[16] = {0};
            int rank = mask->type.rank;
            pads[2 * rank - 1] = a->lk - width;
            mask = mtbal_emit(b, "Pad", mask, mtbal_const_i64s(b, 2 * rank, pads),
                              LIKE(a->q, -INFINITY));
        }
        add_bias(a, mask);
    }
    if (!causal && !valid)
        return;
    mtbal_value *rows = count_up(a, a->lq, 4, (int64_t[]){1, 1, a->lq, 1});
    mtbal_value *columns = count_up(a, a->lk, 4, (int64_t[]){1, 1, 1, a->lk});
    mtbal_value *lengths = expand_reshape(b, valid, 4, (int64_t[]){expand_dim(valid, 0), 1, 1, 1});
    if (causal) { /* key j is seen by query i when j <= i + offset */
        mtbal_value *offset =
            valid ? SUB(lengths, mtbal_const_i64(b, a->lq)) : mtbal_const_i64(b, a->past);
        mtbal_value *beyond = OP2("Less", ADD(rows, offset), columns);
        add_bias(a, minus_infinity_unless(a, UNARY("Not", beyond)));
    }
    if (valid)
        add_bias(a, minus_infinity_unless(a, OP2("Less", columns, lengths)));
}

/* Softmax over the keys; a query that may see none gets zeros. */
static mtbal_value *weigh(const attention *a, mtbal_value *scores)
{
    mtbal_builder *b = a->b;
    mtbal_dtype own = a->q->type.dtype;
    mtbal_dtype precision = (mtbal_dtype)mtbal_attr_i(a->e->node, "softmax_precision", own);
    mtbal_value *s = scores ? mtbal_emit_cast(b, scores, precision) : NULL;
    mtbal_value *p = s ? mtbal_emit_attrs(b, "Softmax", 1, &s, "axis=i", (int64_t)3) : NULL;
    p = p ? mtbal_emit_cast(b, p, own) : NULL;
    if (!a->bias)
        return p;
    mtbal_value *most = expand_reduce(b, "ReduceMax", a->bias, -1);
    return WHERE(OP2("Equal", most, LIKE(a->bias, -INFINITY)), LIKE(p, 0), p);
}

EXPAND(attention)
{
    mtbal_builder *b = e->b;
    attention a = {.e = e, .b = b};
    if (!read_operands(&a))
        return MTBAL_OK;
    read_mask(&a);
    double scale = mtbal_attr_f(e->node, "scale", 1 / sqrt(a.size > 0 ? (double)a.size : 1));
    double cap = mtbal_attr_f(e->node, "softcap", 0);
    int64_t mode = mtbal_attr_i(e->node, "qk_matmul_output_mode", 0);
    mtbal_value *stages[4], *turned;
    turned = mtbal_emit_transpose(b, repeat_heads(&a, a.k), 4, (int64_t[]){0, 1, 3, 2});
    stages[0] = mtbal_emit(b, "MatMul", MUL(a.q, LIKE(a.q, sqrt(scale))),
                           MUL(turned, LIKE(a.q, sqrt(scale))));
    stages[1] =
        cap > 0 ? MUL(UNARY("Tanh", DIV(stages[0], LIKE(a.q, cap))), LIKE(a.q, cap)) : stages[0];
    stages[2] = a.bias ? ADD(stages[1], a.bias) : stages[1];
    stages[3] = weigh(&a, stages[2]);
    mtbal_value *y = mtbal_emit(b, "MatMul", stages[3], repeat_heads(&a, a.v));
    e->out[0] = a.flat ? join_heads(b, y) : y;
    e->out[1] = UNARY("Identity", a.k);
    e->out[2] = UNARY("Identity", a.v);
    e->out[3] = mode >= 0 && mode < 4 ? UNARY("Identity", stages[mode]) : NULL;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ RotaryEmbedding */

/* The pairs (x1, x2) that are turned together: halves of the rotated part, or neighbours. */
static void take_pairs(mtbal_builder *b, mtbal_value *x, bool interleaved, mtbal_value **x1,
                       mtbal_value **x2)
{
    int64_t d = expand_dim(x, 3);
    int64_t dims[5] = {expand_dim(x, 0), expand_dim(x, 1), expand_dim(x, 2), d / 2, 2};
    if (!interleaved) {
        *x1 = expand_slice(b, x, 3, 0, d / 2);
        *x2 = expand_slice(b, x, 3, d / 2, d);
        return;
    }
    mtbal_value *pairs = expand_reshape(b, x, 5, dims);
    *x1 = expand_reshape(b, expand_slice(b, pairs, 4, 0, 1), 4, dims);
    *x2 = expand_reshape(b, expand_slice(b, pairs, 4, 1, 2), 4, dims);
}

static mtbal_value *put_pairs(mtbal_builder *b, mtbal_value *x1, mtbal_value *x2, bool interleaved)
{
    if (!interleaved)
        return expand_concat(b, 2, (mtbal_value *[]){x1, x2}, 3);
    int64_t dims[5] = {expand_dim(x1, 0), expand_dim(x1, 1), expand_dim(x1, 2), expand_dim(x1, 3),
                       1};
    mtbal_value *both[2] = {expand_reshape(b, x1, 5, dims), expand_reshape(b, x2, 5, dims)};
    dims[3] *= 2;
    return expand_reshape(b, expand_concat(b, 2, both, 4), 4, dims);
}

/* cos or sin as (B, L, 1, D/2). */
static mtbal_value *angles(mtbal_builder *b, mtbal_value *cache, mtbal_value *positions, int64_t n)
{
    mtbal_value *at = cache;
    if (positions)
        at = mtbal_emit_attrs(b, "Gather", 2, (mtbal_value *[]){cache, positions}, "axis=i",
                              (int64_t)0);
    if (at && expand_dim(at, 2) > n)
        at = expand_slice(b, at, 2, 0, n);
    return expand_reshape(b, at, 4, (int64_t[]){expand_dim(at, 0), expand_dim(at, 1), 1, n});
}

EXPAND(rotary_embedding)
{
    mtbal_builder *b = e->b;
    mtbal_value *input = expand_in(e, 0), *x = input, *x1, *x2;
    if (!x || (x->type.rank != 3 && x->type.rank != 4))
        return MTBAL_OK;
    bool flat = x->type.rank == 3, interleaved = mtbal_attr_i(e->node, "interleaved", 0) != 0;
    int64_t heads = mtbal_attr_i(e->node, "num_heads", 0), whole[3];
    for (int d = 0; d < 3; d++)
        whole[d] = expand_dim(input, d);
    if (flat && heads < 1)
        return MTBAL_OK;
    x = flat ? expand_reshape(b, x, 4, (int64_t[]){whole[0], whole[1], heads, whole[2] / heads})
             : mtbal_emit_transpose(b, x, 4, (int64_t[]){0, 2, 1, 3}); /* (B, L, H, D) */
    int64_t size = expand_dim(x, 3), turned = mtbal_attr_i(e->node, "rotary_embedding_dim", 0);
    turned = turned > 0 && turned < size ? turned : size;
    mtbal_value *rest = turned < size ? expand_slice(b, x, 3, turned, size) : NULL;
    take_pairs(b, turned < size ? expand_slice(b, x, 3, 0, turned) : x, interleaved, &x1, &x2);
    mtbal_value *c = angles(b, expand_in(e, 1), expand_in(e, 3), turned / 2),
                *s = angles(b, expand_in(e, 2), expand_in(e, 3), turned / 2);
    mtbal_value *y =
        put_pairs(b, SUB(MUL(c, x1), MUL(s, x2)), ADD(MUL(s, x1), MUL(c, x2)), interleaved);
    if (rest)
        y = expand_concat(b, 2, (mtbal_value *[]){y, rest}, 3);
    e->out[0] = flat ? expand_reshape(b, y, 3, whole)
                     : mtbal_emit_transpose(b, y, 4, (int64_t[]){0, 2, 1, 3});
    return MTBAL_OK;
}
