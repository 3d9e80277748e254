/* passes/backward.c: one backward for all tasks.
 *
 * A value reaches a set of tasks. Where it is one task, the value belongs to that task's head: its
 * cotangent is computed once, for the unweighted loss. Where a head leaves the trunk - a node that
 * reaches one task reads a value that reaches several - the cotangent is multiplied by the task's
 * weight and joins the others: from there on one sweep carries sum_i w_i dL_i. Measuring (gram.c)
 * goes on from the same places, unweighted, task by task. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <string.h>

static uint64_t reach_of(const mtbal_context *c, const mtbal_value *v)
{
    return v && v->id < c->nreach ? c->reach[v->id] : 0;
}

/* What a node's outputs reach: all of them the same (reach.c). */
static uint64_t node_reach(const mtbal_context *c, const mtbal_node *node)
{
    uint64_t reach = 0;
    for (int i = 0; i < node->nout; i++)
        reach |= reach_of(c, node->out[i]);
    return reach;
}

/* ------------------------------------------------------------------ nodes that block */

/* The tasks that a node blocks: those that it reaches, and `reach`, of a node of ours, which
 * reaches nothing itself. */
static void add_blocker(const mtbal_context *c, mtbal_blockers *s, mtbal_node *node, uint64_t reach,
                        const char *why)
{
    char tasks[160] = "";
    size_t used = 0;
    reach |= node_reach(c, node);
    for (int i = 0; i < c->ntasks && used + 4 < sizeof tasks; i++)
        if (reach >> i & 1)
            used += (size_t)snprintf(tasks + used, sizeof tasks - used, "%s%s", used ? ", " : "",
                                     c->tasks[i].name);
    mtbal_blockers_add(s, node, why, tasks);
}

static mtbal_status fail_blocked(const mtbal_context *c, const mtbal_blockers *s)
{
    return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, c->model->path,
                      "--freeze the parameters before these nodes, or write the model with other "
                      "operators",
                      "%d node%s on the way from a loss to a parameter cannot be "
                      "differentiated:%s",
                      s->count, s->count > 1 ? "s" : "", s->text);
}

/* ------------------------------------------------------------------ sweeps */

/* Where a sweep runs: the head of one task (the nodes that reach it alone), or the trunk. */
typedef struct region {
    const mtbal_context *c;
    uint64_t task; /* 0: the trunk */
    mtbal_blockers *blocked;
} region;

static bool in_region(const mtbal_node *node, void *context)
{
    const region *r = context;
    uint64_t reach = node_reach(r->c, node);
    return r->task ? reach == r->task : !mtbal_is_single(reach);
}

static mtbal_status refuse(mtbal_node *node, const char *why, void *context)
{
    const region *r = context;
    add_blocker(r->c, r->blocked, node, r->task, why);
    return MTBAL_OK;
}

static mtbal_status sweep(const mtbal_context *c, mtbal_value **cotangent, uint64_t task,
                          mtbal_builder *b, mtbal_blockers *blocked)
{
    const mtbal_cotangents *s = c->scratch;
    region r = {c, task, blocked};
    mtbal_sweep sweep = {.graph = c->graph,
                         .b = b,
                         .nvalues = s->n,
                         .cotangent = cotangent,
                         .active = s->active,
                         .inside = in_region,
                         .refuse = blocked ? refuse : NULL,
                         .context = &r};
    return mtbal_differentiate(&sweep);
}

/* The head of one task: unweighted cotangents, from dL/dL = 1. */
static mtbal_status head(mtbal_context *c, int task, mtbal_blockers *blocked)
{
    mtbal_cotangents *s = c->scratch;
    mtbal_builder b;
    const mtbal_value *loss = c->tasks[task].loss;
    s->own[task] = mtbal_arena_array(c->model->arena, (size_t)s->n, sizeof(mtbal_value *));
    if (!s->own[task])
        return mtbal_no_memory(c->diag);
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", c->tasks[task].name);
    s->own[task][loss->id] = mtbal_emit_fill_like(&b, c->tasks[task].loss, 1);
    MTBAL_TRY(b.status);
    return sweep(c, s->own[task], (uint64_t)1 << task, &b, blocked);
}

