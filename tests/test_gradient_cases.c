/* tests/test_gradient_cases.c: single operators with gradients from PyTorch: both losses of each
 * case, rewritten and run by our runtime. Every case of tests/data/gradient_cases is tried; what
 * cannot be right is listed here with its reason. */
#include "passes/passes.h"
#include "train/train.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "tests/data/gradient_cases"
enum { MAX_CASES = 400 };

/* What PyTorch computes here is not the gradient of the exported graph, or the graph cannot run
 * with sizes fixed beforehand. */
static const char *const excused[][2] = {
    {"op_floor_0", "no parameter lies on a differentiable path: refused"},
    {"op_native_layer_norm_0",
     "PyTorch does not differentiate the mean and deviation outputs; the graph does"},
    {"op_native_layer_norm_6", "the same"},
    {"op_index_put_3", "a size that depends on data"},
    {"op_narrow_9", "a size that depends on data"},
    {"op_repeat_interleave_3", "a size that depends on data"},
    {"op_linalg_norm_subgradients_at_zero_0",
     "the export writes the norm as a power, infinite slope at 0"},
    {"op_masked_normalize_0",
     "the export adds an epsilon that PyTorch's own gradient does not see: 9e-4"},
};

static char *names[MAX_CASES];
static int ncases;

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list_cases(void)
{
    DIR *folder = opendir(FOLDER);
    for (struct dirent *e; folder && (e = readdir(folder)) && ncases < MAX_CASES;) {
        size_t n = strlen(e->d_name);
        if (n > 5 && !strcmp(e->d_name + n - 5, ".onnx") && (names[ncases] = strdup(e->d_name)))
            names[ncases++][n - 5] = 0;
    }
    if (folder)
        closedir(folder);
    qsort(names, (size_t)ncases, sizeof *names, by_name);
}

static double element(const mtbal_array *array, int64_t i)
{
    mtbal_tensor as = {.dtype = array->dtype, .count = array->count, .data = array->data};
    return mtbal_tensor_f64(&as, i);
}

static void write_inputs(const mtbal_npz *golden, const char *path)
{
    mtbal_array arrays[32];
    mtbal_diag diag = {0};
    int n = 0;
    for (int i = 0; i < golden->count && n < 32; i++)
        if (!strncmp(golden->arrays[i].name, "in.", 3)) {
            arrays[n] = golden->arrays[i];
            arrays[n++].name += 3;
        }
    ck_assert_int_eq(mtbal_npz_write(path, n, arrays, false, &diag), MTBAL_OK);
}

typedef struct one_case {
    const char *name;
    mtbal_npz *golden;
} one_case;

/* Gradients to 1e-4 of the loss's largest entry. */
static mtbal_status check_step(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    const one_case *c = context;
    (void)diag;
    for (int t = 0; t < 2; t++) {
        char key[64], name[300];
        double most = 1e-6;
        snprintf(key, sizeof key, "loss.%d", t);
        const mtbal_array *loss = mtbal_npz_find(c->golden, key);
        double want = element(loss, 0);
        ck_assert_msg(!isfinite(want) || fabs(r->loss[t] - want) <= 1e-3 * fmax(fabs(want), 1e-3),
                      "%s: %s is %g, not %g", c->name, key, r->loss[t], want);
        size_t length = (size_t)snprintf(key, sizeof key, "grad.%d.", t);
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < c->golden->count; i++) {
                const mtbal_array *g = &c->golden->arrays[i];
                if (strncmp(g->name, key, length))
                    continue;
                for (int64_t k = 0; k < g->count && pass == 0; k++)
                    most = fmax(most, fabs(element(g, k)));
                if (pass == 0)
                    continue;
                snprintf(name, sizeof name, "mtbal/task_grad/loss_%c/%s", 'a' + t,
                         g->name + length);
                const rt_tensor *found = mtbal_instance_output(r->program->instance, name);
                ck_assert_msg(found && rt_count(found) == g->count, "%s: there is no %s", c->name,
                              name);
                mtbal_tensor as = {
                    .dtype = (mtbal_dtype)found->dtype, .count = g->count, .data = found->data};
                for (int64_t k = 0; k < g->count; k++)
                    ck_assert_msg(fabs(mtbal_tensor_f64(&as, k) - element(g, k)) <= 1e-4 * most,
                                  "%s: %s[%lld] is %g, not %g", c->name, name, (long long)k,
                                  mtbal_tensor_f64(&as, k), element(g, k));
            }
    }
    return MTBAL_OK;
}

static void rewrite(const char *from, const char *to)
{
    static const char *const train[] = {"p*", "mod.*"};
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options o;
    bool has_module = false;
    mtbal_options_default(&o);
    o.outputs = MTBAL_OUT_TASK_GRADS;
    o.train = train;
    ck_assert_msg(mtbal_onnx_read(from, &model, &diag) == MTBAL_OK, "%s: %s", from, diag.what);
    for (int i = 0; i < model->graph->ninitializers; i++)
        has_module = has_module || !strncmp(model->graph->initializers[i]->name, "mod.", 4);
    bool has_p = false;
    for (int i = 0; i < model->graph->ninitializers; i++)
        has_p = has_p || model->graph->initializers[i]->name[0] == 'p';
    o.train = has_p ? train : train + 1;
    o.ntrain = has_p + has_module;
    ck_assert_msg(mtbal_rewrite(model, &o, &context, &diag) == MTBAL_OK, "%s: %s", from, diag.what);
    ck_assert_msg(mtbal_onnx_write(model, to, &diag) == MTBAL_OK, "%s: %s", to, diag.what);
    mtbal_model_free(model);
}

START_TEST(test_case)
{
    one_case c = {.name = names[_i]};
    char from[200], golden[200], folder[] = "/tmp/mtbal-case-XXXXXX", step[64], inputs[64];
    mtbal_diag diag = {0};
    for (size_t i = 0; i < sizeof excused / sizeof *excused; i++)
        if (!strcmp(excused[i][0], c.name))
            return;
    snprintf(from, sizeof from, FOLDER "/%s.onnx", c.name);
    snprintf(golden, sizeof golden, FOLDER "/%s.npz", c.name);
    ck_assert(mkdtemp(folder) != NULL);
    snprintf(step, sizeof step, "%s/step.onnx", folder);
    snprintf(inputs, sizeof inputs, "%s/in.npz", folder);
    ck_assert_int_eq(mtbal_npz_read(golden, &c.golden, &diag), MTBAL_OK);
    write_inputs(c.golden, inputs);
    rewrite(from, step);
    mtbal_session_options options = {.threads = 1, .all_outputs = true};
    mtbal_loop_options loop = {.limit = 1, .norm_every = 1};
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_status status = mtbal_session_open(step, &options, &session, &diag);
    if (status == MTBAL_OK)
        status = mtbal_data_open(session, inputs, true, 0, &data, &diag);
    if (status == MTBAL_OK)
        status = mtbal_loop_run(session, data, &loop, check_step, &c, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", c.name, diag.what);
    mtbal_data_close(data);
    mtbal_session_close(session);
    mtbal_npz_free(c.golden);
    unlink(step);
    unlink(inputs);
    rmdir(folder);
}
END_TEST

START_TEST(test_there_are_cases)
{
    ck_assert_int_ge(ncases, 142);
}
END_TEST

int main(void)
{
    list_cases();
    Suite *suite = suite_create("gradient cases");
    TCase *tests = tcase_create("operators");
    tcase_add_test(tests, test_there_are_cases);
    tcase_add_loop_test(tests, test_case, 0, ncases);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
