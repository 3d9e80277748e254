/* tests/test_npz.c: arrays written by NumPy read, arrays written here read back, damaged files. */
#include "tests/files.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DATA "tests/data/npz/"

static mtbal_npz *must_read(const char *path)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz;
    mtbal_status status = mtbal_npz_read(path, &npz, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    return npz;
}

static const mtbal_array *must_find(const mtbal_npz *npz, const char *name, mtbal_dtype dtype)
{
    const mtbal_array *a = mtbal_npz_find(npz, name);
    ck_assert_msg(a != NULL, "no array %s", name);
    ck_assert_str_eq(a->name, name);
    ck_assert_int_eq(a->dtype, dtype);
    return a;
}

static double element(const mtbal_array *a, int64_t i)
{
    mtbal_tensor t = {.dtype = a->dtype, .data = a->data, .count = a->count};
    return mtbal_tensor_f64(&t, i);
}

/* Arrays of shape (2,3,4) with element i = scale * i + shift. */
static const struct {
    const char *name;
    mtbal_dtype dtype;
    double scale, shift;
} ramps[] = {
    {"f2", MTBAL_FLOAT16, 1, 0},       {"f4", MTBAL_FLOAT, 0.5, -3},
    {"f8", MTBAL_DOUBLE, 1, 0},        {"i1", MTBAL_INT8, 1, 0},
    {"i2", MTBAL_INT16, 1, 0},         {"i4", MTBAL_INT32, 1, 0},
    {"i8", MTBAL_INT64, 1, -12},       {"u1", MTBAL_UINT8, 1, 0},
    {"u2", MTBAL_UINT16, 1, 0},        {"u4", MTBAL_UINT32, 1, 0},
    {"u8", MTBAL_UINT64, 1, 0},        {"big_f4", MTBAL_FLOAT, 0.5, -3},
    {"big_i2", MTBAL_INT16, 1, -12},   {"fortran", MTBAL_DOUBLE, 1, 0},
    {"fortran_u1", MTBAL_UINT8, 1, 0},
};
enum { NRAMPS = sizeof ramps / sizeof *ramps };

static void check_numpy_file(const char *path)
{
    mtbal_npz *npz = must_read(path);
    ck_assert_int_eq(npz->count, 26);
    for (int k = 0; k < NRAMPS; k++) {
        const mtbal_array *a = must_find(npz, ramps[k].name, ramps[k].dtype);
        ck_assert_int_eq(a->rank, 3);
        ck_assert(a->dims[0] == 2 && a->dims[1] == 3 && a->dims[2] == 4 && a->count == 24);
        ck_assert_uint_eq(a->bytes, 24 * mtbal_dtype_size(a->dtype));
        for (int64_t i = 0; i < 24; i++)
            ck_assert_double_eq(element(a, i), ramps[k].scale * (double)i + ramps[k].shift);
    }
    const mtbal_array *a = must_find(npz, "b1", MTBAL_BOOL);
    for (int i = 0; i < 24; i++)
        ck_assert_int_eq(((const unsigned char *)a->data)[i], i % 3 == 0);
    const float *pair = must_find(npz, "big_c8", MTBAL_COMPLEX64)->data;
    ck_assert(pair[2 * 5] == 5 && pair[2 * 5 + 1] == 10);
    ck_assert_double_eq(((const double *)must_find(npz, "c16", MTBAL_COMPLEX128)->data)[14], 7);
    a = must_find(npz, "scalar", MTBAL_FLOAT);
    ck_assert(a->rank == 0 && a->count == 1 && element(a, 0) == 2.5);
    a = must_find(npz, "empty", MTBAL_FLOAT);
    ck_assert(a->rank == 2 && a->count == 0 && a->bytes == 0 && a->dims[1] == 5);
    a = must_find(npz, "dir/name with space", MTBAL_INT32);
    ck_assert(a->rank == 1 && element(a, 0) == 7);
    const char *const strange[] = {"text", "object", "record"};
    for (int i = 0; i < 3; i++)
        ck_assert_ptr_null(must_find(npz, strange[i], MTBAL_UNDEFINED)->data);
    ck_assert_ptr_null(mtbal_npz_find(npz, "absent"));
    mtbal_npz_free(npz);
}

START_TEST(numpy_stored)
{
    check_numpy_file(DATA "stored.npz");
}
END_TEST

START_TEST(numpy_deflated)
{
    check_numpy_file(DATA "deflated.npz");
}
END_TEST

START_TEST(one_array_alone)
{
    mtbal_npz *npz = must_read(DATA "single.npy");
    const mtbal_array *a = must_find(npz, "single", MTBAL_FLOAT);
    ck_assert_int_eq(npz->count, 1);
    ck_assert_double_eq(element(a, 23), 0.5 * 23 - 3);
    mtbal_npz_free(npz);
}
END_TEST

