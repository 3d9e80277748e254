/* passes/gradients/recurrent.c: LSTM, GRU and RNN, backwards through time.
 *
 * With the outputs Y at hand the state before every step is known, so that what goes into the gates
 * is two matrix products over all steps. Only what must run step by step is in the function:
 * cotangents of the gates' inputs, dA. From these the gradients of X, W, R and B are products over
 * all steps again. A layer that runs in reverse is turned around before and after. */
#include "passes/gradients/recurrent.h"
#include "passes/gradients/rules.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NOUTPUTS = 6 };

/* One direction: S steps, B sequences, I inputs, H hidden, G gates. */
typedef struct side {
    mtbal_gradient *g;
    mtbal_builder *b;
    int64_t gates, direction; /* direction: index into W, R, B, .. */
    bool backward, batch_first;
    recurrent_form form;
    mtbal_value *lens;                    /* (B) or NULL */
    mtbal_value *mask;                    /* (S, B, 1): 1 before a sequence's end; or NULL */
    mtbal_value *x, *w, *r, *bias, *peep; /* (S,B,I) (GH,I) (GH,H) (2,GH) (3H); NULL: none */
    mtbal_value *h0, *c0, *y, *before;    /* (B,H) (B,H) (S,B,H) (S,B,H): state before a step */
    mtbal_value *dy, *dh, *dc;            /* (S,B,H) (B,H) (B,H) */
    mtbal_value *dx, *dw, *dr, *db, *dp;  /* results, of one direction */
    mtbal_value *dh0, *dc0;
} side;

/* ------------------------------------------------------------------ operands of one direction */

static mtbal_value *pick(const side *s, mtbal_value *x, int64_t axis, int64_t index)
{
    mtbal_value *in[2] = {x, mtbal_const_i64(s->b, index)};
    return x ? mtbal_emit_attrs(s->b, "Gather", 2, in, "axis=i", axis) : NULL;
}

static mtbal_value *slice(mtbal_builder *b, mtbal_value *x, int64_t axis, int64_t from, int64_t to,
                          int64_t step)
{
    return mtbal_emit(b, "Slice", x, mtbal_const_i64s(b, 1, &from), mtbal_const_i64s(b, 1, &to),
                      mtbal_const_i64s(b, 1, &axis), mtbal_const_i64s(b, 1, &step));
}

static mtbal_value *transposed(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_transpose(b, x, 2, (int64_t[]){1, 0});
}

/* Steps (S, B, ..) the other way round, each sequence within its own length. */
static mtbal_value *turned(const side *s, mtbal_value *x)
{
    if (!s->backward || !x)
        return x;
    mtbal_value *in[2] = {x, s->lens ? mtbal_emit_cast(s->b, s->lens, MTBAL_INT64) : NULL};
    if (s->lens)
        return mtbal_emit_attrs(s->b, "ReverseSequence", 2, in, "time_axis=i batch_axis=i",
                                (int64_t)0, (int64_t)1);
    return slice(s->b, x, 0, -1, INT64_MIN, -1);
}

/* (S, B, ..) of an operand that has the batch first in layout 1. */
static mtbal_value *steps_first(const side *s, mtbal_value *x)
{
    return s->batch_first ? mtbal_emit_transpose(s->b, x, 3, (int64_t[]){1, 0, 2}) : x;
}

/* This direction's part of Y or dY: (S, D, B, H), or (B, S, D, H). */
static mtbal_value *part_of_y(const side *s, mtbal_value *y)
{
    return turned(s, steps_first(s, pick(s, y, s->batch_first ? 2 : 1, s->direction)));
}

/* This direction's part of a state (D, B, H), or (B, D, H); zeros where there is none. */
static mtbal_value *part_of_state(const side *s, mtbal_value *state)
{
    return state ? pick(s, state, s->batch_first, s->direction)
                 : mtbal_emit_fill_like(s->b, pick(s, s->y, 0, 0), 0);
}

