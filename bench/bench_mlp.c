/* bench/bench_mlp.c: one round of an MLP 784-512-512-10 at batch 64 on one core. Prints the
 * milliseconds of a forward pass, those of a whole SGD step, and the allocations of all the steps.
 * Writes the model, so that others can be timed on it: bench_mlp FOLDER */
#include "bench/bench.h"
#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, WARM = 10, STEPS = 100 };

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

/* One model, ready to run. */
typedef struct runner {
    mtbal_model *model;
    mtbal_plan *plan;
    mtbal_instance *instance;
} runner;

static mtbal_status open_runner(const char *path, bool states, runner *r, mtbal_diag *diag)
{
    mtbal_lower_options o = {.noutputs = states ? 0 : -1, .states = states};
    MTBAL_TRY(mtbal_onnx_read(path, &r->model, diag));
    MTBAL_TRY(mtbal_lower(r->model, &o, &r->plan, diag));
    MTBAL_TRY(mtbal_instance_new(r->plan, 1, &r->instance, diag));
    rt_tensor *x = mtbal_instance_input(r->instance, "x");
    for (int64_t i = 0; i < rt_count(x); i++)
        ((float *)x->data)[i] = (float)(rand() % 1000) * 1e-3f;
    return MTBAL_OK;
}

static void close_runner(runner *r)
{
    mtbal_instance_free(r->instance);
    mtbal_plan_free(r->plan);
    mtbal_model_free(r->model);
}

/* Milliseconds of a run, once it is warm. */
static double measure(const runner *r)
{
    for (int i = 0; i < WARM; i++)
        mtbal_instance_run(r->instance, 0);
    double start = bench_seconds();
    for (int i = 0; i < STEPS; i++)
        mtbal_instance_run(r->instance, 0);
    return (bench_seconds() - start) / STEPS * 1e3;
}

/* ------------------------------------------------------------------ allocations */

/* The allocator of this program: the C library's, counted. What runs in the library is counted
 * too, whichever function asks. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static atomic_long allocations;

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    allocations++;
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    allocations++;
    return __libc_memalign(align, size);
}

int posix_memalign(void **p, size_t align, size_t size)
{
    allocations++;
    *p = __libc_memalign(align, size);
    return *p ? 0 : ENOMEM;
}

static long count_allocations(const runner *r)
{
    mtbal_instance_run(r->instance, 0);
    long before = allocations;
    for (int i = 0; i < STEPS; i++)
        mtbal_instance_run(r->instance, 0);
    return allocations - before;
}

/* ------------------------------------------------------------------ the models */

static mtbal_status rewrite(const char *from, const char *to, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    mtbal_options_default(&o);
    o.balance = "equal";
    o.outputs = MTBAL_OUT_NONE;
    MTBAL_TRY(mtbal_onnx_read(from, &model, diag));
    mtbal_status status = mtbal_rewrite(model, &o, &context, diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, to, diag);
    mtbal_model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    char plain[256], step[256];
    runner forward = {0}, training = {0};
    mtbal_diag diag = {0};
    snprintf(plain, sizeof plain, "%s/mlp.onnx", argc > 1 ? argv[1] : ".");
    snprintf(step, sizeof step, "%s/mlp.step.onnx", argc > 1 ? argv[1] : ".");
    if (make(plain, &diag) || rewrite(plain, step, &diag) ||
        open_runner(plain, false, &forward, &diag) || open_runner(step, true, &training, &diag)) {
        fprintf(stderr, "%s: %s\n", diag.where, diag.what);
        return mtbal_exit_code(diag.status);
    }
    printf("%.4f %.4f %ld\n", measure(&forward), measure(&training), count_allocations(&training));
    close_runner(&forward);
    close_runner(&training);
    return 0;
}
