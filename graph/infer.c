/* graph/infer.c: shape inference: the walk over a graph, its subgraphs and the functions that it
 * calls. */
#include "graph/internal.h"
#include "graph/ops/shapes.h"

#include <string.h>

/* Calls and subgraphs nest at most this deep; and a hostile model, whose functions call each other
 * twice each, takes no more than this many steps. */
enum { MAX_DEPTH = 100, MAX_STEPS = 4000000 };

/* Where the walk is: in the model's graph, or in the body of `function` as called by `call`. */
struct mtbal_walk {
    const struct mtbal_walk *around;
    const mtbal_function *function;
    const mtbal_node *call;
    int depth;
    int64_t *steps; /* left */
};

static mtbal_status infer_at(mtbal_node *node, struct mtbal_walk *walk, mtbal_diag *diag);

/* ------------------------------------------------------------------ contexts */

static int64_t find_opset(const mtbal_opset *opsets, int n, const char *domain)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(opsets[i].domain, domain))
            return opsets[i].version;
    return 0;
}

/* A model may say ai.onnx for "". */
int64_t graph_opset_in(const mtbal_model *model, const mtbal_function *f, const char *domain)
{
    const mtbal_opset *opsets = f ? f->opsets : model->opsets;
    int n = f ? f->nopsets : model->nopsets;
    int64_t version = find_opset(opsets, n, domain);
    return !version && !*domain ? find_opset(opsets, n, "ai.onnx") : version;
}

/* The version of the domain where the walk is. What is not imported counts as the newest. */
static int64_t opset_of(const mtbal_model *model, const mtbal_function *f, const char *domain)
{
    int64_t version = graph_opset_in(model, f, domain);
    return version ? version : INT32_MAX;
}

/* The function whose body the graph lies in; NULL for the model's own graph. */
static const mtbal_function *function_around(const mtbal_graph *graph)
{
    while (graph->parent)
        graph = graph->parent;
    return graph->function;
}

/* The attribute `name` of the present call: as the call gives it, or the function's default. */
static const mtbal_attr *given_attr(const struct mtbal_walk *walk, const char *name)
{
    const mtbal_attr *a = walk->call->attrs;
    while (a && strcmp(a->name, name) != 0)
        a = a->next;
    for (const mtbal_attr *d = walk->function->defaults; d && !a; d = d->next)
        a = strcmp(d->name, name) ? NULL : d;
    return a;
}

/* The node's attributes with references replaced by what the call gives; what it leaves out is
 * left out. */
static mtbal_status bind_attrs(const struct mtbal_walk *walk, mtbal_node *node, mtbal_diag *diag)
{
    mtbal_attr *list = NULL, **link = &list;
    for (const mtbal_attr *a = node->attrs; a; a = a->next) {
        const mtbal_attr *given = a->ref ? given_attr(walk, a->ref) : a;
        if (!given)
            continue;
        *link = mtbal_arena_copy(node->graph->model->arena, given, sizeof *given);
        if (!*link)
            return mtbal_no_memory(diag);
        (*link)->name = a->name;
        (*link)->next = NULL;
        link = &(*link)->next;
    }
    node->attrs = list;
    return MTBAL_OK;
}

static bool has_references(const mtbal_node *node)
{
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->ref)
            return true;
    return false;
}

/* ------------------------------------------------------------------ calls */

/* A constant's tensor stays, unless a call's attribute decides it. */
static void forget_value(mtbal_value *v)
{
    v->type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    v->content = NULL;
    v->ncontent = 0;
    if (!v->def || has_references(v->def) || !mtbal_node_is(v->def, MTBAL_OP_constant))
        v->tensor = NULL;
}

static mtbal_status forget_node(mtbal_node *node, void *context)
{
    (void)context;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            forget_value(node->out[i]);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->g && i < a->g->ninputs; i++)
            if (!a->g->inputs[i]->is_initializer)
                forget_value(a->g->inputs[i]);
    return MTBAL_OK;
}

void shape_forget(mtbal_graph *graph)
{
    mtbal_graph_walk(graph, forget_node, NULL);
}

/* What a body's subgraphs declare of their inputs: it holds in every call. */
typedef struct declared {
    int count;
    mtbal_type *types; /* NULL: being counted */
    bool restore;
} declared;

static mtbal_status visit_declared(mtbal_node *node, void *context)
{
    declared *d = context;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->g && i < a->g->ninputs; i++, d->count++)
            if (d->types && d->restore)
                a->g->inputs[i]->type = d->types[d->count];
            else if (d->types)
                d->types[d->count] = a->g->inputs[i]->type;
    return MTBAL_OK;
}

static mtbal_status keep_declared(mtbal_graph *body, declared *d, mtbal_diag *diag)
{
    mtbal_graph_walk(body, visit_declared, d);
    if (!d->count)
        return MTBAL_OK;
    d->types = mtbal_malloc((size_t)d->count * sizeof *d->types);
    if (!d->types)
        return mtbal_no_memory(diag);
    d->count = 0;
    mtbal_graph_walk(body, visit_declared, d);
    return MTBAL_OK;
}

