/* passes/cse.c: nodes of ours that compute what an earlier node does go: equal operator, operands
 * and attributes; equal small constants. A node of the user's is never removed, but one of ours may
 * be replaced by it. Of the main graph; random operators and nodes with subgraphs are left alone.
 */
#include "passes/passes.h"

#include <string.h>

typedef struct table {
    mtbal_node **nodes;
    uint64_t *hashes;
    size_t capacity;
} table;

static uint64_t mix(uint64_t h, uint64_t x)
{
    h ^= x + 0x9E3779B97F4A7C15u + (h << 6) + (h >> 2);
    return h * 0xFF51AFD7ED558CCDu;
}

static uint64_t mix_bytes(uint64_t h, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

enum { MAX_CONSTANT = 4096 };

static bool mergeable(const mtbal_node *node)
{
    if (mtbal_node_has(node, MTBAL_RANDOM))
        return false;
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH || a->kind == MTBAL_ATTR_OTHER ||
            a->kind == MTBAL_ATTR_STRINGS ||
            (a->kind == MTBAL_ATTR_TENSOR && (!a->t || !a->t->data || a->t->bytes > MAX_CONSTANT)))
            return false;
    return node->nout == 1 && node->out[0];
}

static uint64_t hash_node(const mtbal_node *node)
{
    uint64_t h = mix((uintptr_t)node->op, (uintptr_t)node->domain);
    for (int i = 0; i < node->nin; i++)
        h = mix(h, node->in[i] ? (uint64_t)node->in[i]->id + 1 : 0);
    for (const mtbal_attr *a = node->attrs; a; a = a->next) {
        h = mix(h, (uintptr_t)a->name);
        if (a->kind == MTBAL_ATTR_INT)
            h = mix(h, (uint64_t)a->i);
        else if (a->kind == MTBAL_ATTR_FLOAT)
            h = mix_bytes(h, &a->f, sizeof a->f);
        else if (a->kind == MTBAL_ATTR_INTS)
            h = mix_bytes(h, a->ints, (size_t)a->n * sizeof *a->ints);
        else if (a->kind == MTBAL_ATTR_FLOATS)
            h = mix_bytes(h, a->floats, (size_t)a->n * sizeof *a->floats);
        else if (a->kind == MTBAL_ATTR_STRING)
            h = mix_bytes(h, a->s, a->s_len);
        else if (a->kind == MTBAL_ATTR_TENSOR)
            h = mix_bytes(h, a->t->data, a->t->bytes);
    }
    return h;
}

static bool same_attr(const mtbal_attr *a, const mtbal_attr *b)
{
    if (a->kind != b->kind || a->name != b->name || a->ref != b->ref)
        return false;
    switch (a->kind) {
    case MTBAL_ATTR_INT:
        return a->i == b->i;
    case MTBAL_ATTR_FLOAT:
        return !memcmp(&a->f, &b->f, sizeof a->f);
    case MTBAL_ATTR_STRING:
        return a->s_len == b->s_len && !memcmp(a->s, b->s, a->s_len);
    case MTBAL_ATTR_INTS:
        return a->n == b->n && !memcmp(a->ints, b->ints, (size_t)a->n * sizeof *a->ints);
    case MTBAL_ATTR_FLOATS:
        return a->n == b->n && !memcmp(a->floats, b->floats, (size_t)a->n * sizeof *a->floats);
    case MTBAL_ATTR_TENSOR:
        return a->t->dtype == b->t->dtype && a->t->rank == b->t->rank &&
               a->t->bytes == b->t->bytes &&
               !memcmp(a->t->dims, b->t->dims, (size_t)a->t->rank * sizeof *a->t->dims) &&
               !memcmp(a->t->data, b->t->data, a->t->bytes);
    default:
        return false;
    }
}

static bool same_node(const mtbal_node *p, const mtbal_node *q)
{
    if (p->op != q->op || p->domain != q->domain || p->nin != q->nin)
        return false;
    for (int i = 0; i < p->nin; i++)
        if (p->in[i] != q->in[i])
            return false;
    const mtbal_attr *a = p->attrs, *b = q->attrs;
    for (; a && b; a = a->next, b = b->next)
        if (!same_attr(a, b))
            return false;
    return !a && !b;
}

typedef struct renamer {
    mtbal_value **to; /* by value id */
    int n;
} renamer;

static mtbal_status rename_operands(mtbal_node *node, void *context)
{
    const renamer *r = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] && node->in[i]->id < r->n && r->to[node->in[i]->id])
            node->in[i] = r->to[node->in[i]->id];
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        for (int i = 0; a->kind == MTBAL_ATTR_GRAPH && a->g && i < a->g->noutputs; i++)
            if (a->g->outputs[i]->id < r->n && r->to[a->g->outputs[i]->id])
                a->g->outputs[i] = r->to[a->g->outputs[i]->id];
    return MTBAL_OK;
}

static void merge(mtbal_graph *graph, table *t, renamer *r)
{
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        rename_operands(node, r);
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                mtbal_graph_walk(a->g, rename_operands, r);
        if (!mergeable(node))
            continue;
        uint64_t hash = hash_node(node);
        size_t slot = hash & (t->capacity - 1);
        while (t->nodes[slot] && !(t->hashes[slot] == hash && same_node(t->nodes[slot], node)))
            slot = (slot + 1) & (t->capacity - 1);
        if (!t->nodes[slot]) {
            t->nodes[slot] = node;
            t->hashes[slot] = hash;
        } else if (node->role && !node->out[0]->is_output) {
            r->to[node->out[0]->id] = t->nodes[slot]->out[0];
            mtbal_node_remove(node);
        }
    }
}

mtbal_status mtbal_merge_common(mtbal_model *model, mtbal_diag *diag)
{
    mtbal_arena *scratch = mtbal_arena_new();
    table t = {.capacity = 64};
    while (t.capacity < 2 * (size_t)model->graph->nnodes)
        t.capacity *= 2;
    renamer r = {.n = model->nvalues};
    if (scratch) {
        t.nodes = mtbal_arena_array(scratch, t.capacity, sizeof *t.nodes);
        t.hashes = mtbal_arena_array(scratch, t.capacity, sizeof *t.hashes);
        r.to = mtbal_arena_array(scratch, (size_t)r.n + 1, sizeof *r.to);
    }
    bool ok = t.nodes && t.hashes && r.to;
    if (ok)
        merge(model->graph, &t, &r);
    mtbal_arena_free(scratch);
    return ok ? MTBAL_OK : mtbal_no_memory(diag);
}
