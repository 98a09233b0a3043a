/* States backed by files: tidemark_state_open with a table of system calls. Internal; tests pass their own table. */
#ifndef TIDEMARK_CORE_STATE_FILE_H
#define TIDEMARK_CORE_STATE_FILE_H

#include "io.h"

#pragma GCC visibility push(hidden)

/* As tidemark_state_open; `io` must outlive the state. */
int tidemark_state_open_io(const struct tidemark_io *io, const char *path, const uint32_t *shards, size_t count,
                           unsigned flags, tidemark_state **state, tidemark_error *error);

/* Makes the caller the one writer of the log whose heads these are, until the state is closed. ELOCKED, EIO. */
int tidemark_state_lock_writer(const tidemark_state *state, tidemark_error *error);

#pragma GCC visibility pop

#endif
