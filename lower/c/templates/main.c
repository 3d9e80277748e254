/* main.c: runs the network over .npy files, one per input, and prints its scalar outputs: losses,
 * norms, weights. */
#include "model.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: model INPUT=FILE.npy ... [options]\n"
    "  a file holds one run's input, or samples along the first axis, taken a batch at a time\n"
    "  --steps N        runs (default: once over the data)\n"
    "  --set NAME=X     fills an input or a state with a number; lr stands for mtbal/lr\n"
    "  --seed N         of random operators (default 0)\n"
    "  --load F, --save F    all states, as bytes\n"
    "  --out NAME=F.npy      writes an output of the last run, or a state\n"
    "  --weights F      where the stored weights are (default weights.bin), if not compiled in\n"
    "  --cpu N          0 portable, 1 AVX2, 2 AVX-512, where there is a choice\n"
    "  --quiet          prints the last run only\n"
    "exit codes: 0 done; 2 usage or files; 4 data that the network cannot work with, nothing is\n"
    "  written; 6 ended by SIGINT or SIGTERM after a whole step, what was asked for is written\n";

/* An input's samples. */
typedef struct feed {
    const model_port *port;
    unsigned char *bytes;
    size_t runs; /* how many different runs they are good for */
} feed;

/* Options with a value, kept as text. */
enum { STEPS, SEED, CPU, LOAD, SAVE, WEIGHTS, NTEXTS };
static const char *const text_names[NTEXTS] = {"--steps", "--seed", "--cpu",
                                               "--load",  "--save", "--weights"};

typedef struct args {
    const char *text[NTEXTS];
    int quiet, nfeeds;
    feed feeds[MODEL_INPUTS + 1];
    unsigned char given[MODEL_INPUTS + 1]; /* by a file or a --set */
} args;

static model m;

/* The first SIGINT or SIGTERM ends the program after the step that it is in; the second at once. */
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    stop = 1;
    signal(number, SIG_DFL);
}

static const rt_tensor *shape(const model_port *p)
{
    return &model_shapes[p->shape];
}

static void fail(const char *where, const char *what)
{
    fprintf(stderr, "model: %s: %s\n", where, what);
    exit(2);
}

/* ------------------------------------------------------------------ files */

/* The bytes of a file; *size of them. */
static unsigned char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long length = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    unsigned char *bytes = length < 0 ? NULL : (unsigned char *)malloc((size_t)length + 1);
    if (!bytes || fseek(file, 0, SEEK_SET) != 0 ||
        fread(bytes, 1, (size_t)length, file) != (size_t)length)
        fail(path, "cannot be read");
    fclose(file);
    bytes[length] = 0;
    *size = (size_t)length;
    return bytes;
}

static void write_file(const char *path, const char *head, size_t length, const void *bytes,
                       size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(head, 1, length, file) != length || fwrite(bytes, 1, size, file) != size ||
        fclose(file) != 0)
        fail(path, "cannot be written");
}

/* By rt_dtype: what .npy calls the type. */
static const char *npy_type(int dtype)
{
    static const char *const names[] = {"",    "<f4", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "",
                                        "|b1", "<f2", "<f8", "<u4", "<u8", "",    "",    "<u2"};
    return names[dtype];
}

/* "(2, 3)" */
static void shape_text(char *to, size_t room, int rank, const int64_t *dims)
{
    size_t n = (size_t)snprintf(to, room, "(");
    for (int d = 0; d < rank; d++)
        n += (size_t)snprintf(to + n, room - n, d ? ", %lld" : "%lld", (long long)dims[d]);
    snprintf(to + n, room - n, rank == 1 ? ",)" : ")");
}

/* An array of the port's type and shape, or of more samples along the first axis. */
static void read_npy(const char *path, feed *f)
{
    const model_port *p = f->port;
    size_t size, head = 0;
    unsigned char *bytes = read_file(path, &size);
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6))
        fail(path, "is no .npy file");
    head = bytes[6] < 2 ? 10u + bytes[8] + 256u * bytes[9]
                        : 12u + bytes[8] + 256u * bytes[9] + 65536u * bytes[10];
    if (head > size)
        fail(path, "is cut off");
    unsigned char first = bytes[head];
    bytes[head] = 0;
    const char *text = (const char *)bytes + 10, *at = strstr(text, "'shape': (");
    if (!strstr(text, npy_type(shape(p)->dtype)) || !strstr(text, "False") || !at)
        fail(path, "holds another type than the input, or is in Fortran order");
    int rank = 0;
    int64_t dims[RT_MAX_RANK] = {0};
    at += 10;
    while (*at != ')' && rank < RT_MAX_RANK) {
        char *end;
        dims[rank++] = strtoll(at, &end, 10);
        at = end + strspn(end, ", ");
    }
    bytes[head] = first;
    const int64_t *want = shape(p)->dims;
    for (int d = 0; d < rank; d++)
        if (rank != shape(p)->rank || (d ? dims[d] != want[d] : dims[d] < want[d])) {
            char have[200];
            shape_text(have, sizeof have, rank, dims);
            fail(path, have);
        }
    f->bytes = bytes + head;
    f->runs = p->bytes ? (size - head) / p->bytes : 1;
    if (rank != shape(p)->rank || f->runs == 0)
        fail(path, "holds less than one batch");
}

