/* passes/states.c: states and their bindings, inputs and outputs of ours, metadata. */
#include "passes/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mtbal_pass_builder(const mtbal_context *c, mtbal_builder *b, const char *prefix,
                        const char *role, const char *task)
{
    mtbal_builder_init(b, c->graph, NULL, c->diag);
    b->prefix = prefix;
    b->role = role;
    b->task = task;
    if (prefix) /* the caller's buffer may go: names are made at once, but keep it safe */
        b->prefix = mtbal_intern(c->model->arena, prefix);
}

mtbal_dtype mtbal_float_type(const mtbal_context *c)
{
    return c->tasks[0].loss->type.dtype;
}

bool mtbal_weights_guarded(const mtbal_context *c)
{
    return !strcmp(c->options->balance, "calibrated");
}

static mtbal_value *find_input(const mtbal_graph *graph, const char *name)
{
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (!strcmp(graph->inputs[i]->name, name))
            return graph->inputs[i];
    return NULL;
}

mtbal_value *mtbal_state_new(mtbal_context *c, const char *name, mtbal_dtype dtype, int rank,
                             const int64_t *dims, double fill)
{
    mtbal_tensor *t = mtbal_tensor_new(c->model, dtype, rank, dims, NULL);
    mtbal_value *v = t ? mtbal_value_new(c->graph, name) : NULL;
    if (!v)
        return NULL;
    for (int64_t i = 0; i < t->count && fill != 0; i++)
        mtbal_tensor_set_f64(t, i, fill);
    if (mtbal_add_initializer(c->graph, v, t) != MTBAL_OK ||
        mtbal_add_input(c->graph, v) != MTBAL_OK)
        return NULL;
    return v;
}

mtbal_value *mtbal_hyper(mtbal_context *c, const char *name, double otherwise)
{
    char full[128];
    snprintf(full, sizeof full, "mtbal/%s", name);
    mtbal_value *have = find_input(c->graph, full);
    for (int i = 0; i < c->options->nset; i++)
        if (!strcmp(c->options->set[i].name, name) || !strcmp(c->options->set[i].name, full))
            otherwise = strtod(c->options->set[i].value, NULL);
    return have ? have : mtbal_state_new(c, full, mtbal_float_type(c), 0, NULL, otherwise);
}

mtbal_status mtbal_state_bind(mtbal_context *c, mtbal_value *state, mtbal_value *next)
{
    if (!state || !next)
        return mtbal_no_memory(c->diag);
    mtbal_state *longer = c->states;
    if (!(c->nstates & (c->nstates - 1))) { /* full at powers of two */
        longer = mtbal_arena_array(c->model->arena, c->nstates ? 2 * (size_t)c->nstates : 1,
                                   sizeof *longer);
        if (!longer)
            return mtbal_no_memory(c->diag);
        if (c->nstates)
            memcpy(longer, c->states, (size_t)c->nstates * sizeof *longer);
    }
    longer[c->nstates++] = (mtbal_state){state, next};
    c->states = longer;
    return MTBAL_OK;
}

