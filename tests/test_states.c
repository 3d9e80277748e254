/* tests/test_states.c: a step graph and its states apart (mtbal-rewrite --states), and together
 * again: what comes back is what was stored, and states of another model are refused. */
#include "tests/steps.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(const char *what, int wanted, const char *arguments, const char *says)
{
    int code;
    char *said = files_run(&code, "$BIN/mtbal-rewrite %s", arguments);
    ck_assert_msg(code == wanted && strstr(said, says), "%s: exit code %d: %s", what, code, said);
    free(said);
}

/* step.onnx, and as split.onnx with s.npz. */
static void split(void)
{
    mtbal_diag diag = {0};
    char arguments[4096], *text = steps_network(2, 5);
    mtbal_model *model = steps_parse(text);
    free(text);
    steps_ok(mtbal_onnx_write(model, files_path("in.onnx"), &diag));
    mtbal_model_free(model);
    snprintf(arguments, sizeof arguments, "%s %s --optimizer adam", files_path("in.onnx"),
             files_path("step.onnx"));
    must("step graph", 0, arguments, "2 tasks");
    snprintf(arguments, sizeof arguments, "%s %s --states %s -q", files_path("step.onnx"),
             files_path("split.onnx"), files_path("s.npz"));
    must("split", 0, arguments, "");
}

static void back(int wanted, const char *says)
{
    char arguments[4096];
    snprintf(arguments, sizeof arguments, "--inference %s --states %s %s", files_path("split.onnx"),
             files_path("s.npz"), files_path("out.onnx"));
    must("back", wanted, arguments, says);
}

START_TEST(test_round_trip)
{
    char arguments[4096];
    split();
    back(0, "");
    snprintf(arguments, sizeof arguments, "--inference %s %s -q", files_path("step.onnx"),
             files_path("plain.onnx"));
    must("inference of the step graph", 0, arguments, "");
    ck_assert(files_equal(files_path("out.onnx"), files_path("plain.onnx")));
}
END_TEST

typedef void spoil_fn(mtbal_array *arrays, int *count);

static void rename_first(mtbal_array *arrays, int *count)
{
    (void)count;
    arrays[0].name = "another";
}

static void leave_one_out(mtbal_array *arrays, int *count)
{
    for (int i = 0; i < *count; i++)
        if (strncmp(arrays[i].name, "mtbal/", 6)) {
            arrays[i] = arrays[--*count];
            return;
        }
}

static void reshape_one(mtbal_array *arrays, int *count)
{
    for (int i = 0; i < *count; i++)
        if (arrays[i].rank == 2) {
            int64_t rows = arrays[i].dims[0];
            arrays[i].dims[0] = arrays[i].dims[1];
            arrays[i].dims[1] = rows;
            return;
        }
}

/* What is in the .npz does not fit the model. */
static const struct spoilt {
    spoil_fn *spoil;
    const char *says;
} spoilt[] = {{rename_first, "has no state another"},
              {leave_one_out, "is missing"},
              {reshape_one, "another shape"}};

START_TEST(test_refused)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    split();
    steps_ok(mtbal_npz_read(files_path("s.npz"), &npz, &diag));
    int count = npz->count;
    mtbal_array *arrays = calloc((size_t)count, sizeof *arrays);
    memcpy(arrays, npz->arrays, (size_t)count * sizeof *arrays);
    spoilt[_i].spoil(arrays, &count);
    steps_ok(mtbal_npz_write(files_path("other.npz"), count, arrays, false, &diag));
    free(arrays);
    mtbal_npz_free(npz);
    ck_assert_int_eq(rename(files_path("other.npz"), files_path("s.npz")), 0);
    back(4, spoilt[_i].says);
    ck_assert_msg(access(files_path("out.onnx"), F_OK) != 0, "something was written");
}
END_TEST

START_TEST(test_split_twice)
{
    char arguments[4096];
    split();
    snprintf(arguments, sizeof arguments, "%s %s --states %s", files_path("split.onnx"),
             files_path("again.onnx"), files_path("again.npz"));
    must("split twice", 2, arguments, "plain inputs already");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("states");
    TCase *tests = tcase_create("states");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_round_trip);
    tcase_add_loop_test(tests, test_refused, 0, (int)(sizeof spoilt / sizeof *spoilt));
    tcase_add_test(tests, test_split_twice);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
