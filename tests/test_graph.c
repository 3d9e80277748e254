/* tests/test_graph.c: arenas, names, tensors, graphs and their lists, replacing, copying, and what
 * the verifier finds. */
#include "graph/graph.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ helpers */

static mtbal_model *parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s", diag.where, diag.what);
    return model;
}

static mtbal_value *find(const mtbal_model *model, const char *name)
{
    mtbal_value *value = mtbal_value_find(model->graph, name);
    ck_assert_msg(value != NULL, "there is no value %s", name);
    return value;
}

/* The ops of a graph in their order, separated by spaces. */
static const char *ops_of(const mtbal_graph *graph, char text[512])
{
    size_t used = 0;
    text[0] = 0;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        used += (size_t)snprintf(text + used, 512 - used, "%s%s", used ? " " : "", node->op);
    return text;
}

static void verified(mtbal_model *model)
{
    mtbal_diag diag = {0};
    ck_assert_msg(mtbal_verify(model, &diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
}

#define HEAD "<ir_version: 8, opset_import: [\"\" : 17]>\n"

static const char diamond[] = HEAD "g (float[n,4] x) => (float[n,4] y) {\n"
                                   "    a = Relu (x)\n"
                                   "    b = Exp (a)\n"
                                   "    c = Neg (a)\n"
                                   "    y = Add (b, c)\n"
                                   "}\n";

static const char branching[] =
    HEAD "g (float[4] x, bool cond) => (float[4] y) {\n"
         "    a = Relu (x)\n"
         "    y = If (cond) <then_branch = g1 () => (float[4] t) { t = Exp (a) },\n"
         "                   else_branch = g2 () => (float[4] e) { u = Neg (a)  e = Add (u, x) }>\n"
         "}\n";

/* ------------------------------------------------------------------ memory */

START_TEST(test_arena)
{
    mtbal_arena *arena = mtbal_arena_new();
    static const size_t sizes[] = {0, 1, 15, 16, 17, 4000, 100000, 3000000, 8, 600000, 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = mtbal_arena_alloc(arena, sizes[i]);
        ck_assert(p != NULL);
        ck_assert_uint_eq((uintptr_t)p % 16, 0);
        size_t zeros = 0;
        while (zeros < sizes[i] && p[zeros] == 0)
            zeros++;
        ck_assert_uint_eq(zeros, sizes[i]);
        if (sizes[i])
            memset(p, 0xAB, sizes[i]);
    }
    ck_assert_ptr_null(mtbal_arena_array(arena, SIZE_MAX / 4, 8));
    ck_assert_ptr_null(mtbal_arena_alloc(arena, SIZE_MAX - 3));
    ck_assert_str_eq(mtbal_arena_printf(arena, "%d-%s", 42, "x"), "42-x");
    ck_assert_uint_lt(mtbal_arena_bytes(arena), 6000000);
    mtbal_arena_free(arena);
}
END_TEST

START_TEST(test_intern)
{
    mtbal_arena *arena = mtbal_arena_new();
    const char *names[5000];
    char text[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "name%d", i);
        names[i] = mtbal_intern(arena, text);
    }
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "name%d", i);
        ck_assert_ptr_eq(mtbal_intern(arena, text), names[i]);
        ck_assert_str_eq(names[i], text);
    }
    const char *plain = mtbal_intern_n(arena, "ab", 2);
    const char *with_nul = mtbal_intern_n(arena, "ab\0c", 4);
    ck_assert_ptr_ne(plain, with_nul);
    ck_assert_int_eq(memcmp(with_nul, "ab\0c", 5), 0);
    ck_assert_ptr_eq(mtbal_intern_n(arena, "abx", 2), plain);
    ck_assert_ptr_eq(mtbal_intern_n(arena, "ab\0c", 4), with_nul);
    mtbal_arena_free(arena);
}
END_TEST

START_TEST(test_products)
{
    size_t s = 7;
    int64_t i = 7;
    ck_assert(!mtbal_mul_size(SIZE_MAX / 2, 3, &s) && s == 7);
    ck_assert(mtbal_mul_size(SIZE_MAX / 2, 2, &s) && s == SIZE_MAX - 1);
    ck_assert(mtbal_mul_size(0, SIZE_MAX, &s) && s == 0);
    ck_assert(!mtbal_mul_i64(INT64_MAX / 2, 3, &i));
    ck_assert(mtbal_mul_i64(-3, 5, &i) && i == -15);
}
END_TEST

