/* lower/c/folder.c: the files of an emitted folder. */
#include "lower/c/c.h"

#include <string.h>

static const char *text_of(const char *name)
{
    for (int s = 0; c_sources[s].name; s++)
        if (!strcmp(c_sources[s].name, name))
            return c_sources[s].text;
    return "";
}

static void print_main(FILE *to, const mtbal_c *c)
{
    (void)c;
    fputs(text_of("lower/c/templates/main.c"), to);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && !strcmp(name + n - k, suffix);
}

static void print_list(FILE *to, const mtbal_c *c, const char *variable, bool code)
{
    fprintf(to, "%s =", variable);
    for (int i = 0; i < c->nfiles; i++) {
        const char *name = c->files[i].name;
        if (code ? ends_with(name, ".c") : ends_with(name, ".h") || ends_with(name, ".def"))
            fprintf(to, " %s", name);
    }
    fprintf(to, "\n");
}

static void print_makefile(FILE *to, const mtbal_c *c)
{
    print_list(to, c, "SOURCES", true);
    print_list(to, c, "HEADERS", false);
    fprintf(to, "\n%s", text_of("lower/c/templates/Makefile"));
}

static void print_kernel_names(FILE *to, const mtbal_c *c)
{
    const char *between = "";
    for (int k = 0; k < RT_NKERNELS; k++)
        if (c->kernel_used[k]) {
            fprintf(to, "%s`%s`", between, rt_kernels[k].name);
            between = ", ";
        }
}

static void print_table(FILE *to, const char *what, const mtbal_port *ports, int n,
                        const char *const *ids)
{
    for (int i = 0; i < n; i++) {
        fprintf(to, "| %s | `%s` | `%s_%s` | %s [", what, ports[i].name, what, ids[i],
                mtbal_dtype_name((mtbal_dtype)ports[i].tensor.dtype));
        for (int d = 0; d < ports[i].tensor.rank; d++)
            fprintf(to, "%s%lld", d ? "," : "", (long long)ports[i].tensor.dims[d]);
        fprintf(to, "]%s |\n", ports[i].is_default && strcmp(what, "state") ? ", has a value" : "");
    }
}

static void print_readme(FILE *to, const mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    fprintf(
        to,
        "# %s as C\n\nWritten by `mtbal-rewrite --emit-c`. It needs a C11 compiler (C++11 will do),"
        " libc and libm.\n\n"
        "```\nmake\n./model NAME=FILE.npy ... --steps 100%s\n```\n\n"
        "| file | what |\n|---|---|\n"
        "| `model.h` | the interface, with the graph's names; all sizes |\n"
        "| `model.c` | one call per fused group of ONNX nodes, each with the node's name |\n"
        "| `runtime/` | the kernels that this graph calls, and no others: the text of mtbal's own"
        " runtime |\n"
        "| `%s` | constants and stored values |\n"
        "| `main.c` | reads .npy files, runs, prints; leave it out where there is no system |\n\n",
        c->options.model, p->nstates ? " --set lr=0.01 --save states.bin" : "",
        c->options.weights_apart ? "weights.bin" : "weights.c");
    fprintf(to,
            "`model.c`, `%sruntime/` use no file, no malloc and no global variable that changes;"
            " a `model` is one struct with all of its memory, so there may be several.\n"
            "The memory must lie at a multiple of 64 bytes. Floats are IEEE 754, integers two's "
            "complement,"
            " bytes little-endian; pointers may have 32 bits.\n"
            "On x86-64 the matrix products choose AVX2 or AVX-512 when `model_init` finds them;"
            " set `m.env.cpu = RT_CPU_PORTABLE` for the same bits everywhere.\n"
            "Threads: `make CFLAGS=\"-O2 -DMODEL_THREADS=4 -pthread\"`; the results keep their "
            "bits.\n\n",
            c->options.weights_apart ? "" : "weights.c` and `");
    fprintf(
        to,
        "Memory: arena %zu bytes (at least %zu would be needed), states %zu, inputs %zu, outputs "
        "%zu, scratch %zu a thread; weights %zu.\nKernels: ",
        p->region_bytes[REGION_ARENA], p->info.arena_lower_bound, p->region_bytes[REGION_STATE],
        p->region_bytes[REGION_INPUT], p->region_bytes[REGION_OUTPUT], c->scratch, c->weight_bytes);
    print_kernel_names(to, c);
    fprintf(to, ".\n\n| kind | name in the graph | `model_...` | type |\n|---|---|---|---|\n");
    print_table(to, "input", p->inputs, p->ninputs, c->input_id);
    print_table(to, "output", p->outputs, p->noutputs, c->output_id);
    print_table(to, "state", p->states, p->nstates, c->state_id);
}

/* ------------------------------------------------------------------ the list */

static void add(mtbal_c *c, const char *name, void (*print)(FILE *, const mtbal_c *), int source)
{
    c->files[c->nfiles++] = (c_file){name, print, source};
}

static void list_files(mtbal_c *c)
{
    int n = 0;
    while (c_sources[n].name)
        n++;
    c->files = mtbal_arena_array(c->arena, (size_t)n + 8, sizeof *c->files);
    if (!c->files) {
        c->failed = true;
        return;
    }
    add(c, "model.h", c_print_header, -1);
    add(c, "model.c", c_print_model, -1);
    add(c, "main.c", print_main, -1);
    add(c, "Makefile", print_makefile, -1);
    add(c, "README.md", print_readme, -1);
    if (c->options.weights_apart)
        add(c, "weights.bin", c_print_weights_file, -1);
    else
        add(c, "weights.c", c_print_weights, -1);
    add(c, "runtime/kernels.def", c_print_kernels, -1);
    add(c, "runtime/used.h", c_print_used, -1);
    for (int s = 0; s < n; s++)
        if (!strncmp(c_sources[s].name, "runtime/", 8) &&
            strcmp(c_sources[s].name, c->files[6].name) && c_source_kept(c, s))
            add(c, c_sources[s].name, NULL, s);
}

mtbal_status mtbal_c_new(const mtbal_plan *plan, const mtbal_c_options *options, mtbal_c **result,
                         mtbal_diag *diag)
{
    *result = NULL;
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_c *c = arena ? mtbal_arena_alloc(arena, sizeof *c) : NULL;
    if (c) {
        *c = (mtbal_c){.plan = plan, .options = *options, .arena = arena};
        void (*const steps[])(mtbal_c *) = {c_choose_shapes, c_choose_names, c_choose_sources,
                                            c_choose_weights, list_files};
        for (size_t i = 0; i < sizeof steps / sizeof *steps && !c->failed; i++)
            steps[i](c);
    }
    if (!c || c->failed) {
        mtbal_arena_free(arena);
        return mtbal_no_memory(diag);
    }
    *result = c;
    return MTBAL_OK;
}

void mtbal_c_free(mtbal_c *c)
{
    if (c)
        mtbal_arena_free(c->arena);
}

int mtbal_c_files(const mtbal_c *c)
{
    return c->nfiles;
}

const char *mtbal_c_name(const mtbal_c *c, int file)
{
    return c->files[file].name;
}

void mtbal_c_print(FILE *to, const mtbal_c *c, int file)
{
    if (c->files[file].print)
        c->files[file].print(to, c);
    else
        c_print_source(to, c, c->files[file].source);
}
