/* train/artifacts.c: the four files of an ONNX Runtime training session. */
#include "train/artifacts.h"

#include "lower/lower.h"

#include <string.h>

/* ------------------------------------------------------------------ copies, paths, arrays */

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

/* A model, and beside it its data if they are external. */
static mtbal_status write_model(mtbal_model *in, mtbal_model *model, mtbal_bundle *bundle,
                                const char *name, mtbal_diag *diag)
{
    const char *path, *data = mtbal_arena_printf(in->arena, "%s.data", name);
    if (!data)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_bundle_add(bundle, data, &data, diag));
    MTBAL_TRY(mtbal_bundle_add(bundle, name, &path, diag));
    return mtbal_onnx_write(model, path, diag);
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

/* ------------------------------------------------------------------ properties */

/* Of the checkpoint: G and the weight of each task. */
typedef struct properties {
    mtbal_model *model;
    int n;
    mtbal_checkpoint_property *list;
} properties;

static void add_property(properties *p, const char *name, double value)
{
    p->list[p->n++] = (mtbal_checkpoint_property){name, (float)value};
}

/* The model's outputs are the weights, and it has no inputs. */
static mtbal_status run_weights(properties *p, mtbal_model *model, mtbal_diag *diag)
{
    mtbal_plan *plan = NULL;
    mtbal_instance *instance = NULL;
    const mtbal_lower_options all = {.noutputs = -1};
    mtbal_diag why = {0};
    mtbal_status status = mtbal_lower(model, &all, &plan, &why);
    if (status == MTBAL_UNSUPPORTED) /* our runtime cannot tell: then there are none */
        return MTBAL_OK;
    if (status == MTBAL_OK)
        status = mtbal_instance_new(plan, 1, &instance, diag);
    if (status == MTBAL_OK)
        status = mtbal_instance_run_alone(instance, 0, p->model->path, diag);
    for (int i = 0; status == MTBAL_OK && i < p->model->graph->noutputs; i++) {
        const char *name = p->model->graph->outputs[i]->name;
        const rt_tensor *w = mtbal_instance_output(instance, name);
        if (w && rt_count(w) == 1)
            add_property(p, name, ((const float *)w->data)[0]);
    }
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    return status == MTBAL_NOMEM ? mtbal_no_memory(diag) : status;
}

/* What is left of the model when it gives the weights only. */
static mtbal_status keep_weights(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    for (int i = graph->noutputs - 1; i >= 0; i--)
        if (strncmp(graph->outputs[i]->name, "mtbal/weight/", 13))
            mtbal_remove_output(graph, graph->outputs[i]);
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    const mtbal_uses *uses = mtbal_uses_new(model, graph, model->arena);
    if (!uses)
        return mtbal_no_memory(diag);
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (!uses->count[graph->inputs[i]->id])
            mtbal_remove_input(graph, graph->inputs[i]);
    return MTBAL_OK;
}

/* The weights, where they follow from the calibration alone. */
static mtbal_status list_weights(properties *p, const mtbal_ort *ort, mtbal_diag *diag)
{
    mtbal_model *copy = NULL;
    mtbal_status status = copy_model(p->model, &copy, diag);
    for (int i = 0; status == MTBAL_OK && i < ort->nfrozen; i++)
        status = mtbal_ort_restore(copy, ort->frozen[i].name, ort->frozen[i].tensor, diag);
    if (status == MTBAL_OK)
        status = keep_weights(copy, diag);
    if (status == MTBAL_OK && copy->graph->ninputs == 0)
        status = run_weights(p, copy, diag);
    mtbal_model_free(copy);
    return status;
}

static mtbal_status list_properties(properties *p, const mtbal_ort *ort, mtbal_diag *diag)
{
    size_t room = (size_t)ort->nfrozen + (size_t)p->model->graph->noutputs;
    p->list = mtbal_arena_array(p->model->arena, room, sizeof *p->list);
    if (!p->list)
        return mtbal_no_memory(diag);
    for (int i = 0; i < ort->nfrozen; i++)
        if (!strncmp(ort->frozen[i].name, "mtbal/calibration/", 18))
            add_property(p, ort->frozen[i].name, mtbal_tensor_f64(ort->frozen[i].tensor, 0));
    return list_weights(p, ort, diag);
}

