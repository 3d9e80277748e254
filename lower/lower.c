/* lower/lower.c: the sequence of steps, and small helpers of all of them. */
#include "lower/lowering.h"

#include <string.h>

/* ------------------------------------------------------------------ helpers */

const char *lower_label(const mtbal_node *node)
{
    if (node->name && *node->name)
        return node->name;
    for (int i = 0; i < node->nout; i++)
        if (node->out[i])
            return node->out[i]->name;
    return node->op;
}

mtbal_status lower_refuse(lowering *l, const mtbal_node *node, const char *format, ...)
{
    size_t n = l->refusals_length, room = sizeof l->refusals;
    va_list args;
    l->nrefused++;
    if (n + 200 < room) {
        n += (size_t)snprintf(l->refusals + n, room - n, "%s%.80s (%s%s%s): ", n ? "\n" : "",
                              lower_label(node), node->domain, *node->domain ? "." : "", node->op);
        va_start(args, format);
        if (n < room)
            n += (size_t)vsnprintf(l->refusals + n, room - n, format, args);
        va_end(args);
        l->refusals_length = n < room ? n : room - 1;
    }
    for (int i = 0; i < node->nout; i++) {
        place *p = node->out[i] ? lower_place(l, node->out[i]) : NULL;
        if (node->out[i] && !p)
            return mtbal_no_memory(l->diag);
        if (p)
            p->refused = true;
    }
    return MTBAL_OK;
}

bool lower_grow(void **array, int *capacity, int count, size_t size)
{
    if (count < *capacity)
        return true;
    int more = *capacity ? 2 * *capacity : 64;
    while (more <= count)
        more *= 2;
    void *bigger = mtbal_realloc(*array, (size_t)more * size);
    if (!bigger)
        return false;
    memset((char *)bigger + (size_t)*capacity * size, 0, (size_t)(more - *capacity) * size);
    *array = bigger;
    *capacity = more;
    return true;
}

place *lower_place(lowering *l, const mtbal_value *value)
{
    if (!lower_grow((void **)&l->places, &l->nplaces, value->id, sizeof *l->places))
        return NULL;
    return &l->places[value->id];
}

mtbal_value *lower_resolve(lowering *l, mtbal_value *value)
{
    while (value && value->id < l->nplaces && l->places[value->id].instead)
        value = l->places[value->id].instead;
    return value;
}

bool lower_is_refused(lowering *l, const mtbal_value *value)
{
    const place *p = lower_place(l, value);
    return p && p->refused;
}

bool lower_is_constant(const mtbal_value *value)
{
    return value->tensor && !value->is_input && value->tensor->dtype != MTBAL_STRING;
}

const mtbal_tensor *lower_constant(lowering *l, const mtbal_value *value)
{
    if (!value || !lower_is_constant(value))
        return NULL;
    mtbal_status status = mtbal_tensor_load(l->model, value->tensor, l->diag);
    if (status != MTBAL_OK) {
        l->status = status;
        return NULL;
    }
    return value->tensor->data || value->tensor->bytes == 0 ? value->tensor : NULL;
}

/* Nodes of a function's body carry the function's opset in `mark` (functions.c). */
int64_t lower_opset(const lowering *l, const mtbal_node *node)
{
    return node->mark > 0 ? node->mark : mtbal_opset_of(l->model, "");
}

/* ------------------------------------------------------------------ the steps */

static mtbal_status report_refusals(const lowering *l)
{
    if (!l->nrefused)
        return MTBAL_OK;
    return mtbal_fail(l->diag, MTBAL_UNSUPPORTED, l->model->path,
                      "docs/operators.md lists what the runtime can do",
                      "%d node%s cannot run here:\n%s", l->nrefused, l->nrefused > 1 ? "s" : "",
                      l->refusals);
}

static mtbal_status clear_marks(mtbal_node *node, void *context)
{
    (void)context;
    node->mark = 0;
    return MTBAL_OK;
}

static mtbal_status run_steps(lowering *l)
{
    MTBAL_TRY(mtbal_graph_walk(l->graph, clear_marks, NULL));
    MTBAL_TRY(lower_choose(l));
    MTBAL_TRY(lower_keep_live(l));
    MTBAL_TRY(lower_bind(l));
    MTBAL_TRY(lower_elaborate(l, l->graph));
    MTBAL_TRY(lower_select_outputs(l));
    MTBAL_TRY(report_refusals(l));
    MTBAL_TRY(lower_keep_live(l));
    MTBAL_TRY(lower_fuse(l));
    MTBAL_TRY(lower_place_inputs(l));
    MTBAL_TRY(lower_emit_graph(l, l->graph));
    MTBAL_TRY(report_refusals(l));
    MTBAL_TRY(lower_finish(l));
    MTBAL_TRY(lower_memory(l));
    return lower_make_plan(l);
}

mtbal_status mtbal_lower(mtbal_model *model, const mtbal_lower_options *options, mtbal_plan **plan,
                         mtbal_diag *diag)
{
    static const mtbal_lower_options none = {.noutputs = -1};
    *plan = NULL;
    lowering l = {.model = model,
                  .graph = model->graph,
                  .options = options ? options : &none,
                  .arena = mtbal_arena_new(),
                  .diag = diag};
    mtbal_arena *owner = mtbal_arena_new();
    l.plan = owner ? mtbal_arena_alloc(owner, sizeof *l.plan) : NULL;
    mtbal_status status = MTBAL_NOMEM;
    if (l.plan) {
        l.plan->arena = owner;
        if (l.arena)
            status = run_steps(&l);
    } else {
        mtbal_arena_free(owner);
    }
    if (status == MTBAL_UNSUPPORTED && mtbal_arena_failed(model->arena))
        status = MTBAL_NOMEM; /* a shape is unknown only because there was no room for it */
    if (status == MTBAL_NOMEM)
        mtbal_no_memory(diag);
    if (status == MTBAL_OK)
        *plan = l.plan;
    else
        mtbal_plan_free(l.plan);
    mtbal_free(l.places);
    mtbal_free(l.cells);
    mtbal_free(l.calls);
    mtbal_free(l.loops);
    mtbal_free(l.fold_scratch);
    mtbal_arena_free(l.arena);
    return status;
}
