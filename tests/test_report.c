/* tests/test_report.c: the pages of --report, the log and the progress of a calibration, and tasks
 * together against alone: against what the logs say of every step. */
#include "tests/steps.h"

#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* The step graph of a small network whose tasks have these names, and its data. */
static void write_network(const char *a, const char *b)
{
    mtbal_options o;
    const mtbal_pair tasks[] = {{a, "a"}, {b, "b"}};
    char *network = steps_network(3, 5), *outputs = strstr(network, "float b)"), *text;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(outputs && to);
    fprintf(to, "%.*sfloat b, float[n,4] p0)%s", (int)(outputs - network), network, outputs + 8);
    fclose(to);
    free(network);
    mtbal_options_default(&o);
    o.optimizer = "adam";
    o.tasks = tasks;
    o.ntasks = 2;
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    free(text);
    steps_network_data(files_path("net.npz"), 320, 1, 20, false);
}

static char *must_run(const char *arguments)
{
    int code;
    char *said = files_run(&code, "%s", arguments);
    ck_assert_msg(code == 0, "exit code %d: %s\n%s", code, arguments, said);
    return said;
}

static char *read_text(const char *name)
{
    size_t size;
    char *text = (char *)files_read(files_path(name), &size);
    text[size] = 0;
    ck_assert_msg(strlen(text) == size, "%s holds a byte 0", name);
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

/* ------------------------------------------------------------------ the page */

/* Every tag is closed, in turn; attributes are quoted; a '<' stands for nothing else. Style and
 * script hold text of their own. */
static void check_tags(const char *page)
{
    char open[32][16];
    int depth = 0, tags = 0;
    const char *p = strstr(page, "<html");
    ck_assert(p != NULL);
    for (; (p = strchr(p, '<')); tags++) {
        bool closes = p[1] == '/';
        const char *name = p + 1 + closes, *end = name;
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
        for (bool quoted = false; *end && (quoted || *end != '>'); end++) {
            quoted ^= *end == '"';
            ck_assert_msg(*end != '<', "a tag holds '<': %.60s", p);
        }
        ck_assert_msg(n > 0 && n < 16 && *end, "no tag: %.60s", p);
        if (closes) {
            ck_assert_msg(depth > 0 && strlen(open[depth - 1]) == n &&
                              !strncmp(open[depth - 1], name, n),
                          "</%.*s> closes <%s>", (int)n, name, depth ? open[depth - 1] : "");
            depth--;
        } else if (end[-1] != '/') {
            ck_assert_int_lt(depth, 32);
            snprintf(open[depth++], sizeof *open, "%.*s", (int)n, name);
        }
        if (!closes && (!strncmp(name, "style>", 6) || !strncmp(name, "script>", 7)))
            end = strstr(end, name[1] == 't' ? "</style" : "</script");
        ck_assert(end != NULL);
        p = end;
    }
    ck_assert_msg(depth == 0, "<%s> is not closed", depth ? open[depth - 1] : "");
    ck_assert_int_gt(tags, 100);
}

/* Each '&' begins an entity, no control character, nothing from elsewhere. */
static void check_text(const char *page)
{
    static const char *const never[] = {"http:", "https:", "src=",  "@import", "url(",
                                        "<link", "nan",    "inf\"", "%!"};
    for (const char *p = page; (p = strchr(p, '&')) && p < strstr(page, "<script>"); p++)
        ck_assert_msg(!strncmp(p, "&amp;", 5) || !strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) ||
                          !strncmp(p, "&quot;", 6) || !strncmp(p, "&#", 2),
                      "a bare '&': %.40s", p);
    for (const char *p = page; *p; p++)
        ck_assert_msg((unsigned char)*p >= 0x20 || *p == '\n', "control character %d", *p);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        ck_assert_msg(!strstr(page, never[i]), "the page holds '%s': %.60s", never[i],
                      strstr(page, never[i]));
}

