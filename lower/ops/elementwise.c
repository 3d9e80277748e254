/* lower/ops/elementwise.c: operators that work element by element. */
#include "lower/ops/ops.h"

#include <string.h>

/* ------------------------------------------------------------------ one operand */

/* The kernel column's unary(F, a, x, b, y): attribute a is parameter a of formula F, x without it;
 * b and y likewise. */
typedef struct unary_row {
    int op;
    const char *a; /* "": none */
    double x;
    const char *b;
    double y;
} unary_row;

#define ROW_unary(...) ~, (&(const unary_row)ROW(__VA_ARGS__, , 0, , 0, ))
#define ROW(formula, a, x, b, y, ...)    \
    {                                    \
        RT_UNARY_##formula, #a, x, #b, y \
    }
static const unary_row *const unary_rows[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(ROW_##kernel, NULL),
#include "graph/ops.def"
#undef OP
};

/* The types that the formulas are defined for. */
enum { REAL = 1, INTEGER = 2, BOTH = REAL | INTEGER };
static const unsigned char unary_types[] = {
#define UNARY(name, types, real, integer) types,
#include "runtime/elementwise.def"
};
static const unsigned char binary_types[] = {
#define BINARY(name, types, real, integer) types,
#include "runtime/elementwise.def"
};

bool op_has_real(int unary, int binary)
{
    return unary >= 0 ? unary_types[unary] & REAL : binary >= 0 && binary_types[binary] & REAL;
}

static double parameter(const mtbal_node *node, const char *name, double otherwise)
{
    const mtbal_attr *a = *name ? mtbal_attr_find(node, name) : NULL;
    return a && a->kind == MTBAL_ATTR_INT ? (double)a->i : mtbal_attr_f(node, name, otherwise);
}

int op_unary_of(const mtbal_node *node, rt_unary_attr *at)
{
    const unary_row *row = node->opcode >= 0 ? unary_rows[node->opcode] : NULL;
    *at = (rt_unary_attr){.op = -1};
    if (!row)
        return -1;
    *at = (rt_unary_attr){.op = row->op,
                          .alpha = parameter(node, row->a, row->x),
                          .beta = parameter(node, row->b, row->y)};
    if (row->op == RT_UNARY_gelu && !strcmp(mtbal_attr_s(node, "approximate", "none"), "tanh"))
        at->op = RT_UNARY_gelu_tanh;
    return (*row->a != 0) + (*row->b != 0);
}

mtbal_status lower_unary(lowering *l, mtbal_node *node)
{
    rt_unary_attr at;
    op_unary_of(node, &at);
    operand x = op_in(l, node, 0);
    bool is_float = mtbal_dtype_is_float((mtbal_dtype)x.dtype);
    if (!is_float && !(unary_types[at.op] & INTEGER)) { /* such as Shrink of uint8 */
        operand wide = op_cast_to(l, x, RT_F64), y = op_temp(l, RT_F64, x.rank, x.dims);
        op_call1(l, RT_KERNEL_unary, &at, wide, y);
        op_call1(l, RT_KERNEL_cast, NULL, y, op_out(l, node, 0));
        return MTBAL_OK;
    }
    op_call1(l, RT_KERNEL_unary, &at, x, op_out(l, node, 0));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ two operands */

#define BINARY_binary(formula)   ~, RT_BINARY_##formula
#define BINARY_variadic(formula) ~, RT_BINARY_##formula
static const signed char binary_rows[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_PICK(BINARY_##kernel, -1),
#include "graph/ops.def"
#undef OP
};

int op_binary_of(const mtbal_node *node)
{
    int op = node->opcode >= 0 ? binary_rows[node->opcode] : -1;
    if (op == RT_BINARY_mod && mtbal_attr_i(node, "fmod", 0))
        return RT_BINARY_fmod;
    if (op == RT_BINARY_shift_left && !strcmp(mtbal_attr_s(node, "direction", "LEFT"), "RIGHT"))
        return RT_BINARY_shift_right;
    return op;
}

/* Before opset 7 the second operand may start at an axis of the first. */
static operand old_broadcast(lowering *l, const mtbal_node *node, operand a, operand b)
{
    if (l->opset >= 7 || !mtbal_attr_find(node, "axis") || b.rank > a.rank)
        return b;
    int64_t axis = mtbal_attr_i(node, "axis", 0), dims[RT_MAX_RANK];
    axis += axis < 0 ? a.rank : 0;
    if (axis < 0 || axis + b.rank > a.rank)
        return b;
    for (int d = 0; d < a.rank - axis; d++)
        dims[d] = d < b.rank ? b.dims[d] : 1;
    return op_view(b, a.rank - (int)axis, dims);
}

/* PRelu's slope broadcasts to x in one direction only; before opset 7 it was per channel. */
static operand slope(operand x, operand s)
{
    if (s.rank == 1 && x.rank > 2 && s.dims[0] != 1 && s.dims[0] != x.dims[x.rank - 1] &&
        s.dims[0] == x.dims[1]) {
        int64_t dims[RT_MAX_RANK];
        for (int d = 0; d < x.rank - 1; d++)
            dims[d] = d ? 1 : s.dims[0];
        return op_view(s, x.rank - 1, dims);
    }
    return s;
}

mtbal_status lower_binary(lowering *l, mtbal_node *node)
{
    rt_binary_attr at = {.op = op_binary_of(node)};
    operand a = op_in(l, node, 0), b = op_in(l, node, 1);
    if (at.op < 0 || a.cell < 0 || b.cell < 0)
        return lower_refuse(l, node, "an operand is missing");
    b = at.op == RT_BINARY_prelu ? slope(a, b) : old_broadcast(l, node, a, b);
    if (a.dtype != b.dtype && at.op != RT_BINARY_pow)
        return lower_refuse(l, node, "its operands have two types");
    operand in[2] = {a, b}, y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_binary, &at, 2, in, 1, &y);
    return MTBAL_OK;
}

/* Sum, Mean, Max and Min of any number of operands. */
mtbal_status lower_variadic(lowering *l, mtbal_node *node)
{
    int op = op_binary_of(node);
    operand sum = op_in(l, node, 0);
    if (sum.cell < 0)
        return lower_refuse(l, node, "an operand is missing");
    for (int i = 1; i < node->nin; i++)
        sum = op_binary(l, op, sum, op_in(l, node, i));
    if (mtbal_node_is(node, MTBAL_OP_mean) && node->nin > 1) {
        operand y = op_out(l, node, 0);
        rt_binary_attr at = {.op = RT_BINARY_div};
        op_call_n(l, RT_KERNEL_binary, &at, 2, (operand[]){sum, op_scalar(l, sum.dtype, node->nin)},
                  1, &y);
        return MTBAL_OK;
    }
    op_give(l, node, 0, sum);
    return MTBAL_OK;
}

mtbal_status lower_where(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_where, NULL, 3, in, 1, &y);
    return MTBAL_OK;
}

/* Clip between attributes (before opset 11) or inputs, each of which may be left out. */
mtbal_status lower_clip(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0), low = op_in(l, node, 1), high = op_in(l, node, 2);
    const mtbal_attr *min = mtbal_attr_find(node, "min"), *max = mtbal_attr_find(node, "max");
    if (min)
        low = op_scalar(l, x.dtype, min->f);
    if (max)
        high = op_scalar(l, x.dtype, max->f);
    if (low.cell >= 0)
        x = op_binary(l, RT_BINARY_max, x, low);
    if (high.cell >= 0)
        x = op_binary(l, RT_BINARY_min, x, high);
    op_give(l, node, 0, x);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ types */

mtbal_status lower_cast(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    if (x.dtype == (int)node->out[0]->type.dtype) {
        op_alias(l, node, 0, x);
        return MTBAL_OK;
    }
    op_call1(l, RT_KERNEL_cast, NULL, x, op_out(l, node, 0));
    return MTBAL_OK;
}

/* The same bytes under another type of the same size. */
mtbal_status lower_bit_cast(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    if (rt_dtype_size(x.dtype) != rt_dtype_size((int)node->out[0]->type.dtype))
        return lower_refuse(l, node, "the types differ in size");
    x.dtype = (int32_t)node->out[0]->type.dtype;
    op_alias(l, node, 0, x);
    return MTBAL_OK;
}
