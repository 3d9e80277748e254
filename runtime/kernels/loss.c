/* runtime/kernels/loss.c: SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss, logits (N, C,
 * D..), labels (N, D..), and their gradients. reduction: 0 none, 1 mean, 2 sum. A label outside the
 * classes fails the run, but for ignore_index. */
#include "runtime/kernels/kernels.h"

#include <math.h>

#define BAD_LABEL "label %lld of %lld classes"

typedef struct classes {
    const rt_class_loss_attr *at;
    const rt_tensor *x, *labels, *weights;
    int64_t c, d, count;
} classes;

static classes read_classes(const void *attr, const rt_tensor *x, const rt_tensor *labels,
                            const rt_tensor *weights)
{
    classes k = {(const rt_class_loss_attr *)attr, x, labels, weights, x->dims[1],
                 rt_product(x->dims, 2, x->rank),  0};
    k.count = x->dims[0] * k.d;
    return k;
}

/* Whether every label is a class, or ignored. */
static int labels_fit(const rt_env *env, const classes *k)
{
    const rt_class_loss_attr *a = k->at;
    if (!a->ignores || (a->ignore_index >= 0 && a->ignore_index < k->c))
        return rt_within(env, k->labels, 0, 1, 0, k->c, BAD_LABEL);
    for (int64_t e = 0; e < k->count; e++) {
        int64_t label = rt_get_i64(k->labels, e);
        if ((label < 0 || label >= k->c) && label != a->ignore_index) {
            rt_fail(env, BAD_LABEL, label, k->c, k->labels, e);
            return 0;
        }
    }
    return 1;
}

/* Label of element e, or -1 when it does not count; its weight. */
static int64_t label_of(const classes *k, int64_t e, double *weight)
{
    int64_t label = rt_get_i64(k->labels, e);
    *weight = 0;
    if (k->at->ignores && label == k->at->ignore_index)
        return -1;
    *weight = k->weights->data ? rt_get_f64(k->weights, label) : 1;
    return label;
}

/* log sum e^x over the classes of element e. */
#define LOG_SUM(name, T, EXP)                               \
    static double name(const classes *k, int64_t base)      \
    {                                                       \
        const T *x = (const T *)k->x->data + base;          \
        T most = x[0];                                      \
        double sum = 0;                                     \
        for (int64_t c = 1; c < k->c; c++)                  \
            most = x[c * k->d] > most ? x[c * k->d] : most; \
        for (int64_t c = 0; c < k->c; c++)                  \
            sum += (double)EXP(x[c * k->d] - most);         \
        return (double)most + log(sum);                     \
    }
LOG_SUM(log_sum_f32, float, expf)
LOG_SUM(log_sum_f64, double, exp)

/* The same; 0 for log-probabilities. */
static double log_sum(const classes *k, int64_t base)
{
    if (!k->at->cross_entropy || !k->c)
        return 0;
    return RT_USES_TYPE(RT_F64) && k->x->dtype == RT_F64 ? log_sum_f64(k, base)
                                                         : log_sum_f32(k, base);
}

static int64_t base_of(const classes *k, int64_t e)
{
    return e / k->d * k->c * k->d + e % k->d;
}

/* class_loss: X, labels, weights (or left out) -> loss, log_prob (or left out). */
void rt_class_loss(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    classes k = read_classes(attr, &in[0], &in[1], &in[2]);
    double sum = 0, total = 0;
    if (!labels_fit(env, &k))
        return;
    for (int64_t e = 0; e < k.count; e++) {
        double weight, log_total = log_sum(&k, base_of(&k, e));
        int64_t label = label_of(&k, e, &weight), base = base_of(&k, e);
        double loss = label < 0 ? 0 : weight * (log_total - rt_get_f64(k.x, base + label * k.d));
        sum += loss;
        total += weight;
        if (k.at->reduction == 0)
            rt_set_f64(&out[0], e, loss);
        for (int64_t c = 0; c < k.c && out[1].data; c++)
            rt_set_f64(&out[1], base + c * k.d, rt_get_f64(k.x, base + c * k.d) - log_total);
    }
    if (k.at->reduction)
        rt_set_f64(&out[0], 0, k.at->reduction == 1 ? sum / total : sum);
}

typedef struct grad_job {
    classes k;
    const rt_tensor *dy, *dx;
    double total; /* weight of all elements; 1 where the loss is no mean */
} grad_job;

/* (softmax - onehot) f; of log-probabilities -onehot f. */
#define GRAD(name, T, EXP)                                                              \
    static void name(const classes *k, int64_t base, int64_t label, double f, T *dx)    \
    {                                                                                   \
        const T *x = (const T *)k->x->data + base;                                      \
        double log_total = log_sum(k, base);                                            \
        for (int64_t c = 0; c < k->c; c++) {                                            \
            T p = k->at->cross_entropy ? EXP((T)((double)x[c * k->d] - log_total)) : 0; \
            dx[c * k->d] = (T)(((double)p - (c == label)) * f);                         \
        }                                                                               \
    }
GRAD(grad_f32, float, expf)
GRAD(grad_f64, double, exp)

static void grad_range(void *context, int64_t first, int64_t last, int thread)
{
    const grad_job *j = (const grad_job *)context;
    const classes *k = &j->k;
    (void)thread;
    for (int64_t e = first; e < last; e++) {
        double weight;
        int64_t label = label_of(k, e, &weight), base = base_of(k, e);
        double f = weight * rt_get_f64(j->dy, k->at->reduction == 0 ? e : 0) / j->total;
        if (label < 0)
            for (int64_t c = 0; c < k->c; c++)
                rt_set_f64(j->dx, base + c * k->d, 0);
        else if (RT_USES_TYPE(RT_F64) && k->x->dtype == RT_F64)
            grad_f64(k, base, label, f, (double *)j->dx->data + base);
        else
            grad_f32(k, base, label, f, (float *)j->dx->data + base);
    }
}

/* class_loss_grad: dY, X, labels, weights (or left out) -> dX. */
void rt_class_loss_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    grad_job j = {read_classes(attr, &in[1], &in[2], &in[3]), &in[0], &out[0], 1};
    double weight;
    if (!labels_fit(env, &j.k))
        return;
    if (j.k.at->reduction == 1) {
        j.total = 0;
        for (int64_t e = 0; e < j.k.count; e++) {
            label_of(&j.k, e, &weight);
            j.total += weight;
        }
    }
    rt_parallel(env, j.k.count, 2048 / (j.k.c + 1) + 1, grad_range, &j);
}
