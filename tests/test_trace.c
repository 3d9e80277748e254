/* tests/test_trace.c: what a trace keeps of a training, against sums over all of its steps; metrics
 * against their definitions. */
#include "tests/steps.h"
#include "train/trace.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void near(double found, double wanted, double error, const char *what)
{
    ck_assert_msg(fabs(found - wanted) <= error * (1 + fabs(wanted)), "%s is %.9g, not %.9g", what,
                  found, wanted);
}

/* ------------------------------------------------------------------ bounded memory */

/* A task whose loss is the number of the step. */
START_TEST(test_long_run)
{
    static const int64_t lengths[] = {1, 2, 127, 128, 129, 1000, 100000};
    const int64_t steps = lengths[_i];
    double loss, norm = 2, weight = 1;
    mtbal_record record = {.loss = &loss, .grad_norm = &norm, .weight = &weight};
    mtbal_trace *t = mtbal_trace_new(1);
    ck_assert(t != NULL);
    for (int64_t i = 0; i < steps; i++) {
        loss = (double)i;
        mtbal_trace_step(t, 0, &record);
    }
    const int at = mtbal_trace_at(t, MTBAL_TRACE_LOSS, 0);
    ck_assert_int_eq(t->steps, steps);
    ck_assert_int_le(t->npoints, 128);
    ck_assert_msg(t->npoints >= (steps < 64 ? steps : 64), "%d points of %lld steps", t->npoints,
                  (long long)steps);
    near(mtbal_trace_mean(t, at, MTBAL_TRACE_RUN), (double)(steps - 1) / 2, 1e-12, "mean");
    for (int p = 0; p < t->npoints; p++) {
        const mtbal_point *point = &t->points[p * t->nchannels + at];
        int64_t first = p * t->stride, end = first + t->stride < steps ? first + t->stride : steps;
        ck_assert(point->count == end - first && point->low == (double)first &&
                  point->high == (double)(end - 1));
        near(point->sum / (double)point->count, (double)(first + end - 1) / 2, 1e-12, "point");
    }
    if (steps >= 1000) {
        near(mtbal_trace_mean(t, at, MTBAL_TRACE_START), 0.05 * (double)steps, 0.03, "start");
        near(mtbal_trace_mean(t, at, MTBAL_TRACE_END), 0.95 * (double)steps, 0.03, "end");
    }
    mtbal_trace_free(t);
}
END_TEST

/* Each channel has a place of its own. */
START_TEST(test_places)
{
    const int k = _i;
    mtbal_trace *t = mtbal_trace_new(k);
    char *taken = calloc((size_t)t->nchannels, 1);
    ck_assert(t && taken);
    for (int c = MTBAL_TRACE_LOSS; c <= MTBAL_TRACE_NEGATIVE; c++) {
        int n = c == MTBAL_TRACE_RATIO ? 1 : c > MTBAL_TRACE_RATIO ? k * (k - 1) / 2 : k;
        for (int i = 0; i < n; i++) {
            int at = mtbal_trace_at(t, (mtbal_channel)c, i);
            ck_assert(at >= 0 && at < t->nchannels && !taken[at]);
            taken[at] = 1;
        }
    }
    ck_assert(!memchr(taken, 0, (size_t)t->nchannels));
    for (int i = 0, next = 0; i < k; i++)
        for (int j = i + 1; j < k; j++, next++)
            ck_assert(mtbal_trace_pair(t, i, j) == next && mtbal_trace_pair(t, j, i) == next);
    free(taken);
    mtbal_trace_free(t);
}
END_TEST

/* ------------------------------------------------------------------ a training */

enum { STEPS = 600, EVERY = 3 };

/* Sums over the measured steps, by their definitions. */
typedef struct watched {
    mtbal_trace *trace;
    double loss, norm[2], share, leads, ratio, cosine, negative;
    int64_t steps, measured;
} watched;

static mtbal_status watch(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    watched *w = context;
    (void)diag;
    mtbal_trace_step(w->trace, 0, r);
    w->loss += r->loss[1];
    w->steps++;
    ck_assert(r->measured == (r->step % EVERY == 0));
    if (!r->measured)
        return MTBAL_OK;
    const rt_tensor *c = mtbal_instance_output(r->program->instance, "mtbal/cosine");
    double cosine = ((const float *)c->data)[1];
    double a = r->weight[0] * r->grad_norm[0], b = r->weight[1] * r->grad_norm[1];
    w->norm[0] += r->grad_norm[0];
    w->share += b / (a + b);
    w->leads += b > a;
    w->ratio += log10(a > b ? a / b : b / a);
    w->cosine += cosine;
    w->negative += cosine < 0;
    w->measured++;
    return MTBAL_OK;
}

