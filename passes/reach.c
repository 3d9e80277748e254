/* passes/reach.c: which tasks a value reaches, and whether it depends on a parameter. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

/* BatchNormalization's fixed statistics, computed by the graph: an export that writes the training
 * form so. Stored ones, also behind an Identity, are settings. */
static unsigned computed_statistics(const mtbal_node *node)
{
    unsigned computed = 0;
    if (!mtbal_node_is(node, MTBAL_OP_batch_normalization) ||
        mtbal_attr_i(node, "training_mode", 0))
        return 0;
    for (int i = 3; i < 5 && i < node->nin; i++) {
        const mtbal_node *def = node->in[i] ? node->in[i]->def : NULL;
        if (def && !mtbal_node_is(def, MTBAL_OP_identity) && !mtbal_node_is(def, MTBAL_OP_constant))
            computed |= 1u << i;
    }
    return computed;
}

unsigned mtbal_settings_of(const mtbal_node *node)
{
    return mtbal_op_settings(node->opcode) & ~computed_statistics(node);
}

static bool carries(unsigned settings_of_node, int operand)
{
    return operand >= 32 || !(settings_of_node >> operand & 1);
}

const char mtbal_role_updated[] = "updated state";

/* A node behind which every gradient is zero by definition. */
static bool is_stop(const mtbal_node *node)
{
    bool stop;
    mtbal_gradient_rule(node->opcode, &stop);
    return stop || node->role == mtbal_role_updated ||
           (mtbal_node_is(node, MTBAL_OP_cast) && node->out[0] &&
            !mtbal_dtype_is_float(node->out[0]->type.dtype));
}

/* ------------------------------------------------------------------ backward: reach */

typedef struct reaching {
    mtbal_context *c;
    mtbal_set tasks;
} reaching;

static mtbal_status add_tasks(const reaching *r, const mtbal_value *v)
{
    mtbal_set *reach = &r->c->reach[v->id];
    *reach = mtbal_set_union(r->c->sets, *reach, r->tasks);
    return *reach >= 0 ? MTBAL_OK : mtbal_no_memory(r->c->diag);
}

static mtbal_status add_to_operands(mtbal_node *node, void *context)
{
    const reaching *r = context;
    unsigned settings_of_node = mtbal_settings_of(node);
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && carries(settings_of_node, i))
            MTBAL_TRY(add_tasks(r, node->in[i]));
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            MTBAL_TRY(add_tasks(r, a->g->outputs[i]));
    return MTBAL_OK;
}

/* All outputs of a node reach what any of them does. So a node belongs to one head or to the trunk,
 * as a whole: what leaves a Split of the trunk towards one head is still the trunk's. */
static mtbal_status spread_from(mtbal_context *c, mtbal_node *node)
{
    reaching r = {c, MTBAL_NO_TASK};
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            r.tasks = mtbal_set_union(c->sets, r.tasks, c->reach[node->out[i]->id]);
    if (r.tasks < 0)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            c->reach[node->out[i]->id] = r.tasks;
    if (r.tasks == MTBAL_NO_TASK || is_stop(node))
        return MTBAL_OK;
    MTBAL_TRY(add_to_operands(node, &r));
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            MTBAL_TRY(mtbal_graph_walk(a->g, add_to_operands, &r));
    return MTBAL_OK;
}

mtbal_status mtbal_spread_reach(mtbal_context *c)
{
    c->nreach = c->model->nvalues;
    c->reach = mtbal_arena_array(c->model->arena, (size_t)c->nreach, sizeof *c->reach);
    c->sets = mtbal_sets_new(c->model->arena, c->ntasks);
    if (!c->reach || !c->sets)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++) {
        reaching r = {c, mtbal_set_of_task(t)};
        MTBAL_TRY(add_tasks(&r, c->tasks[t].loss));
    }
    for (mtbal_node *node = c->graph->last; node; node = node->prev)
        MTBAL_TRY(spread_from(c, node));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ forward: dependence */

typedef struct seek_operands {
    const bool *depends;
    bool found;
} seek_operands;

static mtbal_status seek(mtbal_node *node, void *context)
{
    seek_operands *s = context;
    unsigned settings_of_node = mtbal_settings_of(node);
    for (int i = 0; i < node->nin; i++)
        s->found = s->found ||
                   (node->in[i] && carries(settings_of_node, i) && s->depends[node->in[i]->id]);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            s->found = s->found || s->depends[a->g->outputs[i]->id];
    return MTBAL_OK;
}

static bool may_be_float(const mtbal_value *v)
{
    return mtbal_dtype_is_float(v->type.dtype) || v->type.dtype == MTBAL_UNDEFINED;
}

mtbal_status mtbal_spread_dependence(mtbal_context *c)
{
    c->depends = mtbal_arena_array(c->model->arena, (size_t)c->nreach, sizeof *c->depends);
    if (!c->depends)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < c->nparams; i++)
        c->depends[c->params[i].value->id] = true;
    for (mtbal_node *node = c->graph->first; node; node = node->next) {
        seek_operands s = {c->depends, false};
        if (is_stop(node))
            continue;
        seek(node, &s);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                mtbal_graph_walk(a->g, seek, &s);
        for (int i = 0; i < node->nout && s.found; i++)
            if (node->out[i] && may_be_float(node->out[i]))
                c->depends[node->out[i]->id] = true;
    }
    return MTBAL_OK;
}
