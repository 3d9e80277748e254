/* tests/test_infer.c: arithmetic of dimensions; shape inference through contents, functions and
 * subgraphs; contradictions; real exports against the shapes that ONNX Runtime gives their values.
 */
#include "onnxio/onnxio.h"
#include "tests/files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ helpers */

#define HEAD "<ir_version: 8, opset_import: [\"\" : 17, \"mtbal\" : 1, \"own\" : 1]>\n"

static mtbal_model *parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s in %s", diag.where, diag.what, text);
    return model;
}

static mtbal_status infer(mtbal_model *model, mtbal_diag *diag)
{
    *diag = (mtbal_diag){0};
    return mtbal_infer_graph(model->graph, diag);
}

static mtbal_model *inferred(const char *text)
{
    mtbal_diag diag;
    mtbal_model *model = parse(text);
    ck_assert_msg(infer(model, &diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
    return model;
}

/* Without the quotes around expressions. */
static const char *type_text(const mtbal_type *type)
{
    static char texts[4][512];
    static int next;
    char *text = texts[next++ % 4];
    FILE *to = fmemopen(text, sizeof texts[0], "w");
    mtbal_print_type(to, type);
    fclose(to);
    char *end = text;
    for (const char *p = text; *p; p++)
        if (*p != '"')
            *end++ = *p;
    *end = 0;
    return text;
}

static void check_type(const mtbal_model *model, const char *name, const char *type)
{
    const mtbal_value *v = mtbal_value_find(model->graph, name);
    ck_assert_msg(v != NULL, "there is no value %s", name);
    ck_assert_msg(!strcmp(type_text(&v->type), type), "%s is %s, not %s", name, type_text(&v->type),
                  type);
}

/* The graph g (INPUTS) => (y) { BODY } gives y that type. */
static void expect(const char *inputs, const char *body, const char *type)
{
    char text[4096];
    snprintf(text, sizeof text, HEAD "g (%s) => (y) { %s }", inputs, body);
    mtbal_model *model = inferred(text);
    check_type(model, "y", type);
    mtbal_model_free(model);
}

/* ------------------------------------------------------------------ dimensions */

static mtbal_model *dims_model;

static mtbal_dim name(const char *text)
{
    return (mtbal_dim){-1, mtbal_intern(dims_model->arena, text)};
}

static mtbal_dim number(int64_t n)
{
    return mtbal_dim_const(n);
}

static mtbal_dim add(mtbal_dim a, mtbal_dim b)
{
    return mtbal_dim_add(dims_model, a, b);
}

static mtbal_dim sub(mtbal_dim a, mtbal_dim b)
{
    return mtbal_dim_sub(dims_model, a, b);
}

static mtbal_dim mul(mtbal_dim a, mtbal_dim b)
{
    return mtbal_dim_mul(dims_model, a, b);
}

static mtbal_dim quotient(mtbal_dim a, mtbal_dim b)
{
    return mtbal_dim_div(dims_model, a, b);
}

static const char *dim_text(mtbal_dim d)
{
    static char texts[4][512];
    static int next;
    char *text = texts[next++ % 4];
    if (d.size >= 0)
        snprintf(text, sizeof texts[0], "%lld", (long long)d.size);
    else
        snprintf(text, sizeof texts[0], "%s", d.symbol ? d.symbol : "?");
    return text;
}

/* d with the names a, b, c bound to 1 <= sizes, through the face of the house. */
static int64_t value_of(mtbal_dim d, const int64_t sizes[3])
{
    static const char *const names[] = {"a", "b", "c"};
    if (d.size >= 0)
        return d.size;
    ck_assert_msg(d.symbol != NULL, "it is unknown");
    mtbal_model *m = mtbal_model_new(17);
    mtbal_value *v = mtbal_value_new(m->graph, "x");
    v->type.rank = 1;
    v->type.dims = mtbal_arena_array(m->arena, 1, sizeof *v->type.dims);
    v->type.dims[0] = (mtbal_dim){-1, mtbal_intern(m->arena, d.symbol)};
    ck_assert_int_eq(mtbal_add_input(m->graph, v), MTBAL_OK);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(mtbal_bind_dim(m, names[i], sizes[i]), MTBAL_OK);
    int64_t size = v->type.dims[0].size;
    ck_assert_msg(size >= 0, "%s is still %s", d.symbol, dim_text(v->type.dims[0]));
    mtbal_model_free(m);
    return size;
}

static void same(mtbal_dim a, mtbal_dim b)
{
    ck_assert_msg(mtbal_dim_equal(a, b), "%s is not %s", dim_text(a), dim_text(b));
}

static void begin_dims(void)
{
    dims_model = mtbal_model_new(17);
}

static void end_dims(void)
{
    mtbal_model_free(dims_model);
}

START_TEST(test_dim_texts)
{
    mtbal_dim h = name("h"), w = name("w"), batch = name("batch");
    const struct {
        mtbal_dim d;
        const char *text;
    } cases[] = {
        {quotient(mul(number(64), batch), number(64)), "batch"},
        {quotient(add(batch, number(1)), number(2)), "((batch+1)/2)"},
        {add(quotient(sub(h, number(1)), number(2)), number(1)), "((h+1)/2)"},
        {quotient(add(quotient(add(h, number(1)), number(2)), number(1)), number(2)), "((h+3)/4)"},
        {quotient(add(mul(number(2), h), number(1)), number(4)), "(h/2)"},
        {quotient(mul(batch, h), mul(batch, w)), "(h/w)"},
        {quotient(mul(mul(number(2), batch), add(h, w)), add(h, w)), "2*batch"},
        {mul(add(batch, number(1)), add(h, number(1))), "batch*h+batch+h+1"},
        {mul(w, mul(number(3), h)), "3*h*w"},
        {add(sub(h, w), w), "h"},
        {sub(h, h), "0"},
        {sub(number(1), h), "-h+1"},
        {sub(number(2), number(5)), "-3"},
        {add(sub(number(2), number(5)), number(4)), "1"},
        {mul(number(0), h), "0"},
        {quotient(h, number(0)), "?"},
        {add(h, (mtbal_dim){-1, NULL}), "?"},
        /* names as exporters make them */
        {add(name("past_seq + seq"), number(1)), "past_seq+seq+1"},
        {mul(name("s0//2"), number(2)), "2*(s0/2)"},
        {mul(number(2), name("Add/Add_0_dim_1")), "2*'Add/Add_0_dim_1'"},
        {quotient(mul(number(2), name("Add/Add_0_dim_1")), number(2)), "Add/Add_0_dim_1"},
        {add(name("Max(0, s0)"), h), "'Max(0, s0)'+h"},
        {add(name("2x"), number(1)), "'2x'+1"},
        {add(name("it's"), number(1)), "?"},
        {add(name("(("), number(1)), "?"},
        /* overflow */
        {mul(number(INT64_MAX), number(2)), "?"},
        {add(number(INT64_MAX), number(1)), "?"},
        {mul(mul(number(INT64_MAX), h), number(2)), "?"},
        {add(mul(number(INT64_MAX), h), h), "?"},
        {add(name("99999999999999999999*h"), number(1)), "'99999999999999999999*h'+1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(!strcmp(dim_text(cases[i].d), cases[i].text), "case %d is %s, not %s", (int)i,
                      dim_text(cases[i].d), cases[i].text);
}
END_TEST

/* A random expression, and what it comes to for the sizes. */
typedef struct sample {
    mtbal_dim d;
    int64_t value[4];
} sample;

static const int64_t sizes[4][3] = {{1, 1, 1}, {2, 3, 5}, {7, 4, 9}, {16, 31, 6}};

static sample random_sample(unsigned *seed, int depth)
{
    static const char *const names[] = {"a", "b", "c"};
    sample s;
    int kind = rand_r(seed) % (depth ? 6 : 2), which = rand_r(seed) % 3, n = rand_r(seed) % 9;
    if (kind == 0) {
        s.d = number(n);
        for (int i = 0; i < 4; i++)
            s.value[i] = n;
        return s;
    }
    if (kind == 1) {
        s.d = name(names[which]);
        for (int i = 0; i < 4; i++)
            s.value[i] = sizes[i][which];
        return s;
    }
    sample x = random_sample(seed, depth - 1), y = random_sample(seed, depth - 1);
    s.d = kind < 4 ? add(x.d, y.d) : kind == 4 ? mul(x.d, y.d) : quotient(x.d, number(n + 1));
    for (int i = 0; i < 4; i++)
        s.value[i] = kind < 4    ? x.value[i] + y.value[i]
                     : kind == 4 ? x.value[i] * y.value[i]
                                 : x.value[i] / (n + 1);
    return s;
}

/* Canonical texts mean what was computed, and the laws of arithmetic hold as equality of pointers.
 */
START_TEST(test_dim_laws)
{
    unsigned seed = 7;
    int known = 0;
    for (int round = 0; round < 300; round++) {
        sample x = random_sample(&seed, 3), y = random_sample(&seed, 2),
               z = random_sample(&seed, 1);
        for (int i = 0; i < 4 && (x.d.symbol || x.d.size >= 0); i++, known++)
            ck_assert_msg(value_of(x.d, sizes[i]) == x.value[i], "%s is %lld, not %lld",
                          dim_text(x.d), (long long)value_of(x.d, sizes[i]), (long long)x.value[i]);
        mtbal_dim product = mul(x.d, y.d), sum = add(x.d, y.d);
        if (!product.symbol || !sum.symbol || strlen(product.symbol) > 200)
            continue;
        same(sum, add(y.d, x.d));
        same(product, mul(y.d, x.d));
        same(add(sum, z.d), add(x.d, add(y.d, z.d)));
        same(sub(sum, y.d), x.d);
        same(sub(add(sum, number(1)), number(1)), sum);
        if (mul(sum, z.d).symbol && mul(x.d, z.d).symbol)
            same(mul(sum, z.d), add(mul(x.d, z.d), mul(y.d, z.d)));
        if (y.d.size != 0)
            same(quotient(product, y.d), x.d);
    }
    ck_assert_int_gt(known, 900);
}
END_TEST

START_TEST(test_bind)
{
    mtbal_model *m = inferred(HEAD "g (float[batch, \"2*batch + 1\", \"Add/Add_dim_0\", n] x) => "
                                   "(float[a,b,c,d] y) { y = Relu (x) }");
    mtbal_diag diag;
    check_type(m, "y", "float[batch,2*batch + 1,Add/Add_dim_0,n]");
    ck_assert_int_eq(mtbal_bind_dim(m, "batch", 3), MTBAL_OK);
    ck_assert_int_eq(mtbal_bind_dim(m, "Add", 3), MTBAL_OK);
    ck_assert_int_eq(mtbal_bind_dim(m, "Add/Add_dim_0", 4), MTBAL_OK);
    ck_assert_int_eq(mtbal_bind_dim(m, "n", -1), MTBAL_INVALID);
    ck_assert_int_eq(infer(m, &diag), MTBAL_OK);
    check_type(m, "y", "float[3,7,4,n]");
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ contents */

/* Idioms of exporters: y's type comes out of shape arithmetic. */
static const struct idiom {
    const char *inputs, *body, *type;
} idioms[] = {
    {"float[batch,seq,64] x",
     "s = Shape (x) i = Constant <value_int = 0> () j = Constant <value_int = 1> ()"
     "b = Gather (s, i) n = Gather (s, j) z = Constant <value_ints = [0]> ()"
     "b1 = Unsqueeze (b, z) n1 = Unsqueeze (n, z) h = Constant <value_ints = [4, 16]> ()"
     "t = Concat <axis = 0> (b1, n1, h) y = Reshape (x, t)",
     "float[batch,seq,4,16]"},
    {"float[batch,4,16] x", "t = Constant <value_ints = [-1, 16]> () y = Reshape (x, t)",
     "float[4*batch,16]"},
    {"float[batch,4,16] x", "t = Constant <value_ints = [0, -1]> () y = Reshape (x, t)",
     "float[batch,64]"},
    {"float[?,4,16] x", "t = Constant <value_ints = [0, -1]> () y = Reshape (x, t)", "float[?,64]"},
    {"float[batch,seq,64] x",
     "s = Shape <start = 0, end = 2> (x) m = Constant <value_ints = [-1]> ()"
     "t = Concat <axis = 0> (s, m) y = Reshape (x, t)",
     "float[batch,seq,64]"},
    {"float[batch,seq] x",
     "n = Size (x) z = Constant <value_ints = [0]> () t = Unsqueeze (n, z) y = Reshape (x, t)",
     "float[batch*seq]"},
    {"float[batch,10] x", "s = Shape (x) p = ReduceProd <keepdims = 1> (s) y = Reshape (x, p)",
     "float[10*batch]"},
    {"float[batch,seq] x, float[1,512,8] table",
     "s = Shape <start = 1> (x) z = Constant <value_ints = [0]> () a = Constant <value_ints = [1]> "
     "()"
     "y = Slice (table, z, s, a)",
     "float[1,seq,8]"},
    {"float[batch,seq] x, float[1,512,8] table",
     "s = Shape <start = 1> (x) k = Constant <value_ints = [3]> () e = Add (s, k)"
     "a = Constant <value_ints = [1]> () y = Slice (table, k, e, a)",
     "float[1,seq,8]"},
    {"float[batch,seq] x",
     "b = Constant <value_ints = [1]> () e = Constant <value_ints = [9223372036854775807]> ()"
     "y = Slice (x, b, e, b)",
     "float[batch,seq-1]"},
    {"float[batch,seq] x",
     "b = Constant <value_ints = [0]> () e = Constant <value_ints = [-1]> ()"
     "a = Constant <value_ints = [1]> () y = Slice (x, b, e, a)",
     "float[batch,seq-1]"},
    {"float[batch,seq] x",
     "b = Constant <value_ints = [0]> () e = Constant <value_ints = [9]> ()"
     "a = Constant <value_ints = [1]> () y = Slice (x, b, e, a)",
     "float[batch,?]"},
    {"float[batch,seq] x",
     "b = Constant <value_ints = [0]> () e = Constant <value_ints = [9223372036854775807]> ()"
     "a = Constant <value_ints = [-1]> () k = Constant <value_ints = [3]> () y = Slice (x, b, e, "
     "a, k)",
     "float[batch,((seq+2)/3)]"},
    /* expand(-1, n): where the shape says -1, the axis stays */
    {"float[batch,1] x, float[seq] z",
     "n = Shape (z) one = Constant <value_ints = [1]> () m = Constant <value_ints = [-1]> ()"
     "w = Concat <axis = 0> (m, n) k = Shape (w) o = ConstantOfShape <value = int64[1] {1}> (k)"
     "mm = Mul (o, m) q = Equal (w, mm) t = Where (q, o, w) y = Expand (x, t)",
     "float[batch,seq]"},
    {"float[batch,seq] x",
     "s = Shape <start = 1> (x) i = Constant <value_ints = [0]> () n = Squeeze (s, i)"
     "a = Constant <value_int = 0> () d = Constant <value_int = 1> () y = Range (a, n, d)",
     "int64[seq]"},
    {"float[batch,seq] x", "s = Shape (x) c = Cast <to = 6> (s) y = ConstantOfShape (s)",
     "float[batch,seq]"},
    {"float[batch,seq] x",
     "s = Shape (x) a, b = Split <axis = 0> (s) t = Concat <axis = 0> (b, a) y = Expand (x, t)",
     "float[?,?]"},
    {"float[1,1] x, float[batch,seq] z",
     "s = Shape (z) a, b = Split <axis = 0> (s) t = Concat <axis = 0> (b, a) y = Expand (x, t)",
     "float[seq,batch]"},
    {"float[n,3,h,w] x",
     "r = Constant <value_floats = [1.0, 1.0]> () q = Constant <value_floats = [2.0, 0.5]> ()"
     "s = Concat <axis = 0> (r, q) y = Resize (x, , s)",
     "float[n,3,2*h,(w/2)]"},
    {"float[n,m] x, float[k] z",
     "s = Shape (z) u = Constant <value_ints = [1]> () t = Max (s, u) y = Expand (z, t)",
     "float[k]"},
    {"float[n,k] x",
     "a = Shape (x) b = Shape <start = -1> (x) i = Constant <value_ints = [-1]> ()"
     "c = Gather (a, i) q = Equal (b, c) n = Not (q) y = If (q) <then_branch = f () => "
     "(p) { p = Relu (x) }, else_branch = f () => (p) { p = Transpose (x) }>",
     "float[n,k]"},
};

START_TEST(test_idioms)
{
    const struct idiom *i = &idioms[_i];
    expect(i->inputs, i->body, i->type);
}
END_TEST

/* ------------------------------------------------------------------ subgraphs and functions */

START_TEST(test_loop)
{
    /* the second carried value grows: its axis is unknown; scan outputs have the trip count */
    mtbal_model *m = inferred(
        HEAD "g (float[n,4] x) => (a, b, c) {\n"
             "trips = Constant <value_int = 6> ()  yes = Constant <value = bool {1}> ()\n"
             "a, b, c = Loop (trips, yes, x, x) <body = f (i, t, p, q) => (t2, p2, q2, r) {\n"
             "  t2 = Identity (t)  p2 = Relu (p)  q2 = Concat <axis = 0> (q, q)\n"
             "  r = ReduceSum <keepdims = 0> (p) }>\n}");
    check_type(m, "a", "float[n,4]");
    check_type(m, "b", "float[?,4]");
    check_type(m, "c", "float[6]");
    mtbal_model_free(m);
}
END_TEST

/* What a function's subgraph declares stays when types are inferred: ONNX Runtime wants it. */
START_TEST(test_declared_subgraph)
{
    mtbal_model *m = inferred(
        "<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]>\n"
        "g (float[n,4] x) => (y) { y = own.F (x) }\n"
        "<opset_import: [\"\" : 17], domain: \"own\">\n"
        "F (a) => (b) {\n"
        "  trips = Constant <value_int = 6> ()  yes = Constant <value = bool {1}> ()\n"
        "  b = Loop (trips, yes, a) <body = f (int64 i, bool t, float[r,4] p) => (t2, q) {\n"
        "    t2 = Identity (t)  q = Relu (p) }> }");
    const mtbal_graph *body = mtbal_attr_find(m->functions[0]->body->last, "body")->g;
    ck_assert(body->inputs[0]->type.dtype == MTBAL_INT64 && body->inputs[0]->type.rank == 0);
    ck_assert(body->inputs[1]->type.dtype == MTBAL_BOOL && body->inputs[1]->type.rank == 0);
    ck_assert(body->inputs[2]->type.rank == 2);
    mtbal_model_free(m);
}
END_TEST

START_TEST(test_scan)
{
    mtbal_model *m =
        inferred(HEAD "g (float[h] s, float[len,3] x) => (t, y) {\n"
                      "t, y = Scan <num_scan_inputs = 1, scan_output_axes = [1], body = "
                      "f (p, e) => (q, z) { q = Relu (p)  z = Neg (e) }> (s, x) }");
    check_type(m, "t", "float[h]");
    check_type(m, "y", "float[3,len]");
    mtbal_model_free(m);
}
END_TEST

START_TEST(test_if)
{
    /* what the branches have in common; a branch that contradicts itself is not taken */
    expect("bool c, float[n,3,1] x",
           "y = If (c) <then_branch = f () => (p) { p = Relu (x) }, else_branch = f () => (p) "
           "{ k = Constant <value_ints = [1,1,5]> () p = Expand (x, k) }>",
           "float[n,3,?]");
    expect("bool c, float[n,3] x",
           "y = If (c) <then_branch = f () => (p) { a = Constant <value_ints = [1]> () p = Squeeze "
           "(x, a) }, else_branch = f () => (p) { p = Relu (x) }>",
           "float[n,3]");
    mtbal_diag diag;
    mtbal_model *m =
        parse(HEAD "g (float[n,3] x) => (y) { c = Constant <value = bool {1}> () y = If (c) "
                   "<then_branch = f () => (p) { a = Constant <value_ints = [1]> () p = "
                   "Squeeze (x, a) }, else_branch = f () => (p) { p = Relu (x) }> }");
    ck_assert_int_eq(infer(m, &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.what, "axis 1 of x is 3") != NULL, "%s", diag.what);
    mtbal_model_free(m);
}
END_TEST

static const char functions[] =
    "g (float[n,4] x, float[5] z) => (a, b, c, d) {\n"
    "  a = own.Twice <axis = 0> (x)  b = own.Twice (x)  c = own.Twice <axis = 0> (z)\n"
    "  d = own.Squeezed <k = [1,4,1]> (z)\n"
    "}\n"
    "<domain: \"own\", opset_import: [\"\" : 17, \"own\" : 1]> Twice <axis: int = 1> (p) => (q) {\n"
    "  r = own.Once (p)  q = Concat <axis: int = @axis> (r, p)\n"
    "}\n"
    "<domain: \"own\", opset_import: [\"\" : 17]> Once (p) => (q) { q = Relu (p) }\n"
    "<domain: \"own\", opset_import: [\"\" : 12]> Squeezed <k> (p) => (s) {\n"
    "  c = Constant <value_ints: ints = @k> ()  e = ConstantOfShape (c)\n"
    "  s = Squeeze <axes = [0]> (e)\n"
    "}\n";

START_TEST(test_functions)
{
    char text[4096];
    snprintf(text, sizeof text, HEAD "%s", functions);
    mtbal_model *m = inferred(text);
    check_type(m, "a", "float[2*n,4]");
    check_type(m, "b", "float[n,8]");
    check_type(m, "c", "float[10]");
    check_type(m, "d", "float[4,1]");
    /* and nothing of a call stays in the bodies */
    for (int i = 0; i < m->nfunctions; i++)
        for (const mtbal_node *n = m->functions[i]->body->first; n; n = n->next) {
            ck_assert_int_eq(n->out[0]->type.rank, -1);
            ck_assert_ptr_null(n->out[0]->tensor);
            ck_assert_ptr_null(n->out[0]->content);
        }
    mtbal_model_free(m);
}
END_TEST

START_TEST(test_function_loops)
{
    mtbal_diag diag;
    mtbal_model *m = parse(HEAD "g (float[n] x) => (y) { y = own.A (x) }\n"
                                "<domain: \"own\", opset_import: [\"own\" : 1]> A (p) => (q) { q = "
                                "own.B (p) }\n"
                                "<domain: \"own\", opset_import: [\"own\" : 1]> B (p) => (q) { q = "
                                "own.A (p) }\n");
    ck_assert_int_eq(infer(m, &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.what, "calls itself") != NULL, "%s", diag.what);
    mtbal_model_free(m);
    /* 2^40 calls: an end comes soon, and without an error */
    char text[8192];
    size_t n =
        (size_t)snprintf(text, sizeof text, HEAD "g (float[n] x) => (y) { y = own.F0 (x) }\n");
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "<domain: \"own\", opset_import: [\"own\" : 1]> F%d (p) => (q) { r = "
                              "own.F%d (p) q = own.F%d (p) }\n",
                              i, i + 1, i + 1);
    m = parse(text);
    clock_t start = clock();
    ck_assert_int_eq(infer(m, &diag), MTBAL_OK);
    ck_assert_double_lt((double)(clock() - start) / CLOCKS_PER_SEC, 8);
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ contradictions */

static const struct contradiction {
    const char *inputs, *body, *what; /* a part of the message */
} contradictions[] = {
    {"float[2,64] a, float[32,8] b", "y = MatMul (a, b)", "inner sizes 64 of a and 32 of b differ"},
    {"float[2,64] a, float[8,32] b", "y = Gemm <transB = 1> (a, b)",
     "inner sizes 64 of a and 32 of b differ"},
    {"float[2,3] a, float[2,4] b", "y = Add (a, b)", "[2,3] and [2,4]"},
    {"float[n,3] a, float[n,4] b", "y = Add (a, b)", "[n,3] and [n,4]"},
    {"float[2,3] a, float[2,4] b", "y = Concat <axis = 0> (a, b)", "axis 1 is 3"},
    {"float[2,3] a, float[2] b", "y = Concat <axis = 0> (a, b)", "a has rank 2 and b rank 1"},
    {"float[2,3] a", "s = Constant <value_ints = [4,2]> () y = Reshape (a, s)", "6 elements of a"},
    {"float[2,3] a", "s = Constant <value_ints = [4,-1]> () y = Reshape (a, s)", "divided by 4"},
    {"float[2,3] a", "y = Transpose <perm = [0,0]> (a)", "perm is not a permutation"},
    {"float[2,3] a", "s = Constant <value_ints = [1]> () y = Squeeze (a, s)", "axis 1 of a is 3"},
    {"float[2,3] a", "s = Constant <value_ints = [7]> () y = Unsqueeze (a, s)", "out of the range"},
    {"float[2,3] a", "y = ReduceMean <axes = [2]> (a)", "axis 2 of a, which has rank 2"},
    {"float[2,3] a, int64[2] i", "y = Gather <axis = -3> (a, i)", "axis is -3"},
    {"float[2,3] a", "s = Shape (a) i = Constant <value_int = 5> () y = Gather (s, i)",
     "element 5 of s"},
    {"float[n,3,8,8] a, float[4,2,3,3] w", "y = Conv (a, w)", "a has 3 channels"},
    {"float[n,3,8,8] a, float[4,3,3] w", "y = Conv (a, w)", "rank 4"},
    {"float[n,3,8,8] a, float[4,2,3,3] w", "y = ConvTranspose (a, w)",
     "must be [C,_,_,*], where C = 3"},
    {"float[n,3,8,8] a", "y = MaxPool <kernel_shape = [2,2], strides = [0,1]> (a)", "out of range"},
    {"float[n,3,8] a, float[4] s, float[3] b", "y = BatchNormalization (a, s, b, b, b)",
     "s, has the shape [4], and must be [C], where C = 3"},
    {"float[n,5,8] a, int64[n] l", "y = SoftmaxCrossEntropyLoss (a, l)", "must be [N,S*]"},
    {"float[n,5] a, int64[n] l, float[6,6] w", "y = Einsum <equation = \"ij,ij->i\"> (a, w) ",
     "axis 1 is 5"},
    {"float[6] a", "p, q = Split <split = [1,2]> (a) y = Relu (p)", "3 elements"},
    {"float[2,3] a", "s = Constant <value_ints = [1,1]> () y = Pad (a, s)", "2 pads"},
    {"float[2,3] a", "s = Constant <value_ints = [1]> () y = Tile (a, s)", "1 repeats"},
    {"float[2,3] a", "k = Constant <value_ints = [4]> () y, i = TopK (a, k)", "first 4 of 3"},
    {"float[2,3] a, float b", "y = MatMul (a, b)", "b is a scalar"},
};

START_TEST(test_contradictions)
{
    const struct contradiction *c = &contradictions[_i];
    char text[2048];
    mtbal_diag diag;
    snprintf(text, sizeof text, HEAD "g (%s) => (y) { %s }", c->inputs, c->body);
    mtbal_model *m = parse(text);
    ck_assert_msg(infer(m, &diag) == MTBAL_INVALID, "there is no error in %s", c->body);
    ck_assert_msg(strstr(diag.what, c->what) != NULL, "'%s' is not in: %s", c->what, diag.what);
    ck_assert_msg(!strncmp(diag.where, "node ", 5) && *diag.hint, "%s; %s", diag.where, diag.hint);
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ real exports */

static const char *const exports[] = {
    "mlp_cls_reg.model.op13",
    "mlp_cls_reg.functions",
    "cnn_nyu.model.op14",
    "cnn_nyu.preserve_dyn_hw",
    "transformer_glue.model.op13",
    "transformer_glue.model.op17",
    "transformer_glue.torch_encoder_layer",
    "fixtures.control_flow",
    "fixtures.dynamo_like",
};

static mtbal_status forget(mtbal_node *node, void *context)
{
    (void)context;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            node->out[i]->type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    return MTBAL_OK;
}

/* What depends on data has a count that nobody knows before. */
static bool depends_on_data(const mtbal_value *v)
{
    const mtbal_node *def = v->def;
    return def && (mtbal_node_is(def, MTBAL_OP_non_zero) ||
                   (mtbal_node_is(def, MTBAL_OP_transpose) && depends_on_data(def->in[0])));
}

static mtbal_model *read_export(const char *path)
{
    char full[300];
    mtbal_model *m;
    mtbal_diag diag = {0};
    snprintf(full, sizeof full, "tests/data/%s", path);
    ck_assert_msg(mtbal_onnx_read(full, &m, &diag) == MTBAL_OK, "%s: %s", full, diag.what);
    mtbal_graph_walk(m->graph, forget, NULL);
    return m;
}

/* Binds "batch=3 seq=5" in the input types. */
static void bind_all(mtbal_model *m, const char *line)
{
    char symbol[64];
    int size, n;
    for (; sscanf(line, " %63[^=]=%d%n", symbol, &size, &n) == 2; line += n)
        ck_assert_int_eq(mtbal_bind_dim(m, symbol, size), MTBAL_OK);
}

/* The value's inferred type with names bound: through an input of a model of its own. */
static void bound_shape(const mtbal_type *type, const char *line, char text[512])
{
    mtbal_model *m = mtbal_model_new(17);
    mtbal_value *v = mtbal_value_new(m->graph, "x");
    v->type = *type;
    v->type.dims = mtbal_arena_copy(m->arena, type->dims, (size_t)type->rank * sizeof *type->dims);
    ck_assert_int_eq(mtbal_add_input(m->graph, v), MTBAL_OK);
    bind_all(m, line);
    size_t n = (size_t)snprintf(text, 512, "[");
    for (int d = 0; d < type->rank; d++)
        n += (size_t)snprintf(text + n, 512 - n, "%s%lld", d ? "," : "",
                              (long long)v->type.dims[d].size);
    snprintf(text + n, 512 - n, "]");
    mtbal_model_free(m);
}

/* Without any declared type: symbolic shapes that say all, and come to what ONNX Runtime has; and
 * numbers when the sizes are bound first. */
START_TEST(test_exports)
{
    char path[300], sizes_line[200], line[600], value[400], shape[100], have[512];
    mtbal_diag diag;
    snprintf(path, sizeof path, "tests/data/shapes/%s.txt", exports[_i]);
    FILE *f = fopen(path, "r");
    ck_assert_msg(f && fgets(path, sizeof path, f) && fgets(sizes_line, sizeof sizes_line, f), "%s",
                  path);
    path[strcspn(path, "\n")] = 0;
    mtbal_model *symbolic = read_export(path), *bound = read_export(path);
    bind_all(bound, sizes_line);
    ck_assert_msg(infer(symbolic, &diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
    ck_assert_msg(infer(bound, &diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
    int checked = 0;
    while (fgets(line, sizeof line, f)) {
        ck_assert_int_eq(sscanf(line, "%399s %99s", value, shape), 2);
        const mtbal_value *v = mtbal_value_find(symbolic->graph, value),
                          *w = mtbal_value_find(bound->graph, value);
        ck_assert_msg(v && w && v->type.rank >= 0 && v->type.dtype, "%s has no type", value);
        for (int d = 0; d < v->type.rank; d++)
            ck_assert_msg(v->type.dims[d].size >= 0 || v->type.dims[d].symbol || depends_on_data(v),
                          "%s is %s", value, type_text(&v->type));
        if (depends_on_data(v))
            continue;
        bound_shape(&v->type, sizes_line, have);
        ck_assert_msg(!strcmp(have, shape), "%s is %s: %s, not %s", value, type_text(&v->type),
                      have, shape);
        bound_shape(&w->type, "", have);
        ck_assert_msg(!strcmp(have, shape), "%s, bound, is %s, not %s", value, have, shape);
        checked++;
    }
    ck_assert_int_gt(checked, 5);
    fclose(f);
    mtbal_model_free(symbolic);
    mtbal_model_free(bound);
}
END_TEST

START_TEST(test_declared)
{
    /* what is declared stays where inference knows less, and gives way where it knows more */
    mtbal_model *m = inferred(HEAD "g (float[n,4] x) => (int64[2,count] y, float[rows,?] z) {\n"
                                   "y = NonZero (x)  z = Relu (x) }");
    check_type(m, "y", "int64[2,count]");
    check_type(m, "z", "float[n,4]");
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ limits */

START_TEST(test_linear_time)
{
    enum { N = 2500 };
    char *text = malloc(N * 200 + 1000), *p = text;
    p += sprintf(p, HEAD "g (float[batch,seq,64] x) => (y) {\nv0 = Relu (x)\n");
    for (int i = 0; i < N; i++)
        p += sprintf(p,
                     "s%d = Shape (v%d) i%d = Identity (s%d) r%d = Reshape (v%d, i%d) v%d = Add "
                     "(r%d, x)\n",
                     i, i, i, i, i, i, i, i + 1, i);
    sprintf(p, "y = Relu (v%d) }", N);
    mtbal_model *m = parse(text);
    mtbal_diag diag;
    clock_t start = clock();
    ck_assert_int_eq(infer(m, &diag), MTBAL_OK);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    check_type(m, "y", "float[batch,seq,64]");
    ck_assert_msg(seconds < 0.5, "10,000 nodes take %.0f ms", seconds * 1e3);
    mtbal_model_free(m);
    free(text);
}
END_TEST

static mtbal_status infer_functions(void *context)
{
    char text[4096];
    (void)context;
    mtbal_diag diag = {0};
    snprintf(text, sizeof text, HEAD "%s", functions);
    mtbal_model *m = mtbal_parse_model(text, &diag);
    mtbal_status status = m ? mtbal_infer_graph(m->graph, &diag) : diag.status;
    mtbal_model_free(m);
    return status;
}

static mtbal_status infer_idiom(void *context)
{
    const struct idiom *i = context;
    char text[4096];
    mtbal_diag diag = {0};
    snprintf(text, sizeof text, HEAD "g (%s) => (y) { %s }", i->inputs, i->body);
    mtbal_model *m = mtbal_parse_model(text, &diag);
    mtbal_status status = m ? mtbal_infer_graph(m->graph, &diag) : diag.status;
    mtbal_model_free(m);
    return status;
}

START_TEST(test_no_memory)
{
    ck_assert_int_gt(fail_each_allocation(infer_functions, NULL), 3);
    for (size_t i = 0; i < sizeof idioms / sizeof *idioms; i++)
        ck_assert_int_gt(fail_each_allocation(infer_idiom, (void *)(uintptr_t)&idioms[i]), 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("infer");
    TCase *dims = tcase_create("dimensions"), *rest = tcase_create("inference");
    tcase_add_checked_fixture(dims, begin_dims, end_dims);
    tcase_add_test(dims, test_dim_texts);
    tcase_add_test(dims, test_dim_laws);
    tcase_add_test(rest, test_bind);
    tcase_add_loop_test(rest, test_idioms, 0, (int)(sizeof idioms / sizeof *idioms));
    tcase_add_test(rest, test_loop);
    tcase_add_test(rest, test_declared_subgraph);
    tcase_add_test(rest, test_scan);
    tcase_add_test(rest, test_if);
    tcase_add_test(rest, test_functions);
    tcase_add_test(rest, test_function_loops);
    tcase_add_loop_test(rest, test_contradictions, 0,
                        (int)(sizeof contradictions / sizeof *contradictions));
    tcase_add_loop_test(rest, test_exports, 0, (int)(sizeof exports / sizeof *exports));
    tcase_add_test(rest, test_declared);
    tcase_add_test(rest, test_linear_time);
    tcase_add_test(rest, test_no_memory);
    tcase_set_timeout(rest, 120);
    suite_add_tcase(suite, dims);
    suite_add_tcase(suite, rest);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
