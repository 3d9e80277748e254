/* runtime/program.c: executing a program; what the processor can do. */
#include "runtime/runtime.h"

/* Lets one call at the part of the arena that its operands are, or takes it away again. */
static void guard(const rt_program *p, const rt_tensor *t, int n, int open)
{
    for (int i = 0; i < n; i++) {
        unsigned char *data = (unsigned char *)t[i].data;
        size_t bytes = (size_t)rt_count(&t[i]) * rt_dtype_size(t[i].dtype);
        if (!data || data < p->arena || data >= p->arena + p->arena_bytes)
            continue;
        if (open)
            RT_UNPOISON(data, bytes);
        else
            RT_POISON(data - (uintptr_t)data % 8, bytes + (uintptr_t)data % 8 + 7);
    }
}

static void guard_call(const rt_program *p, const rt_call *call, int open)
{
    if (!RT_SANITIZED || !p->arena)
        return;
    guard(p, call->in, call->in ? call->nin : 0, open);
    guard(p, call->out, call->out ? call->nout : 0, open);
}

rt_status rt_run(const rt_env *env, const rt_program *program)
{
    if (env->fault)
        env->fault->format = NULL;
    for (int32_t i = 0; i < program->ncalls; i++) {
        const rt_call *call = &program->calls[i];
        int jumps = 0;
        guard_call(program, call, 1);
        if (call->run)
            call->run(env, call->attr, call->in, call->out);
        else
            jumps = !call->in || !*(const unsigned char *)call->in[0].data;
        guard_call(program, call, 0);
        if (rt_stopped(env))
            return RT_STOPPED;
        if (env->fault && env->fault->format) {
            env->fault->call = i;
            return RT_FAILED;
        }
        if (jumps)
            i = call->jump - 1;
    }
    return RT_DONE;
}

void rt_fail(const rt_env *env, const char *format, int64_t value, int64_t limit,
             const rt_tensor *at, int64_t element)
{
    rt_fault *fault = env->fault;
    if (!fault || (fault->format && fault->element <= element))
        return;
    fault->format = format;
    fault->value = value;
    fault->limit = limit;
    fault->element = element;
    fault->count = rt_count(at);
}

int rt_cpu_detect(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return RT_CPU_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return RT_CPU_AVX2;
#endif
    return RT_CPU_PORTABLE;
}
