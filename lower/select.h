/* lower/select.h: values of which a mask selects some elements, kept at full size (select.c), and
 * what each op makes of them (select_rules.c). Inside this folder only. */
#ifndef MTBAL_SELECT_H
#define MTBAL_SELECT_H

#include "lower/lowering.h"

enum { SELECT_MAX_RANK = 32 };

struct selection {
    selection *next;
    const mtbal_value *mask;
    const mtbal_graph *graph; /* that the following stand in */
    mtbal_value *chosen;      /* bool [n]: the mask, flattened */
    mtbal_value *count;       /* int64 [1]: how many of it are true */
    const char *symbol;       /* stands for the count where contents of shapes are followed */
    int64_t n;
};

/* One node with operands that are selected. */
typedef struct selecting {
    lowering *l;
    mtbal_node *node;
    mtbal_builder b; /* before the node */
    selection *s;    /* that selects all of them */
    int axis;        /* of the results that is selected; -1: none */
    bool renewed;    /* nodes were put before it */
    mtbal_value *instead;
} selecting;

/* How the node is done on full size: sets `axis`, or an `instead`. false: it is not. */
typedef bool select_rule(selecting *w);
select_rule *lower_select_rule(const mtbal_node *node);

/* The selected axis of operand i; -1: not selected. */
int select_axis(const selecting *w, int i);
bool select_given(const selecting *w, int i);
/* Operand i holds `otherwise` where the mask is false. */
void select_fill(selecting *w, int i, double otherwise);
/* `x`, in the layout of operand i's, where the mask is true; `otherwise` where not. */
mtbal_value *select_where(selecting *w, mtbal_value *x, int axis, mtbal_value *otherwise);
/* The integers of an attribute, or else of a constant input: their number; -1: not known; 0 with
 * *given false: neither is there. */
int select_ints(const selecting *w, const char *attr, int input, int64_t values[64], bool *given);
/* x with the axes that the mask covers as one, selected: a[mask] at full size; and back. */
mtbal_value *select_flat(selecting *w, mtbal_value *x);
mtbal_value *select_unflat(selecting *w, mtbal_value *flat, const mtbal_value *like);
/* Whether the indices are where the mask is true, of x's leading axes: a[mask] itself. */
bool select_is_grid(lowering *l, const selection *s, const mtbal_value *x,
                    const mtbal_value *index);
/* Output 0 of the node, a Transpose, is the turned grid. */
void select_turn_grid(selecting *w);
/* How many elements operand i really has along these axes, the selected one among them: a
 * scalar. */
mtbal_value *select_size(selecting *w, int i, int n, const int64_t *axes);

#endif
