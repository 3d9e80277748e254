/* passes/balance/given.c: the weights of --weights T=w,...; 1 for tasks that it does not name. */
#include "passes/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mtbal_status read_weight(const mtbal_context *c, const mtbal_pair *pair, double *weights)
{
    char *end;
    int task = 0;
    while (task < c->ntasks && strcmp(c->tasks[task].name, pair->name))
        task++;
    if (task == c->ntasks)
        return mtbal_fail(c->diag, MTBAL_USAGE, "--weights", "name a task of this model",
                          "there is no task %s", pair->name);
    weights[task] = strtod(pair->value, &end);
    if (end == pair->value || *end || !isfinite(weights[task]))
        return mtbal_fail(c->diag, MTBAL_USAGE, "--weights", "write TASK=NUMBER,...",
                          "%s=%s is no number", pair->name, pair->value);
    return MTBAL_OK;
}

mtbal_status mtbal_balance_given(const mtbal_context *c, double *weights)
{
    for (int i = 0; i < c->ntasks; i++)
        weights[i] = 1;
    for (int i = 0; i < c->options->nweights; i++)
        MTBAL_TRY(read_weight(c, &c->options->weights[i], weights));
    return MTBAL_OK;
}
