/* The log: what writer, reader and the tools share. Internal; tests open logs with a table of system calls of their
 * own. */
#ifndef TIDEMARK_CORE_WAL_H
#define TIDEMARK_CORE_WAL_H

#include "io.h"

#pragma GCC visibility push(hidden)

/* As the public functions; `io` must outlive what they open. */
int tidemark_wal_open_io(const struct tidemark_io *io, const char *directory, const tidemark_wal_options *options,
                         tidemark_wal **wal, tidemark_error *error);
int tidemark_wal_reader_open_io(const struct tidemark_io *io, const char *directory, uint32_t shard,
                                int64_t after_seqno, unsigned flags, tidemark_wal_reader **reader,
                                tidemark_error *error);
int tidemark_wal_prune_io(const struct tidemark_io *io, const char *directory, uint32_t shard, int64_t upto,
                          tidemark_error *error);
int tidemark_wal_verify_io(const struct tidemark_io *io, const char *directory, tidemark_wal_report *report,
                           tidemark_error *error);

/* An open directory of a log. */
struct tidemark_log {
    const struct tidemark_io *io;
    int directory;
    int lock;         /* the file `lock`, locked by this writer; -1: not locked */
    bool is_settled;  /* no writer of an earlier lock can have a segment open that is here */
    char *path;       /* the directory's, as the caller gave it: for messages */
    char *place;      /* the same, absolute: a process may change its working directory */
    char *heads_path; /* PLACE/heads */
};

/* ENOT_FOUND, ENOMEM, EIO. On failure there is nothing to close. */
int tidemark_log_open(const struct tidemark_io *io, const char *path, struct tidemark_log *log, tidemark_error *error);
void tidemark_log_close(struct tidemark_log *log);

/* Makes the caller the one writer of the log until it is closed. Makes the file `lock` if there is none; that file is
 * never replaced or removed. Does not wait. ELOCKED, EDENIED, EIO. */
int tidemark_log_lock(struct tidemark_log *log, tidemark_error *error);

/* Notes in the file `lock`, which is locked, that the log is settled. EIO. */
int tidemark_log_settle(struct tidemark_log *log, tidemark_error *error);

/* Returns 1 while the file `lock` in the directory is the one that is locked, else 0. EIO. */
int tidemark_log_is_locked(const struct tidemark_log *log, tidemark_error *error);

/* Returns whether another directory has the path of the log. Its files cannot show that: they still have their names in
 * the old one, which may only have been moved. Where nothing has the path that one is still the log. */
bool tidemark_log_is_replaced(const struct tidemark_log *log);

/* What the note in `heads` says of the log: docs/formats.md, "The log". */
struct tidemark_log_identity {
    uint32_t log_id;    /* 0: there is no note */
    uint64_t epoch;     /* of the last writer */
    uint64_t own_epoch; /* the first one that was begun in this directory since it was last a replica; 0: a replica */
};

/* ECORRUPT if the note is not that of a log, EUNSUPPORTED for another version of it, and what tidemark_state_note
 * gives. */
int tidemark_log_read_identity(const struct tidemark_log *log, tidemark_state *heads,
                               struct tidemark_log_identity *identity, tidemark_error *error);

/* Checkpoints the heads, with that note. What tidemark_state_checkpoint gives. */
int tidemark_log_write_identity(tidemark_state *heads, const struct tidemark_log_identity *identity,
                                tidemark_error *error);

struct tidemark_scan;

/* Says in `scan` which batches are evidence of what had been durable. `identity` is NULL where there are no heads. */
void tidemark_log_set_evidence(struct tidemark_scan *scan, const struct tidemark_log_identity *identity);

#pragma GCC visibility pop

#endif
