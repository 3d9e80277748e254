/* passes/differentiate.c: reverse mode. Cotangents flow from the seeds to what is wanted, each
 * node's rule once. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <assert.h>
#include <string.h>

/* Adds a contribution to a value's cotangent. */
static void accumulate(mtbal_sweep *s, mtbal_value *value, mtbal_value *part)
{
    mtbal_value **slot = &s->cotangent[value->id];
    *slot = *slot ? mtbal_emit(s->b, "Add", *slot, part) : part;
}

static bool wants(const mtbal_sweep *s, const mtbal_value *value)
{
    return value && value->id < s->nvalues && s->active[value->id];
}

/* All nodes that cannot be crossed, in one message. */
static void add_blocked(mtbal_diag *all, int *count, const mtbal_node *node, const char *why)
{
    size_t n = strlen(all->what);
    if (++*count > 20 || n + 200 > sizeof all->what)
        return;
    snprintf(all->what + n, sizeof all->what - n, "%s%s%s%s (%s)%s%.300s", n ? "; " : "",
             node->domain, *node->domain ? "." : "", node->op,
             *node->name                  ? node->name
             : node->nout && node->out[0] ? node->out[0]->name
                                          : "?",
             why ? ": " : "", why ? why : "");
}

/* Runs the rule of one node and adds what it gives to its inputs' cotangents. */
static mtbal_status cross(mtbal_sweep *s, mtbal_node *node, mtbal_gradient_fn *rule,
                          mtbal_diag *diag)
{
    mtbal_arena *arena = s->graph->model->arena;
    mtbal_gradient g = {.sweep = s,
                        .b = s->b,
                        .node = node,
                        .nx = node->nin,
                        .ny = node->nout,
                        .x = node->in,
                        .y = node->out,
                        .diag = diag};
    bool *need = mtbal_arena_array(arena, (size_t)g.nx, sizeof *need);
    g.dx = mtbal_arena_array(arena, (size_t)g.nx, sizeof *g.dx);
    g.dy = mtbal_arena_array(arena, (size_t)g.ny + 1, sizeof *g.dy);
    if (!need || !g.dx || !g.dy)
        return mtbal_no_memory(diag);
    for (int i = 0; i < g.nx; i++)
        need[i] = wants(s, g.x[i]);
    for (int i = 0; i < g.ny; i++)
        g.dy[i] = g.y[i] && g.y[i]->id < s->nvalues ? s->cotangent[g.y[i]->id] : NULL;
    g.need = need;
    if (!g.dy[0] && g.ny == 1)
        return MTBAL_OK;
    MTBAL_TRY(rule(&g));
    for (int i = 0; i < g.nx; i++)
        if (need[i] && g.dx[i]) {
            mtbal_value *part = mtbal_emit_sum_to(s->b, g.dx[i], g.x[i]);
            if (part && part != s->cotangent[g.x[i]->id] && part->type.rank < 0)
                part->type = g.x[i]->type;
            accumulate(s, g.x[i], part);
        }
    return s->b->status;
}

/* Nodes behind `before`: which values depend on those marked. */
static void mark_dependent(mtbal_node *first, bool *active, int n)
{
    for (mtbal_node *node = first; node; node = node->next) {
        bool any = mtbal_reads(node, active, n);
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                active[node->out[i]->id] = any && mtbal_dtype_is_float(node->out[i]->type.dtype);
    }
}

/* From the results y of the nodes behind `before` to the operands that are wanted. */
static mtbal_status cross_written(mtbal_gradient *g, mtbal_node *before, mtbal_value *const *y,
                                  mtbal_sweep *s, bool *active)
{
    mtbal_graph *graph = g->b->graph;
    for (int i = 0; i < g->nx; i++)
        if (g->need[i])
            active[g->x[i]->id] = true;
    mark_dependent(before ? before->next : graph->first, active, s->nvalues);
    for (int i = 0; i < g->ny; i++)
        if (y[i] && g->dy[i] && active[y[i]->id])
            accumulate(s, y[i], g->dy[i]);
    for (mtbal_node *node = graph->last, *prev; node != before; node = prev) {
        bool stop;
        prev = node->prev;
        mtbal_gradient_fn *rule = mtbal_gradient_rule(node->opcode, &stop);
        if (stop || !mtbal_reads(node, active, s->nvalues))
            continue;
        assert(rule && "an operator is written out in those that have a rule");
        MTBAL_TRY(cross(s, node, rule, g->diag));
    }
    for (int i = 0; i < g->nx; i++)
        if (g->need[i]) {
            g->dx[i] = s->cotangent[g->x[i]->id];
            s->cotangent[g->x[i]->id] = NULL; /* an operand that is given twice */
        }
    return MTBAL_OK;
}

