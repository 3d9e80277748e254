/* cli/mtbal-rewrite.c: in.onnx -> step.onnx. */
#include "cli/rewritten.h"
#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/gradients/gradients.h"
#include "train/artifacts.h"

#include <stdlib.h>
#include <string.h>

typedef struct args {
    cli_pairs tasks, losses, weights, set;
    cli_list train, freeze;
    const char *balance, *scale, *apply, *norm_over, *optimizer, *outputs, *dump_after, *target,
        *checkpoint, *states, *calibrate;
    double clip, clip_task;
    cli_emission emit;
    bool inline_functions, untie, inference, list_passes, list_operators, list_methods, time_passes,
        json, quiet, verbose;
} args;

static args a;

static char loss_help[300]; /* with the kinds of passes/losses.c */

static const cli_option options[] = {
    {"task", 0, CLI_PAIRS, &a.tasks, "NAME=OUTPUT",
     "name a task and its scalar loss output (repeatable; default:\nevery float output with one "
     "element is a task)"},
    {"loss", 0, CLI_PAIRS, &a.losses, "NAME=KIND:PRED,LABEL", loss_help},
    {"train", 0, CLI_TEXTS, &a.train, "GLOB",
     "exactly the float initializers that match are parameters\n(repeatable)"},
    {"freeze", 0, CLI_TEXTS, &a.freeze, "GLOB", "these are not (repeatable)"},
    {"balance", 0, CLI_TEXT, &a.balance, "METHOD",
     "calibrated (default), equal, imtl-g, nash: see --list-methods"},
    {"weights", 0, CLI_COMMAS, &a.weights, "T=w,...", "fixed weights instead"},
    {"scale", 0, CLI_TEXT, &a.scale, "S",
     "scalar of the weights that a step computes: mean (default;\naverage 1), sum, unit, geo, "
     "ref:T"},
    {"apply", 0, CLI_TEXT, &a.apply, "WHERE",
     "loss (default): weights multiply the losses; shared: the\ncotangents where heads leave the "
     "trunk"},
    {"norm-over", 0, CLI_TEXT, &a.norm_over, "SCOPE",
     "shared (default), last-shared, features, all, or a GLOB"},
    {"optimizer", 0, CLI_TEXT, &a.optimizer, "NAME", "sgd (default), momentum, adam, adamw, none"},
    {"set", 0, CLI_PAIRS, &a.set, "NAME=VALUE",
     "default of a hyper-parameter: lr, momentum, beta1, beta2,\nepsilon, weight_decay "
     "(repeatable)"},
    {"clip", 0, CLI_REAL, &a.clip, "NORM", "clip the gradient's global norm"},
    {"clip-task", 0, CLI_REAL, &a.clip_task, "NORM",
     "clip each task's gradient, over --norm-over, before it is\nweighted"},
    {"outputs", 0, CLI_TEXT, &a.outputs, "LIST",
     "norms (default), gram, grads, task-grads, none; comma list.\nWith --inference: the outputs "
     "to keep"},
    {"calibrate", 0, CLI_TEXT, &a.calibrate, "TRAIN.npz",
     "calibrate it too, as mtbal-calibrate does without options"},
    {"inline-functions", 0, CLI_FLAG, &a.inline_functions, NULL, "write plain nodes only"},
    {"untie", 0, CLI_FLAG, &a.untie, NULL, "give tied uses of one initializer a copy each"},
    {"inference", 0, CLI_FLAG, &a.inference, NULL,
     "the other way: the original network with trained weights"},
    {"emit-c", 0, CLI_TEXT, &a.emit.folder, "DIR",
     "write what OUT.onnx holds as C too, which depends on nothing"},
    {"emit-weights", 0, CLI_TEXT, &a.emit.weights, "HOW",
     "c (default): compiled in; file: weights.bin beside it"},
    {"batch", 0, CLI_COUNT, &a.emit.batch, "N",
     "first axis of the inputs in C, samples a step of --calibrate\n(default: the model's own "
     "where "
     "it is fixed, else 32)"},
    {"input-shape", 0, CLI_TEXTS, &a.emit.shapes, "NAME:D0,D1,..",
     "all sizes of an input in C (repeatable)"},
    {"target", 0, CLI_TEXT, &a.target, "FORM",
     "step (default); training-info: the step beside the network, as\nONNX's TrainingInfoProto; "
     "ort-training, ort-training-1.17: a folder\nof artifacts for ONNX Runtime's training "
     "sessions; "
     "standard: IN's\nown training (training_info, Gradient, Adam, ...) in standard\noperators"},
    {"checkpoint", 0, CLI_TEXT, &a.checkpoint, "C",
     "with --inference: the checkpoint of a training session"},
    {"states", 0, CLI_TEXT, &a.states, "S.npz",
     "write the states there and make them plain inputs (for\nJavaScript); also of a step graph. "
     "With --inference: take\nthem from there"},
    {"list-passes", 0, CLI_FLAG, &a.list_passes, NULL, "print the pass table"},
    {"list-operators", 0, CLI_FLAG, &a.list_operators, NULL,
     "print what can be differentiated and what mtbal-run executes"},
    {"list-methods", 0, CLI_FLAG, &a.list_methods, NULL, "print the balancing methods"},
    {"dump-after", 0, CLI_TEXT, &a.dump_after, "PASS", "print the graph as ONNX text after it"},
    {"time-passes", 0, CLI_FLAG, &a.time_passes, NULL, "print the time of each pass"},
    {"json", 0, CLI_FLAG, &a.json, NULL, "print the report as JSON"},
    {"verbose", 'v', CLI_FLAG, &a.verbose, NULL, "list parameters and states too"},
    {"quiet", 'q', CLI_FLAG, &a.quiet, NULL, "print errors and warnings only"},
    {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
};

static const cli_command command = {
    .name = "mtbal-rewrite",
    .usage = "IN.onnx OUT.onnx [options]",
    .about =
        "Rewrites a graph with several task losses into a step graph that trains them together "
        "with\nbalanced weights, in any ONNX runtime.",
    .options = options,
    .min_operands = 0,
    .max_operands = 2,
};

/* ------------------------------------------------------------------ the work */

static mtbal_status parse_outputs(mtbal_options *o, mtbal_diag *diag)
{
    static const struct {
        const char *name;
        unsigned bits;
    } known[] = {{"none", MTBAL_OUT_NONE},
                 {"norms", MTBAL_OUT_NORMS},
                 {"gram", MTBAL_OUT_GRAM},
                 {"grads", MTBAL_OUT_GRADS},
                 {"task-grads", MTBAL_OUT_TASK_GRADS}};
    if (!a.outputs)
        return MTBAL_OK;
    o->outputs = 0;
    for (const char *p = a.outputs; *p;) {
        size_t length = strcspn(p, ","), i = 0, n = sizeof known / sizeof *known;
        while (i < n && (strlen(known[i].name) != length || memcmp(known[i].name, p, length)))
            i++;
        if (i == n)
            return mtbal_fail(diag, MTBAL_USAGE, "--outputs",
                              "choose from norms, gram, grads, task-grads, none",
                              "'%.*s' cannot be measured", (int)length, p);
        o->outputs |= known[i].bits;
        p += length + (p[length] == ',');
    }
    return MTBAL_OK;
}

static mtbal_status make_options(mtbal_options *o, mtbal_diag *diag)
{
    mtbal_options_default(o);
    o->ntasks = a.tasks.count, o->tasks = a.tasks.items;
    o->nlosses = a.losses.count, o->losses = a.losses.items;
    o->nweights = a.weights.count, o->weights = a.weights.items;
    o->nset = a.set.count, o->set = a.set.items;
    o->ntrain = a.train.count, o->train = a.train.items;
    o->nfreeze = a.freeze.count, o->freeze = a.freeze.items;
    const struct {
        const char *given, **into;
    } texts[] = {{a.balance, &o->balance},     {a.scale, &o->scale},
                 {a.apply, &o->apply},         {a.norm_over, &o->norm_over},
                 {a.optimizer, &o->optimizer}, {a.dump_after, &o->dump_after}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].given)
            *texts[i].into = texts[i].given;
    if (a.weights.count && a.balance && strcmp(a.balance, "weights"))
        return mtbal_fail(diag, MTBAL_USAGE, "--weights", "leave one of them out",
                          "--weights and --balance %s exclude each other", a.balance);
    if (a.weights.count)
        o->balance = "weights";
    o->clip = a.clip;
    o->clip_task = a.clip_task;
    o->target = a.target;
    o->inline_functions = a.inline_functions;
    o->untie = a.untie;
    o->dump_to = stdout;
    o->time_to = a.time_passes ? stderr : NULL;
    o->keep_outputs = a.outputs;
    return a.inference ? MTBAL_OK : parse_outputs(o, diag);
}

