/* passes/balance/equal.c: all weights 1. */
#include "passes/internal.h"

mtbal_status mtbal_balance_equal(mtbal_context *c, mtbal_builder *b)
{
    for (int i = 0; i < c->ntasks; i++)
        c->weights[i] = mtbal_const_scalar(b, mtbal_float_type(c), 1);
    return b->status;
}
