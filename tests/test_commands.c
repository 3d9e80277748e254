/* tests/test_commands.c: bad input through the commands themselves, each under a limit of a second
 * and 256 MB of address space: the exit code, one message that says why, and the file that stood at
 * the output's place as it was, with nothing beside it. */
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define MODEL "tests/data/models/mlp_cls_reg/model.op17.onnx"
#define EXT   "tests/data/models/fixtures/external.onnx"
#define TRAIN "models/digits2.train.npz"
#define STEP  "$B/mtbal-rewrite models/digits2.onnx $D/step.onnx -q && "

#if defined(__SANITIZE_ADDRESS__)
#define LIMIT ""
#else
#define LIMIT "ulimit -v 262144 && "
#endif

/* B: where the commands are; D: a folder; O: the output, which holds the word "old". before: makes
 * the bad file. */
static const struct bad_input {
    const char *what, *before, *command;
    int code;
    const char *says;
} rows[] = {
    {"no file", "", "$B/mtbal-rewrite $D/none.onnx $O", 5, "none.onnx"},
    {"empty file", ": > $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O", 4, "empty"},
    {"no model", "cp Makefile $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O", 4, "m.onnx"},
    {"truncated", "head -c 9000 " MODEL " > $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O", 4,
     "truncated"},
    {"truncated step graph", STEP "head -c 30000 $D/step.onnx > $D/m.onnx",
     "$B/mtbal-run $D/m.onnx --data " TRAIN " --save $O", 4, "truncated"},
    {"bytes turned", "tr '\\022' '\\052' < " MODEL " > $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O",
     4, "m.onnx"},
    {"a folder", "mkdir $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O", 5, "m.onnx"},
    {"no task", "cp tests/data/models/mlp_cls_reg/heads.onnx $D/m.onnx",
     "$B/mtbal-rewrite $D/m.onnx $O", 4, "--loss"},
    {"no such task", "", "$B/mtbal-rewrite " MODEL " $O --task a=nothing", 2, "nothing"},
    {"no such parameter", "", "$B/mtbal-rewrite " MODEL " $O --train 'nothing*'", 2, "nothing"},
    {"no such option", "", "$B/mtbal-rewrite " MODEL " $O --nonsense", 2, "--nonsense"},
    {"no such method", "", "$B/mtbal-rewrite " MODEL " $O --balance magic", 2, "magic"},
    {"no such optimizer", "", "$B/mtbal-rewrite " MODEL " $O --optimizer magic", 2, "magic"},
    {"a loss of no head", "", "$B/mtbal-rewrite " MODEL " $O --loss a=mse:nothing,target", 2,
     "nothing"},
    {"external data missing", "cp " EXT " $D/m.onnx", "$B/mtbal-rewrite $D/m.onnx $O", 5,
     "external.onnx.data"},
    {"external data outside",
     "sed 's/external.onnx.data/..\\/..\\/etc\\/passwd/' " EXT " > $D/m.onnx",
     "$B/mtbal-rewrite $D/m.onnx $O", 4, ""},
    {"external data by a link", "cp " EXT " $D/m.onnx && ln -s /etc/passwd $D/external.onnx.data",
     "$B/mtbal-rewrite $D/m.onnx $O", 4, "link"},
    {"external data too short",
     "cp " EXT " $D/m.onnx && head -c 100 " EXT ".data > $D/external.onnx.data",
     "$B/mtbal-rewrite $D/m.onnx $O", 4, "external.onnx.data"},
    {"no data", STEP ":", "$B/mtbal-run $D/step.onnx --data $D/none.npz --save $O", 5, "none.npz"},
    {"data is no npz", STEP "cp Makefile $D/d.npz",
     "$B/mtbal-run $D/step.onnx --data $D/d.npz --save $O", 4, "d.npz"},
    {"data truncated", STEP "head -c 40000 " TRAIN " > $D/d.npz",
     "$B/mtbal-run $D/step.onnx --data $D/d.npz --save $O", 4, "d.npz"},
    {"other data", STEP ":", "$B/mtbal-run $D/step.onnx --data models/toyscale.train.npz --save $O",
     4, "x"},
    {"data of other types and shapes", STEP ":",
     "$B/mtbal-run $D/step.onnx --data models/digits.npz --save $O", 4, ""},
    {"calibration without data", STEP ":", "$B/mtbal-calibrate $D/step.onnx -o $O", 2, "--data"},
    {"calibration of a plain model", "",
     "$B/mtbal-calibrate models/digits2.onnx --data " TRAIN " -o $O", 4, "mtbal-rewrite"},
    {"calibration with other data", STEP ":",
     "$B/mtbal-calibrate $D/step.onnx --data models/toyscale.train.npz -o $O", 4, "x"},
    {"a learning rate that diverges", STEP ":",
     "$B/mtbal-run $D/step.onnx --data " TRAIN " --set lr=1e6 --save $O", 1,
     "lower the learning rate"},
    {"the network of a text", "cp README.md $D/m.onnx", "$B/mtbal-rewrite --inference $D/m.onnx $O",
     4, "m.onnx"},
    {"C in no folder", "", "$B/mtbal-rewrite " MODEL " $O --emit-c $D/none/c", 5, "none"},
    {"C in a file", ": > $D/c", "$B/mtbal-rewrite " MODEL " $O --emit-c $D/c", 5, "a file"},
    {"an output in no folder", "", "$B/mtbal-rewrite " MODEL " $D/none/o.onnx", 5, "none"},
};

