/* tests/test_hostile.c: files made to hurt. Each is refused within a second and 256 MB, with a
 * message that says where and what, and the right status. */
#include "tests/files.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void refused(const char *path, mtbal_status expected, const char *why)
{
    mtbal_diag diag = {0};
    mtbal_model *model;
    double start = seconds();
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    double took = seconds() - start;
    ck_assert_msg(status == expected, "%s: status %d (%s)", path, status, diag.what);
    ck_assert_ptr_null(model);
    ck_assert_msg(strstr(diag.what, why) != NULL, "%s: %s", path, diag.what);
    ck_assert_int_eq(diag.status, expected);
    ck_assert_msg(diag.where[0] != 0, "no place: %s", diag.what);
    ck_assert_msg(took < (SANITIZED ? 10 : 1), "%s took %.1f s", path, took);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    ck_assert_msg(SANITIZED || usage.ru_maxrss < 256 * 1024, "%ld KB", usage.ru_maxrss);
}

static void refused_bytes(wire *w, mtbal_status expected, const char *why)
{
    const char *path = files_path("hostile.onnx");
    files_write(path, w->data, w->size);
    wire_free(w);
    refused(path, expected, why);
}

/* ------------------------------------------------------------------ depth, counts, sizes */

/* `levels` messages inside of each other, through the given fields in turn, built from the inside
 * in one buffer that is filled from its end. */
static wire nested(int levels, const unsigned *fields, int nfields)
{
    size_t capacity = (size_t)levels * 8 + 16, at = capacity;
    unsigned char *buffer = malloc(capacity);
    for (int i = levels - 1; i >= 0; i--) {
        wire head = {NULL, 0, 0};
        wire_varint(&head, (uint64_t)fields[i % nfields] << 3 | 2);
        wire_varint(&head, capacity - at);
        at -= head.size;
        memcpy(buffer + at, head.data, head.size);
        wire_free(&head);
    }
    wire w = {NULL, 0, 0};
    wire_raw(&w, buffer + at, capacity - at);
    free(buffer);
    return w;
}

START_TEST(deep_graphs)
{
    /* model.graph, then node.attribute.g again and again */
    unsigned fields[] = {1, 5, 6};
    wire inner = nested(9000, fields, 3), model = {NULL, 0, 0};
    wire_sub(&model, 7, &inner);
    refused_bytes(&model, MTBAL_INVALID, "deeper than 100");
}
END_TEST

START_TEST(deep_types)
{
    unsigned fields[] = {4, 1}; /* sequence of sequence of ... */
    wire type = nested(9000, fields, 2), info = {NULL, 0, 0}, extra = info;
    wire_text(&info, 1, "v");
    wire_sub(&info, 2, &type);
    wire_sub(&extra, 13, &info);
    wire model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "deeper than 100");
}
END_TEST

/* The limit itself: 30 graphs inside of each other are nothing special. */
START_TEST(deep_but_legal)
{
    wire graph = {NULL, 0, 0};
    for (int i = 0; i < 30; i++) {
        wire attr = {NULL, 0, 0}, node = attr, outer = attr;
        wire_text(&attr, 1, "body");
        wire_sub(&attr, 6, &graph);
        wire_int(&attr, 20, MTBAL_ATTR_GRAPH);
        wire_text(&node, 4, "Loop");
        wire_sub(&node, 5, &attr);
        wire_sub(&outer, 1, &node);
        graph = outer;
    }
    wire model = wire_model(&graph);
    mtbal_model *m;
    mtbal_diag diag = {0};
    mtbal_status status = mtbal_onnx_read_bytes(model.data, model.size, NULL, &m, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s", diag.what);
    mtbal_model_free(m);
    wire_free(&model);
}
END_TEST

START_TEST(repeated_graph)
{
    wire model = wire_model(NULL);
    for (int i = 0; i < 100000; i++)
        wire_text(&model, 7, "\x12\x01g");
    refused_bytes(&model, MTBAL_INVALID, "occurs twice");
}
END_TEST

START_TEST(repeated_type)
{
    wire info = {NULL, 0, 0}, extra = info;
    wire_text(&info, 1, "v");
    for (int i = 0; i < 100000; i++)
        wire_text(&info, 2, "");
    wire_sub(&extra, 13, &info);
    wire model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "occurs twice");
}
END_TEST

