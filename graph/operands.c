/* graph/operands.c: does a node have the operands that its op takes? */
#include "graph/internal.h"

#include <ctype.h>
#include <string.h>

static const char *const hint = "see the operator in ONNX's specification; export the model again";

/* One operand of the column: a letter, and what may stand behind it. */
typedef struct slot {
    char letter; /* of its type, small */
    char class;  /* that the type belongs to, or 0 */
    bool required, setting;
    char weight; /* its mark, or 0 */
} slot;

enum { MOST_SLOTS = 32 };
typedef struct signature {
    int count;
    slot slots[MOST_SLOTS];
    char end; /* '+' or '*': more operands like the last, or of any type; else 0 */
} signature;

static void read_signature(const char *text, signature *s)
{
    *s = (signature){0};
    for (const char *p = text; *p; p++)
        if (*p == '[') /* the shape: fit.c */
            p = strchr(p, ']');
        else if (*p == ':')
            s->slots[s->count - 1].class = *++p;
        else if (isalpha((unsigned char)*p))
            s->slots[s->count++] = (slot){.letter = (char)tolower((unsigned char)*p),
                                          .required = isupper((unsigned char)*p) != 0};
        else if (*p == '+' || *p == '*')
            s->end = *p;
        else if (*p == '!')
            s->slots[s->count - 1].setting = true;
        else if (*p == '^' || *p == '~')
            s->slots[s->count - 1].weight = *p;
}

static mtbal_status check_counts(const mtbal_node *node, const mtbal_op *op, const signature *s,
                                 mtbal_diag *diag)
{
    char text[256];
    if (node->nin > s->count && !s->end)
        return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                          "it has %d inputs, and takes %d at most", node->nin, s->count);
    int count = node->nin > s->count ? node->nin : s->count;
    for (int i = 0; i < count; i++)
        if ((i >= s->count || s->slots[i].required) && (i >= node->nin || !node->in[i]))
            return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                              "its input %d is missing", i);
    if (node->nout < op->fewest || node->nout > op->most)
        return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text), hint,
                          "it has %d outputs instead of %d%s", node->nout,
                          node->nout < op->fewest ? op->fewest : op->most,
                          op->fewest == op->most    ? ""
                          : node->nout < op->fewest ? " or more"
                                                    : " or fewer");
    return MTBAL_OK;
}

static const struct type_class {
    char letter;
    const char *name;
} classes[] = {{'f', "of floats"},      {'n', "of numbers"}, {'z', "of integers"},
               {'i', "int32 or int64"}, {'l', "int64"},      {'b', "bool"}};

static bool in_class(mtbal_dtype dtype, char class)
{
    bool whole = dtype != MTBAL_STRING && dtype != MTBAL_BOOL && dtype != MTBAL_COMPLEX64 &&
                 dtype != MTBAL_COMPLEX128;
    switch (class) {
    case 'f':
        return mtbal_dtype_is_float(dtype);
    case 'n':
        return whole;
    case 'z':
        return whole && !mtbal_dtype_is_float(dtype);
    case 'i':
        return dtype == MTBAL_INT32 || dtype == MTBAL_INT64;
    case 'l':
        return dtype == MTBAL_INT64;
    case 'b':
        return dtype == MTBAL_BOOL;
    default:
        return true;
    }
}

static mtbal_status wrong_class(const mtbal_node *node, int i, char class, mtbal_diag *diag)
{
    char text[256];
    const char *name = "";
    for (size_t k = 0; k < sizeof classes / sizeof *classes; k++)
        if (classes[k].letter == class)
            name = classes[k].name;
    return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text),
                      "insert a Cast node, or export the model again",
                      "its operand %d, %.80s, is %s, and must be %s", i, node->in[i]->name,
                      mtbal_dtype_name(node->in[i]->type.dtype), name);
}

/* Inputs of one letter have one type. first[letter]: the first of it whose type is known. */
static mtbal_status check_types(const mtbal_node *node, const signature *s, mtbal_diag *diag)
{
    const mtbal_value *first[26] = {NULL};
    char text[256];
    for (int i = 0; i < node->nin; i++) {
        const mtbal_value *v = node->in[i];
        if (!v || v->type.kind != MTBAL_TENSOR || v->type.dtype == MTBAL_UNDEFINED)
            continue;
        const slot *slot = &s->slots[i < s->count ? i : s->count - 1];
        int letter = slot->letter - 'a';
        if (!in_class(v->type.dtype, slot->class))
            return wrong_class(node, i, slot->class, diag);
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
    const mtbal_op *op = node->opcode >= 0 ? &mtbal_ops[node->opcode] : NULL;
    signature s;
    if (!op || !op->operands)
        return MTBAL_OK;
    read_signature(op->operands, &s);
    MTBAL_TRY(check_counts(node, op, &s, diag));
    return s.end == '*' || !types ? MTBAL_OK : check_types(node, &s, diag);
}

/* The operands that `marked` says, a bit each; the last one's bit stands for all behind it. */
static unsigned marked_operands(int opcode, bool (*marked)(const slot *))
{
    signature s;
    unsigned bits = 0;
    if (opcode < 0 || !mtbal_ops[opcode].operands)
        return 0;
    read_signature(mtbal_ops[opcode].operands, &s);
    for (int i = 0; i < s.count; i++)
        if (marked(&s.slots[i]))
            bits |= i == s.count - 1 && s.end ? ~0u << i : 1u << i;
    return bits;
}

static bool is_setting(const slot *s)
{
    return s->setting;
}

static bool is_weight(const slot *s)
{
    return s->weight != 0;
}

static bool is_weight_of_one(const slot *s)
{
    return s->weight == '^';
}

unsigned mtbal_op_settings(int opcode)
{
    return marked_operands(opcode, is_setting);
}

unsigned mtbal_op_weights(int opcode, bool one)
{
    return marked_operands(opcode, one ? is_weight_of_one : is_weight);
}
