/*
 * tidemark.sqlite: a small SQLite binding that keeps 64-bit integers and strings with zero bytes whole.
 *
 * It knows SQLite and Lua only. A caller's mistake raises; what can happen to a correct program returns nil, message,
 * code; no memory raises. A statement is always in one of two places: idle (reset, without values) in its database's
 * cache, or in use by one exec or one iterator. Closing a database finalizes both kinds, so an iterator asks its
 * database whether it is open before it touches its statement.
 */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <lauxlib.h>

#include "connection.h"

#define DATABASE "tidemark.sqlite.database"
#define ROWS     "tidemark.sqlite.rows"
#define BLOB     "tidemark.sqlite.blob"

#define CACHE_SIZE 64 /* idle statements that a database keeps */

_Static_assert(sizeof(lua_Integer) == sizeof(sqlite3_int64), "64-bit Lua integers");

struct idle {
    sqlite3_stmt *stmt;
    size_t length; /* of its SQL, which SQLite keeps up to its end */
};

/* Random, so that no other library's userdata carries it. */
#define DATABASE_MAGIC UINT64_C(0x5d07a91ec4f8b263)

struct database {
    uint64_t magic;                /* DATABASE_MAGIC */
    sqlite3 *handle;               /* NULL: closed, for ever */
    sqlite3_stmt *rollback;        /* ready, for it must not fail where memory is short */
    bool guarded;                  /* the open transaction is not to be ended */
    int idle;                      /* how many statements are in `cache` */
    struct idle cache[CACHE_SIZE]; /* the one used last comes first */
};

struct rows {
    struct database *db; /* the user value keeps it alive */
    sqlite3_stmt *stmt;  /* NULL: ended or closed; dangles once the database is closed */
    bool waiting;        /* the statement stands on a row that was not given yet */
    bool ended;
};

/* ---- errors ---- */

/* nil, message, code; or raises where there is no memory. */
static int push_failure(lua_State *L, const struct tidemark_sqlite_failure *failure) {
    if (failure->code == NULL) return luaL_error(L, "not enough memory");
    lua_pushnil(L);
    lua_pushstring(L, failure->message);
    lua_pushstring(L, failure->code);
    return 3;
}

/* ---- databases ---- */

/* Takes the database at 1, also where a table is there that has it at [1]: so a class around a database can have its
 * methods without a function that forwards. Cheaper than luaL_checkudata, which compares metatables. */
static struct database *check_handle(lua_State *L) {
    if (lua_istable(L, 1) && lua_rawgeti(L, 1, 1) == LUA_TUSERDATA) lua_replace(L, 1);
    struct database *db = lua_touserdata(L, 1);
    if (db == NULL || lua_rawlen(L, 1) != sizeof *db || db->magic != DATABASE_MAGIC)
        luaL_argerror(L, 1,
                      lua_pushfstring(L, DATABASE " expected, got %s%s", luaL_typename(L, 1),
                                      lua_istable(L, 1) ? " that has none at [1]" : ""));
    return db;
}

static struct database *check_database(lua_State *L) {
    struct database *db = check_handle(L);
    luaL_argcheck(L, db->handle != NULL, 1, "closed database");
    return db;
}

static struct tidemark_sqlite_options check_options(lua_State *L, int argument) {
    struct tidemark_sqlite_options options = {false, false, TIDEMARK_SQLITE_TIMEOUT_MS};
    if (lua_isnoneornil(L, argument)) return options;
    luaL_checktype(L, argument, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, argument); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        bool readonly = strcmp(name, "readonly") == 0, create = strcmp(name, "create") == 0;
        if (strcmp(name, "busy_timeout") == 0) {
            lua_Number seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
            if (!(seconds >= 0 && seconds <= 2147483))
                luaL_argerror(L, argument, "option 'busy_timeout' must be a number of seconds from 0 to 2147483");
            options.timeout_ms = (int)(seconds * 1000);
        } else if (readonly || create) {
            if (!lua_isboolean(L, -1))
                luaL_argerror(L, argument, lua_pushfstring(L, "option '%s' must be a boolean", name));
            if (readonly) options.readonly = lua_toboolean(L, -1);
            else options.existing = !lua_toboolean(L, -1);
        } else {
            luaL_argerror(L, argument, lua_pushfstring(L, "no such option: '%s'", name));
        }
    }
    return options;
}

