/* A loss that is accepted while others have the log: a second writer is refused at every step, readers see the old log
 * or answer that it was replaced, and never a record of the new writer by the old heads. And the same command, epoch
 * included, after it was cut off anywhere. */
#define _GNU_SOURCE
#include "../../csrc/core/state_save.h"
#include "../../csrc/core/wal_source.h"
#include "wal_cases.h"

#define EACH 8

static const tidemark_mark newest_of_1[] = {{1, 4}};
static const tidemark_mark all_ends[] = {{1, 8}, {2, 8}, {5, 8}};

static tidemark_wal *open_accepting(const struct tidemark_io *io, const tidemark_mark *accept, size_t count,
                                    uint64_t epoch, int *code) {
    tidemark_wal *wal = NULL;
    tidemark_wal_options options = log_options(300, 1);
    options.accept_loss = accept;
    options.accept_loss_count = count;
    options.epoch = epoch;
    *code = tidemark_wal_open_io(io, directory, &options, &wal, &failure);
    return wal;
}

static void make_log(void) {
    for (int life = 0; life < 2; life++) {
        tidemark_wal *wal = open_log_or_stop(300, 0);
        for (size_t i = 0; i < LOG_SHARDS; i++) {
            for (int n = 0; n < EACH / 2; n++) CHECK_INT(append_next(wal, log_shards[i], "old"), 0);
        }
        close_log(wal);
    }
}

static tidemark_wal_reader *open_reader(uint32_t shard, int64_t after) {
    tidemark_wal_reader *reader = NULL;
    CHECK_INT(tidemark_wal_reader_open_io(&tidemark_io_system, directory, shard, after, 0, &reader, &failure), 0);
    return reader;
}

/* ---- at every step of an opening ---- */

static bool is_locked, is_observing;
static int observations;
static int saving_fd = -1; /* holds the save lock of a state file: a reader in this thread would wait for it for ever */
static tidemark_wal_reader *beside; /* opened before the loss, after seqno 4 of shard 1 */

/* Whether this may be what a reader answers while a log has lost records or is given new heads. */
static bool may_answer(int code) {
    return code == TIDEMARK_ETIMEOUT || code == TIDEMARK_ECORRUPT || code == TIDEMARK_ELOST ||
           code == TIDEMARK_EREPLACED || code == TIDEMARK_ENOT_FOUND;
}

static void check_old_texts(const struct texts *texts) {
    CHECK(texts->last <= EACH);
    for (int64_t seqno = texts->first; seqno <= texts->last; seqno++) CHECK(strncmp(texts->text[seqno], "old", 3) == 0);
}

static void observe(void) {
    static struct texts texts;
    int code;
    if (!is_locked || is_observing) return;
    is_observing = true;
    observations++;
    tidemark_wal *wal = open_accepting(&tidemark_io_system, newest_of_1, 1, 0, &code);
    CHECK(wal == NULL);
    CHECK_INT(code, TIDEMARK_ELOCKED);
    log_io = &tidemark_io_system;
    for (size_t i = 0; i < LOG_SHARDS && saving_fd < 0; i++) {
        code = read_texts(log_shards[i], 0, 0, &texts);
        if (!may_answer(code)) CHECK_INT(code, TIDEMARK_ETIMEOUT);
        check_old_texts(&texts);
    }
    texts.first = 5;
    texts.last = 4;
    code = saving_fd < 0 ? read_on(beside, &texts) : TIDEMARK_ETIMEOUT;
    if (!may_answer(code)) CHECK_INT(code, TIDEMARK_EREPLACED);
    check_old_texts(&texts);
    log_io = &fault_io;
    is_observing = false;
}

static int seen_openat(int at, const char *name, int flags, mode_t mode) {
    observe();
    return fault_openat(at, name, flags, mode);
}

static ssize_t seen_pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    observe();
    return fault_pwrite(fd, bytes, length, offset);
}

static int seen_ftruncate(int fd, off_t length) {
    observe();
    return fault_ftruncate(fd, length);
}

static int seen_fsync(int fd) {
    observe();
    return fault_fsync(fd);
}

static int seen_linkat(int from_at, const char *from, int at, const char *name, int flags) {
    observe();
    return fault_linkat(from_at, from, at, name, flags);
}

