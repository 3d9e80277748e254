/* passes/ties.c: parameters that an exporter tied. torch >= 2.9 merges initializers of the same
 * bytes: before training all normalisation scales are ones and all biases zeros, so that layers
 * which have nothing to do with each other come out sharing them. */
#include "passes/internal.h"

/* A use of a float initializer as a node's operand. Uses of one layer have the same partner: the
 * weight beside the bias, the bias beside the scale. */
typedef enum part { PART_SCALE, PART_BIAS, PART_OTHER } part;
typedef struct use {
    mtbal_node *node;
    int operand;
    part part;
    const mtbal_value *partner;
} use;

/* What an operand comes from, perhaps turned first. */
static const mtbal_value *source(const mtbal_value *v)
{
    while (v && v->def &&
           (mtbal_node_is(v->def, MTBAL_OP_transpose) || mtbal_node_is(v->def, MTBAL_OP_identity)))
        v = v->def->in[0];
    return v;
}

/* x W + b, written as MatMul and Add: W for the Add. */
static const mtbal_value *weight_beside(const mtbal_node *add, int operand)
{
    const mtbal_value *other = add->nin == 2 ? add->in[1 - operand] : NULL;
    const mtbal_node *product = other ? other->def : NULL;
    return product && mtbal_node_is(product, MTBAL_OP_mat_mul) ? source(product->in[1]) : NULL;
}

static use classify(mtbal_node *node, int operand)
{
    use u = {node, operand, PART_OTHER, NULL};
    if (mtbal_node_has(node, MTBAL_SCALE) && (operand == 1 || operand == 2)) {
        u.part = operand == 1 ? PART_SCALE : PART_BIAS;
        u.partner = 3 - operand < node->nin ? node->in[3 - operand] : NULL;
    } else if (operand == 2 &&
               (mtbal_node_is(node, MTBAL_OP_gemm) || mtbal_node_is(node, MTBAL_OP_conv) ||
                mtbal_node_is(node, MTBAL_OP_conv_transpose))) {
        u.part = PART_BIAS;
        u.partner = source(node->in[1]);
    } else if (mtbal_node_is(node, MTBAL_OP_add)) {
        u.partner = weight_beside(node, operand);
        u.part = u.partner ? PART_BIAS : PART_OTHER;
    }
    return u;
}

/* All elements alike, as exporters find parameters before training. */
static bool is_uniform(mtbal_model *model, mtbal_tensor *t)
{
    enum { MOST = 1024 }; /* what torch's exporter merges */
    if (t->count > MOST || t->count < 1 || mtbal_tensor_load(model, t, NULL) != MTBAL_OK)
        return false;
    for (int64_t i = 1; i < t->count; i++)
        if (mtbal_tensor_f64(t, i) != mtbal_tensor_f64(t, 0))
            return false;
    return true;
}

/* Uses of v into list [uses->nnodes]; returns their number. */
static int list_uses(const mtbal_uses *uses, const mtbal_value *v, use *list)
{
    int n = 0;
    for (int i = 0; i < uses->nnodes[v->id]; i++) {
        mtbal_node *node = uses->node[v->id][i];
        bool again = i > 0 && uses->node[v->id][i - 1] == node;
        for (int k = 0; k < node->nin && !again; k++)
            if (node->in[k] == v)
                list[n++] = classify(node, k);
    }
    return n;
}

/* One layer's own: the same part beside the same partner. Normalisations whose scale and bias were
 * both merged look alike: each is a layer of its own. */
static bool same_layer(const use *a, const use *b)
{
    return a->part == b->part && a->partner == b->partner && a->part != PART_OTHER &&
           !(mtbal_node_has(a->node, MTBAL_SCALE) && a->node != b->node);
}

/* Scales and biases of several layers in one initializer. What is only used otherwise (an embedding
 * that is also the last layer's weight) was tied by the model's author. */
static bool is_tied(const use *list, int n)
{
    bool parts = false;
    for (int i = 0; i < n; i++)
        parts = parts || list[i].part != PART_OTHER;
    for (int i = 1; i < n && parts; i++)
        if (!same_layer(&list[0], &list[i]))
            return true;
    return false;
}

