/* The hand-shake of csrc/core/wait.c, with the names of its steps. Two processes advance one mark, one waits for it,
 * another one waits for what never comes and is interrupted. No sleep has an end of its own here: a lost wake
 * is an end state in which somebody still sleeps, which Spin reports. With KILL, who advances may end after the exchange
 * or after any later step; then sleeps end by themselves, as they do after a slice. With READONLY, the first waiter can
 * write nothing, and the slot has the flag that every advance wakes.
 *
 * Each of these makes the model wrong in one place, and Spin must report it:
 *     FLAG_LATE        the waiter sets the flag after it has read the mark
 *     EVENT_LATE       the waiter reads the event after the mark
 *     FLAG_BUFFERED    the flag is written with too weak an order: it waits in a store buffer while the mark is read
 *     MARK_BUFFERED    the mark is: who advances reads the flag before others see the mark
 *     NO_EVENT         who advances does not change the event
 *     NO_WAKE          who advances does not wake
 *     CLEAR_LATE       who advances changes the event before it clears the flag
 *     INTERRUPT_LATE   an interrupt is counted after the event has changed
 *     KILL_NO_SLICE    who advances may be killed and sleeps have no end
 *     ALWAYS_CLEARED   who advances clears the flag of a read-only waiter as well
 *     ALWAYS_MISSING   a read-only waiter sleeps although its slot does not have that flag
 */
#if defined ALWAYS_CLEARED || defined ALWAYS_MISSING
#define READONLY
#endif

#define WAITERS 2

byte mark, event, interrupts;
bool flag, buffered;     /* buffered: a store of the flag that is on its way */
#if defined READONLY && !defined ALWAYS_MISSING
bool always = true;
#else
bool always;
#endif
bool asleep[WAITERS];

inline wake_all() {
    d_step { asleep[0] = false; asleep[1] = false }
}

inline read_mark() {
    there = mark >= target || (own == 1 && interrupts > 0)   /* interrupts are for the other one only */
}

inline set_flag() {
#ifdef READONLY
    if
    :: own == 0                                              /* has seen the other one, which stays */
    :: else -> flag = true
    fi
#elif defined FLAG_BUFFERED
    buffered = true
#else
    flag = true
#endif
}

proctype waiter(byte own; byte target) {
    byte seen;
    bool there;
    do
    ::
#ifndef EVENT_LATE
        seen = event;                                        /* 1 */
#endif
#ifdef FLAG_LATE
        read_mark();
        set_flag();
#else
        set_flag();                                          /* 2 */
        read_mark();                                         /* 3 */
#endif
#ifdef EVENT_LATE
        seen = event;
#endif
        if
        :: there -> break
        :: else
        fi;
        atomic {                                             /* 4: compares and sleeps in one step */
            if
            :: event == seen -> asleep[own] = true
            :: else
            fi
        }
        if
        :: !asleep[own]
#ifdef KILL
        :: atomic { timeout -> asleep[own] = false }         /* a slice has passed */
#endif
        fi
    od
}

proctype advancer(byte seqno) {
    byte old;
    bool is_set;
#ifdef MARK_BUFFERED
    is_set = flag || always;
#endif
    atomic {                                                 /* a */
        if
        :: mark < seqno -> mark = seqno
        :: else -> goto done                                 /* a stale one does nothing */
        fi
    }
#ifndef MARK_BUFFERED
    is_set = flag || always;                                 /* b */
#endif
    if
    :: is_set
    :: !is_set -> goto done
#if defined KILL || defined KILL_NO_SLICE
    :: goto done
#endif
    fi;
#ifndef CLEAR_LATE
    atomic {                                                 /* c */
        is_set = flag || always;
        flag = false;
#ifdef ALWAYS_CLEARED
        always = false;
#endif
    }
    if
    :: is_set
    :: else -> goto done                                     /* another one has cleared it, and does the rest */
    fi;
#endif
#if defined KILL || defined KILL_NO_SLICE
    if
    :: true
    :: goto done
    fi;
#endif
#ifndef NO_EVENT
    event++;                                                 /* d: an atomic addition */
#endif
#ifdef CLEAR_LATE
    flag = false;
#endif
#if defined KILL || defined KILL_NO_SLICE
    if
    :: true
    :: goto done
    fi;
#endif
#ifndef NO_WAKE
    wake_all();                                              /* e */
#endif
done:
    skip
}

proctype interrupter() {
#ifndef INTERRUPT_LATE
    interrupts++;
#endif
    event++;
    wake_all();
#ifdef INTERRUPT_LATE
    interrupts++;
#endif
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
        run waiter(0, 2);
        run waiter(1, 9);
        run advancer(1);
        run advancer(2);
        run interrupter()
    }
}
