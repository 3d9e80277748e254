/* cli/emit.c: --emit-c: a written model as a folder of C. */
#include "cli/cli.h"
#include "passes/passes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_BATCH = 32 };

/* ------------------------------------------------------------------ shapes */

/* NAME:D0,D1,..; the name may hold colons itself. */
static mtbal_status parse_shape(const char *text, mtbal_bind *bind, mtbal_arena *arena,
                                mtbal_diag *diag)
{
    const char *colon = strrchr(text, ':');
    bool good = colon && colon > text;
    *bind = (mtbal_bind){.rank = 0};
    for (const char *p = good ? colon + 1 : ""; good && *p;) {
        char *end;
        long long size = strtoll(p, &end, 10);
        good = end > p && size > 0 && bind->rank < RT_MAX_RANK && (*end == ',' || !*end);
        if (good)
            bind->dims[bind->rank++] = size;
        p = end + (*end == ',');
    }
    if (!good)
        return mtbal_fail(diag, MTBAL_USAGE, "--input-shape",
                          "write NAME:D0,D1,.. with up to 8 sizes above 0", "'%s' is no shape",
                          text);
    bind->name = mtbal_arena_printf(arena, "%.*s", (int)(colon - text), text);
    return bind->name ? MTBAL_OK : mtbal_no_memory(diag);
}

/* The folder stands, or can be made: known before anything is written. */
static mtbal_status check_folder(const char *path, mtbal_arena *arena, mtbal_diag *diag)
{
    struct stat st;
    const char *slash = strrchr(path, '/');
    const char *parent =
        slash ? mtbal_arena_printf(arena, "%.*s/", (int)(slash - path), path) : ".";
    if (!parent)
        return mtbal_no_memory(diag);
    if (stat(path, &st) == 0 ? S_ISDIR(st.st_mode) : access(parent, W_OK) == 0)
        return MTBAL_OK;
    return mtbal_fail(diag, MTBAL_IO, path, "name a folder that can be made", "no folder: %s",
                      stat(path, &st) == 0 ? "a file of that name" : strerror(errno));
}

mtbal_status cli_emission_check(const cli_emission *e, mtbal_arena *arena, mtbal_diag *diag)
{
    mtbal_bind bind;
    if (!e->folder && (e->shapes.count || e->weights))
        return mtbal_fail(diag, MTBAL_USAGE, "--emit-c", "add --emit-c DIR, or leave them out",
                          "--input-shape and --emit-weights say how to emit C");
    if (e->weights && strcmp(e->weights, "c") && strcmp(e->weights, "file"))
        return mtbal_fail(diag, MTBAL_USAGE, "--emit-weights", "choose from c, file",
                          "'%s' is no form of weights", e->weights);
    for (int i = 0; i < e->shapes.count; i++)
        MTBAL_TRY(parse_shape(e->shapes.items[i], &bind, arena, diag));
    return e->folder ? check_folder(e->folder, arena, diag) : MTBAL_OK;
}

typedef struct emission {
    const cli_emission *e;
    const mtbal_graph *graph;
    const char *path;
    int nbinds, ngiven; /* the given ones first */
    mtbal_bind *binds;
    mtbal_arena *arena;
    mtbal_diag *diag;
} emission;

/* The size that the given shapes say for a symbol; -1: none. */
static int64_t size_of_symbol(const emission *s, const char *symbol)
{
    for (int i = 0; symbol && i < s->graph->ninputs; i++) {
        const mtbal_value *v = s->graph->inputs[i];
        for (int k = 0; k < s->ngiven; k++)
            for (int d = 0; !strcmp(s->binds[k].name, v->name) && d < v->type.rank; d++)
                if (d < s->binds[k].rank && v->type.dims[d].symbol &&
                    !strcmp(v->type.dims[d].symbol, symbol))
                    return s->binds[k].dims[d];
    }
    return -1;
}

static bool is_given(const emission *s, const char *name)
{
    for (int i = 0; i < s->ngiven; i++)
        if (!strcmp(s->binds[i].name, name))
            return true;
    return false;
}

/* An input whose shape was not given: its own sizes, those of its symbols, and the batch along the
 * first axis. */
static mtbal_status bind_rest(emission *s, const mtbal_value *v)
{
    const mtbal_type *type = &v->type;
    mtbal_bind *bind = &s->binds[s->nbinds++];
    *bind = (mtbal_bind){.name = v->name, .rank = type->rank};
    if (type->kind != MTBAL_TENSOR || type->rank < 0 || type->rank > RT_MAX_RANK)
        return mtbal_fail(s->diag, MTBAL_USAGE, s->path, "give it: --input-shape NAME:D0,D1,..",
                          "the shape of input %s is not known", v->name);
    for (int d = 0; d < type->rank; d++) {
        const char *symbol = type->dims[d].symbol;
        int64_t size = type->dims[d].size, known = size_of_symbol(s, symbol);
        if (size < 0)
            size = known >= 0 ? known : d ? -1 : s->e->batch ? s->e->batch : DEFAULT_BATCH;
        else if (d == 0 && s->e->batch && s->e->batch != size)
            return mtbal_fail(s->diag, MTBAL_USAGE, s->path,
                              "leave --batch out, or export the model with a dynamic batch axis",
                              "--batch %lld, but input %s has a fixed first axis of %lld",
                              (long long)s->e->batch, v->name, (long long)size);
        if (size < 0)
            return mtbal_fail(s->diag, MTBAL_USAGE, s->path,
                              "give all of its sizes: --input-shape NAME:D0,D1,..",
                              "input %s: the size of axis %d (%s) is not known", v->name, d,
                              symbol ? symbol : "?");
        bind->dims[d] = size;
    }
    return MTBAL_OK;
}

