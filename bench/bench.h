/* bench/bench.h: what the measuring programs share. */
#ifndef MTBAL_BENCH_H
#define MTBAL_BENCH_H

double bench_seconds(void); /* of a clock that only goes forward */
/* Sorts the n times; the one in the middle. */
double bench_median(double *times, int n);

#endif
