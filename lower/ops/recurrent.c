/* lower/ops/recurrent.c: RNN, GRU and LSTM. The products with the inputs are one MatMul for all
 * steps. What is left is one call of a kernel (steps.c) where there is one for the activations;
 * else it is written out step by step. */
#include "lower/ops/expand.h"

#include <string.h>

enum { MAX_STEPS = 2000 };

typedef struct layer {
    expansion *e;
    mtbal_builder *b;
    int gates, direction; /* direction: index along the first axis of W */
    bool backward, input_forget, linear_before_reset, kernel;
    int64_t steps, batch, width, hidden;
    double clip;                     /* 0: none */
    mtbal_value *x;                  /* (S, B, I), in the order of the steps */
    mtbal_value *xw, *r, *rb, *lens; /* X W^T + Wb (S, B, G H); R^T; Rb or NULL */
    mtbal_value *p, *peephole[3];    /* (3 H); (H) each; or NULL */
    mtbal_value *h, *c;              /* (B, H) */
    mtbal_activation act[3];
} layer;

/* ------------------------------------------------------------------ activations */

static mtbal_value *affine(mtbal_builder *b, mtbal_value *x, double a, double c)
{
    return ADD(MUL(x, LIKE(x, a)), LIKE(x, c));
}

static mtbal_value *activate(const layer *s, int which, mtbal_value *x)
{
    mtbal_builder *b = s->b;
    const char *name = s->act[which].name;
    double a = s->act[which].alpha, c = s->act[which].beta;
    if (s->clip > 0)
        x = mtbal_emit(b, "Clip", x, LIKE(x, -s->clip), LIKE(x, s->clip));
    if (!x)
        return NULL;
    if (!strcmp(name, "Affine"))
        return affine(b, x, a, c);
    if (!strcmp(name, "ScaledTanh"))
        return MUL(UNARY("Tanh", MUL(x, LIKE(x, c))), LIKE(x, a));
    if (!strcmp(name, "LeakyRelu") || !strcmp(name, "ThresholdedRelu") || !strcmp(name, "Elu"))
        return mtbal_emit_attrs(b, name, 1, &x, "alpha=f", a);
    if (!strcmp(name, "HardSigmoid"))
        return mtbal_emit_attrs(b, name, 1, &x, "alpha=f beta=f", a, c);
    return UNARY(name, x);
}

/* ------------------------------------------------------------------ operands */

/* Slice `direction` of an operand along its first axis, in the given shape. */
static mtbal_value *part(const layer *s, int i, int rank, const int64_t *dims)
{
    mtbal_value *x = expand_in(s->e, i);
    if (!x)
        return NULL;
    return expand_reshape(s->b, expand_slice(s->b, x, 0, s->direction, s->direction + 1), rank,
                          dims);
}

static mtbal_value *zeros(const layer *s)
{
    const int64_t dims[2] = {s->batch, s->hidden};
    return mtbal_const_tensor(s->b,
                              mtbal_tensor_new(s->e->l->model, s->x->type.dtype, 2, dims, NULL));
}

/* The state that one direction starts with; layout 1 has the batch first. */
static mtbal_value *start_state(const layer *s, int i, bool batch_first)
{
    mtbal_value *x = expand_in(s->e, i);
    const int64_t dims[2] = {s->batch, s->hidden};
    if (!x)
        return zeros(s);
    int64_t axis = batch_first ? 1 : 0;
    return expand_reshape(s->b, expand_slice(s->b, x, axis, s->direction, s->direction + 1), 2,
                          dims);
}

/* Steps backwards: of each sequence's own length, where lengths are given. */
static mtbal_value *turned(const layer *s, mtbal_value *x)
{
    const int64_t from = -1, to = INT64_MIN, axis = 0, step = -1;
    mtbal_builder *b = s->b;
    if (s->lens)
        return mtbal_emit_attrs(b, "ReverseSequence", 2,
                                (mtbal_value *[]){x, mtbal_emit_cast(b, s->lens, MTBAL_INT64)},
                                "time_axis=i batch_axis=i", (int64_t)0, (int64_t)1);
    return mtbal_emit(b, "Slice", x, mtbal_const_i64s(b, 1, &from), mtbal_const_i64s(b, 1, &to),
                      mtbal_const_i64s(b, 1, &axis), mtbal_const_i64s(b, 1, &step));
}

static mtbal_value *transposed(mtbal_builder *b, mtbal_value *x)
{
    return x ? mtbal_emit_transpose(b, x, 2, (int64_t[]){1, 0}) : NULL;
}

