/* tests/fuzz/model.c: any bytes as a model: read, verified, shapes inferred, written. What was
 * written from a valid model reads again. */
#include "onnxio/onnxio.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_read(mtbal_model *model)
{
    unsigned char *bytes = NULL;
    size_t size = 0;
    mtbal_model *again = NULL;
    if (mtbal_onnx_write_bytes(model, &bytes, &size, NULL) == MTBAL_OK &&
        mtbal_onnx_read_bytes(bytes, size, NULL, &again, NULL) != MTBAL_OK)
        abort();
    mtbal_model_free(again);
    mtbal_free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    if (mtbal_onnx_read_bytes(data, size, NULL, &model, &diag) == MTBAL_OK &&
        mtbal_verify(model, &diag) == MTBAL_OK &&
        mtbal_infer_graph(model->graph, &diag) == MTBAL_OK)
        write_and_read(model);
    mtbal_model_free(model);
    return 0;
}
