/* onnxio/checkpoint.c: ONNX Runtime's training checkpoint: one FlatBuffer, identifier ODTC, version
 * 1 (ONNX Runtime 1.17) or 2 (later), which differ in that number only. The tables below are all
 * that is needed of its schema; fields go by their number. */
#include "onnxio/flatbuf.h"
#include "onnxio/onnxio.h"

#include <stdlib.h>
#include <string.h>

static const char identifier[] = "ODTC";
enum { MAX_RANK = 32 };

enum { CHECKPOINT_VERSION, CHECKPOINT_MODULE, CHECKPOINT_GROUPS, CHECKPOINT_BAG };
enum { MODULE_TRAINABLE, MODULE_FROZEN, MODULE_NOMINAL, MODULE_EXTERNAL };
enum { TENSOR_NAME, TENSOR_DOC, TENSOR_DIMS, TENSOR_TYPE, TENSOR_RAW, TENSOR_FIELDS };
enum { GROUP_NAME, GROUP_STEP, GROUP_RATE, GROUP_STATES };
enum { STATE_PARAM, STATE_MOMENTS };
enum { BAG_INTS, BAG_FLOATS, BAG_STRINGS };
enum { PROPERTY_NAME, PROPERTY_VALUE };

/* ------------------------------------------------------------------ reading */

typedef struct reader {
    fb_reader fb;
    mtbal_checkpoint *to;
    const char *path;
    mtbal_diag *diag;
} reader;

static mtbal_status broken(reader *r, const char *what)
{
    return mtbal_fail(r->diag, MTBAL_INVALID, r->path, "is the file whole?",
                      "this is no checkpoint, or a truncated one: %s", what);
}

static mtbal_status read_shape(reader *r, const fb_place *table, mtbal_array *array)
{
    fb_list dims = fb_elements(&r->fb, table, TENSOR_DIMS, 8);
    fb_list raw = fb_elements(&r->fb, table, TENSOR_RAW, 1);
    size_t size = mtbal_dtype_size(array->dtype), bytes = size;
    if (r->fb.failed || !size || dims.n > MAX_RANK)
        return broken(r, r->fb.failed ? "a tensor lies outside of it"
                         : size       ? "a tensor of more than 32 dimensions"
                                      : "a tensor of unknown type");
    array->rank = (int)dims.n;
    array->dims = mtbal_arena_array(r->to->arena, dims.n, sizeof *array->dims);
    if (!array->dims)
        return mtbal_no_memory(r->diag);
    for (size_t i = 0; i < dims.n; i++) {
        int64_t dim;
        memcpy(&dim, r->fb.bytes + dims.at + 8 * i, sizeof dim);
        array->dims[i] = dim;
        if (dim < 0 || !mtbal_mul_size(bytes, (size_t)dim, &bytes))
            return broken(r, "a tensor's shape is impossible");
    }
    if (bytes != raw.n)
        return broken(r, "a tensor's data do not fit its shape");
    array->bytes = bytes;
    array->count = (int64_t)(bytes / size);
    const unsigned char *data = bytes ? r->fb.bytes + raw.at : NULL;
    if ((uintptr_t)data % size)
        data = mtbal_arena_copy(r->to->arena, data, bytes);
    array->data = (void *)(uintptr_t)data;
    return bytes && !data ? mtbal_no_memory(r->diag) : MTBAL_OK;
}

static mtbal_status read_tensor(reader *r, const fb_place *table, mtbal_array *array)
{
    const char *name = fb_text(&r->fb, table, TENSOR_NAME);
    array->dtype = (mtbal_dtype)fb_number(&r->fb, table, TENSOR_TYPE, 4, MTBAL_UNDEFINED);
    if (r->fb.failed || !name)
        return broken(r, "a tensor without a name");
    array->name = mtbal_intern(r->to->arena, name);
    return array->name ? read_shape(r, table, array) : mtbal_no_memory(r->diag);
}

