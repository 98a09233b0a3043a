/* One path in several processes: what one does and the others see, and what is left when one of them is killed at any
 * system call. */
#define _GNU_SOURCE /* fault_io.h */
#include <sys/file.h>

#include "state_files.h"

/* In memory that the children share. */
struct board {
    int64_t advanced, saved, saving;
    int code;
};
static struct board *board;

static tidemark_state *held; /* the parent's, or a child's own */

/* ---- one sees what another does ---- */

static void advance_to_30(void) {
    tidemark_state *state = open_or_stop();
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 12);
    CHECK_INT(tidemark_state_advance(state, 0, 30), 1);
}

static void test_one_of_two_killed(void) {
    struct child child;
    make_saved(10, 12);
    held = open_or_stop();
    child_start(&child, advance_to_30);
    child_end(&child, SIGKILL);
    CHECK_INT(tidemark_state_applied_seqno(held, 0), 30);
    CHECK_INT(save_mark(held, 31), 0);
    tidemark_state_release(held);
    CHECK_INT(mark_found(), 31);
}

static void test_both_killed(void) {
    struct child one, two;
    make_saved(10, 12);
    child_start(&one, advance_to_30);
    held = open_or_stop();
    tidemark_state_release(held);
    child_end(&one, SIGKILL);
    CHECK_INT(mark_found(), 30);
    begin_test();
    make_saved(10, 12);
    child_start(&two, advance_to_30);
    child_end(&two, SIGKILL);
    restart(FAULT_LOSE_ALL);
    CHECK_INT(mark_found(), 10);
}

static void add_a_shard(void) {
    static const uint32_t more[] = {700};
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_open_io(&fault_io, path, more, 1, 0, &state, &failure), 0);
    if (state != NULL) CHECK_INT(tidemark_state_advance(state, 700, 5), 1);
}

static void test_shards_added_by_another(void) {
    struct child child;
    held = open_or_stop();
    CHECK_INT(tidemark_state_applied_seqno(held, 700), TIDEMARK_EUNKNOWN_SHARD);
    child_start(&child, add_a_shard);
    CHECK_INT(tidemark_state_applied_seqno(held, 700), 5);
    CHECK_INT(tidemark_state_count(held), 3);
    CHECK_INT(tidemark_state_next(held, 3), 700);
    child_end(&child, 0);
    CHECK_INT(save(held), 0);
    tidemark_state_release(held);
    restart(FAULT_LOSE_ALL);
    held = open_or_stop();
    CHECK_INT(tidemark_state_applied_seqno(held, 700), 5);
    tidemark_state_release(held);
}

/* ---- savers ---- */

#define CHANGE_LOCK (((off_t)1 << 62) + 1) /* docs/formats.md */
#define SAVE_LOCK   (((off_t)1 << 62) + 2)

static tidemark_state *open_real(void) {
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_open(path, usual, 2, 0, &state, &failure), 0);
    if (state == NULL) abort();
    return state;
}

static void save_100(void) {
    tidemark_state *state = open_real();
    for (int i = 1; i <= 100; i++) {
        char text[16];
        tidemark_note note = {3, (uint32_t)snprintf(text, sizeof text, "child %d", i), text};
        (void)tidemark_state_advance(state, 3, i);
        CHECK_INT(tidemark_state_checkpoint(state, &note, 1, &failure), 0);
    }
    tidemark_state_release(state);
}

/* At once, with the real table, for the other one is for one process at a time: no note and no mark is lost. */
static void test_saving_at_once(void) {
    char note[TIDEMARK_NOTE_MAX];
    held = open_real();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        save_100();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    for (int i = 1; i <= 100; i++) CHECK_INT(save_mark(held, i), 0);
    int status;
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    CHECK_INT(noted(held), 100);
    CHECK_INT(tidemark_state_note(held, 3, note, &failure), 9);
    CHECK(memcmp(note, "child 100", 9) == 0);
    tidemark_state_release(held);
    CHECK_INT(unlink(live_path), 0);
    held = open_real();
    CHECK_INT(tidemark_state_applied_seqno(held, 0), 100);
    CHECK_INT(tidemark_state_applied_seqno(held, 3), 100);
    tidemark_state_release(held);
}

