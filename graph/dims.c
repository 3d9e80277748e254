/* graph/dims.c: arithmetic of dimensions. A symbolic size is a polynomial with integer coefficients
 * over atoms: names of dimensions, and floor divisions that do not come out even: "((batch+1)/2)".
 * Its canonical text is the symbol, so that equal polynomials are equal interned pointers. A
 * negative number (in contents only) is its own text. What does not fit the fixed form is unknown.
 *
 * The text:  sum     = ["-"] product { ("+" | "-") product }
 *            product = factor { "*" factor | "//" factor }
 *            factor  = number | name | "'" any name "'" | "(" sum [ "/" factor ] ")"
 * A symbol that does not read like that (exporters make names like "Add/Add_0_dim_1") is one atom,
 * unless it begins with a parenthesis: then nothing is computed with it.
 */
#include "graph/ops/shapes.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TERMS = 24, MAX_ATOMS = 8, MAX_TEXT = 512, MAX_DEPTH = 12 };

typedef struct term {
    int64_t factor;
    int natoms;
    const char *atoms[MAX_ATOMS]; /* interned, sorted by text */
} term;

typedef struct poly {
    bool valid;
    int nterms;
    term terms[MAX_TERMS]; /* in order; no two with the same atoms; no zero factor */
} poly;

/* A text being read; names equal to `bound` stand for `size`. */
typedef struct reader {
    mtbal_model *model;
    const char *p;
    int depth;
    const char *bound;
    int64_t size;
    bool used; /* `bound` was met */
} reader;

static const mtbal_dim unknown = {-1, NULL};

mtbal_dim mtbal_dim_const(int64_t size)
{
    return (mtbal_dim){size, NULL};
}

/* ------------------------------------------------------------------ terms */

/* Graded lexicographic: more atoms first, then by text; the constant comes last. */
static int compare_terms(const term *a, const term *b)
{
    if (a->natoms != b->natoms)
        return b->natoms - a->natoms;
    for (int i = 0; i < a->natoms; i++) {
        int c = a->atoms[i] == b->atoms[i] ? 0 : strcmp(a->atoms[i], b->atoms[i]);
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
        int64_t *factor = &p->terms[i].factor;
        p->valid = p->valid && !__builtin_add_overflow(*factor, t->factor, factor);
        if (*factor == 0)
            memmove(&p->terms[i], &p->terms[i + 1], (size_t)(--p->nterms - i) * sizeof *t);
    } else if (t->factor == 0) {
        return;
    } else if (p->nterms == MAX_TERMS) {
        p->valid = false;
    } else {
        memmove(&p->terms[i + 1], &p->terms[i], (size_t)(p->nterms++ - i) * sizeof *t);
        p->terms[i] = *t;
    }
}

static bool multiply_term(term *t, const term *by)
{
    if (t->natoms + by->natoms > MAX_ATOMS || !mtbal_mul_i64(t->factor, by->factor, &t->factor))
        return false;
    for (int k = 0; k < by->natoms; k++) {
        int i = t->natoms++;
        for (; i > 0 && strcmp(t->atoms[i - 1], by->atoms[k]) > 0; i--)
            t->atoms[i] = t->atoms[i - 1];
        t->atoms[i] = by->atoms[k];
    }
    return true;
}

