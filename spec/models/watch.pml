/* The hand-shake of csrc/core/watch.c, with the names of its steps. Two threads advance one mark. One watch is polled
 * until it is readable, one is of a mark that never comes, one is closed or not. Nobody polls with an end of its own: a
 * lost readiness is an end state in which somebody still polls, which Spin reports.
 *
 * Each of these makes the model wrong in one place, and Spin must report it:
 *     FLAG_LATE        a watch sets the flag after it has read the mark
 *     WATCHED_LATE     it lowers `watched` after it has read the mark
 *     WATCHED_ALWAYS   it sets `watched` to its own seqno, also where that was lower
 *     FLAG_BUFFERED    the flag is written with too weak an order: it waits in a store buffer while the mark is read
 *     MARK_BUFFERED    the mark is: who advances reads the flag before others see the mark
 *     CLEAR_ALWAYS     who advances clears the flag while watches are left
 *     CLEAR_UNLOCKED   it clears the flag after it has let go of the lock
 *     RAISE_UNLOCKED   the same with `watched`
 *     SET_ALL          it makes those readable, too, whose mark is not there
 */
#define WATCHES 3
#define NEVER   9

byte mark, watched;
bool flag, buffered;      /* buffered: a store of the flag that is on its way */
bool locked;
bool listed[WATCHES], readable[WATCHES];
byte target[WATCHES];

inline lock() {
    atomic { !locked -> locked = true }
}

inline read_mark() {
    there = mark >= seqno
}

inline lower_watched() {
    if
#if defined WATCHED_ALWAYS
    :: true -> watched = seqno
#else
    :: !flag || watched > seqno -> watched = seqno
    :: else
#endif
    fi
}

inline set_flag() {
#ifdef FLAG_BUFFERED
    buffered = true
#else
    flag = true
#endif
}

proctype watch(byte own; byte seqno) {
    bool there;
    lock();
    d_step { target[own] = seqno; listed[own] = true }       /* 1: only who has the lock looks */
#ifndef WATCHED_LATE
    lower_watched();                                         /* 2 */
#endif
#ifdef FLAG_LATE
    read_mark();
    set_flag();
#else
    set_flag();                                              /* 3 */
    read_mark();                                             /* 4 */
#endif
#ifdef WATCHED_LATE
    lower_watched();
#endif
    if
    :: there -> listed[own] = false; readable[own] = true
    :: else
    fi;
    locked = false;
    if
    :: own == 0 -> readable[own]; assert(mark >= seqno)      /* polls */
    :: own == 1                                              /* goes on watching */
    :: own == 2                                              /* closes, at any time */
        lock();
        listed[own] = false;
        locked = false
    :: own == 2                                              /* or not */
    fi
}

inline look_at(i) {
    if
    :: listed[i] && mark >= target[i] -> listed[i] = false; readable[i] = true
#ifdef SET_ALL
    :: listed[i] && mark < target[i] -> listed[i] = false; readable[i] = true
#endif
    :: listed[i] && mark < target[i] ->
        if
        :: target[i] < lowest -> lowest = target[i]
        :: else
        fi
    :: !listed[i]
    fi
}

proctype advancer(byte seqno) {
    byte lowest = NEVER + 1, seen;
    bool is_set;
#ifdef MARK_BUFFERED
    is_set = flag;
#endif
    atomic {                                                 /* a */
        if
        :: mark < seqno -> mark = seqno
        :: else -> goto done                                 /* a stale one does nothing */
        fi
    }
#ifndef MARK_BUFFERED
    is_set = flag;                                           /* b */
#endif
    if
    :: is_set
    :: else -> goto done
    fi;
    seen = mark;                                             /* c */
    if
    :: seen >= watched
    :: else -> goto done
    fi;
    lock();                                                  /* d */
    look_at(0);
    look_at(1);
    look_at(2);
#ifndef RAISE_UNLOCKED
    watched = lowest;                                        /* e */
#endif
#ifdef CLEAR_UNLOCKED
    locked = false;
#endif
    if
    :: lowest > NEVER -> flag = false
#ifdef CLEAR_ALWAYS
    :: lowest <= NEVER -> flag = false
#else
    :: lowest <= NEVER
#endif
    fi;
#ifndef CLEAR_UNLOCKED
    locked = false;
#endif
#ifdef RAISE_UNLOCKED
    if
    :: lowest <= NEVER -> watched = lowest
    :: else
    fi;
#endif
done:
    skip
}

/* A store buffer drains whenever it likes, but it does. */
active proctype store_buffer() {
end:
    do
    :: atomic { buffered -> buffered = false; flag = true }
    od
}

init {
    atomic {
        if                                                   /* what earlier watches have left, or none */
        :: watched = 0
        :: watched = NEVER + 1
        fi;
        run watch(0, 2);
        run watch(1, NEVER);
        run watch(2, 1);
        run advancer(1);
        run advancer(2)
    }
}
