/* npz.h: NumPy's .npz files for the example beside: just enough, with zlib. */
#ifndef NPZ_H
#define NPZ_H

#include <stddef.h>
#include <stdint.h>

typedef struct npz_array {
    char name[256];
    char type[4]; /* as NumPy writes it: f4 float, f8 double, i4, i8 integers, ... */
    int rank;
    int64_t dims[8], count;
    size_t bytes;
    void *data;
} npz_array;

/* Reads all arrays; 0 and a message on stderr when the file is not as expected. The arrays and
 * their data are malloc'ed. */
int npz_read(const char *path, npz_array **arrays);
/* Writes n arrays, not compressed; 0 when it cannot. */
int npz_write(const char *path, const npz_array *arrays, int n);

#endif
