/* train/snapshot.h: checkpoints. A training saves all that it needs to go on, as pieces of memory;
 * what is read back gives the same bits as if nothing had happened. */
#ifndef MTBAL_SNAPSHOT_H
#define MTBAL_SNAPSHOT_H

#include "train/train.h"

#include <signal.h>

typedef struct mtbal_snapshot_options {
    const char *path;   /* of the checkpoint */
    const char *output; /* path NULL: OUTPUT.checkpoint; both NULL: none is written */
    int64_t every;      /* steps of a training between two; 0: as many as take half a minute */
    bool resume;        /* go on from the file, when it is there */
    const volatile sig_atomic_t *stop; /* not 0: save and end. May be NULL */
} mtbal_snapshot_options;
typedef struct mtbal_snapshot mtbal_snapshot;

/* Close it whatever the status. MTBAL_INVALID when the file is damaged, truncated, of another
 * version or something else, MTBAL_USAGE when nothing is named to resume from. */
mtbal_status mtbal_snapshot_open(const mtbal_snapshot_options *options, mtbal_snapshot **snapshot,
                                 mtbal_diag *diag);
/* done: the work is complete, the file goes. NULL is fine. */
void mtbal_snapshot_close(mtbal_snapshot *snapshot, bool done);
const char *mtbal_snapshot_path(const mtbal_snapshot *snapshot); /* NULL: none is written */
bool mtbal_snapshot_resumed(const mtbal_snapshot *snapshot);     /* it goes on from the file */
/* The file is there, and will be replaced because nobody asked to go on from it. */
bool mtbal_snapshot_ignores(const mtbal_snapshot *snapshot);

/* A fingerprint of something without which the same bits cannot come out. */
typedef struct mtbal_tie {
    const char *what;       /* "--batch": for the message */
    uint64_t print;         /* mtbal_fingerprint... */
    mtbal_status otherwise; /* when it is another one */
} mtbal_tie;
/* Before anything is saved or loaded: notes the fingerprints, or compares them with those read. */
mtbal_status mtbal_snapshot_tie(mtbal_snapshot *snapshot, int count, const mtbal_tie *ties,
                                mtbal_diag *diag);
uint64_t mtbal_fingerprint(uint64_t print, const void *bytes,
                           size_t size); /* goes on from `print` */
uint64_t mtbal_fingerprint_settings(int count, const mtbal_setting *set);
mtbal_status mtbal_fingerprint_file(const char *path, uint64_t *print,
                                    mtbal_diag *diag); /* NULL: 0 */
/* A model without the values of its states whose names begin with `prefix`: "" all states, as a
 * checkpoint holds them. So it stays the same when a training's result is put in its place. */
mtbal_status mtbal_fingerprint_model(const char *path, const char *prefix, uint64_t *print,
                                     mtbal_diag *diag);

/* A piece of memory; saved and loaded as it is, so without pointers in it. */
typedef struct mtbal_piece {
    const char *name;
    void *data;
    size_t size;
} mtbal_piece;
/* Whether a training that has taken `steps` steps shall save. *last: 0 at first, its own. */
bool mtbal_snapshot_due(const mtbal_snapshot *snapshot, int64_t steps, double *last);
/* Replaces what is saved of a part (of one training, or its result) by these pieces and the
 * session's states (NULL: none) and writes the file. From several threads at a time.
 * MTBAL_INTERRUPTED, with the file written, when the program shall stop. */
mtbal_status mtbal_snapshot_save(mtbal_snapshot *snapshot, int part, mtbal_session *session,
                                 int count, const mtbal_piece *pieces, mtbal_diag *diag);
/* A piece that was read; NULL when there is none. "states": the session's. */
const void *mtbal_snapshot_find(mtbal_snapshot *snapshot, int part, const char *piece,
                                size_t *size);
/* Fills the pieces with what was read of them. */
mtbal_status mtbal_snapshot_load(mtbal_snapshot *snapshot, int part, int count,
                                 const mtbal_piece *pieces, mtbal_diag *diag);

#endif
