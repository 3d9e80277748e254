/* passes/balance/solve.c: what methods of the K x K cosines share. They compute in double
 * precision, whatever the model's type: the cosines of similar tasks differ in few digits only. */
#include "passes/internal.h"

void mtbal_text_cosines(mtbal_text *t)
{
    mtbal_text_add(t, "  zero = Constant <value = double {0}> ()\n"
                      "  one = Constant <value = double {1}> ()\n"
                      "  ridge = Constant <value = double {1e-6}> ()\n"
                      "  n = Cast <to = 11> (norms)\n"
                      "  C0 = Cast <to = 11> (cosines)\n"
                      "  active = Greater (n, zero)\n"
                      "  safe_n = Where (active, n, one)\n"
                      "  on1 = Cast <to = 11> (active)\n"
                      "  minus1 = Constant <value = int64[1] {-1}> ()\n"
                      "  on = Unsqueeze (on1, minus1)\n" /* [K,1] */
                      "  off = Sub (one, on)\n"
                      "  count = Shape (n)\n"
                      "  K = Squeeze (count)\n"
                      "  yes = Constant <value = bool {1}> ()\n"
                      "  eye = EyeLike <dtype = 11> (C0)\n"
                      "  alone = Mul (eye, off)\n"
                      "  C = Add (C0, alone)\n");
}

/* Gauss and Jordan's steps, without a search for the pivot, which a positive definite matrix does
 * not need: row j /= pivot; from every other row i, A_ij times that row. */
void mtbal_text_eliminate(mtbal_text *t, const char *indent, const char *to, const char *from)
{
    mtbal_text_add(t,
                   "%s%s = Loop (K, yes, %s) <body = eliminate (int64 j, bool go, "
                   "double[rows,columns] A) => (bool go_on, double[rows,columns] next_A) {\n"
                   "%s  go_on = Identity (go)\n"
                   "%s  at = Unsqueeze (j, axis0)\n"
                   "%s  row = Gather <axis = 0> (A, at)\n"
                   "%s  column = Gather <axis = 1> (A, at)\n"
                   "%s  one_at_j = Gather <axis = 1> (eye, at)\n"
                   "%s  pivot = Gather <axis = 1> (row, at)\n"
                   "%s  safe_pivot = Max (pivot, tiny)\n"
                   "%s  scaled_row = Div (row, safe_pivot)\n"
                   "%s  factors = Sub (column, one_at_j)\n"
                   "%s  change = Mul (factors, scaled_row)\n"
                   "%s  next_A = Sub (A, change)\n"
                   "%s}>\n",
                   indent, to, from, indent, indent, indent, indent, indent, indent, indent, indent,
                   indent, indent, indent, indent);
}