/* Two bytes each, 150 to 270 in memory. */
static void amplified(unsigned field, size_t bytes)
{
    wire extra = {NULL, 0, 0};
    while (extra.size < bytes)
        wire_text(&extra, field, "");
    wire model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "more objects than");
}

START_TEST(empty_nodes)
{
    amplified(1, 20 << 20);
}
END_TEST

START_TEST(empty_initializers)
{
    amplified(5, 20 << 20);
}
END_TEST

START_TEST(empty_value_infos)
{
    amplified(13, 40 << 20);
}
END_TEST

START_TEST(huge_length)
{
    wire model = {NULL, 0, 0};
    wire_varint(&model, 7 << 3 | 2);
    wire_varint(&model, 0x7fffffff);
    wire_text(&model, 1, "abc");
    refused_bytes(&model, MTBAL_INVALID, "truncated or overlong");
}
END_TEST

START_TEST(odd_fields)
{
    const struct {
        const char *bytes;
        size_t size;
        const char *why;
    } cases[] = {
        {"\x00\x01", 2, "field number"},                                      /* field 0 */
        {"\x80\x00\x01", 3, "field number"},                                  /* the same, longer */
        {"\x80\x80\x80\x80\x80\x01", 6, "field number"},                      /* overlong tag */
        {"\x3b\x3c", 2, "group"},                                             /* groups */
        {"\x3e", 1, "wire type"},                                             /* wire type 6 */
        {"\x08", 1, "truncated"},                                             /* no value */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11, "truncated"},    /* 70 bits */
        {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "overlong"}, /* 11 bytes */
        {"\x38\x07", 2, "wire type"},     /* graph as a number */
        {"\x10\x07", 2, "wire type"},     /* text as a number */
        {"\x0d\1\2\3\4", 5, "wire type"}, /* number as 4 bytes */
        {"\x09\1\2\3", 4, "truncated"},   /* of 8 bytes */
        {"\x12\x03"
         "a\0b",
         5, "NUL"},
        {"\x12\x02\xc3\x28", 4, "UTF-8"},
        {"\x12\x03\xed\xa0\x80", 5, "UTF-8"}, /* a surrogate */
        {"\x12\x02\xc0\xaf", 4, "UTF-8"},     /* overlong '/' */
        {"\x12\x04\xf4\x90\x80\x80", 6, "UTF-8"},
        {"GIF89a", 6, ""},
        {"", 0, "empty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wire w = {NULL, 0, 0};
        wire_raw(&w, cases[i].bytes, cases[i].size);
        refused_bytes(&w, MTBAL_INVALID, cases[i].why);
    }
}
END_TEST

/* A file of 3 GB, most of it a hole. */
START_TEST(too_large)
{
    const char *path = files_path("large.onnx");
    files_write(path, "\x08\x08", 2);
    ck_assert_int_eq(truncate(path, (off_t)3 << 30), 0);
    refused(path, MTBAL_INVALID, "at most 2 GB");
}
END_TEST

/* ------------------------------------------------------------------ broken contents */

static void bad_tensor(const char *why, void (*fill)(wire *tensor))
{
    wire tensor = {NULL, 0, 0}, extra = tensor;
    wire_text(&tensor, 8, "w");
    fill(&tensor);
    wire_sub(&extra, 5, &tensor);
    wire model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, why);
}

static void negative_dim(wire *t)
{
    wire_int(t, 1, (uint64_t)-4);
    wire_int(t, 2, MTBAL_FLOAT);
    wire_bytes(t, 9, "0123456789abcdef", 16);
}

