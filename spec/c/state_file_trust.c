/* Which marks an opening finds: of the live file or of the checkpoint, after everything that can happen to the two
 * files in between. Each test says which mark must be there, and none is ahead of what was saved or live. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_files.h"

static void test_reopened(void) {
    make_saved(10, 12);
    CHECK_INT(mark_found(), 12);
    CHECK_INT(mark_found(), 12);
}

static void test_other_boot(void) {
    make_saved(10, 12);
    fault->boot[15]++;
    CHECK_INT(mark_found(), 10);
    fault->boot[15]--; /* that live file is gone */
    CHECK_INT(mark_found(), 10);
}

static void test_other_boot_with_the_live_file_still_open(void) {
    int code;
    tidemark_state *state = open_or_stop();
    fault->boot[15]++;
    CHECK(open_state(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EBUSY);
    tidemark_state_release(state);
}

static void test_older_copy_restored(void) {
    for (int in_place = 0; in_place < 2; in_place++) {
        begin_test();
        make_saved(10, 10);
        copy_file(path, copy_path);
        make_saved(20, 22);
        if (in_place) copy_file(copy_path, path);
        else CHECK_INT(rename(copy_path, path), 0);
        CHECK_INT(mark_found(), 10);
        make_saved(11, 11);
        CHECK_INT(mark_found(), 11);
    }
}

/* A copy from before any advance of the live file is the same checkpoint: the live marks go with it. */
static void test_copy_of_the_same_checkpoint_restored(void) {
    make_saved(10, 12);
    copy_file(path, copy_path);
    CHECK_INT(rename(copy_path, path), 0);
    CHECK_INT(mark_found(), 12);
}

/* Two histories of one file: the second one saves as often as the first, and then the first one's copy is restored. */
static void test_copies_of_two_histories(void) {
    static char first[192];
    (void)snprintf(first, sizeof first, "%s/first", directory);
    make_saved(10, 10);
    copy_file(path, copy_path);
    make_saved(20, 20);
    copy_file(path, first);
    copy_file(copy_path, path);
    make_saved(90, 95); /* as many saves as those that led to `first` */
    copy_file(first, path);
    CHECK_INT(mark_found(), 20);
}

static void test_path_deleted(void) {
    make_saved(10, 12);
    CHECK_INT(unlink(path), 0);
    CHECK_INT(mark_found(), 0);
    CHECK_INT(mark_found(), 0);
}

static void test_path_of_another_state(void) {
    make_saved(10, 12);
    CHECK_INT(rename(path, copy_path), 0);
    CHECK_INT(mark_found(), 0);
    CHECK_INT(rename(copy_path, path), 0);
    CHECK_INT(mark_found(), 10);
}

static void test_live_deleted(void) {
    make_saved(10, 12);
    CHECK_INT(unlink(live_path), 0);
    CHECK_INT(mark_found(), 10);
}

static void test_live_copied(void) {
    make_saved(10, 12);
    copy_file(live_path, copy_path);
    CHECK_INT(rename(copy_path, live_path), 0);
    CHECK_INT(mark_found(), 10);
}

static void test_live_of_another_length(void) {
    static const off_t lengths[] = {0, 1, 63, 64, 4096, 12288, 65536, 4259839, 4259841};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        begin_test();
        make_saved(10, 12);
        CHECK_INT(truncate(live_path, lengths[i]), 0);
        CHECK_INT(mark_found(), 10);
        CHECK_INT(mark_found(), 10);
    }
}

/* A byte of its identity or of a generation is another: all of them count. */
static void test_live_header_damaged(void) {
    for (off_t offset = 0; offset < 72; offset++) {
        unsigned char byte;
        if (offset >= 12 && offset < 16) continue; /* nothing */
        begin_test();
        make_saved(10, 12);
        if (offset >= 64) { /* both generations, else the other one holds */
            get_bytes(live_path, offset + 8, &byte, 1);
            byte ^= 4;
            put_bytes(live_path, offset + 8, &byte, 1);
        }
        get_bytes(live_path, offset, &byte, 1);
        byte ^= 4;
        put_bytes(live_path, offset, &byte, 1);
        CHECK_INT(mark_found(), 10);
    }
}

/* ---- what is not a file of our own: refused, and nothing is changed ---- */

static void refused(const char *name, const char *why) {
    int code;
    for (unsigned flags = 0; flags <= TIDEMARK_OPEN_READONLY; flags += TIDEMARK_OPEN_READONLY) {
        CHECK(open_state(flags, &code) == NULL);
        CHECK_INT(code, TIDEMARK_EDENIED);
        CHECK(strstr(failure.message, name) != NULL);
        CHECK(strstr(failure.message, why) != NULL);
    }
    CHECK_INT(fault->descriptors, 0);
}

static void test_other_kinds_of_files(void) {
    const char *names[] = {path, live_path};
    for (int i = 0; i < 2; i++) {
        begin_test();
        make_saved(10, 12);
        CHECK_INT(rename(names[i], copy_path), 0);
        CHECK_INT(symlink(copy_path, names[i]), 0);
        refused(names[i], "symbolic link");
        CHECK_INT(unlink(names[i]), 0);
        CHECK_INT(mkdir(names[i], 0700), 0);
        refused(names[i], "not a plain file");
        CHECK_INT(rmdir(names[i]), 0);
        CHECK_INT(mkfifo(names[i], 0600), 0);
        refused(names[i], "not a plain file");
        CHECK_INT(rename(copy_path, names[i]), 0);
        CHECK_INT(mark_found(), 12);
    }
}

