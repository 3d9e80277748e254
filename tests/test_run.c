/* tests/test_run.c: promises of a running step graph: nothing is allocated in a step, results do
 * not depend on the number of threads, laws of the weights, and bad data gets one clear message. */
#include "passes/passes.h"
#include "train/calibrate.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "models/digits2.onnx"
#define DATA  "models/digits2.train.npz"

static char folder[] = "/tmp/mtbal-run-XXXXXX", step_path[64];

static void make_step(const char *optimizer, const char *balance)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = optimizer;
    o.balance = balance;
    ck_assert_msg(mtbal_onnx_read(MODEL, &model, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_msg(mtbal_rewrite(model, &o, &context, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_msg(mtbal_onnx_write(model, step_path, &diag) == MTBAL_OK, "%s", diag.what);
    mtbal_model_free(model);
}

static void setup(void)
{
    ck_assert(mkdtemp(folder) != NULL);
    snprintf(step_path, sizeof step_path, "%s/step.onnx", folder);
}

static void teardown(void)
{
    unlink(step_path);
    rmdir(folder);
    strcpy(folder + sizeof folder - 7, "XXXXXX");
}

/* ------------------------------------------------------------------ */

static int allocations;

static bool count_allocation(void *context, size_t size)
{
    (void)context, (void)size;
    allocations++;
    return true;
}

START_TEST(test_no_allocation)
{
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_program *program = NULL;
    mtbal_session_options options = {.threads = 2};
    mtbal_bind binds[8];
    make_step("adam", "calibrated");
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, DATA, false, 64, &data, &diag), MTBAL_OK);
    mtbal_data_binds(session, data, 64, binds);
    ck_assert_int_eq(
        mtbal_session_program(session, session->nfeeds, binds, MTBAL_MEASURE, &program, &diag),
        MTBAL_OK);
    allocations = 0;
    mtbal_set_alloc_hook(count_allocation, NULL);
    for (int i = 0; i < 5; i++) {
        mtbal_data_load(session, data, NULL, 64, program);
        mtbal_instance_run(program->instance, (uint64_t)i);
    }
    mtbal_set_alloc_hook(NULL, NULL);
    ck_assert_int_eq(allocations, 0);
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* Trains some steps and gives back all states. */
static void *train(int threads, const mtbal_setting *set, int nset, size_t *size)
{
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_session_options options = {.threads = threads, .set = set, .nset = nset};
    mtbal_loop_options loop = {.limit = 20, .shuffle = true, .seed = 3};
    ck_assert_msg(mtbal_session_open(step_path, &options, &session, &diag) == MTBAL_OK, "%s",
                  diag.what);
    ck_assert_msg(mtbal_data_open(session, DATA, false, 100, &data, &diag) == MTBAL_OK, "%s",
                  diag.what);
    ck_assert_msg(mtbal_loop_run(session, data, &loop, NULL, NULL, &diag) == MTBAL_OK, "%s",
                  diag.what);
    *size = mtbal_session_state_bytes(session);
    void *states = malloc(*size);
    ck_assert(states != NULL && *size > 40000);
    mtbal_session_save_states(session, states);
    mtbal_data_close(data);
    mtbal_session_close(session);
    return states;
}

START_TEST(test_threads)
{
    size_t one_size, many_size;
    make_step("adam", "calibrated");
    void *one = train(1, NULL, 0, &one_size), *many = train(3, NULL, 0, &many_size);
    ck_assert_uint_eq(one_size, many_size);
    ck_assert_msg(!memcmp(one, many, one_size), "the states differ between 1 thread and 3");
    free(one);
    free(many);
}
END_TEST

/* ------------------------------------------------------------------ weights */

typedef struct weights {
    double w[2];
} weights;

static mtbal_status keep_weights(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    (void)diag;
    memcpy(((weights *)context)->w, r->weight, sizeof(double[2]));
    return MTBAL_OK;
}

static weights weights_at(double g0, double g1)
{
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    weights found = {{-1, -1}};
    const mtbal_setting set[] = {{"mtbal/calibration/loss_digit", g0},
                                 {"mtbal/calibration/loss_clean", g1}};
    mtbal_session_options options = {.threads = 1, .set = set, .nset = 2};
    mtbal_loop_options loop = {.limit = 1};
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, DATA, false, 32, &data, &diag), MTBAL_OK);
    ck_assert_msg(mtbal_loop_run(session, data, &loop, keep_weights, &found, &diag) == MTBAL_OK,
                  "%s", diag.what);
    mtbal_data_close(data);
    mtbal_session_close(session);
    return found;
}

