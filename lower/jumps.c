/* lower/jumps.c: control flow that depends on data: both branches, or one body, between jumps. */
#include "lower/ops/ops.h"

static mtbal_graph *body_of(const mtbal_node *node, const char *name)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    return a && a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
}

static void copy_to(lowering *l, operand x, operand y)
{
    op_call1(l, RT_KERNEL_copy, NULL, x, y);
}

/* A branch, its results copied to the outputs of the If. */
static mtbal_status emit_branch(lowering *l, mtbal_node *node, mtbal_graph *branch,
                                const operand *out)
{
    MTBAL_TRY(lower_emit_graph(l, branch));
    for (int i = 0; i < node->nout; i++) {
        if (out[i].cell < 0)
            continue;
        if (lower_is_refused(l, branch->outputs[i]))
            return lower_refuse(l, node, "a branch cannot be lowered");
        copy_to(l, op_of_value(l, branch->outputs[i]), out[i]);
    }
    return l->status;
}

static mtbal_status emit_if(lowering *l, mtbal_node *node)
{
    mtbal_graph *yes = body_of(node, "then_branch"), *no = body_of(node, "else_branch");
    operand *out = mtbal_arena_array(l->arena, (size_t)node->nout + 1, sizeof *out);
    if (!out)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < node->nout; i++)
        out[i] = op_out(l, node, i);
    int to_else = op_jump(l, op_in(l, node, 0));
    MTBAL_TRY(emit_branch(l, node, yes, out));
    int to_end = op_jump(l, op_none());
    MTBAL_TRY(l->status);
    l->calls[to_else].jump = l->ncalls;
    MTBAL_TRY(emit_branch(l, node, no, out));
    l->calls[to_end].jump = l->ncalls;
    return l->status;
}

/* The values that a loop carries: memory of its own, written at the end of each turn. A result that
 * is itself a carried value is saved first: the others may be read by it. */
static mtbal_status carry(lowering *l, const mtbal_graph *body, int n, const operand *carried)
{
    operand *next = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *next);
    if (!next)
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < n; i++) {
        next[i] = op_of_value(l, body->outputs[1 + i]);
        for (int k = 0; k < n; k++)
            if (k != i && next[i].cell == carried[k].cell) {
                next[i] = op_copy(l, next[i]);
                break;
            }
    }
    for (int i = 0; i < n; i++)
        if (next[i].cell != carried[i].cell)
            copy_to(l, next[i], carried[i]);
    return l->status;
}

static bool add_loop(lowering *l, int begin, int end)
{
    if (!lower_grow((void **)&l->loops, &l->loop_capacity, l->nloops, sizeof *l->loops))
        return false;
    l->loops[l->nloops++] = (lower_loop){begin, end};
    return true;
}

static mtbal_status emit_loop(lowering *l, mtbal_node *node)
{
    mtbal_graph *body = body_of(node, "body");
    int n = node->nin - 2;
    int64_t first = mtbal_attr_i(node, "mtbal_first", 0);
    operand *carried = mtbal_arena_array(l->arena, (size_t)n + 1, sizeof *carried);
    operand count, go, trips = op_in(l, node, 0), start = op_in(l, node, 1);
    const unsigned char yes = 1;
    if (!carried)
        return mtbal_no_memory(l->diag);
    operand zero = op_constant(l, RT_I64, 0, NULL, &first);
    operand one = op_constant(l, RT_I64, 0, NULL, (int64_t[]){1});
    count = op_copy(l, zero);
    go = op_copy(l, start.cell >= 0 ? op_view(start, 0, NULL)
                                    : op_constant(l, RT_BOOL, 0, NULL, &yes));
    for (int i = 0; i < n; i++) {
        carried[i] = op_copy(l, op_in(l, node, 2 + i));
        op_set_value(l, body->inputs[2 + i], carried[i]);
    }
    op_set_value(l, body->inputs[0], count);
    op_set_value(l, body->inputs[1], go);
    int begin = l->ncalls, out_of_trips = -1;
    if (trips.cell >= 0)
        out_of_trips = op_jump(l, op_binary(l, RT_BINARY_less, count, op_view(trips, 0, NULL)));
    int stopped = op_jump(l, go);
    MTBAL_TRY(lower_emit_graph(l, body));
    for (int i = 0; i <= n; i++)
        if (lower_is_refused(l, body->outputs[i]))
            return lower_refuse(l, node, "its body cannot be lowered");
    operand next_go = op_of_value(l, body->outputs[0]);
    if (next_go.cell != go.cell)
        copy_to(l, op_view(next_go, 0, NULL), go);
    MTBAL_TRY(carry(l, body, n, carried));
    copy_to(l, op_binary(l, RT_BINARY_add, count, one), count);
    int back = op_jump(l, op_none());
    MTBAL_TRY(l->status);
    l->calls[back].jump = begin;
    l->calls[stopped].jump = l->ncalls;
    if (out_of_trips >= 0)
        l->calls[out_of_trips].jump = l->ncalls;
    if (!add_loop(l, begin, back))
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < node->nout && i < n; i++)
        op_set_out(l, node, i, carried[i]);
    return l->status;
}

mtbal_status lower_emit_control(lowering *l, mtbal_node *node)
{
    return mtbal_node_is(node, MTBAL_OP_if) ? emit_if(l, node) : emit_loop(l, node);
}
