/* passes/optimizer.c: the update of the parameters, as nodes. Each is a model-local function of one
 * parameter, so that a runtime may fuse it. Formulas are PyTorch's. */
#include "passes/internal.h"

#include <string.h>

static const char sgd_update[] = "SGDUpdate (p, g, lr) => (next) {\n"
                                 "  l = CastLike (lr, p)\n"
                                 "  d = Mul (l, g)\n"
                                 "  next = Sub (p, d)\n"
                                 "}";
/* m' = mu m + g; p' = p - lr m' */
static const char momentum_update[] = "MomentumUpdate (p, g, m, lr, mu) => (next, next_m) {\n"
                                      "  l = CastLike (lr, p)\n"
                                      "  u = CastLike (mu, p)\n"
                                      "  um = Mul (u, m)\n"
                                      "  next_m = Add (um, g)\n"
                                      "  d = Mul (l, next_m)\n"
                                      "  next = Sub (p, d)\n"
                                      "}";
/* Kingma and Ba 2015, with the bias corrections c1 = 1 - beta1^t, c2 = 1 - beta2^t:
 * m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2; p' = p - lr/c1 m' / (sqrt(v'/c2) + eps) */
#define ADAM_MOMENTS                             \
    "  b1 = CastLike (beta1, p)\n"               \
    "  b2 = CastLike (beta2, p)\n"               \
    "  one0 = Constant <value = float {1}> ()\n" \
    "  one = CastLike (one0, p)\n"               \
    "  a1 = Sub (one, b1)\n"                     \
    "  a2 = Sub (one, b2)\n"                     \
    "  bm = Mul (b1, m)\n"                       \
    "  ag = Mul (a1, g)\n"                       \
    "  next_m = Add (bm, ag)\n"                  \
    "  bv = Mul (b2, v)\n"                       \
    "  gg = Mul (g, g)\n"                        \
    "  agg = Mul (a2, gg)\n"                     \
    "  next_v = Add (bv, agg)\n"                 \
    "  l = CastLike (lr, p)\n"                   \
    "  k1 = CastLike (c1, p)\n"                  \
    "  k2 = CastLike (c2, p)\n"                  \
    "  e = CastLike (eps, p)\n"                  \
    "  vh = Div (next_v, k2)\n"                  \
    "  s = Sqrt (vh)\n"                          \
    "  den = Add (s, e)\n"                       \
    "  rate = Div (l, k1)\n"                     \
    "  rm = Mul (rate, next_m)\n"                \
    "  d = Div (rm, den)\n"
static const char adam_update[] = "AdamUpdate (p, g, m, v, lr, beta1, beta2, eps, c1, c2) => "
                                  "(next, next_m, next_v) {\n" ADAM_MOMENTS "  next = Sub (p, d)\n"
                                  "}";
/* Loshchilov and Hutter 2019: the decay is not part of the gradient: p' = p (1 - lr wd) - ... */
static const char adamw_update[] =
    "AdamWUpdate (p, g, m, v, lr, beta1, beta2, eps, c1, c2, decay) => (next, next_m, next_v) "
    "{\n" ADAM_MOMENTS "  wd = CastLike (decay, p)\n"
    "  lw = Mul (l, wd)\n"
    "  keep = Sub (one, lw)\n"
    "  kp = Mul (keep, p)\n"
    "  next = Sub (kp, d)\n"
    "}";

enum { MAX_COMMON = 8 };

static const struct optimizer {
    const char *name, *function, *text;
    int moments; /* states per parameter */
    bool decays;
    const char *moment_names[2];
    double lr;
} optimizers[] = {
    {"sgd", "SGDUpdate", sgd_update, 0, false, {NULL, NULL}, 0.01},
    {"momentum", "MomentumUpdate", momentum_update, 1, false, {"mtbal/momentum/", NULL}, 0.01},
    {"adam", "AdamUpdate", adam_update, 2, false, {"mtbal/adam_m/", "mtbal/adam_v/"}, 0.001},
    {"adamw", "AdamWUpdate", adamw_update, 2, true, {"mtbal/adam_m/", "mtbal/adam_v/"}, 0.001},
};

/* Into scaled: the gradients, made smaller where their global norm is above the limit (PyTorch's
 * clip_grad_norm_: limit / (norm + 1e-6)). */
static mtbal_status clip(mtbal_context *c, mtbal_builder *b, mtbal_value **scaled)
{
    mtbal_value *sum = NULL;
    mtbal_dtype dtype = mtbal_float_type(c);
    memcpy(scaled, c->gradients, (size_t)c->nparams * sizeof *scaled);
    if (!(c->options->clip > 0))
        return MTBAL_OK;
    mtbal_value *limit = mtbal_hyper(c, "clip", c->options->clip);
    for (int p = 0; p < c->nparams; p++) {
        mtbal_value *g = mtbal_emit_cast(b, c->gradients[p], dtype);
        mtbal_value *square = mtbal_emit_reduce(b, "ReduceSumSquare", g, 0, NULL, false);
        sum = sum ? mtbal_emit(b, "Add", sum, square) : square;
    }
    mtbal_value *norm =
        mtbal_emit(b, "Add", mtbal_emit(b, "Sqrt", sum), mtbal_const_scalar(b, dtype, 1e-6));
    mtbal_value *factor =
        mtbal_emit(b, "Min", mtbal_emit(b, "Div", limit, norm), mtbal_const_scalar(b, dtype, 1));
    for (int p = 0; p < c->nparams; p++)
        scaled[p] = mtbal_emit(b, "Mul", c->gradients[p],
                               mtbal_emit_cast(b, factor, c->params[p].value->type.dtype));
    return b->status;
}

