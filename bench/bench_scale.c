/* bench/bench_scale.c: how time and memory grow. Each worst case that was met is a model of size n;
 * a command runs on it at n, 2 n and 4 n, as a process of its own: its processor time and its
 * largest resident memory, both less what a tiny model takes. One that grows by more than its limit
 * where n doubles fails. bench_scale BIN FOLDER [CASE]... : cases whose names hold one of the words
 */
#include "bench/scale.h"
#include "onnxio/onnxio.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINEAR  2.3
#define SORTING 2.6

enum { SIZES = 4, ROUNDS = 2, AGAIN = 4, MOST_SECONDS = 10, SLOW_MS = 1000, ARGUMENTS = 8 };
#define LEAST_MS 25 /* that 4 n takes; shorter times say nothing */
#define LEAST_MB 2

typedef enum kind { REWRITE, RUN } kind;

static const struct scale_case {
    const char *name;
    scale_model *model;
    kind kind; /* what is measured; before a RUN its model is rewritten */
    int n;
    double limit;
    const char *rewrite[ARGUMENTS], *run[ARGUMENTS];
} cases[] = {
    {"nodes in a chain: rewrite", scale_chain, REWRITE, 5000, LINEAR, {"--optimizer", "adam"}, {0}},
    {"nodes in a chain: first step", scale_chain, RUN, 5000, LINEAR, {0}, {"--limit", "1"}},
    {"nodes side by side: rewrite", scale_wide, REWRITE, 5000, LINEAR, {0}, {0}},
    {"nodes side by side: first step", scale_wide, RUN, 5000, LINEAR, {0}, {"--limit", "1"}},
    {"nodes: --emit-c", scale_chain, REWRITE, 5000, LINEAR, {"--emit-c", "FOLDER/c"}, {0}},
    {"RMSNormalization: rewrite", scale_norms, REWRITE, 2500, LINEAR, {0}, {0}},
    {"If: rewrite", scale_branches, REWRITE, 500, LINEAR, {0}, {0}},
    {"If: first step", scale_branches, RUN, 500, LINEAR, {0}, {"--limit", "1"}},
    {"Constant: rewrite", scale_constants, REWRITE, 5000, LINEAR, {0}, {0}},
    {"functions: rewrite", scale_functions, REWRITE, 2000, LINEAR, {0}, {0}},
    {"parameters: rewrite, Adam",
     scale_parameters,
     REWRITE,
     2500,
     LINEAR,
     {"--optimizer", "adam"},
     {0}},
    {"parameters: first step, Adam",
     scale_parameters,
     RUN,
     2500,
     LINEAR,
     {"--optimizer", "adam"},
     {"--limit", "1"}},
    {"parameters: --save",
     scale_parameters,
     RUN,
     2500,
     LINEAR,
     {0},
     {"--limit", "1", "--save", "FOLDER/saved.onnx"}},
    {"parameters: --norm-every 2",
     scale_parameters,
     RUN,
     400,
     LINEAR,
     {0},
     {"--epochs", "200", "--norm-every", "2"}},
    {"BatchNormalization: rewrite", scale_batch_norms, REWRITE, 1000, LINEAR, {0}, {0}},
    {"BatchNormalization: first step", scale_batch_norms, RUN, 500, LINEAR, {0}, {"--limit", "1"}},
    {"operands of Concat: rewrite", scale_concat, REWRITE, 2000, LINEAR, {0}, {0}},
    {"operands of Concat: first step", scale_concat, RUN, 1000, LINEAR, {0}, {"--limit", "1"}},
    {"outputs of Split: rewrite", scale_split, REWRITE, 2000, LINEAR, {0}, {0}},
    {"outputs of Split: first step", scale_split, RUN, 1000, LINEAR, {0}, {"--limit", "1"}},
    {"operands of Sum and Max: rewrite", scale_sum, REWRITE, 2000, LINEAR, {0}, {0}},
    {"operands of Sum and Max: first step", scale_sum, RUN, 1000, LINEAR, {0}, {"--limit", "1"}},
    {"members of a sequence: rewrite", scale_sequence, REWRITE, 2000, LINEAR, {0}, {0}},
    {"members of a sequence: first step", scale_sequence, RUN, 1000, LINEAR, {0}, {"--limit", "1"}},
    {"trips of a Loop: rewrite", scale_loop, REWRITE, 1000, LINEAR, {0}, {0}},
    {"masks: first step", scale_masks, RUN, 250, LINEAR, {0}, {"--limit", "1"}},
    {"sums of symbols: rewrite", scale_symbols, REWRITE, 500, LINEAR, {0}, {0}},
    {"xs of Gradient: rewrite",
     scale_gradients,
     REWRITE,
     2000,
     LINEAR,
     {"--target", "standard"},
     {0}},
    {"TopK, k = n/2: steps", scale_top_k, RUN, 8000, SORTING, {0}, {"--epochs", "10"}},
    {"CumProd: steps", scale_cum_prod, RUN, 10000, LINEAR, {0}, {"--epochs", "20"}},
    {"DFT: steps", scale_dft, RUN, 30720, SORTING, {0}, {"--epochs", "10"}},
    {"Resize, linear: steps", scale_resize, RUN, 500, LINEAR, {0}, {"--epochs", "20"}},
    {"Slice: steps", scale_slice, RUN, 1000, LINEAR, {0}, {"--epochs", "20"}},
    {"Einsum ii->i: steps", scale_diagonal, RUN, 1000, LINEAR, {0}, {"--epochs", "20"}},
};
enum { CASES = sizeof cases / sizeof *cases };

