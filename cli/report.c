/* cli/report.c: what pages and terminals show of a training. */
#include "cli/page.h"

#include "onnxio/onnxio.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ who pulls, and when */

/* Mean of a channel of tasks over a part of the run, in percent. */
static double percent(const mtbal_trace *t, mtbal_channel channel, int i, double from, double to)
{
    return 100 * mtbal_trace_mean(t, mtbal_trace_at(t, channel, i), from, to);
}

/* "steps 0-310, 608-639": where the task pulls hardest in most steps, by twentieths of the run. */
static const char *when(const mtbal_trace *t, int task, mtbal_arena *arena)
{
    enum { PARTS = 20 };
    const char *text = "";
    for (int k = 0, first = -1; k <= PARTS && text; k++) {
        bool leads = k < PARTS && percent(t, MTBAL_TRACE_LEADS, task, (double)k / PARTS,
                                          (double)(k + 1) / PARTS) > 50;
        if (leads && first < 0)
            first = k;
        if (leads || first < 0)
            continue;
        text = mtbal_arena_printf(arena, "%s%s%lld-%lld", text, *text ? ", " : "steps ",
                                  (long long)(first * t->steps / PARTS),
                                  (long long)(k * t->steps / PARTS) - 1);
        first = -1;
    }
    return !text ? "" : *text ? text : "never";
}

void cli_pull_table(cli_table *table, mtbal_arena *arena, const mtbal_trace *t,
                    const char *const *names)
{
    static const char *const heads[] = {"task",       "share of pull", "first tenth",
                                        "last tenth", "leads in",      "leads"};
    cli_table_init(table, arena, 6, heads);
    for (int i = 0; i < t->ntasks; i++) {
        cli_cell(table, "%s", names[i]);
        cli_number_cell(table, "%.1f %%", percent(t, MTBAL_TRACE_SHARE, i, MTBAL_TRACE_RUN));
        cli_number_cell(table, "%.1f %%", percent(t, MTBAL_TRACE_SHARE, i, MTBAL_TRACE_START));
        cli_number_cell(table, "%.1f %%", percent(t, MTBAL_TRACE_SHARE, i, MTBAL_TRACE_END));
        cli_number_cell(table, "%.0f %%", percent(t, MTBAL_TRACE_LEADS, i, MTBAL_TRACE_RUN));
        cli_cell(table, "%s", when(t, i, arena));
    }
}

void cli_pair_table(cli_table *table, mtbal_arena *arena, const mtbal_trace *t,
                    const char *const *names)
{
    static const char *const heads[] = {"pair",       "",         "cosine", "first tenth",
                                        "last tenth", "negative", "they"};
    static const char *const words[] = {[MTBAL_NEUTRAL] = "neither share nor fight",
                                        [MTBAL_SHARE] = "share",
                                        [MTBAL_FIGHT] = "fight"};
    cli_table_init(table, arena, 7, heads);
    for (int i = 0; i < t->ntasks; i++)
        for (int j = i + 1; j < t->ntasks; j++) {
            int pair = mtbal_trace_pair(t, i, j);
            int at = mtbal_trace_at(t, MTBAL_TRACE_COSINE, pair);
            cli_cell(table, "%s", names[i]);
            cli_cell(table, "%s", names[j]);
            cli_number_cell(table, "%+.3f", mtbal_trace_mean(t, at, MTBAL_TRACE_RUN));
            cli_number_cell(table, "%+.3f", mtbal_trace_mean(t, at, MTBAL_TRACE_START));
            cli_number_cell(table, "%+.3f", mtbal_trace_mean(t, at, MTBAL_TRACE_END));
            cli_number_cell(table, "%.0f %%",
                            percent(t, MTBAL_TRACE_NEGATIVE, pair, MTBAL_TRACE_RUN));
            cli_cell(table, "%s", words[mtbal_trace_relation(t, i, j)]);
        }
}

