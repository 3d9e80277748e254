/* tests/test_external.c: weights in other files: loaded when asked for, left where they are, copied
 * by range, moved when their file is replaced; never read just to be written. */
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURES "tests/data/models/fixtures/"
#define INLINE   "tests/data/models/mlp_cls_reg/model.op17.onnx"

static mtbal_model *must_read(const char *path)
{
    mtbal_diag diag = {0};
    mtbal_model *model;
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    return model;
}

static void must_write(mtbal_model *model, const char *path)
{
    mtbal_diag diag = {0};
    mtbal_status status = mtbal_onnx_write(model, path, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
}

static mtbal_tensor *loaded(mtbal_model *model, const char *name)
{
    mtbal_diag diag = {0};
    mtbal_value *value = mtbal_value_find(model->graph, name);
    ck_assert_msg(value && value->tensor, "no initializer %s", name);
    mtbal_status status = mtbal_tensor_load(model, value->tensor, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    return value->tensor;
}

/* Do both models hold the same initializers? */
static void same_weights(mtbal_model *a, mtbal_model *b)
{
    ck_assert_int_eq(a->graph->ninitializers, b->graph->ninitializers);
    for (int i = 0; i < a->graph->ninitializers; i++) {
        const char *name = a->graph->initializers[i]->name;
        const mtbal_tensor *x = loaded(a, name), *y = loaded(b, name);
        ck_assert(x->dtype == y->dtype && x->bytes == y->bytes);
        ck_assert_msg(memcmp(x->data, y->data, x->bytes) == 0, "%s differs", name);
    }
}

static void copy_file(const char *from, const char *to)
{
    size_t size;
    unsigned char *bytes = files_read(from, &size);
    files_write(to, bytes, size);
    free(bytes);
}

/* m.onnx and its data, in the folder of this test. */
static void copy_fixture(void)
{
    copy_file(FIXTURES "external.onnx", files_path("m.onnx"));
    copy_file(FIXTURES "external.onnx.data", files_path("external.onnx.data"));
}

static void set_new(mtbal_model *model, const char *name, double x)
{
    mtbal_value *value = mtbal_value_find(model->graph, name);
    const mtbal_tensor *old = value->tensor;
    mtbal_tensor *fresh = mtbal_tensor_new(model, old->dtype, old->rank, old->dims, NULL);
    for (int64_t i = 0; i < fresh->count; i++)
        mtbal_tensor_set_f64(fresh, i, x + (double)i);
    value->tensor = fresh;
}

static off_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* ------------------------------------------------------------------ reading */

static const char *const externals[] = {FIXTURES "external.onnx",
                                        FIXTURES "ext_many/external_many.onnx"};

START_TEST(same_as_inline)
{
    mtbal_model *a = must_read(INLINE), *b = must_read(externals[_i]);
    int external = 0;
    for (int i = 0; i < b->graph->ninitializers; i++) {
        const mtbal_tensor *t = b->graph->initializers[i]->tensor;
        external += t->external;
        ck_assert(!t->external || !t->data); /* not before somebody asks */
    }
    ck_assert_int_eq(external, 10);
    same_weights(b, a);
    mtbal_model_free(a);
    mtbal_model_free(b);
}
END_TEST

/* Data that starts at an odd byte is copied to an aligned place. */
START_TEST(unaligned)
{
    float weights[4] = {1, 2, 3, 4};
    unsigned char bytes[3 + sizeof weights] = {0};
    memcpy(bytes + 3, weights, sizeof weights);
    files_write(files_path("odd.bin"), bytes, sizeof bytes);
    wire w = wire_external(4, "./odd.bin", "3", NULL);
    files_write(files_path("odd.onnx"), w.data, w.size);
    wire_free(&w);
    mtbal_model *model = must_read(files_path("odd.onnx"));
    const mtbal_tensor *t = loaded(model, "w");
    ck_assert_uint_eq((uintptr_t)t->data % sizeof(float), 0);
    ck_assert_double_eq(mtbal_tensor_f64(t, 2), 3);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ writing */

/* Into the same folder: the references stay, and no data file appears. */
START_TEST(references_stay)
{
    copy_fixture();
    mtbal_model *model = must_read(files_path("m.onnx"));
    model->doc = "changed";
    must_write(model, files_path("n.onnx"));
    mtbal_model_free(model);
    ck_assert_int_eq(size_of(files_path("n.onnx.data")), -1);
    mtbal_model *a = must_read(files_path("n.onnx")), *b = must_read(INLINE);
    ck_assert_str_eq(a->doc, "changed");
    same_weights(a, b);
    mtbal_model_free(a);
    mtbal_model_free(b);
}
END_TEST

/* Into another folder: everything the model needs comes along, in one file. */
START_TEST(ranges_copied)
{
    mtbal_model *model = must_read(externals[_i]);
    must_write(model, files_path("far.onnx"));
    /* 10 tensors: those of a page and more on a page of their own, the others at 64 bytes */
    ck_assert_int_eq(size_of(files_path("far.onnx.data")), 38216);
    mtbal_model *far = must_read(files_path("far.onnx"));
    same_weights(far, model);
    unsigned char *before, *after;
    size_t n, m; /* the model in memory still refers to the old place */
    ck_assert_int_eq(mtbal_onnx_write_bytes(model, &after, &n, NULL), MTBAL_OK);
    before = files_read(externals[_i], &m);
    ck_assert(n == m && memcmp(before, after, n) == 0);
    mtbal_free(after);
    free(before);
    mtbal_model_free(far);
    mtbal_model_free(model);
}
END_TEST

/* Two tensors that share a range share it in the copy. */
START_TEST(shared_ranges)
{
    mkdir(files_path("a"), 0777);
    size_t size = 1 << 16;
    unsigned char *bytes = calloc(size, 1);
    bytes[5] = 7;
    files_write(files_path("a/w.bin"), bytes, size);
    free(bytes);
    wire extra = {NULL, 0, 0};
    for (int i = 0; i < 4; i++) {
        wire tensor = {NULL, 0, 0}, entry = tensor;
        wire_int(&tensor, 1, size / 4);
        wire_int(&tensor, 2, MTBAL_FLOAT);
        wire_text(&tensor, 8, i == 0 ? "a" : i == 1 ? "b" : i == 2 ? "c" : "d");
        wire_text(&entry, 1, "location");
        wire_text(&entry, 2, "w.bin");
        wire_sub(&tensor, 13, &entry);
        wire_text(&entry, 1, "checksum");
        wire_text(&entry, 2, "0123");
        wire_sub(&tensor, 13, &entry);
        wire_int(&tensor, 14, 1);
        wire_sub(&extra, 5, &tensor);
    }
    wire w = wire_model(&extra);
    files_write(files_path("a/s.onnx"), w.data, w.size);
    wire_free(&w);
    mtbal_model *model = must_read(files_path("a/s.onnx"));
    must_write(model, files_path("s.onnx"));
    ck_assert_int_eq(size_of(files_path("s.onnx.data")), (off_t)size);
    mtbal_model *copy = must_read(files_path("s.onnx"));
    same_weights(model, copy);
    unsigned char *text = files_read(files_path("s.onnx"), &size);
    text[size] = 0;
    int checksums = 0;
    for (size_t i = 0; i + 8 < size; i++)
        checksums += memcmp(text + i, "checksum", 8) == 0;
    ck_assert_int_eq(checksums, 4);
    free(text);
    mtbal_model_free(copy);
    mtbal_model_free(model);
}
END_TEST

/* A new state of a model with external data goes to the data file; offsets are aligned. */
START_TEST(new_tensors)
{
    copy_fixture();
    mtbal_model *model = must_read(files_path("m.onnx"));
    set_new(model, "trunk.2.weight", 1);
    set_new(model, "head_reg.bias", 5); /* small: stays inside of the model */
    must_write(model, files_path("n2.onnx"));
    ck_assert_int_eq(size_of(files_path("n2.onnx.data")), 64 * 64 * 4);
    mtbal_model *n = must_read(files_path("n2.onnx"));
    ck_assert(mtbal_value_find(n->graph, "trunk.2.weight")->tensor->external);
    ck_assert(!mtbal_value_find(n->graph, "head_reg.bias")->tensor->external);
    same_weights(n, model);
    mtbal_model_free(n);
    mtbal_model_free(model);
}
END_TEST

/* The very files that were read are written, twice, while the model stays in use. */
START_TEST(overwritten_in_place)
{
    mtbal_model *model = must_read(externals[_i]), *reference = must_read(INLINE);
    must_write(model, files_path("w.onnx"));
    mtbal_model_free(model);
    model = must_read(files_path("w.onnx"));
    loaded(model, "trunk.0.bias"); /* mapped before, the others after */
    for (int round = 0; round < 3; round++) {
        set_new(model, "trunk.2.weight", round);
        must_write(model, files_path("w.onnx"));
        mtbal_model *now = must_read(files_path("w.onnx"));
        ck_assert_double_eq(mtbal_tensor_f64(loaded(now, "trunk.2.weight"), 3), round + 3);
        same_weights(now, model);
        mtbal_model_free(now);
    }
    const char *const kept[] = {"trunk.0.weight", "trunk.0.bias", "head_reg.weight"};
    for (int i = 0; i < 3; i++) {
        const mtbal_tensor *a = loaded(model, kept[i]), *b = loaded(reference, kept[i]);
        ck_assert(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
    }
    ck_assert_int_lt(size_of(files_path("w.onnx.data")), 64 * 1024); /* it does not grow */
    mtbal_model_free(reference);
    mtbal_model_free(model);
}
END_TEST

START_TEST(no_link_as_target)
{
    mtbal_diag diag = {0};
    mtbal_model *model = must_read(FIXTURES "external.onnx");
    files_write(files_path("precious"), "x", 1);
    ck_assert_int_eq(symlink("precious", files_path("l.onnx.data")), 0);
    int before = files_count();
    ck_assert_int_eq(mtbal_onnx_write(model, files_path("l.onnx"), &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.what, "symbolic link"));
    ck_assert_int_eq(size_of(files_path("precious")), 1);
    ck_assert_int_eq(files_count(), before);
    mtbal_model_free(model);
}
END_TEST

/* The data file vanished in between: the old output stays as it was. */
START_TEST(lost_data)
{
    copy_fixture();
    mkdir(files_path("out"), 0777);
    mtbal_model *model = must_read(files_path("m.onnx"));
    must_write(model, files_path("out/m.onnx"));
    copy_file(files_path("out/m.onnx"), files_path("out/before"));
    ck_assert_int_eq(unlink(files_path("external.onnx.data")), 0);
    mtbal_diag diag = {0};
    model->doc = "changed";
    ck_assert_int_eq(mtbal_onnx_write(model, files_path("out/m.onnx"), &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.where, "external.onnx.data"));
    ck_assert(files_equal(files_path("out/m.onnx"), files_path("out/before")));
    mtbal_model_free(model);
    mtbal_model_free(must_read(files_path("out/m.onnx")));
}
END_TEST

static mtbal_status move_all(void *context)
{
    mtbal_model *model;
    mtbal_diag diag = {0};
    (void)context;
    MTBAL_TRY(mtbal_onnx_read(FIXTURES "ext_many/external_many.onnx", &model, &diag));
    mtbal_status status = mtbal_tensor_load(model, model->graph->initializers[0]->tensor, &diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, files_path("memory.onnx"), &diag);
    mtbal_model_free(model);
    return status;
}

START_TEST(out_of_memory)
{
    int before = files_count();
    ck_assert_int_gt(fail_each_allocation(move_all, NULL), 100);
    ck_assert_int_eq(files_count(), before + 2); /* no temporary file is left */
}
END_TEST

/* ------------------------------------------------------------------ size */

/* A gigabyte of weights (a hole: it takes no space on the disk), read, changed and written to the
 * same folder, in little memory. */
START_TEST(gigabyte)
{
    const char *data = files_path("big.bin");
    files_write(data, "", 0);
    ck_assert_int_eq(truncate(data, (off_t)1 << 30), 0);
    wire w = wire_external(1 << 28, "big.bin", NULL, NULL);
    files_write(files_path("big.onnx"), w.data, w.size);
    wire_free(&w);
    mtbal_model *model = must_read(files_path("big.onnx"));
    model->doc = "changed";
    must_write(model, files_path("big2.onnx"));
    ck_assert_int_eq(size_of(files_path("big2.onnx.data")), -1);
    ck_assert_double_eq(mtbal_tensor_f64(loaded(model, "w"), 1 << 27), 0);
    mtbal_model_free(model);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    ck_assert_int_lt(usage.ru_maxrss, 200 * 1024);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("external data");
    TCase *tc = tcase_create("external");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, same_as_inline, 0, 2);
    tcase_add_test(tc, unaligned);
    tcase_add_test(tc, references_stay);
    tcase_add_loop_test(tc, ranges_copied, 0, 2);
    tcase_add_test(tc, shared_ranges);
    tcase_add_test(tc, new_tensors);
    tcase_add_loop_test(tc, overwritten_in_place, 0, 2);
    tcase_add_test(tc, no_link_as_target);
    tcase_add_test(tc, lost_data);
    tcase_add_test(tc, out_of_memory);
    tcase_add_test(tc, gigabyte);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
