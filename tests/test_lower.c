/* tests/test_lower.c: lowering: small graphs against values worked out by hand; what is folded,
 * unrolled and kept; states; the memory plan, checked by brute force; the same numbers with and
 * without fusion, in place or not, on any number of threads; refusals; failing allocations. */
#include "lower/lower.h"
#include "lower/lowering.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "<ir_version: 8, opset_import: [\"\" : 17]>\n"

/* ------------------------------------------------------------------ helpers */

static mtbal_model *parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    return model;
}

/* A lowered model with one running copy. */
typedef struct bench {
    mtbal_model *model;
    mtbal_plan *plan;
    mtbal_instance *instance;
} bench;

static bench lowered(mtbal_model *model, const mtbal_lower_options *options, int threads)
{
    mtbal_diag diag = {0};
    bench b = {.model = model};
    mtbal_status status = mtbal_lower(model, options, &b.plan, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    ck_assert_int_eq(mtbal_instance_new(b.plan, threads, &b.instance, &diag), MTBAL_OK);
    return b;
}

static void close_bench(bench *b)
{
    mtbal_instance_free(b->instance);
    mtbal_plan_free(b->plan);
    mtbal_model_free(b->model);
}

static double element(const rt_tensor *t, int64_t i)
{
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .data = t->data};
    return mtbal_tensor_f64(&as, i);
}

static void set(rt_tensor *t, int64_t n, const double *values)
{
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .data = t->data};
    ck_assert_int_eq(rt_count(t), n);
    for (int64_t i = 0; i < n; i++)
        mtbal_tensor_set_f64(&as, i, values[i]);
}

static void check(const rt_tensor *t, int64_t n, const double *values, const char *what)
{
    ck_assert_msg(t != NULL, "%s: no such output", what);
    ck_assert_msg(rt_count(t) == n, "%s: %lld elements, not %lld", what, (long long)rt_count(t),
                  (long long)n);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(fabs(element(t, i) - values[i]) <= 1e-6 + 1e-5 * fabs(values[i]),
                      "%s: element %lld is %.9g, not %.9g", what, (long long)i, element(t, i),
                      values[i]);
}

/* ------------------------------------------------------------------ values by hand */

/* s: the elements of x that are above 0. */
#define SELECT                                                \
    HEAD "g (float[4] x) => (float[k] y) <float z = {0}> {\n" \
         "  m = Greater (x, z)  i = NonZero (m)  at = Transpose (i)  s = GatherND (x, at)\n  "

