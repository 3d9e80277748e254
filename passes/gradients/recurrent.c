/* passes/gradients/recurrent.c: LSTM, GRU and RNN, backwards through time.
 *
 * With the outputs Y at hand the state before every step is known, so that what goes into the gates
 * is two matrix products over all steps. Only what must run step by step is in the function:
 * cotangents of the gates' inputs, dA. From these the gradients of X, W, R and B are products over
 * all steps again. A layer that runs in reverse is turned around before and after. */
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
    const char *act[3];
    mtbal_value *lens;                    /* (B) or NULL */
    mtbal_value *mask;                    /* (S, B, 1): 1 before a sequence's end; or NULL */
    mtbal_value *x, *w, *r, *bias, *peep; /* (S,B,I) (GH,I) (GH,H) (2,GH) (3H); NULL: none */
    mtbal_value *h0, *c0, *y, *before;    /* (B,H) (B,H) (S,B,H) (S,B,H): state before a step */
    mtbal_value *dy, *dh, *dc;            /* (S,B,H) (B,H) (B,H) */
    mtbal_value *dx, *dw, *dr, *db, *dp;  /* results, of one direction */
    mtbal_value *dh0, *dc0;
} side;

/* ------------------------------------------------------------------ the function's text */

typedef struct text {
    char chars[8000];
    size_t n;
} text;

static void add(text *t, const char *format, ...) MTBAL_PRINTF(2, 3);
static void add(text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->chars + t->n, sizeof t->chars - t->n, format, args);
    va_end(args);
    if (n > 0 && t->n + (size_t)n < sizeof t->chars)
        t->n += (size_t)n;
}

/* `to` = `dy` times the slope of an activation whose result is `y`. */
static void slope(text *t, const char *act, const char *y, const char *dy, const char *to)
{
    if (!strcmp(act, "Relu"))
        add(t, "    %s_s = Sign (%s)\n    %s = Mul (%s, %s_s)\n", to, y, to, dy, to);
    else if (!strcmp(act, "Sigmoid"))
        add(t, "    %s_q = Mul (%s, %s)\n    %s_s = Sub (%s, %s_q)\n    %s = Mul (%s, %s_s)\n", to,
            y, y, to, y, to, to, dy, to);
    else /* Tanh */
        add(t, "    %s_q = Mul (%s, %s)\n    %s_s = Mul (%s, %s_q)\n    %s = Sub (%s, %s_s)\n", to,
            y, y, to, dy, to, to, dy, to);
}

/* The n blocks of the last axis of `from` (S, B, n H), each under its name. */
static void blocks(text *t, const char *from, int n, const char *const *names)
{
    add(t,
        "  split_%s = Constant <value = int64[4] {0, 0, %d, -1}> ()\n"
        "  all_%s = Reshape (%s, split_%s)\n",
        from, n, from, from, from);
    for (int i = 0; i < n; i++)
        add(t,
            "  at_%s = Constant <value = int64 {%d}> ()\n"
            "  %s = Gather <axis = 2> (all_%s, at_%s)\n",
            names[i], i, names[i], from, names[i]);
}

/* Opens the walk from the last step to the first: `results` = Scan over n scanned operands. */
static void walk_back(text *t, const char *results, int n, int nout, const char *head)
{
    add(t, "  %s = Scan <num_scan_inputs = %d, scan_input_directions = [1", results, n);
    for (int i = 1; i < n; i++)
        add(t, ", 1");
    add(t, "], scan_output_directions = [1");
    for (int i = 1; i < nout; i++)
        add(t, ", 1");
    add(t, "], body = back %s {\n", head);
}

/* What a step gives back: behind the end of a sequence nothing happens, and states pass by. */
static void pass_on(text *t, bool masked, const char *out, const char *computed, const char *given)
{
    if (masked)
        add(t, "    %s = Where (on, %s, %s)\n", out, computed, given);
    else
        add(t, "    %s = Identity (%s)\n", out, computed);
}

static void give_cotangent(text *t, bool masked, const char *out, const char *computed)
{
    if (masked)
        add(t, "    %s = Mul (%s, m)\n", out, computed);
    else
        add(t, "    %s = Identity (%s)\n", out, computed);
}

