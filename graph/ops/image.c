/* graph/ops/image.c: operators on pictures: resizing, sampling, cropping, selecting boxes. */
#include "graph/ops/shapes.h"

#include <math.h>
#include <string.h>

/* floor(size * scale). Symbolic: where scale is a fraction with a small denominator. */
static mtbal_dim scaled(mtbal_model *model, mtbal_dim size, double scale)
{
    enum { MOST = 64 };
    if (!(scale > 0 && scale < 1e6) || shape_is_unknown(size))
        return shape_unknown();
    if (size.size >= 0) {
        double out = floor((double)size.size * scale);
        return out < 0x1p62 ? mtbal_dim_const((int64_t)out) : shape_unknown();
    }
    for (int64_t by = 1; by <= MOST; by++)
        if (scale * (double)by == floor(scale * (double)by)) {
            mtbal_dim times = mtbal_dim_const((int64_t)(scale * (double)by));
            return mtbal_dim_div(model, mtbal_dim_mul(model, size, times), mtbal_dim_const(by));
        }
    return shape_unknown();
}

/* The sizes asked for, made so that the proportions stay: all axes are scaled by the least
 * (not_larger) or the greatest (not_smaller) of the ratios. */
static void keep_aspect(const mtbal_type *x, bool larger, const int64_t *axes, int n,
                        mtbal_dim *dims)
{
    double scale = larger ? 0 : HUGE_VAL;
    for (int k = 0; k < n; k++) {
        double ratio = (double)dims[axes[k]].size / (double)x->dims[axes[k]].size;
        if (x->dims[axes[k]].size <= 0 || dims[axes[k]].size < 0)
            scale = NAN;
        scale = larger ? fmax(scale, ratio) : fmin(scale, ratio);
    }
    for (int k = 0; k < n; k++) {
        double size = (double)x->dims[axes[k]].size;
        bool known = size > 0 && dims[axes[k]].size >= 0 && scale >= 0 && scale * size < 1e15;
        dims[axes[k]] =
            known ? mtbal_dim_const((int64_t)floor(scale * size + 0.5)) : shape_unknown();
    }
}

/* Resize and Upsample: floor(size * scale) per axis, or the sizes given. */
mtbal_status mtbal_shape_resize(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    mtbal_dim dims[SHAPE_MAX_RANK];
    const mtbal_dim *sizes = NULL;
    int64_t axes[SHAPE_MAX_RANK];
    const int64_t *given;
    double scales[SHAPE_MAX_CONTENT];
    bool upsample = mtbal_node_is(s->node, MTBAL_OP_upsample), old = upsample || s->opset < 11;
    const mtbal_attr *attr = mtbal_attr_find(s->node, "scales"); /* Upsample before opset 9 */
    int ns = old ? -1 : shape_content(s, 3, &sizes), na = mtbal_attr_ints(s->node, "axes", &given);
    int n = ns > 0 ? ns : shape_reals(s, old ? 1 : 2, scales);
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (attr && attr->kind == MTBAL_ATTR_FLOATS && attr->n <= SHAPE_MAX_CONTENT)
        for (n = 0; n < attr->n; n++)
            scales[n] = (double)attr->floats[n];
    int count = na >= 0 ? na : x->rank;
    if (n > 0 && n != count)
        return shape_error(s, "there are %d scales or sizes for %d axes", n, count);
    for (int i = 0; i < x->rank; i++)
        dims[i] = na < 0 ? shape_unknown() : x->dims[i];
    for (int k = 0; k < count; k++) {
        int64_t i = na < 0 ? k : given[k] < 0 ? given[k] + x->rank : given[k];
        if (i < 0 || i >= x->rank || k >= SHAPE_MAX_RANK)
            return shape_error(s, "it resizes axis %lld of %s, which has rank %d", (long long)i,
                               shape_name(s, 0), x->rank);
        axes[k] = i;
        dims[i] = n <= 0   ? shape_unknown()
                  : ns > 0 ? sizes[k]
                           : scaled(s->model, x->dims[i], scales[k]);
    }
    const char *policy = mtbal_attr_s(s->node, "keep_aspect_ratio_policy", "stretch");
    if (ns > 0 && strcmp(policy, "stretch") != 0)
        keep_aspect(x, !strcmp(policy, "not_smaller"), axes, count, dims);
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* AffineGrid: theta (N, r, r+1), size (N, C, D1, ..., Dr) -> (N, D1, ..., Dr, r). */
mtbal_status mtbal_shape_affine_grid(mtbal_infer *s)
{
    const mtbal_type *theta = shape_type(s, 0), *size = shape_type(s, 1);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_RANK];
    int n = shape_content(s, 1, &want);
    int64_t rank = n >= 0 ? n : size->rank == 1 ? size->dims[0].size : -1;
    if (rank >= 0 && theta->rank == 3 &&
        (shape_differs(theta->dims[1], (mtbal_dim){rank - 2, NULL}) ||
         shape_differs(theta->dims[2], (mtbal_dim){rank - 1, NULL}) ||
         (n > 0 && shape_differs(theta->dims[0], want[0]))))
        return shape_error(s, "%s does not fit the size, which has %lld entries", shape_name(s, 0),
                           (long long)rank);
    if (rank < 3 || rank > SHAPE_MAX_RANK)
        return shape_set(s, 0, theta->dtype, -1, NULL);
    dims[0] = n >= 0 ? want[0] : theta->rank == 3 ? theta->dims[0] : shape_unknown();
    for (int i = 1; i + 1 < rank; i++)
        dims[i] = n >= 0 ? want[i + 1] : shape_unknown();
    dims[rank - 1] = mtbal_dim_const(rank - 2);
    return shape_set(s, 0, theta->dtype, (int)rank, dims);
}

