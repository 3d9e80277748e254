/* graph/parse.c: ONNX text -> graph (onnx/docs/Syntax.md): functions and models. Recursive descent
 * over one buffer. Beyond the syntax: formal attributes of functions may have a type without a
 * default (<axis: int>), statements may end in a semicolon, operators may be quoted. */
#include "graph/parse.h"

#include <string.h>

enum { MAX_NESTING = 100 };

/* ------------------------------------------------------------------ statements */

/* domain.sub.Op: the domain is all before the last dot. */
static bool op_name(parser *s, const char **domain, const char **op)
{
    char text[256];
    size_t n = 0;
    *op = lex_name(&s->l);
    while (*op && *s->l.p == '.') {
        s->l.p++;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? "." : "", *op);
        if (n >= sizeof text)
            return lex_error(&s->l, "a domain of at most 255 bytes");
        *op = lex_name(&s->l);
    }
    *domain =
        *op ? mtbal_intern_n(s->model->arena, text, n == 7 && !strncmp(text, "ai.onnx", n) ? 0 : n)
            : NULL;
    return *domain || (*op && parse_no_memory(s));
}

static void operands(parser *s, list *in)
{
    if (!lex_expect(&s->l, "("))
        return;
    while (parse_next(s, in->count, ")")) {
        char c = lex_peek(&s->l);
        if (c == ')' && in->count) /* a comma before the end */
            continue;
        const char *name = c == ',' ? "" : lex_name(&s->l);
        mtbal_value **operand = name ? parse_append(s, in, sizeof *operand) : NULL;
        if (!operand)
            return;
        *operand = *name ? scope_lookup(s, name) : NULL;
        if (*name && !*operand)
            s->l.status = mtbal_fail(s->l.diag, MTBAL_INVALID, "text", "define it before its use",
                                     "the value %s is not defined", name);
    }
}

/* The value that a statement defines: one whose type was declared, or a new one. */
static mtbal_value *defined(parser *s, mtbal_graph *graph, const char *name)
{
    mtbal_value *declared = scope_lookup(s, name);
    if (declared && declared->graph == graph && !declared->def && !declared->is_input &&
        !declared->is_initializer)
        return declared;
    return scope_new(s, graph, name);
}

static void outputs(parser *s, list *out)
{
    do {
        char c = lex_peek(&s->l);
        const char *name = c == ',' || c == '=' ? "" : lex_name(&s->l);
        const char **place = name ? parse_append(s, out, sizeof *place) : NULL;
        if (!place)
            return;
        *place = name;
    } while (lex_accept(&s->l, ","));
    lex_expect(&s->l, "=");
}

static mtbal_node *make_node(parser *s, mtbal_graph *graph, const list *out, const list *in,
                             const char *domain, const char *op)
{
    mtbal_node *node = mtbal_node_new(graph, NULL, domain, op, in->count, in->items, 0);
    if (!node)
        return parse_no_memory(s);
    for (int i = 0; i < out->count && parse_good(s); i++) {
        const char *name = ((const char **)out->items)[i];
        mtbal_value *value = *name ? defined(s, graph, name) : NULL;
        if (parse_good(s) && mtbal_node_set_output(node, i, value) != MTBAL_OK)
            parse_no_memory(s);
    }
    return node;
}

/* [LABEL] OUT, OUT = Op:OVERLOAD <attrs> (IN, IN) <attrs> */
static void statement(parser *s, mtbal_graph *graph)
{
    list out = {0}, in = {0};
    const char *domain = NULL, *op = NULL, *overload = NULL, *label = NULL;
    if (lex_accept(&s->l, "[")) {
        label = lex_name(&s->l);
        lex_expect(&s->l, "]");
    }
    outputs(s, &out);
    if (parse_good(s) && op_name(s, &domain, &op)) {
        if (lex_accept(&s->l, ":"))
            overload = lex_name(&s->l);
        mtbal_attr *attrs = parse_attrs(s, graph);
        operands(s, &in);
        if (!attrs)
            attrs = parse_attrs(s, graph);
        mtbal_node *node = parse_good(s) ? make_node(s, graph, &out, &in, domain, op) : NULL;
        if (node) {
            node->name = label ? label : node->name;
            node->overload = overload ? overload : node->overload;
            node->attrs = attrs;
        }
        for (mtbal_attr *a = attrs; a && node; a = a->next)
            if (a->g)
                a->g->owner = node;
    }
    mtbal_free(out.items);
    mtbal_free(in.items);
}

static void block(parser *s, mtbal_graph *graph)
{
    if (!lex_expect(&s->l, "{"))
        return;
    while (parse_good(s) && !lex_accept(&s->l, "}")) {
        statement(s, graph);
        lex_accept(&s->l, ";");
    }
}

