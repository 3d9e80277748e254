/* lower/plan.c: from the lowered calls to a plan, which is immutable; and instances of it, which
 * own memory and run. */
#include "lower/lowering.h"

#include <string.h>

/* ------------------------------------------------------------------ making a plan */

static plan_operand settle(const lowering *l, operand x)
{
    if (x.cell < 0)
        return x;
    const cell *c = &l->cells[lower_root(l, x.cell)];
    x.region = c->region;
    x.offset += c->offset;
    return x;
}

static plan_operand *settle_all(const lowering *l, const operand *from, int n)
{
    plan_operand *to = mtbal_arena_array(l->plan->arena, (size_t)n + 1, sizeof *to);
    for (int i = 0; to && i < n; i++)
        to[i] = settle(l, from[i]);
    return to;
}

static mtbal_status make_calls(lowering *l)
{
    mtbal_plan *p = l->plan;
    p->ncalls = l->ncalls;
    p->calls = mtbal_arena_array(p->arena, (size_t)l->ncalls + 1, sizeof *p->calls);
    if (!p->calls)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < l->ncalls; i++) {
        const call *c = &l->calls[i];
        p->calls[i] = (plan_call){.kernel = c->kernel,
                                  .jump = c->jump,
                                  .nin = c->nin,
                                  .nout = c->nout,
                                  .attr = c->attr,
                                  .in = settle_all(l, c->in, c->nin),
                                  .out = settle_all(l, c->out, c->nout),
                                  .label = c->label};
        if (!p->calls[i].in || !p->calls[i].out)
            return mtbal_no_memory(l->diag);
        p->noperands += c->nin + c->nout;
        p->info.flops += c->flops;
    }
    return MTBAL_OK;
}

/* A block of at least one byte, aligned; the address to free goes to *block. */
static unsigned char *aligned_block(size_t bytes, void **block)
{
    *block = bytes < SIZE_MAX - PLAN_ALIGN ? mtbal_malloc(bytes + PLAN_ALIGN) : NULL;
    if (!*block)
        return NULL;
    uintptr_t at = (uintptr_t)*block + PLAN_ALIGN - 1;
    return (unsigned char *)(at - at % PLAN_ALIGN);
}

static mtbal_status make_constants(lowering *l)
{
    mtbal_plan *p = l->plan;
    p->constants = aligned_block(p->region_bytes[REGION_CONSTANT], &p->constants_block);
    if (!p->constants)
        return mtbal_no_memory(l->diag);
    memset(p->constants, 0,
           p->region_bytes[REGION_CONSTANT]); /* also between them: it is printed */
    for (int i = 0; i < l->ncells; i++) {
        const cell *c = &l->cells[i];
        if (c->region == REGION_CONSTANT && c->same < 0 && c->used && c->bytes)
            memcpy(p->constants + c->offset, c->data, c->bytes);
    }
    return MTBAL_OK;
}

/* Port `index` of the list that `by_name` is of. Where two have a name, it means the first. */
static mtbal_status make_port(lowering *l, mtbal_port *port, mtbal_map *by_name, int index,
                              const char *name, operand at, bool is_default)
{
    plan_operand x = settle(l, at);
    *port = (mtbal_port){.name = mtbal_intern(l->plan->arena, name),
                         .tensor = {.dtype = x.dtype, .rank = x.rank},
                         .offset = x.offset,
                         .region = x.region,
                         .is_default = is_default};
    memcpy(port->tensor.dims, x.dims, sizeof port->tensor.dims);
    bool good = port->name && (mtbal_map_get(by_name, port->name) >= 0 ||
                               mtbal_map_set(by_name, l->plan->arena, port->name, index));
    return good ? MTBAL_OK : mtbal_no_memory(l->diag);
}

/* An input or state starts with the bytes of its initializer. */
static mtbal_status add_default(lowering *l, const mtbal_port *port, mtbal_value *v)
{
    mtbal_plan *p = l->plan;
    if (!v->tensor)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_tensor_load(l->model, v->tensor, l->diag));
    size_t bytes = (size_t)rt_count(&port->tensor) * rt_dtype_size(port->tensor.dtype);
    if (v->tensor->bytes != bytes || (bytes && !v->tensor->data) ||
        (int)v->tensor->dtype != port->tensor.dtype)
        return v->is_initializer && bytes != v->tensor->bytes
                   ? MTBAL_OK /* bound to another shape: the default does not count */
                   : mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                                "the stored value of %s does not match its declaration", v->name);
    p->defaults[p->ndefaults++] =
        (plan_default){port->name, port->region, port->offset, bytes, v->tensor->data};
    return MTBAL_OK;
}

