/* passes/training_info.c: a model with TrainingInfoProto as a step graph. ONNX's onnx.proto says
 * what it means: a step runs the main graph and `algorithm` as one graph, then replaces the
 * initializers that update_binding names by the outputs that it names. With several, one iteration
 * is all of them in their order, each after the updates of those before it: so the later ones read
 * the next values instead of the states, and what of the main graph depends on these is computed
 * once more for them. */
#include "passes/internal.h"

#include <string.h>

enum { MAX_STEPS = 64 };

/* A binding of update_binding, its names resolved. */
typedef struct update {
    mtbal_value *state, *next;
} update;

/* While the steps are joined. */
typedef struct joiner {
    mtbal_model *model;
    mtbal_graph *graph; /* the main graph: all of it in the end */
    mtbal_diag *diag;
    mtbal_node *last;   /* of the main graph, at first */
    bool *is_state;     /* by value id, of the values that the file has */
    int nupdates, done; /* done: of the steps before the present one */
    update *updates;    /* of all steps, in their order */
    mtbal_value **now;  /* by value id, size n: what stands for a value of the main graph by now */
    int n;
} joiner;

static const char *const hint = "see TrainingInfoProto in ONNX's onnx.proto";

static mtbal_status invalid(const joiner *j, const char *format, const char *binding,
                            const char *name)
{
    return mtbal_fail(j->diag, MTBAL_INVALID, j->model->path, hint, format, binding, name);
}

/* ------------------------------------------------------------------ bindings */

static mtbal_status index_values(const joiner *j, mtbal_index *index, int count,
                                 mtbal_value *const *values)
{
    return mtbal_index_values(index, j->model->arena, count, values, j->diag);
}

/* What bindings of a step may name. */
typedef struct scope {
    mtbal_index main_initializers, main_outputs, initializers, outputs, first;
} scope;

static mtbal_status open_scope(const joiner *j, const mtbal_training *t, scope *s)
{
    static const mtbal_graph none = {0};
    const mtbal_graph *own = t->algorithm ? t->algorithm : &none;
    const mtbal_graph *first = t->initialization ? t->initialization : &none, *main = j->graph;
    MTBAL_TRY(index_values(j, &s->main_initializers, main->ninitializers, main->initializers));
    MTBAL_TRY(index_values(j, &s->main_outputs, main->noutputs, main->outputs));
    MTBAL_TRY(index_values(j, &s->initializers, own->ninitializers, own->initializers));
    MTBAL_TRY(index_values(j, &s->outputs, own->noutputs, own->outputs));
    return index_values(j, &s->first, first->noutputs, first->outputs);
}

static mtbal_status resolve(const joiner *j, const scope *s, const mtbal_property *binding,
                            bool first, update *u)
{
    const char *what = first ? "initialization_binding" : "update_binding";
    const char *name = mtbal_intern(j->model->arena, binding->value);
    if (!name)
        return mtbal_no_memory(j->diag);
    u->state = mtbal_index_find(&s->initializers, binding->key);
    if (!u->state && !(u->state = mtbal_index_find(&s->main_initializers, binding->key)))
        return invalid(j, "%s: there is no initializer %s", what, binding->key);
    u->next = mtbal_index_find(first ? &s->first : &s->outputs, name);
    if (!u->next && (first || !(u->next = mtbal_index_find(&s->main_outputs, name))))
        return invalid(j, "%s: there is no output %s", what, name);
    return MTBAL_OK;
}

/* Every initializer is bound at most once, by all steps together; a step puts it at most once to
 * where it starts. */
static mtbal_status read_bindings(joiner *j, const mtbal_training *t)
{
    scope s;
    update u;
    bool *seen = mtbal_arena_array(j->model->arena, (size_t)j->model->nvalues, sizeof *seen);
    MTBAL_TRY(open_scope(j, t, &s));
    if (!seen)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < t->ninits; i++) {
        MTBAL_TRY(resolve(j, &s, &t->inits[i], true, &u));
        if (seen[u.state->id])
            return invalid(j, "%s: %s is bound twice", "initialization_binding", u.state->name);
        seen[u.state->id] = true;
    }
    for (int i = 0; i < t->nupdates; i++) {
        MTBAL_TRY(resolve(j, &s, &t->updates[i], false, &u));
        j->is_state[u.state->id] = true;
        j->updates[j->nupdates++] = u;
    }
    return MTBAL_OK;
}

/* Two initializers of one name, of two algorithms, would be one variable. */
static mtbal_status check_names(const joiner *j)
{
    mtbal_map bound = {0};
    for (int i = 0; i < j->nupdates; i++) {
        const char *name = j->updates[i].state->name;
        if (mtbal_map_get(&bound, name) >= 0)
            return invalid(j, "%s: %s is bound twice", "update_binding", name);
        if (!mtbal_map_set(&bound, j->model->arena, name, i))
            return mtbal_no_memory(j->diag);
    }
    return MTBAL_OK;
}

