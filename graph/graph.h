/* graph/graph.h: the face of graph/. The ONNX graph in memory, and everything that can be asked of
 * it without a file, a pass or a runtime. Ground floor: includes nothing of the project.
 *
 * Ownership. A model owns one arena. Graphs, nodes, values, names, attributes and shapes live in
 * it, as long as the model. Bytes of initializers are borrowed (from the file that onnxio keeps
 * open) or live in the arena. Nothing is freed one by one.
 *
 * Errors are values (status.c). Every function that can fail returns a mtbal_status, or NULL, and
 * fills a diagnostic.
 */
#ifndef MTBAL_GRAPH_H
#define MTBAL_GRAPH_H

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __GNUC__
#define MTBAL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define MTBAL_PRINTF(fmt, args)
#endif

/* ------------------------------------------------------------------ status.c: statuses and
 * diagnostics */

/* The values are the exit codes of the commands, but for MTBAL_NOMEM (exit code 5). */
typedef enum mtbal_status {
    MTBAL_OK = 0,
    MTBAL_CHECK = 1,       /* a numeric check failed */
    MTBAL_USAGE = 2,       /* the command line */
    MTBAL_UNSUPPORTED = 3, /* not differentiable, or not implemented */
    MTBAL_INVALID = 4,     /* bad model or data */
    MTBAL_IO = 5,          /* a file could not be read or written */
    MTBAL_INTERRUPTED = 6, /* told to stop, before the work was done */
    MTBAL_NOMEM = 7
} mtbal_status;

/* One message for a person: where it is wrong, what is wrong, what to do. Fixed size, so that
 * reporting never fails. */
typedef struct mtbal_diag {
    mtbal_status status;
    char where[256];
    char what[3072];
    char hint[512];
} mtbal_diag;

/* Fills `diag` (which may be NULL) unless it already holds an error, and returns `status`.
 * `where` and `hint` may be NULL. */
mtbal_status mtbal_fail(mtbal_diag *diag, mtbal_status status, const char *where, const char *hint,
                        const char *format, ...) MTBAL_PRINTF(5, 6);
/* The same for out of memory. */
mtbal_status mtbal_no_memory(mtbal_diag *diag);
int mtbal_exit_code(mtbal_status status);

/* Set by the commands' signal handlers. mtbal_stop: end at the next good place (a training: after
 * the step that it is in). mtbal_halt, a moment later: also inside of a step. */
extern volatile sig_atomic_t mtbal_stop, mtbal_halt;
/* Above 0: something is being written that must not be cut off by the handlers' last resort. */
extern atomic_int mtbal_busy;
/* MTBAL_INTERRUPTED when the work shall end and nothing needs to be kept. Every loop over nodes
 * asks. */
mtbal_status mtbal_poll(mtbal_diag *diag);
mtbal_status mtbal_interrupted(mtbal_diag *diag);

/* Returns the status of `call` from the current function if it is not MTBAL_OK. */
#define MTBAL_TRY(call)                    \
    do {                                   \
        mtbal_status try_status_ = (call); \
        if (try_status_ != MTBAL_OK)       \
            return try_status_;            \
    } while (0)

/* ------------------------------------------------------------------ memory.c: the hook, arenas,
 * interned names, the hash map */

/* Every allocation of graph, onnxio, passes, lower and cli goes through these three. The hook, when
 * set, is asked before each, and before each piece of an arena; false makes that one fail. Tests
 * use it to fail the n-th. */
void *mtbal_malloc(size_t size);
void *mtbal_realloc(void *old, size_t size);
void mtbal_free(void *p);
void mtbal_set_alloc_hook(bool (*allow)(void *context, size_t size), void *context);

/* a * b * ... without overflow: returns false, and leaves *result alone, when the product does not
 * fit. */
bool mtbal_mul_size(size_t a, size_t b, size_t *result);
bool mtbal_mul_i64(int64_t a, int64_t b, int64_t *result);

