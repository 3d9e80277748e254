/* tests/files.c: what tests of files share. */
#include "tests/files.h"

#include <check.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ folders and files */

static char folder[512];

void files_begin(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/mtbal-test-XXXXXX", base ? base : P_tmpdir);
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
}

static void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char inner[1024];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (unlink(inner) != 0)
            remove_tree(inner);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

void files_end(void)
{
    remove_tree(folder);
}

const char *files_path(const char *name)
{
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int count_files(const char *path)
{
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char inner[1024];
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            n += 1 + (e->d_type == DT_DIR ? count_files(inner) : 0);
    }
    if (dir)
        closedir(dir);
    return n;
}

int files_count(void)
{
    return count_files(folder);
}

void files_write(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f && (!size || fwrite(bytes, 1, size, f) == size), "cannot write %s", path);
    fclose(f);
}

unsigned char *files_read(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    unsigned char *bytes = malloc(*size + 1);
    ck_assert(bytes && fread(bytes, 1, *size, f) == *size);
    fclose(f);
    return bytes;
}

bool files_equal(const char *a, const char *b)
{
    size_t na, nb;
    unsigned char *x = files_read(a, &na), *y = files_read(b, &nb);
    bool equal = na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return equal;
}

char *files_run(int *code, const char *format, ...)
{
    static char command[1 << 14];
    char *text = NULL;
    size_t size;
    va_list args;
    if (!getenv("BIN"))
        setenv("BIN", "bin", 1);
    va_start(args, format);
    int n = vsnprintf(command, sizeof command - 8, format, args);
    va_end(args);
    ck_assert_int_lt(n, (int)sizeof command - 8);
    strcat(command, " 2>&1");
    FILE *pipe = popen(command, "r"), *to = open_memstream(&text, &size);
    ck_assert(pipe && to);
    for (int c; (c = fgetc(pipe)) != EOF;)
        fputc(c, to);
    fclose(to);
    *code = pclose(pipe) >> 8;
    return text;
}

/* ------------------------------------------------------------------ the wire format */

void wire_raw(wire *w, const void *bytes, size_t size)
{
    if (w->capacity - w->size < size) {
        w->capacity = 2 * (w->capacity + size);
        w->data = realloc(w->data, w->capacity);
        ck_assert(w->data != NULL);
    }
    if (size)
        memcpy(w->data + w->size, bytes, size);
    w->size += size;
}

void wire_varint(wire *w, uint64_t x)
{
    unsigned char bytes[10];
    size_t n = 0;
    for (; x >= 0x80; x >>= 7)
        bytes[n++] = (unsigned char)(x | 0x80);
    bytes[n++] = (unsigned char)x;
    wire_raw(w, bytes, n);
}

void wire_int(wire *w, unsigned field, uint64_t x)
{
    wire_varint(w, (uint64_t)field << 3);
    wire_varint(w, x);
}

void wire_bytes(wire *w, unsigned field, const void *bytes, size_t size)
{
    wire_varint(w, (uint64_t)field << 3 | 2);
    wire_varint(w, size);
    wire_raw(w, bytes, size);
}

void wire_text(wire *w, unsigned field, const char *text)
{
    wire_bytes(w, field, text, strlen(text));
}

void wire_sub(wire *w, unsigned field, wire *part)
{
    wire_bytes(w, field, part->data, part->size);
    wire_free(part);
}

void wire_free(wire *w)
{
    free(w->data);
    *w = (wire){NULL, 0, 0};
}

/* ------------------------------------------------------------------ models */

static wire value_info(const char *name)
{
    wire info = {NULL, 0, 0}, type = info, tensor = info, shape = info;
    for (uint64_t size = 2; size <= 3; size++) {
        wire dim = {NULL, 0, 0};
        wire_int(&dim, 1, size);
        wire_sub(&shape, 1, &dim);
    }
    wire_int(&tensor, 1, MTBAL_FLOAT);
    wire_sub(&tensor, 2, &shape);
    wire_sub(&type, 1, &tensor);
    wire_text(&info, 1, name);
    wire_sub(&info, 2, &type);
    return info;
}

wire wire_model(wire *graph_extra)
{
    wire model = {NULL, 0, 0}, graph = model, node = model, opset = model;
    wire x = value_info("x"), y = value_info("y");
    wire_text(&node, 1, "x");
    wire_text(&node, 2, "y");
    wire_text(&node, 4, "Identity");
    wire_sub(&graph, 1, &node);
    wire_text(&graph, 2, "g");
    wire_sub(&graph, 11, &x);
    wire_sub(&graph, 12, &y);
    if (graph_extra) {
        wire_raw(&graph, graph_extra->data, graph_extra->size);
        wire_free(graph_extra);
    }
    wire_int(&model, 1, 8);
    wire_sub(&model, 7, &graph);
    wire_int(&opset, 2, 17);
    wire_sub(&model, 8, &opset);
    return model;
}

wire wire_external(int64_t n, const char *location, const char *offset, const char *length)
{
    const char *const keys[3] = {"location", "offset", "length"};
    const char *const values[3] = {location, offset, length};
    wire tensor = {NULL, 0, 0}, graph = tensor;
    wire_int(&tensor, 1, (uint64_t)n);
    wire_int(&tensor, 2, MTBAL_FLOAT);
    wire_text(&tensor, 8, "w");
    for (int i = 0; i < 3; i++) {
        wire entry = {NULL, 0, 0};
        if (!values[i])
            continue;
        wire_text(&entry, 1, keys[i]);
        wire_text(&entry, 2, values[i]);
        wire_sub(&tensor, 13, &entry);
    }
    wire_int(&tensor, 14, 1);
    wire_sub(&graph, 5, &tensor);
    return wire_model(&graph);
}

/* ------------------------------------------------------------------ failing allocations */

static bool allow(void *context, size_t size)
{
    (void)size;
    return --*(int *)context != 0;
}

int fail_each_allocation(mtbal_status (*body)(void *context), void *context)
{
    for (int n = 1;; n++) {
        int left = n;
        mtbal_set_alloc_hook(allow, &left);
        mtbal_status status = body(context);
        mtbal_set_alloc_hook(NULL, NULL);
        if (left > 0) { /* it was over before the n-th */
            ck_assert_int_eq(status, MTBAL_OK);
            return n;
        }
        ck_assert_msg(status == MTBAL_NOMEM || status == MTBAL_OK, "allocation %d: status %d", n,
                      status);
    }
}
