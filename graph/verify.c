/* graph/verify.c: is it a graph? Sorts every graph topologically, then checks it. Linear in nodes
 * and operands; recurses over nested subgraphs only, never along a chain of nodes. */
#include "graph/internal.h"

#include <string.h>

enum { DEFINED = 1, VISIBLE = 2 };

typedef struct name_slot {
    const char *name;
    int scope;
} name_slot;

typedef struct checker {
    mtbal_model *model;
    mtbal_diag *diag;
    mtbal_arena *arena;        /* of this check */
    unsigned char *state;      /* by value id: DEFINED anywhere, VISIBLE at this point */
    name_slot *names;          /* set of names, open addressing; a slot of another scope is free */
    size_t names_mask;         /* its size - 1 */
    int scope;                 /* number of the main graph or function that is being checked */
    const mtbal_function *in;  /* the function, or NULL */
    unsigned char *calls_seen; /* by function: 1 on the path of calls, 2 done */
} checker;

/* ------------------------------------------------------------------ sorting */

/* What every node needs of its own graph: the producers of its operands and of what its subgraphs
 * capture. Those of the node marked m are nodes[first[m]] to nodes[first[m + 1] - 1]. */
typedef struct needs {
    const mtbal_graph *graph;
    mtbal_arena *arena;
    size_t count, capacity;
    mtbal_node **nodes;
    size_t *first;
    int user;     /* mark of the present user */
    bool ordered; /* every producer so far stands before its user */
} needs;

static mtbal_status add_need(needs *s, const mtbal_value *value)
{
    mtbal_node *def = value ? value->def : NULL;
    if (!def || def->graph != s->graph)
        return MTBAL_OK;
    if (s->count == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 256;
        mtbal_node **bigger = mtbal_arena_array(s->arena, capacity, sizeof *bigger);
        if (!bigger)
            return MTBAL_NOMEM;
        if (s->count)
            memcpy(bigger, s->nodes, s->count * sizeof *bigger);
        s->nodes = bigger;
        s->capacity = capacity;
    }
    s->nodes[s->count++] = def;
    s->ordered = s->ordered && def->mark < s->user;
    return MTBAL_OK;
}

/* The operands of a node, and the outputs of its subgraphs; the nodes in those are visited by the
 * walk. */
static mtbal_status add_needs(mtbal_node *node, void *context)
{
    for (int i = 0; i < node->nin; i++)
        MTBAL_TRY(add_need(context, node->in[i]));
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            MTBAL_TRY(add_need(context, a->g->outputs[i]));
    return MTBAL_OK;
}

static mtbal_status collect_needs(mtbal_graph *graph, needs *s)
{
    int n = 0;
    for (mtbal_node *node = graph->first; node; node = node->next)
        node->mark = n++;
    s->first = mtbal_arena_array(s->arena, (size_t)n + 1, sizeof *s->first);
    if (!s->first)
        return MTBAL_NOMEM;
    for (mtbal_node *node = graph->first; node; node = node->next) {
        s->user = node->mark;
        s->first[node->mark] = s->count;
        MTBAL_TRY(add_needs(node, s));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, add_needs, s));
    }
    s->first[n] = s->count;
    return MTBAL_OK;
}

/* path[0 .. depth-1] leads from a user to what it needs, and the last needs `again`, on the path.
 */
static mtbal_status report_cycle(mtbal_node *const *path, int depth, const mtbal_node *again,
                                 mtbal_diag *diag)
{
    char text[2048] = "", one[256];
    size_t used = 0;
    int from = depth - 1, named = 0;
    while (path[from] != again)
        from--;
    for (int i = depth - 1; i >= from && named < 6; i--, named++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", named ? ", " : "",
                                 mtbal_node_label(path[i], one));
    return mtbal_fail(diag, MTBAL_INVALID, "graph",
                      "an ONNX graph has no loops but those of the Loop and Scan operators",
                      "%d nodes need each other in a circle: %s%s", depth - from, text,
                      depth - from > named ? ", ..." : "");
}

