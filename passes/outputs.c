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

/* ------------------------------------------------------------------ metadata: flat JSON */

typedef struct text {
    char *bytes;
    size_t used, capacity;
    bool failed;
} text;

static void put(text *t, const char *s, size_t n)
{
    if (t->used + n + 1 > t->capacity && !t->failed) {
        size_t capacity = 2 * (t->used + n + 1);
        char *bigger = mtbal_realloc(t->bytes, capacity);
        t->failed = !bigger;
        if (bigger) {
            t->bytes = bigger;
            t->capacity = capacity;
        }
    }
    if (t->failed)
        return;
    memcpy(t->bytes + t->used, s, n);
    t->used += n;
    t->bytes[t->used] = 0;
}

static void put_quoted(text *t, const char *s)
{
    char escaped[8];
    put(t, "\"", 1);
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20)
            put(t, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)*s));
        else if (*s == '"' || *s == '\\')
            put(t, (char[]){'\\', *s}, 2);
        else
            put(t, s, 1);
    }
    put(t, "\"", 1);
}

/* One element of an array (value NULL) or an object. */
static void put_entry(text *t, const char *name, const char *value)
{
    if (t->used > 1)
        put(t, ",", 1);
    put_quoted(t, name);
    if (value) {
        put(t, ":", 1);
        put_quoted(t, value);
    }
}

static mtbal_status set_property(mtbal_context *c, const char *key, text *t, const char *close)
{
    put(t, close, 1);
    mtbal_status status = t->failed ? MTBAL_NOMEM : mtbal_property_set(c->model, key, t->bytes);
    mtbal_free(t->bytes);
    *t = (text){0};
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}

static mtbal_status set_names(mtbal_context *c, const char *key, const char *const *names, int n)
{
    text t = {0};
    put(&t, "[", 1);
    for (int i = 0; i < n; i++)
        put_entry(&t, names[i], NULL);
    return set_property(c, key, &t, "]");
}

/* Tasks, parameters and states; what the graph took and gave before, for the way back. */
mtbal_status mtbal_pass_metadata(mtbal_context *c)
{
    text t = {0};
    put(&t, "{", 1);
    for (int i = 0; i < c->ntasks; i++)
        put_entry(&t, c->tasks[i].name, c->tasks[i].loss->name);
    MTBAL_TRY(set_property(c, "mtbal.tasks", &t, "}"));
    put(&t, "[", 1);
    for (int i = 0; i < c->nparams; i++)
        put_entry(&t, c->params[i].value->name, NULL);
    MTBAL_TRY(set_property(c, "mtbal.params", &t, "]"));
    put(&t, "[", 1);
    for (int i = 0; i < c->nparams; i++)
        if (c->params[i].reach & (c->params[i].reach - 1)) /* two tasks or more */
            put_entry(&t, c->params[i].value->name, NULL);
    MTBAL_TRY(set_property(c, "mtbal.shared", &t, "]"));
    put(&t, "{", 1);
    for (int i = 0; i < c->nstates; i++)
        put_entry(&t, c->states[i].value->name, c->states[i].output->name);
    MTBAL_TRY(set_property(c, "mtbal.state", &t, "}"));
    MTBAL_TRY(set_names(c, "mtbal.inputs", c->inputs, c->ninputs));
    MTBAL_TRY(set_names(c, "mtbal.outputs", c->outputs, c->noutputs));
    if (mtbal_property_set(c->model, "mtbal.version", "1") != MTBAL_OK ||
        mtbal_property_set(c->model, "mtbal.balance", c->options->balance) != MTBAL_OK ||
        mtbal_property_set(c->model, "mtbal.optimizer", c->options->optimizer) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    return MTBAL_OK;
}
