/* tests/test_training.c: training in ONNX's own words: the operators of ai.onnx.preview.training
 * against ONNX's node tests and PyTorch, models with training_info that another tool wrote, and
 * ours. tests/data/training/make.py made the former, and tells what PyTorch computes for them. */
#include "passes/passes.h"
#include "tests/files.h"
#include "tests/steps.h"
#include "train/train.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DATA   "tests/data/training/"
#define NODES  "tests/data/onnx_training/"
#define MODELS "tests/data/models/"
enum { MAX_ARRAYS = 64 };

/* Runs a command of ours; what it said, malloc'ed. */
static char *run_command(int *code, const char *format, va_list args)
{
    const char *bin = getenv("BIN");
    char line[2048], *text = NULL;
    size_t size;
    int n = snprintf(line, sizeof line, "%s/", bin ? bin : "bin");
    vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    FILE *pipe = popen(line, "r"), *to = open_memstream(&text, &size);
    ck_assert(pipe && to);
    for (int c; (c = fgetc(pipe)) != EOF;)
        fputc(c, to);
    fclose(to);
    *code = pclose(pipe) >> 8;
    return text;
}

static char *command(int *code, const char *format, ...) MTBAL_PRINTF(2, 3);
static char *command(int *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *said = run_command(code, format, args);
    va_end(args);
    return said;
}

/* The same of one that must not fail. */
static void must(const char *format, ...) MTBAL_PRINTF(1, 2);
static void must(const char *format, ...)
{
    int code;
    va_list args;
    va_start(args, format);
    char *said = run_command(&code, format, args);
    va_end(args);
    ck_assert_msg(code == 0, "exit code %d: %s", code, said);
    free(said);
}

static double element(const mtbal_array *array, int64_t i)
{
    mtbal_tensor as = {.dtype = array->dtype, .count = array->count, .data = array->data};
    return mtbal_tensor_f64(&as, i);
}

static void compare(const char *label, const mtbal_array *found, const mtbal_array *wanted,
                    double relative, double absolute)
{
    ck_assert_msg(found != NULL, "%s: there is no %s", label, wanted->name);
    ck_assert_msg(found->dtype == wanted->dtype && found->rank == wanted->rank &&
                      !memcmp(found->dims, wanted->dims, (size_t)wanted->rank * sizeof(int64_t)),
                  "%s: %s has another type or shape", label, wanted->name);
    for (int64_t i = 0; i < wanted->count; i++) {
        double x = element(found, i), y = element(wanted, i);
        ck_assert_msg(fabs(x - y) <= absolute + relative * fabs(y),
                      "%s: %s[%lld] is %.9g, wanted %.9g", label, wanted->name, (long long)i, x, y);
    }
}

/* mtbal-run MODEL --inputs --outputs; outputs as wanted. */
static void run_once(const char *label, const char *model, const mtbal_array *inputs, int ninputs,
                     const mtbal_array *wanted, int nwanted, double relative, double absolute)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    int code;
    steps_ok(mtbal_npz_write(files_path("x.npz"), ninputs, inputs, false, &diag));
    char *said = command(&code, "mtbal-run %s --inputs %s --outputs %s -q 2>&1", model,
                         files_path("x.npz"), files_path("y.npz"));
    ck_assert_msg(code == 0, "%s: exit code %d: %s", label, code, said);
    free(said);
    steps_ok(mtbal_npz_read(files_path("y.npz"), &npz, &diag));
    for (int i = 0; i < nwanted; i++)
        compare(label, mtbal_npz_find(npz, wanted[i].name), &wanted[i], relative, absolute);
    mtbal_npz_free(npz);
}

/* The same model, its training operators replaced by mtbal-rewrite. */
static const char *standard(const char *model)
{
    must("mtbal-rewrite %s %s --target standard -q 2>&1", model, files_path("standard.onnx"));
    mtbal_model *read = steps_read(files_path("standard.onnx"));
    for (const mtbal_node *node = read->graph->first; node; node = node->next)
        ck_assert_msg(!*node->domain || !strcmp(node->domain, "mtbal"), "%s is left", node->op);
    ck_assert_int_eq(mtbal_opset_of(read, "ai.onnx.preview.training"), 0);
    ck_assert_int_eq(read->ntrainings, 0);
    mtbal_model_free(read);
    return files_path("standard.onnx");
}

