/* cli/progress.c: a bar and a line for each task, on a terminal. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR = 24, NARROW = 24 };
#define INTERVAL 0.1 /* seconds */

static bool is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

void cli_progress_begin(cli_progress *progress, bool wanted)
{
    *progress = (cli_progress){.live = wanted && is_terminal(), .started = cli_seconds()};
}

bool cli_progress_due(const cli_progress *progress)
{
    return progress->live && cli_seconds() - progress->drawn >= INTERVAL;
}

static void screen_size(int *columns, int *rows)
{
    struct winsize size = {0};
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0;
    *columns = known && size.ws_col ? size.ws_col : 80;
    *rows = known && size.ws_row ? size.ws_row : 24;
    *columns = *columns > NARROW ? *columns : NARROW;
}

/* One line of the screen: cut to its width, control characters replaced. */
static void put_line(cli_progress *progress, const char *text, int columns)
{
    int bytes = cli_bytes_of(text, columns - 1); /* some terminals wrap at the last column */
    for (const char *p = text; p < text + bytes; p++)
        fputc((unsigned char)*p < 0x20 || *p == 0x7F ? '?' : *p, stderr);
    fputs("\033[K\n", stderr);
    progress->lines++;
}

/* "0:07", "12:34", "1:02:03". */
static void clock_text(char text[32], double seconds)
{
    long long s = (long long)fmin(seconds + 0.5, 1e9);
    if (s >= 3600)
        snprintf(text, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, 32, "%lld:%02lld", s / 60, s % 60);
}

static void bar_line(char *line, size_t size, const cli_progress *progress, const char *what,
                     double done, int columns)
{
    char bar[BAR + 1] = "", left[32] = "-:--";
    int length = columns < 60 ? BAR / 3 : BAR;
    double elapsed = cli_seconds() - progress->started;
    for (int i = 0; i < length; i++)
        bar[i] = i < (int)(done * length) ? '=' : i == (int)(done * length) ? '>' : ' ';
    if (done > 0 && elapsed > 0.5)
        clock_text(left, elapsed / done * (1 - done));
    snprintf(line, size, "[%s] %3.0f %%  %s left  %s", bar, 100 * done, left, what);
}

/* "  name       loss 0.09639     norm 1.95      weight 2"; the name is `width` letters wide. */
static void task_line(char *line, size_t size, int width, const cli_progress_row *row)
{
    static const char *const names[] = {"loss", "norm", "weight"};
    const double values[] = {row->loss, row->grad_norm, row->weight};
    int letters = cli_letters(row->name), bytes = cli_bytes_of(row->name, width);
    int n = snprintf(line, size, "  %.*s%*s", bytes, row->name,
                     letters < width ? width - letters : 0, "");
    for (int i = 0; i < 3 && n < (int)size; i++) {
        char value[32] = "-";
        if (isfinite(values[i]))
            snprintf(value, sizeof value, "%.4g", values[i]);
        n += snprintf(line + n, size - (size_t)n, "  %s %-9s", names[i], value);
    }
}

static void go_up(cli_progress *progress)
{
    if (progress->lines)
        fprintf(stderr, "\033[%dA", progress->lines);
    progress->lines = 0;
}

void cli_progress_draw(cli_progress *progress, const char *what, double done, int nrows,
                       const cli_progress_row *rows)
{
    char line[512];
    int columns, height, width = 0;
    if (!progress->live)
        return;
    screen_size(&columns, &height);
    int room = height > 4 ? height - 3 : 1, shown = nrows <= room ? nrows : room - 1;
    for (int i = 0; i < shown; i++)
        width = cli_letters(rows[i].name) > width ? cli_letters(rows[i].name) : width;
    width = width < columns / 3 ? width : columns / 3;
    go_up(progress);
    fputc('\r', stderr);
    bar_line(line, sizeof line, progress, what, done, columns);
    put_line(progress, line, columns);
    for (int i = 0; i < shown; i++) {
        task_line(line, sizeof line, width, &rows[i]);
        put_line(progress, line, columns);
    }
    if (shown < nrows) {
        snprintf(line, sizeof line, "  and %d more", nrows - shown);
        put_line(progress, line, columns);
    }
    fflush(stderr);
    progress->drawn = cli_seconds();
}

void cli_progress_end(cli_progress *progress)
{
    if (!progress->live)
        return;
    go_up(progress);
    fputs("\r\033[J", stderr);
    fflush(stderr);
    progress->live = false;
}
