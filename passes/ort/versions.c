/* passes/ort/versions.c: the last training sessions read opset 21 and IR version 10. A newer model
 * is lowered where its operators are those of opset 21 still: most have only got more types. */
#include "passes/ort/ort.h"

#include <string.h>

/* What came after opset 21: operators, and attributes of older ones. */
static const struct news {
    const char *op, *attribute; /* NULL: the operator itself */
} news[] = {
    {"Attention", NULL},
    {"BitCast", NULL},
    {"CausalConvWithState", NULL},
    {"CumProd", NULL},
    {"LinearAttention", NULL},
    {"RMSNormalization", NULL},
    {"RotaryEmbedding", NULL},
    {"SwiGLU", NULL},
    {"Swish", NULL},
    {"TensorScatter", NULL},
    {"Cast", "round_mode"},
    {"CastLike", "round_mode"},
    {"DequantizeLinear", "output_dtype"},
    {"QuantizeLinear", "precision"},
    {"Range", "stash_type"},
    {"SpaceToDepth", "mode"},
};

enum { NEWEST = 28 }; /* the opset that the table knows */

static mtbal_status too_new(const char *where, const char *version, int64_t found, int64_t limit,
                            const char *why, mtbal_diag *diag)
{
    return mtbal_fail(diag, MTBAL_UNSUPPORTED, where, "export the model with opset 13 to 21",
                      "the model has %s %lld; the training sessions of ONNX Runtime (1.19.2 is the "
                      "last) read %s %lld and below%s",
                      version, (long long)found, version, (long long)limit, why);
}

typedef struct search {
    int64_t opset;
    mtbal_diag *diag;
} search;

static mtbal_status check_node(mtbal_node *node, void *context)
{
    const search *s = context;
    char label[256];
    for (size_t i = 0; i < sizeof news / sizeof *news; i++)
        if (mtbal_node_is(node, news[i].op) &&
            (!news[i].attribute || mtbal_attr_find(node, news[i].attribute)))
            return too_new(mtbal_node_label(node, label), "opset", s->opset, ORT_MAX_OPSET,
                           ", where this node is not known", s->diag);
    return MTBAL_OK;
}

static void lower_opsets(mtbal_opset *opsets, int n)
{
    for (int i = 0; i < n; i++)
        if (!*opsets[i].domain && opsets[i].version > ORT_MAX_OPSET)
            opsets[i].version = ORT_MAX_OPSET;
}

mtbal_status ort_fit_versions(mtbal_model *model, mtbal_diag *diag)
{
    search s = {mtbal_opset_of(model, ""), diag};
    if (s.opset > NEWEST)
        return too_new(model->path, "opset", s.opset, ORT_MAX_OPSET, "", diag);
    if (s.opset > ORT_MAX_OPSET) {
        MTBAL_TRY(mtbal_graph_walk(model->graph, check_node, &s));
        for (int i = 0; i < model->nfunctions; i++) {
            MTBAL_TRY(mtbal_graph_walk(model->functions[i]->body, check_node, &s));
            lower_opsets(model->functions[i]->opsets, model->functions[i]->nopsets);
        }
        lower_opsets(model->opsets, model->nopsets);
    }
    if (model->ir_version > ORT_MAX_IR) /* later ones brought types, which these opsets lack */
        model->ir_version = ORT_MAX_IR;
    return MTBAL_OK;
}
