/*
 * A log as its readers share it: one directory, one mapping of the heads, one look now and then whether these are still
 * what stands at the path.
 *
 * Invariant: `directory` was what the path named after `heads` had been opened by that path. So heads and segments
 * belong together as far as this can be known; a reader that has read from an earlier directory, or from a segment that
 * is not in it, finds out by `turn` before it believes a new head (settle in wal_reader.c).
 *
 * The heads are opened to read. Their writer wakes who sleeps on them at each advance (wait.c), so that a sleep is cut
 * into slices only to look at the files and at interrupts.
 */
#define _XOPEN_SOURCE 700 /* AT_FDCWD */
#include "wal_source.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "state_file.h"
#include "wait.h"

#define LOOK_AGAIN 0.05 /* seconds between looks at whether the heads are still the ones on disk */

/* ---- opening ---- */

struct opened_heads {
    tidemark_state *state;
    uint32_t log_id;
    uint64_t epoch, generation;
    unsigned char id[16]; /* of the file */
};

/* Opens the heads at the path of `log` and reads their identity. EREPLACED if the path names another directory by then.
 */
static int open_heads(const struct tidemark_log *log, struct opened_heads *result, tidemark_error *error) {
    struct tidemark_log_identity identity;
    struct stat ours, there;
    tidemark_state *heads;
    int code = tidemark_state_open_io(log->io, log->heads_path, NULL, 0, TIDEMARK_OPEN_READONLY, &heads, error);
    if (code < 0) return code;
    uint64_t generation =
        tidemark_state_generation(heads); /* before: then the identity is of this one or a later one */
    code = tidemark_log_read_identity(log, heads, &identity, error);
    if (code == 0 && (log->io->fstat(log->directory, &ours) < 0 ||
                      log->io->fstatat(AT_FDCWD, log->place, &there, 0) < 0 || !tidemark_io_is_same(&ours, &there)))
        code = tidemark_fail(error, TIDEMARK_EREPLACED, "%s: was replaced while it was opened", log->path);
    if (code < 0) {
        tidemark_state_release(heads);
        return code;
    }
    *result = (struct opened_heads){heads, identity.log_id, identity.epoch, generation, {0}};
    tidemark_state_file_id(heads, result->id);
    return 0;
}

/* Gives the source the heads that were opened. Where these are of the same file and the same writer, readers have
 * nothing to compare: heads without a live file are opened at each look. */
static void take_heads(tidemark_wal_source *source, const struct opened_heads *heads) {
    bool other_file = memcmp(source->heads_id, heads->id, sizeof heads->id) != 0;
    if (other_file) source->history_turn++;
    if (other_file || source->log_id != heads->log_id || source->epoch != heads->epoch) source->turn++;
    tidemark_state_release(source->heads);
    source->heads = heads->state;
    source->log_id = heads->log_id;
    source->epoch = heads->epoch;
    source->generation = heads->generation;
    memcpy(source->heads_id, heads->id, sizeof heads->id);
}

/* Opens the heads of an archive, if it has some. They do not move: nobody writes an archive. */
static int copy_heads(tidemark_wal_source *source, tidemark_error *error) {
    struct opened_heads heads;
    int code = open_heads(&source->log, &heads, error);
    if (code == TIDEMARK_ENOT_FOUND) return 0;
    if (code < 0) return code;
    code = tidemark_state_clone(heads.state, &source->archive_heads, error);
    source->log_id = heads.log_id;
    tidemark_state_release(heads.state);
    return code;
}

