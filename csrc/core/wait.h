/* What waiting shares with the rest of the core. Internal. */
#ifndef TIDEMARK_CORE_WAIT_H
#define TIDEMARK_CORE_WAIT_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* Seconds of the clock that all time-outs go by: monotonic, it does not run while the machine is suspended. */
double tidemark_monotonic(void);

/* As tidemark_state_wait_any, but the marks are not checked: one of a shard that is not tracked does not move. */
int tidemark_state_wait_above(tidemark_state *state, const tidemark_mark *marks, size_t count, double timeout,
                              uint32_t *shard, tidemark_error *error);

/* From here on each advance of one of the shards that are tracked now changes the event and wakes, so that a read-only
 * state need not look again and again. For a state that advances seldom and is read by many. */
void tidemark_state_wake_always(tidemark_state *state);

#pragma GCC visibility pop

#endif
