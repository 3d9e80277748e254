/* train/calibrate.c: each task alone, to convergence.
 *
 * Why the mini-batch gradient: at exact convergence the mean gradient goes to zero and its size
 * says nothing. What stays is E|g_b|^2 = |E g|^2 + tr(Sigma)/B, the noise part, finite and of
 * degree one in the scale of the loss. A task that learns its data by heart loses that too, so G is
 * kept above kappa times its root mean square over the task's whole training. */
#include "train/calibrate.h"

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

/* One task's run. */
typedef struct solo {
    const mtbal_calibrate_options *options;
    mtbal_session *session;
    mtbal_data *data, *valid;
    int task;
    const char *norm_output;
    double *window; /* [options->window] squared norms, a ring */
    int64_t steps;
    double first_sum;  /* of the squared norms of the first `window` steps */
    double sum;        /* of all */
    double epoch_loss; /* sum over the present epoch */
    int64_t epoch_steps;
    double norm; /* the last one */
    mtbal_calibration *result;
} solo;

static mtbal_status on_step(void *context, const mtbal_record *record, mtbal_diag *diag)
{
    solo *s = context;
    double norm = record->grad_norm[s->task];
    if (!isfinite(norm) || !isfinite(record->loss[s->task]))
        return mtbal_fail(
            diag, MTBAL_CHECK, s->session->path, "lower the learning rate: --set lr=...",
            "task %s diverges when trained alone: loss %g, gradient norm %g at step %lld",
            s->result->task, record->loss[s->task], norm, (long long)s->steps);
    s->window[s->steps % s->options->window] = norm * norm;
    s->sum += norm * norm;
    if (s->steps < s->options->window)
        s->first_sum += norm * norm;
    s->norm = norm;
    s->epoch_loss += record->loss[s->task];
    s->epoch_steps++;
    s->steps++;
    return MTBAL_OK;
}

/* Mean loss of the task on the validation data, without changing a state. */
static mtbal_status validate(solo *s, double *loss, mtbal_diag *diag)
{
    mtbal_bind binds[64];
    const mtbal_data *data = s->valid;
    double sum = 0;
    int64_t samples = 0;
    for (int64_t first = 0; first < data->samples; first += data->batch) {
        int64_t n = data->samples - first < data->batch ? data->samples - first : data->batch;
        int64_t order[1024];
        mtbal_program *program;
        if (n != data->batch && first > 0)
            break; /* the mean over whole batches is enough, and a fixed batch has no other */
        mtbal_data_binds(s->session, data, n, binds);
        MTBAL_TRY(mtbal_session_program(s->session, s->session->nfeeds, binds, MTBAL_EVALUATE,
                                        &program, diag));
        for (int64_t i = 0; i < n; i++)
            order[i] = first + i;
        mtbal_data_load(s->session, data, order, n, program);
        mtbal_instance_run(program->instance, s->options->seed);
        sum += (double)n * mtbal_program_scalar(program, s->session->losses[s->task]);
        samples += n;
    }
    *loss = sum / (double)samples;
    return MTBAL_OK;
}

/* |mean gradient|^2 over mean |mini-batch gradient|^2, without the sampling bias: (|g|^2 - var/M) /
 * ms for M batches, where the gradient of the mean loss is that of one large batch. NAN where the
 * batch is fixed. */
static mtbal_status signal_to_noise(solo *s, double *snr, mtbal_diag *diag)
{
    int64_t m = s->data->samples / s->data->batch;
    mtbal_bind binds[64];
    mtbal_program *program;
    *snr = NAN;
    for (int i = 0; i < s->session->nfeeds; i++)
        if (s->session->feeds[i].rank > 0 && s->session->feeds[i].dims[0].size >= 0)
            return MTBAL_OK;
    if (m < 2)
        return MTBAL_OK;
    m = m < s->options->window ? m : s->options->window;
    int64_t n = m * s->data->batch;
    size_t size = mtbal_session_state_bytes(s->session);
    void *states = mtbal_malloc(size ? size : 1);
    if (!states)
        return mtbal_no_memory(diag);
    mtbal_session_save_states(s->session, states);
    mtbal_data_binds(s->session, s->data, n, binds);
    mtbal_status status =
        mtbal_session_program(s->session, s->session->nfeeds, binds, MTBAL_MEASURE, &program, diag);
    if (status == MTBAL_OK) {
        mtbal_data_load(s->session, s->data, NULL, n, program);
        mtbal_instance_run(program->instance, s->options->seed);
        double g = mtbal_program_scalar(program, s->norm_output), ms = s->result->rms_end;
        g *= g;
        ms *= ms;
        *snr = ms > 0 ? fmax(0, (g - (ms - g) / (double)m) / ms) : NAN;
        mtbal_session_load_states(s->session, states);
    }
    mtbal_free(states);
    return status;
}

