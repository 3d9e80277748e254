/* graph/dims.c: arithmetic of dimensions. A symbolic size is a polynomial with integer coefficients
 * over atoms: names of dimensions, and floor divisions that do not come out even, "((batch+1)/2)".
 * Its canonical text is the symbol: equal polynomials are equal interned pointers. A negative
 * number (in contents only) is its own text. What does not fit the small fixed form is unknown. */
#include "graph/graph.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TERMS = 12, MAX_ATOMS = 6, MAX_TEXT = 400 };

typedef struct term {
    int64_t factor;
    int natoms;
    const char *atoms[MAX_ATOMS]; /* interned, sorted by text */
} term;

typedef struct poly {
    bool valid;
    int nterms;
    term terms[MAX_TERMS]; /* sorted; no two with the same atoms; no zero factor */
} poly;

static const mtbal_dim unknown = {-1, NULL};

mtbal_dim mtbal_dim_const(int64_t size)
{
    return (mtbal_dim){size, NULL};
}

/* Orders terms: more atoms first, then by text; the constant comes last. */
static int compare_terms(const term *a, const term *b)
{
    if (a->natoms != b->natoms)
        return b->natoms - a->natoms;
    for (int i = 0; i < a->natoms; i++) {
        int c = strcmp(a->atoms[i], b->atoms[i]);
        if (c)
            return c;
    }
    return 0;
}

static void add_term(poly *p, const term *t)
{
    int i = 0;
    while (i < p->nterms && compare_terms(&p->terms[i], t) < 0)
        i++;
    if (i < p->nterms && compare_terms(&p->terms[i], t) == 0) {
        p->valid =
            p->valid && !__builtin_add_overflow(p->terms[i].factor, t->factor, &p->terms[i].factor);
        if (p->terms[i].factor == 0)
            memmove(&p->terms[i], &p->terms[i + 1], (size_t)(--p->nterms - i) * sizeof *t);
    } else if (p->nterms == MAX_TERMS) {
        p->valid = false;
    } else if (t->factor != 0) {
        memmove(&p->terms[i + 1], &p->terms[i], (size_t)(p->nterms++ - i) * sizeof *t);
        p->terms[i] = *t;
    }
}

static void add_atom(term *t, const char *atom)
{
    int i = t->natoms++;
    for (; i > 0 && strcmp(t->atoms[i - 1], atom) > 0; i--)
        t->atoms[i] = t->atoms[i - 1];
    t->atoms[i] = atom;
}

/* ------------------------------------------------------------------ text -> polynomial */

/* Length of the atom at p: up to an operator outside parentheses. */
static size_t atom_length(const char *p)
{
    size_t n = 0;
    int depth = 0;
    for (; p[n] && (depth || !strchr("+*", p[n])); n++) {
        if (!depth && n && p[n] == '-')
            break;
        depth += (p[n] == '(') - (p[n] == ')');
    }
    return n;
}

static void parse_term(mtbal_model *model, poly *p, const char **text)
{
    term t = {.factor = 1};
    const char *s = *text;
    if (*s == '+' || *s == '-')
        t.factor = *s++ == '-' ? -1 : 1;
    for (;; s++) {
        size_t n = atom_length(s);
        if (isdigit((unsigned char)*s)) {
            p->valid = p->valid && mtbal_mul_i64(t.factor, strtoll(s, NULL, 10), &t.factor);
        } else if (n == 0 || t.natoms == MAX_ATOMS) {
            p->valid = false;
        } else {
            const char *atom = mtbal_intern_n(model->arena, s, n);
            p->valid = p->valid && atom;
            if (atom)
                add_atom(&t, atom);
        }
        s += n;
        if (*s != '*' || !p->valid)
            break;
    }
    add_term(p, &t);
    *text = s;
}

/* A name that the arithmetic would read otherwise (a model may name a dimension "a+b c") stands as
 * one atom. */
