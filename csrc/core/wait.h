/* What waiting shares with the rest of the core. Internal. */
#ifndef TIDEMARK_CORE_WAIT_H
#define TIDEMARK_CORE_WAIT_H

/* Seconds of the clock that all time-outs go by: monotonic, it does not run while the machine is suspended. */
__attribute__((visibility("hidden"))) double tidemark_monotonic(void);

#endif
