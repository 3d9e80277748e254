/* passes/differentiate.c: reverse mode. Cotangents flow from the seeds to what is wanted, each
 * node's rule once. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

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
    mtbal_gradient g = {.b = s->b,
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

mtbal_status mtbal_differentiate(mtbal_sweep *s)
{
    mtbal_diag blocked = {0};
    int count = 0;
    for (mtbal_node *node = s->graph->last, *prev; node; node = prev) {
        bool reached = false, stop = false;
        prev = node->prev;
        for (int i = 0; i < node->nout; i++)
            reached = reached || (node->out[i] && node->out[i]->id < s->nvalues &&
                                  s->cotangent[node->out[i]->id]);
        if (!reached || !mtbal_reads(node, s->active, s->nvalues) ||
            (s->inside && !s->inside(node, s->context)))
            continue;
        mtbal_gradient_fn *rule = mtbal_gradient_rule(node->opcode, &stop);
        if (stop)
            continue;
        mtbal_diag one = {0};
        bool branches = mtbal_node_is(node, "If");
        mtbal_status status = branches ? mtbal_cross_if(s, node, &one)
                              : rule   ? cross(s, node, rule, &one)
                                       : MTBAL_UNSUPPORTED;
        if (status == MTBAL_UNSUPPORTED && s->refuse)
            MTBAL_TRY(s->refuse(node, rule || branches ? one.what : NULL, s->context));
        else if (status == MTBAL_UNSUPPORTED)
            add_blocked(&blocked, &count, node, rule || branches ? one.what : NULL);
        else if (status != MTBAL_OK)
            return one.status ? mtbal_fail(s->b->diag, status, one.where, one.hint, "%s", one.what)
                              : status;
    }
    if (count)
        return mtbal_fail(s->b->diag, MTBAL_UNSUPPORTED, s->graph->model->path,
                          "freeze the parameters before these nodes (--freeze), or write the model "
                          "with other operators",
                          "%d node%s cannot be differentiated: %s", count, count > 1 ? "s" : "",
                          blocked.what);
    return s->b->status;
}
