/* train/measure.c: what G can be, and gradients measured at fixed states. */
#include "train/calibrate.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ the measures */

static double of_floor(const mtbal_calibration *r, double kappa)
{
    return fmax(r->rms_end, kappa * r->rms_run);
}

static double of_rms(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_end;
}

static double of_heldout(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_heldout;
}

static double of_traj(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_run;
}

static double of_rel(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rel;
}

static double of_loss(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return isnan(r->best_valid) ? r->loss : r->best_valid;
}

static double of_init(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_start;
}

static double of_heads(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_heads;
}

static double of_joint(const mtbal_calibration *r, double kappa)
{
    (void)kappa;
    return r->rms_joint;
}

const mtbal_measure mtbal_measure_table[] = {
    {"floor", "max of rms and kappa times traj", of_floor, false, false, false},
    {"rms", "RMS of the gradient over the window at the end", of_rms, false, false, false},
    {"heldout", "RMS on --valid at the best validation loss", of_heldout, true, false, false},
    {"traj", "RMS over the whole run", of_traj, false, false, false},
    {"rel", "each parameter's gradient times its own norm", of_rel, false, true, true},
    {"loss", "the loss itself (on --valid where given)", of_loss, false, false, false},
    {"init", "RMS at the start", of_init, false, false, false},
    {"heads", "RMS where the heads alone were trained", of_heads, false, false, true},
    {"recal", "floor, then RMS where a joint run with it ends", of_joint, false, false, false},
    {NULL, NULL, NULL, false, false, false},
};

const mtbal_measure *mtbal_measure_find(const char *name)
{
    const mtbal_measure *m = mtbal_measure_table;
    while (m->name && strcmp(m->name, name))
        m++;
    return m->name ? m : NULL;
}

mtbal_status mtbal_measure_apply(const mtbal_measure *measure, double kappa,
                                 mtbal_calibration *result, mtbal_diag *diag)
{
    result->floored = result->rms_end < kappa * result->rms_run;
    result->g = measure->of(result, kappa);
    if (result->g > 0 && isfinite(result->g))
        return MTBAL_OK;
    if (result->g == 0)
        return mtbal_fail(diag, MTBAL_CHECK, result->task,
                          "is its loss constant, or is all that is shared out of its reach? "
                          "--measure floor bears a gradient that vanishes in the end",
                          "task %s: measure %s is 0, no weight can be made of it", result->task,
                          measure->name);
    return mtbal_fail(diag, MTBAL_CHECK, result->task,
                      "look for a division by 0 or a logarithm of 0 in its loss",
                      "task %s: measure %s is %g, no weight can be made of it", result->task,
                      measure->name, result->g);
}

/* ------------------------------------------------------------------ probing */

enum { UNION = 20 };

/* Loads `n` samples and runs a program that leaves the states alone. */
static mtbal_status run(const mtbal_probe *p, mtbal_mode mode, const int64_t *order, int64_t n,
                        mtbal_program **program, mtbal_diag *diag)
{
    mtbal_bind *binds = mtbal_malloc(((size_t)p->session->nfeeds + 1) * sizeof *binds);
    if (!binds)
        return mtbal_no_memory(diag);
    mtbal_data_binds(p->session, p->data, n, binds);
    mtbal_status status =
        mtbal_session_program(p->session, p->session->nfeeds, binds, mode, program, diag);
    mtbal_free(binds);
    if (status != MTBAL_OK)
        return status;
    return mtbal_program_run(p->session, p->data, order, n, p->seed, *program, diag);
}

mtbal_status mtbal_probe_rms(const mtbal_probe *probe, double *rms, mtbal_diag *diag)
{
    const mtbal_session *s = probe->session;
    int64_t *order = mtbal_malloc((size_t)probe->batch * sizeof *order);
    mtbal_status status = order ? MTBAL_OK : mtbal_no_memory(diag);
    mtbal_program *program;
    for (int t = 0; t < s->ntasks; t++)
        rms[t] = 0;
    for (int64_t b = 0; b < probe->count && status == MTBAL_OK; b++) {
        mtbal_data_draw(probe->data, probe->seed, b, probe->batch, order);
        status = run(probe, MTBAL_PROBE, order, probe->batch, &program, diag);
        for (int t = 0; t < s->ntasks && status == MTBAL_OK; t++)
            rms[t] += pow(mtbal_program_scalar(program, s->norms[t]), 2) / (double)probe->count;
    }
    for (int t = 0; t < s->ntasks; t++)
        rms[t] = sqrt(rms[t]);
    mtbal_free(order);
    return status;
}

