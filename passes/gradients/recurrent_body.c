/* passes/gradients/recurrent_body.c: the functions that LSTM, GRU and RNN call to run backwards
 * through time, as ONNX text.
 *
 * What does not depend on the cotangents is computed for all steps at once: gates, the slopes of
 * their activations (k_..), and what a cotangent is multiplied with (u_..). Only the walk from the
 * last step to the first is a Scan. */
#include "passes/gradients/recurrent.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(recurrent_text *t, const char *format, ...) MTBAL_PRINTF(2, 3);
static void add(recurrent_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->chars + t->n, sizeof t->chars - t->n, format, args);
    va_end(args);
    if (n > 0 && t->n + (size_t)n < sizeof t->chars)
        t->n += (size_t)n;
}

/* ------------------------------------------------------------------ activations */

static bool is(const mtbal_activation *a, const char *name)
{
    return !strcmp(a->name, name);
}

/* A number of the type of `like`. */
static void number(recurrent_text *t, const char *name, double x, const char *like)
{
    add(t, "  %s_f = Constant <value = float {%.9g}> ()\n  %s = CastLike (%s_f, %s)\n", name, x,
        name, name, like);
}

/* one; high and low, where inputs of gates are clipped; a0, b0, a1, .. of the activations. */
static void numbers(recurrent_text *t, const recurrent_form *f, const char *like)
{
    number(t, "one", 1, like);
    if (f->clip > 0) {
        number(t, "high", f->clip, like);
        add(t, "  low = Neg (high)\n");
    }
    for (int i = 0; i < f->nact && !f->common; i++) {
        char name[16];
        snprintf(name, sizeof name, "a%d", i);
        number(t, name, f->act[i].alpha, like);
        snprintf(name, sizeof name, "b%d", i);
        number(t, name, f->act[i].beta, like);
    }
}

/* `y` = activation `which` of `x`, clipped before if `clip`. */
static void activate(recurrent_text *t, const recurrent_form *f, int which, bool clip,
                     const char *x, const char *y)
{
    const mtbal_activation *a = &f->act[which];
    char clipped[32];
    if (clip && f->clip > 0) {
        snprintf(clipped, sizeof clipped, "%s_in", y);
        add(t, "  %s = Clip (%s, low, high)\n", clipped, x);
        x = clipped;
    }
    if (is(a, "Affine"))
        add(t, "  %s_x = Mul (%s, a%d)\n  %s = Add (%s_x, b%d)\n", y, x, which, y, y, which);
    else if (is(a, "ScaledTanh"))
        add(t, "  %s_x = Mul (%s, b%d)\n  %s_t = Tanh (%s_x)\n  %s = Mul (%s_t, a%d)\n", y, x,
            which, y, y, y, y, which);
    else if (is(a, "HardSigmoid"))
        add(t, "  %s = HardSigmoid <alpha = %.9g, beta = %.9g> (%s)\n", y, a->alpha, a->beta, x);
    else if (is(a, "LeakyRelu") || is(a, "ThresholdedRelu") || is(a, "Elu"))
        add(t, "  %s = %s <alpha = %.9g> (%s)\n", y, a->name, a->alpha, x);
    else
        add(t, "  %s = %s (%s)\n", y, a->name, x);
}

/* The slope of each activation as a function of its result y; %1 stands for y, %2 for the
 * activation's number. */
static const struct {
    const char *name, *text;
} slopes[] = {
    {"Relu", "  k_%1 = Sign (%1)\n"},
    {"Sigmoid", "  %1_q = Mul (%1, %1)\n  k_%1 = Sub (%1, %1_q)\n"},
    {"Tanh", "  %1_q = Mul (%1, %1)\n  k_%1 = Sub (one, %1_q)\n"},
    {"Affine", "  %1_q = Sub (%1, %1)\n  k_%1 = Add (%1_q, a%2)\n"},
    {"ScaledTanh", "  %1_q = Mul (%1, %1)\n  %1_d = Div (%1_q, a%2)\n"
                   "  %1_s = Sub (a%2, %1_d)\n  k_%1 = Mul (%1_s, b%2)\n"},
    {"LeakyRelu", "  %1_z = Sub (one, one)\n  %1_l = Less (%1, %1_z)\n"
                  "  k_%1 = Where (%1_l, a%2, one)\n"},
    {"Elu", "  %1_z = Sub (one, one)\n  %1_l = Less (%1, %1_z)\n  %1_s = Add (%1, a%2)\n"
            "  k_%1 = Where (%1_l, %1_s, one)\n"},
    {"ThresholdedRelu", "  %1_s = Sign (%1)\n  k_%1 = Abs (%1_s)\n"},
    {"HardSigmoid", "  %1_l = Sign (%1)\n  %1_d = Sub (one, %1)\n  %1_h = Sign (%1_d)\n"
                    "  %1_s = Mul (%1_l, %1_h)\n  k_%1 = Mul (%1_s, a%2)\n"},
    {"Softsign", "  %1_m = Abs (%1)\n  %1_d = Sub (one, %1_m)\n  k_%1 = Mul (%1_d, %1_d)\n"},
    {"Softplus", "  %1_n = Neg (%1)\n  %1_e = Exp (%1_n)\n  k_%1 = Sub (one, %1_e)\n"},
};

