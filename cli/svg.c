/* cli/svg.c: a line chart as SVG: axes with round numbers, names at the ends of the lines. */
#include "cli/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The drawing is as wide as a phone's page, so that its text needs no scaling. */
enum { WIDTH = 384, HEIGHT = 232, LEFT = 46, TOP = 8, BOTTOM = 206, COLORS = 8, MAX_LINES = 64 };
enum { NAME_ROOM = 92, NAME_LETTERS = 13, NAME_HEIGHT = 13, MAX_TICKS = 24 };

/* The range of the values, and where it lies on the page. */
typedef struct axis {
    svg_scale scale;
    double low, high; /* of what is drawn: logarithms where the scale is one */
    int right;        /* x of the plot's end */
    int64_t steps;    /* of the longest line */
} axis;

static const mtbal_point *point_of(const svg_line *line, int p)
{
    return &line->trace->points[p * line->trace->nchannels + line->at];
}

static double mean_of(const mtbal_point *p)
{
    return p->count ? p->sum / (double)p->count : NAN;
}

/* The value as it is drawn; NAN: it cannot be. */
static double drawn(const axis *a, double x)
{
    if (a->scale == SVG_LOG)
        return x > 0 ? log10(x) : NAN;
    return isfinite(x) ? x : NAN;
}

static void widen(axis *a, double x)
{
    x = drawn(a, x);
    if (isnan(x))
        return;
    a->low = fmin(a->low, x);
    a->high = fmax(a->high, x);
}

static bool has_negative(const svg_chart *chart)
{
    for (int i = 0; i < chart->nlines; i++)
        for (int p = 0; p < chart->lines[i].trace->npoints; p++)
            if (point_of(&chart->lines[i], p)->low < 0)
                return true;
    return false;
}

/* False: there is nothing to draw. */
static bool find_axis(const svg_chart *chart, axis *a)
{
    *a = (axis){chart->scale, INFINITY, -INFINITY, WIDTH - 12, 1};
    if (chart->nlines > 1)
        a->right = WIDTH - NAME_ROOM;
    if (a->scale == SVG_LOG && has_negative(chart))
        a->scale = SVG_LINEAR;
    for (int i = 0; i < chart->nlines; i++) {
        const mtbal_trace *t = chart->lines[i].trace;
        a->steps = t->steps > a->steps ? t->steps : a->steps;
        for (int p = 0; p < t->npoints; p++) {
            const mtbal_point *point = point_of(&chart->lines[i], p);
            widen(a, mean_of(point));
            if (chart->band && point->count) {
                widen(a, point->low);
                widen(a, point->high);
            }
        }
    }
    if (!isfinite(a->low))
        return false;
    if (a->scale == SVG_PERCENT) {
        a->low = 0;
        a->high = 1;
        return true;
    }
    if (a->scale == SVG_EXPONENT || (a->scale == SVG_LINEAR && a->low > 0))
        a->low = 0;
    double least = a->scale == SVG_LINEAR ? fmax(1e-12, 0.1 * fabs(a->high)) : 0.5;
    double room = fmax(0.04 * (a->high - a->low), 0.5 * (least - (a->high - a->low)));
    a->high += room;
    if (a->low != 0 || a->scale == SVG_LOG)
        a->low -= room;
    return true;
}

static double x_at(const axis *a, double step)
{
    return LEFT + (a->right - LEFT) * step / (double)a->steps;
}

static double y_at(const axis *a, double value)
{
    return BOTTOM - (BOTTOM - TOP) * (value - a->low) / (a->high - a->low);
}

/* Where the middle of point p lies. */
static double middle(const axis *a, const mtbal_trace *t, int p)
{
    double first = (double)(p * t->stride),
           last = fmin(first + (double)t->stride, (double)t->steps);
    return x_at(a, (first + last - 1) / 2);
}

/* ------------------------------------------------------------------ ticks */

/* 1, 2 or 5 times a power of ten: at least so many of them in the range, but few. */
static double nice_step(double range, int least)
{
    double step = pow(10, floor(log10(range)) + 1);
    static const double next[] = {0.5, 0.4, 0.5}; /* 10 -> 5 -> 2 -> 1 */
    for (int i = 0; range / step < least; i++)
        step *= next[i % 3];
    return step;
}

