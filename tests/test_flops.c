/* tests/test_flops.c: one backward (docs/architecture.md). What a training step multiplies, of a
 * network with K tasks: with calibrated weights the trunk costs what it costs one task, and norms
 * over the features add nothing per task in it. `test_flops --table` prints docs/flops.md's table.
 */
#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "tests/data/models/transformer_glue/model.op17.onnx"
enum { BATCH = 16, SEQUENCE = 16, WIDTH = 64, CLASSES = 3, MAX_TASKS = 8, LAYER_NORMS = 5 };

static const struct kind {
    const char *name, *balance, *norm_over;
    unsigned outputs;
} kinds[] = {
    {"equal weights, no norms", "equal", "shared", MTBAL_OUT_NONE},
    {"calibrated, no norms", "calibrated", "shared", MTBAL_OUT_NONE},
    {"calibrated, norms over features", "calibrated", "features", MTBAL_OUT_NORMS},
    {"calibrated, norms over the trunk's parameters", "calibrated", "shared", MTBAL_OUT_NORMS},
};
enum kind_name { PLAIN, CALIBRATED, FEATURES, SHARED, NKINDS };

typedef struct counted {
    double flops;
    int layer_norm_grads; /* LayerNormGrad nodes of the step graph: LAYER_NORMS for each backward */
} counted;

/* The encoder with `tasks` heads, each a linear layer to 3 values and the mean of their squares. */
static mtbal_model *with_heads(int tasks, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_builder b;
    const int64_t dims[2] = {WIDTH, CLASSES};
    if (mtbal_onnx_read(MODEL, &model, diag) != MTBAL_OK)
        return NULL;
    mtbal_graph *g = model->graph;
    mtbal_value *features = NULL;
    for (mtbal_node *n = g->first; n; n = n->next)
        if (mtbal_node_is(n, "Tanh"))
            features = n->out[0]; /* the pooler's */
    while (g->noutputs)
        mtbal_remove_output(g, g->outputs[0]);
    mtbal_builder_init(&b, g, NULL, diag);
    for (int t = 0; t < tasks; t++) {
        char name[16];
        snprintf(name, sizeof name, "head%d", t);
        mtbal_value *w = mtbal_value_new(g, name);
        mtbal_tensor *weights = mtbal_tensor_new(model, MTBAL_FLOAT, 2, dims, NULL);
        for (int64_t i = 0; i < weights->count; i++)
            mtbal_tensor_set_f64(weights, i, (double)((i + t) % 7) - 3);
        mtbal_add_initializer(g, w, weights);
        mtbal_value *p = mtbal_emit(&b, "MatMul", features, w);
        mtbal_value *loss =
            mtbal_emit_reduce(&b, "ReduceMean", mtbal_emit(&b, "Mul", p, p), 0, NULL, false);
        if (b.status == MTBAL_OK)
            mtbal_add_output(g, loss);
    }
    if (b.status == MTBAL_OK)
        return model;
    mtbal_model_free(model);
    return NULL;
}

static mtbal_status count(const struct kind *kind, int tasks, counted *c, mtbal_diag *diag)
{
    static const mtbal_bind binds[] = {{"input_ids", 2, {BATCH, SEQUENCE}},
                                       {"token_type_ids", 2, {BATCH, SEQUENCE}},
                                       {"attention_mask", 2, {BATCH, SEQUENCE}},
                                       {"label_sst2", 1, {BATCH}},
                                       {"label_mnli", 1, {BATCH}},
                                       {"target_stsb", 1, {BATCH}}};
    const mtbal_lower_options lower = {.nbinds = 6, .binds = binds, .noutputs = -1, .states = true};
    mtbal_context *context;
    mtbal_options options;
    mtbal_plan *plan = NULL;
    mtbal_plan_info info = {0};
    mtbal_model *model = with_heads(tasks, diag);
    if (!model)
        return diag->status;
    mtbal_options_default(&options);
    options.balance = kind->balance;
    options.norm_over = kind->norm_over;
    options.outputs = kind->outputs;
    mtbal_status status = mtbal_rewrite(model, &options, &context, diag);
    *c = (counted){0};
    for (mtbal_node *n = model->graph->first; n && status == MTBAL_OK; n = n->next)
        c->layer_norm_grads += !strncmp(n->op, "LayerNormGrad", strlen("LayerNormGrad"));
    if (status == MTBAL_OK)
        status = mtbal_lower(model, &lower, &plan, diag);
    if (status == MTBAL_OK)
        mtbal_plan_describe(plan, &info);
    c->flops = info.flops;
    mtbal_plan_free(plan);
    mtbal_model_free(model);
    return status;
}

