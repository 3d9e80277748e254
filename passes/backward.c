/* passes/backward.c: one backward for all tasks, and beside it what measuring needs.
 *
 * A value reaches a set of tasks. Where it is one task, the value belongs to that task's head: its
 * cotangent is computed once, for the unweighted loss. Where a head leaves the trunk - a node that
 * reaches one task reads a value that reaches several - the cotangent is multiplied by the task's
 * weight and joins the others: from there on one sweep carries sum_i w_i dL_i. Measuring goes on
 * from the same places, unweighted, task by task. */
#include "passes/internal.h"

#include <string.h>

static bool single(uint64_t reach)
{
    return reach && !(reach & (reach - 1));
}

static uint64_t reach_of(const mtbal_context *c, const mtbal_value *v)
{
    return v->id < c->nreach ? c->reach[v->id] : 0;
}

/* What one node's outputs reach. */
static uint64_t node_reach(const mtbal_context *c, const mtbal_node *node)
{
    uint64_t reach = 0;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            reach |= reach_of(c, node->out[i]);
    return reach;
}

typedef struct region {
    const mtbal_context *c;
    uint64_t
        task; /* a head: nodes that reach this task only; 0: the trunk: nodes that reach several */
} region;

static bool in_region(const mtbal_node *node, void *context)
{
    const region *r = context;
    uint64_t reach = node_reach(r->c, node);
    return r->task ? reach == r->task : !single(reach);
}

typedef struct sweeps {
    mtbal_context *c;
    int n;        /* values at the start */
    bool *active; /* depends on a parameter and reaches a task */
    mtbal_value *
        *main; /* cotangents of the balanced total in the trunk; of the unweighted loss in heads */
    mtbal_value **
        *own; /* [ntasks] cotangents of the unweighted loss at the frontier, later in the trunk */
} sweeps;

static mtbal_status sweep(sweeps *s, mtbal_value **cotangent, uint64_t task, mtbal_builder *b)
{
    region r = {s->c, task};
    mtbal_sweep sweep = {.graph = s->c->graph,
                         .b = b,
                         .nvalues = s->n,
                         .cotangent = cotangent,
                         .active = s->active,
                         .inside = in_region,
                         .context = &r};
    return mtbal_differentiate(&sweep);
}

/* w x, and 0 (not NaN) where the task is switched off. */
static mtbal_value *weigh(mtbal_context *c, mtbal_builder *b, int task, mtbal_value *x)
{
    if (!x)
        return NULL;
    mtbal_value *w = mtbal_emit_cast(b, c->weights[task], x->type.dtype);
    if (!mtbal_weights_guarded(c))
        return w && w->tensor && w->tensor->data && mtbal_tensor_f64(w->tensor, 0) == 1
                   ? x
                   : mtbal_emit(b, "Mul", x, w);
    mtbal_value *zero = mtbal_const_scalar(b, x->type.dtype, 0);
    mtbal_value *on = mtbal_emit(b, "Greater", w, zero);
    return mtbal_emit(b, "Mul", mtbal_emit(b, "Where", on, x, zero), w);
}

/* The head of one task: unweighted cotangents, from dL/dL = 1. Afterwards own[task] holds those of
 * trunk values that the head reads, and main those within the head. */
static mtbal_status head(sweeps *s, int task)
{
    mtbal_context *c = s->c;
    mtbal_builder b;
    mtbal_value *loss = c->tasks[task].loss;
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", c->tasks[task].name);
    mtbal_value **cotangent = mtbal_arena_array(c->model->arena, (size_t)s->n, sizeof *cotangent);
    if (!cotangent)
        return mtbal_no_memory(c->diag);
    cotangent[loss->id] = mtbal_emit_fill_like(&b, loss, 1);
    MTBAL_TRY(sweep(s, cotangent, (uint64_t)1 << task, &b));
    s->own[task] = cotangent;
    return b.status;
}

