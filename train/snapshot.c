/* train/snapshot.c: what trainings need to go on after an interruption, kept in memory as named
 * bytes and written to a file, whole or not at all. The file is an npz: PART/PIECE for what is
 * saved, same/WHAT for what has to be the same when it is read. The archive's checksums tell a
 * damaged file. */
#include "train/snapshot.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, SECONDS = 30 };

typedef struct entry {
    char *name; /* mtbal_malloc, as the bytes */
    unsigned char *bytes;
    size_t size;
} entry;

struct mtbal_snapshot {
    char *path;
    int64_t every;
    const volatile sig_atomic_t *stop;
    bool found, resumed;  /* a file was there; and what it holds counts */
    pthread_mutex_t lock; /* of the entries and the file */
    int count, capacity;
    entry *entries;
};

/* ------------------------------------------------------------------ entries */

static entry *find(const mtbal_snapshot *s, const char *name)
{
    for (int i = 0; i < s->count; i++)
        if (!strcmp(s->entries[i].name, name))
            return &s->entries[i];
    return NULL;
}

static void drop(mtbal_snapshot *s, entry *e)
{
    mtbal_free(e->name);
    mtbal_free(e->bytes);
    *e = s->entries[--s->count];
}

static entry *add(mtbal_snapshot *s, const char *name)
{
    if (s->count == s->capacity) {
        int capacity = s->capacity ? 2 * s->capacity : 32;
        entry *bigger = mtbal_realloc(s->entries, (size_t)capacity * sizeof *bigger);
        if (!bigger)
            return NULL;
        s->entries = bigger;
        s->capacity = capacity;
    }
    size_t length = strlen(name) + 1;
    char *copy = mtbal_malloc(length);
    if (!copy)
        return NULL;
    entry *e = &s->entries[s->count++];
    *e = (entry){.name = memcpy(copy, name, length)};
    return e;
}

/* The entry of that name with room for `size` bytes, new when there is none. NULL: no memory. */
static entry *room(mtbal_snapshot *s, const char *name, size_t size)
{
    entry *e = find(s, name);
    if (!e && !(e = add(s, name)))
        return NULL;
    if (e->size != size || !e->bytes) {
        unsigned char *bytes = mtbal_realloc(e->bytes, size ? size : 1);
        if (!bytes)
            return NULL;
        e->bytes = bytes;
        e->size = size;
    }
    return e;
}

static mtbal_status put(mtbal_snapshot *s, const char *name, const void *bytes, size_t size,
                        mtbal_diag *diag)
{
    entry *e = room(s, name, size);
    if (!e)
        return mtbal_no_memory(diag);
    if (size)
        memcpy(e->bytes, bytes, size);
    return MTBAL_OK;
}

enum { NAME = 96 };

static const char *entry_name(char buffer[NAME], int part, const char *piece)
{
    snprintf(buffer, NAME, "%d/%s", part, piece);
    return buffer;
}

/* ------------------------------------------------------------------ the file */

static mtbal_status write_file(const mtbal_snapshot *s, mtbal_diag *diag)
{
    mtbal_array *arrays = mtbal_malloc((size_t)s->count * sizeof *arrays);
    int64_t *dims = mtbal_malloc((size_t)s->count * sizeof *dims);
    mtbal_status status = arrays && dims ? MTBAL_OK : mtbal_no_memory(diag);
    for (int i = 0; i < s->count && status == MTBAL_OK; i++) {
        const entry *e = &s->entries[i];
        dims[i] = (int64_t)e->size;
        arrays[i] = (mtbal_array){.name = e->name,
                                  .dtype = MTBAL_UINT8,
                                  .rank = 1,
                                  .dims = &dims[i],
                                  .count = dims[i],
                                  .bytes = e->size,
                                  .data = e->bytes};
    }
    if (status == MTBAL_OK)
        status = mtbal_npz_write(s->path, s->count, arrays, false, diag);
    mtbal_free(arrays);
    mtbal_free(dims);
    return status;
}

static mtbal_status damaged(const mtbal_snapshot *s, mtbal_diag *diag, const char *what)
{
    return mtbal_fail(diag, MTBAL_INVALID, s->path,
                      "remove the file, or name another one with --checkpoint",
                      "this is no checkpoint that can be gone on from: %s", what);
}

