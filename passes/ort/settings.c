/* passes/ort/settings.c: what of the user's options is the optimizer model's, and what the step
 * graph's. */
#include "passes/ort/ort.h"

#include <stdlib.h>
#include <string.h>

static mtbal_status check_optimizer(const char *optimizer, mtbal_diag *diag)
{
    static const char choice[] = "choose from sgd, adam, adamw, none";
    static const char *const known[] = {"sgd", "adam", "adamw", "none"};
    if (!strcmp(optimizer, "momentum"))
        return mtbal_fail(diag, MTBAL_USAGE, "--optimizer", choice,
                          "ONNX Runtime's training sessions know AdamW and plain SGD, and keep no "
                          "state for SGD: there is no momentum");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(optimizer, known[i]))
            return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_USAGE, "--optimizer", choice, "there is no optimizer '%s'",
                      optimizer);
}

/* Where --set puts the optimizer's own NAME; NULL: it has none of that name. */
static double *attribute(mtbal_ort *ort, const char *name)
{
    const char *optimizer = ort->given->optimizer;
    bool adam = !strncmp(optimizer, "adam", 4);
    const struct {
        const char *name;
        double *value;
        bool has;
    } known[] = {{"lr", &ort->lr, strcmp(optimizer, "none") != 0},
                 {"beta1", &ort->beta1, adam},
                 {"beta2", &ort->beta2, adam},
                 {"epsilon", &ort->epsilon, adam},
                 {"weight_decay", &ort->weight_decay, !strcmp(optimizer, "adamw")}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].has && !strcmp(known[i].name, name))
            return known[i].value;
    return NULL;
}

static mtbal_status set(mtbal_ort *ort, mtbal_pair *rest, const mtbal_pair *given, mtbal_diag *diag)
{
    const char *name = given->name + (strncmp(given->name, "mtbal/", 6) ? 0 : 6);
    bool fed = !strcmp(given->value, "input");
    double *value = attribute(ort, name);
    char *end;
    if (value == &ort->lr && fed) {
        ort->lr_is_input = true;
    } else if (value) {
        *value = strtod(given->value, &end);
        if (end == given->value || *end || !(*value >= 0))
            return mtbal_fail(diag, MTBAL_USAGE, "--set", "write NAME=NUMBER",
                              "%s=%s is no number from 0 on", given->name, given->value);
    } else if (fed) {
        ort->fed[ort->nfed++] = name;
    } else {
        rest[ort->rewrite.nset++] = *given;
    }
    return MTBAL_OK;
}

static mtbal_status split_settings(mtbal_ort *ort, mtbal_model *model, mtbal_diag *diag)
{
    size_t n = (size_t)ort->given->nset;
    mtbal_pair *rest = mtbal_arena_array(model->arena, n, sizeof *rest);
    ort->fed = mtbal_arena_array(model->arena, n, sizeof *ort->fed);
    if (!rest || !ort->fed)
        return mtbal_no_memory(diag);
    ort->rewrite.nset = 0;
    ort->rewrite.set = rest;
    for (size_t i = 0; i < n; i++)
        MTBAL_TRY(set(ort, rest, &ort->given->set[i], diag));
    return MTBAL_OK;
}

mtbal_status mtbal_ort_begin(mtbal_model *model, const mtbal_options *given, mtbal_ort *ort,
                             mtbal_diag *diag)
{
    *ort = (mtbal_ort){.given = given,
                       .rewrite = *given,
                       .lr = -1,
                       .beta1 = 0.9,
                       .beta2 = 0.999,
                       .epsilon = 1e-8,
                       .weight_decay = strcmp(given->optimizer, "adamw") ? 0 : 0.01};
    MTBAL_TRY(check_optimizer(given->optimizer, diag));
    MTBAL_TRY(ort_fit_versions(model, ort, diag));
    MTBAL_TRY(ort_unwind(model, ort, diag));
    ort->rewrite.optimizer = "none";
    ort->rewrite.clip = 0;
    return split_settings(ort, model, diag);
}
