/* graph/verify.c: is it a graph? Sorts it topologically, then checks it. Linear in nodes and
 * operands. */
#include "graph/graph.h"

#include <string.h>

typedef struct checker {
    mtbal_model *model;
    mtbal_diag *diag;
    mtbal_arena *arena;   /* of this check */
    unsigned char *state; /* by value id: is it defined at this point */
} checker;

static const char *label(const mtbal_node *node, char text[256])
{
    snprintf(text, 256, "node %s (%s)",
             *node->name                  ? node->name
             : node->nout && node->out[0] ? node->out[0]->name
                                          : "?",
             node->op);
    return text;
}

/* ------------------------------------------------------------------ sorting */

/* A value that the node needs from its own graph: operands, and what subgraphs capture. */
typedef struct need_list {
    mtbal_graph *graph;
    mtbal_node **nodes; /* pairs (producer, user) */
    size_t count, capacity;
    mtbal_arena *arena;
    mtbal_node *user;
    bool failed;
} need_list;

static void add_need(need_list *list, const mtbal_value *value)
{
    mtbal_node *def = value ? value->def : NULL;
    if (!def || def->graph != list->graph || def == list->user)
        return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        mtbal_node **bigger = mtbal_arena_array(list->arena, 2 * capacity, sizeof *bigger);
        if (!bigger) {
            list->failed = true;
            return;
        }
        if (list->count)
            memcpy(bigger, list->nodes, 2 * list->count * sizeof *bigger);
        list->nodes = bigger;
        list->capacity = capacity;
    }
    list->nodes[2 * list->count] = def;
    list->nodes[2 * list->count++ + 1] = list->user;
}

static mtbal_status add_captured(mtbal_node *node, void *context)
{
    need_list *list = context;
    for (int i = 0; i < node->nin; i++)
        add_need(list, node->in[i]);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            for (int i = 0; i < a->g->noutputs; i++)
                add_need(list, a->g->outputs[i]);
    return list->failed ? MTBAL_NOMEM : MTBAL_OK;
}

static mtbal_status collect_needs(mtbal_graph *graph, need_list *list)
{
    for (mtbal_node *node = graph->first; node; node = node->next) {
        list->user = node;
        for (int i = 0; i < node->nin; i++)
            add_need(list, node->in[i]);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g) {
                MTBAL_TRY(mtbal_graph_walk(a->g, add_captured, list));
                for (int i = 0; i < a->g->noutputs; i++)
                    add_need(list, a->g->outputs[i]);
            }
    }
    return list->failed ? MTBAL_NOMEM : MTBAL_OK;
}

static bool in_order(const need_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->nodes[2 * i]->mark >= list->nodes[2 * i + 1]->mark)
            return false;
    return true;
}

static mtbal_status report_cycle(const need_list *list, const int *waits, mtbal_diag *diag)
{
    char text[1024] = "", one[256];
    size_t n = 0;
    int named = 0;
    for (size_t i = 0; i < list->count && named < 6; i++) {
        const mtbal_node *user = list->nodes[2 * i + 1];
        if (waits[user->mark] > 0 && waits[list->nodes[2 * i]->mark] > 0 && n < sizeof text) {
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", named ? ", " : "",
                                  label(user, one));
            named++;
        }
    }
    return mtbal_fail(diag, MTBAL_INVALID, "graph",
                      "an ONNX graph has no loops but the Loop operator",
                      "there is a cycle through %s", text);
}

