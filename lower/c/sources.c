/* lower/c/sources.c: which parts of runtime/ a plan needs. A source is cut at the blank lines
 * between top-level definitions into pieces; a piece is kept when a kept one mentions a name that
 * it defines. What is kept is copied word for word, so that the text that runs is the text of
 * runtime/. Headers are kept whole. */
#include "lower/c/c.h"

#include <ctype.h>
#include <string.h>

/* ------------------------------------------------------------------ words */

/* Reads a text word by word: identifiers and single signs; comments and literals are passed over.
 */
typedef struct reader {
    const char *p, *end;
    const char *word;
    size_t length;  /* of the identifier; 0: a sign, word[0] */
    int depth;      /* of braces */
    bool directive; /* inside a line that begins with # */
    int directives; /* such lines so far */
} reader;

static bool begins_name(char ch)
{
    return isalpha((unsigned char)ch) || ch == '_';
}

static bool in_name(char ch)
{
    return isalnum((unsigned char)ch) || ch == '_';
}

static const char *after_literal(const char *p, const char *end)
{
    char quote = *p++;
    while (p < end && *p != quote)
        p += *p == '\\' ? 2 : 1;
    return p + 1;
}

static const char *after_comment(const char *p, const char *end)
{
    while (p < end && !(p[0] == '*' && p[1] == '/'))
        p++;
    return p + 2;
}

static bool next_word(reader *r)
{
    while (r->p < r->end) {
        char ch = *r->p;
        if (ch == '\n' && r->p[-1] != '\\')
            r->directive = false;
        if (ch == '"' || ch == '\'') {
            r->p = after_literal(r->p, r->end);
        } else if (ch == '/' && r->p[1] == '*') {
            r->p = after_comment(r->p + 2, r->end);
        } else if (isspace((unsigned char)ch) || ch == '\\') {
            r->p++;
        } else if (isdigit((unsigned char)ch)) { /* a number with its suffix is no name */
            while (r->p < r->end && (in_name(*r->p) || *r->p == '.'))
                r->p++;
        } else {
            r->word = r->p++;
            r->length = 0;
            if (begins_name(ch)) {
                while (r->p < r->end && in_name(*r->p))
                    r->p++;
                r->length = (size_t)(r->p - r->word);
            }
            r->directives += ch == '#' && !r->directive;
            r->directive = r->directive || ch == '#';
            r->depth += ch == '{' ? 1 : ch == '}' ? -1 : 0;
            return true;
        }
    }
    return false;
}

static bool is_word(const reader *r, const char *word)
{
    return r->length == strlen(word) && !memcmp(r->word, word, r->length);
}

/* ------------------------------------------------------------------ what a piece defines */

static void offer(mtbal_c *c, c_piece *piece, const char *text, size_t length, bool prefix)
{
    c_name *name = mtbal_arena_alloc(c->arena, sizeof *name);
    if (!name) {
        c->failed = true;
        return;
    }
    *name = (c_name){text, length, prefix, piece->names};
    piece->names = name;
}

/* #define NAME, and NAME_##x within. */
static void offer_macro(mtbal_c *c, c_piece *piece, reader *r)
{
    if (!next_word(r) || !is_word(r, "define") || !next_word(r))
        return;
    offer(c, piece, r->word, r->length, false);
    while (r->directive) {
        const char *word = r->word;
        size_t length = r->length;
        reader ahead = *r;
        if (!next_word(&ahead) || !ahead.directive || ahead.directives != r->directives)
            return;
        if (length && r->p[0] == '#' && r->p[1] == '#' && word[length - 1] == '_')
            offer(c, piece, word, length, true);
        *r = ahead;
    }
}

/* NAME(...) at the top: a function; without a body a macro that makes something of its first
 * argument. */
static void offer_call(mtbal_c *c, c_piece *piece, const reader *at)
{
    reader r = *at;
    int open = 0;
    const char *argument = NULL;
    size_t length = 0;
    while (next_word(&r) && r.depth == at->depth) {
        open += *r.word == '(' ? 1 : *r.word == ')' ? -1 : 0;
        if (open == 1 && r.length && !argument) {
            argument = r.word;
            length = r.length;
        }
        if (open == 0)
            break;
    }
    bool macro = argument && !(next_word(&r) && strchr("{;", *r.word));
    offer(c, piece, macro ? argument : at->word, macro ? length : at->length, false);
}