typedef struct sorter {
    mtbal_node **order, **path;
    size_t *next;         /* by mark: the next need to look at */
    unsigned char *state; /* by mark: 1 on the path, 2 placed */
    int placed;
} sorter;

/* Places the node behind everything that it needs. */
static mtbal_status place(sorter *s, const needs *list, mtbal_node *node, mtbal_diag *diag)
{
    int depth = 0;
    s->path[depth++] = node;
    s->state[node->mark] = 1;
    while (depth) {
        mtbal_node *top = s->path[depth - 1];
        if (s->next[top->mark] == list->first[top->mark + 1]) {
            s->order[s->placed++] = top;
            s->state[top->mark] = 2;
            depth--;
            continue;
        }
        mtbal_node *need = list->nodes[s->next[top->mark]++];
        if (s->state[need->mark] == 1)
            return report_cycle(s->path, depth, need, diag);
        if (s->state[need->mark] == 0) {
            s->state[need->mark] = 1;
            s->path[depth++] = need;
        }
    }
    return MTBAL_OK;
}

/* Depth first in the present order: a node moves only ahead of the first that needs it. */
static mtbal_status sort_nodes(checker *c, mtbal_graph *graph)
{
    needs list = {.graph = graph, .arena = c->arena, .ordered = true};
    if (collect_needs(graph, &list) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    if (list.ordered)
        return MTBAL_OK;
    size_t n = (size_t)graph->nnodes;
    sorter s = {
        .order = mtbal_arena_array(c->arena, n, sizeof *s.order),
        .path = mtbal_arena_array(c->arena, n, sizeof *s.path),
        .next = mtbal_arena_copy(c->arena, list.first, (n + 1) * sizeof *s.next),
        .state = mtbal_arena_alloc(c->arena, n),
    };
    if (!s.order || !s.path || !s.next || !s.state)
        return mtbal_no_memory(c->diag);
    for (mtbal_node *node = graph->first; node; node = node->next)
        if (!s.state[node->mark])
            MTBAL_TRY(place(&s, &list, node, c->diag));
    for (int i = 0; i < s.placed; i++)
        mtbal_node_move(s.order[i], NULL);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ definitions and names */

/* Where a value is defined, for messages. */
static const char *place_of(const mtbal_value *value, const mtbal_node *def, char text[256])
{
    if (def)
        return mtbal_node_label(def, text);
    snprintf(text, 256, "%s %.200s", value->is_input ? "input" : "initializer", value->name);
    return text;
}

/* A name once in a main graph and its subgraphs, or once in a function. */
static mtbal_status check_name(checker *c, const mtbal_value *value, const mtbal_node *def)
{
    char text[256];
    if (!*value->name)
        return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, def, text),
                          "export the model again", "there is a value without a name");
    size_t i = (size_t)((uint64_t)((uintptr_t)value->name >> 4) * 0x9E3779B97F4A7C15u >> 32);
    for (i &= c->names_mask; c->names[i].name && c->names[i].scope == c->scope;
         i = (i + 1) & c->names_mask)
        if (c->names[i].name == value->name)
            return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, def, text),
                              "every value needs its own name", "there are two values named %s",
                              value->name);
    c->names[i] = (name_slot){value->name, c->scope};
    return MTBAL_OK;
}

/* `def`: the node, or NULL for inputs and initializers. */
static mtbal_status define(checker *c, const mtbal_graph *graph, const mtbal_value *value,
                           const mtbal_node *def)
{
    char text[256];
    if (c->state[value->id] & DEFINED)
        return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, def, text),
                          "every value has one definition", "the value %s is defined twice",
                          value->name);
    if (value->graph != graph || value->def != def)
        return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, def, text),
                          "please report this, with the model",
                          "the value %s does not know where it is defined", value->name);
    MTBAL_TRY(check_name(c, value, def));
    c->state[value->id] = DEFINED | VISIBLE;
    return MTBAL_OK;
}

