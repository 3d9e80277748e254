/* lower/fold.c: evaluates nodes of constant operands, with the runtime's own kernels. */
#include "lower/lowering.h"

#include <string.h>

/* A constant that is much larger than what it is made from is better made anew in each step. */
enum { LARGE = 1 << 16 };

/* Whether the node's operands are all constants; `bytes` of them. */
static bool all_constant(lowering *l, const mtbal_node *node, size_t *bytes)
{
    *bytes = 0;
    for (int i = 0; i < node->nin; i++) {
        if (!node->in[i])
            continue;
        const mtbal_tensor *t = lower_constant(l, node->in[i]);
        if (!t)
            return false;
        *bytes += t->bytes;
    }
    return true;
}

static bool worth_it(const mtbal_node *node, size_t in_bytes)
{
    size_t out_bytes = 0;
    for (int i = 0; i < node->nout; i++) {
        const mtbal_value *v = node->out[i];
        if (!v)
            continue;
        int64_t count = v->type.kind == MTBAL_TENSOR ? mtbal_shape_count(&v->type) : -1;
        if (count < 0 || !mtbal_dtype_size(v->type.dtype))
            return false;
        out_bytes += (size_t)count * mtbal_dtype_size(v->type.dtype);
    }
    return out_bytes <= LARGE || out_bytes / 2 <= in_bytes;
}

/* ------------------------------------------------------------------ NonZero, whose size is known
 * only afterwards */

mtbal_status lower_fold_non_zero(lowering *l, mtbal_node *node)
{
    const mtbal_tensor *x = lower_constant(l, node->in[0]);
    int rank = x->rank ? x->rank : 1;
    int64_t found = 0, k = 0, dims[2] = {rank, 0};
    for (int64_t i = 0; i < x->count; i++)
        found += mtbal_tensor_f64(x, i) != 0;
    dims[1] = found;
    mtbal_tensor *t = mtbal_tensor_new(l->model, MTBAL_INT64, 2, dims, NULL);
    if (!t)
        return mtbal_no_memory(l->diag);
    int64_t *index = mtbal_tensor_bytes(t);
    for (int64_t i = 0; i < x->count; i++) {
        if (mtbal_tensor_f64(x, i) == 0)
            continue;
        int64_t rest = i;
        for (int d = rank - 1; d >= 0; d--) {
            int64_t size = x->rank ? x->dims[d] : 1;
            index[d * found + k] = rest % size;
            rest /= size;
        }
        k++;
    }
    return lower_set_constant(l, node->out[0], t);
}

/* ------------------------------------------------------------------ running calls at once */

static mtbal_status make_env(lowering *l, rt_env *env, rt_fault *fault)
{
    if (!l->fold_scratch) {
        l->fold_scratch = mtbal_malloc(RT_SCRATCH_BYTES + PLAN_ALIGN);
        if (!l->fold_scratch)
            return mtbal_no_memory(l->diag);
    }
    uintptr_t at = (uintptr_t)l->fold_scratch + PLAN_ALIGN - 1;
    *env = (rt_env){.nthreads = 1,
                    .scratch = (unsigned char *)(at - at % PLAN_ALIGN),
                    .scratch_size = RT_SCRATCH_BYTES,
                    .cpu = rt_cpu_detect(),
                    .fault = fault,
                    .stop = &mtbal_stop};
    return MTBAL_OK;
}

static rt_tensor tensor_of(const lowering *l, const operand *x)
{
    rt_tensor t = {.dtype = x->dtype, .rank = x->rank};
    memcpy(t.dims, x->dims, sizeof t.dims);
    if (x->cell < 0)
        return t;
    const cell *c = &l->cells[x->cell];
    const void *base = c->data ? c->data : c->folded;
    t.data = (char *)(uintptr_t)base + x->offset;
    return t;
}

