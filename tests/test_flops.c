/* tests/test_flops.c: one backward. With weights that are known before the step, balanced training
 * multiplies what plain training does, and norms over the features cost nothing per task in the
 * trunk. */
#include "tests/flops.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double step(int tasks, int kind)
{
    mtbal_diag diag = {0};
    double flops = flops_of_step(tasks, kind < 0 ? NULL : &flops_kinds[kind], &diag);
    ck_assert_msg(flops > 0, "%s: %s", diag.where, diag.what);
    return flops;
}

START_TEST(test_calibrated_is_plain)
{
    ck_assert_double_eq(step(_i, FLOPS_CALIBRATED), step(_i, FLOPS_PLAIN));
}
END_TEST

/* Four more heads cost four heads: three products of (batch 4, 64) by (64, 2) each, forward, into
 * the trunk and into the weights. */
START_TEST(test_a_task_costs_its_head)
{
    double head = 3 * 2.0 * 4 * 64 * 2;
    ck_assert_double_eq(step(8, FLOPS_CALIBRATED) - step(4, FLOPS_CALIBRATED), 4 * head);
    ck_assert_double_eq(step(8, FLOPS_FEATURES) - step(4, FLOPS_FEATURES), 4 * head);
}
END_TEST

/* A trunk backward is worth two forward passes. Norms over parameters need a backward per task;
 * with as many tokens (64) as features (64), weight gradients are the cheapest way to them. */
START_TEST(test_norms_over_the_trunk)
{
    double forward = step(8, -1), plain = step(8, FLOPS_PLAIN);
    ck_assert_double_gt(plain, 2.5 * forward);
    ck_assert_double_lt(plain, 3.05 * forward);
    ck_assert_double_gt(step(8, FLOPS_NORMS), step(8, FLOPS_FEATURES) + 7 * 0.5 * forward);
    ck_assert_double_le(step(8, FLOPS_NORMS), step(8, FLOPS_GRADIENTS));
}
END_TEST

/* Weights that hang on the task gradients need those, and no weighted sweep beside them; over the
 * features they cost what calibrated ones do. The system of K equations multiplies some, too. */
START_TEST(test_weights_of_gradients)
{
    const double equations = 8 * 8 * 8;
    double forward = step(8, -1), features = step(8, FLOPS_GRAM_FEATURES);
    ck_assert_double_ge(features, step(8, FLOPS_CALIBRATED));
    ck_assert_double_lt(features, step(8, FLOPS_FEATURES) + 4 * equations);
    ck_assert_double_lt(step(8, FLOPS_GRAM_TRUNK), step(8, FLOPS_NORMS) - 1.5 * forward);
    ck_assert_double_lt(step(8, FLOPS_GRAM_LAST), step(8, FLOPS_GRAM_TRUNK) - 5 * forward);
}
END_TEST

/* docs/flops.md holds what `make bench-flops` prints. */
START_TEST(test_docs)
{
    static char page[1 << 14];
    FILE *file = fopen("docs/flops.md", "r");
    ck_assert(file != NULL);
    size_t n = fread(page, 1, sizeof page - 1, file);
    fclose(file);
    page[n] = 0;
    for (int k = 0; k < FLOPS_KINDS; k++) {
        char row[160];
        snprintf(row, sizeof row, "| %s | %.3f | %.3f | %.3f | %.3f |", flops_kinds[k].name,
                 step(1, k) * 1e-6, step(2, k) * 1e-6, step(4, k) * 1e-6, step(8, k) * 1e-6);
        ck_assert_msg(strstr(page, row) != NULL, "docs/flops.md lacks this row: %s", row);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("flops");
    TCase *tests = tcase_create("one backward");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_calibrated_is_plain, 1, 9);
    tcase_add_test(tests, test_a_task_costs_its_head);
    tcase_add_test(tests, test_norms_over_the_trunk);
    tcase_add_test(tests, test_weights_of_gradients);
    tcase_add_test(tests, test_docs);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
