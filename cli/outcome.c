/* cli/outcome.c: what came out of a calibration: G and weights; all tasks together against each
 * alone. */
#include "cli/page.h"
#include "passes/passes.h"

#include <math.h>
#include <string.h>

/* A mean gradient below this share of the mini-batch gradient cannot be told from sampling noise.
 */
#define SIGNAL 0.05

/* ------------------------------------------------------------------ the balance point */

double cli_outcome_weight(const cli_outcome *o, int task)
{
    double *g = mtbal_malloc((size_t)o->ntasks * sizeof *g), weight = NAN;
    for (int i = 0; g && i < o->ntasks; i++)
        g[i] = o->results[i].g;
    if (g)
        weight = mtbal_calibrated_weight(o->scale, o->ntasks, o->names, g, task);
    mtbal_free(g);
    return weight;
}

void cli_outcome_table(cli_table *table, mtbal_arena *arena, const cli_outcome *o)
{
    static const char *const heads[] = {"task",       "G",    "at the end", "over the run", "SNR",
                                        "first loss", "loss", "epochs",     "note"};
    bool floor = !strcmp(o->options->measure, "floor");
    cli_table_init(table, arena, 9, heads);
    for (int i = 0; i < o->ntasks; i++) {
        const mtbal_calibration *r = &o->results[i];
        const bool alone = !isnan(r->rms_end);
        cli_cell(table, "%s", r->task);
        cli_cell(table, "%.5g", r->g);
        cli_number_cell(table, "%.4g", r->rms_end);
        cli_number_cell(table, "%.4g", r->rms_run);
        cli_number_cell(table, "%.3f", r->snr);
        cli_number_cell(table, "%.5g", alone ? r->first_loss : NAN);
        cli_number_cell(table, "%.5g", alone ? r->loss : NAN);
        cli_cell(table, "%lld", (long long)r->epochs);
        cli_cell(table, "weight %.4g%s%s%s", cli_outcome_weight(o, i),
                 !r->floored ? ""
                 : floor     ? "; floor used, the task learns its data by heart"
                             : "; learns its data by heart",
                 r->snr > SIGNAL ? "; mean gradient above its noise: lower lr, or --cosine" : "",
                 r->converged ? "" : "; not converged");
    }
}

const char *cli_outcome_verdict(const cli_outcome *o, mtbal_arena *arena)
{
    int low = 0, high = 0;
    for (int i = 1; i < o->ntasks; i++) {
        low = o->results[i].g < o->results[low].g ? i : low;
        high = o->results[i].g > o->results[high].g ? i : high;
    }
    double ratio = o->results[high].g / o->results[low].g;
    const char *text;
    if (o->ntasks < 2)
        return "One task: there is nothing to balance.";
    if (ratio < 3)
        text = mtbal_arena_printf(arena,
                                  "The tasks' gradients are alike, within a factor of %.2f: the "
                                  "weights change little.",
                                  ratio);
    else
        text = mtbal_arena_printf(arena,
                                  "With equal weights %s would pull %.*f times as hard as %s where "
                                  "each is good; the weights undo that.",
                                  o->names[high], ratio < 10, ratio, o->names[low]);
    return text ? text : "";
}

/* ------------------------------------------------------------------ together against alone */

static const char *metric_of(const cli_outcome *o, int task)
{
    const mtbal_metric *m = mtbal_metric_of(o->options, o->results[task].task);
    return m ? m->kind->name : "loss";
}

