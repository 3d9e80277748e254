/* tests/test_goldens.c: real exports, rewritten and run by our runtime, against what PyTorch
 * computed for them: losses, every task's gradient of every parameter, norms, Gram matrix, cosines,
 * running statistics, ten-step trajectories. The goldens of models/ were recorded with the exports;
 * those of goldens/ are made by tests/torch/goldens.py. */
#include "passes/passes.h"
#include "train/train.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATA "tests/data/"

static const mtbal_pair head_losses[] = {{"loss_cls", "cross-entropy:logits,label"},
                                         {"loss_reg", "mse:pred,target"}};

static void without_dropout(mtbal_model *model);

/* What a case does beside rewriting its file. */
typedef struct variant {
    bool inline_functions;
    int nlosses; /* --loss */
    const mtbal_pair *losses;
    const char *prefix;                  /* of the file's parameters before the golden's names */
    void (*prepare)(mtbal_model *model); /* before rewriting */
} variant;

static const variant as_is = {0}, inlined = {.inline_functions = true},
                     heads = {.nlosses = 2, .losses = head_losses, .prefix = "m."},
                     no_dropout = {.prepare = without_dropout};

typedef struct golden_case {
    const char *file, *golden; /* in tests/data, without their endings */
    double lr;                 /* of the SGD trajectory */
    const variant *how;
} golden_case;

/* A file with the recorded golden of NETWORK, and at batch 1 and 5. */
#define MLP(file, how)                                         \
    {                                                          \
        "models/" file, "models/mlp_cls_reg/golden", 0.05, how \
    }
#define MLP_ALL(file, how)                                                 \
    MLP(file, how), {"models/" file, "goldens/mlp_cls_reg.b1", 0.05, how}, \
    {                                                                      \
        "models/" file, "goldens/mlp_cls_reg.b5", 0.05, how                \
    }
#define CNN_ALL(file, how)                                         \
    {"models/cnn_nyu/" file, "models/cnn_nyu/golden", 0.02, how},  \
        {"models/cnn_nyu/" file, "goldens/cnn_nyu.b1", 0.02, how}, \
    {                                                              \
        "models/cnn_nyu/" file, "goldens/cnn_nyu.b5", 0.02, how    \
    }
#define GLUE_ALL(file, how)                                                          \
    {"models/transformer_glue/" file, "models/transformer_glue/golden", 0.05, how},  \
        {"models/transformer_glue/" file, "goldens/transformer_glue.b1", 0.01, how}, \
    {                                                                                \
        "models/transformer_glue/" file, "goldens/transformer_glue.b5", 0.01, how    \
    }

