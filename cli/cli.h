/* cli/cli.h: the face of cli/: what the commands share. Argument tables, text tables, JSON, exit.
 */
#ifndef MTBAL_CLI_H
#define MTBAL_CLI_H

#include "graph/graph.h"
#include "lower/emit_c.h"
#include "passes/passes.h"
#include "train/calibrate.h"

#define MTBAL_VERSION "0.1.0"
enum { CLI_MAX_COLUMNS = 32 };

/* ------------------------------------------------------------------ args.c */

typedef enum cli_kind {
    CLI_FLAG,  /* bool: true when given */
    CLI_TEXT,  /* const char * */
    CLI_COUNT, /* int64_t, >= 0 */
    CLI_REAL,  /* double */
    CLI_TEXTS, /* cli_list: repeatable */
    CLI_PAIRS, /* cli_pairs: repeatable NAME=VALUE */
    CLI_COMMAS /* cli_pairs: A=x,B=y in one argument, repeatable */
} cli_kind;

typedef struct cli_list {
    int count;
    const char **items;
} cli_list;
typedef struct cli_pairs {
    int count;
    mtbal_pair *items;
} cli_pairs;

/* One row of a command's option table; ends with name NULL. */
typedef struct cli_option {
    const char *name; /* without the dashes */
    char letter;      /* short form, or 0 */
    cli_kind kind;
    void *into;
    const char *argument; /* its name in the help; NULL for flags */
    const char *help;
} cli_option;

typedef struct cli_command {
    const char *name, *usage, *about;
    const cli_option *options;
    int min_operands, max_operands;
} cli_command;

/* Parses argv; -h and -V are answered here. Returns -1 to go on, else the exit code. Operands land
 * in operands [max_operands], missing ones are NULL. Strings are borrowed from argv or live in
 * `arena`. */
int cli_parse(const cli_command *command, int argc, char **argv, const char **operands,
              mtbal_arena *arena);
/* --set NAME=VALUE pairs as numbers, pairs->count of them, in `arena`. MTBAL_USAGE where one is
 * none. */
mtbal_status cli_settings(const cli_pairs *pairs, mtbal_arena *arena,
                          const mtbal_setting **settings, mtbal_diag *diag);
void cli_help(FILE *to, const cli_command *command);

/* ------------------------------------------------------------------ main.c */

/* The work of a command, its arguments being parsed: operands [command->max_operands] <= 2. */
typedef mtbal_status cli_work(const char *const *operands, mtbal_arena *arena, mtbal_diag *diag);
/* Parses, works, reports; returns the exit code. SIGINT and SIGTERM end the work within a second.
 */
int cli_main(const cli_command *command, int argc, char **argv, cli_work *work);
/* Says on stderr whether there is a checkpoint, and what becomes of it. wanted: --resume. */
void cli_note_resume(const mtbal_snapshot *snapshot, bool wanted);

/* ------------------------------------------------------------------ out.c */

/* Prints the diagnostic as one message ("mtbal-run: where: what\n  what to do") and returns the
 * exit code. */
int cli_report(const char *command, const mtbal_diag *diag);
/* Seconds of a monotonic clock. */
double cli_seconds(void);
/* "1.2 KB", "3.4 MB": into buffer, returned. */
const char *cli_bytes(char buffer[32], double bytes);

/* Characters of UTF-8 text; bytes of its first `letters` characters. */
int cli_letters(const char *text);
int cli_bytes_of(const char *text, int letters);

/* A text table: cells are collected, then printed with aligned columns. */
typedef struct cli_table {
    mtbal_arena *arena;
    int ncolumns, nrows, capacity;
    const char **cells;
    bool failed;
    bool plain; /* no column is one of numbers */
} cli_table;
void cli_table_init(cli_table *table, mtbal_arena *arena, int ncolumns, const char *const *heads);
void cli_cell(cli_table *table, const char *format, ...) MTBAL_PRINTF(2, 3);
/* A number as `format` says, or "-" where it is not finite. */
void cli_number_cell(cli_table *table, const char *format, double x);
/* Columns with a number (a cell that starts with a digit, sign or '.'), into number [ncolumns]. */
void cli_table_numbers(const cli_table *table, bool *number);
/* Those are aligned to the right. */
void cli_table_print(FILE *to, const cli_table *table);

