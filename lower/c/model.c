/* lower/c/model.c: prints model.h and model.c, and the two lists of runtime/ that depend on the
 * graph. */
#include "lower/c/c.h"

#include <math.h>
#include <string.h>

static const char *const regions[NREGIONS] = {"m->arena", "m->states", "m->weights", "m->inputs",
                                              "m->outputs"};

static const char *const region_ids[NREGIONS] = {"arena", "state", "weights", "input", "output"};
static const char *const region_names[NREGIONS] = {"ARENA", "STATES", "WEIGHTS", "INPUTS",
                                                   "OUTPUTS"};

/* By rt_dtype: the name in rt_dtype, and the type in C. */
static const struct type_name {
    const char *constant, *lower, *c;
} types[] = {
    [RT_F32] = {"RT_F32", "f32", "float"},       [RT_U8] = {"RT_U8", "u8", "uint8_t"},
    [RT_I8] = {"RT_I8", "i8", "int8_t"},         [RT_U16] = {"RT_U16", "u16", "uint16_t"},
    [RT_I16] = {"RT_I16", "i16", "int16_t"},     [RT_I32] = {"RT_I32", "i32", "int32_t"},
    [RT_I64] = {"RT_I64", "i64", "int64_t"},     [RT_BOOL] = {"RT_BOOL", "bool", "uint8_t"},
    [RT_F16] = {"RT_F16", "f16", "uint16_t"},    [RT_F64] = {"RT_F64", "f64", "double"},
    [RT_U32] = {"RT_U32", "u32", "uint32_t"},    [RT_U64] = {"RT_U64", "u64", "uint64_t"},
    [RT_BF16] = {"RT_BF16", "bf16", "uint16_t"},
};

/* A name from the graph within a comment or a string: no end of either, no control characters. */
static void print_text(FILE *to, const char *text)
{
    for (const char *p = text; *p; p++)
        if (*p == '"' || *p == '\\')
            fprintf(to, "\\%c", *p);
        else
            fputc((unsigned char)*p < 32 || (*p == '/' && p > text && p[-1] == '*') || *p == '?'
                      ? '_'
                      : *p,
                  to);
}

static void print_dims(FILE *to, int rank, const int64_t *dims)
{
    for (int d = 0; d < rank; d++)
        fprintf(to, "%s%lld", d ? ", " : "", (long long)dims[d]);
}

/* ------------------------------------------------------------------ shapes */

static bool same_shape(const plan_operand *x, const plan_operand *y)
{
    return x->dtype == y->dtype && x->rank == y->rank &&
           !memcmp(x->dims, y->dims, (size_t)x->rank * sizeof *x->dims);
}

static void note_shape(mtbal_c *c, const plan_operand *x)
{
    if (x->cell < 0)
        return;
    c->types |= 1u << x->dtype;
    for (int i = 0; i < c->nshapes; i++)
        if (same_shape(c->shapes[i], x))
            return;
    c->shapes[c->nshapes++] = x;
}

/* The number of a value: a place with a shape; 0 is an operand that is left out. */
static int value_of(const mtbal_c *c, const plan_operand *x)
{
    for (int i = 1; x->cell >= 0 && i <= c->nvalues; i++)
        if (c->values[i]->region == x->region && c->values[i]->offset == x->offset &&
            same_shape(c->values[i], x))
            return i;
    return 0;
}

static void note_value(mtbal_c *c, const plan_operand *x)
{
    note_shape(c, x);
    if (x->cell >= 0 && !value_of(c, x))
        c->values[++c->nvalues] = x;
}

static plan_operand operand_of(const mtbal_port *p)
{
    plan_operand x = {.dtype = p->tensor.dtype, .rank = p->tensor.rank};
    memcpy(x.dims, p->tensor.dims, sizeof x.dims);
    return x;
}

static void note_ports(mtbal_c *c, const mtbal_port *ports, int n)
{
    for (int i = 0; i < n; i++) {
        plan_operand x = operand_of(&ports[i]);
        const plan_operand *kept = mtbal_arena_copy(c->arena, &x, sizeof x);
        c->failed = c->failed || !kept;
        if (kept)
            note_shape(c, kept);
    }
}

/* The first call with the same kernel and attributes. */
static int find_attributes(const mtbal_c *c, int call)
{
    const plan_call *x = &c->plan->calls[call];
    for (int i = 0; i < call; i++) {
        const plan_call *y = &c->plan->calls[i];
        if (y->kernel == x->kernel && y->attr &&
            !memcmp(y->attr, x->attr, rt_kernels[x->kernel].attr_size))
            return i;
    }
    return call;
}

