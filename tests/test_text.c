/* tests/test_text.c: ONNX text: what is printed reads back as the same model, and as it stands in
 * the syntax's description; errors name their place. */
#include "onnxio/onnxio.h"
#include "tests/files.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ helpers */

static char *printed(const mtbal_model *model, int64_t most)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(mtbal_print_model(to, model, most));
    fclose(to);
    return text;
}

static mtbal_model *parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s in\n%.2000s", diag.where, diag.what, text);
    return model;
}

static mtbal_node *node_of(const mtbal_model *m, const char *op)
{
    mtbal_node *node = m->graph->first;
    while (node && strcmp(node->op, op) != 0)
        node = node->next;
    ck_assert_msg(node != NULL, "there is no %s", op);
    return node;
}

static const mtbal_attr *attr_of(const mtbal_model *m, const char *op, const char *name)
{
    const mtbal_attr *a = mtbal_attr_find(node_of(m, op), name);
    ck_assert_msg(a != NULL, "%s has no attribute %s", op, name);
    return a;
}

/* ------------------------------------------------------------------ every model that is here */

static char *models[256];
static int nmodels;

static void collect(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[800];
        size_t n = strlen(e->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] == '.')
            continue;
        if (n > 5 && !strcmp(e->d_name + n - 5, ".onnx") && nmodels < 256)
            models[nmodels++] = strdup(path);
        else
            collect(path);
    }
    if (dir)
        closedir(dir);
}

static void check_same_tensor(const mtbal_value *a, const mtbal_value *b)
{
    ck_assert_str_eq(a->name, b->name);
    const mtbal_tensor *t = a->tensor, *u = b->tensor;
    ck_assert_int_eq(t->dtype, u->dtype);
    ck_assert_int_eq(t->rank, u->rank);
    ck_assert_msg(t->bytes == u->bytes && (!t->bytes || !memcmp(t->data, u->data, t->bytes)),
                  "%s has other bytes", a->name);
}

/* print -> parse -> print gives the same text, before and after inference, and the same bits. */
START_TEST(test_fixed_point)
{
    mtbal_model *m;
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_onnx_read(models[_i], &m, &diag) == MTBAL_OK, "%s: %s", models[_i],
                  diag.what);
    for (int round = 0; round < 2; round++) {
        char *first = printed(m, -1);
        mtbal_model *again = parse(first);
        char *second = printed(again, -1);
        ck_assert_msg(!strcmp(first, second), "%s: it reads back as something else", models[_i]);
        ck_assert_int_eq(mtbal_verify(again, &diag), MTBAL_OK);
        ck_assert_int_eq(again->graph->ninitializers, m->graph->ninitializers);
        for (int i = 0; i < m->graph->ninitializers; i++)
            check_same_tensor(m->graph->initializers[i],
                              mtbal_value_find(again->graph, m->graph->initializers[i]->name));
        free(first);
        free(second);
        mtbal_model_free(again);
        ck_assert_msg(mtbal_infer_graph(m->graph, &diag) == MTBAL_OK, "%s", diag.what);
    }
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ texts */

/* As the printer writes it. */
static const char whole[] =
    "<\n"
    "   ir_version: 9,\n"
    "   opset_import: [\"\" : 17, \"own\" : 2],\n"
    "   producer_name: \"a \\\"quoted\\\" \\\\ name\",\n"
    "   model_version: 3,\n"
    "   doc_string: \"two\nlines\",\n"
    "   metadata_props: [\"k\": \"v\", \"empty\": \"\"]\n"
    ">\n"
    "main (float[batch,\"2*batch+1\",?,3] x, float[] \"any/rank\", bool flag, seq(float[2]) parts, "
    "optional(int64) may, untyped, float[2] w = {1.5,-0.25}) => (float[batch] y, \"of any type\") "
    "<\n"
    "   double[2,1] \"fc.0/weight\" = {0.1,-inf},\n"
    "   int64 big = {-9223372036854775808},\n"
    "   uint64[1] large = {18446744073709551615},\n"
    "   float16[3] half = {15360,64512,1},\n"
    "   bool[2] yes = {1,0},\n"
    "   int8[0,4] none = {},\n"
    "   float[batch] t\n"
    "> {\n"
    "   [\"first/node\"] t, \"\" = Op.Like <axis: int = -1, alpha: float = 1, eps: float = 1e-05, "
    "most: float = inf, s: string = \"a\\\"b\\\\c\", list: ints = [1, -2], e: ints = [], fs: "
    "floats "
    "= [0.5, 1e+20, nan], ss: strings = [\"a\", \"\"], v: tensor = int32[2] {1,-1}> (x, \"\", "
    "\"any/rank\")\n"
    "   u = own.\"Op.2\":variant (t, \"float\")\n"
    "   y = If (flag) <then_branch: graph = yes_ () => (float[batch] p) {\n"
    "      p = Relu (t)\n"
    "   }, else_branch: graph = no_ () => (q) {\n"
    "      q = Neg (u)\n"
    "   }>\n"
    "   \"of any type\" = Identity (y)\n"
    "}\n"
    "<\n"
    "   opset_import: [\"\" : 17],\n"
    "   domain: \"own\",\n"
    "   doc_string: \"a function\"\n"
    ">\n"
    "\"Op.2\" <axis, kernel_shape, alpha: float = 0.5, mode: string = \"m\"> (a, b) => (c) {\n"
    "   c = Concat <axis: int = @axis, k = @kernel_shape> (a, b)\n"
    "}\n";

