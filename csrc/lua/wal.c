/* The Lua class Wal: the writer of a log, verify and prune. Argument checks and results around tidemark.h. */
#include "wal.h"

#include <string.h>

#include "arguments.h"
#include "batch.h"

#define METATABLE "tidemark.Wal"

struct writer {
    tidemark_wal *wal; /* NULL: closed */
};

static tidemark_wal *check_wal(lua_State *L) {
    const struct writer *writer = luaL_checkudata(L, 1, METATABLE);
    if (writer->wal == NULL) luaL_argerror(L, 1, "closed Wal");
    return writer->wal;
}

/* ---- writer ---- */

/* The value on top, an option of argument 2, as an integer from 1 to `most`: 0 is C's way to leave it out. */
static lua_Integer check_positive(lua_State *L, lua_Integer most, const char *name) {
    lua_Integer value = tidemark_check_element(L, 2, -1, most, name);
    if (value == 0) luaL_argerror(L, 2, lua_pushfstring(L, "%s out of range: 0", name));
    return value;
}

/* Reads the table that is argument 2. Pushes what `options` points to. */
static void check_options(lua_State *L, tidemark_wal_options *options) {
    *options = (tidemark_wal_options){0};
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) return;
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        if (strcmp(name, "shards") == 0 || strcmp(name, "accept_loss") == 0) continue; /* below: they push */
        if (strcmp(name, "epoch") == 0) options->epoch = (uint64_t)check_positive(L, TIDEMARK_EPOCH_EXPLICIT_MAX, name);
        else if (strcmp(name, "segment_bytes") == 0)
            options->segment_bytes = (uint64_t)check_positive(L, INT64_MAX, name);
        else if (strcmp(name, "sync") == 0) options->unsynced = !tidemark_check_boolean(L, 2, -1, name);
        else luaL_argerror(L, 2, lua_pushfstring(L, "no such option: '%s'", name));
    }
    if (lua_getfield(L, 2, "shards") != LUA_TNIL)
        options->shards = tidemark_check_shards(L, lua_gettop(L), 2, &options->shard_count);
    if (lua_getfield(L, 2, "accept_loss") != LUA_TNIL)
        options->accept_loss = tidemark_check_marks(L, 2, lua_gettop(L), &options->accept_loss_count);
}

static int wal_open(lua_State *L) {
    tidemark_error error;
    tidemark_wal_options options;
    const char *directory = tidemark_check_path(L, 1);
    check_options(L, &options);
    struct writer *writer = lua_newuserdata(L, sizeof *writer);
    writer->wal = NULL;
    luaL_setmetatable(L, METATABLE);
    if (tidemark_wal_open(directory, &options, &writer->wal, &error) < 0) return tidemark_push_failure(L, &error);
    return 1;
}

/* Reads the table of options that is argument 4: whether it has an origin. */
static bool check_append_options(lua_State *L, tidemark_origin *origin) {
    bool found = false;
    if (lua_isnoneornil(L, 4)) return false;
    luaL_checktype(L, 4, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 4); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        if (strcmp(name, "origin") != 0) luaL_argerror(L, 4, lua_pushfstring(L, "no such option: '%s'", name));
        *origin = tidemark_check_origin(L, 4, lua_gettop(L));
        found = true;
    }
    return found;
}

static int wal_append(lua_State *L) {
    tidemark_error error;
    tidemark_origin origin;
    size_t count;
    int64_t first, last;
    (void)check_wal(L);
    uint32_t shard = tidemark_check_shard(L, 2);
    bool has_origin = check_append_options(L, &origin);
    const tidemark_record *records = tidemark_check_records(L, 3, 3, &count);
    tidemark_wal *wal = check_wal(L); /* again: a finalizer may have closed it meanwhile */
    if (tidemark_wal_append_origin(wal, shard, has_origin ? &origin : NULL, records, count, &first, &last, &error) < 0)
        return tidemark_push_failure(L, &error);
    lua_pushinteger(L, first);
    lua_pushinteger(L, last);
    return 2;
}

/* true, or the failure. */
static int push_done(lua_State *L, int result, const tidemark_error *error) {
    if (result < 0) return tidemark_push_failure(L, error);
    lua_pushboolean(L, 1);
    return 1;
}

