/* tests/test_faults.c: every system call that writing depends on, failed in turn. Whatever fails,
 * there is a message, no temporary file is left, and the old model is there with its old data. */
#include "cli/cli.h"
#include "tests/faults.h"
#include "tests/files.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

/* ------------------------------------------------------------------ files that appear together */

static const char *const bundled[] = {"a", "b", "in/c", "in/it/d"};
enum { BUNDLED = sizeof bundled / sizeof *bundled, FOLDERS = 2 };

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    files_write(path, text, strlen(text));
}

static bool holds(const char *folder, const char *name, const char *text)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (access(path, F_OK) != 0)
        return !text;
    size_t size;
    unsigned char *bytes = files_read(path, &size);
    bool same = text && size == strlen(text) && !memcmp(bytes, text, size);
    free(bytes);
    return same;
}

static mtbal_status write_bundle(const char *folder, mtbal_diag *diag)
{
    mtbal_bundle bundle;
    MTBAL_TRY(mtbal_bundle_open(&bundle, folder, diag));
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < BUNDLED && status == MTBAL_OK; i++) {
        mtbal_writer writer = {.fd = -1};
        const char *path;
        status = mtbal_bundle_add(&bundle, bundled[i], &path, diag);
        if (status == MTBAL_OK)
            status = mtbal_writer_open(&writer, path, diag);
        if (status == MTBAL_OK)
            status = mtbal_writer_put(&writer, "new", 3, diag);
        if (status == MTBAL_OK)
            status = mtbal_writer_commit(&writer, diag);
        mtbal_writer_abort(&writer);
    }
    if (status == MTBAL_OK)
        status = mtbal_bundle_commit(&bundle, diag);
    mtbal_bundle_abort(&bundle);
    return status;
}

/* The n-th call fails: all four files are new, or as they were (d was not there); the user's own
 * file stays. */
