--- A log whose first writer was killed, or is still at work, between making the heads and naming the log in them.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

local directory

-- Shards are added to the heads a part at a time, before the note.
local function make_half(shards)
  directory = log.new()
  assert(shell.run(("mkdir '%s'"):format(directory)))
  assert(ReplicationState.open(directory .. "/heads", shards)):close()
end

local function tidemark(arguments)
  local interpreter = os.getenv "TIDEMARK_LUA" or _VERSION:lower():gsub(" ", "")
  return shell.run(("printf 'a\\nb\\n' | %s bin/tidemark %s"):format(interpreter, arguments:gsub("LOG", directory)))
end

after_each(log.close)

teardown(sandbox.cleanup)

for _, shards in ipairs { {}, { 0, 1 } } do
  describe(("a log that was half made, with %d of 4 shards"):format(#shards), function()
    before_each(function()
      make_half(shards)
    end)

    it("is no source for a follower until it is made", function()
      log.assert_failure("NOT_FOUND", "there is no log in it yet", Wal.source(directory))
      assert(log.open { shards = { 0, 1, 2, 3 } })
      assert.same({ 0, 1, 2, 3 }, log.keep(assert(Wal.source(directory))):shards())
    end)

    it("is made to its end by the same command", function()
      local ok, output = tidemark "append LOG --shards 4"
      assert(ok, output)
      assert.truthy(output:find("2 records appended", 1, true), output)
      assert.same({ 0, 1, 2, 3 }, log.keep(assert(Wal.source(directory))):shards())
      ok, output = tidemark "append LOG"
      assert(ok, output)
    end)

    it("is told by follow", function()
      local ok, output = tidemark "follow LOG --state LOG.marks --print --once"
      assert.is_false(ok)
      local why = "there is no log in it yet: its writer is just making it, or was cut off: try again, or open it for writing (NOT_FOUND)"
      assert.truthy(output:find(("tidemark: %s: %s: type "):format(directory, why), 1, true), output)
    end)
  end)
end

describe("a log that was half made with more shards than are now asked for", function()
  it("has all of them, and a key stays in its shard", function()
    make_half { 0, 1, 2, 3 }
    assert(tidemark "append LOG --shards 2")
    assert(tidemark "append LOG")
    local records = {}
    for shard = 0, 3 do
      records[#records + 1] = table.concat((log.drain(assert(log.read(shard)))), " ")
    end
    table.sort(records)
    assert.same({ "", "", "1=a 2=a", "1=b 2=b" }, records)
  end)
end)
