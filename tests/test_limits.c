/* tests/test_limits.c: files made to hurt, given to the commands themselves: each is refused within
 * a second of processor time and 256 MB, with one message and the right exit code; what lay at the
 * output's place lies there still, and nothing else appears. */
#include "tests/steps.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
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

enum { UNSUPPORTED = 3, BAD = 4, INPUT_OUTPUT = 5, MEGABYTES = 256 };

/* ------------------------------------------------------------------ running a command */

static void limit_child(void)
{
    const struct rlimit memory = {(rlim_t)MEGABYTES << 20, (rlim_t)MEGABYTES << 20};
    const struct rlimit seconds = {1, 2};
    if (SANITIZED)
        return;
    setrlimit(RLIMIT_AS, &memory);
    setrlimit(RLIMIT_CPU, &seconds);
}

/* Exit code, or minus the signal; what it said is in the file "said". */
static int run(const char *const *words)
{
    const char *bin = getenv("BIN");
    char program[1024], said[1024];
    int status;
    snprintf(program, sizeof program, "%s/%s", bin ? bin : "bin", words[0]);
    snprintf(said, sizeof said, "%s", files_path("said"));
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stdout) || !freopen(said, "w", stderr))
            _exit(126);
        limit_child();
        execv(program, (char *const *)(uintptr_t)words);
        _exit(127);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const char old_output[] = "what was there before";

/* Runs the command, whose output must stay as it is. */
static void refused(const char *what, const char *const *words, const char *output, int code,
                    const char *why)
{
    size_t size;
    files_write(output, old_output, sizeof old_output);
    files_write(files_path("said"), "", 0);
    int before = files_count(), found = run(words);
    char *said = (char *)files_read(files_path("said"), &size);
    said[size] = 0;
    ck_assert_msg(found == code, "%s: exit code %d, not %d: %s", what, found, code, said);
    ck_assert_msg(strstr(said, why) != NULL, "%s: '%s' is not in: %s", what, why, said);
    ck_assert_msg(!strncmp(said, words[0], strlen(words[0])), "%s: no message of ours: %s", what,
                  said);
    free(said);
    char *left = (char *)files_read(output, &size);
    ck_assert_msg(size == sizeof old_output && !memcmp(left, old_output, size),
                  "%s: the output was touched", what);
    free(left);
    ck_assert_msg(files_count() == before, "%s: a file was left", what);
}

static void refused_model(const char *what, wire *w, int code, const char *why)
{
    char model[1024], output[1024];
    snprintf(model, sizeof model, "%s", files_path("bad.onnx"));
    snprintf(output, sizeof output, "%s", files_path("out.onnx"));
    files_write(model, w->data, w->size);
    wire_free(w);
    refused(what, (const char *[]){"mtbal-rewrite", model, output, NULL}, output, code, why);
}

static wire bytes_of(const char *text)
{
    mtbal_diag diag = {0};
    wire w = {NULL, 0, 0};
    unsigned char *bytes;
    size_t size;
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    steps_ok(mtbal_onnx_write_bytes(model, &bytes, &size, &diag));
    wire_raw(&w, bytes, size);
    mtbal_free(bytes);
    mtbal_model_free(model);
    return w;
}

static void refused_text(const char *what, const char *text, int code, const char *why)
{
    wire w = bytes_of(text);
    refused_model(what, &w, code, why);
}

/* ------------------------------------------------------------------ models */

#define HEAD "<ir_version: 8, opset_import: [\"\" : 17]>\n"
static const char plain[] =
    HEAD "g (float[n,3] x) => (float loss) <float[3] w = {1, 2, 3}> {\n"
         "  m = Mul (x, w)  s = Sin (m)  loss = ReduceMean <keepdims = 0> (s) }";

START_TEST(truncated_at_every_byte)
{
    wire whole = bytes_of(plain);
    int step = SANITIZED ? 13 : 1;
    for (size_t n = 0; n + 1 < whole.size; n += (size_t)step) {
        char what[64];
        wire part = {NULL, 0, 0};
        wire_raw(&part, whole.data, n);
        snprintf(what, sizeof what, "%zu of %zu bytes", n, whole.size);
        refused_model(what, &part, BAD, "");
    }
    wire_free(&whole);
}
END_TEST

