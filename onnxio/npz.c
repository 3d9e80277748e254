/* onnxio/npz.c: NumPy's arrays (numpy/lib/format.py): .npy, versions 1 to 3, and zips of them. */
#include "onnxio/onnxio.h"
#include "onnxio/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { MAX_RANK = 64, MAX_HEADER = 1 << 20, ALIGN = 64 };

static const struct {
    char kind;
    int size;
    mtbal_dtype dtype;
} types[] = {
    {'f', 2, MTBAL_FLOAT16},   {'f', 4, MTBAL_FLOAT},       {'f', 8, MTBAL_DOUBLE},
    {'i', 1, MTBAL_INT8},      {'i', 2, MTBAL_INT16},       {'i', 4, MTBAL_INT32},
    {'i', 8, MTBAL_INT64},     {'u', 1, MTBAL_UINT8},       {'u', 2, MTBAL_UINT16},
    {'u', 4, MTBAL_UINT32},    {'u', 8, MTBAL_UINT64},      {'b', 1, MTBAL_BOOL},
    {'c', 8, MTBAL_COMPLEX64}, {'c', 16, MTBAL_COMPLEX128}, {'V', 2, MTBAL_BFLOAT16},
};
enum { NTYPES = sizeof types / sizeof *types };

/* ------------------------------------------------------------------ the header: a Python dict */

typedef struct header {
    const char *p, *end;
    bool failed;
    mtbal_dtype dtype;
    bool big_endian, fortran;
    int rank;
    int64_t dims[MAX_RANK];
    int found; /* bits: descr, fortran_order, shape */
} header;

static char peek(header *h)
{
    while (h->p < h->end && strchr(" \t\r\n", *h->p) && *h->p)
        h->p++;
    return h->p < h->end ? *h->p : '\0';
}

static bool accept(header *h, char c)
{
    if (peek(h) != c)
        return false;
    h->p++;
    return true;
}

static void expect(header *h, char c)
{
    if (!accept(h, c))
        h->failed = true;
}

/* A quoted word without escapes. */
static void word(header *h, char *to, size_t size)
{
    char quote = peek(h);
    size_t n = 0;
    if (quote != '\'' && quote != '"') {
        h->failed = true;
        return;
    }
    for (h->p++; h->p < h->end && *h->p != quote; h->p++)
        if (n + 1 < size)
            to[n++] = *h->p;
    to[n] = '\0';
    h->failed = h->failed || h->p == h->end;
    h->p += h->p < h->end;
}

/* Skips a value in brackets: the description of a record type. */
static void skip_brackets(header *h)
{
    int depth = 0;
    char ignored[2];
    do {
        char c = peek(h);
        if (c == '\'' || c == '"') {
            word(h, ignored, sizeof ignored);
            continue;
        }
        depth += c == '[' || c == '(';
        depth -= c == ']' || c == ')';
        h->failed = h->failed || c == '\0';
        h->p++;
    } while (depth > 0 && !h->failed);
}

static void read_descr(header *h)
{
    char text[32] = "";
    if (peek(h) == '[') {
        skip_brackets(h);
        return;
    }
    word(h, text, sizeof text);
    h->big_endian = text[0] == '>';
    for (int i = 0; i < NTYPES && strchr("<>=|", text[0]) && text[0] && text[1]; i++)
        if (types[i].kind == text[1] && strtol(text + 2, NULL, 10) == types[i].size)
            h->dtype = types[i].dtype;
}

static void read_flag(header *h)
{
    size_t rest = (peek(h), (size_t)(h->end - h->p));
    if (rest >= 4 && !memcmp(h->p, "True", 4)) {
        h->fortran = true;
        h->p += 4;
    } else if (rest >= 5 && !memcmp(h->p, "False", 5)) {
        h->p += 5;
    } else {
        h->failed = true;
    }
}

static void read_shape(header *h)
{
    expect(h, '(');
    while (!h->failed && !accept(h, ')')) {
        int64_t size = 0;
        char c = peek(h);
        h->failed = c < '0' || c > '9' || h->rank == MAX_RANK;
        for (; !h->failed && h->p < h->end && *h->p >= '0' && *h->p <= '9'; h->p++) {
            h->failed = !mtbal_mul_i64(size, 10, &size) || size > INT64_MAX - 9;
            size += *h->p - '0';
        }
        if (h->failed)
            return;
        h->dims[h->rank++] = size;
        accept(h, 'L'); /* Python 2 */
        if (!accept(h, ',') && peek(h) != ')')
            h->failed = true;
    }
}

