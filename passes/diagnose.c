/* passes/diagnose.c: what is said before anyone trains in vain. */
#include "passes/internal.h"

#include <string.h>

static const char *plural(int n, const char *one, const char *more)
{
    return n == 1 ? one : more;
}

/* ------------------------------------------------------------------ tasks */

/* Does a value depend on an input other than as a label (the class numbers of a loss)? */
static mtbal_status label_only_losses(mtbal_context *c)
{
    bool *fed = mtbal_arena_array(c->model->arena, (size_t)c->model->nvalues, sizeof *fed);
    if (!fed)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->graph->ninputs; i++)
        fed[c->graph->inputs[i]->id] = !c->graph->inputs[i]->is_initializer;
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        bool any = false, loss = mtbal_node_is(node, MTBAL_OP_softmax_cross_entropy_loss) ||
                                 mtbal_node_is(node, MTBAL_OP_negative_log_likelihood_loss);
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

/* A total beside its parts counts them twice. */
static mtbal_status losses_of_losses(mtbal_context *c)
{
    for (int t = 0; t < c->ntasks; t++) {
        mtbal_names parts = {0};
        for (int i = 0; i < c->ntasks; i++)
            if (i != t && mtbal_set_has(c->sets, c->reach[c->tasks[i].loss->id], t))
                mtbal_names_add(&parts, c->tasks[i].name);
        if (parts.count)
            MTBAL_TRY(mtbal_notice_add(
                c, MTBAL_WARNING,
                "task %s is made of %s, which %s too: choose with --task NAME=OUTPUT",
                c->tasks[t].name, parts.text, plural(parts.count, "is a task", "are tasks")));
    }
    return MTBAL_OK;
}

static mtbal_status tasks_without_parameters(mtbal_context *c)
{
    for (int t = 0; t < c->ntasks; t++)
        if (c->tasks[t].nparams == 0)
            MTBAL_TRY(mtbal_notice_add(
                c, MTBAL_WARNING, "task %s reaches no parameter: choose with --task NAME=OUTPUT",
                c->tasks[t].name));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ parameters */

/* Read only where it says how a node works: a running statistic, the scales of a Resize. */
static bool is_setting(const mtbal_uses *uses, const mtbal_value *v)
{
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        const mtbal_node *node = uses->node[v->id][i];
        unsigned settings = mtbal_settings_of(node);
        for (int k = 0; k < node->nin && k < 32; k++)
            if (node->in[k] == v && (settings >> k & 1))
                return true;
    }
    return false;
}

static mtbal_status unreached_parameters(mtbal_context *c)
{
    mtbal_names names = {0};
    mtbal_uses *uses = mtbal_uses_new(c->model, c->graph, c->model->arena);
    if (!uses)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->graph->ninitializers && !c->options->ntrain; i++) {
        const mtbal_value *v = c->graph->initializers[i];
        if (v->tensor && mtbal_dtype_is_float(v->tensor->dtype) && v->tensor->rank > 0 &&
            !c->reach[v->id] && !is_setting(uses, v))
            mtbal_names_add(&names, v->name);
    }
    return names.count ? mtbal_notice_add(c, MTBAL_NOTE, "no task reaches %d initializer%s: %s",
                                          names.count, plural(names.count, "", "s"), names.text)
                       : MTBAL_OK;
}

/* ------------------------------------------------------------------ numbers */

/* Log of a Sigmoid or of 1 - Sigmoid is infinite where the logit is large; of a Softmax too. */
static mtbal_status unstable_logarithms(mtbal_context *c)
{
    mtbal_names sigmoids = {0}, softmaxes = {0};
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        const mtbal_node *from =
            mtbal_node_is(node, MTBAL_OP_log) && node->in[0] ? node->in[0]->def : NULL;
        if (from && mtbal_node_is(from, MTBAL_OP_sub) && from->in[1])
            from = from->in[1]->def;
        if (from && mtbal_node_is(from, MTBAL_OP_sigmoid))
            mtbal_names_add(&sigmoids, node->out[0]->name);
        else if (from && mtbal_node_is(from, MTBAL_OP_softmax))
            mtbal_names_add(&softmaxes, node->out[0]->name);
    }
    if (sigmoids.count)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_WARNING,
            "Log(Sigmoid(x)) is infinite for large logits, and its gradient NaN: train with --loss "
            "NAME=bce-logits:PRED,LABEL. At %s",
            sigmoids.text));
    if (softmaxes.count)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_WARNING,
            "Log(Softmax(x)) is infinite for unlikely classes: export LogSoftmax, or train with "
            "--loss NAME=cross-entropy:PRED,LABEL. At %s",
            softmaxes.text));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ BatchNormalization */

