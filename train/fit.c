/* train/fit.c: one training until the smoothed loss no longer improves. */
#include "train/fit.h"

#include "train/trace.h"

#include <math.h>
#include <string.h>

/* What is watched: the weighted total of a record's or a program's losses. */
static double watched_loss(const mtbal_fit *f, const double *loss)
{
    double total = 0;
    for (int i = 0; i < f->ntasks; i++)
        if (f->weights[i] != 0)
            total += f->weights[i] * loss[i];
    return total;
}

/* Whether steps measure norms. */
static bool measures(const mtbal_fit *f)
{
    return f->task >= 0 || f->options->on_step;
}

static mtbal_status diverges(const mtbal_fit *f, mtbal_diag *diag, double loss)
{
    return mtbal_fail(diag, MTBAL_CHECK, f->session->path,
                      f->steps > 1 ? "lower the learning rate: --set lr=..."
                                   : "lower the learning rate: --set lr=...; or is the gradient of "
                                     "another task not finite, though it is switched off?",
                      "%s diverges in its training: loss %g at first, %g after %lld steps%s",
                      f->name, f->result->start_loss, loss, (long long)f->steps,
                      isfinite(f->norm) ? "" : ", and its gradient is not finite");
}

static mtbal_status on_step(void *context, const mtbal_record *record, mtbal_diag *diag)
{
    mtbal_fit *f = context;
    double loss = watched_loss(f, record->loss);
    if (f->steps == 0)
        f->result->start_loss = loss;
    f->norm = f->task >= 0 ? record->grad_norm[f->task] : 0;
    if (!isfinite(f->norm) && isfinite(loss) && f->steps == 0)
        return mtbal_fail(diag, MTBAL_CHECK, f->session->path,
                          "look for a square root of 0, a division by 0 or a logarithm of 0 in it",
                          "%s: its gradient is %g at the start, where its loss is %g", f->name,
                          f->norm, loss);
    if (!isfinite(loss) && f->steps == 0)
        return mtbal_fail(
            diag, MTBAL_CHECK, f->session->path,
            "look for numbers in the data that are not finite, and for a logarithm of "
            "a negative number or a division by 0 in it",
            "%s: its loss is %g at the start", f->name, loss);
    if (!isfinite(f->norm) || !isfinite(loss))
        return diverges(f, diag, loss);
    if (f->task >= 0)
        f->window[f->steps % f->options->window] = f->norm * f->norm;
    f->sum += f->norm * f->norm;
    mtbal_record step = *record; /* it counts from the start of the epoch */
    step.step = f->steps;
    step.epoch = f->epoch;
    f->epoch_loss += loss;
    f->epoch_steps++;
    f->steps++;
    const mtbal_calibrate_options *o = f->options;
    return o->on_step ? o->on_step(o->context, f->task, &step, diag) : MTBAL_OK;
}

/* Means of all losses over the data's whole batches, into losses [ntasks], without changing a
 * state. With sums [nmetrics] each metric is added up too. */
static mtbal_status evaluate(const mtbal_fit *f, const mtbal_data *data, double *losses,
                             mtbal_metric_sum *sums, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    mtbal_session *s = f->session;
    int64_t *order = f->order, batches = data->samples / data->batch;
    for (int i = 0; i < s->ntasks; i++)
        losses[i] = 0;
    for (int64_t b = 0; b < batches; b++) {
        mtbal_program *program;
        mtbal_data_binds(s, data, data->batch, f->binds);
        MTBAL_TRY(mtbal_session_program(s, s->nfeeds, f->binds, MTBAL_EVALUATE, &program, diag));
        for (int64_t i = 0; i < data->batch; i++)
            order[i] = b * data->batch + i;
        MTBAL_TRY(mtbal_program_run(s, data, order, data->batch, o->seed, program, diag));
        for (int i = 0; i < s->ntasks; i++)
            losses[i] += mtbal_program_scalar(program, s->losses[i]) / (double)batches;
        for (int m = 0; sums && m < o->nmetrics; m++)
            MTBAL_TRY(mtbal_metric_add(&o->metrics[m], program, data, order, data->batch, &sums[m],
                                       diag));
    }
    return MTBAL_OK;
}

