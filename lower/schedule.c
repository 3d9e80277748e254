/* lower/schedule.c: the order of calls. They come in the order of the file, where all updates of a
 * training step stand at the end, so that every gradient would have to be kept until then. A call
 * that frees more memory than it takes is moved forward, to where its operands are there: an update
 * right behind the gradient, which is still in the cache. */
#include "lower/lowering.h"

#include <string.h>

/* The new order is a list; labels say which of two calls comes first. */
typedef struct order {
    lowering *l;
    int *next, *prev;     /* by call; [ncalls]: the list's head */
    int64_t *label;       /* by call and for the head; ascending along the list */
    int *writer, *reader; /* by cell: the last of the calls so far that writes, reads it, or -1 */
    int *made;            /* by cell: the cell of the state whose next value lies there, or -1 */
    int *seen;            /* by cell: the last call + 1 that was looked at for it */
} order;

/* ------------------------------------------------------------------ the list */

static void relabel(order *o)
{
    int head = o->l->ncalls;
    int64_t label = 0;
    for (int i = o->next[head]; i != head; i = o->next[i])
        o->label[i] = label += (int64_t)1 << 32;
}

static void insert(order *o, int call, int behind)
{
    int head = o->l->ncalls, next = o->next[behind];
    o->prev[call] = behind;
    o->next[call] = next;
    o->next[behind] = o->prev[next] = call;
    int64_t from = behind == head ? 0 : o->label[behind];
    int64_t to = next == head ? from + ((int64_t)1 << 33) : o->label[next];
    o->label[call] = from + (to - from) / 2;
    if (o->label[call] == from)
        relabel(o);
}

static int later(const order *o, int a, int b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return o->label[a] > o->label[b] ? a : b;
}

/* ------------------------------------------------------------------ one call */

/* The last call that this one must stay behind, or -1. Next states are written in place once all
 * others have read the old ones. */
static int last_needed(const order *o, const call *c)
{
    int last = -1;
    for (int i = 0; i < c->nin; i++)
        if (c->in[i].cell >= 0)
            last = later(o, last, o->writer[c->in[i].cell]);
    for (int i = 0; i < c->nout; i++) {
        int cell = c->out[i].cell, state = cell < 0 ? -1 : o->made[cell];
        if (cell >= 0)
            last = later(o, later(o, last, o->writer[cell]), o->reader[cell]);
        if (state >= 0)
            last = later(o, last, o->reader[state]);
    }
    return last;
}

/* Memory that lives on behind the call minus what ends with it. Lifetimes are those of the order as
 * it was: `at` is the call's place in that. */
static double growth(order *o, const call *c, int at)
{
    const lowering *l = o->l;
    double bytes = 0;
    for (int i = 0; i < c->nout; i++) {
        const cell *x = c->out[i].cell < 0 ? NULL : &l->cells[c->out[i].cell];
        if (x && x->region == REGION_ARENA && x->first == at && x->last > at &&
            o->made[c->out[i].cell] < 0)
            bytes += (double)x->bytes;
    }
    for (int i = 0; i < c->nin; i++) {
        int at_cell = c->in[i].cell;
        const cell *x = at_cell < 0 ? NULL : &l->cells[at_cell];
        if (x && x->region == REGION_ARENA && x->last == at && o->seen[at_cell] != at + 1)
            bytes -= (double)x->bytes;
        if (x)
            o->seen[at_cell] = at + 1;
    }
    return bytes;
}

static void put(order *o, int i)
{
    const call *c = &o->l->calls[i];
    int head = o->l->ncalls, last = growth(o, c, i) < 0 ? last_needed(o, c) : o->prev[head];
    insert(o, i, last < 0 ? head : last);
    for (int k = 0; k < c->nin; k++)
        if (c->in[k].cell >= 0)
            o->reader[c->in[k].cell] = later(o, o->reader[c->in[k].cell], i);
    for (int k = 0; k < c->nout; k++)
        if (c->out[k].cell >= 0)
            o->writer[c->out[k].cell] = later(o, o->writer[c->out[k].cell], i);
}

/* ------------------------------------------------------------------ all calls */

static void note_states(order *o)
{
    const lowering *l = o->l;
    for (int i = l->nstates - 1; i >= 0; i--) {
        const place *p = &l->places[l->states[i].next->id];
        if (p->placed && p->at.cell >= 0)
            o->made[p->at.cell] = l->states[i].cell;
    }
}

static bool begin(order *o, lowering *l)
{
    size_t n = (size_t)l->ncalls + 1, ncells = (size_t)l->ncells + 1;
    o->l = l;
    o->next = mtbal_arena_array(l->arena, n, sizeof *o->next);
    o->prev = mtbal_arena_array(l->arena, n, sizeof *o->prev);
    o->label = mtbal_arena_array(l->arena, n, sizeof *o->label);
    o->writer = mtbal_arena_array(l->arena, ncells, sizeof *o->writer);
    o->reader = mtbal_arena_array(l->arena, ncells, sizeof *o->reader);
    o->made = mtbal_arena_array(l->arena, ncells, sizeof *o->made);
    o->seen = mtbal_arena_array(l->arena, ncells, sizeof *o->seen);
    if (!o->next || !o->prev || !o->label || !o->writer || !o->reader || !o->made || !o->seen)
        return false;
    for (size_t i = 0; i < ncells; i++)
        o->writer[i] = o->reader[i] = o->made[i] = -1;
    o->next[n - 1] = o->prev[n - 1] = (int)n - 1;
    note_states(o);
    return true;
}

mtbal_status lower_schedule(lowering *l)
{
    order o = {0};
    for (int i = 0; i < l->ncalls; i++)
        if (l->calls[i].kernel < 0)
            return MTBAL_OK; /* jumps name their targets by number */
    call *sorted = mtbal_arena_array(l->arena, (size_t)l->ncalls + 1, sizeof *sorted);
    if (!sorted || !begin(&o, l))
        return mtbal_no_memory(l->diag);
    for (int i = 0; i < l->ncalls; i++)
        put(&o, i);
    int n = 0;
    for (int i = o.next[l->ncalls]; i != l->ncalls; i = o.next[i])
        sorted[n++] = l->calls[i];
    if (n)
        memcpy(l->calls, sorted, (size_t)n * sizeof *sorted);
    return MTBAL_OK;
}
