/* tests/test_onnxio.c: models read and written: byte for byte when nothing changed, and nothing but
 * the change when something did. */
#include "tests/files.h"

#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MODELS   "tests/data/models/"
#define FIXTURES MODELS "fixtures/"

static mtbal_model *must_read(const char *path)
{
    mtbal_diag diag = {0};
    mtbal_model *model;
    mtbal_status status = mtbal_onnx_read(path, &model, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    return model;
}

static mtbal_model *must_parse(wire *w)
{
    mtbal_diag diag = {0};
    mtbal_model *model;
    mtbal_status status = mtbal_onnx_read_bytes(w->data, w->size, NULL, &model, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
    wire_free(w);
    return model;
}

static void must_write(mtbal_model *model, const char *path)
{
    mtbal_diag diag = {0};
    mtbal_status status = mtbal_onnx_write(model, path, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s", diag.where, diag.what);
}

/* Written and read again. */
static mtbal_model *again(mtbal_model *model)
{
    must_write(model, files_path("again.onnx"));
    mtbal_model_free(model);
    return must_read(files_path("again.onnx"));
}

static bool contains(const char *path, const char *text)
{
    size_t size, n = strlen(text);
    bool found = false;
    unsigned char *bytes = files_read(path, &size);
    for (size_t i = 0; i + n <= size && !found; i++)
        found = memcmp(bytes + i, text, n) == 0;
    free(bytes);
    return found;
}

static mtbal_node *find_node(mtbal_graph *graph, const char *op)
{
    mtbal_node *node = graph->first;
    while (node && strcmp(node->op, op) != 0)
        node = node->next;
    ck_assert_msg(node != NULL, "no %s node", op);
    return node;
}

/* ------------------------------------------------------------------ every file that there is */

typedef struct tally {
    int files;
    bool from_memory;
} tally;

static void round_trip(const char *path, tally *t)
{
    size_t size, n;
    mtbal_diag diag = {0};
    unsigned char *bytes = files_read(path, &size), *out;
    mtbal_model *model = NULL;
    if (t->from_memory) /* so that the bytes are really made from the message */
        ck_assert_int_eq(mtbal_onnx_read_bytes(bytes, size, path, &model, &diag), MTBAL_OK);
    else
        model = must_read(path);
    mtbal_status status = mtbal_verify(model, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s: %s", path, diag.where, diag.what);
    ck_assert_int_eq(mtbal_onnx_write_bytes(model, &out, &n, &diag), MTBAL_OK);
    ck_assert_msg(n == size && memcmp(out, bytes, n) == 0, "%s: other bytes", path);
    mtbal_free(out);
    must_write(model, files_path("trip.onnx"));
    if (!strstr(path, "external"))
        ck_assert_msg(files_equal(path, files_path("trip.onnx")), "%s: another file", path);
    mtbal_model_free(model);
    free(bytes);
    t->files++;
}

static void each_model(const char *folder, tally *t)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[1024];
        struct stat st;
        size_t n = (size_t)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        /* fields in an order of their own: kept from a file only */
        bool skip = t->from_memory && !strcmp(e->d_name, "metadata_ir10_fields.onnx");
        if (e->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            each_model(path, t);
        else if (n > 5 && !strcmp(path + n - 5, ".onnx") && !skip)
            round_trip(path, t);
    }
    if (dir)
        closedir(dir);
}

START_TEST(unchanged_models)
{
    tally t = {0, _i};
    each_model("tests/data", &t);
    ck_assert_int_ge(t.files, 100);
}
END_TEST

/* ONNX's own test models, where the package libonnx-testdata is. */
START_TEST(unchanged_testdata)
{
    tally t = {0, _i};
    each_model("/usr/share/libonnx-testdata/data", &t);
    ck_assert(t.files == 0 || t.files > 1000);
}
END_TEST

/* ------------------------------------------------------------------ data of tensors */

typedef struct tensor_case {
    mtbal_dtype dtype;
    unsigned field;
    const char *bytes; /* of the packed field, 3 elements */
    size_t size;
    double expected[3];
} tensor_case;

static const tensor_case tensor_cases[] = {
    {MTBAL_FLOAT, 4, "\0\0\x80\x3f\0\0\0\xc0\0\0\0\0", 12, {1, -2, 0}},
    {MTBAL_FLOAT, 9, "\0\0\x80\x3f\0\0\0\xc0\0\0\0\0", 12, {1, -2, 0}},
    {MTBAL_DOUBLE, 10, "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0\0", 24, {1, -2, 0}},
    {MTBAL_INT32, 5, "\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\xac\2", 13, {1, -2, 300}},
    {MTBAL_INT16, 5, "\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\xac\2", 13, {1, -2, 300}},
    {MTBAL_INT8, 5, "\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\x7f", 12, {1, -2, 127}},
    {MTBAL_UINT8, 5, "\1\0\xff\1", 4, {1, 0, 255}},
    {MTBAL_UINT16, 5, "\1\0\xff\xff\3", 5, {1, 0, 65535}},
    {MTBAL_BOOL, 5, "\1\0\1", 3, {1, 0, 1}},
    {MTBAL_FLOAT16, 5, "\x80\x78\x80\x80\3\0", 6, {1, -2, 0}},
    {MTBAL_BFLOAT16, 5, "\x80\x7f\x80\x80\3\0", 6, {1, -2, 0}},
    {MTBAL_INT64, 7, "\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\xac\2", 13, {1, -2, 300}},
    {MTBAL_UINT32, 11, "\1\0\xff\xff\xff\xff\xf", 7, {1, 0, 4294967295.0}},
    {MTBAL_UINT64, 11, "\1\0\x80\x80\x80\x80\x80\x80\x80\x80\x80\1", 12, {1, 0, 0x1p63}},
    {MTBAL_UINT8, 9, "\1\0\xff", 3, {1, 0, 255}},
    {MTBAL_INT64,
     9,
     "\1\0\0\0\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff\x2c\1\0\0\0\0\0\0",
     24,
     {1, -2, 300}},
};

START_TEST(data_fields)
{
    const tensor_case *c = &tensor_cases[_i];
    wire tensor = {NULL, 0, 0}, extra = tensor;
    wire_int(&tensor, 1, 3);
    wire_int(&tensor, 2, c->dtype);
    wire_bytes(&tensor, c->field, c->bytes, c->size);
    wire_text(&tensor, 8, "w");
    wire_sub(&extra, 5, &tensor);
    wire w = wire_model(&extra);
    mtbal_model *model = must_parse(&w);
    const mtbal_value *value = mtbal_value_find(model->graph, "w");
    ck_assert(value && value->is_initializer && value->type.rank == 1);
    ck_assert(value->tensor->dtype == c->dtype && value->tensor->count == 3);
    ck_assert_uint_eq(value->tensor->bytes, 3 * mtbal_dtype_size(c->dtype));
    for (int i = 0; i < 3; i++)
        ck_assert_double_eq(mtbal_tensor_f64(value->tensor, i), c->expected[i]);
    mtbal_model_free(model);
}
END_TEST

/* A 3 x 4 sparse initializer, by linear indices and by coordinates; dense on demand. */
START_TEST(sparse_initializers)
{
    wire values = {NULL, 0, 0}, indices = values, sparse = values, extra = values;
    wire_int(&values, 1, 2);
    wire_int(&values, 2, MTBAL_FLOAT);
    wire_bytes(&values, 4, "\0\0\x80\x3f\0\0\0\xc0", 8);
    wire_text(&values, 8, "s");
    wire_int(&indices, 1, 2);
    if (_i)
        wire_int(&indices, 1, 2);
    wire_int(&indices, 2, MTBAL_INT64);
    wire_bytes(&indices, 7, _i ? "\1\2\2\3" : "\6\xb", _i ? 4 : 2);
    wire_sub(&sparse, 1, &values);
    wire_sub(&sparse, 2, &indices);
    wire_int(&sparse, 3, 3);
    wire_int(&sparse, 3, 4);
    wire_sub(&extra, 15, &sparse);
    wire w = wire_model(&extra);
    mtbal_model *model = must_parse(&w);
    for (int round = 0; round < 2; round++, model = again(model)) {
        mtbal_tensor *t = mtbal_value_find(model->graph, "s")->tensor;
        ck_assert_int_eq(mtbal_tensor_load(model, t, NULL), MTBAL_OK);
        for (int64_t i = 0; i < 12; i++)
            ck_assert_double_eq(mtbal_tensor_f64(t, i), i == 6 ? 1 : i == 11 ? -2 : 0);
    }
    mtbal_model_free(model);
}
END_TEST

START_TEST(constants)
{
    struct {
        unsigned field;
        int kind;
        const char *name;
    } forms[] = {{2, MTBAL_ATTR_FLOAT, "value_float"},
                 {3, MTBAL_ATTR_INT, "value_int"},
                 {7, MTBAL_ATTR_FLOATS, "value_floats"},
                 {8, MTBAL_ATTR_INTS, "value_ints"}};
    wire attr = {NULL, 0, 0}, node = attr, extra = attr;
    wire_text(&attr, 1, forms[_i].name);
    if (_i % 2) {
        wire_int(&attr, forms[_i].field, 7);
    } else {
        wire_varint(&attr, forms[_i].field << 3 | 5);
        wire_raw(&attr, "\0\0\xe0\x40", 4);
    }
    wire_int(&attr, 20, (uint64_t)forms[_i].kind);
    wire_text(&node, 2, "c");
    wire_text(&node, 4, "Constant");
    wire_sub(&node, 5, &attr);
    wire_sub(&extra, 1, &node);
    wire w = wire_model(&extra);
    mtbal_model *model = must_parse(&w);
    const mtbal_value *c = mtbal_value_find(model->graph, "c");
    ck_assert(c && c->tensor && c->tensor->rank == _i / 2 && c->type.rank == _i / 2);
    ck_assert_int_eq(c->tensor->dtype, _i % 2 ? MTBAL_INT64 : MTBAL_FLOAT);
    ck_assert_double_eq(mtbal_tensor_f64(c->tensor, 0), 7);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_data_tensors)
{
    mtbal_model *model = mtbal_model_new(17);
    mtbal_tensor *t;
    const char *name;
    mtbal_diag diag = {0};
    wire w = {NULL, 0, 0};
    wire_int(&w, 1, 2);
    wire_int(&w, 2, MTBAL_FLOAT);
    wire_text(&w, 8, "x");
    wire_bytes(&w, 9, "\0\0\x80\x3f\0\0\0\xc0", 8);
    files_write(files_path("input_0.pb"), w.data, w.size);
    ck_assert_int_eq(mtbal_onnx_read_tensor(model, files_path("input_0.pb"), &t, &name, &diag),
                     MTBAL_OK);
    ck_assert_str_eq(name, "x");
    ck_assert(t->rank == 1 && t->dims[0] == 2 && mtbal_tensor_f64(t, 1) == -2 && !t->origin);
    files_write(files_path("input_0.pb"), w.data, w.size - 1);
    ck_assert_int_eq(mtbal_onnx_read_tensor(model, files_path("input_0.pb"), &t, &name, &diag),
                     MTBAL_INVALID);
    ck_assert_ptr_nonnull(strstr(diag.where, "input_0.pb"));
    wire_free(&w);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ structure */

/* Subgraphs refer to the values around them directly. */
START_TEST(captured_values)
{
    mtbal_model *model = must_read(FIXTURES "control_flow.onnx");
    mtbal_graph *body = mtbal_attr_find(find_node(model->graph, "Loop"), "body")->g;
    const mtbal_node *gemm = find_node(body, "Gemm");
    ck_assert_ptr_eq(gemm->in[1], mtbal_value_find(model->graph, "w.weight"));
    ck_assert_ptr_eq(gemm->in[1]->graph, model->graph);
    ck_assert_ptr_eq(gemm->in[0]->graph, body);
    ck_assert_ptr_eq(body->parent, model->graph);
    ck_assert_str_eq(body->owner->op, "Loop");
    mtbal_graph *branch = mtbal_attr_find(find_node(model->graph, "If"), "else_branch")->g;
    ck_assert_ptr_eq(branch->first->in[0]->def, body->owner);
    mtbal_model_free(model);
}
END_TEST

/* A change inside of a subgraph, and a new name outside of it, both arrive in the file. */
START_TEST(changed_subgraph)
{
    mtbal_model *model = must_read(FIXTURES "control_flow.onnx");
    mtbal_graph *body = mtbal_attr_find(find_node(model->graph, "Loop"), "body")->g;
    ck_assert_int_eq(mtbal_node_set_op(find_node(body, "Mul"), "", "Div"), MTBAL_OK);
    mtbal_value_find(model->graph, "w.weight")->name = mtbal_intern(model->arena, "renamed");
    model = again(model);
    body = mtbal_attr_find(find_node(model->graph, "Loop"), "body")->g;
    ck_assert_str_eq(find_node(body, "Div")->op, "Div");
    ck_assert_str_eq(find_node(body, "Gemm")->in[1]->name, "renamed");
    ck_assert_ptr_nonnull(mtbal_value_find(model->graph, "renamed")->tensor);
    ck_assert_int_eq(mtbal_verify(model, NULL), MTBAL_OK);
    mtbal_model_free(model);
}
END_TEST

START_TEST(unsorted_nodes)
{
    wire first = {NULL, 0, 0}, second = first, extra = first;
    wire_text(&first, 1, "b");
    wire_text(&first, 1, "");
    wire_text(&first, 2, "a");
    wire_text(&first, 4, "Clip");
    wire_text(&second, 1, "x");
    wire_text(&second, 2, "b");
    wire_text(&second, 4, "Relu");
    wire_text(&second, 7, "ai.onnx");
    wire_sub(&extra, 1, &first);
    wire_sub(&extra, 1, &second);
    wire w = wire_model(&extra);
    mtbal_model *model = must_parse(&w);
    const mtbal_value *a = mtbal_value_find(model->graph, "a");
    ck_assert_int_eq(a->def->nin, 2);
    ck_assert_ptr_null(a->def->in[1]);
    ck_assert_str_eq(a->def->in[0]->def->domain, "");
    ck_assert_int_eq(mtbal_verify(model, NULL), MTBAL_OK);
    ck_assert_ptr_eq(a->def->prev, a->def->in[0]->def);
    mtbal_model_free(model);
}
END_TEST

START_TEST(initializers_as_inputs)
{
    mtbal_model *model = must_read(MODELS "mlp_cls_reg/inits_as_inputs.onnx");
    const mtbal_value *w = mtbal_value_find(model->graph, "trunk.0.weight");
    ck_assert(w->is_input && w->is_initializer && w->tensor && w->type.rank == 2);
    mtbal_model_free(model);
}
END_TEST

START_TEST(functions)
{
    mtbal_model *model = must_read(MODELS "mlp_cls_reg/functions.onnx");
    ck_assert_int_gt(model->nfunctions, 0);
    int called = 0;
    for (const mtbal_node *n = model->graph->first; n; n = n->next) {
        const mtbal_function *f = mtbal_function_find(model, n->domain, n->op, n->overload);
        called += f != NULL;
        ck_assert(!f || (f->body->ninputs >= n->nin && f->body->nnodes > 0 && f->nopsets > 0));
    }
    ck_assert_int_gt(called, 0);
    mtbal_model_free(model);
}
END_TEST

/* What the packaged onnx.proto may not know: defaults of a function's attributes (field 11),
 * overloads (13 in a function, 8 in a node), read and kept, and written for a new function. */
START_TEST(newer_function_fields)
{
    wire attr = {NULL, 0, 0}, node = attr, function = attr, opset = attr;
    wire_text(&attr, 1, "alpha");
    wire_varint(&attr, 2 << 3 | 5);
    wire_raw(&attr, "\0\0\0\x40", 4);
    wire_int(&attr, 20, MTBAL_ATTR_FLOAT);
    wire_text(&node, 1, "p");
    wire_text(&node, 2, "q");
    wire_text(&node, 4, "Elu");
    wire_text(&node, 8, "fast");
    wire_text(&function, 1, "F");
    wire_text(&function, 4, "p");
    wire_text(&function, 5, "q");
    wire_sub(&function, 7, &node);
    wire_int(&opset, 2, 17);
    wire_sub(&function, 9, &opset);
    wire_text(&function, 10, "my");
    wire_sub(&function, 11, &attr);
    wire_text(&function, 13, "o1");
    wire w = wire_model(NULL);
    wire_sub(&w, 25, &function);
    mtbal_model *model = must_parse(&w);
    mtbal_function *f = mtbal_function_find(model, "my", "F", "o1");
    for (int round = 0; round < 3; round++) {
        ck_assert_ptr_nonnull(f);
        ck_assert(f->defaults && !strcmp(f->defaults->name, "alpha") && f->defaults->f == 2);
        ck_assert_str_eq(f->body->first->overload, "fast");
        ck_assert_ptr_eq(f->body->outputs[0]->def, f->body->first);
        if (round == 1) { /* as if a pass had made it */
            f->origin = f->defaults->origin = f->body->first->origin = NULL;
            model->doc = "changed";
        }
        model = again(model);
        f = mtbal_function_find(model, "my", "F", "o1");
    }
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ changes */

/* y = Identity(x) becomes y = Relu(Identity(x)); everything else in the file stays. */
static void insert_relu(mtbal_model *model, const char *role)
{
    mtbal_graph *graph = model->graph;
    mtbal_node *last = graph->last;
    mtbal_node *relu = mtbal_node_new(graph, NULL, "", "Relu", 1, &last->out[0], 1);
    ck_assert_ptr_nonnull(relu);
    relu->out[0]->type = last->out[0]->type;
    relu->role = role;
    relu->task = "T";
    ck_assert_int_eq(mtbal_replace(graph, last->out[0], relu->out[0]), MTBAL_OK);
    relu->in[0] = last->out[0];
}

START_TEST(change_keeps_the_rest)
{
    static const char *const kept[] = {
        "author",
        "someone",
        "train_config",
        "model doc",
        "pkg.torch.onnx.stack_trace",
        "src: model.py",
        "unused_initializer",
        "/trunk/trunk.1/Relu_output_0",
    };
    mtbal_model *model = must_read(FIXTURES "metadata_ir10_fields.onnx");
    mtbal_node *relu = find_node(model->graph, "Relu");
    ck_assert_int_eq(mtbal_node_set_op(relu, "", "LeakyRelu"), MTBAL_OK);
    ck_assert_int_eq(mtbal_set_f(relu, "alpha", 0.25), MTBAL_OK);
    must_write(model, files_path("changed.onnx"));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        ck_assert_msg(contains(files_path("changed.onnx"), kept[i]), "%s is gone", kept[i]);
    mtbal_model *changed = must_read(files_path("changed.onnx"));
    ck_assert_int_eq(changed->graph->nnodes, model->graph->nnodes);
    ck_assert_double_eq(mtbal_attr_f(find_node(changed->graph, "LeakyRelu"), "alpha", 0), 0.25);
    ck_assert_str_eq(mtbal_property_get(changed, "author"), "someone");
    mtbal_model_free(changed);
    mtbal_model_free(model);
}
END_TEST

/* The change undone gives the old bytes: nothing else moved. */
START_TEST(change_undone)
{
    mtbal_model *model = must_read(FIXTURES "metadata.onnx");
    mtbal_node *relu = find_node(model->graph, "Relu");
    ck_assert_int_eq(mtbal_node_set_op(relu, "", "Elu"), MTBAL_OK);
    model = again(model);
    ck_assert(!files_equal(FIXTURES "metadata.onnx", files_path("again.onnx")));
    ck_assert_int_eq(mtbal_node_set_op(find_node(model->graph, "Elu"), "", "Relu"), MTBAL_OK);
    mtbal_model_free(again(model));
    ck_assert(files_equal(FIXTURES "metadata.onnx", files_path("again.onnx")));
}
END_TEST

START_TEST(removed_values_leave_no_trace)
{
    const char *name = "/head_reg/Gemm_output_0";
    mtbal_model *model = must_read(FIXTURES "metadata.onnx");
    mtbal_value *value = mtbal_value_find(model->graph, name);
    mtbal_node *node = value->def;
    mtbal_value *first = mtbal_value_find(model->graph, "trunk.0.weight");
    ck_assert_int_eq(mtbal_replace(model->graph, value, node->in[0]), MTBAL_OK);
    mtbal_node_remove(node);
    ck_assert_int_eq(mtbal_replace(model->graph, first, mtbal_value_find(model->graph, "x")),
                     MTBAL_OK);
    mtbal_remove_initializer(model->graph, first);
    model = again(model);
    ck_assert(!contains(files_path("again.onnx"), name));
    ck_assert(!contains(files_path("again.onnx"), "trunk.0.weight")); /* its annotation, too */
    ck_assert(contains(files_path("again.onnx"), "/Sub_output_0"));
    mtbal_model_free(model);
}
END_TEST

/* An output that gets a new definition keeps name and declaration. */
START_TEST(replaced_output)
{
    wire w = wire_model(NULL);
    mtbal_model *model = must_parse(&w);
    insert_relu(model, NULL);
    model = again(model);
    ck_assert_str_eq(model->graph->outputs[0]->name, "y");
    ck_assert_str_eq(model->graph->outputs[0]->def->op, "Relu");
    ck_assert_int_eq(model->graph->outputs[0]->type.rank, 2);
    ck_assert_int_eq(mtbal_verify(model, NULL), MTBAL_OK);
    mtbal_model_free(model);
}
END_TEST

/* Node metadata needs IR 10. */
START_TEST(node_metadata)
{
    for (int ir = 8; ir <= 10; ir += 2) {
        wire w = wire_model(NULL);
        mtbal_model *model = must_parse(&w);
        model->ir_version = ir;
        insert_relu(model, "gradient");
        mtbal_model_free(again(model));
        bool has = contains(files_path("again.onnx"), "mtbal.role") &&
                   contains(files_path("again.onnx"), "gradient") &&
                   contains(files_path("again.onnx"), "mtbal.task");
        ck_assert_int_eq(has, ir == 10);
    }
}
END_TEST

/* Binding a dimension changes the declarations that name it, and no other. */
START_TEST(bound_dimensions)
{
    mtbal_model *model = must_read(MODELS "mlp_cls_reg/model.op17.onnx");
    mtbal_value *x = model->graph->inputs[0];
    ck_assert(x->type.rank == 2 && x->type.dims[0].symbol && x->type.dims[1].size > 0);
    x->type.dims[0] = (mtbal_dim){5, NULL};
    model = again(model);
    ck_assert_int_eq(model->graph->inputs[0]->type.dims[0].size, 5);
    ck_assert_ptr_nonnull(model->graph->inputs[1]->type.dims[0].symbol);
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ made here */

static void set_every_attribute(mtbal_model *model, mtbal_node *node)
{
    static const int64_t ints[] = {3, -1, INT64_MIN};
    static const float floats[] = {1, -0.5f};
    static const char *const strings[] = {"a", ""};
    mtbal_set_i(node, "i", -7);
    mtbal_set_f(node, "f", 0.5);
    mtbal_set_s(node, "s", "text");
    mtbal_set_ints(node, "ints", 3, ints);
    mtbal_set_tensor(node, "t", mtbal_tensor_new(model, MTBAL_INT64, 1, ints, ints));
    mtbal_attr *list = mtbal_attr_find(node, "t"), *more[2];
    for (int i = 0; i < 2; i++) {
        more[i] = mtbal_arena_alloc(model->arena, sizeof *more[i]);
        list = list->next = more[i];
    }
    *more[0] = (mtbal_attr){.name = "floats", .kind = MTBAL_ATTR_FLOATS, .n = 2, .floats = floats};
    more[0]->next = more[1];
    *more[1] =
        (mtbal_attr){.name = "strings", .kind = MTBAL_ATTR_STRINGS, .n = 2, .strings = strings};
}

START_TEST(made_here)
{
    mtbal_model *model = mtbal_model_new(17);
    mtbal_graph *graph = model->graph;
    mtbal_value *x = mtbal_value_new(graph, "x"), *w = mtbal_value_new(graph, "w");
    const int64_t dims[2] = {2, 3};
    mtbal_tensor *weights = mtbal_tensor_new(model, MTBAL_DOUBLE, 2, dims, NULL);
    mtbal_tensor_set_f64(weights, 4, 2.5);
    mtbal_dim shape[2] = {{-1, mtbal_intern(model->arena, "batch")}, {2, NULL}};
    x->type = (mtbal_type){MTBAL_TENSOR, MTBAL_DOUBLE, 2, shape};
    mtbal_add_input(graph, x);
    mtbal_add_initializer(graph, w, weights);
    mtbal_node *node =
        mtbal_node_new(graph, NULL, "", "MatMul", 3, (mtbal_value *[]){x, w, NULL}, 1);
    set_every_attribute(model, node);
    mtbal_add_output(graph, node->out[0]);
    mtbal_property_set(model, "mtbal.version", "1");
    mtbal_set_opset(model, "mtbal", 1);
    model->producer_name = "mtbal";
    model = again(model);
    node = model->graph->first;
    ck_assert(model->ir_version == 8 && mtbal_opset_of(model, "") == 17);
    ck_assert(mtbal_opset_of(model, "mtbal") == 1 && !strcmp(model->producer_name, "mtbal"));
    ck_assert_str_eq(mtbal_property_get(model, "mtbal.version"), "1");
    ck_assert_str_eq(model->graph->inputs[0]->type.dims[0].symbol, "batch");
    ck_assert(node->nin == 3 && !node->in[2] && node->in[1]->tensor->dtype == MTBAL_DOUBLE);
    ck_assert_double_eq(mtbal_tensor_f64(node->in[1]->tensor, 4), 2.5);
    const int64_t *ints;
    ck_assert_int_eq(mtbal_attr_i(node, "i", 0), -7);
    ck_assert_double_eq(mtbal_attr_f(node, "f", 0), 0.5);
    ck_assert_str_eq(mtbal_attr_s(node, "s", ""), "text");
    ck_assert(mtbal_attr_ints(node, "ints", &ints) == 3 && ints[2] == INT64_MIN);
    ck_assert_int_eq(mtbal_tensor_i64(mtbal_attr_find(node, "t")->t, 1), -1);
    ck_assert(mtbal_attr_find(node, "floats")->floats[1] == -0.5f);
    ck_assert_str_eq(mtbal_attr_find(node, "strings")->strings[0], "a");
    mtbal_model_free(model);
}
END_TEST

/* ------------------------------------------------------------------ size, failure */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A chain of n nodes, read, checked and written. */
static double time_chain(int n)
{
    wire extra = {NULL, 0, 0};
    for (int i = 0; i < n; i++) {
        wire node = {NULL, 0, 0};
        char in[32], out[32];
        snprintf(in, sizeof in, i ? "v%d" : "x", i - 1);
        snprintf(out, sizeof out, "v%d", i);
        wire_text(&node, 1, in);
        wire_text(&node, 2, out);
        wire_text(&node, 4, "Relu");
        wire_sub(&extra, 1, &node);
    }
    wire w = wire_model(&extra);
    double start = seconds();
    mtbal_model *model = must_parse(&w);
    must_write(model, files_path("chain.onnx"));
    mtbal_model_free(model);
    return seconds() - start;
}

START_TEST(linear_time)
{
    double small = time_chain(20000), large = time_chain(200000);
    ck_assert_msg(large < 40 * small + 0.5, "%.3f s, ten times the size %.3f s", small, large);
}
END_TEST

/* A disk that is full: the old file stays, nothing else is left. */
START_TEST(failed_write)
{
    mtbal_diag diag = {0};
    mtbal_model *model = must_read(FIXTURES "metadata.onnx");
    mkdir(files_path("taken"), 0777);
    int before = files_count();
    ck_assert_int_eq(mtbal_onnx_write(model, files_path("taken"), &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.what, "folder"));
    diag = (mtbal_diag){0};
    ck_assert_int_eq(mtbal_onnx_write(model, files_path("none/x.onnx"), &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.where, "none/x.onnx"));
    FILE *full = fopen("/dev/full", "w");
    if (full) {
        fclose(full);
        diag = (mtbal_diag){0};
        ck_assert_int_eq(mtbal_onnx_write(model, "/dev/full", &diag), MTBAL_IO);
        ck_assert_ptr_nonnull(strstr(diag.what, "space"));
    }
    ck_assert_int_eq(files_count(), before);
    mtbal_model_free(model);
}
END_TEST

/* The same in the middle of a file that exists already. */
START_TEST(failed_overwrite)
{
    mtbal_diag diag = {0};
    mtbal_model *model = must_read(FIXTURES "metadata.onnx");
    must_write(model, files_path("kept.onnx"));
    model->doc = "changed";
    int before = files_count();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {20000, RLIM_INFINITY};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(mtbal_onnx_write(model, files_path("kept.onnx"), &diag), MTBAL_IO);
    ck_assert_ptr_nonnull(strstr(diag.what, "large"));
    ck_assert(files_equal(FIXTURES "metadata.onnx", files_path("kept.onnx")));
    ck_assert_int_eq(files_count(), before);
    mtbal_model_free(model);
}
END_TEST

/* A link stays a link: what it points to is replaced. The old file's mode is kept. */
START_TEST(links_and_modes)
{
    struct stat st;
    mtbal_model *model = must_read(FIXTURES "tied.onnx");
    files_write(files_path("target.onnx"), "old", 3);
    ck_assert_int_eq(chmod(files_path("target.onnx"), 0640), 0);
    ck_assert_int_eq(symlink("target.onnx", files_path("link.onnx")), 0);
    must_write(model, files_path("link.onnx"));
    ck_assert(lstat(files_path("link.onnx"), &st) == 0 && S_ISLNK(st.st_mode));
    ck_assert(files_equal(FIXTURES "tied.onnx", files_path("target.onnx")));
    ck_assert(stat(files_path("target.onnx"), &st) == 0 && (st.st_mode & 0777) == 0640);
    mtbal_model_free(model);
}
END_TEST

static mtbal_status read_change_write(void *context)
{
    mtbal_model *model;
    MTBAL_TRY(mtbal_onnx_read(context, &model, NULL));
    mtbal_status status = mtbal_verify(model, NULL);
    model->doc = "changed";
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, files_path("memory.onnx"), NULL);
    mtbal_model_free(model);
    return status;
}

START_TEST(out_of_memory)
{
    static const char *const models[] = {MODELS "mlp_cls_reg/functions.onnx",
                                         FIXTURES "control_flow.onnx", FIXTURES "metadata.onnx",
                                         FIXTURES "external.onnx"};
    ck_assert_int_gt(fail_each_allocation(read_change_write, (void *)models[_i]), 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("onnxio");
    TCase *tc = tcase_create("onnxio");
    tcase_set_timeout(tc, 240);
    tcase_add_loop_test(tc, unchanged_models, 0, 2);
    tcase_add_loop_test(tc, unchanged_testdata, 0, 2);
    tcase_add_loop_test(tc, data_fields, 0, sizeof tensor_cases / sizeof *tensor_cases);
    tcase_add_loop_test(tc, sparse_initializers, 0, 2);
    tcase_add_loop_test(tc, constants, 0, 4);
    tcase_add_test(tc, test_data_tensors);
    tcase_add_test(tc, captured_values);
    tcase_add_test(tc, changed_subgraph);
    tcase_add_test(tc, unsorted_nodes);
    tcase_add_test(tc, initializers_as_inputs);
    tcase_add_test(tc, functions);
    tcase_add_test(tc, newer_function_fields);
    tcase_add_test(tc, change_keeps_the_rest);
    tcase_add_test(tc, change_undone);
    tcase_add_test(tc, removed_values_leave_no_trace);
    tcase_add_test(tc, replaced_output);
    tcase_add_test(tc, node_metadata);
    tcase_add_test(tc, bound_dimensions);
    tcase_add_test(tc, made_here);
    tcase_add_test(tc, linear_time);
    tcase_add_test(tc, failed_write);
    tcase_add_test(tc, failed_overwrite);
    tcase_add_test(tc, links_and_modes);
    tcase_add_loop_test(tc, out_of_memory, 0, 4);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    files_begin();
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    files_end();
    return failed != 0;
}
