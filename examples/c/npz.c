/* npz.c: .npz files: a zip of .npy files. Not read: zip64, Fortran order, big-endian numbers. */
#include "npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { LOCAL = 30, CENTRAL = 46, END = 22, HEAD = 256 }; /* bytes of records */

static uint32_t get(const unsigned char *p, int n)
{
    return n ? p[0] | get(p + 1, n - 1) << 8 : 0;
}

static unsigned char *put(unsigned char *p, uint32_t x, int n)
{
    for (int i = 0; i < n; i++)
        *p++ = (unsigned char)(x >> 8 * i);
    return p;
}

/* ------------------------------------------------------------------ reading */

static unsigned char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long length = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
    unsigned char *bytes = length < 0 ? NULL : malloc((size_t)length + 1);
    *size = bytes ? (size_t)length : 0;
    if (bytes && (fseek(file, 0, SEEK_SET) || fread(bytes, 1, *size, file) != *size))
        *size = 0;
    if (file)
        fclose(file);
    return bytes;
}

static int inflated(const unsigned char *from, size_t packed, unsigned char *to, size_t size)
{
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)from, .avail_in = (uInt)packed};
    z.next_out = to, z.avail_out = (uInt)size;
    int ok = inflateInit2(&z, -15) == Z_OK && inflate(&z, Z_FINISH) == Z_STREAM_END;
    inflateEnd(&z);
    return ok && z.total_out == size;
}

/* An .npy file of `size` bytes, which the array keeps. */
static int parse(unsigned char *npy, size_t size, npz_array *a)
{
    size_t start = size > 12 && npy[6] > 1 ? 12 : 10;
    size_t head = size > 12 ? get(npy + 8, start == 12 ? 4 : 2) : size;
    if (size < start || head > size - start)
        return 0;
    char *text = (char *)npy + start, *descr, *shape, *end;
    text[head ? head - 1 : 0] = 0;
    if (!(descr = strstr(text, "'descr': '")) || !(shape = strstr(text, "'shape': (")) ||
        strstr(text, "True") || sscanf(descr + 10, "%*[<|]%3[a-z0-9]", a->type) != 1)
        return 0;
    a->rank = 0, a->count = 1;
    for (shape += 10; a->rank < 8; shape = end + (*end == ','), a->rank++) {
        long long n = strtoll(shape, &end, 10);
        if (end == shape)
            break;
        a->dims[a->rank] = n, a->count *= n;
    }
    a->data = npy + start + head;
    a->bytes = size - start - head;
    return a->bytes == (size_t)a->count * (size_t)atoi(a->type + 1);
}

static int read_entry(const unsigned char *zip, size_t size, const unsigned char *entry,
                      npz_array *a)
{
    size_t packed = get(entry + 20, 4), whole = get(entry + 24, 4), local = get(entry + 42, 4);
    size_t length = get(entry + 28, 2);
    if (local + LOCAL > size || length < 4 || length - 4 >= sizeof a->name)
        return 0;
    size_t at = local + LOCAL + get(zip + local + 26, 2) + get(zip + local + 28, 2);
    unsigned char *npy = at <= size && packed <= size - at ? malloc(whole + 1) : NULL;
    snprintf(a->name, sizeof a->name, "%.*s", (int)length - 4, (const char *)entry + CENTRAL);
    if (!npy)
        return 0;
    if (get(entry + 10, 2) == 0 && packed == whole)
        memcpy(npy, zip + at, whole);
    else if (!inflated(zip + at, packed, npy, whole))
        return 0;
    return parse(npy, whole, a);
}

int npz_read(const char *path, npz_array **arrays)
{
    size_t size, end, at;
    unsigned char *zip = read_file(path, &size);
    for (end = size < END ? 0 : size - END; end > 0 && get(zip + end, 4) != 0x06054b50; end--)
        ;
    int n = end ? (int)get(zip + end + 10, 2) : 0, read = 0;
    *arrays = calloc((size_t)n + 1, sizeof **arrays);
    for (at = end ? get(zip + end + 16, 4) : 0; *arrays && read < n && at + CENTRAL <= end;
         read++) {
        if (!read_entry(zip, size, zip + at, *arrays + read))
            break;
        at += CENTRAL + get(zip + at + 28, 2) + get(zip + at + 30, 2) + get(zip + at + 32, 2);
    }
    free(zip);
    if (read < n || !n)
        fprintf(stderr, "%s: cannot read array %d\n", path, read);
    return read == n ? n : 0;
}

/* ------------------------------------------------------------------ writing */

static void npy_head(const npz_array *a, char head[HEAD])
{
    char shape[8 * 22] = "", line[HEAD - 10];
    for (int i = 0, n = 0; i < a->rank; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%lld, ", (long long)a->dims[i]);
    snprintf(line, sizeof line, "{'descr': '<%s', 'fortran_order': False, 'shape': (%s), }",
             a->type, shape);
    memcpy(head, "\x93NUMPY\x01\x00\xf6\x00", 10);
    snprintf(head + 10, HEAD - 10, "%-245s", line);
    head[HEAD - 1] = '\n';
}

/* What a local and a central record have in common. */
static unsigned char *common(unsigned char *p, const npz_array *a, uint32_t crc)
{
    const uint32_t size = HEAD + (uint32_t)a->bytes;
    const uint32_t fields[] = {20, 0x800, 0, 0, 33, crc, size, size, (uint32_t)strlen(a->name) + 4,
                               0};
    const int sizes[] = {2, 2, 2, 2, 2, 4, 4, 4, 2, 2};
    for (int i = 0; i < 10; i++)
        p = put(p, fields[i], sizes[i]);
    return p;
}

int npz_write(const char *path, const npz_array *arrays, int n)
{
    FILE *file = fopen(path, "wb");
    unsigned char *directory = calloc((size_t)n + 1, CENTRAL + sizeof arrays->name), *p = directory;
    uint32_t at = 0;
    for (int i = 0; file && directory && i < n; i++) {
        const npz_array *a = &arrays[i];
        unsigned char local[LOCAL], *q = put(local, 0x04034b50, 4);
        char head[HEAD];
        npy_head(a, head);
        uLong crc = crc32(crc32(0, (unsigned char *)head, HEAD), a->data, (uInt)a->bytes);
        common(q, a, (uint32_t)crc);
        fwrite(local, 1, LOCAL, file);
        fprintf(file, "%s.npy", a->name);
        fwrite(head, 1, HEAD, file);
        fwrite(a->data, 1, a->bytes, file);
        p = common(put(put(p, 0x02014b50, 4), 20, 2), a, (uint32_t)crc);
        p = put(p + 10, at, 4); /* no comment, no attributes */
        p += sprintf((char *)p, "%s.npy", a->name);
        at += LOCAL + (uint32_t)strlen(a->name) + 4 + HEAD + (uint32_t)a->bytes;
    }
    uint32_t size = (uint32_t)(p - directory);
    if (file && directory)
        fwrite(directory, 1, size, file);
    unsigned char end[END] = {0}, *q = put(put(end, 0x06054b50, 4), 0, 4);
    put(put(put(put(q, (uint32_t)n, 2), (uint32_t)n, 2), size, 4), at, 4);
    int ok = file && directory && fwrite(end, 1, END, file) == END;
    free(directory);
    return file && !fclose(file) && ok;
}
