/* lower/emit.c: the flat graph becomes a list of kernel calls on cells. */
#include "lower/lowering.h"

#include <string.h>

/* ------------------------------------------------------------------ cells and operands */

static operand fail(lowering *l, mtbal_status status)
{
    if (l->status == MTBAL_OK)
        l->status = status;
    return op_none();
}

operand op_none(void)
{
    return (operand){.cell = -1};
}

int64_t op_count(operand x)
{
    int64_t n = 1;
    for (int d = 0; d < x.rank; d++)
        n *= x.dims[d];
    return n;
}

size_t op_bytes(operand x)
{
    return (size_t)op_count(x) * rt_dtype_size(x.dtype);
}

static int new_cell(lowering *l, int region, size_t bytes)
{
    if (!lower_grow((void **)&l->cells, &l->cell_capacity, l->ncells, sizeof *l->cells))
        return -1;
    l->cells[l->ncells] = (cell){.region = region, .bytes = bytes, .same = -1};
    return l->ncells++;
}

operand op_temp(lowering *l, int dtype, int rank, const int64_t *dims)
{
    operand x = {.cell = -1, .dtype = dtype, .rank = rank};
    size_t bytes = rt_dtype_size(dtype);
    bool fits = rank <= RT_MAX_RANK;
    for (int d = 0; d < rank && fits; d++) {
        fits = dims[d] >= 0 && mtbal_mul_size(bytes, (size_t)dims[d], &bytes);
        x.dims[d] = dims[d];
    }
    if (l->status != MTBAL_OK)
        return op_none();
    if (!fits || bytes > SIZE_MAX / 4) {
        mtbal_fail(l->diag, MTBAL_INVALID, l->label, "a smaller batch?",
                   rank > RT_MAX_RANK ? "a tensor of this node has more than 8 dimensions"
                                      : "a tensor of this node is too large for this machine");
        return fail(l, MTBAL_INVALID);
    }
    x.cell = new_cell(l, REGION_ARENA, bytes);
    return x.cell < 0 ? fail(l, MTBAL_NOMEM) : x;
}

operand op_of_type(lowering *l, const mtbal_type *type)
{
    int64_t dims[RT_MAX_RANK] = {0};
    for (int d = 0; d < type->rank && d < RT_MAX_RANK; d++)
        dims[d] = type->dims[d].size;
    return op_temp(l, (int)type->dtype, type->rank, dims);
}

operand op_constant(lowering *l, int dtype, int rank, const int64_t *dims, const void *data)
{
    operand x = op_temp(l, dtype, rank, dims);
    if (x.cell < 0)
        return x;
    void *copy = mtbal_arena_alloc(l->plan->arena, l->cells[x.cell].bytes + 8);
    if (!copy)
        return fail(l, MTBAL_NOMEM);
    if (data)
        memcpy(copy, data, l->cells[x.cell].bytes);
    l->cells[x.cell].region = REGION_CONSTANT;
    l->cells[x.cell].data = copy;
    return x;
}

operand op_scalar(lowering *l, int dtype, double value)
{
    uint64_t bytes = 0;
    mtbal_tensor t = {.dtype = (mtbal_dtype)dtype, .count = 1, .data = &bytes};
    mtbal_tensor_set_f64(&t, 0, value);
    return op_constant(l, dtype, 0, NULL, &bytes);
}

static operand place_constant(lowering *l, const mtbal_value *value, place *p)
{
    const mtbal_tensor *t = lower_constant(l, value);
    if (!t)
        return fail(l, l->status != MTBAL_OK ? l->status : MTBAL_INVALID);
    operand x = op_temp(l, (int)t->dtype, t->rank, t->dims);
    if (x.cell < 0)
        return x;
    static const uint64_t nothing;
    l->cells[x.cell].region = REGION_CONSTANT;
    l->cells[x.cell].data = t->data ? t->data : &nothing;
    p->at = x;
    p->placed = true;
    return x;
}

operand op_in(lowering *l, const mtbal_node *node, int i)
{
    if (!op_given(node, i) || l->status != MTBAL_OK)
        return op_none();
    operand x = op_of_value(l, node->in[i]);
    return lower_widens(l, x.dtype) ? lower_widen(l, x) : x;
}