static bool parse_header(header *h)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    static void (*const readers[])(header *) = {read_descr, read_flag, read_shape};
    expect(h, '{');
    while (!h->failed && !accept(h, '}')) {
        char key[32];
        int k = 0;
        word(h, key, sizeof key);
        expect(h, ':');
        while (k < 3 && !h->failed && strcmp(key, keys[k]))
            k++;
        if (h->failed || k == 3 || h->found & 1 << k)
            return false;
        h->found |= 1 << k;
        readers[k](h);
        if (!accept(h, ',') && peek(h) != '}')
            h->failed = true;
    }
    return !h->failed && h->found == 7;
}

/* ------------------------------------------------------------------ reading one array */

typedef struct reader {
    const char *path, *name; /* of the file and the array */
    const mtbal_zip_entry *entry;
    mtbal_zip_stream *stream;
    mtbal_arena *arena;
    mtbal_diag *diag;
} reader;

static mtbal_status bad_array(reader *r, const char *what)
{
    return mtbal_fail(r->diag, MTBAL_INVALID, r->path, "write it again with numpy.savez",
                      "the array %s %s", r->name, what);
}

/* *consumed: bytes in front of the data. */
static mtbal_status read_header(reader *r, header *h, uint64_t *consumed)
{
    unsigned char start[12];
    if (r->entry->size < 10)
        return bad_array(r, "is too short for a .npy file");
    MTBAL_TRY(mtbal_zip_read(r->stream, start, 10, r->diag));
    if (memcmp(start, "\x93NUMPY", 6) != 0)
        return bad_array(r, "is no .npy file");
    if (start[6] < 1 || start[6] > 3)
        return bad_array(r, "is in an unknown version of the .npy format");
    size_t length = start[8] | (size_t)start[9] << 8;
    *consumed = 10;
    if (start[6] > 1) {
        MTBAL_TRY(mtbal_zip_read(r->stream, start + 10, 2, r->diag));
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
        *consumed = 12;
    }
    if (length > MAX_HEADER || length > r->entry->size - *consumed)
        return bad_array(r, "has a broken header");
    char *text = mtbal_malloc(length + 1);
    if (!text)
        return mtbal_no_memory(r->diag);
    mtbal_status status = mtbal_zip_read(r->stream, text, length, r->diag);
    *consumed += length;
    h->p = text;
    h->end = text + length;
    if (status == MTBAL_OK && !parse_header(h))
        status = bad_array(r, "has a broken header");
    mtbal_free(text);
    return status;
}

static void swap_bytes(unsigned char *data, size_t bytes, size_t unit)
{
    for (size_t i = 0; unit > 1 && i + unit <= bytes; i += unit)
        for (size_t a = i, b = i + unit - 1; a < b; a++, b--) {
            unsigned char t = data[a];
            data[a] = data[b];
            data[b] = t;
        }
}

/* From column-major to row-major: walks the result in order, and a counter over its indices. */
static void to_row_major(unsigned char *to, const unsigned char *from, const mtbal_array *a)
{
    int64_t index[MAX_RANK] = {0}, stride[MAX_RANK];
    size_t size = a->count ? a->bytes / (size_t)a->count : 0;
    int64_t step = 1, at = 0;
    for (int k = 0; k < a->rank; k++) {
        stride[k] = step;
        step *= a->dims[k];
    }
    for (int64_t i = 0; i < a->count; i++) {
        memcpy(to + (size_t)i * size, from + (size_t)at * size, size);
        for (int k = a->rank - 1; k >= 0; k--) {
            at += stride[k];
            if (++index[k] < a->dims[k])
                break;
            at -= stride[k] * a->dims[k];
            index[k] = 0;
        }
    }
}

static mtbal_status read_data(reader *r, const header *h, mtbal_array *a)
{
    MTBAL_TRY(mtbal_zip_read(r->stream, a->data, a->bytes, r->diag));
    bool complex = a->dtype == MTBAL_COMPLEX64 || a->dtype == MTBAL_COMPLEX128;
    if (h->big_endian)
        swap_bytes(a->data, a->bytes, mtbal_dtype_size(a->dtype) / (complex ? 2 : 1));
    unsigned char *bytes = a->data;
    for (size_t i = 0; a->dtype == MTBAL_BOOL && i < a->bytes; i++)
        bytes[i] = bytes[i] != 0;
    if (!h->fortran || a->rank < 2 || a->count == 0)
        return MTBAL_OK;
    void *ordered = mtbal_arena_alloc(r->arena, a->bytes);
    if (!ordered)
        return mtbal_no_memory(r->diag);
    to_row_major(ordered, a->data, a);
    a->data = ordered;
    return MTBAL_OK;
}