/* Whether the lock on that byte of PATH is taken, exclusively. */
static bool is_locked(off_t byte) {
    int fd = open(path, O_RDWR);
    bool locked = tidemark_io_system.lock(fd, F_RDLCK, byte, false) < 0;
    (void)close(fd);
    return locked;
}

static off_t expected_lock;
static int writes;

static ssize_t pwrite_under_lock(int fd, const void *bytes, size_t length, off_t offset) {
    writes++;
    CHECK(is_locked(expected_lock));
    CHECK(is_locked(SAVE_LOCK));
    return fault_pwrite(fd, bytes, length, offset);
}

static void test_locked_while_writing(void) {
    static const uint32_t more[] = {700};
    struct tidemark_io watching = fault_io;
    tidemark_state *state = NULL, *other = NULL;
    make_saved(10, 10);
    fault->boot[0]++;
    watching.pwrite = pwrite_under_lock;
    expected_lock = CHANGE_LOCK;
    CHECK_INT(tidemark_state_open_io(&watching, path, usual, 2, 0, &state, &failure), 0);
    CHECK(writes > 0);
    writes = 0;
    CHECK_INT(tidemark_state_open_io(&watching, path, more, 1, 0, &other, &failure), 0);
    CHECK(writes > 0);
    writes = 0;
    expected_lock = SAVE_LOCK;
    CHECK(!is_locked(CHANGE_LOCK));
    CHECK_INT(save(state), 0);
    CHECK_INT(save(other), 0);
    CHECK(writes > 1);
    CHECK(!is_locked(SAVE_LOCK));
    tidemark_state_release(state);
    tidemark_state_release(other);
}

static void save_in_turn(void) {
    tidemark_state *state = open_or_stop();
    CHECK_INT(noted(state), board->saved);
    board->saved = tidemark_state_applied_seqno(state, 0) + 1;
    CHECK_INT(save_mark(state, board->saved), 0);
    tidemark_state_release(state);
}

static void test_saving_in_turn(void) {
    make_saved(10, 10);
    board->saved = 10;
    held = open_or_stop();
    for (int i = 0; i < 20; i++) {
        CHECK_INT(in_child(save_in_turn), 0);
        CHECK_INT(noted(held), board->saved);
        CHECK_INT(save_mark(held, ++board->saved), 0);
    }
    tidemark_state_release(held);
    restart(FAULT_LOSE_ALL);
    CHECK_INT(mark_found(), board->saved);
}

/* ---- a saver is killed at any call, while another goes on ---- */

static enum fault_mode mode;
static unsigned at;

static void save_and_die(void) {
    tidemark_state *state = open_or_stop();
    board->advanced = board->saving = tidemark_state_applied_seqno(state, 0) + 1;
    fault_set(mode, at, EIO, mode == FAULT_KILL_HALFWAY ? 1u << FAULT_PWRITE : 0);
    if (save_mark(state, board->advanced) == 0) board->saved = board->advanced;
    board->code = fault->calls < at;
    fault_clear();
    tidemark_state_release(state);
}

/* What stands on the disk and in the live file is enough for the next saver, for who attaches, and after a restart. */
static void check_after_kill(unsigned what) {
    tidemark_state *other = open_or_stop();
    CHECK_INT(tidemark_state_applied_seqno(other, 0), board->advanced);
    long long note = noted(other);
    CHECK(note >= board->saved && note <= board->saving);
    tidemark_state_release(other);
    tidemark_state_release(held);
    if (what == 0) {
        CHECK_INT(mark_found(), board->advanced);
    } else {
        restart(what);
        int64_t mark = mark_found();
        CHECK(mark >= board->saved && mark <= board->saving);
    }
}

/* One child is killed at call `at`, and then another one at call `second` (0: none). Whether there was a call `at`. */
static bool kill_savers(unsigned first, unsigned second, unsigned what) {
    begin_test();
    make_saved(10, 10);
    board->saved = board->saving = board->advanced = 10;
    held = open_or_stop();
    if (save_mark(held, 11) == 0) board->saved = board->saving = board->advanced = 11;
    board->code = 0;
    at = first;
    (void)in_child(save_and_die);
    bool more = board->code == 0;
    at = second;
    if (second > 0) (void)in_child(save_and_die);
    fault_clear();
    check_after_kill(what);
    return more;
}