/* Weighted cotangents of all heads meet where those leave the trunk. */
static mtbal_status join_heads(mtbal_context *c, mtbal_builder *b)
{
    mtbal_cotangents *s = c->scratch;
    for (int id = 0; id < s->n; id++)
        for (int t = 0; t < c->ntasks; t++) {
            mtbal_value *x = s->own[t][id];
            if (x && mtbal_is_single(c->reach[id])) {
                s->main[id] = x;
            } else if (x) {
                b->task = c->tasks[t].name;
                mtbal_value *part = mtbal_weigh(c, b, t, x);
                b->task = NULL;
                if (part)
                    s->main[id] = s->main[id] ? mtbal_emit(b, "Add", s->main[id], part) : part;
            }
        }
    return b->status;
}

static int task_of(uint64_t reach)
{
    int task = 0;
    while (!(reach >> task & 1))
        task++;
    return task;
}

/* Gradients of the balanced total. Those of a head are weighted here (--apply loss), or not
 * (--apply shared). */
static mtbal_status parameter_gradients(mtbal_context *c, mtbal_builder *b)
{
    const mtbal_cotangents *s = c->scratch;
    bool everywhere = !strcmp(c->options->apply, "loss");
    c->gradients = mtbal_arena_array(c->model->arena, (size_t)c->nparams, sizeof *c->gradients);
    if (!c->gradients)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        mtbal_value *v = c->params[p].value, *g = s->main[v->id];
        if (g && mtbal_is_single(c->params[p].reach) && everywhere)
            g = mtbal_weigh(c, b, task_of(c->params[p].reach), g);
        c->gradients[p] = g ? g : mtbal_emit_fill_like(b, v, 0);
        if (c->gradients[p])
            c->gradients[p]->type = v->type;
    }
    return b->status;
}

static mtbal_status new_cotangents(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    mtbal_cotangents *s = mtbal_arena_alloc(arena, sizeof *s);
    size_t n = (size_t)c->nreach;
    if (!s)
        return mtbal_no_memory(c->diag);
    s->n = c->nreach;
    s->active = mtbal_arena_array(arena, n, sizeof *s->active);
    s->main = mtbal_arena_array(arena, n, sizeof *s->main);
    s->own = mtbal_arena_array(arena, (size_t)c->ntasks, sizeof *s->own);
    if (!s->active || !s->main || !s->own)
        return mtbal_no_memory(c->diag);
    for (size_t i = 0; i < n; i++)
        s->active[i] = c->depends[i] && c->reach[i];
    c->scratch = s;
    return MTBAL_OK;
}

mtbal_status mtbal_pass_backward(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_blockers blocked = {0};
    if (strcmp(c->options->apply, "loss") && strcmp(c->options->apply, "shared"))
        return mtbal_fail(c->diag, MTBAL_USAGE, "--apply", "choose from loss, shared",
                          "weights cannot be applied to '%s'", c->options->apply);
    MTBAL_TRY(new_cotangents(c));
    mtbal_cotangents *s = c->scratch;
    mtbal_blockers_clear(c->graph);
    for (int t = 0; t < c->ntasks; t++)
        MTBAL_TRY(head(c, t, &blocked));
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", NULL);
    MTBAL_TRY(join_heads(c, &b));
    MTBAL_TRY(sweep(c, s->main, 0, &b, &blocked));
    /* Nodes without a rule stand behind others, too: cotangents never get there. */
    for (mtbal_node *node = c->graph->first; node; node = node->next)
        if (mtbal_lacks_rule(node, s->active, c->nreach))
            add_blocker(c, &blocked, node, 0, NULL);
    return blocked.count ? fail_blocked(c, &blocked) : parameter_gradients(c, &b);
}

mtbal_status mtbal_continue_task(mtbal_context *c, int task)
{
    mtbal_cotangents *s = c->scratch;
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", c->tasks[task].name);
    MTBAL_TRY(sweep(c, s->own[task], 0, &b, NULL));
    return b.status;
}