static void slope(recurrent_text *t, const recurrent_form *f, int which, const char *y)
{
    for (size_t i = 0; i < sizeof slopes / sizeof *slopes; i++)
        for (const char *at = is(&f->act[which], slopes[i].name) ? slopes[i].text : ""; *at; at++) {
            if (*at != '%')
                add(t, "%c", *at);
            else if (*++at == '1')
                add(t, "%s", y);
            else
                add(t, "%d", which);
        }
}

bool recurrent_has_slope(const mtbal_activation *a)
{
    bool known = false;
    for (size_t i = 0; i < sizeof slopes / sizeof *slopes; i++)
        known = known || is(a, slopes[i].name);
    /* from the result alone it is known only where that tells the sign of the operand */
    bool signs = is(a, "LeakyRelu") || is(a, "Elu") || is(a, "ScaledTanh");
    return known && (!signs || a->alpha > 0);
}

/* `y` and k_`y` of all steps: nothing comes back through what was clipped. */
static void gate(recurrent_text *t, const recurrent_form *f, int which, const char *x,
                 const char *y)
{
    activate(t, f, which, true, x, y);
    slope(t, f, which, y);
    if (f->clip > 0)
        add(t,
            "  %s_abs = Abs (%s)\n  %s_in_range = Less (%s_abs, high)\n"
            "  %s_nil = Sub (one, one)\n  u_%s = Where (%s_in_range, k_%s, %s_nil)\n",
            y, x, y, y, y, y, y, y, y);
    else
        add(t, "  u_%s = Identity (k_%s)\n", y, y);
}

/* ------------------------------------------------------------------ parts of the text */

/* The n blocks of the last axis of `from` (S, B, n H), each under its name. */
static void blocks(recurrent_text *t, const char *from, int n, const char *const *names)
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

/* `to` = `x` `y`, element by element. */
static void mul(recurrent_text *t, const char *to, const char *x, const char *y)
{
    add(t, "  %s = Mul (%s, %s)\n", to, x, y);
}

/* Opens the function; how it runs in our runtime is told by the attributes. */
static void open(recurrent_text *t, const recurrent_form *f, const char *name, const char *operands,
                 const char *results)
{
    add(t, "%s ", name);
    if (f->common)
        add(t, "<activations: string = \"%s\", linear_before_reset: int = %d> ", f->activations,
            f->linear);
    add(t, "(%s%s%s) => (%s) {\n", operands, f->peep ? ", P" : "", f->masked ? ", M" : "", results);
}

/* Opens the walk from the last step to the first: `results` = Scan over n scanned operands. */
static void walk_back(recurrent_text *t, const recurrent_form *f, const char *results, int n,
                      int nout, const char *in, const char *out)
{
    n += f->masked;
    add(t, "  %s = Scan <num_scan_inputs = %d, scan_input_directions = [1", results, n);
    for (int i = 1; i < n; i++)
        add(t, ", 1");
    add(t, "], scan_output_directions = [1");
    for (int i = 1; i < nout; i++)
        add(t, ", 1");
    add(t, "], body = back (%s%s) => (%s) {\n", in, f->masked ? ", m" : "", out);
    if (f->masked)
        add(t, "  on = Cast <to = 9> (m)\n");
}

/* What a step gives back: behind the end of a sequence nothing happens, and states pass by. */
static void pass_on(recurrent_text *t, bool masked, const char *out, const char *computed,
                    const char *given)
{
    if (masked)
        add(t, "  %s = Where (on, %s, %s)\n", out, computed, given);
    else
        add(t, "  %s = Identity (%s)\n", out, computed);
}

static void give_cotangent(recurrent_text *t, bool masked, const char *out, const char *computed)
{
    if (masked)
        mul(t, out, computed, "m");
    else
        add(t, "  %s = Identity (%s)\n", out, computed);
}

static void close(recurrent_text *t, const recurrent_form *f, const char *operands)
{
    add(t, "  }> (%s%s)\n}", operands, f->masked ? ", M" : "");
}

/* ------------------------------------------------------------------ LSTM */

