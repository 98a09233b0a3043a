/* A hand-shake of waiting that is wrong in one place. It loses a wake and sleeps until the alarm ends it: so that
 * wait_stress_threads, which comes to its end, means something. Built once for each of these:
 *
 *     NO_WAKE           who advances does not wake the sleepers
 *     LATE_FLAG         the flag is set after the mark was read, as a processor may do it where the order is weaker
 */
#define _GNU_SOURCE
#include "../wait_stress.h"

int main(void) {
    (void)alarm(10);
    RUN(no_wake_is_lost);
    RUN(no_wake_is_lost_on_one_shard);
    return 0;
}
