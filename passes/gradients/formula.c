/* passes/gradients/formula.c: operators whose gradient is that of a formula: what they compute,
 * written once more in simpler operators, is differentiated in their place. The node itself stays
 * as it is. */
#include "passes/gradients/rules.h"
#include "passes/internal.h"

#include <math.h>
#include <string.h>

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)

/* The first output as a formula of the inputs; NULL when it cannot be written. */
typedef mtbal_value *formula(mtbal_gradient *g);

static bool is_new(const mtbal_node *node, void *context)
{
    const int *before = context;
    return node->nout && node->out[0] && node->out[0]->id >= *before;
}

/* Float values from `node` on that depend on a wanted input. */
static void mark_active(mtbal_node *node, const mtbal_node *end, bool *active, int n)
{
    for (; node && node != end; node = node->next) {
        bool any = mtbal_reads(node, active, n);
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                active[node->out[i]->id] = any && mtbal_dtype_is_float(node->out[i]->type.dtype);
    }
}

/* Sweeps the formula's nodes, which follow `last`, from y to the wanted inputs. */
static mtbal_status sweep(mtbal_gradient *g, const mtbal_node *last, int before, mtbal_value *y)
{
    mtbal_graph *graph = g->b->graph;
    int n = graph->model->nvalues;
    mtbal_value **cotangent = mtbal_malloc((size_t)n * sizeof *cotangent);
    bool *active = mtbal_malloc((size_t)n * sizeof *active);
    mtbal_status status = cotangent && active ? MTBAL_OK : mtbal_no_memory(g->diag);
    if (status == MTBAL_OK) {
        memset(cotangent, 0, (size_t)n * sizeof *cotangent);
        memset(active, 0, (size_t)n * sizeof *active);
        for (int i = 0; i < g->nx; i++)
            if (g->need[i])
                active[g->x[i]->id] = true;
        mark_active(last ? last->next : graph->first, g->b->before, active, n);
        cotangent[y->id] = g->dy[0];
        mtbal_sweep inner = {.graph = graph,
                             .b = g->b,
                             .nvalues = n,
                             .cotangent = cotangent,
                             .active = active,
                             .inside = is_new,
                             .context = &before};
        status = mtbal_differentiate(&inner);
    }
    for (int i = 0; status == MTBAL_OK && i < g->nx; i++)
        if (g->need[i]) {
            g->dx[i] = cotangent[g->x[i]->id];
            cotangent[g->x[i]->id] = NULL; /* given twice, counted once */
        }
    mtbal_free(cotangent);
    mtbal_free(active);
    return status;
}

static mtbal_status through(mtbal_gradient *g, formula *write)
{
    mtbal_builder *b = g->b;
    const mtbal_node *last = b->before ? b->before->prev : b->graph->last;
    int before = b->graph->model->nvalues;
    for (int i = 1; i < g->ny; i++)
        if (g->dy[i])
            return rule_unsupported(g, "a gradient through another output than the first");
    if (!g->dy[0])
        return MTBAL_OK;
    mtbal_value *y = write(g);
    MTBAL_TRY(b->status);
    return y ? sweep(g, last, before, y)
             : rule_unsupported(g, "a form whose sizes are not known before the run");
}

static mtbal_value *mean(mtbal_builder *b, mtbal_value *x, int n, const int64_t *axes)
{
    return mtbal_emit_reduce(b, "ReduceMean", x, n, axes, true);
}

static mtbal_value *reshape(mtbal_builder *b, mtbal_value *x, int rank, const int64_t *dims)
{
    return mtbal_emit_reshape(b, x, mtbal_const_i64s(b, rank, dims));
}

static int known_rank(const mtbal_gradient *g)
{
    int rank = g->x[0]->type.rank;
    return rank <= 32 ? rank : -1;
}

/* ------------------------------------------------------------------ normalisations */

