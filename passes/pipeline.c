/* passes/pipeline.c: the pipeline, as one array. */
#include "passes/internal.h"

#include <assert.h>
#include <string.h>
#include <time.h>

mtbal_status mtbal_pass_sort(mtbal_context *c)
{
    return mtbal_verify(c->model, c->diag);
}

mtbal_status mtbal_pass_upgrade(mtbal_context *c)
{
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

mtbal_status mtbal_pass_expand(mtbal_context *c)
{
    return c->options->inline_functions ? mtbal_inline_functions(c->model, false, c->diag)
                                        : MTBAL_OK;
}

/* A pass makes the property of its own name: "sort": nodes stand in topological order; "types":
 * every value has its type; "tasks", "params", and from "sweep" to "combine": the context has them.
 * Needs that a pass between has broken are made again. */
const mtbal_pass mtbal_passes[] = {
    {"sort", "", "", "is it a graph? sorts it topologically", mtbal_pass_sort},
    {"named", "sort", "", "makes operands of the tensors that Gradient nodes name",
     mtbal_pass_named},
    {"upgrade", "sort", "types", "raises models below opset 17 to it", mtbal_pass_upgrade},
    {"inline", "sort", "types", "replaces calls of model-local functions by their bodies",
     mtbal_pass_inline},
    {"types", "sort", "", "infers types and shapes", mtbal_pass_types},
    {"control", "types", "",
     "folds shape arithmetic, takes the branch of a constant If, unrolls a Loop of constant count",
     mtbal_pass_control},
    {"training", "control", "",
     "replaces ONNX's training operators (Gradient, Adam, Adagrad, Momentum) by standard ones",
     mtbal_pass_training},
    {"hoist", "sort", "", "makes initializers of weights in Constant nodes", mtbal_pass_hoist},
    {"losses", "types", "", "adds the losses that --loss names", mtbal_pass_losses},
    {"untie", "sort", "", "separates what the exporter tied (--untie)", mtbal_pass_untie},
    {"tasks", "types", "", "finds the tasks", mtbal_pass_tasks},
    {"params", "tasks", "", "finds the parameters, the trunk and the heads", mtbal_pass_params},
    {"scope", "params", "", "decides what the gradient norm is taken over", mtbal_pass_scope},
    {"diagnose", "params", "", "warns before anyone trains in vain", mtbal_pass_diagnose},
    {"sweep", "params types", "",
     "differentiates each loss back to where its head leaves the trunk", mtbal_pass_sweep},
    {"measure", "sweep", "",
     "norms and Gram matrix of the task gradients, where --outputs or --balance asks for them",
     mtbal_pass_measure},
    {"weigh", "measure", "", "adds the weight of each task and the balanced total",
     mtbal_pass_weigh},
    {"combine", "weigh", "", "the gradient of the balanced total: one weighted backward",
     mtbal_pass_combine},
    {"outputs", "combine", "", "adds the outputs: total, weights, norms, cosines",
     mtbal_pass_outputs},
    {"optimizer", "combine", "", "adds the update of the parameters", mtbal_pass_optimizer},
    {"states", "optimizer", "", "binds every state to its next value", mtbal_pass_states},
    {"fold", "types", "", "turns shape arithmetic that is known into constants", mtbal_pass_fold},
    {"merge", "sort", "", "merges nodes of ours that compute the same", mtbal_pass_merge},
    {"dead", "sort", "", "removes what nobody uses", mtbal_pass_dead},
    {"expand", "sort", "types", "inlines our functions (--inline-functions)", mtbal_pass_expand},
    {"metadata", "states", "", "records tasks, parameters and states in the metadata",
     mtbal_pass_metadata},
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

/* ------------------------------------------------------------------ the manager */

static const mtbal_pass *find_pass(const char *name, size_t length)
{
    const mtbal_pass *p = mtbal_passes;
    while (p->name && (strlen(p->name) != length || memcmp(p->name, name, length)))
        p++;
    return p->name ? p : NULL;
}

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

/* One run of the pipeline: which properties hold, a bit a pass. */
typedef struct manager {
    mtbal_context *c;
    uint32_t holds;
} manager;

static uint32_t bit_of(const mtbal_pass *pass)
{
    return (uint32_t)1 << (pass - mtbal_passes);
}

static mtbal_status run_pass(manager *m, const mtbal_pass *pass)
{
    const mtbal_options *o = m->c->options;
    for (const char *need = pass->needs; *need;) {
        size_t n = strcspn(need, " ");
        const mtbal_pass *maker = find_pass(need, n);
        assert(maker && maker < pass && "a pass needs what an earlier one makes");
        if (!(m->holds & bit_of(maker)))
            MTBAL_TRY(run_pass(m, maker));
        need += n + (need[n] == ' ');
    }
    double start = milliseconds();
    MTBAL_TRY(mtbal_poll(m->c->diag));
    MTBAL_TRY(pass->run(m->c));
    m->holds |= bit_of(pass);
    for (const char *broken = pass->breaks; *broken;) {
        size_t n = strcspn(broken, " ");
        m->holds &= ~bit_of(find_pass(broken, n));
        broken += n + (broken[n] == ' ');
    }
    if (o->time_to)
        fprintf(o->time_to, "%-10s %8.3f ms\n", pass->name, milliseconds() - start);
    return o->verify_between ? mtbal_verify(m->c->model, m->c->diag) : MTBAL_OK;
}

static mtbal_status check_dump(const mtbal_options *options, mtbal_diag *diag)
{
    const char *name = options->dump_after;
    return !name || find_pass(name, strlen(name))
               ? MTBAL_OK
               : mtbal_fail(diag, MTBAL_USAGE, "--dump-after",
                            "mtbal-rewrite --list-passes lists them", "there is no pass '%s'",
                            name);
}

static const char **names_of(mtbal_model *model, mtbal_value *const *values, int n)
{
    const char **names = mtbal_arena_array(model->arena, (size_t)n, sizeof *names);
    for (int i = 0; names && i < n; i++)
        names[i] = values[i]->name;
    return names;
}

static mtbal_context *new_context(mtbal_model *model, const mtbal_options *options,
                                  mtbal_diag *diag)
{
    mtbal_context *c = mtbal_arena_alloc(model->arena, sizeof *c);
    mtbal_graph *graph = model->graph;
    if (!c)
        return NULL;
    *c = (mtbal_context){.model = model,
                         .graph = graph,
                         .options = options,
                         .diag = diag,
                         .ninputs = graph->ninputs,
                         .noutputs = graph->noutputs,
                         .inputs = names_of(model, graph->inputs, graph->ninputs),
                         .outputs = names_of(model, graph->outputs, graph->noutputs)};
    return c->inputs && c->outputs ? c : NULL;
}

mtbal_status mtbal_rewrite(mtbal_model *model, const mtbal_options *options,
                           mtbal_context **context, mtbal_diag *diag)
{
    mtbal_diag own = {0}; /* passes look at its status */
    manager m = {new_context(model, options, diag ? diag : &own), 0};
    if (!m.c)
        return mtbal_no_memory(diag);
    if (mtbal_property_get(model, "mtbal.state"))
        return mtbal_fail(diag, MTBAL_INVALID, model->path,
                          "rewrite the original model, or get it back with --inference",
                          "this is a step graph already");
    MTBAL_TRY(check_dump(options, diag));
    if (model->ntrainings > 0)
        MTBAL_TRY(mtbal_notice_add(m.c, MTBAL_NOTE, "the model's own training_info is left out"));
    model->ntrainings = 0;
    for (const mtbal_pass *p = mtbal_passes; p->name; p++) {
        if (!(m.holds & bit_of(p)))
            MTBAL_TRY(run_pass(&m, p));
        if (options->dump_after && !strcmp(p->name, options->dump_after))
            mtbal_print_model(options->dump_to, model, 16);
    }
    *context = m.c;
    return MTBAL_OK;
}
