--- FollowerDb: what the function given to apply may do, and what becomes of its batch.

local FollowerDb = require "tidemark.follower_db"
local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local support = require "spec.support.follower_db"

local batch, insert, raises = support.batch, support.insert, query.raises

describe("FollowerDb: an fn", function()
  local db, path

  before_each(function()
    path = sandbox.tempdir() .. "/test.db"
    db = assert(FollowerDb.open(path, { 0 }))
    support.create_table(db)
  end)
  after_each(function()
    db:close()
  end)
  teardown(sandbox.cleanup)

  local function stands(effects, row)
    support.stands(db, effects, row)
  end

  local function apply(...)
    assert.same({ true }, { db:apply(...) })
  end

  local function refused(...)
    return support.refused(db, path, ...)
  end

  -- fn inserts records 1..3, then does `act` in the second one, in the middle of a batch.
  local function failing(act)
    return function(given, record, seqno)
      insert(given, record, seqno)
      if seqno == 2 then
        return act(given)
      end
    end
  end

  -- Nothing is left of a batch whose fn failed, and the next one goes through.
  local function nothing_done()
    stands("", nil)
    assert.is_false(db[1]:in_transaction())
    apply(batch(1, 3), insert)
    stands("1 2 3", "3 1")
  end

  it("fails by raising: nothing is done", function()
    for _, raised in ipairs { "boom", { "boom" } } do
      local message = refused("APPLY_FAILED", batch(1, 3), failing(function()
        error(raised, 0)
      end))
      assert.equal("record 2: fn raised an error: " .. tostring(raised), message)
    end
    nothing_done()
  end)

  it("fails by returning nil or false and a message: nothing is done", function()
    local function returning(...)
      local values = table.pack(...)
      return failing(function()
        return table.unpack(values, 1, values.n)
      end)
    end
    assert.equal("record 2: no", refused("APPLY_FAILED", batch(1, 3), returning(nil, "no")))
    assert.equal("record 2: no", refused("CORRUPT", batch(1, 3), returning(false, "no", "CORRUPT")))
    assert.equal("record 2: no", refused("APPLY_FAILED", batch(1, 3), returning(nil, "no", 5)))
    local message = refused("ERROR", batch(1, 3), failing(function(given)
      return given:exec "INSERT INTO nowhere VALUES (1)"
    end))
    assert.truthy(message:find "no such table: nowhere")
    nothing_done()
  end)

  it("fails by returning false alone: nothing is done", function()
    assert.equal("record 2: fn returned false", refused("APPLY_FAILED", batch(1, 3), failing(function()
      return false
    end)))
    nothing_done()
  end)

  it("succeeds with anything else", function()
    for i, value in ipairs { 1, 0, "text", true } do
      apply(batch(i, i), function()
        return value
      end)
    end
    apply(batch(5, 5), function()
      return nil
    end)
    assert.equal("5 1", support.row(db))
  end)

  it("that yields fails, and cannot be resumed: nothing is done", function()
    local inside
    local thread = coroutine.create(function()
      return db:apply(batch(1, 3), failing(function()
        inside = coroutine.running()
        coroutine.yield()
      end))
    end)
    local ok, result, message, code = coroutine.resume(thread)
    assert.same({ true, "APPLY_FAILED", "dead" }, { ok, code, coroutine.status(thread) })
    assert.is_nil(result)
    assert.truthy(message:find("record 2: fn yielded", 1, true))
    assert.is_false((coroutine.resume(inside)))
    nothing_done()
  end)

  it("may use coroutines of its own and savepoints", function()
    apply(batch(1, 2), function(given, record, seqno)
      assert.equal(record, coroutine.wrap(coroutine.yield)(record))
      assert(given:exec "SAVEPOINT mine")
      insert(given, record, seqno)
      insert(given, record, seqno)
      assert(given:exec "ROLLBACK TO mine")
      assert(given:exec "RELEASE mine")
      insert(given, record, seqno)
    end)
    stands("1 2", "2 1")
  end)

  it("sees what it wrote", function()
    apply(batch(1, 3), function(given, record, seqno)
      insert(given, record, seqno)
      assert.equal(seqno, query.first(given, "SELECT count(*) FROM effect"))
    end)
  end)

  local NOT_YOURS = "only who began this transaction may COMMIT or ROLLBACK; use SAVEPOINT"

  it("that commits or rolls back fails, whatever it does next: nothing is done", function()
    local nexts = { false, "BEGIN", "BEGIN IMMEDIATE", "INSERT INTO effect VALUES (0, 99, 'x')", "SAVEPOINT s", "SELECT 1", "COMMIT" }
    for _, sql in ipairs { "COMMIT", "end transaction", " ;; /* */ -- \n\u{FEFF}COMMIT", "ROLLBACK", "/* */ rollback transaction" } do
      for _, method in ipairs { "exec", "rows" } do
        local message = refused("APPLY_FAILED", batch(1, 3), failing(function(given)
          given[method](given, sql)
        end))
        assert.truthy(message:find "^record 2: fn raised an error: " and message:find(NOT_YOURS, 1, true), message)
        for _, following in ipairs(nexts) do
          message = refused("APPLY_FAILED", batch(1, 2), failing(function(given)
            raises(NOT_YOURS, given[method], given, sql)
            raises("inside fn", given.apply, given, batch(1, 3), insert)
            if following then
              raises("the transaction has ended: " .. NOT_YOURS, given[method], given, following)
            end
          end))
          assert.equal("record 2: the transaction has ended", message)
          assert.equal("", support.effects(db))
        end
      end
    end
    nothing_done()
  end)

  it("whose statement makes SQLite roll back fails with SQLite's code: nothing is done", function()
    assert(db:exec "CREATE TABLE once (x UNIQUE)")
    local sql = "INSERT OR ROLLBACK INTO once VALUES (1), (1)"
    local message = refused("CONSTRAINT", batch(1, 3), failing(function(given)
      return given:exec(sql)
    end))
    assert.truthy(message:find "^record 2: .*UNIQUE constraint failed")
    message = refused("APPLY_FAILED", batch(1, 2), failing(function(given)
      given:exec(sql)
    end))
    assert.equal("record 2: the transaction has ended", message)
    message = refused("APPLY_FAILED", batch(1, 3), failing(function(given)
      given:exec(sql)
    end))
    assert.truthy(message:find "^record 3: fn raised an error: .*the transaction has ended")
    nothing_done()
  end)

  it("may live with a failed statement that leaves the transaction open", function()
    assert(db:exec "CREATE TABLE once (x UNIQUE)")
    apply(batch(1, 2), function(given, record, seqno)
      local changed, _, code = given:exec "INSERT INTO once VALUES (1)"
      assert.equal(seqno == 1 or "CONSTRAINT", changed == 1 or code)
      insert(given, record, seqno)
    end)
    stands("1 2", "2 1")
  end)

  it("cannot begin a transaction in the transaction", function()
    assert.truthy(refused("ERROR", batch(1, 3), failing(function(given)
      return given:exec "BEGIN"
    end)):find "cannot start a transaction within a transaction")
    nothing_done()
  end)

  it("that leaves a writing statement open fails with BUSY: nothing is done", function()
    local kept
    local result, message, code = db:apply(batch(1, 3), failing(function(given)
      kept = table.pack(assert(given:rows "INSERT INTO effect VALUES (0, 50, 'x'), (0, 51, 'x') RETURNING seqno"))
    end))
    assert.same({ "BUSY" }, { code, result })
    assert.truthy(message:find "^shard 0: .*SQL statements in progress")
    kept[4]:close()
    nothing_done()
  end)

  it("cannot apply or close inside", function()
    refused("APPLY_FAILED", batch(1, 3), failing(function(given)
      given:apply(batch(3, 3), insert)
    end))
    refused("APPLY_FAILED", batch(1, 3), failing(function(given)
      given:close()
    end))
    nothing_done()
    apply(batch(4, 6), function(given, record, seqno)
      raises("apply is called inside a transaction, or inside fn", given.apply, given, batch(4, 4), insert)
      raises("close is called from inside fn", given.close, given)
      insert(given, record, seqno)
    end)
    stands("1 2 3 4 5 6", "6 1")
  end)

  it("is not alone: a finalizer that rolls back as rows() makes its iterator runs nothing outside of the transaction", function()
    local rolled_back = false
    local result, message = db:apply(batch(1, 1), function(given)
      collectgarbage()
      collectgarbage "stop"
      setmetatable({}, {
        __gc = function()
          rolled_back = not pcall(given.exec, given, "ROLLBACK")
        end,
      })
      collectgarbage("setpause", 0)
      -- the next memory that is taken has all garbage cleared away; Lua 5.4 counts up to 1000
      collectgarbage("setstepmul", _VERSION == "Lua 5.3" and 1000000000 or 1000)
      collectgarbage "restart"
      local ok, why = pcall(given.rows, given, "INSERT INTO effect VALUES (0, 99, 'x') RETURNING seqno")
      assert(not ok and why:find "the transaction has ended", why)
      return true
    end)
    collectgarbage("setpause", 200)
    collectgarbage("setstepmul", 100)
    assert(rolled_back)
    assert.equal(nil, result)
    assert.truthy(message:find("the transaction has ended", 1, true))
    nothing_done()
  end)

  it("leaves nothing open where SQLite's memory is at an end", function()
    local _, output = sandbox.lua([[
      local support = require "spec.support.follower_db"
      local db = assert(require("tidemark.follower_db").open(arg[1], { 0 }))
      local result = db:apply(support.batch(1, 2), function(given, record, seqno)
        support.insert(given, record, seqno)
        if seqno == 2 then
          given:exec "PRAGMA hard_heap_limit = 1000" -- of the whole process, and for good
        end
        return seqno == 1, "no"
      end)
      print(result, db[1]:in_transaction(), db:state():applied_seqno(0))]], path)
    assert.equal("nil\tfalse\t0\n", output)
    nothing_done()
  end)

  -- A finalizer may run at any moment. A hook does so for certain: after each number of instructions once.
  it("is not alone: whatever ends the transaction at whatever moment leaves a batch whole or undone", function()
    for _, sql in ipairs { "COMMIT", "ROLLBACK" } do
      local ended, steps, done = 0, 0, false
      while not done do
        steps, done = steps + 1, true
        local last = query.first(db, "SELECT coalesce(max(seqno), 0) FROM effect")
        debug.sethook(function()
          debug.sethook()
          done = false
          if db[1]:in_transaction() then
            ended = ended + 1
            db:exec(sql)
          end
        end, "", steps)
        pcall(db.apply, db, batch(last + 1, last + 3), insert)
        debug.sethook()
        local count = query.first(db, "SELECT count(*) FROM effect")
        assert.equal(count, query.first(db, "SELECT coalesce(max(applied), 0) FROM tidemark_progress"))
        assert.is_false(db[1]:in_transaction())
      end
      assert(ended > 50, ended)
    end
    local count = query.first(db, "SELECT count(*) FROM effect")
    apply(batch(count + 1, count + 3), insert)
  end)
end)
