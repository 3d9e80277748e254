/* passes/sets.c: sets of tasks, each kept once and known by a number, so that comparing two of them
 * costs nothing, however many tasks there are. */
#include "passes/internal.h"

#include <string.h>

enum { WORD = 64 };

struct mtbal_sets {
    mtbal_arena *arena;
    int ntasks, count, capacity;
    size_t words;      /* of one set */
    uint64_t **sets;   /* [count] a bit a task; those of one task follow the empty one */
    int *sizes;        /* [count] */
    uint64_t *buffer;  /* [words] */
    mtbal_map numbers; /* by the interned bytes of a set */
};

/* The number of the set in the buffer. */
static mtbal_set number_of(mtbal_sets *s)
{
    size_t bytes = s->words * sizeof *s->buffer;
    const char *key = mtbal_intern_n(s->arena, (const char *)s->buffer, bytes);
    int known = mtbal_map_get(&s->numbers, key);
    if (known >= 0 || !key)
        return known;
    if (s->count == s->capacity) {
        int capacity = 2 * s->capacity;
        uint64_t **sets = mtbal_arena_array(s->arena, (size_t)capacity, sizeof *sets);
        int *sizes = mtbal_arena_array(s->arena, (size_t)capacity, sizeof *sizes);
        if (!sets || !sizes)
            return -1;
        memcpy(sets, s->sets, (size_t)s->count * sizeof *sets);
        memcpy(sizes, s->sizes, (size_t)s->count * sizeof *sizes);
        s->sets = sets, s->sizes = sizes, s->capacity = capacity;
    }
    uint64_t *own = mtbal_arena_copy(s->arena, s->buffer, bytes);
    if (!own || !mtbal_map_set(&s->numbers, s->arena, key, s->count))
        return -1;
    s->sets[s->count] = own;
    for (int t = 0; t < s->ntasks; t++)
        s->sizes[s->count] += (int)(own[t / WORD] >> t % WORD & 1);
    return s->count++;
}

mtbal_sets *mtbal_sets_new(mtbal_arena *arena, int ntasks)
{
    mtbal_sets *s = mtbal_arena_alloc(arena, sizeof *s);
    if (!s)
        return NULL;
    *s = (mtbal_sets){.arena = arena, .ntasks = ntasks, .capacity = ntasks + 2};
    s->words = (size_t)ntasks / WORD + 1;
    s->sets = mtbal_arena_array(arena, (size_t)s->capacity, sizeof *s->sets);
    s->sizes = mtbal_arena_array(arena, (size_t)s->capacity, sizeof *s->sizes);
    s->buffer = mtbal_arena_array(arena, s->words, sizeof *s->buffer);
    if (!s->sets || !s->sizes || !s->buffer || number_of(s) != MTBAL_NO_TASK)
        return NULL;
    for (int t = 0; t < ntasks; t++) {
        memset(s->buffer, 0, s->words * sizeof *s->buffer);
        s->buffer[t / WORD] = (uint64_t)1 << t % WORD;
        if (number_of(s) != mtbal_set_of_task(t))
            return NULL;
    }
    return s;
}

mtbal_set mtbal_set_union(mtbal_sets *s, mtbal_set a, mtbal_set b)
{
    if (a < 0 || b < 0)
        return -1;
    if (a == b || a == MTBAL_NO_TASK || b == MTBAL_NO_TASK)
        return a == MTBAL_NO_TASK ? b : a;
    for (size_t i = 0; i < s->words; i++)
        s->buffer[i] = s->sets[a][i] | s->sets[b][i];
    return number_of(s);
}

mtbal_set mtbal_set_of_flags(mtbal_sets *s, const bool *flags)
{
    memset(s->buffer, 0, s->words * sizeof *s->buffer);
    for (int t = 0; t < s->ntasks; t++)
        s->buffer[t / WORD] |= (uint64_t)flags[t] << t % WORD;
    return number_of(s);
}

bool mtbal_set_has(const mtbal_sets *s, mtbal_set set, int task)
{
    return set > 0 && s->sets[set][task / WORD] >> task % WORD & 1;
}

int mtbal_set_size(const mtbal_sets *s, mtbal_set set)
{
    return set > 0 ? s->sizes[set] : 0;
}

int mtbal_sets_count(const mtbal_sets *s)
{
    return s->count;
}
