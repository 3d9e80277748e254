/* passes/pipeline.c: the pipeline, as one array. */
#include "passes/internal.h"

#include <string.h>
#include <time.h>

mtbal_status mtbal_pass_verify(mtbal_context *c)
{
    return mtbal_verify(c->model, c->diag);
}

mtbal_status mtbal_pass_upgrade(mtbal_context *c)
{
    if (mtbal_property_get(c->model, "mtbal.state"))
        return mtbal_fail(c->diag, MTBAL_INVALID, c->model->path,
                          "rewrite the original model, or get it back with --inference",
                          "this is a step graph already");
    return mtbal_upgrade(c->model, 17, c->diag);
}

mtbal_status mtbal_pass_inline(mtbal_context *c)
{
    return mtbal_inline_functions(c->model, false, c->diag);
}

mtbal_status mtbal_pass_types(mtbal_context *c)
{
    return mtbal_infer_graph(c->graph, c->diag);
}

mtbal_status mtbal_pass_fold(mtbal_context *c)
{
    return mtbal_fold_constants(c->model, c->diag);
}

mtbal_status mtbal_pass_merge(mtbal_context *c)
{
    return mtbal_merge_common(c->model, c->diag);
}

mtbal_status mtbal_pass_dead(mtbal_context *c)
{
    return mtbal_remove_dead(c->model, c->diag);
}

mtbal_status mtbal_pass_finish(mtbal_context *c)
{
    return c->options->inline_functions ? mtbal_inline_functions(c->model, false, c->diag)
                                        : MTBAL_OK;
}

/* "types": every value has its type; "tasks", "params", "weights", "gradients": the context has
 * them; "sorted": nodes stand in topological order. */
const mtbal_pass mtbal_passes[] = {
    {"verify", "", "", "is it a graph? sorts it topologically", mtbal_pass_verify},
    {"upgrade", "sorted", "types", "raises models below opset 17 to it", mtbal_pass_upgrade},
    {"inline", "sorted", "types", "replaces calls of model-local functions by their bodies",
     mtbal_pass_inline},
    {"hoist", "sorted", "types", "makes initializers of weights in Constant nodes",
     mtbal_pass_hoist},
    {"types", "sorted", "", "infers types and shapes", mtbal_pass_types},
    {"control", "types", "", "unrolls loops of a constant count, takes the branch of a constant If",
     mtbal_pass_unroll},
    {"losses", "types", "", "adds the losses that --loss names", mtbal_pass_losses},
    {"untie", "types", "", "gives every use of an initializer a copy (--untie)", mtbal_pass_untie},
    {"tasks", "types", "", "finds the tasks", mtbal_pass_tasks},
    {"params", "tasks", "", "finds the parameters, the trunk and the heads", mtbal_pass_params},
    {"scope", "params", "", "decides what the gradient norm is taken over", mtbal_pass_scope},
    {"diagnose", "params", "", "warns before anyone trains in vain", mtbal_pass_diagnose},
    {"weights", "params", "", "adds the weight of each task and the balanced total",
     mtbal_pass_weights},
    {"backward", "weights", "", "differentiates: one backward for all tasks", mtbal_pass_backward},
    {"measure", "gradients", "", "adds norms, cosines and what --outputs asks for",
     mtbal_pass_measure},
    {"optimizer", "gradients", "", "adds the update of the parameters", mtbal_pass_optimizer},
    {"states", "gradients", "", "binds every state to its next value", mtbal_pass_states},
    {"fold", "types", "", "turns known shape arithmetic of ours into constants", mtbal_pass_fold},
    {"merge", "sorted", "", "merges nodes of ours that compute the same", mtbal_pass_merge},
    {"dead", "sorted", "", "removes what nobody uses", mtbal_pass_dead},
    {"metadata", "params", "", "records tasks, parameters and states in the metadata",
     mtbal_pass_metadata},
    {"finish", "", "", "inlines our functions (--inline-functions)", mtbal_pass_finish},
    {NULL, NULL, NULL, NULL, NULL},
};

void mtbal_options_default(mtbal_options *options)
{
    *options = (mtbal_options){.balance = "calibrated",
                               .scale = "mean",
                               .apply = "loss",
                               .norm_over = "shared",
                               .optimizer = "sgd",
                               .outputs = MTBAL_OUT_NORMS};
}

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static mtbal_status check_dump(const mtbal_options *options, mtbal_diag *diag)
{
    const mtbal_pass *p = mtbal_passes;
    while (options->dump_after && p->name && strcmp(p->name, options->dump_after))
        p++;
    return p->name || !options->dump_after
               ? MTBAL_OK
               : mtbal_fail(diag, MTBAL_USAGE, "--dump-after",
                            "mtbal-rewrite --list-passes lists them", "there is no pass '%s'",
                            options->dump_after);
}

mtbal_status mtbal_rewrite(mtbal_model *model, const mtbal_options *options,
                           mtbal_context **context, mtbal_diag *diag)
{
    mtbal_context *c = mtbal_arena_alloc(model->arena, sizeof *c);
    if (!c)
        return mtbal_no_memory(diag);
    *c = (mtbal_context){.model = model, .graph = model->graph, .options = options, .diag = diag};
    MTBAL_TRY(check_dump(options, diag));
    for (const mtbal_pass *p = mtbal_passes; p->name; p++) {
        double start = milliseconds();
        MTBAL_TRY(p->run(c));
        if (options->verify_between)
            MTBAL_TRY(mtbal_verify(model, diag));
        if (options->time_to)
            fprintf(options->time_to, "%-10s %8.3f ms\n", p->name, milliseconds() - start);
        if (options->dump_after && !strcmp(p->name, options->dump_after))
            mtbal_print_model(options->dump_to, model, 16);
    }
    *context = c;
    return MTBAL_OK;
}
