/* graph/parse.c: ONNX text -> graph (onnx/docs/Syntax.md): functions and models. Recursive descent
 * over one buffer; the first error sticks. */
#include "graph/graph.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct parser {
    const char *text, *p;
    mtbal_model *model;
    mtbal_diag *diag;
    mtbal_status status;
    const char **names; /* of the present scopes: a stack of pairs */
    mtbal_value **values;
    int nnames, capacity;
} parser;

enum { MAX_LIST = 4096 };

/* ------------------------------------------------------------------ words */

static void *syntax_error(parser *s, const char *wanted)
{
    int line = 1, column = 1;
    char where[64];
    if (s->status != MTBAL_OK)
        return NULL;
    for (const char *q = s->text; q < s->p; q++, column++)
        if (*q == '\n') {
            line++;
            column = 0;
        }
    snprintf(where, sizeof where, "line %d, column %d", line, column);
    s->status = mtbal_fail(s->diag, MTBAL_INVALID, where, "see ONNX's textual syntax",
                           "%s is missing before '%.20s'", wanted, s->p);
    return NULL;
}

static void *no_memory(parser *s)
{
    if (s->status == MTBAL_OK)
        s->status = mtbal_no_memory(s->diag);
    return NULL;
}

static void skip(parser *s)
{
    for (;;) {
        s->p += strspn(s->p, " \t\r\n");
        if (*s->p != '#')
            return;
        s->p += strcspn(s->p, "\n");
    }
}

static bool accept(parser *s, const char *word)
{
    skip(s);
    size_t n = strlen(word);
    if (s->status != MTBAL_OK || strncmp(s->p, word, n))
        return false;
    if (isalpha((unsigned char)*word) && (isalnum((unsigned char)s->p[n]) || s->p[n] == '_'))
        return false;
    s->p += n;
    return true;
}

static bool expect(parser *s, const char *word)
{
    char quoted[32];
    if (accept(s, word))
        return true;
    snprintf(quoted, sizeof quoted, "'%s'", word);
    syntax_error(s, quoted);
    return false;
}

static const char *string(parser *s)
{
    if (!expect(s, "\""))
        return NULL;
    char *buffer =
        mtbal_arena_alloc(s->model->arena, strlen(s->p) < 65536 ? strcspn(s->p, "\n") + 1 : 65536);
    size_t n = 0;
    if (!buffer)
        return no_memory(s);
    while (*s->p && *s->p != '"' && *s->p != '\n' && n < 65000) {
        if (*s->p == '\\' && s->p[1])
            s->p++;
        buffer[n++] = *s->p++;
    }
    if (*s->p != '"')
        return syntax_error(s, "the end of a string");
    s->p++;
    return mtbal_intern_n(s->model->arena, buffer, n);
}

/* An identifier, or a quoted name; NULL without error when there is none. */
static const char *try_name(parser *s)
{
    skip(s);
    if (*s->p == '"')
        return string(s);
    if (!isalpha((unsigned char)*s->p) && *s->p != '_')
        return NULL;
    size_t n = 0;
    while (isalnum((unsigned char)s->p[n]) || s->p[n] == '_')
        n++;
    const char *name = mtbal_intern_n(s->model->arena, s->p, n);
    s->p += n;
    return name ? name : no_memory(s);
}

static const char *name(parser *s)
{
    const char *found = s->status == MTBAL_OK ? try_name(s) : NULL;
    return found ? found : syntax_error(s, "a name");
}

typedef struct number {
    bool is_float;
    double f;
    int64_t i;
} number;

