/* graph/ops/network.c: convolution, pooling, normalisation, losses, resizing. */
#include "graph/ops/shapes.h"

#include <math.h>
#include <string.h>

/* Entry i of an ints attribute, or `otherwise`. */
static int64_t entry(const mtbal_infer *s, const char *name, int i, int64_t otherwise)
{
    const int64_t *values;
    int n = mtbal_attr_ints(s->node, name, &values);
    return i < n ? values[i] : otherwise;
}

/* (size + pads - extent) / stride + 1, or ceil of it. */
static mtbal_dim window_dim(mtbal_infer *s, mtbal_dim in, int axis, int nspatial, int64_t kernel,
                            bool ceil_mode)
{
    const char *pad = mtbal_attr_s(s->node, "auto_pad", "NOTSET");
    int64_t stride = entry(s, "strides", axis, 1), dilation = entry(s, "dilations", axis, 1);
    int64_t extent = (kernel - 1) * dilation + 1;
    if (kernel < 1 || stride < 1)
        return shape_unknown();
    if (!strncmp(pad, "SAME", 4))
        return mtbal_dim_div(s->model, mtbal_dim_add(s->model, in, mtbal_dim_const(stride - 1)),
                             mtbal_dim_const(stride));
    int64_t pads =
        strcmp(pad, "VALID") ? entry(s, "pads", axis, 0) + entry(s, "pads", axis + nspatial, 0) : 0;
    int64_t add = pads - extent + (ceil_mode ? stride - 1 : 0);
    if (in.size >= 0) {
        int64_t out = (in.size + add) / stride + 1;
        if (in.size + pads < extent)
            return shape_unknown();
        /* a window may not start in the padding at the end */
        if (ceil_mode && (out - 1) * stride >= in.size + entry(s, "pads", axis, 0))
            out--;
        return mtbal_dim_const(out);
    }
    mtbal_dim shifted = add >= 0 ? mtbal_dim_add(s->model, in, mtbal_dim_const(add))
                                 : mtbal_dim_sub(s->model, in, mtbal_dim_const(-add));
    return mtbal_dim_add(s->model, mtbal_dim_div(s->model, shifted, mtbal_dim_const(stride)),
                         mtbal_dim_const(1));
}

mtbal_status mtbal_shape_conv(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *w = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t group = mtbal_attr_i(s->node, "group", 1);
    if (x->rank < 3 || x->rank > SHAPE_MAX_RANK || w->rank != x->rank)
        return shape_set(s, 0, x->dtype, x->rank < 0 ? w->rank : -1, NULL);
    if (x->dims[1].size >= 0 && w->dims[1].size >= 0 && x->dims[1].size != group * w->dims[1].size)
        return shape_error(s, "%lld channels of %s, but the kernel %s takes %lld x %lld",
                           (long long)x->dims[1].size, shape_in(s, 0)->name, shape_in(s, 1)->name,
                           (long long)group, (long long)w->dims[1].size);
    dims[0] = x->dims[0];
    dims[1] = w->dims[0];
    for (int i = 2; i < x->rank; i++)
        dims[i] = window_dim(s, x->dims[i], i - 2, x->rank - 2,
                             entry(s, "kernel_shape", i - 2, w->dims[i].size), false);
    return shape_set(s, 0, mtbal_node_is(s->node, "ConvInteger") ? MTBAL_INT32 : x->dtype, x->rank,
                     dims);
}

mtbal_status mtbal_shape_conv_transpose(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *w = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const char *pad = mtbal_attr_s(s->node, "auto_pad", "NOTSET");
    if (x->rank < 3 || x->rank > SHAPE_MAX_RANK || w->rank != x->rank)
        return shape_set(s, 0, x->dtype, -1, NULL);
    int n = x->rank - 2;
    dims[0] = x->dims[0];
    dims[1] =
        mtbal_dim_mul(s->model, w->dims[1], mtbal_dim_const(mtbal_attr_i(s->node, "group", 1)));
    for (int i = 0; i < n; i++) {
        int64_t stride = entry(s, "strides", i, 1),
                kernel = entry(s, "kernel_shape", i, w->dims[i + 2].size);
        int64_t extent = (kernel - 1) * entry(s, "dilations", i, 1) + 1,
                given = entry(s, "output_shape", i, -1);
        int64_t add = entry(s, "output_padding", i, 0) + extent - stride;
        if (!strcmp(pad, "NOTSET"))
            add -= entry(s, "pads", i, 0) + entry(s, "pads", i + n, 0);
        mtbal_dim grown = mtbal_dim_mul(s->model, x->dims[i + 2], mtbal_dim_const(stride));
        if (given >= 0)
            dims[i + 2] = mtbal_dim_const(given);
        else if (!strncmp(pad, "SAME", 4))
            dims[i + 2] = grown;
        else if (kernel < 1)
            dims[i + 2] = shape_unknown();
        else
            dims[i + 2] = add >= 0 ? mtbal_dim_add(s->model, grown, mtbal_dim_const(add))
                                   : mtbal_dim_sub(s->model, grown, mtbal_dim_const(-add));
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* MaxPool (with Indices), AveragePool, LpPool. */
mtbal_status mtbal_shape_pool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    if (x->rank < 3 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank; i++)
        dims[i] = i < 2 ? x->dims[i]
                        : window_dim(s, x->dims[i], i - 2, x->rank - 2,
                                     entry(s, "kernel_shape", i - 2, 1),
                                     mtbal_attr_i(s->node, "ceil_mode", 0));
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    return shape_set(s, 1, MTBAL_INT64, x->rank, dims);
}

mtbal_status mtbal_shape_global_pool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int i = 0; i < x->rank && i < SHAPE_MAX_RANK; i++)
        dims[i] = i < 2 ? x->dims[i] : mtbal_dim_const(1);
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* BatchNormalization: Y, then statistics of the channels. */
mtbal_status mtbal_shape_batch_norm(mtbal_infer *s)
{
    MTBAL_TRY(shape_set_type(s, 0, shape_type(s, 0)));
    for (int i = 1; i < s->node->nout; i++)
        MTBAL_TRY(shape_set_type(s, i, shape_type(s, i % 2 ? 3 : 4)));
    return MTBAL_OK;
}