static int database_close(lua_State *L) {
    struct database *db = check_handle(L);
    sqlite3 *handle = db->handle;
    if (handle == NULL) return 0;
    db->handle = NULL;
    for (sqlite3_stmt *stmt; (stmt = sqlite3_next_stmt(handle, NULL)) != NULL;) sqlite3_finalize(stmt);
    sqlite3_close(handle);
    return 0;
}

/* SQLite rolls back instead where this is not 0. */
static int refuse_commit(void *db) {
    return ((struct database *)db)->guarded;
}

static int sqlite_open(lua_State *L) {
    size_t length;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *path = lua_tolstring(L, 1, &length), *file = path;
    luaL_argcheck(L, length > 0 && strlen(path) == length, 1, "path is empty or has a zero byte");
    luaL_argcheck(L, strcmp(path, ":memory:") != 0, 1, "a database in memory is not offered");
    struct tidemark_sqlite_options options = check_options(L, 2);
    /* lest SQLite take the name for a URI, which may lead to memory */
    if (path[0] != '/') file = lua_pushfstring(L, "./%s", path);
    struct database *db = lua_newuserdata(L, sizeof *db);
    *db = (struct database){.magic = DATABASE_MAGIC};
    luaL_setmetatable(L, DATABASE);
    struct tidemark_sqlite_failure failure;
    if (tidemark_sqlite_open(file, path, &options, &db->handle, &failure)) {
        int result = sqlite3_prepare_v3(db->handle, "ROLLBACK", -1, SQLITE_PREPARE_PERSISTENT, &db->rollback, NULL);
        sqlite3_commit_hook(db->handle, refuse_commit, db);
        if (result == SQLITE_OK) return 1;
        failure = tidemark_sqlite_describe(db->handle, path, result);
    }
    sqlite3_close(db->handle);
    db->handle = NULL;
    return push_failure(L, &failure);
}

/* Also while a statement that writes stands on a row that it gave, outside of any other transaction. */
static int database_in_transaction(lua_State *L) {
    sqlite3 *handle = check_database(L)->handle;
    lua_pushboolean(L, !sqlite3_get_autocommit(handle) || sqlite3_txn_state(handle, "main") == SQLITE_TXN_WRITE);
    return 1;
}

#define NOT_YOURS "only who began this transaction may COMMIT or ROLLBACK; use SAVEPOINT"

/* guard(on): for who runs a function of somebody else's inside a transaction. While it is on, a COMMIT of what was
 * written rolls back; a statement that ends the transaction raises, unless SQLite rolled back because it failed; and
 * then no further one runs: each would be a transaction of its own. */
static int database_guard(lua_State *L) {
    struct database *db = check_database(L);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    db->guarded = lua_toboolean(L, 2);
    return 0;
}

static void check_guard(lua_State *L, const struct database *db) {
    if (db->guarded && sqlite3_get_autocommit(db->handle)) luaL_error(L, "the transaction has ended: " NOT_YOURS);
}

/* Undoes the transaction that is open, if any, and turns the guard off: true; or nil, message, code, and the guard is
 * on, lest somebody commit what should have been undone. */
static int database_rollback(lua_State *L) {
    struct database *db = check_database(L);
    struct tidemark_sqlite_failure failure = {NULL, ""};
    if (!sqlite3_get_autocommit(db->handle)) {
        int result = sqlite3_step(db->rollback);
        if (result != SQLITE_DONE)
            failure = tidemark_sqlite_describe(db->handle, sqlite3_db_filename(db->handle, "main"), result);
        (void)sqlite3_reset(db->rollback);
    }
    db->guarded = !sqlite3_get_autocommit(db->handle);
    if (db->guarded) return push_failure(L, &failure);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- values ---- */

/* sqlite.blob(string): a userdata whose user value is the string. */
static int sqlite_blob(lua_State *L) {
    luaL_checktype(L, 1, LUA_TSTRING);
    (void)lua_newuserdata(L, 0);
    lua_pushvalue(L, 1);
    lua_setuservalue(L, -2);
    luaL_setmetatable(L, BLOB);
    return 1;
}

static void check_value(lua_State *L, int index) {
    switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TSTRING: return;
    case LUA_TNUMBER: /* SQLite would make it NULL */
        luaL_argcheck(L, lua_isinteger(L, index) || !isnan(lua_tonumber(L, index)), index, "NaN cannot be stored");
        return;
    default:
        if (luaL_testudata(L, index, BLOB) == NULL)
            luaL_argerror(
                L, index,
                lua_pushfstring(L, "nil, boolean, number, string or blob expected, got %s", luaL_typename(L, index)));
    }
}

