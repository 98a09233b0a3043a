/* The limit of handing records to Lua: a C loop that makes a string of each and calls the function with it. */
#include <lauxlib.h>
#include <lua.h>

/* each(bytes, size, apply): calls apply(record, seqno) for each `size` bytes of the string. */
static int each(lua_State *L) {
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    size_t size = (size_t)luaL_checkinteger(L, 2);
    lua_Integer seqno = 0;
    for (size_t at = 0; at < length; at += size) {
        lua_pushvalue(L, 3);
        lua_pushlstring(L, bytes + at, size);
        lua_pushinteger(L, ++seqno);
        lua_call(L, 2, 0);
    }
    return 0;
}

__attribute__((visibility("default"))) int luaopen_records_loop(lua_State *L);

int luaopen_records_loop(lua_State *L) {
    lua_pushcfunction(L, each);
    return 1;
}
