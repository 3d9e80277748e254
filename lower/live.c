/* lower/live.c: what has to be computed: the requested outputs, the next states, and all that they
 * need. */
#include "lower/lowering.h"

static mtbal_status index_names(lowering *l, mtbal_map *map, mtbal_value *const *values, int n)
{
    for (int i = n - 1; i >= 0; i--) /* the first of a name counts */
        if (!mtbal_map_set(map, l->arena, values[i]->name, i))
            return mtbal_no_memory(l->diag);
    return MTBAL_OK;
}

mtbal_value *lower_find_input(const lowering *l, const char *name)
{
    int i = mtbal_map_get(&l->input_of, mtbal_interned(l->model->arena, name));
    return i < 0 ? NULL : l->graph->inputs[i];
}

static mtbal_value *find_output(const lowering *l, const char *name)
{
    int i = mtbal_map_get(&l->output_of, mtbal_interned(l->model->arena, name));
    return i < 0 ? NULL : l->graph->outputs[i];
}

/* Whether the plan changes the states, by number in `states`. */
static mtbal_status find_changed(lowering *l, const mtbal_list *states, bool *changed)
{
    const mtbal_lower_options *o = l->options;
    mtbal_map at = {0};
    for (int i = 0; i < states->count; i++) {
        changed[i] = o->states;
        if (!mtbal_map_set(&at, l->arena, states->names[i], i))
            return mtbal_no_memory(l->diag);
    }
    for (int i = 0; i < o->nfixed; i++) {
        int state = mtbal_map_get(&at, mtbal_interned(l->arena, o->fixed[i]));
        if (state >= 0)
            changed[state] = false;
    }
    return MTBAL_OK;
}

static mtbal_status choose_states(lowering *l)
{
    mtbal_list list;
    MTBAL_TRY(mtbal_property_list(l->model, "mtbal.state", l->arena, &list, l->diag));
    l->states = mtbal_arena_array(l->arena, (size_t)list.count + 1, sizeof *l->states);
    bool *changed = mtbal_arena_array(l->arena, (size_t)list.count + 1, sizeof *changed);
    if (!l->states || !changed)
        return mtbal_no_memory(l->diag);
    MTBAL_TRY(find_changed(l, &list, changed));
    for (int i = 0; i < list.count; i++) {
        mtbal_value *value = lower_find_input(l, list.names[i]);
        mtbal_value *next = list.values[i] ? find_output(l, list.values[i]) : NULL;
        if (l->options->states && (!value || !value->tensor || !next))
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path,
                              "write the step graph again with mtbal-rewrite",
                              "state %s: the model lacks %s %s", list.names[i],
                              next ? "the input with a stored value" : "the output",
                              next             ? list.names[i]
                              : list.values[i] ? list.values[i]
                                               : "?");
        if (changed[i])
            l->states[l->nstates++] = (lower_state){value->name, value, next, -1};
        else if (l->options->all_states && value && value->tensor &&
                 value->tensor->rank <= RT_MAX_RANK)
            l->states[l->nstates++] = (lower_state){value->name, value, value, -1};
    }
    return MTBAL_OK;
}

mtbal_status lower_choose(lowering *l)
{
    const mtbal_lower_options *o = l->options;
    int n = o->noutputs < 0 ? l->graph->noutputs : o->noutputs;
    MTBAL_TRY(index_names(l, &l->input_of, l->graph->inputs, l->graph->ninputs));
    MTBAL_TRY(index_names(l, &l->output_of, l->graph->outputs, l->graph->noutputs));
    l->outputs = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *l->outputs);
    l->output_names = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *l->output_names);
    if (!l->outputs || !l->output_names)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < n; i++) {
        l->outputs[i] = o->noutputs < 0 ? l->graph->outputs[i] : find_output(l, o->outputs[i]);
        if (!l->outputs[i])
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                              "the model has no output %s", o->outputs[i]);
        l->output_names[i] = l->outputs[i]->name;
    }
    l->noutputs = n;
    return o->states || o->all_states ? choose_states(l) : MTBAL_OK;
}

static mtbal_status mark(lowering *l, const mtbal_value *v)
{
    place *p = v ? lower_place(l, v) : NULL;
    if (v && !p)
        return mtbal_no_memory(l->diag);
    if (p)
        p->used = true;
    return MTBAL_OK;
}

static bool is_used(lowering *l, const mtbal_node *node)
{
    for (int i = 0; i < node->nout; i++) {
        const place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (p && p->used)
            return true;
    }
    return false;
}

/* Marks what the used nodes of the graph read, users first; takes the others out. */
static mtbal_status prune(lowering *l, mtbal_graph *graph)
{
    for (mtbal_node *node = graph->last, *prev; node; node = prev) {
        prev = node->prev;
        if (!is_used(l, node)) {
            mtbal_node_remove(node);
            continue;
        }
        for (int i = 0; i < node->nin; i++)
            MTBAL_TRY(mark(l, node->in[i]));
        for (const mtbal_attr *a = node->attrs; a; a = a->next) {
            if (a->kind != MTBAL_ATTR_GRAPH || !a->g)
                continue;
            for (int i = 0; i < a->g->noutputs; i++)
                MTBAL_TRY(mark(l, a->g->outputs[i]));
            MTBAL_TRY(prune(l, a->g));
        }
    }
    return MTBAL_OK;
}

mtbal_status lower_keep_live(lowering *l)
{
    for (int i = 0; i < l->nplaces; i++)
        l->places[i].used = false;
    for (int i = 0; i < l->noutputs; i++) {
        l->outputs[i] = lower_resolve(l, l->outputs[i]);
        MTBAL_TRY(mark(l, l->outputs[i]));
    }
    for (int i = 0; i < l->nstates; i++) {
        l->states[i].next = lower_resolve(l, l->states[i].next);
        if (l->states[i].next != l->states[i].value)
            MTBAL_TRY(mark(l, l->states[i].next));
    }
    return prune(l, l->graph);
}