/* Takes the factor and atoms of `by` out of t; false when they are not all in it. */
static bool divide_term(term *t, const term *by)
{
    if (by->factor == 0 || (by->factor == -1 && t->factor == INT64_MIN) || t->factor % by->factor)
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

/* ------------------------------------------------------------------ polynomials */

static poly poly_number(int64_t n)
{
    poly p = {.valid = true};
    add_term(&p, &(term){.factor = n});
    return p;
}

static poly poly_atom(const char *atom)
{
    poly p = {.valid = atom != NULL};
    add_term(&p, &(term){.factor = 1, .natoms = 1, .atoms = {atom}});
    return p;
}

static bool is_number(const poly *p)
{
    return p->nterms == 0 || (p->nterms == 1 && p->terms[0].natoms == 0);
}

/* Of a polynomial that is one, or its constant term. */
static int64_t number_of(const poly *p)
{
    const term *last = p->nterms ? &p->terms[p->nterms - 1] : NULL;
    return last && last->natoms == 0 ? last->factor : 0;
}

/* a += b * by */
static void poly_add(poly *a, const poly *b, const term *by)
{
    a->valid = a->valid && b->valid;
    for (int i = 0; i < b->nterms && a->valid; i++) {
        term t = b->terms[i];
        a->valid = multiply_term(&t, by);
        if (a->valid)
            add_term(a, &t);
    }
}

static poly poly_mul(const poly *a, const poly *b)
{
    poly r = {.valid = a->valid && b->valid};
    for (int i = 0; i < b->nterms && r.valid; i++)
        poly_add(&r, a, &b->terms[i]);
    return r;
}

/* ------------------------------------------------------------------ text of polynomials */

typedef struct writer {
    char text[MAX_TEXT];
    size_t n; /* at MAX_TEXT: too long */
} writer;

static void put(writer *w, const char *format, ...) MTBAL_PRINTF(2, 3);
static void put(writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (w->n < MAX_TEXT)
        w->n += (size_t)vsnprintf(w->text + w->n, MAX_TEXT - w->n, format, args);
    va_end(args);
    w->n = w->n < MAX_TEXT ? w->n : MAX_TEXT;
}

static bool name_char(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80 || (c && strchr("_.:$@", c));
}

static bool plain_name(const char *name)
{
    size_t n = 0;
    while (name_char(name[n]))
        n++;
    return n && !name[n] && !isdigit((unsigned char)*name);
}

static void put_atom(writer *w, const char *atom)
{
    if (*atom == '(' || plain_name(atom))
        put(w, "%s", atom);
    else if (!strchr(atom, '\''))
        put(w, "'%s'", atom);
    else
        w->n = MAX_TEXT; /* no way to quote it */
}

static void put_poly(writer *w, const poly *p)
{
    if (p->nterms == 0)
        put(w, "0");
    for (int i = 0; i < p->nterms; i++) {
        const term *t = &p->terms[i];
        uint64_t size = t->factor < 0 ? -(uint64_t)t->factor : (uint64_t)t->factor;
        bool shown = size != 1 || t->natoms == 0;
        put(w, "%s", t->factor < 0 ? "-" : i ? "+" : "");
        if (shown)
            put(w, "%llu", (unsigned long long)size);
        for (int k = 0; k < t->natoms; k++) {
            put(w, "%s", k || shown ? "*" : "");
            put_atom(w, t->atoms[k]);
        }
    }
}

/* As an operand of a division: in parentheses unless it is one word. */
static void put_operand(writer *w, const poly *p)
{
    const term *t = p->terms;
    bool word =
        (is_number(p) && number_of(p) >= 0) || (p->nterms == 1 && t->natoms == 1 && t->factor == 1);
    put(w, "%s", word ? "" : "(");
    put_poly(w, p);
    put(w, "%s", word ? "" : ")");
}

static mtbal_dim dim_of(mtbal_model *model, const poly *p)
{
    writer w = {.n = 0};
    if (!p->valid)
        return unknown;
    if (is_number(p) && number_of(p) >= 0)
        return mtbal_dim_const(number_of(p));
    if (p->nterms == 1 && p->terms[0].natoms == 1 && p->terms[0].factor == 1)
        return (mtbal_dim){-1, p->terms[0].atoms[0]}; /* a name as it is, quoted or not */
    put_poly(&w, p);
    return w.n < MAX_TEXT ? (mtbal_dim){-1, mtbal_intern_n(model->arena, w.text, w.n)} : unknown;
}

/* ------------------------------------------------------------------ floor division */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a < 0 ? -a : a;
}

static poly quotient_atom(mtbal_model *model, const poly *p, const poly *q)
{
    writer w = {.n = 0};
    put(&w, "(");
    put_operand(&w, p);
    put(&w, "/");
    put_operand(&w, q);
    put(&w, ")");
    return w.n < MAX_TEXT ? poly_atom(mtbal_intern_n(model->arena, w.text, w.n)) : (poly){0};
}

static poly read_sum(reader *r);
static poly read_factor(reader *r);

