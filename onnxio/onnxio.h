/* onnxio/onnxio.h: the face of onnxio/: files <-> graph. The only folder that sees protobuf-c.
 * Stands on graph. Nothing read from a file is trusted. Every file is written to a temporary name
 * in the same folder, synced, then renamed: a failed write leaves the old file as it was. */
#ifndef MTBAL_ONNXIO_H
#define MTBAL_ONNXIO_H

#include "graph/graph.h"

/* ------------------------------------------------------------------ file.c: mapping, atomic
 * writing */

typedef struct mtbal_file {
    const unsigned char *data; /* mapped read-only; NULL when size is 0 */
    size_t size;
    int fd;
} mtbal_file;
mtbal_status mtbal_file_map(const char *path, mtbal_file *file, mtbal_diag *diag);
void mtbal_file_unmap(mtbal_file *file);
/* Syncs the folder that holds `path`, so that a new name in it survives a power cut. What cannot be
 * synced is not worth failing for. */
void mtbal_file_sync_folder(const char *path);

/* A file being written under a temporary name. Write through `fd` (or mtbal_writer_put), then
 * commit or abort. */
typedef struct mtbal_writer {
    char *path, *temporary;
    int fd;
    mtbal_status status;
} mtbal_writer;
mtbal_status mtbal_writer_open(mtbal_writer *writer, const char *path, mtbal_diag *diag);
mtbal_status mtbal_writer_put(mtbal_writer *writer, const void *bytes, size_t size,
                              mtbal_diag *diag);
/* Syncs and closes, so that nothing but the rename is left to fail in commit. Optional. */
mtbal_status mtbal_writer_seal(mtbal_writer *writer, mtbal_diag *diag);
mtbal_status mtbal_writer_commit(mtbal_writer *writer,
                                 mtbal_diag *diag); /* fsync, rename, fsync of the folder */
void mtbal_writer_abort(mtbal_writer *writer);      /* removes the temporary file */
/* Temporary files and folders that a signal handler, which then exits, removes. The path must stay
 * until it is taken off the list. */
void mtbal_temporary_add(char *path);
void mtbal_temporary_remove(char *path);
void mtbal_temporary_unlink_all(void);

/* ------------------------------------------------------------------ scan.c: the wire format,
 * checked before unpacking */

/* Refuses, in linear time and constant memory: nesting deeper than 100 messages, more than 64
 * million of them, singular message fields that come twice, truncated or overlong varints, groups,
 * field number 0, fields of the wrong wire type, lengths beyond the message, strings with NUL or
 * invalid UTF-8 (doc strings only: NUL), files above 2 GB, and such as unpacked would take more
 * memory than 32 x the file + 64 MB. */
mtbal_status mtbal_scan_model(const unsigned char *bytes, size_t size, const char *path,
                              mtbal_diag *diag);

/* ------------------------------------------------------------------ read.c, write.c, external.c:
 * ModelProto */

/* Reads a model. External data is not read: tensors map it when mtbal_tensor_load asks. Paths of
 * external files are checked (inside the model's folder, no symlink out of it, ranges inside the
 * file) at reading. */
mtbal_status mtbal_onnx_read(const char *path, mtbal_model **model, mtbal_diag *diag);
mtbal_status mtbal_onnx_read_bytes(const void *bytes, size_t size, const char *path,
                                   mtbal_model **model, mtbal_diag *diag);
/* Writes a model. What was read and not changed is written as it was read, unknown fields included;
 * a tensor or attribute counts as unchanged while its `origin` is set, so who changes its contents
 * clears that, or puts a new one in its place. A model that was read and not changed at all gives
 * the very bytes of its file. The data file and the model are both complete on the disk before
 * either gets its name; the model may be written over the very files that it was read from.
 * External tensors stay references when the output lies in the folder of their files; else their
 * ranges are copied, not loaded, into
 * `<output>.data`. Initializers made here above 1 KB go to `<output>.data` when the model had
 * external data; all above 1 KB do when it would pass 2 GB. */
mtbal_status mtbal_onnx_write(mtbal_model *model, const char *path, mtbal_diag *diag);
/* The same bytes into memory (mtbal_malloc); external tensors stay references. */
mtbal_status mtbal_onnx_write_bytes(mtbal_model *model, unsigned char **bytes, size_t *size,
                                    mtbal_diag *diag);
