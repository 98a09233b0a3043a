/* Batches against bytes written out by hand, at their limits, and with every kind of lie in them. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>

#include "../../csrc/core/batch.h"
#include "../../csrc/core/crc32c.h"
#include "../../csrc/core/io.h"
#include "check.h"

static tidemark_error failure;

/* Three records, "ab", "" and NUL 'c', of shard 0x1234; the CRCs were computed by another program. */
static const unsigned char by_hand[] = {
    'T',  'M',  'W',  'B',  2,    0,    0x34, 0x12, /* magic, version, flags, shard */
    3,    0,    0,    0,    16,   0,    0,    0,    /* records, payload length */
    7,    0,    0,    0,    6,    0,    0,    0,    /* epoch, the one before */
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* first seqno */
    0x07, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* durable seqno */
    0x00, 0x68, 0xE5, 0xCF, 0x8B, 0x01, 0x00, 0x00, /* 1,700,000,000,000 ms */
    0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01, /* log id */
    0x68, 0x75, 0x64, 0x5A, 0x27, 0x60, 0x95, 0x72, /* CRCs of payload and header */
    2,    0,    0,    0,    2,    0,    0,    0,    /* ends */
    4,    0,    0,    0,    'a',  'b',  0,    'c',
};

static const tidemark_record hand_records[] = {{"ab", 2}, {NULL, 0}, {"\0c", 2}};

static tidemark_batch hand_batch(void) {
    return (tidemark_batch){.shard = 0x1234,
                            .count = 3,
                            .epoch = 7,
                            .prev_epoch = 6,
                            .first_seqno = 0x0102030405060708,
                            .durable_seqno = 0x0102030405060707,
                            .timestamp = 1700000000000,
                            .log_id = 0x0123456789ABCDEF};
}

static bool same(const tidemark_batch *a, const tidemark_batch *b) {
    return a->shard == b->shard && a->count == b->count && a->epoch == b->epoch && a->prev_epoch == b->prev_epoch &&
           a->first_seqno == b->first_seqno && a->durable_seqno == b->durable_seqno && a->timestamp == b->timestamp &&
           a->log_id == b->log_id && a->size == b->size;
}

/* Gives bytes that were changed their CRCs again. */
static void seal(unsigned char *bytes, size_t size) {
    tidemark_put32(bytes + 56, tidemark_crc32c(0, bytes + 64, size - 64));
    tidemark_put32(bytes + 60, tidemark_crc32c(0, bytes, 60));
}

static void bytes_by_hand(void) {
    unsigned char bytes[sizeof by_hand];
    tidemark_batch batch = hand_batch(), found;
    CHECK_INT(tidemark_batch_size(hand_records, 3), sizeof by_hand);
    CHECK_INT(tidemark_batch_encode(&batch, hand_records, bytes, &failure), 0);
    CHECK_INT(batch.size, sizeof by_hand);
    CHECK(memcmp(bytes, by_hand, sizeof by_hand) == 0);
    CHECK_INT(tidemark_batch_decode(by_hand, sizeof by_hand, &found, &failure), 0);
    CHECK(same(&found, &batch));
    for (uint32_t i = 0; i < 3; i++) {
        tidemark_record record = tidemark_batch_record(by_hand, &found, i);
        CHECK_INT(record.length, hand_records[i].length);
        CHECK(record.length == 0 || memcmp(record.bytes, hand_records[i].bytes, record.length) == 0);
    }
}

static void every_bit(void) {
    tidemark_batch found;
    for (size_t bit = 0; bit < 8 * sizeof by_hand; bit++) {
        unsigned char bytes[sizeof by_hand];
        memcpy(bytes, by_hand, sizeof bytes);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
        CHECK_INT(tidemark_batch_decode_header(bytes, sizeof bytes, &found, &failure),
                  bit < 8 * TIDEMARK_BATCH_HEADER ? TIDEMARK_ECORRUPT : 0);
    }
}

/* In blocks of exactly that size, so that a sanitizer sees a step behind the end. */
static void every_length(void) {
    tidemark_batch found;
    for (size_t size = 0; size < sizeof by_hand; size++) {
        unsigned char *bytes = malloc(size + (size == 0));
        memcpy(bytes, by_hand, size);
        CHECK_INT(tidemark_batch_decode(bytes, size, &found, &failure), TIDEMARK_ECORRUPT);
        free(bytes);
    }
    unsigned char longer[sizeof by_hand + 1] = {0};
    memcpy(longer, by_hand, sizeof by_hand);
    CHECK_INT(tidemark_batch_decode(longer, sizeof longer, &found, &failure), TIDEMARK_ECORRUPT);
}

