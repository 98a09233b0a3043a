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
  local amount = terminal.amount
  local text = ("%s in %s, %s and %s: %s, all whole\n"):format(amount(report.records, "record"),
    amount(report.batches, "batch", "batches"), amount(report.segments, "segment"), amount(report.shards, "shard"),
    amount(report.bytes, "byte"))
  if report.unknown > 0 then
    text = text .. amount(report.unknown, "byte") .. " behind the last whole batches: being written, or left by a writer that was cut off\n"
  end
  local _, unwritten = terminal.write(text)
  return unwritten and 1 or 0, unwritten
end
