/* States backed by files: tidemark_state_open with a table of system calls. Internal; tests pass their own table. */
#ifndef TIDEMARK_CORE_STATE_FILE_H
#define TIDEMARK_CORE_STATE_FILE_H

#include "io.h"

#pragma GCC visibility push(hidden)

/* As tidemark_state_open; `io` must outlive the state. */
int tidemark_state_open_io(const struct tidemark_io *io, const char *path, const uint32_t *shards, size_t count,
                           unsigned flags, tidemark_state **state, tidemark_error *error);

/* Gives the file id of a state that is backed by files. */
void tidemark_state_file_id(const tidemark_state *state, unsigned char id[16]);

/* Returns the generation of the last durable checkpoint, 0 for a read-only state without a live file. */
uint64_t tidemark_state_generation(const tidemark_state *state);

#pragma GCC visibility pop

#endif
