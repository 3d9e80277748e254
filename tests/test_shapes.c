/* tests/test_shapes.c: the shape functions: symbolic shapes as the operator specification has them,
 * and ONNX's own node tests, whose outputs have the shapes that are inferred from their inputs. */
#include "onnxio/onnxio.h"

#include <check.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the list */

START_TEST(test_every_operator)
{
    for (int i = 0; i < MTBAL_NOPS; i++)
        ck_assert_msg(*mtbal_ops[i].domain || mtbal_ops[i].shape, "%s has no shape function",
                      mtbal_ops[i].name);
}
END_TEST

/* ------------------------------------------------------------------ symbolic shapes */

/* y (and z) of a graph with these inputs. */
static const struct row {
    int opset;
    const char *inputs, *body, *y, *z;
} rows[] = {
    {17, "float[n,3,h,w] x, float[8,3,3,3] k", "y = Conv <pads = [1,1,1,1]> (x, k)",
     "float[n,8,h,w]", NULL},
    {17, "float[n,3,h,w] x, float[8,3,3,3] k",
     "y = Conv <strides = [2,2], pads = [1,1,1,1]> (x, k)", "float[n,8,((h+1)/2),((w+1)/2)]", NULL},
    {17, "float[n,3,h,w] x, float[8,3,3,3] k", "y = Conv <dilations = [2,2]> (x, k)",
     "float[n,8,h-4,w-4]", NULL},
    {17, "float[n,3,h,w] x, float[8,3,3,3] k",
     "y = Conv <auto_pad = \"SAME_UPPER\", strides = [2,3]> (x, k)",
     "float[n,8,((h+1)/2),((w+2)/3)]", NULL},
    {17, "float[n,3,h,w] x, float[8,3,3,3] k",
     "y = Conv <auto_pad = \"VALID\", pads = [1,1,1,1]> (x, k)", "float[n,8,h-2,w-2]", NULL},
    {17, "float[n,c,l] x, float[8,1,k] w", "y = Conv (x, w)", "float[n,8,?]", NULL},
    {17, "float[n,8,h,w] x, float[8,4,2,2] k",
     "y = ConvTranspose <strides = [2,2], group = 2> (x, k)", "float[n,8,2*h,2*w]", NULL},
    {17, "float[n,8,h,w] x, float[8,4,3,3] k",
     "y = ConvTranspose <strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]> (x, k)",
     "float[n,4,2*h,2*w]", NULL},
    {17, "float[n,8,h,w] x, float[8,4,3,3] k",
     "y = ConvTranspose <output_shape = [9,10], strides = [2,2]> (x, k)", "float[n,4,9,10]", NULL},
    {17, "float[n,8,h,w] x", "y, z = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)",
     "float[n,8,(h/2),(w/2)]", "int64[n,8,(h/2),(w/2)]"},
    {17, "float[n,8,h] x", "y = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x)",
     "float[n,8,(h/2)]", NULL},
    {17, "float[n,8,h] x",
     "y = MaxPool <kernel_shape = [2], strides = [2], pads = [0,1], ceil_mode = 1> (x)",
     "float[n,8,?]", NULL},
    {17, "float[n,8,7] x",
     "y = MaxPool <kernel_shape = [2], strides = [2], pads = [1,1], ceil_mode = 1> (x)",
     "float[n,8,4]", NULL},
    {17, "float[n,8,h,w] x", "y = GlobalAveragePool (x)", "float[n,8,1,1]", NULL},
    {17, "float[n,8,h,w] x, float[8] s", "y = BatchNormalization (x, s, s, s, s)", "float[n,8,h,w]",
     NULL},
    {13, "float[n,c,h,w] x, float[8] s", "y, z, a, b, d = BatchNormalization (x, s, s, s, s)",
     "float[n,c,h,w]", "float[8]"},
    {17, "float16[n,s,8] x, float16[8] g", "y, z = LayerNormalization (x, g)", "float16[n,s,8]",
     "float[n,s,1]"},
    {17, "float[n,c,h,w] x, int64[n,h,w] l",
     "y, z = SoftmaxCrossEntropyLoss <reduction = \"none\"> (x, l)", "float[n,h,w]",
     "float[n,c,h,w]"},
    {17, "float[n,c] x, int64[n] l", "y = NegativeLogLikelihoodLoss (x, l)", "float", NULL},
    {17, "float[n,a] x, float[a,m] w", "y = MatMul (x, w)", "float[n,m]", NULL},
    {17, "float[n,1,s,d] x, float[h,d,t] w", "y = MatMul (x, w)", "float[n,h,s,t]", NULL},
    {17, "float[d] x, float[n,d,t] w", "y = MatMul (x, w)", "float[n,t]", NULL},
    {17, "float[k,n] x, float[m,k] w", "y = Gemm <transA = 1, transB = 1> (x, w)", "float[n,m]",
     NULL},
    {17, "float[b,h,s,d] x, float[b,h,t,d] w", "y = Einsum <equation = \"bhsd,bhtd->bhst\"> (x, w)",
     "float[b,h,s,t]", NULL},
    {17, "float[p,q,i,j] x, float[1,q,j,k] w", "y = Einsum <equation = \"...ij, ...jk\"> (x, w)",
     "float[p,q,i,k]", NULL},
    {17, "float[n,n] x", "y = Einsum <equation = \"ii\"> (x)", "float", NULL},
    {17, "float[n,m,m] x", "y = Det (x)", "float[n]", NULL},
    {17, "float[n,s,4] x", "y = ReduceMean <axes = [-1], keepdims = 0> (x)", "float[n,s]", NULL},
    {17, "float[n,s,4] x", "y = ReduceMean (x)", "float[1,1,1]", NULL},
    {18, "float[n,s,4] x, int64[2] a", "y = ReduceMean <keepdims = 0> (x, a)", "float[?]", NULL},
    {18, "float[n,s,4] x, int64[0] a", "y = ReduceMean <noop_with_empty_axes = 1> (x)",
     "float[n,s,4]", NULL},
    {17, "float[n,s,4] x", "y = ArgMax <axis = 1> (x)", "int64[n,1,4]", NULL},
    {17, "float[n,s] x", "k = Constant <value_ints = [3]> () y, z = TopK (x, k)", "float[n,3]",
     "int64[n,3]"},
    {17, "int64[n,s] x, float[2] v",
     "d = Constant <value = float {7}> () y = OneHot <axis = 1> (x, d, v)", "float[n,7,s]", NULL},
    {17, "float[v,d] x, int64[n,s] i", "y = Gather (x, i)", "float[n,s,d]", NULL},
    {17, "float[n,s,d] x, int64[n,k,1] i", "y = GatherND <batch_dims = 1> (x, i)", "float[n,k,d]",
     NULL},
    {17, "float[n,s] x, int64[k,s] i", "y = GatherElements (x, i)", "float[k,s]", NULL},
    {17, "float[n,s] x", "y, z = Split <axis = 1> (x)", "float[n,(s/2)]", "float[n,(s/2)]"},
    {18, "float[n,7] x", "y, z = Split <axis = 1, num_outputs = 2> (x)", "float[n,4]",
     "float[n,3]"},
    {17, "float[n,s] x, float[m,s] w", "y = Concat <axis = -2> (x, w)", "float[m+n,s]", NULL},
    {17, "float[n,s] x", "p = Constant <value_ints = [0,1,2,-1]> () y = Pad (x, p)", "float[n+2,s]",
     NULL},
    {17, "float[n,s] x", "p = Constant <value_ints = [2,3]> () y = Tile (x, p)", "float[2*n,3*s]",
     NULL},
    {17, "float[n,12,h,w] x", "y = DepthToSpace <blocksize = 2> (x)", "float[n,3,2*h,2*w]", NULL},
    {17, "float[n,3,h,w] x", "y = SpaceToDepth <blocksize = 2> (x)", "float[n,12,(h/2),(w/2)]",
     NULL},
    {17, "float[n,3,h,w] x",
     "s = Constant <value_floats = [1.0,1.0,1.5,4.0]> () y = Resize (x, , s)",
     "float[n,3,(h/2)+h,4*w]", NULL},
    {9, "float[n,3,h,w] x", "s = Constant <value = float[4] {1, 1, 2, 2}> () y = Upsample (x, s)",
     "float[n,3,2*h,2*w]", NULL},
    {7, "float[n,3,h,w] x", "y = Upsample <scales = [1.0,1.0,2.0,2.0]> (x)", "float[n,3,2*h,2*w]",
     NULL},
    {19, "float[n,3,6,4] x",
     "s = Constant <value_ints = [12,12]> () y = Resize <axes = [2,3], keep_aspect_ratio_policy = "
     "\"not_larger\"> (x, , , s)",
     "float[n,3,12,8]", NULL},
    {17, "float[s,n,4] x, float[2,9,4] w, float[2,9,3] r",
     "y, z = GRU <direction = \"bidirectional\", hidden_size = 3> (x, w, r)", "float[s,2,n,3]",
     "float[2,n,3]"},
    {17, "float[n,s,4] x, float[1,12,4] w, float[1,12,3] r", "y, z = LSTM <layout = 1> (x, w, r)",
     "float[n,s,1,3]", "float[n,1,3]"},
    {24, "float[n,s,32] q, float[n,t,16] k, float[n,t,24] v",
     "y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)", "float[n,s,48]", NULL},
    {24, "float[n,4,s,8] q, float[n,2,t,8] k, float[n,2,t,6] v, float[n,2,p,8] a, float[n,2,p,6] b",
     "y, z = Attention (q, k, v, , a, b)", "float[n,4,s,6]", "float[n,2,p+t,8]"},
    {17, "float[n,len,1] x, int64 step",
     "k = Constant <value_int = 4> () w = Constant <value_int = 16> () y = STFT (x, k, , w)",
     "float[n,(len/4)-3,9,2]", NULL},
    {20, "float[n,len,1] x", "y = DFT <onesided = 1> (x)", "float[n,(len/2)+1,2]", NULL},
    {17, "float[n,d] x", "y = Multinomial <sample_size = 5> (x)", "int32[n,5]", NULL},
    {17, "float[n,s] x, float[n,s] w",
     "p = SequenceConstruct (x, w) y = ConcatFromSequence "
     "<axis = 0, new_axis = 1> (p)",
     "float[?,n,s]", NULL},
    {17, "float[n,6] x",
     "p = SplitToSequence <axis = 1> (x) i = Constant <value_int = 0> () "
     "y = SequenceAt (p, i) z = SequenceLength (p)",
     "float[n,1]", "int64"},
    {17, "float[n,6] x", "o = Optional (x) y = OptionalGetElement (o) z = OptionalHasElement (o)",
     "float[n,6]", "bool"},
    {21, "float[n,6] x, float s, int8 o",
     "y = QuantizeLinear (x, s, o) z = DequantizeLinear (y, s, o)", "int8[n,6]", "float[n,6]"},
    {17, "float[n,c,h,w] x, float[n,p,q,2] g", "y = GridSample (x, g)", "float[n,c,p,q]", NULL},
    {17, "float[n,c,h,w] x, float[k,4] r, int64[k] b",
     "y = RoiAlign <output_height = 3, output_width = 2> (x, r, b)", "float[k,c,3,2]", NULL},
    {9, "float[n,s] x", "y, z = Dropout (x)", "float[n,s]", "float[n,s]"},
    {13, "float[n,s] x", "y, z = Dropout (x)", "float[n,s]", "bool[n,s]"},
    {17, "float[n,s] x", "y = Flatten (x) z = Flatten <axis = 0> (x)", "float[n,s]",
     "float[1,n*s]"},
    {17, "float[n,1] x", "y = Squeeze (x)", "float[]", NULL},
    {11, "float[n,1] x", "y = Squeeze <axes = [-1]> (x) z = Unsqueeze <axes = [0,3]> (x)",
     "float[n]", "float[1,n,1,1]"},
    {17, "float[a,1] x, float[b] w", "y = Add (x, w) z = Less (x, w)", "float[a,b]", "bool[a,b]"},
    {17, "float[a,8] x, float[b,8] w", "y = Add (x, w)", "float[?,8]", NULL},
    {17, "float[a] x, float[\"2*b\"] w", "y = Add (x, w)", "float[2*b]", NULL},
};

