/* onnxio/relocate.c: external data on its way to `<output>.data`. Ranges are copied from file to
 * file, inside the kernel where it can, and never mapped: a model with 1 GB of weights is rewritten
 * in a few megabytes. */
#ifdef __linux__
#define _GNU_SOURCE /* copy_file_range */
#endif
#include "onnxio/external.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, CACHE_LINE = 64, PIECE = 1 << 20 };

/* By address: tells entries made here from those of a file. */
static char key_location[] = "location", key_offset[] = "offset", key_length[] = "length";

/* A tensor as it was before it was pointed to its new place. */
typedef struct patch {
    struct patch *next;
    Onnx__TensorProto *tensor, before;
} patch;

struct mtbal_relocation {
    mtbal_arena *arena;
    mtbal_external *external;
    bool *moves; /* by file: its ranges cannot stay */
    mtbal_writer data;
    bool open;
    int64_t size;            /* of the data file so far */
    char *location, *target; /* the data file: as the model names it, and its path */
    char *backup;            /* a second name of the file that target replaced */
    bool committed, fresh;   /* has it its name; was there no file of that name before */
    patch *patches;
    mtbal_map moved; /* a range, its numbers interned -> place in `to` */
    int64_t *to;     /* where it lies now */
    int capacity;
    unsigned char *buffer;
    mtbal_diag *diag;
};

/* ------------------------------------------------------------------ copying */

static mtbal_status put_zeros(mtbal_relocation *r, int64_t alignment)
{
    static const unsigned char zeros[PAGE];
    int64_t fill = (alignment - r->size % alignment) % alignment;
    r->size += fill;
    return mtbal_writer_put(&r->data, zeros, (size_t)fill, r->diag);
}