static mtbal_status read_file(mtbal_snapshot *s, mtbal_diag *diag)
{
    mtbal_npz *npz;
    mtbal_diag inner = {0};
    const uint64_t version = VERSION;
    mtbal_status status = mtbal_npz_read(s->path, &npz, &inner);
    if (status == MTBAL_NOMEM)
        return mtbal_no_memory(diag);
    if (status != MTBAL_OK)
        return damaged(s, diag, inner.what);
    for (int i = 0; i < npz->count && status == MTBAL_OK; i++)
        if (npz->arrays[i].dtype == MTBAL_UINT8)
            status = put(s, npz->arrays[i].name, npz->arrays[i].data, npz->arrays[i].bytes, diag);
    mtbal_npz_free(npz);
    MTBAL_TRY(status);
    const entry *e = find(s, "version");
    if (!e || e->size != sizeof version || memcmp(e->bytes, &version, sizeof version) != 0)
        return damaged(s, diag, "it is of another version, or something else");
    return MTBAL_OK;
}

mtbal_status mtbal_snapshot_open(const mtbal_snapshot_options *o, mtbal_snapshot **snapshot,
                                 mtbal_diag *diag)
{
    static const char suffix[] = ".checkpoint";
    const uint64_t version = VERSION;
    *snapshot = NULL;
    const char *path = o->path ? o->path : o->output;
    if (!path && o->resume)
        return mtbal_fail(diag, MTBAL_USAGE, "--resume", "name it with --checkpoint FILE",
                          "there is no checkpoint to go on from");
    if (o->path && o->output && !strcmp(o->path, o->output))
        return mtbal_fail(diag, MTBAL_USAGE, "--checkpoint", "name another file",
                          "%s is the output", o->path);
    mtbal_snapshot *s = mtbal_malloc(sizeof *s);
    if (!s)
        return mtbal_no_memory(diag);
    *s = (mtbal_snapshot){.every = o->every, .stop = o->stop};
    pthread_mutex_init(&s->lock, NULL);
    *snapshot = s;
    if (!path)
        return MTBAL_OK;
    size_t size = strlen(path) + sizeof suffix;
    s->path = mtbal_malloc(size);
    if (!s->path)
        return mtbal_no_memory(diag);
    snprintf(s->path, size, "%s%s", path, o->path ? "" : suffix);
    if (access(s->path, F_OK) == 0) { /* also when it is not wanted: what is replaced is one */
        MTBAL_TRY(read_file(s, diag));
        s->found = true;
        s->resumed = o->resume;
    }
    while (!s->resumed && s->count > 0)
        drop(s, s->entries);
    return s->resumed ? MTBAL_OK : put(s, "version", &version, sizeof version, diag);
}

void mtbal_snapshot_close(mtbal_snapshot *s, bool done)
{
    if (!s)
        return;
    if (done && s->path)
        unlink(s->path);
    while (s->count > 0)
        drop(s, s->entries);
    pthread_mutex_destroy(&s->lock);
    mtbal_free(s->entries);
    mtbal_free(s->path);
    mtbal_free(s);
}

const char *mtbal_snapshot_path(const mtbal_snapshot *s)
{
    return s->path;
}

bool mtbal_snapshot_resumed(const mtbal_snapshot *s)
{
    return s->resumed;
}

bool mtbal_snapshot_ignores(const mtbal_snapshot *s)
{
    return s->found && !s->resumed;
}

/* ------------------------------------------------------------------ what has to be the same */

uint64_t mtbal_fingerprint(uint64_t print, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    print ^= size;
    for (uint64_t word; size > 0;) {
        size_t n = size < sizeof word ? size : sizeof word;
        word = 0;
        memcpy(&word, p, n);
        print = (print ^ word) * 0x9E3779B97F4A7C15u;
        print ^= print >> 32;
        p += n;
        size -= n;
    }
    return print;
}

