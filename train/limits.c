/* train/limits.c: what values an integer input may have, from what reads it: class numbers, and
 * indices of a table. The runtime takes a label outside of the classes as one that does not count
 * and an index outside of a table as its nearest row, so that it has to be said before. */
#include "train/limits.h"

#include <string.h>

/* The graph input that a value is, but for its shape and type; else NULL. */
static const mtbal_value *source(const mtbal_value *v)
{
    while (v && v->def)
        v = mtbal_node_has(v->def, MTBAL_LAYOUT) ? v->def->in[0] : NULL;
    return v && v->is_input ? v : NULL;
}

static int feed_of(const mtbal_session *s, const mtbal_value *input)
{
    for (int i = 0; input && i < s->nfeeds; i++)
        if (!strcmp(s->feeds[i].name, input->name))
            return i;
    return -1;
}

/* What a node asks of the input behind its second operand. False: nothing. */
static bool limit_of(const mtbal_node *node, mtbal_limit *limit)
{
    bool loss = mtbal_node_is(node, MTBAL_OP_softmax_cross_entropy_loss) ||
                mtbal_node_is(node, MTBAL_OP_negative_log_likelihood_loss);
    if (!loss && !mtbal_node_is(node, MTBAL_OP_gather))
        return false;
    const mtbal_type *x = &node->in[0]->type;
    int64_t axis = loss ? 1 : mtbal_attr_i(node, "axis", 0);
    axis += axis < 0 ? x->rank : 0;
    if (axis < 0 || axis >= x->rank || x->dims[axis].size < 0)
        return false;
    limit->count = x->dims[axis].size;
    limit->low = loss ? 0 : -limit->count;
    limit->ignored = loss ? mtbal_attr_i(node, "ignore_index", -1) : -1;
    limit->ignores = loss && mtbal_attr_find(node, "ignore_index") != NULL;
    limit->loss = loss;
    return true;
}

mtbal_status mtbal_limits_find(mtbal_session *s, mtbal_model *model, mtbal_diag *diag)
{
    bool integers = false;
    mtbal_diag unheard = {0};
    for (int i = 0; i < s->nfeeds; i++)
        integers = integers || s->feeds[i].dtype == MTBAL_INT64 || s->feeds[i].dtype == MTBAL_INT32;
    if (!integers || mtbal_infer_graph(model->graph, &unheard) != MTBAL_OK) /* lowering tells */
        return MTBAL_OK;
    for (const mtbal_node *n = model->graph->first; n; n = n->next) {
        mtbal_limit limit = {0};
        if (n->nin < 2 || !limit_of(n, &limit))
            continue;
        int feed = feed_of(s, source(n->in[1]));
        if (feed < 0)
            continue;
        mtbal_limit *kept = mtbal_arena_copy(s->arena, &limit, sizeof limit);
        if (!kept || !(kept->node = mtbal_intern(s->arena, *n->name ? n->name : n->op)))
            return mtbal_no_memory(diag);
        kept->next = s->feeds[feed].limits;
        s->feeds[feed].limits = kept;
    }
    return MTBAL_OK;
}

mtbal_status mtbal_limits_check(const mtbal_feed *feed, const mtbal_array *array, const char *path,
                                mtbal_diag *diag)
{
    const mtbal_tensor values = {.dtype = array->dtype, .count = array->count, .data = array->data};
    int64_t rows = array->rank > 0 && array->dims[0] > 0 ? array->dims[0] : 1;
    for (const mtbal_limit *l = feed->limits; l; l = l->next)
        for (int64_t i = 0; i < array->count; i++) {
            int64_t x = mtbal_tensor_i64(&values, i);
            if ((x >= l->low && x < l->count) || (l->ignores && x == l->ignored))
                continue;
            return mtbal_fail(diag, MTBAL_INVALID, path,
                              l->loss ? "classes count from 0; is the model made for these data?"
                                      : "rows count from 0; is the model made for these data?",
                              "array %s holds %lld at sample %lld, but %s knows %lld %s",
                              array->name, (long long)x, (long long)(i / (array->count / rows)),
                              l->node, (long long)l->count, l->loss ? "classes" : "rows");
        }
    return MTBAL_OK;
}
