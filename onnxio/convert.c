/* onnxio/convert.c: TensorProto <-> the graph's tensors. Numbers that the file holds in their own
 * width are borrowed from the unpacked message; those that it widened are narrowed. */
#include "onnxio/proto.h"

#include <string.h>

bool mtbal_proto_is_external(const Onnx__TensorProto *t)
{
    return t->has_data_location && t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
}

/* Bits of one element, of the types that graph/ does not know, too; 0 for strings and the rest. */
static size_t bits_of(int dtype)
{
    static const unsigned char newer[] = {8, 8, 8, 8, 4, 4, 4, 8, 2, 2, 6, 6}; /* 17 .. 28 */
    if (dtype > 16 && dtype - 17 < (int)sizeof newer)
        return newer[dtype - 17];
    return 8 * mtbal_dtype_size((mtbal_dtype)dtype);
}

static mtbal_status check_shape(const char *name, size_t n, const int64_t *dims, int64_t *count,
                                mtbal_diag *diag)
{
    *count = 1;
    bool empty = false;
    for (size_t i = 0; i < n; i++) {
        if (dims[i] < 0)
            return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                              "dimension %zu of the tensor is %lld", i, (long long)dims[i]);
        empty = empty || dims[i] == 0;
    }
    for (size_t i = 0; i < n && !empty; i++)
        if (!mtbal_mul_i64(*count, dims[i], count))
            return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                              "the tensor's dimensions multiply to more than 2^63 elements");
    *count = empty ? 0 : *count;
    return MTBAL_OK;
}

mtbal_status mtbal_proto_tensor_bytes(const Onnx__TensorProto *t, size_t *bytes, mtbal_diag *diag)
{
    int64_t count, bits;
    size_t each = t->has_data_type ? bits_of(t->data_type) : 0;
    MTBAL_TRY(check_shape(t->name, t->n_dims, t->dims, &count, diag));
    *bytes = SIZE_MAX;
    if (each == 0)
        return MTBAL_OK;
    if (!mtbal_mul_i64(count, (int64_t)each, &bits) || bits > INT64_MAX - 7)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL,
                          "the tensor has more than 2^60 bytes");
    *bytes = (size_t)(bits + 7) / 8;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the data fields */

enum { RAW, FLOATS, INT32S, STRINGS, INT64S, DOUBLES, UINT64S, NFIELDS };

typedef struct contents {
    const char *name;
    size_t count; /* elements; bytes for raw_data */
    const void *data;
} contents;

static void list_fields(const Onnx__TensorProto *t, contents field[NFIELDS])
{
    size_t raw = t->has_raw_data ? t->raw_data.len : 0;
    field[RAW] = (contents){"raw_data", raw, t->raw_data.data};
    field[FLOATS] = (contents){"float_data", t->n_float_data, t->float_data};
    field[INT32S] = (contents){"int32_data", t->n_int32_data, t->int32_data};
    field[STRINGS] = (contents){"string_data", t->n_string_data, t->string_data};
    field[INT64S] = (contents){"int64_data", t->n_int64_data, t->int64_data};
    field[DOUBLES] = (contents){"double_data", t->n_double_data, t->double_data};
    field[UINT64S] = (contents){"uint64_data", t->n_uint64_data, t->uint64_data};
}

/* The typed field that a type is stored in (onnx.proto, comments of TensorProto), and how many
 * entries an element takes there. */
static int field_of(int dtype, size_t *entries)
{
    *entries = dtype == MTBAL_COMPLEX64 || dtype == MTBAL_COMPLEX128 ? 2 : 1;
    switch (dtype) {
    case MTBAL_FLOAT:
    case MTBAL_COMPLEX64:
        return FLOATS;
    case MTBAL_STRING:
        return STRINGS;
    case MTBAL_INT64:
        return INT64S;
    case MTBAL_DOUBLE:
    case MTBAL_COMPLEX128:
        return DOUBLES;
    case MTBAL_UINT32:
    case MTBAL_UINT64:
        return UINT64S;
    default:
        return INT32S;
    }
}

/* The one field that holds data, or -1. */
static mtbal_status used_field(const Onnx__TensorProto *t, const contents field[NFIELDS], int *used,
                               mtbal_diag *diag)
{
    *used = -1;
    for (int i = 0; i < NFIELDS; i++) {
        if (!field[i].count)
            continue;
        if (*used >= 0)
            return mtbal_fail(diag, MTBAL_INVALID, t->name, "a tensor has one data field",
                              "the tensor has both %s and %s", field[*used].name, field[i].name);
        *used = i;
    }
    if (*used >= 0 && mtbal_proto_is_external(t))
        return mtbal_fail(diag, MTBAL_INVALID, t->name, "a tensor has one data field",
                          "the tensor has both external data and %s", field[*used].name);
    return MTBAL_OK;
}

static mtbal_status wrong_count(const Onnx__TensorProto *t, const char *field, size_t expected,
                                size_t found, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_INVALID, t->name, "the file is damaged",
                      "%s of the tensor: its shape and type need %zu %s, there are %zu", field,
                      expected, strcmp(field, "raw_data") ? "entries" : "bytes", found);
}

