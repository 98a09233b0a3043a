/* Segments: names, cursor, scan. What may stand in one: docs/formats.md, "The log". */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_CLOEXEC */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "batch.h"
#include "crc32c.h"
#include "error.h"

/* ---- names ---- */

void tidemark_segment_name(struct tidemark_segment segment, char name[TIDEMARK_SEGMENT_NAME]) {
    (void)snprintf(name, TIDEMARK_SEGMENT_NAME, "%05u-%020" PRIu64 ".wal", (unsigned)(uint16_t)segment.shard,
                   (uint64_t)segment.first_seqno);
}

/* Exactly `digits` decimal digits, or -1. */
static int64_t parse_digits(const char *at, int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        if (at[i] < '0' || at[i] > '9' || value > (uint64_t)TIDEMARK_SEQNO_MAX / 10) return -1;
        value = value * 10 + (uint64_t)(at[i] - '0');
    }
    return value <= (uint64_t)TIDEMARK_SEQNO_MAX ? (int64_t)value : -1;
}

static bool parse_name(const char *name, struct tidemark_segment *segment) {
    if (strlen(name) != TIDEMARK_SEGMENT_NAME - 1 || name[5] != '-' || strcmp(name + 26, ".wal") != 0) return false;
    int64_t shard = parse_digits(name, 5), first_seqno = parse_digits(name + 6, 20);
    if (shard < 0 || shard > TIDEMARK_SHARD_MAX || first_seqno < 1) return false;
    *segment = (struct tidemark_segment){(uint32_t)shard, first_seqno};
    return true;
}

void tidemark_cut_name(struct tidemark_segment segment, off_t offset, uint64_t epoch, char name[TIDEMARK_CUT_NAME]) {
    char segment_name[TIDEMARK_SEGMENT_NAME];
    tidemark_segment_name(segment, segment_name);
    (void)snprintf(name, TIDEMARK_CUT_NAME, "%s.cut-%lld-%016" PRIx64, segment_name, (long long)offset, epoch);
}

bool tidemark_cut_parse(const char *name, struct tidemark_segment *segment) {
    char segment_name[TIDEMARK_SEGMENT_NAME];
    size_t length = sizeof segment_name - 1;
    if (strlen(name) <= length || strncmp(name + length, ".cut-", 5) != 0) return false;
    memcpy(segment_name, name, length);
    segment_name[length] = '\0';
    return parse_name(segment_name, segment);
}

/* ---- listing ---- */

struct listing {
    int shard;
    struct tidemark_segment *segments;
    size_t count, capacity;
    bool no_memory;
};

static int add_name(void *context, const char *name) {
    struct listing *listing = context;
    struct tidemark_segment segment;
    if (!parse_name(name, &segment) || (listing->shard >= 0 && segment.shard != (uint32_t)listing->shard)) return 0;
    if (listing->count == listing->capacity) {
        size_t capacity = listing->capacity * 2;
        struct tidemark_segment *grown = tidemark_malloc(capacity * sizeof *grown);
        listing->no_memory = grown == NULL;
        if (grown == NULL) return 1;
        memcpy(grown, listing->segments, listing->count * sizeof *grown);
        tidemark_free(listing->segments);
        listing->segments = grown;
        listing->capacity = capacity;
    }
    listing->segments[listing->count++] = segment;
    return 0;
}

static int compare(const void *left, const void *right) {
    const struct tidemark_segment *a = left, *b = right;
    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    return a->first_seqno < b->first_seqno ? -1 : a->first_seqno > b->first_seqno;
}

int tidemark_segment_list(const struct tidemark_io *io, int directory, const char *path, int shard,
                          struct tidemark_segment **segments, size_t *count, tidemark_error *error) {
    struct listing listing = {.shard = shard, .capacity = 64};
    listing.segments = tidemark_malloc(listing.capacity * sizeof *listing.segments);
    int listed = listing.segments != NULL ? io->list(directory, add_name, &listing) : 0;
    if (listing.segments == NULL || listing.no_memory || listed < 0) {
        int code = listed < 0 ? tidemark_io_fail(error, path, "", "cannot list it")
                              : tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory to list it", path);
        tidemark_free(listing.segments);
        return code;
    }
    qsort(listing.segments, listing.count, sizeof *listing.segments, compare);
    *segments = listing.segments;
    *count = listing.count;
    return 0;
}

