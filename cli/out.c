/* cli/out.c: what the commands print for people. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>
#include <time.h>

int cli_report(const char *command, const mtbal_diag *diag)
{
    fprintf(stderr, "%s: %s%s%s\n", command, diag->where, *diag->where ? ": " : "", diag->what);
    if (*diag->hint)
        fprintf(stderr, "  %s\n", diag->hint);
    return mtbal_exit_code(diag->status);
}

double cli_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *cli_bytes(char buffer[32], double bytes)
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 1000 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(buffer, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return buffer;
}

void cli_number_cell(cli_table *table, const char *format, double x)
{
    char text[32];
    snprintf(text, sizeof text, format, x);
    cli_cell(table, "%s", isfinite(x) ? text : "-");
}

static void add_cell(cli_table *table, const char *text)
{
    if (table->nrows == table->capacity) {
        int capacity = table->capacity ? 2 * table->capacity : 64;
        const char **bigger = mtbal_arena_array(table->arena, (size_t)capacity, sizeof *bigger);
        if (!bigger) {
            table->failed = true;
            return;
        }
        if (table->nrows)
            memcpy(bigger, table->cells, (size_t)table->nrows * sizeof *bigger);
        table->cells = bigger;
        table->capacity = capacity;
    }
    table->cells[table->nrows++] = text;
}

/* nrows counts cells while they are collected: a row is full after ncolumns. */
void cli_table_init(cli_table *table, mtbal_arena *arena, int ncolumns, const char *const *heads)
{
    *table = (cli_table){.arena = arena, .ncolumns = ncolumns};
    for (int i = 0; i < ncolumns; i++)
        add_cell(table, heads[i]);
}

void cli_cell(cli_table *table, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *copy = mtbal_arena_copy(table->arena, text, strlen(text) + 1);
    if (copy)
        add_cell(table, copy);
    else
        table->failed = true;
}

int cli_letters(const char *text)
{
    int letters = 0;
    for (; *text; text++)
        letters += (*text & 0xC0) != 0x80; /* continuation bytes do not count */
    return letters;
}

int cli_bytes_of(const char *text, int letters)
{
    int bytes = 0;
    for (; text[bytes]; bytes++)
        if ((text[bytes] & 0xC0) != 0x80 && letters-- == 0)
            break;
    return bytes;
}

static bool is_number(const char *text)
{
    return *text && strchr("0123456789+-.", *text);
}

void cli_table_numbers(const cli_table *table, bool *number)
{
    int n = table->ncolumns;
    for (int c = 0; c < n; c++)
        number[c] = false;
    for (int i = n; i < table->nrows; i++)
        number[i % n] = number[i % n] || (!table->plain && is_number(table->cells[i]));
}

void cli_table_print(FILE *to, const cli_table *table)
{
    int rows = table->nrows / table->ncolumns, n = table->ncolumns;
    int width[CLI_MAX_COLUMNS] = {0};
    bool number[CLI_MAX_COLUMNS];
    cli_table_numbers(table, number);
    for (int i = 0; i < rows * n; i++) {
        int c = i % n, w = cli_letters(table->cells[i]);
        width[c] = w > width[c] ? w : width[c];
    }
    for (int i = 0; i < rows * n; i++) {
        int c = i % n, pad = width[c] - cli_letters(table->cells[i]);
        bool last = c == n - 1;
        fprintf(to, "%s%*s%s%*s%s", c ? "  " : "  ", number[c] ? pad : 0, "", table->cells[i],
                number[c] || last ? 0 : pad, "", last ? "\n" : "");
    }
}
