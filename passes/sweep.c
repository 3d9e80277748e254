/* passes/sweep.c: the first stage of a step: back from each loss to where its head leaves the
 * trunk.
 *
 * A value reaches a set of tasks. Where it is one task, the value belongs to that task's head: its
 * cotangent is computed once, for the unweighted loss. A head leaves the trunk where a node that
 * reaches one task reads a value that reaches several: the cotangents there are kept, task by task.
 * From there on combine.c carries sum_i w_i dL_i in one sweep, and measure.c goes on task by task.
 */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <stdlib.h>
#include <string.h>

/* What a node's outputs reach: all of them the same (reach.c). */
static mtbal_set node_reach(const mtbal_context *c, const mtbal_node *node)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            return node->out[i]->id < c->nreach ? c->reach[node->out[i]->id] : MTBAL_NO_TASK;
    return MTBAL_NO_TASK;
}

/* ------------------------------------------------------------------ nodes that block */

/* The tasks that a node blocks: those that it reaches, and `task` (-1: none), of a node of ours,
 * which reaches nothing itself. */
static void add_blocker(const mtbal_context *c, mtbal_node *node, int task, const char *why)
{
    char tasks[160] = "";
    size_t used = 0;
    mtbal_set reach = node_reach(c, node);
    for (int i = 0; i < c->ntasks && used + 4 < sizeof tasks; i++)
        if (i == task || mtbal_set_has(c->sets, reach, i))
            used += (size_t)snprintf(tasks + used, sizeof tasks - used, "%s%s", used ? ", " : "",
                                     c->tasks[i].name);
    mtbal_blockers_add(&c->swept->blocked, node, why, tasks);
}

mtbal_status mtbal_check_blocked(mtbal_context *c)
{
    const mtbal_swept *s = c->swept;
    const mtbal_blockers *blocked = &s->blocked;
    /* Nodes without a rule stand behind others, too: cotangents never get there. */
    for (mtbal_node *node = c->graph->first; node; node = node->next)
        if (mtbal_lacks_rule(node, s->active, c->nreach))
            add_blocker(c, node, -1, NULL);
    return blocked->count ? mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path,
                                       "--freeze the parameters before these nodes, or write the "
                                       "model with other operators",
                                       "%d node%s on the way from a loss to a parameter cannot be "
                                       "differentiated:%s",
                                       blocked->count, blocked->count > 1 ? "s" : "", blocked->text)
                          : MTBAL_OK;
}

typedef struct refusal {
    const mtbal_context *c;
    int task; /* -1: the trunk's */
} refusal;

