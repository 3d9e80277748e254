/* passes/target_ort.c: the step graph in the form of ONNX Runtime's training sessions (1.17 to
 * 1.19.2). What such a session knows of a model it knows by names:
 *
 *   P                             an input that the checkpoint has: a parameter, or a frozen one
 *   P_grad.accumulation.buffer    an input: where the gradients of P are summed
 *   lazy_reset_grad               an input: overwrite the sums instead
 *   P_grad, ...accumulation.out   outputs that it keeps for itself
 *
 * InPlaceAccumulatorV2 writes into its first operand: that is how a step changes what the session
 * keeps. Our other states are frozen parameters that the graph overwrites in the same way. */
#include "passes/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_OPSET = 21, MAX_IR = 10, MAX_RANK = 8 };
static const char domain[] = "com.microsoft", reset_name[] = "lazy_reset_grad",
                  scale_name[] = "mtbal/lr_scale";
static const double session_lr = 0.001; /* what sessions begin with; onnxruntime-web's stay there */

/* ------------------------------------------------------------------ before the rewrite */

static mtbal_status check_versions(const mtbal_model *model, mtbal_diag *diag)
{
    int64_t opset = mtbal_opset_of(model, "");
    if (opset > MAX_OPSET)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path,
                          "export the model with an opset from 13 to 21",
                          "the model has opset %lld; the training sessions of ONNX Runtime (1.19.2 "
                          "is the last) read opset %d and below",
                          (long long)opset, MAX_OPSET);
    if (model->ir_version > MAX_IR)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path,
                          "save the model with ir_version 10 or below",
                          "the model has IR version %lld; the training sessions of ONNX Runtime "
                          "(1.19.2 is the last) read IR version %d and below",
                          (long long)model->ir_version, MAX_IR);
    return MTBAL_OK;
}

/* --set of what is an attribute here; the others are the step graph's. */
static mtbal_status split_settings(mtbal_ort *ort, mtbal_model *model, mtbal_diag *diag)
{
    const struct {
        const char *name;
        double *into;
    } known[] = {{"lr", &ort->lr},
                 {"beta1", &ort->beta1},
                 {"beta2", &ort->beta2},
                 {"epsilon", &ort->epsilon},
                 {"weight_decay", &ort->weight_decay}};
    const mtbal_options *o = ort->given;
    mtbal_pair *rest = mtbal_arena_array(model->arena, (size_t)o->nset, sizeof *rest);
    ort->rewrite.nset = 0;
    ort->rewrite.set = rest;
    if (!rest)
        return mtbal_no_memory(diag);
    for (int i = 0; i < o->nset; i++) {
        const char *name = o->set[i].name;
        size_t k = 0, n = sizeof known / sizeof *known;
        name += strncmp(name, "mtbal/", 6) ? 0 : 6;
        while (k < n && strcmp(known[k].name, name))
            k++;
        if (k == n) {
            rest[ort->rewrite.nset++] = o->set[i];
            continue;
        }
        char *end;
        *known[k].into = strtod(o->set[i].value, &end);
        if (end == o->set[i].value || *end || !(*known[k].into >= 0))
            return mtbal_fail(diag, MTBAL_USAGE, "--set", "write NAME=NUMBER",
                              "%s=%s is no number from 0 on", o->set[i].name, o->set[i].value);
    }
    return MTBAL_OK;
}

mtbal_status mtbal_ort_begin(mtbal_model *model, const mtbal_options *given, mtbal_ort *ort,
                             mtbal_diag *diag)
{
    const char *optimizer = given->optimizer;
    *ort = (mtbal_ort){.given = given,
                       .rewrite = *given,
                       .beta1 = 0.9,
                       .beta2 = 0.999,
                       .epsilon = 1e-8,
                       .weight_decay = strcmp(optimizer, "adamw") ? 0 : 0.01};
    MTBAL_TRY(check_versions(model, diag));
    if (!strcmp(optimizer, "momentum"))
        return mtbal_fail(diag, MTBAL_USAGE, "--optimizer", "choose from sgd, adam, adamw, none",
                          "ONNX Runtime's training sessions have no optimizer with momentum alone");
    if (strcmp(optimizer, "sgd") && strncmp(optimizer, "adam", 4) && strcmp(optimizer, "none"))
        return mtbal_fail(diag, MTBAL_USAGE, "--optimizer", "choose from sgd, adam, adamw, none",
                          "there is no optimizer '%s'", optimizer);
    ort->rewrite.optimizer = "none";
    ort->rewrite.clip = 0;
    return split_settings(ort, model, diag);
}