/* ------------------------------------------------------------------ ONNX's node tests */

static const char *const node_tests[] = {
    "test_adam",
    "test_adam_multiple",
    "test_adagrad",
    "test_adagrad_multiple",
    "test_momentum",
    "test_momentum_multiple",
    "test_nesterov_momentum",
    "test_gradient_of_add",
    "test_gradient_of_add_and_mul",
};

static mtbal_array read_pb(mtbal_model *model, const char *test, const char *what, int i,
                           const mtbal_value *value)
{
    char path[200];
    const char *name;
    mtbal_tensor *t;
    mtbal_diag diag = {0};
    snprintf(path, sizeof path, NODES "%s/test_data_set_0/%s_%d.pb", test, what, i);
    steps_ok(mtbal_onnx_read_tensor(model, path, &t, &name, &diag));
    return (mtbal_array){value->name,
                         t->dtype,
                         t->rank,
                         (int64_t *)(uintptr_t)t->dims,
                         t->count,
                         t->bytes,
                         (void *)(uintptr_t)t->data};
}

START_TEST(test_nodes)
{
    char path[200];
    mtbal_array in[MAX_ARRAYS], out[MAX_ARRAYS];
    snprintf(path, sizeof path, NODES "%s/model.onnx", node_tests[_i]);
    mtbal_model *model = steps_read(path);
    const mtbal_graph *g = model->graph;
    for (int i = 0; i < g->ninputs; i++)
        in[i] = read_pb(model, node_tests[_i], "input", i, g->inputs[i]);
    for (int i = 0; i < g->noutputs; i++)
        out[i] = read_pb(model, node_tests[_i], "output", i, g->outputs[i]);
    run_once(node_tests[_i], path, in, g->ninputs, out, g->noutputs, 1e-3, 1e-7);
    run_once(node_tests[_i], standard(path), in, g->ninputs, out, g->noutputs, 1e-3, 1e-7);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ Gradient, against PyTorch */

static const char *const gradients[] = {
    "second_order", "third_order",          "gradient_penalty", "tensor_y",
    "other_values", "other_values_between", "between",          "one_value_twice",
    "left_out",     "dependent_z",          "independent",      "in_function",
};

/* The arrays of an npz whose names begin so, without that beginning. */
static int select_arrays(const mtbal_npz *npz, const char *prefix, mtbal_array *list)
{
    int n = 0;
    size_t skip = strlen(prefix);
    for (int i = 0; i < npz->count && n < MAX_ARRAYS; i++)
        if (!strncmp(npz->arrays[i].name, prefix, skip)) {
            list[n] = npz->arrays[i];
            list[n++].name += skip;
        }
    ck_assert_int_gt(n, 0);
    return n;
}

START_TEST(test_gradients)
{
    char model[120], npz_path[120];
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    mtbal_array in[MAX_ARRAYS], out[MAX_ARRAYS];
    snprintf(model, sizeof model, DATA "%s.onnx", gradients[_i]);
    snprintf(npz_path, sizeof npz_path, DATA "%s.npz", gradients[_i]);
    steps_ok(mtbal_npz_read(npz_path, &npz, &diag));
    int nin = select_arrays(npz, "input/", in), nout = select_arrays(npz, "output/", out);
    run_once(gradients[_i], model, in, nin, out, nout, 1e-5, 1e-5);
    run_once(gradients[_i], standard(model), in, nin, out, nout, 1e-5, 1e-5);
    mtbal_npz_free(npz);
}
END_TEST

#define GRAPH(body)                                                                               \
    "<ir_version: 8, opset_import: [\"\" : 17, \"ai.onnx.preview.training\" : 1, \"own\" : 1]>\n" \
    "g (float[2] a, float[2] b) => (float[2] d, float[2] y) {\n" body "}\n"
#define GRADIENT(attributes) "  d = ai.onnx.preview.training.Gradient <" attributes "> (a)\n"
#define ADAM(attributes, in) \
    "  d = ai.onnx.preview.training." attributes " (" in ")\n  y = Exp(a)\n"

static const struct {
    const char *text, *says;
    mtbal_status status;
} refused[] = {
    {GRAPH("  y = Exp(a)\n" GRADIENT("xs = [\"a\"], y = \"q\"")), "no tensor named q",
     MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("xs = [\"q\"], y = \"y\"")), "no tensor named q",
     MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("xs = [\"a\"]")), "attribute y is missing", MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("y = \"y\"")), "attribute xs is missing", MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("xs = [\"a\", \"b\"], y = \"y\"")), "inputs are not one",
     MTBAL_INVALID},
    {GRAPH("  i = Cast <to = 7> (a)\n  y = Exp(a)\n" GRADIENT("xs = [\"a\"], y = \"i\"")),
     "is no float", MTBAL_INVALID},
    {GRAPH(GRADIENT("xs = [\"a\"], y = \"y\"") "  y = Mul(a, d)\n"), "circle", MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("nx = 1000000, nz = 0")), "does not say", MTBAL_INVALID},
    {GRAPH("  y = Exp(a)\n" GRADIENT("nx = -1, nz = 1")), "does not say", MTBAL_INVALID},
    {GRAPH("  y = Exp()\n  d = Neg(a)\n"), "input 0 is missing", MTBAL_INVALID},
    {GRAPH(ADAM("Adam", "a, b, a, b, a")), "takes R, T and 4 tensors", MTBAL_INVALID},
    {GRAPH(ADAM("Momentum <alpha = 1.0>", "a, b, a, b, a")), "attribute beta is missing",
     MTBAL_INVALID},
    {GRAPH(ADAM("Momentum <alpha = 1.0, beta = 1.0, norm_coefficient = 0.0, mode = \"heavy\">",
                "a, b, a, b, a")),
     "mode is 'heavy', which is not supported", MTBAL_UNSUPPORTED},
    {GRAPH("  y = own.First(a)\n" GRADIENT("xs = [\"a\"], y = \"y\"")), "own.First",
     MTBAL_UNSUPPORTED},
};

