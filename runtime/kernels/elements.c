/* runtime/kernels/elements.c: elements of any type. */
#include "runtime/kernels/kernels.h"

#include <math.h>
#include <string.h>

int rt_is_float(int dtype)
{
    return dtype == RT_F32 || dtype == RT_F64 || dtype == RT_F16 || dtype == RT_BF16;
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static double half_to_f64(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double x = e == 31 ? (m ? (double)NAN : (double)INFINITY)
               : e     ? ldexp(1024 + m, e - 25)
                       : ldexp(m, -24);
    return h >> 15 ? -x : x;
}

static uint16_t f64_to_half(double x)
{
    uint32_t bits = to_bits((float)x), rest = bits & 0x7FFFFFFF;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (rest >= 0x47800000)
        return (uint16_t)(sign | 0x7C00);
    if (rest < 0x38800000)
        return (uint16_t)(sign | (uint16_t)nearbyint(ldexp(fabs((double)from_bits(rest)), 24)));
    rest += 0xFFF + (rest >> 13 & 1);
    return (uint16_t)(sign | (uint16_t)((rest >> 13) - (112 << 10)));
}

static uint16_t f64_to_bfloat(double x)
{
    uint32_t bits = to_bits((float)x);
    return x != x ? 0x7FC0 : (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

int64_t rt_get_i64(const rt_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case RT_BOOL:
    case RT_U8:
        return ((const uint8_t *)t->data)[i];
    case RT_I8:
        return ((const int8_t *)t->data)[i];
    case RT_U16:
        return ((const uint16_t *)t->data)[i];
    case RT_I16:
        return ((const int16_t *)t->data)[i];
    case RT_I32:
        return ((const int32_t *)t->data)[i];
    case RT_U32:
        return ((const uint32_t *)t->data)[i];
    default:
        return ((const int64_t *)t->data)[i];
    }
}

void rt_set_i64(const rt_tensor *t, int64_t i, int64_t x)
{
    switch (rt_dtype_size(t->dtype)) {
    case 1:
        ((uint8_t *)t->data)[i] = (uint8_t)x;
        break;
    case 2:
        ((uint16_t *)t->data)[i] = (uint16_t)x;
        break;
    case 4:
        ((uint32_t *)t->data)[i] = (uint32_t)x;
        break;
    default:
        ((int64_t *)t->data)[i] = x;
    }
}

double rt_int_as_f64(const rt_tensor *t, int64_t i)
{
    return t->dtype == RT_U64 ? (double)((const uint64_t *)t->data)[i] : (double)rt_get_i64(t, i);
}

double rt_get_f64(const rt_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case RT_F32:
        return (double)((const float *)t->data)[i];
    case RT_F64:
        return ((const double *)t->data)[i];
    case RT_F16:
        return RT_USES_TYPE(RT_F16) ? half_to_f64(((const uint16_t *)t->data)[i]) : 0;
    case RT_BF16:
        return (double)from_bits((uint32_t)((const uint16_t *)t->data)[i] << 16);
    default:
        return rt_int_as_f64(t, i);
    }
}

void rt_set_f64(const rt_tensor *t, int64_t i, double x)
{
    switch (t->dtype) {
    case RT_F32:
        ((float *)t->data)[i] = (float)x;
        break;
    case RT_F64:
        ((double *)t->data)[i] = x;
        break;
    case RT_F16:
        if (RT_USES_TYPE(RT_F16))
            ((uint16_t *)t->data)[i] = f64_to_half(x);
        break;
    case RT_BF16:
        if (RT_USES_TYPE(RT_BF16))
            ((uint16_t *)t->data)[i] = f64_to_bfloat(x);
        break;
    case RT_BOOL:
        ((uint8_t *)t->data)[i] = x != 0;
        break;
    case RT_U64:
        ((uint64_t *)t->data)[i] = x >= 0 && x < 18446744073709551616.0 ? (uint64_t)x : 0;
        break;
    default:
        rt_set_i64(t, i,
                   x >= -9223372036854775808.0 && x < 9223372036854775808.0 ? (int64_t)x
                                                                            : INT64_MIN);
    }
}

int64_t rt_index(const rt_tensor *t, int64_t i, int64_t size)
{
    int64_t at = rt_get_i64(t, i);
    return at < 0 ? at + size : at;
}

/* Whether all are in [low, low + span). Without branches, so that compilers vectorise it. */
#define ALL_WITHIN(T)                         \
    for (int64_t i = first; i < n; i += step) \
        bad |= (uint64_t)(int64_t)((const T *)t->data)[i] - (uint64_t)low >= span;

int rt_within(const rt_env *env, const rt_tensor *t, int64_t first, int64_t step, int64_t low,
              int64_t limit, const char *format)
{
    int64_t n = rt_count(t);
    uint64_t span = (uint64_t)limit - (uint64_t)low;
    int bad = 0;
    if (t->dtype == RT_I64) {
        ALL_WITHIN(int64_t)
    } else if (t->dtype == RT_I32) {
        ALL_WITHIN(int32_t)
    } else {
        for (int64_t i = first; i < n; i += step)
            bad |= (uint64_t)rt_get_i64(t, i) - (uint64_t)low >= span;
    }
    for (int64_t i = first; i < n && bad; i += step)
        if ((uint64_t)rt_get_i64(t, i) - (uint64_t)low >= span) {
            rt_fail(env, format, rt_get_i64(t, i), limit, t, i);
            break;
        }
    return !bad;
}

int rt_indices_fit(const rt_env *env, const rt_tensor *t, int64_t size)
{
    return rt_within(env, t, 0, 1, -size, size, RT_BAD_INDEX);
}

int rt_lengths_fit(const rt_env *env, const rt_tensor *lengths, int64_t steps)
{
    for (int64_t i = 0; lengths->data && i < rt_count(lengths); i++) {
        int64_t length = rt_get_i64(lengths, i);
        if (length >= 0 && length <= steps)
            continue;
        rt_fail(env, "length %lld of a sequence of %lld steps", length, steps, lengths, i);
        return 0;
    }
    return 1;
}
