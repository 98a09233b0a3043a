/* Batches: a header of 64 bytes, perhaps an origin, the ends of the records, the records. docs/formats.md has the
 * tables. */
#include "batch.h"

#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "error.h"

#define VERSION     3
#define FLAG_ORIGIN 1u

static const char magic[4] = {'T', 'M', 'W', 'B'};

int64_t tidemark_batch_size(const tidemark_record *records, size_t count, int has_origin) {
    size_t size = TIDEMARK_BATCH_HEADER + (has_origin ? TIDEMARK_BATCH_ORIGIN : 0);
    if (count == 0 || count > (TIDEMARK_BATCH_MAX - size) / 4) return TIDEMARK_EINVAL;
    size += 4 * count;
    for (size_t i = 0; i < count; i++) {
        if (records[i].length > TIDEMARK_BATCH_MAX - size) return TIDEMARK_EINVAL;
        size += records[i].length;
    }
    return (int64_t)size;
}

/* Returns what is wrong with the fields of an origin, or NULL. */
static const char *wrong_origin(const tidemark_origin *origin, uint32_t count) {
    if (origin->log_id == 0) return "origin: log id 0";
    if (origin->epoch == 0 || origin->epoch > TIDEMARK_EPOCH_MAX) return "origin: epoch out of range";
    if (origin->first_seqno < 1 || origin->first_seqno > TIDEMARK_SEQNO_MAX - (count - 1))
        return "origin: seqnos out of range";
    return NULL;
}

/* Returns what is wrong with the fields of a header, or NULL. */
static const char *wrong_field(const tidemark_batch *batch) {
    if (batch->shard > TIDEMARK_SHARD_MAX) return "shard id out of range";
    if (batch->count == 0) return "no records";
    if (batch->epoch == 0 || batch->epoch > TIDEMARK_EPOCH_MAX) return "epoch out of range";
    if (batch->first_seqno < 1 || batch->first_seqno > TIDEMARK_SEQNO_MAX - (batch->count - 1))
        return "seqnos out of range";
    if (batch->prev_epoch > batch->epoch) return "prev_epoch is above epoch";
    if ((batch->prev_epoch == 0) != (batch->first_seqno == 1))
        return "prev_epoch must be 0 exactly when first_seqno is 1";
    if (batch->durable_seqno < 0 || batch->durable_seqno >= batch->first_seqno ||
        batch->first_seqno - 1 - batch->durable_seqno > UINT32_MAX)
        return "durable seqno out of range";
    if (batch->written_ms > INT64_MAX) return "written_ms out of range";
    if (batch->log_id == 0) return "log id 0";
    return NULL;
}

static void write_header(const tidemark_batch *batch, unsigned char *header) {
    size_t payload = batch->size - TIDEMARK_BATCH_HEADER;
    memcpy(header, magic, sizeof magic);
    header[4] = VERSION;
    header[5] = batch->has_origin ? FLAG_ORIGIN : 0;
    tidemark_put16(header + 6, (uint16_t)batch->shard);
    tidemark_put32(header + 8, batch->count);
    tidemark_put32(header + 12, (uint32_t)payload);
    tidemark_put64(header + 16, batch->epoch);
    tidemark_put64(header + 24, batch->prev_epoch);
    tidemark_put64(header + 32, (uint64_t)batch->first_seqno);
    tidemark_put64(header + 40, batch->written_ms);
    tidemark_put32(header + 48, batch->log_id);
    tidemark_put32(header + 52, (uint32_t)(batch->first_seqno - 1 - batch->durable_seqno));
    tidemark_put32(header + 56, tidemark_crc32c(0, header + TIDEMARK_BATCH_HEADER, payload));
    tidemark_put32(header + 60, tidemark_crc32c(0, header, 60));
}

int tidemark_batch_encode(tidemark_batch *batch, const tidemark_record *records, void *bytes, tidemark_error *error) {
    int64_t size = tidemark_batch_size(records, batch->count, batch->has_origin);
    const char *wrong = wrong_field(batch);
    if (wrong == NULL && batch->has_origin) wrong = wrong_origin(&batch->origin, batch->count);
    if (wrong != NULL) return tidemark_fail(error, TIDEMARK_EINVAL, "batch: %s", wrong);
    if (size < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "batch: longer than %d bytes", TIDEMARK_BATCH_MAX);
    batch->size = (size_t)size;

    unsigned char *header = bytes, *end = header + TIDEMARK_BATCH_HEADER;
    if (batch->has_origin) {
        tidemark_put32(end, batch->origin.log_id);
        tidemark_put32(end + 4, 0);
        tidemark_put64(end + 8, batch->origin.epoch);
        tidemark_put64(end + 16, (uint64_t)batch->origin.first_seqno);
        end += TIDEMARK_BATCH_ORIGIN;
    }
    unsigned char *first = end + 4 * (size_t)batch->count, *at = first;
    for (uint32_t i = 0; i < batch->count; i++, end += 4) {
        if (records[i].length > 0) memcpy(at, records[i].bytes, records[i].length);
        at += records[i].length;
        tidemark_put32(end, (uint32_t)(at - first));
    }
    write_header(batch, header);
    return 0;
}

