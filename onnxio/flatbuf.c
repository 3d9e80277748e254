/* onnxio/flatbuf.c: FlatBuffers: a forward writer and a distrustful reader. */
#include "onnxio/flatbuf.h"

#include <limits.h>
#include <string.h>

enum { OFFSET = 4, HEADER = 8 };

/* ------------------------------------------------------------------ writing */

/* Room for `size` more zeros at the end. */
static bool grow(fb_writer *w, size_t size)
{
    if (w->status == MTBAL_OK && (size > INT_MAX || w->size + size > INT_MAX))
        w->status = MTBAL_UNSUPPORTED;
    if (w->status != MTBAL_OK)
        return false;
    if (w->size + size > w->capacity) {
        size_t capacity = 2 * (w->size + size) + 1024;
        unsigned char *bigger = mtbal_realloc(w->bytes, capacity);
        if (!bigger) {
            w->status = MTBAL_NOMEM;
            return false;
        }
        w->bytes = bigger;
        w->capacity = capacity;
    }
    memset(w->bytes + w->size, 0, size);
    w->size += size;
    return true;
}

/* So that what stands `after` bytes behind the end is aligned. */
static bool align(fb_writer *w, size_t alignment, size_t after)
{
    return grow(w, (alignment - (w->size + after) % alignment) % alignment);
}

void fb_put(fb_writer *w, size_t at, int64_t number, size_t size)
{
    uint64_t bits = (uint64_t)number;
    for (size_t i = 0; i < size && w->status == MTBAL_OK; i++, bits >>= 8)
        w->bytes[at + i] = (unsigned char)bits;
}

void fb_begin(fb_writer *w, const char *identifier)
{
    *w = (fb_writer){.status = MTBAL_OK};
    if (grow(w, HEADER))
        memcpy(w->bytes + OFFSET, identifier, 4);
}

void fb_end(fb_writer *w)
{
    align(w, OFFSET, 0);
}

static void link_here(fb_writer *w, size_t at)
{
    fb_put(w, at, (int64_t)(w->size - at), OFFSET);
}

void fb_table(fb_writer *w, size_t at, int nfields, const unsigned char *sizes, size_t *where)
{
    size_t vsize = 4 + 2 * (size_t)nfields, size = OFFSET;
    memset(where, 0, (size_t)nfields * sizeof *where);
    if (!align(w, 8, vsize)) /* the table follows its vtable at once, aligned for any number */
        return;
    size_t vtable = w->size;
    grow(w, vsize);
    link_here(w, at);
    size_t table = w->size;
    grow(w, OFFSET);
    for (int i = 0; i < nfields; i++, size = w->size - table) {
        if (!sizes[i] || !align(w, sizes[i], 0))
            continue;
        where[i] = w->size;
        grow(w, sizes[i]);
        fb_put(w, vtable + 4 + 2 * (size_t)i, (int64_t)(where[i] - table), 2);
    }
    fb_put(w, vtable, (int64_t)vsize, 2);
    fb_put(w, vtable + 2, (int64_t)size, 2);
    fb_put(w, table, (int64_t)(table - vtable), OFFSET);
}

void fb_string(fb_writer *w, size_t at, const char *text)
{
    size_t n = strlen(text);
    fb_vector(w, at, n, 1, text);
    grow(w, 1); /* the NUL that the length does not count */
}

size_t fb_vector(fb_writer *w, size_t at, size_t n, size_t element, const void *elements)
{
    size_t bytes;
    if (w->status == MTBAL_OK && !mtbal_mul_size(n, element, &bytes))
        w->status = MTBAL_UNSUPPORTED;
    if (!align(w, 8, OFFSET))
        return 0;
    link_here(w, at);
    size_t length = w->size;
    if (!grow(w, OFFSET) || !grow(w, bytes))
        return 0;
    fb_put(w, length, (int64_t)n, OFFSET);
    if (elements && bytes)
        memcpy(w->bytes + length + OFFSET, elements, bytes);
    return length + OFFSET;
}

/* ------------------------------------------------------------------ reading */

