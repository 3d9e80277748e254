/* tests/test_calibrate.c: every measure of G where its value is known by hand, signal to noise, and
 * what is said when no G can be had. */
#include "tests/steps.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The loss a = mean (w - y)^2, with gradient 2 (w - mean y): everything about it is known. b is the
 * same as a sum over samples. */
static const char scalar_text[] =
    "<ir_version: 8, opset_import: [\"\" : 17]>\n"
    "g (float[n,1] y) => (float a, float b) <float[1] w = {0.5}> {\n"
    "  d = Sub(w, y)\n  s = Mul(d, d)\n"
    "  a = ReduceMean<keepdims = 0>(s)\n  b = ReduceSum<keepdims = 0>(s)\n}\n";

enum { SAMPLES = 960, BATCH = 16 };

/* y with exactly this mean and variance. */
static void write_targets(const char *path, int64_t samples, double mean, double sd)
{
    int64_t dims[] = {samples, 1};
    float *y = malloc((size_t)samples * sizeof *y);
    double sum = 0, squares = 0;
    uint64_t state = 3;
    mtbal_diag diag = {0};
    for (int64_t i = 0; i < samples; i++) {
        y[i] = (float)steps_normal(&state);
        sum += y[i];
        squares += (double)y[i] * y[i];
    }
    sum /= (double)samples;
    squares = sqrt(squares / (double)samples - sum * sum);
    for (int64_t i = 0; i < samples; i++)
        y[i] = (float)(mean + sd * (y[i] - sum) / squares);
    mtbal_array array = {"y", MTBAL_FLOAT, 2, dims, samples, (size_t)samples * sizeof *y, y};
    steps_ok(mtbal_npz_write(path, 1, &array, false, &diag));
    free(y);
}

static mtbal_options plain(const char *optimizer, unsigned outputs)
{
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = optimizer;
    o.outputs = outputs;
    return o;
}

static void write_scalar(void)
{
    mtbal_options o = plain("sgd", MTBAL_OUT_NORMS | MTBAL_OUT_TASK_GRADS);
    steps_write(steps_parse(scalar_text), &o, files_path("step.onnx"));
}

static mtbal_calibrate_options options_for(const char *data)
{
    mtbal_calibrate_options o;
    mtbal_calibrate_default(&o);
    o.model = files_path("step.onnx");
    o.data = files_path(data);
    o.batch = BATCH;
    o.threads = 1;
    return o;
}

static void near(double found, double wanted, double relative, const char *what)
{
    ck_assert_msg(fabs(found - wanted) <= relative * fabs(wanted), "%s is %.8g, not %.8g", what,
                  found, wanted);
}

/* ------------------------------------------------------------------ signal to noise */

/* SNR = d^2 / (d^2 + s^2 / B), where w lies d from the mean of y, whose deviation is s. */
START_TEST(test_snr)
{
    static const struct {
        const char *task;
        int index;
        double distance;
    } cases[] = {{"a", 0, 0}, {"a", 0, 0.1}, {"a", 0, 1}, {"b", 1, 0}, {"b", 1, 0.1}, {"b", 1, 1}};
    double d = cases[_i].distance, wanted = d * d / (d * d + 1.0 / BATCH), mean = 0;
    mtbal_session_options o = {.threads = 1, .only_task = cases[_i].task};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    enum { SEEDS = 20 };
    write_scalar();
    write_targets(files_path("y.npz"), SAMPLES, 0.5 - d, 1);
    steps_ok(mtbal_session_open(files_path("step.onnx"), &o, &session, &diag));
    steps_ok(mtbal_data_open(session, files_path("y.npz"), false, BATCH, &data, &diag));
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        double snr;
        mtbal_probe probe = {session, data, BATCH, 400, seed};
        steps_ok(mtbal_probe_snr(&probe, cases[_i].index, &snr, &diag));
        mean += snr / SEEDS;
    }
    ck_assert_msg(fabs(mean - wanted) < 0.012, "task %s: SNR is %.4f, not %.4f", cases[_i].task,
                  mean, wanted);
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* ------------------------------------------------------------------ measures */

