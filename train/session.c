/* train/session.c: one model file, its programs and its states. */
#include "train/session.h"
#include "passes/passes.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static bool starts_with(const char *text, const char *prefix)
{
    return !strncmp(text, prefix, strlen(prefix));
}

static bool is_set(const mtbal_session_options *options, const char *name)
{
    for (int i = 0; i < options->nset; i++)
        if (!strcmp(options->set[i].name, name))
            return true;
    return false;
}

/* Inputs that data must fill: those without a default and without a --set. */
static mtbal_status list_feeds(mtbal_session *s, const mtbal_graph *graph, mtbal_diag *diag)
{
    s->feeds = mtbal_arena_array(s->arena, (size_t)graph->ninputs + 1, sizeof *s->feeds);
    if (!s->feeds)
        return mtbal_no_memory(diag);
    for (int i = 0; i < graph->ninputs; i++) {
        const mtbal_value *v = graph->inputs[i];
        if (v->is_initializer || is_set(&s->options, v->name))
            continue;
        if (v->type.kind != MTBAL_TENSOR || v->type.rank > RT_MAX_RANK)
            return mtbal_fail(diag, MTBAL_UNSUPPORTED, s->path, NULL,
                              "input %s is not a tensor of rank 0 to %d", v->name, RT_MAX_RANK);
        mtbal_feed *feed = &s->feeds[s->nfeeds++];
        feed->name = mtbal_intern(s->arena, v->name);
        feed->dtype = v->type.dtype;
        feed->rank = v->type.rank;
        bool copied = feed->name != NULL;
        for (int d = 0; d < v->type.rank; d++) {
            const char *symbol = v->type.dims[d].symbol;
            feed->dims[d].size = v->type.dims[d].size;
            feed->dims[d].symbol = symbol ? mtbal_intern(s->arena, symbol) : NULL;
            copied = copied && (!symbol || feed->dims[d].symbol);
        }
        if (!copied)
            return mtbal_no_memory(diag);
    }
    return MTBAL_OK;
}

static mtbal_status list_outputs(mtbal_session *s, const mtbal_graph *graph, mtbal_diag *diag)
{
    s->outputs = mtbal_arena_array(s->arena, (size_t)graph->noutputs + 1, sizeof *s->outputs);
    if (!s->outputs)
        return mtbal_no_memory(diag);
    for (int i = 0; i < graph->noutputs; i++) {
        const char *name = mtbal_intern(s->arena, graph->outputs[i]->name);
        if (!name)
            return mtbal_no_memory(diag);
        s->outputs[s->noutputs++] = name;
        s->has_weights = s->has_weights || starts_with(name, "mtbal/weight/");
        s->has_norms = s->has_norms || starts_with(name, "mtbal/grad_norm/");
        s->has_cosine = s->has_cosine || !strcmp(name, "mtbal/cosine");
        s->has_tensors = s->has_tensors || starts_with(name, "mtbal/task_grad/");
    }
    return MTBAL_OK;
}

/* PREFIX/T for every task. */
static const char **name_outputs(mtbal_session *s, const char *prefix)
{
    const char **names = mtbal_arena_array(s->arena, (size_t)s->ntasks + 1, sizeof *names);
    for (int i = 0; names && i < s->ntasks; i++)
        if (!(names[i] = mtbal_arena_printf(s->arena, "%s/%s", prefix, s->tasks[i])))
            return NULL;
    return names;
}

static bool is_in(const mtbal_session *s, const mtbal_map *list, const char *name)
{
    return mtbal_map_get(list, mtbal_interned(s->arena, name)) >= 0;
}

/* So that is_in finds them. Names from metadata are interned. */
static mtbal_status index_names(mtbal_session *s, mtbal_map *list, const char *const *names, int n,
                                mtbal_diag *diag)
{
    for (int i = 0; i < n; i++) {
        const char *name = mtbal_intern(s->arena, names[i]);
        if (!name || !mtbal_map_set(list, s->arena, name, i))
            return mtbal_no_memory(diag);
    }
    return MTBAL_OK;
}