static const golden_case cases[] = {
    MLP_ALL("mlp_cls_reg/model.op13", &as_is),
    MLP_ALL("mlp_cls_reg/model.op17", &as_is),
    MLP_ALL("mlp_cls_reg/model.op17", &inlined),
    MLP_ALL("mlp_cls_reg/heads", &heads),
    MLP("mlp_cls_reg/static", &as_is),
    MLP_ALL("mlp_cls_reg/inits_as_inputs", &as_is),
    MLP_ALL("mlp_cls_reg/functions", &as_is),
    MLP_ALL("fixtures/external", &as_is),
    MLP_ALL("fixtures/ext_many/external_many", &as_is),
    MLP_ALL("fixtures/metadata", &as_is),
    MLP_ALL("fixtures/metadata_ir10_fields", &as_is),
    MLP_ALL("fixtures/weights_as_constants", &as_is),
    {"models/fixtures/double", "goldens/double", 0.05, &as_is},
    {"models/fixtures/control_flow", "goldens/control_flow.then", 0.001, &as_is},
    {"models/fixtures/control_flow", "goldens/control_flow.else", 0.001, &as_is},
    {"models/fixtures/tied", "goldens/tied.b1", 0.05, &as_is},
    {"models/fixtures/tied", "goldens/tied.b4", 0.05, &as_is},
    {"models/fixtures/tied", "goldens/tied.b5", 0.05, &as_is},
    {"models/fixtures/dynamo_like", "goldens/dynamo_like.b1", 0.01, &as_is},
    {"models/fixtures/dynamo_like", "goldens/dynamo_like.b4", 0.01, &as_is},
    {"models/fixtures/dynamo_like", "goldens/dynamo_like.b5", 0.01, &as_is},
    CNN_ALL("model.op13", &as_is),
    CNN_ALL("model.op14", &as_is),
    CNN_ALL("model.op17", &as_is),
    CNN_ALL("model.op17", &inlined),
    CNN_ALL("preserve_dyn_hw", &as_is),
    {"models/cnn_nyu/preserve_dyn_hw", "goldens/cnn_nyu.32x40", 0.02, &as_is},
    {"models/cnn_nyu/eval_bn", "goldens/eval_bn.b1", 0.02, &as_is},
    {"models/cnn_nyu/eval_bn", "goldens/eval_bn.b2", 0.02, &as_is},
    {"models/cnn_nyu/eval_bn", "goldens/eval_bn.b5", 0.02, &as_is},
    GLUE_ALL("model.op13", &as_is),
    GLUE_ALL("model.op17", &as_is),
    GLUE_ALL("model.op17", &inlined),
    {"models/transformer_glue/dropout_p01", "goldens/dropout_p01.b1", 0.01, &no_dropout},
    {"models/transformer_glue/dropout_p01", "goldens/dropout_p01.b4", 0.01, &no_dropout},
    {"models/transformer_glue/dropout_p01", "goldens/dropout_p01.b5", 0.01, &no_dropout},
    {"models/transformer_glue/torch_encoder_layer", "goldens/torch_encoder_layer.b1", 0.01, &as_is},
    {"models/transformer_glue/torch_encoder_layer", "goldens/torch_encoder_layer.b4", 0.01, &as_is},
    {"models/transformer_glue/torch_encoder_layer", "goldens/torch_encoder_layer.b5", 0.01, &as_is},
    {"models/rnn_tag/model.op13", "models/rnn_tag/golden", 0.05, &as_is},
    {"models/rnn_tag/model.op17", "models/rnn_tag/golden", 0.05, &as_is},
    {"models/rnn_tag/model.op17", "models/rnn_tag/golden", 0.05, &inlined},
    {"models/rnn_steps/model.op17", "models/rnn_steps/golden", 0.05, &as_is},
    {"models/mmoe/model.op13", "models/mmoe/golden", 0.05, &as_is},
    {"models/mmoe/model.op17", "models/mmoe/golden", 0.05, &as_is},
};

/* ------------------------------------------------------------------ the work space of a test */

typedef struct bench {
    const golden_case *c;
    char folder[64], step[128], inputs[128], label[200];
    mtbal_npz *golden;
    mtbal_session *session;
    mtbal_data *data;
    const mtbal_array *trajectory;
} bench;

static void must(mtbal_status status, const mtbal_diag *diag, const bench *b)
{
    ck_assert_msg(status == MTBAL_OK, "%s: %s: %s", b->label, diag->where, diag->what);
}

static void write_inputs(bench *b, mtbal_diag *diag)
{
    mtbal_array arrays[16];
    int count = 0;
    for (int i = 0; i < b->golden->count; i++)
        if (!strncmp(b->golden->arrays[i].name, "input/", 6)) {
            arrays[count] = b->golden->arrays[i];
            arrays[count++].name += 6;
        }
    must(mtbal_npz_write(b->inputs, count, arrays, false, diag), diag, b);
}

static void open_bench(bench *b, const golden_case *c)
{
    mtbal_diag diag = {0};
    char path[160];
    *b = (bench){.c = c};
    snprintf(b->label, sizeof b->label, "%s with %s%s", c->file, c->golden,
             c->how->inline_functions ? " --inline-functions" : "");
    strcpy(b->folder, "/tmp/mtbal-golden-XXXXXX");
    ck_assert(mkdtemp(b->folder) != NULL);
    snprintf(b->step, sizeof b->step, "%s/step.onnx", b->folder);
    snprintf(b->inputs, sizeof b->inputs, "%s/inputs.npz", b->folder);
    snprintf(path, sizeof path, DATA "%s.npz", c->golden);
    must(mtbal_npz_read(path, &b->golden, &diag), &diag, b);
    write_inputs(b, &diag);
}

static void close_run(bench *b)
{
    mtbal_data_close(b->data);
    mtbal_session_close(b->session);
    b->data = NULL;
    b->session = NULL;
}

static void close_bench(bench *b)
{
    char data[160];
    snprintf(data, sizeof data, "%s.data", b->step);
    unlink(data);
    unlink(b->step);
    unlink(b->inputs);
    rmdir(b->folder);
    mtbal_npz_free(b->golden);
}