static bool fits(mtbal_dtype dtype, int64_t x)
{
    switch (dtype) {
    case MTBAL_BOOL:
    case MTBAL_UINT8:
        return x >= 0 && x <= UINT8_MAX;
    case MTBAL_INT8:
        return x >= INT8_MIN && x <= INT8_MAX;
    case MTBAL_INT16:
        return x >= INT16_MIN && x <= INT16_MAX;
    case MTBAL_UINT32:
        return x >= 0 && x <= UINT32_MAX;
    default: /* 16 bits; halves by some writers with their sign extended */
        return x >= (dtype == MTBAL_UINT16 ? 0 : INT16_MIN) && x <= UINT16_MAX;
    }
}

/* From int32_data or uint64_data to the type's own width. */
static mtbal_status narrow(mtbal_model *model, const Onnx__TensorProto *t, const contents *field,
                           bool wide, mtbal_tensor *tensor, mtbal_diag *diag)
{
    size_t size = mtbal_dtype_size(tensor->dtype);
    unsigned char *to = mtbal_arena_array(model->arena, field->count, size);
    if (!to)
        return mtbal_no_memory(diag);
    for (size_t i = 0; i < field->count; i++) {
        int64_t x =
            wide ? (int64_t)((const uint64_t *)field->data)[i] : ((const int32_t *)field->data)[i];
        if (!fits(tensor->dtype, x))
            return mtbal_fail(diag, MTBAL_INVALID, t->name, "the file is damaged",
                              "element %zu of the tensor is %lld, which is no %s", i, (long long)x,
                              mtbal_dtype_name(tensor->dtype));
        memcpy(to + i * size, &x, size); /* the low bytes: this program is little-endian */
    }
    tensor->data = to;
    return MTBAL_OK;
}

static mtbal_status typed_data(mtbal_model *model, const Onnx__TensorProto *t, int used,
                               const contents field[NFIELDS], mtbal_tensor *tensor,
                               mtbal_diag *diag)
{
    size_t entries, expected;
    int right = field_of(t->data_type, &entries);
    if (used >= 0 && used != right)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, "the file is damaged",
                          "a tensor of type %s holds %s", mtbal_dtype_name(tensor->dtype),
                          field[used].name);
    if (!mtbal_mul_size((size_t)tensor->count, entries, &expected) ||
        field[right].count != expected)
        return wrong_count(t, field[right].name, expected, field[right].count, diag);
    if (tensor->dtype == MTBAL_STRING)
        return MTBAL_OK;
    if (right == INT32S && tensor->dtype != MTBAL_INT32)
        return narrow(model, t, &field[right], false, tensor, diag);
    if (tensor->dtype == MTBAL_UINT32)
        return narrow(model, t, &field[right], true, tensor, diag);
    tensor->data = field[right].data;
    return MTBAL_OK;
}

static mtbal_status find_data(mtbal_model *model, const Onnx__TensorProto *t, mtbal_tensor *tensor,
                              mtbal_diag *diag)
{
    contents field[NFIELDS];
    int used;
    size_t bytes;
    list_fields(t, field);
    MTBAL_TRY(used_field(t, field, &used, diag));
    MTBAL_TRY(mtbal_proto_tensor_bytes(t, &bytes, diag));
    tensor->bytes = bytes == SIZE_MAX ? 0 : bytes;
    tensor->external = mtbal_proto_is_external(t);
    if (tensor->external)
        return MTBAL_OK;
    if (used == RAW && bytes == SIZE_MAX)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL,
                          "raw_data for a tensor of type %s (%d)", mtbal_dtype_name(tensor->dtype),
                          t->data_type);
    if (used == RAW || (t->has_raw_data && used < 0 && bytes != SIZE_MAX)) {
        if (field[RAW].count != bytes)
            return wrong_count(t, "raw_data", bytes, field[RAW].count, diag);
        tensor->data = field[RAW].data;
    } else if (t->data_type <= MTBAL_BFLOAT16) {
        MTBAL_TRY(typed_data(model, t, used, field, tensor, diag));
    }
    if (!tensor->data && tensor->count == 0 && tensor->dtype != MTBAL_STRING)
        tensor->data = "";
    return MTBAL_OK;
}

mtbal_status mtbal_tensor_from_proto(mtbal_model *model, Onnx__TensorProto *t,
                                     mtbal_tensor **result, mtbal_diag *diag)
{
    static const int64_t scalar[1] = {0};
    mtbal_tensor *tensor = mtbal_arena_alloc(model->arena, sizeof *tensor);
    if (!tensor)
        return mtbal_no_memory(diag);
    *result = tensor;
    if (!t->has_data_type || t->data_type <= 0)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL, "a tensor without an element type");
    if (t->segment)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, "export the model again",
                          "a tensor in segments, which ONNX gave up");
    tensor->dtype = (mtbal_dtype)t->data_type;
    tensor->rank = (int)t->n_dims;
    tensor->dims = t->n_dims ? t->dims : scalar;
    tensor->origin = t;
    MTBAL_TRY(check_shape(t->name, t->n_dims, t->dims, &tensor->count, diag));
    return find_data(model, t, tensor, diag);
}