static bool is_target(const char *name)
{
    return !a.inference && a.target && !strcmp(a.target, name);
}

static bool writes_folder(void)
{
    return !a.inference && mtbal_is_ort_target(a.target);
}

static mtbal_status check_target(mtbal_diag *diag)
{
    static const char *const targets[] = {"step", "training-info", "standard"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (!a.target || !strcmp(a.target, targets[i]) || mtbal_is_ort_target(a.target))
            return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_USAGE, "--target",
                      "choose from step, training-info, standard, ort-training, ort-training-1.17",
                      "there is no target '%s'", a.target);
}

static mtbal_status calibrate(cli_rewritten *r, mtbal_model *model, mtbal_arena *arena,
                              mtbal_diag *diag)
{
    const mtbal_snapshot_options no_checkpoint = {.stop = &mtbal_stop};
    mtbal_calibrate_options o;
    mtbal_calibrate_default(&o);
    o.data = a.calibrate;
    o.batch = a.emit.batch;
    mtbal_status status = mtbal_snapshot_open(&no_checkpoint, &o.snapshot, diag);
    if (status == MTBAL_OK)
        status = mtbal_calibrate_model(model, r->out, &o, arena, &r->calibrations,
                                       &r->ncalibrations, NULL, NULL, diag);
    mtbal_snapshot_close(o.snapshot, false);
    return status;
}

