/* bench/bench_balance.c: does calibration help? Each problem of models/, over several seeds,
 * trained with single tasks, equal weights, and weights 1/G for every measure of G, with the
 * learning rate chosen in the same way for each. `make bench-balance` prints the tables of
 * docs/balance.md.
 *
 * bench_balance FOLDER [SEEDS [PROBLEM ...]]: FOLDER takes the step graphs, one a problem and seed.
 *
 * A seed draws the starting weights (uniform within 1/sqrt(fan-in), as the exporter's framework
 * does) and the order of the samples. Trainings are jobs in shared memory; two processes work
 * them off, so that tables do not depend on which does what. */
#include "passes/passes.h"
#include "train/calibrate.h"
#include "train/trace.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, WARMUP = 50, WORKERS = 2, MAX_SEEDS = 20, MAX_TASKS = 5, NRATES = 4 };
static const double rates[NRATES] = {1e-3, 3e-3, 1e-2, 3e-2};

/* ------------------------------------------------------------------ the problems */

typedef enum metric { ACCURACY, NRMSE } metric;
typedef struct problem {
    const char *name, *label;
    int steps, ntasks;
    struct {
        const char *name, *target; /* losses and predictions: loss_NAME, pred_NAME */
        metric metric;
    } tasks[MAX_TASKS];
} problem;

static const problem problems[] = {
    {"toyscale", "B1", 3000, 2, {{"small", "y0", NRMSE}, {"large", "y1", NRMSE}}},
    {"digits2", "B2", 2000, 2, {{"digit", "label", ACCURACY}, {"clean", "picture", NRMSE}}},
    {"multidigits", "B3", 2000, 2, {{"left", "left", ACCURACY}, {"right", "right", ACCURACY}}},
    {"interpnoise", "B4", 2000, 2, {{"digit", "label", ACCURACY}, {"noisy", "target", NRMSE}}},
    {"digits5",
     "B5",
     2000,
     5,
     {{"digit", "label", ACCURACY},
      {"odd", "odd", ACCURACY},
      {"ink", "ink", NRMSE},
      {"clean", "picture", NRMSE},
      {"rumour", "rumour", ACCURACY}}},
};
enum { NPROBLEMS = sizeof problems / sizeof *problems };

/* What is compared: NULL measure is equal weights. */
static const char *const methods[] = {"equal",   "init", "loss",  "rms",   "traj",
                                      "heldout", "rel",  "heads", "floor", "recal"};
enum { NMETHODS = sizeof methods / sizeof *methods, EQUAL = 0, FLOOR = 8, RECAL = 9 };

/* ------------------------------------------------------------------ jobs */

typedef enum job_kind { ALONE, HEADS, JOINT } job_kind;
typedef struct job {
    job_kind kind;
    int problem, seed, rate;
    int task;            /* of ALONE */
    double g[MAX_TASKS]; /* of JOINT */
    /* what came out */
    bool trained;                             /* false: it diverged */
    double valid[MAX_TASKS], test[MAX_TASKS]; /* metrics */
    double rms[MAX_TASKS];                    /* of HEADS and JOINT: gradients at the end */
    mtbal_calibration found;                  /* of ALONE */
} job;

typedef struct queue {
    atomic_int next;
    int count;
    job jobs[];
} queue;

static const char *folder;
static int nseeds = 5;
static bool chosen[NPROBLEMS];

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void must(mtbal_status status, const mtbal_diag *diag)
{
    if (status == MTBAL_OK)
        return;
    fprintf(stderr, "bench_balance: %s: %s\n", diag->where, diag->what);
    _exit(mtbal_exit_code(status));
}

static void step_path(char path[256], const problem *p, int seed)
{
    snprintf(path, 256, "%s/%s.%d.onnx", folder, p->name, seed);
}

static void data_path(char path[256], const problem *p, const char *part)
{
    snprintf(path, 256, "models/%s.%s.npz", p->name, part);
}

/* ------------------------------------------------------------------ starting weights */

/* SplitMix64, as a number in [-1, 1). */
static double uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
}

/* Inputs of the layer that a parameter belongs to: NAME.weight is [outputs, inputs]. */
static int64_t fan_in(mtbal_graph *graph, const mtbal_value *v)
{
    char name[256];
    if (v->tensor->rank == 2)
        return v->tensor->dims[1];
    snprintf(name, sizeof name, "%s", v->name);
    char *dot = strrchr(name, '.');
    if (dot)
        snprintf(dot, sizeof name - (size_t)(dot - name), ".weight");
    const mtbal_value *weight = mtbal_value_find(graph, name);
    return weight && weight->tensor && weight->tensor->rank == 2 ? weight->tensor->dims[1] : 0;
}

