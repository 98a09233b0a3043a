--- verify: what it counts, and that it finds whatever is wrong.

local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"

local open, segments, bytes_of = log.open, log.segments, log.bytes_of
local write, flip, segment_name = log.write, log.flip, log.segment_name
local assert_failure, start, tell = log.assert_failure, log.start, log.tell

local directory

before_each(function()
  directory = log.new()
end)

after_each(log.close)

teardown(sandbox.cleanup)

describe("verify", function()
  before_each(function()
    local wal = assert(open { shards = { 0, 1, 2 }, segment_bytes = 150 })
    for i = 1, 5 do -- batches of 70 bytes, two a segment
      wal:append(0, { "r" .. i })
    end
    wal:append(1, { "one", "two" })
    wal:close()
  end)

  it("counts what it has read", function()
    assert.same({ shards = 3, segments = 4, batches = 6, records = 7, bytes = 5 * 70 + 78, unknown = 0 },
      assert(Wal.verify(directory)))
  end)

  it("reads an open log, and passes over what is not yet durable", function()
    local wal = assert(open { sync = false })
    wal:append(0, { "r6" })
    local report = assert(Wal.verify(directory))
    assert.equal(5, report.segments)
    wal:sync()
    assert.equal(8, assert(Wal.verify(directory)).records)
  end)

  it("names file and offset of every byte that is flipped", function()
    for _, name in ipairs(segments()) do
      local size = #bytes_of(name)
      local length = name:find "^00001" and 78 or 70
      for offset = 0, size - 1 do
        flip(name, offset)
        local report, message, code = Wal.verify(directory)
        assert.is_nil(report)
        assert.equal("CORRUPT", code, message)
        local where = ("%s/%s: offset %d: "):format(directory, name, offset // length * length)
        assert(message:sub(1, #where) == where, message)
        flip(name, offset)
      end
    end
    assert(Wal.verify(directory))
  end)

  it("finds what is cut off, missing or too much", function()
    local name = segment_name(0, 1)
    local whole = bytes_of(name)
    write(name, whole:sub(1, 139))
    assert_failure("CORRUPT", "offset 70: .*cut off", Wal.verify(directory))
    write(name, whole:sub(1, 70))
    assert_failure("CORRUPT", "offset 70: .*ends at seqno 1, the next one begins with 3", Wal.verify(directory))
    write(name, whole .. "x") -- what a writer that was cut off may leave
    assert.equal(1, assert(Wal.verify(directory)).unknown)
    write(name, whole)
    os.rename(directory .. "/" .. segment_name(0, 3), directory .. "/aside")
    assert_failure("CORRUPT", "ends at seqno 2, the next one begins with 5", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(0, 3))
    os.rename(directory .. "/" .. segment_name(0, 5), directory .. "/aside")
    assert_failure("LOST", "the log ends at seqno 4, but 5 had been durable", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(0, 5))
    os.rename(directory .. "/" .. segment_name(1, 1), directory .. "/aside")
    assert_failure("LOST", "shard 1: there is no segment, but seqno 2 had been durable", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(2, 1))
    assert_failure("FOREIGN", "offset 0: a batch of shard 1, not 2", (function(...)
      os.execute(("cp '%s/%s' '%s/%s'"):format(directory, segment_name(2, 1), directory, segment_name(1, 1)))
      return Wal.verify(...)
    end)(directory))
  end)

  it("wants a directory", function()
    for _, wrong in ipairs { {}, "", "a\0b", false } do
      assert.error_matches(function()
        Wal.verify(wrong)
      end, "bad argument #1 to '[%a.]*verify'")
    end
  end)

  it("finds nothing wrong beside a writer that is busy", function()
    local child = start "{sync = false, segment_bytes = 3000000}"
    tell(child, [[(function()
      local records = {}
      for i = 1, 1000 do records[i] = ("x"):rep(i) end
      for i = 1, 200 do
        assert(wal:append(0, records))
        if i % 3 == 0 then assert(wal:sync()) end
      end
      return "done"
    end)()]])
    local deadline = os.time() + 60
    local rounds = 0
    repeat
      local report, message = Wal.verify(directory)
      assert(report, message)
      rounds = rounds + 1
    until report.records >= 100007 or os.time() > deadline
    assert.equal("done", child:read_line())
    child:wait()
    assert(rounds > 1)
    assert.equal(200007, assert(Wal.verify(directory)).records)
  end)
end)