/* ------------------------------------------------------------------ graphs */

/* (float[N] x, int64[2] y = {1, 2}, z), or the same in <>: initializers and types of values. */
static void parameters(parser *s, mtbal_graph *graph, const char *close, bool inputs)
{
    for (int i = 0; parse_next(s, i, close); i++) {
        mtbal_type type;
        parse_try_type(s, &type);
        mtbal_value *value = scope_new(s, graph, lex_name(&s->l));
        if (!value)
            return;
        value->type = type;
        if (inputs && mtbal_add_input(graph, value) != MTBAL_OK)
            parse_no_memory(s);
        if (lex_accept(&s->l, "=")) {
            mtbal_tensor *t = parse_tensor(s, &type);
            if (t && mtbal_add_initializer(graph, value, t) != MTBAL_OK)
                parse_no_memory(s);
        }
    }
}

/* Outputs are named (and typed) before the body that defines them: entered after it. */
typedef struct result {
    mtbal_type type;
    const char *name;
} result;

static void results(parser *s, list *l)
{
    if (!lex_expect(&s->l, "("))
        return;
    while (parse_next(s, l->count, ")")) {
        result *r = parse_append(s, l, sizeof *r);
        if (!r)
            return;
        parse_try_type(s, &r->type);
        r->name = lex_name(&s->l);
    }
}

static void finish_results(parser *s, mtbal_graph *graph, const list *l)
{
    for (int i = 0; i < l->count && parse_good(s); i++) {
        const result *r = (const result *)l->items + i;
        mtbal_value *value = scope_lookup(s, r->name);
        if (!value) {
            s->l.status =
                mtbal_fail(s->l.diag, MTBAL_INVALID, "text", "name a value that the body defines",
                           "the output %s is not defined", r->name);
            return;
        }
        if (r->type.dtype != MTBAL_UNDEFINED && value->graph == graph)
            value->type = r->type;
        if (mtbal_add_output(graph, value) != MTBAL_OK)
            parse_no_memory(s);
    }
}

/* (inputs) => (outputs) <initializers> { body }, in a scope of its own. */
static void graph_after_name(parser *s, mtbal_graph *graph)
{
    list l = {0};
    int scope = s->nscope;
    if (++s->nesting > MAX_NESTING)
        lex_error(&s->l, "the end of more than 100 nested graphs");
    if (lex_expect(&s->l, "("))
        parameters(s, graph, ")", true);
    lex_expect(&s->l, "=>");
    results(s, &l);
    if (lex_accept(&s->l, "<"))
        parameters(s, graph, ">", false);
    block(s, graph);
    finish_results(s, graph, &l);
    mtbal_free(l.items);
    scope_leave(s, scope);
    s->nesting--;
}

mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into)
{
    const char *name = lex_name(&s->l);
    mtbal_graph *graph = into ? into : name ? mtbal_graph_new(s->model, parent, name) : NULL;
    if (!graph)
        return name ? parse_no_memory(s) : NULL;
    graph->name = name;
    graph_after_name(s, graph);
    return parse_good(s) ? graph : NULL;
}

/* ------------------------------------------------------------------ functions and models */

/* ["" : 17, "mtbal" : 1] */
static void opset_list(parser *s, mtbal_opset **opsets, int *count)
{
    list l = {0};
    number version;
    lex_expect(&s->l, "[");
    while (parse_next(s, l.count, "]")) {
        mtbal_opset *o = parse_append(s, &l, sizeof *o);
        if (!o)
            break;
        o->domain = lex_string(&s->l);
        if (lex_expect(&s->l, ":") && lex_number(&s->l, &version) && !version.is_float)
            o->version = version.i;
        else
            lex_error(&s->l, "a version");
    }
    *count = l.count;
    *opsets = mtbal_arena_copy(s->model->arena, l.items, (size_t)l.count * sizeof **opsets);
    if (!*opsets)
        parse_no_memory(s);
    mtbal_free(l.items);
}

static void properties(parser *s)
{
    lex_expect(&s->l, "[");
    for (int i = 0; parse_next(s, i, "]"); i++) {
        const char *key = lex_string(&s->l);
        const char *value = lex_expect(&s->l, ":") ? lex_string(&s->l) : NULL;
        if (value && mtbal_property_set(s->model, key, value) != MTBAL_OK)
            parse_no_memory(s);
    }
}

