/* passes/inference.c: a step graph back into the network that it was made from, with the trained
 * weights; any model into its form for inference. */
#include "passes/internal.h"

#include <string.h>

/* ------------------------------------------------------------------ nodes in inference mode */

typedef struct converter {
    const mtbal_uses *uses; /* of the values before the conversion */
    mtbal_diag *diag;
} converter;

/* A running statistic that somebody reads: in inference it stays what it was. */
static mtbal_status keep_statistic(const converter *s, mtbal_node *node, int i)
{
    mtbal_value *out = i < node->nout ? node->out[i] : NULL;
    if (!out || out->id >= s->uses->nvalues || s->uses->count[out->id] == 0)
        return MTBAL_OK;
    mtbal_node *copy =
        mtbal_node_new(node->graph, node->next, "", "Identity", 1, &node->in[2 + i], 0);
    if (!copy || mtbal_node_set_output(copy, 0, out) != MTBAL_OK)
        return mtbal_no_memory(s->diag);
    copy->name = out->name;
    return MTBAL_OK;
}

/* Normalises by the running statistics. Below opset 14 the training form is the one with several
 * outputs. */
static mtbal_status batch_normalization(const converter *s, mtbal_node *node)
{
    bool attribute = mtbal_attr_i(node, "training_mode", 0) != 0;
    if (!attribute && node->nout < 2)
        return MTBAL_OK;
    if (node->nin >= 5)
        for (int i = 1; i < 3; i++)
            MTBAL_TRY(keep_statistic(s, node, i));
    node->nout = 1;
    mtbal_attr_remove(node, "training_mode");
    return MTBAL_OK;
}

/* Without its third operand Dropout passes the first on. */
static mtbal_status dropout(const converter *s, mtbal_node *node)
{
    mtbal_value *in[2] = {node->in[0], node->nin > 1 ? node->in[1] : NULL};
    if (node->nin < 3)
        return MTBAL_OK;
    return mtbal_node_set_inputs(node, in[1] ? 2 : 1, in) == MTBAL_OK ? MTBAL_OK
                                                                      : mtbal_no_memory(s->diag);
}

static mtbal_status to_inference(mtbal_node *node, void *context)
{
    if (mtbal_node_is(node, MTBAL_OP_batch_normalization))
        return batch_normalization(context, node);
    if (mtbal_node_is(node, MTBAL_OP_dropout))
        return dropout(context, node);
    return MTBAL_OK;
}