/* When p is (N/D) + c with a number D: N + c*D and D. */
static bool open_quotient(mtbal_model *model, const poly *p, poly *inner, int64_t *divisor)
{
    const term *t = p->terms;
    if (p->nterms < 1 || p->nterms > 2 || t->natoms != 1 || t->factor != 1 || *t->atoms[0] != '(' ||
        (p->nterms == 2 && t[1].natoms))
        return false;
    reader r = {.model = model, .p = t->atoms[0] + 1};
    *inner = read_sum(&r);
    if (*r.p++ != '/')
        return false;
    poly d = read_factor(&r), rest = poly_number(p->nterms == 2 ? t[1].factor : 0);
    if (!d.valid || !is_number(&d))
        return false;
    *divisor = number_of(&d);
    poly_add(inner, &rest, &(term){.factor = *divisor});
    return inner->valid;
}

static poly poly_div(mtbal_model *model, const poly *p, const poly *q);

/* floor(p / d) = (even part) + floor(rest / d), 0 <= coefficients of the rest < d; then by common
 * factors, and floor(floor(x / a) / d) = floor(x / (a d)). */
static poly div_number(mtbal_model *model, const poly *p, int64_t d)
{
    poly even = {.valid = true}, rest = {.valid = true}, inner;
    int64_t common = d, divisor;
    if (d < 1)
        return (poly){0};
    for (int i = 0; i < p->nterms; i++) {
        term whole = p->terms[i], part = whole;
        whole.factor = floor_div(whole.factor, d);
        part.factor -= whole.factor * d;
        add_term(&even, &whole);
        add_term(&rest, &part);
        if (part.natoms)
            common = gcd(common, part.factor);
    }
    if (is_number(&rest))
        return even;
    for (int i = 0; i < rest.nterms; i++)
        rest.terms[i].factor /= common;
    if (rest.terms[rest.nterms - 1].factor == 0)
        rest.nterms--;
    d /= common;
    poly down = rest;
    if (d > 1 && open_quotient(model, &rest, &inner, &divisor) &&
        mtbal_mul_i64(d, divisor, &divisor))
        down = div_number(model, &inner, divisor);
    else if (d > 1)
        down = quotient_atom(model, &rest, &(poly){true, 1, {{.factor = d}}});
    poly_add(&even, &down, &(term){.factor = 1});
    return even;
}

/* Takes the factors that all terms of p and q share out of both. */
static void reduce(poly *p, poly *q)
{
    term common = q->terms[0];
    for (int i = 0; i < p->nterms + q->nterms; i++) {
        const term *t = i < p->nterms ? &p->terms[i] : &q->terms[i - p->nterms];
        common.factor = gcd(common.factor, t->factor);
        for (int k = 0; k < common.natoms;) {
            term left = *t, part = {.factor = 1, .natoms = k + 1};
            memcpy(part.atoms, common.atoms, (size_t)(k + 1) * sizeof *part.atoms);
            if (divide_term(&left, &part))
                k++;
            else
                memmove(&common.atoms[k], &common.atoms[k + 1],
                        (size_t)(--common.natoms - k) * sizeof *common.atoms);
        }
    }
    for (int i = 0; i < p->nterms + q->nterms; i++)
        divide_term(i < p->nterms ? &p->terms[i] : &q->terms[i - p->nterms], &common);
}

/* Long division while the leading terms divide. A single-term divisor takes any term out. */
static poly div_symbolic(mtbal_model *model, const poly *p, const poly *q)
{
    poly even = {.valid = true}, rest = *p, by = *q;
    for (int i = 0; i < rest.nterms && rest.valid;) {
        term t = rest.terms[i];
        if (divide_term(&t, &q->terms[0])) {
            add_term(&even, &t);
            t.factor = -t.factor;
            poly_add(&rest, q, &t);
            i = 0;
        } else if (q->nterms == 1) {
            i++;
        } else {
            break;
        }
    }
    if (!rest.valid || !even.valid)
        return (poly){0};
    if (rest.nterms == 0)
        return even;
    if (q->nterms > 1) {
        rest = *p;
        even.nterms = 0;
    }
    reduce(&rest, &by);
    poly down = is_number(&by) ? div_number(model, &rest, number_of(&by))
                               : quotient_atom(model, &rest, &by);
    poly_add(&even, &down, &(term){.factor = 1});
    return even;
}