START_TEST(test_refused)
{
    mtbal_diag diag = {0};
    mtbal_model *model = steps_parse(refused[_i].text);
    mtbal_status status = mtbal_standard_form(model, &diag);
    ck_assert_msg(status == refused[_i].status && strstr(diag.what, refused[_i].says),
                  "status %d: %s\n%s", status, diag.what, refused[_i].text);
    mtbal_model_free(model);
}
END_TEST

/* All that block, also one behind another, of two Gradients; and the exit code. */
START_TEST(test_all_blockers)
{
    mtbal_diag diag = {0};
    mtbal_model *model =
        steps_parse("<ir_version: 8, opset_import: [\"\" : 17, \"ai.onnx.preview.training\" : 1, "
                    "\"own\" : 1]>\n"
                    "g (float[2] a) => (float[2] d, float[2] e, float[2] y, float[2] z) {\n"
                    "  t = own.First(a)\n  u = own.Second(t)\n  y = Mul(u, a)\n"
                    "  d = ai.onnx.preview.training.Gradient <xs = [\"a\"], y = \"y\"> (a)\n"
                    "  z = own.Third(a)\n"
                    "  e = ai.onnx.preview.training.Gradient <xs = [\"a\"], y = \"z\"> (a)\n}\n");
    int code;
    steps_ok(mtbal_onnx_write(model, files_path("blocked.onnx"), &diag));
    mtbal_model_free(model);
    char *said = command(&code, "mtbal-run %s --set a=1 2>&1", files_path("blocked.onnx"));
    ck_assert_msg(code == 3 && strstr(said, "3 nodes") && strstr(said, "own.First") &&
                      strstr(said, "own.Second") && strstr(said, "own.Third"),
                  "exit code %d: %s", code, said);
    free(said);
}
END_TEST

/* A gradient penalty in a loss: mtbal-rewrite differentiates it once more. Golden: the Gradient of
 * the same graph, which PyTorch has checked. */
