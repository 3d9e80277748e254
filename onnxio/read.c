/* onnxio/read.c: ModelProto -> graph. Linear in the size of the file. The unpacked message stays
 * alive behind model->origin: names, dims and data of the graph point into it, and write.c takes
 * from it whatever was not changed. */
#include "onnxio/proto.h"

#include <string.h>
#include <sys/mman.h>

/* The names that one graph defines, by interned name; outer: the graph around it. */
typedef struct scope {
    struct scope *outer;
    mtbal_graph *graph;
    mtbal_map at;         /* name -> place in values */
    mtbal_value **values; /* [most] */
    size_t most;
} scope;

typedef struct reader {
    mtbal_model *model;
    mtbal_origin *origin;
    mtbal_arena *scratch; /* tables, gone after reading */
    mtbal_diag *diag;
} reader;

static mtbal_status no_memory(reader *r)
{
    return mtbal_no_memory(r->diag);
}

static const char *name_of(reader *r, const char *text)
{
    return mtbal_intern(r->model->arena, text ? text : "");
}

/* ONNX has two spellings of its own domain. */
static const char *domain_of(const char *text)
{
    return text && strcmp(text, "ai.onnx") ? text : "";
}

/* ------------------------------------------------------------------ scopes */

static mtbal_status open_scope(reader *r, scope *s, mtbal_graph *graph, scope *outer,
                               size_t most_names)
{
    *s = (scope){.outer = outer, .graph = graph, .most = most_names + 1};
    s->values = mtbal_arena_array(r->scratch, s->most, sizeof(mtbal_value *));
    return s->values ? MTBAL_OK : no_memory(r);
}

static mtbal_value *find(const scope *s, const char *name)
{
    int i = mtbal_map_get(&s->at, name);
    return i < 0 ? NULL : s->values[i];
}

static mtbal_value *add(reader *r, scope *s, const char *name)
{
    mtbal_value *value = (size_t)s->at.count < s->most ? mtbal_value_new(s->graph, name) : NULL;
    if (!value || !mtbal_map_set(&s->at, r->scratch, name, s->at.count))
        return NULL;
    return s->values[s->at.count - 1] = value;
}

/* The value of that name in the scope itself; a new one when it has none. */
static mtbal_value *declare(reader *r, scope *s, const char *text)
{
    const char *name = name_of(r, text);
    mtbal_value *value = name ? find(s, name) : NULL;
    if (name && !value)
        value = add(r, s, name);
    if (!value)
        no_memory(r);
    return value;
}

/* The value that the name means inside the scope. One that nobody defines becomes a value of this
 * graph without definition: the verifier reports it. */
static mtbal_value *resolve(reader *r, scope *s, const char *text)
{
    const char *name = name_of(r, text);
    for (scope *at = s; name && at; at = at->outer) {
        mtbal_value *value = find(at, name);
        if (value)
            return value;
    }
    return declare(r, s, text);
}

static mtbal_status defined_twice(reader *r, const char *what, const char *name)
{
    return mtbal_fail(r->diag, MTBAL_INVALID, name, "every value has one definition",
                      "%s defines this value a second time", what);
}

static bool is_defined(const mtbal_value *v)
{
    return v->def || v->is_input || v->is_initializer;
}

/* ------------------------------------------------------------------ inputs, initializers, outputs
 */

static mtbal_status read_type(reader *r, mtbal_value *value, Onnx__ValueInfoProto *info)
{
    value->origin = info;
    if (mtbal_type_from_proto(r->model, info->type, &value->type) != MTBAL_OK)
        return no_memory(r);
    return MTBAL_OK;
}

static mtbal_status read_inputs(reader *r, scope *s, size_t n, Onnx__ValueInfoProto **infos)
{
    for (size_t i = 0; i < n; i++) {
        if (!infos[i]->name || !infos[i]->name[0])
            return mtbal_fail(r->diag, MTBAL_INVALID, s->graph->name, NULL,
                              "input %zu of the graph has no name", i);
        mtbal_value *value = declare(r, s, infos[i]->name);
        if (!value)
            return MTBAL_NOMEM;
        if (is_defined(value))
            return defined_twice(r, "an input", value->name);
        MTBAL_TRY(read_type(r, value, infos[i]));
        if (mtbal_add_input(s->graph, value) != MTBAL_OK)
            return no_memory(r);
    }
    return MTBAL_OK;
}

