/* graph/ops/conv.c: convolution, pooling, and what undoes them: windows that slide over the spatial
 * axes of (N, C, D1, ..., Dn). */
#include "graph/ops/shapes.h"

#include <string.h>

/* A window along one axis; all entries small enough to be added and multiplied. */
typedef struct window {
    int64_t stride, extent, begin, end, out_pad; /* extent: of the dilated kernel */
    bool same, ceil_mode;
} window;

/* Entry i of an ints attribute, or `otherwise`. */
static int64_t entry(const mtbal_infer *s, const char *name, int i, int64_t otherwise)
{
    const int64_t *values;
    int n = mtbal_attr_ints(s->node, name, &values);
    return i < n ? values[i] : otherwise;
}

static bool small(int64_t x)
{
    return x >= INT32_MIN && x <= INT32_MAX;
}

/* Attributes that hold a number each spatial axis hold as many as there are axes; pads two each. */
static mtbal_status check_lengths(mtbal_infer *s, int n)
{
    static const struct {
        const char *name;
        int each;
    } lists[] = {
        {"kernel_shape", 1}, {"strides", 1}, {"dilations", 1}, {"output_padding", 1}, {"pads", 2}};
    for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
        const int64_t *values;
        int have = mtbal_attr_ints(s->node, lists[k].name, &values);
        if (have > 0 && have != lists[k].each * n)
            return shape_error(s, "%s has %d entries, but there are %d spatial axes", lists[k].name,
                               have, n);
        for (int i = 0; i < have; i++)
            if (values[i] < (k < 3) || values[i] > INT32_MAX)
                return shape_error(s, "entry %d of %s is %lld: out of range", i, lists[k].name,
                                   (long long)values[i]);
    }
    return MTBAL_OK;
}

/* The window of spatial axis i of n. *known is false when the kernel's size is not known. */
static mtbal_status read_window(mtbal_infer *s, int i, int n, mtbal_dim kernel, window *w,
                                bool *known)
{
    const char *pad = mtbal_attr_s(s->node, "auto_pad", "NOTSET");
    int64_t k = entry(s, "kernel_shape", i, kernel.size), dilation = entry(s, "dilations", i, 1);
    bool padded = !strcmp(pad, "NOTSET");
    *w = (window){.stride = entry(s, "strides", i, 1),
                  .begin = padded ? entry(s, "pads", i, 0) : 0,
                  .end = padded ? entry(s, "pads", i + n, 0) : 0,
                  .out_pad = entry(s, "output_padding", i, 0),
                  .same = !strncmp(pad, "SAME", 4),
                  .ceil_mode = mtbal_attr_i(s->node, "ceil_mode", 0)};
    *known = k >= 0;
    if (!small(k) || !small(w->stride) || !small(dilation) || !small(w->begin) || !small(w->end) ||
        !small(w->out_pad) || w->stride < 1 || dilation < 1 || k == 0)
        return shape_error(s, "kernel, stride or dilation of axis %d is out of range", i + 2);
    w->extent = (k - 1) * dilation + 1;
    return MTBAL_OK;
}

/* How many places the window has on an axis of size `in`:
 * floor((in + pads - extent) / stride) + 1, or the ceiling, in which case a window that would start
 * in the padding at the end does not count. */
static mtbal_dim places(mtbal_infer *s, mtbal_dim in, const window *w)
{
    mtbal_dim stride = mtbal_dim_const(w->stride);
    if (w->same)
        return mtbal_dim_div(s->model, shape_plus(s->model, in, w->stride - 1), stride);
    int64_t pads = w->begin + w->end, out;
    mtbal_dim room = shape_plus(s->model, in, pads - w->extent);
    if (shape_is_number(room, &out) && out < 0)
        return shape_unknown();
    if (!w->ceil_mode)
        return shape_plus(s->model, mtbal_dim_div(s->model, room, stride), 1);
    mtbal_dim up = mtbal_dim_div(s->model, shape_plus(s->model, room, w->stride - 1), stride);
    if (in.size < 0 || up.size < 0) /* symbolic: only where no window can start there */
        return w->end + w->stride <= w->extent ? shape_plus(s->model, up, 1) : shape_unknown();
    bool late = up.size > 0 && up.size >= (in.size + w->begin + w->stride - 1) / w->stride;
    return late ? up : shape_plus(s->model, up, 1);
}