/* Attributes come behind the operator; a graph may be one. */
START_TEST(test_whole)
{
    char *fixed = strdup(whole), *at;
    /* "float" is a value's name here: it needs a definition */
    at = strstr(fixed, "\"float\")");
    memcpy(at, "\"flag\") ", 8);
    at = strstr(fixed, "If (flag) <");
    ck_assert_ptr_nonnull(at);
    mtbal_model *m = parse(fixed);
    char *text = printed(m, -1);
    mtbal_model *again = parse(text);
    char *second = printed(again, -1);
    ck_assert_str_eq(text, second);
    ck_assert_int_eq(m->ir_version, 9);
    ck_assert_int_eq(m->model_version, 3);
    ck_assert_str_eq(m->doc, "two\nlines");
    ck_assert_str_eq(m->producer_name, "a \"quoted\" \\ name");
    ck_assert_str_eq(mtbal_property_get(m, "k"), "v");
    ck_assert_int_eq(mtbal_opset_of(m, "own"), 2);
    const mtbal_graph *g = m->graph;
    ck_assert_int_eq(g->ninputs, 7);
    ck_assert_str_eq(g->inputs[0]->type.dims[1].symbol, "2*batch+1");
    ck_assert_ptr_null(g->inputs[0]->type.dims[2].symbol);
    ck_assert_int_eq(g->inputs[1]->type.rank, -1);
    ck_assert_int_eq(g->inputs[2]->type.rank, 0);
    ck_assert_int_eq(g->inputs[3]->type.kind, MTBAL_SEQUENCE);
    ck_assert_int_eq(g->inputs[4]->type.kind, MTBAL_OPTIONAL);
    ck_assert_int_eq(g->inputs[5]->type.dtype, MTBAL_UNDEFINED);
    ck_assert(g->inputs[6]->is_initializer && g->inputs[6]->is_input);
    ck_assert_int_eq(g->ninitializers, 7);
    ck_assert(mtbal_tensor_f64(g->initializers[1]->tensor, 0) == 0.1);
    ck_assert(mtbal_tensor_i64(g->initializers[2]->tensor, 0) == INT64_MIN);
    ck_assert(mtbal_tensor_i64(g->initializers[3]->tensor, 0) == -1);
    ck_assert(mtbal_tensor_f64(g->initializers[4]->tensor, 0) == 1);
    ck_assert(isinf(mtbal_tensor_f64(g->initializers[4]->tensor, 1)));
    ck_assert_int_eq(g->initializers[6]->tensor->count, 0);
    const mtbal_node *first = g->first;
    ck_assert_str_eq(first->name, "first/node");
    ck_assert_str_eq(first->domain, "Op");
    ck_assert_int_eq(first->nout, 2);
    ck_assert_ptr_null(first->out[1]);
    ck_assert_int_eq(first->nin, 3);
    ck_assert_ptr_null(first->in[1]);
    ck_assert(attr_of(m, "Like", "eps")->f == 1e-05f);
    ck_assert_int_eq(attr_of(m, "Like", "alpha")->kind, MTBAL_ATTR_FLOAT);
    ck_assert_str_eq(attr_of(m, "Like", "s")->s, "a\"b\\c");
    ck_assert_int_eq(attr_of(m, "Like", "list")->ints[1], -2);
    ck_assert_int_eq(attr_of(m, "Like", "e")->kind, MTBAL_ATTR_INTS);
    ck_assert_int_eq(attr_of(m, "Like", "e")->n, 0);
    ck_assert(isnan(attr_of(m, "Like", "fs")->floats[2]));
    ck_assert_str_eq(attr_of(m, "Like", "ss")->strings[1], "");
    ck_assert_int_eq(mtbal_tensor_i64(attr_of(m, "Like", "v")->t, 1), -1);
    ck_assert_str_eq(first->next->op, "Op.2");
    ck_assert_str_eq(first->next->overload, "variant");
    const mtbal_function *f = mtbal_function_find(m, "own", "Op.2", "");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(f->nattrs, 2);
    ck_assert_str_eq(f->attrs[1], "kernel_shape");
    ck_assert(f->defaults->f == 0.5f && f->defaults->next);
    ck_assert_str_eq(f->body->first->attrs->ref, "axis");
    ck_assert_int_eq(f->body->first->attrs->kind, MTBAL_ATTR_INT);
    free(fixed);
    free(text);
    free(second);
    mtbal_model_free(m);
    mtbal_model_free(again);
}
END_TEST

