/* tests/test_build.c: what the builder emits, the idioms that depend on shapes and on the opset,
 * functions, and every allocation of a build failed in turn. */
#include "graph/graph.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ helpers */

typedef struct scene {
    mtbal_model *model;
    mtbal_builder b;
    mtbal_diag diag;
    mtbal_value *x, *like;
} scene;

/* A model of two inputs whose types are given in ONNX text. */
static void set_up(scene *s, int opset, const char *x, const char *like)
{
    char text[256];
    *s = (scene){0};
    snprintf(text, sizeof text,
             "<ir_version: 7, opset_import: [\"\" : %d]> g (%s x, %s like) => () {}", opset, x,
             like);
    s->model = mtbal_parse_model(text, &s->diag);
    ck_assert_msg(s->model != NULL, "%s: %s", s->diag.where, s->diag.what);
    s->x = s->model->graph->inputs[0];
    s->like = s->model->graph->inputs[1];
    mtbal_builder_init(&s->b, s->model->graph, NULL, &s->diag);
}

static void tear_down(scene *s)
{
    ck_assert_msg(s->b.status == MTBAL_OK, "%s: %s", s->diag.where, s->diag.what);
    ck_assert_msg(mtbal_verify(s->model, &s->diag) == MTBAL_OK, "%s: %s", s->diag.where,
                  s->diag.what);
    mtbal_model_free(s->model);
}

/* The ops of the graph but for constants. */
static const char *ops_of(const scene *s, char text[512])
{
    size_t used = 0;
    text[0] = 0;
    for (const mtbal_node *node = s->model->graph->first; node; node = node->next)
        if (!mtbal_node_is(node, MTBAL_OP_constant))
            used += (size_t)snprintf(text + used, 512 - used, "%s%s", used ? " " : "", node->op);
    return text;
}

static void shape_is(const mtbal_value *v, const char *expected)
{
    char text[256] = "";
    size_t used = 0;
    ck_assert_int_ge(v->type.rank, 0);
    for (int i = 0; i < v->type.rank; i++) {
        mtbal_dim d = v->type.dims[i];
        used += (size_t)snprintf(text + used, sizeof text - used, i ? "," : "");
        if (d.size >= 0)
            used += (size_t)snprintf(text + used, sizeof text - used, "%d", (int)d.size);
        else
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s", d.symbol ? d.symbol : "?");
    }
    ck_assert_str_eq(text, expected);
}

/* ------------------------------------------------------------------ plain nodes */

START_TEST(test_emit)
{
    scene s;
    set_up(&s, 17, "float[n,4]", "float[4]");
    mtbal_node *late = mtbal_node_new(s.model->graph, NULL, "", "Neg", 1, &s.x, 1);
    s.b.before = late;
    s.b.prefix = "mtbal/grad/";
    s.b.role = "gradient";
    s.b.task = "depth";
    mtbal_value *sum = mtbal_emit(&s.b, "Add", s.x, s.like);
    mtbal_value *again = mtbal_emit(&s.b, "Add", sum, s.like);
    ck_assert_str_eq(sum->name, "mtbal/grad/Add");
    ck_assert_str_eq(again->name, "mtbal/grad/Add_1");
    ck_assert_str_eq(again->def->name, "mtbal/grad/Add_1");
    ck_assert_ptr_eq(again->def->next, late);
    ck_assert_str_eq(again->def->role, "gradient");
    ck_assert_str_eq(again->def->task, "depth");
    shape_is(again, "n,4");
    ck_assert_int_eq(again->type.dtype, MTBAL_FLOAT);
    mtbal_value *clipped =
        mtbal_emit(&s.b, "Clip", sum, MTBAL_OMIT, mtbal_const_scalar(&s.b, MTBAL_FLOAT, 6));
    ck_assert(clipped->def->nin == 3 && clipped->def->in[1] == NULL);
    mtbal_value *plain = mtbal_emit(&s.b, "Clip", sum, MTBAL_OMIT, MTBAL_OMIT);
    ck_assert_int_eq(plain->def->nin, 1);
    mtbal_value *two[2];
    mtbal_emit_done(&s.b, mtbal_emit_node(&s.b, "", "Dropout", 1, &sum, 2, two));
    ck_assert_str_eq(two[1]->name, "mtbal/grad/Dropout:1");
    ck_assert(two[1]->def == two[0]->def && two[1]->def_index == 1);
    tear_down(&s);
}
END_TEST