static const struct by_hand {
    const char *what, *text;
    int nx, ny, ncalls; /* elements of x and y; calls of the plan, -1: any */
    double x[12], y[12];
} by_hand[] = {
    {"Relu",
     HEAD "g (float[4] x) => (float[4] y) { y = Relu (x) }",
     4,
     4,
     1,
     {-1, 0, 2, -3},
     {0, 0, 2, 0}},
    {"a chain in one call",
     HEAD "g (float[2,2] x) => (float[2,2] y) <float[2] b = {1, 2}> {\n"
          "  h = Add (x, b)  i = Mul (h, h)  n = Neg (x)  y = Sub (i, n) }",
     4,
     4,
     1,
     {1, 2, 3, 4},
     {5, 18, 19, 40}},
    {"products that only a sum reads",
     HEAD "g (float[4] x) => (float[4] y) <float k = {3}> {\n"
          "  a = Mul (k, x)  b = Mul (x, x)  c = Add (a, x)  y = Add (b, c) }",
     4,
     4,
     1,
     {1, 2, 3, -4},
     {5, 12, 21, 0}},
    {"a product that is read twice",
     HEAD "g (float[4] x) => (float[4] y) {\n"
          "  a = Mul (x, x)  b = Add (a, x)  c = Add (a, a)  y = Sub (b, c) }",
     4,
     4,
     1,
     {1, 2, 3, -4},
     {0, -2, -6, -20}},
    {"Where and a comparison",
     HEAD "g (float[4] x) => (float[4] y) <float z = {0}> {\n"
          "  c = Greater (x, z)  n = Neg (x)  y = Where (c, x, n) }",
     4,
     4,
     1,
     {-1, 0, 2, -3},
     {1, 0, 2, 3}},
    {"Gemm, transposed, with Relu",
     HEAD "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, -4}, float[2] b = {1, 1}> "
          "{\n h = Gemm <transB = 1> (x, w, b)  y = Relu (h) }",
     4,
     4,
     1,
     {1, 2, 3, 4},
     {6, 0, 12, 0}},
    {"MatMul with a bias over a batch",
     HEAD "g (float[2,1,2] x) => (float[2,1,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {10, "
          "20}> {\n h = MatMul (x, w)  y = Add (h, b) }",
     4,
     4,
     1,
     {1, 1, 2, 0},
     {14, 26, 12, 24}},
    {"a Transpose folded into the product",
     HEAD "g (float[2,2] x) => (float[2,2] y) { t = Transpose (x)  y = MatMul (t, x) }",
     4,
     4,
     1,
     {1, 2, 3, 4},
     {10, 14, 14, 20}},
    {"Conv 3x1 by hand",
     HEAD "g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,3] w = {1, 2, 3}> {\n"
          "  y = Conv <pads = [1, 1]> (x, w) }",
     4,
     4,
     1,
     {1, 2, 3, 4},
     {8, 14, 20, 11}},
    {"a Slice backwards",
     HEAD "g (float[5] x) => (float[3] y) <int64[1] s = {4}, int64[1] e = {-6}, int64[1] a = {0}, "
          "int64[1] t = {-2}> { y = Slice (x, s, e, a, t) }",
     5,
     3,
     1,
     {1, 2, 3, 4, 5},
     {5, 3, 1}},
    {"a Split is two views",
     HEAD "g (float[4] x) => (float[2] y) { a, b = Split <axis = 0> (x)  y = Sub (b, a) }",
     4,
     2,
     1,
     {1, 2, 30, 40},
     {29, 38}},
    {"Concat along an inner axis",
     HEAD "g (float[2,1] x) => (float[2,2] y) { n = Neg (x)  y = Concat <axis = 1> (x, n) }",
     2,
     4,
     -1,
     {1, 2},
     {1, -1, 2, -2}},
    {"a reduction over one axis",
     HEAD "g (float[2,3] x) => (float[2] y) <int64[1] a = {1}> { y = ReduceSum <keepdims = 0> (x, "
          "a) }",
     6,
     2,
     1,
     {1, 2, 3, 4, 5, 6},
     {6, 15}},
    {"shape arithmetic is folded",
     HEAD "g (float[2,3] x) => (float[6] y) {\n"
          "  s = Shape (x)  n = ReduceProd <keepdims = 1> (s)  f = Reshape (x, n)  y = Neg (f) }",
     6,
     6,
     1,
     {1, 2, 3, 4, 5, 6},
     {-1, -2, -3, -4, -5, -6}},
    {"the number of elements that are not 0",
     HEAD "g (float[5] x) => (float y) {\n"
          "  n = NonZero (x)  t = Transpose (n)  s = Shape (t)\n"
          "  i = Constant <value_int = 0> ()  c = Gather (s, i)  y = Cast <to = 1> (c) }",
     5,
     1,
     -1,
     {0, 2, 0, 3, 4},
     {3}},
    {"an If that a constant decides",
     HEAD "g (float[2] x) => (float[2] y) <bool c = {1}> {\n"
          "  y = If (c) <then_branch = t () => (float[2] a) { a = Neg (x) },\n"
          "              else_branch = e () => (float[2] b) { b = Exp (x) }> }",
     2,
     2,
     1,
     {1, 2},
     {-1, -2}},
    {"an If that data decides: then",
     HEAD "g (float[2] x) => (float[2] y) <float z = {0}> {\n"
          "  m = ReduceSum <keepdims = 0> (x)  c = Greater (m, z)\n"
          "  y = If (c) <then_branch = t () => (float[2] a) { a = Neg (x) },\n"
          "              else_branch = e () => (float[2] b) { b = Add (x, x) }> }",
     2,
     2,
     -1,
     {1, 2},
     {-1, -2}},
    {"an If that data decides: else",
     HEAD "g (float[2] x) => (float[2] y) <float z = {0}> {\n"
          "  m = ReduceSum <keepdims = 0> (x)  c = Greater (m, z)\n"
          "  y = If (c) <then_branch = t () => (float[2] a) { a = Neg (x) },\n"
          "              else_branch = e () => (float[2] b) { b = Add (x, x) }> }",
     2,
     2,
     -1,
     {-1, -2},
     {-2, -4}},
    {"a Loop of three turns, written out, with what it stacks",
     HEAD "g (float[2] x) => (float[3,2] y) <int64 n = {3}, bool c = {1}> {\n"
          "  last, y = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => "
          "(bool on, float[2] t, float[2] u) { on = Identity (go)  t = Add (s, s)  u = Neg (t) }> "
          "}",
     2,
     6,
     -1,
     {1, 2},
     {-2, -4, -4, -8, -8, -16}},
    {"a Loop until a value is large",
     HEAD "g (float[1] x) => (float[1] y) <float limit = {100}, bool c = {1}> {\n"
          "  y = Loop (, c, x) <body = b (int64 i, bool go, float[1] s) => (bool on, float[1] t) "
          "{ t = Add (s, s)  m = ReduceSum <keepdims = 0> (t)  on = Less (m, limit) }> }",
     1,
     1,
     -1,
     {3},
     {192}},
    {"a Loop whose number of turns is data, which exchanges two values",
     HEAD "g (float[2] x) => (float[2] y) <float one = {1}> {\n"
          "  m = ReduceSum <keepdims = 0> (x)  n = Cast <to = 7> (m)  c = Greater (m, one)\n"
          "  z = Neg (x)\n"
          "  y, o = Loop (n, c, x, z) <body = b (int64 i, bool go, float[2] p, float[2] q) => "
          "(bool on, float[2] r, float[2] s) { on = Identity (go)  r = Identity (q)\n"
          "  s = Identity (p) }> }",
     2,
     2,
     -1,
     {1, 2},
     {-1, -2}},
    {"a Scan that adds up",
     HEAD
     "g (float[3,2] x) => (float[3,2] y) <float[2] z = {0, 0}> {\n"
     "  last, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] t, "
     "float[2] u) { t = Add (s, e)  u = Identity (t) }> (z, x) }",
     6,
     6,
     -1,
     {1, 2, 3, 4, 5, 6},
     {1, 2, 4, 6, 9, 12}},
    {"a sequence that disappears",
     HEAD "g (float[2] x) => (float[4] y) {\n"
          "  n = Neg (x)  s = SequenceConstruct (x, n)  y = ConcatFromSequence <axis = 0> (s) }",
     2,
     4,
     -1,
     {1, 2},
     {1, 2, -1, -2}},
    {"Einsum, a product of matrices read backwards",
     HEAD "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}> {\n"
          "  y = Einsum <equation = \"ij,kj->ki\"> (x, w) }",
     4,
     4,
     -1,
     {1, 2, 3, 4},
     {5, 11, 11, 25}},
    {"16-bit floats are computed with as float",
     HEAD "g (float[2] x) => (float[2] y) {\n"
          "  h = Cast <to = 10> (x)  s = Mul (h, h)  y = Cast <to = 1> (s) }",
     2,
     2,
     -1,
     {1.5, -3},
     {2.25, 9}},
    {"a transform of a real signal",
     HEAD "g (float[1,4,1] x) => (float[1,4,2] y) {\n"
          "  y = DFT (x) }",
     4,
     8,
     -1,
     {1, 2, 3, 4},
     {10, 0, -2, 2, -2, 0, -2, -2}},
    {"a shorter transform, one side",
     HEAD "g (float[1,4,1] x) => (float[1,2,2] y) {\n"
          "  n = Constant <value_int = 2> ()  y = DFT <onesided = 1> (x, n) }",
     4,
     4,
     -1,
     {1, 2, 3, 4},
     {3, 0, -1, 0}},
    {"a longer transform: zeros follow",
     HEAD "g (float[1,2,1] x) => (float[1,4,2] y) {\n"
          "  n = Constant <value_int = 4> ()  y = DFT (x, n) }",
     2,
     8,
     -1,
     {1, 2},
     {3, 0, 1, -2, -1, 0, 1, 2}},
    {"a transform and back",
     HEAD "g (float[1,4,2] x) => (float[1,4,2] y) {\n"
          "  y = DFT <inverse = 1> (x) }",
     8,
     8,
     -1,
     {10, 0, -2, 2, -2, 0, -2, -2},
     {1, 0, 2, 0, 3, 0, 4, 0}},
    {"back from one side, along axis 2",
     HEAD "g (float[1,1,3,2] x) => (float[1,1,4,1] y) {\n"
          "  y = DFT <axis = 2, inverse = 1, onesided = 1> (x) }",
     6,
     4,
     -1,
     {10, 0, -2, 2, -2, 0},
     {1, 2, 3, 4}},
    {"a transform of frames, with a window",
     HEAD "g (float[1,4,1] x) => (float[1,2,2,2] y) {\n"
          "  s = Constant <value_int = 2> ()  w = Constant <value_floats = [1.0, 0.5]> ()\n"
          "  y = STFT (x, s, w) }",
     4,
     8,
     -1,
     {1, 2, 3, 4},
     {2, 0, 0, 0, 5, 0, 1, 0}},
    {"a Hann window",
     HEAD "g (float[4] x) => (float[4] y) {\n"
          "  n = Constant <value_int = 4> ()  w = HannWindow (n)  y = Mul (x, w) }",
     4,
     4,
     -1,
     {1, 2, 3, 4},
     {0, 1, 3, 2}},
    {"a symmetric Hamming window",
     HEAD
     "g (float[3] x) => (float[3] y) {\n"
     "  n = Constant <value_int = 3> ()  w = HammingWindow <periodic = 0> (n)  y = Mul (x, w) }",
     3,
     3,
     -1,
     {23, 1, 46},
     {2, 1, 4}},
    {"a Blackman window",
     HEAD "g (float[2] x) => (float[2] y) {\n"
          "  n = Constant <value_int = 2> ()  w = BlackmanWindow (n)  y = Mul (x, w) }",
     2,
     2,
     -1,
     {3, 4},
     {0, 4}},
    {"mel weights",
     HEAD "g (float[5,1] x) => (float[5,1] y) {\n"
          "  b = Constant <value_int = 1> ()  n = Constant <value_int = 8> ()\n"
          "  l = Constant <value_float = 0.0> ()  h = Constant <value_float = 4.0> ()\n"
          "  w = MelWeightMatrix (b, n, n, l, h)  y = Mul (x, w) }",
     5,
     5,
     -1,
     {1, 2, 3, 4, 5},
     {0, 2, 0, 0, 0}},
    {"a mean of roots of what a mask selects",
     SELECT "r = Sqrt (s)  y = ReduceMean <keepdims = 1> (r) }",
     4,
     1,
     -1,
     {4, -1, 9, -2},
     {2.5}},
    {"a mean of nothing",
     SELECT "y = ReduceMean <keepdims = 1> (s) }",
     4,
     1,
     -1,
     {-4, -1, -9, -2},
     {0}},
    {"the least of what a mask selects",
     SELECT "y = ReduceMin <keepdims = 1> (s) }",
     4,
     1,
     -1,
     {4, -1, 3, -2},
     {3}},
    {"how much a mask selects",
     SELECT "n = Shape (s)  y = Cast <to = 1> (n) }",
     4,
     1,
     -1,
     {4, -1, 3, 2},
     {3}},
    {"selected elements written back",
     SELECT "n = Neg (s)  y = ScatterND (x, at, n) }",
     4,
     4,
     -1,
     {4, -1, 3, -2},
     {-4, -1, -3, -2}},
    {"selected elements added back",
     SELECT "y = ScatterND <reduction = \"add\"> (x, at, s) }",
     4,
     4,
     -1,
     {4, -1, 3, -2},
     {8, -1, 6, -2}},
    {"a sum over selected rows as a product",
     SELECT "k = Constant <value_ints = [-1, 1]> ()\n"
            "  a = Reshape (x, k)  r = GatherND (a, at)  l = Log (r)  t = Transpose (r)\n"
            "  y = MatMul (t, l) }",
     4,
     1,
     -1,
     {1, -1, 2.718281828, -2},
     {2.718281828}},
    {"a function with an attribute",
     "<ir_version: 8, opset_import: [\"\" : 17, \"f\" : 1]>\n"
     "g (float[2] x) => (float[2] y) { y = f.twice <by = 3.0> (x) }\n"
     "<domain: \"f\", opset_import: [\"\" : 17]>\n"
     "twice <by> (p) => (q) { k = Constant <value_float : float = @by> ()  q = Mul (p, k) }",
     2,
     2,
     1,
     {1, 2},
     {3, 6}},
};