/* ------------------------------------------------------------------ names */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* A session would take it for a gradient, and hide it. */
static mtbal_status check_name(const mtbal_context *c, const char *what, const char *name)
{
    static const char *const reserved[] = {"_grad", "_grad.accumulation.buffer",
                                           "_grad.accumulation.out"};
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (ends_with(name, reserved[i]) || !strcmp(name, reset_name))
            return mtbal_fail(c->diag, MTBAL_INVALID, name, "rename it in the model",
                              "the %s %s: ONNX Runtime's training sessions keep names that end in "
                              "%s, and %s, for gradients",
                              what, name, reserved[i], reset_name);
    return MTBAL_OK;
}

static bool is_listed(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

static mtbal_status check_names(const mtbal_context *c)
{
    for (int i = 0; i < c->nparams; i++)
        MTBAL_TRY(check_name(c, "parameter", c->params[i].value->name));
    for (int i = 0; i < c->nstates; i++)
        MTBAL_TRY(check_name(c, "state", c->states[i].value->name));
    for (int i = 0; i < c->ninputs; i++)
        MTBAL_TRY(check_name(c, "input", c->inputs[i]));
    for (int i = 0; i < c->graph->noutputs; i++)
        if (strncmp(c->graph->outputs[i]->name, "mtbal/grad/", 11) &&
            strncmp(c->graph->outputs[i]->name, "mtbal/next/", 11))
            MTBAL_TRY(check_name(c, "output", c->graph->outputs[i]->name));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ outputs in the session's order
 */

/* The total, the losses, what is measured, then whatever else the model gives; -1: not for users.
 */
static int rank_of(const mtbal_context *c, const char *name)
{
    static const char *const ours[] = {"mtbal/grad_norm/", "mtbal/weight/", "mtbal/cosine",
                                       "mtbal/gram", "mtbal/task_grad/"};
    enum { TOTAL, LOSS, OURS, THEIRS = 10 };
    if (!strcmp(name, "mtbal/loss"))
        return TOTAL;
    for (int i = 0; i < c->ntasks; i++)
        if (!strcmp(c->tasks[i].loss->name, name))
            return LOSS;
    for (int i = 0; i < (int)(sizeof ours / sizeof *ours); i++)
        if (!strncmp(name, ours[i], strlen(ours[i])))
            return OURS + i;
    return strncmp(name, "mtbal/", 6) ? THEIRS : -1;
}

static mtbal_status order_outputs(mtbal_context *c, mtbal_value **outputs, int n)
{
    while (c->graph->noutputs)
        mtbal_remove_output(c->graph, c->graph->outputs[c->graph->noutputs - 1]);
    for (int rank = 0; rank <= 10; rank++)
        for (int i = 0; i < n; i++)
            if (rank_of(c, outputs[i]->name) == rank &&
                mtbal_add_output(c->graph, outputs[i]) != MTBAL_OK)
                return mtbal_no_memory(c->diag);
    return MTBAL_OK;
}

static mtbal_value *output_named(mtbal_value *const *outputs, int n, const char *prefix,
                                 const char *name)
{
    size_t k = strlen(prefix);
    for (int i = 0; i < n; i++)
        if (!strncmp(outputs[i]->name, prefix, k) && !strcmp(outputs[i]->name + k, name))
            return outputs[i];
    return NULL;
}

/* ------------------------------------------------------------------ parameters and states */

static bool is_param(const mtbal_context *c, const mtbal_value *v)
{
    for (int i = 0; i < c->nparams; i++)
        if (c->params[i].value == v)
            return true;
    return false;
}

/* From initializer to input. */
static mtbal_status hand_over(mtbal_context *c, mtbal_value *v, mtbal_ort_state *to)
{
    mtbal_graph *graph = c->graph;
    if (v->tensor->dtype != MTBAL_FLOAT)
        return mtbal_fail(
            c->diag, MTBAL_UNSUPPORTED, v->name, "train it with another target",
            "ONNX Runtime's training sessions accumulate float only; this state is %s",
            mtbal_dtype_name(v->tensor->dtype));
    *to = (mtbal_ort_state){v->name, v->tensor};
    MTBAL_TRY(mtbal_tensor_load(c->model, v->tensor, c->diag));
    mtbal_remove_initializer(graph, v);
    v->tensor = NULL;
    if (v->is_input)
        mtbal_remove_input(graph, v);
    return mtbal_add_input(graph, v) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}

static mtbal_status list_states(mtbal_context *c, mtbal_ort *ort)
{
    mtbal_arena *arena = c->model->arena;
    ort->trainable = mtbal_arena_array(arena, (size_t)c->nparams + 1, sizeof *ort->trainable);
    ort->frozen = mtbal_arena_array(arena, (size_t)c->nstates + 1, sizeof *ort->frozen);
    if (!ort->trainable || !ort->frozen)
        return mtbal_no_memory(c->diag);
    for (int i = c->graph->ninputs - 1; i >= 0; i--) /* those with a default are constants here */
        if (c->graph->inputs[i]->is_initializer)
            mtbal_remove_input(c->graph, c->graph->inputs[i]);
    for (int i = 0; i < c->nparams; i++)
        MTBAL_TRY(hand_over(c, c->params[i].value, &ort->trainable[ort->ntrainable++]));
    return MTBAL_OK;
}

/* The learning rate's factor, where the optimizer model finds it: among the parameters, known by
 * its rank, which no other has. Two numbers: weight decay leaves their ratio alone. */
static mtbal_status add_scale(mtbal_context *c, mtbal_ort *ort, mtbal_value **scale)
{
    int64_t dims[MAX_RANK + 1];
    int rank = 1;
    for (int i = 0; i < ort->ntrainable; i++)
        rank = ort->trainable[i].tensor->rank >= rank ? ort->trainable[i].tensor->rank + 1 : rank;
    if (rank > MAX_RANK)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path, NULL,
                          "a parameter of more than %d dimensions", MAX_RANK - 1);
    for (int i = 0; i < rank; i++)
        dims[i] = i == rank - 1 ? 2 : 1;
    *scale = mtbal_state_new(c, "", scale_name, MTBAL_FLOAT, rank, dims, 1);
    if (!*scale)
        return c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
    mtbal_tensor_set_f64((*scale)->tensor, 0, ort->lr > 0 ? ort->lr / session_lr : 1);
    return hand_over(c, *scale, &ort->trainable[ort->ntrainable++]);
}

/* ------------------------------------------------------------------ accumulators */

/* What a stock runtime executes instead of the kernel: a function cannot write in place. Such a
 * runtime takes the gradients from P_grad. */
static const char accumulator[] = "InPlaceAccumulatorV2 (sum, value, overwrite) => (updated) {\n"
                                  "  updated = Constant <value = bool[1] {1}> ()\n"
                                  "}";

static mtbal_status add_function(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_model *model = c->model;
    mtbal_pass_builder(c, &b, "mtbal/", "accumulate", NULL);
    MTBAL_TRY(mtbal_set_opset(model, domain, 1) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag));
    MTBAL_TRY(mtbal_builder_function(&b, accumulator));
    mtbal_function *f = mtbal_function_find(model, "mtbal", "InPlaceAccumulatorV2", "");
    f->domain = mtbal_intern(model->arena, domain);
    return f->domain ? MTBAL_OK : mtbal_no_memory(c->diag);
}

