/* A state whose memory order is too weak in one place, which ThreadSanitizer must report: so that its silence about
 * state_threads means something. Built once for each of these:
 *
 *     RELAXED_READ      reading a mark does not acquire
 *     RELAXED_STALE     the same, met by an advance that does not move the mark
 *     RELAXED_ADVANCE   moving a mark does not release
 *     RELAXED_RELEASE   dropping a reference does not release
 *     RELAXED_FREE      dropping the last one does not acquire
 */
#define _GNU_SOURCE /* barriers, and syscall in futex.h */
#include <stdatomic.h>

#if defined RELAXED_READ || defined RELAXED_STALE
#define memory_order_acquire memory_order_relaxed
#elif defined RELAXED_FREE
#define memory_order_acq_rel memory_order_release
#else
#define memory_order_acq_rel memory_order_acquire
#define memory_order_seq_cst memory_order_acquire
#endif

#include "../../../csrc/core/state.c"
#include "../../../csrc/core/wait.c"
#include "../../../csrc/core/watch.c"

#include "../state_threads.h"

int main(void) {
#if defined RELAXED_READ || defined RELAXED_ADVANCE
    RUN(a_mark_publishes);
#elif defined RELAXED_STALE
    RUN(a_stale_advance_acquires);
#else
    RUN(the_last_reference_frees);
#endif
    return FINISH();
}
