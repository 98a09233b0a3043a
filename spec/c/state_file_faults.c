/* Disks that fail, fill up or do half, and files that are replaced under a running process. */
#define _GNU_SOURCE /* fault_io.h, unshare */
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "state_files.h"

#define DATA_SYNC (1u << FAULT_FDATASYNC)
#define ALL_SYNCS (DATA_SYNC | 1u << FAULT_FSYNC)

/* ---- syncs that fail ---- */

/* Poisoned for all who are attached until all have closed it; then what is there is the failed save or the one before,
 * and two more saves stand whatever the disk did. */
static void test_failed_sync(void) {
    static const unsigned what[] = {FAULT_LOSE_ALL, FAULT_LOSE_NOTHING, 1, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
        begin_test();
        make_saved(10, 10);
        tidemark_state *one = open_or_stop(), *two = open_or_stop();
        CHECK_INT(save_mark(one, 11), 0);
        fault_set(FAULT_ONCE, 1, EIO, DATA_SYNC);
        CHECK_INT(save_mark(one, 12), TIDEMARK_EIO);
        CHECK(strstr(failure.message, "Input/output error") != NULL);
        fault_clear();
        CHECK_INT(save_mark(two, 13), TIDEMARK_EPOISONED);
        tidemark_state_release(one);
        one = open_or_stop(); /* `two` is still attached */
        CHECK_INT(save(one), TIDEMARK_EPOISONED);
        CHECK_INT(noted(one), 11);
        tidemark_state_release(one);
        tidemark_state_release(two);
        restart(what[i]);
        one = open_or_stop();
        int64_t mark = tidemark_state_applied_seqno(one, 0);
        CHECK(mark == 11 || mark == 12);
        if (what[i] == FAULT_LOSE_ALL) CHECK_INT(mark, 11);
        if (what[i] == FAULT_LOSE_NOTHING) CHECK_INT(mark, 12);
        CHECK_INT(save_mark(one, 20), 0);
        CHECK_INT(save_mark(one, 21), 0);
        tidemark_state_release(one);
        restart(FAULT_LOSE_ALL);
        CHECK_INT(mark_found(), 21);
    }
}

/* Opened anew on the same boot, the failed save is what is read: but it stands in memory only, the disk never got it.
 * Whoever saves next must not take it for the good one and overwrite the one that is. */
static void test_failed_sync_then_the_next_save_is_cut_short(void) {
    for (unsigned at = 1; at < 12; at++) {
        begin_test();
        make_saved(10, 10);
        tidemark_state *state = open_or_stop();
        CHECK_INT(save_mark(state, 11), 0);
        fault_set(FAULT_ONCE, 1, EIO, DATA_SYNC);
        CHECK_INT(save_mark(state, 12), TIDEMARK_EIO);
        fault_clear();
        tidemark_state_release(state);
        state = open_or_stop();
        CHECK_INT(tidemark_state_applied_seqno(state, 0), 12);
        /* its writes and syncs fail from the n-th on, and then the power does */
        fault_set(FAULT_FOR_GOOD, at, EIO, ALL_SYNCS | 1u << FAULT_PWRITE);
        int code = save_mark(state, 13);
        fault_clear();
        tidemark_state_release(state);
        restart(FAULT_LOSE_ALL);
        int64_t mark = mark_found();
        if (code == 0) CHECK_INT(mark, 13);
        else CHECK(mark >= 11 && mark <= 13);
    }
}

/* A copy was restored, and no sync has reached its newer slot: the disk still holds zeros there. */
static void make_unsynced_copy(void) {
    unsigned char block[TIDEMARK_BLOCK], zeros[TIDEMARK_BLOCK] = {0}, one[16], other[16];
    make_saved(10, 10);
    get_bytes(path, tidemark_slot_offset(0), one, 16);
    get_bytes(path, tidemark_slot_offset(1), other, 16);
    off_t newer = tidemark_slot_offset(tidemark_get64(other + 8) > tidemark_get64(one + 8));
    get_bytes(path, newer, block, sizeof block);
    put_bytes(path, newer, zeros, sizeof zeros);
    int fd = open(path, O_RDWR);
    CHECK_INT(fault_pwrite(fd, block, sizeof block, newer), sizeof block);
    (void)close(fd);
}

/* What was loaded is synced before the only other copy is written over, be it with zeros. */
static void test_loaded_checkpoint_is_synced_first(void) {
    for (unsigned what = 0; what < 16; what++) {
        for (unsigned at = 1; at < 9; at++) {
            begin_test();
            make_unsynced_copy();
            tidemark_state *state = open_or_stop();
            CHECK_INT(tidemark_state_applied_seqno(state, 0), 10);
            fault_set(FAULT_FOR_GOOD, at, EIO, 1u << FAULT_PWRITE | ALL_SYNCS);
            int code = save_mark(state, 11);
            fault_clear();
            tidemark_state_release(state);
            restart(what == 0 ? FAULT_LOSE_ALL : what);
            int64_t mark = mark_found();
            CHECK(mark >= 9 && mark <= 11);
            if (code == 0) CHECK_INT(mark, 11);
        }
    }
}

