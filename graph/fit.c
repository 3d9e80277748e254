/* graph/fit.c: do the shapes of a node's operands fit each other? The brackets in the operands
 * column of the operator table, whose form is explained at the top of ops.def. What is not known
 * fits. */
#include "graph/internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* What the symbols of a row stand for, from the operands so far: A to Z. */
typedef struct symbols {
    mtbal_dim dim[26];
    bool bound[26];
    const mtbal_dim *run[26]; /* of `A*` */
    int length[26];
    bool run_bound[26];
} symbols;

/* One item of a bracket. */
typedef struct item {
    char name; /* A to Z, or _ for any size; 0: a number alone */
    int64_t factor;
    bool run; /* any number of axes: `*`, or `A*` */
} item;

enum { MOST_ITEMS = 16 };

/* Reads the items of the bracket's text [p, end); their number. */
static int read_items(const char *p, const char *end, item *items)
{
    int n = 0;
    while (p < end && n < MOST_ITEMS) {
        item it = {0, 1, false};
        if (isdigit((unsigned char)*p)) {
            char *after;
            it.factor = strtoll(p, &after, 10);
            p = after;
        }
        if (p < end && (isupper((unsigned char)*p) || *p == '_'))
            it.name = *p++;
        if (p < end && *p == '*') {
            it.run = true;
            p++;
        }
        items[n++] = it;
        p += p < end && *p == ',';
    }
    return n;
}

static bool equal(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a == b;
}

static bool match_dim(symbols *s, const item *it, mtbal_dim dim)
{
    if (it->name == '_')
        return true;
    if (!it->name)
        return equal(dim.size, it->factor);
    int k = it->name - 'A';
    if (s->bound[k] && s->dim[k].size >= 0)
        return equal(dim.size, it->factor * s->dim[k].size);
    if (dim.size >= 0 && dim.size % it->factor)
        return false;
    s->dim[k] = mtbal_dim_const(dim.size < 0 ? -1 : dim.size / it->factor);
    s->bound[k] = true;
    return true;
}

static bool match_run(symbols *s, const item *it, const mtbal_dim *dims, int n)
{
    if (!it->name)
        return true;
    int k = it->name - 'A';
    if (!s->run_bound[k]) {
        s->run[k] = dims;
        s->length[k] = n;
        s->run_bound[k] = true;
        return true;
    }
    bool fits = n == s->length[k];
    for (int i = 0; i < n && fits; i++)
        fits = equal(dims[i].size, s->run[k][i].size);
    return fits;
}

/* The items against the axes: those before the run from the front, those behind it from the end. */
static bool match_items(symbols *s, const item *items, int n, const mtbal_type *type)
{
    int run = 0, behind;
    while (run < n && !items[run].run)
        run++;
    behind = run < n ? n - run - 1 : 0;
    if (run < n ? type->rank < n - 1 : type->rank != n)
        return false;
    for (int i = 0; i < run; i++)
        if (!match_dim(s, &items[i], type->dims[i]))
            return false;
    for (int i = 0; i < behind; i++)
        if (!match_dim(s, &items[n - behind + i], type->dims[type->rank - behind + i]))
            return false;
    return run == n || match_run(s, &items[run], type->dims + run, type->rank - run - behind);
}

/* One number, of any rank. */
static bool match_one(const mtbal_type *type)
{
    for (int i = 0; i < type->rank; i++)
        if (!equal(type->dims[i].size, 1))
            return false;
    return true;
}

/* Broadcasts to the first operand, which keeps its shape. */
static bool match_broadcast(const mtbal_type *type, const mtbal_type *to)
{
    if (to->rank < 0)
        return true;
    for (int i = 1; i <= type->rank && i <= to->rank; i++) {
        int64_t size = type->dims[type->rank - i].size;
        if (size != 1 && !equal(size, to->dims[to->rank - i].size))
            return false;
    }
    return type->rank <= to->rank;
}