static mtbal_status refuse(mtbal_node *node, const char *why, void *context)
{
    const refusal *r = context;
    add_blocker(r->c, node, r->task, why);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ heads and trunk */

/* Nodes of each head, and those of the trunk, last first: node[first[t]] and on of task t,
 * node[first[ntasks]] and on of the trunk. */
typedef struct regions {
    int *first; /* [ntasks + 2] */
    mtbal_node **node;
} regions;

static int region_of(const mtbal_context *c, const mtbal_node *node)
{
    mtbal_set reach = node_reach(c, node);
    return reach == MTBAL_NO_TASK ? -1 : mtbal_is_shared(c, reach) ? c->ntasks : reach - 1;
}

static mtbal_status find_regions(const mtbal_context *c, regions *r)
{
    int *first = mtbal_arena_array(c->model->arena, (size_t)c->ntasks + 2, sizeof *first), region;
    if (!first)
        return mtbal_no_memory(c->diag);
    for (mtbal_node *node = c->graph->last; node; node = node->prev)
        if ((region = region_of(c, node)) >= 0)
            first[region + 1]++;
    for (int t = 0; t <= c->ntasks; t++)
        first[t + 1] += first[t];
    int *next = mtbal_arena_copy(c->model->arena, first, ((size_t)c->ntasks + 2) * sizeof *next);
    r->first = first;
    r->node = mtbal_arena_array(c->model->arena, (size_t)first[c->ntasks + 1], sizeof *r->node);
    if (!next || !r->node)
        return mtbal_no_memory(c->diag);
    for (mtbal_node *node = c->graph->last; node; node = node->prev)
        if ((region = region_of(c, node)) >= 0)
            r->node[next[region]++] = node;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ sweeps */

/* Through the nodes given, last first. */
static mtbal_status sweep(const mtbal_context *c, mtbal_value **cotangent, int task, int nnodes,
                          mtbal_node *const *nodes, mtbal_builder *b)
{
    const mtbal_swept *s = c->swept;
    refusal r = {c, task};
    mtbal_sweep sweep = {.graph = c->graph,
                         .b = b,
                         .nvalues = s->n,
                         .cotangent = cotangent,
                         .active = s->active,
                         .nnodes = nnodes,
                         .nodes = nodes,
                         .refuse = refuse,
                         .context = &r};
    return mtbal_differentiate(&sweep);
}

mtbal_status mtbal_sweep_trunk(mtbal_context *c, mtbal_value **cotangent, mtbal_builder *b)
{
    return sweep(c, cotangent, -1, c->swept->ntrunk, c->swept->trunk, b);
}

typedef struct leaver {
    mtbal_context *c;
    int task;
} leaver;

/* The cotangent of a value of the trunk: from the table, where the next task comes, to the list. */
static mtbal_status take(const leaver *l, const mtbal_value *v)
{
    mtbal_context *c = l->c;
    mtbal_swept *s = c->swept;
    if (!v || v->id >= s->n || !s->main[v->id] || !mtbal_is_shared(c, c->reach[v->id]))
        return MTBAL_OK;
    if (!(s->nleaving & (s->nleaving - 1))) { /* full at powers of two */
        mtbal_leaving *longer = mtbal_arena_array(
            c->model->arena, s->nleaving ? 2 * (size_t)s->nleaving : 1, sizeof *longer);
        if (!longer)
            return mtbal_no_memory(c->diag);
        if (s->nleaving)
            memcpy(longer, s->leaving, (size_t)s->nleaving * sizeof *longer);
        s->leaving = longer;
    }
    s->leaving[s->nleaving++] = (mtbal_leaving){l->task, v->id, s->main[v->id]};
    s->main[v->id] = NULL;
    return MTBAL_OK;
}

static mtbal_status take_operands(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nin; i++)
        MTBAL_TRY(take(context, node->in[i]));
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            MTBAL_TRY(take(context, a->g->outputs[i]));
    return MTBAL_OK;
}

static int by_value(const void *x, const void *y)
{
    const mtbal_leaving *a = x, *b = y;
    return (a->value > b->value) - (a->value < b->value);
}

/* The head of one task: unweighted cotangents, from dL/dL = 1. */
static mtbal_status head(mtbal_context *c, int task, const regions *r)
{
    mtbal_swept *s = c->swept;
    mtbal_builder b;
    mtbal_value *loss = c->tasks[task].loss;
    mtbal_node **nodes = r->node + r->first[task];
    int nnodes = r->first[task + 1] - r->first[task];
    leaver l = {c, task};
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", c->tasks[task].name);
    s->main[loss->id] = mtbal_emit_fill_like(&b, loss, 1);
    MTBAL_TRY(b.status);
    MTBAL_TRY(sweep(c, s->main, task, nnodes, nodes, &b));
    s->first[task] = s->nleaving;
    MTBAL_TRY(take(&l, loss));
    for (int i = 0; i < nnodes; i++) {
        MTBAL_TRY(take_operands(nodes[i], &l));
        for (mtbal_attr *a = nodes[i]->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, take_operands, &l));
    }
    s->first[task + 1] = s->nleaving;
    if (s->nleaving > s->first[task])
        qsort(s->leaving + s->first[task], (size_t)(s->nleaving - s->first[task]),
              sizeof *s->leaving, by_value);
    return MTBAL_OK;
}

mtbal_status mtbal_pass_sweep(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    size_t n = (size_t)c->nreach;
    mtbal_swept *s = c->swept = mtbal_arena_alloc(arena, sizeof *s);
    regions r = {0};
    if (!s)
        return mtbal_no_memory(c->diag);
    s->n = c->nreach;
    s->active = mtbal_arena_array(arena, n, sizeof *s->active);
    s->main = mtbal_arena_array(arena, n, sizeof *s->main);
    s->first = mtbal_arena_array(arena, (size_t)c->ntasks + 1, sizeof *s->first);
    if (!s->active || !s->main || !s->first)
        return mtbal_no_memory(c->diag);
    for (size_t i = 0; i < n; i++)
        s->active[i] = c->depends[i] && c->reach[i] != MTBAL_NO_TASK;
    MTBAL_TRY(find_regions(c, &r));
    s->trunk = r.node + r.first[c->ntasks];
    s->ntrunk = r.first[c->ntasks + 1] - r.first[c->ntasks];
    mtbal_blockers_clear(c->graph);
    for (int t = 0; t < c->ntasks; t++)
        MTBAL_TRY(head(c, t, &r));
    return MTBAL_OK;
}

mtbal_status mtbal_continue_task(mtbal_context *c, int task, mtbal_value **cotangent)
{
    const mtbal_swept *s = c->swept;
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", c->tasks[task].name);
    for (int i = s->first[task]; i < s->first[task + 1]; i++)
        cotangent[s->leaving[i].value] = s->leaving[i].cotangent;
    return mtbal_sweep_trunk(c, cotangent, &b);
}
