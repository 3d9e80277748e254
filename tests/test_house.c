/* tests/test_house.c: the house rules that a program can check: which folder may include which,
 * file lengths, the op list and its page, help texts against the README. */
#include "graph/graph.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A folder and those it may include, separated by spaces; its own is always allowed. */
static const struct floor_rule {
    const char *folder, *may;
} floors[] = {
    {"graph", ""},
    {"graph/ops", "graph"},
    {"runtime", ""},
    {"runtime/kernels", "runtime"},
    {"onnxio", "graph onnx"},
    {"passes", "graph"},
    {"passes/gradients", "graph passes"},
    {"passes/balance", "graph passes"},
    {"passes/ort", "graph passes"},
    {"lower", "graph runtime"},
    {"lower/ops", "graph runtime lower"},
    {"lower/c", "graph runtime lower"},
    {"train", "graph onnxio passes lower runtime"},
    {"cli", "graph onnxio passes runtime lower train"},
};

static bool listed(const char *list, const char *word, size_t length)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, " ");
        if (n == length && !strncmp(p, word, n))
            return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

/* The folder of an include like "passes/gradients/gradients.h": all before the last slash. */
static void check_include(const struct floor_rule *rule, const char *file, const char *included)
{
    const char *slash = strrchr(included, '/');
    ck_assert_msg(slash != NULL, "%s/%s includes \"%s\": name it from the top", rule->folder, file,
                  included);
    size_t length = (size_t)(slash - included), own = strlen(rule->folder);
    bool inside = length >= own && !strncmp(included, rule->folder, own) &&
                  (length == own || included[own] == '/');
    size_t top = strcspn(included, "/");
    ck_assert_msg(inside || listed(rule->may, included, top),
                  "%s/%s includes %s, against the floors", rule->folder, file, included);
}

/* A comparison of a node's `op`, which is a name of the file. */
static bool compares_names(const char *line)
{
    static const char *const calls[] = {"strcmp(", "strncmp(", "memcmp(", "strstr("};
    const char *op = strstr(line, "->op[");
    for (size_t i = 0; i < sizeof calls / sizeof *calls && !op; i++)
        for (const char *at = line; !op && (at = strstr(at, calls[i])) != NULL; at++) {
            const char *end = at + strcspn(at, ";");
            const char *name = strstr(at, "->op");
            op = name && name < end && (name[4] == ',' || name[4] == ')' || name[4] == ' ') ? name
                                                                                            : NULL;
        }
    return op != NULL;
}

static int check_file(const struct floor_rule *rule, const char *file)
{
    char path[512], line[2048], included[256];
    int lines = 0;
    snprintf(path, sizeof path, "%s/%s", rule->folder, file);
    FILE *from = fopen(path, "r");
    ck_assert_msg(from != NULL, "%s cannot be read", path);
    while (fgets(line, sizeof line, from)) {
        lines++;
        if (sscanf(line, " # include \"%255[^\"]\"", included) == 1)
            check_include(rule, file, included);
        ck_assert_msg(strcmp(rule->folder, "cli") == 0 || !compares_names(line),
                      "%s:%d compares an operator's name: use the opcode, or a column of the "
                      "operator table",
                      path, lines);
    }
    fclose(from);
    ck_assert_msg(lines <= 1000, "%s has %d lines: is it one thing?", path, lines);
    return lines;
}

static bool is_source(const char *name)
{
    size_t n = strlen(name);
    return n > 2 && (!strcmp(name + n - 2, ".c") || !strcmp(name + n - 2, ".h"));
}

START_TEST(test_floors)
{
    const struct floor_rule *rule = &floors[_i];
    DIR *folder = opendir(rule->folder);
    int files = 0;
    ck_assert_msg(folder != NULL, "there is no folder %s (run the tests from the top)",
                  rule->folder);
    for (struct dirent *e; (e = readdir(folder));)
        if (is_source(e->d_name)) {
            check_file(rule, e->d_name);
            files++;
        }
    closedir(folder);
    ck_assert_msg(files > 0, "%s holds no source", rule->folder);
}
END_TEST

START_TEST(test_op_list)
{
    for (int i = 0; i < MTBAL_NOPS; i++) {
        const mtbal_op *op = &mtbal_ops[i];
        ck_assert_msg(mtbal_opcode(op->domain, op->name) == i, "%s.%s stands twice in the op list",
                      op->domain, op->name);
    }
    ck_assert_int_eq(mtbal_opcode("", "NoSuchOperator"), -1);
}
END_TEST

/* Runs a command, returns what it printed (malloc'ed). */
static char *output_of(const char *command)
{
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity);
    FILE *pipe = popen(command, "r");
    ck_assert(text && pipe);
    for (size_t n; (n = fread(text + size, 1, capacity - size - 1, pipe)) > 0; size += n)
        if (size + n + 1 >= capacity - 1)
            ck_assert((text = realloc(text, capacity *= 2)) != NULL);
    text[size] = 0;
    pclose(pipe);
    return text;
}

static char *read_file(const char *path)
{
    char command[300];
    snprintf(command, sizeof command, "cat %s", path);
    return output_of(command);
}

