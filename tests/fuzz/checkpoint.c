/* tests/fuzz/checkpoint.c: any bytes as a checkpoint of ONNX Runtime: read; every byte of every
 * array is there. */
#include "onnxio/onnxio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void touch(const mtbal_array *arrays, int count)
{
    for (int i = 0; i < count; i++)
        for (size_t k = 0; arrays[i].data && k < arrays[i].bytes; k++)
            (void)((const volatile unsigned char *)arrays[i].data)[k];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mtbal_diag diag = {0};
    mtbal_checkpoint *checkpoint = NULL;
    if (mtbal_checkpoint_read_bytes(data, size, "checkpoint", &checkpoint, &diag) == MTBAL_OK) {
        touch(checkpoint->trainable, checkpoint->ntrainable);
        touch(checkpoint->frozen, checkpoint->nfrozen);
    }
    mtbal_checkpoint_free(checkpoint);
    return 0;
}
