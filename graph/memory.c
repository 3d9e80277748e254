/* graph/memory.c: the allocation hook, arenas, interned names. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the hook */

static bool (*hook)(void *context, size_t size);
static void *hook_context;

void mtbal_set_alloc_hook(bool (*allow)(void *context, size_t size), void *context)
{
    hook = allow;
    hook_context = context;
}

void *mtbal_malloc(size_t size)
{
    return !hook || hook(hook_context, size) ? malloc(size) : NULL;
}

void *mtbal_realloc(void *old, size_t size)
{
    return !hook || hook(hook_context, size) ? realloc(old, size) : NULL;
}

void mtbal_free(void *p)
{
    free(p);
}

bool mtbal_mul_size(size_t a, size_t b, size_t *result)
{
    if (b && a > SIZE_MAX / b)
        return false;
    *result = a * b;
    return true;
}

bool mtbal_mul_i64(int64_t a, int64_t b, int64_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

/* ------------------------------------------------------------------ arenas */

enum { ALIGN = 16, FIRST_BLOCK = 16 * 1024, LARGEST_BLOCK = 1024 * 1024 };

typedef struct block {
    struct block *next;
    size_t used, size;
    max_align_t align_;
    unsigned char bytes[];
} block;

typedef struct name_table {
    size_t count, capacity; /* capacity: a power of two */
    const char **names;
    uint32_t *hashes;
} name_table;

struct mtbal_arena {
    block *blocks; /* the first has room */
    size_t total;
    name_table names;
};

mtbal_arena *mtbal_arena_new(void)
{
    mtbal_arena *arena = mtbal_malloc(sizeof *arena);
    if (arena)
        memset(arena, 0, sizeof *arena);
    return arena;
}

void mtbal_arena_free(mtbal_arena *arena)
{
    if (!arena)
        return;
    for (block *b = arena->blocks, *next; b; b = next) {
        next = b->next;
        mtbal_free(b);
    }
    mtbal_free(arena->names.names);
    mtbal_free(arena->names.hashes);
    mtbal_free(arena);
}

static block *new_block(mtbal_arena *arena, size_t least)
{
    size_t size = arena->blocks ? 2 * arena->blocks->size : FIRST_BLOCK;
    size = size > LARGEST_BLOCK ? LARGEST_BLOCK : size;
    size = size < least ? least : size;
    if (size > SIZE_MAX - sizeof(block))
        return NULL;
    block *b = mtbal_malloc(sizeof *b + size);
    if (!b)
        return NULL;
    b->used = 0;
    b->size = size;
    arena->total += sizeof *b + size;
    /* A block made for one large piece goes behind the one that still has room. */
    if (arena->blocks && least > LARGEST_BLOCK / 2) {
        b->next = arena->blocks->next;
        arena->blocks->next = b;
    } else {
        b->next = arena->blocks;
        arena->blocks = b;
    }
    return b;
}

void *mtbal_arena_alloc(mtbal_arena *arena, size_t size)
{
    if (size > SIZE_MAX - ALIGN)
        return NULL;
    size = (size + ALIGN - 1) / ALIGN * ALIGN;
    block *b = arena->blocks;
    if (!b || b->size - b->used < size)
        b = new_block(arena, size);
    if (!b)
        return NULL;
    void *p = b->bytes + b->used;
    b->used += size;
    return memset(p, 0, size);
}

void *mtbal_arena_array(mtbal_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    return mtbal_mul_size(count, size, &bytes) ? mtbal_arena_alloc(arena, bytes) : NULL;
}

void *mtbal_arena_copy(mtbal_arena *arena, const void *bytes, size_t size)
{
    void *p = mtbal_arena_alloc(arena, size);
    if (p && size)
        memcpy(p, bytes, size);
    return p;
}

char *mtbal_arena_printf(mtbal_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : mtbal_arena_alloc(arena, (size_t)length + 1);
    if (text) {
        va_start(args, format);
        vsnprintf(text, (size_t)length + 1, format, args);
        va_end(args);
    }
    return text;
}

size_t mtbal_arena_bytes(const mtbal_arena *arena)
{
    return arena->total;
}

/* ------------------------------------------------------------------ interned names */

/* FNV-1a, 32 bits (Fowler, Noll, Vo). */
static uint32_t hash_of(const char *name, size_t length)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)name[i]) * 16777619u;
    return h;
}

static size_t find_slot(const name_table *t, const char *name, size_t length, uint32_t hash)
{
    size_t i = hash & (t->capacity - 1);
    while (t->names[i] && !(t->hashes[i] == hash && !strncmp(t->names[i], name, length) &&
                            t->names[i][length] == 0))
        i = (i + 1) & (t->capacity - 1);
    return i;
}

static bool grow_names(name_table *t)
{
    name_table bigger = {.count = t->count, .capacity = t->capacity ? 2 * t->capacity : 256};
    bigger.names = mtbal_malloc(bigger.capacity * sizeof *bigger.names);
    bigger.hashes = mtbal_malloc(bigger.capacity * sizeof *bigger.hashes);
    if (!bigger.names || !bigger.hashes) {
        mtbal_free(bigger.names);
        mtbal_free(bigger.hashes);
        return false;
    }
    memset(bigger.names, 0, bigger.capacity * sizeof *bigger.names);
    for (size_t i = 0; i < t->capacity; i++)
        if (t->names[i]) {
            size_t slot = find_slot(&bigger, t->names[i], strlen(t->names[i]), t->hashes[i]);
            bigger.names[slot] = t->names[i];
            bigger.hashes[slot] = t->hashes[i];
        }
    mtbal_free(t->names);
    mtbal_free(t->hashes);
    *t = bigger;
    return true;
}

const char *mtbal_intern_n(mtbal_arena *arena, const char *name, size_t length)
{
    name_table *t = &arena->names;
    if (2 * t->count >= t->capacity && !grow_names(t))
        return NULL;
    uint32_t hash = hash_of(name, length);
    size_t slot = find_slot(t, name, length, hash);
    if (t->names[slot])
        return t->names[slot];
    char *copy = mtbal_arena_alloc(arena, length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, name, length);
    t->names[slot] = copy;
    t->hashes[slot] = hash;
    t->count++;
    return copy;
}

const char *mtbal_intern(mtbal_arena *arena, const char *name)
{
    return mtbal_intern_n(arena, name, strlen(name));
}