Onnx__TensorProto *mtbal_tensor_to_proto(const mtbal_tensor *tensor, const char *name,
                                         mtbal_arena *arena)
{
    Onnx__TensorProto *t = mtbal_arena_alloc(arena, sizeof *t);
    if (!t)
        return NULL;
    onnx__tensor_proto__init(t);
    t->name = (char *)(uintptr_t)name;
    t->has_data_type = 1;
    t->data_type = (int32_t)tensor->dtype;
    t->n_dims = (size_t)tensor->rank;
    t->dims = (int64_t *)(uintptr_t)tensor->dims;
    t->has_raw_data = 1;
    t->raw_data.len = tensor->bytes;
    t->raw_data.data = (uint8_t *)(uintptr_t)tensor->data;
    return t;
}

/* ------------------------------------------------------------------ sparse tensors */

enum { LARGEST_DENSE = 1 << 30 };

mtbal_status mtbal_tensor_from_sparse(mtbal_model *model, Onnx__SparseTensorProto *s,
                                      mtbal_tensor **result, mtbal_diag *diag)
{
    const Onnx__TensorProto *v = s->values;
    const char *name = v && v->name ? v->name : "sparse tensor";
    mtbal_tensor *tensor = mtbal_arena_alloc(model->arena, sizeof *tensor);
    if (!tensor)
        return mtbal_no_memory(diag);
    int64_t bytes;
    *result = tensor;
    if (!v || !s->indices || !v->has_data_type || v->n_dims != 1)
        return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                          "a sparse tensor without values, or without indices");
    tensor->dtype = (mtbal_dtype)v->data_type;
    tensor->rank = (int)s->n_dims;
    tensor->dims = s->dims;
    tensor->origin = s;
    tensor->external = true; /* dense only when somebody asks for it */
    MTBAL_TRY(check_shape(name, s->n_dims, s->dims, &tensor->count, diag));
    size_t size = mtbal_dtype_size(tensor->dtype);
    if (!size || s->n_dims == 0 || !mtbal_mul_i64(tensor->count, (int64_t)size, &bytes))
        return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                          "a sparse tensor of type %s with %zu dimensions",
                          mtbal_dtype_name(tensor->dtype), s->n_dims);
    tensor->bytes = (size_t)bytes;
    return MTBAL_OK;
}

/* Where entry i lies in the dense tensor, -1 when outside. Indices are linear [n], or one row of
 * coordinates each [n,rank]. */
static int64_t place(const mtbal_tensor *dense, const mtbal_tensor *indices, int64_t i)
{
    const int64_t *index = indices->data;
    int64_t at = 0;
    if (indices->rank == 1)
        return index[i] >= 0 && index[i] < dense->count ? index[i] : -1;
    for (int k = 0; k < dense->rank; k++) {
        int64_t x = index[i * dense->rank + k];
        if (x < 0 || x >= dense->dims[k])
            return -1;
        at = at * dense->dims[k] + x;
    }
    return at;
}

mtbal_status mtbal_sparse_load(mtbal_model *model, mtbal_tensor *tensor, mtbal_diag *diag)
{
    Onnx__SparseTensorProto *s = tensor->origin;
    const char *name = s->values->name ? s->values->name : "sparse tensor";
    mtbal_tensor *values, *indices;
    MTBAL_TRY(mtbal_tensor_from_proto(model, s->values, &values, diag));
    MTBAL_TRY(mtbal_tensor_from_proto(model, s->indices, &indices, diag));
    MTBAL_TRY(mtbal_tensor_load(model, values, diag));
    MTBAL_TRY(mtbal_tensor_load(model, indices, diag));
    bool linear = indices->rank == 1 && indices->count == values->count;
    bool rows =
        indices->rank == 2 && indices->dims[0] == values->count && indices->dims[1] == tensor->rank;
    if (indices->dtype != MTBAL_INT64 || !(linear || rows))
        return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                          "the indices of the sparse tensor do not match its values");
    if (tensor->bytes > LARGEST_DENSE)
        return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                          "the sparse tensor needs %zu bytes when dense", tensor->bytes);
    size_t size = mtbal_dtype_size(tensor->dtype);
    unsigned char *dense = mtbal_arena_alloc(model->arena, tensor->bytes);
    if (!dense)
        return mtbal_no_memory(diag);
    for (int64_t i = 0; i < values->count; i++) {
        int64_t at = place(tensor, indices, i);
        if (at < 0)
            return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                              "index %lld of the sparse tensor lies outside of its shape",
                              (long long)i);
        memcpy(dense + (size_t)at * size, (const char *)values->data + (size_t)i * size, size);
    }
    tensor->data = dense;
    return MTBAL_OK;
}
