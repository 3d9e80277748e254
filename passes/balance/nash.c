/* passes/balance/nash.c: the weights a > 0 with J J^T a = 1/a. With a = q/n that is C q = 1/q, in
 * which the scale of a loss does not occur; --scale unit leaves a as it is.
 *
 * q is the minimum of q^T C q / 2 - sum_i log q_i: Newton's steps, damped by 1/(1 + decrement),
 * which cannot leave q > 0 and converge from anywhere (the function is self-concordant). Two tasks
 * of cosine r: q = 1/sqrt(1 + r) for both. */
#include "passes/internal.h"

static void closed_form(mtbal_text *body)
{
    mtbal_text_add(body, "  first = Constant <value = int64[1] {0}> ()\n"
                         "  second = Constant <value = int64[1] {1}> ()\n"
                         "  row = Gather <axis = 0> (C, first)\n"
                         "  r = Gather <axis = 1> (row, second)\n"
                         "  above0 = Add (one, r)\n"
                         "  above1 = Max (above0, zero)\n"
                         "  above = Add (above1, ridge)\n"
                         "  root = Sqrt (above)\n"
                         "  over = Reciprocal (root)\n"
                         "  q = Mul (on, over)\n");
}

/* From the best q that is the same for all on. */
static void iterations(mtbal_text *body, int count)
{
    mtbal_text_add(body,
                   "  axis0 = Constant <value = int64[1] {0}> ()\n"
                   "  tiny = Constant <value = double {1e-9}> ()\n"
                   "  bias = Mul (eye, ridge)\n"
                   "  regular = Add (C, bias)\n"
                   "  sum = ReduceSum <keepdims = 0> (regular)\n"
                   "  safe_sum = Max (sum, ridge)\n"
                   "  tasks = Cast <to = 11> (K)\n"
                   "  square = Div (tasks, safe_sum)\n"
                   "  start = Sqrt (square)\n"
                   "  level = Mul (on, zero)\n"
                   "  q0 = Add (level, start)\n"
                   "  steps = Constant <value = int64 {%d}> ()\n"
                   "  q = Loop (steps, yes, q0) <body = newton (int64 i, bool again, "
                   "double[rows,1] p) => (bool more, double[rows,1] next_p) {\n"
                   "    more = Identity (again)\n"
                   "    inverse = Reciprocal (p)\n"
                   "    Cp = MatMul (regular, p)\n"
                   "    slope = Sub (Cp, inverse)\n"
                   "    inverse2 = Mul (inverse, inverse)\n"
                   "    curve = Mul (eye, inverse2)\n"
                   "    hessian = Add (regular, curve)\n"
                   "    both = Concat <axis = 1> (hessian, slope)\n",
                   count);
    mtbal_text_eliminate(body, "    ", "solved", "both");
    mtbal_text_add(body, "    step = Gather <axis = 1> (solved, count)\n"
                         "    product = Mul (slope, step)\n"
                         "    square_sum = ReduceSum <keepdims = 0> (product)\n"
                         "    decrement2 = Max (square_sum, zero)\n"
                         "    decrement = Sqrt (decrement2)\n"
                         "    damping = Add (one, decrement)\n"
                         "    damped = Div (step, damping)\n"
                         "    moved = Sub (p, damped)\n"
                         "    next_p = Max (moved, ridge)\n"
                         "  }>\n");
}

void mtbal_balance_nash(mtbal_text *body, int ntasks)
{
    mtbal_text_cosines(body);
    if (ntasks == 2)
        closed_form(body);
    else
        iterations(body, ntasks > 40 ? ntasks / 2 : 20);
    mtbal_text_add(body, "  q1 = Mul (q, on)\n"
                         "  v = Squeeze (q1, minus1)\n"
                         "  w = Div (v, safe_n)\n"
                         "  weights = CastLike (w, norms)\n");
}
