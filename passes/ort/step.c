/* passes/ort/step.c: artifacts of a step graph: of a calibrated one, or one that was trained. */
#include "passes/ort/ort.h"

#include <string.h>

struct ort_step {
    const char *tasks, *params, *balance; /* metadata, as text */
    int nstates;
    mtbal_ort_state *states; /* initializers mtbal/... */
};

static const char *property(const mtbal_model *model, const char *key)
{
    const char *value = mtbal_property_get(model, key);
    return value ? value : "";
}

mtbal_status ort_unwind(mtbal_model *model, mtbal_ort *ort, mtbal_diag *diag)
{
    const mtbal_graph *graph = model->graph;
    if (!mtbal_property_get(model, "mtbal.state"))
        return MTBAL_OK;
    struct ort_step *step = mtbal_arena_alloc(model->arena, sizeof *step);
    if (!step)
        return mtbal_no_memory(diag);
    *step = (struct ort_step){property(model, "mtbal.tasks"), property(model, "mtbal.params"),
                              property(model, "mtbal.balance"), 0, NULL};
    step->states =
        mtbal_arena_array(model->arena, (size_t)graph->ninitializers, sizeof *step->states);
    if (!step->states)
        return mtbal_no_memory(diag);
    for (int i = 0; i < graph->ninitializers; i++) {
        mtbal_value *v = graph->initializers[i];
        if (!strncmp(v->name, "mtbal/", 6))
            step->states[step->nstates++] = (mtbal_ort_state){v->name, v->tensor};
    }
    ort->step = step;
    return mtbal_original(model, diag);
}

static bool is_set(const mtbal_options *given, const char *name)
{
    for (int i = 0; i < given->nset; i++)
        if (!strcmp(given->set[i].name, name) || !strcmp(given->set[i].name, name + 6))
            return true;
    return false;
}

static bool same_shape(const mtbal_tensor *a, const mtbal_tensor *b)
{
    return a->dtype == b->dtype && a->rank == b->rank &&
           (!a->rank || !memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims));
}

static mtbal_status made_with(const mtbal_context *c, const char *option, const char *key,
                              const char *was)
{
    const char *is = property(c->model, key);
    if (!strcmp(is, was))
        return MTBAL_OK;
    return mtbal_fail(
        c->diag, MTBAL_USAGE, c->model->path, option,
        "give the options that the step graph was made with: %s was %.150s, now it is "
        "%.150s",
        key, was, is);
}

mtbal_status ort_carry_over(mtbal_context *c, const mtbal_ort *ort)
{
    const struct ort_step *step = ort->step;
    if (!step)
        return MTBAL_OK;
    MTBAL_TRY(made_with(c, "--task, --loss", "mtbal.tasks", step->tasks));
    MTBAL_TRY(made_with(c, "--train, --freeze", "mtbal.params", step->params));
    MTBAL_TRY(made_with(c, "--balance", "mtbal.balance", step->balance));
    for (int i = 0; i < c->graph->ninitializers; i++) {
        mtbal_value *v = c->graph->initializers[i];
        for (int k = 0; k < step->nstates; k++)
            if (!strcmp(v->name, step->states[k].name) && !is_set(ort->given, v->name) &&
                same_shape(v->tensor, step->states[k].tensor))
                v->tensor = step->states[k].tensor;
    }
    return MTBAL_OK;
}
