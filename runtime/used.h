/* runtime/used.h: which element types and operators a program has. Here: all. --emit-c writes this
 * file anew for each graph, and the compiler leaves out what the graph does not use. */
#ifndef MTBAL_RT_USED_H
#define MTBAL_RT_USED_H

#define RT_USES_TYPE(dtype) 1
#define RT_USES_INTEGERS    1 /* `unary` or `binary` of integers, or of two types */
#define RT_USES_UNARY(op)   1 /* of the kernel `unary` or in the code of a chain: rt_unary_op */
#define RT_USES_BINARY(op)  1 /* of `binary`, or in a chain: rt_binary_op */

#endif
