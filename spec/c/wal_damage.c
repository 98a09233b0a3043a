/* Damaged logs: flipped bits, cut tails, holes, missing, renamed and foreign segments. Nothing damaged is taken for
 * good, and what is refused stays as it is. */
#define _GNU_SOURCE
#include "wal_files.h"

/* ---- the log that is damaged: shard 1 alone, batches of known places ---- */

#define BATCHES 3 /* in a segment */

static const uint32_t one_shard[] = {1};
static unsigned char pristine[2][8192]; /* the segments */
static size_t pristine_size[2];
static int64_t pristine_first[2];
static off_t place[2][BATCHES + 1]; /* of the batches, and the end */
static int64_t place_seqno[2][BATCHES + 1];
static char heads_path[192], heads_copy[192];

static tidemark_wal *open_one(uint64_t segment_bytes, int *code) {
    tidemark_wal_options options = {.shards = one_shard, .shard_count = 1, .segment_bytes = segment_bytes};
    return open_log(&options, code);
}

/* Two segments, of BATCHES each. Closed: the heads say that all is durable. Otherwise their checkpoint says 0. */
static void make_log(bool closed) {
    int code;
    tidemark_wal_options options = {.shards = one_shard, .shard_count = 1, .epoch = 5};
    tidemark_wal *wal = open_log(&options, &code);
    for (size_t segment = 0; segment < 2; segment++) {
        pristine_first[segment] = wal->shards[0].last_seqno + 1;
        for (size_t i = 0; i < BATCHES; i++) {
            place[segment][i] = segment == 1 && i == 0 ? 0 : wal->shards[0].offset;
            place_seqno[segment][i] = wal->shards[0].last_seqno + 1;
            wal->segment_bytes = segment == 1 && i == 0 ? 1 : 1 << 20; /* 1: begins another segment */
            CHECK_INT(log_append(wal, 1), 0);
        }
        place[segment][BATCHES] = wal->shards[0].offset;
        place_seqno[segment][BATCHES] = wal->shards[0].last_seqno + 1;
    }
    if (closed) CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    else {
        off_t end = wal->shards[0].offset;
        abandon(wal);
        restart(FAULT_LOSE_NOTHING);
        if (truncate(segment_path(1, pristine_first[1]), end) < 0) abort();
        (void)unlink(live_path);
    }
    for (size_t segment = 0; segment < 2; segment++) {
        const char *name = segment_path(1, pristine_first[segment]);
        pristine_size[segment] = (size_t)file_size(name);
        CHECK_INT(pristine_size[segment], place[segment][BATCHES]);
        get_bytes(name, 0, pristine[segment], pristine_size[segment]);
    }
    (void)snprintf(heads_path, sizeof heads_path, "%s/heads", directory);
    (void)snprintf(heads_copy, sizeof heads_copy, "%s.heads", directory);
    copy_file(heads_path, heads_copy);
    fault_reset();
}

static void put_log(void) {
    remove_all();
    fault_reset();
    for (size_t segment = 0; segment < 2; segment++)
        put_bytes(segment_path(1, pristine_first[segment]), 0, pristine[segment], pristine_size[segment]);
    copy_file(heads_copy, heads_path);
    model->epoch = 0;
}

/* ---- verdicts ---- */

static int verify(tidemark_wal_report *report) {
    return tidemark_wal_verify_io(log_io, directory, report, &failure);
}

/* An opening for writing that must fail so, and leave the segments as they are. */
static void refuse_open(int code, const char *in_message) {
    unsigned char before[2][8192], after[8192];
    int64_t firsts[2][8];
    size_t count = find_segments(1, firsts[0], 8), sizes[2] = {0};
    for (size_t i = 0; i < count && i < 2; i++) {
        sizes[i] = (size_t)file_size(segment_path(1, firsts[0][i]));
        get_bytes(segment_path(1, firsts[0][i]), 0, before[i], sizes[i]);
    }
    int opened;
    tidemark_wal *wal = open_one(0, &opened);
    CHECK_INT(opened, code);
    if (wal != NULL) abandon(wal);
    if (in_message != NULL && strstr(failure.message, in_message) == NULL) CHECK_STR(failure.message, in_message);
    CHECK_INT(find_segments(1, firsts[1], 8), count);
    for (size_t i = 0; i < count && i < 2; i++) {
        CHECK_INT(firsts[1][i], firsts[0][i]);
        CHECK_INT(file_size(segment_path(1, firsts[0][i])), sizes[i]);
        get_bytes(segment_path(1, firsts[0][i]), 0, after, sizes[i]);
        CHECK(memcmp(after, before[i], sizes[i]) == 0);
    }
}

