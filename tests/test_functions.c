/* tests/test_functions.c: a function of domain mtbal is one kernel in our runtime and plain ONNX
 * everywhere else: both give the same numbers. A function of the op list without a case fails. */
#include "lower/lower.h"
#include "passes/passes.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A network that makes the step graph call the function. `a` (and `b`, `c`) are trained. */
typedef struct function_case {
    const char *function, *optimizer, *operands, *text;
} function_case;

#define LABELS "l = Constant <value = int64[3,2] {0, 3, 1, 2, -1, 3}> () "

static const function_case cases[] = {
    {"ConvGradX", "sgd", "float[2,4,3,3] a, float[3,4,2,2] b",
     "y = Conv <kernel_shape = [2, 2], group = 1, pads = [1, 0, 0, 1]> (t, b)"},
    {"ConvGradX", "sgd", "float[2,4,5,4] a, float[6,2,3,2] b",
     "y = Conv <group = 2, strides = [2, 1], dilations = [1, 2], pads = [1, 1, 1, 1]> (t, b)"},
    {"ConvGradW", "sgd", "float[2,4,5,4] a, float[6,2,3,2] b, float[6] c",
     "y = Conv <group = 2, strides = [2, 1], dilations = [1, 2], pads = [1, 1, 1, 1]> (t, b, c)"},
    {"ConvGradW", "sgd", "float[2,4,3,3] a, float[4,1,3,2] b",
     "y = ConvTranspose <group = 2, strides = [2, 1], pads = [1, 0, 0, 1]> (t, b)"},
    {"MaxPoolGrad", "sgd", "float[2,2,5,6] a",
     "y = MaxPool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]> (t)"},
    {"BatchNormGrad", "sgd", "float[3,2,4] a, float[2] b, float[2] c",
     "m = Constant <value = float[2] {0.1, 0.2}> () v = Constant <value = float[2] {1, 2}> () "
     "y, p, q = BatchNormalization <training_mode = 1> (t, b, c, m, v)"},
    {"LayerNormGrad", "sgd", "float[2,3,4] a, float[3,4] b, float[4] c",
     "y = LayerNormalization <axis = 1> (t, b, c)"},
    {"SoftmaxGrad", "sgd", "float[2,5,4] a", "y = Softmax <axis = 1> (t)"},
    {"SoftmaxGrad", "sgd", "float[3,17] a",
     "p = Softmax (t) k = Constant <value = float {20}> () y = Mul (p, k)"},
    {"LogSoftmaxGrad", "sgd", "float[2,5,4] a", "y = LogSoftmax <axis = 1> (t)"},
    {"SoftmaxCrossEntropyLossGrad", "sgd", "float[3,4,2] a",
     LABELS "w = Constant <value = float[4] {1, 2, 0.5, 3}> () "
            "y = SoftmaxCrossEntropyLoss <ignore_index = -1> (t, l, w)"},
    {"SoftmaxCrossEntropyLossGrad", "sgd", "float[3,4,2] a",
     LABELS "y = SoftmaxCrossEntropyLoss <ignore_index = -1, reduction = \"none\"> (t, l)"},
    {"NegativeLogLikelihoodLossGrad", "sgd", "float[3,4,2] a",
     LABELS "y = NegativeLogLikelihoodLoss <ignore_index = -1, reduction = \"sum\"> (t, l)"},
    {"GatherGrad", "sgd", "float[5,3] a",
     "i = Constant <value = int64[2,2] {0, -1, 0, 3}> () y = Gather (t, i)"},
    {"CumProdGrad", "sgd", "float[3,5,2] a",
     "x = Constant <value = int64 {1}> () y = CumProd (t, x)"},
    {"CumProdGrad", "sgd", "float[3,5,2] a",
     "x = Constant <value = int64 {-2}> () y = CumProd <exclusive = 1, reverse = 1> (t, x)"},
    {"ResizeGrad", "sgd", "float[2,3,5,4] a",
     "s = Constant <value = float[4] {1, 1, 2, 1.5}> () y = Resize <mode = \"linear\"> (t, , s)"},
    {"ResizeGrad", "sgd", "float[2,3,5,4] a",
     "s = Constant <value = int64[4] {2, 3, 3, 9}> () y = Resize <mode = \"cubic\", "
     "coordinate_transformation_mode = \"align_corners\", cubic_coeff_a = -0.5> (t, , , s)"},
    {"ResizeGrad", "sgd", "float[2,3,5,4] a",
     "s = Constant <value = float[4] {1, 1, 0.6, 2}> () y = Resize <mode = \"nearest\", "
     "nearest_mode = \"ceil\", coordinate_transformation_mode = \"asymmetric\"> (t, , s)"},
    {"LSTMGrad", "sgd", "float[3,2,2] a, float[1,12,2] b, float[1,12,3] c",
     "z, y = LSTM <hidden_size = 3> (t, b, c)"},
    {"GRUGrad", "sgd", "float[3,2,2] a, float[1,9,2] b, float[1,9,3] c",
     "z, y = GRU <hidden_size = 3> (t, b, c)"},
    {"RNNGrad", "sgd", "float[3,2,2] a, float[1,3,2] b, float[1,3,3] c",
     "z, y = RNN <hidden_size = 3> (t, b, c)"},
    {"LSTMSteps", "sgd", "float[3,2,2] a, float[1,12,2] b, float[1,12,3] c",
     "z, y = LSTM <hidden_size = 3> (t, b, c)"},
    {"GRUSteps", "sgd", "float[3,2,2] a, float[1,9,2] b, float[1,9,3] c",
     "z, y = GRU <hidden_size = 3> (t, b, c)"},
    {"RNNSteps", "sgd", "float[3,2,2] a, float[1,3,2] b, float[1,3,3] c",
     "z, y = RNN <hidden_size = 3> (t, b, c)"},
    {"Gram", "sgd", "float[57,37] a", "y = Relu (t)"},
    {"SGDUpdate", "sgd", "float[5,3] a", "y = Relu (t)"},
    {"MomentumUpdate", "momentum", "float[5,3] a", "y = Relu (t)"},
    {"AdamUpdate", "adam", "float[5,3] a", "y = Relu (t)"},
    {"AdamWUpdate", "adamw", "float[5,3] a", "y = Relu (t)"},
};
enum { NCASES = sizeof cases / sizeof *cases, STEPS = 3 };

