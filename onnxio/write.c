/* onnxio/write.c: graph -> ModelProto. A shallow message is built over the one that was read: what
 * is unchanged is the very sub-message of the file, with its unknown fields; only what a pass made
 * or changed is new. Then it is streamed, weights straight from where they lie. */
#include "onnxio/build.h"

#include <limits.h>
#include <string.h>

enum { EXTERNAL_ABOVE = 1024, STREAM_ABOVE = 1 << 16 };

/* ------------------------------------------------------------------ streaming */

/* protobuf-c packs into one piece of memory, or into nested buffers that it copies level by level.
 * Here a large message is taken apart into its fields, so that no weight is ever copied. */
typedef struct sink {
    mtbal_writer *writer;
    unsigned char *buffer; /* STREAM_ABOVE + 64 bytes */
    size_t used;
    mtbal_diag *diag;
} sink;

static mtbal_status flush(sink *s)
{
    size_t size = s->used;
    s->used = 0;
    return mtbal_writer_put(s->writer, s->buffer, size, s->diag);
}

static mtbal_status put(sink *s, const void *bytes, size_t size)
{
    if (size > STREAM_ABOVE - s->used)
        MTBAL_TRY(flush(s));
    if (size > STREAM_ABOVE)
        return mtbal_writer_put(s->writer, bytes, size, s->diag);
    if (size)
        memcpy(s->buffer + s->used, bytes, size);
    s->used += size;
    return MTBAL_OK;
}

/* Tag and length of a length-delimited field. */
static mtbal_status put_prefix(sink *s, uint32_t number, size_t length)
{
    unsigned char bytes[16];
    size_t n = 0;
    uint64_t parts[2] = {(uint64_t)number << 3 | 2, length};
    for (int i = 0; i < 2; i++) {
        for (; parts[i] >= 0x80; parts[i] >>= 7)
            bytes[n++] = (unsigned char)(parts[i] | 0x80);
        bytes[n++] = (unsigned char)parts[i];
    }
    return put(s, bytes, n);
}

static mtbal_status put_small(sink *s, const ProtobufCMessage *message, size_t size)
{
    if (size > STREAM_ABOVE - s->used)
        MTBAL_TRY(flush(s));
    s->used += protobuf_c_message_pack(message, s->buffer + s->used);
    return MTBAL_OK;
}

static mtbal_status put_message(sink *s, const ProtobufCMessage *message);

static mtbal_status put_sub(sink *s, uint32_t number, const ProtobufCMessage *part)
{
    MTBAL_TRY(put_prefix(s, number, protobuf_c_message_get_packed_size(part)));
    return put_message(s, part);
}

