/* lower/ops/ops.h: what op functions lean on, beside op_in(), op_out() and op_call_n() of
 * lowering.h. An op function emits the calls of one node. */
#ifndef MTBAL_LOWER_OPS_H
#define MTBAL_LOWER_OPS_H

#include "lower/lowering.h"

/* An axis attribute, normalised; refuses the node and returns false when it is out of range. */
bool op_axis(lowering *l, mtbal_node *node, const char *name, int64_t otherwise, int rank,
             int *axis);
/* Integers of an attribute or, where there is none, of constant input i. Count; -1: not given;
 * -2: given, but not known or more than limit. */
int op_ints(lowering *l, const mtbal_node *node, const char *name, int i, int64_t *values,
            int limit);
/* A constant scalar input as a number; false when it is not one. */
bool op_number(lowering *l, const mtbal_node *node, int i, double *number);
/* x where Y's element (i..) is X's element offset + sum i_d stride_d (in elements). A view where
 * that is a stretch of memory; else a `strided` call. y.cell -1: new memory. */
operand op_strided(lowering *l, operand x, int64_t offset, int rank, const int64_t *dims,
                   const int64_t *stride);
operand op_transpose(lowering *l, operand x, const int64_t *perm);
operand op_cast_to(lowering *l, operand x, int dtype);
operand op_binary(lowering *l, int op, operand a, operand b); /* of equal type, broadcast */
operand op_unary(lowering *l, int op, operand x);
operand op_reduce(lowering *l, int op, operand x, uint32_t mask, bool keepdims);
/* The formula of a node that the kernel `unary` computes, with its parameters; op -1: it is none.
 * Returns how many of the parameters it has. */
int op_unary_of(const mtbal_node *node, rt_unary_attr *at);
int op_binary_of(const mtbal_node *node); /* the formula that `binary` computes, or -1 */
/* Whether the unary formula, or else the binary one, is defined for real numbers (-1: none). */
bool op_has_real(int unary, int binary);
void op_dense_strides(operand x, int64_t *stride);
/* Output i of the node holds x, in the output's shape: a view where x is memory of this node. */
void op_give(lowering *l, const mtbal_node *node, int i, operand x);

#endif
