/* lower/ops/signal.c: the matrix of mel weights, a constant once its sizes are known. */
#include "lower/ops/expand.h"

#include <math.h>

enum { MOST = 1 << 24 }; /* elements of a matrix: 128 MB */

/* Integer of a constant scalar operand; `otherwise` where it is left out. False: not known. */
static bool scalar_of(const expansion *e, int i, int64_t otherwise, int64_t *value)
{
    *value = otherwise;
    return !expand_in(e, i) || expand_ints(e, i, value, 1) == 1;
}

static double mel(double hertz)
{
    return 2595 * log10(1 + hertz / 700);
}

/* (frequencies, bins): triangles whose corners lie evenly on the mel scale, rounded down to
 * frequencies of the transform. */
EXPAND(mel_weight_matrix)
{
    int64_t bins, length, rate;
    const mtbal_tensor *edges[2];
    for (int i = 0; i < 2; i++) {
        mtbal_value *v = expand_in(e, 3 + i);
        edges[i] = v ? lower_constant(e->l, v) : NULL;
    }
    if (!scalar_of(e, 0, 0, &bins) || !scalar_of(e, 1, 0, &length) || !scalar_of(e, 2, 0, &rate) ||
        !edges[0] || !edges[1] || edges[0]->count != 1 || edges[1]->count != 1 || bins < 1 ||
        rate < 1 || length < 1 || length > MOST / bins)
        return MTBAL_OK;
    mtbal_dtype dtype = (mtbal_dtype)mtbal_attr_i(e->node, "output_datatype", MTBAL_FLOAT);
    int64_t dims[2] = {length / 2 + 1, bins};
    mtbal_tensor *t =
        mtbal_dtype_size(dtype) ? mtbal_tensor_new(e->l->model, dtype, 2, dims, NULL) : NULL;
    double low = mel(mtbal_tensor_f64(edges[0], 0)), high = mel(mtbal_tensor_f64(edges[1], 0));
    double step = (high - low) / (double)(bins + 2);
    for (int64_t i = 0; t && i < bins; i++) {
        int64_t corner[3];
        for (int k = 0; k < 3; k++) {
            double hertz = 700 * (pow(10, (low + step * (double)(i + k)) / 2595) - 1);
            double at = floor((double)(length + 1) * hertz / (double)rate);
            corner[k] = at >= 0 && at < (double)dims[0] ? (int64_t)at : at < 0 ? 0 : dims[0] - 1;
        }
        for (int64_t j = corner[0]; j < corner[1]; j++)
            mtbal_tensor_set_f64(t, j * bins + i,
                                 (double)(j - corner[0]) / (double)(corner[1] - corner[0]));
        mtbal_tensor_set_f64(t, corner[1] * bins + i, 1);
        for (int64_t j = corner[1] + 1; j < corner[2]; j++)
            mtbal_tensor_set_f64(t, j * bins + i,
                                 (double)(corner[2] - j) / (double)(corner[2] - corner[1]));
    }
    e->out[0] = t ? mtbal_const_tensor(e->b, t) : NULL;
    return MTBAL_OK;
}