START_TEST(test_many_operands)
{
    scene s;
    mtbal_value *in[1000];
    set_up(&s, 17, "float[2]", "float[2]");
    for (int i = 0; i < 1000; i++)
        in[i] = i % 2 ? s.x : s.like;
    mtbal_value *all = mtbal_emit_attrs(&s.b, "Concat", 1000, in, "axis=i", (int64_t)0);
    shape_is(all, "2000");
    ck_assert_ptr_eq(all->def->in[999], s.x);
    tear_down(&s);
}
END_TEST

START_TEST(test_sticky)
{
    scene s;
    set_up(&s, 17, "float[3,4]", "float[5]");
    ck_assert_ptr_null(mtbal_emit(&s.b, "Add", s.x, s.like)); /* shapes contradict */
    ck_assert_int_eq(s.b.status, MTBAL_INVALID);
    ck_assert_msg(strstr(s.diag.what, "broadcast"), "%s", s.diag.what);
    int nodes = s.model->graph->nnodes;
    ck_assert_ptr_null(mtbal_emit(&s.b, "Neg", s.x));
    ck_assert_ptr_null(mtbal_const_i64(&s.b, 1));
    ck_assert_ptr_null(mtbal_emit_fill_like(&s.b, s.x, 1));
    ck_assert_int_eq(s.model->graph->nnodes, nodes);
    mtbal_builder_init(&s.b, s.model->graph, NULL, NULL);
    ck_assert_ptr_null(mtbal_emit(&s.b, "Add", s.x, NULL));
    ck_assert_int_eq(s.b.status, MTBAL_UNSUPPORTED);
    mtbal_model_free(s.model);
}
END_TEST

START_TEST(test_constants)
{
    scene s;
    const int64_t xs[3] = {4, -5, 6};
    set_up(&s, 17, "float[3]", "float[3]");
    mtbal_value *list = mtbal_const_i64s(&s.b, 3, xs), *one = mtbal_const_i64(&s.b, -7);
    mtbal_value *half = mtbal_const_scalar(&s.b, MTBAL_FLOAT16, 0.5);
    mtbal_value *none = mtbal_const_i64s(&s.b, 0, NULL);
    shape_is(list, "3");
    shape_is(one, "");
    shape_is(none, "0");
    ck_assert_int_eq(mtbal_tensor_i64(list->tensor, 1), -5);
    ck_assert_int_eq(mtbal_tensor_i64(one->tensor, 0), -7);
    ck_assert_int_eq(*(const uint16_t *)half->tensor->data, 0x3800);
    ck_assert_int_eq(half->type.dtype, MTBAL_FLOAT16);
    tear_down(&s);
}
END_TEST

START_TEST(test_idioms)
{
    scene s;
    const int64_t identity[2] = {0, 1}, swap[2] = {1, 0};
    set_up(&s, 17, "float[n,4]", "double[4,n]");
    ck_assert_ptr_eq(mtbal_emit_cast(&s.b, s.x, MTBAL_FLOAT), s.x);
    ck_assert_int_eq(mtbal_emit_cast(&s.b, s.x, MTBAL_DOUBLE)->type.dtype, MTBAL_DOUBLE);
    ck_assert_ptr_eq(mtbal_emit_transpose(&s.b, s.x, 2, identity), s.x);
    shape_is(mtbal_emit_transpose(&s.b, s.x, 2, swap), "4,n");
    ck_assert_ptr_eq(mtbal_emit_reshape_like(&s.b, s.x, s.x), s.x);
    shape_is(mtbal_emit_reshape_like(&s.b, s.x, s.like), "4,n");
    ck_assert_str_eq(mtbal_emit_shape(&s.b, s.x)->def->op, "Shape");
    mtbal_value *known = mtbal_emit_shape(&s.b, mtbal_const_scalar(&s.b, MTBAL_FLOAT, 1));
    ck_assert(known->tensor && known->tensor->count == 0);
    mtbal_value *ones = mtbal_emit_fill_like(&s.b, s.like, 1);
    shape_is(ones, "4,n");
    ck_assert_int_eq(ones->type.dtype, MTBAL_DOUBLE);
    s.like->type.dtype = MTBAL_UNDEFINED;
    ck_assert_str_eq(mtbal_emit_fill_like(&s.b, s.like, 1)->def->op, "CastLike");
    tear_down(&s);
}
END_TEST