static void draw_weights(mtbal_model *model, int seed)
{
    uint64_t state = 1000003u * (uint64_t)seed + 17;
    for (int i = 0; i < model->graph->ninitializers; i++) {
        mtbal_value *v = model->graph->initializers[i];
        int64_t fan = v->tensor->rank ? fan_in(model->graph, v) : 0;
        if (!fan || v->tensor->dtype != MTBAL_FLOAT)
            continue;
        mtbal_tensor *t =
            mtbal_tensor_new(model, MTBAL_FLOAT, v->tensor->rank, v->tensor->dims, NULL);
        for (int64_t k = 0; t && k < t->count; k++)
            mtbal_tensor_set_f64(t, k, uniform(&state) / sqrt((double)fan));
        v->tensor = t ? t : v->tensor;
    }
}

static void make_step(const problem *p, int seed)
{
    char from[256], to[256];
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = "adam";
    o.outputs = MTBAL_OUT_NORMS | MTBAL_OUT_TASK_GRADS;
    snprintf(from, sizeof from, "models/%s.onnx", p->name);
    step_path(to, p, seed);
    must(mtbal_onnx_read(from, &model, &diag), &diag);
    draw_weights(model, seed);
    must(mtbal_rewrite(model, &o, &context, &diag), &diag);
    must(mtbal_onnx_write(model, to, &diag), &diag);
    mtbal_model_free(model);
}

/* ------------------------------------------------------------------ metrics */

/* Metrics of all tasks over all samples of the data, into metrics [ntasks]. */
static mtbal_status judge_data(mtbal_session *s, const problem *p, const mtbal_data *data,
                               double *metrics, mtbal_diag *diag)
{
    mtbal_program *program;
    mtbal_bind binds[16];
    char text[128];
    mtbal_data_binds(s, data, data->samples, binds);
    MTBAL_TRY(mtbal_session_program(s, s->nfeeds, binds, MTBAL_EVALUATE, &program, diag));
    mtbal_data_load(s, data, NULL, data->samples, program);
    mtbal_instance_run(program->instance, 0);
    for (int t = 0; t < p->ntasks; t++) {
        mtbal_metric metric;
        mtbal_metric_sum sum = {0};
        snprintf(text, sizeof text, "%s:pred_%s,%s",
                 p->tasks[t].metric == NRMSE ? "nrmse" : "accuracy", p->tasks[t].name,
                 p->tasks[t].target);
        MTBAL_TRY(mtbal_metric_parse(text, s->arena, &metric, diag));
        MTBAL_TRY(mtbal_metric_add(&metric, program, data, NULL, data->samples, &sum, diag));
        metrics[t] = mtbal_metric_value(&metric, &sum);
    }
    return MTBAL_OK;
}

static mtbal_status judge(mtbal_session *s, const problem *p, const char *part, double *metrics,
                          mtbal_diag *diag)
{
    char path[256];
    mtbal_data *data = NULL;
    data_path(path, p, part);
    MTBAL_TRY(mtbal_data_open(s, path, false, 1 << 20, &data, diag));
    mtbal_status status = judge_data(s, p, data, metrics, diag);
    mtbal_data_close(data);
    return status;
}

static mtbal_status judge_job(void *context, mtbal_session *s, int task, mtbal_diag *diag)
{
    job *j = context;
    (void)task;
    MTBAL_TRY(judge(s, &problems[j->problem], "valid", j->valid, diag));
    return judge(s, &problems[j->problem], "test", j->test, diag);
}

/* ------------------------------------------------------------------ one job */

static int task_names(const problem *p, char buffer[MAX_TASKS][64], const char **names)
{
    for (int t = 0; t < p->ntasks; t++) {
        snprintf(buffer[t], 64, "loss_%s", p->tasks[t].name);
        names[t] = buffer[t];
    }
    return p->ntasks;
}

static int64_t epochs_of(const problem *p)
{
    char path[256];
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    data_path(path, p, "train");
    must(mtbal_npz_read(path, &npz, &diag), &diag);
    int64_t batches = (npz->arrays[0].dims[0] + BATCH - 1) / BATCH;
    mtbal_npz_free(npz);
    return p->steps / batches;
}

