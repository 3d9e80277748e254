/* cli/compare.c: all tasks together against each alone: who gains, who shares, who fights. */
#include "cli/page.h"

#include <math.h>

static const char *metric_of(const cli_comparison *c, int task)
{
    const mtbal_metric *m = mtbal_metric_of(c->options, c->results[task].task);
    return m ? m->kind->name : "loss";
}

void cli_compare_table(cli_table *table, mtbal_arena *arena, const cli_comparison *c)
{
    static const char *const heads[] = {"task", "metric", "alone", "together", "change"};
    cli_table_init(table, arena, 5, heads);
    for (int i = 0; i < c->count; i++) {
        const mtbal_metric *m = mtbal_metric_of(c->options, c->results[i].task);
        const char *unit = m ? m->kind->unit : "";
        cli_cell(table, "%s", c->names[i]);
        cli_cell(table, "%s%s%s", metric_of(c, i), *unit ? " " : "", unit);
        cli_number_cell(table, "%.4g", c->results[i].score);
        cli_number_cell(table, "%.4g", c->results[i].joint_score);
        cli_cell(table, "%+.1f %% %s", c->changes[i], c->changes[i] > 0 ? "worse" : "better");
    }
}

/* Mean of a channel over the run and its ends. */
static void means(cli_json *json, const char *key, const mtbal_trace *t, mtbal_channel channel,
                  int i)
{
    int at = mtbal_trace_at(t, channel, i);
    json_open(json, key, '{');
    json_number(json, "run", mtbal_trace_mean(t, at, MTBAL_TRACE_RUN));
    json_number(json, "first_tenth", mtbal_trace_mean(t, at, MTBAL_TRACE_START));
    json_number(json, "last_tenth", mtbal_trace_mean(t, at, MTBAL_TRACE_END));
    json_close(json, '}');
}

static void task_json(cli_json *json, const cli_comparison *c, int i)
{
    json_open(json, NULL, '{');
    json_text(json, "name", c->names[i]);
    json_text(json, "metric", metric_of(c, i));
    json_number(json, "alone", c->results[i].score);
    json_number(json, "together", c->results[i].joint_score);
    json_number(json, "change", c->changes[i]);
    means(json, "share", c->trace, MTBAL_TRACE_SHARE, i);
    means(json, "leads", c->trace, MTBAL_TRACE_LEADS, i);
    json_close(json, '}');
}

void cli_compare_json(cli_json *json, const cli_comparison *c)
{
    json_open(json, "compare", '{');
    json_number(json, "delta_m", c->delta_m);
    json_int(json, "steps", c->trace->steps);
    json_open(json, "tasks", '[');
    for (int i = 0; i < c->count; i++)
        task_json(json, c, i);
    json_close(json, ']');
    json_open(json, "pairs", '[');
    for (int i = 0; i < c->count; i++)
        for (int j = i + 1; j < c->count; j++) {
            int pair = mtbal_trace_pair(c->trace, i, j);
            json_open(json, NULL, '{');
            json_text(json, "a", c->names[i]);
            json_text(json, "b", c->names[j]);
            means(json, "cosine", c->trace, MTBAL_TRACE_COSINE, pair);
            means(json, "negative", c->trace, MTBAL_TRACE_NEGATIVE, pair);
            json_close(json, '}');
        }
    json_close(json, ']');
    json_close(json, '}');
}

const char *cli_compare_verdict(const cli_comparison *c, mtbal_arena *arena)
{
    int worst = 0;
    for (int i = 1; i < c->count; i++)
        worst = c->changes[i] > c->changes[worst] ? i : worst;
    if (!isfinite(c->delta_m))
        return "Together and alone cannot be compared: a score is 0 or not finite.";
    const char *text = mtbal_arena_printf(
        arena, "Together the tasks are %.1f %% %s than each alone (delta_m %+.1f %%); %s %s: %+.1f %%.",
        fabs(c->delta_m), c->delta_m > 0 ? "worse" : "better", c->delta_m,
        c->changes[worst] > 0 ? "worst off is" : "even the least favoured gains,",
        c->names[worst], c->changes[worst]);
    return text ? text : "";
}
