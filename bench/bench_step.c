/* bench/bench_step.c: what balancing costs. The time of a training step with calibrated weights,
 * without and with gradient norms over the features, against plain equal weighting: rounds in
 * turn, in one run; ratios of medians. Inputs are made up, and the learning rate is 0: gradients
 * keep the size that they have at the start, where a network that has learnt its one batch by heart
 * would make numbers so small (subnormal) that they are slow to compute with. bench_step FOLDER
 * [MODEL.onnx BATCH]... */
#include "bench/bench.h"
#include "passes/passes.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 151, KINDS = 3, WARM = 3 };

/* Calibrated weights and norms over the features may cost so much more than equal weights. */
#define LIMIT 1.05

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
    mtbal_program *program;
    double times[ROUNDS];
} timed;

/* Shapes: the batch along the first axis, 16 along other axes that are free. Numbers: 0 or 1 for
 * integers (labels, tokens, masks), in [0, 1) for floats. */
static mtbal_status make_inputs(timed *t, mtbal_mode mode, int64_t batch, mtbal_diag *diag)
{
    enum { FREE_AXIS = 16, MAX_FEEDS = 64 };
    const mtbal_session *s = t->session;
    mtbal_bind binds[MAX_FEEDS] = {{0}};
    if (s->nfeeds > MAX_FEEDS)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, s->path, NULL, "more than 64 inputs");
    for (int i = 0; i < s->nfeeds; i++) {
        const mtbal_feed *f = &s->feeds[i];
        binds[i] = (mtbal_bind){.name = f->name, .rank = f->rank};
        for (int d = 0; d < f->rank; d++)
            binds[i].dims[d] = f->dims[d].size >= 0 ? f->dims[d].size : d ? FREE_AXIS : batch;
    }
    MTBAL_TRY(mtbal_session_program(t->session, s->nfeeds, binds, mode, &t->program, diag));
    for (int i = 0; i < s->nfeeds; i++) {
        rt_tensor *input = mtbal_instance_input(t->program->instance, s->feeds[i].name);
        int64_t n = input && input->data ? rt_count(input) : 0;
        mtbal_tensor as = {.dtype = s->feeds[i].dtype, .data = n ? input->data : NULL};
        for (int64_t k = 0; k < n; k++)
            mtbal_tensor_set_f64(&as, k,
                                 mtbal_dtype_is_float(as.dtype) ? (double)(rand() % 1000) * 1e-3
                                                                : rand() % 2);
    }
    return MTBAL_OK;
}

static mtbal_status open_kind(const struct kind *k, const char *model_path, int64_t batch,
                              const char *folder, timed *t, mtbal_diag *diag)
{
    char step[512];
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    static const mtbal_setting still = {"lr", 0};
    mtbal_session_options options = {.threads = 1, .nset = 1, .set = &still};
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
    return make_inputs(t, k->mode, batch, diag);
}

/* Milliseconds of a step, as the mean of `steps`. */
static double time_steps(timed *t, int steps)
{
    double start = bench_seconds();
    for (int i = 0; i < steps; i++)
        mtbal_instance_run(t->program->instance, (uint64_t)i);
    return (bench_seconds() - start) / steps * 1e3;
}

static mtbal_status measure(const char *folder, const char *model, int64_t batch, bool *missed,
                            mtbal_diag *diag)
{
    timed all[KINDS] = {{0}};
    mtbal_status status = MTBAL_OK;
    for (int k = 0; k < KINDS && status == MTBAL_OK; k++)
        status = open_kind(&kinds[k], model, batch, folder, &all[k], diag);
    if (status == MTBAL_OK) {
        int steps = 1 + (int)fmin(100, 4 / time_steps(&all[0], WARM));
        for (int r = 0; r < ROUNDS; r++)
            for (int k = 0; k < KINDS; k++)
                all[k].times[r] = time_steps(&all[k], steps);
        printf("%s, batch %lld, one core\n", model, (long long)batch);
        for (int k = 0; k < KINDS; k++) {
            double median = bench_median(all[k].times, ROUNDS);
            double ratio = median / all[0].times[ROUNDS / 2];
            printf("  %-32s %8.4f ms   x %.3f%s\n", kinds[k].name, median, ratio,
                   ratio > LIMIT ? "  MISSED: the limit is 1.05" : "");
            *missed = *missed || ratio > LIMIT;
        }
    }
    for (int k = 0; k < KINDS; k++)
        mtbal_session_close(all[k].session);
    return status;
}

int main(int argc, char **argv)
{
    static char *usual[] = {"models/digits2.onnx",
                            "64",
                            "models/toyscale.onnx",
                            "64",
                            "models/digits5.onnx",
                            "64",
                            "tests/data/models/cnn_nyu/model.op17.onnx",
                            "8",
                            "tests/data/models/transformer_glue/model.op17.onnx",
                            "16"};
    char **which = argc > 2 ? argv + 2 : usual;
    int count = argc > 2 ? argc - 2 : (int)(sizeof usual / sizeof *usual);
    bool missed = false;
    if (argc < 2 || count % 2) {
        fprintf(stderr, "usage: bench_step FOLDER [MODEL.onnx BATCH]...\n");
        return 2;
    }
    for (int i = 0; i < count; i += 2) {
        mtbal_diag diag = {0};
        if (measure(argv[1], which[i], atoll(which[i + 1]), &missed, &diag)) {
            fprintf(stderr, "%s: %s\n", diag.where, diag.what);
            return mtbal_exit_code(diag.status);
        }
    }
    return missed;
}