typedef struct mtbal_arena mtbal_arena;
mtbal_arena *mtbal_arena_new(void); /* NULL: out of memory */
void mtbal_arena_free(mtbal_arena *arena);
/* Zeroed, aligned to 16. NULL: out of memory. Size 0 gives a valid pointer. */
void *mtbal_arena_alloc(mtbal_arena *arena, size_t size);
void *mtbal_arena_array(mtbal_arena *arena, size_t count, size_t size); /* checked product */
void *mtbal_arena_copy(mtbal_arena *arena, const void *bytes, size_t size);
char *mtbal_arena_printf(mtbal_arena *arena, const char *format, ...) MTBAL_PRINTF(2, 3);
/* The one copy of a string in this arena: equal names are equal pointers. NULL: out of memory. */
const char *mtbal_intern(mtbal_arena *arena, const char *name);
const char *mtbal_intern_n(mtbal_arena *arena, const char *name, size_t length);
/* That copy, where there is one already; NULL: no such name was interned. */
const char *mtbal_interned(const mtbal_arena *arena, const char *name);
const char *mtbal_interned_n(const mtbal_arena *arena, const char *name, size_t length);
size_t mtbal_arena_bytes(const mtbal_arena *arena);
/* Whether an allocation from this arena has failed: tells a NULL, or a fact that was not found,
 * that comes from there from a mistake. */
bool mtbal_arena_failed(const mtbal_arena *arena);

/* The hash map: from pointers (interned names, values, nodes) to integers from 0 on. Zeros are an
 * empty map. Its memory is the arena's that it is filled with. */
typedef struct mtbal_map {
    int count, capacity;
    struct mtbal_map_entry *entries;
} mtbal_map;
/* false: out of memory. A key that is there gets the new number. */
bool mtbal_map_set(mtbal_map *map, mtbal_arena *arena, const void *key, int number);
int mtbal_map_get(const mtbal_map *map, const void *key); /* -1: not there, or NULL */

/* ------------------------------------------------------------------ tensor.c: element types,
 * shapes, tensors */

/* ONNX's numbers (TensorProto.DataType). */
typedef enum mtbal_dtype {
    MTBAL_UNDEFINED = 0,
    MTBAL_FLOAT = 1,
    MTBAL_UINT8 = 2,
    MTBAL_INT8 = 3,
    MTBAL_UINT16 = 4,
    MTBAL_INT16 = 5,
    MTBAL_INT32 = 6,
    MTBAL_INT64 = 7,
    MTBAL_STRING = 8,
    MTBAL_BOOL = 9,
    MTBAL_FLOAT16 = 10,
    MTBAL_DOUBLE = 11,
    MTBAL_UINT32 = 12,
    MTBAL_UINT64 = 13,
    MTBAL_COMPLEX64 = 14,
    MTBAL_COMPLEX128 = 15,
    MTBAL_BFLOAT16 = 16
} mtbal_dtype;

size_t
mtbal_dtype_size(mtbal_dtype dtype); /* bytes of one element; 0 for strings and unknown types */
const char *mtbal_dtype_name(mtbal_dtype dtype); /* "float", "int64", ... as in ONNX text */
mtbal_dtype
mtbal_dtype_parse(const char *name);          /* MTBAL_UNDEFINED when there is none of that name */
bool mtbal_dtype_is_float(mtbal_dtype dtype); /* float16, bfloat16, float, double */

/* One dimension of a shape. Known: size >= 0, symbol NULL. Symbolic: size -1, symbol an interned
 * canonical expression over the model's dimension names ("batch", "batch*seq", "(h-1)/2+1"): equal
 * pointers mean equal sizes. Unknown: size -1, symbol NULL. */
typedef struct mtbal_dim {
    int64_t size;
    const char *symbol;
} mtbal_dim;

typedef enum mtbal_kind {
    MTBAL_TENSOR = 0,
    MTBAL_SEQUENCE,
    MTBAL_OPTIONAL,
    MTBAL_OTHER
} mtbal_kind;

/* Type of a value. rank -1: unknown rank. */
typedef struct mtbal_type {
    mtbal_kind kind;
    mtbal_dtype dtype;
    int rank;
    mtbal_dim *dims; /* [rank] */
} mtbal_type;

bool mtbal_dim_equal(mtbal_dim a, mtbal_dim b); /* certainly equal */
bool mtbal_shape_known(const mtbal_type *type); /* every dimension is a number */
bool mtbal_shape_equal(const mtbal_type *a,
                       const mtbal_type *b);       /* certainly equal, rank and every dimension */
int64_t mtbal_shape_count(const mtbal_type *type); /* elements, -1 when not known or too many */

typedef struct mtbal_model mtbal_model;
typedef struct mtbal_graph mtbal_graph;
typedef struct mtbal_node mtbal_node;
typedef struct mtbal_value mtbal_value;

/* A tensor with data: an initializer or an attribute. Little-endian, dense, row-major. `data` is
 * NULL until loaded when the bytes are in an external file: ask mtbal_tensor_load first. */
