/* lower/groups.c: groups of nodes that work element by element on one shape; each becomes one
 * `chain` call, one pass over memory instead of one per node. */
#include "lower/ops/ops.h"

#include <string.h>

/* A group grows while the graph is walked in order. It is closed when a node outside reads one of
 * its values: that node needs them, so nothing that comes later can be part of the group, which
 * runs where its last member stood. */

typedef struct chain_builder { /* the code of a group, as the kernel wants it */
    lowering *l;
    group *g;
    rt_chain_attr at;
    operand in[RT_CHAIN_INPUTS], out[RT_CHAIN_OUTPUTS];
    const mtbal_value *inputs[RT_CHAIN_INPUTS]; /* NULL: a number */
    bool full;
} chain_builder;

/* ------------------------------------------------------------------ what may be in a group */

/* Adam's is faster as a kernel of its own. */
static bool is_update(const mtbal_node *node)
{
    return mtbal_node_is(node, MTBAL_OP_sgd_update) ||
           mtbal_node_is(node, MTBAL_OP_momentum_update);
}

static bool known_op(const mtbal_node *node)
{
    rt_unary_attr at;
    if (is_update(node) || mtbal_node_is(node, MTBAL_OP_where) ||
        mtbal_node_is(node, MTBAL_OP_cast) || mtbal_node_is(node, MTBAL_OP_cast_like) ||
        (mtbal_node_is(node, MTBAL_OP_clip) && !mtbal_attr_find(node, "min") &&
         !mtbal_attr_find(node, "max")))
        return true;
    op_unary_of(node, &at);
    return op_has_real(at.op, op_binary_of(node)) && !mtbal_attr_find(node, "axis");
}

static bool is_float_type(mtbal_dtype d)
{
    return d == MTBAL_FLOAT || d == MTBAL_DOUBLE;
}

/* The one float type that the node computes in, all else being bool; MTBAL_UNDEFINED: it may not be
 * in a group. Nodes on bools alone give MTBAL_BOOL. */
static mtbal_dtype computing_type(lowering *l, const mtbal_node *node)
{
    mtbal_dtype found = MTBAL_BOOL;
    if (!known_op(node) || !node->nout || !node->out[0] || lower_is_constant(node->out[0]))
        return MTBAL_UNDEFINED;
    for (int i = 0; i < node->nin + node->nout; i++) {
        const mtbal_value *v = i < node->nin ? node->in[i] : node->out[i - node->nin];
        /* the second operand of CastLike only gives its type */
        if (!v || (i == 1 && i < node->nin && mtbal_node_is(node, MTBAL_OP_cast_like)))
            continue;
        const place *p = lower_place(l, v);
        if (!p || p->why || p->refused || !mtbal_shape_known(&v->type) || v->type.rank < 0 ||
            v->type.rank > RT_MAX_RANK)
            return MTBAL_UNDEFINED;
        if (v->type.dtype == MTBAL_BOOL)
            continue;
        if (!is_float_type(v->type.dtype) || (found != MTBAL_BOOL && found != v->type.dtype))
            return MTBAL_UNDEFINED;
        found = v->type.dtype;
    }
    return found;
}

/* The same elements in the same order: equal dims but for leading ones. */
static bool same_shape(const mtbal_type *a, const mtbal_type *b)
{
    int r = a->rank > b->rank ? a->rank : b->rank;
    for (int d = 1; d <= r; d++)
        if ((d <= a->rank ? a->dims[a->rank - d].size : 1) !=
            (d <= b->rank ? b->dims[b->rank - d].size : 1))
            return false;
    return true;
}

/* All outputs of a node have the shape of the first. */
static bool one_shape(const mtbal_node *node)
{
    for (int i = 1; i < node->nout && node->out[0]; i++)
        if (node->out[i] && !same_shape(&node->out[i]->type, &node->out[0]->type))
            return false;
    return true;
}

/* ------------------------------------------------------------------ writing code */