static mtbal_status read_array(reader *r, mtbal_array *a)
{
    header h = {.p = NULL};
    uint64_t consumed = 0;
    MTBAL_TRY(read_header(r, &h, &consumed));
    *a = (mtbal_array){.name = r->name, .dtype = h.dtype, .rank = h.rank, .count = 1};
    a->dims = mtbal_arena_copy(r->arena, h.dims, (size_t)h.rank * sizeof *h.dims);
    if (!a->dims)
        return mtbal_no_memory(r->diag);
    int64_t bytes = 0;
    bool empty = false, fits = true;
    for (int i = 0; i < h.rank; i++)
        empty = empty || h.dims[i] == 0;
    for (int i = 0; i < h.rank && !empty; i++)
        fits = fits && mtbal_mul_i64(a->count, h.dims[i], &a->count);
    a->count = empty ? 0 : a->count;
    if (a->dtype == MTBAL_UNDEFINED && fits)
        return MTBAL_OK;
    fits = fits && mtbal_mul_i64(a->count, (int64_t)mtbal_dtype_size(a->dtype), &bytes);
    if (!fits || (uint64_t)bytes != r->entry->size - consumed)
        return mtbal_fail(r->diag, MTBAL_INVALID, r->path, "write it again with numpy.savez",
                          "the array %s: its shape and type need %lld bytes, there are %llu",
                          r->name, fits ? (long long)bytes : -1LL,
                          (unsigned long long)(r->entry->size - consumed));
    a->bytes = (size_t)bytes;
    a->data = mtbal_arena_alloc(r->arena, a->bytes);
    return a->data ? read_data(r, &h, a) : mtbal_no_memory(r->diag);
}

/* ------------------------------------------------------------------ files */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mtbal_array *)a)->name, ((const mtbal_array *)b)->name);
}

static mtbal_status check_names(const mtbal_npz *npz, const char *path, mtbal_diag *diag)
{
    for (int i = 1; i < npz->count; i++)
        if (strcmp(npz->arrays[i - 1].name, npz->arrays[i].name) == 0)
            return mtbal_fail(diag, MTBAL_INVALID, path, "write each array once",
                              "there are two arrays %s", npz->arrays[i].name);
    return MTBAL_OK;
}

static mtbal_status read_entries(mtbal_npz *npz, const mtbal_zip *zip, const char *path,
                                 mtbal_diag *diag)
{
    npz->arrays = mtbal_arena_array(npz->arena, (size_t)zip->count, sizeof *npz->arrays);
    if (!npz->arrays)
        return mtbal_no_memory(diag);
    for (int i = 0; i < zip->count; i++) {
        const mtbal_zip_entry *e = &zip->entries[i];
        size_t length = strlen(e->name);
        if (length < 4 || strcmp(e->name + length - 4, ".npy") != 0)
            continue; /* numpy gives such entries out as bytes: no array */
        reader r = {path, mtbal_intern_n(npz->arena, e->name, length - 4), e, NULL, npz->arena,
                    diag};
        if (!r.name)
            return mtbal_no_memory(diag);
        r.stream = mtbal_zip_stream_new(zip, e, diag);
        if (!r.stream)
            return diag->status;
        mtbal_status status = read_array(&r, &npz->arrays[npz->count]);
        mtbal_zip_stream_free(r.stream);
        MTBAL_TRY(status);
        npz->count++;
    }
    qsort(npz->arrays, (size_t)npz->count, sizeof *npz->arrays, by_name);
    return check_names(npz, path, diag);
}

/* A file that is one array is an archive of one stored entry, named as the file. */
static mtbal_status single(mtbal_zip *zip, const char *path, const mtbal_file *file,
                           mtbal_arena *arena, mtbal_diag *diag)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t length = strlen(base);
    bool named = length >= 4 && strcmp(base + length - 4, ".npy") == 0;
    mtbal_zip_entry *e = mtbal_arena_alloc(arena, sizeof *e);
    if (!e || !(e->name = mtbal_arena_printf(arena, "%s%s", base, named ? "" : ".npy")))
        return mtbal_no_memory(diag);
    e->packed = file->data;
    e->packed_size = e->size = file->size;
    for (size_t at = 0, piece; at < file->size; at += piece) {
        piece = file->size - at < MAX_HEADER ? file->size - at : MAX_HEADER;
        e->crc = (uint32_t)crc32(e->crc, file->data + at, (uInt)piece);
    }
    *zip = (mtbal_zip){path, 1, e};
    return MTBAL_OK;
}

static mtbal_status read_file(mtbal_npz *npz, const char *path, const mtbal_file *file,
                              mtbal_diag *diag)
{
    mtbal_zip zip;
    if (file->size >= 6 && memcmp(file->data, "\x93NUMPY", 6) == 0)
        MTBAL_TRY(single(&zip, path, file, npz->arena, diag));
    else
        MTBAL_TRY(mtbal_zip_open(&zip, path, file->data, file->size, npz->arena, diag));
    return read_entries(npz, &zip, path, diag);
}

