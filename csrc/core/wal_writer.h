/* What a writer of a log is made of. Internal to wal.c and wal_recover.c. */
#ifndef TIDEMARK_CORE_WAL_WRITER_H
#define TIDEMARK_CORE_WAL_WRITER_H

#include "segment.h"
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
    uint64_t epoch;                 /* of the last record; 0 before the first one */
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

/* ---- recovery: wal_recover.c ---- */

/* What recovery found of a shard and has to do about it. The array of a log is parallel to wal->shards. */
struct tidemark_repair {
    struct tidemark_segment segment; /* the newest one; first_seqno 0: the shard has none */
    struct tidemark_tail tail;
    off_t size;   /* of the newest segment's file */
    int64_t head; /* the last seqno that had been durable; 0 if the heads do not know the shard */
    bool lost;    /* the log ends before `head`, at wal->shards[].last_seqno; or there are no heads that say so */
    char where[TIDEMARK_SEGMENT_NAME + 32]; /* of a loss: "NAME: offset N", or "" */
};

/* Adds a sentence to what tidemark_wal_recovery gives. ENOMEM. */
__attribute__((format(printf, 3, 4))) int tidemark_wal_tell(struct tidemark_wal *wal, tidemark_error *error,
                                                            const char *format, ...);

/* Reads what is needed of the segments, ascending. Sets last_seqno and epoch of all shards, and fills `repairs`. Learns
 * the log id and the highest epoch. wal->heads may be NULL. Changes no file. ECORRUPT, EFOREIGN, EUNSUPPORTED, EIO,
 * ENOMEM; a loss is no failure. */
int tidemark_wal_read_shards(struct tidemark_wal *wal, const struct tidemark_segment *segments, size_t count,
                             struct tidemark_repair *repairs, tidemark_error *error);

/* Makes the newest segment of every shard end, durably, after its last whole batch. A tail that is not zeros is kept in
 * a file of its own before it is cut. EIO, ENOMEM. */
int tidemark_wal_repair_shards(struct tidemark_wal *wal, const struct tidemark_repair *repairs, tidemark_error *error);

#pragma GCC visibility pop

#endif
