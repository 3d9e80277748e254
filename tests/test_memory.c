/* tests/test_memory.c: rewriting and training, whole, with each allocation and each system call of
 * writing failing in turn: an error comes back, and the output is the old file or the new one,
 * never half of one. (test_calibrate.c does it to calibrations.) */
#include "tests/faults.h"
#include "tests/steps.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEAD "<ir_version: 8, opset_import: [\"\" : 14]>\n"

/* Small networks that need many passes between them: control flow, convolution, running
 * statistics, class losses, shape arithmetic. NULL text: the file. */
static const struct network {
    const char *file, *text, *optimizer;
    unsigned outputs;
} networks[] = {
    {"tests/data/models/fixtures/tied.onnx", NULL, "adam", MTBAL_OUT_NORMS},
    {"tests/data/models/fixtures/control_flow.onnx", NULL, "sgd",
     MTBAL_OUT_NORMS | MTBAL_OUT_GRAM | MTBAL_OUT_GRADS | MTBAL_OUT_TASK_GRADS},
    {"convolution",
     HEAD
     "g (float[n,1,4,4] x, int64[n] l) => (float a, float b) <float[2,1,3,3] w = {1, 2, 3, 4, 5, "
     "6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1}, float[2] s = {1, 1}, float[2] o = {0, 0}, float[2] m "
     "= {0, 0}, float[2] v = {1, 1}, float[2,3] h = {1, 2, 3, 4, 5, 6}> {\n"
     "  c = Conv <pads = [1, 1, 1, 1]> (x, w)\n"
     "  k, mm, vv = BatchNormalization <training_mode = 1> (c, s, o, m, v)\n"
     "  r = Relu (k)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)\n"
     "  q = ReduceMean <axes = [2, 3], keepdims = 0> (p)  t = MatMul (q, h)\n"
     "  a = SoftmaxCrossEntropyLoss (t, l)  d = Mul (q, q)\n"
     "  b = ReduceMean <keepdims = 0> (d) }",
     "adamw", MTBAL_OUT_NORMS | MTBAL_OUT_GRADS},
};
enum { NNETWORKS = sizeof networks / sizeof *networks };

static char in[1024], out[1024], data[1024];
static const char old_output[] = "what was there before";

static void begin(const struct network *n)
{
    mtbal_diag diag = {0};
    snprintf(out, sizeof out, "%s", files_path("out.onnx"));
    snprintf(in, sizeof in, "%s", n->text ? files_path("in.onnx") : n->file);
    if (n->text) {
        mtbal_model *model = steps_parse(n->text);
        steps_ok(mtbal_onnx_write(model, in, &diag));
        mtbal_model_free(model);
    }
}

/* ------------------------------------------------------------------ rewriting */

static mtbal_status rewrite(void *context)
{
    const struct network *n = context;
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *found;
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = n->optimizer;
    o.outputs = n->outputs;
    mtbal_status status = mtbal_onnx_read(in, &model, &diag);
    if (status == MTBAL_OK)
        status = mtbal_rewrite(model, &o, &found, &diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, out, &diag);
    mtbal_model_free(model);
    return status;
}

/* ------------------------------------------------------------------ training */

static mtbal_status train(void *context)
{
    (void)context;
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    mtbal_data *arrays = NULL;
    mtbal_session_options options = {.threads = 2};
    mtbal_loop_options loop = {.limit = 2, .norm_every = 2};
    mtbal_status status = mtbal_session_open(in, &options, &session, &diag);
    if (status == MTBAL_OK)
        status = mtbal_data_open(session, data, false, 4, &arrays, &diag);
    if (status == MTBAL_OK)
        status = mtbal_loop_run(session, arrays, &loop, NULL, NULL, &diag);
    if (status == MTBAL_OK)
        status = mtbal_session_save(session, out, &diag);
    mtbal_data_close(arrays);
    mtbal_session_close(session);
    return status;
}

static void make_training(void)
{
    mtbal_options o;
    char *text = steps_network(2, 5);
    mtbal_options_default(&o);
    o.optimizer = "adam";
    snprintf(in, sizeof in, "%s", files_path("step.onnx"));
    snprintf(out, sizeof out, "%s", files_path("out.onnx"));
    snprintf(data, sizeof data, "%s", files_path("net.npz"));
    steps_write(steps_parse(text), &o, in);
    free(text);
    steps_network_data(data, 12, 1, 1, false);
}

/* ------------------------------------------------------------------ */

typedef struct guarded {
    mtbal_status (*body)(void *context);
    void *context;
    int failures;
    bool has_old; /* the old output is in its place */
} guarded;

/* The body beside an older output: that is there after an error, a whole model after none. */
static mtbal_status keep_output(void *context)
{
    guarded *g = context;
    size_t size;
    int before;
    if (!g->has_old)
        files_write(out, old_output, sizeof old_output);
    before = files_count();
    mtbal_status status = g->body(g->context);
    char *left = (char *)files_read(out, &size);
    bool is_old = size == sizeof old_output && !memcmp(left, old_output, size);
    free(left);
    g->failures += status != MTBAL_OK;
    g->has_old = is_old;
    ck_assert_msg(is_old == (status != MTBAL_OK), "status %d, and the output is the %s file",
                  status, is_old ? "old" : "new");
    ck_assert_int_eq(files_count(), before);
    return status;
}

static int fail_each_call(guarded *g)
{
    for (int n = 1;; n++) {
        faults_begin(n);
        mtbal_status status = g->body(g->context);
        if (!faults_end()) {
            ck_assert_int_eq(status, MTBAL_OK);
            return n;
        }
        ck_assert_msg(status == MTBAL_IO || status == MTBAL_OK, "call %d: status %d", n, status);
        g->failures += status != MTBAL_OK;
    }
}

START_TEST(test_rewrite_allocations)
{
    guarded g = {rewrite, (void *)(uintptr_t)&networks[_i], 0, false};
    begin(&networks[_i]);
    ck_assert_int_gt(fail_each_allocation(keep_output, &g), 20);
    ck_assert_int_gt(g.failures, 20);
}
END_TEST

START_TEST(test_train_allocations)
{
    guarded g = {train, NULL, 0, false};
    make_training();
    ck_assert_int_gt(fail_each_allocation(keep_output, &g), 20);
    ck_assert_int_gt(g.failures, 20);
}
END_TEST

START_TEST(test_calls)
{
    guarded g = {_i ? train : rewrite, (void *)(uintptr_t)&networks[0], 0, false};
    if (_i)
        make_training();
    else
        begin(&networks[0]);
    ck_assert_int_gt(fail_each_call(&g), 3);
    ck_assert_int_gt(g.failures, 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *tests = tcase_create("failures");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, test_rewrite_allocations, 0, NNETWORKS);
    tcase_add_test(tests, test_train_allocations);
    tcase_add_loop_test(tests, test_calls, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
