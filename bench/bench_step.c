/* bench/bench_step.c: what balancing costs. The time of a training step with calibrated weights,
 * without and with gradient norms over the features, against plain equal weighting: rounds in
 * turn, in one run; ratios of medians. bench_step FOLDER [MODEL.onnx DATA.npz BATCH]... */
#include "passes/passes.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 41, KINDS = 3, WARM = 3 };

/* What is timed; the first is what the others are compared with. */
static const struct kind {
    const char *name, *balance, *norm_over;
    unsigned outputs;
    mtbal_mode mode;
} kinds[KINDS] = {
    {"equal weights, no norms", "equal", "shared", MTBAL_OUT_NONE, MTBAL_TRAIN},
    {"calibrated, no norms", "calibrated", "features", MTBAL_OUT_NORMS, MTBAL_TRAIN},
    {"calibrated, norms over features", "calibrated", "features", MTBAL_OUT_NORMS, MTBAL_MEASURE},
};

typedef struct timed {
    mtbal_session *session;
    mtbal_data *data;
    mtbal_program *program;
    double times[ROUNDS];
} timed;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static mtbal_status open_kind(const struct kind *k, const char *model_path, const char *data_path,
                              int64_t batch, const char *folder, timed *t, mtbal_diag *diag)
{
    char step[512];
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    mtbal_session_options options = {.threads = 1};
    mtbal_bind binds[64];
    mtbal_options_default(&o);
    o.optimizer = "adam";
    o.balance = k->balance;
    o.norm_over = k->norm_over;
    o.outputs = k->outputs;
    snprintf(step, sizeof step, "%s/step.onnx", folder);
    MTBAL_TRY(mtbal_onnx_read(model_path, &model, diag));
    mtbal_status status = mtbal_rewrite(model, &o, &context, diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, step, diag);
    mtbal_model_free(model);
    MTBAL_TRY(status);
    MTBAL_TRY(mtbal_session_open(step, &options, &t->session, diag));
    MTBAL_TRY(mtbal_data_open(t->session, data_path, false, batch, &t->data, diag));
    mtbal_data_binds(t->session, t->data, t->data->batch, binds);
    MTBAL_TRY(
        mtbal_session_program(t->session, t->session->nfeeds, binds, k->mode, &t->program, diag));
    mtbal_data_load(t->session, t->data, NULL, t->data->batch, t->program);
    return MTBAL_OK;
}

/* Milliseconds of a step, as the mean of `steps`. */
static double time_steps(timed *t, int steps)
{
    double start = seconds();
    for (int i = 0; i < steps; i++)
        mtbal_instance_run(t->program->instance, (uint64_t)i);
    return (seconds() - start) / steps * 1e3;
}

static mtbal_status measure(const char *folder, const char *model, const char *data, int64_t batch,
                            mtbal_diag *diag)
{
    timed all[KINDS] = {{0}};
    mtbal_status status = MTBAL_OK;
    for (int k = 0; k < KINDS && status == MTBAL_OK; k++)
        status = open_kind(&kinds[k], model, data, batch, folder, &all[k], diag);
    if (status == MTBAL_OK) {
        int steps = 1 + (int)fmin(100, 20 / time_steps(&all[0], WARM));
        for (int r = 0; r < ROUNDS; r++)
            for (int k = 0; k < KINDS; k++)
                all[k].times[r] = time_steps(&all[k], steps);
        printf("%s, batch %lld, one core\n", model, (long long)all[0].data->batch);
        for (int k = 0; k < KINDS; k++) {
            qsort(all[k].times, ROUNDS, sizeof(double), by_size);
            double median = all[k].times[ROUNDS / 2];
            printf("  %-32s %8.4f ms   x %.3f\n", kinds[k].name, median,
                   median / all[0].times[ROUNDS / 2]);
        }
    }
    for (int k = 0; k < KINDS; k++) {
        mtbal_data_close(all[k].data);
        mtbal_session_close(all[k].session);
    }
    return status;
}

int main(int argc, char **argv)
{
    static char *usual[] = {"models/digits2.onnx",  "models/digits2.train.npz",  "64",
                            "models/toyscale.onnx", "models/toyscale.train.npz", "64",
                            "models/digits5.onnx",  "models/digits5.train.npz",  "64"};
    char **which = argc > 2 ? argv + 2 : usual;
    int count = argc > 2 ? argc - 2 : (int)(sizeof usual / sizeof *usual);
    if (argc < 2 || count % 3) {
        fprintf(stderr, "usage: bench_step FOLDER [MODEL.onnx DATA.npz BATCH]...\n");
        return 2;
    }
    for (int i = 0; i < count; i += 3) {
        mtbal_diag diag = {0};
        if (measure(argv[1], which[i], which[i + 1], atoll(which[i + 2]), &diag)) {
            fprintf(stderr, "%s: %s\n", diag.where, diag.what);
            return mtbal_exit_code(diag.status);
        }
    }
    return 0;
}
