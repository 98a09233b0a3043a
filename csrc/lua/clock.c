/* tidemark.core.clock: monotonic time and sleep, which Lua's own library does not have. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */
#include "clock.h"

#include <lauxlib.h>
#include <time.h>

/* now() -> seconds, from a point that is fixed until the machine is started again. */
static int clock_now(lua_State *L) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
    return 1;
}

/* sleep(seconds): a signal ends it early, so that its handler's effect is seen. */
static int clock_sleep(lua_State *L) {
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0, 1, "seconds out of range"); /* also what is not a number */
    if (seconds > 1e9) seconds = 1e9;                          /* fits any time_t */
    struct timespec pause = {.tv_sec = (time_t)seconds};
    pause.tv_nsec = (long)((seconds - (lua_Number)pause.tv_sec) * 1e9);
    (void)nanosleep(&pause, NULL);
    return 0;
}

void tidemark_clock_table(lua_State *L) {
    static const luaL_Reg functions[] = {{"now", clock_now}, {"sleep", clock_sleep}, {NULL, NULL}};
    luaL_newlib(L, functions);
}
