/* Lowering a mark while every system call fails or is the last one of its process. Whatever happens, the files have the
 * old mark with the old note or the new mark with the new note. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_reset.h"

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

int main(void) {
    make_directory();
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) return 2;
    RUN_EMPTY(test_every_call);
    RUN_EMPTY(test_every_call_after_opening);
    RUN_EMPTY(test_every_call_of_the_second);
    RUN_EMPTY(test_every_call_to_0);
    RUN_EMPTY(test_every_call_of_one_that_changes_nothing);
    return FINISH();
}