/* 1 where a step is before its sequence's end. */
static mtbal_value *mask_of(const side *s)
{
    mtbal_builder *b = s->b;
    const int64_t column[3] = {-1, 1, 1}, row[3] = {1, -1, 1};
    mtbal_value *length = pick(s, mtbal_emit(b, "Shape", s->x), 0, 0);
    mtbal_value *step =
        mtbal_emit(b, "Range", mtbal_const_i64(b, 0), length, mtbal_const_i64(b, 1));
    mtbal_value *left =
        mtbal_emit(b, "Less", mtbal_emit_reshape(b, step, mtbal_const_i64s(b, 3, column)),
                   mtbal_emit_reshape(b, s->lens, mtbal_const_i64s(b, 3, row)));
    return mtbal_emit_cast(b, left, s->x->type.dtype);
}

static mtbal_value *operand(const mtbal_gradient *g, int i)
{
    return i < g->nx ? g->x[i] : NULL;
}

static void open_side(side *s)
{
    mtbal_gradient *g = s->g;
    mtbal_builder *b = s->b;
    const int64_t two[2] = {2, -1};
    mtbal_value *bias = pick(s, operand(g, 3), 0, s->direction), *lens = operand(g, 4);
    s->lens = lens ? mtbal_emit_cast(b, lens, MTBAL_INT64) : NULL;
    s->x = turned(s, steps_first(s, g->x[0]));
    s->w = pick(s, g->x[1], 0, s->direction);
    s->r = pick(s, g->x[2], 0, s->direction);
    s->bias = bias ? mtbal_emit_reshape(b, bias, mtbal_const_i64s(b, 2, two)) : NULL;
    s->peep = s->gates == 4 ? pick(s, operand(g, 7), 0, s->direction) : NULL;
    s->y = part_of_y(s, g->y[0]);
    s->mask = lens ? mask_of(s) : NULL;
    s->h0 = part_of_state(s, operand(g, 5));
    s->c0 = s->gates == 4 ? part_of_state(s, operand(g, 6)) : NULL;
    s->dy = g->dy[0] ? part_of_y(s, g->dy[0]) : mtbal_emit_fill_like(b, s->y, 0);
    s->dh = part_of_state(s, g->ny > 1 ? g->dy[1] : NULL);
    s->dc = s->gates == 4 ? part_of_state(s, g->ny > 2 ? g->dy[2] : NULL) : NULL;
    s->before = mtbal_emit_attrs(
        b, "Concat", 2, (mtbal_value *[]){rule_unsqueeze(b, s->h0, 0), slice(b, s->y, 0, 0, -1, 1)},
        "axis=i", (int64_t)0);
}

/* ------------------------------------------------------------------ results of one direction */

/* (S, B, N) as (S B, N). */
static mtbal_value *rows(mtbal_builder *b, mtbal_value *x)
{
    const int64_t minus = -1, two = 2;
    if (!x)
        return NULL;
    mtbal_value *n =
        x->type.rank == 3 && x->type.dims[2].size >= 0
            ? mtbal_const_i64s(b, 1, &x->type.dims[2].size)
            : mtbal_emit(b, "Gather", mtbal_emit(b, "Shape", x), mtbal_const_i64s(b, 1, &two));
    mtbal_value *in[2] = {mtbal_const_i64s(b, 1, &minus), n};
    return mtbal_emit_reshape(b, x, mtbal_emit_attrs(b, "Concat", 2, in, "axis=i", (int64_t)0));
}

/* da^T x, summed over steps and sequences. */
static mtbal_value *product(mtbal_builder *b, mtbal_value *da, mtbal_value *x)
{
    return mtbal_emit(b, "MatMul", transposed(b, rows(b, da)), rows(b, x));
}

static mtbal_value *sum_steps(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_reduce(b, "ReduceSum", x, 2, (int64_t[]){0, 1}, false);
}

static mtbal_value *joined(mtbal_builder *b, mtbal_value *x, mtbal_value *y, int64_t axis)
{
    return mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){x, y}, "axis=i", axis);
}

