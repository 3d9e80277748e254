/* passes/ort/restore.c: the way back: parameters out of a checkpoint become initializers again. */
#include "passes/ort/ort.h"

#include <string.h>

bool mtbal_is_training_model(const mtbal_model *model)
{
    const char *target = mtbal_property_get(model, "mtbal.target");
    return target && !strcmp(target, "ort-training");
}

static mtbal_status of_another(const mtbal_model *model, const char *what, const char *name,
                               mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_INVALID, model->path, "name the checkpoint of this model",
                      "the checkpoint is of another model: %s %.200s", what, name);
}

mtbal_status mtbal_ort_restore(mtbal_model *model, const char *name, mtbal_tensor *tensor,
                               mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_value *v = NULL;
    for (int i = 0; i < graph->ninputs && !v; i++)
        if (!strcmp(graph->inputs[i]->name, name))
            v = graph->inputs[i];
    if (!v)
        return of_another(model, "the model has no input of the name", name, diag);
    bool fits = v->type.kind == MTBAL_TENSOR && v->type.dtype == tensor->dtype &&
                (v->type.rank < 0 || v->type.rank == tensor->rank);
    for (int i = 0; fits && i < v->type.rank; i++)
        fits = v->type.dims[i].size < 0 || v->type.dims[i].size == tensor->dims[i];
    if (!fits)
        return of_another(model, "it has another shape or type for", name, diag);
    mtbal_remove_input(graph, v);
    return mtbal_add_initializer(graph, v, tensor) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}

/* What a state's input or a parameter still waits for. */
mtbal_status mtbal_ort_restored(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_list params;
    MTBAL_TRY(mtbal_property_list(model, "mtbal.params", model->arena, &params, diag));
    for (int i = 0; i < model->graph->ninputs; i++)
        for (int k = 0; k < params.count; k++)
            if (!strcmp(model->graph->inputs[i]->name, params.names[k]))
                return of_another(model, "it lacks", params.names[k], diag);
    return MTBAL_OK;
}
