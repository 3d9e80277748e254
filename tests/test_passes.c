/* tests/test_passes.c: each pass alone, ONNX text in, ONNX text out; what is found in real exports;
 * what is said of models that cannot be trained, or not well. */
#include "onnxio/onnxio.h"
#include "passes/passes.h"
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define DATA "tests/data/models/"

static mtbal_model *parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s\n%s", diag.where, diag.what, text);
    return model;
}

static char *print(const mtbal_model *model)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(to != NULL && mtbal_print_model(to, model, -1));
    fclose(to);
    return text;
}

/* Both with inferred types and in the printer's form: how the text here is laid out does not
 * matter.
 */
static void same_text(const char *name, const mtbal_model *found, const char *wanted)
{
    mtbal_model *model = parse(wanted);
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_infer_graph(found->graph, &diag) == MTBAL_OK &&
                      mtbal_infer_graph(model->graph, &diag) == MTBAL_OK,
                  "%s: %s", name, diag.what);
    char *a = print(found), *b = print(model);
    ck_assert_msg(!strcmp(a, b), "%s gives\n%s\nnot\n%s", name, a, b);
    free(a);
    free(b);
    mtbal_model_free(model);
}

/* ------------------------------------------------------------------ one pass: text in, text out */

static mtbal_status upgrade(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_upgrade(*model, 17, diag);
}

static mtbal_status inline_all(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_inline_functions(*model, false, diag);
}

static mtbal_status inline_others(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_inline_functions(*model, true, diag);
}

static mtbal_status fold(mtbal_model **model, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_infer_graph((*model)->graph, diag));
    MTBAL_TRY(mtbal_fold_constants(*model, diag));
    return mtbal_remove_dead(*model, diag);
}

static mtbal_status to_inference(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_inference(*model, NULL, diag);
}

static mtbal_status merge(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_merge_common(*model, diag);
}

static mtbal_status dead(mtbal_model **model, mtbal_diag *diag)
{
    return mtbal_remove_dead(*model, diag);
}

/* Through the dump behind the pass: the rest of the pipeline needs tasks. */
static mtbal_status control(mtbal_model **model, mtbal_diag *diag)
{
    mtbal_options options;
    mtbal_context *context;
    mtbal_diag later = {0};
    char *text = NULL;
    size_t size;
    mtbal_options_default(&options);
    options.dump_after = "control";
    options.dump_to = open_memstream(&text, &size);
    ck_assert(options.dump_to != NULL);
    mtbal_rewrite(*model, &options, &context, &later);
    fclose(options.dump_to);
    mtbal_model_free(*model);
    *model = mtbal_parse_model(text, diag);
    free(text);
    return *model ? mtbal_remove_dead(*model, diag) : diag->status;
}

#define HEAD(opset) "<ir_version: 8, opset_import: [\"\" : " #opset "]>\n"
#define MY          "<ir_version: 8, opset_import: [\"\" : 17, \"my\" : 1]>\n"
#define MY_FUNCTION "<domain: \"my\", opset_import: [\"\" : 17, \"my\" : 1]> "

typedef struct text_case {
    const char *name;
    mtbal_status (*run)(mtbal_model **model, mtbal_diag *diag);
    const char *in, *out;
} text_case;