START_TEST(corrupt)
{
    wire w = {NULL, 0, 0};
    wire_raw(&w, "GIF89a, surely no model", 23);
    refused_model("no protobuf", &w, BAD, "");
    w = (wire){NULL, 0, 0};
    wire_raw(&w,
             "\x12\x03"
             "a\0b",
             5);
    refused_model("NUL in a name", &w, BAD, "NUL");
}
END_TEST

START_TEST(no_task)
{
    refused_text("no scalar output",
                 HEAD "g (float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}> {\n"
                      "  y = Mul (x, w) }",
                 BAD, "task");
    refused_text("no parameter", /* a gradient is asked for where there is none */
                 HEAD "g (float[2,3] x) => (float y) { y = ReduceMean <keepdims = 0> (x) }",
                 UNSUPPORTED, "param");
}
END_TEST

/* a = Add (x, b), b = Neg (a) */
START_TEST(cyclic)
{
    wire add = {NULL, 0, 0}, neg = add, extra = add;
    wire_text(&add, 1, "x");
    wire_text(&add, 1, "b");
    wire_text(&add, 2, "a");
    wire_text(&add, 4, "Add");
    wire_text(&neg, 1, "a");
    wire_text(&neg, 2, "b");
    wire_text(&neg, 4, "Neg");
    wire_sub(&extra, 1, &add);
    wire_sub(&extra, 1, &neg);
    wire model = wire_model(&extra);
    refused_model("cycle", &model, BAD, "circle");
}
END_TEST

START_TEST(external)
{
    static const float weights[4] = {1, 2, 3, 4};
    char outside[64] = "/tmp/mtbal-outside-XXXXXX";
    int fd = mkstemp(outside);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, weights, sizeof weights), sizeof weights);
    close(fd);
    files_write(files_path("own.bin"), weights, sizeof weights);
    ck_assert_int_eq(symlink(outside, files_path("symlink.bin")), 0);
    ck_assert_int_eq(link(files_path("own.bin"), files_path("hardlink.bin")), 0);
    const struct {
        const char *location, *offset, *length;
        int code;
        const char *why;
    } cases[] = {
        {"missing.bin", NULL, NULL, INPUT_OUTPUT, "No such file"},
        {"../outside.bin", NULL, NULL, BAD, "leads out"},
        {outside, NULL, NULL, BAD, "absolute"},
        {"symlink.bin", NULL, NULL, BAD, "symbolic link"},
        {"hardlink.bin", NULL, NULL, BAD, "hard link"},
        {"own.bin", "9223372036854775807", "16", BAD, ""},
        {"own.bin", "0", "9223372036854775807", BAD, ""},
        {"own.bin", "8", NULL, BAD, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wire model = wire_external(4, cases[i].location, cases[i].offset, cases[i].length);
        refused_model(cases[i].location, &model, cases[i].code, cases[i].why);
    }
    unlink(outside);
}
END_TEST

START_TEST(nested_and_repeated)
{
    enum { LEVELS = 9000, TIMES = 100000 };
    size_t capacity = LEVELS * 8, at = capacity;
    unsigned char *buffer = malloc(capacity);
    const unsigned fields[] = {1, 5, 6}; /* node, attribute, graph */
    for (int i = LEVELS - 1; i >= 0; i--) {
        wire head = {NULL, 0, 0};
        wire_varint(&head, (uint64_t)fields[i % 3] << 3 | 2);
        wire_varint(&head, capacity - at);
        at -= head.size;
        memcpy(buffer + at, head.data, head.size);
        wire_free(&head);
    }
    wire model = {NULL, 0, 0};
    wire_bytes(&model, 7, buffer + at, capacity - at);
    free(buffer);
    refused_model("9,000 levels", &model, BAD, "deeper");
    model = wire_model(NULL);
    for (int i = 0; i < TIMES; i++)
        wire_text(&model, 7, "\x12\x01g");
    refused_model("100,000 graphs", &model, BAD, "twice");
}
END_TEST