typedef struct mtbal_tensor {
    mtbal_dtype dtype;
    int rank;
    const int64_t *dims;
    int64_t count;    /* product of dims */
    size_t bytes;     /* count * element size */
    const void *data; /* NULL: external and not loaded yet, or strings */
    bool external;
    void *origin; /* onnxio's TensorProto, NULL when made here */
} mtbal_tensor;

/* Makes `data` available (maps the external file). A no-op when it is there already. */
mtbal_status mtbal_tensor_load(mtbal_model *model, mtbal_tensor *tensor, mtbal_diag *diag);
/* A new tensor in the model's arena; copies dims; `data` NULL gives zeroed, writable bytes through
 * mtbal_tensor_bytes. */
mtbal_tensor *mtbal_tensor_new(mtbal_model *model, mtbal_dtype dtype, int rank, const int64_t *dims,
                               const void *data);
void *mtbal_tensor_bytes(mtbal_tensor *tensor);
/* Element i as a double / an int64, for any numeric type. The tensor must be loaded and i in range.
 */
double mtbal_tensor_f64(const mtbal_tensor *tensor, int64_t i);
int64_t mtbal_tensor_i64(const mtbal_tensor *tensor, int64_t i);
void mtbal_tensor_set_f64(mtbal_tensor *tensor, int64_t i, double x);
/* IEEE half and bfloat16 conversions (round to nearest even). */
float mtbal_half_to_float(uint16_t h);
uint16_t mtbal_float_to_half(float f);

/* ------------------------------------------------------------------ graph.c, node.c, attr.c:
 * models, graphs, nodes, values */

typedef enum mtbal_attr_kind { /* ONNX's numbers (AttributeProto.AttributeType) */
                               MTBAL_ATTR_NONE = 0,
                               MTBAL_ATTR_FLOAT = 1,
                               MTBAL_ATTR_INT = 2,
                               MTBAL_ATTR_STRING = 3,
                               MTBAL_ATTR_TENSOR = 4,
                               MTBAL_ATTR_GRAPH = 5,
                               MTBAL_ATTR_FLOATS = 6,
                               MTBAL_ATTR_INTS = 7,
                               MTBAL_ATTR_STRINGS = 8,
                               MTBAL_ATTR_OTHER = 99 /* tensors, graphs, sparse tensors, types: kept
                                                        through `origin` */
} mtbal_attr_kind;

typedef struct mtbal_attr {
    const char *name;
    mtbal_attr_kind kind;
    const char *ref; /* name of the function's attribute that it refers to, or NULL */
    float f;
    int64_t i;
    const char *s; /* NUL-terminated; may hold NULs inside, hence: */
    size_t s_len;
    mtbal_tensor *t;
    mtbal_graph *g;
    int n; /* of floats, ints, strings */
    const float *floats;
    const int64_t *ints;
    const char *const *strings;
    void *origin; /* onnxio's AttributeProto while it is unchanged, else NULL */
    struct mtbal_attr *next;
} mtbal_attr;

/* A value: a graph input, an initializer, or an output of a node. Names are unique within the
 * model's main graph and, after reading, within all its subgraphs. */
struct mtbal_value {
    const char *name; /* interned */
    int id;           /* 0 .. model->nvalues-1: index for tables of passes */
    mtbal_type type;
    mtbal_node *def; /* NULL for inputs and initializers */
    int def_index;   /* which output of def */
    mtbal_graph *graph;
    mtbal_tensor *tensor; /* constant contents: initializer, or output of a Constant node; NULL
                             otherwise. An initializer that is also a graph input is a default, not
                             a constant: see is_input. */
    mtbal_dim *
        content; /* contents of a small integer tensor (rank 0 or 1), symbolic; NULL when unknown */
    int ncontent;
    bool is_input;       /* listed in graph->inputs */
    bool is_output;      /* listed in graph->outputs */
    bool is_initializer; /* listed in graph->initializers */
    void *origin;        /* onnxio's ValueInfoProto */
};

struct mtbal_node {
    const char *name, *op, *domain; /* interned; domain "" for ai.onnx */
    const char *overload;           /* "" mostly */
    int opcode;                     /* row of the op list (ops.h), or -1 */
    int nin, nout;
    mtbal_value **in;  /* NULL where an optional input is left out */
    mtbal_value **out; /* NULL where an optional output is left out */
    mtbal_attr *attrs; /* list */
    mtbal_graph *graph;
    mtbal_node *prev, *next;
    const char *role, *task; /* why mtbal put it there ("gradient", "norm", "weight", "update"), and
                                for which task */
    int mark;                /* scratch of one pass */
    void *origin;            /* onnxio's NodeProto */
};