static void check_page(const char *page, size_t most)
{
    static const char *const must[] = {"<!DOCTYPE html>",
                                       "name=\"viewport\"",
                                       "prefers-color-scheme:dark",
                                       "class=\"verdict\"",
                                       "Content-Security-Policy",
                                       "<figcaption>Loss</figcaption>",
                                       "<figcaption>Gradient norm</figcaption>",
                                       "optimizer"};
    for (size_t i = 0; i < sizeof must / sizeof *must; i++)
        ck_assert_msg(strstr(page, must[i]), "the page lacks %s", must[i]);
    ck_assert_msg(strlen(page) < most, "the page has %zu bytes", strlen(page));
    check_tags(page);
    check_text(page);
}

static const char *const shown[] = {"<figcaption>Weight</figcaption>",
                                    "<figcaption>Share of the pull</figcaption>",
                                    "Domination",
                                    "Who pulls, and when",
                                    "Mean cosine over the run",
                                    "Mean cosine in the last tenth",
                                    "Steps with a negative cosine"};

static void check_shown(const char *page)
{
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        ck_assert_msg(strstr(page, shown[i]), "the page does not show: %s", shown[i]);
}

START_TEST(test_run_page)
{
    char command[2048];
    write_network("a", "b");
    snprintf(command, sizeof command,
             "$BIN/mtbal-run %s --data %s --epochs 3 --shuffle --set lr=0.002 --report %s",
             files_path("step.onnx"), files_path("net.npz"), files_path("r.html"));
    free(must_run(command));
    char *page = read_text("r.html");
    check_page(page, 60000);
    check_shown(page);
    ck_assert_msg(strstr(page, "b dominates") || strstr(page, "b leads"), "%.400s",
                  strstr(page, "verdict\">"));
    ck_assert(strstr(page, "320 samples, 32 a step") && strstr(page, ">adam<"));
    free(page);
}
END_TEST

/* Names that would break a page, a terminal or a log. */
START_TEST(test_names)
{
    static const char script[] = "</script><script>alert('&\"x')</script>";
    char command[2048];
    write_network(script, "\x1b[2J<b>\xE6\x97\xA5\xE6\x9C\xAC</b>");
    snprintf(command, sizeof command,
             "$BIN/mtbal-calibrate %s --data %s --max-epochs 3 --window 4 --compare --report %s",
             files_path("step.onnx"), files_path("net.npz"), files_path("r.html"));
    free(must_run(command));
    char *page = read_text("r.html");
    check_page(page, 100000);
    check_shown(page);
    ck_assert_int_eq(count(page, "<script>"), 1);
    ck_assert(strstr(page, "&lt;/script&gt;&lt;script&gt;alert(&#39;&amp;&quot;x&#39;)"));
    ck_assert(strstr(page, "\xEF\xBF\xBD[2J&lt;b&gt;\xE6\x97\xA5\xE6\x9C\xAC"));
    ck_assert(strstr(page, "Together against alone") && strstr(page, "Each task alone"));
    free(page);
}
END_TEST

/* A hundred thousand steps fit into a small page. */
START_TEST(test_long_page)
{
    char command[2048];
    write_network("a", "b");
    snprintf(command, sizeof command,
             "$BIN/mtbal-run %s --data %s --limit 100000 --batch 8 --set lr=0.0001 --threads 1 -q "
             "--report %s",
             files_path("step.onnx"), files_path("net.npz"), files_path("r.html"));
    free(must_run(command));
    char *page = read_text("r.html");
    check_page(page, 60000);
    ck_assert(strstr(page, "100000 steps, 2500 epochs") && strstr(page, "mean of 1024 steps"));
    free(page);
}
END_TEST

/* No norms: no pulls, no cosines, and it says so. A graph without states: refused. A folder that
 * is not there: nothing is left behind. */