/* Every Dropout's ratio becomes 0: what is left is the network of the golden. */
static void without_dropout(mtbal_model *model)
{
    int count = 0;
    for (mtbal_node *n = model->graph->first; n; n = n->next)
        if (!strcmp(n->op, "Dropout")) {
            mtbal_value *ratio = n->in[1];
            ck_assert(mtbal_tensor_f64(ratio->tensor, 0) > 0);
            ratio->tensor = mtbal_tensor_new(model, MTBAL_FLOAT, 0, NULL, NULL);
            mtbal_set_tensor(ratio->def, "value", ratio->tensor);
            count++;
        }
    ck_assert_int_gt(count, 0);
}

static void rewrite(bench *b, const char *optimizer, const char *balance, unsigned outputs)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options options;
    char path[160];
    snprintf(path, sizeof path, DATA "%s.onnx", b->c->file);
    mtbal_options_default(&options);
    options.optimizer = optimizer;
    options.balance = balance;
    options.outputs = outputs;
    options.inline_functions = b->c->how->inline_functions;
    options.nlosses = b->c->how->nlosses;
    options.losses = b->c->how->losses;
    options.verify_between = true;
    must(mtbal_onnx_read(path, &model, &diag), &diag, b);
    if (b->c->how->prepare)
        b->c->how->prepare(model);
    must(mtbal_rewrite(model, &options, &context, &diag), &diag, b);
    must(mtbal_onnx_write(model, b->step, &diag), &diag, b);
    mtbal_model_free(model);
}

static void run(bench *b, double lr, int64_t steps, bool all_outputs, mtbal_on_step *on_step)
{
    mtbal_diag diag = {0};
    mtbal_setting set = {"lr", lr};
    mtbal_session_options options = {
        .threads = 2, .nset = lr > 0, .set = &set, .all_outputs = all_outputs};
    mtbal_loop_options loop = {.limit = steps, .norm_every = 1};
    must(mtbal_session_open(b->step, &options, &b->session, &diag), &diag, b);
    must(mtbal_data_open(b->session, b->inputs, true, 0, &b->data, &diag), &diag, b);
    must(mtbal_loop_run(b->session, b->data, &loop, on_step, b, &diag), &diag, b);
}

/* ------------------------------------------------------------------ comparisons */

static double element(const mtbal_array *array, int64_t i)
{
    mtbal_tensor as = {.dtype = array->dtype, .count = array->count, .data = array->data};
    return mtbal_tensor_f64(&as, i);
}

static double largest(const mtbal_array *array)
{
    double most = 0;
    for (int64_t i = 0; i < array->count; i++)
        most = fmax(most, fabs(element(array, i)));
    return most;
}

static const mtbal_array *wanted(const bench *b, const char *key)
{
    const mtbal_array *array = mtbal_npz_find(b->golden, key);
    ck_assert_msg(array != NULL, "%s: the golden has no %s", b->label, key);
    return array;
}

/* |found - golden| <= tolerance * scale for every element. */
static void compare(const bench *b, const rt_tensor *found, const mtbal_array *golden,
                    double tolerance, double scale, const char *what)
{
    ck_assert_msg(found && found->data, "%s: there is no %s", b->label, what);
    ck_assert_msg(rt_count(found) == golden->count, "%s: %s has %lld elements, not %lld", b->label,
                  what, (long long)rt_count(found), (long long)golden->count);
    mtbal_tensor as = {
        .dtype = (mtbal_dtype)found->dtype, .count = golden->count, .data = found->data};
    for (int64_t i = 0; i < golden->count; i++) {
        double x = mtbal_tensor_f64(&as, i), y = element(golden, i);
        ck_assert_msg(fabs(x - y) <= tolerance * scale, "%s: %s[%lld] is %.9g, PyTorch says %.9g",
                      b->label, what, (long long)i, x, y);
    }
}

static mtbal_status check_losses(const bench *b, const mtbal_record *r)
{
    const mtbal_array *losses = wanted(b, "losses");
    ck_assert_int_eq(b->session->ntasks, losses->count);
    for (int i = 0; i < b->session->ntasks; i++)
        ck_assert_msg(fabs(r->loss[i] - element(losses, i)) <= 1e-5 * fabs(element(losses, i)),
                      "%s: %s is %.9g, PyTorch says %.9g", b->label, b->session->tasks[i],
                      r->loss[i], element(losses, i));
    return MTBAL_OK;
}

