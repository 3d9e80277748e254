/* tests/test_artifacts.c: the four files of --target ort-training: names, orders, types and
 * versions, each as ONNX Runtime's training sessions were seen to want it; what is refused; the way
 * from a step graph and back from a checkpoint. What sessions make of it: make test-ort. */
#include "tests/steps.h"
#include "train/artifacts.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* Two tasks, a shared weight, a head each, a weight that is frozen, BatchNormalization. */
#define NETWORK(opset, param, loss)                                                                \
    "<ir_version: 8, opset_import: [\"\" : " #opset "]>\n"                                         \
    "net (float[n,3] x, float[n,2] y) => (float " loss ", float far, float[n,2] extra)\n"          \
    "<float[3,2] " param                                                                           \
    " = {1,2,3,4,5,6}, float[2,2] head = {1,0,2,1}, float[2] scale = {1,1},\n"                     \
    " float[2] shift = {0,0}, float[2] mean = {0,0}, float[2] var = {1,1}, float[2] fixed = {3,3}" \
    "> {\n"                                                                                        \
    "  a = MatMul (x, " param ")\n"                                                                \
    "  n0, m1, v1 = BatchNormalization <training_mode = 1> (a, scale, shift, mean, var)\n"         \
    "  b = Mul (n0, fixed)\n"                                                                      \
    "  extra = MatMul (b, head)\n"                                                                 \
    "  d = Sub (extra, y)\n  dd = Mul (d, d)\n  " loss " = ReduceMean <keepdims = 0> (dd)\n"       \
    "  e = Sub (b, y)\n  ee = Mul (e, e)\n  far = ReduceMean <keepdims = 0> (ee)\n}\n"
static const char network[] = NETWORK(17, "w", "near");

static mtbal_options options_of(const char *optimizer)
{
    static const char *const frozen[] = {"fixed"};
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = optimizer;
    o.target = "ort-training";
    o.nfreeze = 1;
    o.freeze = frozen;
    return o;
}

static const char *part(const char *file)
{
    char name[64];
    snprintf(name, sizeof name, "artifacts/%s", file);
    return files_path(name);
}

static mtbal_status write_model(mtbal_model *model, const mtbal_options *o, mtbal_diag *diag)
{
    mtbal_context *context;
    mtbal_status status = mtbal_artifacts_write(model, o, files_path("artifacts"), &context, diag);
    mtbal_model_free(model);
    return status;
}

static void write_text(const char *text, const mtbal_options *o)
{
    mtbal_diag diag = {0};
    steps_ok(write_model(steps_parse(text), o, &diag));
}

static mtbal_checkpoint *checkpoint(const char *path)
{
    mtbal_diag diag = {0};
    mtbal_checkpoint *c = NULL;
    steps_ok(mtbal_checkpoint_read(path, &c, &diag));
    return c;
}

/* ------------------------------------------------------------------ structure */

static void names_are(mtbal_value *const *values, int n, const char *const *expected)
{
    for (int i = 0; i < n; i++)
        ck_assert_msg(expected[i] && !strcmp(values[i]->name, expected[i]), "%d: %s, not %s", i,
                      values[i]->name, expected[i] ? expected[i] : "the end");
    ck_assert_msg(!expected[n], "%s is missing", expected[n]);
}

#define PARAMS "w", "head", "scale", "shift"
#define FROZEN "mtbal/calibration/near", "mtbal/calibration/far", "mean", "var"

/* Sessions make names out of names: nodes without one met in them. */
static mtbal_status is_named(mtbal_node *node, void *context)
{
    (void)context;
    ck_assert_msg(node->name && *node->name, "a %s has no name", node->op);
    return MTBAL_OK;
}

