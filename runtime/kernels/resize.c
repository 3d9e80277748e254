/* runtime/kernels/resize.c: interpolation along one axis (ONNX Resize is separable: one call an
 * axis). */
#include "runtime/kernels/kernels.h"

#include <math.h>

enum { NEAREST, LINEAR, CUBIC };
enum { HALF_PIXEL, ASYMMETRIC, ALIGN_CORNERS, PYTORCH_HALF_PIXEL, HALF_PIXEL_SYMMETRIC, CROP };

/* Position in the input that output o looks at. */
static double source(const rt_resize_axis_attr *a, int64_t o, int64_t in, int64_t out)
{
    double x = (double)o, s = a->scale;
    switch (a->transform) {
    case ASYMMETRIC:
        return x / s;
    case ALIGN_CORNERS:
        return out == 1 ? 0 : x * (double)(in - 1) / (double)(out - 1);
    case PYTORCH_HALF_PIXEL:
        return out > 1 ? (x + 0.5) / s - 0.5 : 0;
    case HALF_PIXEL_SYMMETRIC: {
        double adjust = (double)out / (s * (double)in), centre = (double)in / 2;
        return centre * (1 - adjust) + (x + 0.5) / s - 0.5;
    }
    case CROP:
        return out > 1 ? a->roi_start * (double)(in - 1) +
                             x * (a->roi_end - a->roi_start) * (double)(in - 1) / (double)(out - 1)
                       : 0.5 * (a->roi_start + a->roi_end) * (double)(in - 1);
    default:
        return (x + 0.5) / s - 0.5;
    }
}

static int64_t clamp(int64_t i, int64_t n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* 0 round_prefer_floor, 1 round_prefer_ceil, 2 floor, 3 ceil. */
static int64_t nearest(double x, int mode)
{
    double f = floor(x);
    switch (mode) {
    case 1:
        return (int64_t)(x - f >= 0.5 ? f + 1 : f);
    case 2:
        return (int64_t)f;
    case 3:
        return (int64_t)ceil(x);
    default:
        return (int64_t)(x - f > 0.5 ? f + 1 : f);
    }
}

/* Inputs first .. first+n-1 (before clamping) and their weights. */
static int taps(const rt_resize_axis_attr *a, double x, int64_t in, int64_t *first, double *weight)
{
    double f = floor(x), t = x - f, c = a->cubic, sum = 0;
    if (a->mode == NEAREST) {
        *first = nearest(x, a->nearest);
        weight[0] = 1;
        return 1;
    }
    if (a->mode == LINEAR) {
        *first = (int64_t)f;
        weight[0] = 1 - t;
        weight[1] = t;
    } else { /* Keys 1981 */
        *first = (int64_t)f - 1;
        weight[0] = ((c * (t + 1) - 5 * c) * (t + 1) + 8 * c) * (t + 1) - 4 * c;
        weight[1] = ((c + 2) * t - (c + 3)) * t * t + 1;
        weight[2] = ((c + 2) * (1 - t) - (c + 3)) * (1 - t) * (1 - t) + 1;
        weight[3] = ((c * (2 - t) - 5 * c) * (2 - t) + 8 * c) * (2 - t) - 4 * c;
    }
    int n = a->mode == LINEAR ? 2 : 4;
    for (int i = 0; i < n && a->exclude; i++) {
        weight[i] = *first + i < 0 || *first + i >= in ? 0 : weight[i];
        sum += weight[i];
    }
    for (int i = 0; i < n && a->exclude && sum != 0; i++)
        weight[i] /= sum;
    return n;
}

/* resize_axis: X -> Y, of other size along `axis` only. mode, transform, nearest: as numbered
 * above. */
void rt_resize_axis(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_resize_axis_attr *a = (const rt_resize_axis_attr *)attr;
    const rt_tensor *x = &in[0], *y = &out[0];
    int64_t ni = x->dims[a->axis], no = y->dims[a->axis],
            inner = rt_product(y->dims, a->axis + 1, y->rank);
    int64_t outer = rt_product(y->dims, 0, a->axis);
    int is_float = rt_is_float(y->dtype);
    (void)env;
    for (int64_t o = 0; o < no; o++) {
        double weight[4], at = source(a, o, ni, no);
        int64_t first;
        int n = taps(a, at, ni, &first, weight),
            lost = a->transform == CROP && (at < 0 || at > (double)(ni - 1));
        for (int64_t b = 0; b < outer; b++)
            for (int64_t i = 0; i < inner; i++) {
                double sum = 0;
                for (int k = 0; k < n; k++)
                    sum += weight[k] * rt_get_f64(x, (b * ni + clamp(first + k, ni)) * inner + i);
                int64_t to = (b * no + o) * inner + i;
                rt_set_f64(y, to, lost ? a->extrapolation : is_float ? sum : nearbyint(sum));
            }
    }
}
