/* passes/balance/calibrated.c: weights c/G_i, where G_i is the size of task i's gradient at the end
 * of its own training. The G_i are states that mtbal-calibrate stores; a step leaves them alone. */
#include "passes/internal.h"

void mtbal_balance_calibrated(mtbal_text *body, int ntasks)
{
    (void)ntasks;
    mtbal_text_add(body, "  weights = Reciprocal (calibration)\n");
}
