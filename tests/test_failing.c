/* tests/test_failing.c: runs that fail, and runs that are told to stop. Data that a kernel cannot
 * work with end the command with exit code 4, a message of node, value, limit and sample, and
 * nothing written, for any number of threads; a signal ends any phase within a second with exit
 * code 6. What the operators allow is ONNX's specification of each. */
#include "lower/plan.h"
#include "tests/steps.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HEAD "<ir_version: 8, opset_import: [\"\" : 17]>\n"

/* ------------------------------------------------------------------ data */

/* An array by its text: "NAME TYPE dims.. : values..", TYPE one of f (float), i (int64), n (int32).
 */
static void add_array(mtbal_array *a, const char *text, int64_t *dims, void *data)
{
    char name[32], type;
    int used = 0;
    ck_assert_int_eq(sscanf(text, "%31s %c%n", name, &type, &used), 2);
    *a = (mtbal_array){.name = strdup(name),
                       .dtype = type == 'f'   ? MTBAL_FLOAT
                                : type == 'i' ? MTBAL_INT64
                                              : MTBAL_INT32,
                       .dims = dims,
                       .count = 1,
                       .data = data};
    char *at = (char *)(uintptr_t)text + used;
    while (*(at += strspn(at, " ")) != ':') {
        dims[a->rank] = strtoll(at, &at, 10);
        a->count *= dims[a->rank++];
    }
    at++;
    for (int64_t i = 0; i < a->count; i++) {
        double x = strtod(at, &at);
        if (type == 'f')
            ((float *)data)[i] = (float)x;
        else if (type == 'i')
            ((int64_t *)data)[i] = (int64_t)x;
        else
            ((int32_t *)data)[i] = (int32_t)x;
    }
    a->bytes = (size_t)a->count * mtbal_dtype_size(a->dtype);
}

enum { ARRAYS = 3, ELEMENTS = 64 };

static void write_arrays(const char *path, const char *const *texts)
{
    static int64_t dims[ARRAYS][RT_MAX_RANK];
    static int64_t data[ARRAYS][ELEMENTS];
    mtbal_array arrays[ARRAYS];
    mtbal_diag diag = {0};
    int n = 0;
    for (; n < ARRAYS && texts[n]; n++)
        add_array(&arrays[n], texts[n], dims[n], data[n]);
    steps_ok(mtbal_npz_write(path, n, arrays, false, &diag));
    for (int i = 0; i < n; i++)
        free((char *)(uintptr_t)arrays[i].name);
}

static void write_model(const char *path, const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    steps_ok(mtbal_onnx_write(model, path, &diag));
    mtbal_model_free(model);
}

typedef struct run_case {
    const char *model, *arrays[ARRAYS];
    const char *says; /* NULL: it runs */
} run_case;