static mtbal_status read_metadata(mtbal_session *s, mtbal_model *model, mtbal_diag *diag)
{
    mtbal_list tasks, states, shared, params;
    MTBAL_TRY(mtbal_property_list(model, "mtbal.tasks", s->arena, &tasks, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", s->arena, &states, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.shared", s->arena, &shared, diag));
    s->nshared = shared.count;
    s->shared = shared.names;
    s->ntasks = tasks.count;
    s->tasks = tasks.names;
    s->losses = tasks.values;
    s->norms = name_outputs(s, "mtbal/grad_norm");
    s->weights = name_outputs(s, "mtbal/weight");
    if (!s->norms || !s->weights)
        return mtbal_no_memory(diag);
    s->nstates = states.count;
    s->states = states.names;
    s->nexts = states.values;
    s->is_step = states.count > 0;
    MTBAL_TRY(index_names(s, &s->state_of, s->states, s->nstates, diag));
    MTBAL_TRY(index_names(s, &s->loss_of, s->losses, s->ntasks, diag));
    MTBAL_TRY(index_names(s, &s->shared_of, s->shared, s->nshared, diag));
    MTBAL_TRY(index_names(s, &s->watched_of, s->options.watched, s->options.nwatched, diag));
    MTBAL_TRY(mtbal_property_list(model, "mtbal.params", s->arena, &params, diag));
    for (int i = 0; i < params.count; i++)
        s->trains = s->trains || is_in(s, &s->state_of, params.names[i]);
    const char *scale = mtbal_property_get(model, "mtbal.scale");
    if (!(s->scale = mtbal_arena_printf(s->arena, "%s", scale ? scale : "mean")))
        return mtbal_no_memory(diag);
    const char *balance = mtbal_property_get(model, "mtbal.balance");
    for (const mtbal_method *m = mtbal_methods; m->name; m++)
        s->weighs = s->weighs || (balance && m->reads && !strcmp(m->name, balance));
    s->is_calibrated = s->ntasks > 0;
    for (int i = 0; i < s->ntasks; i++) {
        const char *name = mtbal_arena_printf(s->arena, "mtbal/calibration/%s", s->tasks[i]);
        if (!name)
            return mtbal_no_memory(diag);
        s->is_calibrated = s->is_calibrated && is_in(s, &s->state_of, name);
    }
    MTBAL_TRY(list_feeds(s, model->graph, diag));
    return list_outputs(s, model->graph, diag);
}

int mtbal_processors(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    return processors < 1 ? 1 : processors > 16 ? 16 : (int)processors;
}

bool mtbal_session_batch_is_fixed(const mtbal_session *session)
{
    for (int i = 0; i < session->nfeeds; i++)
        if (session->feeds[i].rank > 0 && session->feeds[i].dims[0].size >= 0)
            return true;
    return false;
}

/* The model as a plain graph, whatever form its training has in the file. */
static mtbal_status read_model(const mtbal_session *s, mtbal_model **model, mtbal_diag *diag)
{
    MTBAL_TRY(mtbal_onnx_read(s->path, model, diag));
    MTBAL_TRY(mtbal_verify(*model, diag));
    MTBAL_TRY(mtbal_standard_form(*model, diag));
    return s->options.scale ? mtbal_rescale(*model, s->options.scale, diag) : MTBAL_OK;
}