static int operand_index(chain_builder *c, const mtbal_value *v, operand x)
{
    for (int i = 0; i < c->at.nin; i++)
        if (v ? c->inputs[i] == v : x.cell >= 0 && c->in[i].cell == x.cell)
            return i;
    if (c->at.nin == RT_CHAIN_INPUTS) {
        c->full = true;
        return 0;
    }
    c->inputs[c->at.nin] = v;
    c->in[c->at.nin] = x;
    return c->at.nin++;
}

/* Results are numbered from RESULT on until the number of inputs is known. */
enum { RESULT = 128 };

static int emit_code(chain_builder *c, int op, int a, int b, int w)
{
    if (c->at.ncode == RT_CHAIN_CODE) {
        c->full = true;
        return RESULT;
    }
    const int given[4] = {op, a, b, w};
    for (int i = 0; i < 4; i++)
        c->at.code[4 * c->at.ncode + i] = (uint8_t)(given[i] < 0 ? RT_CHAIN_NONE : given[i]);
    return RESULT + c->at.ncode++;
}

static int binary(chain_builder *c, int op, int a, int b)
{
    return emit_code(c, RT_CHAIN_BINARY + op, a, b, -1);
}

static int number(chain_builder *c, double x)
{
    return operand_index(c, NULL, op_scalar(c->l, c->at.is_double ? RT_F64 : RT_F32, x));
}

/* The operand of a value: a result of this group, or an input. */
static int value_index(chain_builder *c, const mtbal_value *v)
{
    const place *p = lower_place(c->l, v);
    if (p->group == c->g && p->code >= 0)
        return p->code;
    return operand_index(c, v, op_of_value(c->l, v));
}

static int operand_of(chain_builder *c, const mtbal_node *node, int i)
{
    return op_given(node, i) ? value_index(c, node->in[i]) : -1;
}

static void set_result(chain_builder *c, const mtbal_value *v, int index)
{
    place *p = v ? lower_place(c->l, v) : NULL;
    if (p)
        p->code = index;
}

/* p - lr g; or through the momentum m' = mu m + g. */
static void momentum_code(chain_builder *c, const mtbal_node *node)
{
    bool plain = mtbal_node_is(node, MTBAL_OP_sgd_update);
    int p = operand_of(c, node, 0), g = operand_of(c, node, 1);
    int lr = operand_of(c, node, plain ? 2 : 3), step = g;
    if (!plain) {
        step = binary(c, RT_BINARY_add,
                      binary(c, RT_BINARY_mul, operand_of(c, node, 4), operand_of(c, node, 2)), g);
        set_result(c, op_wants(node, 1) ? node->out[1] : NULL, step);
    }
    set_result(c, op_wants(node, 0) ? node->out[0] : NULL,
               binary(c, RT_BINARY_sub, p, binary(c, RT_BINARY_mul, lr, step)));
}

static int unary_code(chain_builder *c, const mtbal_node *node, const rt_unary_attr *at, int n)
{
    int a = n > 0 ? number(c, at->alpha) : -1, b = n > 1 ? number(c, at->beta) : -1;
    return emit_code(c, RT_CHAIN_UNARY + at->op, operand_of(c, node, 0), a, b);
}

/* A truth value is 1 or 0 already; a number is true when it is not 0. */
static int cast_code(chain_builder *c, const mtbal_node *node)
{
    int x = operand_of(c, node, 0);
    bool from_bool = node->in[0]->type.dtype == MTBAL_BOOL;
    bool to_bool = node->out[0]->type.dtype == MTBAL_BOOL;
    if (to_bool && !from_bool)
        return binary(c, RT_BINARY_logical_and, x, x);
    /* the same number: of a truth value its absolute, of any other -(-x) */
    return from_bool ? emit_code(c, RT_CHAIN_UNARY + RT_UNARY_abs, x, -1, -1)
                     : emit_code(c, RT_CHAIN_UNARY + RT_UNARY_neg,
                                 emit_code(c, RT_CHAIN_UNARY + RT_UNARY_neg, x, -1, -1), -1, -1);
}

