/* runtime/threads.c: a pool of workers. A job is a range cut into pieces of one size; workers and
 * the caller take pieces until none is left. Which thread takes which piece does not matter: a
 * piece's result depends on the piece only. */
#include "runtime/runtime.h"

#include <string.h>

#ifndef RT_NO_THREADS
#include <pthread.h>
#include <stdatomic.h>

struct rt_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    pthread_t workers[RT_MAX_THREADS];
    int nworkers;
    int stop;
    unsigned long job; /* number of the present job */
    int busy;          /* workers that have not finished it */
    const rt_env *env; /* of the present job, as the following */
    rt_range_fn *body;
    void *context;
    int64_t count, grain;
    atomic_llong next;
    struct worker {
        rt_pool *pool;
        int index;
    } starts[RT_MAX_THREADS];
};

static void take_pieces(rt_pool *pool, int thread)
{
    while (!rt_stopped(pool->env)) {
        int64_t first = atomic_fetch_add(&pool->next, pool->grain);
        if (first >= pool->count)
            return;
        int64_t last = first + pool->grain;
        pool->body(pool->context, first, last < pool->count ? last : pool->count, thread);
    }
}

static void *work(void *argument)
{
    struct worker *start = (struct worker *)argument;
    rt_pool *pool = start->pool;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->job == seen && !pool->stop)
            pthread_cond_wait(&pool->wake, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->job;
        pthread_mutex_unlock(&pool->lock);
        take_pieces(pool, start->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

size_t rt_pool_size(void)
{
    return sizeof(rt_pool);
}

int rt_pool_start(rt_pool *pool, int nthreads)
{
    memset(pool, 0, sizeof *pool);
    if (nthreads > RT_MAX_THREADS || pthread_mutex_init(&pool->lock, NULL) ||
        pthread_cond_init(&pool->wake, NULL) || pthread_cond_init(&pool->done, NULL))
        return -1;
    for (int i = 0; i + 1 < nthreads; i++) {
        pool->starts[i].pool = pool;
        pool->starts[i].index = i + 1;
        if (pthread_create(&pool->workers[i], NULL, work, &pool->starts[i])) {
            rt_pool_stop(pool);
            return -1;
        }
        pool->nworkers++;
    }
    return 0;
}

void rt_pool_stop(rt_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->nworkers; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
}

static void run_on_pool(const rt_env *env, int64_t count, int64_t grain, rt_range_fn *body,
                        void *context)
{
    rt_pool *pool = env->pool;
    pthread_mutex_lock(&pool->lock);
    pool->env = env;
    pool->body = body;
    pool->context = context;
    pool->count = count;
    pool->grain = grain;
    atomic_store(&pool->next, 0);
    pool->busy = pool->nworkers;
    pool->job++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    take_pieces(pool, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
#else
size_t rt_pool_size(void)
{
    return 1;
}
int rt_pool_start(rt_pool *pool, int nthreads)
{
    (void)pool;
    return nthreads > 1 ? -1 : 0;
}
void rt_pool_stop(rt_pool *pool)
{
    (void)pool;
}
static void run_on_pool(const rt_env *env, int64_t count, int64_t grain, rt_range_fn *body,
                        void *context)
{
    (void)env, (void)grain;
    body(context, 0, count, 0);
}
#endif

void rt_parallel(const rt_env *env, int64_t count, int64_t grain, rt_range_fn *body, void *context)
{
    if (count <= 0)
        return;
    if (env->nthreads > 1 && env->pool && count > grain) {
        run_on_pool(env, count, grain, body, context);
        return;
    }
    for (int64_t first = 0; first < count && !rt_stopped(env); first += grain)
        body(context, first, first + grain < count ? first + grain : count, 0);
}