mtbal_status mtbal_session_open(const char *path, const mtbal_session_options *options,
                                mtbal_session **session, mtbal_diag *diag)
{
    *session = NULL;
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_session *s = arena ? mtbal_arena_alloc(arena, sizeof *s) : NULL;
    if (!s) {
        mtbal_arena_free(arena);
        return mtbal_no_memory(diag);
    }
    s->arena = arena;
    s->options = *options;
    s->path = mtbal_arena_printf(arena, "%s", path);
    if (s->options.threads < 1)
        s->options.threads = mtbal_processors();
    mtbal_model *model = NULL;
    mtbal_status status = s->path ? read_model(s, &model, diag) : mtbal_no_memory(diag);
    if (status == MTBAL_OK)
        status = read_metadata(s, model, diag);
    mtbal_model_free(model);
    if (status != MTBAL_OK) {
        mtbal_session_close(s);
        return status;
    }
    *session = s;
    return MTBAL_OK;
}

static void free_program(mtbal_program *program)
{
    mtbal_instance_free(program->instance);
    mtbal_plan_free(program->plan);
    mtbal_model_free(program->model);
}

void mtbal_session_close(mtbal_session *session)
{
    if (!session)
        return;
    for (mtbal_program *p = session->programs; p; p = p->next)
        free_program(p);
    mtbal_arena_free(session->arena);
}

static bool is_norm(const mtbal_session *s, const char *name)
{
    static const char norm[] = "mtbal/grad_norm/";
    const char *only = s->options.only_task;
    if (starts_with(name, norm))
        return !only || !strcmp(name + sizeof norm - 1, only);
    return !only && !strcmp(name, "mtbal/cosine");
}

/* mtbal/task_grad/T/P of the session's only task, for a P that is shared. */
static bool is_task_tensor(const mtbal_session *s, const char *name)
{
    static const char prefix[] = "mtbal/task_grad/";
    const char *only = s->options.only_task;
    if (!only || !starts_with(name, prefix) || !starts_with(name + sizeof prefix - 1, only))
        return false;
    const char *parameter = name + sizeof prefix - 1 + strlen(only);
    return *parameter == '/' && is_in(s, &s->shared_of, parameter + 1);
}

/* Whether a program of this mode computes the output. */
static bool is_wanted(const mtbal_session *s, mtbal_mode mode, const char *name)
{
    bool own = !starts_with(name, "mtbal/") || starts_with(name, "mtbal/loss/");
    switch (mode) {
    case MTBAL_EVALUATE:
        return own;
    case MTBAL_PROBE:
        return own || is_norm(s, name);
    case MTBAL_PROBE_TENSORS:
        return is_task_tensor(s, name);
    default:
        return s->options.all_outputs || !s->is_step || is_in(s, &s->loss_of, name) ||
               is_in(s, &s->watched_of, name) || !strcmp(name, "mtbal/loss") ||
               starts_with(name, "mtbal/weight/") || (mode == MTBAL_MEASURE && is_norm(s, name));
    }
}

static bool steps(mtbal_mode mode)
{
    return mode == MTBAL_TRAIN || mode == MTBAL_MEASURE;
}

static mtbal_status choose_outputs(const mtbal_session *s, mtbal_mode mode, const char ***names,
                                   int *count, mtbal_diag *diag)
{
    *names = mtbal_arena_array(s->arena, (size_t)s->noutputs + 1, sizeof **names);
    if (!*names)
        return mtbal_no_memory(diag);
    *count = 0;
    for (int i = 0; i < s->noutputs; i++)
        if (is_wanted(s, mode, s->outputs[i]))
            (*names)[(*count)++] = s->outputs[i];
    return MTBAL_OK;
}

static void fill(rt_tensor *tensor, double x)
{
    int64_t n = rt_count(tensor);
    mtbal_tensor as = {.dtype = (mtbal_dtype)tensor->dtype, .count = n, .data = tensor->data};
    for (int64_t i = 0; i < n; i++)
        mtbal_tensor_set_f64(&as, i, x);
}

/* --set: into an input, or a state. `lr` stands for `mtbal/lr` where the model has no `lr` of its
 * own. */