START_TEST(test_diag)
{
    mtbal_diag diag = {0};
    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    ck_assert_int_eq(mtbal_fail(&diag, MTBAL_INVALID, "here", NULL, "%s", longer), MTBAL_INVALID);
    ck_assert_uint_eq(strlen(diag.what), sizeof diag.what - 1);
    ck_assert_int_eq(mtbal_fail(&diag, MTBAL_IO, "there", NULL, "second"), MTBAL_IO);
    ck_assert_int_eq(diag.status, MTBAL_INVALID); /* the first error stays */
    ck_assert_str_eq(diag.where, "here");
    ck_assert_int_eq(mtbal_fail(NULL, MTBAL_IO, NULL, NULL, "nobody listens"), MTBAL_IO);
    ck_assert_int_eq(mtbal_exit_code(MTBAL_NOMEM), 5);
    ck_assert_int_eq(mtbal_exit_code(MTBAL_UNSUPPORTED), 3);
}
END_TEST

/* ------------------------------------------------------------------ numbers */

/* IEEE 754 binary16, by hand: value, bits; then roundings of values between. */
static const struct half_case {
    float from;
    uint16_t bits;
} halves[] = {
    {0.0f, 0x0000},           {-0.0f, 0x8000},          {1.0f, 0x3C00},
    {-2.0f, 0xC000},          {65504.0f, 0x7BFF},       {0.33325195f, 0x3555},
    {0x1p-14f, 0x0400},       {0x1p-24f, 0x0001},       {0x1.ff8p-15f, 0x03FF},
    {INFINITY, 0x7C00},       {-INFINITY, 0xFC00},      {65519.996f, 0x7BFF},
    {65520.0f, 0x7C00},       {1e30f, 0x7C00},          {0x1p-25f, 0x0000},
    {0x1.000002p-25f, 0x01},  {0x1.8p-24f, 0x0002},     {0x1.4p-23f, 0x0002},
    {0x1.cp-23f, 0x0004},     {1.00048828125f, 0x3C00}, /* a tie, to even */
    {1.00146484375f, 0x3C02},                           /* a tie, to even, upward */
    {1.0004884f, 0x3C01},     {2047.9999f, 0x6800},     {0x1.ffep-15f, 0x0400},
};

START_TEST(test_half)
{
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++)
        ck_assert_msg(mtbal_float_to_half(halves[i].from) == halves[i].bits,
                      "%a becomes %04x instead of %04x", (double)halves[i].from,
                      mtbal_float_to_half(halves[i].from), halves[i].bits);
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = mtbal_half_to_float((uint16_t)h);
        bool nan = (h & 0x7FFF) > 0x7C00;
        ck_assert_int_eq(isnan(f) != 0, nan);
        if (!nan)
            ck_assert_uint_eq(mtbal_float_to_half(f), h);
    }
    ck_assert(isnan(mtbal_half_to_float(mtbal_float_to_half(NAN))));
}
END_TEST

/* For every numeric type: what 300.7, -1.5 and 1e30 become. */
static const struct element_case {
    mtbal_dtype dtype;
    double x, back;
} elements[] = {
    {MTBAL_FLOAT, 300.5, 300.5},
    {MTBAL_DOUBLE, 1e300, 1e300},
    {MTBAL_FLOAT16, 300.7, 300.75},
    {MTBAL_FLOAT16, 1e30, INFINITY},
    {MTBAL_FLOAT16, 0x1.00200000008p0, 0x1.004p0}, /* just above a tie: not rounded twice */
    {MTBAL_FLOAT16, 0x1.005ffffffffp0, 0x1.004p0}, /* just below one */
    {MTBAL_BFLOAT16, 300.7, 300.0},
    {MTBAL_BFLOAT16, 1.00390625, 1.0}, /* a tie, to even */
    {MTBAL_BFLOAT16, 1.01171875, 1.015625},
    {MTBAL_INT64, -1234567890123.0, -1234567890123.0},
    {MTBAL_INT32, -1.5, -1.0},
    {MTBAL_INT16, -1.5, -1.0},
    {MTBAL_INT8, -128, -128},
    {MTBAL_UINT8, 255, 255},
    {MTBAL_UINT16, 65535, 65535},
    {MTBAL_UINT32, 4294967295.0, 4294967295.0},
    {MTBAL_UINT64, 0x1.8p63, 0x1.8p63},
    {MTBAL_BOOL, 0.5, 1},
};

