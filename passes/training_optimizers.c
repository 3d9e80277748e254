/* passes/training_optimizers.c: Adam, Adagrad and Momentum of ai.onnx.preview.training as standard
 * operators. Formulas and names of the attributes are those of ONNX's operator specification
 * (docs/Operators.md there). One node updates n tensors: its operands are R, T, X_1 .. X_n, G_1 ..
 * G_n, then n of each state; its outputs the new X_1 .. X_n, then the new states. */
#include "passes/gradients/rules.h"
#include "passes/internal.h"

#include <string.h>

/* One of the n tensors. */
typedef struct update {
    mtbal_builder *b;
    mtbal_node *node;
    int n, i;
    mtbal_value *x, *g; /* g: with norm_coefficient x added */
    mtbal_value *r, *t; /* learning rate and update count, in x's type */
} update;

static mtbal_value *operand(const update *u, int group)
{
    return u->node->in[2 + group * u->n + u->i];
}

static mtbal_value *number(const update *u, double value)
{
    return rule_scalar(u->b, u->x, value);
}

static mtbal_value *attribute(const update *u, const char *name, double otherwise)
{
    return number(u, mtbal_attr_f(u->node, name, otherwise));
}

/* The new value of group `group`, in x's shape. */
static mtbal_status give(const update *u, int group, mtbal_value *value)
{
    value = value ? mtbal_emit_reshape_like(u->b, value, u->x) : NULL;
    return mtbal_give_output(u->b, u->node, group * u->n + u->i, value);
}

/* What holds from the second update on: when T is 0, `first` does. */
static mtbal_value *once_begun(const update *u, mtbal_value *value, mtbal_value *first)
{
    return mtbal_emit(u->b, "Where", mtbal_emit(u->b, "Greater", u->t, number(u, 0)), value, first);
}

typedef mtbal_status update_fn(update *u);

/* Calls `one` for each tensor. groups: X, G and the states. */
static mtbal_status update_all(mtbal_builder *b, mtbal_node *node, int groups, update_fn *one)
{
    char text[256];
    int n = (node->nin - 2) / groups;
    bool complete = n > 0 && node->nin == 2 + n * groups && node->nout <= n * (groups - 1);
    for (int i = 0; i < node->nin; i++)
        complete = complete && node->in[i];
    if (!complete)
        return mtbal_fail(b->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                          "see the operator in ONNX's specification",
                          "it has %d inputs and %d outputs; it takes R, T and %d tensors for each "
                          "one that it updates, and gives %d",
                          node->nin, node->nout, groups, groups - 1);
    b->role = "update";
    for (int i = 0; i < n; i++) {
        update u = {.b = b, .node = node, .n = n, .i = i};
        u.x = operand(&u, 0);
        if (!mtbal_dtype_is_float(u.x->type.dtype))
            return mtbal_fail(b->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                              "declare it as float", "the type of %s is not known, or no float",
                              u.x->name);
        u.r = mtbal_emit_cast(b, node->in[0], u.x->type.dtype);
        u.t = mtbal_emit_cast(b, node->in[1], u.x->type.dtype);
        u.g = operand(&u, 1);
        if (mtbal_attr_f(node, "norm_coefficient", 0) != 0)
            u.g = ADD(MUL(attribute(&u, "norm_coefficient", 0), u.x), u.g);
        MTBAL_TRY(one(&u));
    }
    return b->status;
}

/* V' = alpha V + (1 - alpha) G; H' = beta H + (1 - beta) G^2; X' = X - r V' / (sqrt(H') + epsilon),
 * r = R sqrt(1 - beta^T) / (1 - alpha^T) once T > 0; then X' (1 - norm_coefficient_post). */
static mtbal_status adam(update *u)
{
    mtbal_builder *b = u->b;
    mtbal_value *alpha = attribute(u, "alpha", 0.9), *beta = attribute(u, "beta", 0.999);
    mtbal_value *one = number(u, 1);
    mtbal_value *v = ADD(MUL(alpha, operand(u, 2)), MUL(SUB(one, alpha), u->g));
    mtbal_value *h = ADD(MUL(beta, operand(u, 3)), MUL(SUB(one, beta), MUL(u->g, u->g)));
    mtbal_value *correction = DIV(UNARY("Sqrt", SUB(one, BINARY("Pow", beta, u->t))),
                                  SUB(one, BINARY("Pow", alpha, u->t)));
    mtbal_value *rate = once_begun(u, MUL(u->r, correction), u->r);
    mtbal_value *root = ADD(UNARY("Sqrt", h), attribute(u, "epsilon", 1e-6));
    mtbal_value *x = SUB(u->x, DIV(MUL(rate, v), root));
    if (mtbal_attr_f(u->node, "norm_coefficient_post", 0) != 0)
        x = MUL(SUB(one, attribute(u, "norm_coefficient_post", 0)), x);
    MTBAL_TRY(give(u, 0, x));
    MTBAL_TRY(give(u, 1, v));
    return give(u, 2, h);
}

/* H' = H + G^2; X' = X - R / (1 + T decay_factor) G / (sqrt(H') + epsilon). */
static mtbal_status adagrad(update *u)
{
    mtbal_builder *b = u->b;
    mtbal_value *h = ADD(operand(u, 2), MUL(u->g, u->g));
    mtbal_value *slower = ADD(number(u, 1), MUL(u->t, attribute(u, "decay_factor", 0)));
    mtbal_value *root = ADD(UNARY("Sqrt", h), attribute(u, "epsilon", 1e-6));
    MTBAL_TRY(give(u, 0, SUB(u->x, DIV(MUL(DIV(u->r, slower), u->g), root))));
    return give(u, 1, h);
}

/* V' = alpha V + beta G, with beta 1 while T is 0; X' = X - R V', or, nesterov, X - R (G + alpha
 * V').
 */
static mtbal_status momentum(update *u)
{
    mtbal_builder *b = u->b;
    mtbal_value *alpha = attribute(u, "alpha", 0);
    mtbal_value *beta = once_begun(u, attribute(u, "beta", 0), number(u, 1));
    mtbal_value *v = ADD(MUL(alpha, operand(u, 2)), MUL(beta, u->g));
    bool nesterov = !strcmp(mtbal_attr_s(u->node, "mode", ""), "nesterov");
    mtbal_value *step = nesterov ? ADD(u->g, MUL(alpha, v)) : v;
    MTBAL_TRY(give(u, 0, SUB(u->x, MUL(u->r, step))));
    return give(u, 1, v);
}

mtbal_status mtbal_training_adam(mtbal_builder *b, mtbal_node *node, mtbal_blockers *blockers)
{
    (void)blockers;
    return update_all(b, node, 4, adam);
}

mtbal_status mtbal_training_adagrad(mtbal_builder *b, mtbal_node *node, mtbal_blockers *blockers)
{
    (void)blockers;
    return update_all(b, node, 3, adagrad);
}

mtbal_status mtbal_training_momentum(mtbal_builder *b, mtbal_node *node, mtbal_blockers *blockers)
{
    (void)blockers;
    return update_all(b, node, 3, momentum);
}
