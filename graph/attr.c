/* graph/attr.c: attributes of nodes. */
#include "graph/graph.h"

#include <string.h>

mtbal_attr *mtbal_attr_find(const mtbal_node *node, const char *name)
{
    mtbal_attr *a = node->attrs;
    while (a && strcmp(a->name, name))
        a = a->next;
    return a;
}

int64_t mtbal_attr_i(const mtbal_node *node, const char *name, int64_t otherwise)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    return a && a->kind == MTBAL_ATTR_INT && !a->ref ? a->i : otherwise;
}

double mtbal_attr_f(const mtbal_node *node, const char *name, double otherwise)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    return a && a->kind == MTBAL_ATTR_FLOAT && !a->ref ? (double)a->f : otherwise;
}

const char *mtbal_attr_s(const mtbal_node *node, const char *name, const char *otherwise)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    return a && a->kind == MTBAL_ATTR_STRING && !a->ref ? a->s : otherwise;
}

int mtbal_attr_ints(const mtbal_node *node, const char *name, const int64_t **ints)
{
    const mtbal_attr *a = mtbal_attr_find(node, name);
    if (!a || a->kind != MTBAL_ATTR_INTS || a->ref)
        return -1;
    *ints = a->ints;
    return a->n;
}

/* The attribute of that name, emptied, or a new one at the end of the list. */
static mtbal_attr *renew(mtbal_node *node, const char *name, mtbal_attr_kind kind)
{
    mtbal_arena *arena = node->graph->model->arena;
    mtbal_attr **link = &node->attrs;
    while (*link && strcmp((*link)->name, name))
        link = &(*link)->next;
    mtbal_attr *next = *link ? (*link)->next : NULL;
    mtbal_attr *a = mtbal_arena_alloc(arena, sizeof *a);
    if (!a || !(a->name = mtbal_intern(arena, name)))
        return NULL;
    a->kind = kind;
    a->next = next;
    *link = a;
    return a;
}

mtbal_status mtbal_set_i(mtbal_node *node, const char *name, int64_t value)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_INT);
    if (!a)
        return MTBAL_NOMEM;
    a->i = value;
    return MTBAL_OK;
}

mtbal_status mtbal_set_f(mtbal_node *node, const char *name, double value)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_FLOAT);
    if (!a)
        return MTBAL_NOMEM;
    a->f = (float)value;
    return MTBAL_OK;
}

mtbal_status mtbal_set_s(mtbal_node *node, const char *name, const char *value)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_STRING);
    if (!a || !(a->s = mtbal_intern(node->graph->model->arena, value)))
        return MTBAL_NOMEM;
    a->s_len = strlen(value);
    return MTBAL_OK;
}

mtbal_status mtbal_set_ints(mtbal_node *node, const char *name, int n, const int64_t *values)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_INTS);
    if (!a || !(a->ints = mtbal_arena_copy(node->graph->model->arena, values,
                                           (size_t)n * sizeof *values)))
        return MTBAL_NOMEM;
    a->n = n;
    return MTBAL_OK;
}

mtbal_status mtbal_set_tensor(mtbal_node *node, const char *name, mtbal_tensor *tensor)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_TENSOR);
    if (!a)
        return MTBAL_NOMEM;
    a->t = tensor;
    return MTBAL_OK;
}

mtbal_status mtbal_set_graph(mtbal_node *node, const char *name, mtbal_graph *graph)
{
    mtbal_attr *a = renew(node, name, MTBAL_ATTR_GRAPH);
    if (!a)
        return MTBAL_NOMEM;
    a->g = graph;
    graph->owner = node;
    return MTBAL_OK;
}

mtbal_status mtbal_copy_attrs(mtbal_node *to, const mtbal_node *from)
{
    mtbal_attr **link = &to->attrs;
    while (*link)
        link = &(*link)->next;
    for (const mtbal_attr *a = from->attrs; a; a = a->next) {
        if (mtbal_attr_find(to, a->name))
            continue;
        *link = mtbal_arena_copy(to->graph->model->arena, a, sizeof *a);
        if (!*link)
            return MTBAL_NOMEM;
        (*link)->next = NULL;
        link = &(*link)->next;
    }
    return MTBAL_OK;
}

void mtbal_bind_attrs(mtbal_node *node, const mtbal_node *call, const mtbal_function *function)
{
    for (mtbal_attr **link = &node->attrs; *link;) {
        mtbal_attr *a = *link;
        if (!a->ref) {
            link = &a->next;
            continue;
        }
        const mtbal_attr *given = mtbal_attr_find(call, a->ref);
        for (const mtbal_attr *d = function->defaults; d && !given; d = d->next)
            given = strcmp(d->name, a->ref) ? NULL : d;
        if (!given) {
            *link = a->next;
            continue;
        }
        mtbal_attr bound = *given;
        bound.name = a->name;
        bound.next = a->next;
        bound.origin = NULL;
        *a = bound;
        link = &a->next;
    }
}

void mtbal_attr_remove(mtbal_node *node, const char *name)
{
    for (mtbal_attr **link = &node->attrs; *link; link = &(*link)->next)
        if (!strcmp((*link)->name, name)) {
            *link = (*link)->next;
            return;
        }
}
