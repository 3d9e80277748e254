/* train/session.h: what session.c needs of initialize.c. */
#ifndef MTBAL_TRAIN_SESSION_H
#define MTBAL_TRAIN_SESSION_H

#include "train/train.h"

/* Puts into the states of an instance what the model's initialization graphs give. */
mtbal_status train_initialize(const mtbal_session *session, mtbal_instance *to, mtbal_diag *diag);

#endif
