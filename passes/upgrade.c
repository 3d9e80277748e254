/* passes/upgrade.c: models below opset 17 are raised to it, so that every other pass knows one form
 * of each operator. A table of converters, each for the versions below one at which an operator
 * changed its form. */
#include "passes/passes.h"

#include <string.h>

/* One graph, or one function's body, that is raised from its opset. */
typedef struct upgrade {
    mtbal_model *model;
    mtbal_diag *diag;
    int64_t from, to;
} upgrade;

static mtbal_status refuse(const upgrade *u, const mtbal_node *node, const char *what)
{
    char text[256];
    return mtbal_fail(u->diag, MTBAL_UNSUPPORTED, mtbal_node_label(node, text),
                      "export the model again with opset 13 or newer", "%s, in opset %lld", what,
                      (long long)u->from);
}

/* A Constant of int64s in front of the node. */
static mtbal_value *ints_before(upgrade *u, mtbal_node *node, int n, const int64_t *values,
                                int rank)
{
    mtbal_builder b;
    const int64_t dims[1] = {n};
    mtbal_builder_init(&b, node->graph, node, u->diag);
    return mtbal_const_tensor(&b, mtbal_tensor_new(u->model, MTBAL_INT64, rank, dims, values));
}

static mtbal_status set_input(mtbal_node *node, int index, mtbal_value *value)
{
    mtbal_value *in[16] = {0};
    int n = node->nin > index ? node->nin : index + 1;
    if (!value || n > 16)
        return MTBAL_NOMEM;
    for (int i = 0; i < node->nin; i++)
        in[i] = node->in[i];
    in[index] = value;
    return mtbal_node_set_inputs(node, n, in);
}

/* In a function's body: the attribute refers to one of the function's, and so does the Constant
 * that takes its place. */
static mtbal_value *reference_before(upgrade *u, mtbal_node *node, const mtbal_attr *a,
                                     const char *constant)
{
    mtbal_builder b;
    mtbal_value *out;
    mtbal_builder_init(&b, node->graph, node, u->diag);
    mtbal_node *made = mtbal_emit_node(&b, "", "Constant", 0, NULL, 1, &out);
    mtbal_attr *refers = made ? mtbal_arena_copy(u->model->arena, a, sizeof *a) : NULL;
    if (!refers)
        return NULL;
    refers->name = mtbal_intern(u->model->arena, constant);
    refers->next = NULL;
    refers->origin = NULL;
    made->attrs = refers;
    return refers->name ? out : NULL;
}

/* The attribute `name` becomes input `index`. */
static mtbal_status ints_to_input(upgrade *u, mtbal_node *node, const char *name, int index)
{
    const int64_t *values;
    const mtbal_attr *a = mtbal_attr_find(node, name);
    int n = mtbal_attr_ints(node, name, &values);
    if (!a || (n < 0 && !a->ref))
        return MTBAL_OK;
    MTBAL_TRY(set_input(node, index,
                        a->ref ? reference_before(u, node, a, "value_ints")
                               : ints_before(u, node, n, values, 1)));
    mtbal_attr_remove(node, name);
    return MTBAL_OK;
}

static mtbal_status axes_to_input(upgrade *u, mtbal_node *node)
{
    return ints_to_input(u, node, "axes", 1);
}

static mtbal_status split_to_input(upgrade *u, mtbal_node *node)
{
    return ints_to_input(u, node, "split", 1);
}

/* A scalar of the type that the node's first operand has: not known within a function's body. */
static mtbal_status float_to_input(upgrade *u, mtbal_node *node, const char *name, int index)
{
    mtbal_builder b;
    const mtbal_attr *a = mtbal_attr_find(node, name);
    if (!a)
        return MTBAL_OK;
    mtbal_builder_init(&b, node->graph, node, u->diag);
    mtbal_dtype dtype = node->in[0]->type.dtype;
    mtbal_value *value = a->ref ? reference_before(u, node, a, "value_float")
                                : mtbal_const_scalar(&b, dtype ? dtype : MTBAL_FLOAT, a->f);
    if (dtype == MTBAL_UNDEFINED)
        value = mtbal_emit(&b, "CastLike", value, node->in[0]);
    MTBAL_TRY(set_input(node, index, value));
    mtbal_attr_remove(node, name);
    return MTBAL_OK;
}

static mtbal_status clip(upgrade *u, mtbal_node *node)
{
    MTBAL_TRY(float_to_input(u, node, "min", 1));
    return float_to_input(u, node, "max", 2);
}

static mtbal_status pad(upgrade *u, mtbal_node *node)
{
    MTBAL_TRY(ints_to_input(u, node, "pads", 1));
    return float_to_input(u, node, "value", 2);
}

static mtbal_status slice(upgrade *u, mtbal_node *node)
{
    MTBAL_TRY(ints_to_input(u, node, "starts", 1));
    MTBAL_TRY(ints_to_input(u, node, "ends", 2));
    return ints_to_input(u, node, "axes", 3);
}