operand op_of_value(lowering *l, const mtbal_value *value)
{
    place *p = lower_place(l, value);
    if (!p)
        return fail(l, MTBAL_NOMEM);
    if (p->placed)
        return p->at;
    if (lower_is_constant(value))
        return place_constant(l, value, p);
    mtbal_fail(l->diag, MTBAL_INVALID, l->label, NULL, "the value %s is used before it is made",
               value->name);
    return fail(l, MTBAL_INVALID);
}

void op_set_value(lowering *l, const mtbal_value *value, operand x)
{
    place *p = l->status == MTBAL_OK ? lower_place(l, value) : NULL;
    if (!p) {
        fail(l, MTBAL_NOMEM);
        return;
    }
    p->at = x;
    p->placed = true;
}

void op_set_out(lowering *l, const mtbal_node *node, int i, operand x)
{
    if (!op_wants(node, i))
        return;
    op_set_value(l, node->out[i], x);
    if (l->wide && l->status == MTBAL_OK && x.dtype != (int)node->out[i]->type.dtype)
        lower_narrow_later(l, node->out[i]);
}

operand op_out(lowering *l, const mtbal_node *node, int i)
{
    if (!op_wants(node, i) || l->status != MTBAL_OK)
        return op_none();
    mtbal_type type = node->out[i]->type;
    bool indices = l->narrow && i > 0; /* of TopK and MaxPool: integers by nature */
    if (!indices && lower_widens(l, (int)type.dtype))
        type.dtype = (mtbal_dtype)l->wide;
    operand x = op_of_type(l, &type);
    op_set_out(l, node, i, x);
    return x;
}

operand op_view(operand x, int rank, const int64_t *dims)
{
    x.rank = rank;
    for (int d = 0; d < RT_MAX_RANK; d++)
        x.dims[d] = d < rank ? dims[d] : 0;
    return x;
}

void op_alias(lowering *l, const mtbal_node *node, int i, operand x)
{
    if (!op_wants(node, i) || l->status != MTBAL_OK)
        return;
    const mtbal_type *type = &node->out[i]->type;
    int64_t dims[RT_MAX_RANK] = {0};
    for (int d = 0; d < type->rank; d++)
        dims[d] = type->dims[d].size;
    op_set_out(l, node, i, op_view(x, type->rank, dims));
}

bool op_given(const mtbal_node *node, int i)
{
    return i >= 0 && i < node->nin && node->in[i];
}

bool op_wants(const mtbal_node *node, int i)
{
    return i < node->nout && node->out[i];
}

/* ------------------------------------------------------------------ calls */

static call *new_call(lowering *l)
{
    if (l->status != MTBAL_OK)
        return NULL;
    if (!lower_grow((void **)&l->calls, &l->call_capacity, l->ncalls, sizeof *l->calls)) {
        fail(l, MTBAL_NOMEM);
        return NULL;
    }
    call *c = &l->calls[l->ncalls++];
    *c = (call){.kernel = -1, .label = l->label};
    return c;
}

/* Operands of a call; the scratch that the kernel asks for is appended to the outputs. */
static bool set_operands(lowering *l, call *c, int nin, const operand *in, int nout,
                         const operand *out, size_t scratch)
{
    c->nin = nin;
    c->nout = nout + (scratch > 0);
    c->in = mtbal_arena_array(l->plan->arena, (size_t)nin + 1, sizeof *c->in);
    c->out = mtbal_arena_array(l->plan->arena, (size_t)nout + 1, sizeof *c->out);
    if (!c->in || !c->out)
        return false;
    if (nin)
        memcpy(c->in, in, (size_t)nin * sizeof *in);
    if (nout)
        memcpy(c->out, out, (size_t)nout * sizeof *out);
    if (scratch) {
        int64_t size = (int64_t)scratch;
        c->out[nout] = op_temp(l, RT_U8, 1, &size);
    }
    return true;
}

static size_t scratch_of(int kernel, const void *attr, int nin, const operand *in, int nout,
                         const operand *out)
{
    rt_tensor x[64] = {0}, y[64] = {0};
    if (!rt_kernels[kernel].scratch)
        return 0;
    for (int i = 0; i < nin && i < 64; i++) {
        x[i] = (rt_tensor){.dtype = in[i].dtype, .rank = in[i].rank};
        memcpy(x[i].dims, in[i].dims, sizeof x[i].dims);
        x[i].data = in[i].cell < 0 ? NULL : (void *)(uintptr_t)PLAN_ALIGN; /* only: is it there? */
    }
    for (int i = 0; i < nout && i < 64; i++) {
        y[i] = (rt_tensor){.dtype = out[i].dtype, .rank = out[i].rank};
        memcpy(y[i].dims, out[i].dims, sizeof y[i].dims);
        y[i].data = out[i].cell < 0 ? NULL : (void *)(uintptr_t)PLAN_ALIGN;
    }
    return rt_kernels[kernel].scratch(attr, x, y);
}

