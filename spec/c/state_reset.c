/* Lowering a mark: what it does, its conditions, and marks in memory. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_reset.h"

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
    /* the state can still be used, and another handle that opens the path shares it */
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

int main(void) {
    make_directory();
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
    return FINISH();
}