START_TEST(test_rewritten)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    mtbal_array in[MAX_ARRAYS], wanted;
    mtbal_model *model = steps_read(DATA "gradient_penalty.onnx");
    mtbal_value *kernel = mtbal_value_find(model->graph, "kernel");
    steps_ok(mtbal_npz_read(DATA "gradient_penalty.npz", &npz, &diag));
    const mtbal_array *k = mtbal_npz_find(npz, "input/kernel");
    mtbal_remove_input(model->graph, kernel);
    mtbal_remove_output(model->graph, mtbal_value_find(model->graph, "dk"));
    steps_ok(mtbal_add_initializer(model->graph, kernel,
                                   mtbal_tensor_new(model, k->dtype, k->rank, k->dims, k->data)));
    steps_ok(mtbal_onnx_write(model, files_path("penalty.onnx"), &diag));
    mtbal_model_free(model);
    must("mtbal-rewrite %s %s --optimizer none -q 2>&1", files_path("penalty.onnx"),
         files_path("step.onnx"));
    select_arrays(npz, "input/", in);
    wanted = *mtbal_npz_find(npz, "output/dk");
    wanted.name = "mtbal/grad/kernel";
    run_once("gradient penalty", files_path("step.onnx"), in, 1, &wanted, 1, 1e-4, 1e-5);
    mtbal_npz_free(npz);
}
END_TEST

/* ------------------------------------------------------------------ training_info of others */

static const char *const trainings[] = {
    "sgd", "two_steps", "adam", "adagrad", "momentum_standard", "momentum_nesterov",
};

/* The state of that name in a file, whose form may be either. */
static mtbal_array state_in(const mtbal_model *model, const char *name)
{
    const mtbal_value *v = mtbal_initializer_find(model, name);
    ck_assert_msg(v != NULL, "there is no state %s", name);
    const mtbal_tensor *t = v->tensor;
    return (mtbal_array){name,
                         t->dtype,
                         t->rank,
                         (int64_t *)(uintptr_t)t->dims,
                         t->count,
                         t->bytes,
                         (void *)(uintptr_t)t->data};
}

static void check_losses(const char *name, const mtbal_array *wanted)
{
    FILE *log = fopen(files_path("log.jsonl"), "r");
    char line[1024];
    ck_assert(log != NULL);
    for (int64_t i = 0; i < wanted->count; i++) {
        ck_assert_msg(fgets(line, sizeof line, log) != NULL, "%s: no step %lld", name,
                      (long long)i);
        const char *at = strstr(line, "\"loss\":{\"loss\":");
        ck_assert_msg(at != NULL, "%s: %s", name, line);
        double loss = strtod(at + 15, NULL);
        ck_assert_msg(fabs(loss - element(wanted, i)) <= 1e-5 * fabs(loss),
                      "%s: the loss at step %lld is %.9g, PyTorch says %.9g", name, (long long)i,
                      loss, element(wanted, i));
    }
    fclose(log);
}

/* Trains as the npz did; the losses and the states in the saved file are PyTorch's. */
static void train_and_check(const char *name, const char *model, int forms)
{
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    mtbal_array in[MAX_ARRAYS], states[MAX_ARRAYS];
    char npz_path[120];
    snprintf(npz_path, sizeof npz_path, DATA "%s.npz", name);
    steps_ok(mtbal_npz_read(npz_path, &npz, &diag));
    int nin = select_arrays(npz, "input/", in), nstates = select_arrays(npz, "state/", states);
    steps_ok(mtbal_npz_write(files_path("x.npz"), nin, in, false, &diag));
    must("mtbal-run %s --inputs %s --limit 5 --log %s --save %s -q 2>&1", model,
         files_path("x.npz"), files_path("log.jsonl"), files_path("trained.onnx"));
    check_losses(name, mtbal_npz_find(npz, "loss"));
    mtbal_model *saved = steps_read(files_path("trained.onnx"));
    ck_assert_int_eq(saved->ntrainings, forms);
    for (int i = 0; i < nstates; i++) {
        mtbal_array found = state_in(saved, states[i].name);
        compare(name, &found, &states[i], 1e-4, 1e-5);
    }
    mtbal_model_free(saved);
    mtbal_npz_free(npz);
}