static int seen_unlinkat(int at, const char *name, int flags) {
    observe();
    return fault_unlinkat(at, name, flags);
}

static int seen_renameat(int from_at, const char *from, int at, const char *name) {
    observe();
    return fault_renameat(from_at, from, at, name);
}

static int seen_lock(int fd, short type, off_t byte, bool wait) {
    int result = fault_lock(fd, type, byte, wait);
    if (byte == 0 && result == 0) is_locked = true;
    if (byte == LOCK_SAVE && result == 0) saving_fd = type == F_WRLCK ? fd : -1;
    return result;
}

static int seen_close(int fd) {
    if (fd == saving_fd) saving_fd = -1;
    return fault_close(fd);
}

static struct tidemark_io seen_io(void) {
    struct tidemark_io io = fault_io;
    io.openat = seen_openat;
    io.pwrite = seen_pwrite;
    io.ftruncate = seen_ftruncate;
    io.fsync = seen_fsync;
    io.linkat = seen_linkat;
    io.unlinkat = seen_unlinkat;
    io.renameat = seen_renameat;
    io.lock = seen_lock;
    io.close = seen_close;
    return io;
}

static void observe_acceptance(bool heads_are_lost) {
    struct tidemark_io io = seen_io();
    int code;
    begin_log_test();
    make_log();
    beside = open_reader(1, 4);
    if (heads_are_lost) drop_heads();
    else drop_file(segment_path(1, 5));
    is_locked = false;
    observations = 0;
    tidemark_wal *wal =
        heads_are_lost ? open_accepting(&io, all_ends, 3, 0, &code) : open_accepting(&io, newest_of_1, 1, 0, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    CHECK(observations > 20);
    is_locked = false;
    tidemark_wal_reader_close(beside);
    if (wal != NULL) close_log(wal);
    check_verify();
}

static void beside_every_step(void) {
    observe_acceptance(false);
    observe_acceptance(true);
}

/* ---- readers that go by the old heads ---- */

/* What the new writer has not synced lies below the old head. */
static void readers_of_the_old_heads(void) {
    static struct texts texts;
    int code;
    for (int64_t after = 0; after <= 4; after++) {
        begin_log_test();
        make_log();
        tidemark_wal_reader *reader = open_reader(1, after);
        tidemark_wal_source *source;
        CHECK_INT(tidemark_wal_source_open_io(&tidemark_io_system, directory, false, &source, &failure), 0);
        texts.first = after + 1;
        texts.last = after;
        drop_file(segment_path(1, 5));
        tidemark_wal *wal = open_accepting(&fault_io, newest_of_1, 1, 0, &code);
        CHECK_INT(code, 0);
        if (wal == NULL) return;
        for (int n = 0; n < 4; n++) CHECK_INT(append_next(wal, 1, "new"), 0);
        uint64_t epoch = 0;
        CHECK_INT(tidemark_wal_source_epoch(source, 1, 5, &epoch, &failure), TIDEMARK_EAHEAD);
        CHECK_INT(tidemark_wal_source_epoch(source, 1, 4, &epoch, &failure), 0);
        for (int i = 0; i < 2; i++) { /* for good */
            CHECK_INT(read_on(reader, &texts), TIDEMARK_EREPLACED);
            check_old_texts(&texts);
        }
        tidemark_wal_source_close(source);
        tidemark_wal_reader_close(reader);
        CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
        close_log(wal);
        check_texts(1, 4, 8);
    }
}

/* A reader in the middle of a segment, which finds first that the next one is gone and then another writer's. */
static void a_reader_at_the_end_of_a_segment(void) {
    static unsigned char bytes[4096];
    static struct texts texts = {5, 4, {0}, {{0}}};
    tidemark_batch batch;
    int code;
    make_log();
    tidemark_wal_reader *reader = open_reader(1, 0);
    for (int64_t seqno = 1; seqno <= 4; seqno++) {
        CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), 0);
        CHECK_INT(tidemark_wal_reader_read(reader, bytes, &batch, &failure), 0);
    }
    drop_file(segment_path(1, 5));
    CHECK_INT(read_on(reader, &texts), TIDEMARK_ECORRUPT);
    tidemark_wal *wal = open_accepting(&fault_io, newest_of_1, 1, 0, &code);
    CHECK_INT(code, 0);
    CHECK_INT(read_on(reader, &texts), TIDEMARK_EREPLACED); /* still nothing there, but no damage any more */
    CHECK_INT(append_next(wal, 1, "new"), 0);
    CHECK_INT(read_on(reader, &texts), TIDEMARK_EREPLACED);
    CHECK_INT(texts.last, 4);
    tidemark_wal_reader_close(reader);
    close_log(wal);
}

