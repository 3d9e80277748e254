/* tests/test_tasks.c: any number of tasks, one and a thousand: what a step computes, against the
 * same network written out here in double precision. */
#include "tests/steps.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* h = x W of all, t_i = mean over the batch of (h v_i)^2. */
enum { BATCH = 4, IN = 3, WIDE = 5 };
static const double lr = 0.01;

typedef struct net {
    int ntasks;
    double x[BATCH][IN], w[IN][WIDE], (*v)[WIDE];
} net;

static net net_new(int ntasks)
{
    net n = {.ntasks = ntasks, .v = malloc((size_t)ntasks * sizeof *n.v)};
    uint64_t state = 5;
    ck_assert(n.v != NULL);
    for (int i = 0; i < BATCH * IN; i++)
        n.x[i / IN][i % IN] = (float)steps_normal(&state);
    for (int i = 0; i < IN * WIDE; i++)
        n.w[i / WIDE][i % WIDE] = (float)steps_normal(&state);
    for (int i = 0; i < ntasks * WIDE; i++)
        n.v[i / WIDE][i % WIDE] = (float)(steps_normal(&state) / sqrt(ntasks));
    return n;
}

static void print_numbers(FILE *to, int n, const double *numbers)
{
    for (int i = 0; i < n; i++)
        fprintf(to, "%s%.9g", i ? ", " : "", numbers[i]);
}

static mtbal_model *net_model(const net *n)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(to != NULL);
    fprintf(to, "<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[n,%d] x) => (", IN);
    for (int t = 0; t < n->ntasks; t++)
        fprintf(to, "%sfloat t%d", t ? ", " : "", t);
    fprintf(to, ") <float[%d,%d] w = {", IN, WIDE);
    print_numbers(to, IN * WIDE, n->w[0]);
    for (int t = 0; t < n->ntasks; t++) {
        fprintf(to, "}, float[%d,1] v%d = {", WIDE, t);
        print_numbers(to, WIDE, n->v[t]);
    }
    fprintf(to, "}> {\n  h = MatMul(x, w)\n");
    for (int t = 0; t < n->ntasks; t++)
        fprintf(to,
                "  p%d = MatMul(h, v%d)\n  s%d = Mul(p%d, p%d)\n"
                "  t%d = ReduceMean<keepdims = 0>(s%d)\n",
                t, t, t, t, t, t, t);
    fprintf(to, "}\n");
    fclose(to);
    mtbal_model *model = steps_parse(text);
    free(text);
    return model;
}

static void net_data(const net *n, const char *path)
{
    float x[BATCH * IN];
    const int64_t dims[] = {BATCH, IN};
    mtbal_diag diag = {0};
    for (int i = 0; i < BATCH * IN; i++)
        x[i] = (float)n->x[i / IN][i % IN];
    mtbal_array array = {"x", MTBAL_FLOAT, 2, (int64_t *)dims, BATCH * IN, sizeof x, x};
    steps_ok(mtbal_npz_write(path, 1, &array, false, &diag));
}

/* Loss of a task, and its gradients. */
static double net_task(const net *n, int t, double dw[IN][WIDE], double dv[WIDE])
{
    double loss = 0;
    memset(dw, 0, IN * sizeof *dw);
    memset(dv, 0, WIDE * sizeof *dv);
    for (int b = 0; b < BATCH; b++) {
        double h[WIDE] = {0}, p = 0;
        for (int k = 0; k < WIDE; k++) {
            for (int i = 0; i < IN; i++)
                h[k] += n->x[b][i] * n->w[i][k];
            p += h[k] * n->v[t][k];
        }
        loss += p * p / BATCH;
        for (int k = 0; k < WIDE; k++) {
            dv[k] += 2 * p / BATCH * h[k];
            for (int i = 0; i < IN; i++)
                dw[i][k] += 2 * p / BATCH * n->x[b][i] * n->v[t][k];
        }
    }
    return loss;
}

/* ------------------------------------------------------------------ a step */

