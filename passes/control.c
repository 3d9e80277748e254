/* passes/control.c: what is decided before the run. Shape arithmetic is folded; an If with a known
 * condition is its branch; a Loop whose count or condition is known is its body, so many times.
 * Scripted PyTorch writes its for loops and its questions about shapes in this way. */
#include "passes/internal.h"

#include <string.h>

enum { MAX_TRIPS = 10000, MAX_MADE = 200000, MAX_NESTING = 100 };

typedef struct control {
    mtbal_context *c;
    mtbal_folder *folder;
    mtbal_tables *tables; /* a pool: maps of bodies */
    int made;             /* nodes pasted so far */
    int nesting;
} control;

static mtbal_status walk(control *s, mtbal_node *first, mtbal_node *end);

/* Known before the run, as an integer. */
static bool known(const mtbal_value *v, int64_t *x)
{
    const mtbal_tensor *t = v && !v->is_input ? v->tensor : NULL;
    bool integer =
        t && (t->dtype == MTBAL_INT64 || t->dtype == MTBAL_INT32 || t->dtype == MTBAL_BOOL);
    if (!integer || t->count != 1 || !t->data)
        return false;
    *x = mtbal_tensor_i64(t, 0);
    return true;
}

static mtbal_value *resolve(mtbal_value *const *map, int nmap, mtbal_value *v)
{
    return v->id < nmap && map[v->id] ? map[v->id] : v;
}

