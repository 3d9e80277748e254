/* runtime/kernels/chain.c: several operators that work element by element, in one pass over memory.
 *
 * The code is a list of instructions of four numbers: operator, operands a, b, c. An operand below
 * `nin` is an input, nin + k the result of instruction k. Everything is computed in the type of the
 * chain, float or double; truth values are 1 and 0. Work goes in blocks that stay in the
 * first-level cache: each instruction runs over a block before the next one does. Inputs broadcast
 * to the shape of the outputs, which all have the same. */
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/loops.h"

#include <string.h>

enum { BLOCK = RT_CHAIN_BLOCK, MAX_IN = RT_CHAIN_INPUTS, MAX_CODE = RT_CHAIN_CODE };

typedef struct chain_job {
    const rt_env *env;
    const rt_chain_attr *at;
    const rt_tensor *in, *out;
    int rank;
    int64_t dims[RT_MAX_RANK], stride[MAX_IN][RT_MAX_RANK];
    int run[MAX_IN]; /* 1: element i of the output needs element i of the input; 0: one element */
} chain_job;

static double element(const rt_tensor *t, int64_t i)
{
    return t->dtype == RT_BOOL ? (double)((const unsigned char *)t->data)[i] : rt_get_f64(t, i);
}

/* Element `at` of the output in an input that broadcasts in its own way. */
static int64_t source(const chain_job *j, int k, int64_t at)
{
    int64_t from = 0;
    for (int d = j->rank - 1; d >= 0; d--) {
        from += at % j->dims[d] * j->stride[k][d];
        at /= j->dims[d];
    }
    return from;
}

/* Elements [at, at + n) of input k in the chain's type, into `to` unless they lie ready. */
static rt_view load(const chain_job *j, int k, int64_t at, int n, void *to)
{
    const rt_tensor *t = &j->in[k];
    int is_double = j->at->is_double;
    size_t size = is_double ? 8 : 4;
    int own = t->dtype == (is_double ? RT_F64 : RT_F32);
    int last = j->rank ? (int)j->stride[k][j->rank - 1] : 0;
    rt_view v = {to, 1};
    if (j->run[k] && own) {
        v.p = (const char *)t->data + (size_t)at * size;
        return v;
    }
    int64_t inner = j->rank ? j->dims[j->rank - 1] : 1;
    for (int i = 0; i < n;) { /* along the last axis, row by row */
        int64_t left = inner - (at + i) % inner, from = j->run[k] ? at + i : source(j, k, at + i);
        int m = left < n - i ? (int)left : n - i;
        for (int e = 0; e < m; e++) {
            int64_t x = from + (j->run[k] ? e : (int64_t)e * last);
            if (is_double)
                ((double *)to)[i + e] = own ? ((const double *)t->data)[x] : element(t, x);
            else
                ((float *)to)[i + e] = own ? ((const float *)t->data)[x] : (float)element(t, x);
        }
        i += m;
    }
    return v;
}

static void store(const chain_job *j, int k, int64_t at, int n, rt_view v)
{
    const rt_tensor *t = &j->out[k];
    int is_double = j->at->is_double;
    size_t size = is_double ? 8 : 4;
    if (t->dtype == RT_BOOL) {
        unsigned char *to = (unsigned char *)t->data + at;
        for (int i = 0; i < n; i++)
            to[i] = is_double ? ((const double *)v.p)[i * v.step] != 0
                              : ((const float *)v.p)[i * v.step] != 0;
    } else if (v.step == 0) {
        for (int i = 0; i < n; i++)
            if ((const char *)v.p != (const char *)t->data + (size_t)(at + i) * size)
                memcpy((char *)t->data + (size_t)(at + i) * size, v.p, size);
    } else if (v.p != (char *)t->data + (size_t)at * size) {
        memcpy((char *)t->data + (size_t)at * size, v.p, (size_t)n * size);
    }
}

/* Where the last instruction writes: the output itself, unless that lies over an operand, where
 * compilers would not vectorise. */
