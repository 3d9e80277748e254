/* lower/lowering.h: what the steps of lowering share. Inside this folder only.
 *
 * The steps (lower.c): bind input shapes; keep what is asked for (live.c); elaborate: walk the
 * graph in order, infer, evaluate what is constant, copy in functions, branches and loop bodies, so
 * that a flat graph of concrete shapes is left (elaborate.c, fold.c, functions.c, control.c,
 * expand.c); fuse (fuse.c); emit kernel calls on cells (emit.c, ops/); plan memory (memory.c); make
 * the plan. */
#ifndef MTBAL_LOWERING_H
#define MTBAL_LOWERING_H

#include "lower/plan.h"

/* A piece of memory that calls read and write. */
typedef struct cell {
    int region;
    size_t bytes, offset;
    const void *data; /* contents of a constant */
    int first, last;  /* calls between which it holds something */
    int same;         /* the cell it has been merged into, or -1 */
    void *folded;     /* memory while a node is evaluated during lowering */
    bool used;
} cell;

/* Where a value is: a cell, and how it is seen there. cell -1: left out. */
typedef plan_operand operand;

typedef struct call {
    int kernel; /* RT_KERNEL_..., or -1 for a jump */
    int jump;   /* of a jump: the call to go to */
    void *attr;
    int nin, nout;
    operand *in, *out;
    const char *label;
    double flops;
} call;

/* Nodes that become one `chain` call (groups.c). */
enum { GROUP_MEMBERS = 32 };
typedef struct group {
    struct group *next;
    mtbal_dtype dtype; /* that it computes in */
    int count, ninputs, room;
    mtbal_node *members[GROUP_MEMBERS];
    const mtbal_value *inputs[RT_CHAIN_INPUTS];
    bool closed;
} group;

typedef struct selection selection;

/* Where the elements of a mask stand: NonZero, and its transpose. */
typedef enum select_grid { SELECT_NO_GRID, SELECT_GRID, SELECT_TURNED } select_grid;

/* By value id. */
typedef struct place {
    operand at;
    bool placed;
    bool used;    /* by what is computed (live.c) */
    bool refused; /* comes from a node that cannot be lowered: do not complain about its users */
    mtbal_value *instead;  /* the value that took its place */
    const char *why;       /* its size is not known, for the message; or NULL */
    int order;             /* of the node that makes it, while groups are made */
    int uses, uses_inside; /* as operand or result; of those, in the same group */
    group *group;
    int code;            /* its number in the code of the group */
    selection *selected; /* which elements of axis selected_axis a mask selects; NULL: all */
    int selected_axis;
    bool filled; /* those others do not change the result of the one node that reads it */
    select_grid grid;
    int nitems; /* of a sequence whose length is known: */
    mtbal_value **items;
    bool is_list, is_optional;
} place;

typedef struct lower_state {
    const char *name;
    mtbal_value *value, *next; /* next: `value` itself where the state keeps its value */
    int cell;
} lower_state;

typedef struct lower_loop { /* calls of a loop that stays one: [begin, end] */
    int begin, end;
} lower_loop;

typedef struct unrolling unrolling;

typedef struct lowering {
    mtbal_model *model;
    mtbal_graph *graph;
    const mtbal_lower_options *options;
    mtbal_arena *arena; /* of lowering: freed at its end */
    mtbal_plan *plan;
    mtbal_diag *diag;
    mtbal_status status; /* sticky: emission stops at the first error */

    mtbal_map input_of, output_of; /* name -> place in the graph's lists */
    int noutputs, nstates;
    mtbal_value **outputs; /* asked for */
    const char **output_names;
    lower_state *states; /* with options->states */

    operand *output_at; /* [noutputs] */

    int nplaces;
    place *places;
    int ncells, cell_capacity;
    cell *cells;
    int ncalls, call_capacity;
    call *calls;
    int nloops, loop_capacity;
    lower_loop *loops;

    /* widen.c: the node being emitted computes in type `wide` (0: in its own) instead of `narrow`
     * (0: the 16-bit floats); values whose results are to be narrowed */
    int wide, narrow, npending;
    mtbal_value *pending[16];
    const char *label; /* of the calls being emitted */
    int64_t opset;     /* of the node being lowered */
    int64_t created;   /* nodes copied in so far */
    unrolling *unrollings;
    selection *selections;
    int nselections;
    group *groups;
    int nseeds; /* random calls so far */

    void *fold_scratch;
    int nrefused;
    char refusals[2600];
    size_t refusals_length;
} lowering;