/* What is watched, on the validation data. */
static mtbal_status validate(mtbal_fit *f, double *loss, mtbal_diag *diag)
{
    MTBAL_TRY(evaluate(f, f->valid, f->losses, NULL, diag));
    *loss = watched_loss(f, f->losses);
    return MTBAL_OK;
}

mtbal_status mtbal_fit_judge(mtbal_fit *f, double *scores, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    mtbal_metric_sum *sums =
        mtbal_arena_array(f->session->arena, (size_t)o->nmetrics + 1, sizeof *sums);
    if (!sums)
        return mtbal_no_memory(diag);
    MTBAL_TRY(evaluate(f, f->valid ? f->valid : f->data, scores, sums, diag));
    for (int i = 0; i < f->ntasks; i++) {
        const mtbal_metric *m = mtbal_metric_of(o, f->session->tasks[i]);
        scores[i] = m ? mtbal_metric_value(m, &sums[m - o->metrics]) : scores[i];
    }
    return MTBAL_OK;
}

/* Keeps the states of the lowest validation loss. */
static mtbal_status keep_best(mtbal_fit *f, double loss, mtbal_diag *diag)
{
    if (f->best_states && !(loss < f->result->best_valid))
        return MTBAL_OK;
    if (!f->best_states)
        f->best_states =
            mtbal_arena_alloc(f->session->arena, mtbal_session_state_bytes(f->session));
    if (!f->best_states)
        return mtbal_no_memory(diag);
    mtbal_session_save_states(f->session, f->best_states);
    f->result->best_valid = loss;
    return MTBAL_OK;
}

static void watch(mtbal_plateau *p, double loss, double min_delta)
{
    p->smooth = isnan(p->smooth) ? loss : 0.7 * p->smooth + 0.3 * loss;
    bool better = isinf(p->best) || p->smooth < p->best - min_delta * fabs(p->best);
    p->stale = better ? 0 : p->stale + 1;
    p->best = fmin(p->best, p->smooth);
}

/* ------------------------------------------------------------------ checkpoints */

enum { PIECES = 10 + MTBAL_MORE };

/* What is of this training, beside its states. A result's name is no part of it. */
static mtbal_status list_pieces(mtbal_fit *f, mtbal_piece pieces[PIECES], int *count,
                                mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    size_t window = (size_t)o->window * sizeof *f->window;
    int more = 0;
    const mtbal_piece all[] = {
        {"window", f->window, window},
        {"sum", &f->sum, sizeof f->sum},
        {"norm", &f->norm, sizeof f->norm},
        {"epoch_loss", &f->epoch_loss, sizeof f->epoch_loss},
        {"steps", &f->steps, sizeof f->steps},
        {"epoch", &f->epoch, sizeof f->epoch},
        {"epoch_steps", &f->epoch_steps, sizeof f->epoch_steps},
        {"plateau", &f->plateau, sizeof f->plateau},
        {"result", f->result, sizeof *f->result},
        {"best", f->best_states, f->best_states ? mtbal_session_state_bytes(f->session) : 0},
    };
    memcpy(pieces, all, sizeof all);
    *count = sizeof all / sizeof *all - !f->best_states;
    if (o->more)
        MTBAL_TRY(o->more(o->context, f->task, pieces + *count, &more, diag));
    *count += more;
    return MTBAL_OK;
}

bool mtbal_fit_has_begun(const mtbal_fit *fit)
{
    size_t size;
    return mtbal_snapshot_find(fit->options->snapshot, fit->part, "states", &size);
}

