/* tests/test_resume.c: what is interrupted goes on to the same bits: killed at random moments, told
 * to stop, or unable to write; and a checkpoint of something else is refused. */
#include "tests/faults.h"
#include "tests/steps.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double hurry; /* seconds that the clock is ahead */

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int result = (int)syscall(SYS_clock_gettime, clock, t);
    t->tv_sec += (time_t)hurry;
    return result;
}

/* ------------------------------------------------------------------ programs under test */

/* A command line; paths are those of the test's folder. */
typedef struct line {
    const char *words[48];
    int count;
} line;

static char text_of[8192]; /* of all words that were made */
static size_t text_used;

static const char *keep(const char *word)
{
    size_t size = strlen(word) + 1;
    if (text_used + size > sizeof text_of)
        text_used = 0;
    char *copy = memcpy(text_of + text_used, word, size);
    text_used += size;
    return copy;
}

/* Words are cut at blanks; @NAME stands for a file of the folder. */
static void say(line *l, const char *words)
{
    char copy[1024], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok_r(copy, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        l->words[l->count++] = keep(*w == '@' ? files_path(w + 1) : w);
    l->words[l->count] = NULL;
}

static pid_t start(const line *l)
{
    const char *bin = getenv("BIN");
    char program[1024], out[1024], err[1024];
    snprintf(program, sizeof program, "%s/%s", bin ? bin : "bin", l->words[0]);
    snprintf(out, sizeof out, "%s", files_path("stdout"));
    snprintf(err, sizeof err, "%s", files_path("stderr"));
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child > 0)
        return child;
    if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr))
        _exit(126);
    execv(program, (char *const *)(uintptr_t)l->words);
    _exit(127);
}