static bool dims_fit(const mtbal_type *type, const mtbal_tensor *tensor)
{
    if (type->rank < 0)
        return true;
    if (type->rank != tensor->rank)
        return false;
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i].size >= 0 && type->dims[i].size != tensor->dims[i])
            return false;
    return true;
}

static mtbal_status check_initializer(checker *c, const mtbal_graph *graph,
                                      const mtbal_value *value)
{
    const mtbal_tensor *t = value->tensor;
    char text[256];
    if (!value->is_input)
        MTBAL_TRY(define(c, graph, value, NULL));
    if (t && value->type.dtype != MTBAL_UNDEFINED && value->type.dtype != t->dtype)
        return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, NULL, text),
                          "export the model again", "its data is %s, but it is declared %s",
                          mtbal_dtype_name(t->dtype), mtbal_dtype_name(value->type.dtype));
    if (t && !dims_fit(&value->type, t))
        return mtbal_fail(c->diag, MTBAL_INVALID, place_of(value, NULL, text),
                          "export the model again",
                          "the shape of its data is not the shape that is declared");
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ nodes and graphs */

static mtbal_status check_graph(checker *c, mtbal_graph *graph);

static mtbal_status check_operand(checker *c, const mtbal_node *node, const mtbal_value *value)
{
    char text[256];
    if (!value || c->state[value->id] & VISIBLE)
        return MTBAL_OK;
    bool elsewhere = c->state[value->id] & DEFINED;
    return mtbal_fail(c->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                      "an operand is an input, an initializer or an output of a node, of this "
                      "graph or one around it",
                      elsewhere ? "its operand %s belongs to a graph that it cannot see"
                                : "its operand %s is not defined",
                      value->name);
}

/* A function may have as few operands in a call as it likes, but no more than it names. */
static mtbal_status check_call(checker *c, const mtbal_node *node)
{
    const mtbal_function *f = mtbal_function_find(c->model, node->domain, node->op, node->overload);
    char text[256];
    if (f && (node->nin > f->body->ninputs || node->nout > f->body->noutputs))
        return mtbal_fail(c->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                          "compare the call with the model-local function",
                          "it has %d inputs and %d outputs, the function %d and %d", node->nin,
                          node->nout, f->body->ninputs, f->body->noutputs);
    return MTBAL_OK;
}

static mtbal_status check_attr(checker *c, const mtbal_node *node, const mtbal_attr *a)
{
    char text[256];
    if (a->ref && !c->in)
        return mtbal_fail(c->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                          "only a function's body may refer to attributes",
                          "its attribute %s refers to %s", a->name, a->ref);
    if (a->kind != MTBAL_ATTR_GRAPH || !a->g)
        return MTBAL_OK;
    if (a->g->owner != node || a->g->parent != node->graph)
        return mtbal_fail(c->diag, MTBAL_INVALID, mtbal_node_label(node, text),
                          "please report this, with the model",
                          "its subgraph %s does not know its node", a->g->name);
    return check_graph(c, a->g);
}

static mtbal_status check_node(checker *c, mtbal_node *node)
{
    for (int i = 0; i < node->nin; i++)
        MTBAL_TRY(check_operand(c, node, node->in[i]));
    if (node->opcode >= 0) /* types in a function are those of the last call only */
        MTBAL_TRY(graph_check_operands(node, !c->in, c->diag));
    else
        MTBAL_TRY(check_call(c, node));
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        MTBAL_TRY(check_attr(c, node, a));
    MTBAL_TRY(graph_check_known(node, c->in, c->diag));
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            MTBAL_TRY(define(c, node->graph, node->out[i], node));
    return MTBAL_OK;
}

/* What a subgraph defines is out of sight behind it. */
static void leave(checker *c, const mtbal_graph *graph)
{
    for (int i = 0; i < graph->ninputs; i++)
        c->state[graph->inputs[i]->id] = DEFINED;
    for (int i = 0; i < graph->ninitializers; i++)
        c->state[graph->initializers[i]->id] = DEFINED;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                c->state[node->out[i]->id] = DEFINED;
}