/* Binds the value at `index`, which check_value let pass, and raises nothing. */
static int bind_value(lua_State *L, int index, sqlite3_stmt *stmt, int parameter, sqlite3_destructor_type lifetime) {
    size_t length;
    const char *bytes;
    switch (lua_type(L, index)) {
    case LUA_TNIL: return sqlite3_bind_null(stmt, parameter);
    case LUA_TBOOLEAN: return sqlite3_bind_int(stmt, parameter, lua_toboolean(L, index));
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) return sqlite3_bind_int64(stmt, parameter, lua_tointeger(L, index));
        return sqlite3_bind_double(stmt, parameter, lua_tonumber(L, index));
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &length);
        return sqlite3_bind_text64(stmt, parameter, bytes, length, lifetime, SQLITE_UTF8);
    default: /* a blob */
        lua_getuservalue(L, index);
        bytes = lua_tolstring(L, -1, &length);
        lua_pop(L, 1); /* the blob keeps it alive */
        return sqlite3_bind_blob64(stmt, parameter, bytes, length, lifetime);
    }
}

static void push_column(lua_State *L, sqlite3_stmt *stmt, int column) {
    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER: lua_pushinteger(L, sqlite3_column_int64(stmt, column)); return;
    case SQLITE_FLOAT: lua_pushnumber(L, sqlite3_column_double(stmt, column)); return;
    case SQLITE_NULL: lua_pushnil(L); return;
    default: { /* TEXT, too: sqlite3_column_text would copy it to put a zero byte behind */
        const char *bytes = sqlite3_column_blob(stmt, column);
        int length = sqlite3_column_bytes(stmt, column);
        if (bytes == NULL && length > 0) luaL_error(L, "not enough memory");
        lua_pushlstring(L, bytes != NULL ? bytes : "", (size_t)length);
    }
    }
}

/* ---- statements ---- */

/* Whether the text is nothing but what SQLite skips: spaces, semicolons, comments, marks of byte order. To prepare it
 * and see would be too much: some pragmas act when they are prepared. */
static bool is_blank(const char *sql) {
    while (*sql != '\0') {
        const char *start = sql;
        sql += strspn(sql, " \t\r\n\f;");
        if (strncmp(sql, "--", 2) == 0) sql += strcspn(sql, "\n");
        if (strncmp(sql, "/*", 2) == 0) {
            const char *end = strstr(sql + 2, "*/");
            sql = end != NULL ? end + 2 : sql + strlen(sql);
        }
        if (strncmp(sql, "\xEF\xBB\xBF", 3) == 0) sql += 3;
        if (sql == start) return false;
    }
    return true;
}

/* Takes an idle statement of this SQL out of the cache, or NULL. Only spaces and semicolons may follow the text that it
 * was made of: what looks like a comment there need not be one, for that text may end inside of one. */
static sqlite3_stmt *take_idle(struct database *db, const char *sql, size_t length) {
    for (int i = 0; i < db->idle; i++) {
        struct idle found = db->cache[i];
        if (found.length <= length && memcmp(sqlite3_sql(found.stmt), sql, found.length) == 0 &&
            sql[found.length + strspn(sql + found.length, " \t\r\n\f;")] == '\0') {
            db->idle--;
            memmove(db->cache + i, db->cache + i + 1, (size_t)(db->idle - i) * sizeof *db->cache);
            return found.stmt;
        }
    }
    return NULL;
}

static void put_idle(struct database *db, sqlite3_stmt *stmt) {
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    if (db->idle == CACHE_SIZE) sqlite3_finalize(db->cache[--db->idle].stmt);
    memmove(db->cache + 1, db->cache, (size_t)db->idle++ * sizeof *db->cache);
    db->cache[0] = (struct idle){stmt, strlen(sqlite3_sql(stmt))};
}

