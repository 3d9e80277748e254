/* runtime/kernels/kernels.h: elements of any type, for kernels where speed does not matter. */
#ifndef MTBAL_RT_KERNELS_H
#define MTBAL_RT_KERNELS_H

#include "runtime/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

int rt_is_float(int dtype);
double rt_get_f64(const rt_tensor *t, int64_t i); /* of a float type, or an integer's value */
void rt_set_f64(const rt_tensor *t, int64_t i, double x); /* truncates into integer types */
int64_t rt_get_i64(const rt_tensor *t, int64_t i);        /* of an integer type or bool */
void rt_set_i64(const rt_tensor *t, int64_t i, int64_t x);
double rt_int_as_f64(const rt_tensor *t, int64_t i); /* unsigned 64 bits right */
/* An index of int32 or int64, negative counting from the end, clamped into [0, size): data is never
 * trusted. */
int64_t rt_index(const rt_tensor *t, int64_t i, int64_t size);

static inline int64_t rt_product(const int64_t *dims, int from, int to)
{
    int64_t n = 1;
    for (int i = from; i < to; i++)
        n *= dims[i];
    return n;
}

#ifdef __cplusplus
}
#endif
#endif
