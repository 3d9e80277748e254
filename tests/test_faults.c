/* tests/test_faults.c: every system call that writing depends on, failed in turn. Whatever fails,
 * there is a message, no temporary file is left, and the old model is there with its old data. */
#include "tests/faults.h"
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURES "tests/data/models/fixtures/"

/* ------------------------------------------------------------------ */

static void copy_file(const char *from, const char *to)
{
    size_t size;
    unsigned char *bytes = files_read(from, &size);
    files_write(to, bytes, size);
    free(bytes);
}

static void fresh_files(void)
{
    copy_file(FIXTURES "external.onnx", files_path("external.onnx"));
    copy_file(FIXTURES "external.onnx.data", files_path("external.onnx.data"));
    unlink(files_path("out/far.onnx"));
    unlink(files_path("out/far.onnx.data"));
}

/* Reads the model, gives it a new weight, writes it to `out`. */
static mtbal_status change(const char *out, mtbal_diag *diag)
{
    mtbal_model *model;
    MTBAL_TRY(mtbal_onnx_read(files_path("external.onnx"), &model, diag));
    mtbal_value *value = mtbal_value_find(model->graph, "trunk.2.weight");
    const mtbal_tensor *old = value->tensor;
    value->tensor = mtbal_tensor_new(model, old->dtype, old->rank, old->dims, NULL);
    mtbal_tensor_set_f64(value->tensor, 7, 7);
    mtbal_status status = mtbal_onnx_write(model, out, diag);
    mtbal_model_free(model);
    return status;
}

static double seventh(const char *path)
{
    mtbal_model *model;
    mtbal_diag diag = {0};
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    mtbal_tensor *t = mtbal_value_find(model->graph, "trunk.2.weight")->tensor;
    ck_assert_int_eq(mtbal_tensor_load(model, t, &diag), MTBAL_OK);
    double x = mtbal_tensor_f64(t, 7);
    mtbal_model_free(model);
    return x;
}

/* Returns whether the n-th call was reached. */
static bool try_one(int n, const char *out, int *failures)
{
    mtbal_diag diag = {0};
    fresh_files();
    int before = files_count();
    faults_begin(n);
    mtbal_status status = change(out, &diag);
    bool reached = faults_end();
    bool in_place = !strstr(out, "out/"), fresh = access(out, F_OK) != 0;
    if (status == MTBAL_OK) {
        ck_assert_double_eq(seventh(out), 7);
    } else {
        ck_assert_msg(status == MTBAL_IO && diag.what[0] && diag.where[0], "call %d: %d %s", n,
                      status, diag.what);
        ck_assert_int_ne(in_place, fresh); /* far: nothing has appeared */
        ck_assert_msg(files_equal(FIXTURES "external.onnx.data", files_path("external.onnx.data")),
                      "call %d: data changed (%s)", n, diag.what);
        ck_assert(files_equal(FIXTURES "external.onnx", files_path("external.onnx")));
        ++*failures;
    }
    int new_files = status == MTBAL_OK && !in_place ? 2 : 0;
    ck_assert_msg(files_count() == before + new_files, "call %d: a file is left", n);
    return reached;
}

START_TEST(each_call)
{
    int n = 1, failures = 0;
    const char *name = _i ? "out/far.onnx" : "external.onnx";
    char out[1024];
    mkdir(files_path("out"), 0777);
    snprintf(out, sizeof out, "%s", files_path(name));
    while (try_one(n, out, &failures))
        n++;
    ck_assert_int_gt(n, 15);
    ck_assert_int_gt(failures, 8);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");
    TCase *tc = tcase_create("faults");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, each_call, 0, 2);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