static mtbal_status read_list(reader *r, const fb_place *module, int id, mtbal_array **arrays,
                              int *count)
{
    fb_list list = fb_elements(&r->fb, module, id, 4);
    if (r->fb.failed)
        return broken(r, "a list of tensors lies outside of it");
    *arrays = mtbal_arena_array(r->to->arena, list.n, sizeof **arrays);
    if (!*arrays)
        return mtbal_no_memory(r->diag);
    for (size_t i = 0; i < list.n; i++) {
        fb_place tensor = fb_element(&r->fb, &list, i);
        MTBAL_TRY(read_tensor(r, &tensor, &(*arrays)[i]));
        *count += 1;
    }
    return MTBAL_OK;
}

/* Moments are not needed; but a file that was cut within them is not whole. */
static mtbal_status check_group(reader *r, const fb_place *group)
{
    fb_list states = fb_elements(&r->fb, group, GROUP_STATES, 4);
    (void)fb_text(&r->fb, group, GROUP_NAME);
    for (size_t i = 0; i < states.n; i++) {
        mtbal_array *moments;
        int count = 0;
        fb_place state = fb_element(&r->fb, &states, i);
        (void)fb_text(&r->fb, &state, STATE_PARAM);
        MTBAL_TRY(read_list(r, &state, STATE_MOMENTS, &moments, &count));
    }
    return r->fb.failed ? broken(r, "the optimizer's state lies outside of it") : MTBAL_OK;
}

static mtbal_status check_groups(reader *r, const fb_place *root)
{
    fb_list groups = fb_elements(&r->fb, root, CHECKPOINT_GROUPS, 4);
    for (size_t i = 0; i < groups.n; i++) {
        fb_place group = fb_element(&r->fb, &groups, i);
        MTBAL_TRY(check_group(r, &group));
    }
    return r->fb.failed ? broken(r, "the optimizer's groups lie outside of it") : MTBAL_OK;
}

static mtbal_status read_properties(reader *r, const fb_place *root)
{
    fb_place bag = fb_sub(&r->fb, root, CHECKPOINT_BAG);
    fb_list floats = fb_elements(&r->fb, &bag, BAG_FLOATS, 4);
    r->to->properties = mtbal_arena_array(r->to->arena, floats.n, sizeof *r->to->properties);
    if (!r->to->properties)
        return mtbal_no_memory(r->diag);
    for (size_t i = 0; i < floats.n; i++) {
        fb_place entry = fb_element(&r->fb, &floats, i);
        const char *name = fb_text(&r->fb, &entry, PROPERTY_NAME);
        uint32_t bits = (uint32_t)fb_number(&r->fb, &entry, PROPERTY_VALUE, 4, 0);
        if (r->fb.failed || !name)
            return broken(r, "a property without a name");
        mtbal_checkpoint_property *to = &r->to->properties[r->to->nproperties++];
        memcpy(&to->value, &bits, sizeof bits);
        to->name = mtbal_intern(r->to->arena, name);
        if (!to->name)
            return mtbal_no_memory(r->diag);
    }
    return r->fb.failed ? broken(r, "its properties lie outside of it") : MTBAL_OK;
}

static int by_name(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const char *const *)a, y = (uintptr_t) * (const char *const *)b;
    return (x > y) - (x < y);
}

/* Names are interned: equal ones are equal pointers. */
static mtbal_status check_names(reader *r)
{
    size_t n = (size_t)r->to->ntrainable + (size_t)r->to->nfrozen;
    const char **names = mtbal_arena_array(r->to->arena, n, sizeof *names);
    if (!names)
        return mtbal_no_memory(r->diag);
    for (size_t i = 0, k = (size_t)r->to->ntrainable; i < n; i++)
        names[i] = i < k ? r->to->trainable[i].name : r->to->frozen[i - k].name;
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 1; i < n; i++)
        if (names[i] == names[i - 1])
            return mtbal_fail(r->diag, MTBAL_INVALID, r->path, NULL,
                              "the checkpoint holds %.200s twice", names[i]);
    return MTBAL_OK;
}

