/* tests/fuzz/structure.c: models that are well-formed files and say the wrong things. A mutation
 * edits the graph: dimensions, attributes, operands, types, initializers, operators, versions. Each
 * goes through everything: see once.h. */
#include "tests/fuzz/once.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

typedef struct editing {
    mtbal_model *model;
    uint64_t state;
    int nnodes, nvalues;
    mtbal_node *nodes[4096];
    mtbal_value *values[8192];
} editing;

/* ------------------------------------------------------------------ choices */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next(editing *e)
{
    uint64_t z = e->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static int below(editing *e, int n)
{
    return n > 0 ? (int)(next(e) % (uint64_t)n) : 0;
}
#define PICK(e, list) (list)[below((e), (int)(sizeof(list) / sizeof *(list)))]

static int64_t any_int(editing *e)
{
    static const int64_t ints[] = {
        0,  1,  2,  3,  4,  5,    7,         8,         16,        100,       513,      100000,
        -1, -2, -3, -7, -8, -100, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1ll << 40};
    return PICK(e, ints);
}

static int64_t any_size(editing *e)
{
    static const int64_t sizes[] = {0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 17, 64, 1000, -1};
    return PICK(e, sizes);
}

static mtbal_dtype any_dtype(editing *e)
{
    return (mtbal_dtype)(1 + below(e, 16));
}

static const char *any_string(editing *e)
{
    static const char *const strings[] = {"",
                                          "x",
                                          "SAME_UPPER",
                                          "VALID",
                                          "linear",
                                          "nearest",
                                          "cubic",
                                          "none",
                                          "mean",
                                          "sum",
                                          "add",
                                          "max",
                                          "tanh",
                                          "reflect",
                                          "edge",
                                          "wrap",
                                          "reverse",
                                          "bidirectional",
                                          "CRD",
                                          "ij,jk->ik",
                                          "ii->i",
                                          "...->...",
                                          "border",
                                          "half_pixel",
                                          "align_corners",
                                          "tf_crop_and_resize"};
    return PICK(e, strings);
}

static float any_float(editing *e)
{
    static const float floats[] = {0, 1, -1, 0.5f, 1e30f, -1e30f, 1e-30f, 1e9f};
    return PICK(e, floats);
}

static mtbal_status list_node(mtbal_node *node, void *context)
{
    editing *e = context;
    enum {
        NODES = sizeof e->nodes / sizeof *e->nodes,
        VALUES = sizeof e->values / sizeof *e->values
    };
    if (e->nnodes < NODES)
        e->nodes[e->nnodes++] = node;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && e->nvalues < VALUES)
            e->values[e->nvalues++] = node->out[i];
    return MTBAL_OK;
}

static mtbal_node *any_node(editing *e)
{
    return e->nnodes ? e->nodes[below(e, e->nnodes)] : NULL;
}

static mtbal_value *any_value(editing *e)
{
    return e->nvalues ? e->values[below(e, e->nvalues)] : NULL;
}

static mtbal_value *any_initializer(editing *e)
{
    mtbal_graph *g = e->model->graph;
    return g->ninitializers ? g->initializers[below(e, g->ninitializers)] : NULL;
}

/* ------------------------------------------------------------------ edits */

static void edit_input(editing *e)
{
    mtbal_graph *g = e->model->graph;
    if (!g->ninputs)
        return;
    mtbal_type *t = &g->inputs[below(e, g->ninputs)]->type;
    int kind = below(e, 4), rank = kind == 0 ? below(e, 10) : t->rank;
    if (kind == 1)
        t->dtype = any_dtype(e);
    mtbal_dim *dims =
        mtbal_arena_array(e->model->arena, (size_t)(rank > 0 ? rank : 1), sizeof *dims);
    for (int i = 0; i < rank && dims; i++)
        dims[i] = i < t->rank && below(e, 3) ? t->dims[i] : (mtbal_dim){any_size(e), NULL};
    if (dims && rank >= 0 && kind != 1) {
        t->dims = dims;
        t->rank = rank;
    }
}

/* Another shape or type, with as much data as it needs; or other contents. */
static void edit_initializer(editing *e)
{
    mtbal_value *v = any_initializer(e);
    if (!v || !v->tensor || v->tensor->external || v->tensor->rank > 12)
        return;
    int64_t dims[16] = {0}, count = 1;
    int kind = below(e, 4), rank = kind == 0 ? below(e, 6) : v->tensor->rank;
    mtbal_dtype dtype = kind == 1 ? any_dtype(e) : v->tensor->dtype;
    for (int i = 0; i < rank; i++) {
        dims[i] =
            i < v->tensor->rank && (kind != 2 || below(e, 2)) ? v->tensor->dims[i] : any_size(e);
        dims[i] = dims[i] < 0 ? 1 : dims[i];
        count *= dims[i];
    }
    if (count > 1 << 14 || !mtbal_dtype_size(dtype))
        return;
    mtbal_tensor *t = mtbal_tensor_new(e->model, dtype, rank, dims, NULL);
    bool whole = !mtbal_dtype_is_float(dtype);
    for (int64_t i = 0; t && i < count; i++) {
        double old = v->tensor->data && i < v->tensor->count && mtbal_dtype_size(v->tensor->dtype)
                         ? mtbal_tensor_f64(v->tensor, i)
                         : (double)below(e, 3);
        mtbal_tensor_set_f64(
            t, i, kind == 3 && !below(e, 4) ? whole ? (double)any_size(e) : any_float(e) : old);
    }
    if (!t)
        return;
    v->tensor = t;
    v->origin = NULL;
    v->type.dtype = dtype;
    v->type.rank = rank;
    v->type.dims = mtbal_arena_array(e->model->arena, (size_t)rank + 1, sizeof *v->type.dims);
    for (int i = 0; i < rank && v->type.dims; i++)
        v->type.dims[i].size = dims[i];
}

