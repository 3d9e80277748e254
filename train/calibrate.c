/* train/calibrate.c: each task alone, to convergence.
 *
 * Why the mini-batch gradient: at exact convergence the mean gradient goes to zero and its size
 * says nothing. What stays is E|g_b|^2 = |E g|^2 + tr(Sigma)/B, the noise part, finite and of
 * degree one in the scale of the loss. A task that learns its data by heart loses that too, so G is
 * kept above kappa times its root mean square over the task's whole training. */
#include "train/calibrate.h"

#include "train/fit.h"

#include <math.h>
#include <string.h>

enum { MAX_EPOCHS = 300, PATIENCE = 10, WINDOW = 40 };

void mtbal_calibrate_default(mtbal_calibrate_options *options)
{
    *options = (mtbal_calibrate_options){.max_epochs = MAX_EPOCHS,
                                         .patience = PATIENCE,
                                         .window = WINDOW,
                                         .measure = "floor",
                                         .kappa = 0.3,
                                         .min_delta = 1e-3};
}

/* Nothing measured yet. */
static mtbal_calibration blank(const char *task)
{
    return (mtbal_calibration){.task = task,
                               .g = NAN,
                               .rms_start = NAN,
                               .rms_run = NAN,
                               .rms_end = NAN,
                               .rms_heldout = NAN,
                               .rel = NAN,
                               .rms_heads = NAN,
                               .rms_joint = NAN,
                               .snr = NAN,
                               .best_valid = NAN,
                               .score = NAN,
                               .joint_score = NAN};
}

/* Settings of one training: the user's, and the calibration states g [ntasks], where +inf switches
 * a task off. To be freed. */
static mtbal_setting *settings(const mtbal_calibrate_options *o, int ntasks,
                               const char *const *tasks, const double *g)
{
    enum { NAME = 512 };
    size_t n = (size_t)(o->nset + ntasks);
    mtbal_setting *set = mtbal_malloc(n * sizeof *set + (size_t)ntasks * NAME);
    char *names = set ? (char *)(set + n) : NULL;
    for (int i = 0; set && i < o->nset; i++)
        set[i] = o->set[i];
    for (int i = 0; set && i < ntasks; i++) {
        snprintf(names + i * NAME, NAME, "mtbal/calibration/%s", tasks[i]);
        set[o->nset + i] = (mtbal_setting){names + i * NAME, g[i]};
    }
    return set;
}

static mtbal_status told(const mtbal_fit *f, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    return o->on_trained ? o->on_trained(o->context, f->session, f->task, diag) : MTBAL_OK;
}

/* ------------------------------------------------------------------ what is complete */

/* Of a training that is complete a checkpoint holds its result, and what it showed of all tasks. */
typedef struct finished {
    int part, task; /* task -1: all */
    mtbal_calibration *result;
    double *numbers; /* [count] */
    size_t count;
} finished;

enum { PIECES = 2 + MTBAL_MORE };

static mtbal_status list_pieces(const mtbal_calibrate_options *o, const finished *f,
                                mtbal_calibration *result, mtbal_piece pieces[PIECES], int *count,
                                mtbal_diag *diag)
{
    int more = 0;
    pieces[0] = (mtbal_piece){"done", result, sizeof *result};
    pieces[1] = (mtbal_piece){"numbers", f->numbers, f->count * sizeof *f->numbers};
    if (o->more)
        MTBAL_TRY(o->more(o->context, f->task, pieces + 2, &more, diag));
    *count = 2 + more;
    return MTBAL_OK;
}

static mtbal_status save_finished(const mtbal_calibrate_options *o, const finished *f,
                                  mtbal_diag *diag)
{
    mtbal_calibration copy = *f->result;
    mtbal_piece pieces[PIECES];
    int count;
    copy.task = NULL;
    if (!o->snapshot)
        return MTBAL_OK;
    MTBAL_TRY(list_pieces(o, f, &copy, pieces, &count, diag));
    return mtbal_snapshot_save(o->snapshot, f->part, NULL, count, pieces, diag);
}

