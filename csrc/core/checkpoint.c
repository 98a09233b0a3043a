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
#include "bytes.h"
#include "error.h"

/* ---- writing ---- */

/* Small, and called for every few bytes: calls would be a tenth of the time. */
#define INLINE static inline __attribute__((always_inline))

static const char two_digits[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
    "49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
    "9899";

INLINE char *write_two(char *at, uint32_t value) {
    memcpy(at, two_digits + value * 2, 2);
    return at + 2;
}

INLINE char *write_four(char *at, uint32_t value) {
    return write_two(write_two(at, value / 100), value % 100);
}

INLINE char *write_eight(char *at, uint32_t value) {
    return write_four(write_four(at, value / 10000), value % 10000);
}

/* Up to four digits without leading zeros. */
INLINE char *write_short(char *at, uint32_t value) {
    if (value >= 1000) return write_four(at, value);
    if (value >= 100) {
        *at++ = (char)('0' + value / 100);
        return write_two(at, value % 100);
    }
    if (value >= 10) return write_two(at, value);
    *at++ = (char)('0' + value);
    return at;
}

/* Up to eight. */
INLINE char *write_medium(char *at, uint32_t value) {
    if (value < 10000) return write_short(at, value);
    return write_four(write_short(at, value / 10000), value % 10000);
}

#define EIGHT_DIGITS 100000000

INLINE char *write_integer(char *at, uint64_t value) {
    if (value < EIGHT_DIGITS) return write_medium(at, (uint32_t)value);
    uint64_t high = value / EIGHT_DIGITS;
    if (high < EIGHT_DIGITS) at = write_medium(at, (uint32_t)high);
    else at = write_eight(write_medium(at, (uint32_t)(high / EIGHT_DIGITS)), (uint32_t)(high % EIGHT_DIGITS));
    return write_eight(at, (uint32_t)(value % EIGHT_DIGITS));
}

/* With a comma after it. */
INLINE char *write_entry(char *at, uint32_t shard, struct tidemark_slot *slot) {
    *at++ = '"';
    at = write_medium(at, shard);
    *at++ = '"';
    *at++ = ':';
    at = write_integer(at, (uint64_t)tidemark_slot_read(slot));
    *at++ = ',';
    return at;
}

int64_t tidemark_state_to_checkpoint_bytes(const tidemark_state *state, char *bytes, size_t size) {
    if (size < TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(state))) return TIDEMARK_EINVAL;
    const char *end = bytes + size; /* `bytes` may have been NULL */
    char *at = bytes;
    *at++ = '{';
    if (state->present == NULL) {
        for (uint32_t i = 0; i < state->count; i++) at = write_entry(at, state->slots[i].shard, &state->slots[i]);
    } else {
        for (int shard = tidemark_state_next(state, -1); shard >= 0; shard = tidemark_state_next(state, shard)) {
            /* a file-backed state can gain shards under our hands: is there room for one more entry and '}'? */
            if ((size_t)(end - at) < TIDEMARK_CHECKPOINT_SIZE(1) - 1) return TIDEMARK_EINVAL;
            at = write_entry(at, (uint32_t)shard, &state->slots[shard]);
        }
    }
    if (at[-1] == ',') at--;
    *at++ = '}';
    return at - bytes;
}

/* ---- reading ---- */

struct text {
    const char *start, *end;
    tidemark_error *error;
};

/* The functions below take the position and return the one after what they have read; or NULL after a message. */

__attribute__((cold)) static const char *corrupt(const struct text *text, const char *at, const char *what) {
    (void)tidemark_fail(text->error, TIDEMARK_ECORRUPT, "checkpoint bytes: byte %zu: %s%s", (size_t)(at - text->start),
                        at == text->end ? "the text ends here: " : "", what);
    return NULL;
}

static const char *skip_space(const struct text *text, const char *at) {
    while (at < text->end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) at++;
    return at;
}

static bool is_at(const struct text *text, const char *at, char wanted) {
    return at < text->end && *at == wanted;
}

/* What is left of the text, fewer than eight bytes, and zeros. */
__attribute__((cold)) static uint64_t word_at_end(const struct text *text, const char *at) {
    unsigned char bytes[8] = {0};
    memcpy(bytes, at, (size_t)(text->end - at));
    return tidemark_get64(bytes);
}

/* How many of the next eight bytes are digits before the first that is none, and the number that they are. Looks at all
 * eight in one word, the first in its lowest byte. */
