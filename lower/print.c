/* lower/print.c: a plan for people: one line a call. */
#include "lower/plan.h"

static const char *const regions[NREGIONS] = {"arena", "state", "const", "input", "output"};

static void print_operand(FILE *to, const plan_operand *x)
{
    if (x->cell < 0) {
        fprintf(to, " -");
        return;
    }
    fprintf(to, " %s+%zu:%s[", regions[x->region], x->offset,
            mtbal_dtype_name((mtbal_dtype)x->dtype));
    for (int d = 0; d < x->rank; d++)
        fprintf(to, "%s%lld", d ? "," : "", (long long)x->dims[d]);
    fprintf(to, "]");
}

int plan_array_item(const rt_field *f, const void *at, int i)
{
    return f->type == 'A' ? ((const int32_t *)at)[i] : ((const uint8_t *)at)[i];
}

int plan_array_length(const rt_field *f, const void *at)
{
    int n = f->type == 'A' || f->type == 'B' ? f->count : 0;
    while (n > 1 && plan_array_item(f, at, n - 1) == 0)
        n--;
    return n;
}

static void print_field(FILE *to, const rt_field *f, const unsigned char *attr)
{
    const void *at = attr + f->offset;
    fprintf(to, " %s=", f->name);
    if (f->type == 'I')
        fprintf(to, "%d", *(const int32_t *)at);
    else if (f->type == 'L')
        fprintf(to, "%lld", (long long)*(const int64_t *)at);
    else if (f->type == 'F')
        fprintf(to, "%.9g", (double)*(const float *)at);
    else if (f->type == 'D')
        fprintf(to, "%.17g", *(const double *)at);
    int n = plan_array_length(f, at);
    for (int i = 0; i < n; i++)
        fprintf(to, "%s%d", i ? "," : "", plan_array_item(f, at, i));
}

static void print_call(FILE *to, int index, const plan_call *c)
{
    fprintf(to, "%4d %-16s", index, c->kernel < 0 ? "jump" : rt_kernels[c->kernel].name);
    if (c->kernel < 0)
        fprintf(to, " %d%s", c->jump, c->nin ? " unless" : "");
    for (int i = 0; i < c->nin; i++)
        print_operand(to, &c->in[i]);
    fprintf(to, " ->");
    for (int i = 0; i < c->nout; i++)
        print_operand(to, &c->out[i]);
    for (const rt_field *f = c->kernel < 0 || !c->attr ? NULL : rt_kernels[c->kernel].fields();
         f && f->name; f++)
        print_field(to, f, c->attr);
    fprintf(to, "  # %s\n", c->label ? c->label : "");
}

static void print_ports(FILE *to, const char *what, const mtbal_port *ports, int n)
{
    for (int i = 0; i < n; i++) {
        plan_operand x = {.region = ports[i].region,
                          .offset = ports[i].offset,
                          .dtype = ports[i].tensor.dtype,
                          .rank = ports[i].tensor.rank};
        for (int d = 0; d < x.rank; d++)
            x.dims[d] = ports[i].tensor.dims[d];
        fprintf(to, "%s %s", what, ports[i].name);
        print_operand(to, &x);
        fprintf(to, "\n");
    }
}

void mtbal_plan_print(FILE *to, const mtbal_plan *plan)
{
    print_ports(to, "input", plan->inputs, plan->ninputs);
    print_ports(to, "state", plan->states, plan->nstates);
    for (int i = 0; i < plan->ncalls; i++)
        print_call(to, i, &plan->calls[i]);
    print_ports(to, "output", plan->outputs, plan->noutputs);
    fprintf(to,
            "# %d calls, %.0f flops; arena %zu bytes (at least %zu), states %zu, constants %zu\n",
            plan->ncalls, plan->info.flops, plan->info.arena_bytes, plan->info.arena_lower_bound,
            plan->info.state_bytes, plan->info.constant_bytes);
}
