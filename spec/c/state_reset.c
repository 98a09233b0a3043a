/* Lowering a mark: the conditions, every system call that fails or is the last one, and who opens the files beside it.
 * Whatever happens, the files have the old mark with the old note or the new mark with the new note. */
#define _GNU_SOURCE /* fault_io.h */
#include <limits.h>

#include "state_files.h"

/* ---- what the files say ---- */

/* Shard 0 is reset. Shard 3 must stay as it is; its note is "three". */
struct view {
    int64_t mark, other;
    char note[TIDEMARK_NOTE_MAX + 1]; /* of shard 0; "(none)" */
};

/* Of the running test: what was last saved, what is live besides, and what the reset makes of it. */
static struct view saved, before, after;

static struct view make_view(int64_t mark, int64_t other, const char *note) {
    struct view view = {mark, other, ""};
    (void)snprintf(view.note, sizeof view.note, "%s", note);
    return view;
}

static struct view view_of(tidemark_state *state) {
    struct view view =
        make_view(tidemark_state_applied_seqno(state, 0), tidemark_state_applied_seqno(state, 3), "(none)");
    char three[TIDEMARK_NOTE_MAX];
    int length = tidemark_state_note(state, 0, view.note, &failure);
    if (length >= 0) view.note[length] = '\0';
    else if (length != TIDEMARK_ENOT_FOUND) (void)snprintf(view.note, sizeof view.note, "%.100s", failure.message);
    CHECK(tidemark_state_note(state, 3, three, &failure) == 5 && memcmp(three, "three", 5) == 0);
    return view;
}

static bool same(struct view one, struct view other) {
    return one.mark == other.mark && one.other == other.other && strcmp(one.note, other.note) == 0;
}

static void print_view(const char *what, struct view view) {
    printf("    %s: mark %lld, shard 3 %lld, note %s\n", what, (long long)view.mark, (long long)view.other, view.note);
}

#define CHECK_VIEW(actual, expected) \
    do { \
        struct view check_v = (actual); \
        if (!same(check_v, expected)) { \
            CHECK(!"the view is another"); \
            print_view("found", check_v); \
            print_view("expected", expected); \
        } \
    } while (0)

/* Old or new, whole. `lost`: the power was lost, so what was not saved may be. */
static void check_old_or_new(struct view view, bool lost) {
    if (same(view, before) || same(view, after) || (lost && same(view, saved))) return;
    CHECK(!"neither the old mark nor the new one");
    print_view("found", view);
    print_view("old", before);
    print_view("new", after);
}

static struct view view_found(void) {
    tidemark_state *state = open_or_stop();
    struct view view = view_of(state);
    tidemark_state_release(state);
    return view;
}

static tidemark_note note_of(uint32_t shard, const char *text) {
    return (tidemark_note){shard, (uint32_t)strlen(text), text};
}

/* ---- preparing and resetting ---- */

/* Marks 20 and 7 are saved, 22 and 9 live. */
static tidemark_state *prepare(void) {
    const tidemark_note notes[] = {note_of(3, "three"), note_of(0, "old")};
    tidemark_state *state = open_or_stop();
    (void)tidemark_state_advance(state, 0, 20);
    (void)tidemark_state_advance(state, 3, 7);
    CHECK_INT(tidemark_state_checkpoint(state, notes, 2, &failure), 0);
    CHECK_INT(save(state), 0);
    (void)tidemark_state_advance(state, 0, 22);
    (void)tidemark_state_advance(state, 3, 9);
    saved = make_view(20, 7, "old");
    before = make_view(22, 9, "old");
    after = make_view(10, 9, "new");
    return state;
}

/* Shard 0 to what `after` says. */
static int reset(tidemark_state *state) {
    const tidemark_note note = note_of(0, after.note);
    return tidemark_state_reset(state, 0, after.mark, strcmp(after.note, "(none)") == 0 ? NULL : &note, &failure);
}

/* ---- what a reset does ---- */

static void test_reset(void) {
    struct stat old, new;
    tidemark_state *state = prepare();
    int descriptors = fault->descriptors, mappings = fault->mappings;
    CHECK_INT(stat(live_path, &old), 0);
    CHECK_INT(reset(state), 0);
    CHECK_VIEW(view_of(state), after);
    CHECK_INT(fault->descriptors, descriptors);
    CHECK_INT(fault->mappings, mappings);
    CHECK_INT(tidemark_state_is_current(state, &failure), 1);
    CHECK_INT(tidemark_state_wait_for(state, 0, 10, 0, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 11, 0.001, &failure), TIDEMARK_ETIMEOUT);
    /* the state goes on, shared with who opens it now */
    tidemark_state *other = open_or_stop();
    CHECK_INT(tidemark_state_advance(other, 0, 11), 1);
    CHECK_INT(tidemark_state_advance(state, 0, 11), 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 11, 0, &failure), 0);
    CHECK_INT(save(state), 0);
    after.mark = 11;
    tidemark_state_release(other);
    tidemark_state_release(state);
    CHECK_VIEW(view_found(), after);
    CHECK_INT(stat(live_path, &new), 0);
    CHECK(S_ISREG(new.st_mode) && (new.st_mode & 0777) == 0600);
    restart(FAULT_LOSE_ALL);
    CHECK_VIEW(view_found(), after);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