static void test_file_of_another_user(void) {
    const char *names[] = {path, live_path};
    if (geteuid() != 0) {
        printf("    skipped: only root can give a file away\n");
        return;
    }
    for (int i = 0; i < 2; i++) {
        begin_test();
        make_saved(10, 12);
        CHECK_INT(chown(names[i], 12345, (gid_t)-1), 0);
        refused(names[i], "belongs to user 12345");
        CHECK_INT(chown(names[i], 0, (gid_t)-1), 0);
        CHECK_INT(mark_found(), 12);
    }
}

/* The files that belong to a state must never be those of another one. */
static void test_names_that_are_taken(void) {
    static const char *const endings[] = {".live", ".new"};
    make_saved(10, 12);
    for (int i = 0; i < 2; i++) {
        char other[224];
        tidemark_state *state = NULL;
        (void)snprintf(other, sizeof other, "%s%s", copy_path, endings[i]);
        CHECK_INT(tidemark_state_open_io(&fault_io, other, usual, 2, 0, &state, &failure), TIDEMARK_EINVAL);
        CHECK(!exists(other));
    }
}

/* ---- damage to PATH ---- */

static off_t newer_slot(void) {
    unsigned char one[16], other[16];
    get_bytes(path, tidemark_slot_offset(0), one, 16);
    get_bytes(path, tidemark_slot_offset(1), other, 16);
    return tidemark_slot_offset(tidemark_get64(other + 8) > tidemark_get64(one + 8));
}

static off_t older_slot(void) {
    return tidemark_slot_offset(newer_slot() == tidemark_slot_offset(0));
}

static void damage(off_t offset) {
    unsigned char byte;
    get_bytes(path, offset, &byte, 1);
    byte ^= 1;
    put_bytes(path, offset, &byte, 1);
}

/* The live file is of the checkpoint that is lost, so it is not trusted either. */
static void test_one_slot_damaged(void) {
    make_saved(10, 12);
    damage(newer_slot() + 70);
    CHECK_INT(mark_found(), 9);
    begin_test();
    make_saved(10, 12);
    damage(older_slot() + 70);
    CHECK_INT(mark_found(), 12);
    fault->boot[0]++;
    CHECK_INT(mark_found(), 10);
}

static void test_both_slots_damaged(void) {
    static unsigned char before[3 * 4096], after[3 * 4096];
    int code;
    make_saved(10, 12);
    damage(tidemark_slot_offset(0) + 70);
    damage(tidemark_slot_offset(1) + 20);
    copy_file(path, copy_path);
    CHECK(open_state(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ECORRUPT);
    CHECK(strstr(failure.message, "slot 0 (offset 4096)") != NULL);
    CHECK(strstr(failure.message, "slot 1 (offset 16781312)") != NULL);
    CHECK(open_state(TIDEMARK_OPEN_READONLY, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ECORRUPT);
    get_bytes(path, 0, after, sizeof after);
    get_bytes(copy_path, 0, before, sizeof before);
    CHECK(memcmp(before, after, sizeof after) == 0);
}

/* A save overwrote the older slot as far as byte `cut` of its block, then the power failed. Bytes 0..cut-1 are of the
 * new checkpoint, the rest of the one that stood there. */
static void test_newer_slot_torn_at_every_byte(void) {
    static unsigned char old[TIDEMARK_BLOCK], new[TIDEMARK_BLOCK];
    make_saved(12, 12);
    tidemark_state *state = open_or_stop();
    CHECK_INT(save_mark(state, 13), 0);
    off_t place = older_slot();
    get_bytes(path, place, old, sizeof old);
    CHECK_INT(save_mark(state, 14), 0);
    tidemark_state_release(state);
    CHECK_INT(newer_slot(), place);
    get_bytes(path, place, new, sizeof new);
    for (size_t cut = 0; cut <= sizeof new; cut++) {
        bool whole = memcmp(new + cut, old + cut, sizeof new - cut) == 0;
        bool untouched = memcmp(new, old, cut) == 0;
        put_bytes(path, place, new, cut);
        if (cut < sizeof old) put_bytes(path, place + (off_t)cut, old + cut, sizeof old - cut);
        restart(FAULT_LOSE_NOTHING);
        int64_t mark = mark_found();
        CHECK_INT(mark, whole ? 14 : 13);
        if (untouched) CHECK_INT(mark, 13);
        if (check_failures > 5) return;
    }
}

static void test_not_a_state_file(void) {
    int code;
    static const off_t lengths[] = {0, 1, 63, 64, 4096, 4100};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        begin_test();
        make_saved(10, 12);
        CHECK_INT(truncate(path, lengths[i]), 0);
        CHECK(open_state(0, &code) == NULL);
        CHECK_INT(code, TIDEMARK_ECORRUPT);
    }
}

int main(void) {
    make_directory();
    RUN_EMPTY(test_reopened);
    RUN_EMPTY(test_other_boot);
    RUN_EMPTY(test_other_boot_with_the_live_file_still_open);
    RUN_EMPTY(test_older_copy_restored);
    RUN_EMPTY(test_copy_of_the_same_checkpoint_restored);
    RUN_EMPTY(test_copies_of_two_histories);
    RUN_EMPTY(test_path_deleted);
    RUN_EMPTY(test_path_of_another_state);
    RUN_EMPTY(test_live_deleted);
    RUN_EMPTY(test_live_copied);
    RUN_EMPTY(test_live_of_another_length);
    RUN_EMPTY(test_live_header_damaged);
    RUN_EMPTY(test_other_kinds_of_files);
    RUN_EMPTY(test_file_of_another_user);
    RUN_EMPTY(test_names_that_are_taken);
    RUN_EMPTY(test_one_slot_damaged);
    RUN_EMPTY(test_both_slots_damaged);
    RUN_EMPTY(test_newer_slot_torn_at_every_byte);
    RUN_EMPTY(test_not_a_state_file);
    return FINISH();
}