static size_t element_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
        return sizeof(char *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(ProtobufCMessage *);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

/* Any other field: a message that has only this one, packed by protobuf-c. */
static mtbal_status put_alone(sink *s, const ProtobufCMessage *message,
                              const ProtobufCFieldDescriptor *d)
{
    union {
        max_align_t align;
        unsigned char bytes[1024];
    } alone;
    ProtobufCMessage *copy = (ProtobufCMessage *)&alone;
    const unsigned char *from = (const unsigned char *)message;
    if (message->descriptor->sizeof_message > sizeof alone)
        return MTBAL_UNSUPPORTED;
    protobuf_c_message_init(message->descriptor, copy);
    bool repeated = d->label == PROTOBUF_C_LABEL_REPEATED;
    size_t size = repeated ? sizeof(void *) : element_size(d->type);
    memcpy(alone.bytes + d->offset, from + d->offset, size);
    if (d->quantifier_offset)
        memcpy(alone.bytes + d->quantifier_offset, from + d->quantifier_offset,
               repeated ? sizeof(size_t) : sizeof(int));
    size_t packed = protobuf_c_message_get_packed_size(copy);
    if (packed <= STREAM_ABOVE)
        return put_small(s, copy, packed);
    unsigned char *bytes = mtbal_malloc(packed); /* typed data of a large tensor, a long text */
    if (!bytes)
        return mtbal_no_memory(s->diag);
    protobuf_c_message_pack(copy, bytes);
    mtbal_status status = put(s, bytes, packed);
    mtbal_free(bytes);
    return status;
}

static mtbal_status put_field(sink *s, const ProtobufCMessage *message,
                              const ProtobufCFieldDescriptor *d)
{
    const unsigned char *at = (const unsigned char *)message;
    bool repeated = d->label == PROTOBUF_C_LABEL_REPEATED;
    bool one_of = d->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
    if (d->type == PROTOBUF_C_TYPE_MESSAGE && repeated) {
        size_t n = *(const size_t *)(at + d->quantifier_offset);
        ProtobufCMessage *const *list = *(ProtobufCMessage *const *const *)(at + d->offset);
        for (size_t i = 0; i < n; i++)
            MTBAL_TRY(put_sub(s, d->id, list[i]));
        return MTBAL_OK;
    }
    if (d->type == PROTOBUF_C_TYPE_MESSAGE && !one_of) {
        const ProtobufCMessage *part = *(const ProtobufCMessage *const *)(at + d->offset);
        return part ? put_sub(s, d->id, part) : MTBAL_OK;
    }
    if (d->type == PROTOBUF_C_TYPE_BYTES && !repeated && !one_of) {
        const ProtobufCBinaryData *bytes = (const ProtobufCBinaryData *)(at + d->offset);
        if (!*(const protobuf_c_boolean *)(at + d->quantifier_offset))
            return MTBAL_OK;
        MTBAL_TRY(put_prefix(s, d->id, bytes->len));
        return put(s, bytes->data, bytes->len);
    }
    return put_alone(s, message, d);
}

static mtbal_status put_message(sink *s, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size <= STREAM_ABOVE)
        return put_small(s, message, size);
    const ProtobufCMessageDescriptor *d = message->descriptor;
    for (unsigned i = 0; i < d->n_fields; i++)
        MTBAL_TRY(put_field(s, message, &d->fields[i]));
    ProtobufCMessage unknown = *message;
    for (unsigned i = 0; i < unknown.n_unknown_fields; i++) {
        const ProtobufCMessageUnknownField *f = &message->unknown_fields[i];
        unsigned char tag[8];
        size_t n = 0;
        uint64_t key = (uint64_t)f->tag << 3 | (uint64_t)f->wire_type;
        for (; key >= 0x80; key >>= 7)
            tag[n++] = (unsigned char)(key | 0x80);
        tag[n++] = (unsigned char)key;
        MTBAL_TRY(put(s, tag, n));
        MTBAL_TRY(put(s, f->data, f->len));
    }
    return MTBAL_OK;
}

static mtbal_status stream(const ProtobufCMessage *message, mtbal_writer *writer, mtbal_diag *diag)
{
    sink s = {writer, mtbal_malloc(STREAM_ABOVE), 0, diag};
    if (!s.buffer)
        return mtbal_no_memory(diag);
    mtbal_status status = put_message(&s, message);
    if (status == MTBAL_OK)
        status = flush(&s);
    mtbal_free(s.buffer);
    return status;
}

/* ------------------------------------------------------------------ what becomes external */

/* Appends to big the initializers of a graph, and its message, that shall leave the file. */
static void choose_of(const mtbal_graph *graph, const Onnx__GraphProto *g, bool made_only,
                      size_t *nbig, Onnx__TensorProto **big)
{
    size_t at = 0;
    for (int i = 0; i < graph->ninitializers; i++) {
        const mtbal_tensor *tensor = graph->initializers[i]->tensor;
        if (mtbal_is_sparse(tensor))
            continue;
        Onnx__TensorProto *t = g->initializer[at++];
        if (t->has_raw_data && t->raw_data.len > EXTERNAL_ABOVE && !(made_only && tensor->origin))
            big[(*nbig)++] = t;
    }
}

/* The initializers of the main graph and of its training steps that shall leave the file: those
 * made here when the model has external data already; all large ones when the file would pass
 * protobuf's 2 GB. */