static void read_weights(layer *s)
{
    mtbal_builder *b = s->b;
    int64_t g = s->gates * s->hidden;
    mtbal_value *w = transposed(b, part(s, 1, 2, (int64_t[]){g, s->width}));
    mtbal_value *r = part(s, 2, 2, (int64_t[]){g, s->hidden});
    s->r = s->kernel ? r : transposed(b, r);
    mtbal_value *x = s->backward ? turned(s, s->x) : s->x, *wb = NULL;
    mtbal_value *bias = part(s, 3, 1, (int64_t[]){2 * g});
    if (bias) {
        wb = expand_slice(b, bias, 0, 0, g);
        s->rb = expand_slice(b, bias, 0, g, 2 * g);
    }
    s->xw = mtbal_emit(b, "MatMul", x, w);
    if (wb)
        s->xw = ADD(s->xw, wb);
    s->p = s->gates == 4 ? part(s, 7, 1, (int64_t[]){3 * s->hidden}) : NULL;
    for (int i = 0; i < 3 && s->p && !s->kernel; i++)
        s->peephole[i] = expand_slice(b, s->p, 0, i * s->hidden, (i + 1) * s->hidden);
}

/* ------------------------------------------------------------------ one step */

static mtbal_value *gate(const layer *s, mtbal_value *all, int i)
{
    return expand_slice(s->b, all, 1, i * s->hidden, (i + 1) * s->hidden);
}

static mtbal_value *seen(const layer *s, mtbal_value *x, int i, mtbal_value *c)
{
    mtbal_builder *b = s->b;
    return s->peephole[i] ? ADD(x, MUL(s->peephole[i], c)) : x;
}

/* Gates i, o, f, c (Hochreiter and Schmidhuber 1997, with the peepholes of Gers 2000). */
static void lstm_step(const layer *s, mtbal_value *x, mtbal_value **h, mtbal_value **c)
{
    mtbal_builder *b = s->b;
    mtbal_value *all = ADD(x, mtbal_emit(b, "MatMul", *h, s->r));
    if (s->rb)
        all = ADD(all, s->rb);
    mtbal_value *i = activate(s, 0, seen(s, gate(s, all, 0), 0, *c));
    mtbal_value *f =
        s->input_forget ? SUB(LIKE(i, 1), i) : activate(s, 0, seen(s, gate(s, all, 2), 2, *c));
    mtbal_value *next = ADD(MUL(f, *c), MUL(i, activate(s, 1, gate(s, all, 3))));
    mtbal_value *o = activate(s, 0, seen(s, gate(s, all, 1), 1, next));
    layer plain = *s;
    plain.clip = 0; /* what is clipped is the input of the gates */
    *h = MUL(o, activate(&plain, 2, next));
    *c = next;
}

/* Gates z, r, h (Cho and others 2014). */
static void gru_step(const layer *s, mtbal_value *x, mtbal_value **h, mtbal_value **c)
{
    mtbal_builder *b = s->b;
    int64_t n = s->hidden;
    mtbal_value *rzr = expand_slice(b, s->r, 1, 0, 2 * n),
                *rh = expand_slice(b, s->r, 1, 2 * n, 3 * n);
    mtbal_value *zr = ADD(expand_slice(b, x, 1, 0, 2 * n), mtbal_emit(b, "MatMul", *h, rzr));
    mtbal_value *rbh = NULL, *inner;
    (void)c;
    if (s->rb) {
        zr = ADD(zr, expand_slice(b, s->rb, 0, 0, 2 * n));
        rbh = expand_slice(b, s->rb, 0, 2 * n, 3 * n);
    }
    mtbal_value *z = activate(s, 0, gate(s, zr, 0)), *r = activate(s, 0, gate(s, zr, 1));
    if (s->linear_before_reset) {
        inner = mtbal_emit(b, "MatMul", *h, rh);
        inner = MUL(r, rbh ? ADD(inner, rbh) : inner);
    } else {
        inner = mtbal_emit(b, "MatMul", MUL(r, *h), rh);
        inner = rbh ? ADD(inner, rbh) : inner;
    }
    mtbal_value *next = activate(s, 1, ADD(expand_slice(b, x, 1, 2 * n, 3 * n), inner));
    *h = ADD(MUL(SUB(LIKE(z, 1), z), next), MUL(z, *h));
}

static void rnn_step(const layer *s, mtbal_value *x, mtbal_value **h, mtbal_value **c)
{
    mtbal_builder *b = s->b;
    mtbal_value *all = ADD(x, mtbal_emit(b, "MatMul", *h, s->r));
    (void)c;
    *h = activate(s, 0, s->rb ? ADD(all, s->rb) : all);
}

typedef void step_fn(const layer *s, mtbal_value *x, mtbal_value **h, mtbal_value **c);