#define X      "float[3,2] x"
#define X_DATA "x f 3 2 : 1 2 3 4 5 6"
static const run_case runs[] = {
    {HEAD "g (" X ", int64[n] i) => (float[n,2] y) { y = Gather (x, i) }",
     {X_DATA, "i i 2 : -3 2"},
     NULL},
    {HEAD "g (" X ", int64[n] i) => (float[n,2] y) { y = Gather (x, i) }",
     {X_DATA, "i i 4 : 0 2 3 9"},
     "node y (Gather): index 3 of an axis of 3, sample 2, array i"},
    {HEAD "g (" X ", int32[n] i) => (float[n,2] y) { [look] y = Gather (x, i) }",
     {X_DATA, "i n 2 : 0 -4"},
     "node look (Gather): index -4 of an axis of 3, sample 1, array i"},
    {HEAD "g (" X ", int64[2] i) => (float[3,2] y) { y = Gather <axis = 1> (x, i) }",
     {X_DATA, "i i 2 : 1 2"},
     "node y (Gather): index 2 of an axis of 2"},
    {HEAD "g (" X ", int64[1,2] i) => (float[1,2] y) { y = GatherElements (x, i) }",
     {X_DATA, "i i 1 2 : 0 1000000000000"},
     "node y (GatherElements): index 1000000000000 of an axis of 3"},
    {HEAD "g (" X ", int64[2,2] i) => (float[2] y) { y = GatherND (x, i) }",
     {X_DATA, "i i 2 2 : 2 1 2 2"},
     "node y (GatherND): index 2 of an axis of 2, sample 1"},
    {HEAD "g (" X ", int64[1,1] i, float[1,1] u) => (float[3,2] y) "
          "{ y = ScatterElements (x, i, u) }",
     {X_DATA, "i i 1 1 : -4", "u f 1 1 : 7"},
     "node y (ScatterElements): index -4 of an axis of 3"},
    {HEAD "g (" X ", int64[1,1] i, float[1,2] u) => (float[3,2] y) { y = ScatterND (x, i, u) }",
     {X_DATA, "i i 1 1 : 3", "u f 1 2 : 7 8"},
     "node y (ScatterND): index 3 of an axis of 3"},
    /* an index outside of OneHot's depth gives a row of the off value */
    {HEAD "g (int64[3] i) => (float[3,2] y) <int64 d = {2}, float[2] v = {0, 1}> "
          "{ y = OneHot (i, d, v) }",
     {"i i 3 : 0 9 -7"},
     NULL},
    {HEAD "g (float[2,3] x, int64[2] i) => (float y) { y = SoftmaxCrossEntropyLoss (x, i) }",
     {"x f 2 3 : 1 2 3 4 5 6", "i i 2 : 0 3"},
     "node y (SoftmaxCrossEntropyLoss): label 3 of 3 classes, sample 1, array i"},
    {HEAD "g (float[2,3] x, int64[2] i) => (float y) "
          "{ y = SoftmaxCrossEntropyLoss <ignore_index = -100> (x, i) }",
     {"x f 2 3 : 1 2 3 4 5 6", "i i 2 : 0 -100"},
     NULL},
    {HEAD "g (float[2,3] x, int64[2] i) => (float y) "
          "{ y = SoftmaxCrossEntropyLoss <ignore_index = -100> (x, i) }",
     {"x f 2 3 : 1 2 3 4 5 6", "i i 2 : -1 -100"},
     "label -1 of 3 classes, sample 0"},
    {HEAD "g (float[2,3] x, int32[2] i) => (float y) { y = NegativeLogLikelihoodLoss (x, i) }",
     {"x f 2 3 : 1 2 3 4 5 6", "i n 2 : 77 0"},
     "node y (NegativeLogLikelihoodLoss): label 77 of 3 classes, sample 0"},
    {HEAD "g (float[3,2] x, int64[2] n) => (float[3,2] y) "
          "{ y = ReverseSequence <time_axis = 0, batch_axis = 1> (x, n) }",
     {X_DATA, "n i 2 : 3 4"},
     "node y (ReverseSequence): length 4 of a sequence of 3 steps"},
    {HEAD "g (float[3,2,1] x, int32[2] n) => (float[3,1,2,1] y) <float[1,4,1] w = {1, 1, 1, 1}, "
          "float[1,4,1] r = {1, 1, 1, 1}> { y = LSTM <hidden_size = 1> (x, w, r, , n) }",
     {"x f 3 2 1 : 1 2 3 4 5 6", "n n 2 : -1 3"},
     "length -1 of a sequence of 3 steps"},
    {HEAD "g (int64[2] a, int64[2] b) => (int64[2] y) { y = Div (a, b) }",
     {"a i 2 : -9223372036854775808 7", "b i 2 : -1 2"},
     NULL},
    {HEAD "g (int32[2] a, int32[2] b) => (int32[2] y) { y = Div (a, b) }",
     {"a n 2 : -2147483648 7", "b n 2 : -1 2"},
     NULL},
    {HEAD "g (int64[2] a, int64[2] b) => (int64[2] y) { y = Div (a, b) }",
     {"a i 2 : 5 7", "b i 2 : 1 0"},
     "node y (Div): an integer divided by 0, sample 1, array b"},
    {HEAD "g (int32[2] a, int32[2] b) => (int32[2] y) { y = Mod (a, b) }",
     {"a n 2 : 5 7", "b n 2 : 0 2"},
     "node y (Mod): an integer divided by 0, sample 0, array b"},
    {HEAD "g (float[2] a, float[2] b) => (float[2] y) { y = Div (a, b) }",
     {"a f 2 : 5 7", "b f 2 : 0 2"},
     NULL},
    {HEAD "g (float[2] a) => (int64[2] y) { y = Cast <to = 7> (a) }", {"a f 2 : 1e30 nan"}, NULL},
    {HEAD "g (float[4] a) => (float[2] y, int64[2] i, int64 j) <int64[1] k = {2}> "
          "{ y, i = TopK (a, k)  j = ArgMax <axis = 0, keepdims = 0> (a) }",
     {"a f 4 : nan 1 nan nan"},
     NULL},
    {HEAD "g (float[1,1,1,1] x, int64[1,1,1,1] i) => (float[1,1,2,2] y) "
          "{ y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i) }",
     {"x f 1 1 1 1 : 1", "i i 1 1 1 1 : 4"},
     ": index 4 of an axis of 4"},
    /* constants: refused while lowering */
    {HEAD
     "g (float[1,2] u) => (float[1,2] y) <float[3,2] x = {1, 2, 3, 4, 5, 6}, int64[1] i = {3}> "
     "{ z = Gather (x, i)  y = Add (z, u) }",
     {"u f 1 2 : 1 2"},
     "node z (Gather): index 3 of an axis of 3"},
};
enum { NRUNS = sizeof runs / sizeof *runs };

