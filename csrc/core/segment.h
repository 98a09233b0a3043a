/*
 * Segments: the files of a log. Their names, a cursor that knows what must come next in one, and a scan that reads
 * batches in blocks. Internal.
 */
#ifndef TIDEMARK_CORE_SEGMENT_H
#define TIDEMARK_CORE_SEGMENT_H

#include <stdbool.h>

#include "io.h"

#pragma GCC visibility push(hidden)

#define TIDEMARK_SEGMENT_NAME 31 /* "SSSSS-NNNNNNNNNNNNNNNNNNNN.wal" and a NUL */

struct tidemark_segment {
    uint32_t shard;
    int64_t first_seqno;
};

void tidemark_segment_name(struct tidemark_segment segment, char name[TIDEMARK_SEGMENT_NAME]);

/* A tail that recovery has cut from a segment is kept as "SEGMENT.cut-OFFSET-EPOCH": the offset in decimal, the epoch
 * of the writer that cut it in 16 hexadecimal digits. */
#define TIDEMARK_CUT_NAME 80
void tidemark_cut_name(struct tidemark_segment segment, off_t offset, uint64_t epoch, char name[TIDEMARK_CUT_NAME]);

/* Whether `name` is that of a cut tail, and of which segment. */
bool tidemark_cut_parse(const char *name, struct tidemark_segment *segment);

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
    uint32_t log_id;    /* 0: not known, taken from the next batch */
    int64_t last_seqno; /* of the record before the place; 0: there is none */
    uint64_t epoch;     /* of that record; 0: not known, or there is none */
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
    /* A batch claims that records before it had been durable when it was written. Only claims of these epochs are
     * evidence: those that were begun in this directory. Without heads, all are. */
    uint64_t first_epoch, last_epoch;
    unsigned char *block;
    size_t start, end; /* of what is in the block and not yet used; it lies at block_offset + start in the file */
    off_t block_offset;
};

/* Allocates the block. ENOMEM. The caller calls tidemark_scan_end in any case, which frees it and closes the cursor. */
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

/* Where a segment ends, as far as the segment, the head and the next segment show. */
struct tidemark_tail {
    off_t end;        /* behind the last whole batch */
    off_t above_head; /* of the first batch with a seqno above the head; `end` if there is none */
    uint64_t batches, records;
    bool torn; /* there is something behind `end` that is not zeros */
};

/* Reads the open segment to its end and fills `tail`, also where it fails. `next_segment` is the first seqno of the
 * next segment, 0 for the newest one. ECORRUPT if the next segment does not begin with the next seqno, or if, in the
 * newest segment, a torn batch had been durable (at or below `head`, or claimed so by a later batch). ELOST if the
 * newest segment ends before `head` in zeros. Other errors as tidemark_scan_next. Any other torn tail is no failure;
 * `error` then says what it is. */
int tidemark_scan_tail(struct tidemark_scan *scan, int64_t head, int64_t next_segment, struct tidemark_tail *tail,
                       tidemark_error *error);

#pragma GCC visibility pop

#endif