static void type_text(const mtbal_type *type, char text[512])
{
    char raw[512], *end = text;
    FILE *to = fmemopen(raw, sizeof raw, "w");
    mtbal_print_type(to, type);
    fclose(to);
    for (const char *p = raw; *p; p++)
        if (*p != '"')
            *end++ = *p;
    *end = 0;
}

static void check(const mtbal_model *m, const char *name, const char *wanted)
{
    char have[512];
    if (!wanted)
        return;
    const mtbal_value *v = mtbal_value_find(m->graph, name);
    ck_assert_msg(v != NULL, "%s", name);
    type_text(&v->type, have);
    ck_assert_msg(!strcmp(have, wanted), "%s is %s, not %s", name, have, wanted);
}

START_TEST(test_symbolic)
{
    const struct row *r = &rows[_i];
    char text[2048];
    mtbal_diag diag = {0};
    snprintf(text, sizeof text, "<ir_version: 8, opset_import: [\"\" : %d]> g (%s) => (y) { %s }",
             r->opset, r->inputs, r->body);
    mtbal_model *m = mtbal_parse_model(text, &diag);
    ck_assert_msg(m != NULL, "%s: %s", diag.where, diag.what);
    ck_assert_msg(mtbal_infer_graph(m->graph, &diag) == MTBAL_OK, "%s: %s", diag.where, diag.what);
    check(m, "y", r->y);
    check(m, "z", r->z);
    mtbal_model_free(m);
}
END_TEST

