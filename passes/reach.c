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

typedef struct mask_operands {
    uint64_t *reach;
    uint64_t mask;
} mask_operands;

static mtbal_status add_mask(mtbal_node *node, void *context)
{
    const mask_operands *m = context;
    unsigned settings_of_node = mtbal_settings_of(node);
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && carries(settings_of_node, i))
            m->reach[node->in[i]->id] |= m->mask;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            m->reach[a->g->outputs[i]->id] |= m->mask;
    return MTBAL_OK;
}

/* All outputs of a node reach what any of them does. So a node belongs to one head or to the trunk,
 * as a whole: what leaves a Split of the trunk towards one head is still the trunk's. */
static void spread_reach(mtbal_context *c)
{
    for (int i = 0; i < c->ntasks; i++)
        c->reach[c->tasks[i].loss->id] |= (uint64_t)1 << i;
    for (mtbal_node *node = c->graph->last; node; node = node->prev) {
        mask_operands m = {c->reach, 0};
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                m.mask |= c->reach[node->out[i]->id];
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                c->reach[node->out[i]->id] = m.mask;
        if (!m.mask || is_stop(node))
            continue;
        add_mask(node, &m);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                mtbal_graph_walk(a->g, add_mask, &m);
    }
}

mtbal_status mtbal_spread_reach(mtbal_context *c)
{
    c->nreach = c->model->nvalues;
    c->reach = mtbal_arena_array(c->model->arena, (size_t)c->nreach, sizeof *c->reach);
    if (!c->reach)
        return mtbal_no_memory(c->diag);
    spread_reach(c);
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
