/* Batches against bytes written out by hand, at their limits, and with every kind of lie in them. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>

#include "../../csrc/core/batch.h"
#include "../../csrc/core/bytes.h"
#include "../../csrc/core/crc32c.h"
#include "check.h"

static tidemark_error failure;

/* Three records, "ab", "" and NUL 'c', of shard 0x1234, without an origin and with one; the CRCs were computed by
 * another program. */
#define HEADER_BY_HAND(flags, payload) \
    'T', 'M', 'W', 'B', 3, flags, 0x34, 0x12,           /* magic, version, flags, shard */ \
        3, 0, 0, 0, payload, 0, 0, 0,                   /* records, payload length */ \
        7, 0, 0, 0, 0, 0, 0, 0x70,                      /* epoch */ \
        6, 0, 0, 0, 0, 0, 0, 0,                         /* the one before */ \
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* first seqno */ \
        0x00, 0x68, 0xE5, 0xCF, 0x8B, 0x01, 0x00, 0x00, /* 1,700,000,000,000 ms */ \
        0xEF, 0xCD, 0xAB, 0x89, 0x11, 0, 0, 0           /* log id, undurable */
#define RECORDS_BY_HAND \
    2, 0, 0, 0, 2, 0, 0, 0, /* ends */ \
        4, 0, 0, 0, 'a', 'b', 0, 'c'

static const unsigned char by_hand[] = {
    HEADER_BY_HAND(0, 16), 0x68, 0x75, 0x64, 0x5A, 0x7F, 0xD8, 0xB3, 0x5E, /* CRCs of payload and header */
    RECORDS_BY_HAND,
};
static const unsigned char origin_by_hand[] = {
    HEADER_BY_HAND(1, 40),
    0x7B,
    0xDC,
    0xE6,
    0x4C,
    0xD9,
    0xDC,
    0x2E,
    0xBF,
    0x01,
    0x00,
    0xFE,
    0xCA,
    0,
    0,
    0,
    0, /* log id, zeros */
    5,
    0,
    0,
    0,
    0,
    0,
    0,
    0, /* epoch */
    0x11,
    0,
    0,
    0,
    0,
    0,
    0,
    0, /* first seqno */
    RECORDS_BY_HAND,
};

static const tidemark_record hand_records[] = {{"ab", 2}, {NULL, 0}, {"\0c", 2}};

static tidemark_batch hand_batch(void) {
    return (tidemark_batch){.shard = 0x1234,
                            .count = 3,
                            .epoch = 0x7000000000000007,
                            .prev_epoch = 6,
                            .first_seqno = 0x0102030405060708,
                            .durable_seqno = 0x0102030405060708 - 0x12,
                            .written_ms = 1700000000000,
                            .log_id = 0x89ABCDEF};
}

static tidemark_batch origin_batch(void) {
    tidemark_batch batch = hand_batch();
    batch.has_origin = 1;
    batch.origin = (tidemark_origin){.log_id = 0xCAFE0001, .epoch = 5, .first_seqno = 0x11};
    return batch;
}

static bool same(const tidemark_batch *a, const tidemark_batch *b) {
    return a->shard == b->shard && a->count == b->count && a->epoch == b->epoch && a->prev_epoch == b->prev_epoch &&
           a->first_seqno == b->first_seqno && a->durable_seqno == b->durable_seqno && a->written_ms == b->written_ms &&
           a->log_id == b->log_id && a->has_origin == b->has_origin && a->origin.log_id == b->origin.log_id &&
           a->origin.epoch == b->origin.epoch && a->origin.first_seqno == b->origin.first_seqno && a->size == b->size;
}

/* Gives bytes that were changed their CRCs again. */
static void seal(unsigned char *bytes, size_t size) {
    tidemark_put32(bytes + 56, tidemark_crc32c(0, bytes + 64, size - 64));
    tidemark_put32(bytes + 60, tidemark_crc32c(0, bytes, 60));
}

static void encode_by_hand(tidemark_batch batch, const unsigned char *expected, size_t size) {
    unsigned char bytes[sizeof origin_by_hand];
    tidemark_batch found;
    CHECK_INT(tidemark_batch_size(hand_records, 3, batch.has_origin), size);
    CHECK_INT(tidemark_batch_encode(&batch, hand_records, bytes, &failure), 0);
    CHECK_INT(batch.size, size);
    CHECK(memcmp(bytes, expected, size) == 0);
    CHECK_INT(tidemark_batch_decode(expected, size, &found, &failure), 0);
    CHECK(same(&found, &batch));
    for (uint32_t i = 0; i < 3; i++) {
        tidemark_record record = tidemark_batch_record(expected, &found, i);
        CHECK_INT(record.length, hand_records[i].length);
        CHECK(record.length == 0 || memcmp(record.bytes, hand_records[i].bytes, record.length) == 0);
    }
    CHECK_INT(tidemark_batch_decode_header(expected, TIDEMARK_BATCH_HEADER, &found, &failure), 0);
    CHECK_INT(found.has_origin, batch.has_origin);
    CHECK_INT(found.origin.log_id, 0); /* it is in the payload */
}