/* What the gates get from X and the state before. */
static mtbal_value *gate_inputs(const side *s, mtbal_value *x, mtbal_value *w, int which)
{
    mtbal_value *a = mtbal_emit(s->b, "MatMul", x, transposed(s->b, w));
    mtbal_builder *b = s->b;
    return s->bias ? ADD(a, pick(s, s->bias, 0, which)) : a;
}

static void append(char *name, size_t size, const char *format, ...) MTBAL_PRINTF(3, 4);
static void append(char *name, size_t size, const char *format, ...)
{
    size_t n = strlen(name);
    va_list args;
    va_start(args, format);
    vsnprintf(name + n, size - n, format, args);
    va_end(args);
}

/* Activations and variant as part of a name. Functions that our runtime has no kernel for have a
 * name that it does not know. */
static void name_of(const side *s, const char *op, char *name, size_t size)
{
    const recurrent_form *f = &s->form;
    snprintf(name, size, "%s%s_", op, f->common ? "" : "Any");
    for (int i = 0; i < f->nact; i++) {
        append(name, size, "%s", f->act[i].name);
        if (!f->common && (f->act[i].alpha != 0 || f->act[i].beta != 0))
            append(name, size, "%g_%g", f->act[i].alpha, f->act[i].beta);
    }
    if (f->clip > 0)
        append(name, size, "_clip%g", f->clip);
    append(name, size, "%s%s%s%s", f->input_forget ? "_coupled" : "", f->linear ? "_linear" : "",
           f->peep ? "_peephole" : "", f->masked ? "_lengths" : "");
    for (char *at = name; *at; at++) /* numbers as part of an identifier */
        *at = *at == '.' ? 'p' : *at == '-' ? 'm' : *at == '+' ? '_' : *at;
}

typedef void body_fn(recurrent_text *t, const recurrent_form *form, const char *name);

static void call(side *s, const char *op, body_fn *body, int n, mtbal_value *const *in, int nout,
                 mtbal_value **out)
{
    recurrent_text t = {"", 0};
    char name[200];
    name_of(s, op, name, sizeof name);
    body(&t, &s->form, name);
    mtbal_node *node = rule_call(s->g, t.chars, name, n, in, nout, out);
    if (node && s->form.common &&
        mtbal_set_attrs(node, "activations=s linear_before_reset=i", s->form.activations,
                        (int64_t)s->form.linear) != MTBAL_OK)
        s->b->status = MTBAL_NOMEM;
    mtbal_emit_done(s->b, node);
    rule_like(out[0], in[0]); /* (S, B, ..): its rank; the last axis is set by the caller */
    rule_like(out[1], s->h0);
}

static void finish(side *s, mtbal_value *da, mtbal_value *dr_of, mtbal_value *recurrent_db)
{
    mtbal_builder *b = s->b;
    const bool *need = s->g->need;
    if (need[0])
        s->dx = turned(s, mtbal_emit(b, "MatMul", da, s->w));
    if (need[1])
        s->dw = product(b, da, s->x);
    if (need[2])
        s->dr = dr_of;
    if (s->bias && need[3]) {
        mtbal_value *db = sum_steps(b, da);
        s->db = joined(b, db, recurrent_db ? recurrent_db : db, 0);
    }
}

