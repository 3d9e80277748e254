/* cli/mtbal-run.c: runs a graph over data. A step graph trains; any other is evaluated. */
#include "cli/cli.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct args {
    const char *data, *inputs, *outputs, *save, *log;
    int64_t batch, epochs, seed, threads, norm_every, limit, warmup;
    bool shuffle, cosine, initialize, json, quiet, verbose;
    cli_pairs set;
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
    FILE *log;
    mtbal_collect *collect;
    tally *tallies; /* [ntasks] of the present epoch */
    int64_t epoch, steps;
    double started, computing;
    double total;
} run;

/* ------------------------------------------------------------------ per step */

static void log_object(cli_json *json, const char *key, const mtbal_session *s,
                       const double *values)
{
    json_open(json, key, '{');
    for (int i = 0; i < s->ntasks; i++)
        json_number(json, s->tasks[i], values[i]);
    json_close(json, '}');
}

static void log_step(run *r, const mtbal_record *record)
{
    cli_json json = {.to = r->log};
    json_open(&json, NULL, '{');
    json_int(&json, "step", record->step);
    json_int(&json, "epoch", record->epoch);
    json_number(&json, "lr", record->lr);
    json_number(&json, "total", record->total);
    json_number(&json, "seconds", record->seconds);
    log_object(&json, "loss", r->session, record->loss);
    if (record->measured)
        log_object(&json, "grad_norm", r->session, record->grad_norm);
    log_object(&json, "weight", r->session, record->weight);
    json_close(&json, '}');
    fputc('\n', r->log);
}

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
        r->session->is_step && !a.verbose)
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

static mtbal_status on_step(void *context, const mtbal_record *record, mtbal_diag *diag)
{
    run *r = context;
    add_tally(r, record);
    r->steps++;
    r->computing += record->seconds;
    r->total = record->total;
    for (int i = 0; i < r->session->noutputs && !r->session->is_step; i++) {
        double x = mtbal_program_scalar(record->program, r->session->outputs[i]);
        r->readings[i].sum += x * (double)record->samples;
        r->readings[i].samples += (double)record->samples;
    }
    if (r->log)
        log_step(r, record);
    if (a.verbose && !a.quiet && !a.json)
        print_step(r, record);
    return r->collect ? mtbal_collect_step(r->collect, record, diag) : MTBAL_OK;
}

/* ------------------------------------------------------------------ the summary */

static void summary_table(const run *r)
{
    static const char *const heads[] = {"task",          "first loss", "loss",
                                        "gradient norm", "weight",     "weight x norm"};
    cli_table table;
    cli_table_init(&table, r->arena, 6, heads);
    for (int i = 0; i < r->session->ntasks; i++) {
        const tally *t = &r->tallies[i];
        double norm = mean(t->grad_norm, t->measured), weight = mean(t->weight, t->count);
        cli_cell(&table, "%s", r->session->tasks[i]);
        cli_cell(&table, "%.6g", t->first_loss);
        cli_cell(&table, "%.6g", mean(t->loss, t->count));
        const double cells[] = {norm, weight, norm * weight};
        for (int k = 0; k < 3; k++)
            if (isfinite(cells[k]))
                cli_cell(&table, "%.4g", cells[k]);
            else
                cli_cell(&table, "-");
    }
    printf("\n");
    cli_table_print(stdout, &table);
}

static void readings_table(const run *r)
{
    static const char *const heads[] = {"output", "mean"};
    cli_table table;
    cli_table_init(&table, r->arena, 2, heads);
    for (int i = 0; i < r->session->noutputs; i++) {
        double mean = r->readings[i].sum / r->readings[i].samples;
        if (isfinite(mean)) {
            cli_cell(&table, "%s", r->session->outputs[i]);
            cli_cell(&table, "%.6g", mean);
        }
    }
    if (table.nrows > 2) {
        printf("\n");
        cli_table_print(stdout, &table);
    }
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
        json_close(&json, '}');
        printf("\n");
        return;
    }
    if (a.quiet)
        return;
    if (r->session->is_step)
        summary_table(r);
    else
        readings_table(r);
    printf("\n  %lld steps in %.2f s, %.3f ms a step\n", (long long)r->steps, elapsed,
           1e3 * mean(r->computing, r->steps));
}

