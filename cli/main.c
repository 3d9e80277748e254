/* cli/main.c: the frame of a command: memory, arguments, Ctrl-C, the exit code. */
#include "cli/cli.h"

#include <string.h>
#include <sys/time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ Ctrl-C
 *
 * The first SIGINT or SIGTERM sets mtbal_stop: loops end at their next good place. What then still
 * runs after a TICK is inside of a long step: mtbal_halt. After another one the program is ended
 * here, wherever it is, but for while a checkpoint is being written. Files get their names when
 * they are whole, so that nothing half remains. The second signal ends the program as if nothing
 * were caught. */

enum { TICK = 300000 /* microseconds */ };
static char farewell[64]; /* "mtbal-run: interrupted\n" */

static void on_signal(int number)
{
    static const struct itimerval ticks = {{0, TICK}, {0, TICK}};
    (void)number;
    mtbal_stop = 1;
    setitimer(ITIMER_REAL, &ticks, NULL);
}

static void on_tick(int number)
{
    static volatile sig_atomic_t idle; /* ticks at which nothing was being written */
    (void)number;
    if (!mtbal_halt) {
        mtbal_halt = 1;
        return;
    }
    idle = mtbal_busy > 0 ? 0 : idle + 1;
    if (idle == 0)
        return;
    mtbal_temporary_unlink_all();
    (void)!write(STDERR_FILENO, farewell, strlen(farewell));
    _exit(MTBAL_INTERRUPTED);
}

static void catch_signals(const char *command)
{
    struct sigaction first = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_RESETHAND};
    struct sigaction tick = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    snprintf(farewell, sizeof farewell, "%s: interrupted\n", command);
    sigemptyset(&first.sa_mask);
    sigemptyset(&tick.sa_mask);
    sigaction(SIGALRM, &tick, NULL);
    sigaction(SIGINT, &first, NULL);
    sigaction(SIGTERM, &first, NULL);
}

void cli_note_resume(const mtbal_snapshot *snapshot, bool wanted)
{
    const char *path = mtbal_snapshot_path(snapshot);
    if (mtbal_snapshot_resumed(snapshot))
        fprintf(stderr, "note: goes on from %s\n", path);
    else if (wanted)
        fprintf(stderr, "note: there is no checkpoint %s: begins at the start\n", path);
    else if (mtbal_snapshot_ignores(snapshot))
        fprintf(stderr, "note: there is a checkpoint %s: --resume would go on from it\n", path);
}

int cli_main(const cli_command *command, int argc, char **argv, cli_work *work)
{
    enum { MAX_OPERANDS = 2 };
    const char *operands[MAX_OPERANDS];
    mtbal_diag diag = {0};
    mtbal_arena *arena = mtbal_arena_new();
    if (!arena) {
        mtbal_no_memory(&diag);
        return cli_report(command->name, &diag);
    }
    int code = cli_parse(command, argc, argv, operands, arena);
    if (code < 0)
        catch_signals(command->name);
    if (code < 0)
        code = work(operands, arena, &diag) == MTBAL_OK ? 0 : cli_report(command->name, &diag);
    mtbal_arena_free(arena);
    return code;
}