/* ------------------------------------------------------------------ the four files */

static mtbal_status write_checkpoint(mtbal_model *model, const mtbal_ort *ort, mtbal_bundle *bundle,
                                     mtbal_diag *diag)
{
    properties p = {.model = model};
    MTBAL_TRY(list_properties(&p, ort, diag));
    mtbal_checkpoint c = {.version = ort->checkpoint_version,
                          .nproperties = p.n,
                          .properties = p.list,
                          .ntrainable = ort->ntrainable,
                          .nfrozen = ort->nfrozen,
                          .trainable = arrays_of(model, ort->trainable, ort->ntrainable),
                          .frozen = arrays_of(model, ort->frozen, ort->nfrozen)};
    const char *path;
    if (!c.trainable || !c.frozen)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_bundle_add(bundle, "checkpoint", &path, diag));
    return mtbal_checkpoint_write(path, &c, diag);
}

static mtbal_status write_eval(mtbal_model *training, mtbal_bundle *bundle, mtbal_diag *diag)
{
    mtbal_model *eval = NULL;
    mtbal_status status = copy_model(training, &eval, diag);
    if (status == MTBAL_OK)
        status = mtbal_ort_eval(eval, diag);
    if (status == MTBAL_OK)
        status = write_model(training, eval, bundle, "eval_model.onnx", diag);
    mtbal_model_free(eval);
    return status;
}

static mtbal_status write_optimizer(mtbal_model *training, const mtbal_ort *ort,
                                    mtbal_bundle *bundle, mtbal_diag *diag)
{
    mtbal_model *optimizer = NULL;
    mtbal_status status = mtbal_ort_optimizer(ort, &optimizer, diag);
    if (status == MTBAL_OK && optimizer)
        status = write_model(training, optimizer, bundle, "optimizer_model.onnx", diag);
    mtbal_model_free(optimizer);
    return status;
}

static mtbal_status write_all(mtbal_model *model, const mtbal_ort *ort, mtbal_bundle *bundle,
                              mtbal_diag *diag)
{
    MTBAL_TRY(write_model(model, model, bundle, "training_model.onnx", diag));
    MTBAL_TRY(write_eval(model, bundle, diag));
    MTBAL_TRY(write_optimizer(model, ort, bundle, diag));
    return write_checkpoint(model, ort, bundle, diag);
}

mtbal_status mtbal_artifacts_write(mtbal_model *model, const mtbal_options *options,
                                   const char *path, mtbal_context **context, mtbal_diag *diag)
{
    mtbal_bundle bundle;
    mtbal_diag own = {0}; /* the context keeps it beyond mtbal_rewrite */
    mtbal_ort *ort = mtbal_arena_alloc(model->arena, sizeof *ort); /* and this beyond us */
    diag = diag ? diag : &own;
    if (!ort)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_ort_begin(model, options, ort, diag));
    MTBAL_TRY(mtbal_rewrite(model, &ort->rewrite, context, diag));
    MTBAL_TRY(mtbal_ort_training(*context, ort));
    MTBAL_TRY(mtbal_bundle_open(&bundle, path, diag));
    mtbal_status status = write_all(model, ort, &bundle, diag);
    if (status == MTBAL_OK)
        status = mtbal_bundle_commit(&bundle, diag);
    mtbal_bundle_abort(&bundle);
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
    if (!mtbal_is_training_model(model))
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "name a training_model.onnx",
                          "a checkpoint belongs to a model of --target ort-training; this is none");
    MTBAL_TRY(mtbal_checkpoint_read(path, &c, diag));
    mtbal_status status = restore(model, c->trainable, c->ntrainable, diag);
    if (status == MTBAL_OK)
        status = restore(model, c->frozen, c->nfrozen, diag);
    if (status == MTBAL_OK)
        status = mtbal_ort_restored(model, diag);
    mtbal_checkpoint_free(c);
    return status;
}