mtbal_status mtbal_output_as(mtbal_context *c, mtbal_value *value, const char *name)
{
    mtbal_node *node = value ? mtbal_node_new(c->graph, NULL, "", "Identity", 1, &value, 0) : NULL;
    mtbal_value *out = node ? mtbal_value_new(c->graph, name) : NULL;
    if (!out || mtbal_node_set_output(node, 0, out) != MTBAL_OK ||
        mtbal_add_output(c->graph, out) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    out->type = value->type;
    node->name = out->name;
    node->role = "output";
    return MTBAL_OK;
}

/* Running statistics of BatchNormalization in training: what the node gives out replaces what it
 * reads. */
static mtbal_status running_statistics(mtbal_context *c)
{
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        if (!mtbal_node_is(node, "BatchNormalization") || !mtbal_attr_i(node, "training_mode", 0) ||
            node->nin < 5)
            continue;
        for (int i = 1; i < 3; i++) {
            mtbal_value *state = node->in[2 + i];
            if (!state || !state->is_initializer)
                continue;
            if (i >= node->nout || !node->out[i]) {
                const char *name = mtbal_fresh_name(c->model, "mtbal/running");
                MTBAL_TRY(
                    mtbal_node_set_output(node, i, name ? mtbal_value_new(c->graph, name) : NULL));
            }
            bool bound = false;
            for (int k = 0; k < c->nstates; k++)
                bound = bound || c->states[k].value == state;
            if (!node->out[i])
                return mtbal_no_memory(c->diag);
            node->out[i]->type = state->type;
            if (!bound)
                MTBAL_TRY(mtbal_state_bind(c, state, node->out[i]));
        }
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_states(mtbal_context *c)
{
    MTBAL_TRY(running_statistics(c));
    for (int i = 0; i < c->nstates; i++) {
        char name[600];
        mtbal_value *state = c->states[i].value;
        if (!state->is_input && mtbal_add_input(c->graph, state) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
        snprintf(name, sizeof name, "mtbal/next/%s", state->name);
        MTBAL_TRY(mtbal_output_as(c, c->states[i].next, name));
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_weights(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_value *total = NULL;
    const mtbal_method *method = mtbal_methods;
    mtbal_pass_builder(c, &b, "mtbal/weight/", "weight", NULL);
    while (method->name && strcmp(method->name, c->options->balance))
        method++;
    if (!method->name)
        return mtbal_fail(c->diag, MTBAL_USAGE, "--balance",
                          "choose from calibrated, equal (or give --weights)",
                          "there is no method '%s'", c->options->balance);
    c->weights = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *c->weights);
    if (!c->weights)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(method->weights(c, &b));
    for (int i = 0; i < c->ntasks; i++) {
        char name[256];
        const int64_t *none = NULL;
        mtbal_value *loss = c->tasks[i].loss,
                    *w = mtbal_emit_cast(&b, c->weights[i], loss->type.dtype);
        mtbal_value *part = loss->type.rank == 0
                                ? loss
                                : mtbal_emit_reshape(&b, loss, mtbal_const_i64s(&b, 0, none));
        if (mtbal_weights_guarded(c)) {
            mtbal_value *zero = mtbal_const_scalar(&b, loss->type.dtype, 0);
            part = mtbal_emit(&b, "Where", mtbal_emit(&b, "Greater", w, zero), part, zero);
        }
        part = mtbal_emit_cast(&b, mtbal_emit(&b, "Mul", w, part), mtbal_float_type(c));
        total = total ? mtbal_emit(&b, "Add", total, part) : part;
        snprintf(name, sizeof name, "mtbal/weight/%s", c->tasks[i].name);
        MTBAL_TRY(b.status);
        MTBAL_TRY(mtbal_output_as(c, c->weights[i], name));
    }
    return mtbal_output_as(c, total, "mtbal/loss");
}

/* ------------------------------------------------------------------ metadata */

typedef struct text {
    char *bytes;
    size_t used, capacity;
} text;

static void put(text *t, const char *s, bool quoted)
{
    size_t most = 6 * strlen(s) + 3;
    if (t->used + most > t->capacity) {
        size_t capacity = 2 * (t->used + most);
        char *bigger = mtbal_realloc(t->bytes, capacity);
        if (!bigger) {
            t->capacity = 0;
            return;
        }
        t->bytes = bigger;
        t->capacity = capacity;
    }
    char *to = t->bytes + t->used;
    if (quoted)
        *to++ = '"';
    for (; *s; s++) {
        if (quoted && (unsigned char)*s < 0x20) {
            to += sprintf(to, "\\u%04x", (unsigned char)*s);
            continue;
        }
        if (quoted && (*s == '"' || *s == '\\'))
            *to++ = '\\';
        *to++ = *s;
    }
    if (quoted)
        *to++ = '"';
    *to = 0;
    t->used = (size_t)(to - t->bytes);
}

static mtbal_status set_and_free(mtbal_context *c, const char *key, text *t)
{
    mtbal_status status = t->capacity ? mtbal_property_set(c->model, key, t->bytes) : MTBAL_NOMEM;
    mtbal_free(t->bytes);
    *t = (text){0};
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}

mtbal_status mtbal_pass_metadata(mtbal_context *c)
{
    text t = {0};
    put(&t, "{", false);
    for (int i = 0; i < c->ntasks; i++) {
        put(&t, i ? "," : "", false);
        put(&t, c->tasks[i].name, true);
        put(&t, ":", false);
        put(&t, c->tasks[i].loss->name, true);
    }
    put(&t, "}", false);
    MTBAL_TRY(set_and_free(c, "mtbal.tasks", &t));
    put(&t, "[", false);
    for (int i = 0; i < c->nparams; i++) {
        put(&t, i ? "," : "", false);
        put(&t, c->params[i].value->name, true);
    }
    put(&t, "]", false);
    MTBAL_TRY(set_and_free(c, "mtbal.params", &t));
    put(&t, "{", false);
    for (int i = 0; i < c->nstates; i++) {
        char name[600];
        snprintf(name, sizeof name, "mtbal/next/%s", c->states[i].value->name);
        put(&t, i ? "," : "", false);
        put(&t, c->states[i].value->name, true);
        put(&t, ":", false);
        put(&t, name, true);
    }
    put(&t, "}", false);
    MTBAL_TRY(set_and_free(c, "mtbal.state", &t));
    if (mtbal_property_set(c->model, "mtbal.version", "1") != MTBAL_OK ||
        mtbal_property_set(c->model, "mtbal.balance", c->options->balance) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    return MTBAL_OK;
}
