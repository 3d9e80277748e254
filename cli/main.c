/* cli/main.c: the frame of a command: memory, arguments, Ctrl-C, the exit code. */
#include "cli/cli.h"

volatile sig_atomic_t cli_stop;

static void on_signal(int signal)
{
    (void)signal;
    cli_stop = 1;
}

void cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
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
        code = work(operands, arena, &diag) == MTBAL_OK ? 0 : cli_report(command->name, &diag);
    mtbal_arena_free(arena);
    return code;
}
