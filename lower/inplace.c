/* lower/inplace.c: which kernels may write a result over an operand. */
#include "lower/lowering.h"

enum { ANY = -1 };

static const struct {
    int kernel, in, out;
} rows[] = {
    {RT_KERNEL_unary, 0, 0},           {RT_KERNEL_binary, ANY, 0},
    {RT_KERNEL_chain, ANY, ANY},       {RT_KERNEL_where, 1, 0},
    {RT_KERNEL_where, 2, 0},           {RT_KERNEL_cast, 0, 0},
    {RT_KERNEL_dropout, 0, 0},         {RT_KERNEL_scatter_elements, 0, 0},
    {RT_KERNEL_scatter_nd, 0, 0},      {RT_KERNEL_layer_norm, 0, 0},
    {RT_KERNEL_sgd_update, 0, 0},      {RT_KERNEL_sgd_update, 1, 0},
    {RT_KERNEL_momentum_update, 0, 0}, {RT_KERNEL_momentum_update, 2, 1},
    {RT_KERNEL_adam_update, 0, 0},     {RT_KERNEL_adam_update, 2, 1},
    {RT_KERNEL_adam_update, 3, 2},     {RT_KERNEL_batch_norm, 3, 1},
    {RT_KERNEL_batch_norm, 4, 2},
};

bool lower_in_place(int kernel, int in, int out)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].kernel == kernel && (rows[i].out == out || rows[i].out == ANY) &&
            (rows[i].in == in || rows[i].in == ANY))
            return true;
    return false;
}
