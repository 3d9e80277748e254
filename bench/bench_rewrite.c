/* bench/bench_rewrite.c: what a rewrite costs, through the command itself: a process from its start
 * to its end. A real network, a chain of 2,000 nodes, and a model whose weights are a gigabyte in
 * another file (a hole: it takes no space on the disk). bench_rewrite COMMAND FOLDER */
#include "bench/bench.h"
#include "onnx/onnx.pb-c.h"
#include "onnxio/onnxio.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 15, BIG_ROUNDS = 2, LAYERS = 667, WIDTH = 16, BIG = 1 << 14 };

/* One run of the command. */
typedef struct cost {
    double ms;
    double peak_mb; /* resident, at most */
    double read_mb; /* by any system call, and from the disk for mapped pages */
} cost;

/* Bytes that this process and the children it has waited for have read. */
static double bytes_read(void)
{
    double total = 0, n;
    char line[128];
    FILE *from = fopen("/proc/self/io", "r");
    while (from && fgets(line, sizeof line, from))
        if (sscanf(line, "rchar: %lf", &n) == 1 || sscanf(line, "read_bytes: %lf", &n) == 1)
            total += n;
    if (from)
        fclose(from);
    return total;
}

static bool run(const char *const *argv, cost *c)
{
    double read = bytes_read(), start = bench_seconds();
    struct rusage usage;
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    bool ran = child > 0 && wait4(child, &status, 0, &usage) == child && status == 0;
    if (ran)
        *c = (cost){(bench_seconds() - start) * 1e3, (double)usage.ru_maxrss / 1024,
                    (bytes_read() - read) / (1 << 20)};
    else
        fprintf(stderr, "%s %s failed\n", argv[0], argv[1]);
    return ran;
}

/* The median time of at most ROUNDS runs, and the most of the other two. */
static bool measure(const char *command, const char *model, const char *to, const char *optimizer,
                    int rounds, cost *c)
{
    const char *argv[] = {command, model, to, "--optimizer", optimizer, "-q", NULL};
    double times[ROUNDS];
    *c = (cost){0};
    for (int r = 0; r < rounds; r++) {
        cost one;
        if (!run(argv, &one))
            return false;
        times[r] = one.ms;
        c->peak_mb = one.peak_mb > c->peak_mb ? one.peak_mb : c->peak_mb;
        c->read_mb = one.read_mb > c->read_mb ? one.read_mb : c->read_mb;
    }
    c->ms = bench_median(times, rounds);
    return true;
}

/* ------------------------------------------------------------------ models that are made up */

static mtbal_status write_text(char *text, const char *path, mtbal_diag *diag)
{
    mtbal_model *model = text ? mtbal_parse_model(text, diag) : NULL;
    mtbal_status status = model ? mtbal_onnx_write(model, path, diag) : MTBAL_INVALID;
    mtbal_model_free(model);
    free(text);
    return status;
}

/* LAYERS times MatMul, Add and Tanh, and two losses. */
static mtbal_status make_chain(const char *path, mtbal_diag *diag)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return mtbal_no_memory(diag);
    fprintf(to, "<ir_version: 8, opset_import: [\"\": 17]>\n"
                "chain (float[N,16] h0) => (float loss_a, float loss_b) <\n");
    for (int i = 0; i < LAYERS; i++) {
        fprintf(to, "%s  float[16,16] w%d = {", i ? ",\n" : "", i);
        for (int k = 0; k < WIDTH * WIDTH; k++)
            fprintf(to, "%s%.3f", k ? "," : "", (rand() % 2001 - 1000) * 1e-3);
        fprintf(to, "},\n  float[16] b%d = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}", i);
    }
    fprintf(to, "> {\n");
    for (int i = 0; i < LAYERS; i++)
        fprintf(to, "  m%d = MatMul (h%d, w%d)\n  a%d = Add (m%d, b%d)\n  h%d = Tanh (a%d)\n", i, i,
                i, i, i, i, i + 1, i);
    fprintf(to,
            "  loss_a = ReduceSumSquare <keepdims = 0> (h%d)\n"
            "  loss_b = ReduceL1 <keepdims = 0> (h%d)\n}\n",
            LAYERS, LAYERS);
    fclose(to);
    return write_text(text, path, diag);
}

