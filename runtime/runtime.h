/* runtime/runtime.h: the face of runtime/, the tiny runtime. It executes a program: a flat list of
 * kernel calls on tensors whose sizes and places are all fixed beforehand. It depends on libc and
 * libm (threads optional) and on nothing of this project: this folder is also what `--emit-c`
 * ships. It allocates nothing, holds no global mutable state and knows no graph: only calls.
 * It compiles as C11 and as C++.
 *
 * Every kernel has one signature: kernel(env, attributes, inputs, outputs). A kernel may use
 * env->nthreads threads, but cuts its work by size only, so that the bits of a result do not depend
 * on the number of threads.
 */
#ifndef MTBAL_RUNTIME_H
#define MTBAL_RUNTIME_H

#include "runtime/used.h"

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* Under AddressSanitizer memory that no call may touch is poisoned: an overrun inside of a block is
 * reported as one of a block. Elsewhere these do nothing. */
#if defined(__SANITIZE_ADDRESS__)
#define RT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RT_SANITIZED 1
#endif
#endif
#ifdef RT_SANITIZED
#include <sanitizer/asan_interface.h>
#define RT_POISON(p, bytes)   __asan_poison_memory_region(p, bytes)
#define RT_UNPOISON(p, bytes) __asan_unpoison_memory_region(p, bytes)
#else
#define RT_SANITIZED          0
#define RT_POISON(p, bytes)   ((void)(p), (void)(bytes))
#define RT_UNPOISON(p, bytes) ((void)(p), (void)(bytes))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RT_MAX_RANK    8
#define RT_RESIZE_TAPS 256 /* input elements that an output element is interpolated from */
#define RT_MAX_THREADS 64

/* Element types: ONNX's numbers. */
typedef enum rt_dtype {
    RT_F32 = 1,
    RT_U8 = 2,
    RT_I8 = 3,
    RT_U16 = 4,
    RT_I16 = 5,
    RT_I32 = 6,
    RT_I64 = 7,
    RT_BOOL = 9,
    RT_F16 = 10,
    RT_F64 = 11,
    RT_U32 = 12,
    RT_U64 = 13,
    RT_BF16 = 16
} rt_dtype;

/* A dense, row-major tensor. data NULL: an optional operand that is left out. */
typedef struct rt_tensor {
    void *data;
    int32_t dtype; /* rt_dtype */
    int32_t rank;
    int64_t dims[RT_MAX_RANK];
} rt_tensor;

/* ------------------------------------------------------------------ threads.c */

/* Why a run failed: a kernel met data that it cannot work with. */
typedef struct rt_fault {
    const char
        *format; /* printf's, of value and limit: "index %lld of an axis of %lld"; NULL: none */
    long long value, limit;
    int64_t element, count; /* where: an element of the operand that holds it, of so many */
    int32_t call;           /* of the program */
} rt_fault;

typedef struct rt_pool rt_pool;
/* What a kernel may lean on: threads, and for each thread a piece of scratch memory. */
typedef struct rt_env {
    int nthreads;           /* >= 1 */
    rt_pool *pool;          /* NULL when nthreads is 1 */
    unsigned char *scratch; /* nthreads pieces of scratch_size bytes, 64-byte aligned */
    size_t scratch_size;    /* RT_SCRATCH_BYTES */
    int cpu;                /* rt_cpu_detect(), or a lower level to force another kernel choice */
    uint64_t seed;          /* of random kernels; the driver changes it from step to step */
    rt_fault *fault;        /* what kernels found wrong; NULL: nobody asks */
    const volatile sig_atomic_t *stop; /* not 0: end soon, results do not count; or NULL */
} rt_env;

static inline int rt_stopped(const rt_env *env)
{
    return env->stop && *env->stop;
}

/* Per-thread scratch that any kernel may count on: packing buffers of GEMM. */
#define RT_SCRATCH_BYTES ((size_t)768 * 1024)

enum { RT_CPU_PORTABLE = 0, RT_CPU_AVX2 = 1, RT_CPU_AVX512 = 2 };
int rt_cpu_detect(void);

/* body(context, first, last, thread) on [0, count) cut into pieces of `grain` (the last may be
 * shorter), in any order, on any thread. Returns when all are done, or skipped after env->stop. */
typedef void rt_range_fn(void *context, int64_t first, int64_t last, int thread);
void rt_parallel(const rt_env *env, int64_t count, int64_t grain, rt_range_fn *body, void *context);

/* A pool of nthreads-1 workers in memory of the caller (rt_pool_size() bytes). 0 on success.
 * Without thread support (RT_NO_THREADS) it always fails, and env->nthreads must be 1. */
size_t rt_pool_size(void);
int rt_pool_start(rt_pool *pool, int nthreads);
void rt_pool_stop(rt_pool *pool);

/* ------------------------------------------------------------------ kernels */

typedef void rt_kernel(const rt_env *env, const void *attr, const rt_tensor *in,
                       const rt_tensor *out);
/* Extra scratch that a call needs (appended as a last output, uint8); NULL in the table: none. */
typedef size_t rt_scratch_fn(const void *attr, const rt_tensor *in, const rt_tensor *out);

/* Attribute structs: kernels.def lists, per kernel, the fields, so that lowering fills them by name
 * and --emit-c prints them. I: int32_t, L: int64_t, F: float, D: double, A, B: int32_t and
 * uint8_t array of given length. */
