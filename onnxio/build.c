/* onnxio/build.c: the message of a model. Every function takes the part that was read (origin) as
 * its pattern, and gives it back when it still says what the graph says. */
#include "onnxio/build.h"

#include <string.h>

typedef struct builder {
    mtbal_model *model;
    mtbal_arena *arena;
    mtbal_diag *diag;
    bool metadata; /* nodes may carry metadata: IR 10 */
    bool changed;  /* something differs from what was read */
    mtbal_symbols bound;
} builder;

static mtbal_status no_memory(builder *b)
{
    return mtbal_no_memory(b->diag);
}

static char *writable(const char *text)
{
    return (
        char *)(uintptr_t)text; /* protobuf-c's structs have no const; packing changes nothing */
}

/* An optional string of a shallow copy: as it was, unless it changed. Absent is not "". */
static void set_string(builder *b, char **field, const char *now)
{
    now = now ? now : "";
    if (strcmp(*field ? *field : "", now) == 0)
        return;
    *field = writable(now);
    b->changed = true;
}

static const char *plain_domain(const char *text)
{
    return text && strcmp(text, "ai.onnx") ? text : "";
}

static void set_domain(builder *b, char **field, const char *now)
{
    if (strcmp(plain_domain(*field), now) == 0)
        return;
    *field = writable(now);
    b->changed = true;
}

/* Notes whether a list of parts is still the one that was read. */
static void compare(builder *b, size_t n, void *parts, size_t nold, void *old)
{
    b->changed = b->changed || n != nold || (n && memcmp(parts, old, n * sizeof(void *)) != 0);
}

/* A list of names: the old one when it is equal. names[i] NULL: "". */
static mtbal_status set_names(builder *b, size_t *n, char ***list, size_t count,
                              const char *const *names)
{
    bool same = *n == count;
    for (size_t i = 0; same && i < count; i++)
        same = strcmp((*list)[i], names[i] ? names[i] : "") == 0;
    if (same)
        return MTBAL_OK;
    char **fresh = mtbal_arena_array(b->arena, count, sizeof *fresh);
    if (!fresh)
        return no_memory(b);
    b->changed = true;
    for (size_t i = 0; i < count; i++)
        fresh[i] = writable(names[i] ? names[i] : "");
    *n = count;
    *list = fresh;
    return MTBAL_OK;
}

static mtbal_status set_values(builder *b, size_t *n, char ***list, int count,
                               mtbal_value *const *values)
{
    bool same = *n == (size_t)count;
    for (int i = 0; same && i < count; i++)
        same = strcmp((*list)[i], values[i] ? values[i]->name : "") == 0;
    if (same)
        return MTBAL_OK;
    const char **names = mtbal_arena_array(b->arena, (size_t)count, sizeof *names);
    if (!names)
        return no_memory(b);
    for (int i = 0; i < count; i++)
        names[i] = values[i] ? values[i]->name : NULL;
    return set_names(b, n, list, (size_t)count, names);
}

/* ------------------------------------------------------------------ tensors */

bool mtbal_is_sparse(const mtbal_tensor *tensor)
{
    const ProtobufCMessage *origin = tensor->origin;
    return origin && origin->descriptor == &onnx__sparse_tensor_proto__descriptor;
}

/* name NULL: as it is. */
static Onnx__TensorProto *build_tensor(builder *b, const mtbal_tensor *tensor, const char *name)
{
    Onnx__TensorProto *t = tensor->origin;
    if (t && (!name || strcmp(t->name ? t->name : "", name) == 0))
        return t;
    if (t) {
        t = mtbal_arena_copy(b->arena, t, sizeof *t);
        if (t)
            t->name = writable(name);
    } else if (!tensor->data && tensor->count > 0) {
        mtbal_fail(b->diag, MTBAL_UNSUPPORTED, name, NULL, "a new tensor without data (type %s)",
                   mtbal_dtype_name(tensor->dtype));
        return NULL;
    } else {
        t = mtbal_tensor_to_proto(tensor, name, b->arena);
    }
    if (!t)
        no_memory(b);
    return t;
}

