/* passes/weigh.c: the third stage of a step: the weight of each task, and the balanced total. */
#include "passes/internal.h"

#include <string.h>

/* Known weights (equal, given) need no node where they are 1, and leave nothing where they are 0. A
 * weight that a run computes may be 0 while what it multiplies is infinite or NaN: 0 x is not 0
 * then. */
mtbal_value *mtbal_weigh(mtbal_builder *b, mtbal_value *w, mtbal_value *x)
{
    if (!x || !w)
        return NULL;
    mtbal_dtype dtype = x->type.dtype;
    if (w->tensor && w->def) {
        double known = mtbal_tensor_f64(w->tensor, 0);
        if (known == 0)
            return NULL;
        return known == 1 ? x : mtbal_emit(b, "Mul", x, mtbal_const_scalar(b, dtype, known));
    }
    mtbal_value *zero = mtbal_const_scalar(b, dtype, 0);
    w = mtbal_emit_cast(b, w, dtype);
    return mtbal_emit(b, "Mul", w,
                      mtbal_emit(b, "Where", mtbal_emit(b, "Equal", w, zero), zero, x));
}

/* sum_i w_i L_i, a scalar. */
static mtbal_value *balanced_total(mtbal_context *c, mtbal_builder *b)
{
    mtbal_value *total = NULL;
    mtbal_dtype dtype = mtbal_float_type(c);
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_value *loss = c->tasks[i].loss;
        if (loss->type.rank != 0)
            loss = mtbal_emit_reshape(b, loss, mtbal_const_i64s(b, 0, NULL));
        mtbal_value *part = mtbal_emit_cast(b, mtbal_weigh(b, c->weights[i], loss), dtype);
        if (part)
            total = total ? mtbal_emit(b, "Add", total, part) : part;
    }
    return total ? total : mtbal_const_scalar(b, dtype, 0);
}

/* ------------------------------------------------------------------ the method */

mtbal_status mtbal_find_method(mtbal_context *c)
{
    mtbal_names known = {0};
    const mtbal_method *method = mtbal_methods;
    for (; method->name && strcmp(method->name, c->options->balance); method++)
        mtbal_names_add(&known, method->name);
    if (!method->name)
        return mtbal_fail(c->diag, MTBAL_USAGE, "--balance", known.text,
                          "there is no method '%s'; there are those below", c->options->balance);
    c->method = method;
    return MTBAL_OK;
}

/* Operands and results of a call of a method's function, as the lists of both grow. */
typedef struct call {
    mtbal_context *c;
    mtbal_builder *b;
    bool again;         /* in a step graph that has the states */
    mtbal_value *norms; /* that the method reads */
    int nin, nout;
    mtbal_value *in[12], *out[8];
    mtbal_text operands, results;
} call;

static void add_operand(call *k, const char *name, mtbal_value *value)
{
    mtbal_text_add(&k->operands, "%s%s", k->nin ? ", " : "", name);
    k->in[k->nin++] = value;
}

/* Scalars [n] as a vector. */
static mtbal_value *vector_of(mtbal_builder *b, int n, mtbal_value **scalars)
{
    const int64_t one = 1;
    for (int i = 0; i < n; i++)
        scalars[i] = mtbal_emit_reshape(b, scalars[i], mtbal_const_i64s(b, 1, &one));
    return mtbal_emit_attrs(b, "Concat", n, scalars, "axis=i", (int64_t)0);
}

static mtbal_value *losses_of(call *k)
{
    mtbal_context *c = k->c;
    mtbal_value **losses = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *losses);
    for (int t = 0; losses && t < c->ntasks; t++)
        losses[t] = mtbal_emit_cast(k->b, c->tasks[t].loss, mtbal_float_type(c));
    return losses ? vector_of(k->b, c->ntasks, losses) : NULL;
}

/* The state named PREFIX NAME; a new one, or that of a step graph. */
static mtbal_value *state_of(const call *k, const mtbal_method_state *state, const char *name)
{
    const int rank = state->shape == MTBAL_BY_PAIR ? 2 : state->shape == MTBAL_BY_TASK;
    mtbal_context *c = k->c;
    int64_t *dims = mtbal_arena_array(c->model->arena, 2, sizeof *dims);
    if (!dims)
        return NULL;
    dims[0] = dims[1] = c->ntasks;
    if (k->again) {
        const char *full = mtbal_arena_printf(c->model->arena, "%s%s", state->name, name);
        return full ? mtbal_value_find(c->graph, full) : NULL;
    }
    mtbal_value *v =
        mtbal_state_new(c, state->name, name, mtbal_float_type(c), rank, dims, state->initial);
    if (v && state->stays && mtbal_state_bind(c, v, v) != MTBAL_OK)
        return NULL;
    return v;
}

/* Values of a state: one, or one for each task. */
static int values_of(const call *k, const mtbal_method_state *state)
{
    return state->shape == MTBAL_EACH_TASK ? k->c->ntasks : 1;
}

