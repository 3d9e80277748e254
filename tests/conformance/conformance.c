/* tests/conformance/conformance.c: runs ONNX backend tests through our reader, the pass
 * for training operators, lowering and runtime.
 *
 *     conformance [-v] [-d] [-e LIST] FOLDER...
 *
 * -d: the same in double: the model's floats, the inputs and what is expected. -e: a list of the
 * tests that do not pass, a name a line and why; it must be true: a test that fails and is not in
 * it, or is in it and passes, counts as failed. A folder is one test (it holds model.onnx and
 * test_data_set_N/), or holds tests. Judged as ONNX's own runner does: rtol 1e-3, atol 1e-7, NaN
 * equals NaN, type and shape exact; random outputs by type and shape. Prints one line for each test
 * that does not pass, and the counts. Each test runs in a process of its own, so that a crash is
 * one failed test. */
#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PASSED = 0, FAILED = 10, UNSUPPORTED = 11, MAX_PORTS = 64 };

typedef struct counts {
    int passed, failed, unsupported;
    bool verbose;
    int nlisted, seen, excused, untrue; /* seen: of the list */
    char *listed[1024]; /* names of -e */
} counts;

static bool in_double; /* -d */

/* One test data set: what is fed and what is expected. */
typedef struct data_set {
    const char *folder;
    int ninputs, noutputs;
    mtbal_value *values[MAX_PORTS]; /* the graph's inputs */
    mtbal_tensor *inputs[MAX_PORTS], *outputs[MAX_PORTS];
    char why[400];
} data_set;

static bool exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

/* ------------------------------------------------------------------ in double */

static void widen_type(mtbal_type *type)
{
    if (type->dtype == MTBAL_FLOAT)
        type->dtype = MTBAL_DOUBLE;
}

static mtbal_tensor *widened(mtbal_model *model, mtbal_tensor *t)
{
    if (!in_double || !t || t->dtype != MTBAL_FLOAT)
        return t;
    mtbal_tensor *to = mtbal_tensor_new(model, MTBAL_DOUBLE, t->rank, t->dims, NULL);
    for (int64_t i = 0; to && i < t->count; i++)
        mtbal_tensor_set_f64(to, i, mtbal_tensor_f64(t, i));
    return to;
}

static void widen_attribute(mtbal_node *node, mtbal_attr *a)
{
    mtbal_model *model = node->graph->model;
    bool type = !strcmp(a->name, "to") || !strcmp(a->name, "dtype") ||
                !strcmp(a->name, "output_datatype") || !strcmp(a->name, "stash_type");
    const int64_t n = a->n;
    if (a->kind == MTBAL_ATTR_TENSOR) {
        mtbal_set_tensor(node, a->name, widened(model, a->t));
    } else if (a->kind == MTBAL_ATTR_INT && type && a->i == MTBAL_FLOAT) {
        mtbal_set_i(node, a->name, MTBAL_DOUBLE);
    } else if (mtbal_node_is(node, MTBAL_OP_constant) &&
               (a->kind == MTBAL_ATTR_FLOAT || a->kind == MTBAL_ATTR_FLOATS)) {
        bool one = a->kind == MTBAL_ATTR_FLOAT;
        mtbal_tensor *t = mtbal_tensor_new(model, MTBAL_DOUBLE, one ? 0 : 1, &n, NULL);
        for (int64_t i = 0; t && i < t->count; i++)
            mtbal_tensor_set_f64(t, i, (double)(one ? a->f : a->floats[i]));
        mtbal_attr_remove(node, a->name);
        mtbal_set_tensor(node, "value", t);
        node->out[0]->tensor = t;
    }
}

static mtbal_status widen_node(mtbal_node *node, void *context)
{
    (void)context;
    if (mtbal_node_is(node, MTBAL_OP_layer_normalization)) /* its default is float */
        mtbal_set_i(node, "stash_type", MTBAL_DOUBLE);
    for (mtbal_attr *a = node->attrs, *next; a; a = next) {
        next = a->next;
        widen_attribute(node, a);
        for (int i = 0; a->g && i < a->g->ninputs; i++)
            widen_type(&a->g->inputs[i]->type);
        for (int i = 0; a->g && i < a->g->noutputs; i++)
            widen_type(&a->g->outputs[i]->type);
    }
    for (int i = 0; i < node->nout; i++)
        if (node->out[i]) {
            widen_type(&node->out[i]->type);
            node->out[i]->tensor = widened(node->graph->model, node->out[i]->tensor);
        }
    return MTBAL_OK;
}