static mtbal_status read_initializer(reader *r, scope *s, const char *name, mtbal_tensor *tensor)
{
    if (!name || !name[0])
        return mtbal_fail(r->diag, MTBAL_INVALID, s->graph->name, NULL,
                          "an initializer without a name");
    mtbal_value *value = declare(r, s, name);
    if (!value)
        return MTBAL_NOMEM;
    if (value->is_initializer)
        return defined_twice(r, "an initializer", value->name);
    if (mtbal_add_initializer(s->graph, value, tensor) != MTBAL_OK)
        return no_memory(r);
    return MTBAL_OK;
}

static mtbal_status read_initializers(reader *r, scope *s, const Onnx__GraphProto *g)
{
    mtbal_tensor *tensor;
    for (size_t i = 0; i < g->n_initializer; i++) {
        MTBAL_TRY(mtbal_tensor_from_proto(r->model, g->initializer[i], &tensor, r->diag));
        MTBAL_TRY(read_initializer(r, s, g->initializer[i]->name, tensor));
    }
    for (size_t i = 0; i < g->n_sparse_initializer; i++) {
        Onnx__SparseTensorProto *sparse = g->sparse_initializer[i];
        MTBAL_TRY(mtbal_tensor_from_sparse(r->model, sparse, &tensor, r->diag));
        MTBAL_TRY(read_initializer(r, s, sparse->values->name, tensor));
    }
    return MTBAL_OK;
}

static mtbal_status read_value_info(reader *r, scope *s, const Onnx__GraphProto *g)
{
    for (size_t i = 0; i < g->n_value_info; i++) {
        const char *name = name_of(r, g->value_info[i]->name);
        if (!name)
            return no_memory(r);
        mtbal_value *value = find(s, name);
        if (value && !value->origin)
            MTBAL_TRY(read_type(r, value, g->value_info[i]));
    }
    return MTBAL_OK;
}

