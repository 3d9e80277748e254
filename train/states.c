/* train/states.c: a step graph and its states apart: the states as arrays of their own, named as in
 * the graph, for training loops in other runtimes; and such arrays back into the graph. */
#include "train/artifacts.h"

#include <string.h>

static bool listed(const mtbal_list *list, const char *name)
{
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->names[i], name))
            return true;
    return false;
}

static mtbal_status list_states(const mtbal_model *model, mtbal_list *states, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", model->arena, states, diag));
    return states->count
               ? MTBAL_OK
               : mtbal_fail(diag, MTBAL_USAGE, model->path, "rewrite it into a step graph first",
                            "the model has no states");
}

/* A state, or a hyper-parameter of ours. */
static bool is_fed(const mtbal_list *states, const mtbal_value *v)
{
    return v->is_input && (!strncmp(v->name, "mtbal/", 6) || listed(states, v->name));
}

/* ------------------------------------------------------------------ out of the graph */

static mtbal_status take(mtbal_model *model, mtbal_value *v, mtbal_array *to, mtbal_diag *diag)
{
    const mtbal_tensor *t = v->tensor;
    MTBAL_TRY(mtbal_tensor_load(model, v->tensor, diag));
    *to = (mtbal_array){.name = v->name,
                        .dtype = t->dtype,
                        .rank = t->rank,
                        .dims = (int64_t *)(uintptr_t)t->dims,
                        .count = t->count,
                        .bytes = t->bytes,
                        .data = (void *)(uintptr_t)t->data};
    mtbal_remove_initializer(model->graph, v);
    v->tensor = NULL;
    return MTBAL_OK;
}

mtbal_status mtbal_states_split(mtbal_model *model, const char *path, mtbal_writer *writer,
                                mtbal_diag *diag)
{
    mtbal_list states;
    mtbal_graph *graph = model->graph;
    int n = 0;
    MTBAL_TRY(list_states(model, &states, diag));
    mtbal_array *arrays =
        mtbal_arena_array(model->arena, (size_t)graph->ninitializers + 1, sizeof *arrays);
    if (!arrays)
        return mtbal_no_memory(diag);
    for (int i = graph->ninitializers - 1; i >= 0; i--)
        if (is_fed(&states, graph->initializers[i]))
            MTBAL_TRY(take(model, graph->initializers[i], &arrays[n++], diag));
    if (!n)
        return mtbal_fail(diag, MTBAL_USAGE, model->path, "name the step graph that it was made of",
                          "the model holds no states: they are plain inputs already");
    return mtbal_npz_prepare(path, n, arrays, false, writer, diag);
}

/* ------------------------------------------------------------------ into the graph */

static bool fits(const mtbal_array *a, const mtbal_type *type)
{
    bool same =
        type->kind == MTBAL_TENSOR && type->dtype == (mtbal_dtype)a->dtype && type->rank == a->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = type->dims[i].size == a->dims[i];
    return same;
}

static mtbal_status put(mtbal_model *model, const mtbal_list *states, const mtbal_array *a,
                        const char *path, mtbal_diag *diag)
{
    mtbal_value *v = mtbal_value_find(model->graph, a->name);
    if (!v || !is_fed(states, v))
        return mtbal_fail(diag, MTBAL_INVALID, path,
                          "name its arrays as in the model's mtbal.state", "%s has no state %.200s",
                          model->path, a->name);
    if (!fits(a, &v->type))
        return mtbal_fail(diag, MTBAL_INVALID, path, "name the states of this model",
                          "%.200s has another shape or type in %s", a->name, model->path);
    mtbal_tensor *tensor = mtbal_tensor_new(model, a->dtype, a->rank, a->dims, a->data);
    if (!tensor)
        return mtbal_no_memory(diag);
    if (v->is_initializer)
        v->tensor = tensor;
    else if (mtbal_add_initializer(model->graph, v, tensor) != MTBAL_OK)
        return mtbal_no_memory(diag);
    return MTBAL_OK;
}

static mtbal_status put_all(mtbal_model *model, const mtbal_npz *npz, const char *path,
                            mtbal_diag *diag)
{
    mtbal_list states;
    MTBAL_TRY(list_states(model, &states, diag));
    for (int i = 0; i < npz->count; i++)
        MTBAL_TRY(put(model, &states, &npz->arrays[i], path, diag));
    for (int i = 0; i < states.count; i++)
        if (strncmp(states.names[i], "mtbal/", 6) && !mtbal_npz_find(npz, states.names[i]))
            return mtbal_fail(diag, MTBAL_INVALID, path, "save every state",
                              "the state %.200s is missing", states.names[i]);
    return MTBAL_OK;
}

mtbal_status mtbal_states_load(mtbal_model *model, const char *path, mtbal_diag *diag)
{
    mtbal_npz *npz;
    MTBAL_TRY(mtbal_npz_read(path, &npz, diag));
    mtbal_status status = put_all(model, npz, path, diag);
    mtbal_npz_free(npz);
    return status;
}
