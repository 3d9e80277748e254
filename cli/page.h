/* cli/page.h: the page that --report writes: one HTML file that needs nothing else. */
#ifndef MTBAL_CLI_PAGE_H
#define MTBAL_CLI_PAGE_H

#include "cli/cli.h"
#include "train/trace.h"

/* ------------------------------------------------------------------ page.c */

/* Text goes to `to`, into memory; mtbal_page_close writes the file. */
typedef struct cli_page {
    FILE *to;
    char *text;
    size_t size;
} cli_page;

mtbal_status cli_page_open(cli_page *page, const char *title, const char *verdict,
                           mtbal_diag *diag);
/* Writes the page under a temporary name, then renames. Frees, whatever the status. */
mtbal_status cli_page_close(cli_page *page, const char *path, mtbal_diag *diag);
/* Text with what HTML reserves escaped, and bytes that are no UTF-8 replaced. */
void cli_page_text(FILE *to, const char *text);
void cli_page_heading(cli_page *page, const char *heading, const char *note); /* note may be NULL */
void cli_page_table(cli_page *page, const cli_table *table);

/* ------------------------------------------------------------------ svg.c */

typedef enum svg_scale { SVG_LINEAR, SVG_LOG, SVG_EXPONENT, SVG_PERCENT } svg_scale;
/* One channel of a trace: `at` as mtbal_trace_at gives it. */
typedef struct svg_line {
    const char *name;
    int color; /* the task's number */
    const mtbal_trace *trace;
    int at;
} svg_line;
/* EXPONENT: values are logarithms already; PERCENT: they are fractions from 0 to 1. LOG becomes
 * LINEAR where a value is negative. */
typedef struct svg_chart {
    const char *title;
    svg_scale scale;
    bool band; /* a shade from the lowest to the highest value that a point stands for */
    int nlines;
    const svg_line *lines;
} svg_chart;
/* A figure; nothing where no line has a value. */
void svg_write(FILE *to, const svg_chart *chart);

/* ------------------------------------------------------------------ report.c: what pages and
 * terminals show of a training. Names [ntasks] are the tasks'. */

/* How the tasks pull: share of the pull over the run, in its first and last tenth, and when a task
 * leads. */
void cli_pull_table(cli_table *table, mtbal_arena *arena, const mtbal_trace *trace,
                    const char *const *names);
/* Cosines of each pair of tasks, and what they say. */
void cli_pair_table(cli_table *table, mtbal_arena *arena, const mtbal_trace *trace,
                    const char *const *names);
/* One line: who dominates at the end, who fights. In `arena`. */
const char *cli_pull_verdict(const mtbal_trace *trace, const char *const *names,
                             mtbal_arena *arena);
/* Charts of a training of all tasks, its cosines as coloured tables, and the pull. */
void cli_page_training(cli_page *page, mtbal_arena *arena, const char *heading,
                       const mtbal_trace *trace, const char *const *names);
/* Charts of trainings of one task each, traces [ntasks]. */
void cli_page_alone(cli_page *page, int ntasks, mtbal_trace *const *traces,
                    const char *const *names);
/* "what", "value": the model's rows; the command adds its own. */
void cli_facts_table(cli_table *table, mtbal_arena *arena, const char *model);

/* ------------------------------------------------------------------ outcome.c: what came out of a
 * calibration */

typedef struct cli_outcome {
    const mtbal_calibrate_options *options;
    int ntasks;
    const char *const *names;
    const char *scale;                /* of the weights */
    const mtbal_calibration *results; /* [ntasks] */
    const mtbal_trace *together;      /* the joint training; NULL: nothing was compared */
    double *changes;                  /* [ntasks] against the task alone; positive is worse, in % */
    double delta_m;
} cli_outcome;
double cli_outcome_weight(const cli_outcome *outcome, int task);
void cli_outcome_table(cli_table *table, mtbal_arena *arena, const cli_outcome *outcome);
void cli_outcome_compared(cli_table *table, mtbal_arena *arena, const cli_outcome *outcome);
void cli_outcome_json(FILE *to, const cli_outcome *outcome);
/* One line: what the weights undo. In `arena`. */
const char *cli_outcome_verdict(const cli_outcome *outcome, mtbal_arena *arena);
/* One line: who gains in company. */
const char *cli_outcome_gain(const cli_outcome *outcome, mtbal_arena *arena);

#endif
