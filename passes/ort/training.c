/* passes/ort/training.c: the training model. The step graph has its parameters, states and
 * gradients as inputs and outputs of our own; here they get the places that a session gives them.
 */
#include "passes/ort/ort.h"

#include <string.h>

/* ------------------------------------------------------------------ outputs in the session's order
 */

/* The total, the losses, what is measured, then whatever else the model gives; -1: the session's.
 */
static int rank_of(const mtbal_context *c, const char *name, bool grads)
{
    static const char *const ours[] = {"mtbal/grad_norm/", "mtbal/weight/",    "mtbal/cosine",
                                       "mtbal/gram",       "mtbal/task_grad/", "mtbal/grad/"};
    enum { TOTAL, LOSS, OURS, NOURS = sizeof ours / sizeof *ours, THEIRS = OURS + NOURS };
    if (!strcmp(name, "mtbal/loss"))
        return TOTAL;
    for (int i = 0; i < c->ntasks; i++)
        if (!strcmp(c->tasks[i].loss->name, name))
            return LOSS;
    for (int i = 0; i < (grads ? NOURS : NOURS - 1); i++)
        if (!strncmp(name, ours[i], strlen(ours[i])))
            return OURS + i;
    return strncmp(name, "mtbal/", 6) ? THEIRS : -1;
}

static mtbal_status order_outputs(mtbal_context *c, bool grads, mtbal_value **outputs, int n)
{
    while (c->graph->noutputs)
        mtbal_remove_output(c->graph, c->graph->outputs[c->graph->noutputs - 1]);
    for (int rank = 0; rank < 16; rank++)
        for (int i = 0; i < n; i++)
            if (rank_of(c, outputs[i]->name, grads) == rank &&
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

/* ------------------------------------------------------------------ inputs in the session's order
 */

static bool is_param(const mtbal_context *c, const mtbal_value *v)
{
    for (int i = 0; i < c->nparams; i++)
        if (c->params[i].value == v)
            return true;
    return false;
}

static bool is_fed(const mtbal_ort *ort, const mtbal_value *v)
{
    for (int i = 0; i < ort->nfed; i++)
        if (!strncmp(v->name, "mtbal/", 6) && !strcmp(v->name + 6, ort->fed[i]) &&
            v->tensor->rank == 0)
            return true;
    return false;
}

/* The user feeds some of what has a default; the rest is a constant, or gets its place later. */
static mtbal_status split_defaults(mtbal_context *c, const mtbal_ort *ort)
{
    mtbal_graph *graph = c->graph;
    int found = 0;
    for (int i = graph->ninputs - 1; i >= 0; i--) {
        mtbal_value *v = graph->inputs[i];
        if (v->is_initializer && is_fed(ort, v)) {
            mtbal_remove_initializer(graph, v);
            v->tensor = NULL;
            found++;
        } else if (v->is_initializer) {
            mtbal_remove_input(graph, v);
        }
    }
    return found == ort->nfed ? MTBAL_OK
                              : mtbal_fail(c->diag, MTBAL_USAGE, "--set", NULL,
                                           "NAME=input is for lr and for scalars of the step graph "
                                           "(calibration/TASK), once each");
}

/* From initializer to input. */
static mtbal_status hand_over(mtbal_context *c, mtbal_value *v, mtbal_ort_state *to)
{
    if (v->tensor->dtype != MTBAL_FLOAT)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, v->name, "train it with another target",
                          "ONNX Runtime's training sessions accumulate float only; this is %s",
                          mtbal_dtype_name(v->tensor->dtype));
    MTBAL_TRY(mtbal_tensor_load(c->model, v->tensor, c->diag));
    *to = (mtbal_ort_state){v->name, v->tensor};
    mtbal_remove_initializer(c->graph, v);
    v->tensor = NULL;
    return mtbal_add_input(c->graph, v) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}

/* ------------------------------------------------------------------ the learning rate as an input
 */

/* Of all that the graph is given, the optimizer model sees parameters only: so the rate that is fed
 * becomes one. It is known there by its rank, which no other has. */
static mtbal_status add_fed_lr(mtbal_context *c, mtbal_ort *ort, mtbal_value **param)
{
    enum { MOST = 8 };
    static const int64_t ones[MOST] = {1, 1, 1, 1, 1, 1, 1, 1};
    ort->fed_lr_rank = 1;
    for (int i = 0; i < ort->ntrainable; i++)
        if (ort->trainable[i].tensor->rank >= ort->fed_lr_rank)
            ort->fed_lr_rank = ort->trainable[i].tensor->rank + 1;
    if (ort->fed_lr_rank > MOST)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, "--set", "set lr to a number",
                          "lr=input is for parameters of less than %d dimensions", MOST);
    *param = mtbal_state_new(c, "", ORT_FED_LR, MTBAL_FLOAT, ort->fed_lr_rank, ones, 0);
    if (!*param)
        return c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
    mtbal_remove_input(c->graph, *param);
    return hand_over(c, *param, &ort->trainable[ort->ntrainable++]);
}