/* The exit code, or minus the signal. */
static int finish(pid_t child)
{
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static char *read_text(const char *name)
{
    size_t size;
    char *text = (char *)files_read(files_path(name), &size);
    text[size] = '\0';
    return text;
}

static void expect(const line *l, int code, const char *says)
{
    int found = finish(start(l));
    char *said = read_text("stderr");
    ck_assert_msg(found == code && strstr(said, says), "%s ... %s: exit code %d, not %d: %s",
                  l->words[0], l->words[l->count - 1], found, code, said);
    free(said);
}

static void copy_file(const char *from, const char *to)
{
    size_t size;
    unsigned char *bytes = files_read(files_path(from), &size);
    files_write(files_path(to), bytes, size);
    free(bytes);
}

static bool exists(const char *name)
{
    return access(files_path(name), F_OK) == 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_for(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

/* ------------------------------------------------------------------ what is trained */

/* A network with a random operator in it, Adam, data with a smaller last batch. */
static void make_files(void)
{
    static const char identity[] = "  h0 = Identity(x)\n";
    char *plain = steps_network(3, 5), *at = strstr(plain, identity), text[16384];
    mtbal_options o;
    ck_assert(at != NULL);
    snprintf(text, sizeof text,
             "%.*s  e0 = RandomNormalLike<scale = 0.1>(x)\n  h0 = Add(x, e0)\n%s",
             (int)(at - plain), plain, at + sizeof identity - 1);
    free(plain);
    mtbal_options_default(&o);
    o.optimizer = "adam";
    steps_write(steps_parse(text), &o, files_path("step.onnx"));
    o.optimizer = "momentum";
    steps_write(steps_parse(text), &o, files_path("other.onnx"));
    steps_network_data(files_path("net.npz"), 200, 1, 10, false);
    steps_network_data(files_path("valid.npz"), 72, 1, 10, false);
}

static const struct subject {
    const char *command, *rest; /* the rest of the line, without the checkpoint's options */
} subjects[] = {
    {"mtbal-run", "@step.onnx --data @net.npz --batch 16 --epochs 24 --shuffle --seed 5 --cosine "
                  "--warmup 7 --norm-every 3 --set lr=0.01 --save @out.onnx --log @log.jsonl "
                  "--report @report.html "
                  "--json --checkpoint-every 7"},
    {"mtbal-calibrate", "@step.onnx --data @net.npz --valid @valid.npz --batch 16 --max-epochs 40 "
                        "--patience 6 --window 130 "
                        "--measure recal --set lr=0.03 -o @out.onnx --log @log.jsonl "
                        "--report @report.html --compare --json --checkpoint-every 7"},
    {"mtbal-calibrate",
     "@step.onnx --data @net.npz --batch 16 --max-epochs 30 --patience 30 --measure heads "
     "--set lr=0.01 -o @out.onnx --log @log.jsonl --report @report.html --json "
     "--checkpoint-every 7"},
};

static line line_of(const struct subject *s, const char *more)
{
    line l = {.count = 0};
    say(&l, s->command);
    say(&l, s->rest);
    say(&l, more);
    return l;
}

/* Without what a clock says. */
static char *without_seconds(const char *name)
{
    static const struct {
        const char *before, *end;
    } clocks[] = {{"seconds\":", ",}"}, {">time</th><td class=\"w\">", "<"}};
    char *text = read_text(name), *to = text;
    for (const char *p = text; *p;) {
        *to++ = *p++;
        for (int i = 0; i < 2; i++) {
            size_t n = strlen(clocks[i].before);
            if ((size_t)(to - text) >= n && !memcmp(to - n, clocks[i].before, n))
                p += strcspn(p, clocks[i].end);
        }
    }
    *to = '\0';
    return text;
}

static bool same_text(const char *a, const char *b)
{
    char *x = without_seconds(a), *y = without_seconds(b);
    bool same = !strcmp(x, y);
    free(x);
    free(y);
    return same;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The lines of a text, which it cuts; to be freed. Sorted: several jobs write in turn. */
static char **lines_of(char *text, bool sorted, size_t *count)
{
    char **lines = malloc((strlen(text) + 1) * sizeof *lines), *rest = NULL;
    *count = 0;
    for (char *l = strtok_r(text, "\n", &rest); l; l = strtok_r(NULL, "\n", &rest))
        lines[(*count)++] = l;
    if (sorted)
        qsort(lines, *count, sizeof *lines, by_text);
    return lines;
}

static bool same_lines(const char *a, const char *b, bool sorted)
{
    size_t n, m;
    char *x = without_seconds(a), *y = without_seconds(b);
    char **lines = lines_of(x, sorted, &n), **others = lines_of(y, sorted, &m);
    bool same = n == m && n > 100;
    for (size_t i = 0; same && i < n; i++)
        same = !strcmp(lines[i], others[i]);
    free(lines);
    free(others);
    free(x);
    free(y);
    return same;
}

/* Runs a subject without interruption; returns how long that took. */
static double make_reference(const struct subject *s)
{
    line l = line_of(s, "");
    make_files();
    double began = now();
    expect(&l, 0, "");
    double took = now() - began;
    ck_assert_msg(!exists("out.onnx.checkpoint"), "the checkpoint is left");
    copy_file("out.onnx", "wanted.onnx");
    copy_file("stdout", "wanted.stdout");
    copy_file("log.jsonl", "wanted.jsonl");
    copy_file("report.html", "wanted.html");
    return took;
}

static void forget(void)
{
    static const char *const names[] = {"out.onnx", "log.jsonl", "report.html",
                                        "out.onnx.checkpoint"};
    for (int i = 0; i < 4; i++)
        unlink(files_path(names[i]));
}

static void check_result(const char *when)
{
    ck_assert_msg(files_equal(files_path("out.onnx"), files_path("wanted.onnx")),
                  "%s: other bits than without an interruption", when);
    ck_assert_msg(same_text("stdout", "wanted.stdout"), "%s: prints something else", when);
    ck_assert_msg(same_lines("log.jsonl", "wanted.jsonl", strstr(when, "calibrate") != NULL),
                  "%s: the log has other lines", when);
    ck_assert_msg(same_text("report.html", "wanted.html"), "%s: the page shows something else",
                  when);
    ck_assert_msg(!exists("out.onnx.checkpoint"), "%s: the checkpoint is left", when);
}

/* What has a name is whole. */
static void check_whole(const char *when)
{
    mtbal_npz *npz = NULL;
    mtbal_diag diag = {0};
    ck_assert_msg(!exists("out.onnx") ||
                      files_equal(files_path("out.onnx"), files_path("wanted.onnx")),
                  "%s: half an output", when);
    if (exists("out.onnx.checkpoint"))
        steps_ok(mtbal_npz_read(files_path("out.onnx.checkpoint"), &npz, &diag));
    mtbal_npz_free(npz);
}

/* ------------------------------------------------------------------ killed */

enum { KILLS = 20 };

static unsigned seed_of_moments(void)
{
    const char *given = getenv("SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL) % 100000;
    return seed;
}

/* Other threads and jobs each time: they do not matter. */
static const char *const helpers[][3] = {
    {"--resume --threads 1", "--resume --threads 3", "--resume"},
    {"--resume --jobs 2", "--resume --jobs 1 --threads 2", "--resume --jobs 3 --threads 1"}};

START_TEST(test_killed)
{
    const struct subject *s = &subjects[_i];
    double took = make_reference(s);
    unsigned seed = seed_of_moments();
    uint64_t state = seed;
    int kills = 0, resumed = 0, runs = 0, completed = 0;
    char when[64];
    forget();
    while (kills < KILLS || completed < runs) {
        steps_normal(&state);
        double moment = 0.6 * took * (double)(state >> 40) * 0x1p-24;
        line l = line_of(s, helpers[_i > 0][(kills + runs) % 3]);
        pid_t child = start(&l);
        runs += completed == runs;
        snprintf(when, sizeof when, "%s, SEED=%u, kill %d", s->command, seed, kills);
        if (kills < KILLS) {
            wait_for(moment);
            kill(child, SIGKILL);
        }
        int code = finish(child);
        ck_assert_msg(code == 0 || code == -SIGKILL, "%s: exit code %d", when, code);
        char *said = read_text("stderr");
        resumed += strstr(said, "goes on from") != NULL;
        free(said);
        check_whole(when);
        kills += code != 0;
        if (code == 0) {
            check_result(when);
            forget();
            completed = runs;
        }
    }
    printf("%s: %d runs of %.2f s killed %d times (SEED=%u), gone on from a checkpoint %d times\n",
           s->command, runs, took, kills, seed, resumed);
    ck_assert_msg(resumed >= KILLS / 4, "only %d of %d went on from a checkpoint", resumed, kills);
}
END_TEST

/* ------------------------------------------------------------------ told to stop */

/* Ends a run of the line by a signal before it is done; with exit code 6 and a checkpoint. */
static void interrupt(const line *l, int signal, double took)
{
    for (int tries = 0; tries < 50; tries++) {
        forget();
        pid_t child = start(l);
        for (double end = now() + 20;
             now() < end && !exists("out.onnx.checkpoint") && !exists("out.onnx");)
            wait_for(0.002);
        wait_for(took * (tries % 5) / 10);
        kill(child, signal);
        int code = finish(child);
        if (code == 0) /* it was faster */
            continue;
        char *said = read_text("stderr");
        ck_assert_msg(code == 6 && strstr(said, "--resume"), "exit code %d: %s", code, said);
        free(said);
        ck_assert(exists("out.onnx.checkpoint") && !exists("out.onnx"));
        return;
    }
    ck_abort_msg("it could not be interrupted in 50 runs");
}

START_TEST(test_told_to_stop)
{
    static const int signals[] = {SIGINT, SIGTERM};
    const struct subject *s = &subjects[_i / 2];
    double took = make_reference(s);
    line l = line_of(s, _i % 2 && _i > 1 ? "--jobs 2" : ""), on = line_of(s, "--resume");
    interrupt(&l, signals[_i % 2], took);
    expect(&on, 0, "goes on from");
    check_result(s->command);
}
END_TEST

/* Where the output takes the place of the model, the checkpoint may be there still when it is done.
 */
START_TEST(test_in_place)
{
    static const struct subject in_place[] = {
        {"mtbal-run", "@model.onnx --data @net.npz --epochs 40 --set lr=0.01 --save @model.onnx "
                      "--checkpoint @out.onnx.checkpoint --checkpoint-every 7 --json"},
        {"mtbal-calibrate", "@model.onnx --data @net.npz --max-epochs 14 --set lr=0.01 "
                            "--checkpoint @out.onnx.checkpoint --checkpoint-every 7 --json"},
    };
    line l = line_of(&in_place[_i], ""), on = line_of(&in_place[_i], "--resume");
    make_files();
    copy_file("step.onnx", "model.onnx");
    double began = now();
    expect(&l, 0, "");
    double took = now() - began;
    copy_file("model.onnx", "wanted.onnx");
    copy_file("step.onnx", "model.onnx");
    for (bool stopped = false; !stopped;) {
        copy_file("step.onnx", "model.onnx");
        pid_t child = start(&l);
        wait_for(took / 2);
        kill(child, SIGTERM);
        stopped = finish(child) == 6;
    }
    ck_assert(files_equal(files_path("model.onnx"), files_path("step.onnx")));
    copy_file("out.onnx.checkpoint", "kept");
    for (int again = 0; again < 2; again++) {
        expect(&on, 0, "goes on from");
        ck_assert_msg(files_equal(files_path("model.onnx"), files_path("wanted.onnx")),
                      "%s: other bits, time %d", l.words[0], again);
        copy_file("kept", "out.onnx.checkpoint");
    }
}
END_TEST

/* ------------------------------------------------------------------ refused */

typedef struct refusal {
    int subject;
    const char *more; /* of the command line: the last of an option counts */
    int code;
    const char *says;
} refusal;

static const refusal refusals[] = {
    {0, "--batch 8", 2, "another --batch"},
    {0, "--epochs 25", 2, "another --epochs"},
    {0, "--limit 300", 2, "another --limit"},
    {0, "--seed 6", 2, "another --seed"},
    {0, "--warmup 8", 2, "another --warmup"},
    {0, "--norm-every 1", 2, "another --norm-every"},
    {0, "--set lr=0.02", 2, "another --set"},
    {0, "--data @valid.npz", 4, "another --data"},
    {0, "--metric rmse:a,y0", 2, "another --metric"},
    {0, "--outputs @y.npz", 2, "--outputs"},
    {0, "--checkpoint @log.jsonl", 4, "no checkpoint"},
    {1, "--measure floor", 2, "another --measure"},
    {1, "--window 131", 2, "another --window"},
    {1, "--kappa 0.1", 2, "another --kappa"},
    {1, "--max-epochs 41", 2, "another --max-epochs"},
    {1, "--patience 7", 2, "another --patience"},
    {1, "--cosine", 2, "another --cosine"},
    {1, "--metric a=rmse:a,y0", 2, "another --metric"},
    {1, "--valid @net.npz", 4, "another --valid"},
};

/* `name` in place of the first operand. */
static line with_model(line l, const char *name)
{
    l.words[1] = keep(files_path(name));
    return l;
}

static void refuse_damaged(const line *on)
{
    size_t size;
    unsigned char *bytes = files_read(files_path("out.onnx.checkpoint"), &size);
    const size_t cuts[] = {0, 1, size / 3, size - 1};
    for (int i = 0; i < 4; i++) {
        files_write(files_path("out.onnx.checkpoint"), bytes, cuts[i]);
        expect(on, 4, "no checkpoint that can be gone on from");
    }
    for (size_t at = size / 11; at < size; at += size / 11) {
        bytes[at] ^= 0x10;
        files_write(files_path("out.onnx.checkpoint"), bytes, size);
        int code = finish(start(on)); /* a bit of padding may do no harm */
        ck_assert_msg(code == 4 || (code == 0 &&
                                    files_equal(files_path("out.onnx"), files_path("wanted.onnx"))),
                      "byte %zu changed: exit code %d", at, code);
        bytes[at] ^= 0x10;
    }
    files_write(files_path("out.onnx.checkpoint"), bytes, size);
    free(bytes);
}

START_TEST(test_refused)
{
    const struct subject *s = &subjects[_i];
    double took = make_reference(s);
    line l = line_of(s, ""), on = line_of(s, "--resume");
    line wrong = line_of(&subjects[!_i], "--resume"), other = with_model(on, "other.onnx");
    interrupt(&l, SIGINT, took);
    copy_file("out.onnx.checkpoint", "kept");
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        line changed = on;
        say(&changed, refusals[i].more);
        if (refusals[i].subject == _i)
            expect(&changed, refusals[i].code, refusals[i].says);
    }
    expect(&other, 4, "another step graph");
    expect(&wrong, 2, "another command");
    ck_assert(files_equal(files_path("kept"), files_path("out.onnx.checkpoint")));
    refuse_damaged(&on);
    expect(&on, 0, "goes on from");
    check_result(s->command);
}
END_TEST

/* Without --resume a checkpoint is replaced, but nothing else is. */
START_TEST(test_not_resumed)
{
    const struct subject *s = &subjects[_i];
    double took = make_reference(s);
    line l = line_of(s, ""), other = line_of(s, "--seed 8"), model = l, data = l, output = l;
    interrupt(&l, SIGINT, took);
    expect(&l, 0, "--resume would go on from it");
    check_result(s->command);
    interrupt(&other, SIGINT, took);
    expect(&l, 0, "--resume would go on from it");
    check_result(s->command);
    copy_file("step.onnx", "kept.onnx");
    copy_file("net.npz", "kept.npz");
    say(&model, "--checkpoint @step.onnx");
    say(&data, "--checkpoint @net.npz");
    say(&output, "--checkpoint @out.onnx");
    expect(&model, 4, "this is no checkpoint");
    expect(&data, 4, "this is no checkpoint");
    expect(&output, 2, "out.onnx is the output");
    ck_assert(files_equal(files_path("kept.onnx"), files_path("step.onnx")));
    ck_assert(files_equal(files_path("kept.npz"), files_path("net.npz")));
}
END_TEST

START_TEST(test_nothing_to_resume)
{
    line l = {.count = 0}, fresh = line_of(&subjects[0], "--resume");
    make_reference(&subjects[0]);
    forget();
    say(&l, "mtbal-run @step.onnx --data @net.npz --resume");
    expect(&l, 2, "there is no checkpoint");
    expect(&fresh, 0, "begins at the start");
    check_result("without a checkpoint");
}
END_TEST

/* ------------------------------------------------------------------ unable to write */

/* A calibration in this process, with checkpoints. */
static mtbal_status calibrate(bool resume, double *g, mtbal_diag *diag)
{
    mtbal_snapshot_options so = {.output = files_path("out.onnx"), .every = 3, .resume = resume};
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_snapshot *snapshot;
    mtbal_calibration *results;
    mtbal_calibrate_options o;
    int count;
    mtbal_calibrate_default(&o);
    o.model = files_path("step.onnx"), o.data = files_path("net.npz");
    o.max_epochs = 1, o.window = 2, o.batch = 64, o.threads = 1;
    mtbal_status status = mtbal_snapshot_open(&so, &snapshot, diag);
    o.snapshot = snapshot;
    if (status == MTBAL_OK)
        status = mtbal_calibrate(&o, arena, &results, &count, NULL, NULL, diag);
    for (int i = 0; status == MTBAL_OK && i < count; i++)
        g[i] = results[i].g;
    mtbal_snapshot_close(snapshot, status == MTBAL_OK);
    mtbal_arena_free(arena);
    return status;
}

/* Each write, sync and rename of the checkpoints fails in turn: an error then, and what was written
 * before is good to go on from. */
START_TEST(test_failed_calls)
{
    double wanted[2] = {0}, g[2];
    mtbal_diag diag = {0};
    int n = 1, failures = 0;
    make_files();
    int before = files_count();
    steps_ok(calibrate(false, wanted, &diag));
    ck_assert_int_eq(files_count(), before);
    for (bool reached = true; reached; n += 1 + n / 12) {
        diag = (mtbal_diag){0};
        forget();
        faults_begin(n);
        mtbal_status status = calibrate(false, g, &diag);
        reached = faults_end();
        ck_assert_msg(status == MTBAL_OK || (status == MTBAL_IO && diag.what[0]),
                      "call %d: status %d, %s", n, status, diag.what);
        failures += status != MTBAL_OK;
        ck_assert_msg(files_count() == before + exists("out.onnx.checkpoint"),
                      "call %d: a file is left", n);
        diag = (mtbal_diag){0};
        steps_ok(calibrate(true, g, &diag));
        ck_assert_msg(!memcmp(g, wanted, sizeof g), "call %d: other results afterwards", n);
    }
    printf("checkpoints: %d of %d calls failed in turn\n", failures, n);
    ck_assert_int_gt(failures, 30);
}
END_TEST

/* Every so many steps, every half minute, and when told to stop. */
START_TEST(test_due)
{
    volatile sig_atomic_t stop = 0;
    mtbal_diag diag = {0};
    double last = 0;
    for (int by_steps = 0; by_steps < 2; by_steps++) {
        mtbal_snapshot *s;
        mtbal_snapshot_options o = {
            .path = files_path("due"), .every = by_steps ? 5 : 0, .stop = &stop};
        steps_ok(mtbal_snapshot_open(&o, &s, &diag));
        for (int64_t step = 1; step < 20; step++)
            ck_assert_int_eq(mtbal_snapshot_due(s, step, &last), by_steps && step % 5 == 0);
        hurry += 29;
        ck_assert(!mtbal_snapshot_due(s, 21, &last));
        hurry += 2;
        ck_assert_int_eq(mtbal_snapshot_due(s, 22, &last), !by_steps);
        ck_assert(!mtbal_snapshot_due(s, 23, &last));
        stop = 1;
        ck_assert(mtbal_snapshot_due(s, 24, &last));
        stop = 0;
        mtbal_snapshot_close(s, false);
    }
    ck_assert(!mtbal_snapshot_due(NULL, 1, &last));
}
END_TEST

static mtbal_status write_and_read(void *context)
{
    mtbal_diag diag = {0};
    uint64_t number = 7, found = 0, print;
    const mtbal_piece piece = {"number", &number, sizeof number},
                      back = {"number", &found, sizeof found};
    const mtbal_tie tie = {"something", 3, MTBAL_USAGE};
    (void)context;
    for (int i = 0; i < 2; i++) {
        mtbal_snapshot_options o = {.path = files_path("small"), .resume = i};
        mtbal_snapshot *s;
        mtbal_status status = mtbal_snapshot_open(&o, &s, &diag);
        if (status == MTBAL_OK)
            status = mtbal_snapshot_tie(s, 1, &tie, &diag);
        if (status == MTBAL_OK)
            status = mtbal_fingerprint_model(files_path("step.onnx"), "", &print, &diag);
        if (status == MTBAL_OK)
            status = i ? mtbal_snapshot_load(s, 4, 1, &back, &diag)
                       : mtbal_snapshot_save(s, 4, NULL, 1, &piece, &diag);
        mtbal_snapshot_close(s, i);
        MTBAL_TRY(status);
    }
    ck_assert_uint_eq(found, number);
    return MTBAL_OK;
}

START_TEST(test_failed_allocations)
{
    make_files();
    ck_assert_int_gt(fail_each_allocation(write_and_read, NULL), 30);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("resume");
    TCase *tests = tcase_create("resume");
    tcase_add_checked_fixture(tests, files_begin, files_end);
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, test_killed, 0, 3);
    tcase_add_loop_test(tests, test_told_to_stop, 0, 4);
    tcase_add_loop_test(tests, test_in_place, 0, 2);
    tcase_add_loop_test(tests, test_refused, 0, 2);
    tcase_add_loop_test(tests, test_not_resumed, 0, 2);
    tcase_add_test(tests, test_nothing_to_resume);
    tcase_add_test(tests, test_due);
    tcase_add_test(tests, test_failed_calls);
    tcase_add_test(tests, test_failed_allocations);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