static int count_nodes(const mtbal_graph *graph)
{
    int n = 0;
    for (const mtbal_node *node = graph->first; node; node = node->next) {
        n++;
        for (const mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                n += count_nodes(a->g);
    }
    return n;
}

/* Copies a subgraph's nodes before `node`. */
static mtbal_status paste(control *s, mtbal_node *node, mtbal_graph *body, mtbal_value **map,
                          int nmap, const char *prefix)
{
    mtbal_builder b;
    mtbal_builder_init(&b, node->graph, node, s->c->diag);
    for (int i = 0; i < body->ninitializers; i++) {
        mtbal_value *from = body->initializers[i];
        if (!from->is_input && !(map[from->id] = mtbal_const_tensor(&b, from->tensor)))
            return mtbal_no_memory(s->c->diag);
    }
    return mtbal_graph_copy_nodes(body, node->graph, node, map, nmap, prefix) == MTBAL_OK
               ? MTBAL_OK
               : mtbal_no_memory(s->c->diag);
}

/* The node's output i becomes `value`. */
static mtbal_status settle(control *s, mtbal_node *node, int i, mtbal_value *value)
{
    mtbal_value *out = node->out[i];
    if (!out)
        return MTBAL_OK;
    mtbal_node *copy = mtbal_node_new(node->graph, node, "", "Identity", 1, &value, 0);
    if (!copy || mtbal_node_set_output(copy, 0, out) != MTBAL_OK)
        return mtbal_no_memory(s->c->diag);
    copy->name = out->name;
    node->out[i] = NULL;
    MTBAL_TRY(mtbal_infer_node(copy, s->c->diag));
    return mtbal_fold_node(s->folder, copy);
}

static mtbal_node *after(mtbal_graph *graph, mtbal_node *before)
{
    return before ? before->next : graph->first;
}

static const char *prefix_of(control *s, const mtbal_node *node, int64_t trip)
{
    const char *name = *node->name ? node->name : node->op;
    return trip < 0 ? mtbal_arena_printf(s->c->model->arena, "%s/", name)
                    : mtbal_arena_printf(s->c->model->arena, "%s/%lld/", name, (long long)trip);
}

/* ------------------------------------------------------------------ If */

static mtbal_status take_branch(control *s, mtbal_node *node, bool yes, mtbal_value **map, int nmap)
{
    mtbal_attr *a = mtbal_attr_find(node, yes ? "then_branch" : "else_branch");
    mtbal_graph *graph = node->graph;
    mtbal_node *before = node->prev;
    if (!a || !a->g || a->g->noutputs < node->nout)
        return MTBAL_OK;
    s->made += count_nodes(a->g);
    MTBAL_TRY(paste(s, node, a->g, map, nmap, prefix_of(s, node, -1)));
    MTBAL_TRY(walk(s, after(graph, before), node));
    for (int i = 0; i < node->nout; i++)
        MTBAL_TRY(settle(s, node, i, resolve(map, nmap, a->g->outputs[i])));
    mtbal_node_remove(node);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ Loop */

typedef struct trip {
    mtbal_value **scans; /* [nscan] what the trip gives to each scan output */
    struct trip *next;
} trip;

typedef struct unrolling {
    mtbal_node *node;
    mtbal_graph *body;
    mtbal_tables *tables; /* of the map */
    mtbal_value **map;
    int nmap, carried, nscan;
    mtbal_value **state; /* [carried] */
    trip *first, **last;
    int64_t count;
    bool undecided; /* whether there is another trip depends on the run */
} unrolling;

/* The body once more; false in *more when the condition says that it was the last time. */
static mtbal_status one_trip(control *s, unrolling *u, bool *more)
{
    mtbal_builder b;
    mtbal_graph *body = u->body;
    mtbal_node *before = u->node->prev;
    mtbal_arena *arena = s->c->model->arena;
    int64_t goes_on = 1;
    mtbal_builder_init(&b, u->node->graph, u->node, s->c->diag);
    mtbal_tables_clear_graph(u->tables, body);
    u->map[body->inputs[0]->id] = mtbal_const_i64(&b, u->count);
    u->map[body->inputs[1]->id] = mtbal_const_scalar(&b, MTBAL_BOOL, 1);
    for (int i = 0; i < u->carried; i++)
        u->map[body->inputs[2 + i]->id] = u->state[i];
    MTBAL_TRY(b.status);
    MTBAL_TRY(paste(s, u->node, body, u->map, u->nmap, prefix_of(s, u->node, u->count)));
    MTBAL_TRY(walk(s, after(u->node->graph, before), u->node));
    trip *t = mtbal_arena_alloc(arena, sizeof *t);
    if (t)
        t->scans = mtbal_arena_array(arena, (size_t)u->nscan, sizeof *t->scans);
    if (!t || !t->scans)
        return mtbal_no_memory(s->c->diag);
    *u->last = t;
    u->last = &t->next;
    u->count++;
    u->undecided = !known(resolve(u->map, u->nmap, body->outputs[0]), &goes_on);
    *more = goes_on != 0;
    for (int i = 0; i < u->carried; i++)
        u->state[i] = resolve(u->map, u->nmap, body->outputs[1 + i]);
    for (int i = 0; i < u->nscan; i++)
        t->scans[i] = resolve(u->map, u->nmap, body->outputs[1 + u->carried + i]);
    return MTBAL_OK;
}

/* Scan output i: the trips' values along a new first axis. */
static mtbal_value *stack(mtbal_builder *b, const unrolling *u, int i)
{
    const int64_t zero = 0;
    int n = 0;
    mtbal_value **parts =
        mtbal_arena_array(b->graph->model->arena, (size_t)u->count, sizeof *parts);
    for (const trip *t = u->first; t && parts; t = t->next)
        parts[n++] = mtbal_emit(b, "Unsqueeze", t->scans[i], mtbal_const_i64s(b, 1, &zero));
    return parts ? mtbal_emit_attrs(b, "Concat", n, parts, "axis=i", zero) : NULL;
}

static mtbal_status settle_loop(control *s, unrolling *u)
{
    mtbal_builder b;
    mtbal_builder_init(&b, u->node->graph, u->node, s->c->diag);
    for (int i = 0; i < u->node->nout; i++) {
        if (!u->node->out[i])
            continue;
        mtbal_value *value = i < u->carried ? u->state[i] : stack(&b, u, i - u->carried);
        MTBAL_TRY(b.status);
        if (!value)
            return mtbal_no_memory(s->c->diag);
        MTBAL_TRY(settle(s, u->node, i, value));
    }
    mtbal_node_remove(u->node);
    return MTBAL_OK;
}

/* What was pasted for trips that turned out to be undecided. */
static void take_back(mtbal_node *before, mtbal_node *node)
{
    while (node->prev != before)
        mtbal_node_remove(node->prev);
}

static mtbal_status unroll(control *s, mtbal_node *node, mtbal_tables *tables, int nmap)
{
    mtbal_attr *a = mtbal_attr_find(node, "body");
    mtbal_graph *body = a && a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
    mtbal_node *before = node->prev;
    int64_t most = MAX_TRIPS + 1, start = 1;
    bool more = true;
    unrolling u = {.node = node,
                   .body = body,
                   .tables = tables,
                   .map = tables->value,
                   .nmap = nmap,
                   .carried = node->nin - 2};
    u.nscan = node->nout - u.carried;
    bool counted = node->nin > 0 && node->in[0], asked = node->nin > 1 && node->in[1];
    if (!body || u.carried < 0 || body->ninputs != u.carried + 2 ||
        body->noutputs < 1 + node->nout || node->nout < u.carried ||
        (counted && !known(node->in[0], &most)) || (asked && !known(node->in[1], &start)))
        return MTBAL_OK;
    if (!start || most < 0)
        most = 0;
    double nodes = counted ? (double)most * count_nodes(body) : 0;
    u.state = mtbal_arena_array(s->c->model->arena, (size_t)u.carried, sizeof *u.state);
    if (!u.state)
        return mtbal_no_memory(s->c->diag);
    if ((most == 0 && u.nscan > 0) || (counted && most > MAX_TRIPS) || s->made + nodes > MAX_MADE)
        return MTBAL_OK;
    u.last = &u.first;
    memcpy(u.state, node->in + 2, (size_t)u.carried * sizeof *u.state);
    while (more && u.count < most) {
        s->made += count_nodes(body);
        MTBAL_TRY(one_trip(s, &u, &more));
        if (u.undecided || s->made > MAX_MADE || u.count > MAX_TRIPS) {
            take_back(before, node);
            return MTBAL_OK;
        }
    }
    return settle_loop(s, &u);
}

/* ------------------------------------------------------------------ the walk */

static mtbal_status decide(control *s, mtbal_node *node)
{
    int64_t condition;
    bool is_if = mtbal_node_is(node, MTBAL_OP_if), is_loop = mtbal_node_is(node, MTBAL_OP_loop);
    if ((!is_if && !is_loop) || s->nesting >= MAX_NESTING || s->made > MAX_MADE)
        return MTBAL_OK;
    if (is_if && (node->nin < 1 || !known(node->in[0], &condition)))
        return MTBAL_OK;
    int nmap = s->c->model->nvalues;
    mtbal_tables *t = mtbal_tables_take(&s->tables, nmap);
    if (!t)
        return mtbal_no_memory(s->c->diag);
    const char *const bodies[] = {"then_branch", "else_branch", "body"};
    mtbal_graph *graphs[3] = {0}; /* the node may be gone afterwards */
    for (int i = 0; i < 3; i++) {
        const mtbal_attr *a = mtbal_attr_find(node, bodies[i]);
        graphs[i] = a && a->kind == MTBAL_ATTR_GRAPH ? a->g : NULL;
    }
    s->nesting++;
    mtbal_status status =
        is_if ? take_branch(s, node, condition != 0, t->value, nmap) : unroll(s, node, t, nmap);
    s->nesting--;
    for (int i = 0; i < 3; i++)
        if (graphs[i])
            mtbal_tables_clear_graph(t, graphs[i]);
    mtbal_tables_give(&s->tables, t, 0, 0);
    return status;
}

/* Nodes from `first` up to `end`, in order: what is pasted on the way has been walked already. */
static mtbal_status walk(control *s, mtbal_node *first, mtbal_node *end)
{
    for (mtbal_node *node = first, *next; node && node != end; node = next) {
        next = node->next;
        if (s->nesting)
            MTBAL_TRY(mtbal_infer_node(node, s->c->diag));
        if (mtbal_fold_node(s->folder, node) != MTBAL_OK)
            return mtbal_no_memory(s->c->diag);
        MTBAL_TRY(mtbal_resolve_sequence(node, s->c->diag));
        MTBAL_TRY(decide(s, node));
    }
    return MTBAL_OK;
}

mtbal_status mtbal_pass_control(mtbal_context *c)
{
    control s = {.c = c, .folder = mtbal_folder_new()};
    if (!s.folder)
        return mtbal_no_memory(c->diag);
    mtbal_status status = walk(&s, c->graph->first, NULL);
    mtbal_folder_free(s.folder);
    mtbal_tables_free(s.tables);
    return status != MTBAL_OK || !s.made ? status : mtbal_infer_graph(c->graph, c->diag);
}