static mtbal_status read_output(reader *r, scope *s, const char *name, Onnx__ValueInfoProto *info)
{
    if (!name || !name[0])
        return mtbal_fail(r->diag, MTBAL_INVALID, s->graph->name, NULL,
                          "an output of the graph has no name");
    mtbal_value *value = resolve(r, s, name);
    if (!value)
        return MTBAL_NOMEM;
    if (info && value->graph == s->graph && !value->is_input && !value->is_initializer)
        MTBAL_TRY(read_type(r, value, info));
    if (mtbal_add_output(s->graph, value) != MTBAL_OK)
        return no_memory(r);
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ attributes */

/* Files of IR 1 have no type in an attribute: it is the field that is set. */
static mtbal_attr_kind kind_of(const Onnx__AttributeProto *a)
{
    int type = a->has_type ? (int)a->type : 0;
    if (type != 0)
        return type > 0 && type <= MTBAL_ATTR_STRINGS ? (mtbal_attr_kind)type : MTBAL_ATTR_OTHER;
    return a->has_f       ? MTBAL_ATTR_FLOAT
           : a->has_i     ? MTBAL_ATTR_INT
           : a->has_s     ? MTBAL_ATTR_STRING
           : a->t         ? MTBAL_ATTR_TENSOR
           : a->g         ? MTBAL_ATTR_GRAPH
           : a->n_floats  ? MTBAL_ATTR_FLOATS
           : a->n_ints    ? MTBAL_ATTR_INTS
           : a->n_strings ? MTBAL_ATTR_STRINGS
                          : MTBAL_ATTR_OTHER;
}

static const char *bytes_as_text(reader *r, const ProtobufCBinaryData *bytes)
{
    char *text = mtbal_arena_alloc(r->model->arena, bytes->len + 1);
    if (text && bytes->len)
        memcpy(text, bytes->data, bytes->len);
    return text;
}

static mtbal_status read_strings(reader *r, mtbal_attr *attr, const Onnx__AttributeProto *a)
{
    const char **list = mtbal_arena_array(r->model->arena, a->n_strings, sizeof *list);
    for (size_t i = 0; list && i < a->n_strings; i++)
        if (!(list[i] = bytes_as_text(r, &a->strings[i])))
            return no_memory(r);
    attr->strings = list;
    attr->n = (int)a->n_strings;
    return list ? MTBAL_OK : no_memory(r);
}

static mtbal_status read_graph(reader *r, Onnx__GraphProto *g, mtbal_graph *graph, scope *outer);

static mtbal_status read_subgraph(reader *r, mtbal_attr *attr, Onnx__GraphProto *g,
                                  mtbal_node *node, scope *s)
{
    attr->g = mtbal_graph_new(r->model, s->graph, g->name);
    if (!attr->g)
        return no_memory(r);
    attr->g->owner = node;
    return read_graph(r, g, attr->g, s);
}

static mtbal_status read_contents(reader *r, mtbal_attr *attr, Onnx__AttributeProto *a,
                                  mtbal_node *node, scope *s)
{
    bool missing =
        (attr->kind == MTBAL_ATTR_TENSOR && !a->t) || (attr->kind == MTBAL_ATTR_GRAPH && !a->g);
    if (attr->ref || (missing && !node))
        return MTBAL_OK;
    if (missing)
        return mtbal_fail(r->diag, MTBAL_INVALID, node->name, NULL,
                          "the attribute %s of this %s node is empty", attr->name, node->op);
    switch (attr->kind) {
    case MTBAL_ATTR_STRING:
        attr->s = bytes_as_text(r, &a->s);
        attr->s_len = a->s.len;
        return attr->s ? MTBAL_OK : no_memory(r);
    case MTBAL_ATTR_TENSOR:
        return mtbal_tensor_from_proto(r->model, a->t, &attr->t, r->diag);
    case MTBAL_ATTR_GRAPH:
        return s ? read_subgraph(r, attr, a->g, node, s) : MTBAL_OK;
    case MTBAL_ATTR_FLOATS:
        attr->floats = a->floats;
        attr->n = (int)a->n_floats;
        return MTBAL_OK;
    case MTBAL_ATTR_INTS:
        attr->ints = a->ints;
        attr->n = (int)a->n_ints;
        return MTBAL_OK;
    case MTBAL_ATTR_STRINGS:
        return read_strings(r, attr, a);
    default:
        return MTBAL_OK;
    }
}

/* node and s are NULL for the default of a function's attribute. */
static mtbal_status read_attribute(reader *r, Onnx__AttributeProto *a, mtbal_node *node, scope *s,
                                   mtbal_attr **result)
{
    mtbal_attr *attr = mtbal_arena_alloc(r->model->arena, sizeof *attr);
    if (!attr || !(attr->name = name_of(r, a->name)))
        return no_memory(r);
    *result = attr;
    attr->kind = kind_of(a);
    attr->f = a->f;
    attr->i = a->i;
    attr->origin = a;
    if (a->ref_attr_name && a->ref_attr_name[0] && !(attr->ref = name_of(r, a->ref_attr_name)))
        return no_memory(r);
    return read_contents(r, attr, a, node, s);
}

static mtbal_status read_attributes(reader *r, Onnx__NodeProto *p, mtbal_node *node, scope *s)
{
    mtbal_attr **link = &node->attrs;
    for (size_t i = 0; i < p->n_attribute; i++) {
        MTBAL_TRY(read_attribute(r, p->attribute[i], node, s, link));
        link = &(*link)->next;
    }
    return MTBAL_OK;
}

/* ------------------------------------------------------------------ nodes */

/* The contents of a Constant node's output. Strings and sparse tensors stay in the attribute. */
static mtbal_status read_constant(reader *r, mtbal_node *node)
{
    mtbal_attr *a = node->attrs;
    if (!mtbal_node_is(node, MTBAL_OP_constant) || !a || a->ref || node->nout < 1 || !node->out[0])
        return MTBAL_OK;
    static const struct {
        const char *name;
        mtbal_attr_kind kind;
        mtbal_dtype dtype;
        int rank;
    } forms[] = {
        {"value_float", MTBAL_ATTR_FLOAT, MTBAL_FLOAT, 0},
        {"value_int", MTBAL_ATTR_INT, MTBAL_INT64, 0},
        {"value_floats", MTBAL_ATTR_FLOATS, MTBAL_FLOAT, 1},
        {"value_ints", MTBAL_ATTR_INTS, MTBAL_INT64, 1},
    };
    mtbal_tensor *tensor = a->kind == MTBAL_ATTR_TENSOR ? a->t : NULL;
    for (int i = 0; i < 4; i++) {
        if (strcmp(a->name, forms[i].name) != 0 || a->kind != forms[i].kind)
            continue;
        int64_t n = a->n;
        const void *scalar = forms[i].dtype == MTBAL_FLOAT ? (const void *)&a->f : &a->i;
        const void *list =
            forms[i].dtype == MTBAL_FLOAT ? (const void *)a->floats : (const void *)a->ints;
        tensor = mtbal_tensor_new(r->model, forms[i].dtype, forms[i].rank, &n,
                                  forms[i].rank ? list : scalar);
        if (!tensor)
            return no_memory(r);
    }
    mtbal_value *value = node->out[0];
    value->tensor = tensor;
    if (!tensor || value->type.rank >= 0)
        return MTBAL_OK;
    mtbal_dim *dims = mtbal_arena_array(r->model->arena, (size_t)tensor->rank, sizeof *dims);
    if (!dims)
        return no_memory(r);
    for (int i = 0; i < tensor->rank; i++)
        dims[i].size = tensor->dims[i];
    value->type = (mtbal_type){MTBAL_TENSOR, tensor->dtype, tensor->rank, dims};
    return MTBAL_OK;
}

/* First of two passes: the node and the values that it defines. So a name that is used before its
 * definition finds it. */
static mtbal_status declare_node(reader *r, scope *s, Onnx__NodeProto *p)
{
    if (!p->op_type || !p->op_type[0])
        return mtbal_fail(r->diag, MTBAL_INVALID, p->name ? p->name : s->graph->name, NULL,
                          "a node without an operator");
    mtbal_arena *arena = r->model->arena;
    mtbal_node *node = mtbal_node_new(s->graph, NULL, domain_of(p->domain), p->op_type, 0, NULL, 0);
    if (!node || !(node->name = name_of(r, p->name)) ||
        mtbal_proto_string(&p->base, ONNX_NODE_OVERLOAD, arena, &node->overload) != MTBAL_OK ||
        !(node->out = mtbal_arena_array(arena, p->n_output, sizeof *node->out)))
        return no_memory(r);
    node->origin = p;
    node->nout = (int)p->n_output;
    for (int i = 0; i < node->nout; i++) {
        if (!p->output[i][0])
            continue;
        mtbal_value *value = declare(r, s, p->output[i]);
        if (!value)
            return MTBAL_NOMEM;
        if (is_defined(value)) {
            char what[300];
            snprintf(what, sizeof what, "the %.100s node %.150s", node->op, node->name);
            return defined_twice(r, what, value->name);
        }
        if (mtbal_node_set_output(node, i, value) != MTBAL_OK)
            return no_memory(r);
    }
    return MTBAL_OK;
}

static mtbal_status connect_node(reader *r, scope *s, mtbal_node *node)
{
    Onnx__NodeProto *p = node->origin;
    node->in = mtbal_arena_array(r->model->arena, p->n_input, sizeof *node->in);
    if (!node->in)
        return no_memory(r);
    node->nin = (int)p->n_input;
    for (int i = 0; i < node->nin; i++)
        if (p->input[i][0] && !(node->in[i] = resolve(r, s, p->input[i])))
            return MTBAL_NOMEM;
    MTBAL_TRY(read_attributes(r, p, node, s));
    return read_constant(r, node);
}

static mtbal_status declare_nodes(reader *r, scope *s, size_t n, Onnx__NodeProto **nodes)
{
    for (size_t i = 0; i < n; i++)
        MTBAL_TRY(declare_node(r, s, nodes[i]));
    return MTBAL_OK;
}

static mtbal_status connect_nodes(reader *r, scope *s)
{
    for (mtbal_node *node = s->graph->first; node; node = node->next)
        MTBAL_TRY(connect_node(r, s, node));
    return MTBAL_OK;
}

static size_t count_names(size_t n, Onnx__NodeProto **nodes)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += nodes[i]->n_input + nodes[i]->n_output;
    return count;
}

