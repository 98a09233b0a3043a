/* No wake is lost: threads that wait for each other without any time-out. Under ThreadSanitizer too. */
#define _GNU_SOURCE
#include "wait_stress.h"

int main(void) {
    (void)alarm(300); /* instead of a sleep without end */
    RUN(no_wake_is_lost);
    RUN(no_wake_is_lost_on_one_shard);
    RUN(no_interrupt_is_lost);
    return FINISH();
}
