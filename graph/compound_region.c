/* graph/compound_region.c: RoiAlign written out. */
#include "graph/compound.h"

#include <string.h>

typedef struct region {
    mtbal_builder *b;
    const compound *c;
    mtbal_value *x, *rois;
    double scale;
    bool half_pixel;
    int64_t samples;
} region;

/* Number `which` of (x1, y1, x2, y2), as (R, 1), in elements of x. */
static mtbal_value *border(const region *r, int64_t which)
{
    mtbal_builder *b = r->b;
    mtbal_value *in = compound_slice(b, r->rois, 1, which, which + 1);
    return SUB(MUL(in, LIKE(r->x, r->scale)), LIKE(r->x, r->half_pixel ? 0.5 : 0));
}

/* Interpolation along one axis as a matrix for each region, (R, 1, bins, size): each bin the mean
 * of its samples. axis 0 is down. */
static mtbal_value *axis_matrix(const region *r, int axis, int64_t bins)
{
    mtbal_builder *b = r->b;
    mtbal_value *x = r->x, *one = LIKE(x, 1);
    const int64_t none = 0, split[4] = {0, bins, r->samples, -1}, two = 2, front = 1;
    mtbal_value *start = border(r, 1 - axis), *length = SUB(border(r, 3 - axis), start);
    if (!r->half_pixel)
        length = OP2("Max", length, one);
    mtbal_tensor *t =
        mtbal_tensor_new(b->graph->model, x->type.dtype, 1, (int64_t[]){bins * r->samples}, NULL);
    for (int64_t i = 0; t && i < t->count; i++)
        mtbal_tensor_set_f64(t, i, ((double)i + 0.5) / (double)(bins * r->samples));
    mtbal_value *at = ADD(start, MUL(length, mtbal_const_tensor(b, t))); /* (R, bins samples) */
    mtbal_value *n =
        mtbal_emit(b, "Squeeze", compound_size(b, x, axis + 2), mtbal_const_i64s(b, 1, &none));
    mtbal_value *size = n ? mtbal_emit_cast(b, n, x->type.dtype) : NULL;
    mtbal_value *outside = OP2("Or", OP2("Less", at, LIKE(x, -1)), OP2("Greater", at, size));
    mtbal_value *kept = OP2("Min", OP2("Max", at, LIKE(x, 0)), SUB(size, one));
    mtbal_value *elements = mtbal_emit(b, "Range", mtbal_const_i64(b, 0), n, mtbal_const_i64(b, 1));
    mtbal_value *column = mtbal_const_i64s(b, 1, &two);
    mtbal_value *away = SUB(mtbal_emit(b, "Unsqueeze", kept, column),
                            elements ? mtbal_emit_cast(b, elements, x->type.dtype) : NULL);
    mtbal_value *share = OP2("Max", SUB(one, UNARY("Abs", away)), LIKE(x, 0));
    share = WHERE(mtbal_emit(b, "Unsqueeze", outside, column), LIKE(x, 0), share);
    share =
        mtbal_emit_reduce(b, "ReduceMean", compound_reshape(b, share, 4, split), 1, &two, false);
    return mtbal_emit(b, "Unsqueeze", share, mtbal_const_i64s(b, 1, &front));
}

/* x (N, C, H, W), rois (R, 4), the picture of each (R) -> (R, C, height, width): rows, then columns
 * are interpolated, each by a matrix. */
BODY(roi_align)
{
    mtbal_builder *b = c->b;
    const char *frame =
        mtbal_attr_s(c->node, "coordinate_transformation_mode",
                     mtbal_builder_opset(b) < 16 ? "output_half_pixel" : "half_pixel");
    int64_t bins[2] = {mtbal_attr_i(c->node, "output_height", 1),
                       mtbal_attr_i(c->node, "output_width", 1)};
    region r = {.b = b,
                .c = c,
                .x = c->x[0],
                .rois = c->x[1],
                .scale = mtbal_attr_f(c->node, "spatial_scale", 1),
                .half_pixel = !strcmp(frame, "half_pixel"),
                .samples = mtbal_attr_i(c->node, "sampling_ratio", 0)};
    if (strcmp(mtbal_attr_s(c->node, "mode", "avg"), "avg"))
        return "mode max";
    if (!compound_sane(&r.samples, 1, 1))
        return "a sampling_ratio that depends on the regions";
    if (!compound_sane(bins, 2, 1) || bins[0] * r.samples > 1 << 20 ||
        bins[1] * r.samples > 1 << 20)
        return "an output that is too large";
    mtbal_value *in[2] = {r.x, c->x[2]};
    mtbal_value *own = mtbal_emit_attrs(b, "Gather", 2, in, "axis=i", (int64_t)0);
    mtbal_value *rows = mtbal_emit(b, "MatMul", axis_matrix(&r, 0, bins[0]), own);
    mtbal_value *across =
        mtbal_emit_transpose(b, axis_matrix(&r, 1, bins[1]), 4, (int64_t[]){0, 1, 3, 2});
    c->y[0] = mtbal_emit(b, "MatMul", rows, across);
    return NULL;
}
