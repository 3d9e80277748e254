/* passes/training_gradient.c: the Gradient operator of ai.onnx.preview.training (ONNX's
 * docs/Operators.md). Its attributes xs, zs and y name tensors: y as a function of those in xs and
 * zs, whatever these depend on in turn. Its inputs are the values at which dy/dx_i is wanted:
 * mostly those very tensors, and then the forward values that are there serve; else the function is
 * computed once more, at the inputs. A y with more than one element stands for its sum. */
#include "passes/internal.h"

#include <string.h>

/* One Gradient node. n = nx + nz. */
typedef struct request {
    mtbal_builder *b;
    mtbal_node *node;
    mtbal_graph *graph;
    int nx, n;
    mtbal_value **at;  /* [n] where: the node's inputs */
    mtbal_value **cut; /* [n] the tensors that xs and zs name */
    mtbal_value *y;
} request;

/* ------------------------------------------------------------------ names become operands */

static mtbal_status invalid(const mtbal_node *node, mtbal_diag *diag, const char *what,
                            const char *name)
{
    char text[256];
    return mtbal_fail(diag, MTBAL_INVALID, mtbal_node_label(node, text),
                      "see Gradient in ONNX's operator specification", what, name);
}

typedef struct names {
    const mtbal_index *own, *around;
    mtbal_diag *diag;
} names;

static mtbal_status add_named(const names *s, mtbal_node *node, const char *name, mtbal_value **to)
{
    const char *interned = mtbal_intern(node->graph->model->arena, name);
    if (!interned)
        return mtbal_no_memory(s->diag);
    *to = mtbal_index_find(s->own, interned);
    if (!*to)
        *to = mtbal_index_find(s->around, interned);
    return *to ? MTBAL_OK : invalid(node, s->diag, "there is no tensor named %s", name);
}

/* From then on: at [n], cut [n], y; and the attributes nx, nz. */
mtbal_status mtbal_gradient_operands(mtbal_node *node, const mtbal_index *own,
                                     const mtbal_index *around, mtbal_diag *diag)
{
    const names known = {own, around, diag};
    if (mtbal_attr_find(node, "nx"))
        return MTBAL_OK;
    const mtbal_attr *xs = mtbal_attr_find(node, "xs"), *zs = mtbal_attr_find(node, "zs");
    const char *y = mtbal_attr_s(node, "y", NULL);
    int nx = xs && xs->kind == MTBAL_ATTR_STRINGS ? xs->n : 0;
    int nz = zs && zs->kind == MTBAL_ATTR_STRINGS ? zs->n : 0, n = nx + nz;
    if (!y || nx < 1)
        return invalid(node, diag, "its attribute %s is missing", y ? "xs" : "y");
    bool complete = node->nin == n && node->nout <= nx;
    for (int i = 0; i < node->nin; i++)
        complete = complete && node->in[i];
    if (!complete)
        return invalid(node, diag, "its %s are not one for each tensor in xs and zs",
                       node->nout > nx ? "outputs" : "inputs");
    mtbal_value **in = mtbal_arena_array(node->graph->model->arena, 2 * (size_t)n + 1, sizeof *in);
    if (!in)
        return mtbal_no_memory(diag);
    memcpy(in, node->in, (size_t)n * sizeof *in);
    for (int i = 0; i < n; i++)
        MTBAL_TRY(
            add_named(&known, node, i < nx ? xs->strings[i] : zs->strings[i - nx], &in[n + i]));
    MTBAL_TRY(add_named(&known, node, y, &in[2 * n]));
    for (int i = 0; i < 3; i++)
        mtbal_attr_remove(node, (const char *[]){"xs", "zs", "y"}[i]);
    if (mtbal_set_i(node, "nx", nx) != MTBAL_OK || mtbal_set_i(node, "nz", nz) != MTBAL_OK ||
        mtbal_node_set_inputs(node, 2 * n + 1, in) != MTBAL_OK)
        return mtbal_no_memory(diag);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ the function, at the inputs */

static bool is_cut(const request *r, const mtbal_value *v)
{
    for (int i = 0; i < r->n; i++)
        if (r->cut[i] == v)
            return true;
    return false;
}

/* By value id: what changes with the tensors that are cut, they themselves included. */
static bool *dependents(const request *r)
{
    int n = r->graph->model->nvalues;
    bool *moves = mtbal_arena_array(r->graph->model->arena, (size_t)n, sizeof *moves);
    for (int i = 0; moves && i < r->n; i++)
        moves[r->cut[i]->id] = true;
    for (mtbal_node *node = r->graph->first; moves && node != r->node; node = node->next)
        if (node->role != mtbal_role_updated && mtbal_reads(node, moves, n))
            for (int i = 0; i < node->nout; i++)
                if (node->out[i])
                    moves[node->out[i]->id] = true;
    return moves;
}

/* Are the inputs the very tensors, and none of these computed from another? */
static bool serves(const request *r, const bool *moves)
{
    for (int i = 0; i < r->n; i++)
        if (r->at[i] != r->cut[i] ||
            (r->cut[i]->def && mtbal_reads(r->cut[i]->def, moves, r->graph->model->nvalues)))
            return false;
    return true;
}

/* A copy of the node; of its outputs, those that are cut get copies that nobody uses. */
static mtbal_status copy_node(const request *r, const mtbal_node *node, mtbal_value **map, int nmap)
{
    mtbal_value **kept =
        mtbal_arena_array(r->graph->model->arena, (size_t)node->nout, sizeof *kept);
    if (!kept)
        return MTBAL_NOMEM;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i]) {
            kept[i] = map[node->out[i]->id];
            map[node->out[i]->id] = NULL;
        }
    MTBAL_TRY(mtbal_node_copy(node, r->graph, r->node, map, nmap, r->b->prefix));
    for (int i = 0; i < node->nout; i++)
        if (kept[i])
            map[node->out[i]->id] = kept[i];
    return MTBAL_OK;
}

