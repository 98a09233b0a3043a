/* Epochs: how one is made, whatever the clock and the random numbers say; how it is written for people; that each
 * opening of a log begins one above all others, also after it was cut off anywhere, and another one than the same
 * opening of a copy; explicit ones; the own epoch of a directory. */
#define _GNU_SOURCE
#include "../../csrc/core/epoch.h"
#include "wal_cases.h"

#define SECONDS    1795860251 /* 2026-11-28T10:04:11Z */
#define AT(second) ((uint64_t)(second) << 30)
#define ONES       UINT64_C(0x3FFFFFFF)

/* ---- making one ---- */

static int64_t fake_ms;
static uint32_t fake_random;
static int fake_random_result;

static int64_t fake_clock_ms(void) {
    return fake_ms;
}

static int fake_random_id(unsigned char id[16]) {
    memset(id, 0xA5, 16);
    tidemark_put32(id, fake_random);
    errno = EIO;
    return fake_random_result;
}

static uint64_t make_epoch(int64_t ms, uint64_t last, uint32_t random) {
    struct tidemark_io io = fault_io;
    uint64_t epoch = 0;
    io.clock_ms = fake_clock_ms;
    io.random_id = fake_random_id;
    fake_ms = ms;
    fake_random = random;
    errno = 0;
    return tidemark_epoch_make(&io, last, &epoch) == 0 ? epoch : 0;
}

static void from_clock_and_random_numbers(void) {
    static const struct {
        int64_t ms;
        uint64_t last;
        uint32_t random;
        uint64_t epoch;
    } cases[] = {
        {SECONDS * INT64_C(1000), 0, 0, AT(SECONDS)},
        {SECONDS * INT64_C(1000) + 999, 0, 0x1f3a09c2, AT(SECONDS) + 0x1f3a09c2},
        {SECONDS * INT64_C(1000), 0, UINT32_MAX, AT(SECONDS) + ONES},
        /* an hour ahead, then right again: its seconds do not go back */
        {SECONDS * INT64_C(1000), AT(SECONDS + 3600) + 7, 8, AT(SECONDS + 3600) + 8},
        {SECONDS * INT64_C(1000), AT(SECONDS + 3600) + 7, 7, AT(SECONDS + 3601) + 7},
        {SECONDS * INT64_C(1000), AT(SECONDS + 3600) + 7, 6, AT(SECONDS + 3601) + 6},
        {SECONDS * INT64_C(1000), AT(SECONDS + 3600) + ONES, 0, AT(SECONDS + 3601)},
        {SECONDS * INT64_C(1000), AT(SECONDS + 3600) + ONES, UINT32_MAX, AT(SECONDS + 3601) + ONES},
        /* frozen */
        {SECONDS * INT64_C(1000), AT(SECONDS) + 9, 10, AT(SECONDS) + 10},
        {SECONDS * INT64_C(1000), AT(SECONDS) + 9, 3, AT(SECONDS + 1) + 3},
        /* before 1970, and at its beginning */
        {-1, 0, 1, 1},
        {-86400000, 0, 5, 5},
        {INT64_MIN, 0, 0, AT(1)},
        {0, 0, 0, AT(1)},
        {0, 0, UINT32_MAX, ONES},
        {-86400000, 5, 6, 6},
        {-86400000, 5, 5, AT(1) + 5},
        /* beyond 2106 */
        {(INT64_C(1) << 32) * 1000 - 1, 0, 2, AT(UINT32_MAX) + 2},
        {(INT64_C(1) << 32) * 1000, 0, 2, AT(UINT32_MAX) + 2},
        {INT64_MAX, 0, 2, AT(UINT32_MAX) + 2},
        {INT64_MAX, AT(UINT32_MAX) + 2, 2, AT(INT64_C(1) << 32) + 2},
        /* after the highest explicit one */
        {SECONDS * INT64_C(1000), TIDEMARK_EPOCH_EXPLICIT_MAX, 0, AT(INT64_C(1) << 32)},
        {SECONDS * INT64_C(1000), TIDEMARK_EPOCH_EXPLICIT_MAX, UINT32_MAX, AT(INT64_C(1) << 32) + ONES},
        {0, (INT64_C(1) << 62), 1, (UINT64_C(1) << 62) + 1},
        /* the last ones there are */
        {0, TIDEMARK_EPOCH_MAX - 1, UINT32_MAX, TIDEMARK_EPOCH_MAX},
        {0, AT((INT64_C(1) << 33) - 2) + ONES, 0, AT((INT64_C(1) << 33) - 1)},
        {0, AT((INT64_C(1) << 33) - 1), 0, 0},
        {0, TIDEMARK_EPOCH_MAX, 0, 0},
        {INT64_MAX, TIDEMARK_EPOCH_MAX, UINT32_MAX, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t epoch = make_epoch(cases[i].ms, cases[i].last, cases[i].random);
        if (epoch != cases[i].epoch) printf("    case %zu\n", i);
        CHECK_INT(epoch, cases[i].epoch);
        if (epoch == 0) CHECK_INT(errno, ERANGE);
    }
    fake_random_result = -1;
    CHECK_INT(make_epoch(0, 0, 1), 0);
    CHECK_INT(errno, EIO);
    fake_random_result = 0;
}

/* Two copies of a log know the same last epoch, so nothing may come from that but the second. */
static void never_from_the_last(void) {
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t random = i * 0x9E3779B9u;
        uint64_t lower = make_epoch(SECONDS * INT64_C(1000), AT(SECONDS - 1) + (random ^ 1) % ONES, random);
        uint64_t same = make_epoch(SECONDS * INT64_C(1000), AT(SECONDS) + i % 2 * ONES, random);
        CHECK_INT(lower, AT(SECONDS) + (random & ONES));
        CHECK_INT(same & ONES, random & ONES);
    }
}

