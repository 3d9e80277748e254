/* onnxio/folder.c: several files that get their names together. */
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

mtbal_status mtbal_folder_open(mtbal_folder *folder, const char *path, mtbal_diag *diag)
{
    *folder = (mtbal_folder){NULL, NULL};
    struct stat st;
    size_t n = strlen(path);
    if (!n || (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)))
        return mtbal_fail(diag, MTBAL_IO, path, "name a folder, for four files",
                          "this is not a folder");
    while (n > 1 && path[n - 1] == '/')
        n--;
    folder->path = mtbal_malloc(n + 1);
    char *temporary = mtbal_malloc(n + 48);
    if (!folder->path || !temporary) {
        mtbal_free(temporary);
        mtbal_folder_abort(folder);
        return mtbal_no_memory(diag);
    }
    memcpy(folder->path, path, n);
    folder->path[n] = '\0';
    int made = -1;
    for (int i = 0; i < 1000 && made != 0; i++) {
        snprintf(temporary, n + 48, "%s.%ld-%d.tmp", folder->path, (long)getpid(), i);
        made = mkdir(temporary, 0777);
        if (made != 0 && errno != EEXIST)
            break;
    }
    if (made == 0) {
        folder->temporary = temporary;
        return MTBAL_OK;
    }
    mtbal_status status = folder_error(path, "make a folder beside it", diag);
    mtbal_free(temporary);
    mtbal_folder_abort(folder);
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

static mtbal_status move_files(mtbal_folder *f, mtbal_diag *diag)
{
    names list;
    int done = 0;
    if (!list_files(f->temporary, &list))
        return mtbal_no_memory(diag);
    while (done < list.count && exchange(f->temporary, f->path, list.items[done], false))
        done++;
    mtbal_status status = MTBAL_OK;
    if (done < list.count)
        status = folder_error(f->path, "put the files there", diag);
    while (status != MTBAL_OK && done > 0)
        (void)exchange(f->temporary, f->path, list.items[--done], true);
    free_names(&list);
    return status;
}

mtbal_status mtbal_folder_commit(mtbal_folder *folder, mtbal_diag *diag)
{
    struct stat st;
    mtbal_status status = MTBAL_OK;
    if (stat(folder->path, &st) == 0)
        status = move_files(folder, diag);
    else if (rename(folder->temporary, folder->path) != 0)
        status = folder_error(folder->path, "name the folder", diag);
    mtbal_folder_abort(folder);
    return status;
}

void mtbal_folder_abort(mtbal_folder *folder)
{
    names list = {0};
    if (folder->temporary)
        (void)list_files(folder->temporary, &list);
    for (int i = 0; i < list.count; i++) {
        char *path = join(folder->temporary, list.items[i]);
        if (path)
            unlink(path);
        mtbal_free(path);
    }
    free_names(&list);
    if (folder->temporary)
        rmdir(folder->temporary);
    mtbal_free(folder->temporary);
    mtbal_free(folder->path);
    *folder = (mtbal_folder){NULL, NULL};
}