/* The arguments of exec and rows: database, SQL, values. */
static struct database *check_call(lua_State *L) {
    struct database *db = check_database(L);
    size_t length;
    luaL_checktype(L, 2, LUA_TSTRING);
    const char *sql = lua_tolstring(L, 2, &length);
    luaL_argcheck(L, strlen(sql) == length, 2, "SQL has a zero byte");
    for (int index = lua_gettop(L); index >= 3; index--) check_value(L, index);
    check_guard(L, db);
    return db;
}

/* Prepares the SQL at 2 and binds the values from 3 to `top`, all checked: an SQLite result. *stmt is set before
 * anything fails that leaves one. Where it raises, no statement is in use. */
static int start_statement(lua_State *L, struct database *db, int top, sqlite3_destructor_type lifetime,
                           sqlite3_stmt **stmt) {
    size_t length;
    const char *sql = lua_tolstring(L, 2, &length), *rest = "";
    sqlite3_stmt *found = take_idle(db, sql, length);
    if (found == NULL) {
        int result = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &found, &rest);
        if (result != SQLITE_OK) return result;
        luaL_argcheck(L, found != NULL, 2, "no SQL statement in it");
    }
    int wanted = sqlite3_bind_parameter_count(found);
    bool more = !is_blank(rest);
    if (more || wanted != top - 2) {
        put_idle(db, found);
        luaL_argcheck(L, !more, 2, "one SQL statement expected, more follows");
        luaL_argerror(L, wanted < top - 2 ? 3 + wanted : top + 1,
                      lua_pushfstring(L, "%d SQL parameters to bind, got %d values", wanted, top - 2));
    }
    *stmt = found;
    for (int index = 3; index <= top; index++) {
        int result = bind_value(L, index, found, index - 2, lifetime);
        if (result != SQLITE_OK) return result;
    }
    return SQLITE_OK;
}

/* Ends the use of *stmt, if any: pushes nothing where `result` is no error, else nil, message, code. */
static int end_statement(lua_State *L, struct database *db, sqlite3_stmt **stmt, int result) {
    bool failed = result != SQLITE_OK && result != SQLITE_DONE;
    struct tidemark_sqlite_failure failure;
    if (failed) failure = tidemark_sqlite_describe(db->handle, sqlite3_db_filename(db->handle, "main"), result);
    if (*stmt != NULL) put_idle(db, *stmt);
    *stmt = NULL;
    return failed ? push_failure(L, &failure) : 0;
}

/* Whether the statement that gave `result` has ended a guarded transaction by itself. */
static bool ends_guarded(const struct database *db, int result) {
    return db->guarded && sqlite3_get_autocommit(db->handle) &&
           (result == SQLITE_DONE || sqlite3_extended_errcode(db->handle) == SQLITE_CONSTRAINT_COMMITHOOK);
}

static int database_exec(lua_State *L) {
    struct database *db = check_call(L);
    sqlite3_stmt *stmt = NULL;
    int before = sqlite3_total_changes(db->handle);
    /* the values stay on Lua's stack until the statement has ended: SQLite need not copy them */
    int result = start_statement(L, db, lua_gettop(L), SQLITE_STATIC, &stmt);
    while (result == SQLITE_OK || result == SQLITE_ROW) result = sqlite3_step(stmt);
    /* sqlite3_changes tells of the last statement that could change rows, which may be an earlier one */
    int changed = sqlite3_total_changes(db->handle) == before ? 0 : sqlite3_changes(db->handle);
    bool not_yours = ends_guarded(db, result);
    int pushed = end_statement(L, db, &stmt, result);
    if (not_yours) return luaL_error(L, NOT_YOURS);
    if (pushed > 0) return pushed;
    lua_pushinteger(L, changed);
    return 1;
}

/* ---- rows ---- */

/* Raises the nil, message, code on top of the stack. */
static int raise_failure(lua_State *L) {
    return luaL_error(L, "%s (%s)", lua_tostring(L, -2), lua_tostring(L, -1));
}

static void check_open(lua_State *L, const struct rows *rows) {
    if (rows->stmt == NULL || rows->db->handle == NULL) luaL_error(L, "these rows or their database are closed");
}

