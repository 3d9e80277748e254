/* train/data.c: a user's npz as batches. */
#include "train/train.h"

#include <string.h>

enum { DEFAULT_BATCH = 32 };

/* "[100,3,24,32]" into a buffer. */
static const char *shape_text(char *buffer, size_t size, int rank, const int64_t *dims)
{
    size_t n = (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < rank && n < size; i++)
        n += (size_t)snprintf(buffer + n, size - n, "%s%lld", i ? "," : "", (long long)dims[i]);
    if (n < size)
        snprintf(buffer + n, size - n, "]");
    return buffer;
}

static const char *feed_text(char *buffer, size_t size, const mtbal_feed *feed)
{
    size_t n = (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < feed->rank && n < size; i++) {
        const mtbal_dim *d = &feed->dims[i];
        const char *comma = i ? "," : "";
        if (d->size >= 0)
            n += (size_t)snprintf(buffer + n, size - n, "%s%lld", comma, (long long)d->size);
        else
            n += (size_t)snprintf(buffer + n, size - n, "%s%s", comma, d->symbol ? d->symbol : "?");
    }
    if (n < size)
        snprintf(buffer + n, size - n, "]");
    return buffer;
}

static mtbal_status check_array(const mtbal_data *data, const mtbal_feed *feed,
                                const mtbal_array *array, mtbal_diag *diag)
{
    char have[128], want[128];
    if (array->dtype != feed->dtype)
        return mtbal_fail(diag, MTBAL_INVALID, data->path, "convert the array before saving it",
                          "array %s is %s, but the model's input is %s", array->name,
                          mtbal_dtype_name(array->dtype), mtbal_dtype_name(feed->dtype));
    bool fits = feed->rank < 0 || array->rank == feed->rank;
    for (int d = data->whole ? 0 : 1; fits && d < feed->rank; d++)
        fits = feed->dims[d].size < 0 || feed->dims[d].size == array->dims[d];
    if (fits && (array->rank > 0 || data->whole) && array->rank <= RT_MAX_RANK)
        return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_INVALID, data->path,
                      data->whole ? "give one array per input, in the input's own shape"
                                  : "samples go along the first axis; an input without a sample "
                                    "axis is given by --set NAME=VALUE",
                      "array %s has shape %s, but the model's input wants %s", array->name,
                      shape_text(have, sizeof have, array->rank, array->dims),
                      feed_text(want, sizeof want, feed));
}

static mtbal_status missing_array(const mtbal_data *data, const mtbal_feed *feed, mtbal_diag *diag)
{
    char list[512] = "";
    size_t n = 0;
    for (int i = 0; i < data->npz->count && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "",
                              data->npz->arrays[i].name);
    return mtbal_fail(diag, MTBAL_INVALID, data->path,
                      "every input of the model needs an array of its name, or a --set NAME=VALUE",
                      "no array for the model's input %s (the file has: %s)", feed->name, list);
}

static mtbal_status take_arrays(const mtbal_session *s, mtbal_data *data, mtbal_diag *diag)
{
    data->samples = data->whole || s->nfeeds == 0 ? 1 : -1;
    for (int i = 0; i < s->nfeeds; i++) {
        const mtbal_feed *feed = &s->feeds[i];
        const mtbal_array *array = mtbal_npz_find(data->npz, feed->name);
        if (!array)
            return missing_array(data, feed, diag);
        MTBAL_TRY(check_array(data, feed, array, diag));
        data->arrays[i] = array;
        if (data->whole)
            continue;
        if (data->samples >= 0 && array->dims[0] != data->samples)
            return mtbal_fail(diag, MTBAL_INVALID, data->path,
                              "all arrays need the same number of samples along the first axis",
                              "array %s has %lld samples, array %s has %lld", array->name,
                              (long long)array->dims[0], data->arrays[0]->name,
                              (long long)data->samples);
        data->samples = array->dims[0];
    }
    if (data->samples == 0)
        return mtbal_fail(diag, MTBAL_INVALID, data->path, NULL, "there are no samples");
    return MTBAL_OK;
}

