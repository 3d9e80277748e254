/* lower/c/values.c: what the calls use: kernels, operators, types, distinct shapes and values. */
#include "lower/c/c.h"

#include <string.h>

bool c_same_shape(const plan_operand *x, const plan_operand *y)
{
    return x->dtype == y->dtype && x->rank == y->rank &&
           !memcmp(x->dims, y->dims, (size_t)x->rank * sizeof *x->dims);
}

static void note_shape(mtbal_c *c, const plan_operand *x)
{
    if (x->cell < 0)
        return;
    c->types |= 1u << x->dtype;
    for (int i = 0; i < c->nshapes; i++)
        if (c_same_shape(c->shapes[i], x))
            return;
    c->shapes[c->nshapes++] = x;
}

/* The number of a value: a place with a shape; 0 is an operand that is left out. */
int c_value_of(const mtbal_c *c, const plan_operand *x)
{
    for (int i = 1; x->cell >= 0 && i <= c->nvalues; i++)
        if (c->values[i]->region == x->region && c->values[i]->offset == x->offset &&
            c_same_shape(c->values[i], x))
            return i;
    return 0;
}

static void note_value(mtbal_c *c, const plan_operand *x)
{
    note_shape(c, x);
    if (x->cell >= 0 && !c_value_of(c, x))
        c->values[++c->nvalues] = x;
}

plan_operand c_operand_of(const mtbal_port *p)
{
    plan_operand x = {.dtype = p->tensor.dtype, .rank = p->tensor.rank};
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
static int find_attributes(const mtbal_c *c, int call)
{
    const plan_call *x = &c->plan->calls[call];
    for (int i = 0; i < call; i++) {
        const plan_call *y = &c->plan->calls[i];
        if (y->kernel == x->kernel && y->attr &&
            !memcmp(y->attr, x->attr, rt_kernels[x->kernel].attr_size))
            return i;
    }
    return call;
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
    if (!c->shapes || !c->values || !c->attr_of) {
        c->failed = true;
        return;
    }
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
