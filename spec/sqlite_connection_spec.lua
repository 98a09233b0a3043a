--- tidemark.sqlite: transactions, cached statements, handles.

local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local sqlite = require "tidemark.sqlite"

local is_lua53 = _VERSION == "Lua 5.3"
local raises = query.raises

describe("an SQLite connection", function()
  local db, path

  before_each(function()
    path = sandbox.tempdir() .. "/test.db"
    db = assert(sqlite.open(path))
  end)
  after_each(function()
    db:close()
  end)
  teardown(sandbox.cleanup)

  local first, column, exec = query.on(function()
    return db
  end)

  -- How many statements the connection has, the counting one left out.
  local function count_statements()
    return first "SELECT count(*) - 1 FROM sqlite_stmt"
  end

  describe("transactions", function()
    before_each(function()
      exec "CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE)"
      exec "INSERT INTO t VALUES (1, 10), (2, 20)"
    end)

    it("are plain SQL, and in_transaction tells of them", function()
      assert.is_false(db:in_transaction())
      exec "BEGIN IMMEDIATE"
      assert.is_true(db:in_transaction())
      exec "INSERT INTO t VALUES (3, 30)"
      exec "ROLLBACK"
      assert.is_false(db:in_transaction())
      exec "BEGIN IMMEDIATE"
      exec "INSERT INTO t VALUES (4, 40)"
      exec "COMMIT"
      assert.same({ 1, 2, 4 }, column "SELECT id FROM t ORDER BY id")
    end)

    it("go on after a constraint error", function()
      exec "BEGIN IMMEDIATE"
      exec "INSERT INTO t VALUES (3, 30)"
      assert.equal("CONSTRAINT", (select(3, db:exec "INSERT INTO t VALUES (5, 50), (4, 10)")))
      assert.is_true(db:in_transaction())
      exec "INSERT INTO t VALUES (4, 40)"
      exec "COMMIT"
      assert.same({ 1, 2, 3, 4 }, column "SELECT id FROM t ORDER BY id")
    end)

    it("end by themselves where the SQL says so", function()
      exec "BEGIN IMMEDIATE"
      assert.equal("CONSTRAINT", (select(3, db:exec "INSERT OR ROLLBACK INTO t VALUES (3, 10)")))
      assert.is_false(db:in_transaction())
    end)

    it("commit and roll back while a query is running", function()
      for _, ending in ipairs { "COMMIT", "ROLLBACK" } do
        exec "BEGIN IMMEDIATE"
        local next_row, _, _, rows = assert(db:rows "SELECT id FROM t ORDER BY id")
        assert.equal(1, next_row())
        exec("INSERT OR REPLACE INTO t VALUES (3, 30)")
        exec(ending)
        assert.is_false(db:in_transaction())
        assert.equal(2, next_row())
        rows:close()
      end
    end)

    it("commit only after a RETURNING statement has ended", function()
      exec "BEGIN IMMEDIATE"
      local next_row, _, _, rows = assert(db:rows "INSERT INTO t VALUES (3, 30), (4, 40) RETURNING id")
      assert.equal(3, next_row())
      local result, message, code = db:exec "COMMIT"
      assert.same({ nil, "BUSY" }, { result, code })
      assert.truthy(message:find("SQL statements in progress", 1, true))
      rows:close()
      exec "COMMIT"
      assert.same({ 1, 2, 3, 4 }, column "SELECT id FROM t ORDER BY id")
    end)

    it("of one RETURNING statement commit when its rows end or close, which may raise", function()
      exec "PRAGMA foreign_keys = ON"
      exec "CREATE TABLE child (id REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)"
      local insert = "INSERT INTO child VALUES (?1), (?1) RETURNING id"
      local _, _, _, rows = assert(db:rows(insert, 1))
      assert.is_true(db:in_transaction())
      rows:close()
      assert.is_false(db:in_transaction())
      assert.equal(2, first "SELECT count(*) FROM child")
      _, _, _, rows = assert(db:rows(insert, 99))
      raises("FOREIGN KEY constraint failed %(CONSTRAINT%)", rows.close, rows)
      rows:close()
      raises("FOREIGN KEY constraint failed %(CONSTRAINT%)", column, insert, 99)
      assert.equal(2, first "SELECT count(*) FROM child")
    end)
  end)

  describe("the statement cache", function()
    local has_stmt

    before_each(function()
      has_stmt = db:exec "SELECT 1 FROM sqlite_stmt"
    end)

    it("keeps statements of any layout for the next use", function()
      if not has_stmt then
        pending "this SQLite has no sqlite_stmt"
        return
      end
      count_statements()
      for _, sql in ipairs { "SELECT 21", "SELECT 22;", "\n  SELECT 23\n  ;\n", "SELECT 24 ; ; " } do
        local before = count_statements()
        for _ = 1, 5 do
          exec(sql)
        end
        assert.equal(before + 1, count_statements())
      end
      assert.equal(22, first "SELECT 22")
    end)

    it("is bounded and right beyond its bound", function()
      for round = 1, 2 do
        for i = 1, 200 do
          assert.same({ i, round }, { first(("SELECT %d, ?"):format(i), round) })
        end
      end
      if has_stmt then
        assert.is_true(count_statements() <= 65)
      end
    end)

    it("drops what was used longest ago", function()
      if not has_stmt then
        pending "this SQLite has no sqlite_stmt"
        return
      end
      for i = 1, 200 do
        exec "SELECT 'often'"
        exec(("SELECT 'once %d'"):format(i))
      end
      assert.equal(1, first "SELECT count(*) FROM sqlite_stmt WHERE sql = 'SELECT ''often'''")
      assert.equal(200, first "SELECT run FROM sqlite_stmt WHERE sql = 'SELECT ''often'''")
      assert.equal(0, first "SELECT count(*) FROM sqlite_stmt WHERE sql = 'SELECT ''once 1'''")
    end)

    it("is bounded with many iterators of one SQL, and after errors", function()
      local all = {}
      for i = 1, 100 do
        all[i] = table.pack(assert(db:rows "SELECT 1"))
      end
      for i = 1, 100 do
        all[i][4]:close()
        assert.is_nil(db:exec("SELECT abs(?)", math.mininteger))
        assert.is_nil(db:exec("SELECT * FROM missing" .. i))
        assert.is_false(pcall(db.exec, db, "SELECT 1; SELECT " .. i))
        assert.is_false(pcall(db.exec, db, "SELECT ?, " .. i))
      end
      if has_stmt then
        assert.is_true(count_statements() <= 65)
      end
    end)

    it("takes no text for another that it ends inside of", function()
      exec "CREATE TABLE t AS SELECT 1 AS a"
      exec "CREATE TABLE \"t\u{FEFF}\" AS SELECT 2 AS a"
      for _, pair in ipairs {
        { "SELECT 1 -- a", 1, "SELECT 1 -- a /*\n + 1 -- */", 2 },
        { "SELECT 10 /* a", 10, "SELECT 10 /* a -- */ + 1 \n", 11 },
        { "SELECT a FROM t", 1, "SELECT a FROM t\u{FEFF}", 2 },
      } do
        assert.equal(pair[2], first(pair[1]))
        assert.equal(pair[4], first(pair[3]))
      end
    end)

    it("gives the prefix of another statement for that one only", function()
      assert.equal(1, first "SELECT 1")
      assert.equal(11, first "SELECT 11")
      assert.equal(2, first "SELECT 1+1")
      raises("more follows", db.exec, db, "SELECT 1; SELECT 2")
      raises("more follows", db.exec, db, "SELECT 1; PRAGMA foreign_keys = 1") -- which SQLite does already as it prepares it
      assert.equal(0, first "PRAGMA foreign_keys")
      for _, rest in ipairs { "", ";", " ; -- x", "; /* x */ ;\n--\n\u{FEFF} ", "/* x", "--" } do
        assert.equal(5, first("SELECT 5" .. rest))
        assert.equal(5, first("SELECT 5" .. rest))
        raises("more follows", db.exec, db, "SELECT 5;" .. rest .. "\n*/ x")
      end
    end)
  end)

  describe("a handle", function()
    it("closes twice and raises afterwards", function()
      db:close()
      db:close()
      for _, name in ipairs { "exec", "rows", "in_transaction", "guard", "rollback" } do
        raises("closed database", db[name], db, "SELECT 1")
      end
      raises("calling 'exec' on bad self %(closed database%)", function()
        db:exec "SELECT 1"
      end)
      for _, value in ipairs { 1, "x", {}, io.stdout } do
        raises("database expected, got", db.exec, value, "SELECT 1")
        raises("database expected, got", db.close, value)
      end
    end)

    it("can be the first element of a table that has the module's exec and rows as methods", function()
      local object = { db, exec = sqlite.exec, rows = sqlite.rows }
      assert.equal(0, object:exec "CREATE TABLE t (id)")
      assert.equal(1, object:exec("INSERT INTO t VALUES (?)", 5))
      assert.equal(5, (object:rows "SELECT id FROM t")())
      for _, value in ipairs { {}, { 1 }, { object } } do
        raises("database expected, got table that has none at %[1%]", sqlite.exec, value, "SELECT 1")
      end
      raises("database expected, got userdata", sqlite.exec, { io.stdout }, "SELECT 1")
    end)

    it("that is guarded commits nothing, and runs nothing outside of a transaction", function()
      exec "CREATE TABLE t (id)"
      exec "BEGIN"
      db:guard(true)
      exec "INSERT INTO t VALUES (1)"
      raises("only who began this transaction may COMMIT or ROLLBACK", db.exec, db, "COMMIT")
      raises("the transaction has ended", db.exec, db, "INSERT INTO t VALUES (2)")
      raises("the transaction has ended", db.rows, db, "INSERT INTO t VALUES (2) RETURNING id")
      assert.is_false(db:in_transaction())
      db:guard(false)
      assert.equal(0, first "SELECT count(*) FROM t")
      exec "BEGIN"
      db:guard(true)
      exec "INSERT INTO t VALUES (3)"
      db:guard(false)
      exec "COMMIT"
      assert.equal(1, first "SELECT count(*) FROM t")
    end)

    it("rolls back also what is guarded", function()
      exec "CREATE TABLE t (id)"
      assert.same({ true }, { db:rollback() }) -- nothing is open
      exec "BEGIN"
      db:guard(true)
      exec "INSERT INTO t VALUES (1)"
      assert.same({ true }, { db:rollback() })
      assert.is_false(db:in_transaction())
      assert.equal(0, first "SELECT count(*) FROM t") -- and the guard is off
      exec "BEGIN"
      exec "COMMIT"
    end)

    it("closes under running iterators", function()
      exec "CREATE TABLE t (id)"
      exec "INSERT INTO t VALUES (1), (2)"
      local next_row, _, _, rows = assert(db:rows "SELECT id FROM t")
      local waiting = assert(db:rows "SELECT id FROM t")
      assert.equal(1, next_row())
      db:close()
      raises("these rows or their database are closed", next_row)
      raises("these rows or their database are closed", waiting)
      rows:close()
      next_row, rows, waiting = nil, nil, nil -- luacheck: ignore
      collectgarbage()
      db = assert(sqlite.open(path))
      raises("these rows or their database are closed", function()
        for _ in assert(db:rows "SELECT id FROM t") do
          db:close()
        end
      end)
      db = assert(sqlite.open(path))
      assert.equal(2, first "SELECT count(*) FROM t")
    end)

    it("rolls back an open transaction when it closes", function()
      exec "CREATE TABLE t (id)"
      exec "BEGIN IMMEDIATE"
      exec "INSERT INTO t VALUES (1)"
      db:close()
      db = assert(sqlite.open(path))
      assert.equal(0, first "SELECT count(*) FROM t")
    end)

    it("is kept by its iterators, closed by the collector", function()
      local function descriptors()
        local pipe = io.popen "ls -l /proc/$PPID/fd"
        local _, count = pipe:read("a"):gsub(path:gsub("%p", "%%%0"), "")
        pipe:close()
        return count
      end
      db:close()
      assert.equal(0, descriptors())
      local next_row = assert(assert(sqlite.open(path)):rows "SELECT column1 FROM (VALUES (1), (2))")
      collectgarbage()
      assert.equal(1, next_row())
      assert.is_true(descriptors() > 0)
      next_row = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.equal(0, descriptors())
    end)

    it("may be used and closed by finalizers at any moment", function()
      -- in a process of its own, whose heap is small: here it would be long before the collector comes round
      local ok, output = sandbox.lua([[
        local sqlite = require "tidemark.sqlite"
        local path = ...
        local function raises(text, f)
          local returned, message = pcall(f)
          assert(not returned and message:find(text, 1, true), message)
        end
        local columns = ("hex(zeroblob(20000)),"):rep(20) .. "1"
        local query_rows = "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c) SELECT i," .. columns .. " FROM c"
        for _ = 1, 20 do
          local handle = assert(sqlite.open(path))
          raises("these rows or their database are closed", function()
            local iterator = assert(handle:rows(query_rows))
            setmetatable({}, { __gc = function() handle:close() end })
            for _ in iterator do end
          end)
          raises("closed database", function()
            handle = assert(sqlite.open(path))
            setmetatable({}, { __gc = function() handle:close() end })
            while true do
              assert(handle:rows "SELECT 1")
            end
          end)
        end
        local db = assert(sqlite.open(path))
        for i = 1, 2000 do
          assert(db:rows "SELECT 1") -- reset by the collector, maybe while the next message is made
          local _, message = db:exec("SELECT * FROM missing" .. i)
          assert(message == ("%s: no such table: missing%d"):format(path, i), message)
        end
        print "done"
      ]], path)
      assert.same({ true, "done\n" }, { ok, output })
    end)

    it("and its iterators end with the interpreter in any order", function()
      local ok, output = sandbox.lua([[
        local sqlite = require "tidemark.sqlite"
        db = assert(sqlite.open(...))
        iterators = {}
        for i = 1, 50 do
          iterators[i] = table.pack(assert(db:rows "SELECT 1"))
          dropped = assert(assert(sqlite.open(...)):rows "SELECT 1")
        end
        print "done"
      ]], path)
      assert.same({ true, "done\n" }, { ok, output })
    end)

    it("closes with its scope", function()
      if is_lua53 then
        pending "<close> came with Lua 5.4"
        return
      end
      local kept = assert(load([[local handle <close> = ...; return handle]]))(assert(sqlite.open(path)))
      raises("closed database", kept.exec, kept, "SELECT 1")
    end)
  end)
end)
