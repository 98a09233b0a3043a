/*
 * Every system call of every operation on a state file fails once, fails for good, or is the last one of its process.
 * Whatever happens, what was acknowledged as saved is there afterwards; no mark is ahead of what was advanced or, after
 * a loss of power, of what was being saved; nothing leaks; and the path goes on working.
 */
#define _GNU_SOURCE /* fault_io.h */
#include "state_files.h"

/* What the running scenario has done, in memory that is shared with its child. */
struct progress {
    int64_t advanced; /* the mark of shard 0 */
    int64_t saved;    /* the last one that a save has acknowledged */
    int64_t saving;   /* the last one that a save was asked for */
    bool added;       /* shard 500 was acknowledged */
    bool done;        /* the scenario came to its end without reaching call `at` */
};
static struct progress *progress;

struct plan {
    const char *name;
    enum fault_mode mode;
    int code;
    size_t most; /* these two: fault_io.h */
    unsigned only;
};
/* A kill after call n is one before call n + 1, too. */
static const struct plan plans[] = {
    {"EIO once", FAULT_ONCE, EIO, 0, 0},
    {"ENOSPC once, short counts", FAULT_ONCE, ENOSPC, 3000, 0},
    {"ENOSPC for good", FAULT_FOR_GOOD, ENOSPC, 0, 0},
    {"killed after", FAULT_KILL_AFTER, EIO, 0, 0},
    {"killed halfway", FAULT_KILL_HALFWAY, EIO, 0, 1u << FAULT_PWRITE},
};
static const struct plan *plan;
static unsigned at;

static bool kills(void) {
    return plan->mode >= FAULT_KILL_BEFORE;
}

static void arm(void) {
    fault_set(plan->mode, at, plan->code, plan->only);
    fault->most = plan->most;
}

static bool failed_sync(void) {
    return fault->failed > 0 && (fault->first == FAULT_FSYNC || fault->first == FAULT_FDATASYNC);
}

/* The armed part is over. */
static void disarm(void) {
    progress->done = fault->calls < at;
    fault->mode = FAULT_NONE;
    fault->most = 0;
}

/* ---- scenarios: the armed part is what is tested ---- */

static int advance_and_save(tidemark_state *state, int64_t mark) {
    progress->advanced = progress->saving = mark;
    int code = save_mark(state, mark);
    if (code == 0) progress->saved = mark;
    return code;
}

/* A path that holds a checkpoint of 10 and live marks of 12. */
static void prepare_path(void) {
    make_saved(10, 12);
    progress->saved = progress->saving = 10;
    progress->advanced = 12;
}

static void check_open(tidemark_state *state, int code) {
    CHECK(code == 0 || code == TIDEMARK_EIO);
    CHECK((code == 0) == (state != NULL));
    if (code == 0) CHECK_INT(tidemark_state_applied_seqno(state, 0), progress->advanced);
    else CHECK(strstr(failure.message, path) != NULL && strstr(failure.message, strerror(plan->code)) != NULL);
}

static void first_open(void) {
    int code;
    arm();
    tidemark_state *state = open_state(0, &code);
    disarm();
    check_open(state, code);
    tidemark_state_release(state);
}

static void open_existing(void) {
    int code;
    prepare_path();
    arm();
    tidemark_state *state = open_state(0, &code);
    disarm();
    check_open(state, code);
    tidemark_state_release(state);
}

/* The live file is one that must not be trusted. */
static void open_after_restart(void) {
    int code;
    prepare_path();
    restart(FAULT_LOSE_ALL);
    progress->advanced = 10;
    arm();
    tidemark_state *state = open_state(0, &code);
    disarm();
    check_open(state, code);
    tidemark_state_release(state);
}

static void open_readonly(void) {
    int code;
    prepare_path();
    arm();
    tidemark_state *state = open_state(TIDEMARK_OPEN_READONLY, &code);
    disarm();
    check_open(state, code);
    tidemark_state_release(state);
}

/* After a failed call a save is possible again, unless that call was a sync. */
static void check_goes_on(tidemark_state *state) {
    bool poisoned = failed_sync();
    CHECK_INT(advance_and_save(state, progress->advanced + 1), poisoned ? TIDEMARK_EPOISONED : 0);
    CHECK_INT(noted(state), progress->saved);
}

static void checkpoints(void) {
    prepare_path();
    tidemark_state *state = open_or_stop();
    arm();
    for (int64_t mark = 13; mark <= 15; mark++) {
        int code = advance_and_save(state, mark);
        CHECK(code == 0 || code == TIDEMARK_EIO || (code == TIDEMARK_EPOISONED && failed_sync()));
    }
    disarm();
    check_goes_on(state);
    tidemark_state_release(state);
}

