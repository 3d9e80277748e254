/* tests/fuzz/once.h: a model goes through everything that the commands do with it, with generated
 * inputs: lowered and run once as it is (mtbal-run), and rewritten, lowered and run for one step
 * (mtbal-rewrite, mtbal-run). Any end is fine but a crash, a sanitizer's report, a leak or a hang.
 */
#ifndef MTBAL_FUZZ_ONCE_H
#define MTBAL_FUZZ_ONCE_H

#include "lower/lower.h"
#include "onnxio/onnxio.h"
#include "passes/passes.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

/* A run that takes longer is ended as Ctrl-C ends it; programs that are larger are not run. */
enum { ONCE_SECONDS = 3, ONCE_BYTES = 1 << 27 };
#define ONCE_FLOPS 1e8

static void once_stop(int signal)
{
    (void)signal;
    mtbal_stop = mtbal_halt = 1;
}

static void once_set_timer(long seconds)
{
    const struct itimerval timer = {.it_value.tv_sec = seconds};
    signal(SIGALRM, once_stop);
    mtbal_stop = mtbal_halt = 0;
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* Small numbers of both signs; integers stay small enough to be indices of something. */
static void once_fill(rt_tensor *t, uint32_t seed)
{
    const mtbal_tensor as = {.dtype = (mtbal_dtype)t->dtype, .count = rt_count(t), .data = t->data};
    for (int64_t i = 0; i < as.count; i++) {
        uint32_t bits = (seed + (uint32_t)i) * 2654435761u;
        bool whole = !mtbal_dtype_is_float(as.dtype);
        mtbal_tensor copy = as;
        mtbal_tensor_set_f64(&copy, i,
                             whole ? (double)(bits >> 30) - (double)(bits >> 20 & 1)
                                   : (double)(bits >> 8) / (1 << 23) - 1);
    }
}

static void once_run(const mtbal_plan *plan)
{
    const mtbal_port *inputs, *outputs, *states;
    int ninputs, noutputs, nstates;
    mtbal_instance *instance = NULL;
    mtbal_plan_info info;
    mtbal_plan_describe(plan, &info);
    if (info.flops > ONCE_FLOPS || info.arena_bytes > ONCE_BYTES || info.state_bytes > ONCE_BYTES ||
        info.constant_bytes > ONCE_BYTES)
        return;
    mtbal_plan_ports(plan, &inputs, &ninputs, &outputs, &noutputs, &states, &nstates);
    if (mtbal_instance_new(plan, 1, &instance, NULL) != MTBAL_OK)
        return;
    for (int i = 0; i < ninputs; i++)
        if (!inputs[i].is_default)
            once_fill(mtbal_instance_input(instance, inputs[i].name), (uint32_t)i);
    (void)mtbal_instance_run(instance, 1);
    mtbal_instance_free(instance);
}

enum { ONCE_BINDS = 64 };

/* Sizes for the inputs: their own, or 2 where they are not known. */
static int once_bind(const mtbal_model *model, mtbal_bind binds[ONCE_BINDS])
{
    int n = 0;
    for (int i = 0; i < model->graph->ninputs && n < ONCE_BINDS; i++) {
        const mtbal_value *v = model->graph->inputs[i];
        if (v->is_initializer || v->type.rank < 0 || v->type.rank > RT_MAX_RANK)
            continue;
        binds[n] = (mtbal_bind){.name = v->name, .rank = v->type.rank};
        int64_t count = 1;
        for (int d = 0; d < v->type.rank; d++) {
            int64_t size = v->type.dims[d].size;
            binds[n].dims[d] = size < 0 ? 2 : size;
            if (!mtbal_mul_i64(count, binds[n].dims[d], &count) || count > ONCE_BYTES / 8)
                return -1;
        }
        n++;
    }
    return n;
}

static void once_lower(mtbal_model *model, bool step)
{
    mtbal_bind binds[ONCE_BINDS];
    mtbal_lower_options options = {.noutputs = -1, .states = step, .binds = binds};
    mtbal_plan *plan = NULL;
    mtbal_diag diag = {0};
    options.nbinds = once_bind(model, binds);
    if (options.nbinds < 0)
        return;
    if (mtbal_lower(model, &options, &plan, &diag) == MTBAL_OK)
        once_run(plan);
    else if (!*diag.what && diag.status != MTBAL_NOMEM && !mtbal_stop)
        abort(); /* refused without a word */
    mtbal_plan_free(plan);
}

static mtbal_model *once_read(const uint8_t *data, size_t size)
{
    mtbal_model *model = NULL;
    if (mtbal_onnx_read_bytes(data, size, NULL, &model, NULL) == MTBAL_OK &&
        mtbal_verify(model, NULL) == MTBAL_OK)
        return model;
    mtbal_model_free(model);
    return NULL;
}

static void once(const uint8_t *data, size_t size)
{
    mtbal_options options;
    mtbal_context *context = NULL;
    mtbal_diag diag = {0};
    once_set_timer(ONCE_SECONDS);
    mtbal_model *model = once_read(data, size);
    bool has_states = model && mtbal_property_get(model, "mtbal.state");
    if (model && mtbal_standard_form(model, NULL) == MTBAL_OK)
        once_lower(model, has_states);
    mtbal_model_free(model);
    model = once_read(data, size);
    mtbal_options_default(&options);
    options.optimizer = "adam";
    if (model && mtbal_rewrite(model, &options, &context, &diag) == MTBAL_OK)
        once_lower(model, true);
    else if (model && !*diag.what && diag.status != MTBAL_NOMEM && !mtbal_stop)
        abort();
    mtbal_model_free(model);
    once_set_timer(0);
}

#endif