static bool match(symbols *s, const char *p, const char *end, const mtbal_type *type,
                  const mtbal_type *first)
{
    item items[MOST_ITEMS];
    if (end - p == 1 && *p == '?')
        return match_one(type);
    if (end - p == 1 && *p == '~')
        return match_broadcast(type, first);
    if (end - p == 1 && *p == '=')
        return first->rank < 0 || (type->rank == first->rank && match_broadcast(type, first) &&
                                   match_broadcast(first, type));
    return match_items(s, items, read_items(p, end, items), type);
}

static void print_shape(const mtbal_type *type, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < type->rank && used + 40 < size; i++) {
        const char *symbol = type->dims[i].symbol;
        if (type->dims[i].size >= 0)
            used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? "," : "",
                                     (long long)type->dims[i].size);
        else
            used += (size_t)snprintf(text + used, size - used, "%s%.20s", i ? "," : "",
                                     symbol ? symbol : "?");
    }
    snprintf(text + used, size - used, "]");
}

/* "C = 5, N = 2" for the symbols in the bracket that are known. */
static void print_symbols(const symbols *s, const char *p, const char *end, char *text, size_t size)
{
    size_t used = 0;
    *text = 0;
    for (; p < end && used + 40 < size; p++) {
        int k = *p - 'A';
        if (k >= 0 && k < 26 && s->bound[k] && s->dim[k].size >= 0)
            used += (size_t)snprintf(text + used, size - used, "%s%c = %lld",
                                     used ? ", " : ", where ", *p, (long long)s->dim[k].size);
    }
}

static mtbal_status misfit(const mtbal_node *node, int index, const symbols *s, const char *p,
                           const char *end, mtbal_diag *diag)
{
    char label[256], shape[200], known[200], wanted[80];
    bool special = end - p == 1;
    print_shape(&node->in[index]->type, shape, sizeof shape);
    print_symbols(s, p, end, known, sizeof known);
    snprintf(wanted, sizeof wanted, "[%.*s]", (int)(end - p), p);
    if (special && *p == '?')
        snprintf(wanted, sizeof wanted, "one number");
    else if (special && (*p == '~' || *p == '='))
        snprintf(wanted, sizeof wanted, "%s operand 0's shape", *p == '=' ? "of" : "broadcast to");
    return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, label),
                      "see the operator in ONNX's specification; export the model again",
                      "its operand %d, %.80s, has the shape %s, and must be %s%s", index,
                      node->in[index]->name, shape, wanted, known);
}

/* Alternatives are tried in turn; the first that fits binds its symbols. */
static mtbal_status check_operand(const mtbal_node *node, int index, symbols *s, const char *p,
                                  const char *end, mtbal_diag *diag)
{
    const mtbal_value *v = node->in[index];
    static const mtbal_type unknown = {.rank = -1};
    const mtbal_type *first = node->in[0] ? &node->in[0]->type : &unknown;
    if (!v || v->type.kind != MTBAL_TENSOR || v->type.rank < 0)
        return MTBAL_OK;
    for (const char *from = p; from <= end;) {
        const char *bar = memchr(from, '|', (size_t)(end - from)), *to = bar ? bar : end;
        symbols trial = *s;
        if (match(&trial, from, to, &v->type, first)) {
            *s = trial;
            return MTBAL_OK;
        }
        from = to + 1;
    }
    return misfit(node, index, s, p, end, diag);
}

mtbal_status graph_check_shapes(const mtbal_node *node, mtbal_diag *diag)
{
    const char *p = node->opcode >= 0 ? mtbal_ops[node->opcode].operands : NULL;
    symbols s = {0};
    for (int index = -1; p && *p; p++) {
        if (*p == ':') { /* a class of types: operands.c */
            p++;
            continue;
        }
        if (isalpha((unsigned char)*p))
            index++;
        if (*p != '[')
            continue;
        const char *end = strchr(p, ']');
        bool last = !strpbrk(end, " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        bool more = last && (strchr(end, '+') || strchr(end, '*'));
        for (int i = index; i < node->nin && (i == index || more); i++)
            MTBAL_TRY(check_operand(node, i, &s, p + 1, end, diag));
        p = end;
    }
    return MTBAL_OK;
}