static void test_savers_killed_at_every_call(void) {
    static const unsigned what[] = {0, 4711};
    for (mode = FAULT_KILL_AFTER; mode <= FAULT_KILL_HALFWAY; mode++) {
        unsigned calls = 1;
        while (kill_savers(calls, 0, FAULT_LOSE_ALL)) calls++;
        CHECK(calls > (mode == FAULT_KILL_HALFWAY ? 1 : 6));
        for (unsigned first = 1; first < calls && check_failures < 10; first++) {
            for (unsigned second = 0; second < calls + 4; second++) {
                for (int i = 0; i < 2; i++) (void)kill_savers(first, second, what[i]);
            }
            if (check_failures > 0) printf("    mode %d, call %u\n", (int)mode, first);
        }
    }
}

/* The next saver's call fails in the place of being the last. */
static void test_a_failed_save_after_a_killed_one(void) {
    for (unsigned first = 1; first < 12; first++) {
        for (unsigned second = 1; second < 20; second++) {
            begin_test();
            make_saved(10, 10);
            board->saved = board->saving = board->advanced = 10;
            held = open_or_stop();
            if (save_mark(held, 11) == 0) board->saved = 11;
            at = first;
            mode = FAULT_KILL_AFTER;
            (void)in_child(save_and_die);
            fault_set(FAULT_ONCE, second, ENOSPC, 0);
            board->advanced = board->saving = 20;
            if (save_mark(held, 20) == 0) board->saved = 20;
            fault_clear();
            (void)noted(held); /* it may be the unlock that failed: this one unlocks */
            check_after_kill(0);
        }
        if (check_failures > 10) return;
    }
}

/* ---- forks ---- */

static void use_inherited(void) {
    CHECK_INT(save(held), TIDEMARK_EFORKED);
    CHECK(strstr(failure.message, path) != NULL);
    char note[TIDEMARK_NOTE_MAX];
    CHECK_INT(tidemark_state_note(held, 0, note, &failure), TIDEMARK_EFORKED);
    tidemark_state_release(held);
    /* it may open the path anew */
    tidemark_state *own = open_or_stop();
    CHECK_INT(tidemark_state_advance(own, 0, 14), 1);
    CHECK_INT(save(own), 0);
    tidemark_state_release(own);
}

/* Whether another process holds an attach lock on the file. */
static bool is_attached(const char *name) {
    int fd = open(name, O_RDWR);
    bool locked = tidemark_io_system.lock(fd, F_WRLCK, (off_t)1 << 62, false) < 0;
    (void)close(fd);
    return locked;
}

static void test_fork(void) {
    make_saved(10, 12);
    held = open_or_stop();
    CHECK_INT(in_child(use_inherited), 0);
    CHECK(is_attached(path));
    CHECK(is_attached(live_path));
    CHECK_INT(tidemark_state_applied_seqno(held, 0), 14);
    CHECK_INT(save_mark(held, 15), 0);
    tidemark_state_release(held);
    CHECK(!is_attached(path));
    CHECK(!is_attached(live_path));
    CHECK_INT(mark_found(), 15);
}

static void test_exec_inherits_nothing(void) {
    char command[256];
    make_saved(10, 12);
    held = open_or_stop();
    int code;
    tidemark_state *reader = open_state(TIDEMARK_OPEN_READONLY, &code);
    CHECK_INT(code, 0);
    fflush(stdout);
    (void)snprintf(command, sizeof command, "! ls -l /proc/self/fd | grep -F '%s'", directory);
    CHECK_INT(system(command), 0);
    (void)snprintf(command, sizeof command, "ls -l /proc/%ld/fd | grep -qF '%s'", (long)getpid(), directory);
    CHECK_INT(system(command), 0);
    tidemark_state_release(reader);
    tidemark_state_release(held);
}

/* ---- who comes while others hold what is no longer there ---- */