enum { SIGNS = 16 };

/* The sums of a tensor under 16 fixed random signs: the low bits of a hash of the index, as in
 * tests/torch/goldens.py. An error e in the tensor gives sums of the size of |e|: all 16 within
 * half a tolerance say, but for a chance of 1 in 10^6, that every entry is within it. */
static void sketch(const rt_tensor *found, double sums[SIGNS])
{
    mtbal_tensor as = {
        .dtype = (mtbal_dtype)found->dtype, .count = rt_count(found), .data = found->data};
    memset(sums, 0, SIGNS * sizeof *sums);
    for (int64_t i = 0; i < as.count; i++) {
        uint64_t h = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
        h *= 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        double x = mtbal_tensor_f64(&as, i);
        for (int k = 0; k < SIGNS; k++)
            sums[k] += h >> k & 1 ? -x : x;
    }
}

static void compare_sketch(const bench *b, const rt_tensor *found, const mtbal_array *golden,
                           double scale, const char *what)
{
    double sums[SIGNS];
    ck_assert_msg(found && found->data, "%s: there is no %s", b->label, what);
    ck_assert_int_eq(golden->count, SIGNS);
    sketch(found, sums);
    for (int k = 0; k < SIGNS; k++)
        ck_assert_msg(fabs(sums[k] - element(golden, k)) <= 0.5e-4 * scale,
                      "%s: sum %d of %s is %.9g, PyTorch says %.9g (largest entry %g)", b->label, k,
                      what, sums[k], element(golden, k), scale);
}

/* The largest entry of a task's gradients: recorded, or that of the recorded gradients. */
static double largest_of_task(const bench *b, const char *task)
{
    char key[96];
    double most = 0;
    snprintf(key, sizeof key, "largest/%s", task);
    const mtbal_array *recorded = mtbal_npz_find(b->golden, key);
    if (recorded)
        return element(recorded, 0);
    size_t length = (size_t)snprintf(key, sizeof key, "grad/%s/", task);
    for (int i = 0; i < b->golden->count; i++)
        if (!strncmp(b->golden->arrays[i].name, key, length))
            most = fmax(most, largest(&b->golden->arrays[i]));
    return most;
}

/* Every parameter that the task reaches, as it is ("grad/") or as sums ("sketch/"). */
static void check_gradients_of(const bench *b, mtbal_instance *instance, const char *task)
{
    char whole[96], sums[96], name[256];
    size_t whole_length = (size_t)snprintf(whole, sizeof whole, "grad/%s/", task);
    size_t sums_length = (size_t)snprintf(sums, sizeof sums, "sketch/%s/", task);
    double scale = largest_of_task(b, task);
    int count = 0;
    for (int i = 0; i < b->golden->count; i++) {
        const mtbal_array *golden = &b->golden->arrays[i];
        bool is_whole = !strncmp(golden->name, whole, whole_length);
        if (!is_whole && strncmp(golden->name, sums, sums_length) != 0)
            continue;
        snprintf(name, sizeof name, "mtbal/task_grad/%s/%s%s", task,
                 b->c->how->prefix ? b->c->how->prefix : "",
                 golden->name + (is_whole ? whole_length : sums_length));
        const rt_tensor *found = mtbal_instance_output(instance, name);
        if (is_whole)
            compare(b, found, golden, 1e-4, scale, name);
        else
            compare_sketch(b, found, golden, scale, name);
        count++;
    }
    ck_assert_msg(count > 0, "%s: the golden has no gradient of %s", b->label, task);
}

/* ... and no other parameter has one that is not zero. */
static void check_no_other_gradients(const bench *b, const mtbal_program *program, const char *task)
{
    const mtbal_port *in, *out, *states;
    int nin, nout, nstates;
    char prefix[96], key[256];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "mtbal/task_grad/%s/%s", task,
                                     b->c->how->prefix ? b->c->how->prefix : "");
    mtbal_plan_ports(program->plan, &in, &nin, &out, &nout, &states, &nstates);
    for (int i = 0; i < nout; i++) {
        if (strncmp(out[i].name, prefix, length) != 0)
            continue;
        snprintf(key, sizeof key, "grad/%s/%s", task, out[i].name + length);
        bool known = mtbal_npz_find(b->golden, key) != NULL;
        snprintf(key, sizeof key, "sketch/%s/%s", task, out[i].name + length);
        if (known || mtbal_npz_find(b->golden, key))
            continue;
        const rt_tensor *t = mtbal_instance_output(program->instance, out[i].name);
        mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .count = rt_count(t), .data = t->data};
        for (int64_t k = 0; k < as.count; k++)
            ck_assert_msg(mtbal_tensor_f64(&as, k) == 0, "%s: %s is not zero", b->label,
                          out[i].name);
    }
}

