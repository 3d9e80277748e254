/* tests/test_laws.c: the laws of calibrated balancing. Scaling a loss scales its weight back and
 * leaves the training as it was; G of a task whose targets are scaled; the order of the tasks;
 * identical tasks. */
#include "tests/steps.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "models/digits2.onnx"
#define DATA  "models/digits2.train.npz"

static mtbal_options options_of(const char *optimizer, const char *scale)
{
    mtbal_options o;
    mtbal_options_default(&o);
    o.optimizer = optimizer;
    o.scale = scale;
    return o;
}

/* loss becomes k * loss, under its own name. */
static void multiply_loss(mtbal_model *model, const char *loss, double k)
{
    mtbal_builder b;
    mtbal_diag diag = {0};
    mtbal_value *old = mtbal_value_find(model->graph, loss);
    mtbal_value *raw = mtbal_value_new(model->graph, NULL);
    ck_assert(old && old->def && raw);
    raw->type = old->type;
    steps_ok(mtbal_node_set_output(old->def, old->def_index, raw));
    mtbal_builder_init(&b, model->graph, NULL, &diag);
    mtbal_value *in[] = {raw, mtbal_const_scalar(&b, MTBAL_FLOAT, k)};
    mtbal_node *node = mtbal_node_new(model->graph, NULL, "", "Mul", 2, in, 0);
    ck_assert(node != NULL);
    steps_ok(mtbal_node_set_output(node, 0, old));
}

/* The step graph of digits2 with loss_digit times k. */
static void write_digits(const char *path, double k, const mtbal_options *options)
{
    mtbal_model *model = steps_read(MODEL);
    if (k != 1)
        multiply_loss(model, "loss_digit", k);
    steps_write(model, options, path);
}

/* ------------------------------------------------------------------ what a training came to */

enum { MAX_VALUES = 20000, TASKS = 2 };

typedef struct outcome {
    double weight[TASKS], loss[TASKS], g[TASKS], cosine;
    int nvalues;
    float values[MAX_VALUES]; /* of the model's parameters, by name */
} outcome;

static mtbal_status keep(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    outcome *o = context;
    (void)diag;
    memcpy(o->weight, r->weight, sizeof o->weight);
    memcpy(o->loss, r->loss, sizeof o->loss);
    const rt_tensor *c = mtbal_instance_output(r->program->instance, "mtbal/cosine");
    o->cosine = c && c->data ? ((const float *)c->data)[1] : NAN;
    return MTBAL_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Parameters in the order of their names, so that two graphs can be compared. */
static void keep_parameters(mtbal_session *s, outcome *o)
{
    qsort(s->states, (size_t)s->nstates, sizeof *s->states, by_name);
    for (int i = 0; i < s->nstates; i++) {
        const rt_tensor *t = mtbal_session_state(s, s->states[i]);
        if (!t || !strncmp(s->states[i], "mtbal/", 6))
            continue;
        ck_assert_int_le(o->nvalues + rt_count(t), MAX_VALUES);
        memcpy(o->values + o->nvalues, t->data, (size_t)rt_count(t) * sizeof(float));
        o->nvalues += (int)rt_count(t);
    }
    ck_assert_int_gt(o->nvalues, 100);
}

static void train(const char *model, const char *data_path, int64_t limit, const mtbal_setting *set,
                  int nset, outcome *o)
{
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    mtbal_session_options options = {.threads = 1, .set = set, .nset = nset};
    mtbal_loop_options loop = {.limit = limit, .norm_every = 1, .shuffle = true, .seed = 9};
    o->nvalues = 0;
    steps_ok(mtbal_session_open(model, &options, &session, &diag));
    steps_ok(mtbal_data_open(session, data_path, false, 50, &data, &diag));
    steps_ok(mtbal_loop_run(session, data, &loop, keep, o, &diag));
    keep_parameters(session, o);
    mtbal_data_close(data);
    mtbal_session_close(session);
}

/* Calibrates, stores G in the model, trains. */
static void calibrate(const char *model, const char *data, const mtbal_setting *set, int nset,
                      outcome *o)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_calibration *results;
    mtbal_diag diag = {0};
    int count;
    mtbal_calibrate_options c;
    mtbal_calibrate_default(&c);
    c.model = model, c.data = data, c.batch = 50, c.threads = 1;
    c.max_epochs = 3, c.set = set, c.nset = nset;
    steps_ok(mtbal_calibrate(&c, arena, &results, &count, NULL, NULL, &diag));
    ck_assert_int_eq(count, TASKS);
    for (int i = 0; i < TASKS; i++)
        o->g[i] = results[i].g;
    steps_ok(mtbal_calibration_store(model, model, &c, count, results, &diag));
    mtbal_arena_free(arena);
    train(model, data, 30, set, nset, o);
}

static void near(double found, double wanted, double relative, const char *what)
{
    ck_assert_msg(fabs(found - wanted) <= relative * fabs(wanted), "%s is %.9g, not %.9g", what,
                  found, wanted);
}

