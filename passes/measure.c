/* passes/measure.c: the second stage of a step: norms, Gram matrix and cosines of the task
 * gradients, and those gradients themselves. Everything hangs on what reads it, outputs or weights:
 * where nobody does, a runtime drops the sweeps of single tasks as well. */
#include "passes/internal.h"

#include <string.h>

static mtbal_status new_scope(mtbal_context *c, mtbal_scope *sc, int n)
{
    mtbal_arena *arena = c->model->arena;
    size_t total;
    if (!mtbal_mul_size((size_t)c->ntasks, (size_t)n, &total))
        return mtbal_no_memory(c->diag);
    sc->n = n;
    sc->vectors = mtbal_arena_array(arena, total, sizeof *sc->vectors);
    sc->products = mtbal_arena_array(arena, (size_t)n, sizeof *sc->products);
    return sc->vectors && sc->products ? MTBAL_OK : mtbal_no_memory(c->diag);
}

/* ------------------------------------------------------------------ features */

/* Activations that heads read from the trunk: where norms over features are taken. */
static mtbal_status feature_scope(mtbal_context *c, mtbal_scope *sc)
{
    const mtbal_swept *s = c->swept;
    mtbal_arena *arena = c->model->arena;
    int *column = mtbal_arena_array(arena, (size_t)s->n, sizeof *column), n = 0;
    if (!column)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < s->nleaving; i++)
        column[s->leaving[i].value] = 1;
    for (int p = 0; p < c->nparams; p++)
        column[c->params[p].value->id] = 0;
    for (int id = 0; id < s->n; id++)
        column[id] = column[id] ? ++n : 0; /* 1 more than it is */
    MTBAL_TRY(new_scope(c, sc, n));
    for (int i = 0; i < s->nleaving; i++) {
        const mtbal_leaving *l = &s->leaving[i];
        if (column[l->value])
            sc->vectors[(size_t)l->task * (size_t)n + (size_t)column[l->value] - 1] = l->cotangent;
    }
    return n ? MTBAL_OK
             : mtbal_notice_add(c, MTBAL_WARNING,
                                "no head leaves a trunk: norms over features are 0");
}

/* ------------------------------------------------------------------ parameters */

/* What the sweep of one task through the trunk has come to. */
static void keep_gradients(mtbal_context *c, int task, mtbal_value *const *cotangent)
{
    mtbal_measured *m = c->measured;
    for (int p = 0; p < c->nparams; p++) {
        int id = c->params[p].value->id;
        bool own = mtbal_only_task(c, c->params[p].reach) == task;
        m->task_gradients[(size_t)task * (size_t)c->nparams + (size_t)p] =
            own ? c->swept->main[id] : cotangent[id];
    }
    for (int p = 0; p < m->scope.n; p++)
        if (m->scope.products[p].x)
            m->scope.products[p].dy[task] = cotangent[m->scope.products[p].y->id];
}

/* The gradients of single tasks: the sweeps of all tasks, continued through the trunk. */
static mtbal_status task_gradients(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    size_t n = (size_t)c->swept->n, total;
    mtbal_value **cotangent = mtbal_arena_array(arena, n, sizeof *cotangent);
    if (!cotangent || !mtbal_mul_size((size_t)c->ntasks, (size_t)c->nparams, &total))
        return mtbal_no_memory(c->diag);
    c->measured->task_gradients = mtbal_arena_array(arena, total, sizeof(mtbal_value *));
    if (!c->measured->task_gradients)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++) {
        MTBAL_TRY(mtbal_continue_task(c, t, cotangent));
        keep_gradients(c, t, cotangent);
        memset(cotangent, 0, n * sizeof *cotangent);
    }
    return MTBAL_OK;
}

static void fill_scope(mtbal_context *c, mtbal_scope *sc)
{
    for (size_t t = 0; t < (size_t)c->ntasks; t++)
        for (size_t p = 0; p < (size_t)sc->n; p++)
            if (c->params[p].in_scope)
                sc->vectors[t * (size_t)sc->n + p] =
                    c->measured->task_gradients[t * (size_t)sc->n + p];
}