static void work(job *j)
{
    const problem *p = &problems[j->problem];
    char step[256], train[256], valid[256], buffer[MAX_TASKS][64];
    const char *names[MAX_TASKS];
    const mtbal_setting lr = {"lr", rates[j->rate]};
    mtbal_calibration results[MAX_TASKS];
    mtbal_calibrate_options o;
    mtbal_diag diag = {0};
    int n = task_names(p, buffer, names);
    mtbal_status status;
    step_path(step, p, j->seed);
    data_path(train, p, "train");
    data_path(valid, p, "valid");
    mtbal_calibrate_default(&o);
    o.model = step, o.data = train, o.valid = j->kind == ALONE ? valid : NULL;
    o.batch = BATCH, o.max_epochs = epochs_of(p), o.cosine = true, o.warmup = WARMUP;
    o.seed = 1000 * (uint64_t)j->seed, o.threads = 1, o.set = &lr, o.nset = 1;
    o.on_trained = judge_job, o.context = j;
    for (int t = 0; t < n; t++)
        results[t] = (mtbal_calibration){.task = names[t], .g = j->g[t]};
    if (j->kind == ALONE)
        status = mtbal_calibrate_task(&o, n, names, j->task, &j->found, NULL, NULL, &diag);
    else if (j->kind == HEADS)
        status = mtbal_calibrate_heads(&o, n, results, NULL, NULL, &diag);
    else
        status = mtbal_calibrate_joint(&o, n, results, NULL, NULL, &diag);
    j->trained = status == MTBAL_OK;
    if (status != MTBAL_CHECK)
        must(status, &diag);
    for (int t = 0; t < n && j->trained && j->kind != ALONE; t++)
        j->rms[t] = j->kind == HEADS ? results[t].rms_heads : results[t].rms_joint;
}

static queue *new_queue(int capacity)
{
    size_t size = sizeof(queue) + (size_t)capacity * sizeof(job);
    queue *q = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (q == MAP_FAILED) {
        perror("mmap");
        exit(5);
    }
    return q;
}

/* Works off all jobs that are not done yet, in WORKERS processes. */
static void run_queue(queue *q, const char *what)
{
    double start = seconds();
    int first = atomic_load(&q->next), failed = 0;
    fflush(NULL);
    for (int w = 0; w < WORKERS; w++)
        if (fork() == 0) {
            for (int i; (i = atomic_fetch_add(&q->next, 1)) < q->count;)
                work(&q->jobs[i]);
            _exit(0);
        }
    for (int status; wait(&status) > 0;)
        failed += status != 0;
    atomic_store(&q->next, q->count);
    fprintf(stderr, "%s: %d trainings in %.0f s\n", what, q->count - first, seconds() - start);
    if (failed)
        exit(1);
}

/* ------------------------------------------------------------------ which job is where */

static queue *q;
static int alone_at[NPROBLEMS][MAX_SEEDS][MAX_TASKS][NRATES];
static int heads_at[NPROBLEMS][MAX_SEEDS];
static int joint_at[NPROBLEMS][MAX_SEEDS][NMETHODS][NRATES];
static int best_alone[NPROBLEMS][MAX_TASKS], best_joint[NPROBLEMS][NMETHODS]; /* rates */

static int add(job j)
{
    q->jobs[q->count] = j;
    return q->count++;
}

static const job *alone(int p, int seed, int task)
{
    return &q->jobs[alone_at[p][seed][task][best_alone[p][task]]];
}

/* Relative change of a metric against single-task training, in percent; positive is worse. */
static double drop(int p, int seed, int task, const job *j, bool test)
{
    const job *s = alone(p, seed, task);
    double m = test ? j->test[task] : j->valid[task], r = test ? s->test[task] : s->valid[task];
    double sign = problems[p].tasks[task].metric == NRMSE ? 1 : -1;
    return j->trained ? 100 * sign * (m - r) / r : INFINITY;
}

static double delta(int p, int seed, const job *j, bool test)
{
    double sum = 0;
    for (int t = 0; t < problems[p].ntasks; t++)
        sum += drop(p, seed, t, j, test) / problems[p].ntasks;
    return sum;
}

static void choose_alone(int p, int task)
{
    double best = INFINITY;
    for (int r = 0; r < NRATES; r++) {
        double mean = 0;
        for (int s = 0; s < nseeds; s++) {
            const job *j = &q->jobs[alone_at[p][s][task][r]];
            double m = j->valid[task] / nseeds;
            mean += !j->trained ? INFINITY : problems[p].tasks[task].metric == NRMSE ? m : -m;
        }
        if (mean < best) {
            best = mean;
            best_alone[p][task] = r;
        }
    }
}

