/* What a writer of a log is made of. Internal to wal.c and wal_recover.c. */
#ifndef TIDEMARK_CORE_WAL_WRITER_H
#define TIDEMARK_CORE_WAL_WRITER_H

#include "wal.h"

#pragma GCC visibility push(hidden)

#define TIDEMARK_WAL_FILES 64 /* segments that are open at once, at most */

struct tidemark_wal_file {
    int fd;
    bool unsynced;                    /* written since its last sync */
    uint64_t used;                    /* when: a count of writes */
    struct tidemark_wal_shard *shard; /* NULL: the place is free */
};

struct tidemark_wal_shard {
    uint32_t id;
    uint32_t epoch;                 /* of the last record; 0 before the first one */
    int64_t last_seqno;             /* written, not yet durable where the file is unsynced */
    int64_t segment;                /* its first seqno; 0: the next append makes one */
    off_t offset;                   /* of the next batch in the segment */
    off_t zeroed;                   /* up to where the segment has been written, with zeros from `offset` on */
    struct tidemark_wal_file *file; /* the open segment, or NULL */
};

struct tidemark_wal_message {
    struct tidemark_wal_message *next;
    char text[768];
};

struct tidemark_wal {
    struct tidemark_log log;
    tidemark_state *heads; /* locked for this writer */
    struct tidemark_log_identity identity;
    uint64_t segment_bytes;
    bool sync_later;
    bool poisoned;
    pid_t process;                     /* who opened it: a forked child must not write */
    struct tidemark_wal_shard *shards; /* ascending by id */
    size_t shard_count;
    uint64_t uses;
    struct tidemark_wal_file files[TIDEMARK_WAL_FILES];
    unsigned char *scratch; /* where batches are encoded */
    size_t scratch_size;
    struct tidemark_wal_message *recovery, **recovery_end;
};

/* Closes and frees all of it, and writes nothing. */
void tidemark_wal_free(struct tidemark_wal *wal);

#pragma GCC visibility pop

#endif