static void edit_ints(editing *e, mtbal_node *node, const mtbal_attr *a)
{
    int64_t values[16];
    int n = a->n > 12 ? 12 : a->n;
    for (int i = 0; i < n; i++)
        values[i] = below(e, 2) ? a->ints[i] : any_int(e);
    n += below(e, 3) - 1;
    values[n > 0 ? n - 1 : 0] = any_int(e);
    mtbal_set_ints(node, a->name, n < 0 ? 0 : n, values);
}

static void edit_attribute(editing *e)
{
    static const char *const names[] = {"axis",    "axes",    "perm",      "group",
                                        "unknown", "mode",    "to",        "kernel_shape",
                                        "pads",    "strides", "dilations", "keepdims"};
    mtbal_node *node = any_node(e);
    const mtbal_attr *a = node ? node->attrs : NULL;
    for (int skip = below(e, 4); a && a->next && skip > 0; skip--)
        a = a->next;
    if (!node)
        return;
    const char *name = a && below(e, 4) ? a->name : PICK(e, names);
    switch (a ? below(e, 6) : 1 + below(e, 4)) {
    case 0:
        if (a->kind == MTBAL_ATTR_INTS)
            edit_ints(e, node, a);
        else if (a->kind == MTBAL_ATTR_INT)
            mtbal_set_i(node, a->name, any_int(e));
        else if (a->kind == MTBAL_ATTR_STRING)
            mtbal_set_s(node, a->name, any_string(e));
        else if (a->kind == MTBAL_ATTR_FLOAT)
            mtbal_set_f(node, a->name, any_float(e));
        break;
    case 1:
        mtbal_set_i(node, name, any_int(e));
        break;
    case 2:
        mtbal_set_s(node, name, any_string(e));
        break;
    case 3:
        mtbal_set_f(node, name, any_float(e));
        break;
    case 4:
        mtbal_set_ints(node, name, 2, (int64_t[]){any_int(e), any_int(e)});
        break;
    default:
        mtbal_attr_remove(node, name);
    }
}

/* Another value, none, one more or one less, or two in the other order. */
static void edit_operands(editing *e)
{
    mtbal_value *in[64];
    mtbal_node *node = any_node(e);
    if (!node || node->nin > 60)
        return;
    int n = node->nin;
    memcpy(in, node->in, (size_t)n * sizeof *in);
    int i = below(e, n), j = below(e, n);
    switch (below(e, 6)) {
    case 0:
    case 1:
        if (n)
            in[i] = any_value(e);
        break;
    case 2:
        if (n)
            in[i] = NULL;
        break;
    case 3:
        in[n++] = any_value(e);
        break;
    case 4:
        n -= n > 0;
        break;
    default:
        if (n) {
            mtbal_value *v = in[i];
            in[i] = in[j];
            in[j] = v;
        }
    }
    mtbal_node_set_inputs(node, n, in);
}

static void edit_outputs(editing *e)
{
    mtbal_node *node = any_node(e);
    if (!node)
        return;
    if (below(e, 2) && node->nout > 1)
        node->nout--;
    else
        mtbal_node_set_output(node, node->nout, mtbal_value_new(node->graph, NULL));
}

static void edit_operator(editing *e)
{
    mtbal_node *node = any_node(e);
    int op = below(e, MTBAL_NOPS);
    for (int tries = 0; tries < 50 && node; tries++, op = below(e, MTBAL_NOPS))
        if (mtbal_ops[op].operands && !*mtbal_ops[op].domain &&
            mtbal_ops[op].fewest <= node->nout) {
            mtbal_node_set_op(node, "", mtbal_ops[op].name);
            return;
        }
}

static void edit_model(editing *e)
{
    mtbal_graph *g = e->model->graph;
    mtbal_value *v = any_value(e);
    if (below(e, 3) == 0)
        mtbal_set_opset(e->model, "", 1 + below(e, 30));
    else if (v && v->graph == g && !v->is_output && v->def)
        mtbal_add_output(g, v);
}

static void (*const edits[])(editing *) = {edit_input,     edit_initializer, edit_attribute,
                                           edit_attribute, edit_operands,    edit_operands,
                                           edit_outputs,   edit_operator,    edit_model};

/* ------------------------------------------------------------------ libFuzzer's two functions */

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static editing e;
    unsigned char *bytes = NULL;
    size_t written = 0;
    mtbal_model *model = NULL;
    if (mtbal_onnx_read_bytes(data, size, NULL, &model, NULL) != MTBAL_OK)
        return LLVMFuzzerMutate(data, size, max_size);
    e = (editing){.model = model, .state = seed};
    for (int i = 0; i < model->graph->ninputs && e.nvalues < 1024; i++)
        e.values[e.nvalues++] = model->graph->inputs[i];
    for (int i = 0; i < model->graph->ninitializers && e.nvalues < 4096; i++)
        e.values[e.nvalues++] = model->graph->initializers[i];
    mtbal_graph_walk(model->graph, list_node, &e);
    for (int i = 1 + below(&e, 3); i > 0; i--)
        PICK(&e, edits)(&e);
    if (mtbal_onnx_write_bytes(model, &bytes, &written, NULL) != MTBAL_OK || written > max_size)
        written = 0;
    if (written)
        memcpy(data, bytes, written);
    mtbal_free(bytes);
    mtbal_model_free(model);
    return written ? written : LLVMFuzzerMutate(data, size, max_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    once(data, size);
    return 0;
}
