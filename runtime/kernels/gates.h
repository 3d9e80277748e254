/* runtime/kernels/gates.h: activations of recurrent layers, and their slopes from their results. */
#ifndef MTBAL_RT_GATES_H
#define MTBAL_RT_GATES_H

#include "runtime/kernels/kernels.h"

#include <math.h>

#define RT_ACTIVATION(T) rt_activation_##T
#define RT_SLOPE(T)      rt_slope_##T

static inline float rt_activation_float(int32_t code, float x)
{
    if (code == RT_UNARY_tanh)
        return tanhf(x);
    if (code == RT_UNARY_sigmoid)
        return x >= 0 ? 1 / (1 + expf(-x)) : expf(x) / (1 + expf(x));
    return x > 0 ? x : x != x ? x : 0;
}

static inline double rt_activation_double(int32_t code, double x)
{
    if (code == RT_UNARY_tanh)
        return tanh(x);
    if (code == RT_UNARY_sigmoid)
        return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
    return x > 0 ? x : x != x ? x : 0;
}

static inline float rt_slope_float(int32_t code, float y)
{
    if (code == RT_UNARY_tanh)
        return 1 - y * y;
    if (code == RT_UNARY_sigmoid)
        return y - y * y;
    return y > 0 ? 1.0f : 0.0f;
}

static inline double rt_slope_double(int32_t code, double y)
{
    if (code == RT_UNARY_tanh)
        return 1 - y * y;
    if (code == RT_UNARY_sigmoid)
        return y - y * y;
    return y > 0 ? 1.0 : 0.0;
}

#endif