mtbal_status mtbal_npz_read(const char *path, mtbal_npz **result, mtbal_diag *diag)
{
    mtbal_diag own = {0};
    diag = diag && diag->status == MTBAL_OK ? diag : &own;
    mtbal_file file;
    *result = NULL;
    MTBAL_TRY(mtbal_file_map(path, &file, diag));
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_npz *npz = arena ? mtbal_arena_alloc(arena, sizeof *npz) : NULL;
    mtbal_status status = npz ? MTBAL_OK : mtbal_no_memory(diag);
    if (npz) {
        npz->arena = arena;
        status = read_file(npz, path, &file, diag);
    }
    mtbal_file_unmap(&file);
    if (status == MTBAL_OK)
        *result = npz;
    else
        mtbal_arena_free(arena);
    return status;
}

const mtbal_array *mtbal_npz_find(const mtbal_npz *npz, const char *name)
{
    mtbal_array key = {.name = name};
    return npz->count ? bsearch(&key, npz->arrays, (size_t)npz->count, sizeof *npz->arrays, by_name)
                      : NULL;
}

void mtbal_npz_free(mtbal_npz *npz)
{
    if (npz)
        mtbal_arena_free(npz->arena);
}

/* ------------------------------------------------------------------ writing */

/* The header of an array, padded so that its data starts at a multiple of 64. *size: its length. */
static char *make_header(const mtbal_array *a, const char *descr, mtbal_arena *arena, size_t *size)
{
    char shape[MAX_RANK * 22 + 8] = "";
    size_t n = 0;
    for (int i = 0; i < a->rank; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, i ? ", %lld" : "%lld",
                              (long long)a->dims[i]);
    char *dict =
        mtbal_arena_printf(arena, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
                           descr, shape, a->rank == 1 ? "," : "");
    if (!dict)
        return NULL;
    size_t length = strlen(dict);
    *size = (10 + length + 1 + ALIGN - 1) / ALIGN * ALIGN;
    char *text = mtbal_arena_alloc(arena, *size);
    if (!text)
        return NULL;
    memset(text, ' ', *size);
    memcpy(text, "\x93NUMPY\x01", 8);
    text[8] = (char)((*size - 10) & 0xff);
    text[9] = (char)((*size - 10) >> 8);
    memcpy(text + 10, dict, length);
    text[*size - 1] = '\n';
    return text;
}

static mtbal_status write_array(mtbal_zip_writer *zip, const mtbal_array *a, bool deflated,
                                mtbal_arena *arena, mtbal_diag *diag)
{
    const char *path = zip->to->path;
    char descr[8] = "";
    for (int i = 0; i < NTYPES; i++)
        if (types[i].dtype == a->dtype)
            snprintf(descr, sizeof descr, "%c%c%d", types[i].size > 1 ? '<' : '|', types[i].kind,
                     types[i].size);
    if (!descr[0] || a->rank > MAX_RANK)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, path, NULL,
                          "the array %s of type %s and rank %d cannot be written", a->name,
                          mtbal_dtype_name(a->dtype), a->rank);
    size_t size;
    char *name = mtbal_arena_printf(arena, "%s.npy", a->name);
    char *head = name ? make_header(a, descr, arena, &size) : NULL;
    if (!head)
        return mtbal_no_memory(diag);
    return mtbal_zip_add(zip, name, head, size, a->data, a->bytes, deflated, diag);
}

mtbal_status mtbal_npz_prepare(const char *path, int count, const mtbal_array *arrays, bool deflate,
                               mtbal_writer *writer, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_writer_open(writer, path, diag));
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_zip_writer zip = {.to = writer};
    mtbal_status status = arena ? MTBAL_OK : mtbal_no_memory(diag);
    for (int i = 0; i < count && status == MTBAL_OK; i++)
        status = write_array(&zip, &arrays[i], deflate, arena, diag);
    if (status == MTBAL_OK)
        status = mtbal_zip_finish(&zip, diag);
    mtbal_zip_writer_free(&zip);
    mtbal_arena_free(arena);
    if (status == MTBAL_OK)
        status = mtbal_writer_seal(writer, diag);
    if (status != MTBAL_OK)
        mtbal_writer_abort(writer);
    return status;
}

mtbal_status mtbal_npz_write(const char *path, int count, const mtbal_array *arrays, bool deflate,
                             mtbal_diag *diag)
{
    mtbal_writer writer;
    MTBAL_TRY(mtbal_npz_prepare(path, count, arrays, deflate, &writer, diag));
    return mtbal_writer_commit(&writer, diag);
}
