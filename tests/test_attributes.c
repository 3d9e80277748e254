/* tests/test_attributes.c: attributes and versions that the operator table does not know are
 * refused, by mtbal_verify and, once a function's references are bound, by shape inference. */
#include "graph/graph.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const struct refused {
    int opset;
    const char *node; /* of x float[2,4,6,6] -> y */
    mtbal_status status;
    const char *what, *hint;
} refused[] = {
    {21, "y = Relu <unknown = 3> (x)", MTBAL_UNSUPPORTED, "attribute unknown is not known",
     "takes no attributes"},
    {21, "y = Softmax <axes = 1> (x)", MTBAL_UNSUPPORTED, "attribute axes is not known",
     "it takes: axis"},
    {21, "y = Softmax <axis = 1.0> (x)", MTBAL_INVALID, "axis must be an integer, and is a float",
     "export"},
    {21, "y = Softmax <axis = [1]> (x)", MTBAL_INVALID, "axis must be an integer, and is integers",
     "export"},
    {21, "y = LeakyRelu <alpha = \"0.1\"> (x)", MTBAL_INVALID,
     "alpha must be a float, and is a string", "export"},
    {21, "y = MaxPool <kernel_shape = 2> (x)", MTBAL_INVALID,
     "kernel_shape must be integers, and is an integer", "export"},
    {21, "y = MaxPool (x)", MTBAL_INVALID, "attribute kernel_shape is missing", "export"},
    {21, "y = Cast (x)", MTBAL_INVALID, "attribute to is missing", "export"},
    {21, "y = Cast <to = 1, to = 11> (x)", MTBAL_INVALID, "two attributes to", "export"},
    {28, "y = SpaceToDepth <blocksize = 2, mode = \"WRONG\"> (x)", MTBAL_UNSUPPORTED,
     "mode is 'WRONG', which is not supported", "DCR|CRD"},
    {27, "y = SpaceToDepth <blocksize = 2, mode = \"CRD\"> (x)", MTBAL_UNSUPPORTED,
     "mode came with opset 28, and the model has opset 27", "it takes: blocksize"},
    {21, "y = SpaceToDepth <blocksize = 0> (x)", MTBAL_UNSUPPORTED, "blocksize is 0", "1.."},
    {25, "y = Attention <is_causal = 1, left_window_size = 1> (x, x, x)", MTBAL_UNSUPPORTED,
     "left_window_size is 1, which is not supported", "-1"},
    {21, "y = AveragePool <kernel_shape = [2, 2], auto_pad = \"SAME\"> (x)", MTBAL_UNSUPPORTED,
     "auto_pad is 'SAME'", "NOTSET|SAME_UPPER"},
    {21, "y = AveragePool <kernel_shape = [2, 2], ceil_mode = 2> (x)", MTBAL_UNSUPPORTED,
     "ceil_mode is 2", "0|1"},
    {13, "y = Clip <min = 0.0> (x)", MTBAL_UNSUPPORTED, "min went with opset 11", "takes no"},
    {13, "y = Squeeze <axes = [0]> (x)", MTBAL_UNSUPPORTED, "axes went with opset 13", "takes no"},
    {17, "y = Gelu (x)", MTBAL_INVALID, "Gelu came with opset 20, and the model has opset 17",
     "newer"},
    {17, "y = Gellu (x)", MTBAL_UNSUPPORTED, "no operator Gellu", "--list-operators"},
    {1000, "y = Relu (x)", MTBAL_UNSUPPORTED, "imports opset 1000 of ai.onnx; known are 1 to 28",
     "opset 28 or below"},
    {0, "y = Relu (x)", MTBAL_UNSUPPORTED, "imports opset 0 of ai.onnx", "opset 28 or below"},
};

static mtbal_model *parse(int opset, const char *node)
{
    char text[1024];
    mtbal_diag diag = {0};
    snprintf(
        text, sizeof text,
        "<ir_version: 10, opset_import: [\"\" : %d]>\ng (float[2,4,6,6] x) => (float[a,b,c,d] y) "
        "{\n  %s\n}",
        opset, node);
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    return model;
}