static void check_running_statistics(const bench *b, mtbal_instance *instance)
{
    static const char prefix[] = "buffer_after_onnx/";
    for (int i = 0; i < b->golden->count; i++) {
        const mtbal_array *golden = &b->golden->arrays[i];
        if (strncmp(golden->name, prefix, sizeof prefix - 1))
            continue;
        const char *name = golden->name + sizeof prefix - 1;
        compare(b, mtbal_instance_state(instance, name), golden, 1e-5, fmax(1, largest(golden)),
                name);
    }
}

static mtbal_status check_everything(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    (void)diag;
    bench *b = context;
    mtbal_instance *instance = r->program->instance;
    const mtbal_array *norms = wanted(b, "shared_norm"), *gram = wanted(b, "shared_gram");
    check_losses(b, r);
    for (int i = 0; i < b->session->ntasks; i++) {
        check_gradients_of(b, instance, b->session->tasks[i]);
        check_no_other_gradients(b, r->program, b->session->tasks[i]);
    }
    for (int i = 0; i < b->session->ntasks; i++)
        ck_assert_msg(fabs(r->grad_norm[i] - element(norms, i)) <= 1e-4 * element(norms, i),
                      "%s: the norm of %s is %.9g, PyTorch says %.9g", b->label,
                      b->session->tasks[i], r->grad_norm[i], element(norms, i));
    compare(b, mtbal_instance_output(instance, "mtbal/gram"), gram, 1e-4, largest(gram),
            "mtbal/gram");
    compare(b, mtbal_instance_output(instance, "mtbal/cosine"), wanted(b, "shared_cosine"), 1e-4, 1,
            "mtbal/cosine");
    check_running_statistics(b, instance);
    return MTBAL_OK;
}

static mtbal_status check_trajectory(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    (void)diag;
    bench *b = context;
    for (int i = 0; i < b->session->ntasks; i++) {
        double golden = element(b->trajectory, r->step * b->session->ntasks + i);
        ck_assert_msg(fabs(r->loss[i] - golden) <= 1e-3 * fabs(golden),
                      "%s: %s at step %lld is %.9g, PyTorch says %.9g", b->label,
                      b->session->tasks[i], (long long)r->step, r->loss[i], golden);
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ tests */

START_TEST(test_first_step)
{
    bench b;
    open_bench(&b, &cases[_i]);
    rewrite(&b, "sgd", "calibrated",
            MTBAL_OUT_NORMS | MTBAL_OUT_GRAM | MTBAL_OUT_GRADS | MTBAL_OUT_TASK_GRADS);
    run(&b, 0, 1, true, check_everything);
    close_run(&b);
    close_bench(&b);
}
END_TEST

START_TEST(test_trajectory_sgd)
{
    bench b;
    open_bench(&b, &cases[_i]);
    b.trajectory = wanted(&b, "traj_sgd");
    rewrite(&b, "sgd", "equal", MTBAL_OUT_NORMS);
    run(&b, cases[_i].lr, 10, false, check_trajectory);
    close_run(&b);
    close_bench(&b);
}
END_TEST

START_TEST(test_trajectory_adam)
{
    bench b;
    open_bench(&b, &cases[_i]);
    b.trajectory = wanted(&b, "traj_adam");
    rewrite(&b, "adam", "equal", MTBAL_OUT_NONE);
    run(&b, 1e-3, 10, false, check_trajectory);
    close_run(&b);
    close_bench(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("goldens");
    TCase *tests = tcase_create("models");
    int n = sizeof cases / sizeof *cases;
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, test_first_step, 0, n);
    tcase_add_loop_test(tests, test_trajectory_sgd, 0, n);
    tcase_add_loop_test(tests, test_trajectory_adam, 0, n);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