/* "0.02", "1500", "20k", "3M", "1e-6". */
static void number(char text[32], double x)
{
    double size = fabs(x);
    if (size >= 1e9 || (size > 0 && size < 1e-4))
        snprintf(text, 32, "%.3g", x);
    else if (size >= 1e6)
        snprintf(text, 32, "%.4gM", x / 1e6);
    else if (size >= 1e4)
        snprintf(text, 32, "%.4gk", x / 1e3);
    else
        snprintf(text, 32, "%.4g", x);
    char *zero = strstr(text, "e-0"); /* 1e-06 */
    if (zero)
        memmove(zero + 2, zero + 3, strlen(zero + 3) + 1);
}

static void y_tick(FILE *to, const axis *a, double at, const char *text)
{
    double y = y_at(a, at);
    fprintf(
        to,
        "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"y\">%s</text>",
        LEFT, y, a->right, LEFT - 5, y + 3.5, text);
}

/* Powers of ten; 1, 2, 5 of each where there are few; within one, round numbers. */
static void log_ticks(FILE *to, const axis *a)
{
    static const double digits[] = {1, 2, 5};
    double decades = a->high - a->low, at[MAX_TICKS];
    int every = decades > 6 ? (int)ceil(decades / 6) : 1, n = 0;
    if (decades < 0.9) {
        double step = nice_step(pow(10, a->high) - pow(10, a->low), 3);
        for (double x = step * ceil(pow(10, a->low) / step); x <= pow(10, a->high); x += step)
            at[n++] = x;
    } else {
        for (int e = (int)floor(a->low); e <= a->high; e++)
            for (int d = 0; e % every == 0 && d < (decades < 2.2 ? 3 : 1); d++)
                at[n++] = digits[d] * pow(10, e);
    }
    for (int i = 0; i < n; i++) {
        char text[32];
        number(text, at[i]);
        if (log10(at[i]) >= a->low && log10(at[i]) <= a->high)
            y_tick(to, a, log10(at[i]), text);
    }
}

static void linear_ticks(FILE *to, const axis *a)
{
    double step = nice_step(a->high - a->low, 3);
    for (double at = ceil(a->low / step) * step; at <= a->high + 1e-9 * step; at += step) {
        char text[32];
        number(text, a->scale == SVG_PERCENT ? round(100 * at) : fabs(at) < 1e-9 * step ? 0 : at);
        strcat(text, a->scale == SVG_PERCENT ? "%" : "");
        y_tick(to, a, at, text);
    }
}

static void x_ticks(FILE *to, const axis *a)
{
    double steps = (double)a->steps, step = fmax(1, nice_step(steps, 3));
    for (double at = 0; at <= steps; at += step) {
        char text[32];
        number(text, at);
        fprintf(to, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%s</text>", x_at(a, at), BOTTOM + 14,
                text);
    }
    fprintf(to, "<path class=\"axis\" d=\"M%d %dH%d\"/>", LEFT, BOTTOM, a->right);
    fprintf(to, "<text x=\"%d\" y=\"%d\" class=\"y\">steps</text>", a->right, HEIGHT - 1);
}

/* ------------------------------------------------------------------ lines */

static void style(FILE *to, int color)
{
    fprintf(to, " class=\"c%d%s\"", color % COLORS, color / COLORS % 2 ? " dashed" : "");
}

static void write_line(FILE *to, const axis *a, const svg_line *line)
{
    fprintf(to, "<polyline data-name=\"");
    cli_page_text(to, line->name);
    fprintf(to, "\" points=\"");
    for (int p = 0; p < line->trace->npoints; p++) {
        double y = drawn(a, mean_of(point_of(line, p)));
        if (!isnan(y))
            fprintf(to, "%.1f,%.1f ", middle(a, line->trace, p), y_at(a, y));
    }
    fprintf(to, "\"");
    style(to, line->color);
    fprintf(to, "/>");
}

/* Out along the highest values, back along the lowest. */
static void write_band(FILE *to, const axis *a, const svg_line *line)
{
    int n = line->trace->npoints;
    fprintf(to, "<polygon points=\"");
    for (int k = 0; k < 2 * n; k++) {
        int p = k < n ? k : 2 * n - 1 - k;
        const mtbal_point *point = point_of(line, p);
        double y = drawn(a, k < n ? point->high : point->low);
        if (point->count && !isnan(y))
            fprintf(to, "%.1f,%.1f ", middle(a, line->trace, p), y_at(a, y));
    }
    fprintf(to, "\"");
    style(to, line->color);
    fprintf(to, "/>");
}