/* ------------------------------------------------------------------ reductions */

static const struct reduce_case {
    const char *op;
    int opset;
    bool as_input;
} reductions[] = {
    {"ReduceSum", 11, false}, {"ReduceSum", 12, false},  {"ReduceSum", 13, true},
    {"ReduceSum", 18, true},  {"ReduceMean", 13, false}, {"ReduceMean", 17, false},
    {"ReduceMean", 18, true}, {"ReduceMax", 17, false},  {"ReduceMax", 18, true},
    {"ReduceL2", 18, true},
};

START_TEST(test_reduce)
{
    const struct reduce_case *c = &reductions[_i];
    const int64_t axis[1] = {1}, *axes;
    scene s;
    set_up(&s, c->opset, "float[n,4]", "float[4]");
    mtbal_value *sum = mtbal_emit_reduce(&s.b, c->op, s.x, 1, axis, true);
    shape_is(sum, "n,1");
    ck_assert_int_eq(sum->def->nin, c->as_input ? 2 : 1);
    ck_assert_int_eq(mtbal_attr_ints(sum->def, "axes", &axes), c->as_input ? -1 : 1);
    shape_is(mtbal_emit_reduce(&s.b, c->op, s.x, 1, axis, false), "n");
    mtbal_value *all = mtbal_emit_reduce(&s.b, c->op, s.x, 0, NULL, false);
    shape_is(all, "");
    ck_assert_int_eq(all->def->nin, 1);
    tear_down(&s);
}
END_TEST

#define DYNAMIC "Shape Shape Shape Shape Sub Concat Pad Equal Not NonZero Squeeze ReduceSum Reshape"

/* Types of x and like; what is emitted but for constants; the result's shape. */
static const struct sum_case {
    int opset;
    const char *x, *like, *ops, *shape;
} sums[] = {
    {17, "float[n,4]", "float[n,4]", "", "n,4"},
    {17, "float[n,4]", "float[4]", "ReduceSum", "4"},
    {17, "float[n,4]", "float[1,4]", "ReduceSum", "1,4"},
    {17, "float[n,4]", "float[n,1]", "ReduceSum", "n,1"},
    {17, "float[n,4]", "float", "ReduceSum", ""},
    {17, "float[2,3,4]", "float[3,1]", "ReduceSum Squeeze", "3,1"},
    {17, "float[2,n,4]", "float[n,1]", "ReduceSum Squeeze", "n,1"},
    {12, "float[2,n,4]", "float[n,1]", "ReduceSum Squeeze", "n,1"},
    {17, "float[1,n,4]", "float[n,4]", "ReduceSum", "n,4"},
    {17, "float[n,4]", "float[n,k]", DYNAMIC, "n,k"},
    {17, "float[n,k]", "float[n,4]", "", "n,k"}, /* 4 broadcasts to 4 only */
    {17, "float[n,1]", "float[n,k]", "", "n,1"}, /* what broadcasts to 1 is 1 */
    {17, "float[n,4]", "float[m,4]", DYNAMIC, "m,4"},
    {17, "float[n,4]", "float[m]", DYNAMIC, "m"},
    {17, "float[3,0]", "float[1,0]", "ReduceSum", "1,0"},
    {17, "float[n,m,n]", "float[m,n]", "ReduceSum", "m,n"},
};