/* w_i = (1/G_i) / mean_j(1/G_j) over the tasks with finite G. */
START_TEST(test_weights)
{
    static const double cases[][4] = {
        {1, 1, 1, 1},        {2, 2, 1, 1},        {1, 3, 1.5, 0.5}, {0.5, 500, 1.998002, 0.001998},
        {1, INFINITY, 1, 0}, {INFINITY, 7, 0, 1},
    };
    make_step("sgd", "calibrated");
    weights found = weights_at(cases[_i][0], cases[_i][1]);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(fabs(found.w[i] - cases[_i][2 + i]) <= 1e-5 * fmax(1e-3, cases[_i][2 + i]),
                      "G %g %g: weight %d is %.8g, not %g", cases[_i][0], cases[_i][1], i,
                      found.w[i], cases[_i][2 + i]);
}
END_TEST

/* A training that nothing moves is no training. */
START_TEST(test_all_off)
{
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    const mtbal_setting set[] = {{"mtbal/calibration/loss_digit", INFINITY},
                                 {"mtbal/calibration/loss_clean", INFINITY}};
    mtbal_session_options options = {.threads = 1, .set = set, .nset = 2};
    mtbal_loop_options loop = {.limit = 1};
    make_step("sgd", "calibrated");
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, DATA, false, 32, &data, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_loop_run(session, data, &loop, NULL, NULL, &diag), MTBAL_CHECK);
    ck_assert_msg(strstr(diag.what, "all weights are 0"), "%s", diag.what);
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* ------------------------------------------------------------------ the learning rate */

static mtbal_status keep_rate(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    (void)diag;
    ((double *)context)[r->step] = r->lr;
    return MTBAL_OK;
}

/* Linear over the first steps, half a cosine over all; the batch of another size (the last of an
 * epoch) goes by the same; a later call goes on where an earlier one stopped. */
START_TEST(test_schedule)
{
    enum { STEPS = 12, WARMUP = 3 };
    static const struct {
        int64_t warmup, total, before;
    } cases[] = {{0, 0, 0},
                 {WARMUP, 0, 0},
                 {0, MTBAL_WHOLE_RUN, 0},
                 {WARMUP, MTBAL_WHOLE_RUN, 0},
                 {WARMUP, 2 * STEPS, 0},
                 {WARMUP, 2 * STEPS, STEPS},
                 {0, 5, 0}};
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_setting lr = {"lr", 0.004};
    mtbal_session_options options = {.threads = 1, .set = &lr, .nset = 1};
    mtbal_loop_options loop = {.limit = STEPS,
                               .schedule = {cases[_i].warmup, cases[_i].total},
                               .before = cases[_i].before};
    double found[STEPS];
    make_step("adam", "equal");
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, DATA, false, 300, &data, &diag), MTBAL_OK);
    ck_assert_msg(mtbal_loop_run(session, data, &loop, keep_rate, found, &diag) == MTBAL_OK, "%s",
                  diag.what);
    for (int i = 0; i < STEPS; i++) {
        double step = (double)(i + cases[_i].before), wanted = 0.004;
        double total = cases[_i].total < 0 ? STEPS : (double)cases[_i].total;
        if (step < (double)cases[_i].warmup)
            wanted *= (step + 1) / (double)cases[_i].warmup;
        if (total > 0)
            wanted *= step < total ? 0.5 + 0.5 * cos(acos(-1) * step / total) : 0;
        ck_assert_msg(fabs(found[i] - wanted) < 1e-9, "step %d: learning rate %g, not %g", i,
                      found[i], wanted);
    }
    mtbal_data_close(data);
    mtbal_session_close(session);
}
END_TEST

/* ------------------------------------------------------------------ bad data */

