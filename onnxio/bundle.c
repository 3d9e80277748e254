/* onnxio/bundle.c: several files that get their names together. */
#include "onnxio/onnxio.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 64 }; /* of one folder: four and the data of three */

static char *join(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = mtbal_malloc(size);
    if (path)
        snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static mtbal_status folder_error(const char *path, const char *action, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot %s: %s", action, strerror(errno));
}

mtbal_status mtbal_bundle_open(mtbal_bundle *bundle, const char *path, mtbal_diag *diag)
{
    *bundle = (mtbal_bundle){NULL, NULL};
    struct stat st;
    size_t n = strlen(path);
    if (!n || (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)))
        return mtbal_fail(diag, MTBAL_IO, path, "name a folder, for four files",
                          "this is not a folder");
    while (n > 1 && path[n - 1] == '/')
        n--;
    bundle->path = mtbal_malloc(n + 1);
    char *temporary = mtbal_malloc(n + 48);
    if (!bundle->path || !temporary) {
        mtbal_free(temporary);
        mtbal_bundle_abort(bundle);
        return mtbal_no_memory(diag);
    }
    memcpy(bundle->path, path, n);
    bundle->path[n] = '\0';
    int made = -1;
    for (int i = 0; i < 1000 && made != 0; i++) {
        snprintf(temporary, n + 48, "%s.%ld-%d.tmp", bundle->path, (long)getpid(), i);
        made = mkdir(temporary, 0777);
        if (made != 0 && errno != EEXIST)
            break;
    }
    if (made == 0) {
        bundle->temporary = temporary;
        return MTBAL_OK;
    }
    mtbal_status status = folder_error(path, "make a folder beside it", diag);
    mtbal_free(temporary);
    mtbal_bundle_abort(bundle);
    return status;
}

typedef struct names {
    int count;
    char *items[MAX_FILES]; /* mtbal_malloc */
} names;

static void free_names(names *list)
{
    while (list->count > 0)
        mtbal_free(list->items[--list->count]);
}

/* The names of a folder's files. false: out of memory, or more than MAX_FILES. */
static bool list_files(const char *folder, names *list)
{
    DIR *dir = opendir(folder);
    bool ok = dir != NULL;
    list->count = 0;
    for (struct dirent *e; ok && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        char *name = list->count < MAX_FILES ? join(".", e->d_name) : NULL;
        ok = name != NULL;
        if (ok)
            list->items[list->count++] = name;
    }
    if (dir)
        closedir(dir);
    if (!ok)
        free_names(list);
    return ok;
}

/* One file of `from` into `to`; the one that had its name there goes to `from`, named NAME.old. */
static bool exchange(const char *from, const char *to, const char *name, bool back)
{
    char *here = join(from, name), *there = join(to, name), *old = NULL;
    if (here) {
        size_t size = strlen(here) + 5;
        if ((old = mtbal_malloc(size)))
            snprintf(old, size, "%s.old", here);
    }
    bool ok = here && there && old;
    if (ok && back) {
        ok = rename(there, here) == 0;
        ok = (rename(old, there) == 0 || errno == ENOENT) && ok;
    } else if (ok && rename(there, old) != 0 && errno != ENOENT) {
        ok = false;
    } else if (ok && rename(here, there) != 0) {
        int error = errno;
        (void)rename(old, there);
        errno = error;
        ok = false;
    }
    mtbal_free(here);
    mtbal_free(there);
    mtbal_free(old);
    return ok;
}

static mtbal_status move_files(mtbal_bundle *bundle, mtbal_diag *diag)
{
    names list;
    int done = 0;
    if (!list_files(bundle->temporary, &list))
        return mtbal_no_memory(diag);
    while (done < list.count && exchange(bundle->temporary, bundle->path, list.items[done], false))
        done++;
    mtbal_status status = MTBAL_OK;
    if (done < list.count)
        status = folder_error(bundle->path, "put the files there", diag);
    while (status != MTBAL_OK && done > 0)
        (void)exchange(bundle->temporary, bundle->path, list.items[--done], true);
    free_names(&list);
    return status;
}

mtbal_status mtbal_bundle_commit(mtbal_bundle *bundle, mtbal_diag *diag)
{
    struct stat st;
    mtbal_status status = MTBAL_OK;
    if (stat(bundle->path, &st) == 0)
        status = move_files(bundle, diag);
    else if (rename(bundle->temporary, bundle->path) != 0)
        status = folder_error(bundle->path, "name the folder", diag);
    if (status == MTBAL_OK)
        mtbal_file_sync_folder(bundle->path);
    mtbal_bundle_abort(bundle);
    return status;
}

void mtbal_bundle_abort(mtbal_bundle *bundle)
{
    names list = {0};
    if (bundle->temporary)
        (void)list_files(bundle->temporary, &list);
    for (int i = 0; i < list.count; i++) {
        char *path = join(bundle->temporary, list.items[i]);
        if (path)
            unlink(path);
        mtbal_free(path);
    }
    free_names(&list);
    if (bundle->temporary)
        rmdir(bundle->temporary);
    mtbal_free(bundle->temporary);
    mtbal_free(bundle->path);
    *bundle = (mtbal_bundle){NULL, NULL};
}