static void write_npy(const char *path, const model_port *p)
{
    char head[320], dims[200];
    shape_text(dims, sizeof dims, shape(p)->rank, shape(p)->dims);
    int n = snprintf(head, sizeof head,
                     "\x93NUMPY\x01%c%c%c{'descr': '%s', 'fortran_order': False, "
                     "'shape': %s, }",
                     0, 0, 0, npy_type(shape(p)->dtype), dims);
    size_t length = ((size_t)n + 64) / 64 * 64;
    memset(head + n, ' ', length - (size_t)n);
    head[8] = (char)((length - 10) % 256);
    head[9] = (char)((length - 10) / 256);
    head[length - 1] = '\n';
    write_file(path, head, length, model_data(&m, p), p->bytes);
}

/* ------------------------------------------------------------------ numbers */

static int is_float(int dtype)
{
    return dtype == RT_F32 || dtype == RT_F64;
}

static double number(const model_port *p)
{
    const void *at = model_data(&m, p);
    return shape(p)->dtype == RT_F64 ? *(const double *)at : (double)*(const float *)at;
}

static int is_number(const model_port *p)
{
    return is_float(shape(p)->dtype) && p->bytes == rt_dtype_size(shape(p)->dtype);
}

static void fill(const model_port *p, double x)
{
    int dtype = shape(p)->dtype;
    size_t size = rt_dtype_size(dtype);
    unsigned char *at = (unsigned char *)model_data(&m, p);
    int64_t whole = (int64_t)x;
    float narrow = (float)x;
    for (size_t i = 0; i < p->bytes; i += size)
        memcpy(at + i,
               dtype == RT_F32   ? (const void *)&narrow
               : dtype == RT_F64 ? (const void *)&x
                                 : (const void *)&whole,
               size);
}

/* NAME, or mtbal/NAME, among inputs and states. */
static const model_port *find_any(const char *name)
{
    const model_port *p = model_find(model_inputs, name);
    char longer[256];
    snprintf(longer, sizeof longer, "mtbal/%s", name);
    p = p ? p : model_find(model_states, name);
    p = p ? p : model_find(model_inputs, longer);
    return p ? p : model_find(model_states, longer);
}

/* ------------------------------------------------------------------ arguments */

/* Cuts "NAME=VALUE" and returns VALUE. */
static char *cut(char *pair)
{
    char *equals = strrchr(pair, '=');
    if (!equals)
        fail(pair, "NAME=VALUE is wanted");
    *equals = 0;
    return equals + 1;
}

/* Options with a value; those that need the network come in a second round. */
static int take_option(args *a, const char *name, char *value, int round)
{
    for (int i = 0; i < NTEXTS; i++)
        if (!strcmp(text_names[i], name)) {
            a->text[i] = value;
            return 1;
        }
    if (!strcmp(name, "--set") && round == 1) {
        const char *x = cut(value);
        const model_port *p = find_any(value);
        if (!p)
            fail(value, "there is no such input or state");
        fill(p, strtod(x, NULL));
        if (model_find(model_inputs, p->name) == p)
            a->given[p - model_inputs] = 1;
    }
    if (!strcmp(name, "--out") && round > 0) {
        char *path = cut(value);
        const model_port *p = model_find(model_outputs, value);
        p = p ? p : model_find(model_states, value);
        if (!p)
            fail(value, "there is no such output or state");
        if (round == 2)
            write_npy(path, p);
        path[-1] = '='; /* as it was, for the next round */
    }
    return !strcmp(name, "--set") || !strcmp(name, "--out");
}

static void take_input(args *a, char *pair)
{
    const char *path = cut(pair);
    feed *f = &a->feeds[a->nfeeds++];
    if (a->nfeeds > MODEL_INPUTS)
        fail(pair, "more files than inputs");
    f->port = model_find(model_inputs, pair);
    if (!f->port)
        fail(pair, "there is no such input");
    read_npy(path, f);
    a->given[f->port - model_inputs] = 1;
}

/* Round 0: options alone; 1: what goes into the network; 2: what comes out. */
static void take_all(args *a, int argc, char **argv, int round)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quiet"))
            a->quiet = 1;
        else if (!strncmp(argv[i], "--", 2) && i + 1 < argc &&
                 take_option(a, argv[i], argv[i + 1], round))
            i++;
        else if (!strncmp(argv[i], "-", 1)) {
            fputs(help, stderr);
            exit(2);
        } else if (round == 1)
            take_input(a, argv[i]);
    }
}