static void product_overflow(wire *t)
{
    for (int i = 0; i < 5; i++)
        wire_int(t, 1, (uint64_t)1 << 32);
    wire_int(t, 2, MTBAL_FLOAT);
}

static void bytes_overflow(wire *t)
{
    wire_int(t, 1, (uint64_t)1 << 62);
    wire_int(t, 2, MTBAL_DOUBLE);
}

static void wrap_to_zero(wire *t)
{
    wire_int(t, 1, (uint64_t)1 << 32);
    wire_int(t, 1, (uint64_t)1 << 32);
    wire_int(t, 2, MTBAL_FLOAT);
}

static void too_short(wire *t)
{
    wire_int(t, 1, 4);
    wire_int(t, 2, MTBAL_FLOAT);
    wire_bytes(t, 9, "0123456789abcde", 15);
}

static void too_few(wire *t)
{
    wire_int(t, 1, 3);
    wire_int(t, 2, MTBAL_FLOAT);
    wire_bytes(t, 4, "01234567", 8);
}

static void wrong_field(wire *t)
{
    wire_int(t, 1, 2);
    wire_int(t, 2, MTBAL_DOUBLE);
    wire_bytes(t, 4, "01234567", 8);
}

static void two_fields(wire *t)
{
    wire_int(t, 1, 2);
    wire_int(t, 2, MTBAL_FLOAT);
    wire_bytes(t, 4, "01234567", 8);
    wire_bytes(t, 9, "01234567", 8);
}

static void out_of_range(wire *t)
{
    wire_int(t, 1, 1);
    wire_int(t, 2, MTBAL_UINT8);
    wire_bytes(t, 5, "\x80\x02", 2);
}

static void without_type(wire *t)
{
    wire_int(t, 1, 0);
}

START_TEST(bad_tensors)
{
    bad_tensor("dimension 0 of the tensor is -4", negative_dim);
    bad_tensor("2^63 elements", product_overflow);
    bad_tensor("2^60 bytes", bytes_overflow);
    bad_tensor("2^63 elements", wrap_to_zero);
    bad_tensor("need 16 bytes, there are 15", too_short);
    bad_tensor("need 3 entries, there are 2", too_few);
    bad_tensor("of type double holds float_data", wrong_field);
    bad_tensor("both raw_data and float_data", two_fields);
    bad_tensor("element 0 of the tensor is 256, which is no uint8", out_of_range);
    bad_tensor("without an element type", without_type);
}
END_TEST

static wire second_node(const char *op, const char *input, const char *output)
{
    wire node = {NULL, 0, 0}, extra = node;
    wire_text(&node, 1, input);
    wire_text(&node, 2, output);
    if (op)
        wire_text(&node, 4, op);
    wire_sub(&extra, 1, &node);
    return extra;
}

START_TEST(bad_graphs)
{
    wire extra = second_node("Relu", "x", "y"), model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "second time");
    extra = second_node("Relu", "y", "x");
    model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "second time");
    extra = second_node(NULL, "x", "z");
    model = wire_model(&extra);
    refused_bytes(&model, MTBAL_INVALID, "without an operator");
    model = (wire){NULL, 0, 0};
    wire_int(&model, 1, 8);
    refused_bytes(&model, MTBAL_INVALID, "no graph");
}
END_TEST

/* ------------------------------------------------------------------ external data */

static void write_weights(const char *name)
{
    float weights[4] = {1, 2, 3, 4};
    files_write(files_path(name), weights, sizeof weights);
}

static void refused_external(const char *location, const char *offset, const char *length,
                             mtbal_status status, const char *why)
{
    wire model = wire_external(4, location, offset, length);
    refused_bytes(&model, status, why);
}

