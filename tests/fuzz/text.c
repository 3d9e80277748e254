/* tests/fuzz/text.c: any bytes as ONNX text: parsed, verified, shapes inferred. What is printed of
 * a valid model parses again. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_and_parse(const mtbal_model *model)
{
    char *text = NULL;
    size_t size = 0;
    mtbal_diag diag = {0};
    FILE *to = open_memstream(&text, &size);
    bool whole = to && mtbal_print_model(to, model, INT64_MAX);
    if (to)
        fclose(to);
    mtbal_model *again = whole ? mtbal_parse_model(text, &diag) : NULL;
    if (whole && !again) {
        fprintf(stderr, "%s: %s\n%s", diag.where, diag.what, text);
        abort();
    }
    mtbal_model_free(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mtbal_diag diag = {0};
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    mtbal_model *model = mtbal_parse_model(text, &diag);
    if (model && mtbal_verify(model, &diag) == MTBAL_OK &&
        mtbal_infer_graph(model->graph, &diag) == MTBAL_OK)
        print_and_parse(model);
    mtbal_model_free(model);
    free(text);
    return 0;
}
