/* passes/target_training_info.c: the step graph in ONNX's own form for training, TrainingInfoProto.
 * The main graph is the network as --inference gives it: what its outputs need, in inference mode.
 * The rest of the step is `algorithm`: it reads values of the main graph where these are the same
 * in training; what training mode (BatchNormalization, Dropout) makes different, and whatever
 * depends on that, it computes anew. Its own initializers are the states and settings that the
 * rewrite added; update_binding says the same as the metadata entry mtbal.state, and
 * `initialization` puts the optimizer back to its first step. */
#include "passes/internal.h"

#include <string.h>

/* By value id: what the main graph keeps; what is different in training, and its copy there. */
typedef struct split {
    mtbal_context *c;
    mtbal_graph *algorithm;
    int n;
    bool *kept, *differs;
    mtbal_value **copies;
    mtbal_training *training;
} split;

static bool marks_output(const mtbal_node *node, const bool *marked)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && marked[node->out[i]->id])
            return true;
    return false;
}

/* ------------------------------------------------------------------ who keeps what */

static void find_kept(split *s)
{
    mtbal_context *c = s->c;
    for (int i = 0; i < c->graph->noutputs; i++)
        if (mtbal_is_listed(c->outputs, c->noutputs, c->graph->outputs[i]->name))
            s->kept[c->graph->outputs[i]->id] = true;
    for (mtbal_node *node = c->graph->last; node; node = node->prev)
        if (marks_output(node, s->kept))
            mtbal_mark_read(node, s->kept);
}

/* An operand that is known to be 0, or false. */
static bool is_zero(const mtbal_node *node, int i)
{
    const mtbal_value *v = i < node->nin ? node->in[i] : NULL;
    return v && v->tensor && !v->is_input && v->tensor->data && v->tensor->count == 1 &&
           mtbal_tensor_f64(v->tensor, 0) == 0;
}

/* Nodes that compute something else in inference mode (inference.c), alone or in a subgraph. */
static mtbal_status seek_training(mtbal_node *node, void *found)
{
    bool batch = mtbal_node_is(node, MTBAL_OP_batch_normalization) &&
                 (mtbal_attr_i(node, "training_mode", 0) || node->nout > 1);
    bool dropout = mtbal_node_is(node, MTBAL_OP_dropout) && node->nin > 2 && !is_zero(node, 1) &&
                   !is_zero(node, 2);
    if (batch || dropout)
        *(bool *)found = true;
    return MTBAL_OK;
}

static void find_different(split *s)
{
    for (mtbal_node *node = s->c->graph->first; node; node = node->next) {
        bool differs = mtbal_reads(node, s->differs, s->n);
        seek_training(node, &differs);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                mtbal_graph_walk(a->g, seek_training, &differs);
        for (int i = 0; differs && i < node->nout; i++)
            if (node->out[i])
                s->differs[node->out[i]->id] = true;
    }
}

/* ------------------------------------------------------------------ nodes */