static mtbal_status make_ports(lowering *l)
{
    mtbal_plan *p = l->plan;
    int n = l->graph->ninputs;
    p->inputs = mtbal_arena_array(p->arena, (size_t)n + 1, sizeof *p->inputs);
    p->outputs = mtbal_arena_array(p->arena, (size_t)l->noutputs + 1, sizeof *p->outputs);
    p->states = mtbal_arena_array(p->arena, (size_t)l->nstates + 1, sizeof *p->states);
    p->defaults = mtbal_arena_array(p->arena, (size_t)(n + l->nstates) + 1, sizeof *p->defaults);
    if (!p->inputs || !p->outputs || !p->states || !p->defaults)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < l->nstates; i++) {
        mtbal_value *v = l->states[i].value;
        MTBAL_TRY(
            make_port(l, &p->states[i], &p->state_of, i, v->name, lower_place(l, v)->at, true));
        MTBAL_TRY(add_default(l, &p->states[p->nstates++], v));
    }
    for (int i = 0; i < n; i++) {
        mtbal_value *v = l->graph->inputs[i];
        const place *at = lower_place(l, v);
        if (!at || !at->placed || l->cells[at->at.cell].region != REGION_INPUT)
            continue;
        MTBAL_TRY(make_port(l, &p->inputs[p->ninputs], &p->input_of, p->ninputs, v->name, at->at,
                            v->tensor != NULL));
        MTBAL_TRY(add_default(l, &p->inputs[p->ninputs++], v));
    }
    for (int i = 0; i < l->noutputs; i++)
        MTBAL_TRY(make_port(l, &p->outputs[p->noutputs++], &p->output_of, i, l->output_names[i],
                            l->output_at[i], false));
    return MTBAL_OK;
}

mtbal_status lower_make_plan(lowering *l)
{
    MTBAL_TRY(make_calls(l));
    MTBAL_TRY(make_constants(l));
    MTBAL_TRY(make_ports(l));
    mtbal_plan *p = l->plan;
    p->info.arena_bytes = p->region_bytes[REGION_ARENA];
    p->info.state_bytes = p->region_bytes[REGION_STATE];
    p->info.constant_bytes = p->region_bytes[REGION_CONSTANT];
    p->info.ncalls = p->ncalls;
    return MTBAL_OK;
}

void mtbal_plan_free(mtbal_plan *plan)
{
    if (!plan)
        return;
    mtbal_free(plan->constants_block);
    mtbal_arena_free(plan->arena);
}

void mtbal_plan_describe(const mtbal_plan *plan, mtbal_plan_info *info)
{
    *info = plan->info;
}

int mtbal_plan_ports(const mtbal_plan *plan, const mtbal_port **inputs, int *ninputs,
                     const mtbal_port **outputs, int *noutputs, const mtbal_port **states,
                     int *nstates)
{
    *inputs = plan->inputs;
    *ninputs = plan->ninputs;
    *outputs = plan->outputs;
    *noutputs = plan->noutputs;
    *states = plan->states;
    *nstates = plan->nstates;
    return plan->ninputs + plan->noutputs + plan->nstates;
}

/* ------------------------------------------------------------------ instances */

struct mtbal_instance {
    const mtbal_plan *plan;
    mtbal_arena *arena; /* of calls and ports */
    void *blocks[NREGIONS], *scratch_block, *pool_block;
    unsigned char *base[NREGIONS];
    rt_env env;
    rt_fault fault;
    rt_program program;
    mtbal_port *inputs, *outputs, *states;
};

static rt_tensor bind_operand(const mtbal_instance *s, const plan_operand *x)
{
    rt_tensor t = {.dtype = x->dtype, .rank = x->rank};
    memcpy(t.dims, x->dims, sizeof t.dims);
    if (x->cell >= 0)
        t.data = s->base[x->region] + x->offset;
    return t;
}

static mtbal_status bind_calls(mtbal_instance *s)
{
    const mtbal_plan *p = s->plan;
    rt_call *calls = mtbal_arena_array(s->arena, (size_t)p->ncalls + 1, sizeof *calls);
    rt_tensor *t = mtbal_arena_array(s->arena, (size_t)p->noperands + 1, sizeof *t);
    if (!calls || !t)
        return MTBAL_NOMEM;
    for (int i = 0; i < p->ncalls; i++) {
        const plan_call *from = &p->calls[i];
        calls[i] = (rt_call){.run = from->kernel < 0 ? NULL : rt_kernels[from->kernel].run,
                             .attr = from->attr,
                             .nin = from->nin,
                             .nout = from->nout,
                             .kernel = from->kernel,
                             .jump = from->jump,
                             .label = from->label};
        calls[i].in = from->nin ? t : NULL;
        for (int k = 0; k < from->nin; k++)
            *t++ = bind_operand(s, &from->in[k]);
        calls[i].out = t;
        for (int k = 0; k < from->nout; k++)
            *t++ = bind_operand(s, &from->out[k]);
    }
    s->program =
        (rt_program){calls, p->ncalls, s->base[REGION_ARENA], p->region_bytes[REGION_ARENA]};
    return MTBAL_OK;
}

