/* train/collect.c: the outputs of a run, gathered for an npz. */
#include "train/train.h"

#include <string.h>

typedef struct column {
    const char *name;
    mtbal_dtype dtype;
    int rank;
    int64_t dims[RT_MAX_RANK]; /* of one step; dims[0] summed when joined */
    bool joined;               /* along the batch axis */
    bool last_only;            /* a next state */
    bool seen;
    size_t used, capacity;
    unsigned char *bytes;
} column;

struct mtbal_collect {
    const mtbal_session *session;
    int64_t steps;
    column *columns;
};

mtbal_collect *mtbal_collect_new(const mtbal_session *session)
{
    mtbal_collect *c = mtbal_arena_alloc(session->arena, sizeof *c);
    if (!c)
        return NULL;
    c->session = session;
    c->columns =
        mtbal_arena_array(session->arena, (size_t)session->noutputs + 1, sizeof *c->columns);
    if (!c->columns)
        return NULL;
    for (int i = 0; i < session->noutputs; i++) {
        c->columns[i].name = session->outputs[i];
        for (int k = 0; k < session->nstates; k++)
            c->columns[i].last_only =
                c->columns[i].last_only || !strcmp(session->outputs[i], session->nexts[k]);
    }
    return c;
}

void mtbal_collect_free(mtbal_collect *collect)
{
    for (int i = 0; collect && i < collect->session->noutputs; i++) {
        mtbal_free(collect->columns[i].bytes);
        collect->columns[i].bytes = NULL;
    }
}

static mtbal_status append(column *c, const void *bytes, size_t size, mtbal_diag *diag)
{
    if (c->used + size > c->capacity) {
        size_t capacity = 2 * (c->used + size);
        unsigned char *bigger = mtbal_realloc(c->bytes, capacity ? capacity : 1);
        if (!bigger)
            return mtbal_no_memory(diag);
        c->bytes = bigger;
        c->capacity = capacity;
    }
    if (size)
        memcpy(c->bytes + c->used, bytes, size);
    c->used += size;
    return MTBAL_OK;
}

static mtbal_status take(column *c, const rt_tensor *t, const mtbal_record *record, int64_t steps,
                         mtbal_diag *diag)
{
    size_t size = (size_t)rt_count(t) * rt_dtype_size(t->dtype);
    c->seen = true;
    bool first = steps == 0 || c->last_only;
    bool same = !first && c->rank == t->rank;
    for (int d = c->joined ? 1 : 0; same && d < t->rank; d++)
        same = c->dims[d] == t->dims[d];
    if (first) {
        c->used = 0;
        c->dtype = (mtbal_dtype)t->dtype;
        c->rank = t->rank;
        memcpy(c->dims, t->dims, sizeof c->dims);
        c->joined = !c->last_only && t->rank > 0 && t->dims[0] == record->samples;
    } else if (!same) {
        return mtbal_fail(diag, MTBAL_UNSUPPORTED, c->name,
                          "run it with --batch 1, or with --inputs",
                          "the output's shape changes from batch to batch");
    } else if (c->joined) {
        c->dims[0] += t->dims[0];
    }
    return append(c, t->data, size, diag);
}

mtbal_status mtbal_collect_step(mtbal_collect *collect, const mtbal_record *record,
                                mtbal_diag *diag)
{
    for (int i = 0; i < collect->session->noutputs; i++) {
        column *c = &collect->columns[i];
        const rt_tensor *t = mtbal_instance_output(record->program->instance, c->name);
        if (t && t->data)
            MTBAL_TRY(take(c, t, record, collect->steps, diag));
    }
    collect->steps++;
    return MTBAL_OK;
}

mtbal_status mtbal_collect_write(mtbal_collect *collect, const char *path, mtbal_diag *diag)
{
    int n = collect->session->noutputs, count = 0;
    mtbal_arena *arena = collect->session->arena;
    mtbal_array *arrays = mtbal_arena_array(arena, (size_t)n + 1, sizeof *arrays);
    int64_t *dims = mtbal_arena_array(arena, (size_t)(n + 1) * (RT_MAX_RANK + 1), sizeof *dims);
    if (!arrays || !dims)
        return mtbal_no_memory(diag);
    for (int i = 0; i < n; i++, dims += RT_MAX_RANK + 1) {
        const column *c = &collect->columns[i];
        bool stacked = collect->steps > 1 && !c->joined && !c->last_only;
        if (!c->seen)
            continue;
        dims[0] = collect->steps;
        memcpy(dims + stacked, c->dims, (size_t)c->rank * sizeof *dims);
        int64_t items = 1;
        for (int d = 0; d < c->rank + stacked; d++)
            items *= dims[d];
        arrays[count++] = (mtbal_array){.name = c->name,
                                        .dtype = c->dtype,
                                        .rank = c->rank + stacked,
                                        .dims = dims,
                                        .count = items,
                                        .bytes = c->used,
                                        .data = c->bytes};
    }
    return mtbal_npz_write(path, count, arrays, false, diag);
}