static bool parse_number(parser *s, number *n)
{
    static const struct {
        const char *word;
        double value;
    } words[] = {{"inf", HUGE_VALF}, {"nan", 0}};
    skip(s);
    bool negative = *s->p == '-';
    const char *start = s->p + negative;
    for (size_t i = 0; i < 2; i++)
        if (!strncmp(start, words[i].word, 3)) {
            double value = i ? strtod("nan", NULL) : words[i].value;
            *n = (number){true, negative ? -value : value, 0};
            s->p = start + 3;
            return true;
        }
    size_t length = strspn(s->p, "+-.0123456789eE");
    if (!length || !(isdigit((unsigned char)*start) || *start == '.'))
        return false;
    n->is_float = strcspn(s->p, ".eE") < length;
    n->f = strtod(s->p, NULL);
    n->i = n->is_float ? (int64_t)n->f : strtoll(s->p, NULL, 10);
    s->p += length;
    return true;
}

/* ------------------------------------------------------------------ scopes */

static void declare(parser *s, const char *text, mtbal_value *value)
{
    if (s->nnames == s->capacity) {
        int capacity = s->capacity ? 2 * s->capacity : 64;
        const char **names = mtbal_arena_array(s->model->arena, (size_t)capacity, sizeof *names);
        mtbal_value **values = mtbal_arena_array(s->model->arena, (size_t)capacity, sizeof *values);
        if (!names || !values) {
            no_memory(s);
            return;
        }
        if (s->nnames) {
            memcpy(names, s->names, (size_t)s->nnames * sizeof *names);
            memcpy(values, s->values, (size_t)s->nnames * sizeof *values);
        }
        s->names = names;
        s->values = values;
        s->capacity = capacity;
    }
    s->names[s->nnames] = text;
    s->values[s->nnames++] = value;
}

static mtbal_value *lookup(const parser *s, const char *text)
{
    for (int i = s->nnames - 1; i >= 0; i--)
        if (s->names[i] == text)
            return s->values[i];
    return NULL;
}

/* Within functions names are local: the value's own name may differ from the text's, its identity
 * does not. */
static mtbal_value *new_value(parser *s, mtbal_graph *graph, const char *text)
{
    mtbal_value *value = text ? mtbal_value_new(graph, text) : NULL;
    if (!value)
        return text ? no_memory(s) : NULL;
    declare(s, value->name, value);
    return value;
}

/* ------------------------------------------------------------------ types and tensors */

static bool parse_dims(parser *s, mtbal_type *type)
{
    mtbal_dim dims[32];
    int rank = 0;
    number n;
    if (!accept(s, "["))
        return false;
    while (s->status == MTBAL_OK && !accept(s, "]")) {
        if (rank && !expect(s, ","))
            return false;
        if (rank == 32)
            return syntax_error(s, "a rank of at most 32");
        if (accept(s, "?"))
            dims[rank++] = (mtbal_dim){-1, NULL};
        else if (parse_number(s, &n))
            dims[rank++] = (mtbal_dim){n.i, NULL};
        else
            dims[rank++] = (mtbal_dim){-1, name(s)};
    }
    type->rank = rank;
    type->dims = mtbal_arena_copy(s->model->arena, dims, (size_t)rank * sizeof *dims);
    return type->dims || no_memory(s);
}

/* float[N,3], float[], float (rank 0 in types of values: ONNX text writes scalars as float[] too).
 */
static bool try_type(parser *s, mtbal_type *type)
{
    const char *before = s->p;
    skip(s);
    size_t n = 0;
    char word[24];
    while (isalnum((unsigned char)s->p[n]))
        n++;
    snprintf(word, sizeof word, "%.*s", (int)n, s->p);
    *type = (mtbal_type){MTBAL_TENSOR, mtbal_dtype_parse(word), -1, NULL};
    if (!n || type->dtype == MTBAL_UNDEFINED || s->p[n] == '_') {
        s->p = before;
        return false;
    }
    s->p += n;
    if (!parse_dims(s, type) && s->status == MTBAL_OK)
        type->rank = 0;
    return true;
}

