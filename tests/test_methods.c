/* tests/test_methods.c: the balancing methods that read a Gram matrix. The gradients of the tasks
 * are known numbers here, and what a method makes of them is computed once more, in another way: by
 * elimination with a search for pivots, by coordinate descent, in closed form. */
#include "tests/steps.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* y = x W; t_i = sum((y + b_i) * a_i), so that the gradients of W and b_i are x^T a_i and the sum
 * of a_i's rows. */
enum { ROWS = 3, IN = 6, OUT = 5, MOST = 8 };

typedef struct net {
    int ntasks;
    bool fixed; /* the number of rows is known when rewriting */
    double x[ROWS][IN], a[MOST][ROWS][OUT];
} net;

static net net_new(int ntasks, bool fixed, uint64_t seed)
{
    net n = {.ntasks = ntasks, .fixed = fixed};
    for (int i = 0; i < ROWS * IN; i++)
        n.x[i / IN][i % IN] = (float)steps_normal(&seed);
    for (int t = 0; t < ntasks; t++)
        for (int i = 0; i < ROWS * OUT; i++)
            n.a[t][i / OUT][i % OUT] = (float)(pow(10, t % 4 - 2) * steps_normal(&seed));
    return n;
}

static void print_numbers(FILE *to, int n, const double *numbers)
{
    for (int i = 0; i < n; i++)
        fprintf(to, "%s%.9g", i ? ", " : "", numbers ? numbers[i] : 0.5);
}

static mtbal_model *net_model(const net *n)
{
    char *text = NULL, rows[16] = "n";
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(to != NULL);
    if (n->fixed)
        snprintf(rows, sizeof rows, "%d", ROWS);
    fprintf(to, "<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[%s,%d] x) => (", rows, IN);
    for (int t = 0; t < n->ntasks; t++)
        fprintf(to, "%sfloat t%d", t ? ", " : "", t);
    fprintf(to, ") <float[%d,%d] w = {", IN, OUT);
    print_numbers(to, IN * OUT, NULL);
    for (int t = 0; t < n->ntasks; t++) {
        fprintf(to, "}, float[%d] b%d = {", OUT, t);
        print_numbers(to, OUT, NULL);
    }
    fprintf(to, "}> {\n  y = MatMul(x, w)\n");
    for (int t = 0; t < n->ntasks; t++) {
        fprintf(to, "  a%d = Constant <value = float[%d,%d] {", t, ROWS, OUT);
        print_numbers(to, ROWS * OUT, n->a[t][0]);
        fprintf(to,
                "}> ()\n  z%d = Add(y, b%d)\n  p%d = Mul(z%d, a%d)\n"
                "  t%d = ReduceSum<keepdims = 0>(p%d)\n",
                t, t, t, t, t, t, t);
    }
    fprintf(to, "}\n");
    fclose(to);
    mtbal_model *model = steps_parse(text);
    free(text);
    return model;
}

static void net_data(const net *n)
{
    float x[ROWS * IN];
    int64_t dims[] = {ROWS, IN};
    mtbal_diag diag = {0};
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = (float)n->x[i / IN][i % IN];
    mtbal_array array = {"x", MTBAL_FLOAT, 2, dims, ROWS * IN, sizeof x, x};
    steps_ok(mtbal_npz_write(files_path("x.npz"), 1, &array, false, &diag));
}

/* ------------------------------------------------------------------ what is to come out */

static void gradient(const net *n, int t, double dw[IN * OUT], double db[OUT])
{
    memset(dw, 0, IN * OUT * sizeof *dw);
    memset(db, 0, OUT * sizeof *db);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < OUT; k++) {
            db[k] += n->a[t][r][k];
            for (int i = 0; i < IN; i++)
                dw[i * OUT + k] += n->x[r][i] * n->a[t][r][k];
        }
}

static double dot(int n, const double *a, const double *b)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Over the scope: shared (w), all (w and the b_i), features (y). */
static void gram(const net *n, const char *scope, double g[MOST][MOST])
{
    static double dw[MOST][IN * OUT], db[MOST][OUT];
    for (int t = 0; t < n->ntasks; t++)
        gradient(n, t, dw[t], db[t]);
    for (int i = 0; i < n->ntasks; i++)
        for (int j = 0; j < n->ntasks; j++) {
            g[i][j] = !strcmp(scope, "features") ? dot(ROWS * OUT, n->a[i][0], n->a[j][0])
                                                 : dot(IN * OUT, dw[i], dw[j]);
            if (i == j && (!strcmp(scope, "all") || n->ntasks == 1))
                g[i][j] += dot(OUT, db[i], db[j]);
        }
}