/* Weighted cotangents of all heads meet at the frontier. */
static mtbal_status join_heads(sweeps *s, mtbal_builder *b)
{
    for (int id = 0; id < s->n; id++)
        for (int t = 0; t < s->c->ntasks; t++) {
            mtbal_value *x = s->own[t][id];
            bool frontier = x && !single(s->c->reach[id]);
            if (x && !frontier)
                s->main[id] = x; /* inside the head */
            else if (frontier) {
                mtbal_value *part = weigh(s->c, b, t, x);
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

static mtbal_status parameter_gradients(sweeps *s, mtbal_builder *b)
{
    mtbal_context *c = s->c;
    bool shared_only = !strcmp(c->options->apply, "shared");
    c->gradients = mtbal_arena_array(c->model->arena, (size_t)c->nparams + 1, sizeof *c->gradients);
    if (!c->gradients)
        return mtbal_no_memory(c->diag);
    for (int p = 0; p < c->nparams; p++) {
        mtbal_value *v = c->params[p].value, *g = s->main[v->id];
        if (g && single(c->params[p].reach) && !shared_only)
            g = weigh(c, b, task_of(c->params[p].reach), g);
        c->gradients[p] = g ? g : mtbal_emit_fill_like(b, v, 0);
        if (c->gradients[p])
            c->gradients[p]->type = v->type;
    }
    return b->status;
}

mtbal_status mtbal_pass_backward(mtbal_context *c)
{
    mtbal_arena *arena = c->model->arena;
    sweeps *s = mtbal_arena_alloc(arena, sizeof *s);
    mtbal_builder b;
    if (strcmp(c->options->apply, "loss") && strcmp(c->options->apply, "shared"))
        return mtbal_fail(c->diag, MTBAL_USAGE, "--apply", "choose from loss, shared",
                          "weights cannot be applied to '%s'", c->options->apply);
    if (!s)
        return mtbal_no_memory(c->diag);
    s->c = c;
    s->n = c->nreach;
    s->active = mtbal_arena_array(arena, (size_t)s->n, sizeof *s->active);
    s->main = mtbal_arena_array(arena, (size_t)s->n, sizeof(mtbal_value *));
    s->own = mtbal_arena_array(arena, (size_t)c->ntasks, sizeof(mtbal_value **));
    if (!s->active || !s->main || !s->own)
        return mtbal_no_memory(c->diag);
    c->scratch = s;
    for (int i = 0; i < s->n; i++)
        s->active[i] = c->depends[i] && c->reach[i];
    for (int t = 0; t < c->ntasks; t++)
        MTBAL_TRY(head(s, t));
    mtbal_pass_builder(c, &b, "mtbal/backward/", "gradient", NULL);
    MTBAL_TRY(join_heads(s, &b));
    MTBAL_TRY(sweep(s, s->main, 0, &b));
    return parameter_gradients(s, &b);
}

/* ------------------------------------------------------------------ measuring */

/* The trunk once more, for one task alone. */
static mtbal_status task_gradients(sweeps *s, int task)
{
    mtbal_context *c = s->c;
    mtbal_builder b;
    char prefix[256];
    snprintf(prefix, sizeof prefix, "mtbal/measure/%.200s/", c->tasks[task].name);
    mtbal_pass_builder(c, &b, prefix, "norm", c->tasks[task].name);
    MTBAL_TRY(sweep(s, s->own[task], 0, &b));
    for (int p = 0; p < c->nparams; p++)
        c->task_gradients[task * c->nparams + p] = s->own[task][c->params[p].value->id];
    return b.status;
}

/* <g_i, g_j> summed over what is in scope. */
typedef struct scope {
    mtbal_value **vectors; /* [ntasks * n] */
    int n;
} scope;

static mtbal_value *inner(mtbal_context *c, mtbal_builder *b, const scope *sc, int i, int j)
{
    mtbal_value *sum = NULL;
    for (int k = 0; k < sc->n; k++) {
        mtbal_value *x = sc->vectors[i * sc->n + k], *y = sc->vectors[j * sc->n + k];
        if (!x || !y)
            continue;
        mtbal_value *dot =
            i == j ? mtbal_emit_reduce(b, "ReduceSumSquare", x, 0, NULL, false)
                   : mtbal_emit_reduce(b, "ReduceSum", mtbal_emit(b, "Mul", x, y), 0, NULL, false);
        dot = mtbal_emit_cast(b, dot, mtbal_float_type(c));
        sum = sum ? mtbal_emit(b, "Add", sum, dot) : dot;
    }
    return sum ? sum : mtbal_const_scalar(b, mtbal_float_type(c), 0);
}

/* Activations that heads read from the trunk: where the norm over features is taken. */
static mtbal_status feature_scope(sweeps *s, scope *sc)
{
    mtbal_context *c = s->c;
    int *ids = mtbal_arena_array(c->model->arena, (size_t)s->n + 1, sizeof *ids);
    if (!ids)
        return mtbal_no_memory(c->diag);
    for (int id = 0; id < s->n; id++) {
        int heads = 0;
        for (int t = 0; t < c->ntasks; t++)
            heads += s->own[t][id] && !single(c->reach[id]);
        if (heads)
            ids[sc->n++] = id;
    }
    sc->vectors = mtbal_arena_array(c->model->arena, (size_t)c->ntasks * (size_t)sc->n + 1,
                                    sizeof *sc->vectors);
    if (!sc->vectors)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks; t++)
        for (int k = 0; k < sc->n; k++)
            sc->vectors[t * sc->n + k] = s->own[t][ids[k]];
    return MTBAL_OK;
}

static mtbal_status parameter_scope(mtbal_context *c, scope *sc)
{
    sc->vectors = mtbal_arena_array(c->model->arena, (size_t)c->ntasks * (size_t)c->nparams + 1,
                                    sizeof *sc->vectors);
    if (!sc->vectors)
        return mtbal_no_memory(c->diag);
    sc->n = c->nparams;
    for (int t = 0; t < c->ntasks; t++)
        for (int p = 0; p < c->nparams; p++)
            if (c->params[p].in_scope)
                sc->vectors[t * sc->n + p] = c->task_gradients[t * c->nparams + p];
    return MTBAL_OK;
}

/* Norms, cosines and the Gram matrix [K,K] from the inner products, each computed once. */
static mtbal_status gram_outputs(mtbal_context *c, mtbal_builder *b, const scope *sc)
{
    int k = c->ntasks;
    mtbal_dtype dtype = mtbal_float_type(c);
    mtbal_value **g = mtbal_arena_array(c->model->arena, (size_t)k * (size_t)k, sizeof *g),
                *norms[MTBAL_MAX_TASKS];
    const int64_t one = 1, square[2] = {k, k}, column[2] = {k, 1};
    bool norms_wanted = c->options->outputs & MTBAL_OUT_NORMS;
    if (!g)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < k; i++)
        for (int j = 0; j <= i; j++) {
            mtbal_value *dot = inner(c, b, sc, i, j);
            g[i * k + j] = g[j * k + i] = mtbal_emit_reshape(b, dot, mtbal_const_i64s(b, 1, &one));
            if (i == j)
                norms[i] = mtbal_emit(b, "Sqrt", dot);
        }
    mtbal_value *flat = mtbal_emit_attrs(b, "Concat", k * k, g, "axis=i", (int64_t)0);
    c->gram = mtbal_emit_reshape(b, flat, mtbal_const_i64s(b, 2, square));
    for (int i = 0; i < k && norms_wanted; i++) {
        char name[256];
        snprintf(name, sizeof name, "mtbal/grad_norm/%s", c->tasks[i].name);
        MTBAL_TRY(mtbal_output_as(c, norms[i], name));
        norms[i] = mtbal_emit_reshape(b, norms[i], mtbal_const_i64s(b, 1, &one));
    }
    if (norms_wanted) { /* 0 where a gradient is 0 */
        mtbal_value *row = mtbal_emit_attrs(b, "Concat", k, norms, "axis=i", (int64_t)0);
        mtbal_value *products =
            mtbal_emit(b, "Mul", mtbal_emit_reshape(b, row, mtbal_const_i64s(b, 2, column)), row);
        mtbal_value *zero = mtbal_const_scalar(b, dtype, 0);
        mtbal_value *none = mtbal_emit(b, "Equal", products, zero);
        mtbal_value *safe = mtbal_emit(b, "Where", none, mtbal_const_scalar(b, dtype, 1), products);
        MTBAL_TRY(mtbal_output_as(
            c, mtbal_emit(b, "Where", none, zero, mtbal_emit(b, "Div", c->gram, safe)),
            "mtbal/cosine"));
    }
    if (c->options->outputs & MTBAL_OUT_GRAM)
        MTBAL_TRY(mtbal_output_as(c, c->gram, "mtbal/gram"));
    return b->status;
}

mtbal_status mtbal_pass_measure(mtbal_context *c)
{
    sweeps *s = c->scratch;
    unsigned want = c->options->outputs;
    bool gram = want & (MTBAL_OUT_NORMS | MTBAL_OUT_GRAM),
         features = !strcmp(c->options->norm_over, "features");
    scope sc = {0};
    mtbal_builder b;
    if (!gram && !(want & MTBAL_OUT_TASK_GRADS))
        return MTBAL_OK;
    if (gram && features)
        MTBAL_TRY(feature_scope(s, &sc));
    c->task_gradients = mtbal_arena_array(
        c->model->arena, (size_t)c->ntasks * (size_t)c->nparams + 1, sizeof *c->task_gradients);
    if (!c->task_gradients)
        return mtbal_no_memory(c->diag);
    for (int t = 0; t < c->ntasks && (!features || want & MTBAL_OUT_TASK_GRADS); t++)
        MTBAL_TRY(task_gradients(s, t));
    if (gram && !features)
        MTBAL_TRY(parameter_scope(c, &sc));
    mtbal_pass_builder(c, &b, "mtbal/measure/", "norm", NULL);
    if (gram)
        MTBAL_TRY(gram_outputs(c, &b, &sc));
    for (int t = 0; t < c->ntasks && want & MTBAL_OUT_TASK_GRADS; t++)
        for (int p = 0; p < c->nparams; p++) {
            char name[512];
            mtbal_value *g = c->task_gradients[t * c->nparams + p];
            snprintf(name, sizeof name, "mtbal/task_grad/%s/%s", c->tasks[t].name,
                     c->params[p].value->name);
            MTBAL_TRY(
                mtbal_output_as(c, g ? g : mtbal_emit_fill_like(&b, c->params[p].value, 0), name));
        }
    return b.status;
}
