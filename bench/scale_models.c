/* bench/scale_models.c: models that are made up, as ONNX text. All have an input float[N,width] x,
 * and two losses of the value h, which follows from x and from parameters. */
#include "bench/scale.h"

/* Up to where the initializers stand. */
static void begin(FILE *to, int opset, int width)
{
    fprintf(to,
            "<ir_version: 10, opset_import: [\"\": %d, \"own\": 1]>\n"
            "scale (float[N,%d] x) => (float loss_a, float loss_b) <\n  float[1] w = {0.5}",
            opset, width);
}

static void losses(FILE *to)
{
    fprintf(to, "  loss_a = ReduceSumSquare <keepdims = 0> (h)\n"
                "  loss_b = ReduceL1 <keepdims = 0> (h)\n}\n");
}

/* name0, name1, ...: n operands. */
static void operands(FILE *to, const char *name, int n)
{
    for (int i = 0; i < n; i++)
        fprintf(to, "%s%s%d", i ? ", " : "", name, i);
}

/* ------------------------------------------------------------------ the graph and the passes */

void scale_chain(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, ",\n  float[4,4] m = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n / 2; i++)
        fprintf(to, "  g%d = MatMul (h%d, m)\n  h%d = Tanh (g%d)\n", i, i, i + 1, i);
    fprintf(to, "  h = Identity (h%d)\n", n / 2);
    losses(to);
}

void scale_wide(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, ",\n  float[4,4] m = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {\n  y = Mul (x, w)\n"
                "  h0 = Tanh (y)\n");
    for (int i = 0; i < n / 3; i++)
        fprintf(to, "  f%d = MatMul (y, m)\n  g%d = Tanh (f%d)\n  h%d = Add (h%d, g%d)\n", i, i, i,
                i + 1, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n / 3);
    losses(to);
}

