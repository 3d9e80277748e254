/* runtime/table.c: the kernels as a table, with their attributes' fields by name. For lowering; not
 * shipped by --emit-c. */
#include "runtime/runtime.h"

/* Within a function of its own, `attributes` names each kernel's struct. */
#define RT_I(name)    {#name, 'I', 1, offsetof(attributes, name)},
#define RT_L(name)    {#name, 'L', 1, offsetof(attributes, name)},
#define RT_F(name)    {#name, 'F', 1, offsetof(attributes, name)},
#define RT_D(name)    {#name, 'D', 1, offsetof(attributes, name)},
#define RT_A(name, n) {#name, 'A', n, offsetof(attributes, name)},
#define RT_B(name, n) {#name, 'B', n, offsetof(attributes, name)},
#define KERNEL(name, scratch, list)                                              \
    static const rt_field *fields_##name(void)                                   \
    {                                                                            \
        typedef rt_##name##_attr attributes;                                     \
        static const rt_field fields[] = {list{NULL, 0, 0, sizeof(attributes)}}; \
        return fields;                                                           \
    }
#include "runtime/kernels.def"
#undef KERNEL

#define rt_scratch_none NULL
const rt_kernel_info rt_kernels[RT_NKERNELS] = {
#define KERNEL(name, scratch, list) \
    {#name, rt_##name, rt_scratch_##scratch, sizeof(rt_##name##_attr), fields_##name},
#include "runtime/kernels.def"
#undef KERNEL
};
