/* onnxio/external.c: the files that hold a model's external data.
 *
 * A model from a stranger names files; none outside of its own folder may be reached. So every
 * component is opened by itself and without following links, a file with a second (hard) link is
 * refused, and a range is checked against the size of the very file that was opened. What is
 * opened again later must still be the same file.
 * (onnx/docs/ExternalDataSecurity.md; CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, -34446,
 * -34447.) */
#include "onnxio/external.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

mtbal_external *mtbal_external_new(const char *model_path)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_external *x = arena ? mtbal_arena_alloc(arena, sizeof *x) : NULL;
    if (!x) {
        mtbal_arena_free(arena);
        return NULL;
    }
    x->arena = arena;
    if (model_path) {
        const char *slash = strrchr(model_path, '/');
        size_t length = slash ? (size_t)(slash - model_path) + 1 : 1;
        x->folder = mtbal_intern_n(arena, slash ? model_path : ".", length);
        if (!x->folder) {
            mtbal_arena_free(arena);
            return NULL;
        }
    }
    return x;
}

void mtbal_external_free(mtbal_external *x)
{
    if (!x)
        return;
    for (int i = 0; i < x->nfiles; i++) {
        if (x->files[i].map)
            munmap((void *)(uintptr_t)x->files[i].map, (size_t)x->files[i].size);
        if (x->files[i].fd >= 0)
            close(x->files[i].fd);
    }
    mtbal_free(x->files);
    mtbal_arena_free(x->arena);
}

bool mtbal_external_any(const mtbal_external *x)
{
    return x && x->nfiles > 0;
}

/* ------------------------------------------------------------------ opening */

static mtbal_status open_error(const char *location, int error, mtbal_diag *diag)
{
    if (error == ELOOP || error == ENOTDIR)
        return mtbal_fail(diag, MTBAL_INVALID, location,
                          "put a copy of the file in the place of the link",
                          "the path of this external data leads through a symbolic link or "
                          "something that is no folder");
    return mtbal_fail(diag, MTBAL_IO, location, "the file must lie beside the model",
                      "cannot open this external data: %s", strerror(error));
}

/* Opens folder/location component by component. */
static int open_beneath(const char *folder, const char *location, mtbal_diag *diag)
{
    char name[256];
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (const char *p = location; at >= 0;) {
        size_t length = strcspn(p, "/");
        const char *rest = p + length + strspn(p + length, "/");
        bool last = *rest == '\0' && p[length] != '/';
        if (length >= sizeof name) {
            close(at);
            errno = ENAMETOOLONG;
            break;
        }
        memcpy(name, p, length);
        name[length] = '\0';
        int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | (last ? O_NONBLOCK : O_DIRECTORY);
        int next = openat(at, name, flags);
        int error = errno;
        close(at);
        errno = error;
        at = next;
        if (at < 0 || last)
            break;
        if (*rest == '\0') { /* ends with a slash */
            close(at);
            at = -1;
            errno = EISDIR;
        }
        p = rest;
    }
    if (at < 0)
        open_error(location, errno, diag);
    return at;
}

static mtbal_status check_location(const char *location, mtbal_diag *diag)
{
    static const char hint[] = "external data must lie in the model's folder";
    if (!location[0])
        return mtbal_fail(diag, MTBAL_INVALID, NULL, hint, "an external location is empty");
    if (location[0] == '/')
        return mtbal_fail(diag, MTBAL_INVALID, location, hint,
                          "an external location is an absolute path");
    for (const char *p = location; *p;) {
        size_t length = strcspn(p, "/");
        if (length == 2 && p[0] == '.' && p[1] == '.')
            return mtbal_fail(diag, MTBAL_INVALID, location, hint,
                              "an external location leads out of the model's folder");
        p += length;
        p += strspn(p, "/");
    }
    return MTBAL_OK;
}

static bool same_file(const mtbal_external_file *f, const struct stat *st)
{
    return f->dev == st->st_dev && f->ino == st->st_ino && f->size == (int64_t)st->st_size;
}

