/* The codec of checkpoint bytes (docs/formats.md). Internal. */
#ifndef TIDEMARK_CORE_CHECKPOINT_H
#define TIDEMARK_CORE_CHECKPOINT_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* Reads a checkpoint text of any order. On success `*marks` is an array of `*count` marks, each shard once, in the
 * order of the text, which the caller frees with tidemark_free. ECORRUPT names the byte offset; ENOMEM. */
int tidemark_checkpoint_decode(const char *bytes, size_t length, tidemark_mark **marks, size_t *count,
                               tidemark_error *error);

#pragma GCC visibility pop

#endif