static mtbal_value *rms_normalization(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    int64_t axis = rule_axis(g, -1), axes[32];
    int rank = known_rank(g), n = 0;
    if (rank < 1 || axis < 0)
        return NULL;
    for (int64_t d = axis; d < rank; d++)
        axes[n++] = d;
    mtbal_value *epsilon = rule_scalar(b, x, mtbal_attr_f(g->node, "epsilon", 1e-5));
    mtbal_value *rms = UNARY("Sqrt", ADD(mean(b, MUL(x, x), n, axes), epsilon));
    return MUL(DIV(x, rms), g->x[1]);
}

/* Groups of channels are normalised together; scale and bias are per channel since opset 21, per
 * group before. */
static mtbal_value *group_normalization(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    const int64_t grouped[3] = {0, mtbal_attr_i(g->node, "num_groups", 1), -1}, last = 2;
    int64_t column[32] = {1, -1};
    int rank = known_rank(g);
    if (rank < 2)
        return NULL;
    for (int d = 2; d < 32; d++)
        column[d] = 1;
    mtbal_value *x3 = reshape(b, x, 3, grouped);
    mtbal_value *centred = SUB(x3, mean(b, x3, 1, &last));
    mtbal_value *epsilon = rule_scalar(b, x, mtbal_attr_f(g->node, "epsilon", 1e-5));
    mtbal_value *sd = UNARY("Sqrt", ADD(mean(b, MUL(centred, centred), 1, &last), epsilon));
    mtbal_value *normal = DIV(centred, sd);
    bool per_channel = mtbal_builder_opset(b) >= 21;
    if (per_channel)
        normal = mtbal_emit_reshape(b, normal, mtbal_emit_shape(b, x));
    int width = per_channel ? rank : 3;
    mtbal_value *y =
        ADD(MUL(normal, reshape(b, g->x[1], width, column)), reshape(b, g->x[2], width, column));
    return per_channel ? y : mtbal_emit_reshape(b, y, mtbal_emit_shape(b, x));
}

/* (x - mean) / (sqrt(E[x^2] - mean^2) + 1e-9) */
static mtbal_value *mean_variance_normalization(mtbal_gradient *g)
{
    static const int64_t usual[] = {0, 2, 3};
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    const int64_t *axes;
    int n = mtbal_attr_ints(g->node, "axes", &axes);
    if (n < 0) {
        n = 3;
        axes = usual;
    }
    mtbal_value *centre = mean(b, x, n, axes);
    mtbal_value *variance = SUB(mean(b, MUL(x, x), n, axes), MUL(centre, centre));
    return DIV(SUB(x, centre), ADD(UNARY("Sqrt", variance), rule_scalar(b, x, 1e-9)));
}

/* x / (bias + alpha mean of x^2 over `size` channels)^beta, channels beyond the border counting 0
 */
static mtbal_value *lrn(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    int64_t size = mtbal_attr_i(g->node, "size", 1), one = 1;
    const int64_t rows[3] = {0, 0, -1}, kernel[2] = {size, 1},
                  pads[4] = {(size - 1) / 2, 0, size / 2, 0};
    mtbal_value *squares =
        mtbal_emit(b, "Unsqueeze", reshape(b, MUL(x, x), 3, rows), mtbal_const_i64s(b, 1, &one));
    mtbal_value *around =
        mtbal_emit_attrs(b, "AveragePool", 1, &squares, "kernel_shape=I pads=I count_include_pad=i",
                         2, kernel, 4, pads, one);
    around = mtbal_emit_reshape(b, around, mtbal_emit_shape(b, x));
    mtbal_value *base = ADD(MUL(around, rule_scalar(b, x, mtbal_attr_f(g->node, "alpha", 1e-4))),
                            rule_scalar(b, x, mtbal_attr_f(g->node, "bias", 1)));
    return MUL(x, BINARY("Pow", base, rule_scalar(b, x, -mtbal_attr_f(g->node, "beta", 0.75))));
}

/* ------------------------------------------------------------------ pools and gates */

