--- tidemark.sqlite: opening files, and what locks, disks and damage do.

local markdown = require "spec.support.markdown"
local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local sqlite = require "tidemark.sqlite"

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"
local exists, run, write = shell.exists, shell.run, shell.write
local first, raises = query.first, query.raises

-- POSIX locks vanish when any descriptor of the file is closed: only for files that are not open here.
local read = markdown.read

describe("an SQLite file", function()
  local directory, path, opened

  local function open(name, opts)
    local db, message, code = sqlite.open(name, opts)
    opened[#opened + 1] = db
    return db, message, code
  end

  local function failure(...)
    local result, message, code = open(...)
    assert.is_nil(result)
    return code, message
  end

  before_each(function()
    directory, opened = sandbox.tempdir(), {}
    path = directory .. "/test.db"
  end)
  after_each(function()
    for _, db in ipairs(opened) do
      db:close()
    end
  end)
  teardown(sandbox.cleanup)

  -- A closed database with n rows of 1000 bytes.
  local function fill(n)
    local db = assert(open(path))
    assert(db:exec "CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    for _ = 1, n do
      assert(db:exec("INSERT INTO t (x) VALUES (?)", ("x"):rep(1000)))
    end
    db:close()
  end

  -- Runs Lua source, given the directory, after shell commands in the same shell.
  local function run_after(commands, source)
    write(directory .. "/script.lua", source)
    return run(("%s && exec %s '%s/script.lua' '%s'"):format(commands, lua, directory, directory))
  end

  describe("when it is opened", function()
    it("is made, with WAL and full synchronisation", function()
      local db = assert(open(path))
      assert.equal("wal", first(db, "PRAGMA journal_mode"))
      assert.equal(2, first(db, "PRAGMA synchronous"))
      db:close()
      db = assert(open(path, { create = false }))
      assert.equal("wal", first(db, "PRAGMA journal_mode"))
      assert.equal(2, first(db, "PRAGMA synchronous"))
    end)

    it("is not made where that is not wanted", function()
      for _, opts in ipairs { { create = false }, { readonly = true }, { readonly = true, create = true } } do
        local code, message = failure(path, opts)
        assert.equal("NOT_FOUND", code)
        assert.equal(path .. ": unable to open database file: No such file or directory", message)
        assert.is_false(exists(path))
      end
      assert(open(path, { create = true }))
      assert.is_true(exists(path))
      assert.equal("NOT_FOUND", (failure(directory .. "/missing/test.db")))
    end)

    it("is never a database in memory or a temporary one", function()
      raises("bad argument #1 to .*path is empty or has a zero byte", sqlite.open, "")
      raises("path is empty or has a zero byte", sqlite.open, "a\0b")
      raises("a database in memory is not offered", sqlite.open, ":memory:")
      raises("string expected, got no value", sqlite.open)
      raises("string expected, got number", sqlite.open, 5)
      local ok, output = run_after("true", [[
        local sqlite = require "tidemark.sqlite"
        assert(require("luv").chdir(...))
        for _, name in ipairs { "file:test.db?mode=memory", "file::memory:", ":memory", "test db" } do
          local db = assert(sqlite.open(name))
          assert(db:exec "CREATE TABLE t (x)")
          db:close()
          assert(io.open(name, "rb"), name):close()
        end
      ]])
      assert(ok, output)
    end)

    it("may have a name that is no name of a database", function()
      assert.equal("CANTOPEN", (failure(directory)))
      assert.equal("CANTOPEN", (failure(directory .. "/" .. ("x"):rep(5000))))
      local _, message = failure(directory)
      assert.truthy(message:find("Is a directory", 1, true))
    end)

    it("takes known options of the right type", function()
      raises("bad argument #2 to .*no such option: 'read_only'", sqlite.open, path, { read_only = true })
      raises("no such option: 'number'", sqlite.open, path, { true })
      raises("option 'readonly' must be a boolean", sqlite.open, path, { readonly = 1 })
      raises("option 'create' must be a boolean", sqlite.open, path, { create = "no" })
      for _, timeout in ipairs { -1, 0 / 0, math.huge, 2147484, "5", true } do
        raises("option 'busy_timeout' must be a number of seconds", sqlite.open, path, { busy_timeout = timeout })
      end
      raises("table expected, got boolean", sqlite.open, path, true)
      assert.is_false(exists(path))
      local db = assert(open(path, { busy_timeout = 1.5 }))
      assert.equal(1500, first(db, "PRAGMA busy_timeout"))
      assert.equal(5000, first(assert(open(path)), "PRAGMA busy_timeout"))
    end)

    it("answers NOTADB for something else and leaves it as it is", function()
      for _, bytes in ipairs { "hello", ("x"):rep(4096), "SQLite format 3\0" .. ("\255"):rep(4080) } do
        write(path, bytes)
        for _, opts in ipairs { {}, { create = false }, { readonly = true } } do
          local code, message = failure(path, opts)
          assert.equal("NOTADB " .. path .. ": file is not a database", code .. " " .. message)
          assert.equal(bytes, read(path))
          assert.is_false(exists(path .. "-wal"))
        end
      end
    end)

    it("must hold UTF-8, since UTF-16 would change strings", function()
      local db = assert(open(path))
      assert(db:exec "PRAGMA encoding = 'UTF-16le'")
      assert(db:exec "CREATE TABLE t (x)")
      db:close()
      for _, opts in ipairs { {}, { readonly = true } } do
        local code, message = failure(path, opts)
        assert.equal("UNSUPPORTED", code)
        assert.truthy(message:find("PRAGMA encoding: 'UTF-16le', must be 'UTF-8'", 1, true))
      end
    end)

    it("must allow WAL", function()
      if build:find "asan" then
        pending "the shim is not for sanitizers"
        return
      end
      -- a default VFS without shared memory
      write(directory .. "/shim.c", [[
        #include <sqlite3.h>
        __attribute__((constructor)) static void shim(void) {
            sqlite3_initialize();
            sqlite3_vfs_register(sqlite3_vfs_find("unix-none"), 1);
        }
      ]])
      local compile = ("cd '%s' && cc -shared -fPIC shim.c -o shim.so $(pkg-config --cflags --libs sqlite3) && cd -"):format(directory)
      local ok, output = run_after(compile .. " >/dev/null", [[
        assert(package.loadlib(... .. "/shim.so", "*"))
        print(require("tidemark.sqlite").open(... .. "/test.db"))
      ]])
      assert(ok, output)
      assert.truthy(output:find("^nil\t.*PRAGMA journal_mode = WAL: 'delete', must be 'wal'\tUNSUPPORTED\n$"), output)
    end)

    it("opens in many processes at once", function()
      local script = [[
        local sqlite, directory = require "tidemark.sqlite", ...
        io.stdout:setvbuf "line"
        print "ready"
        io.read()
        for i = 1, 40 do
          local db = assert(sqlite.open(("%s/%d.db"):format(directory, i), {busy_timeout = 60}))
          assert(db:exec "CREATE TABLE IF NOT EXISTS t (x)")
          assert(db:exec "INSERT INTO t VALUES (1)")
          db:close()
        end
        print "done"
      ]]
      local children = {}
      for i = 1, 4 do
        children[i] = sandbox.start(script, directory)
        assert.equal("ready", children[i]:read_line())
      end
      for _, child in ipairs(children) do
        child:write "go"
      end
      for _, child in ipairs(children) do
        assert.equal("done", child:read_line())
        assert.is_true(child:wait())
      end
      for i = 1, 40 do
        local db = assert(open(("%s/%d.db"):format(directory, i)))
        assert.equal(4, first(db, "SELECT count(*) FROM t"))
        db:close()
      end
    end)
  end)

  describe("for reading", function()
    it("shows what others write and changes nothing", function()
      fill(3)
      local reader = assert(open(path, { readonly = true }))
      local writer = assert(open(path))
      assert.equal(3, first(reader, "SELECT count(*) FROM t"))
      for _, sql in ipairs { "INSERT INTO t VALUES (9, 9)", "DELETE FROM t", "DROP TABLE t", "CREATE TABLE u (x)" } do
        local result, message, code = reader:exec(sql)
        assert.same({ path .. ": attempt to write a readonly database", "READONLY" }, { message, code })
        assert.is_nil(result)
      end
      assert(writer:exec "INSERT INTO t VALUES (4, 4)")
      assert.equal(4, first(reader, "SELECT count(*) FROM t"))
    end)
  end)

  describe("that is busy", function()
    it("answers BUSY at once with a timeout of 0", function()
      local one, two = assert(open(path)), assert(open(path, { busy_timeout = 0 }))
      assert(one:exec "CREATE TABLE t (x)")
      assert(one:exec "BEGIN IMMEDIATE")
      local result, message, code = two:exec "BEGIN IMMEDIATE"
      assert.same({ path .. ": database is locked", "BUSY" }, { message, code })
      assert.is_nil(result)
      assert.is_false(two:in_transaction())
      assert.equal("BUSY", (select(3, two:rows "INSERT INTO t VALUES (1) RETURNING x")))
      assert.equal(0, first(two, "SELECT count(*) FROM t")) -- readers go on
      assert(one:exec "COMMIT")
      assert(two:exec "BEGIN IMMEDIATE")
      assert(two:exec "COMMIT")
    end)

    it("waits for the other with a timeout", function()
      local db = assert(open(path, { busy_timeout = 60 }))
      local child = sandbox.start([[
        local db = assert(require("tidemark.sqlite").open(...))
        assert(db:exec "BEGIN IMMEDIATE")
        assert(db:exec "CREATE TABLE t (x)")
        print "locked"
        io.stdout:flush()
        require("luv").sleep(200)
        assert(db:exec "COMMIT")
      ]], path)
      assert.equal("locked", child:read_line())
      assert(db:exec "BEGIN IMMEDIATE")
      assert.equal(0, first(db, "SELECT count(*) FROM t"))
      assert.is_true(child:wait())
    end)

    it("answers BUSY when it cannot be turned to WAL", function()
      local db = assert(open(path))
      assert(db:exec "PRAGMA journal_mode = DELETE")
      assert(db:exec "BEGIN EXCLUSIVE")
      assert.equal("BUSY", (failure(path, { busy_timeout = 0 })))
      assert.equal("BUSY", (failure(path, { busy_timeout = 0.05 })))
    end)
  end)

  -- Each fault must leave what was committed before, whole, and a connection that tells whether its transaction is open.
  local FILL = [[
    local sqlite = require "tidemark.sqlite"
    local path = ... .. "/disk/test.db"
    local db = assert(sqlite.open(path))
    assert(db:exec "CREATE TABLE t (x)")
    assert(db:exec "INSERT INTO t VALUES ('kept')")
    local result, message, code
    assert(db:exec "BEGIN IMMEDIATE")
    repeat
      result, message, code = db:exec("INSERT INTO t VALUES (?)", sqlite.blob(("x"):rep(100000)))
      if result and not db:in_transaction() then
        error "the transaction ended unseen"
      end
      if result then
        result, message, code = db:exec "COMMIT"
        if result then assert(db:exec "BEGIN IMMEDIATE") end
      end
    until not result
    print(code, message:sub(#path + 3))
    if db:in_transaction() then assert(db:exec "ROLLBACK") end
    local count = 0
    for x in assert(db:rows "SELECT x FROM t") do
      assert(x == "kept" or x == ("x"):rep(100000))
      count = count + 1
    end
    assert(count > 1)
    db:close()
    db = assert(sqlite.open(path, {readonly = true}))
    for found, check in assert(db:rows "SELECT (SELECT count(*) FROM t), integrity_check FROM pragma_integrity_check") do
      assert(found == count and check == "ok", check)
    end
  ]]

  describe("on a disk with faults", function()
    it("answers FULL at the largest page count", function()
      fill(10)
      local db = assert(open(path))
      assert(db:exec "PRAGMA max_page_count = 20")
      assert(db:exec "BEGIN IMMEDIATE")
      assert(db:exec "INSERT INTO t (x) VALUES ('small')")
      local result, message, code = db:exec("INSERT INTO t (x) VALUES (zeroblob(1000000))")
      assert.same({ path .. ": database or disk is full", "FULL" }, { message, code })
      assert.is_nil(result)
      if db:in_transaction() then
        assert(db:exec "ROLLBACK")
      end
      assert.equal(10, first(db, "SELECT count(*) FROM t"))
    end)

    it("answers IO with the system's reason when a write fails", function()
      local limits = ("mkdir '%s/disk' && trap '' XFSZ && ulimit -f 2000"):format(directory)
      local ok, output = run_after(limits, FILL)
      assert(ok, output)
      assert.equal("IO\tdisk I/O error (SQLite's code 778)\n", output) -- SQLITE_IOERR_WRITE
    end)

    local can_mount = run "unshare --mount true"

    -- Runs Lua source in a mount namespace of its own with a disk of 2 MiB.
    local function run_mounted(source)
      if not can_mount then
        pending "needs root"
        return
      end
      write(directory .. "/script.lua", source)
      local mount = ("mount -t tmpfs -o size=2m tmpfs %s/disk"):format(directory)
      local commands = ("mkdir %s/disk && unshare --mount sh -c '%s && exec %s %s/script.lua %s'"):format(
        directory, mount, lua, directory, directory)
      return run(commands)
    end

    it("answers FULL when the disk is", function()
      local ok, output = run_mounted(FILL)
      assert(ok, output)
      assert.equal("FULL\tdatabase or disk is full\n", output)
    end)

    it("answers READONLY for a file that may only be read, rather than open it so", function()
      local ok, output = run_mounted([[
        local sqlite = require "tidemark.sqlite"
        local path = ... .. "/disk/test.db"
        local db = assert(sqlite.open(path))
        assert(db:exec "CREATE TABLE t (x)")
        db:close()
        assert(os.execute(("mount --bind %s %s && mount -o remount,ro,bind %s"):format(path, path, path)))
        print(sqlite.open(path))
        db = assert(sqlite.open(path, {readonly = true}))
        for n in db:rows "SELECT count(*) FROM t" do print(n) end
      ]])
      assert(ok, output)
      assert.truthy(output:find "^nil\t.*/test.db: attempt to write a readonly database\tREADONLY\n0\n$", output)
    end)

    it("answers CORRUPT for a damaged page", function()
      fill(100)
      local bytes = read(path)
      local sound = #bytes // 4096 // 2 * 4096
      write(path, bytes:sub(1, sound) .. ("\255"):rep(#bytes - sound))
      local db = assert(open(path))
      local result, message, code = db:exec "DELETE FROM t WHERE id > 95"
      assert.same({ path .. ": database disk image is malformed", "CORRUPT" }, { message, code })
      assert.is_nil(result)
      local last
      raises("test%.db: database disk image is malformed %(CORRUPT%)", function()
        for id in assert(db:rows "SELECT id FROM t") do
          last = id
        end
      end)
      assert.is_true(last > 10)
    end)
  end)
end)
