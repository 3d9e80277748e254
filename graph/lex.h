/* graph/lex.h: words of ONNX text, for parse.c. The first error sticks: after it every function
 * gives nothing and reads nothing. */
#ifndef MTBAL_LEX_H
#define MTBAL_LEX_H

#include "graph/graph.h"

typedef struct lexer {
    const char *text, *p, *end;
    mtbal_arena *arena; /* of names and strings */
    mtbal_diag *diag;
    mtbal_status status;
} lexer;

/* A literal. is_float: it has a point or an exponent, or is inf or nan. */
typedef struct number {
    bool is_float, negative;
    double f;
    int64_t i; /* the integer, also as the bits of an uint64 */
} number;

void lex_init(lexer *l, const char *text, mtbal_arena *arena, mtbal_diag *diag);
void *lex_error(lexer *l, const char *wanted); /* NULL */
void *lex_no_memory(lexer *l);                 /* NULL */
void lex_skip(lexer *l);                       /* blanks and comments */
/* The next character that is no blank; 0 at the end and after an error. */
char lex_peek(lexer *l);
/* Takes the word or sign if it comes next. */
bool lex_accept(lexer *l, const char *word);
bool lex_expect(lexer *l, const char *word);
/* Length of the identifier that comes next; 0 when there is none. */
size_t lex_identifier(lexer *l);
/* A quoted string; its length too, for it may hold anything. */
const char *lex_string(lexer *l);
/* An identifier or a quoted name; NULL without error when there is none. */
const char *lex_try_name(lexer *l);
const char *lex_name(lexer *l);
bool lex_number(lexer *l, number *n);

#endif
