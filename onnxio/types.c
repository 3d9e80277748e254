/* onnxio/types.c: TypeProto <-> the graph's types. */
#include "onnxio/proto.h"

#include <string.h>

/* The tensor type inside a sequence or optional of it; NULL for maps and sparse tensors. */
static const Onnx__TypeProto__Tensor *tensor_of(const Onnx__TypeProto *proto, mtbal_kind *kind)
{
    *kind = MTBAL_OTHER;
    switch (proto ? proto->value_case : ONNX__TYPE_PROTO__VALUE__NOT_SET) {
    case ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE:
        *kind = MTBAL_TENSOR;
        return proto->tensor_type;
    case ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE:
    case ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE: {
        bool sequence = proto->value_case == ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE;
        const Onnx__TypeProto *part =
            sequence ? proto->sequence_type->elem_type : proto->optional_type->elem_type;
        mtbal_kind inner;
        const Onnx__TypeProto__Tensor *tensor = tensor_of(part, &inner);
        *kind = sequence ? MTBAL_SEQUENCE : MTBAL_OPTIONAL;
        return inner == MTBAL_TENSOR ? tensor : NULL;
    }
    default:
        return NULL;
    }
}

/* A dimension as declared. Exporters write -1, or an empty name, for one that they do not know. */
static void declared_dim(const Onnx__TensorShapeProto__Dimension *d, int64_t *size,
                         const char **symbol)
{
    *size = -1;
    *symbol = NULL;
    if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE && d->dim_value >= 0)
        *size = d->dim_value;
    else if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM &&
             d->dim_param[0])
        *symbol = d->dim_param;
}

mtbal_status mtbal_type_from_proto(mtbal_model *model, const Onnx__TypeProto *proto,
                                   mtbal_type *type)
{
    *type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    if (!proto || proto->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET)
        return MTBAL_OK;
    const Onnx__TypeProto__Tensor *tensor = tensor_of(proto, &type->kind);
    if (!tensor)
        return MTBAL_OK;
    type->dtype = (mtbal_dtype)(tensor->has_elem_type ? tensor->elem_type : 0);
    if (!tensor->shape)
        return MTBAL_OK;
    type->dims = mtbal_arena_array(model->arena, tensor->shape->n_dim, sizeof *type->dims);
    if (!type->dims)
        return MTBAL_NOMEM;
    type->rank = (int)tensor->shape->n_dim;
    for (int i = 0; i < type->rank; i++) {
        const char *symbol;
        declared_dim(tensor->shape->dim[i], &type->dims[i].size, &symbol);
        type->dims[i].symbol = symbol ? mtbal_intern(model->arena, symbol) : NULL;
        if (symbol && !type->dims[i].symbol)
            return MTBAL_NOMEM;
    }
    return MTBAL_OK;
}

static bool is_bound(const mtbal_symbols *bound, const char *symbol)
{
    for (size_t i = 0; symbol && i < bound->count; i++)
        if (strcmp(bound->names[i], symbol) == 0)
            return true;
    return false;
}

bool mtbal_type_declared(const Onnx__TypeProto *proto, const mtbal_type *type,
                         const mtbal_symbols *bound)
{
    if (!proto || proto->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET)
        return true;
    mtbal_kind kind;
    const Onnx__TypeProto__Tensor *tensor = tensor_of(proto, &kind);
    if (kind != type->kind)
        return false;
    if (!tensor)
        return true;
    if (tensor->has_elem_type && tensor->elem_type != 0 && type->dtype != MTBAL_UNDEFINED &&
        tensor->elem_type != (int)type->dtype)
        return false;
    if (!tensor->shape || type->rank < 0 || kind != MTBAL_TENSOR)
        return true;
    if (tensor->shape->n_dim != (size_t)type->rank)
        return false;
    for (int i = 0; i < type->rank; i++) {
        int64_t size;
        const char *symbol;
        declared_dim(tensor->shape->dim[i], &size, &symbol);
        if (size >= 0 && type->dims[i].size != size)
            return false;
        if (type->dims[i].size >= 0 && is_bound(bound, symbol))
            return false;
    }
    return true;
}