/* The pair that fights most often; false: none does. */
static bool worst_pair(const mtbal_trace *t, int *a, int *b)
{
    double worst = 0;
    for (int i = 0; i < t->ntasks; i++)
        for (int j = i + 1; j < t->ntasks; j++) {
            int pair = mtbal_trace_pair(t, i, j);
            double share = percent(t, MTBAL_TRACE_NEGATIVE, pair, MTBAL_TRACE_RUN);
            if (mtbal_trace_relation(t, i, j) != MTBAL_FIGHT || share <= worst)
                continue;
            worst = share;
            *a = i;
            *b = j;
        }
    return worst > 0;
}

/* The tasks with the largest and the smallest share in the last tenth. */
static void extremes(const mtbal_trace *t, int *most, int *least)
{
    double high = -1, low = 2e2;
    for (int i = 0; i < t->ntasks; i++) {
        double share = percent(t, MTBAL_TRACE_SHARE, i, MTBAL_TRACE_END);
        if (share > high) {
            high = share;
            *most = i;
        }
        if (share < low && share > 0) {
            low = share;
            *least = i;
        }
    }
}

const char *cli_pull_verdict(const mtbal_trace *t, const char *const *names, mtbal_arena *arena)
{
    int most = -1, least = 0, a = 0, b = 0;
    const char *text, *fight = "";
    if (t->ntasks < 2)
        return "One task: there is nothing to balance.";
    extremes(t, &most, &least);
    if (most < 0)
        return "No gradient norms were measured, so that nobody knows who pulls how hard.";
    double ratio = percent(t, MTBAL_TRACE_SHARE, most, MTBAL_TRACE_END) /
                   percent(t, MTBAL_TRACE_SHARE, least, MTBAL_TRACE_END);
    if (worst_pair(t, &a, &b))
        fight = mtbal_arena_printf(
            arena, " %s and %s pull against each other in %.0f %% of the steps.", names[a],
            names[b], percent(t, MTBAL_TRACE_NEGATIVE, mtbal_trace_pair(t, a, b), MTBAL_TRACE_RUN));
    if (ratio <= 3)
        text = mtbal_arena_printf(arena,
                                  "Balanced: in the end the tasks pull within a factor of %.2f of "
                                  "each other.%s",
                                  ratio, fight ? fight : "");
    else
        text = mtbal_arena_printf(arena, "%s %s: in the end it pulls %.*f times as hard as %s.%s",
                                  names[most], ratio > 10 ? "dominates" : "leads", ratio < 10,
                                  ratio, names[least], fight ? fight : "");
    return text ? text : "";
}

/* ------------------------------------------------------------------ charts */

static void chart(cli_page *page, const svg_chart *kind, const mtbal_trace *trace,
                  mtbal_channel channel, int n, const char *const *names)
{
    svg_line *lines = mtbal_malloc((size_t)n * sizeof *lines);
    svg_chart it = *kind;
    for (int i = 0; lines && i < n; i++)
        lines[i] = (svg_line){names[i], i, trace, mtbal_trace_at(trace, channel, i)};
    it.nlines = lines ? n : 0;
    it.lines = lines;
    svg_write(page->to, &it);
    mtbal_free(lines);
}

static const svg_chart loss_chart = {.title = "Loss", .scale = SVG_LOG, .band = true};
static const svg_chart norm_chart = {.title = "Gradient norm", .scale = SVG_LOG, .band = true};
static const svg_chart weight_chart = {.title = "Weight", .scale = SVG_LOG};
static const svg_chart share_chart = {.title = "Share of the pull", .scale = SVG_PERCENT};
static const svg_chart ratio_chart = {
    .title = "Domination: strongest over weakest pull", .scale = SVG_EXPONENT, .band = true};
static const svg_chart cosine_chart = {.title = "Cosine of the gradients", .scale = SVG_LINEAR};

static void pair_chart(cli_page *page, mtbal_arena *arena, const mtbal_trace *t,
                       const char *const *names)
{
    enum { MOST = 6 }; /* lines that can be told apart */
    const char *pairs[MOST];
    int n = 0;
    if (t->ntasks * (t->ntasks - 1) / 2 > MOST)
        return;
    for (int i = 0; i < t->ntasks; i++)
        for (int j = i + 1; j < t->ntasks; j++) {
            pairs[n] = mtbal_arena_printf(arena, "%s, %s", names[i], names[j]);
            if (!pairs[n++])
                return;
        }
    chart(page, &cosine_chart, t, MTBAL_TRACE_COSINE, n, pairs);
}