static double window_rms(const solo *s)
{
    int64_t n = s->steps < s->options->window ? s->steps : s->options->window;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += s->window[i];
    return sqrt(sum / (double)n);
}

/* Epochs until the smoothed loss no longer improves. The loss that is watched is the validation
 * loss where there is one. */
static mtbal_status train_alone(solo *s, mtbal_on_epoch *on_epoch, void *context, int ntasks,
                                mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = s->options;
    mtbal_calibration *r = s->result;
    double smooth = NAN, best = INFINITY;
    int64_t stale = 0, min_epochs = (o->window + s->data->samples / s->data->batch) /
                                    (s->data->samples / s->data->batch);
    r->best_valid = NAN;
    for (int64_t epoch = 0; epoch < o->max_epochs && !r->converged; epoch++) {
        mtbal_loop_options loop = {
            .epochs = 1, .norm_every = 1, .shuffle = true, .seed = o->seed + (uint64_t)epoch};
        s->epoch_loss = 0;
        s->epoch_steps = 0;
        MTBAL_TRY(mtbal_loop_run(s->session, s->data, &loop, on_step, s, diag));
        double loss = s->epoch_loss / (double)s->epoch_steps, watched = loss;
        if (s->valid) {
            MTBAL_TRY(validate(s, &watched, diag));
            r->best_valid = fmin(isnan(r->best_valid) ? watched : r->best_valid, watched);
        }
        if (epoch == 0)
            r->first_loss = loss;
        r->loss = loss;
        r->epochs = epoch + 1;
        smooth = isnan(smooth) ? watched : 0.7 * smooth + 0.3 * watched;
        stale = smooth < best - o->min_delta * fabs(best) || isinf(best) ? 0 : stale + 1;
        best = fmin(best, smooth);
        r->converged = stale >= o->patience && epoch + 1 >= min_epochs;
        mtbal_calibrate_progress progress = {.task = s->task,
                                             .ntasks = ntasks,
                                             .name = r->task,
                                             .epoch = epoch + 1,
                                             .max_epochs = o->max_epochs,
                                             .loss = loss,
                                             .grad_norm = s->norm,
                                             .best = best,
                                             .stale = stale};
        if (on_epoch)
            on_epoch(context, &progress);
    }
    r->steps = s->steps;
    return MTBAL_OK;
}

/* G from the run, by the named measure. */
static mtbal_status decide(solo *s, mtbal_diag *diag)
{
    mtbal_calibration *r = s->result;
    const char *measure = s->options->measure;
    double first = s->steps < s->options->window ? (double)s->steps : (double)s->options->window;
    r->rms_end = window_rms(s);
    r->rms_run = sqrt(s->sum / (double)s->steps);
    r->rms_start = sqrt(s->first_sum / first);
    double floor = s->options->kappa * r->rms_run;
    r->floored = r->rms_end < floor;
    if (!strcmp(measure, "floor"))
        r->g = fmax(r->rms_end, floor);
    else if (!strcmp(measure, "rms"))
        r->g = r->rms_end;
    else if (!strcmp(measure, "traj"))
        r->g = r->rms_run;
    else if (!strcmp(measure, "init"))
        r->g = r->rms_start;
    else if (!strcmp(measure, "loss"))
        r->g = isnan(r->best_valid) ? r->loss : r->best_valid;
    else
        return mtbal_fail(diag, MTBAL_USAGE, "--measure",
                          "choose from floor, rms, traj, loss, init", "there is no measure '%s'",
                          measure);
    if (r->g > 0 && isfinite(r->g))
        return MTBAL_OK;
    return mtbal_fail(
        diag, MTBAL_CHECK, s->session->path,
        "is the task's loss constant, or are all shared parameters out of its reach?",
        "task %s: its gradient over the norm scope is %g, no weight can be made of it", r->task,
        r->g);
}

static mtbal_status check_data(const solo *s, mtbal_diag *diag)
{
    int64_t steps = s->data->samples / s->data->batch;
    if (s->session->nfeeds > 64)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, s->session->path, NULL,
                          "more than 64 inputs need data");
    if (!s->session->has_norms)
        return mtbal_fail(diag, MTBAL_USAGE, s->session->path,
                          "rewrite the model with --outputs norms",
                          "the step graph measures no gradient norms");
    if (steps < 2)
        return mtbal_fail(diag, MTBAL_INVALID, s->options->data, "lower --batch, or give more data",
                          "%lld samples are %lld batch of %lld: too little for a window of batches",
                          (long long)s->data->samples, (long long)steps, (long long)s->data->batch);
    return MTBAL_OK;
}

