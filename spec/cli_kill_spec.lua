--- 200 SIGKILLs of `tidemark follow` at random moments, 100 into a database and 100 into a command, while the log grows. Each time it is
--- started again. After each kill no mark claims what is not there; in the end nothing is lost or double.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local uv = require "luv"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local KILLS, SHARDS = 100, 3
local SEED = tonumber(os.getenv "TIDEMARK_SEED") or os.time()

-- Keeps each batch as a file of its own, named by shard and seqnos, so that one that comes again changes nothing; it appears whole or
-- not at all, also when the follower, and so the input, ends in the middle. Notes each run.
local SINK = [[
  set -e
  name=$TIDEMARK_SHARD-$TIDEMARK_FIRST_SEQNO-$TIDEMARK_LAST_SEQNO
  seqno=$TIDEMARK_FIRST_SEQNO
  while read -r record; do
    echo "$record"
    seqno=$((seqno + 1))
  done > tmp.$$
  test $seqno -gt $TIDEMARK_LAST_SEQNO
  mv tmp.$$ $name
  echo $name >> runs
]]

describe("tidemark follow, killed at random moments,", function()
  local directory, log, writer, records, ids
  local last_of -- "shard-first seqno" of each batch to its last seqno

  before_each(function()
    math.randomseed(SEED)
    directory, records, last_of, ids = sandbox.tempdir(), {}, {}, {}
    for shard = 0, SHARDS - 1 do
      ids[shard + 1], records[shard] = shard, {}
    end
    log = directory .. "/log"
    writer = assert(Wal.open(log, { shards = ids, sync = false }))
  end)
  after_each(function()
    writer:close()
    sandbox.cleanup()
  end)

  -- Some batches of each shard, so that there is always something to do.
  local function grow()
    for _, shard in ipairs(ids) do
      for _ = 1, 2 do
        local batch = {}
        for i = 1, math.random(1, 5) do
          batch[i] = ("%d:%d:%d"):format(shard, #records[shard] + i, math.random(1000000))
        end
        local first, last = assert(writer:append(shard, batch))
        last_of[("%d-%d"):format(shard, first)] = last
        table.move(batch, 1, #batch, first, records[shard])
      end
    end
    assert(writer:sync())
  end

  -- How long it takes, in milliseconds, to start a follower and to apply what one `grow` gives.
  local function measure(...)
    local began = uv.hrtime()
    local result = command_line.run("follow", log, "--once", ...)
    assert.equal(0, result.code, result.err)
    return (uv.hrtime() - began) / 1e6
  end

  -- Kills it KILLS times, each time somewhere between its start and well after it has done what there is. `check()` looks at what is
  -- there after a kill and returns how many records are applied. Returns in how many runs something was applied.
  local function kill_often(check, ...)
    grow()
    local span, applied, moved = measure(...) * 1.2, check(), 0
    for _ = 1, KILLS do
      grow()
      local child = command_line.start("follow", log, ...)
      uv.sleep(math.random(0, math.floor(span)))
      assert.is_nil(child.exit_code)
      child:kill()
      child:wait_until(function()
        return child.exit_code
      end, "did not end", command_line.PATIENCE)
      assert.same({ 9, "" }, { child.signal, child.errors })
      local now = check()
      moved = moved + (now > applied and 1 or 0)
      applied = now
      child:wait()
    end
    measure(...)
    return moved
  end

  -- All that was appended, as "shard seqno record", in order.
  local function source()
    local list = {}
    for shard = 0, SHARDS - 1 do
      for seqno, record in ipairs(records[shard]) do
        list[#list + 1] = ("%d %d %s"):format(shard, seqno, record)
      end
    end
    return list
  end

  it("has each record in a database exactly once", has_sqlite and function()
    local db = directory .. "/db"
    local function rows(sql)
      local database, list = assert(sqlite.open(db, { readonly = true })), {}
      for text in assert(database:rows(sql)) do
        list[#list + 1] = text
      end
      database:close()
      return list
    end
    local function check()
      -- each shard has exactly the records up to its progress
      local sql = [[SELECT p.shard FROM tidemark_progress p
        WHERE p.applied <> (SELECT count(*) FROM records r WHERE r.shard = p.shard)
           OR p.applied <> (SELECT max(seqno) FROM records r WHERE r.shard = p.shard)]]
      assert.same({}, rows(sql))
      return rows("SELECT count(*) FROM records")[1]
    end
    local moved = kill_often(check, "--db", db)
    assert.same(source(), rows "SELECT shard || ' ' || seqno || ' ' || record FROM records ORDER BY shard, seqno")
    print(("\n%d kills with --db, something applied before %d of them; seed %d"):format(KILLS, moved, SEED))
    assert(moved > KILLS / 10 and moved < KILLS, "the kills came at the wrong moments")
  end or function()
    pending "tidemark.sqlite is not built, libsqlite3 is missing"
  end)

  it("gives a command each record, again only what was running", function()
    local sink, state = directory .. "/sink", directory .. "/state"
    assert(uv.fs_mkdir(sink, 448))

    local checked = {} -- by shard: the last record whose batch is known to be there
    -- Every batch of the shard up to `seqno` is there, whole.
    local function check_sink(shard, seqno)
      local at = checked[shard] or 0
      while at < seqno do
        local last = last_of[("%d-%d"):format(shard, at + 1)]
        local text = command_line.read(("%s/%d-%d-%d"):format(sink, shard, at + 1, last))
        assert(text, ("shard %d has mark %d, but the command never had %d..%d"):format(shard, seqno, at + 1, last))
        assert.equal(table.concat(records[shard], "\n", at + 1, last) .. "\n", text)
        at = last
      end
      assert.equal(at, seqno, "a mark stands inside a batch")
      checked[shard] = at
    end

    local function check()
      local open = assert(ReplicationState.open(state, nil, { readonly = true }))
      local marks, sum = open:snapshot(), 0
      open:close()
      for shard, mark in pairs(marks) do
        check_sink(shard, mark)
        sum = sum + mark
      end
      return sum
    end
    local command = ("cd '%s'\n%s"):format(sink, SINK)
    local moved = kill_often(check, "--state", state, "--exec", command)
    for shard = 0, SHARDS - 1 do
      check_sink(shard, #records[shard])
    end
    local runs, batches = 0, 0
    for name in command_line.read(sink .. "/runs"):gmatch "[^\n]+" do
      local start, last = name:match "^(%d+%-%d+)%-(%d+)$"
      assert.equal(last_of[start], tonumber(last))
      runs = runs + 1
    end
    for _ in pairs(last_of) do
      batches = batches + 1
    end
    print(("\n%d kills with --exec, something applied before %d of them, %d batches came again; seed %d"):format(
      KILLS, moved, runs - batches, SEED))
    assert(runs - batches <= KILLS, "more came again than what was running")
    assert(moved > KILLS / 10 and moved < KILLS, "the kills came at the wrong moments")
  end)
end)