/* ---- cursor ---- */

int tidemark_cursor_fail(const struct tidemark_cursor *cursor, tidemark_error *error, int code, const char *format,
                         ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tidemark_fail(error, code, "%s/%s: offset %lld: %s", cursor->path, cursor->name, (long long)cursor->offset,
                         text);
}

int tidemark_cursor_open(struct tidemark_cursor *cursor, int64_t first_seqno, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    tidemark_segment_name((struct tidemark_segment){cursor->shard, first_seqno}, name);
    int fd = cursor->io->openat(cursor->directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0) {
        int code = errno == ENOENT ? TIDEMARK_ENOT_FOUND : TIDEMARK_EIO;
        return tidemark_fail(error, code, "%s/%s: cannot open it: %s", cursor->path, name, strerror(errno));
    }
    tidemark_cursor_close(cursor);
    memcpy(cursor->name, name, sizeof name);
    cursor->fd = fd;
    cursor->offset = 0;
    cursor->last_seqno = first_seqno - 1;
    return 0;
}

void tidemark_cursor_close(struct tidemark_cursor *cursor) {
    if (cursor->fd >= 0) (void)cursor->io->close(cursor->fd);
    cursor->fd = -1;
}

int tidemark_cursor_check(const struct tidemark_cursor *cursor, const tidemark_batch *batch, tidemark_error *error) {
    if (cursor->log_id != 0 && batch->log_id != cursor->log_id)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EFOREIGN,
                                    "a batch of log %08" PRIx32 ", this one is %08" PRIx32, batch->log_id,
                                    cursor->log_id);
    if (batch->shard != cursor->shard)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EFOREIGN, "a batch of shard %" PRIu32 ", not %" PRIu32,
                                    batch->shard, cursor->shard);
    if (batch->first_seqno - 1 != cursor->last_seqno)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                    "shard %" PRIu32 ": a batch from seqno %" PRId64 " comes after seqno %" PRId64,
                                    batch->shard, batch->first_seqno, cursor->last_seqno);
    if (cursor->epoch == 0) return 0;
    char text[TIDEMARK_EPOCH_TEXT], cursor_text[TIDEMARK_EPOCH_TEXT];
    (void)tidemark_epoch_text(cursor->epoch, cursor_text);
    if (batch->prev_epoch != cursor->epoch)
        return tidemark_cursor_fail(
            cursor, error, TIDEMARK_ECORRUPT,
            "shard %" PRIu32 ": seqno %" PRId64 " follows epoch %s, but the record before is of epoch %s", batch->shard,
            batch->first_seqno, tidemark_epoch_text(batch->prev_epoch, text), cursor_text);
    if (cursor->offset > 0 && batch->epoch != cursor->epoch)
        return tidemark_cursor_fail(
            cursor, error, TIDEMARK_ECORRUPT,
            "shard %" PRIu32 ": seqno %" PRId64 " is of epoch %s in a segment of epoch %s: a segment has one epoch",
            batch->shard, batch->first_seqno, tidemark_epoch_text(batch->epoch, text), cursor_text);
    return 0;
}

void tidemark_cursor_pass(struct tidemark_cursor *cursor, const tidemark_batch *batch) {
    cursor->offset += (off_t)batch->size;
    cursor->last_seqno = tidemark_batch_last_seqno(batch);
    cursor->epoch = batch->epoch;
    cursor->log_id = batch->log_id;
}

/* ---- scan ---- */

#define BLOCK 262144 /* bytes; stays in the second-level cache */