mtbal_status mtbal_bound_symbols(const mtbal_graph *graph, mtbal_arena *arena, mtbal_symbols *bound)
{
    size_t most = 0;
    for (int i = 0; i < graph->ninputs; i++)
        most += graph->inputs[i]->type.rank > 0 ? (size_t)graph->inputs[i]->type.rank : 0;
    *bound = (mtbal_symbols){0, mtbal_arena_array(arena, most, sizeof *bound->names)};
    if (!bound->names)
        return MTBAL_NOMEM;
    for (int i = 0; i < graph->ninputs; i++) {
        const Onnx__ValueInfoProto *info = graph->inputs[i]->origin;
        const mtbal_type *type = &graph->inputs[i]->type;
        mtbal_kind kind;
        const Onnx__TypeProto__Tensor *tensor = tensor_of(info ? info->type : NULL, &kind);
        if (!tensor || !tensor->shape || tensor->shape->n_dim != (size_t)type->rank)
            continue;
        for (int k = 0; k < type->rank; k++) {
            int64_t size;
            const char *symbol;
            declared_dim(tensor->shape->dim[k], &size, &symbol);
            if (symbol && type->dims[k].size >= 0 && !is_bound(bound, symbol))
                bound->names[bound->count++] = symbol;
        }
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ to TypeProto */

static Onnx__TensorShapeProto *shape_to_proto(const mtbal_type *type, mtbal_arena *arena)
{
    Onnx__TensorShapeProto *shape = mtbal_arena_alloc(arena, sizeof *shape);
    size_t rank = (size_t)type->rank;
    Onnx__TensorShapeProto__Dimension *dims = mtbal_arena_array(arena, rank, sizeof *dims);
    Onnx__TensorShapeProto__Dimension **list = mtbal_arena_array(arena, rank, sizeof *list);
    if (!shape || !dims || !list)
        return NULL;
    onnx__tensor_shape_proto__init(shape);
    shape->n_dim = rank;
    shape->dim = list;
    for (size_t i = 0; i < rank; i++) {
        const mtbal_dim *dim = &type->dims[i];
        onnx__tensor_shape_proto__dimension__init(&dims[i]);
        list[i] = &dims[i];
        if (dim->size >= 0) {
            dims[i].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            dims[i].dim_value = dim->size;
        } else if (dim->symbol) {
            dims[i].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            dims[i].dim_param = (char *)(uintptr_t)dim->symbol;
        }
    }
    return shape;
}

static Onnx__TypeProto *wrap(Onnx__TypeProto *inner, mtbal_kind kind, mtbal_arena *arena)
{
    Onnx__TypeProto *outer = mtbal_arena_alloc(arena, sizeof *outer);
    Onnx__TypeProto__Sequence *sequence = mtbal_arena_alloc(arena, sizeof *sequence);
    Onnx__TypeProto__Optional *optional = mtbal_arena_alloc(arena, sizeof *optional);
    if (!outer || !sequence || !optional)
        return NULL;
    onnx__type_proto__init(outer);
    onnx__type_proto__sequence__init(sequence);
    onnx__type_proto__optional__init(optional);
    if (kind == MTBAL_SEQUENCE) {
        outer->value_case = ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE;
        outer->sequence_type = sequence;
        sequence->elem_type = inner;
    } else {
        outer->value_case = ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE;
        outer->optional_type = optional;
        optional->elem_type = inner;
    }
    return outer;
}

Onnx__TypeProto *mtbal_type_to_proto(const mtbal_type *type, mtbal_arena *arena)
{
    Onnx__TypeProto *proto = mtbal_arena_alloc(arena, sizeof *proto);
    Onnx__TypeProto__Tensor *tensor = mtbal_arena_alloc(arena, sizeof *tensor);
    if (!proto || !tensor)
        return NULL;
    onnx__type_proto__init(proto);
    onnx__type_proto__tensor__init(tensor);
    proto->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    proto->tensor_type = tensor;
    tensor->has_elem_type = 1;
    tensor->elem_type = (int32_t)type->dtype;
    if (type->rank >= 0 && !(tensor->shape = shape_to_proto(type, arena)))
        return NULL;
    if (type->kind == MTBAL_SEQUENCE || type->kind == MTBAL_OPTIONAL)
        return wrap(proto, type->kind, arena);
    return proto;
}
