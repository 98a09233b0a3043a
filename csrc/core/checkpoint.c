/*
 * Checkpoint bytes: {"0":42,"1":7}, a JSON object of shard id to mark. docs/formats.md says what is written and what is
 * read.
 *
 * The decoder works in proportion to its input. Keys mostly come in ascending order, and then a key that comes twice is
 * seen by comparing it with the one before. At the first key that is out of order it starts again with a bitmap of the
 * ids seen, so that the usual short text does not pay for clearing the bitmap.
 */
#include "checkpoint.h"

#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "error.h"

/* ---- writing ---- */

static const char two_digits[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
    "49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
    "9899";

static char *write_integer(char *at, uint64_t value) {
    char digits[20], *first = digits + sizeof digits;
    while (value >= 100) {
        first -= 2;
        memcpy(first, two_digits + value % 100 * 2, 2);
        value /= 100;
    }
    if (value >= 10) {
        first -= 2;
        memcpy(first, two_digits + value * 2, 2);
    } else {
        *--first = (char)('0' + value);
    }
    size_t length = (size_t)(digits + sizeof digits - first);
    memcpy(at, first, length);
    return at + length;
}

int64_t tidemark_state_to_checkpoint_bytes(const tidemark_state *state, char *bytes, size_t size) {
    if (size < TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(state))) return TIDEMARK_EINVAL;
    const char *end = bytes + size; /* `bytes` may have been NULL */
    char *at = bytes;
    *at++ = '{';
    for (int shard = tidemark_state_next(state, -1); shard >= 0; shard = tidemark_state_next(state, shard)) {
        /* a file-backed state can gain shards under our hands: is there room for one more entry and '}'? */
        if ((size_t)(end - at) < TIDEMARK_CHECKPOINT_SIZE(1) - 1) return TIDEMARK_EINVAL;
        *at++ = '"';
        at = write_integer(at, (uint64_t)shard);
        *at++ = '"';
        *at++ = ':';
        at = write_integer(at, (uint64_t)tidemark_slot_read(tidemark_state_slot(state, (uint32_t)shard)));
        *at++ = ',';
    }
    if (at[-1] == ',') at--;
    *at++ = '}';
    return at - bytes;
}

/* ---- reading ---- */

struct reader {
    const char *start, *at, *end;
    tidemark_error *error;
};

static int corrupt(const struct reader *reader, const char *where, const char *what) {
    return tidemark_fail(reader->error, TIDEMARK_ECORRUPT, "checkpoint bytes: byte %zu: %s%s",
                         (size_t)(where - reader->start), where == reader->end ? "the text ends here: " : "", what);
}

static void skip_space(struct reader *reader) {
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\n' || *reader->at == '\t' || *reader->at == '\r'))
        reader->at++;
}

static bool take(struct reader *reader, char wanted) {
    if (reader->at == reader->end || *reader->at != wanted) return false;
    reader->at++;
    return true;
}

/* One JSON integer from 0 to `most`. A digit after a leading 0 is left for the caller, who expects something else
 * there. */
static int read_integer(struct reader *reader, uint64_t most, const char *missing, const char *too_large,
                        uint64_t *value) {
    const char *first = reader->at;
    uint64_t sum = 0;
    for (; reader->at < reader->end; reader->at++) {
        uint64_t digit = (uint64_t)(unsigned char)*reader->at - '0';
        if (digit > 9 || (sum == 0 && reader->at > first)) break;
        if (sum > (most - digit) / 10) return corrupt(reader, first, too_large);
        sum = sum * 10 + digit;
    }
    if (reader->at == first) return corrupt(reader, first, missing);
    *value = sum;
    return 0;
}