/* Gates i, o, f, g; c = f c' + i g; h = o act(c). Cp, C: cells before and after each step. */
static void lstm_text(text *t, const side *s, const char *name)
{
    static const char *const gates[] = {"ai", "ao", "af", "ag"};
    bool peep = s->peep != NULL, masked = s->mask != NULL;
    const char *f = s->act[0];
    add(t, "%s (dY, dHn, dCn, A, R, C0%s%s) => (dA, dH0, dC0, Cp, C) {\n", name, peep ? ", P" : "",
        masked ? ", M" : "");
    blocks(t, "A", 4, gates);
    if (peep)
        add(t, "  three = Constant <value = int64[2] {3, -1}> ()\n"
               "  p = Reshape (P, three)\n"
               "  pi = Gather <axis = 0> (p, at_ai)\n"
               "  po = Gather <axis = 0> (p, at_ao)\n"
               "  pf = Gather <axis = 0> (p, at_af)\n");
    add(t, "  g = %s (ag)\n", s->act[1]);
    add(t, "  Cn, Cp, C, i, f = Scan <num_scan_inputs = 3, body = cells (c, ti, tf, tg) => "
           "(next, c0, c1, i1, f1) {\n");
    if (peep)
        add(t,
            "    ci = Mul (pi, c)\n    si = Add (ti, ci)\n    i1 = %s (si)\n"
            "    cf = Mul (pf, c)\n    sf = Add (tf, cf)\n    f1 = %s (sf)\n",
            f, f);
    else
        add(t, "    i1 = %s (ti)\n    f1 = %s (tf)\n", f, f);
    add(t, "    kept = Mul (f1, c)\n    new = Mul (i1, tg)\n    next = Add (kept, new)\n"
           "    c0 = Identity (c)\n    c1 = Identity (next)\n  }> (C0, ai, af, g)\n");
    if (peep)
        add(t, "  co = Mul (po, C)\n  so = Add (ao, co)\n  o = %s (so)\n", f);
    else
        add(t, "  o = %s (ao)\n", f);
    add(t, "  t = %s (C)\n", s->act[2]);
    walk_back(t, "dH0, dC0, dA", 7 + masked, 1,
              masked ? "(dh, dc, dy, vi, vo, vf, vg, vt, vc, m) => (ph, pc, da)"
                     : "(dh, dc, dy, vi, vo, vf, vg, vt, vc) => (ph, pc, da)");
    add(t, "    e = Add (dh, dy)\n    eo = Mul (e, vt)\n    et = Mul (e, vo)\n");
    slope(t, f, "vo", "eo", "dao");
    slope(t, s->act[2], "vt", "et", "ec");
    add(t, "    fc = Add (dc, ec)\n");
    if (peep)
        add(t, "    oc = Mul (dao, po)\n    d = Add (fc, oc)\n");
    else
        add(t, "    d = Identity (fc)\n");
    add(t, "    ei = Mul (d, vg)\n    eg = Mul (d, vi)\n    ef = Mul (d, vc)\n");
    slope(t, f, "vi", "ei", "dai");
    slope(t, s->act[1], "vg", "eg", "dag");
    slope(t, f, "vf", "ef", "daf");
    add(t, "    through = Mul (d, vf)\n");
    if (peep)
        add(t, "    ic = Mul (dai, pi)\n    fd = Mul (daf, pf)\n    gates = Add (ic, fd)\n"
               "    before = Add (through, gates)\n");
    else
        add(t, "    before = Identity (through)\n");
    add(t, "    a4 = Concat <axis = -1> (dai, dao, daf, dag)\n    h = MatMul (a4, R)\n");
    if (masked)
        add(t, "    on = Cast <to = 9> (m)\n");
    give_cotangent(t, masked, "da", "a4");
    pass_on(t, masked, "ph", "h", "dh");
    pass_on(t, masked, "pc", "before", "dc");
    add(t, "  }> (dHn, dCn, dY, i, o, f, g, t, Cp%s)\n}", masked ? ", M" : "");
}