static void text(const char *expected, uint64_t epoch) {
    char buffer[TIDEMARK_EPOCH_TEXT];
    memset(buffer, 'x', sizeof buffer);
    CHECK(tidemark_epoch_text(epoch, buffer) == buffer);
    CHECK_STR(buffer, expected);
}

static void for_people(void) {
    text("2026-11-28T10:04:11Z#1f3a09c2", AT(SECONDS) + 0x1f3a09c2);
    text("1970-01-01T00:00:00Z#00000000", 0);
    text("1970-01-01T00:00:00Z#00000007", 7);
    text("1970-01-01T00:00:01Z#3fffffff", AT(1) + ONES);
    text("2106-02-07T06:28:15Z#3fffffff", TIDEMARK_EPOCH_EXPLICIT_MAX);
    text("2242-03-16T12:56:31Z#3fffffff", TIDEMARK_EPOCH_MAX);
}

/* ---- openings ---- */

static tidemark_wal *open_at(int64_t clock_ms, uint64_t epoch, int *code) {
    tidemark_wal_options options = log_options(300, 0);
    fault->clock_ms = clock_ms;
    options.epoch = epoch;
    return open_log(&options, code); /* which checks that it is above the one before */
}

/* Opens, appends to shard 1, closes; the epoch. */
static uint64_t live_at(int64_t clock_ms, uint64_t wanted) {
    int code;
    tidemark_wal *wal = open_at(clock_ms, wanted, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (wal == NULL) return 0;
    uint64_t epoch = tidemark_wal_epoch(wal);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    CHECK_INT(identity_of_log().epoch, epoch);
    return epoch;
}

static void whatever_the_clock_says(void) {
    static const int64_t clocks[] = {SECONDS,          SECONDS + 3600, SECONDS,        SECONDS, SECONDS - 86400, -1000,
                                     INT64_C(1) << 33, SECONDS,        SECONDS + 7200, 0,       SECONDS};
    static struct texts texts;
    int64_t count = sizeof clocks / sizeof *clocks;
    for (int64_t i = 0; i < count; i++) (void)live_at(clocks[i] * 1000 + 1, 0);
    CHECK_INT(read_texts(1, 0, 0, &texts), TIDEMARK_ETIMEOUT);
    CHECK_INT(texts.last, count);
    for (int64_t seqno = 2; seqno <= texts.last; seqno++) CHECK(texts.epoch[seqno] > texts.epoch[seqno - 1]);
    CHECK_INT(texts.epoch[1] >> 30, SECONDS);
    CHECK_INT(texts.epoch[2] >> 30, SECONDS + 3600);
    check_verify();
}

/* Both are opened in one second, by writers that know the same last epoch. */
static void copies(void) {
    char original[sizeof directory], copy[sizeof directory + 8], from[256], to[256];
    struct snapshot files;
    uint64_t last = live_at(SECONDS * INT64_C(1000), 0);
    (void)snprintf(original, sizeof original, "%s", directory);
    (void)snprintf(copy, sizeof copy, "%s.copy", directory);
    snapshot_take(&files);
    if (mkdir(copy, 0700) < 0) abort();
    for (size_t i = 0; i < files.count; i++) {
        (void)snprintf(from, sizeof from, "%s/%.80s", original, files.file[i].name);
        (void)snprintf(to, sizeof to, "%s/%.80s", copy, files.file[i].name);
        copy_file(from, to);
    }
    snapshot_drop(&files);
    uint64_t first = live_at(SECONDS * INT64_C(1000), 0);
    set_paths(copy);
    set_log_paths();
    model->epoch = last;
    uint64_t second = live_at(SECONDS * INT64_C(1000), 0);
    CHECK(first != second);
    CHECK(first > last && second > last);
    CHECK((first & ONES) != (second & ONES));
    remove_all();
    (void)rmdir(directory);
    set_paths(original);
    set_log_paths();
}

static unsigned kill_at;
static enum fault_mode kill_mode;

static void open_and_be_killed(void) {
    int code;
    fault_set(kill_mode, kill_at, EIO, 0);
    tidemark_wal *wal = open_at(SECONDS * INT64_C(1000), 0, &code);
    fault_clear();
    if (wal != NULL) CHECK_INT(append_next(wal, 1, "old"), 0);
    _exit(check_failures != 0 ? 1 : 42);
}

/* An opening that is cut off anywhere may have begun its epoch; the next one is above, although the clock goes back. */
static void cut_off_anywhere(void) {
    bool through = false;
    for (kill_at = 1; !through && check_failures == 0; kill_at++) {
        begin_log_test();
        kill_mode = kill_at % 2 ? FAULT_KILL_AFTER : FAULT_KILL_BEFORE;
        uint64_t before = kill_at % 3 ? live_at(SECONDS * INT64_C(1000), 0) : 0;
        int status = in_child(open_and_be_killed);
        through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        if (through) check_failures--; /* in_child takes 42 for a failure */
        fault_clear();
        if (kill_at % 5 == 0) restart(FAULT_LOSE_ALL);
        uint64_t seen = exists(heads_path) ? identity_of_log().epoch : 0;
        CHECK(seen >= before);
        model->epoch = seen;
        uint64_t after = live_at((SECONDS - 3600) * INT64_C(1000), 0);
        CHECK(after > seen && after > before);
        check_verify();
    }
    printf("    %u calls\n", kill_at);
}

/* ---- explicit ones ---- */

static void refuse(uint64_t epoch, int expected) {
    struct snapshot before;
    int code;
    snapshot_take(&before);
    CHECK(open_at(0, epoch, &code) == NULL);
    CHECK_INT(code, expected);
    CHECK(are_segments_same(&before));
    snapshot_drop(&before);
}

static void explicit_epochs(void) {
    char expected[TIDEMARK_EPOCH_TEXT];
    int code;
    refuse(UINT64_C(1) << 62, TIDEMARK_EINVAL);
    refuse(UINT64_MAX, TIDEMARK_EINVAL);
    CHECK_INT(live_at(0, 7), 7);
    refuse(7, TIDEMARK_EFENCED);
    CHECK(strstr(failure.message, tidemark_epoch_text(7, expected)) != NULL);
    refuse(1, TIDEMARK_EFENCED);
    tidemark_wal *wal = open_at(0, 9, &code);
    abandon(wal);
    restart(FAULT_LOSE_ALL); /* durable before a record has it */
    refuse(8, TIDEMARK_EFENCED);
    refuse(9, TIDEMARK_EFENCED);
    CHECK_INT(live_at(0, TIDEMARK_EPOCH_EXPLICIT_MAX), TIDEMARK_EPOCH_EXPLICIT_MAX);
    refuse(TIDEMARK_EPOCH_EXPLICIT_MAX, TIDEMARK_EFENCED);
    uint64_t after = live_at(SECONDS * INT64_C(1000), 0);
    CHECK(after >= UINT64_C(1) << 62);
    refuse(TIDEMARK_EPOCH_EXPLICIT_MAX, TIDEMARK_EFENCED);
    CHECK(live_at(SECONDS * INT64_C(1000), 0) > after);
    check_verify();
}

/* Gives the heads another identity. */
static void put_identity(const struct tidemark_log_identity *identity) {
    tidemark_state *heads;
    CHECK_INT(tidemark_state_open_io(&fault_io, heads_path, NULL, 0, TIDEMARK_OPEN_EXISTING, &heads, &failure), 0);
    CHECK_INT(tidemark_log_write_identity(heads, identity, &failure), 0);
    tidemark_state_release(heads);
}

static void none_is_left(void) {
    (void)live_at(0, 7);
    struct tidemark_log_identity identity = identity_of_log();
    identity.epoch = TIDEMARK_EPOCH_MAX;
    put_identity(&identity);
    refuse(0, TIDEMARK_EFENCED);
    CHECK(strstr(failure.message, "2242-03-16T12:56:31Z#3fffffff") != NULL);
    check_verify();
}

/* ---- the own epoch ---- */

static void own_epoch(void) {
    int code;
    static const uint32_t more[] = {0};
    uint64_t first = live_at(0, 0);
    CHECK_INT(identity_of_log().own_epoch, first);
    uint32_t log_id = identity_of_log().log_id;
    (void)live_at(0, 0);
    CHECK_INT(identity_of_log().own_epoch, first);
    /* the note moves to a shard that is lower */
    tidemark_wal_options options = {.shards = more, .shard_count = 1};
    close_log(open_log(&options, &code));
    CHECK_INT(identity_of_log().own_epoch, first);
    CHECK_INT(identity_of_log().epoch, model->epoch);
    /* of a loss that the heads know, it stays; without heads nobody knows it */
    tidemark_mark accept = {1, 1};
    options.accept_loss = &accept;
    options.accept_loss_count = 1;
    drop_file(segment_path(1, 2));
    close_log(open_log(&options, &code));
    CHECK_INT(identity_of_log().own_epoch, first);
    drop_heads();
    tidemark_mark all[] = {{0, 0}, {1, 1}};
    options.accept_loss = all;
    options.accept_loss_count = 2;
    model->epoch = first; /* nothing is left that has a later one */
    tidemark_wal *wal = open_log(&options, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (wal != NULL) close_log(wal);
    CHECK_INT(identity_of_log().own_epoch, model->epoch);
    CHECK_INT(identity_of_log().log_id, log_id);
    uint64_t again = model->epoch;
    (void)live_at(0, 0);
    CHECK_INT(identity_of_log().own_epoch, again);
    /* a replica that is opened for writing begins its own */
    struct tidemark_log_identity identity = identity_of_log();
    identity.own_epoch = 0;
    put_identity(&identity);
    uint64_t promoted = live_at(0, 0);
    CHECK_INT(identity_of_log().own_epoch, promoted);
}

int main(void) {
    make_directory();
    set_log_paths();
    RUN_LOG(from_clock_and_random_numbers);
    RUN_LOG(never_from_the_last);
    RUN_LOG(for_people);
    RUN_LOG(whatever_the_clock_says);
    RUN_LOG(copies);
    RUN_LOG(cut_off_anywhere);
    RUN_LOG(explicit_epochs);
    RUN_LOG(none_is_left);
    RUN_LOG(own_epoch);
    return FINISH();
}