START_TEST(test_by_hand)
{
    const struct by_hand *h = &by_hand[_i / 4];
    mtbal_lower_options options = {
        .noutputs = -1, .no_fuse = (_i & 1) != 0, .no_inplace = (_i & 2) != 0};
    bench b = lowered(parse(h->text), &options, 1);
    mtbal_plan_info info;
    mtbal_plan_describe(b.plan, &info);
    if (h->ncalls >= 0 && !options.no_fuse)
        ck_assert_msg(info.ncalls == h->ncalls, "%s: %d calls, not %d", h->what, info.ncalls,
                      h->ncalls);
    set(mtbal_instance_input(b.instance, "x"), h->nx, h->x);
    for (int k = 0; k < 2; k++) { /* a second step starts from the same memory */
        mtbal_instance_run(b.instance, 1);
        check(mtbal_instance_output(b.instance, "y"), h->ny, h->y, h->what);
    }
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ shapes and requests */

START_TEST(test_dynamic_shapes)
{
    static const double x[6] = {1, 2, 3, 4, 5, 6}, y[6] = {2, 4, 6, 8, 10, 12};
    mtbal_bind bind = {"x", 2, {3, 2}};
    mtbal_lower_options options = {.nbinds = 1, .binds = &bind, .noutputs = -1};
    bench b = lowered(parse(HEAD "g (float[n,2] x, float[n,2] z) => (float[n,2] y) {\n"
                                 "  y = Add (x, z) }"),
                      &options, 1);
    rt_tensor *z = mtbal_instance_input(b.instance, "z");
    ck_assert_int_eq(z->dims[0], 3); /* bound by its name */
    set(mtbal_instance_input(b.instance, "x"), 6, x);
    set(z, 6, x);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_output(b.instance, "y"), 6, y, "y");
    close_bench(&b);
}
END_TEST

