/* What the programs about state files share: a directory with a path in it, copying, opening with the table of
 * fault_io.h, children. */
#ifndef TIDEMARK_STATE_FILES_H
#define TIDEMARK_STATE_FILES_H

#include <sys/wait.h>

#include "../../csrc/core/checkpoint_file.h"
#include "../../csrc/core/live_file.h"
#include "../../csrc/core/state_file.h"
#include "check.h"
#include "fault_io.h"

static char directory[128], path[160], live_path[192], new_path[192], copy_path[160];
static tidemark_error failure; /* of the last call that failed */

static void remove_all(void) {
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        if (unlinkat(dirfd(entries), entry->d_name, 0) < 0) (void)unlinkat(dirfd(entries), entry->d_name, AT_REMOVEDIR);
    }
    if (entries != NULL) (void)closedir(entries);
}

static void set_paths(const char *where) {
    (void)snprintf(directory, sizeof directory, "%s", where);
    (void)snprintf(path, sizeof path, "%s/state", directory);
    (void)snprintf(live_path, sizeof live_path, "%s.live", path);
    (void)snprintf(new_path, sizeof new_path, "%s.new", path);
    (void)snprintf(copy_path, sizeof copy_path, "%s/copy", directory);
}

static pid_t directory_owner; /* children must not remove it */

static void remove_directory(void) {
    if (getpid() != directory_owner) return;
    remove_all();
    (void)rmdir(directory);
}

/* A new directory, in memory where there is such a place: the tests make thousands of files, and syncs are counted, not
 * needed. */
static void make_directory(void) {
    char where[128];
    const char *parent = getenv("TMPDIR");
    if (access("/dev/shm", W_OK) == 0) parent = "/dev/shm";
    (void)snprintf(where, sizeof where, "%s/tidemark-c.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(where) == NULL) abort();
    set_paths(where);
    directory_owner = getpid();
    (void)atexit(remove_directory);
}

/* An empty directory and a table that fails nothing. */
static void begin_test(void) {
    remove_all();
    fault_reset();
    memset(&failure, 0, sizeof failure);
}

/* A test that begins so. */
#define RUN_EMPTY(test) \
    do { \
        begin_test(); \
        RUN(test); \
    } while (0)

/* ---- files ---- */

static bool exists(const char *name) {
    return access(name, F_OK) == 0;
}

static void put_bytes(const char *name, off_t offset, const void *bytes, size_t length) {
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || pwrite(fd, bytes, length, offset) != (ssize_t)length) abort();
    (void)close(fd);
}

static void get_bytes(const char *name, off_t offset, void *bytes, size_t length) {
    int fd = open(name, O_RDONLY);
    if (fd < 0 || pread(fd, bytes, length, offset) != (ssize_t)length) abort();
    (void)close(fd);
}

/* Copies what is data and leaves holes, as `cp` does: into the same file where there is one, and else into a new one.
 */
static void copy_file(const char *from, const char *to) {
    static char bytes[65536];
    struct stat status;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in < 0 || out < 0 || fstat(in, &status) < 0 || ftruncate(out, status.st_size) < 0) abort();
    for (off_t at = 0; (at = lseek(in, at, SEEK_DATA)) >= 0;) {
        ssize_t length = pread(in, bytes, sizeof bytes, at);
        if (length <= 0) break;
        if (pwrite(out, bytes, (size_t)length, at) != length) abort();
        at += length;
    }
    (void)close(in);
    (void)close(out);
}

/* How many descriptors this process has. */
static int count_descriptors(void) {
    int count = 0;
    DIR *entries = opendir("/proc/self/fd");
    while (entries != NULL && readdir(entries) != NULL) count++;
    if (entries != NULL) (void)closedir(entries);
    return count;
}

/* ---- states: shards 0 and 3 unless a test says otherwise ---- */

static const uint32_t usual[] = {0, 3};

