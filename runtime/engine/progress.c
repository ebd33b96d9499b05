#include "runtime/engine/progress.h"

#include "runtime/base/os.h"

#define INTERVAL_NS 100000000u

bool nib_meter_report(struct nib_meter *meter, uint64_t done)
{
    if (!meter->progress.report)
        return true;
    uint64_t now = nib_clock_ns();
    if (done < meter->total && now < meter->next_ns)
        return true;
    meter->next_ns = now + INTERVAL_NS;
    return meter->progress.report(meter->progress.user, meter->what, done, meter->total);
}
