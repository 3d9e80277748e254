/* cli/mtbal-calibrate.c: trains each task alone and stores the G_i in the step graph. */
#include "cli/cli.h"
#include "train/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct args {
    const char *data, *valid, *out, *measure, *checkpoint;
    int64_t batch, max_epochs, patience, window, warmup, threads, jobs, seed, every;
    double kappa;
    bool cosine, resume, json, quiet;
    cli_pairs set;
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

static void on_epoch(void *context, const mtbal_calibrate_progress *p)
{
    bool terminal = *(bool *)context;
    if (!terminal && p->epoch % 10)
        return;
    char which[32] = "";
    if (p->task >= 0)
        snprintf(which, sizeof which, " (%d of %d)", p->task + 1, p->ntasks);
    fprintf(stderr, "%s%s%s  epoch %lld  loss %.5g", terminal ? "\r" : "", p->name, which,
            (long long)p->epoch, p->loss);
    if (p->task >= 0)
        fprintf(stderr, "  gradient norm %.4g", p->grad_norm);
    fprintf(stderr, "  best %.5g, %lld epochs ago%s", p->best, (long long)p->stale,
            terminal ? "   " : "\n");
}

/* A mean gradient below this share of the mini-batch gradient cannot be told from sampling noise.
 */
#define SIGNAL 0.05

static void number_cell(cli_table *table, const char *format, double x)
{
    char text[32];
    snprintf(text, sizeof text, format, x);
    cli_cell(table, "%s", isnan(x) ? "-" : text);
}

static void print_table(const mtbal_calibration *results, int count, mtbal_arena *arena)
{
    static const char *const heads[] = {"task",       "G",    "at the end", "over the run", "SNR",
                                        "first loss", "loss", "epochs",     "note"};
    double inverse = 0;
    cli_table table;
    for (int i = 0; i < count; i++)
        inverse += 1 / results[i].g / count;
    cli_table_init(&table, arena, 9, heads);
    for (int i = 0; i < count; i++) {
        const mtbal_calibration *r = &results[i];
        const bool alone = !isnan(r->rms_end);
        cli_cell(&table, "%s", r->task);
        cli_cell(&table, "%.5g", r->g);
        number_cell(&table, "%.4g", r->rms_end);
        number_cell(&table, "%.4g", r->rms_run);
        number_cell(&table, "%.3f", r->snr);
        number_cell(&table, "%.5g", alone ? r->first_loss : NAN);
        number_cell(&table, "%.5g", alone ? r->loss : NAN);
        cli_cell(&table, "%lld", (long long)r->epochs);
        cli_cell(&table, "weight %.4g%s%s%s", 1 / r->g / inverse,
                 !r->floored                  ? ""
                 : strcmp(a.measure, "floor") ? "; learns its data by heart"
                                              : "; floor used, the task learns its data by heart",
                 r->snr > SIGNAL ? "; mean gradient above its noise: lower lr, or --cosine" : "",
                 r->converged ? "" : "; not converged");
    }
    cli_table_print(stdout, &table);
}

static void print_json(const mtbal_calibration *results, int count)
{
    cli_json json = {.to = stdout};
    json_open(&json, NULL, '{');
    json_text(&json, "measure", a.measure);
    json_open(&json, "tasks", '[');
    for (int i = 0; i < count; i++) {
        const mtbal_calibration *r = &results[i];
        json_open(&json, NULL, '{');
        json_text(&json, "name", r->task);
        json_number(&json, "g", r->g);
        json_number(&json, "rms_end", r->rms_end);
        json_number(&json, "rms_run", r->rms_run);
        json_number(&json, "rms_start", r->rms_start);
        json_number(&json, "rms_heldout", r->rms_heldout);
        json_number(&json, "rms_heads", r->rms_heads);
        json_number(&json, "rms_joint", r->rms_joint);
        json_number(&json, "rel", r->rel);
        json_number(&json, "snr", r->snr);
        json_number(&json, "first_loss", r->first_loss);
        json_number(&json, "loss", r->loss);
        json_number(&json, "valid_loss", r->best_valid);
        json_int(&json, "epochs", r->epochs);
        json_int(&json, "steps", r->steps);
        json_bool(&json, "converged", r->converged);
        json_bool(&json, "floored", r->floored);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_close(&json, '}');
    printf("\n");
}

static mtbal_status calibrate(const char *model, mtbal_snapshot *snapshot, mtbal_arena *arena,
                              mtbal_diag *diag)
{
    mtbal_calibrate_options o;
    mtbal_calibration *results;
    int count;
    bool terminal = cli_is_terminal(stderr) && a.jobs < 2;
    mtbal_calibrate_default(&o);
    MTBAL_TRY(cli_settings(&a.set, arena, &o.set, diag));
    o.nset = a.set.count;
    o.model = model, o.data = a.data, o.valid = a.valid, o.measure = a.measure;
    o.batch = a.batch, o.max_epochs = a.max_epochs, o.patience = a.patience, o.window = a.window;
    o.cosine = a.cosine, o.warmup = a.warmup;
    o.seed = (uint64_t)a.seed, o.kappa = a.kappa;
    o.threads = (int)(a.threads < RT_MAX_THREADS ? a.threads : RT_MAX_THREADS);
    o.jobs = (int)(a.jobs < RT_MAX_THREADS ? a.jobs : RT_MAX_THREADS), o.snapshot = snapshot;
    MTBAL_TRY(mtbal_calibrate(&o, arena, &results, &count, a.quiet || a.json ? NULL : on_epoch,
                              &terminal, diag));
    if (terminal && !a.quiet && !a.json)
        fprintf(stderr, "\n");
    MTBAL_TRY(mtbal_calibration_store(model, a.out ? a.out : model, count, results, diag));
    cli_calibration_warn(results, count);
    if (a.json)
        print_json(results, count);
    else if (!a.quiet)
        print_table(results, count, arena);
    return MTBAL_OK;
}

static mtbal_status work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag)
{
    const mtbal_snapshot_options o = {.path = a.checkpoint,
                                      .output = a.out ? a.out : operands[0],
                                      .every = a.every,
                                      .resume = a.resume,
                                      .stop = &cli_stop};
    mtbal_snapshot *snapshot;
    if (!a.data)
        return mtbal_fail(diag, MTBAL_USAGE, "command line", command.usage, "--data is missing");
    cli_catch_signals();
    mtbal_status status = mtbal_snapshot_open(&o, &snapshot, diag);
    if (status == MTBAL_OK && a.resume && !a.quiet)
        cli_note_resume(snapshot);
    if (status == MTBAL_OK)
        status = calibrate(operands[0], snapshot, arena, diag);
    mtbal_snapshot_close(snapshot, status == MTBAL_OK);
    return status;
}

int main(int argc, char **argv)
{
    return cli_main(&command, argc, argv, work);
}