/* What no operand and no port is of, between the cells, is not to be touched. The arena's guard is
 * rt_run. */
static void unpoison(const rt_tensor *t)
{
    RT_UNPOISON(t->data, t->data ? (size_t)rt_count(t) * rt_dtype_size(t->dtype) : 0);
}

static void guard_regions(mtbal_instance *s, const mtbal_instance *owner)
{
    const mtbal_plan *p = s->plan;
    const mtbal_port *const ports[] = {s->inputs, s->outputs, s->states};
    const int counts[] = {p->ninputs, p->noutputs, p->nstates};
    if (!RT_SANITIZED)
        return;
    for (int r = 0; r < NREGIONS; r++)
        if (!(r == REGION_STATE && owner))
            RT_POISON(s->base[r], p->region_bytes[r]);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < counts[k]; i++)
            unpoison(&ports[k][i].tensor);
    for (int i = 0; i < p->ncalls; i++) {
        const plan_call *c = &p->calls[i];
        for (int k = 0; k < c->nin + c->nout; k++) {
            const plan_operand *x = k < c->nin ? &c->in[k] : &c->out[k - c->nin];
            rt_tensor t = bind_operand(s, x);
            if (x->cell >= 0 && x->region != REGION_ARENA)
                unpoison(&t);
        }
    }
}

static mtbal_port *bind_ports(const mtbal_instance *s, const mtbal_port *from, int n)
{
    mtbal_port *ports = mtbal_arena_copy(s->arena, from, (size_t)n * sizeof *from);
    for (int i = 0; ports && i < n; i++)
        ports[i].tensor.data = s->base[ports[i].region] + ports[i].offset;
    return ports;
}

static mtbal_status make_env(mtbal_instance *s, int threads)
{
    threads = threads < 1 ? 1 : threads > RT_MAX_THREADS ? RT_MAX_THREADS : threads;
    if (threads > 1) {
        rt_pool *pool = (rt_pool *)aligned_block(rt_pool_size(), &s->pool_block);
        if (!pool)
            return MTBAL_NOMEM;
        if (rt_pool_start(pool, threads) == 0)
            s->env.pool = pool;
        else
            threads = 1; /* no threads here: the same results, later */
    }
    s->env.nthreads = threads;
    s->env.scratch_size = lower_rounded(RT_SCRATCH_BYTES);
    s->env.scratch = aligned_block((size_t)threads * s->env.scratch_size, &s->scratch_block);
    for (int i = 0; s->env.scratch && i < threads; i++)
        RT_POISON(s->env.scratch + (size_t)i * s->env.scratch_size + RT_SCRATCH_BYTES,
                  s->env.scratch_size - RT_SCRATCH_BYTES);
    s->env.cpu = rt_cpu_detect();
    s->env.fault = &s->fault;
    s->env.stop = &mtbal_halt;
    return s->env.scratch ? MTBAL_OK : MTBAL_NOMEM;
}

/* Whether the states of both plans lie alike. */
static bool same_states(const mtbal_plan *a, const mtbal_plan *b)
{
    bool same =
        a->nstates == b->nstates && a->region_bytes[REGION_STATE] == b->region_bytes[REGION_STATE];
    for (int i = 0; same && i < a->nstates; i++)
        same = a->states[i].offset == b->states[i].offset &&
               a->states[i].tensor.dtype == b->states[i].tensor.dtype &&
               rt_count(&a->states[i].tensor) == rt_count(&b->states[i].tensor);
    return same;
}

