/* graph/graph.c: models, graphs, nodes and values. */
#include "graph/graph.h"

#include <string.h>

/* ------------------------------------------------------------------ names in use */

/* Open addressing on interned pointers. `next` is the suffix that the next fresh name of this base
 * tries first. */
struct mtbal_used {
    const char *name;
    int next;
    bool taken;
};

static struct mtbal_used *used_slot(struct mtbal_used *table, int capacity, const char *name)
{
    size_t i = ((uintptr_t)name >> 4) * 0x9E3779B97F4A7C15u >> 32 & (size_t)(capacity - 1);
    while (table[i].name && table[i].name != name)
        i = (i + 1) & (size_t)(capacity - 1);
    return &table[i];
}

static struct mtbal_used *used_entry(mtbal_model *model, const char *name)
{
    if (2 * model->nused >= model->capacity_used) {
        int capacity = model->capacity_used ? 4 * model->capacity_used : 256;
        struct mtbal_used *bigger =
            mtbal_arena_array(model->arena, (size_t)capacity, sizeof *bigger);
        if (!bigger)
            return NULL;
        for (int i = 0; i < model->capacity_used; i++)
            if (model->used[i].name)
                *used_slot(bigger, capacity, model->used[i].name) = model->used[i];
        model->used = bigger;
        model->capacity_used = capacity;
    }
    struct mtbal_used *entry = used_slot(model->used, model->capacity_used, name);
    if (!entry->name) {
        entry->name = name;
        model->nused++;
    }
    return entry;
}

const char *mtbal_fresh_name(mtbal_model *model, const char *base)
{
    const char *name = mtbal_intern(model->arena, base);
    struct mtbal_used *entry = name ? used_entry(model, name) : NULL;
    if (!entry || !entry->taken)
        return entry ? name : NULL;
    for (int n = entry->next;; n++) {
        char text[512];
        snprintf(text, sizeof text, "%.480s_%d", base, n + 1);
        const char *candidate = mtbal_intern(model->arena, text);
        struct mtbal_used *other = candidate ? used_entry(model, candidate) : NULL;
        if (!other)
            return NULL;
        if (!other->taken) {
            used_entry(model, name)->next = n + 1;
            return candidate;
        }
    }
}

/* ------------------------------------------------------------------ models */

mtbal_model *mtbal_model_new(int64_t opset)
{
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_model *model = arena ? mtbal_arena_alloc(arena, sizeof *model) : NULL;
    if (!model) {
        mtbal_arena_free(arena);
        return NULL;
    }
    model->arena = arena;
    model->ir_version = 8;
    model->graph = mtbal_graph_new(model, NULL, "graph");
    if (!model->graph || (opset > 0 && mtbal_set_opset(model, "", opset) != MTBAL_OK)) {
        mtbal_model_free(model);
        return NULL;
    }
    return model;
}

void mtbal_model_free(mtbal_model *model)
{
    if (!model)
        return;
    if (model->close)
        model->close(model->origin);
    mtbal_arena_free(model->arena);
}

int64_t mtbal_opset_of(const mtbal_model *model, const char *domain)
{
    for (int i = 0; i < model->nopsets; i++)
        if (!strcmp(model->opsets[i].domain, domain))
            return model->opsets[i].version;
    return 0;
}

/* Room for one more in an arena array that grows by doubling at powers of two. */
static void *grow(mtbal_arena *arena, void *items, int count, size_t size)
{
    if (count & (count - 1))
        return items;
    void *bigger = mtbal_arena_array(arena, count ? 2 * (size_t)count : 1, size);
    if (bigger && count)
        memcpy(bigger, items, (size_t)count * size);
    return bigger;
}

/* Appends to a list whose present items may lie in memory that somebody else sized: `count` items
 * exactly. */
#define APPEND(arena, items, count, item)                          \
    do {                                                           \
        void *grown_ = grow(arena, items, count, sizeof *(items)); \
        if (!grown_)                                               \
            return MTBAL_NOMEM;                                    \
        (items) = grown_;                                          \
        (items)[(count)++] = item;                                 \
    } while (0)

/* The same for short lists, which others may have sized exactly: copied each time. */
#define APPEND_SHORT(arena, items, count, item)                                        \
    do {                                                                               \
        void *grown_ = mtbal_arena_array(arena, (size_t)(count) + 1, sizeof *(items)); \
        if (!grown_)                                                                   \
            return MTBAL_NOMEM;                                                        \
        if (count)                                                                     \
            memcpy(grown_, items, (size_t)(count) * sizeof *(items));                  \
        (items) = grown_;                                                              \
        (items)[(count)++] = item;                                                     \
    } while (0)

