/* cli/mtbal-calibrate.c: trains each task alone and stores the G_i in the step graph. */
#include "cli/cli.h"
#include "cli/page.h"
#include "train/calibrate.h"
#include "train/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct args {
    const char *data, *valid, *out, *measure, *scale, *log, *report, *checkpoint;
    int64_t batch, max_epochs, patience, window, warmup, threads, jobs, seed, every;
    double kappa;
    bool cosine, compare, resume, json, quiet;
    cli_pairs set, metrics;
} args;

static args a = {.max_epochs = 300, .patience = 10, .window = 40, .kappa = 0.3, .measure = "floor"};

static const cli_option options[] = {
    {"data", 0, CLI_TEXT, &a.data, "TRAIN.npz",
     "one array per graph input, samples along the first axis"},
    {"valid", 0, CLI_TEXT, &a.valid, "V.npz", "data on which convergence is judged"},
    {"output", 'o', CLI_TEXT, &a.out, "OUT.onnx", "default: the step graph itself"},
    {"batch", 0, CLI_COUNT, &a.batch, "N",
     "samples a step (default: the model's own where it is fixed,\nelse 32)"},
    {"max-epochs", 0, CLI_COUNT, &a.max_epochs, "N", "for each task (default 300)"},
    {"patience", 0, CLI_COUNT, &a.patience, "N",
     "epochs without an improvement of 0.1 % that end a run (default 10)"},
    {"window", 0, CLI_COUNT, &a.window, "N",
     "steps at the end over which the gradient is measured (default 40)"},
    {"measure", 0, CLI_TEXT, &a.measure, "M",
     "what G is. Of the task alone, RMS of the gradient over mini-batches:\n"
     "  floor    max of rms and kappa times traj (default)\n"
     "  rms      over the window at the end\n"
     "  heldout  on --valid, where the validation loss was lowest\n"
     "  traj     over the whole run\n"
     "  init     at the start\n"
     "  rel      at the end, each parameter's gradient times its own norm\n"
     "           (needs mtbal-rewrite --outputs norms,task-grads)\n"
     "Or:\n"
     "  loss     the loss at the end, on --valid where given\n"
     "  heads    all heads trained on the starting trunk, RMS there\n"
     "  recal    floor, then a joint run with it, RMS where that ends"},
    {"kappa", 0, CLI_REAL, &a.kappa, "K", "of floor (default 0.3)"},
    {"scale", 0, CLI_TEXT, &a.scale, "S",
     "scalar of the weights c/G: mean, sum, unit, geo or ref:TASK (default:\nas the step graph has "
     "it)"},
    {"cosine", 0, CLI_FLAG, &a.cosine, NULL,
     "let the learning rate fall to 0 over --max-epochs, and train\nthem all"},
    {"warmup", 0, CLI_COUNT, &a.warmup, "N", "let the learning rate rise over the first N steps"},
    {"set", 0, CLI_PAIRS, &a.set, "NAME=VALUE",
     "fill an input, a state or a hyper-parameter (lr, ...) with a\nnumber (repeatable)"},
    {"threads", 0, CLI_COUNT, &a.threads, "N",
     "of each job (default: processors / jobs); does not change\nresults"},
    {"jobs", 0, CLI_COUNT, &a.jobs, "N",
     "tasks trained at a time (default 1); does not change results"},
    {"seed", 0, CLI_COUNT, &a.seed, "S", "of the order of the samples (default 0)"},
    {"compare", 0, CLI_FLAG, &a.compare, NULL,
     "train all tasks together with the weights found, and tell who\ngains against being alone, "
     "who shares, who fights"},
    {"metric", 0, CLI_PAIRS, &a.metrics, "T=KIND:PRED,TARGET",
     "what is compared of task T instead of its loss: accuracy, rmse,\nnrmse or mae of an output "
     "against an array of the data\n(repeatable)"},
    {"log", 0, CLI_TEXT, &a.log, "L.jsonl", "write one JSON object per step, and events"},
    {"report", 0, CLI_TEXT, &a.report, "R.html", "write a page that shows the trainings"},
    {"checkpoint", 0, CLI_TEXT, &a.checkpoint, "FILE", "default: OUT.onnx.checkpoint"},
    {"checkpoint-every", 0, CLI_COUNT, &a.every, "N",
     "steps of a training between two (default: half a minute)"},
    {"resume", 0, CLI_FLAG, &a.resume, NULL,
     "go on from the checkpoint, if there is one, to the same bits"},
    {"json", 0, CLI_FLAG, &a.json, NULL, "print the result as JSON"},
    {"quiet", 'q', CLI_FLAG, &a.quiet, NULL, "print errors and warnings only"},
    {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
};

static const cli_command command = {
    .name = "mtbal-calibrate",
    .usage = "STEP.onnx --data TRAIN.npz [options]",
    .about =
        "Trains each task alone to convergence with the same step graph, notes the size of its "
        "gradient\nthere, and stores it: the balance point of the weights c/G.",
    .options = options,
    .min_operands = 1,
    .max_operands = 1,
};

typedef struct calibration {
    mtbal_session *session; /* knows the names; trains nothing */
    mtbal_arena *arena;
    mtbal_calibrate_options options;
    int ntasks, trainings; /* that there will be */
    mtbal_calibration *results;
    cli_log log;
    cli_progress progress;
    cli_progress_row *rows; /* [ntasks] */
    double *done;           /* [ntasks + 1] shares of each training; the last: of joint ones */
    bool *converged;        /* [ntasks + 1] */
    bool comparing;
    mtbal_snapshot *snapshot;
    mtbal_trace **alone, *together; /* NULL: nobody wants them */
    cli_outcome outcome;
    double started;
} calibration;

/* ------------------------------------------------------------------ while it trains */

static void show_progress(calibration *c, int task, int64_t epoch)
{
    char what[256];
    double done = 0;
    if (!cli_progress_due(&c->progress))
        return;
    for (int i = 0; i <= c->ntasks; i++)
        done += c->done[i] / c->trainings;
    snprintf(what, sizeof what, "%s  epoch %lld of %s%lld",
             task >= 0 ? c->session->tasks[task] : "all together", (long long)epoch + 1,
             a.cosine ? "" : "at most ", (long long)a.max_epochs);
    cli_progress_draw(&c->progress, what, fmin(done, 1), c->ntasks, c->rows);
}

static mtbal_status on_step(void *context, int task, const mtbal_record *record, mtbal_diag *diag)
{
    calibration *c = context;
    double *done = &c->done[task < 0 ? c->ntasks : task];
    (void)diag;
    cli_log_step(&c->log, task, record);
    if (task >= 0 && c->alone)
        mtbal_trace_step(c->alone[task], task, record);
    if (c->comparing)
        mtbal_trace_step(c->together, 0, record);
    for (int i = 0; i < c->ntasks; i++)
        if (task < 0 || i == task)
            c->rows[i] = (cli_progress_row){c->session->tasks[i], record->loss[i],
                                            record->grad_norm[i], record->weight[i]};
    *done = floor(*done) +
            fmin(0.999, (double)(record->step + 1) / (double)(record->steps_total * a.max_epochs));
    show_progress(c, task, record->epoch);
    return MTBAL_OK;
}

static mtbal_status on_trained(void *context, mtbal_session *session, int task, mtbal_diag *diag)
{
    calibration *c = context;
    double *done = &c->done[task < 0 ? c->ntasks : task];
    (void)session, (void)diag;
    *done = floor(*done) + 1;
    c->converged[task < 0 ? c->ntasks : task] = false;
    return MTBAL_OK;
}

/* What a checkpoint holds of a training: what was logged and is to be shown of it. */
static mtbal_status more(void *context, int task, mtbal_piece *pieces, int *count, mtbal_diag *diag)
{
    calibration *c = context;
    bool *converged = &c->converged[task < 0 ? c->ntasks : task];
    mtbal_trace *trace = task < 0   ? (c->comparing ? c->together : NULL)
                         : c->alone ? c->alone[task]
                                    : NULL;
    pieces[0] = cli_log_piece(&c->log, task < 0 ? CLI_ALL_TASKS : task);
    pieces[1] = (mtbal_piece){"converged", converged, sizeof *converged};
    *count = 2;
    if (trace) {
        mtbal_trace_pieces(trace, pieces + 2);
        *count += MTBAL_TRACE_PIECES;
    }
    return cli_log_sync(&c->log, diag);
}

static void log_converged(calibration *c, const mtbal_calibrate_progress *p)
{
    cli_json json;
    bool *converged = &c->converged[p->task < 0 ? c->ntasks : p->task], before = *converged;
    *converged = p->converged;
    if (!p->converged || before ||
        !cli_log_event(&c->log, "converged", p->task >= 0 ? p->task : CLI_ALL_TASKS, &json))
        return;
    json_int(&json, "step", p->step);
    json_int(&json, "epoch", p->epoch);
    json_number(&json, "loss", p->loss);
    cli_log_end(&c->log, &json);
}

static void on_epoch(void *context, const mtbal_calibrate_progress *p)
{
    calibration *c = context;
    log_converged(c, p);
    if (a.quiet || a.json || c->progress.live || p->epoch % 10)
        return;
    char which[32] = "";
    if (p->task >= 0)
        snprintf(which, sizeof which, " (%d of %d)", p->task + 1, p->ntasks);
    fprintf(stderr, "%s%s  epoch %lld  loss %.5g", p->name, which, (long long)p->epoch, p->loss);
    if (p->task >= 0)
        fprintf(stderr, "  gradient norm %.4g", p->grad_norm);
    fprintf(stderr, "  best %.5g, %lld epochs ago\n", p->best, (long long)p->stale);
}

/* ------------------------------------------------------------------ what came out */

static void print_tables(const calibration *c)
{
    cli_table table;
    cli_outcome_table(&table, c->arena, &c->outcome);
    cli_table_print(stdout, &table);
    if (!a.compare)
        return;
    printf("\n");
    cli_outcome_compared(&table, c->arena, &c->outcome);
    cli_table_print(stdout, &table);
    printf("\n  %s\n", cli_outcome_gain(&c->outcome, c->arena));
    if (c->ntasks < 2)
        return;
    printf("\n");
    cli_pair_table(&table, c->arena, c->together, c->session->tasks);
    cli_table_print(stdout, &table);
    printf("\n");
    cli_pull_table(&table, c->arena, c->together, c->session->tasks);
    cli_table_print(stdout, &table);
}

static void log_results(calibration *c)
{
    cli_json json;
    for (int i = 0; i < c->ntasks; i++) {
        const mtbal_calibration *r = &c->results[i];
        if (!cli_log_event(&c->log, "calibrated", i, &json))
            return;
        json_number(&json, "g", r->g);
        json_number(&json, "rms_end", r->rms_end);
        json_number(&json, "rms_run", r->rms_run);
        json_number(&json, "snr", r->snr);
        json_number(&json, "weight", cli_outcome_weight(&c->outcome, i));
        json_bool(&json, "converged", r->converged);
        json_bool(&json, "floored", r->floored);
        cli_log_end(&c->log, &json);
    }
    if (a.compare && cli_log_event(&c->log, "compared", CLI_ALL_TASKS, &json)) {
        json_number(&json, "delta_m", c->outcome.delta_m);
        cli_log_end(&c->log, &json);
    }
}

/* ------------------------------------------------------------------ the page */

static void facts_table(const calibration *c, cli_table *table)
{
    cli_facts_table(table, c->arena, c->session->path);
    cli_cell(table, "data");
    cli_cell(table, "%s", a.data);
    cli_cell(table, "validation data");
    cli_cell(table, "%s", a.valid ? a.valid : "none");
    cli_cell(table, "batch");
    if (a.batch)
        cli_cell(table, "%lld samples", (long long)a.batch);
    else
        cli_cell(table, "the model's own, else 32 samples");
    cli_cell(table, "measure");
    cli_cell(table, strcmp(a.measure, "floor") ? "%s" : "%s, kappa %g", a.measure, a.kappa);
    cli_cell(table, "length");
    cli_cell(table, "at most %lld epochs, patience %lld, window %lld steps%s",
             (long long)a.max_epochs, (long long)a.patience, (long long)a.window,
             a.cosine ? "; learning rate falls to 0" : "");
    cli_cell(table, "seed");
    cli_cell(table, "%lld", (long long)a.seed);
    for (int i = 0; i < a.set.count; i++) {
        cli_cell(table, "--set %s", a.set.items[i].name);
        cli_cell(table, "%s", a.set.items[i].value);
    }
    cli_cell(table, "time");
    cli_cell(table, "%.1f s", cli_seconds() - c->started);
}

static mtbal_status write_report(const calibration *c, mtbal_diag *diag)
{
    cli_page page;
    cli_table table;
    const char *title = mtbal_arena_printf(c->arena, "Calibration of %s", c->session->path);
    const char *verdict = cli_outcome_verdict(&c->outcome, c->arena);
    if (a.compare)
        verdict =
            mtbal_arena_printf(c->arena, "%s %s", verdict, cli_outcome_gain(&c->outcome, c->arena));
    MTBAL_TRY(cli_page_open(&page, title ? title : "", verdict ? verdict : "", diag));
    cli_page_heading(&page, "The balance point",
                     "G is the size of a task's mini-batch gradient where the task, trained "
                     "alone, has converged. Weights go by 1/G. SNR: how much of that gradient is "
                     "not noise.");
    cli_outcome_table(&table, c->arena, &c->outcome);
    cli_page_table(&page, &table);
    if (a.compare) {
        cli_page_heading(&page, "Together against alone",
                         "Each score where its training ended; delta_m is the mean of the changes, "
                         "and lower is better.");
        cli_outcome_compared(&table, c->arena, &c->outcome);
        cli_page_table(&page, &table);
    }
    if (strcmp(a.measure, "heads")) {
        cli_page_heading(&page, "Each task alone", NULL);
        cli_page_alone(&page, c->ntasks, c->alone, c->session->tasks);
    }
    if (a.compare)
        cli_page_training(&page, c->arena, "All tasks together, step by step", c->together,
                          c->session->tasks);
    cli_page_heading(&page, "Settings", NULL);
    facts_table(c, &table);
    cli_page_table(&page, &table);
    return cli_page_close(&page, a.report, diag);
}

/* ------------------------------------------------------------------ the work */

static mtbal_status set_options(calibration *c, const char *model, mtbal_diag *diag)
{
    mtbal_calibrate_options *o = &c->options;
    mtbal_calibrate_default(o);
    MTBAL_TRY(cli_settings(&a.set, c->arena, &o->set, diag));
    o->nset = a.set.count;
    o->model = model, o->data = a.data, o->valid = a.valid, o->measure = a.measure;
    o->batch = a.batch, o->max_epochs = a.max_epochs, o->patience = a.patience;
    o->window = a.window, o->cosine = a.cosine, o->warmup = a.warmup;
    o->seed = (uint64_t)a.seed, o->kappa = a.kappa, o->scale = a.scale;
    o->threads = (int)(a.threads < RT_MAX_THREADS ? a.threads : RT_MAX_THREADS);
    o->jobs = (int)(a.jobs < RT_MAX_THREADS ? a.jobs : RT_MAX_THREADS);
    o->on_trained = on_trained, o->on_step = on_step, o->more = more, o->context = c;
    o->snapshot = c->snapshot;
    return MTBAL_OK;
}

static mtbal_status set_metrics(calibration *c, mtbal_diag *diag)
{
    mtbal_metric *metrics =
        mtbal_arena_array(c->arena, (size_t)a.metrics.count + 1, sizeof *metrics);
    if (!metrics)
        return mtbal_no_memory(diag);
    for (int m = 0; m < a.metrics.count; m++) {
        const char *task = a.metrics.items[m].name;
        int i = 0;
        while (i < c->ntasks && strcmp(c->session->tasks[i], task))
            i++;
        if (i == c->ntasks)
            return mtbal_fail(diag, MTBAL_USAGE, "--metric", "write T=KIND:PRED,TARGET",
                              "there is no task '%s'", task);
        MTBAL_TRY(mtbal_metric_parse(a.metrics.items[m].value, c->arena, &metrics[m], diag));
        metrics[m].task = task;
    }
    c->options.nmetrics = a.metrics.count;
    c->options.metrics = metrics;
    return MTBAL_OK;
}

/* Traces for what will be shown. */
static mtbal_status open_traces(calibration *c, mtbal_diag *diag)
{
    size_t n = (size_t)c->ntasks + 1;
    c->rows = mtbal_arena_array(c->arena, n, sizeof *c->rows);
    c->done = mtbal_arena_array(c->arena, n, sizeof *c->done);
    c->converged = mtbal_arena_array(c->arena, n, sizeof *c->converged);
    c->outcome.changes = mtbal_arena_array(c->arena, n, sizeof(double));
    c->together = a.compare ? mtbal_trace_new(c->ntasks) : NULL;
    mtbal_trace **alone = a.report ? mtbal_arena_array(c->arena, n, sizeof *c->alone) : NULL;
    if (!c->rows || !c->done || !c->converged || !c->outcome.changes ||
        (a.compare && !c->together) || (a.report && !alone))
        return mtbal_no_memory(diag);
    for (int i = 0; i < c->ntasks; i++)
        c->rows[i] = (cli_progress_row){c->session->tasks[i], NAN, NAN, NAN};
    c->alone = alone;
    for (int i = 0; alone && i < c->ntasks; i++)
        if (!(alone[i] = mtbal_trace_new(1)))
            return mtbal_no_memory(diag);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ checkpoints */

static mtbal_status open_checkpoint(calibration *c, const char *model, mtbal_diag *diag)
{
    const mtbal_snapshot_options o = {.path = a.checkpoint,
                                      .output = a.out ? a.out : model,
                                      .every = a.every,
                                      .resume = a.resume,
                                      .stop = &mtbal_stop};
    uint64_t metrics = 0;
    for (int i = 0; i < a.metrics.count; i++) {
        const mtbal_pair *m = &a.metrics.items[i];
        metrics = mtbal_fingerprint(metrics, m->name, strlen(m->name));
        metrics = mtbal_fingerprint(metrics, m->value, strlen(m->value));
    }
    const mtbal_tie ties[] = {{"command", 1, MTBAL_USAGE},
                              {"--compare", a.compare, MTBAL_USAGE},
                              {"--metric", metrics, MTBAL_USAGE},
                              {"choice of --log", a.log != NULL, MTBAL_USAGE},
                              {"choice of --report", a.report != NULL, MTBAL_USAGE}};
    MTBAL_TRY(mtbal_snapshot_open(&o, &c->snapshot, diag));
    if (!a.quiet)
        cli_note_resume(c->snapshot, a.resume);
    return mtbal_snapshot_tie(c->snapshot, sizeof ties / sizeof *ties, ties, diag);
}

/* The log as it was when the checkpoint's trainings were saved; which of them are complete. */
static mtbal_status open_log(calibration *c, mtbal_diag *diag)
{
    const bool resumed = mtbal_snapshot_resumed(c->snapshot);
    int64_t *kept = mtbal_arena_array(c->arena, (size_t)c->ntasks + 1, sizeof *kept), lines;
    size_t size;
    if (!kept)
        return mtbal_no_memory(diag);
    for (int part = 0; part < c->ntasks + 2; part++) { /* the last two: of all tasks */
        int kind = part < c->ntasks ? part : c->ntasks;
        const void *piece = mtbal_snapshot_find(c->snapshot, part, "lines", &size);
        memcpy(&lines, piece && size == sizeof lines ? piece : &kept[kind], sizeof lines);
        kept[kind] = lines > kept[kind] ? lines : kept[kind];
        c->done[kind] += mtbal_snapshot_find(c->snapshot, part, "done", &size) != NULL;
    }
    return cli_log_open(&c->log, a.log, c->session, resumed ? kept : NULL, diag);
}

static mtbal_status open_all(calibration *c, const char *model, mtbal_diag *diag)
{
    const mtbal_session_options plain = {.threads = 1};
    const bool heads = !strcmp(a.measure, "heads");
    if (!a.data)
        return mtbal_fail(diag, MTBAL_USAGE, "command line", command.usage, "--data is missing");
    if (heads && a.compare)
        return mtbal_fail(diag, MTBAL_USAGE, "--compare", "choose another measure",
                          "measure heads trains no task alone to compare with");
    MTBAL_TRY(open_checkpoint(c, model, diag));
    MTBAL_TRY(set_options(c, model, diag));
    MTBAL_TRY(mtbal_session_open(model, &plain, &c->session, diag));
    c->ntasks = c->session->ntasks;
    c->trainings = (heads ? 1 : c->ntasks) + !strcmp(a.measure, "recal") + a.compare;
    MTBAL_TRY(set_metrics(c, diag));
    MTBAL_TRY(open_traces(c, diag));
    return open_log(c, diag);
}

static mtbal_status compare(calibration *c, mtbal_diag *diag)
{
    c->comparing = true;
    MTBAL_TRY(mtbal_calibrate_joint(&c->options, c->ntasks, c->results, on_epoch, c, diag));
    c->comparing = false;
    c->outcome.together = c->together;
    c->outcome.delta_m = mtbal_delta_m(&c->options, c->ntasks, c->results, c->outcome.changes);
    return MTBAL_OK;
}

static mtbal_status train(calibration *c, mtbal_diag *diag)
{
    int count;
    MTBAL_TRY(mtbal_calibrate(&c->options, c->arena, &c->results, &count, on_epoch, c, diag));
    c->outcome.options = &c->options;
    c->outcome.ntasks = c->ntasks;
    c->outcome.names = c->session->tasks;
    c->outcome.scale = a.scale ? a.scale : c->session->scale;
    c->outcome.results = c->results;
    return a.compare ? compare(c, diag) : MTBAL_OK;
}

static mtbal_status calibrate(calibration *c, const char *model, mtbal_diag *diag)
{
    MTBAL_TRY(open_all(c, model, diag));
    c->started = cli_seconds();
    cli_progress_begin(&c->progress, !a.quiet && !a.json);
    mtbal_status status = train(c, diag);
    cli_progress_end(&c->progress);
    MTBAL_TRY(status);
    log_results(c);
    MTBAL_TRY(cli_log_close(&c->log, diag));
    MTBAL_TRY(mtbal_calibration_store(model, a.out ? a.out : model, &c->options, c->ntasks,
                                      c->results, diag));
    if (a.report)
        MTBAL_TRY(write_report(c, diag));
    cli_calibration_warn(c->results, c->ntasks);
    if (a.json)
        cli_outcome_json(stdout, &c->outcome);
    else if (!a.quiet)
        print_tables(c);
    return MTBAL_OK;
}

static void close_all(calibration *c, bool done)
{
    mtbal_diag ignored;
    cli_log_close(&c->log, &ignored);
    for (int i = 0; c->alone && i < c->ntasks; i++)
        mtbal_trace_free(c->alone[i]);
    mtbal_trace_free(c->together);
    mtbal_snapshot_close(c->snapshot, done);
    mtbal_session_close(c->session);
}

static mtbal_status work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag)
{
    calibration c = {.arena = arena};
    mtbal_status status = calibrate(&c, operands[0], diag);
    close_all(&c, status == MTBAL_OK);
    return status;
}

int main(int argc, char **argv)
{
    return cli_main(&command, argc, argv, work);
}