static mtbal_status apply_settings(mtbal_session *s, mtbal_program *p, bool states,
                                   mtbal_diag *diag)
{
    for (int i = 0; i < s->options.nset; i++) {
        const char *name = s->options.set[i].name;
        char longer[256];
        snprintf(longer, sizeof longer, "mtbal/%s", name);
        rt_tensor *input = NULL, *state = NULL;
        const char *const names[] = {name, longer};
        for (int k = 0; k < 2 && !input && !state; k++) {
            state = mtbal_instance_state(p->instance, names[k]);
            input = state ? NULL : mtbal_instance_input(p->instance, names[k]);
        }
        if (!input && !state)
            return mtbal_fail(diag, MTBAL_USAGE, s->path,
                              "name an input, a state, or a hyper-parameter such as lr",
                              "--set %s: the model has no such input", name);
        if (input)
            fill(input, s->options.set[i].value);
        else if (states)
            fill(state, s->options.set[i].value);
    }
    return MTBAL_OK;
}

/* A state that belongs to a shared parameter: itself, or a moment of it (mtbal/.../PARAMETER). */
static bool is_shared_state(const mtbal_session *s, const char *state)
{
    bool shared = is_in(s, &s->shared_of, state);
    const char *slash = starts_with(state, "mtbal/") ? strchr(state, '/') : NULL;
    for (; slash && !shared; slash = strchr(slash + 1, '/'))
        shared = is_in(s, &s->shared_of, slash + 1);
    return shared;
}

/* The states that a session with freeze_shared leaves alone. */
static mtbal_status list_frozen(const mtbal_session *s, mtbal_lower_options *options,
                                mtbal_diag *diag)
{
    const char **fixed = mtbal_arena_array(s->arena, (size_t)s->nstates + 1, sizeof *fixed);
    if (!fixed)
        return mtbal_no_memory(diag);
    for (int i = 0; i < s->nstates; i++)
        if (is_shared_state(s, s->states[i]))
            fixed[options->nfixed++] = s->states[i];
    options->fixed = fixed;
    return MTBAL_OK;
}

static mtbal_status compile(mtbal_session *s, mtbal_program *p, mtbal_diag *diag)
{
    const char **outputs = NULL;
    int noutputs = 0;
    MTBAL_TRY(choose_outputs(s, p->mode, &outputs, &noutputs, diag));
    MTBAL_TRY(read_model(s, &p->model, diag));
    mtbal_lower_options options = {.nbinds = p->nbinds,
                                   .binds = p->binds,
                                   .noutputs = noutputs,
                                   .outputs = outputs,
                                   .states = s->is_step && steps(p->mode),
                                   .all_states = true};
    if (s->options.freeze_shared)
        MTBAL_TRY(list_frozen(s, &options, diag));
    MTBAL_TRY(mtbal_lower(p->model, &options, &p->plan, diag));
    mtbal_instance *owner = s->first ? s->first->instance : NULL;
    MTBAL_TRY(mtbal_instance_beside(owner, p->plan, s->options.threads, &p->instance, diag));
    if (s->options.initialize && !owner)
        MTBAL_TRY(train_initialize(s, p->instance, diag));
    MTBAL_TRY(apply_settings(s, p, !owner, diag));
    const rt_tensor *lr = mtbal_instance_input(p->instance, "mtbal/lr");
    mtbal_tensor as = {.dtype = lr ? (mtbal_dtype)lr->dtype : MTBAL_FLOAT, .count = 1};
    as.data = lr ? lr->data : NULL;
    p->lr = as.data ? mtbal_tensor_f64(&as, 0) : NAN;
    return MTBAL_OK;
}

static size_t tensor_bytes(const rt_tensor *t)
{
    return (size_t)rt_count(t) * rt_dtype_size(t->dtype);
}