mtbal_status mtbal_set_opset(mtbal_model *model, const char *domain, int64_t version)
{
    for (int i = 0; i < model->nopsets; i++)
        if (!strcmp(model->opsets[i].domain, domain)) {
            model->opsets[i].version = version;
            return MTBAL_OK;
        }
    mtbal_opset opset = {mtbal_intern(model->arena, domain), version};
    if (!opset.domain)
        return MTBAL_NOMEM;
    APPEND_SHORT(model->arena, model->opsets, model->nopsets, opset);
    return MTBAL_OK;
}

const char *mtbal_property_get(const mtbal_model *model, const char *key)
{
    for (int i = 0; i < model->nproperties; i++)
        if (!strcmp(model->properties[i].key, key))
            return model->properties[i].value;
    return NULL;
}

mtbal_status mtbal_property_set(mtbal_model *model, const char *key, const char *value)
{
    mtbal_property property = {mtbal_intern(model->arena, key), mtbal_intern(model->arena, value)};
    if (!property.key || !property.value)
        return MTBAL_NOMEM;
    for (int i = 0; i < model->nproperties; i++)
        if (!strcmp(model->properties[i].key, key)) {
            model->properties[i] = property;
            return MTBAL_OK;
        }
    APPEND_SHORT(model->arena, model->properties, model->nproperties, property);
    return MTBAL_OK;
}

mtbal_function *mtbal_function_find(const mtbal_model *model, const char *domain, const char *name,
                                    const char *overload)
{
    for (int i = 0; i < model->nfunctions; i++) {
        mtbal_function *f = model->functions[i];
        if (!strcmp(f->name, name) && !strcmp(f->domain, domain) &&
            !strcmp(f->overload ? f->overload : "", overload ? overload : ""))
            return f;
    }
    return NULL;
}