static mtbal_status read_module(reader *r, const fb_place *root)
{
    fb_place module = fb_sub(&r->fb, root, CHECKPOINT_MODULE);
    if (r->fb.failed || !module.at)
        return broken(r, "it holds no parameters");
    if (fb_number(&r->fb, &module, MODULE_NOMINAL, 1, 0))
        return mtbal_fail(r->diag, MTBAL_UNSUPPORTED, r->path, "name a checkpoint with weights",
                          "the checkpoint is a nominal one: it holds names, no weights");
    if (fb_number(&r->fb, &module, MODULE_EXTERNAL, 1, 0))
        return mtbal_fail(r->diag, MTBAL_UNSUPPORTED, r->path, NULL,
                          "the checkpoint keeps its weights in another file (more than 2 GB): that "
                          "form is not read");
    MTBAL_TRY(read_list(r, &module, MODULE_TRAINABLE, &r->to->trainable, &r->to->ntrainable));
    MTBAL_TRY(read_list(r, &module, MODULE_FROZEN, &r->to->frozen, &r->to->nfrozen));
    return check_names(r);
}

static mtbal_status read_root(reader *r)
{
    fb_place root = fb_root(&r->fb);
    int64_t version = fb_number(&r->fb, &root, CHECKPOINT_VERSION, 4, 0);
    if (r->fb.failed)
        return broken(r, "its first table lies outside of it");
    if (version != 1 && version != 2)
        return mtbal_fail(r->diag, MTBAL_INVALID, r->path,
                          "save it with ONNX Runtime 1.17 to 1.19.2, or with mtbal-rewrite",
                          "the checkpoint has version %lld; 1 and 2 are known", (long long)version);
    r->to->version = (int)version;
    MTBAL_TRY(read_module(r, &root));
    MTBAL_TRY(check_groups(r, &root));
    return read_properties(r, &root);
}

static mtbal_status read_bytes(reader *r, const void *bytes, size_t size)
{
    if (!fb_open(&r->fb, bytes, size))
        return broken(r, "its length is wrong");
    if (memcmp(r->fb.bytes + 4, identifier, 4))
        return mtbal_fail(r->diag, MTBAL_INVALID, r->path,
                          "name the checkpoint file of a training session",
                          "this is no checkpoint of ONNX Runtime (no identifier %s)", identifier);
    return read_root(r);
}

/* Of a file where bytes is NULL. */
static mtbal_status read_checkpoint(const void *bytes, size_t size, const char *path,
                                    mtbal_checkpoint **checkpoint, mtbal_diag *diag)
{
    *checkpoint = NULL;
    mtbal_arena *arena = mtbal_arena_new();
    mtbal_checkpoint *c = arena ? mtbal_arena_alloc(arena, sizeof *c) : NULL;
    if (!c) {
        mtbal_arena_free(arena);
        return mtbal_no_memory(diag);
    }
    c->arena = arena;
    c->file.fd = -1;
    reader r = {.to = c, .path = path, .diag = diag};
    mtbal_status status = MTBAL_OK;
    if (!bytes) {
        status = mtbal_file_map(path, &c->file, diag);
        bytes = c->file.data;
        size = c->file.size;
    }
    if (status == MTBAL_OK)
        status = read_bytes(&r, bytes, size);
    if (status == MTBAL_OK)
        *checkpoint = c;
    else
        mtbal_checkpoint_free(c);
    return status;
}

mtbal_status mtbal_checkpoint_read(const char *path, mtbal_checkpoint **checkpoint,
                                   mtbal_diag *diag)
{
    return read_checkpoint(NULL, 0, path, checkpoint, diag);
}

mtbal_status mtbal_checkpoint_read_bytes(const void *bytes, size_t size, const char *path,
                                         mtbal_checkpoint **checkpoint, mtbal_diag *diag)
{
    return read_checkpoint(bytes, size, path, checkpoint, diag);
}

void mtbal_checkpoint_free(mtbal_checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    mtbal_file_unmap(&checkpoint->file);
    mtbal_arena_free(checkpoint->arena);
}

const mtbal_array *mtbal_checkpoint_find(const mtbal_checkpoint *c, const char *name)
{
    for (int i = 0; i < c->ntrainable; i++)
        if (!strcmp(c->trainable[i].name, name))
            return &c->trainable[i];
    for (int i = 0; i < c->nfrozen; i++)
        if (!strcmp(c->frozen[i].name, name))
            return &c->frozen[i];
    return NULL;
}