int tidemark_wal_source_open_io(const struct tidemark_io *io, const char *directory, bool archive,
                                tidemark_wal_source **result, tidemark_error *error) {
    tidemark_wal_source *source = tidemark_calloc(1, sizeof *source);
    if (source == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", directory);
    int code = tidemark_log_open(io, directory, &source->log, error);
    if (code < 0) {
        tidemark_free(source);
        return code;
    }
    source->references = source->turn = 1;
    source->looked_at = tidemark_monotonic();
    struct opened_heads heads;
    code = archive ? copy_heads(source, error) : open_heads(&source->log, &heads, error);
    if (code == 0 && !archive) take_heads(source, &heads);
    if (code < 0) tidemark_wal_source_close(source);
    else *result = source;
    return code;
}

/* ENOT_FOUND for a directory that has no heads; ELOST if it has segments. */
static int fail_no_heads(const char *directory, tidemark_error *error) {
    struct tidemark_segment *segments = NULL;
    struct tidemark_log log;
    size_t count = 0;
    if (tidemark_log_open(&tidemark_io_system, directory, &log, NULL) == 0) {
        (void)tidemark_segment_list(log.io, log.directory, log.path, -1, &segments, &count, NULL);
        tidemark_free(segments);
        tidemark_log_close(&log);
    }
    if (count == 0) return tidemark_fail(error, TIDEMARK_ENOT_FOUND, "%s: there is no log", directory);
    return tidemark_fail(error, TIDEMARK_ELOST,
                         "%s: there are segments but no file heads, so nobody knows whether records are missing",
                         directory);
}

int tidemark_wal_source_open(const char *directory, tidemark_wal_source **result, tidemark_error *error) {
    tidemark_wal_source *source;
    int code = tidemark_wal_source_open_io(&tidemark_io_system, directory, false, &source, error);
    if (code == TIDEMARK_ENOT_FOUND) return fail_no_heads(directory, error);
    if (code < 0) return code;
    if (source->log_id != 0) {
        *result = source;
        return 0;
    }
    tidemark_wal_source_close(source);
    return tidemark_fail(
        error, TIDEMARK_ENOT_FOUND,
        "%s: there is no log in it yet: its writer is just making it, or was cut off: try again, or open it for "
        "writing",
        directory);
}

void tidemark_wal_source_close(tidemark_wal_source *source) {
    if (source == NULL || --source->references > 0) return;
    tidemark_state_release(source->heads);
    tidemark_state_release(source->archive_heads);
    tidemark_log_close(&source->log);
    tidemark_free(source);
}

/* ---- looking whether it is still what is on disk ---- */

/* Opens what is at the path now. */
static int open_again(tidemark_wal_source *source, tidemark_error *error) {
    struct tidemark_log there;
    struct stat ours, theirs;
    struct opened_heads heads;
    int code = tidemark_log_open(source->log.io, source->log.place, &there, error);
    if (code < 0) return code;
    code = open_heads(&there, &heads, error);
    if (code == 0) {
        if (there.io->fstat(source->log.directory, &ours) < 0 || there.io->fstat(there.directory, &theirs) < 0 ||
            !tidemark_io_is_same(&ours, &theirs)) {
            int before = source->log.directory;
            source->log.directory = there.directory;
            there.directory = before;
            source->history_turn++;
            source->turn++;
        }
        take_heads(source, &heads);
    }
    tidemark_log_close(&there);
    return code;
}

/* Notices that another writer has opened the log since: it saves heads with its epoch before it appends. Its log may
 * have been restored from a copy meanwhile, so readers compare what they have read. */
static int look_for_writer(tidemark_wal_source *source, tidemark_error *error) {
    struct tidemark_log_identity identity;
    uint64_t generation = tidemark_state_generation(source->heads);
    if (generation == source->generation && source->log_id != 0) return 0;
    int code = tidemark_log_read_identity(&source->log, source->heads, &identity, error);
    if (code < 0) return code;
    source->generation = generation;
    source->log_id = identity.log_id;
    if (source->epoch != identity.epoch) source->turn++;
    source->epoch = identity.epoch;
    return 0;
}

/* After a restart of the machine, and when its files are replaced, the heads that are open no longer move. */
static int look(tidemark_wal_source *source, tidemark_error *error) {
    int current = tidemark_state_is_current(source->heads, error);
    if (current < 0) return current;
    if (current == 0 || tidemark_log_is_replaced(&source->log)) return open_again(source, error);
    return look_for_writer(source, error);
}

int tidemark_wal_source_look(tidemark_wal_source *source, double time, tidemark_error *error) {
    if (time - source->looked_at >= LOOK_AGAIN) {
        source->looked_at = time;
        source->failure.code = look(source, &source->failure);
    }
    if (source->failure.code == 0) return 0;
    return tidemark_fail(error, source->failure.code, "%s", source->failure.message);
}

int tidemark_wal_source_look_now(tidemark_wal_source *source, tidemark_error *error) {
    source->looked_at = -INFINITY;
    return tidemark_wal_source_look(source, tidemark_monotonic(), error);
}

uint32_t tidemark_wal_source_log_id(tidemark_wal_source *source) {
    (void)tidemark_wal_source_look(source, tidemark_monotonic(), NULL);
    return source->log_id;
}

tidemark_state *tidemark_wal_source_heads(tidemark_wal_source *source) {
    (void)tidemark_wal_source_look(source, tidemark_monotonic(), NULL);
    return source->heads;
}

/* ---- waiting ---- */

double tidemark_wal_source_deadline(double time, double timeout) {
    return timeout >= 0 ? time + timeout : INFINITY; /* not a number: for ever */
}

int tidemark_wal_source_sleep(tidemark_wal_source *source, const tidemark_mark *marks, size_t count, double time,
                              double deadline, uint32_t *shard, tidemark_error *error) {
    double left = source->looked_at + LOOK_AGAIN - time;
    if (deadline - time < left) left = deadline - time;
    if (left < 0 || atomic_load(&source->interrupted)) left = 0;
    int code = tidemark_state_wait_above(source->heads, marks, count, left, shard, error);
    if (code != TIDEMARK_ETIMEOUT) return code == 0 ? 1 : code;
    if (deadline > time && atomic_exchange(&source->interrupted, false)) /* not one that only looks */
        return tidemark_fail(error, TIDEMARK_EINTERRUPTED, "%s: the wait was interrupted", source->log.path);
    return tidemark_monotonic() < deadline ? 0 : code;
}

int tidemark_wal_source_wait(tidemark_wal_source *source, const tidemark_mark *marks, size_t count, double timeout,
                             uint32_t *shard, tidemark_error *error) {
    double time = tidemark_monotonic(), deadline = tidemark_wal_source_deadline(time, timeout);
    for (size_t i = 0; i < count; i++) {
        if (marks[i].shard > TIDEMARK_SHARD_MAX || marks[i].seqno < 0)
            return tidemark_fail(error, TIDEMARK_EINVAL, "shard %" PRIu32 ", seqno %" PRId64 ": out of range",
                                 marks[i].shard, marks[i].seqno);
    }
    for (;; time = tidemark_monotonic()) {
        (void)tidemark_wal_source_look(source, time, NULL); /* a reader tells what failed */
        int code = tidemark_wal_source_sleep(source, marks, count, time, deadline, shard, error);
        if (code != 0) return code < 0 ? code : 0;
    }
}

void tidemark_wal_source_interrupt(tidemark_wal_source *source) {
    atomic_store(&source->interrupted, true);
}
