/* passes/inference.c: a step graph back into the network that it was made from, with the trained
 * weights. */
#include "passes/internal.h"

#include <string.h>

static bool ours(const char *name)
{
    return !strncmp(name, "mtbal/", 6);
}

/* Normalisation by running statistics; dropout passes its operand through. */
static mtbal_status to_inference(mtbal_node *node, void *context)
{
    mtbal_diag *diag = context;
    if (mtbal_node_is(node, "BatchNormalization") && mtbal_attr_i(node, "training_mode", 0)) {
        node->nout = 1;
        return mtbal_set_i(node, "training_mode", 0) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
    }
    if (mtbal_node_is(node, "Dropout") && node->nin > 2) {
        mtbal_builder b;
        mtbal_value *in[3] = {node->in[0], node->in[1], NULL};
        mtbal_builder_init(&b, node->graph, node, diag);
        in[2] = mtbal_const_scalar(&b, MTBAL_BOOL, 0);
        node->nout = node->nout > 1 && node->out[1] && ours(node->out[1]->name) ? 1 : node->nout;
        return in[2] && mtbal_node_set_inputs(node, 3, in) == MTBAL_OK ? MTBAL_OK
                                                                       : mtbal_no_memory(diag);
    }
    return MTBAL_OK;
}

/* --outputs A,B: any values of the network instead of its own outputs. */
static mtbal_status choose_outputs(mtbal_graph *graph, const char *list, mtbal_diag *diag)
{
    while (graph->noutputs)
        mtbal_remove_output(graph, graph->outputs[graph->noutputs - 1]);
    for (const char *p = list; *p;) {
        char name[512];
        size_t n = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        mtbal_value *v = mtbal_value_find(graph, name);
        if (!v)
            return mtbal_fail(diag, MTBAL_USAGE, graph->model->path, "name a value of the network",
                              "--outputs: there is no value %s", name);
        if (mtbal_add_output(graph, v) != MTBAL_OK)
            return mtbal_no_memory(diag);
        p += n + (p[n] == ',');
    }
    return MTBAL_OK;
}

/* Inputs that nothing reads any more (labels, once the losses are gone) go, when outputs were
 * chosen. */
static mtbal_status drop_unused_inputs(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_uses *uses = mtbal_uses_new(model, graph, model->arena);
    if (!uses)
        return mtbal_no_memory(diag);
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (!uses->count[graph->inputs[i]->id])
            mtbal_remove_input(graph, graph->inputs[i]);
    for (int i = graph->ninitializers - 1; i >= 0; i--)
        if (!uses->count[graph->initializers[i]->id])
            mtbal_remove_initializer(graph, graph->initializers[i]);
    return MTBAL_OK;
}

static void drop_metadata(mtbal_model *model)
{
    int kept = 0;
    for (int i = 0; i < model->nproperties; i++)
        if (strncmp(model->properties[i].key, "mtbal.", 6))
            model->properties[kept++] = model->properties[i];
    model->nproperties = kept;
}

mtbal_status mtbal_inference(mtbal_model *model, const mtbal_options *options, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_list states;
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", model->arena, &states, diag));
    for (int i = graph->noutputs - 1; i >= 0; i--)
        if (ours(graph->outputs[i]->name))
            mtbal_remove_output(graph, graph->outputs[i]);
    for (int i = graph->ninputs - 1; i >= 0; i--) {
        mtbal_value *v = graph->inputs[i];
        bool state = false;
        for (int k = 0; k < states.count && !state; k++)
            state = !strcmp(states.names[k], v->name);
        if (ours(v->name) || state)
            mtbal_remove_input(graph, v);
    }
    MTBAL_TRY(mtbal_graph_walk(graph, to_inference, diag));
    if (options && options->keep_outputs)
        MTBAL_TRY(choose_outputs(graph, options->keep_outputs, diag));
    if (graph->noutputs == 0)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "name some: --outputs A,B",
                          "the network has no outputs of its own");
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    for (int i = graph->ninitializers - 1; i >= 0; i--)
        if (ours(graph->initializers[i]->name))
            mtbal_remove_initializer(graph, graph->initializers[i]);
    if (options && options->keep_outputs)
        MTBAL_TRY(drop_unused_inputs(model, diag));
    drop_metadata(model);
    return MTBAL_OK;
}
