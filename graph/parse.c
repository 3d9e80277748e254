/* graph/parse.c: ONNX text -> graph (onnx/docs/Syntax.md): functions and models. Recursive descent
 * over one buffer. Beyond the syntax: formal attributes of functions may have a type without a
 * default (<axis: int>), statements may end in a semicolon, operators may be quoted. */
#include "graph/lex.h"

#include <string.h>

enum { MAX_NESTING = 100, MAX_RANK = 64 };

/* Something named in a scope; `hidden`: what the name meant around it (an index, -1: nothing). */
typedef struct entry {
    const char *name;
    mtbal_value *value;
    int hidden;
} entry;

typedef struct parser {
    lexer l;
    mtbal_model *model;
    int nesting;
    bool in_function;
    entry *scope; /* stack */
    int nscope, capacity;
    struct slot {
        const char *name;
        int top;    /* index into scope, -1 when out of scope */
        bool taken; /* named a value of the model's graph or its subgraphs */
    } * slots;      /* hash table by interned pointer */
    int nslots, capacity_slots;
} parser;

static void *no_memory(parser *s)
{
    return lex_no_memory(&s->l);
}

static bool good(const parser *s)
{
    return s->l.status == MTBAL_OK;
}

/* In a list: takes the comma before all but the first item; false at the end (`close` taken). */
static bool next_item(parser *s, int index, const char *close)
{
    if (!good(s) || lex_accept(&s->l, close))
        return false;
    return index == 0 || lex_expect(&s->l, ",");
}

/* A list that grows, in memory of its own; freed by its user. */
typedef struct list {
    void *items;
    int count, capacity;
} list;

static void *append(parser *s, list *l, size_t size)
{
    if (l->count == l->capacity) {
        int capacity = l->capacity ? 2 * l->capacity : 16;
        void *bigger = mtbal_realloc(l->items, (size_t)capacity * size);
        if (!bigger)
            return no_memory(s);
        l->items = bigger;
        l->capacity = capacity;
    }
    return (char *)l->items + (size_t)l->count++ * size;
}

/* ------------------------------------------------------------------ scopes */