START_TEST(test_trainings)
{
    char model[120];
    snprintf(model, sizeof model, DATA "%s.onnx", trainings[_i]);
    train_and_check(trainings[_i], model, strcmp(trainings[_i], "two_steps") ? 1 : 2);
    train_and_check(trainings[_i], standard(model), 0);
}
END_TEST

/* --initialize: optimizer states as the initialization says, weights as stored; --set lr. */
START_TEST(test_initialize)
{
    int code;
    mtbal_array t;
    train_and_check("adam", DATA "adam.onnx", 1);
    must("mtbal-run %s --inputs %s --set R=0 --save %s --initialize -q 2>&1",
         files_path("trained.onnx"), files_path("x.npz"), files_path("again.onnx"));
    mtbal_model *before = steps_read(files_path("trained.onnx"));
    mtbal_model *after = steps_read(files_path("again.onnx"));
    t = state_in(before, "T");
    ck_assert_int_eq(*(int64_t *)t.data, 5);
    t = state_in(after, "T");
    ck_assert_int_eq(*(int64_t *)t.data, 1);
    mtbal_array w = state_in(before, "W1"), same = state_in(after, "W1");
    for (int64_t i = 0; i < w.count; i++) /* rate 0: only norm_coefficient_post shrinks them */
        ck_assert_double_eq_tol(element(&same, i), 0.999 * element(&w, i), 1e-6);
    mtbal_model_free(before);
    mtbal_model_free(after);
    char *said = command(&code, "mtbal-run %s --inputs %s --initialize 2>&1", DATA "sgd.onnx",
                         files_path("x.npz"));
    ck_assert_msg(code == 2 && strstr(said, "no initialization"), "exit code %d: %s", code, said);
    free(said);
}
END_TEST

/* ------------------------------------------------------------------ what is wrong with bindings */

static const struct {
    const char *key, *value, *says; /* of an entry more in update_binding */
} bindings[] = {
    {"nothing", "W1_next", "there is no initializer nothing"},
    {"x", "W1_next", "there is no initializer x"},
    {"lr", "nothing", "there is no output nothing"},
    {"lr", "d_W1", "there is no output d_W1"},
    {"W1", "W1_next", "W1 is bound twice"},
};

static void add_binding(mtbal_model *model, mtbal_training *t, const char *key, const char *value)
{
    mtbal_property *longer =
        mtbal_arena_array(model->arena, (size_t)t->nupdates + 1, sizeof *longer);
    ck_assert(longer != NULL);
    memcpy(longer, t->updates, (size_t)t->nupdates * sizeof *longer);
    longer[t->nupdates++] = (mtbal_property){key, value};
    t->updates = longer;
}

START_TEST(test_bindings)
{
    mtbal_diag diag = {0};
    int code;
    mtbal_model *model = steps_read(DATA "sgd.onnx");
    add_binding(model, model->trainings[0], bindings[_i].key, bindings[_i].value);
    steps_ok(mtbal_onnx_write(model, files_path("bad.onnx"), &diag));
    mtbal_model_free(model);
    char *said =
        command(&code, "mtbal-run %s --set x=1 --set target=1 2>&1", files_path("bad.onnx"));
    ck_assert_msg(code == 4 && strstr(said, bindings[_i].says) && strstr(said, "update_binding"),
                  "exit code %d: %s", code, said);
    free(said);
}
END_TEST

/* One key in two steps; two variables of one name; a size that changes; a name that both graphs
 * define; a value that neither does. */
