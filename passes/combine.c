/* passes/combine.c: the fourth stage of a step: the gradient of the balanced total. The gradient is
 * linear in the loss: weighted cotangents of all heads meet where those leave the trunk, and one
 * sweep carries sum_i w_i dL_i through it. */
#include "passes/internal.h"

#include <stdlib.h>
#include <string.h>

static int by_value_and_task(const void *x, const void *y)
{
    const mtbal_leaving *a = x, *b = y;
    return a->value != b->value ? (a->value > b->value) - (a->value < b->value)
                                : (a->task > b->task) - (a->task < b->task);
}

/* Weighted cotangents of all heads meet where those leave the trunk. */
static mtbal_status join_heads(mtbal_context *c, mtbal_builder *b)
{
    const mtbal_swept *s = c->swept;
    size_t n = (size_t)s->nleaving;
    mtbal_leaving *all = mtbal_arena_array(c->model->arena, n + 1, sizeof *all);
    if (!all)
        return mtbal_no_memory(c->diag);
    if (n) {
        memcpy(all, s->leaving, n * sizeof *all);
        qsort(all, n, sizeof *all, by_value_and_task);
    }
    for (size_t i = 0; i < n; i++) {
        mtbal_value **sum = &s->main[all[i].value];
        b->task = c->tasks[all[i].task].name;
        mtbal_value *part = mtbal_weigh(c, b, all[i].task, all[i].cotangent);
        b->task = NULL;
        if (part)
            *sum = *sum ? mtbal_emit(b, "Add", *sum, part) : part;
    }
    return b->status;
}

/* Gradients of the balanced total. Those of a head are weighted here (--apply loss), or not
 * (--apply shared). */
static mtbal_status parameter_gradients(mtbal_context *c, mtbal_builder *b)
{
    bool everywhere = !strcmp(c->options->apply, "loss");
    c->gradients = mtbal_arena_array(c->model->arena, (size_t)c->nparams, sizeof *c->gradients);
    if (!c->gradients)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        mtbal_value *v = c->params[p].value, *g = c->swept->main[v->id];
        int task = mtbal_only_task(c, c->params[p].reach);
        if (g && task >= 0 && everywhere)
            g = mtbal_weigh(c, b, task, g);
        c->gradients[p] = g ? g : mtbal_emit_fill_like(b, v, 0);
        if (c->gradients[p])
            c->gradients[p]->type = v->type;
    }
    return b->status;
}

mtbal_status mtbal_pass_combine(mtbal_context *c)
{
    mtbal_builder b;
    if (strcmp(c->options->apply, "loss") && strcmp(c->options->apply, "shared"))
        return mtbal_fail(c->diag, MTBAL_USAGE, "--apply", "choose from loss, shared",
                          "weights cannot be applied to '%s'", c->options->apply);
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", NULL);
    MTBAL_TRY(join_heads(c, &b));
    MTBAL_TRY(mtbal_sweep_trunk(c, c->swept->main, &b));
    MTBAL_TRY(mtbal_check_blocked(c));
    return parameter_gradients(c, &b);
}
