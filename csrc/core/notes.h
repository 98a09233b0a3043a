/* The notes of a checkpoint as bytes: docs/formats.md, "Notes". Internal. */
#ifndef TIDEMARK_CORE_NOTES_H
#define TIDEMARK_CORE_NOTES_H

#include <stdbool.h>

#include "tidemark.h"

#pragma GCC visibility push(hidden)

/* The most bytes that the notes of all shards take. */
#define TIDEMARK_NOTES_SIZE (4 + (TIDEMARK_SHARD_MAX + 1) * (8 + TIDEMARK_NOTE_MAX))

/* Whether the bytes have the form that the other functions rely on. No bytes are no notes. */
bool tidemark_notes_valid(const unsigned char *notes, size_t size);

/* The length of the note of a shard, whose start is put into `*bytes`, or -1. */
int tidemark_notes_find(const unsigned char *notes, size_t size, uint32_t shard, const unsigned char **bytes);

/* `old` with `count` notes put in; where a shard comes more than once the last one counts. Allocates `*merged` of
 * `*merged_size` bytes (NULL and 0 for no notes), to be freed with tidemark_free. Whether there was memory. */
bool tidemark_notes_merge(const unsigned char *old, size_t old_size, const tidemark_note *notes, size_t count,
                          unsigned char **merged, size_t *merged_size);

/* Removes the note of a shard in place, if there is one: the size that is left, 0 if no note is. */
size_t tidemark_notes_drop(unsigned char *notes, size_t size, uint32_t shard);

#pragma GCC visibility pop

#endif
