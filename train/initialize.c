/* train/initialize.c: a model as before its first step: runs the initialization graphs of its
 * training_info, in their order, and puts what they give into the states that
 * initialization_binding names. */
#include "train/session.h"

#include <string.h>

static mtbal_status assign(const mtbal_training *t, mtbal_instance *from, mtbal_instance *to,
                           const char *path, mtbal_diag *diag)
{
    for (int i = 0; i < t->ninits; i++) {
        const rt_tensor *start = mtbal_instance_output(from, t->inits[i].value);
        rt_tensor *state = mtbal_instance_state(to, t->inits[i].key);
        if (!state)
            continue; /* nothing that is asked for depends on it */
        if (!start || start->dtype != state->dtype || rt_count(start) != rt_count(state))
            return mtbal_fail(diag, MTBAL_INVALID, path, NULL,
                              "initialization_binding: %s and %s differ in type or size",
                              t->inits[i].key, t->inits[i].value);
        memcpy(state->data, start->data, (size_t)rt_count(state) * rt_dtype_size(state->dtype));
    }
    return MTBAL_OK;
}

static mtbal_status run_one(mtbal_model *model, const mtbal_training *t, uint64_t seed,
                            mtbal_instance *to, mtbal_diag *diag)
{
    mtbal_plan *plan = NULL;
    mtbal_instance *instance = NULL;
    model->graph = t->initialization;
    mtbal_status status = mtbal_verify(model, diag);
    if (status == MTBAL_OK)
        status = mtbal_infer_graph(model->graph, diag);
    if (status == MTBAL_OK)
        status = mtbal_lower(model, NULL, &plan, diag);
    if (status == MTBAL_OK)
        status = mtbal_instance_new(plan, 1, &instance, diag);
    if (status == MTBAL_OK)
        status = mtbal_instance_run_alone(instance, seed, model->path, diag);
    if (status == MTBAL_OK)
        status = assign(t, instance, to, model->path, diag);
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    return status;
}

mtbal_status train_initialize(const mtbal_session *session, mtbal_instance *to, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    bool any = false;
    MTBAL_TRY(mtbal_onnx_read(session->path, &model, diag));
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < model->ntrainings && status == MTBAL_OK; i++)
        if (model->trainings[i]->initialization) {
            any = true;
            status = run_one(model, model->trainings[i],
                             session->options.initialize_seed + (uint64_t)i, to, diag);
        }
    if (status == MTBAL_OK && !any)
        status = mtbal_fail(diag, MTBAL_USAGE, session->path, "leave --initialize out",
                            "the model has no initialization in its training_info");
    mtbal_model_free(model);
    return status;
}
