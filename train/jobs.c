/* train/jobs.c: the trainings of several tasks at a time. Each has a session of its own, so that
 * nothing is shared but what tells of them, and their order does not matter. */
#include "train/calibrate.h"

#include <pthread.h>

enum { MAX_JOBS = 64 };

typedef struct jobs {
    mtbal_calibrate_options options; /* of each training */
    const mtbal_calibrate_options *all;
    int ntasks;
    const char *const *tasks;
    mtbal_calibration *results;
    mtbal_on_epoch *on_epoch;
    void *context;
    pthread_mutex_t tell; /* of what is called outside */
    atomic_int next;      /* task to train */
    atomic_int failed;    /* the first task that failed so far, else ntasks */
    mtbal_diag *diags;    /* [ntasks] */
} jobs;

static void tell_epoch(void *context, const mtbal_calibrate_progress *progress)
{
    jobs *j = context;
    pthread_mutex_lock(&j->tell);
    j->on_epoch(j->context, progress);
    pthread_mutex_unlock(&j->tell);
}

static mtbal_status tell_trained(void *context, mtbal_session *session, int task, mtbal_diag *diag)
{
    jobs *j = context;
    pthread_mutex_lock(&j->tell);
    mtbal_status status = j->all->on_trained(j->all->context, session, task, diag);
    pthread_mutex_unlock(&j->tell);
    return status;
}

static mtbal_status tell_step(void *context, int task, const mtbal_record *record, mtbal_diag *diag)
{
    jobs *j = context;
    pthread_mutex_lock(&j->tell);
    mtbal_status status = j->all->on_step(j->all->context, task, record, diag);
    pthread_mutex_unlock(&j->tell);
    return status;
}

static mtbal_status tell_more(void *context, int task, mtbal_piece *pieces, int *count,
                              mtbal_diag *diag)
{
    jobs *j = context;
    pthread_mutex_lock(&j->tell);
    mtbal_status status = j->all->more(j->all->context, task, pieces, count, diag);
    pthread_mutex_unlock(&j->tell);
    return status;
}

/* Tasks are begun in order: when one fails, those before it have been begun and go on to their end,
 * or their own failure. */
static void *work(void *context)
{
    jobs *j = context;
    for (int i; (i = atomic_fetch_add(&j->next, 1)) < j->ntasks && i < j->failed;) {
        if (mtbal_calibrate_task(&j->options, j->ntasks, j->tasks, i, &j->results[i],
                                 j->on_epoch ? tell_epoch : NULL, j, &j->diags[i]) == MTBAL_OK)
            continue;
        int first = j->failed;
        while (i < first && !atomic_compare_exchange_weak(&j->failed, &first, i))
            ;
    }
    return NULL;
}

static int count_jobs(const mtbal_calibrate_options *o, int ntasks)
{
    int count = o->jobs < MAX_JOBS ? o->jobs : MAX_JOBS;
    count = count < ntasks ? count : ntasks;
    return count < 1 ? 1 : count;
}

mtbal_status mtbal_calibrate_tasks(const mtbal_calibrate_options *options, int ntasks,
                                   const char *const *tasks, mtbal_calibration *results,
                                   mtbal_on_epoch *on_epoch, void *context, mtbal_diag *diag)
{
    pthread_t threads[MAX_JOBS];
    int count = count_jobs(options, ntasks), started = 0;
    jobs j = {.options = *options,
              .all = options,
              .ntasks = ntasks,
              .tasks = tasks,
              .results = results,
              .on_epoch = on_epoch,
              .context = context,
              .failed = ntasks};
    j.diags = mtbal_malloc((size_t)ntasks * sizeof *j.diags);
    if (!j.diags)
        return mtbal_no_memory(diag);
    for (int i = 0; i < ntasks; i++)
        j.diags[i] = (mtbal_diag){0};
    j.options.failed = &j.failed;
    j.options.context = &j;
    j.options.on_trained = options->on_trained ? tell_trained : NULL;
    j.options.on_step = options->on_step ? tell_step : NULL;
    j.options.more = options->more ? tell_more : NULL;
    if (options->threads < 1 && count > 1)
        j.options.threads = mtbal_processors() > count ? mtbal_processors() / count : 1;
    pthread_mutex_init(&j.tell, NULL);
    while (started + 1 < count && !pthread_create(&threads[started], NULL, work, &j))
        started++;
    work(&j); /* with fewer threads than wanted it takes longer */
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&j.tell);
    mtbal_status status = MTBAL_OK;
    if (j.failed < ntasks) {
        status = j.diags[j.failed].status;
        if (diag && diag->status == MTBAL_OK)
            *diag = j.diags[j.failed];
    }
    mtbal_free(j.diags);
    return status;
}