static mtbal_status check_graph(checker *c, mtbal_graph *graph)
{
    MTBAL_TRY(sort_nodes(c, graph));
    for (int i = 0; i < graph->ninputs; i++)
        MTBAL_TRY(define(c, graph, graph->inputs[i], NULL));
    for (int i = 0; i < graph->ninitializers; i++)
        MTBAL_TRY(check_initializer(c, graph, graph->initializers[i]));
    for (mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(check_node(c, node));
    for (int i = 0; i < graph->noutputs; i++)
        if (!(c->state[graph->outputs[i]->id] & VISIBLE))
            return mtbal_fail(c->diag, MTBAL_INVALID, "graph outputs",
                              "name a value that the graph computes",
                              "the output %s is not defined", graph->outputs[i]->name);
    leave(c, graph);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ functions */

enum { MAX_CALL_DEPTH = 64 }; /* as in shape inference */

typedef struct caller {
    checker *checker;
    int depth;
} caller;

static mtbal_status check_calls_of(checker *c, int index, int depth);

/* Follows the call in `node`, when it calls a function. */
static mtbal_status follow_call(mtbal_node *node, void *context)
{
    const caller *from = context;
    checker *c = from->checker;
    int f = node->opcode >= 0
                ? -1
                : mtbal_function_index(c->model, node->domain, node->op, node->overload);
    return f < 0 ? MTBAL_OK : check_calls_of(c, f, from->depth + 1);
}

static mtbal_status check_calls_of(checker *c, int index, int depth)
{
    const mtbal_function *f = c->model->functions[index];
    if (c->calls_seen[index] == 2)
        return MTBAL_OK;
    if (c->calls_seen[index] == 1 || depth > MAX_CALL_DEPTH)
        return mtbal_fail(c->diag, MTBAL_INVALID, f->name, "ONNX functions are not recursive",
                          depth > MAX_CALL_DEPTH ? "functions call each other too deeply"
                                                 : "the function calls itself");
    c->calls_seen[index] = 1;
    caller from = {c, depth};
    MTBAL_TRY(mtbal_graph_walk(f->body, follow_call, &from));
    c->calls_seen[index] = 2;
    return MTBAL_OK;
}

static mtbal_status check_functions(checker *c)
{
    for (int i = 0; i < c->model->nfunctions; i++) {
        c->in = c->model->functions[i];
        c->scope++;
        MTBAL_TRY(graph_check_opsets(c->model, c->in->nopsets, c->in->opsets, c->diag));
        MTBAL_TRY(check_graph(c, c->in->body));
        MTBAL_TRY(check_calls_of(c, i, 0));
    }
    return MTBAL_OK;
}

static mtbal_status check_model(checker *c)
{
    size_t n = (size_t)c->model->nvalues, size = 16;
    while (size < 2 * n)
        size *= 2;
    c->names_mask = size - 1;
    c->names = mtbal_arena_array(c->arena, size, sizeof *c->names);
    c->state = mtbal_arena_alloc(c->arena, n);
    c->calls_seen = mtbal_arena_alloc(c->arena, (size_t)c->model->nfunctions);
    if (!c->names || !c->state || !c->calls_seen)
        return mtbal_no_memory(c->diag);
    c->scope = 1;
    MTBAL_TRY(graph_check_opsets(c->model, c->model->nopsets, c->model->opsets, c->diag));
    MTBAL_TRY(check_graph(c, c->model->graph));
    return check_functions(c);
}

mtbal_status mtbal_verify(mtbal_model *model, mtbal_diag *diag)
{
    checker c = {.model = model, .diag = diag, .arena = mtbal_arena_new()};
    mtbal_status status = c.arena ? check_model(&c) : mtbal_no_memory(diag);
    mtbal_arena_free(c.arena);
    return status;
}