/* The printer's own form, to the letter. */
START_TEST(test_golden)
{
    static const char text[] =
        "<\n"
        "   ir_version: 8,\n"
        "   opset_import: [\"\" : 17]\n"
        ">\n"
        "g (float[batch,seq] x, float[3] w = {1,2.5,1e-07}) => (float[batch,\"seq-1\"] y) <\n"
        "   int64[1] \"0\" = {7},\n"
        "   float[batch] a\n"
        "> {\n"
        "   [n] a = Sum <alpha: float = 0.1> (x, w, \"0\")\n"
        "   y = If <then_branch: graph = f () => (p) {\n"
        "      p = Relu (a)\n"
        "   }, n: int = 3> (a)\n"
        "}\n";
    mtbal_model *m = parse(text);
    char *out = printed(m, -1);
    ck_assert_str_eq(out, text);
    free(out);
    /* large tensors by their type: such a text shows a model, and is none */
    out = printed(m, 2);
    ck_assert_msg(strstr(out, "float[3] w) =>") && strstr(out, "\"0\" = {7}"), "%s", out);
    free(out);
    mtbal_model_free(m);
}
END_TEST

START_TEST(test_other_forms)
{
    /* comments, semicolons, attributes in front or behind, kinds left out, omitted operands */
    mtbal_model *m = parse(
        "< ir_version: 8, opset_import: [ \"\" : 17 ] > # a model\n"
        "g (float x, y) => (float[2] z) # more\n"
        "{ a = Clip (x, , y); b, , c = Three <k = 2, l = [1.0, 2], e : floats = []> (a,)\n"
        "  d = ai.onnx.Relu (b) e = org.my_domain.Op (\"d\") <t = float[2] named = {1, 2.0}, u = "
        "int64 {3}, g = sub () => (r) { r = Relu (d) }>\n"
        "  z = Sum (a, b, c, d, e) }");
    ck_assert_int_eq(m->graph->inputs[0]->type.rank, 0);
    ck_assert_ptr_null(node_of(m, "Clip")->in[1]);
    ck_assert_int_eq(node_of(m, "Three")->nout, 3);
    ck_assert_ptr_null(node_of(m, "Three")->out[1]);
    ck_assert_int_eq(attr_of(m, "Three", "l")->kind, MTBAL_ATTR_FLOATS);
    ck_assert_int_eq(attr_of(m, "Three", "e")->kind, MTBAL_ATTR_FLOATS);
    ck_assert_str_eq(node_of(m, "Relu")->domain, "");
    ck_assert_str_eq(node_of(m, "Op")->domain, "org.my_domain");
    ck_assert_int_eq(attr_of(m, "Op", "t")->t->count, 2);
    ck_assert_int_eq(attr_of(m, "Op", "u")->t->rank, 0);
    ck_assert_ptr_eq(attr_of(m, "Op", "g")->g->owner, node_of(m, "Op"));
    mtbal_model_free(m);
}
END_TEST

