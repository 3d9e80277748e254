/* passes/diagnose.c: what is said before anyone trains in vain. */
#include "passes/internal.h"

#include <math.h>
#include <string.h>

/* Which values depend on a graph input that holds data (not a label: an integer, or an operand of a
 * loss only). */
static mtbal_status label_only_losses(mtbal_context *c)
{
    bool *fed = mtbal_arena_array(c->model->arena, (size_t)c->model->nvalues, sizeof *fed);
    if (!fed)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->graph->ninputs; i++)
        fed[c->graph->inputs[i]->id] = !c->graph->inputs[i]->is_initializer;
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        bool any = false;
        bool loss = mtbal_node_is(node, "SoftmaxCrossEntropyLoss") ||
                    mtbal_node_is(node, "NegativeLogLikelihoodLoss");
        for (int i = 0; i < node->nin; i++)
            any = any || (node->in[i] && fed[node->in[i]->id] && !(loss && i == 1));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            any = any || a->kind == MTBAL_ATTR_GRAPH;
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                fed[node->out[i]->id] = any;
    }
    for (int t = 0; t < c->ntasks; t++)
        if (!fed[c->tasks[t].loss->id])
            MTBAL_TRY(mtbal_notice_add(
                c, MTBAL_WARNING,
                "task %s depends on no input but its label: the export lost its prediction",
                c->tasks[t].name));
    return MTBAL_OK;
}

static mtbal_status unreached(mtbal_context *c)
{
    const mtbal_options *o = c->options;
    for (int t = 0; t < c->ntasks; t++)
        if (c->tasks[t].nparams == 0)
            MTBAL_TRY(mtbal_notice_add(c, MTBAL_WARNING, "task %s reaches no parameter",
                                       c->tasks[t].name));
    char names[512] = "";
    int count = 0;
    for (int i = 0; i < c->graph->ninitializers; i++) {
        const mtbal_value *v = c->graph->initializers[i];
        bool wanted = v->tensor && mtbal_dtype_is_float(v->tensor->dtype) && v->tensor->count > 1 &&
                      !o->ntrain;
        if (!wanted || v->id >= c->nreach || c->reach[v->id] || !strncmp(v->name, "mtbal/", 6))
            continue;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", v->name);
        count++;
    }
    return count ? mtbal_notice_add(c, MTBAL_NOTE, "no task reaches %d initializer%s: %s", count,
                                    count > 1 ? "s" : "", names)
                 : MTBAL_OK;
}

/* An initializer that plays the same part in several normalisations was merged by the exporter. */
static mtbal_status tied(mtbal_context *c)
{
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    char names[512] = "";
    int count = 0;
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        const mtbal_value *v = c->params[p].value;
        int roles = 0;
        for (int i = 0; i < uses->nnodes[v->id]; i++) {
            const mtbal_node *node = uses->node[v->id][i];
            bool norm = strstr(node->op, "Normalization") != NULL;
            bool bias = mtbal_node_is(node, "Add") ||
                        (mtbal_node_is(node, "Gemm") && node->nin > 2 && node->in[2] == v);
            roles += norm || bias;
        }
        if (roles < 2)
            continue;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s (%d uses)", n ? ", " : "", v->name, roles);
        count++;
    }
    return count ? mtbal_notice_add(c, MTBAL_WARNING,
                                    "%d parameter%s tied, perhaps by the exporter (export with "
                                    "optimize=False, or use --untie): %s",
                                    count, count > 1 ? "s are" : " is", names)
                 : MTBAL_OK;
}

/* Log of a Sigmoid overflows; log(1 - Sigmoid) too. */
static mtbal_status unstable(mtbal_context *c)
{
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        const mtbal_node *from =
            mtbal_node_is(node, "Log") && node->in[0] ? node->in[0]->def : NULL;
        for (int k = 0; from && k < 2; k++) {
            if (mtbal_node_is(from, "Sigmoid"))
                return mtbal_notice_add(c, MTBAL_WARNING,
                                        "Log(Sigmoid(x)) at %s is infinite for large logits: train "
                                        "with --loss NAME=bce-logits:PRED,LABEL",
                                        node->out[0] ? node->out[0]->name : node->name);
            const mtbal_value *operand = mtbal_node_is(from, "Sub") ? from->in[1] : NULL;
            from = operand ? operand->def : NULL;
        }
    }
    return MTBAL_OK;
}

/* Running means that are not zero in a graph in training mode: the export ran a forward pass. */
static mtbal_status moved_statistics(mtbal_context *c)
{
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        if (!mtbal_node_is(node, "BatchNormalization") || node->nin < 5 || !node->in[3] ||
            !node->in[3]->tensor)
            continue;
        if (!mtbal_attr_i(node, "training_mode", 0))
            return mtbal_notice_add(
                c, MTBAL_NOTE,
                "%s normalises by fixed statistics: export in training mode to train it",
                node->name);
        mtbal_tensor *t = node->in[3]->tensor;
        MTBAL_TRY(mtbal_tensor_load(c->model, t, c->diag));
        for (int64_t i = 0; i < t->count; i++)
            if (mtbal_tensor_f64(t, i) != 0)
                return mtbal_notice_add(
                    c, MTBAL_NOTE,
                    "the running statistics of %s are not at their start: the export moved them",
                    node->name);
    }
    return MTBAL_OK;
}

/* --untie: every use of a parameter beyond the first gets a copy of its own. */
static mtbal_status untie(mtbal_context *c)
{
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    int n = c->graph->ninitializers;
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < n; i++) {
        mtbal_value *v = c->graph->initializers[i];
        if (!v->tensor || !mtbal_dtype_is_float(v->tensor->dtype) || v->tensor->count < 2)
            continue;
        MTBAL_TRY(mtbal_tensor_load(c->model, v->tensor, c->diag));
        for (int u = 1; u < uses->nnodes[v->id]; u++) {
            mtbal_node *node = uses->node[v->id][u];
            const char *name = mtbal_fresh_name(c->model, v->name);
            mtbal_value *copy = name ? mtbal_value_new(c->graph, name) : NULL;
            mtbal_tensor *t = mtbal_tensor_new(c->model, v->tensor->dtype, v->tensor->rank,
                                               v->tensor->dims, v->tensor->data);
            if (!copy || !t || mtbal_add_initializer(c->graph, copy, t) != MTBAL_OK)
                return mtbal_no_memory(c->diag);
            bool done = false;
            for (int k = 0; k < node->nin && !done; k++)
                if (node->in[k] == v) {
                    node->in[k] = copy;
                    done = true;
                }
        }
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_untie(mtbal_context *c)
{
    return c->options->untie ? untie(c) : MTBAL_OK;
}

mtbal_status mtbal_pass_diagnose(mtbal_context *c)
{
    MTBAL_TRY(label_only_losses(c));
    MTBAL_TRY(unreached(c));
    MTBAL_TRY(tied(c));
    MTBAL_TRY(unstable(c));
    return moved_statistics(c);
}