START_TEST(test_refused)
{
    const struct refused *c = &refused[_i];
    mtbal_diag diag = {0};
    mtbal_model *model = parse(c->opset, c->node);
    mtbal_status status = mtbal_verify(model, &diag);
    ck_assert_msg(status == c->status && strstr(diag.what, c->what) && strstr(diag.hint, c->hint),
                  "%s: status %d, %s: %s (%s)", c->node, (int)status, diag.where, diag.what,
                  diag.hint);
    mtbal_model_free(model);
}
END_TEST

/* The same operators as they should be. */
static const struct {
    int opset;
    const char *node;
} accepted[] = {
    {21, "y = Softmax <axis = 1> (x)"},
    {28, "y = SpaceToDepth <blocksize = 2, mode = \"CRD\"> (x)"},
    {25, "y = Attention <is_causal = 1, left_window_size = -1> (x, x, x)"},
    {6, "y = Clip <min = 0.0> (x)"},
    {12, "y = Squeeze <axes = [0]> (x)"},
    {20, "y = Gelu <approximate = \"tanh\"> (x)"},
};

START_TEST(test_accepted)
{
    mtbal_diag diag = {0};
    mtbal_model *model = parse(accepted[_i].opset, accepted[_i].node);
    ck_assert_msg(mtbal_verify(model, &diag) == MTBAL_OK, "%s: %s", accepted[_i].node, diag.what);
    mtbal_model_free(model);
}
END_TEST

/* What a function's attribute refers to is known at its calls only. */
static const struct {
    const char *call, *what; /* NULL: accepted */
} calls[] = {
    {"own.f <how = \"tanh\"> (x)", NULL},
    {"own.f <how = \"sinh\"> (x)", "approximate is 'sinh', which is not supported"},
    {"own.f <how = 3> (x)", "approximate must be a string, and is an integer"},
    {"own.f (x)", NULL},
};

START_TEST(test_references)
{
    char text[1024];
    mtbal_diag diag = {0};
    snprintf(text, sizeof text,
             "<ir_version: 10, opset_import: [\"\" : 20, \"own\" : 1]>\n"
             "g (float[2] x) => (float[n] y) {\n  y = %s\n}\n"
             "<domain: \"own\", opset_import: [\"\" : 20]>\n"
             "f <how> (a) => (b) {\n  b = Gelu <approximate : string = @how> (a)\n}\n",
             calls[_i].call);
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    ck_assert_msg(mtbal_verify(model, &diag) == MTBAL_OK, "%s", diag.what);
    mtbal_status status = mtbal_infer_graph(model->graph, &diag);
    if (calls[_i].what)
        ck_assert_msg(status != MTBAL_OK && strstr(diag.what, calls[_i].what), "%s: %s",
                      calls[_i].call, diag.what);
    else
        ck_assert_msg(status == MTBAL_OK, "%s: %s", calls[_i].call, diag.what);
    mtbal_model_free(model);
}
END_TEST

/* Every entry of the column can be read: NAME:KIND, and what may follow. */
START_TEST(test_columns)
{
    for (int i = 0; i < MTBAL_NOPS; i++) {
        char *column = strdup(mtbal_ops[i].attributes), *rest = column;
        for (char *entry; (entry = strtok_r(rest, " ", &rest));) {
            size_t name = strcspn(entry, ":");
            ck_assert_msg(name > 0 && entry[name] == ':' && strchr("fistgFISpx", entry[name + 1]),
                          "%s: %s", mtbal_ops[i].name, entry);
            const char *p = entry + name + 2;
            if (*p == '(')
                p = strchr(p, ')') + 1;
            p += *p == '!';
            p += *p == '@' ? 1 + strspn(p + 1, "0123456789") : 0;
            p += *p == '<' ? 1 + strspn(p + 1, "0123456789") : 0;
            ck_assert_msg(!*p, "%s: %s", mtbal_ops[i].name, entry);
        }
        free(column);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attributes");
    TCase *tests = tcase_create("attributes");
    tcase_add_loop_test(tests, test_refused, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_loop_test(tests, test_accepted, 0, (int)(sizeof accepted / sizeof *accepted));
    tcase_add_loop_test(tests, test_references, 0, (int)(sizeof calls / sizeof *calls));
    tcase_add_test(tests, test_columns);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
