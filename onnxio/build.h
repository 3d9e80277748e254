/* onnxio/build.h: the message of a model, for write.c. */
#ifndef MTBAL_ONNXIO_BUILD_H
#define MTBAL_ONNXIO_BUILD_H

#include "onnxio/proto.h"

/* A ModelProto over the parts of the one that was read. Valid while model and arena live. Dense
 * initializers of the main graph are in the order of the graph. *changed: it differs from what was
 * read. */
mtbal_status mtbal_build_model(mtbal_model *model, mtbal_arena *arena, Onnx__ModelProto **message,
                               bool *changed, mtbal_diag *diag);
bool mtbal_is_sparse(const mtbal_tensor *tensor); /* was it read from a SparseTensorProto */
#endif
