/* onnxio/zip.c: zip archives (APPNOTE.TXT 6.3.9, sections 4.3 to 4.5). Sizes and places are taken
 * from the central directory only; local headers are stepped over. */
#include "onnxio/zip.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

enum {
    LOCAL = 0x04034b50,
    CENTRAL = 0x02014b50,
    END = 0x06054b50,
    END64 = 0x06064b50,
    LOCATOR64 = 0x07064b50,
    LOCAL_SIZE = 30,
    CENTRAL_SIZE = 46,
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    EXTRA64 = 1,
    PIECE = 1 << 18,
    DEFLATE_MOST = 1032, /* the best ratio that deflate can reach */
};

static uint64_t get(const unsigned char *p, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static mtbal_status damaged(const char *path, const char *what, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_INVALID, path, "write the file again", "no valid zip file: %s",
                      what);
}

/* ------------------------------------------------------------------ the directory */

typedef struct directory {
    const char *path;
    const unsigned char *data;
    uint64_t size; /* of the file */
    uint64_t offset, length, count;
    mtbal_diag *diag;
} directory;

/* Finds the end record from the back: a comment of up to 64 KB may follow it. */
static mtbal_status find_directory(directory *d)
{
    uint64_t lowest = d->size > END_SIZE + 65535 ? d->size - END_SIZE - 65535 : 0;
    if (d->size < END_SIZE)
        return damaged(d->path, "it is too short", d->diag);
    uint64_t at = d->size - END_SIZE;
    while (get(d->data + at, 4) != END || get(d->data + at + 20, 2) > d->size - END_SIZE - at) {
        if (at == lowest)
            return damaged(d->path, "it has no directory (is the file cut off?)", d->diag);
        at--;
    }
    const unsigned char *end = d->data + at;
    d->count = get(end + 10, 2);
    d->length = get(end + 12, 4);
    d->offset = get(end + 16, 4);
    bool wide = d->count == 0xffff || d->length == 0xffffffff || d->offset == 0xffffffff;
    if (wide && at >= LOCATOR_SIZE && get(end - LOCATOR_SIZE, 4) == LOCATOR64) {
        uint64_t at64 = get(end - LOCATOR_SIZE + 8, 8);
        if (d->size < END64_SIZE || at64 > d->size - END64_SIZE || get(d->data + at64, 4) != END64)
            return damaged(d->path, "its zip64 directory lies outside of the file", d->diag);
        d->count = get(d->data + at64 + 32, 8);
        d->length = get(d->data + at64 + 40, 8);
        d->offset = get(d->data + at64 + 48, 8);
    }
    if (d->offset > d->size || d->length > d->size - d->offset ||
        d->count > d->length / CENTRAL_SIZE || d->count > INT_MAX)
        return damaged(d->path, "its directory lies outside of the file", d->diag);
    return MTBAL_OK;
}

/* The zip64 extra field: 8 bytes for each of the three numbers that is all ones in the header. */
static void widen(const unsigned char *extra, size_t length, uint64_t *size, uint64_t *packed,
                  uint64_t *offset)
{
    uint64_t *wide[3] = {size, packed, offset};
    while (length >= 4) {
        size_t n = (size_t)get(extra + 2, 2);
        if (n > length - 4)
            return;
        if (get(extra, 2) == EXTRA64) {
            const unsigned char *p = extra + 4;
            for (int i = 0; i < 3; i++)
                if (*wide[i] == 0xffffffff && n >= 8) {
                    *wide[i] = get(p, 8);
                    p += 8;
                    n -= 8;
                }
            return;
        }
        extra += 4 + n;
        length -= 4 + n;
    }
}