/* ------------------------------------------------------------------ convolution */

/* kernel_shape says again what the kernel's shape is. */
static mtbal_status check_kernel(mtbal_infer *s, const mtbal_type *w)
{
    for (int i = 2; i < w->rank; i++) {
        int64_t said = entry(s, "kernel_shape", i - 2, w->dims[i].size);
        if (shape_differs(w->dims[i], (mtbal_dim){said, NULL}))
            return shape_error(s, "kernel_shape is %lld along axis %d, but the kernel has %lld",
                               (long long)said, i, (long long)w->dims[i].size);
    }
    return MTBAL_OK;
}

static mtbal_status conv(mtbal_infer *s, int iw, mtbal_dtype dtype)
{
    const mtbal_type *x = shape_type(s, 0), *w = shape_type(s, iw);
    mtbal_dim dims[SHAPE_MAX_RANK];
    mtbal_dim group = mtbal_dim_const(mtbal_attr_i(s->node, "group", 1));
    if (x->rank < 0)
        return shape_set(s, 0, dtype, -1, NULL);
    if (x->rank < 3 || (w->rank >= 0 && w->rank != x->rank))
        return shape_error(s, "%s has rank %d and its kernel %s rank %d", shape_name(s, 0), x->rank,
                           shape_name(s, iw), w->rank);
    mtbal_dim taken = w->rank < 0 ? shape_unknown() : mtbal_dim_mul(s->model, w->dims[1], group);
    if (group.size < 1 ||
        (x->dims[1].size >= 0 && taken.size >= 0 && x->dims[1].size != taken.size))
        return shape_error(s, "%s has %lld channels, but the kernel %s takes %lld in %lld groups",
                           shape_name(s, 0), (long long)x->dims[1].size, shape_name(s, iw),
                           (long long)taken.size, (long long)group.size);
    if (w->rank > 0 && w->dims[0].size >= 0 && w->dims[0].size % group.size)
        return shape_error(s, "the %lld results of the kernel %s cannot be put into %lld groups",
                           (long long)w->dims[0].size, shape_name(s, iw), (long long)group.size);
    MTBAL_TRY(check_lengths(s, x->rank - 2));
    MTBAL_TRY(check_kernel(s, w));
    dims[0] = x->dims[0];
    dims[1] = w->rank < 0 ? shape_unknown() : w->dims[0];
    for (int i = 2; i < x->rank; i++) {
        window win;
        bool known;
        MTBAL_TRY(read_window(s, i - 2, x->rank - 2, w->rank < 0 ? shape_unknown() : w->dims[i],
                              &win, &known));
        dims[i] = known ? places(s, x->dims[i], &win) : shape_unknown();
    }
    return shape_set(s, 0, dtype, x->rank, dims);
}

mtbal_status mtbal_shape_conv(mtbal_infer *s)
{
    return conv(s, 1, shape_type(s, 0)->dtype);
}

/* DeformConv: offsets (N, groups * taps * axes, places), a mask (N, groups * taps, places). */
mtbal_status mtbal_shape_deform_conv(mtbal_infer *s)
{
    const mtbal_type *w = shape_type(s, 1), *y;
    MTBAL_TRY(conv(s, 1, shape_type(s, 0)->dtype));
    y = shape_out(s, 0) ? &shape_out(s, 0)->type : shape_type(s, 9);
    int64_t groups = mtbal_attr_i(s->node, "offset_group", 1);
    if (groups < 1)
        return shape_error(s, "offset_group is %lld", (long long)groups);
    if (w->rank < 3 || y->rank != w->rank)
        return MTBAL_OK;
    mtbal_dim taps = mtbal_dim_mul(s->model, mtbal_dim_const(groups),
                                   shape_product(s->model, w->rank - 2, w->dims + 2));
    for (int i = 2; i < 5; i += 2) {
        const mtbal_type *t = shape_type(s, i);
        mtbal_dim each = mtbal_dim_const(i == 2 ? w->rank - 2 : 1);
        bool fits = t->rank < 0 || t->rank == w->rank;
        for (int d = 1; d < t->rank && fits; d++)
            fits = !shape_differs(t->dims[d],
                                  d == 1 ? mtbal_dim_mul(s->model, taps, each) : y->dims[d]);
        if (!fits)
            return shape_error(s,
                               "%s does not have the shape that the kernel %s and the places say",
                               shape_name(s, i), shape_name(s, 1));
    }
    return MTBAL_OK;
}

