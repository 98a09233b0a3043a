/* What the readers of a log share: its directory and its heads. Internal to wal_source.c and wal_reader.c. */
#ifndef TIDEMARK_CORE_WAL_SOURCE_H
#define TIDEMARK_CORE_WAL_SOURCE_H

#include <stdatomic.h>

#include "wal.h"

#pragma GCC visibility push(hidden)

/* A segment that was read, and how far its batches go: a search in a history asks for many seqnos of one segment. */
struct tidemark_reached {
    uint64_t history_turn; /* 0: none */
    uint32_t shard;
    int64_t first_seqno, last_seqno;
};

struct tidemark_wal_source {
    struct tidemark_log log;
    tidemark_state *heads;           /* NULL: an archive */
    tidemark_state *archive_heads;   /* of an archive that has heads: a copy in memory, of the moment of opening */
    uint32_t log_id;                 /* 0: not known, a writer is just making it */
    uint64_t epoch;                  /* of the last writer, as the heads said when `generation` was saved */
    uint64_t generation;             /* of the heads */
    unsigned char heads_id[16];      /* the file id of the heads */
    uint64_t turn;                   /* another number each time another writer has opened the log, and with the next */
    uint64_t history_turn;           /* the same if the heads have another file id, or the path another directory */
    struct tidemark_reached reached; /* the segment that tidemark_wal_source_epoch read last */
    double looked_at;                /* when it was last seen whether the heads are the ones on disk */
    tidemark_error failure;          /* of that look; code 0: none */
    size_t references;               /* the source's handle and its readers */
    _Atomic(bool) interrupted;
};

/* As tidemark_wal_source_open, but the log need not be named yet. An `archive` ends where its heads say or, if it has
 * none, after its last whole record. */
int tidemark_wal_source_open_io(const struct tidemark_io *io, const char *directory, bool archive,
                                tidemark_wal_source **source, tidemark_error *error);

/* If it is time for it, looks whether the heads are still the ones on disk, and opens those that are, with the
 * directory that has the path now: `turn` tells. 0, or why that failed at the last look; what was open then still is.
 */
int tidemark_wal_source_look(tidemark_wal_source *source, double time, tidemark_error *error);

/* The same at once. */
int tidemark_wal_source_look_now(tidemark_wal_source *source, tidemark_error *error);

/* tidemark_wal_source_epoch by the heads that are open, without a look. */
int tidemark_wal_source_find_epoch(tidemark_wal_source *source, uint32_t shard, int64_t seqno, uint64_t *epoch,
                                   tidemark_error *error);

/* Sleeps until a head is above the seqno given for it (1, and which), or until it is time to look (0), or until
 * `deadline`, at once if that is `time` or before: ETIMEOUT. EINTERRUPTED. */
int tidemark_wal_source_sleep(tidemark_wal_source *source, const tidemark_mark *marks, size_t count, double time,
                              double deadline, uint32_t *shard, tidemark_error *error);

/* Where a wait that begins at `time` ends. */
double tidemark_wal_source_deadline(double time, double timeout);

#pragma GCC visibility pop

#endif