/* ------------------------------------------------------------------ graphs, functions, the model
 */

/* s: of the graph's own names, for who reads what it defines. */
static mtbal_status read_graph_into(reader *r, Onnx__GraphProto *g, mtbal_graph *graph,
                                    scope *outer, scope *s)
{
    size_t names = g->n_input + g->n_initializer + g->n_sparse_initializer + g->n_output +
                   count_names(g->n_node, g->node);
    MTBAL_TRY(open_scope(r, s, graph, outer, names));
    graph->origin = g;
    MTBAL_TRY(read_inputs(r, s, g->n_input, g->input));
    MTBAL_TRY(read_initializers(r, s, g));
    MTBAL_TRY(declare_nodes(r, s, g->n_node, g->node));
    for (size_t i = 0; i < g->n_output; i++)
        MTBAL_TRY(read_output(r, s, g->output[i]->name, g->output[i]));
    MTBAL_TRY(read_value_info(r, s, g));
    return connect_nodes(r, s);
}

static mtbal_status read_graph(reader *r, Onnx__GraphProto *g, mtbal_graph *graph, scope *outer)
{
    scope s;
    return read_graph_into(r, g, graph, outer, &s);
}

typedef struct defaults {
    reader *r;
    mtbal_attr **link;
} defaults;

static mtbal_status read_default(ProtobufCMessage *part, bool made, void *context)
{
    defaults *d = context;
    reader *r = d->r;
    mtbal_origin *o = r->origin;
    Onnx__AttributeProto *a = (Onnx__AttributeProto *)part;
    if (made) {
        Onnx__AttributeProto **longer =
            mtbal_realloc(o->unpacked, (o->nunpacked + 1) * sizeof *longer);
        if (!longer) {
            onnx__attribute_proto__free_unpacked(a, &mtbal_proto_allocator);
            return no_memory(r);
        }
        o->unpacked = longer;
        o->unpacked[o->nunpacked++] = a;
        if (a->t && mtbal_proto_is_external(a->t))
            return mtbal_fail(r->diag, MTBAL_UNSUPPORTED, a->name, "store it inside of the model",
                              "external data in the default of a function's attribute");
    }
    MTBAL_TRY(read_attribute(r, a, NULL, NULL, d->link));
    d->link = &(*d->link)->next;
    return MTBAL_OK;
}

