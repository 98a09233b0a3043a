--- tidemark.sqlite: values, statements, iterators. Transactions and handles: sqlite_connection_spec.lua; files: sqlite_file_spec.lua.

local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local sqlite = require "tidemark.sqlite"

local is_lua53 = _VERSION == "Lua 5.3"
local raises = query.raises

describe("SQLite", function()
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

  describe("values", function()
    it("keep 64-bit integers whole and integers", function()
      for _, integer in ipairs { 0, -1, 1, 1 << 31, (1 << 53) + 1, -(1 << 53) - 1, math.maxinteger, math.mininteger } do
        local value, kind, text = first("SELECT ?1, typeof(?1), CAST(?1 AS TEXT)", integer)
        assert.equal(integer, value)
        assert.equal("integer", math.type(value))
        assert.equal("integer", kind)
        assert.equal(("%d"):format(integer), text)
      end
    end)

    it("keep floats whole and floats", function()
      for _, float in ipairs { 0.0, 0.1, -1.5, 3.0, 2.0 ^ 53, 5e-324, 1.7976931348623157e308, math.huge, -math.huge } do
        local value, kind = first("SELECT ?1, typeof(?1)", float)
        assert.equal(float, value)
        assert.equal("float", math.type(value))
        assert.equal("real", kind)
      end
    end)

    it("keep strings and blobs whole, whatever their bytes and size", function()
      local all = {}
      for byte = 0, 255 do
        all[#all + 1] = string.char(byte)
      end
      all = table.concat(all)
      exec "CREATE TABLE t (id INTEGER PRIMARY KEY, text, blob)"
      local strings = { "", "\0", "a\0b", "\0\0\0", "naïve", all, (all:rep(1 << 16)) }
      for id, bytes in ipairs(strings) do
        exec("INSERT INTO t VALUES (?, ?, ?)", id, bytes, sqlite.blob(bytes))
      end
      assert.equal(16 << 20, #strings[#strings])
      for id, text, blob in assert(db:rows "SELECT * FROM t ORDER BY id") do
        assert.is_true(text == strings[id])
        assert.is_true(blob == strings[id])
      end
      for _, text_type, blob_type in assert(db:rows "SELECT id, typeof(text), typeof(blob) FROM t") do
        assert.same({ "text", "blob" }, { text_type, blob_type })
      end
      assert.same({ 6 }, column("SELECT id FROM t WHERE text = ? AND blob = ?", all, sqlite.blob(all)))
      assert.equal(3, first("SELECT length(blob) FROM t WHERE id = 3"))
      assert.is_true(strings[7] == first("SELECT ?", strings[7]))
    end)

    it("are NULL, booleans as 0 and 1", function()
      assert.same({ 1, nil, 1 }, { first("SELECT 1, ?1, ?1 IS NULL", nil) })
      assert.same({ 1, 0, "integer" }, { first("SELECT ?1, ?2, typeof(?1)", true, false) })
    end)

    it("of other types raise, and NaN, which SQLite would make NULL", function()
      for _, value in ipairs { {}, print, coroutine.create(print), io.stdout, db } do
        raises("bad argument #4 to .*nil, boolean, number, string or blob expected, got " .. type(value), function()
          db.exec(db, "SELECT ?, ?", 1, value)
        end)
      end
      raises("NaN cannot be stored", db.exec, db, "SELECT ?", 0 / 0)
      raises("NaN cannot be stored", db.rows, db, "SELECT ?", -(0 / 0))
      raises("string expected, got number", sqlite.blob, 5)
      raises("string expected, got no value", sqlite.blob)
    end)

    it("of iterators stay while the iterator runs", function()
      for i = 1, 3 do
        local rounds = 0
        for text in assert(db:rows("SELECT ?1 FROM (VALUES (1), (2), (3)) WHERE ?1 <> 'x'", ("long"):rep(1000) .. i)) do
          assert.equal(("long"):rep(1000) .. i, text)
          text = nil -- luacheck: ignore
          collectgarbage()
          for _ = 1, 20 do
            local _ = ("fill"):rep(1000) .. math.random() -- takes the place of what was freed
          end
          rounds = rounds + 1
        end
        assert.equal(3, rounds)
      end
    end)

    it("of an idle statement are freed", function()
      if not db:exec "SELECT 1 FROM sqlite_stmt" then
        pending "this SQLite has no sqlite_stmt"
        return
      end
      assert.equal(1 << 20, first("SELECT length(?)", ("x"):rep(1 << 20)))
      assert.is_true(first "SELECT mem FROM sqlite_stmt WHERE sql LIKE 'SELECT length%'" < 100000)
    end)

    it("may be many", function()
      local values, marks = {}, {}
      for i = 1, 1900 do
        values[i], marks[i] = i, "?"
      end
      local next_row = assert(db:rows("SELECT " .. table.concat(marks, ","), table.unpack(values)))
      local got = coroutine.wrap(function() -- with a small stack
        return table.pack(next_row())
      end)()
      assert.equal(1900, got.n)
      assert.same(values, { table.unpack(got) })
    end)
  end)

  describe("exec", function()
    before_each(function()
      exec "CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE NOT NULL)"
    end)

    it("tells how many rows the statement changed", function()
      assert.equal(3, exec "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
      assert.equal(0, exec "SELECT * FROM t")
      assert.equal(0, exec "CREATE TABLE other (x)")
      assert.equal(0, exec "BEGIN")
      assert.equal(2, exec("UPDATE t SET x = x + 1 WHERE id > ?", 1))
      assert.equal(0, exec "UPDATE t SET x = 0 WHERE id > 10")
      assert.equal(0, exec "COMMIT")
      assert.equal(3, exec "DELETE FROM t")
    end)

    it("leaves out what triggers changed", function()
      exec "CREATE TABLE log (x)"
      exec "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1), (2); END"
      assert.equal(1, exec "INSERT INTO t VALUES (1, 10)")
      assert.equal(2, first "SELECT count(*) FROM log")
    end)

    it("runs a statement that gives rows to its end", function()
      assert.equal(2, exec "INSERT INTO t VALUES (1, 10), (2, 20) RETURNING id")
      assert.same({ 1, 2 }, column "SELECT id FROM t")
    end)

    it("answers nil, message with the file, code", function()
      exec "INSERT INTO t VALUES (1, 10)"
      local function failure(sql, ...)
        local result, message, code = db:exec(sql, ...)
        assert.is_nil(result)
        assert.equal(path .. ": ", message:sub(1, #path + 2))
        return code .. " " .. message:sub(#path + 3)
      end
      assert.equal("CONSTRAINT UNIQUE constraint failed: t.x", failure "INSERT INTO t VALUES (2, 10)")
      assert.equal("CONSTRAINT NOT NULL constraint failed: t.x", failure("INSERT INTO t VALUES (2, ?)", nil))
      assert.equal("ERROR no such table: u", failure "SELECT * FROM u")
      assert.equal('ERROR near "SELEKT": syntax error', failure "SELEKT 1")
      assert.equal("ERROR incomplete input", failure "SELECT")
      assert.equal("ERROR integer overflow", failure("SELECT abs(?)", math.mininteger))
      assert.equal("MISMATCH datatype mismatch", failure "INSERT INTO t VALUES ('one', 1)")
      assert.equal("TOOBIG string or blob too big", failure "SELECT zeroblob(1000000001)")
      assert.equal("ERROR cannot commit - no transaction is active", failure "COMMIT")
      assert.same({ 1 }, column "SELECT id FROM t")
    end)

    it("takes exactly one statement", function()
      for _, more in ipairs { "INSERT INTO t VALUES (2, 2)", "garbage", "'", "; SELECT 1", "\0", ")" } do
        raises(more == "\0" and "zero byte" or "one SQL statement expected, more follows", function()
          db:exec("INSERT INTO t VALUES (1, 1); " .. more)
        end)
      end
      for _, empty in ipairs { "", " ", ";", " ;; \n", "-- comment", "/* comment */" } do
        raises("bad argument #1 to 'exec' %(no SQL statement in it%)", function()
          db:exec(empty)
        end)
        raises("no SQL statement in it", db.rows, db, empty)
      end
      raises("string expected, got number", db.exec, db, 1)
      raises("string expected, got no value", db.rows, db)
      assert.equal(0, first "SELECT count(*) FROM t")
      for _, ending in ipairs { "", ";", " ;\n\t; ", "; -- comment", "; /* comment */ ;" } do
        assert.equal(1, exec("INSERT INTO t (x) VALUES (random())" .. ending))
      end
      assert.equal(5, first "SELECT count(*) FROM t")
    end)

    it("takes as many values as the SQL has parameters", function()
      raises("bad argument #2 to 'exec' %(2 SQL parameters to bind, got 0 values%)", function()
        db:exec "INSERT INTO t VALUES (?, ?)"
      end)
      raises("bad argument #3 to 'exec' %(2 SQL parameters to bind, got 1 values%)", function()
        db:exec("INSERT INTO t VALUES (?, ?)", 1)
      end)
      raises("bad argument #4 to 'rows' %(2 SQL parameters to bind, got 4 values%)", function()
        db:rows("INSERT INTO t VALUES (?, ?)", 1, 2, nil, nil)
      end)
      assert.equal(0, first "SELECT count(*) FROM t")
      assert.equal(1, exec("INSERT INTO t VALUES (:id, @x)", 7, 8)) -- by position
      assert.same({ 7, 8 }, { first "SELECT * FROM t" })
    end)
  end)

  describe("rows", function()
    before_each(function()
      exec "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"
      exec "INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, 'three')"
    end)

    it("give the values of each row", function()
      local got = {}
      for id, x in assert(db:rows("SELECT id, x FROM t WHERE id >= ? ORDER BY id DESC", 1)) do
        got[#got + 1] = id .. tostring(x)
      end
      assert.same({ "3three", "2nil", "1one" }, got)
      assert.same({}, column "SELECT id FROM t WHERE id > 5")
      assert.same({}, column "INSERT INTO t VALUES (9, 9)")
      assert.equal(9, first "SELECT x FROM t WHERE id = 9")
    end)

    it("refuse a NULL in the first column, which would end the loop unseen", function()
      raises("the first column is NULL", column, "SELECT x FROM t ORDER BY id")
    end)

    it("answer nil, message, code up to the first row and raise after it", function()
      local result, message, code = db:rows "SELECT * FROM u"
      assert.same({ path .. ": no such table: u", "ERROR" }, { message, code })
      assert.is_nil(result)
      local sql = "SELECT abs(column1) FROM (VALUES (%s))"
      assert.same({ path .. ": integer overflow", "ERROR" }, { select(2, db:rows(sql:format "-9223372036854775807 - 1")) })
      local got = {}
      raises("test%.db: integer overflow %(ERROR%)", function()
        for x in assert(db:rows(sql:format "1), (2), (-9223372036854775807 - 1), (4")) do
          got[#got + 1] = x
        end
      end)
      assert.same({ 1, 2 }, got)
      assert.equal(0, exec "DROP TABLE t") -- LOCKED if a statement were running
    end)

    it("nest, also with the same SQL", function()
      local pairs_of_ids = {}
      for a in assert(db:rows "SELECT id FROM t ORDER BY id") do
        for b in assert(db:rows "SELECT id FROM t ORDER BY id") do
          pairs_of_ids[#pairs_of_ids + 1] = a * 10 + b
        end
      end
      assert.same({ 11, 12, 13, 21, 22, 23, 31, 32, 33 }, pairs_of_ids)
    end)

    it("stay ended", function()
      local next_row = assert(db:rows "SELECT id FROM t WHERE id = 1")
      assert.equal(1, next_row())
      assert.is_nil(next_row())
      assert.is_nil(next_row())
    end)

    it("end with close, also before the first row", function()
      for taken = 0, 2 do
        local next_row, _, _, rows = assert(db:rows "SELECT id FROM t")
        for _ = 1, taken do
          next_row()
        end
        local result, _, code = db:exec "DROP TABLE t"
        assert.same({ nil, "LOCKED" }, { result, code })
        rows:close()
        rows:close()
        raises("these rows or their database are closed", next_row)
      end
      assert.equal(0, exec "DROP TABLE t")
    end)

    it("end with a loop that is left by break, return or error", function()
      if is_lua53 then
        pending "closing values came with Lua 5.4"
        return
      end
      local function leave(how)
        for id in assert(db:rows "SELECT id FROM t") do
          if how == "break" then
            break
          elseif how == "return" then
            return id
          end
          error "left"
        end
      end
      for _, how in ipairs { "break", "return", "error" } do
        pcall(leave, how)
        assert.equal(0, exec "DROP TABLE IF EXISTS t")
        exec "CREATE TABLE t (id)"
        exec "INSERT INTO t VALUES (1), (2)"
      end
    end)

    it("end with the collector at the latest", function()
      local next_row = assert(db:rows "SELECT id FROM t")
      assert.equal(1, next_row())
      assert.equal("LOCKED", (select(3, db:exec "DROP TABLE t")))
      next_row = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.equal(0, exec "DROP TABLE t")
    end)

    it("run in coroutines", function()
      local walk = coroutine.wrap(function()
        for id in assert(db:rows "SELECT id FROM t ORDER BY id") do
          coroutine.yield(id)
        end
      end)
      assert.equal(1, walk())
      assert.same({ 1, 2, 3 }, column "SELECT id FROM t ORDER BY id")
      assert.equal(2, walk())
    end)

    it("see a changed table", function()
      local sql = "SELECT * FROM t WHERE id = 3"
      assert.same({ 3, "three" }, { first(sql) })
      exec "ALTER TABLE t ADD COLUMN y DEFAULT 'new'"
      assert.same({ 3, "three", "new" }, { first(sql) })
    end)

    it("may be a million in little memory", function()
      local function resident()
        for line in io.lines "/proc/self/status" do
          local kilobytes = line:match "^VmRSS:%s*(%d+)"
          if kilobytes then
            return tonumber(kilobytes)
          end
        end
      end
      collectgarbage()
      local before, sum = resident(), 0
      for i in assert(db:rows(
        "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < ?) SELECT i FROM c", 1000000)) do
        sum = sum + i
      end
      assert.equal(500000500000, sum)
      if not os.getenv "LD_PRELOAD" then -- AddressSanitizer keeps freed memory for a while
        assert.is_true(resident() - before < 16384)
      end
    end)
  end)
end)