/* Gates z, r, n; h = (1 - z) n + z h'. A: what goes into them, but for n's recurrent part when it
 * is multiplied by r: that is Q (linear_before_reset) or R_n (r h') (else). Besides dA: the
 * cotangent of n's recurrent part dN, and what R_n was multiplied with, N. */
static void gru_text(text *t, const side *s, const char *name, bool linear)
{
    static const char *const gates[] = {"az", "ar", "an"};
    bool masked = s->mask != NULL;
    const char *f = s->act[0];
    add(t, "%s (dY, dHn, A, %sHp, R%s) => (dA, dH0, dN, N) {\n", name, linear ? "Q, " : "",
        masked ? ", M" : "");
    blocks(t, "A", 3, gates);
    add(t,
        "  z = %s (az)\n  r = %s (ar)\n"
        "  split = Constant <value = int64[3] {3, -1, 0}> ()\n"
        "  width = Shape (R)\n  last = Constant <value = int64[1] {1}> ()\n"
        "  hidden = Gather <axis = 0> (width, last)\n"
        "  minus = Constant <value = int64[1] {-1}> ()\n"
        "  three = Constant <value = int64[1] {3}> ()\n"
        "  shape = Concat <axis = 0> (three, minus, hidden)\n"
        "  r3 = Reshape (R, shape)\n  Rn = Gather <axis = 0> (r3, at_an)\n"
        "  Rz = Gather <axis = 0> (r3, at_az)\n  Rr = Gather <axis = 0> (r3, at_ar)\n",
        f, f);
    if (linear)
        add(t, "  N = Identity (Hp)\n  rq = Mul (r, Q)\n  sn = Add (an, rq)\n  n = %s (sn)\n",
            s->act[1]);
    else
        add(t,
            "  N = Mul (r, Hp)\n  RnT = Transpose <perm = [1, 0]> (Rn)\n"
            "  rn = MatMul (N, RnT)\n  sn = Add (an, rn)\n  n = %s (sn)\n",
            s->act[1]);
    walk_back(t, "dH0, dA, dN", 6 + masked, 2,
              masked ? "(dh, dy, vz, vr, vn, vh, vq, m) => (ph, da, dn)"
                     : "(dh, dy, vz, vr, vn, vh, vq) => (ph, da, dn)");
    add(t, "    e = Add (dh, dy)\n    far = Sub (vh, vn)\n    ez = Mul (e, far)\n"
           "    ze = Mul (vz, e)\n    en = Sub (e, ze)\n");
    slope(t, f, "vz", "ez", "daz");
    slope(t, s->act[1], "vn", "en", "dan");
    if (linear)
        add(t, "    inner = Mul (dan, vr)\n    er = Mul (dan, vq)\n"
               "    hn = MatMul (inner, Rn)\n");
    else
        add(t, "    inner = Identity (dan)\n    back_n = MatMul (dan, Rn)\n"
               "    er = Mul (back_n, vh)\n    hn = Mul (back_n, vr)\n");
    slope(t, f, "vr", "er", "dar");
    add(t, "    hz = MatMul (daz, Rz)\n    hr = MatMul (dar, Rr)\n    zr = Add (hz, hr)\n"
           "    zrn = Add (zr, hn)\n    h = Add (ze, zrn)\n"
           "    a3 = Concat <axis = -1> (daz, dar, dan)\n");
    if (masked)
        add(t, "    on = Cast <to = 9> (m)\n");
    give_cotangent(t, masked, "da", "a3");
    give_cotangent(t, masked, "dn", "inner");
    pass_on(t, masked, "ph", "h", "dh");
    add(t, "  }> (dHn, dY, z, r, n, Hp, %s%s)\n}", linear ? "Q" : "Hp", masked ? ", M" : "");
}

