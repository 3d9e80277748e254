/* bench/bench_flops.c: the table of docs/flops.md. */
#include "tests/flops.h"

#include <stdio.h>

int main(void)
{
    static const int tasks[] = {1, 2, 4, 8};
    mtbal_diag diag = {0};
    printf("| millions of operations in a step |");
    for (int t = 0; t < 4; t++)
        printf(" K = %d |", tasks[t]);
    printf("\n|---|---|---|---|---|\n");
    for (int k = -1; k < FLOPS_KINDS; k++) {
        const flops_kind *kind = k < 0 ? NULL : &flops_kinds[k];
        printf("| %s |", kind ? kind->name : "forward alone");
        for (int t = 0; t < 4; t++) {
            double flops = flops_of_step(tasks[t], kind, &diag);
            if (flops < 0) {
                fprintf(stderr, "%s: %s\n", diag.where, diag.what);
                return 1;
            }
            printf(" %.3f |", flops * 1e-6);
        }
        printf("\n");
    }
    return 0;
}
