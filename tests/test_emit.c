/* tests/test_emit.c: --emit-c: real exports as C, compiled, run for ten steps: the bits of
 * mtbal-run, and PyTorch's trajectories. Kernels one by one; several copies in one process; the
 * network without training. */
#include "lower/c/c.h"
#include "tests/files.h"
#include "train/train.h"

#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA   "tests/data/models/"
#define STRICT "-std=c11 -Wall -Wextra -Wpedantic -Werror -ffp-contract=off"

typedef struct emit_case {
    const char *model, *golden, *flags; /* under DATA; folder of golden.npz, or NULL: made-up
                                           inputs; of mtbal-rewrite */
    const char *make;                   /* CLANG, SAN (sanitizers), THREADS: how it is compiled */
    double lr;
    const char *trajectory; /* its name in golden.npz, or NULL */
} emit_case;

static const emit_case cases[] = {
    {"mlp_cls_reg/model.op13.onnx", "mlp_cls_reg", "", "", 0.05, "traj_sgd"},
    {"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", "", "CLANG", 0.05, "traj_sgd"},
    {"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", "--optimizer adam", "", 0.001, "traj_adam"},
    {"mlp_cls_reg/static.onnx", "mlp_cls_reg", "--emit-weights file", "", 0.05, "traj_sgd"},
    {"mlp_cls_reg/inits_as_inputs.onnx", "mlp_cls_reg", "--inline-functions", "", 0.05, "traj_sgd"},
    {"mlp_cls_reg/functions.onnx", "mlp_cls_reg", "--outputs none", "", 0.05, "traj_sgd"},
    {"mlp_cls_reg/heads.onnx", "mlp_cls_reg",
     "--loss cls=cross-entropy:logits,label --loss reg=mse:pred,target", "", 0.05, "traj_sgd"},
    {"cnn_nyu/model.op13.onnx", "cnn_nyu", "", "", 0.02, "traj_sgd"},
    {"cnn_nyu/model.op14.onnx", "cnn_nyu", "--outputs none", "", 0.02, "traj_sgd"},
    {"cnn_nyu/model.op17.onnx", "cnn_nyu", "", "SAN", 0.02, "traj_sgd"},
    {"cnn_nyu/model.op17.onnx", "cnn_nyu", "--optimizer adam", "", 0.001, "traj_adam"},
    {"cnn_nyu/preserve_dyn_hw.onnx", "cnn_nyu", "", "THREADS", 0.02, "traj_sgd"},
    {"cnn_nyu/eval_bn.onnx", "cnn_nyu", "", "", 0.02, NULL},
    {"transformer_glue/model.op13.onnx", "transformer_glue", "", "", 0.05, "traj_sgd"},
    {"transformer_glue/model.op17.onnx", "transformer_glue", "", "SAN", 0.05, "traj_sgd"},
    {"transformer_glue/model.op17.onnx", "transformer_glue", "--optimizer adam", "", 0.001,
     "traj_adam"},
    {"transformer_glue/dropout_p01.onnx", "transformer_glue", "", "", 0.05, NULL},
    {"transformer_glue/torch_encoder_layer.onnx", "transformer_glue", "", "", 0.05, NULL},
    {"rnn_tag/model.op17.onnx", "rnn_tag", "", "SAN", 0.05, "traj_sgd"},
    {"rnn_steps/model.op17.onnx", "rnn_steps", "", "CLANG", 0.05, "traj_sgd"},
    {"mmoe/model.op17.onnx", "mmoe", "--optimizer adam", "", 0.001, "traj_adam"},
    {"masked/model.op17.onnx", "masked", "", "SAN", 0.05, "traj_sgd"},
    {"masked/model.op17.onnx", "masked", "--optimizer adam", "", 0.001, "traj_adam"},
    {"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", "--balance nash", "SAN", 0.05, NULL},
    {"mmoe/model.op17.onnx", "mmoe", "--balance imtl-g --optimizer adam", "", 0.001, NULL},
    {"fixtures/control_flow.onnx", NULL, "--balance imtl-g --inline-functions", "SAN", 0.01, NULL},
    {"fixtures/double.onnx", NULL, "--optimizer adam", "", 0.01, NULL},
    {"fixtures/control_flow.onnx", NULL, "", "SAN", 0.01, NULL},
    {"fixtures/dynamo_like.onnx", "transformer_glue", "--optimizer adamw", "", 0.01, NULL},
    {"fixtures/tied.onnx", NULL, "--untie", "", 0.01, NULL},
    {"fixtures/external.onnx", "mlp_cls_reg", "", "", 0.05, "traj_sgd"},
    {"fixtures/ext_many/external_many.onnx", "mlp_cls_reg", "", "", 0.05, "traj_sgd"},
    {"fixtures/metadata.onnx", "mlp_cls_reg", "", "", 0.05, "traj_sgd"},
    {"fixtures/metadata_ir10_fields.onnx", "mlp_cls_reg", "", "", 0.05, "traj_sgd"},
    {"fixtures/weights_as_constants.onnx", "mlp_cls_reg", "--optimizer adam", "", 0.001,
     "traj_adam"},
};

