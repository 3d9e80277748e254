/* train/trace.c: numbers over the steps of a training, in bounded memory. */
#include "train/trace.h"

#include <math.h>
#include <string.h>

enum { CAPACITY = 128 };

static int npairs(const mtbal_trace *t)
{
    return t->ntasks * (t->ntasks - 1) / 2;
}

int mtbal_trace_at(const mtbal_trace *t, mtbal_channel channel, int i)
{
    int ratio = MTBAL_TRACE_RATIO * t->ntasks;
    if (channel <= MTBAL_TRACE_RATIO)
        return (int)channel * t->ntasks + i;
    return ratio + 1 + (channel == MTBAL_TRACE_NEGATIVE ? npairs(t) : 0) + i;
}

int mtbal_trace_pair(const mtbal_trace *t, int i, int j)
{
    int low = i < j ? i : j, high = i < j ? j : i;
    return low * (2 * t->ntasks - low - 1) / 2 + high - low - 1;
}

mtbal_trace *mtbal_trace_new(int ntasks)
{
    mtbal_trace *t = mtbal_malloc(sizeof *t);
    if (!t)
        return NULL;
    *t = (mtbal_trace){.ntasks = ntasks, .stride = 1};
    t->nchannels = mtbal_trace_at(t, MTBAL_TRACE_NEGATIVE, npairs(t));
    size_t size = (size_t)CAPACITY * (size_t)t->nchannels * sizeof *t->points;
    t->points = mtbal_malloc(size);
    if (t->points) {
        memset(t->points, 0, size);
        return t;
    }
    mtbal_free(t);
    return NULL;
}

void mtbal_trace_free(mtbal_trace *trace)
{
    if (trace)
        mtbal_free(trace->points);
    mtbal_free(trace);
}

void mtbal_trace_pieces(mtbal_trace *trace, mtbal_piece pieces[MTBAL_TRACE_PIECES])
{
    size_t count = (size_t)CAPACITY * (size_t)trace->nchannels;
    pieces[0] = (mtbal_piece){"trace points", trace->points, count * sizeof *trace->points};
    pieces[1] = (mtbal_piece){"trace npoints", &trace->npoints, sizeof trace->npoints};
    pieces[2] = (mtbal_piece){"trace steps", &trace->steps, sizeof trace->steps};
    pieces[3] = (mtbal_piece){"trace stride", &trace->stride, sizeof trace->stride};
}

static void join(mtbal_point *into, const mtbal_point *p)
{
    if (!p->count)
        return;
    into->low = into->count ? fmin(into->low, p->low) : p->low;
    into->high = into->count ? fmax(into->high, p->high) : p->high;
    into->sum += p->sum;
    into->count += p->count;
}

static void halve(mtbal_trace *t)
{
    for (int p = 0; p < t->npoints; p++)
        for (int c = 0; c < t->nchannels; c++) {
            mtbal_point *into = &t->points[p / 2 * t->nchannels + c];
            const mtbal_point from = t->points[p * t->nchannels + c];
            if (p % 2 == 0)
                *into = from;
            else
                join(into, &from);
        }
    t->npoints = (t->npoints + 1) / 2;
    t->stride *= 2;
}

/* The points of the present step. */
static mtbal_point *row(mtbal_trace *t)
{
    if (t->steps == CAPACITY * t->stride)
        halve(t);
    int p = (int)(t->steps / t->stride);
    mtbal_point *points = t->points + p * t->nchannels;
    for (; t->npoints <= p; t->npoints++)
        for (int c = 0; c < t->nchannels; c++)
            points[c] = (mtbal_point){0};
    return points;
}

static void put(mtbal_point *row, int at, double x)
{
    if (isfinite(x))
        join(&row[at], &(mtbal_point){x, x, x, 1});
}

double mtbal_record_cosine(const mtbal_record *record, int i, int j)
{
    const rt_tensor *cosine = mtbal_instance_output(record->program->instance, "mtbal/cosine");
    if (!cosine || !cosine->data || cosine->rank != 2)
        return NAN;
    mtbal_tensor as = {.dtype = (mtbal_dtype)cosine->dtype, .data = cosine->data};
    return mtbal_tensor_f64(&as, i * cosine->dims[1] + j);
}

/* Shares of the pull, who leads, and how far apart the pulls of the active tasks are. */
static void put_pulls(mtbal_trace *t, mtbal_point *row, const double *weight, const double *norm)
{
    double sum = 0, low = INFINITY, high = 0;
    for (int i = 0; i < t->ntasks; i++) {
        double pull = weight[i] * norm[i];
        sum += pull;
        high = fmax(high, pull);
        low = weight[i] > 0 ? fmin(low, pull) : low;
    }
    if (!(sum > 0) || !isfinite(sum))
        return;
    for (int i = 0; i < t->ntasks; i++) {
        double pull = weight[i] * norm[i];
        put(row, mtbal_trace_at(t, MTBAL_TRACE_SHARE, i), pull / sum);
        put(row, mtbal_trace_at(t, MTBAL_TRACE_LEADS, i), pull == high);
    }
    put(row, mtbal_trace_at(t, MTBAL_TRACE_RATIO, 0), log10(high / low));
}

void mtbal_trace_step(mtbal_trace *t, int first, const mtbal_record *record)
{
    mtbal_point *points = row(t);
    const double *loss = record->loss + first, *norm = record->grad_norm + first;
    const double *weight = record->weight + first;
    for (int i = 0; i < t->ntasks; i++) {
        put(points, mtbal_trace_at(t, MTBAL_TRACE_LOSS, i), loss[i]);
        put(points, mtbal_trace_at(t, MTBAL_TRACE_NORM, i), norm[i]);
        put(points, mtbal_trace_at(t, MTBAL_TRACE_WEIGHT, i), weight[i]);
    }
    put_pulls(t, points, weight, norm);
    for (int i = 0; i < t->ntasks; i++)
        for (int j = i + 1; j < t->ntasks; j++) {
            double c = mtbal_record_cosine(record, first + i, first + j);
            int pair = mtbal_trace_pair(t, i, j);
            put(points, mtbal_trace_at(t, MTBAL_TRACE_COSINE, pair), c);
            put(points, mtbal_trace_at(t, MTBAL_TRACE_NEGATIVE, pair), isnan(c) ? NAN : c < 0);
        }
    t->steps++;
}

double mtbal_trace_mean(const mtbal_trace *t, int at, double from, double to)
{
    mtbal_point all = {0};
    int first = (int)(from * t->npoints), end = (int)ceil(to * t->npoints);
    for (int p = first; p < end; p++)
        join(&all, &t->points[p * t->nchannels + at]);
    return all.count ? all.sum / (double)all.count : NAN;
}

mtbal_relation mtbal_trace_relation(const mtbal_trace *t, int i, int j)
{
    int pair = mtbal_trace_pair(t, i, j);
    double cosine =
        mtbal_trace_mean(t, mtbal_trace_at(t, MTBAL_TRACE_COSINE, pair), MTBAL_TRACE_RUN);
    double negative =
        mtbal_trace_mean(t, mtbal_trace_at(t, MTBAL_TRACE_NEGATIVE, pair), MTBAL_TRACE_RUN);
    if (cosine >= 0.02 && negative <= 0.4)
        return MTBAL_SHARE;
    return cosine <= -0.02 && negative >= 0.6 ? MTBAL_FIGHT : MTBAL_NEUTRAL;
}