/* GridSample: x (N, C, ...), grid (N, D1, ..., Dr, r) -> (N, C, D1, ..., Dr). */
mtbal_status mtbal_shape_grid_sample(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *grid = shape_type(s, 1);
    mtbal_dim dims[SHAPE_MAX_RANK];
    int rank = x->rank >= 0 ? x->rank : grid->rank;
    if (x->rank >= 0 && grid->rank >= 0 && x->rank != grid->rank)
        return shape_error(s, "%s has rank %d, but its grid %s rank %d", shape_name(s, 0), x->rank,
                           shape_name(s, 1), grid->rank);
    if (grid->rank > 0 && shape_differs(grid->dims[rank - 1], mtbal_dim_const(rank - 2)))
        return shape_error(
            s, "the grid %s has %lld coordinates a point, but %s has %d spatial axes",
            shape_name(s, 1), (long long)grid->dims[rank - 1].size, shape_name(s, 0), rank - 2);
    for (int i = 0; i < rank; i++)
        dims[i] = i < 2            ? (x->rank < 0 ? shape_unknown() : x->dims[i])
                  : grid->rank < 0 ? shape_unknown()
                                   : grid->dims[i - 1];
    return shape_set(s, 0, x->dtype, rank, dims);
}

mtbal_status mtbal_shape_center_crop_pad(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0);
    const mtbal_dim *want;
    mtbal_dim dims[SHAPE_MAX_RANK];
    const int64_t *axes;
    int n = shape_content(s, 1, &want), na = mtbal_attr_ints(s->node, "axes", &axes);
    int count = na < 0 ? x->rank : na;
    if (x->rank < 0)
        return shape_set(s, 0, x->dtype, -1, NULL);
    if (n >= 0 && n != count)
        return shape_error(s, "there are %d sizes for %d axes", n, count);
    for (int i = 0; i < x->rank; i++)
        dims[i] = x->dims[i];
    for (int k = 0; k < count; k++) {
        int64_t i = na < 0 ? k : axes[k] < 0 ? axes[k] + x->rank : axes[k];
        if (i < 0 || i >= x->rank)
            return shape_error(s, "it crops axis %lld of %s, which has rank %d", (long long)i,
                               shape_name(s, 0), x->rank);
        dims[i] = n < 0 ? shape_unknown() : want[k];
    }
    return shape_set(s, 0, x->dtype, x->rank, dims);
}

/* (height, width, channels), bytes. */
mtbal_status mtbal_shape_image_decoder(mtbal_infer *s)
{
    bool grey = !strcmp(mtbal_attr_s(s->node, "pixel_format", "RGB"), "Grayscale");
    const mtbal_dim dims[3] = {shape_unknown(), shape_unknown(), mtbal_dim_const(grey ? 1 : 3)};
    return shape_set(s, 0, MTBAL_UINT8, 3, dims);
}

/* (number selected, 3) */
mtbal_status mtbal_shape_non_max_suppression(mtbal_infer *s)
{
    const mtbal_dim dims[2] = {shape_unknown(), mtbal_dim_const(3)};
    return shape_set(s, 0, MTBAL_INT64, 2, dims);
}