/* Kahn's algorithm; keeps the present order among nodes that are ready. */
static mtbal_status sort_nodes(checker *c, mtbal_graph *graph)
{
    int n = 0;
    for (mtbal_node *node = graph->first; node; node = node->next)
        node->mark = n++;
    need_list list = {.graph = graph, .arena = c->arena};
    if (collect_needs(graph, &list) != MTBAL_OK)
        return mtbal_no_memory(c->diag);
    if (in_order(&list))
        return MTBAL_OK;
    int *waits = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *waits);
    int *first = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *first);
    mtbal_node **users = mtbal_arena_array(c->arena, list.count + 1, sizeof *users);
    mtbal_node **queue = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *queue);
    if (!waits || !first || !users || !queue)
        return mtbal_no_memory(c->diag);
    for (size_t i = 0; i < list.count; i++) {
        first[list.nodes[2 * i]->mark + 1]++;
        waits[list.nodes[2 * i + 1]->mark]++;
    }
    for (int i = 0; i < n; i++)
        first[i + 1] += first[i];
    int *fill = mtbal_arena_copy(c->arena, first, (size_t)(n + 1) * sizeof *fill);
    if (!fill)
        return mtbal_no_memory(c->diag);
    for (size_t i = 0; i < list.count; i++)
        users[fill[list.nodes[2 * i]->mark]++] = list.nodes[2 * i + 1];
    int head = 0, tail = 0;
    for (mtbal_node *node = graph->first; node; node = node->next)
        if (waits[node->mark] == 0)
            queue[tail++] = node;
    while (head < tail) {
        const mtbal_node *node = queue[head++];
        for (int i = first[node->mark]; i < first[node->mark + 1]; i++)
            if (--waits[users[i]->mark] == 0)
                queue[tail++] = users[i];
    }
    if (tail < n)
        return report_cycle(&list, waits, c->diag);
    for (int i = 0; i < n; i++)
        mtbal_node_move(queue[i], NULL);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ checking */

static mtbal_status check_graph(checker *c, mtbal_graph *graph);

static mtbal_status define(checker *c, const mtbal_value *value, const char *where)
{
    if (c->state[value->id])
        return mtbal_fail(c->diag, MTBAL_INVALID, where, "every value has one definition",
                          "the value %s is defined twice", value->name);
    c->state[value->id] = 1;
    return MTBAL_OK;
}

static mtbal_status check_node(checker *c, mtbal_node *node)
{
    char text[256];
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && !c->state[node->in[i]->id])
            return mtbal_fail(
                c->diag, MTBAL_INVALID, label(node, text),
                "every operand is an input, an initializer or an output of an earlier node",
                "its operand %s is not defined", node->in[i]->name);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            MTBAL_TRY(check_graph(c, a->g));
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            MTBAL_TRY(define(c, node->out[i], label(node, text)));
    return MTBAL_OK;
}

static mtbal_status check_graph(checker *c, mtbal_graph *graph)
{
    MTBAL_TRY(sort_nodes(c, graph));
    for (int i = 0; i < graph->ninputs; i++)
        MTBAL_TRY(define(c, graph->inputs[i], "graph inputs"));
    for (int i = 0; i < graph->ninitializers; i++)
        if (!graph->initializers[i]->is_input)
            MTBAL_TRY(define(c, graph->initializers[i], "initializers"));
    for (mtbal_node *node = graph->first; node; node = node->next)
        MTBAL_TRY(check_node(c, node));
    for (int i = 0; i < graph->noutputs; i++)
        if (!c->state[graph->outputs[i]->id])
            return mtbal_fail(c->diag, MTBAL_INVALID, "graph outputs",
                              "name a value that the graph computes",
                              "the output %s is not defined", graph->outputs[i]->name);
    return MTBAL_OK;
}

mtbal_status mtbal_verify(mtbal_model *model, mtbal_diag *diag)
{
    checker c = {.model = model, .diag = diag, .arena = mtbal_arena_new()};
    mtbal_status status = MTBAL_NOMEM;
    if (c.arena)
        c.state = mtbal_arena_alloc(c.arena, (size_t)model->nvalues + 1);
    if (c.state)
        status = check_graph(&c, model->graph);
    else
        mtbal_no_memory(diag);
    for (int i = 0; i < model->nfunctions && status == MTBAL_OK; i++)
        status = check_graph(&c, model->functions[i]->body);
    mtbal_arena_free(c.arena);
    return status;
}