/* Branches may name their values alike: in the model every name is one value's. */
START_TEST(test_scopes)
{
    mtbal_diag diag = {0};
    mtbal_model *m = parse("<ir_version: 8, opset_import: [\"\" : 17]>\n"
                           "g (bool c, float[2] x) => (y) {\n"
                           "y = If (c) <then_branch = f () => (t) { a = Neg (x) t = Relu (a) },\n"
                           "            else_branch = f () => (t) { a = Exp (x) t = Abs (a) }>\n}");
    const mtbal_attr *yes = attr_of(m, "If", "then_branch"), *no = attr_of(m, "If", "else_branch");
    ck_assert_str_eq(yes->g->outputs[0]->name, "t");
    ck_assert_str_ne(no->g->outputs[0]->name, "t");
    ck_assert_ptr_eq(no->g->last->in[0], no->g->first->out[0]);
    ck_assert_ptr_eq(no->g->first->in[0], m->graph->inputs[1]);
    ck_assert_msg(mtbal_verify(m, &diag) == MTBAL_OK, "%s", diag.what);
    mtbal_model_free(m);
    /* a value of a branch is not seen outside */
    ck_assert_ptr_null(mtbal_parse_model(
        "g (bool c, float x) => (y) { y = If (c) <then_branch = f () => (t) { t = Neg (x) }> z = "
        "Relu (t) }",
        &diag));
}
END_TEST

