/* lower/packing.c: where the cells of the arena lie: cells that live at the same time lie apart.
 * Up to some thousands of cells six ways are tried, each of which looks at all that is placed; of
 * more cells only the largest are placed so, and the others one after the other in the order of
 * their births, as an allocator does it. */
#include "lower/lowering.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 3000, LARGEST = 1000 };

/* Under AddressSanitizer a gap that nobody may touch lies behind each cell. */
size_t lower_rounded(size_t bytes)
{
    return (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN + (RT_SANITIZED ? PLAN_ALIGN : 0);
}

typedef struct sorted_cell {
    size_t bytes;
    int first, last, index;
} sorted_cell;

typedef struct packing {
    const lowering *l;
    int count;
    sorted_cell *sorted;
    int *order;            /* cells, in the order in which they are placed */
    int *placed;           /* by offset */
    size_t *offset, *best; /* by cell */
} packing;

/* ------------------------------------------------------------------ orders */

static int by_size(const void *a, const void *b)
{
    const sorted_cell *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    int dx = x->last - x->first, dy = y->last - y->first;
    return dx != dy ? (dx > dy ? -1 : 1) : x->index - y->index;
}

static int by_length(const void *a, const void *b)
{
    const sorted_cell *x = a, *y = b;
    int dx = x->last - x->first, dy = y->last - y->first;
    if (dx != dy)
        return dx > dy ? -1 : 1;
    return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1) : x->index - y->index;
}

static int by_start(const void *a, const void *b)
{
    const sorted_cell *x = a, *y = b;
    if (x->first != y->first)
        return x->first - y->first;
    return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1) : x->index - y->index;
}

static int by_end(const void *a, const void *b)
{
    const sorted_cell *x = a, *y = b;
    return x->last != y->last ? (x->last > y->last ? 1 : -1) : x->index - y->index;
}

/* ------------------------------------------------------------------ all placed cells looked at */

/* The lowest gap that is large enough among the placed cells that live at the same time (the
 * tightest one, when `tight`). Returns where in `placed` the cell goes. */
static int find_gap(const packing *p, int n, int index, bool tight, size_t *offset)
{
    const cell *c = &p->l->cells[index];
    size_t end = 0, size = lower_rounded(c->bytes), least = SIZE_MAX, at = SIZE_MAX;
    for (int i = 0; i < n; i++) {
        const cell *o = &p->l->cells[p->placed[i]];
        if (o->last < c->first || o->first > c->last)
            continue;
        size_t start = p->offset[p->placed[i]], stop = start + lower_rounded(o->bytes);
        if (start >= end && start - end >= size && start - end < least) {
            at = end;
            least = tight ? start - end : 0;
        }
        end = stop > end ? stop : end;
    }
    *offset = at == SIZE_MAX ? end : at;
    int slot = n;
    while (slot > 0 && p->offset[p->placed[slot - 1]] > *offset)
        slot--;
    return slot;
}

static size_t pack_once(packing *p, bool tight)
{
    size_t total = 0;
    for (int n = 0; n < p->count; n++) {
        int index = p->order[n];
        size_t offset;
        int slot = find_gap(p, n, index, tight, &offset);
        memmove(&p->placed[slot + 1], &p->placed[slot], (size_t)(n - slot) * sizeof *p->placed);
        p->placed[slot] = index;
        p->offset[index] = offset;
        size_t end = offset + lower_rounded(p->l->cells[index].bytes);
        total = end > total ? end : total;
    }
    return total;
}

/* The best of six ways goes to p->best. Returns the bytes that it takes. */
static size_t pack_all_ways(packing *p, size_t bound)
{
    static int (*const orders[])(const void *, const void *) = {by_size, by_length, by_start};
    size_t best = SIZE_MAX;
    for (int way = 0; way < 6 && best > bound; way++) {
        qsort(p->sorted, (size_t)p->count, sizeof *p->sorted, orders[way / 2]);
        for (int i = 0; i < p->count; i++)
            p->order[i] = p->sorted[i].index;
        size_t total = pack_once(p, way % 2 == 0);
        if (total >= best)
            continue;
        best = total;
        for (int i = 0; i < p->count; i++)
            p->best[p->order[i]] = p->offset[p->order[i]];
    }
    return p->count ? best : 0;
}

/* ------------------------------------------------------------------ as an allocator does it */

/* Pieces of memory side by side, free or not; free neighbours are joined. Free ones are listed by
 * size: eight lists from each power of two to the next (as in TLSF, Masmano et al. 2004). */
