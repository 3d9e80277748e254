/* passes/states.c: states: initializers that are also inputs, each bound to its next value. */
#include "passes/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

mtbal_dtype mtbal_float_type(const mtbal_context *c)
{
    for (int i = 0; i < c->ntasks; i++)
        if (c->tasks[i].loss->type.dtype == MTBAL_DOUBLE)
            return MTBAL_DOUBLE;
    return MTBAL_FLOAT;
}

/* Zeros that all large states share until the model is written: moments are as large as the model.
 */
static const void *shared_zeros(mtbal_context *c, size_t bytes)
{
    size_t most = bytes;
    for (int p = 0; p < c->nparams; p++) {
        const mtbal_tensor *t = c->params[p].value->tensor;
        most = t && t->bytes > most ? t->bytes : most;
    }
    if (bytes > c->nzeros) {
        c->zeros = mtbal_arena_alloc(c->model->arena, most);
        c->nzeros = c->zeros ? most : 0;
    }
    return c->zeros;
}

static mtbal_tensor *state_tensor(mtbal_context *c, mtbal_dtype dtype, int rank,
                                  const int64_t *dims, double fill)
{
    enum { SMALL = 4096 };
    mtbal_tensor *t = mtbal_arena_alloc(c->model->arena, sizeof *t);
    size_t bytes = mtbal_dtype_size(dtype);
    for (int i = 0; i < rank; i++)
        if (!mtbal_mul_size(bytes, (size_t)dims[i], &bytes))
            return NULL;
    if (fill != 0 || bytes <= SMALL || !t) {
        t = mtbal_tensor_new(c->model, dtype, rank, dims, NULL);
        for (int64_t i = 0; t && i < t->count && fill != 0; i++)
            mtbal_tensor_set_f64(t, i, fill);
        return t;
    }
    *t = (mtbal_tensor){.dtype = dtype,
                        .rank = rank,
                        .dims = dims,
                        .count = (int64_t)(bytes / mtbal_dtype_size(dtype)),
                        .bytes = bytes,
                        .data = shared_zeros(c, bytes)};
    return t->data ? t : NULL;
}

mtbal_value *mtbal_state_new(mtbal_context *c, const char *prefix, const char *name,
                             mtbal_dtype dtype, int rank, const int64_t *dims, double fill)
{
    const char *full;
    if (mtbal_own_name(c, prefix, name, &full) != MTBAL_OK)
        return NULL;
    mtbal_tensor *t = state_tensor(c, dtype, rank, dims, fill);
    mtbal_value *v = t ? mtbal_value_new(c->graph, full) : NULL;
    if (!v || mtbal_add_initializer(c->graph, v, t) != MTBAL_OK ||
        mtbal_add_input(c->graph, v) != MTBAL_OK) {
        mtbal_no_memory(c->diag);
        return NULL;
    }
    return v;
}

mtbal_value *mtbal_hyper(mtbal_context *c, const char *name, double value)
{
    return mtbal_state_new(c, "mtbal/", name, mtbal_float_type(c), 0, NULL, value);
}