START_TEST(a_run_fails)
{
    const run_case *c = &runs[_i];
    int code;
    files_begin();
    write_model(files_path("m.onnx"), c->model);
    write_arrays(files_path("in.npz"), c->arrays);
    char *said = files_run(&code, "$BIN/mtbal-run '%s' --inputs '%s' --outputs '%s' --quiet",
                           files_path("m.onnx"), files_path("in.npz"), files_path("out.npz"));
    ck_assert_msg(code == (c->says ? 4 : 0), "%s: exit code %d: %s", c->model, code, said);
    ck_assert_msg(!c->says || strstr(said, c->says), "'%s' does not say '%s'", said, c->says);
    ck_assert_msg(files_count() == (c->says ? 2 : 3), "%s: what was written?", c->model);
    free(said);
    files_end();
}
END_TEST

/* Constants: refused when the model is rewritten. */
START_TEST(constants_are_refused)
{
    static const struct {
        const char *node, *says;
    } cases[] = {
        {"z = Gather (w, i)", "index 3 of an axis of 3: element 1 of i"},
        {"z = Gather <axis = 1> (w, j)", "index -3 of an axis of 2: element 0 of j"},
        {"z = GatherElements <axis = 1> (w, k)", "index 2 of an axis of 2: element 1 of k"},
        {"z = GatherND (w, k)", "index 2 of an axis of 2: element 1 of k"},
        {"z = ScatterND (w, n, u)", "index 3 of an axis of 3: element 0 of n"},
        {"z = ScatterElements (w, n, one)", "index 3 of an axis of 3: element 0 of n"},
    };
    char text[1024];
    int code;
    files_begin();
    snprintf(text, sizeof text,
             HEAD
             "g (float x) => (float loss) <float[3,2] w = {1, 2, 3, 4, 5, 6}, int64[2] i = {0, "
             "3}, int64[1] j = {-3}, int64[1,2] k = {0, 2}, int64[1,1] n = {3}, float[1,2] u "
             "= {1, 2}, float[1,1] one = {1}> {\n  %s\n  s = ReduceSum <keepdims = 0> (z)\n"
             "  loss = Mul (s, x)\n}",
             cases[_i].node);
    write_model(files_path("m.onnx"), text);
    char *said = files_run(&code, "$BIN/mtbal-rewrite '%s' '%s' --quiet", files_path("m.onnx"),
                           files_path("step.onnx"));
    ck_assert_msg(code == 4 && strstr(said, cases[_i].says), "exit code %d: %s", code, said);
    ck_assert_int_eq(files_count(), 1);
    free(said);
    files_end();
}
END_TEST

/* ------------------------------------------------------------------ a training */

enum { SAMPLES = 64, BAD = 37 };
static const char classifier[] =
    HEAD "g (float[n,2] x, int64[n] label) => (float loss) "
         "<float[2,3] w = {1, 2, 3, 4, 5, 6}> {\n"
         "  h = MatMul (x, w)\n  [ce] loss = SoftmaxCrossEntropyLoss (h, label)\n}\n";

