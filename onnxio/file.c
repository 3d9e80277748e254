/* onnxio/file.c: files mapped for reading, and files that appear whole or not at all. */
#include "onnxio/onnxio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------ reading */

mtbal_status mtbal_file_map(const char *path, mtbal_file *file, mtbal_diag *diag)
{
    *file = (mtbal_file){NULL, 0, -1};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot open the file: %s", strerror(error));
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return mtbal_fail(diag, MTBAL_IO, path, "name a regular file", "%s",
                          S_ISDIR(st.st_mode) ? "this is a folder" : "this is not a regular file");
    }
    file->fd = fd;
    file->size = (size_t)st.st_size;
    if (file->size == 0)
        return MTBAL_OK;
    void *data = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        int error = errno;
        file->size = 0;
        mtbal_file_unmap(file);
        return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot map the file: %s", strerror(error));
    }
    file->data = data;
    return MTBAL_OK;
}

void mtbal_file_unmap(mtbal_file *file)
{
    if (file->data)
        munmap((void *)(uintptr_t)file->data, file->size);
    if (file->fd >= 0)
        close(file->fd);
    *file = (mtbal_file){NULL, 0, -1};
}

/* ------------------------------------------------------------------ writing */

static mtbal_status write_error(mtbal_writer *writer, const char *action, int error,
                                mtbal_diag *diag)
{
    writer->status = MTBAL_IO;
    return mtbal_fail(diag, MTBAL_IO, writer->path, error == ENOSPC ? "make room" : NULL,
                      "cannot %s the file: %s", action, strerror(error));
}

static char *copy_string(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = mtbal_malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

/* Where the bytes shall lie in the end: behind the link, when the path is one. */
static char *resolved(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
        return copy_string(path);
    char *real = realpath(path, NULL);
    char *copy = copy_string(real ? real : path);
    free(real);
    return copy;
}

/* Temporary files and folders that exist, for a signal handler. */
enum { MAX_TEMPORARIES = 512, DEEPEST = 4 };
static _Atomic(char *) temporaries[MAX_TEMPORARIES];

void mtbal_temporary_add(char *path)
{
    for (int i = 0; i < MAX_TEMPORARIES; i++) {
        char *none = NULL;
        if (atomic_compare_exchange_strong(&temporaries[i], &none, path))
            return;
    }
}

void mtbal_temporary_remove(char *path)
{
    for (int i = 0; path && i < MAX_TEMPORARIES; i++) {
        char *same = path;
        if (atomic_compare_exchange_strong(&temporaries[i], &same, NULL))
            return;
    }
}

/* Calls nothing but what a signal handler may. A folder is empty once what is in it is gone. */
void mtbal_temporary_unlink_all(void)
{
    for (int i = 0; i < DEEPEST * MAX_TEMPORARIES; i++) {
        const char *path = temporaries[i % MAX_TEMPORARIES];
        if (path && unlink(path) != 0)
            rmdir(path);
    }
}

/* O_EXCL with a counter instead of mkstemp: the file gets the mode that the user's umask gives. */
static void open_temporary(mtbal_writer *writer)
{
    size_t size = strlen(writer->path) + 48;
    writer->temporary = mtbal_malloc(size);
    for (int i = 0; writer->temporary && writer->fd < 0 && i < 1000; i++) {
        snprintf(writer->temporary, size, "%s.%ld-%d.tmp", writer->path, (long)getpid(), i);
        writer->fd = open(writer->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->fd >= 0)
            mtbal_temporary_add(writer->temporary);
        if (writer->fd < 0 && errno != EEXIST)
            return;
    }
}

mtbal_status mtbal_writer_open(mtbal_writer *writer, const char *path, mtbal_diag *diag)
{
    *writer = (mtbal_writer){NULL, NULL, -1, MTBAL_OK};
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        return mtbal_fail(diag, MTBAL_IO, path, "name a file in it", "this is a folder");
    writer->path = resolved(path);
    if (!writer->path)
        return mtbal_no_memory(diag);
    if (exists && !S_ISREG(st.st_mode))
        writer->fd = open(path, O_WRONLY | O_CLOEXEC); /* a device or a pipe: no rename */
    else
        open_temporary(writer);
    if (writer->fd < 0) {
        int error = errno;
        bool memory = !writer->temporary && !(exists && !S_ISREG(st.st_mode));
        mtbal_status status =
            memory ? mtbal_no_memory(diag) : write_error(writer, "create", error, diag);
        mtbal_free(writer->temporary);
        writer->temporary = NULL;
        mtbal_writer_abort(writer);
        return status;
    }
    if (exists && writer->temporary)
        (void)fchmod(writer->fd, st.st_mode & 07777); /* kept where the file system can */
    return MTBAL_OK;
}

mtbal_status mtbal_writer_put(mtbal_writer *writer, const void *bytes, size_t size,
                              mtbal_diag *diag)
{
    const unsigned char *p = bytes;
    while (writer->status == MTBAL_OK && size > 0) {
        size_t piece = size < INT_MAX / 2 ? size : INT_MAX / 2;
        ssize_t n = write(writer->fd, p, piece);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return write_error(writer, "write", n < 0 ? errno : ENOSPC, diag);
        p += n;
        size -= (size_t)n;
    }
    return writer->status;
}

void mtbal_file_sync_folder(const char *path)
{
    char *folder = copy_string(path);
    if (!folder)
        return;
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    mtbal_free(folder);
}

mtbal_status mtbal_writer_seal(mtbal_writer *writer, mtbal_diag *diag)
{
    int fd = writer->fd;
    if (fd < 0)
        return writer->status;
    if (writer->status == MTBAL_OK && writer->temporary && fsync(fd) != 0)
        write_error(writer, "sync", errno, diag);
    writer->fd = -1;
    if (close(fd) != 0 && writer->status == MTBAL_OK)
        write_error(writer, "close", errno, diag);
    return writer->status;
}

mtbal_status mtbal_writer_commit(mtbal_writer *writer, mtbal_diag *diag)
{
    mtbal_status status = mtbal_writer_seal(writer, diag);
    if (status == MTBAL_OK && writer->temporary) {
        if (rename(writer->temporary, writer->path) != 0) {
            status = write_error(writer, "rename", errno, diag);
        } else {
            mtbal_temporary_remove(writer->temporary);
            mtbal_free(writer->temporary);
            writer->temporary = NULL;
            mtbal_file_sync_folder(writer->path);
        }
    }
    mtbal_writer_abort(writer);
    return status;
}

void mtbal_writer_abort(mtbal_writer *writer)
{
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->temporary)
        unlink(writer->temporary);
    mtbal_temporary_remove(writer->temporary);
    mtbal_free(writer->temporary);
    mtbal_free(writer->path);
    *writer = (mtbal_writer){NULL, NULL, -1, writer->status};
}
