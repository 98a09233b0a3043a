--- A whole batch of another version after a torn one was cut from its segment: it was no evidence, so the torn one ended the log.

local crc32c = require "spec.support.crc32c"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"
local Wal = require "tidemark.wal"

describe("a batch of another version after a torn one", function()
  after_each(log.close)
  teardown(sandbox.cleanup)

  it("is UNSUPPORTED, and nothing is cut", function()
    local directory = log.new()
    local child = log.start "{shards = {0}, sync = false}"
    log.ask(child, "wal:append(0, {'one'})")
    log.ask(child, "wal:append(0, {'two'})")
    log.kill(child)
    os.remove(directory .. "/heads.live")
    local name, size = log.segment_name(0, 1), 64 + 4 + 3
    local bytes = log.bytes_of(name)
    local header = bytes:sub(size + 1, size + 4) .. "\4" .. bytes:sub(size + 6, size + 60)
    local changed = bytes:sub(1, size - 1) .. "X" .. header .. ("<I4"):pack(crc32c(header)) .. bytes:sub(size + 65)
    log.write(name, changed)
    for _, open in ipairs { log.open, function() return Wal.verify(directory) end } do
      local result, message, code = open()
      log.assert_failure("UNSUPPORTED", log.plain(name) .. ": offset 71: batch: version 4, this tidemark reads version 3", result, message,
        code)
    end
    assert.equal(changed, log.bytes_of(name))
    log.write(name, bytes:sub(1, size - 1) .. "X" .. bytes:sub(size + 1)) -- of this version it is no evidence, and the tail is kept
    assert.equal(0, assert(log.open()):head(0))
    assert.equal(1, #log.lines(("ls '%s' | grep -F .cut-"):format(directory)))
  end)
end)