int tidemark_batch_decode_header(const void *bytes, size_t size, tidemark_batch *batch, tidemark_error *error) {
    const unsigned char *header = bytes;
    if (size < TIDEMARK_BATCH_HEADER) return tidemark_fail(error, TIDEMARK_ECORRUPT, "batch: header cut off");
    if (memcmp(header, magic, sizeof magic) != 0) return tidemark_fail(error, TIDEMARK_ECORRUPT, "batch: no magic");
    if (tidemark_get32(header + 60) != tidemark_crc32c(0, header, 60))
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "batch: header damaged (CRC)");
    if (header[4] != VERSION)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "batch: version %d, this tidemark reads version %d",
                             header[4], VERSION);
    if ((header[5] & ~FLAG_ORIGIN) != 0)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "batch: unknown flags %02x", header[5]);
    uint32_t payload = tidemark_get32(header + 12), undurable = tidemark_get32(header + 52);
    uint64_t first_seqno = tidemark_get64(header + 32);
    if (first_seqno > TIDEMARK_SEQNO_MAX) first_seqno = 0; /* out of range as well */
    *batch = (tidemark_batch){
        .shard = tidemark_get16(header + 6),
        .count = tidemark_get32(header + 8),
        .epoch = tidemark_get64(header + 16),
        .prev_epoch = tidemark_get64(header + 24),
        .first_seqno = (int64_t)first_seqno,
        .durable_seqno = (int64_t)first_seqno - 1 - (int64_t)undurable,
        .written_ms = tidemark_get64(header + 40),
        .log_id = tidemark_get32(header + 48),
        .has_origin = header[5] & FLAG_ORIGIN,
        .size = (size_t)TIDEMARK_BATCH_HEADER + payload,
    };
    const char *wrong = wrong_field(batch);
    size_t origin = tidemark_batch_origin_size(batch);
    if (wrong == NULL && (payload > TIDEMARK_BATCH_MAX - TIDEMARK_BATCH_HEADER || payload < origin ||
                          batch->count > (payload - origin) / 4))
        wrong = "inconsistent lengths";
    return wrong == NULL ? 0 : tidemark_fail(error, TIDEMARK_ECORRUPT, "batch: %s", wrong);
}

const char *tidemark_batch_read_origin(const unsigned char *bytes, tidemark_batch *batch) {
    uint64_t first_seqno = tidemark_get64(bytes + 16);
    batch->origin = (tidemark_origin){
        .log_id = tidemark_get32(bytes),
        .epoch = tidemark_get64(bytes + 8),
        .first_seqno = first_seqno <= TIDEMARK_SEQNO_MAX ? (int64_t)first_seqno : 0,
    };
    if (tidemark_get32(bytes + 4) != 0) return "origin: unknown bytes";
    return wrong_origin(&batch->origin, batch->count);
}

uint32_t tidemark_batch_payload_crc(const unsigned char *bytes) {
    return tidemark_get32(bytes + 56);
}

bool tidemark_batch_check_ends(const unsigned char *ends, size_t count, uint32_t *last) {
    uint32_t before = *last;
    bool fine = true;
    for (size_t i = 0; i < count; i++) {
        uint32_t end = tidemark_get32(ends + 4 * i);
        fine &= end >= before;
        before = end;
    }
    *last = before;
    return fine;
}

int tidemark_batch_decode(const void *bytes, size_t size, tidemark_batch *batch, tidemark_error *error) {
    const unsigned char *payload = (const unsigned char *)bytes + TIDEMARK_BATCH_HEADER;
    uint32_t last = 0;
    int result = tidemark_batch_decode_header(bytes, size, batch, error);
    if (result < 0) return result;
    if (size != batch->size)
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "batch: %zu bytes, its header says %zu", size, batch->size);
    size_t length = size - TIDEMARK_BATCH_HEADER, origin = tidemark_batch_origin_size(batch);
    const char *wrong = NULL;
    if (tidemark_crc32c(0, payload, length) != tidemark_batch_payload_crc(bytes)) wrong = "records damaged (CRC)";
    else if (batch->has_origin) wrong = tidemark_batch_read_origin(payload, batch);
    if (wrong == NULL && (!tidemark_batch_check_ends(payload + origin, batch->count, &last) ||
                          last != length - origin - 4 * (size_t)batch->count))
        wrong = "inconsistent record lengths";
    if (wrong == NULL) return 0;
    return tidemark_fail(error, TIDEMARK_ECORRUPT, "batch from seqno %" PRId64 ": %s", batch->first_seqno, wrong);
}

tidemark_record tidemark_batch_record(const void *bytes, const tidemark_batch *batch, uint32_t position) {
    const unsigned char *ends =
        (const unsigned char *)bytes + TIDEMARK_BATCH_HEADER + tidemark_batch_origin_size(batch);
    uint32_t start = position > 0 ? tidemark_get32(ends + 4 * ((size_t)position - 1)) : 0;
    uint32_t end = tidemark_get32(ends + 4 * (size_t)position);
    return (tidemark_record){ends + 4 * (size_t)batch->count + start, end - start};
}