/* Every option of a command's help is in the README's reference. */
START_TEST(test_readme_options)
{
    static const char *const commands[] = {"mtbal-rewrite", "mtbal-run", "mtbal-calibrate"};
    const char *bin = getenv("BIN");
    char command[300];
    snprintf(command, sizeof command, "%s/%s -h", bin ? bin : "bin", commands[_i]);
    char *help = output_of(command), *readme = read_file("README.md");
    ck_assert_msg(strstr(help, "usage:"), "%s prints no help", commands[_i]);
    int options = 0;
    for (char *p = help; (p = strstr(p, "--")); p += 2) {
        size_t n = strspn(p + 2, "abcdefghijklmnopqrstuvwxyz-0123456789");
        char option[64];
        if (n == 0 || n > 60 || (p > help && p[-1] != ' '))
            continue;
        snprintf(option, sizeof option, "--%.*s", (int)n, p + 2);
        ck_assert_msg(strstr(readme, option), "README.md does not tell of %s %s", commands[_i],
                      option);
        options++;
    }
    ck_assert_int_gt(options, 5);
    free(help);
    free(readme);
}
END_TEST

/* The README's session is what `make demo` runs, command by command. */
START_TEST(test_readme_session)
{
    char *session = output_of("BIN=bin DRY=1 sh models/demo.sh"), *readme = read_file("README.md");
    int commands = 0;
    const char *from = readme;
    for (char *line = strtok(session, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "$ ", 2))
            continue;
        const char *found = strstr(from, line);
        size_t n = strlen(line);
        ck_assert_msg(found && found[n] == '\n', "README.md does not show, in turn: %s", line);
        from = found + n;
        commands++;
    }
    ck_assert_int_ge(commands, 8);
    free(session);
    free(readme);
}
END_TEST

/* The operator page is what the command prints. */
START_TEST(test_operator_page)
{
    const char *bin = getenv("BIN");
    char command[300];
    snprintf(command, sizeof command, "%s/mtbal-rewrite --list-operators", bin ? bin : "bin");
    char *page = read_file("docs/operators.md"), *printed = output_of(command);
    ck_assert_msg(strstr(printed, "| Conv | yes | yes |"), "the list of operators lacks Conv");
    ck_assert_msg(!strcmp(page, printed),
                  "docs/operators.md is old: mtbal-rewrite --list-operators > docs/operators.md");
    free(page);
    free(printed);
}
END_TEST

/* Pages whose options and links are checked. */
static const char *const pages[] = {
    "README.md",     "examples/README.md",  "docs/architecture.md", "docs/balance.md",
    "docs/flops.md", "docs/onnxruntime.md", "docs/ort-training.md", "docs/training-info.md"};

/* Every relative link of a page points at a file that exists. */
START_TEST(test_links)
{
    char *page = read_file(pages[_i]), path[512];
    const char *slash = strrchr(pages[_i], '/');
    ck_assert_msg(*page, "%s is empty or not there", pages[_i]);
    int folder = slash ? (int)(slash - pages[_i] + 1) : 0;
    for (const char *p = page; (p = strstr(p, "](")) != NULL;) {
        p += 2;
        int length = (int)strcspn(p, "#)");
        if (length == 0 || !strncmp(p, "http", 4))
            continue;
        snprintf(path, sizeof path, "%.*s%.*s", folder, pages[_i], length, p);
        FILE *file = fopen(path, "rb");
        ck_assert_msg(file != NULL, "%s links to %s, which is not there", pages[_i], path);
        fclose(file);
    }
    free(page);
}
END_TEST

/* Options of other programs that a page may mention: --steps is of the main() that --emit-c writes.
 */
static const char foreign[] = "--steps";

/* Every option that a page mentions is one of the three commands'. */
START_TEST(test_page_options)
{
    const char *bin = getenv("BIN");
    char command[400], option[64];
    snprintf(command, sizeof command, "for c in rewrite run calibrate; do %s/mtbal-$c -h; done",
             bin ? bin : "bin");
    char *help = output_of(command), *page = read_file(pages[_i]);
    ck_assert_msg(strstr(help, "--target"), "the commands print no help");
    for (const char *p = page; (p = strstr(p, "--")); p += 2) {
        size_t n = strspn(p + 2, "abcdefghijklmnopqrstuvwxyz-_0123456789");
        if (n < 2 || p[2] == '-' || n > 60 || (p > page && !strchr(" `[(", p[-1])))
            continue;
        snprintf(option, sizeof option, "--%.*s", (int)n, p + 2);
        bool found = listed(foreign, option, strlen(option));
        for (const char *h = help; !found && (h = strstr(h, option)); h++)
            found = !strspn(h + n + 2, "abcdefghijklmnopqrstuvwxyz-_");
        ck_assert_msg(found, "%s mentions %s, which no command has", pages[_i], option);
    }
    free(help);
    free(page);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("house");
    TCase *tests = tcase_create("rules");
    tcase_add_loop_test(tests, test_floors, 0, (int)(sizeof floors / sizeof *floors));
    tcase_add_test(tests, test_op_list);
    tcase_add_loop_test(tests, test_readme_options, 0, 3);
    tcase_add_test(tests, test_readme_session);
    tcase_add_test(tests, test_operator_page);
    tcase_add_loop_test(tests, test_links, 0, (int)(sizeof pages / sizeof *pages));
    tcase_add_loop_test(tests, test_page_options, 0, (int)(sizeof pages / sizeof *pages));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