static mtbal_status read_all_bindings(joiner *j)
{
    mtbal_model *model = j->model;
    size_t most = 0;
    if (model->ntrainings > MAX_STEPS)
        return mtbal_fail(j->diag, MTBAL_UNSUPPORTED, model->path, NULL,
                          "the model has %d steps in training_info; %d are read", model->ntrainings,
                          MAX_STEPS);
    for (int i = 0; i < model->ntrainings; i++)
        most += (size_t)model->trainings[i]->nupdates;
    j->updates = mtbal_arena_array(model->arena, most, sizeof *j->updates);
    j->is_state = mtbal_arena_array(model->arena, (size_t)model->nvalues, sizeof(bool));
    if (!j->updates || !j->is_state)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < model->ntrainings; i++)
        MTBAL_TRY(read_bindings(j, model->trainings[i]));
    return check_names(j);
}

/* ------------------------------------------------------------------ joining */

/* The next value of a state, as a later step reads it: no gradient goes through it into the step
 * that made it. */
static mtbal_value *updated(const joiner *j, const update *u)
{
    mtbal_node *node = mtbal_node_new(j->graph, NULL, "", "Identity", 1, &u->next, 1);
    if (!node)
        return NULL;
    node->role = mtbal_role_updated;
    node->name = node->out[0]->name;
    node->out[0]->type = u->next->type;
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
    mtbal_node *end = j->last ? j->last->next : j->graph->first;
    if (!now || !moved)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < j->done; i++) {
        int id = j->updates[i].state->id;
        now[id] = updated(j, &j->updates[i]);
        moved[id] = true;
        if (!now[id])
            return mtbal_no_memory(j->diag);
    }
    for (mtbal_node *node = j->graph->first; j->done && node != end; node = node->next)
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

static mtbal_value *by_now(const joiner *j, const mtbal_value *v)
{
    return v->id < j->n ? j->now[v->id] : NULL;
}

/* In one graph a name means one thing: a later step's values give way. */
typedef struct renaming {
    const joiner *j;
    mtbal_index taken;
} renaming;

static mtbal_status rename_taken(const renaming *r, mtbal_value *v)
{
    const char *name;
    if (!mtbal_index_find(&r->taken, v->name))
        return MTBAL_OK;
    name = mtbal_fresh_name(r->j->model, v->name);
    return name && mtbal_value_rename(v, name) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(r->j->diag);
}

static mtbal_status rename_outputs(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            MTBAL_TRY(rename_taken(context, node->out[i]));
    return MTBAL_OK;
}

static mtbal_status make_unique(const joiner *j, mtbal_graph *from)
{
    renaming r = {.j = j};
    MTBAL_TRY(mtbal_index_graph(&r.taken, j->model->arena, j->graph, j->diag));
    for (int i = 0; i < from->ninitializers; i++)
        if (!from->initializers[i]->is_input && !j->is_state[from->initializers[i]->id])
            MTBAL_TRY(rename_taken(&r, from->initializers[i]));
    return mtbal_graph_walk(from, rename_outputs, &r);
}

/* What several steps take, they take from one input. */
static mtbal_status take_inputs(joiner *j, mtbal_graph *from)
{
    mtbal_index inputs;
    MTBAL_TRY(index_values(j, &inputs, j->graph->ninputs, j->graph->inputs));
    for (int i = 0; i < from->ninputs; i++) {
        mtbal_value *v = from->inputs[i], *same = mtbal_index_find(&inputs, v->name);
        v->graph = j->graph;
        if (same)
            j->now[v->id] = same;
        else if (mtbal_add_input(j->graph, v) != MTBAL_OK)
            return mtbal_no_memory(j->diag);
    }
    from->ninputs = 0;
    return MTBAL_OK;
}

/* Numbers that nothing updates are settings (--set): inputs with a default. */
static bool is_setting(const joiner *j, const mtbal_value *v)
{
    return v->tensor && v->tensor->count == 1 && v->tensor->rank <= 1 &&
           mtbal_dtype_is_float(v->tensor->dtype) && !j->is_state[v->id];
}

static mtbal_status take_initializers(joiner *j, mtbal_graph *from)
{
    for (int i = 0; i < from->ninitializers; i++) {
        mtbal_value *v = from->initializers[i];
        if (by_now(j, v))
            continue;
        v->graph = j->graph;
        if (mtbal_add_initializer(j->graph, v, v->tensor) != MTBAL_OK ||
            (!v->is_input && is_setting(j, v) && mtbal_add_input(j->graph, v) != MTBAL_OK))
            return mtbal_no_memory(j->diag);
    }
    from->ninitializers = 0;
    return MTBAL_OK;
}