START_TEST(test_sum_to)
{
    const struct sum_case *c = &sums[_i];
    char text[512];
    scene s;
    set_up(&s, c->opset, c->x, c->like);
    mtbal_value *sum = mtbal_emit_sum_to(&s.b, s.x, s.like);
    ck_assert_ptr_nonnull(sum);
    ck_assert_str_eq(ops_of(&s, text), c->ops);
    shape_is(sum, c->shape);
    ck_assert_int_eq(sum->type.dtype, MTBAL_FLOAT);
    tear_down(&s);
}
END_TEST

START_TEST(test_sum_to_unknown_rank)
{
    char text[512];
    scene s;
    set_up(&s, 13, "float[n,4]", "float[4]");
    s.like->type.rank = -1;
    mtbal_emit_sum_to(&s.b, s.x, s.like);
    ck_assert_str_eq(ops_of(&s, text), DYNAMIC);
    tear_down(&s);
}
END_TEST

/* ------------------------------------------------------------------ functions */

static const char twice[] = "<opset_import: [\"\" : 15]> Twice (x) => (y) { y = Add (x, x) }";
static const char fourfold[] = "<domain: \"mtbal\", opset_import: [\"\" : 15, \"mtbal\" : 1]>\n"
                               "Fourfold (x) => (y) { t = mtbal.Twice (x)  y = mtbal.Twice (t) }";

START_TEST(test_function)
{
    scene s;
    mtbal_value *y;
    set_up(&s, 17, "float[n,4]", "float[4]");
    ck_assert_int_eq(mtbal_builder_function(&s.b, twice), MTBAL_OK);
    ck_assert_int_eq(mtbal_builder_function(&s.b, fourfold), MTBAL_OK);
    ck_assert_int_eq(mtbal_builder_function(&s.b, twice), MTBAL_OK);
    ck_assert_int_eq(s.model->nfunctions, 2);
    ck_assert_int_eq(s.model->ir_version, 8);
    ck_assert_int_eq(mtbal_opset_of(s.model, "mtbal"), 1);
    const mtbal_function *f = mtbal_function_find(s.model, "mtbal", "Twice", NULL);
    ck_assert(f && f->nopsets == 1 && f->opsets[0].version == 17);
    f = mtbal_function_find(s.model, "mtbal", "Fourfold", "");
    ck_assert(f && f->nopsets == 2 && !strcmp(f->opsets[1].domain, "mtbal"));
    mtbal_emit_done(&s.b, mtbal_emit_node(&s.b, "mtbal", "Fourfold", 1, &s.x, 1, &y));
    shape_is(y, "n,4");
    tear_down(&s);
}
END_TEST

START_TEST(test_function_syntax)
{
    scene s;
    set_up(&s, 17, "float[n,4]", "float[4]");
    ck_assert_int_eq(mtbal_builder_function(&s.b, "<opset_import: [\"\" : 15]> F (x) => (y) {"),
                     MTBAL_INVALID);
    ck_assert_int_eq(s.b.status, MTBAL_INVALID);
    ck_assert_int_eq(s.diag.status, MTBAL_INVALID);
    mtbal_model_free(s.model);
}
END_TEST

/* Inside a function's body the builder knows no types, and emits what holds for all. */
START_TEST(test_function_body)
{
    scene s;
    char text[512];
    set_up(&s, 17, "float[n,4]", "float[4]");
    mtbal_builder_function(&s.b, twice);
    mtbal_graph *body = s.model->functions[0]->body;
    mtbal_builder inner;
    mtbal_builder_init(&inner, body, NULL, &s.diag);
    mtbal_value *sum = mtbal_emit_sum_to(&inner, body->outputs[0], body->inputs[0]);
    ck_assert_int_eq(inner.status, MTBAL_OK);
    ck_assert_str_eq(sum->def->op, "Reshape");
    ck_assert_ptr_eq(sum->graph, body);
    ck_assert_str_eq(ops_of(&s, text), "");
    tear_down(&s);
}
END_TEST

/* ------------------------------------------------------------------ size and memory */