static const text_case text_cases[] = {
    {"upgrade: axes become inputs", upgrade,
     HEAD(11) "g (float[2,3] x) => (float y) {\n"
              "  a = Unsqueeze <axes = [0]> (x)\n"
              "  y = ReduceSum <axes = [0, 1, 2], keepdims = 0> (a)\n}",
     HEAD(17) "g (float[2,3] x) => (float y) {\n"
              "  [\"mtbal/Constant\"] \"mtbal/Constant\" = Constant <value: tensor = int64[1] {0}> "
              "()\n"
              "  a = Unsqueeze (x, \"mtbal/Constant\")\n"
              "  [\"mtbal/Constant_1\"] \"mtbal/Constant_1\" = Constant <value: tensor = int64[3] "
              "{0,1,2}> ()\n"
              "  y = ReduceSum <keepdims: int = 0> (a, \"mtbal/Constant_1\")\n}"},
    {"upgrade: the last axis needs no flat view", upgrade,
     HEAD(12) "g (float[2,3] x) => (float[2,3] y) { y = Softmax (x) }",
     HEAD(17) "g (float[2,3] x) => (float[2,3] y) { y = Softmax <axis: int = -1> (x) }"},
    {"upgrade: the training form of BatchNormalization", upgrade,
     HEAD(13) "g (float[2,3] x, float[3] s, float[3] m) => (float[2,3] y) {\n"
              "  y, rm, rv, sm, sv = BatchNormalization (x, s, s, m, m)\n}",
     HEAD(17) "g (float[2,3] x, float[3] s, float[3] m) => (float[2,3] y) {\n"
              "  y, rm, rv = BatchNormalization <training_mode: int = 1> (x, s, s, m, m)\n}"},
    {"upgrade: Dropout's ratio", upgrade,
     HEAD(11) "g (float[2] x) => (float[2] y) { y = Dropout <ratio = 0.25> (x) }",
     HEAD(17) "g (float[2] x) => (float[2] y) {\n"
              "  [\"mtbal/Constant\"] \"mtbal/Constant\" = Constant <value: tensor = float {0.25}> "
              "()\n"
              "  y = Dropout (x, \"mtbal/Constant\")\n}"},
    {"upgrade: nothing to do above 17", upgrade,
     HEAD(18) "g (float[2] x) => (float y) { y = ReduceMean (x) }",
     HEAD(18) "g (float[2] x) => (float y) { y = ReduceMean (x) }"},
    {"inline: nested, attributes handed on, defaults", inline_all,
     MY "g (float[2] x) => (float[2] y, float[2] z) {\n"
        "  [n] y = my.outer <slope = 0.5> (x)\n  [m] z = my.outer (x)\n}\n" MY_FUNCTION
        "outer <slope: float = 0.25> (a) => (b) { [i] b = my.inner <alpha: float = @slope> (a) "
        "}\n" MY_FUNCTION
        "inner <alpha> (c) => (d) { [l] d = LeakyRelu <alpha: float = @alpha> (c) }",
     MY "g (float[2] x) => (float[2] y, float[2] z) {\n"
        "  [\"n/i/l\"] y = LeakyRelu <alpha: float = 0.5> (x)\n"
        "  [\"m/i/l\"] z = LeakyRelu <alpha: float = 0.25> (x)\n}"},
    {"inline: operands and results that a call leaves out", inline_all,
     MY "g (float[2,3] x) => (float[2,3] y) { [n] y = my.f (x) }\n" MY_FUNCTION
        "f (a, low) => (b, c) { [p] b = Clip (a, low) [q] c = Neg (a) }",
     MY "g (float[2,3] x) => (float[2,3] y) { [\"n/p\"] y = Clip (x, \"\")"
        " [\"n/q\"] \"n/c\" = Neg (x) }"},
    {"inline: an operand that comes out again, and one result twice", inline_all,
     MY "g (float[2] x) => (float[2] y, float[2] z, float[2] u) { [n] y, z, u = my.f (x) "
        "}\n" MY_FUNCTION "f (a) => (a, b, b) { [p] b = Neg (a) }",
     MY "g (float[2] x) => (float[2] y, float[2] z, float[2] u) {\n"
        "  [\"n/p\"] z = Neg (x)  y = Identity (x)  u = Identity (z) }"},
    {"inline: our own functions stay", inline_others,
     "<ir_version: 8, opset_import: [\"\" : 17, \"mtbal\" : 1]>\n"
     "g (float[2] x) => (float[2] y) { y = mtbal.F (x) }\n"
     "<domain: \"mtbal\", opset_import: [\"\" : 17]> F (a) => (b) { b = Neg (a) }",
     "<ir_version: 8, opset_import: [\"\" : 17, \"mtbal\" : 1]>\n"
     "g (float[2] x) => (float[2] y) { y = mtbal.F (x) }\n"
     "<domain: \"mtbal\", opset_import: [\"\" : 17]> F (a) => (b) { b = Neg (a) }"},
    {"fold: a reshape to sizes that are known", fold,
     HEAD(17) "g (float[4,6] x) => (float[q,p] y) {\n"
              "  s = Shape (x)\n"
              "  one = Constant <value = int64[1] {1}> ()\n"
              "  two = Constant <value = int64[1] {2}> ()\n"
              "  cols = Gather (s, one)\n"
              "  half = Div (cols, two)\n"
              "  rest = Constant <value = int64[1] {-1}> ()\n"
              "  to = Concat <axis = 0> (rest, half)\n"
              "  y = Reshape (x, to)\n}",
     HEAD(17) "g (float[4,6] x) => (float[q,p] y) {\n"
              "  to = Constant <value: tensor = int64[2] {-1,3}> ()\n"
              "  y = Reshape (x, to)\n}"},
    {"fold: torch's pads: reverse, turn, flatten", fold,
     HEAD(17) "g (float[4,6] x) => (float[q,p] y) {\n"
              "  c = Constant <value = int64[4] {1,2,3,4}> ()\n"
              "  s = Constant <value = int64[2] {-1,2}> ()\n"
              "  r = Reshape (c, s)\n"
              "  from = Constant <value = int64[1] {-1}> ()\n"
              "  until = Constant <value = int64[1] {-9223372036854775807}> ()\n"
              "  zero = Constant <value = int64[1] {0}> ()\n"
              "  v = Slice (r, from, until, zero, from)\n"
              "  t = Transpose <perm = [1, 0]> (v)\n"
              "  flat = Reshape (t, from)\n"
              "  pads = Cast <to = 7> (flat)\n"
              "  y = Pad (x, pads)\n}",
     HEAD(17) "g (float[4,6] x) => (float[q,p] y) {\n"
              "  pads = Constant <value: tensor = int64[4] {3,1,4,2}> ()\n"
              "  y = Pad (x, pads)\n}"},
    {"fold: floats and what depends on the run stay", fold,
     HEAD(17) "g (float[n,6] x) => (float y, int64[1] z) {\n"
              "  a = Constant <value = float {2}> ()\n"
              "  b = Mul (a, a)\n"
              "  m = Mul (x, b)\n"
              "  y = ReduceSum <keepdims = 0> (m)\n"
              "  s = Shape (x)\n"
              "  o = Constant <value = int64[1] {0}> ()\n"
              "  z = Gather (s, o)\n}",
     HEAD(17) "g (float[n,6] x) => (float y, int64[1] z) {\n"
              "  a = Constant <value: tensor = float {2}> ()\n"
              "  b = Mul (a, a)\n"
              "  m = Mul (x, b)\n"
              "  y = ReduceSum <keepdims: int = 0> (m)\n"
              "  s = Shape (x)\n"
              "  o = Constant <value: tensor = int64[1] {0}> ()\n"
              "  z = Gather (s, o)\n}"},
    {"merge: what the user wrote stays", merge,
     HEAD(17) "g (float[2] x) => (float[2] y) { a = Exp (x) b = Exp (x) y = Add (a, b) }",
     HEAD(17) "g (float[2] x) => (float[2] y) { a = Exp (x) b = Exp (x) y = Add (a, b) }"},
    {"dead: nodes and functions that nobody uses", dead,
     MY "g (float[2] x) => (float[2] y) {\n"
        "  a = Exp (x)\n  b = Neg (a)\n  y = my.used (x)\n}\n" MY_FUNCTION
        "used (c) => (d) { d = my.deeper (c) }\n" MY_FUNCTION
        "unused (c) => (d) { d = Exp (c) }\n" MY_FUNCTION "deeper (c) => (d) { d = Neg (c) }",
     MY "g (float[2] x) => (float[2] y) { y = my.used (x) }\n" MY_FUNCTION
        "used (c) => (d) { d = my.deeper (c) }\n" MY_FUNCTION "deeper (c) => (d) { d = Neg (c) }"},
    {"control: a question about a shape", control,
     HEAD(17) "g (float[n,4] x) => (float[n,4] y) {\n"
              "  s = Shape (x)\n"
              "  one = Constant <value = int64 {1}> ()\n"
              "  d = Gather (s, one)\n"
              "  e = Equal (d, one)\n"
              "  [n] y = If (e) <then_branch = t () => (float[n,4] a) { a = Exp (x) },\n"
              "                  else_branch = o () => (float[n,4] b) { [p] b = Neg (x) }>\n}",
     HEAD(17) "g (float[n,4] x) => (float[n,4] y) {\n"
              "  [\"n/p\"] \"n/b\" = Neg (x)\n  [y] y = Identity (\"n/b\")\n}"},
    {"control: a loop, its iterations in the open", control,
     HEAD(17) "g (float[2] x) => (float[2] y) {\n"
              "  n = Constant <value = int64 {2}> ()\n"
              "  [l] y = Loop (n, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, "
              "float[2] k)\n"
              "     { d = Identity (c) [p] f = Cast <to = 1> (i) [q] k = Mul (h, f) }>\n}",
     HEAD(
         17) "g (float[2] x) => (float[2] y) {\n"
             "  [\"mtbal/Constant\"] \"mtbal/Constant\" = Constant <value: tensor = int64 {0}> ()\n"
             "  [\"l/0/p\"] \"l/0/f\" = Cast <to: int = 1> (\"mtbal/Constant\")\n"
             "  [\"l/0/q\"] \"l/0/k\" = Mul (x, \"l/0/f\")\n"
             "  [\"mtbal/Constant_2\"] \"mtbal/Constant_2\" = Constant <value: tensor = int64 {1}> "
             "()\n"
             "  [\"l/1/p\"] \"l/1/f\" = Cast <to: int = 1> (\"mtbal/Constant_2\")\n"
             "  [\"l/1/q\"] \"l/1/k\" = Mul (\"l/0/k\", \"l/1/f\")\n"
             "  [y] y = Identity (\"l/1/k\")\n}"},
    {"control: a loop that only the run can count stays", control,
     HEAD(17) "g (float[2] x, int64 n) => (float[2] y) {\n"
              "  [l] y = Loop (n, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, "
              "float[2] k)\n"
              "     { d = Identity (c) k = Neg (h) }>\n}",
     HEAD(17) "g (float[2] x, int64 n) => (float[2] y) {\n"
              "  [l] y = Loop (n, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, "
              "float[2] k)\n"
              "     { d = Identity (c) k = Neg (h) }>\n}"},
    {"inference: training forms", to_inference,
     HEAD(17) "g (float[2,3] x, float[3] s, float[3] m) => (float[2,3] y, float[3] rm) {\n"
              "  t = Constant <value = bool {1}> ()\n"
              "  r = Constant <value = float {0.5}> ()\n"
              "  d = Dropout (x, r, t)\n"
              "  y, rm, rv = BatchNormalization <training_mode = 1> (d, s, s, m, m)\n}",
     HEAD(17) "g (float[2,3] x, float[3] s, float[3] m) => (float[2,3] y, float[3] rm) {\n"
              "  t = Constant <value: tensor = bool {1}> ()\n"
              "  r = Constant <value: tensor = float {0.5}> ()\n"
              "  d = Dropout (x, r)\n"
              "  y = BatchNormalization (d, s, s, m, m)\n"
              "  [rm] rm = Identity (m)\n}"},
};