static struct slot *find_slot(struct slot *slots, int capacity, const char *name)
{
    size_t mask = (size_t)capacity - 1;
    size_t i = (size_t)((uint64_t)((uintptr_t)name >> 4) * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (slots[i].name && slots[i].name != name)
        i = (i + 1) & mask;
    return &slots[i];
}

static struct slot *slot_of(parser *s, const char *name)
{
    if (2 * s->nslots >= s->capacity_slots) {
        int capacity = s->capacity_slots ? 2 * s->capacity_slots : 128;
        struct slot *bigger = mtbal_malloc((size_t)capacity * sizeof *bigger);
        if (!bigger)
            return no_memory(s);
        memset(bigger, 0, (size_t)capacity * sizeof *bigger);
        for (int i = 0; i < s->capacity_slots; i++)
            if (s->slots[i].name)
                *find_slot(bigger, capacity, s->slots[i].name) = s->slots[i];
        mtbal_free(s->slots);
        s->slots = bigger;
        s->capacity_slots = capacity;
    }
    struct slot *slot = find_slot(s->slots, s->capacity_slots, name);
    if (!slot->name) {
        *slot = (struct slot){name, -1, false};
        s->nslots++;
    }
    return slot;
}

static mtbal_value *lookup(const parser *s, const char *name)
{
    if (!name || !s->capacity_slots)
        return NULL;
    const struct slot *slot = find_slot(s->slots, s->capacity_slots, name);
    return slot->name && slot->top >= 0 ? s->scope[slot->top].value : NULL;
}

/* A value of that name in the innermost scope. Within the model's graph and its subgraphs names
 * are unique: one that is used again there gets a fresh one. */
static mtbal_value *new_value(parser *s, mtbal_graph *graph, const char *name)
{
    struct slot *slot = name ? slot_of(s, name) : NULL;
    list stack = {s->scope, s->nscope, s->capacity};
    entry *e = slot ? append(s, &stack, sizeof *e) : NULL;
    if (!e)
        return NULL;
    s->scope = stack.items;
    s->nscope = stack.count;
    s->capacity = stack.capacity;
    *e = (entry){name, NULL, slot->top};
    slot->top = s->nscope - 1;
    const char *own =
        slot->taken && !s->in_function ? mtbal_fresh_name(s->model, name) : slot->name;
    slot->taken = slot->taken || !s->in_function;
    e->value = own ? mtbal_value_new(graph, own) : NULL;
    return e->value ? e->value : no_memory(s);
}

static void leave_scope(parser *s, int to)
{
    while (s->nscope > to) {
        const entry *e = &s->scope[--s->nscope];
        find_slot(s->slots, s->capacity_slots, e->name)->top = e->hidden;
    }
}

/* ------------------------------------------------------------------ types and tensors */

/* [N, 3, ?, "a b"]; [] is an unknown rank; nothing a scalar. */
static bool parse_dims(parser *s, mtbal_type *type)
{
    mtbal_dim dims[MAX_RANK];
    int rank = 0;
    number n;
    type->rank = 0;
    if (!lex_accept(&s->l, "["))
        return good(s);
    for (; next_item(s, rank, "]"); rank++) {
        if (rank == MAX_RANK)
            return lex_error(&s->l, "the end of a shape of more than 64 dimensions");
        if (lex_accept(&s->l, "?"))
            dims[rank] = (mtbal_dim){-1, NULL};
        else if (!lex_number(&s->l, &n))
            dims[rank] = (mtbal_dim){-1, lex_name(&s->l)};
        else if (n.is_float || n.negative)
            return lex_error(&s->l, "a size");
        else
            dims[rank] = (mtbal_dim){n.i, NULL};
    }
    type->rank = rank ? rank : -1;
    type->dims = mtbal_arena_copy(s->model->arena, dims, (size_t)rank * sizeof *dims);
    return type->dims ? good(s) : no_memory(s) != NULL;
}

/* map(...), sparse_tensor(...): known to be something else. */
static void skip_type(parser *s)
{
    int depth = 0;
    do {
        char c = lex_peek(&s->l);
        depth += (c == '(') - (c == ')');
        if (!c)
            lex_error(&s->l, "')'");
        else
            s->l.p++;
    } while (depth > 0 && good(s));
}

static bool try_type(parser *s, mtbal_type *type)
{
    static const struct {
        const char *word;
        mtbal_kind kind;
    } kinds[] = {{"seq", MTBAL_SEQUENCE},
                 {"optional", MTBAL_OPTIONAL},
                 {"map", MTBAL_OTHER},
                 {"sparse_tensor", MTBAL_OTHER},
                 {"opaque", MTBAL_OTHER}};
    char word[24];
    size_t n = lex_identifier(&s->l);
    *type = (mtbal_type){MTBAL_TENSOR, MTBAL_UNDEFINED, -1, NULL};
    if (n == 0 || n >= sizeof word)
        return false;
    snprintf(word, sizeof word, "%.*s", (int)n, s->l.p);
    type->dtype = mtbal_dtype_parse(word);
    if (type->dtype != MTBAL_UNDEFINED) {
        s->l.p += n;
        return parse_dims(s, type);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mtbal_kind kind = kinds[i].kind;
        const char *before = s->l.p;
        if (strcmp(word, kinds[i].word) != 0)
            continue;
        s->l.p += n;
        const char *open = s->l.p;
        bool known = kind != MTBAL_OTHER && lex_accept(&s->l, "(") && try_type(s, type) &&
                     type->kind == MTBAL_TENSOR && lex_accept(&s->l, ")");
        if (!known && good(s)) {
            s->l.p = open;
            if (lex_peek(&s->l) != '(') { /* a name like any other */
                s->l.p = before;
                return false;
            }
            skip_type(s);
        }
        type->kind = known ? kind : MTBAL_OTHER;
        return good(s);
    }
    return false;
}

/* One element of a tensor: the 16-bit floats are given as their bits. */
static void set_element(mtbal_tensor *t, int64_t i, const number *n)
{
    char *bytes = mtbal_tensor_bytes(t);
    size_t size = mtbal_dtype_size(t->dtype);
    if (t->dtype == MTBAL_COMPLEX64)
        ((float *)(void *)bytes)[i] = (float)n->f;
    else if (t->dtype == MTBAL_COMPLEX128)
        ((double *)(void *)bytes)[i] = n->f;
    else if (t->dtype == MTBAL_FLOAT || t->dtype == MTBAL_DOUBLE)
        mtbal_tensor_set_f64(t, i, n->f);
    else if (t->dtype == MTBAL_BOOL)
        bytes[i] = n->i != 0;
    else
        memcpy(bytes + (size_t)i * size, &n->i, size); /* little-endian: the low bytes */
}

static bool parse_element(parser *s, const mtbal_tensor *t, number *n)
{
    if (lex_accept(&s->l, "true") || lex_accept(&s->l, "false")) {
        *n = (number){.i = s->l.p[-2] == 'u'};
        n->f = (double)n->i;
        return true;
    }
    if (!lex_number(&s->l, n))
        return lex_error(&s->l, "a number") != NULL;
    bool real = t->dtype == MTBAL_FLOAT || t->dtype == MTBAL_DOUBLE ||
                t->dtype == MTBAL_COMPLEX64 || t->dtype == MTBAL_COMPLEX128;
    return !n->is_float || real || lex_error(&s->l, "an integer (bits, for a 16-bit float)");
}

static mtbal_tensor *parse_tensor(parser *s, const mtbal_type *type)
{
    int64_t dims[MAX_RANK], given = 0;
    number n;
    int parts = type->dtype == MTBAL_COMPLEX64 || type->dtype == MTBAL_COMPLEX128 ? 2 : 1;
    int64_t count = type->kind == MTBAL_TENSOR ? mtbal_shape_count(type) : -1;
    if (count < 0 || mtbal_dtype_size(type->dtype) == 0)
        return lex_error(&s->l, "a type of numbers with a known shape");
    if (!lex_expect(&s->l, "{"))
        return NULL;
    if (count > s->l.end - s->l.p)
        return lex_error(&s->l, "an element for each place of the shape");
    for (int i = 0; i < type->rank; i++)
        dims[i] = type->dims[i].size;
    mtbal_tensor *t = mtbal_tensor_new(s->model, type->dtype, type->rank, dims, NULL);
    if (!t)
        return no_memory(s);
    for (; next_item(s, given > 0, "}"); given++) {
        if (given == count * parts)
            return lex_error(&s->l, "the end of the tensor");
        if (parse_element(s, t, &n))
            set_element(t, given, &n);
    }
    if (good(s) && given < count * parts)
        return lex_error(&s->l, "an element for each place of the shape");
    return good(s) ? t : NULL;
}

/* ------------------------------------------------------------------ attributes */

static mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into);