mtbal_status mtbal_shape_conv_integer(mtbal_infer *s)
{
    return conv(s, 1, MTBAL_INT32);
}

/* x, its scale and zero point, w, its scale and zero point, scale and zero point of the result */
mtbal_status mtbal_shape_qlinear_conv(mtbal_infer *s)
{
    return conv(s, 3, shape_type(s, 7)->dtype);
}

/* (in - 1) * stride + output padding + extent - pads, or as `given` says. */
static mtbal_dim spread(mtbal_infer *s, mtbal_dim in, const window *w, int64_t given)
{
    mtbal_dim grown = mtbal_dim_mul(s->model, in, mtbal_dim_const(w->stride));
    if (given >= 0)
        return mtbal_dim_const(given);
    if (w->same)
        return grown;
    mtbal_dim out =
        shape_plus(s->model, grown, w->out_pad + w->extent - w->stride - w->begin - w->end);
    int64_t number;
    return shape_is_number(out, &number) && number < 0 ? shape_unknown() : out;
}

mtbal_status mtbal_shape_conv_transpose(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *w = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const int64_t *sizes;
    int n = x->rank - 2, nsizes = mtbal_attr_ints(s->node, "output_shape", &sizes);
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (x->rank < 3 || (w->rank >= 0 && w->rank != x->rank))
        return shape_error(s, "%s has rank %d and its kernel %s rank %d", shape_name(s, 0), x->rank,
                           shape_name(s, 1), w->rank);
    if (w->rank >= 0 && x->dims[1].size >= 0 && w->dims[0].size >= 0 &&
        x->dims[1].size != w->dims[0].size)
        return shape_error(s, "%s has %lld channels, but the kernel %s takes %lld",
                           shape_name(s, 0), (long long)x->dims[1].size, shape_name(s, 1),
                           (long long)w->dims[0].size);
    mtbal_dim group = mtbal_dim_const(mtbal_attr_i(s->node, "group", 1));
    const mtbal_type *bias = shape_type(s, 2);
    if (group.size < 1 || (x->dims[1].size >= 0 && x->dims[1].size % group.size))
        return shape_error(s, "the %lld channels of %s cannot be put into %lld groups",
                           (long long)x->dims[1].size, shape_name(s, 0), (long long)group.size);
    MTBAL_TRY(check_lengths(s, n));
    MTBAL_TRY(check_kernel(s, w));
    if (nsizes > 0 && nsizes != n && nsizes != n + 2)
        return shape_error(s, "output_shape has %d entries, but there are %d spatial axes", nsizes,
                           n);
    dims[0] = x->dims[0];
    dims[1] = w->rank < 0 ? shape_unknown() : mtbal_dim_mul(s->model, w->dims[1], group);
    if (bias->rank == 1 && shape_differs(bias->dims[0], dims[1]))
        return shape_error(s, "the bias %s has %lld elements, but there are %lld channels",
                           shape_name(s, 2), (long long)bias->dims[0].size,
                           (long long)dims[1].size);
    for (int i = 0; i < n; i++) {
        window win;
        bool known;
        MTBAL_TRY(
            read_window(s, i, n, w->rank < 0 ? shape_unknown() : w->dims[i + 2], &win, &known));
        int64_t given = nsizes == n ? sizes[i] : nsizes == n + 2 ? sizes[i + 2] : -1;
        if (win.out_pad && win.out_pad >= win.stride && win.out_pad >= entry(s, "dilations", i, 1))
            return shape_error(s,
                               "output_padding %lld of axis %d is not below its stride or "
                               "dilation",
                               (long long)win.out_pad, i + 2);
        dims[i + 2] = known || given >= 0 || win.same ? spread(s, x->dims[i + 2], &win, given)
                                                      : shape_unknown();
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* Depthwise, over (batch, channels, length), padded on the left; and its state, the last k - 1
 * columns. */
mtbal_status mtbal_shape_causal_conv(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *w = shape_type(s, 1);
    MTBAL_TRY(shape_set_type(s, 0, x));
    if (x->rank != 3)
        return shape_set(s, 1, x->dtype, -1, NULL);
    const mtbal_dim dims[3] = {x->dims[0], x->dims[1],
                               w->rank == 3 ? shape_plus(s->model, w->dims[2], -1)
                                            : shape_unknown()};
    return shape_set(s, 1, x->dtype, 3, dims);
}

/* ------------------------------------------------------------------ pooling */

/* MaxPool (with Indices), AveragePool, LpPool. */
mtbal_status mtbal_shape_pool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (x->rank < 3)
        return shape_error(s, "%s has rank %d: there is nothing to pool", shape_name(s, 0),
                           x->rank);
    MTBAL_TRY(check_lengths(s, x->rank - 2));
    for (int i = 0; i < x->rank; i++) {
        window w;
        bool known;
        dims[i] = x->dims[i];
        if (i < 2)
            continue;
        MTBAL_TRY(read_window(s, i - 2, x->rank - 2, shape_unknown(), &w, &known));
        dims[i] = known ? places(s, x->dims[i], &w) : shape_unknown();
    }
    MTBAL_TRY(shape_set(s, 0, x->dtype, x->rank, dims));
    return shape_set(s, 1, MTBAL_INT64, x->rank, dims);
}

mtbal_status mtbal_shape_global_pool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    for (int i = 0; i < x->rank; i++)
        dims[i] = i < 2 ? x->dims[i] : mtbal_dim_const(1);
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

mtbal_status mtbal_shape_max_unpool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_dim *given;
    int n = shape_content(s, 2, &given);
    if (x->rank < 3)
        return shape_set(s, 0, x->dtype, -1, NULL);
    for (int i = 0; i < x->rank; i++) {
        window w;
        bool known;
        dims[i] = n == x->rank ? given[i] : i < 2 ? x->dims[i] : shape_unknown();
        if (i < 2 || shape_in(s, 2))
            continue;
        MTBAL_TRY(read_window(s, i - 2, x->rank - 2, shape_unknown(), &w, &known));
        if (known)
            dims[i] = spread(s, x->dims[i], &w, -1);
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* MaxRoiPool: (number of regions, channels, pooled_shape...). */
mtbal_status mtbal_shape_max_roi_pool(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *rois = shape_type(s, 1);
    const mtbal_dim dims[4] = {rois->rank == 2 ? rois->dims[0] : shape_unknown(),
                               x->rank == 4 ? x->dims[1] : shape_unknown(),
                               {entry(s, "pooled_shape", 0, -1), NULL},
                               {entry(s, "pooled_shape", 1, -1), NULL}};
    return shape_set(s, 0, x->dtype, 4, dims);
}

/* RoiAlign: (number of regions, channels, output_height, output_width). */
mtbal_status mtbal_shape_roi_align(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *rois = shape_type(s, 1), *which = shape_type(s, 2);
    const mtbal_dim dims[4] = {rois->rank == 2    ? rois->dims[0]
                               : which->rank == 1 ? which->dims[0]
                                                  : shape_unknown(),
                               x->rank == 4 ? x->dims[1] : shape_unknown(),
                               mtbal_dim_const(mtbal_attr_i(s->node, "output_height", 1)),
                               mtbal_dim_const(mtbal_attr_i(s->node, "output_width", 1))};
    return shape_set(s, 0, x->dtype, 4, dims);
}

/* Col2Im: (N, C * blocks, L), image shape, block shape -> (N, C, image shape...). */
mtbal_status mtbal_shape_col2im(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *shape = shape_type(s, 1);
    const mtbal_dim *image, *block;
    mtbal_dim dims[SHAPE_MAX_CONTENT + 2];
    int n = shape_content(s, 1, &image), nb = shape_content(s, 2, &block);
    int64_t count = n >= 0 ? n : shape->rank == 1 ? shape->dims[0].size : -1;
    if (count < 0 || count + 2 > SHAPE_MAX_RANK)
        return shape_set(s, 0, x->dtype, -1, NULL);
    dims[0] = x->rank == 3 ? x->dims[0] : shape_unknown();
    dims[1] = x->rank == 3 && nb >= 0
                  ? mtbal_dim_div(s->model, x->dims[1], shape_product(s->model, nb, block))
                  : shape_unknown();
    for (int i = 0; i < count; i++)
        dims[i + 2] = n >= 0 ? image[i] : shape_unknown();
    return shape_set(s, 0, x->dtype, (int)count + 2, dims);
}