static mtbal_status read_entry(const directory *d, const unsigned char *p, mtbal_zip_entry *e,
                               mtbal_arena *arena)
{
    size_t name = (size_t)get(p + 28, 2), extra = (size_t)get(p + 30, 2);
    uint64_t offset = get(p + 42, 4);
    if (name && memchr(p + CENTRAL_SIZE, 0, name))
        return damaged(d->path, "a name has a NUL in it", d->diag);
    e->name = mtbal_intern_n(arena, (const char *)p + CENTRAL_SIZE, name);
    if (!e->name)
        return mtbal_no_memory(d->diag);
    e->method = (int)get(p + 10, 2);
    e->crc = (uint32_t)get(p + 16, 4);
    e->packed_size = get(p + 20, 4);
    e->size = get(p + 24, 4);
    widen(p + CENTRAL_SIZE + name, extra, &e->size, &e->packed_size, &offset);
    if (get(p + 8, 2) & 1)
        return mtbal_fail(d->diag, MTBAL_INVALID, d->path, "write it without a password",
                          "the entry %s is encrypted", e->name);
    if (offset > d->size || d->size - offset < LOCAL_SIZE || get(d->data + offset, 4) != LOCAL)
        return mtbal_fail(d->diag, MTBAL_INVALID, d->path, "write the file again",
                          "the entry %s lies outside of the file", e->name);
    uint64_t start =
        offset + LOCAL_SIZE + get(d->data + offset + 26, 2) + get(d->data + offset + 28, 2);
    if (start > d->size || e->packed_size > d->size - start)
        return mtbal_fail(d->diag, MTBAL_INVALID, d->path, "write the file again",
                          "the entry %s lies outside of the file", e->name);
    e->packed = d->data + start;
    bool possible = e->method == 8 ? e->size / DEFLATE_MOST <= e->packed_size
                                   : e->method != 0 || e->size == e->packed_size;
    if (!possible)
        return mtbal_fail(d->diag, MTBAL_INVALID, d->path, "write the file again",
                          "the entry %s cannot hold %llu bytes in %llu", e->name,
                          (unsigned long long)e->size, (unsigned long long)e->packed_size);
    return MTBAL_OK;
}