/* A single TensorProto file (test data sets: input_0.pb). The tensor lives in the model's arena. */
mtbal_status mtbal_onnx_read_tensor(mtbal_model *model, const char *path, mtbal_tensor **tensor,
                                    const char **name, mtbal_diag *diag);

/* ------------------------------------------------------------------ npz.c: arrays (.npz, .npy) */

typedef struct mtbal_array {
    const char *name;
    mtbal_dtype dtype;
    int rank;
    int64_t *dims;
    int64_t count;
    size_t bytes;
    void *data; /* row-major, native; Fortran order is transposed on reading, big-endian swapped */
} mtbal_array;
/* Reads all arrays of a zip of .npy files, stored or deflated, zip64 included, or one .npy file
 * (named as the file). All memory belongs to the result. Arrays of strings, objects or records do
 * not hinder the others: their dtype is MTBAL_UNDEFINED and their data NULL. Sorted by name. */
typedef struct mtbal_npz {
    int count;
    mtbal_array *arrays;
    mtbal_arena *arena;
} mtbal_npz;
mtbal_status mtbal_npz_read(const char *path, mtbal_npz **npz, mtbal_diag *diag);
const mtbal_array *mtbal_npz_find(const mtbal_npz *npz, const char *name);
void mtbal_npz_free(mtbal_npz *npz);
mtbal_status mtbal_npz_write(const char *path, int count, const mtbal_array *arrays, bool deflate,
                             mtbal_diag *diag);
/* The same, up to the rename: commit or abort `writer`. On an error it is aborted. */
mtbal_status mtbal_npz_prepare(const char *path, int count, const mtbal_array *arrays, bool deflate,
                               mtbal_writer *writer, mtbal_diag *diag);

/* ------------------------------------------------------------------ checkpoint.c: what ONNX
 * Runtime's training sessions load and save */

typedef struct mtbal_checkpoint_property {
    const char *name;
    float value;
} mtbal_checkpoint_property;
/* The module's state in a checkpoint: parameters that are trained, and those that are not; floats
 * of the property bag. The optimizer's state is checked, not kept. */
typedef struct mtbal_checkpoint {
    int version; /* 1: for ONNX Runtime 1.17; 2: for 1.18 and later. Each reads its own only */
    int ntrainable, nfrozen, nproperties;
    mtbal_array *trainable, *frozen;
    mtbal_checkpoint_property *properties;
    mtbal_arena *arena;
    mtbal_file file; /* where the arrays' data lie */
} mtbal_checkpoint;
/* Refused: other versions, what lies outside of
 * the file, sizes that do not fit the shape, names that come twice, weights that are elsewhere. */
mtbal_status mtbal_checkpoint_read(const char *path, mtbal_checkpoint **checkpoint,
                                   mtbal_diag *diag);
/* The arrays' data lie in `bytes`. */
mtbal_status mtbal_checkpoint_read_bytes(const void *bytes, size_t size, const char *path,
                                         mtbal_checkpoint **checkpoint, mtbal_diag *diag);
const mtbal_array *mtbal_checkpoint_find(const mtbal_checkpoint *checkpoint, const char *name);
void mtbal_checkpoint_free(mtbal_checkpoint *checkpoint); /* NULL is fine */
mtbal_status mtbal_checkpoint_write(const char *path, const mtbal_checkpoint *checkpoint,
                                    mtbal_diag *diag);

/* ------------------------------------------------------------------ bundle.c: files that appear
 * together */

/* Files are written into a new folder beside `path`; commit gives them their places in `path` (made
 * when absent), all or none; other files there stay. abort, an error or a signal removes what was
 * written, and leaves `path` as it was. */
typedef struct mtbal_bundle_entry mtbal_bundle_entry;
typedef struct mtbal_bundle {
    char *path, *temporary;
    mtbal_bundle_entry *last;
} mtbal_bundle;
mtbal_status mtbal_bundle_open(mtbal_bundle *bundle, const char *path, mtbal_diag *diag);
/* The path under which to write the file `name`, or "folder/name"; its folders are made. A file
 * that is added and not written is left out. */
mtbal_status mtbal_bundle_add(mtbal_bundle *bundle, const char *name, const char **path,
                              mtbal_diag *diag);
mtbal_status mtbal_bundle_commit(mtbal_bundle *bundle, mtbal_diag *diag);
void mtbal_bundle_abort(mtbal_bundle *bundle);

#endif