START_TEST(test_bad_trainings)
{
    static const char *const says[] = {"W2 is bound twice",  "differ in type or size",
                                       "two values named t", "there is no tensor named missing",
                                       "lr is bound twice",  "65 steps"};
    mtbal_diag diag = {0};
    int code;
    mtbal_model *model = steps_read(_i % 4 ? DATA "sgd.onnx" : DATA "two_steps.onnx");
    mtbal_training *t = model->trainings[0];
    if (_i == 0)
        add_binding(model, t, "W2", "loss");
    if (_i == 1)
        t->updates[0].value = "loss";
    for (mtbal_node *node = t->algorithm->first; node && _i == 2; node = node->next)
        if (!strcmp(node->op, "ReduceMean"))
            t->algorithm->last->out[0]->name = "t";
    for (mtbal_node *node = t->algorithm->first; node && _i == 3; node = node->next)
        if (!strcmp(node->op, "Gradient"))
            ck_assert_int_eq(mtbal_set_s(node, "y", "missing"), MTBAL_OK);
    if (_i == 2)
        t->updates[t->nupdates - 1].value = "t";
    for (int k = 0; k < 2 && _i == 4; k++)
        add_binding(model, model->trainings[k], "lr", "loss");
    if (_i == 5) {
        model->trainings = mtbal_arena_array(model->arena, 65, sizeof t);
        for (model->ntrainings = 0; model->ntrainings < 65; model->ntrainings++)
            model->trainings[model->ntrainings] = t;
    }
    steps_ok(mtbal_onnx_write(model, files_path("bad.onnx"), &diag));
    mtbal_model_free(model);
    must("mtbal-rewrite --inference %s %s -q 2>&1", files_path("bad.onnx"), files_path("net.onnx"));
    mtbal_array in[MAX_ARRAYS];
    mtbal_npz *npz = NULL;
    steps_ok(mtbal_npz_read(DATA "sgd.npz", &npz, &diag));
    steps_ok(
        mtbal_npz_write(files_path("x.npz"), select_arrays(npz, "input/", in), in, false, &diag));
    mtbal_npz_free(npz);
    char *said = command(&code, "mtbal-run %s --inputs %s 2>&1", files_path("bad.onnx"),
                         files_path("x.npz"));
    ck_assert_msg(code == (_i == 5 ? 3 : 4) && strstr(said, says[_i]), "exit code %d: %s", code,
                  said);
    free(said);
}
END_TEST

/* ------------------------------------------------------------------ files */

/* Untouched: the same bytes. Changed elsewhere: training_info, the last field, as it was. */
START_TEST(test_bytes_stay)
{
    mtbal_diag diag = {0};
    size_t size, changed_size;
    enum { TAIL = 1000 };
    mtbal_model *model = steps_read(DATA "adam.onnx");
    ck_assert_int_eq(model->ntrainings, 1);
    steps_ok(mtbal_onnx_write(model, files_path("same.onnx"), &diag));
    ck_assert(files_equal(DATA "adam.onnx", files_path("same.onnx")));
    ck_assert_int_eq(mtbal_property_set(model, "key", "value"), MTBAL_OK);
    steps_ok(mtbal_onnx_write(model, files_path("changed.onnx"), &diag));
    mtbal_model_free(model);
    unsigned char *before = files_read(DATA "adam.onnx", &size);
    unsigned char *after = files_read(files_path("changed.onnx"), &changed_size);
    ck_assert(changed_size > size && size > TAIL);
    ck_assert(!memcmp(before + size - TAIL, after + changed_size - TAIL, TAIL));
    free(before);
    free(after);
}
END_TEST

/* ------------------------------------------------------------------ training_info of ours */

static const struct {
    const char *model, *golden, *more;
} ours[] = {
    {"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", ""},
    {"mlp_cls_reg/functions.onnx", "mlp_cls_reg", ""},
    {"mlp_cls_reg/heads.onnx", "mlp_cls_reg",
     "--loss loss_cls=cross-entropy:logits,label --loss loss_reg=mse:pred,target"},
    {"fixtures/weights_as_constants.onnx", "mlp_cls_reg", ""},
    {"cnn_nyu/model.op14.onnx", "cnn_nyu", ""},
    {"cnn_nyu/model.op17.onnx", "cnn_nyu", "--inline-functions"},
    {"transformer_glue/model.op17.onnx", "transformer_glue", ""},
    {"transformer_glue/dropout_p01.onnx", "transformer_glue", ""},
};

static void make_both_forms(int i, const char *optimizer)
{
    static const char *const forms[] = {"step", "training-info"};
    for (int form = 0; form < 2; form++)
        must("mtbal-rewrite " MODELS "%s %s --target %s --optimizer %s %s -q "
             "2>&1",
             ours[i].model, files_path(form ? "info.onnx" : "step.onnx"), forms[form], optimizer,
             ours[i].more);
}