typedef struct seen {
    double total, *loss, *norm, *weight;
    int ntasks;
} seen;

static mtbal_status keep(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    seen *s = context;
    size_t bytes = (size_t)s->ntasks * sizeof(double);
    (void)diag;
    s->total = r->total;
    memcpy(s->loss, r->loss, bytes);
    memcpy(s->norm, r->grad_norm, bytes);
    memcpy(s->weight, r->weight, bytes);
    return MTBAL_OK;
}

static void near(double found, double wanted, double size, const char *what, int i)
{
    ck_assert_msg(fabs(found - wanted) <= 2e-5 * size, "%s %d is %.9g, not %.9g", what, i, found,
                  wanted);
}

static void near_all(mtbal_session *s, const char *name, int n, const double *wanted)
{
    double size = 0;
    const rt_tensor *t = mtbal_session_state(s, name);
    ck_assert_msg(t && rt_count(t) == n, "%s", name);
    for (int i = 0; i < n; i++)
        size = fmax(size, fabs(wanted[i]));
    for (int i = 0; i < n; i++)
        near(((const float *)t->data)[i], wanted[i], size, name, i);
}

/* One step of the step graph at `path`, with weights [ntasks], the norms measured or not. */
static void check_step(net *n, const char *path, const double *weights, bool norms)
{
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    mtbal_session_options options = {.threads = 1};
    mtbal_loop_options loop = {.limit = 1, .norm_every = 1};
    double *numbers = malloc(3 * (size_t)n->ntasks * sizeof *numbers), total = 0;
    seen s = {0, numbers, numbers + n->ntasks, numbers + 2 * n->ntasks, n->ntasks};
    ck_assert(numbers != NULL);
    steps_ok(mtbal_session_open(path, &options, &session, &diag));
    steps_ok(mtbal_data_open(session, files_path("net.npz"), false, BATCH, &data, &diag));
    steps_ok(mtbal_loop_run(session, data, &loop, keep, &s, &diag));
    double next[IN][WIDE];
    memcpy(next, n->w, sizeof next);
    for (int t = 0; t < n->ntasks; t++) {
        char name[16];
        double dw[IN][WIDE], dv[WIDE], square = 0, loss = net_task(n, t, dw, dv);
        double over = n->ntasks > 1 ? 0 : 1; /* one task alone: the norm is over all parameters */
        near(s.loss[t], loss, loss, "loss", t);
        near(s.weight[t], weights[t], weights[t], "weight", t);
        total += weights[t] * loss;
        for (int i = 0; i < IN * WIDE; i++) {
            square += dw[i / WIDE][i % WIDE] * dw[i / WIDE][i % WIDE];
            next[i / WIDE][i % WIDE] -= lr * weights[t] * dw[i / WIDE][i % WIDE];
        }
        for (int k = 0; k < WIDE; k++) {
            square += over * dv[k] * dv[k];
            dv[k] = n->v[t][k] - lr * weights[t] * dv[k];
        }
        if (norms)
            near(s.norm[t], sqrt(square), sqrt(square), "norm", t);
        snprintf(name, sizeof name, "v%d", t);
        near_all(session, name, WIDE, dv);
    }
    near(s.total, total, total, "total", 0);
    near_all(session, "w", IN * WIDE, next[0]);
    mtbal_data_close(data);
    mtbal_session_close(session);
    free(numbers);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ------------------------------------------------------------------ tests */

static const struct count {
    int ntasks;
    unsigned outputs;
} counts[] = {{1, MTBAL_OUT_NORMS},  {2, MTBAL_OUT_NORMS},   {64, MTBAL_OUT_NORMS},
              {65, MTBAL_OUT_NORMS}, {100, MTBAL_OUT_NORMS}, {1024, MTBAL_OUT_NONE}};

START_TEST(test_equal)
{
    const struct count *c = &counts[_i];
    net n = net_new(c->ntasks);
    mtbal_options o;
    mtbal_options_default(&o);
    o.balance = "equal";
    o.outputs = c->outputs;
    double *weights = malloc((size_t)c->ntasks * sizeof *weights), start = seconds();
    ck_assert(weights != NULL);
    for (int t = 0; t < c->ntasks; t++)
        weights[t] = 1;
    steps_write(net_model(&n), &o, files_path("net.onnx"));
    double took = seconds() - start;
    ck_assert_msg(took < 10, "%d tasks are rewritten in %.1f s", c->ntasks, took);
    net_data(&n, files_path("net.npz"));
    check_step(&n, files_path("net.onnx"), weights, c->outputs);
    free(weights);
    free(n.v);
}
END_TEST

/* Calibrated weights before any calibration are 1 each; --weights gives the others. */
START_TEST(test_weights)
{
    const struct count *c = &counts[_i];
    net n = net_new(c->ntasks);
    char last[16];
    mtbal_options o;
    mtbal_options_default(&o);
    o.outputs = c->outputs;
    double *weights = malloc((size_t)c->ntasks * sizeof *weights);
    ck_assert(weights != NULL);
    for (int t = 0; t < c->ntasks; t++)
        weights[t] = 1;
    net_data(&n, files_path("net.npz"));
    steps_write(net_model(&n), &o, files_path("net.onnx"));
    check_step(&n, files_path("net.onnx"), weights, c->outputs);
    snprintf(last, sizeof last, "t%d", c->ntasks - 1);
    const mtbal_pair given = {last, "2.5"};
    weights[c->ntasks - 1] = 2.5;
    o.balance = "weights", o.nweights = 1, o.weights = &given;
    steps_write(net_model(&n), &o, files_path("net.onnx"));
    check_step(&n, files_path("net.onnx"), weights, c->outputs);
    free(weights);
    free(n.v);
}
END_TEST

/* The commands, with their tables, logs and reports. */
START_TEST(test_commands)
{
    const int ntasks[] = {1, 100, 1024};
    net n = net_new(ntasks[_i]);
    mtbal_diag diag = {0};
    mtbal_model *model = net_model(&n);
    int code;
    steps_ok(mtbal_onnx_write(model, files_path("in.onnx"), &diag));
    mtbal_model_free(model);
    net_data(&n, files_path("net.npz"));
    char *out = files_run(&code, "$BIN/mtbal-rewrite %s %s -v --outputs none --balance equal",
                          files_path("in.onnx"), files_path("step.onnx"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    out = files_run(&code, "$BIN/mtbal-run %s --data %s --epochs 2 --log %s --save %s",
                    files_path("step.onnx"), files_path("net.npz"), files_path("log.jsonl"),
                    files_path("trained.onnx"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    out = files_run(&code, "$BIN/mtbal-rewrite --inference %s %s", files_path("trained.onnx"),
                    files_path("back.onnx"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    free(n.v);
}
END_TEST

/* Beyond the most that there may be: refused, nothing computed. */
START_TEST(test_too_many)
{
    net n = net_new(MTBAL_MOST_TASKS + 1);
    mtbal_model *model = net_model(&n);
    mtbal_options o;
    mtbal_context *context;
    mtbal_diag diag = {0};
    mtbal_options_default(&o);
    ck_assert_int_eq(mtbal_rewrite(model, &o, &context, &diag), MTBAL_UNSUPPORTED);
    ck_assert_msg(strstr(diag.what, "more than 16384 tasks") != NULL, "%s", diag.what);
    mtbal_model_free(model);
    free(n.v);
}
END_TEST

int main(void)
{
    enum { N = sizeof counts / sizeof *counts };
    Suite *suite = suite_create("tasks");
    TCase *tests = tcase_create("numbers of tasks");
    tcase_set_timeout(tests, 240);
    tcase_add_unchecked_fixture(tests, files_begin, files_end);
    tcase_add_loop_test(tests, test_equal, 0, N);
    tcase_add_loop_test(tests, test_weights, 0, N);
    tcase_add_loop_test(tests, test_commands, 0, 3);
    tcase_add_test(tests, test_too_many);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