START_TEST(test_training_model)
{
    static const char *const inputs[] = {"x",
                                         "y",
                                         PARAMS,
                                         FROZEN,
                                         "w_grad.accumulation.buffer",
                                         "head_grad.accumulation.buffer",
                                         "scale_grad.accumulation.buffer",
                                         "shift_grad.accumulation.buffer",
                                         "lazy_reset_grad",
                                         NULL},
                             *const outputs[] = {"mtbal/loss",
                                                 "near",
                                                 "far",
                                                 "mtbal/grad_norm/near",
                                                 "mtbal/grad_norm/far",
                                                 "mtbal/weight/near",
                                                 "mtbal/weight/far",
                                                 "mtbal/cosine",
                                                 "extra",
                                                 "w_grad",
                                                 "w_grad.accumulation.out",
                                                 "head_grad",
                                                 "head_grad.accumulation.out",
                                                 "scale_grad",
                                                 "scale_grad.accumulation.out",
                                                 "shift_grad",
                                                 "shift_grad.accumulation.out",
                                                 "mean_grad.accumulation.out",
                                                 "var_grad.accumulation.out",
                                                 NULL};
    mtbal_options o = options_of("adam");
    write_text(network, &o);
    mtbal_model *model = steps_read(part("training_model.onnx"));
    const mtbal_graph *g = model->graph;
    int accumulators = 0;
    names_are(g->inputs, g->ninputs, inputs);
    names_are(g->outputs, g->noutputs, outputs);
    ck_assert_int_eq(g->outputs[0]->type.rank, 0);
    for (int i = 0; i < g->ninitializers; i++) /* the frozen weight is a constant of the graph */
        ck_assert_str_eq(g->initializers[i]->name, "fixed");
    for (const mtbal_node *node = g->first; node; node = node->next) {
        if (strcmp(node->domain, "com.microsoft") != 0)
            continue;
        ck_assert_str_eq(node->op, "InPlaceAccumulatorV2");
        ck_assert(node->nin == 3 && node->in[0]->is_input && node->out[0]->is_output);
        accumulators++;
    }
    ck_assert_int_eq(accumulators, 4 + 2);
    mtbal_graph_walk(model->graph, is_named, NULL);
    for (int i = 0; i < model->nfunctions; i++)
        mtbal_graph_walk(model->functions[i]->body, is_named, NULL);
    ck_assert(mtbal_function_find(model, "com.microsoft", "InPlaceAccumulatorV2", ""));
    ck_assert_int_eq(mtbal_opset_of(model, "com.microsoft"), 1);
    ck_assert_int_eq(mtbal_opset_of(model, ""), 17);
    ck_assert_int_le(model->ir_version, 10);
    mtbal_value *buffer = mtbal_value_find(model->graph, "w_grad.accumulation.buffer");
    ck_assert(buffer->type.rank == 2 && buffer->type.dims[0].size == 3);
    mtbal_value *reset = mtbal_value_find(model->graph, "lazy_reset_grad");
    ck_assert(reset->type.dtype == MTBAL_BOOL && reset->type.rank == 1);
    ck_assert_int_eq(reset->type.dims[0].size, 1);
    mtbal_model_free(model);
}
END_TEST

/* All parameters, those that it does not read (calibration, accumulators' states) too. */
START_TEST(test_eval_model)
{
    static const char *const inputs[] = {"x", "y", PARAMS, FROZEN, NULL}, *const outputs[] = {
                                                                              "mtbal/loss", "near",
                                                                              "far", "extra", NULL};
    mtbal_options o = options_of("sgd");
    write_text(network, &o);
    mtbal_model *model = steps_read(part("eval_model.onnx"));
    names_are(model->graph->inputs, model->graph->ninputs, inputs);
    names_are(model->graph->outputs, model->graph->noutputs, outputs);
    for (const mtbal_node *node = model->graph->first; node; node = node->next) {
        ck_assert_str_ne(node->domain, "com.microsoft");
        if (mtbal_node_is(node, MTBAL_OP_batch_normalization))
            ck_assert(mtbal_attr_i(node, "training_mode", 0) == 0 && node->nout == 1);
    }
    mtbal_model_free(model);
}
END_TEST

