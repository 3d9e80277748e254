/* graph/ops/rnn.c: recurrent layers. */
#include "graph/ops/shapes.h"

#include <string.h>

/* What an activation's alpha and beta are where the node leaves them out. */
static const mtbal_activation activations[] = {{"Relu", 0, 0},         {"Tanh", 0, 0},
                                               {"Sigmoid", 0, 0},      {"Affine", 1, 0},
                                               {"LeakyRelu", 0.01, 0}, {"ThresholdedRelu", 1, 0},
                                               {"ScaledTanh", 1, 1},   {"HardSigmoid", 0.2, 0.5},
                                               {"Elu", 1, 0},          {"Softsign", 0, 0},
                                               {"Softplus", 0, 0}};

int mtbal_rnn_activations(const mtbal_node *node, int direction, mtbal_activation to[3])
{
    static const char *const usual[] = {"Sigmoid", "Tanh", "Tanh"};
    const mtbal_attr *names = mtbal_attr_find(node, "activations"),
                     *alpha = mtbal_attr_find(node, "activation_alpha"),
                     *beta = mtbal_attr_find(node, "activation_beta");
    int n = mtbal_node_is(node, MTBAL_OP_lstm) ? 3 : mtbal_node_is(node, MTBAL_OP_gru) ? 2 : 1;
    for (int i = 0, at = direction * n; i < n; i++, at++) {
        bool given = names && names->kind == MTBAL_ATTR_STRINGS && at < names->n;
        const char *name = given ? names->strings[at] : n == 1 ? "Tanh" : usual[i];
        size_t k = 0, count = sizeof activations / sizeof *activations;
        while (k < count && strcmp(activations[k].name, name))
            k++;
        if (k == count)
            return -1;
        to[i] = activations[k];
        if (alpha && alpha->kind == MTBAL_ATTR_FLOATS && at < alpha->n)
            to[i].alpha = (double)alpha->floats[at];
        if (beta && beta->kind == MTBAL_ATTR_FLOATS && at < beta->n)
            to[i].beta = (double)beta->floats[at];
    }
    return n;
}

/* LSTM, GRU, RNN: Y (seq, dirs, batch, hidden), then the last states (dirs, batch, hidden). With
 * layout 1 the batch comes first. */
mtbal_status mtbal_shape_rnn(mtbal_infer *s)
{
    const mtbal_type *x = shape_type(s, 0), *r = shape_type(s, 2);
    bool both = !strcmp(mtbal_attr_s(s->node, "direction", "forward"), "bidirectional");
    bool batch_first = mtbal_attr_i(s->node, "layout", 0);
    int64_t hidden = mtbal_attr_i(s->node, "hidden_size", r->rank == 3 ? r->dims[2].size : -1);
    mtbal_dim seq = shape_unknown(), batch = seq, d = mtbal_dim_const(both ? 2 : 1);
    mtbal_dim h = hidden < 0 ? shape_unknown() : mtbal_dim_const(hidden);
    if (x->rank >= 0 && x->rank != 3)
        return shape_error(s, "%s has rank %d, not 3", shape_name(s, 0), x->rank);
    if (x->rank == 3) {
        seq = x->dims[batch_first];
        batch = x->dims[!batch_first];
    }
    const mtbal_type *w = shape_type(s, 1);
    if ((w->rank == 3 && shape_differs(w->dims[0], d)) ||
        (r->rank == 3 && shape_differs(r->dims[2], h)) || hidden == 0)
        return shape_error(s,
                           "%s has %lld directions and %s %lld hidden units, which direction "
                           "and hidden_size contradict",
                           shape_name(s, 1), (long long)(w->rank == 3 ? w->dims[0].size : -1),
                           shape_name(s, 2), (long long)(r->rank == 3 ? r->dims[2].size : -1));
    for (int i = 4; i < 7; i++) { /* lengths, first states */
        const mtbal_type *t = shape_type(s, i);
        if ((t->rank == 1 && i == 4 && shape_differs(t->dims[0], batch)) ||
            (t->rank == 3 && i > 4 &&
             (shape_differs(t->dims[!batch_first], batch) ||
              shape_differs(t->dims[batch_first], d))))
            return shape_error(s, "%s does not fit the batch of %s", shape_name(s, i),
                               shape_name(s, 0));
    }
    const mtbal_dim y[4] = {batch_first ? batch : seq, batch_first ? seq : d,
                            batch_first ? d : batch, h};
    const mtbal_dim last[3] = {batch_first ? batch : d, batch_first ? d : batch, h};
    MTBAL_TRY(shape_set(s, 0, x->dtype, 4, y));
    MTBAL_TRY(shape_set(s, 1, x->dtype, 3, last));
    return shape_set(s, 2, x->dtype, 3, last);
}
