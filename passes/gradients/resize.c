/* passes/gradients/resize.c: Resize, axis by axis: what each output looked at gets its share back.
 */
#include "passes/gradients/rules.h"

#include <stdint.h>
#include <string.h>

#define RULE(name) mtbal_status mtbal_rule_##name(mtbal_gradient *g)

enum { MAX_RANK = 8 };

/* ------------------------------------------------------------------ with a region: a matrix */

/* Interpolation along one axis is a matrix: what the same Resize makes of the identity. So dX = A^T
 * dY, axis by axis, in every mode and coordinate transform. */
static mtbal_value *axis_matrix(mtbal_gradient *g, mtbal_value *in_size, mtbal_value *out_size,
                                mtbal_value *scale, mtbal_value *roi)
{
    mtbal_builder *b = g->b;
    const int64_t zero = 0;
    mtbal_value *square =
        mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){in_size, in_size}, "axis=i", zero);
    mtbal_value *zeros = mtbal_emit_attrs(
        b, "ConstantOfShape", 1, &square, "value=t",
        mtbal_tensor_new(b->graph->model, g->x[0]->type.dtype, 1, (int64_t[]){1}, NULL));
    mtbal_value *eye = mtbal_emit(b, "EyeLike", zeros);
    mtbal_value *in[4] = {eye, MTBAL_OMIT, MTBAL_OMIT, MTBAL_OMIT}, *out;
    mtbal_tensor *one = mtbal_tensor_new(b->graph->model, MTBAL_FLOAT, 1, (int64_t[]){1}, NULL);
    if (one)
        mtbal_tensor_set_f64(one, 0, 1);
    if (roi)
        in[1] = roi;
    if (scale)
        in[2] = mtbal_emit_attrs(
            b, "Concat", 2, (mtbal_value *[]){mtbal_const_tensor(b, one), scale}, "axis=i", zero);
    else
        in[3] =
            mtbal_emit_attrs(b, "Concat", 2, (mtbal_value *[]){in_size, out_size}, "axis=i", zero);
    mtbal_node *node = mtbal_emit_node(b, "", "Resize", 4, in, 1, &out);
    if (!node)
        return NULL;
    for (const mtbal_attr *a = g->node->attrs; a; a = a->next)
        if (strcmp(a->name, "axes") && strcmp(a->name, "extrapolation_value") &&
            (a->kind == MTBAL_ATTR_STRING || a->kind == MTBAL_ATTR_FLOAT ||
             a->kind == MTBAL_ATTR_INT)) {
            mtbal_status status = a->kind == MTBAL_ATTR_STRING  ? mtbal_set_s(node, a->name, a->s)
                                  : a->kind == MTBAL_ATTR_FLOAT ? mtbal_set_f(node, a->name, a->f)
                                                                : mtbal_set_i(node, a->name, a->i);
            if (status != MTBAL_OK)
                return NULL;
        }
    mtbal_emit_done(b, node);
    return out;
}

/* The part of the region (starts, then ends) that is one axis's, for a matrix: (0, start, 1, end).
 */
static mtbal_value *axis_region(mtbal_gradient *g, int64_t at, int64_t n)
{
    mtbal_builder *b = g->b;
    const int64_t pair[2] = {at, at + n}, columns[2] = {1, -1}, whole[2] = {0, 1}, flat = -1;
    mtbal_value *ends = mtbal_emit(b, "Gather", g->x[1], mtbal_const_i64s(b, 2, pair));
    mtbal_value *rows[2] = {mtbal_emit_cast(b, mtbal_const_i64s(b, 2, whole), g->x[1]->type.dtype),
                            ends};
    for (int i = 0; i < 2; i++)
        rows[i] = mtbal_emit_reshape(b, rows[i], mtbal_const_i64s(b, 2, columns));
    mtbal_value *both = mtbal_emit_attrs(b, "Concat", 2, rows, "axis=i", (int64_t)0);
    return mtbal_emit_reshape(b, mtbal_emit_transpose(b, both, 2, (int64_t[]){1, 0}),
                              mtbal_const_i64s(b, 1, &flat));
}

/* dX = dY contracted along `axis` with the columns of matrix (in, out). */
static mtbal_value *by_matrix(mtbal_builder *b, mtbal_value *dy, int rank, int64_t axis,
                              mtbal_value *matrix)
{
    int64_t perm[MAX_RANK];
    for (int i = 0; i < rank; i++)
        perm[i] = i == axis ? rank - 1 : i == rank - 1 ? axis : i;
    mtbal_value *moved = mtbal_emit_transpose(b, dy, rank, perm);
    mtbal_value *product =
        mtbal_emit(b, "MatMul", moved, mtbal_emit_transpose(b, matrix, 2, (int64_t[]){1, 0}));
    return mtbal_emit_transpose(b, product, rank, perm);
}

