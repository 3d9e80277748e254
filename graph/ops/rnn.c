/* graph/ops/rnn.c: recurrent layers. */
#include "graph/ops/shapes.h"

#include <string.h>

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
    const mtbal_dim y[4] = {batch_first ? batch : seq, batch_first ? seq : d,
                            batch_first ? d : batch, h};
    const mtbal_dim last[3] = {batch_first ? batch : d, batch_first ? d : batch, h};
    MTBAL_TRY(shape_set(s, 0, x->dtype, 4, y));
    MTBAL_TRY(shape_set(s, 1, x->dtype, 3, last));
    return shape_set(s, 2, x->dtype, 3, last);
}