static mtbal_value *named(mtbal_context *c, const char *name, const char *end)
{
    const char *full = mtbal_arena_printf(c->model->arena, "%s%s", name, end);
    const char *own = full ? mtbal_intern(c->model->arena, full) : NULL;
    return own && mtbal_fresh_name(c->model, own) == own ? mtbal_value_new(c->graph, own) : NULL;
}

static mtbal_value *input_like(mtbal_context *c, const char *name, const char *end,
                               const mtbal_type *type)
{
    mtbal_value *v = named(c, name, end);
    if (!v || mtbal_add_input(c->graph, v) != MTBAL_OK)
        return NULL;
    v->type = *type;
    return v;
}

static mtbal_type flag_type(mtbal_context *c)
{
    mtbal_dim *dims = mtbal_arena_alloc(c->model->arena, sizeof *dims);
    if (dims)
        dims->size = 1;
    return (mtbal_type){MTBAL_TENSOR, MTBAL_BOOL, dims ? 1 : -1, dims};
}

/* NAME_grad.accumulation.out = InPlaceAccumulatorV2(target, value, overwrite) */
static mtbal_status accumulate(mtbal_context *c, const char *name, mtbal_value *target,
                               mtbal_value *value, mtbal_value *overwrite, int index)
{
    mtbal_value *in[] = {target, value, overwrite};
    mtbal_value *out = named(c, name, "_grad.accumulation.out");
    mtbal_node *node = NULL;
    if (target && value && overwrite && out)
        node = mtbal_node_new(c->graph, NULL, domain, "InPlaceAccumulatorV2", 3, in, 0);
    if (!node || mtbal_node_set_output(node, 0, out) != MTBAL_OK ||
        mtbal_add_output(c->graph, out) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    out->type = flag_type(c);
    node->role = "accumulate";
    const char *label = mtbal_arena_printf(c->model->arena, "GradientAccumulator%d", index);
    node->name = label ? mtbal_intern(c->model->arena, label) : NULL;
    return node->name ? MTBAL_OK : mtbal_no_memory(c->diag);
}

/* P_grad, an output of its own: sessions hide it, other runtimes give it. */
static mtbal_value *gradient(mtbal_context *c, const char *name, mtbal_value *from)
{
    mtbal_value *out = from ? named(c, name, "_grad") : NULL;
    mtbal_node *node = out ? mtbal_node_new(c->graph, NULL, "", "Identity", 1, &from, 0) : NULL;
    if (!node || mtbal_node_set_output(node, 0, out) != MTBAL_OK ||
        mtbal_add_output(c->graph, out) != MTBAL_OK)
        return NULL;
    node->name = out->name;
    out->type = from->type;
    return out;
}

static mtbal_status accumulate_gradients(mtbal_context *c, const mtbal_ort *ort,
                                         mtbal_value *const *gradients, mtbal_value *const *params)
{
    mtbal_type flag = flag_type(c);
    mtbal_value **buffers =
        mtbal_arena_array(c->model->arena, (size_t)ort->ntrainable, sizeof *buffers);
    if (!buffers)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < ort->ntrainable; i++)
        buffers[i] =
            input_like(c, ort->trainable[i].name, "_grad.accumulation.buffer", &params[i]->type);
    mtbal_value *reset = input_like(c, reset_name, "", &flag);
    for (int i = 0; i < ort->ntrainable; i++) {
        const char *name = ort->trainable[i].name;
        mtbal_value *g = gradient(c, name, gradients[i]);
        MTBAL_TRY(accumulate(c, name, buffers[i], g, reset, i));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ states that the graph updates
 */

typedef struct readers {
    mtbal_value *state, *copy;
    mtbal_node *copier;
    int count; /* nodes that read the state */
    mtbal_node *last;
} readers;

static mtbal_status count_reader(mtbal_node *node, void *context)
{
    readers *r = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] == r->state) {
            r->count++;
            r->last = node;
            break;
        }
    return MTBAL_OK;
}

