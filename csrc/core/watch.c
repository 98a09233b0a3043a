/*
 * Watches: a mark that an event loop waits for, with a descriptor that is readable once the mark is there. What a watch
 * of a state in memory needs of those who advance is the hand-shake of wait.c once more (spec/models/watch.pml):
 *
 *     who makes a descriptor, under the lock       who advances
 *     --------------------------------------       ------------
 *  1. puts the watch into the list              a. exchanges the mark
 *  2. lowers slot->watched to its seqno         b. reads the flag; done if it is not set
 *  3. sets the slot's flag TIDEMARK_WATCHED     c. reads slot->watched; done if the mark is below it
 *  4. reads the mark; if it is there, takes     d. under the lock: takes all watches of the slot whose mark is there
 *     the watch out and sets the descriptor        out of the list and sets their descriptors
 *                                               e. raises slot->watched to the lowest seqno that is left, or clears
 *                                                  the flag where none is
 *
 * In the one order that all these (seq_cst) have, 2 and 3 before 4, and a before b before c: either 4 sees the mark or
 * b and c find the flag set and a seqno that is not above the mark. The flag is cleared and slot->watched raised under
 * the lock only, by who has seen the list, so neither hides a watch that is in it. A watch that is closed leaves both
 * as they are: one later advance finds nothing. So a watch far ahead costs each advance two loads and no lock.
 *
 * A forked child has copies of the list and of the lock, which another thread may have held, and the same descriptors.
 * So the list belongs to one process: another one that comes to it begins one of its own, and does not touch the old.
 */
#define _DEFAULT_SOURCE 1
#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "wake_fd.h"

/* The watches of one state in one process that have a descriptor which is not readable yet. */
struct tidemark_watches {
    pthread_mutex_t lock;
    pid_t process;
    tidemark_watch *first;
    struct tidemark_watches *inherited; /* of the parent, to be freed with the state */
};

struct tidemark_watch {
    tidemark_state *state; /* a reference */
    struct tidemark_slot *slot;
    int64_t seqno;
    uint32_t shard;
    struct tidemark_wake_fd fd;
    struct tidemark_watches *watches; /* set together with `fd` */
    tidemark_watch *next;             /* these two under the lock */
    tidemark_watch **link;            /* what points to this watch in the list; NULL: it is not there */
};

/* ---- the list ---- */

/* The list of this process, made if need be, or NULL where there is no memory for it. */
static struct tidemark_watches *own_watches(tidemark_state *state) {
    struct tidemark_watches *found = atomic_load(&state->watches);
    pid_t process = getpid();
    if (found != NULL && found->process == process) return found;
    struct tidemark_watches *made = tidemark_calloc(1, sizeof *made);
    if (made == NULL) return NULL;
    if (pthread_mutex_init(&made->lock, NULL) != 0) {
        tidemark_free(made);
        return NULL;
    }
    made->process = process;
    made->inherited = found;
    if (atomic_compare_exchange_strong(&state->watches, &found, made)) return made;
    (void)pthread_mutex_destroy(&made->lock);
    tidemark_free(made);
    return found; /* another thread was first */
}

void tidemark_watches_free(tidemark_state *state) {
    for (struct tidemark_watches *watches = atomic_load(&state->watches), *next; watches != NULL; watches = next) {
        next = watches->inherited;
        if (watches->process == getpid()) (void)pthread_mutex_destroy(&watches->lock);
        tidemark_free(watches);
    }
}

static void put_in(tidemark_watch *watch) {
    watch->next = watch->watches->first;
    if (watch->next != NULL) watch->next->link = &watch->next;
    watch->watches->first = watch;
    watch->link = &watch->watches->first;
}

static void take_out(tidemark_watch *watch) {
    *watch->link = watch->next;
    if (watch->next != NULL) watch->next->link = watch->link;
    watch->link = NULL;
}

static void take_out_ready(tidemark_watch *watch) {
    take_out(watch);
    tidemark_wake_fd_set(&watch->fd);
}

