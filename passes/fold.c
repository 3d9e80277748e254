/* passes/fold.c: constant folding of integers and booleans: a node whose output is known becomes a
 * Constant with the same output. Floats are left alone: an initializer may be a parameter. */
#include "passes/evaluate.h"
#include "passes/internal.h"

#include <string.h>

static mtbal_tensor *to_tensor(mtbal_model *model, const mtbal_ints *from)
{
    mtbal_tensor *t = mtbal_tensor_new(model, from->dtype, from->rank, from->dims, NULL);
    void *bytes = t ? mtbal_tensor_bytes(t) : NULL;
    for (int64_t i = 0; bytes && i < from->count; i++)
        if (from->dtype == MTBAL_INT64)
            ((int64_t *)bytes)[i] = from->x[i];
        else if (from->dtype == MTBAL_INT32)
            ((int32_t *)bytes)[i] = (int32_t)from->x[i];
        else
            ((uint8_t *)bytes)[i] = from->x[i] != 0;
    return t;
}

static mtbal_status become_constant(mtbal_node *node, const mtbal_ints *value)
{
    mtbal_value *out = node->out[0];
    mtbal_tensor *t = to_tensor(node->graph->model, value);
    mtbal_dim *dims =
        mtbal_arena_array(node->graph->model->arena, (size_t)value->rank, sizeof *dims);
    if (!t || !dims)
        return MTBAL_NOMEM;
    for (int d = 0; d < value->rank; d++)
        dims[d] = mtbal_dim_const(value->dims[d]);
    node->attrs = NULL;
    MTBAL_TRY(mtbal_node_set_op(node, "", "Constant"));
    MTBAL_TRY(mtbal_node_set_inputs(node, 0, NULL));
    MTBAL_TRY(mtbal_set_tensor(node, "value", t));
    out->tensor = t;
    out->type = (mtbal_type){MTBAL_TENSOR, value->dtype, value->rank, dims};
    return MTBAL_OK;
}

static bool may_be_integer(mtbal_dtype dtype)
{
    return dtype == MTBAL_UNDEFINED || dtype == MTBAL_INT64 || dtype == MTBAL_INT32 ||
           dtype == MTBAL_BOOL;
}

struct mtbal_folder {
    mtbal_arena *scratch;
    mtbal_evaluation evaluation; /* one for all nodes: it is large */
};

mtbal_folder *mtbal_folder_new(void)
{
    mtbal_arena *scratch = mtbal_arena_new();
    mtbal_folder *folder = scratch ? mtbal_arena_alloc(scratch, sizeof *folder) : NULL;
    if (!folder) {
        mtbal_arena_free(scratch);
        return NULL;
    }
    folder->scratch = folder->evaluation.arena = scratch;
    return folder;
}

void mtbal_folder_free(mtbal_folder *folder)
{
    if (folder)
        mtbal_arena_free(folder->scratch);
}

mtbal_status mtbal_fold_node(mtbal_folder *folder, mtbal_node *node)
{
    const mtbal_value *out = node->nout == 1 ? node->out[0] : NULL;
    if (!out || *node->domain || node->nin < 1 || out->is_output ||
        !may_be_integer(out->type.dtype))
        return MTBAL_OK;
    folder->evaluation.node = node;
    return mtbal_evaluate(&folder->evaluation) ? become_constant(node, &folder->evaluation.out)
                                               : MTBAL_OK;
}

static mtbal_status fold(mtbal_node *node, void *context)
{
    return mtbal_fold_node(context, node);
}

mtbal_status mtbal_fold_constants(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_folder *folder = mtbal_folder_new();
    mtbal_status status = folder ? mtbal_graph_walk(model->graph, fold, folder) : MTBAL_NOMEM;
    mtbal_folder_free(folder);
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}