static const struct optimizer {
    const char *name, *node;
    int moments;
    double decay, clip;
    const char *lr; /* --set lr=, or NULL */
} optimizers[] = {
    {"sgd", "SGDOptimizerV2", 1, 0, 0, NULL},
    {"sgd", "SGDOptimizerV2", 1, 0, 0.5, "0.1"},
    {"adam", "AdamWOptimizer", 2, 0, 0, "0.002"},
    {"adamw", "AdamWOptimizer", 2, 0.01, 2, "input"},
};

START_TEST(test_optimizer_model)
{
    static const char *const inputs[] = {
        "learning_rate",        "step", "params", "gradients", "first_order_moments",
        "second_order_moments", NULL};
    const struct optimizer *is = &optimizers[_i];
    mtbal_options o = options_of(is->name);
    const mtbal_pair set = {"lr", is->lr};
    o.clip = is->clip;
    o.nset = is->lr != NULL;
    o.set = &set;
    write_text(network, &o);
    mtbal_model *model = steps_read(part("optimizer_model.onnx"));
    const mtbal_graph *g = model->graph;
    int found = 0, clips = 0;
    ck_assert_int_eq(g->ninputs, 4 + is->moments);
    for (int i = 0; i < g->ninputs; i++) {
        ck_assert_str_eq(g->inputs[i]->name, inputs[i]);
        ck_assert_int_eq(g->inputs[i]->type.kind, i < 2 ? MTBAL_TENSOR : MTBAL_SEQUENCE);
    }
    ck_assert_str_eq(g->outputs[0]->name, "updated");
    ck_assert_int_eq(g->noutputs, 1);
    for (const mtbal_node *node = g->first; node; node = node->next) {
        clips += !strcmp(node->op, "InplaceClipGradNorm");
        if (strcmp(node->domain, "com.microsoft") != 0 || !strcmp(node->op, "InplaceClipGradNorm"))
            continue;
        found++;
        ck_assert_str_eq(node->op, is->node);
        ck_assert_str_eq(node->in[0]->name, is->lr ? "rate" : "learning_rate");
        if (is->moments == 2) {
            ck_assert_double_eq_tol(mtbal_attr_f(node, "weight_decay", -1), is->decay, 1e-9);
            ck_assert_double_eq_tol(mtbal_attr_f(node, "epsilon", -1), 1e-8, 1e-15);
            ck_assert_int_eq(mtbal_attr_i(node, "adam_mode", -1), 0);
            ck_assert_int_eq(mtbal_attr_i(node, "correct_bias", -1), 1);
        }
    }
    ck_assert_int_eq(found, 1); /* sessions refuse two */
    ck_assert_int_eq(clips, is->clip > 0);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_checkpoint)
{
    static const char *const trainable[] = {PARAMS}, *const frozen[] = {FROZEN};
    const mtbal_pair set = {"calibration/far", "4"};
    mtbal_options o = options_of("sgd");
    o.nset = 1;
    o.set = &set;
    write_text(network, &o);
    mtbal_checkpoint *c = checkpoint(part("checkpoint"));
    ck_assert(c->version == 2 && c->ntrainable == 4 && c->nfrozen == 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_str_eq(c->trainable[i].name, trainable[i]);
        ck_assert_str_eq(c->frozen[i].name, frozen[i]);
    }
    ck_assert_float_eq(((const float *)mtbal_checkpoint_find(c, "w")->data)[5], 6);
    ck_assert_float_eq(*(const float *)mtbal_checkpoint_find(c, frozen[1])->data, 4);
    /* G 1 and 4: weights 1/G over the mean of 1/G */
    static const struct {
        const char *name;
        float value;
    } properties[] = {{"mtbal/calibration/near", 1},
                      {"mtbal/calibration/far", 4},
                      {"mtbal/weight/near", 1.6f},
                      {"mtbal/weight/far", 0.4f}};
    ck_assert_int_eq(c->nproperties, 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_str_eq(c->properties[i].name, properties[i].name);
        ck_assert_float_eq_tol(c->properties[i].value, properties[i].value, 1e-6f);
    }
    mtbal_checkpoint_free(c);
}
END_TEST

