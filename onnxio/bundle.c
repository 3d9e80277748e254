/* onnxio/bundle.c: several files that get their names together. */
#include "onnxio/onnxio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file or a folder in the bundle. */
struct mtbal_bundle_entry {
    char *path;       /* where it is written: in the temporary folder */
    const char *name; /* relative to the folder, a part of `path` */
    bool folder;
    bool moved; /* it has its place: a file was renamed to it, a folder made there */
    mtbal_bundle_entry *before;
};

static mtbal_status cannot(const char *path, const char *action, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot %s: %s", action, strerror(errno));
}

/* A new folder beside the bundle's: on the same file system, so that files can be renamed. */
static bool make_temporary(mtbal_bundle *bundle, size_t size)
{
    for (int i = 0; i < 1000; i++) {
        snprintf(bundle->temporary, size, "%s.%ld-%d.tmp", bundle->path, (long)getpid(), i);
        if (mkdir(bundle->temporary, 0777) == 0) {
            mtbal_temporary_add(bundle->temporary);
            return true;
        }
        if (errno != EEXIST)
            return false;
    }
    return false;
}

mtbal_status mtbal_bundle_open(mtbal_bundle *bundle, const char *path, mtbal_diag *diag)
{
    *bundle = (mtbal_bundle){NULL, NULL, NULL};
    struct stat st;
    size_t n = strlen(path), size = n + 48;
    if (!n || (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)))
        return mtbal_fail(diag, MTBAL_IO, path, "name a folder, for several files",
                          "this is not a folder");
    while (n > 1 && path[n - 1] == '/')
        n--;
    bundle->path = mtbal_malloc(n + 1);
    bundle->temporary = mtbal_malloc(size);
    if (bundle->path && bundle->temporary) {
        memcpy(bundle->path, path, n);
        bundle->path[n] = '\0';
        if (make_temporary(bundle, size))
            return MTBAL_OK;
    }
    bool memory = !bundle->path || !bundle->temporary;
    mtbal_status status = memory ? mtbal_no_memory(diag) : cannot(path, "make it", diag);
    mtbal_free(bundle->temporary);
    bundle->temporary = NULL;
    mtbal_bundle_abort(bundle);
    return status;
}

/* ------------------------------------------------------------------ what is in it */

static mtbal_bundle_entry *find(const mtbal_bundle *bundle, const char *name, size_t length)
{
    mtbal_bundle_entry *e = bundle->last;
    while (e && (strlen(e->name) != length || memcmp(e->name, name, length)))
        e = e->before;
    return e;
}

static mtbal_bundle_entry *add(mtbal_bundle *bundle, const char *name, size_t length, bool folder)
{
    size_t above = strlen(bundle->temporary);
    mtbal_bundle_entry *e = mtbal_malloc(sizeof *e);
    char *path = mtbal_malloc(above + length + 2);
    if (!e || !path) {
        mtbal_free(e);
        mtbal_free(path);
        return NULL;
    }
    memcpy(path, bundle->temporary, above);
    path[above] = '/';
    memcpy(path + above + 1, name, length);
    path[above + 1 + length] = '\0';
    *e = (mtbal_bundle_entry){path, path + above + 1, folder, false, bundle->last};
    bundle->last = e;
    mtbal_temporary_add(path);
    return e;
}

static mtbal_status add_folder(mtbal_bundle *bundle, const char *name, size_t length,
                               mtbal_diag *diag)
{
    const mtbal_bundle_entry *e = add(bundle, name, length, true);
    if (!e)
        return mtbal_no_memory(diag);
    return mkdir(e->path, 0777) == 0 ? MTBAL_OK : cannot(bundle->path, "make a folder in it", diag);
}

mtbal_status mtbal_bundle_add(mtbal_bundle *bundle, const char *name, const char **path,
                              mtbal_diag *diag)
{
    for (const char *p = name; (p = strchr(p, '/')); p++)
        if (!find(bundle, name, (size_t)(p - name)))
            MTBAL_TRY(add_folder(bundle, name, (size_t)(p - name), diag));
    const mtbal_bundle_entry *e = add(bundle, name, strlen(name), false);
    *path = e ? e->path : NULL;
    return e ? MTBAL_OK : mtbal_no_memory(diag);
}

