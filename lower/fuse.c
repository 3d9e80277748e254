/* lower/fuse.c: several nodes in one call. First what a matrix product does on the way (a
 * transposed operand, a bias, Relu) and the weight of a gradient, then groups of operators that
 * work element by element (groups.c). */
#include "lower/lowering.h"

#include <string.h>

/* ------------------------------------------------------------------ uses */

static mtbal_status count_uses(lowering *l, mtbal_graph *graph)
{
    for (mtbal_node *node = graph->first; node; node = node->next) {
        for (int i = 0; i < node->nin; i++) {
            place *p = node->in[i] ? lower_place(l, node->in[i]) : NULL;
            if (node->in[i] && !p)
                return mtbal_no_memory(l->diag);
            if (p)
                p->uses++;
        }
        for (const mtbal_attr *a = node->attrs; a; a = a->next) {
            if (a->kind != MTBAL_ATTR_GRAPH || !a->g)
                continue;
            for (int i = 0; i < a->g->noutputs; i++)
                if (lower_place(l, a->g->outputs[i]))
                    lower_place(l, a->g->outputs[i])->uses++;
            MTBAL_TRY(count_uses(l, a->g));
        }
    }
    return MTBAL_OK;
}

mtbal_status lower_count_uses(lowering *l)
{
    for (int i = 0; i < l->nplaces; i++)
        l->places[i].uses = 0;
    for (int i = 0; i < l->noutputs + l->nstates; i++) {
        const mtbal_value *v = i < l->noutputs ? l->outputs[i] : l->states[i - l->noutputs].next;
        place *p = lower_place(l, v);
        if (!p)
            return mtbal_no_memory(l->diag);
        p->uses++;
    }
    return count_uses(l, l->graph);
}

static bool used_once(lowering *l, const mtbal_value *v)
{
    const place *p = lower_place(l, v);
    return p && p->uses == 1;
}

/* The node that makes input i, when it is `op` in this graph. */
static mtbal_node *maker(const mtbal_node *node, int i, int op)
{
    mtbal_node *def = op_given(node, i) ? node->in[i]->def : NULL;
    return def && def->graph == node->graph && mtbal_node_is(def, op) ? def : NULL;
}

static bool is_float(const mtbal_value *v)
{
    return v->type.dtype == MTBAL_FLOAT || v->type.dtype == MTBAL_DOUBLE;
}

/* ------------------------------------------------------------------ into matrix products */

/* Whether the Transpose swaps the last two axes and no others. */
static bool swaps_last(const mtbal_node *t)
{
    const int64_t *perm;
    int rank = t->in[0]->type.rank, n = mtbal_attr_ints(t, "perm", &perm);
    if (rank < 2 || (n >= 0 && n != rank))
        return false;
    for (int d = 0; d < rank; d++) {
        int64_t want = d < rank - 2 ? d : d == rank - 2 ? rank - 1 : rank - 2;
        int64_t have = n < 0 ? rank - 1 - d : perm[d];
        if (have != want)
            return false;
    }
    return true;
}

static mtbal_status take_transpose(mtbal_node *node, int i)
{
    static const char *const names[2] = {"transA", "transB"};
    const mtbal_node *t = maker(node, i, MTBAL_OP_transpose);
    if (!t || !swaps_last(t))
        return MTBAL_OK;
    node->in[i] = t->in[0];
    return mtbal_set_i(node, names[i], !mtbal_attr_i(node, names[i], 0));
}

/* MatMul + Add of a row: the row becomes a third operand, as in Gemm. The product is then computed
 * where the Add was, so the row need not be there before. */
static mtbal_status take_bias(lowering *l, mtbal_node *add)
{
    for (int i = 0; i < 2; i++) {
        mtbal_node *mm = maker(add, i, MTBAL_OP_mat_mul);
        mtbal_value *row = add->nin == 2 ? add->in[1 - i] : NULL;
        if (!mm || !row || !used_once(l, mm->out[0]) || mm->nin != 2 || !is_float(row) ||
            mm->in[1]->type.rank != 2 || mm->in[0]->type.rank < 2 ||
            mtbal_attr_i(mm, "transA", 0) || mtbal_shape_count(&row->type) < 1 ||
            row->type.rank < 1 ||
            row->type.dims[row->type.rank - 1].size != mtbal_shape_count(&row->type) ||
            !mtbal_shape_equal(&mm->out[0]->type, &add->out[0]->type) ||
            add->out[0]->type.dims[add->out[0]->type.rank - 1].size !=
                mtbal_shape_count(&row->type))
            continue;
        mtbal_value *in[3] = {mm->in[0], mm->in[1], row}, *out = add->out[0];
        mtbal_node_move(mm, add);
        MTBAL_TRY(mtbal_node_set_inputs(mm, 3, in));
        mtbal_node_remove(add);
        return mtbal_node_set_output(mm, 0, out);
    }
    return MTBAL_OK;
}

