/* lower/c/c.h: a plan as a folder of C: what the files of this folder share.
 *
 * sources.c  which parts of runtime/ the plan needs, copied word for word
 * values.c   what the calls use: kernels, operators, types, shapes, values
 * scratch.c  how much scratch memory they need
 * names.c    identifiers for the graph's names, and how types and shapes are written
 * header.c, model.c, used.c, weights.c    print one file each
 * folder.c   the list of files; README and Makefile
 * templates/ main.c and the Makefile as they are shipped */
#ifndef MTBAL_LOWER_C_H
#define MTBAL_LOWER_C_H

#include "lower/emit_c.h"
#include "lower/plan.h"

/* A file of this project as it was when the command was built; ends with name NULL. Made by the
 * Makefile. */
typedef struct c_source {
    const char *name, *text;
} c_source;
extern const c_source c_sources[];

/* A file to write: printed by a function, or a source cut down to what is needed. */
typedef struct c_file {
    const char *name;
    void (*print)(FILE *to, const mtbal_c *c);
    int source; /* in c_sources, where print is NULL */
} c_file;

/* Pieces of one source: top-level definitions with the comment above them. */
typedef struct c_name {
    const char *text;
    size_t length;
    bool prefix; /* stands for all names that begin so: made by ## */
    struct c_name *next;
} c_name;
typedef struct c_piece {
    const char *text;
    size_t length;
    bool kept;
    c_name *names;
    struct c_piece *next;
} c_piece;

/* Where the bytes of a default lie in the weights. */
typedef struct c_weight {
    const plan_default *from;
    size_t offset;
} c_weight;

struct mtbal_c {
    const mtbal_plan *plan;
    mtbal_c_options options;
    mtbal_arena *arena;
    mtbal_diag *diag;
    bool failed;                    /* out of memory, sticky */
    bool kernel_used[RT_NKERNELS];  /* called */
    bool kernel_named[RT_NKERNELS]; /* called, or its attributes are used by another */
    uint32_t types;                 /* bits by rt_dtype */
    bool integers;                  /* `unary` or `binary` have some, or operands of two types */
    bool unary_op[RT_CHAIN_BINARY], binary_op[RT_CHAIN_WHERE - RT_CHAIN_BINARY];
    bool wide;        /* offsets need 64 bits */
    size_t scratch;   /* bytes a thread */
    c_piece **pieces; /* [sources] */
    const char **input_id, **output_id, **state_id;
    int nvalues; /* values [1..nvalues] are distinct places and shapes */
    const plan_operand **values;
    int nshapes;
    const plan_operand **shapes; /* distinct types and dims */
    int *attr_of;                /* [ncalls]: the first call with the same attributes */
    bool *is_target;             /* [ncalls + 1]: of a jump */
    mtbal_map shape_of, value_of, attributes; /* keys: values.c */
    const char **value_id; /* [nvalues + 1]: the identifier of the port that it is, or NULL */
    int nweights;
    c_weight *weights;
    size_t weight_bytes;
    int nfiles;
    c_file *files;
};

/* ------------------------------------------------------------------ sources.c */

/* Marks all pieces that the kernels need. */
void c_choose_sources(mtbal_c *c);
bool c_source_kept(const mtbal_c *c, int source);
void c_print_source(FILE *to, const mtbal_c *c, int source);

/* ------------------------------------------------------------------ names.c */

/* A type: its name in rt_dtype, in names of shapes, and in C. */
typedef struct c_type {
    const char *constant, *lower, *c;
} c_type;
extern const c_type c_types[];                     /* by rt_dtype */
extern const char *const c_regions[NREGIONS];      /* "m->arena" */
extern const char *const c_region_ids[NREGIONS];   /* "arena" */
extern const char *const c_region_names[NREGIONS]; /* "ARENA" */
/* Kinds of ports and where they lie, in the order in which model.h lists them. */
typedef struct c_port_kind {
    const char *lower, *upper, *what;
    const mtbal_port *ports;
    int n;
    const char *const *ids;
} c_port_kind;

void c_choose_names(mtbal_c *c); /* fills the identifiers */
void c_list_kinds(const mtbal_c *c, c_port_kind kinds[3]);
const char *c_member(int region); /* of the struct: "arena" */
/* A name from the graph in a comment, and as a string. */
void c_print_comment(FILE *to, const char *text);
void c_print_string(FILE *to, const char *text);
void c_print_dims(FILE *to, int rank, const int64_t *dims);
void c_print_shape(FILE *to, const plan_operand *x);

/* ------------------------------------------------------------------ values.c */

void c_choose_shapes(mtbal_c *c);
plan_operand c_operand_of(const mtbal_port *port); /* its place, type and dims */
/* The number of a value in c->values; 0: an operand that is left out. */
int c_value_of(const mtbal_c *c, const plan_operand *x);
/* Bytes of scratch that a call works in. scratch.c */
size_t c_scratch(const plan_call *call);

/* ------------------------------------------------------------------ files */

void c_print_header(FILE *to, const mtbal_c *c);
void c_print_model(FILE *to, const mtbal_c *c);
void c_print_kernels(FILE *to, const mtbal_c *c);
void c_print_used(FILE *to, const mtbal_c *c);
void c_choose_weights(mtbal_c *c);
void c_print_weights(FILE *to, const mtbal_c *c);
void c_print_weights_file(FILE *to, const mtbal_c *c);

#endif
