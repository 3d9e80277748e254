/* passes/losses.c: --loss NAME=KIND:PRED,LABEL[,option=value..]: a loss for a head that has none.
 */
#include "passes/internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct loss_spec {
    const char *name;
    char kind[32];
    mtbal_value *pred, *label;
    double delta; /* huber */
    bool has_ignore;
    int64_t ignore;
    const char *weight; /* initializer with class weights */
} loss_spec;

/* The value of that name; a new graph input when there is none. */
static mtbal_value *label_input(mtbal_context *c, const char *name, mtbal_dtype dtype, int rank,
                                const mtbal_dim *dims)
{
    mtbal_value *v = mtbal_value_find(c->graph, name);
    if (v)
        return v;
    v = mtbal_value_new(c->graph, name);
    mtbal_dim *copy = mtbal_arena_copy(c->model->arena, dims, (size_t)rank * sizeof *dims);
    if (!v || !copy || mtbal_add_input(c->graph, v) != MTBAL_OK)
        return NULL;
    v->type = (mtbal_type){MTBAL_TENSOR, dtype, rank, copy};
    return v;
}

static bool is_kind(const loss_spec *l, const char *kind)
{
    return !strcmp(l->kind, kind);
}

/* Class labels: the logits' shape without axis 1. */
static mtbal_value *class_label(mtbal_context *c, const loss_spec *l, const char *name)
{
    mtbal_dim dims[32];
    const mtbal_type *t = &l->pred->type;
    int rank = t->rank > 0 && t->rank < 32 ? t->rank - 1 : 0;
    for (int i = 0; i < rank; i++)
        dims[i] = t->dims[i ? i + 1 : 0];
    return label_input(c, name, MTBAL_INT64, rank, dims);
}

static mtbal_value *class_loss(mtbal_context *c, mtbal_builder *b, const loss_spec *l, bool logits)
{
    mtbal_value *weight = l->weight ? mtbal_value_find(c->graph, l->weight) : MTBAL_OMIT;
    mtbal_value *in[3] = {l->pred, l->label, weight}, *out;
    mtbal_node *node = mtbal_emit_node(
        b, "", logits ? "SoftmaxCrossEntropyLoss" : "NegativeLogLikelihoodLoss", 3, in, 1, &out);
    if (node && l->has_ignore)
        mtbal_set_i(node, "ignore_index", l->ignore);
    if (node)
        mtbal_set_s(node, "reduction", "mean");
    mtbal_emit_done(b, node);
    return out;
}

static mtbal_value *mean(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_reduce(b, "ReduceMean", x, 0, NULL, false);
}

static mtbal_value *elementwise_loss(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *p = l->pred, *t = l->label;
#define SCALAR(x) mtbal_const_scalar(b, p->type.dtype, (x))
    if (is_kind(l, "bce-logits")) { /* max(p, 0) - p t + log(1 + e^-|p|) */
        mtbal_value *soft =
            mtbal_emit(b, "Softplus", mtbal_emit(b, "Neg", mtbal_emit(b, "Abs", p)));
        mtbal_value *linear =
            mtbal_emit(b, "Sub", mtbal_emit(b, "Relu", p), mtbal_emit(b, "Mul", p, t));
        return mean(b, mtbal_emit(b, "Add", linear, soft));
    }
    if (is_kind(
            l,
            "kl")) { /* t (log t - p), p log-probabilities; 0 where t is 0; mean over the batch */
        mtbal_value *none = mtbal_emit(b, "Equal", t, SCALAR(0));
        mtbal_value *log = mtbal_emit(b, "Log", mtbal_emit(b, "Where", none, SCALAR(1), t));
        mtbal_value *sum = mtbal_emit_reduce(
            b, "ReduceSum", mtbal_emit(b, "Mul", t, mtbal_emit(b, "Sub", log, p)), 0, NULL, false);
        mtbal_value *batch =
            mtbal_emit(b, "Gather", mtbal_emit(b, "Shape", p), mtbal_const_i64(b, 0));
        return mtbal_emit(b, "Div", sum, mtbal_emit_cast(b, batch, p->type.dtype));
    }
    if (is_kind(l, "cosine")) { /* 1 - cos(p, t) over the last axis, mean */
        const int64_t last = p->type.rank - 1;
        mtbal_value *dot =
            mtbal_emit_reduce(b, "ReduceSum", mtbal_emit(b, "Mul", p, t), 1, &last, false);
        mtbal_value *norms =
            mtbal_emit(b, "Mul", mtbal_emit_reduce(b, "ReduceL2", p, 1, &last, false),
                       mtbal_emit_reduce(b, "ReduceL2", t, 1, &last, false));
        mtbal_value *cosine = mtbal_emit(b, "Div", dot, mtbal_emit(b, "Max", norms, SCALAR(1e-8)));
        return mtbal_emit(b, "Sub", SCALAR(1), mean(b, cosine));
    }
    mtbal_value *d = mtbal_emit(b, "Sub", p, t);
    if (is_kind(l, "mse"))
        return mean(b, mtbal_emit(b, "Mul", d, d));
    mtbal_value *a = mtbal_emit(b, "Abs", d);
    if (is_kind(l, "l1"))
        return mean(b, a);
    /* huber: d^2/2 up to delta, delta (|d| - delta/2) beyond */
    mtbal_value *near = mtbal_emit(b, "Mul", SCALAR(0.5), mtbal_emit(b, "Mul", d, d));
    mtbal_value *far =
        mtbal_emit(b, "Mul", SCALAR(l->delta), mtbal_emit(b, "Sub", a, SCALAR(0.5 * l->delta)));
    return mean(
        b, mtbal_emit(b, "Where", mtbal_emit(b, "LessOrEqual", a, SCALAR(l->delta)), near, far));
#undef SCALAR
}

