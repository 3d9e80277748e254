/* graph/text.c: graph -> ONNX text (onnx/docs/Syntax.md), one statement a line. What is printed,
 * parse.c and ONNX's own parser read back. Deterministic: no pointer and no locale decides. */
#include "graph/graph.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct printer {
    FILE *to;
    int64_t max_elements; /* of a tensor; below 0: any */
    int depth;            /* of indentation */
} printer;

/* ------------------------------------------------------------------ words */

static bool is_identifier(const char *name)
{
    size_t n = 0;
    while (isalnum((unsigned char)name[n]) || name[n] == '_')
        n++;
    return n && !name[n] && !isdigit((unsigned char)*name);
}

static void print_string(const printer *p, const char *text)
{
    putc('"', p->to);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', p->to);
        putc(*text, p->to);
    }
    putc('"', p->to);
}

static bool is_one_of(const char *name, const char *const *words)
{
    while (*words && strcmp(*words, name) != 0)
        words++;
    return *words != NULL;
}

/* A word that reads as a number needs quotes where a name may stand; one that begins a type where
 * a type may stand before the name. */
static const char *const numbers[] = {"inf", "infinity", "nan", NULL};
static const char *const kinds[] = {"seq", "optional", "map", "sparse_tensor", "opaque", NULL};

static void print_symbol(const printer *p, const char *name)
{
    if (is_identifier(name) && !is_one_of(name, numbers))
        fputs(name, p->to);
    else
        print_string(p, name);
}

static void print_name(const printer *p, const char *name)
{
    if (is_one_of(name, kinds) || mtbal_dtype_parse(name) != MTBAL_UNDEFINED)
        print_string(p, name);
    else
        print_symbol(p, name);
}

/* A domain: identifiers with dots between, else quoted. */
static void print_dotted(const printer *p, const char *name)
{
    bool plain = *name;
    for (const char *q = name; *q; q++)
        plain = plain && (isalnum((unsigned char)*q) || *q == '_' || *q == '.') &&
                !(isdigit((unsigned char)*q) && (q == name || q[-1] == '.'));
    if (plain)
        fputs(name, p->to);
    else
        print_string(p, name);
}

/* The shortest decimal that reads back as x. A float is told from an int by its annotation or its
 * type, not by a point. */
static void print_real(const printer *p, double x, bool is_double)
{
    char text[40];
    if (isnan(x) || isinf(x)) {
        fputs(isnan(x) ? "nan" : x < 0 ? "-inf" : "inf", p->to);
        return;
    }
    for (int digits = is_double ? 15 : 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (is_double ? strtod(text, NULL) == x : strtof(text, NULL) == (float)x)
            break;
    }
    fputs(text, p->to);
}

static void new_line(const printer *p)
{
    putc('\n', p->to);
    for (int i = 0; i < 3 * p->depth; i++)
        putc(' ', p->to);
}

/* ------------------------------------------------------------------ types and tensors */

static void print_dims(const printer *p, const mtbal_type *type)
{
    if (type->rank == 0)
        return; /* a scalar; the brackets alone stand for an unknown rank */
    putc('[', p->to);
    for (int i = 0; i < type->rank; i++) {
        const mtbal_dim *d = &type->dims[i];
        fputs(i ? "," : "", p->to);
        if (d->size >= 0)
            fprintf(p->to, "%lld", (long long)d->size);
        else if (d->symbol)
            print_symbol(p, d->symbol);
        else
            putc('?', p->to);
    }
    putc(']', p->to);
}

static bool has_type(const mtbal_type *type)
{
    return type->dtype != MTBAL_UNDEFINED && type->kind != MTBAL_OTHER;
}

static void print_type(const printer *p, const mtbal_type *type)
{
    static const char *const wrap[] = {
        [MTBAL_TENSOR] = "", [MTBAL_SEQUENCE] = "seq(", [MTBAL_OPTIONAL] = "optional("};
    if (!has_type(type))
        return;
    fprintf(p->to, "%s%s", wrap[type->kind], mtbal_dtype_name(type->dtype));
    print_dims(p, type);
    fputs(type->kind == MTBAL_TENSOR ? "" : ")", p->to);
}

static void print_typed(const printer *p, const mtbal_type *type, const char *name)
{
    print_type(p, type);
    fputs(has_type(type) ? " " : "", p->to);
    print_name(p, name);
}

