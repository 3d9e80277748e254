/* runtime/kernels/loss.c: SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss, logits (N, C,
 * D..), labels (N, D..), and their gradients. reduction: 0 none, 1 mean, 2 sum. A label outside the
 * classes counts as ignored. */
#include "runtime/kernels/kernels.h"

#include <math.h>

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

/* Label of element e, or -1 when it does not count; its weight. */
static int64_t label_of(const classes *k, int64_t e, double *weight)
{
    int64_t label = rt_get_i64(k->labels, e);
    *weight = 0;
    if ((k->at->ignores && label == k->at->ignore_index) || label < 0 || label >= k->c)
        return -1;
    *weight = k->weights->data ? rt_get_f64(k->weights, label) : 1;
    return label;
}

/* log sum e^x over the classes of element e; 0 for log-probabilities. */
static double log_sum(const classes *k, int64_t base)
{
    double most = -INFINITY, sum = 0;
    if (!k->at->cross_entropy)
        return 0;
    for (int64_t c = 0; c < k->c; c++)
        most = fmax(most, rt_get_f64(k->x, base + c * k->d));
    for (int64_t c = 0; c < k->c; c++)
        sum += exp(rt_get_f64(k->x, base + c * k->d) - most);
    return most + log(sum);
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
    (void)env;
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

/* class_loss_grad: dY, X, labels, weights (or left out) -> dX. */
void rt_class_loss_grad(const rt_env *env, const void *attr, const rt_tensor *in,
                        const rt_tensor *out)
{
    classes k = read_classes(attr, &in[1], &in[2], &in[3]);
    double total = 0, weight;
    (void)env;
    for (int64_t e = 0; e < k.count && k.at->reduction == 1; e++) {
        label_of(&k, e, &weight);
        total += weight;
    }
    for (int64_t e = 0; e < k.count; e++) {
        int64_t label = label_of(&k, e, &weight), base = base_of(&k, e);
        double f = weight * rt_get_f64(&in[0], k.at->reduction == 0 ? e : 0) /
                   (k.at->reduction == 1 ? total : 1);
        double log_total = label < 0 ? 0 : log_sum(&k, base);
        for (int64_t c = 0; c < k.c; c++) {
            double p = k.at->cross_entropy && label >= 0
                           ? exp(rt_get_f64(k.x, base + c * k.d) - log_total)
                           : 0;
            rt_set_f64(&out[0], base + c * k.d, label < 0 ? 0 : (p - (c == label)) * f);
        }
    }
}
