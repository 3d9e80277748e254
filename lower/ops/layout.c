/* lower/ops/layout.c: operators that move elements, or only rename their axes. */
#include "lower/ops/ops.h"

#include <string.h>

/* Reshape, Squeeze, Unsqueeze, Flatten, Identity: the same memory in other dimensions. */
mtbal_status lower_alias(lowering *l, mtbal_node *node)
{
    op_alias(l, node, 0, op_in(l, node, 0));
    return MTBAL_OK;
}

mtbal_status lower_transpose(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int64_t perm[RT_MAX_RANK];
    int n = op_ints(l, node, "perm", -1, perm, RT_MAX_RANK);
    for (int d = 0; d < x.rank && n < 0; d++)
        perm[d] = x.rank - 1 - d;
    if (n >= 0 && n != x.rank)
        return lower_refuse(l, node, "perm does not match the rank");
    op_give(l, node, 0, op_transpose(l, x, perm));
    return MTBAL_OK;
}

/* Start, end, step per given axis, from attributes (opset < 10) or inputs. */
static bool slice_bounds(lowering *l, const mtbal_node *node, int *n, int64_t *start, int64_t *end,
                         int64_t *axes, int64_t *step)
{
    int m = op_ints(l, node, "starts", 1, start, RT_MAX_RANK);
    int e = op_ints(l, node, "ends", 2, end, RT_MAX_RANK);
    int a = op_ints(l, node, "axes", 3, axes, RT_MAX_RANK);
    int s = op_ints(l, node, NULL, 4, step, RT_MAX_RANK);
    for (int i = 0; i < RT_MAX_RANK && a == -1; i++)
        axes[i] = i;
    for (int i = 0; i < RT_MAX_RANK && s == -1; i++)
        step[i] = 1;
    *n = m;
    return m >= 0 && e == m && (a == -1 || a == m) && (s == -1 || s == m);
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

mtbal_status lower_slice(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int64_t start[RT_MAX_RANK], end[RT_MAX_RANK], axes[RT_MAX_RANK], step[RT_MAX_RANK];
    int64_t stride[RT_MAX_RANK], dims[RT_MAX_RANK], offset = 0;
    int n;
    if (!slice_bounds(l, node, &n, start, end, axes, step))
        return lower_refuse(l, node, "where it begins and ends depends on data");
    op_dense_strides(x, stride);
    memcpy(dims, x.dims, sizeof dims);
    for (int i = 0; i < n; i++) {
        int64_t axis = axes[i] + (axes[i] < 0 ? x.rank : 0);
        if (axis < 0 || axis >= x.rank || step[i] == 0)
            return lower_refuse(l, node, "a wrong axis, or a step of 0");
        int64_t size = x.dims[axis], from = start[i], to = end[i], by = step[i];
        from = clamp(from < 0 ? from + size : from, by < 0 ? -1 : 0, by < 0 ? size - 1 : size);
        to = to < -size ? -1 : to < 0 ? to + size : to;
        to = clamp(to, by < 0 ? -1 : 0, size);
        int64_t count = by > 0 ? (to - from + by - 1) / by : (from - to - by - 1) / -by;
        dims[axis] = count < 0 ? 0 : count;
        offset += dims[axis] ? from * stride[axis] : 0;
        stride[axis] *= by;
    }
    op_give(l, node, 0, op_strided(l, x, offset, x.rank, dims, stride));
    return MTBAL_OK;
}

/* x broadcast to the output's dimensions. */
mtbal_status lower_expand_op(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    const mtbal_type *t = &node->out[0]->type;
    int64_t dense[RT_MAX_RANK], stride[RT_MAX_RANK], dims[RT_MAX_RANK];
    op_dense_strides(x, dense);
    for (int d = 0; d < t->rank; d++) {
        int at = d - (t->rank - x.rank);
        dims[d] = t->dims[d].size;
        stride[d] = at < 0 || x.dims[at] == 1 ? 0 : dense[at];
    }
    op_give(l, node, 0, op_strided(l, x, 0, t->rank, dims, stride));
    return MTBAL_OK;
}

/* Axis by axis (repeats, size): what is not repeated runs on with its neighbours. */
mtbal_status lower_tile(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    const mtbal_type *t = &node->out[0]->type;
    for (int d = 0; d < x.rank; d++) {
        int64_t size = x.dims[d], repeats = size ? t->dims[d].size / size : 0, inner = 1, outer = 1;
        if (repeats == 1)
            continue;
        for (int i = 0; i < x.rank; i++) {
            outer *= i < d ? x.dims[i] : 1;
            inner *= i > d ? x.dims[i] : 1;
        }
        int64_t dims[3] = {outer, repeats, size * inner}, stride[3] = {size * inner, 0, 1};
        int64_t whole[RT_MAX_RANK];
        memcpy(whole, x.dims, sizeof whole);
        whole[d] = size * repeats;
        x = op_view(op_strided(l, x, 0, 3, dims, stride), x.rank, whole);
    }
    op_give(l, node, 0, x);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Concat, Split */

static void put(lowering *l, operand x, operand y, int axis, int64_t at)
{
    int64_t stride[RT_MAX_RANK];
    rt_strided_put_attr a = {0};
    op_dense_strides(y, stride);
    if (op_count(x) == 0)
        return;
    a.offset = at * stride[axis];
    for (int d = 0; d < x.rank; d++) {
        a.stride[d] = (int32_t)stride[d];
        if (a.stride[d] != stride[d]) {
            l->status = mtbal_fail(l->diag, MTBAL_UNSUPPORTED, l->label, "a smaller batch?",
                                   "an axis step of more than 2^31 elements");
            return;
        }
    }
    op_call_n(l, RT_KERNEL_strided_put, &a, 2, (operand[]){x, y}, 1, &y);
}

mtbal_status lower_concat(lowering *l, mtbal_node *node)
{
    int axis, rank = node->out[0]->type.rank;
    int64_t at = 0;
    if (!op_axis(l, node, "axis", l->opset < 4 ? 1 : 0, rank, &axis))
        return MTBAL_OK;
    operand y = op_out(l, node, 0);
    int64_t lead = 1;
    for (int d = 0; d < axis; d++)
        lead *= y.dims[d];
    for (int i = 0; i < node->nin; i++) {
        operand x = op_in(l, node, i);
        if (x.cell < 0)
            return lower_refuse(l, node, "an operand is missing");
        if (lead == 1 && op_count(x)) {
            operand part = op_view(y, x.rank, x.dims);
            part.offset += (size_t)at * (y.dims[axis] ? op_bytes(y) / (size_t)y.dims[axis] : 0);
            op_call1(l, RT_KERNEL_copy, NULL, x, part);
        } else {
            put(l, x, y, axis, at);
        }
        at += x.dims[axis];
    }
    return MTBAL_OK;
}

mtbal_status lower_split(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    int axis;
    int64_t at = 0, stride[RT_MAX_RANK], dims[RT_MAX_RANK];
    if (!op_axis(l, node, "axis", 0, x.rank, &axis))
        return MTBAL_OK;
    op_dense_strides(x, stride);
    memcpy(dims, x.dims, sizeof dims);
    for (int i = 0; i < node->nout; i++) {
        if (!op_wants(node, i))
            return lower_refuse(l, node, "an output of unknown size is left out");
        dims[axis] = node->out[i]->type.dims[axis].size;
        op_give(l, node, i, op_strided(l, x, at * stride[axis], x.rank, dims, stride));
        at += dims[axis];
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ blocks and channels */

/* x seen in n axes, those in the order perm. */
static operand rearrange(lowering *l, operand x, int n, const int64_t *dims, const int64_t *perm)
{
    return op_transpose(l, op_view(x, n, dims), perm);
}

/* (N, b b C', H, W) -> (N, C', H b, W b), the blocks' axes before C' (DCR) or behind it (CRD). */
mtbal_status lower_depth_to_space(lowering *l, mtbal_node *node)
{
    static const int64_t dcr[] = {0, 3, 4, 1, 5, 2}, crd[] = {0, 1, 4, 2, 5, 3};
    operand x = op_in(l, node, 0);
    int64_t b = mtbal_attr_i(node, "blocksize", 1);
    bool is_crd = !strcmp(mtbal_attr_s(node, "mode", "DCR"), "CRD");
    if (x.rank != 4 || b < 1 || x.dims[1] % (b * b))
        return lower_refuse(l, node, "its operand is not (N, C, H, W) with C a multiple of b^2");
    int64_t c = x.dims[1] / (b * b);
    int64_t d[6] = {x.dims[0], is_crd ? c : b, b, is_crd ? b : c, x.dims[2], x.dims[3]};
    op_give(l, node, 0, rearrange(l, x, 6, d, is_crd ? crd : dcr));
    return MTBAL_OK;
}

/* (N, C, H b, W b) -> (N, b b C, H, W), the inverse. */
mtbal_status lower_space_to_depth(lowering *l, mtbal_node *node)
{
    static const int64_t dcr[] = {0, 3, 5, 1, 2, 4}, crd[] = {0, 1, 3, 5, 2, 4};
    operand x = op_in(l, node, 0);
    int64_t b = mtbal_attr_i(node, "blocksize", 1);
    bool is_crd = !strcmp(mtbal_attr_s(node, "mode", "DCR"), "CRD");
    if (x.rank != 4 || b < 1 || x.dims[2] % b || x.dims[3] % b)
        return lower_refuse(l, node, "its operand is not (N, C, H, W) with sizes multiples of b");
    int64_t d[6] = {x.dims[0], x.dims[1], x.dims[2] / b, b, x.dims[3] / b, b};
    op_give(l, node, 0, rearrange(l, x, 6, d, is_crd ? crd : dcr));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ from positions */

mtbal_status lower_constant_of_shape(lowering *l, mtbal_node *node)
{
    const mtbal_attr *value = mtbal_attr_find(node, "value");
    rt_fill_attr a = {.value = 0};
    if (value && value->t) {
        MTBAL_TRY(mtbal_tensor_load(l->model, value->t, l->diag));
        a.value = mtbal_tensor_f64(value->t, 0);
    }
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_fill, &a, 0, NULL, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_range(lowering *l, mtbal_node *node)
{
    operand in[3] = {op_in(l, node, 0), op_in(l, node, 1), op_in(l, node, 2)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_range, NULL, 3, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_trilu(lowering *l, mtbal_node *node)
{
    double k = 0;
    if (op_given(node, 1) && !op_number(l, node, 1, &k))
        return lower_refuse(l, node, "the diagonal depends on data");
    rt_trilu_attr a = {.upper = (int32_t)mtbal_attr_i(node, "upper", 1), .k = (int64_t)k};
    op_call1(l, RT_KERNEL_trilu, &a, op_in(l, node, 0), op_out(l, node, 0));
    return MTBAL_OK;
}

mtbal_status lower_eye_like(lowering *l, mtbal_node *node)
{
    rt_eye_attr a = {.k = mtbal_attr_i(node, "k", 0)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_eye, &a, 0, NULL, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_pad(lowering *l, mtbal_node *node)
{
    static const char *const modes[] = {"constant", "reflect", "edge", "wrap"};
    const char *mode = mtbal_attr_s(node, "mode", "constant");
    operand x = op_in(l, node, 0);
    int64_t pads[2 * RT_MAX_RANK], axes[RT_MAX_RANK];
    int n = op_ints(l, node, mtbal_attr_find(node, "paddings") ? "paddings" : "pads", 1, pads,
                    2 * RT_MAX_RANK),
        m = op_ints(l, node, NULL, 3, axes, RT_MAX_RANK);
    rt_pad_attr a = {.mode = -1, .value = mtbal_attr_f(node, "value", 0)};
    for (int i = 0; i < 4; i++)
        a.mode = strcmp(mode, modes[i]) ? a.mode : i;
    for (int d = 0; d < x.rank && m == -1; d++)
        axes[d] = d;
    m = m == -1 ? x.rank : m;
    if (n < 0 || m < 0 || n != 2 * m || a.mode < 0)
        return lower_refuse(l, node, "how much is padded depends on data");
    bool computed = op_given(node, 2) && !op_number(l, node, 2, &a.value);
    for (int i = 0; i < m; i++) {
        int64_t axis = axes[i] + (axes[i] < 0 ? x.rank : 0);
        if (axis < 0 || axis >= x.rank)
            return lower_refuse(l, node, "a wrong axis");
        a.begin[axis] = (int32_t)pads[i];
    }
    operand in[2] = {x, computed ? op_in(l, node, 2) : op_none()}, y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_pad, &a, 2, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_reverse_sequence(lowering *l, mtbal_node *node)
{
    rt_reverse_sequence_attr a = {.batch_axis = (int32_t)mtbal_attr_i(node, "batch_axis", 1),
                                  .time_axis = (int32_t)mtbal_attr_i(node, "time_axis", 0)};
    operand in[2] = {op_in(l, node, 0), op_cast_to(l, op_in(l, node, 1), RT_I64)};
    operand y = op_out(l, node, 0);
    op_call_n(l, RT_KERNEL_reverse_sequence, &a, 2, in, 1, &y);
    return MTBAL_OK;
}

/* CumSum, CumProd and CumProd's gradient: one attribute struct for all. */
static mtbal_status cumulate(lowering *l, const mtbal_node *node, int kernel, int nin,
                             const operand *in, double axis)
{
    rt_cum_sum_attr a = {.exclusive = (int32_t)mtbal_attr_i(node, "exclusive", 0),
                         .reverse = (int32_t)mtbal_attr_i(node, "reverse", 0)};
    axis += axis < 0 ? in[0].rank : 0;
    if (!(axis >= 0 && axis < in[0].rank))
        return lower_refuse(l, node, "its axis is out of the range of its operand");
    a.axis = (int32_t)axis;
    operand y = op_out(l, node, 0);
    op_call_n(l, kernel, &a, nin, in, 1, &y);
    return MTBAL_OK;
}

mtbal_status lower_cum_sum(lowering *l, mtbal_node *node)
{
    operand x = op_in(l, node, 0);
    double axis = 0;
    if (!op_number(l, node, 1, &axis))
        return lower_refuse(l, node, "the axis depends on data");
    return cumulate(l, node,
                    mtbal_node_is(node, MTBAL_OP_cum_sum) ? RT_KERNEL_cum_sum : RT_KERNEL_cum_prod,
                    1, &x, axis);
}

mtbal_status lower_cum_prod_grad(lowering *l, mtbal_node *node)
{
    operand in[2] = {op_in(l, node, 0), op_in(l, node, 1)};
    return cumulate(l, node, RT_KERNEL_cum_prod_grad, 2, in, (double)mtbal_attr_i(node, "axis", 0));
}