/* Largest difference of parameters, over their root mean square. */
static double distance(const outcome *a, const outcome *b)
{
    double worst = 0, squares = 0;
    ck_assert_int_eq(a->nvalues, b->nvalues);
    for (int i = 0; i < a->nvalues; i++) {
        worst = fmax(worst, fabs((double)a->values[i] - b->values[i]));
        squares += (double)a->values[i] * a->values[i];
    }
    return worst / sqrt(squares / a->nvalues);
}

/* ------------------------------------------------------------------ loss times k */

/* Adam without its epsilon does not see the scale of a loss, so the calibration runs are the same;
 * a power of two is exact through all of it, from the loss to the last parameter. */
START_TEST(test_power_of_two)
{
    static const double factors[] = {4, 0.125, 1024};
    const double k = factors[_i];
    const mtbal_setting set[] = {{"epsilon", 1e-30}, {"lr", 0.002}};
    mtbal_options o = options_of("adam", "unit");
    static outcome a, b;
    write_digits(files_path("a.onnx"), 1, &o);
    write_digits(files_path("b.onnx"), k, &o);
    calibrate(files_path("a.onnx"), DATA, set, 2, &a);
    calibrate(files_path("b.onnx"), DATA, set, 2, &b);
    ck_assert_msg(b.g[0] == k * a.g[0], "G is %.9g, not %.9g", b.g[0], k * a.g[0]);
    ck_assert_msg(b.g[1] == a.g[1], "the other task's G is %.9g, not %.9g", b.g[1], a.g[1]);
    ck_assert_msg(b.weight[0] == a.weight[0] / k, "weight %.9g, not %.9g", b.weight[0],
                  a.weight[0] / k);
    ck_assert(b.weight[1] == a.weight[1] && b.loss[0] == k * a.loss[0]);
    ck_assert_msg(!memcmp(a.values, b.values, (size_t)a.nvalues * sizeof *a.values),
                  "the parameters differ by %g", distance(&a, &b));
}
END_TEST

/* Any k: the weight goes by 1/k, and the training differs by rounding only. */
START_TEST(test_any_factor)
{
    static const double factors[] = {3, 0.1, 700};
    const double k = factors[_i];
    mtbal_options o = options_of("sgd", "unit");
    const mtbal_setting plain[] = {
        {"lr", 0.05}, {"mtbal/calibration/loss_digit", 2.5}, {"mtbal/calibration/loss_clean", 600}};
    mtbal_setting scaled[] = {plain[0], {"mtbal/calibration/loss_digit", 2.5 * k}, plain[2]};
    static outcome a, b, other;
    write_digits(files_path("a.onnx"), 1, &o);
    write_digits(files_path("b.onnx"), k, &o);
    train(files_path("a.onnx"), DATA, 40, plain, 3, &a);
    train(files_path("b.onnx"), DATA, 40, scaled, 3, &b);
    near(b.weight[0], a.weight[0] / k, 1e-6, "weight");
    near(b.weight[1], a.weight[1], 1e-6, "the other task's weight");
    near(b.loss[0], k * a.loss[0], 1e-4, "loss");
    ck_assert_msg(distance(&a, &b) < 1e-5, "the parameters differ by %g", distance(&a, &b));
    if (k > 10)
        return; /* may diverge: */
    train(files_path("b.onnx"), DATA, 40, plain, 3, &other);
    ck_assert_msg(distance(&a, &other) > 1e-2, "with the old G the training should differ");
}
END_TEST

/* The calibrated G itself, with Adam as it is. */
START_TEST(test_calibrated_factor)
{
    mtbal_options o = options_of("adam", "mean");
    const mtbal_setting lr = {"lr", 0.001};
    static outcome a, b;
    write_digits(files_path("a.onnx"), 1, &o);
    write_digits(files_path("b.onnx"), 3, &o);
    calibrate(files_path("a.onnx"), DATA, &lr, 1, &a);
    calibrate(files_path("b.onnx"), DATA, &lr, 1, &b);
    near(b.g[0], 3 * a.g[0], 0.02, "G");
    near(b.g[1], a.g[1], 1e-6, "the other task's G");
    near(b.weight[0] / b.weight[1], a.weight[0] / a.weight[1] / 3, 0.02, "ratio of the weights");
}
END_TEST

/* ------------------------------------------------------------------ a task that is switched off */

/* Whatever it computes, NaN too, the training is that of the other task, to the bit. */
START_TEST(test_switched_off)
{
    static const char *const optimizers[] = {"sgd", "momentum", "adam", "adamw"};
    const mtbal_setting set[] = {{"mtbal/calibration/b", INFINITY}, {"lr", 0.01}};
    mtbal_options o = options_of(optimizers[_i], "mean");
    static outcome a, b;
    char *text = steps_network(2, 7);
    steps_write(steps_parse(text), &o, files_path("net.onnx"));
    free(text);
    steps_network_data(files_path("sound.npz"), 500, 1, 1, false);
    steps_network_data(files_path("broken.npz"), 500, 1, NAN, false);
    train(files_path("net.onnx"), files_path("sound.npz"), 20, set, 2, &a);
    train(files_path("net.onnx"), files_path("broken.npz"), 20, set, 2, &b);
    ck_assert(b.weight[1] == 0 && isnan(b.loss[1]) && isfinite(b.loss[0]));
    ck_assert_msg(!memcmp(a.values, b.values, (size_t)a.nvalues * sizeof *a.values),
                  "%s: the parameters differ", optimizers[_i]);
}
END_TEST

