/* lower/c/values.c: what the calls use: kernels, operators, types, distinct shapes and values. */
#include "lower/c/c.h"

#include <string.h>

/* Numbers that tell a value from others; its place first, which a shape does not have. Interned,
 * they are a key of the maps. */
enum { PLACE = 2, MOST = PLACE + 2 + RT_MAX_RANK };

static size_t describe(const plan_operand *x, bool place, int64_t to[MOST])
{
    size_t n = 0;
    if (place) {
        to[n++] = x->region;
        to[n++] = (int64_t)x->offset;
    }
    to[n++] = x->dtype;
    to[n++] = x->rank;
    memcpy(&to[n], x->dims, (size_t)x->rank * sizeof *x->dims);
    return (n + (size_t)x->rank) * sizeof *to;
}

/* The number that the map has for these bytes; `next` where they are new. */
static int number_of(mtbal_c *c, mtbal_map *map, const void *bytes, size_t size, int next)
{
    const char *key = mtbal_intern_n(c->arena, bytes, size);
    int found = mtbal_map_get(map, key);
    if (found >= 0)
        return found;
    c->failed = c->failed || !key || !mtbal_map_set(map, c->arena, key, next);
    return next;
}

static void note_shape(mtbal_c *c, const plan_operand *x)
{
    int64_t key[MOST];
    if (x->cell < 0)
        return;
    c->types |= 1u << x->dtype;
    if (number_of(c, &c->shape_of, key, describe(x, false, key), c->nshapes) == c->nshapes)
        c->shapes[c->nshapes++] = x;
}

int c_value_of(const mtbal_c *c, const plan_operand *x)
{
    int64_t key[MOST];
    if (x->cell < 0)
        return 0;
    size_t size = describe(x, true, key);
    int found = mtbal_map_get(&c->value_of, mtbal_interned_n(c->arena, (const char *)key, size));
    return found < 0 ? 0 : found;
}

static void note_value(mtbal_c *c, const plan_operand *x)
{
    int64_t key[MOST];
    note_shape(c, x);
    if (x->cell < 0)
        return;
    int next = c->nvalues + 1;
    if (number_of(c, &c->value_of, key, describe(x, true, key), next) == next)
        c->values[++c->nvalues] = x;
}

plan_operand c_operand_of(const mtbal_port *p)
{
    plan_operand x = {
        .region = p->region, .offset = p->offset, .dtype = p->tensor.dtype, .rank = p->tensor.rank};
    memcpy(x.dims, p->tensor.dims, sizeof x.dims);
    return x;
}

static void note_ports(mtbal_c *c, const mtbal_port *ports, int n)
{
    for (int i = 0; i < n; i++) {
        plan_operand x = c_operand_of(&ports[i]);
        const plan_operand *kept = mtbal_arena_copy(c->arena, &x, sizeof x);
        c->failed = c->failed || !kept;
        if (kept)
            note_shape(c, kept);
    }
}

/* The first call with the same kernel and attributes. */
static int find_attributes(mtbal_c *c, int call)
{
    const plan_call *x = &c->plan->calls[call];
    const char *attr = mtbal_intern_n(c->arena, x->attr, rt_kernels[x->kernel].attr_size);
    const intptr_t key[] = {x->kernel, (intptr_t)attr};
    c->failed = c->failed || !attr;
    return number_of(c, &c->attributes, key, sizeof key, call);
}

static bool has_integers(const plan_call *call)
{
    for (int i = 0; i < call->nin; i++)
        if ((call->in[i].dtype != RT_F32 && call->in[i].dtype != RT_F64) ||
            call->in[i].dtype != call->in[0].dtype)
            return true;
    return false;
}

static void note_codes(mtbal_c *c, const plan_call *call)
{
    if (call->kernel == RT_KERNEL_unary || call->kernel == RT_KERNEL_binary)
        c->integers = c->integers || has_integers(call);
    if (call->kernel == RT_KERNEL_unary)
        c->unary_op[((const rt_unary_attr *)call->attr)->op] = true;
    if (call->kernel == RT_KERNEL_binary)
        c->binary_op[((const rt_binary_attr *)call->attr)->op] = true;
    if (call->kernel != RT_KERNEL_chain)
        return;
    const rt_chain_attr *at = call->attr;
    c->types |= at->is_double ? 1u << RT_F64 : 0;
    for (int i = 0; i < at->ncode; i++) {
        int op = at->code[4 * i];
        if (op < RT_CHAIN_BINARY)
            c->unary_op[op - RT_CHAIN_UNARY] = true;
        else if (op < RT_CHAIN_WHERE)
            c->binary_op[op - RT_CHAIN_BINARY] = true;
    }
}

void c_choose_shapes(mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    size_t most = (size_t)(p->noperands + p->ninputs + p->noutputs + p->nstates);
    c->shapes = mtbal_arena_array(c->arena, most + 1, sizeof *c->shapes);
    c->attr_of = mtbal_arena_array(c->arena, (size_t)p->ncalls + 1, sizeof *c->attr_of);
    c->values = mtbal_arena_array(c->arena, (size_t)p->noperands + 2, sizeof *c->values);
    c->is_target = mtbal_arena_array(c->arena, (size_t)p->ncalls + 1, sizeof *c->is_target);
    if (!c->shapes || !c->values || !c->attr_of || !c->is_target) {
        c->failed = true;
        return;
    }
    for (int i = 0; i < p->ncalls; i++)
        if (p->calls[i].kernel < 0)
            c->is_target[p->calls[i].jump] = true;
    for (int i = 0; i < p->ncalls; i++) {
        const plan_call *call = &p->calls[i];
        if (call->kernel < 0)
            continue;
        for (int k = 0; k < call->nin; k++)
            note_value(c, &call->in[k]);
        for (int k = 0; k < call->nout; k++)
            note_value(c, &call->out[k]);
        c->kernel_used[call->kernel] = true;
        c->attr_of[i] = call->attr ? find_attributes(c, i) : -1;
        size_t scratch = c_scratch(call);
        c->scratch = scratch > c->scratch ? scratch : c->scratch;
        note_codes(c, call);
    }
    note_ports(c, p->inputs, p->ninputs);
    note_ports(c, p->outputs, p->noutputs);
    note_ports(c, p->states, p->nstates);
    for (int r = 0; r < NREGIONS; r++)
        c->wide = c->wide || p->region_bytes[r] > UINT32_MAX;
    c->scratch = (c->scratch + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
}
