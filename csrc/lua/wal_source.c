/* The Lua classes that read a log: a source, and the reader of a shard. Argument checks and results around tidemark.h.
 */
#include <string.h>

#include "arguments.h"
#include "batch.h"
#include "wal.h"

#define READER_METATABLE "tidemark.Wal.reader"
#define SOURCE_METATABLE "tidemark.Wal.source"

struct reader {
    tidemark_wal_reader *reader; /* NULL: closed */
};

struct source {
    tidemark_wal_source *source; /* NULL: closed */
};

/* ---- reader ---- */

static struct reader *check_reader(lua_State *L) {
    struct reader *reader = luaL_checkudata(L, 1, READER_METATABLE);
    if (reader->reader == NULL) luaL_argerror(L, 1, "closed reader");
    return reader;
}

/* Pushes a closed reader. */
static struct reader *push_reader(lua_State *L) {
    struct reader *reader = lua_newuserdata(L, sizeof *reader);
    reader->reader = NULL;
    luaL_setmetatable(L, READER_METATABLE);
    return reader;
}

static int wal_reader(lua_State *L) {
    tidemark_error error;
    unsigned flags = 0;
    const char *directory = tidemark_check_path(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t after_seqno = luaL_opt(L, tidemark_check_seqno, 3, 0);
    if (!lua_isnoneornil(L, 4)) {
        luaL_checktype(L, 4, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 4); lua_pop(L, 1)) {
            const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
            if (strcmp(name, "archive") != 0) luaL_argerror(L, 4, lua_pushfstring(L, "no such option: '%s'", name));
            if (tidemark_check_boolean(L, 4, -1, name)) flags = TIDEMARK_READ_ARCHIVE;
        }
    }
    struct reader *reader = push_reader(L);
    if (tidemark_wal_reader_open(directory, shard, after_seqno, flags, &reader->reader, &error) < 0)
        return tidemark_push_failure(L, &error);
    return 1;
}

static int reader_next(lua_State *L) {
    tidemark_error error;
    tidemark_batch batch, same;
    lua_Number timeout = tidemark_check_timeout(L, 2);
    struct reader *reader;
    unsigned char *bytes;
    do {
        lua_settop(L, 2);
        if (tidemark_wal_reader_wait(check_reader(L)->reader, timeout, &batch, &error) < 0)
            return tidemark_push_failure(L, &error);
        bytes = tidemark_batch_push(L, batch.size);
        reader = check_reader(L); /* again: a finalizer may have closed it meanwhile, or read on */
        if (tidemark_wal_reader_wait(reader->reader, 0, &same, &error) < 0) return tidemark_push_failure(L, &error);
        if (same.first_seqno != batch.first_seqno) return luaL_error(L, "a finalizer has used the reader meanwhile");
    } while (same.size != batch.size); /* else the log was restored in between and has another batch there */
    if (tidemark_wal_reader_read(reader->reader, bytes, &batch, &error) < 0) return tidemark_push_failure(L, &error);
    tidemark_batch_finish(L, -1, &batch);
    return 1;
}

static int reader_head(lua_State *L) {
    int64_t head = tidemark_wal_reader_head(check_reader(L)->reader);
    if (head >= 0) lua_pushinteger(L, head);
    else lua_pushnil(L);
    return 1;
}

static int reader_close(lua_State *L) {
    struct reader *reader = luaL_checkudata(L, 1, READER_METATABLE);
    tidemark_wal_reader *open = reader->reader;
    reader->reader = NULL;
    tidemark_wal_reader_close(open);
    return 0;
}

/* ---- source ---- */

static tidemark_wal_source *check_source(lua_State *L) {
    const struct source *source = luaL_checkudata(L, 1, SOURCE_METATABLE);
    if (source->source == NULL) luaL_argerror(L, 1, "closed source");
    return source->source;
}

static int wal_source(lua_State *L) {
    tidemark_error error;
    const char *directory = tidemark_check_path(L, 1);
    struct source *source = lua_newuserdata(L, sizeof *source);
    source->source = NULL;
    luaL_setmetatable(L, SOURCE_METATABLE);
    if (tidemark_wal_source_open(directory, &source->source, &error) < 0) return tidemark_push_failure(L, &error);
    return 1;
}

