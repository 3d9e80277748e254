/* lower/memory.c: where everything lies. Lifetimes of cells; results written over operands that
 * nobody reads again; next states written straight into the state. */
#include "lower/lowering.h"

#include <limits.h>
#include <string.h>

int lower_root(const lowering *l, int c)
{
    while (l->cells[c].same >= 0)
        c = l->cells[c].same;
    return c;
}

/* ------------------------------------------------------------------ lifetimes */

static void touch(lowering *l, const operand *x, int at)
{
    if (x->cell < 0)
        return;
    cell *c = &l->cells[lower_root(l, x->cell)];
    c->first = c->used && c->first < at ? c->first : at;
    c->last = c->used && c->last > at ? c->last : at;
    c->used = true;
}

/* What lives across the border of a loop lives as long as the whole loop. */
static bool stretch(lowering *l, const lower_loop *loop)
{
    bool changed = false;
    for (int i = 0; i < l->ncells; i++) {
        cell *c = &l->cells[i];
        bool inside = c->first >= loop->begin && c->last <= loop->end;
        bool apart = c->last < loop->begin || c->first > loop->end;
        if (!c->used || inside || apart)
            continue;
        int first = c->first < loop->begin ? c->first : loop->begin;
        int last = c->last > loop->end ? c->last : loop->end;
        changed = changed || first != c->first || last != c->last;
        c->first = first;
        c->last = last;
    }
    return changed;
}

static void lifetimes(lowering *l)
{
    for (int i = 0; i < l->ncells; i++) {
        l->cells[i].first = l->cells[i].last = 0;
        l->cells[i].used = false;
    }
    for (int i = 0; i < l->ncalls; i++) {
        for (int k = 0; k < l->calls[i].nin; k++)
            touch(l, &l->calls[i].in[k], i);
        for (int k = 0; k < l->calls[i].nout; k++)
            touch(l, &l->calls[i].out[k], i);
    }
    bool changed = true;
    while (changed) {
        changed = false;
        for (int i = 0; i < l->nloops; i++)
            changed = stretch(l, &l->loops[i]) || changed;
    }
    for (int i = 0; i < l->noutputs; i++) /* a step's outputs are read after it */
        if (l->cells[lower_root(l, l->output_at[i].cell)].region != REGION_STATE)
            touch(l, &l->output_at[i], INT_MAX);
}

/* ------------------------------------------------------------------ in place */

static bool whole_cell(const lowering *l, const operand *x)
{
    return x->cell >= 0 && x->offset == 0 && op_bytes(*x) == l->cells[lower_root(l, x->cell)].bytes;
}

/* Whether call c may write output j over input k. */
static bool may_overwrite(const call *c, int k, int j)
{
    const operand *x = &c->in[k], *y = &c->out[j];
    if (c->kernel < 0 || !lower_in_place(c->kernel, k, j))
        return false;
    if (rt_dtype_size(x->dtype) != rt_dtype_size(y->dtype) || op_count(*x) != op_count(*y))
        return false;
    int r = x->rank < y->rank ? x->rank : y->rank; /* the same walk: dims alike but for ones */
    for (int d = 1; d <= r; d++)
        if (x->dims[x->rank - d] != y->dims[y->rank - d])
            return false;
    return true;
}

/* Whether no other operand of the call aliases the memory of input k in another shape than output
 * j. */
static bool only_operand(const lowering *l, const call *c, int k, int j)
{
    int root = lower_root(l, c->in[k].cell);
    for (int i = 0; i < c->nin; i++)
        if (i != k && c->in[i].cell >= 0 && lower_root(l, c->in[i].cell) == root &&
            !(may_overwrite(c, i, j) && c->in[i].offset == c->in[k].offset))
            return false;
    for (int i = 0; i < c->nout; i++)
        if (i != j && c->out[i].cell >= 0 && lower_root(l, c->out[i].cell) == root)
            return false;
    return true;
}

static void merge(lowering *l, int from, int into)
{
    cell *a = &l->cells[from], *b = &l->cells[into];
    b->first = a->first < b->first ? a->first : b->first;
    b->last = a->last > b->last ? a->last : b->last;
    a->same = into;
}

/* Output j of call i goes over the first operand that allows it. */
static void place_output(lowering *l, int i, int j)
{
    const call *c = &l->calls[i];
    for (int k = 0; k < c->nin; k++) {
        if (c->in[k].cell < 0 || !may_overwrite(c, k, j))
            continue;
        int x = lower_root(l, c->in[k].cell), y = lower_root(l, c->out[j].cell);
        bool free_to = x != y && l->cells[x].region == REGION_ARENA && l->cells[x].last == i &&
                       l->cells[y].region == REGION_ARENA && l->cells[y].first == i;
        if (free_to && whole_cell(l, &c->in[k]) && whole_cell(l, &c->out[j]) &&
            only_operand(l, c, k, j)) {
            merge(l, y, x);
            return;
        }
    }
}