static void write_samples(const char *path, int64_t label)
{
    static float x[SAMPLES][2];
    static int64_t labels[SAMPLES];
    int64_t two[2] = {SAMPLES, 2}, one[1] = {SAMPLES};
    mtbal_array arrays[] = {{"x", MTBAL_FLOAT, 2, two, 2 * SAMPLES, sizeof x, x},
                            {"label", MTBAL_INT64, 1, one, SAMPLES, sizeof labels, labels}};
    mtbal_diag diag = {0};
    for (int i = 0; i < SAMPLES; i++) {
        x[i][0] = (float)(i % 5);
        x[i][1] = (float)(i % 3);
        labels[i] = i == BAD ? label : i % 3;
    }
    steps_ok(mtbal_npz_write(path, 2, arrays, false, &diag));
}

/* The sample is that of the file, whatever the order, the batch and the number of threads. */
START_TEST(a_training_fails)
{
    static const char *const flags[] = {"--batch 8", "--batch 8 --shuffle", "--batch 64 --shuffle",
                                        "--batch 7 --shuffle --seed 3 --threads 3"};
    static const char *const files[] = {"--save", "--report", "--log"};
    int code;
    char outputs[4096] = "";
    files_begin();
    write_model(files_path("m.onnx"), classifier);
    write_samples(files_path("bad.npz"), 5);
    free(files_run(&code, "$BIN/mtbal-rewrite '%s' '%s' --quiet", files_path("m.onnx"),
                   files_path("step.onnx")));
    ck_assert_int_eq(code, 0);
    for (int i = 0; i < 2; i++)
        snprintf(outputs + strlen(outputs), sizeof outputs - strlen(outputs), "%s '%s' ", files[i],
                 files_path(files[i] + 2));
    char *said = files_run(&code, "$BIN/mtbal-run '%s' --data '%s' %s --epochs 2 %s --quiet",
                           files_path("step.onnx"), files_path("bad.npz"), outputs, flags[_i]);
    ck_assert_msg(code == 4 && strstr(said, "node ce (SoftmaxCrossEntropyLoss): label 5 of 3 "
                                            "classes, sample 37, array label"),
                  "%s: exit code %d, %s", flags[_i], code, said);
    ck_assert_int_eq(files_count(), 3);
    free(said);
    files_end();
}
END_TEST

START_TEST(a_calibration_fails)
{
    int code;
    files_begin();
    write_model(files_path("m.onnx"), classifier);
    write_samples(files_path("bad.npz"), -1);
    free(files_run(&code, "$BIN/mtbal-rewrite '%s' '%s' --norm-over all --quiet",
                   files_path("m.onnx"), files_path("step.onnx")));
    ck_assert_int_eq(code, 0);
    char *said =
        files_run(&code, "$BIN/mtbal-calibrate '%s' --data '%s' --batch 8 --window 4 --quiet",
                  files_path("step.onnx"), files_path("bad.npz"));
    ck_assert_msg(code == 4 && strstr(said, "label -1 of 3 classes, sample 37, array label"),
                  "exit code %d, %s", code, said);
    free(said);
    files_end();
}
END_TEST

/* ------------------------------------------------------------------ emitted C */

static void write_npy(const char *path, const char *type, int rank, const int64_t *dims,
                      const void *bytes, size_t size)
{
    char head[128];
    int n = snprintf(head, sizeof head,
                     "\x93NUMPY\x01%c%c%c{'descr': '%s', 'fortran_order': False, "
                     "'shape': (%lld,",
                     0, 118, 0, type, (long long)dims[0]);
    for (int d = 1; d < rank; d++)
        n += snprintf(head + n, sizeof head - (size_t)n, " %lld%s", (long long)dims[d],
                      d + 1 < rank ? "," : "");
    n += snprintf(head + n, sizeof head - (size_t)n, "), }");
    memset(head + n, ' ', sizeof head - (size_t)n);
    head[127] = '\n';
    wire w = {NULL, 0, 0};
    wire_raw(&w, head, sizeof head);
    wire_raw(&w, bytes, size);
    files_write(path, w.data, w.size);
    wire_free(&w);
}

