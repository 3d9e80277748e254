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
                               .best_valid = NAN};
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
    double *rms = mtbal_arena_array(f->session->arena, (size_t)f->ntasks, sizeof *rms);
    if (!rms)
        return mtbal_no_memory(diag);
    MTBAL_TRY(probe_task(f, &r->rms_start, rms, diag));
    MTBAL_TRY(mtbal_fit_run(f, diag));
    MTBAL_TRY(told(f, diag));
    mtbal_probe probe = mtbal_fit_probe(f);
    MTBAL_TRY(mtbal_probe_snr(&probe, f->task, &r->snr, diag));
    MTBAL_TRY(mtbal_probe_rel(&probe, &r->rel, diag));
    return f->best_states ? probe_heldout(f, rms, diag) : MTBAL_OK;
}

mtbal_status mtbal_calibrate_task(const mtbal_calibrate_options *options, int ntasks,
                                  const char *const *tasks, int task, mtbal_calibration *result,
                                  mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
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
                     .name = tasks[task],
                     .weights = weights,
                     .result = result,
                     .on_epoch = on_epoch,
                     .context = context};
    *result = blank(tasks[task]);
    mtbal_status status = set ? train_task(&fit, &o, diag) : mtbal_no_memory(diag);
    mtbal_fit_close(&fit);
    mtbal_free(set);
    mtbal_free(g);
    return status;
}

/* ------------------------------------------------------------------ all tasks together */

/* Trains all tasks with weights in proportion to 1/g and measures every task's gradient where that
 * ends, into rms [ntasks]. `whole` tells of the training; its task is a name for messages. */
static mtbal_status train_all(const mtbal_calibrate_options *options, int ntasks,
                              const char *const *tasks, const double *g, bool freeze,
                              mtbal_calibration *whole, double *rms, mtbal_on_epoch *on_epoch,
                              void *context, mtbal_diag *diag)
{
    double *weights = mtbal_malloc((size_t)ntasks * sizeof *weights);
    mtbal_setting *set = settings(options, ntasks, tasks, g);
    mtbal_session_options o = {.threads = options->threads,
                               .nset = options->nset + ntasks,
                               .set = set,
                               .freeze_shared = freeze};
    mtbal_fit fit = {.options = options,
                     .task = -1,
                     .ntasks = ntasks,
                     .name = whole->task,
                     .weights = weights,
                     .result = whole,
                     .on_epoch = on_epoch,
                     .context = context};
    mtbal_status status = set && weights ? MTBAL_OK : mtbal_no_memory(diag);
    for (int i = 0; weights && i < ntasks; i++)
        weights[i] = 1 / g[i];
    if (status == MTBAL_OK)
        status = mtbal_fit_open(&fit, &o, diag);
    if (status == MTBAL_OK)
        status = mtbal_fit_run(&fit, diag);
    if (status == MTBAL_OK)
        status = told(&fit, diag);
    if (status == MTBAL_OK) {
        mtbal_probe probe = mtbal_fit_probe(&fit);
        status = mtbal_probe_rms(&probe, rms, diag);
    }
    mtbal_fit_close(&fit);
    mtbal_free(set);
    mtbal_free(weights);
    return status;
}

/* The buffers of a training of all tasks: names, g and rms of the results. */
typedef struct together {
    const char **tasks;
    double *g, *rms;
} together;

static bool together_begin(together *t, int ntasks, const mtbal_calibration *results)
{
    size_t n = (size_t)ntasks;
    t->tasks = mtbal_malloc(n * sizeof *t->tasks);
    t->g = mtbal_malloc(2 * n * sizeof *t->g);
    t->rms = t->g ? t->g + n : NULL;
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

mtbal_status mtbal_calibrate_heads(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag)
{
    together t;
    mtbal_calibration whole = blank("the heads");
    mtbal_status status = MTBAL_NOMEM;
    if (together_begin(&t, ntasks, results))
        status =
            train_all(options, ntasks, t.tasks, t.g, true, &whole, t.rms, on_epoch, context, diag);
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

mtbal_status mtbal_calibrate_joint(const mtbal_calibrate_options *options, int ntasks,
                                   mtbal_calibration *results, mtbal_on_epoch *on_epoch,
                                   void *context, mtbal_diag *diag)
{
    together t;
    mtbal_calibration whole = blank("all tasks");
    mtbal_status status = MTBAL_NOMEM;
    if (together_begin(&t, ntasks, results)) {
        for (int i = 0; i < ntasks; i++)
            t.g[i] = results[i].g;
        status =
            train_all(options, ntasks, t.tasks, t.g, false, &whole, t.rms, on_epoch, context, diag);
    } else
        mtbal_no_memory(diag);
    for (int i = 0; i < ntasks && status == MTBAL_OK; i++)
        results[i].rms_joint = t.rms[i];
    together_end(&t);
    return status;
}

/* ------------------------------------------------------------------ the whole calibration */

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
    for (int i = 0; i < ntasks; i++) {
        results[i] = blank(tasks[i]);
        if (!heads)
            MTBAL_TRY(
                mtbal_calibrate_task(o, ntasks, tasks, i, &results[i], on_epoch, context, diag));
    }
    if (heads)
        MTBAL_TRY(mtbal_calibrate_heads(o, ntasks, results, on_epoch, context, diag));
    for (int i = 0; i < ntasks; i++)
        MTBAL_TRY(mtbal_measure_apply(first, o->kappa, &results[i], diag));
    if (recal)
        MTBAL_TRY(mtbal_calibrate_joint(o, ntasks, results, on_epoch, context, diag));
    for (int i = 0; i < ntasks; i++)
        MTBAL_TRY(mtbal_measure_apply(m, o->kappa, &results[i], diag));
    return MTBAL_OK;
}

mtbal_status mtbal_calibrate(const mtbal_calibrate_options *options, mtbal_arena *arena,
                             mtbal_calibration **results, int *count, mtbal_on_epoch *on_epoch,
                             void *context, mtbal_diag *diag)
{
    mtbal_session_options plain = {.threads = options->threads};
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
    return status == MTBAL_OK
               ? measure_all(options, ntasks, tasks, *results, on_epoch, context, diag)
               : status;
}

mtbal_status mtbal_calibration_store(const char *from, const char *to, int count,
                                     const mtbal_calibration *results, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    MTBAL_TRY(mtbal_onnx_read(from, &model, diag));
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < count && status == MTBAL_OK; i++) {
        char name[512];
        snprintf(name, sizeof name, "mtbal/calibration/%s", results[i].task);
        mtbal_value *value = mtbal_initializer_find(model, name);
        if (!value) {
            status =
                mtbal_fail(diag, MTBAL_INVALID, from, "rewrite the model with --balance calibrated",
                           "the step graph has no state %s", name);
            break;
        }
        mtbal_tensor *tensor = mtbal_tensor_new(model, value->tensor->dtype, value->tensor->rank,
                                                value->tensor->dims, NULL);
        if (!tensor) {
            status = mtbal_no_memory(diag);
            break;
        }
        mtbal_tensor_set_f64(tensor, 0, results[i].g);
        value->tensor = tensor;
    }
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, to, diag);
    mtbal_model_free(model);
    return status;
}
