/* lower/ops/training.c: the optimizers of ai.onnx.preview.training, which take any number of
 * tensors: R, T, then all X, all G, and all of each moment. */
#include "lower/ops/expand.h"

#include <string.h>

typedef struct update {
    expansion *e;
    mtbal_value *rate, *step; /* R float or double scalar, T int64 scalar */
    int count, moments;
} update;

static bool read_update(expansion *e, int moments, update *u)
{
    *u = (update){e, expand_in(e, 0), expand_in(e, 1), (e->node->nin - 2) / (2 + moments), moments};
    return u->rate && u->step && u->count > 0 && u->count * (1 + moments) <= 16 &&
           e->node->nin == 2 + u->count * (2 + moments);
}

/* Operand `kind` (0 X, 1 G, 2.. moments) of tensor i. */
static mtbal_value *operand_of(const update *u, int kind, int i)
{
    return expand_in(u->e, 2 + kind * u->count + i);
}

/* G + norm_coefficient X */
static mtbal_value *regularized(const update *u, int i)
{
    mtbal_builder *b = u->e->b;
    mtbal_value *x = operand_of(u, 0, i), *g = operand_of(u, 1, i);
    double c = mtbal_attr_f(u->e->node, "norm_coefficient", 0);
    return c != 0 ? ADD(MUL(LIKE(x, c), x), g) : g;
}

/* Where T > 0 the first, else the second. */
static mtbal_value *later(const update *u, mtbal_value *then, mtbal_value *first)
{
    mtbal_builder *b = u->e->b;
    return WHERE(OP2("Greater", u->step, mtbal_const_i64(b, 0)), then, first);
}

EXPAND(adam)
{
    mtbal_builder *b = e->b;
    update u;
    if (!read_update(e, 2, &u))
        return MTBAL_OK;
    double alpha = mtbal_attr_f(e->node, "alpha", 0.9), beta = mtbal_attr_f(e->node, "beta", 0.999),
           epsilon = mtbal_attr_f(e->node, "epsilon", 1e-6),
           post = mtbal_attr_f(e->node, "norm_coefficient_post", 0);
    for (int i = 0; i < u.count; i++) {
        mtbal_value *x = operand_of(&u, 0, i), *g = regularized(&u, i);
        mtbal_value *v = ADD(MUL(LIKE(x, alpha), operand_of(&u, 2, i)), MUL(LIKE(x, 1 - alpha), g));
        mtbal_value *h =
            ADD(MUL(LIKE(x, beta), operand_of(&u, 3, i)), MUL(LIKE(x, 1 - beta), MUL(g, g)));
        mtbal_value *t = x ? mtbal_emit_cast(b, u.step, x->type.dtype) : NULL;
        mtbal_value *r = x ? mtbal_emit_cast(b, u.rate, x->type.dtype) : NULL;
        mtbal_value *one = LIKE(x, 1);
        mtbal_value *adjusted = DIV(MUL(r, UNARY("Sqrt", SUB(one, OP2("Pow", LIKE(x, beta), t)))),
                                    SUB(one, OP2("Pow", LIKE(x, alpha), t)));
        mtbal_value *rate = later(&u, adjusted, r);
        mtbal_value *next = SUB(x, DIV(MUL(rate, v), ADD(UNARY("Sqrt", h), LIKE(x, epsilon))));
        e->out[i] = post != 0 ? MUL(LIKE(x, 1 - post), next) : next;
        e->out[u.count + i] = v;
        e->out[2 * u.count + i] = h;
    }
    return MTBAL_OK;
}

EXPAND(adagrad)
{
    mtbal_builder *b = e->b;
    update u;
    if (!read_update(e, 1, &u))
        return MTBAL_OK;
    double decay = mtbal_attr_f(e->node, "decay_factor", 0),
           epsilon = mtbal_attr_f(e->node, "epsilon", 1e-6);
    for (int i = 0; i < u.count; i++) {
        mtbal_value *x = operand_of(&u, 0, i), *g = regularized(&u, i);
        mtbal_value *t = x ? mtbal_emit_cast(b, u.step, x->type.dtype) : NULL;
        mtbal_value *r = x ? mtbal_emit_cast(b, u.rate, x->type.dtype) : NULL;
        mtbal_value *rate = DIV(r, ADD(LIKE(x, 1), MUL(t, LIKE(x, decay))));
        mtbal_value *h = ADD(operand_of(&u, 2, i), MUL(g, g));
        e->out[i] = SUB(x, DIV(MUL(rate, g), ADD(UNARY("Sqrt", h), LIKE(x, epsilon))));
        e->out[u.count + i] = h;
    }
    return MTBAL_OK;
}

EXPAND(momentum)
{
    mtbal_builder *b = e->b;
    update u;
    if (!read_update(e, 1, &u))
        return MTBAL_OK;
    double alpha = mtbal_attr_f(e->node, "alpha", 0), beta = mtbal_attr_f(e->node, "beta", 0);
    bool nesterov = !strcmp(mtbal_attr_s(e->node, "mode", "standard"), "nesterov");
    for (int i = 0; i < u.count; i++) {
        mtbal_value *x = operand_of(&u, 0, i), *g = regularized(&u, i);
        mtbal_value *r = x ? mtbal_emit_cast(b, u.rate, x->type.dtype) : NULL;
        mtbal_value *damped = later(&u, LIKE(x, beta), LIKE(x, 1));
        mtbal_value *v = ADD(MUL(LIKE(x, alpha), operand_of(&u, 2, i)), MUL(damped, g));
        mtbal_value *direction = nesterov ? ADD(g, MUL(LIKE(x, alpha), v)) : v;
        e->out[i] = SUB(x, MUL(r, direction));
        e->out[u.count + i] = v;
    }
    return MTBAL_OK;
}