static bool same_binds(const mtbal_program *p, int nbinds, const mtbal_bind *binds)
{
    if (p->nbinds != nbinds)
        return false;
    for (int i = 0; i < nbinds; i++)
        if (strcmp(p->binds[i].name, binds[i].name) || p->binds[i].rank != binds[i].rank ||
            memcmp(p->binds[i].dims, binds[i].dims, (size_t)binds[i].rank * sizeof(int64_t)))
            return false;
    return true;
}

mtbal_status mtbal_session_program(mtbal_session *session, int nbinds, const mtbal_bind *binds,
                                   mtbal_mode mode, mtbal_program **program, mtbal_diag *diag)
{
    if (mode == MTBAL_MEASURE && !session->has_norms && !session->has_cosine)
        mode = MTBAL_TRAIN;
    mtbal_program *p = session->programs;
    while (p && !(p->mode == mode && same_binds(p, nbinds, binds)))
        p = p->next;
    if (!p) {
        p = mtbal_arena_alloc(session->arena, sizeof *p);
        mtbal_bind *copy = mtbal_arena_copy(session->arena, binds, (size_t)nbinds * sizeof *binds);
        if (!p || !copy)
            return mtbal_no_memory(diag);
        *p = (mtbal_program){.mode = mode, .nbinds = nbinds, .binds = copy};
        mtbal_status status = compile(session, p, diag);
        if (status != MTBAL_OK) {
            free_program(p);
            return status;
        }
        p->next = session->programs;
        session->programs = p;
    }
    if (!session->first)
        session->first = p;
    *program = p;
    return MTBAL_OK;
}

rt_tensor *mtbal_session_state(mtbal_session *session, const char *name)
{
    return session->first ? mtbal_instance_state(session->first->instance, name) : NULL;
}

size_t mtbal_session_state_bytes(const mtbal_session *session)
{
    size_t size = 0;
    for (int i = 0; session->first && i < session->nstates; i++) {
        const rt_tensor *state = mtbal_instance_state(session->first->instance, session->states[i]);
        size += state ? tensor_bytes(state) : 0;
    }
    return size;
}

void mtbal_session_save_states(mtbal_session *session, void *buffer)
{
    unsigned char *to = buffer;
    for (int i = 0; i < session->nstates; i++) {
        const rt_tensor *state = mtbal_session_state(session, session->states[i]);
        if (state) {
            memcpy(to, state->data, tensor_bytes(state));
            to += tensor_bytes(state);
        }
    }
}

void mtbal_session_load_states(mtbal_session *session, const void *buffer)
{
    const unsigned char *from = buffer;
    for (int i = 0; i < session->nstates; i++) {
        rt_tensor *state = mtbal_session_state(session, session->states[i]);
        if (state) {
            memcpy(state->data, from, tensor_bytes(state));
            from += tensor_bytes(state);
        }
    }
}

double mtbal_program_scalar(const mtbal_program *program, const char *output)
{
    const rt_tensor *t = mtbal_instance_output(program->instance, output);
    if (!t || !t->data || rt_count(t) != 1)
        return NAN;
    mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .count = 1, .data = t->data};
    return mtbal_tensor_f64(&as, 0);
}

mtbal_status mtbal_session_save(mtbal_session *session, const char *path, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    MTBAL_TRY(mtbal_onnx_read(session->path, &model, diag));
    mtbal_status status = MTBAL_OK;
    for (int i = 0; i < session->nstates && status == MTBAL_OK; i++) {
        const rt_tensor *state = mtbal_session_state(session, session->states[i]);
        mtbal_value *value = mtbal_initializer_find(model, session->states[i]);
        if (!state || !value)
            continue;
        mtbal_tensor *tensor = mtbal_tensor_new(model, (mtbal_dtype)state->dtype, state->rank,
                                                state->dims, state->data);
        if (!tensor)
            status = mtbal_no_memory(diag);
        else
            value->tensor = tensor;
    }
    if (status == MTBAL_OK)
        status = mtbal_onnx_write(model, path, diag);
    mtbal_model_free(model);
    return status;
}
