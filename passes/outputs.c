/* passes/outputs.c: names, inputs and outputs of ours; the metadata. */
#include "passes/internal.h"

#include <string.h>

void mtbal_pass_builder(const mtbal_context *c, mtbal_builder *b, const char *prefix,
                        const char *role, const char *task)
{
    mtbal_builder_init(b, c->graph, NULL, c->diag);
    b->role = role;
    b->task = task;
    b->prefix =
        task ? mtbal_arena_printf(c->model->arena, "%s%s/", prefix, task) : prefix; /* NULL: none */
}

bool mtbal_is_ours(const char *name)
{
    return !strncmp(name, "mtbal/", 6);
}

bool mtbal_is_listed(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

mtbal_status mtbal_own_name(mtbal_context *c, const char *prefix, const char *name,
                            const char **result)
{
    const char *full = mtbal_arena_printf(c->model->arena, "%s%s", prefix, name);
    const char *wanted = full ? mtbal_intern(c->model->arena, full) : NULL;
    const char *fresh = wanted ? mtbal_fresh_name(c->model, wanted) : NULL;
    if (!fresh)
        return mtbal_no_memory(c->diag);
    if (fresh != wanted)
        return mtbal_fail(c->diag, MTBAL_INVALID, c->model->path,
                          "names beginning with mtbal/ belong to mtbal: rename it",
                          "the model has a value named %s already", wanted);
    *result = wanted;
    return MTBAL_OK;
}

mtbal_status mtbal_output_as(mtbal_context *c, mtbal_value *value, const char *prefix,
                             const char *name)
{
    const char *full;
    MTBAL_TRY(mtbal_own_name(c, prefix, name, &full));
    mtbal_node *node = value ? mtbal_node_new(c->graph, NULL, "", "Identity", 1, &value, 0) : NULL;
    mtbal_value *out = node ? mtbal_value_new(c->graph, full) : NULL;
    if (!out || mtbal_node_set_output(node, 0, out) != MTBAL_OK ||
        mtbal_add_output(c->graph, out) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    out->type = value->type;
    node->name = out->name;
    node->role = "output";
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ what a step shows */

static mtbal_status output_norms(mtbal_context *c)
{
    const mtbal_measured *m = c->measured;
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_builder b;
        mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", c->tasks[i].name);
        mtbal_value *norm = mtbal_emit(&b, "Gather", m->norms, mtbal_const_i64(&b, i));
        MTBAL_TRY(b.status);
        MTBAL_TRY(mtbal_output_as(c, norm, "mtbal/grad_norm/", c->tasks[i].name));
    }
    return mtbal_output_as(c, m->cosines, "mtbal/", "cosine");
}

static mtbal_status output_task_gradients(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "gradient", NULL);
    for (int t = 0; t < c->ntasks; t++)
        for (int p = 0; p < c->nparams; p++) {
            size_t at = (size_t)t * (size_t)c->nparams + (size_t)p;
            mtbal_value *g = c->measured->task_gradients[at], *v = c->params[p].value;
            const char *prefix =
                mtbal_arena_printf(c->model->arena, "mtbal/task_grad/%s/", c->tasks[t].name);
            g = g ? g : mtbal_emit_fill_like(&b, v, 0);
            if (!prefix)
                return mtbal_no_memory(c->diag);
            MTBAL_TRY(b.status);
            MTBAL_TRY(mtbal_output_as(c, g, prefix, v->name));
        }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_outputs(mtbal_context *c)
{
    unsigned want = c->options->outputs;
    MTBAL_TRY(mtbal_output_as(c, c->total, "mtbal/", "loss"));
    for (int i = 0; i < c->ntasks; i++)
        MTBAL_TRY(mtbal_output_as(c, c->weights[i], "mtbal/weight/", c->tasks[i].name));
    if (want & MTBAL_OUT_NORMS)
        MTBAL_TRY(output_norms(c));
    if (want & MTBAL_OUT_GRAM)
        MTBAL_TRY(mtbal_output_as(c, c->measured->gram, "mtbal/", "gram"));
    return want & MTBAL_OUT_TASK_GRADS ? output_task_gradients(c) : MTBAL_OK;
}

/* ------------------------------------------------------------------ metadata: flat JSON */

static void put_quoted(mtbal_text *t, const char *s)
{
    char escaped[8];
    mtbal_text_put(t, "\"", 1);
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20)
            mtbal_text_put(t, escaped,
                           (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)*s));
        else if (*s == '"' || *s == '\\')
            mtbal_text_put(t, (char[]){'\\', *s}, 2);
        else
            mtbal_text_put(t, s, 1);
    }
    mtbal_text_put(t, "\"", 1);
}

