/* passes/losses.c: --loss NAME=KIND:PRED,LABEL[,option=value..]: a loss for a head that has none. A
 * table of kinds. */
#include "passes/internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct loss_spec loss_spec;
typedef struct loss_kind {
    const char *name;
    unsigned options; /* that it takes: OPTION_... */
    int undoes;       /* operator that this loss has within itself: its operand is taken */
    bool classes;     /* labels are class numbers */
    mtbal_value *(*emit)(mtbal_builder *b, const loss_spec *l);
} loss_kind;

enum { OPTION_IGNORE = 1, OPTION_WEIGHT = 2, OPTION_DELTA = 4, OPTION_AXIS = 8 };

/* One --loss. weight: class weights [classes], or of the positive class; NULL: none. */
struct loss_spec {
    const mtbal_pair *pair;
    const loss_kind *kind;
    mtbal_value *pred, *label, *weight;
    const char *label_name;
    double delta;
    bool has_ignore, has_axis;
    int64_t ignore, axis;
};

static mtbal_status bad_spec(mtbal_context *c, const mtbal_pair *p, const char *why,
                             const char *name)
{
    char list[200], hint[400];
    mtbal_loss_kinds(list, sizeof list);
    snprintf(
        hint, sizeof hint,
        "--loss NAME=KIND:PRED,LABEL[,ignore_index=N][,weight=W:W..][,delta=D][,axis=N]; KIND: %s",
        list);
    return mtbal_fail(c->diag, MTBAL_USAGE, c->model->path, hint, "--loss %s=%s: %s%s", p->name,
                      p->value, why, name);
}

/* ------------------------------------------------------------------ the kinds */

static mtbal_value *mean(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_reduce(b, "ReduceMean", x, 0, NULL, false);
}

static mtbal_value *scalar(mtbal_builder *b, const loss_spec *l, double x)
{
    return mtbal_const_scalar(b, l->pred->type.dtype, x);
}

/* Mean over the labels that are not ignored, weighted by their class. */
static mtbal_value *class_loss(mtbal_builder *b, const loss_spec *l, const char *op)
{
    mtbal_value *in[3] = {l->pred, l->label, l->weight ? l->weight : MTBAL_OMIT}, *out;
    mtbal_node *node = mtbal_emit_node(b, "", op, 3, in, 1, &out);
    if (!node || mtbal_set_s(node, "reduction", "mean") != MTBAL_OK ||
        (l->has_ignore && mtbal_set_i(node, "ignore_index", l->ignore) != MTBAL_OK))
        return NULL;
    mtbal_emit_done(b, node);
    return out;
}

static mtbal_value *cross_entropy(mtbal_builder *b, const loss_spec *l)
{
    return class_loss(b, l, "SoftmaxCrossEntropyLoss");
}

static mtbal_value *nll(mtbal_builder *b, const loss_spec *l)
{
    return class_loss(b, l, "NegativeLogLikelihoodLoss");
}

/* log(1 + e^-|p|), which neither overflows nor cancels. ONNX Runtime has Softplus of floats only.
 */
static mtbal_value *soft(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *minus = mtbal_emit(b, "Neg", mtbal_emit(b, "Abs", l->pred));
    if (l->pred->type.dtype != MTBAL_DOUBLE)
        return mtbal_emit(b, "Softplus", minus);
    return mtbal_emit(b, "Log", mtbal_emit(b, "Add", scalar(b, l, 1), mtbal_emit(b, "Exp", minus)));
}

/* -log sigmoid(p) = max(-p, 0) + s, -log(1 - sigmoid(p)) = max(p, 0) + s. Mean of w t (first) + (1
 * - t) (second), w the weight. */
