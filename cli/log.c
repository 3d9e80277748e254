/* cli/log.c: a log of lines that an interrupted run goes on with. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

mtbal_status cli_log_open(const char *path, int64_t length, FILE **log, mtbal_diag *diag)
{
    *log = fopen(path, length < 0 ? "w" : "r+");
    if (!*log)
        return mtbal_fail(diag, MTBAL_IO, path, "is the folder there and writable?",
                          "cannot be written: %s", strerror(errno));
    if (length < 0)
        return MTBAL_OK;
    if (fseek(*log, 0, SEEK_END) || ftell(*log) < length)
        return mtbal_fail(diag, MTBAL_INVALID, path, "put it back, or start anew without --resume",
                          "this is not the log that was begun: it is too short");
    if (ftruncate(fileno(*log), length) || fseek(*log, 0, SEEK_END))
        return mtbal_fail(diag, MTBAL_IO, path, NULL, "cannot be cut: %s", strerror(errno));
    return MTBAL_OK;
}

mtbal_status cli_log_length(FILE *log, const char *path, int64_t *length, mtbal_diag *diag)
{
    *length = 0;
    if (!log)
        return MTBAL_OK;
    bool failed = fflush(log) || ferror(log);
    if (!failed && fsync(fileno(log)) && errno != EINVAL && errno != EROFS) /* a pipe has no disk */
        failed = true;
    if (failed)
        return mtbal_fail(diag, MTBAL_IO, path, "is the disk full?", "could not be written");
    *length = ftell(log);
    return MTBAL_OK;
}
