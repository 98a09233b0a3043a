/* Torn tails: kept whole and durably before they are cut, pruned with their segment, never taken for one; and what is
 * evidence that a torn batch had been durable: later batches of this directory, not the bytes of a record. */
#define _GNU_SOURCE
#include "wal_cases.h"

#define ENDS 300 /* offset where the whole batches of the segment end: four of 75 bytes */

static const uint32_t one[] = {1};

static tidemark_wal *open_one(int unsynced, int *code) {
    tidemark_wal_options options = {.shards = one, .shard_count = 1, .segment_bytes = 8192, .unsynced = unsynced};
    return open_log(&options, code);
}

/* A closed log of one shard with records 1 to 4. */
static uint64_t make_log(void) {
    int code;
    tidemark_wal *wal = open_one(0, &code);
    uint64_t epoch = tidemark_wal_epoch(wal);
    for (int n = 0; n < 4; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    fault_power_loss(directory, FAULT_LOSE_NOTHING);
    return epoch;
}

static void put_tail(int64_t first, off_t offset, const void *bytes, size_t length) {
    put_bytes(segment_path(1, first), offset, bytes, length);
}

static const unsigned char torn_bytes[700] = {'T', 'M', 'W', 'B', 3, 0, 1, 0, 9, 9, 9};

/* Opens, and checks that the tail of segment `first` was kept so. */
static void check_kept(int64_t first, off_t offset, const unsigned char *tail, size_t length) {
    char name[128], where[384];
    unsigned char *bytes;
    size_t size;
    int code;
    tidemark_wal *wal = open_one(0, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (wal == NULL) return;
    (void)snprintf(name, sizeof name, "00001-%020lld.wal.cut-%lld-%016llx", (long long)first, (long long)offset,
                   (unsigned long long)tidemark_wal_epoch(wal));
    (void)snprintf(where, sizeof where, "%s/%s", directory, name);
    bool told = false;
    for (size_t i = 0; tidemark_wal_recovery(wal, i) != NULL; i++)
        told |= strstr(tidemark_wal_recovery(wal, i), name) != NULL;
    CHECK(told);
    close_log(wal);
    CHECK(exists(where));
    if (!exists(where)) return;
    bytes = read_file(where, &size);
    CHECK_INT(size, length);
    CHECK(memcmp(bytes, tail, length) == 0);
    free(bytes);
    if (offset > 0) CHECK_INT(file_size(segment_path(1, first)), offset);
    else CHECK(!exists(segment_path(1, first)));
    check_verify();
}

static void bytes_and_name(void) {
    unsigned char long_tail[40000];
    (void)make_log();
    put_tail(1, ENDS, torn_bytes, sizeof torn_bytes);
    check_kept(1, ENDS, torn_bytes, sizeof torn_bytes);
    /* again, under another name */
    for (size_t i = 0; i < sizeof long_tail; i++) long_tail[i] = (unsigned char)(i * 7 + 1);
    put_tail(1, ENDS, long_tail, sizeof long_tail);
    check_kept(1, ENDS, long_tail, sizeof long_tail);
    CHECK_INT(count_names(".cut-300-", NULL), 2);
    /* zeros after it are a part of it; a byte is enough */
    memset(long_tail, 0, 5000);
    long_tail[2] = 1;
    put_tail(1, ENDS, long_tail, 5000);
    check_kept(1, ENDS, long_tail, 5000);
    /* of a segment without a batch, which is removed */
    put_tail(5, 0, torn_bytes, sizeof torn_bytes);
    check_kept(5, 0, torn_bytes, sizeof torn_bytes);
    CHECK_INT(count_names(".cut-", NULL), 4);
    /* of a segment that a copy replaces, because the lock is new */
    drop_file(lock_path);
    put_tail(1, ENDS, torn_bytes, sizeof torn_bytes);
    check_kept(1, ENDS, torn_bytes, sizeof torn_bytes);
    check_texts(1, 4, 4);
}

static void zeros_are_not_kept(void) {
    static const unsigned char zeros[5000];
    int code;
    (void)make_log();
    put_tail(1, ENDS, zeros, sizeof zeros);
    close_log(open_one(0, &code));
    put_tail(5, 0, zeros, sizeof zeros);
    close_log(open_one(0, &code));
    CHECK_INT(count_names(".cut-", NULL), 0);
    CHECK_INT(file_size(segment_path(1, 1)), ENDS);
    CHECK(!exists(segment_path(1, 5)));
}

/* ---- never a segment, and pruned with one ---- */

static void pruned_with_its_segment(void) {
    int code;
    tidemark_wal_report report;
    (void)make_log();
    put_tail(1, ENDS, torn_bytes, sizeof torn_bytes);
    tidemark_wal *wal = open_one(0, &code);
    for (int n = 0; n < 4; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    put_tail(5, ENDS, torn_bytes, sizeof torn_bytes);
    wal = open_one(0, &code);
    for (int n = 0; n < 4; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    CHECK_INT(count_names(".wal.cut-", NULL), 2);
    int64_t firsts[8];
    CHECK_INT(find_segments(1, firsts, 8), 3);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), 0);
    CHECK_INT(report.segments, 3);
    check_texts(1, 12, 12);
    /* one of another shard, and what only looks like one, stay */
    put_bytes(heads_path, 0, "", 0);
    char other[256], foreign[256];
    (void)snprintf(other, sizeof other, "%s/00002-%020d.wal.cut-0-0000000000000001", directory, 1);
    (void)snprintf(foreign, sizeof foreign, "%s/00001-1.wal.cut-0-0000000000000001", directory);
    put_bytes(other, 0, "x", 1);
    put_bytes(foreign, 0, "x", 1);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 3, &failure), 0);
    CHECK_INT(count_names(".wal.cut-", NULL), 4);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 4, &failure), 1);
    CHECK_INT(count_names("00001-00000000000000000001.wal", NULL), 0);
    CHECK_INT(count_names("00001-00000000000000000005.wal.cut-300-", NULL), 1);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 12, &failure), 1);
    CHECK_INT(count_names("00001-00000000000000000005.wal", NULL), 0);
    CHECK_INT(count_names(".wal.cut-", NULL), 2);
    CHECK(exists(other) && exists(foreign));
    drop_heads(); /* they name no shard either */
    tidemark_mark accept = {1, 12};
    tidemark_wal_options options = {.accept_loss = &accept, .accept_loss_count = 1};
    wal = open_log(&options, &code);
    CHECK_INT(code, 0);
    if (wal != NULL) CHECK_INT(wal->shard_count, 1);
    if (wal != NULL) close_log(wal);
}

