/* onnxio/bundle.c: several files that get their names together. */
#include "onnxio/onnxio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 32, MAX_NAME = 256 }; /* of one bundle: four, the data of three, and old ones */

static mtbal_status cannot(const char *path, const char *action, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot %s: %s", action, strerror(errno));
}

/* A new folder beside the bundle's: on the same file system, so that files can be renamed. */
static bool make_temporary(mtbal_bundle *bundle, size_t size)
{
    for (int i = 0; i < 1000; i++) {
        snprintf(bundle->temporary, size, "%s.%ld-%d.tmp", bundle->path, (long)getpid(), i);
        if (mkdir(bundle->temporary, 0777) == 0)
            return true;
        if (errno != EEXIST)
            return false;
    }
    return false;
}

mtbal_status mtbal_bundle_open(mtbal_bundle *bundle, const char *path, mtbal_diag *diag)
{
    *bundle = (mtbal_bundle){NULL, NULL};
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

typedef struct names {
    int count;
    char items[MAX_FILES][MAX_NAME];
} names;

static int open_folder(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The files of an open folder. */
static bool list_files(int folder, names *list)
{
    int copy = dup(folder);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    list->count = 0;
    if (!dir && copy >= 0)
        close(copy);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.' && list->count < MAX_FILES && strlen(e->d_name) + 5 < MAX_NAME)
            snprintf(list->items[list->count++], MAX_NAME, "%s", e->d_name);
    if (dir)
        closedir(dir);
    return dir != NULL;
}

/* What `to` has of that name goes to `from` as NAME.old, and what `from` has takes its place. */
static bool exchange(int from, int to, const char *name)
{
    char old[MAX_NAME + 8];
    snprintf(old, sizeof old, "%s.old", name);
    if (renameat(to, name, from, old) != 0 && errno != ENOENT)
        return false;
    if (renameat(from, name, to, name) == 0)
        return true;
    int error = errno;
    (void)renameat(from, old, to, name);
    errno = error;
    return false;
}

static void change_back(int from, int to, const char *name)
{
    char old[MAX_NAME + 8];
    snprintf(old, sizeof old, "%s.old", name);
    (void)renameat(to, name, from, name);
    (void)renameat(from, old, to, name);
}

static mtbal_status move_files(const mtbal_bundle *bundle, mtbal_diag *diag)
{
    names list = {.count = 0};
    int from = open_folder(bundle->temporary), to = open_folder(bundle->path), done = 0;
    bool ok = from >= 0 && to >= 0 && list_files(from, &list);
    while (ok && done < list.count && (ok = exchange(from, to, list.items[done])))
        done++;
    mtbal_status status = ok ? MTBAL_OK : cannot(bundle->path, "put the files there", diag);
    while (!ok && done > 0)
        change_back(from, to, list.items[--done]);
    if (ok)
        (void)fsync(to);
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

void mtbal_bundle_abort(mtbal_bundle *bundle)
{
    names list = {.count = 0};
    int folder = bundle->temporary ? open_folder(bundle->temporary) : -1;
    if (folder >= 0 && list_files(folder, &list))
        for (int i = 0; i < list.count; i++)
            unlinkat(folder, list.items[i], 0);
    if (folder >= 0)
        close(folder);
    if (bundle->temporary)
        rmdir(bundle->temporary);
    mtbal_free(bundle->temporary);
    mtbal_free(bundle->path);
    *bundle = (mtbal_bundle){NULL, NULL};
}