/* b to e. */
void tidemark_watches_wake(tidemark_state *state, struct tidemark_slot *slot) {
    if (atomic_load(&slot->mark) < atomic_load(&slot->watched)) return;
    struct tidemark_watches *watches = own_watches(state);
    if (watches == NULL) return; /* in a forked child, where nobody watches yet */
    (void)pthread_mutex_lock(&watches->lock);
    int64_t lowest = INT64_MAX;
    bool left = false;
    for (tidemark_watch *watch = watches->first, *next; watch != NULL; watch = next) {
        next = watch->next;
        if (watch->slot != slot) continue;
        if (atomic_load(&slot->mark) >= watch->seqno) {
            take_out_ready(watch);
        } else {
            left = true;
            if (watch->seqno < lowest) lowest = watch->seqno;
        }
    }
    atomic_store(&slot->watched, lowest);
    if (!left) (void)atomic_fetch_and(&slot->waiter, ~TIDEMARK_WATCHED);
    (void)pthread_mutex_unlock(&watches->lock);
}

/* ---- watches ---- */

int tidemark_state_watch(tidemark_state *state, uint32_t shard, int64_t seqno, tidemark_watch **result,
                         tidemark_error *error) {
    if (seqno < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "seqno out of range: %" PRId64, seqno);
    struct tidemark_slot *slot = tidemark_state_slot(state, shard);
    if (slot == NULL) return tidemark_fail_shard(error, shard);
    tidemark_watch *watch = tidemark_calloc(1, sizeof *watch);
    if (watch == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory for a watch");
    watch->state = tidemark_state_retain(state);
    watch->slot = slot;
    watch->seqno = seqno;
    watch->shard = shard;
    *result = watch;
    return 0;
}

int tidemark_watch_ready(const tidemark_watch *watch) {
    return tidemark_slot_read(watch->slot) >= watch->seqno;
}

/* 1 to 4. */
static void begin_watching(tidemark_watch *watch) {
    struct tidemark_slot *slot = watch->slot;
    (void)pthread_mutex_lock(&watch->watches->lock);
    put_in(watch);
    if ((atomic_load(&slot->waiter) & TIDEMARK_WATCHED) == 0 || atomic_load(&slot->watched) > watch->seqno)
        atomic_store(&slot->watched, watch->seqno);
    (void)atomic_fetch_or(&slot->waiter, TIDEMARK_WATCHED);
    if (atomic_load(&slot->mark) >= watch->seqno) take_out_ready(watch);
    (void)pthread_mutex_unlock(&watch->watches->lock);
}

int tidemark_watch_fd(tidemark_watch *watch, tidemark_error *error) {
    if (watch->watches != NULL) {
        if (watch->watches->process == getpid()) return watch->fd.readable;
        return tidemark_fail(error, TIDEMARK_EFORKED, "shard %" PRIu32 ": the watch was made before a fork",
                             watch->shard);
    }
    if (watch->state->file != NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED,
                             "shard %" PRIu32 ": a state with files has no descriptor to watch by, for another process "
                             "may advance it: ask whether the watch is ready",
                             watch->shard);
    struct tidemark_watches *watches = own_watches(watch->state);
    if (watches == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory for a watch");
    if (tidemark_wake_fd_make(&watch->fd) < 0)
        return tidemark_fail(error, TIDEMARK_EIO, "shard %" PRIu32 ": cannot make a descriptor to watch by: %s",
                             watch->shard, strerror(errno));
    watch->watches = watches;
    begin_watching(watch);
    return watch->fd.readable;
}

void tidemark_watch_close(tidemark_watch *watch) {
    if (watch == NULL) return;
    struct tidemark_watches *watches = watch->watches;
    if (watches != NULL) {
        if (watches->process == getpid()) {
            (void)pthread_mutex_lock(&watches->lock);
            if (watch->link != NULL) take_out(watch);
            (void)pthread_mutex_unlock(&watches->lock);
        }
        tidemark_wake_fd_close(&watch->fd);
    }
    tidemark_state_release(watch->state);
    tidemark_free(watch);
}