#define RT_I(name)    int32_t name;
#define RT_L(name)    int64_t name;
#define RT_F(name)    float name;
#define RT_D(name)    double name;
#define RT_A(name, n) int32_t name[n];
#define RT_B(name, n) uint8_t name[n];
#define KERNEL(name, scratch, fields) \
    typedef struct rt_##name##_attr { \
        int32_t unused_;              \
        fields                        \
    } rt_##name##_attr;               \
    void rt_##name(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out);
#include "runtime/kernels.def"
#undef KERNEL
#undef RT_I
#undef RT_L
#undef RT_F
#undef RT_D
#undef RT_A
#undef RT_B

/* Scratch functions named in the list. rt_scratch_none: for a row that needs none. */
#define KERNEL(name, scratch, fields) \
    size_t rt_scratch_##scratch(const void *attr, const rt_tensor *in, const rt_tensor *out);
#include "runtime/kernels.def"
#undef KERNEL

/* What `unary`, `binary` and `reduce` do. */
typedef enum rt_unary_op {
#define UNARY(name, types, real, integer) RT_UNARY_##name,
#include "runtime/elementwise.def"
    RT_NUNARY
} rt_unary_op;
typedef enum rt_binary_op {
#define BINARY(name, types, real, integer) RT_BINARY_##name,
#include "runtime/elementwise.def"
    RT_NBINARY
} rt_binary_op;
typedef enum rt_reduce_op {
    RT_REDUCE_sum,
    RT_REDUCE_mean,
    RT_REDUCE_max,
    RT_REDUCE_min,
    RT_REDUCE_prod,
    RT_REDUCE_l1,
    RT_REDUCE_l2,
    RT_REDUCE_sum_square,
    RT_REDUCE_log_sum,
    RT_REDUCE_log_sum_exp
} rt_reduce_op;
/* Code of `chain`: an operator of one operand from RT_CHAIN_UNARY on, of two from RT_CHAIN_BINARY
 * on. */
enum {
    RT_CHAIN_UNARY = 0,
    RT_CHAIN_BINARY = 100,
    RT_CHAIN_WHERE = 200,
    RT_CHAIN_MULADD = 201, /* a b + c, rounded twice */
    RT_CHAIN_INPUTS = 32,
    RT_CHAIN_OUTPUTS = 6,
    RT_CHAIN_CODE = 48,
    RT_CHAIN_NONE = 255, /* no operand */
    RT_CHAIN_BLOCK = 512 /* elements that go through the chain at a time */
};

enum {
#define KERNEL(name, scratch, fields) RT_KERNEL_##name,
#include "runtime/kernels.def"
#undef KERNEL
    RT_NKERNELS
};

/* One field of an attribute struct. */
typedef struct rt_field {
    const char *name;
    char type; /* 'I', 'L', 'F', 'D', 'A', 'B' */
    int count;
    size_t offset;
} rt_field;
typedef struct rt_kernel_info {
    const char *name;
    rt_kernel *run;
    rt_scratch_fn *scratch;
    size_t attr_size;
    const rt_field *(*fields)(void); /* ends with name NULL */
} rt_kernel_info;
extern const rt_kernel_info rt_kernels[RT_NKERNELS]; /* table.c; not shipped by --emit-c */

/* ------------------------------------------------------------------ program.c */

/* One call. `in` and `out` hold absolute pointers. kernel NULL: control flow. */
typedef struct rt_call {
    rt_kernel *run; /* NULL: a jump (below) */
    const void *attr;
    const rt_tensor *in, *out;
    int32_t nin, nout;
    int32_t kernel; /* RT_KERNEL_... */
    int32_t jump; /* run NULL: go to this call when in[0] (bool scalar) is false; in NULL: always */
    const char *label; /* the ONNX node it comes from; may be NULL */
} rt_call;

typedef struct rt_program {
    const rt_call *calls;
    int32_t ncalls;
    unsigned char
        *arena;         /* what calls share one after the other: only the operands of the present */
    size_t arena_bytes; /* one are not poisoned */
} rt_program;

typedef enum rt_status {
    RT_DONE = 0,
    RT_FAILED,  /* env->fault says why; what later calls would have written is as it was */
    RT_STOPPED, /* by env->stop, anywhere */
} rt_status;

/* Executes all calls in order, up to one that fails. */
rt_status rt_run(const rt_env *env, const rt_program *program);

/* For kernels that meet data that they cannot work with: notes it (the first in order of elements,
 * of one call) after which the kernel returns without reading by such data. By the thread that
 * calls the kernel, so that what is reported does not depend on the number of threads. `at` holds
 * the value. */
void rt_fail(const rt_env *env, const char *format, int64_t value, int64_t limit,
             const rt_tensor *at, int64_t element);

/* ------------------------------------------------------------------ helpers for kernels (inline)
 */

static inline int64_t rt_count(const rt_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dims[i];
    return n;
}

static inline size_t rt_dtype_size(int dtype)
{
    switch (dtype) {
    case RT_U8:
    case RT_I8:
    case RT_BOOL:
        return 1;
    case RT_U16:
    case RT_I16:
    case RT_F16:
    case RT_BF16:
        return 2;
    case RT_F32:
    case RT_I32:
    case RT_U32:
        return 4;
    default:
        return 8;
    }
}

#ifdef __cplusplus
}
#endif
#endif