typedef struct item {
    number n;
    const char *string;
} item;

/* Copies a list's items into the attribute, as what they are. */
static bool keep_list(parser *s, mtbal_attr *a, const item *items, int n)
{
    static const size_t sizes[] = {[MTBAL_ATTR_INTS] = sizeof(int64_t),
                                   [MTBAL_ATTR_FLOATS] = sizeof(float),
                                   [MTBAL_ATTR_STRINGS] = sizeof(char *)};
    void *copy = mtbal_arena_array(s->model->arena, (size_t)n, sizes[a->kind]);
    if (!copy)
        return no_memory(s) != NULL;
    for (int i = 0; i < n; i++) {
        if (a->kind == MTBAL_ATTR_INTS)
            ((int64_t *)copy)[i] = items[i].n.i;
        else if (a->kind == MTBAL_ATTR_FLOATS)
            ((float *)copy)[i] = (float)items[i].n.f;
        else
            ((const char **)copy)[i] = items[i].string;
    }
    a->n = n;
    a->ints = a->kind == MTBAL_ATTR_INTS ? copy : NULL;
    a->floats = a->kind == MTBAL_ATTR_FLOATS ? copy : NULL;
    a->strings = a->kind == MTBAL_ATTR_STRINGS ? copy : NULL;
    return true;
}