static void offer_names(mtbal_c *c, c_piece *piece)
{
    reader r = {piece->text, piece->text + piece->length, NULL, 0, 0, false, 0};
    bool in_enum = false, in_value = false;
    int open = 0;
    while (next_word(&r)) {
        if (*r.word == '#' && open == 0) {
            offer_macro(c, piece, &r);
            continue;
        }
        open += *r.word == '(' ? 1 : *r.word == ')' ? -1 : 0;
        in_enum = in_enum || (r.depth == 0 && is_word(&r, "enum"));
        if (r.depth == 0 && (*r.word == ';' || *r.word == '}'))
            in_enum = in_value = false;
        if (!r.length)
            in_value = r.depth == 0 && *r.word == '=' ? true : in_value;
        if (!r.length || open || r.directive || (r.depth && !in_enum) || in_value)
            continue;
        char follows = *r.p == ' ' ? r.p[1] : *r.p;
        if (follows == '(')
            offer_call(c, piece, &r);
        else if (strchr("[=;,{", follows) || (in_enum && strchr("}\n", follows)))
            offer(c, piece, r.word, r.length, false);
    }
}

/* ------------------------------------------------------------------ cutting */

static bool starts_with(const char *text, const char *prefix)
{
    return !strncmp(text, prefix, strlen(prefix));
}

/* Depth of braces and of #if after a line. */
static void count_line(const char *line, const char *end, int *braces, int *ifs, bool *comment)
{
    *ifs += starts_with(line, "#if") ? 1 : starts_with(line, "#endif") ? -1 : 0;
    for (const char *p = line; p < end; p++) {
        if (*comment) {
            *comment = !(p[0] == '*' && p[1] == '/');
            p += !*comment;
        } else if (p[0] == '/' && p[1] == '*') {
            *comment = true;
            p++;
        } else if (*p == '"' || *p == '\'') {
            p = after_literal(p, end) - 1;
        } else {
            *braces += *p == '{' ? 1 : *p == '}' ? -1 : 0;
        }
    }
}

static c_piece *cut(mtbal_c *c, const char *text)
{
    c_piece *first = NULL, **last = &first;
    int braces = 0, ifs = 0;
    bool comment = false;
    for (const char *start = text, *line = text; *line;) {
        const char *end = strchr(line, '\n') + 1;
        count_line(line, end, &braces, &ifs, &comment);
        line = end;
        if (*line && (*line != '\n' || braces || ifs || comment))
            continue;
        c_piece *piece = mtbal_arena_alloc(c->arena, sizeof *piece);
        if (!piece) {
            c->failed = true;
            return first;
        }
        *piece = (c_piece){.text = start, .length = (size_t)(line - start)};
        offer_names(c, piece);
        *last = piece;
        last = &piece->next;
        while (*line == '\n')
            line++;
        start = line;
    }
    return first;
}

/* ------------------------------------------------------------------ what is reached */

static bool is_header(const char *name)
{
    size_t n = strlen(name);
    return n > 2 && !strcmp(name + n - 2, ".h");
}

static bool is_list(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && !strcmp(name + n - 4, ".def");
}

static bool is_code(const char *name)
{
    size_t n = strlen(name);
    return starts_with(name, "runtime/") && n > 2 && !strcmp(name + n - 2, ".c");
}

static bool defines(const c_piece *piece, const char *word, size_t length)
{
    for (const c_name *n = piece->names; n; n = n->next)
        if (n->prefix ? length > n->length && !memcmp(n->text, word, n->length)
                      : length == n->length && !memcmp(n->text, word, length))
            return true;
    return false;
}

static void keep(mtbal_c *c, int source, c_piece *piece);

/* In the source itself, else (rt_ names only) wherever it is. */
static void need(mtbal_c *c, int source, const char *word, size_t length)
{
    bool found = false;
    for (c_piece *p = source < 0 ? NULL : c->pieces[source]; p; p = p->next)
        if (defines(p, word, length)) {
            found = true;
            keep(c, source, p);
        }
    if (found || length < 4 || memcmp(word, "rt_", 3))
        return;
    for (int s = 0; c_sources[s].name; s++)
        for (c_piece *p = s == source ? NULL : c->pieces[s]; p; p = p->next)
            if (defines(p, word, length))
                keep(c, s, p);
}