int mtbal_external_open(const mtbal_external *x, int index, mtbal_diag *diag)
{
    const mtbal_external_file *f = &x->files[index];
    if (f->fd >= 0)
        return f->fd;
    int fd = open_beneath(x->folder, f->location, diag);
    struct stat st;
    if (fd >= 0 && (fstat(fd, &st) != 0 || !same_file(f, &st))) {
        close(fd);
        fd = -1;
        mtbal_fail(diag, MTBAL_IO, f->location, "start again",
                   "this external data was replaced while the model was in use");
    }
    return fd;
}

void mtbal_external_close(const mtbal_external *x, int index, int fd)
{
    if (fd >= 0 && fd != x->files[index].fd)
        close(fd);
}

mtbal_status mtbal_external_pin(mtbal_external *x, int index, mtbal_diag *diag)
{
    int fd = mtbal_external_open(x, index, diag);
    if (fd < 0)
        return diag->status;
    x->files[index].fd = fd;
    return MTBAL_OK;
}

bool mtbal_external_unchanged(const mtbal_external *x, int index)
{
    struct stat st;
    int fd = open_beneath(x->folder, x->files[index].location, NULL);
    bool same = fd >= 0 && fstat(fd, &st) == 0 && same_file(&x->files[index], &st);
    if (fd >= 0)
        close(fd);
    return same;
}

/* ------------------------------------------------------------------ the table of files */

static mtbal_status grow(mtbal_external *x, mtbal_diag *diag)
{
    if (x->nfiles < x->capacity)
        return MTBAL_OK;
    int capacity = x->capacity ? 2 * x->capacity : 8;
    mtbal_external_file *files = mtbal_realloc(x->files, (size_t)capacity * sizeof *files);
    if (!files)
        return mtbal_no_memory(diag);
    x->files = files;
    x->capacity = capacity;
    return MTBAL_OK;
}

/* The index of a file, opened and looked at when it is mentioned for the first time. */
static mtbal_status find_file(mtbal_external *x, const char *location, int *index, mtbal_diag *diag)
{
    const char *name = mtbal_intern(x->arena, location);
    if (!name)
        return mtbal_no_memory(diag);
    *index = mtbal_map_get(&x->at, name);
    if (*index >= 0)
        return MTBAL_OK;
    MTBAL_TRY(grow(x, diag));
    MTBAL_TRY(check_location(name, diag));
    if (!x->folder)
        return mtbal_fail(diag, MTBAL_INVALID, name, "read the model from its file",
                          "a model in memory has no folder for external data");
    mtbal_diag own = {0};
    int fd = open_beneath(x->folder, name, &own);
    if (fd < 0)
        return mtbal_fail(diag, own.status, own.where, own.hint, "%s", own.what);
    struct stat st;
    int error = fstat(fd, &st) == 0 ? 0 : errno;
    close(fd);
    if (error)
        return open_error(name, error, diag);
    if (!S_ISREG(st.st_mode))
        return mtbal_fail(diag, MTBAL_INVALID, name, NULL,
                          "this external data is not a regular file");
    if (st.st_nlink > 1)
        return mtbal_fail(diag, MTBAL_INVALID, name, "put a copy of the file in its place",
                          "this external data has a second hard link, so it may be a file from "
                          "outside of the model's folder");
    if (!mtbal_map_set(&x->at, x->arena, name, x->nfiles))
        return mtbal_no_memory(diag);
    *index = x->nfiles;
    x->files[x->nfiles++] =
        (mtbal_external_file){name, st.st_dev, st.st_ino, (int64_t)st.st_size, -1, NULL};
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the entries of a tensor */

static mtbal_status parse_number(const Onnx__TensorProto *t, const char *key, const char *text,
                                 int64_t *value, mtbal_diag *diag)
{
    int64_t v = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9' && v <= (INT64_MAX - (*p - '0')) / 10; p++)
        v = 10 * v + (*p - '0');
    if (p == text || *p)
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL,
                          "the %s of external data is no number: %.60s", key, text);
    *value = v;
    return MTBAL_OK;
}

