/* graph/parse.h: what the files of the text parser share: scope.c (names), literal.c (types,
 * tensors, attributes), parse.c (the rest). */
#ifndef MTBAL_PARSE_H
#define MTBAL_PARSE_H

#include "graph/lex.h"

/* Something named in a scope; `hidden`: what the name meant around it (an index, -1: nothing). */
typedef struct entry {
    const char *name;
    mtbal_value *value;
    int hidden;
} entry;

/* A list that grows, in memory of its own; freed by its user. */
typedef struct list {
    void *items;
    int count, capacity;
} list;

/* What is known of a name. */
struct slot {
    int top;    /* index into scope, -1 when out of scope */
    bool taken; /* named a value of the model's graph or its subgraphs */
};

typedef struct parser {
    lexer l;
    mtbal_model *model;
    int nesting;
    bool in_function;
    entry *scope; /* stack */
    int nscope, capacity;
    list slots;
    mtbal_map slot_of;    /* name -> slot */
    mtbal_arena *scratch; /* of the map */
} parser;

/* ------------------------------------------------------------------ scope.c */

void *parse_no_memory(parser *s); /* NULL */
bool parse_good(const parser *s);
/* In a list: takes the comma before all but the first item; false at the end (`close` taken). */
bool parse_next(parser *s, int index, const char *close);
/* Room for one more item; NULL: out of memory. */
void *parse_append(parser *s, list *l, size_t size);
/* What a name stands for; NULL when nothing. */
mtbal_value *scope_lookup(const parser *s, const char *name);
/* A value of that name in the innermost scope. Within the model's graph and its subgraphs names are
 * unique: one that is used again there gets a fresh one. */
mtbal_value *scope_new(parser *s, mtbal_graph *graph, const char *name);
/* Forgets what was named since nscope was `to`. */
void scope_leave(parser *s, int to);
void scope_free(parser *s);

/* ------------------------------------------------------------------ literal.c */

/* A type, if one comes next. */
bool parse_try_type(parser *s, mtbal_type *type);
/* { elements } of a tensor of that type. */
mtbal_tensor *parse_tensor(parser *s, const mtbal_type *type);
mtbal_attr_kind parse_attr_kind(parser *s);
/* A value into `a`, of its kind where that is declared. */
void parse_literal(parser *s, mtbal_attr *a, mtbal_graph *graph);
/* <NAME [: KIND] = LITERAL | @NAME, ...>, or nothing. */
mtbal_attr *parse_attrs(parser *s, mtbal_graph *graph);

/* ------------------------------------------------------------------ parse.c */

/* NAME (inputs) => (outputs) <initializers> { body }, into a new subgraph of `parent` or `into`. */
mtbal_graph *parse_graph(parser *s, mtbal_graph *parent, mtbal_graph *into);

#endif
