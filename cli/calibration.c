/* cli/calibration.c: what is said of a calibration, whichever command did it. */
#include "cli/cli.h"

#include <math.h>

void cli_calibration_warn(const mtbal_calibration *results, int count)
{
    enum { FEW_BATCHES = 10 };
    for (int i = 0; i < count; i++) {
        const mtbal_calibration *r = &results[i];
        if (!r->converged)
            fprintf(stderr,
                    "warning: task %s did not converge in %lld epochs: its G is that of a task "
                    "under way; give it more with --max-epochs\n",
                    r->task, (long long)r->epochs);
        if (i == 0 && r->batches < FEW_BATCHES)
            fprintf(stderr,
                    "warning: an epoch has %lld batches: G is rough; lower --batch, or give more "
                    "data\n",
                    (long long)r->batches);
    }
}
