/* Lost records, and what goes on without them: the refusal with its numbers, their acceptance, a failure or the end of
 * the process at every system call of that, readers and other writers beside it. Never a log that is shorter and does
 * not say so. */
#define _GNU_SOURCE
#include "wal_cases.h"

#define EACH 8 /* records of each shard, in two segments */

#ifdef __SANITIZE_ADDRESS__
#define STEP 5
#else
#define STEP 1
#endif

static unsigned char old_heads[SNAPSHOT_MOST];
static uint64_t old_epoch;

static tidemark_wal *open_accepting(const tidemark_mark *accept, size_t count, int *code) {
    tidemark_wal_options options = log_options(300, 0);
    options.accept_loss = accept;
    options.accept_loss_count = count;
    return open_log(&options, code);
}

static void make_log(void) {
    for (int life = 0; life < 2; life++) {
        tidemark_wal *wal = open_log_or_stop(300, 0);
        for (size_t i = 0; i < LOG_SHARDS; i++) {
            for (int n = 0; n < EACH / 2; n++) CHECK_INT(append_next(wal, log_shards[i], "old"), 0);
        }
        old_epoch = tidemark_wal_epoch(wal);
        close_log(wal);
    }
    (void)unlink(heads_live_path); /* as after a restart of the machine */
}

/* ---- what is lost ---- */

static void lose_newest(void) {
    drop_file(segment_path(1, 5));
}

static void lose_shard(void) {
    drop_file(segment_path(2, 1));
    drop_file(segment_path(2, 5));
}

static void lose_newest_batches(void) {
    drop_file(segment_path(1, 5));
    lose_shard();
    if (truncate(segment_path(5, 5), file_size(segment_path(5, 5)) / 2) < 0) abort(); /* two of four */
}

static void empty_newest(void) {
    if (truncate(segment_path(1, 5), 0) < 0) abort();
}

static void lose_heads(void) {
    drop_heads();
}

static void lose_heads_and_tear(void) {
    drop_heads();
    if (truncate(segment_path(5, 5), file_size(segment_path(5, 5)) - 3) < 0) abort();
}

static void damage_header(void) {
    put_bytes(heads_path, 20, "damage", 6);
}

static void damage_slots(void) {
    for (unsigned slot = 0; slot < 2; slot++)
        put_bytes(heads_path, tidemark_slot_offset(slot) + 8, "damaged generation and sizes", 28);
}

/* A state file of the user's, with or without notes. */
static void put_stranger(const char *note) {
    static const uint32_t shards[] = {1, 9};
    tidemark_note notes = {1, (uint32_t)strlen(note), note};
    tidemark_state *state;
    drop_heads();
    if (tidemark_state_open_io(&fault_io, heads_path, shards, 2, 0, &state, &failure) < 0) abort();
    (void)tidemark_state_advance(state, 1, 100);
    if (tidemark_state_checkpoint(state, &notes, *note != '\0', &failure) < 0) abort();
    tidemark_state_release(state);
    (void)unlink(heads_live_path);
}

static void put_stranger_with_notes(void) {
    put_stranger("applied by me");
}

static void put_stranger_without_notes(void) {
    put_stranger("");
}

static const struct damage {
    const char *name;
    void (*inflict)(void);
    int64_t ends[LOG_SHARDS]; /* -1: not lost */
} damages[] = {
    {"the newest segment", lose_newest, {4, -1, -1}},
    {"all segments of a shard", lose_shard, {-1, 0, -1}},
    {"of all shards something", lose_newest_batches, {4, 0, 6}},
    {"the bytes of the newest segment", empty_newest, {4, -1, -1}},
    {"the heads", lose_heads, {8, 8, 8}},
    {"the heads, and a torn tail", lose_heads_and_tear, {8, 8, 7}},
    {"the heads' header", damage_header, {8, 8, 8}},
    {"both slots of the heads", damage_slots, {8, 8, 8}},
    {"heads of somebody", put_stranger_with_notes, {8, 8, 8}},
    {"heads without a name", put_stranger_without_notes, {8, 8, 8}},
};
#define DAMAGES (sizeof damages / sizeof *damages)