enum { STEPS = 8, LISTS = 64 * STEPS, LOOKS = 16 };

typedef struct piece {
    size_t offset, size;
    int below, above;    /* neighbours, or -1 */
    int smaller, larger; /* in the list of free ones, or -1 */
    bool is_free;
} piece;

typedef struct heap {
    piece *pieces;
    int count, top; /* top: the last one, which is never free */
    int spare;      /* pieces that are not in use, listed by `above`, or -1 */
    int list[LISTS];
    size_t end, most; /* of all pieces; and the most that it has been */
} heap;

static int list_of(size_t size)
{
    size_t units = size / PLAN_ALIGN;
    int power = 0;
    while (units >> power >= 2 * STEPS)
        power++;
    return power * STEPS + (int)(units >> power);
}

static void enlist(heap *h, int i)
{
    piece *p = &h->pieces[i];
    int *first = &h->list[list_of(p->size)];
    p->is_free = true;
    p->smaller = -1;
    p->larger = *first;
    if (*first >= 0)
        h->pieces[*first].smaller = i;
    *first = i;
}

static void delist(heap *h, int i)
{
    piece *p = &h->pieces[i];
    p->is_free = false;
    if (p->larger >= 0)
        h->pieces[p->larger].smaller = p->smaller;
    *(p->smaller >= 0 ? &h->pieces[p->smaller].larger : &h->list[list_of(p->size)]) = p->larger;
}

static int new_piece(heap *h, size_t offset, size_t size, int below, int above)
{
    int i = h->spare >= 0 ? h->spare : h->count++;
    if (h->spare >= 0)
        h->spare = h->pieces[i].above;
    h->pieces[i] = (piece){offset, size, below, above, -1, -1, false};
    if (below >= 0)
        h->pieces[below].above = i;
    if (above >= 0)
        h->pieces[above].below = i;
    return i;
}

/* Takes piece i, which is not listed, out from between its neighbours. */
static void drop_piece(heap *h, int i)
{
    piece *p = &h->pieces[i];
    if (p->below >= 0)
        h->pieces[p->below].above = p->above;
    if (p->above >= 0)
        h->pieces[p->above].below = p->below;
    else
        h->top = p->below;
    p->above = h->spare;
    h->spare = i;
}

/* A free piece of at least that size, the tightest of those that are looked at; -1: none. */
static int find_free(const heap *h, size_t size)
{
    int found = -1, looks = 0;
    for (int list = list_of(size); list < LISTS && found < 0; list++)
        for (int i = h->list[list]; i >= 0 && looks < LOOKS; i = h->pieces[i].larger, looks++)
            if (h->pieces[i].size >= size &&
                (found < 0 || h->pieces[i].size < h->pieces[found].size))
                found = i;
    return found;
}

static int allocate(heap *h, size_t size)
{
    int i = find_free(h, size);
    if (i < 0) {
        i = new_piece(h, h->end, size, h->top, -1);
        h->top = i;
        h->end += size;
        h->most = h->end > h->most ? h->end : h->most;
        return i;
    }
    delist(h, i);
    size_t rest = h->pieces[i].size - size;
    if (rest) {
        h->pieces[i].size = size;
        enlist(h, new_piece(h, h->pieces[i].offset + size, rest, i, h->pieces[i].above));
    }
    return i;
}

static void release(heap *h, int i)
{
    int below = h->pieces[i].below, above = h->pieces[i].above;
    if (below >= 0 && h->pieces[below].is_free) {
        delist(h, below);
        h->pieces[below].size += h->pieces[i].size;
        drop_piece(h, i);
        i = below;
    }
    if (above >= 0 && h->pieces[above].is_free) {
        delist(h, above);
        h->pieces[i].size += h->pieces[above].size;
        drop_piece(h, above);
    }
    if (h->pieces[i].above >= 0) {
        enlist(h, i);
        return;
    }
    h->end = h->pieces[i].offset;
    drop_piece(h, i);
}

/* The cells p->sorted[0..p->count) from offset `base` on, into `to`. Returns where they end; 0: out
 * of memory. */
