/* One writer at a time: what keeps a second one out, and what the first one does when heads, live file, lock or
 * directory are taken away from under it. No seqno is acknowledged twice, and readers see what was acknowledged. */
#define _GNU_SOURCE
#include "../../csrc/core/wal_source.h"
#include "wal_cases.h"

static char aside_path[192];

static tidemark_wal *open_writer(int unsynced, int *code) {
    tidemark_wal *wal = NULL;
    static const tidemark_mark accept[] = {{1, 0}, {1, 1}, {1, 2}, {1, 3}, {2, 0}, {5, 0}};
    tidemark_wal_options options = log_options(2000, unsynced);
    options.accept_loss = accept;
    options.accept_loss_count = sizeof accept / sizeof *accept;
    *code = tidemark_wal_open_io(log_io, directory, &options, &wal, &failure);
    return wal;
}

/* ---- the lock ---- */

static void be_refused(void) {
    int code;
    CHECK(open_writer(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOCKED);
}

static tidemark_wal *held;

static void open_and_hold(void) {
    int code;
    held = open_writer(0, &code);
    CHECK_INT(code, 0);
    CHECK_INT(append_next(held, 1, "old"), 0);
}

static void try_inherited(void) {
    CHECK_INT(append_next(held, 1, "old"), TIDEMARK_EFORKED);
    CHECK_INT(tidemark_wal_close(held, &failure), TIDEMARK_EFORKED);
    be_refused();
}

static void the_lock(void) {
    int code;
    open_and_hold();
    be_refused();
    CHECK_INT(in_child(be_refused), 0);
    CHECK_INT(in_child(try_inherited), 0); /* which closes what it has inherited */
    be_refused();
    CHECK_INT(in_child(be_refused), 0);
    struct stat before, after;
    CHECK_INT(stat(lock_path, &before), 0);
    close_log(held);
    CHECK_INT(stat(lock_path, &after), 0);
    CHECK_INT(before.st_ino, after.st_ino); /* never removed or replaced */
    close_log(open_writer(0, &code));
    CHECK_INT(stat(lock_path, &after), 0);
    CHECK_INT(before.st_ino, after.st_ino);
    /* released by the end of the process */
    struct child child;
    child_start(&child, open_and_hold);
    be_refused();
    child_end(&child, SIGKILL);
    tidemark_wal *wal = open_writer(0, &code);
    CHECK_INT(code, 0);
    CHECK_INT(head_of(wal, 1), 2);
    close_log(wal);
    check_texts(1, 2, 2);
}

static void sleep_on(void) {
    (void)pause();
}

/* A child that only was forked, and lives on, does not keep a closed log locked. */
static void a_child_that_outlives_the_writer(void) {
    int code;
    held = open_writer(0, &code);
    pid_t pid = fork();
    if (pid == 0) {
        sleep_on();
        _exit(0);
    }
    close_log(held);
    tidemark_wal *wal = open_writer(0, &code);
    CHECK_INT(code, 0);
    if (wal != NULL) close_log(wal);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

/* What is in the place of `lock` may not be anything. */
static void a_lock_that_is_none(void) {
    int code;
    CHECK_INT(symlink("/dev/null", lock_path), 0);
    CHECK(open_writer(0, &code) == NULL);
    CHECK(code == TIDEMARK_EIO || code == TIDEMARK_EDENIED);
    drop_file(lock_path);
    CHECK_INT(mkdir(lock_path, 0700), 0);
    CHECK(open_writer(0, &code) == NULL);
    CHECK(code == TIDEMARK_EIO || code == TIDEMARK_EDENIED);
    CHECK_INT(rmdir(lock_path), 0);
    CHECK(!exists(heads_path));
}

/* ---- files that are taken away ---- */

static void replace(const char *name) {
    copy_file(name, aside_path);
    if (rename(aside_path, name) < 0) abort();
}

static void remove_heads(void) {
    drop_file(heads_path);
}

static void replace_heads(void) {
    replace(heads_path);
}

static void remove_live(void) {
    drop_file(heads_live_path);
}

static void replace_live(void) {
    replace(heads_live_path);
}

static void remove_lock(void) {
    drop_file(lock_path);
}

static void replace_lock(void) {
    replace(lock_path);
}

/* The directory is moved, and another log has its place. */
static void replace_directory(void) {
    int code;
    char away[192];
    (void)snprintf(away, sizeof away, "%s.away", directory);
    if (rename(directory, away) < 0 || mkdir(directory, 0700) < 0) abort();
    close_log(open_writer(0, &code));
}

static void put_directory_back(void) {
    char away[192];
    (void)snprintf(away, sizeof away, "%s.away", directory);
    if (access(away, F_OK) < 0) return;
    remove_all();
    if (rmdir(directory) < 0 || rename(away, directory) < 0) abort();
}

static void (*const takings[])(void) = {remove_heads, replace_heads, remove_live,      replace_live,
                                        remove_lock,  replace_lock,  replace_directory};
#define TAKINGS (sizeof takings / sizeof *takings)

enum way { BY_SYNC, BY_ROTATION, BY_CLOSE, BY_OTHER_FILES, WAYS };

/* Makes a writer that does not know yet try to make a record durable. */
static int make_durable(tidemark_wal *wal, bool unsynced, enum way way) {
    int code = append_next(wal, 1, "late");
    if (!unsynced) return code;
    CHECK_INT(code, 0);
    if (way == BY_SYNC) return tidemark_wal_sync(wal, &failure);
    if (way == BY_OTHER_FILES) wal->files[0].used = 0;
    if (way == BY_CLOSE) return 0;
    for (int i = 0; i < 100 && code == 0; i++) code = append_next(wal, 1, "late");
    return code;
}

static void take(void (*taking)(void), bool unsynced, enum way way) {
    int code;
    begin_log_test();
    tidemark_wal *wal = open_writer(unsynced, &code);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    tidemark_wal_reader *reader = NULL;
    CHECK_INT(tidemark_wal_reader_open_io(&fault_io, directory, 1, 1, 0, &reader, &failure), 0);
    tidemark_state *heads = wal->heads;
    tidemark_state_retain(heads);
    taking();
    code = make_durable(wal, unsynced, way);
    if (way == BY_CLOSE && unsynced) {
        CHECK_INT(tidemark_wal_close(wal, &failure), TIDEMARK_EREPLACED);
    } else {
        CHECK_INT(code, TIDEMARK_EREPLACED);
        CHECK(strstr(failure.message, "open it again") != NULL);
        CHECK_INT(append_next(wal, 1, "late"), TIDEMARK_EPOISONED);
        CHECK_INT(append_next(wal, 2, "late"), TIDEMARK_EPOISONED);
        CHECK_INT(tidemark_wal_sync(wal, &failure), TIDEMARK_EPOISONED);
        CHECK_INT(tidemark_wal_close(wal, &failure), TIDEMARK_EPOISONED);
    }
    CHECK_INT(tidemark_state_applied_seqno(heads, 1), 1);
    CHECK_INT(tidemark_wal_reader_head(reader), 1);
    tidemark_state_release(heads);
    tidemark_wal_reader_close(reader);
    put_directory_back();
}

static void taken_away(void) {
    for (size_t i = 0; i < TAKINGS; i++) {
        int failures = check_failures;
        take(takings[i], false, BY_SYNC);
        for (enum way way = BY_SYNC; way < WAYS; way++) take(takings[i], true, way);
        if (check_failures != failures) printf("    taking %zu\n", i);
    }
}

/* A writer that has nothing to sync must not write over what a later one has made, either. */
static void closed_without_a_sync(void) {
    for (size_t i = 0; i < 2 * TAKINGS; i++) {
        int code;
        begin_log_test();
        tidemark_wal *wal = open_writer(0, &code);
        if (i < TAKINGS) CHECK_INT(append_next(wal, 1, "old"), 0); /* else it has no segment */
        takings[i % TAKINGS]();
        CHECK_INT(tidemark_wal_close(wal, &failure), TIDEMARK_EREPLACED);
        put_directory_back();
    }
}

/* A directory that is only moved is still the log. */
static void a_moved_directory(void) {
    int code;
    char away[192], here[192];
    tidemark_wal *wal = open_writer(0, &code);
    (void)snprintf(here, sizeof here, "%s", directory);
    (void)snprintf(away, sizeof away, "%s.away", directory);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    CHECK_INT(rename(here, away), 0);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    CHECK_INT(rename(away, here), 0);
    CHECK_INT(append_next(wal, 1, "old"), 0);
    close_log(wal);
    check_texts(1, 3, 3);
    check_verify();
}

/* ---- two writers ---- */

struct acknowledged {
    char text[TEXTS][48];
};

/* Appends to shard 1; whether it was acknowledged, then under which seqno. In unsynced mode with a sync. */
static void append_as(tidemark_wal *wal, const char *who, struct acknowledged *acknowledged) {
    static int number;
    char text[48];
    int64_t first;
    (void)snprintf(text, sizeof text, "%s %d", who, ++number);
    tidemark_record record = {text, strlen(text)};
    int code = tidemark_wal_append(wal, 1, &record, 1, &first, NULL, &failure);
    if (code == 0) code = tidemark_wal_sync(wal, &failure);
    if (code < 0) {
        if (code != TIDEMARK_EREPLACED && code != TIDEMARK_EPOISONED) printf("    %s\n", failure.message);
        CHECK(code == TIDEMARK_EREPLACED || code == TIDEMARK_EPOISONED);
        return;
    }
    if (acknowledged->text[first][0] != '\0')
        printf("    seqno %lld: \"%s\" and \"%s\"\n", (long long)first, acknowledged->text[first], text);
    CHECK_INT(acknowledged->text[first][0], 0);
    (void)snprintf(acknowledged->text[first], sizeof *acknowledged->text, "%s", text);
}

static void check_acknowledged(const struct acknowledged *acknowledged) {
    static struct texts texts;
    CHECK_INT(read_texts(1, 0, 0, &texts), TIDEMARK_ETIMEOUT);
    for (int64_t seqno = 1; seqno < TEXTS; seqno++) {
        if (acknowledged->text[seqno][0] != '\0') CHECK_STR(texts.text[seqno], acknowledged->text[seqno]);
    }
    check_verify();
}

/* The first writer has appended `before` records that were not synced when the lock is taken, the second one opens, and
 * both go on. */
static void two_writers(void (*taking)(void), bool unsynced, int before) {
    static struct acknowledged acknowledged;
    int code;
    begin_log_test();
    memset(&acknowledged, 0, sizeof acknowledged);
    tidemark_wal *first = open_writer(unsynced, &code);
    append_as(first, "A", &acknowledged);
    for (int i = 0; i < before; i++) CHECK_INT(append_text(first, 1, "A, not synced"), 0);
    taking();
    if (taking == remove_heads) remove_lock();
    tidemark_wal *second = open_writer(0, &code);
    if (code < 0) printf("    %s\n", failure.message);
    CHECK_INT(code, 0);
    if (second == NULL) return;
    append_as(second, "B", &acknowledged);
    if (before > 0) (void)append_text(first, 1, "A, written late");
    append_as(first, "A", &acknowledged);
    append_as(second, "B", &acknowledged);
    append_as(first, "A", &acknowledged);
    check_acknowledged(&acknowledged);
    (void)tidemark_wal_close(first, &failure);
    append_as(second, "B", &acknowledged);
    check_acknowledged(&acknowledged);
    close_log(second);
    second = open_writer(0, &code);
    CHECK_INT(code, 0);
    append_as(second, "C", &acknowledged);
    close_log(second);
    check_acknowledged(&acknowledged);
}

static void never_both(void) {
    for (int before = 0; before < 3; before++) {
        two_writers(remove_lock, true, before);
        two_writers(remove_heads, true, before);
    }
    two_writers(remove_lock, false, 0);
    two_writers(remove_heads, false, 0);
}

/* ---- an opening that finds a new lock ---- */

static unsigned kill_at;
static enum fault_mode kill_mode;

static void open_with_a_new_lock(void) {
    int code;
    fault_set(kill_mode, kill_at, EIO, kill_mode == FAULT_KILL_HALFWAY ? 1u << FAULT_PWRITE : 0);
    (void)open_writer(0, &code);
    _exit(code == 0 ? 42 : 1);
}

/* It puts copies in the place of segments: cut off anywhere, and without power, what was acknowledged is there. And it
 * does so again until it has come to its end: a writer of the old lock may still run. */
static void a_new_lock_cut_off_anywhere(void) {
    static const enum fault_mode modes[] = {FAULT_KILL_BEFORE, FAULT_KILL_AFTER, FAULT_KILL_HALFWAY};
    for (size_t mode = 0; mode < 3; mode++) {
        bool through = false;
        for (kill_at = 1; !through && check_failures == 0; kill_at++) {
            int code;
            begin_log_test();
            tidemark_wal *first = open_writer(1, &code);
            for (int n = 0; n < 3; n++) CHECK_INT(append_next(first, 1, "old"), 0);
            CHECK_INT(tidemark_wal_sync(first, &failure), 0);
            remove_lock();
            kill_mode = modes[mode];
            int status = in_child(open_with_a_new_lock);
            through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
            if (through) check_failures--; /* in_child takes 42 for a failure */
            fault_clear();
            bool is_restarted = kill_at % 2 == 0;
            if (is_restarted) abandon(first);
            if (is_restarted) restart(kill_at % 4 ? FAULT_LOSE_ALL : kill_at);
            tidemark_wal *second = open_writer(0, &code);
            if (code < 0) printf("    call %u: %s\n", kill_at, failure.message);
            CHECK_INT(code, 0);
            if (!is_restarted) CHECK_INT(append_text(first, 1, "late"), 0);
            if (second != NULL) CHECK_INT(append_next(second, 1, "new"), 0);
            if (!is_restarted) CHECK_INT(tidemark_wal_close(first, &failure), TIDEMARK_EREPLACED);
            if (second != NULL) close_log(second);
            check_texts(1, 3, 4);
            check_verify();
            CHECK_INT(count_names("segment.aside", NULL), 0);
        }
    }
}

int main(void) {
    make_directory();
    set_log_paths();
    (void)snprintf(aside_path, sizeof aside_path, "%s/aside", directory);
    RUN_LOG(the_lock);
    RUN_LOG(a_child_that_outlives_the_writer);
    RUN_LOG(a_lock_that_is_none);
    RUN_LOG(taken_away);
    RUN_LOG(closed_without_a_sync);
    RUN_LOG(a_moved_directory);
    RUN_LOG(never_both);
    RUN_LOG(a_new_lock_cut_off_anywhere);
    return FINISH();
}