START_TEST(test_function)
{
    mtbal_model *m = mtbal_model_new(17);
    mtbal_diag diag = {0};
    mtbal_function *f = mtbal_parse_function(
        m,
        "<domain: \"mtbal\", opset_import: [\"\" : 17]> MaxPoolGrad <kernel_shape: ints, axis: "
        "int = 1, mode> (X, dY) => (dX) { s = Shape (X) dX = Op <k: ints = @kernel_shape, axis = "
        "@axis> (dY, s) }",
        &diag);
    ck_assert_msg(f != NULL, "%s: %s", diag.where, diag.what);
    ck_assert_str_eq(f->domain, "mtbal");
    ck_assert_int_eq(f->nattrs, 2);
    ck_assert_str_eq(f->attrs[0], "kernel_shape");
    ck_assert_int_eq(f->defaults->i, 1);
    ck_assert_int_eq(f->body->ninputs, 2);
    ck_assert_int_eq(f->body->noutputs, 1);
    ck_assert_str_eq(f->body->last->attrs->next->ref, "axis");
    ck_assert_int_eq(m->nfunctions, 0);
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    ck_assert(mtbal_print_function(to, f));
    fclose(to);
    ck_assert_str_eq(text, "<\n   opset_import: [\"\" : 17],\n   domain: \"mtbal\"\n>\n"
                           "MaxPoolGrad <kernel_shape, mode, axis: int = 1> (X, dY) => (dX) {\n"
                           "   s = Shape (X)\n"
                           "   dX = Op <k: ints = @kernel_shape, axis = @axis> (dY, s)\n"
                           "}\n");
    free(text);
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ errors */

static const struct mistake {
    const char *text, *where, *what;
} mistakes[] = {
    {"", "line 1, column 1", "a name is missing"},
    {"g (float[2 x) => () {}", "line 1, column 12", "','"},
    {"g (float[-2] x) => () {}", "line 1, column 12", "a size"},
    {"g () => () {\n  y = Relu (x)\n}", "text", "the value x is not defined"},
    {"g () => (y) { }", "text", "the output y is not defined"},
    {"g (x) => () { y = Op <a = > (x) }", "line 1, column 27", "a name"},
    {"g (x) => () { y = Op <a = \"b> (x) }", "line 1, column 28", "the end of a string"},
    {"g (x) => () { y = Op <a: ints = [1, \"b\"]> (x) }", "line 1, column 41", "one kind"},
    {"g (x) => () { y = Op <a: int = 1.5> (x) }", "line 1, column 35", "kind that is declared"},
    {"g (x) => () { y = Op <a: ints = [1.5]> (x) }", "line 1, column 38", "kind that is declared"},
    {"g (x) => () { y = Op <a: number = 1> (x) }", "line 1, column 26", "an attribute type"},
    {"g (x) => () <float[2] w = {1}> { }", "line 1, column 30", "an element for each place"},
    {"g (x) => () <float[2] w = {1,2,3}> { }", "line 1, column 32", "the end of the tensor"},
    {"g (x) => () <float[n] w = {1}> { }", "line 1, column 26", "a known shape"},
    {"g (x) => () <float[9999999999999] w = {}> { }", "line 1, column 40", "an element for each"},
    {"g (x) => () <float[9999999999999,9999999999999] w = {}> { }", "line 1, column 52",
     "a known shape"},
    {"g (x) => () <int64 w = {9223372036854775808000}> { }", "line 1, column 25", "64 bits"},
    {"g (x) => () <int64 w = {1.5}> { }", "line 1, column 28", "an integer"},
    {"<ir_version: \"8\"> g () => () {}", "line 1, column 14", "goes with the key"},
    {"<colour: 8> g () => () {}", "line 1, column 9", "goes with the key"},
    {"<opset_import: [\"\" : x]> g () => () {}", "line 1, column 22", "a version"},
    {"g () => () {} <domain: \"d\"> F (x) => (y) { }", "text", "the output y is not defined"},
    {"g () => () {", "line 1, column 13", "a name is missing"},
};

START_TEST(test_mistakes)
{
    const struct mistake *m = &mistakes[_i];
    mtbal_diag diag = {0};
    ck_assert_ptr_null(mtbal_parse_model(m->text, &diag));
    ck_assert_int_eq(diag.status, MTBAL_INVALID);
    ck_assert_msg(!strcmp(diag.where, m->where) && strstr(diag.what, m->what), "%s: %s: %s",
                  m->text, diag.where, diag.what);
}
END_TEST

/* Every beginning of a text, and a text with any one byte damaged, is refused or read: no crash. */
START_TEST(test_damaged)
{
    char text[sizeof whole];
    unsigned seed = 3;
    for (size_t n = 0; n < sizeof whole; n += 3) {
        memcpy(text, whole, n);
        text[n] = 0;
        mtbal_model_free(mtbal_parse_model(text, NULL));
    }
    for (int round = 0; round < 2000; round++) {
        memcpy(text, whole, sizeof whole);
        text[rand_r(&seed) % (sizeof whole - 1)] = "<>(){}[],=:\"\\@0a-.#\n"[rand_r(&seed) % 20];
        mtbal_model_free(mtbal_parse_model(text, NULL));
    }
}
END_TEST

START_TEST(test_nesting)
{
    enum { DEEP = 5000 };
    char *text = malloc(DEEP * 32), *p = text;
    mtbal_diag diag = {0};
    p += sprintf(p, "g () => () { ");
    for (int i = 0; i < DEEP; i++)
        p += sprintf(p, "y = If <b = g () => () { ");
    ck_assert_ptr_null(mtbal_parse_model(text, &diag));
    ck_assert_msg(strstr(diag.what, "nested graphs") != NULL, "%s", diag.what);
    free(text);
}
END_TEST

static mtbal_status parse_and_print(void *context)
{
    mtbal_diag diag = {0};
    (void)context;
    mtbal_model *m = mtbal_parse_model(
        "<ir_version: 8, opset_import: [\"\" : 17], metadata_props: [\"a\": \"b\"]>\n"
        "g (float[n,\"a b\"] x, seq(float) s) => (y) <float[2] w = {1, 2}> {\n"
        "y = If (x) <t = f () => (z) { z = Op <a = [1, 2], b = [\"s\"], c = float {1}> (w) }> }\n"
        "<domain: \"d\", opset_import: [\"\" : 17]> F <a, b: int = 1> (p) => (q) { q = Relu (p) }",
        &diag);
    mtbal_model_free(m);
    return m ? MTBAL_OK : diag.status;
}

START_TEST(test_no_memory)
{
    ck_assert_int_gt(fail_each_allocation(parse_and_print, NULL), 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("text");
    TCase *all = tcase_create("all");
    collect("tests/data/models");
    collect("models");
    tcase_add_loop_test(all, test_fixed_point, 0, nmodels);
    tcase_add_test(all, test_whole);
    tcase_add_test(all, test_golden);
    tcase_add_test(all, test_other_forms);
    tcase_add_test(all, test_scopes);
    tcase_add_test(all, test_function);
    tcase_add_loop_test(all, test_mistakes, 0, (int)(sizeof mistakes / sizeof *mistakes));
    tcase_add_test(all, test_damaged);
    tcase_add_test(all, test_nesting);
    tcase_add_test(all, test_no_memory);
    tcase_set_timeout(all, 120);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    for (int i = 0; i < nmodels; i++)
        free(models[i]);
    return failed || nmodels < 20;
}
