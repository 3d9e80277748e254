/* passes/index.c: values by name. */
#include "passes/internal.h"

/* Where two have a name, the first counts. */
static mtbal_status enter(mtbal_index *index, mtbal_arena *arena, mtbal_value *value,
                          mtbal_diag *diag)
{
    if (mtbal_map_get(&index->at, value->name) >= 0)
        return MTBAL_OK;
    index->values[index->count] = value;
    return mtbal_map_set(&index->at, arena, value->name, index->count++) ? MTBAL_OK
                                                                         : mtbal_no_memory(diag);
}

static mtbal_status enter_all(mtbal_index *index, mtbal_arena *arena, int count,
                              mtbal_value *const *values, mtbal_diag *diag)
{
    for (int i = 0; i < count; i++)
        if (values[i])
            MTBAL_TRY(enter(index, arena, values[i], diag));
    return MTBAL_OK;
}

static mtbal_status make_room(mtbal_index *index, mtbal_arena *arena, size_t most, mtbal_diag *diag)
{
    *index = (mtbal_index){.values = mtbal_arena_array(arena, most, sizeof *index->values)};
    return index->values ? MTBAL_OK : mtbal_no_memory(diag);
}

mtbal_status mtbal_index_values(mtbal_index *index, mtbal_arena *arena, int count,
                                mtbal_value *const *values, mtbal_diag *diag)
{
    MTBAL_TRY(make_room(index, arena, (size_t)count, diag));
    return enter_all(index, arena, count, values, diag);
}

mtbal_status mtbal_index_graph(mtbal_index *index, mtbal_arena *arena, const mtbal_graph *graph,
                               mtbal_diag *diag)
{
    size_t most = (size_t)graph->ninputs + (size_t)graph->ninitializers;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        most += (size_t)node->nout;
    MTBAL_TRY(make_room(index, arena, most, diag));
    MTBAL_TRY(enter_all(index, arena, graph->ninputs, graph->inputs, diag));
    MTBAL_TRY(enter_all(index, arena, graph->ninitializers, graph->initializers, diag));
    for (const mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(enter_all(index, arena, node->nout, node->out, diag));
    return MTBAL_OK;
}

mtbal_value *mtbal_index_find(const mtbal_index *index, const char *name)
{
    int i = mtbal_map_get(&index->at, name);
    return i < 0 ? NULL : index->values[i];
}