/* Makes the graph's input `w` an initializer whose data are the whole of `data`. */
static mtbal_status move_weight(const char *path, const char *data, mtbal_diag *diag)
{
    int64_t dims[2] = {BIG, BIG};
    mtbal_file file;
    mtbal_writer to;
    Onnx__StringStringEntryProto where = ONNX__STRING_STRING_ENTRY_PROTO__INIT, *entry = &where;
    Onnx__TensorProto weight = ONNX__TENSOR_PROTO__INIT, *tensor = &weight;
    where.key = "location";
    where.value = (char *)data;
    weight.name = "w";
    weight.has_data_type = weight.has_data_location = 1;
    weight.data_type = MTBAL_FLOAT;
    weight.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    weight.n_dims = 2, weight.dims = dims;
    weight.n_external_data = 1, weight.external_data = &entry;
    MTBAL_TRY(mtbal_file_map(path, &file, diag));
    Onnx__ModelProto *model = onnx__model_proto__unpack(NULL, file.size, file.data);
    mtbal_file_unmap(&file);
    unsigned char *bytes = model ? malloc(onnx__model_proto__get_packed_size(model) + 1024) : NULL;
    if (!bytes)
        return mtbal_no_memory(diag);
    model->graph->n_input = 1;
    model->graph->n_initializer = 1;
    model->graph->initializer = &tensor;
    size_t size = onnx__model_proto__pack(model, bytes);
    MTBAL_TRY(mtbal_writer_open(&to, path, diag));
    MTBAL_TRY(mtbal_writer_put(&to, bytes, size, diag));
    return mtbal_writer_commit(&to, diag);
}

static mtbal_status make_big(const char *folder, const char *path, mtbal_diag *diag)
{
    char data[512];
    snprintf(data, sizeof data, "%s/big.bin", folder);
    int file = open(data, O_CREAT | O_RDWR, 0644);
    if (file < 0 || ftruncate(file, (off_t)4 * BIG * BIG) || close(file))
        return mtbal_fail(diag, MTBAL_IO, data, NULL, "cannot be made");
    MTBAL_TRY(write_text(strdup("<ir_version: 8, opset_import: [\"\": 17]>\n"
                                "big (float[N,16384] x, float[16384,16384] w)\n"
                                "  => (float loss_a, float loss_b) {\n"
                                "  m = MatMul (x, w)\n  h = Relu (m)\n"
                                "  loss_a = ReduceSumSquare <keepdims = 0> (h)\n"
                                "  loss_b = ReduceL1 <keepdims = 0> (h)\n}\n"),
                         path, diag));
    return move_weight(path, "big.bin", diag);
}

/* ------------------------------------------------------------------ the table */

static int missed; /* limits that did not hold */

static void show(const char *what, double value, double limit, const char *unit)
{
    bool holds = value < limit;
    missed += !holds;
    printf("  %-58s %8.1f %s  (limit %g)%s\n", what, value, unit, limit, holds ? "" : "  MISSED");
}

int main(int argc, char **argv)
{
    static const char *const optimizers[] = {"sgd", "adam"};
    char chain[512], big[512], to[512], data[512], what[128];
    mtbal_diag diag = {0};
    cost c;
    if (argc != 3) {
        fprintf(stderr, "usage: bench_rewrite COMMAND FOLDER\n");
        return 2;
    }
    snprintf(chain, sizeof chain, "%s/chain.onnx", argv[2]);
    snprintf(big, sizeof big, "%s/big.onnx", argv[2]);
    snprintf(to, sizeof to, "%s/big.step.onnx", argv[2]);
    snprintf(data, sizeof data, "%s/big.step.onnx.data", argv[2]);
    if (make_chain(chain, &diag) || make_big(argv[2], big, &diag)) {
        fprintf(stderr, "%s: %s\n", diag.where, diag.what);
        return mtbal_exit_code(diag.status);
    }
    printf("mtbal-rewrite, from its start to its end, files synced; medians of %d\n", ROUNDS);
    if (!measure(argv[1], "tests/data/models/transformer_glue/model.op17.onnx", to, "sgd", ROUNDS,
                 &c))
        return 1;
    show("transformer_glue", c.ms, 50, "ms");
    if (!measure(argv[1], chain, to, "sgd", ROUNDS, &c))
        return 1;
    show("a chain of 2,003 nodes", c.ms, 300, "ms");
    for (int i = 0; i < 2; i++) {
        if (!measure(argv[1], big, to, optimizers[i], BIG_ROUNDS, &c))
            return 1;
        snprintf(what, sizeof what, "1 GB of external weights, %s: resident at most",
                 optimizers[i]);
        show(what, c.peak_mb, 200, "MB");
        snprintf(what, sizeof what, "1 GB of external weights, %s: read", optimizers[i]);
        show(what, c.read_mb, 10, "MB");
    }
    remove(to);
    remove(data);
    return missed > 0;
}