call *op_call_n(lowering *l, int kernel, const void *attr, int nin, const operand *in, int nout,
                const operand *out)
{
    call *c = new_call(l);
    if (!c)
        return NULL;
    mtbal_status fits = lower_check_call(l, kernel, attr, nin, in, nout, out);
    if (fits != MTBAL_OK) {
        fail(l, fits);
        return NULL;
    }
    size_t scratch = scratch_of(kernel, attr, nin, in, nout, out);
    c->kernel = kernel;
    if (attr) {
        c->attr = mtbal_arena_copy(l->plan->arena, attr, rt_kernels[kernel].attr_size);
        if (!c->attr) {
            fail(l, MTBAL_NOMEM);
            return NULL;
        }
    }
    if (!set_operands(l, c, nin, in, nout, out, scratch)) {
        fail(l, MTBAL_NOMEM);
        return NULL;
    }
    c->flops = lower_flops(c);
    return l->status == MTBAL_OK ? c : NULL;
}

int op_jump(lowering *l, operand condition)
{
    call *c = new_call(l);
    if (!c)
        return -1;
    if (!set_operands(l, c, condition.cell >= 0, &condition, 0, NULL, 0)) {
        fail(l, MTBAL_NOMEM);
        return -1;
    }
    return l->ncalls - 1;
}

/* ------------------------------------------------------------------ the walk */

static bool all_constant_outputs(const mtbal_node *node)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && !lower_is_constant(node->out[i]))
            return false;
    return true;
}

/* What a tensor must be for our kernels: NULL when it is. */
static const char *unfit(lowering *l, const mtbal_value *v)
{
    const place *p = lower_place(l, v);
    const mtbal_type *t = &v->type;
    if (p && p->why)
        return p->why;
    if (t->kind != MTBAL_TENSOR)
        return "it makes or takes a sequence or an optional that is not known in advance";
    if (!mtbal_shape_known(t) || t->rank < 0)
        return "the shape of %s is not known";
    if (t->rank > RT_MAX_RANK)
        return "%s has more than 8 dimensions";
    if (t->dtype == MTBAL_STRING || t->dtype > MTBAL_BFLOAT16 || t->dtype == MTBAL_UNDEFINED ||
        t->dtype == MTBAL_COMPLEX64 || t->dtype == MTBAL_COMPLEX128)
        return "%s has an element type that no kernel knows";
    return NULL;
}

/* Outputs of a node whose input could not be made: silently, the first one is reported. */
static bool refused_before(lowering *l, const mtbal_node *node)
{
    bool refused = false;
    for (int i = 0; i < node->nin; i++)
        refused = refused || (node->in[i] && lower_is_refused(l, node->in[i]));
    for (int i = 0; i < node->nout && refused; i++) {
        place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (p)
            p->refused = true;
    }
    return refused;
}

static const char *first_unfit(lowering *l, const mtbal_node *node, const mtbal_value **which)
{
    for (int i = 0; i < node->nin + node->nout; i++) {
        const mtbal_value *v = i < node->nin ? node->in[i] : node->out[i - node->nin];
        const char *why = v ? unfit(l, v) : NULL;
        if (why) {
            *which = v;
            return why;
        }
    }
    return NULL;
}