static void lstm_side(side *s)
{
    mtbal_builder *b = s->b;
    mtbal_value *out[NOUTPUTS], *in[8];
    int n = 6;
    mtbal_value *a = ADD(gate_inputs(s, s->x, s->w, 0), gate_inputs(s, s->before, s->r, 1));
    memcpy(in, (mtbal_value *[]){s->dy, s->dh, s->dc, a, s->r, s->c0}, 6 * sizeof *in);
    if (s->peep)
        in[n++] = s->peep;
    if (s->mask)
        in[n++] = s->mask;
    call(s, "LSTMGrad", recurrent_lstm_body, n, in, 5, out);
    rule_like(out[0], a);
    rule_like(out[2], s->h0);
    rule_like(out[3], s->y);
    rule_like(out[4], s->y);
    s->dh0 = out[1];
    s->dc0 = out[2];
    finish(s, out[0], s->g->need[2] ? product(b, out[0], s->before) : NULL, NULL);
    if (!s->peep || !s->g->need[7])
        return;
    static const int cell[3] = {3, 4, 3}; /* i and f see the cell before the step, o behind it */
    const int64_t split[4] = {0, 0, 4, -1};
    mtbal_value *each = mtbal_emit_reshape(b, out[0], mtbal_const_i64s(b, 4, split));
    for (int i = 0; i < 3; i++) {
        mtbal_value *dp = sum_steps(b, MUL(pick(s, each, 2, i), out[cell[i]]));
        s->dp = i ? joined(b, s->dp, dp, 0) : dp;
    }
}

/* Two thirds of R, or its last third, along the first axis. */
static mtbal_value *third(const side *s, mtbal_value *x, int64_t axis, bool last)
{
    int64_t h = s->r->type.rank == 2 ? s->r->type.dims[1].size : -1;
    return slice(s->b, x, axis, last ? 2 * h : 0, last ? 3 * h : 2 * h, 1);
}

static void gru_side(side *s)
{
    bool linear = s->form.linear;
    mtbal_builder *b = s->b;
    mtbal_value *out[NOUTPUTS], *in[8];
    int n = 0;
    mtbal_value *a = gate_inputs(s, s->x, s->w, 0);
    mtbal_value *recurrent = gate_inputs(s, s->before, s->r, 1), *q = third(s, recurrent, 2, true);
    mtbal_value *rest = !linear && s->bias ? third(s, pick(s, s->bias, 0, 1), 0, true) : NULL;
    mtbal_value *zr = third(s, recurrent, 2, false), *an = third(s, a, 2, true);
    a = joined(b, ADD(third(s, a, 2, false), zr), rest ? ADD(an, rest) : an, 2);
    in[n++] = s->dy;
    in[n++] = s->dh;
    in[n++] = a;
    if (linear)
        in[n++] = q;
    in[n++] = s->before;
    in[n++] = s->r;
    if (s->mask)
        in[n++] = s->mask;
    call(s, "GRUGrad", recurrent_gru_body, n, in, 4, out);
    rule_like(out[0], a);
    rule_like(out[2], s->y);
    rule_like(out[3], s->y);
    s->dh0 = out[1];
    mtbal_value *dzr = third(s, out[0], 2, false);
    mtbal_value *dr =
        s->g->need[2] ? joined(b, product(b, dzr, s->before), product(b, out[2], out[3]), 0) : NULL;
    finish(s, out[0], dr,
           s->bias && s->g->need[3] ? joined(b, sum_steps(b, dzr), sum_steps(b, out[2]), 0) : NULL);
}

static void rnn_side(side *s)
{
    mtbal_value *out[NOUTPUTS], *in[6] = {s->dy, s->dh, s->y, s->r};
    int n = 4;
    if (s->form.clip > 0)
        in[n++] = mtbal_emit(s->b, "Add", gate_inputs(s, s->x, s->w, 0),
                             gate_inputs(s, s->before, s->r, 1));
    if (s->mask)
        in[n++] = s->mask;
    call(s, "RNNGrad", recurrent_rnn_body, n, in, 2, out);
    rule_like(out[0], s->y);
    s->dh0 = out[1];
    finish(s, out[0], s->g->need[2] ? product(s->b, out[0], s->before) : NULL, NULL);
}

/* ------------------------------------------------------------------ the node */