/* The model and its states: both are on the disk before either gets its name. */
static mtbal_status write_split(mtbal_model *model, const char *out, mtbal_diag *diag)
{
    mtbal_writer states;
    MTBAL_TRY(mtbal_states_split(model, a.states, &states, diag));
    mtbal_status status = mtbal_onnx_write(model, out, diag);
    if (status == MTBAL_OK)
        return mtbal_writer_commit(&states, diag);
    mtbal_writer_abort(&states);
    return status;
}

/* Where the result goes, and in which form. */
static mtbal_status convert(cli_rewritten *r, mtbal_model *model, const mtbal_options *o,
                            mtbal_context **context, mtbal_arena *arena, mtbal_diag *diag)
{
    if (a.calibrate && (a.inference || writes_folder()))
        return mtbal_fail(diag, MTBAL_USAGE, "--calibrate",
                          a.inference ? "leave one of them out"
                                      : "calibrate a step graph, then give that as IN",
                          "what is calibrated is a step graph, not %s",
                          a.inference ? "an inference graph" : "--target ort-training");
    if (a.checkpoint && !a.inference)
        return mtbal_fail(diag, MTBAL_USAGE, "--checkpoint", "add --inference",
                          "a checkpoint is read on the way back only");
    if (a.inference) {
        if (!a.checkpoint && mtbal_is_training_model(model))
            return mtbal_fail(diag, MTBAL_USAGE, r->in, "add --checkpoint FILE",
                              "the weights of a training model are in its checkpoint");
        if (a.checkpoint)
            MTBAL_TRY(mtbal_artifacts_load(model, a.checkpoint, diag));
        if (a.states)
            MTBAL_TRY(mtbal_states_load(model, a.states, diag));
        MTBAL_TRY(mtbal_inference(model, o, diag));
        return mtbal_onnx_write(model, r->out, diag);
    }
    if (writes_folder() && a.emit.folder)
        return mtbal_fail(diag, MTBAL_USAGE, "--emit-c", "leave one of them out",
                          "C is made of a step graph, not of --target ort-training");
    if (a.states && (writes_folder() || a.emit.folder))
        return mtbal_fail(diag, MTBAL_USAGE, "--states", "leave one of them out",
                          "artifacts and C keep their states in a form of their own");
    if (writes_folder())
        return mtbal_artifacts_write(model, o, r->out, context, diag);
    if (a.states && (a.calibrate || is_target("training-info") || is_target("standard")))
        return mtbal_fail(diag, MTBAL_USAGE, "--states",
                          "take the states apart in a second command",
                          "this result keeps its states");
    if (is_target("standard"))
        MTBAL_TRY(mtbal_standard_form(model, diag));
    else if (!a.states || !mtbal_property_get(model, "mtbal.state"))
        MTBAL_TRY(mtbal_rewrite(model, o, context, diag));
    if (is_target("training-info"))
        MTBAL_TRY(mtbal_training_info(*context));
    if (a.states)
        return write_split(model, r->out, diag);
    return a.calibrate ? calibrate(r, model, arena, diag) : mtbal_onnx_write(model, r->out, diag);
}