static mtbal_status read_opsets(reader *r, size_t n, Onnx__OperatorSetIdProto **protos,
                                int *nopsets, mtbal_opset **opsets)
{
    *opsets = mtbal_arena_array(r->model->arena, n, sizeof **opsets);
    if (!*opsets)
        return no_memory(r);
    *nopsets = (int)n;
    for (size_t i = 0; i < n; i++) {
        (*opsets)[i].domain = name_of(r, domain_of(protos[i]->domain));
        (*opsets)[i].version = protos[i]->version;
        if (!(*opsets)[i].domain)
            return no_memory(r);
    }
    return MTBAL_OK;
}

static mtbal_status read_body(reader *r, Onnx__FunctionProto *p, mtbal_graph *body)
{
    scope s;
    size_t names = p->n_input + p->n_output + count_names(p->n_node, p->node);
    MTBAL_TRY(open_scope(r, &s, body, NULL, names));
    for (size_t i = 0; i < p->n_input; i++) {
        mtbal_value *value = declare(r, &s, p->input[i]);
        if (!value)
            return MTBAL_NOMEM;
        if (is_defined(value))
            return defined_twice(r, "an input of the function", value->name);
        if (mtbal_add_input(body, value) != MTBAL_OK)
            return no_memory(r);
    }
    MTBAL_TRY(declare_nodes(r, &s, p->n_node, p->node));
    for (size_t i = 0; i < p->n_output; i++)
        MTBAL_TRY(read_output(r, &s, p->output[i], NULL));
    return connect_nodes(r, &s);
}