/* Versions 1 to 3, other spacing, long integers of Python 2, an entry that is no array. */
START_TEST(headers)
{
    mtbal_npz *npz = must_read(DATA "headers.npz");
    ck_assert_int_eq(npz->count, 3);
    const mtbal_array *a = must_find(npz, "v1", MTBAL_INT32);
    ck_assert(a->rank == 2 && a->dims[0] == 2 && a->dims[1] == 3 && element(a, 4) == 4);
    a = must_find(npz, "v2", MTBAL_INT32);
    ck_assert(a->rank == 1 && a->dims[0] == 6);
    a = must_find(npz, "v3", MTBAL_INT32); /* column-major: 0 2 4 / 1 3 5 */
    ck_assert(element(a, 1) == 2 && element(a, 3) == 1);
    mtbal_npz_free(npz);
}
END_TEST

/* ------------------------------------------------------------------ writing */

static mtbal_array like(const mtbal_array *a)
{
    return *a;
}

static void write_and_compare(bool deflate, const char *name)
{
    mtbal_diag diag = {0};
    mtbal_npz *in = must_read(DATA "stored.npz");
    mtbal_array arrays[32];
    int n = 0;
    for (int i = 0; i < in->count; i++)
        if (in->arrays[i].dtype != MTBAL_UNDEFINED)
            arrays[n++] = like(&in->arrays[i]);
    arrays[n] = arrays[0];
    arrays[n].name = "bfloat";
    arrays[n++].dtype = MTBAL_BFLOAT16;
    arrays[n - 1].count = (int64_t)arrays[n - 1].bytes / 2;
    arrays[n - 1].rank = 1;
    arrays[n - 1].dims = &arrays[n - 1].count;
    mtbal_status status = mtbal_npz_write(files_path(name), n, arrays, deflate, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s", diag.what);
    mtbal_npz *out = must_read(files_path(name));
    ck_assert_int_eq(out->count, n);
    for (int i = 0; i < n; i++) {
        const mtbal_array *a = must_find(out, arrays[i].name, arrays[i].dtype);
        ck_assert_int_eq(a->rank, arrays[i].rank);
        ck_assert_uint_eq(a->bytes, arrays[i].bytes);
        for (int k = 0; k < a->rank; k++)
            ck_assert_int_eq(a->dims[k], arrays[i].dims[k]);
        ck_assert(!a->bytes || memcmp(a->data, arrays[i].data, a->bytes) == 0);
    }
    mtbal_npz_free(out);
    mtbal_npz_free(in);
}

START_TEST(written_stored)
{
    write_and_compare(false, "s.npz");
}
END_TEST

/* Same input, same bytes; deflated is smaller. */
START_TEST(written_deflated)
{
    size_t a, b;
    write_and_compare(true, "d1.npz");
    write_and_compare(true, "d2.npz");
    ck_assert(files_equal(files_path("d1.npz"), files_path("d2.npz")));
    write_and_compare(false, "d3.npz");
    free(files_read(files_path("d1.npz"), &a));
    free(files_read(files_path("d3.npz"), &b));
    ck_assert_uint_lt(a, b);
}
END_TEST

/* Pieces of several MB go through zlib in parts. */
START_TEST(large_arrays)
{
    int64_t n = 700001;
    float *data = malloc((size_t)n * sizeof *data);
    mtbal_diag diag = {0};
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(i * 2654435761u % 1000);
    mtbal_array a = {"x", MTBAL_FLOAT, 1, &n, n, (size_t)n * sizeof *data, data};
    for (int deflate = 0; deflate < 2; deflate++) {
        ck_assert_int_eq(mtbal_npz_write(files_path("l.npz"), 1, &a, deflate, &diag), MTBAL_OK);
        mtbal_npz *npz = must_read(files_path("l.npz"));
        ck_assert(memcmp(must_find(npz, "x", MTBAL_FLOAT)->data, data, a.bytes) == 0);
        mtbal_npz_free(npz);
    }
    free(data);
}
END_TEST

START_TEST(unwritable)
{
    mtbal_diag diag = {0};
    mtbal_array a = {"words", MTBAL_STRING, 0, NULL, 1, 0, NULL};
    int before = files_count();
    ck_assert_int_eq(mtbal_npz_write(files_path("u.npz"), 1, &a, false, &diag), MTBAL_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(diag.what, "words"));
    ck_assert_int_eq(files_count(), before);
    diag = (mtbal_diag){0};
    ck_assert_int_eq(mtbal_npz_write(files_path("none/u.npz"), 0, NULL, false, &diag), MTBAL_IO);
}
END_TEST

/* ------------------------------------------------------------------ zip64, by hand */

static void le(wire *w, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++, x >>= 8) {
        unsigned char c = (unsigned char)x;
        wire_raw(w, &c, 1);
    }
}

