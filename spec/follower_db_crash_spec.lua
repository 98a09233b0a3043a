--- FollowerDb: processes that are killed, several processes, locks, full disks, an older copy. After each of them every record has
--- taken effect once and the row says so.

local FollowerDb = require "tidemark.follower_db"
local sandbox = require "spec.support.sandbox"
local sqlite = require "tidemark.sqlite"
local support = require "spec.support.follower_db"

local batch, insert = support.batch, support.insert
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"

local function run(command)
  local pipe = io.popen("{ " .. command .. "\n} 2>&1")
  local output = pipe:read "a"
  return pipe:close() == true, output
end

describe("FollowerDb", function()
  local directory, path, db, opened

  local function open(opts)
    local result, message, code = FollowerDb.open(path, { 0, 1 }, opts)
    opened[#opened + 1] = result
    return result, message, code
  end

  before_each(function()
    directory, opened = sandbox.tempdir(), {}
    path = directory .. "/test.db"
    db = assert(open())
    support.create_table(db)
    assert(db:apply(batch(1, 2), insert))
  end)
  after_each(function()
    for _, one in ipairs(opened) do
      one:close()
    end
  end)
  teardown(sandbox.cleanup)

  -- Runs Lua source in a child, given the path, until it writes a line, which must be `line`; then kills it.
  local function kill_at(line, source)
    db:close()
    local child = sandbox.start([[
      local support = require "spec.support.follower_db"
      local batch, insert = support.batch, support.insert
      local ReplicationState = require "tidemark.replication_state"
      local db = assert(require("tidemark.follower_db").open(..., {0, 1}))
      local function stop(line)
        print(line)
        io.stdout:flush()
        io.read()
      end
    ]] .. source, path)
    assert.equal(line, child:read_line())
    child:kill()
    local ok, how, signal = child:wait()
    assert.same({ false, "signal", 9 }, { ok, how, signal })
    db = assert(open())
  end

  it("has nothing of a batch whose process was killed in fn", function()
    kill_at("in fn", [[
      db:apply(batch(1, 5), function(db, record, seqno)
        insert(db, record, seqno)
        if seqno == 4 then stop "in fn" end
      end)
    ]])
    support.stands(db, "1 2", "2 1")
    assert(db:apply(batch(1, 5), insert))
    support.stands(db, "1 2 3 4 5", "5 1")
  end)

  it("has all of a batch whose process was killed between the commit and the mark", function()
    kill_at("committed", [[
      function ReplicationState.advance() stop "committed" end
      db:apply(batch(1, 5), insert)
    ]])
    support.stands(db, "1 2 3 4 5", "5 1")
    assert(db:apply(batch(1, 6), insert))
    support.stands(db, "1 2 3 4 5 6", "6 1")
  end)

  it("continues from its own row when it is an older copy", function()
    db:close()
    assert(run(("cp '%s' '%s.old'"):format(path, path)))
    db = assert(open())
    assert(db:apply(batch(3, 9, { epoch = 2, prev_epoch = 1 }), insert))
    db:close()
    assert(run(("mv '%s.old' '%s'"):format(path, path)))
    db = assert(open())
    support.stands(db, "1 2", "2 1")
    assert.equal("GAP", (select(3, db:apply(batch(10, 10, { epoch = 2 }), insert))))
    assert(db:apply(batch(3, 9, { epoch = 2, prev_epoch = 1 }), insert))
    support.stands(db, "1 2 3 4 5 6 7 8 9", "9 2")
  end)

  describe("with another connection", function()
    it("applies nothing twice, and the mark follows the row", function()
      local other = assert(open())
      assert(db:apply(batch(3, 6), insert))
      assert.equal(2, other:state():applied_seqno(0))
      assert(other:apply(batch(3, 4), insert))
      support.stands(other, "1 2 3 4 5 6", "6 1")
      assert(other:apply(batch(5, 8), insert))
      assert(db:apply(batch(5, 9), insert))
      support.stands(db, "1 2 3 4 5 6 7 8 9", "9 1")
    end)

    it("knows the epochs that the other has applied", function()
      local other = assert(open())
      assert.same({ 1, 1 }, { other:epoch(0, 2), db:epoch(0, 2) }) -- they keep it
      assert(db:apply(batch(3, 6, { epoch = 3, prev_epoch = 1 }), insert))
      assert(other:apply(batch(3, 4, { epoch = 3, prev_epoch = 1 }), insert)) -- a duplicate
      for seqno, epoch in pairs { 1, 1, 3, 3, 3, 3 } do
        assert.equal(epoch, other:epoch(0, seqno))
      end
      assert(other:apply(batch(7, 8, { epoch = 3 }), insert))
      assert.same({ 3, 3, 1 }, { other:epoch(0, 8), other:epoch(0, 3), other:epoch(0, 2) })
    end)

    it("is told by the row of the other's leader", function()
      local other = assert(open())
      assert(db:apply(batch(3, 6, { epoch = 3, prev_epoch = 1 }), insert))
      assert.equal("DIVERGED", (select(3, other:apply(batch(3, 7, { epoch = 2, prev_epoch = 1 }), insert))))
      assert.equal("DIVERGED", (select(3, other:apply(batch(3, 4, { epoch = 4, prev_epoch = 1 }), insert))))
      support.stands(db, "1 2 3 4 5 6", "6 3")
    end)

    it("answers BUSY while that writes, and does not run fn", function()
      local other = assert(sqlite.open(path))
      local waiting = assert(open { busy_timeout = 0 })
      assert(other:exec "BEGIN IMMEDIATE")
      local result, message, code = waiting:apply(batch(3, 3), error)
      assert.same({ "BUSY" }, { code, result })
      assert.truthy(message:find "^shard 0: .*database is locked")
      assert(other:exec "ROLLBACK")
      assert(waiting:apply(batch(3, 3), insert))
      support.stands(waiting, "1 2 3", "3 1")
      other:close()
    end)

    it("answers BUSY when a new table has to wait", function()
      path = path .. "2"
      local other = assert(sqlite.open(path))
      assert(other:exec "BEGIN IMMEDIATE")
      assert.equal("BUSY", (select(3, open { busy_timeout = 0 })))
      other:close()
      assert(open { busy_timeout = 0 })
    end)

    it("answers BUSY while an iterator holds an older view", function()
      local next_row, _, _, rows = assert(db:rows "SELECT seqno FROM effect")
      assert.equal(1, next_row())
      local other = assert(open())
      assert(other:apply(batch(3, 3), insert))
      assert.equal("BUSY", (select(3, db:apply(batch(3, 4), insert))))
      rows:close()
      assert(db:apply(batch(3, 4), insert))
      support.stands(db, "1 2 3 4", "4 1")
    end)
  end)

  it("takes each record once from two processes that apply the same log", function()
    db:close()
    local children = {}
    for size = 3, 4 do
      children[#children + 1] = sandbox.start([[
        local path, size = ...
        local support = require "spec.support.follower_db"
        local db = assert(require("tidemark.follower_db").open(path, {0}, {busy_timeout = 60}))
        print "ready"
        io.stdout:flush()
        io.read()
        local applied = 0
        for first = 1, 300, size do
          assert(db:apply(support.batch(first, math.min(first + size - 1, 300)), function(...)
            applied = applied + 1
            support.insert(...)
          end))
        end
        print(applied)
      ]], path, size)
      assert.equal("ready", children[#children]:read_line())
    end
    local applied = 0
    for _, child in ipairs(children) do
      child:write "go"
    end
    for _, child in ipairs(children) do
      applied = applied + tonumber(child:read_line())
      assert(child:wait())
    end
    db = assert(open())
    local all = {}
    for seqno = 1, 300 do
      all[seqno] = seqno
    end
    support.stands(db, table.concat(all, " "), "300 1")
    assert.equal(298, applied)
  end)

  describe("on a full disk", function()
    -- Applies batches of one large record each until one fails; prints the code, the row, and what took effect.
    local FILL = [[
      local query = require "spec.support.query"
      local support = require "spec.support.follower_db"
      local function fill(db, fn)
        local seqno, ok, message, code = 0, nil, nil, nil
        repeat
          seqno = seqno + 1
          ok, message, code = db:apply(support.batch(seqno, seqno, { records = { ("x"):rep(20000) } }), fn)
        until not ok
        local applied = query.first(db, "SELECT coalesce(max(applied), 0) FROM tidemark_progress")
        local count, last = query.first(db, "SELECT count(*), coalesce(max(seqno), 0) FROM effect")
        return code, applied > 5 and applied == seqno - 1 and count == applied and last == applied
          and db:state():applied_seqno(0) == applied, message
      end
    ]]

    local function returning(given, record, seqno)
      return given:exec("INSERT INTO effect VALUES (0, ?, ?)", seqno, record)
    end

    local function raising(...)
      assert(returning(...))
    end

    it("answers FULL and does nothing, then goes on", function()
      local fill = assert(load(FILL .. "return fill"))()
      for fn, expected in pairs { [returning] = "FULL", [raising] = "APPLY_FAILED" } do
        path = ("%s/%s.db"):format(directory, expected)
        local small = assert(open())
        support.create_table(small)
        assert(small:exec "PRAGMA max_page_count = 100")
        local code, right, message = fill(small, fn)
        assert.same({ expected, true }, { code, right }, message)
        assert.truthy(message:find("database or disk is full", 1, true))
        assert(small:exec "PRAGMA max_page_count = 1000")
        local applied = small:state():applied_seqno(0)
        assert(small:apply(batch(applied + 1, applied + 1), insert))
        assert.equal(applied + 1 .. " 1", support.row(small))
      end
    end)

    it("that is a real one as well", function()
      if not run "unshare --mount true" then
        pending "needs root"
        return
      end
      local file = assert(io.open(directory .. "/script.lua", "w"))
      file:write(FILL, [[
        local path = ... .. "/disk/test.db"
        local FollowerDb = require "tidemark.follower_db"
        local db = assert(FollowerDb.open(path, { 0 }))
        support.create_table(db)
        print(fill(db, function(given, record, seqno)
          return given:exec("INSERT INTO effect VALUES (0, ?, ?)", seqno, record)
        end))
        local applied = db:state():applied_seqno(0)
        db:close()
        db = assert(FollowerDb.open(path, { 0 }))
        print(applied == db:state():applied_seqno(0), query.first(db, "SELECT count(*) FROM effect") == applied)
      ]])
      file:close()
      local here = io.popen("pwd"):read "l"
      local commands = ("mkdir disk && mount -t tmpfs -o size=2m tmpfs disk && cd %s && exec %s %s/script.lua %s"):format(
        here, lua, directory, directory)
      local ok, output = run(("cd '%s' && unshare --mount sh -c '%s'"):format(directory, commands))
      assert(ok, output)
      assert.truthy(output:find "^FULL\ttrue\t.*disk is full\ntrue\ttrue\n$", output)
    end)
  end)

  it("has each record once after 50 kills at random moments", function()
    local RECORDS, EPOCH = 1000, 100 -- of each shard; that many records of each epoch
    local WORK = [[
      local path, seed, records, epoch_length = ...
      records, epoch_length = math.tointeger(records), math.tointeger(epoch_length)
      local support = require "spec.support.follower_db"
      local FollowerDb = require "tidemark.follower_db"
      math.randomseed(math.tointeger(seed))
      local db = assert(FollowerDb.open(path, { 0, 1 }))
      local state = db:state()

      local function epoch_of(seqno)
        return seqno == 0 and 0 or (seqno - 1) // epoch_length + 1
      end

      -- a batch that overlaps, repeats or continues, of one epoch, and now and then one that leaves a gap
      local function random_batch(shard, mark)
        local first = math.max(1, mark + 1 - math.random(0, 8))
        if math.random(20) == 1 then first = mark + 2 end
        first = math.min(first, records)
        local last = math.min(first + math.random(0, 12), epoch_of(first) * epoch_length, records)
        return support.batch(first, last, { shard = shard, epoch = epoch_of(first), prev_epoch = epoch_of(first - 1) })
      end

      while state:applied_seqno(0) < records or state:applied_seqno(1) < records do
        local shard = math.random(0, 1)
        local mark = state:applied_seqno(shard)
        local batch = random_batch(shard, mark)
        local fails = math.random(10) == 1
        local ok, message, code = db:apply(batch, function(db, record, seqno)
          support.insert(db, record, seqno)
          return not (fails and seqno == batch.last_seqno), "as it happens"
        end)
        local gap, has = batch.first_seqno > mark + 1, batch.last_seqno <= mark
        local expected = gap and "GAP" or fails and not has and "APPLY_FAILED" or nil
        assert(code == expected, message)
        assert(state:applied_seqno(shard) == (ok and math.max(mark, batch.last_seqno) or mark))
        print(shard)
        io.stdout:flush()
      end
      print "done"
    ]]
    local seed, kills = os.time(), 0
    local line
    math.randomseed(seed)

    -- The effects are a beginning of the log, each once and in order, and the row tells how long it is.
    local function check(shard)
      local applied = 0
      for seqno, record in assert(db:rows("SELECT seqno, record FROM effect WHERE shard = ? ORDER BY rowid", shard)) do
        applied = applied + 1
        assert.same({ applied, ("%d/%d"):format(shard, applied), seed }, { seqno, record, seed })
      end
      local row = applied > 0 and ("%d %d"):format(applied, (applied - 1) // EPOCH + 1) or nil
      assert.same({ row, applied, seed }, { support.row(db, shard), db:state():applied_seqno(shard), seed })
      return applied
    end

    assert(db:exec "DELETE FROM effect")
    assert(db:exec "DELETE FROM tidemark_progress")
    repeat
      db:close()
      local child = sandbox.start(WORK, path, seed + kills, RECORDS, EPOCH)
      local lines = kills < 50 and math.random(0, 12) or math.huge
      repeat
        lines = lines - 1
        line = lines >= 0 and child:read_line() or nil
      until line == "done" or line == nil
      if line == "done" or lines >= 0 then
        assert.same({ true, "exit", 0 }, { child:wait() })
      else
        child:kill()
        child:wait()
        kills = kills + 1
      end
      db = assert(open())
      check(0)
      check(1)
    until line == "done"
    assert.same({ RECORDS, RECORDS }, { check(0), check(1) })
    assert.is_true(kills >= 30, kills .. " kills, seed " .. seed)
  end)
end)