mtbal_status mtbal_function_add(mtbal_model *model, mtbal_function *function)
{
    APPEND_SHORT(model->arena, model->functions, model->nfunctions, function);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ graphs and values */

mtbal_graph *mtbal_graph_new(mtbal_model *model, mtbal_graph *parent, const char *name)
{
    mtbal_graph *graph = mtbal_arena_alloc(model->arena, sizeof *graph);
    if (!graph)
        return NULL;
    graph->model = model;
    graph->parent = parent;
    graph->name = mtbal_intern(model->arena, name ? name : "");
    return graph->name ? graph : NULL;
}

mtbal_value *mtbal_value_new(mtbal_graph *graph, const char *name)
{
    mtbal_model *model = graph->model;
    mtbal_value *value = mtbal_arena_alloc(model->arena, sizeof *value);
    name = name ? mtbal_intern(model->arena, name) : mtbal_fresh_name(model, "value");
    struct mtbal_used *entry = name ? used_entry(model, name) : NULL;
    if (!value || !entry)
        return NULL;
    entry->taken = true;
    value->name = name;
    value->id = model->nvalues++;
    value->type.rank = -1;
    value->graph = graph;
    return value;
}

static mtbal_value *find_in(mtbal_graph *graph, const char *name)
{
    for (int i = 0; i < graph->ninputs; i++)
        if (!strcmp(graph->inputs[i]->name, name))
            return graph->inputs[i];
    for (int i = 0; i < graph->ninitializers; i++)
        if (!strcmp(graph->initializers[i]->name, name))
            return graph->initializers[i];
    for (mtbal_node *node = graph->first; node; node = node->next)
        for (int i = 0; i < node->nout; i++)
            if (node->out[i] && !strcmp(node->out[i]->name, name))
                return node->out[i];
    return NULL;
}

mtbal_value *mtbal_value_find(mtbal_graph *graph, const char *name)
{
    for (; graph; graph = graph->parent) {
        mtbal_value *value = find_in(graph, name);
        if (value)
            return value;
    }
    return NULL;
}

mtbal_status mtbal_add_input(mtbal_graph *graph, mtbal_value *value)
{
    APPEND(graph->model->arena, graph->inputs, graph->ninputs, value);
    value->is_input = true;
    return MTBAL_OK;
}

mtbal_status mtbal_add_output(mtbal_graph *graph, mtbal_value *value)
{
    APPEND(graph->model->arena, graph->outputs, graph->noutputs, value);
    value->is_output = true;
    return MTBAL_OK;
}

mtbal_status mtbal_add_initializer(mtbal_graph *graph, mtbal_value *value, mtbal_tensor *tensor)
{
    mtbal_arena *arena = graph->model->arena;
    APPEND(arena, graph->initializers, graph->ninitializers, value);
    value->is_initializer = true;
    value->tensor = tensor;
    if (value->type.rank < 0 && tensor) {
        mtbal_dim *dims = mtbal_arena_array(arena, (size_t)tensor->rank, sizeof *dims);
        if (!dims)
            return MTBAL_NOMEM;
        for (int i = 0; i < tensor->rank; i++)
            dims[i].size = tensor->dims[i];
        value->type = (mtbal_type){MTBAL_TENSOR, tensor->dtype, tensor->rank, dims};
    }
    return MTBAL_OK;
}

/* Takes the first occurrence out; returns whether another one is left. */
static bool take_out(mtbal_value **list, int *count, const mtbal_value *value)
{
    int i = 0;
    while (i < *count && list[i] != value)
        i++;
    if (i < *count) {
        memmove(list + i, list + i + 1, (size_t)(*count - i - 1) * sizeof *list);
        --*count;
    }
    for (i = 0; i < *count; i++)
        if (list[i] == value)
            return true;
    return false;
}

/* Lists grow at powers of two only: after a removal the next append must see an array of its own
 * size. */
static void refit(mtbal_graph *graph, mtbal_value ***list, int count)
{
    size_t capacity = 1;
    while (capacity < (size_t)count)
        capacity *= 2;
    mtbal_value **copy = mtbal_arena_array(graph->model->arena, capacity, sizeof *copy);
    if (copy) {
        if (count)
            memcpy(copy, *list, (size_t)count * sizeof *copy);
        *list = copy;
    }
}

void mtbal_remove_input(mtbal_graph *graph, mtbal_value *value)
{
    value->is_input = take_out(graph->inputs, &graph->ninputs, value);
    refit(graph, &graph->inputs, graph->ninputs);
}

void mtbal_remove_output(mtbal_graph *graph, mtbal_value *value)
{
    value->is_output = take_out(graph->outputs, &graph->noutputs, value);
    refit(graph, &graph->outputs, graph->noutputs);
}

void mtbal_remove_initializer(mtbal_graph *graph, mtbal_value *value)
{
    value->is_initializer = take_out(graph->initializers, &graph->ninitializers, value);
    refit(graph, &graph->initializers, graph->ninitializers);
}

/* ------------------------------------------------------------------ nodes */

static void link_node(mtbal_graph *graph, mtbal_node *node, mtbal_node *before)
{
    node->graph = graph;
    node->next = before;
    node->prev = before ? before->prev : graph->last;
    *(node->prev ? &node->prev->next : &graph->first) = node;
    *(before ? &before->prev : &graph->last) = node;
    graph->nnodes++;
}

static void unlink_node(mtbal_node *node)
{
    mtbal_graph *graph = node->graph;
    *(node->prev ? &node->prev->next : &graph->first) = node->next;
    *(node->next ? &node->next->prev : &graph->last) = node->prev;
    graph->nnodes--;
}

mtbal_node *mtbal_node_new(mtbal_graph *graph, mtbal_node *before, const char *domain,
                           const char *op, int nin, mtbal_value *const *in, int nout)
{
    mtbal_arena *arena = graph->model->arena;
    mtbal_node *node = mtbal_arena_alloc(arena, sizeof *node);
    if (!node || !(node->out = mtbal_arena_array(arena, (size_t)nout, sizeof *node->out)))
        return NULL;
    node->graph = graph;
    if (mtbal_node_set_op(node, domain, op) != MTBAL_OK)
        return NULL;
    node->name = node->overload = mtbal_intern(arena, "");
    if (!node->name)
        return NULL;
    link_node(graph, node, before);
    node->nout = nout;
    if (mtbal_node_set_inputs(node, nin, in) != MTBAL_OK)
        return NULL;
    for (int i = 0; i < nout; i++) {
        const char *name = mtbal_fresh_name(graph->model, op);
        mtbal_value *value = name ? mtbal_value_new(graph, name) : NULL;
        if (!value || mtbal_node_set_output(node, i, value) != MTBAL_OK)
            return NULL;
    }
    return node;
}

mtbal_status mtbal_node_set_inputs(mtbal_node *node, int nin, mtbal_value *const *in)
{
    mtbal_value **copy =
        mtbal_arena_copy(node->graph->model->arena, in, (size_t)nin * sizeof *copy);
    if (!copy)
        return MTBAL_NOMEM;
    node->in = copy;
    node->nin = nin;
    return MTBAL_OK;
}

mtbal_status mtbal_node_set_output(mtbal_node *node, int index, mtbal_value *value)
{
    if (index >= node->nout) {
        mtbal_value **longer =
            mtbal_arena_array(node->graph->model->arena, (size_t)index + 1, sizeof *longer);
        if (!longer)
            return MTBAL_NOMEM;
        if (node->nout)
            memcpy(longer, node->out, (size_t)node->nout * sizeof *longer);
        node->out = longer;
        node->nout = index + 1;
    }
    node->out[index] = value;
    if (value) {
        value->def = node;
        value->def_index = index;
    }
    return MTBAL_OK;
}

void mtbal_node_remove(mtbal_node *node)
{
    unlink_node(node);
    for (int i = 0; i < node->nout; i++)
        if (node->out[i] && node->out[i]->def == node)
            node->out[i]->def = NULL;
}

void mtbal_node_move(mtbal_node *node, mtbal_node *before)
{
    unlink_node(node);
    link_node(node->graph, node, before);
}

bool mtbal_node_is(const mtbal_node *node, const char *op)
{
    return !*node->domain && !strcmp(node->op, op);
}

mtbal_status mtbal_node_set_op(mtbal_node *node, const char *domain, const char *op)
{
    domain = mtbal_intern(node->graph->model->arena, domain);
    op = mtbal_intern(node->graph->model->arena, op);
    if (!domain || !op)
        return MTBAL_NOMEM;
    node->domain = domain;
    node->op = op;
    node->opcode = mtbal_opcode(domain, op);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ walking, uses, replacing */

mtbal_status mtbal_graph_walk(mtbal_graph *graph, mtbal_visit *visit, void *context)
{
    for (mtbal_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        MTBAL_TRY(visit(node, context));
        for (mtbal_attr *a = node->attrs; a; a = a->next)
            if (a->kind == MTBAL_ATTR_GRAPH && a->g)
                MTBAL_TRY(mtbal_graph_walk(a->g, visit, context));
    }
    return MTBAL_OK;
}

static void count_outputs(mtbal_graph *graph, mtbal_uses *uses)
{
    for (int i = 0; i < graph->noutputs; i++)
        uses->count[graph->outputs[i]->id]++;
}

static mtbal_status count_node(mtbal_node *node, void *context)
{
    mtbal_uses *uses = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i]) {
            uses->count[node->in[i]->id]++;
            uses->nnodes[node->in[i]->id]++;
        }
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            count_outputs(a->g, uses);
    return MTBAL_OK;
}

