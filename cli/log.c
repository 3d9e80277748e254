/* cli/log.c: the JSON-lines log of a training. */
#include "cli/cli.h"
#include "train/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ the log of an interrupted run
 */

/* `"task":"NAME"`, escaped as in the log; to be freed. */
static char *task_key(const char *task)
{
    char *text = NULL;
    size_t size;
    cli_json json = {.to = open_memstream(&text, &size)};
    if (!json.to)
        return NULL;
    json_text(&json, "task", task);
    fclose(json.to);
    return text;
}

/* Which training wrote a line: {"task":"NAME",... or {"event":"...","task":"NAME",... */
static int task_of(char *const *keys, int ntasks, const char *line, size_t size)
{
    static const char event[] = "{\"event\":";
    const char *comma = memchr(line, ',', size);
    bool is_event = size > sizeof event && !memcmp(line, event, sizeof event - 1);
    const char *at = is_event ? comma : line;
    for (int i = 0; at && i < ntasks; i++) {
        size_t n = strlen(keys[i]);
        if ((size_t)(line + size - at) > n && !memcmp(at + 1, keys[i], n))
            return i;
    }
    return ntasks;
}

/* Copies the first lines of each kind. */
static mtbal_status copy_lines(cli_log *log, char *const *keys, const mtbal_file *from,
                               mtbal_writer *to, const int64_t *kept, mtbal_diag *diag)
{
    int n = log->session->ntasks;
    const char *p = (const char *)from->data, *end = p + from->size, *newline;
    for (; p < end && (newline = memchr(p, '\n', (size_t)(end - p))); p = newline + 1) {
        int task = task_of(keys, n, p, (size_t)(newline - p));
        if (log->lines[task] == kept[task])
            continue;
        log->lines[task]++;
        MTBAL_TRY(mtbal_writer_put(to, p, (size_t)(newline + 1 - p), diag));
    }
    for (int i = 0; i <= n; i++)
        if (log->lines[i] < kept[i])
            return mtbal_fail(diag, MTBAL_INVALID, log->path,
                              "put it back, or start anew without --resume",
                              "this is not the log that was begun: it lacks lines");
    return MTBAL_OK;
}

static mtbal_status cut(cli_log *log, const int64_t *kept, mtbal_diag *diag)
{
    int n = log->session->ntasks;
    mtbal_file file;
    mtbal_writer writer;
    char **keys = mtbal_arena_array(log->session->arena, (size_t)n + 1, sizeof *keys);
    if (!keys)
        return mtbal_no_memory(diag);
    MTBAL_TRY(mtbal_file_map(log->path, &file, diag));
    mtbal_status status = mtbal_writer_open(&writer, log->path, diag);
    for (int i = 0; i < n && status == MTBAL_OK; i++)
        if (!(keys[i] = task_key(log->session->tasks[i])))
            status = mtbal_no_memory(diag);
    if (status == MTBAL_OK)
        status = copy_lines(log, keys, &file, &writer, kept, diag);
    if (status == MTBAL_OK)
        status = mtbal_writer_commit(&writer, diag);
    else
        mtbal_writer_abort(&writer);
    for (int i = 0; i < n; i++)
        free(keys[i]);
    mtbal_file_unmap(&file);
    return status;
}

/* ------------------------------------------------------------------ the log */

mtbal_status cli_log_open(cli_log *log, const char *path, const mtbal_session *session,
                          const int64_t *kept, mtbal_diag *diag)
{
    *log = (cli_log){.path = path, .session = session};
    log->lines = mtbal_arena_array(session->arena, (size_t)session->ntasks + 1, sizeof *log->lines);
    if (!log->lines)
        return mtbal_no_memory(diag);
    if (!path)
        return MTBAL_OK;
    if (kept)
        MTBAL_TRY(cut(log, kept, diag));
    log->to = fopen(path, kept ? "a" : "w");
    return log->to ? MTBAL_OK
                   : mtbal_fail(diag, MTBAL_IO, path, "is the folder there and writable?",
                                "cannot be written");
}

mtbal_status cli_log_sync(cli_log *log, mtbal_diag *diag)
{
    if (!log->to)
        return MTBAL_OK;
    bool failed = fflush(log->to) || ferror(log->to);
    if (!failed && fsync(fileno(log->to)))
        failed = errno != EINVAL && errno != EROFS; /* a pipe has no disk */
    return failed
               ? mtbal_fail(diag, MTBAL_IO, log->path, "is the disk full?", "could not be written")
               : MTBAL_OK;
}

static int64_t *lines_of(cli_log *log, int task)
{
    return &log->lines[task == CLI_ALL_TASKS ? log->session->ntasks : task];
}

mtbal_piece cli_log_piece(cli_log *log, int task)
{
    return (mtbal_piece){"lines", lines_of(log, task), sizeof *log->lines};
}

mtbal_status cli_log_close(cli_log *log, mtbal_diag *diag)
{
    if (!log->to)
        return MTBAL_OK;
    bool failed = ferror(log->to);
    failed = fclose(log->to) || failed;
    log->to = NULL;
    return failed
               ? mtbal_fail(diag, MTBAL_IO, log->path, "is the disk full?", "could not be written")
               : MTBAL_OK;
}

/* The values of one task, or of all. */
static void values_by_task(cli_json *json, const char *key, const mtbal_session *s, int task,
                           const double *values)
{
    json_open(json, key, '{');
    for (int i = 0; i < s->ntasks; i++)
        if (task == CLI_ALL_TASKS || task == i)
            json_number(json, s->tasks[i], values[i]);
    json_close(json, '}');
}

/* [[1,c],[c,1]] */
static void cosines(cli_json *json, int ntasks, const mtbal_record *record)
{
    json_open(json, "cosine", '[');
    for (int i = 0; i < ntasks; i++) {
        json_open(json, NULL, '[');
        for (int j = 0; j < ntasks; j++)
            json_number(json, NULL, mtbal_record_cosine(record, i, j));
        json_close(json, ']');
    }
    json_close(json, ']');
}

void cli_log_step(cli_log *log, int task, const mtbal_record *record)
{
    if (!log->to)
        return;
    cli_json json = {.to = log->to};
    const mtbal_session *s = log->session;
    json_open(&json, NULL, '{');
    if (task != CLI_ALL_TASKS)
        json_text(&json, "task", s->tasks[task]);
    json_int(&json, "step", record->step);
    json_int(&json, "epoch", record->epoch);
    json_number(&json, "lr", record->lr);
    json_number(&json, "total", record->total);
    json_number(&json, "seconds", record->seconds);
    values_by_task(&json, "loss", s, task, record->loss);
    if (record->measured)
        values_by_task(&json, "grad_norm", s, task, record->grad_norm);
    values_by_task(&json, "weight", s, task, record->weight);
    if (record->measured && s->has_cosine && task == CLI_ALL_TASKS)
        cosines(&json, s->ntasks, record);
    json_close(&json, '}');
    fputc('\n', log->to);
    ++*lines_of(log, task);
}

bool cli_log_event(cli_log *log, const char *event, int task, cli_json *json)
{
    if (!log->to)
        return false;
    *json = (cli_json){.to = log->to};
    json_open(json, NULL, '{');
    json_text(json, "event", event);
    if (task != CLI_ALL_TASKS)
        json_text(json, "task", log->session->tasks[task]);
    ++*lines_of(log, task);
    return true;
}

void cli_log_end(cli_log *log, cli_json *json)
{
    json_close(json, '}');
    fputc('\n', log->to);
    fflush(log->to);
}