/* One number; the 16-bit floats as their bits, as ONNX's text has them. */
static void print_element(const printer *p, const mtbal_tensor *t, int64_t i)
{
    uint16_t bits;
    switch (t->dtype) {
    case MTBAL_FLOAT:
    case MTBAL_DOUBLE:
        print_real(p, mtbal_tensor_f64(t, i), t->dtype == MTBAL_DOUBLE);
        break;
    case MTBAL_COMPLEX64:
        print_real(p, (double)((const float *)t->data)[i], false);
        break;
    case MTBAL_COMPLEX128:
        print_real(p, ((const double *)t->data)[i], true);
        break;
    case MTBAL_FLOAT16:
    case MTBAL_BFLOAT16:
        memcpy(&bits, (const char *)t->data + (size_t)i * sizeof bits, sizeof bits);
        fprintf(p->to, "%u", bits);
        break;
    case MTBAL_UINT64:
        fprintf(p->to, "%llu", (unsigned long long)mtbal_tensor_i64(t, i));
        break;
    default:
        fprintf(p->to, "%lld", (long long)mtbal_tensor_i64(t, i));
    }
}

/* Is it small enough, and there? */
static bool shows(const printer *p, const mtbal_model *model, mtbal_tensor *t)
{
    if (mtbal_dtype_size(t->dtype) == 0 || (p->max_elements >= 0 && t->count > p->max_elements))
        return false;
    return t->count == 0 ||
           (mtbal_tensor_load((mtbal_model *)(uintptr_t)model, t, NULL) == MTBAL_OK && t->data);
}

static void print_elements(const printer *p, const mtbal_tensor *t)
{
    bool complex = t->dtype == MTBAL_COMPLEX64 || t->dtype == MTBAL_COMPLEX128;
    putc('{', p->to);
    for (int64_t i = 0; i < t->count * (complex ? 2 : 1); i++) {
        fputs(i ? "," : "", p->to);
        print_element(p, t, i);
    }
    putc('}', p->to);
}

static void print_tensor_type(const printer *p, const mtbal_tensor *t)
{
    fputs(mtbal_dtype_name(t->dtype), p->to);
    for (int i = 0; i < t->rank; i++)
        fprintf(p->to, "%s%lld", i ? "," : "[", (long long)t->dims[i]);
    fputs(t->rank ? "]" : "", p->to);
}

/* ------------------------------------------------------------------ attributes */

static void print_graph(const printer *p, const mtbal_graph *graph);

static const char *kind_name(mtbal_attr_kind kind)
{
    static const char *const names[] = {
        [MTBAL_ATTR_NONE] = NULL,         [MTBAL_ATTR_FLOAT] = "float",
        [MTBAL_ATTR_INT] = "int",         [MTBAL_ATTR_STRING] = "string",
        [MTBAL_ATTR_TENSOR] = "tensor",   [MTBAL_ATTR_GRAPH] = "graph",
        [MTBAL_ATTR_FLOATS] = "floats",   [MTBAL_ATTR_INTS] = "ints",
        [MTBAL_ATTR_STRINGS] = "strings",
    };
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : NULL;
}

static void print_list(const printer *p, const mtbal_attr *a)
{
    putc('[', p->to);
    for (int i = 0; i < a->n; i++) {
        fputs(i ? ", " : "", p->to);
        if (a->kind == MTBAL_ATTR_FLOATS)
            print_real(p, (double)a->floats[i], false);
        else if (a->kind == MTBAL_ATTR_INTS)
            fprintf(p->to, "%lld", (long long)a->ints[i]);
        else
            print_string(p, a->strings[i]);
    }
    putc(']', p->to);
}

static void print_value(const printer *p, const mtbal_model *model, const mtbal_attr *a)
{
    switch (a->kind) {
    case MTBAL_ATTR_FLOAT:
        print_real(p, (double)a->f, false);
        break;
    case MTBAL_ATTR_INT:
        fprintf(p->to, "%lld", (long long)a->i);
        break;
    case MTBAL_ATTR_STRING:
        print_string(p, a->s ? a->s : "");
        break;
    case MTBAL_ATTR_TENSOR:
        print_tensor_type(p, a->t);
        putc(' ', p->to);
        if (shows(p, model, a->t))
            print_elements(p, a->t);
        else
            fputs("{}", p->to);
        break;
    case MTBAL_ATTR_GRAPH:
        print_graph(p, a->g);
        break;
    default:
        print_list(p, a);
    }
}