static mtbal_value *global_lp_pool(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    int64_t axes[32];
    int n = known_rank(g) - 2;
    double p = (double)mtbal_attr_i(g->node, "p", 2);
    if (n < 1)
        return NULL;
    for (int i = 0; i < n; i++)
        axes[i] = i + 2;
    mtbal_value *powers = BINARY("Pow", UNARY("Abs", x), rule_scalar(b, x, p));
    return BINARY("Pow", mtbal_emit_reduce(b, "ReduceSum", powers, n, axes, true),
                  rule_scalar(b, x, 1 / p));
}

static mtbal_value *swiglu(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0];
    double alpha = mtbal_attr_f(g->node, "alpha", 1);
    return MUL(MUL(x, UNARY("Sigmoid", MUL(x, rule_scalar(b, x, alpha)))), g->x[1]);
}

/* ------------------------------------------------------------------ Attention */

static mtbal_value *turn(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_transpose(b, x, 4, (int64_t[]){0, 2, 1, 3});
}

/* (B, L, H D) -> (B, H, L, D) */
static mtbal_value *split_heads(mtbal_builder *b, mtbal_value *x, int64_t heads)
{
    return turn(b, reshape(b, x, 4, (int64_t[]){0, 0, heads, -1}));
}

/* Heads of keys and values that several query heads share: each is repeated next to itself. */
static mtbal_value *repeat_heads(mtbal_builder *b, mtbal_value *x, int64_t times)
{
    const int64_t two = 2;
    if (times == 1)
        return x;
    mtbal_value *many =
        mtbal_emit(b, "Expand", mtbal_emit(b, "Unsqueeze", x, mtbal_const_i64s(b, 1, &two)),
                   mtbal_const_i64s(b, 5, (int64_t[]){1, 1, times, 1, 1}));
    many = mtbal_emit_transpose(b, many, 5, (int64_t[]){0, 3, 4, 1, 2}); /* (B, L, D, H, times) */
    many = reshape(b, many, 4, (int64_t[]){0, 0, 0, -1});
    return mtbal_emit_transpose(b, many, 4, (int64_t[]){0, 3, 1, 2});
}

/* (0, 1, .. length - 1) of x's axis 2. */
static mtbal_value *count_up(mtbal_builder *b, mtbal_value *x)
{
    const int64_t none = 0;
    mtbal_value *length = mtbal_emit(
        b, "Squeeze", mtbal_emit_attrs(b, "Shape", 1, &x, "start=i end=i", (int64_t)2, (int64_t)3),
        mtbal_const_i64s(b, 1, &none));
    return mtbal_emit(b, "Range", mtbal_const_i64(b, 0), length, mtbal_const_i64(b, 1));
}

/* Stands for minus infinity, so that a query that may see no key gives no NaN. */
static const double unseen = -1e30;

/* What is added to the scores: the mask, and that key j is seen by query i only when j <= i +
 * past. */
static mtbal_value *attention_bias(mtbal_gradient *g, mtbal_value *q, mtbal_value *k)
{
    mtbal_builder *b = g->b;
    mtbal_value *mask = g->nx > 3 ? g->x[3] : NULL, *bias = NULL,
                *past = g->nx > 4 ? g->x[4] : NULL;
    mtbal_value *low = rule_scalar(b, q, unseen), *zero = rule_scalar(b, q, 0);
    if (mask)
        bias = mask->type.dtype == MTBAL_BOOL ? WHERE(mask, zero, low) : BINARY("Max", mask, low);
    if (!mtbal_attr_i(g->node, "is_causal", 0))
        return bias;
    mtbal_value *rows = reshape(b, count_up(b, q), 2, (int64_t[]){-1, 1});
    if (past)
        rows = ADD(rows,
                   mtbal_emit_attrs(b, "Shape", 1, &past, "start=i end=i", (int64_t)2, (int64_t)3));
    mtbal_value *causal = WHERE(BINARY("Less", rows, count_up(b, k)), low, zero);
    return bias ? ADD(bias, causal) : causal;
}