static mtbal_value *bce_logits(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *p = l->pred, *t = l->label, *s = soft(b, l);
    if (!l->weight) /* max(p, 0) - p t + s */
        return mean(b, mtbal_emit(b, "Add",
                                  mtbal_emit(b, "Sub", mtbal_emit(b, "Relu", p),
                                             mtbal_emit(b, "Mul", p, t)),
                                  s));
    mtbal_value *one = scalar(b, l, 1);
    mtbal_value *positive = mtbal_emit(b, "Add", mtbal_emit(b, "Relu", mtbal_emit(b, "Neg", p)), s);
    mtbal_value *negative = mtbal_emit(b, "Add", mtbal_emit(b, "Relu", p), s);
    mtbal_value *first = mtbal_emit(b, "Mul", mtbal_emit(b, "Mul", l->weight, t), positive);
    mtbal_value *second = mtbal_emit(b, "Mul", mtbal_emit(b, "Sub", one, t), negative);
    return mean(b, mtbal_emit(b, "Add", first, second));
}

static mtbal_value *mse(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *d = mtbal_emit(b, "Sub", l->pred, l->label);
    return mean(b, mtbal_emit(b, "Mul", d, d));
}

static mtbal_value *l1(mtbal_builder *b, const loss_spec *l)
{
    return mean(b, mtbal_emit(b, "Abs", mtbal_emit(b, "Sub", l->pred, l->label)));
}

/* d^2/2 up to delta, delta (|d| - delta/2) beyond. */
static mtbal_value *huber(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *d = mtbal_emit(b, "Sub", l->pred, l->label), *a = mtbal_emit(b, "Abs", d);
    mtbal_value *delta = scalar(b, l, l->delta);
    mtbal_value *near = mtbal_emit(b, "Mul", scalar(b, l, 0.5), mtbal_emit(b, "Mul", d, d));
    mtbal_value *far =
        mtbal_emit(b, "Mul", delta, mtbal_emit(b, "Sub", a, scalar(b, l, 0.5 * l->delta)));
    return mean(b, mtbal_emit(b, "Where", mtbal_emit(b, "LessOrEqual", a, delta), near, far));
}

/* 1 - cos(p, t) along the last axis (or `axis`), mean; norms below 1e-8 count as that. */
static mtbal_value *cosine(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *p = l->pred, *t = l->label, *least = scalar(b, l, 1e-8);
    int64_t axis = l->has_axis ? l->axis : l->pred->type.rank - 1;
    mtbal_value *dot =
        mtbal_emit_reduce(b, "ReduceSum", mtbal_emit(b, "Mul", p, t), 1, &axis, false);
    mtbal_value *np =
        mtbal_emit(b, "Max", mtbal_emit_reduce(b, "ReduceL2", p, 1, &axis, false), least);
    mtbal_value *nt =
        mtbal_emit(b, "Max", mtbal_emit_reduce(b, "ReduceL2", t, 1, &axis, false), least);
    mtbal_value *cos = mtbal_emit(b, "Div", dot, mtbal_emit(b, "Mul", np, nt));
    return mtbal_emit(b, "Sub", scalar(b, l, 1), mean(b, cos));
}

/* sum t (log t - p), p log-probabilities; 0 where t is 0; over the batch size. */
static mtbal_value *kl(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *p = l->pred, *t = l->label;
    mtbal_value *none = mtbal_emit(b, "Equal", t, scalar(b, l, 0));
    mtbal_value *log = mtbal_emit(b, "Log", mtbal_emit(b, "Where", none, scalar(b, l, 1), t));
    mtbal_value *sum = mtbal_emit_reduce(
        b, "ReduceSum", mtbal_emit(b, "Mul", t, mtbal_emit(b, "Sub", log, p)), 0, NULL, false);
    mtbal_value *batch = mtbal_emit(b, "Gather", mtbal_emit_shape(b, p), mtbal_const_i64(b, 0));
    return mtbal_emit(b, "Div", sum, mtbal_emit_cast(b, batch, p->type.dtype));
}

