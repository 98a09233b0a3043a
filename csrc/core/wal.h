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

/* An open directory of a log and the path of its heads, "PATH/heads". */
struct tidemark_log {
    const struct tidemark_io *io;
    int directory;
    char *heads_path;
    char *path; /* the directory's, as it was given */
};

/* ENOT_FOUND, ENOMEM, EIO. On failure there is nothing to close. */
int tidemark_log_open(const struct tidemark_io *io, const char *path, struct tidemark_log *log, tidemark_error *error);
void tidemark_log_close(struct tidemark_log *log);

/* The note in `heads` that names the log: docs/formats.md, "The log". */
struct tidemark_log_identity {
    uint64_t log_id; /* 0: there is no note */
    uint32_t epoch;  /* of the last writer */
};

/* ECORRUPT where the note is of something else, and what tidemark_state_note gives. */
int tidemark_log_read_identity(const struct tidemark_log *log, tidemark_state *heads,
                               struct tidemark_log_identity *identity, tidemark_error *error);

/* Checkpoints the heads, with that note. What tidemark_state_checkpoint gives. */
int tidemark_log_write_identity(tidemark_state *heads, const struct tidemark_log_identity *identity,
                                tidemark_error *error);

#pragma GCC visibility pop

#endif