static void node_code(chain_builder *c, const mtbal_node *node)
{
    rt_unary_attr at;
    int op = op_binary_of(node), parameters = op_unary_of(node, &at), y;
    if (is_update(node)) {
        momentum_code(c, node);
        return;
    }
    if (mtbal_node_is(node, MTBAL_OP_where)) {
        y = emit_code(c, RT_CHAIN_WHERE, operand_of(c, node, 0), operand_of(c, node, 1),
                      operand_of(c, node, 2));
    } else if (mtbal_node_is(node, MTBAL_OP_cast) || mtbal_node_is(node, MTBAL_OP_cast_like)) {
        y = cast_code(c, node);
    } else if (mtbal_node_is(node, MTBAL_OP_clip)) {
        y = operand_of(c, node, 0);
        if (op_given(node, 1))
            y = binary(c, RT_BINARY_max, y, operand_of(c, node, 1));
        if (op_given(node, 2) || y < RESULT)
            y = binary(c, RT_BINARY_min, y, op_given(node, 2) ? operand_of(c, node, 2) : y);
    } else if (at.op >= 0) {
        y = unary_code(c, node, &at, parameters);
    } else {
        y = operand_of(c, node, 0);
        for (int i = 1; i < node->nin; i++)
            y = binary(c, op, y, operand_of(c, node, i));
        if (mtbal_node_is(node, MTBAL_OP_mean))
            y = binary(c, RT_BINARY_div, y, number(c, node->nin));
        if (y < RESULT)
            y = binary(c, RT_BINARY_max, y, y);
    }
    set_result(c, node->out[0], y);
}

/* ------------------------------------------------------------------ the limits of a group */

/* Instructions that a node takes at most. */
static int room_of(const mtbal_node *node)
{
    if (is_update(node))
        return 5;
    return mtbal_node_is(node, MTBAL_OP_where) ? 1 : node->nin == 2 ? 2 : node->nin + 1;
}

static bool is_input(const group *g, const mtbal_value *v)
{
    for (int i = 0; i < g->ninputs; i++)
        if (g->inputs[i] == v)
            return true;
    return false;
}

static bool made_in(lowering *l, const group *g, const mtbal_value *v)
{
    return lower_place(l, v)->group == g;
}

static int new_inputs(lowering *l, const group *g, const mtbal_node *node)
{
    int n = 0;
    for (int i = 0; i < node->nin; i++)
        n += node->in[i] && !made_in(l, g, node->in[i]) && !is_input(g, node->in[i]);
    return n;
}

/* Results that are needed outside: their uses inside do not cover all. */
static int needed_outside(lowering *l, const group *g)
{
    int n = 0;
    for (int i = 0; i < g->count; i++)
        for (int k = 0; k < g->members[i]->nout; k++) {
            const mtbal_value *v = g->members[i]->out[k];
            const place *p = v ? lower_place(l, v) : NULL;
            n += p && p->uses > p->uses_inside;
        }
    return n;
}

static void put_member(lowering *l, group *g, mtbal_node *node)
{
    for (int i = 0; i < node->nin; i++) {
        mtbal_value *v = node->in[i];
        if (!v)
            continue;
        if (made_in(l, g, v))
            lower_place(l, v)->uses_inside++;
        else if (!is_input(g, v) && g->ninputs < RT_CHAIN_INPUTS)
            g->inputs[g->ninputs++] = v;
    }
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            lower_place(l, node->out[i])->group = g;
    g->members[g->count++] = node;
    g->room += room_of(node);
}

/* Takes the last member out again. */
static void take_back(lowering *l, group *g, const mtbal_node *node, int ninputs)
{
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            lower_place(l, node->out[i])->group = NULL;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && made_in(l, g, node->in[i]))
            lower_place(l, node->in[i])->uses_inside--;
    g->count--;
    g->ninputs = ninputs;
    g->room -= room_of(node);
}

