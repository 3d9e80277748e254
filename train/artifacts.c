/* train/artifacts.c: the four files of an ONNX Runtime training session. */
#include "train/artifacts.h"

#include <string.h>

/* ------------------------------------------------------------------ writing */

/* What the message of a model holds, read again: a copy. */
static mtbal_status copy_model(mtbal_model *model, mtbal_model **copy, mtbal_diag *diag)
{
    unsigned char *bytes;
    size_t size;
    MTBAL_TRY(mtbal_onnx_write_bytes(model, &bytes, &size, diag));
    mtbal_status status = mtbal_onnx_read_bytes(bytes, size, model->path, copy, diag);
    mtbal_free(bytes);
    return status;
}

static const char *path_in(mtbal_model *model, const mtbal_folder *folder, const char *name)
{
    return mtbal_arena_printf(model->arena, "%s/%s", folder->temporary, name);
}

static mtbal_status write_model(mtbal_model *in, mtbal_model *model, const mtbal_folder *folder,
                                const char *name, mtbal_diag *diag)
{
    const char *path = path_in(in, folder, name);
    return path ? mtbal_onnx_write(model, path, diag) : mtbal_no_memory(diag);
}

static mtbal_array *arrays_of(mtbal_model *model, const mtbal_ort_state *states, int n)
{
    mtbal_array *arrays = mtbal_arena_array(model->arena, (size_t)n, sizeof *arrays);
    for (int i = 0; arrays && i < n; i++) {
        const mtbal_tensor *t = states[i].tensor;
        arrays[i] = (mtbal_array){.name = states[i].name,
                                  .dtype = t->dtype,
                                  .rank = t->rank,
                                  .dims = (int64_t *)(uintptr_t)t->dims,
                                  .count = t->count,
                                  .bytes = t->bytes,
                                  .data = (void *)(uintptr_t)t->data};
    }
    return arrays;
}

static mtbal_status write_checkpoint(mtbal_model *model, const mtbal_ort *ort,
                                     const mtbal_folder *folder, mtbal_diag *diag)
{
    mtbal_checkpoint c = {.ntrainable = ort->ntrainable,
                          .nfrozen = ort->nfrozen,
                          .trainable = arrays_of(model, ort->trainable, ort->ntrainable),
                          .frozen = arrays_of(model, ort->frozen, ort->nfrozen)};
    const char *path = path_in(model, folder, "checkpoint");
    if (!path || !c.trainable || !c.frozen)
        return mtbal_no_memory(diag);
    return mtbal_checkpoint_write(path, &c, diag);
}

static mtbal_status write_eval(mtbal_model *training, const mtbal_folder *folder, mtbal_diag *diag)
{
    mtbal_model *eval = NULL;
    mtbal_status status = copy_model(training, &eval, diag);
    if (status == MTBAL_OK)
        status = mtbal_ort_eval(eval, diag);
    if (status == MTBAL_OK)
        status = write_model(training, eval, folder, "eval_model.onnx", diag);
    mtbal_model_free(eval);
    return status;
}

static mtbal_status write_optimizer(mtbal_model *training, const mtbal_ort *ort,
                                    const mtbal_folder *folder, mtbal_diag *diag)
{
    mtbal_model *optimizer = NULL;
    mtbal_status status = mtbal_ort_optimizer(ort, &optimizer, diag);
    if (status == MTBAL_OK && optimizer)
        status = write_model(training, optimizer, folder, "optimizer_model.onnx", diag);
    mtbal_model_free(optimizer);
    return status;
}

static mtbal_status write_all(mtbal_model *model, const mtbal_ort *ort, const mtbal_folder *folder,
                              mtbal_diag *diag)
{
    MTBAL_TRY(write_model(model, model, folder, "training_model.onnx", diag));
    MTBAL_TRY(write_eval(model, folder, diag));
    MTBAL_TRY(write_optimizer(model, ort, folder, diag));
    return write_checkpoint(model, ort, folder, diag);
}

mtbal_status mtbal_artifacts_write(mtbal_model *model, const mtbal_options *options,
                                   const char *path, mtbal_context **context, mtbal_diag *diag)
{
    mtbal_ort ort;
    mtbal_folder folder;
    MTBAL_TRY(mtbal_ort_begin(model, options, &ort, diag));
    MTBAL_TRY(mtbal_rewrite(model, &ort.rewrite, context, diag));
    MTBAL_TRY(mtbal_ort_training(*context, &ort));
    MTBAL_TRY(mtbal_folder_open(&folder, path, diag));
    mtbal_status status = write_all(model, &ort, &folder, diag);
    if (status == MTBAL_OK)
        status = mtbal_folder_commit(&folder, diag);
    mtbal_folder_abort(&folder);
    return status;
}

/* ------------------------------------------------------------------ reading back */

static mtbal_status restore(mtbal_model *model, const mtbal_array *arrays, int n, mtbal_diag *diag)
{
    for (int i = 0; i < n; i++) {
        const mtbal_array *a = &arrays[i];
        mtbal_tensor *tensor = mtbal_tensor_new(model, a->dtype, a->rank, a->dims, a->data);
        if (!tensor)
            return mtbal_no_memory(diag);
        MTBAL_TRY(mtbal_ort_restore(model, a->name, tensor, diag));
    }
    return MTBAL_OK;
}

mtbal_status mtbal_artifacts_load(mtbal_model *model, const char *path, mtbal_diag *diag)
{
    mtbal_checkpoint *c;
    MTBAL_TRY(mtbal_checkpoint_read(path, &c, diag));
    mtbal_status status = restore(model, c->trainable, c->ntrainable, diag);
    if (status == MTBAL_OK)
        status = restore(model, c->frozen, c->nfrozen, diag);
    if (status == MTBAL_OK)
        status = mtbal_ort_restored(model, diag);
    mtbal_checkpoint_free(c);
    return status;
}