/* ------------------------------------------------------------------ commands */

static const char *bin(void)
{
    const char *path = getenv("BIN");
    return path ? path : "bin";
}

/* Runs a command; the test fails where it does. */
static void must_run(const char *format, ...) MTBAL_PRINTF(1, 2);
static void must_run(const char *format, ...)
{
    static char command[1 << 16];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(command, sizeof command, format, args);
    va_end(args);
    ck_assert_msg(n > 0 && n < (int)sizeof command, "the command is too long");
    ck_assert_msg(system(command) == 0, "this failed: %.3000s", command);
}

static bool has_command(const char *name)
{
    char command[128];
    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", name);
    return system(command) == 0;
}

/* What `make` stands for. */
static const char *make_flags(const emit_case *c)
{
    if (!strcmp(c->make, "SAN"))
        return "CFLAGS='-O1 -g -Werror -fsanitize=address,undefined -fno-sanitize-recover'";
    if (!strcmp(c->make, "THREADS"))
        return "CFLAGS='-O2 -Werror -DMODEL_THREADS=3 -pthread'";
    return !strcmp(c->make, "CLANG") && has_command("clang") ? "CC=clang CFLAGS='-O2 -Werror'"
                                                             : "CFLAGS='-O2 -Werror'";
}

/* ------------------------------------------------------------------ a case */

typedef struct bench {
    const emit_case *c;
    mtbal_npz *golden;
    char top[256], inputs[2048], shapes[1024]; /* folder; arguments of ./model, of mtbal-rewrite */
    char *printed;                             /* what ./model printed */
    const mtbal_array *trajectory;
} bench;

static void write_npy(const char *path, const mtbal_array *a)
{
    const char *type = a->dtype == MTBAL_FLOAT    ? "<f4"
                       : a->dtype == MTBAL_DOUBLE ? "<f8"
                       : a->dtype == MTBAL_INT64  ? "<i8"
                                                  : NULL;
    char head[192], dims[64] = "";
    size_t n = 0;
    ck_assert_msg(type != NULL, "%s: no type for it here", a->name);
    for (int d = 0; d < a->rank; d++)
        n += (size_t)snprintf(dims + n, sizeof dims - n, "%lld, ", (long long)a->dims[d]);
    memset(head, ' ', 128);
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    int length = snprintf(head + 10, 118, "{'descr': '%s', 'fortran_order': False, 'shape': (%s)}",
                          type, dims);
    head[10 + length] = ' ';
    head[127] = '\n';
    FILE *file = fopen(path, "wb");
    ck_assert(file && fwrite(head, 1, 128, file) == 128);
    ck_assert_uint_eq(fwrite(a->data, 1, a->bytes, file), a->bytes);
    fclose(file);
}

