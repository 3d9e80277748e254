/* onnxio/flatbuf.h: FlatBuffers without a schema compiler: a writer that goes forward, and a reader
 * that believes nothing. Little-endian, as the format is. A table is its vtable (sizes, then where
 * each field lies), a signed offset back to it, and the fields; everything that is not a number is
 * an unsigned offset forward. */
#ifndef MTBAL_ONNXIO_FLATBUF_H
#define MTBAL_ONNXIO_FLATBUF_H

#include "graph/graph.h"

enum { FB_MAX_FIELDS = 8 };

/* ------------------------------------------------------------------ writing */

/* Sticky: after running out of memory, or of the 2 GB that offsets reach, calls do nothing. */
typedef struct fb_writer {
    unsigned char *bytes; /* mtbal_malloc */
    size_t size, capacity;
    mtbal_status status; /* MTBAL_NOMEM, MTBAL_UNSUPPORTED: too large */
} fb_writer;

void fb_begin(fb_writer *w, const char *identifier); /* 4 bytes */
void fb_end(fb_writer *w);                           /* whole words, as all such files are */
void fb_put(fb_writer *w, size_t at, int64_t number, size_t size);
/* Each of these appends one object and makes the offset at `at` point to it (FB_ROOT: the root). */
enum { FB_ROOT = 0 };
/* A table with a field of each size (0: absent; offsets have 4), all zero; where[i] is field i. */
void fb_table(fb_writer *w, size_t at, int nfields, const unsigned char *sizes, size_t *where);
void fb_string(fb_writer *w, size_t at, const char *text);
/* n elements, or zeros where `elements` is NULL. Returns where the first lies. */
size_t fb_vector(fb_writer *w, size_t at, size_t n, size_t element, const void *elements);

/* ------------------------------------------------------------------ reading */

/* Sticky: after anything that lies outside of the buffer `failed` is set, and all is empty.
 * `budget` bounds what strings and vectors may add up to: many offsets may lead to the same bytes.
 */
typedef struct fb_reader {
    const unsigned char *bytes;
    size_t size, budget;
    bool failed;
} fb_reader;
typedef struct fb_place {
    size_t at, vtable; /* at 0: absent */
    size_t vsize, size;
} fb_place;
typedef struct fb_list {
    size_t at, n; /* at: the first element; 0: absent */
} fb_list;

bool fb_open(fb_reader *r, const void *bytes, size_t size); /* long enough, whole words */
fb_place fb_root(fb_reader *r);
int64_t fb_number(fb_reader *r, const fb_place *table, int id, size_t size, int64_t otherwise);
fb_place fb_sub(fb_reader *r, const fb_place *table, int id);
fb_list fb_elements(fb_reader *r, const fb_place *table, int id, size_t element);
fb_place fb_element(fb_reader *r, const fb_list *list, size_t i); /* of a vector of tables */
/* NUL-terminated and without a NUL inside; NULL when absent. */
const char *fb_text(fb_reader *r, const fb_place *table, int id);

#endif
