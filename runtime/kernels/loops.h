/* runtime/kernels/loops.h: operators that work element by element, one loop each. */
#ifndef MTBAL_RT_LOOPS_H
#define MTBAL_RT_LOOPS_H

#include "runtime/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An operand: element i of the loop at p[i * step]. */
typedef struct rt_view {
    const void *p;
    int64_t step;
} rt_view;

/* r[0..n) of operator `op` (the numbers of a chain's code: rt_unary_op from RT_CHAIN_UNARY on,
 * rt_binary_op from RT_CHAIN_BINARY on, RT_CHAIN_WHERE, RT_CHAIN_MULADD). v [3]: the operands; of a
 * unary operator, which is dense, the second and third are its attributes. Truth values are 1 and
 * 0. r may be an operand whose step is 1. */
void rt_loop_f32(int op, const rt_view *v, float *r, int64_t n);
void rt_loop_f64(int op, const rt_view *v, double *r, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