static const loss_kind kinds[] = {
    {"cross-entropy", OPTION_IGNORE | OPTION_WEIGHT | OPTION_AXIS, MTBAL_OP_softmax, true,
     cross_entropy},
    {"nll", OPTION_IGNORE | OPTION_WEIGHT | OPTION_AXIS, -1, true, nll},
    {"bce-logits", OPTION_WEIGHT, MTBAL_OP_sigmoid, false, bce_logits},
    {"mse", 0, -1, false, mse},
    {"l1", 0, -1, false, l1},
    {"huber", OPTION_DELTA, -1, false, huber},
    {"cosine", OPTION_AXIS, -1, false, cosine},
    {"kl", 0, -1, false, kl},
};

void mtbal_loss_kinds(char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", kinds[i].name);
}

/* ------------------------------------------------------------------ reading */

static bool read_number(const char *text, double *x)
{
    char *end;
    *x = strtod(text, &end);
    return end != text && !*end;
}

/* weight=NAME of an initializer, or numbers with colons between: as many as the text has. */
static mtbal_status read_weight(mtbal_context *c, loss_spec *l, const char *text)
{
    mtbal_builder b;
    int64_t n = 1;
    l->weight = mtbal_value_find(c->graph, text);
    if (l->weight)
        return MTBAL_OK;
    for (const char *p = text; *p; p++)
        n += *p == ':';
    mtbal_pass_builder(c, &b, "mtbal/head/", "loss", l->pair->name);
    mtbal_tensor *t = mtbal_tensor_new(c->model, l->pred->type.dtype, 1, &n, NULL);
    const char *p = text;
    for (int64_t i = 0; t && i < n; i++) {
        char *end;
        mtbal_tensor_set_f64(t, i, strtod(p, &end));
        if (end == p || *end != (i + 1 < n ? ':' : 0))
            return bad_spec(c, l->pair,
                            "weight= takes numbers with colons between, or an "
                            "initializer: there is no ",
                            text);
        p = end + 1;
    }
    l->weight = mtbal_const_tensor(&b, t);
    return b.status;
}

static mtbal_status read_option(mtbal_context *c, loss_spec *l, const char *text)
{
    static const struct option {
        const char *name;
        unsigned bit;
    } options[] = {{"ignore_index=", OPTION_IGNORE},
                   {"weight=", OPTION_WEIGHT},
                   {"delta=", OPTION_DELTA},
                   {"axis=", OPTION_AXIS}};
    const size_t n = sizeof options / sizeof *options;
    size_t i = 0;
    double x = 0;
    while (i < n && strncmp(text, options[i].name, strlen(options[i].name)))
        i++;
    if (i == n)
        return bad_spec(c, l->pair, "there is no option ", text);
    const char *value = text + strlen(options[i].name);
    if (!(l->kind->options & options[i].bit))
        return bad_spec(c, l->pair, "this kind of loss has no option ", text);
    if (options[i].bit == OPTION_WEIGHT)
        return read_weight(c, l, value);
    if (!read_number(value, &x))
        return bad_spec(c, l->pair, "not a number: ", value);
    if (options[i].bit == OPTION_IGNORE) {
        l->has_ignore = true;
        l->ignore = (int64_t)x;
    } else if (options[i].bit == OPTION_AXIS) {
        l->has_axis = true;
        l->axis = (int64_t)x;
    } else {
        l->delta = x;
    }
    return MTBAL_OK;
}

/* The part of `*text` up to the next comma; names may hold colons and slashes, but no commas. */
static const char *next_part(mtbal_arena *arena, const char **text)
{
    size_t n = strcspn(*text, ",");
    const char *part = mtbal_intern_n(arena, *text, n);
    *text += n + ((*text)[n] == ',');
    return part;
}