static mtbal_status bad_spec(mtbal_context *c, const mtbal_pair *p, const char *why)
{
    return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path,
                      "--loss NAME=KIND:PRED,LABEL; KIND: cross-entropy, bce-logits, mse, l1, "
                      "huber, nll, cosine, kl",
                      "--loss %s=%s: %s", p->name, p->value, why);
}

/* KIND:PRED,LABEL and options ignore_index=, weight=, delta=. */
static mtbal_status parse_spec(mtbal_context *c, const mtbal_pair *pair, loss_spec *l,
                               char label[256])
{
    static const char *const kinds[] = {"cross-entropy", "bce-logits", "mse",    "l1",
                                        "huber",         "nll",        "cosine", "kl"};
    char parts[8][256];
    int n = 0;
    const char *colon = strchr(pair->value, ':');
    bool known = false;
    if (!colon || (size_t)(colon - pair->value) >= sizeof l->kind)
        return bad_spec(c, pair, "the kind is missing");
    *l = (loss_spec){.name = pair->name, .delta = 1};
    memcpy(l->kind, pair->value, (size_t)(colon - pair->value));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        known = known || is_kind(l, kinds[i]);
    if (!known)
        return bad_spec(c, pair, "there is no such kind of loss");
    for (const char *p = colon + 1; n < 8; n++) {
        size_t k = strcspn(p, ",");
        snprintf(parts[n], sizeof parts[n], "%.*s", (int)k, p);
        if (!p[k]) {
            n++;
            break;
        }
        p += k + 1;
    }
    if (n < 2)
        return bad_spec(c, pair, "the label is missing");
    l->pred = mtbal_value_find(c->graph, parts[0]);
    if (!l->pred)
        return bad_spec(c, pair, "the graph has no such prediction");
    snprintf(label, 256, "%s", parts[1]);
    for (int i = 2; i < n; i++) {
        if (!strncmp(parts[i], "ignore_index=", 13)) {
            l->has_ignore = true;
            l->ignore = strtoll(parts[i] + 13, NULL, 10);
        } else if (!strncmp(parts[i], "weight=", 7)) {
            l->weight = mtbal_intern(c->model->arena, parts[i] + 7);
        } else if (!strncmp(parts[i], "delta=", 6)) {
            l->delta = strtod(parts[i] + 6, NULL);
        } else {
            return bad_spec(c, pair, "options are ignore_index=, weight=, delta=");
        }
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_losses(mtbal_context *c)
{
    for (int i = 0; i < c->options->nlosses; i++) {
        const mtbal_pair *pair = &c->options->losses[i];
        loss_spec l;
        mtbal_builder b;
        char label[256];
        MTBAL_TRY(parse_spec(c, pair, &l, label));
        bool classes = is_kind(&l, "cross-entropy") || is_kind(&l, "nll");
        l.label =
            classes ? class_label(c, &l, label)
                    : label_input(c, label, l.pred->type.dtype,
                                  l.pred->type.rank < 0 ? 0 : l.pred->type.rank, l.pred->type.dims);
        if (!l.label)
            return mtbal_no_memory(c->diag);
        mtbal_pass_builder(c, &b, "mtbal/head/", "loss", pair->name);
        mtbal_value *loss = classes ? class_loss(c, &b, &l, is_kind(&l, "cross-entropy"))
                                    : elementwise_loss(&b, &l);
        MTBAL_TRY(b.status);
        MTBAL_TRY(mtbal_output_as(c, loss, "mtbal/loss/", pair->name));
    }
    return MTBAL_OK;
}

void mtbal_suggest_losses(const mtbal_context *c, char *text, size_t size)
{
    const mtbal_graph *graph = c->graph;
    size_t n = (size_t)snprintf(text, size, "give the heads losses:");
    for (int i = 0; i < graph->noutputs && n < size; i++) {
        const mtbal_value *v = graph->outputs[i];
        int64_t width = v->type.rank > 1 ? v->type.dims[1].size : 1;
        if (mtbal_dtype_is_float(v->type.dtype) && !v->is_input)
            n += (size_t)snprintf(text + n, size - n, " --loss %s=%s:%s,%s_label", v->name,
                                  width > 2 ? "cross-entropy" : "mse", v->name, v->name);
    }
}