/* What readers and verify say of damage at `seqno`, which is durable: CORRUPT, with file and offset. */
static void refuse_reading(int code, int64_t seqno, int64_t first, off_t offset) {
    uint32_t seen[SEQNO_MAX] = {0};
    tidemark_wal_report report;
    char where[80], name[TIDEMARK_SEGMENT_NAME];
    tidemark_segment_name((struct tidemark_segment){1, first}, name);
    (void)snprintf(where, sizeof where, "/%s: offset %lld: ", name, (long long)offset);
    CHECK_INT(verify(&report), code);
    if (strstr(failure.message, where) == NULL) CHECK_STR(failure.message, where);
    CHECK_INT(read_log(1, 0, seen), code);
    if (strstr(failure.message, where) == NULL) CHECK_STR(failure.message, where);
    for (int64_t i = 1; i < seqno; i++) CHECK(seen[i] != 0);
    CHECK_INT(seen[seqno], 0);
}

/* ---- flipped bits ---- */

static void flip(size_t segment, size_t at) {
    unsigned char byte = pristine[segment][at] ^ (unsigned char)(1u << (at * 5 + at / 8) % 8);
    put_bytes(segment_path(1, pristine_first[segment]), (off_t)at, &byte, 1);
}

static size_t batch_of(size_t segment, size_t at) {
    size_t i = 0;
    while ((off_t)at >= place[segment][i + 1]) i++;
    return i;
}

static void a_flipped_bit_below_the_head(void) {
    make_log(true);
    for (size_t segment = 0; segment < 2; segment++) {
        for (size_t at = 0; at < pristine_size[segment] && check_failures == 0; at++) {
            size_t batch = batch_of(segment, at);
            flip(segment, at);
            refuse_reading(TIDEMARK_ECORRUPT, place_seqno[segment][batch], pristine_first[segment],
                           place[segment][batch]);
            if (segment == 1) refuse_open(TIDEMARK_ECORRUPT, "offset");
            put_bytes(segment_path(1, pristine_first[segment]), (off_t)at, &pristine[segment][at], 1);
        }
    }
}

/* What an opening must do with a torn last batch that had not been durable for sure. */
static void recover_before_last(bool reported) {
    int code;
    uint32_t seen[SEQNO_MAX] = {0};
    tidemark_wal *wal = open_one(0, &code);
    CHECK_INT(code, 0);
    if (wal == NULL) {
        printf("    %s\n", failure.message);
        return;
    }
    const char *told = tidemark_wal_recovery(wal, 0);
    CHECK(told != NULL);
    if (reported) CHECK(told != NULL && strstr(told, "torn") != NULL && strstr(told, "offset") != NULL);
    CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), place_seqno[1][BATCHES - 1] - 1);
    CHECK_INT(file_size(segment_path(1, pristine_first[1])), place[1][BATCHES - 1]);
    CHECK_INT(log_append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    CHECK(read_log(1, 0, seen) >= place_seqno[1][BATCHES - 1]);
    CHECK_INT(seen[place_seqno[1][BATCHES - 1]], model->attempts);
    tidemark_wal_report report;
    CHECK_INT(verify(&report), 0);
}

/* Later batches say that those before the last had been durable; of the last nobody knows. */
static void a_flipped_bit_above_the_head(void) {
    make_log(false);
    for (size_t at = 0; at < pristine_size[1] && check_failures == 0; at++) {
        tidemark_wal_report report;
        put_log();
        flip(1, at);
        if (batch_of(1, at) < BATCHES - 1) {
            CHECK_INT(verify(&report), TIDEMARK_ECORRUPT);
            refuse_open(TIDEMARK_ECORRUPT, "offset");
        } else {
            CHECK_INT(verify(&report), 0);
            CHECK_INT(report.unknown, place[1][BATCHES] - place[1][BATCHES - 1]);
            CHECK_INT(report.batches, 2 * BATCHES - 1);
            recover_before_last(true);
        }
    }
}

