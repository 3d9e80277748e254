/* tests/files.h: what tests of files share: a folder of their own, whole files, the protobuf wire
 * format by hand, allocations that fail in turn. */
#ifndef MTBAL_TESTS_FILES_H
#define MTBAL_TESTS_FILES_H

#include "onnxio/onnxio.h"

/* A fresh folder for the files of one test program; gone after files_end. */
void files_begin(void);
void files_end(void);
const char *files_path(const char *name); /* in the folder; one of 8 buffers in turn */
void files_write(const char *path, const void *bytes, size_t size);
unsigned char *files_read(const char *path,
                          size_t *size); /* malloc'ed; aborts the test if absent */
bool files_equal(const char *a, const char *b);
int files_count(void); /* in the folder, and below */
/* Runs a shell command, in which BIN stands for the folder of the commands; what it printed, both
 * streams, malloc'ed. */
char *files_run(int *code, const char *format, ...) MTBAL_PRINTF(2, 3);

/* Bytes that grow. */
typedef struct wire {
    unsigned char *data;
    size_t size, capacity;
} wire;
void wire_raw(wire *w, const void *bytes, size_t size);
void wire_varint(wire *w, uint64_t x);
void wire_int(wire *w, unsigned field, uint64_t x);
void wire_bytes(wire *w, unsigned field, const void *bytes, size_t size);
void wire_text(wire *w, unsigned field, const char *text);
void wire_sub(wire *w, unsigned field, wire *part); /* frees part */
void wire_free(wire *w);

/* A small valid ModelProto: y = Identity(x) of float [2,3], and what is appended to its graph. */
wire wire_model(wire *graph_extra);
/* An initializer w of float [n], external with these entries (NULL: left out). */
wire wire_external(int64_t n, const char *location, const char *offset, const char *length);

/* Runs `body` with the first, second, ... allocation failing, until it needs no more. body returns
 * a status: MTBAL_OK or MTBAL_NOMEM, anything else fails the test. Returns the number of runs. */
int fail_each_allocation(mtbal_status (*body)(void *context), void *context);

#endif