static mtbal_status load_finished(const mtbal_calibrate_options *o, const finished *f, bool *done,
                                  mtbal_diag *diag)
{
    const char *name = f->result->task;
    mtbal_piece pieces[PIECES];
    size_t size;
    int count;
    *done = mtbal_snapshot_find(o->snapshot, f->part, "done", &size) != NULL;
    if (!*done)
        return MTBAL_OK;
    MTBAL_TRY(list_pieces(o, f, f->result, pieces, &count, diag));
    MTBAL_TRY(mtbal_snapshot_load(o->snapshot, f->part, count, pieces, diag));
    f->result->task = name;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ one task alone */

static mtbal_status probe_task(const mtbal_fit *f, double *into, double *rms, mtbal_diag *diag)
{
    mtbal_probe probe = mtbal_fit_probe(f);
    MTBAL_TRY(mtbal_probe_rms(&probe, rms, diag));
    *into = rms[f->task];
    return MTBAL_OK;
}

/* On validation data, with the batch of the training: noise depends on it. */
static mtbal_status probe_heldout(mtbal_fit *f, double *rms, mtbal_diag *diag)
{
    mtbal_probe probe = mtbal_fit_probe(f);
    probe.data = f->valid;
    mtbal_session_load_states(f->session, f->best_states);
    MTBAL_TRY(mtbal_probe_rms(&probe, rms, diag));
    f->result->rms_heldout = rms[f->task];
    return MTBAL_OK;
}

static mtbal_status train_task(mtbal_fit *f, const mtbal_session_options *options, mtbal_diag *diag)
{
    mtbal_calibration *r = f->result;
    MTBAL_TRY(mtbal_fit_open(f, options, diag));
    double *rms = mtbal_arena_array(f->session->arena, 2 * (size_t)f->ntasks, sizeof *rms);
    if (!rms)
        return mtbal_no_memory(diag);
    double *scores = rms + f->ntasks;
    if (!mtbal_fit_has_begun(f))
        MTBAL_TRY(probe_task(f, &r->rms_start, rms, diag));
    MTBAL_TRY(mtbal_fit_run(f, diag));
    MTBAL_TRY(told(f, diag));
    MTBAL_TRY(mtbal_fit_judge(f, scores, diag));
    r->score = scores[f->task];
    mtbal_probe probe = mtbal_fit_probe(f);
    MTBAL_TRY(mtbal_probe_snr(&probe, f->task, &r->snr, diag));
    MTBAL_TRY(mtbal_probe_rel(&probe, &r->rel, diag));
    return f->best_states ? probe_heldout(f, rms, diag) : MTBAL_OK;
}

mtbal_status mtbal_calibrate_task(const mtbal_calibrate_options *options, int ntasks,
                                  const char *const *tasks, int task, mtbal_calibration *result,
                                  mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
    const finished finished = {.part = task, .task = task, .result = result};
    bool done;
    *result = blank(tasks[task]);
    MTBAL_TRY(load_finished(options, &finished, &done, diag));
    if (done)
        return MTBAL_OK;
    double *g = mtbal_malloc(2 * (size_t)ntasks * sizeof *g);
    if (!g)
        return mtbal_no_memory(diag);
    double *weights = g + ntasks;
    for (int i = 0; i < ntasks; i++) {
        g[i] = i == task ? 1 : INFINITY;
        weights[i] = i == task;
    }
    mtbal_setting *set = settings(options, ntasks, tasks, g);
    mtbal_session_options o = {.threads = options->threads,
                               .nset = options->nset + ntasks,
                               .set = set,
                               .only_task = tasks[task]};
    mtbal_fit fit = {.options = options,
                     .task = task,
                     .ntasks = ntasks,
                     .part = task,
                     .name = tasks[task],
                     .weights = weights,
                     .result = result,
                     .on_epoch = on_epoch,
                     .context = context};
    mtbal_status status = set ? train_task(&fit, &o, diag) : mtbal_no_memory(diag);
    mtbal_fit_close(&fit);
    mtbal_free(set);
    mtbal_free(g);
    return status == MTBAL_OK ? save_finished(options, &finished, diag) : status;
}

/* ------------------------------------------------------------------ all tasks together */

/* The buffers of a training of all tasks: names and g; gradients and scores where it ended. */
typedef struct together {
    const char **tasks;
    double *g, *rms, *scores;
} together;

static bool together_begin(together *t, int ntasks, const mtbal_calibration *results)
{
    size_t n = (size_t)ntasks;
    t->tasks = mtbal_malloc(n * sizeof *t->tasks);
    t->g = mtbal_malloc(3 * n * sizeof *t->g);
    t->rms = t->g ? t->g + n : NULL; /* and the scores behind it: see `finished` */
    t->scores = t->g ? t->rms + n : NULL;
    for (int i = 0; t->tasks && t->g && i < ntasks; i++) {
        t->tasks[i] = results[i].task;
        t->g[i] = 1;
    }
    return t->tasks && t->g;
}

static void together_end(together *t)
{
    mtbal_free(t->tasks);
    mtbal_free(t->g);
}

/* Trains all tasks with weights in proportion to 1/g, measures every task's gradient where that
 * ends, and judges. `whole` tells of the training; its task is a name for messages. */
static mtbal_status train_all(const mtbal_calibrate_options *options, int ntasks, int part,
                              together *t, bool freeze, mtbal_calibration *whole,
                              mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
    const finished finished = {part, -1, whole, t->rms, 2 * (size_t)ntasks};
    bool done;
    MTBAL_TRY(load_finished(options, &finished, &done, diag));
    if (done)
        return MTBAL_OK;
    double *weights = mtbal_malloc((size_t)ntasks * sizeof *weights);
    mtbal_setting *set = settings(options, ntasks, t->tasks, t->g);
    mtbal_session_options o = {.threads = options->threads,
                               .nset = options->nset + ntasks,
                               .set = set,
                               .freeze_shared = freeze};
    mtbal_fit fit = {.options = options,
                     .task = -1,
                     .ntasks = ntasks,
                     .part = part,
                     .name = whole->task,
                     .weights = weights,
                     .result = whole,
                     .on_epoch = on_epoch,
                     .context = context};
    mtbal_status status = set && weights ? MTBAL_OK : mtbal_no_memory(diag);
    for (int i = 0; weights && i < ntasks; i++)
        weights[i] = 1 / t->g[i];
    if (status == MTBAL_OK)
        status = mtbal_fit_open(&fit, &o, diag);
    if (status == MTBAL_OK)
        status = mtbal_fit_run(&fit, diag);
    if (status == MTBAL_OK)
        status = told(&fit, diag);
    if (status == MTBAL_OK)
        status = mtbal_fit_judge(&fit, t->scores, diag);
    if (status == MTBAL_OK) {
        mtbal_probe probe = mtbal_fit_probe(&fit);
        status = mtbal_probe_rms(&probe, t->rms, diag);
    }
    mtbal_fit_close(&fit);
    mtbal_free(set);
    mtbal_free(weights);
    return status == MTBAL_OK ? save_finished(options, &finished, diag) : status;
}

mtbal_status mtbal_calibrate_heads(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag)
{
    together t;
    mtbal_calibration whole = blank("the heads");
    mtbal_status status = MTBAL_NOMEM;
    if (together_begin(&t, ntasks, results))
        status = train_all(options, ntasks, ntasks, &t, true, &whole, on_epoch, context, diag);
    else
        mtbal_no_memory(diag);
    for (int i = 0; i < ntasks && status == MTBAL_OK; i++) {
        results[i].rms_heads = t.rms[i];
        results[i].epochs = whole.epochs;
        results[i].steps = whole.steps;
        results[i].batches = whole.batches;
        results[i].converged = whole.converged;
    }
    together_end(&t);
    return status;
}

static mtbal_status train_jointly(const mtbal_calibrate_options *options, int ntasks, int part,
                                  mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                  void *context, mtbal_diag *diag)
{
    together t;
    mtbal_calibration whole = blank("all tasks");
    mtbal_status status = MTBAL_NOMEM;
    if (together_begin(&t, ntasks, results)) {
        for (int i = 0; i < ntasks; i++)
            t.g[i] = results[i].g;
        status = train_all(options, ntasks, part, &t, false, &whole, on_epoch, context, diag);
    } else
        mtbal_no_memory(diag);
    for (int i = 0; i < ntasks && status == MTBAL_OK; i++) {
        results[i].rms_joint = t.rms[i];
        results[i].joint_score = t.scores[i];
    }
    together_end(&t);
    return status;
}

mtbal_status mtbal_calibrate_joint(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag)
{
    return train_jointly(options, ntasks, ntasks + 1, results, on_epoch, context, diag);
}

/* ------------------------------------------------------------------ the whole calibration */

/* What is measured here is not to be given. */
static mtbal_status check_settings(const mtbal_calibrate_options *o, mtbal_diag *diag)
{
    static const char *const prefixes[] = {"mtbal/calibration/", "calibration/"};
    for (int i = 0; i < o->nset; i++)
        for (int k = 0; k < 2; k++)
            if (!strncmp(o->set[i].name, prefixes[k], strlen(prefixes[k])))
                return mtbal_fail(diag, MTBAL_USAGE, "--set", "leave it out",
                                  "%s is what is measured here", o->set[i].name);
    return MTBAL_OK;
}

/* What can be known to be missing before anything is trained. */
static mtbal_status check_options(const mtbal_calibrate_options *o, const mtbal_session *session,
                                  mtbal_diag *diag)
{
    const mtbal_measure *m = mtbal_measure_find(o->measure);
    if (o->window < 2)
        return mtbal_fail(diag, MTBAL_USAGE, "--window", "40 is enough for most tasks",
                          "a window needs at least two steps");
    if (!session->is_step || session->ntasks == 0)
        return mtbal_fail(diag, MTBAL_INVALID, o->model, "make one with mtbal-rewrite",
                          "this is no step graph");
    if (!session->is_calibrated)
        return mtbal_fail(diag, MTBAL_INVALID, o->model,
                          "rewrite the model with --balance calibrated",
                          "this step graph has no calibration: nothing in it would use the G_i");
    if (!session->trains)
        return mtbal_fail(diag, MTBAL_INVALID, o->model, "rewrite the model with an --optimizer",
                          "this step graph does not train: no parameter is among its states");
    MTBAL_TRY(check_settings(o, diag));
    if (!m)
        return mtbal_fail(diag, MTBAL_USAGE, "--measure",
                          "choose from floor, rms, heldout, traj, rel, loss, init, heads, recal",
                          "there is no measure '%s'", o->measure);
    if (m->needs_valid && !o->valid)
        return mtbal_fail(diag, MTBAL_USAGE, "--measure", "give --valid V.npz",
                          "measure %s needs validation data", m->name);
    if (m->needs_tensors && !session->has_tensors)
        return mtbal_fail(diag, MTBAL_USAGE, o->model,
                          "rewrite the model with --outputs norms,task-grads",
                          "measure %s needs each parameter's gradient", m->name);
    if (m->needs_shared && session->nshared == 0)
        return mtbal_fail(diag, MTBAL_USAGE, o->model, "choose another measure",
                          "measure %s needs parameters that two tasks share", m->name);
    return MTBAL_OK;
}

static mtbal_status measure_all(const mtbal_calibrate_options *o, int ntasks,
                                const char *const *tasks, mtbal_calibration *results,
                                mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
    const mtbal_measure *m = mtbal_measure_find(o->measure), *first = m;
    bool recal = !strcmp(m->name, "recal"), heads = !strcmp(m->name, "heads");
    if (recal)
        first = mtbal_measure_find("floor");
    for (int i = 0; i < ntasks; i++)
        results[i] = blank(tasks[i]);
    MTBAL_TRY(heads ? mtbal_calibrate_heads(o, ntasks, results, on_epoch, context, diag)
                    : mtbal_calibrate_tasks(o, ntasks, tasks, results, on_epoch, context, diag));
    for (int i = 0; i < ntasks; i++)
        MTBAL_TRY(mtbal_measure_apply(first, o->kappa, &results[i], diag));
    if (recal)
        MTBAL_TRY(train_jointly(o, ntasks, ntasks, results, on_epoch, context, diag));
    for (int i = 0; i < ntasks; i++)
        MTBAL_TRY(mtbal_measure_apply(m, o->kappa, &results[i], diag));
    return MTBAL_OK;
}

/* What must be as it was, for a checkpoint to give the same bits; jobs and threads need not. */
static mtbal_status tie(const mtbal_calibrate_options *o, mtbal_diag *diag)
{
    uint64_t model, data, valid;
    if (!o->snapshot || !mtbal_snapshot_path(o->snapshot))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_fingerprint_model(o->model, "mtbal/calibration/", &model, diag));
    MTBAL_TRY(mtbal_fingerprint_file(o->data, &data, diag));
    MTBAL_TRY(mtbal_fingerprint_file(o->valid, &valid, diag));
#define OPTION(name, field)                                                 \
    {                                                                       \
        name, mtbal_fingerprint(0, &o->field, sizeof o->field), MTBAL_USAGE \
    }
    const mtbal_tie ties[] = {
        {"command", 1, MTBAL_USAGE},
        {"step graph", model, MTBAL_INVALID},
        {"--data", data, MTBAL_INVALID},
        {"--valid", valid, MTBAL_INVALID},
        {"--measure", mtbal_fingerprint(0, o->measure, strlen(o->measure)), MTBAL_USAGE},
        {"--scale", o->scale ? mtbal_fingerprint(0, o->scale, strlen(o->scale)) : 0, MTBAL_USAGE},
        {"--set", mtbal_fingerprint_settings(o->nset, o->set), MTBAL_USAGE},
        OPTION("--batch", batch),
        OPTION("--max-epochs", max_epochs),
        OPTION("--patience", patience),
        OPTION("--window", window),
        OPTION("--seed", seed),
        OPTION("--kappa", kappa),
        OPTION("min_delta", min_delta),
        OPTION("--cosine", cosine),
        OPTION("--warmup", warmup),
    };
#undef OPTION
    return mtbal_snapshot_tie(o->snapshot, sizeof ties / sizeof *ties, ties, diag);
}

mtbal_status mtbal_calibrate(const mtbal_calibrate_options *options, mtbal_arena *arena,
                             mtbal_calibration **results, int *count, mtbal_on_epoch *on_epoch,
                             void *context, mtbal_diag *diag)
{
    mtbal_session_options plain = {.threads = options->threads, .scale = options->scale};
    mtbal_session *session = NULL;
    MTBAL_TRY(mtbal_session_open(options->model, &plain, &session, diag));
    mtbal_status status = check_options(options, session, diag);
    int ntasks = session->ntasks;
    const char **tasks = mtbal_arena_array(arena, (size_t)ntasks + 1, sizeof *tasks);
    *results = mtbal_arena_array(arena, (size_t)ntasks + 1, sizeof **results);
    bool named = tasks && *results;
    for (int i = 0; named && i < ntasks; i++)
        named = (tasks[i] = mtbal_arena_printf(arena, "%s", session->tasks[i])) != NULL;
    mtbal_session_close(session);
    if (!named)
        return mtbal_no_memory(diag);
    *count = ntasks;
    MTBAL_TRY(status);
    MTBAL_TRY(tie(options, diag));
    return measure_all(options, ntasks, tasks, *results, on_epoch, context, diag);
}
