/* tests/test_lists.c: nodes of many operands or results. Whatever holds them, h is made of N times
 * w x, so that losses and gradients are known. */
#include "tests/steps.h"
#include "train/train.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { N = 300, MOST = 60000 };

/* What comes between y = w x, [1,N], and h; %s: names p0, p1, ... */
static const struct {
    const char *what, *before, *after;
    bool parts;    /* p0, p1, ... are y each; otherwise `before` makes them, [1,1] each */
    double factor; /* loss = factor * sum of y^2 */
} cases[] = {
    {"Concat", "", "h = Concat <axis = 1> (%s)", true, N},
    {"Sum", "", "s = Sum (%s)\n h = Mul (s, one)", true, (double)N *N},
    {"Max", "", "h = Max (%s)", true, 1},
    {"Split", "%s = Split <axis = 1, num_outputs = 300> (y)", "h = Concat <axis = 1> (%s)", false,
     1},
    {"sequence", "", "q = SequenceConstruct (%s)\n h = ConcatFromSequence <axis = 0> (q)", true, N},
    {"stacked", "",
     "q = SequenceConstruct (%s)\n h = ConcatFromSequence <axis = 1, new_axis = 1> (q)", true, N},
    {"pieces", "",
     "q = SplitToSequence <axis = 1> (y, one_i)\n"
     " h = ConcatFromSequence <axis = 1> (q)",
     true, 1},
};

static int names(char *to, size_t room)
{
    int n = 0;
    for (int i = 0; i < N; i++)
        n += snprintf(to + n, room - (size_t)n, "%sp%d", i ? ", " : "", i);
    return n;
}

static char *model_text(int c)
{
    static char list[MOST / 8];
    char *text = malloc(MOST);
    ck_assert(text != NULL);
    names(list, sizeof list);
    int n = snprintf(text, MOST,
                     "<ir_version: 8, opset_import: [\"\": 18]>\n"
                     "m (float[1,%d] x) => (float loss) <float[1] w = {0.5}, float one = {1},\n"
                     " int64 one_i = {1}> {\n y = Mul (x, w)\n ",
                     N);
    n += snprintf(text + n, MOST - (size_t)n, cases[c].before, list);
    for (int i = 0; i < N && cases[c].parts; i++)
        n += snprintf(text + n, MOST - (size_t)n, "\n p%d = Identity (y)", i);
    n += snprintf(text + n, MOST - (size_t)n, "\n ");
    n += snprintf(text + n, MOST - (size_t)n, cases[c].after, list);
    n += snprintf(text + n, MOST - (size_t)n, "\n loss = ReduceSumSquare <keepdims = 0> (h)\n}\n");
    ck_assert_int_lt(n, MOST);
    return text;
}

START_TEST(test_many)
{
    mtbal_diag diag = {0};
    mtbal_options o;
    mtbal_session *s = NULL;
    mtbal_program *p = NULL;
    const mtbal_session_options options = {.threads = 1, .all_outputs = true};
    const mtbal_bind bind = {.name = "x", .rank = 2, .dims = {1, N}};
    char *text = model_text(_i);
    mtbal_options_default(&o);
    o.outputs = MTBAL_OUT_GRADS;
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    steps_ok(mtbal_session_open(files_path("step.onnx"), &options, &s, &diag));
    steps_ok(mtbal_session_program(s, 1, &bind, MTBAL_TRAIN, &p, &diag));
    float *x = mtbal_instance_input(p->instance, "x")->data;
    double sum = 0;
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i % 17) * 0.125f - 1;
        sum += (double)x[i] * (double)x[i];
    }
    mtbal_instance_run(p->instance, 0);
    /* w = 0.5: loss = factor w^2 sum of x^2 */
    double loss = mtbal_program_scalar(p, "loss"), dw = mtbal_program_scalar(p, "mtbal/grad/w");
    ck_assert_double_eq_tol(loss / (cases[_i].factor * 0.25 * sum), 1, 1e-5);
    ck_assert_double_eq_tol(dw / (cases[_i].factor * sum), 1, 1e-5);
    mtbal_session_close(s);
    free(text);
}
END_TEST

/* More pieces of memory than can be packed by comparing all of them: a long chain and its gradient,
 * against the same in double. */
START_TEST(test_long)
{
    enum { LAYERS = 2500 };
    mtbal_diag diag = {0};
    mtbal_options o;
    mtbal_session *s = NULL;
    mtbal_program *p = NULL;
    const mtbal_session_options options = {.threads = 1, .all_outputs = true};
    const mtbal_bind bind = {.name = "x", .rank = 2, .dims = {1, 2}};
    size_t room = 64 * (LAYERS + 10);
    char *text = malloc(room);
    ck_assert(text != NULL);
    size_t n = (size_t)snprintf(text, room,
                                "<ir_version: 8, opset_import: [\"\": 18]>\n"
                                "m (float[1,2] x) => (float loss) <float[1] w = {0.5},\n"
                                " float[2,2] turn = {0, 1, 1, 0}> {\n"
                                " h0 = Mul (x, w)\n");
    for (int i = 0; i < LAYERS; i++)
        n += (size_t)snprintf(text + n, room - n, " g%d = MatMul (h%d, turn)\n h%d = Tanh (g%d)\n",
                              i, i, i + 1, i);
    snprintf(text + n, room - n, " loss = ReduceSumSquare <keepdims = 0> (h%d)\n}\n", LAYERS);
    mtbal_options_default(&o);
    static const char *const frozen[] = {"turn"};
    o.nfreeze = 1;
    o.freeze = frozen;
    o.outputs = MTBAL_OUT_GRADS;
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    free(text);
    steps_ok(mtbal_session_open(files_path("step.onnx"), &options, &s, &diag));
    steps_ok(mtbal_session_program(s, 1, &bind, MTBAL_TRAIN, &p, &diag));
    float *x = mtbal_instance_input(p->instance, "x")->data;
    x[0] = 0.75f;
    x[1] = -0.125f;
    mtbal_instance_run(p->instance, 0);
    double loss = 0, dw = 0;
    for (int k = 0; k < 2; k++) { /* the two numbers change places, and do not meet */
        double h = 0.5 * x[k], dh = x[k];
        for (int i = 0; i < LAYERS; i++) {
            h = tanh(h);
            dh *= 1 - h * h;
        }
        loss += h * h;
        dw += 2 * h * dh;
    }
    ck_assert_double_eq_tol(mtbal_program_scalar(p, "loss") / loss, 1, 1e-3);
    ck_assert_double_eq_tol(mtbal_program_scalar(p, "mtbal/grad/w"), dw, 1e-3 * fabs(dw));
    mtbal_session_close(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lists");
    TCase *tests = tcase_create("lists");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_many, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(tests, test_long);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