static const struct damage *now; /* the one that was inflicted */

static void inflict(const struct damage *damage) {
    now = damage;
    begin_log_test();
    make_log();
    fault_power_loss(directory, FAULT_LOSE_NOTHING); /* what is there is on the disk */
    damage->inflict();
    memset(old_heads, 0, sizeof old_heads);
    if (exists(heads_path)) get_bytes(heads_path, 0, old_heads, sizeof old_heads);
}

static int64_t end_of(size_t i) {
    return now->ends[i] >= 0 ? now->ends[i] : EACH;
}

static size_t right_numbers(tidemark_mark accept[LOG_SHARDS]) {
    size_t count = 0;
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        if (now->ends[i] >= 0) accept[count++] = (tidemark_mark){log_shards[i], now->ends[i]};
    }
    return count;
}

/* ---- verdicts ---- */

/* The last message is ELOST's, with these numbers and no others. */
static void check_message(void) {
    char list[80] = "The log now ends at";
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        size_t length = strlen(list);
        if (now->ends[i] >= 0)
            (void)snprintf(list + length, sizeof list - length, " %u:%lld", (unsigned)log_shards[i],
                           (long long)now->ends[i]);
    }
    (void)strcat(list, " (SHARD:SEQNO).");
    if (strstr(failure.message, list) == NULL) CHECK_STR(failure.message, list);
    CHECK(strstr(failure.message, "accept the loss") != NULL);
}

static void check_refused(const tidemark_mark *accept, size_t count) {
    struct snapshot before;
    int code;
    snapshot_take(&before);
    tidemark_wal *wal = open_accepting(accept, count, &code);
    CHECK_INT(code, TIDEMARK_ELOST);
    if (wal != NULL) abandon(wal);
    check_message();
    CHECK(are_segments_same(&before));
    CHECK_INT(count_names("heads.", NULL), count_names("heads.live", NULL)); /* nothing was kept or put aside */
    snapshot_drop(&before);
}

static bool tells(const tidemark_wal *wal, const char *part) {
    for (size_t i = 0; tidemark_wal_recovery(wal, i) != NULL; i++) {
        if (strstr(tidemark_wal_recovery(wal, i), part) != NULL) return true;
    }
    return false;
}

/* The old heads are kept, to the byte; or there were none. */
static void check_kept(void) {
    static unsigned char bytes[SNAPSHOT_MOST];
    char name[256], where[512];
    int kept = count_names("heads.lost-", name);
    bool had = old_heads[0] != 0;
    CHECK_INT(kept > 0, had);
    if (kept == 0) return;
    CHECK_INT(strlen(name), strlen("heads.lost-") + 16);
    (void)snprintf(where, sizeof where, "%s/%s", directory, name);
    get_bytes(where, 0, bytes, sizeof bytes);
    CHECK(memcmp(bytes, old_heads, sizeof bytes) == 0);
}

/* The log goes on where it ended. */
static void go_on(tidemark_wal *wal) {
    CHECK(tidemark_wal_epoch(wal) > old_epoch);
    for (size_t i = 0; i < LOG_SHARDS; i++) CHECK_INT(head_of(wal, log_shards[i]), end_of(i));
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        for (int n = 0; n < 6; n++) CHECK_INT(append_next(wal, log_shards[i], "new"), 0); /* rotates */
    }
    close_log(wal);
    for (size_t i = 0; i < LOG_SHARDS; i++) check_texts(log_shards[i], end_of(i), end_of(i) + 6);
    check_verify();
}

/* ---- acceptance ---- */

