/* tests/fuzz/step.c: any bytes as a model, through everything: see once.h. */
#include "tests/fuzz/once.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    once(data, size);
    return 0;
}