static mtbal_status choose_big(const mtbal_model *model, const Onnx__ModelProto *message,
                               mtbal_arena *arena, size_t *nbig, Onnx__TensorProto ***big)
{
    const mtbal_origin *o = model->origin;
    bool had_external = o && mtbal_external_any(o->external);
    bool too_large = protobuf_c_message_get_packed_size(&message->base) > INT_MAX;
    size_t most = message->graph->n_initializer;
    *nbig = 0;
    *big = NULL;
    if (!had_external && !too_large)
        return MTBAL_OK;
    for (int i = 0; i < model->ntrainings; i++)
        if (model->trainings[i]->algorithm)
            most += message->training_info[i]->algorithm->n_initializer;
    *big = mtbal_arena_array(arena, most, sizeof **big);
    if (!*big)
        return MTBAL_NOMEM;
    choose_of(model->graph, message->graph, !too_large, nbig, *big);
    for (int i = 0; i < model->ntrainings; i++)
        if (model->trainings[i]->algorithm)
            choose_of(model->trainings[i]->algorithm, message->training_info[i]->algorithm,
                      !too_large, nbig, *big);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the two ways to write */

static mtbal_status check_size(const Onnx__ModelProto *message, const char *path, mtbal_diag *diag)
{
    size_t size = protobuf_c_message_get_packed_size(&message->base);
    if (size <= INT_MAX)
        return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_INVALID, path, "keep the weights as initializers",
                      "the model has %zu bytes outside of its initializers; a protobuf message has "
                      "at most 2 GB",
                      size);
}

static mtbal_status write_model(mtbal_model *model, const char *path, mtbal_arena *arena,
                                mtbal_relocation **relocation, mtbal_writer *writer,
                                mtbal_diag *diag)
{
    Onnx__ModelProto *message;
    Onnx__TensorProto **big;
    size_t nbig;
    const mtbal_origin *o = model->origin;
    bool changed;
    MTBAL_TRY(mtbal_build_model(model, arena, &message, &changed, diag));
    if (choose_big(model, message, arena, &nbig, &big) != MTBAL_OK)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_writer_open(writer, path, diag));
    MTBAL_TRY(mtbal_relocation_new(o ? o->external : NULL, &message->base, path, nbig, big,
                                   relocation, diag));
    MTBAL_TRY(check_size(message, path, diag));
    /* A file whose writer put fields in an order of its own keeps it while nothing is changed. */
    if (changed || *relocation || !o->file.data)
        MTBAL_TRY(stream(&message->base, writer, diag));
    else
        MTBAL_TRY(mtbal_writer_put(writer, o->file.data, o->file.size, diag));
    /* Both files are whole and on the disk before either gets its name. */
    MTBAL_TRY(mtbal_writer_seal(writer, diag));
    if (*relocation)
        MTBAL_TRY(mtbal_relocation_commit(*relocation, diag));
    MTBAL_TRY(mtbal_writer_commit(writer, diag));
    if (*relocation)
        mtbal_relocation_done(*relocation);
    return MTBAL_OK;
}

mtbal_status mtbal_onnx_write(mtbal_model *model, const char *path, mtbal_diag *diag)
{
    mtbal_diag own = {0};
    diag = diag ? diag : &own;
    mtbal_arena *arena = mtbal_arena_new();
    if (!arena)
        return mtbal_no_memory(diag);
    mtbal_relocation *relocation = NULL;
    mtbal_writer writer = {NULL, NULL, -1, MTBAL_OK};
    mtbal_status status = write_model(model, path, arena, &relocation, &writer, diag);
    mtbal_relocation_free(relocation);
    mtbal_writer_abort(&writer);
    mtbal_arena_free(arena);
    return status;
}

static mtbal_status pack_model(mtbal_model *model, mtbal_arena *arena, unsigned char **bytes,
                               size_t *size, mtbal_diag *diag)
{
    Onnx__ModelProto *message;
    bool changed;
    const mtbal_origin *o = model->origin;
    MTBAL_TRY(mtbal_build_model(model, arena, &message, &changed, diag));
    MTBAL_TRY(check_size(message, model->path, diag));
    bool as_read = !changed && o->file.data;
    *size = as_read ? o->file.size : protobuf_c_message_get_packed_size(&message->base);
    *bytes = mtbal_malloc(*size + 1);
    if (!*bytes)
        return mtbal_no_memory(diag);
    if (as_read)
        memcpy(*bytes, o->file.data, *size);
    else
        protobuf_c_message_pack(&message->base, *bytes);
    return MTBAL_OK;
}

mtbal_status mtbal_onnx_write_bytes(mtbal_model *model, unsigned char **bytes, size_t *size,
                                    mtbal_diag *diag)
{
    mtbal_arena *arena = mtbal_arena_new();
    *bytes = NULL;
    *size = 0;
    if (!arena)
        return mtbal_no_memory(diag);
    mtbal_status status = pack_model(model, arena, bytes, size, diag);
    mtbal_arena_free(arena);
    return status;
}