/* < key : value, ... > in front of a model (f NULL) or a function. */
static void header(parser *s, mtbal_function *f, mtbal_opset **opsets, int *nopsets)
{
    mtbal_model *m = s->model;
    const struct {
        const char *key;
        const char **text;
        int64_t *number;
    } fields[] = {{"ir_version", NULL, f ? NULL : &m->ir_version},
                  {"model_version", NULL, f ? NULL : &m->model_version},
                  {"producer_name", f ? NULL : &m->producer_name, NULL},
                  {"producer_version", f ? NULL : &m->producer_version, NULL},
                  {"domain", f ? &f->domain : &m->domain, NULL},
                  {"overload", f ? &f->overload : NULL, NULL},
                  {"doc_string", f ? &f->doc : &m->doc, NULL}};
    enum { NFIELDS = sizeof fields / sizeof *fields };
    number n;
    if (!lex_accept(&s->l, "<"))
        return;
    for (int i = 0; parse_next(s, i, ">"); i++) {
        const char *key = lex_name(&s->l);
        int k = 0;
        if (!key || !lex_expect(&s->l, ":"))
            return;
        while (k < NFIELDS && strcmp(fields[k].key, key) != 0)
            k++;
        if (!strcmp(key, "opset_import"))
            opset_list(s, opsets, nopsets);
        else if (!strcmp(key, "metadata_props") && !f)
            properties(s);
        else if (k < NFIELDS && fields[k].text)
            *fields[k].text = lex_string(&s->l);
        else if (k < NFIELDS && fields[k].number && lex_number(&s->l, &n) && !n.is_float)
            *fields[k].number = n.i;
        else
            lex_error(&s->l, "a value that goes with the key");
    }
}

/* Formal attributes: <axis, alpha: float = 1.0, kernel_shape: ints> */
static void formals(parser *s, mtbal_function *f)
{
    mtbal_attr **link = &f->defaults;
    list names = {0};
    if (!lex_accept(&s->l, "<"))
        return;
    for (int i = 0; parse_next(s, i, ">"); i++) {
        mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
        const char **place;
        if (!a) {
            parse_no_memory(s);
            break;
        }
        a->name = lex_name(&s->l);
        if (lex_accept(&s->l, ":"))
            a->kind = parse_attr_kind(s);
        if (lex_accept(&s->l, "=")) {
            parse_literal(s, a, f->body);
            *link = a;
            link = &a->next;
        } else if ((place = parse_append(s, &names, sizeof *place))) {
            *place = a->name;
        }
    }
    f->nattrs = names.count;
    f->attrs =
        mtbal_arena_copy(s->model->arena, names.items, (size_t)names.count * sizeof *f->attrs);
    if (!f->attrs)
        parse_no_memory(s);
    mtbal_free(names.items);
}

static mtbal_function *parse_function(parser *s)
{
    mtbal_function *f = mtbal_arena_alloc(s->model->arena, sizeof *f);
    if (!f || !(f->body = mtbal_graph_new(s->model, NULL, "body")))
        return parse_no_memory(s);
    f->domain = f->overload = mtbal_intern(s->model->arena, "");
    if (!f->domain)
        return parse_no_memory(s);
    s->in_function = true;
    header(s, f, &f->opsets, &f->nopsets);
    f->name = lex_name(&s->l);
    formals(s, f);
    graph_after_name(s, f->body);
    s->in_function = false;
    return parse_good(s) ? f : NULL;
}

mtbal_function *mtbal_parse_function(mtbal_model *model, const char *text, mtbal_diag *diag)
{
    parser s = {.model = model};
    lex_init(&s.l, text, model->arena, diag);
    mtbal_function *f = parse_function(&s);
    scope_free(&s);
    return f;
}

mtbal_model *mtbal_parse_model(const char *text, mtbal_diag *diag)
{
    mtbal_model *model = mtbal_model_new(0);
    parser s = {.model = model};
    mtbal_opset *opsets = NULL;
    int nopsets = 0;
    if (!model) {
        mtbal_no_memory(diag);
        return NULL;
    }
    lex_init(&s.l, text, model->arena, diag);
    header(&s, NULL, &opsets, &nopsets);
    for (int i = 0; i < nopsets && parse_good(&s); i++)
        if (mtbal_set_opset(model, opsets[i].domain, opsets[i].version) != MTBAL_OK)
            parse_no_memory(&s);
    parse_graph(&s, NULL, model->graph);
    while (lex_peek(&s.l)) {
        mtbal_function *f = parse_function(&s);
        if (f && mtbal_function_add(model, f) != MTBAL_OK)
            parse_no_memory(&s);
    }
    scope_free(&s);
    if (parse_good(&s))
        return model;
    mtbal_model_free(model);
    return NULL;
}
