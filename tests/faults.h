/* tests/faults.h: system calls that writing depends on, failing in turn. */
#ifndef MTBAL_TESTS_FAULTS_H
#define MTBAL_TESTS_FAULTS_H

#include <stdbool.h>

/* The n-th write, read, sync, rename, link, opening or making of a folder from now on fails. */
void faults_begin(int n);
/* None does any more; whether there was an n-th. */
bool faults_end(void);

#endif