/* 64 shards with notes of 128 bytes take more than the block that the slots have so far. */
static void checkpoint_that_grows(void) {
    static const char text[TIDEMARK_NOTE_MAX] = {'x'};
    tidemark_state *state = NULL;
    uint32_t shards[64];
    tidemark_note notes[64];
    for (uint32_t i = 0; i < 64; i++) {
        shards[i] = i;
        notes[i] = (tidemark_note){i, sizeof text, text};
    }
    prepare_path();
    CHECK_INT(tidemark_state_open_io(&fault_io, path, shards, 64, 0, &state, &failure), 0);
    if (state == NULL) return;
    CHECK_INT(advance_and_save(state, 13), 0);
    arm();
    CHECK(tidemark_state_checkpoint(state, notes + 1, 63, &failure) == 0 || fault->failed > 0);
    (void)advance_and_save(state, 14);
    disarm();
    check_goes_on(state);
    tidemark_state_release(state);
}

static void add_shards(void) {
    static const uint32_t more[] = {500};
    tidemark_state *added = NULL;
    prepare_path();
    tidemark_state *state = open_or_stop();
    arm();
    int code = tidemark_state_open_io(&fault_io, path, more, 1, 0, &added, &failure);
    progress->added = code == 0;
    disarm();
    check_open(added, code);
    if (code == 0) CHECK_INT(tidemark_state_applied_seqno(state, 500), 0);
    tidemark_state_release(added);
    CHECK_INT(advance_and_save(state, 13), 0);
    tidemark_state_release(state);
}

static void notes(void) {
    prepare_path();
    tidemark_state *state = open_or_stop();
    arm();
    CHECK(noted(state) == 10 || fault->failed > 0);
    disarm();
    CHECK_INT(noted(state), 10);
    tidemark_state_release(state);
}

static void close_last(void) {
    prepare_path();
    tidemark_state *state = open_or_stop();
    CHECK_INT(advance_and_save(state, 13), 0);
    (void)tidemark_state_advance(state, 0, 14);
    progress->advanced = 14;
    arm();
    tidemark_state_release(state);
    disarm();
}

/* ---- what must hold afterwards ---- */

enum { SAME_BOOT, LOST_ALL, LOST_SOME, AFTERWARDS };

static void check_afterwards(int afterwards) {
    static const unsigned what[] = {0, FAULT_LOSE_ALL, 12345};
    fault_clear();
    if (afterwards != SAME_BOOT) restart(what[afterwards] ^ (afterwards == LOST_SOME ? at << 8 : 0));
    tidemark_state *state = open_or_stop();
    int64_t mark = tidemark_state_applied_seqno(state, 0);
    long long note = noted(state);
    if (afterwards == SAME_BOOT) {
        CHECK_INT(mark, progress->advanced);
        if (progress->added) CHECK_INT(tidemark_state_applied_seqno(state, 500), 0);
    } else {
        CHECK(mark >= progress->saved);
        CHECK(mark <= progress->saving);
        CHECK_INT(note, mark > 0 ? mark : -1);
    }
    CHECK(note >= progress->saved || progress->saved == 0);
    CHECK(note <= progress->saving);
    CHECK_INT(tidemark_state_applied_seqno(state, 3), 0);

    CHECK_INT(save_mark(state, 30), 0);
    CHECK_INT(save_mark(state, 31), 0);
    tidemark_state_release(state);
    restart(FAULT_LOSE_ALL);
    CHECK_INT(mark_found(), 31);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

static int runs;

/* Whether the scenario has more calls than `at`. */
static bool run_once(const char *name, void (*scenario)(void), int afterwards) {
    int before = check_failures, descriptors = count_descriptors();
    begin_test();
    memset(progress, 0, sizeof *progress);
    if (kills()) {
        int status = in_child(scenario);
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : progress->done);
        fault->descriptors = fault->mappings = 0;
    } else {
        scenario();
        CHECK_INT(fault->descriptors, 0);
        CHECK_INT(fault->mappings, 0);
        CHECK_INT(count_descriptors(), descriptors);
    }
    bool more = !progress->done;
    check_afterwards(afterwards);
    runs++;
    if (check_failures > before) printf("    in %s: call %u, %s, afterwards %d\n", name, at, plan->name, afterwards);
    return more;
}

static void sweep(const char *name, void (*scenario)(void)) {
    unsigned most = 0;
    runs = 0;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        plan = &plans[i];
        for (int afterwards = SAME_BOOT; afterwards < AFTERWARDS; afterwards++) {
            at = 1;
            while (run_once(name, scenario, afterwards) && check_failures < 20) at++;
            if (at > most) most = at;
        }
    }
    CHECK(most > 3);
    printf("    %s: up to %u calls, %d runs\n", name, most - 1, runs);
}

#define SWEEP(scenario) \
    static void test_##scenario(void) { \
        sweep(#scenario, scenario); \
    }
SWEEP(first_open)
SWEEP(open_existing)
SWEEP(open_after_restart)
SWEEP(open_readonly)
SWEEP(checkpoints)
SWEEP(checkpoint_that_grows)
SWEEP(add_shards)
SWEEP(notes)
SWEEP(close_last)

int main(void) {
    make_directory();
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) return 2;
    RUN(test_first_open);
    RUN(test_open_existing);
    RUN(test_open_after_restart);
    RUN(test_open_readonly);
    RUN(test_checkpoints);
    RUN(test_checkpoint_that_grows);
    RUN(test_add_shards);
    RUN(test_notes);
    RUN(test_close_last);
    return FINISH();
}