/* A new live file alone is what a restart of the machine makes: the same history. */
static void a_new_live_file_is_the_same_history(void) {
    static struct texts texts = {0};
    tidemark_wal_reader *reader = NULL;
    make_log();
    CHECK_INT(tidemark_wal_reader_open_io(&fault_io, directory, 1, 0, 0, &reader, &failure), 0);
    texts.first = 1;
    CHECK_INT(read_on(reader, &texts), TIDEMARK_ETIMEOUT);
    fault->boot[0]++;
    drop_file(heads_live_path);
    tidemark_wal *wal = open_log_or_stop(300, 0);
    CHECK_INT(append_next(wal, 1, "new"), 0);
    struct timespec pause = {0, 20000000};
    int code = TIDEMARK_ETIMEOUT;
    for (int i = 0; i < 500 && texts.last < 9 && code == TIDEMARK_ETIMEOUT; i++) {
        code = read_on(reader, &texts);
        (void)nanosleep(&pause, NULL);
    }
    CHECK_INT(code, TIDEMARK_ETIMEOUT);
    CHECK_INT(texts.last, 9);
    CHECK_STR(texts.text[9], "new 1 9");
    tidemark_wal_reader_close(reader);
    close_log(wal);
}

/* ---- the same command again ---- */

static enum fault_mode mode;
static unsigned at_call;

static void accept_epoch_7(void) {
    int code;
    fault_set(mode, at_call, EIO, 0);
    (void)open_accepting(&fault_io, all_ends, 3, UINT64_C(1) << 61, &code);
    _exit(code == 0 ? 42 : 1);
}

/* An explicit epoch gives the kept files the same names at each attempt. */
static void repeated_with_an_explicit_epoch(void) {
    bool through = false;
    for (at_call = 1; !through && check_failures == 0; at_call++) {
        static const unsigned char torn[200] = "TMWB";
        int code;
        begin_log_test();
        make_log();
        fault_power_loss(directory, FAULT_LOSE_NOTHING);
        (void)unlink(heads_live_path);
        put_bytes(heads_path, 20, "damage", 6);
        put_bytes(segment_path(2, 5), file_size(segment_path(2, 5)), torn, sizeof torn);
        mode = at_call % 2 ? FAULT_KILL_AFTER : FAULT_KILL_BEFORE;
        int status = in_child(accept_epoch_7);
        through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        if (through) check_failures--; /* in_child takes 42 for a failure */
        fault_clear();
        if (at_call % 3 == 0) restart(FAULT_LOSE_ALL);
        bool is_begun = identity_of_log().epoch == UINT64_C(1) << 61;
        tidemark_wal *wal = open_accepting(&fault_io, all_ends, 3, UINT64_C(1) << 61, &code);
        if (code != (is_begun ? TIDEMARK_EFENCED : 0)) printf("    call %u: %s\n", at_call, failure.message);
        CHECK_INT(code, is_begun ? TIDEMARK_EFENCED : 0);
        if (wal == NULL) wal = open_accepting(&fault_io, NULL, 0, 0, &code);
        CHECK_INT(code, 0);
        if (wal != NULL) close_log(wal);
        CHECK_INT(count_names("heads.lost-2000000000000000", NULL), 1);
        CHECK_INT(count_names(".cut-", NULL), 1);
        check_verify();
    }
    CHECK(at_call > 60);
}

int main(void) {
    make_directory();
    set_log_paths();
    RUN_LOG(beside_every_step);
    RUN_LOG(readers_of_the_old_heads);
    RUN_LOG(a_reader_at_the_end_of_a_segment);
    RUN_LOG(a_new_live_file_is_the_same_history);
    RUN_LOG(repeated_with_an_explicit_epoch);
    return FINISH();
}