START_TEST(test_elements)
{
    const struct element_case *c = &elements[_i];
    mtbal_model *model = mtbal_model_new(17);
    const int64_t dims[2] = {2, 3};
    mtbal_tensor *t = mtbal_tensor_new(model, c->dtype, 2, dims, NULL);
    ck_assert(t && t->count == 6 && t->bytes == 6 * mtbal_dtype_size(c->dtype));
    mtbal_tensor_set_f64(t, 4, c->x);
    ck_assert_msg(mtbal_tensor_f64(t, 4) == c->back, "%s: %g becomes %g instead of %g",
                  mtbal_dtype_name(c->dtype), c->x, mtbal_tensor_f64(t, 4), c->back);
    ck_assert(mtbal_tensor_f64(t, 3) == 0 && mtbal_tensor_f64(t, 5) == 0);
    ck_assert_int_eq(mtbal_dtype_parse(mtbal_dtype_name(c->dtype)), c->dtype);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_tensor_sizes)
{
    mtbal_model *model = mtbal_model_new(17);
    const int64_t huge[3] = {1 << 30, 1 << 30, 1 << 30}, negative[1] = {-1};
    ck_assert_ptr_null(mtbal_tensor_new(model, MTBAL_FLOAT, 3, huge, NULL));
    ck_assert_ptr_null(mtbal_tensor_new(model, MTBAL_FLOAT, 1, negative, NULL));
    mtbal_dim dims[3] = {{1 << 30, NULL}, {1 << 30, NULL}, {1 << 30, NULL}};
    mtbal_type type = {MTBAL_TENSOR, MTBAL_FLOAT, 3, dims};
    ck_assert_int_eq(mtbal_shape_count(&type), -1);
    type.rank = 2;
    ck_assert_int_eq(mtbal_shape_count(&type), (int64_t)1 << 60);
    ck_assert_int_eq(mtbal_shape_count(&(mtbal_type){MTBAL_TENSOR, MTBAL_FLOAT, 0, NULL}), 1);
    ck_assert(!mtbal_shape_known(&(mtbal_type){MTBAL_TENSOR, MTBAL_FLOAT, -1, NULL}));
    mtbal_dim n = {-1, mtbal_intern(model->arena, "n")}, unknown = {-1, NULL};
    ck_assert(mtbal_dim_equal(n, n) && !mtbal_dim_equal(unknown, unknown));
    ck_assert(!mtbal_dim_equal(n, mtbal_dim_const(3)) && !mtbal_dim_equal(mtbal_dim_const(3), n));
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ names and lists */

START_TEST(test_fresh_names)
{
    mtbal_model *model = mtbal_model_new(17);
    char longest[2000], text[32];
    ck_assert_str_eq(mtbal_fresh_name(model, "w"), "w");
    mtbal_value_new(model->graph, "w");
    mtbal_value_new(model->graph, "w_2");
    ck_assert_str_eq(mtbal_value_new(model->graph, mtbal_fresh_name(model, "w"))->name, "w_1");
    ck_assert_str_eq(mtbal_value_new(model->graph, mtbal_fresh_name(model, "w"))->name, "w_3");
    ck_assert_str_eq(mtbal_fresh_name(model, "w_1"), "w_1_1");
    for (int i = 0; i < 20000; i++) {
        const mtbal_value *v = mtbal_value_new(model->graph, NULL);
        ck_assert_int_eq(v->id, 4 + i);
        snprintf(text, sizeof text, "value_%d", i);
        ck_assert_str_eq(v->name, i ? text : "value");
    }
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    mtbal_value_new(model->graph, longest);
    const char *fresh = mtbal_fresh_name(model, longest);
    ck_assert_uint_eq(strlen(fresh), sizeof longest + 1);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_lists)
{
    mtbal_model *model = mtbal_model_new(17);
    mtbal_graph *graph = model->graph;
    mtbal_value *v[40];
    for (int i = 0; i < 40; i++) {
        v[i] = mtbal_value_new(graph, NULL);
        mtbal_add_input(graph, v[i]);
        if (i % 3 == 2) { /* append and remove in turns, across powers of two */
            mtbal_remove_input(graph, v[i - 1]);
            ck_assert(!v[i - 1]->is_input && v[i]->is_input);
        }
    }
    ck_assert_int_eq(graph->ninputs, 27);
    for (int i = 0, k = 0; i < 40; i++)
        if (i % 3 != 1 || i == 39)
            ck_assert_ptr_eq(graph->inputs[k++], v[i]);
    mtbal_add_output(graph, v[3]);
    mtbal_add_output(graph, v[3]);
    mtbal_remove_output(graph, v[3]);
    ck_assert(v[3]->is_output && graph->noutputs == 1);
    mtbal_remove_output(graph, v[3]);
    ck_assert(!v[3]->is_output && graph->noutputs == 0);
    const int64_t dims[1] = {2};
    mtbal_add_initializer(graph, v[0], mtbal_tensor_new(model, MTBAL_INT64, 1, dims, NULL));
    ck_assert(v[0]->type.rank == 1 && v[0]->type.dims[0].size == 2 &&
              v[0]->type.dtype == MTBAL_INT64);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_model_entries)
{
    mtbal_model *model = mtbal_model_new(17);
    ck_assert_int_eq(mtbal_opset_of(model, ""), 17);
    ck_assert_int_eq(mtbal_opset_of(model, "mtbal"), 0);
    mtbal_set_opset(model, "mtbal", 1);
    mtbal_set_opset(model, "", 18);
    ck_assert_int_eq(mtbal_opset_of(model, ""), 18);
    ck_assert_int_eq(model->nopsets, 2);
    ck_assert_ptr_null(mtbal_property_get(model, "k"));
    mtbal_property_set(model, "k", "1");
    mtbal_property_set(model, "l", "2");
    mtbal_property_set(model, "k", "3");
    ck_assert_str_eq(mtbal_property_get(model, "k"), "3");
    ck_assert_int_eq(model->nproperties, 2);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ nodes and attributes */

START_TEST(test_nodes)
{
    mtbal_model *model = mtbal_model_new(17);
    mtbal_graph *g = model->graph;
    char text[512];
    mtbal_node *c = mtbal_node_new(g, NULL, "", "Ceil", 0, NULL, 1);
    mtbal_node *a = mtbal_node_new(g, c, "", "Abs", 0, NULL, 1);
    mtbal_node *b = mtbal_node_new(g, c, "", "Neg", 0, NULL, 2);
    ck_assert_str_eq(ops_of(g, text), "Abs Neg Ceil");
    mtbal_node_move(c, a);
    ck_assert_str_eq(ops_of(g, text), "Ceil Abs Neg");
    mtbal_node_move(a, a);
    mtbal_node_move(c, a);
    ck_assert_str_eq(ops_of(g, text), "Ceil Abs Neg");
    mtbal_node_move(c, NULL);
    ck_assert_str_eq(ops_of(g, text), "Abs Neg Ceil");
    ck_assert(g->first == a && g->last == c && a->next == b && c->prev == b);
    mtbal_node_remove(b);
    ck_assert_str_eq(ops_of(g, text), "Abs Ceil");
    ck_assert(g->nnodes == 2 && b->out[0]->def == NULL);
    mtbal_value *late = mtbal_value_new(g, "late");
    mtbal_node_set_output(a, 3, late);
    ck_assert(a->nout == 4 && !a->out[1] && !a->out[2] && late->def == a && late->def_index == 3);
    ck_assert_int_eq(a->opcode, MTBAL_OP_abs);
    mtbal_node_set_op(a, "", "Tanh");
    ck_assert(a->opcode == MTBAL_OP_tanh && mtbal_node_is(a, MTBAL_OP_tanh));
    mtbal_node_set_op(a, "com.example", "Tanh");
    ck_assert(a->opcode == -1 && !mtbal_node_is(a, MTBAL_OP_tanh));
    ck_assert_str_eq(mtbal_node_label(a, text), "node Abs (com.example.Tanh)");
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_attributes)
{
    mtbal_model *model = mtbal_model_new(17);
    mtbal_node *node = mtbal_node_new(model->graph, NULL, "", "Conv", 0, NULL, 1);
    mtbal_node *other = mtbal_node_new(model->graph, NULL, "", "Conv", 0, NULL, 1);
    const int64_t pads[4] = {1, 2, 3, 4}, *ints = NULL;
    ck_assert_int_eq(mtbal_set_attrs(node, "group=i alpha=f auto_pad=s pads=I", (int64_t)3, 0.5,
                                     "VALID", 4, pads),
                     MTBAL_OK);
    ck_assert_int_eq(mtbal_attr_i(node, "group", 1), 3);
    ck_assert(mtbal_attr_f(node, "alpha", 1) == 0.5);
    ck_assert_str_eq(mtbal_attr_s(node, "auto_pad", "NOTSET"), "VALID");
    ck_assert_int_eq(mtbal_attr_ints(node, "pads", &ints), 4);
    ck_assert_int_eq(ints[3], 4);
    ck_assert_int_eq(mtbal_attr_ints(node, "strides", &ints), -1);
    ck_assert_int_eq(mtbal_attr_i(node, "alpha", 7), 7); /* another kind */
    mtbal_set_i(node, "group", 5);                       /* in place: the order stays */
    ck_assert_str_eq(node->attrs->name, "group");
    ck_assert_int_eq(mtbal_attr_i(node, "group", 1), 5);
    mtbal_set_i(other, "group", 9);
    mtbal_copy_attrs(other, node);
    ck_assert_int_eq(mtbal_attr_i(other, "group", 1), 9);
    ck_assert_int_eq(mtbal_attr_ints(other, "pads", &ints), 4);
    mtbal_attr_remove(node, "alpha");
    mtbal_attr_remove(node, "alpha");
    ck_assert_ptr_null(mtbal_attr_find(node, "alpha"));
    ck_assert_ptr_nonnull(mtbal_attr_find(other, "alpha"));
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ replacing, users, copies */

START_TEST(test_replace_inner)
{
    mtbal_model *model = parse(diamond);
    mtbal_value *a = find(model, "a"), *x = find(model, "x");
    ck_assert_int_eq(mtbal_replace(model->graph, a, x), MTBAL_OK);
    ck_assert_ptr_eq(find(model, "b")->def->in[0], x);
    ck_assert_ptr_eq(find(model, "c")->def->in[0], x);
    ck_assert(!strcmp(a->name, "a") && !strcmp(x->name, "x"));
    verified(model);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_replace_output)
{
    mtbal_model *model = parse(diamond);
    mtbal_value *y = find(model, "y"), *b = find(model, "b"), *x = find(model, "x");
    char text[512];
    mtbal_replace(model->graph, y, b); /* b takes the name y */
    ck_assert_ptr_eq(model->graph->outputs[0], b);
    ck_assert_str_eq(b->name, "y");
    ck_assert(b->is_output && !y->is_output);
    mtbal_node_remove(y->def);
    verified(model);
    mtbal_replace(model->graph, b, x); /* an input keeps its own name */
    ck_assert_str_eq(x->name, "x");
    ck_assert_str_eq(model->graph->outputs[0]->name, "y");
    ck_assert_str_eq(ops_of(model->graph, text), "Relu Exp Neg Identity");
    ck_assert_ptr_eq(model->graph->outputs[0]->def->in[0], x);
    ck_assert(!b->is_output && model->graph->outputs[0]->is_output);
    verified(model);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_replace_captured)
{
    mtbal_model *model = parse(branching);
    mtbal_value *a = find(model, "a"), *x = find(model, "x");
    mtbal_node *branch = find(model, "y")->def;
    mtbal_graph *then = mtbal_attr_find(branch, "then_branch")->g;
    mtbal_replace(model->graph, a, x);
    ck_assert_ptr_eq(then->first->in[0], x);
    mtbal_replace(model->graph, then->outputs[0], x); /* a branch cannot list an outer value */
    ck_assert_str_eq(then->outputs[0]->def->op, "Identity");
    verified(model);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_uses)
{
    mtbal_model *model = parse(branching);
    mtbal_arena *arena = mtbal_arena_new();
    const mtbal_uses *uses = mtbal_uses_new(model, model->graph, arena);
    int a = find(model, "a")->id, x = find(model, "x")->id, y = find(model, "y")->id;
    ck_assert_int_eq(uses->nvalues, model->nvalues);
    ck_assert(uses->count[a] == 2 && uses->nnodes[a] == 2);
    ck_assert_str_eq(uses->node[a][0]->op, "Exp");
    ck_assert_str_eq(uses->node[a][1]->op, "Neg");
    ck_assert(uses->count[x] == 2 && uses->count[y] == 1 && uses->nnodes[y] == 0);
    mtbal_arena_free(arena);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_copy)
{
    mtbal_model *model = parse(branching);
    mtbal_graph *g = model->graph;
    int n = model->nvalues;
    mtbal_value **map = calloc((size_t)n, sizeof *map);
    mtbal_value *a = find(model, "a"), *y = find(model, "y"), *x = find(model, "x");
    map[x->id] = a; /* the copy reads a instead of x */
    ck_assert_int_eq(mtbal_graph_copy_nodes(g, g, NULL, map, n, "copy/"), MTBAL_OK);
    ck_assert_int_eq(g->nnodes, 4);
    ck_assert_ptr_eq(map[a->id]->def->in[0], a);
    ck_assert_str_eq(map[y->id]->name, "copy/y");
    const mtbal_graph *branch = mtbal_attr_find(map[y->id]->def, "else_branch")->g;
    ck_assert_ptr_eq(branch->owner, map[y->id]->def);
    ck_assert_str_eq(branch->first->op, "Neg");
    ck_assert_ptr_eq(branch->first->in[0], map[a->id]);
    ck_assert_ptr_eq(branch->last->in[1], a);
    mtbal_add_output(g, map[y->id]);
    verified(model);
    free(map);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ the verifier */

START_TEST(test_sort)
{
    mtbal_model *model = parse(diamond);
    mtbal_graph *g = model->graph;
    char text[512];
    for (mtbal_node *node = g->first, *next; node; node = next) {
        next = node->next;
        mtbal_node_move(node, g->first);
    }
    ck_assert_str_eq(ops_of(g, text), "Add Neg Exp Relu");
    verified(model);
    ck_assert_str_eq(ops_of(g, text), "Relu Exp Neg Add");
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_sort_captures)
{
    mtbal_model *model = parse(branching);
    char text[512];
    mtbal_node_move(model->graph->first, NULL);
    ck_assert_str_eq(ops_of(model->graph, text), "If Relu");
    verified(model);
    ck_assert_str_eq(ops_of(model->graph, text), "Relu If");
    mtbal_model_free(model);
}
END_TEST

/* Each breaks a model that was right, and says what the message must tell. */
static void break_cycle(mtbal_model *m)
{
    find(m, "a")->def->in[0] = find(m, "c");
}
static void break_self(mtbal_model *m)
{
    find(m, "b")->def->in[0] = find(m, "b");
}
static void break_undefined(mtbal_model *m)
{
    find(m, "b")->def->in[0] = mtbal_value_new(m->graph, "ghost");
}
static void break_removed(mtbal_model *m)
{
    mtbal_node_remove(find(m, "c")->def);
}
static void break_twice(mtbal_model *m)
{
    mtbal_add_input(m->graph, find(m, "x"));
}
static void break_name(mtbal_model *m)
{
    find(m, "c")->name = find(m, "b")->name;
}
static void break_output(mtbal_model *m)
{
    mtbal_add_output(m->graph, mtbal_value_new(m->graph, "nowhere"));
}
static void break_missing(mtbal_model *m)
{
    find(m, "y")->def->in[1] = NULL;
}
static void break_many(mtbal_model *m)
{
    mtbal_value *in[3] = {find(m, "a"), find(m, "a"), find(m, "a")};
    mtbal_node_set_inputs(find(m, "y")->def, 3, in);
}
static void break_outputs(mtbal_model *m)
{
    mtbal_node_set_output(find(m, "b")->def, 1, mtbal_value_new(m->graph, NULL));
}
static void break_types(mtbal_model *m)
{
    find(m, "c")->type.dtype = MTBAL_DOUBLE;
    find(m, "b")->type.dtype = MTBAL_FLOAT;
}
static void break_initializer(mtbal_model *m)
{
    const int64_t dims[2] = {3, 5};
    mtbal_add_initializer(m->graph, find(m, "x"), mtbal_tensor_new(m, MTBAL_FLOAT, 2, dims, NULL));
}
static void break_initializer_type(mtbal_model *m)
{
    const int64_t dims[2] = {3, 4};
    mtbal_add_initializer(m->graph, find(m, "x"), mtbal_tensor_new(m, MTBAL_INT64, 2, dims, NULL));
}
static void break_reference(mtbal_model *m)
{
    mtbal_set_f(find(m, "b")->def, "alpha", 1);
    mtbal_attr_find(find(m, "b")->def, "alpha")->ref = "beta";
}
static void break_scope(mtbal_model *m)
{
    mtbal_node *branch = find(m, "y")->def;
    mtbal_graph *other = mtbal_attr_find(branch, "then_branch")->g;
    mtbal_attr_find(branch, "else_branch")->g->last->in[1] = other->outputs[0];
}
static void break_branch_name(mtbal_model *m)
{
    mtbal_attr_find(find(m, "y")->def, "else_branch")->g->first->out[0]->name = find(m, "x")->name;
}
static void break_capture_cycle(mtbal_model *m)
{
    find(m, "a")->def->in[0] = find(m, "y");
}
static void break_function(mtbal_model *m)
{
    mtbal_diag diag = {0};
    mtbal_function *f = mtbal_parse_function(
        m, "<opset_import: [\"\" : 17]> Loud (p) => (q) { q = Neg (p) }", &diag);
    ck_assert_msg(f != NULL, "%s", diag.what);
    f->domain = mtbal_intern(m->arena, "mine");
    mtbal_function_add(m, f);
    mtbal_node_set_op(f->body->first, "mine", "Loud");
}
static void break_call(mtbal_model *m)
{
    break_function(m);
    mtbal_node_set_op(m->functions[0]->body->first, "", "Neg");
    mtbal_node_set_op(find(m, "y")->def, "mine", "Loud");
}

static const struct broken {
    const char *text;
    void (*apply)(mtbal_model *);
    const char *where, *what;
} broken[] = {
    {diamond, break_cycle, "graph", "2 nodes need each other in a circle: node c (Neg), node a"},
    {diamond, break_self, "graph", "1 nodes need each other in a circle: node b (Exp)"},
    {diamond, break_undefined, "node b (Exp)", "operand ghost is not defined"},
    {diamond, break_removed, "node y (Add)", "operand c is not defined"},
    {diamond, break_twice, "input x", "x is defined twice"},
    {diamond, break_name, "node b (Neg)", "two values named b"},
    {diamond, break_output, "graph outputs", "nowhere is not defined"},
    {diamond, break_missing, "node y (Add)", "input 1 is missing"},
    {diamond, break_many, "node y (Add)", "has 3 inputs, and takes 2 at most"},
    {diamond, break_outputs, "node b (Exp)", "has 2 outputs instead of 1"},
    {diamond, break_types, "node y (Add)", "b and c must have one type, but are float and double"},
    {diamond, break_initializer, "input x", "shape of its data"},
    {diamond, break_initializer_type, "input x", "its data is int64, but it is declared float"},
    {diamond, break_reference, "node b (Exp)", "attribute alpha refers to beta"},
    {branching, break_scope, "node e (Add)", "operand t belongs to a graph that it cannot see"},
    {branching, break_branch_name, "node x (Neg)", "two values named x"},
    {branching, break_capture_cycle, "graph", "node y (If), node a (Relu)"},
    {diamond, break_function, "Loud", "the function calls itself"},
    {diamond, break_call, "node y (mine.Loud)", "2 inputs and 1 outputs, the function 1 and 1"},
};

START_TEST(test_broken)
{
    const struct broken *c = &broken[_i];
    mtbal_model *model = parse(c->text);
    mtbal_diag diag = {0};
    verified(model);
    c->apply(model);
    ck_assert_int_eq(mtbal_verify(model, &diag), MTBAL_INVALID);
    ck_assert_msg(strstr(diag.where, c->where) && strstr(diag.what, c->what), "%s: %s", diag.where,
                  diag.what);
    ck_assert_msg(*diag.hint, "no hint");
    mtbal_model_free(model);
}
END_TEST

/* Every operator of ONNX says what operands it takes. */
START_TEST(test_operand_rows)
{
    for (int i = 0; i < MTBAL_NOPS; i++)
        ck_assert_msg(*mtbal_ops[i].domain || mtbal_ops[i].operands, "%s: no operands",
                      mtbal_ops[i].name);
}
END_TEST

/* Against a plain array: new keys, new numbers of old keys, keys that are not there. */
START_TEST(test_map)
{
    enum { KEYS = 5000 };
    static char keys[2 * KEYS];
    static int numbers[KEYS];
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_map map = {0};
    ck_assert_int_eq(mtbal_map_get(&map, keys), -1);
    for (int i = 0; i < 3 * KEYS; i++) {
        int k = (int)((int64_t)i * 7919 % KEYS);
        numbers[k] = i;
        ck_assert(mtbal_map_set(&map, arena, &keys[2 * k], i));
        ck_assert_int_eq(map.count, i < KEYS ? i + 1 : KEYS);
    }
    for (int k = 0; k < KEYS; k++) {
        ck_assert_int_eq(mtbal_map_get(&map, &keys[2 * k]), numbers[k]);
        ck_assert_int_eq(mtbal_map_get(&map, &keys[2 * k + 1]), -1);
    }
    ck_assert_int_eq(mtbal_map_get(&map, NULL), -1);
    ck_assert_ptr_null(mtbal_interned(arena, "a"));
    const char *a = mtbal_intern(arena, "a");
    ck_assert_ptr_eq(mtbal_interned(arena, "a"), a);
    ck_assert_ptr_null(mtbal_interned_n(arena, "a", 0));
    mtbal_arena_free(arena);
}
END_TEST

/* By name: what is there now, under the name that it has now, from where it is seen. */
START_TEST(test_find)
{
    mtbal_model *m = mtbal_model_new(17);
    mtbal_graph *inner = mtbal_graph_new(m, m->graph, "inner");
    mtbal_value *x = mtbal_value_new(m->graph, "x"), *y = mtbal_value_new(inner, "y");
    ck_assert_ptr_null(mtbal_value_find(m->graph, "x")); /* nowhere listed */
    ck_assert_int_eq(mtbal_add_input(m->graph, x), MTBAL_OK);
    ck_assert_int_eq(mtbal_add_input(inner, y), MTBAL_OK);
    ck_assert_ptr_eq(mtbal_value_find(m->graph, "x"), x);
    ck_assert_ptr_eq(mtbal_value_find(inner, "x"), x);
    ck_assert_ptr_eq(mtbal_value_find(inner, "y"), y);
    ck_assert_ptr_null(mtbal_value_find(m->graph, "y"));
    ck_assert_ptr_null(mtbal_value_find(m->graph, "nothing"));
    ck_assert_int_eq(mtbal_value_rename(x, mtbal_intern(m->arena, "z")), MTBAL_OK);
    ck_assert_ptr_null(mtbal_value_find(m->graph, "x"));
    ck_assert_ptr_eq(mtbal_value_find(m->graph, "z"), x);
    mtbal_graph *other = mtbal_graph_new(m, NULL, "body"); /* a function's has its own names */
    mtbal_value *z = mtbal_value_new(other, "z");
    ck_assert_int_eq(mtbal_add_input(other, z), MTBAL_OK);
    ck_assert_ptr_eq(mtbal_value_find(m->graph, "z"), x);
    ck_assert_ptr_eq(mtbal_value_find(other, "z"), z);
    mtbal_remove_input(m->graph, x);
    ck_assert_ptr_null(mtbal_value_find(m->graph, "z"));
    mtbal_model_free(m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("graph");
    TCase *tests = tcase_create("graph");
    tcase_add_test(tests, test_arena);
    tcase_add_test(tests, test_intern);
    tcase_add_test(tests, test_map);
    tcase_add_test(tests, test_find);
    tcase_add_test(tests, test_products);
    tcase_add_test(tests, test_diag);
    tcase_add_test(tests, test_half);
    tcase_add_loop_test(tests, test_elements, 0, (int)(sizeof elements / sizeof *elements));
    tcase_add_test(tests, test_tensor_sizes);
    tcase_add_test(tests, test_fresh_names);
    tcase_add_test(tests, test_lists);
    tcase_add_test(tests, test_model_entries);
    tcase_add_test(tests, test_nodes);
    tcase_add_test(tests, test_attributes);
    tcase_add_test(tests, test_replace_inner);
    tcase_add_test(tests, test_replace_output);
    tcase_add_test(tests, test_replace_captured);
    tcase_add_test(tests, test_uses);
    tcase_add_test(tests, test_copy);
    tcase_add_test(tests, test_sort);
    tcase_add_test(tests, test_sort_captures);
    tcase_add_loop_test(tests, test_broken, 0, (int)(sizeof broken / sizeof *broken));
    tcase_add_test(tests, test_operand_rows);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
