/* runtime/program.c: executing a program; what the processor can do. */
#include "runtime/runtime.h"

rt_status rt_run(const rt_env *env, const rt_program *program)
{
    if (env->fault)
        env->fault->format = NULL;
    for (int32_t i = 0; i < program->ncalls; i++) {
        const rt_call *call = &program->calls[i];
        if (call->run)
            call->run(env, call->attr, call->in, call->out);
        if (rt_stopped(env))
            return RT_STOPPED;
        if (env->fault && env->fault->format) {
            env->fault->call = i;
            return RT_FAILED;
        }
        if (call->run)
            continue;
        if (!call->in || !*(const unsigned char *)call->in[0].data)
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