/* G w = n by elimination; then sum |w_i| n_i = K. */
static void imtl_g(int k, double g[MOST][MOST], double w[MOST])
{
    double m[MOST][MOST + 1], sum = 0;
    for (int i = 0; i < k; i++) {
        memcpy(m[i], g[i], sizeof g[i]);
        m[i][k] = sqrt(g[i][i]);
    }
    for (int j = 0; j < k; j++) {
        int best = j;
        for (int i = j; i < k; i++)
            best = fabs(m[i][j]) > fabs(m[best][j]) ? i : best;
        for (int c = 0; c <= k; c++) {
            double other = m[j][c];
            m[j][c] = m[best][c], m[best][c] = other;
        }
        for (int i = j + 1; i < k; i++)
            for (int c = k; c >= j; c--)
                m[i][c] -= m[i][j] / m[j][j] * m[j][c];
    }
    for (int i = k - 1; i >= 0; i--) {
        w[i] = m[i][k];
        for (int c = i + 1; c < k; c++)
            w[i] -= m[i][c] * w[c];
        w[i] /= m[i][i];
    }
    for (int i = 0; i < k; i++)
        sum += fabs(w[i]) * sqrt(g[i][i]);
    for (int i = 0; i < k; i++)
        w[i] *= k / sum;
}

/* The minimum of a^T G a / 2 - sum log a_i, one coordinate after the other. */
static void nash(int k, double g[MOST][MOST], double w[MOST])
{
    for (int i = 0; i < k; i++)
        w[i] = 1 / sqrt(g[i][i]);
    for (int round = 0; round < 20000; round++)
        for (int i = 0; i < k; i++) {
            double others = dot(k, g[i], w) - g[i][i] * w[i];
            w[i] = (-others + sqrt(others * others + 4 * g[i][i])) / (2 * g[i][i]);
        }
}

/* --scale mean: the weights average 1. */
static void to_mean(int k, double w[MOST])
{
    double sum = 0;
    for (int i = 0; i < k; i++)
        sum += fabs(w[i]);
    for (int i = 0; i < k; i++)
        w[i] *= k / sum;
}

/* ------------------------------------------------------------------ a step */

typedef struct outcome {
    double weight[MOST], norm[MOST];
    float w[IN * OUT], b[MOST][OUT]; /* after the step, with lr 1 */
} outcome;

static mtbal_status keep(void *context, const mtbal_record *r, mtbal_diag *diag)
{
    outcome *o = context;
    (void)diag;
    memcpy(o->weight, r->weight, (size_t)o->b[0][0] * sizeof *o->weight);
    memcpy(o->norm, r->grad_norm, (size_t)o->b[0][0] * sizeof *o->norm);
    return MTBAL_OK;
}

static outcome step(const net *n, const mtbal_options *options)
{
    mtbal_session *session = NULL;
    mtbal_data *data = NULL;
    mtbal_diag diag = {0};
    const mtbal_setting lr = {"lr", 1};
    mtbal_session_options so = {.threads = 1, .set = &lr, .nset = 1};
    mtbal_loop_options loop = {.limit = 1, .norm_every = options->outputs & MTBAL_OUT_NORMS};
    outcome o = {.b = {{(float)n->ntasks}}};
    char name[16];
    steps_write(net_model(n), options, files_path("step.onnx"));
    net_data(n);
    steps_ok(mtbal_session_open(files_path("step.onnx"), &so, &session, &diag));
    steps_ok(mtbal_data_open(session, files_path("x.npz"), false, ROWS, &data, &diag));
    steps_ok(mtbal_loop_run(session, data, &loop, keep, &o, &diag));
    memcpy(o.w, mtbal_session_state(session, "w")->data, sizeof o.w);
    for (int t = 0; t < n->ntasks; t++) {
        snprintf(name, sizeof name, "b%d", t);
        memcpy(o.b[t], mtbal_session_state(session, name)->data, sizeof o.b[t]);
    }
    mtbal_data_close(data);
    mtbal_session_close(session);
    return o;
}

