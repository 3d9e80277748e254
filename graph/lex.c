/* graph/lex.c: words of ONNX text. */
#include "graph/lex.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void lex_init(lexer *l, const char *text, mtbal_arena *arena, mtbal_diag *diag)
{
    *l = (lexer){.text = text, .p = text, .end = text + strlen(text), .arena = arena, .diag = diag};
}

void *lex_error(lexer *l, const char *wanted)
{
    int line = 1, column = 1;
    char where[64];
    if (l->status != MTBAL_OK)
        return NULL;
    for (const char *q = l->text; q < l->p; q++, column++)
        if (*q == '\n') {
            line++;
            column = 0;
        }
    snprintf(where, sizeof where, "line %d, column %d", line, column);
    int shown = (int)strcspn(l->p, "\n");
    l->status =
        mtbal_fail(l->diag, MTBAL_INVALID, where, "correct the text: onnx/docs/Syntax.md tells how",
                   shown ? "%s is missing before '%.*s'" : "%s is missing", wanted,
                   shown > 20 ? 20 : shown, l->p);
    return NULL;
}

void *lex_no_memory(lexer *l)
{
    if (l->status == MTBAL_OK)
        l->status = mtbal_no_memory(l->diag);
    return NULL;
}

void lex_skip(lexer *l)
{
    for (;;) {
        l->p += strspn(l->p, " \t\r\n");
        if (*l->p != '#')
            return;
        l->p += strcspn(l->p, "\n");
    }
}

char lex_peek(lexer *l)
{
    lex_skip(l);
    return l->status == MTBAL_OK ? *l->p : 0;
}

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

bool lex_accept(lexer *l, const char *word)
{
    size_t n = strlen(word);
    if (!lex_peek(l) || strncmp(l->p, word, n) != 0)
        return false;
    if (word_char(word[n - 1]) && word_char(l->p[n]))
        return false;
    l->p += n;
    return true;
}

bool lex_expect(lexer *l, const char *word)
{
    char quoted[32];
    if (lex_accept(l, word))
        return true;
    snprintf(quoted, sizeof quoted, "'%s'", word);
    lex_error(l, quoted);
    return false;
}

size_t lex_identifier(lexer *l)
{
    size_t n = 0;
    char c = lex_peek(l);
    if (!word_char(c) || isdigit((unsigned char)c))
        return 0;
    while (word_char(l->p[n]))
        n++;
    return n;
}

const char *lex_string(lexer *l)
{
    if (!lex_expect(l, "\""))
        return NULL;
    size_t length = 0;
    const char *q = l->p;
    for (; *q && *q != '"'; q++, length++)
        q += *q == '\\' && q[1];
    if (!*q)
        return lex_error(l, "the end of a string");
    char *buffer = mtbal_malloc(length + 1), *to = buffer;
    if (!buffer)
        return lex_no_memory(l);
    for (; l->p < q; l->p++) {
        l->p += *l->p == '\\';
        *to++ = *l->p;
    }
    l->p = q + 1;
    const char *string = mtbal_intern_n(l->arena, buffer, length);
    mtbal_free(buffer);
    return string ? string : lex_no_memory(l);
}

const char *lex_try_name(lexer *l)
{
    if (lex_peek(l) == '"')
        return lex_string(l);
    size_t n = lex_identifier(l);
    if (n == 0)
        return NULL;
    const char *name = mtbal_intern_n(l->arena, l->p, n);
    l->p += n;
    return name ? name : lex_no_memory(l);
}

const char *lex_name(lexer *l)
{
    const char *name = lex_try_name(l);
    return name ? name : lex_error(l, "a name");
}

/* inf, infinity, nan, in any case. */
static bool special(lexer *l, number *n)
{
    static const char *const words[] = {"infinity", "inf", "nan"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]), k = 0;
        while (k < length && tolower((unsigned char)l->p[k]) == words[i][k])
            k++;
        if (k < length || word_char(l->p[k]))
            continue;
        l->p += length;
        n->is_float = true;
        n->f = i == 2 ? (double)NAN : n->negative ? -HUGE_VAL : HUGE_VAL;
        return true;
    }
    return false;
}

bool lex_number(lexer *l, number *n)
{
    lex_skip(l);
    const char *start = l->p;
    *n = (number){.negative = *start == '-'};
    l->p += n->negative;
    if (l->status == MTBAL_OK && special(l, n))
        return true;
    const char *q = l->p;
    l->p = start;
    if (l->status != MTBAL_OK || !(isdigit((unsigned char)*q) || *q == '.'))
        return false;
    q += strspn(q, "0123456789");
    if (*q == '.') {
        n->is_float = true;
        q += 1 + strspn(q + 1, "0123456789");
    }
    if (*q == 'e' || *q == 'E') {
        n->is_float = true;
        q += q[1] == '-' || q[1] == '+' ? 2 : 1;
        q += strspn(q, "0123456789");
    }
    errno = 0;
    n->f = strtod(start, NULL);
    if (!n->is_float)
        n->i = n->negative ? strtoll(start, NULL, 10) : (int64_t)strtoull(start, NULL, 10);
    if (!n->is_float && errno)
        return lex_error(l, "an integer of 64 bits") != NULL;
    l->p = q;
    return true;
}