static poly poly_div(mtbal_model *model, const poly *p, const poly *q)
{
    if (!p->valid || !q->valid)
        return (poly){0};
    return is_number(q) ? div_number(model, p, number_of(q)) : div_symbolic(model, p, q);
}

/* ------------------------------------------------------------------ text -> polynomial */

static void skip_blanks(reader *r)
{
    r->p += strspn(r->p, " ");
}

static poly read_name(reader *r)
{
    bool quoted = *r->p == '\'';
    const char *start = r->p + quoted;
    size_t n = 0;
    while (quoted ? start[n] && start[n] != '\'' : name_char(start[n]))
        n++;
    r->p = start + n + (quoted && start[n]);
    if (n == 0)
        return (poly){0};
    if (r->bound && n == strlen(r->bound) && !strncmp(start, r->bound, n)) {
        r->used = true;
        return poly_number(r->size);
    }
    return poly_atom(mtbal_intern_n(r->model->arena, start, n));
}

static poly read_number(reader *r)
{
    int64_t n = 0;
    bool fits = true;
    for (; isdigit((unsigned char)*r->p); r->p++)
        fits = fits && mtbal_mul_i64(n, 10, &n) && !__builtin_add_overflow(n, *r->p - '0', &n);
    return fits && !name_char(*r->p) ? poly_number(n) : (poly){0};
}

static poly read_factor(reader *r)
{
    skip_blanks(r);
    if (isdigit((unsigned char)*r->p))
        return read_number(r);
    if (*r->p != '(')
        return read_name(r);
    if (++r->depth > MAX_DEPTH)
        return (poly){0};
    r->p++;
    poly p = read_sum(r);
    if (*r->p == '/' && p.valid) {
        r->p++;
        poly q = read_factor(r);
        p = poly_div(r->model, &p, &q);
    }
    skip_blanks(r);
    p.valid = p.valid && *r->p == ')';
    r->p += *r->p == ')';
    r->depth--;
    return p;
}

static poly read_product(reader *r)
{
    poly p = read_factor(r);
    for (skip_blanks(r); p.valid; skip_blanks(r)) {
        bool times = *r->p == '*';
        if (!times && strncmp(r->p, "//", 2) != 0)
            break;
        r->p += times ? 1 : 2;
        poly q = read_factor(r);
        p = times ? poly_mul(&p, &q) : poly_div(r->model, &p, &q);
    }
    return p;
}

static poly read_sum(reader *r)
{
    poly sum = {.valid = true};
    skip_blanks(r);
    do {
        int64_t sign = *r->p == '-' ? -1 : 1;
        r->p += *r->p == '-' || *r->p == '+';
        poly p = read_product(r);
        poly_add(&sum, &p, &(term){.factor = sign});
    } while (sum.valid && (*r->p == '+' || *r->p == '-'));
    return sum;
}

/* The whole symbol: an expression, or one atom. */
static poly read_symbol(reader *r, const char *symbol)
{
    r->p = symbol;
    poly p = strlen(symbol) < MAX_TEXT ? read_sum(r) : (poly){0};
    if (p.valid && !*r->p)
        return p;
    r->used = false;
    return *symbol == '(' ? (poly){0} : poly_atom(symbol);
}

static poly poly_of(mtbal_model *model, mtbal_dim d)
{
    reader r = {.model = model};
    if (d.size >= 0)
        return poly_number(d.size);
    return d.symbol ? read_symbol(&r, d.symbol) : (poly){0};
}

/* ------------------------------------------------------------------ operations */

static bool both_known(mtbal_dim a, mtbal_dim b)
{
    return a.size >= 0 && b.size >= 0;
}

static mtbal_dim combine(mtbal_model *model, mtbal_dim a, mtbal_dim b, int64_t sign)
{
    poly p = poly_of(model, a), q = poly_of(model, b);
    poly_add(&p, &q, &(term){.factor = sign});
    return dim_of(model, &p);
}