START_TEST(test_only_what_is_asked_for)
{
    static const char *const wanted[] = {"b"};
    mtbal_lower_options options = {.noutputs = 1, .outputs = wanted};
    bench b = lowered(parse(HEAD "g (float[2] x) => (float[2] a, float[2] b) {\n"
                                 "  h = Exp (x)  a = NoSuchOp (h)  b = Neg (x) }"),
                      &options, 1);
    mtbal_plan_info info;
    mtbal_plan_describe(b.plan, &info);
    ck_assert_int_eq(info.ncalls, 1);
    ck_assert(mtbal_instance_output(b.instance, "a") == NULL);
    close_bench(&b);
}
END_TEST

START_TEST(test_defaults_are_no_constants)
{
    static const double x[2] = {1, 2}, y[2] = {5, 10}, k = 7, z[2] = {7, 14};
    bench b = lowered(parse(HEAD "g (float[2] x, float k = {5}) => (float[2] y) {\n"
                                 "  y = Mul (x, k) }"),
                      NULL, 1);
    set(mtbal_instance_input(b.instance, "x"), 2, x);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_output(b.instance, "y"), 2, y, "the default");
    set(mtbal_instance_input(b.instance, "k"), 1, &k);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_output(b.instance, "y"), 2, z, "another value");
    close_bench(&b);
}
END_TEST