/* Constants on which a kernel fails are a fault of the model. */
static mtbal_status run_calls(lowering *l, const rt_env *env, int from)
{
    rt_tensor in[64], out[64];
    for (int i = from; i < l->ncalls; i++) {
        const call *c = &l->calls[i];
        for (int k = 0; k < c->nin; k++)
            in[k] = tensor_of(l, &c->in[k]);
        for (int k = 0; k < c->nout; k++)
            out[k] = tensor_of(l, &c->out[k]);
        rt_kernels[c->kernel].run(env, c->attr, in, out);
        if (rt_stopped(env))
            return mtbal_interrupted(l->diag);
        if (!env->fault->format)
            continue;
        char text[512];
        mtbal_fault_text(env->fault, c->label, text, sizeof text);
        return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path,
                          "this holds for every input: export the model again", "%s", text);
    }
    return MTBAL_OK;
}

static bool runs_at_once(const lowering *l, int from)
{
    for (int i = from; i < l->ncalls; i++)
        if (l->calls[i].kernel < 0 || l->calls[i].nin > 64 || l->calls[i].nout > 64)
            return false;
    return true;
}

/* Memory for the cells that the node's calls write; constants have theirs. */
static mtbal_status give_memory(lowering *l, int from)
{
    for (int i = from; i < l->ncells; i++) {
        if (l->cells[i].region == REGION_CONSTANT)
            continue;
        l->cells[i].folded = mtbal_arena_alloc(l->arena, l->cells[i].bytes + PLAN_ALIGN);
        if (!l->cells[i].folded)
            return mtbal_no_memory(l->diag);
        uintptr_t at = (uintptr_t)l->cells[i].folded + PLAN_ALIGN - 1;
        l->cells[i].folded = (void *)(at - at % PLAN_ALIGN);
    }
    return MTBAL_OK;
}

static mtbal_status keep_results(lowering *l, mtbal_node *node)
{
    for (int i = 0; i < node->nout; i++) {
        mtbal_value *v = node->out[i];
        if (!v)
            continue;
        place *p = lower_place(l, v);
        if (!p->placed)
            continue;
        rt_tensor result = tensor_of(l, &p->at);
        mtbal_tensor *t = mtbal_tensor_new(l->model, (mtbal_dtype)result.dtype, result.rank,
                                           result.dims, result.data);
        if (!t)
            return mtbal_no_memory(l->diag);
        MTBAL_TRY(lower_set_constant(l, v, t));
    }
    return MTBAL_OK;
}

static mtbal_status evaluate(lowering *l, mtbal_node *node, bool *done)
{
    for (int i = 0; i < node->nin; i++)
        (void)op_in(l, node, i); /* places the constants, which outlive this evaluation */
    int ncalls = l->ncalls, ncells = l->ncells, nrefused = l->nrefused;
    size_t refusals_length = l->refusals_length;
    rt_env env;
    rt_fault fault = {0};
    mtbal_status status = lower_emit_node(l, node);
    if (status == MTBAL_OK)
        status = l->status;
    if (status == MTBAL_OK && l->nrefused == nrefused && runs_at_once(l, ncalls)) {
        status = make_env(l, &env, &fault);
        if (status == MTBAL_OK)
            status = give_memory(l, ncells);
        if (status == MTBAL_OK)
            status = run_calls(l, &env, ncalls);
        if (status == MTBAL_OK)
            status = keep_results(l, node);
        *done = true;
    }
    for (int i = 0; i < node->nout; i++) {
        place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (p)
            p->placed = p->refused = false;
    }
    for (int i = ncells; i < l->ncells; i++)
        l->cells[i] = (cell){0};
    for (int i = ncalls; i < l->ncalls; i++)
        l->calls[i] = (call){0};
    l->ncells = ncells;
    l->ncalls = ncalls;
    l->nrefused = nrefused;
    l->refusals_length = refusals_length;
    l->refusals[refusals_length] = 0;
    return status;
}

static bool holds_graph(const mtbal_node *node)
{
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH)
            return true;
    return false;
}

mtbal_status lower_fold(lowering *l, mtbal_node *node, bool *done)
{
    size_t bytes;
    if (!lower_rule(node) || mtbal_node_has(node, MTBAL_RANDOM) || holds_graph(node) ||
        !all_constant(l, node, &bytes))
        return l->status;
    if (!worth_it(node, bytes))
        return MTBAL_OK;
    return evaluate(l, node, done);
}
