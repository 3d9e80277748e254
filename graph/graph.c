/* graph/graph.c: models, graphs, nodes and values. */
#include "graph/internal.h"

#include <string.h>

/* ------------------------------------------------------------------ names in use */

/* What is known of a name; model->used_of says where it is in model->used. `tried` is the last
 * suffix that a fresh name of this base has tried, so that a thousand names of one base take a
 * thousand steps. */
struct mtbal_used {
    mtbal_value *value; /* the last one that was made with this name */
    int tried;
    bool taken;
    bool again; /* more than one value has had it at a time: in functions, say */
};

/* Room for one more in an arena array that is copied to twice its size whenever its count is a
 * power of two: it holds at least the next power of two, also after items have been taken out. */
static void *grow(mtbal_arena *arena, void *items, int count, size_t size)
{
    if (count & (count - 1))
        return items;
    void *bigger = mtbal_arena_array(arena, count ? 2 * (size_t)count : 1, size);
    if (bigger && count)
        memcpy(bigger, items, (size_t)count * size);
    return bigger;
}

/* The entry of an interned name, made when there is none. Valid until the next call. */
static struct mtbal_used *used_entry(mtbal_model *model, const char *name)
{
    int i = mtbal_map_get(&model->used_of, name);
    if (i >= 0)
        return &model->used[i];
    struct mtbal_used *bigger = grow(model->arena, model->used, model->nused, sizeof *bigger);
    if (!bigger || !mtbal_map_set(&model->used_of, model->arena, name, model->nused))
        return NULL;
    model->used = bigger;
    model->used[model->nused] = (struct mtbal_used){0};
    return &model->used[model->nused++];
}

/* The interned text of a format, however long. */
static const char *intern_vprintf(mtbal_arena *arena, const char *format, va_list args)
{
    char text[256], *longer = text;
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(text, sizeof text, format, args);
    if (n >= (int)sizeof text && (longer = mtbal_malloc((size_t)n + 1)))
        vsnprintf(longer, (size_t)n + 1, format, again);
    va_end(again);
    const char *name = n >= 0 && longer ? mtbal_intern_n(arena, longer, (size_t)n) : NULL;
    if (longer != text)
        mtbal_free(longer);
    return name;
}

static const char *intern_printf(mtbal_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const char *name = intern_vprintf(arena, format, args);
    va_end(args);
    return name;
}

/* `base` is interned. */
static const char *fresh_of(mtbal_model *model, const char *base)
{
    const struct mtbal_used *entry = used_entry(model, base);
    if (!entry || !entry->taken)
        return entry ? base : NULL;
    for (int n = entry->tried + 1;; n++) {
        const char *candidate = intern_printf(model->arena, "%s_%d", base, n);
        const struct mtbal_used *other = candidate ? used_entry(model, candidate) : NULL;
        if (!other)
            return NULL;
        if (!other->taken) {
            used_entry(model, base)->tried = n;
            return candidate;
        }
    }
}

const char *mtbal_fresh_name(mtbal_model *model, const char *base)
{
    const char *name = mtbal_intern(model->arena, base);
    return name ? fresh_of(model, name) : NULL;
}

const char *graph_fresh(mtbal_model *model, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const char *base = intern_vprintf(model->arena, format, args);
    va_end(args);
    return base ? fresh_of(model, base) : NULL;
}

