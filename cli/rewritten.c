/* cli/rewritten.c: what mtbal-rewrite tells of its work. */
#include "cli/rewritten.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ counting */

/* What counting goes through the graphs with. */
typedef struct counter {
    cli_rewritten *r;
    bool after;
} counter;

static mtbal_status count_op(mtbal_node *node, void *context)
{
    const counter *c = context;
    cli_rewritten *r = c->r;
    const char *op = mtbal_intern(r->arena, node->op);
    const char *domain = mtbal_intern(r->arena, node->domain);
    if (!op || !domain)
        return MTBAL_NOMEM;
    int last = mtbal_map_get(&r->op_of, op), i = last;
    while (i >= 0 && r->ops[i].domain != domain)
        i = r->ops[i].before_it;
    if (i < 0) {
        i = r->nops;
        if (!mtbal_map_set(&r->op_of, r->arena, op, i))
            return MTBAL_NOMEM;
    }
    if (i == r->op_capacity) {
        int capacity = r->op_capacity ? 2 * r->op_capacity : 64;
        cli_op_count *bigger = mtbal_arena_array(r->arena, (size_t)capacity, sizeof *bigger);
        if (!bigger)
            return MTBAL_NOMEM;
        if (r->nops)
            memcpy(bigger, r->ops, (size_t)r->nops * sizeof *bigger);
        r->ops = bigger;
        r->op_capacity = capacity;
    }
    if (i == r->nops)
        r->ops[r->nops++] = (cli_op_count){domain, op, last, 0, 0};
    *(c->after ? &r->ops[i].after : &r->ops[i].before) += 1;
    return MTBAL_OK;
}

mtbal_status cli_rewritten_count(cli_rewritten *r, const mtbal_model *model, bool after,
                                 mtbal_diag *diag)
{
    counter c = {r, after};
    mtbal_status status = mtbal_graph_walk(model->graph, count_op, &c);
    for (int i = 0; i < model->ntrainings && status == MTBAL_OK; i++)
        if (model->trainings[i]->algorithm)
            status = mtbal_graph_walk(model->trainings[i]->algorithm, count_op, &c);
    return status == MTBAL_OK ? MTBAL_OK : mtbal_no_memory(diag);
}

int64_t cli_rewritten_size(const char *form, const char *name, mtbal_arena *arena)
{
    const char *path = mtbal_arena_printf(arena, form, name);
    FILE *file = path ? fopen(path, "rb") : NULL;
    long size = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
    if (file)
        fclose(file);
    return size;
}

/* ------------------------------------------------------------------ tables */

static const char *task_list(mtbal_set reach, const mtbal_context *c, char *buffer, size_t size)
{
    size_t n = 0;
    buffer[0] = 0;
    for (int i = 0; i < c->ntasks && n < size; i++)
        if (mtbal_set_has(c->sets, reach, i))
            n += (size_t)snprintf(buffer + n, size - n, "%s%s", n ? " " : "", c->tasks[i].name);
    return buffer;
}

static int shared_of(const mtbal_context *c, int task, int64_t *elements)
{
    int shared = 0;
    for (int p = 0; p < c->nparams; p++) {
        bool mine = mtbal_set_has(c->sets, c->params[p].reach, task);
        shared += mine && mtbal_set_size(c->sets, c->params[p].reach) > 1;
        if (mine)
            *elements += mtbal_shape_count(&c->params[p].value->type);
    }
    return shared;
}

static void print_tasks(const mtbal_context *c, mtbal_arena *arena)
{
    static const char *const heads[] = {"task", "loss output", "parameters", "of them shared",
                                        "values"};
    cli_table table;
    cli_table_init(&table, arena, 5, heads);
    for (int i = 0; i < c->ntasks; i++) {
        int64_t elements = 0;
        int shared = shared_of(c, i, &elements);
        cli_cell(&table, "%s", c->tasks[i].name);
        cli_cell(&table, "%s", c->tasks[i].loss->name);
        cli_cell(&table, "%d", c->tasks[i].nparams);
        cli_cell(&table, "%d", shared);
        cli_cell(&table, "%lld", (long long)elements);
    }
    cli_table_print(stdout, &table);
}

