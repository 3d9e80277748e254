/* passes/ort/names.c: names that a training session would take for gradients. */
#include "passes/ort/ort.h"

#include <string.h>

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

bool ort_is_gradient(const char *name)
{
    return ends_with(name, ORT_GRAD) || ends_with(name, ORT_BUFFER) || ends_with(name, ORT_OUT);
}

/* A session would hide it. */
static mtbal_status check_name(const mtbal_context *c, const char *what, const char *name)
{
    if (!ort_is_gradient(name))
        return MTBAL_OK;
    return mtbal_fail(c->diag, MTBAL_INVALID, name, "rename it in the model",
                      "the %s %.200s: ONNX Runtime's training sessions take names that end in "
                      "_grad, _grad.accumulation.buffer or _grad.accumulation.out for gradients",
                      what, name);
}

mtbal_status ort_check_names(const mtbal_context *c)
{
    for (int i = 0; i < c->nparams; i++)
        MTBAL_TRY(check_name(c, "parameter", c->params[i].value->name));
    for (int i = 0; i < c->ninputs; i++)
        MTBAL_TRY(check_name(c, "input", c->inputs[i]));
    for (int i = 0; i < c->graph->noutputs; i++)
        MTBAL_TRY(check_name(c, "output", c->graph->outputs[i]->name));
    for (int i = 0; i < c->nstates; i++)
        MTBAL_TRY(check_name(c, "state", c->states[i].value->name));
    return MTBAL_OK;
}

mtbal_status ort_value(const mtbal_context *c, const char *name, const char *end,
                       const mtbal_type *type, mtbal_value **value)
{
    mtbal_arena *arena = c->model->arena;
    const char *full = mtbal_arena_printf(arena, "%s%s", name, end);
    const char *own = full ? mtbal_intern(arena, full) : NULL;
    const char *fresh = own ? mtbal_fresh_name(c->model, own) : NULL;
    *value = NULL;
    if (fresh && fresh != own)
        return mtbal_fail(c->diag, MTBAL_INVALID, own, "rename it in the model",
                          "the model has a value of the name %.200s, which ONNX Runtime's training "
                          "sessions need for something else",
                          own);
    *value = fresh ? mtbal_value_new(c->graph, own) : NULL;
    if (!*value)
        return mtbal_no_memory(c->diag);
    (*value)->type = *type;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ nodes */

typedef struct namer {
    mtbal_model *model;
    int count;
} namer;

static mtbal_status name_node(mtbal_node *node, void *context)
{
    namer *n = context;
    if (node->name && *node->name)
        return MTBAL_OK;
    const char *name = mtbal_arena_printf(n->model->arena, "unnamed/%s_%d", node->op, ++n->count);
    node->name = name ? mtbal_intern(n->model->arena, name) : NULL;
    return node->name ? MTBAL_OK : MTBAL_NOMEM;
}

mtbal_status ort_name_nodes(mtbal_context *c)
{
    namer n = {c->model, 0};
    mtbal_status status = mtbal_graph_walk(c->graph, name_node, &n);
    for (int i = 0; i < c->model->nfunctions && status == MTBAL_OK; i++)
        status = mtbal_graph_walk(c->model->functions[i]->body, name_node, &n);
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}