static mtbal_status bind_all(emission *s)
{
    int n = s->e->shapes.count + s->graph->ninputs + 1;
    s->binds = mtbal_arena_array(s->arena, (size_t)n, sizeof *s->binds);
    if (!s->binds)
        return mtbal_no_memory(s->diag);
    for (int i = 0; i < s->e->shapes.count; i++)
        MTBAL_TRY(parse_shape(s->e->shapes.items[i], &s->binds[i], s->arena, s->diag));
    s->nbinds = s->ngiven = s->e->shapes.count;
    for (int i = 0; i < s->graph->ninputs; i++) {
        const mtbal_value *v = s->graph->inputs[i];
        if (!v->is_initializer && !is_given(s, v->name))
            MTBAL_TRY(bind_rest(s, v));
    }
    return MTBAL_OK;
}

/* All outputs but the next states, which are where the states are. */
static mtbal_status lower(emission *s, mtbal_model *model, mtbal_plan **plan)
{
    const char **outputs =
        mtbal_arena_array(s->arena, (size_t)s->graph->noutputs + 1, sizeof *outputs);
    if (!outputs)
        return mtbal_no_memory(s->diag);
    mtbal_lower_options options = {.outputs = outputs};
    for (int i = 0; i < s->graph->noutputs; i++) {
        const char *name = s->graph->outputs[i]->name;
        if (strncmp(name, "mtbal/next/", 11))
            outputs[options.noutputs++] = name;
    }
    mtbal_list states;
    MTBAL_TRY(mtbal_property_list(model, "mtbal.state", s->arena, &states, s->diag));
    options.states = states.count > 0;
    MTBAL_TRY(bind_all(s));
    options.nbinds = s->nbinds;
    options.binds = s->binds;
    return mtbal_lower(model, &options, plan, s->diag);
}

/* ------------------------------------------------------------------ files */

static mtbal_status write_file(const mtbal_c *c, int file, const char *path, mtbal_diag *diag)
{
    mtbal_writer writer;
    MTBAL_TRY(mtbal_writer_open(&writer, path, diag));
    int copy = dup(writer.fd);
    FILE *to = copy < 0 ? NULL : fdopen(copy, "wb");
    if (to)
        mtbal_c_print(to, c, file);
    else if (copy >= 0)
        close(copy);
    bool failed = !to || ferror(to);
    failed = (to && fclose(to)) || failed;
    if (!failed)
        return mtbal_writer_commit(&writer, diag);
    mtbal_writer_abort(&writer);
    return mtbal_fail(diag, MTBAL_IO, path, "is the disk full?", "could not be written");
}

static mtbal_status write_files(emission *s, const mtbal_plan *plan)
{
    const char *slash = strrchr(s->path, '/');
    mtbal_c_options options = {.model = slash ? slash + 1 : s->path,
                               .weights_apart = s->e->weights && !strcmp(s->e->weights, "file")};
    mtbal_c *c = NULL;
    mtbal_bundle bundle;
    MTBAL_TRY(mtbal_c_new(plan, &options, &c, s->diag));
    mtbal_status status = mtbal_bundle_open(&bundle, s->e->folder, s->diag);
    for (int i = 0; status == MTBAL_OK && i < mtbal_c_files(c); i++) {
        const char *path;
        status = mtbal_bundle_add(&bundle, mtbal_c_name(c, i), &path, s->diag);
        if (status == MTBAL_OK)
            status = write_file(c, i, path, s->diag);
    }
    size_t n = bundle.temporary ? strlen(bundle.temporary) : 0;
    if (status != MTBAL_OK && n && !strncmp(s->diag->where, bundle.temporary, n))
        snprintf(s->diag->where, sizeof s->diag->where, "%s", s->e->folder);
    if (status == MTBAL_OK)
        status = mtbal_bundle_commit(&bundle, s->diag);
    mtbal_bundle_abort(&bundle);
    mtbal_c_free(c);
    return status;
}

mtbal_status cli_emit(const cli_emission *e, const char *path, mtbal_plan_info *info,
                      mtbal_arena *arena, mtbal_diag *diag)
{
    mtbal_model *model = NULL;
    mtbal_plan *plan = NULL;
    MTBAL_TRY(mtbal_onnx_read(path, &model, diag));
    emission s = {.e = e, .graph = model->graph, .path = path, .arena = arena, .diag = diag};
    mtbal_status status = mtbal_standard_form(model, diag);
    if (status == MTBAL_OK)
        status = lower(&s, model, &plan);
    if (status == MTBAL_OK) {
        mtbal_plan_describe(plan, info);
        status = write_files(&s, plan);
    }
    mtbal_plan_free(plan);
    mtbal_model_free(model);
    return status;
}