/* NAME: KIND = VALUE. What the syntax has no words for (sparse tensors, types) is left out. */
static bool print_attr(const printer *p, const mtbal_model *model, const mtbal_attr *a,
                       const char *before)
{
    const char *kind = kind_name(a->kind);
    if (!kind && !a->ref)
        return false;
    fputs(before, p->to);
    print_name(p, a->name);
    if (kind)
        fprintf(p->to, ": %s", kind);
    fputs(" = ", p->to);
    if (a->ref)
        fprintf(p->to, "@%s", a->ref);
    else
        print_value(p, model, a);
    return true;
}

static void print_attrs(const printer *p, const mtbal_model *model, const mtbal_attr *a)
{
    bool any = false;
    for (; a; a = a->next)
        any = print_attr(p, model, a, any ? ", " : " <") || any;
    fputs(any ? ">" : "", p->to);
}

/* ------------------------------------------------------------------ nodes and graphs */

/* "" is an operand that is left out. */
static void print_names(const printer *p, mtbal_value *const *list, int n)
{
    for (int i = 0; i < n; i++) {
        fputs(i ? ", " : "", p->to);
        print_name(p, list[i] ? list[i]->name : "");
    }
}

static void print_node(const printer *p, const mtbal_node *node)
{
    new_line(p);
    if (node->name && *node->name) {
        putc('[', p->to);
        print_name(p, node->name);
        fputs("] ", p->to);
    }
    print_names(p, node->out, node->nout);
    fputs(" = ", p->to);
    if (*node->domain) {
        print_dotted(p, node->domain);
        putc('.', p->to);
    }
    if (is_identifier(node->op))
        fputs(node->op, p->to);
    else
        print_string(p, node->op);
    if (node->overload && *node->overload)
        fprintf(p->to, ":%s", node->overload);
    print_attrs(p, node->graph->model, node->attrs);
    fputs(" (", p->to);
    print_names(p, node->in, node->nin);
    putc(')', p->to);
}

static void print_nodes(const printer *p, const mtbal_graph *graph)
{
    printer inner = *p;
    inner.depth++;
    fputs(" {", p->to);
    for (const mtbal_node *node = graph->first; node; node = node->next)
        print_node(&inner, node);
    new_line(p);
    putc('}', p->to);
}

static void print_inputs(const printer *p, const mtbal_graph *graph)
{
    putc('(', p->to);
    for (int i = 0; i < graph->ninputs; i++) {
        const mtbal_value *v = graph->inputs[i];
        fputs(i ? ", " : "", p->to);
        print_typed(p, &v->type, v->name);
        if (v->is_initializer && v->tensor && shows(p, graph->model, v->tensor)) {
            fputs(" = ", p->to);
            print_elements(p, v->tensor);
        }
    }
    putc(')', p->to);
}

static void print_outputs(const printer *p, const mtbal_graph *graph)
{
    fputs(" => (", p->to);
    for (int i = 0; i < graph->noutputs; i++) {
        fputs(i ? ", " : "", p->to);
        print_typed(p, &graph->outputs[i]->type, graph->outputs[i]->name);
    }
    putc(')', p->to);
}

/* Initializers, then the types of values in between. */
static void print_infos(const printer *p, const mtbal_graph *graph)
{
    printer inner = *p;
    bool any = false;
    inner.depth++;
    for (int i = 0; i < graph->ninitializers; i++) {
        const mtbal_value *v = graph->initializers[i];
        if (v->is_input || !v->tensor)
            continue;
        fputs(any ? "," : " <", p->to);
        any = true;
        new_line(&inner);
        print_tensor_type(p, v->tensor);
        putc(' ', p->to);
        print_name(p, v->name);
        if (shows(p, graph->model, v->tensor)) {
            fputs(" = ", p->to);
            print_elements(p, v->tensor);
        }
    }
    for (const mtbal_node *node = graph->first; node; node = node->next)
        for (int i = 0; i < node->nout; i++) {
            const mtbal_value *v = node->out[i];
            if (!v || v->is_output || !has_type(&v->type))
                continue;
            fputs(any ? "," : " <", p->to);
            any = true;
            new_line(&inner);
            print_typed(p, &v->type, v->name);
        }
    if (any) {
        new_line(p);
        putc('>', p->to);
    }
}

