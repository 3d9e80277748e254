/* graph/scope.c: what names mean while text is parsed, and lists that grow. */
#include "graph/parse.h"

#include <string.h>

void *parse_no_memory(parser *s)
{
    return lex_no_memory(&s->l);
}

bool parse_good(const parser *s)
{
    return s->l.status == MTBAL_OK;
}

bool parse_next(parser *s, int index, const char *close)
{
    if (!parse_good(s) || lex_accept(&s->l, close))
        return false;
    return index == 0 || lex_expect(&s->l, ",");
}

void *parse_append(parser *s, list *l, size_t size)
{
    if (l->count == l->capacity) {
        int capacity = l->capacity ? 2 * l->capacity : 16;
        void *bigger = mtbal_realloc(l->items, (size_t)capacity * size);
        if (!bigger)
            return parse_no_memory(s);
        l->items = bigger;
        l->capacity = capacity;
    }
    return (char *)l->items + (size_t)l->count++ * size;
}

/* ------------------------------------------------------------------ scopes */

static struct slot *slot_of(parser *s, const char *name)
{
    int at = mtbal_map_get(&s->slot_of, name);
    if (at >= 0)
        return (struct slot *)s->slots.items + at;
    struct slot *slot = parse_append(s, &s->slots, sizeof *slot);
    if (!s->scratch)
        s->scratch = mtbal_arena_new();
    if (!slot || !s->scratch || !mtbal_map_set(&s->slot_of, s->scratch, name, s->slots.count - 1))
        return parse_no_memory(s);
    *slot = (struct slot){-1, false};
    return slot;
}

mtbal_value *scope_lookup(const parser *s, const char *name)
{
    int at = mtbal_map_get(&s->slot_of, name);
    int top = at < 0 ? -1 : ((const struct slot *)s->slots.items)[at].top;
    return top < 0 ? NULL : s->scope[top].value;
}

mtbal_value *scope_new(parser *s, mtbal_graph *graph, const char *name)
{
    struct slot *slot = name ? slot_of(s, name) : NULL;
    list stack = {s->scope, s->nscope, s->capacity};
    entry *e = slot ? parse_append(s, &stack, sizeof *e) : NULL;
    if (!e)
        return NULL;
    s->scope = stack.items;
    s->nscope = stack.count;
    s->capacity = stack.capacity;
    *e = (entry){name, NULL, slot->top};
    slot->top = s->nscope - 1;
    const char *own = slot->taken && !s->in_function ? mtbal_fresh_name(s->model, name) : name;
    slot->taken = slot->taken || !s->in_function;
    e->value = own ? mtbal_value_new(graph, own) : NULL;
    return e->value ? e->value : parse_no_memory(s);
}

void scope_leave(parser *s, int to)
{
    while (s->nscope > to) {
        const entry *e = &s->scope[--s->nscope];
        slot_of(s, e->name)->top = e->hidden;
    }
}
void scope_free(parser *s)
{
    mtbal_free(s->scope);
    mtbal_free(s->slots.items);
    mtbal_arena_free(s->scratch);
}
