/* tests/test_checkpoint.c: the training checkpoint: what is written reads back; so does what ONNX
 * Runtime saved; every cut is refused, and whatever is changed, nothing outside of the bytes is
 * touched. */
#include "onnxio/flatbuf.h"
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* Saved by onnxruntime-training-cpu 1.17.3 and 1.19.2 after three AdamW steps of the network in
 * test_artifacts.c (tests/ort/train_wheel.py), optimizer state included. */
static const char *const saved[] = {"tests/data/ort/saved-1.17.3.checkpoint",
                                    "tests/data/ort/saved-1.19.2.checkpoint"};
enum { SAVED = sizeof saved / sizeof *saved };

static float numbers[6] = {1, -2, 3, 4, 5, 6};
static int64_t shape[2] = {2, 3};

static const char *written(void)
{
    mtbal_array w = {"w", MTBAL_FLOAT, 2, shape, 6, 24, numbers},
                g = {"mtbal/calibration/a", MTBAL_FLOAT, 0, shape, 1, 4, numbers};
    mtbal_checkpoint_property weight = {"mtbal/weight/a", 0.5f};
    mtbal_checkpoint c = {.version = 2,
                          .ntrainable = 1,
                          .nfrozen = 1,
                          .nproperties = 1,
                          .trainable = &w,
                          .frozen = &g,
                          .properties = &weight};
    const char *path = files_path("checkpoint");
    ck_assert_int_eq(mtbal_checkpoint_write(path, &c, NULL), MTBAL_OK);
    return path;
}

/* The two that were saved, and one of ours. */
static unsigned char *example(int i, size_t *size)
{
    return files_read(i < SAVED ? saved[i] : written(), size);
}

START_TEST(test_round_trip)
{
    mtbal_checkpoint *c;
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_checkpoint_read(written(), &c, &diag) == MTBAL_OK, "%s", diag.what);
    const mtbal_array *w = mtbal_checkpoint_find(c, "w");
    ck_assert(w && w->rank == 2 && w->dims[0] == 2 && w->dims[1] == 3 && w->dtype == MTBAL_FLOAT);
    ck_assert_mem_eq(w->data, numbers, sizeof numbers);
    ck_assert(c->version == 2 && c->ntrainable == 1 && c->nfrozen == 1 && c->nproperties == 1);
    ck_assert_int_eq(mtbal_checkpoint_find(c, "mtbal/calibration/a")->rank, 0);
    ck_assert_str_eq(c->properties[0].name, "mtbal/weight/a");
    ck_assert_float_eq(c->properties[0].value, 0.5f);
    ck_assert_ptr_null(mtbal_checkpoint_find(c, "v"));
    mtbal_checkpoint_free(c);
}
END_TEST

/* The values are those that the session gave when it saved. */
START_TEST(test_saved)
{
    static const float w[] = {0.9969698786735535f, 2.0029399394989014f, 3.0029096603393555f,
                              3.9968795776367188f, 4.99685001373291f,   6.00282096862793f},
                       mean[] = {0.9655366539955139f, 1.1566072702407837f};
    mtbal_checkpoint *c;
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_checkpoint_read(saved[_i], &c, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert(c->version == _i + 1 && c->ntrainable == 4 && c->nfrozen == 4);
    ck_assert_mem_eq(mtbal_checkpoint_find(c, "w")->data, w, sizeof w);
    ck_assert_mem_eq(mtbal_checkpoint_find(c, "mean")->data, mean, sizeof mean);
    ck_assert_int_eq(c->nproperties, 4);
    mtbal_checkpoint_free(c);
}
END_TEST

/* From memory that ends with the bytes, so that AddressSanitizer sees a step beyond. */
static mtbal_status reading(const unsigned char *bytes, size_t size, mtbal_diag *diag)
{
    mtbal_checkpoint *c;
    unsigned char *exact = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(exact);
    if (size)
        memcpy(exact, bytes, size);
    mtbal_status status = mtbal_checkpoint_read_bytes(exact, size, "bytes", &c, diag);
    if (status == MTBAL_OK)
        mtbal_checkpoint_free(c);
    free(exact);
    return status;
}

START_TEST(test_cut)
{
    size_t size;
    unsigned char *bytes = example(_i, &size);
    ck_assert_int_eq(reading(bytes, size, NULL), MTBAL_OK);
    for (size_t n = 0; n < size; n++) {
        mtbal_diag diag = {0};
        ck_assert_msg(reading(bytes, n, &diag) == MTBAL_INVALID, "%zu of %zu bytes", n, size);
        ck_assert(diag.what[0]);
    }
    free(bytes);
}
END_TEST

static void read_changed(unsigned char *bytes, size_t size)
{
    mtbal_diag diag = {0};
    mtbal_status status = reading(bytes, size, &diag);
    ck_assert(status == MTBAL_OK || status == MTBAL_INVALID || status == MTBAL_UNSUPPORTED);
    ck_assert(status == MTBAL_OK || diag.what[0]);
}

/* Each byte, and each offset or length, turned into something hostile. */
START_TEST(test_changed)
{
    static const unsigned char values[] = {0, 1, 4, 0x7f, 0x80, 0xfc, 0xff};
    size_t size;
    unsigned char *bytes = example(_i, &size), was[4];
    for (size_t i = 0; i < size; i++)
        for (size_t k = 0; k < sizeof values; k++) {
            was[0] = bytes[i];
            bytes[i] = values[k];
            read_changed(bytes, size);
            bytes[i] = was[0];
        }
    const uint32_t words[] = {
        0,           1,           4,           (uint32_t)size, (uint32_t)size - 4,
        0x3fffffffu, 0x7fffffffu, 0x80000000u, 0xfffffff0u,    0xffffffffu};
    for (size_t i = 0; i + 4 <= size; i += 2)
        for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
            memcpy(was, bytes + i, 4);
            memcpy(bytes + i, &words[k], 4);
            read_changed(bytes, size);
            memcpy(bytes + i, was, 4);
        }
    free(bytes);
}
END_TEST

