/* lower/c/weights.c: constants and stored values, as C or as a file: first the constants, where
 * they stay; then what inputs and states start with. What is all zeros is left out: memory starts
 * as zeros. */
#include "lower/c/c.h"

#include <string.h>

static bool all_zero(const unsigned char *bytes, size_t n)
{
    while (n && !bytes[n - 1])
        n--;
    return n == 0;
}

void c_choose_weights(mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    size_t end = p->region_bytes[REGION_CONSTANT];
    c->weights = mtbal_arena_array(c->arena, (size_t)p->ndefaults + 1, sizeof *c->weights);
    if (!c->weights) {
        c->failed = true;
        return;
    }
    for (int i = 0; i < p->ndefaults; i++) {
        const plan_default *d = &p->defaults[i];
        if (all_zero(d->data, d->bytes))
            continue;
        c->weights[c->nweights++] = (c_weight){d, end};
        end += (d->bytes + 3) / 4 * 4;
    }
    c->weight_bytes = end ? end : 4;
}

/* Calls put(context, bytes, n) for everything in order, each rounded up to 4 bytes. */
typedef void put_fn(FILE *to, const void *bytes, size_t n, size_t at);

static void put_all(FILE *to, const mtbal_c *c, put_fn *put)
{
    const mtbal_plan *p = c->plan;
    put(to, p->constants, p->region_bytes[REGION_CONSTANT], 0);
    for (int i = 0; i < c->nweights; i++)
        put(to, c->weights[i].from->data, c->weights[i].from->bytes, c->weights[i].offset);
}

static void put_words(FILE *to, const void *bytes, size_t n, size_t at)
{
    for (size_t i = 0; i < n; i += 4) {
        uint32_t word = 0;
        for (size_t k = 0; k < 4 && i + k < n; k++)
            word |= (uint32_t)((const unsigned char *)bytes)[i + k] << 8 * k;
        fprintf(to, "%s0x%08x,", (at + i) / 4 % 8 ? " " : "\n    ", (unsigned)word);
    }
}

static void put_bytes(FILE *to, const void *bytes, size_t n, size_t at)
{
    (void)at;
    fwrite(bytes, 1, n, to);
    fwrite("\0\0\0", 1, (4 - n % 4) % 4, to);
}

void c_print_weights(FILE *to, const mtbal_c *c)
{
    fprintf(to, "/* weights.c: constants and stored values of ");
    c_print_comment(to, c->options.model);
    fprintf(to,
            ", little-endian, as they lie in memory.\n * model.c says what lies where. */\n"
            "#include \"model.h\"\n\nMODEL_ALIGN const uint32_t model_weights[%zu] = {",
            c->weight_bytes / 4);
    put_all(to, c, put_words);
    fprintf(to, "%s\n};\n", c->nweights || c->plan->region_bytes[REGION_CONSTANT] ? "" : "0");
}

void c_print_weights_file(FILE *to, const mtbal_c *c)
{
    put_all(to, c, put_bytes);
    if (!c->nweights && !c->plan->region_bytes[REGION_CONSTANT])
        put_bytes(to, "\0\0\0\0", 4, 0);
}