static void near(double found, double wanted, double size, const char *what, int i)
{
    ck_assert_msg(fabs(found - wanted) <= 1e-4 * size, "%s %d is %.9g, not %.9g", what, i, found,
                  wanted);
}

/* What the step made of weights: w - sum_i w_i x^T a_i, b_i - w_i sum of a_i (`heads`), or b_i -
 * sum of a_i. */
static void check_update(const net *n, const outcome *o, const double *weights, bool heads)
{
    double next[IN * OUT], size = 0, dw[IN * OUT], db[OUT];
    for (int i = 0; i < IN * OUT; i++)
        next[i] = 0.5;
    for (int t = 0; t < n->ntasks; t++) {
        gradient(n, t, dw, db);
        for (int i = 0; i < IN * OUT; i++) {
            next[i] -= weights[t] * dw[i];
            size = fmax(size, fabs(weights[t] * dw[i]));
        }
        for (int k = 0; k < OUT; k++) {
            double moved = (heads ? weights[t] : 1) * db[k];
            near(o->b[t][k], 0.5 - moved, 0.5 + fabs(moved), "b", t);
        }
    }
    for (int i = 0; i < IN * OUT; i++)
        near(o->w[i], next[i], 0.5 + size, "w", i);
}

static void check(const net *n, const outcome *o, const double *weights, bool heads)
{
    for (int t = 0; t < n->ntasks; t++)
        near(o->weight[t], weights[t], fabs(weights[t]), "weight", t);
    check_update(n, o, weights, heads);
}

static mtbal_options options_of(const char *method, const char *scope, const char *scale)
{
    mtbal_options o;
    mtbal_options_default(&o);
    o.balance = method;
    o.norm_over = scope;
    o.scale = scale;
    o.outputs = MTBAL_OUT_NONE;
    return o;
}

/* ------------------------------------------------------------------ against references */

static const struct method {
    const char *name;
    void (*weights)(int k, double g[MOST][MOST], double w[MOST]);
} methods[] = {{"imtl-g", imtl_g}, {"nash", nash}};
enum { NMETHODS = sizeof methods / sizeof *methods };

static const char *const scopes[] = {"shared", "all", "features", "last-shared", "w"};

/* All numbers of tasks, scopes, ways to apply, with rows that are known and that are not. */
START_TEST(test_references)
{
    const struct method *m = &methods[_i];
    for (int variant = 0; variant < 5 * 2 * 2 * MOST; variant++) {
        int k = variant % MOST + 1, rest = variant / MOST;
        const char *scope = scopes[rest % 5];
        bool fixed = rest / 5 % 2, shared = rest / 10 % 2;
        double g[MOST][MOST], weights[MOST];
        net n = net_new(k, fixed, (uint64_t)variant + 1);
        mtbal_options o = options_of(m->name, scope, shared ? "unit" : "mean");
        o.apply = shared ? "shared" : "loss";
        o.inline_functions = variant % 3 == 0;
        if (k == 1 && (shared || !strcmp(scope, "features") || !strcmp(scope, "w")))
            continue; /* one task has no trunk; its scope `w` alone is another one */
        gram(&n, scope, g);
        m->weights(k, g, weights);
        if (!shared)
            to_mean(k, weights);
        outcome found = step(&n, &o);
        check(&n, &found, weights, !shared);
    }
}
END_TEST

/* Two tasks of cosine r: imtl-g 1/n_i, nash 1/(n_i sqrt(1 + r)). One: 1/n. */
START_TEST(test_closed_forms)
{
    for (int seed = 1; seed < 20; seed++) {
        double g[MOST][MOST], weights[MOST];
        net n = net_new(2, seed % 2, (uint64_t)seed);
        gram(&n, "shared", g);
        double r = g[0][1] / sqrt(g[0][0] * g[1][1]);
        for (int t = 0; t < 2; t++)
            weights[t] = 1 / (sqrt(g[t][t]) * (_i ? sqrt(1 + r) : 1));
        mtbal_options o = options_of(methods[_i].name, "shared", "unit");
        outcome found = step(&n, &o);
        check(&n, &found, weights, true);
    }
    double g[MOST][MOST], one = 1;
    net n = net_new(1, false, 3);
    gram(&n, "shared", g);
    mtbal_options o = options_of(methods[_i].name, "shared", "mean");
    outcome found = step(&n, &o);
    check(&n, &found, &one, true);
    o.scale = "unit", one = 1 / sqrt(g[0][0]);
    found = step(&n, &o);
    check(&n, &found, &one, true);
}
END_TEST

