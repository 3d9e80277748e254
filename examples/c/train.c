/* train.c: trains a step graph in stock ONNX Runtime, with its C API.
 *
 *     train STEP.onnx DATA.npz STATES.npz [EPOCHS [BATCH [LR]]]
 *
 * One run of a step graph is one training step: it reads the states (parameters, moments,
 * calibrations) and gives their next values as the outputs mtbal/next/STATE. Two sets of states are
 * allocated once; each step reads one and writes the other, and nothing is copied. In the end the
 * states are saved, for
 *     mtbal-rewrite --inference STEP.onnx --states STATES.npz MODEL.onnx */
#include "npz.h"

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 8, MAX_INPUTS = 32 };
static const char next[] = "mtbal/next/", learning_rate[] = "mtbal/lr";

static const OrtApi *ort;
static OrtSession *session;
static OrtAllocator *memory;
static OrtMemoryInfo *cpu;

static void check(OrtStatus *status)
{
    if (!status)
        return;
    fprintf(stderr, "train: %s\n", ort->GetErrorMessage(status));
    exit(1);
}

/* Element types: NumPy's names, ONNX Runtime's. */
static const struct {
    char numpy[4];
    ONNXTensorElementDataType ort;
    size_t size;
} types[] = {{"f4", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},
             {"f8", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8},
             {"i4", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},
             {"i8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8}};
enum { NTYPES = sizeof types / sizeof *types };

/* ------------------------------------------------------------------ outputs and their memory */

/* An output of fixed shape: the next value of a state, or a number to watch. */
typedef struct port {
    char *output;
    const char *state; /* NULL: a number, as a loss, a weight or a norm */
    OrtValue *value[2];
    double sum; /* of the number, over an epoch */
} port;

/* Memory for output i; 0 for what has no fixed shape, or is no scalar and no state. */
static int allocate(size_t i, port *p)
{
    OrtTypeInfo *type;
    const OrtTensorTypeAndShapeInfo *info;
    ONNXTensorElementDataType element;
    int64_t dims[MAX_RANK];
    size_t rank;
    check(ort->SessionGetOutputName(session, i, memory, &p->output));
    check(ort->SessionGetOutputTypeInfo(session, i, &type));
    check(ort->CastTypeInfoToTensorInfo(type, &info));
    check(ort->GetTensorElementType(info, &element));
    check(ort->GetDimensionsCount(info, &rank));
    p->state = strncmp(p->output, next, strlen(next)) ? NULL : p->output + strlen(next);
    int wanted =
        rank <= MAX_RANK && (p->state || (!rank && element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    if (wanted)
        check(ort->GetDimensions(info, dims, rank));
    for (int set = 0; wanted && set < (p->state ? 2 : 1); set++)
        check(ort->CreateTensorAsOrtValue(memory, dims, rank, element, &p->value[set]));
    ort->ReleaseTypeInfo(type);
    return wanted;
}

/* A run that reads one set of states (-1: those that the model stores) and writes another. */
static OrtIoBinding *bind(const port *ports, int n, int from, int to, const OrtValue *lr)
{
    OrtIoBinding *binding;
    check(ort->CreateIoBinding(session, &binding));
    for (int i = 0; i < n; i++) {
        if (ports[i].state && from >= 0)
            check(ort->BindInput(binding, ports[i].state, ports[i].value[from]));
        check(ort->BindOutput(binding, ports[i].output, ports[i].value[ports[i].state ? to : 0]));
    }
    /* Further hyper-parameters likewise; a scalar 1 for every mtbal/calibration/T would train with
     * equal weights. */
    if (lr)
        check(ort->BindInput(binding, learning_rate, lr));
    return binding;
}

/* ------------------------------------------------------------------ data */

/* Binds samples start .. start + n of an array to the input of its name: a view, no copy. */
static void feed(OrtIoBinding *binding, const npz_array *a, int64_t start, int64_t n)
{
    size_t k = 0;
    while (k < NTYPES - 1 && strcmp(types[k].numpy, a->type))
        k++;
    size_t row = a->bytes / (size_t)a->dims[0];
    int64_t dims[MAX_RANK];
    memcpy(dims, a->dims, sizeof dims);
    dims[0] = n;
    OrtValue *value;
    check(ort->CreateTensorWithDataAsOrtValue(cpu, (char *)a->data + (size_t)start * row,
                                              (size_t)n * row, dims, (size_t)a->rank, types[k].ort,
                                              &value));
    check(ort->BindInput(binding, a->name, value));
    ort->ReleaseValue(value); /* the binding keeps it as long as it needs it */
}

static void *data_of(OrtValue *value)
{
    void *data;
    check(ort->GetTensorMutableData(value, &data));
    return data;
}

/* A state as an array, in its own memory. */
static void view(const port *p, int set, npz_array *a)
{
    OrtTensorTypeAndShapeInfo *info;
    ONNXTensorElementDataType element;
    size_t rank, count, k = 0;
    check(ort->GetTensorTypeAndShape(p->value[set], &info));
    check(ort->GetTensorElementType(info, &element));
    check(ort->GetDimensionsCount(info, &rank));
    check(ort->GetDimensions(info, a->dims, rank));
    check(ort->GetTensorShapeElementCount(info, &count));
    ort->ReleaseTensorTypeAndShapeInfo(info);
    while (k < NTYPES - 1 && types[k].ort != element)
        k++;
    snprintf(a->name, sizeof a->name, "%s", p->state);
    snprintf(a->type, sizeof a->type, "%s", types[k].numpy);
    a->rank = (int)rank, a->bytes = count * types[k].size, a->data = data_of(p->value[set]);
}

static int save(const char *path, const port *ports, int n, int set)
{
    npz_array *arrays = calloc((size_t)n + 1, sizeof *arrays);
    int count = 0;
    for (int i = 0; i < n && arrays; i++)
        if (ports[i].state)
            view(&ports[i], set, &arrays[count++]);
    int ok = arrays && npz_write(path, arrays, count);
    free(arrays);
    return ok;
}

/* ------------------------------------------------------------------ */

static void open_session(const char *path)
{
    OrtEnv *env;
    OrtSessionOptions *options;
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    /* At a lower level it would warn of every initializer that is also an input: the states. */
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "train", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(env, path, options, &session));
    check(ort->GetAllocatorWithDefaultOptions(&memory));
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &cpu));
}

static void print_epoch(int64_t epoch, int64_t steps, port *ports, int n)
{
    printf("epoch %lld", (long long)epoch);
    for (int i = 0; i < n; i++)
        if (!ports[i].state) {
            printf("  %s %.6g", ports[i].output, ports[i].sum / (double)steps);
            ports[i].sum = 0;
        }
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 7) {
        fprintf(stderr, "usage: train STEP.onnx DATA.npz STATES.npz [EPOCHS [BATCH [LR]]]\n");
        return 2;
    }
    int64_t epochs = argc > 4 ? atoll(argv[4]) : 20, batch = argc > 5 ? atoll(argv[5]) : 32;
    npz_array *arrays;
    int narrays = npz_read(argv[2], &arrays), nports = 0;
    if (!narrays || epochs < 1 || batch < 1)
        return 2;
    open_session(argv[1]);
    size_t noutputs;
    check(ort->SessionGetOutputCount(session, &noutputs));
    port *ports = calloc(noutputs + 1, sizeof *ports);
    for (size_t i = 0; ports && i < noutputs; i++)
        nports += allocate(i, &ports[nports]);

    float rate = argc > 6 ? strtof(argv[6], NULL) : 0;
    OrtValue *lr = NULL;
    if (argc > 6)
        check(ort->CreateTensorWithDataAsOrtValue(cpu, &rate, sizeof rate, NULL, 0,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &lr));
    OrtIoBinding *first = bind(ports, nports, -1, 0, lr),
                 *turns[2] = {bind(ports, nports, 0, 1, lr), bind(ports, nports, 1, 0, lr)};

    int64_t samples = arrays[0].dims[0], count = 0;
    for (int64_t epoch = 1; epoch <= epochs; epoch++) {
        int64_t before = count;
        for (int64_t start = 0; start < samples; start += batch, count++) { /* shuffle here */
            OrtIoBinding *io = count ? turns[(count - 1) % 2] : first;
            for (int i = 0; i < narrays; i++)
                feed(io, &arrays[i], start, samples - start < batch ? samples - start : batch);
            check(ort->RunWithBinding(session, NULL, io));
            for (int i = 0; i < nports; i++)
                if (!ports[i].state)
                    ports[i].sum += *(float *)data_of(ports[i].value[0]);
        }
        print_epoch(epoch, count - before, ports, nports);
    }
    return save(argv[3], ports, nports, (int)((count - 1) % 2)) ? 0 : 1;
}
