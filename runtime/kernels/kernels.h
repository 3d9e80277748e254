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
/* Whether elements first, first + step, .. of an integer tensor are in [low, limit). Where one is
 * not, the run fails with this format (runtime.h) of the value and `limit`. */
int rt_within(const rt_env *env, const rt_tensor *t, int64_t first, int64_t step, int64_t low,
              int64_t limit, const char *format);
/* The same for indices of an axis of `size`, negative ones counting from the end. */
int rt_indices_fit(const rt_env *env, const rt_tensor *t, int64_t size);
/* Such an index, after rt_indices_fit, in [0, size). */
int64_t rt_index(const rt_tensor *t, int64_t i, int64_t size);
#define RT_BAD_INDEX "index %lld of an axis of %lld"
/* Whether lengths of sequences are in [0, steps]; left out, they are. */
int rt_lengths_fit(const rt_env *env, const rt_tensor *lengths, int64_t steps);

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
