/* onnxio/zip.h: zip archives, as far as .npz needs them: stored and deflated entries, zip64. */
#ifndef MTBAL_ONNXIO_ZIP_H
#define MTBAL_ONNXIO_ZIP_H

#include "onnxio/onnxio.h"

typedef struct mtbal_zip_entry {
    const char *name; /* in the arena of the archive */
    const unsigned char *packed;
    uint64_t packed_size, size;
    uint32_t crc;
    int method; /* 0 stored, 8 deflated */
} mtbal_zip_entry;

typedef struct mtbal_zip {
    const char *path;
    int count;
    mtbal_zip_entry *entries;
} mtbal_zip;

/* The directory of an archive in memory, which the entries then point into. */
mtbal_status mtbal_zip_open(mtbal_zip *zip, const char *path, const unsigned char *data,
                            size_t size, mtbal_arena *arena, mtbal_diag *diag);
/* Reads an entry piece by piece, so that its header can be judged before its contents have a place.
 * The checksum is compared when the last byte was read. */
typedef struct mtbal_zip_stream mtbal_zip_stream;
mtbal_zip_stream *mtbal_zip_stream_new(const mtbal_zip *zip, const mtbal_zip_entry *entry,
                                       mtbal_diag *diag);
mtbal_status mtbal_zip_read(mtbal_zip_stream *stream, void *to, size_t size, mtbal_diag *diag);
void mtbal_zip_stream_free(mtbal_zip_stream *stream);

/* Writes an archive: entries one after the other, then the directory. Same input, same bytes. */
typedef struct mtbal_zip_writer {
    mtbal_writer *to;
    uint64_t offset;
    int count, capacity;
    struct mtbal_zip_record *records;
} mtbal_zip_writer;
/* An entry made of two pieces (a header and its data). */
mtbal_status mtbal_zip_add(mtbal_zip_writer *zip, const char *name, const void *head,
                           size_t head_size, const void *data, size_t size, bool deflated,
                           mtbal_diag *diag);
mtbal_status mtbal_zip_finish(mtbal_zip_writer *zip, mtbal_diag *diag);
void mtbal_zip_writer_free(mtbal_zip_writer *zip);

#endif
