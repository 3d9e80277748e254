/* graph/ops/normalization.c: normalisations, and the losses over classes. */
#include "graph/ops/shapes.h"

#include <string.h>

/* BatchNormalization: Y, then statistics of the channels, like mean and var, by which they are
 * known: running ones (2), and before opset 14 saved ones too (4). */
mtbal_status mtbal_shape_batch_norm(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim channels = x->rank >= 2   ? x->dims[1]
                         : x->rank == 1 ? mtbal_dim_const(1)
                                        : shape_unknown();
    for (int i = 1; i < 5; i++)
        if (shape_type(s, i)->rank == 1) {
            mtbal_dim own = shape_type(s, i)->dims[0];
            if (own.size >= 0 && channels.size >= 0 && own.size != channels.size)
                return shape_error(s, "%s has %lld channels, but %s has %lld elements",
                                   shape_name(s, 0), (long long)channels.size, shape_name(s, i),
                                   (long long)own.size);
            channels = channels.size >= 0 || shape_is_unknown(own) ? channels : own;
        }
    MTBAL_TRY(shape_set_type(s, 0, x));
    for (int i = 1; i < s->node->nout; i++) {
        mtbal_dtype dtype = shape_type(s, i % 2 ? 3 : 4)->dtype;
        MTBAL_TRY(shape_set(s, i, dtype ? dtype : x->dtype, 1, &channels));
    }
    return MTBAL_OK;
}

/* Scale and bias: one element a channel since opset 21, one a group before. */
mtbal_status mtbal_shape_group_norm(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *scale = shape_type(s, 1);
    int64_t groups = mtbal_attr_i(s->node, "num_groups", 1);
    mtbal_dim channels = x->rank > 1 ? x->dims[1] : shape_unknown();
    if (groups < 1 || (channels.size >= 0 && channels.size % groups))
        return shape_error(s, "the %lld channels of %s cannot be put into %lld groups",
                           (long long)channels.size, shape_name(s, 0), (long long)groups);
    mtbal_dim wanted = s->opset < 21 ? mtbal_dim_const(groups) : channels;
    if (scale->rank == 1 && shape_differs(scale->dims[0], wanted))
        return shape_error(s, "%s has %lld elements, but must have %lld", shape_name(s, 1),
                           (long long)scale->dims[0].size, (long long)wanted.size);
    return shape_set_type(s, 0, x);
}

/* RMSNormalization: X's shape, the scale's type. */
mtbal_status mtbal_shape_rms_norm(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    int64_t axis;
    if (x->rank > 0)
        MTBAL_TRY(shape_axis(s, "axis", -1, x->rank, 0, &axis));
    return shape_set(s, 0, shape_type(s, 1)->dtype, x->rank, x->dims);
}

/* LayerNormalization: Y, Mean, InvStdDev; the statistics in the type that `stash_type` names. */
mtbal_status mtbal_shape_layer_norm(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    mtbal_dtype stash = (mtbal_dtype)mtbal_attr_i(s->node, "stash_type", MTBAL_FLOAT);
    int64_t axis = 0;
    if (x->rank >= 0)
        MTBAL_TRY(shape_axis(s, "axis", -1, x->rank, 0, &axis));
    MTBAL_TRY(shape_set_type(s, 0, x));
    for (int i = 0; i < x->rank; i++)
        dims[i] = i < axis ? x->dims[i] : mtbal_dim_const(1);
    MTBAL_TRY(shape_set(s, 1, stash, x->rank, dims));
    return shape_set(s, 2, stash, x->rank, dims);
}

/* SoftmaxCrossEntropyLoss (loss, log_prob) and NegativeLogLikelihoodLoss, of scores
 * (N, C, D1, ..., Dn) and labels (N, D1, ..., Dn). */
mtbal_status mtbal_shape_class_loss(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *label = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    if (x->rank >= 0 && (x->rank < 2 || (label->rank >= 0 && label->rank != x->rank - 1)))
        return shape_error(s, "%s has rank %d and its labels %s rank %d: labels have no class axis",
                           shape_name(s, 0), x->rank, shape_name(s, 1), label->rank);
    int rank = label->rank >= 0 ? label->rank : x->rank >= 0 ? x->rank - 1 : -1;
    for (int i = 0; i < rank; i++) {
        dims[i] = x->rank >= 0 ? x->dims[i + (i > 0)] : shape_unknown();
        if (label->rank >= 0)
            MTBAL_TRY(shape_unify(s, i, &dims[i], label->dims[i]));
    }
    MTBAL_TRY(shape_set_type(s, 1, x));
    bool none = !strcmp(mtbal_attr_s(s->node, "reduction", "mean"), "none");
    return shape_set(s, 0, x->dtype, none ? rank : 0, dims);
}