static void test_reset_to_0_without_a_note(void) {
    tidemark_state *state = prepare();
    after = make_view(0, 9, "(none)");
    CHECK_INT(reset(state), 0);
    CHECK_VIEW(view_of(state), after);
    CHECK_INT(save(state), 0);
    CHECK_VIEW(view_of(state), after);
    tidemark_state_release(state);
    restart(FAULT_LOSE_ALL);
    CHECK_VIEW(view_found(), after);
}

static void test_twice_in_a_row(void) {
    tidemark_state *state = prepare();
    CHECK_INT(reset(state), 0);
    after = make_view(5, 9, "newer");
    CHECK_INT(reset(state), 0);
    CHECK_VIEW(view_of(state), after);
    tidemark_state_release(state);
    CHECK_VIEW(view_found(), after);
    restart(FAULT_LOSE_ALL);
    CHECK_VIEW(view_found(), after);
}

static off_t newest_slot(void) {
    unsigned char one[16], other[16];
    get_bytes(path, tidemark_slot_offset(0), one, 16);
    get_bytes(path, tidemark_slot_offset(1), other, 16);
    return tidemark_slot_offset(tidemark_get64(other + 8) > tidemark_get64(one + 8));
}

static void damage_newest_slot(void) {
    off_t offset = newest_slot() + 70;
    unsigned char byte;
    get_bytes(path, offset, &byte, 1);
    byte ^= 1;
    put_bytes(path, offset, &byte, 1);
}

/* Both slots have it, durably, on the same boot as well as after a loss of power. */
static void test_newest_slot_damaged(void) {
    for (int lost = 0; lost < 2; lost++) {
        begin_test();
        tidemark_state *state = prepare();
        CHECK_INT(reset(state), 0);
        tidemark_state_release(state);
        if (lost) restart(FAULT_LOSE_ALL);
        damage_newest_slot();
        CHECK_VIEW(view_found(), after);
    }
}

/* A reset to what is there already changes nothing, leaves the live file, and is durable in both slots. */
static void test_already_so(void) {
    struct stat old, new;
    for (int saves = 1; saves <= 2; saves++) {
        begin_test();
        tidemark_state *state = prepare();
        for (int i = 0; i < saves; i++) CHECK_INT(save(state), 0);
        after = make_view(22, 9, "old");
        CHECK_INT(stat(live_path, &old), 0);
        CHECK_INT(reset(state), 0);
        CHECK_INT(stat(live_path, &new), 0);
        CHECK(old.st_ino == new.st_ino);
        CHECK_VIEW(view_of(state), after);
        tidemark_state_release(state);
        restart(FAULT_LOSE_ALL);
        damage_newest_slot();
        CHECK_VIEW(view_found(), after);
    }
}

/* The mark is there, but another note is asked for. */
static void test_note_only(void) {
    static const char *const notes[] = {"(none)", "new", "olde", "ol", ""};
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        begin_test();
        tidemark_state *state = prepare();
        after = make_view(22, 9, notes[i]);
        CHECK_INT(reset(state), 0);
        CHECK_VIEW(view_of(state), after);
        tidemark_state_release(state);
        restart(FAULT_LOSE_ALL);
        damage_newest_slot();
        CHECK_VIEW(view_found(), after);
    }
}

/* 64 shards with notes take more than one block, and the other slot was never written so far. */
static void test_many_shards(void) {
    static const char text[TIDEMARK_NOTE_MAX] = {'x'};
    uint32_t shards[64];
    tidemark_note notes[64];
    tidemark_state *state = NULL;
    for (uint32_t i = 0; i < 64; i++) {
        shards[i] = i * 1000;
        notes[i] = (tidemark_note){shards[i], sizeof text, text};
    }
    CHECK_INT(tidemark_state_open_io(&fault_io, path, shards, 64, 0, &state, &failure), 0);
    if (state == NULL) return;
    for (uint32_t i = 0; i < 64; i++) (void)tidemark_state_advance(state, shards[i], 100 + i);
    CHECK_INT(tidemark_state_checkpoint(state, notes, 64, &failure), 0);
    CHECK_INT(tidemark_state_reset(state, 5000, 50, NULL, &failure), 0);
    for (int lost = 0; lost < 2; lost++) {
        CHECK_INT(tidemark_state_count(state), 64);
        for (uint32_t i = 0; i < 64; i++) {
            char note[TIDEMARK_NOTE_MAX];
            CHECK_INT(tidemark_state_applied_seqno(state, shards[i]), i == 5 ? 50 : 100 + i);
            CHECK_INT(tidemark_state_note(state, shards[i], note, NULL),
                      i == 5 ? TIDEMARK_ENOT_FOUND : TIDEMARK_NOTE_MAX);
        }
        tidemark_state_release(state);
        if (lost == 0) restart(FAULT_LOSE_ALL);
        CHECK_INT(tidemark_state_open_io(&fault_io, path, shards, 0, 0, &state, &failure), 0);
    }
    tidemark_state_release(state);
}

