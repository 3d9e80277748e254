/* graph/attributes.c: does a node have the attributes that its operator knows? The last column of
 * the operator table, read as it stands; its form is explained at the top of ops.def. */
#include "graph/internal.h"

#include <stdlib.h>
#include <string.h>

/* One entry of the column. */
typedef struct rule {
    const char *name;
    int length; /* of the name */
    char kind;
    const char *values; /* between the parentheses; NULL: any */
    int nvalues;        /* length of that text */
    bool required;
    int64_t since, before; /* opsets; 0: all */
} rule;

/* Reads the entry at `p`; returns what follows it, or NULL at the end of the column. */
static const char *read_rule(const char *p, rule *r)
{
    p += strspn(p, " ");
    *r = (rule){.name = p, .length = (int)strcspn(p, ":")};
    if (!*p)
        return NULL;
    p += r->length + 1;
    r->kind = *p++;
    if (*p == '(') {
        r->values = p + 1;
        r->nvalues = (int)strcspn(p, ")") - 1;
        p += r->nvalues + 2;
    }
    for (; *p && *p != ' ';) {
        char mark = *p++, *end = NULL;
        if (mark == '!')
            r->required = true;
        else if (mark == '@')
            r->since = strtoll(p, &end, 10);
        else
            r->before = strtoll(p, &end, 10);
        p = end ? end : p;
    }
    return p;
}

static bool in_force(const rule *r, int64_t opset)
{
    return !opset || (opset >= r->since && (!r->before || opset < r->before));
}

static char kind_letter(mtbal_attr_kind kind)
{
    static const char letters[] = "?fistgFIS";
    return (size_t)kind < sizeof letters - 1 ? letters[kind] : '?';
}

static const char *kind_name(char letter)
{
    static const struct {
        char letter;
        const char *name;
    } names[] = {{'f', "a float"}, {'i', "an integer"},     {'s', "a string"}, {'t', "a tensor"},
                 {'g', "a graph"}, {'F', "floats"},         {'I', "integers"}, {'S', "strings"},
                 {'p', "a type"},  {'x', "a sparse tensor"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].letter == letter)
            return names[i].name;
    return "of a kind that is not known here";
}

/* ------------------------------------------------------------------ values */

/* Whether the text between `p` and `end`, "3", "0..1" or "1..", holds the number. */
static bool holds_number(const char *p, const char *end, int64_t x)
{
    char *after;
    int64_t least = strtoll(p, &after, 10), most = least;
    if (after + 2 <= end && after[0] == '.' && after[1] == '.') {
        p = after + 2;
        most = p < end ? strtoll(p, &after, 10) : INT64_MAX;
    }
    return x >= least && x <= most;
}

static bool is_listed(const rule *r, const mtbal_attr *a)
{
    const char *p = r->values, *last = p + r->nvalues;
    while (p <= last) {
        const char *end = memchr(p, '|', (size_t)(last - p));
        end = end ? end : last;
        size_t n = (size_t)(end - p);
        if (r->kind == 's' ? a->s_len == n && !memcmp(a->s, p, n) : holds_number(p, end, a->i))
            return true;
        p = end + 1;
    }
    return false;
}

/* ------------------------------------------------------------------ a node */

typedef struct check {
    const mtbal_node *node;
    int64_t opset; /* of the operator's domain; 0: not known */
    mtbal_diag *diag;
} check;

/* The names that the operator takes in this opset, for a message. */
static void list_names(const check *c, char *text, size_t size)
{
    rule r;
    size_t used = 0;
    *text = 0;
    for (const char *p = mtbal_ops[c->node->opcode].attributes; (p = read_rule(p, &r));)
        if (in_force(&r, c->opset) && used + (size_t)r.length + 8 < size)
            used += (size_t)snprintf(text + used, size - used, "%s%.*s", used ? ", " : "", r.length,
                                     r.name);
}

static mtbal_status unknown(const check *c, const mtbal_attr *a, const rule *other)
{
    char label[256], names[400], hint[512];
    list_names(c, names, sizeof names);
    snprintf(hint, sizeof hint, *names ? "it takes: %s" : "it takes no attributes%s", names);
    mtbal_node_label(c->node, label);
    if (!other)
        return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, label, hint,
                          "its attribute %.100s is not known", a->name);
    bool early = c->opset < other->since;
    return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, label, hint,
                      "its attribute %.100s %s opset %lld, and the model has opset %lld", a->name,
                      early ? "came with" : "went with",
                      (long long)(early ? other->since : other->before), (long long)c->opset);
}

static mtbal_status wrong_value(const check *c, const mtbal_attr *a, const rule *r)
{
    char label[256], hint[512], value[128];
    snprintf(hint, sizeof hint, "it may be %.*s", r->nvalues, r->values);
    if (a->kind == MTBAL_ATTR_INT)
        snprintf(value, sizeof value, "%lld", (long long)a->i);
    else
        snprintf(value, sizeof value, "'%.100s'", a->s ? a->s : "");
    return mtbal_fail(c->diag, MTBAL_UNSUPPORTED, mtbal_node_label(c->node, label), hint,
                      "its attribute %s is %s, which is not supported", a->name, value);
}

