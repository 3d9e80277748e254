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
    int64_t step, steps_total;
    const char **norm_names, **weight_names;
} loop;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* How many steps an epoch has. A step graph with a fixed batch leaves the last, smaller batch out.
 */
static int64_t steps_per_epoch(const loop *l)
{
    return (l->data->samples + l->data->batch - 1) / l->data->batch;
}

static bool fixed_batch(const mtbal_session *s)
{
    for (int i = 0; i < s->nfeeds; i++)
        if (s->feeds[i].rank > 0 && s->feeds[i].dims[0].size >= 0)
            return true;
    return false;
}

static mtbal_status prepare(loop *l)
{
    mtbal_session *s = l->session;
    size_t tasks = (size_t)s->ntasks + 1;
    l->binds = mtbal_arena_array(s->arena, (size_t)s->nfeeds + 1, sizeof *l->binds);
    l->order = mtbal_arena_array(s->arena, (size_t)l->data->samples, sizeof *l->order);
    l->loss = mtbal_arena_array(s->arena, 3 * tasks, sizeof *l->loss);
    l->norm_names = mtbal_arena_array(s->arena, 2 * tasks, sizeof *l->norm_names);
    if (!l->binds || !l->order || !l->loss || !l->norm_names)
        return mtbal_no_memory(l->diag);
    l->grad_norm = l->loss + tasks;
    l->weight = l->grad_norm + tasks;
    l->weight_names = l->norm_names + tasks;
    for (int i = 0; i < s->ntasks; i++) {
        l->norm_names[i] = mtbal_arena_printf(s->arena, "mtbal/grad_norm/%s", s->tasks[i]);
        l->weight_names[i] = mtbal_arena_printf(s->arena, "mtbal/weight/%s", s->tasks[i]);
        if (!l->norm_names[i] || !l->weight_names[i])
            return mtbal_no_memory(l->diag);
    }
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
        l->grad_norm[i] = mtbal_program_scalar(program, l->norm_names[i]);
        l->weight[i] = mtbal_program_scalar(program, l->weight_names[i]);
    }
    MTBAL_TRY(l->on_step ? l->on_step(l->context, &r, l->diag) : MTBAL_OK);
    for (int i = 0; s->is_step && i < s->ntasks; i++)
        if (!isfinite(l->loss[i]) && !(l->weight[i] == 0))
            return mtbal_fail(l->diag, MTBAL_CHECK, s->path,
                              "lower the learning rate (--set lr=...), or look at the data",
                              "the loss %s became %f at step %lld", s->tasks[i], l->loss[i],
                              (long long)l->step);
    return MTBAL_OK;
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
    mtbal_data_load(l->session, data, l->order + first, n, program);
    set_learning_rate(l, program);
    double start = seconds();
    mtbal_instance_run(program->instance, l->options->seed + (uint64_t)l->step);
    return record(l, program, epoch, first, n, seconds() - start);
}

static mtbal_status one_epoch(loop *l, int64_t epoch)
{
    const mtbal_data *data = l->data;
    bool whole_batches = fixed_batch(l->session) && !data->whole;
    mtbal_data_order(data, l->options->shuffle, l->options->seed, epoch, l->order);
    for (int64_t first = 0; first < data->samples; first += data->batch) {
        if (l->steps_total && l->step == l->steps_total)
            return MTBAL_OK;
        if (whole_batches && data->samples - first < data->batch)
            return MTBAL_OK;
        MTBAL_TRY(one_step(l, epoch, first));
        l->step++;
    }
    return MTBAL_OK;
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
              .diag = diag};
    MTBAL_TRY(prepare(&l));
    int64_t per_epoch =
        fixed_batch(session) && !data->whole ? data->samples / data->batch : steps_per_epoch(&l);
    int64_t epochs = options->epochs > 0 ? options->epochs : 1;
    if (options->epochs == 0 && options->limit > 0)
        epochs = (options->limit + per_epoch - 1) / per_epoch;
    l.steps_total = epochs * per_epoch;
    if (options->limit > 0 && options->limit < l.steps_total)
        l.steps_total = options->limit;
    for (int64_t epoch = 0; epoch < epochs && l.step < l.steps_total; epoch++)
        MTBAL_TRY(one_epoch(&l, epoch));
    return MTBAL_OK;
}