/* ------------------------------------------------------------------ without: a function */

static const char *const settings[] = {"mode",
                                       "coordinate_transformation_mode",
                                       "nearest_mode",
                                       "antialias",
                                       "exclude_outside",
                                       "cubic_coeff_a"};
enum { NSETTINGS = sizeof settings / sizeof *settings };

/* The settings that the node has, as text: NAME = VALUE, ..; and a part of a name that they give.
 */
static void print_settings(const mtbal_node *node, char *list, char *name, size_t size)
{
    size_t used = 0, letters = 0;
    *list = *name = 0;
    for (int i = 0; i < NSETTINGS; i++) {
        const mtbal_attr *a = mtbal_attr_find(node, settings[i]);
        uint32_t bits;
        if (!a)
            continue;
        used += (size_t)snprintf(list + used, size - used, "%s%s = ", used ? ", " : "", a->name);
        if (a->kind == MTBAL_ATTR_STRING) {
            used += (size_t)snprintf(list + used, size - used, "\"%s\"", a->s);
            letters += (size_t)snprintf(name + letters, size - letters, "_%s", a->s);
        } else if (a->kind == MTBAL_ATTR_INT) {
            used += (size_t)snprintf(list + used, size - used, "%d", (int)a->i);
            letters +=
                (size_t)snprintf(name + letters, size - letters, "_%c%d", *a->name, (int)a->i);
        } else {
            memcpy(&bits, &a->f, sizeof bits);
            used += (size_t)snprintf(list + used, size - used, "%.9e", (double)a->f);
            letters += (size_t)snprintf(name + letters, size - letters, "_c%08x", (unsigned)bits);
        }
    }
}

/* ResizeGrad_.. (dY, n [1], shape of dX, scale or size [1]) -> dX. Interpolation along one axis is
 * a matrix: what the same Resize makes of the identity. So dX = A^T dY. Our runtime scatters the
 * few weights that a row of A has. */
static mtbal_value *by_function(mtbal_gradient *g, mtbal_value *dy, int rank, int64_t axis,
                                mtbal_value *n, mtbal_value *other, bool scaled, mtbal_value *shape)
{
    char list[400], variant[400], name[500], perm[64] = "", text[2400];
    mtbal_value *dx, *in[4] = {dy, n, shape, other};
    print_settings(g->node, list, variant, sizeof list);
    for (int64_t i = 0, used = 0; i < rank; i++)
        used += snprintf(perm + used, sizeof perm - (size_t)used, "%s%d", i ? ", " : "",
                         (int)(i == axis       ? rank - 1
                               : i == rank - 1 ? axis
                                               : i));
    snprintf(name, sizeof name, "ResizeGrad_r%da%d%s%s", rank, (int)axis, scaled ? "s" : "",
             variant);
    snprintf(text, sizeof text,
             "%s (dY, n, shape, m) => (dX) {\n"
             "  square = Concat <axis = 0> (n, n)\n"
             "  zeros0 = ConstantOfShape (square)\n"
             "  zeros = CastLike (zeros0, dY)\n"
             "  eye = EyeLike (zeros)\n"
             "  one = Constant <value = float[1] {1}> ()\n"
             "  to = Concat <axis = 0> (%s, m)\n"
             "  A = Resize <%s> (eye, , %sto)\n"
             "  At = Transpose <perm = [1, 0]> (A)\n"
             "  moved = Transpose <perm = [%s]> (dY)\n"
             "  p = MatMul (moved, At)\n"
             "  dX = Transpose <perm = [%s]> (p)\n"
             "}",
             name, scaled ? "one" : "n", list, scaled ? "" : ", ", perm, perm);
    mtbal_node *node = rule_call(g, text, name, 4, in, 1, &dx);
    if (!node)
        return NULL;
    for (int i = 0; i < NSETTINGS; i++) {
        const mtbal_attr *a = mtbal_attr_find(g->node, settings[i]);
        mtbal_status status = !a                             ? MTBAL_OK
                              : a->kind == MTBAL_ATTR_STRING ? mtbal_set_s(node, a->name, a->s)
                              : a->kind == MTBAL_ATTR_FLOAT  ? mtbal_set_f(node, a->name, a->f)
                                                             : mtbal_set_i(node, a->name, a->i);
        if (status != MTBAL_OK)
            g->b->status = status;
    }
    if (mtbal_set_i(node, "axis", axis) != MTBAL_OK)
        g->b->status = MTBAL_NOMEM;
    mtbal_emit_done(g->b, node);
    return dx;
}