/* ------------------------------------------------------------------ names at the lines' ends */

typedef struct label {
    const svg_line *line;
    double x, end, y; /* the line's last point; where the name goes */
} label;

static int by_end(const void *a, const void *b)
{
    double x = ((const label *)a)->end, y = ((const label *)b)->end;
    return (x > y) - (x < y);
}

/* Pushes the sorted names apart: down from the top, then up from the bottom. */
static void spread(label *labels, int n)
{
    double height = fmin(NAME_HEIGHT, (double)(BOTTOM - TOP) / (n > 1 ? n - 1 : 1));
    for (int i = 0; i < n; i++)
        labels[i].y = i ? fmax(labels[i].end, labels[i - 1].y + height) : fmax(labels[i].end, TOP);
    for (int i = n - 1; i >= 0; i--)
        labels[i].y = fmin(labels[i].y, i == n - 1 ? BOTTOM : labels[i + 1].y - height);
}

/* At most so many letters: a name's beginning and an ellipsis. */
static void short_name(FILE *to, const char *name)
{
    char text[4 * NAME_LETTERS + 8];
    size_t bytes = 0, letters = 0;
    for (; name[bytes] && bytes < sizeof text - 8; bytes++) {
        unsigned char c = (unsigned char)name[bytes];
        letters += c >= 0xE1 ? 2 : (c & 0xC0) != 0x80; /* from U+1000 on: mostly wide */
        if (letters > NAME_LETTERS)
            break;
    }
    snprintf(text, sizeof text, "%.*s%s", (int)bytes, name, name[bytes] ? "\xE2\x80\xA6" : "");
    cli_page_text(to, text);
}

static void write_labels(FILE *to, const axis *a, const svg_chart *chart)
{
    label labels[MAX_LINES];
    int n = 0;
    for (int i = 0; i < chart->nlines; i++) {
        const svg_line *line = &chart->lines[i];
        for (int p = line->trace->npoints - 1; p >= 0; p--) {
            double y = drawn(a, mean_of(point_of(line, p)));
            if (isnan(y))
                continue;
            labels[n++] = (label){line, middle(a, line->trace, p), y_at(a, y), 0};
            break;
        }
    }
    qsort(labels, (size_t)n, sizeof *labels, by_end);
    spread(labels, n);
    for (int i = 0; i < n; i++) {
        bool early = labels[i].x < a->right - 12; /* the line ends before the longest one does */
        fprintf(to, "<path d=\"M%.1f %.1fL%d %.1fh6\"%s", labels[i].x, labels[i].end, a->right + 8,
                labels[i].y, early ? " stroke-dasharray=\"1 3\"" : "");
        style(to, labels[i].line->color);
        fprintf(to, "/><text x=\"%d\" y=\"%.1f\" class=\"name\"><title>", a->right + 17,
                labels[i].y + 3.5);
        cli_page_text(to, labels[i].line->name);
        fprintf(to, "</title>");
        short_name(to, labels[i].line->name);
        fprintf(to, "</text>");
    }
}

void svg_write(FILE *to, const svg_chart *whole)
{
    axis a;
    svg_chart chart = *whole;
    chart.nlines = chart.nlines < MAX_LINES ? chart.nlines : MAX_LINES;
    if (!find_axis(&chart, &a))
        return;
    bool logarithmic = a.scale == SVG_LOG || a.scale == SVG_EXPONENT;
    fprintf(to, "<figure><figcaption>%s</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" ",
            chart.title, WIDTH, HEIGHT);
    fprintf(to, "aria-label=\"%s over steps\" ", chart.title);
    fprintf(to, "data-x=\"%d %d %lld\" data-y=\"%d %d %.9g %.9g\" data-scale=\"%s\">", LEFT,
            a.right, (long long)a.steps, BOTTOM, TOP, a.low, a.high,
            logarithmic              ? "log"
            : a.scale == SVG_PERCENT ? "percent"
                                     : "linear");
    (logarithmic ? log_ticks : linear_ticks)(to, &a);
    x_ticks(to, &a);
    for (int i = 0; i < chart.nlines && chart.band; i++)
        write_band(to, &a, &chart.lines[i]);
    for (int i = 0; i < chart.nlines; i++)
        write_line(to, &a, &chart.lines[i]);
    if (chart.nlines > 1)
        write_labels(to, &a, &chart);
    fprintf(to, "</svg></figure>\n");
}