/* ---- cut tails ---- */

static void cut(off_t at, bool zeros) {
    const char *name = segment_path(1, pristine_first[1]);
    if (truncate(name, at) < 0 || (zeros && truncate(name, (off_t)pristine_size[1] + 1000) < 0)) abort();
}

static void a_tail_cut_above_the_head(void) {
    make_log(false);
    for (int zeros = 0; zeros < 2; zeros++) {
        for (off_t at = place[1][BATCHES - 1]; at < place[1][BATCHES] && check_failures == 0; at++) {
            size_t kept = (size_t)at;
            while (kept < pristine_size[1] && pristine[1][kept] == 0) kept++;
            if (zeros && kept == pristine_size[1]) continue; /* zeros are what stood there */
            put_log();
            cut(at, zeros);
            recover_before_last(at > place[1][BATCHES - 1]);
        }
    }
}

static void a_tail_cut_below_the_head(void) {
    make_log(true);
    for (int zeros = 0; zeros < 2; zeros++) {
        for (off_t at = place[1][BATCHES - 1]; at < place[1][BATCHES] && check_failures == 0; at++) {
            size_t kept = (size_t)at;
            while (kept < pristine_size[1] && pristine[1][kept] == 0) kept++;
            if (zeros && kept == pristine_size[1]) continue;
            bool lost = at == place[1][BATCHES - 1];
            put_log();
            cut(at, zeros);
            tidemark_wal_report report;
            CHECK_INT(verify(&report), lost ? TIDEMARK_ELOST : TIDEMARK_ECORRUPT);
            refuse_open(lost ? TIDEMARK_ELOST : TIDEMARK_ECORRUPT, "offset");
            uint32_t seen[SEQNO_MAX] = {0};
            CHECK_INT(read_log(1, 0, seen), TIDEMARK_ECORRUPT);
            /* without heads nobody can know that it was there */
            if (unlink(heads_path) < 0) abort();
            (void)unlink(live_path);
            CHECK_INT(read_log(1, TIDEMARK_READ_ARCHIVE, seen), place_seqno[1][BATCHES - 1] - 1);
            CHECK_INT(verify(&report), 0);
        }
    }
}

/* ---- holes and strangers ---- */

static void a_hole(void) {
    unsigned char zeros[4096] = {0};
    make_log(true);
    for (size_t segment = 0; segment < 2; segment++) {
        put_log();
        put_bytes(segment_path(1, pristine_first[segment]), place[segment][1], zeros,
                  (size_t)(place[segment][2] - place[segment][1]));
        refuse_reading(TIDEMARK_ECORRUPT, place_seqno[segment][1], pristine_first[segment], place[segment][1]);
        if (segment == 1) refuse_open(TIDEMARK_ECORRUPT, "offset");
    }
}