/* "float[2,3] a, float[3] b" with made-up, different elements. */
static void print_operands(FILE *to, const char *operands)
{
    for (const char *at = operands; *at;) {
        size_t length = strcspn(at, " ") + 2; /* type, blank, name of one letter */
        int64_t count = 1;
        for (const char *d = strchr(at, '['); d && d < at + length - 2; d = strpbrk(d + 1, ",]"))
            count *= *d == ']' ? 1 : strtoll(d + 1, NULL, 10);
        fprintf(to, "%.*s = {", (int)length, at);
        for (int64_t i = 0; i < count; i++)
            fprintf(to, "%s%.9g", i ? ", " : "", sin(1 + 7.31 * (double)i) + 0.1);
        at += length;
        fprintf(to, "}%s", *at ? ", " : "");
        at += strspn(at, ", ");
    }
}

/* t = a, doubled, so that the gradient of the operator's own operand is wanted. For Gram there is a
 * second task. */
static mtbal_model *step_of(const function_case *c)
{
    char *text = NULL;
    size_t size;
    static const char *const all = "?";
    mtbal_diag diag = {0};
    mtbal_context *context;
    mtbal_options options;
    bool two = !strcmp(c->function, "Gram");
    FILE *to = open_memstream(&text, &size);
    fprintf(to, "<ir_version: 8, opset_import: [\"\" : %d]>\ng () => (float loss%s) <",
            strstr(c->text, "CumProd") ? 26 : 17, two ? ", float other" : "");
    print_operands(to, c->operands);
    fprintf(to, "> { t = Add (a, a) %s s = Sin (y) loss = ReduceSum <keepdims = 0> (s) %s }",
            c->text, two ? "q = Mul (y, y) other = ReduceSum <keepdims = 0> (q)" : "");
    fclose(to);
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s: %s", text, diag.where, diag.what);
    free(text);
    mtbal_options_default(&options);
    options.optimizer = c->optimizer;
    options.balance = "equal";
    options.outputs = two ? MTBAL_OUT_NORMS | MTBAL_OUT_GRAM : MTBAL_OUT_GRADS;
    options.train = &all;
    options.ntrain = 1;
    ck_assert_msg(mtbal_rewrite(model, &options, &context, &diag) == MTBAL_OK, "%s: %s: %s",
                  c->text, diag.where, diag.what);
    return model;
}

