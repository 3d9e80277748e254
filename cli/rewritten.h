/* cli/rewritten.h: what mtbal-rewrite tells of its work: tasks, parameters, operators before and
 * after. */
#ifndef MTBAL_CLI_REWRITTEN_H
#define MTBAL_CLI_REWRITTEN_H

#include "cli/cli.h"
#include "passes/passes.h"
#include "train/calibrate.h"

typedef struct cli_op_count {
    const char *domain, *op; /* interned */
    int before_it;           /* the last one of its name before it, in another domain; -1: none */
    int before, after;
} cli_op_count;

typedef struct cli_rewritten {
    mtbal_arena *arena;
    const char *in, *out;
    const char *c_folder; /* of --emit-c; NULL: none */
    bool json, quiet, verbose, calibrated;
    const mtbal_context *context; /* NULL: nothing was rewritten */
    int nops, op_capacity;
    cli_op_count *ops;
    mtbal_map op_of; /* name -> the last of that name */
    int nodes_before, nodes_after;
    int64_t bytes_before, bytes_after;
    double seconds;
    mtbal_plan_info emitted;
    mtbal_calibration *calibrations; /* [ncalibrations], with --calibrate */
    int ncalibrations;
} cli_rewritten;

/* Counts the operators of the main graph, and of the training steps beside it. */
mtbal_status cli_rewritten_count(cli_rewritten *r, const mtbal_model *model, bool after,
                                 mtbal_diag *diag);
/* Bytes of the file, whose path `form` makes of `name`; -1 when there is none. */
int64_t cli_rewritten_size(const char *form, const char *name, mtbal_arena *arena);
/* Tables for people or JSON, to stdout; notices to stderr. */
void cli_rewritten_print(cli_rewritten *r);

#endif