START_TEST(test_flops)
{
    bench b = lowered(parse(HEAD "g (float[3,4] x, float[4,5] w) => (float[3,5] y) {\n"
                                 "  y = MatMul (x, w) }"),
                      NULL, 1);
    mtbal_plan_info info;
    mtbal_plan_describe(b.plan, &info);
    ck_assert_double_eq(info.flops, 2.0 * 3 * 4 * 5);
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ refusals */

static const struct refusal {
    const char *what, *text;
    mtbal_status status;
    const char *contains[3];
} refusals[] = {
    {"all nodes that cannot run are listed",
     HEAD "g (float[2] x) => (float[2] y) {\n"
          "  a = NoSuchOp (x)  b = Exp (a)  c = OtherOp (x)  y = Add (b, c) }",
     MTBAL_UNSUPPORTED,
     {"NoSuchOp", "OtherOp", "2 nodes"}},
    {"a size that nothing gives",
     HEAD "g (float[n,2] x) => (float[n,2] y) { y = Neg (x) }",
     MTBAL_INVALID,
     {"x", "n", NULL}},
    {"a size that depends on data",
     HEAD "g (float[4] x) => (int64[1,k] y) { y = NonZero (x) }",
     MTBAL_UNSUPPORTED,
     {"NonZero", "depends on data", NULL}},
    {"what a mask selects as an output",
     SELECT "y = Neg (s) }",
     MTBAL_UNSUPPORTED,
     {"y (Neg)", "depends on data", NULL}},
    {"a selection from what is selected",
     SELECT "n = NonZero (s)  t = Transpose (n)  u = GatherND (s, t)\n"
            "  y = ReduceSum <keepdims = 1> (u) }",
     MTBAL_UNSUPPORTED,
     {"NonZero", "selects from what a mask has selected", NULL}},
    {"what two masks select, together",
     SELECT "w = Less (x, z)  j = NonZero (w)  t = Transpose (j)  u = GatherND (x, t)\n"
            "  a = Add (s, u)  y = ReduceSum <keepdims = 1> (a) }",
     MTBAL_UNSUPPORTED,
     {"a (Add)", "several masks", NULL}},
    {"selected elements in the order of another axis",
     SELECT "k = Constant <value_ints = [2, 2]> ()  y = Reshape (s, k) }",
     MTBAL_UNSUPPORTED,
     {"y (Reshape)", "depends on data", NULL}},
};

START_TEST(test_refusals)
{
    const struct refusal *r = &refusals[_i];
    mtbal_diag diag = {0};
    mtbal_plan *plan;
    mtbal_model *model = parse(r->text);
    ck_assert_int_eq(mtbal_lower(model, NULL, &plan, &diag), r->status);
    ck_assert(plan == NULL);
    for (int i = 0; i < 3 && r->contains[i]; i++)
        ck_assert_msg(strstr(diag.what, r->contains[i]), "%s: \"%s\" does not tell of %s", r->what,
                      diag.what, r->contains[i]);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_shapes_that_contradict)
{
    mtbal_bind binds[] = {{"x", 1, {3}}, {"z", 1, {4}}, {"nobody", 1, {4}}};
    mtbal_lower_options options = {.nbinds = 2 + _i, .binds = binds, .noutputs = -1};
    mtbal_diag diag = {0};
    mtbal_plan *plan;
    mtbal_model *model = parse(HEAD "g (float[n] x, float[n] z) => (float[n] y) {y = Add (x, z)}");
    ck_assert_int_eq(mtbal_lower(model, &options, &plan, &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.what, _i ? "nobody" : "z"), "%s", diag.what);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ states */

static bench lowered_states(const char *text, const char *states, bool no_inplace)
{
    mtbal_model *model = parse(text);
    mtbal_lower_options options = {.noutputs = -1, .states = true, .no_inplace = no_inplace};
    ck_assert_int_eq(mtbal_property_set(model, "mtbal.state", states), MTBAL_OK);
    return lowered(model, &options, 1);
}

START_TEST(test_states_change_in_place)
{
    static const double first[2] = {0.5, 1.5}, second[2] = {0.25, 2.25}, x[2] = {0.5, 1.5};
    bench b = lowered_states(HEAD "g (float[2] x, float[2] p = {1, 1}) => (float[2] n) {\n"
                                  "  n = Mul (p, x) }",
                             "{\"p\": \"n\"}", _i != 0);
    mtbal_plan_info info;
    mtbal_plan_describe(b.plan, &info);
    ck_assert_int_eq(info.ncalls, _i ? 2 : 1); /* a copy only when it may not work in place */
    set(mtbal_instance_input(b.instance, "x"), 2, x);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_state(b.instance, "p"), 2, first, "p after one step");
    check(mtbal_instance_output(b.instance, "n"), 2, first, "the output that is its next value");
    mtbal_instance_run(b.instance, 2);
    check(mtbal_instance_state(b.instance, "p"), 2, second, "p after two");
    close_bench(&b);
}
END_TEST

START_TEST(test_states_are_exchanged)
{
    static const double one = 1, two = 2;
    bench b = lowered_states(HEAD "g (float p = {1}, float q = {2}) => (float np, float nq) {\n"
                                  "  np = Identity (q)  nq = Identity (p) }",
                             "{\"p\": \"np\", \"q\": \"nq\"}", _i != 0);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_state(b.instance, "p"), 1, &two, "p");
    check(mtbal_instance_state(b.instance, "q"), 1, &one, "q");
    close_bench(&b);
}
END_TEST