static mtbal_tensor *parse_tensor(parser *s, const mtbal_type *type)
{
    double values[MAX_LIST];
    int64_t dims[32], count = 0;
    number n;
    if (!expect(s, "{"))
        return NULL;
    while (s->status == MTBAL_OK && !accept(s, "}")) {
        if (count && !expect(s, ","))
            return NULL;
        if (accept(s, "true"))
            n.f = 1;
        else if (accept(s, "false"))
            n.f = 0;
        else if (!parse_number(s, &n))
            return syntax_error(s, "a number");
        if (count == MAX_LIST)
            return syntax_error(s, "the end of a long tensor");
        values[count++] = n.f;
    }
    for (int i = 0; i < type->rank; i++)
        dims[i] = type->dims[i].size;
    mtbal_tensor *t = mtbal_tensor_new(s->model, type->dtype, type->rank, dims, NULL);
    if (!t)
        return no_memory(s);
    if (t->count != count)
        return syntax_error(s, "as many elements as the shape says");
    for (int64_t i = 0; i < count; i++)
        mtbal_tensor_set_f64(t, i, values[i]);
    return t;
}

/* ------------------------------------------------------------------ attributes */

static mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into);

static bool literal_list(parser *s, mtbal_attr *a)
{
    static const size_t sizes[] = {sizeof(int64_t), sizeof(float), sizeof(char *)};
    int64_t ints[256];
    float floats[256];
    const char *strings[256];
    bool any_float = a->kind == MTBAL_ATTR_FLOATS, any_string = false;
    int n = 0;
    while (s->status == MTBAL_OK && !accept(s, "]")) {
        number x = {0};
        skip(s);
        if ((n && !expect(s, ",")) || n == 256)
            return false;
        skip(s);
        if (*s->p == '"') {
            strings[n] = string(s);
            any_string = true;
        } else if (!parse_number(s, &x)) {
            return syntax_error(s, "a number or a string");
        }
        any_float = any_float || x.is_float;
        ints[n] = x.i;
        floats[n++] = (float)x.f;
    }
    int which = any_string ? 2 : any_float ? 1 : 0;
    const void *const from[] = {ints, floats, strings};
    void *copy = mtbal_arena_copy(s->model->arena, from[which], (size_t)n * sizes[which]);
    if (!copy)
        return no_memory(s);
    a->n = n;
    a->kind = any_string ? MTBAL_ATTR_STRINGS : any_float ? MTBAL_ATTR_FLOATS : MTBAL_ATTR_INTS;
    a->ints = which == 0 ? copy : NULL;
    a->floats = which == 1 ? copy : NULL;
    a->strings = which == 2 ? copy : NULL;
    return true;
}