/* Bytes that the kernel copied by itself; 0 when it cannot between these two files. */
static int64_t copy_in_kernel(int from, int64_t offset, int64_t length, int to)
{
    int64_t done = 0;
#ifdef __linux__
    while (done < length) {
        off_t at = (off_t)(offset + done);
        ssize_t n = copy_file_range(from, &at, to, NULL, (size_t)(length - done), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += n;
    }
#else
    (void)from, (void)offset, (void)length, (void)to;
#endif
    return done;
}

static mtbal_status copy_range(mtbal_relocation *r, const mtbal_range *range)
{
    const char *location = r->external->files[range->file].location;
    int fd = mtbal_external_open(r->external, range->file, r->diag);
    if (fd < 0)
        return r->diag->status;
    mtbal_status status = MTBAL_OK;
    int64_t done = copy_in_kernel(fd, range->offset, range->length, r->data.fd);
    while (done < range->length && status == MTBAL_OK) {
        int64_t rest = range->length - done;
        ssize_t n = pread(fd, r->buffer, (size_t)(rest < PIECE ? rest : PIECE),
                          (off_t)(range->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            status =
                mtbal_fail(r->diag, MTBAL_IO, location, NULL, "cannot read this external data: %s",
                           n < 0 ? strerror(errno) : "the file became shorter");
        else
            status = mtbal_writer_put(&r->data, r->buffer, (size_t)n, r->diag);
        done += n;
    }
    mtbal_external_close(r->external, range->file, fd);
    r->size += done;
    return status;
}

/* ------------------------------------------------------------------ ranges that are there already
 */

static const void *key_of(const mtbal_relocation *r, const mtbal_range *range)
{
    const int64_t numbers[] = {range->file, range->offset, range->length};
    return mtbal_intern_n(r->arena, (const char *)numbers, sizeof numbers);
}

static bool add_moved(mtbal_relocation *r, const void *key, int64_t to)
{
    int n = r->moved.count;
    if (n == r->capacity) {
        int capacity = n ? 2 * n : 64;
        int64_t *bigger = mtbal_arena_array(r->arena, (size_t)capacity, sizeof *bigger);
        if (!bigger)
            return false;
        if (n)
            memcpy(bigger, r->to, (size_t)n * sizeof *bigger);
        r->to = bigger;
        r->capacity = capacity;
    }
    r->to[n] = to;
    return mtbal_map_set(&r->moved, r->arena, key, n);
}

/* ------------------------------------------------------------------ pointing tensors there */

static bool is_patched(const Onnx__TensorProto *t)
{
    return t->n_external_data > 0 && t->external_data[0]->key == key_location;
}

static mtbal_status point(mtbal_relocation *r, Onnx__TensorProto *t, int64_t offset, int64_t length)
{
    size_t n = 0, most = t->n_external_data + 3;
    patch *saved = mtbal_arena_alloc(r->arena, sizeof *saved);
    Onnx__StringStringEntryProto *entries = mtbal_arena_array(r->arena, 3, sizeof *entries);
    Onnx__StringStringEntryProto **list = mtbal_arena_array(r->arena, most, sizeof *list);
    char *values[3] = {r->location, mtbal_arena_printf(r->arena, "%lld", (long long)offset),
                       mtbal_arena_printf(r->arena, "%lld", (long long)length)};
    char *keys[3] = {key_location, key_offset, key_length};
    if (!saved || !entries || !list || !values[1] || !values[2])
        return mtbal_no_memory(r->diag);
    for (; n < 3; n++) {
        onnx__string_string_entry_proto__init(&entries[n]);
        entries[n].key = keys[n];
        entries[n].value = values[n];
        list[n] = &entries[n];
    }
    for (size_t i = 0; i < t->n_external_data; i++) { /* a checksum stays right: same bytes */
        const char *key = t->external_data[i]->key;
        if (key && strcmp(key, key_location) && strcmp(key, key_offset) && strcmp(key, key_length))
            list[n++] = t->external_data[i];
    }
    *saved = (patch){r->patches, t, *t};
    r->patches = saved;
    t->external_data = list;
    t->n_external_data = n;
    t->has_data_location = 1;
    t->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    t->has_raw_data = 0;
    t->raw_data = (ProtobufCBinaryData){0, NULL};
    return MTBAL_OK;
}

static mtbal_status move_tensor(Onnx__TensorProto *t, void *context)
{
    mtbal_relocation *r = context;
    mtbal_range range;
    if (!mtbal_proto_is_external(t) || is_patched(t))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_external_range(r->external, t, &range, r->diag));
    if (!r->moves[range.file])
        return MTBAL_OK;
    const void *key = key_of(r, &range);
    if (!key)
        return mtbal_no_memory(r->diag);
    int at = mtbal_map_get(&r->moved, key);
    if (at < 0) {
        MTBAL_TRY(put_zeros(r, range.length >= PAGE ? PAGE : CACHE_LINE));
        at = r->moved.count;
        if (!add_moved(r, key, r->size))
            return mtbal_no_memory(r->diag);
        MTBAL_TRY(copy_range(r, &range));
    }
    return point(r, t, r->to[at], range.length);
}

static mtbal_status move_big(mtbal_relocation *r, Onnx__TensorProto *t)
{
    size_t length = t->raw_data.len;
    MTBAL_TRY(put_zeros(r, length >= PAGE ? PAGE : CACHE_LINE));
    int64_t offset = r->size;
    MTBAL_TRY(mtbal_writer_put(&r->data, t->raw_data.data, length, r->diag));
    r->size += (int64_t)length;
    return point(r, t, offset, (int64_t)length);
}

/* ------------------------------------------------------------------ what has to move */

static bool same_folder(mtbal_arena *arena, const char *folder, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *other =
        mtbal_intern_n(arena, slash ? path : ".", slash ? (size_t)(slash - path) + 1 : 1);
    struct stat a, b;
    return folder && other && stat(folder, &a) == 0 && stat(other, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static mtbal_status find_move(Onnx__TensorProto *t, void *context)
{
    mtbal_relocation *r = context;
    mtbal_range range;
    if (!mtbal_proto_is_external(t))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_external_range(r->external, t, &range, r->diag));
    r->open = r->open || r->moves[range.file];
    return MTBAL_OK;
}

/* Sets r->moves; r->open tells whether there is anything to write. */
static mtbal_status find_moves(mtbal_relocation *r, ProtobufCMessage *message, const char *path,
                               size_t nbig)
{
    mtbal_external *x = r->external;
    r->open = nbig > 0;
    if (!x)
        return MTBAL_OK;
    r->moves = mtbal_arena_array(r->arena, (size_t)x->nfiles, sizeof *r->moves);
    if (!r->moves)
        return mtbal_no_memory(r->diag);
    bool here = same_folder(r->arena, x->folder, path);
    for (int i = 0; i < x->nfiles; i++)
        r->moves[i] = !here || !mtbal_external_unchanged(x, i);
    return mtbal_proto_tensors(message, find_move, r);
}

/* A file that gets a successor under its own name is read from before, and after. */
static mtbal_status replace_target(mtbal_relocation *r, const char *target)
{
    struct stat st;
    mtbal_external *x = r->external;
    if (lstat(target, &st) != 0)
        return MTBAL_OK;
    if (S_ISLNK(st.st_mode))
        return mtbal_fail(r->diag, MTBAL_IO, target, "remove the link",
                          "external data cannot be written through a symbolic link");
    for (int i = 0; x && i < x->nfiles; i++)
        if (x->files[i].dev == st.st_dev && x->files[i].ino == st.st_ino) {
            r->moves[i] = true;
            MTBAL_TRY(mtbal_external_pin(x, i, r->diag));
        }
    return MTBAL_OK;
}

static mtbal_status relocate(mtbal_relocation *r, ProtobufCMessage *message, const char *path,
                             size_t nbig, Onnx__TensorProto **big)
{
    const char *slash = strrchr(path, '/');
    char *target = r->target = mtbal_arena_printf(r->arena, "%s.data", path);
    r->location = mtbal_arena_printf(r->arena, "%s.data", slash ? slash + 1 : path);
    r->buffer = mtbal_arena_alloc(r->arena, PIECE);
    if (!target || !r->location || !r->buffer)
        return mtbal_no_memory(r->diag);
    MTBAL_TRY(replace_target(r, target));
    MTBAL_TRY(mtbal_writer_open(&r->data, target, r->diag));
    if (r->external)
        MTBAL_TRY(mtbal_proto_tensors(message, move_tensor, r));
    for (size_t i = 0; i < nbig; i++)
        if (!is_patched(big[i]))
            MTBAL_TRY(move_big(r, big[i]));
    return MTBAL_OK;
}

mtbal_status mtbal_relocation_new(mtbal_external *external, ProtobufCMessage *message,
                                  const char *path, size_t nbig, Onnx__TensorProto **big,
                                  mtbal_relocation **relocation, mtbal_diag *diag)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_relocation *r = arena ? mtbal_arena_alloc(arena, sizeof *r) : NULL;
    *relocation = NULL;
    if (!r) {
        mtbal_arena_free(arena);
        return mtbal_no_memory(diag);
    }
    r->arena = arena;
    r->external = external;
    r->data.fd = -1;
    r->diag = diag;
    mtbal_status status = find_moves(r, message, path, nbig);
    if (status == MTBAL_OK && r->open)
        status = relocate(r, message, path, nbig, big);
    if (status == MTBAL_OK && r->open)
        *relocation = r;
    else
        mtbal_relocation_free(r);
    return status;
}

/* Two renames cannot be one. The first can be undone until the second is done: the old data file
 * keeps a second name meanwhile (where the file system has hard links). */
mtbal_status mtbal_relocation_commit(mtbal_relocation *r, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_writer_seal(&r->data, diag));
    char *backup = mtbal_arena_printf(r->arena, "%s.%ld-old.tmp", r->target, (long)getpid());
    if (!backup)
        return mtbal_no_memory(diag);
    if (link(r->target, backup) == 0)
        r->backup = backup;
    else
        r->fresh = errno == ENOENT;
    MTBAL_TRY(mtbal_writer_commit(&r->data, diag));
    r->committed = true;
    return MTBAL_OK;
}

void mtbal_relocation_done(mtbal_relocation *r)
{
    if (r->backup)
        unlink(r->backup);
    r->backup = NULL;
    r->committed = false;
}

static void roll_back(mtbal_relocation *r)
{
    if (r->backup && r->committed)
        rename(r->backup, r->target);
    else if (r->backup)
        unlink(r->backup);
    else if (r->committed && r->fresh)
        unlink(r->target);
}

void mtbal_relocation_free(mtbal_relocation *r)
{
    if (!r)
        return;
    for (patch *p = r->patches; p; p = p->next)
        *p->tensor = p->before;
    roll_back(r);
    mtbal_writer_abort(&r->data);
    mtbal_arena_free(r->arena);
}
