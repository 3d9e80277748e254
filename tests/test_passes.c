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

int main(void)
{
    Suite *suite = suite_create("passes");
    TCase *tests = tcase_create("text");
    tcase_add_loop_test(tests, test_text, 0, sizeof text_cases / sizeof *text_cases);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