START_TEST(external_escapes)
{
    mkdir(files_path("inside"), 0777);
    mkdir(files_path("folder"), 0777);
    write_weights("weights.bin");
    write_weights("inside/weights.bin");
    write_weights("linked.bin");
    ck_assert_int_eq(symlink("weights.bin", files_path("symlink.bin")), 0);
    ck_assert_int_eq(symlink("inside", files_path("linkfolder")), 0);
    ck_assert_int_eq(link(files_path("linked.bin"), files_path("hardlink.bin")), 0);
    refused_external("../weights.bin", NULL, NULL, MTBAL_INVALID, "leads out");
    refused_external("inside/../weights.bin", NULL, NULL, MTBAL_INVALID, "leads out");
    refused_external("inside/../../weights.bin", NULL, NULL, MTBAL_INVALID, "leads out");
    refused_external("inside/..", NULL, NULL, MTBAL_INVALID, "leads out");
    refused_external(files_path("weights.bin"), NULL, NULL, MTBAL_INVALID, "absolute");
    refused_external("/etc/passwd", NULL, NULL, MTBAL_INVALID, "absolute");
    refused_external("symlink.bin", NULL, NULL, MTBAL_INVALID, "symbolic link");
    refused_external("linkfolder/weights.bin", NULL, NULL, MTBAL_INVALID, "symbolic link");
    refused_external("hardlink.bin", NULL, NULL, MTBAL_INVALID, "hard link");
    refused_external("weights.bin/x", NULL, NULL, MTBAL_INVALID, "no folder");
    refused_external("inside", NULL, NULL, MTBAL_INVALID, "not a regular file");
    refused_external("inside/", NULL, NULL, MTBAL_IO, "cannot open");
    refused_external("", NULL, NULL, MTBAL_INVALID, "empty");
    refused_external(NULL, "0", NULL, MTBAL_INVALID, "without a location");
    refused_external("absent.bin", NULL, NULL, MTBAL_IO, "No such file");
}
END_TEST

START_TEST(external_pipe)
{
    ck_assert_int_eq(mkfifo(files_path("pipe.bin"), 0666), 0);
    refused_external("pipe.bin", NULL, NULL, MTBAL_INVALID, "not a regular file");
}
END_TEST

START_TEST(external_ranges)
{
    write_weights("range.bin");
    refused_external("range.bin", "1", NULL, MTBAL_INVALID, "needs 16 bytes, there are 15");
    refused_external("range.bin", "0", "17", MTBAL_INVALID, "beyond the end");
    refused_external("range.bin", "0", "15", MTBAL_INVALID, "needs 16 bytes, there are 15");
    refused_external("range.bin", "17", NULL, MTBAL_INVALID, "beyond the end");
    refused_external("range.bin", "9223372036854775807", "16", MTBAL_INVALID, "beyond the end");
    refused_external("range.bin", "16", "9223372036854775807", MTBAL_INVALID, "beyond the end");
    refused_external("range.bin", "99999999999999999999", "16", MTBAL_INVALID, "no number");
    refused_external("range.bin", "-16", "16", MTBAL_INVALID, "no number");
    refused_external("range.bin", "0x0", "16", MTBAL_INVALID, "no number");
    refused_external("range.bin", "", "16", MTBAL_INVALID, "no number");
}
END_TEST

