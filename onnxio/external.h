/* onnxio/external.h: the table of external files, shared by external.c and relocate.c. */
#ifndef MTBAL_ONNXIO_EXTERNAL_H
#define MTBAL_ONNXIO_EXTERNAL_H

#include "onnxio/proto.h"

#include <sys/stat.h>

typedef struct mtbal_external_file {
    const char *location; /* as in the model, interned */
    dev_t dev;
    ino_t ino;
    int64_t size;
    int fd; /* -1 unless pinned */
    const unsigned char *map;
} mtbal_external_file;

struct mtbal_external {
    mtbal_arena *arena;
    const char *folder; /* of the model; NULL: read from memory */
    int nfiles;
    mtbal_external_file *files;
    int capacity;
    mtbal_map at; /* location -> place in files */
};

/* A descriptor of the file as it was when the model was read; -1 after a diagnostic. To be closed
 * with _close, which leaves a pinned one open. */
int mtbal_external_open(const mtbal_external *external, int file, mtbal_diag *diag);
void mtbal_external_close(const mtbal_external *external, int file, int fd);
/* Holds the file open, so that it can be read after its name was given to another one. */
mtbal_status mtbal_external_pin(mtbal_external *external, int file, mtbal_diag *diag);
/* Is the file of that name still the one that was there when the model was read? */
bool mtbal_external_unchanged(const mtbal_external *external, int file);

#endif