int tidemark_scan_begin(struct tidemark_scan *scan, tidemark_error *error) {
    scan->block = tidemark_malloc(BLOCK);
    scan->block_offset = 0;
    scan->start = scan->end = 0;
    if (scan->block == NULL)
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory to read it", scan->cursor.path);
    return 0;
}

void tidemark_scan_end(struct tidemark_scan *scan) {
    tidemark_free(scan->block);
    scan->block = NULL;
    tidemark_cursor_close(&scan->cursor);
}

/* Stands at `offset` of the file. */
static void seek(struct tidemark_scan *scan, off_t offset) {
    scan->block_offset = offset;
    scan->start = scan->end = 0;
}

int tidemark_scan_open(struct tidemark_scan *scan, int64_t first_seqno, tidemark_error *error) {
    int result = tidemark_cursor_open(&scan->cursor, first_seqno, error);
    if (result == 0) seek(scan, 0);
    return result;
}

/* Makes at least `need` bytes available (up to BLOCK), or as many as the file still has: how many there are. EIO. */
static int64_t fill(struct tidemark_scan *scan, size_t need, tidemark_error *error) {
    const struct tidemark_cursor *cursor = &scan->cursor;
    while (scan->end - scan->start < need) {
        memmove(scan->block, scan->block + scan->start, scan->end - scan->start);
        scan->block_offset += (off_t)scan->start;
        scan->end -= scan->start;
        scan->start = 0;
        ssize_t done = cursor->io->pread(cursor->fd, scan->block + scan->end, BLOCK - scan->end,
                                         scan->block_offset + (off_t)scan->end);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read it: %s", strerror(errno));
        if (done == 0) break;
        scan->end += (size_t)done;
    }
    return (int64_t)(scan->end - scan->start);
}

/* Of one byte or more. Each byte is compared with the next: memcmp takes many at a time. */
static bool all_zero(const unsigned char *bytes, size_t length) {
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Whether only zeros follow, to the end of the file: 1, 0. EIO. */
static int zeros_follow(struct tidemark_scan *scan, tidemark_error *error) {
    for (;;) {
        int64_t there = fill(scan, 1, error);
        if (there <= 0) return there < 0 ? (int)there : 1;
        if (!all_zero(scan->block + scan->start, (size_t)there)) return 0;
        scan->start = scan->end;
    }
}

/* Fails because the file ends, or because the CRC is wrong, in the batch at the cursor. */
static int fail_torn(const struct tidemark_scan *scan, const tidemark_batch *batch, const char *what,
                     tidemark_error *error) {
    (void)tidemark_cursor_fail(&scan->cursor, error, TIDEMARK_ECORRUPT, "the batch from seqno %" PRId64 " is %s",
                               batch->first_seqno, what);
    return TIDEMARK_SCAN_TORN;
}

/* Reads the payload after the header that has just been used. Returns 1 if it is whole; TORN; EIO, ECORRUPT. */
static int scan_payload(struct tidemark_scan *scan, tidemark_batch *batch, uint32_t wanted_crc, tidemark_error *error) {
    size_t left = batch->size - TIDEMARK_BATCH_HEADER, records_left = batch->count;
    size_t origin_left = tidemark_batch_origin_size(batch);
    const uint32_t records_size = (uint32_t)(left - origin_left - 4 * records_left);
    uint32_t crc = 0, last = 0;
    const char *wrong = NULL;
    bool ends_fine = true;
    while (left > 0) {
        size_t need = origin_left > 0 ? origin_left : records_left > 0 ? 4 : 1;
        int64_t there = fill(scan, need, error);
        if (there < 0) return (int)there;
        if ((size_t)there < need) return fail_torn(scan, batch, "cut off", error);
        const unsigned char *at = scan->block + scan->start;
        size_t length = (size_t)there;
        if (origin_left > 0) {
            wrong = tidemark_batch_read_origin(at, batch);
            length = origin_left;
            origin_left = 0;
        } else if (records_left > 0) {
            size_t count = length / 4 < records_left ? length / 4 : records_left;
            ends_fine &= tidemark_batch_check_ends(at, count, &last);
            records_left -= count;
            length = count * 4;
        } else if (length > left) {
            length = left;
        }
        crc = tidemark_crc32c(crc, at, length);
        scan->start += length;
        left -= length;
    }
    if (crc != wanted_crc) return fail_torn(scan, batch, "damaged or half written (CRC)", error);
    if (wrong == NULL && (!ends_fine || last != records_size)) wrong = "inconsistent record lengths";
    if (wrong == NULL) return TIDEMARK_SCAN_BATCH;
    return tidemark_cursor_fail(&scan->cursor, error, TIDEMARK_ECORRUPT, "the batch from seqno %" PRId64 ": %s",
                                batch->first_seqno, wrong);
}

int tidemark_scan_next(struct tidemark_scan *scan, tidemark_batch *batch, tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    tidemark_error why;
    if (scan->block_offset + (off_t)scan->start != cursor->offset) seek(scan, cursor->offset);
    int64_t there = fill(scan, TIDEMARK_BATCH_HEADER, error);
    if (there < 0) return (int)there;
    const unsigned char *header = scan->block + scan->start;
    if (there == 0 || header[0] == 0) {
        int zeros = zeros_follow(scan, error);
        if (zeros != 0) return zeros < 0 ? zeros : TIDEMARK_SCAN_END;
        (void)tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT, "zeros, and then other bytes");
        return TIDEMARK_SCAN_TORN;
    }
    int result = tidemark_batch_decode_header(header, (size_t)there, batch, &why);
    if (result < 0) {
        (void)tidemark_cursor_fail(cursor, error, result, "shard %" PRIu32 " after seqno %" PRId64 ": %s",
                                   cursor->shard, cursor->last_seqno, why.message);
        return result == TIDEMARK_ECORRUPT ? TIDEMARK_SCAN_TORN : result;
    }
    result = tidemark_cursor_check(cursor, batch, error);
    if (result < 0) return result;
    uint32_t crc = tidemark_batch_payload_crc(header);
    scan->start += TIDEMARK_BATCH_HEADER;
    result = scan_payload(scan, batch, crc, error);
    if (result == TIDEMARK_SCAN_BATCH) tidemark_cursor_pass(cursor, batch);
    return result;
}