static void print_params(const mtbal_context *c, mtbal_arena *arena)
{
    static const char *const heads[] = {"parameter", "values", "norm scope", "reached by"};
    char tasks[512];
    cli_table table;
    cli_table_init(&table, arena, 4, heads);
    for (int i = 0; i < c->nparams; i++) {
        cli_cell(&table, "%s", c->params[i].value->name);
        cli_cell(&table, "%lld", (long long)mtbal_shape_count(&c->params[i].value->type));
        cli_cell(&table, "%s", c->params[i].in_scope ? "yes" : "no");
        cli_cell(&table, "%s", task_list(c->params[i].reach, c, tasks, sizeof tasks));
    }
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_ops(const cli_rewritten *r)
{
    static const char *const heads[] = {"op", "before", "after"};
    cli_table table;
    char before[32], after[32];
    cli_table_init(&table, r->arena, 3, heads);
    for (int i = 0; i < r->nops; i++) {
        const cli_op_count *op = &r->ops[i];
        cli_cell(&table, "%s%s%s", op->domain, *op->domain ? "." : "", op->op);
        cli_cell(&table, "%d", op->before);
        cli_cell(&table, "%d", op->after);
    }
    cli_cell(&table, "all nodes");
    cli_cell(&table, "%d", r->nodes_before);
    cli_cell(&table, "%d", r->nodes_after);
    cli_cell(&table, "file size");
    cli_cell(&table, "%s", cli_bytes(before, (double)r->bytes_before));
    cli_cell(&table, "%s", cli_bytes(after, (double)r->bytes_after));
    printf("\n");
    cli_table_print(stdout, &table);
}

static void print_notices(const mtbal_context *c, bool quiet)
{
    for (int i = 0; i < c->nnotices; i++)
        if (c->notices[i].level == MTBAL_WARNING || !quiet)
            fprintf(stderr, "%s: %s\n", c->notices[i].level == MTBAL_WARNING ? "warning" : "note",
                    c->notices[i].text);
}

static void print_json(const cli_rewritten *r)
{
    const mtbal_context *c = r->context;
    cli_json json = {.to = stdout};
    json_open(&json, NULL, '{');
    json_text(&json, "input", r->in);
    json_text(&json, "output", r->out);
    json_open(&json, "tasks", '[');
    for (int i = 0; i < c->ntasks; i++) {
        int64_t elements = 0;
        int shared = shared_of(c, i, &elements);
        json_open(&json, NULL, '{');
        json_text(&json, "name", c->tasks[i].name);
        json_text(&json, "loss", c->tasks[i].loss->name);
        json_int(&json, "parameters", c->tasks[i].nparams);
        json_int(&json, "shared", shared);
        json_int(&json, "values", elements);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "parameters", '[');
    for (int i = 0; i < c->nparams; i++) {
        json_open(&json, NULL, '{');
        json_text(&json, "name", c->params[i].value->name);
        json_int(&json, "values", mtbal_shape_count(&c->params[i].value->type));
        json_bool(&json, "in_norm", c->params[i].in_scope);
        json_open(&json, "tasks", '[');
        for (int t = 0; t < c->ntasks; t++)
            if (mtbal_set_has(c->sets, c->params[i].reach, t))
                json_text(&json, NULL, c->tasks[t].name);
        json_close(&json, ']');
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "states", '[');
    for (int i = 0; i < c->nstates; i++)
        json_text(&json, NULL, c->states[i].value->name);
    json_close(&json, ']');
    json_open(&json, "notices", '[');
    for (int i = 0; i < c->nnotices; i++) {
        json_open(&json, NULL, '{');
        json_text(&json, "level", c->notices[i].level == MTBAL_WARNING ? "warning" : "note");
        json_text(&json, "text", c->notices[i].text);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "ops", '{');
    for (int i = 0; i < r->nops; i++) {
        char name[160];
        const cli_op_count *op = &r->ops[i];
        snprintf(name, sizeof name, "%s%s%s", op->domain, *op->domain ? "." : "", op->op);
        json_open(&json, name, '{');
        json_int(&json, "before", op->before);
        json_int(&json, "after", op->after);
        json_close(&json, '}');
    }
    json_close(&json, '}');
    json_int(&json, "nodes_before", r->nodes_before);
    json_int(&json, "nodes_after", r->nodes_after);
    json_int(&json, "bytes_before", r->bytes_before);
    json_int(&json, "bytes_after", r->bytes_after);
    if (r->c_folder) {
        json_open(&json, "c", '{');
        json_text(&json, "folder", r->c_folder);
        json_int(&json, "calls", r->emitted.ncalls);
        json_int(&json, "arena_bytes", (int64_t)r->emitted.arena_bytes);
        json_int(&json, "arena_lower_bound", (int64_t)r->emitted.arena_lower_bound);
        json_int(&json, "state_bytes", (int64_t)r->emitted.state_bytes);
        json_close(&json, '}');
    }
    if (r->calibrated) {
        json_open(&json, "calibration", '{');
        for (int i = 0; i < r->ncalibrations; i++)
            json_number(&json, r->calibrations[i].task, r->calibrations[i].g);
        json_close(&json, '}');
    }
    json_number(&json, "seconds", r->seconds);
    json_close(&json, '}');
    printf("\n");
}

static void print_emission(const cli_rewritten *r)
{
    char arena[32], states[32];
    if (r->c_folder)
        printf("  %s: %d calls, arena %s, states %s\n", r->c_folder, r->emitted.ncalls,
               cli_bytes(arena, (double)r->emitted.arena_bytes),
               cli_bytes(states, (double)r->emitted.state_bytes));
}

static void print_calibrations(const cli_rewritten *r)
{
    static const char *const heads[] = {"task", "G", "loss", "epochs"};
    cli_table table;
    cli_table_init(&table, r->arena, 4, heads);
    for (int i = 0; i < r->ncalibrations; i++) {
        const mtbal_calibration *c = &r->calibrations[i];
        cli_cell(&table, "%s", c->task);
        cli_cell(&table, "%.5g", c->g);
        cli_cell(&table, "%.5g", c->loss);
        cli_cell(&table, "%lld", (long long)c->epochs);
    }
    printf("\n");
    cli_table_print(stdout, &table);
}

/* Of a graph that was not rewritten: --inference, for one. */
static void print_written(const cli_rewritten *r)
{
    if (r->quiet)
        return;
    printf("%s: %lld bytes, written in %.1f ms\n", r->out, (long long)r->bytes_after,
           1e3 * r->seconds);
    print_emission(r);
}

static int by_name(const void *x, const void *y)
{
    const cli_op_count *p = x, *q = y;
    int domain = strcmp(p->domain, q->domain);
    return domain ? domain : strcmp(p->op, q->op);
}

void cli_rewritten_print(cli_rewritten *r)
{
    if (!r->context) {
        print_written(r);
        return;
    }
    cli_calibration_warn(r->calibrations, r->ncalibrations);
    qsort(r->ops, (size_t)r->nops, sizeof *r->ops, by_name);
    for (int i = 0; i < r->nops; i++) {
        r->nodes_before += r->ops[i].before;
        r->nodes_after += r->ops[i].after;
    }
    if (r->json) {
        print_json(r);
        return;
    }
    print_notices(r->context, r->quiet);
    if (r->quiet)
        return;
    printf("%s: %d tasks, %d parameters, %d states\n\n", r->out, r->context->ntasks,
           r->context->nparams, r->context->nstates);
    print_tasks(r->context, r->arena);
    if (r->verbose)
        print_params(r->context, r->arena);
    print_ops(r);
    if (r->calibrated)
        print_calibrations(r);
    printf("\n  rewritten%s in %.1f ms\n", r->calibrated ? " and calibrated" : "",
           1e3 * r->seconds);
    print_emission(r);
}
