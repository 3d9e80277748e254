/* passes/training_info.c: a model with TrainingInfoProto as a step graph. ONNX's onnx.proto says
 * what it means: a step runs the main graph and `algorithm` as one graph, then replaces the
 * initializers that update_binding names by the outputs that it names. With several, one iteration
 * is all of them in their order, each after the updates of those before it: so the later ones read
 * the next values instead of the states, and what of the main graph depends on these is computed
 * once more for them. */
#include "passes/internal.h"

#include <string.h>

/* While the steps are joined. */
typedef struct joiner {
    mtbal_model *model;
    mtbal_graph *graph; /* the main graph: all of it in the end */
    mtbal_diag *diag;
    mtbal_node *last;  /* of the main graph, at first */
    mtbal_value **now; /* by value id, size n: what stands for a value of the main graph by now */
    int n;
    int nstates;
    mtbal_property *states; /* state -> output */
} joiner;

static const char *const hint = "see TrainingInfoProto in ONNX's onnx.proto";

static mtbal_status invalid(const joiner *j, const char *format, const char *binding,
                            const char *name)
{
    return mtbal_fail(j->diag, MTBAL_INVALID, j->model->path, hint, format, binding, name);
}

/* ------------------------------------------------------------------ bindings */

static mtbal_value *named(mtbal_value *const *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i]->name, name))
            return list[i];
    return NULL;
}

static mtbal_value *initializer_named(const mtbal_graph *graph, const char *name)
{
    return graph ? named(graph->initializers, graph->ninitializers, name) : NULL;
}

static mtbal_value *output_named(const mtbal_graph *graph, const char *name)
{
    return graph ? named(graph->outputs, graph->noutputs, name) : NULL;
}

static bool has_key(const mtbal_property *list, int n, const char *key)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i].key, key))
            return true;
    return false;
}

/* Keys are initializers, each bound once; values are outputs. other: where outputs may be besides.
 */
static mtbal_status check_bindings(const joiner *j, const mtbal_training *t, const char *what,
                                   const mtbal_property *list, int n, const mtbal_graph *graph,
                                   const mtbal_graph *other)
{
    for (int i = 0; i < n; i++) {
        if (!initializer_named(j->graph, list[i].key) &&
            !initializer_named(t->algorithm, list[i].key))
            return invalid(j, "%s: there is no initializer %s", what, list[i].key);
        if (!output_named(graph, list[i].value) && !output_named(other, list[i].value))
            return invalid(j, "%s: there is no output %s", what, list[i].value);
        if (has_key(list, i, list[i].key))
            return invalid(j, "%s: %s is bound twice", what, list[i].key);
    }
    return MTBAL_OK;
}

static mtbal_status check_training(const joiner *j, int k)
{
    const mtbal_training *t = j->model->trainings[k];
    MTBAL_TRY(
        check_bindings(j, t, "update_binding", t->updates, t->nupdates, t->algorithm, j->graph));
    for (int before = 0; before < k; before++)
        for (int i = 0; i < t->nupdates; i++)
            if (has_key(j->model->trainings[before]->updates, j->model->trainings[before]->nupdates,
                        t->updates[i].key))
                return invalid(j, "%s: %s is bound twice", "update_binding", t->updates[i].key);
    return check_bindings(j, t, "initialization_binding", t->inits, t->ninits, t->initialization,
                          NULL);
}

/* ------------------------------------------------------------------ joining */

/* The next value of a state, as a later step reads it: no gradient goes through it into the step
 * that made it. */
static mtbal_value *updated(const joiner *j, const mtbal_property *state)
{
    mtbal_value *next = output_named(j->graph, state->value);
    mtbal_node *node = mtbal_node_new(j->graph, NULL, "", "Identity", 1, &next, 1);
    if (!node)
        return NULL;
    node->role = mtbal_role_updated;
    node->name = node->out[0]->name;
    node->out[0]->type = next->type;
    return node->out[0];
}

/* The main graph's values as they are for the next step: what depends on an updated state is
 * computed again. */