/* The name of the file is given to another one between reading and use. */
START_TEST(external_swapped)
{
    mtbal_model *model;
    mtbal_diag diag = {0};
    wire w = wire_external(4, "swap.bin", NULL, NULL);
    write_weights("swap.bin");
    files_write(files_path("swap.onnx"), w.data, w.size);
    wire_free(&w);
    ck_assert_int_eq(mtbal_onnx_read(files_path("swap.onnx"), &model, &diag), MTBAL_OK);
    write_weights("other.bin");
    ck_assert_int_eq(rename(files_path("other.bin"), files_path("swap.bin")), 0);
    mtbal_tensor *tensor = model->graph->initializers[0]->tensor;
    ck_assert_int_eq(mtbal_tensor_load(model, tensor, &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.what, "replaced"));
    ck_assert_ptr_null(tensor->data);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ damage everywhere */

static mtbal_status try_bytes(const unsigned char *bytes, size_t size)
{
    mtbal_model *model;
    mtbal_diag diag = {0};
    mtbal_status status = mtbal_onnx_read_bytes(bytes, size, NULL, &model, &diag);
    ck_assert(status == MTBAL_OK || (diag.status == status && diag.what[0]));
    if (status == MTBAL_OK) { /* what was accepted can be checked and written again */
        unsigned char *out;
        size_t n;
        mtbal_verify(model, &diag);
        ck_assert_int_eq(mtbal_onnx_write_bytes(model, &out, &n, NULL), MTBAL_OK);
        mtbal_free(out);
    }
    mtbal_model_free(model);
    return status;
}

static const char *const victims[] = {
    "tests/data/models/fixtures/tied.onnx",
    "tests/data/models/fixtures/control_flow.onnx",
};

START_TEST(truncated_everywhere)
{
    size_t size, accepted = 0;
    unsigned char *bytes = files_read(victims[_i], &size);
    for (size_t n = 0; n < size; n++)
        accepted += try_bytes(bytes, n) == MTBAL_OK;
    ck_assert_uint_le(accepted, 2); /* a cut between the last top-level fields leaves a model */
    ck_assert_int_eq(try_bytes(bytes, size), MTBAL_OK);
    free(bytes);
}
END_TEST

START_TEST(flipped_everywhere)
{
    size_t size, refused_files = 0;
    unsigned char *bytes = files_read(victims[_i], &size);
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit += 7) {
            bytes[i] ^= (unsigned char)(1 << bit);
            mtbal_status status = try_bytes(bytes, size);
            ck_assert(status == MTBAL_OK || status == MTBAL_INVALID);
            refused_files += status != MTBAL_OK;
            bytes[i] ^= (unsigned char)(1 << bit);
        }
    ck_assert_uint_gt(refused_files, size / 4);
    free(bytes);
}
END_TEST

/* Random bytes written over random places. The generator is fixed: xorshift, period 2^64 - 1. */
START_TEST(scrambled)
{
    size_t size;
    uint64_t x = 88172645463325252u;
    unsigned char *original = files_read(victims[_i], &size), *bytes = malloc(size);
    for (int round = 0; round < 4000; round++) {
        memcpy(bytes, original, size);
        for (int k = 0; k < 1 + round % 8; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes[x % size] = (unsigned char)(x >> 56);
        }
        mtbal_status status = try_bytes(bytes, size);
        ck_assert(status == MTBAL_OK || status == MTBAL_INVALID);
    }
    free(bytes);
    free(original);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hostile");
    TCase *tc = tcase_create("hostile");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, deep_graphs);
    tcase_add_test(tc, deep_types);
    tcase_add_test(tc, deep_but_legal);
    tcase_add_test(tc, repeated_graph);
    tcase_add_test(tc, repeated_type);
    tcase_add_test(tc, empty_nodes);
    tcase_add_test(tc, empty_initializers);
    tcase_add_test(tc, empty_value_infos);
    tcase_add_test(tc, huge_length);
    tcase_add_test(tc, odd_fields);
    tcase_add_test(tc, too_large);
    tcase_add_test(tc, bad_tensors);
    tcase_add_test(tc, bad_graphs);
    tcase_add_test(tc, external_escapes);
    tcase_add_test(tc, external_pipe);
    tcase_add_test(tc, external_ranges);
    tcase_add_test(tc, external_swapped);
    tcase_add_loop_test(tc, truncated_everywhere, 0, 2);
    tcase_add_loop_test(tc, flipped_everywhere, 0, 2);
    tcase_add_loop_test(tc, scrambled, 0, 2);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