static mtbal_status fill_instance(mtbal_instance *s, const mtbal_instance *owner, int threads)
{
    const mtbal_plan *p = s->plan;
    for (int r = 0; r < NREGIONS; r++) {
        if (r == REGION_CONSTANT || (r == REGION_STATE && owner)) {
            s->base[r] = r == REGION_CONSTANT ? p->constants : owner->base[r];
            continue;
        }
        s->base[r] = aligned_block(p->region_bytes[r], &s->blocks[r]);
        if (!s->base[r])
            return MTBAL_NOMEM;
        memset(s->base[r], 0, p->region_bytes[r]);
    }
    for (int i = 0; i < p->ndefaults; i++) {
        const plan_default *d = &p->defaults[i];
        if (d->bytes && !(owner && d->region == REGION_STATE))
            memcpy(s->base[d->region] + d->offset, d->data, d->bytes);
    }
    MTBAL_TRY(bind_calls(s));
    s->inputs = bind_ports(s, p->inputs, p->ninputs);
    s->outputs = bind_ports(s, p->outputs, p->noutputs);
    s->states = bind_ports(s, p->states, p->nstates);
    if (!s->inputs || !s->outputs || !s->states)
        return MTBAL_NOMEM;
    guard_regions(s, owner);
    return make_env(s, threads);
}

mtbal_status mtbal_instance_beside(mtbal_instance *owner, const mtbal_plan *plan, int threads,
                                   mtbal_instance **instance, mtbal_diag *diag)
{
    *instance = NULL;
    if (owner && !same_states(owner->plan, plan))
        return mtbal_fail(diag, MTBAL_INVALID, NULL, NULL,
                          "the states have other shapes for inputs of another shape");
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_instance *s = arena ? mtbal_arena_alloc(arena, sizeof *s) : NULL;
    if (!s) {
        mtbal_arena_free(arena);
        return mtbal_no_memory(diag);
    }
    s->arena = arena;
    s->plan = plan;
    if (fill_instance(s, owner, threads) != MTBAL_OK) {
        mtbal_instance_free(s);
        return mtbal_no_memory(diag);
    }
    *instance = s;
    return MTBAL_OK;
}

mtbal_status mtbal_instance_new(const mtbal_plan *plan, int threads, mtbal_instance **instance,
                                mtbal_diag *diag)
{
    return mtbal_instance_beside(NULL, plan, threads, instance, diag);
}

void mtbal_instance_free(mtbal_instance *instance)
{
    if (!instance)
        return;
    if (instance->env.pool)
        rt_pool_stop(instance->env.pool);
    for (int r = 0; r < NREGIONS; r++)
        mtbal_free(instance->blocks[r]);
    mtbal_free(instance->scratch_block);
    mtbal_free(instance->pool_block);
    mtbal_arena_free(instance->arena);
}

static rt_tensor *find_port(const mtbal_instance *s, mtbal_port *ports, const mtbal_map *by_name,
                            const char *name)
{
    int i = mtbal_map_get(by_name, mtbal_interned(s->plan->arena, name));
    return i < 0 ? NULL : &ports[i].tensor;
}

rt_tensor *mtbal_instance_input(mtbal_instance *instance, const char *name)
{
    return find_port(instance, instance->inputs, &instance->plan->input_of, name);
}

rt_tensor *mtbal_instance_output(mtbal_instance *instance, const char *name)
{
    return find_port(instance, instance->outputs, &instance->plan->output_of, name);
}

rt_tensor *mtbal_instance_state(mtbal_instance *instance, const char *name)
{
    return find_port(instance, instance->states, &instance->plan->state_of, name);
}

mtbal_status mtbal_instance_run(mtbal_instance *instance, uint64_t seed)
{
    instance->env.seed = seed;
    switch (rt_run(&instance->env, &instance->program)) {
    case RT_DONE:
        return MTBAL_OK;
    case RT_STOPPED:
        return MTBAL_INTERRUPTED;
    default:
        return MTBAL_INVALID;
    }
}

const rt_fault *mtbal_instance_fault(const mtbal_instance *instance, const char **label)
{
    const rt_fault *fault = &instance->fault;
    *label = fault->format ? instance->plan->calls[fault->call].label : NULL;
    return fault;
}

void mtbal_fault_text(const rt_fault *fault, const char *label, char *to, size_t size)
{
    int n = snprintf(to, size, "node %.200s: ", label ? label : "?");
    if (n >= 0 && (size_t)n < size)
        snprintf(to + n, size - (size_t)n, fault->format, fault->value, fault->limit);
}

mtbal_status mtbal_instance_run_alone(mtbal_instance *instance, uint64_t seed, const char *path,
                                      mtbal_diag *diag)
{
    char text[512];
    const char *label;
    mtbal_status status = mtbal_instance_run(instance, seed);
    if (status != MTBAL_INVALID)
        return status == MTBAL_INTERRUPTED ? mtbal_interrupted(diag) : status;
    const rt_fault *fault = mtbal_instance_fault(instance, &label);
    mtbal_fault_text(fault, label, text, sizeof text);
    return mtbal_fail(diag, status, path, NULL, "%s", text);
}

rt_env *mtbal_instance_env(mtbal_instance *instance)
{
    return &instance->env;
}
