/* Epochs: how a new one is made. tidemark.h says what an epoch is. Internal. */
#ifndef TIDEMARK_CORE_EPOCH_H
#define TIDEMARK_CORE_EPOCH_H

#include "io.h"

#pragma GCC visibility push(hidden)

/* Makes an epoch above `last`, 0 if there is none, from the clock and the random numbers of `io`. Returns 0; -1 and
 * errno where there are no random numbers; -1 and ERANGE where no epoch is left. */
int tidemark_epoch_make(const struct tidemark_io *io, uint64_t last, uint64_t *epoch);

#pragma GCC visibility pop

#endif
