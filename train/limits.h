/* train/limits.h: values that an integer input may have. Private to train/. */
#ifndef MTBAL_LIMITS_H
#define MTBAL_LIMITS_H

#include "train/train.h"

/* low <= value < count, or `ignored`. */
typedef struct mtbal_limit {
    struct mtbal_limit *next;
    const char *node; /* which asks for it */
    int64_t low, count, ignored;
    bool ignores, loss; /* loss: `count` classes; else so many rows of a table */
} mtbal_limit;

/* Notes the limits of the session's feeds. `model`: freshly read; its types are inferred. */
mtbal_status mtbal_limits_find(mtbal_session *session, mtbal_model *model, mtbal_diag *diag);
/* MTBAL_INVALID at the first value that is outside. */
mtbal_status mtbal_limits_check(const mtbal_feed *feed, const mtbal_array *array, const char *path,
                                mtbal_diag *diag);

#endif