/* The old value is read after the new one could be there. */
START_TEST(test_states_wait_for_readers)
{
    static const double next = 4, old = 9, again = 36;
    bench b = lowered_states(HEAD "g (float p = {3}) => (float n, float y) <float one = {1}> {\n"
                                  "  n = Add (p, one)  e = Sqrt (n)  y = Mul (p, p) }",
                             "{\"p\": \"n\"}", _i != 0);
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_output(b.instance, "y"), 1, &old, "y");
    check(mtbal_instance_state(b.instance, "p"), 1, &next, "p");
    *(float *)mtbal_instance_state(b.instance, "p")->data = 6;
    mtbal_instance_run(b.instance, 1);
    check(mtbal_instance_output(b.instance, "y"), 1, &again, "y of another state");
    close_bench(&b);
}
END_TEST

/* ------------------------------------------------------------------ whole training steps */

static const struct model_case {
    const char *folder, *file, *optimizer;
} models[] = {
    {"mlp_cls_reg", "model.op17.onnx", "sgd"},
    {"mlp_cls_reg", "model.op13.onnx", "adam"},
    {"cnn_nyu", "model.op14.onnx", "momentum"},
    {"transformer_glue", "model.op17.onnx", "adamw"},
};

typedef struct step {
    bench b;
    mtbal_npz *data;
} step;

static mtbal_model *rewritten(const struct model_case *c)
{
    char path[200];
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    mtbal_context *context;
    mtbal_options options;
    snprintf(path, sizeof path, "tests/data/models/%s/%s", c->folder, c->file);
    mtbal_options_default(&options);
    options.optimizer = c->optimizer;
    ck_assert_msg(mtbal_onnx_read(path, &model, &diag) == MTBAL_OK, "%s", diag.what);
    ck_assert_msg(mtbal_rewrite(model, &options, &context, &diag) == MTBAL_OK, "%s", diag.what);
    return model;
}

static const mtbal_array *input_of(const mtbal_npz *data, const char *name)
{
    char key[200];
    snprintf(key, sizeof key, "input/%s", name);
    return mtbal_npz_find(data, key);
}

static step open_step(const struct model_case *c, mtbal_lower_options options, int threads)
{
    char path[200];
    mtbal_diag diag = {0};
    mtbal_bind binds[16];
    step s = {.data = NULL};
    mtbal_model *model = rewritten(c);
    snprintf(path, sizeof path, "tests/data/models/%s/golden.npz", c->folder);
    ck_assert_msg(mtbal_npz_read(path, &s.data, &diag) == MTBAL_OK, "%s", diag.what);
    options.binds = binds;
    options.states = true;
    options.noutputs = -1;
    for (int i = 0; i < model->graph->ninputs; i++) {
        const mtbal_array *a = input_of(s.data, model->graph->inputs[i]->name);
        if (!a)
            continue;
        binds[options.nbinds] = (mtbal_bind){model->graph->inputs[i]->name, a->rank, {0}};
        memcpy(binds[options.nbinds++].dims, a->dims, (size_t)a->rank * sizeof *a->dims);
    }
    s.b = lowered(model, &options, threads);
    const mtbal_port *in, *out, *states;
    int nin, nout, nstates;
    mtbal_plan_ports(s.b.plan, &in, &nin, &out, &nout, &states, &nstates);
    for (int i = 0; i < nin; i++) {
        const mtbal_array *a = input_of(s.data, in[i].name);
        if (a)
            memcpy(mtbal_instance_input(s.b.instance, in[i].name)->data, a->data, a->bytes);
    }
    return s;
}

static void close_step(step *s)
{
    close_bench(&s->b);
    mtbal_npz_free(s->data);
}