static const char *bin, *folder;

/* ------------------------------------------------------------------ one run */

typedef struct cost {
    double ms, mb;
    bool failed, too_slow;
} cost;

/* A process that does work(context) or executes argv; what it took. */
static cost in_process(int (*work)(const void *), const void *context, const char *const *argv)
{
    struct rusage used;
    int status = -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CPU, &(struct rlimit){MOST_SECONDS, MOST_SECONDS});
        if (work)
            _exit(work(context));
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &used) != child)
        return (cost){.failed = true};
    cost c = {.failed = status != 0, .mb = (double)used.ru_maxrss / 1024};
    c.ms = 1e3 * (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-3 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    c.too_slow = WIFSIGNALED(status) && c.ms > MOST_SECONDS * 900.0;
    return c;
}

static const char *path_of(char path[512], const char *name)
{
    snprintf(path, 512, "%s/%s", folder, name);
    return path;
}

/* A model of the case, and data for it: one sample. */
typedef struct job {
    const struct scale_case *c;
    int n;
} job;

static mtbal_status write_data(const mtbal_model *model, mtbal_diag *diag)
{
    char path[512];
    const mtbal_type *type = &model->graph->inputs[0]->type;
    int64_t dims[2] = {1, type->dims[1].size};
    float *x = malloc((size_t)dims[1] * sizeof *x);
    if (!x)
        return mtbal_no_memory(diag);
    for (int64_t i = 0; i < dims[1]; i++)
        x[i] = (float)((i * 7919 + 13) % 10007) * 1e-4f - 0.5f;
    mtbal_array array = {.name = "x",
                         .dtype = MTBAL_FLOAT,
                         .rank = 2,
                         .dims = dims,
                         .count = dims[1],
                         .bytes = (size_t)dims[1] * sizeof *x,
                         .data = x};
    mtbal_status status = mtbal_npz_write(path_of(path, "x.npz"), 1, &array, false, diag);
    free(x);
    return status;
}

static int make(const void *context)
{
    const job *j = context;
    char *text = NULL, path[512];
    size_t size;
    mtbal_diag diag = {0};
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return 1;
    j->c->model(to, j->n);
    fclose(to);
    mtbal_model *model = mtbal_parse_model(text, &diag);
    bool made = model && mtbal_onnx_write(model, path_of(path, "in.onnx"), &diag) == MTBAL_OK &&
                write_data(model, &diag) == MTBAL_OK;
    if (!made)
        fprintf(stderr, "%s: %s: %s\n", j->c->name, diag.where, diag.what);
    return !made;
}

/* command IN OUT -q ARGUMENTS; FOLDER in them is the folder. */
static cost run_command(const char *command, const char *in, const char *const *first,
                        const char *const *arguments)
{
    char paths[2][512], others[ARGUMENTS][512];
    const char *argv[2 * ARGUMENTS + 4];
    int n = 0;
    snprintf(paths[0], sizeof paths[0], "%s/%s", bin, command);
    argv[n++] = paths[0];
    argv[n++] = path_of(paths[1], in);
    for (int i = 0; first[i]; i++)
        argv[n++] = first[i];
    for (int i = 0; i < ARGUMENTS && arguments[i]; i++) {
        argv[n++] = arguments[i];
        if (!strncmp(arguments[i], "FOLDER/", 7))
            argv[n - 1] = path_of(others[i], arguments[i] + 7);
    }
    argv[n] = NULL;
    return in_process(NULL, NULL, argv);
}