/* One element of an array (value NULL) or an object. */
static void put_entry(mtbal_text *t, const char *name, const char *value)
{
    if (t->used > 1)
        mtbal_text_put(t, ",", 1);
    put_quoted(t, name);
    if (value) {
        mtbal_text_put(t, ":", 1);
        put_quoted(t, value);
    }
}

mtbal_status mtbal_set_entries(mtbal_model *model, const char *key, bool object, int n,
                               const mtbal_property *entries, mtbal_diag *diag)
{
    mtbal_text t = {0};
    mtbal_text_put(&t, object ? "{" : "[", 1);
    for (int i = 0; i < n; i++)
        put_entry(&t, entries[i].key, object ? entries[i].value : NULL);
    mtbal_text_put(&t, object ? "}" : "]", 1);
    mtbal_status status = t.failed ? MTBAL_NOMEM : mtbal_property_set(model, key, t.bytes);
    mtbal_free(t.bytes);
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}

static mtbal_status set_names(mtbal_context *c, const char *key, const char *const *names, int n)
{
    mtbal_property *entries = mtbal_arena_array(c->model->arena, (size_t)n, sizeof *entries);
    for (int i = 0; entries && i < n; i++)
        entries[i].key = names[i];
    return entries ? mtbal_set_entries(c->model, key, false, n, entries, c->diag)
                   : mtbal_no_memory(c->diag);
}

/* Tasks, parameters and states; what the graph took and gave before, for the way back. */
mtbal_status mtbal_pass_metadata(mtbal_context *c)
{
    size_t most = (size_t)(c->ntasks + c->nparams + c->nstates);
    mtbal_property *list = mtbal_arena_array(c->model->arena, most, sizeof *list);
    int shared = 0;
    if (!list)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->ntasks; i++)
        list[i] = (mtbal_property){c->tasks[i].name, c->tasks[i].loss->name};
    MTBAL_TRY(mtbal_set_entries(c->model, "mtbal.tasks", true, c->ntasks, list, c->diag));
    for (int i = 0; i < c->nparams; i++)
        list[i] = (mtbal_property){c->params[i].value->name, NULL};
    MTBAL_TRY(mtbal_set_entries(c->model, "mtbal.params", false, c->nparams, list, c->diag));
    for (int i = 0; i < c->nparams; i++)
        if (mtbal_is_shared(c, c->params[i].reach))
            list[shared++].key = c->params[i].value->name;
    MTBAL_TRY(mtbal_set_entries(c->model, "mtbal.shared", false, shared, list, c->diag));
    for (int i = 0; i < c->nstates; i++)
        list[i] = (mtbal_property){c->states[i].value->name, c->states[i].output->name};
    MTBAL_TRY(mtbal_set_entries(c->model, "mtbal.state", true, c->nstates, list, c->diag));
    MTBAL_TRY(set_names(c, "mtbal.inputs", c->inputs, c->ninputs));
    MTBAL_TRY(set_names(c, "mtbal.outputs", c->outputs, c->noutputs));
    if (mtbal_property_set(c->model, "mtbal.version", "1") != MTBAL_OK ||
        mtbal_property_set(c->model, "mtbal.balance", c->options->balance) != MTBAL_OK ||
        mtbal_property_set(c->model, "mtbal.optimizer", c->options->optimizer) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    if (c->method->scaled &&
        mtbal_property_set(c->model, "mtbal.scale", c->options->scale) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    return MTBAL_OK;
}
