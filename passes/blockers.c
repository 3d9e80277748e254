/* passes/blockers.c: nodes that cannot be differentiated, all in one message. */
#include "passes/gradients/gradients.h"
#include "passes/internal.h"

#include <string.h>

enum { BLOCKED = 1 };

void mtbal_blockers_clear(mtbal_graph *graph)
{
    for (mtbal_node *node = graph->first; node; node = node->next)
        node->mark = 0;
}

void mtbal_blockers_add(mtbal_blockers *s, mtbal_node *node, const char *why, const char *blocked)
{
    char label[256], line[768];
    size_t used = strlen(s->text), room = sizeof s->text - used;
    if (node->mark == BLOCKED)
        return;
    node->mark = BLOCKED;
    s->count++;
    int n = snprintf(line, sizeof line, "\n  %s%s%.300s, blocks %s", mtbal_node_label(node, label),
                     why ? ": " : "", why ? why : "", blocked);
    if (n > 0 && (size_t)n < sizeof line && (size_t)n + 8 < room)
        memcpy(s->text + used, line, (size_t)n + 1);
    else if (room > 8 && (used < 3 || strcmp(s->text + used - 3, "...")))
        memcpy(s->text + used, "\n  ...", 7);
}

bool mtbal_lacks_rule(mtbal_node *node, const bool *active, int n)
{
    bool made = false, stop;
    for (int i = 0; i < node->nout; i++)
        made = made || (node->out[i] && node->out[i]->id < n && active[node->out[i]->id]);
    return made && !mtbal_gradient_rule(node->opcode, &stop) && !stop &&
           mtbal_reads(node, active, n);
}