static mtbal_status read_copy(mtbal_node *node, void *context)
{
    readers *r = context;
    for (int i = 0; i < node->nin && node != r->copier; i++)
        if (node->in[i] == r->state)
            node->in[i] = r->copy;
    return MTBAL_OK;
}

/* The state is overwritten in place, so all that read it must have run before. That is so where the
 * one node that reads it also makes its next value (BatchNormalization). Else they read a copy, and
 * the flag "overwrite" is computed from that copy: true, whatever it holds. (A session's optimizer
 * would remove an Identity; it keeps a Concat of one.) */
static mtbal_status update_state(mtbal_context *c, mtbal_value *state, mtbal_value *next, int index)
{
    readers r = {.state = state};
    mtbal_builder b;
    mtbal_value *maker = next;
    MTBAL_TRY(mtbal_graph_walk(c->graph, count_reader, &r));
    while (maker->def && mtbal_node_is(maker->def, "Identity"))
        maker = maker->def->in[0];
    if (maker == state) /* a step leaves it alone */
        return MTBAL_OK;
    mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
    mtbal_tensor *truth = mtbal_tensor_new(c->model, MTBAL_BOOL, 1, (int64_t[]){1}, "\1");
    mtbal_value *yes = mtbal_const_tensor(&b, truth);
    bool in_order = r.count == 0 || (r.count == 1 && r.last == maker->def);
    if (!in_order) {
        int64_t shape = -1;
        b.before = c->graph->first;
        mtbal_value *flat = mtbal_emit_reshape(&b, state, mtbal_const_i64s(&b, 1, &shape));
        mtbal_value *one = mtbal_emit_attrs(&b, "Concat", 1, &flat, "axis=i", (int64_t)0);
        r.copy = mtbal_emit_reshape(&b, one, mtbal_emit_shape(&b, state));
        MTBAL_TRY(b.status);
        r.copier = flat->def;
        MTBAL_TRY(mtbal_graph_walk(c->graph, read_copy, &r));
        b.before = NULL;
        int64_t single = 1;
        mtbal_value *sum = mtbal_emit_reduce(&b, "ReduceSum", r.copy, 0, NULL, false);
        mtbal_value *nan = mtbal_emit(&b, "IsNaN", sum);
        yes = mtbal_emit(&b, "Or", nan, mtbal_emit(&b, "Not", nan));
        yes = mtbal_emit_reshape(&b, yes, mtbal_const_i64s(&b, 1, &single));
    }
    MTBAL_TRY(b.status);
    return accumulate(c, state->name, state, next, yes, index);
}