/* The form of one direction's function; false: an activation without a known slope. */
static bool read_form(side *s)
{
    const mtbal_node *node = s->g->node;
    recurrent_form *f = &s->form;
    f->nact = mtbal_rnn_activations(node, (int)s->direction, f->act);
    f->clip = mtbal_attr_f(node, "clip", 0);
    f->input_forget = s->gates == 4 && mtbal_attr_i(node, "input_forget", 0) != 0;
    f->linear = s->gates == 3 && mtbal_attr_i(node, "linear_before_reset", 0) != 0;
    f->peep = s->peep != NULL;
    f->masked = s->mask != NULL;
    f->common = f->clip <= 0 && !f->input_forget;
    for (int i = 0; i < f->nact; i++) {
        const char *name = f->act[i].name;
        if (!recurrent_has_slope(&f->act[i]))
            return false;
        f->common = f->common &&
                    (!strcmp(name, "Sigmoid") || !strcmp(name, "Tanh") || !strcmp(name, "Relu"));
        append(f->activations, sizeof f->activations, "%s%s", i ? " " : "", name);
    }
    return f->nact > 0;
}

/* The gradient is made of Y: a node that gives only the last state gives it too from now on. */
static mtbal_status want_y(mtbal_gradient *g)
{
    if (g->y[0])
        return MTBAL_OK;
    mtbal_value *y = mtbal_value_new(g->node->graph, NULL);
    if (!y || mtbal_node_set_output(g->node, 0, y) != MTBAL_OK)
        return mtbal_no_memory(g->diag);
    g->y[0] = y;
    return mtbal_infer_node(g->node, g->diag);
}

/* dx of the directions side by side along `axis`. */
static mtbal_value *both(mtbal_builder *b, int n, mtbal_value *first, mtbal_value *second,
                         int64_t axis)
{
    if (!first)
        return NULL;
    mtbal_value *one = rule_unsqueeze(b, first, axis);
    return n > 1 ? joined(b, one, rule_unsqueeze(b, second, axis), axis) : one;
}

static void set_gradients(mtbal_gradient *g, const side *s, int n)
{
    mtbal_builder *b = g->b;
    const side *last = &s[n - 1];
    int64_t state_axis = s->batch_first;
    mtbal_value *all[8] = {NULL};
    if (s->dx)
        all[0] = steps_first(s, n > 1 ? ADD(s[0].dx, last->dx) : s->dx);
    all[1] = both(b, n, s->dw, last->dw, 0);
    all[2] = both(b, n, s->dr, last->dr, 0);
    all[3] = both(b, n, s->db, last->db, 0);
    all[5] = both(b, n, s->dh0, last->dh0, state_axis);
    all[6] = both(b, n, s->dc0, last->dc0, state_axis);
    all[7] = both(b, n, s->dp, last->dp, 0);
    for (int i = 0; i < g->nx && i < 8; i++)
        if (g->need[i] && all[i]) {
            g->dx[i] = all[i];
            rule_like(all[i], g->x[i]);
        }
}

static mtbal_status recurrent(mtbal_gradient *g, int gates)
{
    const char *direction = mtbal_attr_s(g->node, "direction", "forward");
    int n = strcmp(direction, "bidirectional") ? 1 : 2;
    side sides[2];
    if (g->x[2]->type.rank != 3 || g->x[2]->type.dims[2].size < 0)
        return rule_unsupported(g, "recurrent weights of unknown shape");
    MTBAL_TRY(want_y(g));
    for (int d = 0; d < n; d++) {
        side *s = &sides[d];
        *s = (side){.g = g, .b = g->b, .gates = gates, .direction = d};
        s->backward = d == 1 || !strcmp(direction, "reverse");
        s->batch_first = mtbal_attr_i(g->node, "layout", 0) != 0;
        open_side(s);
        if (!read_form(s))
            return rule_unsupported(g, "an activation whose slope is not a function of its result");
        if (gates == 4)
            lstm_side(s);
        else if (gates == 3)
            gru_side(s);
        else
            rnn_side(s);
    }
    set_gradients(g, sides, n);
    return MTBAL_OK;
}

mtbal_status mtbal_rule_lstm(mtbal_gradient *g)
{
    return recurrent(g, 4);
}

mtbal_status mtbal_rule_gru(mtbal_gradient *g)
{
    return recurrent(g, 3);
}

mtbal_status mtbal_rule_rnn(mtbal_gradient *g)
{
    return recurrent(g, 1);
}