static mtbal_status top_k(upgrade *u, mtbal_node *node)
{
    const int64_t k = mtbal_attr_i(node, "k", -1);
    if (k < 0)
        return MTBAL_OK;
    MTBAL_TRY(set_input(node, 1, ints_before(u, node, 1, &k, 1)));
    mtbal_attr_remove(node, "k");
    return MTBAL_OK;
}

/* Below opset 12 there is no training mode: Dropout passes its operand on, as it does without the
 * third operand from then on. ratio becomes an input, of type float whatever the operand's is. */
static mtbal_status dropout(upgrade *u, mtbal_node *node)
{
    mtbal_builder b;
    const mtbal_attr *ratio = mtbal_attr_find(node, "ratio");
    mtbal_attr_remove(node, "is_test");
    if (!ratio)
        return MTBAL_OK;
    mtbal_builder_init(&b, node->graph, node, u->diag);
    MTBAL_TRY(set_input(node, 1,
                        ratio->ref ? reference_before(u, node, ratio, "value_float")
                                   : mtbal_const_scalar(&b, MTBAL_FLOAT, ratio->f)));
    mtbal_attr_remove(node, "ratio");
    return MTBAL_OK;
}

/* Softmax below 13 works on the 2-D view split at the axis: flatten, softmax over the last axis,
 * back. */
static mtbal_status softmax(upgrade *u, mtbal_node *node)
{
    mtbal_builder b;
    int64_t axis = mtbal_attr_i(node, "axis", 1);
    int rank = node->in[0]->type.rank;
    axis += axis < 0 && rank >= 0 ? rank : 0;
    if (rank >= 0 && axis == rank - 1)
        return mtbal_set_i(node, "axis", -1);
    mtbal_value *y = node->out[0], *x = node->in[0], *flat = NULL;
    mtbal_builder_init(&b, node->graph, node, u->diag);
    mtbal_value *shape = mtbal_emit(&b, "Shape", x);
    mtbal_value *view = mtbal_emit_attrs(&b, "Flatten", 1, &x, "axis=i", axis);
    b.before = node->next;
    flat = mtbal_value_new(node->graph, mtbal_fresh_name(u->model, "mtbal/flat"));
    if (!view || !flat)
        return MTBAL_NOMEM;
    MTBAL_TRY(mtbal_node_set_inputs(node, 1, &view));
    MTBAL_TRY(mtbal_node_set_output(node, 0, flat));
    flat->type = view->type;
    mtbal_value *in[2] = {flat, shape};
    mtbal_node *back = mtbal_node_new(node->graph, node->next, "", "Reshape", 2, in, 0);
    if (!back)
        return MTBAL_NOMEM;
    MTBAL_TRY(mtbal_node_set_output(back, 0, y));
    return mtbal_set_i(node, "axis", -1);
}

/* BatchNormalization with five outputs is the training form of opset 7 to 13: running mean and
 * variance are outputs 1 and 2; the two saved ones are gone. */
static mtbal_status batch_norm(upgrade *u, mtbal_node *node)
{
    if (mtbal_attr_i(node, "spatial", 1) == 0)
        return refuse(u, node, "BatchNormalization with spatial = 0 is not supported");
    mtbal_attr_remove(node, "spatial");
    mtbal_attr_remove(node, "is_test");
    if (node->nout < 2)
        return MTBAL_OK;
    for (int i = 1; i < 3; i++)
        if (i >= node->nout || !node->out[i]) {
            const char *name =
                mtbal_fresh_name(u->model, i == 1 ? "mtbal/running_mean" : "mtbal/running_var");
            MTBAL_TRY(
                mtbal_node_set_output(node, i, name ? mtbal_value_new(node->graph, name) : NULL));
        }
    node->nout = 3;
    return mtbal_set_i(node, "training_mode", 1);
}

/* Upsample (scales as attribute at 7, as input at 9) and Resize-10: floor of the product,
 * asymmetric coordinates. */
static mtbal_status resize(upgrade *u, mtbal_node *node)
{
    mtbal_builder b;
    const mtbal_attr *given = mtbal_attr_find(node, "scales");
    mtbal_value *scales = node->nin > 1 ? node->in[1] : NULL;
    mtbal_builder_init(&b, node->graph, node, u->diag);
    if (given && given->kind == MTBAL_ATTR_FLOATS) {
        const int64_t dims[1] = {given->n};
        scales =
            mtbal_const_tensor(&b, mtbal_tensor_new(u->model, MTBAL_FLOAT, 1, dims, given->floats));
        mtbal_attr_remove(node, "scales");
    }
    mtbal_value *in[3] = {node->in[0], NULL, scales};
    MTBAL_TRY(mtbal_node_set_op(node, "", "Resize"));
    MTBAL_TRY(mtbal_node_set_inputs(node, 3, in));
    MTBAL_TRY(mtbal_set_s(node, "coordinate_transformation_mode", "asymmetric"));
    return mtbal_set_s(node, "nearest_mode", "floor");
}

