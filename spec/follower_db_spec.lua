--- FollowerDb: what a batch does to the database, opening, a Follower on it. What fn may do is in follower_db_fn_spec.lua; crashes,
--- several processes and full disks are in follower_db_crash_spec.lua.

local Follower = require "tidemark.follower"
local epochs = require "tidemark.epochs"
local FollowerDb = require "tidemark.follower_db"
local ReplicationState = require "tidemark.replication_state"
local fake = require "spec.support.fake_source"
local markdown = require "spec.support.markdown"
local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local sqlite = require "tidemark.sqlite"
local support = require "spec.support.follower_db"

local batch, insert, raises = support.batch, support.insert, query.raises

describe("FollowerDb", function()
  local path, db, opened

  local function open(shards, opts)
    local result, message, code = FollowerDb.open(path, shards or { 0, 1 }, opts)
    opened[#opened + 1] = result
    return result, message, code
  end

  local function reopen(shards, opts)
    db:close()
    db = assert(open(shards, opts))
  end

  before_each(function()
    path, opened = sandbox.tempdir() .. "/test.db", {}
    db = assert(open())
    support.create_table(db)
  end)
  after_each(function()
    for _, one in ipairs(opened) do
      one:close()
    end
  end)
  teardown(sandbox.cleanup)

  local function stands(effects, row, shard)
    support.stands(db, effects, row, shard)
  end

  local function apply(...)
    assert.same({ true }, { db:apply(...) })
  end

  local function refused(code, one)
    return support.refused(db, path, code, one, insert)
  end

  describe("with a batch", function()
    it("runs fn for each record in order, moves the row, then the mark", function()
      local seen = {}
      apply(batch(1, 3), function(given, record, seqno, shard)
        assert.same({ true, 0 }, { db == given, shard })
        assert.equal(0, db:state():applied_seqno(0))
        seen[#seen + 1] = seqno .. "=" .. record
        insert(given, record, seqno)
      end)
      assert.same({ "1=0/1", "2=0/2", "3=0/3" }, seen)
      stands("1 2 3", "3 1")
      apply(batch(4, 4), insert)
      stands("1 2 3 4", "4 1")
      stands("", nil, 1)
    end)

    it("keeps shards apart", function()
      apply(batch(1, 2, { shard = 1, epoch = 9 }), insert)
      apply(batch(1, 1), insert)
      stands("1 2", "2 9", 1)
      stands("1", "1 1", 0)
    end)

    it("looks at its own table, whatever temporary one has the name", function()
      apply(batch(1, 3), insert)
      assert(db:exec "CREATE TEMP TABLE tidemark_progress (shard INTEGER PRIMARY KEY, applied, epoch, log_id)")
      assert(db:exec "CREATE TEMP TABLE tidemark_epochs (shard, first_seqno, epoch)")
      assert.same({ 1, support.LOG }, { db:epoch(0, 2), db:log_id(0) })
      apply(batch(1, 3), insert)
      apply(batch(4, 4), insert)
      assert(db:exec "DROP TABLE temp.tidemark_progress")
      stands("1 2 3 4", "4 1")
    end)

    it("is not applied inside a loop of the caller's that writes", function()
      local next_row, _, _, rows = assert(db:rows "INSERT INTO effect VALUES (9, 1, 'x'), (9, 2, 'x') RETURNING seqno")
      assert.equal(1, next_row())
      raises("apply is called inside a transaction", db.apply, db, batch(1, 3), insert)
      rows:close()
      apply(batch(1, 3), insert)
      stands("1 2 3", "3 1")
      assert.equal("1 2", support.effects(db, 9))
    end)

    it("applies what is above the mark only, however the batches are cut", function()
      for _, cut in ipairs { { 1, 4 }, { 1, 4 }, { 2, 3 }, { 3, 6 }, { 1, 7 }, { 7, 7 }, { 1, 1 }, { 8, 9 }, { 1, 10 } } do
        apply(batch(cut[1], cut[2]), insert)
      end
      stands("1 2 3 4 5 6 7 8 9 10", "10 1")
    end)

    it("goes on from its row after it is opened again", function()
      apply(batch(1, 3, { epoch = 2 }), insert)
      reopen()
      assert.equal(3, db:state():applied_seqno(0))
      apply(batch(2, 5, { epoch = 2 }), insert)
      stands("1 2 3 4 5", "5 2")
    end)

    it("goes on up to the last seqno", function()
      assert(db:exec("INSERT INTO tidemark_progress VALUES (0, ?, ?, ?)", math.maxinteger - 2, 1 << 62, support.LOG))
      reopen()
      assert.equal(math.maxinteger - 2, db:state():applied_seqno(0))
      apply(batch(math.maxinteger - 2, math.maxinteger, { epoch = 1 << 62 }), insert)
      stands(("%d %d"):format(math.maxinteger - 1, math.maxinteger), math.maxinteger .. " 4611686018427387904")
    end)

    it("refuses one that does not continue the row, and changes nothing", function()
      apply(batch(1, 5, { epoch = 2 }), insert)
      reopen() -- what follows is judged by the row alone
      assert.equal("records 6..7 are missing: record 5 is the last one applied, record 8 came",
        refused("GAP", batch(8, 8, { epoch = 2 })))
      assert.equal("record 6 of log 00000001 came, this shard follows log fffffff0",
        refused("FOREIGN", batch(6, 6, { epoch = 2, log_id = 1 })))
      assert.truthy(refused("FOREIGN", batch(1, 5, { epoch = 2, log_id = 1 })):find "^records 1..5 of log")
      local function differs(seqno, epoch, one)
        local message = "record %d was applied under epoch %s, but in the log it is of epoch %s"
        assert.equal(message:format(seqno, epochs.text(2), epochs.text(epoch)), refused("DIVERGED", one))
      end
      differs(5, 1, batch(6, 7))
      differs(5, 3, batch(4, 5, { epoch = 3, prev_epoch = 2 }))
      differs(5, 3, batch(6, 7, { epoch = 4, prev_epoch = 3 }))
      differs(5, 3, batch(5, 7, { epoch = 3, prev_epoch = 2 }))
      differs(2, 1, batch(1, 2)) -- a duplicate
      apply(batch(1, 2, { epoch = 2 }), insert)
      stands("1 2 3 4 5", "5 2")
      apply(batch(6, 6, { epoch = 7, prev_epoch = 2 }), insert)
      stands("1 2 3 4 5 6", "6 7")
    end)

    it("refuses a first one that is not the beginning", function()
      refused("GAP", batch(2, 3))
      stands("", nil)
    end)

    it("refuses another log also in a shard of which it has nothing", function()
      apply(batch(1, 2), insert)
      assert.equal("record 1 of log 00000005 came, this shard follows log fffffff0",
        refused("FOREIGN", batch(1, 1, { shard = 1, log_id = 5 })))
      stands("", nil, 1)
    end)

    it("notes each epoch with its first record, and compares all that it knows", function()
      apply(batch(1, 4), insert)
      apply(batch(1, 6, { epoch = 1 }), insert) -- the same one goes on
      apply(batch(7, 8, { epoch = 3, prev_epoch = 1 }), insert)
      apply(batch(8, 9, { epoch = 3 }), insert)
      apply(batch(10, 10, { epoch = 1 << 62, prev_epoch = 3 }), insert)
      apply(batch(1, 1, { shard = 1, epoch = 3 }), insert)
      local noted = {}
      for shard, first_seqno, epoch in assert(db:rows "SELECT shard, first_seqno, epoch FROM tidemark_epochs ORDER BY 1, 2") do
        noted[#noted + 1] = ("%d %d %d"):format(shard, first_seqno, epoch)
      end
      assert.same({ "0 1 1", "0 7 3", "0 10 4611686018427387904", "1 1 3" }, noted)
      for _, reopened in ipairs { false, true } do
        if reopened then
          reopen()
        end
        for seqno, epoch in pairs { [0] = 0, 1, 1, 1, 1, 1, 1, 3, 3, 3, 1 << 62 } do
          assert.equal(epoch, db:epoch(0, seqno))
        end
        assert.is_nil(db:epoch(0, 11))
        assert.is_nil(db:epoch(7, 1))
        assert.equal(0, db:epoch(7, 0))
        refused("DIVERGED", batch(5, 7, { epoch = 1 })) -- an epoch begins inside
        refused("DIVERGED", batch(7, 7, { epoch = 3, prev_epoch = 2 }))
        refused("DIVERGED", batch(6, 6, { epoch = 3, prev_epoch = 1 }))
        refused("DIVERGED", batch(6, 12, { epoch = 1 << 62, prev_epoch = 1 }))
        refused("DIVERGED", batch(11, 12, { epoch = 1 << 62, prev_epoch = 3 }))
        apply(batch(7, 9, { epoch = 3, prev_epoch = 1 }), insert)
      end
      stands("1 2 3 4 5 6 7 8 9 10", "10 4611686018427387904")
    end)

    it("applies what a leader wrote whose clock is behind its predecessor's, and is undone with its epoch", function()
      apply(batch(1, 2, { epoch = 5 }), insert)
      support.refused(db, path, "APPLY_FAILED", batch(3, 4, { epoch = 300, prev_epoch = 5 }), error)
      assert.equal(1, query.first(db, "SELECT count(*) FROM tidemark_epochs"))
      apply(batch(3, 3, { epoch = 200, prev_epoch = 5 }), insert)
      stands("1 2 3", "3 200")
    end)

    it("keeps the last 10,000 epochs of a shard", function()
      apply(batch(1, 1), insert)
      assert(db:exec [[
        WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO tidemark_epochs SELECT 0, i, i FROM n]])
      assert(db:exec "INSERT INTO tidemark_epochs VALUES (1, 1, 1)")
      assert(db:exec "UPDATE tidemark_progress SET applied = 10000, epoch = 10000 WHERE shard = 0")
      reopen()
      assert.equal(1, db:epoch(0, 1))
      for seqno = 10001, 10003 do
        apply(batch(seqno, seqno, { epoch = seqno, prev_epoch = seqno - 1 }), insert)
      end
      assert.same({ 10000, 4 }, { query.first(db, "SELECT count(*), min(first_seqno) FROM tidemark_epochs WHERE shard = 0") })
      assert.equal(1, query.first(db, "SELECT count(*) FROM tidemark_epochs WHERE shard = 1"))
      assert.same({ 4 }, { db:epoch(0, 4), db:epoch(0, 3) })
    end)

    it("refuses a shard that is not tracked", function()
      local result, message, code = db:apply(batch(1, 1, { shard = 7 }), insert)
      assert.same({ path .. ": shard 7 is not tracked", "UNKNOWN_SHARD" }, { message, code })
      assert.is_nil(result)
      assert.is_nil(support.row(db, 7))
    end)

    it("does not run fn for one that it has", function()
      apply(batch(1, 3), insert)
      apply(batch(1, 3), error)
      assert.equal(0, db:exec "DELETE FROM effect WHERE seqno > 3") -- no transaction was left open
      stands("1 2 3", "3 1")
    end)

    it("keeps records whole: any bytes, and 64-bit integers in them", function()
      local integers = { (1 << 53) + 1, math.maxinteger, math.mininteger, -1 }
      local records = { "", "\0", "a\0b", ("\0\255"):rep(100000) }
      for _, integer in ipairs(integers) do
        records[#records + 1] = ("<i8"):pack(integer)
      end
      assert(db:exec "CREATE TABLE bytes (seqno INTEGER PRIMARY KEY, bytes BLOB, number INTEGER)")
      apply(batch(1, #records, { records = records }), function(given, record, seqno)
        local number = #record == 8 and ("<i8"):unpack(record) or nil
        assert(given:exec("INSERT INTO bytes VALUES (?, ?, ?)", seqno, sqlite.blob(record), number))
      end)
      for seqno, bytes, number in assert(db:rows "SELECT * FROM bytes ORDER BY seqno") do
        assert.is_true(bytes == records[seqno])
        assert.equal(integers[seqno - 4], number)
      end
    end)

    it("of 100,000 records does not take long", function()
      local started = os.clock()
      apply(batch(1, 100000), insert)
      assert.is_true(os.clock() - started < 10) -- a fraction of a second; were each statement prepared anew, some more
      assert.same({ 100000, 5000050000 }, { query.first(db, "SELECT count(*), sum(seqno) FROM effect") })
    end)
  end)

  describe("an apply that raises", function()
    it("leaves no transaction and works the next time", function()
      for _, wrong in ipairs { 5, "x", false } do
        raises("bad argument #1 to 'apply' %(Batch expected, got " .. type(wrong), db.apply, db, wrong, insert)
        raises("bad argument #2 to 'apply' %(function expected, got " .. type(wrong), db.apply, db, batch(1, 1), wrong)
      end
      local liar = setmetatable({}, { __index = { shard = 0, first_seqno = 1, last_seqno = 1, epoch = 1, prev_epoch = 0, log_id = 3 } })
      raises("attempt to call", db.apply, db, liar, insert)
      assert.is_false(db[1]:in_transaction())
      assert.is_nil(support.row(db))
      apply(batch(1, 1), insert)
      stands("1", "1 1")
    end)

    it("is one inside the caller's own transaction, which stays", function()
      assert(db:exec "BEGIN")
      insert(db, "0/77", 77)
      raises("apply is called inside a transaction, or inside fn", db.apply, db, batch(1, 1), insert)
      assert(db:exec "COMMIT")
      assert.equal("77", support.effects(db))
    end)

    it("is one after close", function()
      db:close()
      db:close()
      raises("closed database", db.apply, db, batch(1, 1), insert)
      raises("closed database", db.exec, db, "SELECT 1")
      raises("closed database", db.rows, db, "SELECT 1")
      assert.equal(0, db:state():applied_seqno(0))
    end)
  end)

  describe("when it is opened", function()
    it("tracks what it is asked for and what it has", function()
      apply(batch(1, 3, { shard = 1 }), insert)
      reopen { 5, 5, 2 }
      assert.same({ [1] = 3, [2] = 0, [5] = 0 }, db:state():snapshot())
      apply(batch(1, 1, { shard = 5 }), insert)
      apply(batch(4, 4, { shard = 1 }), insert)
      stands("1 2 3 4", "4 1", 1)
      stands("1", "1 1", 5)
      assert.equal(db:state(), db:state())
      assert.equal(ReplicationState.new({}).advance, db:state().advance)
    end)

    it("refuses wrong arguments", function()
      for _, wrong in ipairs { false, {}, { 65536 }, { -1 }, { "0" }, { 1.0 }, 5 } do
        raises("bad argument #2 to 'open' %(an array of shard ids", FollowerDb.open, path, wrong or nil)
      end
      raises("bad argument #3 to 'open' %(no such option: 'wrong'%)", FollowerDb.open, path, { 0 }, { wrong = true })
      raises("bad argument #3 to 'open' %(table expected", FollowerDb.open, path, { 0 }, 5)
      raises("bad argument #1 to 'open' %(string expected", FollowerDb.open, nil, { 0 })
    end)

    it("gives SQLite's codes", function()
      local function code(...)
        return (select(3, FollowerDb.open(...)))
      end
      assert.equal("NOT_FOUND", code(path .. "x", { 0 }, { create = false }))
      assert.equal("NOT_FOUND", code(path .. "/x", { 0 }) and "NOT_FOUND")
      local file = assert(io.open(path .. ".txt", "w"))
      file:write(("no database\n"):rep(100))
      file:close()
      assert.equal("NOTADB", code(path .. ".txt", { 0 }))
    end)

    it("lives in a database that has other data", function()
      path = path .. "2"
      local other = assert(sqlite.open(path))
      assert(other:exec "CREATE TABLE mine (x)")
      assert(other:exec "INSERT INTO mine VALUES (42)")
      assert(other:exec "PRAGMA user_version = 7")
      other:close()
      db = assert(open({ 0 }, { create = false }))
      support.create_table(db)
      apply(batch(1, 2), insert)
      assert.same({ 42, 7 }, { query.first(db, "SELECT x, (SELECT user_version FROM pragma_user_version) FROM mine") })
      stands("1 2", "2 1")
    end)

    it("refuses a newer table and one of somebody else, and leaves them", function()
      assert(db:exec "DROP TABLE tidemark_progress")
      for sql, told in pairs {
        ["CREATE TABLE tidemark_progress ( -- version 1\n x)"] = "tidemark_progress has version 1, this program reads version 2",
        ["CREATE TABLE tidemark_progress ( -- version 22\n x)"] = "tidemark_progress has version 22, this program reads version 2",
        ["CREATE TABLE tidemark_progress (shard, applied)"] = "its table tidemark_progress is not tidemark's",
        ["CREATE TABLE Tidemark_Progress (shard, applied)"] = "its table tidemark_progress is not tidemark's",
      } do
        assert(db:exec(sql))
        for _, readonly in ipairs { false, true } do
          local result, message, code = open(nil, { readonly = readonly })
          assert.same({ "UNSUPPORTED", path .. ": " .. told }, { code, message })
          assert.is_nil(result)
        end
        assert.equal(sql, query.first(db, "SELECT sql FROM sqlite_schema WHERE name LIKE 'tidemark_progress'"))
        assert(db:exec "DROP TABLE tidemark_progress")
      end
      assert(db:exec "DROP TABLE tidemark_epochs")
      for sql, told in pairs {
        ["CREATE TABLE tidemark_epochs ( -- version 3\n x)"] = "tidemark_epochs has version 3, this program reads version 2",
        ["CREATE TABLE tidemark_epochs (x)"] = "its table tidemark_epochs is not tidemark's",
      } do
        assert(db:exec(sql))
        assert.same({ path .. ": " .. told, "UNSUPPORTED" }, { select(2, open()) })
        assert(db:exec "DROP TABLE tidemark_epochs")
        assert.equal(0, query.first(db, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'tidemark%'")) -- nothing was made
      end
    end)

    it("may only be read", function()
      apply(batch(1, 3), insert)
      reopen(nil, { readonly = true })
      stands("1 2 3", "3 1")
      local called = false
      local result, message, code = db:apply(batch(4, 4), function()
        called = true
      end)
      assert.same({ "READONLY", false }, { code, called })
      assert.is_nil(result)
      assert.truthy(message:find("readonly database", 1, true))
      assert.is_false(db[1]:in_transaction())
      apply(batch(1, 3), insert) -- has it
    end)

    it("may only be read where there is no table", function()
      path = path .. "3"
      assert(sqlite.open(path)):close()
      db = assert(open({ 4 }, { readonly = true }))
      assert.same({ [4] = 0 }, db:state():snapshot())
      assert.same({ 0 }, { db:epoch(4, 0), db:epoch(4, 1), db:log_id(4) })
      assert.equal("ERROR", (select(3, db:apply(batch(1, 1, { shard = 4 }), insert))))
    end)

    it("closes with its scope", function()
      if _VERSION == "Lua 5.3" then
        pending "<close> came with Lua 5.4"
        return
      end
      assert(load([[local handle <close> = ...]]))(db)
      raises("closed database", db.exec, db, "SELECT 1")
    end)
  end)

  describe("and a Follower", function()
    local function rig(options)
      local given = { target = db:target(insert) }
      for name, value in pairs(options or {}) do
        given[name] = value
      end
      return fake.rig(db:state(), given)
    end

    it("apply each record once over restarts", function()
      local one = assert(rig())
      assert.equal("live", one:feed(batch(1, 3), batch(4, 6)).state)
      one:feed(batch(1, 2, { shard = 1 }))
      one.follower:close()
      reopen()
      one = assert(rig())
      local status = one:feed(batch(1, 3), batch(5, 8), batch(9, 9, { epoch = 4, prev_epoch = 1 }))
      assert.same({ "live", 9, 1 }, { status.state, status.applied, status.batches_skipped })
      assert.same({ "0 9", "1 2" }, (function()
        one.follower:close()
        reopen()
        one = assert(rig())
        one:feed()
        return one.source.subscribed
      end)())
      stands("1 2 3 4 5 6 7 8 9", "9 4")
    end)

    it("know the epoch of the mark after a restart, and stop at once", function()
      apply(batch(1, 5, { epoch = 2 }), insert)
      for state, one in pairs {
        diverged = batch(6, 6, { epoch = 4, prev_epoch = 3 }),
        foreign = batch(6, 6, { epoch = 2, log_id = 3 }),
      } do
        reopen()
        local made = assert(rig())
        local status = made:feed(one)
        assert.same({ state, 5 }, { status.state, status.applied })
        assert.equal(state:upper(), status.code)
        assert.same({}, made.clock.sleeps)
        made.follower:close()
      end
      reopen()
      local made = assert(rig())
      local status = made:feed(batch(5, 6, { epoch = 3, prev_epoch = 2 })) -- the mark inside
      assert.same({ "diverged", "DIVERGED" }, { status.state, status.code })
      stands("1 2 3 4 5", "5 2")
    end)

    it("try again where it is no use to stop", function()
      local fails = 2
      local made = assert(rig { target = db:target(function(...)
        fails = fails - 1
        insert(...)
        return fails < 0 or nil, "not yet", "BUSY"
      end) })
      made.source:send(batch(1, 1))
      made.follower:step(0)
      local status = made.follower:status()[0]
      assert.same({ "BUSY", "shard 0: record 1: " .. path .. ": record 1: not yet" }, { status.code, status.error })
      made.follower:step(10)
      assert.equal(1, made.follower:status()[0].applied)
      stands("1", "1 1")
    end)

    it("are one per shard of a handle", function()
      local made = assert(rig())
      assert.equal("LOCKED", (select(3, rig())))
      made.follower:close()
      assert(rig()).follower:close()
      assert(Follower.new { target = db:target(insert), source = fake.source(fake.clock()) }):close()
    end)

    it("stop for another log also where another connection has begun with it", function()
      local made = assert(rig())
      local other = assert(open())
      assert(other:apply(batch(1, 1, { shard = 1, log_id = 9 }), insert))
      made:feed(batch(1, 1))
      assert.same({ "foreign", "foreign" }, { made.follower:verdict(0), (made.follower:verdict(1)) })
      assert.equal("", support.effects(db))
    end)
  end)

  it("has a table as its documentation says", function()
    local documented = ""
    for _, block in ipairs(markdown.blocks(markdown.read "docs/formats.md")) do
      documented = documented .. (block.language == "sql" and block.text or "")
    end
    local made = query.column(db, "SELECT sql || ';' || char(10) FROM sqlite_schema WHERE name LIKE 'tidemark%' ORDER BY rowid")
    assert.equal(documented, table.concat(made))
  end)
end)