uint64_t mtbal_fingerprint_settings(int count, const mtbal_setting *set)
{
    uint64_t print = (uint64_t)count;
    for (int i = 0; i < count; i++) {
        print = mtbal_fingerprint(print, set[i].name, strlen(set[i].name));
        print = mtbal_fingerprint(print, &set[i].value, sizeof set[i].value);
    }
    return print;
}

mtbal_status mtbal_fingerprint_file(const char *path, uint64_t *print, mtbal_diag *diag)
{
    mtbal_file file;
    *print = 0;
    if (!path)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_file_map(path, &file, diag));
    *print = mtbal_fingerprint(1, file.data, file.size);
    mtbal_file_unmap(&file);
    return MTBAL_OK;
}

/* Takes a tensor's contents out of the model: wherever they lie, they are the same. */
static mtbal_status take_out(mtbal_model *model, mtbal_value *value, mtbal_diag *diag)
{
    const int64_t none = 0;
    value->tensor = mtbal_tensor_new(model, value->tensor->dtype, 1, &none, NULL);
    return value->tensor ? MTBAL_OK : mtbal_no_memory(diag);
}

/* What lies in other files is looked at there. */
static mtbal_status prepare_external(mtbal_model *model, mtbal_graph *graph, uint64_t *print,
                                     mtbal_diag *diag)
{
    for (int i = 0; i < graph->ninitializers; i++) {
        mtbal_tensor *t = graph->initializers[i]->tensor;
        if (!t || !t->external)
            continue;
        MTBAL_TRY(mtbal_tensor_load(model, t, diag));
        *print = mtbal_fingerprint(*print, t->dims, (size_t)t->rank * sizeof *t->dims);
        *print = mtbal_fingerprint(*print, t->data, t->bytes);
        MTBAL_TRY(take_out(model, graph->initializers[i], diag));
    }
    return MTBAL_OK;
}

/* Leaves what counts: states go. */
static mtbal_status prepare(mtbal_model *model, const char *prefix, uint64_t *print,
                            mtbal_diag *diag)
{
    mtbal_list states;
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", model->arena, &states, diag));
    for (int i = 0; i < states.count; i++) {
        mtbal_value *v = mtbal_initializer_find(model, states.names[i]);
        if (v && !strncmp(v->name, prefix, strlen(prefix)))
            MTBAL_TRY(take_out(model, v, diag));
    }
    MTBAL_TRY(prepare_external(model, model->graph, print, diag));
    for (int i = 0; i < model->ntrainings; i++)
        if (model->trainings[i]->algorithm)
            MTBAL_TRY(prepare_external(model, model->trainings[i]->algorithm, print, diag));
    return MTBAL_OK;
}

mtbal_status mtbal_fingerprint_model(const char *path, const char *prefix, uint64_t *print,
                                     mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    unsigned char *bytes = NULL;
    size_t size = 0;
    *print = 0;
    MTBAL_TRY(mtbal_onnx_read(path, &model, diag));
    mtbal_status status = prepare(model, prefix, print, diag);
    if (status == MTBAL_OK)
        status = mtbal_onnx_write_bytes(model, &bytes, &size, diag);
    if (status == MTBAL_OK)
        *print = mtbal_fingerprint(*print, bytes, size);
    mtbal_free(bytes);
    mtbal_model_free(model);
    return status;
}

mtbal_status mtbal_snapshot_tie(mtbal_snapshot *s, int count, const mtbal_tie *ties,
                                mtbal_diag *diag)
{
    char name[NAME];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "same/%s", ties[i].what);
        if (!s->resumed) {
            MTBAL_TRY(put(s, name, &ties[i].print, sizeof ties[i].print, diag));
            continue;
        }
        const entry *e = find(s, name);
        if (!e || e->size != sizeof ties[i].print)
            return damaged(s, diag, "it was written by another command");
        if (memcmp(e->bytes, &ties[i].print, e->size) != 0)
            return mtbal_fail(diag, ties[i].otherwise, s->path,
                              "go on with what it was begun with, or start anew without --resume",
                              "this checkpoint was made with another %s", ties[i].what);
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ saving and going on */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool mtbal_snapshot_due(const mtbal_snapshot *s, int64_t steps, double *last)
{
    if (!s || (!s->path && !s->stop))
        return false;
    if (s->stop && *s->stop)
        return true;
    if (!s->path || s->every > 0)
        return s->path && steps % s->every == 0;
    double now = seconds();
    bool due = *last > 0 && now - *last >= SECONDS;
    if (due || !(*last > 0))
        *last = now;
    return due;
}

