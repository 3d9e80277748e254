/* tests/fuzz/npz.c: any bytes as .npz or .npy: read; every byte of every array is there. */
#define _GNU_SOURCE
#include "onnxio/onnxio.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void touch(const mtbal_npz *npz)
{
    for (int i = 0; i < npz->count; i++) {
        const mtbal_array *a = &npz->arrays[i];
        for (size_t k = 0; a->data && k < a->bytes; k++)
            (void)((const volatile unsigned char *)a->data)[k];
        if (mtbal_npz_find(npz, a->name) != a)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int file = -1;
    char path[64];
    mtbal_diag diag = {0};
    mtbal_npz *npz = NULL;
    if (file < 0)
        file = memfd_create("npz", 0);
    if (file < 0 || ftruncate(file, 0) || pwrite(file, data, size, 0) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    if (mtbal_npz_read(path, &npz, &diag) == MTBAL_OK)
        touch(npz);
    mtbal_npz_free(npz);
    return 0;
}