static bool join(lowering *l, group *g, mtbal_node *node, mtbal_dtype dtype)
{
    const mtbal_value *shown = g->members[0]->out[0];
    bool types_fit = dtype == MTBAL_BOOL || g->dtype == MTBAL_BOOL || g->dtype == dtype;
    if (g->closed || !types_fit || !same_shape(&shown->type, &node->out[0]->type) ||
        g->room + room_of(node) > RT_CHAIN_CODE ||
        g->ninputs + new_inputs(l, g, node) > RT_CHAIN_INPUTS - 3 || g->count == GROUP_MEMBERS)
        return false;
    int ninputs = g->ninputs;
    put_member(l, g, node);
    if (needed_outside(l, g) > RT_CHAIN_OUTPUTS) {
        take_back(l, g, node, ninputs);
        return false;
    }
    if (g->dtype == MTBAL_BOOL)
        g->dtype = dtype;
    return true;
}

/* ------------------------------------------------------------------ the walk */

static void close_all(lowering *l)
{
    for (group *g = l->groups; g; g = g->next)
        g->closed = true;
}

/* Groups that the node reads from are complete. */
static void close_read(lowering *l, const mtbal_node *node, const group *but)
{
    for (int i = 0; i < node->nin; i++) {
        group *g = node->in[i] ? lower_place(l, node->in[i])->group : NULL;
        if (g && g != but)
            g->closed = true;
    }
}

static group *open_group(lowering *l, mtbal_node *node, mtbal_dtype dtype)
{
    group *g = mtbal_arena_alloc(l->arena, sizeof *g);
    if (!g)
        return NULL;
    g->dtype = dtype;
    g->next = l->groups;
    l->groups = g;
    put_member(l, g, node);
    return g;
}

static int order_of(lowering *l, const mtbal_node *node)
{
    return lower_place(l, node->out[0])->order;
}

/* Both groups as one, when that fits: nobody outside has read either, so both can wait. */
static bool unite(lowering *l, group *g, group *other)
{
    const mtbal_value *a = g->members[0]->out[0], *b = other->members[0]->out[0];
    mtbal_node *members[GROUP_MEMBERS];
    bool types_fit =
        g->dtype == MTBAL_BOOL || other->dtype == MTBAL_BOOL || g->dtype == other->dtype;
    int n = 0, i = 0, k = 0, ninputs = g->ninputs;
    if (other->closed || !types_fit || !same_shape(&a->type, &b->type) ||
        g->count + other->count > GROUP_MEMBERS || g->room + other->room > RT_CHAIN_CODE ||
        needed_outside(l, g) + needed_outside(l, other) > RT_CHAIN_OUTPUTS + 1)
        return false;
    for (int e = 0; e < other->ninputs; e++)
        ninputs += !is_input(g, other->inputs[e]);
    if (ninputs > RT_CHAIN_INPUTS - 3)
        return false;
    while (i < g->count || k < other->count) {
        bool mine = k == other->count ||
                    (i < g->count && order_of(l, g->members[i]) < order_of(l, other->members[k]));
        members[n++] = mine ? g->members[i++] : other->members[k++];
    }
    memcpy(g->members, members, (size_t)n * sizeof *members);
    g->count = n;
    for (int e = 0; e < other->ninputs; e++)
        if (!is_input(g, other->inputs[e]))
            g->inputs[g->ninputs++] = other->inputs[e];
    g->room += other->room;
    g->dtype = g->dtype == MTBAL_BOOL ? other->dtype : g->dtype;
    for (int e = 0; e < other->count; e++)
        for (int m = 0; m < other->members[e]->nout; m++)
            if (other->members[e]->out[m])
                lower_place(l, other->members[e]->out[m])->group = g;
    other->count = 0;
    other->closed = true;
    return true;
}

static group *open_group_of(lowering *l, const mtbal_value *v)
{
    group *g = v ? lower_place(l, v)->group : NULL;
    return g && !g->closed ? g : NULL;
}

/* The node joins the group of one of its inputs, after which that of the others may be part of it
 * too; whatever it reads from outside is closed. */