struct mtbal_graph {
    mtbal_model *model;
    mtbal_graph *parent; /* for a subgraph: the graph around it */
    mtbal_node *owner;   /* for a subgraph: the node that holds it */
    const char *name;
    int ninputs, noutputs, ninitializers;
    mtbal_value **inputs, **outputs, **initializers; /* grow with the functions below only */
    mtbal_node *first, *last;                        /* in topological order once verified */
    int nnodes;
    struct mtbal_function *function; /* whose body it is, or NULL */
    void *origin;
};

typedef struct mtbal_opset {
    const char *domain; /* "" for ai.onnx */
    int64_t version;
} mtbal_opset;

typedef struct mtbal_function {
    int before; /* index of the last one of its name that stands before it; -1: none */
    const char *domain, *name, *overload, *doc;
    int nattrs;
    const char **attrs;   /* names without default */
    mtbal_attr *defaults; /* attributes with default */
    int nopsets;
    mtbal_opset *opsets;
    mtbal_graph *body; /* inputs and outputs in order; no initializers */
    void *origin;
} mtbal_function;

typedef struct mtbal_property {
    const char *key, *value;
} mtbal_property;

/* A step of training beside the graph: ONNX's TrainingInfoProto. */
typedef struct mtbal_training {
    mtbal_graph *initialization; /* NULL: none */
    mtbal_graph *algorithm; /* NULL: none; its parent is the main graph, whose values it reads */
    int ninits, nupdates;
    mtbal_property *inits; /* initializer -> output of initialization that it starts from */
    mtbal_property
        *updates; /* initializer -> output of algorithm, or of the main graph: its next */
    void *origin;
} mtbal_training;

struct mtbal_model {
    mtbal_arena *arena;
    int64_t ir_version;
    const char *producer_name, *producer_version, *domain, *doc;
    int64_t model_version;
    int nopsets;
    mtbal_opset *opsets;
    mtbal_graph *graph;
    int nfunctions;
    mtbal_function **functions; /* mtbal_function_add, mtbal_functions_keep */
    mtbal_map function_of;      /* name -> the last function of that name */
    int nproperties;
    mtbal_property *properties; /* metadata_props */
    int ntrainings;
    mtbal_training **trainings; /* passes/training_info.c makes plain graphs of them, and back */
    int nvalues;
    struct mtbal_used *used; /* names of values, with counters for fresh ones */
    mtbal_map used_of;       /* name -> place in `used` */
    int nused;
    const char *path; /* of the file, for messages; NULL when made here */
    void *origin;     /* onnxio's state: the ModelProto, maps of external files */
    void (*close)(void *origin);
    mtbal_status (*load)(void *origin, mtbal_tensor *tensor, mtbal_diag *diag);
};

/* An empty model with an empty main graph, IR 8, opset `opset`. NULL: out of memory. */
mtbal_model *mtbal_model_new(int64_t opset);
/* Frees everything; NULL is fine. */
void mtbal_model_free(mtbal_model *model);
int64_t mtbal_opset_of(const mtbal_model *model, const char *domain); /* 0 when not imported */
mtbal_status mtbal_set_opset(mtbal_model *model, const char *domain, int64_t version);
const char *mtbal_property_get(const mtbal_model *model, const char *key);
mtbal_status mtbal_property_set(mtbal_model *model, const char *key, const char *value);
mtbal_function *mtbal_function_find(const mtbal_model *model, const char *domain, const char *name,
                                    const char *overload);
/* Its place in model->functions; -1: none. */
int mtbal_function_index(const mtbal_model *model, const char *domain, const char *name,
                         const char *overload);
mtbal_status mtbal_function_add(mtbal_model *model, mtbal_function *function);
/* Leaves those that `keep`, by place, marks. */
mtbal_status mtbal_functions_keep(mtbal_model *model, const bool *keep);

mtbal_graph *mtbal_graph_new(mtbal_model *model, mtbal_graph *parent, const char *name);
/* A value without definition. Name NULL: a fresh one. The name must not be in use. */
mtbal_value *mtbal_value_new(mtbal_graph *graph, const char *name);
/* The name is interned, and not in use. */
mtbal_status mtbal_value_rename(mtbal_value *value, const char *name);
/* The value of that name visible in `graph` (its own, then its parents'). */
mtbal_value *mtbal_value_find(mtbal_graph *graph, const char *name);
/* The initializer of that name, of the main graph or of a training step beside it. */
mtbal_value *mtbal_initializer_find(const mtbal_model *model, const char *name);
const char *mtbal_fresh_name(mtbal_model *model,
                             const char *base); /* base, or base_1, ... not yet in use */