static mtbal_attr_kind attr_kind(parser *s)
{
    static const struct {
        const char *word;
        mtbal_attr_kind kind;
    } kinds[] = {{"ints", MTBAL_ATTR_INTS},       {"int", MTBAL_ATTR_INT},
                 {"floats", MTBAL_ATTR_FLOATS},   {"float", MTBAL_ATTR_FLOAT},
                 {"strings", MTBAL_ATTR_STRINGS}, {"string", MTBAL_ATTR_STRING},
                 {"tensor", MTBAL_ATTR_TENSOR},   {"graph", MTBAL_ATTR_GRAPH}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (accept(s, kinds[i].word))
            return kinds[i].kind;
    syntax_error(s, "an attribute type");
    return MTBAL_ATTR_NONE;
}

static bool literal(parser *s, mtbal_attr *a, mtbal_graph *graph)
{
    mtbal_type type;
    number n;
    skip(s);
    if (*s->p == '"') {
        a->kind = MTBAL_ATTR_STRING;
        a->s = string(s);
        a->s_len = a->s ? strlen(a->s) : 0;
    } else if (accept(s, "[")) {
        return literal_list(s, a);
    } else if (try_type(s, &type)) {
        const char *ignored = try_name(s);
        (void)ignored;
        accept(s, "=");
        a->kind = MTBAL_ATTR_TENSOR;
        a->t = parse_tensor(s, &type);
    } else if (parse_number(s, &n)) {
        bool is_float = n.is_float || a->kind == MTBAL_ATTR_FLOAT;
        a->kind = is_float ? MTBAL_ATTR_FLOAT : MTBAL_ATTR_INT;
        a->f = (float)n.f;
        a->i = n.i;
    } else {
        a->kind = MTBAL_ATTR_GRAPH;
        a->g = parse_graph(s, graph, NULL);
    }
    return s->status == MTBAL_OK;
}

/* NAME [: KIND] = LITERAL | @NAME */
static mtbal_attr *parse_attr(parser *s, mtbal_graph *graph)
{
    mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
    if (!a)
        return no_memory(s);
    a->name = name(s);
    if (accept(s, ":"))
        a->kind = attr_kind(s);
    if (!expect(s, "="))
        return NULL;
    if (accept(s, "@"))
        a->ref = name(s);
    else
        literal(s, a, graph);
    return s->status == MTBAL_OK ? a : NULL;
}

static mtbal_attr *parse_attrs(parser *s, mtbal_graph *graph)
{
    mtbal_attr *list = NULL, **link = &list;
    if (!accept(s, "<"))
        return NULL;
    while (s->status == MTBAL_OK && !accept(s, ">")) {
        if (list && !expect(s, ","))
            return NULL;
        *link = parse_attr(s, graph);
        if (*link)
            link = &(*link)->next;
    }
    return list;
}

/* ------------------------------------------------------------------ statements and graphs */

/* domain.sub.Op: the domain is all before the last dot. */
static bool op_name(parser *s, const char **domain, const char **op)
{
    char text[256];
    skip(s);
    size_t n = 0;
    while (isalnum((unsigned char)s->p[n]) || s->p[n] == '_' || s->p[n] == '.' || s->p[n] == '-')
        n++;
    if (n == 0 || n >= sizeof text)
        return syntax_error(s, "an operator");
    snprintf(text, sizeof text, "%.*s", (int)n, s->p);
    s->p += n;
    char *dot = strrchr(text, '.');
    *op = mtbal_intern(s->model->arena, dot ? dot + 1 : text);
    if (dot)
        *dot = 0;
    *domain = mtbal_intern(s->model->arena, dot && strcmp(text, "ai.onnx") ? text : "");
    return (*op && *domain) || no_memory(s) != NULL;
}

static int operands(parser *s, mtbal_value **in, int most)
{
    int n = 0;
    if (!expect(s, "("))
        return 0;
    while (s->status == MTBAL_OK && !accept(s, ")")) {
        if (n && !expect(s, ","))
            return 0;
        skip(s);
        const char *text = *s->p == ',' || *s->p == ')' ? NULL : name(s);
        if (n == most)
            return syntax_error(s, "fewer operands") != NULL;
        in[n] = text && *text ? lookup(s, text) : NULL;
        if (text && *text && !in[n] && s->status == MTBAL_OK) {
            s->status = mtbal_fail(s->diag, MTBAL_INVALID, "text", "define it before its use",
                                   "the value %s is not defined", text);
            return 0;
        }
        n++;
    }
    return n;
}

/* OUT, OUT = Op <attrs> (IN, IN) <attrs> */
static void statement(parser *s, mtbal_graph *graph)
{
    const char *out[64], *domain, *op;
    mtbal_value *in[256];
    int nout = 0;
    do {
        skip(s);
        const char *text = *s->p == ',' || *s->p == '=' ? "" : name(s);
        if (nout == 64 || !text)
            return;
        out[nout++] = text;
    } while (accept(s, ","));
    if (!expect(s, "=") || !op_name(s, &domain, &op))
        return;
    mtbal_attr *attrs = parse_attrs(s, graph);
    int nin = operands(s, in, 256);
    if (!attrs)
        attrs = parse_attrs(s, graph);
    if (s->status != MTBAL_OK)
        return;
    mtbal_node *node = mtbal_node_new(graph, NULL, domain, op, nin, in, 0);
    if (!node) {
        no_memory(s);
        return;
    }
    node->attrs = attrs;
    for (mtbal_attr *a = attrs; a; a = a->next)
        if (a->g)
            a->g->owner = node;
    for (int i = 0; i < nout && s->status == MTBAL_OK; i++) {
        mtbal_value *value = *out[i] ? new_value(s, graph, out[i]) : NULL;
        if (s->status == MTBAL_OK && mtbal_node_set_output(node, i, value) != MTBAL_OK)
            no_memory(s);
    }
}

static void block(parser *s, mtbal_graph *graph)
{
    if (!expect(s, "{"))
        return;
    while (s->status == MTBAL_OK && !accept(s, "}")) {
        statement(s, graph);
        accept(s, ";");
    }
}

/* (float[N] x, int64[2] y = {1, 2}, z) */
static void parameters(parser *s, mtbal_graph *graph, const char *open, const char *close,
                       mtbal_status (*add)(mtbal_graph *, mtbal_value *))
{
    bool first = true;
    if (!expect(s, open))
        return;
    while (s->status == MTBAL_OK && !accept(s, close)) {
        mtbal_type type = {MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
        if (!first && !expect(s, ","))
            return;
        first = false;
        try_type(s, &type);
        mtbal_value *value = new_value(s, graph, name(s));
        if (!value)
            return;
        value->type = type;
        if (add && add(graph, value) != MTBAL_OK)
            no_memory(s);
        if (accept(s, "=")) {
            mtbal_tensor *t = parse_tensor(s, &type);
            if (t && mtbal_add_initializer(graph, value, t) != MTBAL_OK)
                no_memory(s);
        }
    }
}

/* Outputs are named (and typed) before the body that defines them: entered after it. */
typedef struct result {
    mtbal_type type;
    const char *name;
} result;

static int results(parser *s, result *list, int most)
{
    int n = 0;
    if (!expect(s, "("))
        return 0;
    while (s->status == MTBAL_OK && !accept(s, ")")) {
        if (n && !expect(s, ","))
            return 0;
        list[n].type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
        try_type(s, &list[n].type);
        list[n].name = name(s);
        if (++n == most)
            break;
    }
    return n;
}

static void finish_results(parser *s, mtbal_graph *graph, const result *list, int n)
{
    for (int i = 0; i < n && s->status == MTBAL_OK; i++) {
        mtbal_value *value = lookup(s, list[i].name);
        if (!value) {
            s->status =
                mtbal_fail(s->diag, MTBAL_INVALID, "text", "name a value that the body defines",
                           "the output %s is not defined", list[i].name);
            return;
        }
        if (list[i].type.dtype != MTBAL_UNDEFINED)
            value->type = list[i].type;
        if (mtbal_add_output(graph, value) != MTBAL_OK)
            no_memory(s);
    }
}

/* NAME (inputs) => (outputs) <initializers> { body } */
static mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into)
{
    result list[256];
    int scope = s->nnames;
    const char *title = name(s);
    mtbal_graph *graph = into ? into : title ? mtbal_graph_new(s->model, parent, title) : NULL;
    if (!graph)
        return title ? no_memory(s) : NULL;
    graph->name = title;
    parameters(s, graph, "(", ")", mtbal_add_input);
    expect(s, "=>");
    int n = results(s, list, 256);
    skip(s);
    if (*s->p == '<')
        parameters(s, graph, "<", ">", NULL);
    block(s, graph);
    finish_results(s, graph, list, n);
    s->nnames = scope;
    return s->status == MTBAL_OK ? graph : NULL;
}

/* ["" : 17, "mtbal" : 1] */
static void opset_list(parser *s, mtbal_opset *list, int *n)
{
    number version;
    expect(s, "[");
    while (s->status == MTBAL_OK && !accept(s, "]")) {
        if (*n && !expect(s, ","))
            return;
        if (*n == 32)
            return;
        list[*n].domain = string(s);
        if (expect(s, ":") && parse_number(s, &version))
            list[(*n)++].version = version.i;
        else
            syntax_error(s, "a version");
    }
}

/* < key : value, ... > in front of a model or function. */
static void header(parser *s, mtbal_opset *opsets, int *nopsets, int64_t *ir, const char **domain)
{
    number n;
    bool first = true;
    if (!accept(s, "<"))
        return;
    while (s->status == MTBAL_OK && !accept(s, ">")) {
        if (!first && !expect(s, ","))
            return;
        first = false;
        const char *key = name(s);
        if (!key || !expect(s, ":"))
            return;
        if (!strcmp(key, "opset_import")) {
            opset_list(s, opsets, nopsets);
        } else if (accept(s, "[")) { /* metadata_props and the like */
            s->p += strcspn(s->p, "]");
            expect(s, "]");
        } else if (parse_number(s, &n)) {
            if (!strcmp(key, "ir_version"))
                *ir = n.i;
        } else {
            const char *text = string(s);
            if (!strcmp(key, "domain") && domain)
                *domain = text;
        }
    }
}

/* Formal attributes: <axis, alpha: float = 1.0, kernel_shape: ints> */
static void formals(parser *s, mtbal_function *f)
{
    const char *names[64];
    mtbal_attr **link = &f->defaults;
    bool first = true;
    if (!accept(s, "<"))
        return;
    while (s->status == MTBAL_OK && !accept(s, ">")) {
        if ((!first && !expect(s, ",")) || f->nattrs == 64)
            return;
        first = false;
        mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
        if (!a) {
            no_memory(s);
            return;
        }
        a->name = name(s);
        if (accept(s, ":"))
            a->kind = attr_kind(s);
        if (accept(s, "=")) {
            literal(s, a, f->body);
            *link = a;
            link = &a->next;
        } else {
            names[f->nattrs++] = a->name;
        }
    }
    f->attrs = mtbal_arena_copy(s->model->arena, names, (size_t)f->nattrs * sizeof *names);
    if (!f->attrs)
        no_memory(s);
}

static mtbal_function *parse_function(parser *s)
{
    mtbal_opset opsets[32];
    int nopsets = 0, scope = s->nnames;
    int64_t ir;
    result list[64];
    mtbal_function *f = mtbal_arena_alloc(s->model->arena, sizeof *f);
    if (!f || !(f->body = mtbal_graph_new(s->model, NULL, "body")))
        return no_memory(s);
    f->domain = f->overload = mtbal_intern(s->model->arena, "");
    header(s, opsets, &nopsets, &ir, &f->domain);
    f->name = name(s);
    formals(s, f);
    parameters(s, f->body, "(", ")", mtbal_add_input);
    expect(s, "=>");
    int n = results(s, list, 64);
    block(s, f->body);
    finish_results(s, f->body, list, n);
    f->opsets = mtbal_arena_copy(s->model->arena, opsets, (size_t)nopsets * sizeof *opsets);
    f->nopsets = nopsets;
    s->nnames = scope;
    return s->status == MTBAL_OK && f->opsets ? f : NULL;
}

mtbal_function *mtbal_parse_function(mtbal_model *model, const char *text, mtbal_diag *diag)
{
    parser s = {.text = text, .p = text, .model = model, .diag = diag};
    return parse_function(&s);
}

mtbal_model *mtbal_parse_model(const char *text, mtbal_diag *diag)
{
    mtbal_model *model = mtbal_model_new(0);
    parser s = {.text = text, .p = text, .model = model, .diag = diag};
    mtbal_opset opsets[32];
    int nopsets = 0;
    if (!model) {
        mtbal_no_memory(diag);
        return NULL;
    }
    header(&s, opsets, &nopsets, &model->ir_version, NULL);
    for (int i = 0; i < nopsets && s.status == MTBAL_OK; i++)
        if (mtbal_set_opset(model, opsets[i].domain, opsets[i].version) != MTBAL_OK)
            no_memory(&s);
    parse_graph(&s, NULL, model->graph);
    for (skip(&s); s.status == MTBAL_OK && *s.p; skip(&s)) {
        mtbal_function *f = parse_function(&s);
        if (f && mtbal_function_add(model, f) != MTBAL_OK)
            no_memory(&s);
    }
    if (s.status != MTBAL_OK) {
        mtbal_model_free(model);
        return NULL;
    }
    return model;
}