/* Function f<i> of domain "d" calls f<callee> `calls` times. */
static void add_function(wire *model, int i, int callee, int calls)
{
    wire f = {NULL, 0, 0}, opset = f;
    char name[16], called[16], in[16], out[16];
    snprintf(name, sizeof name, "f%d", i);
    snprintf(called, sizeof called, "f%d", callee);
    wire_text(&f, 1, name);
    wire_text(&f, 4, "v0");
    snprintf(out, sizeof out, "v%d", calls);
    wire_text(&f, 5, out);
    for (int k = 0; k < calls; k++) {
        wire node = {NULL, 0, 0};
        snprintf(in, sizeof in, "v%d", k);
        snprintf(out, sizeof out, "v%d", k + 1);
        wire_text(&node, 1, in);
        wire_text(&node, 2, out);
        wire_text(&node, 4, callee >= 0 ? called : "Neg");
        if (callee >= 0)
            wire_text(&node, 7, "d");
        wire_sub(&f, 7, &node);
    }
    wire_int(&opset, 2, 17);
    wire_sub(&f, 9, &opset);
    opset = (wire){NULL, 0, 0};
    wire_text(&opset, 1, "d");
    wire_int(&opset, 2, 1);
    wire_sub(&f, 9, &opset);
    wire_text(&f, 10, "d");
    wire_sub(model, 25, &f);
}

static wire calling(int function)
{
    wire node = {NULL, 0, 0}, extra = node, opset = node;
    char name[16];
    snprintf(name, sizeof name, "f%d", function);
    wire_text(&node, 1, "x");
    wire_text(&node, 2, "called");
    wire_text(&node, 4, name);
    wire_text(&node, 7, "d");
    wire_sub(&extra, 1, &node);
    wire model = wire_model(&extra);
    wire_text(&opset, 1, "d");
    wire_int(&opset, 2, 1);
    wire_sub(&model, 8, &opset);
    return model;
}

START_TEST(functions)
{
    enum { DEPTH = 10, CALLS = 10 };
    wire model = calling(DEPTH);
    for (int i = 0; i <= DEPTH; i++)
        add_function(&model, i, i - 1, CALLS);
    refused_model("10^11 nodes", &model, BAD, "more than");
    model = calling(0);
    add_function(&model, 0, 0, 1);
    refused_model("a function that calls itself", &model, BAD, "itself");
    model = calling(0);
    add_function(&model, 0, 1, 1);
    add_function(&model, 1, 0, 1);
    refused_model("two that call each other", &model, BAD, "itself");
}
END_TEST

START_TEST(numbers)
{
    wire tensor = {NULL, 0, 0}, extra = tensor;
    wire_text(&tensor, 8, "w");
    for (int i = 0; i < 5; i++)
        wire_int(&tensor, 1, (uint64_t)1 << 32);
    wire_int(&tensor, 2, MTBAL_FLOAT);
    wire_sub(&extra, 5, &tensor);
    wire model = wire_model(&extra);
    refused_model("2^160 elements", &model, BAD, "elements");
    /* a shape that overflows when it is computed; a quotient that does */
    refused_text("a reshape to 2^120",
                 HEAD "g (float[n,3] x) => (float loss) <float[3] w = {1, 2, 3}, int64[2] s = "
                      "{1152921504606846976, 1152921504606846976}> {\n"
                      "  e = Expand (w, s)  loss = ReduceMean <keepdims = 0> (e) }",
                 BAD, "");
}
END_TEST

/* ------------------------------------------------------------------ data of mtbal-run */

static void written(const char *path, const char *text)
{
    wire w = bytes_of(text);
    files_write(path, w.data, w.size);
    wire_free(&w);
}

static mtbal_array array_of(const char *name, mtbal_dtype dtype, int64_t rows, int64_t columns,
                            const void *data)
{
    static int64_t dims[8][2];
    static int used;
    int64_t *d = dims[used++ % 8];
    d[0] = rows;
    d[1] = columns;
    return (mtbal_array){.name = name,
                         .dtype = dtype,
                         .rank = 2,
                         .dims = d,
                         .count = rows * columns,
                         .bytes = (size_t)(rows * columns) * mtbal_dtype_size(dtype),
                         .data = (void *)(uintptr_t)data};
}

static void refused_data(const char *what, const char *data, int code, const char *why)
{
    char step[1024], output[1024], path[1024];
    snprintf(step, sizeof step, "%s", files_path("step.onnx"));
    snprintf(output, sizeof output, "%s", files_path("trained.onnx"));
    snprintf(path, sizeof path, "%s", files_path(data));
    refused(what,
            (const char *[]){"mtbal-run", step, "--data", path, "--threads", "1", "--save", output,
                             NULL},
            output, code, why);
}