/* The model with double wherever it says float. */
static void widen_model(mtbal_model *model)
{
    mtbal_graph *g = model->graph;
    for (int i = 0; i < g->ninputs; i++)
        widen_type(&g->inputs[i]->type);
    for (int i = 0; i < g->ninitializers; i++) {
        widen_type(&g->initializers[i]->type);
        g->initializers[i]->tensor = widened(model, g->initializers[i]->tensor);
    }
    mtbal_graph_walk(g, widen_node, NULL);
    for (int i = 0; i < model->nfunctions; i++)
        mtbal_graph_walk(model->functions[i]->body, widen_node, NULL);
}

/* ------------------------------------------------------------------ one data set */

static int read_tensors(mtbal_model *model, data_set *d, const char *what, mtbal_tensor **list,
                        int count)
{
    for (int i = 0; i < count; i++) {
        char path[1200];
        const char *name;
        mtbal_diag diag = {0};
        snprintf(path, sizeof path, "%s/%s_%d.pb", d->folder, what, i);
        if (!exists(path)) { /* an optional that is left out */
            list[i] = NULL;
            continue;
        }
        if (mtbal_onnx_read_tensor(model, path, &list[i], &name, &diag) != MTBAL_OK) {
            snprintf(d->why, sizeof d->why, "%s_%d.pb: %.300s", what, i, diag.what);
            return UNSUPPORTED;
        }
        list[i] = widened(model, list[i]);
        if (list[i]->dtype == MTBAL_STRING) {
            snprintf(d->why, sizeof d->why, "%s_%d.pb holds strings", what, i);
            return UNSUPPORTED;
        }
    }
    return PASSED;
}

static bool is_random(const mtbal_model *model, const char *folder)
{
    for (const mtbal_node *n = model->graph->first; n; n = n->next)
        if (mtbal_node_has(n, MTBAL_RANDOM) && !mtbal_node_is(n, MTBAL_OP_dropout))
            return true;
    return strstr(folder, "training_dropout") && !strstr(folder, "zero_ratio");
}

static int compare(data_set *d, int index, const rt_tensor *found, bool random)
{
    const mtbal_tensor *want = d->outputs[index];
    mtbal_tensor have = {.dtype = (mtbal_dtype)found->dtype, .data = found->data};
    if ((int)want->dtype != found->dtype || want->rank != found->rank) {
        snprintf(d->why, sizeof d->why, "output %d is %s of rank %d, wanted %s of rank %d", index,
                 mtbal_dtype_name(have.dtype), found->rank, mtbal_dtype_name(want->dtype),
                 want->rank);
        return FAILED;
    }
    for (int k = 0; k < want->rank; k++)
        if (want->dims[k] != found->dims[k]) {
            snprintf(d->why, sizeof d->why, "output %d has %lld along axis %d, wanted %lld", index,
                     (long long)found->dims[k], k, (long long)want->dims[k]);
            return FAILED;
        }
    for (int64_t i = 0; i < want->count && !random; i++) {
        double x = mtbal_tensor_f64(&have, i), y = mtbal_tensor_f64(want, i);
        bool same = x == y || (isnan(x) && isnan(y)) || fabs(x - y) <= 1e-7 + 1e-3 * fabs(y);
        if (!same) {
            snprintf(d->why, sizeof d->why, "output %d: element %lld is %.9g, wanted %.9g", index,
                     (long long)i, x, y);
            return FAILED;
        }
    }
    return PASSED;
}

static int feed(data_set *d, mtbal_instance *instance)
{
    for (int i = 0; i < d->ninputs; i++) {
        rt_tensor *to = mtbal_instance_input(instance, d->values[i]->name);
        if (!to || !d->inputs[i])
            continue;
        if ((int)d->inputs[i]->dtype != to->dtype || d->inputs[i]->count != rt_count(to)) {
            snprintf(d->why, sizeof d->why, "input %d does not fit the model", i);
            return FAILED;
        }
        if (d->inputs[i]->bytes)
            memcpy(to->data, d->inputs[i]->data, d->inputs[i]->bytes);
    }
    return PASSED;
}

