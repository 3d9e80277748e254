/* tests/steps.c: step graphs of small models, and their data. */
#include "tests/steps.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { INPUTS = 8, WIDTH = 16, OUTPUTS = 4 };

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

double steps_normal(uint64_t *state)
{
    double radius = sqrt(-2 * log(1 - uniform(state)));
    return radius * cos(6.283185307179586 * uniform(state));
}

/* "float[n,m] NAME = {...}" of normal numbers times scale. */
static void print_weight(FILE *to, const char *name, int rows, int columns, uint64_t seed)
{
    double scale = sqrt(1.5 / rows);
    fprintf(to, "float[%d,%d] %s = {", rows, columns, name);
    for (int i = 0; i < rows * columns; i++)
        fprintf(to, "%s%.9g", i ? ", " : "", scale * steps_normal(&seed));
    fprintf(to, "}");
}

char *steps_network(int layers, uint64_t seed)
{
    char *text = NULL, name[16];
    size_t size;
    int width = layers > 1 ? WIDTH : INPUTS;
    FILE *to = open_memstream(&text, &size);
    ck_assert(to != NULL);
    fprintf(to, "<ir_version: 8, opset_import: [\"\" : 17]>\n"
                "g (float[n,8] x, float[n,4] y0, float[n,4] y1) => (float a, float b) <");
    for (int i = 1; i < layers; i++) {
        snprintf(name, sizeof name, "w%d", i);
        print_weight(to, name, i == 1 ? INPUTS : WIDTH, WIDTH, seed + (uint64_t)i);
        fprintf(to, ", ");
    }
    print_weight(to, "wa", width, OUTPUTS, seed + 100);
    fprintf(to, ", ");
    print_weight(to, "wb", width, OUTPUTS, seed + 100);
    fprintf(to, "> {\n  h0 = Identity(x)\n");
    for (int i = 1; i < layers; i++)
        fprintf(to, "  m%d = MatMul(h%d, w%d)\n  h%d = Relu(m%d)\n", i, i - 1, i, i, i);
    for (int i = 0; i < 2; i++)
        fprintf(to,
                "  p%d = MatMul(h%d, w%c)\n  d%d = Sub(p%d, y%d)\n  s%d = Mul(d%d, d%d)\n"
                "  %c = ReduceMean<keepdims = 0>(s%d)\n",
                i, layers - 1, 'a' + i, i, i, i, i, i, i, 'a' + i, i);
    fprintf(to, "}\n");
    fclose(to);
    return text;
}

void steps_network_data(const char *path, int64_t samples, double scale0, double scale1, bool same)
{
    int64_t x_dims[] = {samples, INPUTS}, y_dims[] = {samples, OUTPUTS};
    size_t nx = (size_t)samples * INPUTS, ny = (size_t)samples * OUTPUTS;
    float *x = malloc((nx + 2 * ny) * sizeof *x), *y0 = x + nx, *y1 = y0 + ny;
    double mix[2 * OUTPUTS][INPUTS];
    uint64_t state = 7;
    mtbal_diag diag = {0};
    ck_assert(x != NULL);
    for (int k = 0; k < 2 * OUTPUTS * INPUTS; k++)
        mix[k / INPUTS][k % INPUTS] = steps_normal(&state) / sqrt(INPUTS);
    for (size_t i = 0; i < nx; i++)
        x[i] = (float)steps_normal(&state);
    for (size_t i = 0; i < ny; i++) {
        double at[2] = {0, 0};
        for (int k = 0; k < INPUTS; k++)
            for (int task = 0; task < 2; task++)
                at[task] += x[i / OUTPUTS * INPUTS + (size_t)k] *
                            mix[i % OUTPUTS + (size_t)task * OUTPUTS][k];
        y0[i] = (float)(scale0 * (tanh(at[0]) + 0.3 * steps_normal(&state)));
        y1[i] = (float)(scale1 * (tanh(at[1]) + 0.3 * steps_normal(&state)));
        y1[i] = same ? y0[i] : y1[i];
    }
    mtbal_array arrays[] = {{"x", MTBAL_FLOAT, 2, x_dims, (int64_t)nx, nx * sizeof *x, x},
                            {"y0", MTBAL_FLOAT, 2, y_dims, (int64_t)ny, ny * sizeof *x, y0},
                            {"y1", MTBAL_FLOAT, 2, y_dims, (int64_t)ny, ny * sizeof *x, y1}};
    steps_ok(mtbal_npz_write(path, 3, arrays, false, &diag));
    free(x);
}

mtbal_model *steps_parse(const char *text)
{
    mtbal_diag diag = {0};
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s\n%s", diag.where, diag.what, text);
    return model;
}

mtbal_model *steps_read(const char *path)
{
    mtbal_diag diag = {0};
    mtbal_model *model = NULL;
    steps_ok(mtbal_onnx_read(path, &model, &diag));
    return model;
}

void steps_write(mtbal_model *model, const mtbal_options *options, const char *path)
{
    mtbal_diag diag = {0};
    mtbal_context *context;
    steps_ok(mtbal_rewrite(model, options, &context, &diag));
    steps_ok(mtbal_onnx_write(model, path, &diag));
    mtbal_model_free(model);
}