void mtbal_forget_name(mtbal_model *model, const char *name); /* of a value that is gone */
mtbal_status mtbal_add_input(mtbal_graph *graph, mtbal_value *value);
mtbal_status mtbal_add_output(mtbal_graph *graph, mtbal_value *value);
mtbal_status mtbal_add_initializer(mtbal_graph *graph, mtbal_value *value, mtbal_tensor *tensor);
/* Takes a value out of the list of inputs / outputs / initializers. */
void mtbal_remove_input(mtbal_graph *graph, mtbal_value *value);
void mtbal_remove_output(mtbal_graph *graph, mtbal_value *value);
void mtbal_remove_initializer(mtbal_graph *graph, mtbal_value *value);

/* A node before `before` (NULL: at the end). Inputs may hold NULL. Outputs are new values with
 * fresh names, unless set by the caller afterwards. */
mtbal_node *mtbal_node_new(mtbal_graph *graph, mtbal_node *before, const char *domain,
                           const char *op, int nin, mtbal_value *const *in, int nout);
mtbal_status mtbal_node_set_inputs(mtbal_node *node, int nin, mtbal_value *const *in);
mtbal_status mtbal_node_set_output(mtbal_node *node, int index, mtbal_value *value);
void mtbal_node_remove(mtbal_node *node); /* its outputs must be unused */
void mtbal_node_move(mtbal_node *node, mtbal_node *before);
/* To the end of another graph, with what it defines. */
void mtbal_node_transfer(mtbal_node *node, mtbal_graph *into);
bool mtbal_node_is(const mtbal_node *node, int opcode); /* MTBAL_OP_... */
mtbal_status mtbal_node_set_op(mtbal_node *node, const char *domain,
                               const char *op); /* keeps opcode right */
/* "node NAME (Op)" for messages, in `text`, which it returns; a node without a name goes by its
 * first output's. */
const char *mtbal_node_label(const mtbal_node *node, char text[256]);

mtbal_attr *mtbal_attr_find(const mtbal_node *node, const char *name);
int64_t mtbal_attr_i(const mtbal_node *node, const char *name, int64_t otherwise);
double mtbal_attr_f(const mtbal_node *node, const char *name, double otherwise);
const char *mtbal_attr_s(const mtbal_node *node, const char *name, const char *otherwise);
/* Number of ints, and the ints; -1 when the attribute is not there. */
int mtbal_attr_ints(const mtbal_node *node, const char *name, const int64_t **ints);
mtbal_status mtbal_set_i(mtbal_node *node, const char *name, int64_t value);
mtbal_status mtbal_set_f(mtbal_node *node, const char *name, double value);
mtbal_status mtbal_set_s(mtbal_node *node, const char *name, const char *value);
mtbal_status mtbal_set_ints(mtbal_node *node, const char *name, int n, const int64_t *values);
mtbal_status mtbal_set_tensor(mtbal_node *node, const char *name, mtbal_tensor *tensor);
mtbal_status mtbal_set_graph(mtbal_node *node, const char *name, mtbal_graph *graph);
/* Those that `to` does not have. A subgraph is shared: use it where `from` is removed afterwards.
 */
mtbal_status mtbal_copy_attrs(mtbal_node *to, const mtbal_node *from);
void mtbal_attr_remove(mtbal_node *node, const char *name);
/* Removes those that the operator has no more at this opset. */
void mtbal_drop_attributes(mtbal_node *node, int64_t opset);
/* Attributes of a copied node that refer to the function's become the call's, or the default; else
 * they go. What the call gives may itself refer to an attribute, of the function that the call
 * stands in. */
void mtbal_bind_attrs(mtbal_node *node, const mtbal_node *call, const mtbal_function *function);

/* ------------------------------------------------------------------ uses.c, copy.c: a whole graph
 */

/* Calls visit for every node of the graph, and of the subgraphs in it (outer first). Stops at the
 * first error. */
typedef mtbal_status mtbal_visit(mtbal_node *node, void *context);
mtbal_status mtbal_graph_walk(mtbal_graph *graph, mtbal_visit *visit, void *context);

/* Users of every value, subgraphs included: a table by value id. Made once, not kept up to date. */
typedef struct mtbal_uses {
    int nvalues;
    int *count; /* [nvalues] uses as node input, plus one for each listing as a graph output */
    mtbal_node ***node; /* [nvalues][..] the nodes, one entry per use as node input */
    int *nnodes;
} mtbal_uses;
mtbal_uses *mtbal_uses_new(mtbal_model *model, mtbal_graph *graph, mtbal_arena *arena);