START_TEST(test_odd_pages)
{
    char command[2048];
    int code;
    write_network("a", "b");
    snprintf(command, sizeof command,
             "$BIN/mtbal-run %s --data %s --norm-every 0 --report %s --set lr=0.001",
             files_path("step.onnx"), files_path("net.npz"), files_path("r.html"));
    free(must_run(command));
    char *page = read_text("r.html");
    check_tags(page);
    check_text(page);
    ck_assert(strstr(page, "No gradient norms were measured"));
    ck_assert(!strstr(page, "Who shares") && !strstr(page, "Who pulls"));
    free(page);
    char *said = files_run(&code,
                           "$BIN/mtbal-run models/digits2.onnx --data "
                           "models/digits2.test.npz --report %s",
                           files_path("no.html"));
    ck_assert_msg(code == 2 && strstr(said, "no states"), "exit code %d: %s", code, said);
    free(said);
    int files = files_count();
    said = files_run(&code, "$BIN/mtbal-run %s --data %s --set lr=0.001 --report %s/no/r.html",
                     files_path("step.onnx"), files_path("net.npz"), files_path(""));
    ck_assert_msg(code == 5 && files_count() == files, "exit code %d: %s", code, said);
    free(said);
}
END_TEST

/* ------------------------------------------------------------------ together against alone */

/* The number behind the first `key` after `from`. */
static double number(const char *from, const char *key)
{
    const char *p = from ? strstr(from, key) : NULL;
    ck_assert_msg(p != NULL, "no %s in: %.200s", key, from ? from : "nothing");
    return strtod(p + strlen(key), NULL);
}

static void near(double found, double wanted, double error, const char *what)
{
    ck_assert_msg(fabs(found - wanted) <= error * (1e-3 + fabs(wanted)), "%s is %.9g, not %.9g",
                  what, found, wanted);
}

typedef struct sums {
    int64_t steps;
    double norm2, share, leads, cosine, negative;
    double last[40]; /* squared norms, a ring */
} sums;

/* Adds what the log says of the trainings alone (0, 1) and of the joint one (2). */
static void add_line(sums all[3], const char *line)
{
    bool alone = strstr(line, "\"task\":") != NULL;
    if (alone) {
        sums *s = &all[strstr(line, "\"task\":\"b\"") != NULL];
        double norm =
            number(line, alone && s == all ? "\"grad_norm\":{\"a\":" : "\"grad_norm\":{\"b\":");
        s->norm2 += norm * norm;
        s->last[s->steps++ % 40] = norm * norm;
        return;
    }
    sums *s = &all[2];
    const char *norms = strstr(line, "\"grad_norm\""), *weights = strstr(line, "\"weight\"");
    double a = number(norms, "\"a\":") * number(weights, "\"a\":");
    double b = number(norms, "\"b\":") * number(weights, "\"b\":");
    const char *row = strstr(line, "\"cosine\":[["); /* [[1,c],[c,1]] */
    double cosine = number(row, ",");
    s->share += b / (a + b);
    s->leads += b > a;
    s->cosine += cosine;
    s->negative += cosine < 0;
    s->steps++;
}

/* G, shares, cosines and delta_m of the JSON summary, computed once more from the log. */
START_TEST(test_compare)
{
    char command[2048];
    sums all[3] = {{0}};
    write_network("a", "b");
    snprintf(command, sizeof command,
             "$BIN/mtbal-calibrate %s --data %s --max-epochs 12 --cosine --set lr=0.003 --compare "
             "--json --log %s --metric a=rmse:p0,y0",
             files_path("step.onnx"), files_path("net.npz"), files_path("l.jsonl"));
    char *said = must_run(command), *log = read_text("l.jsonl");
    ck_assert_int_eq(count(log, "\"event\":\"calibrated\""), 2);
    ck_assert_int_eq(count(log, "\"event\":\"compared\""), 1);
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n"))
        if (!strstr(line, "\"event\""))
            add_line(all, line);
    for (int i = 0; i < 2; i++) {
        const char *task = strstr(said, i ? "\"name\":\"b\"" : "\"name\":\"a\"");
        double end = 0;
        for (int k = 0; k < 40; k++)
            end += all[i].last[k] / 40;
        ck_assert_int_eq((int64_t)number(task, "\"steps\":"), 120);
        ck_assert_int_eq(all[i].steps, 120);
        near(number(task, "\"rms_end\":"), sqrt(end), 1e-7, "rms_end");
        near(number(task, "\"rms_run\":"), sqrt(all[i].norm2 / 120), 1e-7, "rms_run");
    }
    const char *compare = strstr(said, "\"compare\":"), *pairs = strstr(said, "\"pairs\":");
    const char *b = strstr(compare, "\"name\":\"b\"");
    double change[2];
    ck_assert_int_eq(all[2].steps, 120);
    near(number(strstr(b, "\"share\""), "\"run\":"), all[2].share / 120, 1e-6, "share");
    near(number(strstr(b, "\"leads\""), "\"run\":"), all[2].leads / 120, 1e-6, "leads");
    near(number(strstr(pairs, "\"cosine\""), "\"run\":"), all[2].cosine / 120, 1e-6, "cosine");
    near(number(strstr(pairs, "\"negative\""), "\"run\":"), all[2].negative / 120, 1e-6,
         "negative");
    for (int i = 0; i < 2; i++) {
        const char *task = i ? b : strstr(compare, "\"name\":\"a\"");
        double alone = number(task, "\"alone\":"), together = number(task, "\"together\":");
        change[i] = 100 * (together - alone) / alone;
        near(number(task, "\"change\":"), change[i], 1e-6, "change");
    }
    near(number(compare, "\"delta_m\":"), (change[0] + change[1]) / 2, 1e-6, "delta_m");
    free(said);
    free(log);
}
END_TEST