/* ------------------------------------------------------------------ ONNX's node tests */

#define NODE_TESTS "/usr/share/libonnx-testdata/data/node"

static mtbal_status forget(mtbal_node *node, void *context)
{
    (void)context;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            node->out[i]->type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    return MTBAL_OK;
}

static mtbal_tensor *read_part(mtbal_model *m, const char *folder, const char *part, int i)
{
    char path[700];
    const char *name;
    mtbal_tensor *t = NULL;
    mtbal_diag diag = {0};
    snprintf(path, sizeof path, "%s/test_data_set_0/%s_%d.pb", folder, part, i);
    return mtbal_onnx_read_tensor(m, path, &t, &name, &diag) == MTBAL_OK ? t : NULL;
}

/* Gives input i the shape, and when it is small the content, that it has in the test. */
static void feed(mtbal_model *m, const char *folder, int i)
{
    mtbal_value *v = m->graph->inputs[i];
    mtbal_tensor *t = v->type.kind == MTBAL_TENSOR ? read_part(m, folder, "input", i) : NULL;
    if (!t)
        return;
    v->type.rank = t->rank;
    v->type.dims = mtbal_arena_array(m->arena, (size_t)t->rank, sizeof *v->type.dims);
    ck_assert_ptr_nonnull(v->type.dims);
    for (int d = 0; d < t->rank; d++)
        v->type.dims[d] = mtbal_dim_const(t->dims[d]);
    if (t->count <= 64) {
        v->tensor = t;
        v->is_input = false;
    }
}