START_TEST(test_bad_data)
{
    float x[4 * 64] = {0}, picture[4 * 64] = {0};
    int64_t label[4] = {0}, rows[2] = {4, 64}, few[2] = {3, 64}, narrow[2] = {4, 32}, one[1] = {4};
    int32_t label32[4] = {0};
    mtbal_array ok[] = {{"x", MTBAL_FLOAT, 2, rows, 256, sizeof x, x},
                        {"label", MTBAL_INT64, 1, one, 4, sizeof label, label},
                        {"picture", MTBAL_FLOAT, 2, rows, 256, sizeof picture, picture}};
    mtbal_array bad[3];
    static const char *const words[] = {"no array", "int32", "shape", "samples"};
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_session_options options = {.threads = 1};
    char path[96];
    int count = 3;
    make_step("sgd", "equal");
    memcpy(bad, ok, sizeof bad);
    if (_i == 0)
        count = 2;
    else if (_i == 1)
        bad[1] = (mtbal_array){"label", MTBAL_INT32, 1, one, 4, sizeof label32, label32};
    else if (_i == 2)
        bad[0] = (mtbal_array){"x", MTBAL_FLOAT, 2, narrow, 128, sizeof x / 2, x};
    else
        bad[2] =
            (mtbal_array){"picture", MTBAL_FLOAT, 2, few, 192, sizeof picture / 4 * 3, picture};
    snprintf(path, sizeof path, "%s/bad.npz", folder);
    ck_assert_int_eq(mtbal_npz_write(path, count, bad, false, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, path, false, 2, &data, &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.what, words[_i]), "'%s' does not say '%s'", diag.what, words[_i]);
    ck_assert_str_eq(diag.where, path);
    mtbal_session_close(session);
    unlink(path);
}
END_TEST

/* Class numbers that count, do not count, and cannot be; rows of a table, from its end too. */
START_TEST(test_limits)
{
    static const struct {
        int64_t label, row;
        bool good;
    } cases[] = {{4, 2, true},   {-100, 0, true}, {0, -3, true}, {5, 0, false},
                 {-1, 0, false}, {100, 0, false}, {0, 3, false}, {0, -4, false}};
    static const char text[] =
        "<ir_version: 8, opset_import: [\"\" : 17]>\n"
        "g (int64[n,1] label, int64[n] row) => (float a) <float[3,5] w = {0, 0, 0, 0, 0, 0, 0, 0, "
        "0, 0, 0, 0, 0, 0, 0}, int64[1] axis = {1}> {\n"
        "  flat = Squeeze(label, axis)\n  p = Gather(w, row)\n"
        "  a = SoftmaxCrossEntropyLoss<ignore_index = -100>(p, flat)\n}\n";
    int64_t label[2] = {1, cases[_i].label}, row[2] = {1, cases[_i].row};
    int64_t two[] = {2, 1};
    mtbal_array arrays[] = {{"label", MTBAL_INT64, 2, two, 2, sizeof label, label},
                            {"row", MTBAL_INT64, 1, two, 2, sizeof row, row}};
    mtbal_session_options options = {.threads = 1};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    char path[96];
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model && mtbal_onnx_write(model, step_path, &diag) == MTBAL_OK, "%s", diag.what);
    mtbal_model_free(model);
    snprintf(path, sizeof path, "%s/rows.npz", folder);
    ck_assert_int_eq(mtbal_npz_write(path, 2, arrays, false, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_session_open(step_path, &options, &session, &diag), MTBAL_OK);
    ck_assert_int_eq(mtbal_data_open(session, path, false, 2, &data, &diag), MTBAL_OK);
    mtbal_loop_options loop = {.epochs = 1};
    mtbal_status status = mtbal_loop_run(session, data, &loop, NULL, NULL, &diag);
    ck_assert_msg(status == (cases[_i].good ? MTBAL_OK : MTBAL_INVALID), "label %lld, row %lld: %s",
                  (long long)cases[_i].label, (long long)cases[_i].row, diag.what);
    ck_assert_msg(cases[_i].good || strstr(diag.what, "sample 1, array "), "%s", diag.what);
    mtbal_data_close(data);
    mtbal_session_close(session);
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("run");
    TCase *tests = tcase_create("steps");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_no_allocation);
    tcase_add_test(tests, test_threads);
    tcase_add_loop_test(tests, test_weights, 0, 6);
    tcase_add_loop_test(tests, test_schedule, 0, 7);
    tcase_add_loop_test(tests, test_bad_data, 0, 4);
    tcase_add_loop_test(tests, test_limits, 0, 8);
    tcase_add_test(tests, test_all_off);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
