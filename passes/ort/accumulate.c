/* passes/ort/accumulate.c: InPlaceAccumulatorV2 (sum, value, overwrite) writes into its first
 * operand: that is how a step changes what the session keeps. It adds gradients to their buffers;
 * our other states are frozen parameters, which it overwrites. */
#include "passes/ort/ort.h"

#include <string.h>

/* What a stock runtime executes instead of the kernel: a function cannot write in place. Such a
 * runtime takes the gradients from P_grad. */
static const char accumulator[] = "InPlaceAccumulatorV2 (sum, value, overwrite) => (updated) {\n"
                                  "  updated = Constant <value = bool[1] {1}> ()\n"
                                  "}";

mtbal_status ort_add_function(mtbal_context *c)
{
    mtbal_builder b;
    mtbal_model *model = c->model;
    mtbal_pass_builder(c, &b, "mtbal/", "accumulate", NULL);
    MTBAL_TRY(mtbal_builder_function(&b, accumulator));
    mtbal_function *f = mtbal_function_find(model, "mtbal", "InPlaceAccumulatorV2", "");
    f->domain = mtbal_intern(model->arena, ORT_DOMAIN);
    return f->domain && mtbal_set_opset(model, ORT_DOMAIN, 1) == MTBAL_OK
               ? MTBAL_OK
               : mtbal_no_memory(c->diag);
}

static mtbal_type flag_type(const mtbal_context *c)
{
    mtbal_dim *one = mtbal_arena_alloc(c->model->arena, sizeof *one);
    if (one)
        *one = mtbal_dim_const(1);
    return (mtbal_type){MTBAL_TENSOR, MTBAL_BOOL, one ? 1 : -1, one};
}

static mtbal_status input(mtbal_context *c, const char *name, const char *end,
                          const mtbal_type *type, mtbal_value **value)
{
    MTBAL_TRY(ort_value(c, name, end, type, value));
    return mtbal_add_input(c->graph, *value) == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(c->diag);
}

/* The node's only output becomes the graph's. */
static mtbal_status give(mtbal_context *c, mtbal_node *node, mtbal_value *out)
{
    if (!node || mtbal_node_set_output(node, 0, out) != MTBAL_OK ||
        mtbal_add_output(c->graph, out) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    node->name = out->name;
    return MTBAL_OK;
}

/* LABEL_grad.accumulation.out = InPlaceAccumulatorV2(sum, value, overwrite) */
static mtbal_status accumulate(mtbal_context *c, const char *label, mtbal_value *sum,
                               mtbal_value *value, mtbal_value *overwrite)
{
    mtbal_value *in[] = {sum, value, overwrite}, *out;
    mtbal_type flag = flag_type(c);
    MTBAL_TRY(ort_value(c, label, ORT_OUT, &flag, &out));
    mtbal_node *node = mtbal_node_new(c->graph, NULL, ORT_DOMAIN, "InPlaceAccumulatorV2", 3, in, 0);
    if (node)
        node->role = "accumulate";
    return give(c, node, out);
}

/* ------------------------------------------------------------------ gradients */

/* P_grad, an output of its own: sessions hide it, other runtimes give it. */
static mtbal_status name_gradient(mtbal_context *c, const char *param, mtbal_value *gradient,
                                  mtbal_value **named)
{
    MTBAL_TRY(ort_value(c, param, ORT_GRAD, &gradient->type, named));
    return give(c, mtbal_node_new(c->graph, NULL, "", "Identity", 1, &gradient, 0), *named);
}

mtbal_status ort_accumulate_gradients(mtbal_context *c, int n, mtbal_value *const *params,
                                      mtbal_value *const *gradients)
{
    mtbal_type flag = flag_type(c);
    mtbal_value *reset, *gradient;
    mtbal_value **sums = mtbal_arena_array(c->model->arena, (size_t)n, sizeof *sums);
    if (!sums)
        return mtbal_no_memory(c->diag);
    for (int i = 0; i < n; i++)
        MTBAL_TRY(input(c, params[i]->name, ORT_BUFFER, &params[i]->type, &sums[i]));
    MTBAL_TRY(input(c, ORT_RESET, "", &flag, &reset));
    for (int i = 0; i < n; i++) {
        MTBAL_TRY(name_gradient(c, params[i]->name, gradients[i], &gradient));
        MTBAL_TRY(accumulate(c, params[i]->name, sums[i], gradient, reset));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ states that the graph changes
 */

typedef struct readers {
    mtbal_value *state, *copy;
    mtbal_node *copier, *last;
    int count; /* nodes that read the state; last: one of them */
} readers;

static mtbal_status count_reader(mtbal_node *node, void *context)
{
    readers *r = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] == r->state) {
            r->count++;
            r->last = node;
            break;
        }
    return MTBAL_OK;
}

static mtbal_status read_copy(mtbal_node *node, void *context)
{
    readers *r = context;
    for (int i = 0; i < node->nin && node != r->copier; i++)
        if (node->in[i] == r->state)
            node->in[i] = r->copy;
    return MTBAL_OK;
}

/* All that read the state read a copy of it from now on. (A session's optimizer would remove an
 * Identity; it keeps a Concat of one.) */
static mtbal_status make_copy(mtbal_context *c, mtbal_builder *b, readers *r)
{
    const int64_t whole = -1;
    b->before = c->graph->first;
    mtbal_value *flat = mtbal_emit_reshape(b, r->state, mtbal_const_i64s(b, 1, &whole));
    mtbal_value *one = mtbal_emit_attrs(b, "Concat", 1, &flat, "axis=i", (int64_t)0);
    r->copy = mtbal_emit_reshape(b, one, mtbal_emit_shape(b, r->state));
    b->before = NULL;
    MTBAL_TRY(b->status);
    r->copier = flat->def;
    return mtbal_graph_walk(c->graph, read_copy, r);
}

/* True, whatever x holds; but not before x is there. */
static mtbal_value *true_after(mtbal_builder *b, mtbal_value *x)
{
    const int64_t one = 1;
    mtbal_value *nan = mtbal_emit(b, "IsNaN", mtbal_emit_reduce(b, "ReduceSum", x, 0, NULL, false));
    mtbal_value *either = mtbal_emit(b, "Or", nan, mtbal_emit(b, "Not", nan));
    return mtbal_emit_reshape(b, either, mtbal_const_i64s(b, 1, &one));
}

/* All that read the state must have run before. That is so where the one node that reads it also
 * makes its next value (BatchNormalization). Else they read a copy, and the flag comes after it. */
mtbal_status ort_overwrite(mtbal_context *c, mtbal_value *state, mtbal_value *next,
                           const char *label)
{
    readers r = {.state = state};
    mtbal_builder b;
    mtbal_value *maker = next, *overwrite;
    while (maker->def && mtbal_node_is(maker->def, MTBAL_OP_identity))
        maker = maker->def->in[0];
    if (maker == state) /* a step leaves it alone */
        return MTBAL_OK;
    MTBAL_TRY(mtbal_graph_walk(c->graph, count_reader, &r));
    mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
    if (r.count == 0 || (r.count == 1 && r.last == maker->def)) {
        overwrite =
            mtbal_const_tensor(&b, mtbal_tensor_new(c->model, MTBAL_BOOL, 1, (int64_t[]){1}, "\1"));
    } else {
        MTBAL_TRY(make_copy(c, &b, &r));
        overwrite = true_after(&b, r.copy);
    }
    MTBAL_TRY(b.status);
    return accumulate(c, label, state, next, overwrite);
}
