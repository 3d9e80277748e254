/* lower/table.c: how each op runs: the `kernel` column of the op list, and the functions of domain
 * mtbal that a kernel stands for. */
#include "lower/lowering.h"

#include <string.h>

#define OP(id, name, domain, shape, gradient, kernel) lower_fn lower_##kernel;
#include "graph/ops.def"
#undef OP
#define lower_none NULL

static lower_fn *const ops[MTBAL_NOPS] = {
#define OP(id, name, domain, shape, gradient, kernel) lower_##kernel,
#include "graph/ops.def"
#undef OP
};

lower_fn lower_conv_grad_x, lower_conv_grad_w, lower_max_pool_grad, lower_softmax_grad,
    lower_layer_norm_grad, lower_batch_norm_grad, lower_class_loss_grad, lower_sgd_update,
    lower_momentum_update, lower_adam_update, lower_gather_grad;

/* By the name up to the first underscore: what follows is the geometry of one variant. */
static const struct {
    const char *name;
    lower_fn *lower;
} functions[] = {
    {"ConvGradX", lower_conv_grad_x},
    {"ConvGradW", lower_conv_grad_w},
    {"MaxPoolGrad", lower_max_pool_grad},
    {"SoftmaxGrad", lower_softmax_grad},
    {"LogSoftmaxGrad", lower_softmax_grad},
    {"LayerNormGrad", lower_layer_norm_grad},
    {"BatchNormGrad", lower_batch_norm_grad},
    {"SoftmaxCrossEntropyLossGrad", lower_class_loss_grad},
    {"NegativeLogLikelihoodLossGrad", lower_class_loss_grad},
    {"SGDUpdate", lower_sgd_update},
    {"MomentumUpdate", lower_momentum_update},
    {"AdamUpdate", lower_adam_update},
    {"AdamWUpdate", lower_adam_update},
    {"GatherGrad", lower_gather_grad},
};

lower_fn *lower_rule(const mtbal_node *node)
{
    if (node->opcode >= 0)
        return ops[node->opcode];
    if (strcmp(node->domain, "mtbal"))
        return NULL;
    size_t length = strcspn(node->op, "_");
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strlen(functions[i].name) == length && !strncmp(functions[i].name, node->op, length))
            return functions[i].lower;
    return NULL;
}

bool mtbal_lowers(int opcode)
{
    static const char *const elaborated[] = {"Constant", "If", "Loop", "Scan", "Shape", "Size"};
    const mtbal_op *op = &mtbal_ops[opcode];
    bool found = ops[opcode] || lower_is_expanded(op);
    for (size_t i = 0; i < sizeof elaborated / sizeof *elaborated; i++)
        found = found || (!*op->domain && !strcmp(op->name, elaborated[i]));
    return found;
}