static tidemark_state *open_state(unsigned flags, int *code) {
    tidemark_state *state = NULL;
    *code = tidemark_state_open_io(&fault_io, path, usual, 2, flags, &state, &failure);
    return state;
}

/* One that must open. */
static tidemark_state *open_or_stop(void) {
    int code;
    tidemark_state *state = open_state(0, &code);
    if (code < 0) {
        printf("    %s: %s\n", tidemark_code_name(code), failure.message);
        exit(1); /* which removes the directory; abort would not */
    }
    return state;
}

static int save(tidemark_state *state) {
    return tidemark_state_checkpoint(state, NULL, 0, &failure);
}

/* Advances shard 0 and saves it, with the mark as its note. */
static int save_mark(tidemark_state *state, int64_t mark) {
    char text[24];
    int length = snprintf(text, sizeof text, "%lld", (long long)mark);
    tidemark_note note = {0, (uint32_t)length, text};
    (void)tidemark_state_advance(state, 0, mark);
    return tidemark_state_checkpoint(state, &note, 1, &failure);
}

/* The note of shard 0 as a number; -1 for none, -2 for an error. */
static long long noted(tidemark_state *state) {
    char text[TIDEMARK_NOTE_MAX + 1];
    int length = tidemark_state_note(state, 0, text, &failure);
    if (length < 0) return length == TIDEMARK_ENOT_FOUND ? -1 : -2;
    text[length] = '\0';
    return atoll(text);
}

/* What an opening finds: the mark of shard 0, or the negative code of why there is none. */
static int64_t mark_found(void) {
    int code;
    tidemark_state *state = open_state(0, &code);
    if (state == NULL) return code;
    int64_t mark = tidemark_state_applied_seqno(state, 0);
    tidemark_state_release(state);
    return mark;
}

/* A path with a checkpoint of `saved` in one slot, an older one in the other, and live marks up to `live`; closed. */
static void make_saved(int64_t saved, int64_t live) {
    tidemark_state *state = open_or_stop();
    CHECK_INT(save_mark(state, saved - 1), 0);
    CHECK_INT(save_mark(state, saved), 0);
    (void)tidemark_state_advance(state, 0, live);
    tidemark_state_release(state);
}

/* The machine is started again: nothing is open, live files mean nothing, and `what` of the unsynced is lost. */
static void restart(unsigned what) {
    fault_power_loss(directory, what);
    fault->boot[0]++;
}

/* ---- children ---- */

/* Runs `body` in a child, whose checks count here: how it ended, as waitpid has it. */
static int in_child(void (*body)(void)) {
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        body();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) check_failures++;
    return status;
}

/* A child that runs `body` and then waits to be told to end. */
struct child {
    pid_t pid;
    int ready[2], go[2]; /* pipes */
};

static void child_start(struct child *child, void (*body)(void)) {
    char byte = 0;
    fflush(stdout);
    if (pipe(child->ready) < 0 || pipe(child->go) < 0) abort();
    child->pid = fork();
    if (child->pid == 0) {
        (void)close(child->go[1]);
        check_failures = 0;
        body();
        fflush(stdout);
        if (write(child->ready[1], &byte, 1) != 1) _exit(2);
        (void)!read(child->go[0], &byte, 1); /* ends when the parent is gone, too */
        _exit(check_failures != 0);
    }
    (void)close(child->ready[1]);
    if (child->pid < 0 || read(child->ready[0], &byte, 1) != 1) abort();
}

/* Ends it, by the signal or, with 0, by its own exit. */
static void child_end(struct child *child, int signal) {
    int status = 0;
    if (signal != 0) (void)kill(child->pid, signal);
    (void)close(child->go[1]);
    (void)close(child->go[0]);
    (void)close(child->ready[0]);
    if (waitpid(child->pid, &status, 0) != child->pid) abort();
    if (signal == 0) CHECK_INT(status, 0);
    else CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signal);
}

#endif
