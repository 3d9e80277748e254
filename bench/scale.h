/* bench/scale.h: the models of bench_scale.c: one for each worst case, of any size. */
#ifndef MTBAL_SCALE_H
#define MTBAL_SCALE_H

#include <stdio.h>

/* Writes the model of size n as ONNX text. It has one input, float[N,width] x. */
typedef void scale_model(FILE *to, int n);

scale_model scale_chain, scale_wide, scale_norms, scale_branches, scale_constants, scale_functions,
    scale_parameters, scale_batch_norms, scale_concat, scale_split, scale_sum, scale_sequence,
    scale_loop, scale_masks, scale_symbols, scale_gradients;
scale_model scale_top_k, scale_resize, scale_cum_prod, scale_dft, scale_slice, scale_diagonal;

#endif
