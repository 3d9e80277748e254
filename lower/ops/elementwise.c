/* lower/ops/elementwise.c: operators that work element by element. */
#include "lower/ops/ops.h"

#include <string.h>

/* ------------------------------------------------------------------ one operand */

typedef struct unary_row {
    const char *name;
    int op;
    const char *alpha, *beta; /* attributes, or NULL */
    double alpha_default, beta_default;
} unary_row;

static const unary_row unary_rows[] = {
    {"Abs", RT_ABS, NULL, NULL, 0, 0},
    {"Neg", RT_NEG, NULL, NULL, 0, 0},
    {"Sign", RT_SIGN, NULL, NULL, 0, 0},
    {"Floor", RT_FLOOR, NULL, NULL, 0, 0},
    {"Ceil", RT_CEIL, NULL, NULL, 0, 0},
    {"Round", RT_ROUND, NULL, NULL, 0, 0},
    {"Sqrt", RT_SQRT, NULL, NULL, 0, 0},
    {"Reciprocal", RT_RECIPROCAL, NULL, NULL, 0, 0},
    {"Exp", RT_EXP, NULL, NULL, 0, 0},
    {"Log", RT_LOG, NULL, NULL, 0, 0},
    {"Sin", RT_SIN, NULL, NULL, 0, 0},
    {"Cos", RT_COS, NULL, NULL, 0, 0},
    {"Tan", RT_TAN, NULL, NULL, 0, 0},
    {"Asin", RT_ASIN, NULL, NULL, 0, 0},
    {"Acos", RT_ACOS, NULL, NULL, 0, 0},
    {"Atan", RT_ATAN, NULL, NULL, 0, 0},
    {"Sinh", RT_SINH, NULL, NULL, 0, 0},
    {"Cosh", RT_COSH, NULL, NULL, 0, 0},
    {"Tanh", RT_TANH, NULL, NULL, 0, 0},
    {"Asinh", RT_ASINH, NULL, NULL, 0, 0},
    {"Acosh", RT_ACOSH, NULL, NULL, 0, 0},
    {"Atanh", RT_ATANH, NULL, NULL, 0, 0},
    {"Erf", RT_ERF, NULL, NULL, 0, 0},
    {"Sigmoid", RT_SIGMOID, NULL, NULL, 0, 0},
    {"Relu", RT_RELU, NULL, NULL, 0, 0},
    {"LeakyRelu", RT_LEAKY_RELU, "alpha", NULL, 0.01, 0},
    {"Elu", RT_ELU, "alpha", NULL, 1, 0},
    {"Celu", RT_CELU, "alpha", NULL, 1, 0},
    {"Selu", RT_SELU, "alpha", "gamma", 1.67326319217681884765625, 1.05070102214813232421875},
    {"Softplus", RT_SOFTPLUS, NULL, NULL, 0, 0},
    {"Softsign", RT_SOFTSIGN, NULL, NULL, 0, 0},
    {"HardSigmoid", RT_HARD_SIGMOID, "alpha", "beta", 0.2, 0.5},
    {"HardSwish", RT_HARD_SWISH, NULL, NULL, 0, 0},
    {"Mish", RT_MISH, NULL, NULL, 0, 0},
    {"Swish", RT_SWISH, "alpha", NULL, 1, 0},
    {"ThresholdedRelu", RT_THRESHOLDED_RELU, "alpha", NULL, 1, 0},
    {"Shrink", RT_SHRINK, "lambd", "bias", 0.5, 0},
    {"Not", RT_NOT, NULL, NULL, 0, 0},
    {"BitwiseNot", RT_BIT_NOT, NULL, NULL, 0, 0},
    {"IsNaN", RT_IS_NAN, NULL, NULL, 0, 0},
    {"IsInf", RT_IS_INF, NULL, NULL, 1, 1},
    {"Gelu", RT_GELU, NULL, NULL, 0, 0},
};