/* What the node computes is emitted once more, in simpler operators, and those are differentiated.
 * The node itself stays as it is; what nobody uses of the formula is removed as dead. */
mtbal_status mtbal_rule_decomposed(mtbal_gradient *g)
{
    mtbal_model *model = g->b->graph->model;
    mtbal_node *before = g->b->graph->last;
    int first = model->nvalues;
    mtbal_value **y = mtbal_arena_array(model->arena, (size_t)g->ny, sizeof(mtbal_value *));
    if (!y)
        return mtbal_no_memory(g->diag);
    const char *why = mtbal_decompose(g->b, g->node, y);
    MTBAL_TRY(g->b->status);
    if (why)
        return mtbal_fail(g->diag, MTBAL_UNSUPPORTED, g->node->name, NULL, "%s", why);
    mtbal_tables *t = mtbal_tables_take(g->sweep->tables, model->nvalues);
    if (!t)
        return mtbal_no_memory(g->diag);
    mtbal_sweep s = {.graph = g->b->graph,
                     .b = g->b,
                     .nvalues = model->nvalues,
                     .active = t->marked,
                     .cotangent = t->value,
                     .tables = g->sweep->tables};
    mtbal_status status = cross_written(g, before, y, &s, t->marked);
    for (int i = 0; i < g->nx; i++)
        mtbal_tables_clear(t, g->x[i]);
    mtbal_tables_give(g->sweep->tables, t, first, s.nvalues);
    return status;
}

static bool is_reached(const mtbal_sweep *s, const mtbal_node *node)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && node->out[i]->id < s->nvalues && s->cotangent[node->out[i]->id])
            return true;
    return false;
}

/* Crosses a node that a cotangent has reached; `blocked` collects those that cannot be. */
static mtbal_status visit(mtbal_sweep *s, mtbal_node *node, mtbal_diag *blocked, int *count)
{
    bool stop = false;
    if (!is_reached(s, node) || !mtbal_reads(node, s->active, s->nvalues))
        return MTBAL_OK;
    mtbal_gradient_fn *rule = mtbal_gradient_rule(node->opcode, &stop);
    if (stop)
        return MTBAL_OK;
    mtbal_diag one = {0};
    mtbal_status status = rule ? cross(s, node, rule, &one) : MTBAL_UNSUPPORTED;
    if (status == MTBAL_UNSUPPORTED && s->refuse)
        return s->refuse(node, rule ? one.what : NULL, s->context);
    if (status == MTBAL_UNSUPPORTED)
        add_blocked(blocked, count, node, rule ? one.what : NULL);
    else if (status != MTBAL_OK)
        return one.status ? mtbal_fail(s->b->diag, status, one.where, one.hint, "%s", one.what)
                          : status;
    return MTBAL_OK;
}

static mtbal_status sweep(mtbal_sweep *s)
{
    mtbal_diag blocked = {0};
    int count = 0;
    for (int i = 0; s->nodes && i < s->nnodes; i++)
        MTBAL_TRY(visit(s, s->nodes[i], &blocked, &count));
    for (mtbal_node *node = s->nodes ? NULL : s->graph->last, *prev; node; node = prev) {
        prev = node->prev;
        MTBAL_TRY(visit(s, node, &blocked, &count));
    }
    if (count)
        return mtbal_fail(s->b->diag, MTBAL_UNSUPPORTED, s->graph->model->path,
                          "freeze the parameters before these nodes (--freeze), or write the model "
                          "with other operators",
                          "%d node%s cannot be differentiated: %s", count, count > 1 ? "s" : "",
                          blocked.what);
    return s->b->status;
}

mtbal_status mtbal_differentiate(mtbal_sweep *s)
{
    mtbal_tables *pool = NULL;
    if (s->tables)
        return sweep(s);
    s->tables = &pool;
    mtbal_status status = sweep(s);
    s->tables = NULL;
    mtbal_tables_free(pool);
    return status;
}