static mtbal_status between(void *context, int64_t next, mtbal_diag *diag)
{
    mtbal_fit *f = context;
    mtbal_snapshot *snapshot = f->options->snapshot;
    mtbal_piece pieces[PIECES];
    (void)next;
    if (f->options->failed && *f->options->failed < f->task)
        return mtbal_fail(diag, MTBAL_INTERRUPTED, f->name, NULL, "another task failed");
    if (!mtbal_snapshot_due(snapshot, f->steps, &f->saved))
        return MTBAL_OK;
    int count;
    MTBAL_TRY(list_pieces(f, pieces, &count, diag));
    const char *task = f->result->task;
    f->result->task = NULL;
    mtbal_status status = mtbal_snapshot_save(snapshot, f->part, f->session, count, pieces, diag);
    f->result->task = task;
    return status;
}

/* After an interruption that changed nothing: as after the last step. */
static mtbal_status save_as_trained(mtbal_fit *f, mtbal_diag *diag)
{
    mtbal_diag saved = {0};
    mtbal_status status = between(f, f->steps, &saved);
    if (saved.status != MTBAL_OK && diag)
        *diag = saved;
    return status == MTBAL_OK ? MTBAL_INTERRUPTED : status;
}

/* Goes on where a checkpoint was written. */
static mtbal_status restore(mtbal_fit *f, mtbal_diag *diag)
{
    mtbal_snapshot *snapshot = f->options->snapshot;
    mtbal_piece pieces[PIECES];
    size_t size;
    const char *task = f->result->task;
    const void *states = mtbal_snapshot_find(snapshot, f->part, "states", &size);
    MTBAL_TRY(mtbal_loop_restore(f->session, f->data, measures(f), states, size, diag));
    if (mtbal_snapshot_find(snapshot, f->part, "best", &size) &&
        !(f->best_states =
              mtbal_arena_alloc(f->session->arena, mtbal_session_state_bytes(f->session))))
        return mtbal_no_memory(diag);
    int count;
    MTBAL_TRY(list_pieces(f, pieces, &count, diag));
    MTBAL_TRY(mtbal_snapshot_load(snapshot, f->part, count, pieces, diag));
    f->result->task = task;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the training */

static mtbal_status one_epoch(mtbal_fit *f, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    mtbal_calibration *r = f->result;
    mtbal_plateau *p = &f->plateau;
    mtbal_loop_options loop = {.epochs = 1,
                               .norm_every = measures(f),
                               .shuffle = true,
                               .seed = o->seed + (uint64_t)f->epoch,
                               .before = f->steps - f->epoch_steps,
                               .first = f->epoch_steps,
                               .between = between,
                               .saves = true};
    loop.schedule = (mtbal_schedule){o->warmup, o->cosine ? o->max_epochs * r->batches : 0};
    MTBAL_TRY(mtbal_loop_run(f->session, f->data, &loop, on_step, f, diag));
    double loss = f->epoch_loss / (double)f->epoch_steps, watched = loss;
    if (f->valid) {
        mtbal_status status = validate(f, &watched, diag);
        if (status == MTBAL_INTERRUPTED)
            return save_as_trained(f, diag);
        MTBAL_TRY(status);
        MTBAL_TRY(keep_best(f, watched, diag));
    }
    f->epoch_loss = 0;
    f->epoch_steps = 0;
    if (f->epoch == 0)
        r->first_loss = loss;
    r->loss = loss;
    r->epochs = f->epoch + 1;
    watch(p, watched, o->min_delta);
    int64_t least = (o->window + r->batches - 1) / r->batches; /* epochs that fill the window */
    r->converged = p->stale >= o->patience && f->epoch + 1 >= least;
    mtbal_calibrate_progress progress = {f->task,       f->ntasks, f->name,     f->epoch + 1,
                                         o->max_epochs, loss,      f->norm,     p->best,
                                         p->stale,      f->steps,  r->converged};
    if (f->on_epoch)
        f->on_epoch(f->context, &progress);
    return MTBAL_OK;
}

mtbal_status mtbal_fit_run(mtbal_fit *f, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    mtbal_calibration *r = f->result;
    f->plateau = (mtbal_plateau){NAN, INFINITY, 0};
    if (mtbal_fit_has_begun(f))
        MTBAL_TRY(restore(f, diag));
    for (bool stop = false; f->epoch < o->max_epochs && !stop; f->epoch++) {
        MTBAL_TRY(one_epoch(f, diag));
        stop = r->converged && !o->cosine;
    }
    r->steps = f->steps;
    if (r->loss - r->start_loss > fabs(r->start_loss))
        return diverges(f, diag, r->loss);
    double sum = 0;
    for (int64_t i = 0; i < o->window; i++)
        sum += f->window[i];
    r->rms_end = sqrt(sum / (double)o->window);
    r->rms_run = sqrt(f->sum / (double)f->steps);
    return MTBAL_OK;
}

mtbal_probe mtbal_fit_probe(const mtbal_fit *f)
{
    return (mtbal_probe){.session = f->session,
                         .data = f->data,
                         .batch = f->data->batch,
                         .count = f->options->window,
                         .seed = f->options->seed};
}

/* ------------------------------------------------------------------ before it begins */

static mtbal_status check_data(mtbal_fit *f, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    int64_t batches = f->data->samples / f->data->batch, steps = batches * o->max_epochs;
    if (!f->session->has_norms)
        return mtbal_fail(diag, MTBAL_USAGE, f->session->path,
                          "rewrite the model with --outputs norms",
                          "the step graph measures no gradient norms");
    if (batches < 2)
        return mtbal_fail(diag, MTBAL_INVALID, o->data, "lower --batch, or give more data",
                          "%lld samples are %lld batch of %lld: the gradient's noise cannot be "
                          "seen in less than 2",
                          (long long)f->data->samples, (long long)batches,
                          (long long)f->data->batch);
    if (steps < o->window)
        return mtbal_fail(diag, MTBAL_INVALID, o->data,
                          "raise --max-epochs, lower --window or --batch, or give more data",
                          "%lld epochs of %lld batches are too little for a window of %lld steps",
                          (long long)o->max_epochs, (long long)batches, (long long)o->window);
    bool partial = f->data->samples % f->data->batch != 0;
    f->result->batches = batches + (partial && !mtbal_session_batch_is_fixed(f->session));
    return MTBAL_OK;
}

mtbal_status mtbal_fit_open(mtbal_fit *f, const mtbal_session_options *options, mtbal_diag *diag)
{
    const mtbal_calibrate_options *o = f->options;
    mtbal_session_options scaled = *options;
    scaled.scale = o->scale;
    MTBAL_TRY(mtbal_session_open(o->model, &scaled, &f->session, diag));
    MTBAL_TRY(mtbal_data_open(f->session, o->data, false, o->batch, &f->data, diag));
    MTBAL_TRY(check_data(f, diag));
    if (o->valid)
        MTBAL_TRY(mtbal_data_open(f->session, o->valid, false, f->data->batch, &f->valid, diag));
    mtbal_arena *arena = f->session->arena;
    f->window = mtbal_arena_array(arena, (size_t)o->window, sizeof *f->window);
    f->losses = mtbal_arena_array(arena, (size_t)f->ntasks + 1, sizeof *f->losses);
    f->order = mtbal_arena_array(arena, (size_t)f->data->batch, sizeof *f->order);
    f->binds = mtbal_arena_array(arena, (size_t)f->session->nfeeds + 1, sizeof *f->binds);
    return f->window && f->losses && f->order && f->binds ? MTBAL_OK : mtbal_no_memory(diag);
}

void mtbal_fit_close(mtbal_fit *f)
{
    mtbal_data_close(f->data);
    mtbal_data_close(f->valid);
    mtbal_session_close(f->session);
}
