/* graph/literal.c: types, tensors and attributes in ONNX text. */
#include "graph/parse.h"

#include <string.h>

enum { MAX_RANK = 64 };

/* ------------------------------------------------------------------ types and tensors */

/* [N, 3, ?, "a b"]; [] is an unknown rank; nothing a scalar. */
static bool parse_dims(parser *s, mtbal_type *type)
{
    mtbal_dim dims[MAX_RANK];
    int rank = 0;
    number n;
    type->rank = 0;
    if (!lex_accept(&s->l, "["))
        return parse_good(s);
    for (; parse_next(s, rank, "]"); rank++) {
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
    return type->dims ? parse_good(s) : parse_no_memory(s) != NULL;
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
    } while (depth > 0 && parse_good(s));
}

bool parse_try_type(parser *s, mtbal_type *type)
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
        bool known = kind != MTBAL_OTHER && lex_accept(&s->l, "(") && parse_try_type(s, type) &&
                     type->kind == MTBAL_TENSOR && lex_accept(&s->l, ")");
        if (!known && parse_good(s)) {
            s->l.p = open;
            if (lex_peek(&s->l) != '(') { /* a name like any other */
                s->l.p = before;
                return false;
            }
            skip_type(s);
        }
        type->kind = known ? kind : MTBAL_OTHER;
        return parse_good(s);
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

mtbal_tensor *parse_tensor(parser *s, const mtbal_type *type)
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
        return parse_no_memory(s);
    for (; parse_next(s, given > 0, "}"); given++) {
        if (given == count * parts)
            return lex_error(&s->l, "the end of the tensor");
        if (parse_element(s, t, &n))
            set_element(t, given, &n);
    }
    if (parse_good(s) && given < count * parts)
        return lex_error(&s->l, "an element for each place of the shape");
    return parse_good(s) ? t : NULL;
}
/* ------------------------------------------------------------------ attributes */

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
        return parse_no_memory(s) != NULL;
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
    while (parse_next(s, l.count, "]")) {
        item *it = parse_append(s, &l, sizeof *it);
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
    if (parse_good(s) && strings && numbers)
        lex_error(&s->l, "a list of one kind");
    if (parse_good(s) && a->kind != MTBAL_ATTR_NONE && a->kind != kind)
        lex_error(&s->l, "a list of the kind that is declared");
    a->kind = kind;
    if (parse_good(s))
        keep_list(s, a, l.items, l.count);
    mtbal_free(l.items);
}

mtbal_attr_kind parse_attr_kind(parser *s)
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

void parse_literal(parser *s, mtbal_attr *a, mtbal_graph *graph)
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
    } else if (parse_try_type(s, &type)) {
        lex_try_name(&s->l); /* a tensor may be named: nobody asks */
        lex_accept(&s->l, "=");
        a->kind = MTBAL_ATTR_TENSOR;
        a->t = parse_tensor(s, &type);
    } else if (parse_good(s)) {
        a->kind = MTBAL_ATTR_GRAPH;
        a->g = parse_graph(s, graph, NULL);
    }
    if (parse_good(s) && declared != MTBAL_ATTR_NONE && declared != a->kind)
        lex_error(&s->l, "a value of the kind that is declared");
}

/* NAME [: KIND] = LITERAL | @NAME */
static mtbal_attr *parse_attr(parser *s, mtbal_graph *graph)
{
    mtbal_attr *a = mtbal_arena_alloc(s->model->arena, sizeof *a);
    if (!a)
        return parse_no_memory(s);
    a->name = lex_name(&s->l);
    if (lex_accept(&s->l, ":"))
        a->kind = parse_attr_kind(s);
    if (!lex_expect(&s->l, "="))
        return NULL;
    if (lex_accept(&s->l, "@"))
        a->ref = lex_name(&s->l);
    else
        parse_literal(s, a, graph);
    return parse_good(s) ? a : NULL;
}

mtbal_attr *parse_attrs(parser *s, mtbal_graph *graph)
{
    mtbal_attr *first = NULL, **link = &first;
    if (!lex_accept(&s->l, "<"))
        return NULL;
    for (int i = 0; parse_next(s, i, ">"); i++) {
        *link = parse_attr(s, graph);
        if (*link)
            link = &(*link)->next;
    }
    return first;
}
