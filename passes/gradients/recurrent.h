/* passes/gradients/recurrent.h: between the rule of recurrent layers and the bodies of its
 * functions. */
#ifndef MTBAL_RECURRENT_H
#define MTBAL_RECURRENT_H

#include "graph/graph.h"

/* What tells one function from another. */
typedef struct recurrent_form {
    int nact;
    mtbal_activation act[3];
    char activations[64]; /* their names */
    double clip;          /* 0: none */
    bool input_forget, linear, peep, masked;
    bool common; /* Sigmoid, Tanh, Relu; neither clip nor input_forget: our runtime has a kernel */
} recurrent_form;

typedef struct recurrent_text {
    char chars[12000];
    size_t n;
} recurrent_text;

/* Whether the slope is known from the activation's result. */
bool recurrent_has_slope(const mtbal_activation *a);
void recurrent_lstm_body(recurrent_text *t, const recurrent_form *form, const char *name);
void recurrent_gru_body(recurrent_text *t, const recurrent_form *form, const char *name);
void recurrent_rnn_body(recurrent_text *t, const recurrent_form *form, const char *name);

#endif