/* Calls of the function; lowering makes those of ...Steps itself, out of the recurrent layers. */
static int calls_of(const mtbal_model *model, const char *function)
{
    int calls = 0;
    size_t n = strlen(function);
    const char *steps = strstr(function, "Steps");
    for (const mtbal_node *node = model->graph->first; node; node = node->next)
        if (steps)
            calls += !strncmp(node->op, function, (size_t)(steps - function));
        else
            calls += !strcmp(node->domain, "mtbal") && !strncmp(node->op, function, n) &&
                     (node->op[n] == 0 || node->op[n] == '_');
    return calls;
}

typedef struct running {
    mtbal_model *model;
    mtbal_plan *plan;
    mtbal_instance *instance;
    mtbal_plan_info info;
} running;

static running run_steps(const function_case *c, bool bodies)
{
    mtbal_diag diag = {0};
    running r = {.model = step_of(c)};
    const mtbal_lower_options lower = {.noutputs = -1, .states = true, .no_fuse = bodies};
    ck_assert_msg(calls_of(r.model, c->function) > 0, "%s: no call of %s", c->text, c->function);
    ck_assert_msg(mtbal_lower(r.model, &lower, &r.plan, &diag) == MTBAL_OK, "%s: %s: %s", c->text,
                  diag.where, diag.what);
    ck_assert_int_eq(mtbal_instance_new(r.plan, 1, &r.instance, &diag), MTBAL_OK);
    mtbal_plan_describe(r.plan, &r.info);
    for (int i = 0; i < STEPS; i++)
        mtbal_instance_run(r.instance, (uint64_t)i);
    return r;
}

static void close_running(running *r)
{
    mtbal_instance_free(r->instance);
    mtbal_plan_free(r->plan);
    mtbal_model_free(r->model);
}

static void compare(const function_case *c, const char *name, const rt_tensor *x,
                    const rt_tensor *y)
{
    mtbal_tensor kernel = {.dtype = (mtbal_dtype)x->dtype, .data = x->data};
    mtbal_tensor body = {.dtype = (mtbal_dtype)y->dtype, .data = y->data};
    int64_t n = rt_count(x);
    double most = 1e-3;
    ck_assert_int_eq(n, rt_count(y));
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(mtbal_tensor_f64(&body, i)));
    for (int64_t i = 0; i < n; i++) {
        double a = mtbal_tensor_f64(&kernel, i), b = mtbal_tensor_f64(&body, i);
        ck_assert_msg(fabs(a - b) <= 2e-6 * most, "%s: %s[%lld]: kernel %.9g, body %.9g",
                      c->function, name, (long long)i, a, b);
    }
}

START_TEST(test_kernel_and_body)
{
    const function_case *c = &cases[_i];
    running kernel = run_steps(c, false), body = run_steps(c, true);
    const mtbal_port *in, *out, *states;
    int nin, nout, nstates;
    mtbal_plan_ports(kernel.plan, &in, &nin, &out, &nout, &states, &nstates);
    for (int i = 0; i < nout; i++)
        compare(c, out[i].name, mtbal_instance_output(kernel.instance, out[i].name),
                mtbal_instance_output(body.instance, out[i].name));
    for (int i = 0; i < nstates; i++)
        compare(c, states[i].name, mtbal_instance_state(kernel.instance, states[i].name),
                mtbal_instance_state(body.instance, states[i].name));
    ck_assert_int_ge(nout, 2);
    ck_assert_msg(kernel.info.ncalls < body.info.ncalls, "%s is no kernel of its own", c->function);
    close_running(&kernel);
    close_running(&body);
}
END_TEST

START_TEST(test_every_function_has_a_case)
{
    int functions = 0;
    for (int op = 0; op < MTBAL_NOPS; op++) {
        if (strcmp(mtbal_ops[op].domain, "mtbal") != 0)
            continue;
        bool named = false;
        for (int i = 0; i < NCASES; i++)
            named = named || !strcmp(cases[i].function, mtbal_ops[op].name);
        ck_assert_msg(named, "no case in tests/test_functions.c runs %s", mtbal_ops[op].name);
        functions++;
    }
    ck_assert_int_ge(functions, 14);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("functions");
    TCase *tests = tcase_create("kernel and body");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_kernel_and_body, 0, NCASES);
    tcase_add_test(tests, test_every_function_has_a_case);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