/* ------------------------------------------------------------------ calibration.c */

/* What makes a stored G doubtful, said plainly on stderr. */
void cli_calibration_warn(const mtbal_calibration *results, int count);

/* ------------------------------------------------------------------ json.c */

/* A JSON writer: commas and quotes are its business. */
typedef struct cli_json {
    FILE *to;
    int depth;
    bool comma[32];
} cli_json;
void json_open(cli_json *json, const char *key,
               char bracket);                  /* '{' or '['; key NULL inside an array */
void json_close(cli_json *json, char bracket); /* '}' or ']' */
void json_text(cli_json *json, const char *key, const char *value);
void json_number(cli_json *json, const char *key, double value); /* null when not finite */
void json_int(cli_json *json, const char *key, int64_t value);
void json_bool(cli_json *json, const char *key, bool value);

/* ------------------------------------------------------------------ log.c */

/* JSON lines: one object a step, and events. */
typedef struct cli_log {
    const char *path;
    FILE *to; /* NULL: nothing is logged */
    const mtbal_session *session;
    int64_t *lines; /* [session->ntasks + 1] of each task's training; the last: of all tasks' */
} cli_log;
/* path NULL: nothing is logged. `kept` (NULL: a new log): of the log of an interrupted run so many
 * first lines of each kind stay. MTBAL_INVALID when it has less. */
mtbal_status cli_log_open(cli_log *log, const char *path, const mtbal_session *session,
                          const int64_t *kept, mtbal_diag *diag);
/* Brings all lines safely to the disk. */
mtbal_status cli_log_sync(cli_log *log, mtbal_diag *diag);
/* How many there are of a kind: a piece of a checkpoint. */
mtbal_piece cli_log_piece(cli_log *log, int task);
/* MTBAL_IO when something could not be written. */
mtbal_status cli_log_close(cli_log *log, mtbal_diag *diag);
#define CLI_ALL_TASKS (-1)
/* A step of one task's training, or of all together. */
void cli_log_step(cli_log *log, int task, const mtbal_record *record);
/* An event: the caller puts more into *json and ends it. False: nothing is logged. */
bool cli_log_event(cli_log *log, const char *event, int task, cli_json *json);
void cli_log_end(cli_log *log, cli_json *json);

/* ------------------------------------------------------------------ progress.c */

/* What is going on, at most ten times a second: on a terminal a few lines that are drawn again in
 * their place. */
typedef struct cli_progress {
    bool live; /* it is a terminal, and wanted */
    int lines; /* on the screen */
    double started, drawn;
} cli_progress;
typedef struct cli_progress_row {
    const char *name;
    double loss, grad_norm, weight; /* NAN: unknown */
} cli_progress_row;
/* On stderr. `wanted`: false with --quiet and the like. */
void cli_progress_begin(cli_progress *progress, bool wanted);
/* Whether it is time to draw. */
bool cli_progress_due(const cli_progress *progress);
/* done: 0..1. */
void cli_progress_draw(cli_progress *progress, const char *what, double done, int nrows,
                       const cli_progress_row *rows);
void cli_progress_end(cli_progress *progress); /* leaves no trace */

/* ------------------------------------------------------------------ emit.c */

typedef struct cli_emission {
    const char *folder;  /* --emit-c */
    const char *weights; /* --emit-weights: c or file; NULL: c */
    int64_t batch;       /* 0: the model's own, else 32 */
    cli_list shapes;     /* --input-shape: NAME:D0,D1,.. */
} cli_emission;
/* Checks what was typed, before anything is written: MTBAL_USAGE; MTBAL_IO where the folder cannot
 * be made. */
mtbal_status cli_emission_check(const cli_emission *e, mtbal_arena *arena, mtbal_diag *diag);
/* Lowers the model in the file and writes it as a folder of C. *info: how large it became. */
mtbal_status cli_emit(const cli_emission *e, const char *path, mtbal_plan_info *info,
                      mtbal_arena *arena, mtbal_diag *diag);

#endif