/* ---- a failure at each call ---- */

/* The torn bytes are in the segment or, whole, in a kept file. */
static bool is_tail_there(void) {
    struct snapshot files;
    bool found = false;
    snapshot_take(&files);
    for (size_t i = 0; i < files.count; i++) {
        size_t size = files.file[i].size;
        bool is_segment = strcmp(files.file[i].name, "00001-00000000000000000001.wal") == 0;
        size_t from = is_segment ? ENDS : 0;
        if (!is_segment && strstr(files.file[i].name, ".wal.cut-300-") == NULL) continue;
        found |=
            size >= from + sizeof torn_bytes && memcmp(files.file[i].bytes + from, torn_bytes, sizeof torn_bytes) == 0;
    }
    snapshot_drop(&files);
    return found;
}

static void open_killed(void) {
    int code;
    (void)open_one(0, &code);
    _exit(code == 0 ? 42 : 1);
}

static bool try_call(enum fault_mode mode, int error, unsigned only, unsigned loss, unsigned at) {
    int code;
    bool through;
    begin_log_test();
    (void)make_log();
    (void)unlink(heads_live_path);
    put_tail(1, ENDS, torn_bytes, sizeof torn_bytes);
    model->epoch = 0;
    fault_set(mode, at, error, only);
    if (mode >= FAULT_KILL_BEFORE) {
        int status = in_child(open_killed);
        through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        if (through) check_failures--; /* in_child takes 42 for a failure */
    } else {
        tidemark_wal *wal = open_one(0, &code);
        through = fault->failed == 0;
        fault_clear();
        if (wal != NULL) abandon(wal);
        if (error == ENOSPC && code < 0)
            CHECK(count_names(".cut-", NULL) == 0 || file_size(segment_path(1, 1)) == ENDS);
    }
    fault_clear();
    if (loss != FAULT_LOSE_NOTHING) restart(loss);
    CHECK(is_tail_there());
    model->epoch = 0;
    tidemark_wal *wal = open_one(0, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (wal == NULL) return true;
    CHECK_INT(append_next(wal, 1, "new"), 0);
    close_log(wal);
    CHECK(is_tail_there());
    CHECK(count_names(".cut-", NULL) >= 1);
    check_texts(1, 4, 5);
    return through;
}

static void sweep(enum fault_mode mode, int error, unsigned only) {
    static const unsigned losses[] = {FAULT_LOSE_ALL, FAULT_LOSE_NOTHING, 77, 0xABCDEF};
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        for (unsigned at = 1; check_failures == 0; at++) {
            bool through = try_call(mode, error, only, losses[i], at);
            if (check_failures != 0)
                printf("    mode %d, errno %d, loss %x, call %u\n", (int)mode, error, losses[i], at);
            if (through) break;
        }
    }
}