/* One stored entry whose every number is in zip64 form. crc: of single.npy. */
static wire zip64_file(const unsigned char *npy, size_t size, uint32_t crc)
{
    wire w = {NULL, 0, 0};
    const char *name = "x.npy";
    for (int central = 0; central < 2; central++) {
        size_t start = w.size;
        le(&w, central ? 0x02014b50 : 0x04034b50, 4);
        le(&w, central ? 45 : 0, central ? 2 : 0);
        le(&w, 45, 2);
        le(&w, 0, 8); /* flags, method, time, date */
        le(&w, crc, 4);
        le(&w, 0xffffffff, 4);
        le(&w, 0xffffffff, 4);
        le(&w, strlen(name), 2);
        le(&w, central ? 28 : 20, 2);
        if (central) {
            le(&w, 0, 10);
            le(&w, 0xffffffff, 4);
        }
        wire_raw(&w, name, strlen(name));
        le(&w, 1, 2);
        le(&w, central ? 24 : 16, 2);
        le(&w, size, 8);
        le(&w, size, 8);
        if (!central) {
            wire_raw(&w, npy, size);
            continue;
        }
        le(&w, 0, 8);
        size_t end = w.size;
        le(&w, 0x06064b50, 4);
        le(&w, 44, 8);
        le(&w, 45, 2);
        le(&w, 45, 2);
        le(&w, 0, 8);
        le(&w, 1, 8);
        le(&w, 1, 8);
        le(&w, end - start, 8);
        le(&w, start, 8);
        le(&w, 0x07064b50, 4);
        le(&w, 0, 4);
        le(&w, end, 8);
        le(&w, 1, 4);
        le(&w, 0x06054b50, 4);
        le(&w, 0, 4);
        le(&w, 0xffff, 2);
        le(&w, 0xffff, 2);
        le(&w, 0xffffffff, 4);
        le(&w, 0xffffffff, 4);
        le(&w, 0, 2);
    }
    return w;
}

static uint32_t crc_of(const unsigned char *p, size_t n)
{
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

START_TEST(zip64)
{
    size_t size;
    unsigned char *npy = files_read(DATA "single.npy", &size);
    wire w = zip64_file(npy, size, crc_of(npy, size));
    files_write(files_path("z.npz"), w.data, w.size);
    mtbal_npz *npz = must_read(files_path("z.npz"));
    ck_assert_double_eq(element(must_find(npz, "x", MTBAL_FLOAT), 23), 0.5 * 23 - 3);
    mtbal_npz_free(npz);
    wire_free(&w);
    free(npy);
}
END_TEST

/* ------------------------------------------------------------------ damaged files */

static mtbal_status try_bytes(const unsigned char *bytes, size_t size, mtbal_diag *diag)
{
    mtbal_npz *npz;
    *diag = (mtbal_diag){0};
    files_write(files_path("bad.npz"), bytes, size);
    mtbal_status status = mtbal_npz_read(files_path("bad.npz"), &npz, diag);
    mtbal_npz_free(npz);
    return status;
}

START_TEST(truncated_everywhere)
{
    size_t size;
    mtbal_diag diag;
    unsigned char *bytes = files_read(DATA "headers.npz", &size);
    for (size_t n = 0; n < size; n++) {
        ck_assert_int_eq(try_bytes(bytes, n, &diag), MTBAL_INVALID);
        ck_assert_ptr_nonnull(strstr(diag.where, "bad.npz"));
    }
    ck_assert_int_eq(try_bytes(bytes, size, &diag), MTBAL_OK);
    free(bytes);
}
END_TEST

/* A flipped bit never crashes; one in the stored data is found by the checksum. */
static void flip_everywhere(const char *path)
{
    size_t size;
    mtbal_diag diag;
    int refused = 0;
    unsigned char *bytes = files_read(path, &size);
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= (unsigned char)(1 << i % 8);
        mtbal_status status = try_bytes(bytes, size, &diag);
        ck_assert(status == MTBAL_OK || status == MTBAL_INVALID);
        refused += status != MTBAL_OK;
        bytes[i] ^= (unsigned char)(1 << i % 8);
    }
    ck_assert_int_gt(refused, (int)size / 3);
    free(bytes);
}

START_TEST(flipped_stored)
{
    flip_everywhere(DATA "headers.npz");
}
END_TEST