/* Scores: with a learning rate of 0 the network stays as it is, and its scores, alone and together,
 * are what mtbal-run says of it. The table says what is better. */
START_TEST(test_scores)
{
    char command[2048];
    write_network("a", "b");
    snprintf(command, sizeof command,
             "$BIN/mtbal-run %s --data %s --set lr=0 --norm-every 0 --json --metric rmse:p0,y0",
             files_path("step.onnx"), files_path("net.npz"));
    char *run = must_run(command);
    snprintf(command, sizeof command,
             "$BIN/mtbal-calibrate %s --data %s --max-epochs 5 --set lr=0 --compare --json "
             "--metric a=rmse:p0,y0",
             files_path("step.onnx"), files_path("net.npz"));
    char *said = must_run(command);
    const char *compare = strstr(said, "\"compare\":");
    const char *b = strstr(compare, "\"name\":\"b\"");
    double rmse = number(run, "\"value\":"), loss = number(strstr(run, "\"b\":"), "\"loss\":");
    near(number(compare, "\"alone\":"), rmse, 1e-6, "rmse of a, alone");
    near(number(compare, "\"together\":"), rmse, 1e-6, "rmse of a, together");
    near(number(b, "\"alone\":"), loss, 1e-6, "loss of b, alone");
    near(number(b, "\"together\":"), loss, 1e-6, "loss of b, together");
    ck_assert(number(compare, "\"delta_m\":") == 0);
    free(run);
    free(said);
}
END_TEST

START_TEST(test_compare_refused)
{
    static const struct {
        const char *flags, *says;
    } cases[] = {{"--compare --measure heads", "no task alone"},
                 {"--metric c=rmse:p0,y0", "no task 'c'"},
                 {"--metric a=rmse:p0", "no metric"},
                 {"--compare --metric a=rmse:p9,y0", "no output 'p9'"}};
    int code;
    write_network("a", "b");
    char *said =
        files_run(&code, "$BIN/mtbal-calibrate %s --data %s --max-epochs 4 --set lr=0.001 %s",
                  files_path("step.onnx"), files_path("net.npz"), cases[_i].flags);
    ck_assert_msg(code == 2 && strstr(said, cases[_i].says), "exit code %d: %s", code, said);
    free(said);
}
END_TEST

/* ------------------------------------------------------------------ progress */

enum { COLUMNS = 50 };