static char *target_of(const chain_job *j, int c, int64_t at, char *otherwise)
{
    const rt_chain_attr *a = j->at;
    if (c != a->ncode - 1 || a->nout != 1 || a->result[0] != a->nin + c ||
        j->out[0].dtype == RT_BOOL)
        return otherwise;
    for (int k = 0; k < a->nin; k++)
        if (j->in[k].data == j->out[0].data)
            return otherwise;
    return (char *)j->out[0].data + (size_t)at * (a->is_double ? 8 : 4);
}

/* Instruction c over a block of n elements; `to` is room for its result. */
static rt_view run_one(const chain_job *j, int c, const rt_view *views, char *to, int n)
{
    const uint8_t *code = &j->at->code[4 * c];
    rt_view v[3] = {{NULL, 0}, {NULL, 0}, {NULL, 0}}, result = {to, 1};
    int alike = 1;
    for (int k = 0; k < 3; k++)
        if (code[1 + k] != RT_CHAIN_NONE) {
            v[k] = views[code[1 + k]];
            alike = alike && v[k].step == 0;
        }
    /* a choice that is one for all is one of the operands; with several outputs, which may lie over
     * operands, it is copied all the same */
    if (code[0] == RT_CHAIN_WHERE && v[0].step == 0 && j->at->nout == 1) {
        int yes = j->at->is_double ? *(const double *)v[0].p != 0 : *(const float *)v[0].p != 0;
        return yes ? v[1] : v[2];
    }
    /* scalar operands give a scalar result */
    int m = code[0] < RT_CHAIN_BINARY ? (v[0].step ? n : 1) : alike ? 1 : n;
    if (RT_USES_TYPE(RT_F64) && j->at->is_double)
        rt_loop_f64(code[0], v, (double *)to, m);
    else
        rt_loop_f32(code[0], v, (float *)to, m);
    result.step = m == 1 && n > 1 ? 0 : 1;
    return result;
}

static void chain_range(void *context, int64_t first, int64_t last, int thread)
{
    const chain_job *j = (const chain_job *)context;
    const rt_chain_attr *at = j->at;
    size_t size = (at->is_double ? 8 : 4) * (size_t)BLOCK;
    char *space = (char *)j->env->scratch + (size_t)thread * j->env->scratch_size;
    rt_view views[MAX_IN + MAX_CODE];
    for (int k = 0; k < at->nin; k++) /* what is the same for all is read once */
        if (j->run[k] < 0) {
            void *to = space + (size_t)k * size;
            if (at->is_double)
                *(double *)to = element(&j->in[k], 0);
            else
                *(float *)to = (float)element(&j->in[k], 0);
            views[k].p = to;
            views[k].step = 0;
        }
    for (int64_t i = first; i < last; i += BLOCK) {
        int n = last - i < BLOCK ? (int)(last - i) : BLOCK;
        for (int k = 0; k < at->nin; k++)
            if (j->run[k] >= 0)
                views[k] = load(j, k, i, n, space + (size_t)k * size);
        for (int c = 0; c < at->ncode; c++)
            views[at->nin + c] =
                run_one(j, c, views, target_of(j, c, i, space + (size_t)(at->nin + c) * size), n);
        for (int k = 0; k < at->nout; k++)
            store(j, k, i, n, views[at->result[k]]);
    }
}

/* Strides of each input seen from the output; axes along which all run together are joined. */
static void plan_chain(chain_job *j)
{
    const rt_tensor *y = &j->out[0];
    int64_t count = rt_count(y);
    j->rank = y->rank;
    for (int d = 0; d < y->rank; d++)
        j->dims[d] = y->dims[d];
    for (int k = 0; k < j->at->nin; k++) {
        const rt_tensor *x = &j->in[k];
        int64_t step = 1;
        for (int d = y->rank - 1; d >= 0; d--) {
            int at = d - (y->rank - x->rank);
            int64_t size = at < 0 ? 1 : x->dims[at];
            j->stride[k][d] = size == 1 ? 0 : step;
            step *= size;
        }
        int64_t n = rt_count(x);
        j->run[k] = n == count ? 1 : n == 1 ? -1 : 0;
    }
}

/* chain: inputs -> outputs, of one shape; see above. */
void rt_chain(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    chain_job j;
    j.env = env;
    j.at = (const rt_chain_attr *)attr;
    j.in = in;
    j.out = out;
    plan_chain(&j);
    rt_parallel(env, rt_count(&out[0]), 16384, chain_range, &j);
}