static void busy(void) {
    int code;
    CHECK(open_state(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EBUSY);
    CHECK(strstr(failure.message, path) != NULL);
}

static void test_busy(void) {
    make_saved(10, 12);
    held = open_or_stop();
    CHECK_INT(rename(live_path, copy_path), 0);
    busy();
    CHECK(!exists(live_path)); /* nothing was made */
    CHECK_INT(rename(copy_path, live_path), 0);
    CHECK_INT(rename(path, copy_path), 0);
    busy();
    CHECK_INT(rename(copy_path, path), 0);
    CHECK_INT(tidemark_state_advance(held, 0, 13), 1);
    CHECK_INT(save(held), 0);
    tidemark_state_release(held);
    CHECK_INT(mark_found(), 13);
}

/* An older copy under a running process: who comes must not go back to it alone. */
static void test_busy_with_an_older_copy(void) {
    make_saved(10, 10);
    copy_file(path, copy_path);
    make_saved(20, 22);
    held = open_or_stop();
    copy_file(copy_path, path);
    busy();
    tidemark_state_release(held);
    CHECK_INT(mark_found(), 10);
}

/* ---- readers ---- */

#define CHANGES \
    (1u << FAULT_PWRITE | 1u << FAULT_FTRUNCATE | 1u << FAULT_FSYNC | 1u << FAULT_FDATASYNC | 1u << FAULT_LINKAT | \
     1u << FAULT_UNLINKAT)

static void test_a_reader_takes_no_part(void) {
    static unsigned char before[3 * 4096], after[3 * 4096];
    struct stat old, new;
    int code;
    make_saved(10, 12);
    fault->boot[0]++; /* the live file is not to be trusted: a reader neither uses nor removes it */
    get_bytes(path, 0, before, sizeof before);
    CHECK_INT(stat(live_path, &old), 0);
    fault_set(FAULT_NONE, 0, EIO, CHANGES);
    tidemark_state *reader = open_state(TIDEMARK_OPEN_READONLY, &code);
    CHECK_INT(code, 0);
    CHECK_INT(fault->calls, 0);
    CHECK(!is_attached(path));
    CHECK(!is_attached(live_path));
    CHECK_INT(tidemark_state_applied_seqno(reader, 0), 10);
    CHECK_INT(noted(reader), 10);
    CHECK_INT(tidemark_state_advance(reader, 0, 99), TIDEMARK_EREADONLY);
    CHECK_INT(save(reader), TIDEMARK_EREADONLY);
    CHECK_INT(stat(live_path, &new), 0);
    CHECK(old.st_ino == new.st_ino);
    get_bytes(path, 0, after, sizeof after);
    CHECK(memcmp(before, after, sizeof after) == 0);
    /* a writer that comes is alone, and makes the live file anew under the reader */
    held = open_or_stop();
    CHECK_INT(save_mark(held, 11), 0);
    CHECK_INT(tidemark_state_applied_seqno(reader, 0), 10);
    tidemark_state *follower = open_state(TIDEMARK_OPEN_READONLY, &code);
    CHECK_INT(tidemark_state_advance(held, 0, 12), 1);
    CHECK_INT(tidemark_state_applied_seqno(follower, 0), 12);
    CHECK_INT(noted(follower), 11);
    CHECK_INT(save_mark(held, 13), 0);
    CHECK_INT(noted(follower), 13);
    tidemark_state_release(held);
    tidemark_state_release(reader);
    tidemark_state_release(follower);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

int main(void) {
    make_directory();
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED) return 2;
    RUN_EMPTY(test_one_of_two_killed);
    RUN_EMPTY(test_both_killed);
    RUN_EMPTY(test_shards_added_by_another);
    RUN_EMPTY(test_saving_at_once);
    RUN_EMPTY(test_locked_while_writing);
    RUN_EMPTY(test_saving_in_turn);
    RUN_EMPTY(test_savers_killed_at_every_call);
    RUN_EMPTY(test_a_failed_save_after_a_killed_one);
    RUN_EMPTY(test_fork);
    RUN_EMPTY(test_exec_inherits_nothing);
    RUN_EMPTY(test_busy);
    RUN_EMPTY(test_busy_with_an_older_copy);
    RUN_EMPTY(test_a_reader_takes_no_part);
    return FINISH();
}
