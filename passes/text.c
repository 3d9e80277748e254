/* passes/text.c: text that grows. */
#include "passes/internal.h"

#include <stdarg.h>
#include <string.h>

/* Room for n more characters and the zero behind them. */
static bool grow(mtbal_text *t, size_t n)
{
    if (!t->failed && t->used + n + 1 > t->capacity) {
        size_t capacity = 2 * (t->used + n + 1);
        char *bigger = mtbal_realloc(t->bytes, capacity);
        t->failed = !bigger;
        if (bigger) {
            t->bytes = bigger;
            t->capacity = capacity;
        }
    }
    return !t->failed;
}

void mtbal_text_put(mtbal_text *t, const char *s, size_t n)
{
    if (!grow(t, n))
        return;
    memcpy(t->bytes + t->used, s, n);
    t->used += n;
    t->bytes[t->used] = 0;
}

void mtbal_text_add(mtbal_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !grow(t, (size_t)n))
        return;
    va_start(args, format);
    vsnprintf(t->bytes + t->used, (size_t)n + 1, format, args);
    va_end(args);
    t->used += (size_t)n;
}

void mtbal_emit_function(mtbal_builder *b, mtbal_text *t, const char *name, int nin,
                         mtbal_value *const *in, int nout, mtbal_value **out)
{
    if (t->failed && b->status == MTBAL_OK)
        b->status = mtbal_no_memory(b->diag);
    if (b->status == MTBAL_OK && mtbal_builder_function(b, t->bytes) == MTBAL_OK)
        mtbal_emit_done(b, mtbal_emit_node(b, "mtbal", name, nin, in, nout, out));
    mtbal_free(t->bytes);
    *t = (mtbal_text){0};
}