static void write_in_place(lowering *l)
{
    for (int i = 0; i < l->ncalls && !l->options->no_inplace; i++)
        for (int j = 0; j < l->calls[i].nout; j++)
            if (l->calls[i].out[j].cell >= 0)
                place_output(l, i, j);
}

/* ------------------------------------------------------------------ next states */

/* Whether cell n, the next value, may lie where the state does: all readers of the old state come
 * before its first writer, or are that writer where it works in place. */
static bool readers_are_before(const lowering *l, int state, int n)
{
    const cell *s = &l->cells[state];
    int writer = l->cells[n].first, j = 0;
    const call *c = &l->calls[writer];
    if (!s->used || s->last < writer)
        return true;
    if (s->last > writer)
        return false;
    while (j < c->nout && (c->out[j].cell < 0 || lower_root(l, c->out[j].cell) != n))
        j++;
    for (int k = 0; k < c->nin && j < c->nout; k++)
        if (c->in[k].cell >= 0 && lower_root(l, c->in[k].cell) == state)
            return may_overwrite(c, k, j) && whole_cell(l, &c->in[k]) && only_operand(l, c, k, j);
    return false;
}

static bool into_state(lowering *l, const lower_state *s, const operand *next)
{
    int n = lower_root(l, next->cell);
    const cell *c = &l->cells[n];
    if (l->options->no_inplace || c->region != REGION_ARENA || !c->used || !whole_cell(l, next) ||
        c->bytes != l->cells[s->cell].bytes || !readers_are_before(l, s->cell, n))
        return false;
    merge(l, n, s->cell);
    return true;
}

/* Next values that are old values of other states are saved before anything is written. */
static mtbal_status save_exchanged(lowering *l, operand *next)
{
    for (int i = 0; i < l->nstates; i++) {
        next[i] = op_of_value(l, l->states[i].next);
        if (next[i].cell < 0)
            return l->status;
        int root = lower_root(l, next[i].cell);
        if (l->cells[root].region == REGION_STATE && root != l->states[i].cell)
            next[i] = op_copy(l, next[i]);
    }
    return l->status;
}

static mtbal_status write_states(lowering *l)
{
    operand *next = mtbal_arena_array(l->arena, (size_t)l->nstates + 1, sizeof *next);
    bool *direct = mtbal_arena_array(l->arena, (size_t)l->nstates + 1, sizeof *direct);
    if (!next || !direct)
        return mtbal_no_memory(l->diag);
    l->label = "next states";
    MTBAL_TRY(save_exchanged(l, next));
    lifetimes(l);
    for (int i = 0; i < l->nstates; i++)
        direct[i] = into_state(l, &l->states[i], &next[i]);
    for (int i = 0; i < l->nstates; i++) {
        const mtbal_value *v = l->states[i].value;
        operand x = next[i], y = lower_place(l, v)->at;
        bool itself = lower_root(l, x.cell) == l->states[i].cell;
        if (x.dtype != y.dtype || op_count(x) != op_count(y))
            return mtbal_fail(l->diag, MTBAL_INVALID, l->model->path, NULL,
                              "state %s and its next value differ in type or size",
                              l->states[i].name);
        if (!direct[i] && !itself)
            op_call1(l, RT_KERNEL_copy, NULL, x, op_view(y, x.rank, x.dims));
    }
    lifetimes(l);
    return l->status;
}

/* ------------------------------------------------------------------ all regions */

/* The other regions: one cell after the other. */
static void line_up(lowering *l, int region)
{
    size_t end = 0;
    for (int i = 0; i < l->ncells; i++) {
        cell *c = &l->cells[i];
        bool kept = c->used || region == REGION_STATE || region == REGION_INPUT;
        if (c->region != region || c->same >= 0 || !kept)
            continue;
        c->offset = end;
        end += lower_rounded(c->bytes);
    }
    l->plan->region_bytes[region] = end;
}

mtbal_status lower_memory(lowering *l)
{
    lifetimes(l);
    MTBAL_TRY(lower_schedule(l));
    lifetimes(l);
    MTBAL_TRY(write_states(l));
    write_in_place(l);
    MTBAL_TRY(lower_pack(l));
    for (int region = REGION_STATE; region < NREGIONS; region++)
        line_up(l, region);
    return MTBAL_OK;
}