mtbal_status mtbal_state_bind(mtbal_context *c, mtbal_value *state, mtbal_value *next)
{
    if (!state || !next)
        return c->diag && c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
    if (!(c->nstates & (c->nstates - 1))) { /* full at powers of two */
        mtbal_state *longer = mtbal_arena_array(
            c->model->arena, c->nstates ? 2 * (size_t)c->nstates : 1, sizeof *longer);
        if (!longer)
            return mtbal_no_memory(c->diag);
        if (c->nstates)
            memcpy(longer, c->states, (size_t)c->nstates * sizeof *longer);
        c->states = longer;
    }
    c->states[c->nstates++] = (mtbal_state){state, next, NULL};
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ running statistics */

/* A running statistic after a node: what it was before; NULL for any other value. */
static mtbal_value *statistic_before(const mtbal_value *v)
{
    const mtbal_node *node = v->def;
    if (mtbal_node_is(node, MTBAL_OP_identity))
        return node->in[0];
    for (int i = 1; mtbal_node_is(node, MTBAL_OP_batch_normalization) && i < node->nout && i < 3;
         i++)
        if (node->out[i] == v && node->nin >= 5)
            return node->in[2 + i];
    return NULL;
}

/* The initializer that an operand is, perhaps through Identity nodes and nodes that share it. */
static mtbal_value *initializer_behind(mtbal_value *v)
{
    while (v && v->def)
        v = statistic_before(v);
    return v && v->is_initializer ? v : NULL;
}

/* One statistic of a node in training: output `i` replaces what operand 2 + i reads. Where several
 * nodes share a statistic, each goes on from what the one before it left. */
static mtbal_status running_statistic(mtbal_context *c, mtbal_node *node, int i, mtbal_map *bound)
{
    mtbal_value *state = initializer_behind(node->in[2 + i]);
    if (!state)
        return MTBAL_OK;
    if (i >= node->nout || !node->out[i]) {
        const char *name = mtbal_fresh_name(c->model, i == 1 ? "mtbal/update/running_mean"
                                                             : "mtbal/update/running_var");
        mtbal_value *out = name ? mtbal_value_new(c->graph, name) : NULL;
        if (!out || mtbal_node_set_output(node, i, out) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
    }
    node->out[i]->type = state->type;
    int at = mtbal_map_get(bound, state);
    if (at >= 0) {
        node->in[2 + i] = c->states[at].next;
        c->states[at].next = node->out[i];
        return MTBAL_OK;
    }
    if (!mtbal_map_set(bound, c->model->arena, state, c->nstates))
        return mtbal_no_memory(c->diag);
    return mtbal_state_bind(c, state, node->out[i]);
}

static mtbal_status running_statistics(mtbal_context *c)
{
    mtbal_map bound = {0}; /* value of a state -> its place */
    for (int i = c->nstates - 1; i >= 0; i--)
        if (!mtbal_map_set(&bound, c->model->arena, c->states[i].value, i))
            return mtbal_no_memory(c->diag);
    for (mtbal_node *node = c->graph->first; node; node = node->next)
        if (mtbal_node_is(node, MTBAL_OP_batch_normalization) &&
            mtbal_attr_i(node, "training_mode", 0) && node->nin >= 5)
            for (int i = 1; i < 3; i++)
                MTBAL_TRY(running_statistic(c, node, i, &bound));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ --set */

/* The scalar of ours that --set names: `lr` or `mtbal/lr`. */
static mtbal_value *scalar_named(const mtbal_context *c, const char *name)
{
    size_t skip = strncmp(name, "mtbal/", 6) ? 6 : 0;
    for (int i = 0; i < c->graph->ninputs; i++) {
        mtbal_value *v = c->graph->inputs[i];
        if (!strncmp(v->name, "mtbal/", 6) && v->is_initializer && v->tensor->count == 1 &&
            !strcmp(v->name + skip, name))
            return v;
    }
    return NULL;
}

static mtbal_status apply_settings(mtbal_context *c)
{
    for (int i = 0; i < c->options->nset; i++) {
        const mtbal_pair *set = &c->options->set[i];
        mtbal_value *v = scalar_named(c, set->name);
        char *end;
        double x = strtod(set->value, &end);
        if (end == set->value || *end || isnan(x))
            return mtbal_fail(c->diag, MTBAL_USAGE, "--set", "write NAME=NUMBER",
                              "%s=%s is no number", set->name, set->value);
        mtbal_names known = {0};
        for (int k = 0; k < c->graph->ninputs && !v; k++) {
            const mtbal_value *input = c->graph->inputs[k];
            if (!strncmp(input->name, "mtbal/", 6) && input->tensor && input->tensor->rank == 0)
                mtbal_names_add(&known, input->name + 6);
        }
        if (!v)
            return mtbal_fail(c->diag, MTBAL_USAGE, "--set", known.text,
                              "this step graph has no hyper-parameter %s; it has those below",
                              set->name);
        mtbal_tensor_set_f64(v->tensor, 0, x);
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_states(mtbal_context *c)
{
    MTBAL_TRY(running_statistics(c));
    for (int i = 0; i < c->nstates; i++) {
        mtbal_state *s = &c->states[i];
        if (!s->value->is_input && mtbal_add_input(c->graph, s->value) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
        MTBAL_TRY(mtbal_output_as(c, s->next, "mtbal/next/", s->value->name));
        s->output = c->graph->outputs[c->graph->noutputs - 1];
    }
    return apply_settings(c);
}