/* ------------------------------------------------------------------ lower.c: small helpers */

/* Notes that a node cannot be lowered; all are listed at the end. Returns MTBAL_OK: lowering goes
 * on to find the others. */
mtbal_status lower_refuse(lowering *l, const mtbal_node *node, const char *format, ...)
    MTBAL_PRINTF(3, 4);
const char *lower_label(const mtbal_node *node);
place *lower_place(lowering *l, const mtbal_value *value); /* NULL: out of memory */
/* The value that stands in the place of `value` by now; itself mostly. */
mtbal_value *lower_resolve(lowering *l, mtbal_value *value);
bool lower_is_refused(lowering *l, const mtbal_value *value);
/* Constant contents of a value (loaded), or NULL: not constant. */
const mtbal_tensor *lower_constant(lowering *l, const mtbal_value *value);
bool lower_is_constant(const mtbal_value *value);
int64_t lower_opset(const lowering *l, const mtbal_node *node);
/* Grows an array of `size`-byte elements to hold count + 1. */
bool lower_grow(void **array, int *capacity, int count, size_t size);

/* ------------------------------------------------------------------ bind.c, live.c */

mtbal_status lower_bind(lowering *l);
mtbal_status lower_choose(lowering *l); /* requested outputs and states */
mtbal_value *lower_find_input(const lowering *l, const char *name);
mtbal_status lower_keep_live(lowering *l);

/* ------------------------------------------------------------------ elaborate.c */

/* What became of a node. */
typedef enum lower_walk {
    LOWER_KEPT,    /* stays: go on with the next */
    LOWER_RENEWED, /* other nodes were put before it (and it may be gone): go on with those */
} lower_walk;

mtbal_status lower_elaborate(lowering *l, mtbal_graph *graph);
mtbal_status lower_infer(lowering *l, mtbal_node *node);
/* Lets the users of a node's outputs read `to` instead, and takes the node out. */
mtbal_status lower_replace_node(lowering *l, mtbal_node *node, int n, mtbal_value *const *to);
/* Copies a body before `node`. in: what stands for the body's inputs, NULL where left out;
 * out: the copies of its outputs. */
mtbal_status lower_copy_body(lowering *l, const mtbal_graph *body, mtbal_node *node, int nin,
                             mtbal_value *const *in, mtbal_value **out);
mtbal_status lower_inline(lowering *l, mtbal_node *node, const mtbal_function *f);
/* An Identity of a sequence or an optional (lists.c). *done false: not such a node. */
mtbal_status lower_same_list(lowering *l, mtbal_node *node, lower_walk *walk, bool *done);
/* Values whose size depends on what a mask selects. select.c */
mtbal_status lower_select(lowering *l, mtbal_node *node, lower_walk *walk, bool *done);
mtbal_status lower_select_outputs(lowering *l);
/* A value with constant contents, without a node. NULL: out of memory. */
mtbal_value *lower_new_constant(lowering *l, mtbal_graph *graph, mtbal_dtype dtype, int rank,
                                const int64_t *dims, const void *data);
mtbal_status lower_set_constant(lowering *l, mtbal_value *value, mtbal_tensor *tensor);
/* Writes the node in terms of others, where a rule of expand.c says so. */
mtbal_status lower_expand_node(lowering *l, mtbal_node *node, lower_walk *walk);
/* NonZero of a constant, whose size is known only afterwards. */
mtbal_status lower_fold_non_zero(lowering *l, mtbal_node *node);
/* Evaluates a node of constant operands. */
mtbal_status lower_fold(lowering *l, mtbal_node *node, bool *done);

/* ------------------------------------------------------------------ emit.c */

mtbal_status lower_emit_graph(lowering *l, mtbal_graph *graph);
mtbal_status lower_emit_node(lowering *l, mtbal_node *node);
mtbal_status lower_place_inputs(lowering *l);
mtbal_status lower_finish(lowering *l); /* outputs and next states */

