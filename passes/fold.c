/* passes/fold.c: what inference knows is written down: a node whose output is a small integer
 * tensor of known contents becomes a Constant. Nodes of the user are left alone unless they only
 * compute shapes for nodes of ours. */
#include "passes/passes.h"

#include <string.h>

static bool known_content(const mtbal_value *v)
{
    if (!v || !v->content || v->tensor || v->is_output || v->type.dtype != MTBAL_INT64 ||
        v->type.rank < 0 || v->type.rank > 1)
        return false;
    for (int i = 0; i < v->ncontent; i++)
        if (v->content[i].size < 0)
            return false;
    return v->type.rank == 1 || v->ncontent == 1;
}

static mtbal_status fold(mtbal_model *model, mtbal_node *node)
{
    mtbal_value *v = node->out[0];
    int64_t values[64];
    const int64_t dims[1] = {v->ncontent};
    for (int i = 0; i < v->ncontent; i++)
        values[i] = v->content[i].size;
    mtbal_tensor *t = mtbal_tensor_new(model, MTBAL_INT64, v->type.rank, dims, values);
    if (!t)
        return MTBAL_NOMEM;
    node->attrs = NULL;
    MTBAL_TRY(mtbal_node_set_op(node, "", "Constant"));
    MTBAL_TRY(mtbal_node_set_inputs(node, 0, NULL));
    MTBAL_TRY(mtbal_set_tensor(node, "value", t));
    v->tensor = t;
    return MTBAL_OK;
}

mtbal_status mtbal_fold_constants(mtbal_model *model, mtbal_diag *diag)
{
    for (mtbal_node *node = model->graph->first; node; node = node->next)
        if (node->role && node->nout == 1 && !mtbal_node_is(node, "Constant") &&
            known_content(node->out[0]) && node->out[0]->ncontent <= 64 &&
            fold(model, node) != MTBAL_OK)
            return mtbal_no_memory(diag);
    return MTBAL_OK;
}
