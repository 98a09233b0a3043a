/*
 * Segments: the files of a log. Their names, a cursor that knows what must come next in one, and a scan that reads
 * batches in blocks. Internal.
 */
#ifndef TIDEMARK_CORE_SEGMENT_H
#define TIDEMARK_CORE_SEGMENT_H

#include "io.h"

#pragma GCC visibility push(hidden)

#define TIDEMARK_SEGMENT_NAME 31 /* "SSSSS-NNNNNNNNNNNNNNNNNNNN.wal" and a NUL */

struct tidemark_segment {
    uint32_t shard;
    int64_t first_seqno;
};

void tidemark_segment_name(struct tidemark_segment segment, char name[TIDEMARK_SEGMENT_NAME]);

/* The segments in a directory, by shard and seqno; of one shard, or of all where `shard` is -1. `*segments` is to be
 * freed with tidemark_free. `path` is the directory's, for messages, here and below. ENOMEM, EIO. */
int tidemark_segment_list(const struct tidemark_io *io, int directory, const char *path, int shard,
                          struct tidemark_segment **segments, size_t *count, tidemark_error *error);

/* A place between two batches, and what the next one must be. Closed when fd is -1. */
struct tidemark_cursor {
    const struct tidemark_io *io;
    int directory;
    const char *path; /* of the directory */
    int fd;
    char name[TIDEMARK_SEGMENT_NAME];
    off_t offset; /* of the next batch */
    uint32_t shard;
    uint64_t log_id;    /* 0: not known, the next batch tells */
    int64_t last_seqno; /* of the record before the place; 0: there is none */
    uint32_t epoch;     /* of that record; 0: not known, or there is none */
};

/* Opens the segment of cursor->shard that begins with `first_seqno`, in place of the one that is open, and stands at
 * its beginning. What is known of epoch and log id is kept. On failure the cursor stays as it was. ENOT_FOUND, EIO. */
int tidemark_cursor_open(struct tidemark_cursor *cursor, int64_t first_seqno, tidemark_error *error);

void tidemark_cursor_close(struct tidemark_cursor *cursor);

/* Whether this batch may come next. EFOREIGN, ECORRUPT with file and offset. */
int tidemark_cursor_check(const struct tidemark_cursor *cursor, const tidemark_batch *batch, tidemark_error *error);

/* Goes over a batch that was checked. */
void tidemark_cursor_pass(struct tidemark_cursor *cursor, const tidemark_batch *batch);

/* `code`, with a message that begins with file and offset. */
__attribute__((format(printf, 4, 5))) int
tidemark_cursor_fail(const struct tidemark_cursor *cursor, tidemark_error *error, int code, const char *format, ...);

/* ---- scanning ---- */

/* A cursor that reads whole batches without holding one: it has a block of fixed size. Set cursor, then call
 * tidemark_scan_begin. */
struct tidemark_scan {
    struct tidemark_cursor cursor;
    unsigned char *block;
    size_t start, end; /* of what is in the block and not yet used; it lies at block_offset + start in the file */
    off_t block_offset;
};

/* Allocates the block. ENOMEM. tidemark_scan_end frees it and closes the cursor. */
int tidemark_scan_begin(struct tidemark_scan *scan, tidemark_error *error);
void tidemark_scan_end(struct tidemark_scan *scan);

/* tidemark_cursor_open for the cursor of a scan. */
int tidemark_scan_open(struct tidemark_scan *scan, int64_t first_seqno, tidemark_error *error);

enum {
    TIDEMARK_SCAN_END = 0,   /* nothing but zeros from the cursor on */
    TIDEMARK_SCAN_BATCH = 1, /* a whole batch; the cursor stands behind it */
    TIDEMARK_SCAN_TORN =
        2 /* what stands at the cursor is no whole batch, as when its writer was cut off; `error` says why */
};

/* Reads the next batch of the open segment. A negative result is no torn batch, but something that no writer leaves:
 * EFOREIGN, ECORRUPT, EUNSUPPORTED; or EIO. */
int tidemark_scan_next(struct tidemark_scan *scan, tidemark_batch *batch, tidemark_error *error);

/* Where a segment ends, as far as it can be known from it, the head and the segment behind it. */
struct tidemark_tail {
    off_t end;        /* behind the last whole batch */
    off_t above_head; /* of the first batch with a seqno above the head; `end` if there is none */
    uint64_t batches, records;
    bool torn; /* there is something behind `end` that is not zeros */
};

/* Reads the open segment to its end. `next_segment` is the first seqno of the one behind it, 0 for the newest.
 * ECORRUPT where it does not go on there or, in the newest one, where something that is torn had been durable: its
 * seqno is <= `head`, or a later batch says so. ELOST where the newest one ends before `head` in zeros. Further as
 * tidemark_scan_next. A torn tail that is none of this is no failure; `error` then says what it is. */
int tidemark_scan_tail(struct tidemark_scan *scan, int64_t head, int64_t next_segment, struct tidemark_tail *tail,
                       tidemark_error *error);

#pragma GCC visibility pop

#endif