static int run_lowered(data_set *d, const mtbal_plan *plan, bool random)
{
    mtbal_diag diag = {0};
    mtbal_instance *instance;
    if (mtbal_instance_new(plan, 1, &instance, &diag) != MTBAL_OK) {
        snprintf(d->why, sizeof d->why, "%.300s", diag.what);
        return FAILED;
    }
    int result = feed(d, instance);
    mtbal_instance_run(instance, 1);
    const mtbal_port *in, *out, *states;
    int nin, nout, nstates;
    mtbal_plan_ports(plan, &in, &nin, &out, &nout, &states, &nstates);
    for (int i = 0; i < d->noutputs && result == PASSED; i++)
        if (d->outputs[i])
            result = compare(d, i, mtbal_instance_output(instance, out[i].name), random);
    mtbal_instance_free(instance);
    return result;
}

/* Small inputs often decide shapes (the shape of a Reshape, the scales of a Resize): a plan has
 * fixed shapes, so such inputs are made constants when nothing else works. */
static bool freeze_small(mtbal_model *model, const data_set *d)
{
    bool any = false;
    for (int i = 0; i < d->ninputs; i++) {
        mtbal_value *v = d->values[i];
        mtbal_tensor *t = d->inputs[i];
        if (!t || v->is_initializer || t->count > 64 || t->rank > 1)
            continue;
        mtbal_remove_input(model->graph, v);
        if (mtbal_add_initializer(model->graph, v, t) != MTBAL_OK)
            return false;
        any = true;
    }
    return any;
}

static int lower_and_run(data_set *d, mtbal_model *model, const char *path, bool freeze)
{
    mtbal_diag diag = {0};
    mtbal_plan *plan = NULL;
    mtbal_bind binds[MAX_PORTS];
    mtbal_lower_options options = {.binds = binds, .noutputs = -1};
    d->ninputs = model->graph->ninputs;
    d->noutputs = model->graph->noutputs;
    if (d->ninputs > MAX_PORTS || d->noutputs > MAX_PORTS)
        return UNSUPPORTED;
    for (int i = 0; i < d->ninputs; i++)
        d->values[i] = model->graph->inputs[i];
    int result = read_tensors(model, d, "input", d->inputs, d->ninputs);
    if (result == PASSED)
        result = read_tensors(model, d, "output", d->outputs, d->noutputs);
    if (result != PASSED || (freeze && !freeze_small(model, d)))
        return result != PASSED ? result : UNSUPPORTED;
    for (int i = 0; i < d->ninputs; i++) {
        const mtbal_tensor *t = d->inputs[i];
        if (!t || t->rank > RT_MAX_RANK || !d->values[i]->is_input)
            continue;
        mtbal_bind *bind = &binds[options.nbinds++];
        *bind = (mtbal_bind){.name = d->values[i]->name, .rank = t->rank};
        memcpy(bind->dims, t->dims, (size_t)t->rank * sizeof *t->dims);
    }
    bool random = is_random(model, path);
    if (mtbal_lower(model, &options, &plan, &diag) != MTBAL_OK) {
        snprintf(d->why, sizeof d->why, "%.380s", diag.what);
        return diag.status == MTBAL_UNSUPPORTED ? UNSUPPORTED : FAILED;
    }
    result = run_lowered(d, plan, random);
    mtbal_plan_free(plan);
    return result;
}

static int read_and_run(data_set *d, const char *path, bool freeze)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    int result;
    d->why[0] = 0;
    if (mtbal_onnx_read(path, &model, &diag) == MTBAL_OK &&
        mtbal_verify(model, &diag) == MTBAL_OK && mtbal_standard_form(model, &diag) == MTBAL_OK) {
        if (in_double)
            widen_model(model);
        result = lower_and_run(d, model, path, freeze);
    } else {
        snprintf(d->why, sizeof d->why, "%.380s", diag.what);
        result = diag.status == MTBAL_UNSUPPORTED ? UNSUPPORTED : FAILED;
    }
    mtbal_model_free(model);
    return result;
}

/* ------------------------------------------------------------------ one test, and folders of them
 */

