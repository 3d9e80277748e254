/* passes/balance/imtl_g.c: weights for which the update sum_i w_i g_i has the same projection on
 * every g_i/|g_i|: J J^T w = n, that is w = D^-1 C^-1 1 with the cosines C and the norms D. Solved
 * for u = C^-1 1, in which the scale of a loss does not occur; sum |u_i| = K is --scale unit.
 *
 * C is singular where tasks are identical or opposed: (C + ridge) u = 1, and twice u += (C +
 * ridge)^-1 (1 - C u), which takes the ridge's bias away where C is not. */
#include "passes/internal.h"

void mtbal_balance_imtl_g(mtbal_text *body, int ntasks)
{
    (void)ntasks;
    mtbal_text_cosines(body);
    mtbal_text_add(body, "  axis0 = Constant <value = int64[1] {0}> ()\n"
                         "  tiny = Constant <value = double {1e-9}> ()\n"
                         "  bias = Mul (eye, ridge)\n"
                         "  regular = Add (C, bias)\n"
                         "  both = Concat <axis = 1> (regular, eye)\n");
    mtbal_text_eliminate(body, "  ", "solved", "both");
    mtbal_text_add(body, "  axis1 = Constant <value = int64[1] {1}> ()\n"
                         "  two = Constant <value = int64[1] {2}> ()\n"
                         "  width = Mul (count, two)\n"
                         "  inverse = Slice (solved, count, width, axis1)\n"
                         "  u0 = MatMul (inverse, on)\n");
    for (int i = 0; i < 2; i++)
        mtbal_text_add(body,
                       "  Cu%d = MatMul (C, u%d)\n"
                       "  rest%d = Sub (on, Cu%d)\n"
                       "  more%d = MatMul (inverse, rest%d)\n"
                       "  u%d = Add (u%d, more%d)\n",
                       i, i, i, i, i, i, i + 1, i, i);
    mtbal_text_add(body, "  v = Squeeze (u2, axis1)\n"
                         "  size = Abs (v)\n"
                         "  sum = ReduceSum <keepdims = 0> (size)\n"
                         "  none = Equal (sum, zero)\n"
                         "  safe_sum = Where (none, one, sum)\n"
                         "  tasks = ReduceSum <keepdims = 0> (on1)\n"
                         "  factor = Div (tasks, safe_sum)\n"
                         "  even = Mul (v, factor)\n"
                         "  w = Div (even, safe_n)\n"
                         "  weights = CastLike (w, norms)\n");
}
