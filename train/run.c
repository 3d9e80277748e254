/* train/run.c: one step of a program. What went wrong in it is said in terms of the user's data. */
#include "train/train.h"

/* Where the value of a fault stands in the data: an element of the batch's n samples of a feed. */
typedef struct found {
    const mtbal_array *array;
    int64_t sample;
} found;

/* Whether the fault's tensor is this feed, element by element: same size and same value there. */
static bool is_feed(const mtbal_data *data, const mtbal_array *array, const int64_t *order,
                    int64_t n, const rt_fault *fault, found *at)
{
    int64_t samples = array->rank > 0 ? array->dims[0] : 1;
    int64_t used = data->whole ? samples : n;
    if (samples <= 0 || used <= 0 || array->count % samples)
        return false;
    int64_t row = array->count / samples;
    if (row == 0 || fault->count != used * row)
        return false;
    int64_t k = fault->element / row;
    int64_t sample = order && !data->whole ? order[k] : k;
    const mtbal_tensor values = {.dtype = array->dtype, .count = array->count, .data = array->data};
    if (mtbal_tensor_f64(&values, sample * row + fault->element % row) != (double)fault->value)
        return false;
    *at = (found){array, sample};
    return true;
}

static mtbal_status failed(const mtbal_session *s, const mtbal_data *data,
                           const mtbal_program *program, const int64_t *order, int64_t n,
                           mtbal_diag *diag)
{
    static const char hint[] = "rows and classes count from 0; is the model made for these data?";
    const char *label;
    const rt_fault *fault = mtbal_instance_fault(program->instance, &label);
    char text[512], place[160];
    found at = {NULL, 0};
    bool known = false;
    mtbal_fault_text(fault, label, text, sizeof text);
    for (int i = 0; i < s->nfeeds && !known; i++)
        known = is_feed(data, data->arrays[i], order, n, fault, &at);
    if (known)
        snprintf(place, sizeof place, "sample %lld, array %.80s", (long long)at.sample,
                 at.array->name);
    else if (!data->whole && fault->count == n)
        snprintf(place, sizeof place, "sample %lld",
                 (long long)(order ? order[fault->element] : fault->element));
    else
        snprintf(place, sizeof place, "element %lld of %lld", (long long)fault->element,
                 (long long)fault->count);
    return mtbal_fail(diag, MTBAL_INVALID, data->path ? data->path : s->path, hint, "%s, %s", text,
                      place);
}

mtbal_status mtbal_program_run(const mtbal_session *session, const mtbal_data *data,
                               const int64_t *order, int64_t n, uint64_t seed,
                               mtbal_program *program, mtbal_diag *diag)
{
    mtbal_data_load(session, data, order, n, program);
    mtbal_status status = mtbal_instance_run(program->instance, seed);
    if (status == MTBAL_INVALID)
        return failed(session, data, program, order, n, diag);
    return status == MTBAL_INTERRUPTED ? mtbal_interrupted(diag) : status;
}