static mtbal_status take_relu(lowering *l, mtbal_node *relu)
{
    mtbal_node *def = maker(relu, 0, MTBAL_OP_gemm);
    if (!def && (def = maker(relu, 0, MTBAL_OP_mat_mul)) && def->nin < 3)
        def = NULL;
    if (!def || !is_float(def->out[0]) || !used_once(l, def->out[0]) ||
        mtbal_attr_i(def, "relu", 0))
        return MTBAL_OK;
    mtbal_value *out = relu->out[0];
    MTBAL_TRY(mtbal_set_i(def, "relu", 1));
    mtbal_node_remove(relu);
    return mtbal_node_set_output(def, 0, out);
}

/* ------------------------------------------------------------------ into Adam's update */

static bool is_zero(lowering *l, const mtbal_value *v)
{
    const mtbal_tensor *t = lower_constant(l, v);
    return t && t->count == 1 && mtbal_tensor_f64(t, 0) == 0;
}

/* w == 0 ? 0 : g, where it is: g. NULL: the node is none, or more than that. */
static mtbal_value *guarded_by(lowering *l, const mtbal_node *where, const mtbal_value *w)
{
    const mtbal_node *equal = where ? maker(where, 0, MTBAL_OP_equal) : NULL;
    if (!equal || where->nin != 3 || !where->in[2] || !used_once(l, where->out[0]) ||
        !is_zero(l, where->in[1]))
        return NULL;
    for (int i = 0; i < 2; i++)
        if (equal->in[i] == w && is_zero(l, equal->in[1 - i]))
            return where->in[2];
    return NULL;
}

/* A gradient that is weighted by a scalar on its way: w (w == 0 ? 0 : g). The kernel takes g, and w
 * as one operand more. */
static mtbal_status take_weight(lowering *l, mtbal_node *update)
{
    enum { MOST = 12 };
    const mtbal_node *mul = maker(update, 1, MTBAL_OP_mul);
    if (!mul || mul->nin != 2 || update->nin >= MOST || !used_once(l, mul->out[0]) ||
        !is_float(mul->out[0]))
        return MTBAL_OK;
    for (int i = 0; i < 2; i++) {
        mtbal_value *w = mul->in[1 - i], *g = guarded_by(l, maker(mul, i, MTBAL_OP_where), w);
        if (!g || w->type.rank != 0 || !mtbal_shape_equal(&g->type, &mul->out[0]->type))
            continue;
        mtbal_value *in[MOST];
        memcpy(in, update->in, (size_t)update->nin * sizeof *in);
        in[1] = g;
        in[update->nin] = w;
        return mtbal_node_set_inputs(update, update->nin + 1, in);
    }
    return MTBAL_OK;
}

static mtbal_status fuse_products(lowering *l)
{
    for (mtbal_node *node = l->graph->first, *next; node; node = next) {
        next = node->next;
        if (!node->nout || !node->out[0])
            continue;
        bool product = mtbal_node_is(node, MTBAL_OP_mat_mul) || mtbal_node_is(node, MTBAL_OP_gemm);
        if (product && is_float(node->out[0])) {
            MTBAL_TRY(take_transpose(node, 0));
            MTBAL_TRY(take_transpose(node, 1));
        } else if (mtbal_node_is(node, MTBAL_OP_add)) {
            MTBAL_TRY(take_bias(l, node));
        } else if (mtbal_node_is(node, MTBAL_OP_relu)) {
            MTBAL_TRY(take_relu(l, node));
        } else if (node->opcode == MTBAL_OP_adam_update || node->opcode == MTBAL_OP_adamw_update) {
            MTBAL_TRY(take_weight(l, node));
        }
    }
    return MTBAL_OK;
}

mtbal_status lower_fuse(lowering *l)
{
    if (l->options->no_fuse)
        return MTBAL_OK;
    MTBAL_TRY(lower_count_uses(l));
    MTBAL_TRY(fuse_products(l));
    MTBAL_TRY(lower_keep_live(l));
    MTBAL_TRY(lower_count_uses(l));
    return lower_group(l);
}

mtbal_status lower_emit_fused(lowering *l, mtbal_node *node)
{
    const place *p = node->nout && node->out[0] ? lower_place(l, node->out[0]) : NULL;
    group *g = p ? p->group : NULL;
    if (!g || g->count < 2)
        return lower_emit_node(l, node);
    return g->members[g->count - 1] == node ? lower_emit_group(l, g) : MTBAL_OK;
}