/* h = act(A), which is Y. */
static void rnn_text(text *t, const side *s, const char *name)
{
    bool masked = s->mask != NULL;
    add(t, "%s (dY, dHn, Y, R%s) => (dA, dH0) {\n", name, masked ? ", M" : "");
    walk_back(t, "dH0, dA", 2 + masked, 1,
              masked ? "(dh, dy, vy, m) => (ph, da)" : "(dh, dy, vy) => (ph, da)");
    add(t, "    e = Add (dh, dy)\n");
    slope(t, s->act[0], "vy", "e", "a");
    add(t, "    h = MatMul (a, R)\n");
    if (masked)
        add(t, "    on = Cast <to = 9> (m)\n");
    give_cotangent(t, masked, "da", "a");
    pass_on(t, masked, "ph", "h", "dh");
    add(t, "  }> (dHn, dY, Y%s)\n}", masked ? ", M" : "");
}

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

static mtbal_value *unsqueeze(mtbal_builder *b, mtbal_value *x, int64_t axis)
{
    return mtbal_emit(b, "Unsqueeze", x, mtbal_const_i64s(b, 1, &axis));
}

static mtbal_value *transposed(mtbal_builder *b, mtbal_value *x)
{
    return mtbal_emit_transpose(b, x, 2, (int64_t[]){1, 0});
}