/* The parameter takes what is fed. */
static mtbal_status feed_lr(mtbal_context *c, mtbal_value *lr, mtbal_value *param)
{
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
    mtbal_value *next = mtbal_emit_reshape(&b, lr, mtbal_emit_shape(&b, param));
    MTBAL_TRY(b.status);
    return ort_overwrite(c, param, next, ORT_LR);
}

/* ------------------------------------------------------------------ the training model */

/* While the step graph becomes the training model. */
typedef struct assembly {
    mtbal_context *c;
    mtbal_ort *ort;
    mtbal_value **outputs; /* [noutputs] of the step graph */
    int noutputs;
    mtbal_value **params, **gradients; /* [ort->ntrainable] */
    mtbal_value *lr;                   /* NULL: not an input */
} assembly;

static mtbal_status begin(assembly *a)
{
    mtbal_arena *arena = a->c->model->arena;
    size_t nparams = (size_t)a->c->nparams + 1, nstates = (size_t)a->c->nstates + 1;
    a->noutputs = a->c->graph->noutputs;
    a->outputs =
        mtbal_arena_copy(arena, a->c->graph->outputs, (size_t)a->noutputs * sizeof *a->outputs);
    a->params = mtbal_arena_array(arena, nparams, sizeof *a->params);
    a->gradients = mtbal_arena_array(arena, nparams, sizeof *a->gradients);
    a->ort->trainable = mtbal_arena_array(arena, nparams, sizeof *a->ort->trainable);
    a->ort->frozen = mtbal_arena_array(arena, nstates, sizeof *a->ort->frozen);
    return a->outputs && a->params && a->gradients && a->ort->trainable && a->ort->frozen
               ? MTBAL_OK
               : mtbal_no_memory(a->c->diag);
}

/* The user's inputs stand there; then the parameters, then what is frozen. */
static mtbal_status place_inputs(assembly *a)
{
    mtbal_context *c = a->c;
    mtbal_ort *ort = a->ort;
    const mtbal_type scalar = {MTBAL_TENSOR, MTBAL_FLOAT, 0, NULL};
    MTBAL_TRY(split_defaults(c, ort));
    if (ort->lr_is_input) {
        MTBAL_TRY(ort_value(c, ORT_LR, "", &scalar, &a->lr));
        MTBAL_TRY(mtbal_add_input(c->graph, a->lr) == MTBAL_OK ? MTBAL_OK
                                                               : mtbal_no_memory(c->diag));
    }
    for (int i = 0; i < c->nparams; i++) {
        mtbal_value *p = c->params[i].value;
        a->params[i] = p;
        a->gradients[i] = output_named(a->outputs, a->noutputs, "mtbal/grad/", p->name);
        MTBAL_TRY(hand_over(c, p, &ort->trainable[ort->ntrainable++]));
    }
    if (a->lr) {
        mtbal_builder b;
        MTBAL_TRY(add_fed_lr(c, ort, &a->params[c->nparams]));
        mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
        a->gradients[c->nparams] = mtbal_emit_fill_like(&b, a->params[c->nparams], 0);
        MTBAL_TRY(b.status);
    }
    for (int i = 0; i < c->nstates; i++) {
        mtbal_value *state = c->states[i].value;
        if (state->is_initializer && !is_param(c, state))
            MTBAL_TRY(hand_over(c, state, &ort->frozen[ort->nfrozen++]));
    }
    return MTBAL_OK;
}

/* The states that are no parameters get their next values. */
static mtbal_status update_states(const assembly *a)
{
    for (int i = 0; i < a->c->nstates; i++) {
        mtbal_value *state = a->c->states[i].value;
        mtbal_value *next = output_named(a->outputs, a->noutputs, "mtbal/next/", state->name);
        if (!is_param(a->c, state) && next)
            MTBAL_TRY(ort_overwrite(a->c, state, next, state->name));
    }
    return a->lr ? feed_lr(a->c, a->lr, a->params[a->c->nparams]) : MTBAL_OK;
}

static void drop_property(mtbal_model *model, const char *key)
{
    int kept = 0;
    for (int i = 0; i < model->nproperties; i++)
        if (strcmp(model->properties[i].key, key))
            model->properties[kept++] = model->properties[i];
    model->nproperties = kept;
}

mtbal_status mtbal_ort_training(mtbal_context *c, mtbal_ort *ort)
{
    assembly a = {.c = c, .ort = ort};
    bool grads = (ort->given->outputs & MTBAL_OUT_GRADS) != 0;
    MTBAL_TRY(ort_carry_over(c, ort));
    MTBAL_TRY(begin(&a));
    MTBAL_TRY(ort_check_names(c));
    MTBAL_TRY(ort_add_function(c));
    MTBAL_TRY(place_inputs(&a));
    MTBAL_TRY(order_outputs(c, grads, a.outputs, a.noutputs));
    MTBAL_TRY(ort_accumulate_gradients(c, ort->ntrainable, a.params, a.gradients));
    MTBAL_TRY(update_states(&a));
    drop_property(c->model, "mtbal.state");
    if (mtbal_property_set(c->model, "mtbal.target", "ort-training") != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(mtbal_remove_dead(c->model, c->diag));
    MTBAL_TRY(ort_name_nodes(c));
    return mtbal_verify(c->model, c->diag);
}