/* ------------------------------------------------------------------ --clip-task */

/* Gradients longer than the limit are made as long as it, then weighted: what a method makes of the
 * clipped ones, what the update is made of; and what is shown are the norms before. */
START_TEST(test_clip_task)
{
    static const char *const names[] = {"equal", "calibrated", "imtl-g", "nash"};
    for (int variant = 0; variant < 24; variant++) {
        int k = variant % 3 * 2 + 1;
        bool shared = variant / 3 % 2 && k > 1, fixed = variant / 6 % 2;
        const char *scope = variant / 12 && k > 1 ? "features" : "shared";
        double g[MOST][MOST], clipped[MOST][MOST], weights[MOST], factor[MOST], limit = 2;
        net n = net_new(k, fixed, (uint64_t)variant + 50);
        mtbal_options o = options_of(names[_i], scope, "mean");
        o.apply = shared ? "shared" : "loss";
        o.clip_task = limit;
        o.outputs = MTBAL_OUT_NORMS;
        gram(&n, scope, g);
        for (int i = 0; i < k; i++)
            factor[i] = fmin(1, limit / sqrt(g[i][i]));
        for (int i = 0; i < k; i++)
            for (int j = 0; j < k; j++)
                clipped[i][j] = factor[i] * factor[j] * g[i][j];
        for (int i = 0; i < k; i++)
            weights[i] = 1;
        if (_i >= 2) {
            methods[_i - 2].weights(k, clipped, weights);
            to_mean(k, weights);
        }
        outcome found = step(&n, &o);
        for (int i = 0; i < k; i++) {
            near(found.weight[i], weights[i], fabs(weights[i]), "weight", i);
            near(found.norm[i], sqrt(g[i][i]), sqrt(g[i][i]), "norm", i);
            weights[i] *= factor[i];
        }
        check_update(&n, &found, weights, !shared);
    }
}
END_TEST

/* ------------------------------------------------------------------ laws */

static void multiply(net *n, int t, double k)
{
    for (int i = 0; i < ROWS * OUT; i++)
        n->a[t][i / OUT][i % OUT] *= k;
}

/* A loss times 4: its weight a quarter, and the same bits in all that is trained. Over large
 * factors the Gram matrix of floats ends: 1e15 squared. */
START_TEST(test_scale_of_a_loss)
{
    for (int k = 2; k <= 5; k++) {
        mtbal_options o = options_of(methods[_i].name, "shared", "unit");
        net n = net_new(k, k % 2, 9), scaled = n;
        multiply(&scaled, 1, 4);
        outcome a = step(&n, &o), b = step(&scaled, &o);
        ck_assert_msg(b.weight[1] == a.weight[1] / 4, "%.9g, not %.9g", b.weight[1],
                      a.weight[1] / 4);
        ck_assert(a.weight[0] == b.weight[0]);
        ck_assert_msg(!memcmp(a.w, b.w, sizeof a.w), "the trunk differs");
        ck_assert_msg(!memcmp(a.b, b.b, sizeof a.b), "the heads differ");
        static const double factors[] = {1e-12, 1e-3, 700, 1e12};
        for (int f = 0; f < 4; f++) {
            scaled = n;
            multiply(&scaled, 1, factors[f]);
            b = step(&scaled, &o);
            near(b.weight[1] * factors[f], a.weight[1], fabs(a.weight[1]), "weight", f);
            near(b.weight[0], a.weight[0], fabs(a.weight[0]), "other weight", f);
            for (int i = 0; i < IN * OUT; i++)
                near(b.w[i], a.w[i], 2, "w", i);
        }
    }
}
END_TEST

START_TEST(test_order)
{
    mtbal_options o = options_of(methods[_i].name, "shared", "mean");
    net n = net_new(4, false, 11), turned = n;
    for (int t = 0; t < 4; t++)
        memcpy(turned.a[t], n.a[3 - t], sizeof n.a[t]);
    outcome a = step(&n, &o), b = step(&turned, &o);
    for (int t = 0; t < 4; t++)
        near(b.weight[3 - t], a.weight[t], fabs(a.weight[t]), "weight", t);
}
END_TEST

