/* passes/branches.c: the gradient of an If whose condition only the run decides: an If of the same
 * condition, whose branches compute the branch once more and then its gradient. Only the branch
 * that was taken is differentiated: nothing of the other, perhaps infinite there, gets in. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <string.h>

typedef struct reading {
    const bool *marked; /* by value id */
    int n;
    bool found;
} reading;

static mtbal_status reads(mtbal_node *node, void *context)
{
    reading *r = context;
    for (int i = 0; i < node->nin; i++)
        r->found =
            r->found || (node->in[i] && node->in[i]->id < r->n && r->marked[node->in[i]->id]);
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            r->found = r->found || (a->g->outputs[i]->id < r->n && r->marked[a->g->outputs[i]->id]);
    return MTBAL_OK;
}

bool mtbal_reads(mtbal_node *node, const bool *marked, int n)
{
    reading r = {marked, n, false};
    reads(node, &r);
    for (mtbal_attr *a = node->attrs; a && !r.found; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            mtbal_graph_walk(a->g, reads, &r);
    return r.found;
}

/* ------------------------------------------------------------------ what is wanted */

typedef struct crossing {
    mtbal_sweep *s;
    mtbal_node *node;
    mtbal_diag *diag;
    int nwanted, room;
    mtbal_value **wanted; /* values around the If that its branches read and the sweep wants */
    mtbal_tables *seen;
    const char *refused;
} crossing;

static mtbal_status want(crossing *x, mtbal_value *v)
{
    const mtbal_sweep *s = x->s;
    if (!v || v->id >= s->nvalues || !s->active[v->id] || x->seen->marked[v->id])
        return MTBAL_OK;
    if (x->nwanted == x->room) {
        x->room = x->room ? 2 * x->room : 8;
        mtbal_value **more =
            mtbal_arena_array(s->graph->model->arena, (size_t)x->room, sizeof *more);
        if (!more)
            return mtbal_no_memory(x->diag);
        if (x->nwanted)
            memcpy(more, x->wanted, (size_t)x->nwanted * sizeof *more);
        x->wanted = more;
    }
    x->seen->marked[v->id] = true;
    x->wanted[x->nwanted++] = v;
    return MTBAL_OK;
}

static mtbal_status collect(mtbal_node *node, void *context)
{
    crossing *x = context;
    if (mtbal_node_has(node, MTBAL_RANDOM))
        x->refused = "its branches draw random numbers, which would be others in the gradient";
    for (int i = 0; i < node->nin; i++)
        MTBAL_TRY(want(x, node->in[i]));
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            MTBAL_TRY(want(x, a->g->outputs[i]));
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ one branch */

/* Values of the branch that lie between what is wanted and its outputs. */
static void mark_active(const mtbal_graph *branch, bool *active)
{
    for (mtbal_node *node = branch->first; node; node = node->next) {
        bool any = mtbal_reads(node, active, branch->model->nvalues);
        for (int i = 0; i < node->nout; i++)
            if (node->out[i])
                active[node->out[i]->id] = any && (mtbal_dtype_is_float(node->out[i]->type.dtype) ||
                                                   node->out[i]->type.dtype == MTBAL_UNDEFINED);
    }
}

static mtbal_value *copied(mtbal_value *const *map, int nmap, mtbal_value *v)
{
    return v->id < nmap && map[v->id] ? map[v->id] : v;
}

/* The branch's nodes once more, in `into`; its initializers as Constants. */
static mtbal_status copy_forward(const crossing *x, mtbal_graph *from, mtbal_graph *into,
                                 mtbal_value **map, int nmap, const char *prefix)
{
    mtbal_builder b;
    mtbal_builder_init(&b, into, NULL, x->diag);
    b.role = "gradient";
    for (int i = 0; i < from->ninitializers; i++)
        map[from->initializers[i]->id] = mtbal_const_tensor(&b, from->initializers[i]->tensor);
    MTBAL_TRY(b.status);
    return mtbal_graph_copy_nodes(from, into, NULL, map, nmap, prefix) == MTBAL_OK
               ? MTBAL_OK
               : mtbal_no_memory(x->diag);
}

/* The cotangents of what is wanted, as outputs: each by a node of the branch. */
static mtbal_status give_out(const crossing *x, mtbal_builder *b, mtbal_value *const *cotangent)
{
    for (int i = 0; i < x->nwanted; i++) {
        mtbal_value *v = x->wanted[i], *g = cotangent[v->id];
        if (!g)
            g = mtbal_emit_fill_like(b, v, 0);
        if (g && (g->graph != b->graph || g->is_output))
            g = mtbal_emit(b, "Identity", g);
        MTBAL_TRY(b->status);
        g->type = v->type;
        if (mtbal_add_output(b->graph, g) != MTBAL_OK)
            return mtbal_no_memory(x->diag);
    }
    return MTBAL_OK;
}

/* The copy in `graph`, differentiated. map: of the branch's values; t: for ids below n. */
static mtbal_status differentiate_copy(const crossing *x, const mtbal_graph *from,
                                       mtbal_graph *graph, const char *prefix,
                                       const mtbal_tables *map, mtbal_tables *t, int n)
{
    for (int i = 0; i < x->nwanted; i++)
        t->marked[x->wanted[i]->id] = true;
    mark_active(graph, t->marked);
    mtbal_builder b = *x->s->b;
    b.graph = graph;
    b.before = NULL;
    b.prefix = prefix;
    for (int i = 0; i < x->node->nout && i < from->noutputs; i++) {
        const mtbal_value *out = x->node->out[i];
        mtbal_value *dy = out && out->id < x->s->nvalues ? x->s->cotangent[out->id] : NULL;
        mtbal_value **slot = &t->value[copied(map->value, map->capacity, from->outputs[i])->id];
        if (dy)
            *slot = *slot ? mtbal_emit(&b, "Add", *slot, dy) : dy;
    }
    mtbal_sweep inner = *x->s;
    inner.graph = graph;
    inner.b = &b;
    inner.nvalues = n;
    inner.cotangent = t->value;
    inner.active = t->marked;
    inner.nodes = NULL;
    MTBAL_TRY(mtbal_differentiate(&inner));
    return give_out(x, &b, t->value);
}

static mtbal_status branch_gradient(const crossing *x, mtbal_graph *from, const char *name,
                                    mtbal_graph **result)
{
    mtbal_model *model = from->model;
    mtbal_tables **pool = x->s->tables;
    mtbal_graph *graph = mtbal_graph_new(model, x->s->graph, name);
    int first = model->nvalues;
    const char *prefix = mtbal_arena_printf(model->arena, "%s%s/", x->s->b->prefix, name);
    mtbal_tables *map = mtbal_tables_take(pool, first), *t = NULL;
    mtbal_status status = graph && map && prefix ? MTBAL_OK : mtbal_no_memory(x->diag);
    if (status == MTBAL_OK)
        status = copy_forward(x, from, graph, map->value, map->capacity, prefix);
    int n = model->nvalues;
    if (status == MTBAL_OK && !(t = mtbal_tables_take(pool, n)))
        status = mtbal_no_memory(x->diag);
    if (status == MTBAL_OK)
        status = differentiate_copy(x, from, graph, prefix, map, t, n);
    for (int i = 0; t && i < x->nwanted; i++)
        mtbal_tables_clear(t, x->wanted[i]);
    for (int i = 0; t && i < from->noutputs; i++)
        mtbal_tables_clear(t, from->outputs[i]);
    if (t)
        mtbal_tables_give(pool, t, first, n);
    if (map) {
        mtbal_tables_clear_graph(map, from);
        mtbal_tables_give(pool, map, 0, 0);
    }
    *result = graph;
    return status;
}

/* ------------------------------------------------------------------ the node */

static mtbal_status emit_gradient(const crossing *x, mtbal_graph *yes, mtbal_graph *no)
{
    mtbal_sweep *s = x->s;
    mtbal_value **out = mtbal_arena_array(s->graph->model->arena, (size_t)x->nwanted, sizeof *out);
    if (!out)
        return mtbal_no_memory(x->diag);
    mtbal_node *node = mtbal_emit_node(s->b, "", "If", 1, &x->node->in[0], x->nwanted, out);
    if (!node)
        return s->b->status;
    if (mtbal_set_graph(node, "then_branch", yes) != MTBAL_OK ||
        mtbal_set_graph(node, "else_branch", no) != MTBAL_OK)
        return mtbal_no_memory(x->diag);
    mtbal_emit_done(s->b, node);
    for (int i = 0; i < x->nwanted; i++) {
        mtbal_value **slot = &s->cotangent[x->wanted[i]->id];
        out[i]->type = x->wanted[i]->type;
        *slot = *slot ? mtbal_emit(s->b, "Add", *slot, out[i]) : out[i];
    }
    return s->b->status;
}

static mtbal_status cross_branches(crossing *x, mtbal_graph *yes, mtbal_graph *no)
{
    mtbal_graph *dyes, *dno;
    MTBAL_TRY(collect(x->node, x)); /* its own outputs: those of the branches */
    MTBAL_TRY(mtbal_graph_walk(yes, collect, x));
    MTBAL_TRY(mtbal_graph_walk(no, collect, x));
    if (x->refused)
        return mtbal_fail(x->diag, MTBAL_UNSUPPORTED, x->node->name, NULL, "%s", x->refused);
    MTBAL_TRY(branch_gradient(x, yes, "then", &dyes));
    MTBAL_TRY(branch_gradient(x, no, "else", &dno));
    return emit_gradient(x, dyes, dno);
}

/* Adds to the cotangents of what the branches read, which are no operands of the node. */
mtbal_status mtbal_rule_if(mtbal_gradient *g)
{
    mtbal_sweep *s = g->sweep;
    mtbal_node *node = g->node;
    mtbal_diag *diag = g->diag;
    const mtbal_attr *yes = mtbal_attr_find(node, "then_branch"),
                     *no = mtbal_attr_find(node, "else_branch");
    crossing x = {.s = s, .node = node, .diag = diag};
    if (!yes || !no || !yes->g || !no->g)
        return mtbal_fail(diag, MTBAL_INVALID, node->name, NULL, "a branch is missing");
    x.seen = mtbal_tables_take(s->tables, s->nvalues);
    if (!x.seen)
        return mtbal_no_memory(diag);
    mtbal_status status = cross_branches(&x, yes->g, no->g);
    for (int i = 0; i < x.nwanted; i++)
        mtbal_tables_clear(x.seen, x.wanted[i]);
    mtbal_tables_give(s->tables, x.seen, 0, 0);
    return status;
}