static void a_failure_at_each_call(void) {
    sweep(FAULT_ONCE, EIO, ~(1u << FAULT_LOCK));
    sweep(FAULT_FOR_GOOD, ENOSPC, 1u << FAULT_PWRITE | 1u << FAULT_OPENAT);
}

static void killed_at_each_call(void) {
    sweep(FAULT_KILL_BEFORE, EIO, 0);
    sweep(FAULT_KILL_HALFWAY, EIO, 1u << FAULT_PWRITE);
}

/* Room for a part of the tail only: nothing is cut, and the part does not stay. */
static void a_full_disk(void) {
    int code;
    (void)make_log();
    put_tail(1, ENDS, torn_bytes, sizeof torn_bytes);
    struct snapshot before;
    snapshot_take(&before);
    for (unsigned at = 1; at <= 5; at++) {
        fault_set(FAULT_FOR_GOOD, at, ENOSPC, 1u << FAULT_PWRITE);
        fault->most = 200;
        tidemark_wal *wal = open_one(0, &code);
        fault_clear();
        bool is_kept = wal != NULL || count_names(".cut-", NULL) > 0;
        if (at <= 4) { /* the tail takes four writes; those before it are of the live file */
            CHECK_INT(code, TIDEMARK_EIO);
            CHECK(strstr(failure.message, "No space left on device") != NULL);
        }
        if (!is_kept) CHECK(are_segments_same(&before));
        else CHECK_INT(file_size(segment_path(1, 1)), ENDS);
        if (wal != NULL) abandon(wal);
        if (is_kept) break;
    }
    snapshot_drop(&before);
    CHECK(is_tail_there());
}

/* ---- evidence ---- */

static uint64_t own, last; /* epochs of the directory, and its last one */
static uint32_t log_id;

static size_t encode(unsigned char *bytes, uint64_t epoch, int64_t first, int64_t durable, const void *record,
                     size_t length) {
    tidemark_batch batch = {.shard = 1,
                            .count = 1,
                            .epoch = epoch,
                            .prev_epoch = epoch,
                            .first_seqno = first,
                            .durable_seqno = durable,
                            .log_id = log_id};
    tidemark_record records = {record, length};
    CHECK_INT(tidemark_batch_encode(&batch, &records, bytes, &failure), 0);
    return batch.size;
}