static Onnx__SparseTensorProto *build_sparse(builder *b, const mtbal_tensor *tensor,
                                             const char *name)
{
    Onnx__SparseTensorProto *s = tensor->origin;
    if (strcmp(s->values->name ? s->values->name : "", name) == 0)
        return s;
    s = mtbal_arena_copy(b->arena, s, sizeof *s);
    Onnx__TensorProto *values = s ? mtbal_arena_copy(b->arena, s->values, sizeof *values) : NULL;
    if (!values) {
        no_memory(b);
        return NULL;
    }
    values->name = writable(name);
    s->values = values;
    return s;
}

static mtbal_status build_initializers(builder *b, const mtbal_graph *graph, Onnx__GraphProto *g)
{
    size_t n = (size_t)graph->ninitializers;
    Onnx__TensorProto **dense = mtbal_arena_array(b->arena, n, sizeof *dense);
    Onnx__SparseTensorProto **sparse = mtbal_arena_array(b->arena, n, sizeof *sparse);
    if (!dense || !sparse)
        return no_memory(b);
    size_t ndense = 0, nsparse = 0;
    for (size_t i = 0; i < n; i++) {
        const mtbal_value *value = graph->initializers[i];
        void *built;
        if (mtbal_is_sparse(value->tensor))
            built = sparse[nsparse++] = build_sparse(b, value->tensor, value->name);
        else
            built = dense[ndense++] = build_tensor(b, value->tensor, value->name);
        if (!built)
            return b->diag->status;
    }
    compare(b, ndense, dense, g->n_initializer, g->initializer);
    compare(b, nsparse, sparse, g->n_sparse_initializer, g->sparse_initializer);
    g->n_initializer = ndense;
    g->initializer = dense;
    g->n_sparse_initializer = nsparse;
    g->sparse_initializer = sparse;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ declarations of values */

/* info: the declaration that was read, or NULL. */
static Onnx__ValueInfoProto *build_info(builder *b, const mtbal_value *value,
                                        Onnx__ValueInfoProto *info)
{
    bool typed = !info || !mtbal_type_declared(info->type, &value->type, &b->bound);
    bool named = info && strcmp(info->name ? info->name : "", value->name) == 0;
    if (named && !typed)
        return info;
    Onnx__ValueInfoProto *fresh = mtbal_arena_alloc(b->arena, sizeof *fresh);
    if (!fresh)
        goto out_of_memory;
    onnx__value_info_proto__init(fresh);
    if (info)
        *fresh = *info;
    if (!named)
        fresh->name = writable(value->name);
    bool nothing_known = value->type.kind == MTBAL_TENSOR && value->type.dtype == MTBAL_UNDEFINED &&
                         value->type.rank < 0;
    if (typed && !nothing_known && value->type.kind != MTBAL_OTHER) {
        Onnx__TypeProto *type = mtbal_type_to_proto(&value->type, b->arena);
        if (!type)
            goto out_of_memory;
        if (info && info->type)
            type->denotation = info->type->denotation;
        fresh->type = type;
    }
    return fresh;
out_of_memory:
    no_memory(b);
    return NULL;
}

/* Inputs or outputs. The declaration of entry i is that of the file's entry i, when it has the
 * name: a value can be input and output at once and have two. */
static mtbal_status build_infos(builder *b, int count, mtbal_value *const *values, size_t *n,
                                Onnx__ValueInfoProto ***list)
{
    Onnx__ValueInfoProto **fresh = mtbal_arena_array(b->arena, (size_t)count, sizeof *fresh);
    if (!fresh)
        return no_memory(b);
    for (int i = 0; i < count; i++) {
        Onnx__ValueInfoProto *info = (size_t)i < *n ? (*list)[i] : NULL;
        if (!info || !info->name || strcmp(info->name, values[i]->name) != 0)
            info = values[i]->origin;
        if (!(fresh[i] = build_info(b, values[i], info)))
            return b->diag->status;
    }
    compare(b, (size_t)count, fresh, *n, *list);
    *n = (size_t)count;
    *list = fresh;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ names of a graph, now and then
 */

typedef struct name_set {
    mtbal_map at; /* name -> place in values */
    const mtbal_value **values;
} name_set;

static bool enter(builder *b, name_set *s, const mtbal_value *value)
{
    int place = mtbal_map_get(&s->at, value->name);
    place = place < 0 ? s->at.count : place;
    s->values[place] = value;
    return mtbal_map_set(&s->at, b->arena, value->name, place);
}

static bool names_now(builder *b, const mtbal_graph *graph, name_set *s)
{
    size_t most = (size_t)graph->ninputs + (size_t)graph->ninitializers;
    for (const mtbal_node *node = graph->first; node; node = node->next)
        most += (size_t)node->nout;
    *s = (name_set){.values = mtbal_arena_array(b->arena, most, sizeof *s->values)};
    bool ok = s->values != NULL;
    for (int i = 0; ok && i < graph->ninputs; i++)
        ok = enter(b, s, graph->inputs[i]);
    for (int i = 0; ok && i < graph->ninitializers; i++)
        ok = enter(b, s, graph->initializers[i]);
    for (const mtbal_node *node = graph->first; ok && node; node = node->next)
        for (int i = 0; ok && i < node->nout; i++)
            ok = !node->out[i] || enter(b, s, node->out[i]);
    return ok;
}

static const mtbal_value *value_now(const name_set *s, const char *name)
{
    int i = mtbal_map_get(&s->at, name);
    return i < 0 ? NULL : s->values[i];
}

static bool enter_text(builder *b, mtbal_map *names, const char *text)
{
    const char *name = mtbal_intern(b->model->arena, text ? text : "");
    return name && mtbal_map_set(names, b->arena, name, 0);
}

static bool names_then(builder *b, const Onnx__GraphProto *g, mtbal_map *names)
{
    bool ok = true;
    for (size_t i = 0; ok && i < g->n_input; i++)
        ok = enter_text(b, names, g->input[i]->name);
    for (size_t i = 0; ok && i < g->n_initializer; i++)
        ok = enter_text(b, names, g->initializer[i]->name);
    for (size_t i = 0; ok && i < g->n_node; i++)
        for (size_t k = 0; ok && k < g->node[i]->n_output; k++)
            ok = enter_text(b, names, g->node[i]->output[k]);
    return ok;
}

/* What the graph says about inner values, of those that still exist. An entry that was about
 * nothing in the file already is none of our business, and stays. */
static mtbal_status build_value_info(builder *b, const mtbal_graph *graph, Onnx__GraphProto *g)
{
    const Onnx__GraphProto *old = graph->origin;
    if (!old || (!old->n_value_info && !old->n_quantization_annotation))
        return MTBAL_OK;
    name_set now;
    mtbal_map then = {0};
    Onnx__ValueInfoProto **infos = mtbal_arena_array(b->arena, old->n_value_info, sizeof *infos);
    Onnx__TensorAnnotation **notes =
        mtbal_arena_array(b->arena, old->n_quantization_annotation, sizeof *notes);
    if (!infos || !notes || !names_now(b, graph, &now) || !names_then(b, old, &then))
        return no_memory(b);
    size_t ninfos = 0, nnotes = 0;
    for (size_t i = 0; i < old->n_value_info; i++) {
        Onnx__ValueInfoProto *info = old->value_info[i];
        const char *name = mtbal_intern(b->model->arena, info->name ? info->name : "");
        if (!name)
            return no_memory(b);
        const mtbal_value *value = value_now(&now, name);
        if (!value && mtbal_map_get(&then, name) >= 0)
            continue;
        if (value && value->type.kind != MTBAL_OTHER && !(info = build_info(b, value, info)))
            return b->diag->status;
        infos[ninfos++] = info;
    }
    for (size_t i = 0; i < old->n_quantization_annotation; i++) {
        Onnx__TensorAnnotation *note = old->quantization_annotation[i];
        const char *name =
            mtbal_intern(b->model->arena, note->tensor_name ? note->tensor_name : "");
        if (!name)
            return no_memory(b);
        if (value_now(&now, name) || mtbal_map_get(&then, name) < 0)
            notes[nnotes++] = note;
    }
    compare(b, ninfos, infos, old->n_value_info, old->value_info);
    compare(b, nnotes, notes, old->n_quantization_annotation, old->quantization_annotation);
    g->n_value_info = ninfos;
    g->value_info = infos;
    g->n_quantization_annotation = nnotes;
    g->quantization_annotation = notes;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ attributes */

static mtbal_status build_graph(builder *b, const mtbal_graph *graph, Onnx__GraphProto **result);

static mtbal_status build_strings(builder *b, const mtbal_attr *attr, Onnx__AttributeProto *a)
{
    a->n_strings = (size_t)attr->n;
    a->strings = mtbal_arena_array(b->arena, a->n_strings, sizeof *a->strings);
    if (!a->strings)
        return no_memory(b);
    for (size_t i = 0; i < a->n_strings; i++) {
        a->strings[i].len = strlen(attr->strings[i]);
        a->strings[i].data = (uint8_t *)writable(attr->strings[i]);
    }
    return MTBAL_OK;
}

static mtbal_status new_attribute(builder *b, const mtbal_attr *attr, Onnx__AttributeProto *a)
{
    onnx__attribute_proto__init(a);
    a->name = writable(attr->name);
    a->has_type = 1;
    a->type = (Onnx__AttributeProto__AttributeType)attr->kind;
    if (attr->ref) {
        a->ref_attr_name = writable(attr->ref);
        return MTBAL_OK;
    }
    switch (attr->kind) {
    case MTBAL_ATTR_FLOAT:
        a->has_f = 1;
        a->f = attr->f;
        return MTBAL_OK;
    case MTBAL_ATTR_INT:
        a->has_i = 1;
        a->i = attr->i;
        return MTBAL_OK;
    case MTBAL_ATTR_STRING:
        a->has_s = 1;
        a->s = (ProtobufCBinaryData){attr->s_len, (uint8_t *)writable(attr->s)};
        return MTBAL_OK;
    case MTBAL_ATTR_TENSOR:
        a->t = build_tensor(b, attr->t, NULL);
        return a->t ? MTBAL_OK : b->diag->status;
    case MTBAL_ATTR_GRAPH:
        return build_graph(b, attr->g, &a->g);
    case MTBAL_ATTR_FLOATS:
        a->n_floats = (size_t)attr->n;
        a->floats = (float *)(uintptr_t)attr->floats;
        return MTBAL_OK;
    case MTBAL_ATTR_INTS:
        a->n_ints = (size_t)attr->n;
        a->ints = (int64_t *)(uintptr_t)attr->ints;
        return MTBAL_OK;
    case MTBAL_ATTR_STRINGS:
        return build_strings(b, attr, a);
    default:
        return mtbal_fail(b->diag, MTBAL_UNSUPPORTED, attr->name, NULL,
                          "a new attribute of a kind that only files can hold");
    }
}

/* Subgraphs are built anew in any case: a pass may have changed their inside. */
static mtbal_status build_attribute(builder *b, const mtbal_attr *attr,
                                    Onnx__AttributeProto **result)
{
    Onnx__AttributeProto *old = attr->origin;
    bool graph = attr->kind == MTBAL_ATTR_GRAPH && attr->g;
    bool tensor = attr->kind == MTBAL_ATTR_TENSOR && attr->t && old && attr->t->origin != old->t;
    *result = old;
    if (old && !graph && !tensor)
        return MTBAL_OK;
    Onnx__AttributeProto *a = *result = mtbal_arena_alloc(b->arena, sizeof *a);
    if (!a)
        return no_memory(b);
    if (!old)
        return new_attribute(b, attr, a);
    *a = *old;
    b->changed = b->changed || tensor || (graph && attr->g->origin != old->g);
    if (graph)
        return build_graph(b, attr->g, &a->g);
    a->t = build_tensor(b, attr->t, NULL);
    return a->t ? MTBAL_OK : b->diag->status;
}

static mtbal_status build_attributes(builder *b, const mtbal_node *node, Onnx__NodeProto *p)
{
    size_t n = 0, i = 0;
    for (const mtbal_attr *a = node->attrs; a; a = a->next)
        n++;
    Onnx__AttributeProto **list = mtbal_arena_array(b->arena, n, sizeof *list);
    if (!list)
        return no_memory(b);
    b->changed = b->changed || n != p->n_attribute;
    for (const mtbal_attr *a = node->attrs; a; a = a->next) {
        b->changed = b->changed || a->origin != p->attribute[i];
        MTBAL_TRY(build_attribute(b, a, &list[i++]));
    }
    p->n_attribute = n;
    p->attribute = list;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ nodes */

static mtbal_status add_metadata(builder *b, Onnx__NodeProto *p, const char *key, const char *value)
{
    if (!value || !*value)
        return MTBAL_OK;
    Onnx__StringStringEntryProto *entry = mtbal_arena_alloc(b->arena, sizeof *entry);
    if (!entry)
        return no_memory(b);
    onnx__string_string_entry_proto__init(entry);
    entry->key = writable(key);
    entry->value = writable(value);
    if (mtbal_proto_add_message(&p->base, ONNX_NODE_METADATA, &entry->base, b->arena) != MTBAL_OK)
        return no_memory(b);
    return MTBAL_OK;
}

static mtbal_status build_node(builder *b, const mtbal_node *node, Onnx__NodeProto **result)
{
    const Onnx__NodeProto *old = node->origin;
    Onnx__NodeProto *p = *result = mtbal_arena_alloc(b->arena, sizeof *p);
    const char *overload = "";
    if (!p)
        return no_memory(b);
    onnx__node_proto__init(p);
    if (old) {
        *p = *old;
        if (mtbal_proto_string(&old->base, ONNX_NODE_OVERLOAD, b->arena, &overload) != MTBAL_OK)
            return no_memory(b);
    }
    set_string(b, &p->name, node->name);
    set_string(b, &p->op_type, node->op);
    set_domain(b, &p->domain, node->domain);
    if (node->overload && strcmp(overload, node->overload) != 0) {
        b->changed = true;
        if (mtbal_proto_add_string(&p->base, ONNX_NODE_OVERLOAD, node->overload, b->arena))
            return no_memory(b);
    }
    MTBAL_TRY(set_values(b, &p->n_input, &p->input, node->nin, node->in));
    MTBAL_TRY(set_values(b, &p->n_output, &p->output, node->nout, node->out));
    MTBAL_TRY(build_attributes(b, node, p));
    if (old || !b->metadata)
        return MTBAL_OK;
    MTBAL_TRY(add_metadata(b, p, "mtbal.role", node->role));
    return add_metadata(b, p, "mtbal.task", node->task);
}

static mtbal_status build_nodes(builder *b, const mtbal_graph *graph, size_t *n,
                                Onnx__NodeProto ***list)
{
    size_t count = 0;
    Onnx__NodeProto **fresh = mtbal_arena_array(b->arena, (size_t)graph->nnodes, sizeof *fresh);
    if (!fresh)
        return no_memory(b);
    b->changed = b->changed || *n != (size_t)graph->nnodes;
    for (const mtbal_node *node = graph->first; node; node = node->next) {
        b->changed = b->changed || node->origin != (*list)[count];
        MTBAL_TRY(build_node(b, node, &fresh[count++]));
    }
    *n = count;
    *list = fresh;
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ graphs, functions, the model
 */

static mtbal_status build_graph(builder *b, const mtbal_graph *graph, Onnx__GraphProto **result)
{
    const Onnx__GraphProto *old = graph->origin;
    Onnx__GraphProto *g = *result = mtbal_arena_alloc(b->arena, sizeof *g);
    if (!g)
        return no_memory(b);
    onnx__graph_proto__init(g);
    if (old)
        *g = *old;
    set_string(b, &g->name, graph->name);
    MTBAL_TRY(build_nodes(b, graph, &g->n_node, &g->node));
    MTBAL_TRY(build_initializers(b, graph, g));
    MTBAL_TRY(build_infos(b, graph->ninputs, graph->inputs, &g->n_input, &g->input));
    MTBAL_TRY(build_infos(b, graph->noutputs, graph->outputs, &g->n_output, &g->output));
    return build_value_info(b, graph, g);
}

static mtbal_status build_opsets(builder *b, int count, const mtbal_opset *opsets, size_t *n,
                                 Onnx__OperatorSetIdProto ***list)
{
    Onnx__OperatorSetIdProto **fresh = mtbal_arena_array(b->arena, (size_t)count, sizeof *fresh);
    if (!fresh)
        return no_memory(b);
    for (int i = 0; i < count; i++) {
        Onnx__OperatorSetIdProto *old = (size_t)i < *n ? (*list)[i] : NULL;
        bool same = old && strcmp(plain_domain(old->domain), opsets[i].domain) == 0;
        fresh[i] = old;
        if (same && old->version == opsets[i].version)
            continue;
        fresh[i] = mtbal_arena_alloc(b->arena, sizeof **fresh);
        if (!fresh[i])
            return no_memory(b);
        onnx__operator_set_id_proto__init(fresh[i]);
        if (same)
            *fresh[i] = *old;
        else
            fresh[i]->domain = writable(opsets[i].domain);
        fresh[i]->has_version = 1;
        fresh[i]->version = opsets[i].version;
    }
    compare(b, (size_t)count, fresh, *n, *list);
    *n = (size_t)count;
    *list = fresh;
    return MTBAL_OK;
}

static mtbal_status add_defaults(builder *b, const mtbal_function *f, Onnx__FunctionProto *p)
{
    for (const mtbal_attr *attr = f->defaults; attr; attr = attr->next) {
        Onnx__AttributeProto *a;
        MTBAL_TRY(build_attribute(b, attr, &a));
        if (mtbal_proto_add_message(&p->base, ONNX_FUNCTION_ATTRIBUTE_PROTO, &a->base, b->arena) !=
            MTBAL_OK)
            return no_memory(b);
    }
    if (f->overload && *f->overload &&
        mtbal_proto_add_string(&p->base, ONNX_FUNCTION_OVERLOAD, f->overload, b->arena) != MTBAL_OK)
        return no_memory(b);
    return MTBAL_OK;
}

static mtbal_status build_function(builder *b, const mtbal_function *f,
                                   Onnx__FunctionProto **result)
{
    const Onnx__FunctionProto *old = f->origin;
    Onnx__FunctionProto *p = *result = mtbal_arena_alloc(b->arena, sizeof *p);
    if (!p)
        return no_memory(b);
    onnx__function_proto__init(p);
    if (old)
        *p = *old;
    set_string(b, &p->name, f->name);
    set_domain(b, &p->domain, f->domain);
    set_string(b, &p->doc_string, f->doc);
    MTBAL_TRY(set_names(b, &p->n_attribute, &p->attribute, (size_t)f->nattrs, f->attrs));
    MTBAL_TRY(set_values(b, &p->n_input, &p->input, f->body->ninputs, f->body->inputs));
    MTBAL_TRY(set_values(b, &p->n_output, &p->output, f->body->noutputs, f->body->outputs));
    MTBAL_TRY(build_opsets(b, f->nopsets, f->opsets, &p->n_opset_import, &p->opset_import));
    MTBAL_TRY(build_nodes(b, f->body, &p->n_node, &p->node));
    return old ? MTBAL_OK : add_defaults(b, f, p);
}

static mtbal_status build_functions(builder *b, Onnx__ModelProto *p)
{
    const mtbal_model *m = b->model;
    Onnx__FunctionProto **list = mtbal_arena_array(b->arena, (size_t)m->nfunctions, sizeof *list);
    if (!list)
        return no_memory(b);
    b->changed = b->changed || p->n_functions != (size_t)m->nfunctions;
    for (int i = 0; i < m->nfunctions; i++) {
        b->changed = b->changed || m->functions[i]->origin != p->functions[i];
        MTBAL_TRY(build_function(b, m->functions[i], &list[i]));
    }
    p->n_functions = (size_t)m->nfunctions;
    p->functions = list;
    return MTBAL_OK;
}

static mtbal_status build_entries(builder *b, int count, const mtbal_property *entries, size_t *n,
                                  Onnx__StringStringEntryProto ***old)
{
    Onnx__StringStringEntryProto **list = mtbal_arena_array(b->arena, (size_t)count, sizeof *list);
    if (!list)
        return no_memory(b);
    b->changed = b->changed || *n != (size_t)count;
    for (int i = 0; i < count; i++) {
        list[i] = mtbal_arena_alloc(b->arena, sizeof **list);
        if (!list[i])
            return no_memory(b);
        onnx__string_string_entry_proto__init(list[i]);
        if ((size_t)i < *n && strcmp((*old)[i]->key ? (*old)[i]->key : "", entries[i].key) == 0)
            *list[i] = *(*old)[i];
        set_string(b, &list[i]->key, entries[i].key);
        set_string(b, &list[i]->value, entries[i].value);
    }
    *n = (size_t)count;
    *old = list;
    return MTBAL_OK;
}

static mtbal_status build_training(builder *b, const mtbal_training *t,
                                   Onnx__TrainingInfoProto **result)
{
    const Onnx__TrainingInfoProto *old = t->origin;
    Onnx__TrainingInfoProto *p = *result = mtbal_arena_alloc(b->arena, sizeof *p);
    if (!p)
        return no_memory(b);
    onnx__training_info_proto__init(p);
    if (old)
        *p = *old;
    if (t->initialization)
        MTBAL_TRY(build_graph(b, t->initialization, &p->initialization));
    if (t->algorithm)
        MTBAL_TRY(build_graph(b, t->algorithm, &p->algorithm));
    MTBAL_TRY(build_entries(b, t->ninits, t->inits, &p->n_initialization_binding,
                            &p->initialization_binding));
    return build_entries(b, t->nupdates, t->updates, &p->n_update_binding, &p->update_binding);
}

static mtbal_status build_trainings(builder *b, Onnx__ModelProto *p)
{
    const mtbal_model *m = b->model;
    Onnx__TrainingInfoProto **list =
        mtbal_arena_array(b->arena, (size_t)m->ntrainings, sizeof *list);
    if (!list)
        return no_memory(b);
    b->changed = b->changed || p->n_training_info != (size_t)m->ntrainings;
    for (int i = 0; i < m->ntrainings; i++) {
        b->changed = b->changed || m->trainings[i]->origin != p->training_info[i];
        MTBAL_TRY(build_training(b, m->trainings[i], &list[i]));
    }
    p->n_training_info = (size_t)m->ntrainings;
    p->training_info = list;
    return MTBAL_OK;
}

static void set_number(builder *b, protobuf_c_boolean *has, int64_t *field, int64_t now)
{
    if (*field == now)
        return;
    *has = 1;
    *field = now;
    b->changed = true;
}

mtbal_status mtbal_build_model(mtbal_model *model, mtbal_arena *arena, Onnx__ModelProto **message,
                               bool *changed, mtbal_diag *diag)
{
    mtbal_diag own = {0};
    builder state = {.model = model, .arena = arena, .diag = diag ? diag : &own};
    builder *b = &state;
    const mtbal_origin *o = model->origin;
    Onnx__ModelProto *p = *message = mtbal_arena_alloc(arena, sizeof *p);
    if (!p)
        return no_memory(b);
    b->metadata = model->ir_version >= 10;
    if (mtbal_bound_symbols(model->graph, arena, &b->bound) != MTBAL_OK)
        return no_memory(b);
    onnx__model_proto__init(p);
    if (o)
        *p = *o->proto;
    set_number(b, &p->has_ir_version, &p->ir_version, model->ir_version);
    set_number(b, &p->has_model_version, &p->model_version, model->model_version);
    set_string(b, &p->producer_name, model->producer_name);
    set_string(b, &p->producer_version, model->producer_version);
    set_string(b, &p->domain, model->domain);
    set_string(b, &p->doc_string, model->doc);
    MTBAL_TRY(build_opsets(b, model->nopsets, model->opsets, &p->n_opset_import, &p->opset_import));
    MTBAL_TRY(build_entries(b, model->nproperties, model->properties, &p->n_metadata_props,
                            &p->metadata_props));
    MTBAL_TRY(build_functions(b, p));
    MTBAL_TRY(build_graph(b, model->graph, &p->graph));
    MTBAL_TRY(build_trainings(b, p));
    *changed = b->changed || !o;
    return MTBAL_OK;
}