START_TEST(flipped_deflated)
{
    flip_everywhere(DATA "deflated.npz");
}
END_TEST

START_TEST(wrong_element)
{
    size_t size, at = 0;
    mtbal_diag diag;
    unsigned char *bytes = files_read(DATA "headers.npz", &size);
    while (memcmp(bytes + at, "\4\0\0\0\5\0\0\0", 8) != 0)
        at++;
    bytes[at] = 9;
    ck_assert_int_eq(try_bytes(bytes, size, &diag), MTBAL_INVALID);
    ck_assert_ptr_nonnull(strstr(diag.what, "checksum of the entry v1.npy"));
    free(bytes);
}
END_TEST

static void refused_header(const char *dict, const char *why)
{
    wire w = {NULL, 0, 0};
    mtbal_diag diag;
    wire_raw(&w, "\x93NUMPY\x01", 8);
    le(&w, strlen(dict), 2);
    wire_raw(&w, dict, strlen(dict));
    le(&w, 0, 8);
    ck_assert_msg(try_bytes(w.data, w.size, &diag) == MTBAL_INVALID, "accepted: %s", dict);
    ck_assert_msg(strstr(diag.what, why) && strstr(diag.what, "bad.npz"), "%s: %s", dict,
                  diag.what);
    wire_free(&w);
}

START_TEST(bad_headers)
{
    refused_header("", "broken header");
    refused_header("{'descr': '<f4', 'fortran_order': False}", "broken header");
    refused_header("{'descr': '<f4', 'fortran_order': No, 'shape': (2,)}", "broken header");
    refused_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", "broken header");
    refused_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "broken header");
    refused_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3,)}", "broken header");
    refused_header("{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}", "broken header");
    refused_header("{'descr': [('x', '<f4', 'fortran_order': False, 'shape': (2,)}", "broken");
    refused_header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "need 12 bytes");
    refused_header("{'descr': '<f8', 'fortran_order': True, 'shape': (99999999999, 99999999999)}",
                   "shape");
    refused_header("{'descr': '<f8', 'fortran_order': True, 'shape': (99999999999999999999,)}",
                   "broken header");
}
END_TEST

/* 10 MB of zeros claimed behind a few bytes of deflated data: refused before any of it is
 * allocated. */
START_TEST(impossible_ratio)
{
    size_t size;
    mtbal_diag diag;
    unsigned char *bytes = files_read(DATA "deflated.npz", &size);
    for (size_t i = 0; i + 46 < size; i++)
        if (memcmp(bytes + i, "PK\1\2", 4) == 0)
            memcpy(bytes + i + 24, "\0\0\0\x40", 4);
    ck_assert_int_eq(try_bytes(bytes, size, &diag), MTBAL_INVALID);
    ck_assert_ptr_nonnull(strstr(diag.what, "cannot hold 1073741824 bytes"));
    free(bytes);
}
END_TEST

START_TEST(no_such_file)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz;
    ck_assert_int_eq(mtbal_npz_read(files_path("absent.npz"), &npz, &diag), MTBAL_IO);
    ck_assert_ptr_null(npz);
    ck_assert_ptr_nonnull(strstr(diag.where, "absent.npz"));
    diag = (mtbal_diag){0};
    ck_assert_int_eq(mtbal_npz_read(files_path("."), &npz, &diag), MTBAL_IO);
}
END_TEST

static mtbal_status read_and_write(void *context)
{
    (void)context;
    mtbal_npz *npz;
    MTBAL_TRY(mtbal_npz_read(DATA "headers.npz", &npz, NULL));
    mtbal_status status = mtbal_npz_write(files_path("m.npz"), npz->count, npz->arrays, true, NULL);
    mtbal_npz_free(npz);
    return status;
}

START_TEST(out_of_memory)
{
    ck_assert_int_gt(fail_each_allocation(read_and_write, NULL), 20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("npz");
    TCase *tc = tcase_create("npz");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, numpy_stored);
    tcase_add_test(tc, numpy_deflated);
    tcase_add_test(tc, one_array_alone);
    tcase_add_test(tc, headers);
    tcase_add_test(tc, written_stored);
    tcase_add_test(tc, written_deflated);
    tcase_add_test(tc, large_arrays);
    tcase_add_test(tc, unwritable);
    tcase_add_test(tc, zip64);
    tcase_add_test(tc, truncated_everywhere);
    tcase_add_test(tc, flipped_stored);
    tcase_add_test(tc, flipped_deflated);
    tcase_add_test(tc, wrong_element);
    tcase_add_test(tc, bad_headers);
    tcase_add_test(tc, impossible_ratio);
    tcase_add_test(tc, no_such_file);
    tcase_add_test(tc, out_of_memory);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
