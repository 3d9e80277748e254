/* lower/bind.c: gives every graph input its shape. */
#include "lower/lowering.h"

static mtbal_status contradiction(const lowering *l, const mtbal_value *v, int axis, int64_t given,
                                  int64_t wanted)
{
    return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path,
                      "all inputs of one step need the same size where the model gives it one name",
                      "input %s: axis %d is %lld, but the model wants %lld", v->name, axis,
                      (long long)given, (long long)wanted);
}

/* One input against its given shape: unknown sizes are filled in; a name gets its size in all
 * inputs. */
static mtbal_status bind_input(lowering *l, mtbal_value *v, int rank, const int64_t *dims)
{
    mtbal_type *type = &v->type;
    if (rank > RT_MAX_RANK || (type->rank >= 0 && type->rank != rank))
        return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                          "input %s: given with %d dimensions, the model wants %d", v->name, rank,
                          type->rank < 0 ? RT_MAX_RANK : type->rank);
    mtbal_dim *own = mtbal_arena_array(l->model->arena, (size_t)rank + 1, sizeof *own);
    if (!own)
        return mtbal_no_memory(l->diag);
    for (int d = 0; d < rank; d++)
        own[d] = type->rank >= 0 ? type->dims[d] : (mtbal_dim){-1, NULL};
    type->dims = own;
    type->rank = rank;
    for (int d = 0; d < rank; d++) {
        if (dims[d] < 0)
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                              "input %s: axis %d has a negative size", v->name, d);
        const char *symbol = own[d].symbol;
        if (own[d].size < 0 && symbol)
            MTBAL_TRY(mtbal_bind_dim(l->model, symbol, dims[d]));
        if (own[d].size < 0)
            own[d] = mtbal_dim_const(dims[d]);
        if (own[d].size != dims[d])
            return contradiction(l, v, d, dims[d], own[d].size);
    }
    return MTBAL_OK;
}

/* The dims of inputs are written: each input gets its own copy first. */
static mtbal_status own_dims(lowering *l)
{
    for (int i = 0; i < l->graph->ninputs; i++) {
        mtbal_type *type = &l->graph->inputs[i]->type;
        if (type->rank <= 0)
            continue;
        type->dims =
            mtbal_arena_copy(l->model->arena, type->dims, (size_t)type->rank * sizeof *type->dims);
        if (!type->dims)
            return mtbal_no_memory(l->diag);
    }
    return MTBAL_OK;
}

/* given: name of an input -> its shape among the options; the first counts. */
static mtbal_status list_given(lowering *l, mtbal_map *given)
{
    for (int i = l->options->nbinds - 1; i >= 0; i--) {
        const mtbal_value *v = lower_find_input(l, l->options->binds[i].name);
        if (!v)
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                              "a shape is given for %s, but the model has no such input",
                              l->options->binds[i].name);
        if (!mtbal_map_set(given, l->arena, v->name, i))
            return mtbal_no_memory(l->diag);
    }
    return MTBAL_OK;
}

mtbal_status lower_bind(lowering *l)
{
    mtbal_map given = {0};
    MTBAL_TRY(list_given(l, &given));
    MTBAL_TRY(own_dims(l));
    for (int i = 0; i < l->graph->ninputs; i++) {
        mtbal_value *v = l->graph->inputs[i];
        int at = mtbal_map_get(&given, v->name);
        const mtbal_bind *bind = at < 0 ? NULL : &l->options->binds[at];
        if (v->type.kind != MTBAL_TENSOR)
            continue;
        if (bind)
            MTBAL_TRY(bind_input(l, v, bind->rank, bind->dims));
        else if (v->is_initializer && v->tensor && v->tensor->rank <= RT_MAX_RANK)
            MTBAL_TRY(bind_input(l, v, v->tensor->rank, v->tensor->dims));
    }
    for (int i = 0; i < l->graph->ninputs; i++) {
        const mtbal_value *v = l->graph->inputs[i];
        const place *p = lower_place(l, v);
        if (!p)
            return mtbal_no_memory(l->diag);
        for (int d = 0; d < v->type.rank && p->used; d++)
            if (v->type.dims[d].size < 0)
                return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path,
                                  "give data for every input, or fix the size in the model",
                                  "input %s: the size of axis %d (%s) is not known", v->name, d,
                                  v->type.dims[d].symbol ? v->type.dims[d].symbol : "?");
        if (p->used && v->type.kind == MTBAL_TENSOR && v->type.rank < 0)
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path,
                              "give data for every input, or fix the shape in the model",
                              "input %s: the shape is not known", v->name);
    }
    return MTBAL_OK;
}