/* With a learning rate of 0 nothing moves, and each measure is 2 sqrt(d^2 + s^2 / B) on its data.
 */
START_TEST(test_measures)
{
    const double d = 0.3, g = 2 * sqrt(d * d + 1.0 / BATCH), v = 2 * sqrt(1.0 + 4.0 / BATCH);
    mtbal_setting lr = {"lr", 0};
    mtbal_diag diag = {0};
    mtbal_calibration r;
    static const char *const tasks[] = {"a", "b"};
    write_scalar();
    write_targets(files_path("y.npz"), SAMPLES, 0.5 - d, 1);
    write_targets(files_path("valid.npz"), SAMPLES, 1.5, 2);
    mtbal_calibrate_options o = options_for("y.npz");
    o.valid = files_path("valid.npz"), o.set = &lr, o.nset = 1, o.window = 1000;
    steps_ok(mtbal_calibrate_task(&o, 2, tasks, 0, &r, NULL, NULL, &diag));
    near(r.rms_start, g, 0.05, "rms_start");
    near(r.rms_end, g, 0.02, "rms_end"); /* whole epochs: each sample equally often */
    near(r.rms_run, g, 0.02, "rms_run");
    near(r.rms_heldout, v, 0.05, "rms_heldout");
    near(r.rel, 0.5 * r.rms_start, 1e-5, "rel"); /* |w| times the same batches' gradients */
    near(r.loss, d * d + 1, 1e-3, "loss");
    near(r.best_valid, 1 + 4, 1e-3, "best_valid");
    near(r.snr, d * d / (d * d + 1.0 / BATCH), 0.1, "snr");
    ck_assert_int_eq(r.batches, SAMPLES / BATCH);
    ck_assert(r.converged && isnan(r.rms_heads) && isnan(r.rms_joint));
}
END_TEST

/* held out: at the best validation loss, not at the end. w walks from 0.5 through 1.5 to 2.5. */
START_TEST(test_heldout_checkpoint)
{
    mtbal_setting lr = {"lr", 2e-4};
    mtbal_diag diag = {0};
    mtbal_calibration r;
    static const char *const tasks[] = {"a", "b"};
    write_scalar();
    write_targets(files_path("y.npz"), SAMPLES, 2.5, 0.5);
    write_targets(files_path("valid.npz"), SAMPLES, 1.5, 0.5);
    mtbal_calibrate_options o = options_for("y.npz");
    o.valid = files_path("valid.npz"), o.set = &lr, o.nset = 1;
    o.max_epochs = 200, o.patience = 200;
    steps_ok(mtbal_calibrate_task(&o, 2, tasks, 0, &r, NULL, NULL, &diag));
    near(r.best_valid, 0.25, 0.01, "best_valid");
    near(r.rms_heldout, 2 * 0.5 / sqrt(BATCH), 0.15, "rms_heldout");
    ck_assert(!r.converged);
}
END_TEST

/* What `of` a row reads, on a record whose numbers are all different. */
START_TEST(test_measure_table)
{
    static const struct {
        const char *name;
        double wanted;
    } rows[] = {{"floor", 6}, {"rms", 2},   {"traj", 20},  {"init", 30}, {"heldout", 40},
                {"rel", 50},  {"loss", 70}, {"heads", 80}, {"recal", 90}};
    mtbal_calibration r = {.task = "t",
                           .rms_end = 2,
                           .rms_run = 20,
                           .rms_start = 30,
                           .rms_heldout = 40,
                           .rel = 50,
                           .loss = 60,
                           .best_valid = 70,
                           .rms_heads = 80,
                           .rms_joint = 90};
    mtbal_diag diag = {0};
    size_t count = 0;
    for (const mtbal_measure *m = mtbal_measure_table; m->name; m++)
        count++;
    ck_assert_uint_eq(count, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < count; i++) {
        const mtbal_measure *m = mtbal_measure_find(rows[i].name);
        ck_assert_msg(m != NULL, "there is no measure %s", rows[i].name);
        steps_ok(mtbal_measure_apply(m, 0.3, &r, &diag));
        near(r.g, rows[i].wanted, 1e-12, rows[i].name);
        ck_assert(r.floored);
    }
    r.best_valid = NAN;
    near(mtbal_measure_find("loss")->of(&r, 0), 60, 0, "loss without validation data");
    r.rms_end = 6.5;
    near(mtbal_measure_find("floor")->of(&r, 0.3), 6.5, 0, "floor above the floor");
}
END_TEST