/* In their order: those that the main graph does not keep move, those that differ are copied. */
static mtbal_status divide_nodes(split *s)
{
    mtbal_graph *graph = s->c->graph;
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        if (!marks_output(node, s->kept)) {
            mtbal_node_remap(node, s->copies, s->n);
            mtbal_node_transfer(node, s->algorithm);
        } else if (marks_output(node, s->differs)) {
            if (mtbal_node_copy(node, s->algorithm, NULL, s->copies, s->n, "mtbal/train/") !=
                MTBAL_OK)
                return mtbal_no_memory(s->c->diag);
        }
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ inputs, initializers, outputs
 */

/* What the rewrite added is the algorithm's: settings as inputs with a default, labels of --loss as
 * inputs, states as initializers. */
static mtbal_status divide_inputs(split *s)
{
    mtbal_context *c = s->c;
    for (int i = 0; i < c->graph->ninputs;) {
        mtbal_value *v = c->graph->inputs[i];
        if (mtbal_is_listed(c->inputs, c->ninputs, v->name)) {
            i++;
            continue;
        }
        bool ours = mtbal_is_ours(v->name) && v->is_initializer && !s->kept[v->id];
        bool state = false;
        for (int k = 0; k < c->nstates; k++)
            state = state || c->states[k].value == v;
        mtbal_remove_input(c->graph, v);
        if (ours)
            mtbal_remove_initializer(c->graph, v);
        if ((ours && mtbal_add_initializer(s->algorithm, v, v->tensor) != MTBAL_OK) ||
            (!state && mtbal_add_input(s->algorithm, v) != MTBAL_OK))
            return mtbal_no_memory(c->diag);
        if (ours || !state)
            v->graph = s->algorithm;
    }
    return MTBAL_OK;
}

static mtbal_status divide_outputs(split *s)
{
    mtbal_context *c = s->c;
    for (int i = 0; i < c->graph->noutputs;) {
        mtbal_value *v = c->graph->outputs[i];
        if (mtbal_is_listed(c->outputs, c->noutputs, v->name)) {
            i++;
            continue;
        }
        mtbal_remove_output(c->graph, v);
        if (mtbal_add_output(s->algorithm, v) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
    }
    return MTBAL_OK;
}

/* A loss that is different in training is an output of the algorithm too: mtbal/loss/TASK. */
static mtbal_status training_losses(split *s)
{
    mtbal_context *c = s->c, algorithm = *c;
    algorithm.graph = s->algorithm;
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_value *v = c->tasks[i].loss;
        if (v->id >= s->n || !s->copies[v->id])
            continue;
        MTBAL_TRY(mtbal_output_as(&algorithm, s->copies[v->id], "mtbal/loss/", c->tasks[i].name));
        c->tasks[i].loss = s->algorithm->outputs[s->algorithm->noutputs - 1];
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ bindings */

static mtbal_status bind_updates(split *s)
{
    const mtbal_context *c = s->c;
    mtbal_training *t = s->training;
    t->updates = mtbal_arena_array(c->model->arena, (size_t)c->nstates, sizeof *t->updates);
    if (!t->updates)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->nstates; i++)
        t->updates[t->nupdates++] =
            (mtbal_property){c->states[i].value->name, c->states[i].output->name};
    return MTBAL_OK;
}

/* Zeros in the shape of a state, as output mtbal/init/STATE of the initialization. */
static mtbal_status start_from_zero(split *s, const mtbal_value *state)
{
    const mtbal_context *c = s->c;
    mtbal_training *t = s->training;
    const mtbal_tensor *as = state->tensor;
    mtbal_builder b;
    mtbal_context initialization = *c;
    initialization.graph = t->initialization;
    mtbal_builder_init(&b, t->initialization, NULL, c->diag);
    b.prefix = "mtbal/initialization/";
    mtbal_value *shape = mtbal_const_i64s(&b, as->rank, as->dims);
    const int64_t one = 1;
    mtbal_tensor *zero = mtbal_tensor_new(c->model, as->dtype, 1, &one, NULL);
    mtbal_value *zeros =
        zero ? mtbal_emit_attrs(&b, "ConstantOfShape", 1, &shape, "value=t", zero) : NULL;
    MTBAL_TRY(b.status);
    MTBAL_TRY(mtbal_output_as(&initialization, zeros, "mtbal/init/", state->name));
    t->inits[t->ninits] =
        (mtbal_property){state->name, t->initialization->outputs[t->ninits]->name};
    t->ninits++;
    return MTBAL_OK;
}

/* The optimizer's states begin at zero. What calibration measured stays, and what the network
 * started from is not known here. */
static mtbal_status initialize(split *s)
{
    static const char *const zero[] = {"mtbal/momentum/", "mtbal/adam_m/", "mtbal/adam_v/",
                                       "mtbal/step"};
    const mtbal_context *c = s->c;
    mtbal_training *t = s->training;
    t->inits = mtbal_arena_array(c->model->arena, (size_t)c->nstates, sizeof *t->inits);
    if (!t->inits)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->nstates; i++) {
        const mtbal_value *state = c->states[i].value;
        bool from_zero = false;
        for (size_t k = 0; k < sizeof zero / sizeof *zero; k++)
            from_zero = from_zero || !strncmp(state->name, zero[k], strlen(zero[k]));
        if (from_zero && !t->initialization)
            t->initialization = mtbal_graph_new(c->model, NULL, "initialization");
        if (from_zero && !t->initialization)
            return mtbal_no_memory(c->diag);
        if (from_zero)
            MTBAL_TRY(start_from_zero(s, state));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ all of it */

static mtbal_status begin(split *s)
{
    mtbal_model *model = s->c->model;
    mtbal_arena *arena = model->arena;
    size_t n = (size_t)model->nvalues;
    s->n = model->nvalues;
    s->kept = mtbal_arena_array(arena, n, sizeof *s->kept);
    s->differs = mtbal_arena_array(arena, n, sizeof *s->differs);
    s->copies = mtbal_arena_array(arena, n, sizeof *s->copies);
    s->training = mtbal_arena_alloc(arena, sizeof *s->training);
    s->algorithm = mtbal_graph_new(model, s->c->graph, "step");
    model->trainings = mtbal_arena_alloc(arena, sizeof *model->trainings);
    if (!s->kept || !s->differs || !s->copies || !s->training || !s->algorithm || !model->trainings)
        return mtbal_no_memory(s->c->diag);
    s->training->algorithm = s->algorithm;
    model->trainings[0] = s->training;
    return MTBAL_OK;
}

mtbal_status mtbal_training_info(mtbal_context *context)
{
    split s = {.c = context};
    MTBAL_TRY(begin(&s));
    find_kept(&s);
    find_different(&s);
    MTBAL_TRY(divide_nodes(&s));
    MTBAL_TRY(divide_inputs(&s));
    MTBAL_TRY(divide_outputs(&s));
    MTBAL_TRY(training_losses(&s));
    MTBAL_TRY(bind_updates(&s));
    MTBAL_TRY(initialize(&s));
    context->model->ntrainings = 1;
    MTBAL_TRY(mtbal_inference_mode(context->model, context->diag));
    MTBAL_TRY(mtbal_remove_dead(context->model, context->diag));
    return mtbal_pass_metadata(context);
}