/* ------------------------------------------------------------------ targets times a */

/* A network of L layers spreads a gain of a over them, a^(1/L) each; the gradient of a layer is the
 * residual (a) times the gain of the others (a^(1 - 1/L)): G goes by a^(2 - 1/L). */
static double calibrated_g(int layers, double scale)
{
    mtbal_options o = options_of("adam", "mean");
    const mtbal_setting lr = {"lr", 0.01};
    static const char *const tasks[] = {"a", "b"};
    mtbal_calibrate_options c;
    mtbal_calibration r;
    mtbal_diag diag = {0};
    double sum = 0;
    enum { SEEDS = 3 };
    steps_network_data(files_path("net.npz"), 1280, scale, 1, false);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        char *text = steps_network(layers, 1000 * seed + 1);
        steps_write(steps_parse(text), &o, files_path("net.onnx"));
        free(text);
        mtbal_calibrate_default(&c);
        c.model = files_path("net.onnx"), c.data = files_path("net.npz");
        c.batch = 64, c.threads = 1, c.set = &lr, c.nset = 1;
        c.max_epochs = 200, c.cosine = true;
        steps_ok(mtbal_calibrate_task(&c, 2, tasks, 0, &r, NULL, NULL, &diag));
        sum += log10(r.rms_end) / SEEDS;
    }
    return sum;
}

START_TEST(test_target_exponent)
{
    const int layers = _i;
    double measured = calibrated_g(layers, 100) - calibrated_g(layers, 10);
    double wanted = 2 - 1.0 / layers;
    ck_assert_msg(fabs(measured - wanted) < 0.12, "%d layers: G goes by a^%.3f, not a^%.3f", layers,
                  measured, wanted);
}
END_TEST

/* ------------------------------------------------------------------ order, identity */

START_TEST(test_order)
{
    static const char *const optimizers[] = {"sgd", "adam"};
    static const mtbal_pair tasks[] = {{"loss_clean", "loss_clean"}, {"loss_digit", "loss_digit"}};
    mtbal_options o = options_of(optimizers[_i], "mean");
    const mtbal_setting lr = {"lr", 0.0005};
    static outcome a, b;
    write_digits(files_path("a.onnx"), 1, &o);
    o.tasks = tasks;
    o.ntasks = 2;
    write_digits(files_path("b.onnx"), 1, &o);
    calibrate(files_path("a.onnx"), DATA, &lr, 1, &a);
    calibrate(files_path("b.onnx"), DATA, &lr, 1, &b);
    ck_assert_msg(fabs(a.g[0] - a.g[1]) > 0.1 * a.g[0], "the tasks are too alike for this test");
    for (int i = 0; i < TASKS; i++) {
        near(b.g[1 - i], a.g[i], 1e-5, "G");
        near(b.weight[1 - i], a.weight[i], 1e-5, "weight");
        near(b.loss[1 - i], a.loss[i], 1e-4, "loss");
    }
    ck_assert_msg(distance(&a, &b) < 1e-4, "the parameters differ by %g", distance(&a, &b));
}
END_TEST

START_TEST(test_identical)
{
    static const char *const scales[] = {"mean", "sum", "geo", "ref:b"};
    mtbal_options o = options_of("adam", scales[_i]);
    static outcome a;
    char *text = steps_network(3, 11);
    steps_write(steps_parse(text), &o, files_path("net.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 1000, 5, 5, true);
    calibrate(files_path("net.onnx"), files_path("net.npz"), NULL, 0, &a);
    ck_assert_msg(a.g[0] == a.g[1], "G %.9g and %.9g", a.g[0], a.g[1]);
    for (int i = 0; i < TASKS; i++)
        near(a.weight[i], 1, 1e-6, "weight");
    near(a.cosine, 1, 1e-5, "cosine");
    near(a.loss[0], a.loss[1], 1e-5, "loss");
    steps_network_data(files_path("net.npz"), 1000, 5, 5, false); /* other targets: not 1 */
    train(files_path("net.onnx"), files_path("net.npz"), 30, NULL, 0, &a);
    ck_assert_msg(a.cosine < 0.9, "cosine %g of different tasks", a.cosine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("laws");
    TCase *tests = tcase_create("balancing");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, test_power_of_two, 0, 3);
    tcase_add_loop_test(tests, test_any_factor, 0, 3);
    tcase_add_test(tests, test_calibrated_factor);
    tcase_add_loop_test(tests, test_switched_off, 0, 4);
    tcase_add_loop_test(tests, test_target_exponent, 2, 5);
    tcase_add_loop_test(tests, test_order, 0, 2);
    tcase_add_loop_test(tests, test_identical, 0, 4);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
