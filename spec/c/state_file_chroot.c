/* State files of a process that is in a chroot, as servers are that drop their rights: without /proc, with the library
 * loaded before. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_files.h"

static int chroot_and_advance(void) {
    tidemark_state *state = NULL;
    if (chroot(directory) < 0 || chdir("/") < 0) return 1;
    CHECK(access("/proc", F_OK) < 0);
    CHECK_INT(tidemark_state_open("/state", usual, 2, 0, &state, &failure), 0);
    if (state == NULL) {
        printf("    %s\n", failure.message);
        return 1;
    }
    CHECK_INT(tidemark_state_advance(state, 0, 42), 1);
    CHECK_INT(tidemark_state_checkpoint(state, NULL, 0, &failure), 0);
    CHECK_INT(tidemark_state_advance(state, 0, 43), 1);
    tidemark_state_release(state);
    return check_failures != 0;
}

static void test_marks_go_in_and_out_of_a_chroot(void) {
    if (geteuid() != 0) {
        printf("    skipped: only root can go into a chroot\n");
        return;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int failed = chroot_and_advance();
        fflush(stdout);
        _exit(failed);
    }
    int status = 0;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);

    /* the live marks count here, so the boot id is the same */
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_open(path, usual, 2, 0, &state, &failure), 0);
    if (state == NULL) return;
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 43);
    tidemark_state_release(state);
}

int main(void) {
    make_directory();
    RUN(test_marks_go_in_and_out_of_a_chroot);
    return FINISH();
}
