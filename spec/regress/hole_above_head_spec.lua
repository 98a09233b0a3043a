--- A copy of a log was put over the log, whose directory was not emptied, to bring back a lost segment that the copy did not have, either.
--- The next writer found whole batches above the head of the copy and made them durable, without a look at what comes before them: the new
--- head claimed records that are not there, and records were appended after the hole.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

describe("a log with a hole above its head", function()
  teardown(sandbox.cleanup)

  it("is refused by a writer, and stays as it is", function()
    local log = sandbox.tempdir() .. "/log"
    local function append(record)
      return command_line.run_with(record .. "\n", "append", log)
    end
    for seqno = 1, 4 do
      command_line.expect(0, append("r" .. seqno))
      if seqno == 1 then
        assert(shell.run(("cp -r '%s' '%s.copy'"):format(log, log)))
      end
    end
    assert(os.remove(log .. "/00000-00000000000000000002.wal"))
    assert(shell.run(("cp -r '%s.copy/.' '%s'"):format(log, log)))
    assert.equal(1, assert(Wal.heads(log)):applied_seqno(0))
    local result = append "new"
    assert.equal(1, result.code, result.err)
    assert.truthy(result.err:find("%(CORRUPT%)") or result.err:find("%(LOST%)"), result.err)
    assert.equal(1, assert(Wal.heads(log)):applied_seqno(0))
    assert.is_false(shell.exists(log .. "/00000-00000000000000000005.wal"))
  end)
end)