/* Equal tasks have equal weights, to the bit; a task that is there twice counts as one. */
START_TEST(test_identical)
{
    mtbal_options o = options_of(methods[_i].name, "shared", "mean");
    net n = net_new(3, false, 12);
    memcpy(n.a[1], n.a[0], sizeof n.a[0]);
    outcome a = step(&n, &o);
    near(a.weight[1], a.weight[0], fabs(a.weight[0]), "weight", 1);
    memcpy(n.a[2], n.a[0], sizeof n.a[0]);
    a = step(&n, &o);
    for (int t = 0; t < 3; t++)
        near(a.weight[t], 1, 1, "weight", t);
}
END_TEST

static void all_finite(const outcome *o, int k)
{
    for (int t = 0; t < k; t++)
        ck_assert_msg(isfinite(o->weight[t]), "weight %d is %g", t, o->weight[t]);
    for (int i = 0; i < IN * OUT; i++)
        ck_assert(isfinite(o->w[i]));
}

/* Gradients that are opposed, zero, all zero. */
START_TEST(test_degenerate)
{
    mtbal_options o = options_of(methods[_i].name, "shared", "mean");
    for (int k = 2; k <= 4; k++) {
        net n = net_new(k, k % 2, 13), fewer = n;
        memcpy(n.a[1], n.a[0], sizeof n.a[0]);
        multiply(&n, 1, -2);
        outcome a = step(&n, &o);
        all_finite(&a, k);
        if (k == 2)
            near(a.weight[0], 2 * a.weight[1], fabs(a.weight[0]), "opposed", 0);
        n = fewer;
        multiply(&n, k - 1, 0);
        fewer.ntasks = k - 1;
        fewer.fixed = n.fixed;
        a = step(&n, &o);
        all_finite(&a, k);
        ck_assert(a.weight[k - 1] == 0);
        outcome b = step(&fewer, &o);
        /* over `shared`, which means `all` of one task alone */
        for (int t = 0; t < k - 1; t++)
            near(a.weight[t], b.weight[t], fabs(b.weight[t]), "weight beside a zero", t);
        for (int t = 0; t < k; t++)
            multiply(&n, t, 0);
        a = step(&n, &o);
        all_finite(&a, k);
    }
}
END_TEST

