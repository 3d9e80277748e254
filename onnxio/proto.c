/* onnxio/proto.c: protobuf-c held at arm's length: its allocator, fields that its .proto may not
 * know yet, and a walk over the tensors of any message. */
#include "onnxio/proto.h"

#include <string.h>

/* allocator_data, when set, is a bool that remembers a failed allocation. */
static void *proto_alloc(void *failed, size_t size)
{
    void *p = mtbal_malloc(size);
    if (!p && failed)
        *(bool *)failed = true;
    return p;
}

static void proto_free(void *failed, void *p)
{
    (void)failed;
    mtbal_free(p);
}

ProtobufCAllocator mtbal_proto_allocator = {proto_alloc, proto_free, NULL};

ProtobufCMessage *mtbal_proto_unpack(const ProtobufCMessageDescriptor *descriptor,
                                     const unsigned char *bytes, size_t size, const char *path,
                                     mtbal_diag *diag)
{
    if (mtbal_scan(descriptor, bytes, size, path, diag) != MTBAL_OK)
        return NULL;
    bool failed = false;
    ProtobufCAllocator allocator = {proto_alloc, proto_free, &failed};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, size, bytes);
    if (!message && failed)
        mtbal_no_memory(diag);
    else if (!message)
        mtbal_fail(diag, MTBAL_INVALID, path, "get the file again from its exporter",
                   "no valid protobuf message of ONNX");
    return message;
}

/* ------------------------------------------------------------------ fields by number */

/* The varint at the start of an unknown field's data; returns its width, 0 when broken. */
static size_t length_prefix(const ProtobufCMessageUnknownField *f, size_t *length)
{
    *length = 0;
    for (size_t i = 0; i < f->len && i < 5; i++) {
        *length |= (size_t)(f->data[i] & 0x7f) << (7 * i);
        if (!(f->data[i] & 0x80))
            return *length <= f->len - i - 1 ? i + 1 : 0;
    }
    return 0;
}

const unsigned char *mtbal_proto_bytes(const ProtobufCMessageUnknownField *f, size_t *length)
{
    size_t prefix =
        f->wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED ? length_prefix(f, length) : 0;
    return prefix ? f->data + prefix : NULL;
}

static void *member(const ProtobufCMessage *message, unsigned offset)
{
    return (unsigned char *)(uintptr_t)message + offset;
}

mtbal_status mtbal_proto_string(const ProtobufCMessage *message, unsigned number,
                                mtbal_arena *arena, const char **text)
{
    const ProtobufCFieldDescriptor *d =
        protobuf_c_message_descriptor_get_field(message->descriptor, number);
    *text = "";
    if (d) {
        const char *known = *(char *const *)member(message, d->offset);
        *text = known ? mtbal_intern(arena, known) : "";
    }
    for (unsigned i = 0; !d && i < message->n_unknown_fields; i++) {
        size_t length;
        const ProtobufCMessageUnknownField *f = &message->unknown_fields[i];
        const unsigned char *bytes = f->tag == number ? mtbal_proto_bytes(f, &length) : NULL;
        if (bytes)
            *text = mtbal_intern_n(arena, (const char *)bytes, length);
    }
    return *text ? MTBAL_OK : MTBAL_NOMEM;
}

static mtbal_status add_unknown(ProtobufCMessage *message, unsigned number, const void *bytes,
                                size_t size, mtbal_arena *arena)
{
    size_t n = message->n_unknown_fields, prefix = 0;
    ProtobufCMessageUnknownField *fields = mtbal_arena_array(arena, n + 1, sizeof *fields);
    unsigned char *data = mtbal_arena_alloc(arena, size + 10);
    if (!fields || !data)
        return MTBAL_NOMEM;
    for (size_t rest = size; rest >= 0x80; rest >>= 7)
        data[prefix++] = (unsigned char)(rest | 0x80);
    data[prefix] = (unsigned char)(size >> (7 * prefix));
    prefix++;
    if (size)
        memcpy(data + prefix, bytes, size);
    if (n)
        memcpy(fields, message->unknown_fields, n * sizeof *fields);
    fields[n].tag = number;
    fields[n].wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    fields[n].data = data;
    fields[n].len = prefix + size;
    message->unknown_fields = fields;
    message->n_unknown_fields = (unsigned)n + 1;
    return MTBAL_OK;
}