static mtbal_status read_function(reader *r, Onnx__FunctionProto *p, mtbal_function **result)
{
    mtbal_arena *arena = r->model->arena;
    mtbal_function *f = *result = mtbal_arena_alloc(arena, sizeof *f);
    if (!f || !(f->name = name_of(r, p->name)) || !(f->domain = name_of(r, domain_of(p->domain))) ||
        !(f->doc = name_of(r, p->doc_string)) ||
        !(f->attrs = mtbal_arena_array(arena, p->n_attribute, sizeof *f->attrs)) ||
        !(f->body = mtbal_graph_new(r->model, NULL, f->name)) ||
        mtbal_proto_string(&p->base, ONNX_FUNCTION_OVERLOAD, arena, &f->overload) != MTBAL_OK)
        return no_memory(r);
    f->origin = p;
    f->nattrs = (int)p->n_attribute;
    for (int i = 0; i < f->nattrs; i++)
        if (!(f->attrs[i] = name_of(r, p->attribute[i])))
            return no_memory(r);
    MTBAL_TRY(read_opsets(r, p->n_opset_import, p->opset_import, &f->nopsets, &f->opsets));
    defaults d = {r, &f->defaults};
    if (mtbal_proto_each(&p->base, ONNX_FUNCTION_ATTRIBUTE_PROTO,
                         &onnx__attribute_proto__descriptor, read_default, &d) != MTBAL_OK)
        return r->diag->status != MTBAL_OK ? r->diag->status : no_memory(r);
    return read_body(r, p, f->body);
}

static mtbal_status read_functions(reader *r, Onnx__ModelProto *p)
{
    for (size_t i = 0; i < p->n_functions; i++) {
        mtbal_function *f;
        MTBAL_TRY(read_function(r, p->functions[i], &f));
        if (mtbal_function_add(r->model, f) != MTBAL_OK)
            return no_memory(r);
    }
    return MTBAL_OK;
}

static mtbal_status read_entries(reader *r, size_t n, Onnx__StringStringEntryProto **entries,
                                 int *count, mtbal_property **list)
{
    *list = mtbal_arena_array(r->model->arena, n, sizeof **list);
    if (!*list)
        return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        mtbal_property *to = &(*list)[(*count)++];
        to->key = name_of(r, entries[i]->key);
        to->value = entries[i]->value ? entries[i]->value : "";
        if (!to->key)
            return no_memory(r);
    }
    return MTBAL_OK;
}

/* A graph of a training step. NULL where the file has none. */
static mtbal_status read_step(reader *r, Onnx__GraphProto *g, scope *main, mtbal_graph **result)
{
    if (!g)
        return MTBAL_OK;
    *result = mtbal_graph_new(r->model, main ? main->graph : NULL, g->name);
    return *result ? read_graph(r, g, *result, main) : no_memory(r);
}

static mtbal_status read_training(reader *r, Onnx__TrainingInfoProto *p, scope *main,
                                  mtbal_training **result)
{
    mtbal_training *t = *result = mtbal_arena_alloc(r->model->arena, sizeof *t);
    if (!t)
        return no_memory(r);
    t->origin = p;
    MTBAL_TRY(read_step(r, p->initialization, NULL, &t->initialization));
    MTBAL_TRY(read_step(r, p->algorithm, main, &t->algorithm));
    MTBAL_TRY(read_entries(r, p->n_initialization_binding, p->initialization_binding, &t->ninits,
                           &t->inits));
    return read_entries(r, p->n_update_binding, p->update_binding, &t->nupdates, &t->updates);
}

