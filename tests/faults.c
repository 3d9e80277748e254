/* tests/faults.c: system calls that fail in turn: these functions stand in for libc's. */
#include "tests/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail_at, calls;

void faults_begin(int n)
{
    calls = 0;
    fail_at = n;
}

bool faults_end(void)
{
    bool reached = calls >= fail_at;
    fail_at = 0;
    return reached;
}

static bool fails(int error)
{
    if (!fail_at || ++calls != fail_at)
        return false;
    errno = error;
    return true;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    return fails(ENOSPC) ? -1 : syscall(SYS_write, fd, bytes, size);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    return fails(EIO) ? -1 : syscall(SYS_pread64, fd, bytes, size, offset);
}

ssize_t copy_file_range(int from, off_t *at, int to, off_t *there, size_t size, unsigned flags)
{
    return fails(EXDEV) ? -1 : syscall(SYS_copy_file_range, from, at, to, there, size, flags);
}

int fsync(int fd)
{
    return fails(EIO) ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    return fails(EACCES) ? -1 : (int)syscall(SYS_renameat, -100, from, -100, to);
}

int renameat(int from, const char *old, int to, const char *new)
{
    return fails(EACCES) ? -1 : (int)syscall(SYS_renameat, from, old, to, new);
}

int mkdir(const char *path, mode_t mode)
{
    return fails(EACCES) ? -1 : (int)syscall(SYS_mkdirat, -100, path, mode);
}

int link(const char *from, const char *to)
{
    return fails(EPERM) ? -1 : (int)syscall(SYS_linkat, -100, from, -100, to, 0);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
    va_end(rest);
    return fails(EMFILE) ? -1 : (int)syscall(SYS_openat, folder, path, flags, mode);
}