/* Cp, C: cells before and after each step; gates i, f, g of all steps. */
static void cells(recurrent_text *t, const recurrent_form *f)
{
    gate(t, f, 1, "ag", "g");
    if (!f->peep) {
        gate(t, f, 0, "ai", "i");
        if (f->input_forget)
            add(t, "  f = Sub (one, i)\n");
        else
            gate(t, f, 0, "af", "f");
        mul(t, "fresh", "i", "g");
        add(t, "  Cn, Cp, C = Scan <num_scan_inputs = 2, body = cells (c, tf, tu) => (next, c0, "
               "c1) {\n"
               "  kept = Mul (tf, c)\n  next = Add (kept, tu)\n"
               "  c0 = Identity (c)\n  c1 = Identity (next)\n  }> (C0, f, fresh)\n");
        return;
    }
    add(t, "  three = Constant <value = int64[2] {3, -1}> ()\n"
           "  p = Reshape (P, three)\n"
           "  pi = Gather <axis = 0> (p, at_ai)\n"
           "  po = Gather <axis = 0> (p, at_ao)\n"
           "  pf = Gather <axis = 0> (p, at_af)\n"
           "  Cn, Cp, C = Scan <num_scan_inputs = 3, body = cells (c, ti, tf, tg) => (next, c0, "
           "c1) {\n"
           "  ci = Mul (pi, c)\n  wi = Add (ti, ci)\n  cf = Mul (pf, c)\n  wf = Add (tf, cf)\n");
    activate(t, f, 0, true, "wi", "i1");
    if (f->input_forget)
        add(t, "  f1 = Sub (one, i1)\n");
    else
        activate(t, f, 0, true, "wf", "f1");
    add(t, "  kept = Mul (f1, c)\n  new = Mul (i1, tg)\n  next = Add (kept, new)\n"
           "  c0 = Identity (c)\n  c1 = Identity (next)\n  }> (C0, ai, af, g)\n"
           "  Pi = Mul (pi, Cp)\n  si = Add (ai, Pi)\n  Pf = Mul (pf, Cp)\n  sf = Add (af, Pf)\n");
    gate(t, f, 0, "si", "i");
    if (f->input_forget)
        add(t, "  f = Sub (one, i)\n");
    else
        gate(t, f, 0, "sf", "f");
}

/* Gates i, o, f, g; c = f c' + i g; h = o act(c). input_forget: f = 1 - i. */
void recurrent_lstm_body(recurrent_text *t, const recurrent_form *f, const char *name)
{
    static const char *const gates[] = {"ai", "ao", "af", "ag"};
    open(t, f, name, "dY, dHn, dCn, A, R, C0", "dA, dH0, dC0, Cp, C");
    blocks(t, "A", 4, gates);
    numbers(t, f, "A");
    cells(t, f);
    if (f->peep)
        add(t, "  co = Mul (po, C)\n  so = Add (ao, co)\n");
    gate(t, f, 0, f->peep ? "so" : "ao", "o");
    activate(t, f, 2, false, "C", "t");
    slope(t, f, 2, "t");
    mul(t, "Uo", "t", "u_o");
    mul(t, "Uc", "o", "k_t");
    mul(t, "Ug", "i", "u_g");
    if (f->input_forget)
        add(t, "  less = Sub (g, Cp)\n  Ui = Mul (less, u_i)\n  Uf = Sub (f, f)\n");
    else
        add(t, "  Ui = Mul (g, u_i)\n  Uf = Mul (Cp, u_f)\n");
    walk_back(t, f, "dH0, dC0, dA", 7, 1, "dh, dc, dy, vf, vo, vc, vi, vg, vk", "ph, pc, da");
    add(t, "  e = Add (dh, dy)\n  dao = Mul (e, vo)\n  ec = Mul (e, vc)\n  fc = Add (dc, ec)\n");
    if (f->peep)
        add(t, "  oc = Mul (dao, po)\n  d = Add (fc, oc)\n");
    else
        add(t, "  d = Identity (fc)\n");
    add(t, "  dai = Mul (d, vi)\n  dag = Mul (d, vg)\n  daf = Mul (d, vk)\n"
           "  through = Mul (d, vf)\n");
    if (f->peep)
        add(t, "  ic = Mul (dai, pi)\n  fd = Mul (daf, pf)\n  gates = Add (ic, fd)\n"
               "  before = Add (through, gates)\n");
    else
        add(t, "  before = Identity (through)\n");
    add(t, "  a4 = Concat <axis = -1> (dai, dao, daf, dag)\n  h = MatMul (a4, R)\n");
    give_cotangent(t, f->masked, "da", "a4");
    pass_on(t, f->masked, "ph", "h", "dh");
    pass_on(t, f->masked, "pc", "before", "dc");
    close(t, f, "dHn, dCn, dY, f, Uo, Uc, Ui, Ug, Uf");
}