mtbal_status lower_emit_node(lowering *l, mtbal_node *node)
{
    const mtbal_value *which = NULL;
    if (mtbal_node_is(node, MTBAL_OP_constant) || all_constant_outputs(node) ||
        refused_before(l, node))
        return MTBAL_OK;
    l->label = mtbal_arena_printf(l->plan->arena, "%s (%s)", lower_label(node), node->op);
    l->opset = lower_opset(l, node);
    if (!l->label)
        return mtbal_no_memory(l->diag);
    bool control = mtbal_node_is(node, MTBAL_OP_if) || mtbal_node_is(node, MTBAL_OP_loop);
    lower_fn *rule = control ? lower_emit_control : lower_rule(node);
    const place *p = node->nout && node->out[0] ? lower_place(l, node->out[0]) : NULL;
    if (node->nout && node->out[0] && !p)
        return mtbal_no_memory(l->diag);
    const char *why = p ? p->why : NULL;
    if (!rule && !why)
        return lower_refuse(l, node, "there is no kernel for this op");
    if (!why)
        why = first_unfit(l, node, &which);
    if (why && strstr(why, "%s")) /* every %s of unfit() stands for the value */
        return lower_refuse(l, node, "%.*s%s%s", (int)(strstr(why, "%s") - why), why, which->name,
                            strstr(why, "%s") + 2);
    if (why)
        return lower_refuse(l, node, "%s", why);
    lower_choose_width(l, node);
    MTBAL_TRY(rule(l, node));
    MTBAL_TRY(lower_narrow(l));
    return l->status;
}

mtbal_status lower_emit_graph(lowering *l, mtbal_graph *graph)
{
    for (mtbal_node *node = graph->first; node; node = node->next) {
        MTBAL_TRY(mtbal_poll(l->diag));
        MTBAL_TRY(lower_emit_fused(l, node));
    }
    return l->status;
}

/* ------------------------------------------------------------------ both ends */

static mtbal_status place_input(lowering *l, const mtbal_value *v, int region, int *cell_index)
{
    place *p = lower_place(l, v);
    if (!p)
        return mtbal_no_memory(l->diag);
    if (v->type.kind != MTBAL_TENSOR || !mtbal_shape_known(&v->type) ||
        v->type.rank > RT_MAX_RANK || !mtbal_dtype_size(v->type.dtype)) {
        if (!p->used)
            return MTBAL_OK;
        return mtbal_fail(l->diag, MTBAL_UNSUPPORTED, l->model->path, NULL,
                          "input %s: the runtime takes tensors of numbers of up to 8 dimensions",
                          v->name);
    }
    l->label = v->name;
    p->at = op_of_type(l, &v->type);
    if (p->at.cell < 0)
        return l->status;
    p->placed = true;
    l->cells[p->at.cell].region = region;
    if (cell_index)
        *cell_index = p->at.cell;
    return MTBAL_OK;
}

mtbal_status lower_place_inputs(lowering *l)
{
    for (int i = 0; i < l->nstates; i++)
        MTBAL_TRY(place_input(l, l->states[i].value, REGION_STATE, &l->states[i].cell));
    for (int i = 0; i < l->graph->ninputs; i++) {
        const mtbal_value *v = l->graph->inputs[i];
        const place *p = lower_place(l, v);
        if (!p)
            return mtbal_no_memory(l->diag);
        if (!p->placed)
            MTBAL_TRY(place_input(l, v, REGION_INPUT, NULL));
    }
    return MTBAL_OK;
}

static int state_whose_next(const lowering *l, const mtbal_value *v)
{
    for (int i = 0; i < l->nstates; i++)
        if (l->states[i].next == v)
            return i;
    return -1;
}

operand op_copy(lowering *l, operand x)
{
    operand y = op_temp(l, x.dtype, x.rank, x.dims);
    if (y.cell >= 0)
        op_call1(l, RT_KERNEL_copy, NULL, x, y);
    return y;
}

/* Outputs have memory of their own that stays until the next step; one that is the next value of a
 * state is read there. */
mtbal_status lower_finish(lowering *l)
{
    l->label = "outputs";
    l->output_at = mtbal_arena_array(l->plan->arena, (size_t)l->noutputs + 1, sizeof(operand));
    if (!l->output_at)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < l->noutputs; i++) {
        operand x = op_of_value(l, l->outputs[i]);
        int state = state_whose_next(l, l->outputs[i]);
        if (x.cell < 0)
            return l->status;
        if (state >= 0) {
            x.cell = l->states[state].cell;
            x.offset = 0;
        } else if (l->cells[x.cell].region == REGION_ARENA) {
            l->cells[x.cell].region = REGION_OUTPUT;
        } else if (l->cells[x.cell].region != REGION_OUTPUT) {
            x = op_copy(l, x);
            if (x.cell >= 0)
                l->cells[x.cell].region = REGION_OUTPUT;
        }
        l->output_at[i] = x;
    }
    return l->status;
}
