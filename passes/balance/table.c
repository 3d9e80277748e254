/* passes/balance/table.c: the methods. */
#include "passes/internal.h"

const mtbal_method mtbal_methods[] = {
    {"calibrated", "c/G_i, G_i measured by mtbal-calibrate", mtbal_balance_calibrated},
    {"equal", "all 1", mtbal_balance_equal},
    {"weights", "as given by --weights", mtbal_balance_given},
    {NULL, NULL, NULL},
};