static mtbal_status refresh(joiner *j)
{
    int n = j->model->nvalues;
    mtbal_arena *arena = j->model->arena;
    mtbal_value **now = mtbal_arena_array(arena, (size_t)n, sizeof *now);
    bool *moved = mtbal_arena_array(arena, (size_t)n, sizeof *moved);
    if (!now || !moved)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < j->nstates; i++) {
        mtbal_value *state = initializer_named(j->graph, j->states[i].key);
        now[state->id] = updated(j, &j->states[i]);
        moved[state->id] = true;
        if (!now[state->id])
            return mtbal_no_memory(j->diag);
    }
    mtbal_node *end = j->last ? j->last->next : j->graph->first;
    for (mtbal_node *node = j->graph->first; node != end; node = node->next)
        if (mtbal_reads(node, moved, n)) {
            if (mtbal_node_copy(node, j->graph, NULL, now, n, NULL) != MTBAL_OK)
                return mtbal_no_memory(j->diag);
            for (int i = 0; i < node->nout; i++)
                if (node->out[i])
                    moved[node->out[i]->id] = true;
        }
    j->now = now;
    j->n = n;
    return MTBAL_OK;
}

/* In one graph a name means one thing: a later step's values give way. */
static mtbal_status rename_taken(const joiner *j, mtbal_value *v)
{
    if (mtbal_value_find(j->graph, v->name))
        v->name = mtbal_fresh_name(j->model, v->name);
    return v->name ? MTBAL_OK : mtbal_no_memory(j->diag);
}

static mtbal_status rename_outputs(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            MTBAL_TRY(rename_taken(context, node->out[i]));
    return MTBAL_OK;
}

/* What several steps take, they take from one input. */
static mtbal_status take_inputs(joiner *j, mtbal_graph *from)
{
    while (from->ninputs) {
        mtbal_value *v = from->inputs[0];
        mtbal_value *same = named(j->graph->inputs, j->graph->ninputs, v->name);
        mtbal_remove_input(from, v);
        if (same && v->id < j->n)
            j->now[v->id] = same;
        else if (mtbal_add_input(j->graph, v) != MTBAL_OK)
            return mtbal_no_memory(j->diag);
        v->graph = j->graph;
    }
    return MTBAL_OK;
}

/* Numbers that nothing updates are settings (--set): inputs with a default. */
static bool is_setting(const mtbal_training *t, const mtbal_value *v)
{
    return v->tensor && v->tensor->count == 1 && v->tensor->rank <= 1 &&
           mtbal_dtype_is_float(v->tensor->dtype) && !has_key(t->updates, t->nupdates, v->name);
}

static mtbal_status take_initializers(joiner *j, const mtbal_training *t, bool later)
{
    mtbal_graph *from = t->algorithm;
    while (from->ninitializers) {
        mtbal_value *v = from->initializers[0];
        bool input = v->is_input, setting = is_setting(t, v);
        mtbal_remove_initializer(from, v);
        if (later && !input)
            MTBAL_TRY(rename_taken(j, v));
        if (mtbal_add_initializer(j->graph, v, v->tensor) != MTBAL_OK ||
            (setting && !input && mtbal_add_input(j->graph, v) != MTBAL_OK))
            return mtbal_no_memory(j->diag);
        v->graph = j->graph;
    }
    return MTBAL_OK;
}

static mtbal_status take_nodes(joiner *j, mtbal_graph *from, bool later)
{
    if (later)
        MTBAL_TRY(mtbal_graph_walk(from, rename_outputs, j));
    while (from->first) {
        mtbal_node_remap(from->first, j->now, j->n);
        mtbal_node_transfer(from->first, j->graph);
    }
    return MTBAL_OK;
}