static mtbal_value *weights_of(mtbal_gradient *g, mtbal_value *scores, mtbal_value *bias)
{
    mtbal_builder *b = g->b;
    const int64_t last = -1;
    if (bias)
        scores = ADD(scores, bias);
    mtbal_value *p = mtbal_emit_attrs(b, "Softmax", 1, &scores, "axis=i", last);
    if (!bias)
        return p;
    mtbal_value *most = mtbal_emit_reduce(b, "ReduceMax", bias, 1, &last, true);
    mtbal_value *blind = BINARY("LessOrEqual", most, rule_scalar(b, bias, unseen));
    return WHERE(blind, rule_scalar(b, p, 0), p);
}

static int64_t heads_of(const mtbal_gradient *g, const mtbal_value *x, const char *attribute)
{
    return x->type.rank == 4 ? x->type.dims[1].size : mtbal_attr_i(g->node, attribute, 0);
}

static mtbal_value *attention(mtbal_gradient *g)
{
    mtbal_builder *b = g->b;
    mtbal_value *q = g->x[0], *k = g->x[1], *v = g->x[2];
    bool flat = q->type.rank == 3, valid_lengths = g->nx > 6 && g->x[6];
    int64_t hq = heads_of(g, q, "q_num_heads"), hk = heads_of(g, k, "kv_num_heads");
    if ((!flat && q->type.rank != 4) || hq < 1 || hk < 1 || hq % hk || valid_lengths)
        return NULL;
    if (flat) {
        q = split_heads(b, q, hq);
        k = split_heads(b, k, hk);
        v = split_heads(b, v, hk);
    }
    if (g->nx > 5 && g->x[4] && g->x[5]) {
        k = mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){g->x[4], k}, "axis=i", (int64_t)2);
        v = mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){g->x[5], v}, "axis=i", (int64_t)2);
    }
    int64_t size = q && q->type.rank == 4 ? q->type.dims[3].size : -1;
    double scale = mtbal_attr_f(g->node, "scale", size > 0 ? 1 / sqrt((double)size) : 0),
           cap = mtbal_attr_f(g->node, "softcap", 0);
    if (scale == 0 && size < 1)
        return NULL;
    mtbal_value *turned =
        mtbal_emit_transpose(b, repeat_heads(b, k, hq / hk), 4, (int64_t[]){0, 1, 3, 2});
    mtbal_value *scores = BINARY("MatMul", MUL(q, rule_scalar(b, q, scale)), turned);
    if (cap > 0)
        scores = MUL(UNARY("Tanh", DIV(scores, rule_scalar(b, q, cap))), rule_scalar(b, q, cap));
    mtbal_value *p = weights_of(g, scores, attention_bias(g, q, k));
    mtbal_value *y = BINARY("MatMul", p, repeat_heads(b, v, hq / hk));
    return flat ? reshape(b, turn(b, y), 3, (int64_t[]){0, 0, -1}) : y;
}

/* ------------------------------------------------------------------ the rules */

RULE(rms_normalization)
{
    return through(g, rms_normalization);
}
RULE(group_normalization)
{
    return through(g, group_normalization);
}
RULE(mean_variance_normalization)
{
    return through(g, mean_variance_normalization);
}
RULE(lrn)
{
    return through(g, lrn);
}
RULE(global_lp_pool)
{
    return through(g, global_lp_pool);
}
RULE(swiglu)
{
    return through(g, swiglu);
}
RULE(attention)
{
    return through(g, attention);
}

/* A rotation: dy turns back. */
RULE(rotary_embedding)
{
    mtbal_builder *b = g->b;
    mtbal_value *in[4] = {g->dy[0], g->x[1], NEG(g->x[2]),
                          g->nx > 3 && g->x[3] ? g->x[3] : MTBAL_OMIT};
    if (g->need[1] || g->need[2])
        return rule_unsupported(g, "a gradient of the angles");
    mtbal_node *node = mtbal_emit_node(b, "", "RotaryEmbedding", 4, in, 1, &g->dx[0]);
    if (node)
        node->attrs = g->node->attrs;
    mtbal_emit_done(b, node);
    return MTBAL_OK;
}