static void each_loss(void) {
    for (size_t d = 0; d < DAMAGES; d++) {
        tidemark_mark accept[LOG_SHARDS + 2], wrong[LOG_SHARDS];
        inflict(&damages[d]);
        int code, failures = check_failures;
        size_t count = right_numbers(accept);
        check_refused(NULL, 0);
        for (size_t i = 0; i < count; i++) { /* one number wrong, or missing */
            for (int64_t by = -1; by <= 1; by += 2) {
                memcpy(wrong, accept, sizeof wrong);
                wrong[i].seqno += by;
                tidemark_wal *wal = open_accepting(wrong, count, &code);
                CHECK_INT(code, TIDEMARK_ELOST);
                CHECK(wal == NULL);
            }
            memcpy(wrong, accept, sizeof wrong);
            wrong[i] = wrong[count - 1];
            CHECK(open_accepting(wrong, count - 1, &code) == NULL);
            CHECK_INT(code, TIDEMARK_ELOST);
        }
        CHECK_INT(count_names("heads.lost-", NULL), 0);
        /* numbers for shards that are not lost, or not there, change nothing */
        accept[count] = (tidemark_mark){7, 3};
        accept[count + 1] = (tidemark_mark){now->ends[1] >= 0 ? 6 : 2, 1};
        tidemark_wal *wal = open_accepting(accept, count + 2, &code);
        if (code < 0) printf("    %s\n", failure.message);
        CHECK_INT(code, 0);
        if (wal != NULL) {
            CHECK(tells(wal, "later records are lost"));
            CHECK_INT(tells(wal, "kept the old heads as "), old_heads[0] != 0);
            check_kept();
            go_on(wal);
            /* the same numbers again: nothing is lost now */
            wal = open_accepting(accept, count, &code);
            CHECK_INT(code, 0);
            if (wal != NULL) CHECK_INT(head_of(wal, 1), end_of(0) + 6);
            if (wal != NULL) close_log(wal);
            CHECK_INT(count_names("heads.lost-", NULL), old_heads[0] != 0);
        }
        if (check_failures != failures) printf("    %s\n", now->name);
    }
}