/* The elements decide the kind, unless it is declared. */
static void literal_list(parser *s, mtbal_attr *a)
{
    list l = {0};
    bool reals = a->kind == MTBAL_ATTR_FLOATS, strings = a->kind == MTBAL_ATTR_STRINGS,
         numbers = false;
    while (next_item(s, l.count, "]")) {
        item *it = append(s, &l, sizeof *it);
        if (!it)
            break;
        *it = (item){0};
        if (lex_peek(&s->l) == '"')
            it->string = lex_string(&s->l);
        else if (!lex_number(&s->l, &it->n))
            lex_error(&s->l, "a number or a string");
        strings = strings || it->string;
        numbers = numbers || !it->string;
        reals = reals || it->n.is_float;
    }
    mtbal_attr_kind kind = strings ? MTBAL_ATTR_STRINGS
                           : reals ? MTBAL_ATTR_FLOATS
                                   : MTBAL_ATTR_INTS;
    if (good(s) && strings && numbers)
        lex_error(&s->l, "a list of one kind");
    if (good(s) && a->kind != MTBAL_ATTR_NONE && a->kind != kind)
        lex_error(&s->l, "a list of the kind that is declared");
    a->kind = kind;
    if (good(s))
        keep_list(s, a, l.items, l.count);
    mtbal_free(l.items);
}

static mtbal_attr_kind attr_kind(parser *s)
{
    static const struct {
        const char *word;
        mtbal_attr_kind kind;
    } kinds[] = {{"ints", MTBAL_ATTR_INTS},       {"int", MTBAL_ATTR_INT},
                 {"floats", MTBAL_ATTR_FLOATS},   {"float", MTBAL_ATTR_FLOAT},
                 {"strings", MTBAL_ATTR_STRINGS}, {"string", MTBAL_ATTR_STRING},
                 {"tensor", MTBAL_ATTR_TENSOR},   {"graph", MTBAL_ATTR_GRAPH}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (lex_accept(&s->l, kinds[i].word))
            return kinds[i].kind;
    lex_error(&s->l, "an attribute type");
    return MTBAL_ATTR_NONE;
}

static void literal(parser *s, mtbal_attr *a, mtbal_graph *graph)
{
    mtbal_type type;
    number n;
    mtbal_attr_kind declared = a->kind;
    if (lex_accept(&s->l, "[")) {
        literal_list(s, a);
        return;
    }
    if (lex_peek(&s->l) == '"') {
        a->kind = MTBAL_ATTR_STRING;
        a->s = lex_string(&s->l);
        a->s_len = a->s ? strlen(a->s) : 0;
    } else if (lex_number(&s->l, &n)) {
        bool real = n.is_float || declared == MTBAL_ATTR_FLOAT;
        a->kind = real ? MTBAL_ATTR_FLOAT : MTBAL_ATTR_INT;
        a->f = real ? (float)n.f : 0;
        a->i = real ? 0 : n.i;
    } else if (try_type(s, &type)) {
        lex_try_name(&s->l); /* a tensor may be named: nobody asks */
        lex_accept(&s->l, "=");
        a->kind = MTBAL_ATTR_TENSOR;
        a->t = parse_tensor(s, &type);
    } else if (good(s)) {
        a->kind = MTBAL_ATTR_GRAPH;
        a->g = parse_graph(s, graph, NULL);
    }
    if (good(s) && declared != MTBAL_ATTR_NONE && declared != a->kind)
        lex_error(&s->l, "a value of the kind that is declared");
}

/* NAME [: KIND] = LITERAL | @NAME */
static mtbal_attr *parse_attr(parser *s, mtbal_graph *graph)
{
    mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
    if (!a)
        return no_memory(s);
    a->name = lex_name(&s->l);
    if (lex_accept(&s->l, ":"))
        a->kind = attr_kind(s);
    if (!lex_expect(&s->l, "="))
        return NULL;
    if (lex_accept(&s->l, "@"))
        a->ref = lex_name(&s->l);
    else
        literal(s, a, graph);
    return good(s) ? a : NULL;
}

static mtbal_attr *parse_attrs(parser *s, mtbal_graph *graph)
{
    mtbal_attr *first = NULL, **link = &first;
    if (!lex_accept(&s->l, "<"))
        return NULL;
    for (int i = 0; next_item(s, i, ">"); i++) {
        *link = parse_attr(s, graph);
        if (*link)
            link = &(*link)->next;
    }
    return first;
}

/* ------------------------------------------------------------------ statements */

/* domain.sub.Op: the domain is all before the last dot. */
static bool op_name(parser *s, const char **domain, const char **op)
{
    char text[256];
    size_t n = 0;
    *op = lex_name(&s->l);
    while (*op && *s->l.p == '.') {
        s->l.p++;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? "." : "", *op);
        if (n >= sizeof text)
            return lex_error(&s->l, "a domain of at most 255 bytes");
        *op = lex_name(&s->l);
    }
    *domain =
        *op ? mtbal_intern_n(s->model->arena, text, n == 7 && !strncmp(text, "ai.onnx", n) ? 0 : n)
            : NULL;
    return *domain || (*op && no_memory(s));
}