/* States of a method as operands; their values, [values_of] of each, into `values`. */
static void add_state(call *k, const mtbal_method_state *state, mtbal_value **values)
{
    bool each = state->shape == MTBAL_EACH_TASK;
    int n = values_of(k, state);
    mtbal_value **parts = mtbal_arena_array(k->c->model->arena, (size_t)n, sizeof *parts);
    for (int t = 0; t < n; t++)
        values[t] = state_of(k, state, each ? k->c->tasks[t].name : "");
    if (parts)
        memcpy(parts, values, (size_t)n * sizeof *parts);
    add_operand(k, state->operand, !parts ? NULL : each ? vector_of(k->b, n, parts) : parts[0]);
    if (!state->stays) {
        mtbal_text_add(&k->results, ", next_%s", state->operand);
        k->nout++;
    }
}

static mtbal_status bind_next(call *k, const mtbal_method_state *state, mtbal_value *const *values,
                              mtbal_value *next)
{
    bool each = state->shape == MTBAL_EACH_TASK;
    for (int t = 0; t < values_of(k, state); t++) {
        mtbal_value *own = each ? mtbal_emit(k->b, "Gather", next, mtbal_const_i64(k->b, t)) : next;
        MTBAL_TRY(k->b->status);
        own->type = values[t]->type;
        MTBAL_TRY(mtbal_state_bind(k->c, values[t], own));
    }
    return MTBAL_OK;
}

/* NAME (operands) => (weights, next states) { body } */
static void emit_call(call *k, const mtbal_method *method)
{
    mtbal_text t = {0};
    for (int i = 0; i < k->nin; i++)
        if (!k->in[i] && k->b->status == MTBAL_OK)
            k->b->status = k->c->diag->status ? k->c->diag->status : mtbal_no_memory(k->c->diag);
    if (!k->operands.failed && !k->results.failed)
        mtbal_text_add(&t, "%s (%s) => (weights%s) {\n", method->function, k->operands.bytes,
                       k->results.bytes ? k->results.bytes : "");
    t.failed = t.failed || k->operands.failed || k->results.failed;
    method->body(&t, k->c->ntasks);
    mtbal_text_add(&t, "}");
    mtbal_emit_function(k->b, &t, method->function, k->nin, k->in, k->nout, k->out);
    mtbal_free(k->operands.bytes);
    mtbal_free(k->results.bytes);
}

/* Weights [K] from a call of the method's function. */
static mtbal_value *weights_of(mtbal_context *c, mtbal_builder *b, mtbal_value *norms, bool again)
{
    const mtbal_method *method = c->method;
    call k = {.c = c, .b = b, .again = again, .norms = norms, .nout = 1};
    mtbal_value **values[sizeof method->states / sizeof *method->states];
    if (method->reads & MTBAL_READS_LOSSES)
        add_operand(&k, "losses", losses_of(&k));
    if (method->reads & MTBAL_READS_NORMS)
        add_operand(&k, "norms", k.norms);
    if (method->reads & MTBAL_READS_COSINES)
        add_operand(&k, "cosines", c->measured->cosines);
    for (int i = 0; method->states[i].name; i++) {
        size_t n = (size_t)values_of(&k, &method->states[i]);
        values[i] = mtbal_arena_array(c->model->arena, n, sizeof(mtbal_value *));
        if (values[i])
            add_state(&k, &method->states[i], values[i]);
        else
            b->status = mtbal_no_memory(c->diag);
    }
    for (const mtbal_method_setting *s = method->settings; s->name; s++)
        add_operand(&k, s->name, mtbal_hyper(c, s->name, s->value));
    emit_call(&k, method);
    for (int i = 0, out = 1; method->states[i].name && b->status == MTBAL_OK; i++)
        if (!method->states[i].stays)
            b->status = bind_next(&k, &method->states[i], values[i], k.out[out++]);
    /* A shape that every runtime knows, whatever the function does: gradients are multiplied by it.
     */
    const int64_t dims = c->ntasks;
    if (method->reads)
        k.out[0] = mtbal_emit_reshape(b, k.out[0], mtbal_const_i64s(b, 1, &dims));
    return method->scaled ? mtbal_emit_scaled(c, b, k.out[0]) : k.out[0];
}

static mtbal_status fixed_weights(mtbal_context *c, mtbal_builder *b)
{
    double *weights = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *weights);
    if (!weights)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(c->method->fixed(c, weights));
    for (int t = 0; t < c->ntasks; t++)
        c->weights[t] = mtbal_const_scalar(b, mtbal_float_type(c), weights[t]);
    return b->status;
}

/* A task without a gradient in the scope is in nobody's way: its weight is 1. */
static mtbal_status computed_weights(mtbal_context *c, mtbal_builder *b, mtbal_value *norms)
{
    mtbal_value *w = weights_of(c, b, norms, false);
    bool measured = c->method->reads & (MTBAL_READS_NORMS | MTBAL_READS_COSINES);
    for (int t = 0; t < c->ntasks; t++)
        c->weights[t] = measured && !c->measured->in_scope[t]
                            ? mtbal_const_scalar(b, mtbal_float_type(c), 1)
                            : mtbal_emit(b, "Gather", w, mtbal_const_i64(b, t));
    return b->status;
}