static void print_graph(const printer *p, const mtbal_graph *graph)
{
    print_name(p, graph->name && *graph->name ? graph->name : "graph");
    putc(' ', p->to);
    print_inputs(p, graph);
    print_outputs(p, graph);
    print_infos(p, graph);
    print_nodes(p, graph);
}

/* ------------------------------------------------------------------ functions and models */

static void print_opsets(const printer *p, const mtbal_opset *opsets, int n)
{
    fputs("opset_import: [", p->to);
    for (int i = 0; i < n; i++) {
        fputs(i ? ", " : "", p->to);
        print_string(p, opsets[i].domain);
        fprintf(p->to, " : %lld", (long long)opsets[i].version);
    }
    putc(']', p->to);
}

/* , NAME: "TEXT" unless the text is empty */
static void print_field(const printer *p, const char *name, const char *text)
{
    if (!text || !*text)
        return;
    fputs(",", p->to);
    new_line(p);
    fprintf(p->to, "%s: ", name);
    print_string(p, text);
}

static void print_function(const printer *p, const mtbal_function *f)
{
    printer header = *p;
    bool any = false;
    header.depth++;
    putc('<', p->to);
    new_line(&header);
    print_opsets(p, f->opsets, f->nopsets);
    print_field(&header, "domain", f->domain);
    print_field(&header, "overload", f->overload);
    print_field(&header, "doc_string", f->doc);
    fputs("\n>\n", p->to);
    print_name(p, f->name);
    for (int i = 0; i < f->nattrs; i++, any = true) {
        fputs(any ? ", " : " <", p->to);
        print_name(p, f->attrs[i]);
    }
    for (const mtbal_attr *a = f->defaults; a; a = a->next)
        any = print_attr(p, f->body->model, a, any ? ", " : " <") || any;
    fputs(any ? "> (" : " (", p->to);
    print_names(p, f->body->inputs, f->body->ninputs);
    fputs(") => (", p->to);
    print_names(p, f->body->outputs, f->body->noutputs);
    putc(')', p->to);
    print_nodes(p, f->body);
    putc('\n', p->to);
}

static void print_header(const printer *p, const mtbal_model *model)
{
    printer header = *p;
    header.depth++;
    putc('<', p->to);
    new_line(&header);
    fprintf(p->to, "ir_version: %lld,", (long long)model->ir_version);
    new_line(&header);
    print_opsets(p, model->opsets, model->nopsets);
    print_field(&header, "producer_name", model->producer_name);
    print_field(&header, "producer_version", model->producer_version);
    print_field(&header, "domain", model->domain);
    if (model->model_version) {
        fputs(",", p->to);
        new_line(&header);
        fprintf(p->to, "model_version: %lld", (long long)model->model_version);
    }
    print_field(&header, "doc_string", model->doc);
    for (int i = 0; i < model->nproperties; i++) {
        fputs(i ? ", " : ",", p->to);
        if (i == 0) {
            new_line(&header);
            fputs("metadata_props: [", p->to);
        }
        print_string(p, model->properties[i].key);
        fputs(": ", p->to);
        print_string(p, model->properties[i].value);
    }
    fputs(model->nproperties ? "]\n>\n" : "\n>\n", p->to);
}

/* ------------------------------------------------------------------ the face */

bool mtbal_print_model(FILE *to, const mtbal_model *model, int64_t max_elements)
{
    const printer p = {to, max_elements, 0};
    print_header(&p, model);
    print_graph(&p, model->graph);
    putc('\n', to);
    for (int i = 0; i < model->nfunctions; i++)
        print_function(&p, model->functions[i]);
    return !ferror(to);
}

bool mtbal_print_graph(FILE *to, const mtbal_graph *graph, int64_t max_elements)
{
    const printer p = {to, max_elements, 0};
    print_graph(&p, graph);
    putc('\n', to);
    return !ferror(to);
}

bool mtbal_print_function(FILE *to, const mtbal_function *function)
{
    const printer p = {to, -1, 0};
    print_function(&p, function);
    return !ferror(to);
}

void mtbal_print_type(FILE *to, const mtbal_type *type)
{
    const printer p = {to, -1, 0};
    if (has_type(type))
        print_type(&p, type);
    else
        fputs("?", to);
}