static void operands(parser *s, list *in)
{
    if (!lex_expect(&s->l, "("))
        return;
    while (next_item(s, in->count, ")")) {
        char c = lex_peek(&s->l);
        if (c == ')' && in->count) /* a comma before the end */
            continue;
        const char *name = c == ',' ? "" : lex_name(&s->l);
        mtbal_value **operand = name ? append(s, in, sizeof *operand) : NULL;
        if (!operand)
            return;
        *operand = *name ? lookup(s, name) : NULL;
        if (*name && !*operand)
            s->l.status = mtbal_fail(s->l.diag, MTBAL_INVALID, "text", "define it before its use",
                                     "the value %s is not defined", name);
    }
}

/* The value that a statement defines: one whose type was declared, or a new one. */
static mtbal_value *defined(parser *s, mtbal_graph *graph, const char *name)
{
    mtbal_value *declared = lookup(s, name);
    if (declared && declared->graph == graph && !declared->def && !declared->is_input &&
        !declared->is_initializer)
        return declared;
    return new_value(s, graph, name);
}

static void outputs(parser *s, list *out)
{
    do {
        char c = lex_peek(&s->l);
        const char *name = c == ',' || c == '=' ? "" : lex_name(&s->l);
        const char **place = name ? append(s, out, sizeof *place) : NULL;
        if (!place)
            return;
        *place = name;
    } while (lex_accept(&s->l, ","));
    lex_expect(&s->l, "=");
}

static mtbal_node *make_node(parser *s, mtbal_graph *graph, const list *out, const list *in,
                             const char *domain, const char *op)
{
    mtbal_node *node = mtbal_node_new(graph, NULL, domain, op, in->count, in->items, 0);
    if (!node)
        return no_memory(s);
    for (int i = 0; i < out->count && good(s); i++) {
        const char *name = ((const char **)out->items)[i];
        mtbal_value *value = *name ? defined(s, graph, name) : NULL;
        if (good(s) && mtbal_node_set_output(node, i, value) != MTBAL_OK)
            no_memory(s);
    }
    return node;
}

/* [LABEL] OUT, OUT = Op:OVERLOAD <attrs> (IN, IN) <attrs> */
static void statement(parser *s, mtbal_graph *graph)
{
    list out = {0}, in = {0};
    const char *domain = NULL, *op = NULL, *overload = NULL, *label = NULL;
    if (lex_accept(&s->l, "[")) {
        label = lex_name(&s->l);
        lex_expect(&s->l, "]");
    }
    outputs(s, &out);
    if (good(s) && op_name(s, &domain, &op)) {
        if (lex_accept(&s->l, ":"))
            overload = lex_name(&s->l);
        mtbal_attr *attrs = parse_attrs(s, graph);
        operands(s, &in);
        if (!attrs)
            attrs = parse_attrs(s, graph);
        mtbal_node *node = good(s) ? make_node(s, graph, &out, &in, domain, op) : NULL;
        if (node) {
            node->name = label ? label : node->name;
            node->overload = overload ? overload : node->overload;
            node->attrs = attrs;
        }
        for (mtbal_attr *a = attrs; a && node; a = a->next)
            if (a->g)
                a->g->owner = node;
    }
    mtbal_free(out.items);
    mtbal_free(in.items);
}

static void block(parser *s, mtbal_graph *graph)
{
    if (!lex_expect(&s->l, "{"))
        return;
    while (good(s) && !lex_accept(&s->l, "}")) {
        statement(s, graph);
        lex_accept(&s->l, ";");
    }
}

/* ------------------------------------------------------------------ graphs */

