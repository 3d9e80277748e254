/* tests/steps.h: what tests of calibration share: step graphs of small models, and their data. */
#ifndef MTBAL_TESTS_STEPS_H
#define MTBAL_TESTS_STEPS_H

#include "passes/passes.h"
#include "tests/files.h"
#include "train/calibrate.h"

/* ONNX text of a fully connected network x[n,8] -> (layers - 1) x 16, ReLU -> a linear head of
 * width 4 each for the tasks `a` and `b`, which compare with y0 and y1 by mean square. Weights
 * depend on `seed`; both heads start alike. malloc'ed. */
char *steps_network(int layers, uint64_t seed);
/* Its data: x normal, y0 = scale0 * a smooth function of x + noise, y1 likewise; y1 equals y0 when
 * `same`. */
void steps_network_data(const char *path, int64_t samples, double scale0, double scale1, bool same);
/* Standard normal numbers from a state. */
double steps_normal(uint64_t *state);
/* Writes the step graph of a model, which it frees. */
void steps_write(mtbal_model *model, const mtbal_options *options, const char *path);
mtbal_model *steps_parse(const char *text);
mtbal_model *steps_read(const char *path);
/* A statuses' message, for ck_assert_msg. */
#define steps_ok(call) ck_assert_msg((call) == MTBAL_OK, "%s: %s", diag.where, diag.what)

#endif