static void test_sync_of_the_directory(void) {
    /* made, but its directory was never synced: the name may be lost until a save has been acknowledged */
    fault_set(FAULT_ONCE, 2, EIO, 1u << FAULT_FSYNC);
    CHECK_INT(mark_found(), TIDEMARK_EIO);
    fault_clear();
    CHECK(exists(path));
    tidemark_state *state = open_or_stop();
    CHECK_INT(save_mark(state, 5), 0);
    tidemark_state_release(state);
    restart(FAULT_LOSE_ALL);
    CHECK_INT(mark_found(), 5);
}

/* How many calls of one kind a save makes. */
static unsigned calls_of(enum fault_call call, tidemark_state *state, const tidemark_note *notes, size_t count) {
    fault_set(FAULT_NONE, 0, EIO, 1u << call);
    CHECK_INT(tidemark_state_checkpoint(state, notes, count, &failure), 0);
    return fault->calls;
}

/* A save costs one write and one sync; more only the first one, and one that needs new space, which is synced before
 * it is used. */
static void test_cost_of_a_save(void) {
    static const char text[TIDEMARK_NOTE_MAX] = {0};
    static const tidemark_note note = {0, sizeof text, text};
    tidemark_note notes[80];
    make_saved(10, 10);
    tidemark_state *state = open_or_stop();
    CHECK_INT(calls_of(FAULT_FSYNC, state, NULL, 0), 2);
    CHECK_INT(calls_of(FAULT_FSYNC, state, NULL, 0), 0);
    CHECK_INT(calls_of(FAULT_FDATASYNC, state, &note, 1), 1);
    CHECK_INT(calls_of(FAULT_PWRITE, state, &note, 1), 1);
    tidemark_state_release(state);
    uint32_t shards[80];
    for (uint32_t i = 0; i < 80; i++) {
        shards[i] = i;
        notes[i] = (tidemark_note){i, sizeof text, text};
    }
    CHECK_INT(tidemark_state_open_io(&fault_io, path, shards, 80, 0, &state, &failure), 0);
    CHECK_INT(save(state), 0);
    CHECK_INT(calls_of(FAULT_FDATASYNC, state, notes, 80), 2);
    CHECK_INT(calls_of(FAULT_FDATASYNC, state, notes, 80), 2); /* the other slot */
    CHECK_INT(calls_of(FAULT_FDATASYNC, state, notes, 80), 1);
    fault_clear();
    tidemark_state_release(state);
}

/* ---- calls that do half, or are interrupted ---- */

static void test_short_counts_and_interrupts(void) {
    static const size_t most[] = {1, 7, 100, 4095, 0};
    for (size_t i = 0; i < sizeof most / sizeof most[0]; i++) {
        begin_test();
        fault->most = most[i];
        fault->interrupts = true;
        make_saved(10, 12);
        CHECK_INT(mark_found(), 12);
        fault->boot[0]++;
        CHECK_INT(mark_found(), 10);
        CHECK_INT(fault->descriptors, 0);
    }
}

/* A write that fails halfway leaves the older slot as it is. */
static void test_write_fails_halfway(void) {
    for (unsigned at = 1; at <= 8; at++) {
        begin_test();
        make_saved(10, 10);
        tidemark_state *state = open_or_stop();
        CHECK_INT(save_mark(state, 11), 0);
        CHECK_INT(save_mark(state, 12), 0);
        fault_set(FAULT_ONCE, at, ENOSPC, 1u << FAULT_PWRITE);
        fault->most = 40;
        CHECK_INT(save_mark(state, 13), TIDEMARK_EIO);
        CHECK(strstr(failure.message, "No space left") != NULL);
        fault_clear();
        CHECK_INT(noted(state), 12);
        CHECK_INT(tidemark_state_applied_seqno(state, 0), 13);
        tidemark_state *other = open_or_stop();
        CHECK_INT(tidemark_state_applied_seqno(other, 0), 13);
        tidemark_state_release(other);
        tidemark_state_release(state);
        CHECK_INT(mark_found(), 13);
        restart(FAULT_LOSE_NOTHING);
        CHECK_INT(mark_found(), at <= 3 ? 12 : 13); /* what follows the third piece are zeros */
    }
}

/* ---- a full disk ---- */

static void fill_disk(const char *name) {
    static char bytes[4096];
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    while (write(fd, bytes, sizeof bytes) > 0) continue;
    (void)close(fd);
}

