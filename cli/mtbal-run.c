/* cli/mtbal-run.c: runs a graph over data. A step graph trains; any other is evaluated. */
#include "cli/cli.h"
#include "cli/page.h"
#include "train/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct args {
    const char *data, *inputs, *outputs, *save, *log, *report, *checkpoint;
    int64_t batch, epochs, seed, threads, norm_every, limit, warmup, every;
    bool shuffle, cosine, initialize, resume, json, quiet, verbose;
    cli_pairs set;
    cli_list metrics;
} args;

static args a = {.norm_every = 1};

static const cli_option options[] = {
    {"data", 0, CLI_TEXT, &a.data, "D.npz",
     "one array per graph input, named as the input, samples along\nthe first axis"},
    {"inputs", 0, CLI_TEXT, &a.inputs, "X.npz", "the inputs of one run, as they are"},
    {"outputs", 0, CLI_TEXT, &a.outputs, "Y.npz", "write what the graph's outputs were"},
    {"batch", 0, CLI_COUNT, &a.batch, "N",
     "samples a step (default: the model's own where it is fixed,\nelse 32)"},
    {"epochs", 0, CLI_COUNT, &a.epochs, "N", "times over the data (default 1)"},
    {"limit", 0, CLI_COUNT, &a.limit, "STEPS", "stop after so many steps"},
    {"shuffle", 0, CLI_FLAG, &a.shuffle, NULL, "a new order of the samples in every epoch"},
    {"seed", 0, CLI_COUNT, &a.seed, "S", "of the order and of random operators (default 0)"},
    {"cosine", 0, CLI_FLAG, &a.cosine, NULL, "let the learning rate fall to 0 over the run"},
    {"warmup", 0, CLI_COUNT, &a.warmup, "N", "let the learning rate rise over the first N steps"},
    {"set", 0, CLI_PAIRS, &a.set, "NAME=VALUE",
     "fill an input, a state or a hyper-parameter (lr, ...) with a\nnumber (repeatable)"},
    {"initialize", 0, CLI_FLAG, &a.initialize, NULL,
     "begin as the initialization in training_info says, not with\nthe stored values"},
    {"threads", 0, CLI_COUNT, &a.threads, "N",
     "default: one per processor; does not change results"},
    {"norm-every", 0, CLI_COUNT, &a.norm_every, "N",
     "measure norms and cosines on every N-th step (default 1; 0: never)"},
    {"save", 0, CLI_TEXT, &a.save, "OUT.onnx", "write the step graph with its new states"},
    {"log", 0, CLI_TEXT, &a.log, "L.jsonl", "write one JSON object per step"},
    {"report", 0, CLI_TEXT, &a.report, "R.html", "write a page that shows the training"},
    {"metric", 0, CLI_TEXTS, &a.metrics, "KIND:PRED,TARGET",
     "print accuracy, rmse, nrmse or mae of an output against an\narray of the data (repeatable)"},
    {"checkpoint", 0, CLI_TEXT, &a.checkpoint, "FILE", "default, with --save: OUT.onnx.checkpoint"},
    {"checkpoint-every", 0, CLI_COUNT, &a.every, "N", "steps between two (default: half a minute)"},
    {"resume", 0, CLI_FLAG, &a.resume, NULL,
     "go on from the checkpoint, if there is one, to the same bits"},
    {"json", 0, CLI_FLAG, &a.json, NULL, "print the summary as JSON"},
    {"verbose", 'v', CLI_FLAG, &a.verbose, NULL, "print every step"},
    {"quiet", 'q', CLI_FLAG, &a.quiet, NULL, "print errors only"},
    {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
};

static const cli_command command = {
    .name = "mtbal-run",
    .usage = "MODEL.onnx [--data D.npz | --inputs X.npz] [options]",
    .about =
        "Runs a graph over data. A step graph trains: its states are applied after each step. Any "
        "other\ngraph is evaluated and its outputs are joined.",
    .options = options,
    .min_operands = 1,
    .max_operands = 1,
};

/* Sums over an epoch, of one task. */
typedef struct tally {
    double first_loss, loss, grad_norm, weight;
    int64_t count, measured;
} tally;

/* Mean of a scalar output of a graph that is evaluated, weighted by samples. */
typedef struct reading {
    double sum, samples;
} reading;

typedef struct run {
    mtbal_session *session;
    reading *readings; /* [noutputs] */
    mtbal_data *data;
    mtbal_arena *arena;
    cli_log log;
    cli_progress progress;
    mtbal_trace *trace;
    mtbal_collect *collect;
    mtbal_metric *metrics; /* [a.metrics.count] */
    mtbal_metric_sum *sums;
    tally *tallies; /* [ntasks] of the present epoch */
    int64_t epoch, steps;
    double started, computing;
    double total, lr; /* of the last step; before any schedule */
    mtbal_snapshot *snapshot;
    int64_t next; /* step */
    double saved; /* when: mtbal_snapshot_due */
} run;

/* ------------------------------------------------------------------ per step */

static double mean(double sum, int64_t count)
{
    return count ? sum / (double)count : NAN;
}

/* "loss_cls 1.657 (norm 0.23, weight 1)" for every task. */
static void print_tallies(const run *r, const char *head)
{
    printf("%s", head);
    for (int i = 0; i < r->session->ntasks; i++) {
        const tally *t = &r->tallies[i];
        printf("  %s %.5g", r->session->tasks[i], mean(t->loss, t->count));
        if (t->measured)
            printf(" (norm %.3g, weight %.3g)", mean(t->grad_norm, t->measured),
                   mean(t->weight, t->count));
    }
    printf("\n");
    fflush(stdout);
}

static void end_epoch(run *r)
{
    char head[64];
    int64_t every = a.epochs > 10 ? a.epochs / 10 : 1;
    snprintf(head, sizeof head, "epoch %lld ", (long long)r->epoch + 1);
    if ((r->epoch + 1) % every == 0 && !a.quiet && !a.json && r->session->ntasks &&
        r->session->is_step && !a.verbose && !r->progress.live)
        print_tallies(r, head);
}

static void add_tally(run *r, const mtbal_record *record)
{
    if (record->epoch != r->epoch) {
        end_epoch(r);
        for (int i = 0; i < r->session->ntasks; i++) {
            double first = r->tallies[i].first_loss;
            r->tallies[i] = (tally){.first_loss = first};
        }
        for (int m = 0; m < a.metrics.count && r->session->is_step; m++)
            r->sums[m] = (mtbal_metric_sum){0};
        r->epoch = record->epoch;
    }
    for (int i = 0; i < r->session->ntasks; i++) {
        tally *t = &r->tallies[i];
        if (record->step == 0)
            t->first_loss = record->loss[i];
        t->loss += record->loss[i];
        t->weight += record->weight[i];
        t->count++;
        if (record->measured) {
            t->grad_norm += record->grad_norm[i];
            t->measured++;
        }
    }
}

static void print_step(const run *r, const mtbal_record *record)
{
    printf("step %lld  total %.6g", (long long)record->step, record->total);
    for (int i = 0; i < r->session->ntasks; i++)
        printf("  %s %.6g (norm %.4g, weight %.4g)", r->session->tasks[i], record->loss[i],
               record->grad_norm[i], record->weight[i]);
    printf("\n");
}

static void show_progress(run *r, const mtbal_record *record)
{
    const mtbal_session *s = r->session;
    enum { MOST = 64 };
    cli_progress_row rows[MOST];
    int n = 0;
    char what[96];
    if (!cli_progress_due(&r->progress))
        return;
    for (; n < s->ntasks && n < MOST; n++) {
        const tally *t = &r->tallies[n];
        rows[n] = (cli_progress_row){s->tasks[n], mean(t->loss, t->count),
                                     mean(t->grad_norm, t->measured), mean(t->weight, t->count)};
    }
    snprintf(what, sizeof what, "epoch %lld  step %lld of %lld", (long long)record->epoch + 1,
             (long long)record->step + 1, (long long)record->steps_total);
    cli_progress_draw(&r->progress, what, (double)(record->step + 1) / (double)record->steps_total,
                      n, rows);
}

static mtbal_status on_step(void *context, const mtbal_record *record, mtbal_diag *diag)
{
    run *r = context;
    add_tally(r, record);
    r->steps++;
    r->computing += record->seconds;
    r->total = record->total;
    r->lr = record->program->lr;
    for (int i = 0; i < r->session->noutputs && !r->session->is_step; i++) {
        double x = mtbal_program_scalar(record->program, r->session->outputs[i]);
        r->readings[i].sum += x * (double)record->samples;
        r->readings[i].samples += (double)record->samples;
    }
    for (int m = 0; m < a.metrics.count; m++)
        MTBAL_TRY(mtbal_metric_add(&r->metrics[m], record->program, r->data, record->order,
                                   record->samples, &r->sums[m], diag));
    cli_log_step(&r->log, CLI_ALL_TASKS, record);
    if (r->trace)
        mtbal_trace_step(r->trace, 0, record);
    if (a.verbose && !a.quiet && !a.json)
        print_step(r, record);
    show_progress(r, record);
    return r->collect ? mtbal_collect_step(r->collect, record, diag) : MTBAL_OK;
}

/* ------------------------------------------------------------------ the summary */

static void summary_table(const run *r, cli_table *table)
{
    static const char *const heads[] = {"task",          "first loss", "loss",
                                        "gradient norm", "weight",     "weight x norm"};
    cli_table_init(table, r->arena, 6, heads);
    for (int i = 0; i < r->session->ntasks; i++) {
        const tally *t = &r->tallies[i];
        double norm = mean(t->grad_norm, t->measured), weight = mean(t->weight, t->count);
        cli_cell(table, "%s", r->session->tasks[i]);
        cli_cell(table, "%.6g", t->first_loss);
        cli_cell(table, "%.6g", mean(t->loss, t->count));
        cli_number_cell(table, "%.4g", norm);
        cli_number_cell(table, "%.4g", weight);
        cli_number_cell(table, "%.4g", norm * weight);
    }
}

/* Means of what a graph that is evaluated gave; metrics of any graph. */
static void readings_table(const run *r, cli_table *table)
{
    static const char *const heads[] = {"output", "mean"};
    cli_table_init(table, r->arena, 2, heads);
    for (int i = 0; i < r->session->noutputs && !r->session->is_step; i++) {
        double mean = r->readings[i].sum / r->readings[i].samples;
        if (isfinite(mean)) {
            cli_cell(table, "%s", r->session->outputs[i]);
            cli_cell(table, "%.6g", mean);
        }
    }
    for (int m = 0; m < a.metrics.count; m++) {
        const mtbal_metric *metric = &r->metrics[m];
        cli_cell(table, "%s of %s", metric->kind->name, metric->prediction);
        cli_cell(table, "%.4g%s%s", mtbal_metric_value(metric, &r->sums[m]),
                 *metric->kind->unit ? " " : "", metric->kind->unit);
    }
}

static void print_table(const run *r, void (*make)(const run *r, cli_table *table))
{
    cli_table table;
    make(r, &table);
    if (table.nrows == table.ncolumns) /* heads only */
        return;
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_summary(const run *r)
{
    double elapsed = cli_seconds() - r->started;
    if (a.json) {
        cli_json json = {.to = stdout};
        json_open(&json, NULL, '{');
        json_text(&json, "model", r->session->path);
        json_int(&json, "steps", r->steps);
        json_int(&json, "epochs", r->epoch + 1);
        json_number(&json, "seconds", elapsed);
        json_number(&json, "step_seconds", mean(r->computing, r->steps));
        json_number(&json, "total", r->total);
        json_open(&json, "tasks", '{');
        for (int i = 0; i < r->session->ntasks; i++) {
            const tally *t = &r->tallies[i];
            json_open(&json, r->session->tasks[i], '{');
            json_number(&json, "first_loss", t->first_loss);
            json_number(&json, "loss", mean(t->loss, t->count));
            json_number(&json, "grad_norm", mean(t->grad_norm, t->measured));
            json_number(&json, "weight", mean(t->weight, t->count));
            json_close(&json, '}');
        }
        json_close(&json, '}');
        json_open(&json, "metrics", '[');
        for (int m = 0; m < a.metrics.count; m++) {
            json_open(&json, NULL, '{');
            json_text(&json, "kind", r->metrics[m].kind->name);
            json_text(&json, "output", r->metrics[m].prediction);
            json_number(&json, "value", mtbal_metric_value(&r->metrics[m], &r->sums[m]));
            json_close(&json, '}');
        }
        json_close(&json, ']');
        json_close(&json, '}');
        printf("\n");
        return;
    }
    if (a.quiet)
        return;
    if (r->session->is_step)
        print_table(r, summary_table);
    print_table(r, readings_table);
    printf("\n  %lld steps in %.2f s, %.3f ms a step\n", (long long)r->steps, elapsed,
           1e3 * mean(r->computing, r->steps));
}

/* ------------------------------------------------------------------ the page */

static void facts_table(const run *r, cli_table *table)
{
    const mtbal_session *s = r->session;
    cli_facts_table(table, r->arena, s->path);
    cli_cell(table, "data");
    cli_cell(table, "%s, %lld samples, %lld a step", r->data->path, (long long)r->data->samples,
             (long long)r->data->batch);
    cli_cell(table, "length");
    cli_cell(table, "%lld steps, %lld epochs", (long long)r->steps, (long long)r->epoch + 1);
    cli_cell(table, "learning rate");
    cli_cell(table, "%.4g%s", r->lr, a.cosine ? ", falls to 0" : "");
    cli_cell(table, "order");
    cli_cell(table, a.shuffle ? "shuffled, seed %lld" : "as the data lies (seed %lld)",
             (long long)a.seed);
    for (int i = 0; i < a.set.count; i++) {
        cli_cell(table, "--set %s", a.set.items[i].name);
        cli_cell(table, "%s", a.set.items[i].value);
    }
    cli_cell(table, "time");
    cli_cell(table, "%.2f s, %.3f ms a step, %d threads", cli_seconds() - r->started,
             1e3 * mean(r->computing, r->steps), s->options.threads);
}

static mtbal_status write_report(const run *r, mtbal_diag *diag)
{
    cli_page page;
    cli_table table;
    const char *const *names = r->session->tasks;
    const char *title = mtbal_arena_printf(r->arena, "Training of %s", r->session->path);
    MTBAL_TRY(cli_page_open(&page, title ? title : "", cli_pull_verdict(r->trace, names, r->arena),
                            diag));
    cli_page_heading(&page, "Where it ended", "Means over the last epoch.");
    summary_table(r, &table);
    cli_page_table(&page, &table);
    readings_table(r, &table);
    if (a.metrics.count)
        cli_page_table(&page, &table);
    cli_page_training(&page, r->arena, "The training, step by step", r->trace, names);
    cli_page_heading(&page, "Settings", NULL);
    facts_table(r, &table);
    cli_page_table(&page, &table);
    return cli_page_close(&page, a.report, diag);
}

/* ------------------------------------------------------------------ the work */

static mtbal_status parse_metrics(run *r, mtbal_diag *diag)
{
    size_t n = (size_t)a.metrics.count + 1;
    r->metrics = mtbal_arena_array(r->arena, n, sizeof *r->metrics);
    r->sums = mtbal_arena_array(r->arena, n, sizeof *r->sums);
    if (!r->metrics || !r->sums)
        return mtbal_no_memory(diag);
    for (int m = 0; m < a.metrics.count; m++)
        MTBAL_TRY(mtbal_metric_parse(a.metrics.items[m], r->arena, &r->metrics[m], diag));
    return MTBAL_OK;
}

static mtbal_status settings(run *r, mtbal_session_options *o, mtbal_diag *diag)
{
    MTBAL_TRY(cli_settings(&a.set, r->arena, &o->set, diag));
    o->nset = a.set.count;
    o->threads = (int)(a.threads < RT_MAX_THREADS ? a.threads : RT_MAX_THREADS);
    o->all_outputs = a.outputs != NULL;
    const char **watched =
        mtbal_arena_array(r->arena, (size_t)a.metrics.count + 1, sizeof *watched);
    if (!watched)
        return mtbal_no_memory(diag);
    for (int m = 0; m < a.metrics.count; m++)
        watched[m] = r->metrics[m].prediction;
    o->nwatched = a.metrics.count;
    o->watched = watched;
    o->initialize = a.initialize;
    o->initialize_seed = (uint64_t)a.seed;
    return MTBAL_OK;
}

static mtbal_status open_all(run *r, const char *model, mtbal_diag *diag)
{
    mtbal_session_options o = {0};
    if (a.data && a.inputs)
        return mtbal_fail(diag, MTBAL_USAGE, "--data", "leave one of them out",
                          "--data and --inputs exclude each other");
    MTBAL_TRY(parse_metrics(r, diag));
    MTBAL_TRY(settings(r, &o, diag));
    MTBAL_TRY(mtbal_session_open(model, &o, &r->session, diag));
    if ((a.save || a.report) && !r->session->is_step)
        return mtbal_fail(diag, MTBAL_USAGE, model, "make a step graph with mtbal-rewrite first",
                          a.save ? "--save: this model has no states to save"
                                 : "--report shows a training, and this model has no states");
    MTBAL_TRY(
        mtbal_data_open(r->session, a.data ? a.data : a.inputs, !a.data, a.batch, &r->data, diag));
    r->tallies = mtbal_arena_array(r->arena, (size_t)r->session->ntasks + 1, sizeof *r->tallies);
    r->readings =
        mtbal_arena_array(r->arena, (size_t)r->session->noutputs + 1, sizeof *r->readings);
    r->collect = a.outputs ? mtbal_collect_new(r->session) : NULL;
    r->trace = a.report ? mtbal_trace_new(r->session->ntasks) : NULL;
    if (!r->tallies || !r->readings || (a.outputs && !r->collect) || (a.report && !r->trace))
        return mtbal_no_memory(diag);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ checkpoints */

enum { PIECES = 9 + MTBAL_TRACE_PIECES };

/* All that a training is, beside its states. */
static int list_pieces(run *r, mtbal_piece pieces[PIECES])
{
    const mtbal_piece all[] = {
        {"next", &r->next, sizeof r->next},
        {"epoch", &r->epoch, sizeof r->epoch},
        {"steps", &r->steps, sizeof r->steps},
        {"seconds", &r->computing, sizeof r->computing},
        {"total", &r->total, sizeof r->total},
        {"lr", &r->lr, sizeof r->lr},
        {"tallies", r->tallies, (size_t)r->session->ntasks * sizeof *r->tallies},
        {"metrics", r->sums, (size_t)a.metrics.count * sizeof *r->sums},
        cli_log_piece(&r->log, CLI_ALL_TASKS),
    };
    const int count = sizeof all / sizeof *all;
    memcpy(pieces, all, sizeof all);
    if (r->trace)
        mtbal_trace_pieces(r->trace, pieces + count);
    return count + (r->trace ? MTBAL_TRACE_PIECES : 0);
}

static mtbal_status between(void *context, int64_t next, mtbal_diag *diag)
{
    run *r = context;
    mtbal_piece pieces[PIECES];
    if (!mtbal_snapshot_due(r->snapshot, next, &r->saved))
        return MTBAL_OK;
    r->next = next;
    MTBAL_TRY(cli_log_sync(&r->log, diag));
    return mtbal_snapshot_save(r->snapshot, 0, r->session, list_pieces(r, pieces), pieces, diag);
}

/* What must be as it was, for a checkpoint to give the same bits; threads need not. */
static mtbal_status tie(const run *r, mtbal_diag *diag)
{
    uint64_t graph, data, metrics = 0;
    for (int m = 0; m < a.metrics.count; m++)
        metrics = mtbal_fingerprint(metrics, a.metrics.items[m], strlen(a.metrics.items[m]));
    MTBAL_TRY(mtbal_fingerprint_model(r->session->path, "", &graph, diag));
    MTBAL_TRY(mtbal_fingerprint_file(a.data ? a.data : a.inputs, &data, diag));
    const mtbal_session_options *o = &r->session->options;
    const mtbal_tie ties[] = {
        {"command", 2, MTBAL_USAGE},
        {"step graph", graph, MTBAL_INVALID},
        {a.data ? "--data" : "--inputs", data, MTBAL_INVALID},
        {"--set", mtbal_fingerprint_settings(o->nset, o->set), MTBAL_USAGE},
        {"--batch", (uint64_t)a.batch, MTBAL_USAGE},
        {"--epochs", (uint64_t)a.epochs, MTBAL_USAGE},
        {"--limit", (uint64_t)a.limit, MTBAL_USAGE},
        {"--shuffle", a.shuffle, MTBAL_USAGE},
        {"--initialize", a.initialize, MTBAL_USAGE},
        {"--seed", (uint64_t)a.seed, MTBAL_USAGE},
        {"--cosine", a.cosine, MTBAL_USAGE},
        {"--warmup", (uint64_t)a.warmup, MTBAL_USAGE},
        {"--norm-every", (uint64_t)a.norm_every, MTBAL_USAGE},
        {"--metric", metrics, MTBAL_USAGE},
        {"choice of --log", a.log != NULL, MTBAL_USAGE},
        {"choice of --report", a.report != NULL, MTBAL_USAGE},
    };
    return mtbal_snapshot_tie(r->snapshot, sizeof ties / sizeof *ties, ties, diag);
}

static mtbal_status restore(run *r, mtbal_diag *diag)
{
    mtbal_piece pieces[PIECES];
    size_t size;
    const void *states = mtbal_snapshot_find(r->snapshot, 0, "states", &size);
    MTBAL_TRY(mtbal_loop_restore(r->session, r->data, a.norm_every > 0, states, size, diag));
    return mtbal_snapshot_load(r->snapshot, 0, list_pieces(r, pieces), pieces, diag);
}

/* The log as it was when the checkpoint was written. */
static mtbal_status open_log(run *r, mtbal_diag *diag)
{
    size_t size;
    const void *lines = mtbal_snapshot_find(r->snapshot, 0, "lines", &size);
    int64_t *kept = mtbal_arena_array(r->arena, (size_t)r->session->ntasks + 1, sizeof *kept);
    if (!kept)
        return mtbal_no_memory(diag);
    if (size == sizeof *kept)
        memcpy(&kept[r->session->ntasks], lines, size);
    return cli_log_open(&r->log, a.log, r->session, lines ? kept : NULL, diag);
}

static mtbal_status open_checkpoint(run *r, mtbal_diag *diag)
{
    const mtbal_snapshot_options o = {.path = a.checkpoint,
                                      .output = a.outputs ? NULL : a.save,
                                      .every = a.every,
                                      .resume = a.resume,
                                      .stop = &mtbal_stop};
    if ((a.checkpoint || a.resume) && (a.outputs || !r->session->is_step))
        return mtbal_fail(diag, MTBAL_USAGE, a.checkpoint ? "--checkpoint" : "--resume",
                          "leave it out", "%s",
                          a.outputs ? "a checkpoint does not hold what --outputs collects"
                                    : "this model has no states to go on with");
    MTBAL_TRY(mtbal_snapshot_open(&o, &r->snapshot, diag));
    if (mtbal_snapshot_path(r->snapshot))
        MTBAL_TRY(tie(r, diag));
    if (!a.quiet)
        cli_note_resume(r->snapshot, a.resume);
    MTBAL_TRY(open_log(r, diag));
    return mtbal_snapshot_resumed(r->snapshot) ? restore(r, diag) : MTBAL_OK;
}

static mtbal_status train(run *r, const char *model, mtbal_diag *diag)
{
    MTBAL_TRY(open_all(r, model, diag));
    MTBAL_TRY(open_checkpoint(r, diag));
    mtbal_loop_options loop = {.epochs = a.epochs,
                               .limit = a.limit,
                               .norm_every = a.norm_every,
                               .shuffle = a.shuffle,
                               .seed = (uint64_t)a.seed,
                               .schedule = {a.warmup, a.cosine ? MTBAL_WHOLE_RUN : 0},
                               .first = r->next,
                               .between = between,
                               .saves = mtbal_snapshot_path(r->snapshot) != NULL};
    r->started = cli_seconds();
    cli_progress_begin(&r->progress, !a.quiet && !a.json && !a.verbose && r->session->is_step);
    mtbal_status status = mtbal_loop_run(r->session, r->data, &loop, on_step, r, diag);
    cli_progress_end(&r->progress);
    MTBAL_TRY(status);
    end_epoch(r);
    MTBAL_TRY(cli_log_close(&r->log, diag));
    if (r->collect)
        MTBAL_TRY(mtbal_collect_write(r->collect, a.outputs, diag));
    if (a.save)
        MTBAL_TRY(mtbal_session_save(r->session, a.save, diag));
    if (a.report)
        MTBAL_TRY(write_report(r, diag));
    print_summary(r);
    return MTBAL_OK;
}

static mtbal_status work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag)
{
    run r = {.arena = arena};
    mtbal_diag ignored;
    mtbal_status status = train(&r, operands[0], diag);
    cli_log_close(&r.log, &ignored);
    mtbal_snapshot_close(r.snapshot, status == MTBAL_OK);
    mtbal_trace_free(r.trace);
    mtbal_collect_free(r.collect);
    mtbal_data_close(r.data);
    mtbal_session_close(r.session);
    return status;
}

int main(int argc, char **argv)
{
    return cli_main(&command, argc, argv, work);
}