static size_t pack_by_birth(const packing *p, size_t base, size_t *to)
{
    mtbal_arena *arena = p->l->arena;
    size_t n = (size_t)p->count;
    heap h = {.top = -1, .spare = -1};
    int *piece_of = mtbal_arena_array(arena, (size_t)p->l->ncells + 1, sizeof *piece_of);
    sorted_cell *ends = mtbal_arena_copy(arena, p->sorted, n * sizeof *ends);
    h.pieces = mtbal_arena_array(arena, 2 * n + 1, sizeof *h.pieces);
    if (!piece_of || !ends || !h.pieces)
        return 0;
    for (int i = 0; i < LISTS; i++)
        h.list[i] = -1;
    qsort(p->sorted, n, sizeof *p->sorted, by_start);
    qsort(ends, n, sizeof *ends, by_end);
    for (size_t i = 0, gone = 0; i < n; i++) {
        const sorted_cell *c = &p->sorted[i];
        while (ends[gone].last < c->first)
            release(&h, piece_of[ends[gone++].index]);
        piece_of[c->index] = allocate(&h, lower_rounded(c->bytes));
        to[c->index] = base + h.pieces[piece_of[c->index]].offset;
    }
    return base + h.most;
}

/* ------------------------------------------------------------------ the arena */

static bool in_arena(const cell *c)
{
    return c->region == REGION_ARENA && c->same < 0 && c->used && c->bytes > 0;
}

/* The largest sum of cells that live at one call. */
static mtbal_status lower_bound(lowering *l, size_t *bound)
{
    size_t *grown = mtbal_arena_array(l->arena, (size_t)l->ncalls + 2, 2 * sizeof *grown);
    if (!grown)
        return mtbal_no_memory(l->diag);
    size_t *shrunk = grown + l->ncalls + 2, now = 0;
    for (int i = 0; i < l->ncells; i++)
        if (in_arena(&l->cells[i])) {
            grown[l->cells[i].first] += lower_rounded(l->cells[i].bytes);
            shrunk[l->cells[i].last + 1] += lower_rounded(l->cells[i].bytes);
        }
    *bound = 0;
    for (int i = 0; i < l->ncalls; i++) {
        now = now + grown[i] - shrunk[i];
        *bound = now > *bound ? now : *bound;
    }
    return MTBAL_OK;
}

/* More cells than can be compared with each other: the better of two ways. */
static mtbal_status pack_many(packing *p, size_t bound, size_t *total)
{
    int n = p->count;
    sorted_cell *all = p->sorted;
    size_t ended = pack_by_birth(p, 0, p->offset);
    if (!ended)
        return mtbal_no_memory(p->l->diag);
    *total = ended;
    memcpy(p->best, p->offset, ((size_t)p->l->ncells + 1) * sizeof *p->best);
    if (ended <= bound)
        return MTBAL_OK;
    size_t *other = mtbal_arena_array(p->l->arena, (size_t)p->l->ncells + 1, sizeof *other);
    if (!other)
        return mtbal_no_memory(p->l->diag);
    qsort(all, (size_t)n, sizeof *all, by_size);
    packing large = *p, small = *p;
    large.best = other;
    large.count = LARGEST;
    small.sorted = all + LARGEST;
    small.count = n - LARGEST;
    ended = pack_by_birth(&small, pack_all_ways(&large, 0), other);
    if (!ended)
        return mtbal_no_memory(p->l->diag);
    if (ended < *total) {
        *total = ended;
        p->best = other;
    }
    return MTBAL_OK;
}

mtbal_status lower_pack(lowering *l)
{
    packing p = {.l = l};
    size_t n = (size_t)l->ncells + 1, total = 0, bound = 0;
    p.sorted = mtbal_arena_array(l->arena, n, sizeof *p.sorted);
    p.order = mtbal_arena_array(l->arena, n, sizeof *p.order);
    p.placed = mtbal_arena_array(l->arena, n, sizeof *p.placed);
    p.offset = mtbal_arena_array(l->arena, n, sizeof *p.offset);
    p.best = mtbal_arena_array(l->arena, n, sizeof *p.best);
    if (!p.sorted || !p.order || !p.placed || !p.offset || !p.best)
        return mtbal_no_memory(l->diag);
    MTBAL_TRY(lower_bound(l, &bound));
    for (int i = 0; i < l->ncells; i++)
        if (in_arena(&l->cells[i]))
            p.sorted[p.count++] =
                (sorted_cell){l->cells[i].bytes, l->cells[i].first, l->cells[i].last, i};
    if (p.count > MOST)
        MTBAL_TRY(pack_many(&p, bound, &total));
    else
        total = pack_all_ways(&p, bound);
    for (int i = 0; i < p.count; i++)
        l->cells[p.sorted[i].index].offset = p.best[p.sorted[i].index];
    l->plan->region_bytes[REGION_ARENA] = total;
    l->plan->info.arena_lower_bound = bound;
    return MTBAL_OK;
}
