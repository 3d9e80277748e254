/* cli/args.c: command lines from tables. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static const cli_option common[] = {
    {"help", 'h', CLI_FLAG, NULL, NULL, "print this help"},
    {"version", 'V', CLI_FLAG, NULL, NULL, "print the version"},
    {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
};

static void help_row(FILE *to, const cli_option *option)
{
    char left[64];
    int n = option->letter ? snprintf(left, sizeof left, "-%c, ", option->letter)
                           : snprintf(left, sizeof left, "    ");
    snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", option->name,
             option->argument ? " " : "", option->argument ? option->argument : "");
    if (strlen(left) <= 30)
        fprintf(to, "  %-30s  ", left);
    else
        fprintf(to, "  %s\n  %-30s  ", left, "");
    for (const char *p = option->help; *p; p++) {
        fputc(*p, to);
        if (*p == '\n')
            fprintf(to, "  %-30s  ", "");
    }
    fputc('\n', to);
}

void cli_help(FILE *to, const cli_command *command)
{
    fprintf(to, "usage: %s %s\n\n%s\n\noptions:\n", command->name, command->usage, command->about);
    for (const cli_option *o = command->options; o->name; o++)
        help_row(to, o);
    for (const cli_option *o = common; o->name; o++)
        help_row(to, o);
    fprintf(
        to,
        "\nexit codes: 0 done; 1 a numeric check failed (nothing written); 2 usage;\n"
        "            3 not differentiable or unsupported; 4 bad model or data; 5 input/output;\n"
        "            6 interrupted (SIGINT, SIGTERM)\n");
}

static int usage_error(const cli_command *command, const char *what, const char *which)
{
    fprintf(stderr, "%s: %s: %s\n  usage: %s %s\n  %s -h lists the options\n", command->name, which,
            what, command->name, command->usage, command->name);
    return mtbal_exit_code(MTBAL_USAGE);
}

static const cli_option *find(const cli_option *options, const char *name, size_t length,
                              char letter)
{
    for (const cli_option *o = options; o->name; o++)
        if (letter ? o->letter == letter
                   : strlen(o->name) == length && !memcmp(o->name, name, length))
            return o;
    return NULL;
}

/* Room for one more item in an array that grows by doubling. */
static void *grow(mtbal_arena *arena, void *items, int count, size_t size)
{
    if (count & (count - 1)) /* not 0 or a power of two: there is room */
        return items;
    void *bigger = mtbal_arena_array(arena, count ? (size_t)count * 2 : 1, size);
    if (bigger && count)
        memcpy(bigger, items, (size_t)count * size);
    return bigger;
}

static const char *add_pair(cli_pairs *pairs, const char *text, size_t length, mtbal_arena *arena)
{
    const char *equals = memchr(text, '=', length);
    if (!equals || equals == text)
        return "wants NAME=VALUE";
    pairs->items = grow(arena, pairs->items, pairs->count, sizeof *pairs->items);
    const char *name = mtbal_intern_n(arena, text, (size_t)(equals - text));
    const char *value = mtbal_intern_n(arena, equals + 1, length - (size_t)(equals - text) - 1);
    if (!pairs->items || !name || !value)
        return "out of memory";
    pairs->items[pairs->count++] = (mtbal_pair){name, value};
    return NULL;
}

static const char *store(const cli_option *option, const char *text, mtbal_arena *arena)
{
    char *end = NULL;
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)option->into = true;
        return NULL;
    case CLI_TEXT:
        *(const char **)option->into = text;
        return NULL;
    case CLI_COUNT:
        *(int64_t *)option->into = strtoll(text, &end, 10);
        return *text && !*end && *(int64_t *)option->into >= 0 ? NULL : "wants a whole number";
    case CLI_REAL:
        *(double *)option->into = strtod(text, &end);
        return *text && !*end ? NULL : "wants a number";
    case CLI_TEXTS: {
        cli_list *list = option->into;
        list->items = grow(arena, list->items, list->count, sizeof *list->items);
        if (!list->items)
            return "out of memory";
        list->items[list->count++] = text;
        return NULL;
    }
    case CLI_PAIRS:
        return add_pair(option->into, text, strlen(text), arena);
    case CLI_COMMAS:
        for (const char *p = text;;) {
            size_t length = strcspn(p, ",");
            const char *error = add_pair(option->into, p, length, arena);
            if (error || !p[length])
                return error;
            p += length + 1;
        }
    }
    return "unknown kind";
}

/* One option at argv[*i]; *i moves to its argument. Returns an exit code, or -1. */
static int take_option(const cli_command *command, int argc, char **argv, int *i,
                       mtbal_arena *arena)
{
    const char *word = argv[*i], *text = NULL;
    bool is_long = word[1] == '-';
    size_t length = is_long ? strcspn(word + 2, "=") : 1;
    char letter = is_long ? 0 : word[1];
    const cli_option *option = find(common, word + 2, length, letter);
    if (option) {
        if (option->letter == 'h')
            cli_help(stdout, command);
        else
            printf("%s %s\n", command->name, MTBAL_VERSION);
        return 0;
    }
    option = find(command->options, word + 2, length, letter);
    if (!option || (!is_long && word[2] && option->kind == CLI_FLAG))
        return usage_error(command, "no such option", word);
    if (is_long && word[2 + length] == '=')
        text = word + 3 + length;
    else if (!is_long && word[2])
        text = word + 2;
    if (option->kind == CLI_FLAG && text)
        return usage_error(command, "takes no argument", word);
    if (option->kind != CLI_FLAG && !text) {
        if (*i + 1 >= argc)
            return usage_error(command, "its argument is missing", word);
        text = argv[++*i];
    }
    const char *error = store(option, text, arena);
    return error ? usage_error(command, error, word) : -1;
}

int cli_parse(const cli_command *command, int argc, char **argv, const char **operands,
              mtbal_arena *arena)
{
    int count = 0;
    bool only_operands = false;
    for (int i = 0; i < command->max_operands; i++)
        operands[i] = NULL;
    for (int i = 1; i < argc; i++) {
        if (!only_operands && !strcmp(argv[i], "--")) {
            only_operands = true;
        } else if (!only_operands && argv[i][0] == '-' && argv[i][1]) {
            int code = take_option(command, argc, argv, &i, arena);
            if (code >= 0)
                return code;
        } else if (count == command->max_operands) {
            return usage_error(command, "one operand too many", argv[i]);
        } else {
            operands[count++] = argv[i];
        }
    }
    if (count < command->min_operands)
        return usage_error(command, "an operand is missing", "command line");
    return -1;
}

mtbal_status cli_settings(const cli_pairs *pairs, mtbal_arena *arena,
                          const mtbal_setting **settings, mtbal_diag *diag)
{
    mtbal_setting *set = mtbal_arena_array(arena, (size_t)pairs->count + 1, sizeof *set);
    if (!set)
        return mtbal_no_memory(diag);
    for (int i = 0; i < pairs->count; i++) {
        const char *text = pairs->items[i].value;
        char *end;
        set[i].name = pairs->items[i].name;
        set[i].value = strtod(text, &end);
        if (*end || end == text)
            return mtbal_fail(diag, MTBAL_USAGE, "--set", NULL, "%s=%s: not a number", set[i].name,
                              text);
    }
    *settings = set;
    return MTBAL_OK;
}