/* Every output and state of two copies that have made the same steps. */
static void compare_steps(const step *s, const step *t, double tolerance)
{
    const mtbal_port *in, *ports[2];
    int nin, counts[2];
    mtbal_plan_ports(s->b.plan, &in, &nin, &ports[0], &counts[0], &ports[1], &counts[1]);
    ck_assert_int_gt(counts[0], 3);
    ck_assert_int_gt(counts[1], 3);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < counts[k]; i++) {
            const char *name = ports[k][i].name;
            const rt_tensor *x = k ? mtbal_instance_state(s->b.instance, name)
                                   : mtbal_instance_output(s->b.instance, name);
            const rt_tensor *y = k ? mtbal_instance_state(t->b.instance, name)
                                   : mtbal_instance_output(t->b.instance, name);
            double most = 1e-3;
            for (int64_t e = 0; e < rt_count(x); e++)
                most = fmax(most, fabs(element(x, e)));
            for (int64_t e = 0; e < rt_count(x); e++)
                ck_assert_msg(fabs(element(x, e) - element(y, e)) <= tolerance * most,
                              "%s[%lld] is %.9g and %.9g", name, (long long)e, element(x, e),
                              element(y, e));
        }
}

START_TEST(test_same_without_fusion_or_in_place)
{
    const struct model_case *c = &models[_i / 3];
    const mtbal_lower_options others[3] = {
        {.no_fuse = true}, {.no_inplace = true}, {.no_fuse = true, .no_inplace = true}};
    step s = open_step(c, (mtbal_lower_options){.nbinds = 0}, 1),
         t = open_step(c, others[_i % 3], 1);
    for (int k = 0; k < 2; k++) {
        mtbal_instance_run(s.b.instance, 1);
        mtbal_instance_run(t.b.instance, 1);
    }
    /* two steps of Adam divide small gradients by themselves: what is left is rounding */
    compare_steps(&s, &t, strncmp(c->optimizer, "adam", 4) ? 2e-4 : 5e-3);
    close_step(&s);
    close_step(&t);
}
END_TEST

START_TEST(test_same_bits_on_two_threads)
{
    step s = open_step(&models[_i], (mtbal_lower_options){.nbinds = 0}, 1),
         t = open_step(&models[_i], (mtbal_lower_options){.nbinds = 0}, 2);
    for (int k = 0; k < 3; k++) {
        mtbal_instance_run(s.b.instance, 1);
        mtbal_instance_run(t.b.instance, 1);
    }
    compare_steps(&s, &t, 0);
    close_step(&s);
    close_step(&t);
}
END_TEST

static bool count_allocation(void *context, size_t size)
{
    (void)size;
    ++*(int *)context;
    return true;
}

START_TEST(test_a_step_allocates_nothing)
{
    int count = 0;
    step s = open_step(&models[_i], (mtbal_lower_options){.nbinds = 0}, 2);
    mtbal_set_alloc_hook(count_allocation, &count);
    for (int k = 0; k < 3; k++)
        mtbal_instance_run(s.b.instance, 1);
    mtbal_set_alloc_hook(NULL, NULL);
    ck_assert_int_eq(count, 0);
    close_step(&s);
}
END_TEST

/* ------------------------------------------------------------------ the memory plan, by brute
 * force */

typedef struct life { /* of one cell: where it lies, and the calls between which it is needed */
    size_t begin, end;
    int first, last;
    bool used;
} life;

static void live(life *lives, const plan_operand *x, int at)
{
    if (x->cell < 0 || x->region != REGION_ARENA)
        return;
    life *l = &lives[x->cell];
    size_t bytes = rt_dtype_size(x->dtype);
    for (int d = 0; d < x->rank; d++)
        bytes *= (size_t)x->dims[d];
    if (!l->used)
        *l = (life){x->offset, x->offset + bytes, at, at, true};
    l->begin = x->offset < l->begin ? x->offset : l->begin;
    l->end = x->offset + bytes > l->end ? x->offset + bytes : l->end;
    l->last = at;
}

/* In the one call where a cell ends and another begins in its place, the kernel must allow it. */
static bool hands_over(const plan_call *c, int from, int to)
{
    for (int i = 0; i < c->nin; i++)
        for (int j = 0; j < c->nout; j++)
            if (c->in[i].cell == from && c->out[j].cell == to && c->kernel >= 0 &&
                lower_in_place(c->kernel, i, j))
                return true;
    return false;
}