/* The kernel's operator and attributes of a node; false when it is none of the above. */
bool op_unary_of(const mtbal_node *node, rt_unary_attr *at)
{
    const unary_row *row = NULL;
    for (size_t i = 0; i < sizeof unary_rows / sizeof *unary_rows && !row; i++)
        row = mtbal_node_is_named(node, unary_rows[i].name) ? &unary_rows[i] : NULL;
    if (!row)
        return false;
    *at = (rt_unary_attr){.op = row->op, .alpha = row->alpha_default, .beta = row->beta_default};
    if (row->alpha)
        at->alpha = mtbal_attr_f(node, row->alpha, row->alpha_default);
    if (row->beta)
        at->beta = mtbal_attr_f(node, row->beta, row->beta_default);
    if (row->op == RT_IS_INF) {
        at->alpha = (double)mtbal_attr_i(node, "detect_negative", 1);
        at->beta = (double)mtbal_attr_i(node, "detect_positive", 1);
    }
    if (row->op == RT_GELU && !strcmp(mtbal_attr_s(node, "approximate", "none"), "tanh"))
        at->op = RT_GELU_TANH;
    return true;
}

static bool works_on_integers(int op)
{
    return op == RT_ABS || op == RT_NEG || op == RT_SIGN || op == RT_RELU || op == RT_NOT ||
           op == RT_BIT_NOT;
}

mtbal_status lower_unary(lowering *l, mtbal_node *node)
{
    rt_unary_attr at;
    if (!op_unary_of(node, &at))
        return lower_refuse(l, node, "there is no kernel for this op");
    operand x = op_in(l, node, 0);
    bool is_float = mtbal_dtype_is_float((mtbal_dtype)x.dtype);
    if (!is_float && !works_on_integers(at.op)) { /* such as Shrink of uint8 */
        operand wide = op_cast_to(l, x, RT_F64), y = op_temp(l, RT_F64, x.rank, x.dims);
        op_call1(l, RT_KERNEL_unary, &at, wide, y);
        op_call1(l, RT_KERNEL_cast, NULL, y, op_out(l, node, 0));
        return MTBAL_OK;
    }
    op_call1(l, RT_KERNEL_unary, &at, x, op_out(l, node, 0));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ two operands */

static const struct {
    const char *name;
    int op;
} binary_rows[] = {
    {"Add", RT_ADD},
    {"Sub", RT_SUB},
    {"Mul", RT_MUL},
    {"Div", RT_DIV},
    {"Pow", RT_POW},
    {"Max", RT_MAX},
    {"Min", RT_MIN},
    {"Sum", RT_ADD},
    {"Mean", RT_ADD},
    {"Mod", RT_MOD},
    {"Equal", RT_EQUAL},
    {"Less", RT_LESS},
    {"LessOrEqual", RT_LESS_EQUAL},
    {"Greater", RT_GREATER},
    {"GreaterOrEqual", RT_GREATER_EQUAL},
    {"And", RT_AND},
    {"Or", RT_OR},
    {"Xor", RT_XOR},
    {"PRelu", RT_PRELU},
    {"BitShift", RT_SHIFT_LEFT},
    {"BitwiseAnd", RT_BIT_AND},
    {"BitwiseOr", RT_BIT_OR},
    {"BitwiseXor", RT_BIT_XOR},
};

int op_binary_of(const mtbal_node *node)
{
    int op = -1;
    for (size_t i = 0; i < sizeof binary_rows / sizeof *binary_rows && op < 0; i++)
        op = mtbal_node_is_named(node, binary_rows[i].name) ? binary_rows[i].op : -1;
    if (op == RT_MOD && mtbal_attr_i(node, "fmod", 0))
        return RT_FMOD;
    if (op == RT_SHIFT_LEFT && !strcmp(mtbal_attr_s(node, "direction", "LEFT"), "RIGHT"))
        return RT_SHIFT_RIGHT;
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
    b = at.op == RT_PRELU ? slope(a, b) : old_broadcast(l, node, a, b);
    if (a.dtype != b.dtype && at.op != RT_POW)
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
        rt_binary_attr at = {.op = RT_DIV};
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
        x = op_binary(l, RT_MAX, x, low);
    if (high.cell >= 0)
        x = op_binary(l, RT_MIN, x, high);
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
