/* graph/text.c: graph -> ONNX text (onnx/docs/Syntax.md). Deterministic; our parser and ONNX's own
 * read it back. */
#include "graph/graph.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool is_identifier(const char *name)
{
    if (!isalpha((unsigned char)*name) && *name != '_')
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && *name != '_')
            return false;
    return true;
}

static void quoted(FILE *to, const char *text)
{
    fputc('"', to);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', to);
        fputc(*text, to);
    }
    fputc('"', to);
}

static void print_name(FILE *to, const char *name)
{
    if (is_identifier(name))
        fputs(name, to);
    else
        quoted(to, name);
}

/* Shortest text that reads back as the same float. */
static void print_float(FILE *to, double x, bool is_double)
{
    char text[40];
    for (int digits = is_double ? 15 : 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (is_double ? strtod(text, NULL) == x : strtof(text, NULL) == (float)x)
            break;
    }
    fputs(text, to);
    if (!strpbrk(text, ".eni"))
        fputs(".0", to);
}

void mtbal_print_type(FILE *to, const mtbal_type *type)
{
    fputs(mtbal_dtype_name(type->dtype), to);
    if (type->rank < 0)
        return;
    fputc('[', to);
    for (int i = 0; i < type->rank; i++) {
        fputs(i ? ", " : "", to);
        if (type->dims[i].size >= 0)
            fprintf(to, "%lld", (long long)type->dims[i].size);
        else if (type->dims[i].symbol)
            print_name(to, type->dims[i].symbol);
        else
            fputc('?', to);
    }
    fputc(']', to);
}

