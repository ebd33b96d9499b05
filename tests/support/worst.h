/// The worst of several differences.
#ifndef TESTS_SUPPORT_WORST_H
#define TESTS_SUPPORT_WORST_H

#include <math.h>

/// Returns the larger of two differences; one that is not a number is larger than all.
static inline double worst_of(double worst, double difference)
{
    return difference <= worst ? worst : isnan(difference) ? INFINITY : difference;
}

#endif
