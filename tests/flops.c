/* tests/flops.c: transformer_glue with more heads, rewritten, lowered and counted. */
#include "tests/flops.h"

#include "lower/lower.h"
#include "onnxio/onnxio.h"

#include <stdio.h>
#include <string.h>

enum { BATCH = 4, TOKENS = 16, MAX_TASKS = 64 };

const flops_kind flops_kinds[FLOPS_KINDS] = {
    {"plain sum of the losses", "equal", "shared", MTBAL_OUT_NONE},
    {"calibrated", "calibrated", "shared", MTBAL_OUT_NONE},
    {"calibrated, norms over features", "calibrated", "features", MTBAL_OUT_NORMS},
    {"calibrated, norms over the trunk", "calibrated", "shared", MTBAL_OUT_NORMS},
    {"imtl-g over features", "imtl-g", "features", MTBAL_OUT_NONE},
    {"imtl-g over the trunk", "imtl-g", "shared", MTBAL_OUT_NONE},
    {"imtl-g over the last shared layer", "imtl-g", "last-shared", MTBAL_OUT_NONE},
    {"every task's gradient", "calibrated", "shared", MTBAL_OUT_TASK_GRADS},
};

/* Another head beside the first: the same operators, its own weights. */
static mtbal_status add_head(mtbal_model *model, int number, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    const mtbal_value *first = mtbal_value_find(graph, "loss_sst2");
    const mtbal_node *loss = first ? first->def : NULL, *head = loss ? loss->in[0]->def : NULL;
    mtbal_value *operands[3], *logits, *own;
    mtbal_builder b;
    char name[64];
    if (!head || head->nin != 3)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, NULL, "no head under loss_sst2");
    operands[0] = head->in[0];
    for (int i = 1; i < 3; i++) {
        const mtbal_tensor *t = head->in[i]->tensor;
        mtbal_tensor *copy = t ? mtbal_tensor_new(model, t->dtype, t->rank, t->dims, NULL) : NULL;
        snprintf(name, sizeof name, "more.%d.%s", number, i == 1 ? "weight" : "bias");
        operands[i] = mtbal_value_new(graph, name);
        if (!copy || !operands[i] || mtbal_add_initializer(graph, operands[i], copy) != MTBAL_OK)
            return mtbal_no_memory(diag);
    }
    mtbal_builder_init(&b, graph, NULL, diag);
    mtbal_node *gemm = mtbal_emit_node(&b, "", "Gemm", 3, operands, 1, &logits);
    if (!gemm || mtbal_copy_attrs(gemm, head) != MTBAL_OK)
        return mtbal_no_memory(diag);
    mtbal_emit_done(&b, gemm);
    own = mtbal_emit(&b, "SoftmaxCrossEntropyLoss", logits, loss->in[1]);
    return b.status != MTBAL_OK || mtbal_add_output(graph, own) != MTBAL_OK ? mtbal_no_memory(diag)
                                                                            : MTBAL_OK;
}

static mtbal_status read_tasks(int tasks, mtbal_model **model, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_onnx_read("tests/data/models/transformer_glue/model.op17.onnx", model, diag));
    MTBAL_TRY(mtbal_infer_graph((*model)->graph, diag));
    for (int i = 3; i < tasks; i++)
        MTBAL_TRY(add_head(*model, i, diag));
    mtbal_graph *graph = (*model)->graph;
    while (graph->noutputs > tasks)
        mtbal_remove_output(graph, graph->outputs[graph->noutputs - 1]);
    return MTBAL_OK;
}

static mtbal_status count(mtbal_model *model, bool trains, double *flops, mtbal_diag *diag)
{
    mtbal_bind binds[16];
    mtbal_plan *plan = NULL;
    mtbal_plan_info info;
    int n = 0;
    for (int i = 0; i < model->graph->ninputs; i++) {
        const mtbal_value *v = model->graph->inputs[i];
        if (v->is_initializer || n == 16)
            continue;
        binds[n] = (mtbal_bind){.name = v->name, .rank = v->type.rank, .dims = {BATCH, TOKENS}};
        n++;
    }
    mtbal_lower_options options = {.nbinds = n, .binds = binds, .noutputs = -1, .states = trains};
    MTBAL_TRY(mtbal_lower(model, &options, &plan, diag));
    mtbal_plan_describe(plan, &info);
    *flops = info.flops;
    mtbal_plan_free(plan);
    return MTBAL_OK;
}

double flops_of_step(int tasks, const flops_kind *kind, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options options;
    double flops = -1;
    mtbal_status status = read_tasks(tasks, &model, diag);
    mtbal_options_default(&options);
    if (status == MTBAL_OK && kind) {
        options.balance = kind->balance;
        options.norm_over = kind->norm_over;
        options.outputs = kind->outputs;
        status = mtbal_rewrite(model, &options, &context, diag);
    }
    if (status == MTBAL_OK)
        status = count(model, kind != NULL, &flops, diag);
    mtbal_model_free(model);
    return status == MTBAL_OK ? flops : -1;
}