static mtbal_status enter_node(mtbal_node *node, void *context)
{
    mtbal_uses *uses = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i]) {
            int id = node->in[i]->id;
            uses->node[id][uses->nnodes[id]++] = node;
        }
    return MTBAL_OK;
}

mtbal_uses *mtbal_uses_new(mtbal_model *model, mtbal_graph *graph, mtbal_arena *arena)
{
    size_t n = (size_t)model->nvalues, total = 0;
    mtbal_uses *uses = mtbal_arena_alloc(arena, sizeof *uses);
    if (!uses)
        return NULL;
    uses->nvalues = model->nvalues;
    uses->count = mtbal_arena_array(arena, n, sizeof *uses->count);
    uses->nnodes = mtbal_arena_array(arena, n, sizeof *uses->nnodes);
    uses->node = mtbal_arena_array(arena, n, sizeof *uses->node);
    if (!uses->count || !uses->nnodes || !uses->node)
        return NULL;
    count_outputs(graph, uses);
    mtbal_graph_walk(graph, count_node, uses);
    for (size_t i = 0; i < n; i++)
        total += (size_t)uses->nnodes[i];
    mtbal_node **pool = mtbal_arena_array(arena, total, sizeof *pool);
    if (!pool)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        uses->node[i] = pool;
        pool += uses->nnodes[i];
        uses->nnodes[i] = 0;
    }
    mtbal_graph_walk(graph, enter_node, uses);
    return uses;
}

typedef struct swap {
    mtbal_value *from, *to;
} swap;

static void replace_outputs(mtbal_graph *graph, const swap *s)
{
    for (int i = 0; i < graph->noutputs; i++)
        if (graph->outputs[i] == s->from)
            graph->outputs[i] = s->to;
}

static mtbal_status replace_in_node(mtbal_node *node, void *context)
{
    const swap *s = context;
    for (int i = 0; i < node->nin; i++)
        if (node->in[i] == s->from)
            node->in[i] = s->to;
    for (mtbal_attr *a = node->attrs; a; a = a->next)
        if (a->kind == MTBAL_ATTR_GRAPH && a->g)
            replace_outputs(a->g, s);
    return MTBAL_OK;
}

mtbal_status mtbal_replace(mtbal_graph *graph, mtbal_value *from, mtbal_value *to)
{
    swap s = {from, to};
    bool was_output = from->is_output;
    replace_outputs(graph, &s);
    mtbal_graph_walk(graph, replace_in_node, &s);
    if (was_output) {
        const char *name = from->name;
        from->name = to->name;
        to->name = name;
        from->is_output = false;
        to->is_output = true;
    }
    return MTBAL_OK;
}
