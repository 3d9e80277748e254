/* graph/metadata.c: the flat JSON that mtbal keeps in a model's metadata: an array of strings, or
 * an object whose values are strings or numbers. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *p;
    mtbal_arena *arena;
    bool failed, no_memory;
} reader;

static void *out_of_memory(reader *r)
{
    r->failed = r->no_memory = true;
    return NULL;
}

/* Bytes up to the quote that ends a string. */
static size_t string_length(const char *p)
{
    size_t n = 0;
    while (p[n] && p[n] != '"')
        n += p[n] == '\\' && p[n + 1] ? 2 : 1;
    return n;
}

static void skip_space(reader *r)
{
    r->p += strspn(r->p, " \t\r\n");
}

static bool accept(reader *r, char c)
{
    skip_space(r);
    if (*r->p != c)
        return false;
    r->p++;
    return true;
}

/* UTF-8 of a code point below 0x10000 (surrogate pairs are kept as two). */
static char *put_utf8(char *to, unsigned code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 63));
    } else {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    }
    return to;
}

/* One escape after its backslash. */
static char *escape(reader *r, char *to)
{
    static const char from[] = "nrtbf", plain[] = "\n\r\t\b\f";
    char c = *r->p++;
    const char *found = c ? strchr(from, c) : NULL;
    if (c == 'u') {
        char hex[5] = {0}, *end;
        for (int i = 0; i < 4 && r->p[i]; i++)
            hex[i] = r->p[i];
        unsigned code = (unsigned)strtoul(hex, &end, 16);
        if (end != hex + 4 || code == 0) {
            r->failed = true;
            return to;
        }
        r->p += 4;
        return put_utf8(to, code);
    }
    r->failed = r->failed || !c;
    *to++ = found ? plain[found - from] : c;
    return to;
}

static const char *string(reader *r)
{
    if (!accept(r, '"')) {
        r->failed = true;
        return NULL;
    }
    char *text = mtbal_arena_alloc(r->arena, string_length(r->p) + 1), *to = text;
    if (!text)
        return out_of_memory(r);
    while (*r->p && *r->p != '"' && !r->failed) {
        if (*r->p != '\\') {
            *to++ = *r->p++;
        } else {
            r->p++;
            to = escape(r, to);
        }
    }
    r->failed = r->failed || *r->p != '"';
    r->p += *r->p == '"';
    const char *interned = mtbal_intern_n(r->arena, text, (size_t)(to - text));
    return interned ? interned : out_of_memory(r);
}

/* A string, or the text of a number. */
static const char *scalar(reader *r)
{
    skip_space(r);
    if (*r->p == '"')
        return string(r);
    size_t length = strspn(r->p, "+-.0123456789eE");
    const char *text = mtbal_intern_n(r->arena, r->p, length);
    r->failed = r->failed || !length;
    r->p += length;
    return text ? text : out_of_memory(r);
}

static int count_items(const char *json)
{
    int commas = 0;
    for (const char *p = json; *p; p++)
        commas += *p == ',';
    return commas + 1;
}

mtbal_status mtbal_property_list(const mtbal_model *model, const char *key, mtbal_arena *arena,
                                 mtbal_list *list, mtbal_diag *diag)
{
    *list = (mtbal_list){0};
    const char *json = mtbal_property_get(model, key);
    if (!json)
        return MTBAL_OK;
    int capacity = count_items(json);
    list->names = mtbal_arena_array(arena, (size_t)capacity, sizeof *list->names);
    list->values = mtbal_arena_array(arena, (size_t)capacity, sizeof *list->values);
    if (!list->names || !list->values)
        return mtbal_no_memory(diag);
    reader r = {json, arena, false, false};
    bool object = accept(&r, '{');
    char end = object ? '}' : ']';
    r.failed = !object && !accept(&r, '[');
    while (!r.failed && !accept(&r, end)) {
        if (list->count == capacity || (list->count && !accept(&r, ','))) {
            r.failed = true;
            break;
        }
        list->names[list->count] = string(&r);
        r.failed = r.failed || (object && !accept(&r, ':'));
        list->values[list->count++] = object && !r.failed ? scalar(&r) : NULL;
    }
    if (r.no_memory)
        return mtbal_no_memory(diag);
    if (r.failed)
        return mtbal_fail(diag, MTBAL_INVALID, model->path,
                          "write the step graph again with mtbal-rewrite",
                          "the metadata entry %s is damaged: %.60s", key, json);
    return MTBAL_OK;
}
