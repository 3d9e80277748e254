/* onnxio/proto.h: what the files of onnxio/ share and nobody else sees: protobuf-c's messages, and
 * the state behind a model that was read. */
#ifndef MTBAL_ONNXIO_PROTO_H
#define MTBAL_ONNXIO_PROTO_H

#include "onnx/onnx.pb-c.h"
#include "onnxio/onnxio.h"

/* Fields that are younger than the oldest onnx.proto that this program builds with. */
enum {
    ONNX_NODE_OVERLOAD = 8,
    ONNX_NODE_METADATA = 9,
    ONNX_FUNCTION_ATTRIBUTE_PROTO = 11,
    ONNX_FUNCTION_OVERLOAD = 13,
};

/* ------------------------------------------------------------------ scan.c */

mtbal_status mtbal_scan(const ProtobufCMessageDescriptor *descriptor, const unsigned char *bytes,
                        size_t size, const char *path, mtbal_diag *diag);

/* ------------------------------------------------------------------ proto.c */

extern ProtobufCAllocator mtbal_proto_allocator; /* routes to mtbal_malloc and mtbal_free */

/* Scans, then unpacks. NULL after a diagnostic. */
ProtobufCMessage *mtbal_proto_unpack(const ProtobufCMessageDescriptor *descriptor,
                                     const unsigned char *bytes, size_t size, const char *path,
                                     mtbal_diag *diag);

/* Contents of a length-delimited unknown field. NULL when it is none. */
const unsigned char *mtbal_proto_bytes(const ProtobufCMessageUnknownField *field, size_t *length);
/* Fields by number, whether this build's onnx.proto knows them or not. A string (interned, "" when
 * absent); setting one; appending one message to a repeated field; and a visit of every message of
 * a repeated field (`made`: it was unpacked for this visit, and now belongs to the visitor). */
mtbal_status mtbal_proto_string(const ProtobufCMessage *message, unsigned number,
                                mtbal_arena *arena, const char **text);
mtbal_status mtbal_proto_add_string(ProtobufCMessage *message, unsigned number, const char *text,
                                    mtbal_arena *arena);
mtbal_status mtbal_proto_add_message(ProtobufCMessage *message, unsigned number,
                                     ProtobufCMessage *part, mtbal_arena *arena);
typedef mtbal_status mtbal_message_visit(ProtobufCMessage *part, bool made, void *context);
mtbal_status mtbal_proto_each(ProtobufCMessage *message, unsigned number,
                              const ProtobufCMessageDescriptor *type, mtbal_message_visit *visit,
                              void *context);

/* Calls visit for every TensorProto below `message`, itself included. Stops at the first error. */
typedef mtbal_status mtbal_tensor_visit(Onnx__TensorProto *tensor, void *context);
mtbal_status mtbal_proto_tensors(ProtobufCMessage *message, mtbal_tensor_visit *visit,
                                 void *context);

/* ------------------------------------------------------------------ types.c */

mtbal_status mtbal_type_from_proto(mtbal_model *model, const Onnx__TypeProto *proto,
                                   mtbal_type *type);
/* The dimension names of the inputs' declarations that have become numbers. */
typedef struct mtbal_symbols {
    size_t count;
    const char **names;
} mtbal_symbols;
mtbal_status mtbal_bound_symbols(const mtbal_graph *graph, mtbal_arena *arena,
                                 mtbal_symbols *bound);
/* Does the declaration still hold? What inference found beyond it does not matter: a declared name
 * is a name for whatever the size is, unless it was bound. */
bool mtbal_type_declared(const Onnx__TypeProto *proto, const mtbal_type *type,
                         const mtbal_symbols *bound);
Onnx__TypeProto *mtbal_type_to_proto(const mtbal_type *type, mtbal_arena *arena);

/* ------------------------------------------------------------------ convert.c */

bool mtbal_proto_is_external(const Onnx__TensorProto *proto);
/* Bytes that shape and type need; SIZE_MAX for strings and unknown types. */
mtbal_status mtbal_proto_tensor_bytes(const Onnx__TensorProto *proto, size_t *bytes,
                                      mtbal_diag *diag);
/* The tensor of a TensorProto that lives as long as the model. */
mtbal_status mtbal_tensor_from_proto(mtbal_model *model, Onnx__TensorProto *proto,
                                     mtbal_tensor **tensor, mtbal_diag *diag);
mtbal_status mtbal_tensor_from_sparse(mtbal_model *model, Onnx__SparseTensorProto *proto,
                                      mtbal_tensor **tensor, mtbal_diag *diag);
mtbal_status mtbal_sparse_load(mtbal_model *model, mtbal_tensor *tensor, mtbal_diag *diag);
/* Raw data borrowed from the tensor; strings as they are. */
Onnx__TensorProto *mtbal_tensor_to_proto(const mtbal_tensor *tensor, const char *name,
                                         mtbal_arena *arena);

/* ------------------------------------------------------------------ external.c */

typedef struct mtbal_external mtbal_external; /* the external files of a model */
/* One range of one external file. */
typedef struct mtbal_range {
    int file;
    int64_t offset, length;
} mtbal_range;

mtbal_external *mtbal_external_new(const char *model_path);
bool mtbal_external_any(const mtbal_external *external); /* has the model external data at all */
void mtbal_external_free(mtbal_external *external);
/* Checks every external TensorProto below `message` against its file. */
mtbal_status mtbal_external_check(mtbal_external *external, ProtobufCMessage *message,
                                  mtbal_diag *diag);
/* The range of a tensor that passed the check. */
mtbal_status mtbal_external_range(mtbal_external *external, const Onnx__TensorProto *proto,
                                  mtbal_range *range, mtbal_diag *diag);
/* Maps the range; *bytes stays valid as long as the model. */
mtbal_status mtbal_external_map(mtbal_external *external, const mtbal_range *range,
                                const unsigned char **bytes, mtbal_diag *diag);

/* ------------------------------------------------------------------ relocate.c */

/* External data on its way to a new place. Between _new and _free the tensors of the message point
 * there. */
typedef struct mtbal_relocation mtbal_relocation;
/* Finds what cannot stay where it is when `message` is written to `path`, and writes it to
 * `<path>.data`: external ranges whose file is not beside `path`, or is about to be replaced; and
 * the raw data of `big`, tensors of the message that shall be external. *relocation is NULL when
 * nothing moves. external NULL: the model was made here. */
mtbal_status mtbal_relocation_new(mtbal_external *external, ProtobufCMessage *message,
                                  const char *path, size_t nbig, Onnx__TensorProto **big,
                                  mtbal_relocation **relocation, mtbal_diag *diag);
/* Gives the data file its name: right before the model gets its own. _done says that the model has
 * it; _free without that gives the name back to the file that had it. */
mtbal_status mtbal_relocation_commit(mtbal_relocation *relocation, mtbal_diag *diag);
void mtbal_relocation_done(mtbal_relocation *relocation);
void mtbal_relocation_free(mtbal_relocation *relocation);

/* ------------------------------------------------------------------ read.c */

/* Behind model->origin. */
typedef struct mtbal_origin {
    mtbal_file file; /* what the model was read from; unmapped when it was read from memory */
    Onnx__ModelProto *proto;
    mtbal_external *external;
    Onnx__AttributeProto **unpacked; /* defaults of function attributes, from unknown fields */
    size_t nunpacked;
    mtbal_model *model;
} mtbal_origin;

#endif
