/* passes/ort/optimizer.c: the optimizer model: names, order and types of its inputs are fixed, one
 * optimizer node, `updated` its first output. Other nodes may stand around it: they make the
 * learning rate and clip. */
#include "passes/ort/ort.h"

#include <assert.h>
#include <string.h>

static const double session_lr = 0.001; /* what sessions begin with; onnxruntime-web's stay there */

static const char head[] =
    "<ir_version: 8, opset_import: [\"\" : 14, \"com.microsoft\" : 1], producer_name: \"mtbal\">\n"
    "optimizer (float[1] learning_rate, int64[1] step, seq(float[]) params,\n"
    "  seq(float[]) gradients, seq(float[]) first_order_moments%s) => (bool[] updated) {\n";

/* The rate that was set when the model was made, where the session's own is what it begins with. */
static const char set_rate[] = "  factor = Constant <value = float {%.9e}> ()\n"
                               "  rate = Mul (learning_rate, factor)\n";

/* The rate that was fed last: of all parameters the one whose rank is %d. In units of what sessions
 * begin with, so that a session's own rate still counts. */
static const char fed_rate[] =
    "  count = SequenceLength (params)\n"
    "  more = Constant <value = bool {1}> ()\n"
    "  none = Constant <value = float[1] {0}> ()\n"
    "  fed = Loop (count, more, none) <body = find (int64 i, bool before, float[1] last)\n"
    "      => (bool other, float[1] next) {\n"
    "    wanted = Constant <value = int64 {%d}> ()\n"
    "    one = Constant <value = int64[1] {1}> ()\n"
    "    p = SequenceAt (params, i)\n"
    "    shape = Shape (p)\n"
    "    rank = Size (shape)\n"
    "    found = Equal (rank, wanted)\n"
    "    next = If (found) <\n"
    "      then_branch = take () => (float[1] x) { x = Reshape (p, one) },\n"
    "      else_branch = keep () => (float[1] y) { y = Identity (last) }>\n"
    "    other = Not (found)\n"
    "  }>\n"
    "  default = Constant <value = float {%.9e}> ()\n"
    "  unit = Div (learning_rate, default)\n"
    "  rate = Mul (unit, fed)\n";

static const char clip[] =
    "  clipped = com.microsoft.InplaceClipGradNorm <max_norm = %.9e> (gradients)\n";

/* adam_mode 0: PyTorch's formula. */
static const char adamw[] =
    "  updated = com.microsoft.AdamWOptimizer <alpha = %.9e, beta = %.9e, epsilon = %.9e,\n"
    "    weight_decay = %.9e, adam_mode = 0, correct_bias = 1>\n"
    "    (%s, step, params, %s, first_order_moments, second_order_moments)\n}\n";

static const char sgd[] = "  updated = com.microsoft.SGDOptimizerV2 (%s, params, %s)\n}\n";

typedef struct text {
    char bytes[4096];
    size_t used;
} text;

static MTBAL_PRINTF(2, 3) void put(text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->bytes + t->used, sizeof t->bytes - t->used, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof t->bytes - t->used);
    t->used += (size_t)n;
}

mtbal_status mtbal_ort_optimizer(const mtbal_ort *ort, mtbal_model **model, mtbal_diag *diag)
{
    const char *optimizer = ort->given->optimizer;
    bool adam = !strncmp(optimizer, "adam", 4), clips = ort->given->clip > 0;
    bool own_rate = !ort->lr_is_input && ort->lr < 0;
    const char *rate = own_rate ? "learning_rate" : "rate";
    const char *gradients = clips ? "clipped" : "gradients";
    text t = {.used = 0};
    *model = NULL;
    if (!strcmp(optimizer, "none"))
        return MTBAL_OK;
    put(&t, head, adam ? ", seq(float[]) second_order_moments" : "");
    if (ort->lr_is_input)
        put(&t, fed_rate, ort->fed_lr_rank, session_lr);
    else if (!own_rate)
        put(&t, set_rate, ort->lr / session_lr);
    if (clips)
        put(&t, clip, ort->given->clip);
    if (adam)
        put(&t, adamw, ort->beta1, ort->beta2, ort->epsilon, ort->weight_decay, rate, gradients);
    else
        put(&t, sgd, rate, gradients);
    *model = mtbal_parse_model(t.bytes, diag);
    return *model ? MTBAL_OK : diag->status;
}