/* 2: all that the output has is inferred; 1: a part of it. Anything else is an error. */
static int compare(const mtbal_type *have, const mtbal_tensor *want, const char *folder)
{
    char text[512];
    int known = 2;
    type_text(have, text);
    /* some tests keep bfloat16 as uint16 */
    bool bits = have->dtype == MTBAL_BFLOAT16 && want->dtype == MTBAL_UINT16;
    ck_assert_msg(have->dtype == MTBAL_UNDEFINED || have->dtype == want->dtype || bits,
                  "%s: %s, but the output is %s", folder, text, mtbal_dtype_name(want->dtype));
    if (have->dtype == MTBAL_UNDEFINED || have->rank < 0)
        return 1;
    ck_assert_msg(have->rank == want->rank, "%s: %s, but the output has rank %d", folder, text,
                  want->rank);
    for (int d = 0; d < want->rank; d++) {
        ck_assert_msg(have->dims[d].size < 0 || have->dims[d].size == want->dims[d],
                      "%s: %s, but axis %d of the output is %lld", folder, text, d,
                      (long long)want->dims[d]);
        known = have->dims[d].size < 0 ? 1 : known;
    }
    return known;
}

static int check_folder(const char *folder, int counts[3])
{
    char path[700];
    mtbal_model *m = NULL;
    mtbal_diag diag = {0};
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    ck_assert_msg(mtbal_onnx_read(path, &m, &diag) == MTBAL_OK, "%s: %s", path, diag.what);
    bool tensor[64] = {false};
    for (int i = 0; i < m->graph->noutputs && i < 64; i++)
        tensor[i] = m->graph->outputs[i]->type.kind == MTBAL_TENSOR;
    for (int i = 0; i < m->graph->ninputs; i++)
        feed(m, folder, i);
    mtbal_graph_walk(m->graph, forget, NULL);
    ck_assert_msg(mtbal_infer_graph(m->graph, &diag) == MTBAL_OK, "%s: %s: %s", folder, diag.where,
                  diag.what);
    int least = 2;
    for (int i = 0; i < m->graph->noutputs && i < 64; i++) {
        mtbal_tensor *want = tensor[i] ? read_part(m, folder, "output", i) : NULL;
        int known = want ? compare(&m->graph->outputs[i]->type, want, folder) : 2;
        least = known < least ? known : least;
    }
    counts[least]++;
    mtbal_model_free(m);
    return least;
}

/* Without the types that the models declare, from the types and small contents of the inputs. */
START_TEST(test_node_tests)
{
    int counts[3] = {0};
    DIR *dir = opendir(NODE_TESTS);
    ck_assert_msg(dir != NULL, "%s is missing: install libonnx-testdata", NODE_TESTS);
    for (struct dirent *e; (e = readdir(dir));) {
        char folder[600];
        snprintf(folder, sizeof folder, "%s/%s", NODE_TESTS, e->d_name);
        if (e->d_name[0] != '.')
            check_folder(folder, counts);
    }
    closedir(dir);
    /* what is left depends on data: NonZero, Unique, NonMaxSuppression ..., or other domains */
    ck_assert_int_ge(counts[2], 880);
    ck_assert_int_le(counts[1], 50);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shapes");
    TCase *all = tcase_create("all");
    tcase_add_test(all, test_every_operator);
    tcase_add_loop_test(all, test_symbolic, 0, (int)(sizeof rows / sizeof *rows));
    tcase_add_test(all, test_node_tests);
    tcase_set_timeout(all, 120);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
