/* train/store.c: calibrations into step graphs. */
#include "train/calibrate.h"

#include "passes/passes.h"

#include <string.h>

mtbal_status mtbal_calibration_store(const char *from, const char *to,
                                     const mtbal_calibrate_options *options, int count,
                                     const mtbal_calibration *results, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    MTBAL_TRY(mtbal_onnx_read(from, &model, diag));
    mtbal_status status = options->scale ? mtbal_rescale(model, options->scale, diag) : MTBAL_OK;
    for (int i = 0; i < count && status == MTBAL_OK; i++) {
        char name[512];
        snprintf(name, sizeof name, "mtbal/calibration/%s", results[i].task);
        mtbal_value *value = mtbal_initializer_find(model, name);
        if (!value) {
            status =
                mtbal_fail(diag, MTBAL_INVALID, from, "rewrite the model with --balance calibrated",
                           "the step graph has no state %s", name);
            break;
        }
        mtbal_tensor *tensor = mtbal_tensor_new(model, value->tensor->dtype, value->tensor->rank,
                                                value->tensor->dims, NULL);
        if (!tensor) {
            status = mtbal_no_memory(diag);
            break;
        }
        mtbal_tensor_set_f64(tensor, 0, results[i].g);
        value->tensor = tensor;
    }
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, to, diag);
    mtbal_model_free(model);
    return status;
}

/* The trainings read the step graph from a file: one in a folder of its own, so that its external
 * data, if any, are not taken for those of `to`. */
mtbal_status mtbal_calibrate_model(mtbal_model *model, const char *to,
                                   const mtbal_calibrate_options *options, mtbal_arena *arena,
                                   mtbal_calibration **results, int *count,
                                   mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
    mtbal_bundle bundle;
    mtbal_calibrate_options o = *options;
    const char *beside = mtbal_arena_printf(arena, "%s.calibration", to);
    if (!beside)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_bundle_open(&bundle, beside, diag));
    const char *data;
    mtbal_status status = mtbal_bundle_add(&bundle, "step.onnx", &o.model, diag);
    if (status == MTBAL_OK)
        status = mtbal_bundle_add(&bundle, "step.onnx.data", &data, diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, o.model, diag);
    if (status == MTBAL_OK)
        status = mtbal_calibrate(&o, arena, results, count, on_epoch, context, diag);
    if (status == MTBAL_OK)
        status = mtbal_calibration_store(o.model, to, &o, *count, *results, diag);
    if (status != MTBAL_OK && o.model && !strcmp(diag->where, o.model))
        snprintf(diag->where, sizeof diag->where, "%s", to);
    mtbal_bundle_abort(&bundle);
    return status;
}