void scale_norms(FILE *to, int n)
{
    begin(to, 23, 4);
    for (int i = 0; i < n; i++)
        fprintf(to, ",\n  float[4] s%d = {1,1,1,1}", i);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  h%d = RMSNormalization (h%d, s%d)\n", i + 1, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

void scale_branches(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to,
            ",\n  float zero = {0}> {\n  h0 = Mul (x, w)\n  all = ReduceSum <keepdims = 0> (x)\n"
            "  c = Greater (all, zero)\n");
    for (int i = 0; i < n; i++)
        fprintf(to,
                "  h%d = If (c) <then_branch = t%d () => (float[N,4] a%d) { a%d = Mul (h%d, w) },\n"
                "    else_branch = e%d () => (float[N,4] b%d) { b%d = Tanh (h%d) }>\n",
                i + 1, i, i, i, i, i, i, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

void scale_constants(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  c%d = Constant <value_floats = [%d.5, 1.0]> ()\n", i, i);
    fprintf(to, "  c = Concat <axis = 0> (");
    operands(to, "c", n);
    fprintf(to, ")\n  d = ReduceMean <keepdims = 0> (c)\n  h = Mul (h0, d)\n");
    losses(to);
}

void scale_functions(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  h%d = own.F%d (h%d)\n", i + 1, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
    for (int i = 0; i < n; i++)
        fprintf(to,
                "<domain: \"own\", opset_import: [\"\": 17]>\nF%d (a) => (b) { b = Tanh (a) }\n",
                i);
}

void scale_parameters(FILE *to, int n)
{
    begin(to, 17, 4);
    for (int i = 0; i < n; i++)
        fprintf(to, ",\n  float[4] p%d = {0.1, 0.2, 0.3, 0.%d}", i, i % 10);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  h%d = Add (h%d, p%d)\n", i + 1, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

void scale_batch_norms(FILE *to, int n)
{
    begin(to, 17, 4);
    for (int i = 0; i < n; i++)
        fprintf(to,
                ",\n  float[4] s%d = {1,1,1,1}, float[4] b%d = {0,0,0,0},\n"
                "  float[4] m%d = {0,0,0,0}, float[4] v%d = {1,1,1,1}",
                i, i, i, i);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to,
                "  h%d, m%d_, v%d_ = BatchNormalization <training_mode = 1>\n"
                "    (h%d, s%d, b%d, m%d, v%d)\n",
                i + 1, i, i, i, i, i, i, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

void scale_concat(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, "> {\n  y = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  p%d = Tanh (y)\n", i);
    fprintf(to, "  h = Concat <axis = 1> (");
    operands(to, "p", n);
    fprintf(to, ")\n");
    losses(to);
}

void scale_split(FILE *to, int n)
{
    begin(to, 18, n);
    fprintf(to, "> {\n  y = Mul (x, w)\n  ");
    operands(to, "p", n);
    fprintf(to, " = Split <axis = 1, num_outputs = %d> (y)\n", n);
    for (int i = 0; i < n; i++)
        fprintf(to, "  q%d = Tanh (p%d)\n", i, i);
    fprintf(to, "  h = Concat <axis = 1> (");
    operands(to, "q", n);
    fprintf(to, ")\n");
    losses(to);
}

void scale_sum(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, "> {\n  y = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  p%d = Tanh (y)\n", i);
    fprintf(to, "  a = Sum (");
    operands(to, "p", n);
    fprintf(to, ")\n  b = Max (");
    operands(to, "p", n);
    fprintf(to, ")\n  h = Add (a, b)\n");
    losses(to);
}

void scale_sequence(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, "> {\n  y = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  p%d = Tanh (y)\n", i);
    fprintf(to, "  list = SequenceConstruct (");
    operands(to, "p", n);
    fprintf(to, ")\n  h = ConcatFromSequence <axis = 1> (list)\n");
    losses(to);
}

/* n trips, known before the run, beside a chain as long. */
void scale_loop(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, ",\n  int64 trips = {%d}, bool go = {1}> {\n  y = Mul (x, w)\n", n);
    fprintf(to, "  h0 = Loop (trips, go, y) <body = body (int64 i, bool c, float[N,4] a)\n"
                "    => (bool d, float[N,4] b) { d = Identity (c)\n b = Tanh (a) }>\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  h%d = Tanh (h%d)\n", i + 1, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

/* y[mask], n times, each mask made anew; all of them side by side. */
void scale_masks(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, ",\n  float zero = {0}> {\n  y = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to,
                "  c%d = Greater (x, zero)\n  i%d = NonZero (c%d)\n  t%d = Transpose (i%d)\n"
                "  g%d = GatherND (y, t%d)\n  p%d = ReduceSum <keepdims = 1> (g%d)\n",
                i, i, i, i, i, i, i, i, i);
    fprintf(to, "  h = Concat <axis = 0> (");
    operands(to, "p", n);
    fprintf(to, ")\n");
    losses(to);
}

/* Sizes that are sums of symbols. */
void scale_symbols(FILE *to, int n)
{
    begin(to, 17, 4);
    fprintf(to, ",\n  int64[2] shape = {-1, 4}> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to,
                "  a%d = Concat <axis = 0> (h%d, x)\n  b%d = Concat <axis = 1> (a%d, a%d)\n"
                "  f%d = Reshape (b%d, shape)\n"
                "  s%d, t%d = Split <axis = 0> (f%d)\n  h%d = Tanh (s%d)\n",
                i, i, i, i, i, i, i, i, i, i, i + 1, i);
    fprintf(to, "  h = Identity (h%d)\n", n);
    losses(to);
}

/* ONNX's own Gradient of a sum with respect to each of its n operands. */
void scale_gradients(FILE *to, int n)
{
    fprintf(to, "<ir_version: 10, opset_import: [\"\": 17, \"ai.onnx.preview.training\": 1]>\n"
                "scale (float[N,4] x) => (float loss");
    for (int i = 0; i < n; i++)
        fprintf(to, ", float[4] g%d", i);
    fprintf(to, ") <\n  float[1] w = {0.5}");
    for (int i = 0; i < n; i++)
        fprintf(to, ",\n  float[4] p%d = {0.1, 0.2, 0.3, 0.4}", i);
    fprintf(to, "> {\n  h0 = Mul (x, w)\n");
    for (int i = 0; i < n; i++)
        fprintf(to, "  h%d = Add (h%d, p%d)\n", i + 1, i, i);
    fprintf(to, "  loss = ReduceSumSquare <keepdims = 0> (h%d)\n  ", n);
    operands(to, "g", n);
    fprintf(to, " = ai.onnx.preview.training.Gradient <y = \"loss\", xs = [");
    for (int i = 0; i < n; i++)
        fprintf(to, "%s\"p%d\"", i ? ", " : "", i);
    fprintf(to, "]> (");
    operands(to, "p", n);
    fprintf(to, ")\n}\n");
}

/* ------------------------------------------------------------------ kernels, and what is emitted
 * for them. `rows` of 4: n of them */

static void rows(FILE *to, int n, int opset, const char *more)
{
    begin(to, opset, 4 * n);
    fprintf(to, ",\n  int64[2] shape = {%d, 4}%s> {\n  f = Mul (x, w)\n  y = Reshape (f, shape)\n",
            n, more);
}

void scale_top_k(FILE *to, int n)
{
    char more[64];
    snprintf(more, sizeof more, ", int64[1] k = {%d}", n / 2);
    rows(to, n, 17, more);
    fprintf(to, "  h, places = TopK <axis = 0> (y, k)\n");
    losses(to);
}

void scale_cum_prod(FILE *to, int n)
{
    rows(to, n, 26, ", int64 axis = {0}, float tiny = {0.001}, float one = {1}");
    fprintf(to, "  s = Mul (y, tiny)\n  z = Add (s, one)\n  h = CumProd (z, axis)\n");
    losses(to);
}

void scale_dft(FILE *to, int n)
{
    begin(to, 17, n);
    fprintf(to,
            ",\n  int64[3] shape = {1, %d, 1}> {\n  f = Mul (x, w)\n  y = Reshape (f, shape)\n"
            "  h = DFT <axis = 1> (y)\n",
            n);
    losses(to);
}

/* A row of n pixels, of 64 each, to twice the size. */
void scale_resize(FILE *to, int n)
{
    begin(to, 17, 64 * n);
    fprintf(to,
            ",\n  int64[4] shape = {1, 4, 16, %d}, float[4] scales = {1, 1, 2, 2}> {\n"
            "  f = Mul (x, w)\n  y = Reshape (f, shape)\n"
            "  h = Resize <mode = \"linear\"> (y, , scales)\n",
            n);
    losses(to);
}

void scale_slice(FILE *to, int n)
{
    begin(to, 17, 64 * n);
    fprintf(to,
            ",\n  int64[3] shape = {%d, 8, 8}, int64[3] from = {1, 1, 1},\n"
            "  int64[3] to = {1000000000, 7, 7}, int64[3] axes = {0, 1, 2}> {\n"
            "  f = Mul (x, w)\n  y = Reshape (f, shape)\n  h = Slice (y, from, to, axes)\n",
            n);
    losses(to);
}

/* n counts the elements of the matrix in thousands. */
void scale_diagonal(FILE *to, int n)
{
    int side = 1;
    while (side * side < 1000 * n)
        side++;
    begin(to, 17, side);
    fprintf(to, "> {\n  f = Mul (x, w)\n  t = Transpose (f)\n  y = Add (f, t)\n"
                "  h = Einsum <equation = \"ii->i\"> (y)\n");
    losses(to);
}