/* ------------------------------------------------------------------ norms and cosines */

/* Roots of the diagonal [K]. */
static mtbal_value *norms_of(mtbal_context *c, mtbal_builder *b, mtbal_value *gram)
{
    const int64_t all = -1;
    int64_t *diagonal = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *diagonal);
    if (!diagonal)
        b->status = mtbal_no_memory(c->diag);
    for (int i = 0; diagonal && i < c->ntasks; i++)
        diagonal[i] = (int64_t)i * (c->ntasks + 1);
    return mtbal_emit(b, "Sqrt",
                      mtbal_emit(b, "Gather",
                                 mtbal_emit_reshape(b, gram, mtbal_const_i64s(b, 1, &all)),
                                 mtbal_const_i64s(b, c->ntasks, diagonal)));
}

/* gram / (norms norms^T); 0 where a gradient is 0. */
static mtbal_value *cosines_of(mtbal_context *c, mtbal_builder *b, mtbal_value *gram,
                               mtbal_value *norms)
{
    mtbal_dtype dtype = mtbal_float_type(c);
    const int64_t column[2] = {c->ntasks, 1};
    mtbal_value *products =
        mtbal_emit(b, "Mul", mtbal_emit_reshape(b, norms, mtbal_const_i64s(b, 2, column)), norms);
    mtbal_value *zero = mtbal_const_scalar(b, dtype, 0);
    mtbal_value *none = mtbal_emit(b, "Equal", products, zero);
    mtbal_value *safe = mtbal_emit(b, "Where", none, mtbal_const_scalar(b, dtype, 1), products);
    return mtbal_emit(b, "Where", none, zero, mtbal_emit(b, "Div", gram, safe));
}

/* ------------------------------------------------------------------ the pass */

static mtbal_status inner_products(mtbal_context *c)
{
    mtbal_measured *m = c->measured;
    mtbal_builder b;
    mtbal_pass_builder(c, &b, "mtbal/measure/", "gram", NULL);
    m->gram = mtbal_gram(c, &b, &m->scope);
    MTBAL_TRY(b.status);
    mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", NULL);
    m->norms = norms_of(c, &b, m->gram);
    m->cosines = cosines_of(c, &b, m->gram, m->norms);
    return b.status;
}

static mtbal_status find_tasks_in_scope(mtbal_context *c)
{
    mtbal_measured *m = c->measured;
    m->in_scope = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *m->in_scope);
    if (!m->in_scope)
        return mtbal_no_memory(c->diag);
    for (size_t t = 0; t < (size_t)c->ntasks; t++)
        for (size_t k = 0; k < (size_t)m->scope.n; k++)
            m->in_scope[t] = m->in_scope[t] || m->scope.vectors[t * (size_t)m->scope.n + k];
    return MTBAL_OK;
}

mtbal_status mtbal_pass_measure(mtbal_context *c)
{
    mtbal_measured *m = c->measured = mtbal_arena_alloc(c->model->arena, sizeof *m);
    unsigned want = c->options->outputs;
    bool features = !strcmp(c->options->norm_over, "features");
    if (!m)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(mtbal_find_method(c));
    m->decides =
        c->method->reads & (MTBAL_READS_NORMS | MTBAL_READS_COSINES) || c->options->clip_task > 0;
    bool gram = m->decides || want & (MTBAL_OUT_NORMS | MTBAL_OUT_GRAM);
    if (gram && features)
        MTBAL_TRY(feature_scope(c, &m->scope));
    if (gram && !features) {
        MTBAL_TRY(new_scope(c, &m->scope, c->nparams));
        MTBAL_TRY(mtbal_find_products(c, &m->scope, m->decides));
    }
    if ((gram && !features) || want & MTBAL_OUT_TASK_GRADS)
        MTBAL_TRY(task_gradients(c));
    if (gram && !features)
        fill_scope(c, &m->scope);
    MTBAL_TRY(find_tasks_in_scope(c));
    return gram ? inner_products(c) : MTBAL_OK;
}
