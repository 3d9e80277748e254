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

static struct slot *find_slot(struct slot *slots, int capacity, const char *name)
{
    size_t mask = (size_t)capacity - 1;
    size_t i = (size_t)((uint64_t)((uintptr_t)name >> 4) * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (slots[i].name && slots[i].name != name)
        i = (i + 1) & mask;
    return &slots[i];
}

static struct slot *slot_of(parser *s, const char *name)
{
    if (2 * s->nslots >= s->capacity_slots) {
        int capacity = s->capacity_slots ? 2 * s->capacity_slots : 128;
        struct slot *bigger = mtbal_malloc((size_t)capacity * sizeof *bigger);
        if (!bigger)
            return parse_no_memory(s);
        memset(bigger, 0, (size_t)capacity * sizeof *bigger);
        for (int i = 0; i < s->capacity_slots; i++)
            if (s->slots[i].name)
                *find_slot(bigger, capacity, s->slots[i].name) = s->slots[i];
        mtbal_free(s->slots);
        s->slots = bigger;
        s->capacity_slots = capacity;
    }
    struct slot *slot = find_slot(s->slots, s->capacity_slots, name);
    if (!slot->name) {
        *slot = (struct slot){name, -1, false};
        s->nslots++;
    }
    return slot;
}

mtbal_value *scope_lookup(const parser *s, const char *name)
{
    if (!name || !s->capacity_slots)
        return NULL;
    const struct slot *slot = find_slot(s->slots, s->capacity_slots, name);
    return slot->name && slot->top >= 0 ? s->scope[slot->top].value : NULL;
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
    const char *own =
        slot->taken && !s->in_function ? mtbal_fresh_name(s->model, name) : slot->name;
    slot->taken = slot->taken || !s->in_function;
    e->value = own ? mtbal_value_new(graph, own) : NULL;
    return e->value ? e->value : parse_no_memory(s);
}

void scope_leave(parser *s, int to)
{
    while (s->nscope > to) {
        const entry *e = &s->scope[--s->nscope];
        find_slot(s->slots, s->capacity_slots, e->name)->top = e->hidden;
    }
}
void scope_free(parser *s)
{
    mtbal_free(s->scope);
    mtbal_free(s->slots);
}