static cost rewrite(const struct scale_case *c)
{
    char step[512];
    const char *first[] = {path_of(step, "step.onnx"), "-q", NULL};
    return run_command("mtbal-rewrite", "in.onnx", first, c->rewrite);
}

static cost train(const struct scale_case *c)
{
    char data[512];
    const char *first[] = {
        "--data", path_of(data, "x.npz"), "--batch", "1", "--threads", "1", "--set", "lr=0", "-q",
        NULL};
    return run_command("mtbal-run", "step.onnx", first, c->run);
}

/* One run at size n; *best holds the least so far. */
static bool measure(const struct scale_case *c, int n, cost *best)
{
    job j = {c, n};
    cost now = in_process(make, &j, NULL);
    if (!now.failed)
        now = rewrite(c);
    if (!now.failed && c->kind == RUN)
        now = train(c);
    if (now.failed) {
        *best = now;
        return false;
    }
    best->ms = fmin(best->ms, now.ms);
    best->mb = fmin(best->mb, now.mb);
    return true;
}

/* ------------------------------------------------------------------ the table */

typedef struct row {
    cost at[SIZES];      /* tiny, n, 2 n, 4 n */
    double time, memory; /* the growth of each doubling, their mean; 0: too little to say */
} row;

static double growth(double tiny, double n, double n4, double least)
{
    if (n4 - tiny < least)
        return 0;
    return sqrt((n4 - tiny) / fmax(n - tiny, least / 16));
}

static void compare(row *r)
{
    const cost *c = r->at;
    r->time = growth(c[0].ms, c[1].ms, c[3].ms, LEAST_MS);
    r->memory = growth(c[0].mb, c[1].mb, c[3].mb, LEAST_MB);
}

static bool too_much(const row *r, double limit)
{
    return r->time > limit || r->memory > limit;
}

/* The sizes in turn, so that what else the machine does meets all of them. */
static bool measure_all(const struct scale_case *c, int rounds, row *r)
{
    for (int round = 0; round < rounds; round++)
        for (int k = 0; k < SIZES; k++) {
            int n = k ? c->n << (k - 1) : c->n / 50;
            if (round > 0 && r->at[k].ms > SLOW_MS)
                continue;
            if (!measure(c, n, &r->at[k])) {
                printf("| %s | %d | %s | | | | FAILED |\n", c->name, n,
                       r->at[k].too_slow ? "takes more than 10 s" : "the command failed");
                return false;
            }
        }
    compare(r);
    return true;
}

/* Noise makes times longer only: measured again where one seems to grow too much. */
static bool judge(const struct scale_case *c)
{
    row r = {.at = {{0}}};
    for (int k = 0; k < SIZES; k++)
        r.at[k].ms = r.at[k].mb = INFINITY;
    for (int again = 0; again == 0 || (again < AGAIN && too_much(&r, c->limit)); again++)
        if (!measure_all(c, ROUNDS, &r))
            return false;
    bool good = !too_much(&r, c->limit);
    printf("| %s | %d | %.0f, %.0f, %.0f | %.1f | %.0f, %.0f, %.0f | %.1f |%s\n", c->name, c->n * 4,
           r.at[1].ms, r.at[2].ms, r.at[3].ms, r.time, r.at[1].mb, r.at[2].mb, r.at[3].mb, r.memory,
           good ? "" : " MORE THAN THE LIMIT");
    return good;
}

static bool is_chosen(const struct scale_case *c, char **words, int n)
{
    for (int i = 0; i < n; i++)
        if (strstr(c->name, words[i]))
            return true;
    return n == 0;
}

int main(int argc, char **argv)
{
    int failed = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_scale BIN FOLDER [CASE]...\n");
        return 2;
    }
    bin = argv[1];
    folder = argv[2];
    printf("| what | largest n | ms at n/4, n/2, n | x | MB | x |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < CASES; i++) {
        if (is_chosen(&cases[i], argv + 3, argc - 3))
            failed += !judge(&cases[i]);
        fflush(stdout);
    }
    printf("\n%d of them grow by more than %g (sorting: %g) where the size doubles\n", failed,
           LINEAR, SORTING);
    return failed > 0;
}