/* The program that is written beside the model, over 64 samples of which one has no class. */
START_TEST(emitted_c_fails)
{
    static float x[SAMPLES][2];
    int64_t labels[SAMPLES] = {0}, dims[2] = {SAMPLES, 2};
    char top[1024];
    int code;
    files_begin();
    snprintf(top, sizeof top, "%s", files_path("c"));
    write_model(files_path("m.onnx"), classifier);
    labels[BAD] = _i ? 2 : 3;
    write_npy(files_path("x.npy"), "<f4", 2, dims, x, sizeof x);
    write_npy(files_path("label.npy"), "<i8", 1, dims, labels, sizeof labels);
    char *said = files_run(&code,
                           "$BIN/mtbal-rewrite '%s' '%s' --emit-c '%s' --batch 8 --quiet && "
                           "make -s -C '%s' CFLAGS='-O1 -Wall -Wextra -Werror'",
                           files_path("m.onnx"), files_path("step.onnx"), top, top);
    ck_assert_msg(code == 0, "%s", said);
    free(said);
    said = files_run(
        &code, "cd '%s' && ./model x=../x.npy label=../label.npy --save s --out loss=y.npy", top);
    ck_assert_msg(code == (_i ? 0 : 4), "exit code %d: %s", code, said);
    ck_assert_msg(_i || strstr(said, "step 4: node ce (SoftmaxCrossEntropyLoss): label 3 of 3 "
                                     "classes, element 5 of 8"),
                  "%s", said);
    ck_assert_msg(_i || strstr(said, "sample 37 of label"), "%s", said);
    ck_assert_int_eq(access(files_path("c/s"), F_OK) == 0, _i);
    ck_assert_int_eq(access(files_path("c/y.npy"), F_OK) == 0, _i);
    free(said);
    free(files_run(&code, "cd '%s' && timeout 1 ./model x=../x.npy label=../x.npy --quiet", top));
    ck_assert_int_eq(code, 2);
    if (_i) { /* ended between two steps */
        free(files_run(&code,
                       "cd '%s' && { ./model x=../x.npy label=../label.npy --steps "
                       "1000000000 --quiet & p=$!; sleep 0.5; kill -TERM $p; wait $p; }",
                       top));
        ck_assert_int_eq(code, 6);
    }
    free(files_run(&code, "rm -rf '%s'", top));
    files_end();
}
END_TEST

/* ------------------------------------------------------------------ signals */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_for(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

/* Starts the command, which never ends by itself in this time, and sends the signal; how long it
 * took to end. */
static double end_by(int signal, double after, int *code, const char *const *words)
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
        execv(program, (char *const *)(uintptr_t)words);
        _exit(127);
    }
    wait_for(after);
    ck_assert_msg(waitpid(child, &status, WNOHANG) == 0, "it ended by itself");
    double sent = now();
    kill(child, signal);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return now() - sent;
}

static void must_end(int signal, double after, const char *const *words)
{
    int code, files = files_count();
    size_t size;
    files_write(files_path("said"), "", 0);
    double took = end_by(signal, after, &code, words);
    char *said = (char *)files_read(files_path("said"), &size);
    said[size] = 0;
    ck_assert_msg(code == 6 && strstr(said, "interrupted"), "exit code %d: %s", code, said);
    ck_assert_msg(took < 1, "it took %.2f s", took);
    ck_assert_msg(files_count() == files + 1, "a file was left");
    free(said);
}

static const char endless[] =
    HEAD "g (float[1] x) => (float[1] y) <bool yes = {1}> {\n"
         "  y = Loop (, yes, x) <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] e) {\n"
         "    d = Identity (c)\n    e = Mul (a, a)\n  }>\n}\n";
static const char large[] =
    HEAD "g (float[1] x) => (float y) <int64[2] size = {6000, 6000}> {\n"
         "  a = Expand (x, size)\n  b = MatMul (a, a)\n  c = MatMul (b, a)\n"
         "  y = ReduceSum <keepdims = 0> (c)\n}\n";

