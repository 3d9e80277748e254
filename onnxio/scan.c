/* onnxio/scan.c: the wire format, checked before protobuf-c unpacks it.
 *
 * protobuf-c has no recursion limit (9,000 levels in 30 KB overflow the stack), merges repeated
 * singular messages in quadratic time, cuts strings at an embedded NUL, and turns two bytes into
 * an object of 200. The scan walks the bytes along protobuf-c's own descriptors, so that it knows
 * the fields that the unpacker will meet, and refuses all of that in one linear pass. */
#include "onnxio/proto.h"

#include <limits.h>
#include <string.h>

enum {
    MAX_DEPTH = 100,       /* as libprotobuf */
    MAX_FIELD = 536870911, /* 2^29 - 1 */
    BLOCK_OVERHEAD = 16,   /* of malloc, and rounding */
    SCANNED_MEMBER = 64,   /* protobuf-c's note of one field while it unpacks a message */
    MEMORY_PER_BYTE = 32,  /* a legitimate model needs less: at most 24 in attributes alone */
    MEMORY_FREE = 64 << 20,
    MAX_MESSAGES = 64000000, /* nodes, values, attributes and their like */
};

typedef struct scan {
    const char *path;
    const unsigned char *begin;
    size_t kept, limit, messages; /* memory that the unpacked model takes, and may take */
    mtbal_diag *diag;
} scan;

typedef struct field {
    uint32_t number;
    unsigned wire;
    const unsigned char *data; /* of a length-delimited field: its contents */
    size_t size;
} field;

static mtbal_status refuse(scan *s, const unsigned char *at, const char *what)
{
    return mtbal_fail(s->diag, MTBAL_INVALID, s->path,
                      "the file is damaged or no ONNX model; get it again from its exporter",
                      "%s at byte %zu", what, (size_t)(at - s->begin));
}

/* A varint of at most `max` bytes. NULL: truncated or overlong. */
static const unsigned char *varint(const unsigned char *p, const unsigned char *end, int max,
                                   uint64_t *value)
{
    uint64_t v = 0;
    for (int i = 0; i < max && p < end; i++) {
        unsigned char c = *p++;
        if (i == 9 && c > 1)
            return NULL;
        v |= (uint64_t)(c & 0x7f) << (7 * i);
        if (!(c & 0x80)) {
            *value = v;
            return p;
        }
    }
    return NULL;
}

/* Reads one field; NULL after a diagnostic. */
static const unsigned char *next_field(scan *s, const unsigned char *p, const unsigned char *end,
                                       field *f)
{
    const unsigned char *start = p;
    uint64_t tag, value;
    p = varint(p, end, 5, &tag);
    if (!p || tag >> 3 == 0 || tag >> 3 > MAX_FIELD) {
        refuse(s, start, "bad field number");
        return NULL;
    }
    *f = (field){(uint32_t)(tag >> 3), (unsigned)(tag & 7), p, 0};
    size_t rest = (size_t)(end - p);
    switch (f->wire) {
    case 0:
        f->data = p = varint(p, end, 10, &value);
        break;
    case 1:
        p = rest >= 8 ? p + 8 : NULL;
        break;
    case 5:
        p = rest >= 4 ? p + 4 : NULL;
        break;
    case 2:
        p = varint(p, end, 5, &value);
        if (p && value <= (uint64_t)(end - p) && value < INT_MAX) {
            f->data = p;
            f->size = (size_t)value;
            p += f->size;
        } else {
            p = NULL;
        }
        break;
    default:
        refuse(s, start, "a group or unknown wire type");
        return NULL;
    }
    if (!p)
        refuse(s, start, "a truncated or overlong field");
    return p;
}

/* Well-formed UTF-8 without NUL: no surrogates, no overlong forms, nothing above U+10FFFF. */
static bool is_text(const unsigned char *p, size_t size, bool any_bytes)
{
    const unsigned char *end = p + size;
    while (p < end) {
        unsigned c = *p++;
        if (c == 0)
            return false;
        if (c < 0x80 || any_bytes)
            continue;
        int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || end - p < more)
            return false;
        unsigned first = *p;
        if ((c == 0xE0 && first < 0xA0) || (c == 0xED && first > 0x9F) ||
            (c == 0xF0 && first < 0x90) || (c == 0xF4 && first > 0x8F))
            return false;
        for (; more > 0; more--)
            if ((*p++ & 0xC0) != 0x80)
                return false;
    }
    return true;
}

/* Bytes of one element in memory, and the wire type of one element outside of a packed field. */
static size_t scalar_size(ProtobufCType type, unsigned *wire)
{
    switch (type) {
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
        *wire = 1;
        return 8;
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
        *wire = 5;
        return 4;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
        *wire = 0;
        return 8;
    default:
        *wire = 0;
        return 4;
    }
}

static mtbal_status keep(scan *s, const unsigned char *at, size_t bytes)
{
    s->kept += bytes;
    if (s->kept > s->limit)
        return refuse(s, at, "more objects than a model of this size can hold");
    return MTBAL_OK;
}

static mtbal_status scan_packed(scan *s, const field *f, unsigned wire, size_t size)
{
    const unsigned char *p = f->data, *end = p + f->size;
    if (wire != 0) {
        if (f->size % size)
            return refuse(s, p, "a packed field of a broken size");
        return keep(s, p, f->size);
    }
    size_t count = 0;
    for (uint64_t value; p && p < end; count++)
        p = varint(p, end, 10, &value);
    if (!p)
        return refuse(s, f->data, "a truncated or overlong number");
    return keep(s, f->data, count * size);
}