mtbal_status mtbal_external_range(mtbal_external *x, const Onnx__TensorProto *t, mtbal_range *range,
                                  mtbal_diag *diag)
{
    static const char *const keys[] = {"location", "offset", "length"};
    const char *found[3] = {NULL, NULL, NULL};
    for (size_t i = 0; i < t->n_external_data; i++) {
        const Onnx__StringStringEntryProto *entry = t->external_data[i];
        for (int k = 0; k < 3; k++) {
            if (!entry->key || strcmp(entry->key, keys[k]) != 0)
                continue;
            if (found[k])
                return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL,
                                  "external data has two entries \"%s\"", keys[k]);
            found[k] = entry->value ? entry->value : "";
        }
    }
    if (!found[0])
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL, "external data without a location");
    MTBAL_TRY(find_file(x, found[0], &range->file, diag));
    const mtbal_external_file *f = &x->files[range->file];
    range->offset = 0;
    if (found[1])
        MTBAL_TRY(parse_number(t, keys[1], found[1], &range->offset, diag));
    int64_t rest = f->size - range->offset;
    if (rest >= 0)
        range->length = rest;
    if (found[2])
        MTBAL_TRY(parse_number(t, keys[2], found[2], &range->length, diag));
    if (rest < 0 || range->length > rest)
        return mtbal_fail(diag, MTBAL_INVALID, t->name,
                          "the external file is truncated or belongs to another model",
                          "external data at %lld, length %s, lies beyond the end of %s, which has "
                          "%lld bytes",
                          (long long)range->offset, found[2] ? found[2] : "open", f->location,
                          (long long)f->size);
    /* Without a length entry the tensor is as long as its shape says. */
    size_t bytes;
    MTBAL_TRY(mtbal_proto_tensor_bytes(t, &bytes, diag));
    if (bytes != SIZE_MAX &&
        (found[2] ? bytes != (uint64_t)range->length : bytes > (uint64_t)range->length))
        return mtbal_fail(diag, MTBAL_INVALID, t->name, NULL,
                          "external data in %s: the shape needs %zu bytes, there are %lld",
                          f->location, bytes, (long long)range->length);
    if (bytes != SIZE_MAX)
        range->length = (int64_t)bytes;
    return MTBAL_OK;
}

typedef struct checking {
    mtbal_external *external;
    mtbal_diag *diag;
} checking;

static mtbal_status check_tensor(Onnx__TensorProto *t, void *context)
{
    checking *c = context;
    mtbal_range range;
    if (!mtbal_proto_is_external(t))
        return MTBAL_OK;
    if (t->has_data_type && t->data_type == MTBAL_STRING)
        return mtbal_fail(c->diag, MTBAL_INVALID, t->name, NULL, "strings as external data");
    return mtbal_external_range(c->external, t, &range, c->diag);
}

mtbal_status mtbal_external_check(mtbal_external *x, ProtobufCMessage *message, mtbal_diag *diag)
{
    checking c = {x, diag};
    return mtbal_proto_tensors(message, check_tensor, &c);
}

mtbal_status mtbal_external_map(mtbal_external *x, const mtbal_range *range,
                                const unsigned char **bytes, mtbal_diag *diag)
{
    mtbal_external_file *f = &x->files[range->file];
    if (!f->map && f->size > 0) {
        int fd = mtbal_external_open(x, range->file, diag);
        if (fd < 0)
            return diag->status;
        void *map = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, fd, 0);
        int error = errno;
        mtbal_external_close(x, range->file, fd);
        if (map == MAP_FAILED)
            return mtbal_fail(diag, MTBAL_IO, f->location, NULL,
                              "cannot map this external data: %s", strerror(error));
        f->map = map;
    }
    *bytes = f->map ? f->map + range->offset : (const unsigned char *)"";
    return MTBAL_OK;
}