/* Sizes of x up to `axis`, of y behind it. */
static mtbal_value *shape_until(mtbal_builder *b, mtbal_value *x, mtbal_value *y, int64_t axis,
                                int rank)
{
    const int64_t zero = 0, cut = axis + 1, end = rank;
    mtbal_value *parts[2] = {
        mtbal_emit(b, "Slice", x, mtbal_const_i64s(b, 1, &zero), mtbal_const_i64s(b, 1, &cut)),
        mtbal_emit(b, "Slice", y, mtbal_const_i64s(b, 1, &cut), mtbal_const_i64s(b, 1, &end))};
    return cut == end ? x : mtbal_emit_attrs(b, "Concat", 2, parts, "axis=i", zero);
}

/* The type of dY with x's size along `axis`. */
static mtbal_status set_type(mtbal_gradient *g, mtbal_value *dx, const mtbal_value *dy,
                             int64_t axis)
{
    const mtbal_value *x = g->x[0];
    int rank = x->type.rank;
    mtbal_dim *dims = mtbal_arena_array(g->b->graph->model->arena, (size_t)rank, sizeof *dims);
    if (!dims)
        return mtbal_no_memory(g->diag);
    for (int d = 0; d < rank; d++)
        dims[d] = d == axis               ? x->type.dims[d]
                  : dy->type.rank == rank ? dy->type.dims[d]
                                          : (mtbal_dim){-1, NULL};
    dx->type = (mtbal_type){MTBAL_TENSOR, x->type.dtype, rank, dims};
    return MTBAL_OK;
}

RULE(resize)
{
    mtbal_builder *b = g->b;
    mtbal_value *x = g->x[0], *dx = g->dy[0];
    const mtbal_value *scales =
        g->nx > 2 && g->x[2] && !(g->x[2]->tensor && g->x[2]->tensor->count == 0) ? g->x[2] : NULL;
    const int64_t *axes;
    int rank = x->type.rank, naxes = mtbal_attr_ints(g->node, "axes", &axes);
    bool crop = !strcmp(mtbal_attr_s(g->node, "coordinate_transformation_mode", ""),
                        "tf_crop_and_resize") &&
                g->nx > 1 && g->x[1];
    if (rank < 1 || rank > MAX_RANK ||
        strcmp(mtbal_attr_s(g->node, "keep_aspect_ratio_policy", "stretch"), "stretch"))
        return rule_unsupported(
            g, "a Resize that keeps the aspect ratio, or has an operand of unknown rank");
    mtbal_value *in_shape = mtbal_emit_shape(b, x), *out_shape = mtbal_emit_shape(b, g->y[0]);
    for (int64_t axis = 0; axis < rank && dx; axis++) {
        int64_t at = naxes < 0 ? axis : -1;
        for (int i = 0; i < naxes; i++)
            at = axes[i] == axis || axes[i] + rank == axis ? i : at;
        bool unit = scales && scales->tensor && scales->tensor->data && at >= 0 &&
                    at < scales->tensor->count && mtbal_tensor_f64(scales->tensor, at) == 1;
        bool same = !scales && g->y[0]->type.rank == rank &&
                    mtbal_dim_equal(x->type.dims[axis], g->y[0]->type.dims[axis]);
        if (at < 0 || (!crop && (unit || same)))
            continue;
        mtbal_value *which = mtbal_const_i64s(b, 1, &axis), *before = dx;
        mtbal_value *n = mtbal_emit(b, "Gather", in_shape, which),
                    *m = mtbal_emit(b, "Gather", out_shape, which),
                    *scale = scales ? mtbal_emit(b, "Gather", g->x[2], mtbal_const_i64s(b, 1, &at))
                                    : NULL;
        dx = crop ? by_matrix(
                        b, dx, rank, axis,
                        axis_matrix(g, n, m, scale, axis_region(g, at, naxes < 0 ? rank : naxes)))
                  : by_function(g, dx, rank, axis, n, scale ? scale : m, scale != NULL,
                                shape_until(b, in_shape, out_shape, axis, rank));
        if (dx)
            MTBAL_TRY(set_type(g, dx, before, axis));
    }
    g->dx[0] = dx;
    rule_like(dx == g->dy[0] ? NULL : dx, x);
    return MTBAL_OK;
}
