/* tests/test_extend.c: what it takes to add an operator, a method, an optimizer, a loss: extend.sh
 * adds one of each to a copy of the sources and counts the places. */
#include <check.h>
#include <stdlib.h>

START_TEST(test_one_of_each)
{
    ck_assert_int_eq(system("sh tests/extend.sh ."), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("extend");
    TCase *tests = tcase_create("places");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, test_one_of_each);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