/* ------------------------------------------------------------------ the training model */

static void drop_property(mtbal_model *model, const char *key)
{
    int kept = 0;
    for (int i = 0; i < model->nproperties; i++)
        if (strcmp(model->properties[i].key, key))
            model->properties[kept++] = model->properties[i];
    model->nproperties = kept;
}

/* The gradients of the parameters, in order; zeros for the learning rate's factor. */
static mtbal_status list_gradients(mtbal_context *c, mtbal_value **outputs, int n,
                                   mtbal_value **params, mtbal_value **gradients)
{
    for (int i = 0; i < c->nparams; i++) {
        params[i] = c->params[i].value;
        gradients[i] = output_named(outputs, n, "mtbal/grad/", params[i]->name);
    }
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
    gradients[c->nparams] = mtbal_emit_fill_like(&b, params[c->nparams], 0);
    return b.status;
}

mtbal_status mtbal_ort_training(mtbal_context *c, mtbal_ort *ort)
{
    mtbal_graph *graph = c->graph;
    mtbal_arena *arena = c->model->arena;
    int n = graph->noutputs;
    mtbal_value **outputs = mtbal_arena_copy(arena, graph->outputs, (size_t)n * sizeof *outputs);
    mtbal_value **params = mtbal_arena_array(arena, (size_t)c->nparams + 1, sizeof *params);
    mtbal_value **gradients = mtbal_arena_array(arena, (size_t)c->nparams + 1, sizeof *gradients);
    if (!outputs || !params || !gradients)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(check_names(c));
    MTBAL_TRY(add_function(c));
    MTBAL_TRY(list_states(c, ort));
    MTBAL_TRY(add_scale(c, ort, &params[c->nparams]));
    MTBAL_TRY(list_gradients(c, outputs, n, params, gradients));
    for (int i = 0; i < c->nstates; i++)
        if (!is_param(c, c->states[i].value))
            MTBAL_TRY(hand_over(c, c->states[i].value, &ort->frozen[ort->nfrozen++]));
    MTBAL_TRY(order_outputs(c, outputs, n));
    MTBAL_TRY(accumulate_gradients(c, ort, gradients, params));
    for (int i = 0, k = ort->ntrainable; i < c->nstates; i++) {
        mtbal_value *state = c->states[i].value;
        mtbal_value *next = output_named(outputs, n, "mtbal/next/", state->name);
        if (!is_param(c, state) && next)
            MTBAL_TRY(update_state(c, state, next, k++));
    }
    drop_property(c->model, "mtbal.state");
    if (mtbal_property_set(c->model, "mtbal.target", "ort-training") != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(mtbal_remove_dead(c->model, c->diag));
    return mtbal_verify(c->model, c->diag);
}

/* ------------------------------------------------------------------ the evaluation model */

static bool is_gradient_name(const char *name)
{
    return ends_with(name, "_grad") || ends_with(name, "_grad.accumulation.buffer") ||
           ends_with(name, "_grad.accumulation.out") || !strcmp(name, reset_name);
}

static bool needs_backward(const mtbal_graph *graph)
{
    for (const mtbal_node *node = graph->first; node; node = node->next)
        if (!strncmp(node->name, "mtbal/backward/", 15))
            return true;
    return false;
}

/* Where weights are made from gradients, there are none here: the plain sum of the losses. */
static mtbal_status plain_total(mtbal_model *model, const mtbal_list *tasks, mtbal_diag *diag)
{
    mtbal_value *total = mtbal_value_find(model->graph, "mtbal/loss"), *sum = NULL;
    mtbal_builder b;
    if (!total || !total->def)
        return MTBAL_OK;
    mtbal_builder_init(&b, model->graph, total->def, diag);
    b.prefix = "mtbal/balance/";
    for (int i = 0; i < tasks->count; i++) {
        mtbal_value *loss = mtbal_value_find(model->graph, tasks->values[i]);
        mtbal_value *part = mtbal_emit_reshape(&b, loss, mtbal_const_i64s(&b, 0, NULL));
        sum = sum ? mtbal_emit(&b, "Add", sum, part) : part;
    }
    MTBAL_TRY(b.status);
    if (sum && mtbal_node_set_inputs(total->def, 1, &sum) != MTBAL_OK)
        return mtbal_no_memory(diag);
    return mtbal_remove_dead(model, diag);
}

mtbal_status mtbal_ort_eval(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_list tasks;
    MTBAL_TRY(mtbal_verify(model, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.tasks", model->arena, &tasks, diag));
    for (int i = graph->noutputs - 1; i >= 0; i--) {
        const char *name = graph->outputs[i]->name;
        bool ours = !strncmp(name, "mtbal/", 6) && strcmp(name, "mtbal/loss");
        if (is_gradient_name(name) || (ours && !is_listed(tasks.values, tasks.count, name)))
            mtbal_remove_output(graph, graph->outputs[i]);
    }
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    if (needs_backward(graph))
        MTBAL_TRY(plain_total(model, &tasks, diag));
    for (int i = graph->ninputs - 1; i >= 0; i--)
        if (is_gradient_name(graph->inputs[i]->name))
            mtbal_remove_input(graph, graph->inputs[i]);
    return mtbal_inference_mode(model, diag);
}

/* ------------------------------------------------------------------ the optimizer model */

/* The factor of the learning rate: of all parameters the one whose rank is %d. */
static const char optimizer_head[] =
    "<ir_version: 8, opset_import: [\"\" : 14, \"com.microsoft\" : 1], producer_name: \"mtbal\">\n"
    "optimizer (float[1] learning_rate, int64[1] step, seq(float[]) params, seq(float[]) "
    "gradients,\n"
    "  seq(float[]) first_order_moments%s) => (bool[] updated) {\n"
    "  count = SequenceLength (params)\n"
    "  none = Constant <value = float[1] {0}> ()\n"
    "  scale = Loop (count, , none) <body = pick (int64 i, bool go, float[1] sum)\n"
    "      => (bool on, float[1] next) {\n"
    "    rank = Constant <value = int64 {%d}> ()\n"
    "    zero = Constant <value = float[1] {0}> ()\n"
    "    whole = Constant <value = int64[1] {-1}> ()\n"
    "    begin = Constant <value = int64[1] {0}> ()\n"
    "    second = Constant <value = int64[1] {1}> ()\n"
    "    end = Constant <value = int64[1] {9223372036854775807}> ()\n"
    "    p = SequenceAt (params, i)\n"
    "    shape = Shape (p)\n"
    "    prank = Size (shape)\n"
    "    this = Equal (prank, rank)\n"
    "    flat = Reshape (p, whole)\n"
    "    a = Slice (flat, begin, second)\n"
    "    b = Slice (flat, whole, end)\n"
    "    ratio = Div (a, b)\n"
    "    part = Where (this, ratio, zero)\n"
    "    next = Add (sum, part)\n"
    "    on = Identity (go)\n"
    "  }>\n"
    "  rate = Mul (learning_rate, scale)\n";

static const char adamw[] =
    "  updated = com.microsoft.AdamWOptimizer <alpha = %.9e, beta = %.9e, epsilon = %.9e,\n"
    "    weight_decay = %.9e, adam_mode = 0, correct_bias = 1>\n"
    "    (rate, step, params, %s, first_order_moments, second_order_moments)\n}\n";

static const char sgd[] = "  updated = com.microsoft.SGDOptimizerV2 (rate, params, %s)\n}\n";

static const char clip[] =
    "  clipped = com.microsoft.InplaceClipGradNorm <max_norm = %.9e> (gradients)\n";

mtbal_status mtbal_ort_optimizer(const mtbal_ort *ort, mtbal_model **model, mtbal_diag *diag)
{
    const char *optimizer = ort->given->optimizer;
    bool adam = !strncmp(optimizer, "adam", 4), clips = ort->given->clip > 0;
    const char *gradients = clips ? "clipped" : "gradients";
    char text[4096];
    int n = 0;
    *model = NULL;
    if (!strcmp(optimizer, "none"))
        return MTBAL_OK;
    n += snprintf(text, sizeof text, optimizer_head,
                  adam ? ", seq(float[]) second_order_moments" : "",
                  ort->trainable[ort->ntrainable - 1].tensor->rank);
    if (clips)
        n += snprintf(text + n, sizeof text - (size_t)n, clip, ort->given->clip);
    if (adam)
        snprintf(text + n, sizeof text - (size_t)n, adamw, ort->beta1, ort->beta2, ort->epsilon,
                 ort->weight_decay, gradients);
    else
        snprintf(text + n, sizeof text - (size_t)n, sgd, gradients);
    *model = mtbal_parse_model(text, diag);
    return *model ? MTBAL_OK : diag->status;
}

/* ------------------------------------------------------------------ the way back */

bool mtbal_is_training_model(const mtbal_model *model)
{
    const char *target = mtbal_property_get(model, "mtbal.target");
    return target && !strcmp(target, "ort-training");
}

mtbal_status mtbal_ort_restore(mtbal_model *model, const char *name, mtbal_tensor *tensor,
                               mtbal_diag *diag)
{
    mtbal_graph *graph = model->graph;
    mtbal_value *v = NULL;
    for (int i = 0; i < graph->ninputs && !v; i++)
        if (!strcmp(graph->inputs[i]->name, name))
            v = graph->inputs[i];
    if (!v)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "name the checkpoint of this model",
                          "the checkpoint is of another model: it holds %.200s, and the model has "
                          "no input of that name",
                          name);
    bool fits = v->type.kind == MTBAL_TENSOR && v->type.dtype == tensor->dtype &&
                (v->type.rank < 0 || v->type.rank == tensor->rank);
    for (int i = 0; fits && i < v->type.rank; i++)
        fits = v->type.dims[i].size < 0 || v->type.dims[i].size == tensor->dims[i];
    if (!fits)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "name the checkpoint of this model",
                          "the checkpoint is of another model: %.200s has another shape or type "
                          "there",
                          name);
    mtbal_remove_input(graph, v);
    return mtbal_add_initializer(graph, v, tensor) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}