/* ------------------------------------------------------------------ writing */

static void put_tensor(fb_writer *w, size_t at, const mtbal_array *array)
{
    static const unsigned char sizes[TENSOR_FIELDS] = {
        [TENSOR_NAME] = 4, [TENSOR_DIMS] = 4, [TENSOR_TYPE] = 4, [TENSOR_RAW] = 4};
    size_t where[TENSOR_FIELDS];
    fb_table(w, at, TENSOR_FIELDS, sizes, where);
    fb_put(w, where[TENSOR_TYPE], array->dtype, 4);
    fb_string(w, where[TENSOR_NAME], array->name);
    fb_vector(w, where[TENSOR_DIMS], (size_t)array->rank, 8, array->dims);
    fb_vector(w, where[TENSOR_RAW], array->bytes, 1, array->data);
}

static void put_list(fb_writer *w, size_t at, const mtbal_array *arrays, int count)
{
    size_t first = fb_vector(w, at, (size_t)count, 4, NULL);
    for (int i = 0; i < count; i++)
        put_tensor(w, first + 4 * (size_t)i, &arrays[i]);
}

static void put_properties(fb_writer *w, size_t at, const mtbal_checkpoint *c)
{
    static const unsigned char lists[] = {4, 4, 4}, entry[] = {4, 4};
    size_t where[3], fields[2];
    fb_table(w, at, 3, lists, where);
    fb_vector(w, where[BAG_INTS], 0, 4, NULL);
    fb_vector(w, where[BAG_STRINGS], 0, 4, NULL);
    size_t first = fb_vector(w, where[BAG_FLOATS], (size_t)c->nproperties, 4, NULL);
    for (int i = 0; i < c->nproperties; i++) {
        uint32_t bits;
        memcpy(&bits, &c->properties[i].value, sizeof bits);
        fb_table(w, first + 4 * (size_t)i, 2, entry, fields);
        fb_put(w, fields[PROPERTY_VALUE], bits, 4);
        fb_string(w, fields[PROPERTY_NAME], c->properties[i].name);
    }
}

/* The weights come last, and are read to their end: every cut shows. */
static void put_checkpoint(fb_writer *w, const mtbal_checkpoint *c)
{
    static const unsigned char sizes[] = {4, 4, 4, 4};
    size_t where[4], lists[2];
    fb_begin(w, identifier);
    fb_table(w, FB_ROOT, 4, sizes, where);
    fb_put(w, where[CHECKPOINT_VERSION], c->version, 4);
    fb_vector(w, where[CHECKPOINT_GROUPS], 0, 4, NULL);
    put_properties(w, where[CHECKPOINT_BAG], c);
    fb_table(w, where[CHECKPOINT_MODULE], 2, sizes, lists);
    put_list(w, lists[MODULE_FROZEN], c->frozen, c->nfrozen);
    put_list(w, lists[MODULE_TRAINABLE], c->trainable, c->ntrainable);
    fb_end(w);
}

mtbal_status mtbal_checkpoint_write(const char *path, const mtbal_checkpoint *checkpoint,
                                    mtbal_diag *diag)
{
    fb_writer w;
    mtbal_writer file = {NULL, NULL, -1, MTBAL_OK};
    put_checkpoint(&w, checkpoint);
    mtbal_status status = w.status;
    if (status == MTBAL_NOMEM)
        mtbal_no_memory(diag);
    else if (status != MTBAL_OK)
        mtbal_fail(diag, status, path, "freeze parameters (--freeze)",
                   "the parameters are larger than the 2 GB that a checkpoint holds");
    if (status == MTBAL_OK)
        status = mtbal_writer_open(&file, path, diag);
    if (status == MTBAL_OK)
        status = mtbal_writer_put(&file, w.bytes, w.size, diag);
    if (status == MTBAL_OK)
        status = mtbal_writer_commit(&file, diag);
    mtbal_writer_abort(&file);
    mtbal_free(w.bytes);
    return status;
}
