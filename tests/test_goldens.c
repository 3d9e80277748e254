/* tests/test_goldens.c: real exports, rewritten and run by our runtime, against what PyTorch
 * computed for them: losses, every task's gradient of every parameter, norms, Gram matrix, cosines,
 * running statistics, ten-step trajectories. */
#include "passes/passes.h"
#include "train/train.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATA "tests/data/models/"

typedef struct golden_case {
    const char *folder, *file, *golden; /* golden: the .npz, without its ending */
    bool inline_functions;
    double lr; /* of the SGD trajectory */
} golden_case;

static const golden_case cases[] = {
    {"mlp_cls_reg", "model.op13.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "model.op17.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "model.op17.onnx", "mlp_cls_reg/golden", true, 0.05},
    {"mlp_cls_reg", "static.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "inits_as_inputs.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "functions.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures", "external.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures/ext_many", "external_many.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures", "metadata.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures", "metadata_ir10_fields.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures", "weights_as_constants.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"cnn_nyu", "model.op13.onnx", "cnn_nyu/golden", false, 0.02},
    {"cnn_nyu", "model.op14.onnx", "cnn_nyu/golden", false, 0.02},
    {"cnn_nyu", "model.op17.onnx", "cnn_nyu/golden", false, 0.02},
    {"cnn_nyu", "model.op17.onnx", "cnn_nyu/golden", true, 0.02},
    {"cnn_nyu", "preserve_dyn_hw.onnx", "cnn_nyu/golden", false, 0.02},
    {"transformer_glue", "model.op13.onnx", "transformer_glue/golden", false, 0.05},
    {"transformer_glue", "model.op17.onnx", "transformer_glue/golden", false, 0.05},
    {"transformer_glue", "model.op17.onnx", "transformer_glue/golden", true, 0.05},
    {"rnn_tag", "model.op13.onnx", "rnn_tag/golden", false, 0.05},
    {"rnn_tag", "model.op17.onnx", "rnn_tag/golden", false, 0.05},
    {"rnn_tag", "model.op17.onnx", "rnn_tag/golden", true, 0.05},
    {"rnn_steps", "model.op17.onnx", "rnn_steps/golden", false, 0.05},
    {"mmoe", "model.op13.onnx", "mmoe/golden", false, 0.05},
    {"mmoe", "model.op17.onnx", "mmoe/golden", false, 0.05},
    {"masked", "model.op17.onnx", "masked/golden", false, 0.05},
    {"masked", "model.op17.onnx", "masked/golden", true, 0.05},
    /* batches of 1 and 5, and what has no recorded numbers: tests/torch/goldens.py */
    {"mlp_cls_reg", "model.op13.onnx", "mlp_cls_reg/b1", false, 0.05},
    {"mlp_cls_reg", "model.op13.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"mlp_cls_reg", "model.op17.onnx", "mlp_cls_reg/b1", false, 0.05},
    {"mlp_cls_reg", "model.op17.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"mlp_cls_reg", "inits_as_inputs.onnx", "mlp_cls_reg/b1", false, 0.05},
    {"mlp_cls_reg", "inits_as_inputs.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"mlp_cls_reg", "functions.onnx", "mlp_cls_reg/b1", false, 0.05},
    {"mlp_cls_reg", "functions.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"cnn_nyu", "model.op13.onnx", "cnn_nyu/b1", false, 0.02},
    {"cnn_nyu", "model.op13.onnx", "cnn_nyu/b5", false, 0.02},
    {"cnn_nyu", "model.op14.onnx", "cnn_nyu/b1", false, 0.02},
    {"cnn_nyu", "model.op14.onnx", "cnn_nyu/b5", false, 0.02},
    {"cnn_nyu", "model.op17.onnx", "cnn_nyu/b1", false, 0.02},
    {"cnn_nyu", "model.op17.onnx", "cnn_nyu/b5", false, 0.02},
    {"cnn_nyu", "preserve_dyn_hw.onnx", "cnn_nyu/b1", false, 0.02},
    {"cnn_nyu", "preserve_dyn_hw.onnx", "cnn_nyu/b5", false, 0.02},
    {"transformer_glue", "model.op13.onnx", "transformer_glue/b1", false, 0.05},
    {"transformer_glue", "model.op13.onnx", "transformer_glue/b5", false, 0.05},
    {"transformer_glue", "model.op17.onnx", "transformer_glue/b1", false, 0.05},
    {"transformer_glue", "model.op17.onnx", "transformer_glue/b5", false, 0.05},
    {"fixtures", "external.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"fixtures", "metadata.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"fixtures", "metadata_ir10_fields.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"fixtures", "weights_as_constants.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"fixtures/ext_many", "external_many.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"mlp_cls_reg", "heads.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "heads.onnx", "mlp_cls_reg/b1", false, 0.05},
    {"mlp_cls_reg", "heads.onnx", "mlp_cls_reg/b5", false, 0.05},
    {"cnn_nyu", "eval_bn.onnx", "cnn_nyu/eval_bn", false, 0.02},
    {"cnn_nyu", "eval_bn.onnx", "cnn_nyu/eval_bn", true, 0.02},
    {"transformer_glue", "torch_encoder_layer.onnx", "transformer_glue/torch_encoder_layer", false,
     0.05},
    {"transformer_glue", "torch_encoder_layer.onnx", "transformer_glue/torch_encoder_layer", true,
     0.05},
    {"fixtures", "dynamo_like.onnx", "fixtures/dynamo_like", false, 0.05},
    {"fixtures", "dynamo_like.onnx", "fixtures/dynamo_like", true, 0.05},
    {"fixtures", "control_flow.onnx", "fixtures/control_flow", false, 0.05},
    {"fixtures", "control_flow.onnx", "fixtures/control_flow", true, 0.05},
    {"fixtures", "double.onnx", "fixtures/double", false, 0.05},
    {"fixtures", "tied.onnx", "fixtures/tied", false, 0.05},
    {"fixtures", "tied.onnx", "fixtures/tied", true, 0.05},
    {"cnn_nyu", "eval_bn.onnx", "cnn_nyu/eval_bn.b1", false, 0.01},
    {"cnn_nyu", "eval_bn.onnx", "cnn_nyu/eval_bn.b5", false, 0.01},
    {"transformer_glue", "torch_encoder_layer.onnx", "transformer_glue/torch_encoder_layer.b1",
     false, 0.01},
    {"transformer_glue", "torch_encoder_layer.onnx", "transformer_glue/torch_encoder_layer.b5",
     false, 0.01},
    {"transformer_glue", "dropout_p01.onnx", "transformer_glue/dropout_p01.b1", false, 0.01},
    {"transformer_glue", "dropout_p01.onnx", "transformer_glue/dropout_p01.b5", false, 0.01},
    {"fixtures", "dynamo_like.onnx", "fixtures/dynamo_like.b1", false, 0.01},
    {"fixtures", "dynamo_like.onnx", "fixtures/dynamo_like.b5", false, 0.01},
    {"fixtures", "tied.onnx", "fixtures/tied.b1", false, 0.01},
    {"fixtures", "tied.onnx", "fixtures/tied.b5", false, 0.01},
};

/* The same in ONNX's own form, TrainingInfoProto. */
static const golden_case info_cases[] = {
    {"mlp_cls_reg", "model.op13.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"mlp_cls_reg", "model.op17.onnx", "mlp_cls_reg/golden", true, 0.05},
    {"mlp_cls_reg", "inits_as_inputs.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"fixtures", "external.onnx", "mlp_cls_reg/golden", false, 0.05},
    {"cnn_nyu", "model.op13.onnx", "cnn_nyu/golden", false, 0.02},
    {"cnn_nyu", "model.op17.onnx", "cnn_nyu/golden", false, 0.02},
    {"transformer_glue", "model.op13.onnx", "transformer_glue/golden", false, 0.05},
    {"transformer_glue", "model.op17.onnx", "transformer_glue/golden", false, 0.05},
    {"rnn_tag", "model.op17.onnx", "rnn_tag/golden", false, 0.05},
    {"rnn_steps", "model.op17.onnx", "rnn_steps/golden", false, 0.05},
    {"mmoe", "model.op17.onnx", "mmoe/golden", false, 0.05},
    {"masked", "model.op17.onnx", "masked/golden", false, 0.05},
};
enum { NCASES = sizeof cases / sizeof *cases, NINFO = sizeof info_cases / sizeof *info_cases };

/* heads.onnx has no losses of its own; it was exported from within a module `m`. */
static bool is_heads(const golden_case *c)
{
    return !strcmp(c->file, "heads.onnx");
}
static const mtbal_pair losses[] = {{"loss_cls", "cross-entropy:logits,label"},
                                    {"loss_reg", "mse:pred,target"}};

/* ------------------------------------------------------------------ the work space of a test */

typedef struct bench {
    const golden_case *c;
    bool training_info;
    char folder[64], step[128], inputs[128], label[160];
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

/* index: into cases, then into info_cases. */
static void open_bench(bench *b, int index)
{
    mtbal_diag diag = {0};
    char path[160];
    bool info = index >= NCASES;
    const golden_case *c = info ? &info_cases[index - NCASES] : &cases[index];
    *b = (bench){.c = c, .training_info = info};
    snprintf(b->label, sizeof b->label, "%s/%s (%s)%s%s", c->folder, c->file, c->golden,
             c->inline_functions ? " --inline-functions" : "",
             info ? " --target training-info" : "");
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

/* Every Dropout's ratio becomes 0: what is left is the network of the golden numbers. */
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
    snprintf(path, sizeof path, DATA "%s/%s", b->c->folder, b->c->file);
    mtbal_options_default(&options);
    options.optimizer = optimizer;
    options.balance = balance;
    options.outputs = outputs;
    options.inline_functions = b->c->inline_functions;
    options.verify_between = true;
    if (is_heads(b->c)) {
        options.losses = losses;
        options.nlosses = 2;
    }
    must(mtbal_onnx_read(path, &model, &diag), &diag, b);
    if (!strcmp(b->c->file, "dropout_p01.onnx"))
        without_dropout(model);
    must(mtbal_rewrite(model, &options, &context, &diag), &diag, b);
    if (b->training_info)
        must(mtbal_training_info(context), &diag, b);
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
    ck_assert_msg(array != NULL, "%s: the golden file has no %s", b->label, key);
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
static void compare_sketch(const bench *b, const rt_tensor *found, const mtbal_array *golden,
                           double scale, const char *what)
{
    double sums[SIGNS] = {0};
    ck_assert_msg(found && found->data, "%s: there is no %s", b->label, what);
    ck_assert_int_eq(golden->count, SIGNS);
    mtbal_tensor as = {.dtype = (mtbal_dtype)found->dtype, .data = found->data};
    for (int64_t i = 0; i < rt_count(found); i++) {
        uint64_t h = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
        h *= 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        double x = mtbal_tensor_f64(&as, i);
        for (int k = 0; k < SIGNS; k++)
            sums[k] += h >> k & 1 ? -x : x;
    }
    for (int k = 0; k < SIGNS; k++)
        ck_assert_msg(fabs(sums[k] - element(golden, k)) <= 0.5e-4 * scale,
                      "%s: sum %d of %s is %.9g, PyTorch says %.9g (largest entry %g)", b->label, k,
                      what, sums[k], element(golden, k), scale);
}

/* The largest entry of a task's gradients: stored beside sketches, or found. */
static double largest_of_task(const bench *b, const char *task)
{
    char key[96];
    double most = 0;
    snprintf(key, sizeof key, "largest/%s", task);
    const mtbal_array *stored = mtbal_npz_find(b->golden, key);
    if (stored)
        return element(stored, 0);
    size_t length = (size_t)snprintf(key, sizeof key, "grad/%s/", task);
    for (int i = 0; i < b->golden->count; i++)
        if (!strncmp(b->golden->arrays[i].name, key, length))
            most = fmax(most, largest(&b->golden->arrays[i]));
    return most;
}

static void check_task_gradients(const bench *b, mtbal_instance *instance, const char *task)
{
    char whole[96], sketch[96], name[256];
    size_t whole_length = (size_t)snprintf(whole, sizeof whole, "grad/%s/", task);
    size_t sketch_length = (size_t)snprintf(sketch, sizeof sketch, "sketch/%s/", task);
    double scale = largest_of_task(b, task);
    int count = 0;
    for (int i = 0; i < b->golden->count; i++) {
        const mtbal_array *golden = &b->golden->arrays[i];
        bool is_whole = !strncmp(golden->name, whole, whole_length);
        if (!is_whole && strncmp(golden->name, sketch, sketch_length) != 0)
            continue;
        snprintf(name, sizeof name, "mtbal/task_grad/%s/%s%s", task, is_heads(b->c) ? "m." : "",
                 golden->name + (is_whole ? whole_length : sketch_length));
        if (is_whole)
            compare(b, mtbal_instance_output(instance, name), golden, 1e-4, scale, name);
        else
            compare_sketch(b, mtbal_instance_output(instance, name), golden, scale, name);
        count++;
    }
    ck_assert_msg(count > 0, "%s: the golden file has no gradient of %s", b->label, task);
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
    for (int i = 0; i < b->session->ntasks; i++)
        check_task_gradients(b, instance, b->session->tasks[i]);
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
    open_bench(&b, _i);
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
    open_bench(&b, _i);
    b.trajectory = wanted(&b, "traj_sgd");
    rewrite(&b, "sgd", "equal", MTBAL_OUT_NORMS);
    run(&b, b.c->lr, 10, false, check_trajectory);
    close_run(&b);
    close_bench(&b);
}
END_TEST

START_TEST(test_trajectory_adam)
{
    bench b;
    open_bench(&b, _i);
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
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, test_first_step, 0, NCASES + NINFO);
    tcase_add_loop_test(tests, test_trajectory_sgd, 0, NCASES + NINFO);
    tcase_add_loop_test(tests, test_trajectory_adam, 0, NCASES + NINFO);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
