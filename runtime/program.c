/* runtime/program.c: executing a program; what the processor can do. */
#include "runtime/runtime.h"

void rt_run(const rt_env *env, const rt_program *program)
{
    for (int32_t i = 0; i < program->ncalls; i++) {
        const rt_call *call = &program->calls[i];
        if (call->run)
            call->run(env, call->attr, call->in, call->out);
        else if (!call->in || !*(const unsigned char *)call->in[0].data)
            i = call->jump - 1;
    }
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