/* Encodes and decodes `count` records. */
static void round_trip(tidemark_batch batch, const tidemark_record *records) {
    tidemark_batch found;
    int64_t size = tidemark_batch_size(records, batch.count);
    bool same_records = true;
    unsigned char *bytes = malloc((size_t)size);
    CHECK(size > 0 && bytes != NULL);
    CHECK_INT(tidemark_batch_encode(&batch, records, bytes, &failure), 0);
    CHECK_INT(tidemark_batch_decode(bytes, (size_t)size, &found, &failure), 0);
    CHECK(same(&found, &batch));
    for (uint32_t i = 0; i < batch.count; i++) {
        tidemark_record record = tidemark_batch_record(bytes, &found, i);
        same_records &= record.length == records[i].length &&
                        (record.length == 0 || memcmp(record.bytes, records[i].bytes, record.length) == 0);
    }
    CHECK(same_records);
    free(bytes);
}

static void records_of_all_sizes(void) {
    enum { LONG = 16 << 20, MANY = 100000 };
    tidemark_batch batch = hand_batch();
    char *bytes = calloc(1, LONG);
    tidemark_record *records = malloc(MANY * sizeof *records);
    batch.count = 1;
    round_trip(batch, &(tidemark_record){"", 0});
    round_trip(batch, &(tidemark_record){bytes, 1000}); /* NULs */
    round_trip(batch, &(tidemark_record){bytes, LONG});
    for (size_t i = 0; i < LONG; i++) bytes[i] = (char)(i * 7 + i / 251);
    round_trip(batch, &(tidemark_record){bytes, LONG});
    for (size_t i = 0; i < MANY; i++) records[i] = (tidemark_record){bytes + i, i % 7};
    batch.count = MANY;
    round_trip(batch, records);
    free(records);
    free(bytes);
}

static void the_longest_batch(void) {
    size_t most = TIDEMARK_BATCH_MAX - TIDEMARK_BATCH_HEADER - 4;
    char *bytes = calloc(1, most + 1);
    tidemark_batch batch = hand_batch();
    batch.count = 1;
    CHECK_INT(tidemark_batch_size(&(tidemark_record){bytes, most}, 1), TIDEMARK_BATCH_MAX);
    round_trip(batch, &(tidemark_record){bytes, most});
    tidemark_record longer[] = {{bytes, most + 1}, {bytes, 1}};
    CHECK_INT(tidemark_batch_size(longer, 1), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_encode(&batch, longer, bytes, &failure), TIDEMARK_EINVAL);
    longer[0].length = most;
    CHECK_INT(tidemark_batch_size(longer, 2), TIDEMARK_EINVAL);
    longer[0].length = SIZE_MAX;
    CHECK_INT(tidemark_batch_size(longer, 2), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(longer, 0), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(NULL, SIZE_MAX), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(NULL, (TIDEMARK_BATCH_MAX - TIDEMARK_BATCH_HEADER) / 4 + 1), TIDEMARK_EINVAL);
    free(bytes);
}

/* A field that must be accepted, or refused and then nothing written, by encoding and by decoding. */
static void field(tidemark_batch batch, size_t offset, size_t width, uint64_t value, bool fine) {
    unsigned char bytes[sizeof by_hand], untouched[sizeof by_hand];
    tidemark_batch found;
    memset(bytes, 0xEE, sizeof bytes);
    memcpy(untouched, bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_encode(&batch, hand_records, bytes, &failure), fine ? 0 : TIDEMARK_EINVAL);
    if (!fine) {
        CHECK(memcmp(bytes, untouched, sizeof bytes) == 0);
        memcpy(bytes, by_hand, sizeof bytes);
        for (size_t i = 0; i < width; i++) bytes[offset + i] = (unsigned char)(value >> 8 * i);
        seal(bytes, sizeof bytes);
    }
    CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), fine ? 0 : TIDEMARK_ECORRUPT);
    if (fine) {
        CHECK(same(&found, &batch));
        CHECK_INT(tidemark_batch_last_seqno(&found), batch.first_seqno + 2);
    }
}

#define FIELD(name, offset, width, value, fine) \
    do { \
        tidemark_batch changed = hand_batch(); \
        changed.name = (value); \
        field(changed, offset, width, (uint64_t)(value), fine); \
    } while (0)

