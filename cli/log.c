/* cli/log.c: the JSON-lines log of a training. */
#include "cli/cli.h"
#include "train/trace.h"

mtbal_status cli_log_open(cli_log *log, const char *path, const mtbal_session *session,
                          mtbal_diag *diag)
{
    *log = (cli_log){.path = path, .session = session};
    if (!path)
        return MTBAL_OK;
    log->to = fopen(path, "w");
    return log->to ? MTBAL_OK
                   : mtbal_fail(diag, MTBAL_IO, path, "is the folder there and writable?",
                                "cannot be written");
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
    return true;
}

void cli_log_end(cli_log *log, cli_json *json)
{
    json_close(json, '}');
    fputc('\n', log->to);
    fflush(log->to);
}