/* Computes y once more, from stand-ins for what is cut: from then on those are cut, and y is that.
 */
static mtbal_status compute_again(request *r, const bool *moves)
{
    mtbal_arena *arena = r->graph->model->arena;
    int n = r->graph->model->nvalues, count = 0;
    mtbal_value **map = mtbal_arena_array(arena, (size_t)n, sizeof *map);
    bool *needed = mtbal_arena_array(arena, (size_t)n, sizeof *needed);
    mtbal_node **nodes = mtbal_arena_array(arena, (size_t)r->graph->nnodes, sizeof *nodes);
    if (!map || !needed || !nodes)
        return mtbal_no_memory(r->b->diag);
    needed[r->y->id] = true;
    for (mtbal_node *node = r->node->prev; node; node = node->prev) {
        bool wanted = false;
        for (int i = 0; i < node->nout; i++)
            wanted = wanted || (node->out[i] && needed[node->out[i]->id] &&
                                moves[node->out[i]->id] && !is_cut(r, node->out[i]));
        if (wanted) {
            nodes[count++] = node;
            mtbal_mark_read(node, needed);
        }
    }
    for (int i = 0; i < r->n; i++) {
        mtbal_value *stand_in = mtbal_emit(r->b, "Identity", r->at[i]);
        MTBAL_TRY(r->b->status);
        map[r->cut[i]->id] = stand_in;
        r->cut[i] = stand_in;
    }
    while (count--) {
        if (copy_node(r, nodes[count], map, n) != MTBAL_OK)
            return mtbal_no_memory(r->b->diag);
        MTBAL_TRY(mtbal_infer_node(r->node->prev, r->b->diag));
    }
    r->y = map[r->y->id] ? map[r->y->id] : r->y;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ its gradient */

typedef struct refusal {
    mtbal_blockers *blockers;
    const char *what;
} refusal;

static mtbal_status refuse(mtbal_node *node, const char *why, void *context)
{
    const refusal *r = context;
    mtbal_blockers_add(r->blockers, node, why, r->what);
    return MTBAL_OK;
}

/* By value id: what lies between xs and y. */
static mtbal_status find_active(const request *r, mtbal_context *c)
{
    mtbal_task *task = mtbal_arena_alloc(c->model->arena, sizeof *task);
    c->params = mtbal_arena_array(c->model->arena, (size_t)r->nx, sizeof *c->params);
    if (!task || !c->params)
        return mtbal_no_memory(r->b->diag);
    task->loss = r->y;
    c->tasks = task;
    c->ntasks = 1;
    for (int i = 0; i < r->nx; i++)
        c->params[c->nparams++].value = r->cut[i];
    MTBAL_TRY(mtbal_spread_reach(c));
    MTBAL_TRY(mtbal_spread_dependence(c));
    for (int i = 0; i < c->nreach; i++)
        c->depends[i] = c->depends[i] && c->reach[i];
    return MTBAL_OK;
}

/* Is a function of ours between xs and y, from a Gradient that came before? It has no rule; the
 * nodes of its body have. */
static bool crosses_functions(const request *r, const mtbal_context *c)
{
    for (mtbal_node *node = r->graph->first; node != r->node; node = node->next)
        if (!strcmp(node->domain, "mtbal") && mtbal_reads(node, c->depends, c->nreach))
            for (int i = 0; i < node->nout; i++)
                if (node->out[i] && c->depends[node->out[i]->id])
                    return true;
    return false;
}

static mtbal_status open_functions(const request *r, mtbal_context *c)
{
    MTBAL_TRY(mtbal_inline_functions(r->graph->model, false, r->b->diag));
    MTBAL_TRY(mtbal_infer_graph(r->graph, r->b->diag));
    c->nparams = 0;
    return find_active(r, c);
}

/* Into dx [nx]; NULL where y does not depend on x. */
static mtbal_status differentiate(const request *r, mtbal_blockers *blockers, mtbal_value **dx)
{
    mtbal_model *model = r->graph->model;
    char text[256];
    refusal refused = {blockers, mtbal_node_label(r->node, text)};
    mtbal_context c = {.model = model, .graph = r->graph, .diag = r->b->diag};
    MTBAL_TRY(find_active(r, &c));
    if (crosses_functions(r, &c))
        MTBAL_TRY(open_functions(r, &c));
    mtbal_sweep sweep = {.graph = r->graph,
                         .b = r->b,
                         .nvalues = c.nreach,
                         .active = c.depends,
                         .refuse = refuse,
                         .context = &refused};
    sweep.cotangent = mtbal_arena_array(model->arena, (size_t)c.nreach, sizeof *sweep.cotangent);
    if (!sweep.cotangent)
        return mtbal_no_memory(r->b->diag);
    for (mtbal_node *node = r->graph->first; node != r->node; node = node->next)
        if (mtbal_lacks_rule(node, c.depends, c.nreach))
            mtbal_blockers_add(blockers, node, NULL, refused.what);
    sweep.cotangent[r->y->id] = mtbal_emit_fill_like(r->b, r->y, 1);
    MTBAL_TRY(mtbal_differentiate(&sweep));
    for (int i = 0; i < r->nx; i++)
        dx[i] = sweep.cotangent[r->cut[i]->id];
    return r->b->status;
}

/* As mtbal_gradient_operands left it: a file may hold anything. */
static mtbal_status read_request(request *r)
{
    const mtbal_node *node = r->node;
    int64_t nx = mtbal_attr_i(node, "nx", 0), nz = mtbal_attr_i(node, "nz", 0);
    bool complete = nx > 0 && nz >= 0 && nx < node->nin && nz < node->nin &&
                    node->nin == 2 * (nx + nz) + 1 && node->nout <= nx;
    for (int i = 0; i < node->nin; i++)
        complete = complete && node->in[i];
    if (!complete)
        return invalid(node, r->b->diag, "it does not say %s", "where to differentiate what");
    r->nx = (int)nx;
    r->n = (int)(nx + nz);
    r->at = node->in;
    r->y = node->in[2 * r->n];
    r->cut =
        mtbal_arena_copy(r->graph->model->arena, node->in + r->n, (size_t)r->n * sizeof *r->cut);
    if (!r->cut)
        return mtbal_no_memory(r->b->diag);
    return mtbal_dtype_is_float(r->y->type.dtype)
               ? MTBAL_OK
               : invalid(node, r->b->diag, "its y, %s, is no float tensor", r->y->name);
}

mtbal_status mtbal_training_gradient(mtbal_builder *b, mtbal_node *node, mtbal_blockers *blockers)
{
    request r = {.b = b, .node = node, .graph = node->graph};
    MTBAL_TRY(read_request(&r));
    bool *moves = dependents(&r);
    mtbal_value **dx = mtbal_arena_array(node->graph->model->arena, (size_t)r.nx, sizeof *dx);
    if (!moves || !dx)
        return mtbal_no_memory(b->diag);
    b->role = "gradient";
    if (!blockers->count)
        mtbal_blockers_clear(r.graph);
    if (!serves(&r, moves))
        MTBAL_TRY(compute_again(&r, moves));
    MTBAL_TRY(differentiate(&r, blockers, dx));
    for (int i = 0; i < r.nx; i++) {
        mtbal_value *d =
            dx[i] ? mtbal_emit_sum_to(b, dx[i], r.cut[i]) : mtbal_emit_fill_like(b, r.cut[i], 0);
        MTBAL_TRY(mtbal_give_output(b, node, i, d));
    }
    return b->status;
}