/* Inputs, of size 4 where the model leaves it open: waves, and the labels 0 and 1. */
static int make_inputs(const mtbal_model *model, mtbal_array *arrays)
{
    int count = 0;
    for (int i = 0; i < model->graph->ninputs; i++) {
        const mtbal_value *v = model->graph->inputs[i];
        mtbal_array *a = &arrays[count];
        if (v->is_initializer)
            continue;
        *a = (mtbal_array){v->name, v->type.dtype, v->type.rank, NULL, 1, 0, NULL};
        a->dims = calloc((size_t)a->rank + 1, sizeof *a->dims);
        ck_assert(a->dims != NULL);
        for (int d = 0; d < a->rank; d++)
            a->count *= a->dims[d] = v->type.dims[d].size >= 0 ? v->type.dims[d].size : 4;
        a->bytes = (size_t)a->count * rt_dtype_size((int)a->dtype);
        a->data = calloc((size_t)a->count, 8);
        ck_assert(a->data != NULL);
        mtbal_tensor as = {.dtype = a->dtype, .count = a->count, .data = a->data};
        for (int64_t k = 0; k < a->count; k++)
            mtbal_tensor_set_f64(&as, k,
                                 a->dtype == MTBAL_INT64 ? (double)(k % 2) : sin((double)(k + i)));
        count++;
    }
    return count;
}

static bool has_input(const mtbal_model *model, const char *name)
{
    for (int i = 0; i < model->graph->ninputs; i++)
        if (!strcmp(model->graph->inputs[i]->name, name))
            return true;
    return false;
}

/* Those that the model has: an exporter drops what a variant does not use. Labels are inputs of
 * --loss only. */
static int golden_inputs(const bench *b, const mtbal_model *model, mtbal_array *arrays)
{
    int count = 0;
    for (int i = 0; i < b->golden->count; i++) {
        const char *name = b->golden->arrays[i].name;
        if (strncmp(name, "input/", 6) ||
            !(has_input(model, name + 6) || strstr(b->c->flags, "--loss")))
            continue;
        arrays[count] = b->golden->arrays[i];
        arrays[count++].name += 6;
    }
    return count;
}

/* The inputs as inputs.npz, and one .npy each. */
static void write_inputs(bench *b)
{
    mtbal_array arrays[16];
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    char path[400];
    size_t n = 0, m = 0;
    snprintf(path, sizeof path, DATA "%s", b->c->model);
    ck_assert_int_eq(mtbal_onnx_read(path, &model, &diag), MTBAL_OK);
    int count = b->golden ? golden_inputs(b, model, arrays) : make_inputs(model, arrays);
    for (int i = 0; i < count; i++) {
        const mtbal_array *a = &arrays[i];
        snprintf(path, sizeof path, "%s/%s.npy", b->top, a->name);
        write_npy(path, a);
        n += (size_t)snprintf(b->inputs + n, sizeof b->inputs - n, " %s=%s", a->name, path);
        m += (size_t)snprintf(b->shapes + m, sizeof b->shapes - m, " --input-shape %s:", a->name);
        for (int d = 0; d < a->rank; d++)
            m += (size_t)snprintf(b->shapes + m, sizeof b->shapes - m, "%s%lld", d ? "," : "",
                                  (long long)a->dims[d]);
    }
    snprintf(path, sizeof path, "%s/inputs.npz", b->top);
    ck_assert_int_eq(mtbal_npz_write(path, count, arrays, false, &diag), MTBAL_OK);
    for (int i = 0; i < count && !b->golden; i++) {
        free(arrays[i].dims);
        free(arrays[i].data);
    }
    mtbal_model_free(model);
}

static void open_bench(bench *b, const emit_case *c)
{
    mtbal_diag diag = {0};
    char path[300];
    *b = (bench){.c = c};
    files_begin();
    snprintf(b->top, sizeof b->top, "%s", files_path("case"));
    ck_assert_int_eq(mkdir(b->top, 0777), 0);
    snprintf(path, sizeof path, DATA "%s/golden.npz", c->golden ? c->golden : "");
    if (c->golden)
        ck_assert_int_eq(mtbal_npz_read(path, &b->golden, &diag), MTBAL_OK);
    write_inputs(b);
}