/* (float[N] x, int64[2] y = {1, 2}, z), or the same in <>: initializers and types of values. */
static void parameters(parser *s, mtbal_graph *graph, const char *close, bool inputs)
{
    for (int i = 0; next_item(s, i, close); i++) {
        mtbal_type type;
        try_type(s, &type);
        mtbal_value *value = new_value(s, graph, lex_name(&s->l));
        if (!value)
            return;
        value->type = type;
        if (inputs && mtbal_add_input(graph, value) != MTBAL_OK)
            no_memory(s);
        if (lex_accept(&s->l, "=")) {
            mtbal_tensor *t = parse_tensor(s, &type);
            if (t && mtbal_add_initializer(graph, value, t) != MTBAL_OK)
                no_memory(s);
        }
    }
}

/* Outputs are named (and typed) before the body that defines them: entered after it. */
typedef struct result {
    mtbal_type type;
    const char *name;
} result;

static void results(parser *s, list *l)
{
    if (!lex_expect(&s->l, "("))
        return;
    while (next_item(s, l->count, ")")) {
        result *r = append(s, l, sizeof *r);
        if (!r)
            return;
        try_type(s, &r->type);
        r->name = lex_name(&s->l);
    }
}

static void finish_results(parser *s, mtbal_graph *graph, const list *l)
{
    for (int i = 0; i < l->count && good(s); i++) {
        const result *r = (const result *)l->items + i;
        mtbal_value *value = lookup(s, r->name);
        if (!value) {
            s->l.status =
                mtbal_fail(s->l.diag, MTBAL_INVALID, "text", "name a value that the body defines",
                           "the output %s is not defined", r->name);
            return;
        }
        if (r->type.dtype != MTBAL_UNDEFINED && value->graph == graph)
            value->type = r->type;
        if (mtbal_add_output(graph, value) != MTBAL_OK)
            no_memory(s);
    }
}

/* (inputs) => (outputs) <initializers> { body }, in a scope of its own. */
static void graph_after_name(parser *s, mtbal_graph *graph)
{
    list l = {0};
    int scope = s->nscope;
    if (++s->nesting > MAX_NESTING)
        lex_error(&s->l, "the end of more than 100 nested graphs");
    if (lex_expect(&s->l, "("))
        parameters(s, graph, ")", true);
    lex_expect(&s->l, "=>");
    results(s, &l);
    if (lex_accept(&s->l, "<"))
        parameters(s, graph, ">", false);
    block(s, graph);
    finish_results(s, graph, &l);
    mtbal_free(l.items);
    leave_scope(s, scope);
    s->nesting--;
}

static mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into)
{
    const char *name = lex_name(&s->l);
    mtbal_graph *graph = into ? into : name ? mtbal_graph_new(s->model, parent, name) : NULL;
    if (!graph)
        return name ? no_memory(s) : NULL;
    graph->name = name;
    graph_after_name(s, graph);
    return good(s) ? graph : NULL;
}

/* ------------------------------------------------------------------ functions and models */

/* ["" : 17, "mtbal" : 1] */
static void opset_list(parser *s, mtbal_opset **opsets, int *count)
{
    list l = {0};
    number version;
    lex_expect(&s->l, "[");
    while (next_item(s, l.count, "]")) {
        mtbal_opset *o = append(s, &l, sizeof *o);
        if (!o)
            break;
        o->domain = lex_string(&s->l);
        if (lex_expect(&s->l, ":") && lex_number(&s->l, &version) && !version.is_float)
            o->version = version.i;
        else
            lex_error(&s->l, "a version");
    }
    *count = l.count;
    *opsets = mtbal_arena_copy(s->model->arena, l.items, (size_t)l.count * sizeof **opsets);
    if (!*opsets)
        no_memory(s);
    mtbal_free(l.items);
}

static void properties(parser *s)
{
    lex_expect(&s->l, "[");
    for (int i = 0; next_item(s, i, "]"); i++) {
        const char *key = lex_string(&s->l);
        const char *value = lex_expect(&s->l, ":") ? lex_string(&s->l) : NULL;
        if (value && mtbal_property_set(s->model, key, value) != MTBAL_OK)
            no_memory(s);
    }
}

