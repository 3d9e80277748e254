/* graph/operands.c: does a node have the operands that its op takes? */
#include "graph/internal.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>

enum { ANY = INT_MAX };

typedef struct signature {
    const char *in; /* as in operands.def; NULL: nothing is known */
    int fewest, most;
} signature;

static const signature signatures[MTBAL_NOPS] = {
#define OPERANDS(id, inputs, fewest, most) [MTBAL_OP_##id] = {inputs, fewest, most},
#include "graph/operands.def"
#undef OPERANDS
};

static const char *const hint = "see the operator in ONNX's specification; export the model again";

static mtbal_status check_counts(const mtbal_node *node, const signature *s, int letters, bool more,
                                 mtbal_diag *diag)
{
    char text[256];
    if (node->nin > letters && !more)
        return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                          "it has %d inputs, and takes %d at most", node->nin, letters);
    for (int i = 0; i < letters; i++)
        if (isupper((unsigned char)s->in[i]) && (i >= node->nin || !node->in[i]))
            return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                              "its input %d is missing", i);
    if (node->nout < s->fewest || node->nout > s->most)
        return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                          "it has %d outputs instead of %d%s", node->nout,
                          node->nout < s->fewest ? s->fewest : s->most,
                          s->fewest == s->most     ? ""
                          : node->nout < s->fewest ? " or more"
                                                   : " or fewer");
    return MTBAL_OK;
}

/* Inputs of one letter have one type. first[letter]: the first of it whose type is known. */
static mtbal_status check_types(const mtbal_node *node, const signature *s, int letters,
                                mtbal_diag *diag)
{
    const mtbal_value *first[26] = {NULL};
    char text[256];
    for (int i = 0; i < node->nin; i++) {
        const mtbal_value *v = node->in[i];
        if (!v || v->type.kind != MTBAL_TENSOR || v->type.dtype == MTBAL_UNDEFINED)
            continue;
        int letter = tolower((unsigned char)s->in[i < letters ? i : letters - 1]) - 'a';
        if (!first[letter])
            first[letter] = v;
        else if (first[letter]->type.dtype != v->type.dtype)
            return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text),
                              "insert a Cast node, or export the model again",
                              "its operands %s and %s must have one type, but are %s and %s",
                              first[letter]->name, v->name,
                              mtbal_dtype_name(first[letter]->type.dtype),
                              mtbal_dtype_name(v->type.dtype));
    }
    return MTBAL_OK;
}

mtbal_status graph_check_operands(const mtbal_node *node, bool types, mtbal_diag *diag)
{
    const signature *s = node->opcode >= 0 ? &signatures[node->opcode] : NULL;
    if (!s || !s->in)
        return MTBAL_OK;
    int letters = (int)strcspn(s->in, "+*");
    char end = s->in[letters];
    MTBAL_TRY(check_counts(node, s, letters, end != 0, diag));
    return end == '*' || !types ? MTBAL_OK : check_types(node, s, letters, diag);
}