/* Runs a command on a terminal of COLUMNS columns and 12 rows; what it sent, malloc'ed. */
static char *on_terminal(const char *term, const char *command)
{
    struct winsize size = {.ws_row = 12, .ws_col = COLUMNS};
    size_t used = 0, capacity = 1 << 20;
    char *text = malloc(capacity);
    int master, status;
    pid_t child = forkpty(&master, NULL, NULL, &size);
    ck_assert(text && child >= 0);
    if (child == 0) {
        setenv("TERM", term, 1);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    for (ssize_t n; (n = read(master, text + used, capacity - used - 1)) > 0; used += (size_t)n)
        ck_assert_int_lt(used, capacity - 2);
    text[used] = 0;
    close(master);
    ck_assert(waitpid(child, &status, 0) == child);
    ck_assert_msg(status == 0, "status %d: %s", status, text);
    return text;
}

/* The lines that are drawn in place end with "erase to the end of the line". */
static void check_widths(const char *text)
{
    int lines = 0;
    for (const char *end; (end = strstr(text, "\033[K")); text = end + 3, lines++) {
        const char *start = end;
        int letters = 0;
        while (start > text && start[-1] != '\n' && start[-1] != '\r' && start[-1] != 'A')
            start--;
        for (const char *p = start; p < end; p++) {
            letters += (*p & 0xC0) != 0x80;
            ck_assert_msg((unsigned char)*p >= 0x20, "control character in %.*s",
                          (int)(end - start), start);
        }
        ck_assert_msg(letters < COLUMNS, "%d columns: %.*s", letters, (int)(end - start), start);
    }
    ck_assert_int_gt(lines, 2);
}

/* As many lines up as were drawn, at the end too: nothing is left of them. */
static void check_in_place(const char *text)
{
    int drawn = 0;
    for (const char *p = text; (p = strstr(p, "\033[")); p += 2) {
        char *end;
        long n = strtol(p + 2, &end, 10);
        if (*end == 'K')
            drawn++;
        else if (*end == 'A') {
            ck_assert_int_eq(n, drawn);
            drawn = 0;
        }
    }
    ck_assert_int_eq(drawn, 0);
    ck_assert(strstr(text, "\033[J") != NULL);
}

static const char *const commands[] = {
    "$BIN/mtbal-run %s --data %s --epochs 400 --set lr=0.0005 --batch 8",
    "$BIN/mtbal-calibrate %s --data %s --max-epochs 200 --cosine --set lr=0.0005 --batch 8"};

static char *run_on_terminal(const char *term, const char *form)
{
    char command[2048];
    if (!getenv("BIN"))
        setenv("BIN", "bin", 1);
    write_network("\x1b]0;title\a, a", "b\xC3\xA4\xC3\xB6\xC3\xBC, a name that is far too long");
    snprintf(command, sizeof command, form, files_path("step.onnx"), files_path("net.npz"));
    return on_terminal(term, command);
}

START_TEST(test_terminal)
{
    char *text = run_on_terminal("xterm", commands[_i]);
    const char *first = strstr(text, "\033[K");
    ck_assert_msg(first && strstr(text, "left") && strstr(text, "loss") && strstr(text, "norm"),
                  "%s", text);
    char *table = strstr(text, "  task "); /* names stand there as they are */
    ck_assert(table != NULL);
    *table = 0;
    check_widths(text);
    check_in_place(text);
    free(text);
}
END_TEST

START_TEST(test_plain)
{
    static const char *const terms[] = {"dumb", ""};
    char *text = run_on_terminal(terms[_i / 2], commands[_i % 2]);
    char *table = strstr(text, "  task ");
    ck_assert(table != NULL);
    *table = 0;
    ck_assert_msg(!strstr(text, "\033[K") && !strstr(text, "left"), "%s", text);
    ck_assert_msg(strstr(text, "epoch"), "%s", text);
    free(text);
}
END_TEST

START_TEST(test_quiet)
{
    char command[1024];
    snprintf(command, sizeof command, "%s -q", commands[_i]);
    char *text = run_on_terminal("xterm", command);
    ck_assert_msg(!*text, "not quiet: %s", text);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("report");
    TCase *tests = tcase_create("what is shown");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, test_run_page);
    tcase_add_test(tests, test_names);
    tcase_add_test(tests, test_long_page);
    tcase_add_test(tests, test_odd_pages);
    tcase_add_test(tests, test_compare);
    tcase_add_test(tests, test_scores);
    tcase_add_loop_test(tests, test_compare_refused, 0, 4);
    tcase_add_loop_test(tests, test_terminal, 0, 2);
    tcase_add_loop_test(tests, test_plain, 0, 4);
    tcase_add_loop_test(tests, test_quiet, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