START_TEST(test_text)
{
    const text_case *c = &text_cases[_i];
    mtbal_model *model = parse(c->in);
    mtbal_diag diag = {0};
    ck_assert_msg(c->run(&model, &diag) == MTBAL_OK, "%s: %s: %s", c->name, diag.where, diag.what);
    same_text(c->name, model, c->out);
    ck_assert_msg(mtbal_verify(model, &diag) == MTBAL_OK, "%s: %s", c->name, diag.what);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ what is found in real exports
 */

typedef struct model_case {
    const char *file;
    int ntasks, nparams, nshared, nstates;
    const char *golden; /* folder of golden.npz: its gradients name exactly the parameters */
    const char *notice; /* part of one, or NULL: there is none */
} model_case;

static const model_case model_cases[] = {
    {"mlp_cls_reg/model.op13.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"mlp_cls_reg/model.op17.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"mlp_cls_reg/static.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"mlp_cls_reg/inits_as_inputs.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"mlp_cls_reg/functions.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"cnn_nyu/model.op13.onnx", 3, 30, 18, 45, "cnn_nyu", "statistics of 6 BatchNormalization"},
    {"cnn_nyu/model.op14.onnx", 3, 30, 18, 45, "cnn_nyu", "statistics of 6 BatchNormalization"},
    {"cnn_nyu/model.op17.onnx", 3, 30, 18, 45, "cnn_nyu", "statistics of 6 BatchNormalization"},
    {"cnn_nyu/preserve_dyn_hw.onnx", 3, 30, 18, 45, "cnn_nyu", "statistics of 6"},
    {"cnn_nyu/eval_bn.onnx", 3, 24, 12, 27, NULL, "folded into 6 convolutions"},
    {"transformer_glue/model.op13.onnx", 3, 45, 39, 48, "transformer_glue", NULL},
    {"transformer_glue/model.op17.onnx", 3, 45, 39, 48, "transformer_glue", NULL},
    {"transformer_glue/dropout_p01.onnx", 3, 45, 39, 48, "transformer_glue", NULL},
    {"transformer_glue/torch_encoder_layer.onnx", 3, 32, 26, 35, NULL, NULL},
    {"fixtures/control_flow.onnx", 2, 4, 2, 6, NULL, NULL},
    {"fixtures/double.onnx", 2, 10, 4, 12, NULL, NULL},
    {"fixtures/dynamo_like.onnx", 3, 25, 19, 28, NULL, "ln.bias (scale of 0, bias of 16"},
    {"fixtures/external.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"fixtures/ext_many/external_many.onnx", 2, 10, 4, 12, "mlp_cls_reg", NULL},
    {"fixtures/metadata.onnx", 2, 10, 4, 12, "mlp_cls_reg", "unused_initializer"},
    {"fixtures/metadata_ir10_fields.onnx", 2, 10, 4, 12, "mlp_cls_reg", "unused_initializer"},
    {"fixtures/tied.onnx", 2, 5, 3, 7, NULL, NULL},
    {"fixtures/weights_as_constants.onnx", 2, 10, 4, 12, "mlp_cls_reg", "10 weights in Constant"},
};

static mtbal_model *read_model(const char *file)
{
    char path[256];
    mtbal_diag diag = {0};
    mtbal_model *model;
    snprintf(path, sizeof path, DATA "%s", file);
    ck_assert_msg(mtbal_onnx_read(path, &model, &diag) == MTBAL_OK, "%s: %s", path, diag.what);
    return model;
}

static const char *notice_with(const mtbal_context *c, const char *part)
{
    for (int i = 0; i < c->nnotices; i++)
        if (strstr(c->notices[i].text, part))
            return c->notices[i].text;
    return NULL;
}

static bool is_param(const mtbal_context *c, const char *name)
{
    for (int p = 0; p < c->nparams; p++)
        if (!strcmp(c->params[p].value->name, name))
            return true;
    return false;
}

/* golden.npz holds grad/TASK/PARAM where the task reaches the parameter: just those. */
static void check_golden(const model_case *m, const mtbal_context *c)
{
    char path[256];
    mtbal_diag diag = {0};
    mtbal_npz *npz;
    int pairs = 0, reached = 0;
    snprintf(path, sizeof path, DATA "%s/golden.npz", m->golden);
    ck_assert_msg(mtbal_npz_read(path, &npz, &diag) == MTBAL_OK, "%s", diag.what);
    for (int i = 0; i < npz->count; i++) {
        const char *name = npz->arrays[i].name;
        if (strncmp(name, "grad/", 5))
            continue;
        const char *param = strchr(name + 5, '/') + 1;
        ck_assert_msg(is_param(c, param), "%s: %s is no parameter", m->file, param);
        pairs++;
    }
    for (int p = 0; p < c->nparams; p++)
        reached += mtbal_set_size(c->sets, c->params[p].reach);
    ck_assert_msg(pairs == reached, "%s: %d gradients, golden.npz has %d", m->file, reached, pairs);
    mtbal_npz_free(npz);
}

/* shared_params.txt names what PyTorch's norms were taken over. */
static void check_shared(const model_case *m, const mtbal_context *c)
{
    char path[256], line[256];
    int lines = 0;
    snprintf(path, sizeof path, DATA "%s/shared_params.txt", m->golden);
    FILE *from = fopen(path, "r");
    ck_assert_msg(from != NULL, "%s", path);
    while (fgets(line, sizeof line, from)) {
        line[strcspn(line, "\n")] = 0;
        bool found = false;
        for (int p = 0; p < c->nparams; p++)
            found = found || (c->params[p].in_scope && !strcmp(c->params[p].value->name, line));
        ck_assert_msg(found, "%s: %s is not in the scope of the norm", m->file, line);
        lines++;
    }
    fclose(from);
    ck_assert_int_eq(lines, m->nshared);
}

START_TEST(test_found)
{
    const model_case *m = &model_cases[_i];
    mtbal_model *model = read_model(m->file);
    mtbal_options options;
    mtbal_context *c;
    mtbal_diag diag = {0};
    int shared = 0;
    mtbal_options_default(&options);
    options.verify_between = true;
    ck_assert_msg(mtbal_rewrite(model, &options, &c, &diag) == MTBAL_OK, "%s: %s %s", m->file,
                  diag.where, diag.what);
    for (int p = 0; p < c->nparams; p++)
        shared += mtbal_set_size(c->sets, c->params[p].reach) > 1;
    ck_assert_int_eq(c->ntasks, m->ntasks);
    ck_assert_msg(c->nparams == m->nparams && shared == m->nshared && c->nstates == m->nstates,
                  "%s: %d parameters, %d shared, %d states; not %d, %d, %d", m->file, c->nparams,
                  shared, c->nstates, m->nparams, m->nshared, m->nstates);
    if (m->golden) {
        check_golden(m, c);
        check_shared(m, c);
    }
    if (m->notice)
        ck_assert_msg(notice_with(c, m->notice) != NULL, "%s: no notice of '%s'", m->file,
                      m->notice);
    else
        ck_assert_msg(c->nnotices == 0, "%s: %s", m->file, c->notices[0].text);
    mtbal_model_free(model);
}
END_TEST

/* 45 parameters before the exporter merged those that were alike. */
START_TEST(test_untie)
{
    mtbal_model *model = read_model("fixtures/dynamo_like.onnx");
    mtbal_options options;
    mtbal_context *c;
    mtbal_diag diag = {0};
    mtbal_options_default(&options);
    options.untie = true;
    ck_assert_msg(mtbal_rewrite(model, &options, &c, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_int_eq(c->nparams, 45);
    ck_assert(notice_with(c, "20 initializers added") != NULL);
    ck_assert(notice_with(c, "perhaps by the exporter") == NULL);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ step graph and back */

/* The original interface ahead of ours; afterwards the original interface again, nothing of ours.
 */
START_TEST(test_back)
{
    const model_case *m = &model_cases[_i];
    mtbal_model *model = read_model(m->file), *original = read_model(m->file);
    mtbal_options options;
    mtbal_context *c;
    mtbal_diag diag = {0};
    const mtbal_graph *g = model->graph, *o = original->graph;
    mtbal_options_default(&options);
    options.optimizer = "adam";
    ck_assert_msg(mtbal_rewrite(model, &options, &c, &diag) == MTBAL_OK, "%s", diag.what);
    for (int i = 0; i < o->ninputs; i++)
        ck_assert_str_eq(g->inputs[i]->name, o->inputs[i]->name);
    for (int i = 0; i < o->noutputs; i++)
        ck_assert_str_eq(g->outputs[i]->name, o->outputs[i]->name);
    ck_assert_msg(mtbal_inference(model, NULL, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_msg(mtbal_verify(model, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_int_eq(g->ninputs, o->ninputs);
    ck_assert_int_eq(g->noutputs, o->noutputs);
    for (int i = 0; i < g->ninitializers; i++)
        ck_assert_msg(strncmp(g->initializers[i]->name, "mtbal/", 6), "%s: %s is left", m->file,
                      g->initializers[i]->name);
    for (const mtbal_node *node = g->first; node; node = node->next)
        ck_assert_msg(!node->role, "%s: %s is left", m->file, node->name);
    ck_assert(mtbal_property_get(model, "mtbal.state") == NULL);
    ck_assert_int_eq(mtbal_opset_of(model, "mtbal"), 0);
    mtbal_model_free(model);
    mtbal_model_free(original);
}
END_TEST

/* ------------------------------------------------------------------ what is said */

#define MODEL(body) HEAD(17) "g (float[n,4] x, float[n,2] t, int64[n] k) => " body
#define WEIGHTS     "<float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {0,1}, float s = {3}>"
#define LOSS                                                                    \
    "(float l) " WEIGHTS " { p = MatMul (x, w) q = Add (p, b) d = Sub (q, t)\n" \
    "  e = Mul (d, d) l = ReduceMean <keepdims = 0> (e) }"

typedef struct said_case {
    const char *name, *text;
    mtbal_options options; /* what is set here overrules the default */
    mtbal_status status;
    const char *said; /* part of the message, its hint, or a notice */
} said_case;

static const mtbal_pair no_task = {"a", "nowhere"}, wide_task = {"a", "q"},
                        no_weight = {"who", "2"}, bad_weight = {"l", "heavy"},
                        no_hyper = {"pace", "2"}, bad_hyper = {"lr", "slow"},
                        bad_kind = {"h", "mysterious:p,y"}, no_pred = {"h", "mse:nothing,y"},
                        no_label = {"h", "mse:p"}, bad_option = {"h", "mse:p,y,delta=1"},
                        same_name = {"l", "mse:p,y"};
static const char *const nothing[] = {"nothing*"}, *const scalar[] = {"s"}, *const all[] = {"*"};

static const said_case said_cases[] = {
    {"no task",
     MODEL("(float[n,2] logits, float[n,1] depth) <float[4,2] w = {1,2,3,4,5,6,7,8}>\n"
           "{ logits = MatMul (x, w) d = ReduceSum (t) o = Constant <value = int64[1] {1}> ()"
           " depth = ReduceMean <axes = [1]> (logits) }"),
     {0},
     MTBAL_INVALID,
     "--loss logits=cross-entropy:logits,logits_label --loss depth=mse:depth"},
    {"no parameter",
     MODEL("(float l) { l = ReduceMean <keepdims = 0> (x) }"),
     {0},
     MTBAL_UNSUPPORTED,
     "no parameter lies on a differentiable path"},
    {"all nodes that block, and whom",
     MODEL("(float l, float m) <float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, "
           "int64[4] to = {-1,1,2,2}, float[1,5] r = {0,0,0,1,1}> {\n"
           "  p = MatMul (x, w) c = Reshape (p, to)\n"
           "  [first] a = MaxRoiPool <pooled_shape = [1, 1]> (c, r)\n"
           "  [second] b = MaxRoiPool <pooled_shape = [2, 2]> (c, r)\n"
           "  l = ReduceMean <keepdims = 0> (a) m = ReduceMean <keepdims = 0> (b) }"),
     {0},
     MTBAL_UNSUPPORTED,
     "node first (MaxRoiPool), blocks l\n  node second (MaxRoiPool), blocks m"},
    {"a loop that only the run can count",
     HEAD(17) "g (float[2] x, int64 n) => (float l) <float[2] w = {1,2}> {\n"
              "  [count] y = Loop (n, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, "
              "float[2] k)\n"
              "     { d = Identity (c) k = Mul (h, w) }>\n l = ReduceMean <keepdims = 0> (y) }",
     {0},
     MTBAL_UNSUPPORTED,
     "node count (Loop), blocks l"},
    {"a name of ours",
     MODEL("(float l) " WEIGHTS "{ p = MatMul (x, w) \"mtbal/loss\" = Abs (p)\n"
           "  l = ReduceMean <keepdims = 0> (\"mtbal/loss\") }"),
     {0},
     MTBAL_INVALID,
     "has a value named mtbal/loss already"},
    {"the export lost its prediction",
     MODEL("(float l, float m) <float[3,2] w = {1,2,3,4,5,6}, float[4,2] v = {1,2,3,4,5,6,7,8}> {\n"
           "  l = SoftmaxCrossEntropyLoss (w, k)\n  p = MatMul (x, v) m = ReduceMean <keepdims = "
           "0> (p) }"),
     {0},
     MTBAL_OK,
     "task l depends on no input but its label"},
    {"a task without parameters",
     MODEL("(float l, float m) " WEIGHTS "{ p = MatMul (x, w) l = ReduceMean <keepdims = 0> (p)\n"
           "  m = ReduceMean <keepdims = 0> (x) }"),
     {0},
     MTBAL_OK,
     "task m reaches no parameter"},
    {"a total beside its parts",
     MODEL("(float l, float m) " WEIGHTS "{ p = MatMul (x, w) l = ReduceMean <keepdims = 0> (p)\n"
           "  m = Mul (l, l) }"),
     {0},
     MTBAL_OK,
     "task m is made of l"},
    {"an initializer that no task reaches",
     MODEL(
         "(float l) <float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] lost = {1,2}> { p = MatMul (x, w)\n"
         "  l = ReduceMean <keepdims = 0> (p) }"),
     {0},
     MTBAL_OK,
     "no task reaches 1 initializer: lost"},
    {"scalars",
     MODEL("(float l) " WEIGHTS "{ p = MatMul (x, w) q = Mul (p, s)\n"
           "  l = ReduceMean <keepdims = 0> (q) }"),
     {0},
     MTBAL_OK,
     "1 scalar initializer is not trained: s"},
    {"constants lifted by the exporter",
     MODEL("(float l) <float[4,2] \"fc.weight\" = {1,2,3,4,5,6,7,8}, float[2] val_8 = {1,2}>\n"
           "{ p = MatMul (x, \"fc.weight\") q = Mul (p, val_8)\n"
           "  l = ReduceMean <keepdims = 0> (q) }"),
     {0},
     MTBAL_OK,
     "1 trained initializer is named as the exporter names constants: val_8"},
    {"the logistic loss written out",
     MODEL("(float l) " WEIGHTS
           "{ p = MatMul (x, w) q = Sigmoid (p) one = Constant <value = float {1}> ()\n"
           "  r = Sub (one, q) o = Log (r) l = ReduceMean <keepdims = 0> (o) }"),
     {0},
     MTBAL_OK,
     "Log(Sigmoid(x)) is infinite for large logits"},
    {"BatchNormalization that does not learn",
     MODEL("(float l) <float[4] a = {1,1,1,2}, float[4] m = {0,0,0,0}, float[4] v = {1,1,1,1}> {\n"
           "  y = BatchNormalization (x, a, a, m, v) l = ReduceMean <keepdims = 0> (y) }"),
     {0},
     MTBAL_OK,
     "1 of 1 BatchNormalization node normalise by fixed"},
    {"--train names what no task reaches",
     MODEL(LOSS),
     {.ntrain = 1, .train = all},
     MTBAL_OK,
     "--train names 1 initializer that no task reaches: s"},
    {"--train names nothing",
     MODEL(LOSS),
     {.ntrain = 1, .train = nothing},
     MTBAL_USAGE,
     "--train 'nothing*' matches no float initializer"},
    {"--freeze names nothing",
     MODEL(LOSS),
     {.nfreeze = 1, .freeze = nothing},
     MTBAL_USAGE,
     "--freeze 'nothing*'"},
    {"--train leaves nothing to train",
     MODEL(LOSS),
     {.ntrain = 1, .train = scalar},
     MTBAL_UNSUPPORTED,
     "no parameter lies"},
    {"--task of no output",
     MODEL(LOSS),
     {.ntasks = 1, .tasks = &no_task},
     MTBAL_USAGE,
     "there is no such output"},
    {"--task of a tensor",
     MODEL("(float[n,2] q, float l) " WEIGHTS "{ q = MatMul (x, w)\n"
           "  l = ReduceMean <keepdims = 0> (q) }"),
     {.ntasks = 1, .tasks = &wide_task},
     MTBAL_USAGE,
     "the output is not a scalar"},
    {"--weights of no task",
     MODEL(LOSS),
     {.balance = "weights", .nweights = 1, .weights = &no_weight},
     MTBAL_USAGE,
     "there is no task who"},
    {"--weights of no number",
     MODEL(LOSS),
     {.balance = "weights", .nweights = 1, .weights = &bad_weight},
     MTBAL_USAGE,
     "l=heavy"},
    {"--set of nothing",
     MODEL(LOSS),
     {.nset = 1, .set = &no_hyper},
     MTBAL_USAGE,
     "no hyper-parameter pace"},
    {"--set of no number", MODEL(LOSS), {.nset = 1, .set = &bad_hyper}, MTBAL_USAGE, "lr=slow"},
    {"--balance", MODEL(LOSS), {.balance = "luck"}, MTBAL_USAGE, "no method 'luck'"},
    {"--scale", MODEL(LOSS), {.scale = "ref:m"}, MTBAL_USAGE, "no scale 'ref:m'"},
    {"--apply", MODEL(LOSS), {.apply = "nowhere"}, MTBAL_USAGE, "'nowhere'"},
    {"--norm-over", MODEL(LOSS), {.norm_over = "u*"}, MTBAL_USAGE, "u* matches no parameter"},
    {"--optimizer", MODEL(LOSS), {.optimizer = "hope"}, MTBAL_USAGE, "no optimizer 'hope'"},
    {"--dump-after", MODEL(LOSS), {.dump_after = "lunch"}, MTBAL_USAGE, "no pass 'lunch'"},
    {"--loss of no kind",
     MODEL(LOSS),
     {.nlosses = 1, .losses = &bad_kind},
     MTBAL_USAGE,
     "no such kind of loss"},
    {"--loss of no value",
     MODEL(LOSS),
     {.nlosses = 1, .losses = &no_pred},
     MTBAL_USAGE,
     "no value named nothing"},
    {"--loss without label",
     MODEL(LOSS),
     {.nlosses = 1, .losses = &no_label},
     MTBAL_USAGE,
     "the label is missing"},
    {"--loss with a foreign option",
     MODEL(LOSS),
     {.nlosses = 1, .losses = &bad_option},
     MTBAL_USAGE,
     "this kind of loss has no option delta=1"},
    {"--loss named as an output",
     MODEL(LOSS),
     {.nlosses = 1, .losses = &same_name},
     MTBAL_USAGE,
     "two tasks are named l"},
};

static void overrule(mtbal_options *o, const mtbal_options *by)
{
    const struct {
        const char *const *from;
        const char **to;
    } texts[] = {{&by->balance, &o->balance},     {&by->scale, &o->scale},
                 {&by->apply, &o->apply},         {&by->norm_over, &o->norm_over},
                 {&by->optimizer, &o->optimizer}, {&by->dump_after, &o->dump_after}};
    mtbal_options defaults = *o;
    *o = *by;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!*texts[i].from) {
            size_t at = (size_t)((const char *)texts[i].to - (const char *)o);
            *texts[i].to = *(const char **)((char *)&defaults + at);
        }
    o->outputs = defaults.outputs;
}

START_TEST(test_said)
{
    const said_case *s = &said_cases[_i];
    mtbal_model *model = parse(s->text);
    mtbal_options options;
    mtbal_context *c = NULL;
    mtbal_diag diag = {0};
    mtbal_options_default(&options);
    overrule(&options, &s->options);
    mtbal_status status = mtbal_rewrite(model, &options, &c, &diag);
    ck_assert_msg(status == s->status, "%s: status %d: %s: %s", s->name, status, diag.where,
                  diag.what);
    ck_assert_int_eq(status, diag.status);
    bool said =
        strstr(diag.what, s->said) || strstr(diag.hint, s->said) || (c && notice_with(c, s->said));
    ck_assert_msg(said, "%s: '%s' is not in '%s' (%s), nor in '%s'", s->name, s->said, diag.what,
                  diag.hint, c && c->nnotices ? c->notices[0].text : "");
    mtbal_model_free(model);
}
END_TEST

/* Functions that call themselves, or each other without bound, are refused before they fill memory.
 */
START_TEST(test_unbounded_functions)
{
    char text[8192];
    size_t n = (size_t)snprintf(text, sizeof text,
                                MY "g (float[2] x) => (float[2] y) { y = my.f0 (x) }\n");
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              MY_FUNCTION
                              "f%d (a) => (d) { b = my.f%d (a) c = my.f%d (b) d = my.f%d (c) }\n",
                              i, i + 1, i + 1, i + 1);
    snprintf(text + n, sizeof text - n, MY_FUNCTION "f40 (a) => (b) { b = Neg (a) }\n");
    const char *texts[] = {MY "g (float[2] x) => (float[2] y) { y = my.f (x) }\n" MY_FUNCTION
                              "f (a) => (b) { b = my.f (a) }",
                           MY "g (float[2] x) => (float[2] y) { y = my.f (x) }\n" MY_FUNCTION
                              "f (a) => (b) { b = my.h (a) }\n" MY_FUNCTION
                              "h (a) => (b) { b = my.f (a) }",
                           text};
    for (int i = 0; i < 3; i++) {
        mtbal_diag diag = {0};
        mtbal_model *model = parse(texts[i]);
        ck_assert_int_eq(mtbal_inline_functions(model, false, &diag), MTBAL_INVALID);
        ck_assert_int_eq(diag.status, MTBAL_INVALID);
        ck_assert(mtbal_arena_bytes(model->arena) < 256u << 20);
        mtbal_model_free(model);
    }
}
END_TEST

/* ------------------------------------------------------------------ the pipeline */

/* Every need is made by an earlier pass of that name, every name is there once. */
START_TEST(test_pass_table)
{
    for (const mtbal_pass *p = mtbal_passes; p->name; p++) {
        ck_assert_msg(p->what && *p->what && p->run, "%s", p->name);
        for (const mtbal_pass *q = mtbal_passes; q < p; q++)
            ck_assert_str_ne(p->name, q->name);
        for (const char *need = p->needs; *need;) {
            size_t n = strcspn(need, " ");
            const mtbal_pass *q = mtbal_passes;
            while (q < p && (strlen(q->name) != n || memcmp(q->name, need, n)))
                q++;
            ck_assert_msg(q < p, "%s needs %s", p->name, need);
            need += n + (need[n] == ' ');
        }
    }
}
END_TEST

static mtbal_status rewrite_everything(void *context)
{
    static const char text[] = HEAD(
        12) "g (float[2,3] x, float t) => (float l, float m) "
            "<float[3,2] w = {1,2,3,4,5,6}, float[2] b = {0,1}> {\n"
            "  p = MatMul (x, w) q = Softmax (p) s = ReduceSum <axes = [1], keepdims = 0> (q)\n"
            "  r = ReduceSum <keepdims = 0> (q) c = Greater (r, t)\n"
            "  f = If (c) <then_branch = y () => (float[2,2] u) { u = Add (p, b) },\n"
            "              else_branch = n () => (float[2,2] v) { v = Identity (q) }>\n"
            "  l = ReduceMean <keepdims = 0> (s) m = ReduceMean <keepdims = 0> (f) }";
    mtbal_diag diag = {0};
    mtbal_options options;
    mtbal_context *c;
    mtbal_model *model = mtbal_parse_model(text, &diag);
    if (!model)
        return diag.status;
    mtbal_options_default(&options);
    options.optimizer = "adam";
    options.clip = 1;
    options.inline_functions = true;
    options.outputs = MTBAL_OUT_NORMS | MTBAL_OUT_GRAM | MTBAL_OUT_GRADS | MTBAL_OUT_TASK_GRADS;
    mtbal_status status = mtbal_rewrite(model, &options, &c, &diag);
    if (status == MTBAL_OK)
        status = mtbal_inference(model, NULL, &diag);
    ck_assert_msg(status == diag.status, "status %d, but the message is of status %d: %s", status,
                  diag.status, diag.what);
    mtbal_model_free(model);
    (void)context;
    return status;
}

START_TEST(test_no_memory)
{
    int runs = fail_each_allocation(rewrite_everything, NULL);
    ck_assert_msg(runs > 1000, "%d allocations", runs);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("passes");
    TCase *text = tcase_create("text"), *models = tcase_create("models"),
          *said = tcase_create("said"), *pipeline = tcase_create("pipeline");
    const int nmodels = sizeof model_cases / sizeof *model_cases;
    tcase_add_loop_test(text, test_text, 0, sizeof text_cases / sizeof *text_cases);
    tcase_add_loop_test(models, test_found, 0, nmodels);
    tcase_add_loop_test(models, test_back, 0, nmodels);
    tcase_add_test(models, test_untie);
    tcase_add_loop_test(said, test_said, 0, sizeof said_cases / sizeof *said_cases);
    tcase_add_test(said, test_unbounded_functions);
    tcase_add_test(pipeline, test_pass_table);
    tcase_add_test(pipeline, test_no_memory);
    tcase_set_timeout(pipeline, 300);
    suite_add_tcase(suite, text);
    suite_add_tcase(suite, models);
    suite_add_tcase(suite, said);
    suite_add_tcase(suite, pipeline);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
