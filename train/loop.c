/* train/loop.c: epochs and steps. */
#include "train/train.h"

#include <math.h>
#include <time.h>

#define PI 3.14159265358979323846

typedef struct loop {
    mtbal_session *session;
    const mtbal_data *data;
    const mtbal_loop_options *options;
    mtbal_on_step *on_step;
    void *context;
    mtbal_diag *diag;
    mtbal_bind *binds;
    int64_t *order;
    double *loss, *grad_norm, *weight;
    int64_t step, steps_total, per_epoch;
    double took; /* seconds of the step before; < 0: there was none */
    void *kept;  /* the states before the present step, where it is a long one */
    size_t room;
    bool begun, keeps; /* the step changes the states; they are in `kept` */
} loop;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What a run needs beside the session: one piece of memory, given back at its end. */
static mtbal_status prepare(loop *l)
{
    const mtbal_session *s = l->session;
    size_t tasks = (size_t)s->ntasks, feeds = (size_t)s->nfeeds + 1;
    size_t samples = (size_t)l->data->samples;
    l->order = mtbal_malloc(samples * sizeof *l->order + 3 * tasks * sizeof *l->loss +
                            feeds * sizeof *l->binds);
    if (!l->order)
        return mtbal_no_memory(l->diag);
    l->loss = (double *)(l->order + samples);
    l->grad_norm = l->loss + tasks;
    l->weight = l->grad_norm + tasks;
    l->binds = (mtbal_bind *)(l->weight + tasks);
    return MTBAL_OK;
}

static double learning_rate(const mtbal_program *program)
{
    const rt_tensor *t = mtbal_instance_input(program->instance, "mtbal/lr");
    if (!t || !t->data)
        return NAN;
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .count = 1, .data = t->data};
    return mtbal_tensor_f64(&as, 0);
}

/* The schedule, into the program's learning rate. */
static void set_learning_rate(const loop *l, mtbal_program *program)
{
    const mtbal_schedule *schedule = &l->options->schedule;
    rt_tensor *t = mtbal_instance_input(program->instance, "mtbal/lr");
    double step = (double)(l->options->before + l->step), factor = 1;
    if ((!schedule->warmup && !schedule->total) || !t || !t->data)
        return;
    if (step < (double)schedule->warmup)
        factor = (step + 1) / (double)schedule->warmup;
    double total = (double)(schedule->total < 0 ? l->steps_total : schedule->total);
    if (total > 0)
        factor *= 0.5 * (1 + cos(PI * fmin(1, step / total)));
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .count = 1, .data = t->data};
    mtbal_tensor_set_f64(&as, 0, factor * program->lr);
}

/* A training must go somewhere: finite losses of what has a weight, and some weight, unless a step
 * without a gradient may be followed by another one. */
static mtbal_status check(const loop *l)
{
    const mtbal_session *s = l->session;
    int off = 0;
    for (int i = 0; i < s->ntasks; i++) {
        off += l->weight[i] == 0;
        if (!isfinite(l->loss[i]) && !(l->weight[i] == 0))
            return mtbal_fail(l->diag, MTBAL_CHECK, s->path,
                              "lower the learning rate (--set lr=...), or look at the data",
                              "the loss %s became %f at step %lld", s->tasks[i], l->loss[i],
                              (long long)l->step);
    }
    if (off < s->ntasks || off == 0 || s->weighs)
        return MTBAL_OK;
    return mtbal_fail(l->diag, MTBAL_CHECK, s->path,
                      "a task's G of +inf switches it off: leave one on",
                      "all weights are 0 at step %lld: nothing is trained", (long long)l->step);
}

static mtbal_status record(loop *l, const mtbal_program *program, int64_t epoch, int64_t first,
                           int64_t n, double took)
{
    mtbal_session *s = l->session;
    mtbal_record r = {.step = l->step,
                      .epoch = epoch,
                      .steps_total = l->steps_total,
                      .lr = learning_rate(program),
                      .total = mtbal_program_scalar(program, "mtbal/loss"),
                      .seconds = took,
                      .loss = l->loss,
                      .grad_norm = l->grad_norm,
                      .weight = l->weight,
                      .measured = program->mode == MTBAL_MEASURE,
                      .program = program,
                      .samples = n,
                      .order = l->order + first};
    for (int i = 0; i < s->ntasks; i++) {
        l->loss[i] = mtbal_program_scalar(program, s->losses[i]);
        l->grad_norm[i] = mtbal_program_scalar(program, s->norms[i]);
        l->weight[i] = mtbal_program_scalar(program, s->weights[i]);
    }
    MTBAL_TRY(l->on_step ? l->on_step(l->context, &r, l->diag) : MTBAL_OK);
    return s->is_step ? check(l) : MTBAL_OK;
}

/* ------------------------------------------------------------------ a step */

/* Copies the states before a step that will be long enough to be interrupted. No room: then it
 * cannot be undone. */