/* Steps (S, B, ..) the other way round, each sequence within its own length. */
static mtbal_value *turned(const side *s, mtbal_value *x)
{
    mtbal_value *in[2] = {x, s->lens};
    if (!s->backward || !x)
        return x;
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
        b, "Concat", 2, (mtbal_value *[]){unsqueeze(b, s->h0, 0), slice(b, s->y, 0, 0, -1, 1)},
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

static void like(mtbal_value *x, const mtbal_value *y)
{
    if (x && y)
        x->type = y->type;
}

static void call(side *s, const text *t, const char *name, int n, mtbal_value *const *in, int nout,
                 mtbal_value **out)
{
    mtbal_node *node = rule_call(s->g, t->chars, name, n, in, nout, out);
    mtbal_emit_done(s->b, node);
    like(out[0], in[0]); /* (S, B, ..): its rank; the last axis is set by the caller */
    like(out[1], s->h0);
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
    text t = {"", 0};
    char name[128];
    mtbal_value *out[NOUTPUTS], *in[8];
    int n = 6;
    mtbal_value *a = ADD(gate_inputs(s, s->x, s->w, 0), gate_inputs(s, s->before, s->r, 1));
    snprintf(name, sizeof name, "LSTMGrad_%s%s%s%s%s", s->act[0], s->act[1], s->act[2],
             s->peep ? "_peephole" : "", s->mask ? "_lengths" : "");
    lstm_text(&t, s, name);
    memcpy(in, (mtbal_value *[]){s->dy, s->dh, s->dc, a, s->r, s->c0}, 6 * sizeof *in);
    if (s->peep)
        in[n++] = s->peep;
    if (s->mask)
        in[n++] = s->mask;
    call(s, &t, name, n, in, 5, out);
    like(out[0], a);
    like(out[2], s->h0);
    like(out[3], s->y);
    like(out[4], s->y);
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

static void gru_side(side *s, bool linear)
{
    mtbal_builder *b = s->b;
    text t = {"", 0};
    char name[128];
    mtbal_value *out[NOUTPUTS], *in[8];
    int n = 0;
    mtbal_value *a = gate_inputs(s, s->x, s->w, 0);
    mtbal_value *recurrent = gate_inputs(s, s->before, s->r, 1), *q = third(s, recurrent, 2, true);
    mtbal_value *rest = !linear && s->bias ? third(s, pick(s, s->bias, 0, 1), 0, true) : NULL;
    mtbal_value *zr = third(s, recurrent, 2, false), *an = third(s, a, 2, true);
    a = joined(b, ADD(third(s, a, 2, false), zr), rest ? ADD(an, rest) : an, 2);
    snprintf(name, sizeof name, "GRUGrad_%s%s%s%s", s->act[0], s->act[1], linear ? "_linear" : "",
             s->mask ? "_lengths" : "");
    gru_text(&t, s, name, linear);
    in[n++] = s->dy;
    in[n++] = s->dh;
    in[n++] = a;
    if (linear)
        in[n++] = q;
    in[n++] = s->before;
    in[n++] = s->r;
    if (s->mask)
        in[n++] = s->mask;
    call(s, &t, name, n, in, 4, out);
    like(out[0], a);
    like(out[2], s->y);
    like(out[3], s->y);
    s->dh0 = out[1];
    mtbal_value *dzr = third(s, out[0], 2, false);
    mtbal_value *dr =
        s->g->need[2] ? joined(b, product(b, dzr, s->before), product(b, out[2], out[3]), 0) : NULL;
    finish(s, out[0], dr,
           s->bias && s->g->need[3] ? joined(b, sum_steps(b, dzr), sum_steps(b, out[2]), 0) : NULL);
}

static void rnn_side(side *s)
{
    text t = {"", 0};
    char name[128];
    mtbal_value *out[NOUTPUTS], *in[5] = {s->dy, s->dh, s->y, s->r, s->mask};
    snprintf(name, sizeof name, "RNNGrad_%s%s", s->act[0], s->mask ? "_lengths" : "");
    rnn_text(&t, s, name);
    call(s, &t, name, s->mask ? 5 : 4, in, 2, out);
    like(out[0], s->y);
    s->dh0 = out[1];
    finish(s, out[0], s->g->need[2] ? product(s->b, out[0], s->before) : NULL, NULL);
}

/* ------------------------------------------------------------------ the node */

/* Which activations: those of the direction in the attribute, else the usual ones. */
static bool read_activations(side *s, int n, const char *const *usual)
{
    const mtbal_attr *a = mtbal_attr_find(s->g->node, "activations");
    for (int i = 0; i < n; i++) {
        int at = (int)s->direction * n + i;
        const char *act =
            a && a->kind == MTBAL_ATTR_STRINGS && at < a->n ? a->strings[at] : usual[i];
        if (strcmp(act, "Sigmoid") && strcmp(act, "Tanh") && strcmp(act, "Relu"))
            return false;
        s->act[i] = act;
    }
    return true;
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
    mtbal_value *one = unsqueeze(b, first, axis);
    return n > 1 ? joined(b, one, unsqueeze(b, second, axis), axis) : one;
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
            like(all[i], g->x[i]);
        }
}

static mtbal_status recurrent(mtbal_gradient *g, int gates, int nact, const char *const *usual)
{
    const char *direction = mtbal_attr_s(g->node, "direction", "forward");
    bool linear = mtbal_attr_i(g->node, "linear_before_reset", 0) != 0;
    int n = strcmp(direction, "bidirectional") ? 1 : 2;
    side sides[2];
    if (mtbal_attr_f(g->node, "clip", 0) > 0 || mtbal_attr_i(g->node, "input_forget", 0))
        return rule_unsupported(g, "a clip or input_forget");
    if (g->x[2]->type.rank != 3 || g->x[2]->type.dims[2].size < 0)
        return rule_unsupported(g, "recurrent weights of unknown shape");
    MTBAL_TRY(want_y(g));
    for (int d = 0; d < n; d++) {
        side *s = &sides[d];
        *s = (side){.g = g, .b = g->b, .gates = gates, .direction = d};
        s->backward = d == 1 || !strcmp(direction, "reverse");
        s->batch_first = mtbal_attr_i(g->node, "layout", 0) != 0;
        if (!read_activations(s, nact, usual))
            return rule_unsupported(g, "activations other than Sigmoid, Tanh and Relu");
        open_side(s);
        if (gates == 4)
            lstm_side(s);
        else if (gates == 3)
            gru_side(s, linear);
        else
            rnn_side(s);
    }
    set_gradients(g, sides, n);
    return MTBAL_OK;
}

mtbal_status mtbal_rule_lstm(mtbal_gradient *g)
{
    static const char *const usual[] = {"Sigmoid", "Tanh", "Tanh"};
    return recurrent(g, 4, 3, usual);
}

mtbal_status mtbal_rule_gru(mtbal_gradient *g)
{
    static const char *const usual[] = {"Sigmoid", "Tanh"};
    return recurrent(g, 3, 2, usual);
}

mtbal_status mtbal_rule_rnn(mtbal_gradient *g)
{
    static const char *const usual[] = {"Tanh"};
    return recurrent(g, 1, 1, usual);
}