/* Sums over the batches first .. first+k of a union; what is left of |E g|^2 after its sampling
 * bias is *mean, and *square the mean of |g_b|^2. *mean is NAN where the union's gradient is not
 * the mean of its batches'. */
static mtbal_status probe_union(const mtbal_probe *p, int task, int64_t first, int64_t k,
                                int64_t *order, double *mean, double *square, mtbal_diag *diag)
{
    const char *norm = p->session->norms[task], *output = p->session->losses[task];
    mtbal_program *program;
    double loss = 0;
    *square = 0;
    for (int64_t b = 0; b < k; b++) {
        int64_t *part = order + b * p->batch;
        mtbal_data_draw(p->data, p->seed, first + b, p->batch, part);
        MTBAL_TRY(run(p, MTBAL_PROBE, part, p->batch, &program, diag));
        *square += pow(mtbal_program_scalar(program, norm), 2) / (double)k;
        loss += mtbal_program_scalar(program, output) / (double)k;
    }
    MTBAL_TRY(run(p, MTBAL_PROBE, order, k * p->batch, &program, diag));
    double whole = mtbal_program_scalar(program, output), g = mtbal_program_scalar(program, norm);
    if (fabs(whole - (double)k * loss) < fabs(whole - loss)) { /* a sum over samples */
        whole /= (double)k;
        g /= (double)k;
    }
    bool adds_up = fabs(whole - loss) <= 0.05 * fabs(loss) + 1e-12;
    *mean = adds_up ? g * g - (*square - g * g) / (double)(k - 1) : NAN;
    return MTBAL_OK;
}

mtbal_status mtbal_probe_snr(const mtbal_probe *probe, int task, double *snr, mtbal_diag *diag)
{
    int64_t k = probe->count < UNION ? probe->count : UNION;
    *snr = NAN;
    if (mtbal_session_batch_is_fixed(probe->session) || k < 2)
        return MTBAL_OK;
    int64_t *order = mtbal_malloc((size_t)(k * probe->batch) * sizeof *order);
    double means = 0, squares = 0;
    mtbal_status status = order ? MTBAL_OK : mtbal_no_memory(diag);
    for (int64_t first = 0; first + k <= probe->count && status == MTBAL_OK; first += k) {
        double mean = NAN, square = NAN;
        status = probe_union(probe, task, first, k, order, &mean, &square, diag);
        means += mean;
        squares += square;
    }
    mtbal_free(order);
    *snr = squares > 0 ? means / squares : NAN;
    return status;
}

static double squared_norm(const rt_tensor *t)
{
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .data = t->data};
    int64_t n = rt_count(t);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow(mtbal_tensor_f64(&as, i), 2);
    return sum;
}

/* sum_P |P|^2 |g_P|^2 over the shared parameters P of which the program has the gradient. */
static double relative_square(mtbal_session *s, const mtbal_program *program, int *found)
{
    double sum = 0;
    char name[512];
    for (int i = 0; i < s->nshared; i++) {
        snprintf(name, sizeof name, "mtbal/task_grad/%s/%s", s->options.only_task, s->shared[i]);
        const rt_tensor *g = mtbal_instance_output(program->instance, name);
        const rt_tensor *p = mtbal_session_state(s, s->shared[i]);
        if (g && g->data && p) {
            sum += squared_norm(p) * squared_norm(g);
            ++*found;
        }
    }
    return sum;
}

mtbal_status mtbal_probe_rel(const mtbal_probe *probe, double *rel, mtbal_diag *diag)
{
    *rel = NAN;
    if (!probe->session->has_tensors || !probe->session->options.only_task)
        return MTBAL_OK;
    int64_t *order = mtbal_malloc((size_t)probe->batch * sizeof *order);
    mtbal_status status = order ? MTBAL_OK : mtbal_no_memory(diag);
    double sum = 0;
    int found = 0;
    for (int64_t b = 0; b < probe->count && status == MTBAL_OK; b++) {
        mtbal_program *program;
        mtbal_data_draw(probe->data, probe->seed, b, probe->batch, order);
        status = run(probe, MTBAL_PROBE_TENSORS, order, probe->batch, &program, diag);
        if (status == MTBAL_OK)
            sum += relative_square(probe->session, program, &found) / (double)probe->count;
    }
    mtbal_free(order);
    *rel = found ? sqrt(sum) : NAN;
    return status;
}
