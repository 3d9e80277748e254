/* graph/status.c: statuses and diagnostics. */
#include "graph/graph.h"

#include <string.h>

static void copy_text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
}

mtbal_status mtbal_fail(mtbal_diag *diag, mtbal_status status, const char *where, const char *hint,
                        const char *format, ...)
{
    if (!diag || diag->status != MTBAL_OK)
        return status;
    va_list args;
    va_start(args, format);
    vsnprintf(diag->what, sizeof diag->what, format, args);
    va_end(args);
    diag->status = status;
    copy_text(diag->where, sizeof diag->where, where);
    copy_text(diag->hint, sizeof diag->hint, hint);
    return status;
}

mtbal_status mtbal_no_memory(mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_NOMEM, NULL, "close other programs, or use a smaller batch",
                      "out of memory");
}

volatile sig_atomic_t mtbal_stop, mtbal_halt;
atomic_int mtbal_busy;

mtbal_status mtbal_interrupted(mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_INTERRUPTED, NULL, NULL,
                      "interrupted; what was not saved before is lost");
}

mtbal_status mtbal_poll(mtbal_diag *diag)
{
    return mtbal_stop ? mtbal_interrupted(diag) : MTBAL_OK;
}

int mtbal_exit_code(mtbal_status status)
{
    return status == MTBAL_NOMEM ? MTBAL_IO : (int)status;
}