/* ------------------------------------------------------------------ into a folder that exists */

static int open_folder(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* What `to` has of that name goes to `from` as NAME.old, and what `from` has takes its place. A
 * file that was never written is left out. */
static bool exchange(int from, int to, mtbal_bundle_entry *e)
{
    char old[4096];
    if (faccessat(from, e->name, F_OK, 0) != 0)
        return errno == ENOENT;
    if ((size_t)snprintf(old, sizeof old, "%s.old", e->name) >= sizeof old) {
        errno = ENAMETOOLONG;
        return false;
    }
    if (renameat(to, e->name, from, old) != 0 && errno != ENOENT)
        return false;
    e->moved = renameat(from, e->name, to, e->name) == 0;
    int error = errno;
    if (!e->moved)
        (void)renameat(from, old, to, e->name);
    errno = error;
    return e->moved;
}

static bool make_folder(int to, mtbal_bundle_entry *e)
{
    struct stat st;
    e->moved = mkdirat(to, e->name, 0777) == 0;
    if (e->moved)
        return true;
    int error = errno;
    bool exists = error == EEXIST && fstatat(to, e->name, &st, 0) == 0 && S_ISDIR(st.st_mode);
    errno = error;
    return exists;
}

/* Entries from the first to `e`: a folder comes before what is in it. */
static bool place(int from, int to, mtbal_bundle_entry *e)
{
    return !e ||
           (place(from, to, e->before) && (e->folder ? make_folder(to, e) : exchange(from, to, e)));
}

static void place_back(int from, int to, const mtbal_bundle_entry *e)
{
    char old[4096];
    for (; e; e = e->before)
        if (e->moved && e->folder) {
            (void)unlinkat(to, e->name, AT_REMOVEDIR);
        } else if (e->moved) {
            snprintf(old, sizeof old, "%s.old", e->name);
            (void)renameat(to, e->name, from, e->name);
            (void)renameat(from, old, to, e->name);
        }
}

static mtbal_status move_files(const mtbal_bundle *bundle, mtbal_diag *diag)
{
    int from = open_folder(bundle->temporary), to = open_folder(bundle->path);
    bool ok = from >= 0 && to >= 0 && place(from, to, bundle->last);
    mtbal_status status = ok ? MTBAL_OK : cannot(bundle->path, "put the files there", diag);
    if (ok)
        (void)fsync(to);
    else if (from >= 0 && to >= 0)
        place_back(from, to, bundle->last);
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return status;
}

mtbal_status mtbal_bundle_commit(mtbal_bundle *bundle, mtbal_diag *diag)
{
    struct stat st;
    mtbal_status status = MTBAL_OK;
    mtbal_busy++; /* all of them or none */
    if (stat(bundle->path, &st) == 0)
        status = move_files(bundle, diag);
    else if (rename(bundle->temporary, bundle->path) == 0)
        mtbal_file_sync_folder(bundle->path);
    else
        status = cannot(bundle->path, "name the folder", diag);
    mtbal_bundle_abort(bundle);
    mtbal_busy--;
    return status;
}

static void remove_entry(mtbal_bundle_entry *e)
{
    char old[4096];
    snprintf(old, sizeof old, "%s.old", e->path);
    if (e->folder) {
        rmdir(e->path);
    } else {
        unlink(e->path);
        unlink(old);
    }
    mtbal_temporary_remove(e->path);
    mtbal_free(e->path);
    mtbal_free(e);
}

void mtbal_bundle_abort(mtbal_bundle *bundle)
{
    while (bundle->last) {
        mtbal_bundle_entry *e = bundle->last;
        bundle->last = e->before;
        remove_entry(e);
    }
    if (bundle->temporary) {
        rmdir(bundle->temporary);
        mtbal_temporary_remove(bundle->temporary);
    }
    mtbal_free(bundle->temporary);
    mtbal_free(bundle->path);
    *bundle = (mtbal_bundle){NULL, NULL, NULL};
}