static mtbal_status check_attribute(const check *c, const mtbal_attr *a)
{
    char label[256];
    rule r, late = {0}, kind = {0};
    for (const char *p = mtbal_ops[c->node->opcode].attributes; (p = read_rule(p, &r));) {
        bool opaque = a->kind == MTBAL_ATTR_OTHER && strchr("px", r.kind);
        if (strncmp(r.name, a->name, (size_t)r.length) != 0 || a->name[r.length])
            continue;
        if (!in_force(&r, c->opset))
            late = r;
        else if (!a->ref && !opaque && kind_letter(a->kind) != r.kind)
            kind = r;
        else
            return a->ref || !r.values || is_listed(&r, a) ? MTBAL_OK : wrong_value(c, a, &r);
    }
    if (!kind.name)
        return unknown(c, a, late.name ? &late : NULL);
    return mtbal_fail(c->diag, MTBAL_INVALID, mtbal_node_label(c->node, label),
                      "export the model again", "its attribute %s must be %s, and is %s", a->name,
                      kind_name(kind.kind), kind_name(kind_letter(a->kind)));
}

mtbal_status graph_check_attributes(const mtbal_node *node, int64_t opset, mtbal_diag *diag)
{
    check c = {node, opset, diag};
    char label[256];
    rule r;
    if (node->opcode < 0)
        return MTBAL_OK;
    for (const mtbal_attr *a = node->attrs; a; a = a->next) {
        for (const mtbal_attr *b = a->next; b; b = b->next)
            if (b->name == a->name)
                return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, label),
                                  "export the model again", "it has two attributes %s", a->name);
        MTBAL_TRY(check_attribute(&c, a));
    }
    for (const char *p = mtbal_ops[node->opcode].attributes; (p = read_rule(p, &r));) {
        char name[64];
        if (!r.required || !in_force(&r, opset) || (!opset && r.before))
            continue;
        snprintf(name, sizeof name, "%.*s", r.length, r.name);
        if (!mtbal_attr_find(node, name))
            return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, label),
                              "export the model again", "its attribute %s is missing", name);
    }
    return MTBAL_OK;
}

void mtbal_drop_attributes(mtbal_node *node, int64_t opset)
{
    rule r;
    if (node->opcode < 0)
        return;
    for (mtbal_attr *a = node->attrs, *next; a; a = next) {
        next = a->next;
        bool gone = false;
        for (const char *p = mtbal_ops[node->opcode].attributes; (p = read_rule(p, &r));)
            if (!strncmp(r.name, a->name, (size_t)r.length) && !a->name[r.length])
                gone = r.before && opset >= r.before;
        if (gone)
            mtbal_attr_remove(node, a->name);
    }
}

/* ------------------------------------------------------------------ versions */

static int64_t first_version(const mtbal_op *op)
{
    return strtoll(op->versions, NULL, 10);
}

static int64_t newest_opset(const char *domain)
{
    int64_t newest = 0;
    for (int i = 0; i < MTBAL_NOPS; i++)
        for (const char *p = mtbal_ops[i].versions; !strcmp(mtbal_ops[i].domain, domain) && *p;) {
            char *end;
            int64_t version = strtoll(p, &end, 10);
            newest = version > newest ? version : newest;
            p = end == p ? p + 1 : end;
        }
    return newest;
}

mtbal_status graph_check_opsets(const mtbal_model *model, int n, const mtbal_opset *opsets,
                                mtbal_diag *diag)
{
    for (int i = 0; i < n; i++) {
        int64_t newest = newest_opset(opsets[i].domain), version = opsets[i].version;
        char hint[96];
        snprintf(hint, sizeof hint, "export the model with opset %lld or below", (long long)newest);
        if (newest && (version > newest || version < 1) && strcmp(opsets[i].domain, "mtbal") != 0)
            return mtbal_fail(diag, MTBAL_UNSUPPORTED, model->path, hint,
                              "the model imports opset %lld of %s; known are 1 to %lld",
                              (long long)version, *opsets[i].domain ? opsets[i].domain : "ai.onnx",
                              (long long)newest);
    }
    return MTBAL_OK;
}

/* An operator is there from its first version on. */
static mtbal_status check_version(const mtbal_node *node, int64_t opset, mtbal_diag *diag)
{
    char label[256];
    if (node->opcode < 0 && !*node->domain &&
        !mtbal_function_find(node->graph->model, node->domain, node->op, node->overload))
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, mtbal_node_label(node, label),
                          "mtbal-rewrite --list-operators lists what is known",
                          "ai.onnx has no operator %.100s that is known here", node->op);
    if (!opset && !*node->domain)
        return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, label),
                          "export the model again, or add the import",
                          "no opset of ai.onnx is imported, so it is not known what %.100s means",
                          node->op);
    if (node->opcode < 0 || !opset || opset >= first_version(&mtbal_ops[node->opcode]))
        return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, label),
                      "export the model with that opset, or a newer one",
                      "%s came with opset %lld, and the model has opset %lld", node->op,
                      (long long)first_version(&mtbal_ops[node->opcode]), (long long)opset);
}

mtbal_status graph_check_known(const mtbal_node *node, const mtbal_function *function,
                               mtbal_diag *diag)
{
    int64_t opset = graph_opset_in(node->graph->model, function, node->domain);
    MTBAL_TRY(check_version(node, opset, diag));
    return graph_check_attributes(node, opset, diag);
}

bool mtbal_node_known_at(const mtbal_node *node, int64_t opset)
{
    return node->opcode < 0 || (strtoll(mtbal_ops[node->opcode].versions, NULL, 10) <= opset &&
                                graph_check_attributes(node, opset, NULL) == MTBAL_OK);
}