/* Replaces, in the node and its subgraphs, every value that it reads by its entry in `map`, a table
 * by value id of size n; NULL there: it stays. */
void mtbal_node_remap(mtbal_node *node, mtbal_value *const *map, int n);
/* Replaces `from` by `to` in all node inputs and graph outputs of `graph` and its subgraphs, `to`'s
 * own definition included. A graph output keeps its name: the names of the two values are swapped
 * then; where `to` cannot take it (an input, an initializer, itself an output, of an outer graph)
 * an Identity node at the end does. Linear in the graph. */
mtbal_status mtbal_replace(mtbal_graph *graph, mtbal_value *from, mtbal_value *to);

/* A copy of `graph`'s nodes into `into`, before `before`. map is a table by value id (size
 * model->nvalues at the call): what is set there beforehand stands in for that value; all copied
 * outputs are entered. Subgraphs are copied too. prefix, when not NULL, goes before the names of
 * copied nodes and values. */
mtbal_status mtbal_graph_copy_nodes(const mtbal_graph *graph, mtbal_graph *into, mtbal_node *before,
                                    mtbal_value **map, int nmap, const char *prefix);
/* The same of one node. */
mtbal_status mtbal_node_copy(const mtbal_node *node, mtbal_graph *into, mtbal_node *before,
                             mtbal_value **map, int nmap, const char *prefix);

/* ------------------------------------------------------------------ metadata.c */

/* A flat JSON array of strings (names; values are NULL) or object (names and values). */
typedef struct mtbal_list {
    int count;
    const char **names, **values;
} mtbal_list;
/* The metadata entry `key` as a list, in `arena`. Empty when there is none. */
mtbal_status mtbal_property_list(const mtbal_model *model, const char *key, mtbal_arena *arena,
                                 mtbal_list *list, mtbal_diag *diag);

/* ------------------------------------------------------------------ build.c: emitting nodes */

/* Emits nodes into one graph at one place. Sticky: after the first error every call returns NULL
 * and does nothing, and a NULL operand gives NULL; so a rule reads as the formula that it is, and
 * its caller checks `status` once. Types of emitted values are inferred at once. */
typedef struct mtbal_builder {
    mtbal_graph *graph;
    mtbal_node *before; /* insertion point, NULL: at the end */
    const char *prefix; /* of names, e.g. "mtbal/grad/" */
    const char *role, *task;
    mtbal_status status;
    mtbal_diag *diag;
} mtbal_builder;

void mtbal_builder_init(mtbal_builder *b, mtbal_graph *graph, mtbal_node *before, mtbal_diag *diag);
int64_t mtbal_builder_opset(const mtbal_builder *b); /* of the default domain */
/* Emits op with one output. In: n operands, NULL marks an omitted optional operand only when passed
 * as MTBAL_OMIT. */
extern mtbal_value *const MTBAL_OMIT;
mtbal_value *mtbal_emit_n(mtbal_builder *b, const char *op, int n, mtbal_value *const *in);
#define mtbal_emit(b, op, ...)                                                                     \
    mtbal_emit_n((b), (op), (int)(sizeof((mtbal_value *[]){__VA_ARGS__}) / sizeof(mtbal_value *)), \
                 (mtbal_value *[]){__VA_ARGS__})
/* Emits domain.op with nout outputs, written to out. Returns the node, to set attributes on; call
 * mtbal_emit_done after setting attributes, so that types are inferred. For one-output nodes with
 * attributes: mtbal_emit_attrs. */
mtbal_node *mtbal_emit_node(mtbal_builder *b, const char *domain, const char *op, int n,
                            mtbal_value *const *in, int nout, mtbal_value **out);
void mtbal_emit_done(mtbal_builder *b, mtbal_node *node);
/* Emits op with one output and attributes given as a format: "axis=i alpha=f mode=s perm=I"
 * followed by the values: i int64_t, f double, s const char *, I int n then const int64_t *. */
mtbal_value *mtbal_emit_attrs(mtbal_builder *b, const char *op, int n, mtbal_value *const *in,
                              const char *format, ...);