static void close_bench(bench *b)
{
    must_run("rm -rf '%s'", b->top);
    mtbal_npz_free(b->golden);
    free(b->printed);
    files_end();
}

/* Compiles the folder; prints to b->printed. */
static void compile_and_run(bench *b, const char *options)
{
    size_t size;
    char path[300];
    must_run("make -s -j2 -C '%s/c' %s", b->top, make_flags(b->c));
    must_run("cd '%s/c' && ./model%s %s > ../printed", b->top, b->inputs, options);
    snprintf(path, sizeof path, "%s/printed", b->top);
    unsigned char *text = files_read(path, &size);
    free(b->printed);
    b->printed = calloc(size + 1, 1);
    ck_assert(b->printed != NULL);
    memcpy(b->printed, text, size);
    free(text);
}

/* What ./model printed for a name in a step. NAN: nothing. */
static double printed(const bench *b, long step, const char *name)
{
    char word[300], line[32];
    snprintf(line, sizeof line, "step %ld  ", step);
    snprintf(word, sizeof word, "  %s ", name);
    const char *at = strstr(b->printed, line), *end = at ? strchr(at, '\n') : NULL;
    at = at ? strstr(at, word) : NULL;
    return at && at < end ? strtod(at + strlen(word), NULL) : NAN;
}

static void check_printed(const bench *b, const mtbal_record *r, const char *name, double x)
{
    double found = printed(b, r->step, name);
    if (isfinite(x))
        ck_assert_msg((float)found == (float)x, "%s: %s in step %lld is %.9g in C, %.9g in mtbal",
                      b->c->model, name, (long long)r->step, found, x);
}

static mtbal_status compare_step(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    const bench *b = context;
    const mtbal_program *program = r->program;
    const mtbal_port *ports[3];
    int counts[3], compared = 0;
    (void)diag;
    mtbal_plan_ports(program->plan, &ports[0], &counts[0], &ports[1], &counts[1], &ports[2],
                     &counts[2]);
    for (int i = 0; i < counts[1]; i++) {
        double x = mtbal_program_scalar(program, ports[1][i].name);
        check_printed(b, r, ports[1][i].name, x);
        compared += isfinite(x);
    }
    ck_assert_int_ge(compared, 3);
    const mtbal_array *t = b->trajectory;
    int ntasks = t ? (int)t->dims[t->rank - 1] : 0;
    for (int i = 0; i < ntasks; i++) {
        mtbal_tensor as = {.dtype = t->dtype, .count = t->count, .data = t->data};
        double golden = mtbal_tensor_f64(&as, r->step * ntasks + i);
        ck_assert_msg(fabs(r->loss[i] - golden) <= 1e-4 * fabs(golden),
                      "%s: task %d in step %lld is %.9g, PyTorch says %.9g", b->c->model, i,
                      (long long)r->step, r->loss[i], golden);
    }
    return MTBAL_OK;
}

/* Arguments that write every state as state<i>.npy. */
static char *state_arguments(const bench *b, const mtbal_session *session)
{
    size_t room = (size_t)(session->nstates + 1) * 512, n = 0;
    char *text = calloc(room, 1);
    ck_assert(text != NULL);
    for (int i = 0; i < session->nstates; i++)
        n += (size_t)snprintf(text + n, room - n, " --out '%s=%s/state%d.npy'", session->states[i],
                              b->top, i);
    return text;
}

static void compare_states(const bench *b, mtbal_session *session)
{
    mtbal_diag diag = {0};
    for (int i = 0; i < session->nstates; i++) {
        char path[320];
        mtbal_npz *npz = NULL;
        const rt_tensor *state = mtbal_session_state(session, session->states[i]);
        snprintf(path, sizeof path, "%s/state%d.npy", b->top, i);
        ck_assert_int_eq(mtbal_npz_read(path, &npz, &diag), MTBAL_OK);
        ck_assert(state != NULL);
        ck_assert_int_eq(npz->arrays[0].count, rt_count(state));
        ck_assert_msg(!memcmp(npz->arrays[0].data, state->data, npz->arrays[0].bytes),
                      "%s: state %s differs after ten steps", b->c->model, session->states[i]);
        mtbal_npz_free(npz);
    }
    ck_assert_int_gt(session->nstates, 3);
}

