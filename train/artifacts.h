/* train/artifacts.h: models in the form of other runtimes' training: what more than one folder
 * below has a hand in. */
#ifndef MTBAL_TRAIN_ARTIFACTS_H
#define MTBAL_TRAIN_ARTIFACTS_H

#include "onnxio/onnxio.h"
#include "passes/passes.h"

/* Rewrites the model and writes training_model.onnx, eval_model.onnx, optimizer_model.onnx and
 * checkpoint into `folder`: all, or none. The context tells what was found. */
mtbal_status mtbal_artifacts_write(mtbal_model *model, const mtbal_options *options,
                                   const char *folder, mtbal_context **context, mtbal_diag *diag);
/* The states of a checkpoint become initializers of a training or evaluation model again. The
 * tensors lie in the model. */
mtbal_status mtbal_artifacts_load(mtbal_model *model, const char *checkpoint, mtbal_diag *diag);

/* states.c: states and hyper-parameters of a step graph, which are initializers and also inputs.
 * split makes them plain inputs, for runtimes that feed no others, and writes their values to an
 * npz, which is whole when `writer` is committed: after the model is written. load puts the arrays
 * of an npz, named as the states, back into either form: all must be there but mtbal's own
 * (moments, calibrations); refused: what is no state, or of another shape or type. */
mtbal_status mtbal_states_split(mtbal_model *model, const char *path, mtbal_writer *writer,
                                mtbal_diag *diag);
mtbal_status mtbal_states_load(mtbal_model *model, const char *path, mtbal_diag *diag);

#endif
