/* passes/ort/eval.c: the evaluation model: the losses alone, in inference mode. It takes every
 * parameter that the training model takes, in the same order, whether it reads it or not: so a
 * session wants it. */
#include "passes/ort/ort.h"

#include <string.h>

static bool is_loss(const mtbal_list *tasks, const char *name)
{
    for (int i = 0; i < tasks->count; i++)
        if (!strcmp(tasks->values[i], name))
            return true;
    return !strcmp(name, "mtbal/loss");
}

static bool needs_backward(const mtbal_graph *graph)
{
    for (const mtbal_node *node = graph->first; node; node = node->next)
        if (!strncmp(node->name, "mtbal/backward/", 15))
            return true;
    return false;
}

/* Where weights are made from gradients, there are none here: the plain sum of the losses. */
static mtbal_status plain_total(mtbal_model *model, const mtbal_list *tasks, mtbal_diag *diag)
{
    mtbal_value *total = mtbal_value_find(model->graph, "mtbal/loss"), *sum = NULL;
    mtbal_builder b;
    if (!total || !total->def)
        return MTBAL_OK;
    mtbal_builder_init(&b, model->graph, total->def, diag);
    b.prefix = "mtbal/balance/";
    for (int i = 0; i < tasks->count; i++) {
        mtbal_value *loss = mtbal_value_find(model->graph, tasks->values[i]);
        mtbal_value *part = mtbal_emit_reshape(&b, loss, mtbal_const_i64s(&b, 0, NULL));
        sum = sum ? mtbal_emit(&b, "Add", sum, part) : part;
    }
    MTBAL_TRY(b.status);
    if (sum && mtbal_node_set_inputs(total->def, 1, &sum) != MTBAL_OK)
        return mtbal_no_memory(diag);
    return mtbal_remove_dead(model, diag);
}

mtbal_status mtbal_ort_eval(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_list tasks;
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.tasks", model->arena, &tasks, diag));
    for (int i = graph->noutputs - 1; i >= 0; i--) {
        const char *name = graph->outputs[i]->name;
        bool ours = ort_is_gradient(name) || !strncmp(name, "mtbal/", 6);
        if (ours && !is_loss(&tasks, name))
            mtbal_remove_output(graph, graph->outputs[i]);
    }
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    if (needs_backward(graph))
        MTBAL_TRY(plain_total(model, &tasks, diag));
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (ort_is_gradient(graph->inputs[i]->name) || !strcmp(graph->inputs[i]->name, ORT_LR))
            mtbal_remove_input(graph, graph->inputs[i]);
    return mtbal_inference_mode(model, diag);
}