/* A model in which one step never ends, or takes long. */
START_TEST(inside_of_a_step)
{
    static const struct {
        const char *model, *threads;
        int signal;
    } cases[] = {{endless, "1", SIGTERM},
                 {endless, "2", SIGINT},
                 {large, "1", SIGTERM},
                 {large, "2", SIGTERM}};
    char model[1024], data[1024], out[1024];
    files_begin();
    snprintf(model, sizeof model, "%s", files_path("m.onnx"));
    snprintf(data, sizeof data, "%s", files_path("in.npz"));
    snprintf(out, sizeof out, "%s", files_path("out.npz"));
    write_model(model, cases[_i].model);
    write_arrays(data, (const char *const[]){"x f 1 : 1", NULL, NULL});
    must_end(cases[_i].signal, 0.5,
             (const char *[]){"mtbal-run", model, "--inputs", data, "--outputs", out, "--threads",
                              cases[_i].threads, NULL});
    files_end();
}
END_TEST

/* A rewrite of so many nodes that it takes seconds. */
START_TEST(a_long_rewrite)
{
    enum { NODES = 150000 };
    char in[1024], out[1024];
    size_t size;
    char *text = NULL;
    FILE *to = open_memstream(&text, &size);
    files_begin();
    fputs(HEAD "g (float[4] x) => (float y) <float[4] w = {1, 2, 3, 4}> {\n  v0 = Mul (x, w)\n",
          to);
    for (int i = 1; i < NODES; i++)
        fprintf(to, "  v%d = Mul (v%d, w)\n", i, i - 1);
    fprintf(to, "  y = ReduceSum <keepdims = 0> (v%d)\n}\n", NODES - 1);
    fclose(to);
    snprintf(in, sizeof in, "%s", files_path("m.onnx"));
    snprintf(out, sizeof out, "%s", files_path("out.onnx"));
    write_model(in, text);
    free(text);
    must_end(SIGTERM, 0.2 + 0.3 * _i, (const char *[]){"mtbal-rewrite", in, out, "--quiet", NULL});
    files_end();
}
END_TEST

/* A calibration: with a checkpoint, from which it could go on. */
START_TEST(a_calibration)
{
    static const mtbal_options unset;
    char step[1024], data[1024];
    mtbal_options options = unset;
    char *text = steps_network(3, 1);
    files_begin();
    snprintf(step, sizeof step, "%s", files_path("step.onnx"));
    snprintf(data, sizeof data, "%s", files_path("net.npz"));
    mtbal_options_default(&options);
    steps_write(steps_parse(text), &options, step);
    steps_network_data(data, 4096, 1, 1, false);
    free(text);
    int code;
    double took = end_by(_i ? SIGINT : SIGTERM, 0.5, &code,
                         (const char *[]){"mtbal-calibrate", step, "--data", data, "--batch", "8",
                                          "--max-epochs", "10000", "--patience", "10000", "--quiet",
                                          "--jobs", _i ? "2" : "1", NULL});
    ck_assert_int_eq(code, 6);
    ck_assert_msg(took < 1, "it took %.2f s", took);
    ck_assert(access(files_path("step.onnx.checkpoint"), F_OK) == 0);
    files_end();
}
END_TEST

/* Steps that take longer than a second: the one that is interrupted counts as not begun, and the
 * result is that of a run without interruption. */
START_TEST(a_long_training_step)
{
    static const char long_step[] =
        HEAD "g (float[1] x) => (float loss) <float[1] w = {2}, int64[2] size = {2500, 2500}> {\n"
             "  v = Mul (x, w)\n  a = Expand (v, size)\n  b = MatMul (a, a)\n"
             "  c = MatMul (b, a)\n  s = ReduceMean <keepdims = 0> (c)\n"
             "  t = Sub (s, s)\n  u = ReduceSum <keepdims = 0> (v)\n  loss = Add (t, u)\n}\n";
    char step[1024], data[1024], out[1024], wanted[1024];
    int code;
    files_begin();
    snprintf(step, sizeof step, "%s", files_path("step.onnx"));
    snprintf(data, sizeof data, "%s", files_path("in.npz"));
    snprintf(out, sizeof out, "%s", files_path("out.onnx"));
    snprintf(wanted, sizeof wanted, "%s", files_path("wanted.onnx"));
    write_model(files_path("m.onnx"), long_step);
    write_arrays(data, (const char *const[]){"x f 4 : 0.1 0.2 0.3 0.4", NULL, NULL});
    free(files_run(&code, "$BIN/mtbal-rewrite '%s' '%s' --norm-over all --quiet",
                   files_path("m.onnx"), step));
    ck_assert_int_eq(code, 0);
    const char *words[] = {"mtbal-run", step,    "--data",   data,      "--batch", "1", "--save",
                           out,         "--set", "lr=0.001", "--quiet", NULL,      NULL};
    double took = end_by(SIGTERM, 0.7, &code, words);
    ck_assert_msg(code == 6 && took < 1, "exit code %d, %.2f s", code, took);
    ck_assert(access(files_path("out.onnx.checkpoint"), F_OK) == 0);
    free(files_run(&code,
                   "$BIN/mtbal-run '%s' --data '%s' --batch 1 --save '%s' --set lr=0.001 "
                   "--quiet --resume",
                   step, data, out));
    ck_assert_int_eq(code, 0);
    free(files_run(&code,
                   "$BIN/mtbal-run '%s' --data '%s' --batch 1 --save '%s' --set lr=0.001 "
                   "--quiet",
                   step, data, wanted));
    ck_assert_int_eq(code, 0);
    ck_assert_msg(files_equal(out, wanted), "other bits than without the interruption");
    files_end();
}
END_TEST