/* Enters the updates of a step: its outputs' names are those that they have by now. */
static mtbal_status bind_updates(joiner *j, const mtbal_training *t, mtbal_value *const *next)
{
    for (int i = 0; i < t->nupdates; i++) {
        mtbal_value *state = initializer_named(j->graph, t->updates[i].key), *v = next[i];
        if (v->id < j->n && j->now[v->id])
            v = j->now[v->id];
        if ((!state->is_input && mtbal_add_input(j->graph, state) != MTBAL_OK) ||
            (!v->is_output && mtbal_add_output(j->graph, v) != MTBAL_OK))
            return mtbal_no_memory(j->diag);
        j->states[j->nstates++] = (mtbal_property){state->name, v->name};
    }
    return MTBAL_OK;
}

static mtbal_status join_one(joiner *j, int k)
{
    const mtbal_training *t = j->model->trainings[k];
    mtbal_graph *from = t->algorithm;
    mtbal_value **next = mtbal_arena_array(j->model->arena, (size_t)t->nupdates, sizeof *next);
    if (!next)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < t->nupdates; i++) {
        next[i] = output_named(from, t->updates[i].value);
        next[i] = next[i] ? next[i] : output_named(j->graph, t->updates[i].value);
    }
    if (from) /* names mean something there only before any is changed */
        MTBAL_TRY(mtbal_named_operands(from, j->diag));
    MTBAL_TRY(refresh(j));
    if (from) {
        MTBAL_TRY(take_inputs(j, from));
        MTBAL_TRY(take_initializers(j, t, k > 0));
        MTBAL_TRY(take_nodes(j, from, k > 0));
        for (int i = 0; i < from->noutputs; i++) {
            mtbal_value *out = from->outputs[i];
            if (out->type.rank < 0) /* a main graph has to tell more of its outputs */
                out->origin = NULL;
            if (!(out->id < j->n && j->now[out->id]) &&
                !named(j->graph->outputs, j->graph->noutputs, out->name) &&
                mtbal_add_output(j->graph, out) != MTBAL_OK)
                return mtbal_no_memory(j->diag);
        }
    }
    return bind_updates(j, t, next);
}

/* ------------------------------------------------------------------ what a step graph tells */

/* Without mtbal's own entry: every float with one element that is no state's next value. */
static mtbal_status find_tasks(const joiner *j)
{
    const mtbal_graph *graph = j->graph;
    int n = 0;
    mtbal_property *tasks =
        mtbal_arena_array(j->model->arena, (size_t)graph->noutputs, sizeof *tasks);
    if (!tasks)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < graph->noutputs; i++) {
        const mtbal_value *v = graph->outputs[i];
        bool state = false;
        for (int k = 0; k < j->nstates; k++)
            state = state || !strcmp(j->states[k].value, v->name);
        if (!state && mtbal_dtype_is_float(v->type.dtype) && mtbal_shape_count(&v->type) == 1)
            tasks[n++] = (mtbal_property){v->name, v->name};
    }
    return mtbal_set_entries(j->model, "mtbal.tasks", true, n, tasks, j->diag);
}

static mtbal_status join(joiner *j)
{
    mtbal_model *model = j->model;
    size_t most = 0;
    for (int i = 0; i < model->ntrainings; i++) {
        MTBAL_TRY(check_training(j, i));
        most += (size_t)model->trainings[i]->nupdates;
    }
    j->states = mtbal_arena_array(model->arena, most, sizeof *j->states);
    if (!j->states)
        return mtbal_no_memory(j->diag);
    MTBAL_TRY(mtbal_named_operands(j->graph, j->diag));
    for (int i = 0; i < model->ntrainings; i++)
        MTBAL_TRY(join_one(j, i));
    model->ntrainings = 0;
    MTBAL_TRY(mtbal_set_entries(model, "mtbal.state", true, j->nstates, j->states, j->diag));
    return mtbal_verify(model, j->diag);
}

mtbal_status mtbal_standard_form(mtbal_model *model, mtbal_diag *diag)
{
    joiner j = {.model = model, .graph = model->graph, .diag = diag, .last = model->graph->last};
    bool joins = model->ntrainings > 0;
    if (joins)
        MTBAL_TRY(join(&j));
    MTBAL_TRY(mtbal_lower_training_ops(model, diag));
    if (!joins || mtbal_property_get(model, "mtbal.tasks"))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag));
    return find_tasks(&j);
}
