/* passes/tables.c: tables by value id for work on a few nodes of a large graph: taken from a pool
 * and given back clean, so that each piece of work costs what it touches, not what the model has.
 */
#include "passes/internal.h"

#include <string.h>

static bool grow(mtbal_tables *t, int n)
{
    size_t capacity = 2 * (size_t)n, old = (size_t)t->capacity;
    bool *marked = mtbal_realloc(t->marked, capacity * sizeof *marked);
    if (!marked)
        return false;
    t->marked = marked;
    memset(marked + old, 0, (capacity - old) * sizeof *marked);
    mtbal_value **value = mtbal_realloc(t->value, capacity * sizeof *value);
    if (!value)
        return false;
    t->value = value;
    memset(value + old, 0, (capacity - old) * sizeof *value);
    t->capacity = (int)capacity;
    return true;
}

mtbal_tables *mtbal_tables_take(mtbal_tables **pool, int n)
{
    mtbal_tables *t = *pool;
    if (t) {
        *pool = t->next;
    } else {
        t = mtbal_malloc(sizeof *t);
        if (!t)
            return NULL;
        *t = (mtbal_tables){0};
    }
    if (t->capacity >= n || grow(t, n))
        return t;
    mtbal_tables_give(pool, t, 0, 0);
    return NULL;
}

void mtbal_tables_clear(mtbal_tables *t, const mtbal_value *value)
{
    if (value && value->id < t->capacity) {
        t->marked[value->id] = false;
        t->value[value->id] = NULL;
    }
}

static mtbal_status clear_defined(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nout; i++)
        mtbal_tables_clear(context, node->out[i]);
    for (mtbal_attr *a = node->attrs; a; a = a->next) {
        const mtbal_graph *g = a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
        for (int i = 0; g && i < g->ninputs; i++)
            mtbal_tables_clear(context, g->inputs[i]);
        for (int i = 0; g && i < g->ninitializers; i++)
            mtbal_tables_clear(context, g->initializers[i]);
    }
    return MTBAL_OK;
}

void mtbal_tables_clear_graph(mtbal_tables *t, mtbal_graph *graph)
{
    for (int i = 0; i < graph->ninputs; i++)
        mtbal_tables_clear(t, graph->inputs[i]);
    for (int i = 0; i < graph->ninitializers; i++)
        mtbal_tables_clear(t, graph->initializers[i]);
    mtbal_graph_walk(graph, clear_defined, t);
}

void mtbal_tables_give(mtbal_tables **pool, mtbal_tables *t, int from, int to)
{
    for (int i = from; i < to && i < t->capacity; i++) {
        t->marked[i] = false;
        t->value[i] = NULL;
    }
    t->next = *pool;
    *pool = t;
}

void mtbal_tables_free(mtbal_tables *pool)
{
    for (mtbal_tables *next; pool; pool = next) {
        next = pool->next;
        mtbal_free(pool->marked);
        mtbal_free(pool->value);
        mtbal_free(pool);
    }
}