/* lr=input: an input of the training model, carried by a parameter whose rank no other has. */
START_TEST(test_fed)
{
    const mtbal_pair set[] = {{"lr", "input"}, {"calibration/near", "input"}};
    mtbal_options o = options_of("adam");
    o.nset = 2;
    o.set = set;
    write_text(network, &o);
    mtbal_model *model = steps_read(part("training_model.onnx"));
    mtbal_checkpoint *c = checkpoint(part("checkpoint"));
    static const char *const inputs[] = {"x", "y", "mtbal/calibration/near", "mtbal/lr"};
    for (int i = 0; i < 4; i++)
        ck_assert_str_eq(model->graph->inputs[i]->name, inputs[i]);
    ck_assert_int_eq(c->ntrainable, 5);
    ck_assert_str_eq(c->trainable[4].name, "mtbal/fed_lr");
    ck_assert_int_eq(c->trainable[4].rank, 3);
    ck_assert_int_eq(c->nfrozen, 3); /* what is fed is not kept */
    mtbal_checkpoint_free(c);
    mtbal_model_free(model);
    model = steps_read(part("eval_model.onnx"));
    ck_assert_ptr_null(mtbal_value_find(model->graph, "mtbal/lr"));
    ck_assert_ptr_nonnull(mtbal_value_find(model->graph, "mtbal/fed_lr"));
    mtbal_model_free(model);
}
END_TEST

/* --outputs grads: mtbal/grad/P too, for a session hides P_grad. --optimizer none: three files. */
START_TEST(test_choices)
{
    mtbal_options o = options_of("none");
    o.outputs = MTBAL_OUT_GRADS;
    write_text(network, &o);
    mtbal_model *model = steps_read(part("training_model.onnx"));
    ck_assert(mtbal_value_find(model->graph, "mtbal/grad/w")->is_output);
    ck_assert_ptr_null(mtbal_value_find(model->graph, "mtbal/cosine"));
    mtbal_model_free(model);
    ck_assert_int_eq(files_count(), 4); /* the folder, and in it */
}
END_TEST

/* ------------------------------------------------------------------ refusals */

static const struct refusal {
    const char *text, *optimizer, *set, *value;
    mtbal_status status;
    const char *says;
} refusals[] = {
    {NETWORK(17, "w_grad", "near"), "sgd", NULL, NULL, MTBAL_INVALID, "the parameter w_grad"},
    {NETWORK(17, "lazy_reset_grad", "near"), "sgd", NULL, NULL, MTBAL_INVALID, "lazy_reset_grad"},
    {NETWORK(17, "w", "near_grad"), "sgd", NULL, NULL, MTBAL_INVALID, "the output near_grad"},
    {NETWORK(17, "\"b_grad.accumulation.out\"", "near"), "sgd", NULL, NULL, MTBAL_INVALID,
     "take names"},
    {NETWORK(30, "w", "near"), "sgd", NULL, NULL, MTBAL_UNSUPPORTED, "opset 30"},
    {network, "momentum", NULL, NULL, MTBAL_USAGE, "no momentum"},
    {network, "lion", NULL, NULL, MTBAL_USAGE, "no optimizer 'lion'"},
    {network, "adam", "beta1", "much", MTBAL_USAGE, "beta1=much"},
    {network, "adam", "lr", "-1", MTBAL_USAGE, "lr=-1"},
    {network, "adam", "weight_decay", "0.1", MTBAL_USAGE, "no hyper-parameter weight_decay"},
    {network, "sgd", "beta1", "0.5", MTBAL_USAGE, "no hyper-parameter beta1"},
    {network, "none", "lr", "1", MTBAL_USAGE, "no hyper-parameter lr"},
    {network, "sgd", "what", "input", MTBAL_USAGE, "NAME=input"},
    {"<ir_version: 8, opset_import: [\"\" : 17]>\n"
     "g (float[n,3] x) => (float a) <float[3,1] w = {1,2,3}> {\n"
     "  p = MatMul (x, w)\n  w_grad = Mul (p, p)\n  a = ReduceMean <keepdims = 0> (w_grad)\n}",
     "sgd", NULL, NULL, MTBAL_INVALID, "a value of the name w_grad"},
    {"<ir_version: 8, opset_import: [\"\" : 17]>\n"
     "g (double[n,3] x) => (double a) <double[3,1] w = {1,2,3}> {\n"
     "  p = MatMul (x, w)\n  a = ReduceMean <keepdims = 0> (p)\n}",
     "sgd", NULL, NULL, MTBAL_UNSUPPORTED, "float only; this is double"},
    {"<ir_version: 8, opset_import: [\"\" : 24]>\n"
     "g (float[n,3] x) => (float a) <float[3,1] w = {1,2,3}> {\n"
     "  p = MatMul (x, w)\n  s = Swish (p)\n  a = ReduceMean <keepdims = 0> (s)\n}",
     "sgd", NULL, NULL, MTBAL_UNSUPPORTED, "opset 24"},
};

