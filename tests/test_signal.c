/* tests/test_signal.c: Fourier transforms of any length against the sum that defines them. */
#include "lower/lower.h"

#include <check.h>
#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* One product with a matrix; by factors 8, 4, 2, 3, 5, 61; a prime, and a large prime factor: a
 * convolution. */
static const int lengths[] = {64, 65, 96, 128, 200, 244, 1009, 134, 2000};

typedef struct form {
    const char *attributes;
    int parts; /* of an input element */
    bool inverse, half;
} form;
static const form forms[] = {{"", 1, false, false},
                             {"", 2, false, false},
                             {"<onesided = 1>", 1, false, true},
                             {"<inverse = 1>", 2, true, false}};

static double sample(int i)
{
    return sin(1 + 7.31 * i) + 0.1;
}

static mtbal_instance *run(const form *f, int n, const char *type, mtbal_plan **plan,
                           mtbal_model **model)
{
    char text[400];
    mtbal_diag diag = {0};
    mtbal_instance *instance = NULL;
    const mtbal_lower_options options = {.noutputs = -1};
    snprintf(text, sizeof text,
             "<ir_version: 9, opset_import: [\"\" : 20]>\n"
             "g (%s[1,%d,%d] x) => (%s[a,b,c] y) {\n  y = DFT %s (x)\n}",
             type, n, f->parts, type, f->attributes);
    *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(*model && mtbal_lower(*model, &options, plan, &diag) == MTBAL_OK, "%s: %s", text,
                  diag.what);
    ck_assert(mtbal_instance_new(*plan, 1, &instance, &diag) == MTBAL_OK);
    rt_tensor *x = mtbal_instance_input(instance, "x");
    mtbal_tensor as = {.dtype = (mtbal_dtype)x->dtype, .count = rt_count(x), .data = x->data};
    for (int i = 0; i < as.count; i++)
        mtbal_tensor_set_f64(&as, i, sample(i));
    ck_assert(mtbal_instance_run(instance, 0) == MTBAL_OK);
    return instance;
}

static void compare(const form *f, int n, const char *type, double most)
{
    mtbal_plan *plan = NULL;
    mtbal_model *model = NULL;
    mtbal_instance *instance = run(f, n, type, &plan, &model);
    const rt_tensor *y = mtbal_instance_output(instance, "y");
    const mtbal_tensor as = {.dtype = (mtbal_dtype)y->dtype, .count = rt_count(y), .data = y->data};
    int m = f->half ? n / 2 + 1 : n;
    ck_assert_int_eq(as.count, 2 * m);
    for (int k = 0; k < m; k++) {
        double complex sum = 0;
        for (int t = 0; t < n; t++) {
            double complex x = sample(f->parts * t) + (f->parts == 2 ? I * sample(2 * t + 1) : 0);
            sum += x * cexp((f->inverse ? 2 : -2) * I * pi * (double)((long)t * k % n) / n);
        }
        sum /= f->inverse ? n : 1;
        double complex got = mtbal_tensor_f64(&as, 2 * k) + I * mtbal_tensor_f64(&as, 2 * k + 1);
        double scale = f->inverse ? 1 / sqrt(n) : sqrt(n);
        ck_assert_msg(cabs(got - sum) <= most * scale, "%s %s of %d, %d: %g%+gi, not %g%+gi", type,
                      f->attributes, n, k, creal(got), cimag(got), creal(sum), cimag(sum));
    }
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
}

START_TEST(test_transform)
{
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        compare(&forms[i], lengths[_i], "double", 1e-11);
        compare(&forms[i], lengths[_i], "float", 2e-5);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("signal");
    TCase *tests = tcase_create("signal");
    tcase_add_loop_test(tests, test_transform, 0, (int)(sizeof lengths / sizeof *lengths));
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