mtbal_status mtbal_proto_add_string(ProtobufCMessage *message, unsigned number, const char *text,
                                    mtbal_arena *arena)
{
    const ProtobufCFieldDescriptor *d =
        protobuf_c_message_descriptor_get_field(message->descriptor, number);
    if (!d)
        return add_unknown(message, number, text, strlen(text), arena);
    *(const char **)member(message, d->offset) = text;
    return MTBAL_OK;
}

mtbal_status mtbal_proto_add_message(ProtobufCMessage *message, unsigned number,
                                     ProtobufCMessage *part, mtbal_arena *arena)
{
    const ProtobufCFieldDescriptor *d =
        protobuf_c_message_descriptor_get_field(message->descriptor, number);
    if (!d) {
        size_t size = protobuf_c_message_get_packed_size(part);
        unsigned char *bytes = mtbal_arena_alloc(arena, size);
        if (!bytes)
            return MTBAL_NOMEM;
        protobuf_c_message_pack(part, bytes);
        return add_unknown(message, number, bytes, size, arena);
    }
    size_t *n = member(message, d->quantifier_offset);
    ProtobufCMessage ***list = member(message, d->offset);
    ProtobufCMessage **longer = mtbal_arena_array(arena, *n + 1, sizeof *longer);
    if (!longer)
        return MTBAL_NOMEM;
    if (*n)
        memcpy(longer, *list, *n * sizeof *longer);
    longer[(*n)++] = part;
    *list = longer;
    return MTBAL_OK;
}

mtbal_status mtbal_proto_each(ProtobufCMessage *message, unsigned number,
                              const ProtobufCMessageDescriptor *type, mtbal_message_visit *visit,
                              void *context)
{
    const ProtobufCFieldDescriptor *d =
        protobuf_c_message_descriptor_get_field(message->descriptor, number);
    size_t n = d ? *(size_t *)member(message, d->quantifier_offset) : 0;
    for (size_t i = 0; i < n; i++)
        MTBAL_TRY(visit((*(ProtobufCMessage ***)member(message, d->offset))[i], false, context));
    for (unsigned i = 0; !d && i < message->n_unknown_fields; i++) {
        const ProtobufCMessageUnknownField *f = &message->unknown_fields[i];
        size_t length;
        const unsigned char *bytes = f->tag == number ? mtbal_proto_bytes(f, &length) : NULL;
        if (!bytes)
            continue;
        ProtobufCMessage *part =
            protobuf_c_message_unpack(type, &mtbal_proto_allocator, length, bytes);
        if (!part)
            return MTBAL_NOMEM; /* the scan has seen that it is well-formed */
        MTBAL_TRY(visit(part, true, context));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the tensors of a message */

static mtbal_status walk_field(ProtobufCMessage *message, const ProtobufCFieldDescriptor *d,
                               mtbal_tensor_visit *visit, void *context)
{
    if (d->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t n = *(size_t *)member(message, d->quantifier_offset);
        ProtobufCMessage **list = *(ProtobufCMessage ***)member(message, d->offset);
        for (size_t i = 0; i < n; i++)
            MTBAL_TRY(mtbal_proto_tensors(list[i], visit, context));
        return MTBAL_OK;
    }
    if (d->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
        *(uint32_t *)member(message, d->quantifier_offset) != d->id)
        return MTBAL_OK;
    ProtobufCMessage *part = *(ProtobufCMessage **)member(message, d->offset);
    return part ? mtbal_proto_tensors(part, visit, context) : MTBAL_OK;
}

mtbal_status mtbal_proto_tensors(ProtobufCMessage *message, mtbal_tensor_visit *visit,
                                 void *context)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;
    if (d == &onnx__tensor_proto__descriptor)
        return visit((Onnx__TensorProto *)message, context);
    /* A type holds no tensors; most messages of a model are below one. */
    if (d == &onnx__type_proto__descriptor)
        return MTBAL_OK;
    for (unsigned i = 0; i < d->n_fields; i++)
        if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
            MTBAL_TRY(walk_field(message, &d->fields[i], visit, context));
    return MTBAL_OK;
}
