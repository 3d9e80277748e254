/* lower/plan.h: a plan from the inside: the same program can be run here, or printed as C source.
 * Everything is relocatable: an operand is a region and an offset in it. */
#ifndef MTBAL_PLAN_H
#define MTBAL_PLAN_H

#include "lower/lower.h"

typedef enum plan_region {
    REGION_ARENA = 0, /* activations and temporaries: reused in a step */
    REGION_STATE,     /* parameters, moments, statistics */
    REGION_CONSTANT,  /* shared by all instances */
    REGION_INPUT,
    REGION_OUTPUT,
    NREGIONS
} plan_region;
#define PLAN_ALIGN ((size_t)64)

/* Inside lowering `cell` names the memory and offset counts from the cell's start; in a plan
 * region and offset say where it is. */
typedef struct plan_operand {
    int cell; /* -1: left out */
    int region;
    size_t offset;
    int32_t dtype, rank;
    int64_t dims[RT_MAX_RANK];
} plan_operand;

typedef struct plan_call {
    int kernel; /* RT_KERNEL_..., or -1: a jump */
    int jump;
    int nin, nout;
    const void *attr;
    const plan_operand *in, *out;
    const char *label;
} plan_call;

typedef struct plan_default { /* bytes that an instance starts with */
    const char *name;         /* of the port */
    int region;
    size_t offset, bytes;
    const void *data;
} plan_default;

struct mtbal_plan {
    mtbal_arena *arena;
    int ncalls, noperands;
    plan_call *calls;
    size_t region_bytes[NREGIONS];
    void *constants_block;    /* as allocated */
    unsigned char *constants; /* aligned, region_bytes[REGION_CONSTANT] */
    int ndefaults;
    plan_default *defaults;
    int ninputs, noutputs, nstates;
    mtbal_port *inputs, *outputs, *states;
    mtbal_map input_of, output_of, state_of; /* name -> port */
    mtbal_plan_info info;
};

/* Arrays of an attribute struct: how many elements, zeros at the end left out (they say nothing; 0
 * for other fields); and one of them. print.c */
int plan_array_length(const rt_field *field, const void *at);
int plan_array_item(const rt_field *field, const void *at, int i);

#endif