/* rt_NAME_attr: the row of kernels.def is needed for the struct. */
static void note_attributes(mtbal_c *c, const char *word, size_t length)
{
    if (length < 9 || memcmp(word, "rt_", 3) || memcmp(word + length - 5, "_attr", 5))
        return;
    for (int k = 0; k < RT_NKERNELS; k++)
        if (strlen(rt_kernels[k].name) == length - 8 &&
            !memcmp(rt_kernels[k].name, word + 3, length - 8))
            c->kernel_named[k] = true;
}

/* What the rows of a list mention; their own names are defined where it is included. */
static void keep_list(mtbal_c *c, int source, const char *text)
{
    reader r = {text, text + strlen(text), NULL, 0, 0, false, 0};
    while (next_word(&r))
        if (r.length && !r.directive && r.word > text && r.word[-1] != '\n')
            need(c, source, r.word, r.length);
}

static void keep_lists(mtbal_c *c, int source, const c_piece *piece)
{
    for (int s = 0; c_sources[s].name; s++) {
        char line[128];
        size_t n = (size_t)snprintf(line, sizeof line, "#include \"%s\"\n", c_sources[s].name);
        const char *at = is_list(c_sources[s].name) ? strstr(piece->text, line) : NULL;
        if (at && at + n <= piece->text + piece->length)
            keep_list(c, source, c_sources[s].text);
    }
}

static void keep(mtbal_c *c, int source, c_piece *piece)
{
    if (piece->kept)
        return;
    piece->kept = true;
    reader r = {piece->text, piece->text + piece->length, NULL, 0, 0, false, 0};
    while (next_word(&r))
        if (r.length) {
            need(c, source, r.word, r.length);
            note_attributes(c, r.word, r.length);
        }
    keep_lists(c, source, piece);
}

/* Whether a kept source includes this header, straight or through another. */
static bool is_included(const mtbal_c *c, const char *header)
{
    char line[128];
    snprintf(line, sizeof line, "#include \"%s\"\n", header);
    if (!strcmp(header, "runtime/runtime.h") || is_list(header)) /* which it includes */
        return true;
    for (int s = 0; c_sources[s].name; s++)
        if (is_code(c_sources[s].name) && c_source_kept(c, s) && strstr(c_sources[s].text, line))
            return true;
    return false;
}

bool c_source_kept(const mtbal_c *c, int source)
{
    const char *name = c_sources[source].name;
    if (!strcmp(name, "runtime/used.h")) /* printed anew */
        return false;
    if (is_header(name) || is_list(name))
        return is_included(c, name);
    for (const c_piece *p = c->pieces[source]; p; p = p->next)
        if (p->kept)
            return true;
    return false;
}

void c_choose_sources(mtbal_c *c)
{
    static const char *const always[] = {"rt_cpu_detect", "rt_pool_size", "rt_pool_start",
                                         "rt_pool_stop", "rt_parallel"};
    char name[64];
    int n = 0;
    while (c_sources[n].name)
        n++;
    c->pieces = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *c->pieces);
    if (!c->pieces) {
        c->failed = true;
        return;
    }
    for (int s = 0; s < n; s++)
        if (is_code(c_sources[s].name) && strcmp(c_sources[s].name, "runtime/table.c"))
            c->pieces[s] = cut(c, c_sources[s].text);
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        need(c, -1, always[i], strlen(always[i]));
    for (int k = 0; k < RT_NKERNELS; k++)
        if (c->kernel_used[k]) {
            snprintf(name, sizeof name, "rt_%s", rt_kernels[k].name);
            c->kernel_named[k] = true;
            need(c, -1, name, strlen(name));
        }
}

/* The head of a source goes with every piece of it. */
static bool is_head(const c_piece *p)
{
    return !p->names && starts_with(p->text, "#include");
}

void c_print_source(FILE *to, const mtbal_c *c, int source)
{
    const c_piece *first = c->pieces[source];
    if (!first)
        fputs(c_sources[source].text, to);
    for (const c_piece *p = first; p; p = p->next)
        if (p == first || p->kept || is_head(p)) {
            fputs(p == first ? "" : "\n", to);
            fwrite(p->text, 1, p->length, to);
        }
}