static bool plain_expression(const char *symbol)
{
    for (const char *p = symbol; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_.:/+-*()", *p))
            return false;
    return !strchr("+-*/)", *symbol) && strlen(symbol) < MAX_TEXT;
}

static poly poly_of(mtbal_model *model, mtbal_dim d)
{
    poly p = {.valid = true};
    if (d.size >= 0) {
        add_term(&p, &(term){.factor = d.size});
    } else if (!d.symbol) {
        p.valid = false;
    } else if (!plain_expression(d.symbol)) {
        add_term(&p, &(term){.factor = 1, .natoms = 1, .atoms = {d.symbol}});
    } else {
        const char *text = d.symbol;
        while (*text && p.valid) {
            const char *before = text;
            parse_term(model, &p, &text);
            p.valid = p.valid && text > before;
        }
    }
    return p;
}

/* ------------------------------------------------------------------ polynomial -> text */

static mtbal_dim dim_of(mtbal_model *model, const poly *p)
{
    char text[MAX_TEXT];
    size_t n = 0;
    if (!p->valid)
        return unknown;
    if (p->nterms == 0)
        return mtbal_dim_const(0);
    if (p->nterms == 1 && p->terms[0].natoms == 0 && p->terms[0].factor >= 0)
        return mtbal_dim_const(p->terms[0].factor);
    for (int i = 0; i < p->nterms && n < sizeof text; i++) {
        const term *t = &p->terms[i];
        int64_t size = t->factor < 0 ? -t->factor : t->factor;
        bool shown = size != 1 || t->natoms == 0;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s", t->factor < 0 ? "-" : i ? "+" : "");
        if (shown && n < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%lld", (long long)size);
        for (int k = 0; k < t->natoms && n < sizeof text; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", k || shown ? "*" : "",
                                  t->atoms[k]);
    }
    if (n >= sizeof text)
        return unknown;
    return (mtbal_dim){-1, mtbal_intern(model->arena, text)};
}

/* ------------------------------------------------------------------ operations */

static bool both_known(mtbal_dim a, mtbal_dim b)
{
    return a.size >= 0 && b.size >= 0;
}

static mtbal_dim combine(mtbal_model *model, mtbal_dim a, mtbal_dim b, int64_t sign)
{
    poly p = poly_of(model, a), q = poly_of(model, b);
    p.valid = p.valid && q.valid;
    for (int i = 0; i < q.nterms && p.valid; i++) {
        term t = q.terms[i];
        p.valid = mtbal_mul_i64(t.factor, sign, &t.factor);
        add_term(&p, &t);
    }
    return dim_of(model, &p);
}

mtbal_dim mtbal_dim_add(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t sum;
    if (both_known(a, b))
        return __builtin_add_overflow(a.size, b.size, &sum) ? unknown : mtbal_dim_const(sum);
    return combine(model, a, b, 1);
}

mtbal_dim mtbal_dim_sub(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    if (both_known(a, b))
        if (a.size >= b.size)
            return mtbal_dim_const(a.size - b.size);
    return combine(model, a, b, -1);
}

mtbal_dim mtbal_dim_mul(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t product;
    if (both_known(a, b))
        return mtbal_mul_i64(a.size, b.size, &product) ? mtbal_dim_const(product) : unknown;
    if (a.size == 0 || b.size == 0)
        return mtbal_dim_const(0);
    poly p = poly_of(model, a), q = poly_of(model, b), r = {.valid = true};
    r.valid = p.valid && q.valid;
    for (int i = 0; i < p.nterms && r.valid; i++)
        for (int j = 0; j < q.nterms && r.valid; j++) {
            term t = p.terms[i];
            r.valid = t.natoms + q.terms[j].natoms <= MAX_ATOMS &&
                      mtbal_mul_i64(t.factor, q.terms[j].factor, &t.factor);
            for (int k = 0; k < q.terms[j].natoms && r.valid; k++)
                add_atom(&t, q.terms[j].atoms[k]);
            if (r.valid)
                add_term(&r, &t);
        }
    return dim_of(model, &r);
}

/* Takes the factor and atoms of `by` out of t; false when they are not all in it. */
static bool divide_term(term *t, const term *by)
{
    if (t->factor % by->factor)
        return false;
    t->factor /= by->factor;
    for (int k = 0; k < by->natoms; k++) {
        int i = 0;
        while (i < t->natoms && t->atoms[i] != by->atoms[k])
            i++;
        if (i == t->natoms)
            return false;
        memmove(&t->atoms[i], &t->atoms[i + 1], (size_t)(--t->natoms - i) * sizeof *t->atoms);
    }
    return true;
}

mtbal_dim mtbal_dim_div(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    if (b.size == 0)
        return unknown;
    if (both_known(a, b))
        return mtbal_dim_const(a.size / b.size);
    if (mtbal_dim_equal(a, b))
        return mtbal_dim_const(1);
    if (b.size == 1)
        return a;
    poly p = poly_of(model, a), q = poly_of(model, b), r = {.valid = true};
    bool even = p.valid && q.valid && q.nterms == 1;
    for (int i = 0; i < p.nterms && even; i++) {
        term t = p.terms[i];
        even = divide_term(&t, &q.terms[0]);
        if (even)
            add_term(&r, &t);
    }
    if (even)
        return dim_of(model, &r);
    if (!p.valid || !q.valid)
        return unknown;
    char text[MAX_TEXT], left[32], right[32];
    snprintf(left, sizeof left, "%lld", (long long)a.size);
    snprintf(right, sizeof right, "%lld", (long long)b.size);
    int n = snprintf(text, sizeof text, "((%s)/(%s))", a.symbol ? a.symbol : left,
                     b.symbol ? b.symbol : right);
    return n < MAX_TEXT ? (mtbal_dim){-1, mtbal_intern(model->arena, text)} : unknown;
}

/* ------------------------------------------------------------------ evaluating with a symbol bound
 */

typedef struct binding {
    const char *symbol;
    size_t length;
    int64_t size;
    bool failed;
} binding;

static int64_t evaluate_sum(const char **p, binding *b);

/* A number, the bound name, or a parenthesis: (sum), ((sum)/(sum)). */
static int64_t evaluate_atom(const char **p, binding *b)
{
    if (isdigit((unsigned char)**p))
        return strtoll(*p, (char **)p, 10);
    if (**p == '(') {
        ++*p;
        int64_t x = evaluate_sum(p, b);
        if (**p == '/') {
            ++*p;
            int64_t y = evaluate_atom(p, b);
            b->failed = b->failed || y == 0;
            x = y ? x / y - (x % y < 0) : 0;
        }
        b->failed = b->failed || **p != ')';
        *p += **p == ')';
        return x;
    }
    size_t n = strcspn(*p, "+-*/()");
    b->failed = b->failed || n != b->length || strncmp(*p, b->symbol, n);
    *p += n;
    return b->size;
}

static int64_t evaluate_sum(const char **p, binding *b)
{
    int64_t sum = 0;
    do {
        int64_t sign = **p == '-' ? -1 : 1, product;
        *p += **p == '-' || **p == '+';
        product = evaluate_atom(p, b);
        while (**p == '*' && !b->failed) {
            ++*p;
            b->failed = !mtbal_mul_i64(product, evaluate_atom(p, b), &product) || b->failed;
        }
        b->failed = b->failed || __builtin_add_overflow(sum, sign * product, &sum);
    } while ((**p == '+' || **p == '-') && !b->failed);
    return sum;
}

static void bind_in(mtbal_dim *d, const char *symbol, int64_t size)
{
    if (d->size >= 0 || !d->symbol)
        return;
    if (!strcmp(d->symbol, symbol)) {
        *d = mtbal_dim_const(size);
        return;
    }
    binding b = {symbol, strlen(symbol), size, false};
    const char *p = d->symbol;
    int64_t value = evaluate_sum(&p, &b);
    if (!b.failed && !*p && value >= 0)
        *d = mtbal_dim_const(value);
}

mtbal_status mtbal_bind_dim(mtbal_model *model, const char *symbol, int64_t size)
{
    for (int i = 0; i < model->graph->ninputs; i++) {
        mtbal_type *type = &model->graph->inputs[i]->type;
        for (int d = 0; d < type->rank; d++)
            bind_in(&type->dims[d], symbol, size);
    }
    return MTBAL_OK;
}
