--- A random walk over the log against a model in plain Lua: appends, syncs, kills of the writer, reopenings, prunes, reads. The seed is
--- printed on failure; TIDEMARK_SEED sets it.

local Wal = require "tidemark.wal"
local sandbox = require "spec.support.sandbox"

local STEPS = 10000
local KILL_EVERY = 150 -- steps, about
local SHARDS = { 0, 3, 65535 }
local SEGMENT_BYTES = 10000

-- The writer. It does what each line says and answers with what it then knows: the last seqno of an append, or "synced". The bytes
-- of record n are made of its shard, number and the life of its writer, so that both sides know them.
local WRITER = [[
  local directory, life, segment_bytes = ...
  local Wal = require "tidemark.wal"
  local wal = assert(Wal.open(directory, {shards = {0, 3, 65535}, sync = false, segment_bytes = tonumber(segment_bytes)}))
  local heads, last = {}, {}
  for _, shard in ipairs {0, 3, 65535} do
    heads[#heads + 1] = wal:head(shard)
    last[shard] = wal:head(shard)
  end
  io.stdout:setvbuf "line"
  print(wal:epoch(), table.concat(heads, "\t"))
  for line in io.lines() do
    local shard, count, size = line:match "^append (%d+) (%d+) (%d+)$"
    if shard then
      shard = tonumber(shard)
      local records = {}
      for i = 1, tonumber(count) do
        records[i] = ("%d/%d/%s"):format(shard, last[shard] + i, life) .. ("."):rep(tonumber(size))
      end
      local first, now = assert(wal:append(shard, records))
      assert(first == last[shard] + 1)
      last[shard] = now
      print(now)
    elseif line == "sync" then
      assert(wal:sync())
      print "synced"
    else
      assert(wal:close())
      print "closed"
      return
    end
  end
]]

local seed = tonumber(os.getenv "TIDEMARK_SEED") or os.time()

describe("the log and its model", function()
  teardown(sandbox.cleanup)

  it("agree over " .. STEPS .. " random steps", function()
    math.randomseed(seed)
    local directory = sandbox.tempdir() .. "/log"
    -- per shard: records[n] = its text, written by this or an earlier writer; durable: the highest seqno that was told to be so;
    -- first: the first one that must still be there
    local model, child, epoch, life = {}, nil, 0, 0
    for _, shard in ipairs(SHARDS) do
      model[shard] = { records = {}, last = 0, durable = 0, first = 1 }
    end

    local function open()
      life = life + 1
      child = sandbox.start(WRITER, directory, life, SEGMENT_BYTES)
      local line = child:read_line()
      local numbers = {}
      for number in line:gmatch "%d+" do
        numbers[#numbers + 1] = math.tointeger(tonumber(number))
      end
      assert(numbers[1] > epoch, line)
      epoch = numbers[1]
      for i, shard in ipairs(SHARDS) do
        local at, head = model[shard], numbers[i + 1]
        assert(head >= at.durable, ("shard %d: lost, %d of %d"):format(shard, head, at.durable))
        assert(head <= at.last, ("shard %d: %d was never written, only %d"):format(shard, head, at.last))
        for seqno = head + 1, at.last do
          at.records[seqno] = nil
        end
        at.last, at.durable = head, head
      end
    end

    local function append(shard)
      local at, count, size = model[shard], math.random(1, 5), math.random(0, 300)
      for i = 1, count do
        at.records[at.last + i] = ("%d/%d/%d"):format(shard, at.last + i, life) .. ("."):rep(size)
      end
      at.last = at.last + count
      assert(child:write(("append %d %d %d"):format(shard, count, size)))
    end

    local function sync()
      assert(child:write "sync")
      assert.equal("synced", child:read_line())
      for _, at in pairs(model) do
        at.durable = at.last
      end
    end

    -- Everything from `after_seqno` on, as far as it is durable now.
    local function read(shard, after_seqno)
      local at = model[shard]
      local reader, message, code = Wal.reader(directory, shard, after_seqno)
      if not reader then
        assert(code == "PRUNED" and after_seqno + 1 < at.first, message)
        return
      end
      local expected = nil
      while true do
        local batch
        batch, message, code = reader:next(0)
        if not batch then
          assert(code == "TIMEOUT", message)
          break
        end
        assert(batch.first_seqno == (expected or batch.first_seqno), tostring(batch))
        assert(batch.first_seqno <= after_seqno + 1 or expected, tostring(batch))
        for seqno, record in batch:records() do
          assert(at.records[seqno] == record, ("shard %d seqno %d: %q, not %q"):format(shard, seqno, record, at.records[seqno]))
        end
        expected = batch.last_seqno + 1
      end
      local seen = expected and expected - 1 or after_seqno
      assert(seen >= at.durable or after_seqno > at.durable, ("shard %d: read up to %d of %d"):format(shard, seen, at.durable))
      assert(reader:head() <= at.last)
      reader:close()
    end

    local function prune(shard)
      local at = model[shard]
      local upto = math.random(0, at.durable)
      local removed = assert(Wal.prune(directory, shard, upto))
      if removed > 0 then
        at.first = nil -- found below: the first one that is left
        local pipe = io.popen(("ls '%s'"):format(directory))
        for name in pipe:lines() do
          if name:find(("^%05d%%-"):format(shard)) then
            at.first = math.tointeger(tonumber(name:match "^%d+%-(%d+)"))
            break
          end
        end
        pipe:close()
        assert(at.first <= upto + 1, "too much was removed")
      end
    end

    local function verify()
      local report = assert(Wal.verify(directory))
      local least = 0
      for _, at in pairs(model) do
        least = least + at.durable - at.first + 1
      end
      assert(report.records >= least, ("%d records, at least %d"):format(report.records, least))
    end

    local waiting = 0 -- answers to appends that were not yet read
    local function settle()
      for _ = 1, waiting do
        assert(child:read_line())
      end
      waiting = 0
    end

    local counts = {}
    local function walk()
      local dice = math.random()
      local shard = SHARDS[math.random(#SHARDS)]
      local what
      if dice < 1 / KILL_EVERY then
        what = "kill" -- in the middle of the appends that it was sent, if there are any
        child:kill()
        child:wait()
        waiting = 0
        open()
      elseif dice < 1.3 / KILL_EVERY then
        what = "close"
        settle()
        assert(child:write "close")
        assert.equal("closed", child:read_line())
        assert(child:wait())
        for _, at in pairs(model) do
          at.durable = at.last
        end
        open()
      elseif dice < 0.05 then
        what = "sync"
        settle()
        sync()
      elseif dice < 0.12 then
        what = "read"
        local at = model[shard]
        read(shard, math.random(math.max(0, at.first - 3), math.max(0, at.last)))
      elseif dice < 0.125 then
        what = "read all"
        read(shard, model[shard].first - 1)
      elseif dice < 0.135 then
        what = "prune"
        prune(shard)
      elseif dice < 0.14 then
        what = "verify"
        verify()
      else
        what = "append"
        append(shard)
        waiting = waiting + 1
        if waiting > 20 then
          settle()
        end
      end
      counts[what] = (counts[what] or 0) + 1
    end

    open()
    for step = 1, STEPS do
      local ok, message = xpcall(walk, debug.traceback)
      assert(ok, ("TIDEMARK_SEED=%d step %d: %s"):format(seed, step, message))
    end
    settle()
    sync()
    for _, shard in ipairs(SHARDS) do
      read(shard, model[shard].first - 1)
      assert.equal(model[shard].last, Wal.heads(directory):applied_seqno(shard))
    end
    verify()
    child:kill()
    child:wait()
    for _, what in ipairs { "kill", "close", "sync", "read", "read all", "prune", "verify", "append" } do
      assert(counts[what] and counts[what] > 5, what .. " hardly ever came")
    end
  end)
end)