START_TEST(test_refused)
{
    const struct refusal *r = &refusals[_i];
    const mtbal_pair set = {r->set, r->value};
    mtbal_options o = options_of(r->optimizer);
    mtbal_diag diag = {0};
    o.nset = r->set != NULL;
    o.set = &set;
    o.nfreeze = strstr(r->text, "fixed") != NULL;
    ck_assert_int_eq(write_model(steps_parse(r->text), &o, &diag), r->status);
    ck_assert_msg(strstr(diag.what, r->says) != NULL, "%s, not %s", diag.what, r->says);
    ck_assert_int_eq(files_count(), 0);
}
END_TEST

/* Opsets whose operators here only have got more types; IR versions. */
START_TEST(test_lowered)
{
    static const struct {
        const char *target;
        int opset, ir, becomes, becomes_ir, checkpoint;
    } cases[] = {{"ort-training", 24, 11, 21, 10, 2},
                 {"ort-training", 20, 9, 20, 9, 2},
                 {"ort-training-1.17", 21, 10, 20, 9, 1}};
    mtbal_diag diag = {0};
    mtbal_options o = options_of("sgd");
    mtbal_model *model = steps_parse(network);
    model->ir_version = cases[_i].ir;
    ck_assert_int_eq(mtbal_set_opset(model, "", cases[_i].opset), MTBAL_OK);
    o.target = cases[_i].target;
    steps_ok(write_model(model, &o, &diag));
    model = steps_read(part("training_model.onnx"));
    ck_assert_int_eq(mtbal_opset_of(model, ""), cases[_i].becomes);
    ck_assert_int_eq(model->ir_version, cases[_i].becomes_ir);
    mtbal_model_free(model);
    mtbal_checkpoint *c = checkpoint(part("checkpoint"));
    ck_assert_int_eq(c->version, cases[_i].checkpoint);
    mtbal_checkpoint_free(c);
}
END_TEST

/* ------------------------------------------------------------------ from a step graph */

/* The step graph of the network, with G 3 and 0.5 and another weight. */
static mtbal_model *calibrated(void)
{
    mtbal_diag diag = {0};
    mtbal_context *context;
    mtbal_options o = options_of("adam");
    mtbal_model *model = steps_parse(network);
    steps_ok(mtbal_rewrite(model, &o, &context, &diag));
    mtbal_tensor_set_f64(mtbal_value_find(model->graph, "mtbal/calibration/near")->tensor, 0, 3);
    mtbal_tensor_set_f64(mtbal_value_find(model->graph, "mtbal/calibration/far")->tensor, 0, 0.5);
    mtbal_tensor_set_f64(mtbal_value_find(model->graph, "w")->tensor, 0, -7);
    steps_ok(mtbal_onnx_write(model, files_path("step.onnx"), &diag));
    mtbal_model_free(model);
    return steps_read(files_path("step.onnx"));
}