static void restore_declared(mtbal_graph *body, declared *d)
{
    if (!d->types)
        return;
    d->restore = true;
    d->count = 0;
    mtbal_graph_walk(body, visit_declared, d);
    mtbal_free(d->types);
}

static void enter_operands(const mtbal_infer *s, const mtbal_graph *body)
{
    for (int i = 0; i < body->ninputs; i++) {
        const mtbal_value *from = shape_in(s, i);
        mtbal_value *to = body->inputs[i];
        forget_value(to);
        if (!from)
            continue;
        to->type = from->type;
        to->content = from->content;
        to->ncontent = from->ncontent;
        to->tensor = from->is_input ? NULL : from->tensor;
    }
}

static mtbal_status infer_nodes(mtbal_graph *graph, struct mtbal_walk *walk, mtbal_diag *diag)
{
    for (mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(infer_at(node, walk, diag));
    return MTBAL_OK;
}

static mtbal_status infer_body(mtbal_infer *s, mtbal_graph *body, struct mtbal_walk *walk)
{
    shape_forget(body);
    enter_operands(s, body);
    MTBAL_TRY(infer_nodes(body, walk, s->diag));
    for (int i = 0; i < body->noutputs; i++) {
        const mtbal_value *from = body->outputs[i];
        MTBAL_TRY(shape_set_type(s, i, &from->type));
        if (from->content)
            MTBAL_TRY(shape_set_content(s, i, from->ncontent, from->content));
    }
    return MTBAL_OK;
}

static mtbal_status infer_call(mtbal_infer *s, const mtbal_function *f)
{
    mtbal_graph *body = f->body;
    struct mtbal_walk inner = {s->walk, f, s->node, s->walk->depth + 1, s->walk->steps};
    for (const struct mtbal_walk *w = s->walk; w; w = w->around)
        if (w->function == f)
            return shape_error(s, "the function %s calls itself", f->name);
    if (inner.depth > MAX_DEPTH)
        return shape_error(s, "functions call each other more than %d deep", MAX_DEPTH);
    declared kept = {0};
    MTBAL_TRY(keep_declared(body, &kept, s->diag));
    mtbal_status status = infer_body(s, body, &inner);
    /* types of one call say nothing about the next */
    shape_forget(body);
    for (int i = 0; i < body->ninputs; i++)
        forget_value(body->inputs[i]);
    restore_declared(body, &kept);
    return status;
}

/* For rows of the op list that are functions of ours: through the body. */
mtbal_status mtbal_shape_function(mtbal_infer *s)
{
    const mtbal_node *node = s->node;
    const mtbal_function *f = mtbal_function_find(s->model, node->domain, node->op, node->overload);
    return f ? infer_call(s, f) : MTBAL_OK;
}

/* ------------------------------------------------------------------ the walk */

static mtbal_status infer_at(mtbal_node *node, struct mtbal_walk *walk, mtbal_diag *diag)
{
    mtbal_model *model = node->graph->model;
    mtbal_infer s = {.model = model,
                     .node = node,
                     .opset = opset_of(model, walk->function, node->domain),
                     .diag = diag,
                     .walk = walk};
    mtbal_shape_fn *shape = node->opcode >= 0 ? mtbal_ops[node->opcode].shape : NULL;
    mtbal_attr *own = node->attrs;
    if (--*walk->steps < 0)
        return MTBAL_OK;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            node->out[i]->content = NULL;
    if (walk->call && has_references(node))
        MTBAL_TRY(bind_attrs(walk, node, diag));
    mtbal_status status = graph_check_attributes(node, 0, diag);
    if (status == MTBAL_OK)
        status = graph_check_operands(node, true, diag);
    if (status == MTBAL_OK)
        status = graph_check_shapes(node, diag);
    if (status == MTBAL_OK)
        status = shape ? shape(&s) : mtbal_shape_function(&s);
    node->attrs = own;
    return status;
}

mtbal_status shape_subgraph(mtbal_infer *s, mtbal_graph *graph)
{
    if (s->walk->depth >= MAX_DEPTH)
        return shape_error(s, "subgraphs nest more than %d deep", MAX_DEPTH);
    s->walk->depth++;
    mtbal_status status = infer_nodes(graph, s->walk, s->diag);
    s->walk->depth--;
    return status;
}

mtbal_status mtbal_infer_node(mtbal_node *node, mtbal_diag *diag)
{
    int64_t steps = MAX_STEPS;
    struct mtbal_walk walk = {.function = function_around(node->graph), .steps = &steps};
    return infer_at(node, &walk, diag);
}

mtbal_status mtbal_infer_graph(mtbal_graph *graph, mtbal_diag *diag)
{
    int64_t steps = MAX_STEPS;
    struct mtbal_walk walk = {.function = function_around(graph), .steps = &steps};
    return infer_nodes(graph, &walk, diag);
}