START_TEST(data)
{
    static const double numbers[64];
    mtbal_diag diag = {0};
    mtbal_options o;
    size_t size;
    mtbal_options_default(&o);
    steps_write(steps_parse(plain), &o, files_path("step.onnx"));
    mtbal_array good = array_of("x", MTBAL_FLOAT, 4, 3, numbers);
    mtbal_array wide = array_of("x", MTBAL_FLOAT, 4, 5, numbers);
    mtbal_array other = array_of("z", MTBAL_FLOAT, 4, 3, numbers);
    mtbal_array twice = array_of("x", MTBAL_DOUBLE, 4, 3, numbers);
    steps_ok(mtbal_npz_write(files_path("wide.npz"), 1, &wide, false, &diag));
    steps_ok(mtbal_npz_write(files_path("other.npz"), 1, &other, false, &diag));
    steps_ok(mtbal_npz_write(files_path("double.npz"), 1, &twice, false, &diag));
    steps_ok(mtbal_npz_write(files_path("good.npz"), 1, &good, false, &diag));
    unsigned char *bytes = files_read(files_path("good.npz"), &size);
    for (size_t n = 0; n < size; n += SANITIZED ? 17 : 3) {
        files_write(files_path("cut.npz"), bytes, n);
        refused_data("a cut npz", "cut.npz", BAD, "");
    }
    free(bytes);
    refused_data("another width", "wide.npz", BAD, "x");
    refused_data("no array of the input", "other.npz", BAD, "no array");
    refused_data("another type", "double.npz", BAD, "double");
    refused_data("no file", "none.npz", INPUT_OUTPUT, "No such file");
}
END_TEST

/* Divisions that trap on some processors: the smallest number by -1 wraps; by 0 the run fails. */
START_TEST(division)
{
    static const int64_t least[2] = {INT64_MIN, 5}, minus[2] = {-1, 1};
    static const int64_t zero[2] = {-1, 0};
    const char *text = HEAD "g (int64[1,2] a, int64[1,2] b) => (int64[1,2] q, int64[1,2] r) {\n"
                            "  q = Div (a, b)  r = Mod (a, b) }";
    const char *folded =
        HEAD "g (float[3] x) => (float loss) <float[3] w = {1, 2, 3}, int64[2] a = "
             "{-9223372036854775808, 5}, int64[2] b = {-1, 1}> {\n"
             "  q = Div (a, b)  r = Mod (a, b)  s = Add (q, r)  f = Cast <to = 1> (s)\n"
             "  t = ReduceMean (f)  m = Mul (w, x)  v = Mul (m, t)\n"
             "  loss = ReduceMean <keepdims = 0> (v) }";
    mtbal_diag diag = {0};
    char model[1024], numbers[1024], step[1024];
    snprintf(model, sizeof model, "%s", files_path("division.onnx"));
    snprintf(numbers, sizeof numbers, "%s", files_path("division.npz"));
    snprintf(step, sizeof step, "%s", files_path("division_step.onnx"));
    mtbal_array in[2] = {array_of("a", MTBAL_INT64, 1, 2, least),
                         array_of("b", MTBAL_INT64, 1, 2, minus)};
    steps_ok(mtbal_npz_write(numbers, 2, in, false, &diag));
    written(model, text);
    ck_assert_int_eq(
        run((const char *[]){"mtbal-run", model, "--inputs", numbers, "--threads", "1", NULL}), 0);
    in[1] = array_of("b", MTBAL_INT64, 1, 2, zero);
    steps_ok(mtbal_npz_write(numbers, 2, in, false, &diag));
    ck_assert_int_eq(
        run((const char *[]){"mtbal-run", model, "--inputs", numbers, "--threads", "1", NULL}),
        BAD);
    written(model, folded);
    ck_assert_int_eq(run((const char *[]){"mtbal-rewrite", model, step, NULL}), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *tests = tcase_create("bad input");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, truncated_at_every_byte);
    tcase_add_test(tests, corrupt);
    tcase_add_test(tests, no_task);
    tcase_add_test(tests, cyclic);
    tcase_add_test(tests, external);
    tcase_add_test(tests, nested_and_repeated);
    tcase_add_test(tests, functions);
    tcase_add_test(tests, numbers);
    tcase_add_test(tests, data);
    tcase_add_test(tests, division);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