/* ------------------------------------------------------------------ bounds under AddressSanitizer
 */

/* A call that reads one element beyond its operand, which lies in the middle of a region, is
 * reported, and the same call within it is not. */
START_TEST(an_overrun_is_caught)
{
    static const char *const models[] = {
        /* an input; in the arena */
        HEAD "g (float[4,4] x, float[4,4] z) => (float[4,2] y, float[4,4] u) <int64[1] b = {2}, "
             "int64[1] e = {4}, int64[1] a = {1}> {\n"
             "  u = Add (x, z)\n  y = Slice (x, b, e, a)\n}",
        HEAD "g (float[4,4] x) => (float[4,2] y, float[4,4] u) <int64[1] b = {2}, "
             "int64[1] e = {4}, int64[1] a = {1}> {\n"
             "  s = Softmax (x)\n  t = Softmax (s)\n  v = Softmax (t)\n"
             "  y = Slice (s, b, e, a)\n  u = Mul (v, s)\n}",
    };
    const bool beyond = _i % 2;
    mtbal_diag diag = {0};
    mtbal_plan *plan;
    mtbal_instance *instance;
    char said[1024];
    size_t size;
    int status;
    files_begin();
    snprintf(said, sizeof said, "%s", files_path("said"));
    mtbal_model *model = steps_parse(models[_i / 2]);
    mtbal_lower_options options = {.noutputs = -1};
    steps_ok(mtbal_lower(model, &options, &plan, &diag));
    rt_strided_attr *slice = NULL;
    for (int i = 0; i < plan->ncalls; i++)
        if (plan->calls[i].kernel == RT_KERNEL_strided)
            slice = (rt_strided_attr *)(uintptr_t)plan->calls[i].attr;
    ck_assert(slice != NULL);
    ck_assert_int_eq(slice->offset, 2);
    slice->offset += beyond;
    steps_ok(mtbal_instance_new(plan, 1, &instance, &diag));
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        _exit(!freopen(said, "w", stderr) || mtbal_instance_run(instance, 0) != MTBAL_OK);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    char *text = (char *)files_read(said, &size);
    text[size] = 0;
    if (RT_SANITIZED && beyond)
        ck_assert_msg(status != 0 && strstr(text, "use-after-poison"), "not caught: %s", text);
    else
        ck_assert_msg(status == 0, "%s", text);
    free(text);
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
    files_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("failing");
    TCase *tests = tcase_create("data"), *signals = tcase_create("signals");
    tcase_set_timeout(tests, 120);
    tcase_set_timeout(signals, 240);
    tcase_add_loop_test(tests, a_run_fails, 0, NRUNS);
    tcase_add_loop_test(tests, constants_are_refused, 0, 6);
    tcase_add_loop_test(tests, a_training_fails, 0, 4);
    tcase_add_test(tests, a_calibration_fails);
    tcase_add_loop_test(tests, emitted_c_fails, 0, 2);
    tcase_add_loop_test(signals, inside_of_a_step, 0, 4);
    tcase_add_loop_test(signals, a_long_rewrite, 0, 3);
    tcase_add_loop_test(signals, a_calibration, 0, 2);
    tcase_add_test(signals, a_long_training_step);
    tcase_add_loop_test(tests, an_overrun_is_caught, 0, 4);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, signals);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