static void write_golden_inputs(int i)
{
    char path[120];
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    mtbal_array in[MAX_ARRAYS];
    snprintf(path, sizeof path, MODELS "%s/golden.npz", ours[i].golden);
    steps_ok(mtbal_npz_read(path, &npz, &diag));
    int n = select_arrays(npz, "input/", in);
    steps_ok(mtbal_npz_write(files_path("x.npz"), n, in, false, &diag));
    mtbal_npz_free(npz);
}

/* Trained for 10 steps, both forms hold the same bits, and give the same network back, byte for
 * byte. */
START_TEST(test_same_bits)
{
    static const char *const optimizers[] = {"sgd", "adam", "momentum"};
    make_both_forms(_i, optimizers[_i % 3]);
    write_golden_inputs(_i);
    for (int form = 0; form < 2; form++) {
        const char *from = form ? "info.onnx" : "step.onnx", *to = form ? "i.onnx" : "s.onnx";
        must("mtbal-run %s --inputs %s --limit 10 --save %s -q 2>&1", files_path(from),
             files_path("x.npz"), files_path(to));
        must("mtbal-rewrite --inference %s %s -q 2>&1", files_path(to),
             files_path(form ? "i_net.onnx" : "s_net.onnx"));
    }
    ck_assert_msg(files_equal(files_path("i_net.onnx"), files_path("s_net.onnx")),
                  "%s: the two forms give different networks", ours[_i].model);
    mtbal_diag diag = {0};
    mtbal_model *step = steps_read(files_path("s.onnx")), *info = steps_read(files_path("i.onnx"));
    mtbal_list states;
    steps_ok(mtbal_property_list(step, "mtbal.state", step->arena, &states, &diag));
    ck_assert_int_gt(states.count, 0);
    for (int i = 0; i < states.count; i++) {
        mtbal_array s = state_in(step, states.names[i]), t = state_in(info, states.names[i]);
        ck_assert_msg(s.bytes == t.bytes && !memcmp(s.data, t.data, s.bytes),
                      "%s: state %s differs", ours[_i].model, states.names[i]);
    }
    mtbal_model_free(step);
    mtbal_model_free(info);
}
END_TEST

static mtbal_status no_training_mode(mtbal_node *node, void *context)
{
    (void)context;
    ck_assert_msg(!mtbal_attr_i(node, "training_mode", 0), "%s is in training mode", node->name);
    ck_assert_msg(!mtbal_node_is(node, MTBAL_OP_dropout) || node->nin < 3, "%s drops", node->name);
    return MTBAL_OK;
}

/* What the file says, in ONNX's words: the main graph is the network with the inputs and outputs
 * that it had; the bindings are the metadata's; moments start from zero. */
START_TEST(test_form)
{
    char path[120];
    mtbal_diag diag = {0};
    mtbal_list states;
    make_both_forms(_i, "adam");
    snprintf(path, sizeof path, MODELS "%s", ours[_i].model);
    mtbal_model *in = steps_read(path), *out = steps_read(files_path("info.onnx"));
    ck_assert_int_eq(out->ntrainings, 1);
    ck_assert_int_eq(out->graph->ninputs, in->graph->ninputs);
    ck_assert_int_eq(out->graph->noutputs, in->graph->noutputs);
    for (int i = 0; i < in->graph->ninputs; i++)
        ck_assert_str_eq(out->graph->inputs[i]->name, in->graph->inputs[i]->name);
    for (int i = 0; i < in->graph->noutputs; i++)
        ck_assert_str_eq(out->graph->outputs[i]->name, in->graph->outputs[i]->name);
    mtbal_graph_walk(out->graph, no_training_mode, NULL);
    for (int i = 0; i < out->graph->ninitializers; i++)
        ck_assert_msg(strncmp(out->graph->initializers[i]->name, "mtbal/", 6),
                      "the main graph holds %s", out->graph->initializers[i]->name);
    const mtbal_training *t = out->trainings[0];
    steps_ok(mtbal_property_list(out, "mtbal.state", out->arena, &states, &diag));
    ck_assert_int_eq(t->nupdates, states.count);
    for (int i = 0; i < states.count; i++) {
        ck_assert_str_eq(t->updates[i].key, states.names[i]);
        ck_assert_str_eq(t->updates[i].value, states.values[i]);
    }
    ck_assert(t->initialization != NULL);
    int moments = 0;
    for (int i = 0; i < t->nupdates; i++)
        moments += !strncmp(t->updates[i].key, "mtbal/adam_", 11);
    ck_assert_int_gt(moments, 0);
    ck_assert_int_eq(t->ninits, moments + 1);
    mtbal_model_free(in);
    mtbal_model_free(out);
}
END_TEST

