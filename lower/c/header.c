/* lower/c/header.c: prints model.h. */
#include "lower/c/c.h"

static void print_accessors(FILE *to, const c_port_kind *k)
{
    if (!k->n)
        return;
    fprintf(to, "\n/* %c%ss, %s. */\n", k->upper[0], k->lower + 1, k->what);
    for (int i = 0; i < k->n; i++) {
        const mtbal_port *p = &k->ports[i];
        const char *type = c_types[p->tensor.dtype].c;
        fprintf(to, "static inline %s *model_%s_%s(model *m) /* ", type, k->lower, k->ids[i]);
        c_print_comment(to, p->name);
        fprintf(to, " [");
        c_print_dims(to, p->tensor.rank, p->tensor.dims);
        fprintf(to, "] */\n{\n    return (%s *)(void *)(%s + %zu);\n}\n", type,
                c_regions[p->region], p->offset);
    }
}

static void print_indices(FILE *to, const c_port_kind *k)
{
    fprintf(to, "enum {\n");
    for (int i = 0; i < k->n; i++)
        fprintf(to, "    MODEL_%s_%s,\n", k->upper, k->ids[i]);
    fprintf(to, "    MODEL_%sS\n};\n", k->upper);
}

static void print_sizes(FILE *to, const mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    const struct {
        const char *name, *what;
        size_t bytes;
    } sizes[] = {
        {"ARENA", "activations and temporaries, reused within a step",
         p->region_bytes[REGION_ARENA]},
        {"STATE", "parameters, moments, statistics", p->region_bytes[REGION_STATE]},
        {"INPUT", "inputs", p->region_bytes[REGION_INPUT]},
        {"OUTPUT", "outputs", p->region_bytes[REGION_OUTPUT]},
        {"SCRATCH", "packed matrices and the like, per thread", c->scratch},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        fprintf(to, "#define MODEL_%s_BYTES %zu /* %s */\n", sizes[i].name,
                sizes[i].bytes ? sizes[i].bytes : PLAN_ALIGN, sizes[i].what);
    fprintf(
        to,
        "#define MODEL_WEIGHT_BYTES %zu /* constants and first values, not in the struct */\n"
        "/* No step could do with an arena below %zu bytes: the largest set of values that live "
        "at once. */\n",
        c->weight_bytes, p->info.arena_lower_bound);
}

static const char header_struct[] =
    "\n/* One copy of the network: all of its memory. It points into itself: do not move it. "
    "Static, on\n"
    " * the stack, or any memory that is aligned to 64 bytes. */\n"
    "typedef struct model {\n"
    "    MODEL_ALIGN unsigned char arena[MODEL_ARENA_BYTES];\n"
    "    MODEL_ALIGN unsigned char states[MODEL_STATE_BYTES];\n"
    "    MODEL_ALIGN unsigned char inputs[MODEL_INPUT_BYTES];\n"
    "    MODEL_ALIGN unsigned char outputs[MODEL_OUTPUT_BYTES];\n"
    "    MODEL_ALIGN unsigned char scratch[MODEL_THREADS * MODEL_SCRATCH_BYTES];\n"
    "#if MODEL_THREADS > 1\n"
    "    MODEL_ALIGN unsigned char pool[8192];\n"
    "#endif\n"
    "    const unsigned char *weights;\n"
    "    rt_env env;\n"
    "    rt_fault fault;     /* why a step failed, and */\n"
    "    const char *failed; /* in which node of the graph */\n"
    "} model;\n"
    "\n/* A named tensor within the struct. */\n"
    "typedef struct model_port {\n"
    "    const char *name;\n"
    "    size_t offset, bytes;\n"
    "    int has_value; /* model_init gives it a value */\n"
    "    int shape;     /* type and dimensions: model_shapes[shape] */\n"
    "} model_port;\n"
    "extern const rt_tensor model_shapes[]; /* data NULL */\n"
    "\n/* By MODEL_INPUT_..., MODEL_OUTPUT_..., MODEL_STATE_...; a last row has name NULL. */\n"
    "extern const model_port model_inputs[], model_outputs[], model_states[];\n"
    "\n/* States and inputs get their first values, everything else zeros. weights: "
    "MODEL_WEIGHT_BYTES bytes,\n"
    " * aligned to 64, which must stay: constants are read from there. */\n"
    "void model_init(model *m, const void *weights);\n"
    "/* Runs the graph once. seed: of random operators; count it up from step to step. 0, or 1 "
    "when "
    "a\n"
    " * kernel met data that it cannot work with, such as an index outside of its axis: m->failed "
    "and\n"
    " * m->fault say where and why; outputs and states hold anything. */\n"
    "int model_step(model *m, uint64_t seed);\n"
    "/* Ends the threads; without threads it does nothing. */\n"
    "void model_done(model *m);\n"
    "/* The port of that name, or NULL; its data. */\n"
    "const model_port *model_find(const model_port *ports, const char *name);\n"
    "void *model_data(model *m, const model_port *port);\n"
    "/* All states, as MODEL_STATE_BYTES bytes. */\n"
    "void model_save_states(const model *m, void *to);\n"
    "void model_load_states(model *m, const void *from);\n";

static const char header_top[] =
    "#ifndef MODEL_H\n#define MODEL_H\n\n#include \"runtime/runtime.h\"\n\n"
    "#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__)\n"
    "#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__\n"
    "#error \"the stored weights are little-endian\"\n"
    "#endif\n#endif\n\n"
    "#ifndef MODEL_THREADS\n#define MODEL_THREADS 1 /* above 1: link with -pthread */\n#endif\n"
    "#ifdef __cplusplus\n#define MODEL_ALIGN alignas(64)\nextern \"C\" {\n#else\n"
    "#define MODEL_ALIGN _Alignas(64)\n#endif\n\n";

void c_print_header(FILE *to, const mtbal_c *c)
{
    c_port_kind kinds[3];
    c_list_kinds(c, kinds);
    fprintf(to, "/* model.h: ");
    c_print_comment(to, c->options.model);
    fprintf(to, ": the network as C, without dependencies. Written by mtbal-rewrite --emit-c.\n"
                " *\n *     static model m;\n *     model_init(&m, model_weights);\n"
                " *     ... fill the inputs ...\n *     model_step(&m, 0);\n */\n");
    fputs(header_top, to);
    print_sizes(to, c);
    fprintf(to, "\n");
    for (int i = 0; i < 3; i++)
        print_indices(to, &kinds[i]);
    fputs(header_struct, to);
    fprintf(to, "%s",
            c->options.weights_apart ? "#define MODEL_WEIGHTS_FILE \"weights.bin\"\n"
                                     : "extern const uint32_t model_weights[];\n");
    for (int i = 0; i < 3; i++)
        print_accessors(to, &kinds[i]);
    fprintf(to, "\n#ifdef __cplusplus\n}\n#endif\n#endif\n");
}
