/* lower/schedule.c: the order of calls. They come in the order of the file, where all updates of a
 * training step stand at the end, so that every gradient would have to be kept until then. A call
 * that frees more memory than it takes is moved forward, to where its operands are there: an update
 * right behind the gradient, which is still in the cache. */
#include "lower/lowering.h"

#include <limits.h>
#include <string.h>

enum { FARTHEST = 4000 }; /* calls that are looked at, so that long programs stay cheap */

/* The state whose next value the call makes in this cell, or -1. */
static int state_made_in(const lowering *l, int cell)
{
    for (int i = 0; i < l->nstates; i++) {
        const place *p = &l->places[l->states[i].next->id];
        if (p->placed && p->at.cell == cell)
            return l->states[i].cell;
    }
    return -1;
}

static bool touches(const operand *list, int n, int cell)
{
    for (int i = 0; i < n; i++)
        if (list[i].cell == cell)
            return true;
    return false;
}

/* Whether c must stay behind `before`. `states`: cells of states that c makes the next value of;
 * they are written in place once all others have read them. */
static bool depends(const call *c, const call *before, const int *states, int nstates)
{
    for (int i = 0; i < c->nin; i++)
        if (c->in[i].cell >= 0 && touches(before->out, before->nout, c->in[i].cell))
            return true;
    for (int i = 0; i < c->nout; i++)
        if (c->out[i].cell >= 0 && (touches(before->in, before->nin, c->out[i].cell) ||
                                    touches(before->out, before->nout, c->out[i].cell)))
            return true;
    for (int i = 0; i < nstates; i++)
        if (touches(before->in, before->nin, states[i]))
            return true;
    return false;
}

/* Memory that lives on behind the call minus what ends with it. Lifetimes are those of the order as
 * it was: `at` is the call's place in that. */
static double growth(const lowering *l, const call *c, int at)
{
    double bytes = 0;
    for (int i = 0; i < c->nout; i++) {
        const cell *x = c->out[i].cell < 0 ? NULL : &l->cells[c->out[i].cell];
        if (x && x->region == REGION_ARENA && x->first == at && x->last > at &&
            state_made_in(l, c->out[i].cell) < 0)
            bytes += (double)x->bytes;
    }
    for (int i = 0; i < c->nin; i++) {
        const cell *x = c->in[i].cell < 0 ? NULL : &l->cells[c->in[i].cell];
        if (x && x->region == REGION_ARENA && x->last == at && !touches(c->in, i, c->in[i].cell))
            bytes -= (double)x->bytes;
    }
    return bytes;
}

static void move_forward(lowering *l, int from)
{
    call c = l->calls[from];
    int states[8], nstates = 0, to = from;
    for (int i = 0; i < c.nout && nstates < 8; i++) {
        int state = c.out[i].cell < 0 ? -1 : state_made_in(l, c.out[i].cell);
        if (state >= 0)
            states[nstates++] = state;
    }
    while (to > 0 && from - to < FARTHEST && !depends(&c, &l->calls[to - 1], states, nstates))
        to--;
    if (to == from || from - to == FARTHEST)
        return;
    memmove(&l->calls[to + 1], &l->calls[to], (size_t)(from - to) * sizeof c);
    l->calls[to] = c;
}

void lower_schedule(lowering *l)
{
    for (int i = 0; i < l->ncalls; i++)
        if (l->calls[i].kernel < 0)
            return; /* jumps name their targets by number */
    for (int i = 0; i < l->ncalls; i++)
        if (growth(l, &l->calls[i], i) < 0)
            move_forward(l, i);
}
