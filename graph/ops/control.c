/* graph/ops/control.c: If, Loop, and calls of functions. */
#include "graph/ops/shapes.h"

/* Where both branches agree; a dimension on which they differ is unknown. */
mtbal_status mtbal_shape_if(mtbal_infer *s)
{
    const mtbal_attr *yes = mtbal_attr_find(s->node, "then_branch"),
                     *no = mtbal_attr_find(s->node, "else_branch");
    if (!yes || !no || !yes->g || !no->g)
        return shape_error(s, "a branch is missing");
    MTBAL_TRY(mtbal_infer_graph(yes->g, s->diag));
    MTBAL_TRY(mtbal_infer_graph(no->g, s->diag));
    for (int i = 0; i < s->node->nout && i < yes->g->noutputs && i < no->g->noutputs; i++) {
        const mtbal_type *a = &yes->g->outputs[i]->type, *b = &no->g->outputs[i]->type;
        mtbal_dim dims[SHAPE_MAX_RANK];
        int rank = a->rank == b->rank && a->rank <= SHAPE_MAX_RANK ? a->rank : -1;
        for (int d = 0; d < rank; d++)
            dims[d] = mtbal_dim_equal(a->dims[d], b->dims[d]) ? a->dims[d] : shape_unknown();
        MTBAL_TRY(shape_set(s, i, a->dtype, rank, dims));
    }
    return MTBAL_OK;
}

/* Carried values keep the type that they enter with, when the body gives it back; scan outputs get
 * a new first axis. */
mtbal_status mtbal_shape_loop(mtbal_infer *s)
{
    const mtbal_attr *body = mtbal_attr_find(s->node, "body");
    if (!body || !body->g || body->g->ninputs < 2)
        return shape_error(s, "the body is missing");
    mtbal_graph *g = body->g;
    int carried = s->node->nin - 2;
    for (int i = 2; i < g->ninputs && i < s->node->nin; i++) {
        const mtbal_type *t = shape_type(s, i);
        if (g->inputs[i]->type.rank < 0 && t->kind == MTBAL_TENSOR) {
            g->inputs[i]->type.dtype = t->dtype;
            g->inputs[i]->type.rank = t->rank;
            g->inputs[i]->type.dims = t->dims;
        }
    }
    MTBAL_TRY(mtbal_infer_graph(g, s->diag));
    for (int i = 0; i < s->node->nout && i + 1 < g->noutputs; i++) {
        const mtbal_type *t = &g->outputs[i + 1]->type;
        mtbal_dim dims[SHAPE_MAX_RANK + 1] = {shape_unknown()};
        if (i < carried) {
            const mtbal_type *in = shape_type(s, i + 2);
            if (t->kind != MTBAL_TENSOR || mtbal_shape_equal(in, t))
                MTBAL_TRY(shape_set_type(s, i, t));
            else
                MTBAL_TRY(shape_set(s, i, t->dtype, -1, NULL));
            continue;
        }
        for (int d = 0; d < t->rank && d < SHAPE_MAX_RANK; d++)
            dims[d + 1] = t->dims[d];
        MTBAL_TRY(shape_set(s, i, t->dtype, t->rank < 0 ? -1 : t->rank + 1, dims));
    }
    return MTBAL_OK;
}