mtbal_status mtbal_inference_mode(mtbal_model *model, mtbal_diag *diag)
{
    for (int i = -1; i < model->nfunctions; i++) {
        mtbal_graph *graph = i < 0 ? model->graph : model->functions[i]->body;
        converter s = {mtbal_uses_new(model, graph, model->arena), diag};
        if (!s.uses)
            return mtbal_no_memory(diag);
        MTBAL_TRY(mtbal_graph_walk(graph, to_inference, &s));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ inputs and outputs */

/* --outputs A,B: any values of the network instead of its own outputs. */
static mtbal_status choose_outputs(mtbal_graph *graph, const char *list, mtbal_diag *diag)
{
    while (graph->noutputs)
        mtbal_remove_output(graph, graph->outputs[graph->noutputs - 1]);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        const char *name = mtbal_intern_n(graph->model->arena, p, n);
        mtbal_value *v = name ? mtbal_value_find(graph, name) : NULL;
        if (!name)
            return mtbal_no_memory(diag);
        if (!v)
            return mtbal_fail(diag, MTBAL_USAGE, graph->model->path, "name a value of the network",
                              "--outputs: there is no value %s", name);
        if (!v->is_output && mtbal_add_output(graph, v) != MTBAL_OK)
            return mtbal_no_memory(diag);
        p += n + (p[n] == ',');
    }
    return MTBAL_OK;
}

/* Inputs and outputs that the rewrite added go: what the metadata lists stays, in older step graphs
 * what is not named mtbal/... and no state. */
static mtbal_status restore_interface(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_list inputs, outputs, states;
    bool listed = mtbal_property_get(model, "mtbal.inputs") != NULL;
    MTBAL_TRY(mtbal_property_list(model, "mtbal.inputs", model->arena, &inputs, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.outputs", model->arena, &outputs, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", model->arena, &states, diag));
    for (int i = graph->noutputs - 1; i >= 0; i--) {
        const char *name = graph->outputs[i]->name;
        if (listed ? !mtbal_is_listed(outputs.names, outputs.count, name) : mtbal_is_ours(name))
            mtbal_remove_output(graph, graph->outputs[i]);
    }
    for (int i = graph->ninputs - 1; i >= 0; i--) {
        const char *name = graph->inputs[i]->name;
        if (listed ? !mtbal_is_listed(inputs.names, inputs.count, name)
                   : mtbal_is_ours(name) || mtbal_is_listed(states.names, states.count, name))
            mtbal_remove_input(graph, graph->inputs[i]);
    }
    return MTBAL_OK;
}

/* What nothing reads any more: initializers of ours; where outputs were chosen, all inputs (labels,
 * once the losses are gone) and initializers. */
static mtbal_status drop_unused(mtbal_model *model, bool all, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_uses *uses = mtbal_uses_new(model, graph, model->arena);
    if (!uses)
        return mtbal_no_memory(diag);
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (all && !uses->count[graph->inputs[i]->id])
            mtbal_remove_input(graph, graph->inputs[i]);
    for (int i = graph->ninitializers - 1; i >= 0; i--) {
        mtbal_value *v = graph->initializers[i];
        if (!uses->count[v->id] && !v->is_input && (all || mtbal_is_ours(v->name)))
            mtbal_remove_initializer(graph, v);
    }
    return MTBAL_OK;
}

/* mtbal's metadata, and its domain where no function of it is left. */
static void drop_traces(mtbal_model *model)
{
    int kept = 0;
    bool used = false;
    for (int i = 0; i < model->nproperties; i++)
        if (strncmp(model->properties[i].key, "mtbal.", 6))
            model->properties[kept++] = model->properties[i];
    model->nproperties = kept;
    for (int i = 0; i < model->nfunctions; i++)
        used = used || !strcmp(model->functions[i]->domain, "mtbal");
    kept = 0;
    for (int i = 0; i < model->nopsets; i++)
        if (used || strcmp(model->opsets[i].domain, "mtbal"))
            model->opsets[kept++] = model->opsets[i];
    model->nopsets = kept;
}

/* What of the interface was ours and is gone may get its name again. */
static void forget_names(mtbal_model *model, mtbal_value *const *values, int n)
{
    for (int i = 0; i < n; i++)
        if (mtbal_is_ours(values[i]->name) && !mtbal_value_find(model->graph, values[i]->name))
            mtbal_forget_name(model, values[i]->name);
}

mtbal_status mtbal_original(mtbal_model *model, mtbal_diag *diag)
{
    const mtbal_graph *graph = model->graph;
    int nin = graph->ninputs, nout = graph->noutputs;
    mtbal_value **in = mtbal_arena_copy(model->arena, graph->inputs, (size_t)nin * sizeof *in);
    mtbal_value **out = mtbal_arena_copy(model->arena, graph->outputs, (size_t)nout * sizeof *out);
    if (!in || !out)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(restore_interface(model, diag));
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    MTBAL_TRY(drop_unused(model, false, diag));
    drop_traces(model);
    forget_names(model, in, nin);
    forget_names(model, out, nout);
    return MTBAL_OK;
}

mtbal_status mtbal_inference(mtbal_model *model, const mtbal_options *options, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    const char *chosen = options ? options->keep_outputs : NULL;
    bool is_step = mtbal_property_get(model, "mtbal.state") != NULL ||
                   mtbal_property_get(model, "mtbal.target") != NULL;
    model->ntrainings = 0;
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(restore_interface(model, diag));
    if (chosen)
        MTBAL_TRY(choose_outputs(graph, chosen, diag));
    if (graph->noutputs == 0)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "name some: --outputs A,B",
                          "the network has no outputs of its own");
    if (is_step || chosen)
        MTBAL_TRY(mtbal_remove_dead(model, diag));
    MTBAL_TRY(mtbal_inference_mode(model, diag));
    if (is_step || chosen) /* what only training read */
        MTBAL_TRY(mtbal_remove_dead(model, diag));
    MTBAL_TRY(drop_unused(model, chosen != NULL, diag));
    drop_traces(model);
    return MTBAL_OK;
}