mtbal_dim mtbal_dim_add(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t sum;
    if (both_known(a, b))
        return __builtin_add_overflow(a.size, b.size, &sum) ? unknown : mtbal_dim_const(sum);
    if (a.size == 0 || b.size == 0)
        return a.size == 0 ? b : a;
    return combine(model, a, b, 1);
}

mtbal_dim mtbal_dim_sub(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    if (both_known(a, b) && a.size >= b.size)
        return mtbal_dim_const(a.size - b.size);
    if (b.size == 0)
        return a;
    if (mtbal_dim_equal(a, b))
        return mtbal_dim_const(0);
    return combine(model, a, b, -1);
}

mtbal_dim mtbal_dim_mul(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    int64_t product;
    if (both_known(a, b))
        return mtbal_mul_i64(a.size, b.size, &product) ? mtbal_dim_const(product) : unknown;
    if (a.size == 0 || b.size == 0)
        return mtbal_dim_const(0);
    if (a.size == 1 || b.size == 1)
        return a.size == 1 ? b : a;
    poly p = poly_of(model, a), q = poly_of(model, b);
    poly r = poly_mul(&p, &q);
    return dim_of(model, &r);
}

mtbal_dim mtbal_dim_div(mtbal_model *model, mtbal_dim a, mtbal_dim b)
{
    if (b.size == 0)
        return unknown;
    if (both_known(a, b))
        return mtbal_dim_const(a.size / b.size);
    if (b.size == 1 || a.size == 0)
        return a;
    if (mtbal_dim_equal(a, b))
        return mtbal_dim_const(1);
    poly p = poly_of(model, a), q = poly_of(model, b);
    poly r = poly_div(model, &p, &q);
    return dim_of(model, &r);
}

/* ------------------------------------------------------------------ bounds */

static bool poly_low(mtbal_model *model, const poly *p, int64_t *low);

/* A name stands for at least 1, N/D for at least floor(low(N)/D). */
static bool atom_low(mtbal_model *model, const char *atom, int64_t *low)
{
    poly p = poly_atom(atom), inner;
    int64_t divisor;
    *low = 1;
    if (*atom != '(')
        return true;
    *low = 0;
    if (open_quotient(model, &p, &inner, &divisor) && divisor > 0 && poly_low(model, &inner, low))
        *low = floor_div(*low, divisor);
    return *low >= 0;
}

static bool poly_low(mtbal_model *model, const poly *p, int64_t *low)
{
    bool good = p->valid;
    *low = 0;
    for (int i = 0; i < p->nterms && good; i++) {
        const term *t = &p->terms[i];
        int64_t least = t->factor, atom;
        good = t->factor >= 0 || t->natoms == 0;
        for (int k = 0; k < t->natoms && good; k++)
            good = atom_low(model, t->atoms[k], &atom) && mtbal_mul_i64(least, atom, &least);
        good = good && !__builtin_add_overflow(*low, least, low);
    }
    return good;
}

bool shape_low(mtbal_model *model, mtbal_dim d, int64_t *low)
{
    poly p = poly_of(model, d);
    return poly_low(model, &p, low);
}

/* ------------------------------------------------------------------ binding */

static void bind_in(mtbal_model *model, mtbal_dim *d, const char *symbol, int64_t size)
{
    if (d->size >= 0 || !d->symbol)
        return;
    if (!strcmp(d->symbol, symbol)) {
        *d = mtbal_dim_const(size);
        return;
    }
    reader r = {.model = model, .bound = symbol, .size = size};
    poly p = read_symbol(&r, d->symbol);
    mtbal_dim bound = r.used ? dim_of(model, &p) : unknown;
    bool negative = bound.symbol && is_number(&p);
    if ((bound.size >= 0 || bound.symbol) && !negative)
        *d = bound;
}

mtbal_status mtbal_bind_dim(mtbal_model *model, const char *symbol, int64_t size)
{
    if (size < 0)
        return MTBAL_INVALID;
    for (int i = 0; i < model->graph->ninputs; i++) {
        mtbal_type *type = &model->graph->inputs[i]->type;
        for (int d = 0; d < type->rank; d++)
            bind_in(model, &type->dims[d], symbol, size);
    }
    return MTBAL_OK;
}
