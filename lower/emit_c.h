/* lower/emit_c.h: a plan printed as a folder of C that runs it: the same kernels, cut down to those
 * that the plan calls, and straight-line code for the rest. */
#ifndef MTBAL_EMIT_C_H
#define MTBAL_EMIT_C_H

#include "lower/lower.h"

typedef struct mtbal_c_options {
    const char *model;  /* name of the model's file, for comments */
    bool weights_apart; /* weights.bin, to be mapped or read, instead of weights.c */
} mtbal_c_options;

typedef struct mtbal_c mtbal_c;

/* Chooses what is needed. The plan, and the model that it was lowered from, must outlive the
 * result. MTBAL_UNSUPPORTED: a size that a compiler could not hold. Free with mtbal_c_free. */
mtbal_status mtbal_c_new(const mtbal_plan *plan, const mtbal_c_options *options, mtbal_c **c,
                         mtbal_diag *diag);
void mtbal_c_free(mtbal_c *c);
/* The files, named relative to the folder with '/' between folder and file; each file comes after
 * the folder that it lies in was named by an earlier one or is the top. */
int mtbal_c_files(const mtbal_c *c);
const char *mtbal_c_name(const mtbal_c *c, int file);
void mtbal_c_print(FILE *to, const mtbal_c *c, int file);

#endif