/* ------------------------------------------------------------------ the work */

static mtbal_status settings(run *r, mtbal_session_options *o, mtbal_diag *diag)
{
    MTBAL_TRY(cli_settings(&a.set, r->arena, &o->set, diag));
    o->nset = a.set.count;
    o->threads = (int)(a.threads < RT_MAX_THREADS ? a.threads : RT_MAX_THREADS);
    o->all_outputs = a.outputs != NULL;
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
    MTBAL_TRY(settings(r, &o, diag));
    MTBAL_TRY(mtbal_session_open(model, &o, &r->session, diag));
    if (a.save && !r->session->is_step)
        return mtbal_fail(diag, MTBAL_USAGE, model, "make a step graph with mtbal-rewrite first",
                          "--save: this model has no states to save");
    MTBAL_TRY(
        mtbal_data_open(r->session, a.data ? a.data : a.inputs, !a.data, a.batch, &r->data, diag));
    r->tallies = mtbal_arena_array(r->arena, (size_t)r->session->ntasks + 1, sizeof *r->tallies);
    r->readings =
        mtbal_arena_array(r->arena, (size_t)r->session->noutputs + 1, sizeof *r->readings);
    r->collect = a.outputs ? mtbal_collect_new(r->session) : NULL;
    if (!r->tallies || !r->readings || (a.outputs && !r->collect))
        return mtbal_no_memory(diag);
    if (!a.log)
        return MTBAL_OK;
    r->log = fopen(a.log, "w");
    return r->log ? MTBAL_OK
                  : mtbal_fail(diag, MTBAL_IO, a.log, "is the folder there and writable?",
                               "cannot be written");
}

static mtbal_status close_log(run *r, mtbal_diag *diag)
{
    if (!r->log)
        return MTBAL_OK;
    bool failed = ferror(r->log);
    failed = fclose(r->log) || failed;
    r->log = NULL;
    return failed ? mtbal_fail(diag, MTBAL_IO, a.log, "is the disk full?", "could not be written")
                  : MTBAL_OK;
}

static mtbal_status work(run *r, const char *model, mtbal_diag *diag)
{
    MTBAL_TRY(open_all(r, model, diag));
    mtbal_loop_options loop = {.epochs = a.epochs,
                               .limit = a.limit,
                               .norm_every = a.norm_every,
                               .shuffle = a.shuffle,
                               .seed = (uint64_t)a.seed,
                               .schedule = {a.warmup, a.cosine ? MTBAL_WHOLE_RUN : 0}};
    r->started = cli_seconds();
    MTBAL_TRY(mtbal_loop_run(r->session, r->data, &loop, on_step, r, diag));
    end_epoch(r);
    MTBAL_TRY(close_log(r, diag));
    if (r->collect)
        MTBAL_TRY(mtbal_collect_write(r->collect, a.outputs, diag));
    if (a.save)
        MTBAL_TRY(mtbal_session_save(r->session, a.save, diag));
    print_summary(r);
    return MTBAL_OK;
}

int main(int argc, char **argv)
{
    mtbal_arena *arena = mtbal_arena_new();
    if (!arena) {
        fprintf(stderr, "%s: out of memory\n", command.name);
        return mtbal_exit_code(MTBAL_NOMEM);
    }
    const char *operands[1];
    int code = cli_parse(&command, argc, argv, operands, arena);
    if (code < 0) {
        run r = {.arena = arena};
        mtbal_diag diag = {0};
        code = work(&r, operands[0], &diag) == MTBAL_OK ? 0 : cli_report(command.name, &diag);
        if (r.log)
            fclose(r.log);
        mtbal_collect_free(r.collect);
        mtbal_data_close(r.data);
        mtbal_session_close(r.session);
    }
    mtbal_arena_free(arena);
    return code;
}