/* A batch size that the model fixes; else the one asked for, or the default. */
static mtbal_status choose_batch(const mtbal_session *s, mtbal_data *data, int64_t batch,
                                 mtbal_diag *diag)
{
    int64_t fixed = -1;
    const char *by = NULL;
    for (int i = 0; i < s->nfeeds; i++)
        if (s->feeds[i].rank > 0 && s->feeds[i].dims[0].size >= 0) {
            fixed = s->feeds[i].dims[0].size;
            by = s->feeds[i].name;
        }
    if (data->whole) {
        data->batch = 1;
        return MTBAL_OK;
    }
    if (by && batch > 0 && batch != fixed)
        return mtbal_fail(diag, MTBAL_USAGE, s->path,
                          "leave --batch out, or export the model with a dynamic batch axis",
                          "--batch %lld, but input %s has a fixed first axis of %lld",
                          (long long)batch, by, (long long)fixed);
    data->batch = by ? fixed : batch > 0 ? batch : DEFAULT_BATCH;
    if (by && fixed > data->samples)
        return mtbal_fail(diag, MTBAL_INVALID, data->path, "add samples",
                          "%lld samples, but the model's batch is fixed at %lld",
                          (long long)data->samples, (long long)fixed);
    if (data->batch > data->samples)
        data->batch = data->samples;
    return data->batch > 0 ? MTBAL_OK
                           : mtbal_fail(diag, MTBAL_INVALID, s->path, NULL, "a batch of 0 samples");
}

mtbal_status mtbal_data_open(const mtbal_session *session, const char *path, bool whole,
                             int64_t batch, mtbal_data **result, mtbal_diag *diag)
{
    *result = NULL;
    mtbal_npz *npz = NULL;
    if (path)
        MTBAL_TRY(mtbal_npz_read(path, &npz, diag));
    else if (session->nfeeds)
        return mtbal_fail(diag, MTBAL_USAGE, session->path,
                          "give --data D.npz (samples along the first axis) or --inputs X.npz",
                          "the model's input %s needs data", session->feeds[0].name);
    mtbal_arena *arena = npz ? npz->arena : session->arena;
    mtbal_data *data = mtbal_arena_alloc(arena, sizeof *data);
    mtbal_status status = MTBAL_OK;
    if (!data || !(data->arrays =
                       mtbal_arena_array(arena, (size_t)session->nfeeds + 1, sizeof *data->arrays)))
        status = mtbal_no_memory(diag);
    if (status == MTBAL_OK) {
        data->path = path;
        data->npz = npz;
        data->whole = whole || !path;
        status = take_arrays(session, data, diag);
    }
    if (status == MTBAL_OK)
        status = choose_batch(session, data, batch, diag);
    if (status != MTBAL_OK) {
        mtbal_npz_free(npz);
        return status;
    }
    *result = data;
    return MTBAL_OK;
}

void mtbal_data_close(mtbal_data *data)
{
    if (data)
        mtbal_npz_free(data->npz);
}

void mtbal_data_binds(const mtbal_session *session, const mtbal_data *data, int64_t n,
                      mtbal_bind *binds)
{
    for (int i = 0; i < session->nfeeds; i++) {
        const mtbal_array *array = data->arrays[i];
        binds[i] = (mtbal_bind){.name = session->feeds[i].name, .rank = array->rank};
        for (int d = 0; d < array->rank; d++)
            binds[i].dims[d] = d == 0 && !data->whole ? n : array->dims[d];
    }
}

void mtbal_data_load(const mtbal_session *session, const mtbal_data *data, const int64_t *order,
                     int64_t n, mtbal_program *program)
{
    for (int i = 0; i < session->nfeeds; i++) {
        const mtbal_array *array = data->arrays[i];
        rt_tensor *input = mtbal_instance_input(program->instance, session->feeds[i].name);
        if (!input || !input->data)
            continue;
        if (data->whole) {
            memcpy(input->data, array->data, array->bytes);
            continue;
        }
        size_t row = array->bytes / (size_t)data->samples;
        for (int64_t k = 0; k < n; k++)
            memcpy((char *)input->data + (size_t)k * row,
                   (const char *)array->data + (size_t)(order ? order[k] : k) * row, row);
    }
}

/* SplitMix64 (Steele, Lea, Flood 2014): the next value of a counter-based generator. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void mtbal_data_order(const mtbal_data *data, bool shuffle, uint64_t seed, int64_t epoch,
                      int64_t *order)
{
    for (int64_t i = 0; i < data->samples; i++)
        order[i] = i;
    if (!shuffle)
        return;
    uint64_t state = seed * 0xD1342543DE82EF95u + (uint64_t)epoch;
    for (int64_t i = data->samples - 1; i > 0; i--) { /* Fisher-Yates */
        int64_t j = (int64_t)(next_random(&state) % (uint64_t)(i + 1));
        int64_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

void mtbal_data_draw(const mtbal_data *data, uint64_t seed, int64_t draw, int64_t n, int64_t *order)
{
    uint64_t state = ~seed * 0xD1342543DE82EF95u + (uint64_t)draw;
    state = next_random(&state); /* neighbouring draws must not overlap */
    for (int64_t i = 0; i < n; i++)
        order[i] = (int64_t)(next_random(&state) % (uint64_t)data->samples);
}