/* Little-endian, sign-extended; 0 where it is outside of the buffer. */
static int64_t number_at(fb_reader *r, size_t at, size_t size)
{
    uint64_t bits = 0;
    if (r->failed || at > r->size || size > r->size - at) {
        r->failed = true;
        return 0;
    }
    for (size_t i = size; i-- > 0;)
        bits = bits << 8 | r->bytes[at + i];
    uint64_t sign = size < 8 ? (uint64_t)1 << (8 * size - 1) : 0;
    return (int64_t)((bits ^ sign) - sign);
}

static size_t unsigned_at(fb_reader *r, size_t at, size_t size)
{
    return (size_t)((uint64_t)number_at(r, at, size) & (((uint64_t)1 << 8 * size) - 1));
}

/* Where the offset at `at` leads. */
static size_t follow(fb_reader *r, size_t at)
{
    size_t offset = unsigned_at(r, at, OFFSET);
    r->failed = r->failed || offset == 0 || offset > r->size - at;
    return r->failed ? 0 : at + offset;
}

static fb_place table_at(fb_reader *r, size_t at)
{
    int64_t vtable = (int64_t)at - number_at(r, at, OFFSET);
    r->failed = r->failed || vtable < 0 || (uint64_t)vtable >= r->size;
    if (r->failed)
        return (fb_place){0};
    fb_place p = {.at = at, .vtable = (size_t)vtable};
    p.vsize = unsigned_at(r, p.vtable, 2);
    p.size = unsigned_at(r, p.vtable + 2, 2);
    r->failed = r->failed || p.vsize < 4 || p.vsize > r->size - p.vtable || p.size < OFFSET ||
                p.size > r->size - at;
    return r->failed ? (fb_place){0} : p;
}

/* Where a field of a table lies; 0 when it is absent. */
static size_t field(fb_reader *r, const fb_place *table, int id, size_t size)
{
    size_t slot = 4 + 2 * (size_t)id;
    if (r->failed || !table->at || slot + 2 > table->vsize)
        return 0;
    size_t offset = unsigned_at(r, table->vtable + slot, 2);
    r->failed = r->failed || offset > table->size || (offset && size > table->size - offset);
    return r->failed || !offset ? 0 : table->at + offset;
}

bool fb_open(fb_reader *r, const void *bytes, size_t size)
{
    *r = (fb_reader){.bytes = bytes, .size = size, .failed = size < HEADER || size % OFFSET};
    r->budget = 2 * size;
    return !r->failed;
}

fb_place fb_root(fb_reader *r)
{
    size_t at = follow(r, FB_ROOT);
    return r->failed ? (fb_place){0} : table_at(r, at);
}

int64_t fb_number(fb_reader *r, const fb_place *table, int id, size_t size, int64_t otherwise)
{
    size_t at = field(r, table, id, size);
    return at ? number_at(r, at, size) : otherwise;
}

fb_place fb_sub(fb_reader *r, const fb_place *table, int id)
{
    size_t at = field(r, table, id, OFFSET);
    at = at ? follow(r, at) : 0;
    return at ? table_at(r, at) : (fb_place){0};
}

fb_list fb_elements(fb_reader *r, const fb_place *table, int id, size_t element)
{
    size_t at = field(r, table, id, OFFSET);
    at = at ? follow(r, at) : 0;
    if (!at)
        return (fb_list){0};
    fb_list list = {.n = unsigned_at(r, at, OFFSET)};
    r->failed = r->failed || list.n > (r->size - at - OFFSET) / element;
    r->failed = r->failed || list.n * element > r->budget;
    if (r->failed)
        return (fb_list){0};
    r->budget -= list.n * element;
    list.at = at + OFFSET;
    return list;
}

fb_place fb_element(fb_reader *r, const fb_list *list, size_t i)
{
    size_t at = r->failed || i >= list->n ? 0 : follow(r, list->at + OFFSET * i);
    return at ? table_at(r, at) : (fb_place){0};
}

const char *fb_text(fb_reader *r, const fb_place *table, int id)
{
    fb_list list = fb_elements(r, table, id, 1);
    if (!list.at)
        return NULL;
    const unsigned char *text = r->bytes + list.at;
    r->failed = r->failed || list.n >= r->size - list.at || text[list.n] ||
                (list.n && memchr(text, 0, list.n));
    return r->failed ? NULL : (const char *)text;
}
