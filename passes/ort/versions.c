/* passes/ort/versions.c: training sessions read opset 21 at most, those of 1.17 opset 20. A newer
 * model is lowered where its operators are the older ones still: most have only got more types. */
#include "passes/ort/ort.h"

#include <string.h>

/* A target, what its sessions read, and the version of their checkpoints. */
static const struct release {
    const char *target, *sessions;
    int64_t opset, ir;
    int checkpoint;
} releases[] = {
    {"ort-training", "1.18 to 1.19.2, the last", 21, 10, 2},
    {"ort-training-1.17", "1.17", 20, 9, 1},
};

enum { NEWEST = 28 }; /* the opset that the table knows */

static const struct release *release_of(const mtbal_ort *ort)
{
    const struct release *r = releases;
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++)
        if (ort->given->target && !strcmp(ort->given->target, releases[i].target))
            r = &releases[i];
    return r;
}

typedef struct search {
    const struct release *release;
    int64_t opset;
    mtbal_diag *diag;
} search;

static mtbal_status too_new(const search *s, const char *where, const char *why)
{
    char hint[64];
    snprintf(hint, sizeof hint, "export the model with an opset from 13 to %d",
             (int)s->release->opset);
    return mtbal_fail(s->diag, MTBAL_UNSUPPORTED, where, hint,
                      "the model has opset %lld; the training sessions of ONNX Runtime (%s) read "
                      "opset %lld and below%s",
                      (long long)s->opset, s->release->sessions, (long long)s->release->opset, why);
}

static mtbal_status check_node(mtbal_node *node, void *context)
{
    const search *s = context;
    char label[256];
    /* before 21 GroupNormalization had scales per group */
    bool other = mtbal_node_is(node, MTBAL_OP_group_normalization) && s->release->opset < 21;
    if (!*node->domain && (other || !mtbal_node_known_at(node, s->release->opset)))
        return too_new(s, mtbal_node_label(node, label), ", where this node is not known");
    return MTBAL_OK;
}

static void lower_opsets(const search *s, mtbal_opset *opsets, int n)
{
    for (int i = 0; i < n; i++)
        if (!*opsets[i].domain && opsets[i].version > s->release->opset)
            opsets[i].version = s->release->opset;
}

mtbal_status ort_fit_versions(mtbal_model *model, mtbal_ort *ort, mtbal_diag *diag)
{
    search s = {release_of(ort), mtbal_opset_of(model, ""), diag};
    ort->checkpoint_version = s.release->checkpoint;
    if (s.opset > NEWEST)
        return too_new(&s, model->path, "");
    if (s.opset > s.release->opset) {
        MTBAL_TRY(mtbal_graph_walk(model->graph, check_node, &s));
        for (int i = 0; i < model->nfunctions; i++) {
            MTBAL_TRY(mtbal_graph_walk(model->functions[i]->body, check_node, &s));
            lower_opsets(&s, model->functions[i]->opsets, model->functions[i]->nopsets);
        }
        lower_opsets(&s, model->opsets, model->nopsets);
    }
    if (model->ir_version > s.release->ir) /* later ones brought types, which these opsets lack */
        model->ir_version = s.release->ir;
    return MTBAL_OK;
}

bool mtbal_is_ort_target(const char *target)
{
    for (size_t i = 0; target && i < sizeof releases / sizeof *releases; i++)
        if (!strcmp(target, releases[i].target))
            return true;
    return false;
}
