/* graph/tensor.c: element types, shapes, tensors with data. */
#include "graph/graph.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [MTBAL_UNDEFINED] = {"undefined", 0},
    [MTBAL_FLOAT] = {"float", 4},
    [MTBAL_UINT8] = {"uint8", 1},
    [MTBAL_INT8] = {"int8", 1},
    [MTBAL_UINT16] = {"uint16", 2},
    [MTBAL_INT16] = {"int16", 2},
    [MTBAL_INT32] = {"int32", 4},
    [MTBAL_INT64] = {"int64", 8},
    [MTBAL_STRING] = {"string", 0},
    [MTBAL_BOOL] = {"bool", 1},
    [MTBAL_FLOAT16] = {"float16", 2},
    [MTBAL_DOUBLE] = {"double", 8},
    [MTBAL_UINT32] = {"uint32", 4},
    [MTBAL_UINT64] = {"uint64", 8},
    [MTBAL_COMPLEX64] = {"complex64", 8},
    [MTBAL_COMPLEX128] = {"complex128", 16},
    [MTBAL_BFLOAT16] = {"bfloat16", 2},
    /* known by name only: ONNX's numbers 17 to 26 */
    {"float8e4m3fn", 0},
    {"float8e4m3fnuz", 0},
    {"float8e5m2", 0},
    {"float8e5m2fnuz", 0},
    {"uint4", 0},
    {"int4", 0},
    {"float4e2m1", 0},
    {"float8e8m0", 0},
    {"uint2", 0},
    {"int2", 0},
};
enum { NDTYPES = sizeof dtypes / sizeof *dtypes };

size_t mtbal_dtype_size(mtbal_dtype dtype)
{
    return (unsigned)dtype < NDTYPES ? dtypes[dtype].size : 0;
}

const char *mtbal_dtype_name(mtbal_dtype dtype)
{
    return (unsigned)dtype < NDTYPES ? dtypes[dtype].name : "unknown";
}

mtbal_dtype mtbal_dtype_parse(const char *name)
{
    for (int i = 1; i < NDTYPES; i++)
        if (!strcmp(dtypes[i].name, name))
            return (mtbal_dtype)i;
    return MTBAL_UNDEFINED;
}

bool mtbal_dtype_is_float(mtbal_dtype dtype)
{
    return dtype == MTBAL_FLOAT || dtype == MTBAL_DOUBLE || dtype == MTBAL_FLOAT16 ||
           dtype == MTBAL_BFLOAT16;
}

/* ------------------------------------------------------------------ shapes */

bool mtbal_dim_equal(mtbal_dim a, mtbal_dim b)
{
    return a.size >= 0 ? a.size == b.size : b.size < 0 && a.symbol && a.symbol == b.symbol;
}

bool mtbal_shape_known(const mtbal_type *type)
{
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i].size < 0)
            return false;
    return type->rank >= 0;
}

bool mtbal_shape_equal(const mtbal_type *a, const mtbal_type *b)
{
    if (a->rank < 0 || a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (!mtbal_dim_equal(a->dims[i], b->dims[i]))
            return false;
    return true;
}

int64_t mtbal_shape_count(const mtbal_type *type)
{
    int64_t count = 1;
    if (!mtbal_shape_known(type))
        return -1;
    for (int i = 0; i < type->rank; i++)
        if (!mtbal_mul_i64(count, type->dims[i].size, &count))
            return -1;
    return count;
}

/* ------------------------------------------------------------------ tensors */

mtbal_status mtbal_tensor_load(mtbal_model *model, mtbal_tensor *tensor, mtbal_diag *diag)
{
    if (tensor->data || !tensor->external)
        return MTBAL_OK;
    if (!model->load)
        return mtbal_fail(diag, MTBAL_IO, model->path, NULL, "external data without a file");
    return model->load(model->origin, tensor, diag);
}

mtbal_tensor *mtbal_tensor_new(mtbal_model *model, mtbal_dtype dtype, int rank, const int64_t *dims,
                               const void *data)
{
    mtbal_arena *arena = model->arena;
    mtbal_tensor *t = mtbal_arena_alloc(arena, sizeof *t);
    int64_t *copy = mtbal_arena_copy(arena, dims, (size_t)rank * sizeof *dims);
    int64_t count = 1, bytes;
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0 || !mtbal_mul_i64(count, dims[i], &count))
            return NULL;
    if (!t || !copy || !mtbal_mul_i64(count, (int64_t)mtbal_dtype_size(dtype), &bytes))
        return NULL;
    *t = (mtbal_tensor){
        .dtype = dtype, .rank = rank, .dims = copy, .count = count, .bytes = (size_t)bytes};
    t->data = data ? mtbal_arena_copy(arena, data, t->bytes) : mtbal_arena_alloc(arena, t->bytes);
    return t->data ? t : NULL;
}