/* The same attributes on a node; t mtbal_tensor * too. */
mtbal_status mtbal_set_attrs(mtbal_node *node, const char *format, ...);
mtbal_status mtbal_set_attrs_v(mtbal_node *node, const char *format, va_list *args);
/* Constants (Constant nodes; equal ones are merged by the cse pass). Scalars have rank 0. */
mtbal_value *mtbal_const_scalar(mtbal_builder *b, mtbal_dtype dtype, double x);
mtbal_value *mtbal_const_i64(mtbal_builder *b, int64_t x);                 /* rank 0 */
mtbal_value *mtbal_const_i64s(mtbal_builder *b, int n, const int64_t *xs); /* rank 1 */
mtbal_value *mtbal_const_tensor(mtbal_builder *b, mtbal_tensor *tensor);
/* Reductions, whatever the opset wants: axes NULL and n 0 for all axes. op is ReduceSum,
 * ReduceMean, ReduceMax ... */
mtbal_value *mtbal_emit_reduce(mtbal_builder *b, const char *op, mtbal_value *x, int n,
                               const int64_t *axes, bool keepdims);
mtbal_value *mtbal_emit_cast(mtbal_builder *b, mtbal_value *x,
                             mtbal_dtype to); /* x itself if it is that */
mtbal_value *mtbal_emit_transpose(mtbal_builder *b, mtbal_value *x, int n, const int64_t *perm);
mtbal_value *mtbal_emit_reshape(mtbal_builder *b, mtbal_value *x, mtbal_value *shape);
/* x in the shape of `like`: x itself when the shapes are certainly equal. */
mtbal_value *mtbal_emit_reshape_like(mtbal_builder *b, mtbal_value *x, mtbal_value *like);
/* Shape of x as int64 [rank]: a Constant when known. */
mtbal_value *mtbal_emit_shape(mtbal_builder *b, mtbal_value *x);
/* Zeros (or ones...) of the shape and type of `like`. */
mtbal_value *mtbal_emit_fill_like(mtbal_builder *b, mtbal_value *like, double x);
/* x summed over the axes along which `like` was broadcast to x, in the shape of `like` (which must
 * broadcast to x's shape). x itself when the shapes are certainly equal. Static axes where shapes
 * are known, computed ones elsewhere. */
mtbal_value *mtbal_emit_sum_to(mtbal_builder *b, mtbal_value *x, mtbal_value *like);
/* Adds a model-local function of domain "mtbal" from ONNX text unless the model has it, and imports
 * the domain. The text: `<opset_import: ["" : 17]> Name (x, y) => (z) { ... }` ; opset "" is
 * replaced by the model's own. */
mtbal_status mtbal_builder_function(mtbal_builder *b, const char *text);

/* ------------------------------------------------------------------ compound.c */

/* Emits what the node computes in simpler operators; y [nout], NULL before: its results (NULL: an
 * output that is not given). Returns NULL, or why it cannot, after which `y` says nothing. */
const char *mtbal_decompose(mtbal_builder *b, const mtbal_node *node, mtbal_value **y);

/* ------------------------------------------------------------------ infer.c, ops/: shape inference
 */

/* Context of a shape function: one node; sets types (and symbolic contents) of its outputs. Unknown
 * inputs give unknown outputs, never an error; a contradiction is an error (MTBAL_INVALID). */
typedef struct mtbal_infer {
    mtbal_model *model;
    mtbal_node *node;
    int64_t opset; /* of the node's domain, in the graph or function that holds it */
    mtbal_diag *diag;
    struct mtbal_walk *walk; /* infer.c's: where in which calls */
} mtbal_infer;
typedef mtbal_status mtbal_shape_fn(mtbal_infer *infer);

/* Infers the types of all values of the graph, its subgraphs included. Keeps declared dimension
 * names; refines unknown dimensions. Functions are inferred at their calls (by walking the body
 * with the call's types). */
mtbal_status mtbal_infer_graph(mtbal_graph *graph, mtbal_diag *diag);
mtbal_status mtbal_infer_node(mtbal_node *node, mtbal_diag *diag);
/* ops/rnn.c: an activation of a recurrent layer, by its ONNX name. */
typedef struct mtbal_activation {
    const char *name;
    double alpha, beta;
} mtbal_activation;
/* The activations of one direction (0 or 1) of an LSTM, GRU or RNN node, defaults filled in: their
 * number, or -1 when there is one that ONNX does not know. */
