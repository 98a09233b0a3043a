/* Checks of arguments and the form of failures, for all classes of the module. */
#include "arguments.h"

#include <string.h>

int tidemark_push_failure(lua_State *L, const tidemark_error *error) {
    if (error->code == TIDEMARK_EINVAL || error->code == TIDEMARK_ENOMEM) return luaL_error(L, "%s", error->message);
    lua_pushnil(L);
    lua_pushstring(L, error->message);
    lua_pushstring(L, tidemark_code_name(error->code));
    return 3;
}

const char *tidemark_check_path(lua_State *L, int index) {
    size_t length;
    const char *path = luaL_checklstring(L, index, &length);
    luaL_argcheck(L, length > 0 && strlen(path) == length, index, "path is empty or has a zero byte");
    return path;
}

lua_Number tidemark_check_timeout(lua_State *L, int index) {
    lua_Number timeout = luaL_optnumber(L, index, -1);
    luaL_argcheck(L, lua_isnoneornil(L, index) || timeout >= 0, index, "timeout is negative or no number");
    return timeout;
}

lua_Integer tidemark_check_element(lua_State *L, int argument, int index, lua_Integer most, const char *what) {
    int is_integer;
    lua_Integer value = lua_tointegerx(L, index, &is_integer);
    if (lua_type(L, index) != LUA_TNUMBER)
        luaL_argerror(L, argument,
                      lua_pushfstring(L, "%s must be an integer, not a %s", what, luaL_typename(L, index)));
    if (!is_integer)
        luaL_argerror(L, argument,
                      lua_pushfstring(L, "%s has no integer representation: %f", what, lua_tonumber(L, index)));
    if (value < 0 || value > most)
        luaL_argerror(L, argument, lua_pushfstring(L, "%s out of range: %I", what, (LUAI_UACINT)value));
    return value;
}

bool tidemark_check_boolean(lua_State *L, int argument, int index, const char *what) {
    if (!lua_isboolean(L, index)) luaL_argerror(L, argument, lua_pushfstring(L, "option '%s' must be a boolean", what));
    return lua_toboolean(L, index);
}

/* An array is a table whose keys are 1..n. Calls luaL_argerror for any other. */
static void check_position(lua_State *L, int argument, size_t length, const char *what) {
    lua_Integer position = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
    if (position < 1 || (lua_Unsigned)position > length)
        luaL_argerror(L, argument,
                      lua_pushfstring(L, "an array of %s expected, this table has other keys or holes", what));
}

const uint32_t *tidemark_check_shards(lua_State *L, int index, int argument, size_t *count) {
    if (index == argument) luaL_checktype(L, index, LUA_TTABLE);
    else if (!lua_istable(L, index))
        luaL_argerror(L, argument,
                      lua_pushfstring(L, "an array of shard ids expected, got %s", luaL_typename(L, index)));
    size_t length = lua_rawlen(L, index), found = 0;
    uint32_t *shards = lua_newuserdata(L, length * sizeof *shards + 1);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), found++) {
        check_position(L, argument, length, "shard ids");
        shards[lua_tointeger(L, -2) - 1] =
            (uint32_t)tidemark_check_element(L, argument, -1, TIDEMARK_SHARD_MAX, "shard id");
    }
    if (found != length) luaL_argerror(L, argument, "an array of shard ids expected, this one has holes");
    *count = length;
    return shards;
}

const tidemark_record *tidemark_check_records(lua_State *L, int argument, int index, size_t *count) {
    if (!lua_istable(L, index))
        luaL_argerror(L, argument, lua_pushfstring(L, "array of records expected, got %s", luaL_typename(L, index)));
    size_t length = lua_rawlen(L, index), found = 0;
    tidemark_record *records = lua_newuserdata(L, length * sizeof *records + 1);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), found++) {
        check_position(L, argument, length, "records");
        lua_Integer position = lua_tointeger(L, -2);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_argerror(L, argument,
                          lua_pushfstring(L, "record %I must be a string, not a %s", (LUAI_UACINT)position,
                                          luaL_typename(L, -1)));
        records[position - 1].bytes = lua_tolstring(L, -1, &records[position - 1].length);
    }
    if (found != length) luaL_argerror(L, argument, "an array of records expected, this one has holes");
    if (length == 0) luaL_argerror(L, argument, "at least one record expected");
    *count = length;
    return records;
}

size_t tidemark_count_entries(lua_State *L, int index) {
    size_t count = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) count++;
    return count;
}

const tidemark_mark *tidemark_check_marks(lua_State *L, int argument, int index, size_t *count) {
    if (index == argument) luaL_checktype(L, index, LUA_TTABLE);
    else if (!lua_istable(L, index))
        luaL_argerror(L, argument,
                      lua_pushfstring(L, "a table of shards and seqnos expected, got %s", luaL_typename(L, index)));
    size_t room = tidemark_count_entries(L, index), found = 0;
    tidemark_mark *marks = lua_newuserdata(L, room * sizeof *marks + 1);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), found++) {
        luaL_argcheck(L, found < room, argument, TIDEMARK_TABLE_GREW);
        marks[found].shard = (uint32_t)tidemark_check_element(L, argument, -2, TIDEMARK_SHARD_MAX, "shard id");
        marks[found].seqno = tidemark_check_element(L, argument, -1, TIDEMARK_SEQNO_MAX, "seqno");
    }
    *count = found;
    return marks;
}