/* In a child, with 64 KiB mounted where only it sees them. */
static void on_a_small_disk(void) {
    char ballast[192];
    tidemark_state *state = NULL, *more = NULL;
    uint32_t shards[1024];
    for (uint32_t i = 0; i < 1024; i++) shards[i] = i * 64; /* a page of the live file each */
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tidemark", directory, "tmpfs", 0, "size=64k,mode=0700") < 0) {
        printf("    skipped: cannot mount a file system here: %s\n", strerror(errno));
        return;
    }
    (void)snprintf(ballast, sizeof ballast, "%s/ballast", directory);
    CHECK_INT(tidemark_state_open_io(&fault_io, path, usual, 2, 0, &state, &failure), 0);
    if (state == NULL) return;
    CHECK_INT(save_mark(state, 10), 0);
    CHECK_INT(tidemark_state_advance(state, 0, 11), 1);

    CHECK_INT(tidemark_state_open_io(&fault_io, path, shards, 1024, 0, &more, &failure), TIDEMARK_EIO);
    CHECK(strstr(failure.message, "No space left") != NULL);
    CHECK_INT(tidemark_state_count(state), 2);
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 11);
    /* without a byte left, what is there goes on */
    fill_disk(ballast);
    CHECK_INT(tidemark_state_advance(state, 0, 12), 1);
    CHECK_INT(tidemark_state_advance(state, 3, 1), 1);
    CHECK_INT(save_mark(state, 13), 0);
    CHECK_INT(save_mark(state, 14), 0);
    CHECK_INT(tidemark_state_advance(state, 0, 15), 1);
    tidemark_state_release(state);
    CHECK_INT(mark_found(), 15);

    /* a live file that never got its space is not touched through a mapping */
    fault->boot[0]++;
    CHECK_INT(unlink(live_path), 0);
    fill_disk(ballast);
    for (int attempt = 0; attempt < 2; attempt++) CHECK_INT(mark_found(), TIDEMARK_EIO);
    CHECK(exists(live_path));
    int code;
    tidemark_state *reader = open_state(TIDEMARK_OPEN_READONLY, &code);
    CHECK_INT(code, 0);
    if (code == 0) CHECK_INT(tidemark_state_applied_seqno(reader, 0), 14);
    tidemark_state_release(reader);
    /* nor one that got a part of it: with one page more each time, it is an error until there is enough */
    struct stat status;
    int64_t mark = TIDEMARK_EIO;
    int pages = 0;
    CHECK_INT(stat(ballast, &status), 0);
    for (; mark == TIDEMARK_EIO && pages < 12; pages++) {
        CHECK_INT(truncate(ballast, status.st_size - (pages + 1) * 4096), 0);
        mark = mark_found();
    }
    CHECK_INT(mark, 14);
    CHECK(pages > 2);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

static void test_full_disk(void) {
    if (geteuid() != 0) {
        printf("    skipped: only root can mount a small file system\n");
        return;
    }
    CHECK_INT(in_child(on_a_small_disk), 0);
}

/* ---- files that are replaced ---- */

static void replaced(tidemark_state *state, int code) {
    CHECK_INT(save(state), code);
    CHECK(strstr(failure.message, path) != NULL);
}

static void test_replaced(void) {
    make_saved(10, 12);
    tidemark_state *state = open_or_stop();
    const char *names[] = {path, live_path};
    for (int i = 0; i < 2; i++) {
        CHECK_INT(rename(names[i], copy_path), 0);
        replaced(state, TIDEMARK_EREPLACED);
        CHECK(strstr(failure.message, names[i]) != NULL);
        copy_file(copy_path, names[i]); /* the same bytes, but another file */
        replaced(state, TIDEMARK_EREPLACED);
        CHECK_INT(rename(copy_path, names[i]), 0);
        CHECK_INT(save(state), 0);
    }
    CHECK_INT(unlink(live_path), 0);
    replaced(state, TIDEMARK_EREPLACED);
    tidemark_state_release(state);
    CHECK_INT(mark_found(), 12);
}

/* `cp other path`: the same file with other bytes. A save into it could not be read back. */
static void test_overwritten_in_place(void) {
    make_saved(10, 10);
    CHECK_INT(rename(path, copy_path), 0);
    make_saved(20, 20);
    tidemark_state *state = open_or_stop();
    copy_file(copy_path, path);
    replaced(state, TIDEMARK_EREPLACED);
    CHECK_INT(truncate(path, 0), 0);
    replaced(state, TIDEMARK_ECORRUPT);
    copy_file(copy_path, path);
    tidemark_state_release(state);
    CHECK_INT(mark_found(), 10);
}

/* Its own older copy over it, under a running process: what that one saves next stands. */
static void test_older_copy_in_place(void) {
    make_saved(10, 10);
    copy_file(path, copy_path);
    make_saved(20, 20);
    tidemark_state *state = open_or_stop();
    CHECK_INT(save_mark(state, 21), 0);
    copy_file(copy_path, path);
    CHECK_INT(save_mark(state, 22), 0);
    tidemark_state_release(state);
    fault->boot[0]++;
    CHECK_INT(mark_found(), 22);
}

int main(void) {
    make_directory();
    RUN_EMPTY(test_failed_sync);
    RUN_EMPTY(test_failed_sync_then_the_next_save_is_cut_short);
    RUN_EMPTY(test_loaded_checkpoint_is_synced_first);
    RUN_EMPTY(test_sync_of_the_directory);
    RUN_EMPTY(test_cost_of_a_save);
    RUN_EMPTY(test_short_counts_and_interrupts);
    RUN_EMPTY(test_write_fails_halfway);
    RUN_EMPTY(test_full_disk);
    RUN_EMPTY(test_replaced);
    RUN_EMPTY(test_overwritten_in_place);
    RUN_EMPTY(test_older_copy_in_place);
    return FINISH();
}
