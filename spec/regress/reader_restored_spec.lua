--- The files of a log were restored in place, under a reader that had opened a segment or found a batch in it before. It then gave what the
--- earlier writer had written and never acknowledged, or said CORRUPT of a healthy log for ever.

local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

-- Appends `count` records without a sync, after `synced` with one, and is killed.
local WRITER = [[
  local directory, synced, count = ...
  local wal = assert(require "tidemark.wal".open(directory, { shards = { 0 }, sync = false }))
  for i = 1, synced + count do
    assert(wal:append(0, { ("lost %d"):format(i) }))
    if i == tonumber(synced) then
      assert(wal:sync())
    end
  end
  print "written"
  io.read()
]]

describe("a reader whose log is restored in place", function()
  local directory

  local function write(options, ...)
    local wal = assert(Wal.open(directory, options))
    for _, record in ipairs { ... } do
      assert(wal:append(0, { record }))
    end
    assert(wal:close())
  end

  local function lose(synced, count)
    local child = sandbox.start(WRITER, directory, synced, count)
    assert.equal("written", child:read_line())
    child:kill()
    child:wait()
  end

  local function restore()
    assert(shell.run(("cd '%s' && rm -f *.wal heads.live && cp -r '%s.copy/.' ."):format(directory, directory)))
  end

  local function given(reader)
    local batch, message = reader:next(60)
    return assert(batch, message):record(1)
  end

  before_each(function()
    directory = log.new()
    write({ shards = { 0 } }, "one")
    assert(shell.run(("cp -r '%s' '%s.copy' && rm '%s.copy/heads.live'"):format(directory, directory, directory)))
  end)
  after_each(log.close)
  teardown(sandbox.cleanup)

  it("opens again the segment from which it has read nothing", function()
    lose(0, 3)
    local reader = log.keep(assert(Wal.reader(directory, 0, 1)))
    log.assert_failure("TIMEOUT", "after seqno 1", reader:next(0))
    restore()
    local wal = log.keep(assert(Wal.open(directory)))
    log.assert_failure("TIMEOUT", "after seqno 1", reader:next(0.3)) -- it has looked, before there is a new segment
    for _, record in ipairs { "two", "three" } do
      assert(wal:append(0, { record }))
      assert.equal(record, given(reader))
    end
  end)

  it("reads nothing more where the log no longer has the record that it read last", function()
    lose(2, 3)
    local reader = log.keep(assert(Wal.reader(directory, 0, 1)))
    assert.equal("lost 1", given(reader))
    assert.equal("lost 2", given(reader))
    restore()
    write({ segment_bytes = 200 }, "two", "three", "four", "five", "six", "seven")
    assert(assert(Wal.prune(directory, 0, 6)) > 0)
    local first = tonumber(log.segments()[1]:match "%-(%d+)")
    assert(first > 4)
    log.assert_failure("PRUNED", ("seqno 3 .* begins with %d"):format(first), reader:next(0.3))
    log.assert_failure("PRUNED", ("seqno 3 .* begins with %d"):format(first), reader:next(0.3))
  end)

  it("goes on where the restored log has fewer records than it has read, once they are there and the same", function()
    write({}, "two")
    lose(1, 2) -- the segment from 3 on
    local reader = log.keep(assert(Wal.reader(directory, 0, 0)))
    for _, record in ipairs { "one", "two", "lost 1" } do
      assert.equal(record, given(reader))
    end
    restore()
    local wal = log.keep(assert(Wal.open(directory)))
    assert(wal:append(0, { "another two" }))
    log.assert_failure("TIMEOUT", "after seqno 3", reader:next(0.3))
    assert(wal:append(0, { "another three" }))
    log.assert_failure("REPLACED", "open a new reader", reader:next(60))
  end)

  it("says which record is missing where a segment before its own is read again", function()
    directory = log.new()
    write({ shards = { 0 }, segment_bytes = 100 }, "one", "two", "three") -- a segment each
    local reader = log.keep(assert(Wal.reader(directory, 0, 0)))
    assert.equal("one", given(reader))
    assert(os.remove(directory .. "/heads.live"))
    local heads = log.bytes_of "heads"
    log.write("heads", "")
    log.assert_failure("CORRUPT", "too short", reader:next(0.3)) -- it has opened the segment of record 2
    log.write("heads", heads)
    assert(os.remove(directory .. "/" .. log.segment_name(0, 2)))
    write({}) -- another writer
    log.assert_failure("CORRUPT", "seqno 2 is durable but is not here", reader:next(0.3))
  end)

  for name, record in pairs { ["of the same size"] = "the two", ["of another size"] = ("two"):rep(50) } do
    it("drops the batch that it had found while the heads were copied, with a new one " .. name, function()
      write({}, "lost 2!")
      local reader = log.keep(assert(Wal.reader(directory, 0, 0)))
      assert.equal("one", given(reader))
      assert(os.remove(directory .. "/heads.live"))
      log.write("heads", "")
      log.assert_failure("CORRUPT", "too short", reader:next(0.3))
      restore()
      local wal = log.keep(assert(Wal.open(directory)))
      log.assert_failure("TIMEOUT", "after seqno 1", reader:next(0.3))
      assert(wal:append(0, { record }))
      assert.equal(record, given(reader))
    end)
  end
end)