int mtbal_rnn_activations(const mtbal_node *node, int direction, mtbal_activation to[3]);
/* Arithmetic of dimensions: canonical symbolic results; unknown when an operand is. */
mtbal_dim mtbal_dim_const(int64_t size);
mtbal_dim mtbal_dim_add(mtbal_model *model, mtbal_dim a, mtbal_dim b);
mtbal_dim mtbal_dim_sub(mtbal_model *model, mtbal_dim a, mtbal_dim b);
mtbal_dim mtbal_dim_mul(mtbal_model *model, mtbal_dim a, mtbal_dim b);
mtbal_dim mtbal_dim_div(mtbal_model *model, mtbal_dim a, mtbal_dim b); /* floor */
/* Binds graph input dimensions by name and shape: replaces the symbol by the number everywhere in
 * input types. After it, mtbal_infer_graph gives concrete shapes. */
mtbal_status mtbal_bind_dim(mtbal_model *model, const char *symbol, int64_t size);

/* ------------------------------------------------------------------ text.c, parse.c: ONNX text */

/* Prints in ONNX's textual syntax (onnx/docs/Syntax.md): names that are no identifiers are quoted.
 * Tensors above `max_elements` are printed as their type only (max_elements < 0: all). false: write
 * error. */
bool mtbal_print_model(FILE *to, const mtbal_model *model, int64_t max_elements);
bool mtbal_print_graph(FILE *to, const mtbal_graph *graph, int64_t max_elements);
bool mtbal_print_function(FILE *to, const mtbal_function *function);
void mtbal_print_type(FILE *to, const mtbal_type *type);
/* Parses a model from text. NULL on error, with line and column in the diagnostic. */
mtbal_model *mtbal_parse_model(const char *text, mtbal_diag *diag);
/* Parses one function into the model (not added to it). */
mtbal_function *mtbal_parse_function(mtbal_model *model, const char *text, mtbal_diag *diag);

/* ------------------------------------------------------------------ verify.c */

/* Sorts nodes topologically where they are not; then checks: single assignment, operands defined
 * before use and visible, no cycle, unique names, outputs defined, known ops have operands within
 * their arity, types consistent. MTBAL_INVALID with the node's name otherwise. */
mtbal_status mtbal_verify(mtbal_model *model, mtbal_diag *diag);

/* ------------------------------------------------------------------ ops.h: the op list, one row an
 * op */

/* For columns of several forms: y, where `form` is a macro that gives `~, y`; else `otherwise`. */
#define MTBAL_PICK(form, ...)             MTBAL_SECOND(form, __VA_ARGS__, )
#define MTBAL_SECOND(...)                 MTBAL_SECOND_(__VA_ARGS__)
#define MTBAL_SECOND_(first, second, ...) second

enum {
#define OP(id, name, domain, shape, gradient, kernel, ...) MTBAL_OP_##id,
#include "graph/ops.def"
#undef OP
    MTBAL_NOPS
};
/* The flags column; without MTBAL_ there. */
enum {
    MTBAL_RANDOM = 1,     /* draws random numbers: two such nodes are never the same */
    MTBAL_LAYOUT = 2,     /* operand 0 in another shape, order or type, element by element */
    MTBAL_MOVES = 4,      /* takes elements as they are, of any type: our kernel knows all types */
    MTBAL_FLOATS = 8,     /* our kernel knows floats only; integers are computed with as double */
    MTBAL_CONTROL = 16,   /* runs subgraphs */
    MTBAL_SEQUENCES = 32, /* makes or reads sequences; our runtime: of known length */
    MTBAL_OPTIONALS = 64, /* makes or reads optionals; our runtime: of known content */
    MTBAL_COUNTED = 128,  /* the size of its result depends on data */
    MTBAL_SCALE = 256     /* a normalisation: operand 1 is its scale, operand 2, if any, its bias */
};
typedef struct mtbal_op {
    const char *name, *domain;
    mtbal_shape_fn *shape;
    unsigned flags;
    const char *versions; /* at which it changed, in ascending order */
    const char *operands; /* NULL: nothing is known */
    int fewest, most;     /* outputs */
    const char *attributes;
} mtbal_op;
extern const mtbal_op mtbal_ops[MTBAL_NOPS];
int mtbal_opcode(const char *domain, const char *name); /* -1 when not in the list */
bool mtbal_node_has(const mtbal_node *node, unsigned flag);
/* Whether the operator and the node's attributes are there in this opset of its domain. */
bool mtbal_node_known_at(const mtbal_node *node, int64_t opset);
/* Marks of the operands column: a bit each, operands from 32 on have that of the last. */
unsigned mtbal_op_settings(int opcode); /* carry no gradient: they say how the operator works */
/* Where a constant is a weight; with `one`, also where it is a single number. */
unsigned mtbal_op_weights(int opcode, bool one);

#endif