static mtbal_status read_trainings(reader *r, Onnx__ModelProto *p, scope *main)
{
    mtbal_model *m = r->model;
    m->trainings = mtbal_arena_array(m->arena, p->n_training_info, sizeof(mtbal_training *));
    if (!m->trainings)
        return no_memory(r);
    for (size_t i = 0; i < p->n_training_info; i++)
        MTBAL_TRY(read_training(r, p->training_info[i], main, &m->trainings[m->ntrainings++]));
    return MTBAL_OK;
}

static mtbal_status read_model(reader *r, Onnx__ModelProto *p)
{
    mtbal_model *m = r->model;
    scope main;
    if (!p->graph)
        return mtbal_fail(r->diag, MTBAL_INVALID, NULL, "name an ONNX model",
                          "the file holds no graph");
    m->ir_version = p->ir_version;
    m->model_version = p->model_version;
    m->graph->name = name_of(r, p->graph->name);
    m->producer_name = name_of(r, p->producer_name);
    m->producer_version = name_of(r, p->producer_version);
    m->domain = name_of(r, p->domain);
    m->doc = p->doc_string ? p->doc_string : "";
    if (!m->graph->name || !m->producer_name || !m->producer_version || !m->domain)
        return no_memory(r);
    MTBAL_TRY(read_opsets(r, p->n_opset_import, p->opset_import, &m->nopsets, &m->opsets));
    MTBAL_TRY(
        read_entries(r, p->n_metadata_props, p->metadata_props, &m->nproperties, &m->properties));
    MTBAL_TRY(mtbal_external_check(r->origin->external, &p->base, r->diag));
    MTBAL_TRY(read_graph_into(r, p->graph, m->graph, NULL, &main));
    MTBAL_TRY(read_trainings(r, p, &main));
    return read_functions(r, p);
}

/* ------------------------------------------------------------------ the state behind the model */

static void close_origin(void *state)
{
    mtbal_origin *o = state;
    for (size_t i = 0; i < o->nunpacked; i++)
        onnx__attribute_proto__free_unpacked(o->unpacked[i], &mtbal_proto_allocator);
    mtbal_free(o->unpacked);
    if (o->proto)
        onnx__model_proto__free_unpacked(o->proto, &mtbal_proto_allocator);
    mtbal_external_free(o->external);
    mtbal_file_unmap(&o->file);
    mtbal_free(o);
}

static mtbal_status load_tensor(void *state, mtbal_tensor *tensor, mtbal_diag *diag)
{
    mtbal_origin *o = state;
    const ProtobufCMessage *message = tensor->origin;
    if (message->descriptor == &onnx__sparse_tensor_proto__descriptor)
        return mtbal_sparse_load(o->model, tensor, diag);
    mtbal_range range;
    const unsigned char *bytes;
    mtbal_diag own = {0}; /* so that the status is known when the caller wants no message */
    diag = diag ? diag : &own;
    MTBAL_TRY(mtbal_external_range(o->external, tensor->origin, &range, diag));
    MTBAL_TRY(mtbal_external_map(o->external, &range, &bytes, diag));
    size_t size = mtbal_dtype_size(tensor->dtype);
    if (size > 1 && (uintptr_t)bytes % (size < 16 ? size : 8)) {
        bytes = mtbal_arena_copy(o->model->arena, bytes, tensor->bytes);
        if (!bytes)
            return mtbal_no_memory(diag);
    }
    tensor->data = bytes;
    return MTBAL_OK;
}