/* Old numbers do not accept a new loss. */
static void old_numbers_for_a_new_loss(void) {
    tidemark_mark accept[LOG_SHARDS];
    int code;
    inflict(&damages[0]);
    size_t count = right_numbers(accept);
    tidemark_wal *wal = open_accepting(accept, count, &code);
    if (wal != NULL) go_on(wal);
    drop_file(segment_path(1, newest_segment(1)));
    CHECK(open_accepting(accept, count, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    CHECK(strstr(failure.message, "1:8 (SHARD") != NULL);
    const tidemark_mark second = {1, 8};
    wal = open_accepting(&second, 1, &code);
    CHECK_INT(code, 0);
    if (wal != NULL) close_log(wal);
    CHECK_INT(count_names("heads.lost-", NULL), 2);
}

/* A torn batch below the head is damage, not a loss: nobody cuts it away, whatever is accepted. */
static void a_torn_tail_that_is_lost(void) {
    const tidemark_mark accept[] = {{5, 7}, {5, 4}, {5, 6}, {1, 4}};
    struct snapshot before;
    int code;
    begin_log_test();
    make_log();
    lose_newest();
    if (truncate(segment_path(5, 5), file_size(segment_path(5, 5)) - 3) < 0) abort();
    snapshot_take(&before);
    CHECK(open_accepting(accept, 4, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ECORRUPT);
    CHECK(are_segments_same(&before));
    CHECK_INT(count_names("heads.lost-", NULL), 0);
    snapshot_drop(&before);
}

/* A shard that was asked for and has no segment may have lost them all: only heads would know. */
static void without_heads_an_empty_shard_is_lost_too(void) {
    tidemark_mark accept[] = {{1, 8}, {5, 8}, {2, 0}};
    int code;
    begin_log_test();
    make_log();
    lose_shard();
    drop_heads();
    CHECK(open_accepting(accept, 2, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    tidemark_wal *wal = open_accepting(accept, 3, &code);
    CHECK_INT(code, 0);
    if (wal != NULL) close_log(wal);
}

/* Where no segment is left, damaged heads are still not the end. */
static void damaged_heads_without_segments(void) {
    tidemark_mark accept[] = {{1, 0}, {2, 0}, {5, 0}};
    int code;
    begin_log_test();
    close_log(open_log_or_stop(300, 0));
    (void)unlink(heads_live_path);
    damage_slots();
    CHECK(open_accepting(NULL, 0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    model->epoch = 0; /* nothing is left that has it */
    tidemark_wal *wal = open_accepting(accept, 3, &code);
    CHECK_INT(code, 0);
    if (wal != NULL) close_log(wal);
}

/* ---- more than a message can list ---- */

/* Adds the numbers of the message to `marks`, as a person would who repeats what it says. */
static size_t read_numbers(tidemark_mark *marks, size_t count) {
    const char *at = strstr(failure.message, "The log now ends at");
    if (at == NULL) return count;
    at += strlen("The log now ends at");
    for (unsigned shard; sscanf(at, " %u:%lld", &shard, &(long long){0}) == 2;) {
        marks[count].shard = shard;
        at = strchr(at, ':') + 1;
        marks[count++].seqno = strtoll(at, (char **)&at, 10);
    }
    return count;
}

static void more_than_can_be_listed(void) {
    enum { SHARDS = 60 };
    uint32_t shards[SHARDS];
    tidemark_mark marks[2 * SHARDS];
    size_t count = 0;
    char long_path[500]; /* a message cannot have all of it */
    (void)snprintf(long_path, sizeof long_path, "%s", directory);
    while (strlen(long_path) < 480) (void)strcat(long_path, "/.");
    for (uint32_t i = 0; i < SHARDS; i++) shards[i] = 65000 + i;
    tidemark_wal_options options = {.shards = shards, .shard_count = SHARDS};
    int code, attempts = 0;
    tidemark_wal *wal = open_log(&options, &code);
    for (uint32_t i = 0; i < SHARDS; i++) {
        wal->shards[i].last_seqno = 1000000000000000 + i; /* the numbers are long */
        wal->shards[i].epoch = 1;
        (void)tidemark_state_advance(wal->heads, shards[i], wal->shards[i].last_seqno);
        CHECK_INT(append_text(wal, shards[i], "x"), 0);
    }
    close_log(wal);
    drop_heads();
    tidemark_wal_options none = {.accept_loss = marks};
    do {
        none.accept_loss_count = count;
        code = tidemark_wal_open_io(log_io, long_path, &none, &wal, &failure);
        if (code == TIDEMARK_ELOST) count = read_numbers(marks, count);
    } while (code == TIDEMARK_ELOST && ++attempts < SHARDS);
    CHECK_INT(code, 0);
    CHECK(attempts > 1);
    CHECK_INT(count, SHARDS);
    if (code < 0) return;
    CHECK_INT(head_of(wal, 65059), 1000000000000060);
    close_log(wal);
}

/* What was accepted, and acknowledged after that, a loss of power does not take back. */
static void accepted_for_good(void) {
    for (size_t d = 0; d < DAMAGES; d++) {
        tidemark_mark accept[LOG_SHARDS];
        int code;
        inflict(&damages[d]);
        tidemark_wal *wal = open_accepting(accept, right_numbers(accept), &code);
        CHECK_INT(code, 0);
        if (wal == NULL) continue;
        CHECK_INT(append_next(wal, 1, "new"), 0);
        abandon(wal);
        restart(FAULT_LOSE_ALL);
        wal = open_accepting(NULL, 0, &code);
        CHECK_INT(code, 0);
        if (wal == NULL) continue;
        check_kept();
        CHECK_INT(head_of(wal, 1), end_of(0) + 1);
        close_log(wal);
        check_texts(1, end_of(0), end_of(0) + 1);
    }
}

/* ---- failures and kills at every call ---- */

static void accept_in_child(void) {
    tidemark_mark accept[LOG_SHARDS];
    int code;
    (void)open_accepting(accept, right_numbers(accept), &code);
    _exit(code == 0 ? 42 : 1);
}

/* Either LOST with the same numbers or a log that goes on after them. The command, repeated, succeeds. */
static void settle(void) {
    tidemark_mark accept[LOG_SHARDS];
    struct tidemark_log_identity identity = identity_of_log();
    size_t count = right_numbers(accept);
    int code;
    fault_clear();
    model->epoch = 0;
    tidemark_wal *wal = open_accepting(NULL, 0, &code);
    if (wal == NULL) {
        CHECK_INT(code, TIDEMARK_ELOST);
        check_message();
        CHECK(identity.epoch <= old_epoch); /* not both: heads of the new epoch, and a loss */
        wal = open_accepting(accept, count, &code);
    } else {
        CHECK(identity.epoch > old_epoch);
    }
    if (wal == NULL) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (wal == NULL) return;
    check_kept();
    go_on(wal);
    CHECK_INT(fault->descriptors, 0);
}

/* Runs the acceptance with call n in this mode, and then a loss of power or none. Whether n was not reached. */
static bool try_call(enum fault_mode mode, int error, unsigned at) {
    static const unsigned losses[] = {FAULT_LOSE_ALL, FAULT_LOSE_NOTHING, 12345, 0x9E3779B9};
    bool kills = mode >= FAULT_KILL_BEFORE, through;
    unsigned only = mode == FAULT_KILL_HALFWAY ? 1u << FAULT_PWRITE : ~(1u << FAULT_LOCK);
    tidemark_mark accept[LOG_SHARDS];
    int code;
    fault_set(mode, at, error, only);
    if (kills) {
        int status = in_child(accept_in_child);
        through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        if (through) check_failures--;
        CHECK(through || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        fault->descriptors = fault->mappings = 0;
    } else {
        tidemark_wal *wal = open_accepting(accept, right_numbers(accept), &code);
        through = fault->failed == 0;
        fault_clear();
        if (wal != NULL) abandon(wal);
    }
    fault_clear();
    unsigned loss = losses[(at + (unsigned)mode) % 4];
    if (loss != FAULT_LOSE_NOTHING) restart(loss);
    settle();
    return through;
}

static void sweep(const struct damage *damage, enum fault_mode mode, int error) {
    unsigned at = 1 + (unsigned)mode % STEP;
    bool through = false;
    for (; !through && check_failures == 0; at += STEP) {
        inflict(damage);
        through = try_call(mode, error, at);
        if (check_failures != 0) printf("    %s: mode %d, errno %d, call %u\n", damage->name, (int)mode, error, at);
    }
}

static void sweep_all(enum fault_mode mode, int error) {
    static const size_t swept[] = {2, 5, 6, 9};
    for (size_t i = 0; i < sizeof swept / sizeof *swept; i++) sweep(&damages[swept[i]], mode, error);
}

static void failing_once(void) {
    sweep_all(FAULT_ONCE, EIO);
    sweep(&damages[5], FAULT_ONCE, ENOSPC);
}

static void failing_for_good(void) {
    sweep_all(FAULT_FOR_GOOD, EIO);
}

static void killed_before(void) {
    sweep_all(FAULT_KILL_BEFORE, EIO);
}

static void killed_after_or_halfway(void) {
    sweep(&damages[5], FAULT_KILL_AFTER, EIO);
    sweep_all(FAULT_KILL_HALFWAY, EIO);
}

int main(void) {
    make_directory();
    set_log_paths();
    RUN_LOG(each_loss);
    RUN_LOG(old_numbers_for_a_new_loss);
    RUN_LOG(a_torn_tail_that_is_lost);
    RUN_LOG(without_heads_an_empty_shard_is_lost_too);
    RUN_LOG(damaged_heads_without_segments);
    RUN_LOG(more_than_can_be_listed);
    RUN_LOG(accepted_for_good);
    RUN_LOG(failing_once);
    RUN_LOG(failing_for_good);
    RUN_LOG(killed_before);
    RUN_LOG(killed_after_or_halfway);
    return FINISH();
}