static bool has_moved(mtbal_context *c, const mtbal_value *mean)
{
    mtbal_tensor *t = mean ? mean->tensor : NULL;
    if (!t || mtbal_tensor_load(c->model, t, NULL) != MTBAL_OK || !t->data)
        return false;
    for (int64_t i = 0; i < t->count; i++)
        if (mtbal_tensor_f64(t, i) != 0)
            return true;
    return false;
}

/* torch's export in evaluation mode folds it into the convolution before, and names that one's
 * weight anew. */
static int folded_convolutions(const mtbal_context *c)
{
    int n = 0;
    for (int p = 0; p < c->nparams; p++)
        n += !strncmp(c->params[p].value->name, "onnx::Conv_", 11) &&
             c->params[p].value->type.rank > 2;
    return n;
}

static mtbal_status batch_normalization(mtbal_context *c)
{
    int all = 0, fixed = 0, moved = 0;
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        if (!mtbal_node_is(node, MTBAL_OP_batch_normalization) || node->nin < 5)
            continue;
        all++;
        if (!mtbal_attr_i(node, "training_mode", 0))
            fixed++;
        else
            moved += has_moved(c, node->in[3]);
    }
    int folded = all ? 0 : folded_convolutions(c);
    if (folded)
        MTBAL_TRY(mtbal_notice_add(
            c, MTBAL_WARNING,
            "BatchNormalization seems folded into %d convolution%s (an export in evaluation mode): "
            "export in training mode to train with it",
            folded, plural(folded, "", "s")));
    if (fixed)
        MTBAL_TRY(mtbal_notice_add(c, MTBAL_WARNING,
                                   "%d of %d BatchNormalization node%s normalise by fixed "
                                   "statistics: export in training mode to train them",
                                   fixed, all, plural(all, "", "s")));
    return moved ? mtbal_notice_add(c, MTBAL_NOTE,
                                    "the running statistics of %d BatchNormalization node%s are "
                                    "not at their start: trained before, or moved by the export",
                                    moved, plural(moved, "", "s"))
                 : MTBAL_OK;
}

/* torch's newer exporter makes initializers of a network's constants (positions, masks), under
 * names of its own; weights keep those of their modules, with a dot. */
static mtbal_status lifted_constants(mtbal_context *c)
{
    static const char *const made[] = {"val_*", "lifted_tensor_*"};
    mtbal_names names = {0};
    bool modules = false;
    for (int p = 0; p < c->nparams; p++) {
        const char *name = c->params[p].value->name;
        modules = modules || strchr(name, '.');
        for (size_t i = 0; i < sizeof made / sizeof *made; i++)
            if (mtbal_glob(made[i], name))
                mtbal_names_add(&names, name);
    }
    return names.count && modules && !c->options->ntrain
               ? mtbal_notice_add(c, MTBAL_WARNING,
                                  "%d trained initializer%s named as the exporter names "
                                  "constants: %s (--freeze 'val_*' leaves such as they are)",
                                  names.count, plural(names.count, " is", "s are"), names.text)
               : MTBAL_OK;
}

mtbal_status mtbal_pass_diagnose(mtbal_context *c)
{
    MTBAL_TRY(label_only_losses(c));
    MTBAL_TRY(losses_of_losses(c));
    MTBAL_TRY(tasks_without_parameters(c));
    MTBAL_TRY(unreached_parameters(c));
    MTBAL_TRY(mtbal_warn_of_ties(c));
    MTBAL_TRY(unstable_logarithms(c));
    MTBAL_TRY(lifted_constants(c));
    return batch_normalization(c);
}