START_TEST(test_training)
{
    mtbal_options o;
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    const mtbal_setting set[] = {{"lr", 0.01}, {"mtbal/calibration/b", 3}};
    mtbal_session_options options = {.threads = 1, .set = set, .nset = 2};
    mtbal_loop_options loop = {.limit = STEPS, .norm_every = EVERY, .shuffle = true};
    watched w = {.trace = mtbal_trace_new(2)};
    mtbal_trace *t = w.trace;
    char *text = steps_network(3, 5);
    mtbal_options_default(&o);
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 1000, 1, 2, false);
    steps_ok(mtbal_session_open(files_path("step.onnx"), &options, &session, &diag));
    steps_ok(mtbal_data_open(session, files_path("net.npz"), false, 50, &data, &diag));
    steps_ok(mtbal_loop_run(session, data, &loop, watch, &w, &diag));
    const struct {
        const char *what;
        mtbal_channel channel;
        int i;
        double sum;
        int64_t count;
    } rows[] = {{"loss", MTBAL_TRACE_LOSS, 1, w.loss, w.steps},
                {"norm", MTBAL_TRACE_NORM, 0, w.norm[0], w.measured},
                {"share", MTBAL_TRACE_SHARE, 1, w.share, w.measured},
                {"leads", MTBAL_TRACE_LEADS, 1, w.leads, w.measured},
                {"ratio", MTBAL_TRACE_RATIO, 0, w.ratio, w.measured},
                {"cosine", MTBAL_TRACE_COSINE, 0, w.cosine, w.measured},
                {"negative", MTBAL_TRACE_NEGATIVE, 0, w.negative, w.measured}};
    ck_assert_int_eq(w.steps, STEPS);
    ck_assert_int_eq(w.measured, STEPS / EVERY);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        near(mtbal_trace_mean(t, mtbal_trace_at(t, rows[i].channel, rows[i].i), MTBAL_TRACE_RUN),
             rows[i].sum / (double)rows[i].count, 1e-12, rows[i].what);
    near(mtbal_trace_mean(t, mtbal_trace_at(t, MTBAL_TRACE_WEIGHT, 0), MTBAL_TRACE_RUN), 1.5, 1e-6,
         "weight");
    double c = w.cosine / (double)w.measured, n = w.negative / (double)w.measured;
    mtbal_relation wanted = c >= 0.02 && n <= 0.4    ? MTBAL_SHARE
                            : c <= -0.02 && n >= 0.6 ? MTBAL_FIGHT
                                                     : MTBAL_NEUTRAL;
    ck_assert_int_eq(mtbal_trace_relation(t, 0, 1), wanted);
    mtbal_trace_free(t);
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* Opposite tasks fight, equal ones share: their cosines are -1 and 1 at every step. */
START_TEST(test_relations)
{
    static const char text[] =
        "<ir_version: 8, opset_import: [\"\" : 17]>\n"
        "g (float[n,1] y) => (float a, float b, float c) <float[1] w = {0.5}> {\n"
        "  d = Sub(w, y)\n  s = Mul(d, d)\n  a = ReduceMean<keepdims = 0>(s)\n"
        "  b = Add(a, a)\n  c = Neg(a)\n}\n";
    mtbal_options o;
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    const mtbal_setting lr = {"lr", 1e-4};
    mtbal_session_options options = {.threads = 1, .set = &lr, .nset = 1};
    mtbal_loop_options loop = {.limit = 50, .norm_every = 1};
    int64_t dims[] = {40, 1};
    float y[40];
    mtbal_array array = {"y", MTBAL_FLOAT, 2, dims, 40, sizeof y, y};
    watched w = {.trace = mtbal_trace_new(3)};
    for (int i = 0; i < 40; i++)
        y[i] = 3 + 0.1f * (float)(i % 7);
    steps_ok(mtbal_npz_write(files_path("y.npz"), 1, &array, false, &diag));
    mtbal_options_default(&o);
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    steps_ok(mtbal_session_open(files_path("step.onnx"), &options, &session, &diag));
    steps_ok(mtbal_data_open(session, files_path("y.npz"), false, 8, &data, &diag));
    mtbal_loop_options first = loop;
    first.limit = 10;
    steps_ok(mtbal_loop_run(session, data, &first, NULL, NULL, &diag));
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(mtbal_trace_relation(w.trace, i, (i + 1) % 3), MTBAL_NEUTRAL);
    loop.norm_every = EVERY; /* as `watch` expects */
    steps_ok(mtbal_loop_run(session, data, &loop, watch, &w, &diag));
    ck_assert_int_eq(mtbal_trace_relation(w.trace, 0, 1), MTBAL_SHARE);
    ck_assert_int_eq(mtbal_trace_relation(w.trace, 0, 2), MTBAL_FIGHT);
    ck_assert_int_eq(mtbal_trace_relation(w.trace, 2, 1), MTBAL_FIGHT);
    mtbal_trace_free(w.trace);
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* ------------------------------------------------------------------ metrics */

/* Predictions that are the input times 1, on six samples in batches of 4 and 2, in another order.
 */
START_TEST(test_metrics)
{
    static const char text[] = "<ir_version: 8, opset_import: [\"\" : 17]>\n"
                               "g (float[n,3] x, float[n,1] z) => (float[n,3] p, float[n,1] q) {\n"
                               "  p = Identity(x)\n  q = Identity(z)\n}\n";
    float x[] = {3, 1, 2, 0, 5, 1, 1, 1, 9, 4, 0, 0, 2, 7, 1, 0, 0, 1};
    float z[] = {1, -1, 2, 0.5f, -3, 4}, binary[] = {1, 0, 0, 1, 0, 1};
    float y[] = {2, 0, 2, 1.5f, -1, 3};   /* errors -1 1 0 1 2 -1 */
    int64_t label[] = {0, 1, 2, 1, 1, 0}; /* argmax of x: 0 1 2 0 1 2 */
    int64_t three[] = {6, 3}, one[] = {6, 1}, flat[] = {6};
    mtbal_array arrays[] = {{"x", MTBAL_FLOAT, 2, three, 18, sizeof x, x},
                            {"z", MTBAL_FLOAT, 2, one, 6, sizeof z, z},
                            {"y", MTBAL_FLOAT, 2, one, 6, sizeof y, y},
                            {"binary", MTBAL_FLOAT, 2, one, 6, sizeof binary, binary},
                            {"label", MTBAL_INT64, 1, flat, 6, sizeof label, label}};
    static const struct {
        const char *metric;
        double wanted; /* NAN: refused */
        const char *says;
    } cases[] = {{"accuracy:p,label", 100 * 4.0 / 6, ""},
                 {"accuracy:q,binary", 100 * 5.0 / 6, ""},
                 {"rmse:q,y", 1.15470053837925, ""},    /* sqrt(8/6) */
                 {"mae:q,y", 1, ""},                    /* 6/6 */
                 {"nrmse:q,y", 0.8576900278702358, ""}, /* sqrt(8 / sum of (y - 1.25)^2) */
                 {"nrmse:p,label", NAN, "belong together"},
                 {"rmse:nobody,y", NAN, "no output 'nobody'"},
                 {"rmse:q,nobody", NAN, "no array 'nobody'"},
                 {"rmse:q", NAN, "no metric"},
                 {"rmse:,y", NAN, "no metric"},
                 {"best:q,y", NAN, "no metric"}};
    mtbal_diag diag = {0};
    mtbal_model *model = steps_parse(text);
    int code;
    steps_ok(mtbal_npz_write(files_path("m.npz"), 5, arrays, false, &diag));
    steps_ok(mtbal_onnx_write(model, files_path("m.onnx"), &diag));
    mtbal_model_free(model);
    char *said =
        files_run(&code, "$BIN/mtbal-run %s --data %s --batch 4 --shuffle --json --metric %s",
                  files_path("m.onnx"), files_path("m.npz"), cases[_i].metric);
    const char *value = strstr(said, "\"value\":");
    if (isnan(cases[_i].wanted)) {
        ck_assert_msg(code == 2 || code == 4, "exit code %d: %s", code, said);
        ck_assert_msg(strstr(said, cases[_i].says), "%s", said);
    } else {
        ck_assert_msg(code == 0 && value, "exit code %d: %s", code, said);
        near(strtod(value + 8, NULL), cases[_i].wanted, 1e-7, cases[_i].metric);
    }
    free(said);
}
END_TEST

/* delta_m by hand: 10 % better by an accuracy that rises, 20 % worse by a loss that rises. */
START_TEST(test_delta)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_metric metric;
    mtbal_diag diag = {0};
    steps_ok(mtbal_metric_parse("accuracy:p,y", arena, &metric, &diag));
    metric.task = "a";
    mtbal_calibrate_options o = {.nmetrics = 1, .metrics = &metric};
    mtbal_calibration r[] = {{.task = "a", .score = 50, .joint_score = 55},
                             {.task = "b", .score = -5, .joint_score = -4}};
    double changes[2];
    near(mtbal_delta_m(&o, 2, r, changes), 5, 1e-12, "delta_m");
    near(changes[0], -10, 1e-12, "a's change");
    near(changes[1], 20, 1e-12, "b's change");
    ck_assert(mtbal_metric_of(&o, "a") == &metric && !mtbal_metric_of(&o, "b"));
    mtbal_arena_free(arena);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace");
    TCase *tests = tcase_create("numbers");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_long_run, 0, 7);
    tcase_add_loop_test(tests, test_places, 1, 18);
    tcase_add_test(tests, test_training);
    tcase_add_test(tests, test_relations);
    tcase_add_loop_test(tests, test_metrics, 0, 11);
    tcase_add_test(tests, test_delta);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