/* Settings of one task's run: the user's, and the calibration states: 1 for the task, +inf for the
 * others. */
static mtbal_status solo_settings(const mtbal_calibrate_options *o, int ntasks,
                                  const char *const *tasks, int task, mtbal_arena *arena,
                                  mtbal_session_options *options, mtbal_diag *diag)
{
    mtbal_setting *set = mtbal_arena_array(arena, (size_t)(o->nset + ntasks), sizeof *set);
    if (!set)
        return mtbal_no_memory(diag);
    for (int i = 0; i < o->nset; i++)
        set[i] = o->set[i];
    for (int i = 0; i < ntasks; i++) {
        const char *name = mtbal_arena_printf(arena, "mtbal/calibration/%s", tasks[i]);
        if (!name)
            return mtbal_no_memory(diag);
        set[o->nset + i] = (mtbal_setting){name, i == task ? 1 : INFINITY};
    }
    *options = (mtbal_session_options){
        .threads = o->threads, .nset = o->nset + ntasks, .set = set, .only_task = tasks[task]};
    return MTBAL_OK;
}

static mtbal_status run_solo(solo *s, int ntasks, mtbal_on_epoch *on_epoch, void *context,
                             mtbal_arena *arena, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = s->options;
    MTBAL_TRY(mtbal_data_open(s->session, o->data, false, o->batch, &s->data, diag));
    MTBAL_TRY(check_data(s, diag));
    if (o->valid) {
        int64_t batch = s->data->batch < 1024 ? s->data->batch : 1024;
        MTBAL_TRY(mtbal_data_open(s->session, o->valid, false, batch, &s->valid, diag));
    }
    s->window = mtbal_arena_array(arena, (size_t)o->window, sizeof *s->window);
    s->norm_output = mtbal_arena_printf(arena, "mtbal/grad_norm/%s", s->result->task);
    if (!s->window || !s->norm_output)
        return mtbal_no_memory(diag);
    MTBAL_TRY(train_alone(s, on_epoch, context, ntasks, diag));
    MTBAL_TRY(decide(s, diag));
    return signal_to_noise(s, &s->result->snr, diag);
}

mtbal_status mtbal_calibrate(const mtbal_calibrate_options *options, mtbal_arena *arena,
                             mtbal_calibration **results, int *count, mtbal_on_epoch *on_epoch,
                             void *context, mtbal_diag *diag)
{
    mtbal_session_options plain = {.threads = options->threads};
    mtbal_session *session = NULL;
    if (options->window < 1)
        return mtbal_fail(diag, MTBAL_USAGE, "--window", NULL,
                          "the window needs at least one step");
    MTBAL_TRY(mtbal_session_open(options->model, &plain, &session, diag));
    int ntasks = session->ntasks;
    const char **tasks = mtbal_arena_array(arena, (size_t)ntasks + 1, sizeof *tasks);
    *results = mtbal_arena_array(arena, (size_t)ntasks + 1, sizeof **results);
    for (int i = 0; tasks && *results && i < ntasks; i++)
        tasks[i] = (*results)[i].task = mtbal_arena_printf(arena, "%s", session->tasks[i]);
    bool is_step = session->is_step;
    mtbal_session_close(session);
    if (!tasks || !*results)
        return mtbal_no_memory(diag);
    if (!is_step || ntasks == 0)
        return mtbal_fail(diag, MTBAL_INVALID, options->model, "make one with mtbal-rewrite",
                          "this is no step graph");
    *count = ntasks;
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < ntasks && status == MTBAL_OK; i++) {
        solo s = {.options = options, .task = i, .result = &(*results)[i]};
        mtbal_session_options o;
        status = solo_settings(options, ntasks, tasks, i, arena, &o, diag);
        if (status == MTBAL_OK)
            status = mtbal_session_open(options->model, &o, &s.session, diag);
        if (status == MTBAL_OK)
            status = run_solo(&s, ntasks, on_epoch, context, arena, diag);
        mtbal_data_close(s.data);
        mtbal_data_close(s.valid);
        mtbal_session_close(s.session);
    }
    return status;
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
        mtbal_value *value = mtbal_value_find(model->graph, name);
        if (!value || !value->tensor) {
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
