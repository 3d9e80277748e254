/* passes/index.c: values by name. Names are interned, so they are sorted, and found, by their
 * addresses. */
#include "passes/internal.h"

#include <stdlib.h>

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)(*(mtbal_value *const *)a)->name;
    uintptr_t y = (uintptr_t)(*(mtbal_value *const *)b)->name;
    return (x > y) - (x < y);
}

mtbal_status mtbal_index_values(mtbal_index *index, mtbal_arena *arena, int count,
                                mtbal_value *const *values, mtbal_diag *diag)
{
    index->count = count;
    index->values = mtbal_arena_copy(arena, values, (size_t)count * sizeof *values);
    if (!index->values)
        return mtbal_no_memory(diag);
    qsort(index->values, (size_t)count, sizeof *index->values, by_address);
    return MTBAL_OK;
}

mtbal_status mtbal_index_graph(mtbal_index *index, mtbal_arena *arena, const mtbal_graph *graph,
                               mtbal_diag *diag)
{
    size_t most = (size_t)(graph->ninputs + graph->ninitializers);
    int n = 0;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        most += (size_t)node->nout;
    mtbal_value **all = mtbal_arena_array(arena, most, sizeof *all);
    if (!all)
        return mtbal_no_memory(diag);
    for (int i = 0; i < graph->ninputs; i++)
        all[n++] = graph->inputs[i];
    for (int i = 0; i < graph->ninitializers; i++)
        all[n++] = graph->initializers[i];
    for (const mtbal_node *node = graph->first; node; node = node->next)
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                all[n++] = node->out[i];
    return mtbal_index_values(index, arena, n, all, diag);
}

mtbal_value *mtbal_index_find(const mtbal_index *index, const char *name)
{
    mtbal_value key = {.name = name}, *at = &key;
    if (index->count == 0)
        return NULL;
    mtbal_value **found =
        bsearch(&at, index->values, (size_t)index->count, sizeof *index->values, by_address);
    return found ? *found : NULL;
}