static void fields_at_their_limits(void) {
    FIELD(shard, 6, 2, 0, true);
    FIELD(shard, 6, 2, 65535, true);
    FIELD(epoch, 16, 4, UINT32_MAX, true);
    FIELD(epoch, 16, 4, 0, false);
    FIELD(epoch, 16, 4, 5, false);      /* less than the one before */
    FIELD(prev_epoch, 20, 4, 0, false); /* only before record 1 */
    FIELD(prev_epoch, 20, 4, 7, true);
    FIELD(first_seqno, 24, 8, INT64_MAX - 2, true);
    FIELD(first_seqno, 24, 8, INT64_MAX - 1, false); /* the last of three would be above 2^63-1 */
    FIELD(first_seqno, 24, 8, INT64_MAX, false);
    FIELD(first_seqno, 24, 8, INT64_MIN, false);
    FIELD(first_seqno, 24, 8, -1, false);
    FIELD(first_seqno, 24, 8, 0, false);
    FIELD(durable_seqno, 32, 8, 0, true);
    FIELD(durable_seqno, 32, 8, -1, false);
    FIELD(durable_seqno, 32, 8, 0x0102030405060708, false); /* not less than the first */
    FIELD(timestamp, 40, 8, 0, true);
    FIELD(timestamp, 40, 8, INT64_MAX, true);
    FIELD(timestamp, 40, 8, (uint64_t)INT64_MAX + 1, false);
    FIELD(log_id, 48, 8, UINT64_MAX, true);
    FIELD(log_id, 48, 8, 0, false);
    tidemark_batch changed = hand_batch(), found;
    changed.shard = 65536;
    unsigned char bytes[sizeof by_hand];
    CHECK_INT(tidemark_batch_encode(&changed, hand_records, bytes, &failure), TIDEMARK_EINVAL);
    /* one record, the last that there can be */
    changed = hand_batch();
    changed.count = 1;
    changed.epoch = changed.prev_epoch = UINT32_MAX;
    changed.first_seqno = INT64_MAX;
    changed.durable_seqno = INT64_MAX - 1;
    round_trip(changed, hand_records);
    CHECK_INT(tidemark_batch_last_seqno(&changed), INT64_MAX);
    changed = hand_batch(); /* record 1 */
    changed.prev_epoch = 0;
    changed.first_seqno = 1;
    changed.durable_seqno = 0;
    round_trip(changed, hand_records);
    changed.prev_epoch = 1;
    CHECK_INT(tidemark_batch_encode(&changed, hand_records, bytes, &failure), TIDEMARK_EINVAL);
    memcpy(bytes, by_hand, sizeof bytes);
    bytes[4] = 3;
    seal(bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_EUNSUPPORTED);
    bytes[4] = 1;
    seal(bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
    bytes[4] = 2;
    bytes[5] = 1;
    seal(bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
}

/* Counts, lengths and ends that lie under CRCs that are right. */
static void lies(void) {
    static const struct {
        size_t offset;
        uint32_t value;
        bool header; /* can be seen from the header alone */
    } lie[] = {
        {8, 0, true},
        {8, 5, true},
        {8, 4, false},
        {8, 2, false},
        {8, UINT32_MAX, true},
        {8, 0x40000001, true},
        {12, 15, false},
        {12, 17, false},
        {12, 11, true},
        {12, 0, true},
        {12, UINT32_MAX, true},
        {12, TIDEMARK_BATCH_MAX - TIDEMARK_BATCH_HEADER + 1, true},
        {12, 67108800, false},
        {64, 3, false},
        {64, UINT32_MAX, false},
        {68, UINT32_MAX, false},
        {68, 1, false},
        {72, 3, false},
        {72, 5, false},
        {72, 0, false},
        {72, UINT32_MAX, false},
    };
    for (size_t i = 0; i < sizeof lie / sizeof *lie; i++) {
        unsigned char bytes[sizeof by_hand];
        tidemark_batch found;
        memcpy(bytes, by_hand, sizeof bytes);
        tidemark_put32(bytes + lie[i].offset, lie[i].value);
        seal(bytes, sizeof bytes);
        CHECK_INT(tidemark_batch_decode_header(bytes, sizeof bytes, &found, &failure),
                  lie[i].header ? TIDEMARK_ECORRUPT : 0);
        CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
    }
}

int main(void) {
    RUN(bytes_by_hand);
    RUN(every_bit);
    RUN(every_length);
    RUN(records_of_all_sizes);
    RUN(the_longest_batch);
    RUN(fields_at_their_limits);
    RUN(lies);
    return FINISH();
}
