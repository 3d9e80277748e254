/* lower/c/names.c: how regions, types, shapes and the graph's names are written in C. */
#include "lower/c/c.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const char *const c_regions[NREGIONS] = {"m->arena", "m->states", "m->weights", "m->inputs",
                                         "m->outputs"};

const char *const c_region_ids[NREGIONS] = {"arena", "state", "weights", "input", "output"};
const char *const c_region_names[NREGIONS] = {"ARENA", "STATES", "WEIGHTS", "INPUTS", "OUTPUTS"};

/* By rt_dtype: the name in rt_dtype, and the type in C. */
const c_type c_types[] = {
    [RT_F32] = {"RT_F32", "f32", "float"},       [RT_U8] = {"RT_U8", "u8", "uint8_t"},
    [RT_I8] = {"RT_I8", "i8", "int8_t"},         [RT_U16] = {"RT_U16", "u16", "uint16_t"},
    [RT_I16] = {"RT_I16", "i16", "int16_t"},     [RT_I32] = {"RT_I32", "i32", "int32_t"},
    [RT_I64] = {"RT_I64", "i64", "int64_t"},     [RT_BOOL] = {"RT_BOOL", "bool", "uint8_t"},
    [RT_F16] = {"RT_F16", "f16", "uint16_t"},    [RT_F64] = {"RT_F64", "f64", "double"},
    [RT_U32] = {"RT_U32", "u32", "uint32_t"},    [RT_U64] = {"RT_U64", "u64", "uint64_t"},
    [RT_BF16] = {"RT_BF16", "bf16", "uint16_t"},
};

void c_print_comment(FILE *to, const char *text)
{
    for (const char *p = text; *p; p++) {
        bool ends = (*p == '/' && p > text && p[-1] == '*') || (*p == '*' && p[1] == '/');
        fputc((unsigned char)*p < 32 || ends || *p == '\\' ? '_' : *p, to);
    }
}

/* '?' because of trigraphs. */
void c_print_string(FILE *to, const char *text)
{
    fputc('"', to);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 32)
            fprintf(to, "\\%03o", (unsigned)*p);
        else
            fprintf(to, strchr("\"\\?", *p) ? "\\%c" : "%c", *p);
    fputc('"', to);
}

void c_print_dims(FILE *to, int rank, const int64_t *dims)
{
    for (int d = 0; d < rank; d++)
        fprintf(to, "%s%lld", d ? ", " : "", (long long)dims[d]);
}

/* "f32_64x784"; a number alone is "f32_scalar". */
void c_print_shape(FILE *to, const plan_operand *x)
{
    fprintf(to, "%s_%s", c_types[x->dtype].lower, x->rank ? "" : "scalar");
    for (int d = 0; d < x->rank; d++)
        fprintf(to, "%s%lld", d ? "x" : "", (long long)x->dims[d]);
}

/* ------------------------------------------------------------------ identifiers */

/* What is no letter or digit becomes '_'; a second of the same name gets a number. tried: name ->
 * the last number that was tried for it. */
static const char *identifier(mtbal_c *c, mtbal_map *tried, const char *name)
{
    size_t length = strlen(name);
    char *text = mtbal_arena_alloc(c->arena, length + 16);
    if (!text)
        return NULL;
    for (size_t i = 0; i < length; i++)
        text[i] = isalnum((unsigned char)name[i]) && (unsigned char)name[i] < 128 ? name[i] : '_';
    const char *base = mtbal_intern(c->arena, text), *id = base;
    int k = mtbal_map_get(tried, base);
    for (k = k < 1 ? 1 : k; id && mtbal_map_get(tried, id) >= 0;) {
        snprintf(text + length, 16, "_%d", ++k);
        id = mtbal_intern(c->arena, text);
    }
    return id && mtbal_map_set(tried, c->arena, base, k) &&
                   (id == base || mtbal_map_set(tried, c->arena, id, 1))
               ? id
               : NULL;
}

static const char **identifiers(mtbal_c *c, const mtbal_port *ports, int n)
{
    mtbal_map tried = {0};
    const char **ids = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *ids);
    for (int i = 0; ids && !c->failed && i < n; i++)
        c->failed = !(ids[i] = identifier(c, &tried, ports[i].name));
    c->failed = c->failed || !ids;
    return ids;
}

/* Values that are ports of the region have the ports' names. The first of two counts. */
static void name_values(mtbal_c *c, const mtbal_port *ports, int n, int region,
                        const char *const *ids)
{
    for (int i = n - 1; i >= 0; i--) {
        plan_operand x = c_operand_of(&ports[i]);
        int value = x.region == region ? c_value_of(c, &x) : 0;
        if (value)
            c->value_id[value] = ids[i];
    }
}

void c_choose_names(mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    c->input_id = identifiers(c, p->inputs, p->ninputs);
    c->output_id = identifiers(c, p->outputs, p->noutputs);
    c->state_id = identifiers(c, p->states, p->nstates);
    c->value_id = mtbal_arena_array(c->arena, (size_t)c->nvalues + 1, sizeof *c->value_id);
    c->failed = c->failed || !c->value_id;
    if (c->failed)
        return;
    name_values(c, p->inputs, p->ninputs, REGION_INPUT, c->input_id);
    name_values(c, p->outputs, p->noutputs, REGION_OUTPUT, c->output_id);
    name_values(c, p->states, p->nstates, REGION_STATE, c->state_id);
}

void c_list_kinds(const mtbal_c *c, c_port_kind kinds[3])
{
    const mtbal_plan *p = c->plan;
    kinds[0] = (c_port_kind){"input",   "INPUT",    "to be filled before a step",
                             p->inputs, p->ninputs, c->input_id};
    kinds[1] = (c_port_kind){"output",   "OUTPUT",    "to be read after a step",
                             p->outputs, p->noutputs, c->output_id};
    kinds[2] =
        (c_port_kind){"state",   "STATE",    "what a step changes: each step leaves the next value",
                      p->states, p->nstates, c->state_id};
}

const char *c_member(int region)
{
    return c_regions[region] + 3; /* behind "m->" */
}
