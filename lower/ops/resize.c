/* lower/ops/resize.c: Resize, one axis after the other. */
#include "lower/ops/ops.h"

#include <math.h>
#include <string.h>

enum { CROP = 5 }; /* tf_crop_and_resize */

typedef struct resizing {
    rt_resize_axis_attr a;
    int naxes;
    int axes[RT_MAX_RANK];
    double scale[RT_MAX_RANK], roi[2 * RT_MAX_RANK];
} resizing;

static int index_of(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(name, names[i]))
            return i;
    return -1;
}

/* Modes by the numbers that the kernel gives them. */
static const char *read_modes(const lowering *l, const mtbal_node *node, resizing *r)
{
    static const char *const modes[] = {"nearest", "linear", "cubic"};
    static const char *const transforms[] = {"half_pixel",           "asymmetric",
                                             "align_corners",        "pytorch_half_pixel",
                                             "half_pixel_symmetric", "tf_crop_and_resize"};
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                            "ceil"};
    bool old = l->opset < 11; /* opset 10 knew neither transform nor rounding */
    r->a = (rt_resize_axis_attr){
        .mode = index_of(mtbal_attr_s(node, "mode", "nearest"), modes, 3),
        .transform = index_of(
            mtbal_attr_s(node, "coordinate_transformation_mode", old ? "asymmetric" : "half_pixel"),
            transforms, 6),
        .nearest = index_of(
            mtbal_attr_s(node, "nearest_mode", old ? "floor" : "round_prefer_floor"), roundings, 4),
        .antialias = mtbal_attr_i(node, "antialias", 0) != 0,
        .exclude = mtbal_attr_i(node, "exclude_outside", 0) != 0,
        .cubic = mtbal_attr_f(node, "cubic_coeff_a", -0.75),
        .extrapolation = mtbal_attr_f(node, "extrapolation_value", 0)};
    if (r->a.mode < 0 || r->a.transform < 0 || r->a.nearest < 0)
        return "an unknown mode";
    return NULL;
}

/* Which axes, by how much. */
static const char *read_scales(lowering *l, const mtbal_node *node, operand x, operand y,
                               resizing *r)
{
    int64_t axes[RT_MAX_RANK];
    int first = l->opset < 11 ? 1 : 2;
    int n = op_ints(l, node, "axes", -1, axes, RT_MAX_RANK);
    const mtbal_tensor *scales = op_given(node, first) ? lower_constant(l, node->in[first]) : NULL;
    const mtbal_tensor *roi =
        first == 2 && op_given(node, 1) ? lower_constant(l, node->in[1]) : NULL;
    bool unknown =
        (op_given(node, first) && !scales) || (r->a.transform == CROP && op_given(node, 1) && !roi);
    if (unknown)
        return "its scales or its region depend on data";
    r->naxes = n < 0 ? x.rank : n;
    for (int i = 0; i < r->naxes; i++) {
        int64_t axis = n < 0 ? i : axes[i] + (axes[i] < 0 ? x.rank : 0);
        if (axis < 0 || axis >= x.rank)
            return "a wrong axis";
        r->axes[i] = (int)axis;
        r->scale[i] = x.dims[axis] ? (double)y.dims[axis] / (double)x.dims[axis] : 1;
        if (scales && scales->count == r->naxes)
            r->scale[i] = mtbal_tensor_f64(scales, i);
        r->roi[i] = 0;
        r->roi[RT_MAX_RANK + i] = 1;
        if (roi && roi->count == 2 * r->naxes) {
            r->roi[i] = mtbal_tensor_f64(roi, i);
            r->roi[RT_MAX_RANK + i] = mtbal_tensor_f64(roi, r->naxes + i);
        }
    }
    /* a policy stretches all axes alike: the same scale as the size that was not rounded */
    const char *policy = mtbal_attr_s(node, "keep_aspect_ratio_policy", "stretch");
    int64_t sizes[RT_MAX_RANK];
    int m = op_ints(l, node, NULL, 3, sizes, RT_MAX_RANK);
    if (!strcmp(policy, "stretch") || m != r->naxes || m < 1)
        return NULL;
    double best = (double)sizes[0] / (double)x.dims[r->axes[0]];
    for (int i = 1; i < m; i++) {
        double s = (double)sizes[i] / (double)x.dims[r->axes[i]];
        best = !strcmp(policy, "not_larger") ? fmin(best, s) : fmax(best, s);
    }
    for (int i = 0; i < m; i++)
        r->scale[i] = best;
    return NULL;
}

mtbal_status lower_resize(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), y = op_out(l, node, 0);
    resizing r;
    const char *why = read_modes(l, node, &r);
    if (!why)
        why = read_scales(l, node, x, y, &r);
    if (why)
        return lower_refuse(l, node, "%s", why);
    for (int i = 0; i < r.naxes && r.a.antialias; i++)
        if (r.scale[i] * RT_RESIZE_TAPS < 8)
            return lower_refuse(l, node, "antialias over more than %d elements", RT_RESIZE_TAPS);
    int last = -1;
    bool crop = r.a.transform == CROP;
    for (int i = 0; i < r.naxes; i++)
        if (r.scale[i] != 1 || crop || x.dims[r.axes[i]] != y.dims[r.axes[i]])
            last = i;
    for (int i = 0; i <= last; i++) {
        int64_t dims[RT_MAX_RANK];
        if (r.scale[i] == 1 && !crop && x.dims[r.axes[i]] == y.dims[r.axes[i]])
            continue;
        r.a.axis = r.axes[i];
        r.a.scale = r.scale[i];
        r.a.roi_start = r.roi[i];
        r.a.roi_end = r.roi[RT_MAX_RANK + i];
        memcpy(dims, x.dims, sizeof dims);
        dims[r.axes[i]] = y.dims[r.axes[i]];
        operand next = i == last ? y : op_temp(l, x.dtype, x.rank, dims);
        op_call1(l, RT_KERNEL_resize_axis, &r.a, x, next);
        x = next;
    }
    if (last < 0)
        op_alias(l, node, 0, x);
    return MTBAL_OK;
}

/* The gradient along one axis. Operands: dY, the size of X, the shape of dX, and the scale or the
 * size of Y. */
mtbal_status lower_resize_grad(lowering *l, mtbal_node *node)
{
    operand dy = op_in(l, node, 0), dx = op_out(l, node, 0);
    resizing r;
    const char *why = read_modes(l, node, &r);
    int axis = (int)mtbal_attr_i(node, "axis", 0);
    double scale;
    if (why || axis < 0 || axis >= dx.rank || dx.rank != dy.rank || !op_number(l, node, 3, &scale))
        return lower_refuse(l, node, "%s", why ? why : "its axis or its scale is not known");
    bool scaled = node->in[3] && mtbal_dtype_is_float(node->in[3]->type.dtype);
    if (!scaled)
        scale = dx.dims[axis] ? (double)dy.dims[axis] / (double)dx.dims[axis] : 1;
    if (r.a.antialias && scale * RT_RESIZE_TAPS < 8)
        return lower_refuse(l, node, "antialias over more than %d elements", RT_RESIZE_TAPS);
    r.a.axis = axis;
    r.a.scale = scale;
    op_call1(l, RT_KERNEL_resize_axis_grad, &r.a, dy, dx);
    return MTBAL_OK;
}