/* A chain long enough that anything quadratic, or recursive along it, shows. */
START_TEST(test_long_chain)
{
    scene s;
    set_up(&s, 17, "float[n,4]", "float[4]");
    mtbal_value *y = s.x;
    for (int i = 0; i < 100000; i++)
        y = mtbal_emit(&s.b, "Add", y, s.like);
    mtbal_add_output(s.model->graph, y);
    shape_is(y, "n,4");
    for (mtbal_node *node = s.model->graph->first, *next; node; node = next) {
        next = node->next;
        mtbal_node_move(node, s.model->graph->first);
    }
    ck_assert_int_eq(mtbal_verify(s.model, &s.diag), MTBAL_OK);
    ck_assert_ptr_eq(s.model->graph->last, y->def);
    s.model->graph->first->in[0] = y; /* one circle of all nodes */
    ck_assert_int_eq(mtbal_verify(s.model, &s.diag), MTBAL_INVALID);
    ck_assert_msg(strstr(s.diag.what, "100000 nodes"), "%s", s.diag.what);
    mtbal_model_free(s.model);
}
END_TEST

typedef struct countdown {
    long left, asked;
} countdown;

static bool allow(void *context, size_t size)
{
    countdown *c = context;
    (void)size;
    c->asked++;
    return c->left-- > 0;
}

/* A build that touches everything here. Returns what it ended with. */
static mtbal_status build_all(mtbal_diag *diag)
{
    mtbal_builder b;
    mtbal_dim dims[2] = {{-1, NULL}, {4, NULL}};
    mtbal_model *m = mtbal_model_new(17);
    if (!m)
        return mtbal_no_memory(diag);
    mtbal_value *x = mtbal_value_new(m->graph, "x"), *like = mtbal_value_new(m->graph, NULL);
    mtbal_builder_init(&b, m->graph, NULL, diag);
    if (x && like) {
        x->type = like->type = (mtbal_type){MTBAL_TENSOR, MTBAL_FLOAT, 2, dims};
        b.status = mtbal_add_input(m->graph, x);
        if (b.status == MTBAL_OK)
            b.status = mtbal_add_input(m->graph, like);
    }
    mtbal_value *y = mtbal_emit_sum_to(&b, mtbal_emit(&b, "Exp", x), like);
    for (int i = 0; i < 20; i++)
        y = mtbal_emit(&b, "Mul", y, x);
    mtbal_builder_function(&b, twice);
    mtbal_status status = b.status;
    if (status == MTBAL_OK)
        status = mtbal_add_output(m->graph, y);
    if (status == MTBAL_OK)
        status = mtbal_replace(m->graph, y, x);
    if (status == MTBAL_OK)
        status = mtbal_infer_graph(m->graph, diag);
    if (status == MTBAL_OK)
        status = mtbal_verify(m, diag);
    mtbal_model_free(m);
    return status;
}

START_TEST(test_no_memory)
{
    countdown all = {1000000, 0};
    mtbal_diag diag = {0};
    mtbal_set_alloc_hook(allow, &all);
    ck_assert_msg(build_all(&diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
    ck_assert_int_gt(all.asked, 300);
    for (long n = 0; n < all.asked; n++) {
        countdown some = {n, 0};
        diag = (mtbal_diag){0};
        mtbal_set_alloc_hook(allow, &some);
        mtbal_status status = build_all(&diag);
        ck_assert_msg(status == MTBAL_NOMEM, "allocation %ld failed: status %d, %s", n, status,
                      diag.what);
    }
    mtbal_set_alloc_hook(NULL, NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("build");
    TCase *tests = tcase_create("build");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_emit);
    tcase_add_test(tests, test_many_operands);
    tcase_add_test(tests, test_sticky);
    tcase_add_test(tests, test_constants);
    tcase_add_test(tests, test_idioms);
    tcase_add_loop_test(tests, test_reduce, 0, (int)(sizeof reductions / sizeof *reductions));
    tcase_add_loop_test(tests, test_sum_to, 0, (int)(sizeof sums / sizeof *sums));
    tcase_add_test(tests, test_sum_to_unknown_rank);
    tcase_add_test(tests, test_function);
    tcase_add_test(tests, test_function_syntax);
    tcase_add_test(tests, test_function_body);
    tcase_add_test(tests, test_long_chain);
    tcase_add_test(tests, test_no_memory);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