static int read_entry(struct reader *reader, tidemark_mark *mark) {
    uint64_t shard = 0, seqno = 0;
    int result;
    if (!take(reader, '"')) return corrupt(reader, reader->at, "expected '\"' and a shard id");
    result =
        read_integer(reader, TIDEMARK_SHARD_MAX, "expected a shard id in plain digits", "shard id over 65535", &shard);
    if (result < 0) return result;
    if (!take(reader, '"')) return corrupt(reader, reader->at, "expected '\"' after the shard id");
    skip_space(reader);
    if (!take(reader, ':')) return corrupt(reader, reader->at, "expected ':'");
    skip_space(reader);
    result = read_integer(reader, TIDEMARK_SEQNO_MAX, "expected a mark, an integer without sign",
                          "mark over 9223372036854775807", &seqno);
    mark->shard = (uint32_t)shard;
    mark->seqno = (int64_t)seqno;
    return result;
}

#define OUT_OF_ORDER 1

/* Reads the whole text. With `seen` NULL keys must ascend, or the answer is OUT_OF_ORDER. */
static int read_object(struct reader *reader, tidemark_mark *marks, size_t *count, uint64_t *seen) {
    int64_t highest = -1;
    *count = 0;
    skip_space(reader);
    if (!take(reader, '{')) return corrupt(reader, reader->at, "expected '{'");
    skip_space(reader);
    if (!take(reader, '}')) {
        for (;;) {
            const char *key = reader->at;
            tidemark_mark mark;
            int result = read_entry(reader, &mark);
            if (result < 0) return result;
            if (seen != NULL) {
                uint64_t bit = (uint64_t)1 << mark.shard % 64;
                if (seen[mark.shard / 64] & bit) return corrupt(reader, key, "shard id given twice");
                seen[mark.shard / 64] |= bit;
            } else {
                if (mark.shard <= highest) return OUT_OF_ORDER;
                highest = mark.shard;
            }
            marks[(*count)++] = mark;
            skip_space(reader);
            if (take(reader, '}')) break;
            if (!take(reader, ',')) return corrupt(reader, reader->at, "expected ',' or '}'");
            skip_space(reader);
        }
    }
    skip_space(reader);
    if (reader->at != reader->end) return corrupt(reader, reader->at, "bytes after the object");
    return 0;
}

/* More entries than a text of that length can hold: one is at least `"0":0,`. */
static size_t most_entries(size_t length) {
    size_t most = length / 6 + 1;
    return most < TIDEMARK_SHARDS ? most : TIDEMARK_SHARDS;
}

int tidemark_checkpoint_decode(const char *bytes, size_t length, tidemark_mark **marks, size_t *count,
                               tidemark_error *error) {
    struct reader reader = {bytes, bytes, bytes + length, error};
    if (length > TIDEMARK_CHECKPOINT_MAX) return corrupt(&reader, bytes + TIDEMARK_CHECKPOINT_MAX, "longer than 4 MiB");
    tidemark_mark *read = tidemark_malloc(most_entries(length) * sizeof *read);
    if (read == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory to read %zu checkpoint bytes", length);
    int result = read_object(&reader, read, count, NULL);
    if (result == OUT_OF_ORDER) {
        uint64_t seen[TIDEMARK_SHARDS / 64];
        memset(seen, 0, sizeof seen);
        reader.at = reader.start;
        result = read_object(&reader, read, count, seen);
    }
    if (result == 0) *marks = read;
    else tidemark_free(read);
    return result;
}

int tidemark_state_from_checkpoint_bytes(const char *bytes, size_t length, const uint32_t *shards, size_t count,
                                         tidemark_state **state, tidemark_error *error) {
    tidemark_mark *marks;
    size_t read;
    int result = tidemark_checkpoint_decode(bytes, length, &marks, &read, error);
    if (result < 0) return result;
    result = tidemark_state_new(shards, count, state, error);
    if (result == 0) {
        for (size_t i = 0; i < read; i++) (void)tidemark_state_advance(*state, marks[i].shard, marks[i].seqno);
    }
    tidemark_free(marks);
    return result;
}
