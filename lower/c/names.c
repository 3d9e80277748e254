/* lower/c/names.c: the graph's names as C identifiers. */
#include "lower/c/c.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static bool is_taken(const char *const *ids, int n, const char *id)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(ids[i], id))
            return true;
    return false;
}

/* What is no letter or digit becomes '_'; a second of the same name gets a number. */
static char *identifier(mtbal_c *c, const char *const *ids, int n, const char *name)
{
    char *id = mtbal_arena_alloc(c->arena, strlen(name) + 16);
    if (!id) {
        c->failed = true;
        return NULL;
    }
    char *to = id;
    for (const char *p = name; *p; p++)
        *to++ = isalnum((unsigned char)*p) && (unsigned char)*p < 128 ? *p : '_';
    *to = 0;
    for (int k = 2; is_taken(ids, n, id); k++)
        snprintf(to, 16, "_%d", k);
    return id;
}

static const char **identifiers(mtbal_c *c, const mtbal_port *ports, int n)
{
    const char **ids = mtbal_arena_array(c->arena, (size_t)n + 1, sizeof *ids);
    for (int i = 0; ids && !c->failed && i < n; i++)
        ids[i] = identifier(c, ids, i, ports[i].name);
    c->failed = c->failed || !ids;
    return ids;
}

void c_choose_names(mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    c->input_id = identifiers(c, p->inputs, p->ninputs);
    c->output_id = identifiers(c, p->outputs, p->noutputs);
    c->state_id = identifiers(c, p->states, p->nstates);
}