static mtbal_status rewrite(cli_rewritten *r, mtbal_model **model, mtbal_arena *arena,
                            mtbal_diag *diag)
{
    mtbal_options o;
    MTBAL_TRY(make_options(&o, diag));
    MTBAL_TRY(check_target(diag));
    MTBAL_TRY(cli_emission_check(&a.emit, arena, diag));
    if (a.emit.batch && !a.emit.folder && !a.calibrate)
        return mtbal_fail(diag, MTBAL_USAGE, "--batch", "add --emit-c DIR or --calibrate TRAIN.npz",
                          "nothing here has a batch");
    double start = cli_seconds();
    MTBAL_TRY(mtbal_onnx_read(r->in, model, diag));
    r->bytes_before = cli_rewritten_size("%s", r->in, arena);
    MTBAL_TRY(cli_rewritten_count(r, *model, false, diag));
    mtbal_context *context = NULL;
    MTBAL_TRY(convert(r, *model, &o, &context, arena, diag));
    r->context = context;
    r->seconds = cli_seconds() - start;
    r->bytes_after =
        cli_rewritten_size(writes_folder() ? "%s/training_model.onnx" : "%s", r->out, arena);
    if (a.emit.folder)
        MTBAL_TRY(cli_emit(&a.emit, r->out, &r->emitted, arena, diag));
    return cli_rewritten_count(r, *model, true, diag);
}

static void list_passes(mtbal_arena *arena)
{
    static const char *const heads[] = {"pass", "needs", "breaks", "what it does"};
    cli_table table;
    cli_table_init(&table, arena, 4, heads);
    for (const mtbal_pass *p = mtbal_passes; p->name; p++) {
        cli_cell(&table, "%s", p->name);
        cli_cell(&table, "%s", p->needs);
        cli_cell(&table, "%s", p->breaks);
        cli_cell(&table, "%s", p->what);
    }
    cli_table_print(stdout, &table);
}

static void list_methods(mtbal_arena *arena)
{
    static const char *const heads[] = {"method",       "reads",   "states",
                                        "trunk sweeps", "weights", "source"};
    cli_table table;
    cli_table_init(&table, arena, 6, heads);
    for (const mtbal_method *m = mtbal_methods; m->name; m++) {
        bool gram = m->reads & (MTBAL_READS_NORMS | MTBAL_READS_COSINES);
        cli_cell(&table, "%s", m->name);
        cli_cell(&table, "%s%s%s", m->reads & MTBAL_READS_LOSSES ? "losses " : "",
                 m->reads & MTBAL_READS_NORMS ? "norms " : "",
                 m->reads & MTBAL_READS_COSINES ? "cosines" : "");
        cli_cell(&table, "%s", m->states[0].name ? m->states[0].name : "");
        cli_cell(&table, "%s", gram ? "1 a task" : "1");
        cli_cell(&table, "%s", m->what);
        cli_cell(&table, "%s", m->source);
    }
    cli_table_print(stdout, &table);
    printf("\nWith --norm-over features, or without shared parameters, norms and cosines need one "
           "sweep.\n");
}

/* The operator page: docs/operators.md is this output, and a test compares them. */
static void list_operators(void)
{
    printf(
        "# Operators\n\nGradient: yes; zero by definition; or no (refused on a path to a "
        "parameter). Runtime: does "
        "`mtbal-run` execute it.\nA step graph runs in any ONNX runtime, whatever the second "
        "column says. Sequences of known length become their elements, a Loop of known count its "
        "body, so many times;\nwhat a mask selects stays beside the mask.\n\n"
        "| operator | gradient | runtime |\n|---|---|---|\n");
    for (int i = 0; i < MTBAL_NOPS; i++)
        if (!*mtbal_ops[i].domain)
            printf("| %s | %s | %s |\n", mtbal_ops[i].name, mtbal_gradient_how(i), mtbal_lowers(i));
}

static mtbal_status work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag)
{
    if (a.list_passes)
        list_passes(arena);
    else if (a.list_operators)
        list_operators();
    else if (a.list_methods)
        list_methods(arena);
    if (a.list_passes || a.list_operators || a.list_methods)
        return MTBAL_OK;
    if (!operands[1])
        return mtbal_fail(diag, MTBAL_USAGE, "",
                          "usage: mtbal-rewrite IN.onnx OUT.onnx [options]; -h lists them",
                          "%s is missing", operands[0] ? "the output file" : "the input file");
    cli_rewritten r = {.arena = arena,
                       .in = operands[0],
                       .out = operands[1],
                       .c_folder = a.emit.folder,
                       .json = a.json,
                       .quiet = a.quiet,
                       .verbose = a.verbose,
                       .calibrated = a.calibrate != NULL};
    mtbal_model *model = NULL;
    mtbal_status status = rewrite(&r, &model, arena, diag);
    if (status == MTBAL_OK)
        cli_rewritten_print(&r);
    mtbal_model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    char kinds[200];
    mtbal_loss_kinds(kinds, sizeof kinds);
    snprintf(loss_help, sizeof loss_help, "add a loss to a head (repeatable):\n%s", kinds);
    return cli_main(&command, argc, argv, work);
}