void *mtbal_tensor_bytes(mtbal_tensor *tensor)
{
    return (void *)tensor->data;
}

/* ------------------------------------------------------------------ half precision */

float mtbal_half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double x = exponent == 31 ? (mantissa ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                              : ldexp(mantissa, -24);
    return (float)(h >> 15 ? -x : x);
}

uint16_t mtbal_float_to_half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t rest = bits & 0x7FFFFFFF;
    if (rest > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (rest >= 0x47800000) /* 65536: too large even before rounding */
        return (uint16_t)(sign | 0x7C00);
    if (rest < 0x38800000) /* below 2^-14: a subnormal, or zero */
        return (uint16_t)(sign | (uint16_t)nearbyint(ldexp(fabs((double)f), 24)));
    rest += 0xFFF + (rest >> 13 & 1); /* to nearest, ties to even */
    return (uint16_t)(sign | (uint16_t)((rest >> 13) - (112 << 10)));
}

static float bfloat_to_float(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t float_to_bfloat(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (f != f)
        return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* ------------------------------------------------------------------ elements */

double mtbal_tensor_f64(const mtbal_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case MTBAL_FLOAT:
        return ((const float *)t->data)[i];
    case MTBAL_DOUBLE:
        return ((const double *)t->data)[i];
    case MTBAL_FLOAT16:
        return mtbal_half_to_float(((const uint16_t *)t->data)[i]);
    case MTBAL_BFLOAT16:
        return bfloat_to_float(((const uint16_t *)t->data)[i]);
    case MTBAL_UINT64:
        return (double)((const uint64_t *)t->data)[i];
    default:
        return (double)mtbal_tensor_i64(t, i);
    }
}

int64_t mtbal_tensor_i64(const mtbal_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case MTBAL_BOOL:
    case MTBAL_UINT8:
        return ((const uint8_t *)t->data)[i];
    case MTBAL_INT8:
        return ((const int8_t *)t->data)[i];
    case MTBAL_UINT16:
        return ((const uint16_t *)t->data)[i];
    case MTBAL_INT16:
        return ((const int16_t *)t->data)[i];
    case MTBAL_INT32:
        return ((const int32_t *)t->data)[i];
    case MTBAL_UINT32:
        return ((const uint32_t *)t->data)[i];
    case MTBAL_INT64:
    case MTBAL_UINT64:
        return ((const int64_t *)t->data)[i];
    case MTBAL_FLOAT:
    case MTBAL_DOUBLE:
    case MTBAL_FLOAT16:
    case MTBAL_BFLOAT16: {
        double x = mtbal_tensor_f64(t, i);
        return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : 0;
    }
    default:
        return 0;
    }
}

/* To float, towards zero, with the last bit set when something was lost ("round to odd"): rounding
 * the result once more, to a shorter format, then gives what rounding x at once gives (Boldo and
 * Melquiond, Emulation of FMA and correctly rounded sums, 2008). */
static float to_odd(double x)
{
    float f = (float)x;
    uint32_t bits;
    if ((double)f == x || x != x)
        return f;
    memcpy(&bits, &f, sizeof bits);
    bits -= fabs((double)f) > fabs(x);
    bits |= 1;
    memcpy(&f, &bits, sizeof bits);
    return f;
}

/* The bits of an integer element; 0 for what fits no 64 bits. */
static uint64_t to_whole(double x)
{
    if (x >= 0x1p63)
        return x < 0x1p64 ? (uint64_t)x : 0;
    return x >= -0x1p63 ? (uint64_t)(int64_t)x : 0;
}

void mtbal_tensor_set_f64(mtbal_tensor *t, int64_t i, double x)
{
    void *data = mtbal_tensor_bytes(t);
    size_t size = mtbal_dtype_size(t->dtype);
    uint64_t whole = to_whole(x);
    switch (t->dtype) {
    case MTBAL_FLOAT:
        ((float *)data)[i] = (float)x;
        break;
    case MTBAL_DOUBLE:
        ((double *)data)[i] = x;
        break;
    case MTBAL_FLOAT16:
        ((uint16_t *)data)[i] = mtbal_float_to_half(to_odd(x));
        break;
    case MTBAL_BFLOAT16:
        ((uint16_t *)data)[i] = float_to_bfloat(to_odd(x));
        break;
    case MTBAL_BOOL:
        ((uint8_t *)data)[i] = x != 0;
        break;
    default: /* integers, little-endian: the low bytes */
        if (size <= sizeof whole)
            memcpy((char *)data + (size_t)i * size, &whole, size);
    }
}
