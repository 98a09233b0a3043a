/* What watches share with the rest of the core. Internal. */
#ifndef TIDEMARK_CORE_WATCH_H
#define TIDEMARK_CORE_WATCH_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* After an advance that has met TIDEMARK_WATCHED: makes the descriptors of the watches readable whose mark is there. */
void tidemark_watches_wake(tidemark_state *state, struct tidemark_slot *slot);

/* Frees what watches have left behind in a state that nobody refers to any more. */
void tidemark_watches_free(tidemark_state *state);

#pragma GCC visibility pop

#endif