/* Returns whether the header `batch`, found after the torn batch at the cursor, is evidence that the torn one had been
 * durable. A segment has one epoch: so the record before a later batch has that of the batch, and what was read of the
 * segment shows it, although heads that were restored from an older copy do not know it. */
static bool is_evidence(const struct tidemark_scan *scan, const tidemark_batch *batch) {
    const struct tidemark_cursor *cursor = &scan->cursor;
    bool is_epoch_here = cursor->offset > 0 ? batch->epoch == cursor->epoch : batch->epoch <= scan->last_epoch;
    return (cursor->log_id == 0 || batch->log_id == cursor->log_id) && batch->shard == cursor->shard && is_epoch_here &&
           batch->epoch >= scan->first_epoch && batch->prev_epoch == batch->epoch &&
           batch->durable_seqno > cursor->last_seqno;
}

/* Returns where a batch after the torn one at the cursor can begin. Where the torn one still has its header, that is
 * after its payload: a record may hold bytes that look like a later header. EIO. */
static off_t after_torn(struct tidemark_scan *scan, tidemark_error *error) {
    const struct tidemark_cursor *cursor = &scan->cursor;
    tidemark_batch batch;
    seek(scan, cursor->offset);
    int64_t there = fill(scan, TIDEMARK_BATCH_HEADER, error);
    if (there < 0) return there;
    bool has_header = tidemark_batch_decode_header(scan->block + scan->start, (size_t)there, &batch, NULL) == 0 &&
                      tidemark_cursor_check(cursor, &batch, NULL) == 0;
    return cursor->offset + (has_header ? (off_t)batch.size : 1);
}

/* Returns 1 if a later batch header claims that the torn batch at the cursor was durable, else 0. EIO; EUNSUPPORTED if
 * the batch after it is of another version. */
