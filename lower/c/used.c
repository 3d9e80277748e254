/* lower/c/used.c: prints the two lists of runtime/ that depend on the graph. */
#include "lower/c/c.h"

#include <string.h>

/* The rows of the list whose kernels are used. */
void c_print_kernels(FILE *to, const mtbal_c *c)
{
    const char *text = "";
    for (int s = 0; c_sources[s].name; s++)
        if (!strcmp(c_sources[s].name, "runtime/kernels.def"))
            text = c_sources[s].text;
    for (const char *line = text; *line;) {
        const char *end = strchr(line, '\n') + 1;
        bool shown = !strncmp(line, " *", 2) || !strncmp(line, "/* runtime", 10);
        for (int k = 0; k < RT_NKERNELS; k++) {
            char start[64];
            int n = snprintf(start, sizeof start, "KERNEL(%s,", rt_kernels[k].name);
            shown = shown || (c->kernel_named[k] && !strncmp(line, start, (size_t)n));
        }
        if (shown)
            fwrite(line, 1, (size_t)(end - line), to);
        line = end;
    }
}

_Static_assert(RT_NUNARY <= 64 && RT_NBINARY <= 64, "a bit for each formula");

static unsigned long long mask(const bool *used, int n)
{
    unsigned long long bits = 0;
    for (int i = 0; i < n && i < 64; i++)
        bits |= used[i] ? 1ull << i : 0;
    return bits;
}

void c_print_used(FILE *to, const mtbal_c *c)
{
    fprintf(to,
            "/* runtime/used.h: which element types and operators the graph has, as bits: the "
            "compiler leaves\n * out the others. */\n"
            "#ifndef MTBAL_RT_USED_H\n#define MTBAL_RT_USED_H\n\n"
            "#if !defined(MODEL_THREADS) || MODEL_THREADS < 2\n#define RT_NO_THREADS\n#endif\n\n"
            "#define RT_USES_TYPE(dtype) ((0x%xu >> (dtype)) & 1)\n"
            "#define RT_USES_INTEGERS %d\n"
            "#define RT_USES_UNARY(op) ((0x%llxull >> (op)) & 1)\n"
            "#define RT_USES_BINARY(op) ((0x%llxull >> (op)) & 1)\n\n#endif\n",
            (unsigned)c->types, c->integers, mask(c->unary_op, 64), mask(c->binary_op, 64));
}