/* < key : value, ... > in front of a model (f NULL) or a function. */
static void header(parser *s, mtbal_function *f, mtbal_opset **opsets, int *nopsets)
{
    mtbal_model *m = s->model;
    const struct {
        const char *key;
        const char **text;
        int64_t *number;
    } fields[] = {{"ir_version", NULL, f ? NULL : &m->ir_version},
                  {"model_version", NULL, f ? NULL : &m->model_version},
                  {"producer_name", f ? NULL : &m->producer_name, NULL},
                  {"producer_version", f ? NULL : &m->producer_version, NULL},
                  {"domain", f ? &f->domain : &m->domain, NULL},
                  {"overload", f ? &f->overload : NULL, NULL},
                  {"doc_string", f ? &f->doc : &m->doc, NULL}};
    enum { NFIELDS = sizeof fields / sizeof *fields };
    number n;
    if (!lex_accept(&s->l, "<"))
        return;
    for (int i = 0; next_item(s, i, ">"); i++) {
        const char *key = lex_name(&s->l);
        int k = 0;
        if (!key || !lex_expect(&s->l, ":"))
            return;
        while (k < NFIELDS && strcmp(fields[k].key, key) != 0)
            k++;
        if (!strcmp(key, "opset_import"))
            opset_list(s, opsets, nopsets);
        else if (!strcmp(key, "metadata_props") && !f)
            properties(s);
        else if (k < NFIELDS && fields[k].text)
            *fields[k].text = lex_string(&s->l);
        else if (k < NFIELDS && fields[k].number && lex_number(&s->l, &n) && !n.is_float)
            *fields[k].number = n.i;
        else
            lex_error(&s->l, "a value that goes with the key");
    }
}

/* Formal attributes: <axis, alpha: float = 1.0, kernel_shape: ints> */
static void formals(parser *s, mtbal_function *f)
{
    mtbal_attr **link = &f->defaults;
    list names = {0};
    if (!lex_accept(&s->l, "<"))
        return;
    for (int i = 0; next_item(s, i, ">"); i++) {
        mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
        const char **place;
        if (!a) {
            no_memory(s);
            break;
        }
        a->name = lex_name(&s->l);
        if (lex_accept(&s->l, ":"))
            a->kind = attr_kind(s);
        if (lex_accept(&s->l, "=")) {
            literal(s, a, f->body);
            *link = a;
            link = &a->next;
        } else if ((place = append(s, &names, sizeof *place))) {
            *place = a->name;
        }
    }
    f->nattrs = names.count;
    f->attrs =
        mtbal_arena_copy(s->model->arena, names.items, (size_t)names.count * sizeof *f->attrs);
    if (!f->attrs)
        no_memory(s);
    mtbal_free(names.items);
}

static mtbal_function *parse_function(parser *s)
{
    mtbal_function *f = mtbal_arena_alloc(s->model->arena, sizeof *f);
    if (!f || !(f->body = mtbal_graph_new(s->model, NULL, "body")))
        return no_memory(s);
    f->domain = f->overload = mtbal_intern(s->model->arena, "");
    if (!f->domain)
        return no_memory(s);
    s->in_function = true;
    header(s, f, &f->opsets, &f->nopsets);
    f->name = lex_name(&s->l);
    formals(s, f);
    graph_after_name(s, f->body);
    s->in_function = false;
    return good(s) ? f : NULL;
}

static void finish(parser *s)
{
    mtbal_free(s->scope);
    mtbal_free(s->slots);
}

mtbal_function *mtbal_parse_function(mtbal_model *model, const char *text, mtbal_diag *diag)
{
    parser s = {.model = model};
    lex_init(&s.l, text, model->arena, diag);
    mtbal_function *f = parse_function(&s);
    finish(&s);
    return f;
}

mtbal_model *mtbal_parse_model(const char *text, mtbal_diag *diag)
{
    mtbal_model *model = mtbal_model_new(0);
    parser s = {.model = model};
    mtbal_opset *opsets = NULL;
    int nopsets = 0;
    if (!model) {
        mtbal_no_memory(diag);
        return NULL;
    }
    lex_init(&s.l, text, model->arena, diag);
    header(&s, NULL, &opsets, &nopsets);
    for (int i = 0; i < nopsets && good(&s); i++)
        if (mtbal_set_opset(model, opsets[i].domain, opsets[i].version) != MTBAL_OK)
            no_memory(&s);
    parse_graph(&s, NULL, model->graph);
    while (lex_peek(&s.l)) {
        mtbal_function *f = parse_function(&s);
        if (f && mtbal_function_add(model, f) != MTBAL_OK)
            no_memory(&s);
    }
    finish(&s);
    if (good(&s))
        return model;
    mtbal_model_free(model);
    return NULL;
}
