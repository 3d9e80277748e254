/* passes/training_ops.c: the operators of ai.onnx.preview.training as standard ones. In two steps:
 * the tensors that Gradient nodes name become operands, so that whatever happens to the graph in
 * between (inlined functions, folded branches) happens to them; then each node, in topological
 * order, is replaced. */
#include "passes/internal.h"

#include <string.h>

static const char domain[] = "ai.onnx.preview.training";
enum { OPSET = 17 /* of what is emitted, at least */, MOST_LOOKS = 10000000 };

static mtbal_training_fn *operator_of(const mtbal_node *node)
{
    switch (node->opcode) {
    case MTBAL_OP_gradient:
        return mtbal_training_gradient;
    case MTBAL_OP_adam:
        return mtbal_training_adam;
    case MTBAL_OP_adagrad:
        return mtbal_training_adagrad;
    case MTBAL_OP_momentum:
        return mtbal_training_momentum;
    default:
        return NULL;
    }
}

mtbal_status mtbal_give_output(mtbal_builder *b, mtbal_node *node, int index, mtbal_value *value)
{
    mtbal_value *out = index < node->nout ? node->out[index] : NULL;
    if (b->status != MTBAL_OK || !out)
        return b->status;
    mtbal_node *copy = mtbal_node_new(node->graph, node, "", "Identity", 1, &value, 0);
    if (!copy || mtbal_node_set_output(copy, 0, out) != MTBAL_OK)
        return mtbal_no_memory(b->diag);
    copy->name = out->name;
    copy->role = b->role;
    out->type = value->type;
    node->out[index] = NULL;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ names become operands */

static bool is_gradient(const mtbal_node *node)
{
    return mtbal_node_is(node, MTBAL_OP_gradient);
}

mtbal_status mtbal_named_operands(mtbal_graph *graph, mtbal_diag *diag)
{
    mtbal_arena *arena = graph->model->arena;
    mtbal_index own, around = {0};
    mtbal_node *node = graph->first;
    while (node && !is_gradient(node))
        node = node->next;
    if (!node)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_index_graph(&own, arena, graph, diag));
    if (graph->parent)
        MTBAL_TRY(mtbal_index_graph(&around, arena, graph->parent, diag));
    for (; node; node = node->next)
        if (is_gradient(node))
            MTBAL_TRY(mtbal_gradient_operands(node, &own, &around, diag));
    return MTBAL_OK;
}

static mtbal_status all_operands(mtbal_model *model, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_named_operands(model->graph, diag));
    for (int i = 0; i < model->nfunctions; i++)
        MTBAL_TRY(mtbal_named_operands(model->functions[i]->body, diag));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ nodes become others */

/* What is still there: in a subgraph. */
static mtbal_status refuse_inner(mtbal_node *node, void *diag)
{
    char text[256];
    if (!operator_of(node))
        return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_UNSUPPORTED, mtbal_node_label(node, text),
                      "move it out of the If, Loop or Scan",
                      "training operators are read in the main graph and in functions only");
}

static void drop_domain(mtbal_model *model)
{
    int kept = 0;
    for (int i = 0; i < model->nopsets; i++)
        if (strcmp(model->opsets[i].domain, domain))
            model->opsets[kept++] = model->opsets[i];
    model->nopsets = kept;
}

/* A Gradient looks at all of the graph: a file could ask for more of them than anyone needs. */
static mtbal_status check_amount(mtbal_model *model, mtbal_diag *diag)
{
    int64_t gradients = 0;
    for (const mtbal_node *node = model->graph->first; node; node = node->next)
        gradients += is_gradient(node);
    return gradients * model->nvalues <= MOST_LOOKS
               ? MTBAL_OK
               : mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path,
                            "name several tensors in the xs of one Gradient",
                            "%lld Gradient nodes in a graph of %d values are too many",
                            (long long)gradients, model->nvalues);
}

static mtbal_status lower_nodes(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_blockers blockers = {0};
    mtbal_graph *graph = model->graph;
    MTBAL_TRY(check_amount(model, diag));
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        mtbal_training_fn *rule = operator_of(node);
        mtbal_builder b;
        next = node->next;
        if (!rule)
            continue;
        mtbal_builder_init(&b, graph, node, diag);
        b.prefix = mtbal_arena_printf(model->arena, "%s/", *node->name ? node->name : node->op);
        MTBAL_TRY(b.prefix ? rule(&b, node, &blockers) : mtbal_no_memory(diag));
        MTBAL_TRY(b.status);
        mtbal_node_remove(node);
    }
    if (blockers.count)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path,
                          "write the model with other operators",
                          "%d node%s between a y and an x of a Gradient cannot be "
                          "differentiated:%s",
                          blockers.count, blockers.count > 1 ? "s" : "", blockers.text);
    return mtbal_graph_walk(graph, refuse_inner, diag);
}

/* ------------------------------------------------------------------ as passes, and alone */

mtbal_status mtbal_pass_named(mtbal_context *c)
{
    return all_operands(c->model, c->diag);
}

mtbal_status mtbal_pass_training(mtbal_context *c)
{
    if (!mtbal_opset_of(c->model, domain))
        return MTBAL_OK;
    drop_domain(c->model);
    MTBAL_TRY(lower_nodes(c->model, c->diag));
    MTBAL_TRY(mtbal_inline_functions(c->model, false, c->diag)); /* to be differentiated again */
    return mtbal_infer_graph(c->graph, c->diag);
}

mtbal_status mtbal_lower_training_ops(mtbal_model *model, mtbal_diag *diag)
{
    if (!mtbal_opset_of(model, domain))
        return MTBAL_OK;
    if (!mtbal_opset_of(model, "") && mtbal_set_opset(model, "", OPSET) != MTBAL_OK)
        return mtbal_no_memory(diag);
    MTBAL_TRY(all_operands(model, diag));
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(mtbal_upgrade(model, OPSET, diag));
    MTBAL_TRY(mtbal_inline_functions(model, true, diag));
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag));
    drop_domain(model);
    MTBAL_TRY(lower_nodes(model, diag));
    MTBAL_TRY(mtbal_verify(model, diag));
    return mtbal_infer_graph(model->graph, diag);
}
