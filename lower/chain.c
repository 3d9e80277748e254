/* lower/chain.c: the code of a `chain` call made shorter: a product that only a sum reads becomes
 * one instruction with it, one pass over memory less. */
#include "lower/lowering.h"

#include <string.h>

enum { WIDTH = 4 }; /* operator, operands a, b, c */

typedef struct chain_uses {
    int of[RT_CHAIN_INPUTS + RT_CHAIN_CODE];
} chain_uses;

static bool is_operand(int index)
{
    return index != RT_CHAIN_NONE;
}

static chain_uses count_uses(const rt_chain_attr *at)
{
    chain_uses uses = {{0}};
    for (int i = 0; i < WIDTH * at->ncode; i++)
        if (i % WIDTH && is_operand(at->code[i]))
            uses.of[at->code[i]]++;
    for (int i = 0; i < at->nout; i++)
        uses.of[at->result[i]]++;
    return uses;
}

/* The instruction that makes operand `index`, when it is a product that is read once. */
static uint8_t *product_at(rt_chain_attr *at, const chain_uses *uses, int index)
{
    uint8_t *made = index < at->nin ? NULL : &at->code[WIDTH * (index - at->nin)];
    return made && made[0] == RT_CHAIN_BINARY + RT_BINARY_mul && uses->of[index] == 1 ? made : NULL;
}

/* Takes out what no instruction reads any more; operands behind it move up. */
static void remove_dead(rt_chain_attr *at, const bool *dead)
{
    int moved[RT_CHAIN_INPUTS + RT_CHAIN_CODE], n = 0;
    for (int i = 0; i < at->nin; i++)
        moved[i] = i;
    for (int c = 0; c < at->ncode; c++) {
        moved[at->nin + c] = at->nin + n;
        if (dead[c])
            continue;
        for (int i = 0; i < WIDTH; i++) {
            uint8_t x = at->code[WIDTH * c + i];
            at->code[WIDTH * n + i] = i && is_operand(x) ? (uint8_t)moved[x] : x;
        }
        n++;
    }
    memset(&at->code[WIDTH * n], 0, (size_t)(WIDTH * (at->ncode - n)));
    at->ncode = n;
    for (int i = 0; i < at->nout; i++)
        at->result[i] = moved[at->result[i]];
}

void lower_shorten_chain(rt_chain_attr *at)
{
    const chain_uses uses = count_uses(at);
    bool dead[RT_CHAIN_CODE] = {false};
    for (int c = 0; c < at->ncode; c++) {
        uint8_t *sum = &at->code[WIDTH * c], *product = NULL;
        int other = 0;
        for (int k = 2; k >= 1 && sum[0] == RT_CHAIN_BINARY + RT_BINARY_add && !product; k--) {
            product = product_at(at, &uses, sum[k]);
            other = sum[3 - k];
        }
        if (!product)
            continue;
        dead[(product - at->code) / WIDTH] = true;
        sum[0] = RT_CHAIN_MULADD;
        sum[1] = product[1];
        sum[2] = product[2];
        sum[3] = (uint8_t)other;
    }
    remove_dead(at, dead);
}
