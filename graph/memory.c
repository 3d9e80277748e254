/* graph/memory.c: the allocation hook, arenas, interned names, the hash map. */
#include "graph/internal.h"

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

/* Zeros, which take no memory of the machine before somebody writes to them. */
static void *zeroed(size_t size)
{
    return !hook || hook(hook_context, size) ? calloc(1, size) : NULL;
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

/* Under AddressSanitizer what lies between the pieces is out of bounds. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define GUARDED
#endif
#endif
#if defined GUARDED || defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 16 };
#else
#define ASAN_POISON_MEMORY_REGION(p, size)   ((void)(p), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
enum { GAP = 0 };
#endif

enum { ALIGN = 16, FIRST_BLOCK = 16 * 1024, LARGEST_BLOCK = 1024 * 1024 };

typedef struct block {
    struct block *next;
    size_t used, size;
    max_align_t align_;
    unsigned char bytes[];
} block;

typedef struct name {
    const char *text;
    size_t length; /* a name may hold NULs */
    uint64_t hash;
} name;

typedef struct name_table {
    size_t count, capacity; /* capacity: a power of two, or 0 */
    name *names;
} name_table;

struct mtbal_arena {
    block *blocks; /* the first has room */
    size_t total;
    bool failed;
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
        ASAN_UNPOISON_MEMORY_REGION(b->bytes, b->size);
        mtbal_free(b);
    }
    mtbal_free(arena->names.names);
    mtbal_free(arena);
}

/* A block with room for `least`. Blocks double in size; one made for a single large piece is as
 * large as that, and goes behind the one that still has room. */
static block *new_block(mtbal_arena *arena, size_t least)
{
    bool large = least > LARGEST_BLOCK / 2;
    size_t size = arena->blocks ? 2 * arena->blocks->size : FIRST_BLOCK;
    size = size > LARGEST_BLOCK ? LARGEST_BLOCK : size;
    size = large || size < least ? least : size;
    block *b = size > SIZE_MAX - sizeof *b ? NULL : zeroed(sizeof *b + size);
    if (!b)
        return NULL;
    block **link = large && arena->blocks ? &arena->blocks->next : &arena->blocks;
    *b = (block){.next = *link, .size = size};
    *link = b;
    ASAN_POISON_MEMORY_REGION(b->bytes, size);
    arena->total += sizeof *b + size;
    return b;
}

/* The hook is asked for every piece, not only for a new block: so a test can fail each. */
void *mtbal_arena_alloc(mtbal_arena *arena, size_t size)
{
    bool possible = size <= SIZE_MAX - ALIGN - GAP && (!hook || hook(hook_context, size));
    size_t asked = size;
    size = (size + ALIGN - 1) / ALIGN * ALIGN + GAP;
    block *b = arena->blocks;
    if (!possible)
        b = NULL;
    else if (!b || b->size - b->used < size)
        b = new_block(arena, size);
    if (!b) {
        arena->failed = true;
        return NULL;
    }
    void *p = b->bytes + b->used;
    b->used += size;
    ASAN_UNPOISON_MEMORY_REGION(p, asked);
    return p;
}

void *mtbal_arena_array(mtbal_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    return mtbal_mul_size(count, size, &bytes) ? mtbal_arena_alloc(arena, bytes) : NULL;
}

void *mtbal_arena_copy(mtbal_arena *arena, const void *bytes, size_t size)
{
    void *p = mtbal_arena_alloc(arena, size);
    return p && size ? memcpy(p, bytes, size) : p;
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

bool mtbal_arena_failed(const mtbal_arena *arena)
{
    return arena->failed;
}

size_t mtbal_arena_bytes(const mtbal_arena *arena)
{
    return arena->total;
}

/* ------------------------------------------------------------------ interned names */

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001B3u;
    return h ^ h >> 32;
}

/* Where the name is, or the free place where it belongs. */
static name *find_slot(const name_table *t, const char *text, size_t length, uint64_t hash)
{
    size_t i = hash & (t->capacity - 1);
    for (;; i = (i + 1) & (t->capacity - 1)) {
        name *n = &t->names[i];
        if (!n->text || (n->hash == hash && n->length == length && !memcmp(n->text, text, length)))
            return n;
    }
}

static bool grow_names(name_table *t)
{
    name_table bigger = {.count = t->count, .capacity = t->capacity ? 2 * t->capacity : 256};
    bigger.names = mtbal_malloc(bigger.capacity * sizeof *bigger.names);
    if (!bigger.names)
        return false;
    memset(bigger.names, 0, bigger.capacity * sizeof *bigger.names);
    for (size_t i = 0; i < t->capacity; i++) {
        const name *n = &t->names[i];
        if (n->text)
            *find_slot(&bigger, n->text, n->length, n->hash) = *n;
    }
    mtbal_free(t->names);
    *t = bigger;
    return true;
}

const char *mtbal_intern_n(mtbal_arena *arena, const char *text, size_t length)
{
    name_table *t = &arena->names;
    if (2 * t->count >= t->capacity && !grow_names(t)) {
        arena->failed = true;
        return NULL;
    }
    uint64_t hash = hash_of(text, length);
    name *slot = find_slot(t, text, length, hash);
    if (!slot->text) {
        char *copy = length < SIZE_MAX ? mtbal_arena_alloc(arena, length + 1) : NULL;
        if (!copy)
            return NULL;
        memcpy(copy, text, length);
        copy[length] = 0;
        *slot = (name){copy, length, hash};
        t->count++;
    }
    return slot->text;
}

const char *mtbal_intern(mtbal_arena *arena, const char *text)
{
    return mtbal_intern_n(arena, text, strlen(text));
}

const char *mtbal_interned_n(const mtbal_arena *arena, const char *text, size_t length)
{
    const name_table *t = &arena->names;
    return t->count ? find_slot(t, text, length, hash_of(text, length))->text : NULL;
}

const char *mtbal_interned(const mtbal_arena *arena, const char *text)
{
    return mtbal_interned_n(arena, text, strlen(text));
}

/* ------------------------------------------------------------------ the hash map */

struct mtbal_map_entry {
    const void *key; /* NULL: free */
    int number;
};

/* Open addressing: where the key is, or the free place where it belongs. */
static struct mtbal_map_entry *entry_of(const mtbal_map *map, const void *key)
{
    size_t mask = (size_t)map->capacity - 1;
    size_t i = (size_t)((uint64_t)(uintptr_t)key * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (map->entries[i].key && map->entries[i].key != key)
        i = (i + 1) & mask;
    return &map->entries[i];
}

static bool grow_map(mtbal_map *map, mtbal_arena *arena)
{
    mtbal_map bigger = {map->count, map->capacity ? 2 * map->capacity : 16, NULL};
    bigger.entries = mtbal_arena_array(arena, (size_t)bigger.capacity, sizeof *bigger.entries);
    if (!bigger.entries)
        return false;
    for (int i = 0; i < map->capacity; i++)
        if (map->entries[i].key)
            *entry_of(&bigger, map->entries[i].key) = map->entries[i];
    *map = bigger;
    return true;
}

bool mtbal_map_set(mtbal_map *map, mtbal_arena *arena, const void *key, int number)
{
    if (2 * map->count >= map->capacity && !grow_map(map, arena))
        return false;
    struct mtbal_map_entry *entry = entry_of(map, key);
    map->count += !entry->key;
    *entry = (struct mtbal_map_entry){key, number};
    return true;
}

int mtbal_map_get(const mtbal_map *map, const void *key)
{
    const struct mtbal_map_entry *entry = key && map->count ? entry_of(map, key) : NULL;
    return entry && entry->key ? entry->number : -1;
}