static int run_test(const char *folder, char *why, size_t size)
{
    int result = UNSUPPORTED;
    char model[1100], sets[1100];
    snprintf(model, sizeof model, "%s/model.onnx", folder);
    for (int k = 0;; k++) {
        data_set d = {.folder = sets};
        snprintf(sets, sizeof sets, "%s/test_data_set_%d", folder, k);
        if (!exists(sets))
            break;
        result = read_and_run(&d, model, false);
        if (result == UNSUPPORTED || result == FAILED) {
            data_set again = {.folder = sets};
            char first[sizeof d.why];
            memcpy(first, d.why, sizeof first);
            int second = read_and_run(&again, model, true);
            if (second == PASSED)
                result = PASSED;
        }
        if (result != PASSED) {
            snprintf(why, size, "%s", d.why);
            return result;
        }
    }
    return result;
}

static void report(counts *c, const char *name, int result, char *why)
{
    for (char *p = why; *p; p++)
        *p = *p == '\n' ? ' ' : *p;
    bool listed = false;
    for (int i = 0; i < c->nlisted && !listed; i++)
        listed = !strcmp(c->listed[i], name);
    c->passed += result == PASSED;
    c->unsupported += result == UNSUPPORTED;
    c->failed += result != PASSED && result != UNSUPPORTED;
    bool crashed = !strncmp(why, "ended by signal", 15);
    c->seen += listed;
    c->excused += listed && result != PASSED && !crashed;
    c->untrue += listed == (result == PASSED) || crashed;
    if (listed && result == PASSED)
        printf("%-12s %s\n", "PASSES NOW", name);
    if (listed && !crashed ? c->verbose : result != PASSED || c->verbose)
        printf("%-12s %s%s%s\n",
               result == PASSED        ? "passed"
               : result == UNSUPPORTED ? "unsupported"
                                       : "FAILED",
               name, *why ? ": " : "", why);
}

static void run_apart(counts *c, const char *folder)
{
    int ends[2];
    char why[500] = "";
    const char *slash = strrchr(folder, '/');
    fflush(stdout);
    if (pipe(ends) != 0)
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        int result = run_test(folder, why, sizeof why);
        if (write(ends[1], why, strlen(why)) < 0)
            result = FAILED;
        _exit(result);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t n;
         used < sizeof why - 1 && (n = read(ends[0], why + used, sizeof why - 1 - used)) > 0;)
        used += (size_t)n;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    int result = WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
    if (!WIFEXITED(status))
        snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(status));
    report(c, slash ? slash + 1 : folder, result, why);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void run_folder(counts *c, const char *folder)
{
    char path[1100];
    struct dirent **list;
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    if (exists(path)) {
        run_apart(c, folder);
        return;
    }
    int n = scandir(folder, &list, NULL, by_name);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s/model.onnx", folder, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && exists(path)) {
            snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name);
            run_apart(c, path);
        }
        free(list[i]);
    }
    if (n >= 0)
        free(list);
}

/* The first word of each line; # begins a comment. */
static void read_list(counts *c, const char *path)
{
    char line[400];
    const int most = (int)(sizeof c->listed / sizeof *c->listed);
    FILE *from = fopen(path, "r");
    if (!from) {
        perror(path);
        exit(1);
    }
    while (fgets(line, sizeof line, from))
        if (*line != '#' && strspn(line, " \n") != strlen(line) && c->nlisted < most) {
            line[strcspn(line, " \n")] = 0;
            c->listed[c->nlisted++] = strdup(line);
        }
    fclose(from);
}

int main(int argc, char **argv)
{
    static counts c;
    bool judged = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v")) {
            c.verbose = true;
        } else if (!strcmp(argv[i], "-d")) {
            in_double = true;
        } else if (!strcmp(argv[i], "-e") && i + 1 < argc) {
            read_list(&c, argv[++i]);
            judged = true;
        } else {
            run_folder(&c, argv[i]);
        }
    }
    printf("%s%d passed, %d failed, %d unsupported of %d", in_double ? "in double: " : "", c.passed,
           c.failed, c.unsupported, c.passed + c.failed + c.unsupported);
    if (judged)
        printf("; %d of those are listed, %d results are not as the list says", c.excused,
               c.untrue);
    printf("\n");
    for (int i = 0; i < c.nlisted; i++)
        free(c.listed[i]);
    bool missing = c.passed == 0 || c.seen != c.nlisted;
    if (missing)
        printf("tests are missing: %d of %d listed ones were found\n", c.seen, c.nlisted);
    return missing || (judged ? c.untrue != 0 : c.failed != 0);
}
