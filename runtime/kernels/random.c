/* runtime/kernels/random.c: random numbers from a counter: element i of a call depends on the
 * step's seed, the call's and i. */
#include "runtime/kernels/kernels.h"

#include <math.h>
#include <string.h>

/* SplitMix64 (Steele, Lea, Flood 2014) of a counter. */
static uint64_t bits_of(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* In (0, 1). */
static double uniform(uint64_t seed, uint64_t i)
{
    return ((double)(bits_of(seed, i) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
}

/* dropout: X, ratio, training (bool scalar) -> Y, mask (bool, or left out). */
void rt_dropout(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    uint64_t seed = bits_of(env->seed, (uint64_t)((const rt_dropout_attr *)attr)->seed);
    int64_t n = rt_count(&out[0]);
    double ratio = in[1].data ? rt_get_f64(&in[1], 0) : 0.5;
    int on = in[2].data && *(const unsigned char *)in[2].data && ratio > 0;
    unsigned char *mask = (unsigned char *)out[1].data;
    for (int64_t i = 0; i < n; i++) {
        int keep = !on || uniform(seed, (uint64_t)i) >= ratio;
        rt_set_f64(&out[0], i, keep ? rt_get_f64(&in[0], i) * (on ? 1 / (1 - ratio) : 1) : 0);
        if (mask)
            mask[i] = (unsigned char)keep;
    }
}

/* random_fill: -> Y, uniform in [a, b), or normal with mean a and deviation b (Box and Muller
 * 1958). */
void rt_random_fill(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_random_fill_attr *a = (const rt_random_fill_attr *)attr;
    uint64_t seed = bits_of(env->seed, (uint64_t)a->seed);
    int64_t n = rt_count(&out[0]);
    (void)in;
    for (int64_t i = 0; i < n; i++) {
        double u = uniform(seed, 2 * (uint64_t)i), v = uniform(seed, 2 * (uint64_t)i + 1);
        rt_set_f64(&out[0], i,
                   a->normal ? a->a + a->b * sqrt(-2 * log(u)) * cos(6.28318530717958647692 * v)
                             : a->a + u * (a->b - a->a));
    }
}