/* ------------------------------------------------------------------ trainings of all tasks */

typedef struct seen {
    int alone, together;
    bool trunk_moved, head_moved;
} seen;

/* Whether parameter w1 (trunk), wa (head) of a session differ from those in the file. */
static mtbal_status look(void *context, mtbal_session *s, int task, mtbal_diag *diag)
{
    seen *found = context;
    mtbal_model *model = NULL;
    static const char *const names[] = {"w1", "wa"};
    bool moved[2];
    MTBAL_TRY(mtbal_onnx_read(s->path, &model, diag));
    for (int i = 0; i < 2; i++) {
        const rt_tensor *state = mtbal_session_state(s, names[i]);
        const mtbal_tensor *start = mtbal_value_find(model->graph, names[i])->tensor;
        ck_assert(state && start && start->data);
        moved[i] = memcmp(state->data, start->data, start->bytes) != 0;
    }
    mtbal_model_free(model);
    found->alone += task >= 0;
    found->together += task == -1;
    if (task == -1) {
        found->trunk_moved = moved[0];
        found->head_moved = moved[1];
    }
    return MTBAL_OK;
}

static seen calibrate_network(const char *measure, const char *optimizer,
                              mtbal_calibration **results, mtbal_arena *arena)
{
    mtbal_options rewrite = plain(optimizer, MTBAL_OUT_NORMS);
    mtbal_diag diag = {0};
    char *text = steps_network(3, 5);
    int count;
    seen found = {0};
    steps_write(steps_parse(text), &rewrite, files_path("step.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 320, 1, 10, false);
    mtbal_calibrate_options o = options_for("net.npz");
    o.measure = measure, o.max_epochs = 8;
    o.on_trained = look, o.context = &found;
    steps_ok(mtbal_calibrate(&o, arena, results, &count, NULL, NULL, &diag));
    ck_assert_int_eq(count, 2);
    for (int i = 0; i < 2; i++)
        ck_assert(results[0][i].g > 0 && isfinite(results[0][i].g));
    return found;
}

/* heads: one training, in which the trunk and its moments stay as they are. */
START_TEST(test_heads)
{
    static const char *const optimizers[] = {"sgd", "momentum", "adam", "adamw"};
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *r;
    seen found = calibrate_network("heads", optimizers[_i], &r, arena);
    ck_assert_int_eq(found.alone, 0);
    ck_assert_int_eq(found.together, 1);
    ck_assert_msg(!found.trunk_moved, "the trunk moved");
    ck_assert_msg(found.head_moved, "the heads stood still");
    ck_assert(r[0].rms_heads == r[0].g && r[0].epochs > 0);
    mtbal_arena_free(arena);
}
END_TEST

/* recal: each task alone, then one joint training, and its end is what counts. */
START_TEST(test_recal)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *r, *floor;
    seen found = calibrate_network("recal", "adam", &r, arena);
    ck_assert_int_eq(found.alone, 2);
    ck_assert_int_eq(found.together, 1);
    ck_assert(found.trunk_moved && found.head_moved);
    calibrate_network("floor", "adam", &floor, arena);
    for (int i = 0; i < 2; i++) {
        ck_assert(r[i].rms_joint == r[i].g);
        ck_assert(floor[i].g == fmax(r[i].rms_end, 0.3 * r[i].rms_run));
        ck_assert(floor[i].g != r[i].g);
    }
    mtbal_arena_free(arena);
}
END_TEST

/* ------------------------------------------------------------------ bad cases */

typedef struct bad {
    const char *name, *expression; /* of the loss, from w [1] and y [n,1], as node lines giving s */
    double lr, value;              /* learning rate; y is constant when not NAN */
    int64_t samples, max_epochs, window;
    const char *measure;
    bool valid;
    mtbal_status status;
    const char *says;
} bad;

#define SQUARE "  d = Sub(w, y)\n  s = Mul(d, d)\n"

static const bad bads[] = {
    {"zero gradient", "  p = Mul(w, y)\n  s = Mul(p, p)\n", 0.01, 0, 320, 5, 10, "floor", false,
     MTBAL_CHECK, "is 0, no weight"},
    {"not finite at the start", "  p = Mul(w, y)\n  s = Sqrt(p)\n", 0.01, 0, 320, 5, 10, "floor",
     false, MTBAL_CHECK, "its gradient is"},
    {"no loss at the start", "  p = Mul(w, y)\n  s = Log(p)\n", 0.01, -1, 320, 5, 10, "floor",
     false, MTBAL_CHECK, "its loss is"},
    {"diverges to infinity", SQUARE, 1e4, NAN, 320, 20, 10, "floor", false, MTBAL_CHECK,
     "diverges"},
    {"diverges slowly", SQUARE, 1.01, NAN, 320, 10, 10, "floor", false, MTBAL_CHECK, "diverges"},
    {"one batch", SQUARE, 0.01, NAN, 20, 100, 10, "floor", false, MTBAL_INVALID, "less than 2"},
    {"long window", SQUARE, 0.01, NAN, 320, 5, 101, "floor", false, MTBAL_INVALID,
     "too little for a window"},
    {"window of one", SQUARE, 0.01, NAN, 320, 5, 1, "floor", false, MTBAL_USAGE, "two steps"},
    {"unknown measure", SQUARE, 0.01, NAN, 320, 5, 10, "flour", false, MTBAL_USAGE, "flour"},
    {"heldout without data", SQUARE, 0.01, NAN, 320, 5, 10, "heldout", false, MTBAL_USAGE,
     "validation data"},
    {"rel without gradients", SQUARE, 0.01, NAN, 320, 5, 10, "rel", false, MTBAL_USAGE,
     "each parameter's gradient"},
};

START_TEST(test_bad)
{
    const bad *c = &bads[_i];
    mtbal_options rewrite = plain("sgd", MTBAL_OUT_NORMS);
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *results;
    mtbal_setting lr = {"lr", c->lr};
    mtbal_diag diag = {0};
    char text[1024];
    int count;
    snprintf(text, sizeof text,
             "<ir_version: 8, opset_import: [\"\" : 17]>\n"
             "g (float[n,1] y) => (float a, float b) <float[1] w = {0.5}> {\n%s"
             "  a = ReduceMean<keepdims = 0>(s)\n  b = ReduceMean<keepdims = 0>(s)\n}\n",
             c->expression);
    steps_write(steps_parse(text), &rewrite, files_path("step.onnx"));
    write_targets(files_path("y.npz"), c->samples, isnan(c->value) ? 1 : c->value,
                  isnan(c->value) ? 1 : 0);
    mtbal_calibrate_options o = options_for("y.npz");
    o.set = &lr, o.nset = 1, o.max_epochs = c->max_epochs, o.window = c->window;
    o.measure = c->measure;
    mtbal_status status = mtbal_calibrate(&o, arena, &results, &count, NULL, NULL, &diag);
    ck_assert_msg(status == c->status, "%s: status %d, %s", c->name, status, diag.what);
    ck_assert_msg(strstr(diag.what, c->says), "%s: '%s' does not say '%s'", c->name, diag.what,
                  c->says);
    ck_assert_msg(*diag.hint, "%s: '%s' does not say what to do", c->name, diag.what);
    mtbal_arena_free(arena);
}
END_TEST

/* Graphs that cannot be calibrated, and what is not to be given. */
START_TEST(test_bad_graph)
{
    static const struct {
        const char *balance, *optimizer, *set;
        mtbal_status status;
        const char *says;
    } cases[] = {{"equal", "sgd", "lr", MTBAL_INVALID, "no calibration"},
                 {"calibrated", "none", NULL, MTBAL_INVALID, "does not train"},
                 {"calibrated", "sgd", "mtbal/calibration/a", MTBAL_USAGE, "what is measured"},
                 {"calibrated", "sgd", "calibration/b", MTBAL_USAGE, "what is measured"},
                 {"calibrated", "sgd", "learning", MTBAL_USAGE, "no such input"}};
    mtbal_options rewrite = plain(cases[_i].optimizer, MTBAL_OUT_NORMS);
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *results;
    mtbal_setting set = {cases[_i].set, INFINITY};
    mtbal_diag diag = {0};
    int count;
    rewrite.balance = cases[_i].balance;
    steps_write(steps_parse(scalar_text), &rewrite, files_path("step.onnx"));
    write_targets(files_path("y.npz"), 320, 0, 1);
    mtbal_calibrate_options o = options_for("y.npz");
    o.set = &set, o.nset = cases[_i].set != NULL;
    ck_assert_int_eq(mtbal_calibrate(&o, arena, &results, &count, NULL, NULL, &diag),
                     cases[_i].status);
    ck_assert_msg(strstr(diag.what, cases[_i].says) && *diag.hint, "%s: %s", diag.what, diag.hint);
    mtbal_arena_free(arena);
}
END_TEST

/* heads where nothing is shared. */
START_TEST(test_nothing_shared)
{
    mtbal_options rewrite = plain("sgd", MTBAL_OUT_NORMS);
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *results;
    mtbal_diag diag = {0};
    char *text = steps_network(1, 1);
    int count;
    steps_write(steps_parse(text), &rewrite, files_path("step.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 320, 1, 1, false);
    mtbal_calibrate_options o = options_for("net.npz");
    o.measure = "heads";
    ck_assert_int_eq(mtbal_calibrate(&o, arena, &results, &count, NULL, NULL, &diag), MTBAL_USAGE);
    ck_assert_msg(strstr(diag.what, "share"), "%s", diag.what);
    mtbal_arena_free(arena);
}
END_TEST

/* ------------------------------------------------------------------ several at a time */

/* Losses of five tasks of one parameter. `steep` diverges at this learning rate. */
static void write_five(const char *third, const char *fourth)
{
    char text[2048];
    mtbal_options rewrite = plain("sgd", MTBAL_OUT_NORMS);
    snprintf(text, sizeof text,
             "<ir_version: 8, opset_import: [\"\" : 17]>\n"
             "g (float[n,1] y) => (float a, float b, float c, float d, float e) "
             "<float[1] w = {0.5}, float[1] large = {1e8}> {\n"
             "  u = Sub(w, y)\n  s = Mul(u, u)\n  q = Mul(s, s)\n  r = Abs(u)\n"
             "  steep = Mul(q, large)\n"
             "  a = ReduceMean<keepdims = 0>(s)\n  b = ReduceMean<keepdims = 0>(q)\n"
             "  c = ReduceMean<keepdims = 0>(%s)\n  d = ReduceMean<keepdims = 0>(%s)\n"
             "  e = ReduceMean<keepdims = 0>(r)\n}\n",
             third, fourth);
    steps_write(steps_parse(text), &rewrite, files_path("step.onnx"));
    write_targets(files_path("y.npz"), 320, 0, 1);
}

static int told;

static void count_epochs(void *context, const mtbal_calibrate_progress *progress)
{
    (void)context, (void)progress;
    told++;
}

static mtbal_status with_jobs(int jobs, mtbal_calibration **results, mtbal_arena *arena,
                              mtbal_diag *diag)
{
    int count;
    mtbal_calibrate_options o = options_for("y.npz");
    o.max_epochs = 30, o.jobs = jobs, o.threads = jobs % 2;
    o.valid = o.data;
    told = 0;
    return mtbal_calibrate(&o, arena, results, &count, count_epochs, NULL, diag);
}

/* All numbers are the same; every epoch is told of. */
START_TEST(test_jobs)
{
    static const int jobs[] = {2, 3, 5, 64};
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *wanted, *found;
    mtbal_diag diag = {0};
    int epochs = 0;
    write_five("q", "r");
    steps_ok(with_jobs(1, &wanted, arena, &diag));
    for (int i = 0; i < 5; i++)
        epochs += (int)wanted[i].epochs;
    ck_assert_int_eq(told, epochs);
    for (size_t k = 0; k < sizeof jobs / sizeof *jobs; k++) {
        steps_ok(with_jobs(jobs[k], &found, arena, &diag));
        ck_assert_int_eq(told, epochs);
        for (int i = 0; i < 5; i++) {
            const mtbal_calibration *x = &wanted[i], *y = &found[i];
            const double pairs[][2] = {{x->g, y->g},
                                       {x->rms_start, y->rms_start},
                                       {x->rms_run, y->rms_run},
                                       {x->rms_end, y->rms_end},
                                       {x->rms_heldout, y->rms_heldout},
                                       {x->snr, y->snr},
                                       {x->loss, y->loss},
                                       {x->best_valid, y->best_valid}};
            ck_assert_int_eq(x->epochs, y->epochs);
            for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++)
                ck_assert_msg(!memcmp(&pairs[p][0], &pairs[p][1], sizeof(double)),
                              "%d jobs, task %d: number %zu is %.17g, not %.17g", jobs[k], i, p,
                              pairs[p][1], pairs[p][0]);
        }
    }
    mtbal_arena_free(arena);
}
END_TEST

/* Of two tasks that fail, the first one is told of, however many run. */
START_TEST(test_failing_jobs)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *results;
    write_five("steep", "steep");
    for (int jobs = 1; jobs <= 5; jobs++) {
        mtbal_diag diag = {0};
        ck_assert_int_eq(with_jobs(jobs, &results, arena, &diag), MTBAL_CHECK);
        ck_assert_msg(!strncmp(diag.what, "c diverges", 10), "%d jobs: %s", jobs, diag.what);
    }
    mtbal_arena_free(arena);
}
END_TEST

/* ------------------------------------------------------------------ memory */

/* A calibration of every kind: alone with validation, heads, joint. */
static mtbal_status calibrate_all(void *context)
{
    (void)context;
    static const char *const measures[] = {"recal", "heads"};
    for (int i = 0; i < 2; i++) {
        mtbal_arena *arena = mtbal_arena_new();
        mtbal_calibration *results;
        mtbal_diag diag = {0};
        int count;
        mtbal_calibrate_options o = options_for("net.npz");
        o.valid = o.data, o.measure = measures[i];
        o.max_epochs = 2, o.window = 2;
        mtbal_status status =
            arena ? mtbal_calibrate(&o, arena, &results, &count, NULL, NULL, &diag) : MTBAL_NOMEM;
        mtbal_arena_free(arena);
        MTBAL_TRY(status);
    }
    return MTBAL_OK;
}

static int left; /* allocations until one fails */

static bool allow(void *context, size_t size)
{
    (void)context, (void)size;
    return left <= 0 || --left > 0;
}

/* One allocation in some fifty fails, in a run each: there are ten thousands of them. */
START_TEST(test_failed_allocations)
{
    int runs = 0;
    mtbal_options rewrite = plain("sgd", MTBAL_OUT_NORMS | MTBAL_OUT_TASK_GRADS);
    char *text = steps_network(2, 5);
    steps_write(steps_parse(text), &rewrite, files_path("step.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 48, 1, 1, false);
    for (int n = 1, over = false; !over; n += 1 + n / 50, runs++) {
        left = n;
        mtbal_set_alloc_hook(allow, NULL);
        mtbal_status status = calibrate_all(NULL);
        mtbal_set_alloc_hook(NULL, NULL);
        over = left > 0; /* it ended before the n-th */
        ck_assert_msg(status == (over ? MTBAL_OK : MTBAL_NOMEM) || (!over && status == MTBAL_OK),
                      "allocation %d: status %d", n, status);
    }
    ck_assert_int_gt(runs, 100);
}
END_TEST

/* ------------------------------------------------------------------ the command */

/* What a command prints; its exit code. */
static char *run_command(const char *name, const char *arguments, int *code)
{
    return files_run(code, "$BIN/%s %s", name, arguments);
}

static char *run(const char *arguments, int *code)
{
    char all[2048];
    snprintf(all, sizeof all, "%s %s", files_path("step.onnx"), arguments);
    return run_command("mtbal-calibrate", all, code);
}

/* Too few epochs are a warning; what cannot be stored leaves the file as it was. */
START_TEST(test_command)
{
    char arguments[1024];
    size_t before_size, after_size;
    int code;
    write_scalar();
    write_targets(files_path("y.npz"), 64, 0, 1);
    unsigned char *before = files_read(files_path("step.onnx"), &before_size);
    snprintf(arguments, sizeof arguments, "--data %s --batch 16 --set lr=9", files_path("y.npz"));
    char *said = run(arguments, &code);
    ck_assert_msg(code == 1 && strstr(said, "diverges"), "exit code %d: %s", code, said);
    free(said);
    unsigned char *after = files_read(files_path("step.onnx"), &after_size);
    ck_assert_msg(before_size == after_size && !memcmp(before, after, before_size),
                  "the file changed though nothing could be stored");
    snprintf(arguments, sizeof arguments,
             "--data %s --batch 16 --max-epochs 4 --window 10 --set lr=0.001", files_path("y.npz"));
    said = run(arguments, &code);
    ck_assert_msg(code == 0 && strstr(said, "did not converge in 4 epochs") &&
                      strstr(said, "an epoch has 4 batches"),
                  "exit code %d: %s", code, said);
    free(said);
    free(before);
    free(after);
}
END_TEST

/* mtbal-rewrite to `out` with more options; its exit code, which must say something. */
static void rewrite_command(const char *out, const char *more, int wanted, const char *says)
{
    char arguments[3072];
    int code;
    snprintf(arguments, sizeof arguments, "%s %s --optimizer adam %s", files_path("in.onnx"),
             files_path(out), more);
    char *said = run_command("mtbal-rewrite", arguments, &code);
    ck_assert_msg(code == wanted && strstr(said, says), "%s: exit code %d: %s", more, code, said);
    free(said);
}

/* in.onnx and net.npz, for the commands. */
static void write_network(void)
{
    char *text = steps_network(2, 5);
    mtbal_diag diag = {0};
    mtbal_model *model = steps_parse(text);
    free(text);
    steps_ok(mtbal_onnx_write(model, files_path("in.onnx"), &diag));
    mtbal_model_free(model);
    steps_network_data(files_path("net.npz"), 320, 1, 10, false);
}

/* mtbal-rewrite --calibrate gives the bytes of the two commands, or nothing. */
START_TEST(test_rewrite_calibrate)
{
    char more[1100], arguments[2200];
    int code;
    write_network();
    rewrite_command("two.onnx", "--set lr=0.01", 0, "2 tasks");
    snprintf(arguments, sizeof arguments, "%s --data %s --batch 40", files_path("two.onnx"),
             files_path("net.npz"));
    free(run_command("mtbal-calibrate", arguments, &code));
    ck_assert_int_eq(code, 0);
    snprintf(more, sizeof more, "--set lr=0.01 --batch 40 --calibrate %s", files_path("net.npz"));
    rewrite_command("one.onnx", more, 0, "calibrated");
    ck_assert(files_equal(files_path("one.onnx"), files_path("two.onnx")));
    int before = files_count();
    snprintf(more, sizeof more, "--set lr=1e9 --calibrate %s", files_path("net.npz"));
    rewrite_command("one.onnx", more, 1, "one.onnx: a diverges");
    rewrite_command("new.onnx", more, 1, "new.onnx: a diverges");
    rewrite_command("new.onnx", "--calibrate nowhere.npz", 5, "nowhere.npz");
    rewrite_command("new.onnx", "--balance equal --calibrate nowhere.npz", 4, "no calibration");
    rewrite_command("new.onnx", "--inference --calibrate nowhere.npz", 2, "inference");
    rewrite_command("new", "--target ort-training --calibrate nowhere.npz", 2, "ort-training");
    ck_assert_int_eq(files_count(), before);
    ck_assert(files_equal(files_path("one.onnx"), files_path("two.onnx")));
}
END_TEST

/* The number behind KEY, behind TASK. */
static double number_of(const char *json, const char *task, const char *key)
{
    const char *at = strstr(json, task);
    at = at ? strstr(at, key) : NULL;
    at = at ? strchr(at, ':') : NULL;
    ck_assert_msg(at != NULL, "no %s of %s in %s", key, task, json);
    return strtod(at + 1, NULL);
}

/* --scale of mtbal-calibrate: what it prints is what the stored graph computes, and has the
 * property that the scale is named for. */
START_TEST(test_scale)
{
    static const char *const scales[] = {"mean", "sum", "unit", "geo", "ref:b"};
    const char *scale = scales[_i];
    char arguments[1800];
    int code;
    mtbal_diag diag = {0};
    write_network();
    rewrite_command("step.onnx", _i % 2 ? "" : "--scale geo", 0, "2 tasks");
    snprintf(arguments, sizeof arguments,
             "--data %s --batch 40 --max-epochs 5 --scale %s -o %s --json", files_path("net.npz"),
             scale, files_path("out.onnx"));
    char *said = run(arguments, &code);
    ck_assert_msg(code == 0, "%s", said);
    double ga = number_of(said, "\"a\"", "\"g\""), gb = number_of(said, "\"b\"", "\"g\"");
    double wa = number_of(said, "\"a\"", "\"weight\""), wb = number_of(said, "\"b\"", "\"weight\"");
    free(said);
    snprintf(arguments, sizeof arguments, "%s --data %s --batch 40 --limit 1 --json",
             files_path("out.onnx"), files_path("net.npz"));
    said = run_command("mtbal-run", arguments, &code);
    ck_assert_msg(code == 0, "%s", said);
    near(number_of(said, "\"a\"", "\"weight\""), wa, 1e-5, "a in the graph");
    near(number_of(said, "\"b\"", "\"weight\""), wb, 1e-5, "b in the graph");
    free(said);
    ck_assert_double_gt(gb, 2 * ga);
    near(wa / wb, gb / ga, 1e-5, "ratio");
    if (_i < 2)
        near(wa + wb, 2, 1e-5, "sum");
    else if (_i == 2)
        near(wa * ga, 1, 1e-5, "a x G");
    else
        near(_i == 3 ? wa * wb : wb, 1, 1e-5, scale);
    mtbal_model *model = steps_read(files_path("out.onnx"));
    ck_assert_str_eq(mtbal_property_get(model, "mtbal.scale"), scale);
    steps_ok(mtbal_verify(model, &diag));
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_bad_scale)
{
    char arguments[1024];
    int code;
    write_scalar();
    write_targets(files_path("y.npz"), 64, 0, 1);
    snprintf(arguments, sizeof arguments, "--data %s --batch 16 --scale ref:nobody",
             files_path("y.npz"));
    char *said = run(arguments, &code);
    ck_assert_msg(code == 2 && strstr(said, "ref:nobody"), "exit code %d: %s", code, said);
    free(said);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("calibrate");
    TCase *tests = tcase_create("measures");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, test_snr, 0, 6);
    tcase_add_test(tests, test_measures);
    tcase_add_test(tests, test_heldout_checkpoint);
    tcase_add_test(tests, test_measure_table);
    tcase_add_loop_test(tests, test_heads, 0, 4);
    tcase_add_test(tests, test_recal);
    tcase_add_loop_test(tests, test_bad, 0, (int)(sizeof bads / sizeof *bads));
    tcase_add_loop_test(tests, test_bad_graph, 0, 5);
    tcase_add_test(tests, test_nothing_shared);
    tcase_add_test(tests, test_jobs);
    tcase_add_test(tests, test_failing_jobs);
    tcase_add_test(tests, test_failed_allocations);
    tcase_add_test(tests, test_command);
    tcase_add_test(tests, test_rewrite_calibrate);
    tcase_add_loop_test(tests, test_scale, 0, 5);
    tcase_add_test(tests, test_bad_scale);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