static inline unsigned read_digits(const struct text *text, const char *at, uint64_t *value) {
    uint64_t word = text->end - at >= 8 ? tidemark_get64((const unsigned char *)at) : word_at_end(text, at);
    word ^= UINT64_C(0x3030303030303030); /* a digit is now its value: 0..9 */
    uint64_t others = (word | (word + UINT64_C(0x7676767676767676))) & UINT64_C(0x8080808080808080);
    /* the carry of a byte that is no digit spoils only bytes after it */
    unsigned count = others == 0 ? 8 : (unsigned)__builtin_ctzll(others) / 8;
    *value = 0;
    if (count == 0) return 0;
    word <<= 64 - 8 * count; /* zeros in front */
    /* pairs, then fours, then eight: the earlier part is in the lower bits and counts more */
    word = (word * 10 + (word >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
    word = (word * 100 + (word >> 16)) & UINT64_C(0x0000FFFF0000FFFF);
    *value = (word * 10000 + (word >> 32)) & UINT64_C(0xFFFFFFFF);
    return count;
}

/* One JSON integer from 0 to `most`. A digit after a leading 0 is left for the caller, who expects something else
 * there. */
INLINE const char *read_integer(const struct text *text, const char *at, uint64_t most, const char *missing,
                                const char *too_large, uint64_t *value) {
    static const uint64_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    const char *first = at;
    uint64_t sum, part;
    unsigned count = read_digits(text, at, &sum);
    if (count == 0) return corrupt(text, first, missing);
    if (*first == '0') {
        *value = 0;
        return first + 1;
    }
    at += count;
    while (count == 8 && at - first <= 19) { /* 19 digits fit */
        count = read_digits(text, at, &part);
        sum = sum * powers[count] + part;
        at += count;
    }
    if (sum > most || at - first > 19) return corrupt(text, first, too_large);
    *value = sum;
    return at;
}

static const char *read_entry(const struct text *text, const char *at, tidemark_mark *mark) {
    uint64_t shard = 0, seqno = 0;
    if (!is_at(text, at, '"')) return corrupt(text, at, "expected '\"' and a shard id");
    at = read_integer(text, at + 1, TIDEMARK_SHARD_MAX, "expected a shard id in plain digits", "shard id over 65535",
                      &shard);
    if (at == NULL) return NULL;
    if (!is_at(text, at, '"')) return corrupt(text, at, "expected '\"' after the shard id");
    at = skip_space(text, at + 1);
    if (!is_at(text, at, ':')) return corrupt(text, at, "expected ':'");
    at = read_integer(text, skip_space(text, at + 1), TIDEMARK_SEQNO_MAX, "expected a mark, an integer without sign",
                      "mark over 9223372036854775807", &seqno);
    mark->shard = (uint32_t)shard;
    mark->seqno = (int64_t)seqno;
    return at;
}

/* Reads the whole text. With `seen` NULL keys must ascend; where they do not, `*ascending` is made false and there is
 * no message. */
static const char *read_object(const struct text *text, tidemark_mark *marks, size_t *count, uint64_t *seen,
                               bool *ascending) {
    int64_t highest = -1;
    const char *at = skip_space(text, text->start);
    if (!is_at(text, at, '{')) return corrupt(text, at, "expected '{'");
    at = skip_space(text, at + 1);
    size_t found = 0;
    for (bool more = !is_at(text, at, '}'); more;) {
        const char *key = at;
        tidemark_mark mark;
        at = read_entry(text, at, &mark);
        if (at == NULL) return NULL;
        if (seen != NULL) {
            uint64_t bit = (uint64_t)1 << mark.shard % 64;
            if (seen[mark.shard / 64] & bit) return corrupt(text, key, "shard id given twice");
            seen[mark.shard / 64] |= bit;
        } else {
            *ascending = mark.shard > highest;
            if (!*ascending) return NULL;
            highest = mark.shard;
        }
        marks[found++] = mark;
        at = skip_space(text, at);
        more = is_at(text, at, ',');
        if (more) at = skip_space(text, at + 1);
        else if (!is_at(text, at, '}')) return corrupt(text, at, "expected ',' or '}'");
    }
    at = skip_space(text, at + 1);
    if (at != text->end) return corrupt(text, at, "bytes after the object");
    *count = found;
    return at;
}

/* More entries than a text of that length can hold: one is at least `"0":0,`. */
static size_t most_entries(size_t length) {
    size_t most = length / 6 + 1;
    return most < TIDEMARK_SHARDS ? most : TIDEMARK_SHARDS;
}

int tidemark_checkpoint_decode(const char *bytes, size_t length, tidemark_mark **marks, size_t *count,
                               tidemark_error *error) {
    const struct text text = {bytes, bytes + length, error};
    if (length > TIDEMARK_CHECKPOINT_MAX) {
        (void)corrupt(&text, bytes + TIDEMARK_CHECKPOINT_MAX, "longer than 4 MiB");
        return TIDEMARK_ECORRUPT;
    }
    tidemark_mark *read = tidemark_malloc(most_entries(length) * sizeof *read);
    if (read == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory to read %zu checkpoint bytes", length);
    bool ascending = true;
    const char *end = read_object(&text, read, count, NULL, &ascending);
    if (!ascending) {
        uint64_t seen[TIDEMARK_SHARDS / 64];
        memset(seen, 0, sizeof seen);
        end = read_object(&text, read, count, seen, &ascending);
    }
    if (end != NULL) *marks = read;
    else tidemark_free(read);
    return end != NULL ? 0 : TIDEMARK_ECORRUPT;
}

int tidemark_state_from_checkpoint_bytes(const char *bytes, size_t length, const uint32_t *shards, size_t count,
                                         tidemark_state **state, tidemark_error *error) {
    tidemark_mark *marks;
    size_t read;
    int result = tidemark_checkpoint_decode(bytes, length, &marks, &read, error);
    if (result < 0) return result;
    result = tidemark_state_new(shards, count, state, error);
    if (result == 0) {
        for (size_t i = 0; i < read; i++) {
            struct tidemark_slot *slot = tidemark_state_slot(*state, marks[i].shard);
            if (slot != NULL) atomic_init(&slot->mark, marks[i].seqno); /* nobody else has it yet */
        }
    }
    tidemark_free(marks);
    return result;
}
