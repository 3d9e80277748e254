/* runtime/kernels/top_k.c: the k first elements of an order: a heap of the k best so far, its worst
 * on top; then the heap is sorted. O(n log k) for any data. */
#include "runtime/kernels/kernels.h"

#include <string.h>

/* An element: a number that is larger where the element comes earlier, and its place. */
typedef struct rank_entry {
    int64_t key, at;
} rank_entry;

/* Orders all numbers of a type as integers: NaN above all others, -0 equal to 0. */
static int64_t rank_key(const rt_tensor *x, int64_t i)
{
    int64_t bits;
    if (!rt_is_float(x->dtype)) {
        bits = rt_get_i64(x, i);
        return x->dtype == RT_U64 ? (int64_t)((uint64_t)bits ^ (1ull << 63)) : bits;
    }
    double v = rt_get_f64(x, i) + 0.0;
    if (v != v)
        return INT64_MAX;
    memcpy(&bits, &v, sizeof bits);
    return bits < 0 ? (int64_t) ~((uint64_t)bits ^ (1ull << 63)) : bits;
}

/* Of equals the first in the tensor comes first. */
static int ranks_before(const rank_entry *a, const rank_entry *b)
{
    return a->key != b->key ? a->key > b->key : a->at < b->at;
}

/* heap [n]: no entry comes before one below it; entry `i` may be out of place. */
static void sift_entry(rank_entry *heap, int64_t n, int64_t i)
{
    rank_entry moved = heap[i];
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && ranks_before(&heap[child], &heap[child + 1]))
            child++;
        if (!ranks_before(&moved, &heap[child]))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* The k first of n elements, `step` apart from `base` on, in order, into heap [k]. */
static void select_first(const rt_tensor *x, int64_t base, int64_t step, int64_t n, int64_t k,
                         int largest, rank_entry *heap)
{
    for (int64_t q = 0; q < n; q++) {
        rank_entry entry = {rank_key(x, base + q * step), q};
        entry.key = largest ? entry.key : ~entry.key;
        if (q < k) {
            heap[q] = entry;
            for (int64_t i = q + 1 == k ? k / 2 - 1 : -1; i >= 0; i--)
                sift_entry(heap, k, i);
        } else if (ranks_before(&entry, &heap[0])) {
            heap[0] = entry;
            sift_entry(heap, k, 0);
        }
    }
    for (int64_t left = k - 1; left > 0; left--) {
        rank_entry last = heap[0];
        heap[0] = heap[left];
        heap[left] = last;
        sift_entry(heap, left, 0);
    }
}

size_t rt_scratch_top_k(const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    (void)in;
    return (size_t)(out[0].dims[((const rt_top_k_attr *)attr)->axis] + 1) * sizeof(rank_entry);
}

/* top_k: X -> values, indices (int64): the k largest (or smallest) along an axis, in order; of
 * equals the first; NaN counts as the largest. Then scratch. */
void rt_top_k(const rt_env *env, const void *attr, const rt_tensor *in, const rt_tensor *out)
{
    const rt_top_k_attr *a = (const rt_top_k_attr *)attr;
    const rt_tensor *x = &in[0];
    int64_t n = x->dims[a->axis], k = out[0].dims[a->axis],
            inner = rt_product(x->dims, a->axis + 1, x->rank),
            outer = rt_product(x->dims, 0, a->axis);
    size_t size = rt_dtype_size(x->dtype);
    rank_entry *heap = (rank_entry *)out[2].data;
    (void)env;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner && k; i++) {
            select_first(x, o * n * inner + i, inner, n, k, a->largest, heap);
            for (int64_t t = 0; t < k; t++) {
                int64_t to = (o * k + t) * inner + i, from = (o * n + heap[t].at) * inner + i;
                ((int64_t *)out[1].data)[to] = heap[t].at;
                memcpy((char *)out[0].data + (size_t)to * size,
                       (const char *)x->data + (size_t)from * size, size);
            }
        }
}