static void a_missing_segment(void) {
    uint32_t seen[SEQNO_MAX] = {0};
    tidemark_wal_report report;
    int code;
    make_log(true);
    put_log();
    tidemark_wal *wal = open_one(0, &code); /* a third segment */
    CHECK_INT(log_append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    int64_t third = place_seqno[1][BATCHES];
    const char *middle = segment_path(1, pristine_first[1]);
    char kept[256];
    (void)snprintf(kept, sizeof kept, "%s.kept", directory);
    if (rename(middle, kept) < 0) abort();
    refuse_reading(TIDEMARK_ECORRUPT, pristine_first[1], pristine_first[0], place[0][BATCHES]);
    if (rename(kept, middle) < 0 || unlink(segment_path(1, third)) < 0) abort();
    CHECK_INT(verify(&report), TIDEMARK_ELOST);
    refuse_open(TIDEMARK_ELOST, "offset");
    CHECK_INT(read_log(1, 0, seen), TIDEMARK_ECORRUPT);
    if (unlink(segment_path(1, pristine_first[0])) < 0 || unlink(segment_path(1, pristine_first[1])) < 0) abort();
    CHECK_INT(verify(&report), TIDEMARK_ELOST);
    refuse_open(TIDEMARK_ELOST, "Restore");
    /* what a removal without the heads' knowledge leaves: nothing by which the next record's past is known */
    put_log();
    if (unlink(segment_path(1, pristine_first[0])) < 0 || unlink(heads_path) < 0) abort();
    if (truncate(segment_path(1, pristine_first[1]), 0) < 0) abort();
    refuse_open(TIDEMARK_ELOST, " 1:0 ");
}

/* Gives the batch at `offset` of segment 1 another log id, shard or epochs, with CRCs that are right. */
static void forge(off_t offset, size_t field, uint32_t value) {
    unsigned char header[64];
    memcpy(header, pristine[1] + offset, sizeof header);
    tidemark_put32(header + field, value);
    tidemark_put32(header + 60, tidemark_crc32c(0, header, 60));
    put_bytes(segment_path(1, pristine_first[1]), offset, header, sizeof header);
}

static void strangers(void) {
    static const struct {
        size_t field;
        uint32_t value;
        int code;
    } forged[] = {
        {48, 0x12345678, TIDEMARK_EFOREIGN},    /* log id */
        {4, 0x00020003, TIDEMARK_EFOREIGN},     /* shard 2 */
        {4, 0x00010002, TIDEMARK_EUNSUPPORTED}, /* version 2 */
        {4, 0x00010004, TIDEMARK_EUNSUPPORTED}, /* version 4 */
        {4, 0x00010203, TIDEMARK_EUNSUPPORTED}, /* a flag */
        {24, 4, TIDEMARK_ECORRUPT},             /* the epoch before */
        {16, 6, TIDEMARK_ECORRUPT},             /* two epochs in a segment */
    };
    make_log(true);
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        put_log();
        forge(place[1][1], forged[i].field, forged[i].value);
        refuse_reading(forged[i].code, place_seqno[1][1], pristine_first[1], place[1][1]);
        refuse_open(forged[i].code, "offset");
    }
    put_log(); /* the right shard's name with another seqno */
    if (rename(segment_path(1, pristine_first[0]), heads_copy) < 0) abort();
    put_bytes(segment_path(1, pristine_first[1] - 1), 0, pristine[1], pristine_size[1]);
    tidemark_wal_report report;
    CHECK_INT(verify(&report), TIDEMARK_ECORRUPT);
}

static void a_segment_of_another_shard(void) {
    make_log(true);
    put_log();
    put_bytes(segment_path(2, 1), 0, pristine[0], pristine_size[0]);
    tidemark_wal_report report;
    CHECK_INT(verify(&report), TIDEMARK_EFOREIGN);
    CHECK(strstr(failure.message, "/00002-00000000000000000001.wal: offset 0: ") != NULL);
    refuse_open(TIDEMARK_EFOREIGN, "/00002-00000000000000000001.wal: offset 0: ");
    uint32_t seen[SEQNO_MAX] = {0};
    CHECK_INT(read_log(2, TIDEMARK_READ_ARCHIVE, seen), TIDEMARK_EUNKNOWN_SHARD); /* the heads count */
    if (unlink(heads_path) < 0) abort();
    CHECK_INT(read_log(2, TIDEMARK_READ_ARCHIVE, seen), TIDEMARK_EFOREIGN);
}

/* ---- the last seqno there can be ---- */

