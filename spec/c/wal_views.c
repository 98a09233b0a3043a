/* What is read of a log: archives with and without heads, damaged ones, the path after a change of the working
 * directory, the epoch of every seqno, segments of two epochs, other versions and unknown flags, other writers. */
#define _GNU_SOURCE
#include "../../csrc/core/wal_source.h"
#include "wal_cases.h"

static tidemark_wal *open_writer(int unsynced, uint64_t segment_bytes) {
    return open_log_or_stop(segment_bytes, unsynced);
}

/* Gives the header at `offset` of a segment other bytes, with a CRC that is right. */
static void forge(const char *segment, off_t offset, size_t at, const void *bytes, size_t length) {
    unsigned char header[TIDEMARK_BATCH_HEADER];
    get_bytes(segment, offset, header, sizeof header);
    memcpy(header + at, bytes, length);
    tidemark_put32(header + 60, tidemark_crc32c(0, header, 60));
    put_bytes(segment, offset, header, sizeof header);
}

/* ---- archives ---- */

static void archives(void) {
    static struct texts texts;
    tidemark_wal *wal = open_writer(1, 0);
    for (int n = 0; n < 3; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    CHECK_INT(append_next(wal, 1, "not durable"), 0);
    CHECK_INT(read_texts(1, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EEND);
    CHECK_INT(texts.last, 3);
    /* one without a record, and one that is not there */
    CHECK_INT(read_texts(2, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EEND);
    CHECK_INT(texts.last, 0);
    CHECK_INT(read_texts(9, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EUNKNOWN_SHARD);
    abandon(wal);
    drop_heads();
    CHECK_INT(read_texts(1, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EEND);
    CHECK_INT(texts.last, 4);
    CHECK_STR(texts.text[4], "not durable 1 4");
    CHECK_INT(read_texts(2, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EUNKNOWN_SHARD);
}

/* Every byte of an archive damaged, with and without heads: all records before it, then CORRUPT. In the last batch of
 * one without heads it may be a torn one. */
static void damaged_archives(void) {
    static struct texts texts;
    tidemark_wal *wal = open_writer(0, 300);
    for (int n = 0; n < 7; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    for (int without = 0; without < 2; without++) {
        if (without) drop_heads();
        for (int64_t first = 1; first <= 5; first += 4) {
            const char *segment = segment_path(1, first);
            off_t size = file_size(segment);
            for (off_t at = 0; at < size && check_failures == 0; at += 3) {
                unsigned char byte, damaged;
                int64_t seqno = first + at / 75; /* of the batch */
                get_bytes(segment, at, &byte, 1);
                damaged = byte ^ 0x20;
                put_bytes(segment, at, &damaged, 1);
                int code = read_texts(1, 0, TIDEMARK_READ_ARCHIVE, &texts);
                CHECK_INT(code, without && seqno == 7 ? TIDEMARK_EEND : TIDEMARK_ECORRUPT);
                CHECK_INT(texts.last, seqno - 1);
                put_bytes(segment, at, &byte, 1);
            }
        }
    }
}

/* ---- the path ---- */

static void another_log_of_that_name(void) {
    static struct texts texts;
    char here[4096], other[192], name[64];
    char *slash = strrchr(directory, '/');
    tidemark_wal *wal = NULL;
    tidemark_wal_reader *reader = NULL;
    tidemark_wal_source *source = NULL;
    tidemark_wal_options options = log_options(300, 0);
    if (getcwd(here, sizeof here) == NULL) abort();
    (void)snprintf(name, sizeof name, "%.60s", slash + 1);
    (void)snprintf(other, sizeof other, "%s/%s", directory, name);
    *slash = '\0';
    CHECK_INT(chdir(directory), 0);
    *slash = '/';
    CHECK_INT(tidemark_wal_open_io(log_io, name, &options, &wal, &failure), 0);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    CHECK_INT(tidemark_wal_reader_open_io(log_io, name, 1, 0, 0, &reader, &failure), 0);
    CHECK_INT(tidemark_wal_source_open_io(log_io, name, false, &source, &failure), 0);
    texts = (struct texts){.first = 1};
    CHECK_INT(read_on(reader, &texts), TIDEMARK_ETIMEOUT);
    CHECK_INT(chdir(directory), 0); /* where something else has the name */
    CHECK_INT(mkdir(other, 0700), 0);
    struct timespec look = {0, 60000000}; /* longer than a reader goes without looking */
    for (int n = 0; n < 8; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    (void)nanosleep(&look, NULL);
    CHECK_INT(read_on(reader, &texts), TIDEMARK_ETIMEOUT);
    CHECK_INT(texts.last, 9);
    uint64_t epoch = 0;
    CHECK_INT(tidemark_wal_source_epoch(source, 1, 9, &epoch, &failure), 0);
    CHECK(epoch == tidemark_wal_epoch(wal));
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    tidemark_wal_source_close(source);
    tidemark_wal_reader_close(reader);
    close_log(wal);
    CHECK_INT(rmdir(other), 0);
    CHECK_INT(chdir(here), 0);
    check_texts(1, 9, 9);
}

/* ---- heads with another file id ---- */

static void heads_with_another_id(void) {
    static struct texts texts;
    tidemark_wal_reader *reader = NULL;
    int code;
    tidemark_mark accept[] = {{1, 2}, {2, 0}, {5, 0}};
    tidemark_wal *wal = open_writer(0, 0);
    for (int n = 0; n < 2; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    CHECK_INT(tidemark_wal_reader_open_io(log_io, directory, 1, 0, 0, &reader, &failure), 0);
    texts = (struct texts){.first = 1};
    CHECK_INT(read_on(reader, &texts), TIDEMARK_ETIMEOUT);
    drop_heads();
    tidemark_wal_options options = log_options(0, 0);
    options.accept_loss = accept;
    options.accept_loss_count = 3;
    close_log(open_log(&options, &code)); /* nothing was lost, but nobody knows */
    struct timespec pause = {0, 20000000};
    for (int i = 0; i < 500 && (code = read_on(reader, &texts)) == TIDEMARK_ETIMEOUT; i++)
        (void)nanosleep(&pause, NULL);
    CHECK_INT(code, TIDEMARK_EREPLACED);
    tidemark_wal_reader_close(reader);
    CHECK_INT(read_texts(1, 0, 0, &texts), TIDEMARK_ETIMEOUT); /* a new one goes on */
    CHECK_INT(texts.last, 2);
}

/* ---- the epoch of every seqno ---- */

#define EPOCHS 12
#define EACH   9 /* records of an epoch, in three segments */

static uint64_t epochs[EPOCHS];

static void make_epochs(void) {
    for (int i = 0; i < EPOCHS; i++) {
        tidemark_wal *wal = open_writer(0, 300);
        epochs[i] = tidemark_wal_epoch(wal);
        for (int n = 0; n < EACH; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
        close_log(wal);
    }
}

static int epoch_of(tidemark_wal_source *source, uint32_t shard, int64_t seqno, uint64_t *epoch) {
    *epoch = 77;
    return tidemark_wal_source_epoch(source, shard, seqno, epoch, &failure);
}

static void check_epochs(tidemark_wal_source *source, int64_t from) {
    uint64_t epoch;
    for (int64_t seqno = from; seqno <= EPOCHS * EACH; seqno++) {
        CHECK_INT(epoch_of(source, 1, seqno, &epoch), 0);
        CHECK_INT(epoch, seqno == 0 ? 0 : epochs[(seqno - 1) / EACH]);
    }
}

static tidemark_wal_source *open_source(const struct tidemark_io *io) {
    tidemark_wal_source *source = NULL;
    CHECK_INT(tidemark_wal_source_open_io(io, directory, false, &source, &failure), 0);
    return source;
}

static void epoch_of_every_seqno(void) {
    uint64_t epoch;
    make_epochs();
    tidemark_wal_source *source = open_source(log_io);
    check_epochs(source, 0);
    CHECK_INT(epoch_of(source, 1, EPOCHS * EACH + 1, &epoch), TIDEMARK_EAHEAD);
    CHECK_INT(epoch_of(source, 1, INT64_MAX, &epoch), TIDEMARK_EAHEAD);
    CHECK_INT(epoch_of(source, 2, 0, &epoch), 0);
    CHECK_INT(epoch, 0);
    CHECK_INT(epoch_of(source, 2, 1, &epoch), TIDEMARK_EAHEAD);
    CHECK_INT(epoch_of(source, 9, 1, &epoch), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(epoch_of(source, 9, 0, &epoch), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(epoch_of(source, 65536, 1, &epoch), TIDEMARK_EINVAL);
    CHECK_INT(epoch_of(source, 1, -1, &epoch), TIDEMARK_EINVAL);
    /* pruned: up to the record before the first one that is there */
    for (int64_t upto = 3; upto <= EPOCHS * EACH; upto += 11) {
        int64_t firsts[64];
        CHECK(tidemark_wal_prune_io(log_io, directory, 1, upto, &failure) >= 0);
        CHECK(find_segments(1, firsts, 64) > 0);
        check_epochs(source, firsts[0] - 1);
        if (firsts[0] > 2) CHECK_INT(epoch_of(source, 1, firsts[0] - 2, &epoch), TIDEMARK_EPRUNED);
        CHECK_INT(epoch_of(source, 1, 0, &epoch), 0);
    }
    tidemark_wal_source_close(source);
}

/* Beside a writer: a newest segment without a batch, and with one that is not durable. */
static void epoch_beside_a_writer(void) {
    uint64_t epoch;
    make_epochs();
    put_bytes(segment_path(1, EPOCHS * EACH + 1), 0, "", 0);
    tidemark_wal_source *source = open_source(log_io);
    check_epochs(source, 0);
    tidemark_wal *wal = open_writer(1, 300);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    check_epochs(source, 0);
    CHECK_INT(epoch_of(source, 1, EPOCHS * EACH + 1, &epoch), TIDEMARK_EAHEAD);
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    CHECK_INT(epoch_of(source, 1, EPOCHS * EACH + 1, &epoch), 0);
    CHECK(epoch == tidemark_wal_epoch(wal));
    check_epochs(source, 0);
    close_log(wal);
    tidemark_wal_source_close(source);
}

/* Another process prunes after the listing. */
static int64_t removed_first;

static int removing_openat(int at, const char *name, int flags, mode_t mode) {
    if (removed_first != 0 && strstr(name, ".wal") != NULL) {
        removed_first = 0;
        CHECK(tidemark_wal_prune_io(&tidemark_io_system, directory, 1, 50, &failure) > 0);
    }
    return fault_openat(at, name, flags, mode);
}

static void epoch_of_what_is_removed_or_damaged(void) {
    struct tidemark_io removing = fault_io;
    uint64_t epoch;
    int64_t firsts[64];
    removing.openat = removing_openat;
    make_epochs();
    tidemark_wal_source *source = open_source(&removing);
    removed_first = 1;
    CHECK_INT(epoch_of(source, 1, 30, &epoch), TIDEMARK_EPRUNED);
    CHECK(find_segments(1, firsts, 64) > 4);
    check_epochs(source, firsts[0] - 1);
    /* a hole: the segment before it does not hold the records that are gone */
    drop_file(segment_path(1, 64));
    drop_file(segment_path(1, 67));
    CHECK_INT(epoch_of(source, 1, 60, &epoch), 0);
    CHECK_INT(epoch_of(source, 1, 64, &epoch), TIDEMARK_ECORRUPT);
    CHECK_INT(epoch_of(source, 1, 69, &epoch), TIDEMARK_ECORRUPT);
    CHECK_INT(epoch_of(source, 1, 70, &epoch), 0);
    /* a damaged header */
    put_bytes(segment_path(1, 76), 20, "damage", 6);
    CHECK_INT(epoch_of(source, 1, 78, &epoch), TIDEMARK_ECORRUPT);
    CHECK(strstr(failure.message, "00001-00000000000000000076.wal: offset 0") != NULL);
    CHECK_INT(epoch_of(source, 1, 107, &epoch), 0);
    if (truncate(segment_path(1, 106), 10) < 0) abort();
    CHECK_INT(epoch_of(source, 1, 107, &epoch), TIDEMARK_ECORRUPT);
    for (size_t i = 0, count = find_segments(1, firsts, 64); i < count; i++) drop_file(segment_path(1, firsts[i]));
    CHECK_INT(epoch_of(source, 1, 107, &epoch), TIDEMARK_ELOST);
    tidemark_wal_source_close(source);
}

/* ---- what no writer of this version leaves ---- */

/* Open, reader and verify refuse it, and the segments stay as they are. */
static void check_refused(int expected, const char *in_message) {
    static struct texts texts;
    struct snapshot before;
    tidemark_wal_report report;
    tidemark_wal_options options = log_options(300, 0);
    int code;
    snapshot_take(&before);
    CHECK(open_log(&options, &code) == NULL);
    CHECK_INT(code, expected);
    if (strstr(failure.message, in_message) == NULL) CHECK_STR(failure.message, in_message);
    CHECK_INT(read_texts(1, 0, 0, &texts), expected);
    if (strstr(failure.message, in_message) == NULL) CHECK_STR(failure.message, in_message);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), expected);
    if (strstr(failure.message, in_message) == NULL) CHECK_STR(failure.message, in_message);
    CHECK(are_segments_same(&before));
    snapshot_drop(&before);
}

static void make_closed(int count) {
    begin_log_test();
    tidemark_wal *wal = open_writer(0, 300);
    for (int n = 0; n < count; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
}

static void two_epochs_in_a_segment(void) {
    make_closed(4);
    uint64_t epoch = identity_of_log().epoch;
    unsigned char higher[16];
    tidemark_put64(higher, epoch + 1);
    tidemark_put64(higher + 8, epoch);
    forge(segment_path(1, 1), 225, 16, higher, 16); /* the last batch, which follows the others */
    check_refused(TIDEMARK_ECORRUPT, "a segment has one epoch");
}

static void other_versions(void) {
    static const unsigned char versions[] = {0, 1, 2, 4, 9, 255};
    static const unsigned char flags[] = {2, 3, 0x80, 0xFE};
    char message[64];
    for (off_t offset = 0; offset <= 225; offset += 75) {
        for (size_t i = 0; i < sizeof versions; i++) {
            make_closed(4);
            forge(segment_path(1, 1), offset, 4, &versions[i], 1);
            (void)snprintf(message, sizeof message, "version %d,", versions[i]);
            check_refused(TIDEMARK_EUNSUPPORTED, message);
        }
        for (size_t i = 0; i < sizeof flags; i++) {
            make_closed(4);
            forge(segment_path(1, 1), offset, 5, &flags[i], 1);
            (void)snprintf(message, sizeof message, "flags %02x", flags[i]);
            check_refused(TIDEMARK_EUNSUPPORTED, message);
        }
    }
    /* above the head, where a torn batch would be cut: verify and open */
    make_closed(3);
    unsigned char whole[75];
    tidemark_wal_report report;
    tidemark_wal_options options = log_options(300, 0);
    int code;
    get_bytes(segment_path(1, 1), 150, whole, sizeof whole);
    put_bytes(segment_path(1, 1), 225, whole, sizeof whole);
    forge(segment_path(1, 1), 225, 4, &versions[4], 1);
    CHECK(open_log(&options, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EUNSUPPORTED);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), TIDEMARK_EUNSUPPORTED);
    CHECK_INT(file_size(segment_path(1, 1)), 300);
}

static void put_note(const void *bytes, uint32_t length) {
    tidemark_state *heads;
    tidemark_note note = {1, length, bytes};
    CHECK_INT(tidemark_state_open_io(&fault_io, heads_path, NULL, 0, TIDEMARK_OPEN_EXISTING, &heads, &failure), 0);
    CHECK_INT(tidemark_state_checkpoint(heads, &note, 1, &failure), 0);
    tidemark_state_release(heads);
}

static void other_notes(void) {
    static struct texts texts;
    unsigned char note[40] = "TMLG\3";
    make_closed(4);
    put_note("\1\2\3\4\5\6\7\10\11\0\0\0", 12);
    check_refused(TIDEMARK_EUNSUPPORTED, "version 1,");
    for (uint32_t length = 5; length <= sizeof note; length += 5) {
        put_note(note, length);
        check_refused(TIDEMARK_EUNSUPPORTED, "version 3,");
        CHECK_INT(read_texts(1, 0, TIDEMARK_READ_ARCHIVE, &texts), TIDEMARK_EUNSUPPORTED);
        CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 3, &failure), TIDEMARK_EUNSUPPORTED);
    }
    note[4] = 2;
    note[5] = 1; /* a router */
    tidemark_put32(note + 8, 1);
    put_note(note, 36);
    check_refused(TIDEMARK_EUNSUPPORTED, "router of kind 1");
}

/* ---- another writer ---- */

/* Readers compare what they have read when there was another writer, and only then: heads without a live file are
 * opened at each look. */
static void turns(void) {
    make_closed(4);
    for (int live = 0; live < 2; live++) {
        if (!live) CHECK_INT(unlink(heads_live_path), 0);
        tidemark_wal_source *source = open_source(log_io);
        uint64_t turn = source->turn;
        for (int n = 0; n < 3; n++) {
            CHECK_INT(tidemark_wal_source_look_now(source, &failure), 0);
            CHECK_INT(source->turn - turn, 0);
        }
        close_log(open_writer(0, 0));
        CHECK_INT(tidemark_wal_source_look_now(source, &failure), 0);
        CHECK_INT(source->turn - turn, 1);
        tidemark_wal_source_close(source);
    }
}

/* ---- far above the head ---- */

/* The header says in 32 bits how many records are not durable. */
static void more_undurable_than_a_header_can_say(void) {
    for (int64_t above = UINT32_MAX - INT64_C(2); above <= UINT32_MAX + INT64_C(2); above++) {
        begin_log_test();
        tidemark_wal *wal = open_writer(1, 0);
        CHECK_INT(append_next(wal, 1, "old"), 0);
        wal->shards[0].last_seqno = above;
        CHECK_INT(append_next(wal, 1, "old"), 0);
        CHECK_INT(head_of(wal, 1), above > UINT32_MAX ? above : 0);
        unsigned char header[TIDEMARK_BATCH_HEADER];
        get_bytes(segment_path(1, 1), 75, header, sizeof header);
        CHECK_INT(tidemark_get32(header + 52), above > UINT32_MAX ? 0 : above);
        abandon(wal);
    }
}

int main(void) {
    make_directory();
    set_log_paths();
    RUN_LOG(archives);
    RUN_LOG(damaged_archives);
    RUN_LOG(another_log_of_that_name);
    RUN_LOG(heads_with_another_id);
    RUN_LOG(epoch_of_every_seqno);
    RUN_LOG(epoch_beside_a_writer);
    RUN_LOG(epoch_of_what_is_removed_or_damaged);
    RUN_LOG(two_epochs_in_a_segment);
    RUN_LOG(other_versions);
    RUN_LOG(other_notes);
    RUN_LOG(turns);
    RUN_LOG(more_undurable_than_a_header_can_say);
    return FINISH();
}
