/* tests/test_checkpoint.c: the training checkpoint: what is written reads back; every cut and every
 * changed byte is refused or read, and nothing outside of the file is touched. */
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static float numbers[6] = {1, -2, 3, 4, 5, 6};
static int64_t shape[2] = {2, 3};

static const char *written(void)
{
    mtbal_array w = {"w", MTBAL_FLOAT, 2, shape, 6, 24, numbers},
                g = {"mtbal/calibration/a", MTBAL_FLOAT, 0, shape, 1, 4, numbers};
    mtbal_checkpoint c = {.ntrainable = 1, .nfrozen = 1, .trainable = &w, .frozen = &g};
    const char *path = files_path("checkpoint");
    ck_assert_int_eq(mtbal_checkpoint_write(path, &c, NULL), MTBAL_OK);
    return path;
}

START_TEST(test_round_trip)
{
    mtbal_checkpoint *c;
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_checkpoint_read(written(), &c, &diag) == MTBAL_OK, "%s", diag.what);
    const mtbal_array *w = mtbal_checkpoint_find(c, "w");
    ck_assert(w && w->rank == 2 && w->dims[0] == 2 && w->dims[1] == 3 && w->dtype == MTBAL_FLOAT);
    ck_assert_mem_eq(w->data, numbers, sizeof numbers);
    ck_assert_int_eq(c->ntrainable, 1);
    ck_assert_int_eq(c->nfrozen, 1);
    ck_assert_int_eq(mtbal_checkpoint_find(c, "mtbal/calibration/a")->rank, 0);
    ck_assert(!mtbal_checkpoint_find(c, "v"));
    mtbal_checkpoint_free(c);
}
END_TEST

static mtbal_status reading(const unsigned char *bytes, size_t size, mtbal_diag *diag)
{
    mtbal_checkpoint *c;
    const char *path = files_path("hostile");
    files_write(path, bytes, size);
    mtbal_status status = mtbal_checkpoint_read(path, &c, diag);
    if (status == MTBAL_OK)
        mtbal_checkpoint_free(c);
    return status;
}

START_TEST(test_cut)
{
    size_t size;
    unsigned char *bytes = files_read(written(), &size);
    for (size_t n = 0; n + 8 < size; n++) {
        mtbal_diag diag = {0};
        ck_assert_int_eq(reading(bytes, n, &diag), MTBAL_INVALID);
        ck_assert(diag.what[0]);
    }
    free(bytes);
}
END_TEST

START_TEST(test_changed)
{
    static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
    size_t size;
    unsigned char *bytes = files_read(written(), &size);
    for (size_t i = 0; i < size; i++)
        for (size_t k = 0; k < sizeof values; k++) {
            unsigned char was = bytes[i];
            bytes[i] = values[k];
            mtbal_status status = reading(bytes, size, NULL);
            ck_assert(status == MTBAL_OK || status == MTBAL_INVALID || status == MTBAL_UNSUPPORTED);
            bytes[i] = was;
        }
    memcpy(bytes + 4, "ODTX", 4);
    mtbal_diag diag = {0};
    ck_assert_int_eq(reading(bytes, size, &diag), MTBAL_INVALID);
    ck_assert(strstr(diag.what, "identifier"));
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tests = tcase_create("checkpoint");
    tcase_set_timeout(tests, 60); /* also on a busy machine */
    tcase_add_test(tests, test_round_trip);
    tcase_add_test(tests, test_cut);
    tcase_add_test(tests, test_changed);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_ENV);
    files_end();
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