/* ------------------------------------------------------------------ the work */

static void check_inputs(const args *a)
{
    for (const model_port *p = model_inputs; p->name; p++)
        if (!p->has_value && !a->given[p - model_inputs])
            fail(p->name, "this input needs a file: NAME=FILE.npy");
}

static void print_numbers(long step)
{
    printf("step %ld", step);
    for (const model_port *p = model_outputs; p->name; p++)
        if (is_number(p))
            printf("  %s %.9g", p->name, number(p));
    printf("\n");
}

/* Where the value that a step failed on stands in a feed's samples, or -1. */
static long long sample_of(const feed *f, const rt_fault *fault, size_t step)
{
    const rt_tensor *t = shape(f->port);
    const unsigned char *batch = f->bytes + step % f->runs * f->port->bytes;
    int64_t wide;
    int32_t narrow;
    if (rt_count(t) != fault->count || t->rank < 1)
        return -1;
    if (t->dtype == RT_I64)
        memcpy(&wide, batch + fault->element * 8, 8);
    else if (t->dtype == RT_I32)
        memcpy(&narrow, batch + fault->element * 4, 4), wide = narrow;
    else
        return -1;
    return wide == fault->value ? (long long)(step % f->runs) * t->dims[0] +
                                      fault->element / (fault->count / t->dims[0])
                                : -1;
}

static void report(const args *a, long step)
{
    const rt_fault *fault = &m.fault;
    fprintf(stderr, "model: step %ld: node %s: ", step, m.failed);
    fprintf(stderr, fault->format, fault->value, fault->limit);
    fprintf(stderr, ", element %lld of %lld\n", (long long)fault->element, (long long)fault->count);
    for (int i = 0; i < a->nfeeds; i++)
        if (sample_of(&a->feeds[i], fault, (size_t)step) >= 0)
            fprintf(stderr, "  it is in sample %lld of %s\n",
                    sample_of(&a->feeds[i], fault, (size_t)step), a->feeds[i].port->name);
    exit(4);
}

static void run(const args *a)
{
    size_t runs = 1;
    for (int i = 0; i < a->nfeeds; i++)
        runs = a->feeds[i].runs > runs ? a->feeds[i].runs : runs;
    long steps = a->text[STEPS] ? strtol(a->text[STEPS], NULL, 10) : (long)runs;
    unsigned long seed = a->text[SEED] ? strtoul(a->text[SEED], NULL, 10) : 0;
    for (long step = 0; step < steps && !stop; step++) {
        for (int i = 0; i < a->nfeeds; i++) {
            const feed *f = &a->feeds[i];
            memcpy(model_data(&m, f->port), f->bytes + (size_t)step % f->runs * f->port->bytes,
                   f->port->bytes);
        }
        if (model_step(&m, seed + (unsigned long)step))
            report(a, step);
        if (!a->quiet || step + 1 == steps)
            print_numbers(step);
    }
}

static const void *stored_weights(const args *a)
{
#ifdef MODEL_WEIGHTS_FILE
    static struct {
        MODEL_ALIGN unsigned char bytes[MODEL_WEIGHT_BYTES];
    } weights;
    const char *path = a->text[WEIGHTS] ? a->text[WEIGHTS] : MODEL_WEIGHTS_FILE;
    FILE *file = fopen(path, "rb");
    if (!file || fread(weights.bytes, 1, sizeof weights.bytes, file) != sizeof weights.bytes)
        fail(path, "cannot be read, or is too short");
    fclose(file);
    return weights.bytes;
#else
    (void)a;
    return model_weights;
#endif
}

static void load_states(const char *path)
{
    size_t size;
    unsigned char *bytes = read_file(path, &size);
    if (size != MODEL_STATE_BYTES)
        fail(path, "holds the states of another network");
    model_load_states(&m, bytes);
    free(bytes);
}

int main(int argc, char **argv)
{
    static args a;
    take_all(&a, argc, argv, 0);
    model_init(&m, stored_weights(&a));
    if (a.text[LOAD])
        load_states(a.text[LOAD]);
    if (a.text[CPU] && strtol(a.text[CPU], NULL, 10) < m.env.cpu)
        m.env.cpu = (int)strtol(a.text[CPU], NULL, 10);
    take_all(&a, argc, argv, 1);
    check_inputs(&a);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    run(&a);
    take_all(&a, argc, argv, 2);
    if (a.text[SAVE])
        write_file(a.text[SAVE], "", 0, m.states, MODEL_STATE_BYTES);
    model_done(&m);
    return stop ? 6 : 0;
}
