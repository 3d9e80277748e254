/* lower/c/model.c: prints model.c. */
#include "lower/c/c.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ shapes */

static void print_shapes(FILE *to, const mtbal_c *c)
{
    fprintf(to, "\n/* Types and dimensions. */\nenum {\n    none");
    for (int i = 0; i < c->nshapes; i++) {
        fprintf(to, i % 6 ? ", " : ",\n    ");
        c_print_shape(to, c->shapes[i]);
    }
    fprintf(to,
            "\n};\nconst rt_tensor model_shapes[] = {\n    {NULL, 0, 0, {0}}, /* an operand that "
            "is left out */\n");
    for (int i = 0; i < c->nshapes; i++) {
        const plan_operand *x = c->shapes[i];
        fprintf(to, "    {NULL, %s, %d, {", c_types[x->dtype].constant, x->rank);
        c_print_dims(to, x->rank, x->dims);
        fprintf(to, "%s}}, /* ", x->rank ? "" : "0");
        c_print_shape(to, x);
        fprintf(to, " */\n");
    }
    fprintf(to, "};\n");
}

/* ------------------------------------------------------------------ values */

/* "state_fc1_weight", or, of a value without a name in the graph, "arena_4096_f32_64x10". */
static void print_value(FILE *to, const mtbal_c *c, int value)
{
    const plan_operand *x = c->values[value];
    if (value == 0) {
        fprintf(to, "left_out");
        return;
    }
    const char *id = c->value_id[value];
    fprintf(to, "%s_", c_region_ids[x->region]);
    if (id) {
        fprintf(to, "%s", id);
        return;
    }
    fprintf(to, "%zu_", x->offset);
    c_print_shape(to, x);
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
        c_print_shape(to, x);
        fprintf(to, ", %s}, /* ", c_region_names[x->region]);
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
        print_value(to, c, c_value_of(c, &x[i]));
    }
}

static void print_jump(FILE *to, const plan_call *call)
{
    if (call->nin)
        fprintf(to, "    if (!*(%s + %zu))\n    ", c_regions[call->in[0].region],
                call->in[0].offset);
    fprintf(to, "    goto call_%d;\n", call->jump);
}

/* Data that a kernel cannot work with are integers: indices, labels, lengths, divisors. */
static bool may_fail(const plan_call *call)
{
    for (int k = 0; k < call->nin; k++)
        if (call->in[k].cell >= 0 && call->in[k].dtype != RT_BOOL &&
            !mtbal_dtype_is_float((mtbal_dtype)call->in[k].dtype))
            return true;
    return false;
}

static void print_call(FILE *to, const mtbal_c *c, int i)
{
    const plan_call *call = &c->plan->calls[i];
    bool fails = may_fail(call);
    fprintf(to, "\n    /* %d. ", i);
    c_print_comment(to, call->label ? call->label : "");
    fprintf(to, " */\n");
    if (call->kernel < 0) {
        print_jump(to, call);
        return;
    }
    fprintf(to, "    {\n        static const operand x[] = {");
    print_operands(to, c, call->in, call->nin, "");
    fprintf(to, "%s", call->nin ? ",\n            " : "");
    print_operands(to, c, call->out, call->nout, "OUT | ");
    fprintf(to, ", LAST};\n        %srun(m, rt_%s, ", fails ? "if (" : "",
            rt_kernels[call->kernel].name);
    if (call->attr)
        fprintf(to, "&a%d, x)", c->attr_of[i]);
    else
        fprintf(to, "NULL, x)");
    if (fails) {
        fprintf(to, ")\n            return fail(m, ");
        c_print_string(to, call->label ? call->label : "");
        fprintf(to, ")");
    }
    fprintf(to, ";\n    }\n");
}

static const char run_text[] =
    "/* Calls a kernel with its operands at their places; whether it failed. */\n"
    "static int run(model *m, rt_kernel *kernel, const void *attributes, const operand *x)\n{\n"
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
    "    kernel(&m->env, attributes, t, t + nin);\n"
    "    return m->fault.format != NULL;\n}\n";
static const char fail_text[] = "\nstatic int fail(model *m, const char *node)\n{\n"
                                "    m->failed = node;\n    return 1;\n}\n";

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
    bool fails = false;
    for (int i = 0; i < p->ncalls && !fails; i++)
        fails = p->calls[i].kernel >= 0 && may_fail(&p->calls[i]);
    if (fails)
        fputs(fail_text, to);
    fprintf(to, "\nint model_step(model *m, uint64_t seed)\n{\n    m->env.seed = seed;\n"
                "    m->fault.format = NULL;\n");
    for (int i = 0; i < p->ncalls; i++) {
        if (c->is_target[i])
            fprintf(to, "\ncall_%d:;\n", i);
        print_call(to, c, i);
    }
    if (c->is_target[p->ncalls])
        fprintf(to, "call_%d:;\n", p->ncalls);
    fprintf(to, "    return 0;\n}\n");
}

/* ------------------------------------------------------------------ ports */

static void print_ports(FILE *to, const c_port_kind *k)
{
    fprintf(to, "\nconst model_port model_%ss[MODEL_%sS + 1] = {\n", k->lower, k->upper);
    for (int i = 0; i < k->n; i++) {
        const mtbal_port *p = &k->ports[i];
        plan_operand x = c_operand_of(p);
        size_t bytes = (size_t)rt_count(&p->tensor) * rt_dtype_size(p->tensor.dtype);
        fprintf(to, "    {");
        c_print_string(to, p->name);
        fprintf(to, ", offsetof(model, %s) + %zu, %zu, %d, ", c_member(p->region), p->offset, bytes,
                p->is_default);
        c_print_shape(to, &x);
        fprintf(to, "},\n");
    }
    fprintf(to, "    {NULL, 0, 0, 0, none},\n};\n");
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
        "    m->env.fault = &m->fault;\n"
        "#if MODEL_THREADS > 1\n"
        "    if (rt_pool_size() <= sizeof m->pool &&\n"
        "        rt_pool_start((rt_pool *)(void *)m->pool, MODEL_THREADS) == 0) {\n"
        "        m->env.pool = (rt_pool *)(void *)m->pool;\n"
        "        m->env.nthreads = MODEL_THREADS;\n"
        "    }\n"
        "#endif\n";
    if (c->nweights) {
        fprintf(
            to,
            "\n/* What inputs and states start with: from the weights, to the struct, bytes. */\n"
            "static const struct {\n    size_t from, to, bytes;\n} first_values[] = {\n");
        for (int i = 0; i < c->nweights; i++) {
            const plan_default *d = c->weights[i].from;
            fprintf(to, "    {%zu, offsetof(model, %s) + %zu, %zu}, /* ", c->weights[i].offset,
                    c_member(d->region), d->offset, d->bytes);
            c_print_comment(to, d->name);
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
    c_port_kind kinds[3];
    c_list_kinds(c, kinds);
    fprintf(to, "/* model.c: ");
    c_print_comment(to, c->options.model);
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