/* Several bytes at once, at random. */
START_TEST(test_random)
{
    size_t size;
    unsigned char *bytes = example(_i, &size), *changed = malloc(size);
    uint64_t state = 11 + (uint64_t)_i;
    ck_assert_ptr_nonnull(changed);
    for (int round = 0; round < 20000; round++) {
        memcpy(changed, bytes, size);
        for (int k = 0; k < 1 + round % 8; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            changed[(state >> 20) % size] = (unsigned char)(state >> 56);
        }
        read_changed(changed, size);
    }
    free(changed);
    free(bytes);
}
END_TEST

/* ------------------------------------------------------------------ what is not read */

/* A checkpoint by hand: its version, and two flags of its module. */
static mtbal_status by_hand(const char *identifier, int version, bool nominal, bool external,
                            mtbal_diag *diag)
{
    static const unsigned char root[] = {4, 4}, module[] = {4, 4, 1, 1};
    size_t where[2], fields[4];
    fb_writer w;
    fb_begin(&w, identifier);
    fb_table(&w, FB_ROOT, 2, root, where);
    fb_put(&w, where[0], version, 4);
    fb_table(&w, where[1], 4, module, fields);
    fb_put(&w, fields[2], nominal, 1);
    fb_put(&w, fields[3], external, 1);
    fb_vector(&w, fields[0], 0, 4, NULL);
    fb_vector(&w, fields[1], 0, 4, NULL);
    fb_end(&w);
    ck_assert_int_eq(w.status, MTBAL_OK);
    mtbal_status status = reading(w.bytes, w.size, diag);
    mtbal_free(w.bytes);
    return status;
}

static const struct refusal {
    const char *identifier;
    int version;
    bool nominal, external;
    mtbal_status status;
    const char *says;
} refusals[] = {{"ODTX", 2, false, false, MTBAL_INVALID, "no identifier ODTC"},
                {"ODTC", 3, false, false, MTBAL_INVALID, "version 3"},
                {"ODTC", 0, false, false, MTBAL_INVALID, "version 0"},
                {"ODTC", 2, true, false, MTBAL_UNSUPPORTED, "nominal"},
                {"ODTC", 2, false, true, MTBAL_UNSUPPORTED, "in another file"}};

START_TEST(test_refused)
{
    const struct refusal *r = &refusals[_i];
    mtbal_diag diag = {0};
    ck_assert_int_eq(by_hand("ODTC", 2, false, false, &diag), MTBAL_OK);
    ck_assert_int_eq(by_hand(r->identifier, r->version, r->nominal, r->external, &diag), r->status);
    ck_assert_msg(strstr(diag.what, r->says) != NULL, "%s, not %s", diag.what, r->says);
}
END_TEST

START_TEST(test_twice)
{
    mtbal_array list[] = {{"w", MTBAL_FLOAT, 2, shape, 6, 24, numbers},
                          {"w", MTBAL_FLOAT, 0, shape, 1, 4, numbers}};
    mtbal_checkpoint *read, c = {.version = 2, .ntrainable = 2, .trainable = list};
    mtbal_diag diag = {0};
    ck_assert_int_eq(mtbal_checkpoint_write(files_path("twice"), &c, NULL), MTBAL_OK);
    ck_assert_int_eq(mtbal_checkpoint_read(files_path("twice"), &read, &diag), MTBAL_INVALID);
    ck_assert(strstr(diag.what, "w twice"));
}
END_TEST

static mtbal_status there_and_back(void *context)
{
    mtbal_checkpoint *c;
    const char *path = context;
    MTBAL_TRY(mtbal_checkpoint_read(saved[1], &c, NULL));
    mtbal_status status = mtbal_checkpoint_write(path, c, NULL);
    mtbal_checkpoint_free(c);
    return status;
}

START_TEST(test_memory)
{
    char path[1024];
    snprintf(path, sizeof path, "%s", files_path("memory"));
    ck_assert_int_gt(fail_each_allocation(there_and_back, path), 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tests = tcase_create("checkpoint");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_round_trip);
    tcase_add_loop_test(tests, test_saved, 0, SAVED);
    tcase_add_loop_test(tests, test_cut, 0, SAVED + 1);
    tcase_add_loop_test(tests, test_changed, 0, SAVED + 1);
    tcase_add_loop_test(tests, test_random, 0, SAVED + 1);
    tcase_add_loop_test(tests, test_refused, 0, sizeof refusals / sizeof *refusals);
    tcase_add_test(tests, test_twice);
    tcase_add_test(tests, test_memory);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_ENV);
    files_end();
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