static void choose_joint(int p, int method)
{
    double best = INFINITY;
    for (int r = 0; r < NRATES; r++) {
        double mean = 0;
        for (int s = 0; s < nseeds; s++)
            mean += delta(p, s, &q->jobs[joint_at[p][s][method][r]], false) / nseeds;
        if (mean < best) {
            best = mean;
            best_joint[p][method] = r;
        }
    }
}

/* G of every task for a method. */
static void calibration(int p, int seed, int method, double *g)
{
    const mtbal_measure *m = mtbal_measure_find(methods[method]);
    const job *floor =
        method == RECAL ? &q->jobs[joint_at[p][seed][FLOOR][best_joint[p][FLOOR]]] : NULL;
    for (int t = 0; t < problems[p].ntasks; t++) {
        mtbal_calibration found = alone(p, seed, t)->found;
        found.rms_heads = q->jobs[heads_at[p][seed]].rms[t];
        found.rms_joint = floor ? floor->rms[t] : NAN;
        g[t] = method == EQUAL ? 1 : m->of(&found, 0.3);
    }
}

static void add_joint(int p, int method)
{
    for (int s = 0; s < nseeds; s++)
        for (int r = 0; r < NRATES; r++) {
            job j = {.kind = JOINT, .problem = p, .seed = s, .rate = r};
            calibration(p, s, method, j.g);
            joint_at[p][s][method][r] = add(j);
        }
}

static void run_all(void)
{
    for (int p = 0; p < NPROBLEMS; p++)
        for (int s = 0; chosen[p] && s < nseeds; s++) {
            make_step(&problems[p], s);
            for (int t = 0; t < problems[p].ntasks; t++)
                for (int r = 0; r < NRATES; r++)
                    alone_at[p][s][t][r] = add((job){ALONE, p, s, r, t, .trained = false});
            heads_at[p][s] = add((job){HEADS, p, s, 1, .trained = false});
        }
    run_queue(q, "each task alone, heads");
    for (int p = 0; p < NPROBLEMS; p++)
        for (int t = 0; chosen[p] && t < problems[p].ntasks; t++)
            choose_alone(p, t);
    for (int p = 0; p < NPROBLEMS; p++)
        for (int m = 0; chosen[p] && m < RECAL; m++)
            add_joint(p, m);
    run_queue(q, "all tasks together");
    for (int p = 0; p < NPROBLEMS; p++)
        for (int m = 0; chosen[p] && m < RECAL; m++)
            choose_joint(p, m);
    for (int p = 0; p < NPROBLEMS; p++)
        if (chosen[p])
            add_joint(p, RECAL);
    run_queue(q, "recal");
    for (int p = 0; p < NPROBLEMS; p++)
        if (chosen[p])
            choose_joint(p, RECAL);
}

/* ------------------------------------------------------------------ tables */

typedef struct spread {
    double sum, squares;
    int n;
} spread;

static void take(spread *s, double x)
{
    s->sum += x;
    s->squares += x * x;
    s->n++;
}

static double mean_of(const spread *s)
{
    return s->sum / s->n;
}

/* Standard error of the mean; NAN of one. */
static double error_of(const spread *s)
{
    if (s->n < 2)
        return NAN;
    double variance = (s->squares - s->sum * s->sum / s->n) / (s->n - 1);
    return sqrt(fmax(0, variance) / s->n);
}

static void print_metric(metric metric, const spread *s)
{
    printf(metric == NRMSE ? " %.3f ± %.3f |" : " %.1f ± %.1f |", mean_of(s), error_of(s));
}

static void print_alone(int p)
{
    const problem *it = &problems[p];
    printf("| each alone |");
    for (int t = 0; t < it->ntasks; t++) {
        spread s = {0};
        for (int seed = 0; seed < nseeds; seed++)
            take(&s, alone(p, seed, t)->test[t]);
        print_metric(it->tasks[t].metric, &s);
    }
    printf(" 0 | | | |");
    for (int t = 0; t < it->ntasks; t++)
        printf("%s%g", t ? ", " : " ", rates[best_alone[p][t]]);
    printf(" |\n");
}