static bool has_integers(const plan_call *call)
{
    for (int i = 0; i < call->nin; i++)
        if ((call->in[i].dtype != RT_F32 && call->in[i].dtype != RT_F64) ||
            call->in[i].dtype != call->in[0].dtype)
            return true;
    return false;
}

static void note_codes(mtbal_c *c, const plan_call *call)
{
    if (call->kernel == RT_KERNEL_unary || call->kernel == RT_KERNEL_binary)
        c->integers = c->integers || has_integers(call);
    if (call->kernel == RT_KERNEL_unary)
        c->unary_op[((const rt_unary_attr *)call->attr)->op] = true;
    if (call->kernel == RT_KERNEL_binary)
        c->binary_op[((const rt_binary_attr *)call->attr)->op] = true;
    if (call->kernel != RT_KERNEL_chain)
        return;
    const rt_chain_attr *at = call->attr;
    c->types |= at->is_double ? 1u << RT_F64 : 0;
    for (int i = 0; i < at->ncode; i++)
        c->chain_op[at->code[4 * i]] = true;
}

void c_choose_shapes(mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    size_t most = (size_t)(p->noperands + p->ninputs + p->noutputs + p->nstates);
    c->shapes = mtbal_arena_array(c->arena, most + 1, sizeof *c->shapes);
    c->attr_of = mtbal_arena_array(c->arena, (size_t)p->ncalls + 1, sizeof *c->attr_of);
    c->values = mtbal_arena_array(c->arena, (size_t)p->noperands + 2, sizeof *c->values);
    if (!c->shapes || !c->values || !c->attr_of) {
        c->failed = true;
        return;
    }
    for (int i = 0; i < p->ncalls; i++) {
        const plan_call *call = &p->calls[i];
        if (call->kernel < 0)
            continue;
        for (int k = 0; k < call->nin; k++)
            note_value(c, &call->in[k]);
        for (int k = 0; k < call->nout; k++)
            note_value(c, &call->out[k]);
        c->kernel_used[call->kernel] = true;
        c->attr_of[i] = call->attr ? find_attributes(c, i) : -1;
        size_t scratch = c_scratch(call);
        c->scratch = scratch > c->scratch ? scratch : c->scratch;
        note_codes(c, call);
    }
    note_ports(c, p->inputs, p->ninputs);
    note_ports(c, p->outputs, p->noutputs);
    note_ports(c, p->states, p->nstates);
    for (int r = 0; r < NREGIONS; r++)
        c->wide = c->wide || p->region_bytes[r] > UINT32_MAX;
    c->scratch = (c->scratch + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
}

/* "f32_64x784"; a number alone is "f32_scalar". */
static void print_shape_name(FILE *to, const plan_operand *x)
{
    fprintf(to, "%s_%s", types[x->dtype].lower, x->rank ? "" : "scalar");
    for (int d = 0; d < x->rank; d++)
        fprintf(to, "%s%lld", d ? "x" : "", (long long)x->dims[d]);
}

static void print_shapes(FILE *to, const mtbal_c *c)
{
    fprintf(to, "\n/* Types and dimensions. */\nenum {\n    none");
    for (int i = 0; i < c->nshapes; i++) {
        fprintf(to, i % 6 ? ", " : ",\n    ");
        print_shape_name(to, c->shapes[i]);
    }
    fprintf(to,
            "\n};\nconst rt_tensor model_shapes[] = {\n    {NULL, 0, 0, {0}}, /* an operand that "
            "is left out */\n");
    for (int i = 0; i < c->nshapes; i++) {
        const plan_operand *x = c->shapes[i];
        fprintf(to, "    {NULL, %s, %d, {", types[x->dtype].constant, x->rank);
        print_dims(to, x->rank, x->dims);
        fprintf(to, "%s}}, /* ", x->rank ? "" : "0");
        print_shape_name(to, x);
        fprintf(to, " */\n");
    }
    fprintf(to, "};\n");
}

/* ------------------------------------------------------------------ values */

static const char *find_id(const plan_operand *x, const mtbal_port *ports, int n,
                           const char *const *ids)
{
    for (int i = 0; i < n; i++) {
        plan_operand y = operand_of(&ports[i]);
        if (ports[i].region == x->region && ports[i].offset == x->offset && same_shape(x, &y))
            return ids[i];
    }
    return NULL;
}

/* "state_fc1_weight", or, of a value without a name in the graph, "arena_4096_f32_64x10". */
static void print_value(FILE *to, const mtbal_c *c, int value)
{
    const mtbal_plan *p = c->plan;
    const plan_operand *x = c->values[value];
    if (value == 0) {
        fprintf(to, "left_out");
        return;
    }
    const char *id = x->region == REGION_STATE   ? find_id(x, p->states, p->nstates, c->state_id)
                     : x->region == REGION_INPUT ? find_id(x, p->inputs, p->ninputs, c->input_id)
                     : x->region == REGION_OUTPUT
                         ? find_id(x, p->outputs, p->noutputs, c->output_id)
                         : NULL;
    fprintf(to, "%s_", region_ids[x->region]);
    if (id) {
        fprintf(to, "%s", id);
        return;
    }
    fprintf(to, "%zu_", x->offset);
    print_shape_name(to, x);
}

static void print_values(FILE *to, const mtbal_c *c)
{
    fprintf(
        to,
        "\n/* ---------------------------------------------------------- values: where they lie "
        "*/\n\nenum { ARENA, STATES, WEIGHTS, INPUTS, OUTPUTS };\n"
        "enum {\n    left_out");
    for (int i = 1; i <= c->nvalues; i++) {
        fprintf(to, i % 3 ? ", " : ",\n    ");
        print_value(to, c, i);
    }
    fprintf(to,
            "\n};\nstatic const struct {\n    %s offset;\n    uint16_t shape, region;\n"
            "} values[] = {\n    {0, none, ARENA},\n",
            c->wide ? "uint64_t" : "uint32_t");
    for (int i = 1; i <= c->nvalues; i++) {
        const plan_operand *x = c->values[i];
        fprintf(to, "    {%zu, ", x->offset);
        print_shape_name(to, x);
        fprintf(to, ", %s}, /* ", region_names[x->region]);
        print_value(to, c, i);
        fprintf(to, " */\n");
    }
    fprintf(to, "};\n");
}

/* ------------------------------------------------------------------ attributes */

static void print_double(FILE *to, double x)
{
    if (isfinite(x))
        fprintf(to, "%.17g", x);
    else
        fprintf(to, "%s",
                isnan(x) ? "(double)NAN"
                : x < 0  ? "-(double)INFINITY"
                         : "(double)INFINITY");
}

static void print_field(FILE *to, const rt_field *f, const unsigned char *attr)
{
    const void *at = attr + f->offset;
    if (f->type == 'I')
        fprintf(to, ", %d", *(const int32_t *)at);
    else if (f->type == 'L' && *(const int64_t *)at == INT64_MIN)
        fprintf(to, ", INT64_MIN");
    else if (f->type == 'L')
        fprintf(to, ", INT64_C(%lld)", (long long)*(const int64_t *)at);
    else if (f->type == 'F' || f->type == 'D') {
        fprintf(to, ", ");
        print_double(to, f->type == 'F' ? (double)*(const float *)at : *(const double *)at);
    }
    int n = plan_array_length(f, at);
    for (int k = 0; k < n; k++)
        fprintf(to, "%s%d", k == 0 ? ", {" : k % 24 ? ", " : ",\n    ", plan_array_item(f, at, k));
    fprintf(to, "%s", n ? "}" : "");
}

static void print_attributes(FILE *to, const mtbal_c *c)
{
    fprintf(to, "\n/* ---------------------------------------------------------- attributes: the "
                "fields are in\n * runtime/kernels.def */\n\n");
    for (int i = 0; i < c->plan->ncalls; i++) {
        const plan_call *call = &c->plan->calls[i];
        if (call->kernel < 0 || !call->attr || c->attr_of[i] != i)
            continue;
        const rt_kernel_info *k = &rt_kernels[call->kernel];
        fprintf(to, "static const rt_%s_attr a%d = {0", k->name, i);
        for (const rt_field *f = k->fields(); f->name; f++)
            print_field(to, f, call->attr);
        fprintf(to, "};\n");
    }
}

/* ------------------------------------------------------------------ calls */

static void print_operands(FILE *to, const mtbal_c *c, const plan_operand *x, int n,
                           const char *role)
{
    for (int i = 0; i < n; i++) {
        fprintf(to, "%s%s", i == 0 ? "" : ", ", role);
        print_value(to, c, value_of(c, &x[i]));
    }
}

static bool is_target(const mtbal_plan *p, int call)
{
    for (int i = 0; i < p->ncalls; i++)
        if (p->calls[i].kernel < 0 && p->calls[i].jump == call)
            return true;
    return false;
}

static void print_jump(FILE *to, const plan_call *call)
{
    if (call->nin)
        fprintf(to, "    if (!*(%s + %zu))\n    ", regions[call->in[0].region], call->in[0].offset);
    fprintf(to, "    goto call_%d;\n", call->jump);
}

static void print_call(FILE *to, const mtbal_c *c, int i)
{
    const plan_call *call = &c->plan->calls[i];
    fprintf(to, "\n    /* %d. ", i);
    print_text(to, call->label ? call->label : "");
    fprintf(to, " */\n");
    if (call->kernel < 0) {
        print_jump(to, call);
        return;
    }
    fprintf(to, "    {\n        static const operand x[] = {");
    print_operands(to, c, call->in, call->nin, "");
    fprintf(to, "%s", call->nin ? ",\n            " : "");
    print_operands(to, c, call->out, call->nout, "OUT | ");
    fprintf(to, ", LAST};\n        run(m, rt_%s, ", rt_kernels[call->kernel].name);
    if (call->attr)
        fprintf(to, "&a%d, x);\n    }\n", c->attr_of[i]);
    else
        fprintf(to, "NULL, x);\n    }\n");
}

static const char run_text[] =
    "/* Calls a kernel with its operands at their places. */\n"
    "static void run(model *m, rt_kernel *kernel, const void *attributes, const operand *x)\n{\n"
    "    unsigned char *const regions[] = {m->arena, m->states, (unsigned char "
    "*)(uintptr_t)m->weights,\n"
    "                                      m->inputs, m->outputs};\n"
    "    rt_tensor t[MAX_OPERANDS];\n"
    "    int n = 0, nin = 0;\n"
    "    for (; x[n] != LAST; n++) {\n"
    "        const int v = x[n] & (OUT - 1);\n"
    "        t[n] = model_shapes[values[v].shape];\n"
    "        if (v != left_out)\n"
    "            t[n].data = regions[values[v].region] + values[v].offset;\n"
    "        nin += x[n] < OUT;\n"
    "    }\n"
    "    kernel(&m->env, attributes, t, t + nin);\n}\n";

static int most_operands(const mtbal_plan *p)
{
    int most = 1;
    for (int i = 0; i < p->ncalls; i++) {
        int n = p->calls[i].nin + p->calls[i].nout;
        most = n > most ? n : most;
    }
    return most;
}

static void print_step(FILE *to, const mtbal_c *c)
{
    const mtbal_plan *p = c->plan;
    bool many = c->nvalues >= 0x7fff;
    fprintf(to,
            "\n/* ---------------------------------------------------------- the step */\n\n"
            "typedef %s operand; /* a value; OUT: written */\n"
            "enum { OUT = %s, LAST = %s, MAX_OPERANDS = %d };\n\n",
            many ? "uint32_t" : "uint16_t", many ? "0x40000000" : "0x8000",
            many ? "0x7fffffff" : "0xffff", most_operands(p));
    fputs(run_text, to);
    fprintf(to, "\nvoid model_step(model *m, uint64_t seed)\n{\n    m->env.seed = seed;\n");
    for (int i = 0; i < p->ncalls; i++) {
        if (is_target(p, i))
            fprintf(to, "\ncall_%d:;\n", i);
        print_call(to, c, i);
    }
    if (is_target(p, p->ncalls))
        fprintf(to, "call_%d:;\n", p->ncalls);
    fprintf(to, "}\n");
}

/* ------------------------------------------------------------------ ports */

/* Kinds of ports and where they lie, in the order in which model.h lists them. */
typedef struct port_kind {
    const char *lower, *upper, *what;
    const mtbal_port *ports;
    int n;
    const char *const *ids;
} port_kind;

static void list_kinds(const mtbal_c *c, port_kind kinds[3])
{
    const mtbal_plan *p = c->plan;
    kinds[0] = (port_kind){"input",   "INPUT",    "to be filled before a step",
                           p->inputs, p->ninputs, c->input_id};
    kinds[1] = (port_kind){"output",   "OUTPUT",    "to be read after a step",
                           p->outputs, p->noutputs, c->output_id};
    kinds[2] =
        (port_kind){"state",   "STATE",    "what a step changes: each step leaves the next value",
                    p->states, p->nstates, c->state_id};
}

static const char *member(int region)
{
    return regions[region] + 3; /* behind "m->" */
}

static void print_ports(FILE *to, const port_kind *k)
{
    fprintf(to, "\nconst model_port model_%ss[MODEL_%sS + 1] = {\n", k->lower, k->upper);
    for (int i = 0; i < k->n; i++) {
        const mtbal_port *p = &k->ports[i];
        plan_operand x = operand_of(p);
        size_t bytes = (size_t)rt_count(&p->tensor) * rt_dtype_size(p->tensor.dtype);
        fprintf(to, "    {\"");
        print_text(to, p->name);
        fprintf(to, "\", offsetof(model, %s) + %zu, %zu, %d, ", member(p->region), p->offset, bytes,
                p->is_default);
        print_shape_name(to, &x);
        fprintf(to, "},\n");
    }
    fprintf(to, "    {NULL, 0, 0, 0, none},\n};\n");
}

static const char *default_name(const mtbal_plan *p, const plan_default *d)
{
    for (int i = 0; i < p->nstates; i++)
        if (p->states[i].region == d->region && p->states[i].offset == d->offset)
            return p->states[i].name;
    for (int i = 0; i < p->ninputs; i++)
        if (p->inputs[i].region == d->region && p->inputs[i].offset == d->offset)
            return p->inputs[i].name;
    return "";
}

static void print_init(FILE *to, const mtbal_c *c)
{
    static const char start[] =
        "\nvoid model_init(model *m, const void *weights)\n{\n"
        "    const unsigned char *w = (const unsigned char *)weights;\n"
        "    memset(m, 0, sizeof *m);\n"
        "    m->weights = w;\n"
        "    m->env.nthreads = 1;\n"
        "    m->env.scratch = m->scratch;\n"
        "    m->env.scratch_size = MODEL_SCRATCH_BYTES;\n"
        "    m->env.cpu = rt_cpu_detect();\n"
        "#if MODEL_THREADS > 1\n"
        "    if (rt_pool_size() <= sizeof m->pool &&\n"
        "        rt_pool_start((rt_pool *)(void *)m->pool, MODEL_THREADS) == 0) {\n"
        "        m->env.pool = (rt_pool *)(void *)m->pool;\n"
        "        m->env.nthreads = MODEL_THREADS;\n"
        "    }\n"
        "#endif\n";
    const mtbal_plan *p = c->plan;
    if (c->nweights) {
        fprintf(
            to,
            "\n/* What inputs and states start with: from the weights, to the struct, bytes. */\n"
            "static const struct {\n    size_t from, to, bytes;\n} first_values[] = {\n");
        for (int i = 0; i < c->nweights; i++) {
            const plan_default *d = c->weights[i].from;
            fprintf(to, "    {%zu, offsetof(model, %s) + %zu, %zu}, /* ", c->weights[i].offset,
                    member(d->region), d->offset, d->bytes);
            print_text(to, default_name(p, d));
            fprintf(to, " */\n");
        }
        fprintf(to, "};\n");
    }
    fputs(start, to);
    if (c->nweights)
        fputs("    for (size_t i = 0; i < sizeof first_values / sizeof *first_values; i++)\n"
              "        memcpy((unsigned char *)m + first_values[i].to, w + first_values[i].from,\n"
              "               first_values[i].bytes);\n",
              to);
    fprintf(to, "}\n");
}

static const char rest[] =
    "\nvoid model_done(model *m)\n{\n"
    "    if (m->env.pool)\n        rt_pool_stop(m->env.pool);\n"
    "    m->env.pool = NULL;\n    m->env.nthreads = 1;\n}\n"
    "\nconst model_port *model_find(const model_port *ports, const char *name)\n{\n"
    "    while (ports->name && strcmp(ports->name, name))\n        ports++;\n"
    "    return ports->name ? ports : NULL;\n}\n"
    "\nvoid *model_data(model *m, const model_port *port)\n{\n"
    "    return (unsigned char *)m + port->offset;\n}\n"
    "\nvoid model_save_states(const model *m, void *to)\n{\n"
    "    memcpy(to, m->states, MODEL_STATE_BYTES);\n}\n"
    "\nvoid model_load_states(model *m, const void *from)\n{\n"
    "    memcpy(m->states, from, MODEL_STATE_BYTES);\n}\n";

void c_print_model(FILE *to, const mtbal_c *c)
{
    port_kind kinds[3];
    list_kinds(c, kinds);
    fprintf(to, "/* model.c: ");
    print_text(to, c->options.model);
    fprintf(to, " as straight-line calls of the kernels in runtime/. Written by\n"
                " * mtbal-rewrite --emit-c. Each call names the ONNX node that it comes from. */\n"
                "#include \"model.h\"\n\n#include <math.h>\n#include <string.h>\n");
    print_shapes(to, c);
    print_values(to, c);
    print_attributes(to, c);
    print_step(to, c);
    fprintf(to, "\n/* ---------------------------------------------------------- names, places, "
                "first values */\n");
    for (int i = 0; i < 3; i++)
        print_ports(to, &kinds[i]);
    print_init(to, c);
    fputs(rest, to);
}

/* ------------------------------------------------------------------ model.h */

static void print_accessors(FILE *to, const port_kind *k)
{
    if (!k->n)
        return;
    fprintf(to, "\n/* %c%ss, %s. */\n", k->upper[0], k->lower + 1, k->what);
    for (int i = 0; i < k->n; i++) {
        const mtbal_port *p = &k->ports[i];
        const char *type = types[p->tensor.dtype].c;
        fprintf(to, "static inline %s *model_%s_%s(model *m) /* ", type, k->lower, k->ids[i]);
        print_text(to, p->name);
        fprintf(to, " [");
        print_dims(to, p->tensor.rank, p->tensor.dims);
        fprintf(to, "] */\n{\n    return (%s *)(void *)(%s + %zu);\n}\n", type, regions[p->region],
                p->offset);
    }
}

static void print_indices(FILE *to, const port_kind *k)
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
    "/* Runs the graph once. seed: of random operators; count it up from step to step. */\n"
    "void model_step(model *m, uint64_t seed);\n"
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
    port_kind kinds[3];
    list_kinds(c, kinds);
    fprintf(to, "/* model.h: ");
    print_text(to, c->options.model);
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

/* ------------------------------------------------------------------ lists of the runtime */

/* The rows of the list whose kernels are used. */
void c_print_kernels(FILE *to, const mtbal_c *c)
{
    const char *text = "";
    for (int s = 0; c_sources[s].name; s++)
        if (!strcmp(c_sources[s].name, "runtime/kernels.def"))
            text = c_sources[s].text;
    for (const char *line = text; *line;) {
        const char *end = strchr(line, '\n') + 1;
        bool shown = !strncmp(line, " *", 2) || !strncmp(line, "/* runtime", 10);
        for (int k = 0; k < RT_NKERNELS; k++) {
            char start[64];
            int n = snprintf(start, sizeof start, "KERNEL(%s,", rt_kernels[k].name);
            shown = shown || (c->kernel_named[k] && !strncmp(line, start, (size_t)n));
        }
        if (shown)
            fwrite(line, 1, (size_t)(end - line), to);
        line = end;
    }
}

static unsigned long long mask(const bool *used, int n)
{
    unsigned long long bits = 0;
    for (int i = 0; i < n && i < 64; i++)
        bits |= used[i] ? 1ull << i : 0;
    return bits;
}

void c_print_used(FILE *to, const mtbal_c *c)
{
    fprintf(to,
            "/* runtime/used.h: which element types and operators the graph has, as bits: the "
            "compiler leaves\n * out the others. */\n"
            "#ifndef MTBAL_RT_USED_H\n#define MTBAL_RT_USED_H\n\n"
            "#if !defined(MODEL_THREADS) || MODEL_THREADS < 2\n#define RT_NO_THREADS\n#endif\n\n"
            "#define RT_USES_TYPE(dtype) ((0x%xu >> (dtype)) & 1)\n"
            "#define RT_USES_INTEGERS %d\n"
            "#define RT_USES_UNARY(op) ((0x%llxull >> (op)) & 1)\n"
            "#define RT_USES_BINARY(op) ((0x%llxull >> (op)) & 1)\n"
            "#define RT_USES_CHAIN_UNARY(op) ((0x%llxull >> (op)) & 1)\n"
            "#define RT_USES_CHAIN_BINARY(op) ((0x%llxull >> (op)) & 1)\n\n#endif\n",
            (unsigned)c->types, c->integers, mask(c->unary_op, 64), mask(c->binary_op, 64),
            mask(c->chain_op + RT_CHAIN_UNARY, 64), mask(c->chain_op + RT_CHAIN_BINARY, 64));
}
