/* Others who open the files while a mark is lowered, and copies and links of the files: each has the old mark with the
 * old note or the new mark with the new note. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_reset.h"

static unsigned at;

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

static bool *came_to_the_end; /* the reset came to its end; memory that is shared with the child */

static void reset_and_die(void) {
    tidemark_state *state = prepare();
    link_live();
    fault_set(FAULT_KILL_BEFORE, at, EIO, 0);
    CHECK_INT(reset(state), 0);
    *came_to_the_end = true;
    tidemark_state_release(state);
}

static void test_old_live_file_put_back_after_a_kill(void) {
    *came_to_the_end = false;
    for (at = 1; !*came_to_the_end && check_failures < 10; at++) {
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
    came_to_the_end = mmap(NULL, sizeof *came_to_the_end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (came_to_the_end == MAP_FAILED) return 2;
    RUN_EMPTY(test_others_at_every_call);
    RUN_EMPTY(test_another_process);
    RUN_EMPTY(test_busy_after_a_failed_reset);
    RUN_EMPTY(test_copies_of_every_moment);
    RUN_EMPTY(test_old_live_file_put_back);
    RUN_EMPTY(test_old_live_file_put_back_after_a_kill);
    RUN_EMPTY(test_old_live_file_put_back_under_a_failed_reset);
    return FINISH();
}