START_TEST(test_step_graph)
{
    const mtbal_pair set = {"mtbal/calibration/far", "8"};
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adam");
    write_text(network, &o);
    mtbal_model *plain = steps_read(part("training_model.onnx"));
    o.nset = _i; /* the user's word counts more */
    o.set = &set;
    steps_ok(write_model(calibrated(), &o, &diag));
    mtbal_model *model = steps_read(part("training_model.onnx"));
    const mtbal_node *a = plain->graph->first, *b = model->graph->first;
    for (; a && b; a = a->next, b = b->next)
        ck_assert_str_eq(a->op, b->op);
    ck_assert(!a && !b);
    mtbal_checkpoint *c = checkpoint(part("checkpoint"));
    const char *names[] = {"w", "mtbal/calibration/near", "mtbal/calibration/far"};
    const float values[] = {-7, 3, _i ? 8 : 0.5f};
    for (int i = 0; i < 3; i++)
        ck_assert_float_eq(*(const float *)mtbal_checkpoint_find(c, names[i])->data, values[i]);
    mtbal_checkpoint_free(c);
    mtbal_model_free(model);
    mtbal_model_free(plain);
}
END_TEST

START_TEST(test_other_options)
{
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adam");
    if (_i)
        o.balance = "equal";
    else
        o.nfreeze = 0;
    ck_assert_int_eq(write_model(calibrated(), &o, &diag), MTBAL_USAGE);
    ck_assert(strstr(diag.what, _i ? "mtbal.balance" : "mtbal.params"));
}
END_TEST

/* ------------------------------------------------------------------ the way back */

START_TEST(test_back)
{
    static const char *const files[] = {"training_model.onnx", "eval_model.onnx"};
    const mtbal_pair set = {"lr", "input"};
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adam");
    o.nset = 1;
    o.set = &set;
    write_text(network, &o);
    mtbal_model *model = steps_read(part(files[_i]));
    steps_ok(mtbal_artifacts_load(model, part("checkpoint"), &diag));
    steps_ok(mtbal_inference(model, &o, &diag));
    static const char *const inputs[] = {"x", "y", NULL}, *const outputs[] = {"near", "far",
                                                                              "extra", NULL};
    names_are(model->graph->inputs, model->graph->ninputs, inputs);
    names_are(model->graph->outputs, model->graph->noutputs, outputs);
    ck_assert_double_eq(mtbal_tensor_f64(mtbal_value_find(model->graph, "w")->tensor, 3), 4);
    for (int i = 0; i < model->graph->ninitializers; i++)
        ck_assert(strncmp(model->graph->initializers[i]->name, "mtbal/", 6) != 0);
    mtbal_model_free(model);
}
END_TEST

/* What ONNX Runtime saved after three steps of this network. */
START_TEST(test_saved)
{
    static const char *const saved[] = {"tests/data/ort/saved-1.17.3.checkpoint",
                                        "tests/data/ort/saved-1.19.2.checkpoint"};
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adamw");
    write_text(network, &o);
    mtbal_model *model = steps_read(part("training_model.onnx"));
    steps_ok(mtbal_artifacts_load(model, saved[_i], &diag));
    steps_ok(mtbal_inference(model, &o, &diag));
    ck_assert_double_eq(mtbal_tensor_f64(mtbal_value_find(model->graph, "w")->tensor, 0),
                        0.9969698786735535);
    ck_assert_double_eq(mtbal_tensor_f64(mtbal_value_find(model->graph, "mean")->tensor, 1),
                        1.1566072702407837);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_no_training_model)
{
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adam");
    write_text(network, &o);
    mtbal_model *model = calibrated();
    ck_assert_int_eq(mtbal_artifacts_load(model, part("checkpoint"), &diag), MTBAL_INVALID);
    ck_assert(strstr(diag.what, "this is none"));
    mtbal_model_free(model);
}
END_TEST