static counted counted_of(enum kind_name kind, int tasks)
{
    counted c;
    mtbal_diag diag = {0};
    ck_assert_msg(count(&kinds[kind], tasks, &c, &diag) == MTBAL_OK, "%s, %d tasks: %s: %s",
                  kinds[kind].name, tasks, diag.where, diag.what);
    return c;
}

/* Forward, gradient of the features, gradient of the weights. */
static const double head = 3 * 2.0 * BATCH * WIDTH * CLASSES;

START_TEST(test_calibrated_costs_what_plain_costs)
{
    for (int k = 1; k <= MAX_TASKS; k *= 2) {
        counted plain = counted_of(PLAIN, k), calibrated = counted_of(CALIBRATED, k);
        ck_assert_double_eq(calibrated.flops, plain.flops);
        ck_assert_int_eq(calibrated.layer_norm_grads, LAYER_NORMS);
    }
}
END_TEST

START_TEST(test_one_trunk_for_all_tasks)
{
    double trunk = counted_of(CALIBRATED, 1).flops - head;
    ck_assert_double_gt(trunk, 100 * head);
    for (int k = 2; k <= MAX_TASKS; k *= 2)
        ck_assert_double_eq(counted_of(CALIBRATED, k).flops, trunk + k * head);
}
END_TEST

/* Over the features a task adds its head and the inner products of its own cotangent (BATCH x
 * WIDTH) with the others': nothing in the trunk. */
START_TEST(test_features_need_nothing_in_the_trunk)
{
    double trunk = counted_of(CALIBRATED, 1).flops - head;
    for (int k = 1; k <= MAX_TASKS; k *= 2) {
        counted c = counted_of(FEATURES, k);
        ck_assert_int_eq(c.layer_norm_grads, LAYER_NORMS);
        ck_assert_double_ge(c.flops, trunk + k * head);
        ck_assert_double_le(c.flops, trunk + k * head + 2.0 * k * k * BATCH * SEQUENCE * WIDTH);
    }
}
END_TEST

/* Over the trunk's parameters every task has a backward of its own: the test above can fail. */
START_TEST(test_parameters_need_a_trunk_a_task)
{
    for (int k = 2; k <= MAX_TASKS; k *= 2) {
        counted c = counted_of(SHARED, k);
        ck_assert_int_ge(c.layer_norm_grads, k * LAYER_NORMS);
        ck_assert_double_gt(c.flops, counted_of(CALIBRATED, k).flops);
    }
}
END_TEST

static int print_table(void)
{
    printf("| Step | K = 1 | K = 2 | K = 4 | K = 8 |\n|---|---|---|---|---|\n");
    for (int i = 0; i < NKINDS; i++) {
        printf("| %s ", kinds[i].name);
        for (int k = 1; k <= MAX_TASKS; k *= 2) {
            counted c;
            mtbal_diag diag = {0};
            if (count(&kinds[i], k, &c, &diag) != MTBAL_OK) {
                fprintf(stderr, "%s: %s\n", diag.where, diag.what);
                return mtbal_exit_code(diag.status);
            }
            printf("| %.2f ", c.flops * 1e-6);
        }
        printf("|\n");
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--table"))
        return print_table();
    Suite *suite = suite_create("flops");
    TCase *tests = tcase_create("one backward");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_calibrated_costs_what_plain_costs);
    tcase_add_test(tests, test_one_trunk_for_all_tasks);
    tcase_add_test(tests, test_features_need_nothing_in_the_trunk);
    tcase_add_test(tests, test_parameters_need_a_trunk_a_task);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