static mtbal_status take_outputs(joiner *j, mtbal_graph *from)
{
    bool *listed = mtbal_arena_array(j->model->arena, (size_t)j->model->nvalues, sizeof *listed);
    if (!listed)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < j->graph->noutputs; i++)
        listed[j->graph->outputs[i]->id] = true;
    for (int i = 0; i < from->noutputs; i++) {
        mtbal_value *out = from->outputs[i];
        if (out->type.rank < 0) /* a main graph has to tell more of its outputs */
            out->origin = NULL;
        if (!by_now(j, out) && !listed[out->id] && mtbal_add_output(j->graph, out) != MTBAL_OK)
            return mtbal_no_memory(j->diag);
        listed[out->id] = true;
    }
    return MTBAL_OK;
}

static mtbal_status take_algorithm(joiner *j, mtbal_graph *from)
{
    if (j->done)
        MTBAL_TRY(make_unique(j, from));
    MTBAL_TRY(take_inputs(j, from));
    MTBAL_TRY(take_initializers(j, from));
    while (from->first) {
        mtbal_node_remap(from->first, j->now, j->n);
        mtbal_node_transfer(from->first, j->graph);
    }
    return take_outputs(j, from);
}

/* States are inputs, their next values outputs. */
static mtbal_status bind(joiner *j, update *u)
{
    mtbal_value *now = by_now(j, u->next);
    bool is_output = !now || now->is_output;
    u->next = now ? now : u->next;
    if ((!u->state->is_input && mtbal_add_input(j->graph, u->state) != MTBAL_OK) ||
        (!is_output && mtbal_add_output(j->graph, u->next) != MTBAL_OK))
        return mtbal_no_memory(j->diag);
    return MTBAL_OK;
}

static mtbal_status join_one(joiner *j, const mtbal_training *t)
{
    if (t->algorithm) /* names mean something there only before any is changed */
        MTBAL_TRY(mtbal_named_operands(t->algorithm, j->diag));
    MTBAL_TRY(refresh(j));
    if (t->algorithm)
        MTBAL_TRY(take_algorithm(j, t->algorithm));
    for (int i = 0; i < t->nupdates; i++)
        MTBAL_TRY(bind(j, &j->updates[j->done + i]));
    j->done += t->nupdates;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ what a step graph tells */

static mtbal_status tell_states(const joiner *j)
{
    mtbal_property *states =
        mtbal_arena_array(j->model->arena, (size_t)j->nupdates, sizeof *states);
    if (!states)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < j->nupdates; i++)
        states[i] = (mtbal_property){j->updates[i].state->name, j->updates[i].next->name};
    return mtbal_set_entries(j->model, "mtbal.state", true, j->nupdates, states, j->diag);
}

/* Without mtbal's own entry: every float with one element that is no state's next value. */
static mtbal_status tell_tasks(const joiner *j)
{
    const mtbal_graph *graph = j->graph;
    mtbal_arena *arena = j->model->arena;
    mtbal_property *tasks = mtbal_arena_array(arena, (size_t)graph->noutputs, sizeof *tasks);
    bool *bound = mtbal_arena_array(arena, (size_t)j->model->nvalues, sizeof *bound);
    int n = 0;
    if (!tasks || !bound)
        return mtbal_no_memory(j->diag);
    for (int i = 0; i < j->nupdates; i++)
        bound[j->updates[i].next->id] = true;
    for (int i = 0; i < graph->noutputs; i++) {
        const mtbal_value *v = graph->outputs[i];
        if (!bound[v->id] && mtbal_dtype_is_float(v->type.dtype) &&
            mtbal_shape_count(&v->type) == 1)
            tasks[n++] = (mtbal_property){v->name, v->name};
    }
    return mtbal_set_entries(j->model, "mtbal.tasks", true, n, tasks, j->diag);
}

static mtbal_status join(joiner *j)
{
    mtbal_model *model = j->model;
    MTBAL_TRY(read_all_bindings(j));
    MTBAL_TRY(mtbal_named_operands(j->graph, j->diag));
    for (int i = 0; i < model->ntrainings; i++)
        MTBAL_TRY(join_one(j, model->trainings[i]));
    model->ntrainings = 0;
    MTBAL_TRY(tell_states(j));
    return mtbal_verify(model, j->diag);
}

mtbal_status mtbal_standard_form(mtbal_model *model, mtbal_diag *diag)
{
    joiner j = {.model = model, .graph = model->graph, .diag = diag};
    bool joins = model->ntrainings > 0;
    MTBAL_TRY(mtbal_verify(model, diag));
    j.last = model->graph->last;
    if (joins)
        MTBAL_TRY(join(&j));
    MTBAL_TRY(mtbal_lower_training_ops(model, diag));
    if (!joins || mtbal_property_get(model, "mtbal.tasks"))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag));
    return tell_tasks(&j);
}