static void bytes_by_hand(void) {
    encode_by_hand(hand_batch(), by_hand, sizeof by_hand);
    encode_by_hand(origin_batch(), origin_by_hand, sizeof origin_by_hand);
}

static void flip_every_bit(const unsigned char *given, size_t size) {
    tidemark_batch found;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        unsigned char bytes[sizeof origin_by_hand];
        memcpy(bytes, given, size);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        CHECK_INT(tidemark_batch_decode(bytes, size, &found, &failure), TIDEMARK_ECORRUPT);
        CHECK_INT(tidemark_batch_decode_header(bytes, size, &found, &failure),
                  bit < 8 * TIDEMARK_BATCH_HEADER ? TIDEMARK_ECORRUPT : 0);
    }
}

static void every_bit(void) {
    flip_every_bit(by_hand, sizeof by_hand);
    flip_every_bit(origin_by_hand, sizeof origin_by_hand);
}

/* In blocks of exactly that size, so that a sanitizer sees a step beyond the end. */
static void cut_at_every_length(const unsigned char *given, size_t whole) {
    tidemark_batch found;
    for (size_t size = 0; size < whole; size++) {
        unsigned char *bytes = malloc(size + (size == 0));
        memcpy(bytes, given, size);
        CHECK_INT(tidemark_batch_decode(bytes, size, &found, &failure), TIDEMARK_ECORRUPT);
        free(bytes);
    }
    unsigned char longer[sizeof origin_by_hand + 1] = {0};
    memcpy(longer, given, whole);
    CHECK_INT(tidemark_batch_decode(longer, whole + 1, &found, &failure), TIDEMARK_ECORRUPT);
}

static void every_length(void) {
    cut_at_every_length(by_hand, sizeof by_hand);
    cut_at_every_length(origin_by_hand, sizeof origin_by_hand);
}

/* Encodes and decodes `count` records. */
static void round_trip(tidemark_batch batch, const tidemark_record *records) {
    tidemark_batch found;
    int64_t size = tidemark_batch_size(records, batch.count, batch.has_origin);
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
    CHECK_INT(tidemark_batch_size(&(tidemark_record){bytes, most}, 1, 0), TIDEMARK_BATCH_MAX);
    round_trip(batch, &(tidemark_record){bytes, most});
    tidemark_batch with_origin = origin_batch();
    with_origin.count = 1;
    CHECK_INT(tidemark_batch_size(&(tidemark_record){bytes, most}, 1, 1), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(&(tidemark_record){bytes, most - TIDEMARK_BATCH_ORIGIN}, 1, 1), TIDEMARK_BATCH_MAX);
    round_trip(with_origin, &(tidemark_record){bytes, most - TIDEMARK_BATCH_ORIGIN});
    tidemark_record longer[] = {{bytes, most + 1}, {bytes, 1}};
    CHECK_INT(tidemark_batch_size(longer, 1, 0), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_encode(&batch, longer, bytes, &failure), TIDEMARK_EINVAL);
    longer[0].length = most;
    CHECK_INT(tidemark_batch_size(longer, 2, 0), TIDEMARK_EINVAL);
    longer[0].length = SIZE_MAX;
    CHECK_INT(tidemark_batch_size(longer, 2, 0), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(longer, 0, 0), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(NULL, SIZE_MAX, 0), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_batch_size(NULL, (TIDEMARK_BATCH_MAX - TIDEMARK_BATCH_HEADER) / 4 + 1, 0), TIDEMARK_EINVAL);
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
    const int64_t first = 0x0102030405060708;
    FIELD(shard, 6, 2, 0, true);
    FIELD(shard, 6, 2, 65535, true);
    FIELD(epoch, 16, 8, INT64_MAX, true);
    FIELD(epoch, 16, 8, (uint64_t)INT64_MAX + 1, false);
    FIELD(epoch, 16, 8, UINT64_MAX, false);
    FIELD(epoch, 16, 8, 0, false);
    FIELD(epoch, 16, 8, 5, false);      /* less than the one before */
    FIELD(prev_epoch, 24, 8, 0, false); /* only before record 1 */
    FIELD(prev_epoch, 24, 8, 0x7000000000000007, true);
    FIELD(prev_epoch, 24, 8, UINT64_MAX, false);
    FIELD(written_ms, 40, 8, 0, true);
    FIELD(written_ms, 40, 8, INT64_MAX, true);
    FIELD(written_ms, 40, 8, (uint64_t)INT64_MAX + 1, false);
    FIELD(log_id, 48, 4, UINT32_MAX, true);
    FIELD(log_id, 48, 4, 0, false);
    FIELD(durable_seqno, 52, 4, first - 1, true);
    FIELD(durable_seqno, 52, 4, first - 1 - (int64_t)UINT32_MAX, true);
    tidemark_batch changed = hand_batch();
    unsigned char bytes[sizeof by_hand];
    changed.durable_seqno = first; /* not less than the first */
    CHECK_INT(tidemark_batch_encode(&changed, hand_records, bytes, &failure), TIDEMARK_EINVAL);
    changed.durable_seqno = first - 2 - (int64_t)UINT32_MAX; /* farther than the header can say */
    CHECK_INT(tidemark_batch_encode(&changed, hand_records, bytes, &failure), TIDEMARK_EINVAL);
    changed = hand_batch();
    changed.shard = 65536;
    CHECK_INT(tidemark_batch_encode(&changed, hand_records, bytes, &failure), TIDEMARK_EINVAL);
}