static mtbal_status scan_scalar(scan *s, const ProtobufCFieldDescriptor *d, const field *f)
{
    unsigned wire;
    size_t size = scalar_size(d->type, &wire);
    if (f->wire == wire)
        return d->label == PROTOBUF_C_LABEL_REPEATED ? keep(s, f->data, size) : MTBAL_OK;
    if (f->wire == 2 && d->label == PROTOBUF_C_LABEL_REPEATED)
        return scan_packed(s, f, wire, size);
    return refuse(s, f->data, "a field of the wrong wire type");
}

static mtbal_status scan_string(scan *s, const ProtobufCFieldDescriptor *d, const field *f)
{
    if (f->wire != 2)
        return refuse(s, f->data, "a field of the wrong wire type");
    bool doc = strcmp(d->name, "doc_string") == 0;
    if (d->type == PROTOBUF_C_TYPE_STRING && !is_text(f->data, f->size, doc))
        return refuse(s, f->data, "a name or text with a NUL or invalid UTF-8 in it");
    return keep(s, f->data, f->size + 1 + BLOCK_OVERHEAD + sizeof(ProtobufCBinaryData));
}

static mtbal_status scan_message(scan *s, const ProtobufCMessageDescriptor *d,
                                 const unsigned char *p, const unsigned char *end, int depth);

/* What an older onnx.proto does not know and this program reads by hand: the defaults of a
 * function's attributes, and the overload of nodes and functions. */
static mtbal_status scan_unknown(scan *s, const ProtobufCMessageDescriptor *d, const field *f,
                                 int depth)
{
    MTBAL_TRY(keep(s, f->data, f->size + sizeof(ProtobufCMessageUnknownField) + BLOCK_OVERHEAD));
    if (f->wire != 2)
        return MTBAL_OK;
    if (d == &onnx__function_proto__descriptor && f->number == ONNX_FUNCTION_ATTRIBUTE_PROTO) {
        MTBAL_TRY(keep(s, f->data, sizeof(Onnx__AttributeProto)));
        return scan_message(s, &onnx__attribute_proto__descriptor, f->data, f->data + f->size,
                            depth + 1);
    }
    bool overload =
        (d == &onnx__function_proto__descriptor && f->number == ONNX_FUNCTION_OVERLOAD) ||
        (d == &onnx__node_proto__descriptor && f->number == ONNX_NODE_OVERLOAD);
    if (overload && !is_text(f->data, f->size, false))
        return refuse(s, f->data, "a name or text with a NUL or invalid UTF-8 in it");
    return MTBAL_OK;
}

static mtbal_status scan_field(scan *s, const ProtobufCMessageDescriptor *d, const field *f,
                               uint64_t *seen, int depth)
{
    const ProtobufCFieldDescriptor *fd =
        protobuf_c_message_descriptor_get_field(d, (unsigned)f->number);
    if (!fd)
        return scan_unknown(s, d, f, depth);
    if (fd->type == PROTOBUF_C_TYPE_STRING || fd->type == PROTOBUF_C_TYPE_BYTES)
        return scan_string(s, fd, f);
    if (fd->type != PROTOBUF_C_TYPE_MESSAGE)
        return scan_scalar(s, fd, f);
    if (f->wire != 2)
        return refuse(s, f->data, "a field of the wrong wire type");
    if (fd->label != PROTOBUF_C_LABEL_REPEATED) {
        uint64_t bit = f->number < 64 ? (uint64_t)1 << f->number : 0;
        if (*seen & bit)
            return refuse(s, f->data, "a message that may occur once and occurs twice");
        *seen |= bit;
    }
    const ProtobufCMessageDescriptor *sub = fd->descriptor;
    MTBAL_TRY(keep(s, f->data, sub->sizeof_message + BLOCK_OVERHEAD + sizeof(void *)));
    if (++s->messages > MAX_MESSAGES)
        return refuse(s, f->data, "more nodes, values or attributes than this program handles");
    return scan_message(s, sub, f->data, f->data + f->size, depth + 1);
}

static mtbal_status scan_message(scan *s, const ProtobufCMessageDescriptor *d,
                                 const unsigned char *p, const unsigned char *end, int depth)
{
    if (depth > MAX_DEPTH)
        return refuse(s, p, "messages nested deeper than 100 levels");
    uint64_t seen = 0;
    size_t notes = 0;
    while (p < end) {
        field f;
        p = next_field(s, p, end, &f);
        if (!p)
            return MTBAL_INVALID;
        notes += SCANNED_MEMBER;
        MTBAL_TRY(keep(s, f.data, SCANNED_MEMBER));
        MTBAL_TRY(scan_field(s, d, &f, &seen, depth));
    }
    s->kept -= notes; /* gone once the message is unpacked */
    return MTBAL_OK;
}

mtbal_status mtbal_scan(const ProtobufCMessageDescriptor *descriptor, const unsigned char *bytes,
                        size_t size, const char *path, mtbal_diag *diag)
{
    if (size == 0)
        return mtbal_fail(diag, MTBAL_INVALID, path, NULL, "the file is empty");
    if (size > INT_MAX)
        return mtbal_fail(diag, MTBAL_INVALID, path, "store the weights as external data",
                          "the file has %zu bytes; a protobuf message has at most 2 GB", size);
    scan s = {path, bytes, 0, 0, 0, diag};
    s.limit = size * MEMORY_PER_BYTE + MEMORY_FREE;
    return scan_message(&s, descriptor, bytes, bytes + size, 1);
}

mtbal_status mtbal_scan_model(const unsigned char *bytes, size_t size, const char *path,
                              mtbal_diag *diag)
{
    return mtbal_scan(&onnx__model_proto__descriptor, bytes, size, path, diag);
}