void cli_outcome_compared(cli_table *table, mtbal_arena *arena, const cli_outcome *o)
{
    static const char *const heads[] = {"task", "metric", "alone", "together", "change"};
    cli_table_init(table, arena, 5, heads);
    for (int i = 0; i < o->ntasks; i++) {
        const mtbal_metric *m = mtbal_metric_of(o->options, o->results[i].task);
        const char *unit = m ? m->kind->unit : "";
        cli_cell(table, "%s", o->names[i]);
        cli_cell(table, "%s%s%s", metric_of(o, i), *unit ? " " : "", unit);
        cli_number_cell(table, "%.4g", o->results[i].score);
        cli_number_cell(table, "%.4g", o->results[i].joint_score);
        cli_cell(table, "%+.1f %% %s", o->changes[i], o->changes[i] > 0 ? "worse" : "better");
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

static void task_json(cli_json *json, const cli_outcome *o, int i)
{
    json_open(json, NULL, '{');
    json_text(json, "name", o->names[i]);
    json_text(json, "metric", metric_of(o, i));
    json_number(json, "alone", o->results[i].score);
    json_number(json, "together", o->results[i].joint_score);
    json_number(json, "change", o->changes[i]);
    means(json, "share", o->together, MTBAL_TRACE_SHARE, i);
    means(json, "leads", o->together, MTBAL_TRACE_LEADS, i);
    json_close(json, '}');
}

static void compared_json(cli_json *json, const cli_outcome *o)
{
    json_open(json, "compare", '{');
    json_number(json, "delta_m", o->delta_m);
    json_int(json, "steps", o->together->steps);
    json_open(json, "tasks", '[');
    for (int i = 0; i < o->ntasks; i++)
        task_json(json, o, i);
    json_close(json, ']');
    json_open(json, "pairs", '[');
    for (int i = 0; i < o->ntasks; i++)
        for (int j = i + 1; j < o->ntasks; j++) {
            int pair = mtbal_trace_pair(o->together, i, j);
            json_open(json, NULL, '{');
            json_text(json, "a", o->names[i]);
            json_text(json, "b", o->names[j]);
            means(json, "cosine", o->together, MTBAL_TRACE_COSINE, pair);
            means(json, "negative", o->together, MTBAL_TRACE_NEGATIVE, pair);
            json_close(json, '}');
        }
    json_close(json, ']');
    json_close(json, '}');
}

const char *cli_outcome_gain(const cli_outcome *o, mtbal_arena *arena)
{
    int worst = 0;
    for (int i = 1; i < o->ntasks; i++)
        worst = o->changes[i] > o->changes[worst] ? i : worst;
    if (!isfinite(o->delta_m))
        return "Together and alone cannot be compared: a score is 0 or not finite.";
    const char *text = mtbal_arena_printf(
        arena,
        "Together the tasks are %.1f %% %s than each alone (delta_m %+.1f %%); %s %s: %+.1f %%.",
        fabs(o->delta_m), o->delta_m > 0 ? "worse" : "better", o->delta_m,
        o->changes[worst] > 0 ? "worst off is" : "even the least favoured gains,", o->names[worst],
        o->changes[worst]);
    return text ? text : "";
}

/* ------------------------------------------------------------------ all of it as JSON */

static void result_json(cli_json *json, const cli_outcome *o, int task)
{
    const mtbal_calibration *r = &o->results[task];
    json_open(json, NULL, '{');
    json_text(json, "name", r->task);
    json_number(json, "g", r->g);
    json_number(json, "weight", cli_outcome_weight(o, task));
    json_number(json, "rms_end", r->rms_end);
    json_number(json, "rms_run", r->rms_run);
    json_number(json, "rms_start", r->rms_start);
    json_number(json, "rms_heldout", r->rms_heldout);
    json_number(json, "rms_heads", r->rms_heads);
    json_number(json, "rms_joint", r->rms_joint);
    json_number(json, "rel", r->rel);
    json_number(json, "snr", r->snr);
    json_number(json, "first_loss", r->first_loss);
    json_number(json, "loss", r->loss);
    json_number(json, "valid_loss", r->best_valid);
    json_int(json, "epochs", r->epochs);
    json_int(json, "steps", r->steps);
    json_bool(json, "converged", r->converged);
    json_bool(json, "floored", r->floored);
    json_close(json, '}');
}

void cli_outcome_json(FILE *to, const cli_outcome *o)
{
    cli_json json = {.to = to};
    json_open(&json, NULL, '{');
    json_text(&json, "measure", o->options->measure);
    json_open(&json, "tasks", '[');
    for (int i = 0; i < o->ntasks; i++)
        result_json(&json, o, i);
    json_close(&json, ']');
    if (o->together)
        compared_json(&json, o);
    json_close(&json, '}');
    fputc('\n', to);
}
