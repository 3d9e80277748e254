/* bench/bench_mlp.c: an MLP 784-512-512-10 at batch 64 on one core: the forward pass, and a whole
 * SGD step. Writes the model, so that others can be timed on it: bench_mlp FOLDER */
#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 64, REPEATS = 9, STEPS = 200 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static mtbal_value *weight(mtbal_model *model, const char *name, int64_t rows, int64_t cols)
{
    const int64_t dims[2] = {rows, cols};
    mtbal_tensor *t = mtbal_tensor_new(model, MTBAL_FLOAT, cols ? 2 : 1, dims, NULL);
    mtbal_value *v = mtbal_value_new(model->graph, name);
    for (int64_t i = 0; t && i < t->count; i++)
        mtbal_tensor_set_f64(t, i, (double)(rand() % 2001 - 1000) * 5e-5);
    return t && v && mtbal_add_initializer(model->graph, v, t) == MTBAL_OK ? v : NULL;
}

static mtbal_value *input(mtbal_model *model, const char *name, mtbal_dtype dtype, int rank,
                          mtbal_dim *dims)
{
    mtbal_value *v = mtbal_value_new(model->graph, name);
    if (!v || mtbal_add_input(model->graph, v) != MTBAL_OK)
        return NULL;
    v->type = (mtbal_type){MTBAL_TENSOR, dtype, rank, dims};
    return v;
}

static mtbal_status make(const char *path, mtbal_diag *diag)
{
    static mtbal_dim dims[2] = {{BATCH, NULL}, {784, NULL}};
    static const int64_t widths[] = {784, 512, 512, 10};
    mtbal_model *model = mtbal_model_new(17);
    mtbal_builder b;
    mtbal_builder_init(&b, model->graph, NULL, diag);
    b.prefix = "mlp/";
    mtbal_value *h = input(model, "x", MTBAL_FLOAT, 2, dims);
    mtbal_value *label = input(model, "label", MTBAL_INT64, 1, dims);
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "w%d", i);
        mtbal_value *w = weight(model, name, widths[i], widths[i + 1]);
        snprintf(name, sizeof name, "b%d", i);
        h = mtbal_emit(&b, "Gemm", h, w, weight(model, name, widths[i + 1], 0));
        h = i < 2 ? mtbal_emit(&b, "Relu", h) : h;
    }
    mtbal_value *loss = mtbal_emit(&b, "SoftmaxCrossEntropyLoss", h, label);
    mtbal_status status = loss ? mtbal_add_output(model->graph, loss) : MTBAL_NOMEM;
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, path, diag);
    mtbal_model_free(model);
    return status;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median milliseconds of a run. */
static mtbal_status measure(const char *path, bool states, double *ms, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_plan *plan = NULL;
    mtbal_instance *instance = NULL;
    mtbal_lower_options o = {.noutputs = states ? 0 : -1, .states = states};
    double times[REPEATS];
    MTBAL_TRY(mtbal_onnx_read(path, &model, diag));
    MTBAL_TRY(mtbal_lower(model, &o, &plan, diag));
    MTBAL_TRY(mtbal_instance_new(plan, 1, &instance, diag));
    rt_tensor *x = mtbal_instance_input(instance, "x");
    for (int64_t i = 0; i < rt_count(x); i++)
        ((float *)x->data)[i] = (float)(rand() % 1000) * 1e-3f;
    for (int r = 0; r < REPEATS; r++) {
        double start = seconds();
        for (int i = 0; i < STEPS; i++)
            mtbal_instance_run(instance, 0);
        times[r] = (seconds() - start) / STEPS * 1e3;
    }
    qsort(times, REPEATS, sizeof *times, by_size);
    *ms = times[REPEATS / 2];
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
    return MTBAL_OK;
}

static mtbal_status rewrite(const char *from, const char *to, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    mtbal_options_default(&o);
    o.balance = "equal";
    o.outputs = MTBAL_OUT_NONE;
    MTBAL_TRY(mtbal_onnx_read(from, &model, diag));
    MTBAL_TRY(mtbal_rewrite(model, &o, &context, diag));
    MTBAL_TRY(mtbal_onnx_write(model, to, diag));
    mtbal_model_free(model);
    return MTBAL_OK;
}

int main(int argc, char **argv)
{
    char plain[256], step[256];
    double forward = 0, training = 0;
    mtbal_diag diag = {0};
    snprintf(plain, sizeof plain, "%s/mlp.onnx", argc > 1 ? argv[1] : ".");
    snprintf(step, sizeof step, "%s/mlp.step.onnx", argc > 1 ? argv[1] : ".");
    if (make(plain, &diag) || rewrite(plain, step, &diag) ||
        measure(plain, false, &forward, &diag) || measure(step, true, &training, &diag)) {
        fprintf(stderr, "%s: %s\n", diag.where, diag.what);
        return mtbal_exit_code(diag.status);
    }
    printf("MLP 784-512-512-10, batch 64, one core: forward %.3f ms, whole SGD step %.3f ms\n",
           forward, training);
    return 0;
}
