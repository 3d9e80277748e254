/* cli/mtbal-rewrite.c: in.onnx -> step.onnx. */
#include "cli/cli.h"
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
    double clip;
    cli_emission emit;
    bool inline_functions, untie, inference, list_passes, list_operators, time_passes, json, quiet,
        verbose;
} args;

static args a;

static const cli_option options[] = {
    {"task", 0, CLI_PAIRS, &a.tasks, "NAME=OUTPUT",
     "name a task and its scalar loss output (repeatable; default:\nevery float output with one "
     "element is a task)"},
    {"loss", 0, CLI_PAIRS, &a.losses, "NAME=KIND:PRED,LABEL",
     "add a loss to a head: cross-entropy, bce-logits, mse, l1,\nhuber, nll, cosine, kl "
     "(repeatable)"},
    {"train", 0, CLI_TEXTS, &a.train, "GLOB",
     "exactly the float initializers that match are parameters\n(repeatable)"},
    {"freeze", 0, CLI_TEXTS, &a.freeze, "GLOB", "these are not (repeatable)"},
    {"balance", 0, CLI_TEXT, &a.balance, "METHOD", "calibrated (default), equal"},
    {"weights", 0, CLI_COMMAS, &a.weights, "T=w,...", "fixed weights instead"},
    {"scale", 0, CLI_TEXT, &a.scale, "S",
     "scalar of the calibrated weights: mean (default; average 1),\nsum, unit, geo, ref:T"},
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

/* ------------------------------------------------------------------ the report */

typedef struct op_count {
    const char *domain, *op;
    int before, after;
} op_count;
typedef struct op_counts {
    int count, capacity;
    op_count *items;
    bool after;
    mtbal_arena *arena;
} op_counts;

static mtbal_status count_op(mtbal_node *node, void *context)
{
    op_counts *c = context;
    int i = 0;
    while (i < c->count &&
           (strcmp(c->items[i].op, node->op) || strcmp(c->items[i].domain, node->domain)))
        i++;
    if (i == c->count) {
        if (c->count == c->capacity) {
            int capacity = c->capacity ? 2 * c->capacity : 64;
            op_count *bigger = mtbal_arena_array(c->arena, (size_t)capacity, sizeof *bigger);
            if (!bigger)
                return MTBAL_NOMEM;
            if (c->count)
                memcpy(bigger, c->items, (size_t)c->count * sizeof *bigger);
            c->items = bigger;
            c->capacity = capacity;
        }
        c->items[c->count++] = (op_count){mtbal_intern(c->arena, node->domain),
                                          mtbal_intern(c->arena, node->op), 0, 0};
    }
    *(c->after ? &c->items[i].after : &c->items[i].before) += 1;
    return MTBAL_OK;
}

static int by_name(const void *x, const void *y)
{
    const op_count *p = x, *q = y;
    int domain = strcmp(p->domain, q->domain);
    return domain ? domain : strcmp(p->op, q->op);
}

typedef struct report {
    const char *in, *out;
    const mtbal_context *context;
    op_counts ops;
    int nodes_before, nodes_after;
    int64_t bytes_before, bytes_after;
    double seconds;
    mtbal_plan_info emitted;
    mtbal_calibration *calibrations; /* [ncalibrations], with --calibrate */
    int ncalibrations;
} report;

/* Of the main graph, and of the training steps beside it. */
static mtbal_status count_ops(report *r, const mtbal_model *model, mtbal_diag *diag)
{
    mtbal_status status = mtbal_graph_walk(model->graph, count_op, &r->ops);
    for (int i = 0; i < model->ntrainings && status == MTBAL_OK; i++)
        if (model->trainings[i]->algorithm)
            status = mtbal_graph_walk(model->trainings[i]->algorithm, count_op, &r->ops);
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}

static int64_t size_of(const char *form, const char *name, mtbal_arena *arena)
{
    const char *path = mtbal_arena_printf(arena, form, name);
    FILE *file = path ? fopen(path, "rb") : NULL;
    long size = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
    if (file)
        fclose(file);
    return size;
}

static const char *task_list(uint64_t reach, const mtbal_context *c, char *buffer, size_t size)
{
    size_t n = 0;
    buffer[0] = 0;
    for (int i = 0; i < c->ntasks && n < size; i++)
        if (reach >> c->tasks[i].index & 1)
            n += (size_t)snprintf(buffer + n, size - n, "%s%s", n ? " " : "", c->tasks[i].name);
    return buffer;
}

static int shared_of(const mtbal_context *c, int task, int64_t *elements)
{
    int shared = 0;
    for (int p = 0; p < c->nparams; p++) {
        uint64_t reach = c->params[p].reach;
        bool mine = reach >> c->tasks[task].index & 1;
        shared += mine && (reach & (reach - 1));
        if (mine)
            *elements += mtbal_shape_count(&c->params[p].value->type);
    }
    return shared;
}

static void print_tasks(const mtbal_context *c, mtbal_arena *arena)
{
    static const char *const heads[] = {"task", "loss output", "parameters", "of them shared",
                                        "values"};
    cli_table table;
    cli_table_init(&table, arena, 5, heads);
    for (int i = 0; i < c->ntasks; i++) {
        int64_t elements = 0;
        int shared = shared_of(c, i, &elements);
        cli_cell(&table, "%s", c->tasks[i].name);
        cli_cell(&table, "%s", c->tasks[i].loss->name);
        cli_cell(&table, "%d", c->tasks[i].nparams);
        cli_cell(&table, "%d", shared);
        cli_cell(&table, "%lld", (long long)elements);
    }
    cli_table_print(stdout, &table);
}

static void print_params(const mtbal_context *c, mtbal_arena *arena)
{
    static const char *const heads[] = {"parameter", "values", "norm scope", "reached by"};
    char tasks[512];
    cli_table table;
    cli_table_init(&table, arena, 4, heads);
    for (int i = 0; i < c->nparams; i++) {
        cli_cell(&table, "%s", c->params[i].value->name);
        cli_cell(&table, "%lld", (long long)mtbal_shape_count(&c->params[i].value->type));
        cli_cell(&table, "%s", c->params[i].in_scope ? "yes" : "no");
        cli_cell(&table, "%s", task_list(c->params[i].reach, c, tasks, sizeof tasks));
    }
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_ops(const report *r, mtbal_arena *arena)
{
    static const char *const heads[] = {"op", "before", "after"};
    cli_table table;
    char before[32], after[32];
    cli_table_init(&table, arena, 3, heads);
    for (int i = 0; i < r->ops.count; i++) {
        const op_count *op = &r->ops.items[i];
        cli_cell(&table, "%s%s%s", op->domain, *op->domain ? "." : "", op->op);
        cli_cell(&table, "%d", op->before);
        cli_cell(&table, "%d", op->after);
    }
    cli_cell(&table, "all nodes");
    cli_cell(&table, "%d", r->nodes_before);
    cli_cell(&table, "%d", r->nodes_after);
    cli_cell(&table, "file size");
    cli_cell(&table, "%s", cli_bytes(before, (double)r->bytes_before));
    cli_cell(&table, "%s", cli_bytes(after, (double)r->bytes_after));
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_notices(const mtbal_context *c, bool quiet)
{
    for (int i = 0; i < c->nnotices; i++)
        if (c->notices[i].level == MTBAL_WARNING || !quiet)
            fprintf(stderr, "%s: %s\n", c->notices[i].level == MTBAL_WARNING ? "warning" : "note",
                    c->notices[i].text);
}

static void print_json(const report *r)
{
    const mtbal_context *c = r->context;
    cli_json json = {.to = stdout};
    json_open(&json, NULL, '{');
    json_text(&json, "input", r->in);
    json_text(&json, "output", r->out);
    json_open(&json, "tasks", '[');
    for (int i = 0; i < c->ntasks; i++) {
        int64_t elements = 0;
        int shared = shared_of(c, i, &elements);
        json_open(&json, NULL, '{');
        json_text(&json, "name", c->tasks[i].name);
        json_text(&json, "loss", c->tasks[i].loss->name);
        json_int(&json, "parameters", c->tasks[i].nparams);
        json_int(&json, "shared", shared);
        json_int(&json, "values", elements);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "parameters", '[');
    for (int i = 0; i < c->nparams; i++) {
        json_open(&json, NULL, '{');
        json_text(&json, "name", c->params[i].value->name);
        json_int(&json, "values", mtbal_shape_count(&c->params[i].value->type));
        json_bool(&json, "in_norm", c->params[i].in_scope);
        json_open(&json, "tasks", '[');
        for (int t = 0; t < c->ntasks; t++)
            if (c->params[i].reach >> c->tasks[t].index & 1)
                json_text(&json, NULL, c->tasks[t].name);
        json_close(&json, ']');
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "states", '[');
    for (int i = 0; i < c->nstates; i++)
        json_text(&json, NULL, c->states[i].value->name);
    json_close(&json, ']');
    json_open(&json, "notices", '[');
    for (int i = 0; i < c->nnotices; i++) {
        json_open(&json, NULL, '{');
        json_text(&json, "level", c->notices[i].level == MTBAL_WARNING ? "warning" : "note");
        json_text(&json, "text", c->notices[i].text);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "ops", '{');
    for (int i = 0; i < r->ops.count; i++) {
        char name[160];
        const op_count *op = &r->ops.items[i];
        snprintf(name, sizeof name, "%s%s%s", op->domain, *op->domain ? "." : "", op->op);
        json_open(&json, name, '{');
        json_int(&json, "before", op->before);
        json_int(&json, "after", op->after);
        json_close(&json, '}');
    }
    json_close(&json, '}');
    json_int(&json, "nodes_before", r->nodes_before);
    json_int(&json, "nodes_after", r->nodes_after);
    json_int(&json, "bytes_before", r->bytes_before);
    json_int(&json, "bytes_after", r->bytes_after);
    if (a.emit.folder) {
        json_open(&json, "c", '{');
        json_text(&json, "folder", a.emit.folder);
        json_int(&json, "calls", r->emitted.ncalls);
        json_int(&json, "arena_bytes", (int64_t)r->emitted.arena_bytes);
        json_int(&json, "arena_lower_bound", (int64_t)r->emitted.arena_lower_bound);
        json_int(&json, "state_bytes", (int64_t)r->emitted.state_bytes);
        json_close(&json, '}');
    }
    if (a.calibrate) {
        json_open(&json, "calibration", '{');
        for (int i = 0; i < r->ncalibrations; i++)
            json_number(&json, r->calibrations[i].task, r->calibrations[i].g);
        json_close(&json, '}');
    }
    json_number(&json, "seconds", r->seconds);
    json_close(&json, '}');
    printf("\n");
}

static void print_emission(const report *r)
{
    char arena[32], states[32];
    if (a.emit.folder)
        printf("  %s: %d calls, arena %s, states %s\n", a.emit.folder, r->emitted.ncalls,
               cli_bytes(arena, (double)r->emitted.arena_bytes),
               cli_bytes(states, (double)r->emitted.state_bytes));
}

static void print_calibrations(const report *r, mtbal_arena *arena)
{
    static const char *const heads[] = {"task", "G", "loss", "epochs"};
    cli_table table;
    cli_table_init(&table, arena, 4, heads);
    for (int i = 0; i < r->ncalibrations; i++) {
        const mtbal_calibration *c = &r->calibrations[i];
        cli_cell(&table, "%s", c->task);
        cli_cell(&table, "%.5g", c->g);
        cli_cell(&table, "%.5g", c->loss);
        cli_cell(&table, "%lld", (long long)c->epochs);
    }
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_report(report *r, mtbal_arena *arena)
{
    cli_calibration_warn(r->calibrations, r->ncalibrations);
    qsort(r->ops.items, (size_t)r->ops.count, sizeof *r->ops.items, by_name);
    for (int i = 0; i < r->ops.count; i++) {
        r->nodes_before += r->ops.items[i].before;
        r->nodes_after += r->ops.items[i].after;
    }
    if (a.json) {
        print_json(r);
        return;
    }
    print_notices(r->context, a.quiet);
    if (a.quiet)
        return;
    printf("%s: %d tasks, %d parameters, %d states\n\n", r->out, r->context->ntasks,
           r->context->nparams, r->context->nstates);
    print_tasks(r->context, arena);
    if (a.verbose)
        print_params(r->context, arena);
    print_ops(r, arena);
    if (a.calibrate)
        print_calibrations(r, arena);
    printf("\n  rewritten%s in %.1f ms\n", a.calibrate ? " and calibrated" : "", 1e3 * r->seconds);
    print_emission(r);
}

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

static mtbal_status calibrate(report *r, mtbal_model *model, mtbal_arena *arena, mtbal_diag *diag)
{
    const mtbal_snapshot_options no_checkpoint = {.stop = &cli_stop};
    mtbal_calibrate_options o;
    mtbal_calibrate_default(&o);
    o.data = a.calibrate;
    o.batch = a.emit.batch;
    cli_catch_signals();
    mtbal_status status = mtbal_snapshot_open(&no_checkpoint, &o.snapshot, diag);
    if (status == MTBAL_OK)
        status = mtbal_calibrate_model(model, r->out, &o, arena, &r->calibrations,
                                       &r->ncalibrations, NULL, NULL, diag);
    mtbal_snapshot_close(o.snapshot, false);
    return status;
}

/* Where the result goes, and in which form. */
static mtbal_status convert(report *r, mtbal_model *model, const mtbal_options *o,
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
        MTBAL_TRY(mtbal_states_split(model, a.states, diag));
    return a.calibrate ? calibrate(r, model, arena, diag) : mtbal_onnx_write(model, r->out, diag);
}

static mtbal_status rewrite(report *r, mtbal_model **model, mtbal_arena *arena, mtbal_diag *diag)
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
    r->ops.arena = arena;
    r->bytes_before = size_of("%s", r->in, arena);
    MTBAL_TRY(count_ops(r, *model, diag));
    mtbal_context *context = NULL;
    MTBAL_TRY(convert(r, *model, &o, &context, arena, diag));
    r->context = context;
    r->seconds = cli_seconds() - start;
    r->bytes_after = size_of(writes_folder() ? "%s/training_model.onnx" : "%s", r->out, arena);
    if (a.emit.folder)
        MTBAL_TRY(cli_emit(&a.emit, r->out, &r->emitted, arena, diag));
    r->ops.after = true;
    return count_ops(r, *model, diag);
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

/* The operator page: docs/operators.md is this output, and a test compares them. */
static void list_operators(void)
{
    printf("# Operators\n\nGradient: yes; zero by definition; or no (refused on a path to a "
           "parameter). Runtime: does "
           "`mtbal-run` execute it.\nA step graph runs in any ONNX runtime, whatever the second "
           "column says.\n\n"
           "| operator | gradient | runtime |\n|---|---|---|\n");
    for (int i = 0; i < MTBAL_NOPS; i++) {
        bool stop = false, rule = mtbal_gradient_rule(i, &stop) != NULL;
        if (!*mtbal_ops[i].domain)
            printf("| %s | %s | %s |\n", mtbal_ops[i].name,
                   rule   ? "yes"
                   : stop ? "zero"
                          : "no",
                   mtbal_lowers(i) ? "yes" : "no");
    }
}

static mtbal_status work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag)
{
    if (a.list_passes)
        list_passes(arena);
    else if (a.list_operators)
        list_operators();
    if (a.list_passes || a.list_operators)
        return MTBAL_OK;
    if (!operands[1])
        return mtbal_fail(diag, MTBAL_USAGE, "",
                          "usage: mtbal-rewrite IN.onnx OUT.onnx [options]; -h lists them",
                          "%s is missing", operands[0] ? "the output file" : "the input file");
    report r = {.in = operands[0], .out = operands[1]};
    mtbal_model *model = NULL;
    mtbal_status status = rewrite(&r, &model, arena, diag);
    if (status == MTBAL_OK && r.context) {
        print_report(&r, arena);
    } else if (status == MTBAL_OK && !a.quiet) {
        printf("%s: %lld bytes, written in %.1f ms\n", r.out, (long long)r.bytes_after,
               1e3 * r.seconds);
        print_emission(&r);
    }
    mtbal_model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    return cli_main(&command, argc, argv, work);
}
