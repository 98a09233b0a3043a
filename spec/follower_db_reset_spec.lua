--- FollowerDb:reset: the row, the epochs, the effects and the mark go back together or not at all.

local FollowerDb = require "tidemark.follower_db"
local fake = require "spec.support.fake_source"
local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local support = require "spec.support.follower_db"

local batch, insert, raises = support.batch, support.insert, query.raises

describe("FollowerDb:reset", function()
  local path, db, opened

  local function open()
    local one = assert(FollowerDb.open(path, { 0, 1 }))
    opened[#opened + 1] = one
    return one
  end

  -- Takes the effects above a seqno back.
  local function taking_back(seqno)
    return function(given)
      return given:exec("DELETE FROM effect WHERE shard = 0 AND seqno > ?", seqno)
    end
  end

  local function epochs_of(shard)
    return table.concat(query.column(db,
      "SELECT first_seqno || '=' || epoch FROM tidemark_epochs WHERE shard = ? ORDER BY first_seqno", shard), " ")
  end

  -- Nothing has changed.
  local function unchanged()
    support.stands(db, "1 2 3 4 5 6", "6 3")
    support.stands(db, "1", "1 1", 1)
    assert.same({ "1=1 3=2 5=3", "1=1" }, { epochs_of(0), epochs_of(1) })
    assert.is_false(db[1]:in_transaction())
  end

  before_each(function()
    path, opened = sandbox.tempdir() .. "/test.db", {}
    db = open()
    support.create_table(db)
    assert(db:apply(batch(1, 2), insert))
    assert(db:apply(batch(3, 4, { epoch = 2, prev_epoch = 1 }), insert))
    assert(db:apply(batch(5, 6, { epoch = 3, prev_epoch = 2 }), insert))
    assert(db:apply(batch(1, 1, { shard = 1 }), insert))
  end)
  after_each(function()
    for _, one in ipairs(opened) do
      one:close()
    end
  end)
  teardown(sandbox.cleanup)

  it("lowers row, epochs, effects and mark, and the follower goes on from there", function()
    for seqno, expected in pairs { [5] = { "5 3", "1=1 3=2 5=3" }, [4] = { "4 2", "1=1 3=2" }, [3] = { "3 2", "1=1 3=2" },
      [1] = { "1 1", "1=1" } } do
      assert.equal(3, db:epoch(0, 6)) -- which it keeps
      assert.is_true(db:reset(0, seqno, taking_back(seqno)))
      local effects = table.concat({ 1, 2, 3, 4, 5 }, " ", 1, seqno)
      support.stands(db, effects, expected[1])
      assert.equal(expected[2], epochs_of(0))
      assert.is_nil(db:epoch(0, seqno + 1))
      assert.equal(math.tointeger(expected[1]:match "%d+$"), db:epoch(0, seqno))
      support.stands(db, "1", "1 1", 1)
      local rest = batch(seqno + 1, 6, { epoch = 9, prev_epoch = db:epoch(0, seqno) })
      assert(db:apply(rest, insert))
      support.stands(db, "1 2 3 4 5 6", "6 9")
      -- back to how it began
      assert.is_true(db:reset(0, 0, taking_back(0)))
      assert(db:apply(batch(1, 2), insert))
      assert(db:apply(batch(3, 4, { epoch = 2, prev_epoch = 1 }), insert))
      assert(db:apply(batch(5, 6, { epoch = 3, prev_epoch = 2 }), insert))
      unchanged()
    end
  end)

  it("to 0 forgets the shard, and the log with the last shard", function()
    assert.is_true(db:reset(0, 0, taking_back(0)))
    support.stands(db, "", nil)
    assert.equal("", epochs_of(0))
    assert.same({ support.LOG, 0 }, { db:log_id(0), db:epoch(0, 0) })
    assert.equal("FOREIGN", (select(3, db:apply(batch(1, 1, { log_id = 5 }), insert))))
    assert.is_true(db:reset(1, 0, function(given)
      return given:exec "DELETE FROM effect"
    end))
    assert.is_nil(db:log_id(0))
    assert.is_true(db:apply(batch(1, 1, { log_id = 5 }), insert))
    assert.equal(5, db:log_id(1))
  end)

  it("to the mark changes nothing but what fn does", function()
    assert.is_true(db:reset(0, 6, function(given)
      insert(given, "0/6", 60)
    end))
    support.stands(db, "1 2 3 4 5 6 60", "6 3")
  end)

  it("is durable, and the same after it is opened again", function()
    assert.is_true(db:reset(0, 3, taking_back(3)))
    db:close()
    db = open()
    support.stands(db, "1 2 3", "3 2")
    assert.equal("DIVERGED", (select(3, db:apply(batch(4, 4, { epoch = 3, prev_epoch = 3 }), insert))))
    assert(db:apply(batch(4, 4, { epoch = 2 }), insert))
  end)

  it("changes nothing where fn fails, and gives its code", function()
    local function failing(act)
      return function(given)
        assert(given:exec "DELETE FROM effect")
        return act(given)
      end
    end
    for told, case in pairs {
      ["fn raised an error: boom"] = { "APPLY_FAILED", function() error("boom", 0) end },
      ["fn returned false"] = { "APPLY_FAILED", function() return false end },
      ["not so"] = { "BUSY", function() return nil, "not so", "BUSY" end },
      ["fn yielded: it must do its work before it returns"] = { "APPLY_FAILED", coroutine.yield },
      ["fn raised an error: only who began"] = { "APPLY_FAILED", function(given) given:exec "COMMIT" end },
      ["fn raised an error: reset is called inside a transaction"] = { "APPLY_FAILED", function(given)
        given:reset(0, 0, print)
      end },
      ["fn raised an error: apply is called inside a transaction"] = { "APPLY_FAILED", function(given)
        given:apply(batch(7, 7, { epoch = 3 }), insert)
      end },
    } do
      local result, message, code = db:reset(0, 2, failing(case[2]))
      assert.same({ case[1] }, { code, result })
      local front = "shard 0: " .. path .. ": "
      message = message:gsub("[^ ]*%.lua:%d+: ", "")
      assert.truthy(message:find(front .. told, 1, true), message)
      unchanged()
    end
    assert.is_true(db:reset(0, 2, taking_back(2)))
  end)

  it("changes nothing where the commit fails, and the mark is as high as before", function()
    local kept
    local result, message, code = db:reset(0, 2, function(given)
      kept = table.pack(assert(given:rows "INSERT INTO effect VALUES (0, 50, 'x'), (0, 51, 'x') RETURNING seqno"))
    end)
    assert.same({ "BUSY" }, { code, result })
    assert.truthy(message:find("SQL statements in progress", 1, true))
    kept[4]:close()
    unchanged()
  end)

  it("changes nothing where the mark in memory cannot be lowered", function()
    local watch = db:state():watch(0, 100)
    local called = false
    local result, _, code = db:reset(0, 2, function(given)
      called = true
      return given:exec "DELETE FROM effect"
    end)
    assert.same({ "BUSY", true }, { code, called, result })
    unchanged()
    watch:close()
    watch = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(db:reset(0, 2, taking_back(2)))
  end)

  it("needs the epoch to be known, and names the lowest seqno", function()
    assert(db:exec "DELETE FROM tidemark_epochs WHERE shard = 0 AND first_seqno < 5")
    local result, message, code = db:reset(0, 4, error)
    assert.same({ "NOT_FOUND" }, { code, result })
    local told = "shard 0: %s: the epoch of record 4 is not known: the shard can be reset to record 5 or above, or to 0"
    assert.equal(told:format(path), message)
    assert(db:exec "DELETE FROM tidemark_epochs WHERE shard = 0")
    assert.truthy(select(2, db:reset(0, 5, error)):find("to record 6 or above", 1, true))
    support.stands(db, "1 2 3 4 5 6", "6 3")
    assert.is_true(db:reset(0, 6, taking_back(6))) -- the row itself knows this one
    assert.equal(3, db:epoch(0, 6))
    assert.is_true(db:reset(0, 0, taking_back(0)))
  end)

  it("is LOCKED while a follower has the shard", function()
    local rig = assert(fake.rig(db:state(), { target = db:target(insert), shards = { 0 } }))
    local result, _, code = db:reset(0, 2, error)
    assert.same({ "LOCKED" }, { code, result })
    unchanged()
    rig.follower:close()
    assert.is_true(db:reset(0, 2, taking_back(2)))
    rig = assert(fake.rig(db:state(), { target = db:target(insert) }))
    assert.equal(2, rig.follower:status()[0].applied)
    rig:feed(batch(3, 8, { epoch = 7, prev_epoch = 1 }))
    support.stands(db, "1 2 3 4 5 6 7 8", "8 7")
    rig.follower:close()
  end)

  it("answers REPLACED to another handle, never true", function()
    local other = open()
    local rig = assert(fake.rig(other:state(), { target = other:target(insert), shards = { 0 } }))
    rig.follower:step(0)
    assert.is_true(db:reset(0, 2, taking_back(2)))
    for _, one in ipairs { batch(1, 2), batch(5, 6, { epoch = 3, prev_epoch = 2 }), batch(3, 3, { epoch = 2, prev_epoch = 1 }) } do
      local result, message, code = other:apply(one, error)
      assert.same({ "REPLACED" }, { code, result })
      assert.equal(("shard 0: %s: its row says that record 2 is the last one applied, but record 6 was: it has been reset; open it again")
        :format(path), message)
    end
    rig:feed(batch(7, 7, { epoch = 3 }))
    local status = rig.follower:status()[0]
    assert.same({ "failed", "REPLACED" }, { status.state, status.code })
    assert.equal(0, status.batches_applied)
    rig.follower:close()
    assert.same({ "REPLACED" }, { select(3, other:reset(0, 1, error)) })
    assert(other:apply(batch(2, 2, { shard = 1 }), insert)) -- the other shard is as it was
    support.stands(db, "1 2", "2 1")
    other:close()
    other = open()
    assert(other:apply(batch(3, 3, { epoch = 2, prev_epoch = 1 }), insert))
  end)

  it("is judged by the row where another handle has applied more", function()
    local other = open()
    assert(other:apply(batch(7, 9, { epoch = 3 }), insert))
    assert.is_true(db:reset(0, 4, taking_back(4)))
    support.stands(db, "1 2 3 4", "4 2")
  end)

  it("refuses wrong arguments, an unknown shard, and a seqno above the mark", function()
    raises("bad argument #1 to 'reset' %(shard id", db.reset, db, "0", 1, print)
    for _, wrong in ipairs { -1, 1.5, "1" } do
      raises("bad argument #2 to 'reset' %(seqno expected", db.reset, db, 0, wrong, print)
    end
    raises("bad argument #2 to 'reset' %(seqno 7 is above the mark, 6%)", db.reset, db, 0, 7, print)
    raises("bad argument #3 to 'reset' %(function expected, got nil", db.reset, db, 0, 1)
    assert.equal("UNKNOWN_SHARD", (select(3, db:reset(7, 0, print))))
    assert(db:exec "BEGIN")
    raises("reset is called inside a transaction", db.reset, db, 0, 1, print)
    assert(db:exec "COMMIT")
    unchanged()
    db:close()
    raises("closed database", db.reset, db, 0, 1, print)
  end)

  it("is there altogether or not at all after a kill", function()
    db:close()
    for _, where in ipairs { "in fn", "before the commit" } do
      local child = sandbox.start([[
        local path, where = ...
        local ReplicationState = require "tidemark.replication_state"
        local db = assert(require("tidemark.follower_db").open(path, { 0, 1 }))
        local function stop(line)
          if line == where then
            print(line)
            io.stdout:flush()
            io.read()
          end
        end
        local reset = ReplicationState.reset
        function ReplicationState.reset(...)
          local ok, message, code = reset(...)
          stop "before the commit"
          return ok, message, code
        end
        db:reset(0, 2, function(given)
          assert(given:exec "DELETE FROM effect")
          stop "in fn"
        end)
      ]], path, where)
      assert.equal(where, child:read_line())
      child:kill()
      child:wait()
      db = open()
      unchanged()
      db:close()
    end
    db = open()
  end)
end)