typedef mtbal_status on_tie(mtbal_context *c, mtbal_value *v, const use *list, int n,
                            void *context);

static mtbal_status each_tie(mtbal_context *c, on_tie *call, void *context)
{
    mtbal_arena *scratch = mtbal_arena_new();
    mtbal_uses *uses = scratch ? mtbal_uses_new(c->model, c->graph, scratch) : NULL;
    mtbal_status status = uses ? MTBAL_OK : mtbal_no_memory(c->diag);
    int count = c->graph->ninitializers;
    for (int i = 0; i < count && status == MTBAL_OK; i++) {
        mtbal_value *v = c->graph->initializers[i];
        if (v->id >= uses->nvalues || uses->nnodes[v->id] < 2 || !v->tensor ||
            !mtbal_dtype_is_float(v->tensor->dtype) || v->tensor->rank == 0)
            continue;
        use *list = mtbal_arena_array(scratch, (size_t)uses->nnodes[v->id], sizeof *list);
        if (!list) {
            status = mtbal_no_memory(c->diag);
            break;
        }
        int n = list_uses(uses, v, list);
        if (is_tied(list, n) && is_uniform(c->model, v->tensor))
            status = call(c, v, list, n, context);
    }
    mtbal_arena_free(scratch);
    return status;
}

/* ------------------------------------------------------------------ the warning */

static mtbal_status describe(mtbal_context *c, mtbal_value *v, const use *list, int n,
                             void *context)
{
    mtbal_names *names = context;
    int parts[3] = {0};
    char text[300];
    for (int i = 0; i < n; i++)
        parts[list[i].part]++;
    snprintf(text, sizeof text, "%.160s (scale of %d, bias of %d, %d other uses)", v->name,
             parts[PART_SCALE], parts[PART_BIAS], parts[PART_OTHER]);
    (void)c;
    mtbal_names_add(names, text);
    return MTBAL_OK;
}

mtbal_status mtbal_warn_of_ties(mtbal_context *c)
{
    mtbal_names names = {0};
    MTBAL_TRY(each_tie(c, describe, &names));
    return names.count
               ? mtbal_notice_add(c, MTBAL_WARNING,
                                  "%d parameter%s shared by layers that have nothing else in "
                                  "common, perhaps by the exporter (export with optimize=False, "
                                  "or use --untie): %s",
                                  names.count, names.count > 1 ? "s are" : " is", names.text)
               : MTBAL_OK;
}

/* ------------------------------------------------------------------ --untie */

/* Every layer but the first gets a copy of its own. */
static mtbal_status separate(mtbal_context *c, mtbal_value *v, const use *list, int n,
                             void *context)
{
    int *separated = context;
    MTBAL_TRY(mtbal_tensor_load(c->model, v->tensor, c->diag));
    for (int i = 1; i < n; i++) {
        int first = 0;
        while (!same_layer(&list[first], &list[i]) && first < i)
            first++;
        if (first < i) {
            list[i].node->in[list[i].operand] = list[first].node->in[list[first].operand];
            continue;
        }
        const char *name = mtbal_fresh_name(c->model, v->name);
        mtbal_value *copy = name ? mtbal_value_new(c->graph, name) : NULL;
        mtbal_tensor *t = mtbal_tensor_new(c->model, v->tensor->dtype, v->tensor->rank,
                                           v->tensor->dims, v->tensor->data);
        if (!copy || !t || mtbal_add_initializer(c->graph, copy, t) != MTBAL_OK)
            return mtbal_no_memory(c->diag);
        list[i].node->in[list[i].operand] = copy;
        ++*separated;
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_untie(mtbal_context *c)
{
    int separated = 0;
    if (!c->options->untie)
        return MTBAL_OK;
    MTBAL_TRY(each_tie(c, separate, &separated));
    return mtbal_notice_add(c, MTBAL_NOTE, "--untie: %d initializer%s added", separated,
                            separated == 1 ? "" : "s");
}
