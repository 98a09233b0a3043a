/* The clock of a follower, a table of two functions. Internal to the module. */
#ifndef TIDEMARK_LUA_CLOCK_H
#define TIDEMARK_LUA_CLOCK_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Pushes {now =, sleep =}. */
void tidemark_clock_table(lua_State *L);

#pragma GCC visibility pop

#endif