/* Coordinates that opset 13 dropped. */
static mtbal_status resize_11(upgrade *u, mtbal_node *node)
{
    const char *mode = mtbal_attr_s(node, "coordinate_transformation_mode", "half_pixel");
    return strcmp(mode, "tf_half_pixel_for_nn")
               ? MTBAL_OK
               : refuse(u, node,
                        "coordinate_transformation_mode tf_half_pixel_for_nn is not supported");
}

static mtbal_status scan(upgrade *u, mtbal_node *node)
{
    return refuse(u, node, "Scan over a batch axis with sequence lengths is not supported");
}

static mtbal_status scatter(upgrade *u, mtbal_node *node)
{
    (void)u;
    return mtbal_node_set_op(node, "", "ScatterElements");
}

/* The default coordinates changed at 16. */
static mtbal_status roi_align(upgrade *u, mtbal_node *node)
{
    (void)u;
    return mtbal_attr_find(node, "coordinate_transformation_mode")
               ? MTBAL_OK
               : mtbal_set_s(node, "coordinate_transformation_mode", "output_half_pixel");
}

static const struct converter {
    int op;
    int64_t below; /* for nodes of an opset below this */
    mtbal_status (*convert)(upgrade *, mtbal_node *);
} converters[] = {
    {MTBAL_OP_squeeze, 13, axes_to_input},
    {MTBAL_OP_unsqueeze, 13, axes_to_input},
    {MTBAL_OP_reduce_sum, 13, axes_to_input},
    {MTBAL_OP_split, 13, split_to_input},
    {MTBAL_OP_softmax, 13, softmax},
    {MTBAL_OP_log_softmax, 13, softmax},
    {MTBAL_OP_hardmax, 13, softmax},
    {MTBAL_OP_clip, 11, clip},
    {MTBAL_OP_pad, 11, pad},
    {MTBAL_OP_slice, 10, slice},
    {MTBAL_OP_top_k, 10, top_k},
    {MTBAL_OP_dropout, 12, dropout},
    {MTBAL_OP_upsample, 10, resize},
    {MTBAL_OP_resize, 11, resize},
    {MTBAL_OP_resize, 13, resize_11},
    {MTBAL_OP_scatter, 17, scatter},
    {MTBAL_OP_scan, 9, scan},
    {MTBAL_OP_batch_normalization, 14, batch_norm},
    {MTBAL_OP_roi_align, 16, roi_align},
};

static mtbal_status convert(mtbal_node *node, void *context)
{
    upgrade *u = context;
    mtbal_status status = MTBAL_OK;
    for (size_t i = 0; i < sizeof converters / sizeof *converters; i++)
        if (u->from < converters[i].below && mtbal_node_is(node, converters[i].op)) {
            status = converters[i].convert(u, node);
            break;
        }
    mtbal_drop_attributes(node, u->to);
    return status == MTBAL_NOMEM ? mtbal_no_memory(u->diag) : status;
}

static mtbal_opset *own_opset(mtbal_function *f)
{
    for (int i = 0; i < f->nopsets; i++)
        if (!*f->opsets[i].domain)
            return &f->opsets[i];
    return NULL;
}

/* A function's body goes by the function's own opset. */
static mtbal_status upgrade_function(upgrade u, mtbal_function *f, int64_t opset)
{
    mtbal_opset *own = own_opset(f);
    u.from = own ? own->version : u.from;
    if (u.from >= opset)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_graph_walk(f->body, convert, &u));
    if (own)
        own->version = opset;
    return MTBAL_OK;
}

mtbal_status mtbal_upgrade(mtbal_model *model, int64_t opset, mtbal_diag *diag)
{
    upgrade u = {model, diag, mtbal_opset_of(model, ""), opset};
    if (u.from == 0)
        return mtbal_fail(diag, MTBAL_INVALID, model->path, "is the file cut off?",
                          "the model imports no operator set");
    if (u.from < 7)
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path,
                          "export the model again with opset 13 or newer",
                          "opset %lld is too old: 7 and up are read", (long long)u.from);
    if (model->ir_version < 8)
        model->ir_version = 8;
    int64_t target = u.from > opset ? u.from : opset;
    for (int i = 0; i < model->nfunctions; i++)
        MTBAL_TRY(upgrade_function(u, model->functions[i], target));
    if (u.from >= opset)
        return MTBAL_OK;
    MTBAL_TRY(mtbal_infer_graph(model->graph, diag)); /* ranks and types that converters ask for */
    MTBAL_TRY(mtbal_graph_walk(model->graph, convert, &u));
    return mtbal_set_opset(model, "", opset);
}