/* Whether a name is PART/... of one of the pieces; "states" is one. */
static bool belongs(const char *name, int part, int count, const mtbal_piece *pieces,
                    bool has_states)
{
    char other[NAME];
    if (has_states && !strcmp(name, entry_name(other, part, "states")))
        return true;
    for (int i = 0; i < count; i++)
        if (!strcmp(name, entry_name(other, part, pieces[i].name)))
            return true;
    return false;
}

/* Drops what is there of a part, but for these pieces. */
static void drop_others(mtbal_snapshot *s, int part, mtbal_session *session, int count,
                        const mtbal_piece *pieces)
{
    char prefix[NAME];
    size_t length = strlen(entry_name(prefix, part, ""));
    for (int i = s->count - 1; i >= 0; i--)
        if (!strncmp(s->entries[i].name, prefix, length) &&
            !belongs(s->entries[i].name, part, count, pieces, session != NULL))
            drop(s, &s->entries[i]);
}

/* The part as it is now, instead of what it was. */
static mtbal_status replace(mtbal_snapshot *s, int part, mtbal_session *session, int count,
                            const mtbal_piece *pieces, mtbal_diag *diag)
{
    char name[NAME];
    drop_others(s, part, session, count, pieces);
    for (int i = 0; i < count; i++)
        MTBAL_TRY(
            put(s, entry_name(name, part, pieces[i].name), pieces[i].data, pieces[i].size, diag));
    if (!session)
        return MTBAL_OK;
    entry *e = room(s, entry_name(name, part, "states"), mtbal_session_state_bytes(session));
    if (!e)
        return mtbal_no_memory(diag);
    mtbal_session_save_states(session, e->bytes);
    return MTBAL_OK;
}

mtbal_status mtbal_snapshot_save(mtbal_snapshot *s, int part, mtbal_session *session, int count,
                                 const mtbal_piece *pieces, mtbal_diag *diag)
{
    if (s && s->path) {
        mtbal_busy++;
        pthread_mutex_lock(&s->lock);
        mtbal_status status = replace(s, part, session, count, pieces, diag);
        if (status == MTBAL_OK)
            status = write_file(s, diag);
        else
            drop_others(s, part, NULL, 0, NULL); /* half of it is worse than nothing */
        pthread_mutex_unlock(&s->lock);
        mtbal_busy--;
        MTBAL_TRY(status);
    }
    if (!s || !s->stop || !*s->stop)
        return MTBAL_OK;
    if (!s->path)
        return mtbal_fail(diag, MTBAL_INTERRUPTED, "",
                          "mtbal-run and mtbal-calibrate can go on, with --checkpoint and --resume",
                          "interrupted; nothing was kept");
    return mtbal_fail(diag, MTBAL_INTERRUPTED, s->path, "the same command with --resume goes on",
                      "interrupted; the checkpoint holds what was done");
}

const void *mtbal_snapshot_find(mtbal_snapshot *s, int part, const char *piece, size_t *size)
{
    char name[NAME];
    *size = 0;
    if (!s || !s->resumed)
        return NULL;
    pthread_mutex_lock(&s->lock); /* other parts come and go; this one's bytes stay */
    const entry *e = find(s, entry_name(name, part, piece));
    const void *bytes = e ? e->bytes : NULL;
    *size = e ? e->size : 0;
    pthread_mutex_unlock(&s->lock);
    return bytes;
}

mtbal_status mtbal_snapshot_load(mtbal_snapshot *s, int part, int count, const mtbal_piece *pieces,
                                 mtbal_diag *diag)
{
    size_t size;
    for (int i = 0; i < count; i++) {
        const void *bytes = mtbal_snapshot_find(s, part, pieces[i].name, &size);
        if (!bytes || size != pieces[i].size)
            return damaged(s, diag, "a part is missing, or of another size");
        if (size)
            memcpy(pieces[i].data, bytes, size);
    }
    return MTBAL_OK;
}
