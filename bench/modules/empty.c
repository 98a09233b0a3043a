/* The limit of a call from Lua: an object whose method looks at no argument and returns a boolean. */
#include <lauxlib.h>
#include <lua.h>

static int empty_advance(lua_State *L) {
    lua_pushboolean(L, 1);
    return 1;
}

/* Returns the function that makes one. */
static int empty_new(lua_State *L) {
    (void)lua_newuserdata(L, sizeof(void *));
    luaL_setmetatable(L, "tidemark.bench.Empty");
    return 1;
}

__attribute__((visibility("default"))) int luaopen_empty(lua_State *L);

int luaopen_empty(lua_State *L) {
    static const luaL_Reg methods[] = {{"advance", empty_advance}, {NULL, NULL}};
    luaL_newmetatable(L, "tidemark.bench.Empty");
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_pushcfunction(L, empty_new);
    return 1;
}