static mtbal_status place_node(lowering *l, mtbal_node *node, mtbal_dtype dtype)
{
    group *g = NULL;
    for (int i = 0; i < node->nin && !g; i++) {
        g = open_group_of(l, node->in[i]);
        for (int k = i + 1; k < node->nin && g; k++) {
            group *other = open_group_of(l, node->in[k]);
            if (other && other != g)
                unite(l, g, other);
        }
        if (!g)
            continue;
        close_read(l, node, g);
        if (g->closed || !join(l, g, node, dtype)) {
            g->closed = true;
            g = NULL;
        }
    }
    return g || open_group(l, node, dtype) ? MTBAL_OK : mtbal_no_memory(l->diag);
}

static bool holds_graph(const mtbal_node *node)
{
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH)
            return true;
    return false;
}

mtbal_status lower_group(lowering *l)
{
    int order = 0;
    for (mtbal_node *node = l->graph->first; node; node = node->next) {
        mtbal_dtype dtype = MTBAL_UNDEFINED;
        if (node->nout && node->out[0])
            lower_place(l, node->out[0])->order = order++;
        if (lower_opset(l, node) >= 7 && one_shape(node))
            dtype = computing_type(l, node);
        bool grouped = dtype != MTBAL_UNDEFINED && mtbal_shape_count(&node->out[0]->type) > 0;
        if (holds_graph(node))
            close_all(l);
        if (!grouped)
            close_read(l, node, NULL);
        else
            MTBAL_TRY(place_node(l, node, dtype));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ emitting */

/* Members one by one, where the code does not fit after all. */
static mtbal_status emit_apart(lowering *l, const group *g)
{
    for (int i = 0; i < g->count; i++)
        MTBAL_TRY(lower_emit_node(l, g->members[i]));
    return MTBAL_OK;
}

/* Memory for what is needed outside; too many are noticed before any is made. */
static mtbal_status set_outputs(chain_builder *c)
{
    lowering *l = c->l;
    c->full = needed_outside(l, c->g) > RT_CHAIN_OUTPUTS;
    for (int i = 0; i < c->g->count && !c->full; i++)
        for (int k = 0; k < c->g->members[i]->nout; k++) {
            const mtbal_node *node = c->g->members[i];
            const mtbal_value *v = node->out[k];
            const place *p = v ? lower_place(l, v) : NULL;
            if (!p || p->uses <= p->uses_inside)
                continue;
            c->at.result[c->at.nout] = p->code - RESULT;
            c->out[c->at.nout++] = op_out(l, node, k);
        }
    return l->status;
}

static bool any_refused(lowering *l, const group *g)
{
    for (int i = 0; i < g->ninputs; i++)
        if (lower_is_refused(l, g->inputs[i]))
            return true;
    return false;
}

mtbal_status lower_emit_group(lowering *l, group *g)
{
    chain_builder c = {.l = l, .g = g};
    const mtbal_node *last = g->members[g->count - 1];
    if (any_refused(l, g))
        return emit_apart(l, g);
    l->label = mtbal_arena_printf(l->plan->arena, "%s", lower_label(last));
    if (!l->label)
        return mtbal_no_memory(l->diag);
    l->wide = 0;
    c.at.is_double = g->dtype == MTBAL_DOUBLE;
    for (int i = 0; i < g->count; i++)
        for (int k = 0; k < g->members[i]->nout; k++)
            set_result(&c, g->members[i]->out[k], -1);
    for (int i = 0; i < g->count && !c.full; i++)
        node_code(&c, g->members[i]);
    if (!c.full)
        MTBAL_TRY(set_outputs(&c));
    MTBAL_TRY(l->status);
    if (c.full || !c.at.nout)
        return emit_apart(l, g);
    for (int i = 0; i < 4 * c.at.ncode; i++)
        if (i % 4 && c.at.code[i] >= RESULT && c.at.code[i] != RT_CHAIN_NONE)
            c.at.code[i] = (uint8_t)(c.at.code[i] + c.at.nin - RESULT);
    for (int i = 0; i < c.at.nout; i++)
        c.at.result[i] += c.at.nin;
    lower_shorten_chain(&c.at);
    op_call_n(l, RT_KERNEL_chain, &c.at, c.at.nin, c.in, c.at.nout, c.out);
    return l->status;
}