/* All steps of one direction: the outputs (S, 1, B, H) in the order of the input. */
static mtbal_value *run_direction(layer *s, step_fn *step)
{
    mtbal_builder *b = s->b;
    mtbal_value **y = mtbal_arena_array(s->e->l->arena, (size_t)s->steps + 1, sizeof *y);
    const int64_t row[2] = {s->batch, s->gates * s->hidden};
    mtbal_value *all = NULL;
    if (!y)
        return NULL;
    for (int64_t t = 0; t < s->steps; t++) {
        mtbal_value *x = expand_reshape(b, expand_slice(b, s->xw, 0, t, t + 1), 2, row);
        mtbal_value *h = s->h, *c = s->c, *out;
        step(s, x, &h, &c);
        out = h;
        if (s->lens) { /* behind its end a sequence keeps its state and gives 0 */
            mtbal_value *left =
                OP2("Less", mtbal_const_scalar(b, s->lens->type.dtype, (double)t), s->lens);
            mtbal_value *on = expand_reshape(b, left, 2, (int64_t[]){s->batch, 1});
            out = WHERE(on, h, LIKE(h, 0));
            h = WHERE(on, h, s->h);
            c = c ? WHERE(on, c, s->c) : NULL;
        }
        s->h = h;
        s->c = c;
        y[t] = expand_reshape(b, out, 3, (int64_t[]){1, s->batch, s->hidden});
    }
    for (int64_t t = 0; t < s->steps; t += 255) { /* the builder takes 256 operands at a time */
        mtbal_value *in[256];
        int n = 0;
        if (all)
            in[n++] = all;
        for (int64_t k = t; k < s->steps && k < t + 255; k++)
            in[n++] = y[k];
        all = n > 1 ? expand_concat(b, n, in, 0) : in[0];
    }
    if (s->backward)
        all = turned(s, all);
    return expand_reshape(b, all, 4, (int64_t[]){s->steps, 1, s->batch, s->hidden});
}

/* ------------------------------------------------------------------ all steps in a kernel */

static bool has_kernel(const layer *s, int nact)
{
    int dtype = s->x->type.dtype;
    bool common = (dtype == MTBAL_FLOAT || dtype == MTBAL_DOUBLE) && s->clip <= 0 &&
                  !s->input_forget && !s->e->l->options->no_fuse;
    for (int i = 0; i < nact; i++) {
        const char *name = s->act[i].name;
        common =
            common && (!strcmp(name, "Sigmoid") || !strcmp(name, "Tanh") || !strcmp(name, "Relu"));
    }
    return common;
}

/* What the gates get beside X and the state: all of Rb, but for what r is multiplied with. */
static mtbal_value *with_recurrent_bias(const layer *s)
{
    mtbal_builder *b = s->b;
    int64_t n = s->hidden;
    if (!s->rb || !s->linear_before_reset)
        return s->rb ? ADD(s->xw, s->rb) : s->xw;
    mtbal_value *none =
        mtbal_const_tensor(b, mtbal_tensor_new(s->e->l->model, s->x->type.dtype, 1, &n, NULL));
    mtbal_value *in[2] = {expand_slice(b, s->rb, 0, 0, 2 * n), none};
    return ADD(s->xw, expand_concat(b, 2, in, 0));
}

static void set_type(layer *s, mtbal_value *x, int rank, const int64_t *dims)
{
    mtbal_dim *to = mtbal_arena_array(s->e->l->model->arena, (size_t)rank, sizeof *to);
    if (!to)
        s->b->status = MTBAL_NOMEM;
    for (int d = 0; d < rank && to; d++)
        to[d] = mtbal_dim_const(dims[d]);
    if (to && x)
        x->type = (mtbal_type){MTBAL_TENSOR, s->x->type.dtype, rank, to};
}

static mtbal_value *run_kernel(layer *s)
{
    mtbal_builder *b = s->b;
    int64_t n = s->hidden;
    bool linear = s->gates == 3 && s->linear_before_reset;
    const char *op = s->gates == 4 ? "LSTMSteps" : s->gates == 3 ? "GRUSteps" : "RNNSteps";
    mtbal_value *in[6] = {with_recurrent_bias(s), s->r, s->h}, *out[3] = {NULL};
    int nin = 3, nout = s->gates == 4 ? 3 : 2;
    char names[64] = "";
    if (s->gates == 4) {
        in[nin++] = s->c;
        in[nin++] = s->p ? s->p : MTBAL_OMIT;
    } else if (s->gates == 3) {
        in[nin++] = linear && s->rb ? expand_slice(b, s->rb, 0, 2 * n, 3 * n) : MTBAL_OMIT;
    }
    in[nin++] = s->lens ? s->lens : MTBAL_OMIT;
    mtbal_node *node = mtbal_emit_node(b, "mtbal", op, nin, in, nout, out);
    snprintf(names, sizeof names, "%s %s %s", s->act[0].name, s->gates > 1 ? s->act[1].name : "",
             s->gates > 3 ? s->act[2].name : "");
    if (node && mtbal_set_attrs(node, "activations=s linear_before_reset=i", names,
                                (int64_t)linear) != MTBAL_OK)
        b->status = MTBAL_NOMEM;
    mtbal_emit_done(b, node);
    set_type(s, out[0], 3, (int64_t[]){s->steps, s->batch, n});
    for (int i = 1; i < nout; i++)
        set_type(s, out[i], 2, (int64_t[]){s->batch, n});
    s->h = out[1];
    s->c = out[2];
    mtbal_value *y = s->backward ? turned(s, out[0]) : out[0];
    return expand_reshape(b, y, 4, (int64_t[]){s->steps, 1, s->batch, n});
}