void mtbal_forget_name(mtbal_model *model, const char *name)
{
    int i = mtbal_map_get(&model->used_of, name);
    if (i >= 0)
        model->used[i].taken = false;
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

/* Appends to a list that nothing but this has filled. */
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

int mtbal_function_index(const mtbal_model *model, const char *domain, const char *name,
                         const char *overload)
{
    int found = -1, i = mtbal_map_get(&model->function_of, mtbal_interned(model->arena, name));
    for (; i >= 0; i = model->functions[i]->before) {
        const mtbal_function *f = model->functions[i];
        if (!strcmp(f->domain, domain) &&
            !strcmp(f->overload ? f->overload : "", overload ? overload : ""))
            found = i; /* the first of the list counts */
    }
    return found;
}

mtbal_function *mtbal_function_find(const mtbal_model *model, const char *domain, const char *name,
                                    const char *overload)
{
    int i = mtbal_function_index(model, domain, name, overload);
    return i < 0 ? NULL : model->functions[i];
}

static bool index_function(mtbal_model *model, int index)
{
    mtbal_function *f = model->functions[index];
    f->before = mtbal_map_get(&model->function_of, f->name);
    f->body->function = f;
    return mtbal_map_set(&model->function_of, model->arena, f->name, index);
}

mtbal_status mtbal_function_add(mtbal_model *model, mtbal_function *function)
{
    APPEND(model->arena, model->functions, model->nfunctions, function);
    return index_function(model, model->nfunctions - 1) ? MTBAL_OK : MTBAL_NOMEM;
}

mtbal_status mtbal_functions_keep(mtbal_model *model, const bool *keep)
{
    int n = model->nfunctions;
    model->nfunctions = 0;
    model->function_of = (mtbal_map){0};
    for (int i = 0; i < n; i++) {
        if (!keep[i])
            continue;
        model->functions[model->nfunctions++] = model->functions[i];
        if (!index_function(model, model->nfunctions - 1))
            return MTBAL_NOMEM;
    }
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
    entry->again = entry->again || entry->taken;
    entry->taken = true;
    entry->value = value;
    value->name = name;
    value->id = model->nvalues++;
    value->type.rank = -1;
    value->graph = graph;
    return value;
}

mtbal_status mtbal_value_rename(mtbal_value *value, const char *name)
{
    mtbal_model *model = value->graph->model;
    struct mtbal_used *entry = used_entry(model, name);
    if (!entry)
        return MTBAL_NOMEM;
    entry->again = entry->again || entry->taken;
    entry->taken = true;
    entry->value = value;
    value->name = name;
    return MTBAL_OK;
}

void graph_swap_names(mtbal_value *a, mtbal_value *b)
{
    const mtbal_model *model = a->graph->model;
    const char *name = a->name;
    a->name = b->name;
    b->name = name;
    for (int k = 0; k < 2; k++) {
        mtbal_value *value = k ? a : b;
        int i = mtbal_map_get(&model->used_of, value->name);
        if (i >= 0)
            model->used[i].value = value;
    }
}

static mtbal_value *find_in(mtbal_graph *graph, const char *name)
{
    for (int i = 0; i < graph->ninputs; i++)
        if (graph->inputs[i]->name == name)
            return graph->inputs[i];
    for (int i = 0; i < graph->ninitializers; i++)
        if (graph->initializers[i]->name == name)
            return graph->initializers[i];
    for (mtbal_node *node = graph->first; node; node = node->next)
        for (int i = 0; i < node->nout; i++)
            if (node->out[i] && node->out[i]->name == name)
                return node->out[i];
    return NULL;
}

static bool is_inside(const mtbal_graph *graph, const mtbal_graph *around)
{
    while (graph && graph != around)
        graph = graph->parent;
    return graph != NULL;
}

/* The only value of that name, wherever it is; NULL with *known false: there may be several. */
static mtbal_value *only_value(const mtbal_model *model, const char *name, bool *known)
{
    int i = mtbal_map_get(&model->used_of, name);
    mtbal_value *v = i < 0 ? NULL : model->used[i].value;
    *known = i < 0 || (v && !model->used[i].again && v->name == name);
    bool defined = v && (v->is_input || v->is_initializer || v->def);
    return *known && defined ? v : NULL;
}

mtbal_value *mtbal_value_find(mtbal_graph *graph, const char *name)
{
    bool known;
    const char *interned = mtbal_interned(graph->model->arena, name);
    mtbal_value *value = interned ? only_value(graph->model, interned, &known) : NULL;
    if (!interned || known)
        return value && is_inside(graph, value->graph) ? value : NULL;
    for (; graph; graph = graph->parent)
        if ((value = find_in(graph, interned)))
            return value;
    return NULL;
}

mtbal_value *mtbal_initializer_find(const mtbal_model *model, const char *name)
{
    bool known;
    const char *interned = mtbal_interned(model->arena, name);
    mtbal_value *value = interned ? only_value(model, interned, &known) : NULL;
    for (int k = -1; interned && k < model->ntrainings; k++) {
        const mtbal_graph *graph = k < 0 ? model->graph : model->trainings[k]->algorithm;
        if (known && value && value->is_initializer && value->graph == graph)
            return value;
        for (int i = 0; !known && graph && i < graph->ninitializers; i++)
            if (graph->initializers[i]->name == interned)
                return graph->initializers[i];
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

void mtbal_remove_input(mtbal_graph *graph, mtbal_value *value)
{
    value->is_input = take_out(graph->inputs, &graph->ninputs, value);
}

void mtbal_remove_output(mtbal_graph *graph, mtbal_value *value)
{
    value->is_output = take_out(graph->outputs, &graph->noutputs, value);
}

void mtbal_remove_initializer(mtbal_graph *graph, mtbal_value *value)
{
    value->is_initializer = take_out(graph->initializers, &graph->ninitializers, value);
}
