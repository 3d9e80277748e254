/* graph/ops/attention.c: attention as one operator. */
#include "graph/ops/shapes.h"

/* One operand of attention: (batch, heads, length, size), or packed (batch, length, heads * size).
 */
typedef struct part {
    mtbal_dim batch, heads, length, size;
} part;

static part part_of(mtbal_infer *s, int i, const char *heads)
{
    const mtbal_type *t = shape_type(s, i);
    int64_t count = mtbal_attr_i(s->node, heads, 0);
    part p = {shape_unknown(), shape_unknown(), shape_unknown(), shape_unknown()};
    if (t->rank == 4)
        p = (part){t->dims[0], t->dims[1], t->dims[2], t->dims[3]};
    if (t->rank == 3) {
        p.batch = t->dims[0];
        p.length = t->dims[1];
        p.heads = count > 0 ? mtbal_dim_const(count) : shape_unknown();
        p.size = count > 0 ? mtbal_dim_div(s->model, t->dims[2], p.heads) : shape_unknown();
    }
    return p;
}

/* Q, K, V, mask, past K, past V -> Y, present K, present V, scores. */
mtbal_status mtbal_shape_attention(mtbal_infer *s)
{
    const mtbal_type *tq = shape_type(s, 0), *past = shape_type(s, 4), *tv = shape_type(s, 2);
    part q = part_of(s, 0, "q_num_heads"), k = part_of(s, 1, "kv_num_heads"),
         v = part_of(s, 2, "kv_num_heads");
    mtbal_dim total = k.length;
    if (tq->rank >= 0 && tq->rank != 3 && tq->rank != 4)
        return shape_error(s, "%s has rank %d, not 3 or 4", shape_name(s, 0), tq->rank);
    int64_t groups = q.heads.size >= 0 && k.heads.size > 0 ? q.heads.size % k.heads.size : 0;
    for (int i = 1; i < 3; i++)
        if (tq->rank >= 0 && shape_type(s, i)->rank >= 0 && shape_type(s, i)->rank != tq->rank)
            return shape_error(s, "%s has rank %d, but %s rank %d", shape_name(s, 0), tq->rank,
                               shape_name(s, i), shape_type(s, i)->rank);
    if (shape_differs(q.size, k.size) || shape_differs(k.length, v.length) ||
        shape_differs(k.heads, v.heads) || groups)
        return shape_error(s, "the heads, lengths or sizes of %s, %s and %s do not fit each other",
                           shape_name(s, 0), shape_name(s, 1), shape_name(s, 2));
    if (shape_in(s, 4))
        total =
            past->rank == 4 ? mtbal_dim_add(s->model, past->dims[2], k.length) : shape_unknown();
    const mtbal_dim y4[4] = {q.batch, q.heads, q.length, v.size};
    const mtbal_dim y3[3] = {q.batch, q.length, mtbal_dim_mul(s->model, q.heads, v.size)};
    const mtbal_dim keys[4] = {q.batch, k.heads, total, k.size};
    const mtbal_dim values[4] = {q.batch, k.heads, total, v.size};
    const mtbal_dim scores[4] = {q.batch, q.heads, q.length, total};
    MTBAL_TRY(shape_set(s, 0, tq->dtype, tq->rank, tq->rank == 4 ? y4 : y3));
    MTBAL_TRY(shape_set(s, 1, shape_type(s, 1)->dtype, 4, keys));
    MTBAL_TRY(shape_set(s, 2, tv->dtype, 4, values));
    return shape_set(s, 3, tq->dtype, 4, scores);
}

/* LinearAttention: packed Q, K, V, state -> packed Y, and the state (batch, heads, d_k, d_v). */
mtbal_status mtbal_shape_linear_attention(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *state = shape_type(s, 3);
    part q = part_of(s, 0, "q_num_heads"), k = part_of(s, 1, "kv_num_heads"),
         v = part_of(s, 2, "kv_num_heads");
    const mtbal_dim y[3] = {q.batch, q.length, mtbal_dim_mul(s->model, q.heads, v.size)};
    const mtbal_dim present[4] = {k.batch, k.heads, k.size, v.size};
    MTBAL_TRY(shape_set(s, 0, x->dtype, 3, y));
    return shape_set(s, 1, state->dtype ? state->dtype : x->dtype, 4, present);
}

/* RotaryEmbedding: x (batch, heads, length, size), or packed (batch, length, heads * size); caches
 * (positions, half of what is turned), or (batch, length, half) without positions. */
mtbal_status mtbal_shape_rotary(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    part p = part_of(s, 0, "num_heads");
    int64_t given = mtbal_attr_i(s->node, "rotary_embedding_dim", 0),
            turned = given ? given : p.size.size;
    bool positions = shape_in(s, 3);
    if (x->rank == 3 && mtbal_attr_i(s->node, "num_heads", 0) < 1)
        return shape_error(s, "%s has rank 3, so num_heads must be given", shape_name(s, 0));
    if (given < 0 || (turned >= 0 && turned % 2) || (p.size.size >= 0 && turned > p.size.size))
        return shape_error(s, "it turns %lld elements of %lld", (long long)turned,
                           (long long)p.size.size);
    for (int i = 1; i < 3; i++) {
        const mtbal_type *cache = shape_type(s, i);
        if (cache->rank < 0)
            continue;
        bool fits = cache->rank == (positions ? 2 : 3) &&
                    (turned < 0 ||
                     !shape_differs(cache->dims[cache->rank - 1], mtbal_dim_const(turned / 2)));
        if (fits && !positions)
            fits =
                !shape_differs(cache->dims[0], p.batch) && !shape_differs(cache->dims[1], p.length);
        if (!fits)
            return shape_error(s, "the cache %s does not fit %s", shape_name(s, i),
                               shape_name(s, 0));
    }
    return shape_set_type(s, 0, x);
}

/* TensorScatter: updates are as the cache but for one axis, on which they are not longer. */
mtbal_status mtbal_shape_tensor_scatter(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *u = shape_type(s, 1);
    int64_t axis = 0;
    if (x->rank >= 0)
        MTBAL_TRY(shape_axis(s, "axis", -2, x->rank, 0, &axis));
    bool fits = x->rank < 0 || (axis > 0 && (u->rank < 0 || u->rank == x->rank));
    for (int d = 0; d < x->rank && u->rank == x->rank && fits; d++)
        fits = d == axis ? x->dims[d].size < 0 || u->dims[d].size <= x->dims[d].size
                         : !shape_differs(x->dims[d], u->dims[d]);
    if (!fits)
        return shape_error(s, "the updates %s do not fit %s along axis %lld", shape_name(s, 1),
                           shape_name(s, 0), (long long)axis);
    return shape_set_type(s, 0, x);
}