static void the_last_seqno(void) {
    unsigned char bytes[200];
    tidemark_batch batch = {.shard = 1,
                            .count = 2,
                            .epoch = 4,
                            .prev_epoch = 4,
                            .first_seqno = INT64_MAX - 1,
                            .durable_seqno = INT64_MAX - 2,
                            .log_id = 9};
    tidemark_record records[] = {{"a", 1}, {"b", 1}};
    tidemark_wal_report report;
    int code;
    CHECK_INT(tidemark_batch_encode(&batch, records, bytes, &failure), 0);
    put_bytes(segment_path(1, INT64_MAX - 1), 0, bytes, batch.size);
    CHECK_INT(verify(&report), 0);
    CHECK_INT(report.records, 2);
    tidemark_wal_reader *reader;
    CHECK_INT(
        tidemark_wal_reader_open_io(log_io, directory, 1, INT64_MAX - 1, TIDEMARK_READ_ARCHIVE, &reader, &failure), 0);
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), 0);
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &batch, &failure), 0);
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), TIDEMARK_EEND);
    tidemark_wal_reader_close(reader);
    const tidemark_mark end = {1, INT64_MAX};
    tidemark_wal_options options = {.accept_loss = &end, .accept_loss_count = 1};
    tidemark_wal *wal = open_log(&options, &code);
    CHECK_INT(code, 0);
    CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), INT64_MAX);
    CHECK_INT(tidemark_wal_append(wal, 1, records, 1, NULL, NULL, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    CHECK_INT(tidemark_wal_reader_open_io(log_io, directory, 1, INT64_MAX, 0, &reader, &failure), TIDEMARK_EINVAL);
}

/* ---- beside a writer ---- */

static ssize_t stale_pread(int fd, void *bytes, size_t length, off_t offset) {
    static bool done;
    ssize_t count = pread(fd, bytes, length, offset);
    if (!done && count > place[1][2] && offset == 0 && memcmp(bytes, "TMWB", 4) == 0 &&
        tidemark_get64((unsigned char *)bytes + 24) == (uint64_t)pristine_first[1]) {
        done = true; /* the moment at which the second batch was half written and the third not begun */
        memset((char *)bytes + place[1][1] + 80, 0, (size_t)(count - place[1][1] - 80));
    }
    return count;
}

/* Verify reads a batch while it is written, and behind it a later one that says that it is durable. */
static void verify_beside_a_writer(void) {
    struct tidemark_io stale = fault_io;
    tidemark_wal_report report;
    make_log(false);
    put_log();
    stale.pread = stale_pread;
    CHECK_INT(tidemark_wal_verify_io(&stale, directory, &report, &failure), 0);
    CHECK_INT(report.batches, 2 * BATCHES);
}

/* A reader has a segment open in which a killed writer left half a batch, and the next writer makes it anew. */
static void a_reader_of_a_removed_segment(void) {
    unsigned char bytes[300], *half = bytes;
    tidemark_batch batch;
    tidemark_wal_reader *reader;
    int code;
    make_log(true);
    put_log();
    tidemark_wal *wal = open_one(0, &code);
    int64_t last = wal->shards[0].last_seqno;
    CHECK_INT(log_append(wal, 1), 0);
    abandon(wal);
    get_bytes(segment_path(1, last + 1), 0, half, 100);
    put_log();
    CHECK_INT(tidemark_wal_close(open_one(0, &code), &failure), 0); /* what has no lock yet gets other heads */
    put_bytes(segment_path(1, last + 1), 0, half, 100);
    CHECK_INT(tidemark_wal_reader_open_io(log_io, directory, 1, last, 0, &reader, &failure), 0);
    wal = open_one(0, &code);
    CHECK_INT(log_append(wal, 1), 0);
    CHECK_INT(log_append(wal, 1), 0);
    for (int i = 0; i < 2; i++) {
        static unsigned char whole[4096];
        CHECK_INT(tidemark_wal_reader_wait(reader, 1, &batch, &failure), 0);
        code = tidemark_wal_reader_read(reader, whole, &batch, &failure);
        CHECK_INT(code, 0);
        if (code < 0) printf("    %s\n", failure.message);
    }
    tidemark_wal_reader_close(reader);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

int main(void) {
    make_directory();
    longest_record = 12; /* every byte costs an opening or two */
    (void)snprintf(live_path, sizeof live_path, "%s/heads.live", directory);
    RUN_LOG(a_flipped_bit_below_the_head);
    RUN_LOG(a_flipped_bit_above_the_head);
    RUN_LOG(a_tail_cut_above_the_head);
    RUN_LOG(a_tail_cut_below_the_head);
    RUN_LOG(a_hole);
    RUN_LOG(a_missing_segment);
    RUN_LOG(strangers);
    RUN_LOG(a_segment_of_another_shard);
    RUN_LOG(the_last_seqno);
    RUN_LOG(verify_beside_a_writer);
    RUN_LOG(a_reader_of_a_removed_segment);
    (void)unlink(heads_copy);
    return FINISH();
}