/* ------------------------------------------------------------------ GRU */

/* Gates z, r, n; h = (1 - z) n + z h'. A: what goes into them, but for n's recurrent part when it
 * is multiplied by r: that is Q (linear_before_reset) or R_n (r h') (else). Besides dA: the
 * cotangent of n's recurrent part dN, and what R_n was multiplied with, N. */
void recurrent_gru_body(recurrent_text *t, const recurrent_form *f, const char *name)
{
    static const char *const gates[] = {"az", "ar", "an"};
    open(t, f, name, f->linear ? "dY, dHn, A, Q, Hp, R" : "dY, dHn, A, Hp, R", "dA, dH0, dN, N");
    blocks(t, "A", 3, gates);
    numbers(t, f, "A");
    gate(t, f, 0, "az", "z");
    gate(t, f, 0, "ar", "r");
    add(t, "  width = Shape (R)\n  last = Constant <value = int64[1] {1}> ()\n"
           "  hidden = Gather <axis = 0> (width, last)\n"
           "  minus = Constant <value = int64[1] {-1}> ()\n"
           "  three = Constant <value = int64[1] {3}> ()\n"
           "  shape = Concat <axis = 0> (three, minus, hidden)\n"
           "  r3 = Reshape (R, shape)\n  Rn = Gather <axis = 0> (r3, at_an)\n"
           "  Rz = Gather <axis = 0> (r3, at_az)\n  Rr = Gather <axis = 0> (r3, at_ar)\n");
    if (f->linear)
        add(t, "  N = Identity (Hp)\n  rq = Mul (r, Q)\n  sn = Add (an, rq)\n");
    else
        add(t, "  N = Mul (r, Hp)\n  RnT = Transpose <perm = [1, 0]> (Rn)\n"
               "  rn = MatMul (N, RnT)\n  sn = Add (an, rn)\n");
    gate(t, f, 1, "sn", "n");
    add(t, "  far = Sub (Hp, n)\n  Uz = Mul (far, u_z)\n  rest = Sub (one, z)\n");
    mul(t, "Un", "rest", "u_n");
    mul(t, "Ur", f->linear ? "Q" : "Hp", "u_r");
    walk_back(t, f, "dH0, dA, dN", 6, 2, "dh, dy, vz, vr, vk, vn, vq", "ph, da, dn");
    add(t, "  e = Add (dh, dy)\n  ze = Mul (vz, e)\n  daz = Mul (e, vk)\n  dan = Mul (e, vn)\n");
    if (f->linear)
        add(t, "  inner = Mul (dan, vr)\n  dar = Mul (dan, vq)\n  hn = MatMul (inner, Rn)\n");
    else
        add(t, "  inner = Identity (dan)\n  back_n = MatMul (dan, Rn)\n"
               "  dar = Mul (back_n, vq)\n  hn = Mul (back_n, vr)\n");
    add(t, "  hz = MatMul (daz, Rz)\n  hr = MatMul (dar, Rr)\n  zr = Add (hz, hr)\n"
           "  zrn = Add (zr, hn)\n  h = Add (ze, zrn)\n"
           "  a3 = Concat <axis = -1> (daz, dar, dan)\n");
    give_cotangent(t, f->masked, "da", "a3");
    give_cotangent(t, f->masked, "dn", "inner");
    pass_on(t, f->masked, "ph", "h", "dh");
    close(t, f, "dHn, dY, z, r, Uz, Un, Ur");
}

/* ------------------------------------------------------------------ RNN */

/* h = act(A), which is Y. A itself is wanted only to see what was clipped. */
void recurrent_rnn_body(recurrent_text *t, const recurrent_form *f, const char *name)
{
    open(t, f, name, f->clip > 0 ? "dY, dHn, Y, R, A" : "dY, dHn, Y, R", "dA, dH0");
    numbers(t, f, "Y");
    slope(t, f, 0, "Y");
    if (f->clip > 0)
        add(t, "  size = Abs (A)\n  in_range = Less (size, high)\n  nil = Sub (one, one)\n"
               "  U = Where (in_range, k_Y, nil)\n");
    else
        add(t, "  U = Identity (k_Y)\n");
    walk_back(t, f, "dH0, dA", 2, 1, "dh, dy, v", "ph, da");
    add(t, "  e = Add (dh, dy)\n  a = Mul (e, v)\n  h = MatMul (a, R)\n");
    give_cotangent(t, f->masked, "da", "a");
    pass_on(t, f->masked, "ph", "h", "dh");
    close(t, f, "dHn, dY, U");
}