static int wal_sync(lua_State *L) {
    tidemark_error error;
    return push_done(L, tidemark_wal_sync(check_wal(L), &error), &error);
}

static int wal_close(lua_State *L) {
    struct writer *writer = luaL_checkudata(L, 1, METATABLE);
    tidemark_error error;
    tidemark_wal *wal = writer->wal;
    writer->wal = NULL;
    return push_done(L, wal != NULL ? tidemark_wal_close(wal, &error) : 0, &error);
}

static int wal_head(lua_State *L) {
    int64_t head = tidemark_state_applied_seqno(tidemark_wal_heads(check_wal(L)), tidemark_check_shard(L, 2));
    if (head >= 0) lua_pushinteger(L, head);
    else lua_pushnil(L);
    return 1;
}

static int wal_epoch(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)tidemark_wal_epoch(check_wal(L)));
    return 1;
}

static int wal_log_id(lua_State *L) {
    lua_pushinteger(L, tidemark_wal_log_id(check_wal(L)));
    return 1;
}

static int wal_recovery(lua_State *L) {
    const char *message;
    lua_newtable(L);
    /* the Wal is looked at each time: a finalizer may have closed it meanwhile */
    for (size_t i = 0; (message = tidemark_wal_recovery(check_wal(L), i)) != NULL; i++) {
        lua_pushstring(L, message);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int wal_tostring(lua_State *L) {
    char text[TIDEMARK_EPOCH_TEXT];
    const struct writer *writer = luaL_checkudata(L, 1, METATABLE);
    if (writer->wal == NULL) lua_pushliteral(L, "Wal(closed)");
    else lua_pushfstring(L, "Wal(epoch %s)", tidemark_epoch_text(tidemark_wal_epoch(writer->wal), text));
    return 1;
}

static int wal_epoch_text(lua_State *L) {
    char text[TIDEMARK_EPOCH_TEXT];
    lua_Integer epoch = luaL_checkinteger(L, 1);
    luaL_argcheck(L, epoch >= 0, 1, "epoch out of range");
    lua_pushstring(L, tidemark_epoch_text((uint64_t)epoch, text));
    return 1;
}

/* ---- tools ---- */

static int wal_prune(lua_State *L) {
    tidemark_error error;
    const char *directory = tidemark_check_path(L, 1);
    int removed = tidemark_wal_prune(directory, tidemark_check_shard(L, 2), tidemark_check_seqno(L, 3), &error);
    if (removed < 0) return tidemark_push_failure(L, &error);
    lua_pushinteger(L, removed);
    return 1;
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
    lua_pushinteger(L, (lua_Integer)count);
    lua_setfield(L, -2, name);
}

static int wal_verify(lua_State *L) {
    tidemark_error error;
    tidemark_wal_report report;
    if (tidemark_wal_verify(tidemark_check_path(L, 1), &report, &error) < 0) return tidemark_push_failure(L, &error);
    lua_createtable(L, 0, 6);
    set_count(L, "shards", report.shards);
    set_count(L, "segments", report.segments);
    set_count(L, "batches", report.batches);
    set_count(L, "records", report.records);
    set_count(L, "bytes", report.bytes);
    set_count(L, "unknown", report.unknown);
    return 1;
}

/* ---- registration ---- */

void tidemark_wal_metatable(lua_State *L, const char *name, lua_CFunction close) {
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, close);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, close);
    lua_setfield(L, -2, "__close");
}

void tidemark_wal_class(lua_State *L) {
    static const luaL_Reg class_functions[] = {
        {"open", wal_open},         {"append", wal_append},         {"sync", wal_sync},
        {"head", wal_head},         {"epoch", wal_epoch},           {"log_id", wal_log_id},
        {"recovery", wal_recovery}, {"close", wal_close},           {"prune", wal_prune},
        {"verify", wal_verify},     {"epoch_text", wal_epoch_text}, {NULL, NULL},
    };
    luaL_newlib(L, class_functions);
    tidemark_wal_source_functions(L);
    tidemark_wal_metatable(L, METATABLE, wal_close);
    lua_pushcfunction(L, wal_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
