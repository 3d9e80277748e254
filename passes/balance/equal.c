/* passes/balance/equal.c: all weights 1. */
#include "passes/internal.h"

mtbal_status mtbal_balance_equal(const mtbal_context *c, double *weights)
{
    for (int i = 0; i < c->ntasks; i++)
        weights[i] = 1;
    return MTBAL_OK;
}