/* mtbal-rewrite makes its own step of the main graph, and says what it leaves out. */
START_TEST(test_left_out)
{
    int code;
    char *said = command(&code, "mtbal-rewrite %s %s --loss fit=mse:y,goal 2>&1", DATA "sgd.onnx",
                         files_path("step.onnx"));
    ck_assert_msg(code == 0 && strstr(said, "training_info is left out"), "exit code %d: %s", code,
                  said);
    free(said);
    mtbal_model *model = steps_read(files_path("step.onnx"));
    ck_assert_int_eq(model->ntrainings, 0);
    mtbal_model_free(model);
}
END_TEST

/* G of both forms, stored where each has its states. */
START_TEST(test_calibrate)
{
    double g[2];
    for (int form = 0; form < 2; form++) {
        const char *file = files_path(form ? "info.onnx" : "step.onnx");
        must("mtbal-rewrite models/digits2.onnx %s --target %s --optimizer "
             "adam -q 2>&1",
             file, form ? "training-info" : "step");
        must("mtbal-calibrate %s --data models/digits2.train.npz --max-epochs "
             "2 --window 20 --set lr=0.003 -q 2>&1",
             file);
        mtbal_model *model = steps_read(file);
        mtbal_array state = state_in(model, "mtbal/calibration/loss_clean");
        g[form] = element(&state, 0);
        ck_assert_int_eq(model->ntrainings, form);
        mtbal_model_free(model);
    }
    ck_assert_msg(g[0] == g[1] && g[0] > 2, "G is %.9g in one form, %.9g in the other", g[0], g[1]);
}
END_TEST

/* ------------------------------------------------------------------ out of memory */

static mtbal_status standard_form(void *path)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    if (status == MTBAL_OK)
        status = mtbal_standard_form(model, &diag);
    mtbal_model_free(model);
    return status;
}

static mtbal_status training_info(void *path)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options options;
    unsigned char *bytes = NULL;
    size_t size;
    mtbal_options_default(&options);
    options.optimizer = "adam";
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    if (status == MTBAL_OK)
        status = mtbal_rewrite(model, &options, &context, &diag);
    if (status == MTBAL_OK)
        status = mtbal_training_info(context);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write_bytes(model, &bytes, &size, &diag);
    mtbal_free(bytes);
    mtbal_model_free(model);
    return status;
}

START_TEST(test_faults)
{
    static const char *const paths[] = {DATA "two_steps.onnx", DATA "gradient_penalty.onnx",
                                        DATA "adam.onnx", DATA "one_value_twice.onnx"};
    for (int i = 0; i < 4; i++) {
        int runs = fail_each_allocation(standard_form, (void *)(uintptr_t)paths[i]);
        ck_assert_msg(runs > 10, "%d allocations", runs);
    }
    ck_assert_int_gt(fail_each_allocation(training_info, MODELS "mlp_cls_reg/model.op17.onnx"), 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("training");
    TCase *tests = tcase_create("training");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 120);
#define LOOP(test, list) tcase_add_loop_test(tests, test, 0, (int)(sizeof list / sizeof *list))
    LOOP(test_nodes, node_tests);
    LOOP(test_gradients, gradients);
    LOOP(test_refused, refused);
    LOOP(test_trainings, trainings);
    LOOP(test_bindings, bindings);
    LOOP(test_same_bits, ours);
    LOOP(test_form, ours);
    tcase_add_loop_test(tests, test_bad_trainings, 0, 6);
    tcase_add_test(tests, test_all_blockers);
    tcase_add_test(tests, test_rewritten);
    tcase_add_test(tests, test_initialize);
    tcase_add_test(tests, test_bytes_stay);
    tcase_add_test(tests, test_left_out);
    tcase_add_test(tests, test_calibrate);
    tcase_add_test(tests, test_faults);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