/* Another first seqno, with the durable one just below it. */
static void seqnos_at_their_limits(void) {
    static const struct {
        int64_t first;
        bool fine;
    } cases[] = {{INT64_MAX - 2, true}, /* the last of three is 2^63-1 */
                 {INT64_MAX - 1, false}, {INT64_MAX, false}, {INT64_MIN, false}, {-1, false}, {0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tidemark_batch batch = hand_batch();
        batch.first_seqno = cases[i].first;
        batch.durable_seqno = cases[i].fine ? cases[i].first - 0x12 : 0;
        field(batch, 32, 8, (uint64_t)cases[i].first, cases[i].fine);
    }
    /* one record, the last that there can be */
    unsigned char bytes[sizeof by_hand];
    tidemark_batch changed = hand_batch();
    changed.count = 1;
    changed.epoch = changed.prev_epoch = INT64_MAX;
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
    memcpy(bytes, by_hand, sizeof bytes); /* more records not durable than there are before the batch */
    tidemark_put64(bytes + 24, 0);
    tidemark_put64(bytes + 32, 1);
    tidemark_put32(bytes + 52, 1);
    seal(bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &changed, &failure), TIDEMARK_ECORRUPT);
}

static void origins_at_their_limits(void) {
    static const struct {
        size_t offset, width;
        uint64_t value;
        bool fine;
    } cases[] = {
        {64, 4, 0, false},          {64, 4, UINT32_MAX, true},    {68, 4, 1, false},
        {72, 8, 0, false},          {72, 8, INT64_MAX, true},     {72, 8, UINT64_MAX, false},
        {80, 8, 0, false},          {80, 8, INT64_MAX - 2, true}, {80, 8, INT64_MAX - 1, false},
        {80, 8, UINT64_MAX, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char bytes[sizeof origin_by_hand], again[sizeof origin_by_hand];
        tidemark_batch found;
        memcpy(bytes, origin_by_hand, sizeof bytes);
        for (size_t byte = 0; byte < cases[i].width; byte++)
            bytes[cases[i].offset + byte] = (unsigned char)(cases[i].value >> 8 * byte);
        seal(bytes, sizeof bytes);
        CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), cases[i].fine ? 0 : TIDEMARK_ECORRUPT);
        if (cases[i].offset == 68) continue;
        CHECK_INT(tidemark_batch_encode(&found, hand_records, again, &failure), cases[i].fine ? 0 : TIDEMARK_EINVAL);
        CHECK(!cases[i].fine || memcmp(again, bytes, sizeof bytes) == 0);
    }
}

/* A whole header of another version, or with flags that this version does not know. */
static void versions_and_flags(void) {
    unsigned char bytes[sizeof by_hand];
    tidemark_batch found;
    for (unsigned version = 0; version < 256; version++) {
        char said[32];
        memcpy(bytes, by_hand, sizeof bytes);
        bytes[4] = (unsigned char)version;
        seal(bytes, sizeof bytes);
        CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure),
                  version == 3 ? 0 : TIDEMARK_EUNSUPPORTED);
        (void)snprintf(said, sizeof said, "version %u,", version);
        CHECK(version == 3 || strstr(failure.message, said) != NULL);
        bytes[60] ^= 1; /* no whole header */
        CHECK_INT(tidemark_batch_decode(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
    }
    for (unsigned flags = 2; flags < 256; flags++) {
        memcpy(bytes, by_hand, sizeof bytes);
        bytes[5] = (unsigned char)flags;
        seal(bytes, sizeof bytes);
        CHECK_INT(tidemark_batch_decode_header(bytes, sizeof bytes, &found, &failure), TIDEMARK_EUNSUPPORTED);
    }
    memcpy(bytes, by_hand, sizeof bytes); /* an origin that does not fit */
    bytes[5] = 1;
    seal(bytes, sizeof bytes);
    CHECK_INT(tidemark_batch_decode_header(bytes, sizeof bytes, &found, &failure), TIDEMARK_ECORRUPT);
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
    RUN(seqnos_at_their_limits);
    RUN(origins_at_their_limits);
    RUN(versions_and_flags);
    RUN(lies);
    return FINISH();
}
