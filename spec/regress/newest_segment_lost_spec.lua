--- A log had lost its newest segment, and nobody had opened it for writing since. A follower of the lost records was told that they are
--- of another history (DIVERGED), with the command that deletes them: it has the only copy. Where the lost segment was of the same epoch
--- as the one before it, status said that all was well. The epoch of a record that is not there was taken from the last segment that is.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local has_sqlite = pcall(require, "tidemark.sqlite")

local run, expect = command_line.run, command_line.expect

-- Ways to write records 1 to 4 into two segments.
local WRITERS = {
  { "of another epoch", function(log)
    for first = 1, 3, 2 do
      local wal = assert(Wal.open(log, { shards = { 0 } }))
      assert(wal:append(0, { "r" .. first, "r" .. first + 1 }))
      assert(wal:close())
    end
  end },
  { "of the same epoch", function(log)
    local wal = assert(Wal.open(log, { shards = { 0 }, segment_bytes = 150 }))
    for seqno = 1, 4 do
      assert(wal:append(0, { "r" .. seqno }))
    end
    assert(wal:close())
  end },
}

for _, writer in ipairs(WRITERS) do
  describe("a log that has lost its newest segment, " .. writer[1], function()
    local directory, log

    before_each(function()
      directory = sandbox.tempdir()
      log = directory .. "/log"
      writer[2](log)
    end)

    teardown(sandbox.cleanup)

    local function targets()
      local list = { { directory .. "/state", "--state", "--print" } }
      list[2] = has_sqlite and { directory .. "/db", "--db" } or nil
      return list
    end

    local function follow(target)
      return run("follow", log, target[2], target[1], "--once", target[3])
    end

    it("is not another history for a follower of the lost records", function()
      for _, target in ipairs(targets()) do
        expect(0, follow(target))
      end
      assert(os.remove(log .. "/00000-00000000000000000003.wal"))
      for _, target in ipairs(targets()) do
        local result = run("status", target[1], "--log", log)
        assert.not_equal(0, result.code, result.out)
        assert.is_nil(result.err:find("DIVERGED", 1, true), result.err)
        result = follow(target)
        assert.not_equal(0, result.code, result.out)
        assert.is_nil(result.err:find("DIVERGED", 1, true), result.err)
        assert.is_nil(result.err:find("DELETE", 1, true), result.err)
      end
    end)

    it("does not know the epoch of a lost record", function()
      assert(os.remove(log .. "/00000-00000000000000000003.wal"))
      local source = assert(Wal.source(log))
      assert.is_nil((source:epoch(0, 4)))
      assert.is_nil((source:epoch(0, 3)))
      assert.truthy(source:epoch(0, 2))
      source:close()
    end)
  end)
end