static void cosine_row(FILE *to, const mtbal_trace *t, int i, mtbal_channel channel, double from,
                       double to_)
{
    bool share = channel == MTBAL_TRACE_NEGATIVE;
    for (int j = 0; j < t->ntasks; j++) {
        double x = i == j
                       ? NAN
                       : mtbal_trace_mean(t, mtbal_trace_at(t, channel, mtbal_trace_pair(t, i, j)),
                                          from, to_);
        double tone = share ? 1 - 2 * x : x; /* 1: friends, -1: foes */
        if (isnan(x))
            fprintf(to, "<td class=\"self\">%s</td>", i == j ? "&#183;" : "-");
        else
            fprintf(to,
                    share ? "<td class=\"%s\" style=\"--a:%.2f\">%.0f&#8239;%%</td>"
                          : "<td class=\"%s\" style=\"--a:%.2f\">%+.2f</td>",
                    tone < 0 ? "neg" : "pos", 0.7 * pow(fmin(1, fabs(tone)), 0.7),
                    share             ? 100 * x
                    : fabs(x) < 0.005 ? 0.0
                                      : x); /* no -0.00 */
    }
}

/* Rows have the tasks' names and numbers, columns their numbers. */
static void matrix(cli_page *page, const mtbal_trace *t, const char *const *names,
                   const char *caption, mtbal_channel channel, double from, double to_)
{
    FILE *to = page->to;
    fprintf(to, "<figure%s><figcaption>%s</figcaption>\n", t->ntasks > 5 ? " class=\"wide\"" : "",
            caption);
    fprintf(to, "<div class=\"scroll\"><table class=\"m\">");
    fprintf(to, "<thead><tr><th></th>");
    for (int i = 0; i < t->ntasks; i++)
        fprintf(to, "<th>%d</th>", i + 1);
    fprintf(to, "</tr></thead><tbody>\n");
    for (int i = 0; i < t->ntasks; i++) {
        fprintf(to, "<tr><th>%d&#8194;", i + 1);
        cli_page_text(to, names[i]);
        fprintf(to, "</th>");
        cosine_row(to, t, i, channel, from, to_);
        fprintf(to, "</tr>\n");
    }
    fprintf(to, "</tbody></table></div></figure>\n");
}

static void cosines(cli_page *page, const mtbal_trace *t, const char *const *names)
{
    int first = mtbal_trace_at(t, MTBAL_TRACE_COSINE, 0);
    if (t->ntasks < 2 || isnan(mtbal_trace_mean(t, first, MTBAL_TRACE_RUN)))
        return;
    cli_page_heading(page, "Who shares, who fights",
                     "Cosines of the task gradients: above 0 a step for one task helps the other, "
                     "below 0 it harms it. Noise alone gives values around 0, and a negative "
                     "cosine in half of the steps.");
    fprintf(page->to, "<div class=\"grid\">\n");
    matrix(page, t, names, "Mean cosine over the run", MTBAL_TRACE_COSINE, MTBAL_TRACE_RUN);
    matrix(page, t, names, "Mean cosine in the last tenth", MTBAL_TRACE_COSINE, MTBAL_TRACE_END);
    matrix(page, t, names, "Steps with a negative cosine", MTBAL_TRACE_NEGATIVE, MTBAL_TRACE_RUN);
    fprintf(page->to, "</div>\n");
}