static mtbal_status new_state(reader *r, const char *path)
{
    r->scratch = mtbal_arena_new();
    r->model = mtbal_model_new(0);
    mtbal_origin *o = mtbal_malloc(sizeof *o);
    if (o)
        *o = (mtbal_origin){.file.fd = -1, .external = mtbal_external_new(path), .model = r->model};
    r->origin = o;
    if (!r->scratch || !r->model || !o || !o->external) {
        if (o)
            close_origin(o);
        return no_memory(r);
    }
    r->model->origin = o;
    r->model->close = close_origin;
    r->model->load = load_tensor;
    r->model->path = path ? mtbal_intern(r->model->arena, path) : NULL;
    return path && !r->model->path ? no_memory(r) : MTBAL_OK;
}

/* Says in which file it is wrong. */
static void add_path(mtbal_diag *diag, const char *path)
{
    char where[sizeof diag->where];
    if (!path || diag->status == MTBAL_OK || strcmp(diag->where, path) == 0)
        return;
    snprintf(where, sizeof where, "%.120s%s%.120s", path, diag->where[0] ? ": " : "", diag->where);
    memcpy(diag->where, where, sizeof where);
}

mtbal_status mtbal_onnx_read_bytes(const void *bytes, size_t size, const char *path,
                                   mtbal_model **model, mtbal_diag *diag)
{
    mtbal_diag own = {0};
    reader r = {NULL, NULL, NULL, diag && diag->status == MTBAL_OK ? diag : &own};
    *model = NULL;
    mtbal_status status = new_state(&r, path);
    if (status == MTBAL_OK) {
        r.origin->proto = (Onnx__ModelProto *)mtbal_proto_unpack(
            &onnx__model_proto__descriptor, bytes, size, path ? path : "model", r.diag);
        status = r.origin->proto ? read_model(&r, r.origin->proto) : r.diag->status;
    }
    mtbal_arena_free(r.scratch);
    if (status == MTBAL_OK)
        *model = r.model;
    else
        mtbal_model_free(r.model);
    add_path(r.diag, path);
    return status;
}

mtbal_status mtbal_onnx_read(const char *path, mtbal_model **model, mtbal_diag *diag)
{
    mtbal_file file;
    *model = NULL;
    MTBAL_TRY(mtbal_file_map(path, &file, diag));
    mtbal_status status = mtbal_onnx_read_bytes(file.data, file.size, path, model, diag);
    if (status != MTBAL_OK) {
        mtbal_file_unmap(&file);
        return status;
    }
    /* Everything was copied out: its pages need not stay. */
    if (file.data)
        madvise((void *)(uintptr_t)file.data, file.size, MADV_DONTNEED);
    ((mtbal_origin *)(*model)->origin)->file = file;
    return MTBAL_OK;
}

mtbal_status mtbal_onnx_read_tensor(mtbal_model *model, const char *path, mtbal_tensor **result,
                                    const char **name, mtbal_diag *diag)
{
    mtbal_diag own = {0};
    diag = diag ? diag : &own;
    mtbal_file file;
    MTBAL_TRY(mtbal_file_map(path, &file, diag));
    Onnx__TensorProto *t = (Onnx__TensorProto *)mtbal_proto_unpack(
        &onnx__tensor_proto__descriptor, file.data, file.size, path, diag);
    mtbal_file_unmap(&file);
    if (!t)
        return diag->status;
    mtbal_tensor *tensor;
    mtbal_status status = mtbal_tensor_from_proto(model, t, &tensor, diag);
    if (status == MTBAL_OK && tensor->external)
        status = mtbal_fail(diag, MTBAL_UNSUPPORTED, path, NULL, "test data as external data");
    if (status == MTBAL_OK) {
        tensor->origin = NULL;
        tensor->dims = mtbal_arena_copy(model->arena, tensor->dims,
                                        (size_t)tensor->rank * sizeof *tensor->dims);
        if (tensor->data)
            tensor->data = mtbal_arena_copy(model->arena, tensor->data, tensor->bytes);
        *name = mtbal_intern(model->arena, t->name ? t->name : "");
        if (!tensor->dims || !*name || (tensor->bytes && !tensor->data))
            status = mtbal_no_memory(diag);
        *result = tensor;
    }
    onnx__tensor_proto__free_unpacked(t, &mtbal_proto_allocator);
    add_path(diag, path);
    return status;
}