/* A command in a shell; what it printed on standard error, in a static buffer. */
static int shell(const char *before, const char *command, char *said, size_t size)
{
    static char line[4096];
    const char *d = files_path("");
    snprintf(line, sizeof line,
             "B=${BIN:-bin}; D=%s; mkdir -p $D/out; O=$D/out/o.onnx; printf old > $O; %s || exit "
             "99; { %s exec "
             "timeout 5 %s; } 2>&1 >/dev/null",
             d, *before ? before : ":", LIMIT, command);
    FILE *pipe = popen(line, "r");
    ck_assert(pipe != NULL);
    size_t n = fread(said, 1, size - 1, pipe);
    said[n] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(test_refused)
{
    const struct bad_input *r = &rows[_i];
    char said[8192];
    size_t size;
    files_begin();
    int code = shell(r->before, r->command, said, sizeof said);
    ck_assert_msg(code == r->code, "%s: exit code %d, not %d: %s", r->what, code, r->code, said);
    ck_assert_msg(*said && strstr(said, r->says), "%s: it does not say '%s' but: %s", r->what,
                  r->says, said);
    unsigned char *old = files_read(files_path("out/o.onnx"), &size);
    ck_assert_msg(size == 3 && !memcmp(old, "old", 3), "%s: the output was touched", r->what);
    free(old);
    char command[1200];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = o.onnx", files_path("out"));
    ck_assert_msg(system(command) == 0, "%s: something is left beside the output", r->what);
    files_end();
}
END_TEST

/* Cut at sixty places; tests/test_hostile.c cuts at every byte. */
START_TEST(test_cut_everywhere)
{
    char said[8192];
    size_t size;
    files_begin();
    unsigned char *whole = files_read("tests/data/models/fixtures/tied.onnx", &size);
    for (size_t n = 0; n < size; n += 1 + size / 60) {
        files_write(files_path("m.onnx"), whole, n);
        int code = shell("", "$B/mtbal-rewrite $D/m.onnx $O", said, sizeof said);
        ck_assert_msg(code >= 2 && code <= 4 && *said, "%zu bytes of %zu: exit code %d: %s", n,
                      size, code, said);
    }
    free(whole);
    files_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("commands");
    TCase *tests = tcase_create("bad input");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_refused, 0, (int)(sizeof rows / sizeof *rows));
    tcase_add_test(tests, test_cut_everywhere);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