/* ------------------------------------------------------------------ the node */

typedef struct results {
    mtbal_value *y[2], *h[2], *c[2];
} results;

/* Directions side by side; layout 1 puts the batch first. */
static void set_outputs(expansion *e, const results *r, int n, bool batch_first)
{
    mtbal_builder *b = e->b;
    mtbal_value *y = n > 1 ? expand_concat(b, n, r->y, 1) : r->y[0];
    mtbal_value *h = n > 1 ? expand_concat(b, n, r->h, 0) : r->h[0];
    mtbal_value *c = !r->c[0] ? NULL : n > 1 ? expand_concat(b, n, r->c, 0) : r->c[0];
    if (batch_first) {
        y = y ? mtbal_emit_transpose(b, y, 4, (int64_t[]){2, 0, 1, 3}) : NULL;
        h = h ? mtbal_emit_transpose(b, h, 3, (int64_t[]){1, 0, 2}) : NULL;
        c = c ? mtbal_emit_transpose(b, c, 3, (int64_t[]){1, 0, 2}) : NULL;
    }
    e->out[0] = y;
    e->out[1] = h;
    e->out[2] = c;
}

static mtbal_status recurrent(expansion *e, int gates, step_fn *step)
{
    mtbal_builder *b = e->b;
    const char *direction = mtbal_attr_s(e->node, "direction", "forward");
    bool batch_first = mtbal_attr_i(e->node, "layout", 0) != 0;
    int n = strcmp(direction, "bidirectional") ? 1 : 2;
    mtbal_value *x = expand_in(e, 0), *r = expand_in(e, 2);
    results all = {{NULL, NULL}, {NULL, NULL}, {NULL, NULL}};
    if (!x || x->type.rank != 3 || !expand_in(e, 1) || !r || r->type.rank != 3 ||
        expand_dim(r, 0) != n || expand_dim(r, 1) != gates * expand_dim(r, 2))
        return MTBAL_OK;
    if (batch_first)
        x = mtbal_emit_transpose(b, x, 3, (int64_t[]){1, 0, 2});
    for (int d = 0; d < n; d++) {
        layer s = {.e = e,
                   .b = b,
                   .gates = gates,
                   .direction = d,
                   .backward = d == 1 || !strcmp(direction, "reverse"),
                   .input_forget = mtbal_attr_i(e->node, "input_forget", 0) != 0,
                   .linear_before_reset = mtbal_attr_i(e->node, "linear_before_reset", 0) != 0,
                   .steps = expand_dim(x, 0),
                   .batch = expand_dim(x, 1),
                   .width = expand_dim(x, 2),
                   .hidden = expand_dim(r, 2),
                   .clip = mtbal_attr_f(e->node, "clip", 0),
                   .x = x,
                   .lens = expand_in(e, 4)};
        int nact = mtbal_rnn_activations(e->node, d, s.act);
        s.kernel = x && has_kernel(&s, nact);
        if (!x || nact < 0 || s.steps < 1 || (s.steps > MAX_STEPS && !s.kernel))
            return MTBAL_OK;
        read_weights(&s);
        s.h = start_state(&s, 5, batch_first);
        s.c = gates == 4 ? start_state(&s, 6, batch_first) : NULL;
        const int64_t state[3] = {1, s.batch, s.hidden};
        all.y[d] = s.kernel ? run_kernel(&s) : run_direction(&s, step);
        all.h[d] = expand_reshape(b, s.h, 3, state);
        all.c[d] = gates == 4 ? expand_reshape(b, s.c, 3, state) : NULL;
    }
    set_outputs(e, &all, n, batch_first);
    return MTBAL_OK;
}

EXPAND(lstm)
{
    return recurrent(e, 4, lstm_step);
}

EXPAND(gru)
{
    return recurrent(e, 3, gru_step);
}

EXPAND(rnn)
{
    return recurrent(e, 1, rnn_step);
}