/* A log of three epochs; the newest segment, which is not closed, has records 9 and 10, of which heads know none. */
static off_t make_evidence_log(void) {
    int code;
    begin_log_test();
    own = make_log();
    tidemark_wal *wal = open_one(0, &code);
    for (int n = 0; n < 4; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    wal = open_one(1, &code);
    last = tidemark_wal_epoch(wal);
    log_id = tidemark_wal_log_id(wal);
    for (int n = 0; n < 2; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    off_t offset = wal->shards[0].offset;
    abandon(wal);
    if (truncate(segment_path(1, 9), offset) < 0) abort();
    (void)unlink(heads_live_path);
    fault_power_loss(directory, FAULT_LOSE_NOTHING);
    return offset;
}

/* What an opening makes of the bytes after record 10: 10 if it cuts them, or the code of the refusal. */
static int64_t verdict(void) {
    int code;
    tidemark_wal_report report;
    struct snapshot before;
    snapshot_take(&before);
    int verified = tidemark_wal_verify_io(log_io, directory, &report, &failure);
    model->epoch = 0;
    tidemark_wal *wal = open_one(0, &code);
    CHECK_INT(verified, code);
    if (wal == NULL) CHECK(are_segments_same(&before));
    snapshot_drop(&before);
    if (wal == NULL) return code;
    int64_t head = head_of(wal, 1);
    abandon(wal);
    return head;
}

/* A record holds a header of this log with a high claim; of its batch only a part was written. */
static void a_forged_claim(void) {
    static unsigned char inner[1024], outer[4096];
    for (int own_header = 0; own_header < 2; own_header++) {
        off_t offset = make_evidence_log();
        size_t length = encode(inner, last, 1000, 999, "x", 1);
        length += encode(inner + length, last, 1000, 999, "y", 1); /* two of them, each whole */
        size_t size = encode(outer, last, 11, 10, inner, length);
        for (size_t cut = 1; cut < size && check_failures == 0; cut++) {
            make_evidence_log();
            size = encode(outer, last, 11, 10, inner, encode(inner, own_header ? last : own - 1, 1000, 999, "x", 1));
            if (cut >= size) break;
            if (!own_header) memset(outer, 0xEE, TIDEMARK_BATCH_HEADER); /* lost, and the claim is of no epoch here */
            put_tail(9, offset, outer, cut);
            CHECK_INT(verdict(), 10);
            CHECK_INT(count_names(".cut-", NULL), 1);
            if (check_failures != 0) printf("    own header %d, cut at %zu\n", own_header, cut);
        }
    }
}

/* Claims of epochs that were not begun here, and what they must be to count; the torn batch has lost its header. */
static void which_claims_count(void) {
    static const struct {
        int of; /* 0: below own, 1: own, 2: the last, 3: above it */
        int64_t first, durable;
        int64_t verdict;
    } claims[] = {
        {0, 12, 11, 10},
        {3, 12, 11, 10},
        {2, 12, 10, 10}, /* says nothing of record 11 */
        {2, 12, 11, TIDEMARK_ECORRUPT},
        {2, 15, 12, TIDEMARK_ECORRUPT},
        {1, 12, 11, 10}, /* a segment has one epoch, this one another */
    };
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        unsigned char bytes[512];
        off_t offset = make_evidence_log();
        uint64_t epochs[] = {own - 1, own, last, last + 1};
        size_t torn = encode(bytes, last, 11, 10, "torn", 4);
        memset(bytes, 0xEE, torn);
        size_t size = torn + encode(bytes + torn, epochs[claims[i].of], claims[i].first, claims[i].durable, "later", 5);
        put_tail(9, offset, bytes, size);
        int64_t found = verdict();
        if (found != claims[i].verdict) printf("    claim %zu\n", i);
        CHECK_INT(found, claims[i].verdict);
    }
}

/* A real later batch: with the header of the torn one, and damage in each byte of it. */
static void a_later_batch_is_evidence(void) {
    for (size_t at = 0; at < 70 && check_failures == 0; at++) {
        unsigned char bytes[512];
        off_t offset = make_evidence_log();
        size_t torn = encode(bytes, last, 11, 10, "torn", 4);
        size_t size = torn + encode(bytes + torn, last, 12, 11, "later", 5);
        bytes[at] ^= 0x10;
        put_tail(9, offset, bytes, size);
        CHECK_INT(verdict(), TIDEMARK_ECORRUPT);
        CHECK(strstr(failure.message, "offset 150") != NULL || offset != 150);
    }
}

/* Heads that were restored from an older copy know fewer epochs than the segment itself. */
static void evidence_of_a_later_epoch_than_the_heads_know(void) {
    unsigned char bytes[512];
    char kept[256];
    int code;
    own = make_log();
    (void)snprintf(kept, sizeof kept, "%s/kept", directory);
    copy_file(heads_path, kept);
    tidemark_wal *wal = open_one(0, &code);
    last = tidemark_wal_epoch(wal);
    log_id = tidemark_wal_log_id(wal);
    for (int n = 0; n < 2; n++) CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    off_t offset = file_size(segment_path(1, 5));
    size_t torn = encode(bytes, last, 7, 6, "torn", 4);
    size_t size = torn + encode(bytes + torn, last, 8, 7, "later", 5);
    bytes[70] ^= 1;
    put_tail(5, offset, bytes, size);
    drop_heads();
    copy_file(kept, heads_path);
    CHECK_INT(verdict(), TIDEMARK_ECORRUPT);
}

int main(void) {
    make_directory();
    set_log_paths();
    RUN_LOG(bytes_and_name);
    RUN_LOG(zeros_are_not_kept);
    RUN_LOG(pruned_with_its_segment);
    RUN_LOG(a_failure_at_each_call);
    RUN_LOG(killed_at_each_call);
    RUN_LOG(a_full_disk);
    RUN_LOG(a_forged_claim);
    RUN_LOG(which_claims_count);
    RUN_LOG(a_later_batch_is_evidence);
    RUN_LOG(evidence_of_a_later_epoch_than_the_heads_know);
    return FINISH();
}