/* ------------------------------------------------------------------ --clip-task */

/* Each gradient is made as small as the limit before it is weighted: what a method sees are the
 * norms of clipped gradients, [K]. The factors of the gradients, min(1, limit/norm), into `factor`
 * [K]. */
static mtbal_value *clip_norms(mtbal_context *c, mtbal_builder *b, mtbal_value **factor)
{
    mtbal_value *norms = c->measured->norms;
    mtbal_value *limit = mtbal_hyper(c, "clip_task", c->options->clip_task);
    mtbal_value *one = mtbal_const_scalar(b, mtbal_float_type(c), 1);
    if (!limit) {
        b->status = c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
        return NULL;
    }
    mtbal_value *over = mtbal_emit(b, "Greater", norms, limit);
    *factor = mtbal_emit(b, "Div", mtbal_emit(b, "Where", over, limit, one),
                         mtbal_emit(b, "Where", over, norms, one));
    return mtbal_emit(b, "Where", over, limit, norms);
}

/* What a task's gradient is multiplied by: its weight, and its share of `factor` [K]. */
static mtbal_status clip_factors(mtbal_context *c, mtbal_builder *b, mtbal_value *factor)
{
    c->factors = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *c->factors);
    if (!c->factors)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++)
        c->factors[t] =
            mtbal_weigh(b, c->weights[t], mtbal_emit(b, "Gather", factor, mtbal_const_i64(b, t)));
    return b->status;
}

mtbal_status mtbal_pass_weigh(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_value *norms = c->measured->norms, *factor = NULL;
    bool clips = c->options->clip_task > 0;
    c->weights = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *c->weights);
    if (!c->weights)
        return mtbal_no_memory(c->diag);
    mtbal_pass_builder(c, &b, "mtbal/balance/", "weight", NULL);
    if (clips)
        norms = clip_norms(c, &b, &factor);
    MTBAL_TRY(b.status);
    MTBAL_TRY(c->method->fixed ? fixed_weights(c, &b) : computed_weights(c, &b, norms));
    c->total = balanced_total(c, &b);
    c->factors = c->weights;
    MTBAL_TRY(b.status);
    return clips ? clip_factors(c, &b, factor) : MTBAL_OK;
}

/* ------------------------------------------------------------------ another scalar later */

/* The weights [K] of a step graph, which the weight of the first task is one of. */
static mtbal_value *weights_in(const mtbal_context *c)
{
    const char *name =
        mtbal_arena_printf(c->model->arena, "mtbal/weight/%s", c->tasks ? c->tasks[0].name : "");
    const mtbal_value *w = name ? mtbal_value_find(c->graph, name) : NULL;
    if (w && w->def && mtbal_node_is(w->def, MTBAL_OP_identity))
        w = w->def->in[0];
    return w && w->def && mtbal_node_is(w->def, MTBAL_OP_gather) ? w->def->in[0] : NULL;
}

static mtbal_status read_tasks(mtbal_context *c)
{
    mtbal_list names;
    MTBAL_TRY(mtbal_property_list(c->model, "mtbal.tasks", c->model->arena, &names, c->diag));
    if (names.count == 0)
        return MTBAL_OK;
    c->tasks = mtbal_arena_array(c->model->arena, (size_t)names.count, sizeof *c->tasks);
    if (!c->tasks)
        return mtbal_no_memory(c->diag);
    c->ntasks = names.count;
    for (int i = 0; i < names.count; i++) {
        c->tasks[i].name = names.names[i];
        if (names.values && names.values[i])
            c->tasks[i].loss = mtbal_value_find(c->graph, names.values[i]);
        if (!c->tasks[i].loss)
            c->ntasks = 0;
    }
    return MTBAL_OK;
}

mtbal_status mtbal_rescale(mtbal_model *model, const char *scale, mtbal_diag *diag)
{
    mtbal_options options = {.scale = scale, .balance = "calibrated"};
    mtbal_context c = {.model = model, .graph = model->graph, .options = &options, .diag = diag};
    const char *balance = mtbal_property_get(model, "mtbal.balance");
    mtbal_builder b;
    MTBAL_TRY(read_tasks(&c));
    mtbal_value *old = c.ntasks ? weights_in(&c) : NULL;
    if (!old || !old->def || !balance || strcmp(balance, options.balance))
        return mtbal_fail(diag, MTBAL_INVALID, model->path,
                          "rewrite the model with --balance calibrated",
                          "there are no calibrated weights to scale");
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag));
    MTBAL_TRY(mtbal_find_method(&c));
    bool functions = !strcmp(old->def->domain, "mtbal");
    mtbal_builder_init(&b, c.graph, old->def, diag);
    b.role = "weight";
    b.prefix = "mtbal/balance/";
    mtbal_value *weights = weights_of(&c, &b, NULL, true);
    MTBAL_TRY(b.status);
    if (mtbal_replace(c.graph, old, weights) != MTBAL_OK ||
        mtbal_property_set(model, "mtbal.scale", scale) != MTBAL_OK)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_remove_dead(model, diag));
    return functions ? MTBAL_OK : mtbal_inline_functions(model, false, diag);
}