/* A task that reaches nothing of the scope is in nobody's way: weight 1. */
START_TEST(test_apart)
{
    static const char text[] =
        "<ir_version: 8, opset_import: [\"\" : 17]>\n"
        "g (float[n,2] x) => (float a, float b, float c) <float[2,2] w = {1, 2, 3, 4},\n"
        "  float[2] v = {1, 2}> {\n"
        "  y = MatMul (x, w)  a = ReduceSum <keepdims = 0> (y)\n"
        "  z = Mul (y, y)  b = ReduceMean <keepdims = 0> (z)\n"
        "  u = Mul (x, v)  q = Mul (u, u)  c = ReduceSum <keepdims = 0> (q) }";
    mtbal_options o = options_of(methods[_i].name, "shared", "mean");
    mtbal_context *context;
    mtbal_diag diag = {0};
    mtbal_model *model = steps_parse(text);
    steps_ok(mtbal_rewrite(model, &o, &context, &diag));
    mtbal_value *weight = context->weights[2];
    ck_assert(weight->tensor && mtbal_tensor_f64(weight->tensor, 0) == 1);
    ck_assert(!context->weights[0]->tensor);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ whole networks */

static const mtbal_array *array_of(const mtbal_npz *npz, const char *format, const char *name)
{
    char full[256];
    snprintf(full, sizeof full, format, name);
    const mtbal_array *array = mtbal_npz_find(npz, full);
    ck_assert_msg(array && array->dtype == MTBAL_FLOAT, "%s", full);
    return array;
}

/* The gradient is the weighted sum of the task gradients, whether those were added up or one more
 * sweep carried the sum: where parameters that are shared are out of the scope. */
START_TEST(test_sums)
{
    static const char *const nets[] = {"digits2", "digits5"}, *const over[] = {"shared",
                                                                               "last-shared",
                                                                               "features", "all"};
    const char *net = nets[_i % 2], *scope = over[_i / 2 % 4], *method = methods[_i / 8].name;
    int code, checked = 0;
    mtbal_npz *npz;
    mtbal_diag diag = {0};
    char *out = files_run(&code,
                          "$BIN/mtbal-rewrite models/%s.onnx %s --balance %s --norm-over %s "
                          "--outputs grads,task-grads -q && "
                          "$BIN/mtbal-run %s --data models/%s.train.npz --batch 20 --limit 1 "
                          "--outputs %s -q --set lr=0",
                          net, files_path("s.onnx"), method, scope, files_path("s.onnx"), net,
                          files_path("out.npz"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    steps_ok(mtbal_npz_read(files_path("out.npz"), &npz, &diag));
    for (int i = 0; i < npz->count; i++) {
        const char *param = npz->arrays[i].name + strlen("mtbal/grad/");
        if (strncmp(npz->arrays[i].name, "mtbal/grad/", strlen("mtbal/grad/")))
            continue;
        const float *sum = npz->arrays[i].data;
        for (int64_t e = 0; e < npz->arrays[i].count; e++) {
            double wanted = 0, size = 1e-6;
            for (int k = 0; k < npz->count; k++) {
                const char *task = npz->arrays[k].name + strlen("mtbal/weight/");
                char format[256];
                if (strncmp(npz->arrays[k].name, "mtbal/weight/", strlen("mtbal/weight/")))
                    continue;
                snprintf(format, sizeof format, "mtbal/task_grad/%s/%%s", task);
                const float *g = array_of(npz, format, param)->data;
                double part = *(const float *)npz->arrays[k].data * (double)g[e];
                wanted += part;
                size += fabs(part);
            }
            near(sum[e], wanted, size, param, (int)e);
            checked++;
        }
    }
    ck_assert_int_gt(checked, 1000);
    mtbal_npz_free(npz);
}
END_TEST

/* ------------------------------------------------------------------ the commands */

START_TEST(test_commands)
{
    const char *method = methods[_i].name;
    int code;
    const char *model = "models/digits5.onnx", *data = "models/digits5.train.npz";
    char *out = files_run(&code,
                          "$BIN/mtbal-rewrite %s %s --balance %s && $BIN/mtbal-run %s --data %s "
                          "--limit 9 --norm-every 4 --set lr=1e-4 --log %s --save %s",
                          model, files_path("s.onnx"), method, files_path("s.onnx"), data,
                          files_path("log"), files_path("t.onnx"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    /* weights change in every step, measured or not */
    out = files_run(&code, "sed 's/.*\"weight\"//' %s | sort -u | wc -l", files_path("log"));
    ck_assert_msg(atoi(out) == 9, "%s", out);
    free(out);
    out = files_run(&code, "$BIN/mtbal-calibrate %s --data %s", files_path("s.onnx"), data);
    ck_assert_int_eq(code, 4);
    ck_assert_msg(strstr(out, "--balance calibrated") != NULL, "%s", out);
    free(out);
    out = files_run(&code, "$BIN/mtbal-rewrite --inference %s %s", files_path("t.onnx"),
                    files_path("back.onnx"));
    ck_assert_msg(code == 0, "%s", out);
    free(out);
    out = files_run(&code, "$BIN/mtbal-rewrite --list-methods");
    ck_assert_msg(code == 0 && strstr(out, method) != NULL, "%s", out);
    free(out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("methods");
    TCase *tests = tcase_create("balancing");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, test_references, 0, NMETHODS);
    tcase_add_loop_test(tests, test_closed_forms, 0, NMETHODS);
    tcase_add_loop_test(tests, test_clip_task, 0, 4);
    tcase_add_loop_test(tests, test_scale_of_a_loss, 0, NMETHODS);
    tcase_add_loop_test(tests, test_order, 0, NMETHODS);
    tcase_add_loop_test(tests, test_identical, 0, NMETHODS);
    tcase_add_loop_test(tests, test_degenerate, 0, NMETHODS);
    tcase_add_loop_test(tests, test_apart, 0, NMETHODS);
    tcase_add_loop_test(tests, test_sums, 0, 8 * NMETHODS);
    tcase_add_loop_test(tests, test_commands, 0, NMETHODS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