static int source_subscribe(lua_State *L) {
    tidemark_error error;
    (void)check_source(L);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t after_seqno = luaL_opt(L, tidemark_check_seqno, 3, 0);
    struct reader *reader = push_reader(L);
    tidemark_wal_source *source = check_source(L); /* again: a finalizer may have closed it meanwhile */
    if (tidemark_wal_source_reader(source, shard, after_seqno, &reader->reader, &error) < 0)
        return tidemark_push_failure(L, &error);
    return 1;
}

static int source_head(lua_State *L) {
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t head = tidemark_state_applied_seqno(tidemark_wal_source_heads(check_source(L)), shard);
    if (head >= 0) lua_pushinteger(L, head);
    else lua_pushnil(L);
    return 1;
}

static int source_log_id(lua_State *L) {
    uint32_t log_id = tidemark_wal_source_log_id(check_source(L));
    if (log_id != 0) lua_pushinteger(L, log_id);
    else lua_pushnil(L);
    return 1;
}

static int source_epoch(lua_State *L) {
    tidemark_error error;
    uint64_t epoch;
    tidemark_wal_source *source = check_source(L);
    uint32_t shard = tidemark_check_shard(L, 2);
    if (tidemark_wal_source_epoch(source, shard, tidemark_check_seqno(L, 3), &epoch, &error) < 0)
        return tidemark_push_failure(L, &error);
    lua_pushinteger(L, (lua_Integer)epoch);
    return 1;
}

static int source_shards(lua_State *L) {
    lua_createtable(L, (int)tidemark_state_count(tidemark_wal_source_heads(check_source(L))), 0);
    const tidemark_state *heads = tidemark_wal_source_heads(check_source(L));
    int position = 0;
    for (int shard = tidemark_state_next(heads, -1); shard >= 0; shard = tidemark_state_next(heads, shard)) {
        lua_pushinteger(L, shard);
        lua_rawseti(L, -2, ++position);
    }
    return 1;
}

static int source_wait(lua_State *L) {
    tidemark_error error;
    size_t count;
    uint32_t shard;
    (void)check_source(L);
    lua_Number timeout = tidemark_check_timeout(L, 3);
    const tidemark_mark *marks = tidemark_check_marks(L, 2, 2, &count);
    int code = tidemark_wal_source_wait(check_source(L), marks, count, timeout, &shard, &error);
    if (code < 0 && code != TIDEMARK_ETIMEOUT) return tidemark_push_failure(L, &error);
    lua_pushboolean(L, code == 0);
    return 1;
}

static int source_interrupt(lua_State *L) {
    tidemark_wal_source_interrupt(check_source(L));
    return 0;
}

static int source_close(lua_State *L) {
    struct source *source = luaL_checkudata(L, 1, SOURCE_METATABLE);
    tidemark_wal_source *open = source->source;
    source->source = NULL;
    tidemark_wal_source_close(open);
    return 0;
}

/* ---- registration ---- */

static void make_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction close) {
    tidemark_wal_metatable(L, name, close);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

void tidemark_wal_source_functions(lua_State *L) {
    static const luaL_Reg functions[] = {{"reader", wal_reader}, {"source", wal_source}, {NULL, NULL}};
    static const luaL_Reg reader_methods[] = {
        {"next", reader_next},
        {"head", reader_head},
        {"close", reader_close},
        {NULL, NULL},
    };
    static const luaL_Reg source_methods[] = {
        {"subscribe", source_subscribe}, {"head", source_head},     {"log_id", source_log_id},
        {"epoch", source_epoch},         {"shards", source_shards}, {"wait", source_wait},
        {"interrupt", source_interrupt}, {"close", source_close},   {NULL, NULL},
    };
    make_class(L, READER_METATABLE, reader_methods, reader_close);
    make_class(L, SOURCE_METATABLE, source_methods, source_close);
    luaL_setfuncs(L, functions, 0);
}