static void keep_states(loop *l)
{
    enum { SHORT = 10 }; /* steps a second that end soon enough by themselves */
    size_t size = mtbal_session_state_bytes(l->session);
    l->keeps = false;
    if (!l->options->saves || (l->took >= 0 && l->took < 1.0 / SHORT))
        return;
    if (size > l->room) {
        void *bigger = mtbal_realloc(l->kept, size);
        l->kept = bigger ? bigger : l->kept;
        l->room = bigger ? size : l->room;
    }
    l->keeps = size <= l->room;
    if (l->keeps)
        mtbal_session_save_states(l->session, l->kept);
}

/* After a step that was interrupted: the states are as before it, and saved. */
static mtbal_status undo(loop *l)
{
    if (!l->options->saves || !l->session->first || (l->begun && !l->keeps))
        return MTBAL_INTERRUPTED;
    if (l->begun)
        mtbal_session_load_states(l->session, l->kept);
    mtbal_diag saved = {0};
    mtbal_status status = l->options->between(l->context, l->step, &saved);
    if (saved.status != MTBAL_OK && l->diag)
        *l->diag = saved;
    return status == MTBAL_OK ? MTBAL_INTERRUPTED : status;
}

static mtbal_status one_step(loop *l, int64_t epoch, int64_t first)
{
    const mtbal_data *data = l->data;
    int64_t n = data->samples - first < data->batch ? data->samples - first : data->batch;
    int64_t every = l->options->norm_every;
    bool measure = every > 0 && l->step % every == 0;
    mtbal_program *program;
    mtbal_data_binds(l->session, data, n, l->binds);
    MTBAL_TRY(mtbal_session_program(l->session, l->session->nfeeds, l->binds,
                                    measure ? MTBAL_MEASURE : MTBAL_TRAIN, &program, l->diag));
    set_learning_rate(l, program);
    keep_states(l);
    double start = seconds();
    l->begun = true;
    MTBAL_TRY(mtbal_program_run(l->session, data, l->order + first, n,
                                l->options->seed + (uint64_t)l->step, program, l->diag));
    l->begun = false;
    l->took = seconds() - start;
    return record(l, program, epoch, first, n, l->took);
}

/* What is left of an epoch. A step graph with a fixed batch leaves the last, smaller batch out. */
static mtbal_status one_epoch(loop *l, int64_t epoch)
{
    const mtbal_loop_options *o = l->options;
    int64_t last = (epoch + 1) * l->per_epoch;
    mtbal_data_order(l->data, o->shuffle, o->seed, epoch, l->order);
    while (l->step < last && l->step < l->steps_total) {
        l->begun = false;
        mtbal_status status = one_step(l, epoch, (l->step - epoch * l->per_epoch) * l->data->batch);
        if (status == MTBAL_INTERRUPTED)
            return undo(l);
        MTBAL_TRY(status);
        l->step++;
        if (o->between)
            MTBAL_TRY(o->between(l->context, l->step, l->diag));
    }
    return MTBAL_OK;
}

static int64_t steps_per_epoch(const mtbal_session *session, const mtbal_data *data)
{
    bool whole_batches = mtbal_session_batch_is_fixed(session) && !data->whole;
    return (data->samples + (whole_batches ? 0 : data->batch - 1)) / data->batch;
}

mtbal_status mtbal_loop_run(mtbal_session *session, const mtbal_data *data,
                            const mtbal_loop_options *options, mtbal_on_step *on_step,
                            void *context, mtbal_diag *diag)
{
    loop l = {.session = session,
              .data = data,
              .options = options,
              .on_step = on_step,
              .context = context,
              .diag = diag,
              .step = options->first,
              .took = -1,
              .per_epoch = steps_per_epoch(session, data)};
    MTBAL_TRY(prepare(&l));
    int64_t epochs = options->epochs > 0 ? options->epochs : 1;
    if (options->epochs == 0 && options->limit > 0)
        epochs = (options->limit + l.per_epoch - 1) / l.per_epoch;
    l.steps_total = epochs * l.per_epoch;
    if (options->limit > 0 && options->limit < l.steps_total)
        l.steps_total = options->limit;
    mtbal_status status = MTBAL_OK;
    while (l.step < l.steps_total && status == MTBAL_OK)
        status = one_epoch(&l, l.step / l.per_epoch);
    mtbal_free(l.order);
    mtbal_free(l.kept);
    return status;
}

mtbal_status mtbal_loop_restore(mtbal_session *session, const mtbal_data *data, bool measure,
                                const void *states, size_t size, mtbal_diag *diag)
{
    mtbal_program *program;
    mtbal_bind *binds = mtbal_malloc(((size_t)session->nfeeds + 1) * sizeof *binds);
    if (!binds)
        return mtbal_no_memory(diag);
    mtbal_data_binds(session, data, data->whole ? 1 : data->batch, binds);
    mtbal_status status = mtbal_session_program(
        session, session->nfeeds, binds, measure ? MTBAL_MEASURE : MTBAL_TRAIN, &program, diag);
    mtbal_free(binds);
    if (status != MTBAL_OK)
        return status;
    if (mtbal_session_state_bytes(session) != size)
        return mtbal_fail(diag, MTBAL_INVALID, session->path, "start anew without --resume",
                          "the checkpoint holds %zu bytes of states, the model has %zu", size,
                          mtbal_session_state_bytes(session));
    mtbal_session_load_states(session, states);
    return MTBAL_OK;
}