mtbal_status mtbal_zip_open(mtbal_zip *zip, const char *path, const unsigned char *data,
                            size_t size, mtbal_arena *arena, mtbal_diag *diag)
{
    directory d = {path, data, size, 0, 0, 0, diag};
    *zip = (mtbal_zip){path, 0, NULL};
    MTBAL_TRY(find_directory(&d));
    zip->entries = mtbal_arena_array(arena, (size_t)d.count, sizeof *zip->entries);
    if (!zip->entries)
        return mtbal_no_memory(diag);
    const unsigned char *p = data + d.offset, *end = p + d.length;
    while ((uint64_t)zip->count < d.count) {
        if (end - p < CENTRAL_SIZE || get(p, 4) != CENTRAL)
            return damaged(path, "its directory is broken", diag);
        size_t whole =
            CENTRAL_SIZE + (size_t)get(p + 28, 2) + (size_t)get(p + 30, 2) + (size_t)get(p + 32, 2);
        if ((size_t)(end - p) < whole)
            return damaged(path, "its directory is broken", diag);
        MTBAL_TRY(read_entry(&d, p, &zip->entries[zip->count], arena));
        zip->count++;
        p += whole;
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ reading an entry */

struct mtbal_zip_stream {
    const char *path;
    const mtbal_zip_entry *entry;
    uint64_t done; /* bytes delivered */
    uint32_t crc;
    z_stream z;
    uint64_t fed; /* packed bytes given to zlib */
};

static voidpf z_alloc(voidpf context, uInt items, uInt size)
{
    (void)context;
    size_t bytes;
    return mtbal_mul_size(items, size, &bytes) ? mtbal_malloc(bytes) : NULL;
}

static void z_free(voidpf context, voidpf p)
{
    (void)context;
    mtbal_free(p);
}

mtbal_zip_stream *mtbal_zip_stream_new(const mtbal_zip *zip, const mtbal_zip_entry *entry,
                                       mtbal_diag *diag)
{
    if (entry->method != 0 && entry->method != 8) {
        mtbal_fail(diag, MTBAL_INVALID, zip->path, "store or deflate it",
                   "the entry %s is compressed by method %d", entry->name, entry->method);
        return NULL;
    }
    mtbal_zip_stream *s = mtbal_malloc(sizeof *s);
    if (s)
        *s = (mtbal_zip_stream){.path = zip->path, .entry = entry};
    if (s && entry->method == 8) {
        s->z.zalloc = z_alloc;
        s->z.zfree = z_free;
        if (inflateInit2(&s->z, -MAX_WBITS) != Z_OK) {
            mtbal_free(s);
            s = NULL;
        }
    }
    if (!s)
        mtbal_no_memory(diag);
    return s;
}

static bool inflate_piece(mtbal_zip_stream *s, unsigned char *to, size_t size)
{
    s->z.next_out = to;
    s->z.avail_out = (uInt)size;
    while (s->z.avail_out > 0) {
        uint64_t rest = s->entry->packed_size - s->fed;
        if (s->z.avail_in == 0 && rest > 0) {
            s->z.next_in = (Bytef *)(uintptr_t)(s->entry->packed + s->fed);
            s->z.avail_in = rest < PIECE ? (uInt)rest : PIECE;
            s->fed += s->z.avail_in;
        }
        int result = inflate(&s->z, Z_NO_FLUSH);
        if (result != Z_OK && !(result == Z_STREAM_END && s->z.avail_out == 0))
            return false;
    }
    return true;
}

mtbal_status mtbal_zip_read(mtbal_zip_stream *s, void *to, size_t size, mtbal_diag *diag)
{
    const mtbal_zip_entry *e = s->entry;
    unsigned char *p = to;
    if (size > e->size - s->done)
        return mtbal_fail(diag, MTBAL_INVALID, s->path, "write the file again",
                          "the entry %s is cut off", e->name);
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < PIECE ? size - done : PIECE;
        if (e->method == 0)
            memcpy(p + done, e->packed + s->done, piece);
        else if (!inflate_piece(s, p + done, piece))
            return mtbal_fail(diag, MTBAL_INVALID, s->path, "write the file again",
                              "the entry %s does not decompress", e->name);
        s->crc = (uint32_t)crc32(s->crc, p + done, (uInt)piece);
        s->done += piece;
        done += piece;
    }
    if (s->done == e->size && s->crc != e->crc)
        return mtbal_fail(diag, MTBAL_INVALID, s->path, "write the file again",
                          "the checksum of the entry %s is wrong", e->name);
    return MTBAL_OK;
}

void mtbal_zip_stream_free(mtbal_zip_stream *s)
{
    if (s && s->entry->method == 8)
        inflateEnd(&s->z);
    mtbal_free(s);
}

/* ------------------------------------------------------------------ writing */

struct mtbal_zip_record {
    char *name;
    uint64_t offset, packed, size;
    uint32_t crc;
    int method;
};

typedef struct bytes {
    unsigned char data[80];
    size_t used;
} bytes;

static void add(bytes *b, uint64_t x, int width)
{
    for (int i = 0; i < width; i++)
        b->data[b->used++] = (unsigned char)(x >> (8 * i));
}

static mtbal_status put(mtbal_zip_writer *zip, const void *data, size_t size, mtbal_diag *diag)
{
    zip->offset += size;
    return mtbal_writer_put(zip->to, data, size, diag);
}

enum { DOS_DATE = 0x21, ZIP64 = 45, ZIP20 = 20, DESCRIPTOR = 8 };

/* The local header says: sizes follow the data (bit 3), and may be wide (an empty zip64 field). So
 * nothing written has to be changed later, and a pipe will do. */
static mtbal_status put_local(mtbal_zip_writer *zip, const struct mtbal_zip_record *r, bool wide,
                              mtbal_diag *diag)
{
    bytes b = {.used = 0};
    size_t name = strlen(r->name);
    add(&b, LOCAL, 4);
    add(&b, wide ? ZIP64 : ZIP20, 2);
    add(&b, DESCRIPTOR, 2);
    add(&b, (uint64_t)r->method, 2);
    add(&b, 0, 2);
    add(&b, DOS_DATE, 2);
    add(&b, 0, 4);
    add(&b, wide ? 0xffffffff : 0, 4);
    add(&b, wide ? 0xffffffff : 0, 4);
    add(&b, name, 2);
    add(&b, wide ? 20 : 0, 2);
    MTBAL_TRY(put(zip, b.data, b.used, diag));
    MTBAL_TRY(put(zip, r->name, name, diag));
    b.used = 0;
    add(&b, EXTRA64, 2);
    add(&b, 16, 2);
    add(&b, 0, 8);
    add(&b, 0, 8);
    return wide ? put(zip, b.data, b.used, diag) : MTBAL_OK;
}

static mtbal_status put_descriptor(mtbal_zip_writer *zip, const struct mtbal_zip_record *r,
                                   bool wide, mtbal_diag *diag)
{
    bytes b = {.used = 0};
    add(&b, 0x08074b50, 4);
    add(&b, r->crc, 4);
    add(&b, r->packed, wide ? 8 : 4);
    add(&b, r->size, wide ? 8 : 4);
    return put(zip, b.data, b.used, diag);
}

static mtbal_status deflate_pieces(mtbal_zip_writer *zip, z_stream *z, const void *const part[2],
                                   const size_t size[2], unsigned char *out, mtbal_diag *diag)
{
    for (int i = 0; i < 2; i++) {
        size_t done = 0;
        do {
            size_t piece = size[i] - done < PIECE ? size[i] - done : PIECE;
            bool last = i == 1 && done + piece == size[i];
            z->next_in = (Bytef *)(uintptr_t)((const unsigned char *)part[i] + done);
            z->avail_in = (uInt)piece;
            done += piece;
            do {
                z->next_out = out;
                z->avail_out = PIECE;
                deflate(z, last ? Z_FINISH : Z_NO_FLUSH);
                MTBAL_TRY(put(zip, out, PIECE - z->avail_out, diag));
            } while (z->avail_out == 0);
        } while (done < size[i]);
    }
    return MTBAL_OK;
}

static mtbal_status put_deflated(mtbal_zip_writer *zip, const void *const part[2],
                                 const size_t size[2], mtbal_diag *diag)
{
    z_stream z = {.zalloc = z_alloc, .zfree = z_free};
    unsigned char *out = mtbal_malloc(PIECE);
    if (!out || deflateInit2(&z, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        mtbal_free(out);
        return mtbal_no_memory(diag);
    }
    mtbal_status status = deflate_pieces(zip, &z, part, size, out, diag);
    deflateEnd(&z);
    mtbal_free(out);
    return status;
}

static uint32_t checksum(uint32_t crc, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < PIECE ? size - done : PIECE;
        crc = (uint32_t)crc32(crc, (const unsigned char *)data + done, (uInt)piece);
        done += piece;
    }
    return crc;
}

static struct mtbal_zip_record *new_record(mtbal_zip_writer *zip, const char *name)
{
    if (zip->count == zip->capacity) {
        int capacity = zip->capacity ? 2 * zip->capacity : 16;
        struct mtbal_zip_record *longer =
            mtbal_realloc(zip->records, (size_t)capacity * sizeof *longer);
        if (!longer)
            return NULL;
        zip->records = longer;
        zip->capacity = capacity;
    }
    struct mtbal_zip_record *r = &zip->records[zip->count];
    r->name = mtbal_malloc(strlen(name) + 1);
    if (!r->name)
        return NULL;
    strcpy(r->name, name);
    zip->count++;
    return r;
}

mtbal_status mtbal_zip_add(mtbal_zip_writer *zip, const char *name, const void *head,
                           size_t head_size, const void *data, size_t size, bool deflated,
                           mtbal_diag *diag)
{
    const void *const part[2] = {head, size ? data : head};
    const size_t sizes[2] = {head_size, size};
    if (strlen(name) > 0xffff)
        return mtbal_fail(diag, MTBAL_INVALID, zip->to->path, NULL,
                          "the name of an array is longer "
                          "than 65,535 bytes");
    struct mtbal_zip_record *r = new_record(zip, name);
    if (!r)
        return mtbal_no_memory(diag);
    r->method = deflated ? 8 : 0;
    r->offset = zip->offset;
    r->size = (uint64_t)head_size + size;
    r->crc = checksum(checksum(0, head, head_size), data, size);
    bool wide = r->size >= 0xf0000000; /* deflated data may grow a little */
    MTBAL_TRY(put_local(zip, r, wide, diag));
    uint64_t start = zip->offset;
    if (deflated) {
        MTBAL_TRY(put_deflated(zip, part, sizes, diag));
    } else {
        MTBAL_TRY(put(zip, head, head_size, diag));
        MTBAL_TRY(put(zip, part[1], size, diag));
    }
    r->packed = zip->offset - start;
    return put_descriptor(zip, r, wide, diag);
}

static mtbal_status put_central(mtbal_zip_writer *zip, const struct mtbal_zip_record *r,
                                mtbal_diag *diag)
{
    bytes b = {.used = 0};
    size_t name = strlen(r->name);
    bool wide = r->size >= 0xf0000000 || r->packed >= 0xf0000000 || r->offset >= 0xf0000000;
    add(&b, CENTRAL, 4);
    add(&b, wide ? ZIP64 : ZIP20, 2);
    add(&b, wide ? ZIP64 : ZIP20, 2);
    add(&b, DESCRIPTOR, 2);
    add(&b, (uint64_t)r->method, 2);
    add(&b, 0, 2);
    add(&b, DOS_DATE, 2);
    add(&b, r->crc, 4);
    add(&b, wide ? 0xffffffff : r->packed, 4);
    add(&b, wide ? 0xffffffff : r->size, 4);
    add(&b, name, 2);
    add(&b, wide ? 28 : 0, 2);
    add(&b, 0, 2); /* comment, disk, attributes */
    add(&b, 0, 2);
    add(&b, 0, 2);
    add(&b, 0, 4);
    add(&b, wide ? 0xffffffff : r->offset, 4);
    MTBAL_TRY(put(zip, b.data, b.used, diag));
    MTBAL_TRY(put(zip, r->name, name, diag));
    b.used = 0;
    add(&b, EXTRA64, 2);
    add(&b, 24, 2);
    add(&b, r->size, 8);
    add(&b, r->packed, 8);
    add(&b, r->offset, 8);
    return wide ? put(zip, b.data, b.used, diag) : MTBAL_OK;
}

mtbal_status mtbal_zip_finish(mtbal_zip_writer *zip, mtbal_diag *diag)
{
    uint64_t start = zip->offset, count = (uint64_t)zip->count;
    for (int i = 0; i < zip->count; i++)
        MTBAL_TRY(put_central(zip, &zip->records[i], diag));
    uint64_t end = zip->offset, length = end - start;
    bool wide = count >= 0xffff || length >= 0xf0000000 || start >= 0xf0000000;
    bytes b = {.used = 0};
    if (wide) {
        add(&b, END64, 4);
        add(&b, END64_SIZE - 12, 8);
        add(&b, ZIP64, 2);
        add(&b, ZIP64, 2);
        add(&b, 0, 8); /* disks */
        add(&b, count, 8);
        add(&b, count, 8);
        add(&b, length, 8);
        add(&b, start, 8);
        add(&b, LOCATOR64, 4);
        add(&b, 0, 4);
        add(&b, end, 8);
        add(&b, 1, 4);
        MTBAL_TRY(put(zip, b.data, b.used, diag));
        b.used = 0;
    }
    add(&b, END, 4);
    add(&b, 0, 4);
    add(&b, wide ? 0xffff : count, 2);
    add(&b, wide ? 0xffff : count, 2);
    add(&b, wide ? 0xffffffff : length, 4);
    add(&b, wide ? 0xffffffff : start, 4);
    add(&b, 0, 2);
    return put(zip, b.data, b.used, diag);
}

void mtbal_zip_writer_free(mtbal_zip_writer *zip)
{
    for (int i = 0; i < zip->count; i++)
        mtbal_free(zip->records[i].name);
    mtbal_free(zip->records);
    *zip = (mtbal_zip_writer){NULL, 0, 0, 0, NULL};
}