/* For op functions. All are sticky: after an error they do nothing, and give left-out operands. */
operand op_in(lowering *l, const mtbal_node *node, int i);  /* left out: cell -1 */
operand op_out(lowering *l, const mtbal_node *node, int i); /* makes its memory */
operand op_temp(lowering *l, int dtype, int rank, const int64_t *dims);
operand op_none(void);
operand op_of_value(lowering *l, const mtbal_value *value);
void op_set_value(lowering *l, const mtbal_value *value, operand x);
operand op_copy(lowering *l, operand x); /* in new memory */
operand op_of_type(lowering *l, const mtbal_type *type);
/* A constant operand with the given contents (copied). */
operand op_constant(lowering *l, int dtype, int rank, const int64_t *dims, const void *data);
operand op_scalar(lowering *l, int dtype, double x);
/* Output i of the node is what x holds, in the output's shape. */
void op_alias(lowering *l, const mtbal_node *node, int i, operand x);
/* x seen in other dimensions; the number of elements stays. */
operand op_view(operand x, int rank, const int64_t *dims);
/* Output i of the node is x as it is, x being new memory. */
void op_set_out(lowering *l, const mtbal_node *node, int i, operand x);
bool op_given(const mtbal_node *node, int i);
bool op_wants(const mtbal_node *node, int i);
/* A call; its attributes are copied (struct rt_KERNEL_attr; NULL: none). */
call *op_call_n(lowering *l, int kernel, const void *attr, int nin, const operand *in, int nout,
                const operand *out);
#define op_call1(l, kernel, attr, in0, out0) \
    op_call_n((l), (kernel), (attr), 1, (operand[]){in0}, 1, (operand[]){out0})
int64_t op_count(operand x);
size_t op_bytes(operand x);
int op_jump(lowering *l, operand condition); /* returns the call, whose target is set later */

mtbal_status lower_emit_control(lowering *l, mtbal_node *node); /* jumps.c */
/* contract.c: whether the operands are such as the kernel takes for granted. */
mtbal_status lower_check_call(const lowering *l, int kernel, const void *attr, int nin,
                              const operand *in, int nout, const operand *out);
double lower_flops(const call *c); /* flops.c */

/* ------------------------------------------------------------------ widen.c: types that kernels do
 * not compute in */

void lower_choose_width(lowering *l, const mtbal_node *node);
bool lower_widens(const lowering *l, int dtype);
operand lower_widen(lowering *l, operand x);
void lower_narrow_later(lowering *l, mtbal_value *value);
mtbal_status lower_narrow(lowering *l); /* at the end of the node */

/* ------------------------------------------------------------------ fuse.c, memory.c, plan.c */

mtbal_status lower_fuse(lowering *l);
mtbal_status lower_count_uses(lowering *l);
mtbal_status lower_group(lowering *l);
mtbal_status lower_emit_group(lowering *l, group *g);
void lower_shorten_chain(rt_chain_attr *at); /* chain.c */
/* Emits the node, or the group that ends with it, or nothing where it is inside a group. */
mtbal_status lower_emit_fused(lowering *l, mtbal_node *node);
mtbal_status lower_memory(lowering *l);
mtbal_status lower_pack(lowering *l);     /* packing.c: the arena; wants the cells' lifetimes */
size_t lower_rounded(size_t bytes);       /* to whole units of PLAN_ALIGN */
mtbal_status lower_schedule(lowering *l); /* schedule.c: wants the cells' lifetimes */
mtbal_status lower_make_plan(lowering *l);
/* Whether the kernel may write output `out` over input `in`. inplace.c */
bool lower_in_place(int kernel, int in, int out);
int lower_root(const lowering *l, int cell);

/* ------------------------------------------------------------------ table.c */

typedef mtbal_status lower_fn(lowering *l, mtbal_node *node);
typedef struct expansion expansion;
typedef mtbal_status expand_fn(expansion *e);
/* What becomes of a node while the graph is elaborated. *done stays false where it is left as it
 * is. */
typedef mtbal_status elaborate_fn(lowering *l, mtbal_node *node, lower_walk *walk, bool *done);
#define ELABORATE(name) \
    mtbal_status elaborate_##name(lowering *l, mtbal_node *node, lower_walk *walk, bool *done)
/* The kernel column: one of these, the others NULL. */
lower_fn *lower_rule(const mtbal_node *node);
expand_fn *lower_expansion(const mtbal_node *node);
elaborate_fn *lower_elaboration(const mtbal_node *node);
bool lower_is_elementwise(const mtbal_node *node);

#endif
