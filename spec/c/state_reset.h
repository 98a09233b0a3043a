/* What the programs about lowering a mark share: a state, what is to become of it, and what is found in its files. */
#ifndef TIDEMARK_STATE_RESET_H
#define TIDEMARK_STATE_RESET_H

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
        CHECK(same(check_v, expected)); \
        if (!same(check_v, expected)) { \
            print_view("found", check_v); \
            print_view("expected", expected); \
        } \
    } while (0)

/* Old or new, whole. `lost`: the power was lost, so what was not saved may be. */
static void check_old_or_new(struct view view, bool lost) {
    bool old_or_new = same(view, before) || same(view, after) || (lost && same(view, saved));
    CHECK(old_or_new);
    if (old_or_new) return;
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

/* The reset is refused, and nothing has changed. */
static void check_refused(tidemark_state *state, int code, const char *why) {
    CHECK_INT(reset(state), code);
    if (strstr(failure.message, why) == NULL) CHECK_STR(failure.message, why);
    CHECK_VIEW(view_of(state), before);
}

#endif