START_TEST(test_memory_plan)
{
    step s = open_step(&models[_i], (mtbal_lower_options){.nbinds = 0}, 1);
    const mtbal_plan *p = s.b.plan;
    int ncells = 0;
    for (int i = 0; i < p->ncalls; i++) {
        for (int k = 0; k < p->calls[i].nin; k++)
            ncells = p->calls[i].in[k].cell >= ncells ? p->calls[i].in[k].cell + 1 : ncells;
        for (int k = 0; k < p->calls[i].nout; k++)
            ncells = p->calls[i].out[k].cell >= ncells ? p->calls[i].out[k].cell + 1 : ncells;
    }
    life *lives = calloc((size_t)ncells + 1, sizeof *lives);
    ck_assert(lives != NULL);
    for (int i = 0; i < p->ncalls; i++) {
        for (int k = 0; k < p->calls[i].nin; k++)
            live(lives, &p->calls[i].in[k], i);
        for (int k = 0; k < p->calls[i].nout; k++)
            live(lives, &p->calls[i].out[k], i);
    }
    int pairs = 0;
    for (int a = 0; a < ncells; a++)
        for (int b = 0; b < ncells; b++) {
            const life *x = &lives[a], *y = &lives[b];
            if (a == b || !x->used || !y->used || x->first > y->first || x->begin == x->end ||
                x->end <= y->begin || y->end <= x->begin)
                continue;
            pairs++;
            bool apart =
                x->last < y->first || (x->last == y->first && hands_over(&p->calls[x->last], a, b));
            ck_assert_msg(apart, "%s: cells %d and %d overlap in memory and in calls %d to %d",
                          models[_i].folder, a, b, y->first, x->last);
        }
    ck_assert_int_gt(pairs, 10); /* memory is used again */
    mtbal_plan_info info;
    mtbal_plan_describe(p, &info);
    ck_assert_msg((double)info.arena_bytes <= 1.10 * (double)info.arena_lower_bound,
                  "%s: %zu bytes, where %zu could do", models[_i].folder, info.arena_bytes,
                  info.arena_lower_bound);
    free(lives);
    close_step(&s);
}
END_TEST

/* ------------------------------------------------------------------ failing allocations */

typedef struct nth {
    int count, fail;
} nth;

static bool fail_nth(void *context, size_t size)
{
    nth *n = context;
    (void)size;
    return ++n->count != n->fail;
}

START_TEST(test_every_allocation_may_fail)
{
    static const char text[] =
        HEAD "g (float[n,3] x, float[3,2] w, float[2] b) => (float[n,2] y, float[2] z) {\n"
             "  s = Shape (x)  i = Constant <value_int = 0> ()  k = Gather (s, i)\n"
             "  m = MatMul (x, w)  h = Add (m, b)  r = Relu (h)  e = Exp (r)  y = Softmax (e)\n"
             "  t = Transpose (y)  q = ReduceSum <keepdims = 0> (t)  l, o = Split <axis = 1> (y)\n"
             "  c = Cast <to = 1> (k)  v = Mul (q, c)  u = ReduceMax <keepdims = 0> (o)\n"
             "  a = Sub (v, u)  f = Constant <value_ints = [2]> ()  z = Expand (a, f) }";
    bool done = false;
    int failed = 0;
    for (int n = 1; !done; n++) {
        mtbal_bind bind = {"x", 2, {4, 3}};
        mtbal_lower_options options = {.nbinds = 1, .binds = &bind, .noutputs = -1};
        mtbal_diag diag = {0};
        mtbal_model *model = parse(text);
        mtbal_plan *plan = NULL;
        mtbal_instance *instance = NULL;
        nth counter = {0, n};
        mtbal_set_alloc_hook(fail_nth, &counter);
        mtbal_status status = mtbal_lower(model, &options, &plan, &diag);
        if (status == MTBAL_OK)
            status = mtbal_instance_new(plan, 2, &instance, &diag);
        mtbal_set_alloc_hook(NULL, NULL);
        done = counter.count < n;
        /* what is known of contents may be forgotten: they are evaluated all the same */
        ck_assert_msg(status == MTBAL_OK || (!done && status == MTBAL_NOMEM),
                      "allocation %d of %d failed, and the status is %d: %s", n, counter.count,
                      (int)status, diag.what);
        failed += status == MTBAL_NOMEM;
        mtbal_instance_free(instance);
        mtbal_plan_free(plan);
        mtbal_model_free(model);
    }
    ck_assert_int_gt(failed, 50);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lower");
    TCase *small = tcase_create("graphs"), *whole = tcase_create("steps");
    int nmodels = sizeof models / sizeof *models;
    tcase_add_loop_test(small, test_by_hand, 0, 4 * (int)(sizeof by_hand / sizeof *by_hand));
    tcase_add_test(small, test_dynamic_shapes);
    tcase_add_test(small, test_only_what_is_asked_for);
    tcase_add_test(small, test_defaults_are_no_constants);
    tcase_add_test(small, test_flops);
    tcase_add_loop_test(small, test_refusals, 0, (int)(sizeof refusals / sizeof *refusals));
    tcase_add_loop_test(small, test_shapes_that_contradict, 0, 2);
    tcase_add_loop_test(small, test_states_change_in_place, 0, 2);
    tcase_add_loop_test(small, test_states_are_exchanged, 0, 2);
    tcase_add_loop_test(small, test_states_wait_for_readers, 0, 2);
    tcase_add_test(small, test_every_allocation_may_fail);
    tcase_add_loop_test(whole, test_same_without_fusion_or_in_place, 0, 3 * nmodels);
    tcase_add_loop_test(whole, test_same_bits_on_two_threads, 0, nmodels);
    tcase_add_loop_test(whole, test_a_step_allocates_nothing, 0, nmodels);
    tcase_add_loop_test(whole, test_memory_plan, 0, nmodels);
    tcase_set_timeout(small, 120);
    tcase_set_timeout(whole, 120);
    suite_add_tcase(suite, small);
    suite_add_tcase(suite, whole);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