static bool try_bundle(int n, const char *folder, bool exists, int *failures)
{
    mtbal_diag diag = {0};
    char inner[1100];
    snprintf(inner, sizeof inner, "%s/in", folder);
    if (exists) {
        mkdir(folder, 0777);
        mkdir(inner, 0777);
    }
    for (int i = 0; exists && i < BUNDLED - 1; i++)
        write_text(folder, bundled[i], "old");
    if (exists)
        write_text(folder, "own", "own");
    faults_begin(n);
    mtbal_status status = write_bundle(folder, &diag);
    bool reached = faults_end();
    ck_assert_msg(status == MTBAL_OK || (status == MTBAL_IO && diag.what[0]), "call %d: %d %s", n,
                  status, diag.what);
    *failures += status != MTBAL_OK;
    for (int i = 0; i < BUNDLED; i++) {
        const char *old = exists && i < BUNDLED - 1 ? "old" : NULL;
        ck_assert_msg(holds(folder, bundled[i], status == MTBAL_OK ? "new" : old),
                      "call %d: %s (%s)", n, bundled[i], diag.what);
    }
    ck_assert(holds(folder, "own", exists ? "own" : NULL));
    int files = status == MTBAL_OK ? BUNDLED + FOLDERS + 1 : exists ? BUNDLED - 1 + FOLDERS : 0;
    ck_assert_msg(files_count() == files + exists, "call %d: a file is left", n);
    char command[2100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
    return reached;
}

START_TEST(each_call_of_a_bundle)
{
    int n = 1, failures = 0;
    char folder[1024];
    snprintf(folder, sizeof folder, "%s", files_path("bundle"));
    while (try_bundle(n, folder, _i != 0, &failures))
        n++;
    ck_assert_int_gt(failures, 12);
}
END_TEST

/* ------------------------------------------------------------------ emitted C */

/* The files of an emission into `folder`, which already holds one of them and the user's own. */
static mtbal_status emit(const char *folder, mtbal_diag *diag)
{
    cli_emission e = {.folder = folder};
    mtbal_plan_info info;
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_status status = cli_emit(&e, FIXTURES "external.onnx", &info, arena, diag);
    mtbal_arena_free(arena);
    return status;
}

static void old_emission(const char *folder)
{
    char command[2100];
    snprintf(command, sizeof command, "rm -rf %s; mkdir -p %s/runtime", folder, folder);
    ck_assert_int_eq(system(command), 0);
    write_text(folder, "model.c", "old");
    write_text(folder, "runtime/used.h", "old");
    write_text(folder, "own", "own");
}

static void must_be_old(const char *folder, const char *when)
{
    ck_assert_msg(holds(folder, "model.c", "old") && holds(folder, "runtime/used.h", "old"), "%s",
                  when);
    ck_assert_msg(files_count() == 5, "%s: a file is left", when); /* two folders, three files */
    ck_assert(holds(folder, "own", "own"));
}

START_TEST(each_call_of_an_emission)
{
    int n = 0, failures = 0;
    bool reached = true;
    char folder[1024], when[4096];
    snprintf(folder, sizeof folder, "%s", files_path("emitted"));
    while (reached) {
        mtbal_diag diag = {0};
        old_emission(folder);
        faults_begin(++n);
        mtbal_status status = emit(folder, &diag);
        reached = faults_end();
        failures += status != MTBAL_OK;
        snprintf(when, sizeof when, "call %d: %s: %s", n, diag.where, diag.what);
        ck_assert_msg(status == MTBAL_OK || status == MTBAL_IO, "%s", when);
        ck_assert_msg(!strstr(diag.where, ".tmp"), "%s", when);
        if (status != MTBAL_OK)
            must_be_old(folder, when);
        else
            ck_assert(!holds(folder, "model.c", "old") && holds(folder, "own", "own"));
    }
    ck_assert_int_gt(failures, 50);
}
END_TEST

/* A disk that is full: a limit of the size of a file stands in for it. */
START_TEST(emission_to_a_full_disk)
{
    struct rlimit before, small;
    char folder[1024];
    snprintf(folder, sizeof folder, "%s", files_path("emitted"));
    old_emission(folder);
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t size = 0; size < 8192; size = 4 * size + 16) {
        mtbal_diag diag = {0};
        small = (struct rlimit){size, before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        mtbal_status status = emit(folder, &diag);
        setrlimit(RLIMIT_FSIZE, &before);
        ck_assert_msg(status == MTBAL_IO && strstr(diag.where, "emitted"), "%s", diag.what);
        must_be_old(folder, diag.what);
    }
}
END_TEST

/* A signal that ends the program while files are written: what its handler removes. */
START_TEST(ended_while_a_bundle_is_written)
{
    mtbal_diag diag = {0};
    mtbal_bundle bundle;
    mtbal_writer writer;
    const char *path;
    int before = files_count();
    ck_assert_int_eq(mtbal_bundle_open(&bundle, files_path("bundle"), &diag), MTBAL_OK);
    for (int i = 0; i < BUNDLED; i++) { /* the last one is open, and its folder new */
        ck_assert_int_eq(mtbal_bundle_add(&bundle, bundled[i], &path, &diag), MTBAL_OK);
        ck_assert_int_eq(mtbal_writer_open(&writer, path, &diag), MTBAL_OK);
        if (i + 1 < BUNDLED)
            ck_assert_int_eq(mtbal_writer_commit(&writer, &diag), MTBAL_OK);
    }
    ck_assert_int_gt(files_count(), before + BUNDLED);
    mtbal_temporary_unlink_all();
    ck_assert_int_eq(files_count(), before);
    mtbal_writer_abort(&writer);
    mtbal_bundle_abort(&bundle);
}
END_TEST

/* ------------------------------------------------------------------ a model and its states */

/* Neither the model nor its states are written where the model cannot be. */
START_TEST(states_without_their_model)
{
    int code;
    write_text(files_path("."), "states.npz", "old");
    mkdir(files_path("folder.onnx"), 0777);
    int before = files_count();
    char *text = files_run(&code, "$BIN/mtbal-rewrite models/digits2.onnx %s --states %s",
                           files_path("folder.onnx"), files_path("states.npz"));
    ck_assert_msg(code == MTBAL_IO, "%d: %s", code, text);
    free(text);
    ck_assert(holds(files_path("."), "states.npz", "old"));
    ck_assert_int_eq(files_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");
    TCase *tc = tcase_create("faults");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, each_call, 0, 2);
    suite_add_tcase(suite, tc);
    TCase *bundles = tcase_create("bundles");
    tcase_set_timeout(bundles, 60);
    tcase_add_checked_fixture(bundles, files_begin, files_end);
    tcase_add_loop_test(bundles, each_call_of_a_bundle, 0, 2);
    tcase_add_test(bundles, each_call_of_an_emission);
    tcase_add_test(bundles, emission_to_a_full_disk);
    tcase_add_test(bundles, ended_while_a_bundle_is_written);
    tcase_add_test(bundles, states_without_their_model);
    suite_add_tcase(suite, bundles);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