static mtbal_session *open_step(const bench *b, const mtbal_session_options *options)
{
    mtbal_diag diag = {0};
    mtbal_session *session = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/step.onnx", b->top);
    ck_assert_int_eq(mtbal_session_open(path, options, &session, &diag), MTBAL_OK);
    return session;
}

static void run_session(const bench *b, mtbal_session *session, int64_t steps,
                        mtbal_on_step *on_step)
{
    mtbal_diag diag = {0};
    mtbal_data *data = NULL;
    mtbal_loop_options loop = {.limit = steps, .norm_every = 1};
    char path[300];
    snprintf(path, sizeof path, "%s/inputs.npz", b->top);
    ck_assert_int_eq(mtbal_data_open(session, path, true, 0, &data, &diag), MTBAL_OK);
    ck_assert_msg(mtbal_loop_run(session, data, &loop, on_step, (void *)(uintptr_t)b, &diag) ==
                      MTBAL_OK,
                  "%s: %s", b->c->model, diag.what);
    mtbal_data_close(data);
}

/* ------------------------------------------------------------------ ten steps */

START_TEST(test_ten_steps)
{
    bench b;
    const emit_case *c = &cases[_i];
    open_bench(&b, c);
    if (c->trajectory)
        b.trajectory = mtbal_npz_find(b.golden, c->trajectory);
    ck_assert(b.trajectory || !c->trajectory);
    must_run("%s/mtbal-rewrite " DATA "%s '%s/step.onnx' -q --balance equal %s --emit-c '%s/c'%s",
             bin(), c->model, b.top, c->flags, b.top, b.shapes);
    mtbal_setting set = {"lr", c->lr};
    mtbal_session_options options = {.threads = 1, .nset = 1, .set = &set};
    mtbal_session *session = open_step(&b, &options);
    char *states = state_arguments(&b, session), *arguments = calloc(strlen(states) + 64, 1);
    ck_assert(arguments != NULL);
    sprintf(arguments, "--steps 10 --set lr=%g%s", c->lr, states);
    compile_and_run(&b, arguments);
    run_session(&b, session, 10, compare_step);
    compare_states(&b, session);
    free(states);
    free(arguments);
    mtbal_session_close(session);
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ without training */

START_TEST(test_inference)
{
    static const struct {
        const char *model, *golden, *output;
    } nets[] = {{"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", "loss_reg"},
                {"cnn_nyu/model.op17.onnx", "cnn_nyu", "loss_depth"},
                {"transformer_glue/model.op17.onnx", "transformer_glue", "loss_sst2"}};
    emit_case c = {nets[_i].model, nets[_i].golden, "", "", 0, NULL};
    mtbal_diag diag = {0};
    mtbal_npz *ours = NULL;
    bench b;
    char path[300];
    size_t size;
    open_bench(&b, &c);
    must_run("%s/mtbal-rewrite " DATA "%s '%s/step.onnx' -q", bin(), c.model, b.top);
    must_run("%s/mtbal-rewrite --inference '%s/step.onnx' '%s/model.onnx' -q --emit-c '%s/c'%s",
             bin(), b.top, b.top, b.top, b.shapes);
    must_run("%s/mtbal-run '%s/model.onnx' --inputs '%s/inputs.npz' --outputs '%s/out.npz' -q",
             bin(), b.top, b.top, b.top);
    compile_and_run(&b, "");
    snprintf(path, sizeof path, "%s/out.npz", b.top);
    ck_assert_int_eq(mtbal_npz_read(path, &ours, &diag), MTBAL_OK);
    for (int i = 0; i < ours->count; i++)
        if (ours->arrays[i].count == 1 && ours->arrays[i].dtype == MTBAL_FLOAT)
            ck_assert_msg((float)printed(&b, 0, ours->arrays[i].name) ==
                              *(const float *)ours->arrays[i].data,
                          "%s: %s differs", c.model, ours->arrays[i].name);
    ck_assert_msg(mtbal_npz_find(ours, nets[_i].output) != NULL, "there is no %s", nets[_i].output);
    snprintf(path, sizeof path, "%s/c/model.c", b.top);
    unsigned char *text = files_read(path, &size);
    text[size - 1] = 0;
    ck_assert_msg(!strstr((char *)text, "_grad_w") && !strstr((char *)text, "_update"),
                  "%s: training is left in the network", c.model);
    free(text);
    mtbal_npz_free(ours);
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ as a library */

/* Two copies in turns, and one alone: the same states; without malloc and stdio. */
static const char two_copies[] =
    "#include \"model.h\"\n#include <stdlib.h>\n#include <string.h>\n"
    "static model a, b, c;\n"
    "static void fill(model *m, int seed)\n{\n"
    "    float *x = model_input_x(m), *y = model_input_target(m);\n"
    "    for (size_t i = 0; i < model_inputs[MODEL_INPUT_x].bytes / 4; i++)\n"
    "        x[i] = (float)((int)(i * 7 + (size_t)seed) % 11) / 5;\n"
    "    for (size_t i = 0; i < model_inputs[MODEL_INPUT_target].bytes / 4; i++)\n"
    "        y[i] = (float)seed / 7;\n"
    "    for (size_t i = 0; i < model_inputs[MODEL_INPUT_label].bytes / 8; i++)\n"
    "        model_input_label(m)[i] = (int64_t)i % 5;\n"
    "    *model_input_mtbal_lr(m) = 0.1f;\n}\n"
    "static unsigned char kept[MODEL_STATE_BYTES];\n"
    "int main(void)\n{\n"
    "    model_init(&a, model_weights);\n    model_init(&b, model_weights);\n"
    "    model_init(&c, model_weights);\n"
    "    if (memcmp(a.states, c.states, sizeof kept))\n        return 1;\n"
    "    for (int i = 0; i < 3; i++) {\n"
    "        fill(&a, i);\n        model_step(&a, 0);\n"
    "        fill(&b, 5 - i);\n        model_step(&b, 0);\n    }\n"
    "    for (int i = 0; i < 3; i++) {\n        fill(&c, i);\n        model_step(&c, 0);\n    }\n"
    "    if (memcmp(a.states, c.states, sizeof kept) || !memcmp(a.states, b.states, sizeof kept))\n"
    "        return 2;\n"
    "    model_save_states(&a, kept);\n    model_load_states(&b, kept);\n"
    "    fill(&a, 9);\n    fill(&b, 9);\n    model_step(&a, 0);\n    model_step(&b, 0);\n"
    "    return memcmp(a.states, b.states, sizeof kept) ? 3 : 0;\n}\n";

/* Names that the code without main.c may want from outside. */
static const char allowed[] =
    "nm -u lib.o | awk '{print $2}' | grep -vE '^(mem(cpy|move|set|cmp)|strcmp|__cpu_(model|"
    "indicator_init)|_GLOBAL_OFFSET_TABLE_|(erf|exp|expm1|log|log1p|pow|sqrt|tanh|fabs|floor|"
    "nearbyint|ldexp|fmax|fmin|sin|cos)f?)$'";

START_TEST(test_library)
{
    bench b;
    emit_case c = {"mlp_cls_reg/model.op17.onnx", "mlp_cls_reg", "", "", 0, NULL};
    char path[300];
    open_bench(&b, &c);
    must_run("%s/mtbal-rewrite " DATA "%s '%s/step.onnx' -q --emit-c '%s/c' --batch 8", bin(),
             c.model, b.top, b.top);
    snprintf(path, sizeof path, "%s/c/main.c", b.top);
    files_write(path, two_copies, sizeof two_copies - 1);
    must_run("make -s -j2 -C '%s/c' CFLAGS='-O1 -Werror' && '%s/c/model'", b.top, b.top);
    must_run("cd '%s/c' && cc %s -I. -ffreestanding -O1 -nostdlib -r -o lib.o model.c weights.c "
             "runtime/*.c runtime/kernels/*.c && ! %s",
             b.top, STRICT, allowed);
    if (has_command("g++"))
        must_run("cd '%s/c' && for f in *.c runtime/*.c runtime/kernels/*.c; do g++ -x c++ "
                 "-std=c++11 -Wall -Wextra -Wpedantic -Werror -I. -fsyntax-only $f || exit 1; done",
                 b.top);
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ each kernel alone */

static int count_files(const mtbal_c *c, const char *top, bool (*wanted)(const char *))
{
    int n = 0;
    for (int s = 0; c_sources[s].name; s++) {
        const char *name = c_sources[s].name;
        char path[400];
        bool used = !strcmp(name, "runtime/used.h"), list = !strcmp(name, "runtime/kernels.def");
        if (strncmp(name, "runtime/", 8) || !(used || list || c_source_kept(c, s)))
            continue;
        snprintf(path, sizeof path, "%s/%s", top, name);
        FILE *to = fopen(path, "w");
        ck_assert(to != NULL);
        if (used)
            fputs(c_sources[s].text, to);
        else if (list)
            c_print_kernels(to, c);
        else
            c_print_source(to, c, s);
        fclose(to);
        n += wanted(name);
    }
    return n;
}

static bool is_kernel_file(const char *name)
{
    return !strncmp(name, "runtime/kernels/", 16) && strstr(name, ".c");
}

/* What a kernel needs is there, and nothing that it does not: else the compiler would warn. */
START_TEST(test_each_kernel)
{
    mtbal_plan plan = {0};
    char top[256];
    files_begin();
    snprintf(top, sizeof top, "%s", files_path("kernel"));
    for (int k = _i; k < RT_NKERNELS; k += 4) {
        mtbal_c c = {.plan = &plan, .arena = mtbal_arena_new()};
        ck_assert(c.arena != NULL);
        c.kernel_used[k] = true;
        must_run("rm -rf '%s' && mkdir -p '%s/runtime/kernels'", top, top);
        c_choose_sources(&c);
        ck_assert(!c.failed);
        ck_assert_int_le(count_files(&c, top, is_kernel_file), 3); /* its own, loops, elements */
        must_run("cd '%s' && cc %s -I. -DRT_NO_THREADS -O0 -c runtime/*.c "
                 "runtime/kernels/*.c || { echo kernel %s; exit 1; }",
                 top, STRICT, rt_kernels[k].name);
        mtbal_arena_free(c.arena);
    }
    must_run("rm -rf '%s'", top);
    files_end();
}
END_TEST

/* ------------------------------------------------------------------ names, memory */

/* y = a + b, lowered, under names that C cannot bear. */
static mtbal_plan *odd_plan(mtbal_model **model)
{
    static const char *const names[] = {"a*/b \"?"
                                        "?/",
                                        "a*/b_\"?"
                                        "?/",
                                        "int\\\n"};
    mtbal_diag diag = {0};
    mtbal_plan *plan = NULL;
    *model = mtbal_parse_model("<ir_version: 8, opset_import: [\"\" : 17]>\n"
                               "g (float[2] a, float[2] b) => (float[2] y) { y = Add (a, b) }",
                               &diag);
    ck_assert_msg(*model != NULL, "%s", diag.what);
    mtbal_graph *graph = (*model)->graph;
    graph->inputs[0]->name = mtbal_intern((*model)->arena, names[0]);
    graph->inputs[1]->name = mtbal_intern((*model)->arena, names[1]);
    graph->outputs[0]->name = mtbal_intern((*model)->arena, names[2]);
    mtbal_lower_options options = {.noutputs = -1};
    ck_assert_msg(mtbal_lower(*model, &options, &plan, &diag) == MTBAL_OK, "%s", diag.what);
    return plan;
}

START_TEST(test_odd_names)
{
    mtbal_model *model;
    mtbal_plan *plan = odd_plan(&model);
    mtbal_c_options options = {.model = "*/ \\"};
    mtbal_diag diag = {0};
    mtbal_c *c = NULL;
    char top[256];
    files_begin();
    snprintf(top, sizeof top, "%s", files_path("c"));
    must_run("mkdir -p '%s/runtime/kernels'", top);
    ck_assert_int_eq(mtbal_c_new(plan, &options, &c, &diag), MTBAL_OK);
    for (int i = 0; i < mtbal_c_files(c); i++) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", top, mtbal_c_name(c, i));
        FILE *to = fopen(path, "w");
        ck_assert(to != NULL);
        mtbal_c_print(to, c, i);
        ck_assert_int_eq(fclose(to), 0);
    }
    static const char program[] =
        "#include \"model.h\"\nstatic model m;\nint main(void)\n{\n"
        "    const model_port *a = model_find(model_inputs, \"a*/b \\\"\\?\\?/\");\n"
        "    const model_port *y = model_find(model_outputs, \"int\\\\\\n\");\n"
        "    model_init(&m, model_weights);\n"
        "    if (!a || !y)\n        return 1;\n"
        "    *(float *)model_data(&m, a) = 3;\n"
        "    model_step(&m, 0);\n"
        "    return *(float *)model_data(&m, y) == 3 ? 0 : 2;\n}\n";
    files_write(files_path("c/main.c"), program, sizeof program - 1);
    must_run("make -s -C '%s' CFLAGS='-O1 -Werror -trigraphs' && '%s/model'", top, top);
    mtbal_c_free(c);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
    files_end();
}
END_TEST

static mtbal_status choose(void *context)
{
    static const mtbal_c_options options = {.model = "m"};
    mtbal_diag diag = {0};
    mtbal_c *c = NULL;
    mtbal_status status = mtbal_c_new(context, &options, &c, &diag);
    mtbal_c_free(c);
    return status;
}

START_TEST(test_allocations)
{
    mtbal_model *model;
    mtbal_plan *plan = odd_plan(&model);
    ck_assert_int_gt(fail_each_allocation(choose, plan), 1);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ what is typed wrong */

START_TEST(test_usage)
{
    static const struct {
        const char *flags, *says;
        int code;
    } wrong[] = {
        {"--batch 4", "--emit-c", 2},
        {"--emit-c DIR --input-shape x", "no shape", 2},
        {"--emit-c DIR --input-shape x:0,4", "no shape", 2},
        {"--emit-c DIR --emit-weights xml", "no form", 2},
        {"--emit-c DIR --input-shape nope:1,2", "no such input", 4},
        {"--emit-c DIR/a/b/c", "no folder", 5},
    };
    char command[900], text[2000] = "";
    files_begin();
    const char *flags = wrong[_i].flags, *d = strstr(flags, "DIR");
    snprintf(command, sizeof command,
             "%s/mtbal-rewrite " DATA "mlp_cls_reg/model.op17.onnx '%s' %.*s%s%s 2>&1", bin(),
             files_path("step.onnx"), d ? (int)(d - flags) : (int)strlen(flags), flags,
             d ? files_path("c") : "", d ? d + 3 : "");
    FILE *pipe = popen(command, "r");
    ck_assert(pipe && fread(text, 1, sizeof text - 1, pipe) > 0);
    int status = pclose(pipe);
    ck_assert_msg(WEXITSTATUS(status) == wrong[_i].code && strstr(text, wrong[_i].says),
                  "%s: exit code %d, %s", flags, WEXITSTATUS(status), text);
    must_run("rm -rf '%s'", files_path("c"));
    unlink(files_path("step.onnx"));
    files_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("emit");
    TCase *tests = tcase_create("C");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, test_ten_steps, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(tests, test_inference, 0, 3);
    tcase_add_test(tests, test_library);
    tcase_add_loop_test(tests, test_each_kernel, 0, 4);
    tcase_add_test(tests, test_odd_names);
    tcase_add_test(tests, test_allocations);
    tcase_add_loop_test(tests, test_usage, 0, 6);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