static int rows_next(lua_State *L) {
    struct rows *rows = lua_touserdata(L, lua_upvalueindex(1));
    if (rows->ended) {
        lua_pushnil(L);
        return 1;
    }
    check_open(L, rows);
    if (!rows->waiting) {
        int result = sqlite3_step(rows->stmt);
        if (result != SQLITE_ROW) {
            rows->ended = result == SQLITE_DONE;
            if (end_statement(L, rows->db, &rows->stmt, result) > 0) return raise_failure(L);
            lua_pushnil(L);
            return 1;
        }
        rows->waiting = true;
    }
    int count = sqlite3_data_count(rows->stmt);
    luaL_checkstack(L, count, "too many columns");
    for (int column = 0; column < count; column++) {
        check_open(L, rows); /* a finalizer may have closed them as the last value was made */
        push_column(L, rows->stmt, column);
    }
    if (lua_isnil(L, -count))
        return luaL_error(L, "the first column is NULL, which would end a loop: select another first");
    rows->waiting = false;
    return count;
}

/* A statement that changes rows outside a transaction commits here when it was broken off, and that can fail. */
static int rows_close(lua_State *L) {
    struct rows *rows = luaL_checkudata(L, 1, ROWS);
    if (rows->stmt == NULL || rows->db->handle == NULL) return 0;
    int result = sqlite3_reset(rows->stmt);
    if (end_statement(L, rows->db, &rows->stmt, result) > 0) return raise_failure(L);
    return 0;
}

static int rows_gc(lua_State *L) {
    struct rows *rows = luaL_checkudata(L, 1, ROWS);
    if (rows->stmt != NULL && rows->db->handle != NULL) put_idle(rows->db, rows->stmt);
    rows->stmt = NULL;
    return 0;
}

static int database_rows(lua_State *L) {
    struct database *db = check_call(L);
    int top = lua_gettop(L);
    struct rows *rows = lua_newuserdata(L, sizeof *rows);
    *rows = (struct rows){db, NULL, false, false};
    lua_pushvalue(L, 1);
    lua_setuservalue(L, -2);
    luaL_setmetatable(L, ROWS);
    check_guard(L, check_database(L)); /* again: a finalizer may have run as the userdata was made */
    int result = start_statement(L, db, top, SQLITE_TRANSIENT, &rows->stmt);
    /* the first step here, so that what fails there is returned and not raised */
    if (result == SQLITE_OK) result = sqlite3_step(rows->stmt);
    rows->waiting = result == SQLITE_ROW;
    rows->ended = result == SQLITE_DONE;
    if (!rows->waiting) {
        bool not_yours = ends_guarded(db, result);
        int pushed = end_statement(L, db, &rows->stmt, result);
        if (not_yours) return luaL_error(L, NOT_YOURS);
        if (pushed > 0) return pushed;
    }
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, rows_next, 1);
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushvalue(L, -4);
    return 4;
}

/* ---- registration ---- */

static void new_class(lua_State *L, const char *name, const luaL_Reg *metamethods, const luaL_Reg *methods) {
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, metamethods, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

/* exec and rows, the methods, for a class whose objects have a database at [1] */
static const luaL_Reg functions[] = {
    {"open", sqlite_open}, {"blob", sqlite_blob}, {"exec", database_exec}, {"rows", database_rows}, {NULL, NULL}};

/* lua_close unloads C modules, and SQLite with them; connections of other lua_States may be in use. So it stays. */
static void pin_library(void) {
    Dl_info info;
    if (dladdr(functions, &info) != 0) (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
}

__attribute__((visibility("default"))) int luaopen_tidemark_sqlite(lua_State *L);

int luaopen_tidemark_sqlite(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg database_methods[] = {
        {"exec", database_exec},
        {"rows", database_rows},
        {"in_transaction", database_in_transaction},
        {"guard", database_guard},
        {"rollback", database_rollback},
        {"close", database_close},
        {NULL, NULL},
    };
    static const luaL_Reg database_metamethods[] = {
        {"__gc", database_close}, {"__close", database_close}, {NULL, NULL}};
    static const luaL_Reg rows_methods[] = {{"close", rows_close}, {NULL, NULL}};
    static const luaL_Reg rows_metamethods[] = {{"__gc", rows_gc}, {"__close", rows_close}, {NULL, NULL}};

    pin_library();
    new_class(L, DATABASE, database_metamethods, database_methods);
    new_class(L, ROWS, rows_metamethods, rows_methods);
    new_class(L, BLOB, none, none);
    luaL_newlib(L, functions);
    return 1;
}
