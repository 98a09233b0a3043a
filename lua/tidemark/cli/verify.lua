--- tidemark verify: reads a whole log.

local Wal = require "tidemark.wal"
local terminal = require "tidemark.cli.terminal"

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  local report, message, code = Wal.verify(options.dir)
  if not report then
    return 1, message, code
  end
  local count = terminal.thousands
  local text = ("%s records in %s batches, %s segments and %s shards: %s bytes, all whole\n"):format(
    count(report.records), count(report.batches), count(report.segments), count(report.shards), count(report.bytes))
  if report.unknown > 0 then
    text = text .. count(report.unknown) .. " bytes behind the last whole batches: being written, or left by a writer that was cut off\n"
  end
  local _, unwritten = terminal.write(text)
  return unwritten and 1 or 0, unwritten
end