/* ---- conditions ---- */

/* The reset is refused, and nothing has changed. */
static void check_refused(tidemark_state *state, int code, const char *why) {
    CHECK_INT(reset(state), code);
    if (strstr(failure.message, why) == NULL) CHECK_STR(failure.message, why);
    CHECK_VIEW(view_of(state), before);
}

static void test_arguments(void) {
    static const char text[TIDEMARK_NOTE_MAX + 1];
    const tidemark_note long_note = {0, sizeof text, text}, other_note = {3, 1, text};
    tidemark_state *state = prepare();
    after.mark = -1;
    check_refused(state, TIDEMARK_EINVAL, "seqno out of range: -1");
    after.mark = INT64_MIN;
    check_refused(state, TIDEMARK_EINVAL, "seqno out of range");
    after.mark = 23;
    check_refused(state, TIDEMARK_EINVAL, "shard 0 cannot be reset to 23, which is above its mark 22");
    CHECK(strstr(failure.message, path) != NULL);
    CHECK_INT(tidemark_state_reset(state, 0, 10, &long_note, &failure), TIDEMARK_EINVAL);
    CHECK(strstr(failure.message, "129 bytes, at most 128") != NULL);
    CHECK_INT(tidemark_state_reset(state, 0, 10, &other_note, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_reset(state, 9, 0, NULL, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_STR(failure.message, "shard 9 is not tracked");
    CHECK_INT(tidemark_state_reset(state, 65536, 0, NULL, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_reset(state, 9, 0, NULL, NULL), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_VIEW(view_of(state), before);
    CHECK_INT(save(state), 0);
    tidemark_state_release(state);
}

static void test_other_references(void) {
    tidemark_watch *watch = NULL;
    tidemark_state *state = prepare(), *again = tidemark_state_retain(state);
    check_refused(state, TIDEMARK_EBUSY, "1 other references");
    tidemark_state_release(again);
    CHECK_INT(tidemark_state_watch(state, 3, 100, &watch, &failure), 0);
    check_refused(state, TIDEMARK_EBUSY, "watches");
    tidemark_watch_close(watch);
    CHECK_INT(reset(state), 0);
    tidemark_state_release(state);
}

static void test_another_handle_in_this_process(void) {
    tidemark_state *state = prepare(), *other = open_or_stop();
    check_refused(state, TIDEMARK_EBUSY, "is open elsewhere");
    CHECK(strstr(failure.message, path) != NULL);
    check_refused(other, TIDEMARK_EBUSY, "is open elsewhere");
    /* all goes on as before */
    CHECK_INT(tidemark_state_advance(other, 0, 23), 1);
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 23);
    CHECK_INT(save(state), 0);
    CHECK_INT(save(other), 0);
    tidemark_state *third = open_or_stop();
    tidemark_state_release(third);
    tidemark_state_release(other);
    CHECK_INT(reset(state), 0);
    CHECK_VIEW(view_of(state), after);
    tidemark_state_release(state);
}

static void test_shard_locked(void) {
    static const uint32_t locked[] = {0, 3}; /* it need not be the shard that is to be reset */
    tidemark_state *state = prepare();
    for (int i = 0; i < 2; i++) {
        char why[40];
        (void)snprintf(why, sizeof why, "shard %u has a follower", (unsigned)locked[i]);
        CHECK_INT(tidemark_state_lock_shard(state, locked[i], &failure), 0);
        check_refused(state, TIDEMARK_ELOCKED, why);
        tidemark_state_unlock_shard(state, locked[i]);
    }
    CHECK_INT(reset(state), 0);
    /* and a lock is one after a reset, too */
    CHECK_INT(tidemark_state_lock_shard(state, 0, &failure), 0);
    tidemark_state *other = open_or_stop();
    CHECK_INT(tidemark_state_lock_shard(other, 0, &failure), TIDEMARK_ELOCKED);
    tidemark_state_release(other);
    tidemark_state_release(state);
}

static void test_read_only(void) {
    int code;
    tidemark_state *state = prepare(), *reader = open_state(TIDEMARK_OPEN_READONLY, &code);
    check_refused(reader, TIDEMARK_EREADONLY, path);
    tidemark_state_release(reader);
    tidemark_state_release(state);
    CHECK_INT(unlink(live_path), 0);
    reader = open_state(TIDEMARK_OPEN_READONLY, &code); /* one of the last checkpoint */
    CHECK_INT(reset(reader), TIDEMARK_EREADONLY);
    CHECK_INT(tidemark_state_applied_seqno(reader, 0), 20);
    tidemark_state_release(reader);
}

static tidemark_state *inherited;

static void reset_inherited(void) {
    CHECK_INT(reset(inherited), TIDEMARK_EFORKED);
    CHECK_INT(tidemark_state_applied_seqno(inherited, 0), 22);
    tidemark_state_release(inherited);
}

static void test_forked(void) {
    inherited = prepare();
    CHECK_INT(in_child(reset_inherited), 0);
    CHECK_VIEW(view_of(inherited), before);
    CHECK_INT(reset(inherited), 0);
    CHECK_VIEW(view_of(inherited), after);
    tidemark_state_release(inherited);
}

static void test_what_a_checkpoint_refuses(void) {
    tidemark_state *state = prepare();
    CHECK_INT(rename(live_path, copy_path), 0);
    check_refused(state, TIDEMARK_EREPLACED, "was deleted or replaced");
    CHECK_INT(rename(copy_path, live_path), 0);
    fault_set(FAULT_ONCE, 1, EIO, 1u << FAULT_FDATASYNC);
    CHECK_INT(save(state), TIDEMARK_EIO);
    fault_clear();
    check_refused(state, TIDEMARK_EPOISONED, "an earlier sync failed");
    CHECK(exists(live_path));
    tidemark_state_release(state);
    CHECK_INT(view_found().mark, 22);
}

/* Between the reading of a note and the reset that was made from it, somebody has written another one. */
static void test_note_changed_meanwhile(void) {
    const tidemark_note old = note_of(0, "old"), newer = note_of(0, "newer"), cut = note_of(0, "new");
    tidemark_state *state = prepare(), *other = open_or_stop();
    CHECK_INT(tidemark_state_checkpoint(other, &newer, 1, &failure), 0);
    tidemark_state_release(other);
    CHECK_INT(tidemark_state_reset_from(state, 0, 10, &old, &cut, &failure), TIDEMARK_EBUSY);
    CHECK_INT(tidemark_state_reset_from(state, 0, 10, NULL, &cut, &failure), TIDEMARK_EBUSY);
    before = make_view(22, 9, "newer");
    CHECK_VIEW(view_of(state), before);
    CHECK_INT(tidemark_state_reset_from(state, 0, 10, &newer, &cut, &failure), 0);
    CHECK_VIEW(view_of(state), after);
    tidemark_state_release(state);
}

/* ---- in memory ---- */

static void test_in_memory(void) {
    static const uint32_t shards[] = {0, 3, 700};
    const tidemark_note note = note_of(3, "x");
    tidemark_watch *watch = NULL;
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_new(shards, 3, &state, &failure), 0);
    for (int i = 0; i < 3; i++) (void)tidemark_state_advance(state, shards[i], 20 + i);
    CHECK_INT(tidemark_state_reset(state, 3, 22, NULL, &failure), TIDEMARK_EINVAL);
    CHECK_STR(failure.message, "a state in memory: shard 3 cannot be reset to 22, which is above its mark 21");
    CHECK_INT(tidemark_state_reset(state, 3, 5, &note, &failure), TIDEMARK_EUNSUPPORTED);
    CHECK_INT(tidemark_state_reset(state, 4, 0, NULL, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_state_lock_shard(state, 700, &failure), 0);
    CHECK_INT(tidemark_state_reset(state, 3, 5, NULL, &failure), TIDEMARK_ELOCKED);
    CHECK(strstr(failure.message, "shard 700 ") != NULL);
    tidemark_state_unlock_shard(state, 700);
    CHECK_INT(tidemark_state_watch(state, 3, 30, &watch, &failure), 0);
    CHECK(tidemark_watch_fd(watch, &failure) >= 0);
    CHECK_INT(tidemark_state_reset(state, 3, 5, NULL, &failure), TIDEMARK_EBUSY);
    CHECK_INT(tidemark_state_applied_seqno(state, 3), 21);
    tidemark_watch_close(watch);
    CHECK_INT(tidemark_state_reset(state, 3, 21, NULL, &failure), 0);
    CHECK_INT(tidemark_state_reset(state, 3, 5, NULL, &failure), 0);
    CHECK_INT(tidemark_state_applied_seqno(state, 3), 5);
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 20);
    CHECK_INT(tidemark_state_applied_seqno(state, 700), 22);
    CHECK_INT(tidemark_state_advance(state, 3, 6), 1);
    CHECK_INT(tidemark_state_reset(state, 3, 0, NULL, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(state, 3, 1, 0, &failure), TIDEMARK_ETIMEOUT);
    tidemark_state_release(state);
}

/* ---- every call fails, or is the last one ---- */

struct plan {
    const char *name;
    enum fault_mode mode;
    int code;
    unsigned only;
};
static const struct plan plans[] = {
    {"EIO once", FAULT_ONCE, EIO, 0},
    {"ENOSPC once", FAULT_ONCE, ENOSPC, 0},
    {"EAGAIN once", FAULT_ONCE, EAGAIN, 0},
    {"EINTR once", FAULT_ONCE, EINTR, 0},
    {"ENOENT once", FAULT_ONCE, ENOENT, 0},
    {"EIO for good", FAULT_FOR_GOOD, EIO, 0},
    {"ENOSPC for good", FAULT_FOR_GOOD, ENOSPC, 0},
    {"writes and syncs fail for good", FAULT_FOR_GOOD, EIO,
     1u << FAULT_PWRITE | 1u << FAULT_FSYNC | 1u << FAULT_FDATASYNC},
    {"killed before", FAULT_KILL_BEFORE, EIO, 0},
    {"killed after", FAULT_KILL_AFTER, EIO, 0},
    {"killed halfway", FAULT_KILL_HALFWAY, EIO, 1u << FAULT_PWRITE},
};

static const struct plan *plan;
static unsigned at;

/* In memory that is shared with a child that is killed. */
struct progress {
    struct view saved, before, after;
    bool done; /* there was no call `at` */
    bool reset;
    int code;
};
static struct progress *progress;

static tidemark_state *(*scenario)(void); /* prepares */

/* The first save of all who are attached has more to do. */
static tidemark_state *prepare_and_reopen(void) {
    tidemark_state_release(prepare());
    return open_or_stop();
}

/* The second one of two. */
static tidemark_state *prepare_second(void) {
    tidemark_state *state = prepare();
    CHECK_INT(reset(state), 0);
    (void)tidemark_state_advance(state, 0, 15);
    (void)tidemark_state_advance(state, 3, 12);
    saved = after;
    before = make_view(15, 12, "new");
    after = make_view(5, 12, "newer");
    return state;
}

static tidemark_state *prepare_to_0(void) {
    tidemark_state *state = prepare();
    after = make_view(0, 9, "(none)");
    return state;
}

/* Mark and note are already so. */
static tidemark_state *prepare_same(void) {
    tidemark_state *state = prepare();
    after = before;
    return state;
}

/* What the state is good for after the reset has returned. */
static void check_state(tidemark_state *state, int code) {
    if (code == 0) {
        CHECK_VIEW(view_of(state), after);
        CHECK_INT(save(state), 0);
        CHECK_VIEW(view_of(state), after);
        return;
    }
    CHECK(failure.message[0] != '\0');
    CHECK_INT(tidemark_state_applied_seqno(state, 0), before.mark);
    /* what it would publish now is the old mark, with the note of that; or it publishes nothing any more. It also lets
     * go the save lock, where that could not be done before. */
    int found, saving = save(state);
    CHECK(saving == 0 || saving == TIDEMARK_EREPLACED || saving == TIDEMARK_EPOISONED);
    if (saving == 0) CHECK_VIEW(view_of(state), before);
    if (!exists(live_path)) CHECK_INT(saving, TIDEMARK_EREPLACED);
    tidemark_state *reader = open_state(TIDEMARK_OPEN_READONLY, &found);
    CHECK_INT(found, 0);
    if (reader != NULL) check_old_or_new(view_of(reader), true);
    tidemark_state_release(reader);
}

static void run_scenario(void) {
    tidemark_state *state = scenario();
    progress->saved = saved;
    progress->before = before;
    progress->after = after;
    fault_set(plan->mode, at, plan->code, plan->only);
    int code = reset(state);
    progress->done = fault->calls < at;
    progress->code = code;
    progress->reset = code == 0;
    fault_clear();
    if (progress->done) CHECK_INT(code, 0);
    else CHECK(code <= 0);
    if (plan->code == EINTR && code != 0) CHECK(fault->first != FAULT_LOCK && fault->first != FAULT_PWRITE);
    check_state(state, code);
    tidemark_state_release(state);
}

static const unsigned losses[] = {0, FAULT_LOSE_ALL, FAULT_LOSE_NOTHING, 4711, 815, 99, 31337};
#define LOSSES (sizeof losses / sizeof losses[0]) /* the first one is none: the same boot */

static bool seen_before, seen_after;

static void check_afterwards(size_t loss) {
    bool lost = loss > 0;
    if (lost) {
        unsigned what = losses[loss];
        restart(loss > 2 ? what + at * 7919 : what);
    }
    tidemark_state *state = open_or_stop();
    struct view view = view_of(state);
    check_old_or_new(view, lost);
    if (progress->reset) CHECK_VIEW(view, after);
    seen_before = seen_before || !same(view, after);
    seen_after = seen_after || same(view, after);
    /* the reset is repeated, and then it is durable in both slots */
    after.other = view.other;
    if (after.mark > view.mark) after.mark = view.mark; /* it was to be what was live, and that is lost */
    CHECK_INT(reset(state), 0);
    CHECK_VIEW(view_of(state), after);
    tidemark_state_release(state);
    restart(FAULT_LOSE_ALL);
    damage_newest_slot();
    CHECK_VIEW(view_found(), after);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

/* Whether there was a call `at`. */
static bool run_once(size_t loss) {
    int failures = check_failures, descriptors = count_descriptors();
    begin_test();
    memset(progress, 0, sizeof *progress);
    if (plan->mode >= FAULT_KILL_BEFORE) {
        int status = in_child(run_scenario);
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : progress->done);
        fault->descriptors = fault->mappings = 0;
        saved = progress->saved;
        before = progress->before;
        after = progress->after;
    } else {
        run_scenario();
        CHECK_INT(fault->descriptors, 0);
        CHECK_INT(fault->mappings, 0);
        CHECK_INT(count_descriptors(), descriptors);
    }
    fault_clear();
    bool more = !progress->done;
    check_afterwards(loss);
    if (check_failures > failures) printf("    call %u, %s, loss %u\n", at, plan->name, losses[loss]);
    return more;
}

static void sweep(const char *name, tidemark_state *(*prepares)(void)) {
    unsigned most = 0, runs = 0;
    scenario = prepares;
    seen_before = seen_after = false;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        plan = &plans[i];
        for (size_t loss = 0; loss < LOSSES; loss++) {
            for (at = 1; run_once(loss) && check_failures < 20; at++) runs++;
            if (at > most) most = at;
        }
    }
    CHECK(most > 10);
    CHECK(seen_after);
    if (prepares != prepare_same) CHECK(seen_before);
    printf("    %s: up to %u calls, %u runs\n", name, most - 1, runs);
}

static void test_every_call(void) {
    sweep("a reset", prepare);
}

static void test_every_call_after_opening(void) {
    sweep("the first reset after opening", prepare_and_reopen);
}

static void test_every_call_of_the_second(void) {
    sweep("the second of two", prepare_second);
}

static void test_every_call_to_0(void) {
    sweep("a reset to 0 without a note", prepare_to_0);
}

static void test_every_call_of_one_that_changes_nothing(void) {
    sweep("a reset to what is there", prepare_same);
}

/* ---- others beside it, at every call ---- */

/* What the others use: it knows the boot of the test, counts nothing, and where it would wait it fails. */
static bool would_wait;

static int lock_at_once(int fd, short type, off_t byte, bool wait) {
    int result = tidemark_io_system.lock(fd, type, byte, false);
    if (result < 0 && wait && errno == EAGAIN) would_wait = true;
    return result;
}

static int boot_of_the_test(unsigned char id[16]) {
    memcpy(id, fault->boot, 16);
    return 0;
}

static struct tidemark_io beside_io;

static tidemark_state *open_beside(unsigned flags, int *code) {
    tidemark_state *state = NULL;
    would_wait = false;
    beside_io = tidemark_io_system;
    beside_io.lock = lock_at_once;
    beside_io.boot_id = boot_of_the_test;
    *code = tidemark_state_open_io(&beside_io, path, usual, 2, flags, &state, &failure);
    return state;
}

/* Another process, which does what it is asked for. */
enum { READ, OPEN_AND_CLOSE, OPEN, ADVANCE, CLOSE, END };

struct answer {
    int code;
    bool waits;
    struct view view;
};

static struct {
    pid_t pid;
    int asks[2], answers[2];
} beside;

static void serve(void) {
    char what;
    tidemark_state *held = NULL;
    check_failures = 0;
    while (read(beside.asks[0], &what, 1) == 1 && what != END) {
        struct answer answer = {0, false, {0, 0, ""}};
        tidemark_state *state = held;
        if (what <= OPEN) state = open_beside(what == READ ? TIDEMARK_OPEN_READONLY : 0, &answer.code);
        answer.waits = would_wait;
        if (state != NULL && what == ADVANCE) answer.code = tidemark_state_advance(state, 0, 100);
        if (state != NULL && what <= ADVANCE) answer.view = view_of(state);
        if (what == READ || what == OPEN_AND_CLOSE) tidemark_state_release(state);
        if (what == OPEN || what == CLOSE) tidemark_state_release(held);
        if (what == OPEN) held = state;
        if (what == CLOSE) held = NULL;
        if (write(beside.answers[1], &answer, sizeof answer) != sizeof answer) break;
    }
    fflush(stdout);
    _exit(check_failures != 0);
}

static void start_beside(void) {
    fflush(stdout);
    if (pipe(beside.asks) < 0 || pipe(beside.answers) < 0) abort();
    beside.pid = fork();
    if (beside.pid == 0) {
        (void)close(beside.asks[1]);
        serve();
    }
    (void)close(beside.asks[0]);
    (void)close(beside.answers[1]);
}

static struct answer ask(char what) {
    struct answer answer;
    if (write(beside.asks[1], &what, 1) != 1 || read(beside.answers[0], &answer, sizeof answer) != sizeof answer)
        abort();
    return answer;
}

static void end_beside(void) {
    int status;
    const char end = END;
    if (write(beside.asks[1], &end, 1) != 1 || waitpid(beside.pid, &status, 0) != beside.pid) abort();
    CHECK_INT(status, 0);
    (void)close(beside.asks[1]);
    (void)close(beside.answers[0]);
}

static char asked;
static struct answer answered;
static tidemark_state *follower; /* follows the old live file */
static bool was_current;

static void look_beside(void) {
    answered = ask(asked);
    CHECK(answered.code == 0 || answered.waits);
    if (answered.code == 0) check_old_or_new(answered.view, false);
    CHECK_INT(tidemark_state_applied_seqno(follower, 0), 22);
    CHECK_INT(tidemark_state_applied_seqno(follower, 3), 9);
    was_current = tidemark_state_is_current(follower, &failure) == 1;
}

/* The reset with `what` before call `at`; whether there was one. The counts are of what came of it. */
static bool reset_beside(char what, unsigned counts[3]) {
    int code;
    begin_test();
    tidemark_state *state = prepare();
    follower = open_beside(TIDEMARK_OPEN_READONLY, &code);
    CHECK_INT(code, 0);
    asked = what;
    memset(&answered, 0, sizeof answered);
    was_current = false;
    fault_hook = look_beside;
    fault_set(FAULT_HOOK, at, EIO, 0);
    int result = reset(state);
    bool more = fault->calls >= at;
    fault_clear();
    bool attached = what == OPEN && more && answered.code == 0;
    if (result == TIDEMARK_EBUSY) {
        CHECK(attached && same(answered.view, before));
        CHECK_VIEW(view_of(state), before);
        CHECK_INT(tidemark_state_is_current(follower, &failure), 1);
        CHECK_INT(save(state), 0);
        counts[0]++;
    } else {
        CHECK_INT(result, 0);
        CHECK_VIEW(view_of(state), after);
        CHECK_INT(tidemark_state_applied_seqno(follower, 0), 22);
        CHECK_INT(tidemark_state_is_current(follower, &failure), 0);
        counts[answered.waits ? 1 : 2]++;
    }
    if (attached) {
        CHECK_INT(ask(ADVANCE).code, 1); /* both have the same live file */
        CHECK_INT(tidemark_state_applied_seqno(state, 0), 100);
        CHECK_INT(reset(state), TIDEMARK_EBUSY);
        CHECK_INT(ask(CLOSE).code, 0);
        after.mark = 99;
    }
    CHECK_INT(reset(state), 0);
    struct answer last = ask(READ);
    CHECK(last.code == 0);
    CHECK_VIEW(last.view, after);
    tidemark_state_release(follower);
    tidemark_state_release(state);
    CHECK_VIEW(view_found(), after);
    return more;
}

static void test_others_at_every_call(void) {
    static const char *const names[] = {"read", "opened and closed", "opened"};
    start_beside();
    for (char what = READ; what <= OPEN; what++) {
        unsigned counts[3] = {0, 0, 0};
        bool current = true;
        for (at = 1; reset_beside(what, counts) && check_failures < 10; at++) {
            CHECK(current || !was_current);
            current = was_current;
        }
        CHECK(!current); /* the live file was another one before the end */
        CHECK(at > 10 && counts[1] > 5 && counts[2] > 1);
        CHECK(what == OPEN ? counts[0] > 0 : counts[0] == 0);
        printf("    another process %s: %u busy, %u waiting, %u not\n", names[(int)what], counts[0], counts[1],
               counts[2]);
    }
    end_beside();
}

/* Another process that has the state open all the time. */
static void test_another_process(void) {
    start_beside();
    tidemark_state *state = prepare();
    CHECK_INT(ask(OPEN).code, 0);
    check_refused(state, TIDEMARK_EBUSY, "is open elsewhere");
    CHECK_INT(ask(READ).code, 0);
    CHECK_INT(ask(OPEN).code, 0);
    CHECK_INT(ask(CLOSE).code, 0);
    CHECK_INT(reset(state), 0);
    struct answer answer = ask(OPEN);
    CHECK_INT(answer.code, 0);
    CHECK_VIEW(answer.view, after);
    CHECK_INT(ask(ADVANCE).code, 1);
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 100);
    end_beside();
    tidemark_state_release(state);
}

/* A failed reset that has removed the live file keeps others out until its state is closed. */
static void test_busy_after_a_failed_reset(void) {
    tidemark_state *state = prepare();
    fault_set(FAULT_ONCE, 2, EIO, 1u << FAULT_FDATASYNC);
    CHECK_INT(reset(state), TIDEMARK_EIO);
    CHECK(strstr(failure.message, "sync failed") != NULL);
    fault_clear();
    int code;
    CHECK(open_state(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EBUSY);
    CHECK_INT(save(state), TIDEMARK_EREPLACED);
    CHECK_INT(reset(state), TIDEMARK_EREPLACED);
    tidemark_state_release(state);
    CHECK_VIEW(view_found(), after);
}

/* ---- copies and links ---- */

static char old_live[192]; /* a second name of the old live file */

static void link_live(void) {
    (void)snprintf(old_live, sizeof old_live, "%s/old.live", directory);
    CHECK_INT(link(live_path, old_live), 0);
}

static void copy_path_now(void) {
    copy_file(path, copy_path);
}

/* Both files as they were at any moment: a copy of PATH and the old live file itself. */
static void test_copies_of_every_moment(void) {
    bool more = true, copied_before = false, copied_after = false;
    for (at = 1; more && check_failures < 10; at++) {
        for (int with_live = 0; with_live < 2; with_live++) {
            begin_test();
            tidemark_state *state = prepare();
            link_live();
            fault_hook = copy_path_now;
            fault_set(FAULT_HOOK, at, EIO, 0);
            CHECK_INT(reset(state), 0);
            more = fault->calls >= at;
            fault_clear();
            tidemark_state_release(state);
            if (!more) break;
            copy_file(copy_path, path);
            if (with_live) CHECK_INT(rename(old_live, live_path), 0);
            struct view view = view_found();
            /* the copy may be older than the first step, and then what was live does not go with it */
            check_old_or_new(view, true);
            copied_before = copied_before || same(view, before);
            copied_after = copied_after || same(view, after);
            tidemark_state *again = open_or_stop();
            CHECK_INT(save(again), 0);
            CHECK_VIEW(view_of(again), view);
            tidemark_state_release(again);
        }
    }
    CHECK(copied_before && copied_after);
}

/* The old live file gets its name back. It must not be trusted beside the new mark. */
static void test_old_live_file_put_back(void) {
    tidemark_state *state = prepare();
    link_live();
    CHECK_INT(reset(state), 0);
    tidemark_state_release(state);
    CHECK_INT(rename(old_live, live_path), 0);
    CHECK_VIEW(view_found(), after);
}

static void reset_and_die(void) {
    tidemark_state *state = prepare();
    link_live();
    fault_set(FAULT_KILL_BEFORE, at, EIO, 0);
    CHECK_INT(reset(state), 0);
    progress->done = true;
    tidemark_state_release(state);
}

static void test_old_live_file_put_back_after_a_kill(void) {
    progress->done = false;
    for (at = 1; !progress->done && check_failures < 10; at++) {
        begin_test();
        (void)snprintf(old_live, sizeof old_live, "%s/old.live", directory);
        before = make_view(22, 9, "old");
        after = make_view(10, 9, "new");
        (void)in_child(reset_and_die);
        fault_clear();
        fault->descriptors = fault->mappings = 0;
        CHECK_INT(rename(old_live, live_path), 0);
        check_old_or_new(view_found(), false);
    }
    CHECK(at > 10);
}

/* Through the state of a failed reset nothing is saved, also if its live file has its name again. */
static void test_old_live_file_put_back_under_a_failed_reset(void) {
    static const unsigned only = 1u << FAULT_FDATASYNC | 1u << FAULT_MMAP;
    for (unsigned call = 2; call <= 4; call++) { /* the two syncs after the first one, and the mapping */
        begin_test();
        tidemark_state *state = prepare();
        link_live();
        fault_set(FAULT_ONCE, call, EIO, only);
        CHECK_INT(reset(state), TIDEMARK_EIO);
        fault_clear();
        CHECK_INT(rename(old_live, live_path), 0);
        CHECK_INT(save(state), TIDEMARK_EPOISONED);
        tidemark_state_release(state);
        CHECK_VIEW(view_found(), after);
    }
}

int main(void) {
    make_directory();
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) return 2;
    RUN_EMPTY(test_reset);
    RUN_EMPTY(test_reset_to_0_without_a_note);
    RUN_EMPTY(test_twice_in_a_row);
    RUN_EMPTY(test_newest_slot_damaged);
    RUN_EMPTY(test_already_so);
    RUN_EMPTY(test_note_only);
    RUN_EMPTY(test_many_shards);
    RUN_EMPTY(test_arguments);
    RUN_EMPTY(test_other_references);
    RUN_EMPTY(test_another_handle_in_this_process);
    RUN_EMPTY(test_shard_locked);
    RUN_EMPTY(test_read_only);
    RUN_EMPTY(test_forked);
    RUN_EMPTY(test_what_a_checkpoint_refuses);
    RUN_EMPTY(test_note_changed_meanwhile);
    RUN_EMPTY(test_in_memory);
    RUN_EMPTY(test_every_call);
    RUN_EMPTY(test_every_call_after_opening);
    RUN_EMPTY(test_every_call_of_the_second);
    RUN_EMPTY(test_every_call_to_0);
    RUN_EMPTY(test_every_call_of_one_that_changes_nothing);
    RUN_EMPTY(test_others_at_every_call);
    RUN_EMPTY(test_another_process);
    RUN_EMPTY(test_busy_after_a_failed_reset);
    RUN_EMPTY(test_copies_of_every_moment);
    RUN_EMPTY(test_old_live_file_put_back);
    RUN_EMPTY(test_old_live_file_put_back_after_a_kill);
    RUN_EMPTY(test_old_live_file_put_back_under_a_failed_reset);
    return FINISH();
}
