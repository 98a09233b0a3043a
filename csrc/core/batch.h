/* Batches: docs/formats.md, "Batch". What the log needs beside tidemark.h. Internal. */
#ifndef TIDEMARK_CORE_BATCH_H
#define TIDEMARK_CORE_BATCH_H

#include <stdbool.h>

#include "tidemark.h"

#pragma GCC visibility push(hidden)

static inline int64_t tidemark_batch_last_seqno(const tidemark_batch *batch) {
    return batch->first_seqno + (batch->count - 1); /* the sum of all three could be 2^63 */
}

#define TIDEMARK_BATCH_ORIGIN 24 /* bytes of an origin, at the beginning of the payload */

/* Returns the bytes of the payload before the ends of the records. */
static inline size_t tidemark_batch_origin_size(const tidemark_batch *batch) {
    return batch->has_origin ? TIDEMARK_BATCH_ORIGIN : 0;
}

/* Returns the CRC that the header at `bytes` has for its payload. */
uint32_t tidemark_batch_payload_crc(const unsigned char *bytes);

/* Reads the origin at `bytes`, TIDEMARK_BATCH_ORIGIN of them, into batch->origin. Returns NULL, or what is wrong. */
const char *tidemark_batch_read_origin(const unsigned char *bytes, tidemark_batch *batch);

/* Checks that `count` record ends in `ends` go on from `*last` without decreasing, and moves `*last` there. */
bool tidemark_batch_check_ends(const unsigned char *ends, size_t count, uint32_t *last);

#pragma GCC visibility pop

#endif
