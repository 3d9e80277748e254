/* passes/combine.c: the fourth stage of a step: the gradient of the balanced total. The gradient is
 * linear in the loss: weighted cotangents of all heads meet where those leave the trunk, and one
 * sweep carries sum_i w_i dL_i through it. Where the weights hang on the gradients of the tasks,
 * those exist already, and may be added up instead. */
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
        mtbal_value *part = mtbal_weigh(b, c->factors[all[i].task], all[i].cotangent);
        b->task = NULL;
        if (part)
            *sum = *sum ? mtbal_emit(b, "Add", *sum, part) : part;
    }
    return b->status;
}

/* ------------------------------------------------------------------ from the task gradients */

/* sum_i w_i x_i over the tasks that have x; x [ntasks], a row apart. */
static mtbal_value *weighted_sum(mtbal_context *c, mtbal_builder *b, mtbal_value *const *x,
                                 size_t row)
{
    mtbal_value *sum = NULL;
    for (int t = 0; t < c->ntasks; t++) {
        b->task = c->tasks[t].name;
        mtbal_value *part = mtbal_weigh(b, c->factors[t], x[(size_t)t * row]);
        b->task = NULL;
        if (part)
            sum = sum ? mtbal_emit(b, "Add", sum, part) : part;
    }
    return sum;
}

/* The gradient X^T dY of a factor W from the weighted sum of the dY: backward through the one node,
 * or two where W is transposed first. `wanted`: a table by value id, empty, and left so. */
static mtbal_status product_gradient(mtbal_context *c, mtbal_builder *b, const mtbal_product *p,
                                     int w, bool *wanted)
{
    mtbal_swept *s = c->swept;
    mtbal_node *node = p->y->def, *before = node->in[1]->def;
    mtbal_node *const nodes[] = {node, before};
    mtbal_sweep sweep = {.graph = c->graph,
                         .b = b,
                         .nvalues = s->n,
                         .cotangent = s->main,
                         .active = wanted,
                         .nnodes = before ? 2 : 1,
                         .nodes = nodes};
    wanted[w] = wanted[node->in[1]->id] = true;
    s->main[p->y->id] = weighted_sum(c, b, p->dy, 1);
    mtbal_status status = mtbal_differentiate(&sweep);
    wanted[w] = wanted[node->in[1]->id] = false;
    return status;
}

static mtbal_status combine_gradients(mtbal_context *c, mtbal_builder *b)
{
    const mtbal_measured *m = c->measured;
    bool *wanted = mtbal_arena_array(c->model->arena, (size_t)c->swept->n, sizeof *wanted);
    if (!wanted)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        int w = c->params[p].value->id;
        if (!mtbal_is_shared(c, c->params[p].reach))
            continue;
        if (m->scope.products[p].x)
            MTBAL_TRY(product_gradient(c, b, &m->scope.products[p], w, wanted));
        else
            c->swept->main[w] = weighted_sum(c, b, m->task_gradients + p, (size_t)c->nparams);
    }
    return b->status;
}

/* ------------------------------------------------------------------ which of the two */

/* Elements of a value; an axis of unknown size counts as a batch of 32. */
static double elements(const mtbal_value *v)
{
    double n = 1;
    for (int d = 0; v && d < v->type.rank; d++)
        n *= v->type.dims[d].size < 0 ? 32 : (double)v->type.dims[d].size;
    return n;
}

/* Multiplications of one backward through a node of the trunk: twice those of its forward. */
static double backward_cost(const mtbal_node *node)
{
    const mtbal_value *y = node->nout ? node->out[0] : NULL,
                      *w = node->nin > 1 ? node->in[1] : NULL;
    double inner = 1, columns;
    if (w && w->type.rank >= 2) {
        columns = (double)w->type.dims[w->type.rank - 1].size;
        if (mtbal_node_is(node, MTBAL_OP_conv))
            columns = (double)w->type.dims[0].size;
        if (mtbal_node_is(node, MTBAL_OP_gemm) && mtbal_attr_i(node, "transB", 0))
            columns = (double)w->type.dims[0].size;
        if (mtbal_node_is(node, MTBAL_OP_conv) || mtbal_node_is(node, MTBAL_OP_gemm) ||
            mtbal_node_is(node, MTBAL_OP_mat_mul))
            inner = 2 * elements(w) / (columns > 0 ? columns : 1);
    }
    return elements(y) * inner;
}

/* Weights that hang on the task gradients are known after the sweeps of single tasks: those are
 * combined, or one more sweep carries the weighted sum, whichever multiplies less. Where a shared
 * parameter is out of the scope, only the sweep reaches it. */
static bool combines(const mtbal_context *c)
{
    const mtbal_measured *m = c->measured;
    double sweep = 0, sums = 0;
    if (!m->decides || !m->task_gradients)
        return false;
    for (int i = 0; i < c->swept->ntrunk; i++)
        sweep += backward_cost(c->swept->trunk[i]);
    for (int p = 0; p < c->nparams; p++) {
        const mtbal_product *product = &m->scope.products[p];
        double tasks = mtbal_set_size(c->sets, c->params[p].reach);
        if (!mtbal_is_shared(c, c->params[p].reach))
            continue;
        if (!c->params[p].in_scope)
            return false;
        sums += product->x
                    ? (double)product->rows * (double)product->out * (tasks + (double)product->in)
                    : tasks * elements(c->params[p].value);
    }
    return sums < sweep;
}

/* ------------------------------------------------------------------ the pass */

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
            g = mtbal_weigh(b, c->factors[task], g);
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
    if (combines(c)) {
        MTBAL_TRY(mtbal_check_blocked(c));
        MTBAL_TRY(combine_gradients(c, &b));
        return parameter_gradients(c, &b);
    }
    MTBAL_TRY(join_heads(c, &b));
    MTBAL_TRY(mtbal_sweep_trunk(c, c->swept->main, &b));
    MTBAL_TRY(mtbal_check_blocked(c));
    return parameter_gradients(c, &b);
}
