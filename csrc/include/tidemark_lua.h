/*
 * The bridge for hosts that embed Lua: hands one tidemark_state between C and any number of lua_States.
 *
 * Header only, so that it needs no library built for the host's own Lua. Each lua_State must have loaded the module
 * (`require "tidemark.core"`, or luaL_requiref with luaopen_tidemark_core where it is linked in) and the module must
 * have the ABI of this header; otherwise both functions raise an error that says so.
 */
#ifndef TIDEMARK_LUA_H
#define TIDEMARK_LUA_H

#include <lauxlib.h>
#include <lua.h>

#include "tidemark.h"

/* What the module leaves in the registry, as a light userdata under this key. */
#define TIDEMARK_LUA_BRIDGE "tidemark.bridge"

typedef struct tidemark_lua_bridge {
    int abi; /* TIDEMARK_ABI of the module */
    void (*push)(lua_State *L, tidemark_state *state);
    tidemark_state *(*check)(lua_State *L, int index);
} tidemark_lua_bridge;

static inline const tidemark_lua_bridge *tidemark_lua_get_bridge(lua_State *L) {
    const tidemark_lua_bridge *bridge;
    lua_getfield(L, LUA_REGISTRYINDEX, TIDEMARK_LUA_BRIDGE);
    bridge = (const tidemark_lua_bridge *)lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (bridge == NULL) luaL_error(L, "tidemark is not loaded here: require 'tidemark.core' first");
    if (bridge->abi != TIDEMARK_ABI)
        luaL_error(L, "tidemark.core has ABI %d, this program was built for %d", bridge->abi, TIDEMARK_ABI);
    return bridge;
}

/* Pushes a handle to `state`, with a reference of its own that the handle drops when it is closed or collected.
 * Raises on no memory. Needs 3 stack places. */
static inline void tidemark_lua_push(lua_State *L, tidemark_state *state) {
    tidemark_lua_get_bridge(L)->push(L, state);
}

/* The state of the handle at `index`; raises a bad argument where there is none or it is closed. The reference stays
 * the handle's: retain the state to keep it beyond the handle. */
static inline tidemark_state *tidemark_lua_check(lua_State *L, int index) {
    return tidemark_lua_get_bridge(L)->check(L, index);
}

#endif