static void print_tensor(FILE *to, const mtbal_tensor *t, int64_t most)
{
    fputs(mtbal_dtype_name(t->dtype), to);
    if (t->rank > 0) {
        fputc('[', to);
        for (int i = 0; i < t->rank; i++)
            fprintf(to, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
        fputc(']', to);
    }
    if (!t->data || (most >= 0 && t->count > most)) {
        fputs(" {...}", to);
        return;
    }
    fputs(" {", to);
    for (int64_t i = 0; i < t->count; i++) {
        fputs(i ? ", " : "", to);
        if (mtbal_dtype_is_float(t->dtype))
            print_float(to, mtbal_tensor_f64(t, i), t->dtype == MTBAL_DOUBLE);
        else
            fprintf(to, "%lld", (long long)mtbal_tensor_i64(t, i));
    }
    fputc('}', to);
}

static void print_nodes(FILE *to, const mtbal_graph *graph, int64_t most, int depth);
static void print_graph(FILE *to, const mtbal_graph *graph, int64_t most, int depth);

static void print_attr(FILE *to, const mtbal_attr *a, int64_t most, int depth)
{
    static const char *const kinds[] = {"?",     "float",  "int",  "string", "tensor",
                                        "graph", "floats", "ints", "strings"};
    fprintf(to, "%s", a->name);
    if (a->ref) {
        fprintf(to, ": %s = @%s", (unsigned)a->kind < 9 ? kinds[a->kind] : "?", a->ref);
        return;
    }
    fputs(": ", to);
    fputs((unsigned)a->kind < 9 ? kinds[a->kind] : "?", to);
    fputs(" = ", to);
    switch (a->kind) {
    case MTBAL_ATTR_FLOAT:
        print_float(to, (double)a->f, false);
        break;
    case MTBAL_ATTR_INT:
        fprintf(to, "%lld", (long long)a->i);
        break;
    case MTBAL_ATTR_STRING:
        quoted(to, a->s);
        break;
    case MTBAL_ATTR_TENSOR:
        print_tensor(to, a->t, most);
        break;
    case MTBAL_ATTR_GRAPH:
        print_graph(to, a->g, most, depth + 1);
        break;
    case MTBAL_ATTR_FLOATS:
    case MTBAL_ATTR_INTS:
    case MTBAL_ATTR_STRINGS:
        fputc('[', to);
        for (int i = 0; i < a->n; i++) {
            fputs(i ? ", " : "", to);
            if (a->kind == MTBAL_ATTR_FLOATS)
                print_float(to, (double)a->floats[i], false);
            else if (a->kind == MTBAL_ATTR_INTS)
                fprintf(to, "%lld", (long long)a->ints[i]);
            else
                quoted(to, a->strings[i]);
        }
        fputc(']', to);
        break;
    default:
        fputs("...", to);
    }
}

static void print_values(FILE *to, mtbal_value *const *values, int n)
{
    for (int i = 0; i < n; i++) {
        fputs(i ? ", " : "", to);
        if (values[i])
            print_name(to, values[i]->name);
        else
            fputs("\"\"", to);
    }
}

static void print_nodes(FILE *to, const mtbal_graph *graph, int64_t most, int depth)
{
    for (const mtbal_node *node = graph->first; node; node = node->next) {
        fprintf(to, "%*s", 4 * depth, "");
        print_values(to, node->out, node->nout);
        fprintf(to, " = %s%s%s", node->domain, *node->domain ? "." : "", node->op);
        if (node->attrs) {
            fputs(" <", to);
            for (const mtbal_attr *a = node->attrs; a; a = a->next) {
                print_attr(to, a, most, depth);
                fputs(a->next ? ", " : ">", to);
            }
        }
        fputs(" (", to);
        print_values(to, node->in, node->nin);
        fputs(")\n", to);
    }
}

static void print_typed(FILE *to, mtbal_value *const *values, int n)
{
    for (int i = 0; i < n; i++) {
        fputs(i ? ", " : "", to);
        if (values[i]->type.dtype != MTBAL_UNDEFINED) {
            mtbal_print_type(to, &values[i]->type);
            fputc(' ', to);
        }
        print_name(to, values[i]->name);
    }
}

static void print_graph(FILE *to, const mtbal_graph *graph, int64_t most, int depth)
{
    print_name(to, *graph->name ? graph->name : "graph");
    fputs(" (", to);
    print_typed(to, graph->inputs, graph->ninputs);
    fputs(") => (", to);
    print_typed(to, graph->outputs, graph->noutputs);
    fputs(")\n", to);
    if (graph->ninitializers) {
        fprintf(to, "%*s<", 4 * (depth - 1), "");
        for (int i = 0; i < graph->ninitializers; i++) {
            const mtbal_value *v = graph->initializers[i];
            fputs(i ? ",\n " : "", to);
            mtbal_print_type(to, &v->type);
            fputc(' ', to);
            print_name(to, v->name);
            if (v->tensor && v->tensor->data && (most < 0 || v->tensor->count <= most)) {
                fputs(" = ", to);
                fputc('{', to);
                for (int64_t k = 0; k < v->tensor->count; k++) {
                    fputs(k ? ", " : "", to);
                    if (mtbal_dtype_is_float(v->tensor->dtype))
                        print_float(to, mtbal_tensor_f64(v->tensor, k),
                                    v->tensor->dtype == MTBAL_DOUBLE);
                    else
                        fprintf(to, "%lld", (long long)mtbal_tensor_i64(v->tensor, k));
                }
                fputc('}', to);
            }
        }
        fputs(">\n", to);
    }
    fprintf(to, "%*s{\n", 4 * (depth - 1), "");
    print_nodes(to, graph, most, depth);
    fprintf(to, "%*s}", 4 * (depth - 1), "");
}

bool mtbal_print_graph(FILE *to, const mtbal_graph *graph, int64_t max_elements)
{
    print_graph(to, graph, max_elements, 1);
    fputc('\n', to);
    return !ferror(to);
}

static void print_opsets(FILE *to, const mtbal_opset *opsets, int n)
{
    fputs("opset_import: [", to);
    for (int i = 0; i < n; i++) {
        fputs(i ? ", " : "", to);
        quoted(to, opsets[i].domain);
        fprintf(to, " : %lld", (long long)opsets[i].version);
    }
    fputc(']', to);
}

bool mtbal_print_function(FILE *to, const mtbal_function *f)
{
    fputs("<domain: ", to);
    quoted(to, f->domain);
    fputs(", ", to);
    print_opsets(to, f->opsets, f->nopsets);
    fprintf(to, ">\n%s", f->name);
    bool any = f->nattrs || f->defaults;
    fputs(any ? " <" : "", to);
    for (int i = 0; i < f->nattrs; i++)
        fprintf(to, "%s%s", i ? ", " : "", f->attrs[i]);
    for (const mtbal_attr *a = f->defaults; a; a = a->next) {
        fputs(f->nattrs || a != f->defaults ? ", " : "", to);
        print_attr(to, a, -1, 1);
    }
    fputs(any ? "> (" : " (", to);
    print_values(to, f->body->inputs, f->body->ninputs);
    fputs(") => (", to);
    print_values(to, f->body->outputs, f->body->noutputs);
    fputs(")\n{\n", to);
    print_nodes(to, f->body, -1, 1);
    fputs("}\n", to);
    return !ferror(to);
}

bool mtbal_print_model(FILE *to, const mtbal_model *model, int64_t max_elements)
{
    fprintf(to, "<ir_version: %lld, ", (long long)model->ir_version);
    print_opsets(to, model->opsets, model->nopsets);
    fputs(">\n", to);
    mtbal_print_graph(to, model->graph, max_elements);
    for (int i = 0; i < model->nfunctions; i++)
        mtbal_print_function(to, model->functions[i]);
    return !ferror(to);
}