static void print_method(int p, int method)
{
    const problem *it = &problems[p];
    spread deltas = {0}, gains = {0}, ratio = {0};
    double worst = -INFINITY;
    printf("| %s%s |", method == EQUAL ? "" : "1/", method == EQUAL ? "equal" : methods[method]);
    for (int t = 0; t < it->ntasks; t++) {
        spread s = {0}, drops = {0};
        for (int seed = 0; seed < nseeds; seed++) {
            const job *j = &q->jobs[joint_at[p][seed][method][best_joint[p][method]]];
            take(&s, j->test[t]);
            take(&drops, drop(p, seed, t, j, true));
        }
        print_metric(it->tasks[t].metric, &s);
        worst = fmax(worst, mean_of(&drops));
    }
    for (int seed = 0; seed < nseeds; seed++) {
        const job *j = &q->jobs[joint_at[p][seed][method][best_joint[p][method]]];
        double low = INFINITY, high = 0;
        const job *equal = &q->jobs[joint_at[p][seed][EQUAL][best_joint[p][EQUAL]]];
        take(&deltas, delta(p, seed, j, true));
        take(&gains, delta(p, seed, j, true) - delta(p, seed, equal, true));
        for (int t = 0; t < it->ntasks; t++) {
            low = fmin(low, j->g[t]);
            high = fmax(high, j->g[t]);
        }
        take(&ratio, log10(high / low));
    }
    printf(" %+.1f ± %.1f |", mean_of(&deltas), error_of(&deltas));
    if (method == EQUAL)
        printf(" |");
    else
        printf(" %+.1f ± %.1f |", mean_of(&gains), error_of(&gains));
    printf(" %+.0f | %.2f | %g |\n", worst, mean_of(&ratio), rates[best_joint[p][method]]);
}

static void print_problem(int p)
{
    const problem *it = &problems[p];
    printf("\n### %s: %s (%d steps)\n\n| weights |", it->label, it->name, it->steps);
    for (int t = 0; t < it->ntasks; t++)
        printf(" %s, %s |", it->tasks[t].name,
               it->tasks[t].metric == NRMSE ? "nrmse" : "accuracy %");
    printf(" delta_m %% | against equal | worst task %% | log10 of G's ratio | lr |\n|---|");
    for (int t = 0; t < it->ntasks + 5; t++)
        printf("---|");
    printf("\n");
    print_alone(p);
    for (int m = 0; m < NMETHODS; m++)
        print_method(p, m);
}

static void print_snr(void)
{
    printf("\n### Signal to noise of the mean gradient where each task alone ended, and G\n\n"
           "| problem | task | SNR | G, floor | the same / traj |\n|---|---|---|---|---|\n");
    for (int p = 0; p < NPROBLEMS; p++)
        for (int t = 0; chosen[p] && t < problems[p].ntasks; t++) {
            spread snr = {0}, g = {0}, end = {0};
            for (int s = 0; s < nseeds; s++) {
                const mtbal_calibration *c = &alone(p, s, t)->found;
                take(&snr, c->snr);
                take(&g, fmax(c->rms_end, 0.3 * c->rms_run));
                take(&end, c->rms_end / c->rms_run);
            }
            printf("| %s | %s | %.3f ± %.3f | %.4g ± %.2g | %.3f%s |\n", problems[p].label,
                   problems[p].tasks[t].name, mean_of(&snr), error_of(&snr), mean_of(&g),
                   error_of(&g), mean_of(&end), mean_of(&end) < 0.3 ? ", below the floor" : "");
        }
}

static bool choose_problem(const char *name)
{
    for (int p = 0; p < NPROBLEMS; p++)
        if (!strcmp(name, problems[p].name) || !strcmp(name, problems[p].label))
            return chosen[p] = true;
    return false;
}

int main(int argc, char **argv)
{
    double start = seconds();
    int capacity = 0;
    nseeds = argc > 2 ? atoi(argv[2]) : 5;
    if (argc < 2 || nseeds < 1 || nseeds > MAX_SEEDS) {
        fprintf(stderr, "usage: bench_balance FOLDER [SEEDS (1 to %d) [PROBLEM ...]]\n", MAX_SEEDS);
        return 2;
    }
    folder = argv[1];
    for (int i = 3; i < argc; i++)
        if (!choose_problem(argv[i])) {
            fprintf(stderr, "bench_balance: there is no problem %s\n", argv[i]);
            return 2;
        }
    for (int p = 0; p < NPROBLEMS; p++) {
        chosen[p] = chosen[p] || argc <= 3;
        capacity += nseeds * (NRATES * (problems[p].ntasks + NMETHODS) + 1);
    }
    q = new_queue(capacity);
    run_all();
    printf("%d seeds, Adam, batch %d, %d steps of warm-up, cosine; learning rate of each row from "
           "1e-3, 3e-3, 1e-2, 3e-2 by the validation metric; ± is the standard error over seeds\n",
           nseeds, BATCH, WARMUP);
    for (int p = 0; p < NPROBLEMS; p++)
        if (chosen[p])
            print_problem(p);
    print_snr();
    printf("\n%d trainings in %.0f s, two at a time\n", q->count, seconds() - start);
    return 0;
}