/* 1 - beta^t. */
static mtbal_value *correction(mtbal_context *c, mtbal_builder *b, mtbal_value *beta,
                               mtbal_value *t)
{
    return mtbal_emit(b, "Sub", mtbal_const_scalar(b, mtbal_float_type(c), 1),
                      mtbal_emit(b, "Pow", beta, t));
}

/* lr, then what the optimizer takes besides: into in [MAX_COMMON], their number into n. */
static mtbal_status common_operands(mtbal_context *c, mtbal_builder *b, const struct optimizer *o,
                                    mtbal_value **in, int *n)
{
    static const struct hyper {
        const char *name;
        double value;
    } adam[] = {{"beta1", 0.9}, {"beta2", 0.999}, {"epsilon", 1e-8}};
    mtbal_dtype dtype = mtbal_float_type(c);
    in[(*n)++] = mtbal_hyper(c, "lr", o->lr);
    if (o->moments == 1)
        in[(*n)++] = mtbal_hyper(c, "momentum", 0.9);
    if (o->moments == 2) {
        for (int i = 0; i < 3; i++)
            in[(*n)++] = mtbal_hyper(c, adam[i].name, adam[i].value);
        mtbal_value *step = mtbal_state_new(c, "mtbal/", "step", dtype, 0, NULL, 0);
        mtbal_value *t = mtbal_emit(b, "Add", step, mtbal_const_scalar(b, dtype, 1));
        MTBAL_TRY(mtbal_state_bind(c, step, t));
        in[(*n)++] = correction(c, b, in[1], t);
        in[(*n)++] = correction(c, b, in[2], t);
    }
    if (o->decays)
        in[(*n)++] = mtbal_hyper(c, "weight_decay", 0.01);
    for (int i = 0; i < *n; i++)
        if (!in[i])
            return c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
    return MTBAL_OK;
}

static mtbal_status update(mtbal_context *c, mtbal_builder *b, const struct optimizer *o, int p,
                           mtbal_value *gradient, int ncommon, mtbal_value *const *common)
{
    mtbal_value *in[4 + MAX_COMMON], *out[3], *moments[2], *v = c->params[p].value;
    int n = 0;
    in[n++] = v;
    in[n++] = gradient;
    for (int k = 0; k < o->moments; k++) {
        moments[k] = mtbal_state_new(c, o->moment_names[k], v->name, v->type.dtype, v->tensor->rank,
                                     v->tensor->dims, 0);
        if (!moments[k])
            return c->diag->status ? c->diag->status : mtbal_no_memory(c->diag);
        in[n++] = moments[k];
    }
    for (int k = 0; k < ncommon; k++)
        in[n++] = common[k];
    MTBAL_TRY(mtbal_builder_function(b, o->text));
    mtbal_node *node = mtbal_emit_node(b, "mtbal", o->function, n, in, 1 + o->moments, out);
    mtbal_emit_done(b, node);
    MTBAL_TRY(b->status);
    for (int k = 0; k <= o->moments; k++)
        out[k]->type = v->type;
    MTBAL_TRY(mtbal_state_bind(c, v, out[0]));
    for (int k = 0; k < o->moments; k++)
        MTBAL_TRY(mtbal_state_bind(c, moments[k], out[1 + k]));
    return MTBAL_OK;
}

static mtbal_status optimize(mtbal_context *c, const struct optimizer *o)
{
    mtbal_builder b;
    mtbal_value *common[MAX_COMMON];
    int n = 0;
    mtbal_pass_builder(c, &b, "mtbal/update/", "update", NULL);
    mtbal_value **scaled = mtbal_arena_array(c->model->arena, (size_t)c->nparams, sizeof *scaled);
    if (!scaled)
        return mtbal_no_memory(c->diag);
    MTBAL_TRY(clip(c, &b, scaled));
    MTBAL_TRY(common_operands(c, &b, o, common, &n));
    for (int p = 0; p < c->nparams; p++)
        MTBAL_TRY(update(c, &b, o, p, scaled[p], n, common));
    return b.status;
}

mtbal_status mtbal_pass_optimizer(mtbal_context *c)
{
    bool none = !strcmp(c->options->optimizer, "none");
    size_t i = 0, n = sizeof optimizers / sizeof *optimizers;
    while (i < n && strcmp(optimizers[i].name, c->options->optimizer))
        i++;
    if (i == n && !none)
        return mtbal_fail(c->diag, MTBAL_USAGE, "--optimizer",
                          "choose from sgd, momentum, adam, adamw, none",
                          "there is no optimizer '%s'", c->options->optimizer);
    if (!none)
        MTBAL_TRY(optimize(c, &optimizers[i]));
    for (int p = 0; p < c->nparams && (none || c->options->outputs & MTBAL_OUT_GRADS); p++)
        MTBAL_TRY(mtbal_output_as(c, c->gradients[p], "mtbal/grad/", c->params[p].value->name));
    return MTBAL_OK;
}