/* A checkpoint of another model: one name too many, one too few, another shape. */
START_TEST(test_another)
{
    static const char *const says[] = {"no input of the name v", "lacks w", "shape or type for w"};
    mtbal_diag diag = {0};
    mtbal_options o = options_of("adam");
    write_text(network, &o);
    mtbal_checkpoint *c = checkpoint(part("checkpoint"));
    mtbal_array other = c->trainable[0];
    int64_t turned[] = {2, 3};
    if (_i == 0)
        other.name = "v";
    else if (_i == 2)
        other.dims = turned;
    mtbal_array list[] = {other, c->trainable[1], c->trainable[2], c->trainable[3]};
    mtbal_checkpoint changed = *c;
    changed.trainable = _i == 1 ? list + 1 : list;
    changed.ntrainable = _i == 1 ? 3 : 4;
    steps_ok(mtbal_checkpoint_write(files_path("changed"), &changed, &diag));
    mtbal_model *model = steps_read(part("training_model.onnx"));
    ck_assert_int_eq(mtbal_artifacts_load(model, files_path("changed"), &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.what, says[_i]) != NULL, "%s, not %s", diag.what, says[_i]);
    mtbal_model_free(model);
    mtbal_checkpoint_free(c);
}
END_TEST

/* ------------------------------------------------------------------ memory */

/* Small: each allocation fails in turn. */
static const char small[] = "<ir_version: 8, opset_import: [\"\" : 17]>\n"
                            "g (float[n,2] x) => (float a) <float[2,1] w = {1,2}> {\n"
                            "  p = MatMul (x, w)\n  a = ReduceMean <keepdims = 0> (p)\n}";

static mtbal_status there_and_back(void *context)
{
    const mtbal_pair set[] = {{"lr", "input"}, {"epsilon", "1e-7"}};
    mtbal_options o = options_of("adamw");
    mtbal_model *model = NULL;
    o.nset = 2;
    o.set = set;
    o.clip = 1;
    o.nfreeze = 0;
    o.outputs = 0;
    MTBAL_TRY(mtbal_onnx_read(context, &model, NULL));
    MTBAL_TRY(write_model(model, &o, NULL));
    MTBAL_TRY(mtbal_onnx_read(part("training_model.onnx"), &model, NULL));
    mtbal_status status = mtbal_artifacts_load(model, part("checkpoint"), NULL);
    mtbal_model_free(model);
    return status;
}

START_TEST(test_memory)
{
    char path[1024];
    mtbal_options o = options_of("adamw");
    o.nfreeze = 0;
    o.outputs = 0;
    snprintf(path, sizeof path, "%s", files_path("step.onnx"));
    steps_write(steps_parse(small), &o, path);
    ck_assert_int_gt(fail_each_allocation(there_and_back, path), 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("artifacts");
    TCase *tests = tcase_create("artifacts");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_add_test(tests, test_training_model);
    tcase_add_test(tests, test_eval_model);
    tcase_add_loop_test(tests, test_optimizer_model, 0, sizeof optimizers / sizeof *optimizers);
    tcase_add_test(tests, test_checkpoint);
    tcase_add_test(tests, test_fed);
    tcase_add_test(tests, test_choices);
    tcase_add_loop_test(tests, test_refused, 0, sizeof refusals / sizeof *refusals);
    tcase_add_loop_test(tests, test_lowered, 0, 3);
    tcase_add_loop_test(tests, test_step_graph, 0, 2);
    tcase_add_loop_test(tests, test_other_options, 0, 2);
    tcase_add_loop_test(tests, test_back, 0, 2);
    tcase_add_loop_test(tests, test_saved, 0, 2);
    tcase_add_test(tests, test_no_training_model);
    tcase_add_loop_test(tests, test_another, 0, 3);
    suite_add_tcase(suite, tests);
    TCase *memory = tcase_create("memory");
    tcase_set_timeout(memory, 120);
    tcase_add_checked_fixture(memory, files_begin, files_end);
    tcase_add_test(memory, test_memory);
    suite_add_tcase(suite, memory);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