/* LayerNormalization: Y, Mean, InvStdDev. */
mtbal_status mtbal_shape_layer_norm(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int64_t axis = shape_axis(s, "axis", -1, x->rank);
    MTBAL_TRY(shape_set_type(s, 0, x));
    for (int i = 0; i < x->rank && i < SHAPE_MAX_RANK; i++)
        dims[i] = i < axis ? x->dims[i] : mtbal_dim_const(1);
    MTBAL_TRY(shape_set(s, 1, MTBAL_FLOAT, x->rank, dims));
    return shape_set(s, 2, MTBAL_FLOAT, x->rank, dims);
}

/* SoftmaxCrossEntropyLoss (loss, log_prob) and NegativeLogLikelihoodLoss. */
mtbal_status mtbal_shape_class_loss(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *label = shape_type(s, 1);
    MTBAL_TRY(shape_set_type(s, 1, x));
    if (!strcmp(mtbal_attr_s(s->node, "reduction", "mean"), "none"))
        return shape_set(s, 0, x->dtype, label->rank, label->dims);
    return shape_set(s, 0, x->dtype, 0, NULL);
}

/* floor(size * scale) per axis, or the sizes given. */
mtbal_status mtbal_shape_resize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_dim *sizes = NULL;
    const int64_t *axes;
    bool old = s->opset < 11 || mtbal_node_is(s->node, "Upsample");
    const mtbal_value *scales = shape_in(s, old ? 1 : 2);
    int n = old ? -1 : shape_content(s, 3, &sizes), na = mtbal_attr_ints(s->node, "axes", &axes);
    if (x->rank < 0 || x->rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    const mtbal_tensor *t =
        scales && scales->tensor && scales->tensor->count ? scales->tensor : NULL;
    int64_t entries = n > 0 ? n : t ? t->count : 0;
    for (int i = 0; i < x->rank; i++)
        dims[i] = na >= 0 && entries ? x->dims[i] : shape_unknown();
    for (int64_t k = 0; k < entries; k++) {
        int64_t i = na < 0 ? k : k < na ? axes[k] + (axes[k] < 0 ? x->rank : 0) : -1;
        if (i < 0 || i >= x->rank)
            return shape_error(s, "more scales or sizes than axes");
        if (n > 0) {
            dims[i] = sizes[k];
            continue;
        }
        double scale = t->data ? mtbal_tensor_f64(t, k) : 0;
        if (x->dims[i].size >= 0 && scale > 0)
            dims[i] = mtbal_dim_const((int64_t)floor((double)x->dims[i].size * scale));
        else if (scale >= 1 && scale == floor(scale) && scale < 1e6)
            dims[i] = mtbal_dim_mul(s->model, x->dims[i], mtbal_dim_const((int64_t)scale));
        else
            dims[i] = shape_unknown();
    }
    bool policy = strcmp(mtbal_attr_s(s->node, "keep_aspect_ratio_policy", "stretch"), "stretch");
    for (int i = 0; i < x->rank && policy && n > 0; i++)
        dims[i] = shape_unknown();
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* LSTM, GRU, RNN: Y (seq, dirs, batch, hidden), then the last states (dirs, batch, hidden). */
mtbal_status mtbal_shape_rnn(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    bool both = !strcmp(mtbal_attr_s(s->node, "direction", "forward"), "bidirectional");
    bool batch_first = mtbal_attr_i(s->node, "layout", 0);
    const mtbal_type *r = shape_type(s, 2);
    int64_t hidden = mtbal_attr_i(s->node, "hidden_size", r->rank == 3 ? r->dims[2].size : -1);
    if (x->rank != 3)
        return MTBAL_OK;
    mtbal_dim h = hidden < 0 ? shape_unknown() : mtbal_dim_const(hidden),
              d = mtbal_dim_const(both ? 2 : 1);
    mtbal_dim seq = x->dims[batch_first], batch = x->dims[!batch_first];
    const mtbal_dim y[4] = {batch_first ? batch : seq, batch_first ? seq : d,
                            batch_first ? d : batch, h};
    const mtbal_dim last[3] = {batch_first ? batch : d, batch_first ? d : batch, h};
    MTBAL_TRY(shape_set(s, 0, x->dtype, 4, y));
    MTBAL_TRY(shape_set(s, 1, x->dtype, 3, last));
    return shape_set(s, 2, x->dtype, 3, last);
}