static mtbal_status read_spec(mtbal_context *c, const mtbal_pair *pair, loss_spec *l)
{
    mtbal_arena *arena = c->model->arena;
    const char *text = strchr(pair->value, ':');
    size_t n = text ? (size_t)(text - pair->value) : 0, i = 0;
    *l = (loss_spec){.pair = pair, .delta = 1};
    if (!text)
        return bad_spec(c, pair, "the kind is missing", "");
    while (i < sizeof kinds / sizeof *kinds &&
           (strlen(kinds[i].name) != n || memcmp(kinds[i].name, pair->value, n)))
        i++;
    if (i == sizeof kinds / sizeof *kinds)
        return bad_spec(c, pair, "there is no such kind of loss", "");
    l->kind = &kinds[i];
    text++;
    const char *pred = next_part(arena, &text);
    l->label_name = next_part(arena, &text);
    if (!pred || !l->label_name)
        return mtbal_no_memory(c->diag);
    if (!*l->label_name)
        return bad_spec(c, pair, "the label is missing", "");
    l->pred = mtbal_value_find(c->graph, pred);
    if (!l->pred)
        return bad_spec(c, pair, "the graph has no value named ", pred);
    if (!mtbal_dtype_is_float(l->pred->type.dtype))
        return bad_spec(c, pair, "a prediction is a float tensor, unlike ", pred);
    while (*text) {
        const char *option = next_part(arena, &text);
        MTBAL_TRY(option ? read_option(c, l, option) : mtbal_no_memory(c->diag));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ predictions and labels */

/* Softmax below cross-entropy, Sigmoid below bce-logits: their operands are the logits. */
static mtbal_status undo(mtbal_context *c, loss_spec *l)
{
    const mtbal_node *def = l->pred->def;
    if (l->kind->undoes < 0 || !def || !mtbal_node_is(def, l->kind->undoes))
        return MTBAL_OK;
    MTBAL_TRY(mtbal_notice_add(
        c, MTBAL_NOTE, "--loss %s: %s comes out of %s; the loss is taken from its operand %s",
        l->pair->name, l->pred->name, def->op, def->in[0]->name));
    if (l->pred->type.rank > 2 && l->kind->classes && !l->has_axis) {
        l->has_axis = true;
        l->axis = mtbal_attr_i(def, "axis", -1);
    }
    l->pred = def->in[0];
    return MTBAL_OK;
}

/* Classes lie along axis 1 for ONNX's losses: where they lie elsewhere they are brought there. */
static mtbal_status classes_first(mtbal_context *c, mtbal_builder *b, loss_spec *l)
{
    int64_t perm[32], rank = l->pred->type.rank;
    const mtbal_value *label = mtbal_value_find(c->graph, l->label_name);
    if (!l->kind->classes || rank < 3 || rank > 32)
        return MTBAL_OK;
    const mtbal_dim *dims = l->pred->type.dims;
    bool last =
        label && label->type.rank == rank - 1; /* the label's shape is pred's but the last */
    bool second = last;
    for (int i = 1; last && i + 1 < rank; i++) {
        last = mtbal_dim_equal(label->type.dims[i], dims[i]);
        second = second && mtbal_dim_equal(label->type.dims[i], dims[i + 1]);
    }
    int64_t axis = l->has_axis ? l->axis : last && !second ? -1 : 1;
    axis += axis < 0 ? rank : 0;
    if (axis < 1 || axis >= rank)
        return bad_spec(c, l->pair, "the prediction has no such axis of classes", "");
    if (axis == 1)
        return MTBAL_OK;
    for (int64_t i = 0, n = 0; i < rank; i++) {
        if (i == 1)
            perm[n++] = axis;
        if (i != axis)
            perm[n++] = i;
    }
    l->pred = mtbal_emit_transpose(b, l->pred, (int)rank, perm);
    return b->status;
}

/* The label: a value of the graph, or a new graph input of the right type and shape. */
static mtbal_status find_label(mtbal_context *c, mtbal_builder *b, loss_spec *l)
{
    const mtbal_type *t = &l->pred->type;
    l->label = mtbal_value_find(c->graph, l->label_name);
    if (l->label) { /* [N] against [N,1] would be broadcast to [N,N] */
        bool same_rank = l->label->type.rank == t->rank;
        if (!l->kind->classes && t->rank >= 0)
            l->label = mtbal_emit_cast(b, l->label, t->dtype);
        if (!l->kind->classes && l->label && !same_rank)
            l->label = mtbal_emit_reshape_like(b, l->label, l->pred);
        return b->status;
    }
    if (t->rank < 0 || (l->kind->classes && t->rank < 2))
        return bad_spec(c, l->pair, "the shape of the prediction is not known: ", l->pred->name);
    mtbal_value *v = mtbal_value_new(c->graph, l->label_name);
    mtbal_dim *dims = mtbal_arena_array(c->model->arena, (size_t)t->rank, sizeof *dims);
    if (!v || !dims || mtbal_add_input(c->graph, v) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    int rank = 0;
    for (int i = 0; i < t->rank; i++)
        if (!l->kind->classes || i != 1)
            dims[rank++] = t->dims[i];
    v->type = (mtbal_type){MTBAL_TENSOR, l->kind->classes ? MTBAL_INT64 : t->dtype, rank, dims};
    l->label = v;
    return MTBAL_OK;
}

mtbal_status mtbal_pass_losses(mtbal_context *c)
{
    for (int i = 0; i < c->options->nlosses; i++) {
        const mtbal_pair *pair = &c->options->losses[i];
        loss_spec l;
        mtbal_builder b;
        mtbal_pass_builder(c, &b, "mtbal/head/", "loss", pair->name);
        MTBAL_TRY(read_spec(c, pair, &l));
        MTBAL_TRY(undo(c, &l));
        MTBAL_TRY(classes_first(c, &b, &l));
        MTBAL_TRY(find_label(c, &b, &l));
        mtbal_value *loss = l.kind->emit(&b, &l);
        MTBAL_TRY(b.status);
        MTBAL_TRY(mtbal_output_as(c, loss, "mtbal/loss/", pair->name));
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ suggestions */

static bool mentions(const char *name, const char *const *words)
{
    char lower[256];
    size_t n = 0;
    for (; name[n] && n + 1 < sizeof lower; n++)
        lower[n] = (char)tolower((unsigned char)name[n]);
    lower[n] = 0;
    for (; *words; words++)
        if (strstr(lower, *words))
            return true;
    return false;
}

/* The kind of loss that an output looks made for: by what gives it out, its name, its width. */
static const char *guess_kind(const mtbal_value *v)
{
    static const char *const classes[] = {"logit", "class", "cls", "seg", "prob", "label", NULL},
                             *const amounts[] = {"reg", "depth", "box", "score", "value", NULL};
    static const struct producer {
        int op;
        const char *kind;
    } producers[] = {{MTBAL_OP_softmax, "cross-entropy"},
                     {MTBAL_OP_log_softmax, "nll"},
                     {MTBAL_OP_sigmoid, "bce-logits"}};
    for (size_t i = 0; i < sizeof producers / sizeof *producers; i++)
        if (v->def && mtbal_node_is(v->def, producers[i].op))
            return producers[i].kind;
    int64_t width = v->type.rank > 1 ? v->type.dims[1].size : 1;
    if (width > 1 && mentions(v->name, classes))
        return "cross-entropy";
    if (width == 1 && mentions(v->name, classes))
        return "bce-logits";
    return width > 3 && !mentions(v->name, amounts) ? "cross-entropy" : "mse";
}

void mtbal_suggest_losses(const mtbal_context *c, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "give the heads losses:");
    for (int i = 0; i < c->graph->noutputs; i++) {
        const mtbal_value *v = c->graph->outputs[i];
        char line[400];
        bool plain = strcspn(v->name, "' \"$`\\,()&;|<>*?!#~") == strlen(v->name);
        if (!mtbal_dtype_is_float(v->type.dtype) || v->is_input || strchr(v->name, ','))
            continue;
        int used = snprintf(line, sizeof line, " --loss %s%s=%s:%s,%s_label%s", plain ? "" : "'",
                            v->name, guess_kind(v), v->name, v->name, plain ? "" : "'");
        bool whole = used > 0 && (size_t)used < sizeof line && n + (size_t)used < size;
        if (whole) /* a line that is cut off is of no use */
            n += (size_t)snprintf(text + n, size - n, "%s", line);
    }
}