void cli_page_training(cli_page *page, mtbal_arena *arena, const char *heading,
                       const mtbal_trace *t, const char *const *names)
{
    int n = t->ntasks;
    char note[256];
    snprintf(note, sizeof note,
             "A point is the mean of %lld %s, the shade reaches from the lowest to the highest "
             "value. The pull of a task is its weight times its gradient norm.",
             (long long)t->stride, t->stride == 1 ? "step" : "steps");
    cli_page_heading(page, heading, note);
    fprintf(page->to, "<div class=\"grid\">\n");
    chart(page, &loss_chart, t, MTBAL_TRACE_LOSS, n, names);
    chart(page, &norm_chart, t, MTBAL_TRACE_NORM, n, names);
    chart(page, &weight_chart, t, MTBAL_TRACE_WEIGHT, n, names);
    if (n > 1) {
        chart(page, &share_chart, t, MTBAL_TRACE_SHARE, n, names);
        chart(page, &ratio_chart, t, MTBAL_TRACE_RATIO, 1, (const char *const[]){"ratio"});
        pair_chart(page, arena, t, names);
    }
    fprintf(page->to, "</div>\n");
    if (n > 1 &&
        !isnan(mtbal_trace_mean(t, mtbal_trace_at(t, MTBAL_TRACE_RATIO, 0), MTBAL_TRACE_RUN))) {
        cli_table table;
        cli_page_heading(page, "Who pulls, and when", NULL);
        cli_pull_table(&table, arena, t, names);
        cli_page_table(page, &table);
    }
    cosines(page, t, names);
}

void cli_page_alone(cli_page *page, int ntasks, mtbal_trace *const *traces,
                    const char *const *names)
{
    static const struct {
        const svg_chart *chart;
        mtbal_channel channel;
    } charts[] = {{&loss_chart, MTBAL_TRACE_LOSS}, {&norm_chart, MTBAL_TRACE_NORM}};
    svg_line *lines = mtbal_malloc((size_t)ntasks * sizeof *lines);
    fprintf(page->to, "<div class=\"grid\">\n");
    for (int k = 0; lines && k < 2; k++) {
        svg_chart it = *charts[k].chart;
        for (int i = 0; i < ntasks; i++)
            lines[i] =
                (svg_line){names[i], i, traces[i], mtbal_trace_at(traces[i], charts[k].channel, 0)};
        it.nlines = ntasks;
        it.lines = lines;
        svg_write(page->to, &it);
    }
    fprintf(page->to, "</div>\n");
    mtbal_free(lines);
}

/* ------------------------------------------------------------------ the model */

/* Numbers in the initializers that a metadata list names. */
static int64_t count_values(const mtbal_model *model, const char *key, mtbal_arena *arena)
{
    mtbal_list list;
    mtbal_diag diag;
    int64_t count = 0;
    if (mtbal_property_list(model, key, arena, &list, &diag) != MTBAL_OK)
        return 0;
    for (int i = 0; i < list.count; i++) {
        const mtbal_value *v = mtbal_value_find(model->graph, list.names[i]);
        count += v && v->tensor ? v->tensor->count : 0;
    }
    return count;
}

void cli_facts_table(cli_table *table, mtbal_arena *arena, const char *path)
{
    static const char *const heads[] = {"setting", "value"};
    mtbal_model *model = NULL;
    mtbal_diag diag;
    cli_table_init(table, arena, 2, heads);
    table->plain = true;
    cli_cell(table, "model");
    cli_cell(table, "%s", path);
    if (mtbal_onnx_read(path, &model, &diag) != MTBAL_OK)
        return;
    const char *optimizer = mtbal_property_get(model, "mtbal.optimizer");
    const char *balance = mtbal_property_get(model, "mtbal.balance");
    cli_cell(table, "parameters");
    cli_cell(table, "%lld, of them shared %lld",
             (long long)count_values(model, "mtbal.params", arena),
             (long long)count_values(model, "mtbal.shared", arena));
    cli_cell(table, "optimizer");
    cli_cell(table, "%s", optimizer ? optimizer : "?");
    cli_cell(table, "weights");
    cli_cell(table, "%s", balance ? balance : "?");
    cli_cell(table, "written by");
    cli_cell(table, "%s %s, opset %lld", model->producer_name ? model->producer_name : "?",
             model->producer_version ? model->producer_version : "",
             (long long)mtbal_opset_of(model, ""));
    cli_cell(table, "mtbal");
    cli_cell(table, "%s", MTBAL_VERSION);
    mtbal_model_free(model);
}