static int was_durable(struct tidemark_scan *scan, tidemark_error *error) {
    const struct tidemark_cursor *cursor = &scan->cursor;
    off_t from = after_torn(scan, error);
    if (from < 0) return (int)from;
    seek(scan, from);
    for (;;) {
        int64_t there = fill(scan, TIDEMARK_BATCH_HEADER, error);
        if (there < TIDEMARK_BATCH_HEADER) return there < 0 ? (int)there : 0;
        const unsigned char *at = scan->block + scan->start, *end = scan->block + scan->end;
        const unsigned char *candidate = memchr(at, 'T', (size_t)(end - at) - TIDEMARK_BATCH_HEADER + 1);
        if (candidate == NULL) {
            scan->start = scan->end - TIDEMARK_BATCH_HEADER + 1;
            continue;
        }
        tidemark_batch batch;
        tidemark_error why;
        off_t offset = scan->block_offset + (off_t)(candidate - scan->block);
        int result = tidemark_batch_decode_header(candidate, TIDEMARK_BATCH_HEADER, &batch, &why);
        if (result == 0 && is_evidence(scan, &batch)) return 1;
        /* in the place of a batch, and not in the payload of the torn one */
        if (result == TIDEMARK_EUNSUPPORTED && offset == from && from > cursor->offset + 1)
            return tidemark_fail(error, result, "%s/%s: offset %lld: %s", cursor->path, cursor->name, (long long)offset,
                                 why.message);
        scan->start = (size_t)(candidate - scan->block) + 1;
    }
}

/* Goes over all whole batches: the result of the first tidemark_scan_next that gives something else. */
static int pass_batches(struct tidemark_scan *scan, int64_t head, struct tidemark_tail *tail, tidemark_error *error) {
    tidemark_batch batch;
    for (;;) {
        off_t offset = scan->cursor.offset;
        int result = tidemark_scan_next(scan, &batch, error);
        if (result != TIDEMARK_SCAN_BATCH) return result;
        if (tail->above_head < 0 && tidemark_batch_last_seqno(&batch) > head) tail->above_head = offset;
        tail->batches++;
        tail->records += batch.count;
    }
}

int tidemark_scan_tail(struct tidemark_scan *scan, int64_t head, int64_t next_segment, struct tidemark_tail *tail,
                       tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    int result, durable = 0;
    off_t looked_at = -1;
    *tail = (struct tidemark_tail){.above_head = -1};
    for (;;) {
        result = pass_batches(scan, head, tail, error);
        if (result != TIDEMARK_SCAN_TORN || next_segment != 0 || cursor->offset == looked_at) break;
        tidemark_error why;
        durable = was_durable(scan, &why);
        if (durable < 0) return tidemark_fail(error, durable, "%s", why.message);
        if (!durable) break;
        looked_at =
            cursor->offset; /* beside a running writer: it may have become whole before the later one was read */
    }
    tail->end = cursor->offset;
    if (tail->above_head < 0) tail->above_head = tail->end;
    tail->torn = result == TIDEMARK_SCAN_TORN;
    if (result < 0) return result;
    /* if it is damage, the message about the torn batch is the one for the caller */
    if (next_segment != 0) {
        if (next_segment - 1 == cursor->last_seqno) return 0;
        if (tail->torn) return TIDEMARK_ECORRUPT;
        return tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                    "shard %" PRIu32 ": the segment ends at seqno %" PRId64
                                    ", the next one begins with %" PRId64,
                                    cursor->shard, cursor->last_seqno, next_segment);
    }
    if (tail->torn && (durable || cursor->last_seqno < head)) return TIDEMARK_ECORRUPT;
    if (cursor->last_seqno >= head) return 0;
    return tidemark_cursor_fail(cursor, error, TIDEMARK_ELOST,
                                "shard %" PRIu32 ": the log ends at seqno %" PRId64 ", but %" PRId64
                                " had been durable",
                                cursor->shard, cursor->last_seqno, head);
}
