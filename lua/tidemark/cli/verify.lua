--- tidemark verify: reads a whole log.

local Wal = require "tidemark.wal"
local terminal = require "tidemark.cli.terminal"

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  local report, message, code = Wal.verify(options.dir)
  if not report then
    return 1, ("%s (%s)"):format(message, code)
  end
  local count = terminal.thousands
  print(("%s records in %s batches, %s segments and %s shards: %s bytes, all whole"):format(
    count(report.records), count(report.batches), count(report.segments), count(report.shards), count(report.bytes)))
  if report.unknown > 0 then
    print(count(report.unknown) .. " bytes behind the last whole batches: being written, or left by a writer that was cut off")
  end
  return 0
end
