/* passes/weigh.c: the third stage of a step: the weight of each task, and the balanced total. */
#include "passes/internal.h"

#include <string.h>

/* Known weights (equal, given) need no node where they are 1, and leave nothing where they are 0. A
 * weight that a run computes may be 0 while what it multiplies is infinite or NaN: 0 x is not 0
 * then. */
mtbal_value *mtbal_weigh(const mtbal_context *c, mtbal_builder *b, int task, mtbal_value *x)
{
    mtbal_value *w = c->weights[task];
    if (!x || !w)
        return NULL;
    mtbal_dtype dtype = x->type.dtype;
    if (w->tensor && w->def) {
        double known = mtbal_tensor_f64(w->tensor, 0);
        if (known == 0)
            return NULL;
        return known == 1 ? x : mtbal_emit(b, "Mul", x, mtbal_const_scalar(b, dtype, known));
    }
    mtbal_value *zero = mtbal_const_scalar(b, dtype, 0);
    w = mtbal_emit_cast(b, w, dtype);
    return mtbal_emit(b, "Mul", w,
                      mtbal_emit(b, "Where", mtbal_emit(b, "Equal", w, zero), zero, x));
}

/* sum_i w_i L_i, a scalar. */
static mtbal_value *balanced_total(mtbal_context *c, mtbal_builder *b)
{
    mtbal_value *total = NULL;
    mtbal_dtype dtype = mtbal_float_type(c);
    for (int i = 0; i < c->ntasks; i++) {
        mtbal_value *loss = c->tasks[i].loss;
        if (loss->type.rank != 0)
            loss = mtbal_emit_reshape(b, loss, mtbal_const_i64s(b, 0, NULL));
        mtbal_value *part = mtbal_emit_cast(b, mtbal_weigh(c, b, i, loss), dtype);
        if (part)
            total = total ? mtbal_emit(b, "Add", total, part) : part;
    }
    return total ? total : mtbal_const_scalar(b, dtype, 0);
}

mtbal_status mtbal_pass_weigh(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_names known = {0};
    const mtbal_method *method = mtbal_methods;
    for (; method->name && strcmp(method->name, c->options->balance); method++)
        mtbal_names_add(&known, method->name);
    if (!method->name)
        return mtbal_fail(c->diag, MTBAL_USAGE, "--balance", known.text,
                          "there is no method '%s'; there are those below", c->options->balance);
    c->weights = mtbal_arena_array(c->model->arena, (size_t)c->ntasks, sizeof *c->weights);
    if (!c->weights)
        return mtbal_no_memory(c->diag);
    mtbal_pass_builder(c, &b, "mtbal/balance/", "weight", NULL);
    MTBAL_TRY(method->weights(c, &b));
    c->total = balanced_total(c, &b);
    return b.status;
}
